"""Vessels within the lungs: what stands out from the parenchyma around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungvq.segment._coarse import box_around, erode
from lungvq.volume import Volume

MIN_CONTRAST_HU = 220.0
MIN_VESSEL_MM3 = 40.0
BACKGROUND_MM = 12.0


def find_vessels(ct: Volume, lungs: NDArray[np.uint8], airways: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A binary mask of the pulmonary vessels that the voxels resolve.

    A voxel is vessel where it exceeds the mean of the parenchyma around it (vessels clipped, 12 mm
    sigma) by a third of the contrast to blood, but at least 220 HU and four noise SDs: a voxel that a
    vessel fills to a third counts, noise does not. Two millimetres (at least a voxel) under the pleura
    are left out, where the chest wall shines in.

    Parameters
    ----------
    ct : Volume
        HU, any spacing.
    lungs, airways : ndarray of uint8
        On the grid of `ct`.

    Returns
    -------
    ndarray of uint8
        1 in vessels.
    """
    out = np.zeros(ct.shape, np.uint8)
    if not lungs.any():
        return out
    box = box_around(lungs > 0, (1, 1, 1))
    hu = ct.array[box]
    mask = lungs[box] > 0
    level = float(np.median(hu[mask]))
    background, weight = _parenchyma(ct.crop(box), mask, level)
    contrast = hu - background
    difference = np.diff(hu[:, ::2, ::2].astype(np.float32), axis=2)
    noise = 1.4826 * float(np.median(np.abs(difference[mask[:, ::2, ::2][:, :, 1:]]))) / np.sqrt(2)
    limit = np.maximum(max(MIN_CONTRAST_HU, 4 * noise), (40.0 - background) / 3)
    deep = erode(mask, max(2.0, 1.01 * max(ct.spacing[1:])), ct.spacing)
    found = deep & (contrast > limit) & (airways[box] == 0) & (weight > 0)
    labels, _ = ndimage.label(found, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel()) * ct.voxel_ml * 1000
    keep = sizes >= MIN_VESSEL_MM3
    keep[0] = False
    out[box] = keep[labels]
    return out


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
