"""Parametric response map: emphysema and functional small airways disease from two thresholds."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

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
    classes = np.select(
        [low_insp & low_exp, low_insp, low_exp],
        [PRM_CLASSES["emphysema"], PRM_CLASSES["emptying_emphysema"], PRM_CLASSES["fsad"]],
        PRM_CLASSES["normal"],
    )
    valid = np.ones(np.shape(hu_insp), bool)
    for hu in (hu_insp, hu_exp):
        valid &= (hu >= _VALID_HU[0]) & (hu <= _VALID_HU[1])
    return np.where(valid, classes, 0).astype(np.uint8)


@numba.njit(parallel=True, cache=True)
def median_filter(array, mask, depth):
    """Median of `array` (K, J, I) over 3 x 3 voxels in `depth` slices, where `mask` is set; itself elsewhere.

    Parameters
    ----------
    depth : int
        Odd: 1 in-plane, 3 in space.

    Returns
    -------
    ndarray
        Of the type of `array`: of an odd number of values the median is one of them. Beyond the edges of the
        array lies what lies at them.
    """
    out = array.copy()
    nk, nj, ni = array.shape
    reach, half = depth // 2, (depth * 9 + 1) // 2
    for k in numba.prange(nk):
        lowest = np.empty(half, array.dtype)  # of the window so far, in order: the last of them is the median
        for j in range(nj):
            for i in range(ni):
                if not mask[k, j, i]:
                    continue
                n = 0
                for a in range(k - reach, k + reach + 1):
                    for b in range(j - 1, j + 2):
                        for c in range(i - 1, i + 2):
                            value = array[
                                min(max(a, 0), nk - 1), min(max(b, 0), nj - 1), min(max(c, 0), ni - 1)
                            ]
                            if n == half:
                                if value >= lowest[half - 1]:
                                    continue
                                n -= 1
                            at = n
                            while at > 0 and lowest[at - 1] > value:
                                lowest[at] = lowest[at - 1]
                                at -= 1
                            lowest[at] = value
                            n += 1
                out[k, j, i] = lowest[half - 1]
    return out


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
