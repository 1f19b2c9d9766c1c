"""Refinement on textures whose motion is known: detail is found where it shows, and noise is not followed."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from lungvq.register import refine

SIZE = 72
OUTSIDE = -600.0


def ball(radius):
    k, j, i = np.indices((SIZE, SIZE, SIZE)) - (SIZE - 1) / 2
    return k**2 + j**2 + i**2 < radius**2


MASK = ball(30)


def noise(seed, sd, blur):
    field = gaussian_filter(np.random.default_rng(seed).normal(size=MASK.shape), blur)
    return field * (sd / field.std())


def texture(seed):
    """Lung-like: dark, with structures of two voxels."""
    return -850 + noise(seed, 80, 1.0) + noise(seed + 1, 60, 2.0)


def wave(amplitude, length):
    """One component that swells and shrinks along i, voxels."""
    i = np.arange(SIZE, dtype=np.float32)
    return np.broadcast_to(amplitude * np.sin(2 * np.pi * i / length), MASK.shape).astype(np.float32)


def scans(motion, sd, seed=3):
    """A moving texture, and the same seen at ``x + motion`` along i, each with its own noise."""
    moving = texture(seed)
    where = np.indices(MASK.shape).astype(float)
    where[2] += motion
    fixed = map_coordinates(moving, where, order=3, mode="nearest")
    return tuple(
        np.where(MASK, image + noise(n, sd, 0.6), OUTSIDE).astype(np.float32)
        for n, image in ((11, fixed), (12, moving))
    )


def refined(fixed, moving, windows=refine.FINE_WINDOWS, *, settled=False):
    share = MASK.astype(np.float32)
    start = np.zeros((3, *MASK.shape), np.float32)
    return refine.refine(fixed, share, moving, share, start, windows, outside=OUTSIDE, settled=settled).field


@pytest.mark.parametrize("length", [24, 14])
def test_detail_that_shows_is_found(length):
    motion = wave(0.8, length)
    found = refined(*scans(motion, 10))
    inside = ball(22)
    left = (found[2] - motion)[inside].std() / motion[inside].std()
    assert left < (0.2 if length == 24 else 0.45)
    assert np.abs(found[:2, inside]).mean() < 0.06


def test_noise_is_not_followed():
    """Same anatomy, no motion, noise as strong as the texture: what is found is a small part of a voxel."""
    found = refined(*scans(wave(0, 20), 90))
    assert np.sqrt((found[:, MASK] ** 2).sum(axis=0).mean()) < 0.2


def test_an_even_breath_makes_places_follow_their_surroundings():
    """Where the halves of a lung agree on nothing but noise, less of it is followed."""
    fixed, moving = scans(wave(0, 20), 90)
    loose, stiff = (refined(fixed, moving, settled=settled)[:, MASK] for settled in (False, True))
    assert stiff.std() < 0.8 * loose.std()


def test_an_uneven_breath_does_not():
    fixed, moving = scans(wave(0.8, 24), 10)
    np.testing.assert_array_equal(refined(fixed, moving, settled=True), refined(fixed, moving))


def test_judged_steps_beat_the_same_steps_taken_whole(monkeypatch):
    fixed, moving = scans(wave(0, 20), 90)
    judged = refined(fixed, moving)
    monkeypatch.setattr(refine, "_BENEFIT_OF_DOUBT", 1e9)  # every step is taken as it is
    whole = refined(fixed, moving)
    assert judged[:, MASK].std() < 0.6 * whole[:, MASK].std()


def test_where_nothing_is_seen_nothing_moves():
    flat = np.where(MASK, -850.0, OUTSIDE).astype(np.float32)
    assert np.abs(refined(flat, flat)[:, MASK]).max() < 0.05


def test_the_same_bits_twice():
    fixed, moving = scans(wave(0.8, 24), 20)
    assert np.array_equal(refined(fixed, moving), refined(fixed, moving))


def test_halving_and_doubling_keep_straight_fields():
    k, j, i = np.indices((9, 12, 15)).astype(np.float32)
    field = np.stack([0.1 * k + 0.3 * i, 2 - 0.2 * j, 0.05 * k - 0.1 * j])
    again = refine._double(refine._halve(field), field.shape[1:])
    assert np.abs(again - field)[:, :8, :, :14].max() < 1e-5


def test_an_edge_that_only_one_mask_has_does_not_drag_the_lung_along():
    """Where a slab is missing from the fixed mask alone, its edge lies two voxels from any pleura, and is none."""
    fixed, moving = scans(wave(0, 20), 10)
    k = np.indices(MASK.shape)[0]
    kept = MASK & (k >= 8)
    found = refine.refine(
        np.where(kept, fixed, OUTSIDE).astype(np.float32),
        kept.astype(np.float32),
        moving,
        MASK.astype(np.float32),
        np.zeros((3, *MASK.shape), np.float32),
        refine.FINE_WINDOWS,
        outside=OUTSIDE,
    ).field
    assert abs(found[0, kept & (k < 11)].mean()) < 0.1  # 0.18 where the edge is believed
