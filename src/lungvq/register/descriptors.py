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
from scipy.ndimage import uniform_filter

from lungvq.register.field import Array, Mask

__all__ = ["encode"]

_MASK_BITS = np.uint64(0xF << 60)
_FACES = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
_PAIRS = tuple(
    (a, b)
    for m, a in enumerate(_FACES)
    for b in _FACES[m + 1 :]
    if any(p + q for p, q in zip(a, b, strict=True))
)


@numba.njit(parallel=True, cache=True)
def _quantise(distance, floor):
    """(12, N) patch distances to thermometer codes, (N,) of uint64."""
    n = distance.shape[1]
    out = np.empty(n, np.uint64)
    for p in numba.prange(n):
        low, mean = distance[0, p], 0.0
        for c in range(12):
            low = min(low, distance[c, p])
            mean += distance[c, p] / 12
        scale = max(mean - low, floor)
        code = np.uint64(0)
        for c in range(12):
            similarity = np.exp(-(distance[c, p] - low) / scale)
            level = min(int(similarity * 6), 5)
            code |= np.uint64((1 << level) - 1) << np.uint64(5 * c)
        out[p] = code
    return out


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
    padded = np.pad(image, 1, mode="edge")
    k, j, i = image.shape

    def shifted(by: tuple[int, int, int]) -> Array:
        return padded[1 + by[0] : 1 + by[0] + k, 1 + by[1] : 1 + by[1] + j, 1 + by[2] : 1 + by[2] + i]

    distance = np.empty((12, k, j, i), np.float32)
    for channel, (a, b) in zip(distance, _PAIRS, strict=True):
        uniform_filter((shifted(a) - shifted(b)) ** 2, 3, output=channel, mode="nearest")
    spread = distance.mean(axis=0) - distance.min(axis=0)
    floor = 0.05 * float(spread[mask].mean()) if mask.any() else 1.0
    codes = _quantise(distance.reshape(12, -1), max(floor, 1e-3)).reshape(image.shape)
    return np.where(mask, codes | _MASK_BITS, codes)
