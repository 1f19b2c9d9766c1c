"""Interpolation in index space: the few compiled loops everything that resamples goes through."""

from __future__ import annotations

import math

import numba
import numpy as np

from lungvq._parallel import PRANGE

_HALF = 0.5  # a voxel reaches half a step beyond its centre: up to there the edge value holds


@numba.njit(cache=True)
def _linear(array, z, y, x, fill):
    nz, ny, nx = array.shape
    if not (-_HALF <= z <= nz - _HALF and -_HALF <= y <= ny - _HALF and -_HALF <= x <= nx - _HALF):
        return fill
    z = min(max(z, 0.0), nz - 1.0)
    y = min(max(y, 0.0), ny - 1.0)
    x = min(max(x, 0.0), nx - 1.0)
    k, j, i = int(z), int(y), int(x)
    fz, fy, fx = z - k, y - j, x - i
    k1, j1, i1 = min(k + 1, nz - 1), min(j + 1, ny - 1), min(i + 1, nx - 1)
    a = array[k, j, i] * (1 - fx) + array[k, j, i1] * fx
    b = array[k, j1, i] * (1 - fx) + array[k, j1, i1] * fx
    c = array[k1, j, i] * (1 - fx) + array[k1, j, i1] * fx
    d = array[k1, j1, i] * (1 - fx) + array[k1, j1, i1] * fx
    return (a * (1 - fy) + b * fy) * (1 - fz) + (c * (1 - fy) + d * fy) * fz


@numba.njit(parallel=PRANGE, cache=True)
def resample_linear(array, to_index, shape, fill):
    """Trilinear values of `array` at every index of a new grid.

    Parameters
    ----------
    array : ndarray of float32, shape (K, J, I)
    to_index : ndarray, shape (3, 4), float64
        Takes a homogeneous index of the new grid to an index of `array`.
    shape : tuple of 3 ints
        Of the new grid.
    fill : np.float32
        Value beyond the outer faces of `array`'s voxels.

    Returns
    -------
    ndarray of float32, shape `shape`
    """
    out = np.empty(shape, np.float32)
    m = to_index
    for k in numba.prange(shape[0]):
        for j in range(shape[1]):
            z = m[0, 0] * k + m[0, 1] * j + m[0, 3]
            y = m[1, 0] * k + m[1, 1] * j + m[1, 3]
            x = m[2, 0] * k + m[2, 1] * j + m[2, 3]
            for i in range(shape[2]):
                out[k, j, i] = _linear(array, z + m[0, 2] * i, y + m[1, 2] * i, x + m[2, 2] * i, fill)
    return out


_TILE = 64  # lines that are laid side by side, so that one instruction does several of them


@numba.njit(cache=True, fastmath={"contract"})
def _weighted(to, lines, start, weights):
    """Fill (B,) with what `lines` (N, B) hold from `start` on, by their weights; those of no weight may be NaN."""
    low, high = 0, weights.size
    while low < high and weights[low] == 0:
        low += 1
    while high > low and weights[high - 1] == 0:
        high -= 1
    if low == high:
        to[:] = 0
        return
    w, a = weights[low], lines[start + low]
    for n in range(to.size):
        to[n] = w * a[n]
    t = low + 1
    while t + 4 <= high:  # four at a time: `to` is read and written less
        line, w, x, y, z = start + t, weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        a, b, c, d = lines[line], lines[line + 1], lines[line + 2], lines[line + 3]
        for n in range(to.size):
            to[n] += w * a[n] + x * b[n] + y * c[n] + z * d[n]
        t += 4
    while t < high:
        w, a = weights[t], lines[start + t]
        for n in range(to.size):
            to[n] += w * a[n]
        t += 1


@numba.njit(parallel=PRANGE, cache=True)
def _weigh_middle(source, first, weights, out):
    """(A, N, B) to (A, M, B): each of M is a weighted sum of what begins at its `first` of N."""
    count = weights.shape[0]
    for row in numba.prange(source.shape[0] * count):
        a, m = row // count, row % count
        _weighted(out[a, m], source[a], first[m], weights[m])


@numba.njit(parallel=PRANGE, cache=True)
def _weigh_last(source, first, weights, out):
    """(A, N) to (A, M), as `_weigh_middle`."""
    count = weights.shape[0]
    lines, n = source.shape
    for tile in numba.prange((lines + _TILE - 1) // _TILE):
        start = tile * _TILE
        rows = min(_TILE, lines - start)
        side_by_side = np.empty((n, rows), np.float32)
        for b in range(rows):
            for m in range(n):
                side_by_side[m, b] = source[start + b, m]
        to = np.empty(rows, np.float32)
        for m in range(count):
            _weighted(to, side_by_side, first[m], weights[m])
            for b in range(rows):
                out[start + b, m] = to[b]


def weigh(array, axis, first, weights):
    """Weighted sums along an axis.

    Parameters
    ----------
    array : ndarray of float32, contiguous
    axis : int
        Not negative.
    first : ndarray of int, shape (M,)
        Index of the first value that each sum takes.
    weights : ndarray of float32, shape (M, W)
        Of that value and those behind it; what has weight 0 may be NaN.

    Returns
    -------
    ndarray of float32
        M along `axis`.
    """
    before, n, behind = array.shape[:axis], array.shape[axis], array.shape[axis + 1 :]
    count, lines = len(weights), math.prod(before)
    out = np.empty((lines, count, math.prod(behind)), np.float32)
    if behind:
        _weigh_middle(array.reshape(lines, n, -1), first, weights, out)
    else:
        _weigh_last(array.reshape(lines, n), first, weights, out[..., 0])
    return out.reshape(*before, count, *behind)


def banded(dense):
    """What `weigh` takes, from the weight of every value in every sum.

    Parameters
    ----------
    dense : ndarray, shape (M, N)
        Every row with some weight.

    Returns
    -------
    first : ndarray of int, shape (M,)
    weights : ndarray of float32, shape (M, W)
    """
    n = dense.shape[1]
    used = dense != 0
    first, last = used.argmax(axis=1), n - used[:, ::-1].argmax(axis=1)
    width = int((last - first).max())
    first = np.minimum(first, n - width)
    weights = np.take_along_axis(dense, first[:, None] + np.arange(width), axis=1)
    return first, weights.astype(np.float32)


def between(n, m, step, start):
    """Weights (M, N) of N values for M in between, linearly at ``start + step * index``; edge values hold beyond."""
    at = np.clip(start + step * np.arange(m), 0, n - 1)
    below = at.astype(int)
    share = (at - below)[:, None]
    each = np.eye(n)
    return (1 - share) * each[below] + share * each[np.minimum(below + 1, n - 1)]


def resample_along(array, shape, steps, starts):
    """Linear interpolation along the last three axes, at ``start + step * index`` along each.

    Parameters
    ----------
    array : ndarray of float32, shape (..., K, J, I), contiguous
        Beyond it its edge value holds.
    shape : tuple of 3 ints
        How many values are wanted.
    steps, starts : sequences of 3 floats

    Returns
    -------
    ndarray of float32, shape (..., *shape)
    """
    before = array.ndim - 3
    for axis, (m, step, start) in enumerate(zip(shape, steps, starts, strict=True), start=before):
        array = weigh(array, axis, *banded(between(array.shape[axis], m, step, start)))
    return array


@numba.njit(parallel=PRANGE, cache=True)
def resample_nearest(array, to_index, shape, fill):
    """As `resample_linear`, but the value of the nearest voxel, in the type of `array`."""
    out = np.empty(shape, array.dtype)
    m = to_index
    nz, ny, nx = array.shape
    for k in numba.prange(shape[0]):
        for j in range(shape[1]):
            z = m[0, 0] * k + m[0, 1] * j + m[0, 3]
            y = m[1, 0] * k + m[1, 1] * j + m[1, 3]
            x = m[2, 0] * k + m[2, 1] * j + m[2, 3]
            for i in range(shape[2]):
                a = int(np.floor(z + m[0, 2] * i + 0.5))
                b = int(np.floor(y + m[1, 2] * i + 0.5))
                c = int(np.floor(x + m[2, 2] * i + 0.5))
                if 0 <= a < nz and 0 <= b < ny and 0 <= c < nx:
                    out[k, j, i] = array[a, b, c]
                else:
                    out[k, j, i] = fill
    return out


@numba.njit(parallel=PRANGE, cache=True)
def sample_linear(array, index, fill):
    """Trilinear values of `array` at `index`, shape (N, 3) in (k, j, i); float32, shape (N,)."""
    out = np.empty(index.shape[0], np.float32)
    for n in numba.prange(index.shape[0]):
        out[n] = _linear(array, index[n, 0], index[n, 1], index[n, 2], fill)
    return out


@numba.njit(parallel=PRANGE, cache=True)
def sample_voxels(arrays, to_index, shape, voxels):
    """Trilinear values of several arrays, whose place is one, at some voxels of another grid.

    Parameters
    ----------
    arrays : ndarray of float32, shape (K, J, I, C)
        Beyond them their edge value holds.
    to_index : ndarray, shape (3, 4)
        Index of the other grid to index of `arrays`.
    shape : tuple of 3 ints
        Of the other grid.
    voxels : ndarray of int, shape (N,)
        Flat indices in it.

    Returns
    -------
    ndarray of float32, shape (C, N)
    """
    m = to_index
    nz, ny, nx, channels = arrays.shape
    out = np.empty((channels, voxels.size), np.float32)
    for n in numba.prange(voxels.size):
        line, i = voxels[n] // shape[2], voxels[n] % shape[2]
        k, j = line // shape[1], line % shape[1]
        z = min(max(m[0, 0] * k + m[0, 1] * j + m[0, 2] * i + m[0, 3], 0.0), nz - 1.0)
        y = min(max(m[1, 0] * k + m[1, 1] * j + m[1, 2] * i + m[1, 3], 0.0), ny - 1.0)
        x = min(max(m[2, 0] * k + m[2, 1] * j + m[2, 2] * i + m[2, 3], 0.0), nx - 1.0)
        z0, y0, x0 = int(z), int(y), int(x)
        fz, fy, fx = z - z0, y - y0, x - x0
        z1, y1, x1 = min(z0 + 1, nz - 1), min(y0 + 1, ny - 1), min(x0 + 1, nx - 1)
        for t in range(channels):
            a = arrays[z0, y0, x0, t] * (1 - fx) + arrays[z0, y0, x1, t] * fx
            b = arrays[z0, y1, x0, t] * (1 - fx) + arrays[z0, y1, x1, t] * fx
            c = arrays[z1, y0, x0, t] * (1 - fx) + arrays[z1, y0, x1, t] * fx
            d = arrays[z1, y1, x0, t] * (1 - fx) + arrays[z1, y1, x1, t] * fx
            out[t, n] = (a * (1 - fy) + b * fy) * (1 - fz) + (c * (1 - fy) + d * fy) * fz
    return out


@numba.njit(parallel=PRANGE, cache=True)
def warp(moving, world_to_moving, field, to_field, to_world, shape, nearest, fill):
    """Carry `moving` onto a grid through a displacement field.

    Parameters
    ----------
    moving : ndarray of float32, shape (K, J, I)
    world_to_moving : ndarray, shape (3, 4)
        LPS mm to index of `moving`.
    field : ndarray of float32, shape (K', J', I', 3)
        Displacement in mm, LPS.
    to_field, to_world : ndarray, shape (3, 4)
        Index of the new grid to index of the field, and to LPS mm.
    shape : tuple of 3 ints
    nearest : bool
        The value of the nearest voxel, for labels; otherwise trilinear.
    fill : np.float32
        Value where the field or `moving` does not reach.

    Returns
    -------
    ndarray of float32, shape `shape`
    """
    out = np.empty(shape, np.float32)
    f, w, m = to_field, to_world, world_to_moving
    nz, ny, nx, _ = field.shape
    for k in numba.prange(shape[0]):
        x = np.empty(3)
        for j in range(shape[1]):
            for i in range(shape[2]):
                a = f[0, 0] * k + f[0, 1] * j + f[0, 2] * i + f[0, 3]
                b = f[1, 0] * k + f[1, 1] * j + f[1, 2] * i + f[1, 3]
                c = f[2, 0] * k + f[2, 1] * j + f[2, 2] * i + f[2, 3]
                if not (0 <= a <= nz - 1 and 0 <= b <= ny - 1 and 0 <= c <= nx - 1):
                    out[k, j, i] = fill
                    continue
                z0, y0, x0 = int(a), int(b), int(c)
                z1, y1, x1 = min(z0 + 1, nz - 1), min(y0 + 1, ny - 1), min(x0 + 1, nx - 1)
                fz, fy, fx = a - z0, b - y0, c - x0
                for t in range(3):
                    a = field[z0, y0, x0, t] * (1 - fx) + field[z0, y0, x1, t] * fx
                    b = field[z0, y1, x0, t] * (1 - fx) + field[z0, y1, x1, t] * fx
                    c = field[z1, y0, x0, t] * (1 - fx) + field[z1, y0, x1, t] * fx
                    d = field[z1, y1, x0, t] * (1 - fx) + field[z1, y1, x1, t] * fx
                    u = (a * (1 - fy) + b * fy) * (1 - fz) + (c * (1 - fy) + d * fy) * fz
                    x[t] = w[t, 0] * k + w[t, 1] * j + w[t, 2] * i + w[t, 3] + u
                a = m[0, 0] * x[0] + m[0, 1] * x[1] + m[0, 2] * x[2] + m[0, 3]
                b = m[1, 0] * x[0] + m[1, 1] * x[1] + m[1, 2] * x[2] + m[1, 3]
                c = m[2, 0] * x[0] + m[2, 1] * x[1] + m[2, 2] * x[2] + m[2, 3]
                if nearest:
                    a, b, c = np.floor(a + 0.5), np.floor(b + 0.5), np.floor(c + 0.5)
                out[k, j, i] = _linear(moving, a, b, c, fill)
    return out
