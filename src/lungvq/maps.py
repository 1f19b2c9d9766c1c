"""From regional averages to the maps of a run, on the expiration scan's own voxels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lungvq.breath import Breath
from lungvq.clinical.prm import prm_map
from lungvq.clinical.vq import at_one_scale, relative_to_mean, vq_class, vq_log2
from lungvq.ctp import RegionalMagnitude, above_noise
from lungvq.findings import Finding, graded, passed
from lungvq.match import Comparable
from lungvq.pair import LungTotals
from lungvq.perfusion import PerfusionTerms
from lungvq.regional import LungVoxels, close_sums, reaching_out
from lungvq.ventilation import VentilationTerms, jacobian_gain, specific_gain
from lungvq.volume import Volume

__all__ = ["OPAQUE_Q", "OPAQUE_V", "make_maps"]

OPAQUE_Q, OPAQUE_V = 0.50, 0.75
"""g/mL at expiration: in denser lung density is not blood, air not ventilation."""


def make_maps(
    insp: Breath,
    exp: Breath,
    ventilation: VentilationTerms,
    perfusion: PerfusionTerms,
    confidence: Volume,
    both: Comparable,
    held: tuple[dict[str, LungTotals], dict[str, LungTotals]],
    *,
    sigmas_mm: tuple[float, float] = (5.0, 5.0),
) -> tuple[dict[str, Volume], list[Finding]]:
    """All maps of a run, and how well they closed before they were made to.

    Parameters
    ----------
    confidence : Volume
        0 to 1, on the working grid.
    both : Comparable
        Inspiration and expiration on the grid of ``exp.ct``.
    held : (dict, dict)
        What each lung holds at inspiration and at expiration.
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
    Inspired and expired air are each scaled, lung by lung, to what the lung holds in its own scan; so the sum of
    ventilation over a lung *is* the difference of the two scans, and the factors say how far the map was off.
    """
    lungs = exp.anatomy.lungs
    voxels = LungVoxels(lungs)
    on = voxels.carried(
        {
            "air_insp": ventilation.air_insp,
            "air_exp": ventilation.air_exp,
            "jacobian": ventilation.jacobian,
            "jacobian_se": ventilation.jacobian_se,
            "hu": ventilation.hu,
            "plain": ventilation.air_insp_plain,
            "ventilation_se": ventilation.standard_error,
            "density": perfusion.density_exp,
            "blood": perfusion.blood,
            "blood_se": perfusion.blood_se,
            "change": perfusion.change,
            "change_se": perfusion.change_se,
            "magnitude": perfusion.magnitude.magnitude,
            "confidence": dict.fromkeys(ventilation.jacobian, reaching_out(confidence)),
        }
    )

    def close(values: np.ndarray, totals: dict[str, float]) -> dict[str, float]:
        return close_sums(values, voxels.labels, lungs.voxel_ml, totals)

    inspired_ml, expired_ml = ({lung: t.air_ml for lung, t in of_scan.items()} for of_scan in held)
    factors = close(on["air_insp"], inspired_ml)
    close(on["air_exp"], expired_ml)
    close(on["plain"], inspired_ml)
    close(on["jacobian"], {lung: t.volume_ml for lung, t in held[0].items()})

    opaque = on["density"] > OPAQUE_V
    v = _without(opaque, on["air_insp"] - on["air_exp"])
    blood = _without(on["density"] > OPAQUE_Q, on["blood"])
    mean_blood = np.float32(np.nanmean(blood, dtype=np.float64) if np.isfinite(blood).any() else np.nan)
    q = blood / mean_blood
    alike = v, q
    if sigmas_mm[0] != sigmas_mm[1]:
        first, second = at_one_scale(voxels.put(v), voxels.put(q), lungs, sigmas_mm)
        alike = voxels.row(first), voxels.row(second)
    relative_v, relative_q = relative_to_mean(*alike)
    rows = {
        "ventilation": v,
        "ventilation_jacobian": jacobian_gain(on["jacobian"]),
        "ventilation_hu": on["hu"],
        "ventilation_plain": _without(opaque, on["plain"] - on["air_exp"]),
        "ventilation_specific": specific_gain(v, on["air_exp"]),
        "perfusion": q,
        "perfusion_ctp": on["change"],
        "perfusion_ctp_se": on["change_se"],
        "perfusion_ctp_magnitude": _without(~above_noise(on["change"], on["change_se"]), on["magnitude"]),
        "jacobian": on["jacobian"],
        "jacobian_se": on["jacobian_se"],
        "vq_log2": vq_log2(relative_v, relative_q),
        "ventilation_se": on["ventilation_se"],
        "perfusion_se": on["blood_se"] / mean_blood,
        "registration_confidence": on["confidence"],
    }
    arrays = {name: voxels.put(row) for name, row in rows.items()}
    arrays["vq_class"] = voxels.put(vq_class(relative_v, relative_q), 0)
    arrays["prm"] = prm_map(both.insp, both.exp, both.inside, insp.calibrate, exp.calibrate)
    return {name: lungs.like(array) for name, array in arrays.items()}, [
        *_closing(factors),
        _noise_floor(perfusion.magnitude, held[1]),
    ]


def _without(where: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values with NaN where they mean nothing."""
    return np.where(where, np.float32(np.nan), values)


def _noise_floor(found: RegionalMagnitude, held: Mapping[str, LungTotals]) -> Finding:
    """In how much of the expired lungs the mass change cannot be told from none."""
    lungs = list(found.below_floor)
    sizes = [held[lung].volume_ml for lung in lungs]
    share = 100 * float(np.average([found.below_floor[lung] for lung in lungs], weights=sizes))
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
