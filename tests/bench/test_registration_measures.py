"""The measures of a registration on motion that is known in closed form, and on errors put there on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from lungvq.anatomy import LEFT, RIGHT
from lungvq.bench import registration as bench
from lungvq.bench.registration import (
    TruePair,
    depth_mm,
    jacobian_error,
    measure,
    plan,
    report,
    shells,
    spread,
)
from lungvq.phantom import CASES
from lungvq.register import Registration, RegistrationQuality
from lungvq.register.quality import Evidence
from lungvq.register.quality import measure as quality_of
from lungvq.volume import Volume

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]]  # (k, j, i) to (x, y, z), 2 mm
SHAPE = (40, 44, 60)
STRETCH = np.array([0.1, 0.2, 0.4])


def volume(array):
    return Volume(np.ascontiguousarray(array), AFFINE)


@pytest.fixture(scope="module")
def lungs():
    """Two bricks, 20 voxels wide, 4 apart."""
    array = np.zeros(SHAPE, np.uint8)
    array[6:-6, 6:-6, 8:28] = RIGHT
    array[6:-6, 6:-6, 32:52] = LEFT
    return volume(array)


@pytest.fixture(scope="module")
def pair(lungs):
    """A lung that stretches unequally along x, y and z."""
    inside = lungs.array > 0
    points = lungs.grid.world(np.argwhere(inside))
    scan = volume(np.zeros(SHAPE, np.int16))
    start = points[:: len(points) // 50]
    return TruePair(
        fixed=scan,
        moving=scan,
        fixed_lungs=lungs,
        moving_lungs=lungs,
        given_fixed=lungs,
        given_moving=lungs,
        motion=STRETCH * points,
        jacobian=np.full(len(points), np.prod(1 + STRETCH)),
        landmarks=np.stack([start, start * (1 + STRETCH)], axis=1),
    )


def registration(lungs, motion, jacobian):
    """What a registration that found `motion` (K, J, I, 3) and `jacobian` would hand over."""
    evidence = {}
    for name, label in (("left", LEFT), ("right", RIGHT)):
        mask = lungs.array == label
        one = np.ones(SHAPE, np.float32)
        moving_ml = float(jacobian[mask].sum()) * lungs.voxel_ml / 1.01
        evidence[name] = Evidence(
            mask=mask,
            warped_mask=mask,
            surface_mm=np.zeros(10, np.float32),
            surface_height=np.linspace(0, 1, 10, dtype=np.float32),
            expected_error=one,
            jacobian=jacobian,
            before=one,
            after=one,
            motion_mm=one,
            voxel_ml=lungs.voxel_ml,
            volume_moving_ml=moving_ml,
        )
    quality = RegistrationQuality(
        quality_of(list(evidence.values())), {n: quality_of([e]) for n, e in evidence.items()}
    )
    inside = np.where(lungs.array > 0, jacobian, np.nan).astype(np.float32)
    image = volume(np.zeros(SHAPE, np.float32))
    return Registration(
        displacement=volume(motion.astype(np.float32)),
        lungs=lungs,
        jacobian=volume(inside),
        jacobian_raw=volume(inside),
        jacobian_se=image,
        expected_error=image,
        confidence=image,
        quality=quality,
    )


def everywhere(lungs):
    points = lungs.grid.world(np.argwhere(np.ones(SHAPE, bool)))
    return (STRETCH * points).reshape(*SHAPE, 3), np.full(SHAPE, np.prod(1 + STRETCH), np.float32)


def test_the_truth_has_no_error(pair, lungs):
    values = measure(pair, registration(lungs, *everywhere(lungs)))
    errors = [v for k, v in values.items() if k.startswith(("tre_", "dense_", "shell_", "jacobian_rms"))]
    assert np.nanmax(errors) < 1e-3
    assert values["folded_percent"] == 0
    assert values["closure_left"] == pytest.approx(1.0, abs=1e-3)
    assert values["motion_max"] == pytest.approx(np.linalg.norm(pair.motion, axis=1).max())


def test_a_shift_is_an_error_of_its_length_everywhere(pair, lungs):
    motion, jacobian = everywhere(lungs)
    values = measure(pair, registration(lungs, motion + np.array([1.0, 2.0, -2.0]), jacobian))
    for name in ("tre_mean", "tre_median", "tre_max", "dense_mean", "dense_p95", "shell_0-3", "shell_6-10"):
        assert values[name] == pytest.approx(3.0, abs=1e-3)


def test_an_error_near_the_pleura_shows_in_its_shell_alone(pair, lungs):
    motion, jacobian = everywhere(lungs)
    depth = depth_mm(lungs)
    motion[(depth < 3) & (lungs.array > 0)] += np.array([0, 5.0, 0])
    values = measure(pair, registration(lungs, motion, jacobian))
    assert values["shell_0-3"] == pytest.approx(5.0, abs=1e-3)
    assert values["shell_3-6"] == pytest.approx(0, abs=1e-3)
    assert values["dense_median"] == pytest.approx(0, abs=1e-3)
    assert values["dense_max"] == pytest.approx(5.0, abs=1e-3)


def test_folds_are_a_share_of_the_lung(pair, lungs):
    motion, jacobian = everywhere(lungs)
    inside = np.argwhere(lungs.array > 0)
    jacobian[tuple(inside[: len(inside) // 4].T)] = -0.1
    assert measure(pair, registration(lungs, motion, jacobian))["folded_percent"] == pytest.approx(
        25, abs=0.01
    )


def test_what_a_registration_does_not_reach_counts_as_unmoved(pair, lungs):
    motion, jacobian = everywhere(lungs)
    motion[:10] = np.nan
    values = measure(pair, registration(lungs, motion, jacobian))
    assert np.isfinite(values["dense_mean"])
    assert values["dense_max"] > 10


def test_depth_grows_from_each_lungs_own_surface(lungs):
    depth = depth_mm(lungs)
    assert (depth[lungs.array == 0] == 0).all()
    np.testing.assert_allclose(
        depth[20, 22, 8:13], [1, 3, 5, 7, 9]
    )  # centres, from a wall on the voxels' faces
    np.testing.assert_allclose(depth[20, 22, 32:35], [1, 3, 5])
    touching = lungs.like(
        np.where(np.arange(SHAPE[2]) < 30, RIGHT, LEFT).astype(np.uint8) * np.ones(SHAPE, np.uint8)
    )
    assert depth_mm(touching)[20, 22, 29] == 1  # the other lung is no part of this one


def test_shells_and_spread_of_a_few_numbers():
    found = shells(np.array([1.0, 3.0, 10.0]), np.array([0.5, 2.9, 25.0]))
    assert found["0-3"] == 2
    assert found[">20"] == 10
    assert np.isnan(found["3-6"])
    assert spread(np.array([1.0, 2.0, 9.0])) == {
        "mean": 4.0,
        "median": 2.0,
        "p95": pytest.approx(8.3),
        "max": 9.0,
    }
    assert spread(np.zeros(0)) == {}


def test_jacobian_error_of_scaled_and_of_noisy_maps(lungs):
    inside = lungs.array > 0
    points = lungs.grid.world(np.argwhere(inside))
    truth = 1.5 + 0.3 * np.sin(points[:, 2] / 15)
    r, rms = jacobian_error(1.1 * truth, truth, lungs, 5.0)
    assert r == pytest.approx(1, abs=1e-5)
    assert rms == pytest.approx(10, rel=0.05)  # 10 % of the mean, and of what varies about it
    noisy = truth + np.random.default_rng(0).normal(0, 0.3, len(truth))
    (r5, rms5), (r10, rms10) = (jacobian_error(noisy, truth, lungs, s) for s in (5.0, 10.0))
    assert rms10 < rms5 < 20 / 3  # averaging takes away noise of 20 %
    assert r10 > r5 > 0.9
    # White noise of sd s on voxels of h keeps s / sqrt(8) (h / (sqrt(pi) sigma))^(3/2) of itself deep in a lung,
    # and more near its walls, where fewer voxels are averaged.
    deep = 20 * (2 / (2 * np.sqrt(np.pi) * 5)) ** 1.5
    assert deep < rms5 < 2.5 * deep


def test_a_smooth_field_is_kept_up_to_the_wall(lungs):
    """Smoothing within the lung does not see what is outside it."""
    ones = np.ones(int((lungs.array > 0).sum()))
    _, rms = jacobian_error(ones, ones, lungs, 10.0)
    assert rms < 1e-4


def test_a_slab_is_missing_on_the_right_alone(lungs):
    found = bench.without_slab(lungs)
    gone = (lungs.array > 0) & (found.array == 0)
    assert set(lungs.array[gone]) == {RIGHT}
    assert np.ptp(np.argwhere(gone)[:, 2]) + 1 == 14 / 2


def test_the_plan_is_the_same_again_and_its_names_are_unique():
    assert plan(4) == plan(4)
    assert [s.seed for s in plan(4)] != [s.seed for s in plan(5)]
    names = [spec.name for spec in plan()]
    assert len(set(names)) == len(names) == 25
    assert sum(spec.peers for spec in plan()) == 6
    assert [spec.peers for spec in plan()] == [True] * 6 + [False] * 19
    assert {spec.kind for spec in plan()} | {"real texture"} == set(bench.LIMITS)
    assert all(isinstance(s.case, bench.CaseSettings) or s.case in CASES for s in plan())


def test_a_pair_comes_back_from_its_file(pair, tmp_path):
    bench.save_pair(pair, tmp_path / "pair.npz")
    back = bench.load_pair(tmp_path / "pair.npz")
    np.testing.assert_array_equal(back.motion, pair.motion)
    np.testing.assert_array_equal(back.given_fixed.array, pair.given_fixed.array)
    assert back.fixed.grid.same_as(pair.fixed.grid)


def test_the_truth_of_a_displaced_phantom():
    spec = next(s for s in plan() if s.name == "offset-40mm")
    far = bench.make_pair(spec, 8.0)
    offset = np.array(spec.offset_mm)
    assert np.linalg.norm(offset) == pytest.approx(40, abs=0.2)
    # Where the truth says a voxel goes, there is lung.
    labels = far.moving_lungs.like((far.moving_lungs.array > 0).astype(np.float32))
    assert labels.sample(far.points + far.motion, fill=0.0).mean() > 0.85
    landmark = far.landmarks[:, 1] - far.landmarks[:, 0] - offset
    assert np.abs(landmark).max() < 120


def rows(**errors):
    """Rows of one pair, whose errors are all the same number, by method."""
    names = ["folded_percent", "wall_s", "cpu_s", "peak_gb"]
    names += [name for _, name, _ in bench._COLUMNS if name.startswith(("tre", "dense", "shell", "jacobian"))]
    made = []
    for method, value in errors.items():
        values = dict.fromkeys(names, value) | {"jacobian_r_5": 1 - value, "jacobian_r_10": 1 - value}
        values |= {"folded_percent": 0.0, "closure_left": 0.5, "closure_right": -0.7}
        made.append(
            {
                "pair": "one",
                "kind": "smooth",
                "method": method.replace("_", " "),
                "values": values,
                "notes": [],
            }
        )
    return made


def test_the_report_passes_and_fails_and_names_the_best_greedy():
    text = report(rows(lungvq=0.01, **{"greedy 2vox 1vox": 0.05, "greedy 3vox 1vox": 0.04}))
    assert "| pass" in text
    assert "Best of greedy on this set: greedy 3vox 1vox" in text
    assert "more accurate on every row, and 4.0 times as fast" in text
    assert "-0.70" in text
    text = report(rows(lungvq=0.5, **{"greedy 2vox 1vox": 0.05}))
    assert "fail: dense_mean, jacobian_r_5" in text
    assert "on every row but" in text


def test_a_motion_of_our_making_is_its_own_truth():
    k, j, i = np.indices((70, 60, 80))
    array = np.zeros((70, 60, 80), np.uint8)
    for label, middle in ((RIGHT, 22), (LEFT, 58)):
        array[((k - 35) / 30) ** 2 + ((j - 30) / 22) ** 2 + ((i - middle) / 15) ** 2 < 1] = label
    affine = np.diag([3.0, 3.0, 3.0, 1.0])[[2, 1, 0, 3]]
    scan = Volume(np.where(array > 0, -850 + 300 * (i % 7 == 0), 30).astype(np.int16), affine)
    pair = bench.known_motion_pair(scan, Volume(array, affine))
    for label in (RIGHT, LEFT):  # phi takes each lung onto itself: J adds up to its volume
        here = (pair.fixed_lungs.array == label)[pair.fixed_lungs.array > 0]
        assert pair.jacobian[here].sum() == pytest.approx((array == label).sum(), rel=0.01)
    assert pair.jacobian.min() > 0.3
    image = np.full((*array.shape, 3), np.nan)
    image[pair.fixed_lungs.array > 0] = pair.motion
    gradient = np.stack(
        [np.gradient(image, 3.0, axis=axis) for axis in (2, 1, 0)], axis=-1
    )  # d/dx, d/dy, d/dz
    exact = np.full(array.shape, np.nan)
    exact[pair.fixed_lungs.array > 0] = pair.jacobian
    known = np.isfinite(gradient).all(axis=(-1, -2))
    assert known.sum() > 0.7 * len(pair.motion)
    np.testing.assert_allclose(np.linalg.det(gradient[known] + np.eye(3)), exact[known], atol=0.1)
    moved = pair.landmarks[:, 1] - pair.landmarks[:, 0]
    assert 5 < np.linalg.norm(moved, axis=1).max() < 60
