"""The table: what each number must be on lungs made of a few boxes."""

import numpy as np
import pytest

from lungvq.anatomy import LOBES, LUNG_OF_LOBE, REGIONS, ZONES
from lungvq.hu import Calibration
from lungvq.quantify import COLUMNS, ZONE_DEFS, BreathHold, cv, iqr_over_mean, quantify, zones_by_height
from lungvq.result import MAPS
from lungvq.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -50], [0, 3.0, 0, 10], [4.0, 0, 0, -300], [0, 0, 0, 1]])
ML = 0.024


def boxes(shape=(30, 12, 26)):
    lungs, lobes = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    lungs[2:29, 2:10, 2:12], lungs[5:26, 2:10, 15:24] = 2, 1
    lobes[20:29, 2:10, 2:12], lobes[13:20, 2:10, 2:12], lobes[2:13, 2:10, 2:12] = 3, 4, 5
    lobes[15:26, 2:10, 15:24], lobes[5:15, 2:10, 15:24] = 1, 2
    return Volume(lungs, AFFINE), Volume(lobes, AFFINE)


def breath(lungs, lobes, hu):
    return BreathHold(lungs.like(np.full(lungs.shape, hu, np.int16)), lungs, lobes, Calibration())


@pytest.fixture
def case():
    lungs, lobes = boxes()
    rng = np.random.default_rng(5)
    inside = lungs.array > 0
    maps = {}
    for n, (name, spec) in enumerate(MAPS.items()):
        values = rng.uniform(0.5, 1.5, lungs.shape) + n
        if spec.scale == "classes":
            maps[name] = lungs.like(np.where(inside, rng.integers(1, 5, lungs.shape), 0).astype(np.uint8))
        else:
            maps[name] = lungs.like(np.where(inside, values, np.nan).astype(np.float32))
    return lungs, lobes, maps


def value(table, region, metric, method=None):
    rows = table[(table.region == region) & (table.metric == metric)]
    rows = rows[rows.is_default == 1] if method is None else rows[rows.method == method]
    assert len(rows) == 1
    return rows.value.iloc[0]


def test_the_table_keeps_its_contract(case):
    lungs, lobes, maps = case
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    assert list(table.columns) == COLUMNS
    assert set(table.region) == set(REGIONS)
    counts = table.groupby(["region", "metric"]).is_default.sum()
    assert (counts == 1).all()
    assert table.value.dtype == float
    default_zones = table.region.isin(ZONES) & (table.is_default == 1)
    assert set(table.loc[default_zones, "zone_def"]) == {"equal_height_per_lung"}
    assert set(table.loc[table.region.isin(ZONES), "zone_def"]) == set(ZONE_DEFS) - {"anatomic_landmark"}
    assert not table.duplicated(["region", "zone_def", "metric", "method"]).any()
    assert set(table.loc[~table.region.isin(ZONES), "zone_def"]) == {""}
    promised = """volume_insp_ml volume_exp_ml ventilation_ml ventilation_fraction_pct perfusion_fraction_pct
        ventilation_cv perfusion_cv ventilation_h perfusion_h ventilation_defect_pct perfusion_defect_pct
        vq_normal_pct vq_dead_space_pct vq_shunt_pct vq_matched_defect_pct vq_abnormal_pct laa950_pct
        prm_fsad_pct prm_emphysema_pct mass_insp_g mass_exp_g""".split()  # noqa: SIM905
    for region in REGIONS:
        assert set(promised) <= set(table.loc[table.region == region, "metric"])


def test_volumes_and_masses_are_those_of_the_boxes(case):
    lungs, lobes, maps = case
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    assert value(table, "right", "volume_exp_ml") == pytest.approx(27 * 8 * 10 * ML)
    assert value(table, "RML", "volume_exp_ml") == pytest.approx(7 * 8 * 10 * ML)
    assert value(table, "left", "mass_exp_g") == pytest.approx(0.3 * 21 * 8 * 9 * ML)
    assert value(table, "both", "mass_insp_g") == pytest.approx(0.15 * (27 * 80 + 21 * 72) * ML)


def test_fractions_add_to_100_and_sums_to_the_whole(case):
    lungs, lobes, maps = case
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    for metric in ("ventilation_fraction_pct", "perfusion_fraction_pct"):
        for parts in (LOBES, ("left", "right"), ZONES):
            assert sum(value(table, part, metric) for part in parts) == pytest.approx(100, abs=1e-6)
    v = maps["ventilation"].array
    for lobe, label in LOBES.items():
        assert value(table, lobe, "ventilation_ml") == pytest.approx(
            np.nansum(v[lobes.array == label], dtype=float) * ML, rel=1e-6
        )
    for lung in ("left", "right"):
        own = [lobe for lobe, side in LUNG_OF_LOBE.items() if side == lung]
        assert sum(value(table, lobe, "ventilation_ml") for lobe in own) == pytest.approx(
            value(table, lung, "ventilation_ml")
        )


def test_a_fraction_is_signed_and_counts_only_what_is_defined(case):
    lungs, lobes, maps = case
    v = maps["ventilation"].array
    v[lungs.array == 2] = 1.0
    v[lungs.array == 1] = -0.1
    v[lobes.array == LOBES["RML"]] = np.nan
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    right, left = 20 * 80 * 1.0, 21 * 72 * -0.1
    assert value(table, "left", "ventilation_fraction_pct") == pytest.approx(
        100 * left / (left + right), rel=1e-5
    )
    assert value(table, "right", "ventilation_fraction_pct") > 100
    assert value(table, "RML", "ventilation_undefined_pct") == 100
    assert value(table, "RML", "ventilation_fraction_pct") == 0
    assert np.isnan(value(table, "RML", "ventilation_cv"))


def test_without_breathing_there_are_no_fractions(case):
    lungs, lobes, maps = case
    maps["ventilation"].array[lungs.array > 0] = 1e-5
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -700), maps)
    assert np.isnan(value(table, "RUL", "ventilation_fraction_pct"))
    assert value(table, "both", "ventilation_ml") == pytest.approx(
        1e-5 * (lungs.array > 0).sum() * ML, rel=1e-4
    )


def test_defects_lie_below_60_percent_of_the_mean_of_both_lungs(case):
    lungs, lobes, maps = case
    v = maps["ventilation"].array
    v[lungs.array == 2], v[lungs.array == 1] = 1.0, 0.5
    mean = (27 * 80 * 1.0 + 21 * 72 * 0.5) / (27 * 80 + 21 * 72)
    assert 0.6 * mean < 0.5
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    assert value(table, "left", "ventilation_defect_pct") == 0
    v[lungs.array == 1] = 0.4
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    assert value(table, "left", "ventilation_defect_pct") == 100
    assert value(table, "right", "ventilation_defect_pct") == 0


def test_laa950_counts_at_the_threshold(case):
    lungs, lobes, maps = case
    insp = breath(lungs, lobes, -850)
    insp.hu.array[lobes.array == LOBES["RUL"]] = -950
    table = quantify("c", breath(lungs, lobes, -700), insp, maps)
    assert value(table, "RUL", "laa950_pct") == 100
    assert value(table, "RLL", "laa950_pct") == 0
    assert value(table, "right", "laa950_pct") == pytest.approx(100 * 9 / 27)


def test_zones_are_thirds_of_each_lungs_own_height():
    lungs, _ = boxes()
    zones = zones_by_height(lungs).array
    right = [np.unique(zones[k][lungs.array[k] == 2]).tolist() for k in (2, 10, 11, 19, 20, 28)]
    label = {name: n for n, name in enumerate(ZONES, start=1)}
    assert right == [
        [label[f"right_{part}"]] for part in ("lower", "lower", "middle", "middle", "upper", "upper")
    ]
    left = [np.unique(zones[k][lungs.array[k] == 1]).tolist() for k in (5, 11, 12, 25)]
    assert left == [[label[f"left_{part}"]] for part in ("lower", "lower", "middle", "upper")]


def test_heterogeneity_by_hand():
    assert cv(np.array([1.0, 3.0])) == pytest.approx(0.5)
    assert iqr_over_mean(np.arange(5.0)) == pytest.approx(1.0)
    assert np.isnan(cv(np.array([-1.0, 1.0])))
    assert np.isnan(iqr_over_mean(np.array([])))
