"""Parametric response map: emphysema and functional small airways disease from two thresholds."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from lungvq._parallel import PRANGE
from lungvq.anatomy import PRM_CLASSES

__all__ = ["EMPHYSEMA_HU", "TRAPPING_HU", "median_filter", "prm_class", "prm_map"]

EMPHYSEMA_HU = -950.0
TRAPPING_HU = -856.0
_VALID_HU = (-1000.0, -500.0)


def prm_class(hu_insp: np.ndarray, hu_exp: np.ndarray) -> np.ndarray:
    """1 normal, 2 fSAD, 3 emphysema, 4 emptying emphysema; 0 where either scan is outside -1000..-500 HU.

    Parameters
    ----------
    hu_insp, hu_exp : ndarray of the same shape
        Median-filtered CT numbers, inspiration carried onto expiration. At a threshold is disease.

    References
    ----------
    .. [1] Galban CJ et al (2012). Nat Med 18:1711.

    Examples
    --------
    >>> prm_class(np.array([-850, -900, -960, -960]), np.array([-700, -900, -900, -800])).tolist()
    [1, 2, 3, 4]
    """
    low_insp, low_exp = hu_insp <= EMPHYSEMA_HU, hu_exp <= TRAPPING_HU
    valid = np.ones(np.shape(hu_insp), bool)
    for hu in (hu_insp, hu_exp):
        valid &= (hu >= _VALID_HU[0]) & (hu <= _VALID_HU[1])
    return np.where(valid, _CLASS[2 * low_insp.view(np.uint8) + low_exp], np.uint8(0))


_CLASS = np.array([PRM_CLASSES[n] for n in ("normal", "fsad", "emptying_emphysema", "emphysema")], np.uint8)


def median_filter(array: np.ndarray, mask: np.ndarray, depth: int) -> np.ndarray:
    """Median of `array` over 3 x 3 voxels in `depth` slices, where `mask` is set; itself elsewhere.

    Parameters
    ----------
    array : ndarray of int16, shape (K, J, I)
    mask : ndarray of bool, the same shape
    depth : int
        Odd: 1 in-plane, 3 in space.

    Returns
    -------
    ndarray of int16
        Beyond the edges of the array lies what lies at them.

    Examples
    --------
    >>> row = np.array([[[1, 9, 2, 3]]], np.int16)
    >>> median_filter(row, row > 2, 1).tolist()
    [[[1, 2, 2, 3]]]
    """
    out = array.copy()
    lowest, highest = int(array.min()), int(array.max())
    _medians(array, mask, depth, lowest, (highest - lowest).bit_length(), out)
    return out


@numba.njit(parallel=PRANGE, cache=True)
def _medians(array, mask, depth, lowest, bits, out):
    """Write medians into `out`, a row at a time and bit by bit, so that each step is one for many voxels.

    The median is the largest number that no more than half of the values are below.
    """
    nk, nj, ni = array.shape
    half, shift = 9 * depth // 2, lowest + 32768  # values less the shift, and what is tried, fit int16
    for row in numba.prange(nk * nj):
        k, j = row // nj, row % nj
        first, last = 0, ni
        while first < last and not mask[k, j, first]:
            first += 1
        while first < last and not mask[k, j, last - 1]:
            last -= 1
        size = last - first
        lines = np.empty((3 * depth, size + 2), np.int16)
        found, trial, below = np.empty((3, size), np.int16)
        for n in range(3 * depth):
            a, b = min(max(k + n // 3 - depth // 2, 0), nk - 1), min(max(j + n % 3 - 1, 0), nj - 1)
            for i in range(size + 2):
                lines[n, i] = array[a, b, min(max(first + i - 1, 0), ni - 1)] - shift
        for i in range(size):
            found[i] = -32768
        for bit in range(bits - 1, -1, -1):
            for i in range(size):
                trial[i] = found[i] + (1 << bit)
                below[i] = 0
            for n in range(9 * depth):
                for i in range(size):
                    below[i] += lines[n // 3, i + n % 3] < trial[i]
            for i in range(size):
                if below[i] <= half:
                    found[i] = trial[i]
        for i in range(size):
            if mask[k, j, first + i]:
                out[k, j, first + i] = found[i] + shift


def prm_map(
    hu_insp: np.ndarray,
    hu_exp: np.ndarray,
    inside: np.ndarray,
    calibrate_insp: Callable[[np.ndarray], np.ndarray],
    calibrate_exp: Callable[[np.ndarray], np.ndarray],
    *,
    depth: int = 1,
) -> np.ndarray:
    """PRM classes of two scans on one grid, after a median filter on each.

    Parameters
    ----------
    hu_insp, hu_exp : ndarray of int16, shape (K, J, I)
        CT numbers as scanned, inspiration carried onto expiration.
    inside : ndarray of bool
        The lungs; 0 elsewhere.
    calibrate_insp, calibrate_exp : callable
        From CT numbers as scanned to corrected ones.
    depth : int
        Slices of the median: 1, the published 3 x 3 in-plane, or 3, which noise moves less.

    Returns
    -------
    ndarray of uint8
    """
    insp, exp = (
        scale(median_filter(hu, inside, depth)[inside])
        for hu, scale in ((hu_insp, calibrate_insp), (hu_exp, calibrate_exp))
    )
    classes = np.zeros(inside.shape, np.uint8)
    classes[inside] = prm_class(insp, exp)
    return classes
