"""A pair of scans whose motion is known: two ellipsoid lungs full of vessels, each with its own smooth map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from lungvq.volume import Grid, Volume, grid_around


@dataclass(frozen=True)
class Pair:
    """Expiration and inspiration, their lungs, and phi at any point."""

    fixed: Volume
    moving: Volume
    fixed_lungs: Volume
    moving_lungs: Volume
    maps: dict

    def phi(self, points, label):
        """Where LPS points of the lung `label` go."""
        return self.maps[label](points)

    def inside(self, grid: Grid, label):
        """Indices (N, 3) and points (N, 3) of the lung's voxels on another grid."""
        index = np.argwhere(self.fixed_lungs.resample_labels(grid).array == label)
        return index, grid.world(index)


def breathing(centre, radii, stretch, wobble, rng):
    """A lung's map: apex and back stay, the base goes down quadratically, a smooth field wobbles inside."""
    waves = [(rng.normal(size=3) / 22.0, rng.uniform(0, 2 * np.pi), rng.normal(size=3)) for _ in range(6)]
    top = centre[2] + radii[2]

    def phi(points):
        points = np.asarray(points, float)
        depth = np.clip((top - points[..., 2]) / (2 * radii[2]), -0.2, 1.2)
        moved = points + (points - centre) * [0.08, 0.12, 0]
        moved[..., 2] -= stretch * depth**2
        for k, phase, direction in waves:
            # Weak enough that no fold is possible: 6 * wobble / 22 < 1.
            moved += wobble * np.sin(points @ k + phase)[..., None] * direction / 6
        return moved

    return phi


def invert(phi, points, rounds=18):
    x = points.copy()
    for _ in range(rounds):
        x = x + 0.7 * (points - phi(x))
    return x


def make_pair(seed=0, *, spacing=2.0, stretch=36.0, wobble=3.0, noise=15.0, scale=0.8, offset=(0, 0, 0)):
    rng = np.random.default_rng(seed)
    radii = np.array([36.0, 48.0, 64.0]) * scale
    centres = {1: np.array([45.0, 0, 0]) * scale, 2: np.array([-45.0, 0, 0]) * scale}
    maps = {label: breathing(c, radii, stretch, wobble, rng) for label, c in centres.items()}
    reach = np.array([[-90, -60, -75], [90, 60, 75]]) * scale
    fixed_grid = grid_around(reach, spacing)
    reach = reach + np.array([[-10, -10, -stretch - 12], [10, 10, 8]])
    moving_grid = grid_around(reach, spacing)

    # Vessels: where a random smooth function is near zero twice over are curves; finer than any voxel here.
    fine = grid_around(reach, 1.25)
    a, b = (gaussian_filter(rng.standard_normal(fine.shape).astype(np.float32), 4.0) for _ in range(2))
    a, b = a / a.std(), b / b.std()
    texture = np.exp(-((a / 0.35) ** 2) - (b / 0.35) ** 2)

    def look(points):
        return map_coordinates(texture, fine.index(points).T, order=1, mode="nearest")

    def scan(grid, origin_of, phi_of, density):
        hu = np.full(grid.shape, 40.0, np.float32)
        lungs = np.zeros(grid.shape, np.uint8)
        points = grid.world(np.argwhere(np.ones(grid.shape, bool)))
        for label, centre in centres.items():
            near = np.flatnonzero(np.abs(points[:, 0] - centre[0]) < radii[0] * 1.5 + 12)
            home = origin_of(label, points[near])
            inside = (((home - centre) / radii) ** 2).sum(axis=1) < 1
            here = near[inside]
            hu.flat[here] = density + (20 - density) * look(phi_of(label, points[here]))
            lungs.flat[here] = label
        hu = gaussian_filter(hu, 0.5) + noise * rng.standard_normal(grid.shape)
        affine = grid.affine.copy()
        return hu.astype(np.int16), lungs, affine

    hu_f, lungs_f, affine_f = scan(fixed_grid, lambda n, p: p, lambda n, p: maps[n](p), -720.0)
    hu_m, lungs_m, affine_m = scan(moving_grid, lambda n, p: invert(maps[n], p), lambda n, p: p, -850.0)
    affine_m[:3, 3] += offset
    moved = {n: (lambda p, m=m: m(p) + np.asarray(offset, float)) for n, m in maps.items()}
    return Pair(
        Volume(hu_f, affine_f),
        Volume(hu_m, affine_m),
        Volume(lungs_f, affine_f),
        Volume(lungs_m, affine_m),
        moved,
    )


@pytest.fixture(scope="session")
def pair():
    return make_pair()


@pytest.fixture(scope="session")
def pair_like():
    """Makes other such pairs: of another seed, finer, smaller, noisier."""
    return make_pair
