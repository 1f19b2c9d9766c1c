"""The conformance statement says what the code does: it is made from it, and the page is that text."""

import re
from pathlib import Path

from lungvq.conformance import own_codes, statement
from lungvq.export.dicom.names import KINDS, short

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_up_to_date():
    page = (DOCS / "conformance.md").read_text(encoding="utf-8")
    assert page == statement(), "run: python -m lungvq.conformance > docs/conformance.md"


def test_every_object_and_sop_class_is_in_it():
    text = statement()
    for name, kind in KINDS.items():
        assert f"`{name}`" in text
        assert kind.sop_class in text


def test_every_metric_of_the_output_page_has_its_code():
    page = (DOCS / "output.md").read_text(encoding="utf-8").split("| Metric | Unit |")[1].split("\n\n")[0]
    metrics = re.findall(r"`([a-z0-9_]+)`", "\n".join(row.split("|")[1] for row in page.splitlines()[2:]))
    standard = {"volume_insp_ml", "volume_exp_ml", "mass_insp_g", "mass_exp_g"}
    values = {code.value for code in own_codes()}
    assert len(metrics) > 15
    assert {short(metric) for metric in metrics} - standard <= values


def test_no_code_has_two_meanings():
    codes = own_codes()
    assert len({code.value for code in codes}) == len(codes)
