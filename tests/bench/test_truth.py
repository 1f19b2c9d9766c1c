"""The bench of truth: its plan, and T0 on a coarse grid, where the estimators must be exact."""

import numpy as np
import pytest

from lungvq.bench.truth import plan, pointwise
from lungvq.phantom import CASES, make_phantom
from lungvq.regional import carry
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
    assert all(name in tests for name in ("T1", "T2", "T3", "T4", "T5", "T6", "T7"))
    later = {subject.name for subject in plan(12 + len(CASES))[12:]}
    assert later >= set(CASES) - {"shallow", "collapsed-left"}
