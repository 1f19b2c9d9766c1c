"""What the CT numbers of a lung say by themselves: low attenuation, percentiles, and expiration over inspiration."""

from __future__ import annotations

import numpy as np

from lungvq.clinical.prm import EMPHYSEMA_HU, TRAPPING_HU

__all__ = ["PERCENTILES", "low_attenuation_pct", "percentile_hu", "trapping_volume_pct"]

PERCENTILES: tuple[int, ...] = (5, 10, 15, 50, 85, 95)
"""Percentiles of lung density in the table; the 15th of inspiration is the classical one."""


def low_attenuation_pct(hu: np.ndarray, threshold: float) -> float:
    """Low attenuation area: share of voxels, in %, at or below a threshold; NaN without voxels.

    Parameters
    ----------
    hu : ndarray
        Calibrated CT numbers of a region, any shape.
    threshold : float
        -950 or -910 HU on inspiration for emphysema, -856 HU on expiration for trapped air.

    Examples
    --------
    >>> low_attenuation_pct(np.array([-960.0, -950.0, -949.0, -800.0]), -950)
    50.0
    """
    return 100 * float((hu <= threshold).sum()) / hu.size if hu.size else float("nan")


def percentile_hu(hu: np.ndarray, percents: tuple[int, ...] = PERCENTILES) -> list[float]:
    """Percentiles of lung density in HU, interpolated; NaN without voxels. Add 1000 for g/L.

    Examples
    --------
    >>> percentile_hu(np.array([-900.0, -800.0, -700.0]), (15, 50))
    [-870.0, -800.0]
    """
    if not hu.size:
        return [float("nan")] * len(percents)
    return [float(p) for p in np.percentile(hu, percents)]


def trapping_volume_pct(hu: np.ndarray) -> float:
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
    kept = hu > EMPHYSEMA_HU
    part = float((kept & (hu <= TRAPPING_HU)).sum())
    return 100 * part / float(kept.sum()) if kept.any() else float("nan")
