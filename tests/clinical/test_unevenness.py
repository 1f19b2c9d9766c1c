"""Unevenness, defects and gravity, on arrays small enough to reckon by hand."""

import numpy as np
import pytest

from lungvq.clinical.defects import DEFECT_RULES, REFERENCE_RULE, kmeans_cuts, large_clusters, rules_of
from lungvq.clinical.density import low_attenuation_pct, percentile_hu, trapping_volume_pct
from lungvq.clinical.gravity import detrended, gradient_pct_per_cm
from lungvq.clinical.heterogeneity import (
    between_share,
    cell_summary,
    cubes_of,
    cv,
    cv_beyond_error,
    fractal_dimension,
    gini,
    local_cv,
    skewness,
    smoothed,
    voronoi_cells,
)
from lungvq.volume import Volume


def lungs(shape, spacing=(2.0, 2.0, 2.0)):
    return Volume(np.ones(shape, np.uint8), np.diag([*spacing, 1.0]))


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        ("mean60@1", 0.6 * 5),
        ("mean75@1", 0.75 * 5),
        ("lb_mean_fixed@1", 0.33 * 5),
        ("glb_mean@1", 0.5656 * 5),
        ("glb_p99@1", 0.3891 * 9.9),
        ("pctmax@1", 0.42 * 9.9),
    ],
)
def test_thresholds_of_the_rules_on_0_to_10(rule, threshold):
    assert DEFECT_RULES[rule].threshold(np.linspace(0, 10, 11)) == pytest.approx(threshold)


def test_hierarchical_k_means_by_hand():
    """Four groups; the lowest, 0 0.1 1 1.1, again in four single values: the lower two are the defect."""
    values = np.sort([0, 0.1, 1.0, 1.1, 4, 4.1, 7, 7.1, 10, 10.1]).astype(float)
    assert np.searchsorted(values, kmeans_cuts(values, (0.2, 0.4, 0.6, 0.8))[0]) == 4
    threshold = DEFECT_RULES["kmeans_h@1"].threshold(values)
    assert (values < threshold).sum() == 2


def test_adaptive_k_means_takes_its_rounds_from_the_lowest_tenth():
    # 20 % of the voxels in the lowest tenth: one round, the lowest of four clusters.
    trapped = np.sort(np.r_[np.full(20, 0.2), np.linspace(6, 10, 80)])
    trapped[0] = 0
    assert (trapped < DEFECT_RULES["kmeans_adaptive@1"].threshold(trapped)).sum() == 20
    # 5 %: a second round within the lowest cluster, of which the upper quarter is left.
    some = np.sort(np.r_[np.linspace(0, 0.9, 5), np.linspace(2, 10, 95)])
    first = np.searchsorted(some, kmeans_cuts(some, (0.2, 0.4, 0.6, 0.8))[0])
    lowest = some[:first]
    expected = kmeans_cuts(lowest, (0.2, 0.4, 0.6, 0.8))[2]
    assert DEFECT_RULES["kmeans_adaptive@1"].threshold(some) == expected
    # None: five clusters first, and the lower half of the second round.
    healthy = np.sort(np.r_[0, np.linspace(3, 10, 99)])
    lowest = healthy[: np.searchsorted(healthy, kmeans_cuts(healthy, tuple(n / 6 for n in range(1, 6)))[0])]
    expected = kmeans_cuts(lowest, (0.2, 0.4, 0.6, 0.8))[1]
    assert DEFECT_RULES["kmeans_adaptive@1"].threshold(healthy) == expected


def test_the_reference_has_a_cut_for_each_map():
    values = np.linspace(0, 10, 11)
    assert rules_of("ventilation")[REFERENCE_RULE].threshold(values) == pytest.approx(0.336 * 5)
    assert rules_of("perfusion")[REFERENCE_RULE].threshold(values) == pytest.approx(0.628 * 5)


@pytest.mark.parametrize("rule", DEFECT_RULES)
def test_where_all_is_the_same_nothing_is_a_defect(rule):
    flat = np.full(50, 2.0, np.float32)
    assert (flat < DEFECT_RULES[rule].threshold(flat)).sum() == 0


@pytest.mark.parametrize("rule", DEFECT_RULES)
def test_a_clear_defect_is_found_by_every_rule(rule):
    rng = np.random.default_rng(4)
    low, high = rng.normal(0.1, 0.02, 200), rng.normal(1.0, 0.12, 800)
    ordered = np.sort(np.r_[low, high]).astype(np.float32)
    found = (ordered < DEFECT_RULES[rule].threshold(ordered)).mean()
    # Of what its first round has found, hierarchical k-means always calls a part merely low.
    assert 0.04 < found < 0.2 if rule == "kmeans_h@1" else found == pytest.approx(0.2, abs=0.02)


def test_clusters_end_at_the_lung_and_at_edges_of_voxels():
    low = np.zeros((1, 4, 6), bool)
    low[0, 0, :4] = True  # 2 voxels in each lung
    low[0, 2, 0], low[0, 3, 1] = True, True  # touch at an edge only
    parts = np.ones((1, 4, 6), np.uint8)
    parts[..., 2:] = 2
    kept, sizes = large_clusters(low, parts, voxel_ml=0.5, least_ml=1.0)
    assert sizes == {1: [1.0], 2: [1.0]}
    assert kept.sum() == 4


def test_densities_of_counted_values_are_those_of_the_voxels():
    rng = np.random.default_rng(1)
    voxels = rng.integers(-1000, -500, 999).astype(np.float64)
    values, counts = np.unique(voxels, return_counts=True)
    percents = (0, 5, 15, 50, 99, 100)
    assert percentile_hu(values, percents, counts) == pytest.approx(np.percentile(voxels, percents))
    assert percentile_hu(voxels, percents) == pytest.approx(np.percentile(voxels, percents))
    assert low_attenuation_pct(values, -910, counts) == pytest.approx(100 * (voxels <= -910).mean())
    kept = voxels[voxels > -950]
    assert trapping_volume_pct(values, counts) == pytest.approx(100 * (kept <= -856).mean())
    assert np.isnan(low_attenuation_pct(np.empty(0), -910))
    assert np.isnan(percentile_hu(np.empty(0))).all()


def test_unevenness_against_second_routes():
    from scipy import stats

    values = np.random.default_rng(0).gamma(3, 1, 400)
    assert skewness(values) == pytest.approx(stats.skew(values, bias=False))
    pairs = np.abs(values[:, None] - values[None, :]).mean()
    assert gini(values) == pytest.approx(pairs / 2 / values.mean())
    groups = np.arange(400) % 3 + 1
    f = stats.f_oneway(*(values[groups == g] for g in (1, 2, 3))).statistic
    assert between_share(values, groups) == pytest.approx(100 * f * 2 / (f * 2 + 397))


def test_noise_of_a_known_size_is_taken_off():
    rng = np.random.default_rng(6)
    true = rng.normal(1, 0.2, 20000)
    noisy = true + rng.normal(0, 0.3, true.size)
    assert cv(noisy) > 0.35
    assert cv_beyond_error(noisy, np.full(true.size, 0.3)) == pytest.approx(0.2, abs=0.01)
    assert cv_beyond_error(noisy, np.full(true.size, 0.5)) == 0


def test_cv_falls_with_scale_as_white_noise_does():
    """Of white noise of SD s a Gaussian leaves s (4 pi sigma^2)^(-3/4), in voxels."""
    shape = (28, 28, 28)
    noise = 1 + np.random.default_rng(3).normal(0, 0.2, shape).astype(np.float32)
    found = cv(smoothed(noise, lungs(shape), 10))
    sigma = 10 / 2.3548 / 2.0
    assert found == pytest.approx(0.2 * (4 * np.pi * sigma**2) ** -0.75, rel=0.25)  # more at the borders
    assert cv(smoothed(np.full(shape, 3.0, np.float32), lungs(shape), 10)) < 1e-5


def test_local_cv_keeps_to_its_lung_and_to_what_is_defined():
    labels = lungs((12, 12, 12))
    labels.array[:, :, 6:] = 2
    values = np.where(labels.array == 1, 1.0, 5.0)
    values[0, 0, 0] = np.nan
    local = local_cv(values, labels)
    assert np.isnan(local[0, 0, 0])
    assert np.nanmax(local) < 1e-6  # the step between the lungs is in neither
    ramp = np.broadcast_to(np.arange(40.0)[:, None, None] + 100, (40, 12, 12))
    middle = local_cv(ramp, lungs((40, 12, 12)), side_mm=18)[20, 6, 6]
    assert middle == pytest.approx(np.std(np.arange(9)) / 120, rel=1e-3)


def test_a_trend_with_height_is_measured_and_divided_out():
    depth = np.linspace(0, 200, 401)
    values = 1 + 0.003 * (depth - 100)
    assert gradient_pct_per_cm(values, depth) == pytest.approx(3.0)
    assert detrended(values, depth) == pytest.approx(np.ones(401))
    values[7] = np.nan
    assert np.isnan(detrended(values, depth)[7])
    assert np.isnan(gradient_pct_per_cm(-values, depth))


def block(shape, spacing=(1.0, 1.0, 1.0)):
    return np.indices(shape).reshape(3, -1).T * np.array(spacing)


def dimension(values, points, voxel_ml, sides):
    one = np.ones(len(points), np.uint8)
    return fractal_dimension(values, {side: cubes_of(points, one, side) for side in sides}, voxel_ml)


@pytest.mark.parametrize("exact", [1.1, 1.25, 1.5])
@pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0), (8.0, 2.0, 4.0)])
def test_the_fractal_dimension_of_a_field_made_with_it(exact, spacing):
    """Every cube of 8 mm and up is parted in eight, half of them higher by as much as the law asks for."""
    sides = (8.0, 16.0, 32.0)
    points = block([round(128 / s) for s in spacing], spacing)
    wanted = [side ** (6 * (1 - exact)) for side in (*sides, 64.0, 128.0)]
    values = np.full(len(points), 100.0)
    for side, own, above in zip((*sides, 64.0), wanted[:-1], wanted[1:], strict=True):
        odd = (points // side).astype(int).sum(axis=1) % 2
        values += np.sqrt(own - above) * (2 * odd - 1)
    # What is left at 128 mm, beyond which the field is even, is a difference between the halves.
    values += np.sqrt(wanted[-1]) * np.where(points[:, 0] < 64, -1, 1) * np.where(points[:, 1] < 64, -1, 1)
    assert dimension(values, points, np.prod(spacing) / 1000, sides) == pytest.approx(exact, abs=1e-6)


def test_the_fractal_dimension_of_noise_and_of_two_halves():
    points = block((60, 60, 60), (2.0, 2.0, 2.0))
    noise = 5 + np.random.default_rng(0).standard_normal(len(points))
    assert dimension(noise, points, 0.008, (8, 12, 20, 30)) == pytest.approx(1.5, abs=0.05)
    halves = np.where(points[:, 0] < 60, 1.0, 3.0)
    assert dimension(halves, points, 0.008, (8, 12, 20, 30)) == pytest.approx(1.0, abs=0.02)
    assert np.isnan(dimension(np.ones(len(points)), points, 0.008, (8, 12)))
    assert np.isnan(dimension(-halves, points, 0.008, (8, 12)))
    assert np.isnan(dimension(halves, points, 0.008, (60, 120)))  # too few pieces


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (5.0, 1.0, 2.5)])
def test_voronoi_cells_of_a_block_are_the_cubes_it_is_made_of(spacing):
    points = block([round(80 / s) for s in spacing], spacing)
    cells = voronoi_cells(points, np.prod(spacing) / 1000, side_mm=20.0)
    cube = (points // 20).astype(int) @ [16, 4, 1]
    assert np.array_equal(cells, cube)
    # Each other cube has 3 instead of 1, on which a tenth is laid in halves of every cube.
    level = np.where((points // 20).astype(int).sum(axis=1) % 2, 3.0, 1.0)
    values = level * np.where(points[:, 0] % 20 < 10, 0.9, 1.1)
    summary = cell_summary(values, cells, low=1.2)
    assert summary.median == pytest.approx(2)
    assert summary.cv == pytest.approx(0.5)
    assert summary.within_cv == pytest.approx(0.1)
    assert summary.low_pct == pytest.approx(50)


def test_voronoi_cells_of_a_ball_are_compact_and_of_about_one_size():
    points = block((25, 25, 25), (4.0, 4.0, 4.0)) - 48
    points = points[(points**2).sum(axis=1) < 48**2]
    cells = voronoi_cells(points, 0.064)
    assert np.array_equal(cells, voronoi_cells(points, 0.064))
    size = np.bincount(cells) * 0.064
    assert size.sum() / size.size == pytest.approx(8, rel=0.3)
    assert size.min() > 3
    assert size.max() < 16
    middles = np.stack([np.bincount(cells, x) / np.bincount(cells) for x in points.T], axis=1)
    assert np.linalg.norm(points - middles[cells], axis=1).max() < 25
    assert voronoi_cells(points[:3], 0.064).tolist() == [0, 0, 0]


def test_cells_leave_out_what_is_not_defined():
    values = np.array([1.0, np.nan, 3.0, np.nan, np.nan])
    assert cell_summary(values, np.array([0, 0, 1, 2, 2]), 1.2) == (2.0, 0.5, 0.0, 50.0)
    assert all(np.isnan(cell_summary(values[3:], np.array([0, 0]), 1.2)))
    signed = cell_summary(np.array([-1.0, -3.0]), np.array([0, 1]), -1.2)
    assert signed.median == -2
    assert all(np.isnan(signed[1:]))
