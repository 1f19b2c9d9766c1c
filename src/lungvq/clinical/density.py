"""What the CT numbers of a lung say by themselves: low attenuation, percentiles, and expiration over inspiration."""

from __future__ import annotations

import numpy as np

from lungvq.clinical.prm import EMPHYSEMA_HU, TRAPPING_HU

__all__ = ["PERCENTILES", "low_attenuation_pct", "percentile_hu", "trapping_volume_pct"]

PERCENTILES: tuple[int, ...] = (5, 10, 15, 50, 85, 95)
"""Percentiles of lung density in the table; the 15th of inspiration is the classical one."""


def low_attenuation_pct(hu: np.ndarray, threshold: float, counts: np.ndarray | None = None) -> float:
    """Low attenuation area: share of voxels, in %, at or below a threshold; NaN without voxels.

    Parameters
    ----------
    hu : ndarray, shape (N,)
        Calibrated CT numbers of a region: of its voxels, or with `counts` its distinct values.
    threshold : float
        -950 or -910 HU on inspiration for emphysema, -856 HU on expiration for trapped air.
    counts : ndarray, shape (N,), optional
        How many voxels have each value.

    Examples
    --------
    >>> low_attenuation_pct(np.array([-960.0, -950.0, -949.0, -800.0]), -950)
    50.0
    >>> low_attenuation_pct(np.array([-960.0, -900.0]), -950, np.array([1, 3]))
    25.0
    """
    counts = np.ones(hu.shape, int) if counts is None else counts
    total = float(counts.sum())
    return 100 * float(counts[hu <= threshold].sum()) / total if total else float("nan")


def percentile_hu(
    hu: np.ndarray, percents: tuple[int, ...] = PERCENTILES, counts: np.ndarray | None = None
) -> list[float]:
    """Percentiles of lung density in HU, interpolated; NaN without voxels. Add 1000 for g/L.

    Parameters
    ----------
    hu, counts : ndarray, shape (N,)
        As for `low_attenuation_pct`.

    Examples
    --------
    >>> percentile_hu(np.array([-900.0, -800.0, -700.0]), (15, 50))
    [-870.0, -800.0]
    >>> percentile_hu(np.array([-900.0, -700.0]), (25, 50), np.array([2, 1]))
    [-900.0, -900.0]
    """
    counts = np.ones(hu.shape, int) if counts is None else counts
    if not counts.any():
        return [float("nan")] * len(percents)
    order = np.argsort(hu)
    values, last = hu[order].astype(np.float64), np.cumsum(counts[order])
    place = np.array(percents) / 100 * (last[-1] - 1)  # among the voxels in ascending order, from 0
    below, above = (
        values[np.searchsorted(last, at, side="right")] for at in (np.floor(place), np.ceil(place))
    )
    return [float(p) for p in below + (above - below) * (place % 1)]


def trapping_volume_pct(hu: np.ndarray, counts: np.ndarray | None = None) -> float:
    """Share, in %, of lung that is not emphysema (above -950 HU) which lies at or below -856 HU.

    Taken on both scans; expiration less inspiration is the relative volume change RVC856-950, near zero where
    air is trapped [1]_.

    References
    ----------
    .. [1] Matsuoka S et al (2008). AJR 190:762.

    Examples
    --------
    >>> trapping_volume_pct(np.array([-960.0, -900.0, -800.0, -700.0, -600.0]))
    25.0
    """
    counts = np.ones(hu.shape, int) if counts is None else counts
    kept = hu > EMPHYSEMA_HU
    return low_attenuation_pct(hu[kept], TRAPPING_HU, counts[kept])
