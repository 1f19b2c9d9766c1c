"""Sharpness told by noise: on an even chest as two kernels and two doses show it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from lungvq.breath import Breath
from lungvq.ctp import RegionalMagnitude
from lungvq.hu import Calibration, calibrate_hu, density
from lungvq.maps import _noise_floor
from lungvq.match import alike, carry_inspiration, equally_sharp, on_one_basis, one_scale
from lungvq.pair import LungTotals
from lungvq.phantom.scanner import Scanner, expose
from lungvq.sharpness import blurred_within, matching_blur, sharpness
from lungvq.volume import Grid, Volume
from lungvq.wall import lung_hu


def chest(kernel, noise_hu, *, pixel=0.8, slices=1.0, seed=0):
    """A body of blood with two lungs of one density, and its lungs."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, pixel], [0, pixel, 0], [slices, 0, 0]])
    grid = Grid((int(16 / slices), int(160 / pixel), int(200 / pixel)), affine)
    y, x = np.meshgrid(*(pixel * np.arange(n) for n in grid.shape[1:]), indexing="ij")
    hu = np.full(grid.shape, -1000, np.float32)
    hu[:, np.hypot((x - 100) / 95, (y - 80) / 75) < 1] = 45
    labels = np.zeros(grid.shape, np.uint8)
    for label, middle in ((2, 50), (1, 150)):
        labels[:, np.hypot((x - middle) / 35, (y - 80) / 50) < 1] = label
    hu[labels > 0] = -780
    scanner = Scanner(kernel=kernel, thickness=slices, noise_hu=noise_hu)
    scan = expose(hu, grid, scanner, np.random.default_rng(seed))
    return scan, scan.like(labels)


@pytest.fixture(scope="module")
def soft():
    return chest("soft", 12.0, seed=1)


@pytest.fixture(scope="module")
def sharp():
    return chest("sharp", 12.0, seed=2)


def test_dose_does_not_pass_for_sharpness(soft):
    noisy = chest("soft", 36.0, seed=3)
    assert sharpness(*noisy) == pytest.approx(sharpness(*soft), rel=0.08)
    assert matching_blur(soft, noisy) == ((0, 0, 0), (0, 0, 0))


def test_the_sharper_scan_is_smoothed_until_both_are_alike(soft, sharp):
    assert sharpness(*sharp) > 1.4 * sharpness(*soft)
    of_soft, of_sharp = matching_blur(soft, sharp)
    assert of_soft == (0, 0, 0)
    assert of_sharp[0] == 0
    assert 0.3 < of_sharp[1] == of_sharp[2] < 0.7
    scan, lungs = sharp
    inside = lungs.array > 0
    smooth = blurred_within(scan.array, inside, (0.0, of_sharp[1] / 0.8, of_sharp[2] / 0.8))
    assert smooth[inside].mean() == pytest.approx(scan.array[inside].mean(), abs=1.0)
    deep = np.zeros_like(inside)
    deep[:, 80:120, 45:80] = True
    assert smooth[deep].std() < 0.65 * scan.array[deep].std()
    assert (smooth[~inside] == scan.array[~inside]).all()


def test_scans_of_unlike_sharpness_are_told_and_alike_ones_pass(soft, sharp):
    def held(role, scan, mm):
        ct, lungs = scan
        facts = SimpleNamespace(facts={"slice_thickness_mm": mm})
        anatomy = SimpleNamespace(lungs=lungs)
        return Breath(role, facts, ct, ct.grid, anatomy, None, Calibration(), None)

    insp, exp, finding = alike(held("inspiration", soft, 1.0), held("expiration", sharp, 1.0))
    assert (finding.code, finding.severity) == ("SHARPNESS_MISMATCH", "WARN")
    assert "expiration" in finding.message
    assert insp.blur_mm == (0, 0, 0) != exp.blur_mm
    # A sharp kernel moves mass from beneath the pleura into the chest wall: free of wall both weigh the same.
    same, raw = (float(density(ct.array[lungs.array == 1]).mean()) for ct, lungs in (soft, sharp))
    assert raw < 0.99 * same
    weights = [lung_hu(b, (2.0, 2.0, 2.0), 1.0).held["left"].mass_g for b in (insp, exp)]
    assert weights[1] == pytest.approx(weights[0], rel=0.25 * (1 - raw / same))
    thick, _, finding = alike(held("inspiration", soft, 1.0), held("expiration", soft, 4.0))
    assert (finding.severity, finding.value) == ("WARN", round(thick.blur_mm[0], 2))
    assert f"the inspiration scan was smoothed by {thick.blur_mm[0]:.2f} mm across them" in finding.message
    _, _, finding = alike(held("inspiration", soft, 4.0), held("expiration", soft, 4.0))
    assert finding.severity == "PASS"


@pytest.mark.parametrize(
    ("air", "shared"), [((-990.0, -1004.0), True), ((-990.0, -1015.0), False), ((-990.0, None), False)]
)
def test_two_reconstructions_of_one_breath_have_one_scale(soft, air, shared):
    ct, lungs = soft

    def held(role, air_hu):
        seen = SimpleNamespace(air_hu=air_hu, blood_hu=45.0)
        scale = calibrate_hu(air_hu, 45.0)
        return Breath(role, None, ct, ct.grid, SimpleNamespace(lungs=lungs), seen, scale, None)

    both = one_scale(held("inspiration", air[0]), held("expiration", air[1]))
    assert (both[0].calibrate == both[1].calibrate) == shared
    if shared:
        np.testing.assert_allclose(both[0].calibrate(np.array([-997.0, 45.0])), [-1000, 45], atol=1e-3)


def test_thin_slices_are_smoothed_towards_thick_ones(soft):
    thick = chest("soft", 12.0, slices=4.0)
    of_thin, of_thick = matching_blur(soft, thick)
    assert of_thin[0] == pytest.approx(np.sqrt((16 - 1) / 12))
    assert of_thick == (0, 0, 0)
    overlapping, _ = matching_blur(soft, soft, (1.0, 4.0))  # thick ones every millimetre
    assert overlapping == (of_thin[0], 0, 0)


def test_coarse_pixels_tell_nothing():
    assert np.isnan(sharpness(*chest("sharp", 12.0, pixel=2.0)))


def test_without_even_tissue_nothing_is_told():
    empty = Volume(np.full((6, 40, 40), -1000, np.int16), np.eye(4))
    assert np.isnan(sharpness(empty, empty.like(np.zeros(empty.shape, np.uint8))))


@pytest.mark.parametrize(
    ("insp", "exp", "basis"),
    [
        ((-990.0, 68.0), (-995.0, 69.0), None),
        ((-990.0, 68.0), (-995.0, 72.0), "air"),  # a little too much to be blood without contrast medium
        ((-990.0, 45.0), (-995.0, None), "air"),
        ((-955.0, None), (-995.0, 45.0), "air"),
        ((-940.0, 45.0), (-995.0, 45.0), "none"),  # too far off to be tracheal air as it is
        ((None, 45.0), (-995.0, 45.0), "none"),
    ],
)
def test_scales_of_a_pair_rest_on_the_same(soft, insp, exp, basis):
    # One gain with blood and another without would make 2 to 3 % of mass out of nothing.
    ct, lungs = soft

    def held(role, seen):
        return Breath(role, None, ct, ct.grid, SimpleNamespace(lungs=lungs), None, calibrate_hu(*seen), None)

    *both, finding = on_one_basis(held("inspiration", insp), held("expiration", exp))
    assert (finding.code, finding.severity) == ("HU_BASIS", "PASS" if basis is None else "WARN")
    for breath, seen in zip(both, (insp, exp), strict=True):
        assert breath.calibrate.basis == (basis or "air and blood")
        assert (breath.calibrate.air_hu, breath.calibrate.blood_hu) == seen
        if basis == "air":
            assert (breath.calibrate.gain, breath.calibrate.offset) == (1, -1000 - seen[0])
        elif basis == "none":
            assert (breath.calibrate.gain, breath.calibrate.offset) == (1, 0)


@pytest.mark.parametrize("filled_hu", [-2000, -3024])
def test_padding_does_not_mix_with_the_lung_beside_it(filled_hu):
    hu = np.full((4, 4, 8), -850, np.int16)
    hu[..., 4:] = filled_hu
    scan = Volume(hu, np.diag([1.0, 1.0, 1.0, 1.0]))
    half = np.zeros((4, 4, 8, 3), np.float32)
    half[..., 2] = -0.5  # between two voxels
    carried = carry_inspiration(scan.like(half), scan, scan.grid).array
    np.testing.assert_array_equal(np.unique(carried[..., 1:]), [-1024, -937, -850])


def test_what_the_inspiration_does_not_show_is_not_compared(soft):
    ct, lungs = soft
    anatomy = SimpleNamespace(lungs=lungs)
    exp = Breath("expiration", None, ct, ct.grid, anatomy, None, Calibration(), None)
    insp = replace(exp, role="inspiration", ct=ct.crop((slice(4, None), slice(None), slice(None))))
    still = Volume(np.zeros((*ct.shape, 3), np.float32), ct.affine)

    def compared(unseen, registered=("left", "right")):
        quality = SimpleNamespace(
            overall=SimpleNamespace(unseen_percent=unseen), lungs=dict.fromkeys(registered)
        )
        return equally_sharp(insp, exp, ct, SimpleNamespace(displacement=still, quality=quality)).inside

    inside = lungs.array > 0
    assert inside[:4].any()
    assert (compared(0.0) == inside).all()
    assert not compared(3.0)[:4].any()
    assert (compared(3.0)[4:] == inside[4:]).all()
    assert (compared(0.0, ("right",)) == (lungs.array == 2)).all()  # of the other nothing is known


def test_a_thin_inspiration_loses_its_noise_before_it_is_cut_in_thick_slices(soft):
    rng = np.random.default_rng(2)
    lungs = np.zeros((48, 40, 40), np.uint8)
    lungs[3:-3, 3:-3, 3:-3] = 1
    plane = gaussian_filter(
        rng.standard_normal(lungs.shape), (0, 1, 1)
    )  # alike within slices, not across them
    thin = Volume((-915 + 30 * plane / plane.std()).astype(np.int16), np.eye(4))
    thick_grid = thin.grid.with_spacing((3.0, 1.0, 1.0))
    thick = Volume(np.full(thick_grid.shape, -800, np.int16), thick_grid.affine)
    labels = thin.like(lungs)

    def breath(role, ct, mask, blur_mm=(0.0, 0.0, 0.0)):
        return Breath(
            role, None, ct, ct.grid, SimpleNamespace(lungs=mask), None, Calibration(), None, blur_mm=blur_mm
        )

    sigma = float(np.sqrt((3.0**2 - 1.0**2) / 12))
    insp = breath("inspiration", thin, labels, (sigma, 0.0, 0.0))
    exp = breath("expiration", thick, labels.resample_labels(thick_grid))
    still = Volume(np.zeros((*thin.shape, 3), np.float32), thin.affine)
    quality = SimpleNamespace(overall=SimpleNamespace(unseen_percent=0.0), lungs={"left": None})
    carried = carry_inspiration(still, thin, thick_grid)
    both = equally_sharp(insp, exp, carried, SimpleNamespace(displacement=still, quality=quality))
    assert both.insp[both.inside].std() < 0.75 * carried.array[both.inside].std()
    assert both.insp[both.inside].mean() == pytest.approx(-915, abs=1)


def test_each_lung_counts_by_its_size_in_what_lies_below_the_noise_floor():
    found = RegionalMagnitude(20.0, {}, {"left": 0.9, "right": 0.1})
    held = {"left": LungTotals(100.0, 70.0, 30.0), "right": LungTotals(1900.0, 1300.0, 600.0)}
    assert _noise_floor(found, held).value == pytest.approx(14.0)
