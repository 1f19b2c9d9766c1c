"""The spine tells a wrong slice step, lost slices, wrong pixels and another person from breathing."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from lungvq import io
from lungvq.spine import compare_spines, spine_findings
from lungvq.volume import Volume

DATA = os.environ.get("LUNGVQ_TEST_DATA")
SPACING = 2.5, 2.0, 2.0
SHAPE = 110, 120, 140


def person(seed, noise=0.0):
    """A body with a column of bone of its own pattern behind its middle, ribs to the sides, and lungs of air."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    y, x = y - 120, x - 140  # the middle of the body
    hu = np.where((x / 130) ** 2 + (y / 110) ** 2 < 1, 40.0, -1000.0)
    hu[((np.abs(x) - 62) / 45) ** 2 + (y / 70) ** 2 < 1] = -850
    pattern = ndimage.gaussian_filter(rng.normal(size=SHAPE), [7 / s for s in SPACING])
    near = (x**2 + (y - 62) ** 2) < 32**2
    hu[near & (pattern > 0.2 * pattern.std())] = 320
    hu[((x / 118) ** 2 + (y / 98) ** 2 < 1) & ((x / 110) ** 2 + (y / 90) ** 2 > 1) & (z % 26 < 9)] = 300
    if noise:
        hu += rng.normal(scale=noise, size=SHAPE)
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, SPACING[2]], [0, SPACING[1], 0], [SPACING[0], 0, 0]]
    return Volume(hu.astype(np.float32), affine)


def rescaled(ct, factors):
    affine = ct.affine.copy()
    affine[:3, :3] = affine[:3, :3] * factors
    return Volume(ct.array, affine)


def codes(one, other):
    found = spine_findings(compare_spines(one, other))
    return {f.code: (f.severity.value, f.value) for f in found if f.severity != "PASS"}


@pytest.mark.parametrize("noise", [0, 60])
def test_one_person_breathing_raises_nothing(noise):
    one = person(1, noise)
    moved = Volume(np.roll(person(1).array, (4, 2, -3), (0, 1, 2)), one.affine)  # on the couch
    match = compare_spines(one, moved)
    assert match.likeness > 0.8
    assert abs(match.stretch_pct) <= 1
    assert codes(one, moved) == {}


def test_a_scan_turned_by_six_degrees_raises_nothing():
    one = person(2)
    turned = ndimage.rotate(one.array, 6, axes=(1, 2), reshape=False, order=1, cval=-1000)
    assert codes(one, one.like(turned)) == {}


@pytest.mark.parametrize(
    ("factor", "severity"),
    [(0.75, "FAIL"), (0.9, "WARN"), (0.97, None), (1.1, "WARN"), (1.25, "FAIL")],
)
def test_a_wrong_slice_step_is_told_by_its_size(factor, severity):
    one = person(3, noise=20)
    found = codes(one, rescaled(person(3), (factor, 1, 1)))
    if severity is None:
        assert found == {}
        return
    assert list(found) == ["SLICE_STEP"]
    assert found["SLICE_STEP"][0] == severity
    assert found["SLICE_STEP"][1] == pytest.approx(100 * (factor - 1), abs=2)


@pytest.mark.parametrize(("lost", "severity"), [(1, None), (4, "WARN"), (10, "FAIL")])
def test_slices_that_are_missing_are_told_where_and_how_many(lost, severity):
    one = person(4)
    gap = np.concatenate([one.array[:50], one.array[50 + lost :]])
    found = spine_findings(compare_spines(Volume(gap, one.affine), one))
    missing = next(f for f in found if f.code == "SLICES_MISSING")
    if severity is None:
        assert missing.severity == "PASS"
        return
    assert [f.code for f in found if f.severity != "PASS"] == ["SLICES_MISSING"]
    assert missing.severity == severity
    assert missing.value == pytest.approx(lost * SPACING[0], abs=3.1)
    where = float(missing.message.split("z = ")[1].split(" ")[0])
    assert where == pytest.approx(50 * SPACING[0], abs=25)


@pytest.mark.parametrize(("factor", "severity"), [(0.8, "WARN"), (1.15, "WARN"), (1.3, "FAIL"), (1.05, None)])
def test_wrong_pixels_are_told(factor, severity):
    one = person(5)
    found = codes(one, rescaled(one, (1, factor, factor)))
    if severity is None:
        assert found == {}
        return
    assert list(found) == ["PIXEL_SIZE"]
    assert found["PIXEL_SIZE"][0] == severity
    assert found["PIXEL_SIZE"][1] == pytest.approx(100 * (factor - 1), abs=6)


@pytest.mark.parametrize("kept", [slice(20, 80), slice(0, 60), slice(50, 110), slice(40, 75)])
def test_a_scan_that_shows_less_of_the_body_raises_nothing(kept):
    one = person(9)
    part = one.crop((kept, slice(None), slice(None)))
    assert codes(one, part) == {}
    assert codes(part, one) == {}


def test_another_person_is_told():
    found = spine_findings(compare_spines(person(6), person(7)))
    assert [f.code for f in found if f.severity != "PASS"] == ["SPINES_UNLIKE"]


def test_without_a_spine_nothing_is_said():
    one = person(8)
    front = Volume(one.array[:, :70], one.affine)  # the field of view ends before the spine
    assert spine_findings(compare_spines(Volume(np.full(SHAPE, 40.0, np.float32), one.affine), one)) == ()
    assert not any(f.severity == "FAIL" for f in spine_findings(compare_spines(front, front)))


@pytest.fixture(scope="module")
def real():
    if not DATA:
        pytest.skip("LUNGVQ_TEST_DATA does not name the folder of real scans")
    folder = Path(DATA) / "ct-pair-4d"
    return tuple(io.read(folder / f"{name}.nii.gz").volume.reorient("SPL") for name in ("inhale", "exhale"))


def test_a_real_pair_passes(real):
    insp, exp = real
    assert compare_spines(exp, insp).likeness > 0.95
    assert codes(exp, insp) == {}


@pytest.mark.parametrize("factor", [0.75, 0.92, 1.08, 1.25])
def test_slices_of_a_real_pair_that_are_read_wrongly_are_told(real, factor):
    insp, exp = real
    found = codes(rescaled(exp, (1 / factor, 1, 1)), insp)
    assert list(found) == ["SLICE_STEP"]
    assert found["SLICE_STEP"][1] == pytest.approx(100 * (factor - 1), abs=3)


@pytest.mark.parametrize("lost", [4, 8, 12])
@pytest.mark.parametrize("first", [45, 60, 83])
def test_slices_that_a_real_scan_lacks_are_told(real, first, lost):
    insp, exp = real
    found = codes(Volume(np.delete(exp.array, range(first, first + lost), axis=0), exp.affine), insp)
    assert list(found) == ["SLICES_MISSING"]
    assert found["SLICES_MISSING"][1] == pytest.approx(2.5 * lost, abs=3)


def test_two_real_persons_are_told(real):
    other = io.read(Path(DATA) / "ct-chest-1mm-dicom").volume
    assert list(codes(real[1], other)) == ["SPINES_UNLIKE"]
