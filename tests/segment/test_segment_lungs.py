"""Lungs of a chest made of ellipsoids: each voxel's side is known."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_chest import dice, make_chest
from scipy.ndimage import binary_erosion, gaussian_filter

from lungvq.errors import InputError
from lungvq.findings import Severity
from lungvq.segment import segment
from lungvq.volume import Volume


def codes(anatomy):
    return {f.code for f in anatomy.findings if f.severity is not Severity.PASS}


def cropped(chest, box):
    part = chest.ct.crop(box)
    return Volume(np.ascontiguousarray(part.array), part.affine), chest.lungs[box]


ALL = slice(None)


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"spacing": (1.5, 2.0, 1.7), "noise": 50},
        {"spacing": (4.0, 4.0, 4.0), "noise": 50},
        {"spacing": (7.0, 2.0, 2.0)},
        {"spacing": (5.0, 2.5, 2.5), "couch": True, "arms": True},
        {"offset": 30, "noise": 40},
        {"offset": -30, "noise": 40},
        {"lung_hu": -500, "noise": 30},
        {"lung_hu": -950, "noise": 30},
        {"bones": False, "trachea": False},
        {"mirrored": True},
    ],
    ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()) or "plain",
)
def test_both_lungs_are_found_and_told_apart(setting):
    chest = make_chest(**setting)
    anatomy = segment(chest.ct)
    for side in (1, 2):
        assert dice(anatomy.lungs.array == side, chest.lungs == side) > 0.985
    truth_ml = (chest.lungs == 1).sum() * chest.ct.voxel_ml
    assert anatomy.volume_ml("left") == pytest.approx(truth_ml, rel=0.02)
    assert anatomy.volume_ml("both") == pytest.approx(anatomy.volume_ml("left") + anatomy.volume_ml("right"))
    assert anatomy.airways.array.sum() * chest.ct.voxel_ml < 0.02 * anatomy.volume_ml("both")


def test_nodules_and_vessels_belong_to_the_lung():
    chest = make_chest()
    anatomy = segment(chest.ct)
    dense = (chest.lungs > 0) & (chest.ct.array > -200)
    assert dense.sum() > 20
    assert (anatomy.lungs.array[dense] > 0).mean() > 0.9


def test_the_trachea_does_not_belong_to_the_lung():
    chest = make_chest()
    anatomy = segment(chest.ct)
    trachea = (chest.lungs == 0) & (chest.ct.array < -900)
    trachea[:, :20] = trachea[:, -20:] = False  # the air around the body
    trachea[:, :, :25] = trachea[:, :, -25:] = False
    assert (anatomy.airways.array[trachea] > 0).mean() > 0.8
    # The bronchi end within the lungs, and their last centimetre is closed over; the trachea is not.
    assert (anatomy.lungs.array[trachea] > 0).mean() < 0.2
    trachea[:62] = False
    assert not anatomy.lungs.array[trachea].any()


def test_the_blurred_wall_of_the_trachea_does_not_reach_above_the_lung():
    chest = make_chest()
    blurred = gaussian_filter(chest.ct.array.astype(np.float32), (0, 0.7, 0.7))  # 2 mm
    lungs = segment(chest.ct.like(np.rint(blurred).astype(np.int16))).lungs.array
    for side in (1, 2):
        ours, true = (np.flatnonzero((x == side).any(axis=(1, 2))) for x in (lungs, chest.lungs))
        assert ours[-1] == true[-1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_missing_lung_is_named(side):
    anatomy = segment(make_chest(bowel=True, **{side: False}).ct)
    assert codes(anatomy) == {"LUNG_MISSING"}
    finding = next(f for f in anatomy.findings if f.code == "LUNG_MISSING")
    assert side in finding.message.split(";")[0]
    assert anatomy.volume_ml(side) == 0


def test_a_collapsed_lung_keeps_its_side_and_its_volume():
    chest = make_chest(left_scale=0.33, bowel=True)
    anatomy = segment(chest.ct)
    assert codes(anatomy) == {"LUNG_COLLAPSED"}
    finding = next(f for f in anatomy.findings if f.code == "LUNG_COLLAPSED")
    assert finding.message.startswith("The left lung")
    assert finding.value == pytest.approx((chest.lungs == 1).sum() * chest.ct.voxel_ml, rel=0.05)


@pytest.mark.parametrize(
    ("box", "where"),
    [
        ((slice(0, 80), ALL, ALL), "above"),
        ((slice(30, None), ALL, ALL), "below"),
        ((ALL, ALL, slice(20, None)), "on the right"),
    ],
)
def test_a_cut_lung_is_found_and_said(box, where):
    ct, truth = cropped(make_chest(), box)
    anatomy = segment(ct)
    assert dice(anatomy.lungs.array > 0, truth > 0) > 0.98
    finding = next(f for f in anatomy.findings if f.code == "LUNG_TRUNCATED")
    assert where in finding.message


@pytest.mark.parametrize("padding", [-1000, -1024, -2000, -3024])
def test_a_round_field_of_view_that_cuts_the_chest_wall(padding):
    chest = make_chest(noise=30)
    y, x = (
        ((np.arange(n) - (n - 1) / 2) * s)
        for n, s in zip(chest.ct.shape[1:], chest.ct.spacing[1:], strict=True)
    )
    beyond = y[:, None] ** 2 + x[None, :] ** 2 > 125**2
    array, truth = chest.ct.array.copy(), chest.lungs.copy()
    array[:, beyond], truth[:, beyond] = padding, 0
    anatomy = segment(chest.ct.like(array))
    assert dice(anatomy.lungs.array == 1, truth == 1) > 0.97
    assert dice(anatomy.lungs.array == 2, truth == 2) > 0.97


@pytest.mark.parametrize("air", [-1000, -1024])
def test_slices_of_air_above_the_body_do_not_take_the_trachea_along(air):
    ct = make_chest(noise=30).ct
    plain = segment(ct).airways
    top = int(np.flatnonzero(plain.array.any(axis=(1, 2)))[-1])
    cut = ct.array[: top - 2]  # the trachea runs into the last slice
    above = np.full((15, *cut.shape[1:]), air, cut.dtype)
    found = segment(Volume(np.concatenate([cut, above]), ct.affine))
    assert "AIRWAYS_NOT_FOUND" not in codes(found)
    assert dice(found.airways.array[: top - 2] > 0, plain.array[: top - 2] > 0) > 0.95


def test_foam_between_back_couch_and_a_round_field_of_view_is_no_lung():
    chest = make_chest()
    y, x = (
        ((np.arange(n) - (n - 1) / 2) * s)
        for n, s in zip(chest.ct.shape[1:], chest.ct.spacing[1:], strict=True)
    )
    y, x = y[:, None], x[None, :]
    array = chest.ct.array.copy()
    array[:, np.broadcast_to((y > 104) & (y < 115), array.shape[1:])] = 0  # a couch that the back touches
    array[:, (y > 70) & (y < 104) & ((y / 105) ** 2 + (x / 155) ** 2 > 1)] = -880
    array[:, y**2 + x**2 > 125**2] = -2000
    lungs = segment(chest.ct.like(array)).lungs.array
    behind = np.broadcast_to(y > 85, array.shape[1:])
    assert not lungs[:, behind].any()
    assert abs((lungs > 0).sum() / (chest.lungs > 0).sum() - 1) < 0.03


def head():
    rng = np.random.default_rng(3)
    z, y, x = np.meshgrid(*(np.arange(-100.0, 100.0, 3.0),) * 3, indexing="ij", sparse=True)
    radius = np.sqrt((z / 95) ** 2 + (y / 90) ** 2 + (x / 75) ** 2)
    hu = np.full(radius.shape, -1000.0)
    hu[radius < 1] = 30
    hu[(radius > 0.88) & (radius < 0.96)] = 900
    hu[(y + 70) ** 2 + x**2 + (z + 40) ** 2 < 20**2] = -1000  # a sinus
    hu[np.broadcast_to((y**2 + x**2 < 8**2), hu.shape) & (z < -50)] = -1000  # the airway
    return hu + rng.normal(0, 10, hu.shape)


def abdomen():
    chest = make_chest(left=False, right=False, trachea=False, bowel=True)
    return chest.ct.array.astype(float)


@pytest.mark.parametrize(
    "array",
    [
        head(),
        abdomen(),
        np.random.default_rng(0).normal(0, 300, (40, 50, 60)),
        np.random.default_rng(0).normal(-500, 500, (40, 50, 60)),
        np.full((20, 30, 40), -1000.0),
        np.zeros((20, 30, 40)),
        np.zeros((2, 30, 40)),
    ],
    ids=["head", "abdomen", "noise", "air noise", "air", "water", "two slices"],
)
def test_what_is_no_chest_is_refused_in_one_sentence(array):
    affine = np.eye(4)
    affine[:3, :3] = 3.0 * np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    ct = Volume(np.clip(array, -1024, 3071).astype(np.int16), affine)
    with pytest.raises(InputError, match="no lungs found") as caught:
        segment(ct)
    assert "\n" not in str(caught.value)


def test_lung_bases_on_an_abdominal_scan_are_refused():
    ct, _ = cropped(make_chest(), (slice(0, 45), ALL, ALL))
    with pytest.raises(InputError, match=r"no lungs found but their lowest \d+ mm"):
        segment(ct)


def test_the_same_scan_gives_the_same_masks():
    ct = make_chest(spacing=(4.0, 4.0, 4.0)).ct
    first, second = segment(ct), segment(ct)
    for name in ("lungs", "airways", "vessels"):
        np.testing.assert_array_equal(getattr(first, name).array, getattr(second, name).array)


def test_lungs_that_touch_in_front_are_parted():
    chest = make_chest()
    array, truth = chest.ct.array.copy(), chest.lungs
    # A bridge of aerated voxels through the anterior mediastinum, as at the anterior junction line.
    array[40:60, 24:28, 44:70] = -850
    anatomy = segment(chest.ct.like(array))
    assert dice(anatomy.lungs.array == 1, truth == 1) > 0.98
    assert dice(anatomy.lungs.array == 2, truth == 2) > 0.98


@pytest.mark.parametrize("filled_hu", [-3024, -2000, -1024, -1000])
@pytest.mark.parametrize("clear_mm", [2.0, -8.0])
def test_what_was_not_scanned_is_no_lung(filled_hu, clear_mm):
    # A round field of view that ends just outside the lungs, or cuts them: padding is thinner than any air.
    chest = make_chest(noise=20)
    lung = (chest.lungs > 0).any(axis=0)
    j, i = np.indices(lung.shape)
    sj, si = chest.ct.spacing[1:]
    y, x = (j - j[lung].mean()) * sj, (i - i[lung].mean()) * si
    beyond = np.hypot(y, x) > np.hypot(y, x)[lung].max() + clear_mm
    hu = np.where(beyond, filled_hu, chest.ct.array).astype(np.int16)
    found = segment(chest.ct.like(hu)).lungs.array > 0
    assert not (found & beyond).any()
    seen = (chest.lungs > 0) & ~beyond
    assert dice(found, seen) > 0.98
    mass, truth = (float((1 + hu[where] / 1000).sum()) for where in (found, seen))
    assert mass == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("filled_hu", [-3024, -1024, -1000])
@pytest.mark.parametrize("cut_mm", [6.0, 20.0])
def test_thin_lung_beside_open_air_at_a_round_border_is_kept(filled_hu, cut_mm):
    # The border runs through lung of -900 on both sides and through air before and behind the body.
    chest = make_chest(lung_hu=-900.0, noise=20)
    lung = (chest.lungs > 0).any(axis=0)
    j, i = np.indices(lung.shape)
    sj, si = chest.ct.spacing[1:]
    away = np.hypot((j - j[lung].mean()) * sj, (i - i[lung].mean()) * si)
    beyond = away > away[lung].max() - cut_mm
    ct = chest.ct.like(np.where(beyond, filled_hu, chest.ct.array).astype(np.int16))
    anatomy = segment(ct)
    assert dice(anatomy.lungs.array > 0, (chest.lungs > 0) & ~beyond) > 0.985
    told = next(f for f in anatomy.findings if f.code == "LUNG_TRUNCATED")
    assert (told.severity, "field of view" in told.message) == ("FAIL", True)


def test_noise_darker_than_air_makes_no_holes():
    # Some scanners do not cut off at -1024: 110 HU of noise on lung of -900 goes down to about -1350.
    chest = make_chest(lung_hu=-900.0, noise=0)
    noisy = chest.ct.array + np.random.default_rng(3).normal(0, 110, chest.ct.shape)
    ct = chest.ct.like(np.rint(noisy).astype(np.int16))
    anatomy = segment(ct)
    deep = binary_erosion(chest.lungs > 0, iterations=3)
    assert ct.array[deep].min() < -1300
    assert (anatomy.lungs.array[deep] > 0).all()
    assert "LUNG_COMPLETE" in {f.code for f in anatomy.findings}
