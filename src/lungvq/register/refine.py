"""The last millimetres: local correlation and the pleura, by Gauss-Newton steps in Gaussian windows.

Around each voxel the moving image is brought to the fixed one by a local gain and offset, so nothing is
assumed about how density changes with volume (a mass-preserving metric would remove the very signal that
perfusion is read from). What then differs, and how far the mapped pleura lies from the pleura, is linearised in
the displacement and solved per window: the registration analogue of Lucas and Kanade's flow with locally
normalised intensities. Windows stop at the mask, so the two sides of the pleura never see each other.

Wide windows see far more voxels than noise can lead astray, but come to rest slowly where the images hold little:
their steps are taken further than they are long. Windows become ever smaller, and small ones follow noise. How small
is right depends on the scans and on how unevenly the lung breathes, so it is asked of the images: steps are also
computed from one half of the lung alone, and a step is taken as far as it improves the other half. How firmly places
that see little follow their surroundings is asked likewise: the more so, the less the halves agree on how the field
differs from a smooth one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
from scipy.special import erfinv

from lungvq import _sampling
from lungvq._parallel import PRANGE
from lungvq.register.field import Array, Mask, blur, grown, halve_voxels, smooth

__all__ = ["FINE_WINDOWS", "WINDOWS", "Refined", "local_correlation", "pleura_distance", "refine"]

WINDOWS = (8.0, 8.0, 6.0, 6.0, 5.0, 4.0)
"""Sigma of the Gaussian window of each step, voxels."""

FINE_WINDOWS = (7.0, 7.0, 6.0, 6.0, 5.0, 4.0, 3.0, 2.2, 1.6)
"""Of the steps on the finer grid that follow."""

_NORMALISE = 1.2  # sigma of the window in which gain and offset are fitted, voxels
_CORRELATE = 2.0  # sigma of the window of the local correlation, voxels
_NOISE_HU = 25.0  # below this a difference says nothing
_RIDGE = 0.02  # information per voxel^2 below which a place follows its surroundings
_STIFFEST = 10.0  # times that, where halves of a lung agree on little but that it breathes evenly
_USUAL_DOUBT = 0.13  # noise over signal up to which the ridge stays as it is
_DOUBT_WINDOW = 4.0  # sigma of the windows in which that is told, voxels
_REACH = 5.0  # sigma over which places that see nothing take after those that do, voxels
_PLEURA_WEIGHT = 2.4
_PLEURA_BAND = 2.0  # voxels to both sides
_PLEURA_DOUBT = 2.0  # voxels of distance at which the two masks are taken to disagree
_TRUE_TO_EACH_OTHER = 0.7  # voxels, rms of a neighbourhood, likewise
_ALONG_PLEURA = 6.0  # sigma of that neighbourhood, voxels
_LARGEST_STEP = 1.0  # voxels
_WIDE = 4.5  # sigma, voxels, from which a window's steps are not judged
_STRIDE = 1.8  # times such a step; 2 would never settle where the images hold much
_CELL = 8  # voxels: edge of the cells of the chequerboard whose colours judge each other's steps
_JUDGE = 20.0  # sigma over which that judgement is averaged, voxels
_BY_CHANCE = 0.3  # how much of a step that follows noise is confirmed: noise reaches over the cells' edges
_DISCORD = 3.3  # sigma over which the two halves' disagreement is averaged, voxels
_BENEFIT_OF_DOUBT = 1e-4  # information per voxel^2 below which a step is taken as it is


def pleura_distance(share: Array, *, sigma: float = 1.0) -> Array:
    """Signed distance to the surface of a lung in voxels, negative inside, held beyond about 2.3 sigma.

    From the share of each voxel that is lung, smoothed: across a flat surface that is an error function of
    the distance, whose inverse is finer than any distance counted in voxels.
    """
    width = np.sqrt(sigma**2 + 1 / 12)
    low, high = np.float32(0.01), np.float32(0.99)
    soft = np.clip(blur(share, sigma), low, high)

    def distance(part: Array | np.float32) -> Array:
        return np.asarray(width * np.sqrt(2) * erfinv(1 - 2 * part), np.float32)

    out: Array = np.where(soft > 0.5, distance(high), distance(low))
    between = (soft > low) & (soft < high)
    out[between] = distance(soft[between])
    return out


def _with_gradients(image: Array, distance: Array) -> Array:
    """Image, its gradient, distance and its gradient: (K, J, I, 8).

    By central differences: those within a cell would draw the field to where interpolation averages most noise.
    """
    out = np.empty((*image.shape, 8), np.float32)
    _interleave(image, distance, out)
    return out


# Kernels of several threads are given what they fill: an array made within takes longer to compile than the rest.


@numba.njit(parallel=PRANGE, cache=True)
def _interleave(image, distance, out):
    """Two arrays (K, J, I), each with its gradient behind it, to `out` (K, J, I, 8)."""
    shape = image.shape
    for k in numba.prange(shape[0]):
        for j in range(shape[1]):
            for i in range(shape[2]):
                _with_slopes(image, k, j, i, out[k, j, i, :4])
                _with_slopes(distance, k, j, i, out[k, j, i, 4:])


@numba.njit(cache=True)
def _with_slopes(array, k, j, i, out):
    """A value and its three differences, half of that to both neighbours or all of that to the only one."""
    z0, z1 = max(k - 1, 0), min(k + 1, array.shape[0] - 1)
    y0, y1 = max(j - 1, 0), min(j + 1, array.shape[1] - 1)
    x0, x1 = max(i - 1, 0), min(i + 1, array.shape[2] - 1)
    out[0] = array[k, j, i]
    out[1] = (array[z1, j, i] - array[z0, j, i]) / np.float32(z1 - z0)
    out[2] = (array[k, y1, i] - array[k, y0, i]) / np.float32(y1 - y0)
    out[3] = (array[k, j, x1] - array[k, j, x0]) / np.float32(x1 - x0)


@numba.njit(parallel=PRANGE, cache=True)
def _gather(source, field, band, outside, far, here, sums):
    """What the moving scan has at the mapped voxels of the fixed one, and sums over blocks of 2 x 2 x 2 voxels.

    `source` (K', J', I', 8); `field` (3, K/2, J/2, I/2) holds for the middles of blocks and is interpolated in
    between. Trilinear values go to the first eight of `here` (10, K, J, I), the last four within `band` of the pleura
    only; the ninth is the fixed image, NaN where nothing is asked, the tenth the distance from its pleura.
    To `sums` (6, K/2, J/2, I/2), 0 before, are added the count, F, F^2, M, M^2, F M.
    """
    for row in numba.prange(field.shape[1]):
        _gather_blocks(np.int64(row), source, field, band, outside, far, here, sums)


@numba.njit(cache=True)  # apart from the parallel loop, in which it takes half as long again to compile
def _gather_blocks(bk, source, field, band, outside, far, here, sums):
    """`_gather` for one layer of blocks."""
    nz, ny, nx = source.shape[:3]
    shape, blocks = here.shape[1:], field.shape[1:]
    near, next_to = np.float32(0.75), np.float32(0.25)
    values = np.empty(8, np.float32)
    for k in range(2 * bk, min(2 * bk + 2, shape[0])):
        ck = min(max(bk + (1 if k % 2 else -1), 0), blocks[0] - 1)
        for j in range(shape[1]):
            bj = j // 2
            cj = min(max(bj + (1 if j % 2 else -1), 0), blocks[1] - 1)
            for i in range(shape[2]):
                f = here[8, k, j, i]
                if np.isnan(f):
                    continue
                bi = i // 2
                ci = min(max(bi + (1 if i % 2 else -1), 0), blocks[2] - 1)
                uz = uy = ux = np.float32(0)
                for corner in range(8):
                    fk, wk = (ck, next_to) if corner & 4 else (bk, near)
                    fj, wj = (cj, next_to) if corner & 2 else (bj, near)
                    fi, wi = (ci, next_to) if corner & 1 else (bi, near)
                    share = wk * wj * wi
                    uz += share * field[0, fk, fj, fi]
                    uy += share * field[1, fk, fj, fi]
                    ux += share * field[2, fk, fj, fi]
                z, y, x = k + uz, j + uy, i + ux
                channels = 8 if abs(here[9, k, j, i]) < band else 4
                values[:] = 0
                if 0 <= z <= nz - 1 and 0 <= y <= ny - 1 and 0 <= x <= nx - 1:
                    iz, iy, ix = min(int(z), nz - 2), min(int(y), ny - 2), min(int(x), nx - 2)
                    fz, fy, fx = z - iz, y - iy, x - ix
                    for dz in range(2):
                        for dy in range(2):
                            w = (fz if dz else 1 - fz) * (fy if dy else 1 - fy)
                            a, b = np.float32(w * (1 - fx)), np.float32(w * fx)
                            line = source[iz + dz, iy + dy]
                            for n in range(channels):
                                values[n] = values[n] + a * line[ix, n] + b * line[ix + 1, n]
                else:
                    values[0], values[4] = outside, far
                for n in range(channels):
                    here[n, k, j, i] = values[n]
                m = values[0]
                block = sums[:, bk, bj, bi]
                block[0] += 1
                block[1] += f
                block[2] += f * f
                block[3] += m
                block[4] += m * m
                block[5] += f * m


@numba.njit(parallel=PRANGE, cache=True)
def _normal_equations(here, stats, noise2, pleura_weight, band, doubt, sums):
    """The six entries of J'J and the three of J'r, in blocks of 2 x 2 x 2 voxels.

    `here` (10, K, J, I) as `_gather` leaves it; `stats` (6, K/2, J/2, I/2): local sums of 1, F, F^2, M, M^2 and F M.
    To `sums` (21, K/2, J/2, I/2), 0 before, are added those of the image, with the count of voxels last (10); then
    those of the pleura, with the weighted sum of squared distances and the sum of weights last (11).
    """
    for row in numba.prange(stats.shape[1]):
        _layer_equations(np.int64(row), here, stats, noise2, pleura_weight, band, doubt, sums)


@numba.njit(cache=True)
def _layer_equations(bk, here, stats, noise2, pleura_weight, band, doubt, sums):
    """`_normal_equations` for one layer of blocks."""
    shape, one = here.shape[1:], np.float32(1)
    for k in range(2 * bk, min(2 * bk + 2, shape[0])):
        for j in range(shape[1]):
            for i in range(shape[2]):
                seen = here[:, k, j, i]
                if np.isnan(seen[8]):
                    continue
                block, local = sums[:, bk, j // 2, i // 2], stats[:, bk, j // 2, i // 2]
                n = local[0]
                mean_f, mean_m = local[1] / n, local[3] / n
                var_f = max(local[2] / n - mean_f * mean_f, np.float32(0))
                var_m = max(local[4] / n - mean_m * mean_m, np.float32(0))
                cov = local[5] / n - mean_f * mean_m
                gain = max(cov, np.float32(0)) / (var_m + one)
                weight = one / (max(var_f - gain * cov, np.float32(0)) + noise2)
                r = (seen[8] - mean_f) - gain * (seen[0] - mean_m)
                _add(block, seen[1:4], gain, weight, r)
                block[9] += 1
                if abs(seen[9]) < band:
                    r = seen[9] - seen[4]
                    weight = pleura_weight / (one + (r / doubt) ** 2) ** 2
                    _add(block[10:], seen[5:8], one, weight, r)
                    block[19] += weight * r * r
                    block[20] += weight


@numba.njit(cache=True)
def _add(sums, gradient, gain, weight, r):
    """Add one voxel's equation to a block's: its gradient, scaled, its weight and what is left to explain."""
    entry = 0
    for a in range(3):
        scaled = weight * gain * gradient[a]
        sums[6 + a] += scaled * r
        for b in range(a, 3):
            sums[entry] += scaled * gain * gradient[b]
            entry += 1


@numba.njit(cache=True)
def _belief(sums, ridge):
    """How well a window's sums (10, N) fix a displacement in its worst direction, 0 to 1."""
    out = np.zeros(sums.shape[1], np.float32)
    for p in range(sums.shape[1]):
        if sums[9, p] < 1e-4:
            continue
        r = 0.1 * ridge * sums[9, p]
        a, b, c = sums[0, p] + r, sums[1, p], sums[2, p]
        d, e, f = sums[3, p] + r, sums[4, p], sums[5, p] + r
        ia, ib, ic = d * f - e * e, c * e - b * f, b * e - c * d
        det = a * ia + b * ib + c * ic
        harmonic = 3 * det / (ia + a * f - c * c + a * d - b * b) / sums[9, p]
        out[p] = harmonic / (harmonic + ridge)
    return out


@numba.njit(parallel=PRANGE, cache=True)
def _solve(sums, tether, ridge, largest, out):
    """To `out` (3, N), 0 before, the step from windows' sums (10, N), no longer than `largest`.

    It stays 0 where nothing was counted. Directions in which the window sees nothing follow `tether` (3, N).
    """
    for p in numba.prange(sums.shape[1]):
        if sums[9, p] < 1e-4:
            continue
        r = ridge * sums[9, p]
        a, b, c = sums[0, p] + r, sums[1, p], sums[2, p]
        d, e, f = sums[3, p] + r, sums[4, p], sums[5, p] + r
        u, v, w = sums[6, p] + r * tether[0, p], sums[7, p] + r * tether[1, p], sums[8, p] + r * tether[2, p]
        ia, ib, ic = d * f - e * e, c * e - b * f, b * e - c * d
        ie, ig, ih = a * f - c * c, b * c - a * e, a * d - b * b
        det = a * ia + b * ib + c * ic
        z = (ia * u + ib * v + ic * w) / det
        y = (ib * u + ie * v + ig * w) / det
        x = (ic * u + ig * v + ih * w) / det
        length = np.sqrt(z * z + y * y + x * x)
        scale = min(1.0, largest / (length + 1e-9))
        out[0, p], out[1, p], out[2, p] = z * scale, y * scale, x * scale


@numba.njit(cache=True)
def _agreement(sums, step):
    """``s'b`` and ``s'A s`` of steps s (3, N) with blocks' own equations (10, N): (2, N).

    The best multiple of a step is the one by the other; both are about equal where a step is right.
    """
    out = np.empty((2, sums.shape[1]), np.float32)
    for p in range(sums.shape[1]):
        z, y, x = step[0, p], step[1, p], step[2, p]
        out[0, p] = z * sums[6, p] + y * sums[7, p] + x * sums[8, p]
        out[1, p] = (
            z * z * sums[0, p]
            + y * y * sums[3, p]
            + x * x * sums[5, p]
            + 2 * (z * y * sums[1, p] + z * x * sums[2, p] + y * x * sums[4, p])
        )
    return out


def _halve(field: Array) -> Array:
    """Means over blocks of 2 x 2 x 2 voxels, rounded up: (C, K/2, J/2, I/2)."""
    for axis in (1, 2, 3):
        field = _sampling.weigh(field, axis, *_pairs(field.shape[axis]))
    return field


@lru_cache(maxsize=64)
def _pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights for means of every two values; where n is odd, of the last one and what lies straight on beyond it."""
    dense = np.kron(np.eye((n + 1) // 2), [0.5, 0.5])[:, :n]
    if n % 2 and n > 1:
        dense[-1, -2:] = -0.5, 1.5
    elif n == 1:
        dense[:] = 1
    return _sampling.banded(dense)


def _double(field: Array, shape: tuple[int, ...]) -> Array:
    """From the middles of blocks to voxels, by cubic interpolation, straight on beyond the edges."""
    for axis, count in enumerate(shape, start=1):
        field = halve_voxels(field, axis, "cubic", count)
    return field


class Refined(NamedTuple):
    """An improved field and what its last step tells of the error that is left.

    Parameters
    ----------
    field : ndarray, shape (3, K, J, I)
        Index of a fixed voxel to index of the moving image, in voxels.
    discord : ndarray, shape (K, J, I)
        Rms half difference of two last steps, each computed from one half of the lung, in voxels.
    weakness : ndarray, shape (K, J, I)
        Root of the trace of the inverse of what is known of a displacement, in voxels: large where the
        images hold little to go by.
    """

    field: Array
    discord: Array
    weakness: Array


def refine(
    fixed: Array,
    share: Array,
    moving: Array,
    moving_share: Array,
    field: Array,
    windows: tuple[float, ...],
    *,
    outside: float,
    part: Mask | None = None,
    settled: bool = False,
) -> Refined:
    """Improve a field that is right to about two voxels.

    Parameters
    ----------
    fixed, moving : ndarray, shapes (K, J, I) and (K', J', I')
        HU, `outside` beyond the lung.
    share, moving_share : ndarray of float32, the same shapes
        Share of each voxel that is lung.
    field : ndarray, shape (3, K, J, I)
        Index of a fixed voxel to index of `moving`, in voxels.
    windows : tuple of float
        Sigma of the window of each step, voxels.
    outside : float
        HU
    part : ndarray of bool, shape (K, J, I), optional
        All that is looked at, of the lung and around it, as where parts of a lung slide on one another.
    settled : bool, optional
        Whether windows as wide as the first have been through: then the images can say how evenly the lung breathes
        (`_ridge`).

    Returns
    -------
    Refined
        Good on the mask and the two voxels around it.
    """
    domain = grown(share > 0.5, 2)
    if part is not None:
        domain &= part
    source = _with_gradients(moving, pleura_distance(moving_share))
    # Windows are wide enough for a field that is known at every second voxel, which is eight times less work.
    field = _halve(field)
    shape = field.shape[1:]
    black = (np.indices(shape) // (_CELL // 2)).sum(axis=0) % 2 == 0
    here = np.empty((10, *fixed.shape), np.float32)
    here[8], here[9] = np.where(domain, fixed, np.float32(np.nan)), pleura_distance(share)
    band, blocks, ridge = np.float32(_PLEURA_BAND), np.zeros((21, *shape), np.float32), _RIDGE
    for n, window in enumerate(windows):
        moments = np.zeros((6, *shape), np.float32)
        _gather(source, field, band, np.float32(outside), np.float32(3.0), here, moments)
        stats = blur(moments, _NORMALISE / 2)
        stats[0] = np.maximum(stats[0], 1e-6)
        blocks[:] = 0
        _normal_equations(
            here,
            stats,
            np.float32(_NOISE_HU**2),
            np.float32(_PLEURA_WEIGHT),
            band,
            np.float32(_PLEURA_DOUBT),
            blocks,
        )
        image, surface = blocks[:10], blocks[10:]
        sums = np.concatenate([image[:9] + _trust(surface) * surface[:9], image[9:]])
        judged = window < _WIDE or n + 1 == len(windows)
        if judged:
            halves = [blur(sums * colour, window / 2).reshape(10, -1) for colour in (black, ~black)]
            whole = halves[0] + halves[1]
        else:
            whole = blur(sums, window / 2).reshape(10, -1)
        if n == 0 or window != windows[n - 1]:
            belief = _belief(whole, np.float32(_RIDGE)).reshape(shape)
            agreed = _smooth_coarsely(field, belief * np.minimum(sums[9] / 8, 1), _REACH / 2)
        tether = (agreed - field).reshape(3, -1)
        if settled and n == 0:
            ridge = _ridge(image, tether, black)
        step = _step(whole, tether, shape, ridge)
        if not judged:
            field = field + np.float32(_STRIDE) * step
            continue
        of_black, of_white = (_step(half, tether, shape, ridge) for half in halves)
        others = _agreement(image.reshape(10, -1), np.where(black, of_white, of_black).reshape(3, -1))
        gain, cost = blur(others.reshape(2, *shape), _JUDGE / 2)
        confirmed = (gain + _BENEFIT_OF_DOUBT) / (cost + _BENEFIT_OF_DOUBT)
        taken = np.clip((confirmed - _BY_CHANCE) / (1 - _BY_CHANCE), 0, 1)
        field = field + taken * step
    seen = np.minimum(sums[9], 1)
    # Steps held to their surroundings disagree less without being that much better.
    of_black, of_white = (_step(half, tether, shape, _RIDGE) for half in halves)
    discord = np.sqrt(_mean_where(((of_black - of_white) ** 2).sum(axis=0) / 4, seen, _DISCORD / 2))
    fine = _double(np.stack([*field, discord, _weakness(whole).reshape(shape)]), fixed.shape)
    return Refined(np.ascontiguousarray(fine[:3]), np.maximum(fine[3], 0), np.maximum(fine[4], 0))


def _smooth_coarsely(field: Array, weight: Array, sigma: float) -> Array:
    """As `smooth`, on every second voxel, which is all that a Gaussian of more than two voxels leaves."""
    coarse = _halve(weight[None])
    mean = np.divide(_halve(field * weight), coarse, out=_halve(field), where=coarse > 0)
    return _double(smooth(mean, np.maximum(coarse[0], 0), sigma / 2), weight.shape)


def _trust(surface: Array) -> Array:
    """How far the masks are believed to show the same pleura, 0 to 1, from its equations (11, K, J, I).

    Where it lies apart all around, though the images have been brought together, one mask leaves out what the other
    has: a slab, dense lung.
    """
    square, weight = blur(surface[9:], _ALONG_PLEURA / 2)
    apart = square / np.maximum(weight, np.float32(1e-4)) / np.float32(_TRUE_TO_EACH_OTHER**2)
    return np.reciprocal((1 + apart) ** 2)


def _ridge(image: Array, tether: Array, black: Mask) -> float:
    """How firmly a lung's places that see little are to follow their surroundings, from its equations (10, K, J, I).

    Both halves of the lung are asked how the field should differ from the smooth one to which `tether` (3, N) leads.
    What they agree on is uneven breathing, what they disagree on is noise. Where there is much of it beside little of
    the other, surroundings know better than what a place sees of its own.
    """
    to_smooth = image.copy()
    for a, row in enumerate(((0, 1, 2), (1, 3, 4), (2, 4, 5))):
        for entry, along in zip(row, tether.reshape(3, *black.shape), strict=True):
            to_smooth[6 + a] -= image[entry] * along
    halves = [blur(to_smooth * half, _DOUBT_WINDOW / 2).reshape(10, -1) for half in (black, ~black)]
    one, other = (np.zeros_like(tether) for _ in halves)
    for half, step in zip(halves, (one, other), strict=True):
        _solve(half, np.zeros_like(tether), np.float32(0.1 * _RIDGE), np.float32(3 * _LARGEST_STEP), step)
    weight = np.minimum(image[9].ravel() / 8, 1)
    for half in halves:
        weight = weight * _belief(half, np.float32(_RIDGE))
    signal = float(weight @ (one * other).sum(axis=0))
    noise = float(weight @ ((one - other) ** 2).sum(axis=0)) / 4
    doubt = noise / max(signal, 1e-3 * noise, 1e-12)
    return _RIDGE * float(np.clip((doubt / _USUAL_DOUBT) ** 3, 1.0, _STIFFEST))


def _step(sums: Array, tether: Array, shape: tuple[int, ...], ridge: float) -> Array:
    out = np.zeros((3, sums.shape[1]), np.float32)
    _solve(sums, tether, np.float32(ridge), np.float32(_LARGEST_STEP), out)
    return out.reshape(3, *shape)


def _mean_where(values: Array, weight: Array, sigma: float) -> Array:
    spread, total = blur(np.stack([values * weight, weight]), sigma)
    return np.divide(spread, total, out=np.zeros_like(spread), where=total > 1e-4)


def _weakness(sums: Array) -> Array:
    """Root of the trace of the inverse of windows' mean information (10, N), voxels."""
    known = np.maximum(sums[9], np.float32(1e-6))
    a, b, c, d, e, f = sums[:6] / known
    a, d, f = a + np.float32(_RIDGE), d + np.float32(_RIDGE), f + np.float32(_RIDGE)
    minors = d * f - e * e, a * f - c * c, a * d - b * b
    det = a * minors[0] + b * (c * e - b * f) + c * (b * e - c * d)
    return np.sqrt(sum(minors) / np.maximum(det, np.float32(1e-9)))


def local_correlation(fixed: Array, warped: Array, mask: Mask, *, sigma: float = _CORRELATE) -> Array:
    """Local correlation of an image with others over the mask, 0 to 1.

    Parameters
    ----------
    fixed : ndarray, shape (K, J, I)
        HU
    warped : ndarray, shape (..., K, J, I)
        HU, one image or several.
    mask : ndarray of bool, shape (K, J, I)
    sigma : float, optional
        Of the Gaussian window, voxels.

    Returns
    -------
    ndarray of float32, shape (..., K, J, I)
        Correlation coefficient, negative ones as 0, damped where the window holds nothing but noise;
        NaN outside the mask.
    """
    weight = mask.astype(np.float32)
    known = np.maximum(blur(weight, sigma), np.float32(1e-6))
    mean_f, square_f = blur(np.stack([fixed, fixed * fixed]) * weight, sigma) / known
    sums = blur(np.stack([warped, warped * warped, fixed * warped]) * weight, sigma)
    mean_m, square_m, product = sums / known
    var_f = np.maximum(square_f - mean_f**2, 0)
    var_m = np.maximum(square_m - mean_m**2, 0)
    cov = product - mean_f * mean_m
    correlation = cov / np.sqrt(var_f * var_m + _NOISE_HU**4 / 16)
    return np.where(mask, np.clip(correlation, 0, 1), np.float32(np.nan))
