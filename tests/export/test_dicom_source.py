"""Patient and study: carried over as they are, or left out where they cannot be."""

import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lungvq.errors import InputError
from lungvq.export.dicom import made_up, read_source
from lungvq.export.dicom.common import Context, save
from lungvq.export.dicom.seg import write_seg
from lungvq.export.dicom.source import CARRIED, carried

BIN = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def test_patient_study_and_frame_of_reference_are_those_of_the_scan(written):
    expected = {
        "PatientName": "Doe^Jane", "PatientID": "ID-7", "PatientBirthDate": "19600102", "PatientSex": "F",
        "PatientAge": "066Y", "StudyInstanceUID": "1.2.3.4", "StudyDate": "20260101", "StudyTime": "101112.5",
        "StudyID": "S1", "AccessionNumber": "ACC1", "ReferringPhysicianName": "Ref^Erring",
    }  # fmt: skip
    series = set()
    for path in written.files():
        image = pydicom.dcmread(path)
        assert {keyword: str(image[keyword].value) for keyword in expected} == expected
        assert image.get("FrameOfReferenceUID", "1.2.3.4.6") == "1.2.3.4.6"
        assert image.Manufacturer == "lungvq"
        assert image.SeriesNumber >= 100
        assert image.preamble == b"\0" * 128
        series.add(image.SeriesInstanceUID)
    assert len(series) == len(written.report.objects)
    assert "1.2.3.4.5" not in series


def test_software_version_inputs_and_parameters_are_recorded(written):
    import lungvq

    for kind in written.report.objects:
        items = written.read(kind)[0].ContributingEquipmentSequence
        told = " ".join(item.ContributionDescription for item in items)
        assert "registration.spacing_mm=2.0" in told or "registration.spacing_mm=2" in told
        assert "allow_no_breathing=False" in told
        assert "sha256 " + "e" * 64 in told
        assert {item.SoftwareVersions for item in items} == {lungvq.__version__}
        assert all(len(item.ContributionDescription) <= 1024 for item in items)


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 144", "Иванов^Пётр"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("GB18030", "王^小东"),
        ("ISO_IR 127", "قباني^لنزار"),
    ],
)
def test_names_in_any_script_survive(charset, name, make, tmp_path):
    grid = make.grid((6, 9, 10))
    files = make.ct(grid, tmp_path / "ct", SpecificCharacterSet=charset, PatientName=name)
    context = Context(make.case(grid), read_source(files, "s"), datetime.now(UTC))
    save(context.new("report"), tmp_path / "a.dcm")
    write_seg(context, "seg_lobes", tmp_path / "b.dcm")
    for file in ("a.dcm", "b.dcm"):
        image = pydicom.dcmread(tmp_path / file)
        assert image.SpecificCharacterSet == "ISO_IR 192"
        assert str(image.PatientName) == name


def test_an_identifier_is_never_changed_and_nothing_of_it_is_printed(make, tmp_path, capfd):
    changes = {
        "PatientID": "<img src=x onerror=alert(1)>'; --" + "9" * 40,
        "AccessionNumber": "0123456789ABCDEF+long",
        "StudyInstanceUID": "1.02.3",
    }
    grid = make.grid((4, 9, 10))
    with pydicom.config.disable_value_validation():
        files = make.ct(grid, tmp_path / "ct", **changes)
    with warnings.catch_warnings(action="error"):
        done = make.written(make.case(grid), read_source(files, "s"), tmp_path / "d", pdf=b"%PDF")
    with pydicom.config.disable_value_validation():
        for kind in ("ventilation", "seg_lungs", "measurements", "report"):
            image = done.read(kind)[0]
            assert {keyword: str(image[keyword].value) for keyword in changes} == changes
    assert capfd.readouterr() == ("", "")


def test_nothing_but_the_listed_attributes_is_carried(make, tmp_path):
    changes = {"PatientAddress": "Street 1", "PatientComments": "note", "InstitutionName": "Hospital"}
    source = read_source(make.ct(make.grid((2, 3, 4)), tmp_path, **changes), "s")
    assert {element.keyword for element in source.header} <= {k for names in CARRIED.values() for k in names}


def test_times_are_told_on_the_clock_of_the_scan(make, tmp_path):
    source = read_source(make.ct(make.grid((2, 3, 4)), tmp_path, TimezoneOffsetFromUTC="+0530"), "s")
    assert source.local(datetime(2026, 1, 1, 20, tzinfo=UTC)).strftime("%d %H%M") == "02 0130"


def test_a_scan_without_dicom_gets_a_patient_of_its_own():
    source = made_up("case^=7\\x", "s")
    assert source.header.PatientID == "case^=7/x"
    assert str(source.header.PatientName) == "case  7/x"
    assert made_up(None, "s").header.PatientID == "ANON"
    assert made_up(None, "a").header.StudyInstanceUID != made_up(None, "b").header.StudyInstanceUID


def test_a_de_identified_scan_stays_one(make, tmp_path):
    files = make.ct(
        make.grid((2, 3, 4)), tmp_path, PatientIdentityRemoved="YES", DeidentificationMethod="basic"
    )
    header = read_source(files, "s").header
    assert (header.PatientIdentityRemoved, header.DeidentificationMethod) == ("YES", "basic")


def test_a_file_that_has_gone_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="--no-dicom"):
        read_source([tmp_path / "gone"], "s")


HOSTILE = st.text(st.characters(codec="utf-8"), max_size=80) | st.sampled_from(
    ["\\", "^" * 9, "=" * 5, "9" * 70, "20261399", "99", "1e999", "nan", "-1", "\x1b$B", "1..2", "٣", "<b>"]
)
NUMBERS = {"PatientSize", "PatientWeight"}  # pydicom takes numbers only
PLAIN = [k for names in CARRIED.values() for k in names if not k.endswith("Sequence") and k not in NUMBERS]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(PLAIN), HOSTILE))
def test_no_header_is_so_odd_that_nothing_can_be_written(values, make, tmp_path):
    header = pydicom.Dataset()
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of pydicom, on identifiers that are kept as they are
        for keyword, value in values.items():
            setattr(header, keyword, value)
        source = replace(made_up(None, "s"), header=carried(header))
        source.header.setdefault("StudyInstanceUID", "1.2.3")
        context = Context(make.case(make.grid((4, 9, 10))), source, datetime.now(UTC))
        assert write_seg(context, "seg_lungs", tmp_path / "seg.dcm") == 1
        save(context.new("report"), tmp_path / "report.dcm")
    for name in ("seg", "report"):
        assert pydicom.dcmread(tmp_path / f"{name}.dcm").SeriesDescription.endswith("(research)")


def real_series():
    root = os.environ.get("LUNGVQ_TEST_DATA")
    if not root:
        return []
    folders = [Path(root) / "ct-chest-1mm-dicom", *sorted((Path(root) / "dicom-odd").glob("*"))]
    return [f for f in folders if f.is_dir()]


@pytest.mark.skipif(not real_series(), reason="LUNGVQ_TEST_DATA is not set")
@pytest.mark.skipif(shutil.which("dciodvfy", path=BIN) is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize("folder", real_series(), ids=lambda f: f.name)
def test_headers_of_real_scanners_give_valid_objects(folder, make, tmp_path):
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and pydicom.misc.is_dicom(f)]
    if not files:
        pytest.skip("no DICOM in it")
    source = read_source(files, "s")
    case = make.case(make.grid((6, 9, 10)))
    done = make.written(case, source, tmp_path / "d", pdf=b"%PDF")
    first = pydicom.dcmread(files[0], stop_before_pixels=True)
    for kind in done.report.objects:
        path = done.files(kind)[0]
        said = subprocess.run(
            [shutil.which("dciodvfy", path=BIN), "-new", path], capture_output=True, text=True, check=False
        )
        assert [s for s in (said.stdout + said.stderr).splitlines() if s.startswith("Error")] == [], kind
        image = pydicom.dcmread(path)
        assert image.StudyInstanceUID == first.StudyInstanceUID
        assert image.PatientID == str(first.get("PatientID") or "")
