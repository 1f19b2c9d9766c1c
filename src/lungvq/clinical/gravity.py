"""How ventilation and perfusion change with height, and maps without that trend, beside the maps, never instead."""

from __future__ import annotations

import numpy as np

from lungvq.volume import Grid

__all__ = ["SUPINE", "depth_mm", "detrended", "down_of", "gradient_pct_per_cm"]

SUPINE = (0.0, 1.0, 0.0)
"""The way down, in LPS, for a patient on the back."""

_DOWN = {"S": SUPINE, "P": (0.0, -1.0, 0.0), "DR": (-1.0, 0.0, 0.0), "DL": (1.0, 0.0, 0.0)}
_LEAST_TREND = 0.2  # of the mean: a trend below it would blow up what it divides


def down_of(patient_position: str) -> tuple[float, float, float]:
    """The way down in LPS from DICOM's Patient Position; on the back where it does not tell.

    Examples
    --------
    >>> down_of("HFS"), down_of("FFP"), down_of("HFDR"), down_of("")
    ((0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    """
    return _DOWN.get(patient_position.strip().upper()[2:], SUPINE)


def depth_mm(grid: Grid, down: tuple[float, float, float] = SUPINE) -> np.ndarray:
    """How far down each voxel of a grid lies, from where LPS begins.

    Examples
    --------
    >>> depth_mm(Grid((1, 3, 1), np.diag([1.0, 2.0, 1.0, 1.0])))[0, :, 0]
    array([0., 2., 4.], dtype=float32)
    """
    steps = (grid.affine[:3, :3].T @ np.array(down)).astype(np.float32)
    k, j, i = np.ogrid[tuple(slice(0, n) for n in grid.shape)]
    first = np.float32(grid.affine[:3, 3] @ np.array(down))
    depth: np.ndarray = first + steps[0] * k.astype(np.float32) + steps[1] * j + steps[2] * i
    return depth.astype(np.float32)


def _line(values: np.ndarray, depth_mm: np.ndarray) -> tuple[float, float, float]:
    """Mean, slope per mm and middle of the least-squares line of defined values."""
    known = np.isfinite(values)
    x, y = depth_mm[known].astype(np.float64), values[known].astype(np.float64)
    if y.size < 2:
        return float("nan"), float("nan"), float("nan")
    middle, mean = float(x.mean()), float(y.mean())
    spread = float(((x - middle) ** 2).sum())
    slope = float(((x - middle) * (y - mean)).sum()) / spread if spread > 0 else float("nan")
    return mean, slope, middle


def gradient_pct_per_cm(values: np.ndarray, depth_mm: np.ndarray) -> float:
    """Change per cm downwards, in % of the mean; NaN without a positive mean.

    Parameters
    ----------
    values, depth_mm : ndarray of the same shape
        A map, and how far down each voxel lies; NaN of the map is left out.

    Examples
    --------
    >>> round(gradient_pct_per_cm(np.array([0.9, 1.0, 1.1]), np.array([0.0, 10.0, 20.0])), 6)
    10.0
    """
    mean, slope, _ = _line(values, depth_mm)
    return 100 * 10 * slope / mean if mean > 0 else float("nan")


def detrended(values: np.ndarray, depth_mm: np.ndarray) -> np.ndarray:
    """A map divided by its straight-line trend with depth, times its mean.

    Where the line falls below a fifth of the mean it is held there. What disease does along the same direction goes
    with the trend.

    Examples
    --------
    >>> detrended(np.array([0.5, 1.0, 1.5]), np.array([0.0, 10.0, 20.0])).round(6).tolist()
    [1.0, 1.0, 1.0]
    """
    mean, slope, middle = _line(values, depth_mm)
    if not mean > 0 or not np.isfinite(slope):
        return values
    trend = np.maximum(mean + slope * (depth_mm - middle), _LEAST_TREND * mean)
    return (values * (mean / trend)).astype(values.dtype)
