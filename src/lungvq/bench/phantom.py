"""The phantom against published anatomy and physiology, and its truths against each other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from lungvq.anatomy import LOBES, LOBES_OF_LUNG, VQ_CLASSES
from lungvq.bench.table import made_with, table
from lungvq.errors import UsageError
from lungvq.phantom import CASES, Phantom, make_phantom
from lungvq.phantom import tissue as kinds
from lungvq.phantom.motion import map_points, unmap_points
from lungvq.phantom.place import gaps_at, lobes_at
from lungvq.phantom.subject import SAMPLE_MM, Samples, Subject, draw_subject, tissue_at
from lungvq.phantom.tree import AIRWAY_DIAMETER, Tree

__all__ = [
    "PUBLISHED",
    "Published",
    "balance",
    "bench_phantom",
    "crossings",
    "derivatives",
    "facts",
    "wedges",
]

Floats = NDArray[np.float64]
Tell = Callable[[str], None]

BLOOD = 1.04  # g/mL: density of vessels on the CT scale
AIRWAY_WALL = 1.25  # outer radius of an airway as drawn, over that of its lumen
CELL_MM = 10.0  # 1 mL, the scale on which the spread of flow and ventilation is published
VISIBLE_MM = 0.8  # radius of a vessel whose forks make landmarks
FISSURE_NEAR_MM = 3.0
DISEASES = {
    "emphysema": kinds.EMPHYSEMA,
    "air trapping": kinds.TRAPPING,
    "embolism": kinds.EMBOLISM,
    "consolidation": kinds.CONSOLIDATION,
    "ground glass": kinds.GROUND_GLASS,
    "fibrosis": kinds.FIBROSIS,
    "patchy flow": kinds.PATCHY_FLOW,
}
WEIBEL_DIAMETER = (18.0, 12.2, 8.3, 5.6, 4.5, 3.5, 2.8, 2.3, 1.86)  # mm, generations 0 to 8
LARGE = {"spacing": (0.8, 0.7, 0.7), "matrix": (512, 512)}


class Published(NamedTuple):
    """A published range, and where it is from (a key of `SOURCES`)."""

    name: str
    low: float
    high: float
    source: str


SOURCES = {
    "CHE19": "doi 10.2147/COPD.S187596, 564 healthy adults",
    "LOB20": "PMC7490509 table 3, 32 people, supine, deep inspiration",
    "DLAB": "PMC3677192, ten COPDGene pairs, 7298 landmarks",
    "CIP": "angles of planes through the fissure points of the Chest Imaging Platform, inspiration",
    "BRU87": "J Appl Physiol 1987;63:1324, PET, supine, tidal breathing",
    "MIL89": "Thorax 1989;44:485, supine: TLC and RV",
    "HOP07": "J Appl Physiol 2007;103:240, MRI, supine",
    "GRAV": "PMC4294417, supine",
    "MUSCH02": "PET, supine and prone, 2002",
    "KOB25": "doi 10.1007/s11604-025-01913-3",
    "K": "general knowledge of the field, no one source",
    "issue": "asked of this phantom by its specification",
}
HALF = "half to one and a half of the published value"


def _sd2(mean: float, sd: float) -> tuple[float, float]:
    return mean - 2 * sd, mean + 2 * sd


def _half(value: float, least: float = 0.0) -> tuple[float, float]:
    """Half to one and a half of what exceeds `least`."""
    return least + 0.5 * (value - least), least + 1.5 * (value - least)


PUBLISHED = (
    Published("lung volume, inspiration, L", *_sd2(4.468, 1.271), "CHE19"),
    Published("lung volume, expiration, L", 1.2, 2.5, "K"),
    Published("inspiratory over expiratory volume", 1.6, 2.4, "K"),
    Published("J, 5th percentile", 1.0, 3.5, "K"),
    Published("J, 95th percentile", 1.0, 3.5, "K"),
    Published("J, lower lobes over the others", 1.0, np.inf, "K"),
    Published("RUL, % of volume, inspiration", 11.8, 22.7, "LOB20"),
    Published("RML, % of volume, inspiration", 6.6, 13.8, "LOB20"),
    Published("RLL, % of volume, inspiration", 22.3, 34.0, "LOB20"),
    Published("LUL, % of volume, inspiration", 18.1, 26.6, "LOB20"),
    Published("LLL, % of volume, inspiration", 19.4, 28.7, "LOB20"),
    Published("right lung, % of volume, inspiration", *_sd2(53.6, 1.5), "LOB20"),
    Published("mean HU, inspiration, with vessels", -870, -830, "K"),
    Published("mean HU, expiration, with vessels", -760, -680, "K"),
    Published("parenchyma, inspiration, HU", -890, -830, "K"),
    Published("parenchyma, inspiration (TLC), g/mL", *_sd2(0.0715, 0.017), "MIL89"),
    Published("parenchyma, expiration (RV), g/mL", *_sd2(0.272, 0.067), "MIL89"),
    Published("parenchyma, expiration (tidal), g/mL", *_sd2(0.28, 0.03), "BRU87"),
    Published("tissue without blood, expiration, g/mL", *_sd2(0.10, 0.02), "BRU87"),
    Published("tissue and blood with vessels, g", *_half(530), "KOB25"),
    Published("mass change on inspiration, %", -17.4, 17.4, "KOB25"),
    Published("back over front: density, expiration", *_half(1.34, 1), "BRU87"),
    Published("back over front: density, expiration (MRI)", *_half(1.40, 1), "HOP07"),
    Published("back over front: blood", *_half(1.52, 1), "BRU87"),
    Published("back over front: tissue without blood", *_half(1.10, 1), "BRU87"),
    Published("front to back, inspiration, HU", 20, 60, "K"),
    Published("front to back, expiration, HU", 0, 150, "K"),
    Published("flow, % per cm towards the back", *_half(2.6), "GRAV"),
    Published("flow: share of variance with height, %", *_half(24), "MUSCH02"),
    Published("specific V: share of variance with height, %", *_half(8), "MUSCH02"),
    Published("flow: CV over 1 mL", 0.3, 0.45, "K"),
    Published("specific V: CV over 1 mL", 0.25, 0.4, "K"),
    Published("V/Q: sd of the logarithm over 1 mL", 0.3, 0.6, "K"),
    Published("landmarks: mean displacement, mm", 12.3, 30.9, "DLAB"),
    Published("landmarks: sd of displacement, mm", 6.4, 14.1, "DLAB"),
    Published("descent of the diaphragm, mean, mm", 20, 90, "issue"),
    Published("descent of the dome, largest, mm", 60, 100, "K"),
    Published("descent at the back over the front", 1.2, 1.4, "K"),
    Published("growth front to back, %", 10, 20, "K"),
    Published("growth side to side, %", 5, 12, "K"),
    Published("left oblique fissure to axial, degrees", *_sd2(53, 7), "CIP"),
    Published("right oblique fissure to axial, degrees", *_sd2(46, 7), "CIP"),
    Published("horizontal fissure to axial, degrees", *_sd2(17, 8), "CIP"),
    Published("left oblique fissure, sagittal slope, degrees", *_sd2(52, 7), "CIP"),
    Published("right oblique fissure, sagittal slope, degrees", *_sd2(45, 8), "CIP"),
    Published("horizontal fissure, sagittal slope, degrees", *_sd2(7, 14), "CIP"),
    Published("J ranked by height along the body, Spearman squared", 0, 0.5, "issue"),
    Published("J ranked by front to back, Spearman squared", 0, 0.5, "issue"),
    Published("J without its trend: correlation 1/e at, mm", 8, 25, "issue"),
    Published("segmental artery over its bronchus, diameter", *_half(1.0), "K"),
)
"""What is compared. Mean and sd were published where a range is mean +- 2 sd; see the table for the rest."""


def bench_phantom(cases: str, seeds: int, spacing: float, large: bool, tell: Tell) -> str:
    """Hold the phantom against the literature and against itself.

    Parameters
    ----------
    cases : str
        Names separated by commas, or ``"all"``: which are drawn in voxels and checked.
    seeds : int
        Healthy subjects for the table of facts, seeds 0 to `seeds` - 1.
    spacing : float
        mm; every case is drawn at twice that, the balances are also checked at 4/3 and 1 of it.
    large : bool
        Whether to time a pair of 512 x 512 x about 400 voxels.
    tell : callable
        Takes a line for each step done.

    Returns
    -------
    str
        Markdown tables.
    """
    names = list(CASES) if cases == "all" else cases.split(",")
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise UsageError(f"no phantom case {', '.join(unknown)}; expected of {', '.join(CASES)}")
    command = f"lungvq bench phantom --cases {cases} --seeds {seeds} --spacing {spacing:g}"
    parts = [made_with(command + " --large" * large), *_facts_part(seeds, tell)]
    parts += _cases_part(names, spacing, tell)
    parts += _knobs_part(tell)
    parts += _cost_part(large, tell)
    return "\n\n".join(parts)


# ---- facts of subjects


def facts(subject: Subject) -> dict[str, float]:
    """The figures of one subject that have a published range, by their names in `PUBLISHED`."""
    samples = subject.samples
    tissue = tissue_at(subject.tissue, subject.territory, samples)
    moved = map_points(subject.motion, samples.points)[0]
    return (
        _volumes(samples)
        | _densities(subject, tissue)
        | _gradients(samples, moved, tissue)
        | _spread(samples, tissue)
        | _movement(subject, moved)
        | _fissure_angles(subject, moved)
        | _expansion(subject)
        | {"segmental artery over its bronchus, diameter": _artery_to_airway(subject)}
    )


def _volumes(samples: Samples) -> dict[str, float]:
    jacobian, labels = samples.jacobian, samples.labels
    ml = SAMPLE_MM**3 / 1000
    before = np.bincount(labels, minlength=6)[1:] * ml
    after = np.bincount(labels, jacobian, minlength=6)[1:] * ml
    share = {name: 100 * after[label - 1] / after.sum() for name, label in LOBES.items()}
    lower = np.isin(labels, [LOBES["LLL"], LOBES["RLL"]])
    return {
        "lung volume, inspiration, L": after.sum() / 1000,
        "lung volume, expiration, L": before.sum() / 1000,
        "inspiratory over expiratory volume": after.sum() / before.sum(),
        "J, 5th percentile": float(np.percentile(jacobian, 5)),
        "J, 95th percentile": float(np.percentile(jacobian, 95)),
        "J, lower lobes over the others": jacobian[lower].mean() / jacobian[~lower].mean(),
        **{f"{name}, % of volume, inspiration": value for name, value in share.items()},
        "right lung, % of volume, inspiration": sum(share[name] for name in LOBES_OF_LUNG["right"]),
    }


def _densities(subject: Subject, tissue: Floats) -> dict[str, float]:
    samples = subject.samples
    ml = SAMPLE_MM**3 / 1000
    before_ml, after_ml = len(samples.points) * ml, samples.jacobian.sum() * ml
    parenchyma = (tissue[:, 0] + tissue[:, 1]).sum() * ml
    gained = tissue[:, 2].sum() * ml
    # tubes keep what they weigh above their surroundings
    mass = parenchyma + _tube_mass(subject, parenchyma / before_ml)
    inside = samples.depth < -5
    exp = tissue[inside, 0] + tissue[inside, 1]
    insp = (exp + tissue[inside, 2]).sum() / samples.jacobian[inside].sum()
    return {
        "mean HU, inspiration, with vessels": 1000 * ((mass + gained) / after_ml - 1),
        "mean HU, expiration, with vessels": 1000 * (mass / before_ml - 1),
        "parenchyma, inspiration, HU": 1000 * (insp - 1),
        "parenchyma, inspiration (TLC), g/mL": insp,
        "parenchyma, expiration (RV), g/mL": exp.mean(),
        "parenchyma, expiration (tidal), g/mL": exp.mean(),
        "tissue without blood, expiration, g/mL": tissue[:, 0].mean(),
        "tissue and blood with vessels, g": mass,
        "mass change on inspiration, %": 100 * gained / mass,
    }


def _tube_mass(subject: Subject, own: float) -> float:
    """What vessels and airways within the lobes add to a lung of density `own`, g; where two meet, both count."""

    def volume(tree: Tree, factor: float = 1.0) -> float:
        return float((np.pi * (factor * tree.radius) ** 2 * tree.length)[tree.lobe > 0].sum()) / 1000

    trees = subject.trees
    lumen = volume(trees.airways)
    wall = volume(trees.airways, AIRWAY_WALL) - lumen
    return (volume(trees.arteries) + volume(trees.veins) + wall) * (BLOOD - own) - lumen * own


def _gradients(samples: Samples, moved: Floats, tissue: Floats) -> dict[str, float]:
    """Thirds of the depth of the lungs in the middle half of their height; deeper than 5 mm."""
    dry, blood, gained, flow = tissue[:, :4].T

    def thirds(points: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        low, high = np.percentile(points[:, 2], [25, 75])
        middle = (points[:, 2] > low) & (points[:, 2] < high) & (samples.depth < -5)
        front, back = np.quantile(points[middle, 1], [1 / 3, 2 / 3])
        return middle & (points[:, 1] < front), middle & (points[:, 1] > back)

    front, back = thirds(samples.points)
    front_in, back_in = thirds(moved)
    density = dry + blood
    inspired = (density + gained) / samples.jacobian
    ratio = density[back].mean() / density[front].mean()
    back_cm = samples.points[:, 1] / 10
    air = 1 - density
    specific = (samples.jacobian - 1 - gained) / air
    return {
        "back over front: density, expiration": ratio,
        "back over front: density, expiration (MRI)": ratio,
        "back over front: blood": blood[back].mean() / blood[front].mean(),
        "back over front: tissue without blood": dry[back].mean() / dry[front].mean(),
        "front to back, inspiration, HU": 1000 * (inspired[back_in].mean() - inspired[front_in].mean()),
        "front to back, expiration, HU": 1000 * (density[back].mean() - density[front].mean()),
        "flow, % per cm towards the back": 100 * np.polyfit(back_cm, flow / flow.mean(), 1)[0],
        "flow: share of variance with height, %": 100 * _of_height(samples, back_cm, flow),
        "specific V: share of variance with height, %": 100 * _of_height(samples, back_cm, specific),
    }


def _of_height(samples: Samples, height: Floats, values: Floats) -> float:
    """Share of the variance over cells of 1 mL that a straight line along gravity explains."""
    along, of_cells = _cells(samples, height, values)
    return float(np.corrcoef(along, of_cells)[0, 1] ** 2)


def _cells(samples: Samples, *values: Floats) -> list[Floats]:
    """Means over cubes of `CELL_MM` that are at least half full."""
    index = np.floor(samples.points / CELL_MM).astype(np.int64)
    _, cell, count = np.unique(index, axis=0, return_inverse=True, return_counts=True)
    full = count >= 0.5 * (CELL_MM / SAMPLE_MM) ** 3
    return [np.bincount(cell.ravel(), v)[full] / count[full] for v in values]


def _spread(samples: Samples, tissue: Floats) -> dict[str, float]:
    air = 1 - tissue[:, 0] - tissue[:, 1]
    gain = samples.jacobian - 1 - tissue[:, 2]
    flow, gained, held = _cells(samples, tissue[:, 3], gain, air)
    specific = gained / held
    breathes = gained > 0.02
    return {
        "flow: CV over 1 mL": flow.std() / flow.mean(),
        "specific V: CV over 1 mL": specific.std() / specific.mean(),
        "V/Q: sd of the logarithm over 1 mL": np.log(gained[breathes] / flow[breathes]).std(),
    }


def _movement(subject: Subject, moved: Floats) -> dict[str, float]:
    points = subject.samples.points
    forks = np.concatenate(
        [
            t.ends[(t.radius > VISIBLE_MM) & ~t.is_leaf & (t.lobe > 0), 1]
            for t in (subject.trees.arteries, subject.trees.veins)
        ]
    )
    shift = np.linalg.norm(map_points(subject.motion, forks)[0] - forks, axis=1)
    base, descent = _base(points, points[:, 2] - moved[:, 2])
    front, back = np.quantile(base[:, 1], [1 / 3, 2 / 3])
    grown = np.ptp(moved, axis=0) / np.ptp(points, axis=0) - 1
    return {
        "landmarks: mean displacement, mm": shift.mean(),
        "landmarks: sd of displacement, mm": shift.std(),
        "descent of the diaphragm, mean, mm": descent.mean(),
        "descent of the dome, largest, mm": float(np.percentile(descent, 95)),
        "descent at the back over the front": descent[base[:, 1] > back].mean()
        / descent[base[:, 1] < front].mean(),
        "growth front to back, %": 100 * grown[1],
        "growth side to side, %": 100 * grown[0],
    }


def _base(points: Floats, values: Floats) -> tuple[Floats, Floats]:
    """The lowest sample of each column of at least 60 mm of lung, and its value."""
    _, column = np.unique(points[:, :2], axis=0, return_inverse=True)
    column = column.ravel()
    order = np.lexsort((points[:, 2], column))
    first = np.searchsorted(column[order], np.arange(column.max() + 1))
    lowest = order[first][np.bincount(column) * SAMPLE_MM >= 60]
    return points[lowest], values[lowest]


def _fissure_angles(subject: Subject, moved: Floats) -> dict[str, float]:
    which, near, _ = gaps_at(subject.motion, subject.samples.points)
    found = {}
    for n, name in enumerate(("right oblique", "left oblique", "horizontal")):
        on = moved[(which == n) & (near < FISSURE_NEAR_MM)]
        normal = np.linalg.svd(on - on.mean(axis=0), full_matrices=False)[2][2] if len(on) > 3 else np.ones(3)
        normal = normal * np.sign(normal[2])
        found[f"{name} fissure to axial, degrees"] = float(np.degrees(np.arccos(normal[2])))
        found[f"{name} fissure, sagittal slope, degrees"] = float(
            np.degrees(np.arctan2(-normal[1], normal[2]))
        )
    return found


def _expansion(subject: Subject) -> dict[str, float]:
    samples = subject.samples
    along, back = (_spearman_squared(samples.jacobian, samples.points[:, a]) for a in (2, 1))
    return {
        "J ranked by height along the body, Spearman squared": along,
        "J ranked by front to back, Spearman squared": back,
        "J without its trend: correlation 1/e at, mm": _correlation_length(subject),
    }


def _spearman_squared(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1] ** 2)


def _correlation_length(subject: Subject) -> float:
    """Where the correlation of J has fallen to 1/e, once a quadratic trend in space is taken off; mm."""
    samples, rng = subject.samples, np.random.default_rng(0)

    def terms(points: Floats) -> Floats:
        x, y, z = (points / 100).T
        return np.stack([np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], axis=1)

    trend = np.linalg.lstsq(terms(samples.points), samples.jacobian, rcond=None)[0]
    here = rng.choice(np.flatnonzero(samples.depth < -8), 4000)
    one = samples.jacobian[here] - terms(samples.points[here]) @ trend
    way = rng.normal(size=(len(here), 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    lags = np.arange(0.0, 42.0, 2.0)
    correlation = []
    for lag in lags:
        points = samples.points[here] + lag * way
        labels, _, _, jacobian = lobes_at(subject.shape, subject.motion, points)
        other, inside = jacobian - terms(points) @ trend, labels > 0
        correlation.append(np.corrcoef(one[inside], other[inside])[0, 1])
    below = np.flatnonzero(np.array(correlation) < np.exp(-1))
    return float(lags[below[0]]) if len(below) else np.inf


def _artery_to_airway(subject: Subject) -> float:
    """Mean over the segments of the diameter of the artery over that of the bronchus beside it."""
    airways, arteries = subject.trees.airways, subject.trees.arteries
    pairs = [
        (arteries.radius[arteries.names[artery]], airways.radius[index])
        for name, index in airways.names.items()
        if name[:2] in ("RB", "LB") and (artery := name.replace("B", "A", 1)) in arteries.names
    ]
    return float(np.mean([a / b for a, b in pairs])) if pairs else np.nan


def _facts_part(seeds: int, tell: Tell) -> list[str]:
    found, generations = [], []
    for seed in range(seeds):
        subject = draw_subject(CASES["healthy"], seed)
        found.append(facts(subject))
        generations.append(_by_generation(subject))
        tell(f"healthy {seed}: drawn")
    rows = []
    for name, low, high, source in PUBLISHED:
        values = np.array([one[name] for one in found])
        inside = int(((values >= low) & (values <= high)).sum())
        range_ = f"{low:.3g} to {high:.3g}" if np.isfinite(high) else f"over {low:.3g}"
        rows.append(
            [
                name,
                range_,
                source,
                f"{values.mean():.3g} ({values.std():.2g})",
                f"{values.min():.3g} to {values.max():.3g}",
                f"{inside}" if inside == seeds else f"**{inside}**",
            ]
        )
    head = ["fact", "published", "source", "phantom: mean (sd)", "least to most", f"inside of {seeds}"]
    return [
        f"### Facts of {seeds} healthy subjects",
        "Means and sds were published for CHE19, MIL89, CIP, the right lung, and the densities of BRU87: the range is"
        f" mean ± 2 sd. Where no spread was published (the other values of BRU87, HOP07, GRAV, MUSCH02, the mass of"
        f" KOB25, arteries) it is {HALF}; of a ratio, of what exceeds 1. Phantoms are counted at points 4 mm apart,"
        " without noise; back and front are thirds of the lung in the middle half of its height.",
        table(head, rows),
        "Sources: " + "; ".join(f"{key}: {text}" for key, text in SOURCES.items()) + ".",
        "### Airways and arteries by generation",
        _generation_table(generations),
    ]


def _by_generation(subject: Subject) -> Floats:
    """Count and mean diameter of airways, mean diameter of arteries; (9, 3)."""
    out = np.full((9, 3), np.nan)
    airways, arteries = subject.trees.airways, subject.trees.arteries
    for g in range(9):
        mine, theirs = airways.generation == g, arteries.generation == g
        out[g] = (
            mine.sum(),
            2 * airways.radius[mine].mean() if mine.any() else np.nan,
            2 * arteries.radius[theirs].mean() if theirs.any() else np.nan,
        )
    return out


def _generation_table(generations: Sequence[Floats]) -> str:
    mean = np.nanmean(generations, axis=0)
    rows = [
        [
            g,
            f"{mean[g, 0]:.0f}",
            f"{mean[g, 1]:.1f}",
            f"{AIRWAY_DIAMETER[g]:.1f}",
            f"{WEIBEL_DIAMETER[g]:.1f}",
            f"{mean[g, 2]:.1f}",
        ]
        for g in range(len(mean))
    ]
    head = ["generation", "airways", "diameter, mm", "Schmidt 2004", "Weibel A", "arteries, diameter, mm"]
    return table(head, rows)


# ---- what holds within one phantom


def balance(phantom: Phantom) -> tuple[float, float, float]:
    """How far volume, mass and air are from balance, in %.

    Returns
    -------
    volume : float
        Sum of J over the expiratory lung against the volume at inspiration.
    mass : float
        Mass at inspiration less that at expiration, against the blood that was set to come, in % of the mass.
    air : float
        Air at inspiration less that at expiration, against the sum of V, in % of that.
    """
    s = {name: value for name, value in phantom.truth.scalars.items() if isinstance(value, float)}
    stretched = s["volume_exp_ml"] + s["air_gained_ml"] + s["mass_gained_g"]
    mass = s["mass_insp_g"] - s["mass_exp_g"]
    air = s["volume_insp_ml"] - s["volume_exp_ml"] - mass
    return (
        100 * (stretched / s["volume_insp_ml"] - 1),
        100 * (mass - s["mass_gained_g"]) / s["mass_exp_g"],
        100 * (air / s["air_gained_ml"] - 1),
    )


def derivatives(subject: Subject, count: int = 2000, step: float = 1e-3) -> tuple[float, float]:
    """Largest relative error of J against finite differences of the map, and of map then inverse, mm.

    Differences are taken over `step` mm to both sides, more than 1 mm from fissures, where sliding has no derivative.
    """
    samples = subject.samples
    away = np.flatnonzero(samples.fissure > 1.0)
    points = samples.points[np.random.default_rng(0).choice(away, count)]
    moved, jacobian = map_points(subject.motion, points)
    columns = [
        map_points(subject.motion, points + step * d)[0] - map_points(subject.motion, points - step * d)[0]
        for d in np.eye(3)
    ]
    difference = np.linalg.det(np.stack(columns, axis=-1) / (2 * step))
    back = unmap_points(subject.motion, moved)
    return (
        float(np.abs(difference / jacobian - 1).max()),
        float(np.linalg.norm(back - points, axis=1).max()),
    )


def crossings(subject: Subject, step: float = 0.5) -> tuple[int, int]:
    """Points along branches that lie in another lobe than their branch, and how many points were looked at."""
    wrong = total = 0
    for tree in subject.trees:
        inside = tree.lobe > 0
        ends, lobe = tree.ends[inside], tree.lobe[inside]
        count = np.ceil(tree.length[inside] / step).astype(int) + 1
        owner = np.repeat(np.arange(len(count)), count)
        share = (np.arange(len(owner)) - (np.cumsum(count) - count)[owner]) / np.maximum(count - 1, 1)[owner]
        points = ends[owner, 0] + share[:, None] * (ends[owner, 1] - ends[owner, 0])
        found = lobes_at(subject.shape, subject.motion, points)[0]
        wrong += int(((found != lobe[owner]) & (found > 0)).sum())
        total += len(owner)
    return wrong, total


def wedges(phantom: Phantom) -> tuple[int, int]:
    """Voxels of embolism in the truth, and how many differ from what a search of all ends says.

    By another route than the phantom's: a k-d tree of the ends in each lobe, and the branches above each end.
    """
    truth, arteries = phantom.truth, phantom.subject.trees.arteries
    below = np.zeros(len(arteries), bool)
    for branch in phantom.subject.blocked:
        below |= arteries.subtree(branch)
    expected = np.zeros(truth.disease.shape, bool)
    for label in LOBES.values():
        ends = np.flatnonzero(arteries.is_leaf & (arteries.lobe == label))
        index = np.argwhere(truth.lobes_exp.array == label)
        if len(ends) and len(index):
            nearest = cKDTree(arteries.ends[ends, 1]).query(truth.lobes_exp.grid.world(index))[1]
            expected[tuple(index.T)] = below[ends[nearest]]
    found = truth.disease.array == kinds.EMBOLISM
    return int(found.sum()), int((found != expected).sum())


def _cases_part(names: Sequence[str], spacing: float, tell: Tell) -> list[str]:
    case_rows, balance_rows, check_rows = [], [], []
    for name in names:
        phantom = make_phantom(name, seed=0, spacing=2 * spacing)
        case_rows.append(_case_row(phantom))
        balance_rows.append(_balance_row(phantom, 2 * spacing))
        check_rows.append(_check_row(phantom))
        tell(f"{name}: drawn and checked")
    for name in [name for name in ("healthy", "large-motion", "sliding") if name in names]:
        for step, seed in ((4 / 3 * spacing, 1), (spacing, 2)):
            balance_rows.append(_balance_row(make_phantom(name, seed=seed, spacing=step), step))
            tell(f"{name} {seed}, {step:g} mm: balanced")
    return [
        "### Conservation",
        "Truth that is summed over the expiratory image against what both images hold, in %.",
        table(["phantom", "spacing, mm", "sum of J", "mass", "air"], balance_rows),
        "### Closed form, trees and territories",
        "J against finite differences over 1 µm; map then inverse; points each 0.5 mm along branches of airways,"
        " arteries and veins that lie in another lobe; voxels enclosed by lung without a lobe; voxels of embolism"
        " that are not exactly those whose nearest end of artery is below a blocked branch.",
        table(
            ["phantom", "J, relative", "inverse, mm", "in another lobe", "no lobe", "embolism, wrong"],
            check_rows,
        ),
        f"### Every case, seed 0, {2 * spacing:g} mm",
        "With scanner and noise. Published for healthy never-smokers (PMC3703944): 2.0 % (sd 2.7) at or below -950 HU"
        " at inspiration, 9.2 % (sd 6.8) at or below -856 HU at expiration.",
        table(
            [
                "case",
                "volume exp / insp, L",
                "mean HU exp / insp",
                "≤ -950, %",
                "≤ -856, %",
                "normal / dead space / shunt / matched, %",
                "disease, % of volume",
            ],
            case_rows,
        ),
    ]


def _balance_row(phantom: Phantom, step: float) -> list[str]:
    return [f"{phantom.case} {phantom.seed}", f"{step:g}", *(f"{v:+.3f}" for v in balance(phantom))]


def _check_row(phantom: Phantom) -> list[str]:
    jacobian, inverse = derivatives(phantom.subject)
    wrong, total = crossings(phantom.subject)
    lobes = phantom.truth.lobes_exp.array
    holes = int((binary_fill_holes(lobes > 0) & (lobes == 0)).sum())
    ill, differ = wedges(phantom)
    return [
        f"{phantom.case} {phantom.seed}",
        f"{jacobian:.1e}",
        f"{inverse:.1e}",
        f"{wrong} of {total}",
        f"{holes}",
        f"{differ} of {ill}" if phantom.subject.blocked else "",
    ]


def _case_row(phantom: Phantom) -> list[str]:
    truth = phantom.truth
    inside = truth.lobes_exp.array > 0
    exp, insp = phantom.exp.array[inside], phantom.insp.array[truth.lobes_insp.array > 0]
    classes = [100 * (truth.vq_class.array[inside] == n).mean() for n in VQ_CLASSES.values()]
    ill = {name: 100 * (truth.disease.array[inside] == n).mean() for name, n in DISEASES.items()}
    litres = [float(truth.scalars[f"volume_{role}_ml"]) / 1000 for role in ("exp", "insp")]  # type: ignore[arg-type]
    return [
        phantom.case,
        f"{litres[0]:.2f} / {litres[1]:.2f}",
        f"{exp.mean():.0f} / {insp.mean():.0f}",
        f"{100 * (insp <= -950).mean():.1f}",
        f"{100 * (exp <= -856).mean():.1f}",
        " / ".join(f"{c:.0f}" for c in classes),
        ", ".join(f"{name} {share:.1f}" for name, share in ill.items() if share > 0),
    ]


# ---- knobs


def _knobs_part(tell: Tell) -> list[str]:
    def turned(follow: float, beta: float, gamma: float = 0.0) -> Phantom:
        healthy = CASES["healthy"]
        physiology = replace(
            healthy.physiology, follow=(follow, follow), beta=(beta, beta), gamma=(gamma, gamma)
        )
        settings = replace(healthy, physiology=physiology)
        tell(f"follow {follow}, beta {beta}, gamma {gamma}: drawn")
        return make_phantom(settings, seed=0, spacing=4.0)

    base = turned(0.5, -0.02)
    rows = [
        _knob_row("beta -0.02 to 0.03", base, turned(0.5, 0.03)),
        _knob_row("w 0.5 to 0 (beta form)", base, turned(0.0, -0.02)),
        _knob_row("gamma 0 to 0.1", base, turned(0.5, -0.02, 0.1)),
    ]
    return [
        "### Knobs",
        "Healthy, seed 0, 4 mm, the same person but for one knob: largest change of each truth over all voxels. V is"
        " to change by exactly the mass that comes, turned over, with tissue and blood counted as water.",
        table(
            ["knob", "motion, mm", "J", "flow", "mass m, g/mL", "V", "V + m", "expired mean HU"],
            rows,
        ),
    ]


def _knob_row(name: str, a: Phantom, b: Phantom) -> list[str]:
    def change(field: str) -> Floats:
        return getattr(b.truth, field).array.astype(float) - getattr(a.truth, field).array

    def most(values: Floats) -> str:
        return f"{np.nanmax(np.abs(values)):.2g}"

    inside = a.truth.lobes_exp.array > 0
    mass, air = change("mass_change"), change("ventilation")
    hu = b.exp.array[inside].mean() - a.exp.array[inside].mean()
    return [
        name,
        most(change("displacement")),
        most(change("jacobian")),
        most(change("perfusion")),
        most(mass),
        most(air),
        most(mass + air),
        f"{hu:+.1f}",
    ]


# ---- cost


def _cost_part(large: bool, tell: Tell) -> list[str]:
    jobs: list[tuple[str, dict[str, object]]] = [("2 mm", {"spacing": 2.0})]
    if large:
        jobs.append(("0.8 x 0.7 x 0.7 mm, 512 x 512", dict(LARGE)))
    rows = []
    for name, arguments in jobs:
        spent = _spend(arguments)
        tell(f"{name}: {spent['wall']:.1f} s")
        rows.append(
            [
                name,
                " and ".join("x".join(map(str, shape)) for shape in spent["shapes"]),
                f"{spent['wall']:.1f}",
                f"{spent['cpu']:.1f}",
                f"{spent['peak_mb'] / 1000:.2f}",
                f"{spent['cpu'] / _peer(spent['shapes']):.1f}",
            ]
        )
    head = ["pair", "voxels", "wall, s", "CPU, s", "peak memory, GB", "CPU, times the peer's"]
    return [
        "### Time and memory",
        "`make_phantom('healthy', seed=0)` in a process of its own, compiled before. The peer is SimpleITK's"
        " recursive Gaussian of 2 mm over two arrays of the same size, CPU time in the same run.",
        table(head, rows),
    ]


_CHILD = """
import json, sys, time
from lungvq.phantom import make_phantom
from lungvq.run import peak_memory_mb
make_phantom("healthy", seed=0, spacing=8.0)
wall, cpu = time.monotonic(), time.process_time()
phantom = make_phantom("healthy", seed=0, **json.loads(sys.argv[1]))
print(json.dumps({
    "wall": time.monotonic() - wall,
    "cpu": time.process_time() - cpu,
    "peak_mb": peak_memory_mb() or float("nan"),
    "shapes": [phantom.exp.shape, phantom.insp.shape],
}))
"""


def _spend(arguments: dict[str, object]) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(arguments)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def _peer(shapes: Iterable[Sequence[int]]) -> float:
    """CPU seconds of the peer."""
    start = time.process_time()
    for shape in shapes:
        image = sitk.GetImageFromArray(np.zeros(shape, np.float32))
        sitk.SmoothingRecursiveGaussian(image, 2.0)
    return time.process_time() - start
