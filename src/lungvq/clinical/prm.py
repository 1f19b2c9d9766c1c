"""Parametric response map: emphysema and functional small airways disease from two thresholds."""

from __future__ import annotations

import numba
import numpy as np

from lungvq.anatomy import PRM_CLASSES

__all__ = ["median_3x3", "prm_class"]

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
def median_3x3(array, mask):
    """In-plane 3x3 median of `array` (K, J, I) where `mask` is set, float32; the value itself elsewhere.

    At the edge of a slice the window is cut.
    """
    out = array.astype(np.float32)
    nk, nj, ni = array.shape
    for k in numba.prange(nk):
        window = np.empty(9, np.float32)
        for j in range(nj):
            for i in range(ni):
                if not mask[k, j, i]:
                    continue
                n = 0
                for b in range(max(0, j - 1), min(nj, j + 2)):
                    for c in range(max(0, i - 1), min(ni, i + 2)):
                        value = np.float32(array[k, b, c])
                        at = n
                        while at > 0 and window[at - 1] > value:
                            window[at] = window[at - 1]
                            at -= 1
                        window[at] = value
                        n += 1
                middle = n // 2
                out[k, j, i] = window[middle] if n % 2 else 0.5 * (window[middle - 1] + window[middle])
    return out
