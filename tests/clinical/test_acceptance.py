"""Limits: which side of each a value falls, and what a failure withholds."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lungvq.clinical.acceptance import (
    GEOMETRIC,
    Evidence,
    accept,
    graded,
    mark,
    predicted_volume_ml,
    rests_on,
)
from lungvq.findings import Severity, fail, warn
from lungvq.methods import METRICS
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
            "both": {
                "dice": 0.985,
                "surface_mean_mm": 0.7,
                "folded_percent": 0.0,
                "correlation_after": 0.76,
                "jacobian_p1": 0.8,
                "jacobian_p99": 3.1,
            },
            "left": {"closure": 1.01},
            "right": {"closure": 0.99},
        },
        lobe_ml={"LUL": 1200, "LLL": 1100, "RUL": 900, "RML": 450, "RLL": 1350},
        undefined_pct={"ventilation": 0.5, "perfusion": 2.0},
        lobe_exp_ml={"LUL": 700, "LLL": 500, "RUL": 520, "RML": 280, "RLL": 600},
        thickness_mm={"inspiration": 1.0, "expiration": 1.0},
        slices={"inspiration": 330, "expiration": 290},
        kvp={"inspiration": 120.0, "expiration": 100.0},
        metal_ml={"inspiration": 0.0, "expiration": 0.0},
        predicted_ml=5400.0,
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


def changed(good, field, value):
    """The good evidence with one thing worse; of things by scan only the expiration's."""
    if field.startswith("registration."):
        _, part, key = field.split(".")
        registration = {**good.registration, part: {**good.registration[part], key: value}}
        return replace(good, registration=registration)
    known = getattr(good, field)
    if isinstance(known, dict) and not isinstance(value, dict):
        value = {**known, "expiration": value}
    return replace(good, **{field: value})


WORSE = [
    ("SPACING_EXP", "spacing_mm", 2.5, "WARN"),
    ("SPACING_EXP", "spacing_mm", 5.0, "FAIL"),
    ("THICKNESS_EXP", "thickness_mm", 2.5, "WARN"),
    ("THICKNESS_EXP", "thickness_mm", 5.0, "FAIL"),
    ("SLICES_EXP", "slices", 80, "WARN"),
    ("SLICES_EXP", "slices", 40, "FAIL"),
    ("AIR_HU_EXP", "air_hu", -960.0, "WARN"),
    ("AIR_HU_EXP", "air_hu", -940.0, "FAIL"),
    ("AIR_CLIPPED_EXP", "lowest_hu", -975.0, "WARN"),
    ("AIR_CLIPPED_EXP", "lowest_hu", -950.0, "FAIL"),
    ("BLOOD_CLIPPED_EXP", "highest_hu", 0.0, "WARN"),
    ("CONTRAST_EXP", "blood_hu", 85.0, "WARN"),
    ("BLOOD_HU_EXP", "blood_hu", 20.0, "WARN"),
    ("BLOOD_HU_EXP", "blood_hu", -20.0, "FAIL"),
    ("NOISE_EXP", "noise_hu", 40.0, "WARN"),
    ("NOISE_EXP", "noise_hu", 60.0, "FAIL"),
    ("OPACITY_EXP", "opacity_pct", 15.0, "WARN"),
    ("OPACITY_EXP", "opacity_pct", 40.0, "FAIL"),
    ("METAL_EXP", "metal_ml", 2.0, "WARN"),
    ("TUBE_VOLTAGE_EXP", "kvp", 80.0, "WARN"),
    ("KERNEL_MISMATCH", "kernel", "B31f", "WARN"),
    ("KERNEL_EXP", "kernel", {"inspiration": "", "expiration": "B50f"}, "WARN"),
    ("KERNEL_EXP", "kernel", {"inspiration": "", "expiration": "B70f"}, "FAIL"),
    ("EMPTYING_EMPHYSEMA", "emptying_pct", 2.8, "WARN"),
    ("INSPIRATION", "predicted_ml", 7000.0, "WARN"),
    ("INSPIRATION", "predicted_ml", 9000.0, "FAIL"),
    ("VOLUME_RATIO", "exp", totals(1800, 2150, 0.186), "WARN"),
    ("MASS_CONSERVATION", "exp", totals(1200, 1400, 0.24), "WARN"),
    ("MASS_CONSERVATION", "exp", totals(1200, 1400, 0.20), "FAIL"),
    ("REGISTRATION_DICE", "registration.both.dice", 0.96, "WARN"),
    ("REGISTRATION_DICE", "registration.both.dice", 0.90, "FAIL"),
    ("REGISTRATION_SURFACE", "registration.both.surface_mean_mm", 2.5, "WARN"),
    ("REGISTRATION_SURFACE", "registration.both.surface_mean_mm", 4.0, "FAIL"),
    ("REGISTRATION_CORRELATION", "registration.both.correlation_after", 0.45, "WARN"),
    ("REGISTRATION_CORRELATION", "registration.both.correlation_after", 0.37, "FAIL"),
    ("REGISTRATION_FOLDING", "registration.both.folded_percent", 0.5, "WARN"),
    ("REGISTRATION_FOLDING", "registration.both.folded_percent", 2.0, "FAIL"),
    ("REGISTRATION_JACOBIAN", "registration.both.jacobian_p1", 0.05, "FAIL"),
    ("REGISTRATION_JACOBIAN", "registration.both.jacobian_p1", -0.1, "FAIL"),
    ("REGISTRATION_JACOBIAN", "registration.both.jacobian_p99", 12.0, "FAIL"),
    ("VOLUME_CLOSURE_LEFT", "registration.left.closure", 1.08, "WARN"),
    ("VOLUME_CLOSURE_RIGHT", "registration.right.closure", 0.8, "FAIL"),
    ("LOBE_MISSING", "lobe_ml", {"LUL": 1200, "LLL": 1100, "RUL": 1100, "RML": 0, "RLL": 1600}, "FAIL"),
    ("LOBE_ORDER", "lobe_exp_ml", {"LUL": 700, "LLL": 500, "RUL": 700, "RML": 280, "RLL": 420}, "WARN"),
    ("UNDEFINED_PERFUSION", "undefined_pct", {"ventilation": 0.5, "perfusion": 15.0}, "WARN"),
    ("UNDEFINED_VENTILATION", "undefined_pct", {"ventilation": 30.0, "perfusion": 2.0}, "FAIL"),
]


@pytest.mark.parametrize(("code", "field", "value", "severity"), WORSE)
def test_one_thing_worse_raises_exactly_its_code(good, code, field, value, severity):
    raised = [f for f in accept(changed(good, field, value)) if f.severity is not Severity.PASS]
    assert [(f.code, f.severity.value) for f in raised] == [(code, severity)]
    assert raised[0].message
    assert raised[0].advice
    if raised[0].value is not None and code != "BLOOD_CLIPPED_EXP":  # whatever its value
        assert raised[0].limit is not None


def test_contrast_medium_in_one_scan_is_told_of_it_and_of_the_comparison(good):
    def codes(**blood):
        raised = accept(replace(good, blood_hu=blood))
        return {f.code: f.severity.value for f in raised if f.severity is not Severity.PASS}

    assert codes(inspiration=42.0, expiration=150.0) == {"CONTRAST_EXP": "FAIL", "BLOOD_MISMATCH": "WARN"}
    assert codes(inspiration=150.0, expiration=160.0) == {"CONTRAST_INSP": "FAIL", "CONTRAST_EXP": "FAIL"}
    assert codes(inspiration=None, expiration=150.0) == {"CONTRAST_EXP": "FAIL"}


def test_a_small_breath_is_the_one_case_that_raises_two(good):
    # Volume change and ratio are two views of it; the reader is told both.
    small = replace(good, exp=totals(2250, 2600, 0.1546))
    raised = {f.code: f.severity.value for f in accept(small) if f.severity is not Severity.PASS}
    assert raised == {"VOLUME_CHANGE": "FAIL", "VOLUME_RATIO": "FAIL"}


def test_every_code_of_the_gate_is_raised_by_some_case(good):
    stem = {re.sub("_(INSP|EXP|LEFT|RIGHT)$", "", code) for code, *_ in WORSE} | {
        "VOLUME_CHANGE",
        "BLOOD_MISMATCH",
    }
    passing = {re.sub("_(INSP|EXP|LEFT|RIGHT)$", "", f.code) for f in accept(good)}
    assert passing <= stem


def table_of(region, metric, method="any@1", zone_def=""):
    return pd.DataFrame({"region": region, "metric": metric, "method": method, "zone_def": zone_def})


def test_what_is_counted_at_fixed_numbers_suffers_from_a_sharp_kernel(good):
    sharp = accept(changed(good, "kernel", {"inspiration": "", "expiration": "LUNG"}))
    metrics = ["laa950_pct", "perc15_insp_hu", "prm_fsad_pct", "perfusion_cv", "volume_exp_ml"]
    table = table_of("both", metrics)
    assert mark(table, sharp)["qc"].tolist() == ["FAIL KERNEL_EXP"] * 3 + ["PASS"] * 2


def test_what_befalls_a_lung_befalls_its_lobes_and_zones():
    regions = ["left", "LUL", "left_upper", "right", "RML", "right_lower", "both"]
    table = table_of(regions, "ventilation_ml")
    marked = mark(table, [fail("AIR_CLOSURE_LEFT", "x", touches=("left",))])["qc"].tolist()
    assert marked == ["FAIL AIR_CLOSURE_LEFT"] * 3 + ["PASS"] * 3 + ["FAIL AIR_CLOSURE_LEFT"]


@pytest.mark.parametrize(
    "metric", ["ventilation_fraction_pct", "perfusion_defect_pct", "perfusion_voronoi_median", "vq_match_pct"]
)
def test_what_befalls_a_lung_befalls_what_is_held_against_both(metric):
    # The right lung's share is 100 less the left one's: withholding only the one would state it by the other.
    table = table_of(["right", "RUL", "right_lower"], metric)
    marked = mark(table, [fail("AIR_CLOSURE_LEFT", "x", touches=("left",))])["qc"].tolist()
    assert marked == ["FAIL AIR_CLOSURE_LEFT"] * 3


def test_a_wrong_scale_marks_all_that_rests_on_density(good):
    wrong = replace(good, air_hu={"inspiration": -930.0, "expiration": -1000.0})
    metrics = [
        *("mass_insp_g", "air_insp_ml", "mld_insp_hu", "perc15_insp_hu", "laa950_pct", "laa856_pct"),
        *("ei_mld_ratio", "rvc856_950_pct", "small_vessel_density", "prm_fsad_pct", "ventilation_ml"),
    ]
    table = table_of("left", [*metrics, "volume_insp_ml"])
    marked = mark(table, accept(wrong))["qc"].tolist()
    assert marked == ["FAIL AIR_HU_INSP"] * len(metrics) + ["PASS"]


def test_noise_leaves_means_alone(good):
    noisy = replace(good, noise_hu={"inspiration": 80.0, "expiration": 20.0})
    table = table_of("left", ["laa950_pct", "mass_insp_g"])
    assert mark(table, accept(noisy))["qc"].tolist() == ["FAIL NOISE_INSP", "PASS"]


def test_it_is_known_what_every_metric_rests_on():
    for metric in METRICS:
        assert isinstance(rests_on(metric, "any@1", ""), tuple)
    with pytest.raises(KeyError, match="hitherto_unknown"):
        rests_on("hitherto_unknown", "any@1", "")


def test_a_number_rests_on_what_its_method_does():
    unlike = [fail("MASS_CONSERVATION", "x", touches=("perfusion_ctp", "ventilation_hu", "mass"))]
    by_method = table_of("left", "ventilation_ml", ["hybrid@2", "hu_ratio@1", "jacobian@1"])
    assert mark(by_method, unlike)["qc"].tolist() == ["PASS", "FAIL MASS_CONSERVATION", "PASS"]
    folded = [fail("REGISTRATION_FOLDING", "x", touches=GEOMETRIC)]
    zone = table_of(
        "left_upper",
        ["volume_exp_ml", "volume_insp_ml", "mass_insp_g", "ei_volume_ratio"],
        ["mask@1", "jacobian@1", "mass_carried@1", "ratio@1"],
        "equal_height_per_lung",
    )
    assert mark(zone, folded)["qc"].tolist() == ["PASS"] + ["FAIL REGISTRATION_FOLDING"] * 3
    lung = table_of("left", ["volume_insp_ml", "ei_volume_ratio"], ["mask@1", "ratio@1"])
    assert mark(lung, folded)["qc"].tolist() == ["PASS", "PASS"]


def test_what_fails_in_the_registration_or_the_lobes_is_marked_under_every_name(good):
    apart = changed(good, "registration.both.correlation_after", 0.37)
    table = pd.concat(
        [
            table_of(
                "both",
                ["prm_fsad_pct", "ventilation_ml", "laa950_pct"],
                ["prm@1", "hu_ratio@1", "threshold@1"],
            ),
            table_of("right_upper", "perfusion_fraction_pct", ["blood_mass@1"], "lobar_proxy"),
            table_of("both", "ventilation_between_lobes_pct", ["variance_split@1"]),
        ]
    )
    assert [qc[:4] for qc in mark(table, accept(apart))["qc"]] == ["FAIL", "FAIL", "PASS", "FAIL", "FAIL"]
    lost = [fail("LOBE_MISSING", "x", touches=("lobes",))]
    assert [qc[:4] for qc in mark(table, lost)["qc"]] == ["PASS", "PASS", "PASS", "FAIL", "FAIL"]


def test_lobes_of_a_lung_that_was_removed_are_not_missing(good):
    gone = {**good.lobe_ml, "LUL": 0.0, "LLL": 0.0}
    found = of(replace(good, lobe_ml=gone, insp=totals(0, 3000, 0.3)), "LOBE_MISSING")
    assert found.severity is Severity.PASS
    found = of(replace(good, lobe_ml={**gone, "RML": 0.0}, insp=totals(0, 3000, 0.3)), "LOBE_MISSING")
    assert (found.severity, found.touches) == (Severity.FAIL, ("lobes",))
    assert "RML" in found.message
    assert "LUL" not in found.message


@pytest.mark.parametrize("size", [(120, 80), (125, 105), (141, 110), (100, 20)])
def test_no_volume_is_predicted_where_the_equation_for_adults_does_not_reach(size):
    assert predicted_volume_ml("F", *size) is None


def test_each_row_says_what_it_suffers_from():
    table = table_of(
        ["left", "right", "RML", "both"],
        ["ventilation_ml", "ventilation_ml", "volume_exp_ml", "prm_fsad_pct"],
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
        "WARN LUNG_COLLAPSED",
    ]


def test_the_page_on_checks_has_every_code_of_the_gate_and_none_that_is_not_there():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "checks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    listed = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    stem = {re.sub("_(INSP|EXP|LEFT|RIGHT)$", "", code) for code, *_ in WORSE}
    assert listed >= stem | {"VOLUME_CHANGE"}
    source = "".join(file.read_text(encoding="utf-8") for file in (root / "src").rglob("*.py"))
    made = {"UNDEFINED_VENTILATION", "UNDEFINED_PERFUSION"}  # from the names of the maps
    assert not [code for code in listed - made if code not in source]


def test_rounding_is_not_beyond_a_limit():
    assert (
        graded("SPACING", 3.0000001, (1.5, 3.0), "largest voxel spacing", unit="mm").severity is Severity.WARN
    )
    assert graded("SPACING", 3.01, (1.5, 3.0), "largest voxel spacing", unit="mm").severity is Severity.FAIL


def test_a_lung_that_only_one_scan_shows_is_no_breath(good):
    e = replace(
        good,
        registration={k: v for k, v in good.registration.items() if k != "left"},
        exp={"left": LungTotals(5.0, 4.0, 1.0), "right": good.insp["right"]},
    )
    found = {f.code: f for f in accept(e)}
    assert (found["VOLUME_CHANGE"].severity, found["VOLUME_CHANGE"].value) == ("FAIL", 0)
    assert found["VOLUME_RATIO"].value == pytest.approx(1)
    assert found["MASS_CONSERVATION"].value == pytest.approx(1)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.9696, "is 0.9696, below the limit of 0.97"), (0.5, "is 0.5, below the limit of 0.95")],
)
def test_a_value_is_told_to_as_many_digits_as_part_it_from_the_limit(value, words):
    assert words in graded("DICE", value, (0.97, 0.95), "Dice", high_is_good=True).message


def test_what_is_always_amiss_is_told_without_a_limit():
    finding = graded("CLIPPED", 45.0, (float("inf"), -5), "highest CT number", unit="HU", high_is_good=True)
    assert (finding.severity, finding.message, finding.limit) == ("WARN", "Highest CT number is 45 HU.", None)


def test_what_is_not_known_is_not_graded():
    with pytest.raises(ValueError, match="not known"):
        graded("X", float("nan"), (5, 15), "difference")


def test_what_was_freed_of_a_trend_falls_with_either_lung():
    rows = [("right", "ventilation_cv", "hybrid_detrended@1"), ("right", "ventilation_cv", "hybrid@2")]
    table = pd.DataFrame(
        [{"region": r, "zone_def": "", "metric": m, "method": how, "qc": ""} for r, m, how in rows]
    )
    marked = mark(table, [fail("LUNG_NOT_REGISTERED_LEFT", "", touches=("left",))])
    assert list(marked["qc"]) == ["FAIL LUNG_NOT_REGISTERED_LEFT", "PASS"]
