"""Two breath-holds brought together: what every estimator of ventilation and perfusion starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lungvq.anatomy import LUNGS
from lungvq.hu import density
from lungvq.volume import Volume

__all__ = ["ErrorModel", "LungTotals", "MatchedPair", "lung_totals", "noise_sd"]


@dataclass(frozen=True)
class LungTotals:
    """What one scan, by itself, says of one lung: volume in mL, gas in mL, mass in g."""

    volume_ml: float
    air_ml: float
    mass_g: float


@dataclass(frozen=True)
class MatchedPair:
    """Both scans on one working grid over the expiratory lungs.

    Parameters
    ----------
    hu_exp, hu_insp : Volume
        Calibrated CT numbers, float32; `hu_insp` carried onto expiration by the registration.
    jacobian : Volume
        ``det grad phi``, inspiratory per expiratory volume, not smoothed; finite in the lungs.
    lungs : Volume
        1 left, 2 right, at expiration.
    insp, exp : dict of str to LungTotals
        Keyed ``left`` and ``right``; each measured on its own scan, with its own mask and voxels.
    noise_insp, noise_exp : float
        Standard deviation in HU of one voxel of the working grid.
    """

    hu_exp: Volume
    hu_insp: Volume
    jacobian: Volume
    lungs: Volume
    insp: dict[str, LungTotals]
    exp: dict[str, LungTotals]
    noise_insp: float
    noise_exp: float


def lung_totals(
    hu: Volume, lungs: Volume, calibrate: Callable[[np.ndarray], np.ndarray]
) -> dict[str, LungTotals]:
    """Volume, gas and mass of each lung in one scan.

    Gas is volume less mass, tissue taken as 1 g/mL; a lung that is not there has zeros.
    """
    totals = {}
    for name, label in LUNGS.items():
        inside = hu.array[lungs.array == label]
        volume = inside.size * hu.voxel_ml
        mass = float(density(calibrate(inside)).sum(dtype=np.float64)) * hu.voxel_ml
        totals[name] = LungTotals(volume, volume - mass, mass)
    return totals


def noise_sd(hu: Volume, lungs: Volume) -> float:
    """Standard deviation of one voxel in HU, from differences between neighbours in the lungs.

    The median absolute difference along each row, scaled to a normal distribution. Fine structure counts as
    noise, so this errs on the high side; noise shared by neighbours is missed.
    """
    inside = (lungs.array[:, :, 1:] > 0) & (lungs.array[:, :, :-1] > 0)
    differences = np.diff(hu.array.astype(np.float32), axis=2)[inside]
    if differences.size == 0:
        return float("nan")
    return float(np.median(np.abs(differences)) / 0.6745 / np.sqrt(2))


@dataclass(frozen=True)
class ErrorModel:
    """Where the standard errors of the maps come from; propagated to first order and added in squares.

    Parameters
    ----------
    dir_error_mm : float
        Assumed rms error of the registration.
    calibration_error_hu : float
        Assumed standard error of each scan's CT numbers.
    noise_correlation_mm : float
        Side of the cube within which voxel noise is shared.
    """

    dir_error_mm: float = 1.0
    calibration_error_hu: float = 3.0
    noise_correlation_mm: float = 3.0

    def relative_jacobian_error(self, sigma_mm: float) -> float:
        """Standard error of a regional Jacobian, as a share of it.

        ``sqrt(3) d / L`` for displacement errors that are independent between opposite faces of a cube as
        large as the Gaussian's effective volume, ``L = sqrt(4 pi) sigma``.

        Examples
        --------
        >>> round(ErrorModel(dir_error_mm=1.0).relative_jacobian_error(5.0), 3)
        0.098
        """
        return float(np.sqrt(3) * self.dir_error_mm / (np.sqrt(4 * np.pi) * sigma_mm))

    def of_difference(
        self, pair: MatchedPair, inspired: np.ndarray, jacobian: np.ndarray, sigma_mm: float
    ) -> np.ndarray:
        """Standard error of ``J x_insp - x_exp`` averaged over a Gaussian, x an air fraction or a density.

        Parameters
        ----------
        inspired, jacobian : ndarray of the same shape
            Regional means of ``J x_insp`` and of J.
        sigma_mm : float
            Of the Gaussian.

        Returns
        -------
        ndarray of float32
            In the unit of x.
        """
        independent = (4 * np.pi * (sigma_mm / self.noise_correlation_mm) ** 2) ** 1.5
        noise = np.hypot(jacobian * pair.noise_insp, pair.noise_exp) / np.sqrt(independent) / 1000
        calibration = self.calibration_error_hu * np.hypot(jacobian, 1) / 1000
        geometry = inspired * self.relative_jacobian_error(sigma_mm)
        return np.sqrt(noise**2 + calibration**2 + geometry**2).astype(np.float32)
