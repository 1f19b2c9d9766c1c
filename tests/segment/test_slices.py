"""Slices that do not belong where they are: blank, on another scale, of elsewhere, of two breaths, or copies."""

import numpy as np
import pytest
from scipy import ndimage

from lungvq.segment.slices import check_slices
from lungvq.volume import Volume

AFFINE = np.array([[0, 0, 3.0, -100], [0, 3.0, 0, -80], [3.0, 0, 0, 5], [0, 0, 0, 1]])


def chest(noise=15.0):
    """An ellipsoid of tissue in air, with two lungs that grow and shrink from slice to slice."""
    z, y, x = np.meshgrid(np.arange(60), np.arange(70), np.arange(90), indexing="ij")
    hu = np.where(((y - 35) / 30) ** 2 + ((x - 45) / 40) ** 2 < 1, 40.0, -1000.0)
    for middle in (27, 63):
        lung = ((z - 30) / 26) ** 2 + ((y - 35) / 22) ** 2 + ((x - middle) / 14) ** 2 < 1
        hu[lung] = -850
    hu += np.random.default_rng(1).normal(scale=noise, size=hu.shape)
    return Volume(hu.astype(np.int16), AFFINE)


def told(array):
    return {f.code: (f.severity.value, f.message) for f in check_slices(Volume(array, AFFINE))}


def test_a_whole_scan_raises_nothing():
    assert told(chest().array) == {}
    air_above = np.concatenate([chest().array, np.full((5, 70, 90), -1000, np.int16)])
    assert told(air_above) == {}


def test_slices_of_two_breaths_among_each_other_are_told():
    hu = chest().array
    two = hu.copy()
    two[1::2] = np.roll(hu, 2, axis=0)[1::2]  # 6 mm lower, as after a breath
    assert list(told(two)) == ["SLICES_ALTERNATE"]
    assert told(two)["SLICES_ALTERNATE"][0] == "FAIL"
    assert told(np.ascontiguousarray(hu[::4])) == {}


def test_an_oblique_edge_raises_nothing():
    turned = ndimage.rotate(chest().array, 20, axes=(0, 1), order=1, cval=-1024)
    assert told(np.ascontiguousarray(turned)) == {}


@pytest.mark.parametrize(
    ("change", "severity"),
    [
        (lambda hu: hu.__setitem__(30, -1024), "FAIL"),  # lost
        (lambda hu: hu.__setitem__((30, slice(35, None)), -1024), "FAIL"),  # half of it came
        (lambda hu: hu.__setitem__(slice(30, 34), -1024), "FAIL"),
        (lambda hu: hu.__setitem__(30, hu[30] + 1024), "FAIL"),  # intercept lost
        (lambda hu: hu.__setitem__(slice(28, 32), hu[14:18].copy()), "WARN"),  # of elsewhere
    ],
)
def test_slices_that_do_not_belong_there_are_told_with_their_place(change, severity):
    hu = chest().array.copy()
    change(hu)
    found = told(hu)
    assert list(found) == ["SLICES_BROKEN"]
    assert found["SLICES_BROKEN"][0] == severity
    assert ("slices 31" in found["SLICES_BROKEN"][1]) == (severity == "FAIL")
    assert "of 60 (z = " in found["SLICES_BROKEN"][1]


@pytest.mark.parametrize(("copies", "severity"), [(1, "WARN"), (2, "WARN"), (5, "FAIL")])
def test_copies_of_a_slice_are_told(copies, severity):
    hu = chest().array.copy()
    hu[31 : 31 + copies] = hu[30]
    found = told(hu)
    assert list(found) == ["SLICES_REPEATED"]
    assert found["SLICES_REPEATED"][0] == severity
    assert f"up to {copies} times in a row" in found["SLICES_REPEATED"][1]
