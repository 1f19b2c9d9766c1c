"""From regional averages to the maps of a run, on the expiration scan's own voxels."""

from __future__ import annotations

import numpy as np

from lungvq.anatomy import LUNGS
from lungvq.breath import Breath
from lungvq.clinical.acceptance import graded
from lungvq.clinical.prm import prm_map
from lungvq.clinical.vq import at_one_scale, relative_to_mean, vq_class, vq_log2
from lungvq.ctp import RegionalMagnitude
from lungvq.findings import Finding, passed
from lungvq.perfusion import PerfusionTerms
from lungvq.regional import LungField, carry, close_sums, reaching_out
from lungvq.ventilation import VentilationTerms, jacobian_gain, specific_gain
from lungvq.volume import Volume

__all__ = ["make_maps"]

_OPAQUE_Q, _OPAQUE_V = (
    0.50,
    0.75,
)  # g/mL at expiration: in denser lung density is not blood, air not ventilation


def make_maps(
    insp: Breath,
    exp: Breath,
    ventilation: VentilationTerms,
    perfusion: PerfusionTerms,
    confidence: Volume,
    both: tuple[np.ndarray, np.ndarray],
    *,
    sigmas_mm: tuple[float, float] = (5.0, 5.0),
) -> tuple[dict[str, Volume], list[Finding]]:
    """All maps of a run, and how well they closed before they were made to.

    Parameters
    ----------
    confidence : Volume
        0 to 1, on the working grid.
    both : (ndarray, ndarray)
        int16 HU of inspiration and expiration on the grid of ``exp.ct``, as `match.equally_sharp` makes them.
    sigmas_mm : (float, float)
        Gaussians that ventilation and perfusion were averaged over.

    Returns
    -------
    maps : dict of str to Volume
        The names of `result.MAPS`, on the grid of ``exp.ct``; NaN (0 for classes) outside the lungs and where
        undefined.
    findings : list of Finding

    Notes
    -----
    Inspired and expired air are each scaled, lung by lung, to what their own scan holds; so the sum of
    ventilation over a lung *is* the difference of the two scans, and the factors say how far the map was off.
    """
    lungs = exp.anatomy.lungs

    def onto(field: LungField) -> np.ndarray:
        return carry(field, lungs)

    inspired, expired, jacobian = (
        onto(ventilation.air_insp),
        onto(ventilation.air_exp),
        onto(ventilation.jacobian),
    )
    factors = close_sums(inspired, lungs, {lung: t.air_ml for lung, t in insp.totals.items()})
    close_sums(expired, lungs, {lung: t.air_ml for lung, t in exp.totals.items()})
    close_sums(jacobian, lungs, {lung: t.volume_ml for lung, t in insp.totals.items()})
    dense = onto(perfusion.density_exp)

    v = np.where(dense > _OPAQUE_V, np.nan, inspired - expired)
    blood = np.where(dense > _OPAQUE_Q, np.nan, onto(perfusion.blood))
    mean_blood = float(np.nanmean(blood, dtype=np.float64)) if np.isfinite(blood).any() else np.nan
    q = blood / np.float32(mean_blood)
    hybrid = onto(ventilation.hybrid)
    close_sums(hybrid, lungs, {lung: t.air_ml for lung, t in insp.totals.items()})
    relative_v, relative_q = relative_to_mean(*at_one_scale(v, q, lungs, sigmas_mm))
    inside = lungs.array > 0
    arrays = {
        "ventilation": v,
        "ventilation_jacobian": jacobian_gain(jacobian),
        "ventilation_hu": onto(ventilation.hu),
        "ventilation_hybrid": np.where(dense > _OPAQUE_V, np.nan, hybrid - expired),
        "ventilation_specific": specific_gain(v, expired),
        "perfusion": q,
        "perfusion_ctp": onto(perfusion.change),
        "perfusion_ctp_se": onto(perfusion.change_se),
        "perfusion_ctp_magnitude": onto(perfusion.magnitude.magnitude),
        "jacobian": jacobian,
        "jacobian_se": onto(ventilation.jacobian_se),
        "vq_log2": vq_log2(relative_v, relative_q),
        "vq_class": vq_class(relative_v, relative_q),
        "prm": prm_map(*both, inside, insp.calibrate, exp.calibrate),
        "ventilation_se": onto(ventilation.standard_error),
        "perfusion_se": onto(perfusion.blood_se) / np.float32(mean_blood),
        "registration_confidence": onto(dict.fromkeys(LUNGS, reaching_out(confidence))),
    }
    return {name: lungs.like(array) for name, array in arrays.items()}, [
        *_closing(factors),
        _noise_floor(perfusion.magnitude),
    ]


def _noise_floor(found: RegionalMagnitude) -> Finding:
    """In how much of the lungs the mass change cannot be told from none."""
    share = 100 * float(np.mean(list(found.below_floor.values())))
    return passed(
        "CTP_NOISE_FLOOR",
        f"In {share:.0f} % of the lungs the mass change over regions of {found.radius_mm:g} mm radius is within twice"
        " its standard error: there CT-P says nothing.",
        value=round(share, 1),
        unit="%",
    )


def _closing(factors: dict[str, float]) -> list[Finding]:
    """Whether the map of inspired air held what the inspiration scan holds, before it was scaled to it."""
    return [
        graded(
            f"AIR_CLOSURE_{lung.upper()}",
            abs(100 * (1 / factor - 1)),
            (5, 15),
            f"difference between inspired air carried to the {lung} lung and that of the inspiration scan, before"
            " the map was scaled to it,",
            unit="%",
            advice="Check the lung masks and the registration.",
            touches=(lung,),
        )
        for lung, factor in factors.items()
        if factor > 0
    ]
