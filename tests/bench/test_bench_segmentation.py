"""The measures of the segmentation benchmark, on shapes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from lungvq.bench import segmentation as bench
from lungvq.bench.segmentation import Known
from lungvq.phantom import CASES
from lungvq.volume import Grid, Volume

AFFINE = np.array([[0, 0, 2.0, -20], [0, 3.0, 0, -30], [1.5, 0, 0, 5], [0, 0, 0, 1]])
GRID = Grid((20, 16, 24), AFFINE)


def test_the_plan_has_every_case_and_visibility_and_its_seed_draws_the_persons():
    specs = bench.plan()
    assert len(specs) == 40
    assert {spec.case for spec in specs} == set(CASES)
    assert len({spec.name for spec in specs}) == 40
    assert {spec.fissures for spec in specs} == {"visible", "partly", "invisible"}
    assert (min(s.slice_mm for s in specs), max(s.slice_mm for s in specs)) == (0.7, 3.0)
    assert specs == bench.plan()
    assert {s.seed for s in specs}.isdisjoint(s.seed for s in bench.plan(6))


def block(first, last):
    """LUL above LLL, the fissure between slices `last` - 1 and `last`."""
    labels = np.zeros(GRID.shape, np.uint8)
    labels[first:last, 2:12, 4:20] = 2
    labels[last:18, 2:12, 4:20] = 1
    return Volume(labels, AFFINE)


def test_a_fissure_moved_by_two_slices_is_three_millimetres_off():
    found = bench.lobe_measures(block(2, 10), block(2, 8))
    assert found["left oblique_median"] == pytest.approx(3.0)
    assert found["LUL"] == pytest.approx(2 * 8 / 18)
    assert found["LLL"] == pytest.approx(2 * 6 / 14)
    assert found["lobes"] == pytest.approx((2 * 8 / 18 + 2 * 6 / 14) / 2)
    assert "right oblique_median" not in found
    same = bench.lobe_measures(block(2, 8), block(2, 8))
    assert (same["lobes"], same["left oblique_p95"]) == (1.0, 0.0)


def test_a_lung_that_lacks_its_lowest_slice():
    lungs = np.zeros(GRID.shape, np.uint8)
    lungs[3:18, 2:12, 4:20] = 1
    found = bench.lung_measures(Volume(lungs, AFFINE), block(2, 8))
    assert found["left"] == found["lungs"] == pytest.approx(2 * 15 / 31)
    assert found["volume_error"] == pytest.approx(-100 / 16)
    assert np.isnan(found["right"])


def known(ends):
    empty = block(2, 8)
    return Known(empty, empty, empty, empty, np.array([ends], float), np.array([2.0]), {"LUL": 0}, {})


def test_what_lies_beyond_an_airway_is_leak_and_a_bronchus_missed_is_missed():
    airway = np.zeros(GRID.shape, np.uint8)
    airway[4:16, 8, 12] = 1
    ends = GRID.world([[4, 8, 12], [15, 8, 12]])
    volume = Volume(airway, AFFINE)
    assert bench.leak_percent(volume, known(ends), 1.0) == 0
    assert bench.lobar_bronchi_found(volume, known(ends)) == {"LUL": True}
    airway[4:16, 12:14, 12] = 1  # 12 and 15 mm away
    assert bench.leak_percent(Volume(airway, AFFINE), known(ends), 1.0) == pytest.approx(100 * 24 * 0.009)
    far = GRID.world([[4, 2, 2], [15, 2, 2]])
    assert bench.lobar_bronchi_found(volume, known(far)) == {"LUL": False}
    nothing = Volume(np.zeros(GRID.shape, np.uint8), AFFINE)
    assert bench.lobar_bronchi_found(nothing, known(ends)) == {"LUL": False}
    assert bench.leak_percent(nothing, known(ends), 1.0) == 0


def test_a_report_names_what_is_missed():
    values = {"insp_lungs": 0.99, "exp_lungs": 0.97, "ours_lobes": 0.96, "bronchi": 5, "bronchi_found": 4}
    row = {"phantom": "pe", "fissures": "visible", "slice_mm": 1.0, "pixel_mm": 0.7, "values": values}
    text = bench.report([row])
    assert "exp_lungs >= 0.985, bronchi_share >= 95" in text
    assert "ours_lobes >=" not in text
