"""What each end of a tree supplies: the points of its lobe that are nearer to it than to any other end.

The territory of a branch is that of all ends below it, so the territories of its children tile it exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from lungvq.phantom.tree import Tree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LOBE_NAMES = ("LUL", "LLL", "RUL", "RML", "RLL")
LARGEST_SUBSEGMENT = 1.5 / 40  # of both lungs; in the mean they are 1/40 (Meyer score: 40 subsegments)
ENDS_PER_CELL = 2.0


class Territory(NamedTuple):
    """The ends of a tree, sorted into cells so that the nearest one is found fast.

    Attributes
    ----------
    branch : ndarray of int, shape (L,)
        The branch of the tree that each end is.
    at : ndarray, shape (L, 3)
        Where the ends are, LPS mm.
    first : ndarray of int, shape (6, nx, ny, nz + 1)
        The ends of lobe n in cell (i, j, k) are those from ``first[n, i, j, k]`` to ``first[n, i, j, k + 1]``.
    low : ndarray, shape (3,)
        Corner of the cells, mm.
    cell : float
        Their size, mm.
    """

    branch: Ints
    at: Floats
    first: Ints
    low: Floats
    cell: float

    @classmethod
    def of(cls, tree: Tree) -> Territory:
        """The territories of a tree's ends within lobes."""
        ends = np.flatnonzero(tree.is_leaf & (tree.lobe > 0))
        at, lobe = tree.ends[ends, 1], tree.lobe[ends]
        if len(ends) == 0:
            return cls(ends, at, np.zeros((6, 1, 1, 2), np.int64), np.zeros(3), 1.0)
        low = at.min(axis=0)
        extent = at.max(axis=0) - low
        # the box holds about twice the lungs
        cell = float(np.cbrt(max(float(extent.prod()), 1.0) / 2 / len(ends) * ENDS_PER_CELL))
        size = (extent / cell).astype(np.int64) + 1
        index = ((at - low) / cell).astype(np.int64)
        key = np.ravel_multi_index((lobe, *index.T), (6, *size))
        order = np.argsort(key, kind="stable")
        count = np.bincount(key, minlength=6 * int(size.prod())).reshape(6, *size)
        before = np.cumsum(count).reshape(count.shape) - count
        first = np.concatenate([before, (before + count)[..., -1:]], axis=-1)
        return cls(ends[order], np.ascontiguousarray(at[order]), first, low, cell)


@numba.njit(cache=True)
def nearest_leaf(t, lobe, x, y, z):
    """The end of a lobe nearest to a point: an index into ``t.branch``; -1 where the lobe has none.

    Cells are searched in shells about the point's own until no cell further out can hold a nearer end.
    """
    nx, ny, nz = t.first.shape[1], t.first.shape[2], t.first.shape[3] - 1
    u, v, w = (x - t.low[0]) / t.cell, (y - t.low[1]) / t.cell, (z - t.low[2]) / t.cell
    i = min(max(int(np.floor(u)), 0), nx - 1)
    j = min(max(int(np.floor(v)), 0), ny - 1)
    k = min(max(int(np.floor(w)), 0), nz - 1)
    # from the point to the nearest side of its cell beyond which there are more cells
    far = max(nx, ny, nz)
    side = float(far)
    if i > 0:
        side = min(side, u - i)
    if i < nx - 1:
        side = min(side, i + 1 - u)
    if j > 0:
        side = min(side, v - j)
    if j < ny - 1:
        side = min(side, j + 1 - v)
    if k > 0:
        side = min(side, w - k)
    if k < nz - 1:
        side = min(side, k + 1 - w)
    best, found = np.inf, -1
    for r in range(far):
        if found >= 0:
            reach = max(side + r - 1, 0.0) * t.cell
            if reach * reach >= best:
                break
        for a in range(max(i - r, 0), min(i + r, nx - 1) + 1):
            for b in range(max(j - r, 0), min(j + r, ny - 1) + 1):
                row = t.first[lobe, a, b]
                low, high = max(k - r, 0), min(k + r, nz - 1)
                if abs(a - i) == r or abs(b - j) == r:
                    for n in range(row[low], row[high + 1]):
                        d = (t.at[n, 0] - x) ** 2 + (t.at[n, 1] - y) ** 2 + (t.at[n, 2] - z) ** 2
                        if d < best:
                            best, found = d, n
                else:
                    for c in (k - r, k + r):
                        if c < 0 or c >= nz:
                            continue
                        for n in range(row[c], row[c + 1]):
                            d = (t.at[n, 0] - x) ** 2 + (t.at[n, 1] - y) ** 2 + (t.at[n, 2] - z) ** 2
                            if d < best:
                                best, found = d, n
    return found


@numba.njit(cache=True)
def nearest_leaves(t, lobe, points):
    """`nearest_leaf` of many points: (N,) from lobes (N,) and points (N, 3)."""
    out = np.empty(len(points), np.int64)
    for n in range(len(points)):
        out[n] = nearest_leaf(t, lobe[n], points[n, 0], points[n, 1], points[n, 2])
    return out


def choose_emboli(
    tree: Tree,
    rng: np.random.Generator,
    level: Literal["lobar", "segmental", "subsegmental"],
    count: int,
    avoid: Iterable[int] = (),
) -> Ints:
    """Arteries to block, none downstream of another.

    Parameters
    ----------
    tree : Tree
        Arteries.
    rng : Generator
    level : str
        ``"lobar"`` and ``"segmental"``: the arteries so named (5 and 18 in a whole chest).
        ``"subsegmental"``: the largest ones below a segment that supply no more than 1.5/40 of the lungs.
    count : int
    avoid : iterable of int, optional
        Branches blocked already; neither they nor what is above or below them is chosen.

    Returns
    -------
    branches : ndarray of int
        `count` of them, or as many as there are.
    """
    if level == "lobar":
        candidates = [tree.names[n] for n in LOBE_NAMES if n in tree.names]
    elif level == "segmental":
        candidates = list(_segments(tree))
    else:
        candidates = list(_subsegments(tree))
    taken = np.zeros(len(tree), bool)
    for branch in avoid:
        taken |= tree.subtree(branch)
        while branch >= 0:
            taken[branch] = True
            branch = int(tree.parent[branch])
    free = np.array([b for b in candidates if not taken[b]], np.int64)
    return rng.permutation(free)[:count]


def _segments(tree: Tree) -> list[int]:
    return [b for name, b in tree.names.items() if name[:2] in ("RA", "LA")]


def _subsegments(tree: Tree) -> NDArray[np.int64]:
    """The first branch on each way below a segment that is no larger than a subsegment."""
    ends = tree.leaves[tree.parent < 0].sum()
    below = np.zeros(len(tree), bool)
    for b in _segments(tree):
        below |= tree.subtree(b)
        below[b] = False
    up = tree.parent
    small = below & (tree.leaves <= LARGEST_SUBSEGMENT * ends)
    first = small & ~(small[up] & (up >= 0))
    # branches off the side of an artery are smaller than what is called a subsegment
    return np.flatnonzero(first & (tree.leaves >= LARGEST_SUBSEGMENT * ends / 4))
