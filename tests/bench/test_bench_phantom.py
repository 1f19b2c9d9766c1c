"""The bench of the phantom finds what is so, and what was put wrong on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lungvq.bench import facts as bench
from lungvq.bench.facts import PUBLISHED, SOURCES, facts
from lungvq.bench.phantom import balance, bench_phantom, crossings, derivatives, wedges
from lungvq.errors import UsageError
from lungvq.phantom import make_phantom
from lungvq.phantom.subject import SAMPLE_MM, Samples


@pytest.fixture(scope="module")
def phantom():
    return make_phantom("pe", seed=0, spacing=(5.0, 4.5, 4.0))


@pytest.fixture(scope="module")
def found(phantom):
    return facts(phantom.subject)


def box(jacobian):
    """Samples that fill 120 mm cubed, each of one lobe."""
    axis = np.arange(0, 120, SAMPLE_MM) + SAMPLE_MM / 2
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    label = np.where(points[:, 2] > 60, 1, 2).astype(np.uint8)
    depth = -np.minimum(points, 120 - points).min(axis=1)
    return Samples(points, label, depth, np.abs(points[:, 2] - 60), jacobian(points))


def test_every_published_fact_is_measured_and_no_other(found):
    assert set(found) == {fact.name for fact in PUBLISHED}
    assert all(np.isfinite(value) for value in found.values())
    assert {fact.source for fact in PUBLISHED} == set(SOURCES)
    assert all(fact.low < fact.high for fact in PUBLISHED)


def test_facts_from_points_agree_with_voxels(phantom, found):
    s = phantom.truth.scalars
    assert found["lung volume, expiration, L"] == pytest.approx(s["volume_exp_ml"] / 1000, rel=0.02)
    assert found["lung volume, inspiration, L"] == pytest.approx(s["volume_insp_ml"] / 1000, rel=0.02)
    assert found["tissue and blood with vessels, g"] == pytest.approx(s["mass_exp_g"], rel=0.02)
    change = 100 * s["mass_gained_g"] / s["mass_exp_g"]
    assert found["mass change on inspiration, %"] == pytest.approx(change, rel=0.05)
    exp, insp = phantom.truth.landmarks[:, 0], phantom.truth.landmarks[:, 1]
    mean = np.linalg.norm(insp - exp, axis=1).mean()
    assert found["landmarks: mean displacement, mm"] == pytest.approx(mean, rel=0.1)


def test_volumes_of_a_box_that_doubles_above():
    found = bench._volumes(box(lambda p: np.where(p[:, 2] > 60, 2.0, 1.0)))
    assert found["lung volume, expiration, L"] == pytest.approx(1.728)
    assert found["lung volume, inspiration, L"] == pytest.approx(1.728 * 1.5)
    assert found["LUL, % of volume, inspiration"] == pytest.approx(200 / 3)
    assert found["J, lower lobes over the others"] == pytest.approx(0.5)


def test_a_cube_of_a_millilitre_holds_the_mean():
    samples = box(lambda p: np.ones(len(p)))
    x, one = bench._cells(samples, samples.points[:, 0], np.ones(len(samples.points)))
    assert len(x) == 12**3
    assert np.all(one == 1)
    assert np.ptp(x) == pytest.approx(110, abs=4)
    assert x.mean() == pytest.approx(60, abs=2)  # 2 or 3 points on a side


def test_the_base_is_the_lowest_point_of_each_column():
    samples = box(lambda p: np.ones(len(p)))
    base, value = bench._base(samples.points, samples.points[:, 2])
    assert len(base) == 30**2
    assert np.all(value == 2.0)
    shallow = samples.points[samples.points[:, 2] < 50]
    assert len(bench._base(shallow, shallow[:, 2])[0]) == 0


def test_balances_hold_and_a_lost_percent_shows(phantom):
    assert max(map(abs, balance(phantom))) < 0.1
    s = phantom.truth.scalars
    heavier = replace(phantom.truth, scalars={**s, "mass_insp_g": s["mass_insp_g"] + 0.01 * s["mass_exp_g"]})
    off = balance(replace(phantom, truth=heavier))
    assert off[0] == balance(phantom)[0]
    assert off[1] == pytest.approx(balance(phantom)[1] + 1)
    assert off[2] < balance(phantom)[2]


def test_closed_form_against_differences(phantom):
    jacobian, inverse = derivatives(phantom.subject)
    assert jacobian < 1e-6
    assert inverse < 1e-2


def test_branches_of_another_lobe_are_counted(phantom):
    subject = phantom.subject
    wrong, total = crossings(subject)
    assert wrong < 1e-4 * total
    arteries = subject.trees.arteries
    moved = replace(arteries, lobe=np.where(arteries.lobe == 1, 2, arteries.lobe))
    assert crossings(replace(subject, trees=subject.trees._replace(arteries=moved)))[0] > 0.02 * total


def test_wedges_are_territories_and_a_wrong_voxel_is_found(phantom):
    ill, wrong = wedges(phantom)
    assert ill > 100
    assert wrong == 0
    disease = phantom.truth.disease.array.copy()
    disease[tuple(np.argwhere(disease == 3)[:7].T)] = 0
    truth = replace(phantom.truth, disease=phantom.truth.disease.like(disease))
    assert wedges(replace(phantom, truth=truth)) == (ill - 7, 7)


def test_an_unknown_case_is_one_sentence():
    with pytest.raises(UsageError, match="nobody"):
        bench_phantom("healthy,nobody", 1, 2.0, False, tell=lambda line: None)
