"""Parts of a lung that slide on one another, as lobes do along their fissures, each with a field of its own.

One smooth field for a whole lung is a compromise near a fissure along which lobes slide: both sides are dragged
along by the other. What lies deep in a part is hardly touched by that, so a part starts afresh from there. Where
nothing slides, one field for all knows more: which it is, is asked of the images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from lungvq.register.discrete import Level
from lungvq.register.field import Array, Mask, smooth
from lungvq.volume import Grid, Volume

__all__ = ["GAIN", "LEVEL", "border_mm", "loosened", "parts_at", "slides"]

LEVEL = Level(4, 2, 4)
"""The search from there on: with 2 mm voxels, nodes every 8 mm and 16 mm to each side."""

GAIN = 0.012
"""By how much local correlation near the border has to rise for parts to be said to slide.

On phantoms of 2 and 3 mm whose lobes slide by 8 to 14 mm it rose by 0.022 to 0.040, on those that do not by -0.011 to
0.003.
"""

_DRAGGED_MM = 10.0
_CARRY_ON = 3.0  # sigma over which what is deep in a part is carried on towards its borders, voxels


def parts_at(
    moving_parts: Volume, mask: Mask, motion: Array, grid: Grid, least_ml: float
) -> NDArray[np.uint8] | None:
    """The part each voxel belongs to, by where it is mapped; that of the nearest voxel outside the lung.

    Parameters
    ----------
    moving_parts : Volume, uint8
        On the moving scan's grid: the parts of the one lung, 0 elsewhere.
    mask : ndarray of bool, shape (K, J, I)
        The fixed lung on `grid`.
    motion : ndarray, shape (3, K, J, I)
        mm, along (k, j, i).
    grid : Grid
    least_ml : float
        A part of less than this goes to its neighbours.

    Returns
    -------
    ndarray of uint8, shape (K, J, I), or None
        None unless there are two parts or more.
    """
    displacement = Volume(np.ascontiguousarray(np.moveaxis(motion[::-1], 0, -1)), grid.affine)
    found: NDArray[np.uint8] = moving_parts.through(displacement, grid, fill=0, nearest=True).array.astype(
        np.uint8
    )
    found[~mask] = 0
    voxel_ml = float(np.prod(grid.spacing)) / 1000
    small = np.bincount(found.ravel(), minlength=256) * voxel_ml < least_ml
    found[small[found]] = 0
    if len(np.setdiff1d(found, 0)) < 2:
        return None
    nearest = distance_transform_edt(found == 0, return_distances=False, return_indices=True)
    return found[tuple(nearest)]


def border_mm(parts: NDArray[np.uint8], spacing_mm: float) -> Array:
    """Distance of each voxel from the nearest one of another part, mm; `parts` (K, J, I) numbers them."""
    border = np.zeros(parts.shape, bool)
    for axis in range(parts.ndim):
        one, next_to = (np.moveaxis(border, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        lines = np.moveaxis(parts, axis, 0)
        differ = lines[:-1] != lines[1:]
        one |= differ
        next_to |= differ
    distance: Array = ((distance_transform_edt(~border) + 1) * spacing_mm).astype(np.float32)
    return distance


def loosened(motion: Array, part: Mask, mask: Mask, border: Array) -> Array:
    """The motion of a part as it is deep inside, carried on towards other parts, which dragged it along there.

    Parameters
    ----------
    motion : ndarray, shape (3, K, J, I)
        Of the whole lung.
    part, mask : ndarray of bool, shape (K, J, I)
        The part, also beyond the lung; the lung.
    border : ndarray, shape (K, J, I)
        As `border_mm` has it.
    """
    free = np.where(part, np.minimum(border / np.float32(_DRAGGED_MM), 1), np.float32(0))
    carried = smooth(motion, (free**8 + np.float32(1e-6)) * (part & mask), _CARRY_ON)
    return carried + free * (motion - carried)


def slides(whole: Array, apart: Array, mask: Mask, border: Array) -> bool:
    """Whether fields of their own bring the parts of a lung to the other scan better than one field for all.

    Judged within 10 mm of the borders between parts and away from the pleura: where nothing slides, fields apart know
    less of what lies around, and do worse there.

    Parameters
    ----------
    whole, apart : ndarray, shape (K, J, I)
        Local correlation with either.
    mask : ndarray of bool, shape (K, J, I)
        The lung.
    border : ndarray, shape (K, J, I)
        As `border_mm` has it.
    """
    near = binary_erosion(mask, iterations=3) & (border < _DRAGGED_MM)
    return bool(near.any() and (apart - whole)[near].mean() > GAIN)
