"""Airways, arteries and veins that fill the lobes of one subject, at expiration.

The airways begin as anatomy has them (main, lobar and segmental bronchi) and go on by the volume-filling rule
of Tawhai (2000, 2004): the points that fill a lobe are split, branch by branch, by a plane through the branch;
each half draws its branch 0.4 of the way to its centre of mass, at no more than 60 degrees; a branch that is
left with one point ends there. Arteries run beside the airways as far as these matter, then fill what is
between; veins grow by the same rule to points midway between the arteries' ends, and keep away from both.

Nothing crosses a fissure: a branch that would leave its lobe goes round by a point from which both of its ends
can be seen, and where there is no such point it is not drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lungvq.anatomy import LOBES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Inside = Callable[[Floats], NDArray[np.integer]]

REACH = 0.4  # share of the way to the centre of mass that one branch goes (Tawhai)
MAX_ANGLE = np.deg2rad(60.0)
MIN_LENGTH_MM = 2.0
ROOM_MM = 2.0  # from pleura and fissure, where there is so much
HILUM_MM = 5.0  # room that a bronchus has outside the lungs
LEAST_POINTS = 30  # with room around them, for a lobe to have branches
SAMPLE_MM = 0.5  # how finely a branch is tried against its lobe
SURE = 0.7  # share of the distance to pleura and fissure that is trusted: they are of first order
TRACHEA_MM = 180.0  # beyond the top of any chest CT: the larynx follows

# Diameters by generation measured on one cast (Schmidt 2004), mm; after these the smallest of it.
AIRWAY_DIAMETER = np.array([15.6, 12.2, 7.9, 5.5, 3.7, 2.5, 1.9, 1.6, 1.4, 1.25, 1.15, 1.05, 0.95])
OUTER = 1.5  # outer radius of an airway over that of its lumen: walls are 0.15-0.2 of the outer diameter
AIRWAY_SPREAD = 0.10  # of one branch about the mean for what it feeds
# Huang (1996): diameters grow 1.56 per Strahler order while numbers fall 3.36, so r ~ ends^(ln 1.56 / ln 3.36)
VESSEL_POWER = float(np.log(1.56) / np.log(3.36))
VESSEL_END_MM = 0.32  # radius of an end that feeds 8 mm cubed
VESSEL_SPREAD = 0.06
THIN_MM = 1.78  # radius of 10 mm2: below it vessels are thinner where they feed less

# Where the segments of a lobe lie in its box: from the midline outwards, front to back, base to apex.
SEGMENTS: dict[str, dict[str, tuple[float, float, float]]] = {
    "RUL": {"RB1": (0.4, 0.5, 0.9), "RB2": (0.6, 0.85, 0.45), "RB3": (0.5, 0.15, 0.35)},
    "RML": {"RB4": (0.8, 0.6, 0.5), "RB5": (0.3, 0.3, 0.4)},
    "RLL": {
        "RB6": (0.5, 0.75, 0.85),
        "RB7": (0.1, 0.5, 0.3),
        "RB8": (0.55, 0.15, 0.2),
        "RB9": (0.85, 0.5, 0.2),
        "RB10": (0.45, 0.85, 0.2),
    },
    "LUL": {
        "LB1+2": (0.5, 0.7, 0.85),
        "LB3": (0.5, 0.2, 0.65),
        "LB4": (0.65, 0.35, 0.35),
        "LB5": (0.45, 0.2, 0.1),
    },
    "LLL": {
        "LB6": (0.5, 0.75, 0.85),
        "LB8": (0.5, 0.15, 0.25),
        "LB9": (0.85, 0.55, 0.2),
        "LB10": (0.4, 0.85, 0.2),
    },
}
Split = str | tuple["Split", "Split"]
_SPLITS: dict[str, Split] = {
    "RUL": ("RB3", ("RB1", "RB2")),
    "RML": ("RB4", "RB5"),
    "RLL": ("RB6", ("RB7", ("RB8", ("RB9", "RB10")))),
    "LUL": (("LB1+2", "LB3"), ("LB4", "LB5")),
    "LLL": ("LB6", ("LB8", ("LB9", "LB10"))),
}


@dataclass(frozen=True)
class Tree:
    """Branches at expiration, parents before children; a child begins where its parent ends.

    Attributes
    ----------
    ends : ndarray, shape (B, 2, 3)
        Start and end of each branch, LPS mm; the start is on the side of the trachea or the heart.
    radius : ndarray, shape (B,)
        Of the lumen of airways, of the outside of vessels, mm.
    lobe : ndarray of int, shape (B,)
        The lobe the branch stays in, 0 outside the lobes.
    parent : ndarray of int, shape (B,)
        -1 at a root.
    generation : ndarray of int, shape (B,)
        Bifurcations above the branch: 0 for trachea, pulmonary trunk, and each of the four great veins.
    leaves : ndarray of int, shape (B,)
        Ends downstream; 1 for an end itself.
    names : dict
        Branch index by name: ``"trachea"``, ``"RMB"``, ``"RUL"``, ``"RB1"``...
    """

    ends: Floats
    radius: Floats
    lobe: Ints
    parent: Ints
    generation: Ints
    leaves: Ints
    names: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.radius)

    @property
    def is_leaf(self) -> Bools:
        """Which branches have none below, shape (B,)."""
        leaf = np.ones(len(self), bool)
        leaf[self.parent[self.parent >= 0]] = False
        return leaf

    @property
    def length(self) -> Floats:
        """Of each branch, mm, shape (B,)."""
        return np.linalg.norm(self.ends[:, 1] - self.ends[:, 0], axis=1)

    def subtree(self, branch: int) -> Bools:
        """The branch and all below it, shape (B,)."""
        below = np.zeros(len(self), bool)
        below[branch] = True
        frontier = below.copy()
        while frontier.any():
            frontier = (self.parent >= 0) & frontier[self.parent]
            below |= frontier
        return below


def thinned(tree: Tree, kept: Floats) -> Tree:
    """The same tree with small vessels as thin as if each end counted for only a share of one.

    Parameters
    ----------
    tree : Tree
        Of vessels.
    kept : ndarray, shape (B,)
        The share at each end; what it holds for other branches does not matter.

    Returns
    -------
    tree : Tree
        Where r was c n^p of its n ends, it is c (sum of their shares)^p; vessels of 10 mm2 and more stay.
    """
    ends = np.where(tree.is_leaf, kept, 0.0)
    for branch in range(len(tree) - 1, -1, -1):  # parents come before children
        if tree.parent[branch] >= 0:
            ends[tree.parent[branch]] += ends[branch]
    thinner = (ends / tree.leaves) ** VESSEL_POWER
    return replace(tree, radius=np.where(tree.radius < THIN_MM, tree.radius * thinner, tree.radius))


class Trees(NamedTuple):
    """The three trees of one subject."""

    airways: Tree
    arteries: Tree
    veins: Tree


def grow_trees(
    points: Floats,
    labels: NDArray[np.integer],
    pleura: Floats,
    fissure: Floats,
    hila: Floats,
    carina: Floats,
    rng: np.random.Generator,
    *,
    inside: Inside,
    vessel_step: float = 8.0,
    airway_step: float = 12.0,
) -> Trees:
    """Airways, arteries and veins of both lungs.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        A cloud that fills both lungs, LPS mm, about 4 mm apart (no more than `vessel_step` / 2).
    labels : ndarray of int, shape (N,)
        The lobe of each. A lobe without points gets no branches.
    pleura : ndarray, shape (N,)
        Distance to the pleura, mm, negative inside.
    fissure : ndarray, shape (N,)
        Distance to the nearest fissure, mm.
    hila : ndarray, shape (2, 3)
        Right and left: where the intermediate and the left main bronchus divide. Where there is lung, they
        do so nearer to the middle.
    carina : ndarray, shape (3,)
    rng : Generator
    inside : callable
        Lobe labels of any points (M, 3), 0 outside the lungs.
    vessel_step, airway_step : float, optional
        About how far apart the ends of a tree lie, mm.

    Returns
    -------
    trees : Trees
    """
    space = _Space(points, np.asarray(labels, np.int64), pleura, fissure, inside, rng)
    hila = np.array([space.retreat(h, np.array([carina[0], h[1], h[2]]), HILUM_MM) for h in hila])
    air_seeds = space.room[_spread(space.room, 0.89 * airway_step, rng.permutation(len(space.room)))]
    art_seeds = _spread(space.room, 0.89 * vessel_step, rng.permutation(len(space.room)))
    gap = cKDTree(space.room[art_seeds]).query(space.room)[0]
    order = np.argsort(-gap, kind="stable")
    vein_seeds = _spread(space.room, 0.89 * vessel_step, order)

    airways = _airways(space, air_seeds, hila, carina, rng)
    vessel_end = VESSEL_END_MM * (vessel_step / 8.0) ** (3 * VESSEL_POWER)
    arteries = _arteries(space, airways, space.room[art_seeds], carina, vessel_end, rng)
    veins = _veins(space, (airways, arteries), space.room[vein_seeds], hila, vessel_end, rng)
    return Trees(airways, arteries, veins)


class _Space:
    """The lobes as a cloud of points and a way to ask."""

    def __init__(
        self,
        points: Floats,
        labels: Ints,
        pleura: Floats,
        fissure: Floats,
        inside: Inside,
        rng: np.random.Generator,
    ) -> None:
        depth = np.minimum(-pleura, fissure)
        roomy = (labels > 0) & (depth > ROOM_MM)
        # too little of a lobe for a tree: none is grown
        roomy &= np.bincount(labels[roomy], minlength=6)[labels] >= LEAST_POINTS
        # the cloud may be a grid: shaken, as far as there is room, its rows do not show
        free = np.minimum(SURE * (depth[roomy] - ROOM_MM), 2.0)
        shake = rng.uniform(-1, 1, (len(free), 3)) / np.sqrt(3) * free[:, None]
        self.inside = inside
        self.room: Floats = points[roomy] + shake
        self.room_lobe: Ints = labels[roomy]
        self.depth: Floats = depth[roomy] - np.linalg.norm(shake, axis=1)
        self.lobes = {int(n): self.room[self.room_lobe == n] for n in np.unique(self.room_lobe)}
        self.depths = {n: self.depth[self.room_lobe == n] for n in self.lobes}
        self._near = {n: cKDTree(p) for n, p in self.lobes.items()}

    def lobe_of(self, points: Floats) -> Ints:
        return np.asarray(self.inside(points), np.int64)

    def retreat(self, point: Floats, toward: Floats, room: float) -> Floats:
        """The first point on the way `toward` another that has `room` mm around it outside the lungs."""
        way = point + np.linspace(0, 1, 41)[:, None] * (toward - point)
        around = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)]) * room
        probes = (way[:, None] + around).reshape(-1, 3)
        free = (self.lobe_of(probes).reshape(len(way), -1) == 0).all(axis=1)
        return np.asarray(way[free.argmax()])

    def near(self, lobe: int, points: Floats, count: int = 1) -> Floats:
        """The points with room around them nearest to each, shape (M, count, 3)."""
        which = self._near[lobe].query(points, k=np.arange(1, count + 1))[1]
        return self.lobes[lobe][np.minimum(which, len(self.lobes[lobe]) - 1)]

    def clear(self, start: Floats, stop: Floats, lobe: Ints) -> Bools:
        """Whether each segment stays in its lobe from end to end."""
        if len(start) == 0:
            return np.zeros(0, bool)
        sure = self._deep(start, stop, lobe)
        ask = np.flatnonzero(~sure)
        if len(ask):
            points, first, owner = _along(start[ask], stop[ask], SAMPLE_MM)
            sure[ask] = np.logical_and.reduceat(self.lobe_of(points) == lobe[ask][owner], first)
        return sure

    def clear_of_lungs(self, start: Floats, stop: Floats) -> Bools:
        """Whether each segment stays outside the lungs."""
        if len(start) == 0:
            return np.zeros(0, bool)
        points, first, _ = _along(start, stop, SAMPLE_MM)
        return np.logical_and.reduceat(self.lobe_of(points) == 0, first)

    def _deep(self, start: Floats, stop: Floats, lobe: Ints) -> Bools:
        """Whether both ends lie in a ball that is surely within the lobe: saves most of the asking."""
        centre, sure = self._ball((start + stop) / 2, lobe)
        far = np.maximum(np.linalg.norm(start - centre, axis=1), np.linalg.norm(stop - centre, axis=1))
        return np.asarray(far < sure)

    def _ball(self, points: Floats, lobe: Ints) -> tuple[Floats, Floats]:
        """The nearest point of the cloud, and how far around it is surely the lobe."""
        centre, sure = np.empty(points.shape), np.empty(len(points))
        for n in np.unique(lobe):
            mine = lobe == n
            which = self._near[int(n)].query(points[mine])[1]
            centre[mine], sure[mine] = self.lobes[int(n)][which], SURE * self.depths[int(n)][which]
        return centre, sure

    def with_room(self, points: Floats, lobe: Ints) -> Floats:
        """Each point, or the nearest one that has room around it."""
        around = np.concatenate([np.eye(3), -np.eye(3)]) * ROOM_MM
        centre, sure = self._ball(points, lobe)
        fits = np.linalg.norm(points - centre, axis=1) + ROOM_MM < sure
        ask = np.flatnonzero(~fits)
        probes = (points[ask, None] + around).reshape(-1, 3)
        fits[ask] = (self.lobe_of(probes).reshape(-1, 6) == lobe[ask, None]).all(axis=1)
        moved = points.copy()
        for n in np.unique(lobe[~fits]):
            mine = ~fits & (lobe == n)
            moved[mine] = self.near(int(n), points[mine])[:, 0]
        return moved

    def detour(self, start: Floats, stop: Floats, lobe: Ints, count: int = 16) -> Floats:
        """A point by which each segment stays in its lobe; NaN where none was found."""
        via = np.full(start.shape, np.nan)
        for n in np.unique(lobe):
            mine = np.flatnonzero(lobe == n)
            middle = (start[mine] + stop[mine]) / 2
            half = np.linalg.norm(stop[mine] - start[mine], axis=1) / 2
            options = self.near(int(n), middle, 3 * count)[:, ::3]
            here, there = np.repeat(start[mine], count, axis=0), np.repeat(stop[mine], count, axis=0)
            flat, label = options.reshape(-1, 3), np.full(len(mine) * count, n)
            ok = self.clear(here, flat, label)
            ok[ok] = self.clear(flat[ok], there[ok], label[ok])
            way = np.linalg.norm(flat - here, axis=1) + np.linalg.norm(flat - there, axis=1)
            way = np.where(ok, way, np.inf).reshape(len(mine), count)
            best = way.argmin(axis=1)
            found = way[np.arange(len(mine)), best] < 6 * half + 4.0
            via[mine[found]] = options[np.flatnonzero(found), best[found]]
        return via


def _along(start: Floats, stop: Floats, step: float) -> tuple[Floats, Ints, Ints]:
    """Points along segments, where each segment's begin, and to which each belongs."""
    count = np.ceil(np.linalg.norm(stop - start, axis=1) / step).astype(np.int64) + 1
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    owner = np.repeat(np.arange(len(count)), count)
    share = (np.arange(len(owner)) - first[owner]) / np.maximum(count - 1, 1)[owner]
    return start[owner] + share[:, None] * (stop - start)[owner], first, owner


@numba.njit(cache=True)
def _thin(points, order, apart, low, size, kept):
    """Keep points in `order` unless one kept before is nearer than `apart`."""
    head = np.full(size[0] * size[1] * size[2], -1)
    following = np.full(len(points), -1)
    for i in order:
        ok = True
        c = np.empty(3, np.int64)
        for a in range(3):
            c[a] = int((points[i, a] - low[a]) / apart)
        for x in range(max(c[0] - 1, 0), min(c[0] + 2, size[0])):
            for y in range(max(c[1] - 1, 0), min(c[1] + 2, size[1])):
                for z in range(max(c[2] - 1, 0), min(c[2] + 2, size[2])):
                    j = head[(x * size[1] + y) * size[2] + z]
                    while j >= 0 and ok:
                        d = points[i] - points[j]
                        ok = d[0] * d[0] + d[1] * d[1] + d[2] * d[2] >= apart * apart
                        j = following[j]
        if ok:
            cell = (c[0] * size[1] + c[1]) * size[2] + c[2]
            following[i], head[cell] = head[cell], i
            kept[i] = True


def _spread(points: Floats, apart: float, order: Ints) -> Bools:
    """A choice of points no two of which are nearer than `apart`, taken in `order`."""
    kept = np.zeros(len(points), bool)
    if len(points):
        low = points.min(axis=0)
        size = ((points.max(axis=0) - low) / apart).astype(np.int64) + 1
        _thin(points, order, apart, low, size, kept)
    return kept


class _Sprout:
    """Branches as they are added."""

    def __init__(self) -> None:
        self._ends: list[Floats] = []
        self._lobe: list[Ints] = []
        self._parent: list[Ints] = []
        self._last: list[Bools] = []
        self.names: dict[str, int] = {}
        self.count = 0

    def add(self, start: Floats, stop: Floats, lobe: Ints, parent: Ints, last: Bools | None = None) -> Ints:
        """Several branches; their indices. Those that are `last` end where they are meant to."""
        self._ends.append(np.stack([start, stop], axis=1))
        self._lobe.append(lobe)
        self._parent.append(parent)
        self._last.append(np.zeros(len(lobe), bool) if last is None else last)
        self.count += len(lobe)
        return np.arange(self.count - len(lobe), self.count)

    def add_one(self, start: Floats, stop: Floats, lobe: int, parent: int, name: str = "") -> int:
        index = int(self.add(start[None], stop[None], np.array([lobe]), np.array([parent]))[0])
        if name:
            self.names[name] = index
        return index

    def done(self, radius: Callable[[Ints, Ints], Floats], stumps: bool = False) -> Tree:
        """The tree, with the radii that `radius` gives for leaves and parents.

        With `stumps`, what is outside the lobes stays even where nothing came of it.
        """
        if not self.count:
            none = np.zeros(0, np.int64)
            return Tree(np.zeros((0, 2, 3)), np.zeros(0), none, none, none, none)
        parent, lobe = np.concatenate(self._parent), np.concatenate(self._lobe)
        # a branch that nothing came of is not part of the tree
        keep = _upstream(np.concatenate(self._last).astype(np.int64), parent) > 0
        if stumps:
            keep |= lobe == 0
        index = np.cumsum(keep) - 1
        above = parent[keep]
        parent = np.where(above >= 0, index[above], -1)
        generation, leaves = _count(parent)
        return Tree(
            np.concatenate(self._ends)[keep],
            _taper(radius(leaves, parent), parent),
            lobe[keep],
            parent,
            generation,
            leaves,
            {name: int(index[b]) for name, b in self.names.items() if keep[b]},
        )


@numba.njit(cache=True)
def _count(parent):
    """Generation of each branch, and ends below it."""
    children = np.zeros(len(parent), np.int64)
    for p in parent:
        if p >= 0:
            children[p] += 1
    generation, leaves = np.zeros(len(parent), np.int64), np.zeros(len(parent), np.int64)
    for b in range(len(parent)):
        if parent[b] >= 0:
            generation[b] = generation[parent[b]] + (1 if children[parent[b]] > 1 else 0)
    for b in range(len(parent) - 1, -1, -1):
        leaves[b] += children[b] == 0
        if parent[b] >= 0:
            leaves[parent[b]] += leaves[b]
    return generation, leaves


@numba.njit(cache=True)
def _taper(radius, parent):
    """No branch is wider than the one it comes from."""
    out = radius.copy()
    for b in range(len(parent)):
        if parent[b] >= 0:
            out[b] = min(out[b], out[parent[b]])
    return out


def _unit(vector: Floats) -> Floats:
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9)


def _bend(toward: Floats, before: Floats, limit: float = MAX_ANGLE) -> Floats:
    """Unit vectors `toward`, turned back to at most `limit` from `before`."""
    toward, before = _unit(toward), _unit(before)
    cosine = (toward * before).sum(axis=1, keepdims=True)
    aside = _unit(toward - cosine * before)
    limited = np.cos(limit) * before + np.sin(limit) * aside
    return np.where(cosine < np.cos(limit), limited, toward)


class _Buds(NamedTuple):
    """Nodes that go on growing: one row each."""

    at: Floats  # (M, 3)
    toward: Floats  # (M, 3) where their branch came from, as a direction
    lobe: Ints
    parent: Ints


def _link(
    sprout: _Sprout,
    space: _Space,
    start: Floats,
    stop: Floats,
    lobe: Ints,
    parent: Ints,
    last: Bools | None = None,
) -> tuple[Ints, Floats]:
    """Branches from `start` to `stop`, by way of another point where the straight line leaves the lobe.

    Returns the index of the branch that arrives, -1 where there is none, and its direction.
    """
    arrives = np.full(len(start), -1)
    begin, above = start.copy(), parent.copy()
    straight = space.clear(start, stop, lobe)
    astray = np.flatnonzero(~straight)
    via = space.detour(start[astray], stop[astray], lobe[astray])
    found = np.isfinite(via[:, 0])
    astray, via = astray[found], via[found]
    above[astray] = sprout.add(start[astray], via, lobe[astray], parent[astray])
    begin[astray] = via
    straight[astray] = True
    arrives[straight] = sprout.add(
        begin[straight],
        stop[straight],
        lobe[straight],
        above[straight],
        None if last is None else last[straight],
    )
    return arrives, stop - begin


def _split(seeds: Floats, owner: Ints, toward: Floats) -> Bools:
    """On which side of its group's plane each seed lies.

    The plane holds the branch and the centre of mass; across it the seeds spread most.
    """
    groups = len(toward)
    away = seeds - _centres(seeds, owner, groups)
    axis = _unit(toward)[owner]
    flat = away - (away * axis).sum(axis=1, keepdims=True) * axis
    spread = np.empty((groups, 3, 3))
    for a in range(3):
        for b in range(3):
            spread[:, a, b] = np.bincount(owner, flat[:, a] * flat[:, b], groups)
    across = np.linalg.eigh(spread)[1][:, :, -1]
    side = (away * across[owner]).sum(axis=1) > 0
    count, other = np.bincount(owner, minlength=groups), np.bincount(owner, side, groups)
    lined_up = (count > 1) & ((other == 0) | (other == count))
    return np.where(lined_up[owner], (away * axis).sum(axis=1) > 0, side)


def _centres(seeds: Floats, owner: Ints, groups: int) -> Floats:
    """Centre of mass of each seed's group, shape of `seeds`."""
    count = np.maximum(np.bincount(owner, minlength=groups), 1)
    return np.stack([np.bincount(owner, seeds[:, a], groups) / count for a in range(3)], axis=1)[owner]


def _fill(
    sprout: _Sprout,
    space: _Space,
    buds: _Buds,
    seeds: Floats,
    owner: Ints,
    *,
    last: float,
    avoid: cKDTree | None = None,
) -> None:
    """Grow from `buds` to the seeds that each owns.

    Parameters
    ----------
    last : float
        Share of the way to its only seed that an end goes.
    avoid : cKDTree, optional
        Points that branches with many ends keep away from.
    """
    while len(owner):
        side = _split(seeds, owner, buds.toward)
        kinds, first, owner, count = np.unique(
            2 * owner + side, return_index=True, return_inverse=True, return_counts=True
        )
        node = kinds // 2
        centre = _centres(seeds, owner, len(kinds))[first]
        start, lobe = buds.at[node], buds.lobe[node]
        way = np.linalg.norm(centre - start, axis=1)
        going = count > 1
        stop = start + last * (centre - start)
        length = np.maximum(REACH * way, MIN_LENGTH_MM)[going, None]
        stop[going] = start[going] + length * _bend((centre - start)[going], buds.toward[node][going])
        if avoid is not None:
            many = count >= 12
            stop[many] = _keep_away(avoid, start[many], stop[many])
        stop[going] = space.with_room(stop[going], lobe[going])
        arrives, toward = _link(sprout, space, start, stop, lobe, buds.parent[node], ~going)
        keep = going & (arrives >= 0)
        buds = _Buds(stop[keep], toward[keep], lobe[keep], arrives[keep])
        stays = keep[owner]
        seeds, owner = seeds[stays], (np.cumsum(keep) - 1)[owner[stays]]


def _keep_away(avoid: cKDTree, start: Floats, stop: Floats, clear_mm: float = 6.0) -> Floats:
    """Each end, moved sideways where that takes the branch further from what it avoids."""
    toward = _unit(stop - start)
    helper = np.where(np.abs(toward[:, :1]) < 0.7, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    a = _unit(np.cross(toward, helper))
    b = np.cross(toward, a)
    turns = np.arange(8) * np.pi / 4
    aside = np.cos(turns)[:, None, None] * a + np.sin(turns)[:, None, None] * b
    options = np.concatenate([stop[None], stop + 3.0 * aside, stop + 6.0 * aside])
    cost = np.repeat([0.0, 0.6, 1.2], [1, 8, 8])[:, None] * np.ones(len(stop))
    for share in (0.5, 1.0):
        cost += np.maximum(clear_mm - avoid.query(start + share * (options - start))[0], 0)
    return options[cost.argmin(axis=0), np.arange(len(stop))]


class _Way(NamedTuple):
    """From a hilum into a lobe: round what is in the way, to the surface of the lobe, to where it ends."""

    corner: Floats
    surface: Floats
    end: Floats
    cost: float
    foreign: float  # mm through other lobes


def _enter(space: _Space, hub: Floats, lobe: int, avoid: cKDTree | None = None) -> _Way:
    """A short way from a hilum to a place in a lobe with room around it, through no other lobe.

    It is straight where it can be; else it turns once outside the lungs.
    """
    mine = space.room_lobe == lobe
    deep = mine & (space.depth > 5.0)
    choice = space.room[deep if deep.sum() > 20 else mine]
    straight = _enter_from(space, hub, choice, lobe, avoid)
    if straight.foreign == 0:
        return straight
    shift = np.arange(-36.0, 37.0, 18.0)
    corners = hub + np.stack(np.meshgrid(0.0, shift, shift, indexing="ij"), axis=-1).reshape(-1, 3)
    corners = corners[space.clear_of_lungs(np.broadcast_to(hub, corners.shape), corners)]
    ways = [straight, *(_enter_from(space, c, choice, lobe, avoid) for c in corners)]
    return min(ways, key=lambda w: w.cost + float(np.linalg.norm(w.corner - hub)))


def _enter_from(space: _Space, corner: Floats, choice: Floats, lobe: int, avoid: cKDTree | None) -> _Way:
    way = np.linalg.norm(choice - corner, axis=1)
    near = np.argsort(way, kind="stable")[:600:20]
    choice, way = choice[near], np.maximum(way[near], 8.0)
    points, first, owner = _along(np.broadcast_to(corner, choice.shape), choice, SAMPLE_MM)
    label = space.lobe_of(points)
    foreign = np.add.reduceat((label != 0) & (label != lobe), first) * SAMPLE_MM
    cost = way + 20.0 * foreign
    if avoid is not None:
        cost += np.add.reduceat(np.maximum(7.0 - avoid.query(points)[0], 0), first) * SAMPLE_MM
    best = int(cost.argmin())
    on_way = np.flatnonzero(owner == best)
    elsewhere = np.flatnonzero(label[on_way] != lobe)
    crossing = 0 if len(elsewhere) == 0 else elsewhere[-1] + 1
    return _Way(corner, points[on_way[crossing]], choice[best], float(cost[best]), float(foreign[best]))


def _to_lobe(
    sprout: _Sprout,
    space: _Space,
    hub: Floats,
    lobe: int,
    parent: int,
    name: str,
    avoid: cKDTree | None = None,
) -> tuple[int, Floats, Floats]:
    """The branch from a hilum into a lobe, in pieces: outside and inside it."""
    way = _enter(space, hub, lobe, avoid)
    at = hub
    for stop in (way.corner, way.surface):
        if np.linalg.norm(stop - at) > SAMPLE_MM:
            parent = sprout.add_one(at, stop, 0, parent, name)
            at, name = stop, ""
    return sprout.add_one(at, way.end, lobe, parent, name), way.end, way.end - at


def _segments(space: _Space, lobe: str, seeds: Floats) -> Ints:
    """Which segment of its lobe each seed belongs to: an index into ``SEGMENTS[lobe]``."""
    cloud = space.lobes[LOBES[lobe]]
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    place = np.array(list(SEGMENTS[lobe].values()))
    if lobe.startswith("R"):
        place = place * [-1, 1, 1] + [1, 0, 0]  # LPS x grows to the left: the midline is the high end
    centre = low + place * (high - low)
    # cells of a power diagram: centres go halfway to the mean, weights grow until the shares are equal
    weight, scale = np.zeros(len(centre)), float(((high - low) ** 2).sum())

    def cell(points: Floats) -> Ints:
        cost = ((points[:, None] - centre) ** 2).sum(axis=-1) - weight
        return np.asarray(cost.argmin(axis=1), np.int64)

    for turn in range(40):
        mine = cell(cloud)
        share = np.bincount(mine, minlength=len(centre)) / len(cloud)
        if turn < 6:
            mean = [cloud[mine == n].mean(axis=0) if share[n] else centre[n] for n in range(len(centre))]
            centre = (centre + np.array(mean)) / 2
        weight += 0.1 * scale * (1 / len(centre) - share)
    return cell(seeds)


def _names_in(split: Split) -> list[str]:
    return [split] if isinstance(split, str) else _names_in(split[0]) + _names_in(split[1])


def _airways(space: _Space, seeds: Floats, hila: Floats, carina: Floats, rng: np.random.Generator) -> Tree:
    """Trachea to small airways."""
    sprout = _Sprout()
    trachea = sprout.add_one(carina + np.array([0.0, -0.08, 1.0]) * TRACHEA_MM, carina, 0, -1, "trachea")
    fork = space.retreat(carina + 0.55 * (hila[0] - carina), carina, HILUM_MM)
    right = sprout.add_one(carina, fork, 0, trachea, "RMB")
    left = sprout.add_one(carina, hila[1], 0, trachea, "LMB")
    hubs = {"RUL": (fork, right), "LUL": (hila[1], left), "LLL": (hila[1], left)}
    if {LOBES["RML"], LOBES["RLL"]} & set(space.lobes):
        between = sprout.add_one(fork, hila[0], 0, right, "BI")
        hubs |= {"RML": (hila[0], between), "RLL": (hila[0], between)}
    seed_lobe = space.lobe_of(seeds)
    buds: list[tuple[Floats, Floats, int, int]] = []
    kept: list[Floats] = []
    for name, (hub, parent) in hubs.items():
        lobe = LOBES[name]
        mine = seeds[seed_lobe == lobe]
        if len(mine) == 0:
            continue
        last, at, toward = _to_lobe(sprout, space, hub, lobe, parent, name)
        segment = _segments(space, name, mine)
        of_name = {s: mine[segment == n] for n, s in enumerate(SEGMENTS[name])}
        waiting: list[tuple[Split, Floats, Floats, int]] = [(_SPLITS[name], at, toward, last)]
        while waiting:
            split, at, toward, parent = waiting.pop(0)
            for part in split:
                if not any(len(of_name[s]) for s in _names_in(part)):
                    continue
                group = np.concatenate([of_name[s] for s in _names_in(part)])
                centre = group.mean(axis=0)
                is_segment = isinstance(part, str)
                way = np.linalg.norm(centre - at)
                length = REACH * way if is_segment else float(np.clip(0.25 * way, 5.0, 15.0))
                course = _bend((centre - at)[None], toward[None], np.deg2rad(75))[0]
                label = np.array([lobe])
                stop = space.with_room((at + length * course)[None], label)
                arrives, went = _link(sprout, space, at[None], stop, label, np.array([parent]))
                if arrives[0] < 0:
                    continue
                if is_segment:
                    sprout.names[str(part)] = int(arrives[0])
                    buds.append((stop[0], went[0], lobe, int(arrives[0])))
                    kept.append(group)
                else:
                    waiting.append((part, stop[0], went[0], int(arrives[0])))
    if buds:
        _fill(sprout, space, _stack(buds), np.concatenate(kept), _owners(kept), last=0.6)
    total = float(len(seeds)) or 1.0

    def radius(leaves: Ints, parent: Ints) -> Floats:
        # as many halvings of the flow below the trachea as the published generations are
        order = np.log2(np.maximum(total / leaves, 1.0))
        order[:3] = [0, 1, 1]
        diameter = np.interp(order, np.arange(len(AIRWAY_DIAMETER)), AIRWAY_DIAMETER)
        return diameter / 2 * np.exp(AIRWAY_SPREAD * rng.normal(size=len(leaves)).clip(-2, 2))

    return sprout.done(radius, stumps=True)


def _stack(buds: list[tuple[Floats, Floats, int, int]]) -> _Buds:
    at, toward, lobe, parent = zip(*buds, strict=True)
    return _Buds(np.array(at), np.array(toward), np.array(lobe), np.array(parent))


def _owners(parts: list[Floats]) -> Ints:
    return np.repeat(np.arange(len(parts)), [len(p) for p in parts])


def _vessel_radius(end: float, rng: np.random.Generator) -> Callable[[Ints, Ints], Floats]:
    def radius(leaves: Ints, parent: Ints) -> Floats:
        noise = np.exp(VESSEL_SPREAD * rng.normal(size=len(leaves)).clip(-2, 2))
        return np.asarray(end * leaves**VESSEL_POWER * noise, np.float64)

    return radius


_BESIDE_AIRWAYS = (
    4  # arteries follow airways into each lobe, and where their parents have at least so many ends
)
_ARTERY_NAMES = {"trachea": "PA", "RMB": "RPA", "LMB": "LPA", "BI": "RIA"}


def _arteries(
    space: _Space, airways: Tree, seeds: Floats, carina: Floats, end: float, rng: np.random.Generator
) -> Tree:
    """Pulmonary trunk to small arteries; the large ones run beside the airways."""
    sprout = _Sprout()
    at_airway = _nearest_end(airways, seeds, space.lobe_of(seeds))
    seeds, at_airway = seeds[at_airway >= 0], at_airway[at_airway >= 0]
    feeds = _upstream(np.bincount(at_airway, minlength=len(airways)), airways.parent)
    up = airways.parent
    into_a_lobe = airways.lobe[up] == 0
    follow = (feeds > 0) & ((up < 0) | (airways.leaves[up] >= _BESIDE_AIRWAYS) | into_a_lobe)
    follow &= (up < 0) | follow[up]
    beside = _beside(space, airways, follow, end * np.maximum(feeds, 1) ** VESSEL_POWER)
    trunk = carina + np.array([8.0, -24.0, -22.0])
    index = np.full(len(airways), -1)
    for b in map(int, np.flatnonzero(follow)):
        p = int(up[b])
        if p < 0:
            start, stop = trunk + np.array([6.0, -18.0, -30.0]), trunk
        else:
            start, stop = (trunk if up[p] < 0 else beside[p]), beside[b]
        above = int(index[p]) if p >= 0 else -1
        index[b] = sprout.add_one(start, stop, int(airways.lobe[b]), above)
    if not follow.any():
        return sprout.done(_vessel_radius(end, rng))
    for name, b in airways.names.items():
        if index[b] >= 0:
            sprout.names[_ARTERY_NAMES.get(name, name.replace("B", "A"))] = int(index[b])
    # every seed grows from the last branch that followed the airway towards it
    source = at_airway.copy()
    while not follow[source].all():
        source = np.where(follow[source], source, up[source])
    sources, owner = np.unique(source, return_inverse=True)
    came = beside[up[sources]]
    buds = _Buds(beside[sources], beside[sources] - came, airways.lobe[sources], index[sources])
    _fill(sprout, space, buds, seeds, owner, last=1.0)
    return sprout.done(_vessel_radius(end, rng))


def _nearest_end(tree: Tree, points: Floats, lobe: Ints) -> Ints:
    """The end of the tree nearest to each point within its lobe; -1 where the lobe has none."""
    found = np.full(len(points), -1)
    for n in np.unique(lobe):
        ends = np.flatnonzero(tree.is_leaf & (tree.lobe == n))
        if len(ends):
            mine = lobe == n
            found[mine] = ends[cKDTree(tree.ends[ends, 1]).query(points[mine])[1]]
    return found


@numba.njit(cache=True)
def _upstream(amount, parent):
    """What each branch and all below it have."""
    total = amount.copy()
    for b in range(len(parent) - 1, -1, -1):
        if parent[b] >= 0:
            total[parent[b]] += total[b]
    return total


def _beside(space: _Space, airways: Tree, follow: Bools, radius: Floats) -> Floats:
    """Where the artery beside each airway ends: off the plane in which the airway forks.

    Between lumen and artery there is room for the wall of the airway. Where there is no room in the lobe, the
    artery comes nearer.
    """
    up, stop = airways.parent, airways.ends[:, 1]
    toward = _unit(airways.ends[:, 1] - airways.ends[:, 0])
    off = np.zeros((len(airways), 3))
    children: dict[int, list[int]] = {}
    for b in np.flatnonzero(follow):
        children.setdefault(int(up[b]), []).append(int(b))
    for b in np.flatnonzero(follow):
        below = children.get(int(b), [])
        if airways.lobe[b] == 0:
            wish = np.array([-0.3, -0.9, -0.1]) if stop[b, 0] < stop[0, 0] else np.array([0.4, 0.1, 0.9])
        elif len(below) >= 2:
            wish = np.cross(toward[below[0]], toward[below[1]])
            wish = wish if wish @ off[up[b]] >= 0 else -wish
        else:
            wish = off[up[b]]
        wish = wish - 0.8 * (wish @ toward[b]) * toward[b]
        off[b] = wish / max(float(np.linalg.norm(wish)), 1e-9)
    gap = OUTER * airways.radius + radius
    for b in np.flatnonzero(follow & (airways.lobe == 0)):
        # outside the lungs: as far off as they leave room, at the surface of a lobe not at all
        reach = stop[b] + np.linspace(gap[b], 0.0, 9)[:, None] * off[b]
        gap[b] = np.linspace(gap[b], 0.0, 9)[(space.lobe_of(reach) == space.lobe_of(stop[b][None])).argmax()]
    scale = np.where(follow, 1.0, 0.0)
    tried = np.flatnonzero(follow & (airways.lobe > 0))
    outer = np.flatnonzero(follow & (airways.lobe == 0) & (airways.generation > 1))
    for attempt in range(6):
        place = stop + (scale * gap)[:, None] * off
        stray = tried[~space.clear(place[up[tried]], place[tried], airways.lobe[tried])]
        # trunks stay out of the lungs, but for their last millimetre
        short = place[up[outer]] + 0.96 * (place[outer] - place[up[outer]])
        stray = np.append(stray, outer[~space.clear_of_lungs(place[up[outer]], short)])
        if len(stray) == 0:
            break
        factor = 0.5 if attempt < 4 else 0.0
        scale[stray] *= factor
        # the place where an artery enters its lobe is the airway's too
        scale[up[stray]] *= factor
    return stop + (scale * gap)[:, None] * off


_VEINS = {"RSPV": ("RUL", "RML"), "RIPV": ("RLL",), "LSPV": ("LUL",), "LIPV": ("LLL",)}


def _veins(
    space: _Space,
    others: tuple[Tree, Tree],
    seeds: Floats,
    hila: Floats,
    end: float,
    rng: np.random.Generator,
) -> Tree:
    """Four great veins, two on each side, and what drains into them."""
    sprout = _Sprout()
    samples = []
    for tree in others:
        large = tree.radius > 1.0
        samples.append(_along(tree.ends[large, 0], tree.ends[large, 1], 2.0)[0])
    avoid = cKDTree(np.concatenate(samples))
    atrium = hila.mean(axis=0) + np.array([0.0, 4.0, -30.0])
    seed_lobe = space.lobe_of(seeds)
    buds: list[tuple[Floats, Floats, int, int]] = []
    kept: list[Floats] = []
    for vein, lobes in _VEINS.items():
        present = [n for n in lobes if (seed_lobe == LOBES[n]).any()]
        if not present:
            continue
        hilum = hila[0] if vein.startswith("R") else hila[1]
        upper = vein.endswith("SPV")
        hub = hilum + ([0.0, -14.0, -12.0] if upper else [0.0, 8.0, -26.0])
        hub = space.retreat(hub, np.array([atrium[0], hub[1], hub[2]]), HILUM_MM)
        mouth = atrium + 0.35 * (hub - atrium)
        root = sprout.add_one(mouth, hub, 0, -1, vein)
        for name in present:
            lobe = LOBES[name]
            parent, at, toward = _to_lobe(sprout, space, hub, lobe, root, name, avoid)
            buds.append((at, toward, lobe, parent))
            kept.append(seeds[seed_lobe == lobe])
    if buds:
        _fill(sprout, space, _stack(buds), np.concatenate(kept), _owners(kept), last=1.0, avoid=avoid)
    return sprout.done(_vessel_radius(end, rng))
