"""Segmentations held against phantoms whose anatomy is known: which, what is measured, and how it is told.

``benchmarks/segmentation.py`` runs it, each phantom in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lungvq import io
from lungvq.anatomy import LEFT, LOBES, LUNG_OF_LOBE_LABEL, LUNGS, RIGHT
from lungvq.bench.table import table
from lungvq.errors import LungvqError
from lungvq.phantom import CASES, Phantom, make_phantom
from lungvq.quantify.zones import zones_by_volume
from lungvq.segment import segment
from lungvq.segment.lobes import find_lobes, lobes_from_prior
from lungvq.volume import CANONICAL, Grid, Volume, box_around

__all__ = [
    "FISSURE_LOBES",
    "LIMITS",
    "Known",
    "Spec",
    "bronchi_named",
    "dice",
    "interface",
    "leak_percent",
    "load_known",
    "lobar_bronchi_found",
    "make_known",
    "measure",
    "plan",
    "report",
    "save_known",
    "surface_distance",
]

Floats = NDArray[np.floating]
Row = dict[str, Any]

FISSURE_LOBES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "left oblique": (("LUL",), ("LLL",)),
    "right oblique": (("RUL", "RML"), ("RLL",)),
    "right horizontal": (("RUL",), ("RML",)),
}
"""Which lobes lie above and below each fissure."""

_TRUE_NAME = {
    "left oblique": "left_oblique",
    "right oblique": "right_oblique",
    "right horizontal": "horizontal",
}
_COMPLETENESS = {"visible": (0.75, 1.0), "partly": (0.4, 0.75), "invisible": (0.4, 1.0)}
_SPACINGS = [0.7] * 2 + [0.8] * 3 + [1.0] * 8 + [1.25] * 6 + [1.5] * 7 + [2.0] * 6 + [2.5] * 4 + [3.0] * 4
_TWICE = (
    "healthy",
    "healthy",
    "emphysema",
    "air-trapping",
    "cteph",
    "fibrosis",
    "consolidation",
    "effusion",
    "collapsed-lobe",
    "sharp-kernel",
    "low-dose",
    "large-motion",
)
_SPARE = (1, 1, 1)  # voxels around what is measured
_POINTS = 20_000  # of a surface, from which distances are measured
_WALL = 1.5  # outer radius of an airway over that of its lumen, at most
_NEAR_MM = 2.0  # beyond the wall of a true airway, a voxel counts as leaked


# ------------------------------------------------------------------------------------------------- phantoms


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One phantom of the benchmark.

    Parameters
    ----------
    name : str
    case : str
    seed : int
        Which person.
    slice_mm, pixel_mm : float
    fissures : str
        ``visible`` (75-100 % of each is there), ``partly`` (40-75 %), ``invisible`` (no scan shows them).
    """

    name: str
    case: str
    seed: int
    slice_mm: float
    pixel_mm: float
    fissures: str


def plan(seed: int = 5) -> list[Spec]:
    """40 phantoms, coarse ones first: every case, a third of them with slices thicker than pixels are wide.

    `seed` draws persons, voxels and the fissures' visibility. Tune on one and judge on another.
    """
    rng = np.random.default_rng([seed, 5])
    cases = [*CASES, *_TWICE]
    spacings = rng.permutation(_SPACINGS)
    shown = rng.permutation(["visible"] * 22 + ["partly"] * 10 + ["invisible"] * 8)
    specs: list[Spec] = []
    for n, (case, spacing, visibility) in enumerate(zip(cases, spacings, shown, strict=True)):
        pixel = max(0.7, round(0.6 * float(spacing), 2)) if n % 3 == 2 else float(spacing)
        if case == "no-fissures":
            visibility = "invisible"
        elif case == "sliding":
            visibility = "visible"  # lobes slide only where there is a fissure
        repeats = cases[:n].count(case)
        specs.append(
            Spec(
                name=f"{case}-{repeats + 1}" if repeats else case,
                case=case,
                seed=int(rng.integers(1000, 1_000_000)),
                slice_mm=float(spacing),
                pixel_mm=pixel,
                fissures=str(visibility),
            )
        )
    return sorted(specs, key=lambda spec: -spec.slice_mm * spec.pixel_mm**2)


@dataclass(frozen=True, eq=False)
class Known:
    """Two scans and what is known of their anatomy.

    Parameters
    ----------
    insp, exp : Volume
        Canonical order, HU.
    lobes_insp, lobes_exp : Volume
        True labels.
    airways : ndarray, shape (B, 2, 3)
        Ends of the true airways at inspiration, LPS mm.
    radius : ndarray, shape (B,)
        Of their lumen, mm.
    lobar : dict of str to int
        Which of them is the bronchus of each lobe.
    completeness : dict of str to float
        Of each fissure, 0 to 1; empty where no scan shows them.
    """

    insp: Volume
    exp: Volume
    lobes_insp: Volume
    lobes_exp: Volume
    airways: Floats
    radius: Floats
    lobar: dict[str, int]
    completeness: dict[str, float]


def make_known(spec: Spec) -> Known:
    """The phantom of a spec."""
    settings = replace(
        CASES[spec.case],
        completeness=(1.0, 1.0) if spec.case == "sliding" else _COMPLETENESS[spec.fissures],
        visible=spec.fissures != "invisible",
    )
    phantom: Phantom = make_phantom(
        settings, seed=spec.seed, spacing=(spec.slice_mm, spec.pixel_mm, spec.pixel_mm)
    )
    tree = phantom.subject.trees.airways
    ends = phantom.phi(tree.ends.reshape(-1, 3)).reshape(-1, 2, 3)
    there = phantom.subject.completeness if spec.fissures != "invisible" else {}
    return Known(
        phantom.insp.reorient(CANONICAL),
        phantom.exp.reorient(CANONICAL),
        phantom.truth.lobes_insp.reorient(CANONICAL),
        phantom.truth.lobes_exp.reorient(CANONICAL),
        ends,
        tree.radius,
        {name: tree.names[name] for name in LOBES if name in tree.names},
        {name: there[_TRUE_NAME[name]] for name in FISSURE_LOBES if there},
    )


_VOLUMES = ("insp", "exp", "lobes_insp", "lobes_exp")


def save_known(known: Known, path: Path) -> None:
    """Keep a phantom as one ``.npz`` file."""
    parts: dict[str, Any] = {name: getattr(known, name) for name in ("airways", "radius")}
    for name in _VOLUMES:
        volume = getattr(known, name)
        parts |= {name: volume.array, f"{name}_affine": volume.affine}
    for name in ("lobar", "completeness"):
        mapping = getattr(known, name)
        parts |= {f"{name}_names": np.array(list(mapping), dtype="U20"), name: np.array([*mapping.values()])}
    temporary = path.with_suffix(".part.npz")
    np.savez(temporary, **parts)
    temporary.replace(path)


def load_known(path: Path) -> Known:
    """What `save_known` kept."""
    with np.load(path) as file:
        parts: dict[str, Any] = {n: Volume(file[n], file[f"{n}_affine"]) for n in _VOLUMES}
        for n in ("lobar", "completeness"):
            parts[n] = dict(zip(file[f"{n}_names"].tolist(), file[n].tolist(), strict=True))
        return Known(**parts, airways=file["airways"], radius=file["radius"])


# ------------------------------------------------------------------------------------------------- measures


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Twice the overlap over the sum of two masks; NaN where both are empty.

    Examples
    --------
    >>> dice(np.array([True, True, False]), np.array([True, False, False])).__round__(3)
    0.667
    """
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float("nan") if total == 0 else float(2 * np.count_nonzero(a & b) / total)


def interface(labels: NDArray[np.integer], above: Iterable[int], below: Iterable[int], grid: Grid) -> Floats:
    """Middles of the voxel faces between two groups of labels, shape (N, 3), LPS mm."""
    high, low = np.isin(labels, [*above]), np.isin(labels, [*below])
    faces = []
    for axis in range(3):
        here = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        there = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        index = np.argwhere((high[here] & low[there]) | (low[here] & high[there])).astype(float)
        index[:, axis] += 0.5
        faces.append(index)
    return grid.world(np.concatenate(faces))


def surface_distance(found: Floats, true: Floats) -> Floats:
    """Distance in mm of points of one surface, at most 20,000 of them, to the nearest of another."""
    if len(found) == 0 or len(true) == 0:
        return np.empty(0)
    some = found[np.linspace(0, len(found) - 1, min(len(found), _POINTS)).astype(int)]
    return np.asarray(cKDTree(true).query(some)[0])


def lung_measures(found: Volume, true_lobes: Volume) -> dict[str, float]:
    """Dice of both lungs and of each, and distances between their surfaces, mm."""
    box = box_around((found.array > 0) | (true_lobes.array > 0), _SPARE)
    ours, truth = found.array[box], np.array(LUNG_OF_LOBE_LABEL, np.uint8)[true_lobes.array[box]]
    grid = found.grid.crop(box)
    total = np.count_nonzero(ours) + np.count_nonzero(truth)
    values: dict[str, float] = {"lungs": 2 * np.count_nonzero((ours == truth) & (ours > 0)) / total}
    values["volume_error"] = 100 * (np.count_nonzero(ours) / np.count_nonzero(truth) - 1)
    for name, side in LUNGS.items():
        values[name] = dice(ours == side, truth == side)
        a, b = (interface(x == side, (1,), (0,), grid) for x in (ours, truth))
        far = np.concatenate([surface_distance(a, b), surface_distance(b, a)])
        if len(far):
            values |= {
                f"{name}_surface_mean": float(far.mean()),
                f"{name}_surface_p95": float(np.quantile(far, 0.95)),
            }
    return values


def lobe_measures(found: Volume, truth: Volume) -> dict[str, float]:
    """Dice of each lobe that there is and their mean; distance of the fissures found from the true, mm."""
    box = box_around((found.array > 0) | (truth.array > 0), _SPARE)
    ours, true, grid = found.array[box], truth.array[box], found.grid.crop(box)
    scores = {
        name: dice(ours == label, true == label) for name, label in LOBES.items() if (true == label).any()
    }
    values = {"lobes": float(np.mean([*scores.values()]))} | scores
    for fissure, (above, below) in FISSURE_LOBES.items():
        if not all(name in scores for name in (*above, *below)):
            continue
        groups = [LOBES[n] for n in above], [LOBES[n] for n in below]
        far = surface_distance(interface(ours, *groups, grid), interface(true, *groups, grid))
        if len(far):
            values |= {
                f"{fissure}_median": float(np.median(far)),
                f"{fissure}_p95": float(np.quantile(far, 0.95)),
            }
    return values


def lobar_bronchi_found(airways: Volume, known: Known) -> dict[str, bool]:
    """For each lobe whether the airway mask holds its bronchus: half of its outer half, to a voxel or 1.5 mm."""
    found = {}
    voxels = airways.grid.world(np.argwhere(airways.array > 0))
    near = max(1.5, max(airways.spacing))
    tree = cKDTree(voxels) if len(voxels) else None
    for lobe, branch in known.lobar.items():
        start, stop = known.airways[branch]
        points = start + np.linspace(0.5, 1.0, 6)[:, None] * (stop - start)
        found[lobe] = tree is not None and float((tree.query(points)[0] <= near).mean()) >= 0.5
    return found


def bronchi_named(points: Mapping[str, Floats], lobes: Volume) -> dict[str, bool]:
    """For each lobe whose bronchus was named whether it leads there: most of its points within lungs are in it."""
    right = {}
    for name, world in points.items():
        index = np.rint(lobes.grid.index(world)).astype(int)
        index = index[((index >= 0) & (index < lobes.shape)).all(axis=1)]
        there = lobes.array[tuple(index.T)]
        right[name] = bool((there == LOBES[name]).sum() > 0.5 * max((there > 0).sum(), 1))
    return right


def leak_percent(airways: Volume, known: Known, lung_ml: float) -> float:
    """What of the airway mask lies farther than 2 mm (or a voxel) from a true airway's wall, % of the lungs."""
    voxels = airways.grid.world(np.argwhere(airways.array > 0))
    if len(voxels) == 0:
        return 0.0
    inside = np.zeros(len(voxels), bool)
    reach = known.radius * _WALL + max(_NEAR_MM, max(airways.spacing))
    order = np.argsort(-known.radius)
    tree = cKDTree(voxels)
    for branch in order:
        start, stop = known.airways[branch]
        axis = stop - start
        length2 = max(float(axis @ axis), 1e-9)
        near = tree.query_ball_point((start + stop) / 2, reach[branch] + 0.5 * np.sqrt(length2))
        todo = np.array(near, int)[~inside[near]] if near else np.empty(0, int)
        if len(todo) == 0:
            continue
        share = np.clip((voxels[todo] - start) @ axis / length2, 0, 1)
        off = np.linalg.norm(voxels[todo] - start - share[:, None] * axis, axis=1)
        inside[todo[off <= reach[branch]]] = True
    return 100 * float((~inside).sum()) * airways.voxel_ml / lung_ml


def measure(known: Known) -> dict[str, Any]:
    """Segment both scans of a phantom, in this process, and measure.

    Returns
    -------
    dict
        ``values`` (str to float), ``codes``: the findings that warn.
    """
    values: dict[str, float] = {}
    start = time.monotonic()
    expired = segment(known.exp)
    values["exp_s"] = time.monotonic() - start
    values |= {f"exp_{k}": v for k, v in lung_measures(expired.lungs, known.lobes_exp).items()}
    codes = [f"{f.code} exp" for f in expired.findings if f.severity != "PASS"]
    del expired
    start = time.monotonic()
    inspired = segment(known.insp)
    values["insp_s"] = time.monotonic() - start
    start = time.monotonic()
    found = find_lobes(known.insp, inspired)
    lobes, fissures, findings = found.labels, found.fissures, found.findings
    values["lobes_s"] = time.monotonic() - start
    values["peak_gb"] = _peak_gb()
    codes += [f.code for f in (*inspired.findings, *findings) if f.severity != "PASS"]
    values |= {f"insp_{k}": v for k, v in lung_measures(inspired.lungs, known.lobes_insp).items()}
    values |= {f"ours_{k}": v for k, v in lobe_measures(lobes, known.lobes_insp).items()}
    prior = lobe_measures(lobes_from_prior(inspired.lungs), known.lobes_insp)
    values |= {f"null_{k}": v for k, v in prior.items()}
    true_lungs = known.lobes_insp.like(np.array(LUNG_OF_LOBE_LABEL, np.uint8)[known.lobes_insp.array])
    prior = lobe_measures(lobes_from_prior(true_lungs), known.lobes_insp)
    values |= {f"nulltrue_{k}": v for k, v in prior.items()}
    told = lobe_measures(find_lobes(known.insp, replace(inspired, lungs=true_lungs)).labels, known.lobes_insp)
    values |= {f"truelungs_{k}": v for k, v in told.items()}
    for name, fissure in fissures.items():
        if fissure.completeness is not None:
            values[f"{name}_completeness"] = 100 * fissure.completeness
        if name in known.completeness:
            values[f"{name}_true_completeness"] = 100 * known.completeness[name]
    bronchi = lobar_bronchi_found(inspired.airways, known)
    values["bronchi"], values["bronchi_found"] = len(bronchi), sum(bronchi.values())
    named = bronchi_named(inspired.bronchi.points, known.lobes_insp)
    values["named_rightly"], values["named_wrongly"] = sum(named.values()), sum(not v for v in named.values())
    values["leak"] = leak_percent(
        inspired.airways, known, float((true_lungs.array > 0).sum()) * true_lungs.voxel_ml
    )
    values["airway_ml"] = float(inspired.airways.array.sum()) * inspired.airways.voxel_ml
    return {"values": values, "codes": codes}


def _peak_gb() -> float:
    from lungvq.run import peak_memory_mb  # the whole package hangs on it, and is not in what is measured

    return (peak_memory_mb() or float("nan")) / 1e3


# --------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Limit:
    """What a mean over phantoms, or each of them, is held to."""

    name: str
    value: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.value if self.at_least else value <= self.value


LIMITS: dict[str, tuple[Limit, ...]] = {
    "visible": (
        Limit("insp_lungs", 0.985),
        Limit("exp_lungs", 0.985),
        Limit("ours_lobes", 0.95),
        Limit("ours_RML", 0.88),
        Limit("fissure", 2.0, at_least=False),
        Limit("completeness_off", 10.0, at_least=False),
    ),
    "partly": (
        Limit("insp_lungs", 0.985),
        Limit("exp_lungs", 0.985),
        Limit("fissure", 2.0, at_least=False),
        Limit("completeness_off", 10.0, at_least=False),
    ),
    "invisible": (
        Limit("insp_lungs", 0.985),
        Limit("exp_lungs", 0.985),
        Limit("ours_lobes", 0.88),
        Limit("ours_RML", 0.72),
    ),
}
_EVERYWHERE = (Limit("bronchi_share", 95.0), Limit("leak", 1.0, at_least=False))


def derived(values: Mapping[str, float]) -> dict[str, float]:
    """The measures of a phantom, with what is computed from them: means over fissures, shares, errors."""
    more = dict(values)
    for kind, name in (("ours", "fissure"), ("null", "null_fissure")):
        far = [values[f"{kind}_{f}_median"] for f in FISSURE_LOBES if f"{kind}_{f}_median" in values]
        if far:
            more[name] = float(np.mean(far))
    off = [
        abs(values[f"{f}_completeness"] - values[f"{f}_true_completeness"])
        for f in FISSURE_LOBES
        if f"{f}_completeness" in values and f"{f}_true_completeness" in values
    ]
    if off:
        more["completeness_off"] = float(np.mean(off))
    if values.get("bronchi"):
        more["bronchi_share"] = 100 * values["bronchi_found"] / values["bronchi"]
        more["named_share"] = 100 * values.get("named_rightly", 0) / values["bronchi"]
    for breath in ("insp", "exp"):
        surfaces = [
            values[f"{breath}_{s}_surface_mean"] for s in LUNGS if f"{breath}_{s}_surface_mean" in values
        ]
        if surfaces:
            more[f"{breath}_surface"] = float(np.mean(surfaces))
    return more


_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("lungs insp", "insp_lungs", 4),
    ("left", "insp_left", 4),
    ("right", "insp_right", 4),
    ("surface mm", "insp_surface", 2),
    ("lungs exp", "exp_lungs", 4),
    ("left", "exp_left", 4),
    ("right", "exp_right", 4),
    ("surface mm", "exp_surface", 2),
    ("lobes", "ours_lobes", 3),
    ("prior", "null_lobes", 3),
    ("prior, true lungs", "nulltrue_lobes", 3),
    ("ours, true lungs", "truelungs_lobes", 3),
    *((name, f"ours_{name}", 3) for name in LOBES),
    ("RML prior", "null_RML", 3),
    ("fissures mm", "fissure", 1),
    ("prior mm", "null_fissure", 1),
    *((f"{name} mm", f"ours_{name}_median", 1) for name in FISSURE_LOBES),
    ("completeness off by, points", "completeness_off", 0),
    ("lobar bronchi %", "bronchi_share", 0),
    ("named %", "named_share", 0),
    ("named wrongly", "named_wrongly", 1),
    ("leak %", "leak", 2),
    ("insp s", "insp_s", 1),
    ("lobes s", "lobes_s", 1),
    ("exp s", "exp_s", 1),
    ("GB", "peak_gb", 2),
)


def report(rows: Sequence[Row]) -> str:
    """Means by what the scans show of the fissures, held to their limits, then one row per phantom."""
    everything = [{**row, "values": derived(row["values"])} for row in rows]
    groups: dict[str, list[Row]] = {}
    for kind in LIMITS:
        mine = [row for row in everything if row["fissures"] == kind]
        if not mine:
            continue
        groups[kind] = mine
        fine = [row for row in mine if row["slice_mm"] <= 1.5]
        if kind != "invisible" and 0 < len(fine) < len(mine):
            groups[f"{kind}, slices to 1.5 mm"] = fine
            groups[f"{kind}, slices over 1.5 mm"] = [row for row in mine if row["slice_mm"] > 1.5]
    if len(groups) > 1:
        groups["all"] = everything
    used = _used(everything)
    head = ["fissures", "phantoms", *(c[0] for c in used), "missed"]
    body = []
    for name, mine in groups.items():
        mean = _mean(mine)
        body.append([name, len(mine), *(_cell(mean, c) for c in used), _missed(name.split(",")[0], mean)])
    text = ["### Means", "", table(head, body), "", "### Fissures", "", _fissure_table(everything), ""]
    text += [
        "### Each phantom",
        "",
        table(
            ["phantom", "voxel mm", "fissures", *(c[0] for c in used)],
            [
                [
                    row["phantom"],
                    f"{row['slice_mm']:g} x {row['pixel_mm']:g}",
                    row["fissures"],
                    *(_cell(row["values"], c) for c in used),
                ]
                for row in everything
            ],
        ),
    ]
    return "\n".join(text)


def _used(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    return [c for c in _COLUMNS if any(c[1] in row["values"] for row in rows)]


def _mean(rows: Sequence[Row]) -> dict[str, float]:
    names = {name for row in rows for name in row["values"]}
    found = {
        name: float(np.nanmean([row["values"][name] for row in rows if name in row["values"]]))
        for name in names
    }
    if bronchi := sum(row["values"].get("bronchi", 0) for row in rows):
        for share, part in (("bronchi_share", "bronchi_found"), ("named_share", "named_rightly")):
            found[share] = 100 * sum(row["values"].get(part, 0) for row in rows) / bronchi
    return found


def _cell(values: Mapping[str, float], column: tuple[str, str, int]) -> str:
    value = values.get(column[1], np.nan)
    return "" if np.isnan(value) else f"{value:.{column[2]}f}"


def _missed(kind: str, mean: Mapping[str, float]) -> str:
    limits = (*LIMITS.get(kind, ()), *_EVERYWHERE)
    return ", ".join(
        f"{x.name} {'>=' if x.at_least else '<='} {x.value:g}"
        for x in limits
        if x.name in mean and not x.met(mean[x.name])
    )


def _fissure_table(rows: Sequence[Row]) -> str:
    """Each fissure over all phantoms of one visibility."""
    body = []
    for kind in LIMITS:
        mine = [row["values"] for row in rows if row["fissures"] == kind]
        for name in FISSURE_LOBES:
            ours, null = (
                [v[f"{which}_{name}_median"] for v in mine if f"{which}_{name}_median" in v]
                for which in ("ours", "null")
            )
            if not ours:
                continue
            pairs = [
                (v[f"{name}_completeness"], v[f"{name}_true_completeness"])
                for v in mine
                if f"{name}_completeness" in v and f"{name}_true_completeness" in v
            ]
            off = np.abs(np.diff(pairs, axis=1)) if pairs else np.empty(0)
            body.append(
                [
                    kind,
                    name,
                    len(ours),
                    f"{np.median(ours):.1f}",
                    f"{np.max(ours):.1f}",
                    f"{np.median(null):.1f}",
                    len(pairs),
                    f"{off.mean():.0f}" if len(off) else "",
                    f"{100 * (off <= 10).mean():.0f}" if len(off) else "",
                ]
            )
    head = ["fissures", "which", "n", "median mm", "worst mm", "prior mm", "completeness n", "off by, points"]
    return table([*head, "within 10, %"], body)


# ----------------------------------------------------------------------------------------------- real scans


REAL: dict[str, str] = {
    "ct-chest-1mm-dicom": "lungs 2.85 L within 8 %",
    "ct-pair-4d/inhale": "right lung 1.55-1.76 L; left collapsed, reported",
    "ct-pair-4d/exhale": "right lung 1.26-1.47 L; left collapsed, reported",
    "ct-chest-coarse": "lungs 4.55 L within 5 %; lungs and thirds as in its label map",
    "dicom-odd": "what is not a chest is refused by name",
}
"""The real scans and what is known of each."""


def measure_real(name: str, data: Path) -> dict[str, Any]:
    """Segment one real scan of `REAL`, in this process.

    Returns
    -------
    dict
        ``said``: what was found; ``good``: whether it is as it should be.
    """
    if name == "dicom-odd":
        return _refused(data / name)
    folder, _, file = name.partition("/")
    path = data / folder / (f"{file}.nii.gz" if file else "dicom")
    if name == "ct-chest-coarse":
        path = data / name / "ct-64.nrrd"
    ct = io.read(path).volume.reorient(CANONICAL)
    start = time.monotonic()
    anatomy = segment(ct)
    found_lobes = find_lobes(ct, anatomy)
    lobes, fissures, findings = found_lobes.labels, found_lobes.fissures, found_lobes.findings
    seconds = time.monotonic() - start
    litres = {side: anatomy.volume_ml(side) / 1000 for side in ("left", "right", "both")}
    said = ", ".join(f"{side} {value:.3f} L" for side, value in litres.items())
    codes = [f.code for f in (*anatomy.findings, *findings) if f.severity != "PASS"]
    if name.startswith("ct-pair-4d"):
        low, high = (1.55, 1.76) if file == "inhale" else (1.26, 1.47)
        good = low <= litres["right"] <= high and "LUNG_COLLAPSED" in codes
    elif name == "ct-chest-coarse":
        region = io.read_labels(data / name / "lm-64.nrrd").reorient(CANONICAL).array.astype(int) & 255
        scores = [
            dice(anatomy.lungs.array == side, (region >= low) & (region <= low + 2))
            for side, low in ((LEFT, 9), (RIGHT, 12))
        ]
        zones = zones_by_volume(anatomy.lungs, pooled=True).array  # as that map has them, from 9 on
        thirds = [dice(zones == zone, region == 8 + zone) for zone in range(1, 7)]
        said += f"; Dice left {scores[0]:.3f}, right {scores[1]:.3f}, thirds at least {min(thirds):.3f}"
        good = abs(litres["both"] / 4.55 - 1) < 0.05 and min(scores) > 0.98 and min(thirds) > 0.95
    else:
        good = abs(litres["both"] / 2.85 - 1) < 0.08
    shares = np.bincount(lobes.array.ravel(), minlength=6)[1:]
    said += "; lobes " + "/".join(f"{100 * n / shares.sum():.0f}" for n in shares) + " %"
    for fissure, found in fissures.items():
        there = "" if found.completeness is None else f", {100 * found.completeness:.0f} % complete"
        said += f"; {fissure}: {found.basis}{there}"
    said += f"; {seconds:.0f} s, {_peak_gb():.2f} GB"
    return {"said": said + (f"; {', '.join(codes)}" if codes else ""), "good": bool(good)}


def _refused(folder: Path) -> dict[str, Any]:
    """Every series under a folder of which none is a chest."""
    refused, taken = [], []
    for series in io.list_series(folder):
        try:
            lungs = segment(io.read_series(series).volume.reorient(CANONICAL))
            taken.append(f"{series.description or series.uid}: {lungs.volume_ml('both') / 1000:.2f} L")
        except LungvqError as error:
            refused.append(str(error))
    said = (
        f"{len(refused)} of {len(refused) + len(taken)} series refused; taken: {', '.join(taken) or 'none'}"
    )
    return {"said": said, "good": not taken, "refused": refused}


def real_report(rows: Sequence[Row]) -> str:
    """One row per real scan."""
    return table(
        ["scan", "expected", "found", "as expected"],
        [
            [r["scan"], REAL[r["scan"]], r.get("said", r.get("failed")), "yes" if r.get("good") else "no"]
            for r in rows
        ],
    )
