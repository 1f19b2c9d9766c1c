"""What the checks say of shapes, loose air and lobes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from lungvq.errors import InputError
from lungvq.segment import _refuse_immense
from lungvq.segment._checks import (
    LOBE_SHARES,
    _check_loose_air,
    _check_surface,
    _check_truncation,
    _check_upright,
    check_lobes,
    check_lungs,
)
from lungvq.volume import Volume

AFFINE = np.array([[0, 0, 2.5, -100], [0, 2.5, 0, -80], [2.5, 0, 0, 5], [0, 0, 0, 1]])
SHAPE = (60, 50, 90)


def chest(air=None):
    """Two boxes of lung in soft tissue; `air` a box of it in the right one, at the front."""
    lungs = np.zeros(SHAPE, np.uint8)
    lungs[5:55, 8:42, 6:40], lungs[5:55, 8:42, 50:84] = 2, 1
    hu = np.where(lungs, -850, 40).astype(np.int16)
    hu[:, 44:46] = 400  # ribs
    hu += np.random.default_rng(0).normal(0, 12, SHAPE).astype(np.int16)
    if air is not None:
        hu[air] = -1000
    return Volume(hu, AFFINE), lungs


def found(ct, lungs):
    coarse = ct.like(ct.array.astype(np.float32))
    findings = check_lungs(ct, lungs, np.zeros(SHAPE, np.uint8), True, False, -400.0, coarse, 12.5)
    return {f.code: f for f in findings}


def test_whole_lungs_pass():
    codes = found(*chest())
    assert {"LUNG_SHAPE", "NO_LOOSE_AIR", "LUNG_REACHES_RIBS", "LUNG_COMPLETE", "LUNG_RATIO"} <= codes.keys()
    assert all(f.severity == "PASS" for f in codes.values())


def small(ct, lungs):
    shrunk = np.zeros_like(lungs)
    shrunk[20:40, 14:36, 12:34], shrunk[20:40, 14:36, 56:78] = 2, 1  # 151 mL each
    return ct, shrunk


def large(ct, lungs):
    affine = ct.affine.copy()
    affine[:3, :3] *= 1.9  # 12.5 L: a spacing of 4.75 mm instead of 2.5
    return Volume(ct.array, affine), lungs


def long(ct, lungs):
    affine = ct.affine.copy()
    affine[:3, 0] *= 2  # slices 5 mm apart instead of 2.5
    return Volume(ct.array, affine), lungs


def flat(ct, lungs):
    affine = ct.affine.copy()
    affine[:3, 0] *= 0.45
    affine[:3, 1:3] *= 1.4
    return Volume(ct.array, affine), lungs


def turned(ct, lungs):
    affine = ct.affine.copy()
    affine[:3, :3] = ct.affine[:3, :3] * [1.2, 2.2, 0.7]  # 187 mm deep, 137 mm wide
    return Volume(ct.array, affine), lungs


def dense(ct, lungs):
    hu = ct.array.copy()
    hu[:, 20:28][lungs[:, 20:28] > 0] = -100  # 8 of 34 rows
    return ct.like(hu), lungs


def narrowed(columns):
    def narrow(ct, lungs):
        part = lungs.copy()
        part[:, :, 50 + columns : 84] = 0
        return ct, part

    return narrow


@pytest.mark.parametrize(
    ("change", "trachea", "leaked", "code"),
    [
        (small, True, False, "LUNGS_SMALL"),
        (large, True, False, "LUNGS_LARGE"),
        (long, True, False, "LUNG_PROPORTION"),
        (flat, True, False, "LUNG_PROPORTION"),
        (turned, True, False, "BODY_TURNED"),
        (dense, True, False, "LUNG_OPACITY"),
        (narrowed(17), True, False, "LUNG_RATIO"),
        (narrowed(6), True, False, "LUNG_COLLAPSED"),
        (narrowed(0), True, False, "LUNG_MISSING"),
        (narrowed(34), False, False, "AIRWAYS_NOT_FOUND"),
        (narrowed(34), True, True, "AIRWAY_LEAK"),
    ],
)
def test_each_thing_amiss_raises_its_code_alone(change, trachea, leaked, code):
    ct, lungs = change(*chest())
    coarse = ct.like(ct.array.astype(np.float32))
    findings = check_lungs(ct, lungs, np.zeros(SHAPE, np.uint8), trachea, leaked, -400.0, coarse, 12.5)
    assert [f.code for f in findings if f.severity != "PASS"] == [code]


@pytest.mark.parametrize(
    ("cut", "share", "severity"),
    [
        (np.s_[:, :, :], 0, "PASS"),
        (np.s_[6:, :, :], 100, "FAIL"),  # both lungs end at the first slice
        (np.s_[6:50, :, :], 100, "FAIL"),  # above as well: not 200 %
        (np.s_[:, :, 10:], 100, "FAIL"),
    ],
)
def test_a_cut_lung_is_told_with_its_share_and_its_numbers_are_withheld(cut, share, severity):
    ct, lungs = chest()
    part = ct.like(ct.array), np.ascontiguousarray(lungs[cut])
    finding = _check_truncation(Volume(np.ascontiguousarray(part[0].array[cut]), AFFINE), part[1])
    assert (finding.severity, round(finding.value)) == (severity, share)
    assert finding.touches == (("both", "left", "right") if severity == "FAIL" else ())


def test_a_lung_cut_at_its_tip_is_a_warning():
    ct, lungs = chest()
    lungs[0:5, 20:24, 10:20] = 2  # a tip of 40 of the largest section's 2312 voxels reaches the first slice
    finding = _check_truncation(ct, lungs)
    assert (finding.severity, finding.touches) == ("WARN", ("all",))
    assert finding.value == pytest.approx(100 * 40 / 2312, abs=0.01)


def test_lungs_cut_by_what_was_not_scanned_are_told_even_where_its_border_wanders():
    ct, lungs = chest()
    hu = ct.array.copy()
    side = np.flatnonzero((lungs == 2).any(axis=(0, 1)))[0]
    for k in range(hu.shape[0]):  # as after a gantry's tilt was taken out: no column is padding in all slices
        hu[k, :, : side + 5 + k % 2] = -2000
    seen = np.where(hu == -2000, 0, lungs).astype(np.uint8)
    beside = sum(np.count_nonzero(seen[k, :, side + 5 + k % 2]) for k in range(hu.shape[0]))
    finding = _check_truncation(ct.like(hu), seen)
    assert (finding.code, finding.severity) == ("LUNG_TRUNCATED", "FAIL")
    assert "at the edge of the field of view" in finding.message
    largest = max(np.count_nonzero(seen, axis=(0, 1)))
    assert finding.value == pytest.approx(min(100.0, 100 * beside / largest), abs=0.01)


def test_holes_and_pieces_are_told():
    ct, lungs = chest()
    holed = lungs.copy()
    holed[20:30, 15:25, 15:30] = 0  # 1500 of 115600 voxels
    assert found(ct, holed)["LUNG_HOLES"].value == pytest.approx(100 * 1500 / 114100, abs=0.01)
    cut = lungs.copy()
    cut[20:25, :, 45:] = 0
    assert found(ct, cut)["LUNG_SCATTERED"].value > 5


def test_a_pneumothorax_is_named_with_its_side_and_emphysema_within_is_not():
    in_front = (slice(20, 50), slice(8, 16), slice(8, 38))  # 7200 voxels: 112 mL
    finding = found(*chest(in_front))["PNEUMOTHORAX_OR_BULLA"]
    assert finding.touches == ("right",)
    assert 60 < finding.value < 115
    deep = (slice(20, 40), slice(20, 32), slice(18, 30))
    assert "NO_LOOSE_AIR" in found(*chest(deep))
    little = (slice(20, 30), slice(8, 14), slice(8, 20))  # 11 mL
    assert "NO_LOOSE_AIR" in found(*chest(little))


def test_what_is_without_air_between_lung_and_ribs_is_told():
    ct, lungs = chest()
    lungs[20:40, 30:, 6:40] = 0  # 20 slices of 34 columns, of which 13 lie 35 mm and more from the spine
    finding = found(ct.like(np.where(lungs, ct.array, np.maximum(ct.array, 20)).astype(np.int16)), lungs)[
        "AIRLESS_BEHIND_LUNG"
    ]
    assert finding.touches == ("right",)
    columns = int((12.5 - (-100 + 2.5 * np.arange(6, 40)) > 35).sum())
    assert finding.value == pytest.approx(20 * columns * 2.5**2 * (15 * 2.5 - 10) / 1000, abs=0.1)
    assert "LUNG_REACHES_RIBS" in found(*chest())


def lobes(**shares):
    """A thousand voxels for every percent."""
    numbers = np.repeat(np.arange(1, 6), [round(1000 * shares[n]) for n in LOBE_SHARES])
    return Volume(numbers[None, None].astype(np.uint8), AFFINE)


def test_lobes_are_held_against_those_of_healthy_people():
    usual = {"LUL": 23, "LLL": 24, "RUL": 18, "RML": 9, "RLL": 26}
    assert check_lobes(lobes(**usual)).severity == "PASS"
    finding = check_lobes(lobes(**usual | {"RML": 4, "RUL": 23}))
    assert (finding.code, finding.severity, finding.value, finding.limit) == (
        "LOBE_FRACTIONS",
        "WARN",
        4.0,
        6.6,
    )
    assert "also RUL" in finding.message
    collapsed = check_lobes(lobes(LUL=8, LLL=5, RUL=30, RML=15, RLL=42))
    assert collapsed.severity == "PASS"
    assert "too small to judge" in collapsed.message


@pytest.mark.parametrize(("height", "code"), [(0.8, "UPRIGHT"), (0.05, "UPSIDE_DOWN")])
def test_airways_low_in_the_lungs_are_a_scan_upside_down(height, code):
    ct, lungs = chest()
    slices = np.flatnonzero((lungs > 0).any(axis=(1, 2)))
    middle = int(slices[0] + height * (slices[-1] - slices[0]))
    airways = np.zeros_like(lungs)
    airways[max(middle - 3, 0) : middle + 4, 20:30, 40:50] = 1
    (finding,) = _check_upright(ct, lungs, airways)
    assert finding.code == code
    assert finding.touches == (("left", "right", "lobes") if code == "UPSIDE_DOWN" else ())
    assert _check_upright(ct, lungs, airways * 0) == ()


@pytest.mark.parametrize("fill_hu", [-1000, -1024, -2000])
def test_lungs_that_end_at_slices_of_one_value_are_cut(fill_hu):
    ct, lungs = chest()
    hu, kept = ct.array.copy(), lungs.copy()
    first = np.flatnonzero((lungs > 0).any(axis=(1, 2)))[0] + 4
    hu[:first], kept[:first] = fill_hu, 0
    assert _check_truncation(ct.like(hu), kept).severity == "FAIL"


def test_more_lung_than_anyone_has_is_refused_with_what_air_reads():
    lungs = Volume(np.ones((60, 60, 60), np.uint8), np.diag([4.0, 4.0, 4.0, 1.0]))  # 13.8 L
    with pytest.raises(InputError, match=r"13\.8 L.*darkest air reads -900 HU"):
        _refuse_immense(lungs, lungs.like(np.full(lungs.shape, -900.0, np.float32)))
    _refuse_immense(lungs.like(np.zeros_like(lungs.array)), lungs)


@pytest.mark.parametrize("spacing", [1.8, 2.0, 2.3, 2.5, 3.0])
def test_air_in_front_of_a_lung_is_told_at_any_spacing(spacing):
    ct, lungs = chest(np.s_[5:55, 8:20, 6:40])
    coarse = ct.resample(ct.grid.with_spacing((spacing,) * 3), antialias=False)
    sparse = ct.like(lungs).resample_labels(coarse.grid).array
    finding = _check_loose_air(sparse, coarse, -1000.0)
    assert finding.code == "PNEUMOTHORAX_OR_BULLA"
    assert finding.value == pytest.approx(50 * 12 * 34 * 0.015625, rel=0.2)


@pytest.mark.parametrize(
    ("voxels", "severity"), [(0, "PASS"), (-1, "WARN"), (1, "WARN"), (-2, "FAIL"), (2, "FAIL")]
)
def test_masks_a_voxel_too_small_or_too_large_are_told_with_how_far(voxels, severity):
    ct, lungs = chest()
    ct = Volume(ct.array, ct.affine @ np.diag([0.6, 0.6, 0.6, 1]))  # voxels of 1.5 mm
    mask = lungs > 0
    if voxels:
        turn = ndimage.binary_dilation if voxels > 0 else ndimage.binary_erosion
        mask = turn(mask, np.ones((3, 3, 3)), iterations=abs(voxels))
    given = np.where(mask, np.where(np.arange(SHAPE[2]) < 45, 2, 1), 0).astype(np.uint8)
    finding = _check_surface(ct, given, ct.like(ct.array.astype(np.float32)), given)
    assert finding.code == "LUNG_SURFACE"
    assert finding.severity == severity
    assert finding.value == pytest.approx(1.5 * voxels, abs=0.3)
