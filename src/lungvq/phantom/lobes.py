"""Lobes: on which side of which fissure a point lies, where fissures are missing, and how lobes slide.

Everything here happens in the lung as the stretch of the breath leaves it (see :mod:`.motion`), because
published fissures were fitted at inspiration, in the box of each lung. `f` is a :class:`.motion.Motion`, `p` its
`sheet`, made by `sheet_of`.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

RIGHT_OBLIQUE, LEFT_OBLIQUE, HORIZONTAL = 0, 1, 2
REACH_MM = 35.0  # sd of how far from a fissure its sliding is felt
KEEP_MM = 15.0  # sliding along the horizontal fissure fades towards the oblique one over this much
WINDOW = 0.2  # sd of where on a fissure lobes slide, as a share of the box


def sheet_of(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    surface: NDArray[np.float64],
    x_range: NDArray[np.float64],
    y_range: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The three fissures in one array: handing one from function to function costs time.

    Parameters
    ----------
    low, high : ndarray, shape (2, 3)
        Boxes of the stretched right and left lung, LPS mm.
    surface : ndarray, shape (3, 10)
        Height as a share of the box, a cubic in its two other coordinates (:mod:`lungvq.fissures`); right
        oblique, left oblique, horizontal.
    x_range, y_range : ndarray, shape (3, 2)
        Shares of the box; beyond, a fissure goes on as it is there.

    Returns
    -------
    sheet : ndarray, shape (3, 20)
        x, width, y, depth, z, height of the box; the ranges; the coefficients.
    """
    rows = []
    for n in (RIGHT_OBLIQUE, LEFT_OBLIQUE, HORIZONTAL):
        side = 1 if n == LEFT_OBLIQUE else 0
        box = np.stack([low[side], high[side] - low[side]], axis=1).ravel()
        rows.append(np.concatenate([box, x_range[n], y_range[n], surface[n]]))
    return np.array(rows)


@numba.njit(cache=True, error_model="numpy")
def _cubic(p, n, x, y):
    """The surface in its box, and its slopes along x and y."""
    c0, c1, c2, c3, c4 = p[n, 10], p[n, 11], p[n, 12], p[n, 13], p[n, 14]
    c5, c6, c7, c8, c9 = p[n, 15], p[n, 16], p[n, 17], p[n, 18], p[n, 19]
    value = c0 + x * (c1 + x * (c3 + x * c6)) + y * (c2 + x * (c4 + x * c7)) + y * y * (c5 + x * c8 + y * c9)
    slope_x = c1 + x * (2 * c3 + 3 * x * c6) + y * (c4 + 2 * x * c7) + y * y * c8
    slope_y = c2 + x * (c4 + x * c7) + 2 * y * (c5 + x * c8) + 3 * y * y * c9
    return value, slope_x, slope_y


@numba.njit(cache=True, error_model="numpy")
def height(p, n, x, y):
    """z of fissure `n` at a point, in mm, and its slopes along x and y."""
    u = (x - p[n, 0]) / p[n, 1]
    v = (y - p[n, 2]) / p[n, 3]
    a, b = min(max(u, p[n, 6]), p[n, 7]), min(max(v, p[n, 8]), p[n, 9])
    value, slope_x, slope_y = _cubic(p, n, a - 0.5, b - 0.5)
    if a != u:
        slope_x = 0.0
    if b != v:
        slope_y = 0.0
    return p[n, 4] + value * p[n, 5], slope_x * p[n, 5] / p[n, 1], slope_y * p[n, 5] / p[n, 3]


@numba.njit(cache=True, error_model="numpy")
def _distance(p, n, x, y, z):
    """Height above fissure `n` along its normal, mm."""
    h, slope_x, slope_y = height(p, n, x, y)
    return (z - h) / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)


@numba.njit(cache=True, error_model="numpy")
def lobe_of(p, side, x, y, z):
    """Lobe label of a stretched point of one lung, distance to its nearest fissure, and which that is."""
    if side == 1:
        d = _distance(p, LEFT_OBLIQUE, x, y, z)
        return (1 if d > 0 else 2), abs(d), LEFT_OBLIQUE
    d = _distance(p, RIGHT_OBLIQUE, x, y, z)
    if d <= 0:
        return 5, -d, RIGHT_OBLIQUE
    e = _distance(p, HORIZONTAL, x, y, z)
    label = 3 if e > 0 else 4
    if d < abs(e):
        return label, d, RIGHT_OBLIQUE
    return label, abs(e), HORIZONTAL


@numba.njit(cache=True, error_model="numpy")
def outside_lobe(p, label, x, y, z):
    """Distance to the region of one lobe, negative inside, mm."""
    if label < 3:
        d = _distance(p, LEFT_OBLIQUE, x, y, z)
        return -d if label == 1 else d
    d = _distance(p, RIGHT_OBLIQUE, x, y, z)
    if label == 5:
        return d
    e = _distance(p, HORIZONTAL, x, y, z)
    return max(-d, -e if label == 3 else e)


@numba.njit(cache=True, error_model="numpy")
def absence(f, n, x, y):
    """Grows towards the hilum, where fissures are most often missing."""
    u, v = (x - f.sheet[n, 0]) / f.sheet[n, 1], (y - f.sheet[n, 2]) / f.sheet[n, 3]
    inward = 1 - u if n == LEFT_OBLIQUE else u
    return inward - 0.3 * abs(v - 0.5) + 0.08 * np.sin(f.gap_k[n, 0] * u + f.gap_k[n, 1] * v + f.gap_phase[n])


@numba.njit(cache=True, error_model="numpy")
def _moved(f, n, x, y, above):
    """How far along y a point `above` fissure `n` slides on it, and the change of that along y."""
    ly = f.sheet[n, 3]
    u = ((x - f.sheet[n, 0]) / f.sheet[n, 1] - 0.5) / WINDOW
    v = ((y - f.sheet[n, 2]) / ly - (0.3 if n == HORIZONTAL else 0.5)) / WINDOW
    amount = f.slide[n] * np.exp(-0.5 * (u * u + v * v + (above / REACH_MM) ** 2))
    change = -amount * v / (WINDOW * ly)
    if n == HORIZONTAL:
        h, _, h_y = height(f.sheet, HORIZONTAL, x, y)
        o, _, o_y = height(f.sheet, RIGHT_OBLIQUE, x, y)
        b = max(0.0, above + h - o) / KEEP_MM
        far = np.exp(-b * b)
        change = change * (1 - far) + amount * 2 * b * far * (h_y - o_y) / KEEP_MM
        amount *= 1 - far
    return amount, change


@numba.njit(cache=True, error_model="numpy")
def slides_on(f, label):
    """The fissure along which a lobe slides; -1 where it does not."""
    n = RIGHT_OBLIQUE if label == 5 else (LEFT_OBLIQUE if label == 2 else HORIZONTAL if label == 3 else -1)
    return n if n >= 0 and f.slide[n] != 0 else -1


@numba.njit(cache=True, error_model="numpy")
def slide(f, label, x, y, z):
    """Where a stretched point slides along its fissure, and the Jacobian of that.

    A lobe moves front to back at a constant height above the fissure: the fissure stays where it is, the
    lobe on the other side does not move, and nothing opens or overlaps.
    """
    n = slides_on(f, label)
    if n < 0:
        return x, y, z, 1.0
    above = z - height(f.sheet, n, x, y)[0]
    amount, change = _moved(f, n, x, y, above)
    return x, y + amount, above + height(f.sheet, n, x, y + amount)[0], 1 + change


@numba.njit(cache=True, error_model="numpy")
def unslide(f, label, x, y, z):
    """Inverse of `slide`, to 1e-10 mm, by Newton's method in one dimension."""
    n = slides_on(f, label)
    if n < 0:
        return x, y, z, 1.0
    above = z - height(f.sheet, n, x, y)[0]
    t, change = y, 0.0
    for _ in range(30):
        amount, change = _moved(f, n, x, t, above)
        error = t + amount - y
        if abs(error) < 1e-10:
            break
        t -= error / (1 + change)
    return x, t, above + height(f.sheet, n, x, t)[0], 1 + change
