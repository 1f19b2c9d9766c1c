"""DICOM series: positions rule, what does not make a volume is refused by name, pixels become HU."""

import hashlib
import itertools
import json
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from lungvq import io
from lungvq.errors import InputError
from lungvq.io import dicom
from lungvq.io.geometry import Layout
from lungvq.volume import ALL_AXIS_CODES, Volume

SHAPE = (14, 12, 10)
SPACING = (2.5, 0.7, 0.8)  # k, j, i


def chest(shape=SHAPE, seed=0):
    """Noise that passes for a chest: air, lung and soft tissue."""
    rng = np.random.default_rng(seed)
    hu = np.where(rng.random(shape) < 0.4, rng.integers(-1000, -700, shape), rng.integers(-100, 200, shape))
    return hu.astype(np.int16)


def straight(spacing=SPACING):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:, 3] = -120.5, -80.25, 40.125, 1
    return affine


def turned(affine, degrees=25.0):
    axis = np.array([2.0, -1.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn @ affine


def headers_of(hu, affine, *, intercept=-1024, slope=1, signed=False, **tags):
    """One dataset for each slice of an ordinary CT series, first slice first."""
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    right, down = affine[:3, 2], affine[:3, 1]
    made = []
    for k, plane in enumerate(hu):
        d = Dataset()
        d.SOPClassUID, d.SOPInstanceUID, d.Modality = CTImageStorage, generate_uid(), "CT"
        d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = study, series, frame
        d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        d.PatientID, d.PatientName, d.PatientBirthDate = "MRN-4711", "Doe^Jane", "19600102"
        d.StudyDate, d.SeriesDescription, d.SeriesNumber = "20250102", "INSP 1.0 Br40", 5
        d.ConvolutionKernel, d.KVP, d.SliceThickness, d.PatientPosition = "Br40", 120, 2, "HFS"
        d.Manufacturer, d.InstanceNumber, d.AcquisitionNumber = "Example", 1000 - 7 * k, 1
        d.ImagePositionPatient = [f"{v:.8g}" for v in affine[:3, 3] + k * affine[:3, 0]]
        spacing = np.linalg.norm(down), np.linalg.norm(right)
        d.ImageOrientationPatient = [f"{v:.10f}"[:16] for v in (*right / spacing[1], *down / spacing[0])]
        d.PixelSpacing = [f"{v:.8g}" for v in spacing]
        d.Rows, d.Columns = plane.shape
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, int(signed)
        d.RescaleSlope, d.RescaleIntercept, d.RescaleType = str(slope), str(intercept), "HU"
        stored = (plane.astype(int) - intercept) / slope
        d.PixelData = np.rint(stored).astype("<i2" if signed else "<u2").tobytes()
        for name, value in tags.items():
            setattr(d, name, value)
        made.append(d)
    return made


def name_of(dataset):
    """The file that `save` makes of a slice."""
    return hashlib.md5(str(dataset.SOPInstanceUID).encode()).hexdigest()[:8]


def save(datasets, folder, syntax=ExplicitVRLittleEndian):
    """Write them under names that say nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for d in datasets:
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = syntax
        if syntax.is_encapsulated:
            d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            d.compress(syntax, generate_instance_uid=False)
        elif syntax == ExplicitVRBigEndian:
            d.PixelData = np.frombuffer(d.PixelData, "<u2").astype(">u2").tobytes()
        d.save_as(folder / name_of(d), enforce_file_format=True)
    return folder


def series(tmp_path, hu=None, affine=None, **options):
    return save(
        headers_of(chest() if hu is None else hu, straight() if affine is None else affine, **options),
        tmp_path,
    )


def refused(path, match):
    with pytest.raises(InputError, match=match) as caught:
        io.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


# --- what is read -----------------------------------------------------------------------------------------


def test_positions_rule_whatever_the_names_and_numbers(tmp_path):
    scan = io.read(series(tmp_path))
    np.testing.assert_array_equal(scan.volume.array, chest())
    np.testing.assert_allclose(scan.volume.affine, straight(), atol=1e-6)
    assert scan.volume.array.dtype == np.int16
    assert (scan.kind, len(scan.files), scan.findings) == ("dicom", 14, ())


def test_slices_come_in_the_order_of_the_files_it_names(tmp_path):
    scan = io.read(series(tmp_path))
    z = [float(pydicom.dcmread(f).ImagePositionPatient[2]) for f in scan.files]
    assert z == sorted(z)


def test_every_axis_order_agrees_with_simpleitk(tmp_path):
    """Coronal, sagittal, mirrored, feet first: 48 ways to slice one body."""
    body = Volume(chest((10, 11, 12)), turned(straight()))
    for codes in ALL_AXIS_CODES:
        sliced = body.reorient(codes)
        folder = series(tmp_path / codes, sliced.array, sliced.affine)
        scan = io.read(folder)
        back = scan.volume.reorient("SPL")
        np.testing.assert_array_equal(back.array, body.array)
        np.testing.assert_allclose(back.affine, body.affine, atol=1e-4)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(f) for f in scan.files])
        image = reader.Execute()
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan.volume.array)
        point = image.TransformIndexToPhysicalPoint((3, 2, 5))
        np.testing.assert_allclose(scan.volume.grid.world((5, 2, 3)), point, atol=1e-3)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless],
    ids=lambda s: s.name,
)
def test_encodings_without_loss(tmp_path, syntax):
    hu = chest((12, 40, 33))
    scan = io.read(save(headers_of(hu, straight()), tmp_path, syntax))
    np.testing.assert_array_equal(scan.volume.array, hu)
    assert scan.findings == ()
    assert scan.facts["transfer_syntax"] == syntax.name


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (1, -1000), (0.5, -1024), (2, -1024.5)])
def test_stored_values_become_hu(tmp_path, signed, slope, intercept):
    hu = np.rint(chest() / 2).astype(np.int16) * 2
    hu[hu < -1000] = -1000
    scan = io.read(series(tmp_path, hu, signed=signed, slope=slope, intercept=intercept))
    assert np.abs(scan.volume.array - hu.astype(int)).max() <= (1 if intercept == -1024.5 else 0)


def test_each_slice_has_its_own_rescale(tmp_path):
    made = []
    for k, d in enumerate(headers_of(chest(), straight())):
        other = headers_of(chest(), straight(), intercept=-1024 - 10 * k)[k]
        d.PixelData, d.RescaleIntercept = other.PixelData, other.RescaleIntercept
        made.append(d)
    scan = io.read(save(made, tmp_path))
    np.testing.assert_array_equal(scan.volume.array, chest())
    assert scan.facts["rescale_intercept"] == [-1154.0, -1024.0]


@pytest.mark.parametrize("signed", [False, True])
def test_unused_high_bits_are_not_values(tmp_path, signed):
    """Twelve bits stored, an overlay in the upper four."""
    made = headers_of(chest(), straight(), signed=signed, intercept=0 if signed else -1024)
    for d in made:
        stored = np.frombuffer(d.PixelData, "<u2") & 0x0FFF | 0xA000
        d.PixelData, d.BitsStored, d.HighBit = stored.tobytes(), 12, 11
    np.testing.assert_array_equal(io.read(save(made, tmp_path)).volume.array, chest())


def test_padding_that_would_look_like_metal_becomes_air(tmp_path):
    made = headers_of(chest(), straight(), PixelPaddingValue=63536)
    for d in made:
        stored = np.frombuffer(d.PixelData, "<u2").copy()
        stored[:5] = 63536
        d.PixelData = stored.tobytes()
    scan = io.read(save(made, tmp_path))
    assert (scan.volume.array[:, 0, :5] == -1024).all()
    np.testing.assert_array_equal(scan.volume.array[:, 1:], chest()[:, 1:])


def test_padding_below_air_is_kept(tmp_path):
    hu = chest()
    hu[:, 0, :3] = -3024
    scan = io.read(series(tmp_path, hu, signed=True, PixelPaddingValue=-2000))
    np.testing.assert_array_equal(scan.volume.array, hu)
    assert scan.facts["pixel_padding"] == -2000
    assert scan.facts["voxels_below_minus_1024"] == 3 * len(hu)


def test_files_without_preamble(tmp_path):
    for n, d in enumerate(headers_of(chest(), straight())):
        pydicom.dcmwrite(tmp_path / str(n), d, implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(io.read(tmp_path).volume.array, chest())


def test_nested_folders_beside_other_files(tmp_path):
    made = headers_of(chest(), straight())
    save(made[:5], tmp_path / "a/b")
    save(made[5:], tmp_path / "c")
    (tmp_path / "README.txt").write_text("exported on a Friday")
    (tmp_path / "empty").write_bytes(b"")
    report = headers_of(chest()[:1], straight(), Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22")[
        0
    ]
    del report.Rows
    save([report], tmp_path / "d")
    np.testing.assert_array_equal(io.read(tmp_path).volume.array, chest())


def test_facts_name_no_patient(tmp_path):
    facts = io.read(series(tmp_path, ContrastBolusAgent="")).facts
    told = json.dumps(facts)
    assert not any(secret in told for secret in ("MRN-4711", "Doe", "Jane", "19600102"))
    assert facts["patient"] == hashlib.sha256(b"MRN-4711").hexdigest()[:12]
    expected = {
        "kernel": "Br40",
        "kvp": 120.0,
        "study_date": "20250102",
        "series_description": "INSP 1.0 Br40",
        "patient_position": "HFS",
        "slice_thickness_mm": 2.0,
        "contrast_agent": None,
        "manufacturer": "Example",
    }
    assert expected.items() <= facts.items()


def test_a_position_jitter_of_rounding_is_accepted(tmp_path):
    made = headers_of(chest(), straight((1.0, 0.7, 0.8)))
    rng = np.random.default_rng(0)
    for d in made:
        d.ImagePositionPatient[2] = round(float(d.ImagePositionPatient[2]) + rng.uniform(-0.004, 0.004), 4)
    assert io.read(save(made, tmp_path)).volume.spacing[0] == pytest.approx(1, abs=1e-3)


# --- what is set aside or remarked ------------------------------------------------------------------------


def codes(scan):
    return [f.code for f in scan.findings]


def scout(like, n=0):
    d = headers_of(chest((1, 30, 40)), turned(straight(), 90))[0]
    d.SeriesInstanceUID, d.StudyInstanceUID = like.SeriesInstanceUID, like.StudyInstanceUID
    d.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return d


def test_localizers_in_the_series_are_set_aside(tmp_path):
    made = headers_of(chest(), straight())
    scan = io.read(save([*made, scout(made[0])], tmp_path))
    np.testing.assert_array_equal(scan.volume.array, chest())
    assert codes(scan) == ["LOCALIZERS_SET_ASIDE"]


def test_a_scan_is_the_same_whatever_lies_beside_it(tmp_path):
    series(tmp_path)
    before = io.find_scan(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"folder view")
    (tmp_path / "notes.txt").write_text("seen")
    after = io.find_scan(tmp_path)
    assert io.sha256_of(after.files) == io.sha256_of(before.files) == io.sha256_of(io.read(tmp_path).files)


def test_localizers_as_a_series_of_their_own_do_not_disturb(tmp_path):
    view = headers_of(chest((1, 30, 40)), straight())[0]
    view.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save([view], series(tmp_path) / "scout")
    assert io.read(tmp_path).volume.shape == SHAPE


def test_a_file_that_occurs_twice(tmp_path):
    folder = series(tmp_path)
    first = next(folder.iterdir())
    (folder / "copy").write_bytes(first.read_bytes())
    scan = io.read(folder)
    np.testing.assert_array_equal(scan.volume.array, chest())
    assert codes(scan) == ["COPIES_SET_ASIDE"]


def test_remarks_on_gaps_and_contrast_and_loss(tmp_path):
    thick = io.read(series(tmp_path / "a", affine=straight((5, 0.7, 0.8))))
    assert codes(thick) == ["SLICE_GAPS"]
    assert codes(io.read(series(tmp_path / "b", ContrastBolusAgent="Iohexol"))) == ["CONTRAST_AGENT"]
    assert codes(io.read(series(tmp_path / "c", LossyImageCompression="01"))) == ["LOSSY_COMPRESSION"]


def test_slices_on_scales_of_their_own_are_read_by_them_and_told(tmp_path):
    datasets = headers_of(chest(), straight())
    for d in datasets[-3:]:
        d.RescaleIntercept = "-1000"
    scan = io.read(save(datasets, tmp_path))
    assert codes(scan) == ["SCALES_DIFFER"]
    assert scan.findings[0].value == 3
    np.testing.assert_array_equal(scan.volume.array[-3:], chest()[-3:] + 24)


# --- what is mended, and told -----------------------------------------------------------------------------


def without(made, *numbers):
    return [d for n, d in enumerate(made) if n not in numbers]


def moved(made, k, offset):
    made[k].ImagePositionPatient = [
        float(a) + b for a, b in zip(made[k].ImagePositionPatient, offset, strict=True)
    ]
    return made


def changed(made, k, **tags):
    for name, value in tags.items():
        setattr(made[k], name, value)
    return made


def tilted(degrees):
    affine = straight()
    affine[1, 0] = affine[2, 0] * np.tan(np.radians(degrees))
    return headers_of(chest(), affine)


def uneven(wide=2.0):
    made = headers_of(chest(), straight((1, 0.7, 0.8)))
    for k, d in enumerate(made):
        d.ImagePositionPatient[2] = 10.0 + k + max(0, k - 7) * (wide - 1)
    return made


def twice():
    made = headers_of(chest(), straight())
    again = headers_of(chest(seed=1), straight())
    for d in again:
        d.SeriesInstanceUID, d.AcquisitionNumber = made[0].SeriesInstanceUID, 2
        d.StudyInstanceUID, d.FrameOfReferenceUID = made[0].StudyInstanceUID, made[0].FrameOfReferenceUID
    return made + again


def ordinary():
    return headers_of(chest(), straight())


def test_a_missing_slice_is_interpolated_and_told(tmp_path):
    scan = io.read(save(without(ordinary(), 6), tmp_path))
    hu = chest().astype(float)
    hu[6] = (hu[5] + hu[7]) / 2
    np.testing.assert_array_equal(scan.volume.array, np.rint(hu))
    np.testing.assert_allclose(scan.volume.affine, straight(), atol=1e-6)
    assert codes(scan) == ["MISSING_SLICES"]
    assert "52.6 to 57.6 mm" in scan.findings[0].message
    assert scan.facts["interpolated_slices"] == [6]


def test_a_step_that_doubles_halfway(tmp_path):
    scan = io.read(save(uneven(), tmp_path))
    assert scan.volume.shape[0] == 20
    assert scan.volume.spacing[0] == pytest.approx(1, abs=1e-9)
    np.testing.assert_array_equal(scan.volume.array[[*range(8), *range(9, 20, 2)]], chest())
    between = (chest()[8].astype(float) + chest()[9]) / 2
    np.testing.assert_array_equal(scan.volume.array[10], np.rint(between))
    assert codes(scan) == ["UNEVEN_SLICES"]
    assert scan.facts["interpolated_slices"] == [8, 10, 12, 14, 16, 18]


def test_one_slice_out_of_place(tmp_path):
    """Only its own plane is interpolated: between it and the neighbour on the other side."""
    scan = io.read(save(moved(ordinary(), 5, (0, 0, 0.3)), tmp_path))
    np.testing.assert_allclose(scan.volume.affine, straight(), atol=1e-6)
    hu = chest().astype(float)
    hu[5] = hu[4] + (hu[5] - hu[4]) * 2.5 / 2.8
    np.testing.assert_allclose(scan.volume.array, hu, atol=0.51)
    assert codes(scan) == ["UNEVEN_SLICES"]
    assert scan.facts["interpolated_slices"] == [5]


@pytest.mark.parametrize("degrees", [15, -5, 30])
def test_a_gantry_tilt_is_taken_out_once(tmp_path, degrees):
    """A body that is linear in space has the same value at a point however it was sliced."""
    slope = np.array([1.5, -2.0, 3.0])
    made = tilted(degrees)
    affine = straight()
    affine[1, 0] = affine[2, 0] * np.tan(np.radians(degrees))
    sheared = Volume(np.zeros(SHAPE, np.int16), affine)
    hu = sheared.grid.world(np.stack(np.indices(SHAPE), -1)) @ slope
    for d, plane in zip(made, hu, strict=True):
        d.PixelData = (np.rint(plane * 2) + 1024).astype("<u2").tobytes()
    part = dicom.find(save(made, tmp_path)).parts[0]
    stack = dicom.arrange(part)
    np.testing.assert_allclose(stack.layout.affine, affine, atol=1e-6)
    volume = dicom.pixels(stack)
    down = volume.affine[:3, :3].T @ volume.affine[:3, :3]
    np.testing.assert_allclose(down - np.diag(np.diag(down)), 0, atol=1e-9)
    assert volume.grid.same_as(stack.grid)
    back = volume.grid.world(np.stack(np.indices(volume.shape), -1)) @ slope * 2
    inside = volume.array > -1000
    assert inside[:, 1:-1].mean() > 0.25
    core = np.abs(back - volume.array) < 2
    # All but the rows at the edge, where half a pixel is air.
    assert (inside & ~core).sum() <= 2 * SHAPE[0] * SHAPE[2]
    (finding,) = [f for f in stack.findings if f.code == "GANTRY_TILT"]
    assert finding.value == pytest.approx(abs(degrees), abs=0.01)


@pytest.mark.parametrize(
    ("tags", "by"),
    [
        ({"Modality": "MR"}, "modality CT (13 images); modality MR (1 image)"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "orientation 1 0 0 0 1 0 (13 images)"),
        ({"PixelSpacing": [0.7, 0.7]}, "pixel spacing 0.7 0.8 (13 images)"),
        ({"Rows": 24, "Columns": 5}, "size 12 x 10 (13 images); size 24 x 5 (1 image)"),
        ({"ConvolutionKernel": "B70f"}, "kernel Br40 (13 images); kernel B70f (1 image)"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "image type"),
        ({"RescaleType": "Z_EFF"}, "unit HU (13 images); unit Z_EFF (1 image)"),
        ({"SamplesPerPixel": 3}, "colours 1 (13 images); colours 3 (1 image)"),
    ],
)
def test_an_odd_one_among_the_slices_is_set_aside(tmp_path, tags, by):
    scan = io.read(save(changed(ordinary(), 3, **tags), tmp_path))
    assert codes(scan) == ["SERIES_SPLIT", "MISSING_SLICES"]
    assert by in scan.findings[0].message
    np.testing.assert_array_equal(np.delete(scan.volume.array, 3, 0), np.delete(chest(), 3, 0))


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: without(ordinary(), 4, 5),
            r"2 slices are missing, between \w+ and \w+ \(47\.6 to 55\.1 mm\)",
        ),
        (lambda: without(ordinary(), 2, 5, 9), "3 slices are missing, between"),
        (lambda: without(headers_of(chest(), straight((4, 0.7, 0.8))), 5), "1 slice is missing"),
        (lambda: uneven(7.0), r"slice steps differ, from 1\.00 to 7\.00 mm"),
        (lambda: moved(ordinary(), 5, (0, 0, 2.5)), "1 of its slices lie where another one lies"),
        (lambda: moved(ordinary(), 5, (0, 0, -2)), "slice steps differ"),
        (twice, r"2 CT series: .*, acquisition 1 \(14 images\); .*, acquisition 2 \(14 images\)"),
        (lambda: tilted(50), "stacked at 50 degrees"),
        (lambda: moved(ordinary(), 5, (3, 0, 0)), "shifted sideways"),
        (lambda: changed(ordinary(), 3, ImagePositionPatient=None), "lacks a usable ImagePositionPatient"),
        (lambda: [changed([d], 0, Modality="MR")[0] for d in ordinary()], "modality is MR"),
        (
            lambda: [changed([d], 0, ImageType=["DERIVED", "SECONDARY", "MIP"])[0] for d in ordinary()],
            r"\(MIP\)",
        ),
        (lambda: [changed([d], 0, RescaleType="Z_EFF")[0] for d in ordinary()], "values are in Z_EFF"),
        (lambda: [changed([d], 0, NumberOfFrames=1, SamplesPerPixel=3)[0] for d in ordinary()], "in colour"),
        (lambda: changed(ordinary(), 3, NumberOfFrames=4), "multi-frame"),
        (lambda: changed(ordinary(), 3, PixelData=bytes(100)), r"cut short: 100 of 240 bytes .*Explicit VR"),
        (lambda: ordinary()[:1], "single slice"),
        (lambda: ordinary()[:9], "9 slices are not a chest CT"),
        (lambda: [scout(d) for d in ordinary()[:2]], "only localizers"),
        (lambda: headers_of(chest() + 1024, straight(), intercept=0), "rescale intercept lost"),
        (lambda: headers_of(chest(), straight((10, 0.7, 0.8))), "10 mm between slices is too thick"),
        (lambda: ordinary() + ordinary(), r"2 CT series: series 5 'INSP 1\.0 Br40' \(14 images\); series 5"),
        (lambda: ordinary() + without(ordinary(), 5), "2 CT series"),
    ],
)
def test_what_is_not_one_volume_is_refused(tmp_path, make, match):
    refused(save(make(), tmp_path), match)


def test_pixels_cut_short_in_the_file(tmp_path):
    folder = series(tmp_path)
    file = sorted(folder.iterdir())[5]
    file.write_bytes(file.read_bytes()[:-60])
    refused(folder, f"{file.name} .* cut short")


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda s: s.name)
def test_damage_in_packed_pixels(tmp_path, syntax):
    slices = headers_of(chest((14, 40, 40)), straight())
    file = save(slices, tmp_path, syntax) / name_of(slices[5])
    content = bytearray(file.read_bytes())
    content[-600:-100] = bytes(500)
    if syntax != JPEG2000Lossless:  # its streams have neither checksums nor a fixed length
        file.write_bytes(content)
        refused(tmp_path, f"{file.name} cannot be decoded")
    file.write_bytes(content[:-60])
    refused(tmp_path, f"{file.name} is cut short")


def test_a_damaged_header_is_told(tmp_path):
    folder = series(tmp_path)
    file = sorted(folder.iterdir())[0]
    content = file.read_bytes()
    for kept in (100, 140, 180, 300, 600, 1000):
        file.write_bytes(content[:kept])
        refused(folder, f"{file.name} (is cut short|cannot be parsed)")


def test_folders_without_dicom(tmp_path):
    refused(tmp_path, "no DICOM images")
    (tmp_path / "exp.nii.gz").write_bytes(b"x")
    refused(tmp_path, r"to use exp\.nii\.gz, give the file itself")
    refused(tmp_path / "none", "no such file or folder")


def test_one_file_of_a_series(tmp_path):
    refused(next(series(tmp_path).iterdir()), "give the folder that holds all slices")


def test_a_deflated_bomb_is_not_inflated(tmp_path):
    folder = series(tmp_path)
    file = sorted(folder.iterdir())[0]
    image = pydicom.dcmread(file)
    image.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    image.save_as(file)
    np.testing.assert_array_equal(io.read(folder).volume.array, chest())  # an honest one is read
    head = file.read_bytes()
    start = 144 + int(pydicom.filereader.read_file_meta_info(file).FileMetaInformationGroupLength)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(260)) + packer.flush()
    file.write_bytes(head[:start] + bomb)
    refused(folder, "unpacks to more than 256 MB")


# --- listing ----------------------------------------------------------------------------------------------


def test_a_study_is_listed_series_by_series(tmp_path):
    save(headers_of(chest(), straight(), SeriesNumber=3, SeriesDescription="INSP"), tmp_path / "x")
    save(headers_of(chest(), straight(), SeriesNumber=4, SeriesDescription="EXP"), tmp_path / "x")
    save(without(headers_of(chest(), straight(), SeriesNumber=5), 6, 7), tmp_path / "y")
    io.write(Volume(chest(), straight()), tmp_path / "z.nii.gz")
    insp, exp, broken, image = io.list_series(tmp_path)
    assert [s.description for s in (insp, exp)] == ["INSP", "EXP"]
    assert [s.usable for s in (insp, exp, broken, image)] == [True, True, False, True]
    assert "2 slices are missing" in broken.reasons[0]
    assert (insp.slices, insp.modality, insp.kernel, insp.grid.codes) == (14, "CT", "Br40", "SPL")
    assert {"slices", "reasons", "series_uid", "spacing_mm"} <= set(json.loads(json.dumps(insp.to_dict())))
    assert (image.kind, image.slices) == ("nifti", 14)


def test_a_listed_series_is_read(tmp_path):
    save(headers_of(chest(), straight(), SeriesNumber=3), tmp_path)
    save(headers_of(chest(seed=1), straight(), SeriesNumber=4), tmp_path)
    first, second = io.list_series(tmp_path)
    np.testing.assert_array_equal(io.read_series(first).volume.array, chest())
    np.testing.assert_array_equal(io.read_series(second).volume.array, chest(seed=1))


def test_a_listed_series_keeps_what_was_noticed(tmp_path):
    made = ordinary()
    (info,) = io.list_series(save([*made, scout(made[0])], tmp_path))
    assert codes(io.read_series(info)) == codes(info) == ["LOCALIZERS_SET_ASIDE"]


def test_a_damaged_file_beside_a_series_may_be_its_last_slice(tmp_path):
    folder = series(tmp_path)
    (last,) = [f for f in folder.iterdir() if pydicom.dcmread(f).InstanceNumber == 1000 - 7 * 13]
    last.write_bytes(last.read_bytes()[:300])
    (info,) = io.list_series(folder)
    assert not info.usable
    with pytest.raises(InputError, match=f"{last.name} is cut short"):
        io.read_series(info)


def test_an_image_that_cannot_be_used_is_listed_with_its_reason(tmp_path):
    io.write(Volume(chest() + np.int16(1024), straight()), tmp_path / "a.nii")
    (info,) = io.list_series(tmp_path / "a.nii")
    assert not info.usable
    assert "rescale intercept lost" in info.reasons[0]


def test_nothing_to_list(tmp_path):
    with pytest.raises(InputError, match="no DICOM images"):
        io.list_series(tmp_path)


# --- real scans -------------------------------------------------------------------------------------------

DATA = os.environ.get("LUNGVQ_TEST_DATA")
real = pytest.mark.skipif(not DATA, reason="LUNGVQ_TEST_DATA is not set")


@pytest.fixture
def data():
    return Path(DATA or "")


@real
def test_a_whole_chest_feet_first(data):
    scan = io.read(data / "ct-chest-1mm-dicom")
    assert scan.volume.shape == (275, 512, 512)
    assert scan.volume.grid.codes == "SPL"
    assert scan.volume.spacing == pytest.approx((1, 0.78125, 0.78125))
    assert (scan.facts["rescale_intercept"], scan.facts["patient_position"]) == (-1000.0, "FFS")
    # The apex is above the base: more air in the last slice's picture of the neck than in the abdomen's.
    assert (scan.volume.array[-1] < -500).mean() > 0
    assert [f.code for f in scan.findings] == ["FRAMES_OF_REFERENCE"]


@real
def test_a_whole_chest_as_simpleitk_has_it_and_no_slower(data, capsys):
    folder = data / "ct-chest-1mm-dicom"
    ours, theirs = [], []
    for _ in range(4):
        start = time.perf_counter()
        scan = io.read(folder)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "dicom")))
        image = reader.Execute()
        theirs.append(time.perf_counter() - start)
    volume = scan.volume
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.array)
    for k, j, i in itertools.product(*((0, n // 2, n - 1) for n in volume.shape)):
        point = image.TransformIndexToPhysicalPoint((i, j, k))
        np.testing.assert_allclose(volume.grid.world((k, j, i)), point, rtol=0, atol=1e-6)
    with capsys.disabled():
        told = f"first {ours[0]:.2f} s, then {min(ours):.2f} s; SimpleITK {min(theirs):.2f} s"
        print(f"\n275 slices of 512 x 512: {told}", end="")
    assert min(ours) < max(0.8, 1.5 * min(theirs))


@real
@pytest.mark.parametrize(
    ("folder", "match"),
    [
        ("ge-gantry-tilt-variable-spacing", "slice steps differ"),
        ("dicom2nifti-failing/gantrytilting/001", "4 slices are not a chest CT"),
        ("dicom2nifti-failing/notavolume/001", "3 of its slices lie where another one lies"),
        ("dicom2nifti-failing/sliceincrement/001", "1 slice is missing"),
        ("dicom2nifti-failing/sliceincrement/002", "slices are not a chest CT"),
        ("dicom2nifti-failing/sliceorientation/001", "modality is MR"),
        ("dicom2nifti-failing/slicecount/001", "modality is MR"),
        ("enhanced-ct", "2 slices are not a chest CT"),
        ("misc", "no usable CT series"),
        ("helical-chest-all-transfer-syntaxes", "lie where another one lies|single slice"),
        ("../nm-spect-heart", "modality is NM"),
        ("../nm-planar-lung-perfusion", "modality is NM"),
    ],
)
def test_odd_series_are_refused_with_a_reason(data, folder, match):
    refused(data / "dicom-odd" / folder, match)


def one_slice(file):
    (part,) = dicom.find(file).parts
    return dicom.pixels(dicom.Stack(part.images, Layout(np.arange(1), np.eye(4)), (), part)).array[0]


@real
def test_sixteen_encodings_of_one_slice(data):
    folder = data / "dicom-odd/helical-chest-all-transfer-syntaxes"
    truth = one_slice(folder / "CTImage.dcm").astype(int)
    assert (truth.min(), truth.max()) == (-3024, 1378)
    off = {f.name.split("_")[-1][:-4]: int(abs(one_slice(f) - truth).max()) for f in folder.glob("*.dcm")}
    lossy = {uid: error for uid, error in off.items() if error}
    assert len(off) == 16
    assert set(lossy) == {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 53, 55, 81, 91)}
    assert all(error <= {"50": 65, "81": 1, "91": 5}.get(uid[-2:], 36) for uid, error in lossy.items())


@real
@pytest.mark.parametrize("name", ["orthanc_SignedCT", "fo-dicom_GH1308_tilt", "lungmask_0"])
def test_single_slices_agree_with_simpleitk(data, name):
    file = data / f"dicom-odd/misc/{name}.dcm"
    np.testing.assert_array_equal(one_slice(file), sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0])


@real
def test_a_sign_that_the_codestream_contradicts(data):
    """J2K with unsigned samples under a signed header: values must still be HU, not off by 65536."""
    hu = one_slice(data / "dicom-odd/misc/pydicom_J2K_pixelrep_mismatch.dcm")
    assert -3100 < hu.min() < -900
    assert hu.max() < 3100


@real
@pytest.mark.parametrize(
    "name", ["ct-pair-4d/inhale.nii.gz", "ct-pair-4d/exhale.nii.gz", "ct-chest-coarse/ct-64.nrrd"]
)
def test_real_image_files(data, name):
    scan = io.read(data / name)
    assert scan.findings == ()
    image = sitk.ReadImage(str(data / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan.volume.array)
    np.testing.assert_allclose(
        scan.volume.grid.world((9, 20, 30)), image.TransformIndexToPhysicalPoint((30, 20, 9)), atol=1e-3
    )
