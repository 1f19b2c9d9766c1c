"""The airways as a tree: centre lines, branches with their lengths and diameters, and whose lobe they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.stats import norm

from lungvq.anatomy import LOBES, LOBES_OF_LUNG, LUNGS
from lungvq.findings import Finding, passed
from lungvq.fissures import MEANS, SPREAD, VALID, height
from lungvq.volume import Volume, box_around

__all__ = ["AirwayTree", "Branch", "LobarBronchi", "build_tree", "check_bronchi", "label_lobes"]

Floats = NDArray[np.float64]

SLICE_MM = 2.0  # the lumen is cut into slices of equal distance from the top of the trachea
SPUR_MM = 5.0  # shorter ends are bulges of the wall
RESOLVED_VOXELS = 3.0  # a lumen narrower than so many voxels has no diameter

# What a naming of branches is worth, in log-likelihood.
COURSE = 12.0  # of a subtree that leads exactly where the bronchus of a lobe leads on the average
PLACE = 4.0  # of the mean over a subtree of the log-probability that its points lie in the lobe
LEAST_PROBABILITY = 0.08  # fissures of one person may lie anywhere
ORIGIN = 2.0  # cost of a lobar bronchus
STRAY = 0.3  # cost of a mm that belongs to nothing
WAY = 0.1  # cost of a mm within the lung that is still on the way
FULL_MM = 20.0  # shorter subtrees are worth less
LEAST_LOBAR_MM = 10.0
LEAST_MARGIN = 4.0
TWIG_MM = 15.0  # shorter, it has to lead where the lobe's bronchus leads
DEAD_END = 5.0  # cost of a way on which no lobe is found
AGAINST = 0.3
NEVER = -1000.0  # of a subtree in the other lung: at coarse voxels, air of a recess beside a bronchus floods
RUL_MM = (
    36.0,
    45.0,
)  # from the carina: beyond the first, the fork may be that of the middle lobe; beyond, it is
HALF_SPREAD = 0.7  # bronchi keep away from fissures: positions tell more than the spread of the fissures says


@dataclass(frozen=True, eq=False)
class Branch:
    """An airway between two forks.

    Parameters
    ----------
    parent : int
        Index of the branch it comes from, -1 for the trachea.
    generation : int
        Forks above it: 0 for the trachea.
    points : ndarray, shape (N, 3)
        Its centre line, LPS mm, from the fork where it begins (N is at least 2).
    area_mm2 : float
        Mean cross-section of the lumen.
    diameter_mm : float
        Of a circle of that area; NaN where the voxels do not resolve it. Below 8 mm it reads low.
    lobe : str
        ``"LUL"``...; ``""`` for trachea, main bronchi and bronchus intermedius; ``"unknown"`` where unsure.
    name : str
        ``"trachea"``, ``"LMB"``, ``"RMB"``, ``"BI"``, or the lobe's for the first branch of a lobe.
    """

    parent: int
    generation: int
    points: Floats
    area_mm2: float
    diameter_mm: float
    lobe: str = "unknown"
    name: str = ""

    @property
    def length_mm(self) -> float:
        """Along the centre line."""
        return float(np.linalg.norm(np.diff(self.points, axis=0), axis=1).sum())


@dataclass(frozen=True, eq=False)
class AirwayTree:
    """Branches, parents before children."""

    branches: tuple[Branch, ...] = ()

    def __len__(self) -> int:
        return len(self.branches)

    @property
    def length_mm(self) -> float:
        """Of all centre lines together."""
        return float(sum(b.length_mm for b in self.branches))

    @property
    def carina_mm(self) -> Floats | None:
        """Where the lumen of the trachea parts, LPS mm: the end of its centre line; None where it was not seen to.

        Known once the branches are named (`label_lobes`).
        """
        names = {b.name: b for b in self.branches}
        if not {"LMB", "RMB"} <= set(names):
            return None
        return self.branches[names["LMB"].parent].points[-1]

    def children(self) -> list[list[int]]:
        """Indices of the branches that begin where each ends."""
        below: list[list[int]] = [[] for _ in self.branches]
        for n, branch in enumerate(self.branches):
            if branch.parent >= 0:
                below[branch.parent].append(n)
        return below

    def table(self) -> pd.DataFrame:
        """One row a branch: what ``airways.csv`` holds."""
        rows = [
            (
                n,
                b.parent if b.parent >= 0 else None,
                b.generation,
                b.name,
                b.lobe,
                *b.points[0].round(2),
                *b.points[-1].round(2),
                round(b.length_mm, 2),
                round(b.diameter_mm, 2),
                bool(np.isfinite(b.diameter_mm)),
            )
            for n, b in enumerate(self.branches)
        ]
        columns = ["branch", "parent", "generation", "name", "lobe"]
        columns += [f"{end}_{axis}_mm" for end in ("start", "end") for axis in "xyz"]
        table = pd.DataFrame(rows, columns=[*columns, "length_mm", "diameter_mm", "resolved"])
        return table.astype({"parent": "Int64"})


@dataclass(frozen=True, eq=False)
class LobarBronchi:
    """The tree with its lobes named.

    Parameters
    ----------
    tree : AirwayTree
        With `Branch.lobe` and `Branch.name` filled in.
    points : dict of str to ndarray (N, 3)
        For each lobe found, LPS mm about every 2 mm along its bronchi, from where the lobar bronchus begins.
    missing : tuple of str
        Lobes whose bronchus was not found, or not surely.
    """

    tree: AirwayTree = AirwayTree()
    points: dict[str, Floats] = field(default_factory=dict)
    missing: tuple[str, ...] = tuple(LOBES)


def build_tree(airways: Volume, top: Floats, *, resolution_mm: float) -> AirwayTree:
    """Centre lines and branches of a mask of airways.

    The lumen is cut into slices of equal distance, measured inside it, from the top of the trachea; each
    connected slice is one point of the centre line and hangs on the slice above that it shares most of its
    surface with. So loops are cut, and bulges of the wall (ends shorter than 5 mm, or than the airway they
    sit on is wide) fall away.

    Parameters
    ----------
    airways : Volume of bool
        Near-cubic voxels.
    top : ndarray, shape (3,)
        A point in the trachea, LPS mm: the tree hangs from the voxels nearest to it.
    resolution_mm : float
        Voxel size of the scan; lumens narrower than three times this get no diameter.

    Returns
    -------
    AirwayTree
        Empty if the mask is.
    """
    index = np.argwhere(airways.array)
    if len(index) == 0:
        return AirwayTree()
    where = airways.grid.world(index)
    links = _links(index, airways)
    root = int(np.argmin(((where - top) ** 2).sum(axis=1)))
    distance = dijkstra(links, indices=root)
    slices = _slices(links, distance)
    points, volume, above, depth = _hang(links, slices, distance, where, airways.voxel_ml * 1000)
    keep = _without_spurs(points, volume, above, depth)
    return _branches(points, volume, above, keep, resolution_mm)


def _links(index: NDArray[np.int64], airways: Volume) -> coo_array:
    """Distances in mm between voxels of the mask that touch by a face, an edge or a corner."""
    place = np.full(np.array(airways.shape) + 2, -1, np.int32)
    place[tuple((index + 1).T)] = np.arange(len(index))
    rows, columns, lengths = [], [], []
    for n in range(14, 27):  # one of each two opposite neighbours
        step = np.array(np.unravel_index(n, (3, 3, 3))) - 1
        other = place[tuple((index + 1 + step).T)]
        own = np.flatnonzero(other >= 0)
        rows.append(own)
        columns.append(other[own])
        lengths.append(np.full(len(own), np.linalg.norm(step * airways.spacing)))
    row, column, length = np.concatenate(rows), np.concatenate(columns), np.concatenate(lengths)
    both = (
        np.concatenate([length, length]),
        (np.concatenate([row, column]), np.concatenate([column, row])),
    )
    return coo_array(both, shape=(len(index), len(index))).tocsr()


def _slices(links: coo_array, distance: Floats) -> NDArray[np.int64]:
    """Number of the slice each voxel is in, nearest to the top first; -1 where it hangs on nothing."""
    layer = np.where(np.isfinite(distance), distance // SLICE_MM, -1).astype(np.int64)
    pairs = links.tocoo()
    same = (layer[pairs.row] == layer[pairs.col]) & (layer[pairs.row] >= 0)
    within = coo_array((np.ones(same.sum()), (pairs.row[same], pairs.col[same])), shape=links.shape)
    labels = connected_components(within, directed=False)[1]
    labels[layer < 0] = -1
    names, first = np.unique(labels[labels >= 0], return_index=True)
    order = np.argsort(layer[labels >= 0][first], kind="stable")
    rank = np.full(labels.max() + 1, -1)
    rank[names[order]] = np.arange(len(names))
    return np.where(labels >= 0, rank[labels], -1)


def _hang(
    links: coo_array, slices: NDArray[np.int64], distance: Floats, where: Floats, voxel_mm3: float
) -> tuple[Floats, Floats, NDArray[np.int64], Floats]:
    """Of each slice: its centre, volume in mm3, the slice above it, and its distance from the top."""
    inside = slices >= 0
    own, count = slices[inside], np.bincount(slices[inside])
    points = np.stack([_mean_of(own, where[inside, a]) for a in range(3)], axis=1)
    depth = _mean_of(own, distance[inside])
    pairs = links.tocoo()
    a, b = slices[pairs.row], slices[pairs.col]
    upward = (a > b) & (b >= 0)
    upward[upward] = depth[b[upward]] < depth[a[upward]] - 0.5 * SLICE_MM
    contact = coo_array((np.ones(upward.sum()), (a[upward], b[upward])), shape=(len(count),) * 2).tocsr()
    above = np.full(len(count), -1)
    for n in range(len(count)):
        row = slice(contact.indptr[n], contact.indptr[n + 1])
        if row.stop > row.start:
            above[n] = contact.indices[row][contact.data[row].argmax()]
    return points, np.asarray(count * voxel_mm3, float), above, depth


def _mean_of(owner: NDArray[np.int64], values: Floats) -> Floats:
    return np.asarray(np.bincount(owner, values) / np.bincount(owner), float)


def _without_spurs(
    points: Floats, volume: Floats, above: NDArray[np.int64], depth: Floats
) -> NDArray[np.bool_]:
    """Which slices remain when bulges are taken away."""
    reach = depth.copy()  # how far down one can get from each slice
    for n in range(len(above) - 1, 0, -1):
        if above[n] >= 0:
            reach[above[n]] = max(reach[above[n]], reach[n])
    keep = np.zeros(len(above), bool)
    keep[0] = True
    wide = 2 * np.sqrt(volume / SLICE_MM / np.pi)
    longest = np.full(len(above), -1)
    for n in range(1, len(above)):
        if above[n] >= 0 and (longest[above[n]] < 0 or reach[n] > reach[longest[above[n]]]):
            longest[above[n]] = n
    for n in range(1, len(above)):
        up = above[n]
        if up < 0 or not keep[up]:
            continue
        keep[n] = longest[up] == n or reach[n] - depth[up] > max(SPUR_MM, 0.6 * wide[up])
    return keep


def _branches(
    points: Floats, volume: Floats, above: NDArray[np.int64], keep: NDArray[np.bool_], resolution_mm: float
) -> AirwayTree:
    """Chains of slices between forks."""
    below: list[list[int]] = [[] for _ in above]
    for n in np.flatnonzero(keep):
        if above[n] >= 0:
            below[above[n]].append(int(n))
    branches: list[Branch] = []
    waiting = [(0, -1, 0)]
    while waiting:
        first, parent, generation = waiting.pop(0)
        chain = [first]
        while len(below[chain[-1]]) == 1:
            chain.append(below[chain[-1]][0])
        line = points[chain] if above[first] < 0 else points[[above[first], *chain]]
        line = _smooth(line)
        if len(line) == 1:
            line = np.repeat(line, 2, axis=0)
        # the slices next to a fork are part of it
        inner = chain[1:-1] if len(chain) > 4 else chain
        area = float(np.median(volume[inner])) / SLICE_MM
        diameter = 2 * np.sqrt(area / np.pi)
        if diameter < RESOLVED_VOXELS * resolution_mm:
            diameter = np.nan
        branches.append(Branch(parent, generation, line, area, float(diameter)))
        own = len(branches) - 1
        waiting += [(n, own, generation + 1) for n in below[chain[-1]]]
    return AirwayTree(tuple(branches))


def _smooth(line: Floats) -> Floats:
    """Each inner point the mean of three: slices of few voxels stagger."""
    if len(line) < 3:
        return line
    out = line.copy()
    out[1:-1] = (line[:-2] + line[1:-1] + line[2:]) / 3
    return out


def label_lobes(tree: AirwayTree, lungs: Volume) -> LobarBronchi:
    """Name the main bronchi by geometry and the lobar bronchi by where their branches lead.

    Below the carina the child that leads to the left is the left main bronchus. On each side a branch is still
    on the way (main bronchus, bronchus intermedius) or belongs to one lobe, with all that is below it. Of all
    such namings the best is taken: lobar bronchi lead where those of people lead (`_COURSE`), their branches
    lie where the mean fissures leave room for the lobe (:mod:`lungvq.fissures`, in so far as these differ
    between people), the right upper lobe's leaves the main bronchus before the middle and lower lobes' leave
    the intermediate one, and twigs belong to nothing. Where a branch fits the lobe beside it about as well,
    where a lobe has less than 10 mm of bronchi, and where the upper lobe's bronchus may have been passed
    unseen, it is ``"unknown"``.

    Parameters
    ----------
    tree : AirwayTree
    lungs : Volume of uint8
        1 left, 2 right.

    Returns
    -------
    LobarBronchi
    """
    names, lobes = [""] * len(tree), ["unknown"] * len(tree)
    sides = _main_bronchi(tree, names, lobes)
    state: dict[int, str] = {}
    for side, root in sides.items():
        naming = _Side(tree, lungs, side, root)
        for n, name in naming.best().items():
            parent = tree.branches[n].parent
            begins = n == root or state[parent] != name
            state[n] = name
            if name not in LOBES:
                lobes[n] = "" if name else "unknown"
            elif begins:
                lobes[n] = name if naming.sure(n, name) else "unknown"
            else:
                lobes[n] = lobes[parent]
            names[n] = name if begins and lobes[n] != "unknown" else ""
    for lobe in LOBES:
        mine = [n for n in range(len(tree)) if lobes[n] == lobe]
        if sum(tree.branches[n].length_mm for n in mine) < LEAST_LOBAR_MM:
            for n in mine:
                lobes[n], names[n] = "unknown", ""
    named = AirwayTree(tuple(replace(b, name=names[n], lobe=lobes[n]) for n, b in enumerate(tree.branches)))
    points = {
        lobe: np.concatenate([b.points[1:] for b in named.branches if b.lobe == lobe])
        for lobe in LOBES
        if lobe in lobes
    }
    return LobarBronchi(named, points, tuple(lobe for lobe in LOBES if lobe not in points))


def check_bronchi(bronchi: LobarBronchi) -> Finding:
    """Which lobar bronchi were found, and how much of a tree."""
    tree = bronchi.tree
    message = f"{len(tree)} airways of {tree.length_mm:.0f} mm in all; lobar bronchi found: "
    message += f"{', '.join(bronchi.points) or 'none'}."
    return passed("LOBAR_BRONCHI", message, value=len(bronchi.points), limit=len(LOBES), unit="lobes")


def _below(children: list[list[int]], root: int) -> list[int]:
    """A branch and all below it."""
    found = [root]
    for n in found:
        found += children[n]
    return found


def _main_bronchi(tree: AirwayTree, names: list[str], lobes: list[str]) -> dict[str, int]:
    """The branches in which each side begins; the trachea's are named on the way."""
    children, found = tree.children(), {}
    at = 0
    while tree.branches:
        names[at], lobes[at] = "trachea", ""
        fork = tree.branches[at].points[-1]
        leads: dict[str, list[tuple[float, int]]] = {"left": [], "right": []}
        for child in children[at]:
            length, aside = 0.0, 0.0
            for n in _below(children, child):
                b = tree.branches[n]
                length += b.length_mm
                aside += b.length_mm * float(b.points[:, 0].mean() - fork[0])
            if length >= 10 and abs(aside / length) > 5:
                leads["left" if aside > 0 else "right"].append((length, child))
        if leads["left"] and leads["right"]:
            for side, options in leads.items():
                found[side] = max(options)[1]
            break
        if not children[at]:
            break
        # not the carina yet: follow what leads to most
        at = max(children[at], key=lambda c: sum(tree.branches[n].length_mm for n in _below(children, c)))
    return found


class _Fork(NamedTuple):
    """What may leave a branch that is on the way: one child goes on under a name, the others are of lobes."""

    onward: str
    lobes: tuple[str, ...]


# On the way, the branches below may be named after one of these; the right main bronchus may be seen to
# end in lobar bronchi at once where the intermediate one does not fork.
_WAYS: dict[str, tuple[_Fork, ...]] = {
    "LMB": (_Fork("LMB", ()), _Fork("", ("LUL", "LLL"))),
    "RMB": (_Fork("RMB", ()), _Fork("BI", ("RUL",)), _Fork("", ("RUL", "RLL"))),
    "BI": (_Fork("BI", ("RML", "RLL")),),
}
# Where they lead from the fork at which they begin, LPS.
_COURSE = {
    "LUL": (0.3, -0.5, 0.6),
    "LLL": (0.1, 0.5, -0.85),
    "RUL": (-0.5, -0.2, 0.8),
    "RML": (-0.4, -0.8, -0.3),
    "RLL": (-0.1, 0.5, -0.85),
    "BI": (-0.2, 0.2, -0.9),
}


def _soft(worth: float) -> float:
    """What speaks against a name counts less than what speaks for it: something the branch must be."""
    return worth if worth > 0 else AGAINST * worth


# What else it might be, as it leaves from there.
_RIVAL = {"LUL": "LLL", "LLL": "LUL", "RUL": "BI", "RML": "RLL", "RLL": "RML"}


class _Side:
    """The best naming of the branches below one main bronchus."""

    def __init__(self, tree: AirwayTree, lungs: Volume, side: str, root: int) -> None:
        self.tree, self.children, self.root = tree, tree.children(), root
        self.lung = _Lung.of(lungs, side)
        self.own = _below(self.children, root)
        self.length: dict[int, float] = {}
        self.worth: dict[int, dict[str, float]] = {}
        for n in self.own:
            self.length[n], self.worth[n] = self._describe(n)

    def _describe(self, root: int) -> tuple[float, dict[str, float]]:
        """Length of a branch and all below it, and how well these fit to each name."""
        below = [self.tree.branches[n] for n in _below(self.children, root)]
        weight = np.concatenate(
            [np.full(len(b.points) - 1, b.length_mm / (len(b.points) - 1)) for b in below]
        )
        where = np.concatenate([b.points[1:] for b in below])
        length, label = float(weight.sum()), self.lung.label(where)
        inside = label == LUNGS[self.lung.side]
        if weight[(label > 0) & ~inside].sum() > max(weight[inside].sum(), LEAST_LOBAR_MM):
            return length, dict.fromkeys(_COURSE, NEVER)
        if weight[inside].sum() >= LEAST_LOBAR_MM:  # what lies between the lungs lies in no lobe
            weight = np.where(inside, weight, 0.0)
        weight = weight / max(float(weight.sum()), 1e-9)
        toward = weight @ (where - below[0].points[0])
        toward = toward / max(float(np.linalg.norm(toward)), 1e-9)
        share, worth = self.lung.belongs(where), {}
        for name, course in _COURSE.items():
            worth[name] = COURSE * float(toward @ np.array(course) / np.linalg.norm(course))
            if name in share:
                worth[name] += PLACE * float(weight @ np.log(np.maximum(share[name], LEAST_PROBABILITY)))
            worth[name] *= min(1.0, length / FULL_MM)
        return length, worth

    def best(self) -> dict[int, str]:
        """Name of each branch: a lobe, a way, or "" where it belongs to nothing."""
        found: dict[int, str] = {}
        self._follow(self.root, "LMB" if self.lung.side == "left" else "RMB", 0.0, found)
        return found

    def _follow(self, at: int, way: str, walked: float, found: dict[int, str]) -> float:
        """Name a branch on the way, `walked` mm below the carina, and all below it; what this is worth."""
        walked += self.tree.branches[at].length_mm
        best, below = -np.inf, {}
        # the upper lobe's bronchus was passed unseen where the main bronchus is that long
        passed = way == "RMB" and walked > RUL_MM[1]
        for fork in _WAYS["BI" if passed else way]:
            total, named = self._name_children(at, way, walked, fork)
            if total > best:
                best, below = total, named
        found[at] = way
        found.update(below)
        branch = self.tree.branches[at]
        if not any(name in LOBES for name in below.values()):
            best -= DEAD_END
        for n, name in below.items():
            if way == "RMB" and RUL_MM[0] < walked <= RUL_MM[1] and name in ("RUL", "RML"):
                found[n] = ""
        inside = self.lung.label(branch.points[1:]) == LUNGS[self.lung.side]
        return best - WAY * branch.length_mm * float(inside.mean())

    def _name_children(self, at: int, way: str, walked: float, fork: _Fork) -> tuple[float, dict[int, str]]:
        """The best naming of the children of a branch that is on the way, and what it is worth."""
        picks: dict[int, str] = {}
        for c in self.children[at]:
            options = {o: _soft(self.worth[c][o]) - ORIGIN for o in fork.lobes}
            options[""] = -STRAY * self.length[c]
            picks[c] = max(options, key=lambda o: options[o])
        best = self._total(picks) if fork.lobes or not picks else -np.inf
        chosen: dict[int, str] = {}
        for c in picks if fork.onward else ():
            further: dict[int, str] = {}
            total = self._follow(c, fork.onward, walked, further)
            total += 0.0 if fork.onward == way else self.worth[c][fork.onward]
            total += self._total({k: o for k, o in picks.items() if k != c})
            if total > best:
                best, chosen = total, further
        named: dict[int, str] = {}
        for c, pick in picks.items():
            named.update(dict.fromkeys(_below(self.children, c), pick))
        return best, {**named, **chosen}

    def _total(self, picks: dict[int, str]) -> float:
        """What a naming of siblings is worth: a lobe that begins twice is found but once."""
        total = -STRAY * sum(self.length[c] for c, o in picks.items() if not o)
        for lobe in set(picks.values()) - {""}:
            own = [_soft(self.worth[c][lobe]) for c, o in picks.items() if o == lobe]
            total += max(own) - ORIGIN * len(own)
        return total

    def sure(self, origin: int, lobe: str) -> bool:
        """Whether a subtree does not fit the lobe's rival about as well."""
        if self.worth[origin][lobe] < 0 and self.length[origin] < TWIG_MM:
            return False
        margin = self.worth[origin][lobe] - self.worth[origin][_RIVAL[lobe]]
        return margin >= LEAST_MARGIN * min(1.0, self.length[origin] / FULL_MM)


@dataclass(frozen=True)
class _Lung:
    """One lung's mask and bounding box."""

    side: str
    lungs: Volume
    low: Floats
    size: Floats

    @classmethod
    def of(cls, lungs: Volume, side: str) -> _Lung:
        mask = lungs.array == LUNGS[side]
        if not mask.any():
            return cls(side, lungs, np.zeros(3), np.zeros(3))
        box = box_around(mask)
        low, stop = np.array([[s.start, s.stop] for s in box]).T
        return cls(side, lungs, low - 0.5, (stop - low).astype(float))

    def label(self, where: Floats) -> NDArray[np.uint8]:
        """Whose lung points (N, 3) lie in, 0 where in none."""
        index = np.rint(self.lungs.grid.index(where)).astype(int)
        label = np.zeros(len(where), np.uint8)
        seen = ((index >= 0) & (index < self.lungs.shape)).all(axis=1)
        label[seen] = self.lungs.array[tuple(index[seen].T)]
        return label

    def belongs(self, where: Floats) -> dict[str, Floats]:
        """Probability of each lobe at points (N, 3), as far as mean fissures and their spread can tell."""
        lobes = LOBES_OF_LUNG[self.side]
        if not self.size.all():
            return {lobe: np.full(len(where), 1 / len(lobes)) for lobe in lobes}
        z, y, x = ((self.lungs.grid.index(where) - self.low) / self.size).T
        above = {
            name: norm.cdf((z - height(mean, x, y, valid=VALID[name])) / (HALF_SPREAD * SPREAD[name]))
            for name, mean in MEANS._asdict().items()
        }
        if self.side == "left":
            upper = above["left_oblique"]
            return {"LUL": upper, "LLL": 1 - upper}
        upper, top = above["right_oblique"], above["horizontal"]
        return {"RUL": upper * top, "RML": upper * (1 - top), "RLL": 1 - upper}
