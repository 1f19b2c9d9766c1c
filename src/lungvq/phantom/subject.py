"""Drawing one subject: anatomy, breath and tissue from a case and a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lungvq.phantom.cases import CaseSettings
from lungvq.phantom.chest import draw_shape, vary
from lungvq.phantom.lobes import lobes_at
from lungvq.phantom.motion import Motion, map_points, random_waves, stretch_points
from lungvq.phantom.shape import Shape
from lungvq.phantom.tissue import Tissue, composition_at
from lungvq.phantom.tree import fill, grow

Floats = NDArray[np.float64]

WAVES = 20
SAMPLE_MM = 4.0
VESSEL_STEP_MM = 8.0
AIRWAY_STEP_MM = 20.0
VESSEL_END_MM, VESSEL_POWER = 0.40, 0.33  # radius of the last branch; of one with n ends: times n^power
AIRWAY_END_MM, AIRWAY_POWER = 0.75, 0.30


@dataclass(frozen=True)
class Tubes:
    """Branches at expiration: ends (B, 2, 3) in LPS mm, radii (B,) in mm, the lobe each stays in (0: any)."""

    ends: Floats
    radius: Floats
    lobe: NDArray[np.int64]


def join(parts: Sequence[Tubes]) -> Tubes:
    """All branches of several sets."""
    return Tubes(
        np.concatenate([p.ends for p in parts]),
        np.concatenate([p.radius for p in parts]),
        np.concatenate([p.lobe for p in parts]),
    )


@dataclass(frozen=True)
class Subject:
    """Everything that is drawn before a voxel is."""

    shape: Shape
    motion: Motion
    tissue: Tissue
    vessels: Tubes
    airways: Tubes
    ribs_rise: float
    samples: Floats  # (N, 3) points of the lungs at expiration, on a grid of SAMPLE_MM
    sample_lobes: NDArray[np.uint8]


def draw_subject(case: CaseSettings, rng: np.random.Generator) -> Subject:
    """One subject of a case."""
    shape, motion, points, labels = draw_body(case, rng)
    motion, tissue = _draw_tissue(case, shape, motion, points, labels, rng)
    vessels, airways = _draw_trees(shape, motion, rng)
    return Subject(shape, motion, tissue, vessels, airways, float(rng.uniform(4, 9)), points, labels)


def draw_body(
    case: CaseSettings, rng: np.random.Generator
) -> tuple[Shape, Motion, Floats, NDArray[np.uint8]]:
    """Outline and breath of a subject, and a grid of points in the lungs with their lobes."""
    shape = draw_shape(case, rng)
    motion = _draw_motion(case, shape, rng)
    shape = _with_boxes(shape, motion)
    points = _fill_box(shape)
    labels = lobes_at(shape, motion, points)[0]
    return shape, motion, points[labels > 0], labels[labels > 0]


def _fill_box(shape: Shape) -> Floats:
    """A grid of points over the box of both lungs at expiration."""
    low, high = _lung_box(shape)
    axes = [np.arange(a, b, SAMPLE_MM) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _lung_box(shape: Shape) -> tuple[Floats, Floats]:
    low = np.array([-shape.half_width, -shape.half_depth, shape.recess_z]) - 4.0
    high = np.array([shape.half_width, shape.half_depth * 1.2, shape.apex_z]) + 4.0
    return low, high


def _draw_motion(case: CaseSettings, shape: Shape, rng: np.random.Generator) -> Motion:
    descent = rng.uniform(*case.descent_mm) * (1 + 0.06 * rng.normal(size=2).clip(-2, 2))
    back = rng.uniform(0.2, 0.4)
    widen = np.full(2, rng.uniform(*case.widen))
    deepen = np.full(2, rng.uniform(*case.deepen))
    if case.collapsed_left:
        descent[1], widen[1], deepen[1] = 3.0, 0.25 * widen[0], 0.2 * deepen[0]
    wave_k, wave_phase = random_waves(rng, WAVES, rng.uniform(18, 26))
    amp = rng.normal(size=(WAVES, 3)) * case.ripple_mm * np.sqrt(2 / WAVES)
    return Motion(
        apex_z=shape.apex_z + 4.0,
        height=shape.height,
        middle_x=shape.midline,
        back_y=shape.spine_y + 10.0,
        depth_ap=1.9 * shape.half_depth,
        depth=descent * (1 - back / 2),
        depth_back=descent * back,
        widen=widen,
        deepen=deepen,
        wave_k=wave_k,
        wave_phase=wave_phase,
        wave_amp=amp,
        bump_at=np.zeros((0, 3)),
        bump_sigma=np.zeros(0),
        bump_gain=np.zeros(0),
    )


def _with_boxes(shape: Shape, motion: Motion) -> Shape:
    """The boxes of the stretched lungs, in which the fissures are given."""
    whole = shape._replace(remnant=np.zeros((2, 4)))
    points = _fill_box(shape)
    inside = points[lobes_at(whole, motion, points)[0] > 0]
    moved = stretch_points(motion, inside)
    left = inside[:, 0] > shape.midline
    sides = [moved[~left], moved[left]]
    return shape._replace(
        lung_low=np.stack([s.min(axis=0) for s in sides]) - SAMPLE_MM / 2,
        lung_high=np.stack([s.max(axis=0) for s in sides]) + SAMPLE_MM / 2,
    )


def _draw_tissue(
    case: CaseSettings,
    shape: Shape,
    motion: Motion,
    points: Floats,
    labels: NDArray[np.uint8],
    rng: np.random.Generator,
) -> tuple[Motion, Tissue]:
    """Tissue and its defects, and the motion with what the defects hold back."""
    rows: list[tuple[Floats, Floats, float, float, float, float]] = []
    bumps: list[tuple[Floats, float, float]] = []

    def pick(where: NDArray[np.bool_]) -> Floats:
        return points[where][rng.integers(int(where.sum()))]

    height = (points[:, 2] - shape.recess_z) / shape.height
    for _ in range(case.emphysema):
        at, radius = pick(height > 0.55), rng.uniform(16, 34)
        severity = rng.uniform(0.25, 0.5)
        rows.append((at, np.zeros(3), radius, rng.uniform(0.2, 0.5), severity, severity))
        bumps.append((at, radius, rng.uniform(0.03, 0.08)))
    for _ in range(case.trapping):
        at, radius = pick(height < 0.8), rng.uniform(18, 32)
        rows.append((at, np.zeros(3), radius, rng.uniform(0.5, 0.9), 0.8, 0.75))
        bumps.append((at, radius, rng.uniform(0.14, 0.2)))
    for n in range(case.emboli):
        side = -1.0 if n % 2 else 1.0
        hilum = _hilum(shape, side)
        target = pick(
            (np.abs(points[:, 0] - shape.midline) > 70) & ((points[:, 0] > shape.midline) == (side > 0))
        )
        axis = (target - hilum) / np.linalg.norm(target - hilum)
        rows.append(
            (hilum, axis, rng.uniform(0.25, 0.4), rng.uniform(0.05, 0.15), rng.uniform(0.65, 0.9), 1.0)
        )

    flow_k, flow_phase = random_waves(rng, WAVES, rng.uniform(12, 20))
    dense_k, dense_phase = random_waves(rng, WAVES, rng.uniform(8, 14))
    column = [[row[n] for row in rows] for n in range(6)]
    tissue = Tissue(
        dry=vary(rng, 0.105, 0.08),
        blood=vary(rng, 0.125, 0.08),
        follow=rng.uniform(*case.follow),
        gain=rng.uniform(*case.gain),
        flip=float(case.flip),
        middle_y=float(points[:, 1].mean()),
        middle_z=float(points[:, 2].mean()),
        gravity_density=rng.uniform(0.0018, 0.0032),
        gravity_flow=rng.uniform(0.002, 0.0045),
        flow_scale=1.0,
        flow_k=flow_k,
        flow_phase=flow_phase,
        flow_amp=case.flow_sd,
        dense_k=dense_k,
        dense_phase=dense_phase,
        dense_amp=0.07,
        at=np.array(column[0], float).reshape(-1, 3),
        axis=np.array(column[1], float).reshape(-1, 3),
        size=np.array(column[2], float),
        flow_factor=np.array(column[3], float),
        blood_factor=np.array(column[4], float),
        dry_factor=np.array(column[5], float),
    )
    tissue = tissue._replace(flow_scale=1 / composition_at(tissue, points)[:, 3].mean())
    motion = motion._replace(
        bump_at=np.array([b[0] for b in bumps], float).reshape(-1, 3),
        bump_sigma=np.array([b[1] for b in bumps], float),
        bump_gain=np.array([b[2] for b in bumps], float),
    )
    return motion, tissue


def _hilum(shape: Shape, side: float) -> Floats:
    return np.array(
        [shape.midline + side * (shape.waist + 2), 4.0, shape.heart[2] + 0.75 * shape.heart_radius[2]]
    )


def _draw_trees(shape: Shape, motion: Motion, rng: np.random.Generator) -> tuple[Tubes, Tubes]:
    vessels: list[Tubes] = []
    airways: list[Tubes] = []
    carina = np.array([shape.midline * 0.6, 8.0, _hilum(shape, 1)[2] + 22.0])
    trachea = np.array([carina, carina + np.array([0, -14.0, 180.0])])
    airways.append(Tubes(trachea[None], np.array([8.0]), np.array([0])))
    for side in (-1.0, 1.0):
        root = _hilum(shape, side)
        airways.append(Tubes(np.stack([carina, root])[None], np.array([6.0]), np.array([0])))
    low, high = _lung_box(shape)
    for step, radius, power, out, copies in (
        (VESSEL_STEP_MM, VESSEL_END_MM, VESSEL_POWER, vessels, 2),
        (AIRWAY_STEP_MM, AIRWAY_END_MM, AIRWAY_POWER, airways, 1),
    ):
        for copy in range(copies):
            seeds = fill(low, high, step, rng)
            labels, pleura, fissure = lobes_at(shape, motion, seeds)
            room = (pleura < -2.5) & (fissure > 2.0)
            for label in range(1, 6):
                mine = seeds[(labels == label) & room]
                if len(mine) < 3:
                    continue
                root = _hilum(shape, 1.0 if label < 3 else -1.0) + np.array([0, 5.0 * copy, -6.0 * copy])
                branches, ends = grow(mine, root)
                thick = radius * ends.astype(float) ** power
                out.append(Tubes(branches, thick, np.full(len(ends), label)))
    return join(vessels), join(airways)


def at_inspiration(tubes: Tubes, motion: Motion, excess: Floats) -> tuple[Floats, Floats]:
    """Where branches are after the breath, and how thick: each keeps its mass above what surrounds it.

    Parameters
    ----------
    excess : ndarray, shape (B,)
        Density above the surroundings at inspiration, relative to expiration.
    """
    ends = map_points(motion, tubes.ends.reshape(-1, 3))[0].reshape(-1, 2, 3)
    before = np.linalg.norm(np.diff(tubes.ends, axis=1)[:, 0], axis=1)
    after = np.linalg.norm(np.diff(ends, axis=1)[:, 0], axis=1)
    return ends, tubes.radius * np.sqrt(np.maximum(before, 1e-6) / np.maximum(after, 1e-6) / excess)
