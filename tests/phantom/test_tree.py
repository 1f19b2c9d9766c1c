"""Trees in lungs of known shape: two half ellipsoids, cut by fissures that are curved sheets."""

import numpy as np
import pytest

from lungvq.anatomy import LOBES
from lungvq.phantom.tree import AIRWAY_DIAMETER, OUTER, THIN_MM, VESSEL_POWER, Tree, grow_trees, thinned

SIZE = np.array([62.0, 85.0, 105.0])  # half axes of each lung, mm
MIDDLE = 76.0  # x of the centre of the left lung
HILA = np.array([[-27.0, 4.0, 12.0], [27.0, 4.0, 12.0]])
CARINA = np.array([0.0, 6.0, 40.0])


def oblique(p):
    """Height above the oblique fissure, mm: a sheet that rises to the back and is curved both ways."""
    return p[:, 2] - 0.9 * p[:, 1] - 0.0015 * p[:, 1] ** 2 + 0.002 * (np.abs(p[:, 0]) - MIDDLE) ** 2 + 2.0


def horizontal(p):
    return p[:, 2] - 18.0 + 0.1 * p[:, 1] - 0.0015 * (p[:, 0] + MIDDLE) ** 2


def lobes_of(p):
    side = np.sign(p[:, 0])
    q = (p - np.stack([side * MIDDLE, 0 * side, 0 * side], axis=1)) / SIZE
    inside = ((q**2).sum(axis=1) < 1) & (np.abs(p[:, 0]) > 20)
    above = oblique(p) > 0
    right = np.where(above, np.where(horizontal(p) > 0, LOBES["RUL"], LOBES["RML"]), LOBES["RLL"])
    left = np.where(above, LOBES["LUL"], LOBES["LLL"])
    return np.where(inside, np.where(side < 0, right, left), 0)


def cloud(step=4.0):
    axes = [np.arange(-a, a, step) for a in (SIZE[0] + MIDDLE, SIZE[1], SIZE[2])]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points[lobes_of(points) > 0]
    labels = lobes_of(points)
    q = (points - np.sign(points[:, :1]) * [MIDDLE, 0, 0]) / SIZE
    r = np.sqrt((q**2).sum(axis=1))
    pleura = np.maximum((r - 1) * r / np.linalg.norm(q / SIZE, axis=1), 20 - np.abs(points[:, 0]))
    slope = np.hypot(1, 0.9) * 1.15
    split = np.abs(oblique(points)) / slope
    near = (points[:, 0] < 0) & (oblique(points) > 0)
    fissure = np.where(near, np.minimum(split, np.abs(horizontal(points)) / 1.05), split)
    return points, labels, pleura, fissure


def grow(seed=3, keep=(1, 2, 3, 4, 5), **options):
    points, labels, pleura, fissure = cloud()
    mine = np.isin(labels, keep)

    def inside(p):
        found = lobes_of(p)
        return np.where(np.isin(found, keep), found, 0)

    return grow_trees(
        points[mine],
        labels[mine],
        pleura[mine],
        fissure[mine],
        HILA,
        CARINA,
        np.random.default_rng(seed),
        inside=inside,
        **options,
    )


@pytest.fixture(scope="module")
def trees():
    return grow()


def test_a_child_begins_where_its_parent_ends(trees):
    for tree in trees:
        up = tree.parent
        assert (up < np.arange(len(tree))).all()
        child = up >= 0
        first = child & (up[np.maximum(up, 0)] < 0)  # of the great trunks
        np.testing.assert_array_equal(tree.ends[child, 0], tree.ends[up[child], 1])
        assert (tree.radius[child] <= tree.radius[up[child]]).all()
        assert first.any()


def test_counts_follow_from_the_joints(trees):
    for tree in trees:
        children = np.bincount(tree.parent[tree.parent >= 0], minlength=len(tree))
        np.testing.assert_array_equal(tree.is_leaf, children == 0)
        for b in (0, len(tree) // 50, len(tree) // 10, len(tree) - 1):
            below = tree.subtree(b)
            assert tree.leaves[b] == (below & tree.is_leaf).sum()
            path, forks = b, 0
            while tree.parent[path] >= 0:
                path = tree.parent[path]
                forks += children[path] > 1
            assert tree.generation[b] == forks


def crossing(tree):
    """Branches of a lobe of which some point, half a millimetre apart, is not in it."""
    bad = []
    for b in np.flatnonzero(tree.lobe > 0):
        start, stop = tree.ends[b]
        share = np.linspace(0, 1, int(np.ceil(np.linalg.norm(stop - start) / 0.5)) + 1)[:, None]
        if (lobes_of(start + share * (stop - start)) != tree.lobe[b]).any():
            bad.append(b)
    return bad


@pytest.mark.parametrize("name", ["airways", "arteries", "veins"])
def test_no_branch_leaves_its_lobe(trees, name):
    tree = getattr(trees, name)
    assert crossing(tree) == []
    up = tree.lobe[np.maximum(tree.parent, 0)]
    assert ((up == tree.lobe) | (up == 0) | (tree.parent < 0)).all()
    assert (tree.lobe[tree.is_leaf] > 0).all()


def test_trunks_pass_through_no_lobe_but_their_own(trees):
    """Trunks reach the surface of their lobe from outside the lungs; the hila given here lie in the lungs."""
    assert (lobes_of(HILA) > 0).all()
    for tree in trees:
        for b in np.flatnonzero(tree.lobe == 0):
            own = set(tree.lobe[tree.subtree(b)])
            start, stop = tree.ends[b]
            share = np.linspace(0, 1, 201)[:, None]
            found = lobes_of(start + share * (stop - start))
            foreign = (found > 0) & ~np.isin(found, list(own))
            assert foreign.mean() * tree.length[b] < 0.5  # mm, where the surfaces of two lobes meet


def test_ends_share_the_lung_by_volume_and_keep_their_distance(trees):
    _, labels, *_ = cloud()
    volume = np.bincount(labels, minlength=6)[1:] / len(labels)
    for tree, step in zip(trees, (12.0, 8.0, 8.0), strict=True):
        leaf = tree.is_leaf
        share = np.bincount(tree.lobe[leaf], minlength=6)[1:] / leaf.sum()
        assert share == pytest.approx(volume, abs=0.025)
        room_ml = 4.0**3 * len(labels) / 1000
        spacing = (room_ml * 1000 / leaf.sum()) ** (1 / 3)
        assert spacing == pytest.approx(step, rel=0.2)  # no ends in the outer 2 mm


def test_names(trees):
    airways, arteries, veins = trees
    assert {"trachea", "RMB", "LMB", "BI", *LOBES} < set(airways.names)
    assert sum(n.startswith(("RB", "LB")) for n in airways.names) == 18
    assert sum(n.startswith(("RA", "LA")) for n in arteries.names) == 18
    assert {"PA", "RPA", "LPA", *LOBES} < set(arteries.names)
    assert set(veins.names) >= {"RSPV", "RIPV", "LSPV", "LIPV"}
    for tree in (airways, arteries):
        for name, label in LOBES.items():
            below = tree.subtree(tree.names[name])
            np.testing.assert_array_equal(below & (tree.lobe > 0), tree.lobe == label)


def test_segments_are_about_an_eighteenth(trees):
    arteries = trees.arteries
    share = {
        n: arteries.leaves[b] / arteries.leaves[0] for n, b in arteries.names.items() if n[:2] in ("RA", "LA")
    }
    print("\n" + ", ".join(f"{n} {100 * s:.1f} %" for n, s in share.items()))
    assert sum(share.values()) == pytest.approx(1)
    assert min(share.values()) > 0.025
    assert max(share.values()) < 0.1


def test_airways_have_published_diameters_and_lengths(trees):
    """Schmidt (2004): mean diameter and length of each generation, with the spread of lengths."""
    published = {2: (19, 9), 3: (15, 10), 4: (18, 12), 5: (12, 5), 6: (12, 6), 7: (9, 6), 8: (7.5, 5)}
    tree = trees.airways
    # a branch may be drawn in pieces: those with a single child go on
    children = np.bincount(tree.parent[1:], minlength=len(tree))
    through, length = children == 1, tree.length
    for b in range(1, len(tree)):
        if through[tree.parent[b]]:
            length[b] += length[tree.parent[b]]
    print("\ngeneration, branches, diameter mm (published), length mm (published)")
    for g, (mean, sd) in published.items():
        mine = (tree.generation == g) & ~through
        diameter, long = 2 * tree.radius[mine].mean(), length[mine].mean()
        print(f"{g} {mine.sum():4d} {diameter:5.2f} ({AIRWAY_DIAMETER[g]}) {long:5.1f} ({mean} +- {sd})")
        assert abs(long - mean) < sd
        assert 0.6 < diameter / AIRWAY_DIAMETER[g] < 1.7
    assert 0.75 < 2 * tree.radius[tree.is_leaf].mean() < 1.4
    assert 9 <= np.median(tree.generation[tree.is_leaf]) <= 12


def test_branches_turn_by_less_than_a_right_angle(trees):
    for tree in trees:
        inner = np.flatnonzero((tree.lobe > 0) & (tree.leaves > 1) & (tree.generation > 6))
        toward = tree.ends[:, 1] - tree.ends[:, 0]
        toward /= np.linalg.norm(toward, axis=1, keepdims=True)
        cosine = (toward[inner] * toward[tree.parent[inner]]).sum(axis=1)
        angle = np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
        assert np.percentile(angle, 90) < 75
        assert 25 < angle.mean() < 55  # published means by generation: 31-51 degrees


def distance_to(tree: Tree, chosen, points):
    """From each point to the nearest axis of the chosen branches, and that branch."""
    a, b = tree.ends[chosen, 0], tree.ends[chosen, 1]
    along = b - a
    t = ((points[:, None] - a) * along).sum(-1) / (along**2).sum(-1)
    d = np.linalg.norm(points[:, None] - a - np.clip(t, 0, 1)[..., None] * along, axis=-1)
    which = d.argmin(axis=1)
    return d[np.arange(len(points)), which], chosen[which]


def test_large_arteries_run_beside_airways_and_large_veins_do_not(trees):
    airways, arteries, veins = trees
    tubes = np.flatnonzero((airways.lobe > 0) & (airways.radius > 0.7))
    apart = {}
    for name, tree in (("arteries", arteries), ("veins", veins)):
        large = (tree.lobe > 0) & (tree.radius > 1.2)
        d, beside = distance_to(airways, tubes, tree.ends[large].mean(axis=1))
        gap = d - airways.radius[beside] - tree.radius[large]
        apart[name] = np.median(gap)
        print(
            f"\n{name}: gap between the walls, median {np.median(gap):.1f} mm, 5 % {np.percentile(gap, 5):.1f}"
        )
        assert (gap < -0.5 * tree.radius[large]).mean() < 0.06
    assert apart["arteries"] < 1.5
    assert apart["veins"] > 3.0


def test_an_artery_is_about_as_wide_as_its_airway_with_its_wall(trees):
    airways, arteries, _ = trees
    ratio = [
        arteries.radius[b] / (OUTER * airways.radius[airways.names[n.replace("A", "B")]])
        for n, b in arteries.names.items()
        if n[:2] in ("RA", "LA")
    ]
    assert 0.8 < np.mean(ratio) < 1.3


@pytest.mark.parametrize("keep", [(1, 2, 3, 5), (3, 4, 5), (2,), ()])
def test_lobes_that_are_not_there_get_no_branches(keep):
    for tree in grow(keep=keep):
        assert set(tree.lobe) - {0} == set(keep)
        assert crossing(tree) == []


def test_the_same_seed_gives_the_same_trees(trees):
    for one, other in zip(trees, grow(), strict=True):
        np.testing.assert_array_equal(one.ends, other.ends)
        np.testing.assert_array_equal(one.radius, other.radius)
    assert len(grow(seed=4).airways) != len(trees.airways)


def test_an_end_that_counts_half_thins_what_feeds_it_by_its_share():
    """Two ends below one small branch below a large one: by hand."""
    tree = Tree(
        ends=np.zeros((4, 2, 3)),
        radius=np.array([3.0, 1.0, 0.5, 0.5]),
        lobe=np.ones(4, int),
        parent=np.array([-1, 0, 1, 1]),
        generation=np.array([0, 1, 2, 2]),
        leaves=np.array([2, 2, 1, 1]),
    )
    assert tree.radius[0] > THIN_MM > tree.radius[1]
    found = thinned(tree, np.array([9.0, 9.0, 1.0, 0.5])).radius
    np.testing.assert_allclose(found, [3.0, 0.75**VESSEL_POWER, 0.5, 0.5 * 0.5**VESSEL_POWER])
    np.testing.assert_array_equal(thinned(tree, np.ones(4)).radius, tree.radius)
