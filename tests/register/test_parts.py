"""Parts of a lung that slide on one another."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from lungvq.errors import GeometryError
from lungvq.register import RegisterOptions, register
from lungvq.register.parts import border_mm, loosened, parts_at, slides
from lungvq.volume import Grid, Volume

SHAPE, H, SLIDE_MM = (40, 44, 44), 3.0, 7.0


@pytest.fixture(scope="module")
def sliding():
    """One lung whose upper and lower half slide by 7 mm to either side; its motion (N, 3), LPS mm."""
    rng = np.random.default_rng(3)
    affine = np.array([[0, 0, H, -66], [0, H, 0, -66], [H, 0, 0, -60], [0, 0, 0, 1]])
    z, y, x = (np.indices(SHAPE) - np.array([n / 2 - 0.5 for n in SHAPE])[:, None, None, None]) * H
    lung = (x / 56) ** 2 + (y / 60) ** 2 + (z / 52) ** 2 < 1
    texture = sum(
        w * gaussian_filter(rng.normal(size=SHAPE), s) * s**1.5 for s, w in ((1.0, 130), (2.0, 130))
    )
    amount = SLIDE_MM * np.exp(-(x**2 + y**2) / (2 * 22**2) - (z / 30) ** 2)
    moved = np.where(z > 0, amount, -amount)
    at = np.indices(SHAPE).astype(float)
    at[1] += moved / H
    tissue = np.where(lung, -800 + texture, -50)
    scans = [
        Volume((scan + rng.normal(scale=8, size=SHAPE)).astype(np.float32), affine)
        for scan in (map_coordinates(tissue, at, order=3, mode="nearest"), tissue)
    ]
    lungs = Volume(lung.astype(np.uint8), affine)
    halves = Volume(np.where(z > 0, 7, 9).astype(np.uint8), affine)
    motion = np.zeros((*SHAPE, 3), np.float32)
    motion[..., 1] = moved
    return scans, lungs, halves, motion, np.abs(z)


@pytest.fixture(scope="module")
def registered(sliding):
    """By name of the parts: none, both halves, one number everywhere."""
    (fixed, moving), lungs, halves, *_ = sliding
    one = halves.like(np.full_like(halves.array, 4))
    return {
        name: register(fixed, moving, lungs, lungs, moving_parts=parts, options=RegisterOptions(spacing_mm=H))
        for name, parts in (("whole", None), ("apart", halves), ("one", one))
    }


def test_each_part_keeps_its_own_motion_up_to_the_border(sliding, registered):
    _, lungs, _, motion, height = sliding
    near = (lungs.array > 0) & (height < 8)
    points = lungs.grid.world(np.argwhere(near))
    error = {
        name: np.linalg.norm(found.displacement.sample(points) - motion[near], axis=1).mean()
        for name, found in registered.items()
    }
    assert error["apart"] < 0.5 * error["whole"]
    assert error["apart"] < 1.3
    assert registered["apart"].quality.overall.folded_percent == 0
    assert {name: found.quality.overall.parts for name, found in registered.items()} == {
        "whole": 1,
        "apart": 2,
        "one": 1,
    }


def test_a_lung_of_one_part_is_registered_as_ever(registered):
    assert np.array_equal(registered["whole"].displacement.array, registered["one"].displacement.array)


def test_parts_are_known_by_where_they_are_mapped():
    grid = Grid((6, 4, 4), np.array([[0, 0, 2.0, 0], [0, 2.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]]))
    parts = Volume(
        np.where(np.arange(6)[:, None, None] < 3, 1, 2) * np.ones(grid.shape, np.uint8), grid.affine
    )
    mask = np.ones(grid.shape, bool)
    mask[:, 0] = False
    up = np.zeros((3, *grid.shape), np.float32)
    up[0] = 2.0  # by one voxel
    found = parts_at(parts, mask, up, grid, least_ml=0.0)
    assert found[:, 1, 1].tolist() == [1, 1, 2, 2, 2, 2]
    assert np.array_equal(found[:, 0], found[:, 1])  # beyond the lung as in it
    assert (
        parts_at(parts, mask, up, grid, least_ml=0.3) is None
    )  # 24 voxels of 8 mm^3 are too few to stand alone


def test_a_part_starts_from_what_is_deep_in_it():
    part = np.zeros((40, 6, 6), bool)
    part[:20] = True
    whole = np.zeros((3, 40, 6, 6), np.float32)
    whole[1] = np.clip(np.arange(20, -20, -1) / 5, -1, 1)[
        :, None, None
    ]  # from 1 deep inside to 0 at the border
    found = loosened(whole, part, np.ones_like(part), border_mm(part.astype(np.uint8), 2.0))
    assert whole[1, 19].max() < 0.25
    assert found[1, 19].min() > 0.7
    assert found[1, :12] == pytest.approx(1, abs=0.01)


def test_parts_on_another_grid_are_refused(sliding):
    (fixed, moving), lungs, halves, *_ = sliding
    with pytest.raises(GeometryError, match="parts of the lungs"):
        register(
            fixed, moving, lungs, lungs, moving_parts=halves.crop((slice(1, 9), slice(0, 9), slice(0, 9)))
        )


def test_parts_slide_only_if_the_scans_become_more_alike_near_their_border():
    parts = np.repeat(np.array([1, 2], np.uint8), 12)[:, None, None] * np.ones((24, 12, 12), np.uint8)
    mask = np.ones(parts.shape, bool)
    whole = np.full(parts.shape, 0.7, np.float32)
    far = np.abs(np.arange(24) - 11.5) > 6  # more than 10 mm with voxels of 2 mm
    near_gain, far_gain = whole.copy(), whole.copy()
    near_gain[~far] += 0.03
    far_gain[far] += 0.2
    border = border_mm(parts, 2.0)
    assert border[:, 0, 0].tolist() == [*range(24, 0, -2), *range(2, 26, 2)]
    assert slides(whole, near_gain, mask, border)
    assert not slides(whole, far_gain, mask, border)
