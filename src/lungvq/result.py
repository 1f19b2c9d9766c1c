"""What a finished case is made of: the one value that the report, the files and the API share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lungvq.findings import Finding, Severity, worst
from lungvq.volume import Grid, Volume

__all__ = ["MAPS", "CaseResult", "MapSpec", "ScanSummary"]


@dataclass(frozen=True)
class MapSpec:
    """How a map is named, measured and shown.

    Parameters
    ----------
    title, unit : str
        For people: ``"Ventilation"``, ``"mL air per mL lung"``.
    method : str
        Identifier of the estimator with its version, as in ``metrics.csv``.
    meaning : str
        One sentence on what the values are.
    scale : str
        ``"sequential"``, ``"diverging"`` (about 0 or, for ratios, 1) or ``"classes"``.
    limits : tuple of float or None
        Fixed display limits; None: from 0 to twice the lung mean.
    """

    title: str
    unit: str
    method: str
    meaning: str
    scale: str = "sequential"
    limits: tuple[float, float] | None = None


MAPS: dict[str, MapSpec] = {
    "ventilation": MapSpec(
        "Ventilation",
        "mL air per mL lung",
        "hybrid@2",
        "Air gained on breathing in per mL of expiratory lung, J F_insp - F_exp; J's detail weighed with density.",
    ),
    "ventilation_jacobian": MapSpec(
        "Ventilation, Jacobian",
        "mL per mL lung",
        "jacobian@1",
        "Volume gained per mL of expiratory lung, J - 1: geometry alone.",
    ),
    "ventilation_hu": MapSpec(
        "Ventilation, density",
        "mL per mL lung",
        "hu_ratio@1",
        "Volume gained as the density ratio says, k rho_exp / rho_insp - 1.",
    ),
    "ventilation_plain": MapSpec(
        "Ventilation, J as registered",
        "mL air per mL lung",
        "air_gain@1",
        "As ventilation, with J as the registration has it.",
    ),
    "ventilation_specific": MapSpec(
        "Specific ventilation",
        "mL air per mL air",
        "hybrid@2",
        "Air gained per mL of air that was there at expiration.",
    ),
    "ventilation_se": MapSpec(
        "Ventilation, standard error",
        "mL air per mL lung",
        "hybrid@2",
        "Standard error of the ventilation map.",
    ),
    "perfusion": MapSpec(
        "Perfusion",
        "relative to the lung mean",
        "blood_mass@1",
        "Relative blood mass of vessel-suppressed parenchyma; a surrogate of blood flow.",
    ),
    "perfusion_se": MapSpec(
        "Perfusion, standard error",
        "relative to the lung mean",
        "blood_mass@1",
        "Standard error of the perfusion map.",
    ),
    "perfusion_ctp": MapSpec(
        "Apparent mass change",
        "g per mL lung",
        "mass_change@1",
        "Mass gained on breathing in per mL of expiratory lung, J rho_insp - rho_exp, signed.",
        "diverging",
        (-0.1, 0.1),
    ),
    "perfusion_ctp_se": MapSpec(
        "Apparent mass change, standard error",
        "g per mL lung",
        "mass_change@1",
        "Standard error of the mass change.",
    ),
    "perfusion_ctp_magnitude": MapSpec(
        "Mass change, magnitude",
        "g per mL lung",
        "ctp_regions@1",
        "CT-P: debiased magnitude over regions of one size (20 mm by default); undefined below twice its error.",
        limits=(0.0, 0.1),
    ),
    "jacobian": MapSpec(
        "Jacobian",
        "mL per mL",
        "jacobian@1",
        "Inspiratory volume per unit of expiratory volume.",
        "diverging",
    ),
    "jacobian_se": MapSpec(
        "Jacobian, standard error",
        "mL per mL",
        "jacobian@1",
        "Standard error of the Jacobian, from signs of error that need no truth.",
    ),
    "vq_log2": MapSpec(
        "V/Q",
        "log2, 0 = lung mean",
        "vq_log2@1",
        "log2 of ventilation over perfusion, each relative to its lung mean.",
        "diverging",
        (-2.0, 2.0),
    ),
    "vq_class": MapSpec(
        "V/Q class",
        "1 normal, 2 dead space, 3 shunt-like, 4 matched defect",
        "mean60@1",
        "Ventilation and perfusion above or below 60 % of their lung means.",
        "classes",
    ),
    "prm": MapSpec(
        "PRM",
        "1 normal, 2 fSAD, 3 emphysema, 4 emptying emphysema",
        "prm@1",
        "Parametric response map: -950 HU on inspiration, -856 HU on expiration.",
        "classes",
    ),
    "registration_confidence": MapSpec(
        "Registration confidence",
        "0 to 1",
        "expected_error@1",
        "1 / (1 + e^2), e the error of the motion to be expected in mm: 0.5 where it is 1 mm.",
        limits=(0.0, 1.0),
    ),
}

_DERIVED_FROM: dict[str, tuple[str, ...]] = {
    "vq": ("ventilation", "perfusion", "vq_log2", "vq_class"),
    "vq_log2": ("ventilation", "perfusion"),
    "vq_class": ("ventilation", "perfusion", "vq_log2"),
}
"""What is derived from a map falls with it."""
"""Every map a run writes, in the order of the contract."""


@dataclass(frozen=True)
class ScanSummary:
    """Which scan was used for which breath-hold, and what is known about it.

    `facts` are plain values for people and for ``run.json``: file, format, size, spacing, thickness, kernel …
    """

    role: str  # "inspiration" or "expiration"
    name: str
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseResult:
    """Everything a run found out about one patient.

    All volumes are in canonical axis order and cropped to the lungs with a margin; all but `insp*` lie on the
    expiration grid. `exp_grid` and `insp_grid` are the uncropped canonical grids, `exp_codes` and `insp_codes`
    the axis order of the input files.

    Parameters
    ----------
    case : str
        Name of the case.
    exp, insp_on_exp : Volume
        Expiration, and inspiration carried onto it; int16, HU.
    lungs_exp, lobes_exp : Volume
        Labels.
    maps : dict of str to Volume
        Keyed as `MAPS`; NaN (0 for classes) where undefined.
    insp, lungs_insp, lobes_insp, airways_insp, vessels_insp : Volume
        On the inspiration grid.
    displacement : Volume
        shape (K, J, I, 3), mm, LPS, on its own grid.
    metrics : DataFrame
        The tidy table of ``metrics.csv``.
    findings : tuple of Finding
        What was checked and how it ended.
    registration : dict
        Quality numbers, keyed ``left``, ``right``, ``both``.
    fissures : dict
        How each fissure was placed, keyed by its name: `lungvq.segment.lobes.Fissure` as plain values. Empty where
        lobes were given.
    settings, versions : dict
        Plain values: parameters of every stage, and software.
    timings : list of (stage, seconds)
    banner : str
        A sentence every page must carry, such as an override; empty where there is none.
    selection : dict
        How the two scans were found among others: ``how``, a sentence, and ``series``, the decision table as
        `lungvq.study.Entry.row` has it. Empty where both were given.
    """

    case: str
    scans: tuple[ScanSummary, ScanSummary]
    exp: Volume
    insp_on_exp: Volume
    lungs_exp: Volume
    lobes_exp: Volume
    maps: dict[str, Volume]
    insp: Volume
    lungs_insp: Volume
    lobes_insp: Volume
    airways_insp: Volume
    vessels_insp: Volume
    displacement: Volume
    exp_grid: Grid
    insp_grid: Grid
    exp_codes: str
    insp_codes: str
    metrics: pd.DataFrame
    findings: tuple[Finding, ...]
    registration: dict[str, dict[str, float]]
    settings: dict[str, Any]
    versions: dict[str, str]
    timings: list[tuple[str, float]]
    banner: str = ""
    fissures: dict[str, dict[str, Any]] = field(default_factory=dict)
    selection: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Severity:
        """The worst of all findings."""
        return worst(self.findings)

    def withheld(self, what: str) -> bool:
        """Whether a FAIL touches `what` (a map's name, ``vq``, ``lobes``, a region), what it comes from, or all."""
        return bool(self.why_withheld(what))

    def why_withheld(self, what: str) -> list[str]:
        """The messages of the FAILs for which `what` is withheld."""
        names = {what, *_DERIVED_FROM.get(what, ()), "all"}
        return [f.message for f in self.findings if f.severity is Severity.FAIL and names & set(f.touches)]

    def metric(self, region: str, name: str) -> float:
        """The default value of one metric in one region; NaN where it is undefined."""
        rows = self.metrics[
            (self.metrics["region"] == region)
            & (self.metrics["metric"] == name)
            & (self.metrics["is_default"] == 1)
        ]
        return float(rows["value"].iloc[0]) if len(rows) else float("nan")
