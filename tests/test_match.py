"""Two scans brought together: what is done to voxels beside the pleura."""

import numpy as np
import pytest

from lungvq.match import _clear_of_wall
from lungvq.volume import Volume

AFFINE = np.array([[0, 0, 2.0, 0], [0, 2.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture
def lungs():
    labels = np.zeros((20, 24, 44), np.uint8)
    labels[2:18, 2:22, 2:21], labels[2:18, 2:22, 21:40] = 2, 1  # side by side: none lends to the other
    return Volume(labels, AFFINE)


def scan(lungs, left, right, rim):
    """HU of both lungs, and of voxels that share in the wall."""
    hu = np.select([lungs.array == 1, lungs.array == 2], [left, right], np.nan).astype(np.float32)
    for label in (1, 2):
        inside = np.pad(lungs.array == label, 1)
        deep = inside.copy()
        for axis in range(3):
            for step in (-1, 1):
                deep &= np.roll(inside, step, axis)
        hu[(inside & ~deep)[1:-1, 1:-1, 1:-1]] = rim
    return lungs.like(hu)


def test_voxels_that_are_partly_wall_are_as_the_lung_beneath(lungs):
    exp, insp = scan(lungs, -700, -650, -500), scan(lungs, -850, -820, -550)
    clear, free_exp, free_insp = _clear_of_wall(lungs, exp, insp, 1.0)
    for free, left, right in ((free_exp, -700, -650), (free_insp, -850, -820)):
        np.testing.assert_allclose(free.array[lungs.array == 1], left, atol=1e-3)
        np.testing.assert_allclose(free.array[lungs.array == 2], right, atol=1e-3)
        assert np.isnan(free.array[lungs.array == 0]).all()
    assert not clear.array[lungs.array == 0].any()
    assert clear.array.sum() == 2 * 14 * 18 * 17


def test_how_far_the_wall_reaches_goes_with_the_voxels_of_the_scans(lungs):
    hu = scan(lungs, -700, -700, -500)
    kept = [int(_clear_of_wall(lungs, hu, hu, mm)[0].array.sum()) for mm in (0.7, 1.0, 3.0)]
    assert kept[0] == kept[1] == 2 * 14 * 18 * 17
    assert kept[2] == 2 * 12 * 16 * 15


def test_a_sliver_keeps_what_it_shows(lungs):
    thin = lungs.like(np.where(np.arange(20)[:, None, None] < 4, lungs.array, 0).astype(np.uint8))
    hu = thin.like(np.where(thin.array > 0, -600, np.nan).astype(np.float32))
    clear, free, _ = _clear_of_wall(thin, hu, hu, 3.0)
    assert (free.array[thin.array > 0] == -600).all()
    assert (clear.array == (thin.array > 0)).all()
