"""A pair whose inspiration is a real CT and whose expiration is made from it by a known motion.

    python benchmarks/real_pair.py -o FOLDER [--source SCAN] [--seed N] [--slices N]

writes ``insp.nii.gz`` (the scan as it is), ``exp.nii.gz``, both lung masks, ``truth/displacement.nii.gz`` and
``truth/jacobian.nii.gz`` at 2 mm, and ``truth/motion.npz``, from which `Motion.load` evaluates the motion and its
Jacobian exactly at any point.

    python benchmarks/real_pair.py -o FOLDER --score FIELD

prints how far a registration of that pair (a displacement field, or the folder of ``lungvq register``) is off,
densely, in shells from the pleura.

The motion phi takes expiration to inspiration, in LPS mm. It is phi = q o p: p breathes (the diaphragm comes down
by up to `rise_mm`, chest and lung widen forwards and to the sides, the spine stays), in closed form; q is a cubic
spline that adds what is uneven in real lungs: expansion that varies over 10 to 20 mm, fading towards the pleura,
and slip along the pleura that does not fade. The chest wall moves by another map that widens alike but hardly
comes down, so lung, heart and abdomen slide along it. Lung tissue is conserved: a voxel's density is J times that
of where it went; what would exceed blood (vessels are not compressed) goes to its neighbourhood. The expiration
has a grid and noise of its own: lower dose, hence more noise, correlated as a kernel leaves it.

What it cannot tell: anatomy of the pair is one and the same scan, smoothed a little, so part of its own noise is in
both; vessels neither fill nor empty; nothing closes or opens; and the heart does not beat.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from skimage.draw import polygon2mask

from lungvq import io
from lungvq.landmarks import read_field
from lungvq.segment import segment
from lungvq.volume import Grid, Volume, grid_around

COARSE_MM = 2.0
BLOOD = 1.06  # g/mL: nothing in lung is denser
OUTSIDE_HU = -1024
SHELLS = ((0, 3), (3, 6), (6, 10), (10, 20), (20, 1000))


# ---- the motion -----------------------------------------------------------------------------------------


@numba.njit(cache=True)
def _ramp(r, low, high, soft):
    """Rises by one per mm between `low` and `high` and is flat elsewhere; value and derivative."""
    a, b = (r - low) / soft, (r - high) / soft
    value = soft * (max(a, 0.0) + np.log1p(np.exp(-abs(a))) - max(b, 0.0) - np.log1p(np.exp(-abs(b))))
    return value, 1 / (1 + np.exp(-a)) - 1 / (1 + np.exp(-b))


@numba.njit(cache=True)
def _widen(x, y, z, m):
    """Sideways and forwards widening, alike in lung and wall: new x and y with their slopes."""
    share = 0.4 + 0.6 / (1 + np.exp(-(m[6] - z) / 20))
    across, across_slope = _ramp(x - m[0], -m[1], m[1], 12.0)
    ahead, ahead_slope = _ramp(m[2] - y, 0.0, m[3], 10.0)
    wide = x + m[4] * share * (across - m[1])
    deep = y - m[5] * share * ahead
    return wide, deep, 1 + m[4] * share * across_slope, 1 + m[5] * share * ahead_slope


@numba.njit(cache=True)
def _breathe(x, y, z, m):
    """The map p and its Jacobian, of which only the diagonal counts."""
    wide, deep, by_x, by_y = _widen(x, y, z, m)
    descent, slope = _ramp(m[7] - z, m[8], m[9], 12.0)
    behind = 1 + 0.15 * np.tanh((deep - m[2] + 80) / 60)  # the diaphragm moves more at the back
    rate = m[10] * behind
    return wide, deep, z - rate * descent, by_x * by_y * (1 + rate * slope)


@numba.njit(cache=True)
def _basis(t):
    """The four cubic B-splines between two knots, and their slopes."""
    s = 1 - t
    values = (s * s * s / 6, 2 / 3 - t * t * (2 - t) / 2, 2 / 3 - s * s * (2 - s) / 2, t * t * t / 6)
    return values, (-s * s / 2, t * (3 * t - 4) / 2, s * (4 - 3 * s) / 2, t * t / 2)


@numba.njit(cache=True)
def _uneven(x, y, z, spline, origin, step):
    """The displacement of q and det(I + its gradient), from cubic B-splines; nothing beyond the grid."""
    fk, fj, fi = (z - origin[2]) / step, (y - origin[1]) / step, (x - origin[0]) / step
    k0, j0, i0 = int(np.floor(fk)) - 1, int(np.floor(fj)) - 1, int(np.floor(fi)) - 1
    _, nk, nj, ni = spline.shape
    if k0 < 0 or j0 < 0 or i0 < 0 or k0 + 4 > nk or j0 + 4 > nj or i0 + 4 > ni:
        return 0.0, 0.0, 0.0, 1.0
    wk, dk = _basis(fk - k0 - 1)
    wj, dj = _basis(fj - j0 - 1)
    wi, di = _basis(fi - i0 - 1)
    ux, gxx, gxy, gxz = _tensor(spline[0], k0, j0, i0, wk, dk, wj, dj, wi, di)
    uy, gyx, gyy, gyz = _tensor(spline[1], k0, j0, i0, wk, dk, wj, dj, wi, di)
    uz, gzx, gzy, gzz = _tensor(spline[2], k0, j0, i0, wk, dk, wj, dj, wi, di)
    xx, xy, xz = 1 + gxx / step, gxy / step, gxz / step
    yx, yy, yz = gyx / step, 1 + gyy / step, gyz / step
    zx, zy, zz = gzx / step, gzy / step, 1 + gzz / step
    det = xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)
    return ux, uy, uz, det


@numba.njit(cache=True)
def _tensor(array, k0, j0, i0, wk, dk, wj, dj, wi, di):
    """A spline's value and its slopes along i, j and k, per step."""
    value = by_i = by_j = by_k = 0.0
    for a in range(4):
        for b in range(4):
            row = array[k0 + a, j0 + b, i0 : i0 + 4]
            flat = row[0] * wi[0] + row[1] * wi[1] + row[2] * wi[2] + row[3] * wi[3]
            steep = row[0] * di[0] + row[1] * di[1] + row[2] * di[2] + row[3] * di[3]
            value += wk[a] * wj[b] * flat
            by_i += wk[a] * wj[b] * steep
            by_j += wk[a] * dj[b] * flat
            by_k += dk[a] * wj[b] * flat
    return value, by_i, by_j, by_k


@numba.njit(parallel=True, cache=True)
def _map_points(points, m, spline, origin, step):
    out, jacobian = np.empty_like(points), np.empty(len(points))
    for n in numba.prange(len(points)):
        x, y, z, j = _breathe(points[n, 0], points[n, 1], points[n, 2], m)
        ux, uy, uz, det = _uneven(x, y, z, spline, origin, step)
        out[n, 0], out[n, 1], out[n, 2] = x + ux, y + uy, z + uz
        jacobian[n] = j * det
    return out, jacobian


@dataclass(frozen=True, eq=False)
class Motion:
    """Expiration to inspiration, and how much volume gained, exactly, at any point.

    Parameters
    ----------
    shape : ndarray, shape (12,)
        mm and shares: midline x, half width, front of the spine y, depth to the sternum, share of widening to the
        sides, and forwards, height at which ribs begin to widen, apex z, where below it the descent begins and
        ends, descent per mm, and what of it the chest wall does.
    spline : ndarray of float64, shape (3, K, J, I)
        Coefficients of q, mm, components x, y, z.
    origin : ndarray, shape (3,)
        LPS mm of the first coefficient.
    step : float
        mm between coefficients.
    """

    shape: NDArray[np.float64]
    spline: NDArray[np.float64]
    origin: NDArray[np.float64]
    step: float

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where points of the expiratory lung are at inspiration: shape (N, 3), LPS mm."""
        return self._both(points)[0]

    def jacobian(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Inspiratory volume per unit expiratory volume at points of expiration: shape (N,)."""
        return self._both(points)[1]

    def inverse(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where points of the inspiratory lung are at expiration, to a few micrometres."""
        points = np.asarray(points, float)
        guess = points.copy()
        for _ in range(200):
            off = points - self(guess)
            guess += 0.6 * off  # stretched by up to 2 or so, a whole step would overshoot
            if np.abs(off).max() < 1e-3:
                return guess
        raise ArithmeticError("the motion cannot be inverted: it is too steep")

    def displacement(self, grid: Grid) -> tuple[Volume, Volume]:
        """Displacement (mm, LPS) and Jacobian at the voxels of a grid, float32."""
        points = grid.world(np.indices(grid.shape).reshape(3, -1).T)
        there, jacobian = self._both(points)
        u = (there - points).astype(np.float32).reshape(*grid.shape, 3)
        return Volume(u, grid.affine), Volume(jacobian.astype(np.float32).reshape(grid.shape), grid.affine)

    def save(self, path: Path) -> None:
        """Write what `load` reads."""
        np.savez_compressed(path, shape=self.shape, spline=self.spline, origin=self.origin, step=self.step)

    @classmethod
    def load(cls, path: Path | str) -> Motion:
        """The motion of a pair, from its ``truth/motion.npz``."""
        with np.load(path) as kept:
            return cls(kept["shape"], kept["spline"], kept["origin"], float(kept["step"]))

    def _both(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        points = np.ascontiguousarray(points, float)
        there, jacobian = _map_points(points, self.shape, self.spline, self.origin, self.step)
        return there, jacobian


def make_motion(
    lungs: Volume, spine_y: float, *, seed: int = 0, rise_mm: float = 45.0, uneven: float = 1.0
) -> Motion:
    """A motion for these inspiratory lungs.

    Parameters
    ----------
    lungs : Volume
        Nonzero in the lungs, canonical order.
    spine_y : float
        LPS mm of the front of the spine, which stays.
    seed : int, optional
    rise_mm : float, optional
        How far the lowest lung comes up on breathing out.
    uneven : float, optional
        How strong q is: 0 leaves the smooth breath alone.
    """
    coarse = _coarse(lungs)
    inside = coarse.array > 0.5
    points = coarse.grid.world(np.argwhere(inside))
    low, high = points.min(axis=0), points.max(axis=0)
    height = high[2] - low[2] - rise_mm  # of the expiratory lung
    begin, end = 0.08 * height, 1.02 * height
    shape = np.array(
        [
            (low[0] + high[0]) / 2,
            0.5 * (high[0] - low[0]),
            spine_y,
            spine_y - low[1],
            0.07,
            0.12,
            high[2] - 60,
            high[2],
            begin,
            end,
            rise_mm / (height - begin),
            0.1,
        ]
    )
    spline = uneven * _unevenness(inside, np.random.default_rng([seed, 1]))
    return Motion(shape, spline, coarse.grid.world((0, 0, 0)), COARSE_MM)


def _coarse(lungs: Volume) -> Volume:
    """Share of lung in cubes of COARSE_MM, with room around."""
    mask = lungs.like((lungs.array > 0).astype(np.float32))
    points = lungs.grid.world(np.argwhere(mask.array))
    return mask.resample(grid_around(points, COARSE_MM, 40.0), fill=0.0)


def _unevenness(inside: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64]:
    """Coefficients of q: swelling that fades to the pleura, and slip that follows it."""
    depth = COARSE_MM * (ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside))

    def field(sigma_mm: float) -> NDArray[np.float64]:
        noise = ndimage.gaussian_filter(rng.standard_normal(inside.shape, np.float32), sigma_mm / COARSE_MM)
        return (noise / noise[inside].std()).astype(float)

    fade = np.clip(depth / 12, 0, 1)
    fade = fade * fade * (3 - 2 * fade)
    swelling = np.stack([1.5 * field(10.0) + 0.7 * field(5.5) for _ in range(3)]) * fade
    # grad(h) x grad(depth) has no part across the pleura and no divergence.
    gentle = ndimage.gaussian_filter(depth, 6.0 / COARSE_MM)
    normal = np.stack(np.gradient(gentle)[::-1])
    slope = np.stack(np.gradient(field(16.0))[::-1])
    beyond = np.clip(1 + depth / 20, 0, 1)  # the mediastinum follows; 20 mm from lung nothing is left
    slip = np.cross(slope, normal, axis=0) * (beyond * beyond * (3 - 2 * beyond))
    slip *= 2.0 / np.sqrt(np.mean(slip[:, inside] ** 2))
    return np.ascontiguousarray(swelling + slip)


# ---- the expiratory scan ----------------------------------------------------------------------------------


@numba.njit(cache=True)
def _linear(array, k, j, i, beyond):
    nk, nj, ni = array.shape
    if not (0 <= k <= nk - 1 and 0 <= j <= nj - 1 and 0 <= i <= ni - 1):
        return beyond
    a, b, c = min(int(k), nk - 2), min(int(j), nj - 2), min(int(i), ni - 2)
    fk, fj, fi = k - a, j - b, i - c
    value = 0.0
    for da in range(2):
        for db in range(2):
            for dc in range(2):
                weight = (fk if da else 1 - fk) * (fj if db else 1 - fj) * (fi if dc else 1 - fi)
                value += weight * array[a + da, b + db, c + dc]
    return value


@numba.njit(parallel=True, cache=True)
def _render(hu, to_hu, sides, inner, way_out, to_inner, near, m, spline, origin, step, to_world, shape):
    """HU of the expiratory scan before noise, the Jacobian in the lungs and the lungs.

    Inner parts (lungs, heart, abdomen) and the wall move by their own maps. What neither reaches is wall again:
    the part of it that lies nearest, `way_out` mm from there. `near` tells, on the grid of `inner`, which is the
    spline's, where q does anything.
    """
    out = np.empty(shape, np.float32)
    jacobian = np.ones(shape, np.float32)
    lung = np.zeros(shape, np.uint8)
    a, b, c = to_hu, to_inner, to_world
    for k in numba.prange(shape[0]):
        for j in range(shape[1]):
            for i in range(shape[2]):
                x = c[0, 0] * k + c[0, 1] * j + c[0, 2] * i + c[0, 3]
                y = c[1, 0] * k + c[1, 1] * j + c[1, 2] * i + c[1, 3]
                z = c[2, 0] * k + c[2, 1] * j + c[2, 2] * i + c[2, 3]
                px, py, pz, det = _breathe(x, y, z, m)
                ck = b[0, 0] * px + b[0, 1] * py + b[0, 2] * pz + b[0, 3]
                cj = b[1, 0] * px + b[1, 1] * py + b[1, 2] * pz + b[1, 3]
                ci = b[2, 0] * px + b[2, 1] * py + b[2, 2] * pz + b[2, 3]
                within = _linear(inner, ck, cj, ci, 0.0) >= 0.5
                if within and near[int(np.rint(ck)), int(np.rint(cj)), int(np.rint(ci))]:
                    ux, uy, uz, uneven = _uneven(px, py, pz, spline, origin, step)
                    px, py, pz, det = px + ux, py + uy, pz + uz, det * uneven
                if not within:
                    descent, _ = _ramp(m[7] - z, m[8], m[9], 12.0)
                    pz = z - m[11] * m[10] * descent
                    ck = b[0, 0] * px + b[0, 1] * py + b[0, 2] * pz + b[0, 3]
                    cj = b[1, 0] * px + b[1, 1] * py + b[1, 2] * pz + b[1, 3]
                    ci = b[2, 0] * px + b[2, 1] * py + b[2, 2] * pz + b[2, 3]
                    if _linear(inner, ck, cj, ci, 0.0) >= 0.5:
                        # not interpolated: from the middle, ways to either side would cancel
                        nk, nj, ni = int(np.rint(ck)), int(np.rint(cj)), int(np.rint(ci))
                        px += way_out[0, nk, nj, ni]
                        py += way_out[1, nk, nj, ni]
                        pz += way_out[2, nk, nj, ni]
                sk = a[0, 0] * px + a[0, 1] * py + a[0, 2] * pz + a[0, 3]
                sj = a[1, 0] * px + a[1, 1] * py + a[1, 2] * pz + a[1, 3]
                si = a[2, 0] * px + a[2, 1] * py + a[2, 2] * pz + a[2, 3]
                out[k, j, i] = _linear(hu, sk, sj, si, -1000.0)
                if within:
                    nk, nj, ni = int(np.rint(sk)), int(np.rint(sj)), int(np.rint(si))
                    if 0 <= nk < sides.shape[0] and 0 <= nj < sides.shape[1] and 0 <= ni < sides.shape[2]:
                        side = sides[nk, nj, ni]
                        if side:
                            lung[k, j, i] = side
                            jacobian[k, j, i] = det
    return out, jacobian, lung


@dataclass(frozen=True, eq=False)
class RealPair:
    """A real inspiration, an expiration made from it, their lungs (1 left, 2 right), and the motion between."""

    insp: Volume
    exp: Volume
    lungs_insp: Volume
    lungs_exp: Volume
    motion: Motion
    mass_insp_g: float
    mass_exp_g: float  # before noise


def make_real_pair(
    insp: Volume,
    lungs: Volume,
    *,
    seed: int = 0,
    rise_mm: float = 45.0,
    uneven: float = 1.0,
    slices: int | None = None,
    noise_hu: float = 40.0,
) -> RealPair:
    """Breathe a scan out.

    Parameters
    ----------
    insp : Volume of int16
        HU, canonical order.
    lungs : Volume
        1 left, 2 right, on the same grid.
    seed : int, optional
    rise_mm : float, optional
        How far the lowest lung comes up.
    uneven : float, optional
        As for `make_motion`.
    slices : int, optional
        Of the expiratory scan; by default so many that its slices are 0.8 times as far apart.
    noise_hu : float, optional
        Standard deviation of what is added to the expiration.
    """
    spine = _front_of_spine(insp, lungs)
    motion = make_motion(lungs, float(np.median(spine[:, 1])), seed=seed, rise_mm=rise_mm, uneven=uneven)
    grid = _expiratory_grid(insp, motion, rise_mm, slices)
    inner, way_out = _inner(lungs, spine)
    # A softer image: expiration is scanned at a lower dose, and less of the scan's own noise is in both.
    source = ndimage.gaussian_filter(insp.array.astype(np.float32), [0.6 / mm for mm in insp.spacing])
    hu, jacobian, sides = _render(
        source,
        np.linalg.inv(insp.affine)[:3],
        np.ascontiguousarray(lungs.array),
        inner.array,
        way_out,
        np.linalg.inv(inner.affine)[:3],
        ndimage.binary_dilation(motion.spline.any(axis=0), iterations=4),
        motion.shape,
        motion.spline,
        motion.origin,
        motion.step,
        np.ascontiguousarray(grid.affine[:3]),
        grid.shape,
    )
    lungs_exp = Volume(sides, grid.affine)
    mass_insp = float(np.sum(1 + source[lungs.array > 0] / 1000, dtype=float)) * insp.voxel_ml
    _conserve(hu, jacobian, lungs_exp)
    mass_exp = float(np.sum(1 + hu[sides > 0] / 1000, dtype=float)) * lungs_exp.voxel_ml
    _add_noise(hu, grid, noise_hu, np.random.default_rng([seed, 2]))
    exp = Volume(np.rint(np.clip(hu, OUTSIDE_HU, 3071)).astype(np.int16), grid.affine)
    return RealPair(insp, exp, lungs, lungs_exp, motion, mass_insp, mass_exp)


def _front_of_spine(ct: Volume, lungs: Volume) -> NDArray[np.float64]:
    """A point at the front of the spine per slice of a 2 mm grid: shape (K, 3), LPS mm."""
    points = lungs.grid.world(np.argwhere(lungs.array[::4, ::4, ::4] > 0) * 4)
    low, high = points.min(axis=0), points.max(axis=0)
    grid = grid_around(np.array([low, high]), COARSE_MM, 40.0)
    bone = ct.resample(grid, fill=-1000.0).array > 180
    mid = int(np.rint(grid.index([(low + high) / 2])[0, 2]))
    rows = np.arange(grid.shape[1])
    back = rows > np.rint(grid.index([(low + high) / 2])[0, 1])
    reach = int(22 / COARSE_MM)
    column = bone[:, :, mid - reach : mid + reach + 1].sum(axis=2) * back
    found = column.sum(axis=1) > 0
    front = np.full(len(column), np.nan)
    for k in np.flatnonzero(found):
        many = np.flatnonzero(column[k] >= min(5, column[k].max()))
        front[k] = many[0]
    known = np.flatnonzero(np.isfinite(front))
    if not len(known):
        front[:], known = grid.shape[1] - 1, np.arange(len(front))
    front = np.interp(np.arange(len(front)), known, ndimage.median_filter(front[known], 15, mode="nearest"))
    return grid.world(np.stack([np.arange(len(front)), front, np.full(len(front), mid)], axis=1))


def _inner(lungs: Volume, spine: NDArray[np.float64]) -> tuple[Volume, NDArray[np.float32]]:
    """What slides along the chest wall, and for points in it the way out of it.

    At each height all that lies within the hull of the lungs there and above, without the spine: so also heart
    and upper abdomen.

    Returns
    -------
    inner : Volume of float32
        About 1 inside, 0 outside, on a 2 mm grid that reaches well below the lungs.
    way_out : ndarray of float32, shape (3, K, J, I)
        x, y, z in mm.
    """
    coarse = _coarse(lungs)
    mask = coarse.array > 0.4
    inner = np.zeros(mask.shape, bool)
    above = np.zeros(mask.shape[1:], bool)
    front = np.interp(
        coarse.grid.world(np.argwhere(np.ones((len(mask), 1, 1))))[:, 2], spine[:, 2], spine[:, 1]
    )
    for k in range(len(mask))[::-1]:
        above |= mask[k]
        inner[k] = _hull(above)
        where = coarse.grid.world(np.argwhere(inner[k]) @ np.eye(2, 3, 1) + (k, 0, 0))
        vertebra = (np.abs(where[:, 0] - spine[0, 0]) < 24) & (where[:, 1] > front[k] - 4)
        inner[k][inner[k]] = ~vertebra
    inner |= ndimage.binary_dilation(mask)
    _, nearest = ndimage.distance_transform_edt(inner, return_indices=True)
    way_out = COARSE_MM * (nearest - np.indices(inner.shape))[::-1]
    way_out += COARSE_MM * np.sign(way_out)  # past the voxel's edge
    soft = ndimage.gaussian_filter(inner.astype(np.float32), 0.7)
    return Volume(soft, coarse.affine), np.ascontiguousarray(way_out, np.float32)


def _hull(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The convex hull of a picture."""
    points = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    try:
        return polygon2mask(mask.shape, points[ConvexHull(points).vertices])
    except (QhullError, ValueError):
        return mask


def _expiratory_grid(insp: Volume, motion: Motion, rise_mm: float, slices: int | None) -> Grid:
    """Other spacing, other origin, and no slice that was below the scan at inspiration."""
    k, j, i = insp.shape
    low, high = insp.grid.world((0, 0, 0)), insp.grid.world((k - 1, j - 1, i - 1))
    bottom, top = low[2] + 1.15 * rise_mm, high[2] - 0.3
    count = slices or int((top - bottom) / (0.8 * insp.spacing[0]))
    spacing = np.array([(top - bottom) / (count - 1), 0.95 * insp.spacing[1], 0.95 * insp.spacing[2]])
    middle = (low + high) / 2 + (0.37, 0.61, 0)
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]]
    affine[:3, 3] = middle[0] - (i - 1) / 2 * spacing[2], middle[1] - (j - 1) / 2 * spacing[1], bottom
    return Grid((count, j, i), affine)


def _conserve(hu: NDArray[np.float32], jacobian: NDArray[np.float32], lungs: Volume) -> None:
    """Multiply the lungs' density by J, in place; what would be denser than blood goes to lung around."""
    k, j, i = (slice(a.min(), a.max() + 1) for a in np.nonzero(lungs.array))
    box = (k, j, i)
    inside = lungs.array[box] > 0
    density = np.where(inside, (1 + hu[box] / 1000) * jacobian[box], 0).astype(np.float32)
    widths = [2.5 / mm for mm in lungs.spacing]
    share = ndimage.gaussian_filter(inside.astype(np.float32), widths)
    for _ in range(3):
        # Tissue that was denser already, such as calcium, stays as it is.
        most = np.where(inside, np.maximum(BLOOD, 1 + hu[box] / 1000), 0)
        excess = np.maximum(density - most, 0)
        density -= excess
        density += inside * ndimage.gaussian_filter(excess / np.maximum(share, 0.2), widths)
    hu[box] = np.where(inside, 1000 * (density - 1), hu[box])


def _add_noise(hu: NDArray[np.float32], grid: Grid, noise_hu: float, rng: np.random.Generator) -> None:
    """Noise as a filtered back-projection leaves it: little at low frequencies, cut at high ones; in place."""
    noise = rng.standard_normal(hu.shape, np.float32)
    fine = ndimage.gaussian_filter(noise, [0.5 / mm for mm in grid.spacing])
    fine -= ndimage.gaussian_filter(fine, [0, *(2.0 / mm for mm in grid.spacing[1:])])
    fine *= noise_hu / fine.std()
    hu += fine


# ---- the command ------------------------------------------------------------------------------------------


def write_real_pair(pair: RealPair, folder: Path) -> None:
    """Scans, lungs and truth as files."""
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    io.write(pair.insp, folder / "insp.nii.gz")
    io.write(pair.exp, folder / "exp.nii.gz")
    io.write(pair.lungs_insp, folder / "lungs_insp.nii.gz")
    io.write(pair.lungs_exp, folder / "lungs_exp.nii.gz")
    points = pair.exp.grid.world(np.argwhere(pair.lungs_exp.array[::2, ::2, ::2]) * 2)
    displacement, jacobian = pair.motion.displacement(grid_around(points, COARSE_MM, 20.0))
    io.write(displacement, folder / "truth" / "displacement.nii.gz")
    io.write(jacobian, folder / "truth" / "jacobian.nii.gz")
    pair.motion.save(folder / "truth" / "motion.npz")


def facts(pair: RealPair, *, samples: int = 20_000) -> dict[str, float]:
    """What the pair is like, and whether its truth holds: volumes, mass, motion, J, and J against differences."""
    ml = {
        f"{name}_{side}_ml": float((lungs.array == label).sum()) * lungs.voxel_ml
        for name, lungs in (("insp", pair.lungs_insp), ("exp", pair.lungs_exp))
        for side, label in (("left", 1), ("right", 2))
    }
    voxels = np.argwhere(pair.lungs_exp.array)
    points = pair.exp.grid.world(voxels[:: max(1, len(voxels) // samples)])
    jacobian = pair.motion.jacobian(points)
    moved = pair.motion(points)
    h = 1e-3
    gradient = np.stack(
        [(pair.motion(points + s) - pair.motion(points - s)) / (2 * h) for s in h * np.eye(3)], -1
    )
    motion = np.linalg.norm(moved - points, axis=1)
    return {
        **ml,
        "volume_by_jacobian_ratio": float(jacobian.mean())
        * (ml["exp_left_ml"] + ml["exp_right_ml"])
        / (ml["insp_left_ml"] + ml["insp_right_ml"]),
        "mass_insp_g": pair.mass_insp_g,
        "mass_exp_g": pair.mass_exp_g,
        "motion_mean_mm": float(motion.mean()),
        "motion_max_mm": float(motion.max()),
        "jacobian_p5": float(np.percentile(jacobian, 5)),
        "jacobian_mean": float(jacobian.mean()),
        "jacobian_p95": float(np.percentile(jacobian, 95)),
        "jacobian_min": float(jacobian.min()),
        "jacobian_minus_differences_max": float(np.abs(np.linalg.det(gradient) - jacobian).max()),
        "inverse_error_max_mm": float(np.abs(pair.motion.inverse(moved) - points).max()),
    }


def score(folder: Path, field: Path, *, samples: int = 200_000) -> list[dict[str, float | str]]:
    """Error of a field over the expiratory lungs of a pair on disk, all and by distance from the pleura, mm."""
    motion = Motion.load(folder / "truth" / "motion.npz")
    lungs = io.read_labels(folder / "lungs_exp.nii.gz").reorient("SPL")
    inside = lungs.array > 0
    box = tuple(slice(a.min() - 1, a.max() + 2) for a in np.nonzero(inside))
    depth = np.zeros(lungs.shape, np.float32)
    depth[box] = ndimage.distance_transform_edt(inside[box], lungs.spacing)
    voxels = np.argwhere(inside)
    voxels = voxels[:: max(1, len(voxels) // samples)]
    points = lungs.grid.world(voxels)
    error = np.linalg.norm(read_field(field).sample(points) - (motion(points) - points), axis=1)
    below = depth[tuple(voxels.T)]
    rows: list[dict[str, float | str]] = []
    for name, low, high in (("all", 0, np.inf), *((f"{a}-{b} mm", a, b) for a, b in SHELLS)):
        e = error[(below > low) & (below <= high)]
        if len(e):
            rows.append(
                {"shell": name, "n": len(e), "mean": e.mean(), "p95": np.percentile(e, 95), "max": e.max()}
            )
    return rows


def main() -> None:
    """Make the pair and say what it is like."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="a new folder; with --score the pair's"
    )
    parser.add_argument("--source", type=Path, help="inspiratory CT; by default the one in LUNGVQ_TEST_DATA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rise", type=float, default=45.0, help="of the diaphragm, mm")
    parser.add_argument("--uneven", type=float, default=1.0, help="strength of uneven motion; 0 for none")
    parser.add_argument("--slices", type=int, help="of the expiration; by default spaced 0.8 times as far")
    parser.add_argument(
        "--score", type=Path, metavar="FIELD", help="judge this field on a pair that is there"
    )
    chosen = parser.parse_args()
    if chosen.score:
        for row in score(chosen.output, chosen.score):
            print(
                f"{row['shell']:>10}{row['n']:8}  mean {row['mean']:.2f}  p95 {row['p95']:.2f}  max {row['max']:.1f}"
            )
        return
    data = os.environ.get("LUNGVQ_TEST_DATA")
    source = chosen.source or (Path(data) / "ct-chest-1mm-dicom" if data else None)
    if source is None:
        parser.error("give --source, or set LUNGVQ_TEST_DATA")
    if chosen.output.exists():
        parser.error(f"{chosen.output} already exists")
    start = time.perf_counter()
    insp = io.read(source).volume.reorient("SPL")
    lungs = segment(insp).lungs
    pair = make_real_pair(
        insp,
        lungs,
        seed=chosen.seed,
        rise_mm=chosen.rise,
        uneven=chosen.uneven,
        slices=chosen.slices,
    )
    write_real_pair(pair, chosen.output)
    print(
        f"{chosen.output}: insp {pair.insp.shape}, exp {pair.exp.shape}, {time.perf_counter() - start:.0f} s"
    )
    for name, value in facts(pair).items():
        print(f"  {name:32}{value:12.4g}")


if __name__ == "__main__":
    main()
