"""From closed forms to voxels: each voxel holds the average of what it covers."""

from __future__ import annotations

import numba
import numpy as np

from lungvq._parallel import PRANGE
from lungvq.phantom.lobes import absence
from lungvq.phantom.motion import DEEPEN, WIDEN, backward, forward, moved_on, newton_step, unstretch
from lungvq.phantom.place import aerated
from lungvq.phantom.shape import FAR, body_hu, cage, in_air, outline, torso
from lungvq.phantom.tissue import composition
from lungvq.phantom.waves import wave_row, waves_along

FISSURE_MM = 0.5  # thickness, in the stretched lung
FISSURE_EXCESS = 0.9  # g/mL above the parenchyma around it, at expiration
AIRLESS_HU = 38.0
DENSE = 1.04  # g/mL on the CT scale: blood and tissue, 40 HU
FULL = 65535.0  # coverage 1 in uint16
FULL_FROM = (1 / 4 + 1 / 12) ** 0.5  # voxels of radius from which a tube is full in its middle
SLABS = 16  # independent parts of a volume that tubes are drawn into


@numba.njit(cache=True, error_model="numpy")
def _share(c, m, x, y, z, grad, jac, hx, hy, hz, scratch):
    """How much of a voxel centred on a point of expiration is aerated lung.

    The voxel, of `hx` x `hy` x `hz` mm after a map with gradient `grad`, is taken in eight parts, each cut by
    a plane.
    """
    half = 0.5 * (hx * hy * hz / jac) ** (1 / 3)
    total = 0.0
    for n in range(8):
        a, b, e = newton_step(
            grad,
            (0.25 if n & 1 else -0.25) * hx,
            (0.25 if n & 2 else -0.25) * hy,
            (0.25 if n & 4 else -0.25) * hz,
        )
        d = aerated(c, m, x + a, y + b, z + e, scratch)[0]
        total += min(1.0, max(0.0, 0.5 - d / half))
    return total / 8


@numba.njit(cache=True, error_model="numpy")
def _plate(m, near, which, x, y, width):
    """Mean density that a fissure adds to a voxel of `width` mm, g/mL at expiration."""
    if not m.visible or near > 0.5 * (FISSURE_MM + width) or absence(m, which, x, y) > m.gap[which]:
        return 0.0
    return min(FISSURE_MM, 0.5 * (FISSURE_MM + width) - near) / width * FISSURE_EXCESS


@numba.njit(parallel=PRANGE, cache=True, error_model="numpy")
def render_lungs(c, m, t, w, breath_in, shape, affine, ribs_rise, rho, cover, body, lobes):
    """Parenchyma density, lung coverage, HU of what is not lung, and lobe labels on one grid.

    Parameters
    ----------
    breath_in : bool
        Whether the grid is that of inspiration.
    affine : ndarray (4, 4)
        Of a grid in canonical order, axes along the body.
    ribs_rise : float
        How far the chest wall goes up between the scans, mm.
    c, m, t, w : Shape, Motion, Tissue, Territory
    rho, cover, body, lobes : ndarrays of `shape`
        Filled in.

    Returns
    -------
    totals : ndarray, shape (K, 6, 4)
        For each slice and lobe, summed over voxels by what they hold of it: volume; and of the parcels there their
        expansion, the mass they gain (g/mL of expiration) and their flow.
    """
    hz, hy, hx = affine[2, 0], affine[1, 1], affine[0, 2]
    h = (hx * hy * hz) ** (1 / 3)
    totals = np.zeros((shape[0], 6, 4))
    widest, deepest = max(m.chest[WIDEN], m.chest[WIDEN + 1]), max(m.chest[DEEPEN], m.chest[DEEPEN + 1])
    beside = np.zeros((shape[1], shape[2]), np.bool_)  # of the body, seen from above
    if breath_in:
        for j in range(shape[1]):
            for i in range(shape[2]):
                x, y = affine[0, 3] + hx * i, affine[1, 3] + hy * j
                beside[j, i] = outline(c, x / (1 + widest), y / (1 + deepest)) > 8.0
    for k in numba.prange(shape[0]):
        grad, work = np.empty((3, 3)), np.empty((2, 3, 3))
        z = affine[2, 3] + hz * k
        for j in range(shape[1]):
            y = affine[1, 3] + hy * j
            # the last solutions of the two inversions: the next one is near
            wx, wy, wz = affine[0, 3], y, z
            ox, oy, oz = 0.0, 0.0, 0.0
            within = False
            for i in range(shape[2]):
                if beside[j, i]:
                    continue
                x = affine[0, 3] + hx * i
                px, py, pz, rz = x, y, z, z
                if breath_in:
                    wx, wy, wz = unstretch(m.chest, x, y, z, wx + hx, wy, wz, grad)
                    px, py, pz, rz = wx, wy, wz, z - ribs_rise
                lx, ly, lz, jac, label, near, which, qx, qy = px, py, pz, 1.0, 0, 1e3, 0, 0.0, 0.0
                d, whole, grown, wall, skin = 0.0, 0.0, 1.0, 0.0, 0.0
                if not (breath_in and within):  # the neighbour is in the lung: this one is near it
                    skin = torso(c, px, py, rz)
                    if in_air(c, skin, py):
                        continue
                    d = whole = wall = cage(c, px, py, pz)
                    if wall < FAR:
                        d, whole = aerated(c, m, px, py, pz, grad)
                within = False
                if d < 15.0:
                    if breath_in:
                        found = backward(m, x, y, z, px + ox, py + oy, pz + oz, 1e-3, grad, work)
                        lx, ly, lz = found[0], found[1], found[2]
                        ox, oy, oz = lx - px, ly - py, lz - pz
                        jac, label, near, which, qx, qy = found[3:9]
                        d, whole = aerated(c, m, lx, ly, lz, work[0])
                        grown, within = jac, d < 0
                    elif d < 2 * h:
                        jac, label, near, which, qx, qy = forward(m, x, y, z, grad, work)[3:9]
                        for a in range(3):
                            for b in range(3):
                                grad[a, b] = 1.0 if a == b else 0.0
                share = 0.0
                if d * grown ** (1 / 3) < -1.5 * h:
                    share = 1.0
                elif d * grown ** (1 / 3) < 1.5 * h:
                    share = _share(c, m, lx, ly, lz, grad, grown, hx, hy, hz, work[0])
                if share > 0:
                    dry, blood, gained, flow, _ = composition(t, w, lx, ly, lz, label, -d, jac)
                    if breath_in:
                        rho[k, j, i] = (dry + blood + gained + _plate(m, near, which, qx, qy, h)) / jac
                    else:
                        rho[k, j, i] = dry + blood + _plate(m, near, which, qx, qy, h * jac ** (1 / 3))
                    cover[k, j, i] = np.uint16(FULL * share + 0.5)
                    totals[k, label, 0] += share
                    totals[k, label, 1] += share * jac
                    totals[k, label, 2] += share * gained
                    totals[k, label, 3] += share * flow
                    if d <= 0:
                        lobes[k, j, i] = label
                if share < 1.0:
                    if whole < 0 and d > 0:
                        body[k, j, i] = AIRLESS_HU
                    else:
                        if breath_in:  # the wall is that of another height
                            wall, skin = cage(c, px, py, rz), torso(c, px, py, rz)
                        body[k, j, i] = body_hu(c, wall, skin, px, py, rz, px, py, pz)
    return totals


@numba.njit(parallel=PRANGE, cache=True, error_model="numpy")
def draw_tubes(start, stop, r_start, r_stop, lobe_of, lobes, affine, out):
    """Coverage by tubes, the larger where two meet; a tube of a lobe stays inside it.

    The ramp at the edge is as wide as a voxel. The cross-section integrates to that of the tube: of one that is wider
    than a voxel by where the ramp lies, so that it is full in the middle; of a thinner one by the ramp's height.
    """
    step = np.array([affine[2, 0], affine[1, 1], affine[0, 2]])
    h = (step[0] * step[1] * step[2]) ** (1 / 3)
    for slab in numba.prange(SLABS):
        first, last = slab * out.shape[0] // SLABS, (slab + 1) * out.shape[0] // SLABS - 1
        low, high = np.empty(3, np.int64), np.empty(3, np.int64)
        for n in range(start.shape[0]):
            reach = max(r_start[n], r_stop[n]) + 0.5 * h
            for a in range(3):
                b = 2 - a
                lo = min(start[n, b], stop[n, b]) - reach - affine[b, 3]
                hi = max(start[n, b], stop[n, b]) + reach - affine[b, 3]
                low[a] = max(0, int(np.ceil(lo / step[a])))
                high[a] = min(out.shape[a] - 1, int(np.floor(hi / step[a])))
            low[0], high[0] = max(low[0], first), min(high[0], last)
            ax, ay, az = start[n, 0], start[n, 1], start[n, 2]
            bx, by, bz = stop[n, 0] - ax, stop[n, 1] - ay, stop[n, 2] - az
            length2 = bx * bx + by * by + bz * bz + 1e-12
            for k in range(low[0], high[0] + 1):
                z = affine[2, 3] + step[0] * k - az
                for j in range(low[1], high[1] + 1):
                    y = affine[1, 3] + step[1] * j - ay
                    for i in range(low[2], high[2] + 1):
                        if lobe_of[n] > 0 and lobes[k, j, i] != lobe_of[n]:
                            continue
                        x = affine[0, 3] + step[2] * i - ax
                        s = min(1.0, max(0.0, (x * bx + y * by + z * bz) / length2))
                        d = np.sqrt((x - s * bx) ** 2 + (y - s * by) ** 2 + (z - s * bz) ** 2)
                        r = (1 - s) * r_start[n] + s * r_stop[n]
                        if d >= r + 0.5 * h:
                            continue
                        if r >= FULL_FROM * h:  # a ramp a little further in holds as much, at full height
                            ramp = min(1.0, max(0.0, 0.5 + (np.sqrt(r * r - h * h / 12) - d) / h))
                        else:
                            area = np.pi / 3 * (r + 0.5 * h) ** 3 / h
                            if r >= 0.5 * h:
                                area = np.pi * (r * r + h * h / 12)
                            ramp = min(1.0, min(1.0, 0.5 + (r - d) / h) * np.pi * r * r / area)
                        value = np.uint16(FULL * ramp)
                        out[k, j, i] = max(out[k, j, i], value)


@numba.njit(cache=True, error_model="numpy")
def _with_tubes(own, dense, lumen):
    """Density of lung with what runs through it."""
    return (own + dense / FULL * max(0.0, DENSE - own)) * (1 - lumen / FULL)


@numba.njit(parallel=PRANGE, cache=True, error_model="numpy")
def tube_mass(rho, cover, dense, lumen, lobes):
    """What vessels and airways add to the mass of each lobe, in (g/mL) x voxels.

    Shape (K, 6): by slice and lobe, 0 for the edges.
    """
    mass = np.zeros((rho.shape[0], 6))
    for k in numba.prange(rho.shape[0]):
        for j in range(rho.shape[1]):
            for i in range(rho.shape[2]):
                if cover[k, j, i]:
                    own = rho[k, j, i]
                    added = _with_tubes(own, dense[k, j, i], lumen[k, j, i]) - own
                    mass[k, lobes[k, j, i]] += cover[k, j, i] / FULL * added
    return mass


@numba.njit(parallel=PRANGE, cache=True, error_model="numpy")
def mix(rho, cover, body, dense, lumen):
    """HU of each voxel into `rho`, from its lung, its surroundings, and the tubes through both.

    Returns the mass of the lungs in (g/mL) x voxels and their volume in voxels, slice by slice.
    """
    mass, volume = np.zeros(rho.shape[0]), np.zeros(rho.shape[0])
    for k in numba.prange(rho.shape[0]):
        for j in range(rho.shape[1]):
            for i in range(rho.shape[2]):
                share = cover[k, j, i] / FULL
                own = _with_tubes(rho[k, j, i], dense[k, j, i], lumen[k, j, i])
                mass[k] += share * own
                volume[k] += share
                rest = (body[k, j, i] / 1000.0 + 1.0) * (1 - lumen[k, j, i] / FULL)
                rho[k, j, i] = 1000 * (share * own + (1 - share) * rest - 1)
    return mass, volume


@numba.njit(parallel=PRANGE, cache=True, error_model="numpy")
def render_truth(
    c, m, t, w, shape, affine, lobes, displacement, jacobian, ventilation, flow, change, disease
):
    """Truth on the expiratory grid: displacement in mm, J, air gained (mL/mL), flow, mass gained (g/mL), kind."""
    along = waves_along(m.waves, affine[0, 3], affine[0, 2], shape[2])
    for k in numba.prange(shape[0]):
        grad, work, row = np.empty((3, 3)), np.empty((2, 3, 3)), np.empty((3, shape[2]))
        z = affine[2, 3] + affine[2, 0] * k
        for j in range(shape[1]):
            y = affine[1, 3] + affine[1, 1] * j
            wave_row(m.waves, along, y, z, row)
            for i in range(shape[2]):
                x = affine[0, 3] + affine[0, 2] * i
                a, b, e = moved_on(m, x, y, z, row[0, i], row[1, i], row[2, i], grad)
                displacement[k, j, i, 0] = a - x
                displacement[k, j, i, 1] = b - y
                displacement[k, j, i, 2] = e - z
                if lobes[k, j, i]:
                    jac, label = forward(m, x, y, z, grad, work)[3:5]
                    depth = -aerated(c, m, x, y, z, grad)[0]
                    _, _, gained, q, kind = composition(t, w, x, y, z, label, depth, jac)
                    jacobian[k, j, i] = jac
                    ventilation[k, j, i] = jac - 1 - gained  # tissue and blood counted as water
                    flow[k, j, i] = q
                    change[k, j, i] = gained
                    disease[k, j, i] = kind
                else:
                    jacobian[k, j, i] = np.nan
                    ventilation[k, j, i] = np.nan
                    flow[k, j, i] = np.nan
                    change[k, j, i] = np.nan
