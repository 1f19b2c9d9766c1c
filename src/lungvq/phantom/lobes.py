"""Lobes: on which side of which fissure a point lies, where fissures are missing, and how lobes slide.

Everything here happens in the lung as the stretch of the breath leaves it (see :mod:`.motion`), because
published fissures were fitted at inspiration, in the box of each lung. `f` is a :class:`.motion.Motion`.
"""

from __future__ import annotations

import numba
import numpy as np

RIGHT_OBLIQUE, LEFT_OBLIQUE, HORIZONTAL = 0, 1, 2
REACH_MM = 35.0  # sd of how far from a fissure its sliding is felt
KEEP_MM = 15.0  # sliding along the horizontal fissure fades towards the oblique one over this much
WINDOW = 0.2  # sd of where on a fissure lobes slide, as a share of the box


@numba.njit(cache=True, error_model="numpy")
def _cubic(c, x, y):
    """The surface and its slope along y."""
    value = (
        c[0]
        + x * (c[1] + x * (c[3] + x * c[6]))
        + y * (c[2] + x * (c[4] + x * c[7]))
        + y * y * (c[5] + x * c[8] + y * c[9])
    )
    slope = c[2] + x * (c[4] + x * c[7]) + 2 * y * (c[5] + x * c[8]) + 3 * y * y * c[9]
    return value, slope


@numba.njit(cache=True, error_model="numpy")
def height(f, n, x, y):
    """z of fissure `n` at a point, in mm, and its slope along y."""
    side = 1 if n == LEFT_OBLIQUE else 0
    lx, ly, lz = (
        f.high[side, 0] - f.low[side, 0],
        f.high[side, 1] - f.low[side, 1],
        f.high[side, 2] - f.low[side, 2],
    )
    u = min(max((x - f.low[side, 0]) / lx, f.x_range[n, 0]), f.x_range[n, 1]) - 0.5
    v = (y - f.low[side, 1]) / ly
    w = min(max(v, f.y_range[n, 0]), f.y_range[n, 1])
    value, slope = _cubic(f.surface[n], u, w - 0.5)
    return f.low[side, 2] + value * lz, slope * lz / ly if v == w else 0.0


@numba.njit(cache=True, error_model="numpy")
def _distance(f, n, x, y, z):
    """Height above fissure `n` along its normal, mm."""
    h, slope_y = height(f, n, x, y)
    slope_x = height(f, n, x + 0.5, y)[0] - height(f, n, x - 0.5, y)[0]
    return (z - h) / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)


@numba.njit(cache=True, error_model="numpy")
def lobe_of(f, side, x, y, z):
    """Lobe label of a stretched point of one lung, distance to its nearest fissure, and which that is."""
    if side == 1:
        d = _distance(f, LEFT_OBLIQUE, x, y, z)
        return (1 if d > 0 else 2), abs(d), LEFT_OBLIQUE
    d = _distance(f, RIGHT_OBLIQUE, x, y, z)
    if d <= 0:
        return 5, -d, RIGHT_OBLIQUE
    e = _distance(f, HORIZONTAL, x, y, z)
    label = 3 if e > 0 else 4
    if d < abs(e):
        return label, d, RIGHT_OBLIQUE
    return label, abs(e), HORIZONTAL


@numba.njit(cache=True, error_model="numpy")
def outside_lobe(f, label, x, y, z):
    """Distance to the region of one lobe, negative inside, mm."""
    if label < 3:
        d = _distance(f, LEFT_OBLIQUE, x, y, z)
        return -d if label == 1 else d
    d = _distance(f, RIGHT_OBLIQUE, x, y, z)
    if label == 5:
        return d
    e = _distance(f, HORIZONTAL, x, y, z)
    return max(-d, -e if label == 3 else e)


@numba.njit(cache=True, error_model="numpy")
def absence(f, n, x, y):
    """Grows towards the hilum, where fissures are most often missing."""
    side = 1 if n == LEFT_OBLIQUE else 0
    u = (x - f.low[side, 0]) / (f.high[side, 0] - f.low[side, 0])
    v = (y - f.low[side, 1]) / (f.high[side, 1] - f.low[side, 1])
    inward = 1 - u if side == 1 else u
    return inward - 0.3 * abs(v - 0.5) + 0.08 * np.sin(f.gap_k[n, 0] * u + f.gap_k[n, 1] * v + f.gap_phase[n])


@numba.njit(cache=True, error_model="numpy")
def _moved(f, label, x, y, above):
    """How far along y a point `above` its fissure slides, and the change of that along y."""
    n = RIGHT_OBLIQUE if label == 5 else (LEFT_OBLIQUE if label == 2 else HORIZONTAL)
    side = 1 if n == LEFT_OBLIQUE else 0
    lx, ly = f.high[side, 0] - f.low[side, 0], f.high[side, 1] - f.low[side, 1]
    u = ((x - f.low[side, 0]) / lx - 0.5) / WINDOW
    v = ((y - f.low[side, 1]) / ly - (0.3 if n == HORIZONTAL else 0.5)) / WINDOW
    amount = f.slide[n] * np.exp(-0.5 * (u * u + v * v + (above / REACH_MM) ** 2))
    change = -amount * v / (WINDOW * ly)
    if n == HORIZONTAL:
        h, h_y = height(f, HORIZONTAL, x, y)
        o, o_y = height(f, RIGHT_OBLIQUE, x, y)
        b = max(0.0, above + h - o) / KEEP_MM
        far = np.exp(-b * b)
        change = change * (1 - far) + amount * 2 * b * far * (h_y - o_y) / KEEP_MM
        amount *= 1 - far
    return amount, change


@numba.njit(cache=True, error_model="numpy")
def _slides(f, label):
    return (
        (label == 5 and f.slide[0] != 0)
        or (label == 2 and f.slide[1] != 0)
        or (label == 3 and f.slide[2] != 0)
    )


@numba.njit(cache=True, error_model="numpy")
def slide(f, label, x, y, z):
    """Where a stretched point slides along its fissure, and the Jacobian of that.

    A lobe moves front to back at a constant height above the fissure: the fissure stays where it is, the
    lobe on the other side does not move, and nothing opens or overlaps.
    """
    if not _slides(f, label):
        return x, y, z, 1.0
    n = RIGHT_OBLIQUE if label == 5 else (LEFT_OBLIQUE if label == 2 else HORIZONTAL)
    above = z - height(f, n, x, y)[0]
    amount, change = _moved(f, label, x, y, above)
    return x, y + amount, above + height(f, n, x, y + amount)[0], 1 + change


@numba.njit(cache=True, error_model="numpy")
def unslide(f, label, x, y, z):
    """Inverse of `slide`, to 1e-10 mm, by Newton's method in one dimension."""
    if not _slides(f, label):
        return x, y, z, 1.0
    n = RIGHT_OBLIQUE if label == 5 else (LEFT_OBLIQUE if label == 2 else HORIZONTAL)
    above = z - height(f, n, x, y)[0]
    t, change = y, 0.0
    for _ in range(30):
        amount, change = _moved(f, label, x, t, above)
        error = t + amount - y
        if abs(error) < 1e-10:
            break
        t -= error / (1 + change)
    return x, t, above + height(f, n, x, t)[0], 1 + change
