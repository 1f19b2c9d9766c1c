"""Drawing one subject: anatomy, breath, tissue and disease from settings and a seed.

Each part draws from its own stream of random numbers, so that turning one knob leaves the others alone, and
the same seed is the same person whatever the disease.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lungvq import anatomy
from lungvq.fissures import VALID, sample_fissures
from lungvq.phantom import tissue as kinds
from lungvq.phantom.cases import CaseSettings, Disease, Physiology
from lungvq.phantom.chest import draw_shape, vary
from lungvq.phantom.lobes import HORIZONTAL, LEFT_OBLIQUE, sheet_of
from lungvq.phantom.motion import Motion, map_points, stretch_points
from lungvq.phantom.place import gaps_at, lobes_at
from lungvq.phantom.shape import Shape, carina, hilum
from lungvq.phantom.territory import Territory, choose_emboli
from lungvq.phantom.tissue import Tissue, composition_at
from lungvq.phantom.tree import Tree, Trees, grow_trees, thinned
from lungvq.phantom.waves import random_waves

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]

COARSE_WAVES, FINE_WAVES, FLOW_WAVES, DENSE_WAVES = 28, 44, 20, 24
COARSE_MM, FINE_MM = (16.0, 22.0), (8.0, 15.0)  # correlation lengths
DENSITY_SD = 0.07  # of the logarithm, over a few mm
SAMPLE_MM = 4.0
LOBE_RANGES = {
    "RUL": (0.118, 0.227),
    "RML": (0.066, 0.138),
    "RLL": (0.223, 0.34),
    "LUL": (0.181, 0.266),
    "LLL": (0.194, 0.287),
}
"""Smallest and largest share of the inspired lung volume in 32 healthy people, supine."""
FISSURE_DRAWS = 200
COLLAPSE_SHIFT = {"LLL": (LEFT_OBLIQUE, -0.2), "RUL": (HORIZONTAL, 0.2)}  # of the fissure, shares of the box


@dataclass(frozen=True)
class Samples:
    """Points that fill the lungs at expiration, on a grid of `SAMPLE_MM`.

    `points` (N, 3) LPS mm; `labels` the lobe, `depth` the distance to the pleura (negative), `fissure` that
    to the nearest fissure, `jacobian` the expansion, each (N,).
    """

    points: Floats
    labels: Labels
    depth: Floats
    fissure: Floats
    jacobian: Floats


@dataclass(frozen=True)
class Subject:
    """Everything that is drawn before a voxel is."""

    shape: Shape
    motion: Motion
    tissue: Tissue
    territory: Territory
    trees: Trees
    ribs_rise: float
    samples: Samples
    completeness: dict[str, float]
    blocked: tuple[int, ...]  # branches of the arterial tree


def draw_subject(case: CaseSettings, seed: int) -> Subject:
    """One subject of a case."""
    drawn = draw_body(case, seed)
    shape, motion = drawn.shape, drawn.motion
    *_, physiology, trees, emboli = _streams(seed)
    samples = sample_lungs(shape, motion)
    cloud = sample_lungs(shape, motion, shake=trees)
    grown = grow_trees(
        cloud.points,
        cloud.labels,
        cloud.depth,
        cloud.fissure,
        np.array([hilum(shape, 0), hilum(shape, 1)]),
        np.array(carina(shape)),
        inside=lambda points: lobes_at(shape, motion, np.ascontiguousarray(points, float))[0],
        rng=trees,
    )
    territory = Territory.of(grown.arteries)
    tissue = _draw_tissue(case.physiology, samples, drawn.lesions, len(territory.branch), physiology)
    motion, tissue, blocked = _block(case, motion, tissue, territory, grown, emboli)
    if blocked:
        samples = sample_lungs(shape, motion)
    mean_flow = tissue_at(tissue, territory, samples)[:, 3].mean()
    tissue = tissue._replace(flow_scale=1 / mean_flow)
    if case.physiology.prune > 0:
        grown = _pruned(grown, tissue, territory, samples, case.physiology.prune)
    return Subject(
        shape, motion, tissue, territory, grown, drawn.ribs_rise, samples, drawn.completeness, blocked
    )


@dataclass(frozen=True)
class Body:
    """Outline, breath and lesions of a subject, before anything grows in it."""

    shape: Shape
    motion: Motion
    lesions: Sequence[_Lesion]
    ribs_rise: float
    completeness: dict[str, float]


def draw_body(case: CaseSettings, seed: int) -> Body:
    """The body of one subject of a case."""
    body, breath, fissures, disease, *_ = _streams(seed)
    shape = _with_fluid(case, draw_shape(case, body))
    ribs_rise = float(body.uniform(4, 9))
    motion = _draw_motion(case, shape, breath)
    motion, completeness = _with_fissures(case, shape, motion, fissures)
    motion, lesions = _draw_lesions(case, shape, motion, disease)
    return Body(shape, motion, lesions, ribs_rise, completeness)


def _streams(seed: int) -> list[np.random.Generator]:
    """Of body, breath, fissures, disease, physiology, trees and emboli."""
    return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(7)]


def _with_fluid(case: CaseSettings, shape: Shape) -> Shape:
    """Pleural fluid behind and below the lung of one side."""
    if not case.fluid:
        return shape
    return shape._replace(
        fluid_side=0 if case.fluid == "right" else 1, fluid_y=0.2 * shape.half_depth, fluid_slope=0.35
    )


def sample_lungs(
    shape: Shape, motion: Motion, step: float = SAMPLE_MM, shake: np.random.Generator | None = None
) -> Samples:
    """A grid of points in what holds air, shaken where a generator is given."""
    low = np.array([-shape.half_width, -shape.half_depth, shape.recess_z]) - 4.0
    high = np.array([shape.half_width, shape.half_depth * 1.2, shape.apex_z]) + 4.0
    axes = [np.arange(a, b, step) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    if shake is not None:
        points += shake.uniform(-0.4, 0.4, points.shape) * step
    labels, depth, fissure, jacobian = lobes_at(shape, motion, points)
    inside = labels > 0
    return Samples(points[inside], labels[inside], depth[inside], fissure[inside], jacobian[inside])


def _draw_motion(case: CaseSettings, shape: Shape, rng: np.random.Generator) -> Motion:
    breath = case.breath
    descent = rng.uniform(*breath.descent_mm) * (1 + 0.06 * rng.normal(size=2).clip(-2, 2))
    back = rng.uniform(0.09, 0.17)
    widen = np.full(2, rng.uniform(*breath.widen))
    deepen = np.full(2, rng.uniform(*breath.deepen))
    if case.collapsed == "left":
        descent[1], widen[1], deepen[1] = 3.0, 0.25 * widen[0], 0.2 * deepen[0]
    waves = []
    for count, length, sd in (
        (COARSE_WAVES, COARSE_MM, breath.coarse_mm),
        (FINE_WAVES, FINE_MM, breath.fine_mm),
    ):
        waves.append(
            np.vstack(
                [
                    random_waves(rng, count, rng.uniform(*length)),
                    rng.normal(size=(3, count)) * sd * np.sqrt(2 / count),
                ]
            )
        )
    sizes = (shape.apex_z + 4.0, shape.height, shape.midline, shape.spine_y + 10.0, 1.9 * shape.half_depth)
    return Motion(
        chest=np.concatenate([sizes, descent * (1 - back / 2), descent * back, widen, deepen]),
        waves=np.ascontiguousarray(np.concatenate(waves, axis=1)),
        bumps=np.zeros((0, 5)),
        # lungs without fissures, for the time being
        sheet=np.ones((3, 20)),
        gap=np.ones(3),
        gap_k=np.zeros((3, 2)),
        gap_phase=np.zeros(3),
        slide=np.zeros(3),
        airless=0,
        visible=case.visible,
    )


def _with_fissures(
    case: CaseSettings, shape: Shape, motion: Motion, rng: np.random.Generator
) -> tuple[Motion, dict[str, float]]:
    """Fissures of one person, such that the lobes have sizes that people's lobes have."""
    plain = shape.whole()
    whole = sample_lungs(plain, motion, 2 * SAMPLE_MM)
    moved = stretch_points(motion, whole.points)
    left = whole.points[:, 0] > shape.midline
    sides = [moved[~left], moved[left]]
    names = ("right_oblique", "left_oblique", "horizontal")
    boxes = (
        np.stack([s.min(axis=0) for s in sides]) - SAMPLE_MM,
        np.stack([s.max(axis=0) for s in sides]) + SAMPLE_MM,
    )
    ranges = np.array([VALID[n][0] for n in names]), np.array([VALID[n][1] for n in names])
    part = motion._replace(
        gap_k=rng.normal(size=(3, 2)) * 12,
        gap_phase=rng.uniform(0, 2 * np.pi, 3),
        slide=rng.uniform(*case.breath.slide_mm, 3) * np.array([-1, -1, 1]),
    )
    best, least = part, np.inf
    for _ in range(FISSURE_DRAWS):
        drawn = sample_fissures(rng)
        part = part._replace(sheet=sheet_of(*boxes, np.array([getattr(drawn, n) for n in names]), *ranges))
        labels, _, _, jacobian = lobes_at(plain, part, whole.points)
        volumes = np.bincount(labels, weights=jacobian, minlength=6)
        off = sum(
            max(low - volumes[anatomy.LOBES[name]] / volumes.sum(), 0)
            + max(volumes[anatomy.LOBES[name]] / volumes.sum() - high, 0)
            for name, (low, high) in LOBE_RANGES.items()
        )
        if off < least:
            best, least = part, off
        if off == 0:
            break
    part = best
    if case.collapsed in COLLAPSE_SHIFT:
        n, shift = COLLAPSE_SHIFT[case.collapsed]
        part.sheet[n, 10] += shift
        part = part._replace(airless=anatomy.LOBES[case.collapsed])
    wanted = rng.uniform(*case.completeness, 3)
    inside = sample_lungs(plain, part)
    which, near, value = gaps_at(part, inside.points)
    gap = np.full(3, np.inf)
    for n in range(3):
        # what lies within a few mm of a fissure is as much as its area
        on = (which == n) & (near < 3)
        gap[n] = _quantile(value[on], inside.jacobian[on], wanted[n])
    done = {name: float(share) for name, share in zip(names, wanted, strict=True)}
    return part._replace(gap=gap), done


def _quantile(values: Floats, weights: Floats, share: float) -> float:
    """The value below which a share of the weight lies; infinite for all of it."""
    if share >= 1 or values.size == 0:
        return np.inf
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, share * total[-1])])


@dataclass(frozen=True)
class _Lesion:
    """One diseased region as the tissue wants it."""

    disease: Disease
    at: Floats
    size: float
    flow: float
    blood: float
    dry: float
    added: float


def _draw_lesions(
    case: CaseSettings, shape: Shape, motion: Motion, rng: np.random.Generator
) -> tuple[Motion, list[_Lesion]]:
    """Where the diseases are, and the motion with what they hold back."""
    lesions: list[_Lesion] = []
    if not case.diseases:
        return motion, lesions
    samples = sample_lungs(shape, motion)
    points = samples.points
    height = (points[:, 2] - shape.recess_z) / shape.height
    back = (points[:, 1] - points[:, 1].min()) / np.ptp(points[:, 1])
    where = {
        "any": samples.depth < -4,
        "upper": height > 0.55,
        "lower": height < 0.5,
        "dependent": (back > 0.55) & (height < 0.7),
    }
    for disease in case.diseases:
        for _ in range(disease.count):
            size = rng.uniform(*disease.size_mm)
            at = np.array([0.0, 0.0, shape.recess_z + 0.5 * shape.height])
            if disease.form == "ball":
                at = _apart(points[where[disease.where]], size, lesions, rng)
                if disease.expansion is not None:
                    motion = _hold_back(motion, at, size, rng.uniform(*disease.expansion))
            elif disease.form == "band":
                at[0] = {"upper": 1.0, "lower": -1.0, "any": 0.0}[disease.where]
                size = 12.0
            elif disease.form == "rim":
                at[2] = shape.recess_z + 0.4 * shape.height
            else:
                size = float(anatomy.LOBES[disease.where])
            factors = [
                rng.uniform(*pair) for pair in (disease.flow, disease.blood, disease.dry, disease.added)
            ]
            lesions.append(_Lesion(disease, at, size, *factors))
    return motion, lesions


def _apart(points: Floats, size: float, lesions: Sequence[_Lesion], rng: np.random.Generator) -> Floats:
    """One of the points, away from the lesions there are as far as there is room."""
    others = [lesion for lesion in lesions if lesion.disease.form == "ball"]
    best, most = points[0], -np.inf
    for candidate in points[rng.integers(len(points), size=24)]:
        room = min((float(np.linalg.norm(candidate - o.at)) - size - o.size for o in others), default=0.0)
        if room > most:
            best, most = candidate, room
        if room >= 0:
            break
    return best


def _hold_back(motion: Motion, at: Floats, size: float, expansion: float, share: float = 1.0) -> Motion:
    """The motion with so much less expansion around a point that `J` is `expansion` (times `share`) there."""
    now = map_points(motion, at[None])[1][0]
    gain = 1 - (min(expansion, now) / now) ** (1 / 3) if share == 1.0 else 1 - share ** (1 / 3)
    if gain <= 0:
        return motion
    return motion._replace(bumps=np.vstack([motion.bumps, [*at, size, min(gain, 0.3)]]))


_KINDS = {
    "emphysema": kinds.EMPHYSEMA,
    "air-trapping": kinds.TRAPPING,
    "consolidation": kinds.CONSOLIDATION,
    "ground-glass": kinds.GROUND_GLASS,
    "fibrosis": kinds.FIBROSIS,
    "patchy-flow": kinds.PATCHY_FLOW,
}
_FORMS = {"ball": kinds.BALL, "band": kinds.BAND, "rim": kinds.RIM, "lobe": kinds.LOBE}
_TEXTURES = {
    "solid": kinds.SOLID,
    "holes": kinds.HOLES,
    "patches": kinds.PATCHES,
    "strands": kinds.STRANDS,
}


def _draw_tissue(
    physiology: Physiology,
    samples: Samples,
    lesions: Sequence[_Lesion],
    ends: int,
    rng: np.random.Generator,
) -> Tissue:
    flow = np.hstack([random_waves(rng, FLOW_WAVES, length) for length in physiology.flow_mm])
    flow = _all_as_strong(flow, physiology.flow_sd)
    dense = random_waves(rng, DENSE_WAVES, rng.uniform(8, 14))
    return Tissue(
        dry=vary(rng, 0.105, 0.07),
        blood=vary(rng, 0.125, 0.07),
        follow=rng.uniform(*physiology.follow),
        beta=rng.uniform(*physiology.beta),
        gamma=rng.uniform(*physiology.gamma),
        flip=float(physiology.flip),
        hypoxic=physiology.hypoxic,
        mean_gain=float(samples.jacobian.mean() - 1),
        middle_y=float(samples.points[:, 1].mean()),
        middle_z=float(samples.points[:, 2].mean()),
        gravity_dry=rng.uniform(*physiology.dry_per_cm) / 10,
        gravity_blood=rng.uniform(*physiology.blood_per_cm) / 10,
        gravity_flow=rng.uniform(*physiology.flow_per_cm) / 10 - _slope(flow, samples.points),
        flow_scale=1.0,
        flow_waves=flow,
        dense_waves=_all_as_strong(dense, DENSITY_SD),
        kind=np.array([_KINDS[n.disease.kind] for n in lesions], np.int64),
        form=np.array([_FORMS[n.disease.form] for n in lesions], np.int64),
        texture=np.array([_TEXTURES[n.disease.texture] for n in lesions], np.int64),
        at=np.array([n.at for n in lesions], float).reshape(-1, 3),
        size=np.array([n.size for n in lesions], float),
        grain=np.array([n.disease.grain_mm for n in lesions], float),
        share=np.array([n.disease.share for n in lesions], float),
        flow_factor=np.array([n.flow for n in lesions], float),
        blood_factor=np.array([n.blood for n in lesions], float),
        dry_factor=np.array([n.dry for n in lesions], float),
        added=np.array([n.added for n in lesions], float),
        blocked=False,
        leaf_flow=np.ones(ends),
        leaf_blood=np.ones(ends),
    )


def _all_as_strong(waves: Floats, sd: float) -> Floats:
    """Waves (5, n) of one amplitude, which together have a sd."""
    count = waves.shape[1]
    return np.vstack([waves, np.full(count, sd * np.sqrt(2 / count))])


def _slope(waves: Floats, points: Floats) -> float:
    """How much the sum of waves happens to rise towards the back over the points, per mm: not gravity's doing."""
    values = waves[4] @ np.sin(waves[:3].T @ points.T + waves[3][:, None])
    return float(np.polyfit(points[:, 1], values, 1)[0])


def _block(
    case: CaseSettings,
    motion: Motion,
    tissue: Tissue,
    territory: Territory,
    trees: Trees,
    rng: np.random.Generator,
) -> tuple[Motion, Tissue, tuple[int, ...]]:
    """Block arteries: flow and blood of exactly what they feed, and a little of its expansion."""
    emboli, arteries = case.emboli, trees.arteries
    chosen: list[int] = []
    for level in ("lobar", "segmental", "subsegmental"):
        count = getattr(emboli, level)
        if count:
            chosen += [int(b) for b in choose_emboli(arteries, rng, level, count, avoid=chosen)]
    if not chosen:
        return motion, tissue, ()
    flow, blood = np.ones(tissue.leaf_flow.size), np.full(tissue.leaf_blood.size, emboli.elsewhere)
    for branch in chosen:
        mine = arteries.subtree(branch)[territory.branch]
        flow[mine] = rng.uniform(*emboli.flow)
        blood[mine] = rng.uniform(*emboli.blood)
        at = arteries.ends[territory.branch[mine], 1]
        factor = rng.uniform(*emboli.expansion)
        if factor < 1:
            size = 0.7 * float(np.sqrt(at.var(axis=0).sum()))
            motion = _hold_back(motion, at.mean(axis=0), size, 0.0, share=factor)
    return motion, tissue._replace(blocked=True, leaf_flow=flow, leaf_blood=blood), tuple(chosen)


def _pruned(trees: Trees, tissue: Tissue, territory: Territory, samples: Samples, prune: float) -> Trees:
    """Arteries and veins thinner where disease took flow away: an end that lost all of it counts ``1 - prune``."""
    spared = tissue._replace(
        blocked=False, flow_factor=np.ones_like(tissue.flow_factor), leaf_flow=np.ones_like(tissue.leaf_flow)
    )
    flow, whole = (tissue_at(t, territory, samples)[:, 3] for t in (tissue, spared))
    left = np.minimum(flow / whole, 1.0)

    def thin(vessels: Tree) -> Tree:
        kept = np.ones(len(vessels))
        for lobe in np.unique(samples.labels):
            mine = samples.labels == lobe
            ends = np.flatnonzero(vessels.is_leaf & (vessels.lobe == lobe))
            if not len(ends):
                continue
            nearest = cKDTree(vessels.ends[ends, 1]).query(samples.points[mine])[1]
            count = np.bincount(nearest, minlength=len(ends))
            lost = np.bincount(nearest, 1 - left[mine], len(ends)) / np.maximum(count, 1)
            kept[ends] = 1 - prune * lost
        return thinned(vessels, kept)

    return trees._replace(arteries=thin(trees.arteries), veins=thin(trees.veins))


def tissue_at(tissue: Tissue, territory: Territory, samples: Samples) -> Floats:
    """Dry tissue, blood, blood gained, flow and disease at samples: (N, 5)."""
    return composition_at(tissue, territory, samples.points, samples.labels, -samples.depth, samples.jacobian)
