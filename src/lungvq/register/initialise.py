"""Where to start: the box-like map that brings one lung's extent onto the other's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lungvq.register.field import Array

__all__ = ["moments_map"]

_SCALES = (0.6, 2.2)  # beyond these a lung has not breathed: one of the masks lacks a part


def moments_map(fixed: Array, moving: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and shift along each axis that match centre and spread of two lungs.

    Parameters
    ----------
    fixed, moving : ndarray, shapes (K, J, I) and (K', J', I')
        Share of each voxel that is lung, on grids of the same spacing.

    Returns
    -------
    scale, shift : ndarray, shape (3,)
        An index x of `fixed` starts at ``scale * x + shift`` in `moving`.
    """
    centre_f, spread_f = _moments(fixed)
    centre_m, spread_m = _moments(moving)
    scale = np.clip(spread_m / spread_f, *_SCALES)
    return scale, centre_m - scale * centre_f


def _moments(share: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the index along each axis."""
    total = float(share.sum(dtype=float))
    centre, spread = np.empty(3), np.empty(3)
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        profile = share.sum(axis=others, dtype=float) / total
        index = np.arange(share.shape[axis])
        centre[axis] = profile @ index
        spread[axis] = np.sqrt(profile @ (index - centre[axis]) ** 2 + 1 / 12)
    return centre, spread
