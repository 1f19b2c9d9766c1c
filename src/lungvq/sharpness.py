"""How sharp a scan is, told by its noise, and how much smoothing makes another one as smooth.

A sharp kernel does not change means, but noise moves voxels across thresholds: two scans are brought to the same
sharpness before anything is read from single voxels of both. Noise is looked at where tissue is even (heart, vessels,
muscle), as the ratio of what is finer than 0.8 mm to what lies between 0.8 and 1.6 mm; dose cancels in it.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter

from lungvq.register.field import blur
from lungvq.volume import Volume

__all__ = ["blurred_within", "matching_blur", "sharpness"]

_SLICES = 6
_FINE_MM = 0.8
_EVEN_HU = (0.0, 100.0)
_LEAST_PIXELS = 2000
_SHARPEST_PIXEL_MM = 1.2  # coarser pixels do not show the difference
_LARGEST_MM = 1.5
_ALIKE = 1.1
_WORTH_MM = 0.25  # less than this is not worth smoothing for


class _Even:
    """A few slices of a scan, and where tissue is even in them."""

    def __init__(self, ct: Volume, lungs: Volume) -> None:
        self.pixel = ct.spacing[1:]
        present = np.flatnonzero((lungs.array > 0).any(axis=(1, 2)))
        some: list[int] = []
        if present.size:
            some = np.unique(np.linspace(present[0], present[-1], _SLICES).astype(int)).tolist()
        self.slices = [ct.array[k].astype(np.float32) for k in some]
        self.where = [
            self._even(image, lungs.array[k] > 0) for image, k in zip(self.slices, some, strict=True)
        ]

    def _even(self, image: np.ndarray, lung: np.ndarray) -> np.ndarray:
        smooth = gaussian_filter(image, self._px(3.0))
        inside = (smooth > _EVEN_HU[0]) & (smooth < _EVEN_HU[1]) & ~lung
        steep = np.hypot(*np.gradient(smooth, *self.pixel)) > 4.0  # HU per mm: an edge is near
        return binary_erosion(inside & ~steep, iterations=max(1, round(3.0 / min(self.pixel))))

    def _px(self, mm: float) -> tuple[float, float]:
        return mm / self.pixel[0], mm / self.pixel[1]

    def ratio(self, extra_mm: float = 0.0) -> float:
        """Finest noise over less fine noise, after smoothing by `extra_mm`; NaN with too little to look at."""
        fine, band = [], []
        for image, where in zip(self.slices, self.where, strict=True):
            if not where.any():
                continue
            image = gaussian_filter(image, self._px(extra_mm)) if extra_mm > 0 else image
            once, twice = (gaussian_filter(image, self._px(mm)) for mm in (_FINE_MM, 2 * _FINE_MM))
            fine.append((image - once)[where])
            band.append((once - twice)[where])
        if sum(part.size for part in fine) < _LEAST_PIXELS or max(self.pixel) > _SHARPEST_PIXEL_MM:
            return float("nan")
        a, b = (np.concatenate(parts) for parts in (fine, band))
        below = _sd(b)
        return _sd(a) / below if below > 0 else float("nan")


def _sd(values: np.ndarray) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def sharpness(ct: Volume, lungs: Volume) -> float:
    """In-plane noise finer than 0.8 mm over that between 0.8 and 1.6 mm; NaN where it cannot be seen.

    Parameters
    ----------
    ct, lungs : Volume
        HU and labels, canonical order, with some tissue around the lungs.
    """
    return _Even(ct, lungs).ratio()


def matching_blur(
    first: tuple[Volume, Volume],
    second: tuple[Volume, Volume],
    thickness_mm: tuple[float, float] = (0.0, 0.0),
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Gaussian sigmas (slices, rows, columns) in mm that make each scan as smooth as the other; one of two is 0.

    Parameters
    ----------
    first, second : (Volume, Volume)
        HU and lungs of each scan.
    thickness_mm : (float, float)
        Of the slices, as the headers tell; at least their spacing.

    Notes
    -----
    In the plane by the noise of both. Across slices by their thickness, whose profile is taken for a box.
    """
    scans = [_Even(*first), _Even(*second)]
    spacings = [max(ct.spacing[0], mm) for (ct, _), mm in zip((first, second), thickness_mm, strict=True)]
    ratios = [scan.ratio() for scan in scans]
    across = [float(np.sqrt(max(max(spacings) ** 2 - s**2, 0) / 12)) for s in spacings]
    within = [0.0, 0.0]
    if np.isfinite(ratios).all() and max(ratios) > _ALIKE * min(ratios):
        sharper = int(np.argmax(ratios))
        low, high, target = 0.0, _LARGEST_MM, min(ratios)
        for _ in range(6):
            middle = (low + high) / 2
            low, high = (middle, high) if scans[sharper].ratio(middle) > target else (low, middle)
        within[sharper] = (low + high) / 2
    a, b = (
        (z if z >= _WORTH_MM else 0.0, xy if xy >= _WORTH_MM else 0.0, xy if xy >= _WORTH_MM else 0.0)
        for z, xy in zip(across, within, strict=True)
    )
    return a, b


def blurred_within(
    hu: np.ndarray, inside: np.ndarray, sigma_voxels: tuple[float, float, float]
) -> np.ndarray:
    """HU smoothed within a mask, so that nothing from beyond it leaks in; as they are where nothing is asked.

    Returns
    -------
    ndarray of float32
    """
    if not any(sigma_voxels):
        return hu.astype(np.float32, copy=False)
    sigma = [max(s, 1e-3) for s in sigma_voxels]
    weight = inside.astype(np.float32)
    above, below = blur(hu.astype(np.float32) * weight, sigma), blur(weight, sigma)
    return np.where(inside, above / np.maximum(below, 1e-6), hu).astype(np.float32)
