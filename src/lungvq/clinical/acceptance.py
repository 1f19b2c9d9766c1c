"""When not to believe a result: every input check with its limits, in one place.

A value is held against two limits. Within the first it passes; within the second it is a warning; beyond,
it fails, and what it touches is withheld from the report's pages and marked everywhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd

from lungvq import kernels
from lungvq.anatomy import LOBES, LUNG_OF_LOBE, LUNGS
from lungvq.findings import Finding, Severity, graded, worst
from lungvq.pair import LungTotals
from lungvq.register.quality import MISMATCH_CORRELATION

__all__ = ["METAL_HU", "Evidence", "accept", "mark", "predicted_volume_ml"]

GEOMETRIC = (
    "ventilation",
    "ventilation_jacobian",
    "jacobian",
    "perfusion",
    "perfusion_ctp",
    "vq_log2",
    "vq_class",
)
COMPARED = (*GEOMETRIC, "ventilation_hu", "prm")
"""All that holds one scan against the other, place by place."""

DENSITOMETRIC = (
    "ventilation",
    "ventilation_hu",
    "perfusion",
    "perfusion_ctp",
    "vq_log2",
    "vq_class",
    "prm",
    "density",
    "mass",
)
BLOOD = ("perfusion", "perfusion_ctp", "vq_log2", "vq_class")

METAL_HU = 2500
"""Denser than any bone."""


@dataclass(frozen=True)
class Evidence:
    """What the checks need to know about a pair. None or NaN: not known, not checked.

    Parameters
    ----------
    spacing_mm : dict of str to float
        Keyed ``inspiration`` and ``expiration``, as are the next six: largest voxel spacing.
    kernel : dict of str to str
        Reconstruction kernel, where the file tells.
    air_hu, blood_hu, noise_hu : dict of str to float or None
        Median of tracheal air and of blood, noise SD.
    lowest_hu, highest_hu : dict of str to float or None
        Where a scan's values were clipped so that air or blood reads as the limit.
    opacity_pct : dict of str to float
        Share of the closed lung mask denser than -500 HU at inspiration, -250 HU at expiration.
    insp, exp : dict of str to LungTotals
        Keyed ``left`` and ``right``.
    registration : mapping
        Keyed ``left``, ``right``, ``both``: ``dice``, ``surface_mean_mm``, ``folded_percent``, ``closure``,
        ``correlation_after``.
    lobe_ml : dict of str to float
        Volumes at inspiration.
    undefined_pct : dict of str to float
        Share of the lungs where a map is not defined, keyed by map.
    lobe_exp_ml : dict of str to float
        Volumes at expiration.
    thickness_mm, slices, kvp, metal_ml : dict of str to float
        Keyed by scan: slice thickness and tube voltage as the header has them, number of slices, and volume too
        dense for bone.
    emptying_pct : float or None
        Share of the lungs in PRM's class of emphysema that empties.
    predicted_ml : float or None
        Volume to expect at full inspiration: `predicted_volume_ml`.
    """

    spacing_mm: dict[str, float]
    kernel: dict[str, str]
    air_hu: dict[str, float | None]
    blood_hu: dict[str, float | None]
    noise_hu: dict[str, float | None]
    opacity_pct: dict[str, float]
    insp: dict[str, LungTotals]
    exp: dict[str, LungTotals]
    registration: Mapping[str, Mapping[str, float]]
    lobe_ml: dict[str, float]
    undefined_pct: dict[str, float] = field(default_factory=dict)
    lobe_exp_ml: dict[str, float] = field(default_factory=dict)
    thickness_mm: dict[str, float] = field(default_factory=dict)
    slices: dict[str, int] = field(default_factory=dict)
    kvp: dict[str, float] = field(default_factory=dict)
    metal_ml: dict[str, float] = field(default_factory=dict)
    lowest_hu: dict[str, float | None] = field(default_factory=dict)
    highest_hu: dict[str, float | None] = field(default_factory=dict)
    emptying_pct: float | None = None
    predicted_ml: float | None = None


def predicted_volume_ml(sex: str, height_cm: float, weight_kg: float) -> float | None:
    """Lung volume to expect on a CT at full inspiration, supine; None where the equation for adults does not reach.

    Parameters
    ----------
    sex : str
        M or F.

    Notes
    -----
    From 564 healthy Chinese adults; residual SD 1.77 L [1]_.

    References
    ----------
    .. [1] Cheng T et al (2019). Int J COPD 14:1657.

    Examples
    --------
    >>> round(predicted_volume_ml("M", 175, 70)), round(predicted_volume_ml("F", 160, 60))
    (5753, 3888)
    """
    if sex not in ("M", "F") or not (140 <= height_cm <= 220 and 30 <= weight_kg <= 200):
        return None
    predicted = -10150 + 605.3 * (sex == "M") + 92.61 * height_cm - 12.99 * weight_kg
    return predicted if predicted > _LEAST_PREDICTED_ML else None


_LEAST_PREDICTED_ML = 1500.0


def accept(evidence: Evidence) -> list[Finding]:
    """Every check that the evidence allows, in the order a reader wants them.

    Returns
    -------
    list of Finding
        Passed ones too.
    """
    return [
        *_breathing(evidence),
        *_scans(evidence),
        *_registration(evidence),
        *_lobes(evidence),
        *_coverage(evidence),
    ]


def _shared(e: Evidence) -> list[str]:
    """The lungs that were registered: what only one scan shows would look like a breath."""
    return [lung for lung in LUNGS if lung in e.registration] or list(LUNGS)


def _breathing(e: Evidence) -> list[Finding]:
    shared = _shared(e)
    insp, exp = (sum(totals[lung].volume_ml for lung in shared) for totals in (e.insp, e.exp))
    gain, ratio = (insp - exp) / 1000, exp / insp
    breathing = _breathing_share(e)
    of = "" if breathing == 1 else f", with {100 * breathing:.0f} % of normal lung left to change it,"
    effort = "Repeat the scans with a full inspiration and a full expiration, coached."
    findings = [
        *_inspiration(e, breathing),
        graded(
            "VOLUME_CHANGE",
            gain,
            (1.0 * breathing, 0.3 * breathing),
            f"volume change between the breath-holds{of}",
            unit="L",
            advice=effort,
            touches=(*COMPARED, "trapping"),
            high_is_good=True,
        ),
        graded("VOLUME_RATIO", ratio, (0.75, 0.95), "expiratory over inspiratory volume", advice=effort),
    ]
    before, after = (sum(totals[lung].mass_g for lung in shared) for totals in (e.exp, e.insp))
    change = before / after if after > 0 else float("nan")
    if np.isfinite(change):
        # Limits on a ratio: as far above 1 as below it.
        far = max(change, 1 / change) if change > 0 else float("inf")
        findings.append(
            graded(
                "MASS_CONSERVATION",
                far,
                (1.15, 1.3),
                f"lung mass of one scan over the other ({before:.0f} g expired, {after:.0f} g inspired)",
                advice="Check the HU scale, contrast medium and the lung masks of both scans.",
                touches=("perfusion_ctp", "ventilation_hu", "mass"),
            )
        )
    return findings


def _inspiration(e: Evidence, breathing: float) -> list[Finding]:
    """Whether the breath was deep enough, where the header tells how large the patient is."""
    if not e.predicted_ml:
        return []
    expected = e.predicted_ml * breathing
    insp_ml = sum(totals.volume_ml for totals in e.insp.values())
    return [
        graded(
            "INSPIRATION",
            100 * insp_ml / expected,
            (80, 65),
            f"volume at inspiration, of the {expected / 1000:.1f} L to expect of a full one,",
            unit="%",
            advice="On a shallow inspiration emphysema is counted too low. Repeat the scan, coached.",
            touches=("prm", "density"),
            high_is_good=True,
        )
    ]


_NORMAL_SHARE = {"left": 0.464, "right": 0.536}  # of lung volume, supine, deep inspiration (n = 32)
_COLLAPSED = 0.25  # of what the other lung would let one expect


def _breathing_share(e: Evidence) -> float:
    """How much of two normal lungs is there to breathe: less than 1 where one is collapsed, missing, not registered.

    The limits on volume change are meant for two lungs; one lung is held to its share of them.
    """
    shared = _shared(e)
    present = {
        lung: e.insp[lung].volume_ml / share if lung in shared else 0.0
        for lung, share in _NORMAL_SHARE.items()
    }
    return sum(
        share for lung, share in _NORMAL_SHARE.items() if present[lung] > _COLLAPSED * max(present.values())
    )


def _scans(e: Evidence) -> list[Finding]:
    findings = [finding for role in e.spacing_mm for finding in _scan(e, role)] + _unlike_blood(e)
    names = {k for k in e.kernel.values() if k}
    if len(names) == 2:
        findings.append(
            Finding(
                "KERNEL_MISMATCH",
                Severity.WARN,
                f"The scans have different kernels: {' and '.join(sorted(names))}.",
                advice="Reconstruct both with the same soft kernel.",
                touches=DENSITOMETRIC,
            )
        )
    return findings


def _unlike_blood(e: Evidence) -> list[Finding]:
    """Contrast medium in one scan alone: all that compares them is off by what it adds."""
    blood = [hu for role in e.spacing_mm if (hu := e.blood_hu.get(role)) is not None]
    if len(blood) < 2 or max(blood) < _CONTRAST_HU:
        return []
    return [
        graded(
            "BLOOD_MISMATCH",
            abs(blood[0] - blood[1]),
            (50, math.inf),
            f"difference of the CT numbers of blood ({blood[0]:.0f} HU inspired, {blood[1]:.0f} HU expired)",
            unit="HU",
            advice="Contrast medium in one scan alone reads as tissue there: ventilation was off by 3 to 5 % in"
            " phantoms, and counts at fixed CT numbers as much.",
            touches=("ventilation", "density", "prm"),
        )
    ]


def _kernel(e: Evidence, role: str) -> list[Finding]:
    """A sharp kernel makes noise that thresholds take for disease."""
    name = e.kernel.get(role, "")
    family = kernels.family(name)
    if not family:
        return []
    sharp, medium = family == kernels.SHARP, family == kernels.MEDIUM
    return [
        Finding(
            f"KERNEL_{_SUFFIX[role]}",
            Severity.FAIL if sharp else Severity.WARN if medium else Severity.PASS,
            f"The kernel of the {role} scan, {name}, is {family}.",
            advice="Reconstruct with a soft kernel: counts at fixed thresholds are not comparable."
            if sharp or medium
            else "",
            touches=("prm", "density"),
        )
    ]


def _voltage(e: Evidence, role: str) -> list[Finding]:
    kvp = e.kvp.get(role)
    if not kvp:
        return []
    usual = _USUAL_KVP[0] <= kvp <= _USUAL_KVP[1]
    limit = _USUAL_KVP[0] if kvp < _USUAL_KVP[0] else _USUAL_KVP[1]
    return [
        Finding(
            f"TUBE_VOLTAGE_{_SUFFIX[role]}",
            Severity.PASS if usual else Severity.WARN,
            f"The {role} scan was taken at {kvp:g} kV"
            + ("." if usual else ", not at the usual 100 to 120 kV."),
            value=kvp,
            limit=limit,
            unit="kV",
            advice=""
            if usual
            else "CT numbers of vessels and bone shift with the voltage, those of air do not.",
            touches=("density",),
        )
    ]


_THIN_MM = 1.5
_SUFFIX = {"inspiration": "INSP", "expiration": "EXP"}
_USUAL_KVP = (100.0, 120.0)


class _Check(NamedTuple):
    """One value of a scan, or of a lung in the registration, and its limits.

    `what` may name the air's CT number as ``{air}``.
    """

    code: str
    value: Callable[[Evidence, str], float | None]
    limits: tuple[float, float]
    what: str
    unit: str
    advice: str
    touches: tuple[str, ...]
    high_is_good: bool = False

    def held(self, code: str, value: float, what: str) -> Finding:
        """The value against the limits, under a code and in words that say whose it is."""
        return graded(
            code,
            value,
            self.limits,
            what,
            unit=self.unit,
            advice=self.advice,
            touches=self.touches,
            high_is_good=self.high_is_good,
        )


_CONTRAST_HU = 70.0  # of blood without
_THINNER = "Reconstruct thinner slices: fissures, small vessels and PRM need them."

_SCAN_CHECKS = (
    _Check(
        "SPACING",
        lambda e, role: e.spacing_mm[role],
        (1.5, 3.0),
        "largest voxel spacing",
        "mm",
        _THINNER,
        ("lobes", "prm"),
    ),
    _Check(
        "AIR_HU",
        lambda e, role: None if (air := e.air_hu.get(role)) is None else abs(air + 1000),
        (30, 50),
        "distance of tracheal air ({air:.0f} HU) from -1000 HU",
        "HU",
        "Check the rescale intercept and the scanner's calibration.",
        DENSITOMETRIC,
    ),
    _Check(
        "AIR_CLIPPED",
        lambda e, role: e.lowest_hu.get(role),
        (-990, -960),
        "lowest CT number, that of all air,",
        "HU",
        "The scan's values were cut off there: give it as the scanner exported it. Its scale was not set by air, and"
        " lung that light reads as denser than it is.",
        ("prm", "density", "mass", "ventilation_hu"),
    ),
    _Check(
        "BLOOD_CLIPPED",
        lambda e, role: e.highest_hu.get(role),
        (float("inf"), -5),
        "highest CT number, that of all blood,",
        "HU",
        "The scan's values were cut off there: give it as the scanner exported it. Its scale was not set by blood.",
        (*BLOOD, "mass"),
        high_is_good=True,
    ),
    _Check(
        "CONTRAST",
        lambda e, role: e.blood_hu.get(role),
        (_CONTRAST_HU, 100),
        "CT number of blood",
        "HU",
        "Contrast medium makes density useless here: use a scan without it.",
        (*BLOOD, "ventilation_hu", "mass"),
    ),
    _Check(
        "NOISE",
        lambda e, role: e.noise_hu.get(role),
        (30, 50),
        "image noise",
        "HU",
        "Use a softer kernel or more dose; counts at fixed thresholds suffer first.",
        ("prm", "density"),
    ),
    _Check(
        "THICKNESS",
        lambda e, role: e.thickness_mm.get(role),
        (1.5, 3.0),
        "slice thickness",
        "mm",
        _THINNER,
        ("lobes", "prm"),
    ),
    _Check(
        "METAL",
        lambda e, role: e.metal_ml.get(role),
        (0.1, float("inf")),
        "volume denser than bone",
        "mL",
        "Look for streaks from implants, leads or clips: CT numbers are wrong in them.",
        ("density", "prm"),
    ),
    _Check(
        "OPACITY",
        lambda e, role: e.opacity_pct.get(role),
        (10, 25),
        "share of dense lung",
        "%",
        "Density is not blood in consolidation or ground glass: perfusion is not readable there.",
        BLOOD,
    ),
    _Check(
        "BLOOD_HU",
        lambda e, role: e.blood_hu.get(role),
        (30, -5),
        "CT number of blood",
        "HU",
        "Blood is 30 to 60 HU: check the scale, or whether it was measured in blood.",
        DENSITOMETRIC,
        high_is_good=True,
    ),
    _Check(
        "SLICES",
        # Of thick slices there are few: that is said by their spacing.
        lambda e, role: e.slices.get(role) if e.spacing_mm[role] <= _THIN_MM else None,
        (100, 60),
        "number of slices",
        "",
        "Thin slices, but few: check that the series is whole and covers the lungs.",
        ("lobes", "prm"),
        high_is_good=True,
    ),
)


def _scan(e: Evidence, role: str) -> list[Finding]:
    """Every check of one scan whose value is known."""
    findings = [
        check.held(
            f"{check.code}_{_SUFFIX[role]}",
            value,
            f"{check.what.format(air=e.air_hu.get(role) or 0)} in the {role} scan",
        )
        for check in _SCAN_CHECKS
        if (value := check.value(e, role)) is not None
    ]
    return [*findings, *_kernel(e, role), *_voltage(e, role)]


def _registered(e: Evidence, part: str, key: str) -> float | None:
    """What the registration says of both lungs or one, where it says a number."""
    value = e.registration.get(part, {}).get(key, np.nan)
    return float(value) if np.isfinite(value) else None


_LOOK = "Look at the flicker figure; maps near misplaced borders are not to be trusted."

_REGISTRATION_CHECKS = (
    _Check(
        "REGISTRATION_DICE",
        lambda e, part: _registered(e, part, "dice"),
        (0.97, 0.95),
        "overlap (Dice) of the lungs after registration",
        "",
        _LOOK,
        COMPARED,
        high_is_good=True,
    ),
    _Check(
        "REGISTRATION_SURFACE",
        lambda e, part: _registered(e, part, "surface_mean_mm"),
        (2.0, 3.0),
        "mean distance of lung surfaces",
        "mm",
        _LOOK,
        COMPARED,
    ),
    _Check(
        "REGISTRATION_CORRELATION",
        lambda e, part: _registered(e, part, "correlation_after"),
        (0.5, MISMATCH_CORRELATION),
        "local correlation of the scans after registration",
        "",
        f"Check that both scans are of one patient: two persons' can look like this. {_LOOK}",
        COMPARED,
        high_is_good=True,
    ),
    _Check(
        "REGISTRATION_FOLDING",
        lambda e, part: _registered(e, part, "folded_percent"),
        (0.1, 1.0),
        "folded share of the lungs",
        "%",
        _LOOK,
        COMPARED,
    ),
)


def _registration(e: Evidence) -> list[Finding]:
    findings = [
        check.held(check.code, value, check.what)
        for check in _REGISTRATION_CHECKS
        if (value := check.value(e, "both")) is not None
    ]
    # Where an extreme percentile of the Jacobian is tenfold, up or down, tissue cannot have done it.
    low, high = (_registered(e, "both", key) for key in ("jacobian_p1", "jacobian_p99"))
    if low is not None and high is not None:
        findings.append(
            graded(
                "REGISTRATION_JACOBIAN",
                max(high, 1 / low) if low > 0 else float("inf"),
                (10, 10),
                f"largest local change of volume (Jacobian {low:.2g} to {high:.2g} in 98 % of the lungs)",
                advice=_LOOK,
                touches=COMPARED,
            )
        )
    for lung in LUNGS:
        closure = _registered(e, lung, "closure")
        if closure is not None:
            findings.append(
                graded(
                    f"VOLUME_CLOSURE_{lung.upper()}",
                    abs(100 * (closure - 1)),
                    (5, 15),
                    f"difference between the summed Jacobian and the inspiratory volume of the {lung} lung,"
                    " before it was closed,",
                    unit="%",
                    advice=_LOOK,
                    touches=(lung,),
                )
            )
    return findings


def _lobes(e: Evidence) -> list[Finding]:
    total = sum(e.lobe_ml.values())
    # Of a lung that is not there, as after its removal, none is missing.
    missing = [
        name for name in LOBES if e.lobe_ml.get(name, 0) == 0 and e.insp[LUNG_OF_LOBE[name]].volume_ml > 0
    ]
    if missing or total == 0:
        return [
            Finding(
                "LOBE_MISSING",
                Severity.FAIL,
                f"No voxel belongs to {', '.join(missing)}.",
                advice="Lobar numbers are withheld; lungs and zones remain.",
                touches=("lobes",),
            )
        ]
    # How large each of them is, `segment` holds against healthy people's: LOBE_FRACTIONS.
    what = "All five lobes are there." if all(e.lobe_ml.values()) else "All lobes of the lung are there."
    return [Finding("LOBE_MISSING", Severity.PASS, what), *_lobe_order(e)]


def _lobe_order(e: Evidence) -> list[Finding]:
    """Whether lobes keep their order by size from one scan to the other."""
    if not all(e.lobe_exp_ml.get(name, 0) > 0 for name in LOBES):
        return []
    turned = [
        f"{a} and {b}"
        for a, b in permutations(LOBES, 2)
        if e.lobe_ml[a] > _CLEARLY * e.lobe_ml[b] and e.lobe_exp_ml[b] > _CLEARLY * e.lobe_exp_ml[a]
    ]
    if not turned:
        return [Finding("LOBE_ORDER", Severity.PASS, "The lobes keep their order by volume in both scans.")]
    return [
        Finding(
            "LOBE_ORDER",
            Severity.WARN,
            f"The larger lobe at inspiration is clearly the smaller at expiration: {', '.join(turned)}.",
            advice="Trapped air or collapse can do that; otherwise check the lobe borders of both scans.",
            touches=("lobes",),
        )
    ]


_CLEARLY = 1.2  # times the volume of another lobe


def _coverage(e: Evidence) -> list[Finding]:
    findings = [
        graded(
            f"UNDEFINED_{name.upper()}",
            share,
            (10, 25),
            f"share of the lungs where {name} is not defined",
            unit="%",
            advice="Dense or unmatched lung is left out of the map; its share is in the table.",
            touches=(name,),
        )
        for name, share in e.undefined_pct.items()
    ]
    if e.emptying_pct is not None:
        findings.append(
            graded(
                "EMPTYING_EMPHYSEMA",
                e.emptying_pct,
                (2, math.inf),
                "share of lung below -950 HU inspired and above -856 HU expired",
                unit="%",
                advice="Hardly any lung empties so: a sharper kernel, misregistration or a wrong HU scale does this.",
                touches=("prm",),
            )
        )
    return findings


_MAPS_BEHIND = {
    "ventilation": ("ventilation",),
    "perfusion": ("perfusion",),
    "vq": ("ventilation", "perfusion", "vq_log2", "vq_class"),
    "prm": ("prm",),
    "small_vessel_density": ("mass",),
    **dict.fromkeys(("mass", "air", "mld", "ei_mld"), ("mass",)),
    **dict.fromkeys(("perc50", "perc85", "perc95"), ("mass",)),
    **dict.fromkeys(("laa950", "laa910", "perc5", "perc10", "perc15"), ("density",)),
    **dict.fromkeys(("laa856", "trapping", "rvc856"), ("density", "trapping")),
    **dict.fromkeys(("volume", "ei_volume"), ()),
}
"""What metrics rest on, by how their names begin: maps, ``density`` for counts at fixed CT numbers and percentiles
that noise moves, ``mass`` for means of them, which noise and kernel leave alone, and ``trapping`` for what only an
expiration tells."""

_BEHIND_METHODS = {
    "hu_ratio@1": ("ventilation_hu",),
    "jacobian@1": ("jacobian",),
    "mass_carried@1": ("mass", "jacobian"),
}
"""What numbers of these methods rest on, whatever they are of."""

_OF_BOTH = re.compile(
    r"^vq_|^(ventilation|perfusion)_(fraction|defect|high|voronoi_low)_|^perfusion_voronoi_median$"
)
"""Metrics that are shares of, or held against the mean of, both lungs: wrong if either is. So is what was freed of a
trend with gravity, of which there is one for both."""


def rests_on(metric: str, method: str, zone_def: str) -> tuple[str, ...]:
    """What a number of the table rests on, in the words of `Finding.touches`.

    Raises
    ------
    KeyError
        If nothing is known of the metric.

    Examples
    --------
    >>> rests_on("perc50_exp_hu", "densitometry@1", "")
    ('mass',)
    >>> rests_on("ventilation_ml", "hu_ratio@1", "")
    ('ventilation_hu',)
    """
    if method in _BEHIND_METHODS:
        return _BEHIND_METHODS[method]
    begins = [known for known in _MAPS_BEHIND if metric == known or metric.startswith(f"{known}_")]
    behind = _MAPS_BEHIND[max(begins, key=len, default=metric)]
    # At inspiration a zone is what the Jacobian makes of it.
    carried = ("jacobian",) if zone_def and metric.startswith("ei_") else ()
    return (*behind, *carried)


def mark(metrics: pd.DataFrame, findings: list[Finding] | tuple[Finding, ...]) -> pd.DataFrame:
    """Write into each row's ``qc`` how far it can be trusted.

    Returns
    -------
    DataFrame
        A copy; ``qc`` is PASS, or WARN or FAIL with the codes behind it: ``"WARN LUNG_COLLAPSED"``.
    """
    serious = [f for f in findings if f.severity is not Severity.PASS and f.touches]

    def state(region: str, metric: str, method: str, zone_def: str) -> str:
        # What befalls a lung befalls its lobes and zones.
        lung = LUNG_OF_LOBE.get(region, region.split("_")[0])
        concerned = {region, lung, "all"}
        if region in LOBES or zone_def == "lobar_proxy" or metric.endswith("_between_lobes_pct"):
            concerned.add("lobes")
        concerned.update(rests_on(metric, method, zone_def))
        if region == "both" or _OF_BOTH.search(metric) or "_detrended@" in method:
            concerned.update(LUNGS)
        touching = [f for f in serious if concerned & set(f.touches)]
        if not touching:
            return Severity.PASS.value
        level = worst(touching)
        codes = sorted({f.code for f in touching if f.severity is level})
        return f"{level.value} {' '.join(codes)}"

    marked = metrics.copy()
    keys = (metrics[name] for name in ("region", "metric", "method", "zone_def"))
    marked["qc"] = [state(*key) for key in zip(*keys, strict=True)]
    return marked
