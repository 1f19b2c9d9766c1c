"""The scanner of the phantom, against what Fourier and counting say."""

import numpy as np
import pytest

from lungvq.errors import UsageError
from lungvq.phantom.scanner import KERNELS, Scanner, expose, noise_sd
from lungvq.volume import Grid

QUIET = Scanner(noise_hu=0)


def grid_of(shape, spacing):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[3, 3] = 1
    return Grid(shape, affine)


def scan(hu, spacing, scanner, seed=0):
    hu = np.array(hu, np.float32)
    return expose(hu, grid_of(hu.shape, spacing), scanner, np.random.default_rng(seed)).array


def chest(shape=(24, 120, 150)):
    """Air around a body with two lungs, off centre; a light couch below."""
    hu = np.full(shape, -1000.0, np.float32)
    _, rows, columns = shape
    hu[:, rows // 8 : -rows // 5, columns // 10 : -columns // 8] = 30
    for left, right in ((0.18, 0.42), (0.55, 0.8)):
        hu[2:-2, rows // 4 : -rows // 3, int(left * columns) : int(right * columns)] = -800
    hu[:, -rows // 12 :] = -880
    return hu


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("spacing", [(0.8, 0.7, 0.6), (2.5, 1.2, 1.9)])
def test_the_mean_is_kept(kernel, spacing):
    rng = np.random.default_rng(3)
    body = rng.uniform(-900, 300, (21, 77, 91)).astype(np.float32)
    body[:, 30:60, 20:70] -= 60
    scanner = Scanner(kernel=kernel, thickness=1.5 * spacing[0], noise_hu=4, unevenness=1, motion_blur=3)
    assert scan(body, spacing, scanner).mean() == pytest.approx(body.mean(dtype=float), abs=0.05)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("spacing", "unevenness"), [((1.5, 1.5, 1.5), 0), ((2.5, 0.9, 1.3), 1.0), ((3, 3, 3), 0.3)]
)
def test_noise_in_lung_is_as_stated(kernel, spacing, unevenness):
    body = chest()
    scanner = Scanner(kernel=kernel, noise_hu=15, unevenness=unevenness)
    clean = scan(body, spacing, Scanner(kernel=kernel, noise_hu=0))
    error = scan(body, spacing, scanner).astype(float) - clean
    lung = body == -800
    rms = np.sqrt((error[lung] ** 2).mean() - 1 / 6)  # two roundings
    assert rms == pytest.approx(noise_sd(scanner, spacing), rel=0.03)


def test_noise_scales_with_thickness_and_pixel():
    assert noise_sd(Scanner(noise_hu=20), (1.5, 1.5, 1.5)) == pytest.approx(20)
    assert noise_sd(Scanner(noise_hu=20, thickness=6), (1.5, 1.5, 1.5)) == pytest.approx(10)
    # wide pixels: sd^2 ~ width^-3; narrow ones: the kernel alone decides
    wide = noise_sd(Scanner(), (1, 8, 8)) / noise_sd(Scanner(), (1, 16, 16))
    assert wide == pytest.approx(2**1.5, rel=0.12)
    narrow = noise_sd(Scanner(), (1, 0.1, 0.1)) / noise_sd(Scanner(), (1, 0.2, 0.2))
    assert narrow == pytest.approx(1, abs=0.02)
    sharp = noise_sd(Scanner(kernel="sharp"), (1, 0.7, 0.7)) / noise_sd(Scanner(), (1, 0.7, 0.7))
    assert 2 < sharp < 3


@pytest.mark.parametrize("kernel", KERNELS)
def test_noise_has_the_spectrum_of_filtered_back_projection(kernel):
    pixel, shape = 0.7, (64, 128, 128)
    noise = scan(np.full(shape, 0.0), (1, pixel, pixel), Scanner(kernel=kernel, unevenness=0)).astype(float)
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(128, pixel), np.fft.fftfreq(128, pixel)))
    bands = [power[(f >= a) & (f < a + 0.05)].mean() for a in np.arange(0.01, 0.5, 0.05)]
    middle = np.arange(0.01, 0.5, 0.05) + 0.025
    expected = middle * KERNELS[kernel].mtf(middle) ** 2 * np.sinc(middle * pixel / 1.2) ** 2
    assert bands[0] < 0.4 * max(bands)  # the deficit at low frequency
    assert np.corrcoef(bands, expected)[0, 1] > 0.97


def test_breath_holds_and_slices_have_their_own_noise():
    flat = np.full((20, 60, 60), 0.0)
    first, again, second = (scan(flat, (1, 1, 1), Scanner(), seed).astype(float) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02
    neighbours = np.corrcoef(first[1:].ravel(), first[:-1].ravel())[0, 1]
    assert 0.1 < neighbours < 0.25
    thick = scan(flat, (1, 1, 1), Scanner(thickness=3)).astype(float)
    assert np.corrcoef(thick[1:].ravel(), thick[:-1].ravel())[0, 1] > 0.6


def test_more_noise_through_the_shoulders_and_the_middle():
    body = chest((32, 120, 150))
    body[24:, 10:-30, 5:-5] = 30  # shoulders: more of the section is tissue
    scanner = Scanner(unevenness=1)
    error = scan(body, (3, 3, 3), scanner).astype(float) - scan(body, (3, 3, 3), QUIET)
    assert error[26:, 40:60, 60:90].std() > 1.2 * error[4:20, 40:60, 60:90].std()
    assert error[4:20, 45:65, 65:85].std() > 1.2 * error[4:20, 16:26, 16:30].std()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_point_shows_the_transfer_function(kernel):
    body = np.full((1, 129, 129), 0.0)
    body[0, 64, 64] = 3000
    seen = scan(body, (1, 0.4, 0.4), Scanner(kernel=kernel, noise_hu=0))[0]
    line = seen.sum(axis=0) / 3000
    f = np.array([0.1, 0.3, 0.5, 0.7])
    x = 0.4 * (np.arange(129) - 64)
    measured = (line * np.cos(2 * np.pi * f[:, None] * x)).sum(axis=1)
    np.testing.assert_allclose(measured, KERNELS[kernel].mtf(f), atol=0.02)


def test_only_enhancing_kernels_overshoot():
    body = np.full((1, 60, 60), -900.0)
    body[:, :, 30:] = 0
    assert scan(body, (1, 0.6, 0.6), QUIET).max() <= 0
    assert scan(body, (1, 0.6, 0.6), Scanner(kernel="sharp", noise_hu=0)).max() > 60


@pytest.mark.parametrize(("thickness", "step"), [(2.0, 1.0), (5.0, 1.0), (3.0, 2.0)])
def test_slices_are_as_thick_as_asked(thickness, step):
    body = np.full((61, 6, 6), 0.0)
    body[30] = 3000
    taps = scan(body, (step, 2, 2), Scanner(thickness=thickness, noise_hu=0))[:, 3, 3] / 3000
    z = step * (np.arange(61) - 30.0)
    sd = np.sqrt((taps * z**2).sum())
    # a voxel is a box as wide as the step; smear it with what was measured, and read the width
    fine = np.linspace(-12, 12, 2401)
    box = (np.abs(fine) < step / 2).astype(float)
    curve = np.convolve(box, np.exp(-0.5 * (fine / sd) ** 2), mode="same")
    assert (curve > curve.max() / 2).sum() * 0.01 == pytest.approx(thickness, rel=0.02)


def test_scale_field_of_view_and_limits():
    body = np.full((3, 41, 51), -800.0)
    body[:, :5], body[:, -5:] = -1000, 9000
    seen = scan(body, (1, 2, 2), Scanner(noise_hu=0, gain=1.02, offset_hu=-7))
    assert seen[1, 20, 25] == round(1.02 * 200 - 1000 - 7)
    assert (seen.max(), seen.min()) == (3071, -1007)
    seen = scan(body, (1, 2, 2), Scanner(noise_hu=0, field_of_view=60, padding=-2000))
    outside = (
        np.hypot(*np.meshgrid(2.0 * (np.arange(41) - 20), 2.0 * (np.arange(51) - 25), indexing="ij")) > 30
    )
    assert (seen[:, outside] == -2000).all()
    assert (seen[:, ~outside] > -2000).all()


def test_motion_blurs_the_base_and_leaves_the_apex():
    body = chest((60, 60, 70))
    body[::2] += 40
    seen = scan(body, (1, 2, 2), Scanner(noise_hu=0, motion_blur=2.5)).astype(float)
    column = seen[:, 25, 20]
    assert np.abs(np.diff(column[40:55])).min() > 38
    assert np.abs(np.diff(column[8:14])).max() < 8


def test_stacks_move_but_the_first():
    body = chest((40, 60, 70))
    still = scan(body, (2, 2, 2), QUIET)
    moved = scan(body, (2, 2, 2), Scanner(noise_hu=0, stack_shift=4, stack_height=30))
    np.testing.assert_array_equal(moved[:15], still[:15])
    for first in (15, 30):
        assert (np.abs(moved[first : first + 10].astype(int) - still[first : first + 10]) > 200).mean() > 0.01


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"kernel": "bone"}, "bone"),
        ({"noise_hu": -1}, "noise_hu"),
        ({"gain": 0}, "gain"),
        ({"thickness": 0}, "thickness"),
        ({"motion_blur": np.nan}, "motion_blur"),
    ],
)
def test_impossible_scanners_are_refused(settings, word):
    with pytest.raises(UsageError, match=word):
        Scanner(**settings)


def test_slices_thinner_than_their_spacing_are_refused():
    with pytest.raises(UsageError, match="2 mm apart"):
        scan(np.zeros((4, 8, 8)), (2, 1, 1), Scanner(thickness=1))
