"""How much air each part of the lung gains on breathing in.

Estimators from one mass balance per parcel of tissue: what the parcel weighs at inspiration is what
it weighed at expiration plus what flowed in, ``J rho_insp = rho_exp + m``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lungvq.hu import air_fraction
from lungvq.pair import ErrorModel, MatchedPair, mean_square
from lungvq.regional import LungField, Neighbourhoods

__all__ = [
    "VentilationOptions",
    "VentilationTerms",
    "air_gain",
    "hu_gain",
    "jacobian_gain",
    "shrunk_detail",
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
    errors : ErrorModel
        Behind the standard error.
    """

    sigma_mm: float = 5.0
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


def shrunk_detail(detail: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The part of apparent detail that is likely to be error.

    Parameters
    ----------
    detail : ndarray
        What was found, error and truth together.
    error : ndarray of the same shape
        Its standard error, place by place.

    Returns
    -------
    ndarray
        Of detail the share ``e^2 / (e^2 + t^2)``, where t^2 is what detail has in variance beyond its errors: what a
        mean weighted by inverse variances makes of it. No more than twice the error is taken for error.

    Examples
    --------
    >>> shrunk_detail(np.array([0.1, -0.1, 0.1, -0.1]), np.array([0.05, 0.05, 0.05, 0.05])).round(3)
    array([ 0.025, -0.025,  0.025, -0.025])
    >>> shrunk_detail(np.array([0.1, -0.1]), np.array([0.2, 0.2]))
    array([ 0.1, -0.1])
    """
    of_error = np.square(error)
    beyond = max(mean_square(detail) - float(of_error.mean(dtype=np.float64)), 0.0)
    share = of_error / np.maximum(of_error + beyond, 1e-12)
    return share * np.clip(detail, -2 * error, 2 * error)


@dataclass(frozen=True)
class VentilationTerms:
    """Regional averages that ventilation is made of, one field per lung.

    ``air_insp - air_exp`` is the default map once both are scaled to each scan's own air volume.

    Parameters
    ----------
    air_insp, air_exp : LungField
        Means of ``J F_insp`` and of ``F_exp``, mL per mL of expiratory lung; J with the detail that geometry and
        density agree on.
    air_insp_plain : LungField
        Means of ``J F_insp``, J as the registration has it.
    jacobian, jacobian_se : LungField
        Mean of J, and its standard error.
    hu : LungField
        Density-ratio ventilation, mL/mL.
    standard_error : LungField
        Of the default map, mL/mL; that of the plain one, as what densities add has errors of its own.
    """

    air_insp: LungField
    air_insp_plain: LungField
    air_exp: LungField
    jacobian: LungField
    jacobian_se: LungField
    hu: LungField
    standard_error: LungField


def ventilation_terms(pair: MatchedPair, options: VentilationOptions | None = None) -> VentilationTerms:
    """Average each term of the estimators over the neighbourhood, then combine what can be combined.

    Returns
    -------
    VentilationTerms
    """
    options = options or VentilationOptions()

    near = Neighbourhoods(pair.lungs, options.sigma_mm)
    inspired = near.mean(pair.jacobian.array * air_fraction(pair.hu_insp.array))
    expired = near.mean(air_fraction(pair.hu_exp.array))
    means = pair.spread(near)
    hu = {
        lung: rho.like(hu_gain(rho.array, means.density_insp[lung].array, _mass_ratio(pair, lung)))
        for lung, rho in means.density_exp.items()
    }
    return VentilationTerms(
        air_insp=_settled(inspired, pair, near, options.errors),
        air_insp_plain=inspired,
        air_exp=expired,
        jacobian=means.jacobian,
        jacobian_se=options.errors.of_jacobian(pair, near, means.jacobian),
        hu=hu,
        standard_error=options.errors.of_difference(pair, near, inspired),
    )


def _settled(inspired: LungField, pair: MatchedPair, near: Neighbourhoods, errors: ErrorModel) -> LungField:
    """``J F_insp`` with a Jacobian whose detail geometry and density agree on.

    Densities say what J should be, but for the mass ratio. Its trend is taken from both; its detail is partly error
    of the registration, and that part is taken out of J.
    """
    detail, error = pair.mass_ratio_detail(near), errors.of_detail(pair, near)
    result: LungField = {}
    for lung, part in inspired.items():
        inside = detail[lung].array != 0
        settled = part.array.copy()
        if inside.any():
            settled[inside] *= np.exp(-shrunk_detail(detail[lung].array[inside], error[lung].array[inside]))
        result[lung] = part.like(settled)
    return result


def _mass_ratio(pair: MatchedPair, lung: str) -> float:
    before, after = pair.exp[lung].mass_g, pair.insp[lung].mass_g
    return after / before if before > 0 else 1.0
