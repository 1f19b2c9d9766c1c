"""Where a lung mask ends, beside where the scan says that the lung does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungvq.volume import Volume

__all__ = ["surface_offset"]

_REACH_MM = 8.0  # along each ray, inwards and outwards
_STEP_MM = 0.5
_END_MM = 2.0  # of both ends of a ray, which must lie in lung and in what is around it
_WALL_HU = 0.0  # fat and all that is denser count as wall alike
_LEAST_WALL_HU = -150.0  # else the ray ends in other air
_DENSE_HU = 150.0  # above the lung's median: the ray begins in a vessel or opacity
_RAYS = 20_000


def surface_offset(ct: Volume, lungs: NDArray[np.uint8], coarse: Volume, sparse: NDArray[np.uint8]) -> float:
    """How far outside the middle between lung and wall the surface of a mask lies, mm; negative inside it.

    Along rays through the surface both the mask and the scan fall from lung to wall; the areas beneath the two
    profiles differ by the distance between their edges, however blurred these are. The median over the surface, but
    where a ray begins in a vessel or ends in air.

    Parameters
    ----------
    ct : Volume
        HU.
    lungs : ndarray of uint8
        On the grid of `ct`.
    coarse : Volume
        Block means of `ct`.
    sparse : ndarray of uint8
        The lungs on the grid of `coarse`.

    Returns
    -------
    float
        NaN where no ray can be used.
    """
    inside = sparse > 0
    rim = np.argwhere(inside & ~ndimage.binary_erosion(inside))
    if not len(rim):
        return float("nan")
    rim = rim[:: max(1, len(rim) // _RAYS)]
    soft = ndimage.gaussian_filter(inside.astype(np.float32), 1.5)
    slopes = [
        ndimage.correlate1d(soft, [-0.5, 0, 0.5], axis=a)[tuple(rim.T)] / s
        for a, s in enumerate(coarse.spacing)
    ]
    outwards = -np.stack(slopes, axis=1)
    outwards /= np.maximum(np.linalg.norm(outwards, axis=1, keepdims=True), 1e-9)
    mm = np.arange(-_REACH_MM, _REACH_MM + _STEP_MM / 2, _STEP_MM)
    start = ct.grid.index(coarse.grid.world(rim))
    at = (start[:, :, None] + (outwards / ct.spacing)[:, :, None] * mm).transpose(1, 0, 2)
    hu = ndimage.map_coordinates(ct.array, at, np.float32, order=1, mode="nearest")
    held = ndimage.map_coordinates((lungs > 0).view(np.uint8), at, np.float32, order=1)
    end = round(_END_MM / _STEP_MM)
    lung, wall = hu[:, :end].mean(axis=1), hu[:, -end:].mean(axis=1)
    good = (held[:, :end].min(axis=1) > 0.9) & (held[:, -end:].max(axis=1) < 0.1)
    good &= (lung < np.median(lung) + _DENSE_HU) & (lung < _LEAST_WALL_HU) & (wall > _LEAST_WALL_HU)
    if not good.any():
        return float("nan")
    lung = lung[good, None]
    air = np.clip((_WALL_HU - hu[good]) / (_WALL_HU - lung), 0, 1)
    return float(np.median(_STEP_MM * (held[good] - air).sum(axis=1)))
