"""Real scans, against published or given numbers; skipped where LUNGVQ_TEST_DATA is not set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from analytic_chest import dice

from lungvq.findings import Severity
from lungvq.segment import segment
from lungvq.segment.laterality import check_laterality
from lungvq.segment.references import reference_tissue
from lungvq.volume import Volume

DATA = os.environ.get("LUNGVQ_TEST_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="LUNGVQ_TEST_DATA does not name the folder of real scans")


def read(*parts: str) -> Volume:
    """Read with SimpleITK alone: independent of the package's own readers."""
    image = sitk.ReadImage(str(Path(DATA or "").joinpath(*parts)))
    affine = np.eye(4)
    affine[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing())[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image), affine).reorient("SPL")


def test_a_pair_with_a_collapsed_left_lung():
    anatomies = {breath: segment(read("ct-pair-4d", f"{breath}.nii.gz")) for breath in ("inhale", "exhale")}
    right = {breath: a.volume_ml("right") for breath, a in anatomies.items()}
    left = {breath: a.volume_ml("left") for breath, a in anatomies.items()}
    assert 1550 < right["inhale"] < 1760
    assert 1260 < right["exhale"] < 1470
    for breath, anatomy in anatomies.items():
        assert 60 < left[breath] < 115
        assert "LUNG_COLLAPSED" in {f.code for f in anatomy.findings}
    assert left["exhale"] == pytest.approx(left["inhale"], rel=0.1)


def test_a_coarse_scan_against_its_label_map():
    ct = read("ct-chest-coarse", "ct-64.nrrd")
    region = read("ct-chest-coarse", "lm-64.nrrd").array.astype(int) & 255
    anatomy = segment(ct)
    assert dice(anatomy.lungs.array == 1, (region >= 9) & (region <= 11)) > 0.98
    assert dice(anatomy.lungs.array == 2, (region >= 12) & (region <= 14)) > 0.98
    assert anatomy.volume_ml("both") == pytest.approx(4550, rel=0.02)
    assert all(f.severity is Severity.PASS for f in anatomy.findings)
    finding = check_laterality(ct, anatomy.lungs)
    assert "supports" in finding.message
    found = reference_tissue(ct, anatomy)
    assert found.air_hu == pytest.approx(-1000, abs=25)
    assert found.blood_hu == pytest.approx(45, abs=15)


@pytest.mark.slow
def test_a_thin_slice_scan_feet_first():
    reader = sitk.ImageSeriesReader()
    folder = str(Path(DATA or "") / "ct-chest-1mm-dicom" / "dicom")
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing())[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    ct = Volume(sitk.GetArrayFromImage(image).astype(np.int16), affine).reorient("SPL")
    anatomy = segment(ct)
    assert anatomy.volume_ml("both") == pytest.approx(2850, rel=0.03)
    assert anatomy.volume_ml("left") > anatomy.volume_ml("right")  # atelectasis on the right
