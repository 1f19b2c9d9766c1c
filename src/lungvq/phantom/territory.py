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
LARGEST_SUBSEGMENT = 1.5 / 40  # of both lungs; in the mean they are 1/40 (40 subsegments, as in PE scores)
ENDS_PER_CELL = 1.0
FINE = 0.5  # size of the fine cells relative to the spacing of ends
KNOWN = 1.6  # cells nearer to an end than so many spacings have a list of ends; from others one is searched


class Territory(NamedTuple):
    """The ends of a tree, sorted so that the nearest one is found fast.

    Attributes
    ----------
    branch : ndarray of int, shape (L,)
        The branch of the tree that each end is.
    at : ndarray, shape (L, 3)
        Where the ends are, LPS mm.
    low : ndarray, shape (3,)
        Corner of the cells, mm.
    cell : float
        Their size, mm.
    first : ndarray of int, shape (6, nx, ny, nz + 1)
        The ends of lobe n in cell (i, j, k) are those from ``first[n, i, j, k]`` to ``first[n, i, j, k + 1]``.
    fine_low, fine_cell
        The same of smaller cells.
    fine_first : ndarray of int, shape (6, mx, my, mz, 2)
        The ends that may be the nearest one to a point of a fine cell: where they begin and stop in `near`.
        None at all: not known.
    near : ndarray of int
        Ends, by fine cell.
    """

    branch: Ints
    at: Floats
    low: Floats
    cell: float
    first: Ints
    fine_low: Floats
    fine_cell: float
    fine_first: NDArray[np.int32]
    near: NDArray[np.int32]

    @classmethod
    def of(cls, tree: Tree) -> Territory:
        """The territories of a tree's ends within lobes."""
        ends = np.flatnonzero(tree.is_leaf & (tree.lobe > 0))
        at, lobe = tree.ends[ends, 1], tree.lobe[ends]
        low = at.min(axis=0) if len(ends) else np.zeros(3)
        extent = at.max(axis=0) - low if len(ends) else np.zeros(3)
        # the box holds about twice the lungs
        step = float(np.cbrt(max(float(extent.prod()), 1.0) / 2 / max(len(ends), 1)))
        cell = step * float(np.cbrt(ENDS_PER_CELL))
        size = (extent / cell).astype(np.int64) + 1
        index = ((at - low) / cell).astype(np.int64)
        key = np.ravel_multi_index((lobe, *index.T), (6, *size))
        order = np.argsort(key, kind="stable")
        count = np.bincount(key, minlength=6 * int(size.prod())).reshape(6, *size)
        before = np.cumsum(count).reshape(count.shape) - count
        first = np.concatenate([before, (before + count)[..., -1:]], axis=-1)
        fine = FINE * step
        fine_low = low - 2 * fine
        fine_size = ((extent + 4 * fine) / fine).astype(np.int64) + 1
        rough = cls(
            ends[order],
            np.ascontiguousarray(at[order]),
            low,
            cell,
            first,
            fine_low,
            fine,
            np.zeros((6, *fine_size, 2), np.int32),
            np.zeros(0, np.int32),
        )
        return rough._replace(near=_list_near(rough, KNOWN * step))


@numba.njit(cache=True, error_model="numpy")
def _search(t, lobe, x, y, z, limit):
    """The end of a lobe nearest to a point; it may be -1 where none is within `limit`.

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
        reach = max(side + r - 1, 0.0) * t.cell
        if reach > limit or reach * reach >= best:
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


@numba.njit(cache=True, error_model="numpy")
def _list_near(t, known):
    """Fill `fine_first`, and return the ends by fine cell.

    An end is listed unless another is nearer to every point of the cell: unless the furthest that another
    end can be is nearer than the nearest that this one can.
    """
    out = np.empty(1024, np.int32)
    used = 0
    half = 0.5 * t.fine_cell
    corner = np.sqrt(3.0) * half
    size, fine_size = t.first.shape, t.fine_first.shape
    lowest, highest = np.empty(3, np.int64), np.empty(3, np.int64)
    for lobe in range(1, 6):
        for i in range(fine_size[1]):
            for j in range(fine_size[2]):
                for k in range(fine_size[3]):
                    x = t.fine_low[0] + (2 * i + 1) * half
                    y = t.fine_low[1] + (2 * j + 1) * half
                    z = t.fine_low[2] + (2 * k + 1) * half
                    n = _search(t, lobe, x, y, z, known)
                    if n < 0:
                        continue
                    px, py, pz = abs(t.at[n, 0] - x), abs(t.at[n, 1] - y), abs(t.at[n, 2] - z)
                    nearest = np.sqrt(px * px + py * py + pz * pz)
                    if nearest > known:
                        continue
                    surely = (px + half) ** 2 + (py + half) ** 2 + (pz + half) ** 2
                    reach = nearest + 2 * corner
                    for a, p in enumerate((x, y, z)):
                        lowest[a] = max(int(np.floor((p - reach - t.low[a]) / t.cell)), 0)
                        highest[a] = min(
                            int(np.floor((p + reach - t.low[a]) / t.cell)), size[a + 1] - 1 - (a == 2)
                        )
                    t.fine_first[lobe, i, j, k, 0] = used
                    for a in range(lowest[0], highest[0] + 1):
                        for b in range(lowest[1], highest[1] + 1):
                            row = t.first[lobe, a, b]
                            for m in range(row[lowest[2]], row[highest[2] + 1]):
                                qx = max(abs(t.at[m, 0] - x) - half, 0.0)
                                qy = max(abs(t.at[m, 1] - y) - half, 0.0)
                                qz = max(abs(t.at[m, 2] - z) - half, 0.0)
                                if qx * qx + qy * qy + qz * qz <= surely:
                                    if used == len(out):
                                        out = np.concatenate((out, np.empty(len(out), np.int32)))
                                    out[used] = m
                                    used += 1
                    t.fine_first[lobe, i, j, k, 1] = used
    return out[:used].copy()


@numba.njit(cache=True, error_model="numpy")
def nearest_leaf(t, lobe, x, y, z):
    """The end of a lobe nearest to a point: an index into ``t.branch``; -1 where the lobe has none."""
    i = int(np.floor((x - t.fine_low[0]) / t.fine_cell))
    j = int(np.floor((y - t.fine_low[1]) / t.fine_cell))
    k = int(np.floor((z - t.fine_low[2]) / t.fine_cell))
    size = t.fine_first.shape
    if i < 0 or j < 0 or k < 0 or i >= size[1] or j >= size[2] or k >= size[3]:
        return _search(t, lobe, x, y, z, np.inf)
    low, high = t.fine_first[lobe, i, j, k, 0], t.fine_first[lobe, i, j, k, 1]
    if low == high:
        return _search(t, lobe, x, y, z, np.inf)
    best, found = np.inf, np.int64(-1)
    for m in range(low, high):
        n = np.int64(t.near[m])
        d = (t.at[n, 0] - x) ** 2 + (t.at[n, 1] - y) ** 2 + (t.at[n, 2] - z) ** 2
        if d < best:
            best, found = d, n
    return found


@numba.njit(cache=True, error_model="numpy")
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
