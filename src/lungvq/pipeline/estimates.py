"""Maps from two breath-holds whose correspondence is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from lungvq.breath import Breath
from lungvq.clinical.gravity import depth_mm, detrended
from lungvq.ctp import region_sigma
from lungvq.findings import Finding, passed, warn
from lungvq.maps import make_maps
from lungvq.match import Comparable, carry_inspiration, carry_map, equally_sharp, match
from lungvq.methods import Estimator, load_estimator
from lungvq.pair import MatchedPair, credible_scale
from lungvq.perfusion import PerfusionTerms, perfusion_terms
from lungvq.pipeline.options import Options
from lungvq.register import Registration
from lungvq.ventilation import VentilationTerms, ventilation_terms
from lungvq.volume import Volume
from lungvq.wall import LungHu, lung_hu, wall_reach

__all__ = ["Estimates", "estimate", "variants"]


@dataclass(frozen=True)
class Estimates:
    """The maps of a pair, the inspiration seen from the expiration, and how well the maps closed.

    `free_insp` and `free_exp` are the lungs of each scan free of wall; `others` are the estimators of other
    packages whose maps are among `maps`.
    """

    maps: dict[str, Volume]
    insp_on_exp: Volume
    equally_sharp: Comparable
    extravascular_g_ml: float
    findings: tuple[Finding, ...]
    free_insp: LungHu
    free_exp: LungHu
    others: dict[str, Estimator] = field(default_factory=dict)


def estimate(insp: Breath, exp: Breath, registration: Registration, options: Options) -> Estimates:
    """Ventilation and perfusion from two breath-holds whose correspondence is known."""
    reach = wall_reach(insp, exp)
    free_insp, free_exp = (lung_hu(b, registration.lungs.spacing, reach) for b in (insp, exp))
    pair = match(free_insp, free_exp, registration)
    air = ventilation_terms(pair, options.ventilation)
    blood = perfusion_terms(pair, options.perfusion)
    insp_on_exp = carry_inspiration(registration.displacement, insp.ct, exp.ct.grid)
    sigmas = options.ventilation.sigma_mm, options.perfusion.sigma_mm
    both = equally_sharp(insp, exp, insp_on_exp, registration)
    maps, findings = make_maps(
        insp, exp, air, blood, registration.confidence, both, (pair.insp, pair.exp), sigmas_mm=sigmas
    )
    findings += _credible_scales(pair, air, blood, options)
    added, others, failed = _of_others(options.estimators, pair, exp.anatomy.lungs)
    maps |= added
    findings += failed
    return Estimates(
        maps, insp_on_exp, both, blood.extravascular_g_ml, tuple(findings), free_insp, free_exp, others
    )


def _of_others(
    names: Iterable[str], pair: MatchedPair, lungs: Volume
) -> tuple[dict[str, Volume], dict[str, Estimator], list[Finding]]:
    """The maps of estimators of other packages, on the grid of `lungs`; whatever goes wrong in them is a finding."""
    maps: dict[str, Volume] = {}
    used: dict[str, Estimator] = {}
    failed = []
    for name in names:
        estimator = load_estimator(name)
        try:
            maps[name] = carry_map(estimator(pair), pair.lungs, lungs)
            used[name] = estimator
        except Exception as error:
            # Code of others must not take this package's results along.
            told = f"The estimator {name} of another package failed: {type(error).__name__}: {error}"
            failed.append(warn("ESTIMATOR_FAILED", told, advice="Its map is missing; all else is whole."))
    return maps, used, failed


def _credible_scales(
    pair: MatchedPair, air: VentilationTerms, blood: PerfusionTerms, options: Options
) -> Iterator[Finding]:
    """For each map with a standard error, the scale from which on its pattern is mostly not error."""
    ventilation = {
        lung: part.like(part.array - air.air_exp[lung].array) for lung, part in air.air_insp.items()
    }
    for name, values, errors, own in (
        ("ventilation", ventilation, air.standard_error, options.ventilation.sigma_mm),
        ("perfusion", blood.blood, blood.blood_se, options.perfusion.sigma_mm),
        ("perfusion_ctp", blood.change, blood.change_se, region_sigma(options.perfusion.ctp_radius_mm)),
    ):
        scale = credible_scale(pair.lungs, values, errors, own)
        told = f"from a Gaussian of {scale:.0f} mm on" if scale else "at no scale up to 20 mm"
        yield passed(
            f"CREDIBLE_SCALE_{name.upper()}",
            f"The pattern of {name} is mostly more than its standard error {told}.",
            value=scale,
            unit="mm",
        )


def variants(
    maps: dict[str, Volume], options: Options, down: tuple[float, float, float]
) -> dict[str, Volume]:
    """The maps that are written on request beside those they are made from.

    Parameters
    ----------
    maps : dict of str to Volume
        With ``ventilation`` and ``perfusion``.
    options : Options
    down : (float, float, float)
        Where gravity pulls to, LPS: `clinical.gravity.down_of`.
    """
    found = {}
    if options.detrended:
        depth = depth_mm(maps["ventilation"].grid, down)
        for name in ("ventilation", "perfusion"):
            found[f"{name}_detrended"] = maps[name].like(detrended(maps[name].array, depth))
    if options.relative:
        v = maps["ventilation"]
        mean = np.float32(np.nanmean(v.array, dtype=np.float64))
        found["ventilation_relative"] = v.like(v.array / mean)
    return found
