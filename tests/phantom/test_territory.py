"""Territories against brute force, on trees whose ends are thrown at random."""

import numpy as np
import pytest

from lungvq.phantom.territory import Territory, choose_emboli, nearest_leaf, nearest_leaves
from lungvq.phantom.tree import Tree

BOX = np.array([90.0, 120.0, 200.0])


def random_tree(rng, ends=600, lobes=(1, 3, 5)):
    """A binary tree with ends anywhere, a lobe for each child of the root."""
    parent, lobe = [-1], [0]
    for n in lobes:
        first = len(parent)
        parent.append(0)
        lobe.append(n)
        open_ends = [first]
        while len(open_ends) < ends // len(lobes):
            b = open_ends.pop(0)
            open_ends += [len(parent), len(parent) + 1]
            parent += [b, b]
            lobe += [n, n]
    up = np.array(parent)
    stop = rng.uniform(0, 1, (len(up), 3)) * BOX
    start = np.where(up[:, None] >= 0, stop[up], 0.0)
    leaves = np.zeros(len(up), np.int64)
    for b in range(len(up) - 1, -1, -1):
        leaves[b] = max(leaves[b], 1)
        if up[b] >= 0:
            leaves[up[b]] += leaves[b]
    none = np.zeros(len(up), np.int64)
    return Tree(np.stack([start, stop], axis=1), np.ones(len(up)), np.array(lobe), up, none, leaves)


@pytest.fixture(scope="module")
def tree():
    return random_tree(np.random.default_rng(0))


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(1)
    # in the box, around it, and far from it
    share = np.concatenate([rng.uniform(0, 1, (3000, 3)), rng.uniform(-0.5, 1.5, (1000, 3)), [[-9, 4, 0.5]]])
    return rng.choice([1, 3, 5], len(share)), share * BOX


def brute_force(tree, lobe, points):
    ends = np.flatnonzero(tree.is_leaf)
    d = np.linalg.norm(points[:, None] - tree.ends[ends, 1], axis=-1)
    return ends[np.where(tree.lobe[ends] == lobe[:, None], d, np.inf).argmin(axis=1)]


@pytest.mark.parametrize("ends", [3, 30, 600, 3000])
def test_nearest_leaf_is_the_nearest(queries, ends):
    tree = random_tree(np.random.default_rng(ends), ends)
    territory = Territory.of(tree)
    lobe, points = queries
    found = nearest_leaves(territory, lobe, points)
    np.testing.assert_array_equal(territory.branch[found], brute_force(tree, lobe, points))
    assert nearest_leaf(territory, lobe[0], *points[0]) == found[0]


def test_a_lobe_without_ends_has_no_nearest(tree):
    territory = Territory.of(tree)
    assert nearest_leaf(territory, 2, 10.0, 10.0, 10.0) == -1
    nothing = Territory.of(random_tree(np.random.default_rng(0), lobes=()))
    assert nearest_leaf(nothing, 2, 10.0, 10.0, 10.0) == -1


def test_children_tile_the_territory_of_their_parent(tree, queries):
    territory = Territory.of(tree)
    lobe, points = queries
    leaf = territory.branch[nearest_leaves(territory, lobe, points)]
    children = {}
    for b, p in enumerate(tree.parent):
        children.setdefault(int(p), []).append(b)
    for b in range(40):
        own = tree.subtree(b)[leaf]
        parts = np.array([tree.subtree(c)[leaf] for c in children.get(b, [])])
        if len(parts):
            np.testing.assert_array_equal(parts.sum(axis=0), own.astype(int))  # once each: no overlap, no gap
    assert tree.subtree(0)[leaf].all()


def named_tree(segments_of):
    """A tree of equal segments of 40 ends, so many for each lobe, with names as in a grown tree."""
    parent, lobe, names = [-1], [0], {"PA": 0}
    for n, segments in segments_of.items():
        top = len(parent)
        names[("LUL", "LLL", "RUL", "RML", "RLL")[n - 1]] = top
        parent.append(0)
        lobe.append(n)
        for s in range(segments):
            first = len(parent)
            names[f"{'L' if n < 3 else 'R'}A{n}{s}"] = first
            parent.append(top)
            lobe.append(n)
            open_ends = [first]
            while len(open_ends) < 40:
                b = open_ends.pop(0)
                open_ends += [len(parent), len(parent) + 1]
                parent += [b, b]
                lobe += [n, n]
    up = np.array(parent)
    leaves = np.zeros(len(up), np.int64)
    for b in range(len(up) - 1, -1, -1):
        leaves[b] = max(leaves[b], 1)
        if up[b] >= 0:
            leaves[up[b]] += leaves[b]
    zero = np.zeros(len(up), np.int64)
    ends = np.zeros((len(up), 2, 3))
    return Tree(ends, np.ones(len(up)), np.array(lobe), up, zero, leaves, names)


@pytest.fixture(scope="module")
def named():
    return named_tree({1: 4, 2: 4, 3: 3, 4: 2, 5: 5})


@pytest.mark.parametrize(
    ("level", "number", "share"),
    [("lobar", 5, 1 / 5), ("segmental", 18, 1 / 18), ("subsegmental", 36, 1 / 36)],
)
def test_emboli_have_the_size_of_their_level(named, level, number, share):
    chosen = choose_emboli(named, np.random.default_rng(0), level, 100)
    assert len(chosen) == number
    assert (named.leaves[chosen] / named.leaves[0]).mean() == pytest.approx(share)
    assert sum(named.subtree(b) for b in chosen).max() == 1  # none below another


def test_emboli_keep_clear_of_those_already_there(named):
    rng = np.random.default_rng(5)
    segments = list(choose_emboli(named, rng, "segmental", 4))
    more = choose_emboli(named, rng, "subsegmental", 100, avoid=segments)
    assert len(more) == 28
    assert sum(named.subtree(b) for b in [*segments, *more]).max() == 1
    lobes = choose_emboli(named, rng, "lobar", 5, avoid=segments)
    hit = {int(named.lobe[b]) for b in segments}
    assert {int(named.lobe[b]) for b in lobes} == {1, 2, 3, 4, 5} - hit


def test_the_same_seed_chooses_the_same_emboli(named):
    one, two = (choose_emboli(named, np.random.default_rng(9), "subsegmental", 6) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert len(one) == 6
