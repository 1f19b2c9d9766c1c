"""Lobes: which side of which fissure a point of a lung lies on."""

from __future__ import annotations

import numba
import numpy as np

from lungvq.phantom.motion import stretch
from lungvq.phantom.shape import lung


@numba.njit(cache=True)
def _cubic(p, x, y):
    return (
        p[0]
        + p[1] * x
        + p[2] * y
        + p[3] * x * x
        + p[4] * x * y
        + p[5] * y * y
        + p[6] * x**3
        + p[7] * x * x * y
        + p[8] * x * y * y
        + p[9] * y**3
    )


@numba.njit(cache=True)
def _above(p, ax, ay, az, lx, ly, lz, y_low, y_high):
    """Height above a fissure in mm along its normal; `a*` are box coordinates 0 to 1, `l*` box sizes."""
    x = min(max(ax - 0.5, -0.4), 0.4)
    y = min(max(ay, y_low), y_high) - 0.5
    h = _cubic(p, x, y)
    e = 1e-3
    sx = (_cubic(p, x + e, y) - h) / e * lz / lx if -0.4 < ax - 0.5 < 0.4 else 0.0
    sy = (_cubic(p, x, y + e) - h) / e * lz / ly if y_low < ay < y_high else 0.0
    return (az - h) * lz / np.sqrt(1 + sx * sx + sy * sy)


@numba.njit(cache=True)
def lobe(c, m, side, x, y, z, grad):
    """Lobe label of a point of one lung, and its distance from the nearest fissure, in mm.

    The fissures are polynomials in the box of the stretched lung: they were fitted at inspiration.
    """
    a, b, h = stretch(m, x, y, z, grad)
    lx = c.lung_high[side, 0] - c.lung_low[side, 0]
    ly = c.lung_high[side, 1] - c.lung_low[side, 1]
    lz = c.lung_high[side, 2] - c.lung_low[side, 2]
    ax, ay, az = (
        (a - c.lung_low[side, 0]) / lx,
        (b - c.lung_low[side, 1]) / ly,
        (h - c.lung_low[side, 2]) / lz,
    )
    if side == 1:
        d = _above(c.oblique[1], ax, ay, az, lx, ly, lz, 0.17, 0.88)
        return (1 if d > 0 else 2), abs(d)
    d = _above(c.oblique[0], ax, ay, az, lx, ly, lz, 0.17, 0.90)
    e = _above(c.horizontal, ax, ay, az, lx, ly, lz, 0.03, 0.63)
    if d <= 0:
        return 5, abs(d)
    return (3 if e > 0 else 4), min(abs(d), abs(e))


@numba.njit(cache=True)
def lung_and_lobe(c, m, x, y, z, grad):
    """Distance to the nearer lung's surface, the lobe label as if inside, distance to its fissure."""
    side = 1 if x > c.midline else 0
    d = lung(c, side, x, y, z)
    label, fissure = 0, 1e3
    if d < 6.0:
        label, fissure = lobe(c, m, side, x, y, z, grad)
    return d, label, fissure


@numba.njit(parallel=True, cache=True)
def lobes_at(c, m, points):
    """Lobe labels at points (N, 3): 0 outside the lungs; and the distances to pleura and fissure."""
    label = np.zeros(points.shape[0], np.uint8)
    pleura, fissure = np.empty(points.shape[0]), np.empty(points.shape[0])
    for n in numba.prange(points.shape[0]):
        d, lab, f = lung_and_lobe(c, m, points[n, 0], points[n, 1], points[n, 2], np.empty((3, 3)))
        pleura[n], fissure[n] = d, f
        if d < 0:
            label[n] = lab
    return label, pleura, fissure
