"""V/Q and PRM classes: every corner, every tie."""

import numpy as np
import pytest
from scipy import ndimage

from lungvq.clinical.prm import median_filter, prm_class, prm_map
from lungvq.clinical.vq import (
    SWEEP,
    classes_of_joint,
    joint_histogram,
    log_sd,
    relative_to_mean,
    sweep_mean,
    vq_class,
    vq_log2,
)
from lungvq.hu import Calibration


def test_classes_at_and_about_the_threshold():
    v = np.array([0.6, 0.6, 0.599, 0.599, 0.6])
    q = np.array([0.6, 0.599, 0.6, 0.599, np.nan])
    assert vq_class(v, q).tolist() == [1, 2, 3, 4, 0]


def test_means_are_over_the_same_voxels():
    v, q = np.array([1.0, 3.0, 100.0, np.nan]), np.array([4.0, 4.0, np.nan, 100.0])
    rv, rq = relative_to_mean(v, q)
    assert rv[:2] == pytest.approx([0.5, 1.5])
    assert rq[:2] == pytest.approx([1, 1])
    assert np.isnan(rv[2:]).all()
    assert np.isnan(rq[2:]).all()


def test_without_a_positive_mean_nothing_is_said():
    v, q = relative_to_mean(np.array([-1.0, 0.5]), np.array([1.0, 1.0]))
    assert np.isnan(v).all()
    assert np.isnan(q).all()
    assert vq_class(v, q).tolist() == [0, 0]


def test_log_ratio_is_symmetric_and_floored():
    assert vq_log2(np.array([2.0, 0.5, -3.0]), np.array([1.0, 1.0, 1.0])) == pytest.approx(
        [1, -1, np.log2(0.05)]
    )


def test_prm_ties_are_disease_and_the_window_is_kept():
    insp = np.array([-949, -950, -949, -950, -1001, -850, -700])
    exp = np.array([-855, -856, -856, -855, -900, -499, -501])
    assert prm_class(insp, exp).tolist() == [1, 3, 2, 4, 0, 0, 1]


@pytest.mark.parametrize("depth", [1, 3])
def test_median_agrees_with_scipy_inside_and_leaves_the_rest(depth):
    rng = np.random.default_rng(2)
    image = rng.integers(-1000, 100, (5, 11, 13)).astype(np.int16)
    mask = rng.random(image.shape) < 0.5
    found = median_filter(image, mask, depth)
    reference = ndimage.median_filter(image, size=(depth, 3, 3), mode="nearest")
    assert found.dtype == np.int16
    assert (found[mask] == reference[mask]).all()
    assert (found[~mask] == image[~mask]).all()


@pytest.mark.parametrize("depth", [1, 3])
def test_prm_map_agrees_with_the_rules_read_out_voxel_by_voxel(depth):
    """Values crowd about the thresholds and the window's ends, so that every tie occurs."""
    rng = np.random.default_rng(7)
    edges = np.array([-1001, -1000, -999, -951, -950, -949, -857, -856, -855, -501, -500, -499])
    shape = (4, 9, 8)
    insp, exp = (rng.choice(edges, shape).astype(np.int16) for _ in range(2))
    # A slow change beneath the noise, so that medians, too, take every value.
    insp += np.linspace(-60, 60, shape[2]).astype(np.int16)
    inside = rng.random(shape) < 0.8
    shift = Calibration(offset=3.0)
    found = prm_map(insp, exp, inside, shift, Calibration(), depth=depth)
    reach = depth // 2
    seen = set()
    for k, j, i in np.ndindex(shape):
        expected = 0
        if inside[k, j, i]:
            window = [
                (min(max(a, 0), shape[0] - 1), min(max(b, 0), shape[1] - 1), min(max(c, 0), shape[2] - 1))
                for a in range(k - reach, k + reach + 1)
                for b in (j - 1, j, j + 1)
                for c in (i - 1, i, i + 1)
            ]
            hu_i = sorted(int(insp[at]) for at in window)[len(window) // 2] + 3
            hu_e = sorted(int(exp[at]) for at in window)[len(window) // 2]
            if -1000 <= hu_i <= -500 and -1000 <= hu_e <= -500:
                if hu_i > -950:
                    expected = 1 if hu_e > -856 else 2
                else:
                    expected = 3 if hu_e <= -856 else 4
        seen.add(expected)
        assert found[k, j, i] == expected
    assert seen == {0, 1, 2, 3, 4}


def test_classes_of_the_joint_table_are_those_of_the_map_at_every_threshold():
    rng = np.random.default_rng(3)
    v, q = (
        rng.choice([0.2, 0.4, 0.55, 0.6, 0.65, 0.8, 1.5, np.nan], 500).astype(np.float32) for _ in range(2)
    )
    joint = joint_histogram(v, q, SWEEP)
    for at, threshold in enumerate(SWEEP, start=1):
        counts = np.bincount(vq_class(v, q, np.float32(threshold)), minlength=5)[1:]
        shares = classes_of_joint(joint, at)
        assert [shares[n] for n in ("normal", "dead_space", "shunt", "matched_defect")] == pytest.approx(
            list(100 * counts / counts.sum())
        )
        assert shares["abnormal"] == pytest.approx(100 - shares["normal"])


def test_the_sweep_is_the_area_over_its_range():
    assert sweep_mean([20.0] * len(SWEEP)) == pytest.approx(20)
    assert sweep_mean([100 * t for t in SWEEP]) == pytest.approx(60)


def test_spread_of_the_log_ratio_by_hand():
    ratio = np.log(np.array([0.5, 1.0, 2.0, np.nan]))
    weights = np.array([1.0, 2.0, 1.0, 5.0])
    assert log_sd(ratio, weights) == pytest.approx(np.log(2) * np.sqrt(0.5))
    assert np.isnan(log_sd(ratio, np.zeros(4)))
