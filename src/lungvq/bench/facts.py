"""Facts of lungs that were published, and the same figures of a phantom's subject."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lungvq.anatomy import LOBES, LOBES_OF_LUNG
from lungvq.phantom.motion import map_points
from lungvq.phantom.place import gaps_at, lobes_at
from lungvq.phantom.subject import LOBE_RANGES, SAMPLE_MM, Samples, Subject, tissue_at
from lungvq.phantom.tree import Tree

__all__ = ["PUBLISHED", "SOURCES", "Published", "by_generation", "facts"]

Floats = NDArray[np.float64]

BLOOD = 1.04  # g/mL: density of vessels on the CT scale
AIRWAY_WALL = 1.25  # outer radius of an airway as drawn, over that of its lumen
CELL_MM = 10.0  # 1 mL, the scale on which the spread of flow and ventilation is published
VISIBLE_MM = 0.8  # radius of a vessel whose forks make landmarks
FISSURE_NEAR_MM = 3.0


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
    *(
        Published(f"{lobe}, % of volume, inspiration", round(100 * low, 1), round(100 * high, 1), "LOB20")
        for lobe, (low, high) in LOBE_RANGES.items()
    ),
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


def by_generation(subject: Subject) -> Floats:
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
