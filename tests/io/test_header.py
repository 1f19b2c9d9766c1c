"""Headers: the quick scan says what pydicom says, or leaves it to pydicom; nothing a file holds gets out."""

import io as stdio
import json
import os
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from lungvq import io
from lungvq.errors import LungvqError
from lungvq.io import dicom, header
from lungvq.volume import Volume

DATA = os.environ.get("LUNGVQ_TEST_DATA")


def sample(**tags):
    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID, d.Modality = CTImageStorage, "1.2.3.4", "CT"
    d.ImageType, d.StudyInstanceUID, d.SeriesInstanceUID = ["ORIGINAL", "PRIMARY", "AXIAL"], "1.2.3", "1.2.4"
    d.PatientID, d.PatientName, d.KVP, d.Exposure, d.SeriesNumber = "x", "Doe^Jane", "120", "80", 3
    d.ImagePositionPatient, d.ImageOrientationPatient = [-1.5, 2, 1e-3], [1, 0, 0, 0, 1, 0]
    d.PixelSpacing, d.Rows, d.Columns, d.SamplesPerPixel = ["0.7", "0.80"], 12, 10, 1
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 1
    d.PhotometricInterpretation, d.PixelPaddingValue = "MONOCHROME2", -2000
    d.RescaleSlope, d.RescaleIntercept, d.PixelData = "1", "-1024", bytes(240)
    for name, value in tags.items():
        setattr(d, name, value)
    return d


def content(d, syntax=ExplicitVRLittleEndian):
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = syntax
    buffer = stdio.BytesIO()
    d.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def both(data, tmp_path):
    """What the scan and what pydicom say of a file."""
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    with path.open("rb") as stream:
        parsed, where = header._parse(stream)
        by_pydicom = {keyword: header._plain(parsed, keyword) for keyword in header.TAGS}
    return header._scan(data[: header._HEAD], len(data)), (by_pydicom, where)


def test_tags_have_their_numbers():
    assert all(keyword_for_tag(tag) == keyword for keyword, tag in header.TAGS.items())


def test_syntaxes_have_their_names():
    assert all(pydicom.uid.UID(syntax).name == name for syntax, name in dicom.SYNTAXES.items())


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda s: s.name)
@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "山田^太郎=김", "SeriesDescription": "Größe"},
        {"SpecificCharacterSet": "ISO_IR 100", "SeriesDescription": " Einatmung ü "},
        {"SeriesDescription": ["a", "b"], "ConvolutionKernel": ["Br40", "3"], "ImageType": "ORIGINAL"},
        {"ImageComments": "a\\b", "KVP": None, "Exposure": "", "PatientName": None, "PixelSpacing": None},
        {"NominalPercentageOfRespiratoryPhase": 37.5, "PixelRepresentation": 0, "PixelPaddingValue": 63536},
        {"ScanOptions": ["HELIX", ""], "AcquisitionDateTime": "20250101120000.5"},
    ],
)
def test_the_quick_scan_says_what_pydicom_says(tmp_path, syntax, tags):
    scan, by_pydicom = both(content(sample(**tags), syntax), tmp_path)
    assert scan[0] == by_pydicom[0]
    assert scan[1] == by_pydicom[1]


@pytest.mark.skipif(not DATA, reason="LUNGVQ_TEST_DATA is not set")
def test_the_quick_scan_agrees_on_real_files(tmp_path):
    files = sorted(Path(DATA or "").rglob("*.dcm"))[::7]
    agreed = 0
    for file in files:
        data = file.read_bytes()
        try:
            header._scan(data[: header._HEAD], len(data))
        except Exception:  # left to pydicom
            continue
        scan, by_pydicom = both(data, tmp_path)
        assert scan == by_pydicom, file
        agreed += 1
    assert agreed > 0.8 * len(files)


def test_text_cannot_command_a_terminal(tmp_path):
    hostile = "\x1b[31mred\x07\u202e<script>alert(1)</script>\r\n"
    for n in range(12):
        d = sample(
            SeriesDescription=hostile,
            PatientName=hostile,
            ConvolutionKernel="B\x1b[2J",
            SOPInstanceUID=f"1.{n + 1}",
        )
        d.ImagePositionPatient = [0, 0, n]
        stored = np.where(np.arange(120) % 2, 100, 1024).astype("<i2")
        d.PixelData, d.PixelPaddingValue = stored.tobytes(), -2000
        (tmp_path / f"{n}").write_bytes(content(d))
    (info,) = io.list_series(tmp_path)
    told = json.dumps(info.to_dict(), ensure_ascii=False) + repr(info.patient) + str(io.read(tmp_path).facts)
    assert all(c.isprintable() for c in told)
    assert "<script>alert(1)</script>" in info.description  # text as it stands; who shows it must escape it
    assert "red" not in json.dumps(info.to_dict()["facts"]["patient"])


# --- anything at all --------------------------------------------------------------------------------------


def series_files():
    hu = np.where(np.random.default_rng(0).random((11, 12, 10)) < 0.5, 200, 1030).astype("<i2")
    made = []
    for k, plane in enumerate(hu):
        d = sample(SOPInstanceUID=f"1.2.{k + 1}", ImagePositionPatient=[0, 0, 2 * k], PixelPaddingValue=-2000)
        d.PixelData = plane.tobytes()
        made.append(d)
    return made


PLAIN = [content(d) for d in series_files()]
PACKED = []
for _d in series_files():
    _d.file_meta = FileMetaDataset()
    _d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    _d.compress(RLELossless, generate_instance_uid=False)
    PACKED.append(content(_d, RLELossless))


@st.composite
def damaged(draw):
    """A series of which one file has been cut, flipped, filled or spliced."""
    files = list(draw(st.sampled_from([PLAIN, PACKED])))
    which = draw(st.integers(0, len(files) - 1))
    data = bytearray(files[which])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(["cut", "flip", "fill", "insert", "delete", "double"]))
        size = draw(st.sampled_from([1, 2, 4, 8, 40]))
        if what == "cut":
            del data[at:]
        elif what == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif what == "fill":
            data[at : at + size] = bytes([draw(st.sampled_from([0, 255, 0x5C, 0x39]))]) * len(
                data[at : at + size]
            )
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=size, max_size=size))
        elif what == "delete":
            del data[at : at + size]
        else:
            data[at:at] = data[at : at + size]
    files[which] = bytes(data)
    return files


def read_all(folder, files):
    """Read, list and read each; only errors that are sentences may come out."""
    for n, data in enumerate(files):
        (folder / f"{n}.dcm").write_bytes(data)
    for look in (io.read, lambda path: [io.read_series(info) for info in io.list_series(path)]):
        told = ""
        try:
            scan = look(folder)
        except LungvqError as error:
            told = str(error)
        else:
            if isinstance(scan, io.Scan):
                assert isinstance(scan.volume, Volume)
                assert np.isfinite(scan.volume.affine).all()
        assert told.isprintable()


def fuzz(folder, files):
    start = time.monotonic()
    read_all(folder, files)
    assert time.monotonic() - start < 90


SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(files=damaged())
def test_damage_never_gets_out(tmp_path, files):
    fuzz(tmp_path, files)


@pytest.mark.integration
def test_damage_never_gets_out_for_a_while(tmp_path, capsys):
    """For `LUNGVQ_FUZZ_SECONDS`, 30 where that is not set, with other examples every time."""
    end = time.monotonic() + float(os.environ.get("LUNGVQ_FUZZ_SECONDS", "30"))
    count = 0

    @settings(max_examples=10**6, deadline=None, database=None, suppress_health_check=SLOW)
    @given(files=damaged())
    def run(files):
        nonlocal count
        if time.monotonic() > end:
            raise KeyboardInterrupt
        fuzz(tmp_path, files)
        count += 1

    with pytest.raises(KeyboardInterrupt):
        run()
    with capsys.disabled():
        print(f"\n{count} damaged series, no crash")
