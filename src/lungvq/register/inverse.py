"""The way back: from the moving scan (inspiration) to the fixed one."""

from __future__ import annotations

from itertools import product

import numpy as np

from lungvq.register.engine import Registration
from lungvq.register.field import Array, affine_field, fit_affine, pull
from lungvq.volume import Volume, box_around, grid_around

__all__ = ["inverse_field"]

_ROUNDS = 60
_CLOSE_MM = 0.01


def inverse_field(
    registration: Registration, moving_lungs: Volume, *, spacing_mm: float = 2.0, margin_mm: float = 20.0
) -> tuple[Volume, float]:
    """The field that leads from each point of the moving lungs back to the fixed scan.

    Parameters
    ----------
    registration : Registration
    moving_lungs : Volume
        Nonzero is lung; canonical order.
    spacing_mm, margin_mm : float
        Of the grid around them.

    Returns
    -------
    displacement : Volume, (K, J, I, 3) float32
        ``u(y)``, mm, LPS, with ``y + u(y)`` mapped onto y by the registration; finite everywhere.
    left_over_mm : float
        99th percentile over the moving lungs of how far ``phi(y + u(y))`` is from y.

    Notes
    -----
    Fixed-point iteration on what is left once the straight part of the motion is undone, with half steps where
    the field is steep.
    """
    forward = registration.displacement
    h = np.float32(forward.spacing[0])
    motion: Array = np.ascontiguousarray(np.moveaxis(forward.array, -1, 0)[::-1], np.float32) / h
    box = box_around(moving_lungs.array > 0)
    corners = moving_lungs.grid.world(list(product(*((s.start, s.stop - 1) for s in box))))
    grid = grid_around(corners, spacing_mm, margin_mm)

    own = affine_field(np.zeros(3), np.eye(3), grid.shape)
    step = np.float32(grid.spacing[0]) / h
    first = forward.grid.index(grid.world((0, 0, 0))).astype(np.float32)[:, None, None, None]
    target = own * step + first  # indices of the forward field
    _, slope = fit_affine(motion, registration.lungs.array > 0)
    undo = np.linalg.inv(np.eye(3) + slope).astype(np.float32)
    inside = moving_lungs.resample_labels(grid).array > 0

    at = target.copy()
    left = np.full(grid.shape, np.inf, np.float32)
    pace = np.ones(grid.shape, np.float32)
    for _ in range(_ROUNDS):
        miss = target - at - pull(motion, at - own, True, 0.0)
        now = np.sqrt((miss**2).sum(axis=0))
        pace = np.where(now > left, np.float32(0.5) * pace, pace)
        left = now
        if inside.any() and float(now[inside].max()) * h < _CLOSE_MM:
            break
        at = at + pace * np.einsum("ab,bkji->akji", undo, miss)
    back = ((at - target) * h)[::-1]
    left_over = float(np.percentile(left[inside], 99) * h) if inside.any() else 0.0
    return Volume(np.ascontiguousarray(np.moveaxis(back, 0, -1)), grid.affine), left_over
