"""What tracheal air and blood read, and which side is left: in a chest whose HU and sides were chosen."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_chest import ellipsoid, make_chest

from lungvq.findings import Severity
from lungvq.segment import segment
from lungvq.segment.laterality import check_laterality
from lungvq.segment.references import reference_tissue


@pytest.mark.parametrize(("offset", "noise"), [(0, 20), (30, 20), (-15, 40)])
def test_references_shift_with_the_scan(offset, noise):
    chest = make_chest(offset=offset, noise=noise)
    found = reference_tissue(chest.ct, segment(chest.ct))
    # The chest was made with air of -1000 and soft tissue of 20 to 40; int16 HU are clipped at -1024.
    assert found.air_hu == pytest.approx(-1000 + offset, abs=4)
    assert found.blood_hu is not None
    assert 18 <= found.blood_hu - offset <= 42
    assert found.noise_hu == pytest.approx(noise, rel=0.1)
    assert found.air_ml > 0.3
    assert found.blood_ml > 3
    assert found.blood_site in {"descending aorta", "heart and great vessels"}


@pytest.mark.parametrize("blood_hu", [160, 300])
def test_contrast_medium_is_read_however_bright(blood_hu):
    chest = make_chest()
    anatomy = segment(chest.ct)
    array = chest.ct.array.copy()
    z, y, x = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(array.shape, chest.ct.spacing, strict=True))
    heart = ellipsoid(z[:, None, None], y[:, None], x, (-45.0, -25.0, 25.0), (45.0, 38.0, 45.0))
    array[heart & (anatomy.lungs.array == 0)] += blood_hu - 20
    found = reference_tissue(chest.ct.like(array), anatomy)
    assert found.blood_hu == pytest.approx(blood_hu, abs=25)


def test_where_values_were_cut_off_air_and_blood_are_not_known():
    ct = make_chest(offset=12, noise=15).ct  # air of -988 HU
    found = reference_tissue(ct.like(ct.array.clip(-975, 400)), segment(ct))
    assert (found.air_hu, found.lowest_hu, found.highest_hu) == (None, -975, None)
    assert found.noise_hu == pytest.approx(15, rel=0.1)
    found = reference_tissue(ct.like(ct.array.clip(-950, 5)), segment(ct))
    assert (found.air_hu, found.lowest_hu, found.blood_hu, found.highest_hu) == (None, -950, None, 5)
    # An end at -1000 keeps the median of air, and without noise one value is all there is.
    for whole in (make_chest(noise=15).ct, make_chest(offset=20, noise=0).ct):
        found = reference_tissue(whole.like(whole.array.clip(-1000, 400)), segment(whole))
        assert found.air_hu is not None
        assert found.lowest_hu is None


def test_references_that_are_not_there_are_none():
    chest = make_chest(trachea=False, left=False)
    found = reference_tissue(chest.ct, segment(chest.ct))
    assert found.air_hu is None
    assert found.air_ml == 0
    assert found.blood_hu is None
    assert found.blood_site == ""


@pytest.mark.parametrize("setting", [{}, {"spacing": (4.0, 4.0, 4.0)}, {"bones": False}, {"noise": 50}])
def test_a_heart_on_the_left_supports_and_on_the_right_contradicts(setting):
    chest = make_chest(**setting)
    supported = check_laterality(chest.ct, segment(chest.ct).lungs)
    assert supported.severity is Severity.PASS
    assert "supports" in supported.message
    mirrored = make_chest(mirrored=True, **setting)
    contradicted = check_laterality(mirrored.ct, segment(mirrored.ct).lungs)
    assert contradicted.code == "LATERALITY_CONTRADICTED"
    assert contradicted.severity is Severity.WARN
    assert contradicted.value == pytest.approx(-supported.value, abs=0.4)


def test_a_missing_lung_leaves_the_evidence_weak_and_says_so():
    chest = make_chest(right=False)
    finding = check_laterality(chest.ct, segment(chest.ct).lungs)
    assert (finding.code, finding.severity) == ("LATERALITY_UNSURE", "WARN")
    assert "does not tell which side is which" in finding.message


def test_no_lungs_at_all_is_no_evidence():
    ct = make_chest(spacing=(5.0, 5.0, 5.0)).ct
    finding = check_laterality(ct, ct.like(np.zeros(ct.shape, np.uint8)))
    assert finding.severity is Severity.PASS
