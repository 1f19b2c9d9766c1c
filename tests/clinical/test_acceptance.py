"""Limits: which side of each a value falls, and what a failure withholds."""

from dataclasses import replace

import pandas as pd
import pytest

from lungvq.clinical.acceptance import Evidence, accept, graded, mark
from lungvq.findings import Severity, fail, warn
from lungvq.pair import LungTotals


def totals(left, right, density):
    return {
        name: LungTotals(ml, ml * (1 - density), ml * density)
        for name, ml in (("left", left), ("right", right))
    }


@pytest.fixture
def good():
    return Evidence(
        spacing_mm={"inspiration": 1.0, "expiration": 1.0},
        kernel={"inspiration": "B30f", "expiration": "B30f"},
        air_hu={"inspiration": -995.0, "expiration": -990.0},
        blood_hu={"inspiration": 42.0, "expiration": 45.0},
        noise_hu={"inspiration": 15.0, "expiration": 25.0},
        opacity_pct={"inspiration": 2.0, "expiration": 3.0},
        insp=totals(2300, 2700, 0.15),
        exp=totals(1200, 1400, 0.29),
        registration={
            "both": {"dice": 0.985, "surface_mean_mm": 0.7, "folded_percent": 0.0},
            "left": {"closure": 1.01},
            "right": {"closure": 0.99},
        },
        lobe_ml={"LUL": 1200, "LLL": 1100, "RUL": 900, "RML": 450, "RLL": 1350},
    )


def of(evidence, code):
    return next(f for f in accept(evidence) if f.code == code)


def test_a_good_pair_passes_everything(good):
    assert {f.severity for f in accept(good)} == {Severity.PASS}


@pytest.mark.parametrize(
    ("value", "severity"),
    [(1.5, "PASS"), (1.0, "PASS"), (0.99, "WARN"), (0.3, "WARN"), (0.29, "FAIL"), (-0.1, "FAIL")],
)
def test_limits_that_want_much(value, severity):
    assert graded("X", value, (1.0, 0.3), "it", high_is_good=True).severity == severity


@pytest.mark.parametrize(
    ("value", "severity"), [(0, "PASS"), (30, "PASS"), (30.1, "WARN"), (50, "WARN"), (51, "FAIL")]
)
def test_limits_that_want_little(value, severity):
    assert graded("X", value, (30, 50), "it").severity == severity


@pytest.mark.parametrize(
    ("exp_ml", "severity"), [((1700, 2200), "PASS"), ((2000, 2400), "WARN"), ((2250, 2600), "FAIL")]
)
def test_volume_change_of_two_lungs(good, exp_ml, severity):
    assert of(replace(good, exp=totals(*exp_ml, 0.2)), "VOLUME_CHANGE").severity == severity


def test_one_lung_is_held_to_its_share_of_the_volume_change(good):
    # 0.28 L is too little for two lungs and enough to look at for a right lung alone.
    collapsed = replace(good, insp=totals(90, 1673, 0.27), exp=totals(94, 1393, 0.31))
    assert of(collapsed, "VOLUME_CHANGE").severity is Severity.WARN
    assert (
        of(replace(good, insp=totals(880, 883, 0.27), exp=totals(740, 747, 0.31)), "VOLUME_CHANGE").severity
        == "FAIL"
    )


@pytest.mark.parametrize(("blood", "severity"), [(70, "PASS"), (85, "WARN"), (180, "FAIL")])
def test_contrast_medium_withholds_what_rests_on_density(good, blood, severity):
    found = of(replace(good, blood_hu={"inspiration": 45.0, "expiration": float(blood)}), "CONTRAST_EXP")
    assert found.severity == severity
    assert {"perfusion", "perfusion_ctp"} <= set(found.touches)


def test_mass_is_held_to_the_same_limits_both_ways(good):
    for exp in (0.29 * 0.8, 0.29 / 0.8):
        heavier = replace(good, exp=totals(1200, 1400, exp))
        assert of(heavier, "MASS_CONSERVATION").severity is Severity.WARN


def test_a_missing_lobe_withholds_the_lobes(good):
    found = of(replace(good, lobe_ml={**good.lobe_ml, "RML": 0.0}), "LOBE_MISSING")
    assert found.severity is Severity.FAIL
    assert found.touches == ("lobes",)


def test_what_is_not_known_is_not_checked(good):
    codes = {f.code for f in accept(replace(good, air_hu={"inspiration": None, "expiration": None}))}
    assert not any(code.startswith("AIR_HU") for code in codes)


def test_kernels_that_differ_are_told(good):
    other = replace(good, kernel={"inspiration": "B30f", "expiration": "B60f"})
    assert of(other, "KERNEL_MISMATCH").severity is Severity.WARN
    unknown = replace(good, kernel={"inspiration": "B30f", "expiration": ""})
    assert "KERNEL_MISMATCH" not in {f.code for f in accept(unknown)}


def test_each_row_says_what_it_suffers_from():
    table = pd.DataFrame(
        [
            ("left", "ventilation_ml"),
            ("right", "ventilation_ml"),
            ("RML", "volume_exp_ml"),
            ("both", "prm_fsad_pct"),
        ],
        columns=["region", "metric"],
    )
    findings = [
        warn("LUNG_COLLAPSED", "x", touches=("left",)),
        warn("SLOW", "x", touches=("ventilation",)),
        fail("LOBE_MISSING", "x", touches=("lobes",)),
    ]
    assert mark(table, findings)["qc"].tolist() == [
        "WARN LUNG_COLLAPSED SLOW",
        "WARN SLOW",
        "FAIL LOBE_MISSING",
        "PASS",
    ]
