"""Lung densities without what voxels beside the pleura have of the chest wall.

A voxel that is partly wall is denser than the lung in it, the more so the more air there is: breathing in seems to
bring mass to the pleura, and too little air. Such voxels get the mean of the lung beneath them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

from lungvq.anatomy import LUNGS
from lungvq.breath import Breath
from lungvq.hu import density
from lungvq.pair import LungTotals
from lungvq.regional import Neighbourhoods, carry, reaching_out, within
from lungvq.volume import Volume, box_around

__all__ = ["LungHu", "clear_of_wall", "lung_hu", "wall_reach"]

_BENEATH_MM = 4.0  # sigma of the mean that stands for voxels which are partly wall


@dataclass(frozen=True)
class LungHu:
    """CT numbers of the lungs of one scan, free of wall, and what the lungs hold by them.

    Parameters
    ----------
    hu : Volume
        Calibrated, float32; continued beyond the lungs, so that it can be carried to other grids.
    wall_mm : float
        How far beneath the surface voxels may have been partly wall.
    held : dict of str to LungTotals
        Of each lung: the volume of its mask on the scan's own voxels, and the gas and mass that fill it.
    """

    hu: Volume
    wall_mm: float
    held: dict[str, LungTotals]


def wall_reach(*breaths: Breath) -> float:
    """How far beneath the surface voxels may be partly wall, mm: one voxel of the coarsest scan."""
    return max(breath.ct.grid.voxel_mm for breath in breaths)


def lung_hu(breath: Breath, spacing: Sequence[float], wall_mm: float) -> LungHu:
    """Of one breath-hold, as smooth as it is to be, on its own grid but no finer than `spacing`.

    Parameters
    ----------
    breath : Breath
    spacing : sequence of float
        Of slices, rows and columns, mm.
    wall_mm : float
        How far beneath the surface voxels may be partly wall.
    """
    grid = breath.ct.grid.with_spacing([max(a, b) for a, b in zip(breath.ct.spacing, spacing, strict=True)])
    mask = (breath.anatomy.lungs.array > 0).astype(np.float32)
    scanned = breath.as_smooth(breath.calibrate(breath.ct.array))
    above, below = (breath.ct.like(part).resample(grid, fill=0.0).array for part in (scanned * mask, mask))
    lungs = breath.anatomy.lungs.resample_labels(grid)
    mean = np.full(above.shape, np.nan, np.float32)
    np.divide(above, below, out=mean, where=below > 0.05)
    hu = reaching_out(clear_of_wall(within(lungs.like(mean), lungs), lungs, wall_mm)[0])
    per_ml = density(hu.resample(breath.ct.grid, antialias=False).array)
    held = {}
    for name, label in LUNGS.items():
        volume = breath.volumes_ml[name]
        mass = float(per_ml[breath.anatomy.lungs.array == label].sum(dtype=np.float64)) * breath.ct.voxel_ml
        held[name] = LungTotals(volume, volume - mass, mass)
    return LungHu(hu, wall_mm, held)


def clear_of_wall(hu: Volume, lungs: Volume, wall_mm: float) -> tuple[Volume, Volume]:
    """CT numbers of the lungs, those of voxels that may be partly wall replaced by the mean of the lung beneath.

    Parameters
    ----------
    hu, lungs : Volume
    wall_mm : float
        None of the outermost voxels is free of wall, nor any within this of the surface.

    Returns
    -------
    hu : Volume
        Where nothing lies beneath, as in slivers, as it was; NaN outside the lungs.
    own : Volume of bool
        Where it is as it was.
    """
    deep = np.zeros(lungs.shape, bool)
    half = min(lungs.spacing) / 2
    for label in LUNGS.values():
        lung = lungs.array == label
        if lung.any():
            box = box_around(lung)
            inside = np.pad(lung[box], 1)
            depth = distance_transform_edt(inside, sampling=lungs.spacing) - half
            # Thick slices may be wall as far as they go: the outermost voxels along any axis are left out.
            clear = binary_erosion(inside) & (depth > max(wall_mm, half))
            deep[box] |= clear[1:-1, 1:-1, 1:-1]
    mean = carry(Neighbourhoods(lungs, _BENEATH_MM, deep).mean(hu.array), lungs)
    own = (deep | ~np.isfinite(mean)) & (lungs.array > 0)
    return hu.like(np.where(own, hu.array, mean)), lungs.like(own)
