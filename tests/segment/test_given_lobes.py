"""Lobes from elsewhere: numbers, sides, gaps and grids."""

from __future__ import annotations

import numpy as np
import pytest

from lungvq.errors import GeometryError, InputError, UsageError
from lungvq.segment.masks import lobes_from_labels, parse_lobe_labels
from lungvq.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -40], [0, 2.5, 0, -30], [3.0, 0, 0, 5], [0, 0, 0, 1]])
SHAPE = (16, 20, 40)


def chest() -> tuple[Volume, Volume]:
    """Two boxes of lung, and their lobes in slabs; the patient's left is at high columns."""
    lungs, lobes = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    lungs[2:14, 4:16, 4:18], lungs[2:14, 4:16, 22:36] = 2, 1
    lobes[2:6, 4:16, 4:18], lobes[6:9, 4:16, 4:18], lobes[9:14, 4:16, 4:18] = 5, 4, 3
    lobes[2:7, 4:16, 22:36], lobes[7:14, 4:16, 22:36] = 2, 1
    return Volume(lungs, AFFINE), Volume(lobes, AFFINE)


def test_lobes_that_fit_stay_as_they_are_whatever_their_numbers():
    lungs, lobes = chest()
    found, (finding,) = lobes_from_labels(lobes, lungs)
    assert np.array_equal(found.array, lobes.array)
    assert (finding.code, finding.severity, finding.value) == ("LOBES_GIVEN", "PASS", 1.0)
    numbers = {"LUL": 8, "LLL": 16, "RUL": 300, "RML": 5, "RLL": 1}
    table = np.array([0, 8, 16, 300, 5, 1], np.int16)
    again, _ = lobes_from_labels(lobes.like(table[lobes.array]), lungs, numbers)
    assert np.array_equal(again.array, lobes.array)


def test_gaps_join_the_nearest_lobe_of_their_lung_and_the_rest_is_left_out():
    lungs, lobes = chest()
    holed = lobes.array.copy()
    holed[12:14, 4:16, 4:18] = 0  # the top of RUL
    holed[3:5, 8:10, 24:28] = 0  # a vessel in LLL
    holed[14:16, 4:16, 4:18] = 3  # above the lung
    holed[0, 0, 0] = 9  # another organ
    found, (finding,) = lobes_from_labels(lobes.like(holed), lungs)
    assert np.array_equal(found.array, lobes.array)
    assert 0.85 < finding.value < 0.95


def test_what_cannot_be_is_refused_by_name():
    lungs, lobes = chest()
    with pytest.raises(InputError, match=r"holds none of LUL=1.*but 10, 20.*--lobe-labels"):
        lobes_from_labels(lobes.like(np.where(lobes.array > 2, 10, np.where(lobes.array, 20, 0))), lungs)
    mirrored = lobes.like(np.ascontiguousarray(lobes.array[:, :, ::-1]))
    with pytest.raises(InputError, match="lobes of the left lung lies in the other lung"):
        lobes_from_labels(mirrored, lungs)
    # As in a label map of all organs: the numbers of the lobes are those of others, far below the lungs.
    organs = np.zeros(SHAPE, np.uint8)
    organs[2:14, :3, 4:36] = np.arange(1, 6).repeat(7)[:32]
    organs[lobes.array > 0] = 9 + lobes.array[lobes.array > 0]
    says = "only 0 % of what the label map calls lobes lies in the lungs.*filled by 10, 11, 12, 13, 14: name"
    with pytest.raises(InputError, match=says):
        lobes_from_labels(lobes.like(organs), lungs)
    nearly = AFFINE.copy()
    nearly[0, 3] += 0.02
    with pytest.raises(GeometryError, match=r"up to 0\.02 mm away: resample it onto the scan"):
        lobes_from_labels(Volume(lobes.array, nearly), lungs)
    moved = AFFINE.copy()
    moved[2, 3] += 30
    with pytest.raises(
        GeometryError,
        match=r"does not lie on the grid.*16 x 20 x 40 voxels of 3 x 2.5 x 2 mm from \(-40.0, -30.0, 35.0\)",
    ):
        lobes_from_labels(Volume(lobes.array, moved), lungs)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ([0, 2, 1, 3, 4, 5], "calls LUL lies below and behind what it calls LLL"),
        ([0, 1, 2, 5, 4, 3], "calls RUL lies below and behind what it calls RLL"),
        ([0, 1, 2, 3, 5, 4], "calls RML lies behind what it calls RLL"),
        ([0, 1, 2, 4, 3, 5], "calls RML lies above what it calls RUL"),
    ],
)
def test_lobes_that_were_exchanged_are_refused(table, told):
    grid = np.zeros((40, 40, 60), np.uint8)
    lungs, lobes = grid.copy(), grid.copy()
    lungs[:, 5:35, 2:25], lungs[:, 5:35, 35:58] = 2, 1
    k, j, _ = np.indices(grid.shape)
    upper = k - 20 > j - 20  # oblique fissures: the upper lobe lies above and in front
    lobes[lungs == 1] = np.where(upper, 1, 2)[lungs == 1]
    lobes[lungs == 2] = np.where(upper, np.where(k > 20, 3, 4), 5)[lungs == 2]
    lobes = Volume(lobes, np.array([[0, 0, 4.0, 0], [0, 4.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]]))
    lungs = lobes.like(lungs)
    found, _ = lobes_from_labels(lobes, lungs)
    assert np.array_equal(found.array, lobes.array)
    with pytest.raises(InputError, match=told):
        lobes_from_labels(lobes.like(np.array(table, np.uint8)[lobes.array]), lungs)


def test_a_missing_lobe_and_a_poor_fit_are_told():
    lungs, lobes = chest()
    found, findings = lobes_from_labels(lobes.like(np.where(lobes.array == 4, 0, lobes.array)), lungs)
    assert [f.code for f in findings] == ["LOBES_GIVEN", "LOBES_MISSING"]
    assert "RML" in findings[1].message
    assert np.array_equal(found.array > 0, lungs.array > 0)
    small = np.zeros(SHAPE, np.uint8)
    small[6:10] = lobes.array[6:10]
    _, findings = lobes_from_labels(lobes.like(small), lungs)
    assert findings[0].severity == "WARN"


@pytest.mark.parametrize("text", ["LUL", "LUL=x", "LUL=0", "XXX=1", "LUL=1,LUL=2", "LUL=1,LLL=1", ""])
def test_labels_that_make_no_sense(text):
    with pytest.raises(UsageError):
        parse_lobe_labels(text)
