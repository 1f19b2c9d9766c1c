"""Who goes first: a user's file, a program, lungvq; and what is refused before any work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lungvq import io
from lungvq.errors import GeometryError, InputError, UsageError
from lungvq.segment import backends
from lungvq.segment.given import Given, Masks
from lungvq.segment.masks import has_sides, lungs_from_mask
from lungvq.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -40], [0, 2.5, 0, -30], [3.0, 0, 0, 5], [0, 0, 0, 1]])


@pytest.fixture
def scans():
    return {name: Volume(np.full((6, 8, 10), -800, np.int16), AFFINE) for name in ("insp", "exp")}


@pytest.fixture
def program(monkeypatch):
    """A program that finds lungs of 1 and lobes of 3 everywhere."""
    fake = replace(
        backends.BACKENDS["lungmask"],
        module="json",
        weights=(),
        lungs=lambda ct, models: ct.like(np.ones(ct.shape, np.uint8)),
        lobes=lambda ct, models: ct.like(np.full(ct.shape, 3, np.uint8)),
    )
    monkeypatch.setitem(backends.BACKENDS, "lungmask", fake)


def written(tmp_path, name, value, shape=(6, 8, 10)):
    path = tmp_path / name
    io.write(Volume(np.full(shape, value, np.uint8), AFFINE).reorient("RAS"), path)
    return path


def test_without_anything_lungvq_finds_all(scans):
    given = Masks().read(scans)
    assert set(given.told().values()) == {"lungvq"}
    assert Masks().hashes() == {}


def test_a_file_goes_before_a_program_and_that_before_lungvq(scans, program, tmp_path):
    masks = Masks(
        insp=written(tmp_path, "insp.nrrd", 7),
        lobes=written(tmp_path, "lobes.mha", 20),
        lobe_labels="LUL=20",
        segmentation="lungmask",
        models=tmp_path,
    )
    given = masks.read(scans)
    assert given.told() == {
        "lungs_insp": "the file insp.nrrd",
        "lungs_exp": "lungmask",
        "lobes": "the file lobes.mha",
    }
    assert (given.lungs_insp.array.max(), given.lungs_exp.array.max(), given.lobes.array.max()) == (7, 1, 20)
    assert given.lobe_labels == {"LUL": 20}
    given.check(scans["insp"].grid, scans["exp"].grid)  # in another axis order, on the same voxels
    without = Masks(segmentation="lungmask", models=tmp_path).read({"insp": scans["insp"]})
    assert without.told() == {"lungs_insp": "lungmask", "lungs_exp": "lungvq", "lobes": "lungmask"}


def test_every_part_sets_results_apart(program, tmp_path):
    lobes = written(tmp_path, "lobes.nii.gz", 1)
    variants = [
        Masks(),
        Masks(lobes=lobes),
        Masks(lobes=lobes, lobe_labels="LUL=2"),
        Masks(insp=lobes),
        Masks(exp=lobes),
        Masks(segmentation="lungmask"),
    ]
    assert len({str(sorted(m.hashes().items())) for m in variants}) == len(variants)


def test_mistakes_are_told_before_the_work(scans, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.nii: no such file"):
        Masks(lobes=tmp_path / "nowhere.nii").hashes()
    with pytest.raises(UsageError, match="none was given"):
        Masks(lobe_labels="LUL=1").hashes()
    with pytest.raises(UsageError, match="no segmentation 'x'"):
        Masks(segmentation="x").hashes()
    other = Masks(exp=written(tmp_path, "exp.nii.gz", 1, (5, 8, 10))).read(scans)
    with pytest.raises(
        GeometryError, match=r"lung mask given for the expiration \(the file exp.nii.gz\) does not"
    ):
        other.check(scans["insp"].grid, scans["exp"].grid)


def two_lungs(scans, left, right):
    """1 and 2 in columns that run from the right to the left of the body."""
    mask = np.zeros((6, 8, 10), np.uint8)
    mask[..., 6:9], mask[..., 1:4] = left, right
    return scans["exp"].like(mask)


@pytest.fixture
def body():
    """Tissue all around two lungs, in voxels of 20 x 15 x 20 mm: right in columns 3 to 7, left in 12 to 16."""
    hu = np.full((10, 14, 20), 40, np.int16)
    hu[:, 3:11, 3:8] = hu[:, 3:11, 12:17] = -800
    return Volume(hu, np.array([[0, 0, 20.0, 700], [0, 15.0, 0, -30], [20.0, 0, 0, 5], [0, 0, 0, 1]]))


def sides_of(body):
    mask = np.zeros(body.shape, np.uint8)
    mask[:, 3:11, 3:8], mask[:, 3:11, 12:17] = 2, 1
    return body.like(mask)


def test_a_mask_with_both_sides_is_taken_as_it_is(body):
    mask = sides_of(body)
    np.testing.assert_array_equal(lungs_from_mask(mask, body).array, mask.array)
    mask.array[:5, 3:11, 7:13] = 1  # a left lung reaches across
    np.testing.assert_array_equal(lungs_from_mask(mask, body).array, mask.array)


@pytest.mark.parametrize("lesion", [1, 2])
def test_a_mask_of_lungs_and_a_lesion_is_refused(body, lesion):
    # Read as left and right, one lung would be the lesion, and the other both lungs.
    mask = body.like(np.where(sides_of(body).array > 0, 3 - lesion, 0).astype(np.uint8))
    where = slice(5, 8) if lesion == 2 else slice(13, 16)
    mask.array[3:6, 5:8, where] = lesion
    with pytest.raises(
        InputError, match=rf"the mask holds 1 and 2.*% of its {3 - lesion} lies in the other half"
    ):
        lungs_from_mask(mask, body)


def test_a_mask_that_calls_the_right_lung_1_is_refused(scans):
    # So does R231 of lungmask; read as ours, all results would change sides and nothing would tell.
    # The middles are columns 2 and 7, 2 mm wide.
    swapped = two_lungs(scans, 2, 1)
    says = "its 1 lies 10 mm to the right of its 2, but 1 is the left lung and 2 the right one: exchange"
    with pytest.raises(InputError, match=f"the mask: {says}"):
        lungs_from_mask(swapped, scans["exp"])
    # Before any work, by name, and in whatever order the file has its axes.
    basis = {"lungs_exp": "the file e.nii"}
    given = Given(lungs_insp=two_lungs(scans, 1, 2), lungs_exp=swapped.reorient("RAS"), basis=basis)
    with pytest.raises(InputError, match=rf"given for the expiration \(the file e.nii\): {says}"):
        given.check(scans["insp"].grid, scans["exp"].grid)


def test_a_mask_without_lungs_is_refused(scans):
    few = scans["insp"].like(np.zeros((6, 8, 10), np.uint8))
    with pytest.raises(InputError, match="the mask is empty"):
        lungs_from_mask(few, scans["insp"])
    few.array[2:4, 3:5, 4] = 1
    given = Given(lungs_exp=few, basis={"lungs_exp": "the file e.nii"})
    with pytest.raises(
        InputError, match=r"given for the expiration \(the file e.nii\) holds 0.06 mL, expected lungs"
    ):
        given.check(scans["insp"].grid, scans["exp"].grid)


def test_only_1_and_2_alone_name_sides(scans):
    # With a third number it is a mask like any other: nonzero is lung.
    assert has_sides(two_lungs(scans, 2, 1))
    assert not has_sides(two_lungs(scans, 1, 1))
    assert not has_sides(two_lungs(scans, 2, 2))
    three = two_lungs(scans, 2, 1)
    three.array[0, 0, 0] = 3
    assert not has_sides(three)
    Given(lungs_insp=three, lungs_exp=three).check(scans["insp"].grid, scans["exp"].grid)


def test_what_a_mask_holds_of_padding_is_left_out(body):
    mask = sides_of(body)  # 400 voxels a side
    hu = body.array.copy()
    hu[:, 3, 16] = -3024  # 10 of them
    hu[0, 4, 3:6] = -2000  # and 3, scanned in other slices
    lungs = lungs_from_mask(mask, body.like(hu)).array
    np.testing.assert_array_equal(lungs, np.where(hu < -1500, 0, mask.array))
    assert [(lungs == side).sum() for side in (1, 2)] == [400 - 10, 400 - 3]


@pytest.mark.parametrize("filled_hu", [-1000, -1024, -2000, -3024])
def test_a_mask_largely_on_padding_is_refused(scans, filled_hu):
    hu = scans["exp"].array.copy()
    hu[:, :, 8] = filled_hu  # one of six columns of lung
    with pytest.raises(InputError, match="the mask lies to 17 % where nothing was scanned"):
        lungs_from_mask(two_lungs(scans, 1, 2), scans["exp"].like(hu))
