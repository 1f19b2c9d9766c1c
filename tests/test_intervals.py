"""Intervals of regional numbers on boxes whose errors are known."""

import numpy as np
import pytest

from lungvq.anatomy import LUNGS
from lungvq.hu import Calibration
from lungvq.intervals import (
    CORRELATION_MM,
    DOME,
    HU_SCALE,
    KIND,
    OUTLINE,
    SMALL_LUNG_ML,
    TOGETHER,
    ZONE_BORDER,
    border_areas,
    lobe_borders,
    region_intervals,
)
from lungvq.quantify import BreathHold
from lungvq.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -50], [0, 2.0, 0, 10], [2.0, 0, 0, -300], [0, 0, 0, 1]])


PARTS = {"lower": (2, 14), "middle": (14, 26), "upper": (26, 38)}


@pytest.fixture
def hold():
    lungs, lobes = (np.zeros((40, 30, 44), np.uint8) for _ in range(2))
    lungs[2:38, 2:28, 2:21], lungs[2:38, 2:28, 23:42] = 2, 1
    lobes[lungs == 1] = 1
    lobes[2:20][lungs[2:20] == 1] = 2
    lobes[lungs == 2] = 3
    lobes[2:14][lungs[2:14] == 2] = 5
    lobes[14:20][lungs[14:20] == 2] = 4
    hu = Volume(np.full(lungs.shape, -700, np.int16), AFFINE)
    return BreathHold(hu, hu.like(lungs), hu.like(lobes), Calibration())


@pytest.fixture
def as_if_large(monkeypatch):
    """The boxes hold 140 mL; outlines are as sure as those of a whole lung."""
    monkeypatch.setattr("lungvq.intervals.SMALL_LUNG_ML", 0.0)


def made(hold, value, error):
    full = [
        hold.lungs.like(np.where(hold.lungs.array > 0, x, np.nan).astype(np.float32)) for x in (value, error)
    ]
    return {
        "ventilation": full[0],
        "ventilation_se": full[1],
        "perfusion": full[0],
        "perfusion_se": full[1],
    }


def test_area_of_a_flat_border(hold):
    areas = border_areas(hold.lobes, hold.lungs, {"LUL": 1, "LLL": 2, "RUL": 3, "RML": 4, "RLL": 5})
    one = 26 * 19 * 4.0
    assert areas == {"LUL": one, "LLL": one, "RUL": one, "RML": 2 * one, "RLL": one}


def test_a_share_is_as_sure_as_independent_cubes_make_it(hold, as_if_large):
    # A second route: draw cubes of error, make each lung add up to what it holds, and look at the spread.
    maps = made(hold, 1.0, 0.2)
    low, high = region_intervals(hold, maps)["LLL", "ventilation_fraction_pct"]
    shares = {n: float((hold.lobes.array == n).sum()) * 0.008 for n in range(1, 6)}
    cube = CORRELATION_MM["ventilation"] ** 3 / 1000
    rng = np.random.default_rng(0)
    drawn = {n: ml + 0.2 * np.sqrt(ml * cube) * rng.normal(size=20000) for n, ml in shares.items()}
    left_ml = shares[1] + shares[2]
    spread = 100 * np.std(drawn[2] / (drawn[1] + drawn[2])) * left_ml / sum(shares.values())
    assert (low + high) / 2 == pytest.approx(100 * shares[2] / sum(shares.values()), rel=1e-5)
    assert (high - low) / 3.92 == pytest.approx(spread, rel=0.06)


def test_vessels_that_count_as_tissue_are_not_averaged_away(hold):
    found = region_intervals(hold, made(hold, 1.0, 1e-6))
    low, high = found["LUL", "perfusion_fraction_pct"]
    f = (low + high) / 200
    assert (high - low) / 3.92 > 100 * KIND["perfusion"] * f * (1 - f)


def test_a_share_of_blood_is_neither_below_0_nor_above_100_percent(hold):
    values = np.where(hold.lungs.array == 1, 1e-4, 1.0) * (hold.lungs.array > 0)
    maps = made(hold, 1.0, 0.05) | {"perfusion": hold.lungs.like(values.astype(np.float32))}
    found = region_intervals(hold, maps)
    assert found["left", "perfusion_fraction_pct"][0] == 0
    assert found["right", "perfusion_fraction_pct"][1] == 100


def test_thin_lung_has_as_many_vessels_that_count_as_tissue(hold):
    values = np.where(hold.lobes.array == 1, 0.2, 1.0) * (hold.lungs.array > 0)
    maps = made(hold, 1.0, 1e-6) | {"perfusion": hold.lungs.like(values.astype(np.float32))}
    low, high = region_intervals(hold, maps)["LUL", "perfusion_fraction_pct"]
    f = (low + high) / 200
    of_volume = float((hold.lobes.array == 1).sum() / (hold.lungs.array > 0).sum())
    assert of_volume > 3 * f
    assert (high - low) / 3.92 == pytest.approx(100 * KIND["perfusion"] * of_volume * (1 - f), rel=0.01)


def test_an_uncertain_fissure_widens_the_lobe_and_not_the_lung(hold, as_if_large):
    maps = made(hold, 1.0, 0.01)
    narrow = region_intervals(hold, maps)
    wide = region_intervals(hold, maps, border_mm=lobe_borders({}))
    for key in (("left", "ventilation_ml"), ("both", "ventilation_ml"), ("left_upper", "ventilation_ml")):
        assert wide[key] == narrow[key]
    low, high = wide["LUL", "ventilation_ml"]
    area_ml = 26 * 19 * 4.0 * 2 / 3 * TOGETHER * 8 / 1000
    assert (high - low) / 3.92 == pytest.approx(area_ml, rel=0.1)


def test_a_fissure_that_was_seen_is_surer_than_one_of_other_people():
    borders = lobe_borders({"left oblique": 1.0, "right oblique": 2.0})
    assert borders["LUL"] == borders["LLL"] == pytest.approx(TOGETHER)
    assert borders["RLL"] == pytest.approx(2 * TOGETHER)
    assert borders["RML"] == borders["RUL"] == pytest.approx(8 * TOGETHER)


def test_without_ventilation_there_are_no_shares_of_it_but_an_amount(hold):
    found = region_intervals(hold, made(hold, -1e-4, 0.1))
    assert not any(metric == "ventilation_fraction_pct" for _, metric in found)
    for region, low, high in (
        (r, *ends) for (r, metric), ends in found.items() if metric == "ventilation_ml"
    ):
        assert low < 0 < high, region


def outline_error(ml):
    """Of the air of a lung of `ml`, as a share: the outline of a small one errs by no fewer mL."""
    return np.hypot(OUTLINE["ventilation"] * SMALL_LUNG_ML / ml, HU_SCALE)


def test_an_outline_errs_by_the_air_of_both_scans(hold):
    # Air 0.7 mL/mL before and 1.2 after, and no other error.
    found = region_intervals(hold, made(hold, 0.5, 1e-6))
    for region in ("left", "right"):
        ml = float((hold.lungs.array == LUNGS[region]).sum()) * 0.008
        low, high = found[region, "ventilation_ml"]
        assert (high - low) / 3.92 == pytest.approx(outline_error(ml) * np.hypot(0.7, 1.2) * ml, rel=1e-3)
    sides = [np.diff(found[region, "ventilation_ml"])[0] for region in ("left", "right", "both")]
    assert sides[2] == pytest.approx(sum(sides[:2]), rel=1e-3)  # one scanner, one rule: they err alike


def test_a_collapsed_lung_is_less_sure_for_its_size(hold):
    def share(affine):
        hu, lungs, lobes = (Volume(v.array, affine) for v in (hold.hu, hold.lungs, hold.lobes))
        part = BreathHold(hu, lungs, lobes, Calibration())
        low, high = region_intervals(part, made(part, 0.5, 1e-6))["left", "ventilation_ml"]
        return (high - low) / (high + low)

    small, large = AFFINE, AFFINE.copy()
    large[:3, 1:3] *= 5  # slices as thin, so that they blur no dome
    expected = outline_error(36 * 26 * 19 * 0.008) / outline_error(SMALL_LUNG_ML)
    assert share(small) / share(large) == pytest.approx(expected, rel=1e-3)


def test_thick_slices_blur_domes_and_bases(hold):
    maps = made(hold, 0.0, 1e-6)
    thin, thick = (
        np.diff(region_intervals(hold, maps, slice_mm=mm)["left", "ventilation_ml"])[0] / 3.92
        for mm in (1, 5)
    )
    ends_ml = 2 * 26 * 19 * 4.0 * DOME * 4 / 1000  # top and base; 5 mm are 4 beyond 3, in squares
    assert np.sqrt(thick**2 - thin**2) == pytest.approx(ends_ml * 0.7 * np.sqrt(2), rel=1e-3)


def test_a_map_that_is_made_to_add_up_cannot_be_wrong_as_a_whole(hold, as_if_large):
    found = region_intervals(hold, made(hold, 1.0, 0.3))
    sure = region_intervals(hold, made(hold, 1.0, 1e-6))
    assert found["left", "ventilation_ml"] == pytest.approx(sure["left", "ventilation_ml"])
    assert np.diff(found["LUL", "ventilation_ml"]) > 2 * np.diff(sure["LUL", "ventilation_ml"])


def test_a_zone_errs_by_what_its_end_slices_hold(hold):
    # 36 slices of 26 x 19 voxels, and twice as much air in those of the upper third as below it.
    values = np.where(hold.lungs.array > 0, 1.0, np.nan).astype(np.float32)
    values[26:] *= 2
    maps = made(hold, 1.0, 1e-6) | {"ventilation": hold.lungs.like(values)}
    found = region_intervals(hold, maps)
    slice_ml = 26 * 19 * 0.008
    whole = {
        r: float(np.nansum(values[a:b, hold.lungs.array[20] == 1])) * 0.008 for r, (a, b) in PARTS.items()
    }
    for region, ends in (("lower", [1.0]), ("middle", [1.0, 1.5]), ("upper", [1.5])):
        low, high = found[f"left_{region}", "ventilation_ml"]
        edge = ZONE_BORDER * slice_ml * float(np.hypot.reduce(ends))
        assert (low + high) / 2 == pytest.approx(whole[region], rel=1e-5)
        air = np.hypot(0.7 * 12 * slice_ml, 0.7 * 12 * slice_ml + whole[region])
        outline = outline_error(36 * slice_ml) * air
        assert (high - low) / 3.92 == pytest.approx(np.hypot(edge, outline), rel=0.01)


@pytest.mark.parametrize("slice_mm", [0.6, 0.75, 1.0, 1.25])
def test_thin_slices_keep_each_value_in_the_middle_of_its_interval(hold, slice_mm):
    # Zones must be those of the table: thirds of all slices, not of every second or third that errors are counted on.
    affine = AFFINE.copy()
    affine[2, 0] *= slice_mm / 2
    hu, lungs, lobes = (
        Volume(np.ascontiguousarray(v.array[:-1]), affine) for v in (hold.hu, hold.lungs, hold.lobes)
    )
    thin = BreathHold(hu, lungs, lobes, Calibration())
    maps = made(thin, 1.0, 1e-3)
    maps["ventilation"].array[...] *= np.linspace(0.5, 2, len(lungs.array), dtype=np.float32)[:, None, None]
    found = region_intervals(thin, maps)
    regions = thin.regions()
    values = regions.row(maps["ventilation"].array)
    for region, where in regions:
        ml = float(values[where].sum(dtype=float)) * lungs.voxel_ml
        assert np.mean(found[region.name, "ventilation_ml"]) == pytest.approx(ml, rel=1e-5), region
        if region.name != "both":
            share = 100 * float(values[where].sum(dtype=float) / values.sum(dtype=float))
            assert np.mean(found[region.name, "ventilation_fraction_pct"]) == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize("ml_per_ml", [1.0, 0.02])
def test_the_shares_of_two_lungs_are_equally_sure(hold, ml_per_ml):
    # They add up to 100 %; also where the left lung hardly breathes.
    values = np.where(hold.lungs.array == 1, ml_per_ml, 1.0) * (hold.lungs.array > 0)
    maps = made(hold, 1.0, 0.1) | {
        name: hold.lungs.like(values.astype(np.float32)) for name in ("ventilation", "perfusion")
    }
    found = region_intervals(hold, maps)
    for metric in ("ventilation_fraction_pct", "perfusion_fraction_pct"):
        left, right = found["left", metric], found["right", metric]
        assert np.add(left, right[::-1]) == pytest.approx([100, 100], abs=1e-3), metric


def test_a_lobe_shares_the_error_of_the_other_lung(hold):
    # Of a hundred times the outline error, all of it in the left lung, which does not breathe: the share of a right
    # lobe moves with the sum of both.
    values = np.where(hold.lungs.array == 2, 1.0, 0.0) * (hold.lungs.array > 0)
    maps = made(hold, 1.0, 1e-6) | {"ventilation": hold.lungs.like(values.astype(np.float32))}
    low, high = region_intervals(hold, maps)["RLL", "ventilation_fraction_pct"]
    right, left = (float((hold.lungs.array == n).sum()) * 0.008 for n in (2, 1))
    lobe = float((hold.lobes.array == 5).sum()) * 0.008
    outline = OUTLINE["ventilation"] * SMALL_LUNG_ML / left * np.hypot(0.7, 0.7) * left
    assert (high - low) / 3.92 == pytest.approx(100 * lobe / right * outline / right, rel=0.25)
    assert (high - low) / 3.92 >= 100 * lobe / right * outline / right


def test_a_lung_that_is_not_there_has_no_interval(hold):
    gone = hold.lungs.array == 1
    lungs, lobes = (v.like(np.where(gone, 0, v.array).astype(np.uint8)) for v in (hold.lungs, hold.lobes))
    alone = BreathHold(hold.hu, lungs, lobes, Calibration())
    named = {region for region, _ in region_intervals(alone, made(alone, 1.0, 0.1))}
    assert named == {"both", "right", "RUL", "RML", "RLL", "right_lower", "right_middle", "right_upper"}
