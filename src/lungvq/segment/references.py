"""Tissues of known density in a chest CT: tracheal air and blood, for checking and calibrating HU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungvq.anatomy import LEFT, RIGHT
from lungvq.segment._coarse import coarsen, erode
from lungvq.segment.lungs import find_body
from lungvq.volume import Volume, box_around

if TYPE_CHECKING:
    from lungvq.segment import Anatomy

__all__ = ["HuReferences", "reference_tissue", "track_aorta"]

AORTA_RADIUS_MM = (8.0, 18.0)
AORTA_CHAIN_MM = 40.0
AORTA_ASIDE_MM = 10.0
BLOOD_HU = (-15.0, 110.0)  # wide enough for an offset of 30 HU and for smoothed noise
ENHANCED_HU = (110.0, 1500.0)
MIN_ENHANCED_ML = 40.0  # 8 mm inside the surface of what is so bright
MOST_DEEP = 0.55  # of the lungs' way from front to back: the spine lies beyond, and is as bright
MIN_AIR_ML = 0.3
MIN_BLOOD_ML = 3.0
CLIPPED_HU = -990.0  # from there on: ends at -1000 or -1024 leave the median of air as it is
NOISELESS_HU = 1.0  # a scan with less noise than that has constant tissues without any clipping
AORTA = "descending aorta"
POOL = "heart and great vessels"

Mask = NDArray[np.bool_]
_RING = np.linspace(0, 2 * np.pi, 32, endpoint=False)


@dataclass(frozen=True)
class HuReferences:
    """What tracheal air and blood read in this scan.

    Parameters
    ----------
    air_hu, air_ml : float or None, float
        Median HU of the trachea's lumen without its wall, and the volume it was read from; None below 0.3 mL, or
        where it is no more than where the scan's values end.
    blood_hu, blood_ml : float or None, float
        Likewise for blood; None below 3 mL.
    blood_site : str
        ``"descending aorta"``, ``"heart and great vessels"`` or ``""``.
    noise_hu : float or None
        Robust standard deviation of single voxels within the blood, else within tracheal air.
    lowest_hu, highest_hu : float or None
        Where the scan's values were clipped so that air (above -990 HU) or blood reads as the limit.
    """

    air_hu: float | None
    air_ml: float
    blood_hu: float | None
    blood_ml: float
    blood_site: str
    noise_hu: float | None
    lowest_hu: float | None = None
    highest_hu: float | None = None


def reference_tissue(ct: Volume, anatomy: Anatomy) -> HuReferences:
    """Read the HU of tracheal air and of blood.

    Parameters
    ----------
    ct : Volume
        HU, canonical order.
    anatomy : Anatomy
        Of `ct`.

    Returns
    -------
    HuReferences
    """
    air = _tracheal_air(ct, anatomy.airways.array > 0)
    blood, site = _blood(ct, anatomy)
    air_ml, blood_ml = air.size * ct.voxel_ml, blood.size * ct.voxel_ml
    air_hu = float(np.median(air)) if air_ml >= MIN_AIR_ML else None
    blood_hu = float(np.median(blood)) if blood_ml >= MIN_BLOOD_ML else None
    noise = None
    if blood_ml >= MIN_BLOOD_ML:
        noise = _robust_sd(blood)
    elif air_ml >= MIN_AIR_ML and np.ptp(np.percentile(air, (5, 50))) > 1:  # not clipped at -1000 or -1024
        noise = _robust_sd(air)
    # Bone is denser than blood, unless values end there.
    ends_above = blood_hu is not None and ct.array.max() <= blood_hu
    noise = None if ends_above else noise
    # With noise a median has voxels on both sides of it, unless values end there.
    ends_below = air_hu is not None and air_hu > CLIPPED_HU and air.min() >= air_hu
    ends_below = ends_below and (noise is None or noise > NOISELESS_HU)
    return HuReferences(
        air_hu=None if ends_below else air_hu,
        air_ml=air_ml,
        blood_hu=None if ends_above else blood_hu,
        blood_ml=blood_ml,
        blood_site=site if blood_ml >= MIN_BLOOD_ML else "",
        noise_hu=noise,
        lowest_hu=air_hu if ends_below else None,
        highest_hu=blood_hu if ends_above else None,
    )


def _robust_sd(values: np.ndarray) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _tracheal_air(ct: Volume, airways: Mask) -> np.ndarray:
    """HU deep in the airways: at least 3 mm and a voxel and a half from the wall, where no wall blurs in."""
    if not airways.any():
        return np.empty(0, ct.array.dtype)
    box = box_around(airways, (1, 1, 1))
    core = erode(airways[box], max(3.0, 1.3 * max(ct.spacing)), ct.spacing)
    values: np.ndarray = ct.array[box][core]
    return values


def _blood(ct: Volume, anatomy: Anatomy) -> tuple[np.ndarray, str]:
    coarse = coarsen(ct, 2.5)
    lungs = anatomy.lungs.resample_labels(coarse.grid).array
    enhanced = blood_pool(coarse, _front(lungs), ENHANCED_HU)
    if enhanced.sum() * coarse.voxel_ml >= MIN_ENHANCED_ML:
        return _at(ct, coarse.like(enhanced.astype(np.uint8))), POOL
    midline = find_body(coarse).midline_mm
    track = track_aorta(coarse, lungs, midline)
    if len(track):
        values = _within_discs(ct, track)
        if values.size * ct.voxel_ml >= MIN_BLOOD_ML:
            return values, AORTA
    pool = blood_pool(coarse, lungs)
    return _at(ct, coarse.like(pool.astype(np.uint8))), POOL


def _front(lungs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The lungs before the spine."""
    rows = np.flatnonzero((lungs > 0).any(axis=(0, 2)))
    front = lungs.copy()
    if len(rows):
        front[:, rows[0] + round(MOST_DEEP * (rows[-1] - rows[0])) :] = 0
    return front


def _at(ct: Volume, mask: Volume) -> np.ndarray:
    """Voxels of `ct` within a mask on another grid."""
    chosen = mask.resample_labels(ct.grid).array > 0
    values: np.ndarray = ct.array[chosen]
    return values


def _within_discs(ct: Volume, track: NDArray[np.float64]) -> np.ndarray:
    """Voxels within discs (x, y, z, radius), 3 mm inside their rim and at least a voxel."""
    values = []
    at = ct.grid.index(track[:, :3])
    order = np.argsort(at[:, 0])
    at, radius = at[order], np.maximum(track[order, 3] - max(3.0, 1.01 * max(ct.spacing[1:])), 0)
    dy, dx = ct.spacing[1:]
    rows, columns = np.arange(ct.shape[1])[:, None], np.arange(ct.shape[2])[None, :]
    for k in range(max(0, int(np.ceil(at[0, 0]))), min(ct.shape[0] - 1, int(at[-1, 0])) + 1):
        j, i, r = (float(np.interp(k, at[:, 0], v)) for v in (at[:, 1], at[:, 2], radius))
        values.append(ct.array[k][((rows - j) * dy) ** 2 + ((columns - i) * dx) ** 2 < r * r])
    return np.concatenate(values) if values else np.empty(0, ct.array.dtype)


def track_aorta(
    coarse: Volume, lungs: NDArray[np.uint8], midline_mm: float, *, side: int = LEFT
) -> NDArray[np.float64]:
    """Follow the descending aorta: a disc of blood beside the spine that hardly moves from slice to slice.

    In each slice the candidates are the local maxima of the distance to anything that is not soft tissue
    (lung, fat, bone) with a radius of 8 to 18 mm, up to 50 mm beside the midline, behind the middle of the
    lung.

    Parameters
    ----------
    coarse : Volume
        HU, canonical order, voxels of some 2-3 mm.
    lungs : ndarray of uint8
        On the same grid.
    midline_mm : float
        x of the spine.
    side : int, optional
        Where to look; the aorta is on the left, the right serves as a control.

    Returns
    -------
    ndarray, shape (N, 4)
        x, y, z of the centre (LPS mm) and radius in mm, from the head down; empty where no disc can be
        followed over 40 mm.
    """
    dz = coarse.spacing[0]
    smooth = ndimage.gaussian_filter(coarse.array, [min(1.0, 3.0 / s) for s in coarse.spacing])
    soft = (smooth > BLOOD_HU[0]) & (smooth < BLOOD_HU[1]) & (lungs == 0)
    slices = np.flatnonzero((lungs > 0).any(axis=(1, 2)))
    chains: list[list[tuple[float, ...]]] = []
    growing: list[list[tuple[float, ...]]] = []
    for k in slices[::-1]:
        discs = _discs(coarse, soft[k], lungs[k] == side, int(k), midline_mm, side)
        still = []
        for chain in growing:
            last = chain[-1]
            near = [
                d
                for d in discs
                if np.hypot(d[0] - last[0], d[1] - last[1]) < 3 + 0.8 * dz and abs(d[3] - last[3]) < 5
            ]
            if near:
                best = min(near, key=lambda d: np.hypot(d[0] - last[0], d[1] - last[1]) + abs(d[3] - last[3]))
                discs.remove(best)
                chain.append(best)
                still.append(chain)
            else:
                chains.append(chain)
        growing = still + [[d] for d in discs]
    chains += growing
    long = [np.array(c) for c in chains if (len(c) - 1) * dz >= AORTA_CHAIN_MM]
    # What stays in the middle all along is oesophagus and mediastinum: the aorta comes down from the side.
    beside = [c for c in long if np.percentile(abs(c[:, 0] - midline_mm), 90) >= AORTA_ASIDE_MM]
    if not beside:
        return np.empty((0, 4))
    # Steady in radius and place, and long.
    return max(beside, key=lambda c: len(c) / (4.0 + c[:, 3].std() + np.diff(c[:, :2], axis=0).std()))


def _discs(
    coarse: Volume, soft: Mask, lung: Mask, k: int, midline_mm: float, side: int
) -> list[tuple[float, ...]]:
    """(x, y, z, radius) of the discs of soft tissue of one slice that could be the descending aorta."""
    _, dy, dx = coarse.spacing
    rows = np.flatnonzero(lung.any(axis=1))
    if len(rows) < 2:
        return []
    distance = ndimage.distance_transform_edt(soft, sampling=(dy, dx))
    size = (int(2 * round(6 / dy) + 1), int(2 * round(6 / dx) + 1))
    peak = (distance == ndimage.maximum_filter(distance, size)) & (distance >= AORTA_RADIUS_MM[0])
    peak &= distance <= AORTA_RADIUS_MM[1]
    discs: list[tuple[float, ...]] = []
    for j, i in np.argwhere(peak):
        x, y, z = coarse.grid.world((k, j, i))
        lateral = (x - midline_mm) * (1 if side == LEFT else -1)
        depth = (j - rows[0]) / (rows[-1] - rows[0])
        if not (3 < lateral < 50 and 0.45 < depth < 0.9):
            continue
        # Set off from what is around it over much of its rim: a bulge of something larger is not.
        ring_j = np.rint(j + (distance[j, i] + 3) * np.sin(_RING) / dy).astype(int).clip(0, soft.shape[0] - 1)
        ring_i = np.rint(i + (distance[j, i] + 3) * np.cos(_RING) / dx).astype(int).clip(0, soft.shape[1] - 1)
        if (~soft[ring_j, ring_i]).mean() > 0.4:
            discs.append((float(x), float(y), float(z), float(distance[j, i])))
    return discs


def blood_pool(coarse: Volume, lungs: NDArray[np.uint8], within_hu: tuple[float, float] = BLOOD_HU) -> Mask:
    """The largest body of soft tissue between the lungs, 8 mm inside its surface: mostly heart.

    Parameters
    ----------
    coarse : Volume
        HU, canonical order.
    lungs : ndarray of uint8
        On the same grid.
    within_hu : tuple of float, optional
        What counts as soft tissue.
    """
    between = np.logical_or.accumulate(lungs == RIGHT, axis=2)
    between &= np.logical_or.accumulate((lungs == LEFT)[:, :, ::-1], axis=2)[:, :, ::-1]
    smooth = ndimage.gaussian_filter(coarse.array, [min(1.0, 3.0 / s) for s in coarse.spacing])
    soft = between & (lungs == 0) & (smooth > within_hu[0]) & (smooth < within_hu[1])
    core = erode(soft, 8.0, coarse.spacing)
    labels, count = ndimage.label(core)
    if count == 0:
        return core
    largest: Mask = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return largest
