"""Image files: what is written comes back, other readers agree, and damage is told in one sentence."""

import contextlib
import gzip
import os
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from lungvq import io
from lungvq.errors import InputError, OutputError
from lungvq.findings import Severity
from lungvq.volume import ALL_AXIS_CODES, Grid, Volume

SUFFIXES = ("nii", "nii.gz", "mha", "nrrd")
SHAPE = (12, 14, 16)


def rotated(spacing=(2.4, 0.8, 0.7), degrees=20.0):
    """An oblique affine: k, j, i along the body, turned about an odd axis."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.fliplr(np.eye(3)) * spacing
    affine[:3, 3] = -100.5, -220.25, 31.125
    return affine


def sheared():
    affine = rotated()
    affine[:3, 0] += (0.0, 0.0, 0.6)
    return affine


def chest(shape=SHAPE, affine=None, seed=0):
    """Noise that passes for a chest: air, lung and soft tissue."""
    rng = np.random.default_rng(seed)
    hu = np.where(rng.random(shape) < 0.4, rng.integers(-1000, -700, shape), rng.integers(-100, 200, shape))
    return Volume(hu.astype(np.int16), rotated() if affine is None else affine)


def itk_affine(image):
    """(k, j, i) to LPS mm, straight from SimpleITK's own point transform: the second route."""
    origin = np.array(image.TransformIndexToPhysicalPoint((0, 0, 0)))
    steps = [
        np.array(image.TransformIndexToPhysicalPoint(ijk)) - origin for ijk in np.eye(3, dtype=int).tolist()
    ]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.column_stack(steps[::-1]), origin
    return affine


def save_nifti(path, affine_ras, *, values=None, sform=1, qform=1, qform_affine=None, **header):
    """A NIfTI file with any header one likes."""
    values = chest().array.T if values is None else values
    image = nib.Nifti1Image(values, affine_ras)
    image.header.set_sform(affine_ras, sform)
    image.header.set_qform(affine_ras if qform_affine is None else qform_affine, qform, strip_shears=True)
    for name, value in header.items():
        image.header[name] = value
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as stream:
        image.header["magic"], image.header["vox_offset"] = b"n+1", 352
        stream.write(image.header.binaryblock + bytes(4) + np.asarray(values).tobytes(order="F"))
    return path


RAS = np.array([[-0.7, 0, 0, 100], [0, -0.8, 0, 90], [0, 0, 2.5, -30], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    "affine", [rotated(degrees=0), rotated(), sheared()], ids=["straight", "oblique", "sheared"]
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_scan_comes_back_as_it_was(tmp_path, suffix, affine):
    volume = chest(affine=affine)
    path = tmp_path / f"scan.{suffix}"
    io.write(volume, path)
    scan = io.read(path)
    np.testing.assert_array_equal(scan.volume.array, volume.array)
    np.testing.assert_allclose(scan.volume.affine, affine, atol=1e-4)
    assert scan.volume.array.dtype == np.int16
    assert scan.volume.array.flags.c_contiguous
    assert scan.volume.array.flags.writeable  # compiled loops treat an array that is not as another type
    assert scan.findings == ()
    assert scan.files == (path,)
    assert list(tmp_path.iterdir()) == [path]  # nothing is left lying about


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_axis_order_means_the_same_to_simpleitk(tmp_path, suffix):
    path = tmp_path / f"scan.{suffix}"
    for codes in ALL_AXIS_CODES:
        volume = chest((3, 4, 5), rotated(degrees=10)).reorient(codes)
        io.write(volume, path)
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.array)
        np.testing.assert_allclose(itk_affine(image), volume.affine, atol=1e-4)
        again = io.read_volume(path)
        np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)
        assert again.grid.codes == codes


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_simpleitk_writes_is_read_the_same(tmp_path, suffix):
    volume = chest()
    image = sitk.GetImageFromArray(volume.array)
    linear = volume.affine[:3, [2, 1, 0]]
    spacing = np.linalg.norm(linear, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((linear / spacing).ravel().tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    path = tmp_path / f"scan.{suffix}"
    sitk.WriteImage(image, str(path), useCompression=True)
    scan = io.read(path)
    np.testing.assert_array_equal(scan.volume.array, volume.array)
    assert scan.volume.grid.same_as(volume.grid)
    assert scan.findings == ()


def test_what_was_read_outlives_its_file(tmp_path):
    io.write(chest(), tmp_path / "a.nii")
    scan = io.read(tmp_path / "a.nii")
    (tmp_path / "a.nii").write_bytes(b"")  # a map of the file would crash here
    np.testing.assert_array_equal(scan.volume.array, chest().array)


@pytest.mark.parametrize("suffix", ["mhd", "nhdr"])
def test_headers_with_values_in_another_file(tmp_path, suffix):
    image = sitk.GetImageFromArray(chest().array)
    sitk.WriteImage(image, str(tmp_path / f"scan.{suffix}"))
    np.testing.assert_array_equal(io.read(tmp_path / f"scan.{suffix}").volume.array, chest().array)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_maps_and_labels_keep_their_type(tmp_path, suffix, dtype):
    values = np.arange(60).reshape(3, 4, 5).astype(dtype)
    if dtype == np.float32:
        values[0, 0, :2] = np.nan
    io.write(Volume(values, rotated()), tmp_path / f"map.{suffix}")
    back = io.read_volume(tmp_path / f"map.{suffix}")
    assert back.array.dtype == dtype
    np.testing.assert_array_equal(back.array, values)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_simpleitk_moves_a_point_by_the_vectors_as_they_are(tmp_path, suffix):
    rng = np.random.default_rng(1)
    field = Volume(rng.normal(size=(5, 6, 7, 3)).astype(np.float32) * 9, rotated())
    path = tmp_path / f"displacement.{suffix}"
    io.write(field, path)
    np.testing.assert_array_equal(io.read_volume(path).array, field.array)
    image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(image)
    for k, j, i in [(1, 2, 3), (3, 1, 5)]:
        point = field.grid.world((k, j, i))
        np.testing.assert_allclose(
            transform.TransformPoint(point.tolist()) - point, field.array[k, j, i], atol=1e-4
        )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_volumes_give_equal_bytes(tmp_path, suffix):
    a, b = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    io.write(chest(), a)
    os.utime(a, (0, 0))
    io.write(chest(), b)
    assert a.read_bytes() == b.read_bytes()
    assert io.sha256_of([a]) == io.sha256_of([b])


def test_compressed_files_larger_than_one_block(tmp_path):
    values = np.random.default_rng(0).normal(size=(20, 300, 301)).astype(np.float32)
    for suffix in SUFFIXES:
        io.write(Volume(values, rotated()), tmp_path / f"map.{suffix}")
        np.testing.assert_array_equal(io.read_volume(tmp_path / f"map.{suffix}").array, values)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"map.{suffix}"))), values
        )
    assert gzip.decompress((tmp_path / "map.nii.gz").read_bytes()) == (tmp_path / "map.nii").read_bytes()


@pytest.mark.parametrize("values", [np.zeros((2, 3, 4)), np.zeros((2, 3, 4, 2), np.float32)])
def test_types_that_are_not_ours_are_not_written(tmp_path, values):
    with pytest.raises(ValueError, match="expected"):
        io.write(Volume(values, np.eye(4)), tmp_path / "a.nii")


# --- NIfTI headers ----------------------------------------------------------------------------------------


def test_a_nifti_in_ras_is_where_the_header_says(tmp_path):
    scan = io.read(save_nifti(tmp_path / "a.nii.gz", RAS))
    # By hand: RAS (100, 90, -30) is LPS (-100, -90, -30); i runs to the left, j to the back, k to the head.
    np.testing.assert_allclose(scan.volume.grid.world((0, 0, 0)), (-100, -90, -30), atol=1e-5)
    np.testing.assert_allclose(scan.volume.grid.world((1, 2, 3)), (-97.9, -88.4, -27.5), atol=1e-5)
    assert scan.volume.grid.codes == "SPL"


def test_a_slightly_skewed_sform_is_read_as_it_stands(tmp_path):
    skewed = RAS.copy()
    skewed[1, 0] += 0.002
    path = save_nifti(tmp_path / "a.nii", skewed, qform=0)
    with pytest.raises(RuntimeError):
        sitk.ReadImage(str(path))  # why nibabel reads NIfTI here
    expected = np.diag([-1, -1, 1, 1]) @ skewed @ np.eye(4)[[2, 1, 0, 3]]
    np.testing.assert_allclose(io.read(path).volume.affine, expected, atol=1e-5)


def test_two_orientations_that_differ_a_little_are_told(tmp_path):
    moved = RAS.copy()
    moved[2, 3] += 3
    scan = io.read(save_nifti(tmp_path / "a.nii", RAS, qform_affine=moved))
    (finding,) = scan.findings
    assert (finding.code, finding.severity) == ("HEADER_CONFLICT", Severity.WARN)
    assert finding.value == pytest.approx(3)
    np.testing.assert_allclose(scan.volume.grid.world((0, 0, 0)), (-100, -90, -30), atol=1e-5)


def test_two_orientations_that_exchange_the_sides_are_refused(tmp_path):
    mirrored = RAS @ np.diag([-1, 1, 1, 1])
    with pytest.raises(InputError, match=r"contradict each other, so left and right cannot be told"):
        io.read(save_nifti(tmp_path / "a.nii", RAS, qform_affine=mirrored))


def test_only_a_qform(tmp_path):
    scan = io.read(save_nifti(tmp_path / "a.nii", RAS, sform=0))
    np.testing.assert_allclose(scan.volume.grid.world((0, 0, 0)), (-100, -90, -30), atol=1e-4)
    assert scan.findings == ()


def test_no_orientation_at_all_withholds_the_sides(tmp_path):
    (finding,) = io.read(save_nifti(tmp_path / "a.nii", RAS, sform=0, qform=0)).findings
    assert (finding.code, finding.severity) == ("ORIENTATION_UNKNOWN", Severity.FAIL)
    assert {"left", "right", "lobes"} <= set(finding.touches)


def test_headers_of_other_formats_without_orientation(tmp_path):
    values = chest().array.tobytes()
    (tmp_path / "a.mha").write_bytes(
        b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        b"ElementSpacing = 1 1 1\nDimSize = 16 14 12\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        + values
    )
    (tmp_path / "a.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 16 14 12\nspacings: 1 1 1\nendian: little\n"
        b"encoding: raw\n\n" + values
    )
    for name in ("a.mha", "a.nrrd"):
        scan = io.read(tmp_path / name)
        np.testing.assert_array_equal(scan.volume.array, chest().array)
        assert [f.code for f in scan.findings] == ["ORIENTATION_UNKNOWN"]


def test_an_nrrd_in_ras(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 16 14 12\n"
        b"space directions: (-0.7,0,0) (0,-0.8,0) (0,0,2.5)\nkinds: domain domain domain\nendian: little\n"
        b"encoding: raw\nspace origin: (100,90,-30)\n\n" + chest().array.tobytes()
    )
    scan = io.read(tmp_path / "a.nrrd")
    np.testing.assert_allclose(scan.volume.grid.world((1, 2, 3)), (-97.9, -88.4, -27.5), atol=1e-5)


def test_slope_and_intercept_are_applied_and_rounded(tmp_path):
    stored = (chest().array.T + 1024).astype(np.uint16)
    scan = io.read(save_nifti(tmp_path / "a.nii", RAS, values=stored, scl_slope=1, scl_inter=-1024))
    np.testing.assert_array_equal(scan.volume.array, chest().array)
    half = chest().array.T.astype(np.float32) / 2 + np.float32(0.1)
    scan = io.read(save_nifti(tmp_path / "b.nii", RAS, values=half, scl_slope=2, scl_inter=0))
    np.testing.assert_array_equal(scan.volume.array, chest().array)


def test_big_endian_and_nifti_2(tmp_path):
    values = chest().array
    image = nib.Nifti2Image(values.T, RAS, nib.Nifti2Header(endianness=">"))
    image.header.set_data_dtype(">i2")
    image.to_filename(tmp_path / "a.nii")
    scan = io.read(tmp_path / "a.nii")
    np.testing.assert_array_equal(scan.volume.array, values)
    assert scan.volume.array.dtype.isnative
    assert scan.volume.spacing == pytest.approx((2.5, 0.8, 0.7))


def test_metres_and_microns(tmp_path):
    for unit, factor in ((1, 0.001), (3, 1000.0)):
        scaled = np.diag([factor, factor, factor, 1]) @ RAS
        scan = io.read(save_nifti(tmp_path / "a.nii", scaled, xyzt_units=unit))
        assert scan.volume.spacing == pytest.approx((2.5, 0.8, 0.7), rel=1e-5)


# --- what is refused --------------------------------------------------------------------------------------


def refused(path, match):
    with pytest.raises(InputError, match=match) as caught:
        io.read(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path):
    refused(tmp_path / "none.nii.gz", "no such file")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0, 10, 200, 400, 0.5, -3])
def test_files_cut_short(tmp_path, suffix, kept):
    path = tmp_path / f"scan.{suffix}"
    io.write(chest((40, 30, 30)), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    refused(path, "copy|damaged")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_are_something_else(tmp_path, suffix):
    path = tmp_path / f"notes.{suffix}"
    path.write_bytes(b"Dear colleague, please find the scan attached." * 40)
    refused(path, "copy|damaged")


@pytest.mark.parametrize("suffix", ["nii.gz", "mha", "nrrd"])
def test_damaged_in_the_middle(tmp_path, suffix):
    path = tmp_path / f"scan.{suffix}"
    io.write(chest((40, 30, 30)), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    refused(path, "damaged")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_changed_at_random_in_the_header_end_as_a_sentence_or_a_scan(tmp_path, suffix):
    path = tmp_path / f"scan.{suffix}"
    io.write(chest((10, 10, 10)), path)
    content, rng = path.read_bytes(), np.random.default_rng(3)
    for _ in range(60):
        changed = bytearray(content)
        for place in rng.integers(0, 500, rng.integers(1, 6)):
            changed[place] = rng.choice([0, 255, *b"-9 =3", rng.integers(256)])
        path.write_bytes(changed)
        with contextlib.suppress(InputError):
            assert io.read(path).volume.array.dtype == np.int16


def test_a_header_that_crashes_other_readers(tmp_path):
    io.write(chest(), tmp_path / "a.mha")
    content = (tmp_path / "a.mha").read_bytes()
    for there, instead in (
        (b"NDims = 3", b"NDims =-3"),
        (b"16 14 12", b"16 14 99"),
        (b"16 14 12", b"16 14 11"),
    ):
        (tmp_path / "a.mha").write_bytes(content.replace(there, instead))
        refused(tmp_path / "a.mha", "damaged")


def test_a_header_whose_values_are_not_beside_it(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(chest().array), str(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").unlink()
    refused(tmp_path / "a.mhd", r"its values are in a\.raw, which is not beside it")


def test_names_that_are_not_images(tmp_path):
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7 and more")
    refused(tmp_path / "report.pdf", r"not an image")


def test_pictures_and_time_series(tmp_path):
    refused(save_nifti(tmp_path / "a.nii", RAS, values=np.zeros((16, 14, 1), np.int16)), "single picture")
    refused(save_nifti(tmp_path / "b.nii", RAS, values=np.zeros((16, 14), np.int16)), "single picture")
    refused(
        save_nifti(tmp_path / "c.nii", RAS, values=np.zeros((16, 14, 12, 5), np.int16)),
        "5 volumes in one file",
    )
    sitk.WriteImage(
        sitk.GetImageFromArray(np.zeros((5, 12, 14, 16), np.int16), isVector=False), str(tmp_path / "d.nrrd")
    )
    refused(tmp_path / "d.nrrd", "5 volumes in one file")


def test_a_fourth_axis_of_length_one_is_no_time_series(tmp_path):
    save_nifti(tmp_path / "a.nii", RAS, values=chest().array.T[..., None])
    image = sitk.GetImageFromArray(chest().array[None], isVector=False)
    sitk.WriteImage(image, str(tmp_path / "b.nrrd"))
    sitk.WriteImage(image, str(tmp_path / "c.mha"))
    for name in ("a.nii", "b.nrrd", "c.mha"):
        np.testing.assert_array_equal(io.read(tmp_path / name).volume.array, chest().array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_any_type_of_number_becomes_int16(tmp_path, dtype):
    unsigned = np.dtype(dtype).kind == "u"
    values = (
        np.clip((chest().array + 1024.0) / 8, 0, 255).astype(dtype)
        if unsigned
        else chest().array.astype(dtype)
    )
    slope = {"scl_slope": 8, "scl_inter": -1024} if unsigned else {}
    scan = io.read(save_nifti(tmp_path / "a.nii", RAS, values=values.T, **slope))
    assert scan.volume.array.dtype == np.int16
    assert np.abs(scan.volume.array - chest().array.astype(int)).max() < (8 if unsigned else 1)


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_values_that_are_no_single_numbers(tmp_path, dtype):
    path = save_nifti(tmp_path / "a.nii", RAS, values=np.zeros((16, 14, 12), dtype))
    refused(path, "expected one number per voxel")


def test_values_beyond_int16_are_clipped(tmp_path):
    values = chest().array.astype(np.float32)
    values[0, 0, :2] = 1e6, -1e6
    io.write(Volume(values, rotated()), tmp_path / "a.nii")
    assert io.read(tmp_path / "a.nii").volume.array[0, 0, :2].tolist() == [32767, -32768]


def test_a_vector_field_is_not_a_scan(tmp_path):
    io.write(Volume(np.zeros((12, 12, 12, 3), np.float32), rotated()), tmp_path / "u.nii.gz")
    refused(tmp_path / "u.nii.gz", "3 values per voxel")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_numbers_are_counted(tmp_path, bad):
    values = chest().array.astype(np.float32)
    values[2, 3, 4:7] = bad
    io.write(Volume(values, rotated()), tmp_path / "a.nii")
    refused(tmp_path / "a.nii", "3 of 2688 values are NaN or infinite")


def hu(transform):
    return Volume(np.rint(transform(chest().array.astype(float))).astype(np.int16), rotated())


@pytest.mark.parametrize(
    ("volume", "match"),
    [
        (hu(lambda x: x + 1024), "rescale intercept lost"),
        (hu(lambda x: (x + 1000) / 5), "8-bit picture"),
        (hu(lambda x: x * 0 + 7), "every value is 7"),
        (hu(lambda x: x / 1000), "almost no voxel lies below"),
        (hu(lambda x: x - 1024), "no soft tissue"),
        (chest((9, 30, 30)), "9 slices"),
        (chest(affine=rotated((10, 0.8, 0.7))), "10 mm between slices is too thick"),
        (chest(affine=rotated((1, 0.08, 0.7))), "0.08 mm cannot be right"),
    ],
)
def test_what_is_not_a_chest_ct_in_hu(tmp_path, volume, match):
    io.write(volume, tmp_path / "a.nii.gz")
    refused(tmp_path / "a.nii.gz", match)


def test_a_header_without_spacing(tmp_path):
    path = save_nifti(tmp_path / "a.nii", RAS, sform=0, qform=1, pixdim=[1, 0.7, 0, 2.5, 0, 0, 0, 0])
    refused(path, "spacing is zero, negative")
    singular = RAS.copy()
    singular[:, 0] = 0
    image = nib.Nifti1Image(chest().array.T, None)
    image.header["sform_code"] = 1
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = singular[:3]
    path.write_bytes(image.header.binaryblock + bytes(4) + chest().array.tobytes())
    refused(path, "spacing or orientation")


def test_padding_is_kept_and_counted(tmp_path):
    padded = chest()
    values = padded.array.copy()
    values[:, 0, 0] = -3024
    io.write(padded.like(values), tmp_path / "a.nii")
    scan = io.read(tmp_path / "a.nii")
    assert scan.facts["voxels_below_minus_1024"] == 12
    assert (scan.facts["hu_min"], scan.facts["hu_max"]) == (-3024, int(values.max()))
    assert scan.volume.array[0, 0, 0] == -3024


# --- labels -----------------------------------------------------------------------------------------------


def test_labels_need_not_look_like_a_ct(tmp_path):
    labels = np.zeros((4, 5, 6), np.float32)
    labels[1:, 2:] = 2
    io.write(Volume(labels, rotated()), tmp_path / "lungs.nii.gz")
    back = io.read_labels(tmp_path / "lungs.nii.gz")
    assert back.array.dtype == np.uint8
    np.testing.assert_array_equal(back.array, labels)


def test_large_labels_become_int16(tmp_path):
    io.write(Volume(np.full((4, 5, 6), 1000, np.int16), rotated()), tmp_path / "a.nrrd")
    assert io.read_labels(tmp_path / "a.nrrd").array.dtype == np.int16


@pytest.mark.parametrize("value", [0.5, -1, np.nan, 1e6])
def test_values_that_are_no_labels(tmp_path, value):
    io.write(Volume(np.full((4, 5, 6), value, np.float32), rotated()), tmp_path / "a.nii")
    with pytest.raises(InputError, match="label"):
        io.read_labels(tmp_path / "a.nii")


# --- writing that fails -----------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*No such file"):
        io.write(chest(), tmp_path / "none" / "a.nii.gz")


def test_an_ending_nobody_knows(tmp_path):
    with pytest.raises(OutputError, match=r"expected a name ending in"):
        io.write(chest(), tmp_path / "a.img")


def test_a_medium_that_takes_no_more(tmp_path, monkeypatch):
    """The disk fills up while values are written: told, the old file stays, nothing else is left."""
    path = tmp_path / "a.nii.gz"
    io.write(chest(seed=1), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        io.write(chest(seed=2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk(tiny_disk: Path, suffix):
    values = np.random.default_rng(0).integers(-32768, 32767, (60, 60, 60)).astype(np.int16)
    with pytest.raises(OutputError, match="No space left on device"):
        io.write(Volume(values, np.eye(4)), tiny_disk / f"a.{suffix}")
    assert list(tiny_disk.iterdir()) == []


def test_a_read_only_folder(tiny_disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    with pytest.raises(OutputError, match="Read-only"):
        io.write(chest(), tiny_disk / "a.nii.gz")


def test_one_hash_for_a_set_of_files(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (tmp_path / name for name in "abc")
    assert io.sha256_of([a]) == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert io.sha256_of([a, b]) == io.sha256_of([b, a]) == io.sha256_of([b, c])
    assert io.sha256_of([a, b]) != io.sha256_of([a, c])


def test_grids_of_written_files_are_the_same_place(tmp_path):
    """float32 headers move no voxel by 0.01 mm, even far from the isocentre."""
    affine = rotated()
    affine[:3, 3] = 1234.56789, -987.654321, 2345.6789
    volume = Volume(np.zeros((40, 50, 512), np.int16), affine)
    for suffix in SUFFIXES:
        io.write(volume, tmp_path / f"a.{suffix}")
        assert io.read_volume(tmp_path / f"a.{suffix}").grid.same_as(Grid(volume.shape, affine))


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("ct.mhd", "NDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = ct.raw\n"),
        ("ct.mhd", "NDims = 3\nElementDataFile = elsewhere/ct.raw\n"),  # it is read beside the header
        ("ct.nhdr", "NRRD0004\ntype: short\ndata file: ct.raw\n\n"),
        ("ct.nhdr", "NRRD0004\ntype: short\ndatafile: s%01d.raw 0 1 1\n\n"),
        ("ct.nhdr", "NRRD0004\ntype: short\ndata file: LIST\nct.raw\n"),
    ],
)
def test_values_apart_from_their_header_belong_to_the_image(tmp_path, name, header):
    (tmp_path / name).write_text(header)
    for other in ("ct.raw", "s0.raw", "s1.raw"):
        (tmp_path / other).write_bytes(bytes(16))
    found = [path.name for path in io.files_of(tmp_path / name)]
    assert found == [name, *(["s0.raw", "s1.raw"] if "%" in header else ["ct.raw"])]


def test_an_image_in_one_file_is_that_file(tmp_path):
    path = tmp_path / "ct.mha"
    path.write_text("NDims = 3\nElementDataFile = LOCAL\n")
    assert io.files_of(path) == (path,)
    assert io.files_of(tmp_path / "none.nhdr") == (tmp_path / "none.nhdr",)


@pytest.mark.parametrize("degrees", [0, 9])
def test_zeros_that_a_resampling_filled_in_are_not_body(tmp_path, degrees):
    rng = np.random.default_rng(1)
    body = np.full((24, 40, 40), -1000.0)
    body[:, 8:32, 6:34], body[2:22, 12:28, 10:30] = 0, -850
    body += rng.normal(0, 3, body.shape)  # so smooth that a tenth of its voxels are 0
    scan = sitk.GetImageFromArray(body.round().astype(np.int16))
    turn = sitk.Euler3DTransform((20, 20, 12), 0, 0, np.radians(degrees))
    wide = sitk.Image(52, 48, 28, sitk.sitkInt16)
    wide.SetOrigin((-6, -4, -2))
    filled, clean = (sitk.Resample(scan, wide, turn, sitk.sitkNearestNeighbor, fill) for fill in (0, -2000))
    sitk.WriteImage(filled, str(tmp_path / "ct.nii.gz"))
    found = io.read(tmp_path / "ct.nii.gz")
    assert [f.code for f in found.findings] == ["ZERO_FILL"]
    truth = sitk.GetArrayFromImage(clean)
    read = found.volume.array
    assert np.mean((read == -2000) != (truth == -2000)) < 1e-3
    assert np.array_equal(read[read > -2000], sitk.GetArrayFromImage(filled)[read > -2000])


def test_zeros_within_a_body_stay(tmp_path):
    ct = chest((24, 26, 28))
    ct.array[8:16, 8:16, 8:16] = 0
    ct.array[:3, :3, :3] = -1000
    io.write(ct, tmp_path / "ct.mha")
    found = io.read(tmp_path / "ct.mha")
    assert found.findings == ()
    assert np.array_equal(found.volume.array, ct.array)
