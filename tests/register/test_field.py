"""Fields on a mask: exact for straight lines, up to the edge and beyond."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter

from lungvq.register.descriptors import encode
from lungvq.register.field import (
    blur,
    compose,
    extrapolate,
    fit_affine,
    gaussian_mean,
    grown,
    halve_voxels,
    invert,
    jacobian,
    pull,
    smooth,
)
from lungvq.register.initialise import moments_map
from lungvq.register.quality import signed_distance
from lungvq.register.refine import local_correlation, pleura_distance

SHAPE = (24, 30, 27)


@pytest.fixture
def ball():
    k, j, i = np.indices(SHAPE)
    return (k - 12) ** 2 + (j - 14) ** 2 + (i - 13) ** 2 < 9**2


@pytest.fixture
def affine():
    k, j, i = np.indices(SHAPE).astype(np.float32)
    return np.stack([3 + 0.4 * k, 0.2 * j - 0.1 * k, 7 + 0.05 * i + 0.3 * j])


def test_blur_is_scipys_gaussian():
    image = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    expected = np.stack([gaussian_filter(c, 1.6, mode="constant", truncate=4 / 1.6) for c in image])
    np.testing.assert_allclose(blur(image, 1.6), expected, atol=1e-5)


def test_gaussian_mean_knows_nothing_of_what_lies_outside(ball):
    values = np.where(ball, 5.0, 1e6).astype(np.float32)
    np.testing.assert_allclose(gaussian_mean(values, ball, 2.0)[ball], 5, rtol=1e-5)


def test_affine_fields_survive_smoothing_and_continuation(ball, affine):
    hidden = np.where(ball, affine, np.float32(1e3))
    np.testing.assert_allclose(extrapolate(hidden, ball), affine, atol=2e-3)
    np.testing.assert_allclose(smooth(hidden, ball, 2.0), affine, atol=2e-3)
    constant, slope = fit_affine(hidden, ball)
    np.testing.assert_allclose(constant, [3, 0, 7], atol=0.02)
    np.testing.assert_allclose(slope, [[0.4, 0, 0], [-0.1, 0.2, 0], [0, 0.3, 0.05]], atol=1e-3)


def test_the_first_voxels_outside_continue_a_bend_along_its_tangent(ball):
    k = np.indices(SHAPE)[0].astype(np.float32)
    bend = np.stack([0.02 * (k - 12) ** 2] * 3)  # slope 0.36 at the poles
    found = extrapolate(np.where(ball, bend, np.float32(0)), ball)
    assert abs(found[0, 21, 14, 13] - bend[0, 21, 14, 13]) < 0.17  # a constant would be 0.34 off


def test_compose_invert_and_pull(affine):
    small = 0.2 * (affine - affine.mean(axis=(1, 2, 3), keepdims=True))
    there_and_back = compose(small, invert(small))
    centre = (slice(None), *[slice(8, 16)] * 3)
    np.testing.assert_allclose(there_and_back[centre], 0, atol=1e-2)
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(1, *SHAPE)
    step = np.zeros((3, *SHAPE), np.float32)
    step[1] = 2
    np.testing.assert_allclose(pull(image, step, False, -1.0)[0, :, :-2], image[0, :, 2:])
    assert (pull(image, step, False, -1.0)[0, :, -1] == -1).all()


def test_jacobian_of_a_linear_stretch():
    k, j, i = np.indices((6, 7, 8)).astype(np.float32)
    np.testing.assert_allclose(jacobian(np.stack([0.1 * k, 0.2 * j, 0.4 * i])), 1.1 * 1.2 * 1.4, rtol=1e-5)
    sheared = np.stack([0.5 * j, np.zeros_like(k), np.zeros_like(k)])
    np.testing.assert_allclose(jacobian(sheared), 1, rtol=1e-5)


def test_moments_map_of_a_stretched_box():
    a, b = np.zeros((40, 40, 40), np.float32), np.zeros((60, 60, 60), np.float32)
    a[10:30, 10:22, 5:15] = 1
    b[15:45, 12:30, 20:35] = 1  # 1.5 times on every axis
    scale, shift = moments_map(a, b)
    np.testing.assert_allclose(scale, 1.5, rtol=0.01)
    np.testing.assert_allclose(scale * [19.5, 15.5, 9.5] + shift, [29.5, 20.5, 27], atol=1e-9)


def test_distances_to_the_pleura(ball):
    k, j, i = np.indices(SHAPE)
    radius = np.sqrt((k - 12) ** 2 + (j - 14) ** 2 + (i - 13) ** 2)
    near = np.abs(radius - 9) < 1.2
    assert np.abs(pleura_distance(ball.astype(np.float32)) - (radius - 9))[near].mean() < 0.25
    assert np.abs(signed_distance(ball, 2.0) / 2 - (radius - 9))[near].mean() < 0.5


def test_codes_do_not_see_density(ball):
    image = gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), 1.0).astype(np.float32) * 300 - 700
    image = np.where(ball, image, np.float32(-600))
    code = encode(image, ball)
    assert np.bitwise_count(code ^ encode(0.5 * image + 100, ball)).max() <= 2
    other = np.bitwise_count(code ^ np.roll(code, 5, axis=0))
    assert other[ball].mean() > 8


def test_local_correlation_is_one_for_scaled_images_and_none_for_strangers(ball):
    rng = np.random.default_rng(2)
    a, b = (gaussian_filter(rng.normal(size=SHAPE), 1.0).astype(np.float32) * 2000 - 700 for _ in range(2))
    same = local_correlation(a, 0.4 * a - 100, ball)
    assert np.isnan(same[~ball]).all()
    assert np.nanmean(same) > 0.98
    assert np.nanmean(local_correlation(a, b, ball)) < 0.3


@pytest.mark.parametrize("kind", ["linear", "cubic", "spline"])
def test_halved_voxels_lie_a_quarter_to_each_side(kind):
    line = np.arange(12, dtype=np.float32) * 3 + 1
    image = np.broadcast_to(line[:, None], (12, 4))
    halved = halve_voxels(np.ascontiguousarray(image), 0, kind)
    assert halved.shape == (24, 4)
    where = (np.arange(24) - 0.5) / 2
    inner = slice(8, -8)  # splines mirror at the ends
    np.testing.assert_allclose(halved[inner, 2], (where * 3 + 1)[inner], atol=0.05)


def test_splines_keep_more_of_fine_detail_than_lines():
    place = np.arange(60)
    truth = lambda x: np.sin(2 * np.pi * x / 4)  # noqa: E731
    wave = truth(place).astype(np.float32)
    inner = slice(12, -12)
    where = (np.arange(120) - 0.5) / 2
    errors = [
        np.abs(halve_voxels(wave, 0, kind) - truth(where))[inner].max()
        for kind in ("linear", "cubic", "spline")
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_mask_grows_as_by_binary_dilation(times):
    mask = np.random.default_rng(2).random((7, 9, 8)) > 0.97
    mask[0, 0, 0] = True
    before = mask.copy()
    expected = binary_dilation(mask, iterations=times) if times else mask
    np.testing.assert_array_equal(grown(mask, times), expected)
    np.testing.assert_array_equal(mask, before)
