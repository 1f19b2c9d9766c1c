"""The made expiration: its motion against differences and its own inverse, its tissue, and its sliding wall."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from lungvq import io
from lungvq.volume import Volume, grid_around

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "real_pair.py"


@pytest.fixture(scope="module")
def real_pair():
    spec = importlib.util.spec_from_file_location("real_pair", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["real_pair"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pair(real_pair):
    """Breathed out: two ellipsoids of lung with blobs of tissue in them, in an elliptic body with a spine."""
    grid = grid_around(np.array([(-125, -75, -110), (125, 90, 100)]), 3.0)
    x, y, z = np.moveaxis(grid.world(np.moveaxis(np.indices(grid.shape), 0, -1)), -1, 0)
    hu = np.where((x / 115) ** 2 + (y / 70) ** 2 < 1, 30.0, -1000.0)
    hu[(x / 14) ** 2 + ((y - 45) / 14) ** 2 < 1] = 400
    lungs = np.zeros(grid.shape, np.uint8)
    for label, side in ((1, 1), (2, -1)):
        lungs[((x - side * 52) / 38) ** 2 + (y / 50) ** 2 + (z / 85) ** 2 < 1] = label
    blobs = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(grid.shape), 1.5)
    hu[lungs > 0] = (-840 + 60 * blobs / blobs.std())[lungs > 0]
    insp = Volume(np.rint(hu).astype(np.int16), grid.affine)
    return real_pair.make_real_pair(insp, insp.like(lungs), seed=4, rise_mm=25.0)


def test_jacobian_is_that_of_the_map(real_pair, pair):
    facts = real_pair.facts(pair)
    assert facts["jacobian_minus_differences_max"] < 1e-5
    assert facts["inverse_error_max_mm"] < 0.01
    assert facts["jacobian_min"] > 0.2
    assert 1.2 < facts["jacobian_mean"] < 1.7
    assert 20 < facts["motion_max_mm"] < 40


def test_volume_and_tissue_are_kept(real_pair, pair):
    # The lungs were found by asking which voxels go to inspiratory lung, J by differentiating: two routes.
    assert real_pair.facts(pair)["volume_by_jacobian_ratio"] == pytest.approx(1, abs=0.01)
    # Away from the pleura, where voxels of 3 mm mix lung and wall: what is at inspiration in the image of a region?
    depth = ndimage.distance_transform_edt(pair.lungs_exp.array, pair.lungs_exp.spacing)
    region = depth > 10
    tissue = np.sum(1 + pair.exp.array[region] / 1000) * pair.exp.voxel_ml
    voxels = np.argwhere(pair.lungs_insp.array)[::5]
    back = pair.exp.grid.index(pair.motion.inverse(pair.insp.grid.world(voxels)))
    within = region[tuple(np.rint(back).astype(int).T)]
    before = np.sum(1 + pair.insp.array[tuple(voxels[within].T)] / 1000) * 5 * pair.insp.voxel_ml
    assert tissue == pytest.approx(before, rel=0.02)


def test_expiratory_lung_goes_to_inspiratory_lung(pair):
    voxels = np.argwhere(pair.lungs_exp.array)[::7]
    moved = pair.lungs_insp.grid.index(pair.motion(pair.exp.grid.world(voxels)))
    there = pair.lungs_insp.array[tuple(np.rint(moved).astype(int).T)]
    np.testing.assert_array_equal(there, pair.lungs_exp.array[tuple(voxels.T)])


def test_files_hold_the_truth(real_pair, pair, tmp_path):
    real_pair.write_real_pair(pair, tmp_path)
    motion = real_pair.Motion.load(tmp_path / "truth" / "motion.npz")
    points = pair.exp.grid.world(np.argwhere(pair.lungs_exp.array)[::50])
    np.testing.assert_array_equal(motion(points), pair.motion(points))
    field = io.read_volume(tmp_path / "truth" / "displacement.nii.gz")
    assert np.abs(field.sample(points) - (motion(points) - points)).max() < 0.3
    rows = {
        row["shell"]: row for row in real_pair.score(tmp_path, tmp_path / "truth" / "displacement.nii.gz")
    }
    assert rows["all"]["max"] < 0.3
    assert sum(row["n"] for row in rows.values()) == 2 * rows["all"]["n"]
    again = io.read_volume(tmp_path / "exp.nii.gz")
    np.testing.assert_array_equal(again.array, pair.exp.array)
    assert again.array.dtype == np.int16


def test_the_same_seed_gives_the_same_pair_and_another_does_not(real_pair, pair):
    again = real_pair.make_motion(pair.lungs_insp, pair.motion.shape[2], seed=4, rise_mm=25.0)
    other = real_pair.make_motion(pair.lungs_insp, pair.motion.shape[2], seed=5, rise_mm=40.0)
    points = pair.exp.grid.world(np.argwhere(pair.lungs_exp.array)[::50])
    np.testing.assert_array_equal(again(points), pair.motion(points))
    assert 0.5 < np.abs(other(points) - pair.motion(points)).mean() < 5
