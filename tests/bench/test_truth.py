"""The bench of truth: its plan, T0 on a coarse grid, where the estimators must be exact, and what it keeps."""

from collections import Counter

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from lungvq.bench import truth
from lungvq.bench.truth import plan, pointwise
from lungvq.bench.truth.plan import LEAST_EACH, diseases_of, spacing_of, spacing_range
from lungvq.bench.truth.report import report
from lungvq.bench.truth.robust import wrong_motion
from lungvq.bench.truth.seen import true_registration
from lungvq.errors import UsageError
from lungvq.phantom import CASES, make_phantom, rescan
from lungvq.regional import carry
from lungvq.register import Registration
from lungvq.volume import CANONICAL


@pytest.fixture(scope="module")
def phantom():
    return make_phantom("mass-flip", seed=3, spacing=4.0)


def test_estimators_are_exact_on_the_true_motion_and_density(phantom):
    lobes = phantom.truth.lobes_exp.reorient(CANONICAL)
    lungs = lobes.like(np.array([0, 1, 1, 2, 2, 2], np.uint8)[lobes.array])
    blood, found = pointwise(phantom, lungs)
    assert min(found["t0_v"], found["t0_j"]) > 0.999
    assert max(abs(found["t0_v_bias_pct"]), abs(found["t0_j_bias_pct"])) < 0.5
    assert found["t0_m_error_pct"] < 1
    assert found["t0_sum_pct"] < 0.1
    assert np.nanmin(carry(blood, lungs)) >= 0


def test_the_plan_is_the_same_every_time_and_has_every_case_at_last():
    assert plan(12) == plan(30)[:12] == plan(30)[:12]
    assert len({subject.seed for subject in plan(60)}) == 60
    tests = " ".join(subject.tests for subject in plan(12))
    assert all(f"T{n}" in tests for n in (1, 2, 3, 4, 5, 6, 7, 9))
    assert {subject.name for subject in plan(80)} >= set(CASES) - {"shallow", "collapsed-left"}


def test_forty_subjects_have_every_disease_three_times():
    forty = plan(40)
    kinds = Counter(
        kind for s in forty for kind in diseases_of(CASES[s.case] if isinstance(s.case, str) else s.case)
    )
    assert set(kinds) == {kind for case in CASES.values() for kind in diseases_of(case)}
    assert min(kinds.values()) >= LEAST_EACH


@pytest.mark.parametrize("text", ["", "a", "3-1.5", "0.5", "1.5-9", "1-2-3"])
def test_what_is_no_voxel_size_is_refused(text):
    with pytest.raises(UsageError, match="expected"):
        spacing_range(text)


def test_voxel_sizes_are_drawn_from_the_range_and_stay():
    drawn = [spacing_of(subject, spacing_range("1.5-3")) for subject in plan(40)]
    assert drawn == [spacing_of(subject, (1.5, 3.0)) for subject in plan(40)]
    assert min(drawn) < 1.8
    assert max(drawn) > 2.7
    assert {spacing_of(subject, spacing_range("3")) for subject in plan(5)} == {3.0}


def test_a_run_that_was_stopped_goes_on_and_new_code_measures_again(tmp_path, monkeypatch):
    measured, stop_at = [], [2]

    def measured_once(subject, spacing):
        if len(measured) in stop_at:
            stop_at.clear()
            raise KeyboardInterrupt
        measured.append((subject.seed, spacing))
        return {"motion_mean": 0.5, "v8_map": 0.9, "v_covered": 95.0}

    monkeypatch.setattr(truth, "_measured", measured_once)
    monkeypatch.setattr(truth, "report", lambda found: [f"{len(found)} subjects"])
    monkeypatch.setattr(truth, "fingerprint", lambda: "old")

    def run(spacing="3"):
        return truth.bench_truth("3", 1, spacing, lambda line: None, tmp_path).splitlines()[-1]

    with pytest.raises(KeyboardInterrupt):
        run()
    assert run() == "3 subjects"
    assert measured == [(subject.seed, 3.0) for subject in plan(3)]
    assert run("1.5-3") == "3 subjects"  # another voxel size is another scan
    assert len(measured) == 6
    monkeypatch.setattr(truth, "fingerprint", lambda: "new")
    run()
    assert len(measured) == 9
    assert not list(tmp_path.glob("*.part"))


def test_another_day_is_the_same_person_with_other_noise(phantom):
    again = rescan(phantom)
    for name in ("ventilation", "lobes_insp", "mass_change"):
        one, other = (getattr(p.truth, name).array for p in (phantom, again))
        np.testing.assert_array_equal(one, other)
    assert (again.exp.array != phantom.exp.array).mean() > 0.3
    assert again.insp.grid.same_as(phantom.insp.grid)


def test_an_imposed_error_is_as_large_as_it_says(phantom):
    lobes = phantom.truth.lobes_exp.reorient(CANONICAL)
    lungs = lobes.like(np.array([0, 1, 1, 2, 2, 2], np.uint8)[lobes.array])
    inside = lungs.array > 0
    points = lungs.grid.world(np.argwhere(inside))
    nothing = [lungs.like(np.zeros(lungs.shape, np.float32)) for _ in range(5)]
    still = Registration(lungs.like(np.zeros((*lungs.shape, 3), np.float32)), lungs, *nothing, quality=None)
    truly = true_registration(phantom, still)
    wrong = wrong_motion(phantom, truly, 2.0, 20.0)
    # To first order phi(x + e) - phi(x) is grad phi times e, which stretches e by about the cube root of J.
    moved = np.linalg.norm(wrong.displacement.array[inside] - truly.displacement.array[inside], axis=1)
    stretch = phantom.jacobian_at(points).mean() ** (1 / 3)
    assert np.sqrt((moved**2).mean()) == pytest.approx(2.0 * stretch, rel=0.15)
    # A second route to its Jacobian: differences of the displacement, deep in a lobe where nothing slides.
    deep = binary_erosion(lobes.array == 5, iterations=3)
    slopes = [np.gradient(wrong.displacement.array[..., n], *lungs.spacing) for n in range(3)]
    tensor = np.stack([np.stack([s[2], s[1], s[0]], axis=-1)[deep] for s in slopes], axis=-2)
    by_differences = np.linalg.det(np.eye(3) + tensor)
    assert np.median(np.abs(by_differences - wrong.jacobian_raw.array[deep])) < 0.02


def test_nothing_measured_is_said():
    assert report([]) == ["No subject was measured."]
