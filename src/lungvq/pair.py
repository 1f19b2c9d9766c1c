"""Two breath-holds brought together: what every estimator of ventilation and perfusion starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lungvq.anatomy import LUNGS
from lungvq.hu import density
from lungvq.regional import LungField, Neighbourhoods, carry
from lungvq.register.doubt import relative_error_at
from lungvq.volume import Volume

__all__ = [
    "CREDIBLE_SCALES_MM",
    "ErrorModel",
    "LungTotals",
    "MatchedPair",
    "credible_scale",
    "lung_totals",
    "noise_sd",
]


@dataclass(frozen=True)
class LungTotals:
    """What one scan, by itself, says of one lung: volume in mL, gas in mL, mass in g."""

    volume_ml: float
    air_ml: float
    mass_g: float


class _Spread(NamedTuple):
    """Means over neighbourhoods of the mass change and its square, of J and of its relative error squared."""

    change: LungField
    change_squared: LungField
    jacobian: LungField
    jacobian_error_squared: LungField


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
    jacobian_error : Volume
        Standard error of J averaged over a Gaussian of 4 mm, as a share of it; finite in the lungs.
    """

    hu_exp: Volume
    hu_insp: Volume
    jacobian: Volume
    lungs: Volume
    insp: dict[str, LungTotals]
    exp: dict[str, LungTotals]
    noise_insp: float
    noise_exp: float
    jacobian_error: Volume
    _spread: dict[float, _Spread] = field(default_factory=dict, init=False, repr=False)

    def spread(self, near: Neighbourhoods) -> _Spread:
        """What standard errors over neighbourhoods need, worked out once for each size (of unweighted ones)."""
        if near.sigma_mm not in self._spread:
            change = self.mass_change
            self._spread[near.sigma_mm] = _Spread(
                *(
                    near.mean(x)
                    for x in (change, change**2, self.jacobian.array, self.jacobian_error.array**2)
                )
            )
        return self._spread[near.sigma_mm]

    @property
    def mass_change(self) -> np.ndarray:
        """Mass gained on breathing in, voxel by voxel, g per mL of expiratory lung."""
        change: np.ndarray = self.jacobian.array * density(self.hu_insp.array) - density(self.hu_exp.array)
        return change


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
    calibration_error_hu : float
        Assumed standard error of each scan's CT numbers.
    noise_correlation_mm : float
        Side of the cube within which what differs between neighbouring voxels is shared.
    """

    calibration_error_hu: float = 3.0
    noise_correlation_mm: float = 3.0

    def of_difference(self, pair: MatchedPair, near: Neighbourhoods, inspired: LungField) -> LungField:
        """Standard error of ``J x_insp - x_exp`` averaged over neighbourhoods, x an air fraction or a density.

        Parameters
        ----------
        near : Neighbourhoods
            Of the average.
        inspired : LungField
            Means of ``J x_insp`` over them.

        Returns
        -------
        LungField
            In the unit of x.

        Notes
        -----
        What differs between neighbours (noise of both scans, structures that do not match to the voxel) is
        measured on the mass change itself, as its scatter within each neighbourhood. The part of the
        registration is ``J x_insp`` times the relative standard error of J at the scale of the average
        (`register.doubt`).
        """
        jacobian = pair.spread(near).jacobian
        scatter, geometry = self.of_neighbours(pair, near), self.of_jacobian(pair, near, inspired)

        def total(lung: str, part: Volume) -> Volume:
            calibration = (self.calibration_error_hu / 1000) ** 2 * (jacobian[lung].array ** 2 + 1)
            return part.like(
                np.sqrt(scatter[lung].array ** 2 + calibration + part.array**2).astype(np.float32)
            )

        return {lung: total(lung, part) for lung, part in geometry.items()}

    def of_neighbours(self, pair: MatchedPair, near: Neighbourhoods) -> LungField:
        """The part of what differs between neighbouring voxels, g/mL: scatter of the mass change over root n."""
        mean, square = pair.spread(near).change, pair.spread(near).change_squared
        independent = max((4 * np.pi * (near.sigma_mm / self.noise_correlation_mm) ** 2) ** 1.5, 1.0)
        return {
            lung: part.like(np.sqrt(np.maximum(square[lung].array - part.array**2, 0) / independent))
            for lung, part in mean.items()
        }

    def of_jacobian(self, pair: MatchedPair, near: Neighbourhoods, means: LungField) -> LungField:
        """What the standard error of J makes of neighbourhood means of J, or of J times anything."""
        doubt = pair.spread(near).jacobian_error_squared
        fall = np.float32(relative_error_at(near.sigma_mm))
        return {
            lung: part.like(part.array * fall * np.sqrt(doubt[lung].array)) for lung, part in means.items()
        }


CREDIBLE_SCALES_MM = (5.0, 7.0, 10.0, 14.0, 20.0)
CREDIBLE = 0.75
"""Share of a map's variance that has to be more than its error."""


def credible_scale(lungs: Volume, values: LungField, errors: LungField, own_mm: float) -> float | None:
    """The smallest Gaussian sigma over which the pattern of a map is mostly not error, mm.

    Parameters
    ----------
    lungs : Volume
        1 left, 2 right, on the working grid.
    values, errors : LungField
        A map averaged over `own_mm` and its standard errors.
    own_mm : float

    Returns
    -------
    float or None
        At which 1 - (mean squared error) / variance is at least three quarters; None where that is so nowhere up
        to 20 mm. Errors fall with the scale as those of the Jacobian do.
    """
    values, errors = (
        {lung: part.like(np.nan_to_num(part.array)) for lung, part in field.items()}
        for field in (values, errors)
    )
    inside = lungs.array > 0
    square = carry({lung: part.like(part.array**2) for lung, part in errors.items()}, lungs)[inside]
    noise = float(square.mean(dtype=np.float64)) / relative_error_at(own_mm) ** 2
    image = carry(values, lungs)
    for sigma in (own_mm, *(s for s in CREDIBLE_SCALES_MM if s > own_mm)):
        more = float(np.sqrt(sigma**2 - own_mm**2))
        at = carry(Neighbourhoods(lungs, more).mean(image), lungs) if more > 0 else image
        variance = float(at[inside].var(dtype=np.float64))
        if variance > 0 and 1 - noise * relative_error_at(sigma) ** 2 / variance >= CREDIBLE:
            return sigma
    return None
