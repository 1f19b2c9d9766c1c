"""Trachea and bronchi: a seed found by following a round dark spot, then growing until it would explode."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungvq.segment._coarse import box_around, coarsen
from lungvq.volume import Volume

SEED_AREA_MM2 = (50.0, 800.0)
SEED_CHAIN_MM = 25.0  # a trachea is followed at least this far
MAX_AIRWAY_ML = 160.0  # trachea and bronchi of a tall adult hold about 100 mL on CT
AIRWAY_GRID_MM = 1.3


@dataclass(frozen=True)
class Trachea:
    """Where the trachea was followed, one point a slice.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        LPS mm, from the head down.
    hu : float
        Median of the centre voxels.
    """

    points: NDArray[np.float64]
    hu: float


def find_trachea(coarse: Volume, inside: NDArray[np.bool_], midline_mm: float) -> Trachea | None:
    """Follow a round, dark, slowly moving spot near the midline from slice to slice.

    Parameters
    ----------
    coarse : Volume
        HU in canonical order, voxels of some 2-3 mm (slices may be thicker).
    inside : ndarray of bool
        Inside the body.
    midline_mm : float
        x of the middle of the body, LPS mm.

    Returns
    -------
    Trachea or None
        None where no chain of at least 25 mm is found.
    """
    dz, dy, dx = coarse.spacing
    chains: list[list[tuple[int, float, float, float, float]]] = []
    open_chains: list[list[tuple[int, float, float, float, float]]] = []
    for k in range(coarse.shape[0] - 1, -1, -1):
        spots = _round_spots(coarse, inside, midline_mm, k)
        still_open = []
        for chain in open_chains:
            last = chain[-1]
            near = [s for s in spots if np.hypot((s[1] - last[1]) * dy, (s[2] - last[2]) * dx) < 4 + 1.2 * dz]
            near = [s for s in near if 0.4 < s[3] / last[3] < 2.5]
            if near:
                best = min(near, key=lambda s: abs(s[1] - last[1]) + abs(s[2] - last[2]))
                spots.remove(best)
                chain.append(best)
                still_open.append(chain)
            else:
                chains.append(chain)
        open_chains = still_open + [[s] for s in spots]
    chains += open_chains
    long = [c for c in chains if (c[0][0] - c[-1][0] + 1) * dz >= SEED_CHAIN_MM]
    if not long:
        return None
    # The longest, and a wide one rather than a thin one (oesophageal air).
    best_chain = max(long, key=lambda c: len(c) * np.sqrt(np.median([s[3] for s in c])))
    points = coarse.grid.world(np.array([s[:3] for s in best_chain], float))
    return Trachea(points, float(np.median([s[4] for s in best_chain])))


def _round_spots(
    coarse: Volume, inside: NDArray[np.bool_], midline_mm: float, k: int
) -> list[tuple[int, float, float, float, float]]:
    """(k, j, i, area mm2, darkest HU) of compact dark spots of one slice near the midline."""
    _, dy, dx = coarse.spacing
    labels, _ = ndimage.label((coarse.array[k] < -600) & inside[k])
    spots = []
    for n, box in enumerate(ndimage.find_objects(labels), start=1):
        spot = labels[box] == n
        area = spot.sum() * dy * dx
        height, width = spot.shape[0] * dy, spot.shape[1] * dx
        if not SEED_AREA_MM2[0] <= area <= SEED_AREA_MM2[1] or not 0.4 < height / width < 2.5:
            continue
        if area < 0.5 * height * width:
            continue
        darkest = float(coarse.array[k][box][spot].min())
        j, i = (float(a.mean()) for a in np.nonzero(spot))
        j, i = j + box[0].start, i + box[1].start
        x = coarse.grid.world((k, j, i))[0]
        if darkest < -850 and abs(x - midline_mm) < 45:
            spots.append((k, j, i, float(area), darkest))
    return spots


@numba.njit(cache=True)
def _flood(array, seeds, threshold, limit):
    """Voxels below `threshold` connected by faces to `seeds`; stops beyond `limit` voxels."""
    nz, ny, nx = array.shape
    mask = np.zeros(array.shape, np.bool_)
    queue = np.empty((limit + 8, 3), np.int32)
    head = tail = 0
    for n in range(seeds.shape[0]):
        k, j, i = seeds[n]
        if array[k, j, i] < threshold and not mask[k, j, i] and tail < limit:
            mask[k, j, i] = True
            queue[tail] = seeds[n]
            tail += 1
    while head < tail and tail < limit:
        k, j, i = queue[head]
        head += 1
        for step in range(6):
            z, y, x = k, j, i
            d = 1 if step % 2 else -1
            if step < 2:
                z += d
            elif step < 4:
                y += d
            else:
                x += d
            if (
                0 <= z < nz
                and 0 <= y < ny
                and 0 <= x < nx
                and not mask[z, y, x]
                and array[z, y, x] < threshold
            ):
                mask[z, y, x] = True
                queue[tail, 0], queue[tail, 1], queue[tail, 2] = z, y, x
                tail += 1
    return mask, tail


def grow_airways(ct: Volume, trachea: Trachea) -> tuple[Volume, bool]:
    """Trachea and bronchi by the highest threshold that does not leak.

    The threshold climbs from just above tracheal air; where the volume explodes the step before is kept.

    Parameters
    ----------
    ct : Volume
        HU in canonical order, any spacing.
    trachea : Trachea
        Where to start.

    Returns
    -------
    airways : Volume of bool
        On a grid of about 1.3 mm, not on that of `ct`.
    leaked : bool
        Whether even the first threshold exploded; the mask is then empty.
    """
    fine = coarsen(ct, AIRWAY_GRID_MM)
    array = fine.array
    if fine.voxel_ml < 0.004:  # calm the noise of thin slices: it opens holes in thin walls
        array = ndimage.gaussian_filter(array, 0.5)
    seeds = np.rint(fine.grid.index(trachea.points)).astype(np.int32)
    seeds = seeds[((seeds >= 0) & (seeds < fine.shape)).all(axis=1)]
    limit = int(MAX_AIRWAY_ML / fine.voxel_ml)
    air = float(np.median(array[tuple(seeds.T)]))
    kept, kept_count = np.zeros(fine.shape, bool), 0
    for threshold in np.arange(air + 10, -550, 15):
        mask, count = _flood(array, seeds, threshold, limit)
        jump = 1.25 * kept_count + 15 / fine.voxel_ml  # the larynx may open at once: some 10 mL
        if count >= limit or (kept_count * fine.voxel_ml > 8 and count > jump):
            break
        kept, kept_count = mask, count
    if kept_count:  # noise leaves single holes in the lumen
        box = box_around(kept, (2, 2, 2))
        kept[box] |= ndimage.binary_closing(kept[box])
    return Volume(kept, fine.affine), kept_count == 0
