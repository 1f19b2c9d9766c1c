"""Two breath-holds brought together: what every estimator of ventilation and perfusion starts from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from lungvq.anatomy import LUNGS
from lungvq.hu import density
from lungvq.regional import LungField, Neighbourhoods, carry, detail_within
from lungvq.register.doubt import relative_error_at
from lungvq.volume import Volume

__all__ = [
    "CREDIBLE_SCALES_MM",
    "DETAIL_MM",
    "ErrorModel",
    "LungTotals",
    "MatchedPair",
    "credible_scale",
    "mean_square",
]


@dataclass(frozen=True)
class LungTotals:
    """What one scan, by itself, says of one lung: volume in mL, gas in mL, mass in g.

    Gas is volume less mass, tissue taken as 1 g/mL; a lung that is not there has zeros.
    """

    volume_ml: float
    air_ml: float
    mass_g: float


DETAIL_MM = 12.0
"""Gaussian sigma over which the mass ratio is trend: errors of a registration vary within it, blood hardly."""

_LIKE_DENSITY = 0.1, 2.2
# What the variance of J's error is to what was said of it: the one, and the other times the variance of detail to
# what was said. Fitted on 18 phantoms of 2 and 3 mm, where it leaves a scatter of 26 % of 48 %; without it errors are
# said too small where masks are wrong or lungs dense, and too large in healthy ones (decisions 17 and 19).
_BELIEVED = 3.0  # of that: no more
_SMOOTHER = 0.77  # so much of the variance that the fall of errors with the scale leaves to detail is there
_DETAIL_SIGMA_MM = 5.0  # of the means in whose detail errors are looked for
_LARGEST_DETAIL = 0.5  # beyond it a place is odd, not typical


class _Spread(NamedTuple):
    """Means over neighbourhoods: of mass change and its square, J and its relative error squared, densities."""

    change: LungField
    change_squared: LungField
    jacobian: LungField
    jacobian_error_squared: LungField
    density_exp: LungField
    density_insp: LungField


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
        Keyed ``left`` and ``right``; each measured on its own scan, with its own mask and voxels, free of wall.
    jacobian_error : Volume
        Standard error of J averaged over a Gaussian of 4 mm, as a share of it; finite in the lungs.
    clear : Volume of bool
        Voxels of the lungs whose CT numbers are their own. Others, beside the pleura, would be partly wall: they have
        the mean of the lung beneath them.

    Notes
    -----
    `match.match` makes one of two breath-holds, with its errors as densities show them.
    """

    hu_exp: Volume
    hu_insp: Volume
    jacobian: Volume
    lungs: Volume
    insp: dict[str, LungTotals]
    exp: dict[str, LungTotals]
    jacobian_error: Volume
    clear: Volume
    _spread: dict[float, _Spread] = field(default_factory=dict, init=False, repr=False)
    _detail: dict[float, LungField] = field(default_factory=dict, init=False, repr=False)

    def spread(self, near: Neighbourhoods) -> _Spread:
        """What standard errors over neighbourhoods need, worked out once for each size (of unweighted ones)."""
        if near.sigma_mm not in self._spread:
            change = self.mass_change
            self._spread[near.sigma_mm] = _Spread(
                *(
                    near.mean(x)
                    for x in (
                        change,
                        change**2,
                        self.jacobian.array,
                        self.jacobian_error.array**2,
                        density(self.hu_exp.array),
                        density(self.hu_insp.array),
                    )
                )
            )
        return self._spread[near.sigma_mm]

    def mass_ratio_detail(self, near: Neighbourhoods) -> LungField:
        """How the logarithm of ``J rho_insp / rho_exp`` differs from its trend over `DETAIL_MM`.

        Of what the densities say J should be it is what the registration differs by: its own error, and blood that
        came or went within a centimetre.
        """
        if near.sigma_mm not in self._detail:
            spread = self.spread(near)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = {
                    lung: j.like(
                        np.log(j.array * spread.density_insp[lung].array / spread.density_exp[lung].array)
                    )
                    for lung, j in spread.jacobian.items()
                }
            self._detail[near.sigma_mm] = detail_within(ratio, self.lungs, near.sigma_mm, DETAIL_MM)
        return self._detail[near.sigma_mm]

    def with_errors_as_seen(self) -> MatchedPair:
        """The pair with errors of J as large as densities show them to be, lung by lung.

        The registration knows little of how it fared in this very pair. Detail of the apparent mass ratio is partly
        its error: where there is much of it, errors are larger than was to be expected.
        """
        near = Neighbourhoods(self.lungs, _DETAIL_SIGMA_MM)
        detail, spread = self.mass_ratio_detail(near), self.spread(near)
        fall = relative_error_at(near.sigma_mm) ** 2
        error = self.jacobian_error.array.copy()
        squared = dict(spread.jacobian_error_squared)
        for lung, part in detail.items():
            inside = part.array != 0
            said = fall * float(squared[lung].array[inside].mean(dtype=np.float64)) if inside.any() else 0.0
            if said > 0:
                expected, by_detail = _LIKE_DENSITY
                share = min(expected + by_detail * mean_square(part.array[inside]) / said, _BELIEVED)
                error[self.lungs.array == LUNGS[lung]] *= np.float32(np.sqrt(share))
                squared[lung] = squared[lung].like(squared[lung].array * np.float32(share))
        pair = replace(self, jacobian_error=self.jacobian_error.like(error))
        pair._spread[near.sigma_mm] = spread._replace(jacobian_error_squared=squared)
        pair._detail.update(self._detail)
        return pair

    @property
    def mass_change(self) -> np.ndarray:
        """Mass gained on breathing in, voxel by voxel, g per mL of expiratory lung."""
        change: np.ndarray = self.jacobian.array * density(self.hu_insp.array) - density(self.hu_exp.array)
        return change


def mean_square(detail: np.ndarray) -> float:
    """Of detail of a mass ratio, in which single odd places do not count for more than they should."""
    return float(np.square(np.clip(detail, -_LARGEST_DETAIL, _LARGEST_DETAIL)).mean(dtype=np.float64))


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

    def of_detail(self, pair: MatchedPair, near: Neighbourhoods) -> LungField:
        """Standard error of the logarithm of neighbourhood means of J, so much of it as lies in detail."""
        own, trend, both = (
            relative_error_at(sigma) ** 2
            for sigma in (near.sigma_mm, DETAIL_MM, float(np.hypot(near.sigma_mm, DETAIL_MM) / np.sqrt(2)))
        )
        share = np.float32(np.sqrt(_SMOOTHER * max(own + trend - 2 * both, 0) / own))
        volume = pair.spread(near).jacobian
        return {
            lung: part.like(share * part.array / volume[lung].array)
            for lung, part in self.of_jacobian(pair, near, volume).items()
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
