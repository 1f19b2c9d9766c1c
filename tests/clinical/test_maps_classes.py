"""V/Q and PRM classes: every corner, every tie."""

import numpy as np
import pytest
from scipy.ndimage import median_filter

from lungvq.clinical.prm import median_3x3, prm_class
from lungvq.clinical.vq import relative_to_mean, vq_class, vq_log2


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


def test_median_agrees_with_scipy_inside_and_leaves_the_rest():
    rng = np.random.default_rng(2)
    image = rng.integers(-1000, 100, (4, 11, 13)).astype(np.int16)
    mask = rng.random(image.shape) < 0.5
    found = median_3x3(image, mask)
    reference = median_filter(image, size=(1, 3, 3))
    inner = np.zeros_like(mask)
    inner[:, 1:-1, 1:-1] = True
    assert (found[mask & inner] == reference[mask & inner]).all()
    assert (found[~mask] == image[~mask]).all()
