"""The whole method, readable on one page: from two scans to one result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd

from lungvq import io
from lungvq.agreement import agreement, check_same_patient, patient_agreement, slice_thickness
from lungvq.breath import Breath, prepare
from lungvq.clinical.acceptance import accept, mark
from lungvq.clinical.gravity import down_of
from lungvq.clinical.prm import prm_map
from lungvq.errors import UsageError
from lungvq.intervals import lobe_borders, region_intervals
from lungvq.match import Comparable, alike, carry_lobes, on_one_basis, one_scale
from lungvq.methods import load_estimator
from lungvq.onebreath import without_breathing
from lungvq.pipeline.estimates import Estimates, estimate, variants
from lungvq.pipeline.gates import (
    NO_BREATHING_RATIO,
    breathing_volumes,
    check_breathing,
    check_match,
    check_sums,
    overrides,
)
from lungvq.pipeline.options import Options
from lungvq.pipeline.outcome import Linked, assembled, evidence, quality_numbers
from lungvq.progress import SILENT, Clock, Progress
from lungvq.quantify import BreathHold, quantify
from lungvq.quantify.zones import carina_height
from lungvq.register import RegisterOptions, register
from lungvq.result import MAPS, CaseResult
from lungvq.segment.given import Given, place_lobes
from lungvq.segment.lobes import Lobes
from lungvq.segment.vessels import small_vessels, vessel_sizes
from lungvq.spine import compare_spines, spine_findings
from lungvq.volume import Volume
from lungvq.wall import LungHu

__all__ = [
    "NO_BREATHING_RATIO",
    "Estimates",
    "Options",
    "analyse",
    "check_breathing",
    "estimate",
    "quality_numbers",
]


def analyse(
    insp: io.Scan,
    exp: io.Scan,
    *,
    case: str,
    options: Options | None = None,
    given: Given | None = None,
    progress: Progress = SILENT,
) -> CaseResult:
    """Turn an inspiration and an expiration scan into maps, numbers and findings.

    Parameters
    ----------
    insp, exp : Scan
        As read, in any axis order.
    case : str
        Name to put on the result.
    options : Options, optional
    given : Given, optional
        Lungs and lobes from elsewhere.
    progress : Progress, optional

    Raises
    ------
    InputError
        If there are no lungs in a scan.
    PairError
        If the scans are swapped, show no breathing (unless allowed) or cannot be brought together.
    """
    options, given = options or Options(), given or Given()
    _check_estimators(options.estimators)
    check_same_patient(insp.patient, exp.patient)
    given.check(insp.volume.grid, exp.volume.grid)
    clock = Clock(progress)
    with clock.stage("finding the lungs at inspiration"):
        inspired = prepare(insp, "inspiration", progress, lungs=given.lungs_insp)
    with clock.stage("finding the lungs at expiration"):
        expired = prepare(exp, "expiration", progress, lungs=given.lungs_exp)
        inspired, expired, basis = on_one_basis(inspired, expired)
        inspired, expired, sharpness = alike(inspired, expired)
    least_ml = options.registration.smallest_lung_ml
    volumes = breathing_volumes(inspired.volumes_ml, expired.volumes_ml, least_ml)
    banner = check_breathing(*volumes, allow=options.allow_no_breathing)
    if banner:
        inspired, expired = one_scale(inspired, expired)
    with clock.stage("placing the lobes"):
        lobes = place_lobes(inspired.ct, inspired.anatomy, given)
    with clock.stage("registering inspiration to expiration"):
        spines = compare_spines(exp.volume, insp.volume)
        pair = _linked(inspired, expired, lobes, options.registration, progress)
    with clock.stage("estimating ventilation and perfusion"):
        down = down_of(str(exp.facts.get("patient_position") or ""))
        estimated = estimate(inspired, expired, pair.registration, options)
        asked_for = variants(estimated.maps, options, down)
        estimated = replace(estimated, maps={**estimated.maps, **asked_for})
    with clock.stage("counting per lung, lobe and zone"):
        metrics = _numbers(case, pair, estimated, down, options)
        result = assembled(case, pair, estimated, metrics, options, given)
        if banner:
            result = without_breathing(result)
        findings = (
            *overrides(banner),
            *patient_agreement(insp.patient, exp.patient),
            *agreement(insp.facts, exp.facts),
            *inspired.findings,
            *expired.findings,
            basis,
            sharpness,
            *spine_findings(spines),
            *lobes.findings,
            *pair.registration.quality.findings,
            *accept(evidence(pair, estimated, result)),
            *estimated.findings,
            check_sums(result),
        )
    return replace(
        result,
        findings=findings,
        metrics=mark(result.metrics, findings),
        timings=clock.seconds,
        banner=banner,
    )


def _check_estimators(names: Iterable[str]) -> None:
    """Refuse estimators that are not there at once: it should not come to light after minutes."""
    for name in names:
        load_estimator(name)
        if name in MAPS:
            raise UsageError(f"the estimator {name!r} has the name of a map that is there already")


def _linked(insp: Breath, exp: Breath, lobes: Lobes, options: RegisterOptions, progress: Progress) -> Linked:
    """Both breath-holds with where each point of the expired lungs went, and the lobes carried along."""
    registration = register(
        exp.ct,
        insp.ct,
        exp.anatomy.lungs,
        insp.anatomy.lungs,
        moving_parts=lobes.that_may_slide(),
        options=options,
        progress=progress,
    )
    check_match(registration)
    return Linked(insp, exp, lobes, registration, carry_lobes(registration, lobes.labels, exp.anatomy.lungs))


def _numbers(
    case: str, pair: Linked, estimated: Estimates, down: tuple[float, float, float], options: Options
) -> pd.DataFrame:
    """The table of numbers per lung, lobe and zone."""
    insp = _counted(pair.insp, pair.lobes.labels, estimated.free_insp)
    exp = _counted(pair.exp, pair.lobes_exp, estimated.free_exp)
    sure = {fissure.name: fissure.uncertainty_mm for fissure in pair.lobes.fissures.values()}
    return quantify(
        case,
        exp,
        replace(insp, small_vessels=_small_vessels(pair.insp)),
        {**estimated.maps, "prm_median3d": _quiet_prm(pair.insp, pair.exp, estimated.equally_sharp)},
        down=down,
        others={name: (e.quantity, e.method.id) for name, e in estimated.others.items()},
        sigmas_mm=(options.ventilation.sigma_mm, options.perfusion.sigma_mm),
        intervals=region_intervals(
            exp,
            estimated.maps,
            border_mm=lobe_borders(sure),
            slice_mm=max(_slice_mm(b) for b in (pair.insp, pair.exp)),
        ),
    )


def _counted(breath: Breath, lobes: Volume, free: LungHu) -> BreathHold:
    """What `quantify` needs of a scan."""
    anatomy = breath.anatomy
    carina = anatomy.bronchi.tree.carina_mm
    height = carina_height(anatomy.airways) if carina is None else float(carina[2])
    return BreathHold(breath.ct, anatomy.lungs, lobes, breath.calibrate, height, free=free.hu)


def _slice_mm(breath: Breath) -> float:
    return max(breath.ct.spacing[0], slice_thickness(breath.scan.facts))


def _small_vessels(breath: Breath) -> Volume:
    anatomy = breath.anatomy
    labels = anatomy.lungs.array, anatomy.vessels.array, anatomy.airways.array
    return small_vessels(breath.ct, vessel_sizes(breath.ct, *labels))


def _quiet_prm(insp: Breath, exp: Breath, both: Comparable) -> Volume:
    """PRM after a median in space, which noise moves less than the published one in-plane."""
    classes = prm_map(both.insp, both.exp, both.inside, insp.calibrate, exp.calibrate, depth=3)
    return exp.anatomy.lungs.like(classes)
