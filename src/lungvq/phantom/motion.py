"""The breath: a map from expiration to inspiration in closed form, with its exact gradient.

``phi = slide o stretch o ripple``. The ripple adds plane waves (smooth random fields with known correlation
lengths) and bumps that hold back the expansion around points (air trapping); the stretch lowers the
diaphragm, more at the back than at the front, and widens the chest; the slide moves lobes along their
fissures. Every part has its gradient written out, so `J = det grad phi` follows from the chain rule and is
never a difference of a stored field.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from lungvq._parallel import PRANGE
from lungvq.phantom.lobes import lobe_of, slide, slides_on, unslide
from lungvq.phantom.waves import wave_displacement

SIDE_BLEND_MM = 12.0  # the two lungs move by their own settings; between them, in the mediastinum, a tanh
ONSET = 0.05  # of the widening, as a squared share of the lung height below the apex

BACKWARD = 0.25  # the front-back growth is less in front by twice this share: what lies below expands more

BASE_WEIGHT = 0.4  # of the descent: the less, the more evenly the lung lengthens from apex to base

Floats = NDArray[np.float64]


# Where the settings of the stretch stand in `Motion.chest`; pairs are right, left.
APEX_Z, HEIGHT, MIDDLE_X, BACK_Y, DEPTH_AP, DEPTH, DEPTH_BACK, WIDEN, DEEPEN = 0, 1, 2, 3, 4, 5, 7, 9, 11


class Motion(NamedTuple):
    """Settings of the map, in few arrays. Lengths in mm, LPS.

    Handing them from function to function costs as much as a hundred waves: what is called for every voxel is
    inlined, or takes single arrays.

    Triples are right oblique, left oblique, horizontal fissure.

    Parameters
    ----------
    chest : ndarray, shape (13,)
        Of the stretch: z of the apex, height of the lungs, x of the midline, y that stays, depth of the chest;
        descent at the base in front and what the back adds to it; lateral and front-back growth, as shares of
        the size from the midline and from the y that stays. The last four are pairs.
    waves : ndarray, shape (7, n)
        Of the ripple: wave vector, phase, amplitude.
    bumps : ndarray, shape (n, 5)
        Of the ripple: balls that expand less: centre, sd, and the share by which each length grows less.
    sheet : ndarray, shape (3, 20)
        The fissures, as `lobes.sheet_of` makes them.
    gap : ndarray, shape (3,)
        Where `lobes.absence` exceeds it, a fissure is missing.
    gap_k, gap_phase : ndarray, shape (3, 2) and (3,)
        Make the edge of the missing part uneven.
    slide : ndarray, shape (3,)
        How far, front to back, the lobe below an oblique and above the horizontal fissure slides.
    airless : int
        Label of a lobe without air, which does not count as lung; 0 for none.
    visible : bool
        Whether fissures show in scans.
    """

    chest: Floats
    waves: Floats
    bumps: Floats
    sheet: Floats
    gap: Floats
    gap_k: Floats
    gap_phase: Floats
    slide: Floats
    airless: int
    visible: bool


@numba.njit(cache=True, error_model="numpy")
def stretch(c, x, y, z, grad):
    """Where the stretch with settings `c` (`Motion.chest`) takes a point; its gradient goes into `grad` (3, 3)."""
    dx = x - c[MIDDLE_X]
    dy = y - c[BACK_Y]
    th = np.tanh(dx / SIDE_BLEND_MM)
    w, dw = 0.5 * (1 + th), 0.5 * (1 - th * th) / SIDE_BLEND_MM
    s = max(0.0, (c[APEX_Z] - z) / c[HEIGHT])
    ds = -1 / c[HEIGHT] if s > 0 else 0.0
    p = 1 + dy / c[DEPTH_AP]
    d_r = c[DEPTH] + c[DEPTH_BACK] * p
    d_l = c[DEPTH + 1] + c[DEPTH_BACK + 1] * p
    depth = (1 - w) * d_r + w * d_l
    depth_y = ((1 - w) * c[DEPTH_BACK] + w * c[DEPTH_BACK + 1]) / c[DEPTH_AP]
    ax = (1 - w) * c[WIDEN] + w * c[WIDEN + 1]
    ay = (1 - w) * c[DEEPEN] + w * c[DEEPEN + 1]
    ax_x, ay_x = dw * (c[WIDEN + 1] - c[WIDEN]), dw * (c[DEEPEN + 1] - c[DEEPEN])
    eta = s * s / (s * s + ONSET)
    eta_z = 2 * s * ONSET / (s * s + ONSET) ** 2 * ds
    g = (1 + BASE_WEIGHT) * s * s / (s + BASE_WEIGHT)
    g_z = (1 + BASE_WEIGHT) * s * (s + 2 * BASE_WEIGHT) / (s + BASE_WEIGHT) ** 2 * ds
    grad[0, 0] = 1 + eta * (ax + dx * ax_x)
    grad[0, 1] = 0.0
    grad[0, 2] = dx * ax * eta_z
    grown = dy * (1 + BACKWARD * dy / c[DEPTH_AP])
    grad[1, 0] = grown * ay_x * eta
    grad[1, 1] = 1 + ay * eta * (1 + 2 * BACKWARD * dy / c[DEPTH_AP])
    grad[1, 2] = grown * ay * eta_z
    grad[2, 0] = -dw * (d_l - d_r) * g
    grad[2, 1] = -depth_y * g
    grad[2, 2] = 1 - depth * g_z
    return x + dx * ax * eta, y + grown * ay * eta, z - depth * g


@numba.njit(cache=True, error_model="numpy")
def _add_bumps(bumps, x, y, z, ux, uy, uz, grad):
    """A displacement and what bumps add to it; their gradient is added to `grad`."""
    for n in range(bumps.shape[0]):
        dx, dy, dz = x - bumps[n, 0], y - bumps[n, 1], z - bumps[n, 2]
        v = bumps[n, 3] ** 2
        q = (dx * dx + dy * dy + dz * dz) / v
        if q > 60:  # what is left out there is less than rounding
            continue
        g = -bumps[n, 4] * np.exp(-0.5 * q)
        d = (dx, dy, dz)
        ux += g * dx
        uy += g * dy
        uz += g * dz
        for a in range(3):
            grad[a, a] += g
            for b in range(3):
                grad[a, b] -= g * d[a] * d[b] / v
    return ux, uy, uz


@numba.njit(cache=True, error_model="numpy")
def ripple(m, x, y, z, grad):
    """Where the waves and bumps take a point; their gradient goes into `grad`."""
    ux, uy, uz = wave_displacement(m.waves, x, y, z, grad)
    ux, uy, uz = _add_bumps(m.bumps, x, y, z, ux, uy, uz, grad)
    return x + ux, y + uy, z + uz


@numba.njit(cache=True, error_model="numpy")
def without_slide(m, x, y, z, grad, work):
    """Stretch after ripple; the gradient goes into `grad`. `work` is scratch, shape (2, 3, 3)."""
    a, b, c = ripple(m, x, y, z, work[0])
    a, b, c = stretch(m.chest, a, b, c, work[1])
    for i in range(3):
        for j in range(3):
            grad[i, j] = (
                work[1, i, 0] * work[0, 0, j] + work[1, i, 1] * work[0, 1, j] + work[1, i, 2] * work[0, 2, j]
            )
    return a, b, c


@numba.njit(cache=True, error_model="numpy")
def forward(m, x, y, z, grad, work):
    """``phi`` of a point and `J` there; its lobe as if inside a lung, distance to its fissure, which that is;
    and the point before sliding (x, y). `grad` (3, 3) and `work` (2, 3, 3) are scratch.
    """
    a, b, c = without_slide(m, x, y, z, grad, work)
    label, near, which = lobe_of(m.sheet, 1 if a > m.chest[MIDDLE_X] else 0, a, b, c)
    p, q, r, extra = a, b, c, 1.0
    if slides_on(m, label) >= 0:
        p, q, r, extra = slide(m, label, a, b, c)
    return p, q, r, det(grad) * extra, label, near, which, a, b


@numba.njit(cache=True, error_model="numpy")
def moved_on(m, x, y, z, ux, uy, uz, grad):
    """``phi`` of a point whose displacement by the waves is known. `grad` is scratch."""
    ux, uy, uz = _add_bumps(m.bumps, x, y, z, ux, uy, uz, grad)
    a, b, c = stretch(m.chest, x + ux, y + uy, z + uz, grad)
    if m.slide[0] != 0 or m.slide[1] != 0 or m.slide[2] != 0:
        label = lobe_of(m.sheet, 1 if a > m.chest[MIDDLE_X] else 0, a, b, c)[0]
        a, b, c, _ = slide(m, label, a, b, c)
    return a, b, c


@numba.njit(cache=True, error_model="numpy")
def det(g):
    """Determinant of a 3 x 3 matrix."""
    return (
        g[0, 0] * (g[1, 1] * g[2, 2] - g[1, 2] * g[2, 1])
        - g[0, 1] * (g[1, 0] * g[2, 2] - g[1, 2] * g[2, 0])
        + g[0, 2] * (g[1, 0] * g[2, 1] - g[1, 1] * g[2, 0])
    )


@numba.njit(cache=True, error_model="numpy")
def newton_step(g, ex, ey, ez):
    """Solve ``g d = e`` by Cramer's rule."""
    d = det(g)
    c00, c01, c02 = (
        g[1, 1] * g[2, 2] - g[1, 2] * g[2, 1],
        g[0, 2] * g[2, 1] - g[0, 1] * g[2, 2],
        g[0, 1] * g[1, 2] - g[0, 2] * g[1, 1],
    )
    c10, c11, c12 = (
        g[1, 2] * g[2, 0] - g[1, 0] * g[2, 2],
        g[0, 0] * g[2, 2] - g[0, 2] * g[2, 0],
        g[0, 2] * g[1, 0] - g[0, 0] * g[1, 2],
    )
    c20, c21, c22 = (
        g[1, 0] * g[2, 1] - g[1, 1] * g[2, 0],
        g[0, 1] * g[2, 0] - g[0, 0] * g[2, 1],
        g[0, 0] * g[1, 1] - g[0, 1] * g[1, 0],
    )
    return (
        (c00 * ex + c01 * ey + c02 * ez) / d,
        (c10 * ex + c11 * ey + c12 * ez) / d,
        (c20 * ex + c21 * ey + c22 * ez) / d,
    )


@numba.njit(cache=True, error_model="numpy")
def unstretch(p, x, y, z, gx, gy, gz, grad):
    """Inverse of the stretch alone, to 0.01 mm, by Newton's method from the guess ``(gx, gy, gz)``."""
    for _ in range(30):
        a, b, c = stretch(p, gx, gy, gz, grad)
        ex, ey, ez = x - a, y - b, z - c
        if abs(ex) + abs(ey) + abs(ez) < 1e-2:
            break
        dx, dy, dz = newton_step(grad, ex, ey, ez)
        gx, gy, gz = gx + dx, gy + dy, gz + dz
    return gx, gy, gz


@numba.njit(cache=True, error_model="numpy")
def backward(m, x, y, z, gx, gy, gz, tolerance, grad, work):
    """``phi^-1`` of a point by Newton's method from a guess, and the rest of what `forward` gives there.

    The lobe can be told before the way back is known: sliding leaves fissures where they are.
    """
    side = 1 if x > m.chest[MIDDLE_X] else 0
    label, near, which = lobe_of(m.sheet, side, x, y, z)
    extra = 1.0
    if slides_on(m, label) >= 0:
        x, y, z, extra = unslide(m, label, x, y, z)
        near = lobe_of(m.sheet, side, x, y, z)[1]
    for _ in range(50):
        a, b, c = without_slide(m, gx, gy, gz, grad, work)
        ex, ey, ez = x - a, y - b, z - c
        if abs(ex) + abs(ey) + abs(ez) < tolerance:
            break
        dx, dy, dz = newton_step(grad, ex, ey, ez)
        length = np.sqrt(dx * dx + dy * dy + dz * dz)
        f = min(1.0, 15.0 / max(length, 1e-9))  # a short leash keeps Newton in its basin
        gx, gy, gz = gx + f * dx, gy + f * dy, gz + f * dz
    return gx, gy, gz, det(grad) * extra, label, near, which, x, y


@numba.njit(parallel=PRANGE, cache=True, error_model="numpy")
def map_points(m, points):
    """``phi`` and ``J`` at points (N, 3) in LPS mm: arrays (N, 3) and (N,), float64."""
    out = np.empty_like(points)
    jac = np.empty(points.shape[0])
    for n in numba.prange(points.shape[0]):
        grad, work = np.empty((3, 3)), np.empty((2, 3, 3))
        found = forward(m, points[n, 0], points[n, 1], points[n, 2], grad, work)
        out[n, 0], out[n, 1], out[n, 2], jac[n] = found[0], found[1], found[2], found[3]
    return out, jac


@numba.njit(parallel=PRANGE, cache=True, error_model="numpy")
def unmap_points(m, points):
    """``phi^-1`` at points (N, 3) in LPS mm, to 1e-9 mm."""
    out = np.empty_like(points)
    for n in numba.prange(points.shape[0]):
        grad, work = np.empty((3, 3)), np.empty((2, 3, 3))
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        gx, gy, gz = unstretch(m.chest, x, y, z, x, y, z, grad)
        found = backward(m, x, y, z, gx, gy, gz, 1e-9, grad, work)
        out[n, 0], out[n, 1], out[n, 2] = found[0], found[1], found[2]
    return out


@numba.njit(parallel=PRANGE, cache=True, error_model="numpy")
def stretch_points(m, points):
    """The stretch alone at points (N, 3)."""
    out = np.empty_like(points)
    for n in numba.prange(points.shape[0]):
        grad = np.empty((3, 3))
        out[n, 0], out[n, 1], out[n, 2] = stretch(m.chest, points[n, 0], points[n, 1], points[n, 2], grad)
    return out


def scaled(motion: Motion, share: float) -> Motion:
    """The same breath taken only in part, without sliding: for scans at another volume.

    Parameters
    ----------
    share : float
        0 leaves everything at expiration, 1 is the whole breath.
    """
    chest, waves, bumps = motion.chest.copy(), motion.waves.copy(), motion.bumps.copy()
    chest[DEPTH:] *= share
    waves[4:] *= share
    bumps[:, 4] *= share
    return motion._replace(chest=chest, waves=waves, bumps=bumps, slide=np.zeros(3))
