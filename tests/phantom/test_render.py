"""Tubes in voxels: as much as they hold, and full where they are wider than a voxel."""

import numpy as np
import pytest

from lungvq.phantom.render import FULL, draw_tubes

H = 3.0  # mm
AFFINE = np.array([[0, 0, H, -31.0], [0, H, 0, -30.0], [H, 0, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.6, 1.8, 3.0, 8.5])
def test_a_tube_holds_its_cross_section(radius):
    lobes, width = np.zeros((5, 21, 21), np.uint8), np.array([radius])
    areas = []
    for y in np.arange(0.3, H, 0.6):  # thin tubes hold it on average over where they lie among voxels
        for x in np.arange(0.3, H, 0.6):
            out = np.zeros(lobes.shape, np.uint16)
            ends = np.array([[x, y, -30.0]]), np.array([[x, y, 90.0]])
            draw_tubes(*ends, width, width, np.zeros(1, np.int64), lobes, AFFINE, out)
            areas.append(out[2].sum(dtype=float) / FULL * H**2)
            if radius > 2 * H:
                assert out[2].max() == int(FULL)
    assert np.mean(areas) == pytest.approx(np.pi * radius**2, rel=0.01)
