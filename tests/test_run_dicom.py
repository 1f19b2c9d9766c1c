"""When a run writes DICOM, whose it is, and what its UIDs depend on."""

import numpy as np
import pytest

from lungvq import io
from lungvq.errors import GeometryError, UsageError
from lungvq.pipeline import Options
from lungvq.run import dicom_source, run_case
from lungvq.volume import Volume

HASHES = {"insp": "a", "exp": "b"}


@pytest.fixture
def scan(tmp_path):
    return io.Scan(Volume(np.zeros((3, 4, 5), np.int16), np.eye(4)), tmp_path, "nifti", (), {})


def source(scan, dicom=True, case=None, hashes=HASHES, options=None):
    return dicom_source(scan, dicom, case, hashes, options or Options())


def test_dicom_is_written_where_the_scan_was_dicom_unless_told(scan):
    assert source(scan, None) is None
    assert source(scan, False) is None
    assert source(scan, True) is not None


def test_uids_follow_from_scans_settings_and_a_made_up_patient(scan):
    first = source(scan, case="x")
    assert source(scan, case="x").seed == first.seed
    others = [
        source(scan, case="y"),
        source(scan, case="x", hashes={"insp": "a", "exp": "c"}),
        source(scan, case="x", options=Options(allow_no_breathing=True)),
    ]
    assert len({first.seed, *(other.seed for other in others)}) == 4
    assert first.header.PatientID == "x"
    assert source(scan).header.PatientID == "ANON"


def test_an_odd_angle_is_refused_before_the_long_work(scan):
    skewed = np.eye(4)
    skewed[0, 1] = 0.2
    with pytest.raises(GeometryError, match="--no-dicom"):
        source(io.Scan(Volume(scan.volume.array, skewed), scan.path, "nifti", (), {}))


def test_an_object_that_does_not_exist_is_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match="labelmap, pmap"):
        run_case(tmp_path / "a", tmp_path / "b", tmp_path / "out", dicom_also=["gsps"])
    assert not (tmp_path / "out").exists()
