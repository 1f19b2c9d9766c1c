"""Fissures drawn into a lung are found again: where they lie, where they are missing, and that none is invented."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from analytic_chest import dice

from lungvq.anatomy import LOBES
from lungvq.errors import GeometryError
from lungvq.phantom import make_phantom
from lungvq.segment import segment
from lungvq.segment.lobes import Fissure, Lobes, find_lobes, lobes_from_prior
from lungvq.segment.tree import LobarBronchi
from lungvq.volume import Volume

SIZE = np.array([100.0, 160.0, 200.0])  # of the left lung's box along x, y, z, mm
CORNER = np.array([12.0, 9.0, 8.0])


@dataclass(frozen=True)
class Lungs:
    """What `find_lobes` asks of an anatomy."""

    lungs: Volume
    vessels: Volume
    bronchi: LobarBronchi = field(default_factory=LobarBronchi)


def depth_below(x, y):
    """mm above the base of a fissure that is not the mean one: lower by 12 mm, and bent."""
    u, v = (x - CORNER[0]) / SIZE[0] - 0.5, (y - CORNER[1]) / SIZE[1] - 0.5
    return 70.0 + 200 * v + 15 * np.sin(3 * u)


def one_lung(spacing, *, strength=0.4, gap=None, noise=15.0, vessels=False):
    """A left lung that fills its box but for its corners, with one fissure: (ct, anatomy, upper lobe)."""
    spacing = np.broadcast_to(np.asarray(spacing, float), (3,))
    shape = np.ceil((SIZE + 2 * CORNER)[::-1] / spacing).astype(int)
    z, y, x = np.meshgrid(
        *((np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"
    )
    middle = CORNER + SIZE / 2
    inside = (
        ((x - middle[0]) / SIZE[0]) ** 4 + ((y - middle[1]) / SIZE[1]) ** 4 + ((z - middle[2]) / SIZE[2]) ** 4
    ) < 0.5**4
    above = (z - CORNER[2] - depth_below(x, y)) * 0.6  # a slope of 53 degrees
    rng = np.random.default_rng(5)
    hu = -860 + rng.normal(0, noise, shape)
    width = 0.5 * spacing.mean()
    if strength:
        seen = np.abs(above) < width + 0.25
        if gap is not None:
            seen &= (x - gap[0]) ** 2 + (y - gap[1]) ** 2 > gap[2] ** 2
        hu[seen] += 1000 * strength * 0.5 / spacing.mean()
    tubes = np.zeros(shape, bool)
    if vessels:  # round ones of 4 mm across, along z, none within 8 mm of the fissure
        ends = rng.uniform(CORNER[:2] + 8, CORNER[:2] + SIZE[:2] - 8, (60, 2))
        near = ((x[..., None] - ends[:, 0]) ** 2 + (y[..., None] - ends[:, 1]) ** 2 < 4).any(axis=-1)
        tubes = inside & near & (np.abs(above) > 8)
        hu[tubes] = 30
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]])
    lungs = Volume(inside.astype(np.uint8), affine)
    ct = lungs.like(np.where(inside, hu, 40).astype(np.int16))
    return ct, Lungs(lungs, lungs.like(tubes.astype(np.uint8))), inside & (above > 0)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (2.5, 1.2, 1.2)], ids=["cubes", "slices"])
def test_a_fissure_is_found_where_it_was_drawn(spacing):
    ct, anatomy, upper = one_lung(spacing)
    found = find_lobes(ct, anatomy)
    assert dice(found.labels.array == LOBES["LUL"], upper) > 0.985
    assert dice(lobes_from_prior(anatomy.lungs).array == LOBES["LUL"], upper) < 0.95
    fissure = found.fissures["left oblique"]
    assert fissure.basis == "image"
    assert fissure.completeness > 0.93
    assert fissure.uncertainty_mm < 1
    assert not fissure.gaps
    assert [f.severity.name for f in found.findings] == ["PASS"]


def test_a_hole_in_it_is_measured_and_located():
    centre = CORNER[:2] + SIZE[:2] * (0.5, 0.45)
    ct, anatomy, _ = one_lung(1.5, gap=(*centre, 22.0))
    fissure = find_lobes(ct, anatomy).fissures["left oblique"]
    hole = np.pi * 22**2 / 0.6 / 100  # cm2 on the slope
    (gap,) = fissure.gaps
    assert gap.area_cm2 == pytest.approx(hole, rel=0.2)
    x, y, z = gap.centre_mm
    assert (x, y) == pytest.approx(tuple(centre), abs=3)
    assert z == pytest.approx(CORNER[2] + depth_below(*centre), abs=3)
    whole = find_lobes(*one_lung(1.5)[:2]).fissures["left oblique"].completeness
    assert whole - fissure.completeness > 0.08


def test_vessels_show_a_fissure_that_cannot_be_seen():
    ct, anatomy, upper = one_lung(1.5, strength=0, vessels=True)
    found = find_lobes(ct, anatomy)
    assert found.fissures["left oblique"].basis == "vessels"
    assert found.fissures["left oblique"].completeness is None
    assert dice(found.labels.array == LOBES["LUL"], upper) > 0.95
    (finding,) = found.findings
    assert finding.code == "FISSURE_LEFT_OBLIQUE"
    assert finding.severity.name == "WARN"


def test_a_sheet_that_passes_for_vessels_is_a_fissure_all_the_same():
    ct, anatomy, upper = one_lung((3.0, 1.8, 1.8), strength=0.6, vessels=True)
    bright = (ct.array > -780) & (anatomy.lungs.array > 0)
    found = find_lobes(ct, Lungs(anatomy.lungs, ct.like(bright.astype(np.uint8))))
    assert bright.sum() > anatomy.vessels.array.sum() + 1000  # the sheet among them
    assert found.fissures["left oblique"].completeness > 0.9
    assert dice(found.labels.array == LOBES["LUL"], upper) > 0.985


def test_nothing_is_found_in_noise():
    ct, anatomy, _ = one_lung(1.5, strength=0, noise=60.0)
    found = find_lobes(ct, anatomy)
    fissure = found.fissures["left oblique"]
    assert fissure.basis == "prior"
    assert fissure.uncertainty_mm > 8
    np.testing.assert_array_equal(found.labels.array > 0, anatomy.lungs.array > 0)
    assert dice(found.labels.array == 1, lobes_from_prior(anatomy.lungs).array == 1) > 0.99


def test_other_axis_orders_are_refused():
    ct, anatomy, _ = one_lung(5.0)
    turned = Lungs(anatomy.lungs.reorient("IPL"), anatomy.vessels.reorient("IPL"))
    with pytest.raises(GeometryError, match="SPL"):
        find_lobes(ct.reorient("IPL"), turned)


def test_lobes_of_a_phantom_beat_the_prior():
    phantom = make_phantom("healthy", seed=3, spacing=3.0)
    anatomy = segment(phantom.insp)
    truth = phantom.truth.lobes_insp.array
    found = find_lobes(phantom.insp, anatomy).labels.array
    prior = lobes_from_prior(anatomy.lungs).array
    ours = [dice(found == label, truth == label) for label in LOBES.values()]
    null = [dice(prior == label, truth == label) for label in LOBES.values()]
    assert min(ours) > 0.95
    assert all(our > other for our, other in zip(ours, null, strict=True))


@pytest.mark.parametrize(
    ("complete", "parts"),
    [
        ({"left oblique": 0.9, "right oblique": 0.9, "right horizontal": 0.9}, [1, 2, 3, 4, 5]),
        ({"left oblique": 0.5, "right oblique": 0.9, "right horizontal": 0.6}, [1, 1, 3, 3, 5]),
        ({"left oblique": 0.9, "right oblique": None, "right horizontal": 0.9}, [1, 2, 3, 3, 3]),
        ({"left oblique": 0.5, "right oblique": 0.6, "right horizontal": None}, None),
        ({}, None),
    ],
)
def test_lobes_may_slide_where_a_fissure_was_seen_nearly_whole(complete, parts):
    labels = Volume(np.arange(6, dtype=np.uint8).reshape(1, 2, 3), np.eye(4))
    fissures = {name: Fissure(name, "image", 100, share, 1.0) for name, share in complete.items()}
    found = Lobes(labels, fissures, ()).that_may_slide()
    assert found is None if parts is None else found.array.ravel().tolist() == [0, *parts]
