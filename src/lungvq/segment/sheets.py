"""Thin bright sheets in the lungs: what a fissure looks like, and little else does.

A sheet has one strongly negative second derivative of the CT number, across it, and small ones along it. Noise
and vessels pass that test here and there, but not over a disc: what is kept has others like it, turned the
same way, all around within its plane. A vessel finds them in two directions only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungvq._parallel import PRANGE
from lungvq.segment._coarse import coarsen, erode
from lungvq.volume import Grid, Volume, box_around

__all__ = ["Sheets", "find_sheets", "flattened"]

Floats = NDArray[np.float32]

WIDTH_MM = 1.0
"""Sd of the Gaussian under the second derivatives, at least; a fissure is 0.5 mm thick, a voxel about 1 mm."""
WIDTH_VOXELS = 0.6
"""The same in longest edges of a voxel: all directions are smoothed alike, or thick slices would turn the normals."""
CLIP_HU = 200.0
"""What stands out from the lung by more is a vessel and counts no more than this."""
LIMIT_HU_MM2 = 5.0
"""Least curvature across less the largest along a sheet, on voxels of 1 mm."""
UNDER_PLEURA_MM = 3.0
RINGS_MM = ((2.5, 8), (5.0, 12), (7.5, 12))
"""Radii of the disc and how many places of each are asked, on voxels up to 1.5 mm."""
ALIKE = (0.85, 0.90)
"""Cosine between normals that agree, in the first and the second round."""
FIRST_ROUND = (0.25, 0.5)
"""Share of the disc below which a candidate has no voice in the second round, and above which a full one."""
SIDE_MM = 2.5
"""Distance along the normal at which both sides of a sheet are compared."""
KEPT = 0.25
"""Share of the disc below which a candidate is forgotten, in either round."""
_SLAB = 48


@dataclass(frozen=True, eq=False)
class Sheets:
    """Points on thin bright sheets.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        LPS mm, to a fraction of a voxel.
    normals : ndarray, shape (N, 3)
        Unit vectors across the sheet, LPS, of either sign.
    coherence : ndarray, shape (N,)
        Share of the disc around that is sheet as well, 0 to 1.
    ridge : ndarray, shape (N,)
        Fall of the CT number to the side where it falls less, as a share of that to the other: 1 on a sheet between
        equals, 0 or less at the edge of something denser.
    lung : ndarray of uint8, shape (N,)
        Label of the lung.
    """

    points: Floats
    normals: Floats
    coherence: Floats
    ridge: Floats
    lung: NDArray[np.uint8]


def find_sheets(flat: Volume, labels: NDArray[np.uint8]) -> Sheets:
    """Points on thin bright sheets within the lungs, at least 3 mm from the pleura.

    Parameters
    ----------
    flat : Volume of float32
    labels : ndarray of uint8
        As `flattened` makes them.

    Returns
    -------
    Sheets

    Notes
    -----
    Curvatures are eigenvalues of the Hessian of the scan, less the parenchyma's slow changes, clipped so that
    vessels do not shine, and smoothed. The place on the sheet is where the gradient along the normal vanishes
    [1]_.

    References
    ----------
    .. [1] Steger C (1998). An unbiased detector of curvilinear structures. IEEE PAMI 20:113.
    """
    if not labels.any():
        nothing = np.zeros((0, 3), np.float32)
        return Sheets(nothing, nothing, nothing[:, 0], nothing[:, 0], np.zeros(0, np.uint8))
    spacing = flat.spacing
    coarse = max(1.0, float(np.exp(np.mean(np.log(spacing)))))
    sigma = [max(WIDTH_MM, WIDTH_VOXELS * max(spacing)) / s for s in spacing]
    smooth = ndimage.gaussian_filter(flat.array, sigma)
    deep = erode(labels > 0, max(UNDER_PLEURA_MM, 1.01 * coarse), spacing)
    where, normals, shift = _candidates(smooth, deep, np.array(spacing), LIMIT_HU_MM2 / coarse)
    number = np.full(flat.shape, -1, np.int32)
    number[tuple(where.T)] = np.arange(len(where), dtype=np.int32)
    ring = _ring(max(1.0, coarse / 1.5))
    along = max(1.0, 0.5 * coarse)
    voice = np.ones(len(where), np.float32)
    share = _share_of_disc(number, where, normals, voice, np.array(spacing), ring, along, ALIKE[0])
    keep = share >= KEPT
    where, normals, shift, share = where[keep], normals[keep], shift[keep], share[keep]
    number.fill(-1)
    number[tuple(where.T)] = np.arange(len(where), dtype=np.int32)
    voice = np.clip((share - FIRST_ROUND[0]) / (FIRST_ROUND[1] - FIRST_ROUND[0]), 0, 1)
    share = _share_of_disc(number, where, normals, voice, np.array(spacing), ring, along, ALIKE[1])
    keep = share >= KEPT
    where, normals, shift, share = where[keep], normals[keep], shift[keep], share[keep]
    index = where + normals[:, ::-1] * shift[:, None] / spacing
    axes = flat.affine[:3, :3] / spacing  # columns: unit vectors of the axes k, j, i
    turned = normals[:, ::-1] @ axes.T
    aside = normals[:, ::-1] * (SIDE_MM * max(1.0, coarse / 1.5) / np.array(spacing))
    top, one, other = (
        ndimage.map_coordinates(smooth, (index + d).T, order=1, mode="nearest") for d in (0.0, aside, -aside)
    )
    ridge = (top - np.maximum(one, other)) / np.maximum(top - np.minimum(one, other), 1e-3)
    return Sheets(
        points=flat.grid.world(index).astype(np.float32),
        normals=turned.astype(np.float32),
        coherence=share,
        ridge=ridge.astype(np.float32),
        lung=labels[tuple(where.T)],
    )


def flattened(ct: Volume, lungs: Volume) -> tuple[Volume, NDArray[np.uint8]]:
    """The lungs on voxels of at least 1 mm, less the parenchyma around each voxel, clipped; and their labels.

    Parameters
    ----------
    ct : Volume
        HU in canonical order, any spacing.
    lungs : Volume of uint8
        1 left, 2 right, on the grid of `ct`.

    Returns
    -------
    flat : Volume of float32
        HU above the surroundings, 0 outside the lungs.
    labels : ndarray of uint8
        On the grid of `flat`.
    """
    if not lungs.array.any():
        return ct.like(np.zeros(ct.shape, np.float32)), lungs.array
    box = box_around(lungs.array > 0, (2, 2, 2))
    part, labels = ct.crop(box), lungs.crop(box)
    grid = _working_grid(part.grid)
    if grid is not part.grid:
        part, labels = part.resample(grid, fill=-1000.0), labels.resample_labels(grid)
    inside = labels.array > 0
    hu = part.array
    level = float(np.median(hu[inside]))
    weight = inside & (hu < level + CLIP_HU)
    coarse = [coarsen(part.like(a.astype(np.float32)), 6.0) for a in (np.where(weight, hu, 0), weight)]
    sigma = [12.0 / s for s in coarse[0].spacing]
    above, below = (ndimage.gaussian_filter(c.array, sigma, mode="constant") for c in coarse)
    around = np.where(below > 1e-4, above / np.maximum(below, 1e-4), level).astype(np.float32)
    background = Volume(around, coarse[0].affine).resample(part.grid, fill=level, antialias=False).array
    flat = np.where(inside, np.clip(hu - background, -CLIP_HU, CLIP_HU), 0).astype(np.float32)
    return part.like(flat), labels.array


def _working_grid(grid: Grid) -> Grid:
    """Voxels of at least 1 mm, and of thick slices not longer than 1.5 times the geometric mean of their edges."""
    shortest, longest = min(grid.spacing), max(grid.spacing)
    target = max(1.0, float(np.sqrt(shortest * longest)))
    wanted = [s if 0.75 * target <= s <= 1.55 * target else target for s in grid.spacing]
    return grid if tuple(wanted) == tuple(grid.spacing) else grid.with_spacing(wanted)


def _ring(scale: float) -> Floats:
    """Places on the rings, in units of mm within the plane, shape (N, 2)."""
    places = [
        (scale * r * np.cos(a), scale * r * np.sin(a))
        for r, n in RINGS_MM
        for a in (np.arange(n) + 0.5 * (n == RINGS_MM[1][1])) * 2 * np.pi / n
    ]
    return np.array(places, np.float32)


def _candidates(
    smooth: Floats, deep: NDArray[np.bool_], spacing: NDArray[np.float64], limit: float
) -> tuple[NDArray[np.int32], Floats, Floats]:
    """Voxels (N, 3) on ridges, their normals as (x, y, z) along the axes, and mm to the ridge along them."""
    where, normals, shifts = [], [], []
    h = (np.float32(spacing[0]), np.float32(spacing[1]), np.float32(spacing[2]))
    for start in range(1, smooth.shape[0] - 1, _SLAB):  # in slabs: the dense answer is large
        stop = min(start + _SLAB, smooth.shape[0] - 1)
        shift = np.full((stop - start, *smooth.shape[1:]), np.nan, np.float32)
        normal = np.zeros((*shift.shape, 3), np.float32)
        _ridges(smooth, deep, h, np.float32(limit), start, normal, shift)
        found = np.argwhere(np.isfinite(shift)).astype(np.int32, order="C")
        normals.append(normal[tuple(found.T)])
        shifts.append(shift[tuple(found.T)])
        found[:, 0] += start
        where.append(found)
    return np.concatenate(where), np.concatenate(normals), np.concatenate(shifts)


@numba.njit(parallel=PRANGE, cache=True)
def _ridges(s, mask, h, limit, start, normal, shift):
    """Write the normal of the sheet and mm along it to the ridge for as many slices as `shift` has."""
    for n in numba.prange(shift.shape[0]):
        _ridges_of_slice(s, mask, h, limit, np.int64(n) + start, normal[n], shift[n])


@numba.njit(cache=True)
def _ridges_of_slice(s, mask, h, limit, k, normal, shift):
    for j in range(1, mask.shape[1] - 1):
        for i in range(1, mask.shape[2] - 1):
            if mask[k, j, i]:
                found, t, x, y, z = _ridge(s, k, j, i, h, limit)
                if found:
                    shift[j, i] = t
                    normal[j, i, 0], normal[j, i, 1], normal[j, i, 2] = x, y, z


@numba.njit(cache=True)
def _ridge(s, k, j, i, h, limit):
    """Whether a voxel is on a sheet; mm to its ridge along the normal; the normal (x, y, z)."""
    hz, hy, hx = h
    zero = np.float32(0.0)
    no = (False, zero, zero, zero, zero)
    c = 2 * s[k, j, i]
    zz = (s[k + 1, j, i] - c + s[k - 1, j, i]) / (hz * hz)
    yy = (s[k, j + 1, i] - c + s[k, j - 1, i]) / (hy * hy)
    xx = (s[k, j, i + 1] - c + s[k, j, i - 1]) / (hx * hx)
    if xx + yy + zz > -limit:
        return no
    zy = s[k + 1, j + 1, i] - s[k + 1, j - 1, i] - s[k - 1, j + 1, i] + s[k - 1, j - 1, i]
    zx = s[k + 1, j, i + 1] - s[k + 1, j, i - 1] - s[k - 1, j, i + 1] + s[k - 1, j, i - 1]
    yx = s[k, j + 1, i + 1] - s[k, j + 1, i - 1] - s[k, j - 1, i + 1] + s[k, j - 1, i - 1]
    zy, zx, yx = zy / (4 * hz * hy), zx / (4 * hz * hx), yx / (4 * hy * hx)
    # eigenvalues of a symmetric 3 x 3 matrix in closed form
    mean = (xx + yy + zz) / 3
    a, b, d = xx - mean, yy - mean, zz - mean
    spread = np.sqrt((a * a + b * b + d * d + 2 * (yx * yx + zx * zx + zy * zy)) / 6)
    if spread < 1e-6:
        return no
    half = a * (b * d - zy * zy) - yx * (yx * d - zy * zx) + zx * (yx * zy - zx * b)
    angle = np.arccos(min(1.0, max(-1.0, half / (2 * spread * spread * spread)))) / 3
    largest = mean + 2 * spread * np.cos(angle)
    least = mean + 2 * spread * np.cos(angle + 2.0943951)
    middle = 3 * mean - largest - least
    if -least - max(abs(middle), abs(largest)) <= limit:
        return no
    # the normal is at right angles to the rows of (Hessian - least)
    a, b, d = xx - least, yy - least, zz - least
    x, y, z = yx * zy - zx * b, zx * yx - a * zy, a * b - yx * yx
    length = x * x + y * y + z * z
    u, v, w = yx * d - zx * zy, zx * zx - a * d, a * zy - yx * zx
    if u * u + v * v + w * w > length:
        x, y, z, length = u, v, w, u * u + v * v + w * w
    u, v, w = b * d - zy * zy, zy * zx - yx * d, yx * zy - b * zx
    if u * u + v * v + w * w > length:
        x, y, z, length = u, v, w, u * u + v * v + w * w
    if length == 0:
        return no
    length = np.sqrt(length)
    x, y, z = x / length, y / length, z / length
    slope = (
        x * (s[k, j, i + 1] - s[k, j, i - 1]) / (2 * hx)
        + y * (s[k, j + 1, i] - s[k, j - 1, i]) / (2 * hy)
        + z * (s[k + 1, j, i] - s[k - 1, j, i]) / (2 * hz)
    )
    t = -slope / least
    if abs(t * x) > 0.6 * hx or abs(t * y) > 0.6 * hy or abs(t * z) > 0.6 * hz:
        return no
    return True, np.float32(t), np.float32(x), np.float32(y), np.float32(z)


@numba.njit(parallel=PRANGE, cache=True)
def _share_of_disc(number, where, normals, voice, spacing, ring, along, alike):
    """Mean voice of the like-minded candidates at the places of `ring` in each candidate's plane."""
    out = np.empty(where.shape[0], np.float32)
    for c in numba.prange(where.shape[0]):
        out[c] = _voices(number, where, normals, voice, spacing, ring, along, alike, np.int64(c))
    return out


@numba.njit(cache=True)
def _voices(number, where, normals, voice, spacing, ring, along, alike, c):
    nz, ny, nx = number.shape
    ex, ey, ez = normals[c, 0], normals[c, 1], normals[c, 2]
    if abs(ex) < 0.6:  # two directions within the plane
        ux, uy, uz = np.float32(0.0), ez, -ey
    else:
        ux, uy, uz = -ez, np.float32(0.0), ex
    length = np.sqrt(ux * ux + uy * uy + uz * uz)
    ux, uy, uz = ux / length, uy / length, uz / length
    vx, vy, vz = ey * uz - ez * uy, ez * ux - ex * uz, ex * uy - ey * ux
    total = np.float32(0.0)
    for r in range(ring.shape[0]):
        best = np.float32(0.0)
        for w in range(-1, 2):
            step = along * w
            z = (ring[r, 0] * uz + ring[r, 1] * vz + step * ez) / spacing[0]
            y = (ring[r, 0] * uy + ring[r, 1] * vy + step * ey) / spacing[1]
            x = (ring[r, 0] * ux + ring[r, 1] * vx + step * ex) / spacing[2]
            k, j, i = where[c, 0] + round(z), where[c, 1] + round(y), where[c, 2] + round(x)
            if k < 0 or j < 0 or i < 0 or k >= nz or j >= ny or i >= nx:
                continue
            o = number[k, j, i]
            if o < 0 or o == c or voice[o] <= best:
                continue
            if abs(ex * normals[o, 0] + ey * normals[o, 1] + ez * normals[o, 2]) > alike:
                best = voice[o]
        total += best
    return total / ring.shape[0]
