"""Surrogates of regional blood flow that two scans without contrast can give.

None of them measures flow. The default says where blood *is*; the apparent mass change says where blood
*comes and goes* with breathing. Both follow flow in many lungs and part from it in some.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lungvq.ctp import RADII_MM, RegionalMagnitude, region_sigma, regional_magnitude
from lungvq.errors import UsageError
from lungvq.hu import density
from lungvq.pair import ErrorModel, MatchedPair
from lungvq.regional import LungField, Neighbourhoods
from lungvq.register.field import blur
from lungvq.volume import Volume

__all__ = ["PerfusionOptions", "PerfusionTerms", "blood_mass", "mass_change", "parenchyma", "perfusion_terms"]


@dataclass(frozen=True)
class PerfusionOptions:
    """Parameters of the perfusion surrogates.

    Parameters
    ----------
    sigma_mm : float
        Gaussian over which blood mass is averaged; that of ventilation, so that V/Q compares like with like.
    ctp_radius_mm : float
        Of a ball as large as the regions of the mass change, which have to be larger: one of `ctp.RADII_MM`; see
        `ctp.region_sigma`.
    extravascular_share : float
        Tissue that is not blood, as a share of the lungs' mean density [1]_.
    vessel_excess_hu : float
        A voxel this much denser than its surroundings is a vessel and left out.
    vessel_residue : float
        Standard error of blood mass from vessels too small to be left out, as a share of its mean; measured on
        phantoms, where such vessels are counted and the truth is that of the tissue between them.
    errors : ErrorModel
        Behind the standard errors.

    References
    ----------
    .. [1] Brudin LH et al (1987). J Appl Physiol 63:1324: 0.10 of 0.28 g/mL, supine.
    """

    sigma_mm: float = 5.0
    ctp_radius_mm: float = 20.0
    extravascular_share: float = 0.36
    vessel_excess_hu: float = 150.0
    vessel_residue: float = 0.10
    errors: ErrorModel = field(default_factory=ErrorModel)

    def __post_init__(self) -> None:
        if self.ctp_radius_mm not in RADII_MM:
            sizes = ", ".join(f"{mm:g}" for mm in RADII_MM)
            raise UsageError(
                f"regions of the mass change have a radius of {sizes} mm, got {self.ctp_radius_mm:g}"
            )


def blood_mass(density_exp: np.ndarray, density_insp: np.ndarray, extravascular: float) -> np.ndarray:
    """Blood per mL of expiratory lung, in g/mL: mean tissue of the two breath-holds less what is not blood.

    Parameters
    ----------
    density_exp, density_insp : ndarray of the same shape
        g per mL of *expiratory* lung; the inspiratory one is ``J rho_insp``.
    extravascular : float
        g/mL of tissue that is not blood.

    Returns
    -------
    ndarray
        Not negative. 0: no more than the extravascular tissue.

    Notes
    -----
    Where density is not blood (fibrosis, ground glass, oedema, collapse) it is not valid.

    Examples
    --------
    >>> blood_mass(np.array([0.28]), np.array([0.28]), 0.10).round(3)
    array([0.18])
    """
    return np.maximum((density_exp + density_insp) / 2 - extravascular, 0)


def mass_change(density_exp: np.ndarray, density_insp: np.ndarray) -> np.ndarray:
    """Mass gained on breathing in per mL of expiratory lung, in g/mL, signed.

    Both densities are in g per mL of *expiratory* lung; the inspiratory one is ``J rho_insp``.

    Notes
    -----
    CT-P [1]_ is the magnitude of this. A change of blood *volume*, mixed with every error of the
    registration: 1 % of J is as large as 1 % of the inspiratory mass.

    References
    ----------
    .. [1] Castillo E et al (2021). Med Phys 48:1804.

    Examples
    --------
    >>> mass_change(np.array([0.30]), 2.0 * np.array([0.16])).round(3)
    array([0.02])
    """
    return density_insp - density_exp


def parenchyma(hu: Volume, lungs: Volume, *, excess_hu: float, scale_mm: float = 8.0) -> np.ndarray:
    """Voxels of the lungs that are not vessels: not much denser than the mean around them.

    Returns
    -------
    ndarray of bool, shape of `hu`
    """
    inside = (lungs.array > 0).astype(np.float32)
    sigma = [scale_mm / s for s in hu.spacing]
    above = blur(np.where(inside > 0, hu.array, 0).astype(np.float32), sigma)
    below = blur(inside, sigma)
    around = above / np.maximum(below, 1e-4)
    return (inside > 0) & (hu.array < around + excess_hu)


@dataclass(frozen=True)
class PerfusionTerms:
    """Regional averages the perfusion maps are made of, one field per lung.

    Parameters
    ----------
    blood, blood_se : LungField
        Blood mass and its standard error, g per mL of expiratory lung.
    change, change_se : LungField
        Apparent mass change, signed, and its standard error, g per mL of expiratory lung.
    magnitude : RegionalMagnitude
        CT-P: the debiased magnitude of it.
    density_exp : LungField
        Mean density at expiration, vessels included, g/mL: tells opacities.
    extravascular_g_ml : float
        What was taken to be tissue without blood.
    """

    blood: LungField
    blood_se: LungField
    change: LungField
    change_se: LungField
    magnitude: RegionalMagnitude
    density_exp: LungField
    extravascular_g_ml: float


def perfusion_terms(pair: MatchedPair, options: PerfusionOptions | None = None) -> PerfusionTerms:
    """Average densities over the neighbourhood, vessels left out, then take blood mass and mass change.

    Returns
    -------
    PerfusionTerms
    """
    options = options or PerfusionOptions()
    j = pair.jacobian.array
    exp, insp = density(pair.hu_exp.array), j * density(pair.hu_insp.array)
    tissue = _tissue_weights(pair, options)
    small = Neighbourhoods(pair.lungs, options.sigma_mm, tissue)
    whole, large = (
        Neighbourhoods(pair.lungs, sigma) for sigma in (options.sigma_mm, region_sigma(options.ctp_radius_mm))
    )

    average = float(((exp + insp) / 2)[tissue > 0].mean(dtype=np.float64)) if (tissue > 0).any() else 0.0
    extravascular = options.extravascular_share * average
    small_exp, small_insp = small.mean(exp), small.mean(insp)
    large_exp, large_insp = pair.spread(large).density_exp, large.mean(insp)
    residue = options.vessel_residue * max(average - extravascular, 0)
    # The mean of two densities errs half as much as their difference; what J adds is the same.
    blood_error = options.errors.of_difference(pair, whole, small_insp)

    change = {
        lung: part.like(mass_change(part.array, large_insp[lung].array)) for lung, part in large_exp.items()
    }
    change_error = options.errors.of_difference(pair, large, large_insp)
    return PerfusionTerms(
        blood={
            lung: part.like(blood_mass(part.array, small_insp[lung].array, extravascular))
            for lung, part in small_exp.items()
        },
        blood_se={
            lung: part.like(np.hypot(part.array / 2, np.float32(residue)))
            for lung, part in blood_error.items()
        },
        change=change,
        change_se=change_error,
        magnitude=regional_magnitude(pair.lungs, change, change_error, options.ctp_radius_mm),
        density_exp=pair.spread(whole).density_exp,
        extravascular_g_ml=extravascular,
    )


def _tissue_weights(pair: MatchedPair, options: PerfusionOptions) -> np.ndarray:
    """1 where neither scan shows a vessel, 0 elsewhere and where voxels would share in the chest wall."""
    kept = parenchyma(pair.hu_exp, pair.lungs, excess_hu=options.vessel_excess_hu)
    kept &= parenchyma(pair.hu_insp, pair.lungs, excess_hu=options.vessel_excess_hu)
    return (kept & pair.clear.array).astype(np.float32)
