"""Coarse copies of a scan and distances on them: the common ground of the segmentation steps."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from lungvq._parallel import PRANGE
from lungvq.segment.padding import PADDING_HU, columns_beyond
from lungvq.volume import Volume

AIR_FLOOR_HU = -1024
"""Padding values (-2000, -3024) are read as air."""


@numba.njit(parallel=PRANGE, cache=True)
def _block_mean(array, beyond, factors, floor, padding):
    """Mean over what was scanned of blocks of `factors` voxels; the last block of an axis may be smaller."""
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
                    if not beyond[jj, ii] and array[kk, jj, ii] >= padding:
                        i = ii // fx
                        total[j, i] += max(array[kk, jj, ii], floor)
                        count[j, i] += 1
        for j in range(my):
            for i in range(mx):
                out[k, j, i] = total[j, i] / count[j, i] if count[j, i] else floor
    return out


def coarsen(ct: Volume, target_mm: float) -> Volume:
    """Block means of a scan with voxels of about `target_mm`.

    Axes that are coarser already keep their spacing. Padding in a block of which a part was scanned does not count:
    mixed with the chest wall it would look like lung.

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
    beyond = columns_beyond(ct.array)
    array = _block_mean(ct.array, beyond, (factors[0], factors[1], factors[2]), AIR_FLOOR_HU, PADDING_HU)
    affine = ct.affine.copy()
    affine[:3, :3] = ct.affine[:3, :3] * factors
    affine[:3, 3] = ct.grid.world((np.array(factors) - 1) / 2)
    return Volume(array, affine)


@numba.njit(parallel=PRANGE, cache=True)
def _distance(mask, spacing, reach):
    """Exact distance to `mask` where it is at most `reach`, else infinite: one axis after the other."""
    nz, ny, nx = mask.shape
    sz, sy, sx = spacing
    far = np.float32(reach * reach * 1.0001 + 1e-6)
    out = np.empty(mask.shape, np.float32)
    wide = int(reach / sy)
    for k in numba.prange(nz):
        row = np.empty((ny, nx), np.float32)
        some = np.zeros(ny, np.bool_)
        for j in range(ny):
            since = 1e9
            for i in range(nx):
                since = 0.0 if mask[k, j, i] else since + sx
                row[j, i] = since
                some[j] |= mask[k, j, i]
            since = 1e9
            for i in range(nx - 1, -1, -1):
                since = 0.0 if mask[k, j, i] else since + sx
                d = min(row[j, i], since)
                row[j, i] = d * d
        for j in range(ny):
            for i in range(nx):
                out[k, j, i] = np.inf
            for other in range(max(0, j - wide), min(ny, j + wide + 1)):
                if some[other]:
                    step = np.float32(((other - j) * sy) ** 2)
                    for i in range(nx):
                        out[k, j, i] = min(out[k, j, i], row[other, i] + step)
    tall = int(reach / sz)
    for j in numba.prange(ny):
        plane = np.empty((nz, nx), np.float32)
        for k in range(nz):
            for i in range(nx):
                plane[k, i] = out[k, j, i]
        for k in range(nz):
            for other in range(max(0, k - tall), min(nz, k + tall + 1)):
                step = np.float32(((other - k) * sz) ** 2)
                for i in range(nx):
                    out[k, j, i] = min(out[k, j, i], plane[other, i] + step)
            for i in range(nx):
                d = out[k, j, i]
                out[k, j, i] = np.sqrt(d) if d <= far else np.inf
    return out


def distance_to(
    mask: NDArray[np.bool_], spacing: tuple[float, float, float], reach: float
) -> NDArray[np.float32]:
    """Distance in mm from each voxel centre to the nearest one of `mask`, infinite beyond `reach` mm."""
    distance: NDArray[np.float32] = _distance(np.ascontiguousarray(mask), spacing, float(reach))
    return distance


def dilate(mask: NDArray[np.bool_], radius: float, spacing: tuple[float, float, float]) -> NDArray[np.bool_]:
    """All voxels within `radius` mm of `mask`."""
    grown: NDArray[np.bool_] = distance_to(mask, spacing, radius) <= radius
    return grown


def erode(mask: NDArray[np.bool_], radius: float, spacing: tuple[float, float, float]) -> NDArray[np.bool_]:
    """The voxels of `mask` farther than `radius` mm from its complement; the image border does not erode."""
    core: NDArray[np.bool_] = distance_to(~mask, spacing, radius) > radius
    return core


def close(mask: NDArray[np.bool_], radius: float, spacing: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Fill what a ball of `radius` mm cannot enter from outside."""
    return erode(dilate(mask, radius, spacing), radius, spacing) | mask


def signed_distance(
    mask: NDArray[np.bool_], spacing: tuple[float, float, float], reach: float
) -> NDArray[np.float32]:
    """Distance in mm to the surface of `mask`, positive inside, clipped at `reach`."""
    half = float(np.mean(spacing)) / 2
    outside = np.minimum(distance_to(mask, spacing, reach + half), reach + half)
    inside = np.minimum(distance_to(~mask, spacing, reach + half), reach + half)
    result: NDArray[np.float32] = np.where(mask, inside - half, half - outside)
    return result
