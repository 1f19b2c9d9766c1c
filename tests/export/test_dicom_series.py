"""The quantitative series and the colour pictures: every voxel at its place, with its value."""

import os
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from lungvq import io
from lungvq.errors import GeometryError, InputError
from lungvq.export.dicom import check_right_angles, made_up, read_source
from lungvq.export.dicom.common import Context, planes_of
from lungvq.export.dicom.fused import write_fused
from lungvq.export.dicom.series import PADDING, scaling_of, write_series
from lungvq.export.dicom.source import Reference
from lungvq.volume import ALL_AXIS_CODES, Grid, Volume

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def world_of(image):
    """LPS mm of every pixel of one file, (rows, columns, 3), as PS3.3 C.7.6.2.1.1 has it."""
    right, down = np.split(np.array(image.ImageOrientationPatient, float), 2)
    j, i = np.mgrid[: image.Rows, : image.Columns]
    rows, columns = map(float, image.PixelSpacing)
    position = np.array(image.ImagePositionPatient, float)
    return position + i[..., None] * columns * right + j[..., None] * rows * down


def truth_at(volume, points):
    """Values of the voxels at points, NaN beyond the volume, and how far the points are off voxel centres."""
    index = volume.grid.index(points)
    nearest = np.rint(index).astype(int)
    inside = ((nearest >= 0) & (nearest < volume.shape)).all(axis=-1)
    values = np.full(inside.shape, np.nan)
    values[inside] = volume.array[tuple(nearest[inside].T)]
    return values, np.abs((index - nearest) * volume.spacing).max()


@pytest.mark.parametrize("codes", ALL_AXIS_CODES)
def test_every_voxel_lies_where_it_was_whatever_the_axis_order(codes, make, tmp_path):
    grid = make.grid((7, 8, 9), degrees=19)
    case = make.case(grid, codes)
    files = make.ct(grid.reorient(codes), tmp_path / "ct", PatientPosition="FFP")
    context = Context(case, read_source(files, "s"), NOW)
    assert write_series(context, "ventilation", tmp_path / "v") == grid.reorient(codes).shape[0]
    seen = 0
    for path in sorted((tmp_path / "v").iterdir()):
        image = pydicom.dcmread(path)
        assert image.PatientPosition == "FFP"
        assert image.FrameOfReferenceUID == "1.2.3.4.6"
        truth, off = truth_at(case.maps["ventilation"], world_of(image))
        assert off < 1e-4
        stored = image.pixel_array
        np.testing.assert_array_equal(stored == PADDING, np.isnan(truth))
        value = stored * float(image.RescaleSlope) + float(image.RescaleIntercept)
        defined = ~np.isnan(truth)
        assert np.abs(value - 1000 * truth)[defined].max(initial=0) <= 0.501 * float(image.RescaleSlope)
        seen += int(defined.sum())
    assert seen == int(np.isfinite(case.maps["ventilation"].array).sum())


@pytest.mark.parametrize("codes", ["SPL", "IAL", "SAR", "LPS", "AIR"])
def test_simpleitk_reads_the_series_at_the_same_place(codes, make, tmp_path):
    grid = make.grid(degrees=7)
    case = make.case(grid, codes)
    source = read_source(make.ct(grid.reorient(codes), tmp_path / "ct"), "s")
    write_series(Context(case, source, NOW), "perfusion", tmp_path / "q")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "q"))
    image = sitk.ReadImage(names)
    array = sitk.GetArrayFromImage(image)
    rng = np.random.default_rng(3)
    for k, j, i in rng.integers(0, array.shape, (200, 3)):
        point = np.array(image.TransformIndexToPhysicalPoint((int(i), int(j), int(k))))
        truth, off = truth_at(case.maps["perfusion"], point[None])
        assert off < 1e-4
        expected = np.nan_to_num(100 * truth[0], nan=array.min())
        assert array[k, j, i] == pytest.approx(expected, abs=0.02)


def test_a_reader_that_maps_real_world_values_gets_those_of_the_nifti_file(written):
    for kind, unit in (("ventilation", "mL/mL"), ("perfusion", "1")):
        for image in written.read(kind):
            mapping = image.RealWorldValueMappingSequence[0]
            assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == unit
            assert (mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped) == (
                1,
                65535,
            )
            stored = image.pixel_array
            value = stored * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
            truth, _ = truth_at(written.case.maps[kind], world_of(image))
            defined = ~np.isnan(truth)
            assert np.abs(value - truth)[defined].max(initial=0) < 0.51 * mapping.RealWorldValueSlope


def test_no_series_passes_for_hounsfield_units(written):
    for kind in ("ventilation", "perfusion"):
        for image in written.read(kind):
            assert image.ImageType[:2] == ["DERIVED", "SECONDARY"]
            assert "HU" not in image.RescaleType
            assert "not HU" in image.SeriesDescription
            assert image.SeriesDescription.endswith("(research)")
            assert "Research use only" in image.DerivationDescription
            assert image.WindowWidth >= 1
            assert image.PixelPaddingValue == PADDING == 0


@pytest.mark.parametrize("kind", ["ventilation", "perfusion"])
def test_our_own_series_is_not_taken_for_a_chest_ct(kind, written):
    assert not any(series.usable for series in io.list_series(written.folder / kind))
    with pytest.raises(InputError):
        io.read(written.folder / kind)


@pytest.mark.parametrize(
    ("low", "high"), [(-0.0, 1e-3), (-3.0, 7.0), (0.0, 655.3), (-120.0, 4000.0), (5.0, 1e7), (-1e5, -1.0)]
)
def test_the_scaling_is_round_holds_every_value_and_zero_exactly(low, high):
    scaling = scaling_of(low, high)
    assert len(str(float(scaling.slope))) <= 16
    assert scaling.slope.as_tuple().digits in ((1,), (2,), (5,))
    ends = np.array([min(low, 0), 0.0, max(high, 0)])
    stored = scaling.store(ends).astype(float)
    assert (stored >= 1).all()
    assert (stored < 65535).all()
    back = stored * float(scaling.slope) + float(scaling.intercept)
    assert np.abs(back - ends).max() <= 0.501 * float(scaling.slope)
    assert back[1] == pytest.approx(0, abs=1e-9 * float(scaling.slope))


def test_a_map_without_any_value_is_written_as_padding(make, tmp_path):
    case = make.case()
    case.maps["ventilation"].array[:] = np.nan
    write_series(Context(case, made_up(None, "s"), NOW), "ventilation", tmp_path)
    assert not any(pydicom.dcmread(p).pixel_array.any() for p in tmp_path.iterdir())


def test_each_slice_names_the_slice_of_the_scan_that_lies_there(make, tmp_path):
    grid = make.grid(degrees=5)
    order = np.random.default_rng(0).permutation(grid.shape[0])
    files = make.ct(grid, tmp_path / "ct", names=[f"x{n}" for n in order])
    source = read_source([files[n] for n in order], "s")
    write_series(Context(make.case(grid), source, NOW), "ventilation", tmp_path / "v")
    for k, path in enumerate(sorted((tmp_path / "v").iterdir())):
        item = pydicom.dcmread(path).SourceImageSequence[0]
        assert item.ReferencedSOPInstanceUID == f"1.2.3.4.5.{k + 1}"


def test_slices_that_were_resampled_name_no_slice_of_the_scan(make, tmp_path):
    grid = make.grid()
    shifted = Grid(grid.shape, grid.affine + np.eye(4)[:, [0]] @ np.array([[0, 0, 0, 0.4]]))
    source = read_source(make.ct(shifted, tmp_path / "ct"), "s")
    context = Context(make.case(grid), source, NOW)
    assert context.slices is None
    assert {h.SeriesInstanceUID for h in context.headers(0, 3)} == {context.series_uid("ventilation")}


def test_rows_and_columns_at_an_odd_angle_are_refused_in_one_sentence(make):
    affine = make.grid().affine.copy()
    affine[0, 1] += 0.1
    with pytest.raises(GeometryError, match="--no-dicom"):
        check_right_angles(Grid((4, 5, 6), affine))


def test_a_tilted_gantry_keeps_its_slices_where_they_are(make, tmp_path):
    grid = make.grid()
    affine = grid.affine.copy()
    affine[1, 0] += 0.6  # slices move to the back as they go up
    tilted = Grid(grid.shape, affine)
    case = make.case(tilted)
    write_series(Context(case, made_up(None, "s"), NOW), "ventilation", tmp_path)
    for path in tmp_path.iterdir():
        assert truth_at(case.maps["ventilation"], world_of(pydicom.dcmread(path)))[1] < 1e-4


def test_colour_pictures_lie_on_the_scan_and_say_what_they_are(written):
    case = written.case
    for kind, name in (("ventilation_colour", "ventilation"), ("vq_colour", "vq_log2")):
        images = written.read(kind)
        assert images
        for image in images:
            assert (image.PhotometricInterpretation, image.BurnedInAnnotation) == ("RGB", "YES")
            assert image.FrameOfReferenceUID == "1.2.3.4.6"
            part = case.exp.grid
            zoom = image.Rows // part.shape[1]
            inner = image.pixel_array[:, : part.shape[2] * zoom]
            points = world_of(image)[:, : part.shape[2] * zoom]
            index = np.rint(part.index(points)).astype(int)
            assert np.abs(part.index(points)[..., 0] - index[..., 0]).max() < 1e-4
            defined = np.isfinite(case.maps[name].array)[tuple(np.moveaxis(index, -1, 0))]
            coloured = np.ptp(inner.astype(int), axis=-1) > 0
            assert not (coloured & ~defined).any()
            assert coloured.mean() > 0.9 * defined.mean()


def test_a_withheld_map_says_so_in_name_and_picture(make, tmp_path):
    from lungvq.findings import fail

    case = make.case(findings=[fail("BAD", "Registration failed.", touches=("perfusion",))])
    context = Context(case, made_up(None, "s"), NOW)
    assert context.description("perfusion").startswith("QC FAIL")
    assert context.description("perfusion_colour").startswith("QC FAIL")
    assert not context.description("ventilation").startswith("QC FAIL")
    for derived in (
        "vq_colour",
        "seg_vq_classes",
        "labelmap_vq_classes",
        "pmap_vq_log2",
        "measurements",
        "report",
    ):
        assert context.description(derived).startswith("QC FAIL"), derived
    assert "Registration failed." in context.derivation("x")


def test_slices_are_made_one_at_a_time(make, tmp_path):
    grid = make.grid((60, 128, 128), (1.5, 2.0, 2.0))
    context = Context(make.case(grid), made_up(None, "s"), NOW)
    write_series(context, "ventilation", tmp_path / "warm")
    tracemalloc.start()
    write_series(context, "ventilation", tmp_path / "v")
    write_fused(context, "ventilation_colour", tmp_path / "c")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = 60 * 128 * 128 * 4
    assert peak < whole / 2 + 3e6


def test_planes_are_those_of_a_pasted_volume(make):
    case = make.case(make.grid(degrees=4))
    for codes in ("SPL", "RAI", "PIL"):
        grid = case.exp_grid.reorient(codes)
        expected = case.lungs_exp.paste_into(case.exp_grid, 9).reorient(codes).array
        plane = planes_of(case.lungs_exp, grid, 9)
        np.testing.assert_array_equal(np.stack([plane(k) for k in range(grid.shape[0])]), expected)
    with pytest.raises(GeometryError):
        planes_of(Volume(np.zeros((99, 2, 2)), case.exp_grid.affine), case.exp_grid, 0)


REAL = Path(os.environ.get("LUNGVQ_TEST_DATA", "")) / "ct-chest-1mm-dicom"


@pytest.mark.skipif("LUNGVQ_TEST_DATA" not in os.environ, reason="LUNGVQ_TEST_DATA is not set")
def test_on_a_real_feet_first_scan_every_slice_lies_on_the_scans_own(make, tmp_path):
    scan = io.read(REAL)
    grid = scan.volume.grid
    case = make.case(grid.reorient("SPL"), grid.codes)
    context = Context(case, read_source(scan.files, "s"), NOW)
    assert context.slices is not None
    write_series(context, "ventilation", tmp_path)
    reference = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(scan.files[0].parent)))
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in scan.files]
    sources = {header.SOPInstanceUID: header for header in headers}
    size = reference.GetSize()
    origin = {round(reference.TransformIndexToPhysicalPoint((0, 0, k))[2], 3): k for k in range(size[2])}
    off = 0.0
    for path in sorted(tmp_path.iterdir()):
        image = pydicom.dcmread(path, stop_before_pixels=True)
        k = origin[round(float(image.ImagePositionPatient[2]), 3)]
        corner = world_of(image)[-1, -1]
        expected = reference.TransformIndexToPhysicalPoint((size[0] - 1, size[1] - 1, k))
        off = max(off, np.abs(corner - expected).max())
        named = sources[image.SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert named.ImagePositionPatient[2] == pytest.approx(float(image.ImagePositionPatient[2]), abs=0.02)
        assert image.PatientPosition == named.PatientPosition == "FFS"
    assert off < 1e-4
    assert len(list(tmp_path.iterdir())) == size[2]


def test_frames_of_a_multi_frame_scan_are_named_by_number(make, tmp_path):
    grid = make.grid((6, 9, 10))
    source = read_source(make.ct(grid, tmp_path / "ct"), "s")
    enhanced = "1.2.840.10008.5.1.4.1.1.2.1"
    frames = [Reference(enhanced, "1.2.7", r.position, n) for n, r in enumerate(source.slices, start=1)]
    context = Context(make.case(grid), replace(source, slices=tuple(frames)), NOW)
    write_series(context, "ventilation", tmp_path / "v")
    for k, path in enumerate(sorted((tmp_path / "v").iterdir())):
        item = pydicom.dcmread(path).SourceImageSequence[0]
        assert (item.ReferencedSOPInstanceUID, item.ReferencedFrameNumber) == ("1.2.7", k + 1)
    # highdicom cannot take single frames as sources: what it makes refers to our own series.
    assert {h.SeriesInstanceUID for h in context.headers(0, 2)} == {context.series_uid("ventilation")}
