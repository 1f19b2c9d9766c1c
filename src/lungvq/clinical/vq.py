"""Ventilation against perfusion, voxel by voxel."""

from __future__ import annotations

import numpy as np

from lungvq.anatomy import VQ_CLASSES
from lungvq.clinical.heterogeneity import FWHM, smoothed
from lungvq.volume import Volume

__all__ = [
    "DEFECT_SHARE",
    "JOINT_EDGES",
    "SWEEP",
    "at_one_scale",
    "classes_of_joint",
    "joint_histogram",
    "log_sd",
    "relative_to_mean",
    "sweep_mean",
    "vq_class",
    "vq_log2",
]

DEFECT_SHARE = 0.60
"""Below this share of the lungs' mean a voxel is a defect: about the mean less 2 SD of healthy lungs in two
independent xenon-MRI pipelines (0.566 and 0.600)."""

SWEEP: tuple[float, ...] = (0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80)
"""Thresholds, as shares of the mean, that the classes are followed over."""

JOINT_EDGES: tuple[float, ...] = (0.33, 0.66, 1.0, 1.33, 1.66)
"""Between the six bins of relative ventilation and perfusion in the joint table."""

_FLOOR = 0.05  # of the mean: keeps the logarithm finite where nothing arrives


def at_one_scale(
    ventilation: np.ndarray, perfusion: np.ndarray, lungs: Volume, sigmas_mm: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Both maps at the resolution of the coarser one, so that their ratio compares like with like.

    Parameters
    ----------
    sigmas_mm : (float, float)
        Gaussians the two maps were averaged over; the finer map is averaged once more, within each lung, over what
        it lacks. Equal ones leave both maps as they are.

    Examples
    --------
    >>> lungs = Volume(np.ones((9, 9, 9), np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> speck = np.zeros(lungs.shape, np.float32)
    >>> speck[4, 4, 4] = 1
    >>> v, q = at_one_scale(speck, speck, lungs, (3.0, 5.0))
    >>> float(q[4, 4, 4]), bool(v[4, 4, 4] < 0.05)  # a Gaussian of 4 mm
    (1.0, True)
    """
    sigma_v, sigma_q = sigmas_mm
    missing = np.sqrt(abs(sigma_v**2 - sigma_q**2))
    if missing == 0:
        return ventilation, perfusion
    fwhm = float(missing) * FWHM
    if sigma_v < sigma_q:
        return smoothed(ventilation, lungs, fwhm), perfusion
    return ventilation, smoothed(perfusion, lungs, fwhm)


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
    known = np.isfinite(v) & np.isfinite(q)
    return np.where(known, _CLASS[2 * low_v.view(np.uint8) + low_q], np.uint8(0))


_CLASS = np.array([VQ_CLASSES[n] for n in ("normal", "dead_space", "shunt", "matched_defect")], np.uint8)


def joint_histogram(v: np.ndarray, q: np.ndarray, edges: tuple[float, ...] = JOINT_EDGES) -> np.ndarray:
    """How many voxels have ventilation in one bin and perfusion in another.

    Parameters
    ----------
    v, q : ndarray of the same shape
        Relative to the lung mean; voxels where either is NaN are left out.
    edges : tuple of float
        Ascending; a value at an edge belongs to the bin above it.

    Returns
    -------
    ndarray of int, shape (n + 1, n + 1)
        Row: bin of `v`; column: bin of `q`.

    Examples
    --------
    >>> joint_histogram(np.array([0.2, 1.0, 2.0]), np.array([1.0, 1.0, 0.5]), (0.6, 1.5)).tolist()
    [[0, 1, 0], [0, 1, 0], [1, 0, 0]]
    """
    known = np.isfinite(v) & np.isfinite(q)
    n = len(edges) + 1
    # The edges take the type of the values, so that 0.6 in the map is 0.6 here.
    row, column = (np.searchsorted(np.array(edges, x.dtype), x[known], side="right") for x in (v, q))
    return np.bincount(row * n + column, minlength=n * n).reshape(n, n)


def classes_of_joint(joint: np.ndarray, at: int) -> dict[str, float]:
    """Shares of the V/Q classes, in %, for the threshold between bins ``at - 1`` and `at`; NaN without voxels.

    Examples
    --------
    >>> shares = classes_of_joint(np.array([[1, 2], [3, 4]]), 1)
    >>> [shares[name] for name in ("normal", "dead_space", "shunt", "matched_defect", "abnormal")]
    [40.0, 30.0, 20.0, 10.0, 60.0]
    """
    total = float(joint.sum())
    parts = {
        "normal": joint[at:, at:],
        "dead_space": joint[at:, :at],
        "shunt": joint[:at, at:],
        "matched_defect": joint[:at, :at],
    }
    shares = {
        name: 100 * float(part.sum()) / total if total else float("nan") for name, part in parts.items()
    }
    return {**shares, "abnormal": shares["dead_space"] + shares["shunt"] + shares["matched_defect"]}


def sweep_mean(shares: list[float], thresholds: tuple[float, ...] = SWEEP) -> float:
    """A share that was taken at each threshold, averaged over them: its area over the range of thresholds.

    Examples
    --------
    >>> round(sweep_mean([0.0, 10.0, 40.0], (0.4, 0.6, 0.8)), 6)
    15.0
    """
    return float(np.trapezoid(shares, thresholds) / (thresholds[-1] - thresholds[0]))


def log_sd(log_ratio: np.ndarray, weights: np.ndarray) -> float:
    """Spread of ln(V/Q) as ventilation or perfusion sees it: its SD weighted by either.

    The imaging counterpart of log SD of the multiple inert gas elimination technique.

    Parameters
    ----------
    log_ratio : ndarray
        Natural logarithm of relative ventilation over relative perfusion.
    weights : ndarray of the same shape
        Relative ventilation for log SD V, perfusion for log SD Q; negative ones count as 0.

    Examples
    --------
    >>> log_sd(np.array([-1.0, 1.0]), np.array([1.0, 1.0])), log_sd(np.array([-1.0, 1.0]), np.array([0.0, 1.0]))
    (1.0, 0.0)
    """
    known = np.isfinite(log_ratio) & np.isfinite(weights)
    x, w = log_ratio[known].astype(np.float64), np.maximum(weights[known], 0).astype(np.float64)
    total = float(w.sum())
    if total <= 0:
        return float("nan")
    mean = float((w * x).sum()) / total
    return float(np.sqrt((w * (x - mean) ** 2).sum() / total))
