"""Large motion without local minima: try every displacement, then agree with the neighbours.

Nodes on a coarse lattice inside the fixed lung try all displacements within a radius; the cost is how many
bits of the self-similarity codes differ around the node. Coupled convex optimisation (Steinbruecker et al.
2009; Heinrich et al. 2014) alternates between choosing each node's best displacement near a smooth field and
smoothing what was chosen, with a tether that tightens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from lungvq import _sampling
from lungvq._parallel import PRANGE
from lungvq.register.descriptors import encode
from lungvq.register.field import Array, Mask, pull, smooth

__all__ = ["LEVELS", "Level", "search"]

_TETHERS = (0.003, 0.012, 0.05, 0.2, 0.8)  # bits per step^2
_TEMPERATURE = 0.5  # bits by which costs differ for no reason
_LEAST_BELIEF = 0.005
_HALF_BELIEF = 4.0  # per step^2
_SMOOTHING = 2.0  # nodes


@dataclass(frozen=True)
class Level:
    """One pass of the search; lengths in voxels of the working grid."""

    lattice: int
    """Distance between nodes."""
    step: int
    """Distance between displacements that are tried, and between the samples around a node."""
    steps: int
    """How many of them to each side."""

    @property
    def radius(self) -> int:
        """Largest displacement along an axis."""
        return self.step * self.steps


LEVELS = (Level(4, 2, 7), Level(3, 1, 3))
"""With 2 mm voxels: 8 mm nodes, 28 mm to each side; 6 and 6."""


@intrinsic
def _count_bits(typingctx, value):  # one machine instruction, which neither numpy nor Python offers to numba
    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


@numba.njit(parallel=PRANGE, cache=True)
def _costs(fixed, moving, pad, nodes, step, steps, out):
    """Counts of differing bits over 27 samples, `step` apart, around each node: to (nodes, labels along k, j, i).

    `moving` has `pad` more voxels than `fixed` on every side, enough for the largest displacement.
    """
    width = 2 * steps + 1
    wide = width + 2
    for n in numba.prange(nodes.shape[0]):
        k, j, i = nodes[n, 0], nodes[n, 1], nodes[n, 2]
        # All that the samples meet lies on one lattice: laid out without gaps, it is compared at one go.
        met = np.empty((wide, wide * wide), np.uint64)
        for a in range(wide):
            for b in range(wide):
                line = moving[k + pad + (a - steps - 1) * step, j + pad + (b - steps - 1) * step]
                for c in range(wide):
                    met[a, b * wide + c] = line[i + pad + (c - steps - 1) * step]
        differing = np.empty(width * wide - 2, np.uint64)
        for a in range(width):
            differing[:] = 0
            for sample in range(27):
                z, y, x = sample // 9, sample // 3 % 3, sample % 3
                code = fixed[k + (z - 1) * step, j + (y - 1) * step, i + (x - 1) * step]
                first = y * wide + x
                plane = met[a + z, first : first + differing.size]
                for c in range(differing.size):
                    differing[c] += _count_bits(code ^ plane[c])  # type: ignore[call-arg]
            for b in range(width):
                for c in range(width):
                    out[n, a, b, c] = differing[b * wide + c]


@numba.njit(parallel=PRANGE, cache=True)
def _choose(costs, unit, target, tether, temperature, steps, chosen, belief):
    """Each node's displacement (in steps) of least cost plus tether to `target`, both (nodes, 3).

    `belief` becomes the precision, per step^2, that the costs alone give: that of the displacements nearly as
    good as the best, less that of the tether. A node in a place without structure has next to none.
    """
    width = 2 * steps + 1
    for n in numba.prange(costs.shape[0]):
        square = np.empty((3, width))
        for axis in range(3):
            for a in range(width):
                square[axis, a] = (a - steps - target[n, axis]) ** 2
        least = np.empty((width, width))  # nothing along a line is better, so that most need no second look
        for a in range(width):
            for b in range(width):
                low = costs[n, a, b, 0]
                for c in range(1, width):
                    low = min(low, costs[n, a, b, c])
                least[a, b] = low * unit + tether * (square[0, a] + square[1, b])
        best, at_a, at_b, at_c = 1e30, 0, 0, 0
        for a in range(width):
            for b in range(width):
                if least[a, b] < best:
                    for c in range(width):
                        away = square[0, a] + square[1, b] + square[2, c]
                        value = costs[n, a, b, c] * unit + tether * away
                        if value < best:
                            best, at_a, at_b, at_c = value, a, b, c
        chosen[n, 0], chosen[n, 1], chosen[n, 2] = at_a - steps, at_b - steps, at_c - steps
        total = spread = 0.0
        for a in range(width):
            for b in range(width):
                if (least[a, b] - best) / temperature < 6:
                    for c in range(width):
                        away = square[0, a] + square[1, b] + square[2, c]
                        worse = (costs[n, a, b, c] * unit + tether * away - best) / temperature
                        if worse < 6:
                            p = np.exp(-worse)
                            total += p
                            spread += p * ((a - at_a) ** 2 + (b - at_b) ** 2 + (c - at_c) ** 2)
        precision = 3 / (spread / total + 0.25)
        belief[n] = max(precision - 2 * tether / temperature, 0.0)


def _lattice(mask: Mask, every: int) -> tuple[Mask, NDArray[np.int64]]:
    """Nodes at multiples of `every` whose cell meets the mask: a mask over the lattice, and their voxels."""
    shape = tuple(-(-n // every) for n in mask.shape)
    padded = np.pad(
        mask,
        [(every // 2, s * every - n + every - every // 2) for s, n in zip(shape, mask.shape, strict=True)],
    )
    cells = padded[tuple(slice(0, s * every) for s in shape)]
    k, j, i = shape
    share = cells.reshape(k, every, j, every, i, every).mean(axis=(1, 3, 5))
    on = share >= 0.4
    if not on.any():
        on = share == share.max()
    return on, np.argwhere(on) * every


def search(
    fixed: NDArray[np.uint64],
    mask: Mask,
    moving: Array,
    moving_mask: Array,
    start: Array,
    pad: int,
    level: Level,
    *,
    outside: float,
) -> Array:
    """Improve a field by trying all displacements within the level's radius.

    Parameters
    ----------
    fixed : ndarray of uint64, shape (K, J, I)
        Codes of the fixed scan (`descriptors.encode`).
    mask : ndarray of bool, shape (K, J, I)
    moving : ndarray, shape (K', J', I')
        HU
    moving_mask : ndarray of float32, shape (K', J', I')
        Share of each voxel that is lung.
    start : ndarray, shape (3, K + 2 pad, J + 2 pad, I + 2 pad)
        The field so far, on a margin of `pad` more voxels; index of `fixed`'s voxel to index of `moving`.
    pad : int
        At least the level's radius.
    level : Level
    outside : float
        HU of `moving` outside the lung.

    Returns
    -------
    ndarray, shape (3, K, J, I)
    """
    shifted = start - np.float32(pad)  # start counts from the padded corner
    shape = tuple(n - 2 * pad for n in start.shape[1:])
    warped = pull(moving[None], shifted, False, outside)[0]
    warped_mask = pull(moving_mask[None], shifted, False, 0.0)[0] > 0.5
    on, nodes = _lattice(mask, level.lattice)
    nodes = np.clip(nodes, level.step, np.array(mask.shape) - 1 - level.step)
    costs = np.empty((len(nodes), *(2 * level.steps + 1,) * 3), np.uint16)
    _costs(fixed, encode(warped, warped_mask), pad, nodes, level.step, level.steps, costs)
    chosen = np.zeros((len(nodes), 3), np.float32)
    target = np.zeros((len(nodes), 3), np.float32)
    belief = np.zeros(len(nodes), np.float32)
    lattice_field = np.zeros((3, *on.shape), np.float32)
    weight = np.zeros(on.shape, np.float32)
    for tether in _TETHERS:
        _choose(
            costs,
            np.float32(1 / 27),
            target,
            np.float32(tether),
            np.float32(_TEMPERATURE),
            level.steps,
            chosen,
            belief,
        )
        lattice_field[:, on] = chosen.T
        weight[on] = belief / (belief + np.float32(_HALF_BELIEF)) + np.float32(_LEAST_BELIEF)
        agreed = smooth(lattice_field, weight, _SMOOTHING)
        target = np.ascontiguousarray(agreed[:, on].T)
    step = _sampling.resample_along(
        agreed * np.float32(level.step), shape, (1 / level.lattice,) * 3, (0.0,) * 3
    )
    return step + pull(start, step + pad, True, 0.0)
