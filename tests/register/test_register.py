"""The registration against motion that is known."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from scipy.stats import spearmanr

from lungvq.errors import GeometryError, PairError
from lungvq.findings import Severity
from lungvq.register import MISMATCH_CORRELATION, RegisterOptions, register, warp_labels
from lungvq.register.inverse import inverse_field
from lungvq.volume import Volume

COARSE = RegisterOptions(spacing_mm=3.0)


@pytest.fixture(scope="module")
def result(pair):
    return register(pair.fixed, pair.moving, pair.fixed_lungs, pair.moving_lungs)


@pytest.fixture(scope="module")
def coarse(pair):
    return register(pair.fixed, pair.moving, pair.fixed_lungs, pair.moving_lungs, options=COARSE)


def errors(pair, result, label):
    """Dense error in mm over a lung, its depth below the pleura in mm, and the points."""
    grid = result.displacement.grid
    mask = result.lungs.array == label
    points = grid.world(np.argwhere(mask))
    truth = pair.phi(points, label) - points
    depth = distance_transform_edt(mask)[mask] * grid.spacing[0]
    return np.linalg.norm(result.displacement.array[mask] - truth, axis=1), depth, points


@pytest.mark.parametrize("label", [1, 2])
def test_every_point_of_the_lung_is_found_not_only_the_vessels(pair, result, label):
    error, depth, points = errors(pair, result, label)
    assert error.mean() < 1.0
    assert np.percentile(error, 95) < 2.5
    assert error[depth > 10].mean() < 0.6
    assert error[depth <= 3].mean() < 1.5
    base = points[:, 2] < np.percentile(points[:, 2], 5)
    assert error[base].mean() < 1.5  # smoothing against nothing would leave many millimetres here


def test_fine_scans_are_registered_better_than_coarse_ones(pair_like):
    mean = {}
    for spacing in (2.0, 1.0):
        pair = pair_like(3, spacing=spacing, scale=0.55)
        found = register(pair.fixed, pair.moving, pair.fixed_lungs, pair.moving_lungs)
        mean[spacing] = np.mean([errors(pair, found, label)[0].mean() for label in (1, 2)])
    assert mean[1.0] < 0.6 * mean[2.0]


@pytest.mark.parametrize("label", [1, 2])
def test_jacobian_follows_the_truth(pair, result, label):
    mask = result.lungs.array == label
    points = result.lungs.grid.world(np.argwhere(mask))
    columns = [(pair.phi(points + d, label) - pair.phi(points - d, label)) for d in 0.5 * np.eye(3)]
    truth = np.linalg.det(np.stack(columns, axis=-1))
    found = result.jacobian.array[mask]
    assert np.corrcoef(truth, found)[0, 1] > 0.93
    assert found.mean() == pytest.approx(truth.mean(), rel=0.03)
    assert (result.jacobian_raw.array[mask] > 0).all()


def test_quality_describes_the_result(pair, result):
    q = result.quality
    assert set(q.lungs) == {"left", "right"}
    assert "LUNG_NOT_REGISTERED_LEFT" not in {f.code for f in q.findings}
    assert q.overall.folded_percent == 0
    assert q.overall.dice > 0.97
    assert q.overall.closure == pytest.approx(1, abs=0.03)
    assert q.overall.correlation_after > q.overall.correlation_before + 0.2
    assert q.overall.motion_max_mm >= q.overall.motion_p95_mm >= q.overall.motion_mean_mm > 5
    motion = np.linalg.norm(result.displacement.array[result.lungs.array == 1], axis=1)
    assert q.lungs["left"].motion_mean_mm == pytest.approx(float(motion.mean()), rel=1e-4)


def test_results_share_a_grid_and_are_defined_where_they_should_be(pair, result):
    lungs = result.lungs.array > 0
    for volume in (result.displacement, result.jacobian, result.jacobian_raw):
        assert volume.grid.same_as(result.lungs.grid)
    assert np.isfinite(result.displacement.array).all()
    for volume in (result.jacobian, result.jacobian_se, result.expected_error, result.confidence):
        assert volume.array.dtype == np.float32
        assert np.array_equal(np.isfinite(volume.array), lungs)
    low, high = np.argwhere(lungs).min(axis=0), np.argwhere(lungs).max(axis=0)
    room = np.minimum(low, np.array(lungs.shape) - 1 - high) * result.lungs.spacing[0]
    assert room.min() >= 20 - result.lungs.spacing[0]


def test_labels_come_along(pair, result):
    warped = warp_labels(result, pair.moving_lungs, pair.fixed.grid)
    assert warped.grid.same_as(pair.fixed.grid)
    for label in (1, 2):
        a, b = warped.array == label, pair.fixed_lungs.array == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.97


def test_a_scan_does_not_move_against_itself(pair):
    lungs = pair.fixed_lungs
    result = register(pair.fixed, pair.fixed, lungs, lungs, options=COARSE)
    inside = result.lungs.array > 0
    assert np.abs(result.displacement.array[inside]).max() < 0.1
    np.testing.assert_allclose(result.jacobian.array[inside], 1, atol=0.02)


def test_a_patient_who_was_moved_between_the_scans(pair, coarse):
    shift = np.array([25.0, -20.0, 24.0])  # 40 mm
    affine = pair.moving.affine.copy()
    affine[:3, 3] += shift
    moving, lungs = Volume(pair.moving.array, affine), Volume(pair.moving_lungs.array, affine)
    moved = register(pair.fixed, moving, pair.fixed_lungs, lungs, options=COARSE)
    inside = moved.lungs.array > 0
    difference = moved.displacement.array[inside] - coarse.displacement.array[inside] - shift
    assert np.linalg.norm(difference, axis=1).mean() < 0.3


def test_correlation_tells_a_pair_from_two_scans_that_do_not_belong_together(pair, result):
    assert result.quality.overall.correlation_after > MISMATCH_CORRELATION + 0.2
    back_to_front = [
        Volume(np.ascontiguousarray(v.array[:, ::-1]), v.affine) for v in (pair.moving, pair.moving_lungs)
    ]
    wrong = register(pair.fixed, back_to_front[0], pair.fixed_lungs, back_to_front[1], options=COARSE)
    assert wrong.quality.overall.dice > 0.95  # the masks say nothing
    assert wrong.quality.overall.correlation_after < MISMATCH_CORRELATION


def test_the_same_input_gives_the_same_result(pair, coarse):
    again = register(pair.fixed, pair.moving, pair.fixed_lungs, pair.moving_lungs, options=COARSE)
    np.testing.assert_array_equal(again.displacement.array, coarse.displacement.array)
    np.testing.assert_array_equal(again.jacobian.array, coarse.jacobian.array)


def test_a_lung_that_is_missing_from_one_scan_is_left_out_and_that_is_said(pair):
    only_right = pair.moving_lungs.like(np.where(pair.moving_lungs.array == 1, 0, pair.moving_lungs.array))
    result = register(pair.fixed, pair.moving, pair.fixed_lungs, only_right, options=COARSE)
    assert set(result.quality.lungs) == {"right"}
    (finding,) = (f for f in result.quality.findings if f.code == "LUNG_NOT_REGISTERED_LEFT")
    assert (finding.severity, finding.touches) == ("FAIL", ("left",))
    assert np.isfinite(result.displacement.array).all()
    assert set(np.unique(result.lungs.array)) == {0, 2}
    assert (np.isfinite(result.jacobian.array) == (result.lungs.array == 2)).all()


def test_a_lung_that_neither_scan_shows_is_no_finding(pair):
    fixed, moving = (
        lungs.like(np.where(lungs.array == 1, 0, lungs.array))
        for lungs in (pair.fixed_lungs, pair.moving_lungs)
    )
    result = register(pair.fixed, pair.moving, fixed, moving, options=COARSE)
    assert not any(f.code.startswith("LUNG_NOT_REGISTERED") for f in result.quality.findings)


def test_a_remnant_of_a_lung_is_registered_too(pair):
    def remnant(lungs):  # the top 35 mm
        height = lungs.grid.world(np.argwhere(lungs.array == 1))[:, 2]
        array = lungs.array.copy()
        array[tuple(np.argwhere(lungs.array == 1)[height < height.max() - 35].T)] = 0
        return lungs.like(array)

    result = register(
        pair.fixed, pair.moving, remnant(pair.fixed_lungs), remnant(pair.moving_lungs), options=COARSE
    )
    assert set(result.quality.lungs) == {"left", "right"}
    assert np.isfinite(result.displacement.array).all()
    assert np.isfinite(result.jacobian.array[result.lungs.array == 1]).all()


def test_no_lungs_and_masks_from_elsewhere_are_refused(pair):
    nothing = pair.moving_lungs.like(np.zeros_like(pair.moving_lungs.array))
    with pytest.raises(PairError, match="no lung can be registered"):
        register(pair.fixed, pair.moving, pair.fixed_lungs, nothing)
    with pytest.raises(GeometryError, match="moving"):
        register(pair.fixed, pair.moving, pair.fixed_lungs, pair.fixed_lungs)


def test_it_knows_where_it_errs(pair, result):
    for label in (1, 2):
        mask = result.lungs.array == label
        error, *_ = errors(pair, result, label)
        said = result.expected_error.array[mask]
        # one draw of an error says little of its size: a perfect account of it would reach about 0.6
        assert spearmanr(said, error).statistic > 0.3
        # lungs so full of structure are found better than those it was fitted on
        assert 0.3 < np.sqrt((error**2).mean() / (said**2).mean()) < 1.5


def test_the_inverse_leads_back(pair, coarse):
    back, left_over = inverse_field(coarse, pair.moving_lungs)
    assert left_over < 0.05
    assert np.isfinite(back.array).all()
    for label in (1, 2):
        _, points = pair.inside(coarse.lungs.grid, label)
        there = points + coarse.displacement.sample(points)
        assert np.linalg.norm(there + back.sample(there) - points, axis=1).mean() < 0.1


def test_crumbs_of_a_mask_follow_the_lung_and_are_told(pair, coarse):
    labels = pair.fixed_lungs.array.copy()
    far = np.argwhere(labels == 1)[0] * [1, 0, 1] + [0, 6, 0]  # in front of the base
    labels[far[0] : far[0] + 2, far[1] : far[1] + 2, far[2] : far[2] + 2] = 1
    found = register(
        pair.fixed, pair.moving, pair.fixed_lungs.like(labels), pair.moving_lungs, options=COARSE
    )
    (told,) = [f for f in found.quality.findings if f.code == "MASK_ISLANDS"]
    assert told.value == pytest.approx(8 * pair.fixed.voxel_ml, abs=1e-3)
    there = pair.fixed_lungs.grid.world(far)[None]
    assert found.displacement.sample(there) == pytest.approx(coarse.displacement.sample(there), abs=1.5)


def test_a_mask_that_lacks_a_part_is_told(pair, coarse):
    assert all(f.severity is Severity.PASS for f in coarse.quality.findings)
    columns = np.flatnonzero((pair.fixed_lungs.array == 2).any(axis=(0, 1)))
    labels = pair.fixed_lungs.array.copy()
    labels[:, :, : columns[0] + 7][labels[:, :, : columns[0] + 7] == 2] = 0
    found = register(
        pair.fixed, pair.moving, pair.fixed_lungs.like(labels), pair.moving_lungs, options=COARSE
    )
    assert {f.code for f in found.quality.findings if f.severity is not Severity.PASS} == {
        "MASKS_DISAGREE_RIGHT",
        "MASK_CUTS_LUNG_RIGHT",
    }
