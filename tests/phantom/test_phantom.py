"""The phantom's truths hold against each other, by routes that do not share code where possible."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from lungvq import anatomy
from lungvq.bench.phantom import balance
from lungvq.errors import UsageError
from lungvq.phantom import CASES, Physiology, make_phantom, write_phantom
from lungvq.phantom import tissue as kinds
from lungvq.phantom.lobes import lobe_of
from lungvq.phantom.make import _grids, _scan
from lungvq.phantom.motion import MIDDLE_X, map_points, unmap_points
from lungvq.phantom.place import lobes_at
from lungvq.phantom.subject import LOBE_RANGES, SAMPLE_MM, draw_body, draw_subject, sample_lungs, tissue_at
from lungvq.phantom.tree import VESSEL_POWER

STEP = (3.5, 3.0, 2.5)  # unequal: a mix-up of axes has nowhere to hide


@pytest.fixture(scope="module")
def phantom():
    return make_phantom("healthy", seed=3, spacing=STEP)


@pytest.fixture(scope="module")
def pe():
    return make_phantom("pe", seed=1, spacing=(2.5, 3.0, 3.2))


@pytest.fixture(
    scope="module", params=["healthy", "large-motion", "air-trapping", "collapsed-left", "sliding"]
)
def subject(request):
    return draw_subject(CASES[request.param], 5)


def lung_points(phantom, count=2000):
    inside = np.argwhere(phantom.truth.lobes_exp.array > 0)
    rng = np.random.default_rng(0)
    index = inside[rng.choice(len(inside), count)]
    return phantom.truth.lobes_exp.grid.world(index + rng.uniform(-0.5, 0.5, index.shape))


@pytest.mark.parametrize("which", ["phantom", "pe"])
def test_expansion_mass_and_air_balance(which, request):
    """Sums over the two scans, made apart, against sums of the truth: to 0.1 % of each."""
    found = request.getfixturevalue(which)
    s, jacobian = found.truth.scalars, found.truth.jacobian
    total = np.nansum(jacobian.array, dtype=float) * jacobian.voxel_ml
    counted = (found.truth.lobes_insp.array > 0).sum() * found.truth.lobes_insp.voxel_ml
    assert total == pytest.approx(counted, rel=1.5e-3)  # voxels either lung or not: a little rougher
    assert total == pytest.approx(s["volume_insp_ml"], rel=1.5e-3)
    gained = s["mass_insp_g"] - s["mass_exp_g"]
    assert gained == pytest.approx(s["mass_gained_g"], abs=1e-3 * s["mass_exp_g"])
    air = (s["volume_insp_ml"] - s["mass_insp_g"]) - (s["volume_exp_ml"] - s["mass_exp_g"])
    assert air == pytest.approx(s["air_gained_ml"], rel=1e-3)
    summed = np.nansum(found.truth.ventilation.array, dtype=float) * jacobian.voxel_ml
    assert summed == pytest.approx(s["air_gained_ml"], rel=3e-3)
    by_lobe = sum(lobe["air_gained_ml"] for lobe in s["lobes"].values())
    assert by_lobe == pytest.approx(s["air_gained_ml"], rel=1e-6)


def test_the_images_hold_the_air_the_truth_says(phantom):
    """The scans themselves, noise and blur and all, gain the air of the truth.

    To 4 %: blur carries some tissue of the chest wall across the edge of the mask at both scans.
    """
    air = []
    for scan, lobes in (
        (phantom.insp, phantom.truth.lobes_insp),
        (phantom.exp, phantom.truth.lobes_exp),
    ):
        air.append(-scan.array[lobes.array > 0].sum(dtype=float) / 1000 * scan.voxel_ml)
    assert air[0] - air[1] == pytest.approx(phantom.truth.scalars["air_gained_ml"], rel=0.04)


def test_jacobian_is_the_determinant_of_the_gradient_of_phi(subject):
    away = np.flatnonzero(subject.samples.fissure > 0.1)  # at a fissure that slides there is no gradient
    points = subject.samples.points[away[:: max(1, len(away) // 500)]]
    _, jacobian = map_points(subject.motion, points)
    e = 1e-3
    columns = [
        (map_points(subject.motion, points + e * d)[0] - map_points(subject.motion, points - e * d)[0])
        / (2 * e)
        for d in np.eye(3)
    ]
    assert np.linalg.det(np.stack(columns, axis=-1)) == pytest.approx(jacobian, rel=2e-4)


def test_the_map_never_folds(subject):
    assert map_points(subject.motion, subject.samples.points)[1].min() > 0.2


def test_the_way_back(subject):
    points = subject.samples.points[::7]
    there = map_points(subject.motion, points)[0]
    assert np.abs(unmap_points(subject.motion, there) - points).max() < 1e-6


def test_fissures_stay_where_they_are_when_lobes_slide(subject):
    """A parcel's lobe can be told from where it is at inspiration: nothing crosses, opens or overlaps."""
    samples, motion = subject.samples, subject.motion
    there = map_points(motion, samples.points)[0]
    for n in range(0, len(there), 11):
        side = int(there[n, 0] > motion.chest[MIDDLE_X])
        assert lobe_of(motion.sheet, side, *there[n])[0] == samples.labels[n]


def test_lobes_slide_where_asked():
    """Two points on either side of a fissure, half a millimetre apart, part ways by the set distance at most."""
    subject = draw_subject(CASES["sliding"], 5)
    samples, motion = subject.samples, subject.motion
    still = motion._replace(slide=np.zeros(3))
    moved = map_points(motion, samples.points)[0] - map_points(still, samples.points)[0]
    along = np.abs(moved[:, 1])
    assert np.abs(moved[:, 0]).max() == 0
    assert 4 < along.max() <= np.abs(motion.slide).max()
    near = (samples.fissure < 5) & np.isin(samples.labels, (2, 3, 5))
    assert along[near].mean() > 3 * along[np.isin(samples.labels, (1, 4))].mean()


def test_inverse(phantom):
    points = lung_points(phantom)
    assert np.abs(phantom.phi_inverse(phantom.phi(points)) - points).max() < 1e-6


def test_maps_agree_with_the_closed_form(phantom):
    truth = phantom.truth
    index = np.argwhere(truth.lobes_exp.array > 0)[::50]
    points = truth.lobes_exp.grid.world(index)
    at = tuple(index.T)
    assert truth.displacement.array[at] == pytest.approx(phantom.phi(points) - points, abs=1e-3)
    assert truth.jacobian.array[at] == pytest.approx(phantom.jacobian_at(points), rel=1e-5)
    gained = truth.jacobian.array[at] - 1 - truth.mass_change.array[at]
    assert truth.ventilation.array[at] == pytest.approx(gained, abs=1e-5)


def test_landmarks_follow_the_displacement(phantom):
    exp, insp = phantom.truth.landmarks[:, 0], phantom.truth.landmarks[:, 1]
    assert len(exp) >= 200
    assert insp == pytest.approx(phantom.phi(exp))
    by_field = exp + phantom.truth.displacement.sample(exp)
    assert np.linalg.norm(by_field - insp, axis=1).mean() < 0.1  # trilinear between voxels


def test_lobes_lie_where_anatomy_has_them(phantom):
    """Left lobes at greater x; upper lobes above and before lower ones; both scans alike."""
    for lobes in (phantom.truth.lobes_exp, phantom.truth.lobes_insp):
        assert lobes.grid.codes == "SPL"
        centre = {
            name: lobes.grid.world(np.argwhere(lobes.array == label)).mean(axis=0)
            for name, label in anatomy.LOBES.items()
        }
        left, right = ("LUL", "LLL"), ("RUL", "RML", "RLL")
        assert min(centre[n][0] for n in left) > max(centre[n][0] for n in right) + 50
        assert centre["LUL"][2] > centre["LLL"][2]
        assert centre["RUL"][2] > centre["RML"][2]
        assert centre["RML"][1] < centre["RLL"][1] - 20
        assert centre["LUL"][1] < centre["LLL"][1] - 20


def test_a_parcel_keeps_its_lobe(phantom):
    points = lung_points(phantom, 4000)
    before = phantom.truth.lobes_exp
    after = phantom.truth.lobes_insp
    at_exp = tuple(np.rint(before.grid.index(points)).astype(int).T)
    at_insp = tuple(np.rint(after.grid.index(phantom.phi(points))).astype(int).T)
    assert (before.array[at_exp] == after.array[at_insp]).mean() > 0.93  # rounding at fissures and pleura


def test_hu_are_those_of_lungs(phantom):
    exp = phantom.exp.array[phantom.truth.lobes_exp.array > 0].mean()
    insp = phantom.insp.array[phantom.truth.lobes_insp.array > 0].mean()
    assert -790 < exp < -660
    assert -900 < insp < -800
    assert phantom.exp.array.dtype == phantom.insp.array.dtype == np.int16
    assert phantom.exp.array.min() >= -1024


def test_perfusion_has_mean_one(phantom):
    assert np.nanmean(phantom.truth.perfusion.array, dtype=float) == pytest.approx(1, abs=1e-4)


def test_same_seed_same_phantom():
    a, b = (make_phantom("shallow", seed=4, spacing=6.0) for _ in range(2))
    assert np.array_equal(a.insp.array, b.insp.array)
    assert np.array_equal(a.exp.array, b.exp.array)
    assert np.array_equal(a.truth.landmarks, b.truth.landmarks)
    assert a.truth.scalars == b.truth.scalars


def test_seeds_are_different_people():
    volumes = [
        make_phantom("healthy", seed=seed, spacing=6.0).truth.scalars["volume_exp_ml"] for seed in (1, 2)
    ]
    assert abs(volumes[0] - volumes[1]) > 50


def test_lobar_shares_are_in_the_published_ranges():
    """Ranges of 32 people at inspiration; their means, to 1.3 sd (n = 20)."""
    published = {
        "LUL": (23.1, 2.1),
        "LLL": (23.2, 2.4),
        "RUL": (17.9, 2.4),
        "RML": (9.3, 1.6),
        "RLL": (26.5, 2.6),
    }
    shares = []
    for seed in range(20):
        body = draw_body(CASES["healthy"], seed)
        samples = sample_lungs(body.shape, body.motion)
        weight = np.bincount(samples.labels, samples.jacobian, minlength=6)[1:]
        shares.append(100 * weight / weight.sum())
        assert 1.5 < samples.jacobian.mean() < 2.4
        assert 1.5 < len(samples.points) * SAMPLE_MM**3 / 1e6 < 4.2
    for column, (name, (mean, sd)) in zip(np.array(shares).T, published.items(), strict=True):
        low, high = LOBE_RANGES[name]
        assert 100 * low - 1 < column.min() <= column.max() < 100 * high + 1, name
        assert column.mean() == pytest.approx(mean, abs=1.3 * sd), name


def test_territories_are_exactly_what_the_blocked_arteries_feed(pe):
    """By brute force: the nearest end of the tree in the same lobe lies below a blocked branch."""
    tree, truth = pe.subject.trees.arteries, pe.truth
    blocked = np.zeros(len(tree), bool)
    for branch in pe.subject.blocked:
        blocked |= tree.subtree(branch)
    lobes = truth.lobes_exp
    for label in np.unique(lobes.array[lobes.array > 0]):
        ends = np.flatnonzero(tree.is_leaf & (tree.lobe == label))
        index = np.argwhere(lobes.array == label)
        nearest = ends[cKDTree(tree.ends[ends, 1]).query(lobes.grid.world(index))[1]]
        marked = truth.disease.array[tuple(index.T)] == kinds.EMBOLISM
        assert (marked == blocked[nearest]).mean() > 0.9999  # points half way between two ends


def test_vessels_and_airways_stay_in_their_lobes(pe):
    for tree in pe.subject.trees:
        inside = np.flatnonzero(tree.lobe > 0)
        share = np.linspace(0.02, 0.98, 15)[None, :, None]
        along = tree.ends[inside, :1] * (1 - share) + tree.ends[inside, 1:] * share
        labels = lobes_at(pe.subject.shape, pe.motion, along.reshape(-1, 3))[0].reshape(len(inside), -1)
        crossed = (labels != tree.lobe[inside, None]) & (labels > 0)
        assert crossed.mean() < 1e-3  # the emboli bend the fissures by less than the room left beside them


def test_every_disease_marks_its_own():
    expected = {
        "emphysema": kinds.EMPHYSEMA,
        "small-airways": kinds.TRAPPING,
        "consolidation": kinds.CONSOLIDATION,
        "fibrosis": kinds.FIBROSIS,
        "post-infection": kinds.PATCHY_FLOW,
        "cteph": kinds.EMBOLISM,
    }
    for case, kind in expected.items():
        subject = draw_subject(CASES[case], 2)
        parts = tissue_at(subject.tissue, subject.territory, subject.samples)
        assert 0.01 < (parts[:, 4] == kind).mean() < 0.7, case
        assert parts[:, 3].mean() == pytest.approx(1)
        assert (parts[:, 0] + parts[:, 1]).max() < 1.1


def test_a_lobe_without_air_is_no_lung():
    truth = make_phantom("collapsed-lobe", seed=2, spacing=5.0).truth
    assert truth.scalars["lobes"]["LLL"]["volume_exp_ml"] == pytest.approx(0, abs=15)  # its edge voxels
    assert truth.scalars["lobes"]["RLL"]["volume_exp_ml"] > 200


def test_fissures_are_missing_where_asked():
    """Less area at half completeness: the plates' mass shows it."""
    masses = []
    for share in (1.0, 0.5):
        case = replace(CASES["shallow"], completeness=(share, share))
        subject = draw_subject(case, 4)
        grid = _grids(subject, (4.0, 4.0, 4.0), None)[0]
        masses.append(_scan(subject, grid, False).mass_g)
    hidden = draw_subject(replace(CASES["shallow"], visible=False), 4)
    none = _scan(hidden, grid, False).mass_g
    assert (masses[1] - none) / (masses[0] - none) == pytest.approx(0.5, abs=0.08)


def test_emboli_take_flow_and_leave_air():
    truth = make_phantom("pe", seed=1, spacing=4.0).truth
    classes = np.bincount(truth.vq_class.array[truth.lobes_exp.array > 0], minlength=5)
    share = classes / classes.sum()
    assert share[anatomy.VQ_CLASSES["dead_space"]] > 0.1


def test_trapped_air_stays():
    plain, trapped = (make_phantom(case, seed=1, spacing=4.0) for case in ("healthy", "air-trapping"))
    low = [np.nanmean(p.truth.jacobian.array < 1.15) for p in (plain, trapped)]
    assert low[1] > low[0]


def test_a_collapsed_lung_keeps_a_remnant_that_does_not_breathe():
    truth = make_phantom("collapsed-left", seed=1, spacing=4.0).truth
    lobes = truth.scalars["lobes"]
    before = lobes["LUL"]["volume_exp_ml"] + lobes["LLL"]["volume_exp_ml"]
    after = lobes["LUL"]["volume_insp_ml"] + lobes["LLL"]["volume_insp_ml"]
    assert 20 < before < 200
    assert after == pytest.approx(before, rel=0.15)


def with_knobs(**knobs):
    """A healthy subject whose physiology is set, not drawn."""
    fixed = {"follow": (0.5, 0.5), "beta": (-0.02, -0.02), **knobs}
    return draw_subject(replace(CASES["healthy"], physiology=Physiology(**fixed)), 9)


def parts_of(subject):
    return tissue_at(subject.tissue, subject.territory, subject.samples).T


def test_beta_changes_the_mass_alone():
    """J, displacement, flow and density at expiration stay; V changes by -dm (water's density is 1)."""
    a, b = with_knobs(), with_knobs(beta=(0.05, 0.05))
    assert np.array_equal(
        map_points(a.motion, a.samples.points)[0], map_points(b.motion, b.samples.points)[0]
    )
    assert np.array_equal(a.samples.jacobian, b.samples.jacobian)
    (dry, blood, gained, flow, _), (dry_b, blood_b, gained_b, flow_b, _) = parts_of(a), parts_of(b)
    assert np.array_equal(flow, flow_b)
    assert np.array_equal(dry + blood, dry_b + blood_b)
    assert gained == pytest.approx(-0.02 * flow)
    assert gained_b == pytest.approx(0.05 * flow)


def test_w_moves_blood_but_not_its_change():
    a, b = with_knobs(follow=(0.0, 0.0)), with_knobs(follow=(1.0, 1.0))
    (_, blood, gained, flow, _), (_, blood_b, gained_b, flow_b, _) = parts_of(a), parts_of(b)
    assert np.array_equal(gained, gained_b)
    assert np.array_equal(flow, flow_b)
    assert np.corrcoef(blood_b, flow)[0, 1] > np.corrcoef(blood, flow)[0, 1] + 0.3


def test_gamma_takes_a_share_of_the_blood_and_flip_turns_its_sign():
    lost = parts_of(with_knobs(follow=(0.0, 0.0), beta=(0.0, 0.0), gamma=(0.2, 0.2)))
    assert lost[2] == pytest.approx(-0.2 * lost[1])
    subject = with_knobs(flip=True)
    gained = parts_of(subject)[2]
    above = subject.samples.points[:, 2] > subject.tissue.middle_z
    assert (gained[above] < 0).all()
    assert (gained[~above] >= 0).all()


def test_hypoxic_vasoconstriction_turns_flow_away():
    subject = draw_subject(CASES["hypoxic"], 2)
    flow = parts_of(subject)[3]
    still = subject.samples.jacobian < 1.2
    assert flow[still].mean() < 0.75 * flow[~still].mean()


def test_expansion_is_more_than_a_slope():
    """Neither height alone nor a front-to-back slope explains half of the rank order of J."""
    from scipy.stats import spearmanr

    samples = draw_subject(CASES["healthy"], 6).samples
    for axis in (1, 2):
        assert spearmanr(samples.points[:, axis], samples.jacobian).statistic ** 2 < 0.5


def test_part_of_a_breath(phantom):
    points = lung_points(phantom, 500)
    none, expansion = phantom.at(0.0, points)
    assert none == pytest.approx(points)
    assert expansion == pytest.approx(1)
    whole = phantom.at(1.0, points)[0]
    assert whole == pytest.approx(phantom.phi(points), abs=1e-9)


def test_vessels_thin_where_flow_was_lost_and_nowhere_else():
    case = CASES["cteph"]
    full = draw_subject(replace(case, physiology=replace(case.physiology, prune=0.0)), 4)
    thin = draw_subject(case, 4)
    np.testing.assert_array_equal(*(tissue_at(s.tissue, s.territory, s.samples) for s in (full, thin)))
    np.testing.assert_array_equal(thin.motion.bumps, full.motion.bumps)
    before, after = full.trees.arteries, thin.trees.arteries
    lost = np.any([before.subtree(branch) for branch in full.blocked], axis=0)
    small = before.radius < 1.2
    ratio = after.radius / before.radius
    ends = lost & before.is_leaf
    assert ratio[ends].min() >= 0.35**VESSEL_POWER
    assert np.median(ratio[ends]) == pytest.approx(
        (1 - 0.65 * 0.75) ** VESSEL_POWER, abs=0.05
    )  # flow 0.1 to 0.4
    assert (ratio[~lost & small & before.is_leaf] > 0.999).all()
    assert (ratio[before.radius > 1.8] == 1).all()
    volume = [
        sum((t.radius**2 * t.length)[(t.radius < 1.26) & (t.lobe > 0)].sum() for t in s.trees[1:])
        for s in (full, thin)
    ]
    assert 0.75 < volume[1] / volume[0] < 0.92  # 2.7 against 3.2 in patients: 0.84


def test_pruned_lungs_keep_their_balance():
    phantom = make_phantom("cteph", seed=2, spacing=4.0)
    assert max(abs(part) for part in balance(phantom)) < 0.1


def test_vessels_keep_their_mass(subject):
    exp, insp = _grids(subject, (4.0, 4.0, 4.0), None)
    before = _scan(subject, exp, False)
    after = _scan(subject, insp, True, before.tubes_g)
    assert after.tubes_g[1:].sum() == pytest.approx(before.tubes_g[1:].sum(), rel=2e-3)


@pytest.mark.parametrize("wrong", [{"case": "nobody"}, {"spacing": 0.0}, {"spacing": -2}])
def test_wrong_requests_are_one_sentence(wrong):
    with pytest.raises(UsageError):
        make_phantom(**wrong)


def test_written_files(phantom, tmp_path):
    write_phantom(phantom, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"insp.nii.gz", "exp.nii.gz", "truth"}
    assert len(list((tmp_path / "truth").glob("*.nii.gz"))) == 9
    facts = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert facts["seed"] == 3
    assert facts["knobs"]["beta"] < 0
    rows = np.loadtxt(tmp_path / "truth" / "landmarks.csv", delimiter=",", skiprows=1)
    assert rows.reshape(-1, 2, 3) == pytest.approx(phantom.truth.landmarks, abs=1e-3)
