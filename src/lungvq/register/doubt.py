"""How wrong a registration may be, place by place, told by what can be measured without a truth.

Three signs: how far two steps differ that were each computed from one half of the lung (noise, and structure that
does not match), how much the images hold to go by, and how much of the neighbourhood lies beyond the pleura. Each
adds its part in squares; how much of it was fitted on phantoms whose motion is known, and checked on others by
how often intervals hold the truth (docs/results/registration.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lungvq.register.field import Array, Mask, blur

__all__ = [
    "JACOBIAN_SCALE_MM",
    "Signs",
    "confidence",
    "displacement_error",
    "jacobian_error",
    "relative_error_at",
]

JACOBIAN_SCALE_MM = 4.0
"""Gaussian sigma at which the error of the Jacobian was fitted."""

_SCALES_MM = (4.0, 5.0, 10.0, 20.0)
# The error of a regional Jacobian over that at 4 mm: between phantoms of 1.7 to 2.4 mm (0.12 at 20 mm) and those of
# 3 mm (0.19), as coarser voxels make smoother errors.
_FALL = (1.0, 0.87, 0.48, 0.17)
_FALL_BEYOND = 1.6  # the power by which it goes on falling

_BEYOND_MM = 4.0
# Of nothing, discord^2, weakness^2, both of them, and of what lies beyond the pleura: in mm^2 of motion, and as a
# share squared of J. As fitted, times 0.86 for how much less errors became with wide steps (decision 16).
_MOTION = (0.025, 1.32, 5.6e-4, 0.032, 1.63)
_EXPANSION = (2.4e-4, 0.0138, 0.0, 0.0, 6.5e-3)


@dataclass(frozen=True, eq=False)
class Signs:
    """Signs of error of one lung on its working grid.

    Parameters
    ----------
    discord, weakness : ndarray of float32, shape (K, J, I)
        As `refine.Refined` has them, mm.
    beyond : ndarray of float32, shape (K, J, I)
        Share of a Gaussian of 4 mm that lies outside the lung.
    """

    discord: Array
    weakness: Array
    beyond: Array

    @classmethod
    def of(cls, discord: Array, weakness: Array, mask: Mask, spacing_mm: float) -> Signs:
        """With the share beyond the pleura taken from the lung's mask."""
        beyond = 1 - blur(mask.astype(np.float32), _BEYOND_MM / spacing_mm)
        return cls(discord, weakness, np.clip(beyond, 0, 1))

    def squared(self, parts: tuple[float, ...]) -> Array:
        """The sum of the parts that each sign adds."""
        constant, of_discord, of_weakness, of_both, of_beyond = (np.float32(p) for p in parts)
        discord, weakness = self.discord**2, self.weakness**2
        total: Array = (
            constant
            + of_discord * discord
            + of_weakness * weakness
            + of_both * discord * weakness
            + of_beyond * self.beyond
        )
        return total


def displacement_error(signs: Signs) -> Array:
    """Root of the mean square error of the displacement to be expected, mm."""
    return np.sqrt(signs.squared(_MOTION))


def jacobian_error(signs: Signs, sigma_mm: float = JACOBIAN_SCALE_MM) -> Array:
    """Standard error of a regional Jacobian as a share of it, for Gaussian regions of `sigma_mm`."""
    return np.sqrt(signs.squared(_EXPANSION)) * np.float32(relative_error_at(sigma_mm))


def relative_error_at(sigma_mm: float) -> float:
    """The error at another scale, as a multiple of that at 4 mm.

    Examples
    --------
    >>> round(relative_error_at(4.0), 3)
    1.0
    """
    if sigma_mm > _SCALES_MM[-1]:
        return _FALL[-1] * float((_SCALES_MM[-1] / sigma_mm) ** _FALL_BEYOND)
    return float(np.exp(np.interp(np.log(sigma_mm), np.log(_SCALES_MM), np.log(_FALL))))


def confidence(error_mm: Array) -> Array:
    """0 to 1 from an expected error: 1 where none, a half where 1 mm is to be expected.

    Examples
    --------
    >>> confidence(np.array([0.0, 1.0, 3.0]))
    array([1. , 0.5, 0.1])
    """
    return np.reciprocal(1 + error_mm**2)
