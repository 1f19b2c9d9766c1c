"""What a place looks like, in 64 bits, whatever its density.

Breathing out changes the density of lung and the noise, so the CT numbers themselves do not match. What stays
is which of a voxel's neighbours resemble each other: the self-similarity context of Heinrich et al. (2013),
twelve patch distances around a voxel, here put in five steps each, so that two places are compared by one
exclusive-or and a bit count.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from lungvq._parallel import PRANGE
from lungvq.register.field import Array, Mask

__all__ = ["encode"]

_MASK_BITS = np.uint64(0xF << 60)
_ALL_ALIKE = np.uint64((1 << 60) - 1)
_LEVELS = np.log(6 / np.arange(1, 6))  # where exp(-x) passes 1/6, 2/6, ... 5/6
_FACES = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
_PAIRS = np.array(
    [
        (*a, *b)
        for m, a in enumerate(_FACES)
        for b in _FACES[m + 1 :]
        if any(p + q for p, q in zip(a, b, strict=True))
    ]
)  # (12, 6): the neighbours of a voxel that are not opposite


@numba.njit(parallel=PRANGE, cache=True)
def _patch_distances(padded, pairs, out):
    """To `out` (12, K, J, I), 0 before, the summed squared differences of 3x3x3 patches around a voxel's neighbours.

    `padded` is the image with two more voxels on every side.
    """
    _, nz, ny, nx = out.shape
    size = padded.shape[0] - nz - 1  # 3: told thus, loops are not unrolled, which takes long to compile
    for k in numba.prange(nz):
        column = np.empty((ny + 2, nx + 2), np.float32)  # summed along z
        for c in range(pairs.shape[0]):
            p = pairs[c]
            column[:] = 0
            for z in range(1, 1 + size):
                for j in range(ny + 2):
                    one, other = padded[k + z + p[0], j + 1 + p[1]], padded[k + z + p[3], j + 1 + p[4]]
                    a, b = one[1 + p[2] : 3 + p[2] + nx], other[1 + p[5] : 3 + p[5] + nx]
                    to = column[j]
                    for i in range(nx + 2):
                        difference = a[i] - b[i]
                        to[i] += difference * difference
            for j in range(ny):
                to = out[c, k, j]
                for y in range(size):
                    line = column[j + y]
                    for i in range(nx):
                        to[i] += line[i] + line[i + 1] + line[i + 2]


@numba.njit(parallel=PRANGE, cache=True)
def _quantise(distance, floor, out):
    """(12, N) patch distances to thermometer codes, (N,) of uint64."""
    for p in numba.prange(out.size):
        low, mean = distance[0, p], np.float32(0)
        for c in range(12):
            low = min(low, distance[c, p])
            mean += distance[c, p] / np.float32(12)
        if mean == 0:  # as in all that surrounds the lung
            out[p] = _ALL_ALIKE
            continue
        scale = max(mean - low, floor)
        code = np.uint64(0)
        for c in range(12):
            for level in range(5):
                if distance[c, p] - low <= scale * _LEVELS[level]:
                    code |= np.uint64(1) << np.uint64(5 * c + level)
        out[p] = code


def encode(image: Array, mask: Mask) -> NDArray[np.uint64]:
    """Self-similarity codes of an image.

    Parameters
    ----------
    image : ndarray, shape (K, J, I)
        HU, a constant outside the lung.
    mask : ndarray of bool, shape (K, J, I)
        The lung; the four top bits of a code say whether its voxel lies in it.

    Returns
    -------
    ndarray of uint64, shape (K, J, I)
        The number of bits in which two codes differ is their dissimilarity, 0 to 64.
    """
    distance = np.zeros((len(_PAIRS), *image.shape), np.float32)
    _patch_distances(np.pad(image, 2, mode="edge"), _PAIRS, distance)
    spread = distance.mean(axis=0) - distance.min(axis=0)
    floor = 0.05 * float(spread[mask].mean()) if mask.any() else 1.0
    codes = np.empty(image.shape, np.uint64)
    _quantise(distance.reshape(12, -1), max(floor, 1e-3), codes.ravel())
    return np.where(mask, codes | _MASK_BITS, codes)
