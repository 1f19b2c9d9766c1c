"""The chest at expiration as implicit surfaces: distances in mm, negative inside.

The distances are first-order ones (value over slope) near zero, which is what volumes and edges need.
Organs between the lungs are placed from the midline of the mediastinum, bones from ``x = 0``.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

RIGHT_SIDE, LEFT_SIDE = 0, 1

FAR = 20.0  # mm: distances of the lung are not followed further out
NEAR = 4.0  # mm: where they are made first-order correct
_PROBE = 0.05  # mm: step of the slope taken for that

AIR, FAT, FLUID, MUSCLE, SOFT, SKIN = -1000.0, -100.0, 8.0, 55.0, 42.0, 30.0  # HU


class Shape(NamedTuple):
    """Sizes of one chest in mm, LPS, at expiration.

    There are no arrays in it: handing one from function to function costs as much as a distance.
    """

    size: float  # of the organs, 1 in a man of middle height
    apex_z: float
    height: float  # apex to the deepest recess
    half_width: float
    half_depth: float
    crest_y: float  # where the chest is widest, and its apex
    taper_side: float  # shares of the height over which the apex rounds off
    taper_front: float
    taper_back: float
    midline: float  # x of the mediastinum
    waist: float  # half width of the mediastinum at the great vessels
    junction: float  # half width of the mediastinum at the anterior junction
    heart_x: float
    heart_y: float
    heart_z: float
    heart_long: float  # half axes of the ventricles
    heart_wide: float
    atria: float  # size of the atria
    spine_y: float  # of the vertebral bodies in the lower chest
    spine_radius: float
    kyphosis: float  # how much further forward the spine is at the apex
    aorta_x: float  # of the descending aorta at the arch, from the midline
    aorta_y: float
    aorta_radius: float
    arch_z: float
    blood_hu: float
    dome_right: float  # z of the tops of the diaphragm
    dome_left: float
    dome_x: float  # distance of the tops from the midline of the body
    dome_y: float
    recess_z: float  # no lung below
    remnant_side: int  # of a lung of which only a ball holds air: 0 right, 1 left, -1 none
    remnant_x: float
    remnant_y: float
    remnant_z: float
    remnant_radius: float
    fluid_side: int  # of a pleural effusion: 0 right, 1 left, -1 none
    fluid_y: float  # its level: lung in front, fluid behind
    fluid_slope: float  # how much further back the level is per mm up
    wall: float  # muscle and rib outside the lung
    fat: float
    breast: float  # radius of a breast; 0 in men
    rib_slope: float
    rib_step: float

    @property
    def heart(self) -> tuple[float, float, float]:
        """Its middle."""
        return self.heart_x, self.heart_y, self.heart_z

    def whole(self) -> Shape:
        """The same chest with both lungs as large as they can be."""
        return self._replace(remnant_side=-1, fluid_side=-1)


@numba.njit(cache=True, error_model="numpy")
def smooth_max(a, b, k):
    """Maximum with a corner rounded over `k` mm."""
    h = max(k - abs(a - b), 0.0)
    return max(a, b) + h * h / (4 * k)


@numba.njit(cache=True, error_model="numpy")
def ellipsoid(dx, dy, dz, rx, ry, rz):
    """Distance to an ellipsoid around the origin."""
    ax, ay, az = dx / rx, dy / ry, dz / rz
    q = np.sqrt(ax * ax + ay * ay + az * az)
    ax, ay, az = ax / rx, ay / ry, az / rz
    g = np.sqrt(ax * ax + ay * ay + az * az)
    return q * (q - 1) / g if g > 1e-9 else -min(rx, min(ry, rz))


@numba.njit(cache=True, error_model="numpy")
def capsule(x, y, z, ax, ay, az, bx, by, bz, r):
    """Distance to a rod of radius `r` with round ends at a and b."""
    ux, uy, uz = bx - ax, by - ay, bz - az
    px, py, pz = x - ax, y - ay, z - az
    s = (px * ux + py * uy + pz * uz) / (ux * ux + uy * uy + uz * uz)
    s = min(1.0, max(0.0, s))
    px, py, pz = px - s * ux, py - s * uy, pz - s * uz
    return np.sqrt(px * px + py * py + pz * pz) - r


@numba.njit(cache=True, error_model="numpy")
def ramp(v):
    """0 below 0, 1 above 1, smooth between."""
    v = min(1.0, max(0.0, v))
    return v * v * (3 - 2 * v)


@numba.njit(cache=True, error_model="numpy")
def spine_at(c, z):
    """y of the middle of the vertebral bodies at a height."""
    u = max(0.0, 1 - (c.apex_z - z) / (0.6 * c.height))
    return c.spine_y - c.kyphosis * u * u


@numba.njit(cache=True, error_model="numpy")
def _beside_spine(c, x, y, z):
    """Distance from the vertebra and the ribs that go back from it, positive in their gutter."""
    px, py = abs(x), y - spine_at(c, z)
    back = 0.55 * px + 0.835 * py  # along the way out of the gutter
    if back < 0:
        return np.sqrt(px * px + py * py) - c.spine_radius
    return 0.835 * px - 0.55 * py - c.spine_radius


@numba.njit(cache=True, error_model="numpy")
def cage(c, x, y, z):
    """Distance to the inner face of the chest wall."""
    t = (c.apex_z - z) / c.height
    px = abs(x)
    top = 0.46 * c.half_width  # of each cupola
    if t <= 0.002:
        ex = max(0.0, px - top)
        return np.sqrt(ex * ex + (y - c.crest_y) ** 2 + (z - c.apex_z) ** 2) + 0.002 * c.height
    # half axes that grow from the apex like an ellipse: to the sides, and to the front or the back
    u = max(0.0, 1 - t / c.taper_side)
    round_ = np.sqrt(1 - u * u)
    middle = top * u * u
    a = (c.half_width - middle) * round_
    ex = max(0.0, px - middle)
    front = y < c.crest_y
    taper = c.taper_front if front else c.taper_back
    v = max(0.0, 1 - t / taper)
    round_y = np.sqrt(1 - v * v)
    full = c.half_depth + c.crest_y if front else c.half_depth - c.crest_y
    b = full * round_y
    qx, qy = ex / a, abs(y - c.crest_y) / b
    # a superellipse of power 2.5: boxier than an ellipse, and powers of 1.5 and 2.5 are cheap
    mx, my = qx * np.sqrt(qx), qy * np.sqrt(qy)
    total = qx * mx + qy * my
    if total < 1e-9:
        d = -min(a, b)
    else:
        r = total**0.4
        scale = r / total  # r^-1.5
        gx, gy = scale * mx / a, scale * my / b
        gz = 0.0
        if u > 0:
            # d/dt of the axes; a shorter axis lies higher up
            da = (c.half_width - middle) * u / round_ + 2 * top * u * round_
            shift = -2 * top * u
            gz += scale * mx * (da * qx + shift) / (a * c.taper_side)
        if v > 0:
            gz += scale * my * qy * v / (round_y * round_y * taper)
        # far outside, the slope at the surface would draw the apex near everything beside it
        gz /= c.height * max(1.0, r * r * r)
        d = (r - 1) / np.sqrt(gx * gx + gy * gy + gz * gz)
    if y < spine_at(c, z) - 3.0 * c.spine_radius or px > 0.75 * c.half_width:
        return d
    return smooth_max(d, -_beside_spine(c, x, y, z), 14.0)


@numba.njit(cache=True, error_model="numpy")
def dome_height(c, side, x, y):
    """z of the diaphragm under one lung, and its slope: a flat top that falls steeply to the chest wall."""
    top = c.dome_left if side == 1 else c.dome_right
    px = abs(x) - c.dome_x
    rx = 1.05 * (c.half_width - c.dome_x) if px > 0 else 2.3 * c.dome_x
    py = y - c.dome_y
    ry = 1.04 * (c.half_depth - c.dome_y) if py > 0 else 1.3 * (c.half_depth + c.dome_y)
    qx, qy = px / rx, py / ry
    q = qx * qx + qy * qy
    depth = top - c.recess_z
    if q < 0.96:
        root = np.sqrt(1 - q)
        fall, steep = 1 - root, 0.5 / root
    else:
        fall, steep = 0.8 + 2.5 * (q - 0.96), 2.5
    qx, qy = qx / rx, qy / ry
    return top - depth * fall, 2 * depth * steep * np.sqrt(qx * qx + qy * qy)


@numba.njit(cache=True, error_model="numpy")
def carina(c):
    """Where the trachea divides."""
    z = c.apex_z - 0.30 * c.height
    return c.midline, spine_at(c, z) - c.spine_radius - 17.0 * c.size, z


@numba.njit(cache=True, error_model="numpy")
def hilum(c, side):
    """Where airways and vessels enter a lung, a little inside the mediastinum."""
    x, y, z = carina(c)
    if side == 1:
        return x + 1.55 * c.waist, y + 6.0 * c.size, z - 20.0 * c.size
    return x - 1.4 * c.waist, y + 2.0 * c.size, z - 26.0 * c.size


@numba.njit(cache=True, error_model="numpy")
def aorta(c, x, y, z):
    """Distance to the thoracic aorta: ascending, arch, and descending beside the spine."""
    dx, dy, h = x - c.midline - c.aorta_x, y - c.aorta_y, z - c.arch_z
    # from the descending to the ascending part, seen from above
    ex, ey, half = -0.66, -0.75, 22.5 * c.size
    if h > 0:
        u = dx * ex + dy * ey - half
        v = dx * ey - dy * ex
        ring = np.sqrt(u * u + h * h) - half
        return np.sqrt(ring * ring + v * v) - c.aorta_radius
    px = dx - 2 * half * ex
    py = dy - 2 * half * ey
    up = capsule(px, py, h, 0.0, 0.0, 0.0, 10.0, 4.0, c.heart_z + 15.0 - c.arch_z, c.aorta_radius)
    # downwards it comes round to the front of the spine
    behind = c.aorta_y - spine_at(c, c.arch_z)
    ax = c.aorta_x * (1 - 0.5 * min(1.0, -h / (0.55 * c.height)))
    px = x - c.midline - ax
    py = y - spine_at(c, z) + np.sqrt(c.aorta_x * c.aorta_x + behind * behind - ax * ax)
    return min(up, np.sqrt(px * px + py * py) - c.aorta_radius)


@numba.njit(cache=True, error_model="numpy")
def ventricles(c, dx, dy, dz):
    """Distance to a spheroid along the axis of the heart, which points left, forward and down."""
    along = 0.80 * dx - 0.42 * dy - 0.43 * dz
    across2 = max(0.0, dx * dx + dy * dy + dz * dz - along * along)
    a2, b2 = c.heart_long**2, c.heart_wide**2
    along2 = along * along
    q = np.sqrt(along2 / a2 + across2 / b2)
    g = np.sqrt(along2 / (a2 * a2) + across2 / (b2 * b2))
    return q * (q - 1) / g if g > 1e-9 else -c.heart_wide


@numba.njit(cache=True, error_model="numpy")
def right_atrium(c, dx, dy, dz):
    s = c.atria
    return ellipsoid(dx + 1.12 * s, dy - 0.12 * s, dz - 0.22 * s, 0.60 * s, 0.76 * s, 0.86 * s)


@numba.njit(cache=True, error_model="numpy")
def left_atrium(c, dx, dy, dz):
    s = c.atria
    return ellipsoid(dx + 0.42 * s, dy - 0.86 * s, dz - 0.55 * s, 0.95 * s, 0.46 * s, 0.50 * s)


@numba.njit(cache=True, error_model="numpy")
def _mediastinum(c, side, y, t, back):
    """Half width between the lungs at a depth share `t`; `back` is the front face of the spine."""
    top = max(0.0, 1 - t / 0.28)
    top = top * top
    middle = c.waist + 11.0 * c.size * top
    if y < back - 24.0 * c.size:
        front = c.junction + 30.0 * c.size * top
        if side == 1:  # the cardiac notch
            front += 46.0 * c.size * ramp((t - 0.42) / 0.34)
        else:
            front += 12.0 * c.size * ramp((t - 0.60) / 0.35)
        return middle + (front - middle) * ramp((-0.24 * c.half_depth - y) / (0.40 * c.half_depth))
    behind = (12.0 if side == 1 else 8.0) * c.size + 12.0 * c.size * top
    return middle + (behind - middle) * ramp((y - back + 24.0 * c.size) / (20.0 * c.size))


@numba.njit(cache=True, error_model="numpy")
def _lung(c, side, x, y, z):
    """A lung's outline as a smooth function that is zero on it, nearly a distance."""
    d = cage(c, x, y, z)
    if d > FAR or z < c.recess_z - FAR:
        return FAR
    zd, slope = dome_height(c, side, x, y)
    d = smooth_max(d, (zd - z) / np.sqrt(1 + slope * slope), 3.0)
    if d > FAR:
        return FAR
    dx = x - c.midline
    sx = dx if side == 1 else -dx
    if sx < 90.0 * c.size:
        back = spine_at(c, z) - c.spine_radius
        t = (c.apex_z - z) / c.height
        w = _mediastinum(c, side, y, t, back)
        between = w - sx
        if z < c.heart_z + 1.6 * c.heart_wide:
            hx, hy, hz = x - c.heart_x, y - c.heart_y, z - c.heart_z
            between = smooth_max(between, -ventricles(c, hx, hy, hz), 20.0)
            if side == 0:
                between = smooth_max(between, -right_atrium(c, hx, hy, hz), 8.0)
        if side == 1:
            between = smooth_max(between, 2.0 - aorta(c, x, y, z), 18.0)
        mx, my, mz = hilum(c, side)
        s = c.size
        between = smooth_max(between, -ellipsoid(x - mx, y - my, z - mz, 12.0 * s, 17.0 * s, 22.0 * s), 20.0)
        d = smooth_max(d, between, 9.0 + 20.0 * max(0.0, 1 - t / 0.2))
    if side == c.remnant_side:
        dx, dy = x - c.remnant_x, (y - c.remnant_y) / 1.1
        dz = (z - c.remnant_z) / 1.5
        d = smooth_max(d, np.sqrt(dx * dx + dy * dy + dz * dz) - c.remnant_radius, 5.0)
    return d


@numba.njit(cache=True, error_model="numpy")
def _level(c, y, z):
    """Height of a point behind the surface of an effusion, mm."""
    return y - c.fluid_y - c.fluid_slope * (z - c.recess_z)


@numba.njit(cache=True, error_model="numpy")
def _aerated(c, side, x, y, z):
    d = _lung(c, side, x, y, z)
    return smooth_max(d, _level(c, y, z), 4.0) if side == c.fluid_side else d


@numba.njit(cache=True, error_model="numpy")
def lung(c, side, x, y, z):
    """Distance to the surface of one lung (side 0 right, 1 left): first-order correct near it.

    It is not followed further out than `FAR`.
    """
    f, g = 0.0, 0.0
    for n in range(4):  # one call in a loop, not four: it is compiled into every caller
        e = _aerated(c, side, x + _PROBE * (n == 1), y + _PROBE * (n == 2), z + _PROBE * (n == 3))
        if n == 0:
            f = e
            if abs(f) >= NEAR:
                return f
        else:
            g += (e - f) ** 2
    g = max(0.3, np.sqrt(g) / _PROBE)
    # fully within half the shell, fading out to its edge
    share = min(1.0, 2 * (1 - abs(f) / NEAR))
    return f / (1 + share * (g - 1))


@numba.njit(cache=True, error_model="numpy")
def outline(c, x, y):
    """Distance to a contour round the whole body, seen from above."""
    width = c.half_width + c.wall + c.fat + 42.0 * c.size
    depth = c.half_depth + c.wall + c.fat + (8.0 if y > 0 else 0.5 * c.breast)
    px, py = abs(x) / width, abs(y) / depth
    r = (px * px * np.sqrt(px) + py * py * np.sqrt(py)) ** 0.4
    return (r - 1) * depth


@numba.njit(cache=True, error_model="numpy")
def torso(c, x, y, z):
    """Distance to the skin without breasts: chest, shoulders, and the slope up to the neck."""
    high = z - c.apex_z
    width = c.half_width + c.wall + c.fat + 42.0 * c.size * ramp((high + 125.0) / 100.0)
    depth = c.half_depth + c.wall + c.fat
    if y > 0:
        depth += 8.0 - 0.3 * max(0.0, high + 10.0)
    else:
        depth -= 0.3 * max(0.0, high + 75.0) + 0.9 * max(0.0, high)
    qx, qy = abs(x) / width, abs(y) / depth
    r = (qx * qx * np.sqrt(qx) + qy * qy * np.sqrt(qy)) ** 0.4
    return (r - 1) * depth


@numba.njit(cache=True, error_model="numpy")
def in_air(c, d_torso, y):
    """Whether a point so far from the torso is outside the body, breasts and all; it may be so elsewhere too."""
    return d_torso > 0 and (c.breast == 0 or y >= 0 or d_torso >= c.breast)


@numba.njit(cache=True, error_model="numpy")
def _breast(c, x, y, z, share):
    """Distance to a breast, or to its gland, a smaller ellipsoid."""
    b = c.breast
    dy = y + c.half_depth + c.wall + c.fat - 0.15 * b
    dz = z - c.recess_z - 0.44 * c.height
    rx, ry, rz = 1.15 * b * share, 0.65 * b * share, 1.1 * b * share
    return ellipsoid(abs(x) - 0.58 * c.half_width, dy, dz, rx, ry, rz)


@numba.njit(cache=True, error_model="numpy")
def body_hu(c, d_cage, d_torso, x, y, z, fx, fy, fz):
    """HU outside the lungs and their tubes.

    ``(fx, fy, fz)`` is where the matter was at expiration when it follows the diaphragm and the heart;
    ``(x, y, z)`` when it follows the ribs, which move less. `d_cage` and `d_torso`, the distance from the skin
    without breasts, belong to the latter.
    """
    d_skin = d_torso
    if c.breast > 0 and y < 0 and d_torso < c.breast:
        d_skin = -smooth_max(-d_torso, -_breast(c, x, y, z, 1.0), 20.0)
    if d_skin > 0:
        return AIR
    if d_skin > -2.0:
        return SKIN
    if d_cage > 0:
        return _wall_hu(c, d_cage, d_torso, x, y, z)
    side = 1 if fx > c.midline else 0
    if side == c.fluid_side and _level(c, fy, fz) > -2.0 and _lung(c, side, fx, fy, fz) < 0:
        return FLUID
    zd, slope = dome_height(c, side, fx, fy)
    below = (zd - fz) / np.sqrt(1 + slope * slope)
    if aorta(c, fx, fy, fz) < 0:
        return c.blood_hu
    heart = _heart_hu(c, fx - c.heart_x, fy - c.heart_y, fz - c.heart_z)
    if heart > AIR:
        return heart
    if below > 0:
        return _abdomen_hu(c, below, fx, fy)
    if side == c.remnant_side and abs(fx - c.midline) > c.waist:
        return 38.0  # collapsed lung
    return _mediastinum_hu(c, fx, fy, fz)


@numba.njit(cache=True, error_model="numpy")
def _heart_hu(c, dx, dy, dz):
    """Blood and muscle, the fat around them, or `AIR` outside the heart."""
    ventricle = ventricles(c, dx, dy, dz)
    if ventricle > 60.0:
        return AIR
    atrium = min(right_atrium(c, dx, dy, dz), left_atrium(c, dx, dy, dz))
    if min(ventricle, atrium) > 0:
        return AIR
    # fat in the groove between atria and ventricles, and a thin layer in front
    if dz < 0.5 * c.heart_wide and dy < 12.0 and ventricle > -4.0 and atrium > -3.0:
        return -75.0
    return c.blood_hu + 1.0


@numba.njit(cache=True, error_model="numpy")
def _mediastinum_hu(c, x, y, z):
    """Vessels, oesophagus and nodes in fat."""
    s = c.size
    cx, cy, cz = carina(c)
    px, py, pz = (x - cx) / s, (y - cy) / s, (z - cz) / s
    # soft tissue round the trachea
    if pz > -6 and px * px + (py + 0.08 * pz) ** 2 < 11.5**2:
        return 30.0
    if capsule(px, py, pz, -20.0, -20.0, -60.0, -21.0, -21.0, 26.0, 9.5) < 0:  # superior vena cava
        return c.blood_hu
    if capsule(px, py, pz, -21.0, -21.0, 26.0, 30.0, -30.0, 46.0, 6.5) < 0:  # left brachiocephalic vein
        return c.blood_hu
    if capsule(px, py, pz, 13.0, -44.0, -56.0, 20.0, -18.0, -20.0, 13.5) < 0:  # pulmonary trunk
        return c.blood_hu
    if capsule(px, py, pz, 16.0, -22.0, -22.0, -28.0, -8.0, -25.0, 10.5) < 0:  # right pulmonary artery
        return c.blood_hu
    if capsule(px, py, pz, 20.0, -18.0, -20.0, 32.0, 6.0, -12.0, 10.5) < 0:  # left pulmonary artery
        return c.blood_hu
    if pz > 20:  # arteries and veins of head and arms
        out = 0.25 * (pz - 20)
        for n in range(3):
            ax, ay = -10.0 + 13.0 * n, -16.0 + 8.0 * n
            if (px - ax - (n - 0.8) * out) ** 2 + (py - ay + 0.3 * out) ** 2 < (30.0 if n == 0 else 20.0):
                return c.blood_hu
        if (px + 21.0 + out) ** 2 + (py + 21.0) ** 2 < 45.0:
            return c.blood_hu
    spine = spine_at(c, z) - c.spine_radius
    if (x - cx + 2.0) ** 2 / 64.0 + (y - spine + 9.0) ** 2 / 36.0 < 1:
        return 35.0  # oesophagus
    if (x - cx + 9.0) ** 2 + (y - spine + 3.0) ** 2 < 14.0:
        return c.blood_hu  # azygos vein
    for side in range(2):
        mx, my, mz = hilum(c, side)
        e = ellipsoid(x - mx, y - my, z - mz, 12.0 * s, 17.0 * s, 22.0 * s)
        if e < 1.0:
            return 40.0 if e > -5.0 else 20.0
    return -90.0


@numba.njit(cache=True, error_model="numpy")
def _abdomen_hu(c, below, x, y):
    """Diaphragm, liver, spleen, stomach and colon with gas, fat."""
    if below < 3:
        return 50.0
    w, d = c.half_width, c.half_depth
    spleen = ellipsoid(x - 0.60 * w, y - 0.42 * d, below - 40.0, 0.30 * w, 0.44 * d, 55.0)
    if spleen < 0:
        return 50.0
    # the left lobe of the liver tapers out in front of the stomach
    if x < 0.30 * w - 0.35 * (y + 0.5 * d) - 0.2 * below:
        return 58.0
    stomach = ellipsoid(x - 0.38 * w, y + 0.12 * d, below - 45.0, 0.40 * w, 0.48 * d, 50.0)
    if stomach < 0:
        gas = y < -0.40 * d and stomach < -4.0
        return -990.0 if gas else (25.0 if stomach < -4.0 else 45.0)
    colon = ellipsoid(x - 0.62 * w, y + 0.45 * d, below - 45.0, 22.0, 16.0, 28.0)
    if colon < 0:
        return -985.0 if colon < -3.0 else 45.0
    return -98.0


@numba.njit(cache=True, error_model="numpy")
def _vertebra_hu(c, px, py, z):
    """Bone, disc and canal round the spine, or `AIR` outside; `py` counts from the middle of the bodies."""
    r = c.spine_radius
    period = 0.115 * c.height
    phase = z - period * np.floor(z / period)  # 0 to 4 is the disc
    body = np.hypot(px, py * (1.1 if py < 0 else 1.25))
    if body < r - 0.5:
        if phase < 4.0:
            return 85.0
        return 450.0 if body > r - 2.3 or phase < 5.2 or phase > period - 1.2 else 190.0
    canal = np.hypot(px, 0.9 * (py - 0.8 * r - 8.0))
    if canal < 7.5:
        return 25.0
    foramen = phase < 9.0
    if canal < 12.5 and not (foramen and px > 7.0):
        return 420.0 if canal < 9.0 or canal > 11.0 else 250.0
    up = abs(phase - 0.62 * period)
    arm = capsule(px, py, up, 9.0, 0.8 * r + 8.0, 0.0, 31.0, 0.8 * r + 20.0, 0.0, 5.0)
    if arm < 0:
        return 420.0 if arm > -1.6 else 220.0
    tail = py - 0.8 * r - 18.0
    low = (z + 0.7 * tail + 0.6 * period) / period
    low = abs(low - np.floor(low) - 0.5) * period
    if 0 < tail < 26.0 and px < 3.5 and low < 7.0:
        return 420.0 if px > 1.8 or low > 5.5 else 220.0
    return AIR


@numba.njit(cache=True, error_model="numpy")
def _bone(d):
    """Cortex outside, marrow inside."""
    return 550.0 if d > -1.8 else 200.0


@numba.njit(cache=True, error_model="numpy")
def _wall_hu(c, e, torso, x, y, z):
    """The chest wall: spine, ribs, sternum, shoulder girdle, muscle and fat.

    `e` is the distance from its inner face, `torso` that from the skin (without breasts).
    """
    s = c.size
    px, sy = abs(x), spine_at(c, z)
    py = y - sy
    high = z - c.apex_z
    if e < 34.0 and px < 70.0 and aorta(c, x, y, z) < 0:
        return c.blood_hu
    if px < 40.0 and py > -c.spine_radius:
        bone = _vertebra_hu(c, px, py, z)
        if bone > AIR:
            return bone
    front = y < -0.2 * c.half_depth
    if high > -45.0:
        clavicle = capsule(px, y, high, 20.0 * s, -0.62 * c.half_depth, -34.0, 130.0 * s, 0.0, 8.0 * s, 6.5)
        if clavicle < 0:
            return _bone(clavicle)
        head = ellipsoid(px - c.half_width - 48.0 * s, y, high - 8.0, 23.0, 23.0, 26.0)
        if head < 0:
            return _bone(head)
        if high > -14.0 and (px / 52.0) ** 2 + ((py + 28.0) / 42.0) ** 2 < s * s:  # the root of the neck
            return _neck_hu(c, px, py)
    if front and px < 19.0 and 3.0 < e < 14.0 and z > c.recess_z + 0.22 * c.height:
        return 350.0 if e < 4.8 or e > 12.2 or px > 17.0 else 150.0
    if high < 4 and e < 12.0:
        tilt = z - c.rib_slope * y + 0.3 * px
        n = np.floor(tilt / c.rib_step + 0.5)
        dz = (tilt - n * c.rib_step) / np.sqrt(1.09 + c.rib_slope**2)
        q = ((e - 6.5) / 3.8) ** 2 + (dz / 6.0) ** 2
        floating = y < -0.4 * c.half_depth and tilt < c.recess_z + 0.32 * c.height
        if q < 1 and not floating:
            if y < -0.62 * c.half_depth and px < 0.62 * c.half_width:
                return 110.0  # cartilage
            return 600.0 if q > 0.40 else 220.0
    if e < 10.5 and high < 0:
        return MUSCLE if e > 1.0 else FAT
    blade = abs(e - 24.0)
    wing = (0.85 + 0.55 * min(1.0, (high + 115.0 * s) / (90.0 * s))) * c.half_width  # a triangle on its tip
    if blade < 2.2 and -115.0 * s < high and 0.60 * c.half_width < px < wing and y > 0.12 * c.half_depth:
        return 480.0 if blade > 0.8 else 250.0
    # muscle in layers, up to the fat under the skin, which is thinner over the shoulders
    if c.breast > 0 and y < 0 and px > 8.0 and _breast(c, x, y, z, 0.72) < 0:
        strand = np.sin(0.33 * x + 0.21 * z) + np.sin(0.27 * y - 0.31 * z) + np.sin(0.24 * x + 0.3 * y)
        return 30.0 if strand > 0.2 else FAT
    under = c.fat * (1 - 0.5 * ramp((high + 110.0) / 60.0))
    if torso > -under or (front and px < 12.0):
        return FAT
    if px < 44.0 and py > 0:
        plane = abs(px - 26.0)
    else:  # between pectorals, round the shoulder blade
        wave = 2.5 * np.sin(0.05 * z + 0.03 * y)
        plane = min(abs(e - 17.0 - wave), abs(e - 34.0 - 2 * wave))
    if plane < 0.9 and high < 0:
        return -60.0
    armpit = ellipsoid(px - c.half_width - 26.0 * s, y + 14.0 * s, high + 50.0 * s, 18.0, 24.0, 48.0)
    return FAT if armpit < 0 else MUSCLE


@numba.njit(cache=True, error_model="numpy")
def _neck_hu(c, px, py):
    """Vessels and muscles of the root of the neck."""
    if (px - 22.0) ** 2 + (py + 34.0) ** 2 < 25.0 or (px - 30.0) ** 2 + (py + 40.0) ** 2 < 42.0:
        return c.blood_hu
    if px < 12.0 and py > -34.0:
        return 45.0
    if (px / 20.0) ** 2 + ((py + 44.0) / 14.0) ** 2 < 1:
        return 75.0  # thyroid
    return MUSCLE if (px - 38.0) ** 2 + (py + 12.0) ** 2 < 300.0 else -80.0
