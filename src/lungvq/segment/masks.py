"""Lung masks that a user brings along."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, label

from lungvq.anatomy import LEFT, RIGHT
from lungvq.errors import GeometryError, InputError
from lungvq.segment._coarse import coarsen
from lungvq.segment.lungs import COARSE_MM, find_body, part_by_side
from lungvq.volume import Volume

__all__ = ["lungs_from_mask"]


def lungs_from_mask(mask: Volume, ct: Volume) -> Volume:
    """Left and right lung of a user's mask.

    Parameters
    ----------
    mask : Volume
        Nonzero is lung. Where it holds both 1 and 2, and nothing else, these are left and right; otherwise
        sides come from geometry.
    ct : Volume
        The scan it belongs to, on the same grid, both in canonical order.

    Returns
    -------
    Volume
        uint8, 1 left, 2 right.

    Raises
    ------
    GeometryError
        If mask and scan lie on different grids.
    InputError
        If the mask is empty.
    """
    if not mask.grid.same_as(ct.grid):
        raise GeometryError(
            f"the mask does not lie on the grid of its scan: expected {ct.shape} voxels of"
            f" {_mm(ct)} mm, got {mask.shape} of {_mm(mask)} mm, or another origin"
        )
    inside = mask.array > 0
    if not inside.any():
        raise InputError("the mask is empty: no voxel of it is nonzero")
    if set(np.unique(mask.array).tolist()) - {0} == {LEFT, RIGHT}:
        return mask.like(mask.array.astype(np.uint8))
    coarse = coarsen(ct, COARSE_MM)
    share = mask.like(inside.astype(np.float32)).resample(coarse.grid, fill=0.0)
    pieces, _ = label(share.array > 0.5)
    sides = part_by_side(coarse, pieces.astype(np.int32), find_body(coarse).midline_mm)
    nearest = distance_transform_edt(sides == 0, return_distances=False, return_indices=True)
    everywhere = coarse.like(sides[tuple(nearest)]).resample_labels(mask.grid).array
    return mask.like(np.where(inside, everywhere, 0).astype(np.uint8))


def _mm(volume: Volume) -> str:
    return "x".join(f"{s:.3g}" for s in volume.spacing)
