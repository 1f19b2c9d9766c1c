"""Left and right lung as closed masks: found on a coarse copy, their surface decided voxel by voxel.

The order of the steps: body, air enclosed by it, airways taken out, components judged by size, density and
place, lungs that touch parted, vessels and nodules closed, and last the surface at full resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from lungvq._parallel import PRANGE
from lungvq.anatomy import LEFT, RIGHT
from lungvq.errors import InputError
from lungvq.segment._coarse import close, dilate, distance_to, erode, signed_distance
from lungvq.segment.padding import PADDING_HU, columns_beyond
from lungvq.volume import Volume, box_around

COARSE_MM = 2.4
CLOSING_MM = 9.0
BODY_HU = -350.0
MIN_LUNGS_ML = 250.0
MIN_PIECE_ML = 8.0
MIN_BASES_MM = 110.0
MOST_AT_PADDING = 0.1  # of a smaller piece of lung; foam behind the back lies along a round field of view
WALL_MM = 2.6
LUMEN_HU = -925.0  # at most in the middle of a bronchus
SPLIT_LADDER_MM = (1.0, 2.0, 4.0, 7.0, 10.0, 14.0)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Body:
    """What encloses the lungs.

    Parameters
    ----------
    tissue : ndarray of bool
        The body's dense part, couch and blankets taken off.
    inside : ndarray of bool
        Enclosed by it within the slice.
    midline_mm : float
        x (LPS) of the spine, or of the middle of the body where no spine is seen.
    """

    tissue: Mask
    inside: Mask
    midline_mm: float


def find_body(coarse: Volume) -> Body:
    """The body, what it encloses, and its midline.

    Enclosed means: looking left, right, front and back within the slice, tissue is met on the left or
    right, or both in front and behind, and open air on no side. So a lung that the field of view cuts is
    still enclosed; a pocket under a blanket or foam under the back is not.

    Parameters
    ----------
    coarse : Volume
        HU, canonical order.

    Raises
    ------
    InputError
        If there is no tissue.
    """
    array, spacing = coarse.array, coarse.spacing
    dense = array > BODY_HU
    opened = dilate(erode(dense, 4.0, spacing), 4.0, spacing) & dense
    labels, count = ndimage.label(opened)
    if count == 0:
        raise InputError("no lungs found: the scan shows no body tissue")
    tissue: Mask = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    padding = columns_beyond(array)
    # Air above the head or below the feet is no way out for the air of the trachea or the bowel.
    shown = ~padding & np.asarray(tissue.any(axis=(1, 2)))[:, None, None]
    hits = np.zeros(array.shape, np.uint8)
    _look_around(tissue, _outside_air(array, padding, shown), hits)
    inside = (hits >= 2) & (hits <= 6) & ~padding
    return Body(tissue, inside, _midline(coarse, tissue))


def _outside_air(array: NDArray[np.float32], padding: Mask, shown: Mask) -> Mask:
    """Nearly pure air that reaches the left, right, front or back border of the field of view by what is `shown`."""
    seen = (~padding).astype(np.float32)
    smooth = ndimage.uniform_filter(array * seen, 3) / np.maximum(ndimage.uniform_filter(seen, 3), 1e-3)
    edge = ~padding & ~ndimage.binary_erosion(~padding)
    rim = smooth[:, edge]
    # A border that runs through lung must not pass for air: what reaches it must be as thin as air there.
    level = min(float(np.median(rim[rim < -800])), -950.0) if (rim < -800).any() else -1000.0
    thin = rim[rim < -930]
    air = min(float(np.median(thin)), -950.0) if thin.size > 0.01 * rim.size else -1000.0
    labels, _ = ndimage.label((smooth < level + 45) & shown)
    touching = np.unique(labels[:, edge][rim < air + 20])
    keep = np.zeros(labels.max() + 1, bool)
    keep[touching[touching > 0]] = True
    outside: Mask = keep[labels]
    return outside


@numba.njit(parallel=PRANGE, cache=True)
def _look_around(tissue, outside, hits):
    """Add up what rays meet within the slice: 2 for tissue on the left or right, 1 in front or behind.

    2 to 6 is a place with tissue on the left or right, or both in front and behind, and open air first on no side.
    """
    nz, ny, nx = tissue.shape
    for k in numba.prange(nz):
        for axis in range(2):
            lines, steps = (nx, ny) if axis == 0 else (ny, nx)
            for line in range(lines):
                for direction in range(2):
                    met = exposed = False
                    for n in range(steps):
                        at = n if direction == 0 else steps - 1 - n
                        j, i = (at, line) if axis == 0 else (line, at)
                        if tissue[k, j, i]:
                            met, exposed = True, False
                        elif outside[k, j, i]:
                            exposed = True
                        if exposed:
                            hits[k, j, i] += 16  # more than hits can make up for
                        elif met:
                            hits[k, j, i] += 1 + axis


def _midline(coarse: Volume, tissue: Mask) -> float:
    """x of the spine: the bone-rich sagittal plane near the middle of the body; else that middle."""
    nz, ny, nx = tissue.shape
    x = coarse.grid.world(np.stack([np.full(nx, nz / 2), np.full(nx, ny / 2), np.arange(nx)], axis=1))[:, 0]
    columns: Mask = np.asarray(tissue.any(axis=1))  # (k, i)
    low = columns.argmax(axis=1)
    high = nx - 1 - columns[:, ::-1].argmax(axis=1)
    seen = columns.any(axis=1)
    middle = float(np.median((low + high)[seen])) / 2
    middle_mm = float(np.interp(middle, np.arange(nx), x))
    rows = np.nonzero(tissue.any(axis=(0, 2)))[0]
    back = slice(int((rows[0] + rows[-1]) // 2), None)
    bone = ndimage.uniform_filter(coarse.array[:, back], 3) > 140
    profile = (bone & tissue[:, back]).sum(axis=(0, 1)) * coarse.voxel_ml
    width = 30.0 / coarse.spacing[2]
    smooth = ndimage.gaussian_filter1d(profile.astype(float), width / 2.35) * np.exp(
        -(((x - middle_mm) / 45.0) ** 2)
    )
    peak = int(smooth.argmax())
    near = abs(x - x[peak]) < 25
    if profile[near].sum() < 25:
        return middle_mm
    # The spinous processes and bodies lie symmetric to the midline: their centroid is steadier than the peak.
    return float((profile[near] * x[near]).sum() / profile[near].sum())


def air_threshold(array: NDArray[np.float32], inside: Mask) -> float:
    """HU halfway between this lung and soft tissue, within -550 and -300.

    A surface blurred by the scanner crosses halfway where it truly lies, so the limit follows the lung's
    density: about -430 on inspiration, -330 on expiration.
    """
    lung = array[inside & (array < -450) & (array > -960)]
    level = float(np.median(lung)) if lung.size else -850.0
    return float(np.clip((level + 30.0) / 2, -550.0, -300.0))


def find_lungs(coarse: Volume, body: Body, airways: Mask, threshold: float) -> NDArray[np.uint8]:
    """Closed lung masks on the coarse grid.

    Parameters
    ----------
    coarse : Volume
        HU, canonical order.
    body : Body
    airways : ndarray of bool
        Trachea and bronchi on the coarse grid.
    threshold : float
        HU below which a voxel is aerated.

    Returns
    -------
    ndarray of uint8
        1 left, 2 right, 0 elsewhere.

    Raises
    ------
    InputError
        If nothing looks like a lung.
    """
    spacing = coarse.spacing
    aerated = body.inside & (coarse.array < threshold)
    aerated &= ~around_airways(coarse, airways)
    pieces = _lung_pieces(coarse, aerated)
    _refuse_bases(pieces > 0, coarse)
    sides = part_by_side(coarse, pieces, body.midline_mm)
    closed = np.zeros(coarse.shape, np.uint8)
    whole = sides > 0
    margin = tuple(int(np.ceil(2 * CLOSING_MM / s)) + 1 for s in spacing)
    box = box_around(whole, margin)
    taken = np.zeros(closed[box].shape, bool)
    for side in (LEFT, RIGHT):
        own = sides[box] == side
        if own.any():
            full = _fill_holes(close(own, CLOSING_MM, spacing))
            full &= (sides[box] == 0) | own
            closed[box][full & ~taken] = side
            taken |= full
    return closed


def around_airways(coarse: Volume, airways: Mask) -> Mask:
    """Airways and their walls, as far as what is blurred there is as light as lung.

    Coarse voxels need at least one around trachea and bronchi, which are told by their air: around a leak into noisy
    lung as much again would be lost.
    """
    spacing = coarse.spacing
    cross = ndimage.generate_binary_structure(2, 1)[None]
    open_ = ndimage.binary_dilation(airways & (coarse.array < LUMEN_HU), cross) & airways
    return dilate(airways, WALL_MM, spacing) | dilate(open_, max(WALL_MM, 1.01 * max(spacing[1:])), spacing)


def _fill_holes(mask: Mask) -> Mask:
    """Fill what is enclosed on all sides (nodules, vessels); a diaphragm's dome is open below."""
    labels, _ = ndimage.label(~mask)
    faces = [labels[0], labels[-1], labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]]
    outside = np.zeros(labels.max() + 1, bool)
    for face in faces:
        outside[np.unique(face)] = True
    outside[0] = False
    filled: Mask = ~outside[labels]
    return filled


def _lung_pieces(coarse: Volume, aerated: Mask) -> NDArray[np.int32]:
    """Labels of the connected pieces that are lung; bowel gas, stomach, pharynx and foam are left out."""
    spacing, voxel_ml = coarse.spacing, coarse.voxel_ml
    labels, _ = ndimage.label(aerated)
    volumes = np.bincount(labels.ravel()) * voxel_ml
    volumes[0] = 0
    core = erode(aerated, 1.01 * max(spacing[1:]), spacing)
    candidates = [int(n) for n in np.argsort(-volumes) if volumes[n] >= MIN_PIECE_ML][:40]
    boxes = ndimage.find_objects(labels)
    rim = ndimage.binary_dilation(columns_beyond(coarse.array))
    at_padding = np.bincount(labels[:, rim].ravel(), minlength=len(volumes)) * voxel_ml
    described = {}
    for n in candidates:
        box = boxes[n - 1]
        own = labels[box] == n
        deep = own & core[box]
        values = coarse.array[box][deep if deep.sum() > 20 else own]
        described[n] = (float(volumes[n]), float(np.median(values)), box[0].start, box[0].stop)
    main = next((n for n in candidates if _is_main_lung(described[n], spacing[0], coarse.shape[0])), None)
    if main is None or volumes[main] < MIN_LUNGS_ML:
        largest = described[candidates[0]] if candidates else None
        seen = f"the largest enclosed air space holds {largest[0]:.0f} mL" if largest else "no enclosed air"
        raise InputError(
            f"no lungs found: {seen}, not at least {MIN_LUNGS_ML:.0f} mL of aerated lung; is this a chest CT?"
        )
    main_median, bottom, top = described[main][1:]
    keep = np.zeros(labels.max() + 1, bool)
    for n in candidates:
        ml, median, start, stop = described[n]
        middle = (start + stop) / 2
        in_chest = bottom + 0.1 * (top - bottom) <= middle <= top
        gas = median < min(-930.0, main_median - 50) or at_padding[n] > MOST_AT_PADDING * ml
        large = ml > 0.2 * volumes[main]
        overlap = min(stop, top) - max(start, bottom) > 0.3 * (top - bottom)
        keep[n] = n == main or (not gas and in_chest and (large or stop - start > 2)) or (large and overlap)
    pieces: NDArray[np.int32] = np.where(keep[labels], labels, 0).astype(np.int32)
    return pieces


def _refuse_bases(lungs: Mask, coarse: Volume) -> None:
    """An abdominal scan shows the bottom of the lungs: short, and widest where the scan ends above."""
    area = lungs.sum(axis=(1, 2))
    height = float(np.count_nonzero(area) * coarse.spacing[0])
    if area[-1] > 0.6 * area.max() and area[0] < 0.2 * area.max() and height < MIN_BASES_MM:
        raise InputError(
            f"no lungs found but their lowest {height:.0f} mm: the scan ends there; is this an abdominal CT?"
        )


def _is_main_lung(description: tuple[float, float, int, int], dz: float, slices: int) -> bool:
    """Whether a piece is as dense and as tall as the larger lung of a chest."""
    ml, median, start, stop = description
    tall = (stop - start) * dz >= 60 or (start == 0 and stop == slices)
    textured = median > -965 or ml > 1000
    return ml >= 120 and tall and textured and median < -350


def part_by_side(coarse: Volume, pieces: NDArray[np.int32], midline_mm: float) -> NDArray[np.uint8]:
    """1 for left, 2 for right: whole pieces by their centroid, after parting lungs that touch."""
    sides = np.zeros(pieces.shape, np.uint8)
    for n, box in enumerate(ndimage.find_objects(pieces), start=1):
        if box is None:
            continue
        own = pieces[box] == n
        parts = _part_touching(own, coarse.crop(box), midline_mm)
        for p in range(1, int(parts.max()) + 1):
            sides[box][parts == p] = _side_of(parts == p, coarse.crop(box), midline_mm)
    return sides


def _mean_x(mask: Mask, coarse: Volume) -> float:
    centre = [float(a.mean()) for a in np.nonzero(mask)]
    return float(coarse.grid.world(centre)[0])


def _side_of(mask: Mask, coarse: Volume, midline_mm: float) -> int:
    return LEFT if _mean_x(mask, coarse) > midline_mm else RIGHT


def _part_touching(own: Mask, coarse: Volume, midline_mm: float) -> NDArray[np.int32]:
    """Labels 1.. of the lungs within one piece: erode until two large cores remain, then grow them back."""
    x = coarse.grid.world(np.argwhere(own))[:, 0]
    share = float((x > midline_mm).mean())
    if own.sum() * coarse.voxel_ml < 200 or not 0.1 < share < 0.9:
        return own.astype(np.int32)
    distance = distance_to(~np.pad(own, 1), coarse.spacing, 20.0)[1:-1, 1:-1, 1:-1].clip(max=20.0)
    for radius in SPLIT_LADDER_MM:
        cores, count = ndimage.label(distance > radius)
        if count < 2:
            continue
        sizes = np.bincount(cores.ravel())
        sizes[0] = 0
        first, second = np.argsort(-sizes)[:2]
        apart = abs(_mean_x(cores == first, coarse) - _mean_x(cores == second, coarse))
        if sizes[second] > 0.08 * sizes[first] and apart > 60:
            markers = np.where(cores == first, 1, 0) + np.where(cores == second, 2, 0)
            parts: NDArray[np.int32] = watershed(-distance, markers, mask=own).astype(np.int32)
            return parts
    # No neck to cut: the plane of the spine parts them.
    split = own.astype(np.int32)
    split[tuple(np.argwhere(own)[x > midline_mm].T)] = 2
    return split


@numba.njit(parallel=PRANGE, cache=True)
def _refine(hu, signed, labels, barred, beyond, floor, to_coarse, threshold, band, out):
    """Deep in the coarse mask: lung. Within `band` mm of its surface: lung where HU is below `threshold`.

    Never what was not scanned: the columns of `beyond`, and what lies below `floor` HU.
    """
    nz, ny, nx = hu.shape
    mz, my, mx = signed.shape
    m = to_coarse
    for k in numba.prange(nz):
        for j in range(ny):
            for i in range(nx):
                if beyond[j, i] or hu[k, j, i] < floor:
                    continue
                z = min(max(m[0, 0] * k + m[0, 1] * j + m[0, 2] * i + m[0, 3], 0.0), mz - 1.0)
                y = min(max(m[1, 0] * k + m[1, 1] * j + m[1, 2] * i + m[1, 3], 0.0), my - 1.0)
                x = min(max(m[2, 0] * k + m[2, 1] * j + m[2, 2] * i + m[2, 3], 0.0), mx - 1.0)
                near_z, near_y, near_x = int(z + 0.5), int(y + 0.5), int(x + 0.5)
                s = signed[near_z, near_y, near_x]
                if s < -3 * band:
                    continue
                side = labels[near_z, near_y, near_x]
                if s < 3 * band:
                    a, b, c = int(z), int(y), int(x)
                    fz, fy, fx = z - a, y - b, x - c
                    a1, b1, c1 = min(a + 1, mz - 1), min(b + 1, my - 1), min(c + 1, mx - 1)
                    p = signed[a, b, c] * (1 - fx) + signed[a, b, c1] * fx
                    q = signed[a, b1, c] * (1 - fx) + signed[a, b1, c1] * fx
                    r = signed[a1, b, c] * (1 - fx) + signed[a1, b, c1] * fx
                    t = signed[a1, b1, c] * (1 - fx) + signed[a1, b1, c1] * fx
                    s = (p * (1 - fy) + q * fy) * (1 - fz) + (r * (1 - fy) + t * fy) * fz
                    if s < -band or (s < 0 and barred[near_z, near_y, near_x]):
                        continue
                    if s <= band and hu[k, j, i] >= threshold:
                        continue
                out[k, j, i] = side


def refine_surface(
    ct: Volume, closed: Volume, barred: Mask, threshold: float, *, band: float | None = None
) -> NDArray[np.uint8]:
    """The lung mask on the scan's own grid.

    Parameters
    ----------
    ct : Volume
        HU.
    closed : Volume of uint8
        Closed labels on a coarse grid parallel to that of `ct`.
    barred : ndarray of bool
        Coarse voxels that never become lung outside `closed`: trachea and main bronchi.
    threshold : float
        HU that decides near the surface.
    band : float, optional
        mm on either side of the coarse surface; one coarse voxel unless given.
    """
    out = np.zeros(ct.shape, np.uint8)
    spacing = closed.spacing
    if band is None:
        band = 1.1 * float(np.cbrt(np.prod(spacing)))
    margin = tuple(int(np.ceil(2 * band / s)) + 1 for s in spacing)
    box = box_around(closed.array > 0, margin)
    labels = closed.array[box]
    signed = signed_distance(labels > 0, spacing, 4 * band)
    nearest = _spread(labels, spacing, 2 * band + max(spacing))
    # The part of the scan the box covers.
    corner = closed.grid.crop(box)
    factors = np.rint(np.array(spacing) / ct.spacing).astype(int)
    start = [s.start * f for s, f in zip(box, factors, strict=True)]
    stop = [min(n, s.stop * f) for s, f, n in zip(box, factors, ct.shape, strict=True)]
    native = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    part = ct.crop((native[0], native[1], native[2]))
    to_coarse = np.ascontiguousarray((np.linalg.inv(corner.affine) @ part.affine)[:3])
    view = np.zeros(part.shape, np.uint8)
    hu = np.ascontiguousarray(part.array)
    _refine(
        hu, signed, nearest, barred[box], columns_beyond(hu), PADDING_HU, to_coarse, threshold, band, view
    )
    out[native] = view
    return out


def _spread(
    labels: NDArray[np.uint8], spacing: tuple[float, float, float], reach: float
) -> NDArray[np.uint8]:
    """Labels continued outwards: within `reach` mm every voxel takes the nearer lung's label."""
    left = distance_to(labels == LEFT, spacing, reach)
    right = distance_to(labels == RIGHT, spacing, reach)
    spread = np.where(left <= right, LEFT, RIGHT).astype(np.uint8)
    spread[np.minimum(left, right) > reach] = 0
    spread[labels > 0] = labels[labels > 0]
    return spread
