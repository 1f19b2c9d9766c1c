"""Airways drawn as tubes: found, measured and named; a hole in a wall floods nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from lungvq.anatomy import LEFT, LOBES, RIGHT
from lungvq.segment.airways import Trachea, follow_bronchi
from lungvq.segment.tree import build_tree, label_lobes
from lungvq.volume import Volume

# name: (parent's end, end, diameter in mm); LPS mm, the carina at the origin
POINTS = {
    "top": (0, 0, 45),
    "carina": (0, 0, 0),
    "left": (34, 2, -20),
    "right": (-20, 0, -11),
    "between": (-30, 2, -34),
    "LUL": (52, -14, -4),
    "LLL": (44, 20, -44),
    "RUL": (-40, -6, 10),
    "RML": (-44, -22, -42),
    "RLL": (-40, 18, -54),
}
STEMS = {
    ("top", "carina"): 15.0,
    ("carina", "left"): 11.0,
    ("carina", "right"): 12.0,
    ("right", "between"): 10.0,
    ("left", "LUL"): 7.0,
    ("left", "LLL"): 7.5,
    ("right", "RUL"): 7.0,
    ("between", "RML"): 5.5,
    ("between", "RLL"): 7.5,
}
SEGMENTS = {
    "LUL": ((56, -36, -2), (60, -8, 22)),
    "LLL": ((52, 34, -72), (66, 12, -66)),
    "RUL": ((-60, -20, 14), (-50, 10, 30)),
    "RML": ((-64, -32, -46), (-46, -44, -58)),
    "RLL": ((-46, 34, -80), (-62, 8, -76)),
}
SEGMENT_MM = 4.0
SPACING = (1.0, 0.8, 0.9)
LOW, HIGH = np.array([-90.0, -62.0, -100.0]), np.array([90.0, 62.0, 52.0])  # x, y, z


def tubes():
    stems = [(POINTS[a], POINTS[b], d, b) for (a, b), d in STEMS.items()]
    return stems + [(POINTS[lobe], end, SEGMENT_MM, lobe) for lobe, ends in SEGMENTS.items() for end in ends]


def off_axis(grids, start, stop):
    """Distance of each voxel to a line from start to stop, mm."""
    start, axis = np.array(start, float), np.subtract(stop, start).astype(float)
    away = [g - s for g, s in zip(grids, start, strict=True)]
    share = sum(a * b for a, b in zip(away, axis, strict=True)) / (axis @ axis)
    share = np.clip(share, 0, 1)
    return np.sqrt(sum((a - share * b) ** 2 for a, b in zip(away, axis, strict=True)))


@pytest.fixture(scope="module")
def chest():
    """HU, lungs, and the true lumen; the wall of an airway of the left lower lobe has a hole of 3 mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(SPACING) * np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    affine[:3, 3] = LOW
    size = np.ceil((HIGH - LOW) / SPACING[::-1]).astype(int)[::-1]
    z, y, x = (low + s * np.arange(n) for low, s, n in zip(LOW[::-1], SPACING, size, strict=True))
    grids = x[None, None, :], y[None, :, None], z[:, None, None]
    lungs = np.zeros(size, np.uint8)
    for label, sign in ((LEFT, 1), (RIGHT, -1)):
        inside = sum(
            ((g - c) / r) ** 2 for g, c, r in zip(grids, (sign * 50, 0, -28), (38, 58, 68), strict=True)
        )
        lungs[inside < 1] = label
    lumen, wall = np.zeros(size, bool), np.zeros(size, bool)
    for start, stop, diameter, _ in tubes():
        reach = diameter / 2 + 2
        ends = np.array([start, stop], float)[:, ::-1]
        first = np.maximum((ends.min(axis=0) - reach - LOW[::-1]) / SPACING, 0).astype(int)
        last = ((ends.max(axis=0) + reach - LOW[::-1]) / SPACING).astype(int) + 1
        k, j, i = (slice(f, n) for f, n in zip(first, last, strict=True))
        off = off_axis((grids[0][:, :, i], grids[1][:, j], grids[2][k]), start, stop)
        lumen[k, j, i] |= off < diameter / 2
        wall[k, j, i] |= off < diameter / 2 + 1.2
    wall &= ~lumen
    hole = sum((g - c) ** 2 for g, c in zip(grids, (50.0, 29.0, -60.0), strict=True)) < 4.0**2
    hu = np.where(lungs > 0, -880.0, 40.0)
    hu[wall & ~hole] = 20.0
    hu[lumen] = -1000.0
    hu = ndimage.gaussian_filter(hu.astype(np.float32), [0.5 / s for s in SPACING])
    hu += np.random.default_rng(0).normal(0, 12, hu.shape)
    ct = Volume(np.rint(hu).astype(np.int16), affine)
    return ct, ct.like(lungs * ~(lumen | wall)), ct.like(lumen)


@pytest.fixture(scope="module")
def airways(chest):
    ct, lungs, _ = chest
    trachea = Trachea(np.array([[0.0, 0.0, z] for z in (42, 30, 18, 6)]), -1000.0)
    return follow_bronchi(ct, lungs.array, trachea)


@pytest.fixture(scope="module")
def bronchi(chest, airways):
    tree = build_tree(airways, np.array([0.0, 0.0, 42.0]), resolution_mm=1.0)
    return label_lobes(tree, chest[1])


def test_every_airway_is_found_and_nothing_else(airways, chest):
    for start, stop, _, name in tubes():
        line = start + np.linspace(0.1, 0.9, 20)[:, None] * np.subtract(stop, start)
        assert airways.like(airways.array.astype(np.float32)).sample(line).mean() > 0.8, name
    ct, lungs, lumen = chest
    found = airways.like(airways.array.view(np.uint8)).resample_labels(ct.grid).array > 0
    beyond = found & ~ndimage.binary_dilation(lumen.array, iterations=2)
    assert beyond.sum() < 0.0005 * (lungs.array > 0).sum()


def test_branches_have_the_lengths_and_diameters_they_were_drawn_with(bronchi):
    named = {b.name: b for b in bronchi.tree.branches if b.name}
    true = {"LMB": ("carina", "left"), "RMB": ("carina", "right"), "BI": ("right", "between")}
    true |= {
        lobe: ("left" if lobe[0] == "L" else "right" if lobe == "RUL" else "between", lobe) for lobe in LOBES
    }
    for name, ends in true.items():
        length = float(np.linalg.norm(np.subtract(POINTS[ends[1]], POINTS[ends[0]])))
        assert named[name].length_mm == pytest.approx(length, abs=6.0), name
        assert named[name].diameter_mm == pytest.approx(STEMS[ends], rel=0.15), name
    assert [b.generation for b in bronchi.tree.branches].count(0) == 1
    assert max(b.generation for b in bronchi.tree.branches) == 4  # right lower segments
    assert len(bronchi.tree) == len(tubes())


def test_every_lobe_gets_its_own_airways(bronchi):
    assert not bronchi.missing
    for lobe, points in bronchi.points.items():
        own = [off_axis(points.T, a, b) for a, b, _, name in tubes() if name == lobe]
        assert np.min(own, axis=0).max() < 3.0, lobe
    table = bronchi.tree.table()
    assert set(table.loc[table.lobe == "RML", "generation"]) == {3, 4}
    assert table.loc[table.name == "trachea", "parent"].isna().all()
    assert bronchi.tree.carina_mm == pytest.approx(np.zeros(3), abs=7.5)  # the lumen parts below the axes


def test_a_lobe_without_airways_is_missing_not_made_up(bronchi, chest):
    tree = bronchi.tree
    kept = [n for n, b in enumerate(tree.branches) if b.lobe != "RML"]
    index = {n: k for k, n in enumerate(kept)}
    pruned = type(tree)(
        tuple(replace(tree.branches[n], parent=index.get(tree.branches[n].parent, -1)) for n in kept)
    )
    named = label_lobes(pruned, chest[1])
    assert named.missing == ("RML",)
    for lobe in set(LOBES) - {"RML"}:
        assert len(named.points[lobe]) >= len(bronchi.points[lobe]), lobe


def test_what_leads_into_the_other_lung_is_no_bronchus(bronchi, chest):
    tree = bronchi.tree
    fork = next(b for b in tree.branches if b.name == "LLL")
    recess = np.linspace((-22, 6, -36), (-22, 14, -76), 22)  # in the right lung
    points = np.concatenate([fork.points[:1], recess])
    leak = replace(fork, points=points, area_mm2=20.0, diameter_mm=5.0, lobe="unknown", name="")
    named = label_lobes(replace(tree, branches=(*tree.branches, leak)), chest[1])
    assert named.tree.branches[-1].lobe == "unknown"
    assert {lobe: len(p) for lobe, p in named.points.items()} == {
        lobe: len(p) for lobe, p in bronchi.points.items()
    }


def test_a_loop_is_cut_and_a_bulge_is_no_branch():
    z, y, x = np.meshgrid(*(np.arange(60.0),) * 3, indexing="ij")
    grids = x, y, z
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    stem = off_axis(grids, (30, 30, 58), (30, 30, 40)) < 4
    bulge = off_axis(grids, (30, 30, 50), (36, 30, 50)) < 2
    ring = np.any(
        [
            off_axis(grids, a, b) < 2.5
            for a, b in (
                ((30, 30, 40), (15, 30, 25)),
                ((30, 30, 40), (45, 30, 25)),
                ((15, 30, 25), (30, 30, 8)),
                ((45, 30, 25), (30, 30, 8)),
            )
        ],
        axis=0,
    )
    tree = build_tree(Volume(stem | bulge | ring, affine), np.array([30.0, 30.0, 58.0]), resolution_mm=1.0)
    assert [b.parent for b in tree.branches] == [-1, 0, 0]
    assert (
        build_tree(Volume(np.zeros((4, 4, 4), bool), affine), np.zeros(3), resolution_mm=1.0).branches == ()
    )
