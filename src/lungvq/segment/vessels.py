"""Vessels within the lungs: what stands out from the parenchyma around it, and lines too thin to do so by much."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungvq._parallel import PRANGE
from lungvq.errors import GeometryError
from lungvq.segment._coarse import dilate, erode
from lungvq.volume import Volume, box_around

__all__ = ["SMALL_MM2", "find_vessels", "small_vessel_density", "small_vessels", "vessel_sizes"]

BLOOD_HU = 40.0
MIN_CONTRAST_HU = 220.0
MIN_VESSEL_MM3 = 40.0
BACKGROUND_MM = 12.0
WALL_MM = 1.0  # around an airway's lumen

# Thin vessels
LINE_VOXELS = 0.7  # sigma of the smoothing, in voxels of 0.8 mm or more
LINE_SDS, MIN_LINE_HU = 3.0, 60.0  # above the parenchyma, after smoothing
ROUND = 0.4  # the lesser curvature of a line across itself is at least so much of the greater
FLAT = 0.15  # that of a plate is less

SMALL_MM2 = 5.0
"""Cross-section below which a vessel is small, as in BV5."""
SIZE_MM = 1.2  # sigma of the neighbourhood in which the cross-section is measured
BLUR_MM2 = 0.1  # variance of what scanners blur besides averaging over a voxel
NEAR_AXIS_MM = 1.5  # the axis of a small vessel is no farther from any of its voxels

Floats = NDArray[np.float32]


def find_vessels(ct: Volume, lungs: NDArray[np.uint8], airways: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A binary mask of the voxels that pulmonary vessels run through, as far as they show.

    Two kinds of voxels, where they hang together to at least 40 mm3:

    - those that exceed the mean of the parenchyma around them (vessels clipped, 12 mm sigma) by a third of
      the contrast to blood, but at least 220 HU and four noise SDs: a vessel fills a third of them or more.
      Plates among these (fissures, septa) are left out where no thicker vessel is near;
    - those on bright lines: smoothed a little, they exceed the parenchyma by three of its SDs there (at least
      60 HU), and curve down across the line in both directions, one at least 0.4 times as much as the other.

    Two millimetres (at least a voxel) under the pleura are left out, where the chest wall shines in, and 1 mm
    around the lumen of airways, their walls.

    Parameters
    ----------
    ct : Volume
        HU, any spacing.
    lungs, airways : ndarray of uint8
        On the grid of `ct`.

    Returns
    -------
    ndarray of uint8
        1 in vessels. A voxel may be filled to a tenth: for volumes use `vessel_sizes`.
    """
    out = np.zeros(ct.shape, np.uint8)
    if not lungs.any():
        return out
    box = box_around(lungs > 0, (1, 1, 1))
    mask, spacing = lungs[box] > 0, ct.spacing
    contrast, weight = _contrast(ct, box, mask)
    difference = np.diff(ct.array[box][:, ::2, ::2].astype(np.float32), axis=2)
    noise = 1.4826 * float(np.median(np.abs(difference[mask[:, ::2, ::2][:, :, 1:]]))) / np.sqrt(2)
    deep = erode(mask, max(2.0, 1.01 * max(spacing[1:])), spacing) & (weight > 0)
    deep &= ~dilate(airways[box] > 0, WALL_MM, spacing)
    background = ct.array[box] - contrast
    strong = deep & (contrast > np.maximum(max(MIN_CONTRAST_HU, 4 * noise), (BLOOD_HU - background) / 3))
    del background
    sigma = LINE_VOXELS * max(min(spacing), 0.8)
    smooth = ndimage.gaussian_filter(contrast, [max(0.25, sigma / s) for s in spacing], truncate=2.5)
    sample = smooth[::2, ::2, ::2][deep[::2, ::2, ::2]]
    low, middle = np.percentile(sample, (16, 50)) if sample.size else (0.0, 0.0)
    least = max(MIN_LINE_HU, float(middle + LINE_SDS * (middle - low)))
    form = _form(smooth, deep, np.array(spacing), least, ROUND, FLAT)
    thick = strong & (form != _PLATE)
    # the rim of a thick vessel curves like a plate: it stays
    strong &= dilate(thick, 1.01 * max(1.5, *spacing[1:]), spacing)
    labels, _ = ndimage.label(strong | (form == _LINE), np.ones((3, 3, 3)))
    keep = np.bincount(labels.ravel()) * ct.voxel_ml * 1000 >= MIN_VESSEL_MM3
    keep[0] = False
    out[box] = keep[labels]
    return out


_LINE, _PLATE = 1, 2


@numba.njit(parallel=PRANGE, cache=True)
def _form(values, where, spacing, least, round_from, flat_to):
    """Where values above `least` lie on a bright line (1) or plate (2), by their curvatures."""
    nz, ny, nx = values.shape
    out = np.zeros(values.shape, np.uint8)
    sz, sy, sx = spacing
    for k in numba.prange(1, nz - 1):
        for j in range(1, ny - 1):
            for i in range(1, nx - 1):
                v = values[k, j, i]
                if v < least or not where[k, j, i]:
                    continue
                n = values[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2]
                zz = (n[2, 1, 1] - 2 * v + n[0, 1, 1]) / (sz * sz)
                yy = (n[1, 2, 1] - 2 * v + n[1, 0, 1]) / (sy * sy)
                xx = (n[1, 1, 2] - 2 * v + n[1, 1, 0]) / (sx * sx)
                zy = (n[2, 2, 1] - n[2, 0, 1] - n[0, 2, 1] + n[0, 0, 1]) / (4 * sz * sy)
                zx = (n[2, 1, 2] - n[2, 1, 0] - n[0, 1, 2] + n[0, 1, 0]) / (4 * sz * sx)
                yx = (n[1, 2, 2] - n[1, 2, 0] - n[1, 0, 2] + n[1, 0, 0]) / (4 * sy * sx)
                # eigenvalues of a symmetric matrix, by the angle of its cubic
                mean = (zz + yy + xx) / 3
                a, b, c = zz - mean, yy - mean, xx - mean
                p = np.sqrt((a * a + b * b + c * c + 2 * (zy * zy + zx * zx + yx * yx)) / 6)
                if p < 1e-6:
                    continue
                det = a * (b * c - yx * yx) - zy * (zy * c - yx * zx) + zx * (zy * yx - b * zx)
                angle = np.arccos(min(1.0, max(-1.0, det / (2 * p * p * p)))) / 3
                along = mean + 2 * p * np.cos(angle)
                steep = mean + 2 * p * np.cos(angle + 2 * np.pi / 3)
                middle = 3 * mean - along - steep
                if steep >= 0:
                    continue
                if middle < round_from * steep and along > 0.5 * middle:
                    out[k, j, i] = 1
                elif middle > flat_to * steep:
                    out[k, j, i] = 2
    return out


class VesselSizes(NamedTuple):
    """How much of each voxel is vessel, and how thick the vessel is; on the box of the lungs.

    Parameters
    ----------
    filled : Volume of float32
        Share of the voxel that is blood, 0 to 1 but for noise around vessels, 0 elsewhere.
    area : Volume of float32
        Cross-section of the vessel, mm2; 0 elsewhere.
    """

    filled: Volume
    area: Volume


def vessel_sizes(
    ct: Volume, lungs: NDArray[np.uint8], vessels: NDArray[np.uint8], airways: NDArray[np.uint8]
) -> VesselSizes:
    """Volume and cross-section of vessels, from the HU of the voxels they share with parenchyma.

    A voxel of the mask, and its neighbours, are blood to the share that their HU lie between that of the
    parenchyma around and 40 HU. The mean s of this share under a Gaussian of variance v on the axis of a
    straight vessel of radius r is ``1 - exp(-r^2 / 2 v)``, however coarse the voxels, so that its
    cross-section is ``-2 pi v log(1 - s)``. Each voxel takes the largest value within 1.5 mm: that of the axis.

    Parameters
    ----------
    ct : Volume
        HU, any spacing.
    lungs, vessels, airways : ndarray of uint8
        On the grid of `ct`.

    Returns
    -------
    VesselSizes
        On the part of the grid that holds the lungs.
    """
    if not lungs.any():
        nothing = ct.crop((slice(0, 1), slice(0, 1), slice(0, 1)))
        nothing = nothing.like(np.zeros(nothing.shape, np.float32))
        return VesselSizes(nothing, nothing)
    box = box_around(lungs > 0, (1, 1, 1))
    part, mask = ct.crop(box), lungs[box] > 0
    near = _grown(vessels[box] > 0) & mask & (airways[box] == 0)
    contrast, _ = _contrast(ct, box, mask)
    filled = np.zeros(part.shape, np.float32)
    own = contrast[near]
    filled[near] = np.clip(own / np.maximum(own + BLOOD_HU - part.array[near], 100.0), -0.3, 1.0)
    del contrast
    share = ndimage.gaussian_filter(filled, [SIZE_MM / s for s in ct.spacing], truncate=3.0)
    share[~near] = 0
    share = ndimage.maximum_filter(share, [2 * round(NEAR_AXIS_MM / s) + 1 for s in ct.spacing])
    variance = SIZE_MM**2 + BLUR_MM2 + float(np.mean(np.square(ct.spacing))) / 12
    area = np.zeros(part.shape, np.float32)
    area[near] = -2 * np.pi * variance * np.log1p(-np.clip(share[near], 0, 0.98))
    return VesselSizes(part.like(filled), part.like(area))


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask and the voxels that share a face with it."""
    out = mask.copy()
    for axis in range(3):
        to, own = np.moveaxis(out, axis, 0), np.moveaxis(mask, axis, 0)
        to[1:] |= own[:-1]
        to[:-1] |= own[1:]
    return out


def small_vessels(ct: Volume, sizes: VesselSizes, *, below_mm2: float = SMALL_MM2) -> Volume:
    """Share of each voxel of `ct` that is blood in vessels of a cross-section below `below_mm2`, float32."""
    small = np.where(sizes.area.array < below_mm2, sizes.filled.array, np.float32(0))
    return sizes.filled.like(small).paste_into(ct.grid, 0.0)


def small_vessel_density(small: Volume, regions: Volume) -> dict[int, float]:
    """mL of small vessels per mL of each region (BV5 per volume).

    Parameters
    ----------
    small : Volume
        From `small_vessels`.
    regions : Volume of int
        Labels on the same grid; 0 belongs to no region.

    Returns
    -------
    dict of int to float
        By label, of those that occur.

    Raises
    ------
    GeometryError
        If the grids differ.
    """
    if not small.grid.same_as(regions.grid):
        raise GeometryError("expected the regions on the grid of the vessels")
    labels = regions.array.ravel()
    count = np.bincount(labels)
    total = np.bincount(labels, small.array.ravel())
    return {int(n): float(total[n] / count[n]) for n in np.flatnonzero(count) if n}


def _contrast(ct: Volume, box: tuple[slice, slice, slice], mask: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """HU above the parenchyma around, and the weight of that parenchyma, in a box."""
    part = ct.crop(box)
    level = float(np.median(part.array[mask])) if mask.any() else 0.0
    background, weight = _parenchyma(part, mask, level)
    return np.subtract(part.array, background, dtype=np.float32), weight


def _parenchyma(part: Volume, mask: NDArray[np.bool_], level: float) -> tuple[np.ndarray, np.ndarray]:
    """Smooth HU of the lung around each voxel, and its weight, vessels clipped away."""
    factors = [max(1, round(4.0 / s)) for s in part.spacing]
    step = tuple(slice(f // 2, None, f) for f in factors)
    sparse = part.array[step].astype(np.float32)
    inside = (mask[step] & (sparse < level + 200)).astype(np.float32)
    sigma = [BACKGROUND_MM / (s * f) for s, f in zip(part.spacing, factors, strict=True)]
    weight = ndimage.gaussian_filter(inside, sigma, mode="constant")
    mean = ndimage.gaussian_filter(inside * sparse, sigma, mode="constant") / np.maximum(weight, 1e-6)
    mean[weight < 1e-4] = level
    return _enlarge(mean, factors, part.shape), _enlarge(weight, factors, part.shape)


def _enlarge(array: np.ndarray, factors: list[int], shape: tuple[int, int, int]) -> np.ndarray:
    for axis, f in enumerate(factors):
        index = np.minimum(np.arange(shape[axis]) // f, array.shape[axis] - 1)
        array = np.take(array, index, axis=axis)
    return array
