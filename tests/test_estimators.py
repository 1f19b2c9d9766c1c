"""Ventilation and perfusion on parcels of gas, tissue and blood whose balance is written down first."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from lungvq.anatomy import LUNGS
from lungvq.ctp import above_noise, debiased_magnitude, region_sigma, regional_magnitude
from lungvq.errors import UsageError
from lungvq.hu import air_fraction, calibrate_hu, density
from lungvq.pair import ErrorModel, LungTotals, MatchedPair, credible_scale
from lungvq.perfusion import PerfusionOptions, blood_mass, mass_change, parenchyma, perfusion_terms
from lungvq.regional import Neighbourhoods, carry, close_sums, detail_within
from lungvq.ventilation import (
    VentilationOptions,
    air_gain,
    hu_gain,
    jacobian_gain,
    specific_gain,
    ventilation_terms,
)
from lungvq.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -50], [0, 2.0, 0, 10], [2.0, 0, 0, -300], [0, 0, 0, 1]])


def averaged(array, lungs, sigma):
    """Mean over Gaussian neighbourhoods, back on the grid of the lungs."""
    return carry(Neighbourhoods(lungs, sigma).mean(array), lungs)


def two_boxes(shape=(24, 22, 40)):
    """A left (1) and a right (2) lung: boxes with a gap; the right one at small i, towards -x."""
    labels = np.zeros(shape, np.uint8)
    labels[3:-3, 3:-3, 3:16] = 2
    labels[3:-3, 3:-3, 22:-3] = 1
    return Volume(labels, AFFINE)


def pair_of(lungs, gas_exp, tissue_exp, gas_gain, tissue_gain, jacobian):
    """A matched pair in which every parcel (per mL of expiratory lung) keeps the given books, without noise."""
    hu_exp = 1000 * (tissue_exp - 1) * np.ones(lungs.shape)
    assert np.allclose(gas_exp + tissue_exp, 1)
    tissue_insp = (tissue_exp + tissue_gain) / jacobian
    assert np.allclose((gas_exp + gas_gain + tissue_exp + tissue_gain), jacobian)
    hu_insp = 1000 * (tissue_insp - 1)
    inside = lungs.array > 0
    volumes = [lungs.like(np.where(inside, a, 0).astype(np.float32)) for a in (hu_exp, hu_insp, jacobian)]
    totals = []
    for gas, tissue in ((gas_exp, tissue_exp), (gas_exp + gas_gain, tissue_exp + tissue_gain)):
        totals.append(
            {
                name: LungTotals(
                    float(((gas + tissue) * (lungs.array == n)).sum()) * lungs.voxel_ml,
                    float((gas * (lungs.array == n)).sum()) * lungs.voxel_ml,
                    float((tissue * (lungs.array == n)).sum()) * lungs.voxel_ml,
                )
                for name, n in (("left", 1), ("right", 2))
            }
        )
    sure = lungs.like(np.zeros(lungs.shape, np.float32))
    return MatchedPair(*volumes, lungs, totals[1], totals[0], sure, lungs.like(inside))


@given(
    gas=st.floats(0.3, 0.9),
    gained=st.floats(-0.2, 3.0),
    blood=st.floats(-0.03, 0.03),
)
def test_a_parcel_gives_back_the_air_and_the_blood_it_was_given(gas, gained, blood):
    tissue = 1 - gas
    j = gas + gained + tissue + blood
    hu_exp, hu_insp = 1000 * (tissue - 1), 1000 * ((tissue + blood) / j - 1)
    assert air_gain(j, air_fraction(hu_insp), air_fraction(hu_exp)) == pytest.approx(gained, abs=1e-9)
    assert mass_change(density(hu_exp), j * density(hu_insp)) == pytest.approx(blood, abs=1e-9)


@given(gas=st.floats(0.3, 0.9), growth=st.floats(0.5, 3.5), k=st.floats(0.8, 1.2))
def test_densities_tell_the_growth_when_mass_changes_everywhere_alike(gas, growth, k):
    tissue = 1 - gas
    found = hu_gain(np.array([tissue]), np.array([k * tissue / growth]), mass_ratio=k)
    assert found == pytest.approx(growth - 1, rel=1e-9)


def test_without_density_there_is_no_ratio():
    assert np.isnan(hu_gain(np.array([0.3]), np.array([0.0]))).all()


def test_mass_change_is_density_times_disagreement_of_the_two_expansions():
    # m = rho_i (J - J_HU): the identity that ties CT-P to the two ventilations.
    j, rho_e, rho_i = 2.1, 0.27, 0.12
    j_hu = hu_gain(np.array([rho_e]), np.array([rho_i])) + 1
    assert mass_change(rho_e, j * rho_i) == pytest.approx(rho_i * (j - j_hu))


def test_calibration_puts_air_and_blood_where_they_belong():
    line = calibrate_hu(-975.0, 52.0)
    assert line.basis == "air and blood"
    assert line(np.array([-975.0, 52.0])) == pytest.approx([-1000.0, 45.0], abs=1e-3)


@pytest.mark.parametrize(
    ("air", "blood", "basis"),
    [(None, 45.0, "none"), (-850.0, 45.0, "none"), (-990.0, None, "air"), (-990.0, 250.0, "air")],
)
def test_calibration_uses_only_what_can_be_air_or_blood(air, blood, basis):
    line = calibrate_hu(air, blood)
    assert line.basis == basis
    if basis == "air":
        assert line(np.array([air])) == pytest.approx([-1000.0])
    else:
        assert line(np.array([-700.0])) == pytest.approx([-700.0])


def test_a_mean_keeps_a_constant_up_to_the_pleura_and_never_mixes_the_lungs():
    lungs = two_boxes()
    values = np.where(lungs.array == 1, 3.0, np.where(lungs.array == 2, 7.0, 1e6))
    back = averaged(values, lungs, 5.0)
    assert back[lungs.array == 1] == pytest.approx(3.0)
    assert back[lungs.array == 2] == pytest.approx(7.0)
    assert np.isnan(back[lungs.array == 0]).all()


def test_a_mean_is_a_gaussian_far_from_the_pleura():
    lungs = Volume(np.ones((41, 41, 41), np.uint8), AFFINE)
    point = np.zeros(lungs.shape, np.float32)
    point[20, 20, 20] = 1
    mean = averaged(point, lungs, 5.0)
    distance_sq = sum((2.0 * (g - 20)) ** 2 for g in np.indices(lungs.shape))
    expected = np.exp(-distance_sq / (2 * 5.0**2))
    near = distance_sq < 10**2
    assert mean[near] / mean[20, 20, 20] == pytest.approx(expected[near], rel=0.02)


def test_a_missing_lung_has_no_entry():
    lungs = two_boxes()
    only_right = lungs.like(np.where(lungs.array == 2, 2, 0).astype(np.uint8))
    assert set(Neighbourhoods(only_right, 5.0).mean(only_right.array)) == {"right"}


def test_close_sums_scales_each_lung_to_its_own_total():
    lungs = two_boxes()
    values = np.where(lungs.array > 0, 0.5, np.nan).astype(np.float32)
    factors = close_sums(values, lungs.array, lungs.voxel_ml, {"left": 3.0, "right": 11.0})
    for name, label in (("left", 1), ("right", 2)):
        inside = lungs.array == label
        assert values[inside].sum() * lungs.voxel_ml == pytest.approx({"left": 3.0, "right": 11.0}[name])
        assert factors[name] == pytest.approx(
            {"left": 3.0, "right": 11.0}[name] / (0.5 * inside.sum() * 0.008)
        )


def test_terms_on_a_lung_that_expands_unevenly():
    lungs = two_boxes()
    z = np.linspace(0, 1, lungs.shape[0])[:, None, None] * np.ones(lungs.shape)
    gas = 0.72 + 0.06 * z
    gained, blood = 1.4 - 0.8 * z, 0.01 * z
    pair = pair_of(lungs, gas, 1 - gas, gained, blood, gas + gained + 1 - gas + blood)
    terms = ventilation_terms(pair)
    found = carry(terms.air_insp, lungs) - carry(terms.air_exp, lungs)
    smooth_truth = averaged(gained, lungs, 5.0)
    inside = lungs.array > 0
    assert found[inside] == pytest.approx(smooth_truth[inside], abs=2e-4)
    jacobian = jacobian_gain(carry(terms.jacobian, lungs))
    assert np.abs(jacobian[inside] - found[inside] - 0.01 * z[inside]).max() < 5e-3  # J - 1 counts blood too
    change = carry(perfusion_terms(pair).change, lungs)
    smooth_change = averaged(blood, lungs, region_sigma(20.0))
    assert change[inside] == pytest.approx(smooth_change[inside], abs=2e-4)


def test_blood_mass_is_not_negative_and_ignores_vessels():
    assert blood_mass(np.array([0.05]), np.array([0.05]), 0.1) == 0
    lungs = two_boxes()
    rng = np.random.default_rng(3)
    hu = rng.normal(-700, 5, lungs.shape)
    vessel = np.zeros(lungs.shape, bool)
    vessel[10:12, 8:10, 4:38] = True
    hu[vessel] = 40
    kept = parenchyma(lungs.like(hu.astype(np.float32)), lungs, excess_hu=150)
    assert not kept[vessel & (lungs.array > 0)].any()
    assert kept[~vessel & (lungs.array > 0)].mean() > 0.99


def test_vessels_do_not_leak_into_the_blood_of_the_parenchyma():
    lungs = two_boxes()
    tissue = np.full(lungs.shape, 0.3)
    with_vessel = tissue.copy()
    with_vessel[10:12, 8:10, 4:38] = 0.98
    ones = np.ones(lungs.shape)
    plain, crossed = (
        perfusion_terms(pair_of(lungs, 1 - t, t, 0.8 * ones, 0 * ones, 1.8 * ones))
        for t in (tissue, with_vessel)
    )
    inside = lungs.array > 0
    assert carry(crossed.blood, lungs)[inside] == pytest.approx(carry(plain.blood, lungs)[inside], abs=1e-3)
    assert plain.extravascular_g_ml == pytest.approx(PerfusionOptions().extravascular_share * 0.3)


@pytest.mark.parametrize("radius", [0.0, 12.0, 40.0])
def test_regions_of_the_mass_change_have_one_of_four_sizes(radius):
    with pytest.raises(UsageError, match="10, 15, 20, 30 mm, got"):
        PerfusionOptions(ctp_radius_mm=radius)


def test_errors_of_the_mass_change_fall_with_the_size_of_its_regions():
    lungs = two_boxes((60, 60, 80))
    pair = pair_of(lungs, 0.7, 0.3, 0.5, 0.0, 1.5)
    off = replace(pair, jacobian_error=lungs.like(np.full(lungs.shape, 0.05, np.float32)))
    errors = [
        float(np.nanmean(perfusion_terms(off, PerfusionOptions(ctp_radius_mm=mm)).change_se["right"].array))
        for mm in (10.0, 30.0)
    ]
    assert errors[0] > 2 * errors[1]


def test_standard_error_of_a_mean_is_the_spread_of_means():
    # A second route to the noise term: average white noise over many Gaussians and look at the spread.
    lungs = Volume(np.ones((48, 48, 48), np.uint8), np.diag([2.0, 2, 2, 1]))
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 30, lungs.shape)
    inner = averaged(noise, lungs, 5.0)[10:-10, 10:-10, 10:-10]
    pair = pair_of(lungs, *(np.full(lungs.shape, v) for v in (0.7, 0.3, 0.0, 0.0, 1.0)))
    pair = replace(pair, hu_exp=lungs.like((pair.hu_exp.array + noise).astype(np.float32)))
    only_noise = ErrorModel(calibration_error_hu=0, noise_correlation_mm=2.0)
    near = Neighbourhoods(lungs, 5.0)
    said = carry(only_noise.of_difference(pair, near, near.mean(np.full(lungs.shape, 0.3))), lungs)
    assert inner.std() / 1000 == pytest.approx(said[24, 24, 24], rel=0.15)


def test_an_error_of_the_jacobian_goes_into_the_air_at_the_scale_of_the_average():
    lungs = two_boxes()
    pair = pair_of(lungs, *(np.full(lungs.shape, v) for v in (0.7, 0.3, 1.0, 0.0, 2.0)))
    pair = replace(pair, jacobian_error=lungs.like(np.full(lungs.shape, 0.1, np.float32)))
    for sigma, share in ((4.0, 1.0), (10.0, 0.48)):
        near = Neighbourhoods(lungs, sigma)
        inspired = near.mean(np.full(lungs.shape, 1.7))
        error = ErrorModel(calibration_error_hu=0).of_difference(pair, near, inspired)
        assert carry(error, lungs)[lungs.array > 0] == pytest.approx(1.7 * 0.1 * share, rel=1e-3)


def test_magnitude_of_a_change_is_found_without_its_noise():
    # A change of 0.03 in one half and none in the other: the plain mean of |m| would show 0.8 SE everywhere.
    lungs = Volume(np.ones((40, 40, 40), np.uint8), np.diag([2.0, 2, 2, 1]))
    rng = np.random.default_rng(4)
    truth = np.where(np.arange(40)[:, None, None] < 20, -0.03, 0.0) * np.ones(lungs.shape)
    near = Neighbourhoods(lungs, region_sigma(10.0))
    noisy = near.mean(truth + rng.normal(0, 0.1, lungs.shape))
    s = 0.1 / np.sqrt((4 * np.pi * (region_sigma(10.0) / 2) ** 2) ** 1.5)
    error = {"left": noisy["left"].like(np.full(lungs.shape, s, np.float32))}
    found = regional_magnitude(lungs, noisy, error, 10.0)
    here = found.magnitude["left"].array
    sure = above_noise(noisy["left"].array, error["left"].array)
    assert np.median(here[:14]) == pytest.approx(0.03, rel=0.08)
    assert sure[:14].mean() > 0.99
    assert sure[28:].mean() < 0.1
    assert found.below_floor["left"] == pytest.approx(1 - sure.mean())


def test_a_magnitude_below_its_error_is_none():
    assert debiased_magnitude(np.array([-0.05, 0.02]), np.array([0.03, 0.03])) == pytest.approx([0.04, 0.0])


def test_settled_with_density_ventilation_is_the_truth_where_both_agree():
    lungs = two_boxes()
    z = np.linspace(0, 1, lungs.shape[0])[:, None, None] * np.ones(lungs.shape)
    gained = 1.4 - 0.8 * z
    pair = pair_of(lungs, 0.7 + 0 * z, 0.3 + 0 * z, gained, 0 * z, 1 + gained)
    pair = replace(pair, jacobian_error=lungs.like(np.full(lungs.shape, 0.05, np.float32)))
    terms = ventilation_terms(pair)
    found = carry(terms.air_insp, lungs) - carry(terms.air_exp, lungs)
    inside = lungs.array > 0
    assert found[inside] == pytest.approx(averaged(gained, lungs, 5.0)[inside], rel=0.03)


def test_ventilation_leans_on_density_where_the_jacobian_is_noise():
    lungs = two_boxes((60, 60, 80))
    rng = np.random.default_rng(5)
    wrong = 2.0 * (1 + gaussian_filter(rng.normal(0, 1, lungs.shape), 2) * 0.8)  # errs by 10 % over 4 mm
    ones = np.ones(lungs.shape)
    true = pair_of(lungs, 0.7 * ones, 0.3 * ones, 1.0 * ones, 0 * ones, 2.0 * ones)
    said = lungs.like(np.full(lungs.shape, 0.1, np.float32))
    pair = replace(true, jacobian=lungs.like(wrong.astype(np.float32)), jacobian_error=said)
    terms = ventilation_terms(pair)
    inside = lungs.array > 0
    plain, settled = (
        (carry(inspired, lungs) - carry(terms.air_exp, lungs))[inside]
        for inspired in (terms.air_insp_plain, terms.air_insp)
    )
    assert settled.std() < 0.7 * plain.std()
    assert settled.mean() == pytest.approx(1.0, abs=0.05)


def test_a_sure_jacobian_is_not_touched():
    lungs = two_boxes()
    rng = np.random.default_rng(7)
    came = 0.2 * gaussian_filter(rng.normal(0, 1, lungs.shape), 2)
    pair = pair_of(lungs, 0.7, 0.3, 1.0, came, 2.0 + came)
    sure = replace(pair, jacobian_error=lungs.like(np.zeros(lungs.shape, np.float32)))
    terms = ventilation_terms(sure)
    for lung in LUNGS:
        np.testing.assert_array_equal(terms.air_insp[lung].array, terms.air_insp_plain[lung].array)


@pytest.mark.parametrize("sigma_mm", [12.0, 15.0])
def test_means_as_wide_as_the_trend_have_no_detail(sigma_mm):
    lungs = two_boxes()
    pair = pair_of(lungs, 0.7, 0.3, 1.0, 0.0, 2.0)
    unsure = replace(pair, jacobian_error=lungs.like(np.full(lungs.shape, 0.05, np.float32)))
    terms = ventilation_terms(unsure, VentilationOptions(sigma_mm=sigma_mm))
    for lung in LUNGS:
        np.testing.assert_array_equal(terms.air_insp[lung].array, terms.air_insp_plain[lung].array)


def test_errors_of_the_jacobian_are_said_as_large_as_densities_show_them():
    """Where nothing but J varies all detail is its error: stated too small it is raised, too large lowered."""
    lungs = two_boxes()
    rng = np.random.default_rng(5)
    wrong = 2.0 * (1 + gaussian_filter(rng.normal(0, 1, lungs.shape), 2) * 0.8)
    ones = np.ones(lungs.shape)
    true = pair_of(lungs, 0.7 * ones, 0.3 * ones, 1.0 * ones, 0 * ones, 2.0 * ones)
    near = Neighbourhoods(lungs, 5.0)
    seen = {}
    for share in (0.005, 0.02, 0.1):
        pair = replace(
            true,
            jacobian=lungs.like(wrong.astype(np.float32)),
            jacobian_error=lungs.like(np.full(lungs.shape, share, np.float32)),
        ).with_errors_as_seen()
        seen[share] = pair.jacobian_error.array[lungs.array == 1].mean() / share
        squared = Neighbourhoods(lungs, 5.0).mean(pair.jacobian_error.array**2)["left"].array
        np.testing.assert_allclose(pair.spread(near).jacobian_error_squared["left"].array, squared, rtol=1e-5)
    assert seen[0.005] == pytest.approx(3**0.5)
    assert seen[0.1] < seen[0.02] < 3**0.5
    assert 0.10**0.5 < seen[0.1] < 0.13**0.5


def test_straight_trends_have_no_detail():
    lungs = two_boxes()
    k, j, i = (x.astype(np.float32) for x in np.indices(lungs.shape))
    field = {name: lungs.like(0.3 + 0.02 * k - 0.01 * j + 0.03 * i) for name in LUNGS}
    for lung, part in detail_within(field, lungs, 5.0, 12.0).items():
        assert np.abs(part.array[lungs.array == LUNGS[lung]]).max() < 1e-3
        assert not part.array[lungs.array != LUNGS[lung]].any()


def test_air_per_air_is_undefined_where_there_was_none():
    assert specific_gain(np.array([0.8, 0.2]), np.array([0.8, 0.01])) == pytest.approx(
        [1.0, np.nan], nan_ok=True
    )


def test_a_pattern_becomes_credible_where_it_outgrows_its_error():
    lungs = two_boxes()
    wave = np.sin(np.indices(lungs.shape)[0] * 2.0 / 8.0)
    near = Neighbourhoods(lungs, 5.0)
    for noise, expected in ((0.0, {5.0}), (0.35, {7.0, 10.0, 14.0, 20.0}), (20.0, {None})):
        error = {
            lung: part.like(np.full(part.shape, noise + 1e-6, np.float32))
            for lung, part in near.mean(wave).items()
        }
        assert credible_scale(lungs, near.mean(wave), error, 5.0) in expected
