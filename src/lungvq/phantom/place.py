"""Where a point of the chest at expiration lies: in which lung and lobe, and how deep."""

from __future__ import annotations

import numba
import numpy as np

from lungvq._parallel import PRANGE
from lungvq.phantom.lobes import absence, outside_lobe
from lungvq.phantom.motion import MIDDLE_X, forward, ripple, stretch
from lungvq.phantom.shape import lung


@numba.njit(cache=True, error_model="numpy")
def aerated(c, m, x, y, z, grad):
    """Distance to the surface of what holds air, negative inside, and the same for all of the lung."""
    whole = lung(c, 1 if x > c.midline else 0, x, y, z)
    if m.airless == 0 or whole > 6.0:
        return whole, whole
    a, b, h = ripple(m, x, y, z, grad)
    a, b, h = stretch(m.chest, a, b, h, grad)
    label = m.airless
    if (label < 3) != (a > m.chest[MIDDLE_X]):
        return whole, whole
    return max(whole, -outside_lobe(m.sheet, label, a, b, h)), whole


@numba.njit(parallel=PRANGE, cache=True, error_model="numpy")
def lobes_at(c, m, points):
    """Lobes at points (N, 3) of expiration.

    Returns
    -------
    labels : ndarray of uint8, shape (N,)
        0 where there is no aerated lung.
    depth : ndarray
        Distance to the pleura, negative inside, mm; correct near 0.
    fissure : ndarray
        Distance to the nearest fissure in the stretched lung, mm.
    jacobian : ndarray
        Expansion, as if inside.
    """
    n_points = points.shape[0]
    labels = np.zeros(n_points, np.uint8)
    depth, fissure, jacobian = np.empty(n_points), np.full(n_points, 1e3), np.ones(n_points)
    for n in numba.prange(n_points):
        grad, work = np.empty((3, 3)), np.empty((2, 3, 3))
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        depth[n] = aerated(c, m, x, y, z, grad)[0]
        if depth[n] < 6.0:
            found = forward(m, x, y, z, grad, work)
            jacobian[n], fissure[n] = found[3], found[5]
            if depth[n] < 0:
                labels[n] = found[4]
    return labels, depth, fissure, jacobian


@numba.njit(parallel=PRANGE, cache=True, error_model="numpy")
def gaps_at(m, points):
    """The nearest fissure of points (N, 3) of the lungs, the distance to it in the stretched lung, mm, and the
    value of `absence` there.
    """
    n_points = points.shape[0]
    which, near, value = np.empty(n_points, np.int64), np.empty(n_points), np.empty(n_points)
    for n in numba.prange(n_points):
        grad, work = np.empty((3, 3)), np.empty((2, 3, 3))
        found = forward(m, points[n, 0], points[n, 1], points[n, 2], grad, work)
        near[n], which[n] = found[5], found[6]
        value[n] = absence(m, found[6], found[7], found[8])
    return which, near, value
