"""What the lung is made of at each point of expiration: tissue, blood, flow, and blood gained on breathing in.

Flow, blood and motion are set apart: `follow` says how much of the blood volume goes where the flow goes,
`gain` how much blood a breath adds, and neither knows the motion.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Tissue(NamedTuple):
    """Densities in g per mL of expiratory lung; lengths in mm, LPS."""

    dry: float  # tissue without blood
    blood: float
    follow: float  # w: share of the blood volume that follows the flow
    gain: float  # beta: blood gained on inspiration where flow is 1; negative is lost
    flip: float  # 1: the gain changes its sign half way up the lung, 0: it does not
    middle_y: float
    middle_z: float
    gravity_density: float  # per mm towards the back
    gravity_flow: float
    flow_scale: float  # brings the mean over the lungs to 1
    flow_k: Floats
    flow_phase: Floats
    flow_amp: float
    dense_k: Floats
    dense_phase: Floats
    dense_amp: float
    at: Floats  # (D, 3) defects: centre of a ball, or tip of a cone
    axis: Floats  # (D, 3) of a cone; 0 for a ball
    size: Floats  # radius of a ball; tangent of half the angle of a cone
    flow_factor: Floats
    blood_factor: Floats
    dry_factor: Floats


@numba.njit(cache=True)
def _waves(k, phase, x, y, z):
    total = 0.0
    for n in range(phase.size):
        total += np.sin(k[n, 0] * x + k[n, 1] * y + k[n, 2] * z + phase[n])
    return total * np.sqrt(2.0 / phase.size)


@numba.njit(cache=True)
def _inside(t, n, x, y, z):
    """0 outside a defect, 1 inside, with an edge of a few mm."""
    dx, dy, dz = x - t.at[n, 0], y - t.at[n, 1], z - t.at[n, 2]
    ax, ay, az = t.axis[n, 0], t.axis[n, 1], t.axis[n, 2]
    if ax * ax + ay * ay + az * az == 0:
        d = np.sqrt(dx * dx + dy * dy + dz * dz) - t.size[n]
    else:
        along = dx * ax + dy * ay + dz * az
        across = np.sqrt(max(0.0, dx * dx + dy * dy + dz * dz - along * along))
        d = max(across - t.size[n] * along, 20.0 - along)
    if d > 20:
        return 0.0
    return 1 / (1 + np.exp(d / 1.5))


@numba.njit(cache=True)
def composition(t, x, y, z):
    """Dry tissue, blood, blood gained on inspiration (g/mL of expiratory lung) and relative flow."""
    flow = t.flow_scale * np.exp(
        t.flow_amp * _waves(t.flow_k, t.flow_phase, x, y, z) + t.gravity_flow * (y - t.middle_y)
    )
    heavy = np.exp(
        t.dense_amp * _waves(t.dense_k, t.dense_phase, x, y, z) + t.gravity_density * (y - t.middle_y)
    )
    dry, blood = t.dry * heavy, t.blood * heavy
    for n in range(t.size.size):
        w = _inside(t, n, x, y, z)
        flow *= 1 + w * (t.flow_factor[n] - 1)
        dry *= 1 + w * (t.dry_factor[n] - 1)
        blood *= 1 + w * (t.blood_factor[n] - 1)
    blood *= (1 - t.follow) + t.follow * flow
    gained = t.gain * flow
    if t.flip > 0:
        gained *= np.tanh((z - t.middle_z) / 40.0)
    return dry, blood, max(gained, -0.6 * blood), flow


@numba.njit(parallel=True, cache=True)
def composition_at(t, points):
    """`composition` at points (N, 3): an array (N, 4)."""
    out = np.empty((points.shape[0], 4))
    for n in numba.prange(points.shape[0]):
        out[n, 0], out[n, 1], out[n, 2], out[n, 3] = composition(t, points[n, 0], points[n, 1], points[n, 2])
    return out
