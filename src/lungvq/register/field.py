"""Displacement fields on a mask: smooth, continue, compose, invert, differentiate.

Inside this package a field is an array ``(3, K, J, I)`` whose components run along the array axes (k, j, i)
and count voxels of an isotropic grid. A lung's field is known on that lung only. Smoothing it as if it were
zero elsewhere, or even constant, pulls the lung base by many millimetres where expansion is strongest; so
everything here is exact for affine fields up to and beyond the edge of the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from lungvq import _sampling
from lungvq._parallel import PRANGE

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

__all__ = [
    "REACH",
    "affine_field",
    "blur",
    "compose",
    "extrapolate",
    "fit_affine",
    "gaussian_mean",
    "grown",
    "halve_voxels",
    "invert",
    "jacobian",
    "local_line",
    "pull",
    "smooth",
]

REACH = 2.5
"""How many sigma a Gaussian reaches."""


def blur(array: Array, sigma: float | Sequence[float]) -> Array:
    """Gaussian smoothing of ``(..., K, J, I)`` along its last three axes; zero beyond the edges.

    `sigma` is in voxels, one for all axes or one each; the kernel ends at 2.5 sigma.
    """
    out: Array = np.ascontiguousarray(array, np.float32)
    first = array.ndim - 3
    for axis, s in enumerate(np.broadcast_to(np.asarray(sigma, float), (3,)), start=first):
        out = _sampling.weigh(out, axis, *_gaussian(array.shape[axis], float(s)))
    return out


@lru_cache(maxsize=64)  # of one case; each has its own sizes, and a worker sees hundreds
def _gaussian(n: int, sigma: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Weights of a Gaussian along an axis of `n` voxels, as `_sampling.weigh` takes them."""
    reach = max(1, int(np.ceil(REACH * sigma)))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    width = min(2 * reach + 1, n)
    first = np.clip(np.arange(n) - reach, 0, n - width)
    tap = first[:, None] + np.arange(width) - np.arange(n)[:, None] + reach
    known = (tap >= 0) & (tap < taps.size)
    weights = np.where(known, (taps / taps.sum())[np.clip(tap, 0, taps.size - 1)], 0)
    return first, weights.astype(np.float32)


def gaussian_mean(values: Array, mask: Mask, sigma: float) -> Array:
    """Gaussian average of `values` over `mask` alone (normalised convolution); 0 where the mask is far."""
    weight = blur(mask.astype(np.float32), sigma)
    total = blur(np.where(mask, values, np.float32(0)), sigma)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-6)


def grown(mask: Mask, voxels: int = 1) -> Mask:
    """A mask and what lies beside its faces, so many times; many times as fast as `scipy.ndimage.binary_dilation`."""
    for _ in range(voxels):
        wider = mask.copy()
        for axis in range(mask.ndim):
            to, seen = np.moveaxis(wider, axis, 0), np.moveaxis(mask, axis, 0)
            to[1:] |= seen[:-1]
            to[:-1] |= seen[1:]
        mask = wider
    return mask


_QUARTER = {  # weights of four points for the place a quarter of the way from the second to the third
    "linear": np.array([0, 96, 32, 0], np.float32) / 128,
    "cubic": np.array([-9, 111, 29, -3], np.float32) / 128,  # Catmull-Rom
    "spline": np.array([27, 235, 121, 1], np.float32) / 384,  # of the coefficients of cubic B-splines
}


def halve_voxels(
    array: Array, axis: int, kind: Literal["linear", "cubic", "spline"], count: int | None = None
) -> Array:
    """Values at the middles of both halves of each voxel along an axis; straight on beyond the edges.

    Parameters
    ----------
    array : ndarray of float32, any shape
    axis : int
    kind : str
        Of interpolation; those further down keep more of fine detail, and overshoot more at edges.
    count : int, optional
        How many values are wanted along `axis`, from the first; all of them, twice as many as there were.

    Returns
    -------
    ndarray of float32
        Its first value lies a quarter of a voxel before the first of `array`.
    """
    first, weights = _halves(array.shape[axis], kind)
    return _sampling.weigh(np.ascontiguousarray(array), axis, first[:count], weights[:count])


@lru_cache(maxsize=64)  # of one case; each has its own sizes, and a worker sees hundreds
def _halves(n: int, kind: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Weights of `halve_voxels` along an axis of `n` voxels, as `_sampling.weigh` takes them."""
    # Of two values beyond the edges, each is as far from the edge's as its mirror image.
    wide = np.pad(np.eye(n), ((2, 2), (0, 0)), mode="reflect", reflect_type="odd")
    dense = np.zeros((2 * n, n))
    for tap, weight in enumerate(_QUARTER[kind]):
        dense[0::2] += weight * wide[3 - tap : 3 - tap + n]
        dense[1::2] += weight * wide[tap + 1 : tap + 1 + n]
    if kind == "spline" and n > 1:
        dense @= np.linalg.inv(_b_splines(n))
        dense[np.abs(dense) < 1e-4] = 0  # seven voxels away
        dense /= dense.sum(axis=1, keepdims=True)
    return _sampling.banded(dense)


def _b_splines(n: int) -> NDArray[np.float64]:
    """Values at `n` > 1 points in a row from the coefficients of cubic B-splines, mirrored at both ends."""
    values = np.eye(n) * 4 + np.eye(n, k=1) + np.eye(n, k=-1)
    values[0, 1] = values[-1, -2] = 2
    return values / 6


def pull(source: Array, field: Array, clamp: bool, fill: float) -> Array:
    """Values of `source` at every voxel's own index plus `field`, by trilinear interpolation.

    Parameters
    ----------
    source : ndarray of float32, shape (C, K, J, I)
    field : ndarray of float32, shape (3, k, j, i)
        In voxels of `source`.
    clamp : bool
        Whether the nearest edge value holds outside; otherwise `fill` does.
    fill : float

    Returns
    -------
    ndarray of float32, shape (C, k, j, i)
    """
    out = np.empty((len(source), *field.shape[1:]), np.float32)
    _pull(np.ascontiguousarray(source), np.ascontiguousarray(field), clamp, np.float32(fill), out)
    return out


@numba.njit(parallel=PRANGE, cache=True)
def _pull(source, field, clamp, fill, out):
    channels, nz, ny, nx = source.shape
    shape = field.shape
    for k in numba.prange(shape[1]):
        for j in range(shape[2]):
            for i in range(shape[3]):
                z, y, x = k + field[0, k, j, i], j + field[1, k, j, i], i + field[2, k, j, i]
                inside = -0.5 <= z <= nz - 0.5 and -0.5 <= y <= ny - 0.5 and -0.5 <= x <= nx - 0.5
                if not (clamp or inside):
                    for c in range(channels):
                        out[c, k, j, i] = fill
                    continue
                z = min(max(z, 0.0), nz - 1.0)
                y = min(max(y, 0.0), ny - 1.0)
                x = min(max(x, 0.0), nx - 1.0)
                z0, y0, x0 = min(int(z), nz - 2), min(int(y), ny - 2), min(int(x), nx - 2)
                fz, fy, fx = z - z0, y - y0, x - x0
                for c in range(channels):
                    out[c, k, j, i] = _between(source[c], z0, y0, x0, fz, fy, fx)


@numba.njit(inline="always")
def _between(s, z, y, x, fz, fy, fx):
    """Trilinear value at shares fz, fy, fx of the way from a voxel to the next ones."""
    a = s[z, y, x] * (1 - fx) + s[z, y, x + 1] * fx
    b = s[z, y + 1, x] * (1 - fx) + s[z, y + 1, x + 1] * fx
    d = s[z + 1, y, x] * (1 - fx) + s[z + 1, y, x + 1] * fx
    e = s[z + 1, y + 1, x] * (1 - fx) + s[z + 1, y + 1, x + 1] * fx
    return (a * (1 - fy) + b * fy) * (1 - fz) + (d * (1 - fy) + e * fy) * fz


def compose(outer: Array, inner: Array) -> Array:
    """The field of "first `inner`, then `outer`": ``inner(x) + outer(x + inner(x))``."""
    return inner + pull(outer, inner, True, 0.0)


def invert(field: Array, *, iterations: int = 30) -> Array:
    """The field that undoes `field`, on the same grid, by fixed-point iteration.

    Converges where the field's gradient is below 1 in norm; where it is larger the step is halved.
    """
    inverse = -field
    for _ in range(iterations):
        inverse = 0.5 * inverse - 0.5 * pull(field, inverse, True, 0.0)
    return inverse


_ENOUGH = 50_000  # voxels tell an affine map


def fit_affine(values: Array, weight: Array | Mask) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least-squares ``values ~ constant + slope @ index`` where `weight` is positive, by weight; on some of many.

    Returns
    -------
    constant : ndarray, shape (C,)
    slope : ndarray, shape (C, 3)
        Damped where the points are too few or lie in one plane.
    """
    step = max(1, round((weight.size / _ENOUGH) ** (1 / 3)))
    some = (slice(None, None, step),) * 3
    if np.count_nonzero(weight[some]) < _ENOUGH / 100:
        step, some = 1, (slice(None),) * 3
    here = weight[some] > 0
    index = step * np.argwhere(here).astype(float)
    w = weight[some][here].astype(float)
    target = values[(slice(None), *some)][:, here].astype(float)
    centre, mean = w @ index / w.sum(), target @ w / w.sum()
    centred = index - centre
    weighed = centred.T * w
    ridge = 0.005 * w.sum()  # small beside the spread of any lung, in voxels^2
    slope = np.linalg.solve(weighed @ centred + ridge * np.eye(3), weighed @ (target.T - mean)).T
    return mean - slope @ centre, slope


def affine_field(constant: NDArray, slope: NDArray, shape: tuple[int, ...]) -> Array:
    """``constant + slope @ index`` at every voxel of a grid: shape (C, K, J, I)."""
    axes = [
        np.arange(n, dtype=np.float32).reshape([-1 if a == d else 1 for a in range(3)])
        for d, n in enumerate(shape)
    ]
    fields = [
        np.float32(c) + sum(np.float32(s) * axis for s, axis in zip(row, axes, strict=True))
        for c, row in zip(constant, slope, strict=True)
    ]
    return np.stack([np.broadcast_to(f, shape) for f in fields]).astype(np.float32)


@numba.njit(cache=True)
def _line_up(sums, axes, ridge, reach):
    """Evaluate at each voxel the local straight-line fits whose weighted sums are given; (C, N).

    sums (10 + 4 C, N): w, w*x (3), w*xx (6), then w*u and w*x*u for each of C fields; axes (3, N): x.
    """
    channels, n = (sums.shape[0] - 10) // 4, sums.shape[1]
    out = np.empty((channels, n), np.float32)
    for p in range(n):
        w = sums[0, p]
        if w < 1e-4:
            for c in range(channels):
                out[c, p] = np.nan
            continue
        mz, my, mx = sums[1, p] / w, sums[2, p] / w, sums[3, p] / w
        a = sums[4, p] / w - mz * mz + ridge
        b = sums[5, p] / w - mz * my
        c_ = sums[6, p] / w - mz * mx
        d = sums[7, p] / w - my * my + ridge
        e = sums[8, p] / w - my * mx
        f = sums[9, p] / w - mx * mx + ridge
        ia, ib, ic = d * f - e * e, c_ * e - b * f, b * e - c_ * d
        det = a * ia + b * ib + c_ * ic
        id_, ie, if_ = a * f - c_ * c_, b * c_ - a * e, a * d - b * b
        dz, dy, dx = axes[0, p] - mz, axes[1, p] - my, axes[2, p] - mx
        far = np.sqrt(dz * dz + dy * dy + dx * dx)
        if far > reach:  # a straight line is not to be trusted further
            dz, dy, dx = dz * reach / far, dy * reach / far, dx * reach / far
        hz = (ia * dz + ib * dy + ic * dx) / det
        hy = (ib * dz + id_ * dy + ie * dx) / det
        hx = (ic * dz + ie * dy + if_ * dx) / det
        for c in range(channels):
            s = 10 + 4 * c
            mean = sums[s, p] / w
            out[c, p] = (
                mean
                + hz * (sums[s + 1, p] / w - mz * mean)
                + hy * (sums[s + 2, p] / w - my * mean)
                + hx * (sums[s + 3, p] / w - mx * mean)
            )
    return out


def local_line(values: Array, weight: Array | Mask, sigma: float) -> Array:
    """At each voxel, straight lines fitted to what surrounds it, Gaussian weighted; NaN where nothing does.

    Parameters
    ----------
    values : ndarray, shape (C, K, J, I)
    weight : ndarray, shape (K, J, I)
        How much each voxel is to be believed, 0 to 1; a mask will do.
    sigma : float
        Voxels.
    """
    shape = weight.shape
    w = weight.astype(np.float32)
    ranges = [np.arange(n, dtype=np.float32) - n / 2 for n in shape]
    z, y, x = np.meshgrid(*ranges, indexing="ij", sparse=True)
    powers = (z, y, x, z * z, z * y, z * x, y * y, y * x, x * x)
    sums = np.empty((10 + 4 * len(values), *shape), np.float32)
    sums[0] = w
    for n, power in enumerate(powers):
        sums[1 + n] = w * power
    for c, one in enumerate(np.where(w > 0, values * w, np.float32(0))):
        sums[10 + 4 * c] = one
        for n, axis in enumerate((z, y, x)):
            sums[11 + 4 * c + n] = one * axis
    # All in one go: each call of a parallel loop has to wait for its threads.
    sums = blur(sums, sigma).reshape(len(sums), -1)
    axes = np.stack([np.broadcast_to(axis, shape) for axis in (z, y, x)]).reshape(3, -1)
    return _line_up(sums, axes, np.float32(0.1 * sigma**2), np.float32(2 * sigma)).reshape(values.shape)


def _push_pull(known: Mask, values: Array) -> Array:
    """Fill unknown voxels from ever coarser averages of the known ones."""
    if known.all() or min(known.shape) == 1:
        mean = values[:, known].mean(axis=1) if known.any() else np.zeros(len(values))
        return np.where(known, values, mean[:, None, None, None]).astype(np.float32)
    count, total = _summed(known, values)
    coarse = _push_pull(count > 0, total / np.maximum(count, np.float32(1)))
    if min(coarse.shape[1:]) > 1:
        return _filled(known, values, coarse)
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
    return np.where(known, values, fine[:, : known.shape[0], : known.shape[1], : known.shape[2]])


@numba.njit(cache=True)
def _summed(known, values):
    """How many voxels of each block of 2 x 2 x 2 (rounded up) are known, and the sums of their values."""
    channels, nz, ny, nx = values.shape
    k, j, i = (nz + 1) // 2, (ny + 1) // 2, (nx + 1) // 2
    count = np.zeros((k, j, i), np.float32)
    total = np.zeros((channels, k, j, i), np.float32)
    for z in range(nz):
        for y in range(ny):
            for x in range(0, nx, 2):
                a, b, c = z // 2, y // 2, x // 2
                first, second = known[z, y, x], x + 1 < nx and known[z, y, x + 1]
                count[a, b, c] += first + second
                for t in range(channels):
                    pair = values[t, z, y, x] if first else np.float32(0)
                    total[t, a, b, c] += pair + values[t, z, y, x + 1] if second else pair
    return count, total


@numba.njit(cache=True)
def _filled(known, values, coarse):
    """Values where known, elsewhere those of blocks of 2 x 2 x 2 voxels, by trilinear interpolation."""
    channels, nz, ny, nx = coarse.shape
    out = values.copy()
    for k in range(known.shape[0]):
        for j in range(known.shape[1]):
            for i in range(known.shape[2]):
                if known[k, j, i]:
                    continue
                z = min(max(0.5 * k - 0.25, 0.0), nz - 1.0)
                y = min(max(0.5 * j - 0.25, 0.0), ny - 1.0)
                x = min(max(0.5 * i - 0.25, 0.0), nx - 1.0)
                z0, y0, x0 = min(int(z), nz - 2), min(int(y), ny - 2), min(int(x), nx - 2)
                for c in range(channels):
                    out[c, k, j, i] = _between(coarse[c], z0, y0, x0, z - z0, y - y0, x - x0)
    return out


def extrapolate(values: Array, mask: Mask, *, sigma: float | None = 2.0) -> Array:
    """Continue fields beyond the mask on which they are known.

    Close to the mask along the straight line that fits the values around; further out towards the affine map
    that fits all of them.

    Parameters
    ----------
    values : ndarray, shape (C, K, J, I)
        Only what lies in the mask is looked at.
    mask : ndarray of bool, shape (K, J, I)
    sigma : float or None, optional
        Voxels over which the straight line is fitted; None to do without it.

    Returns
    -------
    ndarray, shape (C, K, J, I)
        Equal to `values` in the mask, finite everywhere.
    """
    affine = affine_field(*fit_affine(values, mask), mask.shape)
    rest = values - affine
    if sigma is None:
        return affine + _push_pull(mask, rest)
    line = local_line(rest, mask, sigma)
    line += gaussian_mean(np.where(mask, rest - line, 0), mask, 0.8)  # no step where the lines take over
    rest = np.where(mask, rest, line)
    return affine + _push_pull(np.isfinite(rest[0]), rest)


def smooth(values: Array, weight: Array | Mask, sigma: float) -> Array:
    """Smooth fields without bending affine ones (`local_line`), and continue them as `extrapolate` does."""
    affine = affine_field(*fit_affine(values, weight), weight.shape)
    rest = local_line(values - affine, weight, sigma)
    return affine + _push_pull(np.isfinite(rest[0]), rest)


def jacobian(field: Array) -> Array:
    """det(I + grad field), by central differences within and one-sided ones at the edges of the grid.

    Examples
    --------
    >>> import numpy as np
    >>> k, j, i = np.indices((5, 6, 7)).astype(np.float32)
    >>> round(float(jacobian(np.stack([0.1 * k, 0.2 * j, 0.4 * i])).mean()), 4)
    1.848
    """
    g = [np.gradient(component) for component in field]
    (a, b, c), (d, e, f), (p, q, r) = g
    a, e, r = a + 1, e + 1, r + 1
    return (a * (e * r - f * q) - b * (d * r - f * p) + c * (d * q - e * p)).astype(np.float32)
