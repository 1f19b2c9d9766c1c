"""What the report says: one plain dict of finished strings, made from a `CaseResult`.

Everything here is text and numbers; `figures` and `render3d` draw, `html` and `pdf` lay out. What both say
is said here or in `methods`, so that the page and the paper cannot differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lungvq.anatomy import LOBES_OF_LUNG, VQ_CLASSES
from lungvq.findings import Finding, Severity
from lungvq.quantify import ZONE_DEF
from lungvq.report.figures import CLASS_TITLES
from lungvq.report.methods import (
    CAPTIONS,
    GLOSSARY,
    HEADINGS,
    LIMITS,
    NOTES,
    REFERENCES,
    methods_of,
    number_citations,
)
from lungvq.result import CaseResult
from lungvq.segment.lobes import PLACED

__all__ = ["MISSING", "build_page", "number"]

MISSING = "\N{EN DASH}"

_REGION_TITLES = {
    "both": "Both lungs",
    "left": "Left lung",
    "right": "Right lung",
    "RUL": "Right upper",
    "RML": "Right middle",
    "RLL": "Right lower",
    "LUL": "Left upper",
    "LLL": "Left lower",
}


def number(value: float | None, digits: int = 0) -> str:
    """A number for people: thin spaces between thousands, a true minus, an en dash where there is none.

    Examples
    --------
    >>> number(float("nan")), number(-0.04, 1), number(-2.25, 1), number(12.345, 2)
    ('–', '0.0', '−2.2', '12.35')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if text.startswith("-"):
        text = text[1:] if not any(c in "123456789" for c in text) else "\N{MINUS SIGN}" + text[1:]
    return text


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def build_page(result: CaseResult) -> dict[str, Any]:
    """Everything the layouts need but the pictures."""
    sections, references = number_citations(methods_of(result.settings.get("segmentation", {})), REFERENCES)
    page = {
        "case": result.case,
        "headings": HEADINGS,
        "notes": NOTES,
        "captions": CAPTIONS,
        "banner": result.banner,
        "verdict": _verdict(result),
        "key": _key_numbers(result),
        "scans": _scans(result),
        "selection": _selection(result),
        "withheld": _withheld(result),
        "lobes": {
            **_region_table(result, LOBE_COLUMNS),
            "sums": _said_sums(result),
            "fissures": _said_fissures(result),
        },
        "zones": _zone_table(result),
        "density": _region_table(result, DENSITY_COLUMNS),
        "spread": _region_table(result, SPREAD_COLUMNS, with_lobes=False),
        "registration": _registration(result),
        "distrust": _distrust(result),
        "settings": _flatten(result.settings),
        "versions": list(result.versions.items()),
        "timings": [(name, number(seconds, 1)) for name, seconds in result.timings],
        "timings_title": f"Timings, {number(sum(seconds for _, seconds in result.timings), 0)} s in all",
        "methods": sections,
        "references": references,
        "glossary": GLOSSARY,
    }
    legible: dict[str, Any] = _legible(page)
    return legible


_UNSEEN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def _legible(value: Any) -> Any:
    """The same page with control characters written out: none may hide text or turn its direction.

    Examples
    --------
    >>> _legible({"name": ["a\\x07b", ("\\u202etxt", 1)]})
    {'name': ['a[U+0007]b', ('[U+202E]txt', 1)]}
    """
    if isinstance(value, str):
        return _UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", value)
    if isinstance(value, Mapping):
        return {key: _legible(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_legible(item) for item in value)
    return value


_WITHHELD_TITLES = {
    "ventilation": "Ventilation",
    "perfusion": "Perfusion",
    "vq": "V/Q",
    "lobes": "Lobes",
    "density": "Counts at fixed CT numbers",
    "prm": "PRM",
}


def _withheld(result: CaseResult) -> dict[str, dict[str, str]]:
    """What is withheld: its title, and why in one paragraph that follows the title."""
    return {
        what: {
            "title": f"{title} withheld",
            "why": f"because of a failed check: {' '.join(result.why_withheld(what))} The files are still"
            " written, and marked.",
        }
        for what, title in _WITHHELD_TITLES.items()
        if result.withheld(what)
    }


# ------------------------------------------------------------------------------------------ verdict

_SUMMARY = {
    Severity.PASS: "Every check passed.",
    Severity.WARN: "Usable with caution: read the warnings below first.",
    Severity.FAIL: "Something failed: what it touches is withheld from these pages.",
}


def _verdict(result: CaseResult) -> dict[str, Any]:
    serious = sorted(
        (f for f in result.findings if f.severity is not Severity.PASS), key=lambda f: -f.severity.rank
    )
    good = [f for f in result.findings if f.severity is Severity.PASS]
    return {
        "status": result.status.value,
        "summary": _SUMMARY[result.status],
        "serious": [_finding(f) for f in serious],
        "passed": [_finding(f) for f in good],
        "passed_title": f"{len(good)} check{'s' if len(good) > 1 else ''} passed",
    }


def _finding(finding: Finding) -> dict[str, str]:
    def measured(value: float | None) -> str:
        return "" if value is None else f"{_plain(value)} {finding.unit}".rstrip()

    value, limit = measured(finding.value), measured(finding.limit)
    touches = ", ".join(_touched(finding.touches))
    said = [
        f"Measured {value}{f', limit {limit}' if limit else ''}." if value else "",
        finding.advice,
        f"Touches: {touches}." if touches and finding.severity is not Severity.PASS else "",
    ]
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "message": finding.message,
        "value": value,
        "limit": limit,
        "advice": finding.advice,
        "touches": touches,
        "measure": " ".join(part for part in said if part),
    }


_TOUCH_TITLES = {
    "jacobian": "Jacobian",
    "prm": "PRM",
    "perfusion_ctp": "apparent mass change",
    "vq_log2": "V/Q",
    "vq_class": "V/Q",
    "left": "left lung",
    "right": "right lung",
    "all": "everything",
    "trapping": "air trapping",
}


def _touched(names: Iterable[str]) -> list[str]:
    """What a finding touches, in words; variants of a map that is named are understood.

    Examples
    --------
    >>> _touched(["ventilation", "ventilation_hu", "vq_log2", "vq_class"])
    ['ventilation', 'V/Q']
    """
    names = list(names)
    shown = [name for name in names if not any(name.startswith(f"{other}_") for other in names)]
    return list(dict.fromkeys(_TOUCH_TITLES.get(name, name.replace("_", " ")) for name in shown))


# -------------------------------------------------------------------------------------- key numbers


def _key_numbers(result: CaseResult) -> dict[str, Any]:
    numbers = _Numbers(result)
    shown = {name: not result.withheld(name) for name in ("ventilation", "perfusion", "vq")}
    litres = {
        "Inspiration": numbers.told("both", "volume_insp_ml"),
        "Expiration": numbers.told("both", "volume_exp_ml"),
        "Volume change": numbers.told("both", "volume_change_ml"),
        "Air gained, from the map": numbers.told("both", "ventilation_ml", shown["ventilation"]),
    }
    return {
        "volumes": [
            (title, number(ml / 1000, 2), "L" if math.isfinite(ml) else "") for title, ml in litres.items()
        ],
        "splits": [
            {
                "title": f"{title}, right and left lung",
                **_split(numbers, f"{name}_fraction_pct", shown[name]),
            }
            for name, title in (("ventilation", "Ventilation"), ("perfusion", "Perfusion"))
        ],
        "classes": _class_bar(result, numbers, shown["vq"]),
    }


def _split(numbers: _Numbers, metric: str, shown: bool) -> dict[str, Any]:
    right, left = (numbers.told(side, metric, shown) for side in ("right", "left"))
    whole = max(right, 0) + max(left, 0)
    known = math.isfinite(right) and math.isfinite(left) and whole > 0
    return {
        "right": number(right, 1),
        "left": number(left, 1),
        # The bar shows the right lung on the viewer's left, as the pictures do.
        "bar": round(100 * max(right, 0) / whole, 1) if known else None,
        "withheld": not shown or any(numbers.failed(side, metric) for side in ("right", "left")),
    }


def _class_bar(result: CaseResult, numbers: _Numbers, shown: bool) -> dict[str, Any]:
    shown = shown and not numbers.failed("both", "vq_abnormal_pct")
    parts, start = [], 0.0
    for name in VQ_CLASSES:
        value = numbers.told("both", f"vq_{name}_pct", shown)
        width = value if math.isfinite(value) else 0.0
        parts.append(
            {
                "name": name,
                "title": CLASS_TITLES[name],
                "value": number(value, 1),
                "start": round(start, 2),
                "width": round(width, 2),
            }
        )
        start += width
    abnormal = numbers.told("both", "vq_abnormal_pct", shown)
    return {
        "title": "V/Q classes, both lungs",
        "parts": parts,
        "abnormal": number(abnormal, 1),
        "sweep": _said_sweep(result) if shown else "",
        "withheld": not shown,
    }


def _said_sweep(result: CaseResult) -> str:
    """How the share that is not normal moves with the threshold; empty where it was not counted."""
    table = result.metrics[(result.metrics["region"] == "both") & (result.metrics["zone_def"] == "")]
    shares = table[table["metric"] == "vq_abnormal_pct"].set_index("method")["value"]
    at = [f"{number(shares[f'mean{t}@1'], 1)} % at {t} %" for t in (50, 70) if f"mean{t}@1" in shares]
    area = result.metric("both", "vq_abnormal_sweep_pct")
    if not at or not math.isfinite(area):
        return ""
    return (
        f"Not normal at other thresholds: {', '.join(at)} of the mean; {number(area, 1)} % averaged over thresholds"
        " from 40 to 80 %."
    )


# -------------------------------------------------------------------------------------------- scans


def _scans(result: CaseResult) -> dict[str, Any]:
    # Identifiers are for machines: they are in run.json.
    known = dict.fromkeys(key for scan in result.scans for key in scan.facts if not key.endswith("_uid"))
    facts = [key for key in known if any(scan.facts.get(key) not in (None, "") for scan in result.scans)]
    rows = [("name", [scan.name for scan in result.scans])]
    rows += [(key, [_plain(scan.facts.get(key)) for scan in result.scans]) for key in facts]
    rows += [("SHA-256", [f"{scan.sha256[:16]}…" if scan.sha256 else MISSING for scan in result.scans])]
    return {
        "roles": [scan.role for scan in result.scans],
        "rows": [(_fact_title(key), values) for key, values in rows],
    }


def _selection(result: CaseResult) -> dict[str, Any]:
    """How the scans were found among the series of a study; no rows where both were given."""
    rows = [
        (
            str(row["series"]),
            row["name"] if row["name"] != row["series"] else "",
            row["role"],
            MISSING if row["score"] is None else f"{row['score']:g}",
            MISSING if row["lung_ml"] is None else number(row["lung_ml"] / 1000, 2),
            "; ".join(row["reasons"]),
        )
        for row in result.selection.get("series", ())
    ]
    how = str(result.selection.get("how", ""))
    return {
        "how": f"{how[:1].upper()}{how[1:]}." if how else "",
        "columns": ["Series", "Name", "Role", "Score", "Lungs, L", "Why"],
        "rows": rows,
    }


_UNITS = {
    "mm": "mm", "hu": "HU", "ml": "mL", "s": "s", "kv": "kV", "kvp": "kVp", "ma": "mA", "mas": "mAs",
    "deg": "degrees",
}  # fmt: skip


def _fact_title(key: str) -> str:
    """The name of a fact in words, its unit set off: ``air_hu`` becomes ``Air, HU``.

    Examples
    --------
    >>> _fact_title("spacing_mm"), _fact_title("hu_min"), _fact_title("kvp"), _fact_title("SHA-256")
    ('Spacing, mm', 'HU min', 'kVp', 'SHA-256')
    """
    first, *others = [_UNITS[word] if word in ("hu", "kvp") else word for word in key.split("_")]
    if first not in _UNITS.values():
        first = first[:1].upper() + first[1:]
    if others and others[-1].lower() in _UNITS:
        *others, unit = others
        return f"{' '.join([first, *others])}, {_UNITS[unit.lower()]}"
    return " ".join([first, *others])


def _plain(value: Any) -> str:
    """Any plain value in words."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return str(value).replace("-", "\N{MINUS SIGN}")
    if isinstance(value, float | np.floating):
        return f"{value:.4g}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) or MISSING
    if isinstance(value, list | tuple):
        numeric = all(isinstance(v, int | float | np.number) for v in value)
        return (" × " if numeric else ", ").join(_plain(v) for v in value) or MISSING
    return str(value)


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of ``stage.parameter`` and value."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _plain(value)))
    return rows


# ------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Column:
    """One column of the lobe table: its group, heading and unit, the metric, and the map it rests on.

    With `per_volume` the value is divided by the region's share of expiratory volume.
    """

    group: str
    title: str
    unit: str
    metric: str
    digits: int = 1
    map: str = ""
    per_volume: bool = False


LOBE_COLUMNS: tuple[Column, ...] = (
    Column("Volume", "Insp", "mL", "volume_insp_ml", 0),
    Column("Volume", "Exp", "mL", "volume_exp_ml", 0),
    Column("Volume", "Change", "mL", "volume_change_ml", 0),
    Column("Ventilation", "V", "mL", "ventilation_ml", 0, "ventilation"),
    Column("Ventilation", "V", "%", "ventilation_fraction_pct", 1, "ventilation"),
    Column("Ventilation", "V % / vol %", "", "ventilation_fraction_pct", 2, "ventilation", True),
    Column("Ventilation", "Defect", "%", "ventilation_defect_pct", 1, "ventilation"),
    Column("Perfusion", "Q", "%", "perfusion_fraction_pct", 1, "perfusion"),
    Column("Perfusion", "Q % / vol %", "", "perfusion_fraction_pct", 2, "perfusion", True),
    Column("Perfusion", "Defect", "%", "perfusion_defect_pct", 1, "perfusion"),
    Column("V/Q class, % of region", "Normal", "%", "vq_normal_pct", 1, "vq"),
    Column("V/Q class, % of region", "Dead space", "%", "vq_dead_space_pct", 1, "vq"),
    Column("V/Q class, % of region", "Shunt-like", "%", "vq_shunt_pct", 1, "vq"),
    Column("V/Q class, % of region", "Matched", "%", "vq_matched_defect_pct", 1, "vq"),
)

DENSITY_COLUMNS: tuple[Column, ...] = (
    Column("Inspiration", "LAA-950", "%", "laa950_pct", 1, "density"),
    Column("Inspiration", "LAA-910", "%", "laa910_pct", 1, "density"),
    Column("Inspiration", "Perc15", "HU", "perc15_insp_hu", 0, "density"),
    Column("Inspiration", "Mean", "HU", "mld_insp_hu", 0),
    Column("Expiration", "LAA-856", "%", "laa856_pct", 1, "density"),
    Column("Expiration", "Mean", "HU", "mld_exp_hu", 0),
    Column("Expiration / inspiration", "Volume", "", "ei_volume_ratio", 2),
    Column("Expiration / inspiration", "Mean HU", "", "ei_mld_ratio", 2),
    Column("PRM, % of region", "Normal", "%", "prm_normal_pct", 1, "prm"),
    Column("PRM, % of region", "fSAD", "%", "prm_fsad_pct", 1, "prm"),
    Column("PRM, % of region", "Emphysema", "%", "prm_emphysema_pct", 1, "prm"),
    Column("PRM, % of region", "Emptying", "%", "prm_emptying_emphysema_pct", 1, "prm"),
)

SPREAD_COLUMNS: tuple[Column, ...] = tuple(
    Column(title, short, unit, f"{name}_{metric}", digits, name)
    for name, title in (("ventilation", "Ventilation"), ("perfusion", "Perfusion"))
    for short, unit, metric, digits in (
        ("CV", "", "cv", 2),
        ("H", "", "h", 2),
        ("CV, 10 mm", "", "cv_10mm", 2),
        ("Defects", "", "defect_count", 0),
        ("Largest", "mL", "defect_largest_ml", 0),
    )
)

ZONE_COLUMNS: tuple[Column, ...] = (
    Column("", "Exp", "mL", "volume_exp_ml", 0),
    Column("", "V", "%", "ventilation_fraction_pct", 1, "ventilation"),
    Column("", "V % / vol %", "", "ventilation_fraction_pct", 2, "ventilation", True),
    Column("", "Q", "%", "perfusion_fraction_pct", 1, "perfusion"),
    Column("", "Q % / vol %", "", "perfusion_fraction_pct", 2, "perfusion", True),
)


class _Numbers:
    """Default values, intervals and QC of the metrics table, by region and metric."""

    def __init__(self, result: CaseResult) -> None:
        table = result.metrics[result.metrics["is_default"] == 1]
        keys = zip(table["region"], table["metric"], strict=True)
        qc = table["qc"].fillna("").astype(str)
        self._rows = dict(
            zip(keys, zip(table["value"], table["ci_low"], table["ci_high"], qc, strict=True), strict=True)
        )

    def row(self, region: str, metric: str) -> tuple[float, float, float, str]:
        """Value, interval and QC; the change of volume is made here."""
        nan = float("nan")
        if metric == "volume_change_ml":
            insp, exp = (self.row(region, f"volume_{hold}_ml") for hold in ("insp", "exp"))
            worse = max(insp[3], exp[3], key=lambda qc: ("PASS", "WARN", "FAIL").index(qc[:4] or "PASS"))
            return insp[0] - exp[0], nan, nan, worse
        return self._rows.get((region, metric), (nan, nan, nan, ""))

    def value(self, region: str, metric: str) -> float:
        return float(self.row(region, metric)[0])

    def failed(self, region: str, metric: str) -> bool:
        """Whether a FAIL is behind a number."""
        return self.row(region, metric)[3].startswith("FAIL")

    def told(self, region: str, metric: str, shown: bool = True) -> float:
        """A value; NaN where it is not `shown` or a FAIL is behind it."""
        return self.value(region, metric) if shown and not self.failed(region, metric) else float("nan")

    def cell(self, region: str, column: Column, hidden: bool) -> dict[str, Any]:
        """One table cell: text, its 95 % interval, and whether a warning touches it."""
        value, low, high, qc = self.row(region, column.metric)
        hidden = hidden or self.failed(region, column.metric)
        if column.per_volume:
            volume = _share(self.value(region, "volume_exp_ml"), self.value("both", "volume_exp_ml"))
            value, low, high = (_share(x, 100 * volume) for x in (value, low, high))
        known = math.isfinite(low) and math.isfinite(high) and not hidden
        return {
            "text": MISSING if hidden else number(value, column.digits),
            "interval": f"{number(low, column.digits)} to {number(high, column.digits)}" if known else "",
            "mark": qc.startswith("WARN") and not hidden,
        }


def _region_table(
    result: CaseResult, columns: tuple[Column, ...], *, with_lobes: bool = True
) -> dict[str, Any]:
    """Five lobes, two lungs, both; lobes are left out where they are withheld."""
    numbers = _Numbers(result)
    with_lobes = with_lobes and not result.withheld("lobes")
    lobes = [*LOBES_OF_LUNG["right"], *LOBES_OF_LUNG["left"]] if with_lobes else []
    rows: list[dict[str, Any]] = []
    for region in (*lobes, "right", "left", "both"):
        gone = _region_withheld(result, region)
        cells = [
            numbers.cell(region, column, gone or bool(column.map and result.withheld(column.map)))
            for column in columns
        ]
        rows.append(
            {
                "region": region,
                "title": _REGION_TITLES[region],
                "code": region if region in lobes else "",
                "total": region not in lobes,
                "withheld": gone,
                "cells": cells,
            }
        )
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    return {
        "groups": groups,
        "starts": [n == 0 or c.group != columns[n - 1].group for n, c in enumerate(columns)],
        "columns": [(c.title, c.unit) for c in columns],
        "marked": any(cell["mark"] for row in rows for cell in row["cells"]),
        "marks": _gather_marks(rows),
        "rows": rows,
    }


def _gather_marks(rows: list[dict[str, Any]]) -> list[bool]:
    """Move marks to where they stand once: to a column's heading if all its numbers are marked, else a row's.

    Returns
    -------
    list of bool
        Which columns are marked; ``row["mark"]`` is set, and the cells' marks that this says are cleared.
    """

    def all_marked(cells: list[dict[str, Any]]) -> bool:
        numbers = [cell for cell in cells if cell["text"] != MISSING]
        return bool(numbers) and all(cell["mark"] for cell in numbers)

    columns = [all_marked(list(cells)) for cells in zip(*(row["cells"] for row in rows), strict=True)]
    for row in rows:
        others = [cell for cell, marked in zip(row["cells"], columns, strict=True) if not marked]
        row["mark"] = all_marked(others)
        for cell, marked in zip(row["cells"], columns, strict=True):
            cell["mark"] = cell["mark"] and not marked and not row["mark"]
    return columns


def _region_withheld(result: CaseResult, region: str) -> bool:
    """A FAIL on a lung takes its lobes and zones with it."""
    lung = next((side for side, lobes in LOBES_OF_LUNG.items() if region in lobes), region.split("_")[0])
    return result.withheld(region) or (lung in LOBES_OF_LUNG and result.withheld(lung))


def _said_fissures(result: CaseResult) -> str:
    """How each fissure was placed; empty where lobes were given."""
    said = []
    for name, fissure in result.fissures.items():
        share, off = fissure["completeness"], fissure["uncertainty_mm"]
        how = PLACED[fissure["basis"]] if share is None else f"seen over {number(100 * share)} % of its area"
        said.append(f"{name} {how}" + (f" (± {number(off, 1)} mm)" if np.isfinite(off) else ""))
    return f"Fissures: {'; '.join(said)}. " if said else ""


def _said_sums(result: CaseResult) -> str:
    lobes = [] if result.withheld("lobes") else [*LOBES_OF_LUNG["right"], *LOBES_OF_LUNG["left"]]
    said = "; ".join(_sums(result, _Numbers(result), lobes))
    return f"{said}. " if said else ""


def _sums(result: CaseResult, numbers: _Numbers, lobes: list[str]) -> list[str]:
    """Whether the V % and Q % columns add up, in words."""
    said = []
    for letter, name in (("V", "ventilation"), ("Q", "perfusion")):
        if result.withheld(name):
            continue
        metric = f"{name}_fraction_pct"
        for what, regions in (("the five lobes", lobes), ("right and left", ["right", "left"])):
            if any(numbers.failed(region, metric) for region in regions):
                continue
            # A lung without a number (collapsed, say) adds nothing.
            values = [numbers.value(region, metric) for region in regions]
            known = [v for v in values if math.isfinite(v)]
            if not known:
                continue
            total = sum(known)
            gap = 100 - total
            said.append(
                f"{letter} % of {what} adds up to {number(total, 1)} %"
                + (f" ({number(gap, 1)} % lies in no {'lobe' if regions is lobes else 'lung'})"
                   if abs(gap) >= 0.05 else "")
            )  # fmt: skip
    return said


def _zone_table(result: CaseResult) -> dict[str, Any]:
    """Thirds by height, right and left side by side as on the pictures."""
    numbers = _Numbers(result)
    rows: list[dict[str, Any]] = []
    for part in ("upper", "middle", "lower", ""):
        cells = []
        for side in ("right", "left"):
            region = f"{side}_{part}" if part else side
            gone = _region_withheld(result, region)
            cells += [
                numbers.cell(region, column, gone or bool(column.map and result.withheld(column.map)))
                for column in ZONE_COLUMNS
            ]
        rows.append({"title": part.capitalize() or "Whole lung", "total": not part, "cells": cells})
    return {
        "columns": [(c.title, c.unit) for c in ZONE_COLUMNS],
        "marks": _gather_marks(rows),
        "rows": rows,
        "note": f"Thirds of equal height of each lung, from its base to its apex on expiration ({ZONE_DEF})."
        " Other definitions of thirds give other numbers.",
    }


# ------------------------------------------------------------------------------------- registration

_REGISTRATION_ROWS: tuple[tuple[str, str, str, int], ...] = (
    ("dice", "Overlap of the lungs (Dice)", "", 3),
    ("surface_mean_mm", "Distance of lung surfaces, mean", "mm", 2),
    ("surface_p95_mm", "Distance of lung surfaces, 95th percentile", "mm", 2),
    ("surface_lower_mm", "Distance of lung surfaces, mean of the lower third", "mm", 2),
    ("expected_error_from_0_mm", "Expected error of the motion, outer 3 mm", "mm", 2),
    ("expected_error_from_10_mm", "The same, 10 to 20 mm under the pleura", "mm", 2),
    ("parts", "Pieces registered each by itself (a lung, or lobes that slide)", "", 0),
    ("correlation_before", "Local correlation, before", "", 2),
    ("correlation_after", "Local correlation, after", "", 2),
    ("folded_percent", "Folded share of lung", "%", 3),
    ("jacobian_p1", "Jacobian, 1st percentile", "mL/mL", 2),
    ("jacobian_p5", "Jacobian, 5th percentile", "mL/mL", 2),
    ("jacobian_p50", "Jacobian, median", "mL/mL", 2),
    ("jacobian_p95", "Jacobian, 95th percentile", "mL/mL", 2),
    ("jacobian_p99", "Jacobian, 99th percentile", "mL/mL", 2),
    ("closure", "Summed Jacobian over inspiratory volume", "", 3),
    ("motion_mean_mm", "Motion, mean", "mm", 1),
    ("motion_p95_mm", "Motion, 95th percentile", "mm", 1),
    ("motion_max_mm", "Motion, largest", "mm", 1),
)


def _registration(result: CaseResult) -> list[tuple[str, str, list[str]]]:
    return [
        (
            title,
            unit,
            [
                number(result.registration.get(side, {}).get(key), digits)
                for side in ("right", "left", "both")
            ],
        )
        for key, title, unit, digits in _REGISTRATION_ROWS
    ]


# ----------------------------------------------------------------------------------------- distrust


def _distrust(result: CaseResult) -> dict[str, Any]:
    """What these numbers cannot carry: measured where it can be, in words where not."""
    inside = result.lungs_exp.array > 0
    measured: list[tuple[str, str]] = []
    for name, title in (("ventilation", "Ventilation"), ("perfusion", "Perfusion")):
        if name in result.maps and inside.any():
            undefined = 100 * _mean(~np.isfinite(result.maps[name].array[inside]))
            measured.append((f"{title} is undefined in", f"{number(undefined, 1)} % of lung volume"))
    measured += _relative_errors(result, inside)
    beyond = None if result.withheld("perfusion_ctp") else _beyond_two_se(result, inside)
    if beyond is not None:
        measured.append(
            (
                "Apparent mass change exceeds twice its standard error in",
                f"{number(beyond, 1)} % of the lung where it is defined; chance alone would give about 5 %",
            )
        )
    return {"measured": measured, "limits": LIMITS}


def _relative_errors(result: CaseResult, inside: np.ndarray) -> Iterable[tuple[str, str]]:
    for name, title in (("ventilation", "Ventilation"), ("perfusion", "Perfusion")):
        if name not in result.maps or f"{name}_se" not in result.maps or result.withheld(name):
            continue
        values, errors = result.maps[name].array[inside], result.maps[f"{name}_se"].array[inside]
        known = np.isfinite(values) & np.isfinite(errors)
        mean = _mean(values[known])
        if known.any() and mean > 0:
            share = 100 * float(np.median(errors[known])) / mean
            yield f"{title}: typical standard error of a voxel", f"{number(share, 0)} % of the lung mean"


def _beyond_two_se(result: CaseResult, inside: np.ndarray) -> float | None:
    """Share of lung, in %, where the mass change is more than twice its standard error from zero."""
    if "perfusion_ctp" not in result.maps or "perfusion_ctp_se" not in result.maps:
        return None
    change, error = (result.maps[n].array[inside] for n in ("perfusion_ctp", "perfusion_ctp_se"))
    known = np.isfinite(change) & np.isfinite(error)
    return 100 * _mean(np.abs(change[known]) > 2 * error[known]) if known.any() else None


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64)) if values.size else float("nan")
