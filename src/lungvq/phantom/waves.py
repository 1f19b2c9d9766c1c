"""Smooth random fields as sums of plane waves, with their exact gradients."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Sums may be taken in any order: that lets a loop over waves run four at a time.
LOOSE = {"reassoc", "contract", "nsz", "arcp"}


@numba.njit(inline="always", error_model="numpy")
def sincos(a):
    """Sine and cosine to 1e-11, without branches, for arguments of up to some thousands.

    The argument is brought to within a quarter turn of 0, where Taylor series of 13th and 12th order hold.
    """
    q = np.floor(a * 0.6366197723675814 + 0.5)
    r = (a - q * 1.5707963267948966) - q * 6.123233995736766e-17
    s = r * r
    sin = r * (
        1
        + s
        * (-1 / 6 + s * (1 / 120 + s * (-1 / 5040 + s * (1 / 362880 + s * (-1 / 39916800 + s / 6227020800)))))
    )
    cos = 1 + s * (
        -1 / 2 + s * (1 / 24 + s * (-1 / 720 + s * (1 / 40320 + s * (-1 / 3628800 + s / 479001600))))
    )
    m = q - 4 * np.floor(q * 0.25)
    odd = (m == 1) | (m == 3)
    a_sin = cos if odd else sin
    a_cos = sin if odd else cos
    return (-a_sin if m >= 2 else a_sin), (-a_cos if (m == 1) | (m == 2) else a_cos)


@numba.njit(cache=True, error_model="numpy", fastmath=LOOSE)
def wave_sum(w, x, y, z):
    """``sum amp sin(k . x + phase)`` of waves `w` (5, n): wave vector, phase, amplitude."""
    total = 0.0
    for n in range(w.shape[1]):
        total += w[4, n] * sincos(w[0, n] * x + w[1, n] * y + w[2, n] * z + w[3, n])[0]
    return total


@numba.njit(cache=True, error_model="numpy", fastmath=LOOSE)
def wave_displacement(w, x, y, z, grad):
    """Displacement by waves `w` (7, n): wave vector, phase, amplitude; 1 + its gradient goes into `grad`."""
    ux, uy, uz = 0.0, 0.0, 0.0
    xx, xy, xz, yx, yy, yz, zx, zy, zz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(w.shape[1]):
        kx, ky, kz = w[0, n], w[1, n], w[2, n]
        sin, cos = sincos(kx * x + ky * y + kz * z + w[3, n])
        ax, ay, az = w[4, n], w[5, n], w[6, n]
        ux += ax * sin
        uy += ay * sin
        uz += az * sin
        cx, cy, cz = ax * cos, ay * cos, az * cos
        xx += cx * kx
        xy += cx * ky
        xz += cx * kz
        yx += cy * kx
        yy += cy * ky
        yz += cy * kz
        zx += cz * kx
        zy += cz * ky
        zz += cz * kz
    grad[0, 0], grad[0, 1], grad[0, 2] = 1 + xx, xy, xz
    grad[1, 0], grad[1, 1], grad[1, 2] = yx, 1 + yy, yz
    grad[2, 0], grad[2, 1], grad[2, 2] = zx, zy, 1 + zz
    return ux, uy, uz


@numba.njit(cache=True, error_model="numpy")
def waves_along(w, first, step, count):
    """Sines and cosines, (2, n, count), of what waves `w` take of their phase from x on a grid."""
    out = np.empty((2, w.shape[1], count))
    for n in range(w.shape[1]):
        for i in range(count):
            out[0, n, i], out[1, n, i] = sincos(w[0, n] * (first + step * i))
    return out


@numba.njit(cache=True, error_model="numpy", fastmath=LOOSE)
def wave_row(w, along, y, z, out):
    """Displacement (3, count) by waves `w` (7, n) in one row: no sine is taken but one for each wave."""
    out[:] = 0.0
    for n in range(w.shape[1]):
        sin, cos = sincos(w[1, n] * y + w[2, n] * z + w[3, n])
        for i in range(out.shape[1]):
            s = along[0, n, i] * cos + along[1, n, i] * sin
            out[0, i] += w[4, n] * s
            out[1, i] += w[5, n] * s
            out[2, i] += w[6, n] * s


def random_waves(rng: np.random.Generator, count: int, length: float) -> Floats:
    """Wave vectors and phases (4, count) of a random field with a Gaussian correlation of sd `length` mm."""
    vectors = rng.normal(size=(count, 3)).T / length
    return np.vstack([vectors, rng.uniform(0, 2 * np.pi, count)])
