"""Every code that a check can raise is raised by a case made for it, and by nothing else of that check.

The gate's own codes are in tests/clinical/test_acceptance.py, those of lungs in tests/segment/test_segment_checks.py.
"""

import ast
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import lungvq
from lungvq.agreement import agreement, patient_agreement
from lungvq.clinical.acceptance import mark
from lungvq.findings import Severity
from lungvq.io import Patient
from lungvq.maps import _closing
from lungvq.pipeline import estimates
from lungvq.pipeline.estimates import _of_others
from lungvq.pipeline.gates import check_breathing, check_sums, overrides
from lungvq.register.quality import LungQuality, check_islands, check_rims, check_surfaces
from lungvq.segment.lobes import _check_bronchi
from lungvq.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -50], [0, 2.0, 0, 10], [2.0, 0, 0, -300], [0, 0, 0, 1]])


def raised(findings):
    return [f.code for f in findings if f.severity is not Severity.PASS]


HEADER = {
    "acquisition_date": "20260115",
    "acquisition_time": "101500",
    "study_uid": "1.2.3",
    "frame_of_reference_uid": "1.2.4",
    "patient_position": "HFS",
    "manufacturer": "Acme",
    "model": "One",
    "kvp": 120,
    "slice_thickness_mm": 1.0,
}


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, None),
        ({"acquisition_time": "111000"}, None),
        ({"acquisition_time": "111600"}, "TIME_BETWEEN_SCANS"),
        ({"study_uid": "9"}, "STUDY_MISMATCH"),
        ({"frame_of_reference_uid": "9"}, "FRAME_MISMATCH"),
        ({"patient_position": "HFP"}, "POSITION_MISMATCH"),
        ({"model": "Two"}, "SCANNER_MISMATCH"),
        ({"kvp": 100}, "KVP_MISMATCH"),
        ({"slice_thickness_mm": 1.4}, None),
        ({"slice_thickness_mm": 3.0}, "THICKNESS_MISMATCH"),
    ],
)
def test_headers_that_disagree(changed, code):
    assert raised(agreement(HEADER, HEADER | changed)) == ([code] if code else [])


@pytest.mark.parametrize(
    ("insp", "exp", "codes"),
    [
        (
            Patient("1", "Doe^Jane", "19600102", "F"),
            Patient("1", "DOE^JANE^", "19600102", "F"),
            ["PATIENT_MATCH"],
        ),
        (Patient("1", "Doe^Jane"), Patient("1", "Roe^Jane"), ["PATIENT_MISMATCH"]),
        (Patient("1", birth_date="19600102"), Patient("1", birth_date="19610102"), ["PATIENT_MISMATCH"]),
        (Patient("1"), Patient("", "Doe^Jane"), []),
    ],
)
def test_headers_that_name_the_patient(insp, exp, codes):
    assert [f.code for f in patient_agreement(insp, exp)] == codes


GOOD = LungQuality(
    dice=0.99,
    surface_mean_mm=0.5,
    surface_p95_mm=1.5,
    surface_thirds_mm=(0.7, 0.4, 0.4),
    expected_error_mm=(1.2, 0.9, 0.6, 0.5, 0.5),
    parts=1,
    surface_off_percent=0.5,
    unseen_percent=0.0,
    folded_percent=0.0,
    jacobian_percentiles=(0.9, 1.2, 1.9, 2.6, 3.0),
    correlation_before=0.3,
    correlation_after=0.75,
    motion_mean_mm=18.0,
    motion_p95_mm=40.0,
    motion_max_mm=60.0,
    closure=1.01,
    volume_fixed_ml=1300.0,
    volume_moving_ml=2500.0,
)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, None),
        ({"surface_off_percent": 2.9}, None),
        ({"surface_off_percent": 3.1}, "MASKS_DISAGREE_LEFT"),
        ({"unseen_percent": 0.9}, None),
        ({"unseen_percent": 1.2}, "LUNG_BEYOND_SCAN_LEFT"),
    ],
)
def test_surfaces_that_do_not_meet(changed, code):
    found = check_surfaces({"left": replace(GOOD, **changed), "right": GOOD})
    assert raised(found) == ([code] if code else [])


@pytest.mark.parametrize(("share", "codes"), [(0.029, []), (0.031, ["MASK_CUTS_LUNG_RIGHT"])])
def test_a_mask_that_ends_within_lung(share, codes):
    assert raised(check_rims({"left": 0.002, "right": share})) == codes
    assert check_rims({"left": 0.41})[0].severity == "FAIL"


@pytest.mark.parametrize(("ml", "codes"), [(0.0, []), (0.004, []), (0.1, ["MASK_ISLANDS"])])
def test_crumbs_of_a_mask(ml, codes):
    assert raised(check_islands({"inspiration": 0.0, "expiration": ml})) == codes


@pytest.mark.parametrize(
    ("factor", "found"),
    [
        (1.0, []),
        (1 / 1.04, []),
        (1 / 1.06, [("AIR_CLOSURE_LEFT", "WARN")]),
        (1.3, [("AIR_CLOSURE_LEFT", "FAIL")]),
    ],
)
def test_inspired_air_that_does_not_close(factor, found):
    findings = _closing({"left": factor, "right": 1.0})
    assert [(f.code, f.severity.value) for f in findings if f.severity is not Severity.PASS] == found


@pytest.mark.parametrize(("off", "codes"), [(1.0, []), (1.002, ["SUMS_CLOSE"])])
def test_parts_that_do_not_add_up(off, codes):
    lungs = Volume(np.ones((5, 10, 10), np.uint8), AFFINE)  # 4 mL
    parts = {
        "both": 4.0,
        "left": 1.8,
        "right": 2.2 * off,
        "LUL": 0.9,
        "LLL": 0.9,
        "RUL": 1,
        "RML": 0.2,
        "RLL": 1,
    }
    result = SimpleNamespace(lungs_exp=lungs, registration={}, metric=lambda region, metric: parts[region])
    assert raised([check_sums(result)]) == codes


def test_lobes_that_do_not_add_up_fail_the_lobes_alone():
    lungs = Volume(np.ones((5, 10, 10), np.uint8), AFFINE)  # 4 mL
    parts = {"both": 4.0, "left": 1.8, "right": 2.2, "LUL": 0.9, "LLL": 0.5, "RUL": 1, "RML": 0.2, "RLL": 1}
    result = SimpleNamespace(lungs_exp=lungs, registration={}, metric=lambda region, metric: parts[region])
    finding = check_sums(result)
    assert (finding.severity, finding.touches) == ("FAIL", ("lobes",))
    assert "do not add up: the lobes to the lungs by 10 %" in finding.message
    only_right = SimpleNamespace(**{**vars(result), "registration": {"right": {}, "both": {}}})
    assert check_sums(only_right).severity == "PASS"


def test_what_was_allowed_by_request():
    assert raised(overrides(check_breathing(5000, 2600))) == []
    assert raised(overrides(check_breathing(5000, 4990, allow=True))) == ["NO_BREATHING_ALLOWED"]


def test_without_breathing_every_estimate_of_ventilation_is_marked():
    methods = ["hybrid@2", "hu_ratio@1", "jacobian@1", "air_gain@1"]
    table = pd.DataFrame({"region": "left", "metric": "ventilation_ml", "method": methods, "zone_def": ""})
    marked = mark(table, overrides(check_breathing(5000, 4990, allow=True)))["qc"]
    assert marked.tolist() == ["WARN NO_BREATHING_ALLOWED"] * len(methods)


def test_an_estimator_of_others_that_fails_takes_nothing_along(monkeypatch):
    lungs = Volume(np.ones((4, 6, 8), np.uint8), AFFINE)

    def whole(pair):
        return pair.lungs.like(np.full(pair.lungs.shape, 0.5, np.float32))

    def broken(pair):
        raise ZeroDivisionError("no lungs")

    monkeypatch.setattr(estimates, "load_estimator", {"whole": whole, "broken": broken}.__getitem__)
    maps, used, findings = _of_others(("broken", "whole"), SimpleNamespace(lungs=lungs), lungs)
    assert list(maps) == list(used) == ["whole"]
    assert raised(findings) == ["ESTIMATOR_FAILED"]
    assert "ZeroDivisionError: no lungs" in findings[0].message


@pytest.mark.parametrize(
    ("lobe", "length", "codes"),
    [(5, 20, []), (3, 20, ["LOBES_HOLD_BRONCHI"]), (3, 8, [])],  # the first 15 mm lie in the hilum
)
def test_bronchi_in_another_lobe(lobe, length, codes):
    lobes = Volume(np.full((20, 8, 8), lobe, np.uint8), AFFINE)
    points = lobes.grid.world(np.array([[k, 4, 4] for k in range(length)]))
    anatomy = SimpleNamespace(bronchi=SimpleNamespace(points={"RLL": points}))
    assert raised(_check_bronchi(lobes, anatomy)) == codes


ENDS = re.compile("_(INSP|EXP|LEFT|RIGHT)$")
MAKERS = {"warn", "fail", "passed", "make", "Finding", "graded"}


def codes_of(tree):
    """Codes of findings that a module makes, as far as they are written out."""
    for call in ast.walk(tree):
        name = getattr(getattr(call, "func", None), "id", "")
        if name in MAKERS and call.args:
            first = call.args[0]
            if isinstance(first, ast.Constant) and re.fullmatch("[A-Z]+(_[A-Z]+)+", str(first.value)):
                yield first.value, name != "passed"


def test_no_code_is_without_a_case():
    source = Path(lungvq.__file__).parent
    tests = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.rglob("test_*.py"))
    made = {
        code
        for file in source.rglob("*.py")
        if file.name != "doctor.py"  # of the installation, not of a case
        for code, may_warn in codes_of(ast.parse(file.read_text(encoding="utf-8")))
        if may_warn
    }
    assert len(made) > 40
    assert not {code for code in made if f'"{code}' not in tests}
