"""Distances and block means against a second route."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from lungvq.segment._coarse import close, coarsen, distance_to
from lungvq.segment.padding import padding_of
from lungvq.volume import Volume


def test_distances_agree_with_scipy_up_to_their_reach():
    rng = np.random.default_rng(1)
    mask = rng.random((17, 23, 29)) < 0.003
    spacing = (3.1, 1.7, 0.9)
    expected = ndimage.distance_transform_edt(~mask, sampling=spacing)
    found = distance_to(mask, spacing, 9.0)
    near = expected <= 9.0
    np.testing.assert_allclose(found[near], expected[near], rtol=1e-5)
    assert np.isinf(found[expected > 9.01]).all()


def test_nothing_is_infinitely_far():
    assert np.isinf(distance_to(np.zeros((4, 5, 6), bool), (1.0, 1.0, 1.0), 50.0)).all()


def test_closing_fills_a_narrow_cleft_and_keeps_a_wide_one():
    mask = np.ones((30, 40, 60), bool)
    mask[:, 20:, 10:14] = False  # 4 mm wide
    mask[:, 20:, 30:50] = False  # 20 mm wide
    closed = close(mask, 4.0, (1.0, 1.0, 1.0))
    assert closed[15, 30, 12]
    assert not closed[15, 30, 40]


def test_block_means_keep_the_place():
    z, y, x = np.meshgrid(np.arange(8.0), np.arange(10.0), np.arange(12.0), indexing="ij")
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[:3, :3] = np.array([[0, 0, 0.6], [0, 0.8, 0], [1.2, 0, 0]])
    ct = Volume((10 * z + 20 * y + 30 * x).astype(np.int16), affine)
    coarse = coarsen(ct, 2.4)
    assert coarse.shape == (4, 4, 3)
    # A linear function has the block's mean at the block's centre.
    centres = coarse.grid.world(np.argwhere(coarse.array[:, :3, :] > -1))
    expected = ct.sample(centres)
    np.testing.assert_allclose(coarse.array[:, :3, :].ravel(), expected, rtol=1e-5)


@pytest.mark.parametrize("filled_hu", [-1000, -1024, -2000, -3024])
def test_padding_does_not_dilute_the_wall_beside_it(filled_hu):
    hu = np.full((4, 6, 6), 40, np.int16)
    hu[:, :, 3:] = filled_hu  # half of the middle blocks, all of the last
    coarse = coarsen(Volume(hu, np.diag([1.0, 1.0, 1.0, 1.0])), 2.0)
    np.testing.assert_array_equal(coarse.array, np.broadcast_to([40.0, 40.0, -1024.0], (2, 3, 3)))


def test_dark_noise_is_no_padding():
    hu = np.full((4, 4, 4), -1000, np.int16)
    hu[::2] = -990  # what was scanned varies
    hu[1, 2, 3] = -1300
    assert not padding_of(hu).any()
    hu[1, 2, 3] = -1500
    assert np.argwhere(padding_of(hu)).tolist() == [[1, 2, 3]]


def test_padding_counts_as_air():
    ct = Volume(np.full((4, 4, 4), -3024, np.int16), np.eye(4))
    assert coarsen(ct, 2.0).array == pytest.approx(-1024)
