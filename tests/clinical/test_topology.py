"""Bodies whose surface, curvature and Euler number are known, on voxels of any shape."""

import numpy as np
import pytest
from skimage.measure import euler_number

from lungvq.clinical.topology import coarse_labels, minkowski_map, minkowski_weights

SPACINGS = [(1.0, 1.0, 1.0), (2.5, 0.7, 0.7), (1.0, 2.0, 1.5)]


def whole(body, spacing):
    return minkowski_map(body, spacing).reshape(3, -1).sum(axis=1, dtype=np.float64)


def places(spacing, reach=22.0):
    axes = [np.arange(-reach, reach, s) + 0.31 * s for s in spacing]
    return np.meshgrid(*axes, indexing="ij", sparse=True)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_round_bodies_have_their_surface_and_curvature_on_any_voxels(spacing):
    z, y, x = places(spacing)
    radius = np.sqrt(z * z + y * y + x * x)
    tube = np.hypot(np.hypot(x, y) - 13, z)
    # A ball; a ball with a hollow, which curves inwards; a ring of 13 mm with a tube of 8 mm, which has one tunnel.
    for body, surface, curvature, euler in (
        (radius < 20, 4 * np.pi * 400, 4 * np.pi * 20, 1),
        ((radius < 20) & (radius > 12), 4 * np.pi * (400 + 144), 4 * np.pi * (20 - 12), 2),
        (tube < 8, 4 * np.pi**2 * 13 * 8, 2 * np.pi**2 * 13, 0),
    ):
        found = whole(body, spacing)
        assert found[0] == pytest.approx(surface, rel=0.05)
        assert found[1] == pytest.approx(curvature, rel=0.07)
        assert found[2] == pytest.approx(euler, abs=1e-4)


def test_a_cube_turned_off_the_axes_has_its_surface_and_one_along_them_a_tenth_less():
    z, y, x = places((1.0, 1.0, 1.0), reach=20.0)
    along = whole((abs(z) < 12) & (abs(y) < 12) & (abs(x) < 12), (1, 1, 1))
    assert along == pytest.approx([0.91 * 6 * 24**2, 0.91 * 3 * np.pi * 24, 1], rel=0.02)
    axes = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    inside = np.ones((1, 1, 1), bool)
    for a in axes:
        inside = inside & (abs(a[0] * z + a[1] * y + a[2] * x) < 10)
    assert whole(inside, (1, 1, 1)) == pytest.approx([6 * 20**2, 3 * np.pi * 20, 1], rel=0.06)


def test_one_voxel_by_hand():
    """Of eight cells around it, each sees one corner."""
    weights = minkowski_weights((2.0, 2.0, 2.0))
    assert weights[[0, 255]] == pytest.approx(np.zeros((2, 3)), abs=1e-9)
    assert whole(np.ones((1, 1, 1), bool), (2, 2, 2)) == pytest.approx(8 * weights[1], rel=1e-6)
    # Every line of the 13 through it crosses twice; every plane cuts it in one piece.
    steps = np.array([(2.0, 3), (2 * 2**0.5, 6), (2 * 3**0.5, 4)])
    areas = 8 / steps[:, 0]
    assert 4 * areas.min() < 8 * weights[1, 0] < 4 * areas.max()
    assert 8 * weights[1, 2] == pytest.approx(1)


def test_euler_numbers_are_those_of_another_library_and_no_matter_of_spacing():
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        body = rng.random((11, 12, 13)) < share
        assert whole(body, (3, 1, 0.7))[2] == pytest.approx(euler_number(body, connectivity=3), abs=1e-2)


def test_regions_add_up_and_a_body_at_the_edge_is_closed():
    body = np.random.default_rng(1).random((9, 8, 7)) < 0.4
    assert whole(body, (1, 2, 3)) == pytest.approx(whole(np.pad(body, 3), (1, 2, 3)), rel=1e-5)
    mapped = minkowski_map(body, (1, 2, 3))
    assert not mapped[:, ~body].any()
    assert not minkowski_map(np.zeros((2, 3, 4), bool), (1, 1, 1)).any()


def test_the_commonest_label_of_blocks_of_three_mm_in_voxels_of_two():
    labels = np.array([1, 1, 2, 2, 3, 3, 0, 1, 2, 2], np.uint8)
    # Blocks hold one voxel and half of the next, then the other half and one: 11, 12, 23, 33, 01, 22 and, beyond, 20.
    expected = [1, 2, 2, 3, 0, 2, 2]
    for axis in range(3):
        shape, spacing = [1, 1, 1], [3.0, 3.0, 3.0]
        shape[axis], spacing[axis] = labels.size, 2.0
        found, sides = coarse_labels(labels.reshape(shape), tuple(spacing), 3.0, 4)
        assert found.ravel().tolist() == expected
        assert sides == (3, 3, 3)
    found, sides = coarse_labels(labels.reshape(1, 1, -1), (1, 1, 5), 3.0, 4)
    # A third of a block in the other two axes: the rest of it is beyond the array.
    assert not found.any()
    assert sides == (3, 3, 5)


@pytest.mark.parametrize("spacing", [(0.75, 0.75, 0.75), (1.0, 1.0, 1.0), (2.5, 1.5, 1.5), (3.0, 0.7, 0.7)])
def test_on_blocks_of_three_mm_voxels_do_not_matter(spacing):
    """Balls of 9 mm, 25 mm apart, so that blocks cut each of them otherwise."""
    z, y, x = (np.mod(a, 25.0) - 12.5 for a in np.ogrid[tuple(slice(0, 75, s) for s in spacing)])
    z, y, x = (a + s / 2 for a, s in zip((z, y, x), spacing, strict=True))
    body = (z * z + y * y + x * x < 81).astype(np.uint8)
    blocks, sides = coarse_labels(body, spacing, 3.0, 2)
    found = whole(blocks > 0, sides) / 27
    assert sides == (3, 3, 3)
    assert found == pytest.approx([4 * np.pi * 81, 4 * np.pi * 9, 1], rel=0.06)
