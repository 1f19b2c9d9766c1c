"""Registration on a chest drawn by other rules than lungvq's phantom: what was tuned on one may fail on another.

    python benchmarks/plain_chest.py --cache FOLDER [--only NAME,NAME] [--peer] [-o FILE]

Two lungs cut from ellipsoids over a dome, with a bumpy surface, a heart, ribs and a spine; each a tree of a few
hundred vessels that grows to random points; parenchyma with two scales of texture and more density at the back.
Nothing of it comes from `lungvq.phantom`. The motion phi takes expiration to inspiration: the diaphragm comes
down, the chest widens, and smooth random displacements are added; the wall does not move, so lungs slide along it.
Density is J times that of where it went, vessels keep theirs. Both scans are blurred, get noise of their own and
are sampled from voxels of half the size. ``--peer`` adds picsl-greedy at the setting that was best on lungvq's
phantoms.

What it cannot tell: lungs have no lobes, and beneath the pleura there is less to see than in people.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungvq.bench import registration as bench
from lungvq.bench.table import made_with
from lungvq.volume import Volume

Array = NDArray[np.floating]

SIZE_MM = np.array([300.0, 230.0, 330.0])  # up, back, left
NODE_MM = 3.0  # of what is smooth
APEX_MM, BASE_MM, MIDDLE_MM = 265.0, 40.0, 165.0
HILA = {2: (140.0, 115.0, 140.0), 1: (140.0, 120.0, 200.0)}
CENTRES = {2: (95.0, 58.0), 1: (235.0, 54.0)}  # right and left lung: across, half the width
HEARTS = {2: ((100, 90, 155), (50, 45, 30), 20), 1: ((100, 85, 190), (55, 50, 48), 30)}
BLOOD, WALL_HU, FAT_HU = 1.05, 40.0, -90.0
PEER = "greedy 4vox 1.5vox"


@dataclass(frozen=True, kw_only=True)
class Chest:
    """How a pair is drawn. Lengths in mm, noise and texture in HU."""

    name: str
    kind: str
    seed: int
    descent: float = 40.0
    widening: float = 0.1
    smooth_part: float = 2.0  # rms of displacements that vary over some 30 mm
    uneven_part: float = 0.0  # likewise over `uneven_over`
    uneven_over: float = 10.0
    trapped: bool = False
    vessels: int = 1500
    texture: float = 15.0
    noise: tuple[float, float] = (20.0, 30.0)  # inspiration, expiration
    voxel: float = 2.0
    slices: int = 1  # of so many voxels


PAIRS = (
    Chest(name="smooth", kind="smooth", seed=2, descent=45.0),
    Chest(name="smooth-shallow", kind="smooth", seed=1, descent=20.0, widening=0.06),
    Chest(name="smooth-low-dose", kind="smooth", seed=11, noise=(45.0, 60.0)),
    Chest(name="smooth-plain", kind="smooth", seed=9, texture=1.0, vessels=800),
    Chest(name="smooth-thick", kind="smooth", seed=7, slices=2),
    Chest(name="uneven", kind="heterogeneous", seed=4, uneven_part=1.2, uneven_over=9.0, trapped=True),
    Chest(name="deep", kind="heterogeneous", seed=3, descent=85.0, widening=0.12, uneven_part=1.0, uneven_over=12.0),
    Chest(name="fine", kind="heterogeneous", seed=8, descent=50.0, uneven_part=1.0, uneven_over=11.0, voxel=1.5),
)  # fmt: skip


def waves(rng: np.random.Generator, shape: tuple[int, ...], sigma: float, rms: float) -> NDArray[np.float32]:
    """Smooth noise."""
    field = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), sigma)
    return (rms / field.std() * field).astype(np.float32)


def grid_points(shape: tuple[int, ...], step: float, first: int = 0, last: int | None = None) -> Array:
    """Places of voxels in mm, (3, K, J, I), of layers from the first to before the last."""
    layers = np.arange(first, shape[0] if last is None else last)
    axes = [step * n for n in (layers, np.arange(shape[1]), np.arange(shape[2]))]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


class Motion:
    """phi, from expiration to inspiration, on splines between nodes."""

    def __init__(self, chest: Chest, rng: np.random.Generator) -> None:
        shape = node_shape(NODE_MM)
        z, y, x = grid_points(shape, NODE_MM)
        height = np.clip((APEX_MM - z) / (APEX_MM - BASE_MM - chest.descent), 0, 1.15)
        u = np.stack(
            [
                -chest.descent * height**1.3,
                chest.widening * (y - 200) * (0.5 + 0.5 * height / (1 + height)),
                chest.widening * (x - MIDDLE_MM),
            ]
        )
        for one in u:
            one += waves(rng, shape, 30 / NODE_MM, chest.smooth_part)
            if chest.uneven_part:
                one += waves(rng, shape, chest.uneven_over / NODE_MM, chest.uneven_part)
        if chest.trapped:  # a ball that moves nearly as its middle does
            middle = np.array([150.0, 130.0, 90.0])
            away = ((np.stack([z, y, x]) - middle[:, None, None, None]) ** 2).sum(axis=0)
            held = 0.8 * np.exp(-((away / 35**2) ** 2))
            at_middle = u[(slice(None), *(middle / NODE_MM).astype(int))]
            u = (1 - held) * u + held * at_middle[:, None, None, None]
        self._splines = [ndimage.spline_filter(one) for one in u]
        self._jacobian = ndimage.spline_filter(self.jacobian(np.stack([z, y, x])))

    def displacement(self, points: Array) -> Array:
        """mm at points (3, ...)."""
        at = points / NODE_MM
        return np.stack(
            [ndimage.map_coordinates(s, at, prefilter=False, mode="nearest") for s in self._splines]
        )

    def jacobian(self, points: Array) -> Array:
        """det grad phi at points (3, ...), by differences over 0.6 mm."""
        rows = []
        for axis in range(3):
            step = np.zeros((3, *[1] * (points.ndim - 1)), np.float32)
            step[axis] = 0.3
            rows.append((self.displacement(points + step) - self.displacement(points - step)) / 0.6)
        gradient = np.moveaxis(np.stack(rows), (0, 1), (-2, -1)) + np.eye(3)
        return np.linalg.det(gradient)

    def expansion(self, points: Array) -> Array:
        """The Jacobian between nodes: faster."""
        return ndimage.map_coordinates(self._jacobian, points / NODE_MM, prefilter=False, mode="nearest")

    def came_from(self, points: Array) -> Array:
        """Where phi leads to `points` (3, N) from."""
        found = points.copy()
        for _ in range(200):
            found += 0.7 * (points - found - self.displacement(found))
        return found


def node_shape(step: float) -> tuple[int, int, int]:
    """Of a grid that covers the chest."""
    k, j, i = (int(n) for n in SIZE_MM / step + 2)
    return k, j, i


def lungs_at(points: Array, bumps: Array | float = 0.0) -> NDArray[np.uint8]:
    """1 left and 2 right, at places of inspiration."""
    z, y, x = points
    labels = np.zeros(z.shape, np.uint8)
    for side, (centre, half) in CENTRES.items():
        ball = ((x - centre) / half) ** 2 + ((y - 115) / 88) ** 2 + (np.maximum(z - 120, 0) / 150) ** 2
        dome = 40 + 28 * np.exp(-(((x - centre) / 45) ** 2 + ((y - 95) / 60) ** 2))
        (hz, hy, hx), (rz, ry, rx), size = HEARTS[side]
        heart = size * (1 - ((x - hx) / rx) ** 2 - ((y - hy) / ry) ** 2 - ((z - hz) / rz) ** 2)
        depth = np.minimum(np.minimum(30 * (1 - ball), z - dome) + bumps, -heart)
        labels[depth > 0] = side
    return labels


def vessels(chest: Chest, rng: np.random.Generator, step: float) -> tuple[NDArray[np.float32], Array]:
    """The share of each voxel that is vessel, at inspiration, and where vessels of four or more ends fork."""
    share = np.zeros(node_shape(step), np.float32)
    forks = []
    for side, hilum in HILA.items():
        centre = CENTRES[side][0]
        tips = rng.uniform([30, 20, centre - 65], [275, 210, centre + 65], (20000, 3))
        tips = tips[lungs_at(tips.T) > 0][: chest.vessels // 2]
        tips = tips[np.argsort(np.linalg.norm(tips - hilum, axis=1))]
        nodes, before = np.vstack([hilum, tips]), [-1]
        inwards = 0.3 * np.linalg.norm(nodes - hilum, axis=1)
        for n, tip in enumerate(tips, start=1):
            before.append(int(np.argmin(np.linalg.norm(nodes[:n] - tip, axis=1) + inwards[:n])))
        ends = np.ones(len(nodes))
        for n in range(len(nodes) - 1, 0, -1):
            ends[before[n]] += ends[n]
        for n in range(1, len(nodes)):
            _draw(share, nodes[before[n]], nodes[n], min(0.8 * ends[n] ** 0.33, 6.0), step)
        forks.append(nodes[1:][ends[1:] > 3])
    return share, np.concatenate(forks)


def _draw(share: NDArray[np.float32], a: Array, b: Array, radius: float, step: float) -> None:
    """A tube from a to b; thinner than a voxel it fills less of it."""
    low = np.maximum(np.floor((np.minimum(a, b) - radius) / step).astype(int) - 1, 0)
    high = np.minimum(np.ceil((np.maximum(a, b) + radius) / step).astype(int) + 2, share.shape)
    box = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    place = np.stack(
        np.meshgrid(*(step * np.arange(*ends) for ends in zip(low, high, strict=True)), indexing="ij"), -1
    )
    along = b - a
    t = np.clip((place - a) @ along / max(float(along @ along), 1e-6), 0, 1)
    away = np.linalg.norm(place - a - t[..., None] * along, axis=-1)
    fills = np.clip((radius - away) / step + 0.5, 0, 1) * min(1.0, (radius / (0.6 * step)) ** 2)
    share[box] = np.maximum(share[box], fills)


def outside_hu(points: Array) -> Array:
    """Wall, fat, ribs and spine, which breathing does not move, and air around them."""
    z, y, x = points
    skin = np.hypot((x - MIDDLE_MM) / 148, (y - 115) / 102)
    hu = np.where(skin > 1, FAT_HU, WALL_HU + 15 * np.sin(z / 9) * np.sin(x / 11))
    hu = np.where((np.abs((z + 0.3 * y) % 26 - 13) < 5) & (np.abs(skin - 0.97) < 0.03), 500, hu)
    hu = np.where((np.hypot(x - MIDDLE_MM, y - 200) < 18) & (z % 30 < 24), 350, hu)
    return np.where(((x - MIDDLE_MM) / 160) ** 2 + ((y - 115) / 112) ** 2 < 1, hu, -1000)


def make(chest: Chest) -> bench.TruePair:
    """Both scans, their true lungs, and the truth at each voxel of the expired ones."""
    rng = np.random.default_rng(chest.seed)
    bumps = waves(rng, node_shape(NODE_MM), 5, 2.0)
    texture = sum(waves(rng, node_shape(2.0), sigma, chest.texture) for sigma in (1.5, 5))
    step = chest.voxel / 2
    tree, forks = vessels(chest, rng, step)
    motion = Motion(chest, rng)
    k, j, i = (2 * int(n // chest.voxel) for n in SIZE_MM)

    def drawn(moved: bool) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        hu, labels = np.empty((k, j, i), np.float32), np.empty((k, j, i), np.uint8)
        for first in range(0, k, 20):
            layers = slice(first, min(first + 20, k))
            here = grid_points((k, j, i), step, layers.start, layers.stop)
            there = here + motion.displacement(here) if moved else here
            expansion = motion.expansion(here) if moved else 1.0

            def seen(array: Array, mm: float, at: Array = there) -> Array:
                return ndimage.map_coordinates(array, at / mm, order=1, mode="nearest")

            labels[layers] = lungs_at(there, seen(bumps, NODE_MM))
            tissue = np.clip((130 + 0.12 * (there[1] - 115) + seen(texture, 2.0)) / 1000, 0.03, None)
            vessel = seen(tree, step)
            density = np.minimum(tissue * expansion, BLOOD) * (1 - vessel) + BLOOD * vessel
            hu[layers] = np.where(labels[layers] > 0, 1000 * density - 1000, outside_hu(here))
        return hu, labels

    def scanned(hu: Array, labels: Array, sd: float, which: int) -> tuple[Volume, Volume]:
        soft = _means(ndimage.gaussian_filter(hu, 0.7 / step), (2, 2, 2))
        noise = waves(np.random.default_rng([chest.seed, which]), soft.shape, 0.5, sd)
        slices = (chest.slices, 1, 1)
        values = np.clip(np.rint(_means(soft + noise, slices)), -1024, 3000).astype(np.int16)
        mask = np.zeros(values.shape, np.uint8)
        for side in (1, 2):
            mask[_means(_means((labels == side).astype(np.float32), (2, 2, 2)), slices) >= 0.5] = side
        affine = np.array(
            [[0, 0, chest.voxel, step / 2], [0, chest.voxel, 0, step / 2], [0, 0, 0, 0], [0, 0, 0, 1.0]]
        )
        affine[2, 0] = chest.voxel * chest.slices
        affine[2, 3] = step / 2 + chest.voxel * (chest.slices - 1) / 2
        return Volume(values, affine), Volume(mask, affine)

    moving, moving_lungs = scanned(*drawn(False), chest.noise[0], 1)
    fixed, fixed_lungs = scanned(*drawn(True), chest.noise[1], 2)
    points = fixed_lungs.grid.world(np.argwhere(fixed_lungs.array > 0))[:, ::-1].T.astype(np.float32)
    forks = forks[:: max(1, len(forks) // 400)].T.astype(np.float32)
    return bench.TruePair(
        fixed,
        moving,
        fixed_lungs,
        moving_lungs,
        fixed_lungs,
        moving_lungs,
        motion.displacement(points)[::-1].T.astype(np.float32),
        motion.jacobian(points).astype(np.float32),
        np.stack([motion.came_from(forks)[::-1].T, forks[::-1].T], axis=1),
    )


def _means(array: Array, block: tuple[int, int, int]) -> Array:
    """Over blocks of voxels, what is left over cut off."""
    k, j, i = (n // size for n, size in zip(array.shape, block, strict=True))
    cut = array[: k * block[0], : j * block[1], : i * block[2]]
    return cut.reshape(k, block[0], j, block[1], i, block[2]).mean(axis=(1, 3, 5), dtype=np.float32)


def main() -> None:
    """Parse the command line, make what is missing, register, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=Path("plain-chest"), help="where pairs are kept")
    parser.add_argument("--only", help="only the pairs of these names, separated by commas")
    parser.add_argument("--seeds", type=int, default=0, help="added to each pair's seed: other chests")
    parser.add_argument("--peer", action="store_true", help=f"also {PEER}")
    parser.add_argument("--output", "-o", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [chest.name for chest in PAIRS]
    if unknown := sorted(set(wanted) - {chest.name for chest in PAIRS}):
        sys.exit(f"no pair {', '.join(unknown)}; expected of {', '.join(chest.name for chest in PAIRS)}")
    options.cache.mkdir(parents=True, exist_ok=True)
    rows = []
    for chest in PAIRS:
        if chest.name not in wanted:
            continue
        chest = replace(chest, seed=chest.seed + options.seeds)
        path = options.cache / f"{chest.name}-{chest.seed}.npz"
        if not path.exists():
            bench.save_pair(make(chest), path)
        pair = bench.load_pair(path)
        for method in ("lungvq", PEER) if options.peer else ("lungvq",):
            found = bench.run_method(pair, method, None)
            print(f"{chest.name}, {method}: {found['values']['dense_mean']:.3f} mm", file=sys.stderr)
            rows.append({"pair": chest.name, "kind": chest.kind, "method": method, **found})
    text = "\n".join([made_with("python " + " ".join(sys.argv)), "", bench.machine(), "", bench.report(rows)])
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
