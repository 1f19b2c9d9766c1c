"""What is done to voxels beside the pleura."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lungvq.breath import Breath, prepare
from lungvq.hu import Calibration, density
from lungvq.io import Scan
from lungvq.phantom import make_phantom
from lungvq.volume import Volume
from lungvq.wall import clear_of_wall, lung_hu, wall_reach

AFFINE = np.array([[0, 0, 2.0, 0], [0, 2.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture
def lungs():
    labels = np.zeros((20, 24, 44), np.uint8)
    labels[2:18, 2:22, 2:21], labels[2:18, 2:22, 21:40] = 2, 1  # side by side: none lends to the other
    return Volume(labels, AFFINE)


def scan(lungs, left, right, rim):
    """HU of both lungs, and of voxels that share in the wall."""
    hu = np.select([lungs.array == 1, lungs.array == 2], [left, right], np.nan).astype(np.float32)
    for label in (1, 2):
        inside = np.pad(lungs.array == label, 1)
        deep = inside.copy()
        for axis in range(3):
            for step in (-1, 1):
                deep &= np.roll(inside, step, axis)
        hu[(inside & ~deep)[1:-1, 1:-1, 1:-1]] = rim
    return lungs.like(hu)


def breath_of(ct, lungs):
    """A breath-hold of which only lungs and CT numbers are looked at."""
    anatomy = SimpleNamespace(lungs=lungs)
    return Breath("expiration", None, ct, ct.grid, anatomy, None, Calibration(), None)


def test_voxels_that_are_partly_wall_are_as_the_lung_beneath(lungs):
    clear, own = clear_of_wall(scan(lungs, -700, -650, -500), lungs, 1.0)
    np.testing.assert_allclose(clear.array[lungs.array == 1], -700, atol=1e-3)
    np.testing.assert_allclose(clear.array[lungs.array == 2], -650, atol=1e-3)
    assert np.isnan(clear.array[lungs.array == 0]).all()
    assert not own.array[lungs.array == 0].any()
    assert own.array.sum() == 2 * 14 * 18 * 17


def test_how_far_the_wall_reaches_goes_with_the_voxels_of_the_scans(lungs):
    hu = scan(lungs, -700, -700, -500)
    kept = [int(clear_of_wall(hu, lungs, mm)[1].array.sum()) for mm in (0.7, 1.0, 3.0)]
    assert kept[0] == kept[1] == 2 * 14 * 18 * 17
    assert kept[2] == 2 * 12 * 16 * 15


def test_thick_slices_share_in_the_wall_as_far_as_they_go(lungs):
    thick = Volume(lungs.array, AFFINE @ np.diag([2.5, 1, 1, 1]))
    hu = scan(thick, -700, -700, -700)
    hu.array[2], hu.array[17] = -300, -300  # the ends, of 5 mm
    clear, _ = clear_of_wall(hu, thick, 2.7)
    np.testing.assert_allclose(clear.array[lungs.array > 0], -700, atol=1e-3)


def test_a_sliver_keeps_what_it_shows(lungs):
    thin = lungs.like(np.where(np.arange(20)[:, None, None] < 4, lungs.array, 0).astype(np.uint8))
    hu = thin.like(np.where(thin.array > 0, -600, np.nan).astype(np.float32))
    clear, own = clear_of_wall(hu, thin, 3.0)
    assert (clear.array[thin.array > 0] == -600).all()
    assert (own.array == (thin.array > 0)).all()


@pytest.mark.parametrize("edge", [0, 1])
def test_what_a_lung_holds_is_free_of_wall(lungs, edge):
    """Also of a lung that is cut off by the edge of the image."""
    part = lungs.crop((slice(2 * edge, None), slice(None), slice(None)))
    hu = scan(part, -700, -700, -500)
    ct = part.like(np.where(part.array > 0, hu.array, 40).astype(np.int16))
    found = lung_hu(breath_of(ct, part), (3.0, 3.0, 3.0), 2.0)
    for name, label in (("left", 1), ("right", 2)):
        volume = float((part.array == label).sum()) * 0.008
        held = found.held[name]
        assert held.volume_ml == pytest.approx(volume)
        # What smoothing to 3 mm has spread from the rim; with it the lungs weigh 0.38 g/mL.
        assert held.mass_g == pytest.approx(0.30 * volume, rel=5e-3)
        assert held.air_ml + held.mass_g == pytest.approx(volume)


@pytest.mark.parametrize(("case", "spacing"), [("healthy", 3.0), ("emphysema", 2.5)])
def test_lungs_of_a_phantom_weigh_what_they_weigh(case, spacing):
    phantom = make_phantom(case, seed=21, spacing=spacing)
    breaths = [
        prepare(Scan(volume, Path(role), "phantom", (), {}), role)
        for role, volume in (("inspiration", phantom.insp), ("expiration", phantom.exp))
    ]
    for breath, key in zip(breaths, ("mass_insp_g", "mass_exp_g"), strict=True):
        true = phantom.truth.scalars[key]
        held = lung_hu(breath, (2.0, 2.0, 2.0), wall_reach(*breaths)).held
        assert sum(lung.mass_g for lung in held.values()) == pytest.approx(true, rel=0.03)
        scanned = density(breath.calibrate(breath.ct.array[breath.anatomy.lungs.array > 0]))
        assert scanned.sum() * breath.ct.voxel_ml > 1.05 * true
