"""The whole method, readable on one page: from two scans to one result."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd

from lungvq import io
from lungvq.agreement import agreement, check_same_patient, slice_thickness
from lungvq.anatomy import LOBES, LUNGS
from lungvq.breath import Breath, prepare
from lungvq.clinical.acceptance import METAL_HU, Evidence, accept, mark, predicted_volume_ml
from lungvq.clinical.gravity import depth_mm, detrended, down_of
from lungvq.clinical.prm import prm_map
from lungvq.ctp import region_sigma
from lungvq.errors import PairError, UsageError
from lungvq.findings import Finding, fail, passed, warn
from lungvq.intervals import lobe_borders, region_intervals
from lungvq.maps import make_maps
from lungvq.match import (
    alike,
    carry_inspiration,
    carry_lobes,
    carry_map,
    equally_sharp,
    match,
    on_one_basis,
    one_scale,
)
from lungvq.methods import Estimator, load_estimator
from lungvq.onebreath import without_breathing
from lungvq.pair import MatchedPair, credible_scale
from lungvq.perfusion import PerfusionOptions, PerfusionTerms, perfusion_terms
from lungvq.progress import SILENT, Progress
from lungvq.quantify import BreathHold, quantify
from lungvq.quantify.zones import carina_height
from lungvq.register import RegisterOptions, Registration, register
from lungvq.register.quality import DEPTHS_MM
from lungvq.result import MAPS, CaseResult, ScanSummary
from lungvq.segment.given import Given, place_lobes
from lungvq.segment.lobes import Lobes
from lungvq.segment.vessels import small_vessels, vessel_sizes
from lungvq.ventilation import VentilationOptions, VentilationTerms, ventilation_terms
from lungvq.versions import versions
from lungvq.volume import Volume
from lungvq.wall import LungHu, lung_hu, wall_reach

__all__ = [
    "Estimates",
    "Options",
    "analyse",
    "check_breathing",
    "estimate",
    "quality_numbers",
]

NO_BREATHING_RATIO = 0.95
"""V_exp / V_insp above which there is no breathing between the scans; above its inverse they are swapped."""

LEAST_CORRELATION = 0.35
"""Mean local correlation inside the lungs after registration, below which two scans are refused as a pair.

Strangers and scans upside down reach at most 0.29, pairs 0.55 or more even in heavy noise
(`register.quality.MISMATCH_CORRELATION`); between this and that a finding says so.
"""


@dataclass(frozen=True)
class Options:
    """Parameters of a run; every one of them is recorded in ``run.json``."""

    registration: RegisterOptions = field(default_factory=RegisterOptions)
    ventilation: VentilationOptions = field(default_factory=VentilationOptions)
    perfusion: PerfusionOptions = field(default_factory=PerfusionOptions)
    allow_no_breathing: bool = False
    estimators: tuple[str, ...] = ()
    detrended: bool = False
    relative: bool = False


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
    for name in options.estimators:  # what is wrong with them should not come to light after minutes
        load_estimator(name)
        if name in MAPS:
            raise UsageError(f"the estimator {name!r} has the name of a map that is there already")
    check_same_patient(insp.patient, exp.patient)
    given.check(insp.volume.grid, exp.volume.grid)
    clock = Clock(progress)
    with clock.stage("finding the lungs at inspiration"):
        inspired = prepare(insp, "inspiration", progress, lungs=given.lungs_insp)
    with clock.stage("finding the lungs at expiration"):
        expired = prepare(exp, "expiration", progress, lungs=given.lungs_exp)
        inspired, expired, basis = on_one_basis(inspired, expired)
        inspired, expired, sharpness = alike(inspired, expired)
    banner = check_breathing(
        *(sum(breath.volumes_ml.values()) for breath in (inspired, expired)),
        allow=options.allow_no_breathing,
    )
    if banner:
        inspired, expired = one_scale(inspired, expired)
    with clock.stage("placing the lobes"):
        lobes = place_lobes(inspired.ct, inspired.anatomy, given)
    with clock.stage("registering inspiration to expiration"):
        registration = register(
            expired.ct,
            inspired.ct,
            expired.anatomy.lungs,
            inspired.anatomy.lungs,
            moving_parts=lobes.that_may_slide(),
            options=options.registration,
            progress=progress,
        )
        check_match(registration)
        lobes_exp = carry_lobes(registration, lobes.labels, expired.anatomy.lungs)
    with clock.stage("estimating ventilation and perfusion"):
        estimated = estimate(inspired, expired, registration, options)
        down = down_of(str(exp.facts.get("patient_position") or ""))
        if options.detrended:
            estimated.maps.update(_detrended(estimated.maps, down))
        if options.relative:
            v = estimated.maps["ventilation"]
            mean = np.float32(np.nanmean(v.array, dtype=np.float64))
            estimated.maps["ventilation_relative"] = v.like(v.array / mean)
    with clock.stage("counting per lung, lobe and zone"):
        counted = _counted(expired, lobes_exp, estimated.free_exp)
        sure = {fissure.name: fissure.uncertainty_mm for fissure in lobes.fissures.values()}
        metrics = quantify(
            case,
            counted,
            replace(
                _counted(inspired, lobes.labels, estimated.free_insp), small_vessels=_small_vessels(inspired)
            ),
            {**estimated.maps, "prm_median3d": _quiet_prm(inspired, expired, estimated.equally_sharp)},
            down=down,
            others={name: (e.quantity, e.method.id) for name, e in estimated.others.items()},
            intervals=region_intervals(
                counted,
                estimated.maps,
                border_mm=lobe_borders(sure),
                slice_mm=max(_slice_mm(b) for b in (inspired, expired)),
            ),
        )
        result = _assembled(
            case, inspired, expired, registration, lobes, lobes_exp, estimated, metrics, options, given
        )
        if banner:
            result = without_breathing(result)
        findings = (
            *_overrides(banner),
            *agreement(insp.facts, exp.facts),
            *inspired.findings,
            *expired.findings,
            basis,
            sharpness,
            *lobes.findings,
            *registration.quality.findings,
            *accept(_evidence(inspired, expired, estimated, result)),
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


def _detrended(maps: dict[str, Volume], down: tuple[float, float, float]) -> dict[str, Volume]:
    """Ventilation and perfusion with their trend along gravity divided out, to stand beside them."""
    depth = depth_mm(maps["ventilation"].grid, down)
    return {
        f"{n}_detrended": maps[n].like(detrended(maps[n].array, depth)) for n in ("ventilation", "perfusion")
    }


def _quiet_prm(insp: Breath, exp: Breath, both: tuple[np.ndarray, np.ndarray]) -> Volume:
    """PRM after a median in space, which noise moves less than the published one in-plane."""
    lungs = exp.anatomy.lungs
    return lungs.like(prm_map(*both, lungs.array > 0, insp.calibrate, exp.calibrate, depth=3))


@dataclass(frozen=True)
class Estimates:
    """The maps of a pair, the inspiration seen from the expiration, and how well the maps closed.

    `equally_sharp` is HU of inspiration and expiration on the expiration's voxels, one smoothed where the other is
    smoother; `free_insp` and `free_exp` are the lungs of each scan free of wall; `others` are the estimators of other
    packages whose maps are among `maps`.
    """

    maps: dict[str, Volume]
    insp_on_exp: Volume
    equally_sharp: tuple[np.ndarray, np.ndarray]
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
    both = equally_sharp(insp, exp, insp_on_exp)
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


def check_breathing(insp_ml: float, exp_ml: float, *, allow: bool = False) -> str:
    """Refuse a pair that is swapped or shows no breathing.

    Parameters
    ----------
    insp_ml, exp_ml : float
        Volume of both lungs.
    allow : bool
        Go on without breathing; swapped scans are refused all the same.

    Returns
    -------
    str
        What every page must say; empty for an ordinary pair.

    Raises
    ------
    PairError
    """
    volumes = f"{insp_ml / 1000:.2f} L at inspiration and {exp_ml / 1000:.2f} L at expiration"
    ratio = exp_ml / insp_ml
    if ratio > 1 / NO_BREATHING_RATIO:
        raise PairError(f"the scans look swapped, the lungs hold {volumes}: exchange --insp and --exp")
    if ratio <= NO_BREATHING_RATIO:
        return ""
    if not allow:
        raise PairError(
            f"there is no breathing between the scans, the lungs hold {volumes} (ratio {ratio:.3f}, at most"
            f" {NO_BREATHING_RATIO} is needed): choose another pair, or add --allow-no-breathing to go on"
        )
    return (
        f"No breathing between the scans, or nearly none ({volumes}): allowed by request; what ventilation shows is"
        " mostly its error, and V/Q and air trapping cannot be told."
    )


def _overrides(banner: str) -> list[Finding]:
    """What was allowed by request, among the findings where a reader looks."""
    if not banner:
        return []
    return [
        warn(
            "NO_BREATHING_ALLOWED",
            banner,
            advice="V/Q, air trapping and what is relative to ventilation are left empty.",
            touches=("ventilation", "prm", "trapping"),
        )
    ]


def check_match(registration: Registration) -> None:
    """Refuse two scans whose lungs cannot be brought together.

    Raises
    ------
    PairError
    """
    found = registration.quality.overall.correlation_after
    if found < LEAST_CORRELATION:
        raise PairError(
            "the lungs of the two scans cannot be brought together: after registration their structure correlates"
            f" by {found:.2f}, and a pair does by at least {LEAST_CORRELATION}; check that both are of the same"
            " patient and each is the right way up"
        )


def quality_numbers(registration: Registration) -> dict[str, dict[str, float]]:
    """How well the registration went, per lung and overall, as plain numbers."""
    quality = registration.quality
    numbers = {}
    for name, lung in {**quality.lungs, "both": quality.overall}.items():
        plain = asdict(lung)
        percentiles = plain.pop("jacobian_percentiles")
        plain.update({f"jacobian_p{p}": v for p, v in zip((1, 5, 50, 95, 99), percentiles, strict=True)})
        thirds = zip(("lower", "middle", "upper"), plain.pop("surface_thirds_mm"), strict=True)
        plain.update({f"surface_{third}_mm": v for third, v in thirds if np.isfinite(v)})
        shells = zip(DEPTHS_MM, plain.pop("expected_error_mm"), strict=True)
        plain.update({f"expected_error_from_{d:g}_mm": v for d, v in shells if np.isfinite(v)})
        numbers[name] = plain
    return numbers


def check_sums(result: CaseResult) -> Finding:
    """Whether the parts of the table add up to the whole, and the whole to the masks."""
    worst = 0.0
    for metric in ("volume_insp_ml", "volume_exp_ml", "mass_insp_g", "mass_exp_g", "ventilation_ml"):
        whole = result.metric("both", metric)
        for parts in (LUNGS, LOBES):
            total = sum(np.nan_to_num(result.metric(part, metric)) for part in parts)
            scale = max(abs(result.metric("both", "volume_exp_ml")), abs(whole))
            worst = max(worst, abs(total - whole) / scale)
    exp_ml = float((result.lungs_exp.array > 0).sum()) * result.lungs_exp.voxel_ml
    worst = max(worst, abs(result.metric("both", "volume_exp_ml") - exp_ml) / exp_ml)
    message = (
        "Lungs and lobes add up to the whole, in volume, mass and ventilation, and the whole to the masks"
    )
    make = passed if worst < 1e-3 else fail
    return make("SUMS_CLOSE", f"{message}, to {100 * worst:.2g} %.", value=100 * worst, limit=0.1, unit="%")


def _assembled(
    case: str,
    insp: Breath,
    exp: Breath,
    registration: Registration,
    lobes: Lobes,
    lobes_exp: Volume,
    estimated: Estimates,
    metrics: pd.DataFrame,
    options: Options,
    given: Given,
) -> CaseResult:
    """All that was found in one value; findings, timings and banner still to come."""
    return CaseResult(
        case=case,
        scans=(_summary(insp), _summary(exp)),
        exp=exp.ct,
        insp_on_exp=estimated.insp_on_exp,
        lungs_exp=exp.anatomy.lungs,
        lobes_exp=lobes_exp,
        maps=estimated.maps,
        insp=insp.ct,
        lungs_insp=insp.anatomy.lungs,
        lobes_insp=lobes.labels,
        airways_insp=insp.anatomy.airways,
        vessels_insp=insp.anatomy.vessels,
        displacement=registration.displacement,
        exp_grid=exp.grid,
        insp_grid=insp.grid,
        exp_codes=exp.scan.volume.grid.codes,
        insp_codes=insp.scan.volume.grid.codes,
        metrics=metrics,
        findings=(),
        registration=quality_numbers(registration),
        fissures={name: asdict(fissure) for name, fissure in lobes.fissures.items()},
        settings={
            **asdict(options),
            "estimators": {name: asdict(e.method) for name, e in estimated.others.items()},
            "segmentation": given.told(),
            "extravascular_g_ml": estimated.extravascular_g_ml,
            "hu_scale": {b.role: asdict(b.calibrate) for b in (insp, exp)},
        },
        versions=versions(),
        timings=[],
    )


def _summary(breath: Breath) -> ScanSummary:
    grid = breath.scan.volume.grid
    facts = {
        "format": breath.scan.kind,
        "voxels": " x ".join(str(n) for n in reversed(grid.shape)),
        "spacing_mm": " x ".join(f"{s:.3g}" for s in reversed(grid.spacing)),
        "axes": grid.codes,
        **breath.scan.facts,
        "air_hu": breath.references.air_hu,
        "blood_hu": breath.references.blood_hu,
        "blood_measured_in": breath.references.blood_site,
        "noise_hu": breath.references.noise_hu,
        "hu_scale": breath.calibrate.basis,
    }
    return ScanSummary(breath.role, breath.scan.path.name, io.sha256_of(breath.scan.files), facts)


def _evidence(insp: Breath, exp: Breath, estimated: Estimates, result: CaseResult) -> Evidence:
    breaths = (insp, exp)
    opaque = {"inspiration": -500, "expiration": -250}
    return Evidence(
        spacing_mm={b.role: max(b.ct.spacing) for b in breaths},
        kernel={b.role: str(b.scan.facts.get("kernel") or "") for b in breaths},
        air_hu={b.role: b.references.air_hu for b in breaths},
        blood_hu={b.role: b.references.blood_hu for b in breaths},
        noise_hu={b.role: b.references.noise_hu for b in breaths},
        opacity_pct={
            b.role: 100 * float((b.ct.array[b.anatomy.lungs.array > 0] > opaque[b.role]).mean())
            for b in breaths
        },
        insp=estimated.free_insp.held,
        exp=estimated.free_exp.held,
        registration=result.registration,
        lobe_ml={lobe: result.metric(lobe, "volume_insp_ml") for lobe in LOBES},
        lobe_exp_ml={lobe: result.metric(lobe, "volume_exp_ml") for lobe in LOBES},
        thickness_mm={b.role: mm for b in breaths if (mm := slice_thickness(b.scan.facts)) > 0},
        slices={b.role: b.grid.shape[0] for b in breaths},
        kvp={b.role: float(kv) for b in breaths if isinstance(kv := b.scan.facts.get("kvp"), int | float)},
        metal_ml={b.role: float((b.ct.array > METAL_HU).sum()) * b.ct.voxel_ml for b in breaths},
        predicted_ml=_predicted_ml(insp.scan.patient),
        undefined_pct={
            name: result.metric("both", f"{name}_undefined_pct") for name in ("ventilation", "perfusion")
        },
    )


def _predicted_ml(patient: io.Patient) -> float | None:
    try:
        return predicted_volume_ml(patient.sex, 100 * float(patient.height_m), float(patient.weight_kg))
    except ValueError:  # not told
        return None


class Clock:
    """Tells the listener which stage starts and remembers how long each took."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: list[tuple[str, float]] = []
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done within."""
        self._progress.stage(name)
        start = time.monotonic()
        yield
        self.seconds.append((name, time.monotonic() - start))
