"""The phantom's truths hold against each other, by routes that do not share code where possible."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lungvq import anatomy
from lungvq.errors import UsageError
from lungvq.phantom import CASES, make_phantom
from lungvq.phantom.make import _scan
from lungvq.phantom.motion import map_points
from lungvq.phantom.subject import SAMPLE_MM, draw_body, draw_subject
from lungvq.phantom.tissue import composition_at
from lungvq.phantom.tree import grow

STEP = (3.5, 3.0, 2.5)  # unequal: a mix-up of axes has nowhere to hide


@pytest.fixture(scope="module")
def phantom():
    return make_phantom("healthy", seed=3, spacing=STEP)


@pytest.fixture(scope="module", params=["healthy", "large-motion", "air-trapping", "collapsed-left"])
def subject(request):
    return draw_subject(CASES[request.param], np.random.default_rng(5))


def lung_points(phantom, count=2000):
    inside = np.argwhere(phantom.truth.lobes_exp.array > 0)
    rng = np.random.default_rng(0)
    index = inside[rng.choice(len(inside), count)]
    return phantom.truth.lobes_exp.grid.world(index + rng.uniform(-0.5, 0.5, index.shape))


def test_expansion_adds_up_to_the_inspiratory_volume(phantom):
    """J is closed form, the volume is counted in the other scan: half a voxel layer is all they may differ."""
    jacobian = phantom.truth.jacobian
    total = np.nansum(jacobian.array, dtype=float) * jacobian.voxel_ml
    assert total == pytest.approx(phantom.truth.scalars["volume_insp_ml"], rel=2e-3)
    counted = (phantom.truth.lobes_insp.array > 0).sum() * phantom.truth.lobes_insp.voxel_ml
    assert total == pytest.approx(counted, rel=5e-3)


def test_mass_and_air_balance(phantom):
    """Mass at inspiration is mass at expiration plus what came in.

    To 0.1 % of the mass: the two lungs are counted on voxels of different parcels.
    """
    s = phantom.truth.scalars
    gained = s["mass_insp_g"] - s["mass_exp_g"]
    assert gained == pytest.approx(s["mass_gained_g"], abs=1e-3 * s["mass_exp_g"])
    air = (s["volume_insp_ml"] - s["mass_insp_g"]) - (s["volume_exp_ml"] - s["mass_exp_g"])
    assert air == pytest.approx(s["air_gained_ml"], rel=5e-3)


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
    points = subject.samples[:: max(1, len(subject.samples) // 500)]
    _, jacobian = map_points(subject.motion, points)
    e = 1e-4
    columns = [
        (map_points(subject.motion, points + e * d)[0] - map_points(subject.motion, points - e * d)[0])
        / (2 * e)
        for d in np.eye(3)
    ]
    assert np.linalg.det(np.stack(columns, axis=-1)) == pytest.approx(jacobian, rel=1e-4)


def test_the_map_never_folds(subject):
    assert map_points(subject.motion, subject.samples)[1].min() > 0.2


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
    """Ranges of 32 people at inspiration, widened by one sd; their means, to one sd (n = 20)."""
    published = {
        "LUL": (23.1, 2.1, 18.1, 26.6),
        "LLL": (23.2, 2.4, 19.4, 28.7),
        "RUL": (17.9, 2.4, 11.8, 22.7),
        "RML": (9.3, 1.6, 6.6, 13.8),
        "RLL": (26.5, 2.6, 22.3, 34.0),
    }
    shares = []
    for seed in range(20):
        _, motion, points, lobes = draw_body(CASES["healthy"], np.random.default_rng([seed, 77]))
        weight = np.bincount(lobes, map_points(motion, points)[1], minlength=6)[1:]
        shares.append(100 * weight / weight.sum())
        assert 1.5 < weight.sum() / len(points) < 2.4
        assert 1.5 < len(points) * SAMPLE_MM**3 / 1e6 < 4.2
    for column, (name, (mean, sd, low, high)) in zip(np.array(shares).T, published.items(), strict=True):
        assert column.min() > low - sd, name
        assert column.max() < high + sd, name
        assert column.mean() == pytest.approx(mean, abs=1.3 * sd), name


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


def test_flow_and_motion_are_independent_settings():
    """The same seed with another blood model moves in the same way."""
    from dataclasses import replace

    base = CASES["healthy"]
    other = replace(base, gain=(0.05, 0.05), follow=(0.0, 0.0))
    a, b = (draw_subject(c, np.random.default_rng(9)) for c in (base, other))
    assert np.array_equal(map_points(a.motion, a.samples)[0], map_points(b.motion, b.samples)[0])
    assert b.tissue.gain == 0.05
    assert np.all(composition_at(b.tissue, b.samples)[:, 2] > 0)


def test_vessels_keep_their_mass(subject):
    from lungvq.phantom.make import _grids

    exp, insp = _grids(subject, (4.0, 4.0, 4.0))
    before = _scan(subject, exp, False)
    after = _scan(subject, insp, True, before.tubes_g)
    assert after.tubes_g == pytest.approx(before.tubes_g, rel=2e-3)


def test_tree_reaches_every_point():
    points = np.random.default_rng(0).uniform(0, 50, (60, 3))
    branches, ends = grow(points, np.array([-10.0, 0, 0]))
    tips = branches[ends == 1][:, 1]
    assert len(tips) == 60
    assert {tuple(p) for p in tips} == {tuple(p) for p in points}
    assert ends[0] == 60


@pytest.mark.parametrize("wrong", [{"case": "nobody"}, {"spacing": 0.0}, {"spacing": -2}])
def test_wrong_requests_are_one_sentence(wrong):
    with pytest.raises(UsageError):
        make_phantom(**wrong)


def test_written_files(phantom, tmp_path):
    io = pytest.importorskip("lungvq.io")
    if not hasattr(io, "write"):
        pytest.skip("no writer yet")
    from lungvq.phantom import write_phantom

    write_phantom(phantom, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"insp.nii.gz", "exp.nii.gz", "truth"}
    assert len(list((tmp_path / "truth").glob("*.nii.gz"))) == 8
    facts = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert facts["seed"] == 3
    rows = np.loadtxt(tmp_path / "truth" / "landmarks.csv", delimiter=",", skiprows=1)
    assert rows.reshape(-1, 2, 3) == pytest.approx(phantom.truth.landmarks, abs=1e-3)
