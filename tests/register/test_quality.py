"""Quality of a registration, where it can be worked out by hand."""

import numpy as np
import pytest

from lungvq.register.quality import Evidence, measure


def evidence(mask, surface_mm, height, expected):
    some = np.full(mask.shape, 1.5, np.float32)
    return Evidence(
        mask=mask,
        warped_mask=mask,
        surface_mm=np.array(surface_mm, np.float32),
        surface_height=np.array(height, np.float32),
        expected_error=expected.astype(np.float32),
        jacobian=some,
        before=some / 3,
        after=some / 2,
        motion_mm=some,
        voxel_ml=0.008,
        volume_moving_ml=1.5 * mask.sum() * 0.008,
        parts=2,
    )


def test_surfaces_are_told_by_thirds_of_height_and_errors_by_shells_under_the_pleura():
    mask = np.zeros((24, 40, 40), bool)
    mask[2:-2, 2:-2, 2:-2] = True  # 20 x 36 x 36 voxels of 2 mm: 20 mm deep
    k, j, i = np.indices(mask.shape)
    layer = np.minimum.reduce([k - 2, 21 - k, j - 2, 37 - j, i - 2, 37 - i])  # 0: at the surface, 1 mm deep
    found = measure(
        [evidence(mask, [2, 4, 1, -1, 0.5], [0.0, 0.2, 0.5, 0.9, 1.0], np.where(layer < 1, 3.0, 1.0))]
    )
    assert found.surface_thirds_mm == pytest.approx((3, 1, 0.75))
    # Layers lie 1, 3, 5 ... mm deep, so that the outermost alone is in the first shell.
    assert found.expected_error_mm[:4] == pytest.approx((3, 1, 1, 1))
    assert np.isnan(found.expected_error_mm[4])  # no voxel is 20 mm deep
    assert found.parts == 2
