"""Vessels drawn as tubes: seen down to a third of a voxel's width, their size told from what they share with air."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from lungvq.errors import GeometryError
from lungvq.segment.vessels import find_vessels, small_vessel_density, small_vessels, vessel_sizes
from lungvq.volume import Volume

SPACING = np.array([1.2, 0.9, 1.0])
SHAPE = (52, 70, 120)
FINER = 4
LUNG_HU, BLOOD_HU = -860.0, 40.0
TILT = np.array([0.35, 0.25])  # mm in y and x for each mm of z
RADII = {
    0.5: 14.0,
    0.8: 32.0,
    1.1: 50.0,
    2.0: 70.0,
}  # mm, and where the tube crosses the middle slice, x in mm
FISSURE_X = 100.0


@pytest.fixture(scope="module")
def chest():
    """Tubes, a plate and an airway in one lung; each voxel the mean of what it covers."""
    affine = np.eye(4)
    affine[:3, :3] = SPACING * np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    fine = [
        (np.arange(n * FINER, dtype=np.float32) + 0.5) / FINER * s - s / 2
        for n, s in zip(SHAPE, SPACING, strict=True)
    ]
    middle = (np.array(SHAPE) - 1) * SPACING / 2
    z, y, x = fine[0][:, None, None] - middle[0], fine[1][None, :, None], fine[2][None, None, :]
    dense = np.zeros(SHAPE, np.float32)
    slant = np.sqrt(1 + (TILT**2).sum())
    for radius, at in RADII.items():
        near = slice(*(np.array([at - 12, at + 12]) / SPACING[2] * FINER).astype(int))
        across = y - middle[1] - TILT[0] * z, x[:, :, near] - at - TILT[1] * z
        along = (across[0] * TILT[0] + across[1] * TILT[1]) / slant
        inside = across[0] ** 2 + across[1] ** 2 - along**2 < radius**2
        block = inside.reshape(SHAPE[0], FINER, SHAPE[1], FINER, -1, FINER).mean(
            axis=(1, 3, 5), dtype=np.float32
        )
        dense[:, :, near.start // FINER : near.start // FINER + block.shape[2]] += block
    plate = np.abs(x - FISSURE_X) < 0.25
    dense += plate.reshape(1, 1, 1, 1, -1, FINER).mean(axis=(1, 3, 5), dtype=np.float32)
    hu = LUNG_HU + (BLOOD_HU - LUNG_HU) * np.minimum(dense, 1)
    hu += np.random.default_rng(1).normal(0, 15, SHAPE)
    lungs = np.zeros(SHAPE, np.uint8)
    lungs[2:-2, 2:-2, 2:-2] = 1
    return Volume(np.rint(hu).astype(np.int16), affine), lungs


@pytest.fixture(scope="module")
def found(chest):
    ct, lungs = chest
    none = np.zeros(SHAPE, np.uint8)
    vessels = find_vessels(ct, lungs, none)
    return vessels, vessel_sizes(ct, lungs, vessels, none)


def axis(at):
    """Voxels on a tube's axis, away from its ends."""
    k = np.arange(8, SHAPE[0] - 8)
    z = (k - (SHAPE[0] - 1) / 2) * SPACING[0]
    y = (SHAPE[1] - 1) * SPACING[1] / 2 + TILT[0] * z
    return k, np.rint(y / SPACING[1]).astype(int), np.rint((at + TILT[1] * z) / SPACING[2]).astype(int)


@pytest.mark.parametrize(("radius", "at"), RADII.items())
def test_a_vessel_is_seen_and_has_its_cross_section(found, radius, at):
    vessels, sizes = found
    assert vessels[axis(at)].mean() > 0.9
    own = tuple(i - 1 for i in axis(at))  # the box begins a voxel before the lungs, 2 from the border
    area = sizes.area.array[own]
    assert np.median(area) == pytest.approx(np.pi * radius**2, rel=0.2)


def test_volumes_are_those_drawn_however_much_of_a_voxel_is_filled(chest, found):
    ct, _ = chest
    small = small_vessels(ct, found[1])
    regions = np.zeros(SHAPE, np.uint8)
    slant = np.sqrt(1 + (TILT**2).sum())
    for n, at in enumerate(RADII.values(), start=1):
        left, right = ((at + side) / SPACING[2] for side in (-9, 9))
        regions[8:-8, 4:-4, int(left) : int(right)] = n
    density = small_vessel_density(small, ct.like(regions))
    for n, radius in enumerate(RADII, start=1):
        region_mm3 = (regions == n).sum() * np.prod(SPACING)
        true = np.pi * radius**2 * slant * (SHAPE[0] - 16) * SPACING[0] / region_mm3
        assert density[n] == pytest.approx(true if radius < 1.26 else 0.0, rel=0.2, abs=1e-4), radius
    with pytest.raises(GeometryError, match="grid"):
        small_vessel_density(small, Volume(regions, 2 * np.eye(4) - np.diag([0, 0, 0, 1])))


def test_a_fissure_is_no_vessel(found):
    at = int(FISSURE_X / SPACING[2])
    assert found[0][:, :, at - 4 : at + 5].mean() < 0.005


def test_walls_of_airways_are_no_vessels(chest):
    ct, lungs = chest
    lumen = np.zeros(SHAPE, np.uint8)
    lumen[:, 30:34, 88:92] = 1
    wall = ndimage.binary_dilation(lumen) & (lumen == 0)
    with_airway = ct.array.copy()
    with_airway[lumen > 0], with_airway[wall] = -1000, -300
    changed = find_vessels(ct.like(with_airway), lungs, lumen)
    assert changed[wall].mean() < 0.05
    assert not changed[lumen > 0].any()


def test_without_lungs_there_are_no_vessels(chest):
    ct, _ = chest
    none = np.zeros(SHAPE, np.uint8)
    assert not find_vessels(ct, none, none).any()
    assert not small_vessels(ct, vessel_sizes(ct, none, none, none)).array.any()
