"""A chest of ellipsoids whose every voxel is known: for tests that must not share a mistake with the phantom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lungvq.volume import Volume

HALF_MM = np.array([150.0, 120.0, 170.0])  # z, y, x from the centre to the border of the image


@dataclass(frozen=True)
class Chest:
    """The scan and the truth: 1 left, 2 right."""

    ct: Volume
    lungs: np.ndarray


def ellipsoid(z, y, x, centre, radii):
    return sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radii, strict=True)) < 1


def make_chest(
    spacing=(3.0, 3.0, 3.0),
    *,
    lung_hu=-850.0,
    noise=15.0,
    offset=0.0,
    left=True,
    right=True,
    trachea=True,
    bones=True,
    couch=False,
    arms=False,
    bowel=False,
    left_scale=1.0,
    half_mm=HALF_MM,
    mirrored=False,
    seed=0,
) -> Chest:
    """Two ellipsoids of lung, a trachea that forks, a heart on the left, a liver dome on the right."""
    n = np.rint(2 * np.asarray(half_mm) / spacing).astype(int)
    z, y, x = np.meshgrid(
        *((np.arange(m) - (m - 1) / 2) * s for m, s in zip(n, spacing, strict=True)),
        indexing="ij",
        sparse=True,
    )
    if mirrored:
        x = -x
    hu = np.full(n, -1000.0)
    body = (y / 105) ** 2 + (x / 155) ** 2 < 1
    hu[np.broadcast_to(body, n)] = 20.0
    lungs = np.zeros(n, np.uint8)
    dome = {1: -92.0, 2: -78.0}
    for side, sign, wanted in ((1, 1, left), (2, -1, right)):
        scale = left_scale if side == 1 else 1.0
        shape = ellipsoid(z, y, x, (0.0, 0.0, sign * 72.0), np.array((130.0, 80.0, 55.0)) * scale)
        shape &= z > dome[side] - ((x - sign * 72) / 9) ** 2 - (y / 12) ** 2
        if side == 1:
            shape &= ~ellipsoid(z, y, x, (-45.0, -25.0, 25.0), (50.0, 42.0, 50.0))
        if wanted:
            lungs[shape] = side
    hu[lungs > 0] = lung_hu
    for centre, radius in (((20, 10, 75), 5.0), ((-30, -5, -80), 6.0), ((30, 20, -60), 3.0)):
        hu[ellipsoid(z, y, x, centre, (radius,) * 3)] = 40.0  # nodules: part of the closed lung
    aorta = (y - 35) ** 2 + (x - 27) ** 2 < 12**2
    inside_body = np.broadcast_to(aorta, n) & (z < 60)
    hu[inside_body] = 40.0
    lungs[inside_body] = 0
    if trachea:
        tube = ((y + 0) ** 2 + x**2 < 9**2) & (z > 30)
        hu[tube] = -1000.0
        along = abs(x) - (30 - z)  # 45 degrees to both sides
        main_bronchi = (z <= 36) & (abs(x) < 40)
        for radius, value in ((9, 20.0), (6, -1000.0)):
            cylinder = (along**2 / 2 + y**2 < radius**2) & main_bronchi & ~tube
            lungs[cylinder] = 0
            hu[cylinder] = value
    if bones:
        spine = (y - 65) ** 2 + x**2 < 17**2
        hu[np.broadcast_to(spine, n)] = 300.0
    if bowel:
        hu[ellipsoid(z, y, x, (-130.0, -20.0, 60.0), (16.0, 30.0, 35.0)) & (lungs == 0)] = -1000.0
    if arms:
        for sign in (1, -1):
            hu[np.broadcast_to((y - 10) ** 2 + (x - sign * 200) ** 2 < 35**2, n)] = 30.0
    if couch:
        plate = (y > 107) & (y < 116) & (abs(x) < 160)
        hu[np.broadcast_to(plate, n)] = -900.0
        shell = plate & ((y < 109) | (y > 114))
        hu[np.broadcast_to(shell, n)] = 150.0
    rng = np.random.default_rng(seed)
    hu += rng.normal(0, noise, n) + offset
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) * np.asarray(spacing)
    affine[:3, 3] = (-37.0, 12.0, -400.0)
    if mirrored:
        lungs = np.where(lungs > 0, 3 - lungs, 0).astype(np.uint8)
    return Chest(Volume(np.clip(hu, -1024, 3071).astype(np.int16), affine), lungs)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / max(1.0, float(a.sum() + b.sum()))
