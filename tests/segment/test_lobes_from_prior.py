"""The fissure prior on boxes, where every height can be evaluated by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lungvq.anatomy import LOBES
from lungvq.errors import GeometryError
from lungvq.fissures import MEANS, VALID, height
from lungvq.segment.lobes import lobes_from_prior
from lungvq.volume import Volume


def two_boxes(shape=(100, 60, 90), spacing=(2.5, 2.0, 1.5)):
    """Right lung in the columns 5 to 39, left lung in 50 to 84: boxes are their own bounding boxes."""
    array = np.zeros(shape, np.uint8)
    array[10:90, 6:54, 5:40] = 2
    array[12:88, 6:54, 50:85] = 1
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) * np.asarray(spacing)
    return Volume(array, affine)


def test_the_cut_is_where_the_mean_fissure_is():
    lungs = two_boxes()
    lobes = lobes_from_prior(lungs).array
    # the left box holds the slices 12 to 87, rows 6 to 53, columns 50 to 84
    for j, i in ((20, 60), (30, 67), (40, 75)):
        x, y = (i - 50 + 0.5) / 35, (j - 6 + 0.5) / 48
        rise = height(MEANS.left_oblique, x, y, valid=VALID["left_oblique"]).item()
        upper = np.flatnonzero(lobes[:, j, i] == LOBES["LUL"])
        assert upper[0] == pytest.approx(12 + 76 * rise, abs=1)


def test_every_lung_voxel_gets_a_lobe_of_its_lung_and_nothing_else_does():
    lungs = two_boxes()
    lobes = lobes_from_prior(lungs).array
    assert set(np.unique(lobes[lungs.array == 1])) == {LOBES["LUL"], LOBES["LLL"]}
    assert set(np.unique(lobes[lungs.array == 2])) == {LOBES["RUL"], LOBES["RML"], LOBES["RLL"]}
    assert not lobes[lungs.array == 0].any()


def test_lobes_lie_as_in_a_person():
    lungs = two_boxes()
    lobes = lobes_from_prior(lungs).array
    middle_row = 30
    assert lobes[85, middle_row, 20] == LOBES["RUL"]
    assert lobes[15, middle_row, 20] == LOBES["RLL"]
    assert lobes[35, 8, 20] == LOBES["RML"]  # low and in front
    assert lobes[50, 52, 20] == LOBES["RLL"]  # the lower lobes reach high at the back
    assert lobes[50, 8, 67] == LOBES["LUL"]
    assert lobes[50, 52, 67] == LOBES["LLL"]


def test_volumes_lie_within_the_published_ranges_widened_for_a_box():
    lungs = two_boxes()
    lobes = lobes_from_prior(lungs).array
    share = {name: (lobes == n).sum() / (lungs.array > 0).sum() for name, n in LOBES.items()}
    expected = {"LUL": 0.231, "LLL": 0.232, "RUL": 0.179, "RML": 0.093, "RLL": 0.265}
    for name, value in expected.items():
        assert share[name] == pytest.approx(value, abs=0.06), name


def test_the_boundary_follows_the_polynomial_at_any_spacing():
    coarse, fine = two_boxes(), two_boxes()
    fine = Volume(np.repeat(fine.array, 2, axis=0), fine.affine @ np.diag([0.5, 1, 1, 1]))
    shares = [
        np.bincount(lobes_from_prior(v).array.ravel(), minlength=6)[1:] / (v.array > 0).sum()
        for v in (coarse, fine)
    ]
    np.testing.assert_allclose(*shares, atol=0.006)


def test_other_axis_orders_are_refused():
    with pytest.raises(GeometryError, match="SPL"):
        lobes_from_prior(two_boxes().reorient("IPL"))


def test_one_lung_is_enough():
    lungs = two_boxes()
    alone = lungs.like(np.where(lungs.array == 2, 2, 0).astype(np.uint8))
    np.testing.assert_array_equal(
        lobes_from_prior(alone).array, np.where(lungs.array == 2, lobes_from_prior(lungs).array, 0)
    )
