"""Trees of vessels and airways that fill a lobe, after the volume-filling rule of Tawhai (2000).

Points that fill the lobe are split, branch by branch, by a plane through the branch; each half draws the
next branch towards its centre of mass; a branch that is left with one point ends there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

REACH = 0.4  # share of the way to the centre of mass that one branch goes

Floats = NDArray[np.float64]


def grow(points: Floats, root: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """A tree from `root` to every one of `points`.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        Where the branches end.
    root : ndarray, shape (3,)

    Returns
    -------
    branches : ndarray, shape (B, 2, 3)
        Start and end of each.
    ends : ndarray of int, shape (B,)
        How many ends lie downstream of it.
    """
    branches, ends = [], []
    waiting = [(np.asarray(root, float), points)]
    while waiting:
        start, mine = waiting.pop()
        if len(mine) == 1:
            stop = mine[0]
        else:
            centre = mine.mean(axis=0)
            stop = start + REACH * (centre - start)
        branches.append((start, stop))
        ends.append(len(mine))
        if len(mine) == 1:
            continue
        forward = stop - start
        forward /= max(float(np.linalg.norm(forward)), 1e-9)
        # the plane holds the branch; across it the points spread most
        spread = mine - centre
        spread = spread - np.outer(spread @ forward, forward)
        across = np.linalg.eigh(spread.T @ spread)[1][:, -1] if len(mine) > 2 else spread[1] - spread[0]
        where = (mine - centre) @ across
        order = np.argsort(where, kind="stable")
        cut = int(np.clip((where < 0).sum(), 1, len(mine) - 1))
        waiting += [(stop, mine[order[:cut]]), (stop, mine[order[cut:]])]
    return np.array(branches), np.array(ends)


def fill(low: Floats, high: Floats, step: float, rng: np.random.Generator) -> Floats:
    """Points about `step` mm apart in a box: a grid, shaken."""
    axes = [np.arange(a, b, step) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid + rng.uniform(-0.4, 0.4, grid.shape) * step
