"""Trachea and bronchi: a seed found by following a round dark spot, then growing until it would explode.

Twice: at first all of it with one threshold, which stops where the first wall gives way but needs to know
nothing of the lungs (`grow_airways`); and once these are known, front by front, each with a threshold of its own
(`follow_bronchi`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from lungvq.segment._coarse import coarsen
from lungvq.volume import Volume, box_around

SEED_AREA_MM2 = (50.0, 800.0)
SEED_CHAIN_MM = 25.0  # a trachea is followed at least this far
MAX_AIRWAY_ML = 160.0  # trachea and bronchi of a tall adult hold about 100 mL on CT
AIRWAY_GRID_MM = 1.3

# Following bronchi front by front
FINE_GRID_MM = (0.9, 1.5)  # cubic voxels between these
TRACHEA_MM2 = 400.0
STEP_MM = 5.0  # a front goes on by so much at a time,
LOOK_AHEAD_MM = 18.0  # after trying so much.
EXPLOSION = 2.0  # what lies ahead may hold so many times what the airway would if it went on as wide,
EXPLOSION_MM3 = 40.0  # and so much besides (a bit at once, the rest with the distance).
HIGHEST_HU, ABOVE_AIR_HU, THRESHOLD_STEP_HU = -400.0, 20.0, 10.0
THRESHOLDS_BACK = 6  # a front begins so many thresholds above that which served the one before


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
    top = int(seeds[:, 0].max()) + 1  # where the trachea was first seen; beyond may lie open air
    array = array[:top]
    limit = int(MAX_AIRWAY_ML / fine.voxel_ml)
    air = float(np.median(array[tuple(seeds.T)]))
    kept, kept_count = np.zeros(array.shape, bool), 0
    for threshold in np.arange(air + 10, -550, 15):
        mask, count = _flood(array, seeds, threshold, limit)
        jump = 1.25 * kept_count + 15 / fine.voxel_ml  # the larynx may open at once: some 10 mL
        if count >= limit or (kept_count * fine.voxel_ml > 8 and count > jump):
            break
        kept, kept_count = mask, count
    if kept_count:  # noise leaves single holes in the lumen
        box = box_around(kept, (2, 2, 2))
        kept[box] |= ndimage.binary_closing(kept[box])
    found = np.zeros(fine.shape, bool)
    found[:top] = kept
    return Volume(found, fine.affine), kept_count == 0


def follow_bronchi(ct: Volume, lungs: NDArray[np.uint8], trachea: Trachea) -> Volume:
    """Trachea and bronchi as far as their walls can be told from the lung, each with its own threshold.

    A front of voxels begins in the trachea and goes down 5 mm at a time. Before it does so, the next 18 mm are
    flooded with a threshold well above air; where that floods more than the airway could hold, were it to go
    on as wide and fork, a wall has given way, and a lower threshold is tried, down to just above air; then the
    front has arrived. What falls apart into several fronts goes on as these.

    Parameters
    ----------
    ct : Volume
        HU in canonical order, any spacing.
    lungs : ndarray of uint8
        Lung labels on the grid of `ct`.
    trachea : Trachea

    Returns
    -------
    Volume of bool
        On a grid of cubic voxels of 0.9 mm or more, which covers the lungs and the trachea above them.

    Notes
    -----
    Growing by wavefronts with control of explosions, as in Schlathoelter T et al. (2002), Proc SPIE 4684:103-113.
    """
    fine = _fine_part(ct, lungs > 0, trachea)
    array, size = fine.array, fine.spacing[0]
    taken = np.full(fine.shape, True)
    taken[1:-1, 1:-1, 1:-1] = False  # a border that no front crosses
    seeds = np.rint(fine.grid.index(trachea.points)).astype(int)
    seeds = seeds[((seeds > 1) & (seeds < np.array(fine.shape) - 2)).all(axis=1)]
    if len(seeds) == 0:
        return fine.like(np.zeros(fine.shape, bool))
    air = float(np.median(array[tuple(seeds.T)]))
    thresholds = np.arange(HIGHEST_HU, air + ABOVE_AIR_HU, -THRESHOLD_STEP_HU)
    if len(thresholds) == 0:
        return fine.like(np.zeros(fine.shape, bool))
    k, j, i = seeds[0]
    labels, _ = ndimage.label(array[k] < (thresholds[0] + air) / 2)
    disk = labels == labels[j, i] if labels[j, i] else np.zeros(labels.shape, bool)
    disk[j, i] = True
    disk &= ~taken[k]
    taken[k + 1 :] = True
    before = taken.copy()
    taken[k] |= disk
    rows, columns = fine.shape[1:]
    offsets = np.array([rows * columns, -rows * columns, columns, -columns, 1, -1])
    ahead = np.arange(1, int(np.ceil(LOOK_AHEAD_MM / size)) + 1)
    spare = EXPLOSION_MM3 / size**3 * (0.3 + 0.7 * ahead / len(ahead))
    flat, marked = array.ravel(), taken.ravel()
    # (voxels of a front, the first threshold to try, voxels of a layer of the airway)
    fronts = deque([(np.flatnonzero(disk) + k * rows * columns, 0, TRACHEA_MM2 / size**2)])
    while fronts:
        front, first, area = fronts.popleft()
        limits = (spare + EXPLOSION * area * ahead).astype(np.int64)
        for n in range(first, len(thresholds)):
            last = _advance(flat, marked, offsets, front, thresholds[n], int(np.ceil(STEP_MM / size)), limits)
            if len(last) == 0 or last[0] >= 0:
                break
        else:
            continue
        for part in _parts(last, (rows, columns)):
            fronts.append((part, max(n - THRESHOLDS_BACK, 0), min(area, len(part))))
    return fine.like(taken & ~before)


def _fine_part(ct: Volume, mask: NDArray[np.bool_], trachea: Trachea) -> Volume:
    """HU of what holds the lungs and the trachea above them, on cubic voxels."""
    margin = tuple(int(np.ceil(8.0 / s)) for s in ct.spacing)
    box = box_around(mask, margin)
    top = int(np.ceil(ct.grid.index(trachea.points[0])[0])) + 2
    part = ct.crop((slice(box[0].start, min(max(box[0].stop, top), ct.shape[0])), box[1], box[2]))
    low, high = FINE_GRID_MM
    least = min(ct.spacing)
    size = float(np.clip(least, low, high)) if least < 2 * high else least / 2
    return part.resample(part.grid.with_spacing((size, size, size)), fill=100.0, antialias=False)


@numba.njit(cache=True)
def _advance(hu, taken, offsets, front, threshold, keep, limits):
    """Flood from `front` layer by layer, and undo what lies more than `keep` layers ahead.

    All is undone where the first n layers hold more than ``limits[n - 1]`` voxels: then -1 is returned, else
    the voxels of the last layer kept, none where there is nothing ahead.
    """
    found = np.empty(limits[-1] + 8, np.int64)
    found_count = kept = kept_from = 0
    layer_from = 0
    for layer in range(len(limits)):
        source = front if layer == 0 else found[layer_from:found_count]
        layer_from = found_count
        for v in source:
            for step in offsets:
                w = v + step
                if not taken[w] and hu[w] < threshold and found_count <= limits[layer]:
                    taken[w] = True
                    found[found_count] = w
                    found_count += 1
        if found_count > limits[layer]:
            for n in range(found_count):
                taken[found[n]] = False
            return np.array([-1])
        if found_count == layer_from:
            break
        if layer < keep:
            kept, kept_from = found_count, layer_from
    for n in range(kept, found_count):
        taken[found[n]] = False
    return found[kept_from:kept].copy()


def _parts(front: NDArray[np.int64], plane: tuple[int, int]) -> list[NDArray[np.int64]]:
    """The connected parts of a front: voxels no more than 2 apart, in 3 steps at most."""
    k, rest = np.divmod(front, plane[0] * plane[1])
    place = np.stack([k, *np.divmod(rest, plane[1])], axis=1)
    near = cKDTree(place).query_pairs(3.01, p=1, output_type="ndarray")
    near = near[(np.abs(place[near[:, 0]] - place[near[:, 1]]) < 3).all(axis=1)]
    links = coo_array((np.ones(len(near)), (near[:, 0], near[:, 1])), shape=(len(front),) * 2)
    count, labels = connected_components(links, directed=False)
    return [front[labels == n] for n in range(count)]
