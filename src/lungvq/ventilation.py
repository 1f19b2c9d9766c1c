"""How much air each part of the lung gains on breathing in.

Three estimators, from one mass balance per parcel of tissue: what the parcel weighs at inspiration is what
it weighed at expiration plus what flowed in, ``J rho_insp = rho_exp + m``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lungvq.anatomy import LUNGS
from lungvq.hu import air_fraction, density
from lungvq.pair import ErrorModel, MatchedPair
from lungvq.regional import LungField, Neighbourhoods

__all__ = [
    "VentilationOptions",
    "VentilationTerms",
    "air_gain",
    "hu_gain",
    "inverse_variance_mean",
    "jacobian_gain",
    "specific_gain",
    "ventilation_terms",
]


@dataclass(frozen=True)
class VentilationOptions:
    """Parameters of the ventilation estimators.

    Parameters
    ----------
    sigma_mm : float
        Gaussian over which expired air, inspired air, densities and Jacobian are averaged.
    local_mass_mm : float
        Gaussian over which densities and the Jacobian agree on mass before the hybrid joins them: so large that
        errors of the registration hardly matter.
    errors : ErrorModel
        Behind the standard error.
    """

    sigma_mm: float = 5.0
    local_mass_mm: float = 20.0
    errors: ErrorModel = field(default_factory=ErrorModel)


def air_gain(jacobian: np.ndarray, air_insp: np.ndarray, air_exp: np.ndarray) -> np.ndarray:
    """Air gained per mL of expiratory lung, in mL/mL.

    Parameters
    ----------
    jacobian : ndarray
        Inspiratory per expiratory volume.
    air_insp, air_exp : ndarray of the same shape
        Air fractions, the inspiratory one carried onto expiration.

    Returns
    -------
    ndarray
        0: as much air as before. 1: a millilitre came into every millilitre of lung. Negative: air left.

    Notes
    -----
    ``J F_insp(phi) - F_exp``; no assumption about tissue or blood [1]_. Integrated over a lung it is the
    difference of the two scans' air volumes.

    References
    ----------
    .. [1] Ding K et al (2012). Med Phys 39:5084, the corrected Jacobian (SACJ), in absolute units.

    Examples
    --------
    A parcel that doubles its volume from 70 % to 85 % air gains 1 mL per mL:

    >>> air_gain(np.array([2.0]), np.array([0.85]), np.array([0.70])).round(6)
    array([1.])
    """
    return jacobian * air_insp - air_exp


def jacobian_gain(jacobian: np.ndarray) -> np.ndarray:
    """Volume gained per mL of expiratory lung, ``J - 1``: geometry alone, blood included.

    Examples
    --------
    >>> jacobian_gain(np.array([1.0, 2.0]))
    array([0., 1.])
    """
    return jacobian - 1


def hu_gain(density_exp: np.ndarray, density_insp: np.ndarray, mass_ratio: float = 1.0) -> np.ndarray:
    """Volume gained per mL of expiratory lung as densities tell it, in mL/mL.

    Parameters
    ----------
    density_exp, density_insp : ndarray of the same shape
        Regional mean densities in g/mL.
    mass_ratio : float
        Mass of the lung at inspiration over that at expiration, each from its own scan.

    Returns
    -------
    ndarray
        ``k rho_exp / rho_insp - 1``; NaN where the inspiratory density is not positive.

    Notes
    -----
    Assumes that every parcel's mass changes by the same factor [1]_, [2]_.

    References
    ----------
    .. [1] Guerrero T et al (2006). Phys Med Biol 51:777.
    .. [2] Mistry NN et al (2013). Int J Radiat Oncol Biol Phys 87:825, the global mass correction.

    Examples
    --------
    >>> hu_gain(np.array([0.30]), np.array([0.15])).round(6)
    array([1.])
    """
    ratio = np.full(np.shape(density_insp), np.nan, np.result_type(density_exp, np.float32))
    np.divide(mass_ratio * density_exp, density_insp, out=ratio, where=np.asarray(density_insp) > 0)
    return ratio - 1


def specific_gain(gain: np.ndarray, air_exp: np.ndarray, *, least: float = 0.05) -> np.ndarray:
    """Air gained per mL of air that was there, in mL/mL.

    Parameters
    ----------
    gain, air_exp : ndarray of the same shape
        Per mL of expiratory lung.
    least : float
        Of air; with less the ratio is undefined.

    Examples
    --------
    >>> specific_gain(np.array([1.05, 0.2]), np.array([0.70, 0.01])).round(6)
    array([1.5, nan])
    """
    ratio = np.full(np.shape(gain), np.nan, np.result_type(gain, np.float32))
    return np.divide(gain, air_exp, out=ratio, where=np.asarray(air_exp) > least)


def inverse_variance_mean(
    a: np.ndarray, error_a: np.ndarray, b: np.ndarray, error_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of two estimates weighted by the inverse of their variances, and its standard error.

    Examples
    --------
    >>> inverse_variance_mean(np.array([1.0]), np.array([0.1]), np.array([2.0]), np.array([0.2]))
    (array([1.2]), array([0.08944272]))
    """
    of_a, of_b = (1 / np.square(np.maximum(error, 1e-6)) for error in (error_a, error_b))
    return (a * of_a + b * of_b) / (of_a + of_b), 1 / np.sqrt(of_a + of_b)


@dataclass(frozen=True)
class VentilationTerms:
    """Regional averages that ventilation is made of, one field per lung.

    ``air_insp - air_exp`` is the default map once both are scaled to each scan's own air volume.

    Parameters
    ----------
    air_insp, air_exp : LungField
        Means of ``J F_insp`` and of ``F_exp``, mL per mL of expiratory lung.
    jacobian, jacobian_se : LungField
        Mean of J, and its standard error.
    hu : LungField
        Density-ratio ventilation, mL/mL.
    standard_error : LungField
        Of the default map, mL/mL.
    hybrid : LungField
        ``J F_insp`` again, with J from geometry and density together, weighted by their inverse variances.
    """

    air_insp: LungField
    air_exp: LungField
    jacobian: LungField
    jacobian_se: LungField
    hu: LungField
    standard_error: LungField
    hybrid: LungField


def ventilation_terms(pair: MatchedPair, options: VentilationOptions | None = None) -> VentilationTerms:
    """Average each term of the three estimators over the neighbourhood, then combine what can be combined.

    Returns
    -------
    VentilationTerms
    """
    options = options or VentilationOptions()

    near = Neighbourhoods(pair.lungs, options.sigma_mm)
    mean = near.mean
    j = pair.jacobian.array
    inspired = mean(j * air_fraction(pair.hu_insp.array))
    expired = mean(air_fraction(pair.hu_exp.array))
    volume = pair.spread(near).jacobian
    rho_exp, rho_insp = mean(density(pair.hu_exp.array)), mean(density(pair.hu_insp.array))
    hu = {
        lung: rho_exp[lung].like(hu_gain(rho_exp[lung].array, rho_insp[lung].array, _mass_ratio(pair, lung)))
        for lung in rho_exp
    }
    error = options.errors.of_difference(pair, near, inspired)
    jacobian_error = options.errors.of_jacobian(pair, near, volume)
    return VentilationTerms(
        inspired,
        expired,
        volume,
        jacobian_error,
        hu,
        error,
        _hybrid(pair, options, near, (rho_exp, rho_insp), inspired, volume, jacobian_error),
    )


def _hybrid(
    pair: MatchedPair,
    options: VentilationOptions,
    near: Neighbourhoods,
    densities: tuple[LungField, LungField],
    inspired: LungField,
    volume: LungField,
    jacobian_error: LungField,
) -> LungField:
    """``J F_insp`` with the Jacobian replaced by a mean of it and of the density ratio.

    The ratio of densities is as good as the assumption that mass changes by one factor. Here that factor is a
    place's own, as the Jacobian and both densities have it over `local_mass_mm`; how much it varies over the lung
    is taken for its error.
    """
    wide = Neighbourhoods(pair.lungs, options.local_mass_mm)
    exp, insp = density(pair.hu_exp.array), density(pair.hu_insp.array)
    rho_exp, rho_insp = densities
    far_exp, far_insp = wide.mean(exp), wide.mean(pair.jacobian.array * insp)
    scatter = options.errors.of_neighbours(pair, near)
    result: LungField = {}
    for lung, part in volume.items():
        inside = pair.lungs.resample_labels(part.grid).array == LUNGS[lung]
        ratio = far_insp[lung].like(far_insp[lung].array / far_exp[lung].array)
        k = ratio.resample(part.grid, antialias=False).array
        spread = float(np.nanstd(k[inside]) / np.nanmean(k[inside])) if inside.any() else 0.0
        e, j = rho_exp[lung].array, part.array
        by_density = k * e / rho_insp[lung].array
        error = by_density * np.sqrt(spread**2 + (scatter[lung].array / e) ** 2)
        joined, _ = inverse_variance_mean(j, jacobian_error[lung].array, by_density, error)
        joined = np.where(np.isfinite(joined) & (by_density > 0), joined, j)
        result[lung] = part.like((inspired[lung].array * joined / j).astype(np.float32))
    return result


def _mass_ratio(pair: MatchedPair, lung: str) -> float:
    before, after = pair.exp[lung].mass_g, pair.insp[lung].mass_g
    return after / before if before > 0 else 1.0
