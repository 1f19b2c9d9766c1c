"""The outline of the chest: sizes like people's, distances that are distances, nothing torn or touching."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from scipy import ndimage

from lungvq.phantom import CASES
from lungvq.phantom.chest import draw_shape
from lungvq.phantom.shape import (
    AIR,
    FLUID,
    aorta,
    body_hu,
    cage,
    carina,
    hilum,
    in_air,
    lung,
    spine_at,
    torso,
    ventricles,
)

STEP = 4.0
PEOPLE = 50


@numba.njit(parallel=True)
def _lungs(c, points):
    """Distances to the right and the left lung."""
    out = np.empty((points.shape[0], 2))
    for n in numba.prange(points.shape[0]):
        for side in range(2):
            out[n, side] = lung(c, side, points[n, 0], points[n, 1], points[n, 2])
    return out


@numba.njit(parallel=True)
def _body(c, points):
    """HU outside the lungs, and the distance to the chest wall."""
    hu, wall = np.empty(points.shape[0]), np.empty(points.shape[0])
    for n in numba.prange(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        wall[n] = cage(c, x, y, z)
        hu[n] = body_hu(c, wall[n], torso(c, x, y, z), x, y, z, x, y, z)
    return hu, wall


@numba.njit
def _organs(c, points):
    """Distances to the ventricles and to the aorta."""
    out = np.empty((points.shape[0], 2))
    for n in range(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        out[n, 0] = ventricles(c, x - c.heart_x, y - c.heart_y, z - c.heart_z)
        out[n, 1] = aorta(c, x, y, z)
    return out


def person(seed, case="healthy"):
    return draw_shape(CASES[case], np.random.default_rng(seed))


def grid(c, step=STEP):
    """Points around the lungs, shape (K, J, I, 3)."""
    z = np.arange(c.recess_z - 6, c.apex_z + 6, step)
    y = np.arange(-c.half_depth - 6, c.half_depth + 6, step)
    x = np.arange(-c.half_width - 6, c.half_width + 6, step)
    return np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], axis=-1)


def masks(c, step=STEP):
    """Right and left lung on that grid."""
    points = grid(c, step)
    d = _lungs(c, points.reshape(-1, 3)).reshape(*points.shape[:3], 2)
    left = points[..., 0] > c.midline
    return points, (d[..., 0] < 0) & ~left, (d[..., 1] < 0) & left


@pytest.fixture(scope="module")
def people():
    """Sizes of fifty chests."""
    rows = []
    for seed in range(PEOPLE):
        c = person(seed)
        points, *lungs = masks(c)
        volumes = [m.sum() * STEP**3 / 1e6 for m in lungs]
        parts = [ndimage.label(m)[1] for m in lungs]
        holes = [(ndimage.binary_fill_holes(m) & ~m).sum() for m in lungs]
        boxes = [np.ptp(points[m], axis=0) + STEP for m in lungs]
        tops = [c.apex_z - points[m][:, 2].max() for m in lungs]
        rows.append((c, volumes, parts, holes, boxes, tops))
    return rows


def test_lungs_are_as_large_as_peoples(people):
    total = np.array([sum(volumes) for _, volumes, *_ in people])
    woman = np.array([c.breast > 0 for c, *_ in people])
    assert 0.3 < woman.mean() < 0.7
    assert total.min() > 1.6
    assert total.max() < 3.4
    assert 0.15 < 1 - total[woman].mean() / total[~woman].mean() < 0.33  # 20 to 25 % less in women


def test_the_right_lung_is_a_little_larger(people):
    share = np.array([v[0] / sum(v) for _, v, *_ in people])
    assert share.min() > 0.50
    assert share.max() < 0.58
    assert 0.525 < share.mean() < 0.55


def test_each_lung_is_one_piece_without_holes(people):
    for _, _, parts, holes, _, _ in people:
        assert parts == [1, 1]
        assert holes == [0, 0]


def test_boxes_of_the_lungs(people):
    """Those published at inspiration, less what a breath adds to each axis."""
    boxes = np.array([b for *_, b, _ in people])
    low, high = (90, 118, 150), (140, 180, 230)
    assert (boxes.min(axis=(0, 1)) > low).all()
    assert (boxes.max(axis=(0, 1)) < high).all()
    assert boxes.mean(axis=(0, 1)) == pytest.approx([113, 148, 186], rel=0.06)


def test_apices_reach_the_top(people):
    assert max(max(tops) for *_, tops in people) < 8


def test_lungs_stay_off_the_midline():
    """2 mm between them at the least."""
    for seed in range(PEOPLE):
        c = person(seed)
        points = grid(c)[:, :, 0].reshape(-1, 3)
        points[:, 0] = c.midline
        assert _lungs(c, points).min() > 1.0


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_distances_are_distances_near_the_surface(seed):
    c = person(seed)
    rng = np.random.default_rng(seed)
    points = grid(c).reshape(-1, 3)
    points = points + rng.uniform(-STEP / 2, STEP / 2, points.shape)
    for side in range(2):
        here = points[(points[:, 0] > c.midline) == (side == 1)]
        near = here[np.abs(_lungs(c, here)[:, side]) < 1.0]
        e = 0.02
        slope = np.stack(
            [
                (_lungs(c, near + e * d)[:, side] - _lungs(c, near - e * d)[:, side]) / (2 * e)
                for d in np.eye(3)
            ]
        )
        size = np.linalg.norm(slope, axis=0)
        assert len(size) > 1000
        # the rest are the edge of the recess and the tip of the apex, where two faces meet
        assert np.mean((size > 0.8) & (size < 1.25)) > 0.96
        assert np.mean((size > 0.95) & (size < 1.05)) > 0.85
        assert size.mean() == pytest.approx(1, abs=0.03)


def test_what_the_ramp_of_partial_volume_holds_is_the_volume():
    """Voxels of 8 mm that ramp over the distance add up to what small voxels count."""
    c = person(5)
    fine = sum(m.sum() for m in masks(c, 2.0)[1:]) * 2.0**3
    points = grid(c, 8.0)
    d = _lungs(c, points.reshape(-1, 3))
    left = points.reshape(-1, 3)[:, 0] > c.midline
    coarse = np.clip(0.5 - np.where(left, d[:, 1], d[:, 0]) / 8.0, 0, 1).sum() * 8.0**3
    assert coarse == pytest.approx(fine, rel=0.015)


def test_heart_and_great_vessels_lie_between_the_lungs():
    for seed in range(10):
        c = person(seed)
        for point in (carina(c), hilum(c, 0), hilum(c, 1)):
            assert cage(c, *point) < -5
            assert min(lung(c, side, *point) for side in range(2)) > 2
        points = grid(c).reshape(-1, 3)
        hu, wall = _body(c, points)
        heart = _organs(c, points)[:, 0] < 0
        assert wall[heart].max() < 1
        assert heart.sum() * STEP**3 > 200e3
        assert np.all(hu[heart & (wall < 0)] < 100)


def test_aorta_is_a_cylinder_of_blood():
    for seed in range(10):
        c = person(seed)
        assert 24 <= 2 * c.aorta_radius <= 32
        assert 35 <= c.blood_hu <= 50
        points = grid(c, 3.0).reshape(-1, 3)
        points = points[_organs(c, points)[:, 1] < -1]
        points = points[(points[:, 2] > c.recess_z) & (points[:, 1] > spine_at(c, c.arch_z) - 40)]
        assert np.ptp(points[:, 2]) > 100
        assert np.all(_body(c, points)[0] == c.blood_hu)
        assert _lungs(c, points).min() > 0


def test_fluid_lies_behind_its_level():
    c = person(1)
    level = 0.4 * c.half_depth
    wet = c._replace(fluid_side=0, fluid_y=level)
    points, right, left = masks(c)
    _, wet_right, wet_left = masks(wet)
    assert np.array_equal(left, wet_left)
    lost = right & ~wet_right
    assert 0.05 < lost.sum() / right.sum() < 0.5
    assert points[lost][:, 1].min() > level - 4
    assert not wet_right[points[..., 1] > level].any()
    behind = right & (points[..., 1] > level + 1)
    assert np.all(_body(wet, points[behind])[0] == FLUID)


def test_a_collapsed_lung_keeps_a_ball():
    c = person(0, "collapsed-left")
    _, right, left = masks(c)
    assert 0.02 < left.sum() * STEP**3 / 1e6 < 0.2
    _, whole_right, whole_left = masks(c.whole())
    assert np.array_equal(right, whole_right)
    assert whole_left.sum() > 5 * left.sum()


def test_what_is_told_to_be_air_without_asking_is_air():
    c = draw_shape(CASES["healthy"], np.random.default_rng(1))
    rng = np.random.default_rng(3)
    points = rng.uniform([-240, -190, -40], [240, 190, 260], (4000, 3))
    skipped = np.array([in_air(c, torso(c, *p), p[1]) for p in points])
    assert 0.2 < skipped.mean() < 0.7
    assert (_body(c, points[skipped])[0] == AIR).all()


def test_the_body_has_what_a_body_has():
    c = person(2)
    x = np.arange(-c.half_width - 100, c.half_width + 100, 3.0)
    y = np.arange(-c.half_depth - 80, c.half_depth + 80, 3.0)
    z = np.arange(c.recess_z - 30, c.apex_z + 30, 3.0)
    points = np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1)
    hu, wall = _body(c, points.reshape(-1, 3))
    hu, wall = hu.reshape(points.shape[:3]), wall.reshape(points.shape[:3])
    assert hu.min() == -1000
    assert hu.max() < 700
    assert np.all(hu[0] == -1000)  # air all around
    assert np.all(hu[:, 0] == -1000)
    outside = ndimage.label(hu == -1000)[1]
    assert outside == 1  # and none inside
    bone = (hu > 300).sum() * 0.027
    assert 300 < bone < 1500  # mL
    assert np.abs(hu - hu[::-1])[wall > 0].mean() < 60  # bones and muscles are alike on both sides
