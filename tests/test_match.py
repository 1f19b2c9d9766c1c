"""Two scans on one grid: the quick way to a coarser grid against the plain one."""

import numpy as np
import pytest

from lungvq.match import _coarser
from lungvq.volume import Volume


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 2.5, 1.7), (0.8, 0.7, 0.7)])
def test_a_coarser_grid_axis_by_axis_is_resampling(spacing):
    rng = np.random.default_rng(5)
    affine = np.diag([0.8, 0.7, 0.7, 1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = 5.0, -7.0, 100.0
    volume = Volume(rng.normal(-700, 100, (21, 18, 25)).astype(np.float32), affine)
    grid = volume.grid.with_spacing(spacing)
    (found,) = _coarser(volume.grid, grid, volume.array)
    np.testing.assert_allclose(found, volume.resample(grid, fill=0.0).array, rtol=1e-5, atol=1e-3)
