"""Coarse copies of a scan and distances on them: the common ground of the segmentation steps."""

from __future__ import annotations

import numba
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lungvq.volume import Volume

AIR_FLOOR_HU = -1024
"""Padding values (-2000, -3024) are read as air."""


@numba.njit(parallel=True, cache=True)
def _block_mean(array, factors, floor):
    """Mean over blocks of `factors` voxels; the last block of an axis may be smaller."""
    fz, fy, fx = factors
    nz, ny, nx = array.shape
    mz, my, mx = -(-nz // fz), -(-ny // fy), -(-nx // fx)
    out = np.empty((mz, my, mx), np.float32)
    for k in numba.prange(mz):
        total = np.zeros((my, mx), np.float32)
        count = np.zeros((my, mx), np.float32)
        for kk in range(k * fz, min(nz, (k + 1) * fz)):
            for jj in range(ny):
                j = jj // fy
                for ii in range(nx):
                    i = ii // fx
                    total[j, i] += max(array[kk, jj, ii], floor)
                    count[j, i] += 1
        for j in range(my):
            for i in range(mx):
                out[k, j, i] = total[j, i] / count[j, i]
    return out


def coarsen(ct: Volume, target_mm: float) -> Volume:
    """Block means of a scan with voxels of about `target_mm`.

    Axes that are coarser already keep their spacing.

    Parameters
    ----------
    ct : Volume
        HU.
    target_mm : float
        Wanted voxel size.

    Returns
    -------
    Volume of float32
    """
    factors = [max(1, round(target_mm / s)) for s in ct.spacing]
    array = _block_mean(ct.array, (factors[0], factors[1], factors[2]), AIR_FLOOR_HU)
    affine = ct.affine.copy()
    affine[:3, :3] = ct.affine[:3, :3] * factors
    affine[:3, 3] = ct.grid.world((np.array(factors) - 1) / 2)
    return Volume(array, affine)


def distance_to(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> NDArray[np.float32]:
    """Distance in mm from every voxel to the nearest voxel of `mask`; 0 inside, infinite without any."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    distance: NDArray[np.float32] = np.maximum(sitk.GetArrayFromImage(signed), 0)
    return distance


def dilate(mask: NDArray[np.bool_], radius: float, spacing: tuple[float, float, float]) -> NDArray[np.bool_]:
    """All voxels within `radius` mm of `mask`."""
    grown: NDArray[np.bool_] = distance_to(mask, spacing) <= radius
    return grown


def erode(mask: NDArray[np.bool_], radius: float, spacing: tuple[float, float, float]) -> NDArray[np.bool_]:
    """The voxels of `mask` farther than `radius` mm from its complement; the image border does not erode."""
    core: NDArray[np.bool_] = distance_to(~mask, spacing) > radius
    return core


def close(mask: NDArray[np.bool_], radius: float, spacing: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Fill what a ball of `radius` mm cannot enter from outside."""
    return erode(dilate(mask, radius, spacing), radius, spacing) | mask


def signed_distance(
    mask: NDArray[np.bool_], spacing: tuple[float, float, float], reach: float
) -> NDArray[np.float32]:
    """Distance in mm to the surface of `mask`, positive inside, clipped at `reach`."""
    half = float(np.mean(spacing)) / 2
    outside = np.minimum(distance_to(mask, spacing), reach + half)
    inside = np.minimum(distance_to(~mask, spacing), reach + half)
    result: NDArray[np.float32] = np.where(mask, inside - half, half - outside)
    return result


def box_around(mask: NDArray[np.bool_], margin: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """The smallest box that holds a non-empty `mask`, with a margin of some voxels within the array."""
    box = []
    for axis, m in enumerate(margin):
        others = tuple(n for n in range(3) if n != axis)
        where = np.flatnonzero(mask.any(axis=others))
        box.append(slice(max(0, int(where[0]) - m), min(mask.shape[axis], int(where[-1]) + 1 + m)))
    return box[0], box[1], box[2]
