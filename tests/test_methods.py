"""The registry knows every method and metric there is, its page is up to date, and others can add estimators."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lungvq import methods
from lungvq.cli import app
from lungvq.errors import GeometryError, UsageError
from lungvq.match import carry_map
from lungvq.methods import ESTIMATORS, METHODS, METRICS, Method, installed, load_estimator
from lungvq.result import MAPS
from lungvq.volume import Volume

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == methods.page(), (
        "run: python -m lungvq.methods > docs/methods.md"
    )


def test_every_map_has_its_method_in_the_registry():
    assert {spec.method for spec in MAPS.values()} <= set(METHODS)


def test_ids_carry_a_version_and_nothing_is_left_blank():
    for method in METHODS.values():
        name, _, version = method.id.partition("@")
        assert name.replace("_", "").isalnum()
        assert int(version) >= 1
        assert all((method.measures, method.unit, method.source, method.limits))


def test_the_command_lists_all_in_words_and_for_machines():
    words = CliRunner().invoke(app, ["methods"])
    assert words.exit_code == 0
    assert all(name in words.output for name in METHODS)
    plain = json.loads(CliRunner().invoke(app, ["methods", "--json"]).output)
    assert [m["id"] for m in plain["methods"]] == list(METHODS)
    assert [m["name"] for m in plain["metrics"]] == list(METRICS)
    assert plain["installed"] == []


class Slab:
    """An estimator of somebody else."""

    quantity = "ventilation"
    method = Method("slab@3", "map", "the same everywhere", "1", "a test", "not for use")

    def __call__(self, pair):
        return pair.lungs.like(np.ones(pair.lungs.shape, np.float32))


slab = Slab()
no_quantity = Slab()
no_quantity.quantity = "motion"
not_callable = Slab.method


@pytest.fixture
def others(monkeypatch):
    """Entry points of packages that are not there."""

    def add(**values):
        points = [EntryPoint(name, value, ESTIMATORS) for name, value in values.items()]
        monkeypatch.setattr(methods, "entry_points", lambda *, group: points if group == ESTIMATORS else [])

    module = type(methods)("somebody_else")
    for name in ("slab", "no_quantity", "not_callable"):
        setattr(module, name, globals()[name])
    monkeypatch.setitem(__import__("sys").modules, "somebody_else", module)
    return add


def test_an_estimator_of_another_package_is_found_by_its_entry_point(others):
    others(ventilation_slab="somebody_else:slab")
    assert load_estimator("ventilation_slab") is slab
    (found,) = installed()
    assert (found.name, found.quantity, found.method) == ("ventilation_slab", "ventilation", Slab.method)
    assert "ventilation_slab" in CliRunner().invoke(app, ["methods"]).output


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("broken", "not_there:at_all", "cannot be loaded"),
        ("broken", "somebody_else:no_quantity", "needs a method"),
        ("broken", "somebody_else:not_callable", "needs a method"),
        ("../x", "somebody_else:slab", "no plain word"),
    ],
)
def test_what_is_not_an_estimator_is_listed_with_the_reason(others, name, value, says):
    others(**{name: value})
    (found,) = installed()
    assert found.method is None
    assert says in found.error
    with pytest.raises(UsageError, match=says):
        load_estimator(name)


def test_an_estimator_that_is_not_there_is_a_users_mistake(tmp_path):
    with pytest.raises(UsageError, match="no estimator is called 'nope'; installed: none"):
        load_estimator("nope")


def test_the_map_of_another_package_is_carried_lung_by_lung_and_stays_undefined_where_it_was():
    lungs = Volume(np.zeros((6, 8, 12), np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
    lungs.array[1:5, 1:7, 1:6], lungs.array[1:5, 1:7, 6:11] = 2, 1
    values = np.where(lungs.array == 1, 5.0, 1.0).astype(np.float32)
    values[2, 3, 3] = np.nan
    carried = carry_map(lungs.like(values), lungs, lungs).array
    expected = np.where(lungs.array > 0, values, np.nan)
    np.testing.assert_allclose(carried, expected)  # no blur between the lungs, nothing outside
    finer = lungs.grid.with_spacing((1.0, 1.0, 1.0))
    fine = carry_map(lungs.like(values), lungs, lungs.resample_labels(finer)).array
    assert set(np.unique(fine[np.isfinite(fine)])) == {1.0, 5.0}
    assert np.isnan(fine[4:6, 6:8, 6:8]).all()
    with pytest.raises(GeometryError, match="grid of pair"):
        carry_map(Volume(values[1:], lungs.affine), lungs, lungs)
