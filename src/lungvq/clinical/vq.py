"""Ventilation against perfusion, voxel by voxel."""

from __future__ import annotations

import numpy as np

from lungvq.anatomy import VQ_CLASSES
from lungvq.quantify import DEFECT_SHARE

__all__ = ["relative_to_mean", "vq_class", "vq_log2"]

_FLOOR = 0.05  # of the mean: keeps the logarithm finite where nothing arrives


def relative_to_mean(ventilation: np.ndarray, perfusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both maps relative to their means over the voxels where both are defined; NaN elsewhere.

    Where a mean is not positive (no breathing between the scans) nothing can be said relative to it: all NaN.
    """
    both = np.isfinite(ventilation) & np.isfinite(perfusion)
    relative = []
    for values in (ventilation, perfusion):
        mean = float(values[both].mean(dtype=np.float64)) if both.any() else 0.0
        relative.append(np.where(both, values / mean, np.nan).astype(np.float32) if mean > 0 else None)
    v, q = relative
    nothing = np.full(ventilation.shape, np.nan, np.float32)
    return (nothing, nothing.copy()) if v is None or q is None else (v, q)


def vq_log2(v: np.ndarray, q: np.ndarray) -> np.ndarray:
    """log2 of the ratio of relative ventilation to relative perfusion, each floored at 0.05 of the mean.

    Examples
    --------
    >>> vq_log2(np.array([1.0, 2.0, 0.0]), np.array([1.0, 0.5, 1.0])).round(2)
    array([ 0.  ,  2.  , -4.32])
    """
    return np.log2(np.maximum(v, _FLOOR) / np.maximum(q, _FLOOR))


def vq_class(v: np.ndarray, q: np.ndarray, threshold: float = DEFECT_SHARE) -> np.ndarray:
    """1 normal, 2 dead space (V kept, Q low), 3 shunt-like (Q kept, V low), 4 matched defect; 0 undefined.

    Parameters
    ----------
    v, q : ndarray of the same shape
        Relative to the lung mean.
    threshold : float
        A value below it is low; at it, kept.

    Examples
    --------
    >>> vq_class(np.array([1.0, 1.0, 0.5, 0.5, np.nan]), np.array([1.0, 0.5, 1.0, 0.5, 1.0])).tolist()
    [1, 2, 3, 4, 0]
    """
    low_v, low_q = v < threshold, q < threshold
    classes = np.select(
        [low_v & low_q, low_v, low_q],
        [VQ_CLASSES["matched_defect"], VQ_CLASSES["shunt"], VQ_CLASSES["dead_space"]],
        VQ_CLASSES["normal"],
    )
    return np.where(np.isfinite(v) & np.isfinite(q), classes, 0).astype(np.uint8)
