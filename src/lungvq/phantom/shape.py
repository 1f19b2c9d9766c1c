"""The chest at expiration as implicit surfaces: distances in mm, negative inside.

The distances are first-order ones (value over slope). They are exact where they are zero, which is what
volumes and edges need.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RIGHT_SIDE, LEFT_SIDE = 0, 1


class Shape(NamedTuple):
    """Sizes of one chest in mm, LPS, at expiration. Arrays are (right, left) unless said."""

    apex_z: float
    height: float  # apex to the deepest recess
    half_width: float
    half_depth: float
    taper: float  # share of the height over which the apex rounds off
    midline: float  # x of the mediastinum
    waist: float  # half width of the mediastinum behind the great vessels
    heart: Floats  # (3,)
    heart_radius: Floats  # (3,)
    spine_y: float
    spine_radius: float
    aorta: Floats  # x, y, radius, top z
    dome_z: Floats
    dome: Floats
    dome_x: Floats  # distance of the top of the dome from the midline
    dome_rx: Floats
    dome_y: float
    dome_ry: float
    recess_z: float  # no lung below
    remnant: Floats  # (2, 4): centre and radius of the only aerated part; radius 0 where the lung is whole
    lung_low: Floats  # (2, 3) box of each lung after the stretch
    lung_high: Floats
    oblique: Floats  # (2, 10) fissure polynomials
    horizontal: Floats  # (10,)
    wall: float  # muscle and rib outside the lung
    fat: float
    rib_slope: float
    rib_step: float


@numba.njit(cache=True, error_model="numpy")
def smooth_max(a, b, k):
    """Maximum with a corner rounded over `k` mm."""
    h = max(k - abs(a - b), 0.0)
    return max(a, b) + h * h / (4 * k)


@numba.njit(cache=True, error_model="numpy")
def ellipsoid(dx, dy, dz, rx, ry, rz):
    """Distance to an ellipsoid around the origin."""
    q = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2 + (dz / rz) ** 2)
    g = np.sqrt((dx / rx**2) ** 2 + (dy / ry**2) ** 2 + (dz / rz**2) ** 2)
    return q * (q - 1) / g if g > 1e-9 else -min(rx, min(ry, rz))


@numba.njit(cache=True, error_model="numpy")
def cage(c, x, y, z):
    """Distance to the inner face of the chest wall."""
    t = (c.apex_z - z) / c.height
    if t <= 0.004:
        return (0.004 - t) * c.height + 30.0
    u = 1 - min(t / c.taper, 1.0)
    round_ = np.sqrt(1 - u * u * np.sqrt(np.sqrt(u)))
    shoulder = 0.38 * c.half_width
    a = shoulder + (c.half_width - shoulder) * round_
    b = c.half_depth * round_
    yc = 0.30 * c.half_depth * u  # the apex lies a little to the back
    px, py = abs(x) / a, abs(y - yc) / b
    # a superellipse of power 2.5: boxier than an ellipse, and powers of 1.5 and 2.5 are cheap
    total = px * px * np.sqrt(px) + py * py * np.sqrt(py)
    if total < 1e-9:
        return -min(a, b)
    r = total**0.4
    gx = (px / r) * np.sqrt(px / r) / a
    gy = (py / r) * np.sqrt(py / r) / b
    # the slope along z, from how the radii shrink towards the apex
    gz = 0.0
    if u > 0:
        drdz = 2.25 * u * np.sqrt(np.sqrt(u)) / (2 * round_) / (c.taper * c.height)
        gz = gx * px * (c.half_width - shoulder) * drdz + gy * py * c.half_depth * drdz
    return (r - 1) / np.sqrt(gx * gx + gy * gy + gz * gz)


@numba.njit(cache=True, error_model="numpy")
def dome_height(c, side, x, y):
    """z of the diaphragm under one lung, and its slope."""
    qx, qy = (abs(x) - c.dome_x[side]) / c.dome_rx[side], (y - c.dome_y) / c.dome_ry
    q = qx * qx + qy * qy
    zd = c.dome_z[side] - c.dome[side] * q
    slope = 2 * c.dome[side] * np.sqrt((qx / c.dome_rx[side]) ** 2 + (qy / c.dome_ry) ** 2)
    if zd < c.recess_z:
        return c.recess_z, 0.0
    return zd, slope


@numba.njit(cache=True, error_model="numpy")
def aorta(c, x, y, z):
    """Distance to the descending aorta, which ends as a dome at the arch."""
    above = max(0.0, z - c.aorta[3])
    return np.sqrt((x - c.aorta[0]) ** 2 + (y - c.aorta[1]) ** 2 + above * above) - c.aorta[2]


@numba.njit(cache=True, error_model="numpy")
def lung(c, side, x, y, z):
    """Distance to the surface of one lung."""
    sign = 1.0 if side == 1 else -1.0
    sx = sign * (x - c.midline)
    inner = cage(c, x, y, z)
    if inner > 20.0 or z < c.recess_z - 20.0:
        return 20.0
    zd, slope = dome_height(c, side, x, y)
    d = smooth_max(inner, (zd - z) / np.sqrt(1 + slope * slope), 5.0)
    t = (c.apex_z - z) / c.height
    front = np.exp(-(((y + 0.1 * c.half_depth) / (0.55 * c.half_depth)) ** 2))
    w = 6.0 + (c.waist - 6.0) * front + 8.0 * max(0.0, 1 - t / 0.25)
    d = smooth_max(d, w - sx, 8.0)
    d = smooth_max(
        d,
        -ellipsoid(
            x - c.heart[0],
            y - c.heart[1],
            z - c.heart[2],
            c.heart_radius[0],
            c.heart_radius[1],
            c.heart_radius[2],
        ),
        8.0,
    )
    d = smooth_max(d, c.spine_radius + 3.0 - np.hypot(x, y - c.spine_y), 8.0)
    d = smooth_max(d, 1.5 - aorta(c, x, y, z), 6.0)
    if c.remnant[side, 3] > 0:
        r = np.sqrt(
            (x - c.remnant[side, 0]) ** 2
            + ((y - c.remnant[side, 1]) / 1.1) ** 2
            + ((z - c.remnant[side, 2]) / 1.5) ** 2
        )
        d = smooth_max(d, r - c.remnant[side, 3], 5.0)
    return d


@numba.njit(cache=True, error_model="numpy")
def outline(c, x, y):
    """Distance to the skin."""
    width, depth = c.half_width + c.wall + c.fat, c.half_depth + c.wall + c.fat
    px, py = abs(x) / width, abs(y - 4.0) / (depth + 4.0)
    r = (px * px * np.sqrt(px) + py * py * np.sqrt(py)) ** 0.4
    return (r - 1) * depth


@numba.njit(cache=True, error_model="numpy")
def body_hu(c, d_cage, x, y, z, fx, fy, fz):
    """HU outside the lungs and their tubes.

    ``(fx, fy, fz)`` is where the matter was at expiration when it follows the diaphragm and the heart;
    ``(x, y, z)`` when it follows the ribs, which move less. `d_cage` belongs to the latter.
    """
    skin = outline(c, x, y)
    if skin > 0:
        return -1000.0
    s = np.hypot(x, y - c.spine_y)
    # vertebral body, canal, processes
    if s < c.spine_radius:
        period = (z + 1000.0) % 26.0
        if period < 4.0:
            return 60.0
        return 450.0 if s > c.spine_radius - 2.5 or period < 5.5 or period > 24.5 else 180.0
    back = y - c.spine_y - c.spine_radius
    if 0 <= back < 14 and abs(x) < 16:
        return 25.0 if (abs(x) < 9 and back < 11) else 420.0
    if 14 <= back < 34 and abs(x) < 4 and (z + 1000.0) % 26.0 > 8.0:
        return 350.0
    if aorta(c, x, y, z) < 0:
        return 42.0
    if d_cage > 0:
        # ribs: tilted rings round the cage, cartilage in front; the sternum closes them
        front = y < -0.82 * c.half_depth
        if front and abs(x) < 17 and 4 < d_cage < 16 and z > c.recess_z + 60:
            return 350.0 if d_cage < 6 or d_cage > 14 else 150.0
        if z < c.apex_z + 6 and d_cage < 14:
            tilt = z - c.rib_slope * y
            n = np.floor(tilt / c.rib_step + 0.5)
            dz = tilt - n * c.rib_step
            e = ((d_cage - 6.5) / 4.0) ** 2 + (dz / 6.5) ** 2
            if e < 1 and not (y < -0.5 * c.half_depth and tilt < c.recess_z + 30):
                if y < -0.62 * c.half_depth and abs(x) < 0.55 * c.half_width:
                    return 110.0
                return 600.0 if e > 0.45 else 220.0
        if skin > -2.0:
            return 30.0
        # muscle is thicker at the back and at the shoulders
        back = max(0.0, min(1.0, (y / c.half_depth + 0.1) / 0.6))
        up = max(0.0, min(1.0, (z - c.apex_z + 90) / 90))
        muscle = c.wall + 14.0 * back + 12.0 * up
        return 55.0 if d_cage < muscle else -100.0
    if skin > -2.0:
        return 30.0
    # inside the cage
    d = ellipsoid(
        fx - c.heart[0],
        fy - c.heart[1],
        fz - c.heart[2],
        c.heart_radius[0] - 3.5,
        c.heart_radius[1] - 3.5,
        c.heart_radius[2] - 3.5,
    )
    if d < 0:
        return 42.0
    if d < 2.5 and fy < c.heart[1] + 10:
        return -75.0
    side = 1 if fx > c.midline else 0
    zd, slope = dome_height(c, side, fx, fy)
    below = (zd - fz) / np.sqrt(1 + slope * slope)
    if below > 0:
        if below < 3:
            return 50.0
        if fx < 0.25 * c.half_width and fx < 40 + 0.3 * fy:
            return 58.0  # liver
        if np.hypot(fx - 0.62 * c.half_width, fy - 0.45 * c.half_depth) < 0.36 * c.half_width:
            return 50.0  # spleen
        gas = ellipsoid(fx - 0.42 * c.half_width, fy + 0.42 * c.half_depth, below - 26.0, 17.0, 9.0, 12.0)
        if gas < 0:
            return -950.0
        if np.hypot((fx - 0.4 * c.half_width) / 1.3, fy + 0.15 * c.half_depth) < 0.34 * c.half_width:
            return 20.0  # stomach
        return -95.0
    if np.hypot(fx - c.midline + 8, fy + 0.25 * c.half_depth) < 12 and fz > c.heart[2]:
        return 42.0  # ascending aorta and superior vena cava
    if np.hypot(fx - c.midline, fy + 0.05 * c.half_depth) < 16 and fz > c.heart[2]:
        return 40.0  # hila and nodes
    if np.hypot(x - 6, y - c.spine_y + c.spine_radius + 10) < 8:
        return 35.0  # oesophagus
    if c.remnant[side, 3] > 0:
        return 38.0  # collapsed lung
    return -60.0 if fy < -0.35 * c.half_depth else 20.0
