"""What the lung is made of at each point of expiration: tissue, blood, flow, and blood gained on breathing in.

Flow, blood and motion are set apart: `follow` (w) says how much of the blood volume goes where the flow
goes, `beta` and `gamma` how much blood a breath adds, `hypoxic` how much flow avoids what does not breathe,
and the motion knows none of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from lungvq._parallel import PRANGE
from lungvq.phantom.territory import nearest_leaf
from lungvq.phantom.waves import wave_sum

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BALL, BAND, RIM, LOBE = 0, 1, 2, 3  # shapes of a diseased region
SOLID, HOLES, PATCHES, STRANDS = 0, 1, 2, 3  # its texture
NONE, EMPHYSEMA, TRAPPING, EMBOLISM, CONSOLIDATION, GROUND_GLASS, FIBROSIS, PATCHY_FLOW = range(8)
FULL_DENSITY = 1.04  # g/mL of tissue and blood without air


class Tissue(NamedTuple):
    """Densities in g per mL of expiratory lung; lengths in mm, LPS."""

    dry: float  # tissue without blood
    blood: float
    follow: float  # w: share of the blood volume that follows the flow
    beta: float  # blood gained on inspiration where flow is 1; negative is lost
    gamma: float  # share of the blood (as it would be without w) lost on inspiration
    flip: float  # 1: both change their sign half way up the lung, 0: they do not
    hypoxic: float  # flow goes with ventilation to this power
    mean_gain: float  # mean of J - 1
    middle_y: float
    middle_z: float
    gravity_dry: float  # relative, per mm towards the back
    gravity_blood: float
    gravity_flow: float
    flow_scale: float  # brings the mean over the lungs to 1
    flow_waves: Floats  # (5, n) of the logarithm of flow: wave vector, phase, amplitude
    dense_waves: Floats  # the same of density
    kind: Ints  # (D,) what each diseased region is
    form: Ints  # (D,) BALL, BAND, RIM or LOBE
    texture: Ints
    at: Floats  # (D, 3) centre of a ball; z of a band and the way it goes (x: -1 down, 1 up, 0 everywhere)
    size: Floats  # radius of a ball, softness of a band, depth of a rim, label of a lobe
    grain: Floats  # cell size of the texture
    share: Floats  # of cells that are ill, or radius of a hole over the cell
    flow_factor: Floats
    blood_factor: Floats
    dry_factor: Floats
    added: Floats  # g/mL of fluid or cells
    blocked: bool  # whether any artery is blocked
    leaf_flow: Floats  # factors for the territory of each end of the arterial tree
    leaf_blood: Floats


@numba.njit(cache=True, error_model="numpy")
def _hash(i, j, k, salt):
    """A number in 0..1 that belongs to a cell."""
    h = (
        (np.int64(i) * 73856093)
        ^ (np.int64(j) * 19349663)
        ^ (np.int64(k) * 83492791)
        ^ (np.int64(salt) * 2654435)
    )
    h = (h ^ (h >> 13)) * 1274126177
    h = h ^ (h >> 16)
    return np.float64(h & 0xFFFFF) / 1048576.0


@numba.njit(cache=True, error_model="numpy")
def _cell(x, y, z, grain, salt):
    """Distance to the centre of the nearest cell of an irregular packing, and that cell's number in 0..1."""
    u, v, w = x / grain, y / grain, z / grain
    a, b, c = np.floor(u), np.floor(v), np.floor(w)
    best, number = 1e9, 0.0
    for i in range(-1, 2):
        for j in range(-1, 2):
            for k in range(-1, 2):
                p, q, r = a + i, b + j, c + k
                dx = p + 0.5 + 0.6 * (_hash(p, q, r, salt) - 0.5) - u
                dy = q + 0.5 + 0.6 * (_hash(p, q, r, salt + 1) - 0.5) - v
                dz = r + 0.5 + 0.6 * (_hash(p, q, r, salt + 2) - 0.5) - w
                d = dx * dx + dy * dy + dz * dz
                if d < best:
                    best, number = d, _hash(p, q, r, salt + 3)
    return np.sqrt(best) * grain, number


@numba.njit(cache=True, error_model="numpy")
def _extent(t, n, x, y, z, label, depth, uneven):
    """0 outside a diseased region, 1 inside."""
    form = t.form[n]
    if form == LOBE:
        return 1.0 if label == int(t.size[n]) else 0.0
    if form == RIM:
        return 1 / (1 + np.exp((depth - t.size[n] * (1 + uneven)) / 2)) / (1 + np.exp((z - t.at[n, 2]) / 15))
    if form == BAND:
        return 1 / (1 + np.exp(-(t.at[n, 0] * (z - t.at[n, 2]) + 12 * uneven) / t.size[n]))
    dx, dy, dz = x - t.at[n, 0], y - t.at[n, 1], z - t.at[n, 2]
    d = np.sqrt(dx * dx + dy * dy + dz * dz) - t.size[n] * (1 + 0.5 * uneven)
    if d > 20:
        return 0.0
    return 1 / (1 + np.exp(d / 1.5))


@numba.njit(cache=True, error_model="numpy")
def _filled(t, n, x, y, z, extent):
    """How ill a point is with disease `n`, from its extent there and the texture."""
    if extent < 1e-3 or t.texture[n] == SOLID:
        return extent
    d, number = _cell(x, y, z, t.grain[n], 10 * n)
    if t.texture[n] == HOLES:
        return extent / (1 + np.exp((d - t.share[n] * t.grain[n] * (0.6 + 0.8 * number)) / 0.5))
    if t.texture[n] == PATCHES:
        return extent if number < t.share[n] else 0.0
    return extent / (1 + np.exp(-(d - 0.55 * t.grain[n]) / 0.4))  # strands between cells


@numba.njit(cache=True, error_model="numpy")
def composition(t, territory, x, y, z, label, depth, jac):
    """Dry tissue, blood, blood gained on inspiration (g/mL of expiratory lung), relative flow, and disease.

    `territory` is that of the arteries, `label` the lobe, `depth` the distance from the pleura in mm, `jac`
    the expansion at the point.
    """
    back = y - t.middle_y
    uneven = wave_sum(t.dense_waves, x, y, z)
    flow = t.flow_scale * np.exp(wave_sum(t.flow_waves, x, y, z) + t.gravity_flow * back)
    if t.hypoxic != 0:
        flow *= max((jac - 1) / t.mean_gain, 0.05) ** t.hypoxic
    dry = t.dry * np.exp(uneven + t.gravity_dry * back)
    blood = t.blood * np.exp(uneven + t.gravity_blood * back)
    added, most, kind = 0.0, 0.5, NONE
    for n in range(t.size.size):
        extent = _extent(t, n, x, y, z, label, depth, uneven)
        w = _filled(t, n, x, y, z, extent)
        flow *= 1 + w * (t.flow_factor[n] - 1)
        dry *= 1 + w * (t.dry_factor[n] - 1)
        blood *= 1 + w * (t.blood_factor[n] - 1)
        added += w * t.added[n]
        ill = extent if t.texture[n] == STRANDS else w  # what lies between strands is part of the disease
        if ill > most:
            most, kind = ill + 0.2, t.kind[n]  # what is named first covers what lies under it
    if t.blocked:
        leaf = nearest_leaf(territory, label, x, y, z)
        flow *= t.leaf_flow[leaf]
        blood *= t.leaf_blood[leaf]
        if t.leaf_flow[leaf] < 0.7:
            kind = EMBOLISM
    gained = t.beta * flow - t.gamma * blood
    if t.flip > 0:
        gained *= np.tanh((z - t.middle_z) / 40.0)
    gained = max(gained, -0.8 * (dry + blood))
    blood *= (1 - t.follow) + t.follow * flow
    dry = min(dry + added, FULL_DENSITY - min(blood, 0.9))
    return dry, blood, gained, flow, kind


@numba.njit(parallel=PRANGE, cache=True, error_model="numpy")
def composition_at(t, territory, points, labels, depths, jacobians):
    """`composition` at points (N, 3): an array (N, 5)."""
    out = np.empty((points.shape[0], 5))
    for n in numba.prange(points.shape[0]):
        out[n, 0], out[n, 1], out[n, 2], out[n, 3], out[n, 4] = composition(
            t,
            territory,
            points[n, 0],
            points[n, 1],
            points[n, 2],
            np.int64(labels[n]),
            depths[n],
            jacobians[n],
        )
    return out
