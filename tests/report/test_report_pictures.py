import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from lungvq.anatomy import LEFT, RIGHT, VQ_CLASSES
from lungvq.report.figures import AXIAL, CORONAL, SAGITTAL, Cuts, class_overlay, montage, registration_layers
from lungvq.report.histogram import histogram
from lungvq.report.plate import grey, outlines, resize, scale_of
from lungvq.report.render3d import VIEWS, find_surface, mean_beneath, soft_mask, surfaces_picture
from lungvq.volume import Volume


@pytest.fixture(autouse=True)
def small(small_pictures):
    """Small pictures are as true as large ones."""


def shown(name):
    return False


def pixels(picture):
    return imread(io.BytesIO(picture.data))[..., :3]


def ball(radius=40.0, spacing=(3.0, 2.0, 2.5), centre=(10.0, -20.0, 30.0), label=RIGHT):
    """A solid ball in a canonical volume of unequal spacing."""
    shape = tuple(int(2 * radius / s) + 15 for s in spacing)
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]]
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3, 3] = np.array(centre) - middle
    grid = Volume(np.zeros(shape, np.uint8), affine).grid
    far = np.linalg.norm(grid.world(np.moveaxis(np.indices(shape), 0, -1)) - centre, axis=-1)
    return Volume(np.where(far < radius, label, 0).astype(np.uint8), affine)


class TestResize:
    @pytest.mark.parametrize("pixel", [0.5, 1.0, 2.3])
    def test_a_ramp_stays_a_ramp_where_no_edge_is_near(self, pixel):
        rows, columns = np.indices((60, 90), dtype=float)
        image = resize(3.0 * rows + 5.0 * columns, (2.0, 0.8), pixel)
        y, x = (np.indices(image.shape) + 0.5) * pixel
        expected = 3.0 * (y / 2.0 - 0.5) + 5.0 * (x / 0.8 - 0.5)
        inner = (slice(6, -6), slice(6, -6))
        assert image[inner].size > 100
        assert np.abs(image - expected)[inner].max() < 0.1 * (3 + 5)  # a tenth of a voxel

    def test_aspect_is_true_for_anisotropic_voxels(self):
        assert resize(np.zeros((50, 100)), (4.0, 0.5), 1.0).shape == (200, 50)

    def test_undefined_pixels_do_not_bleed(self):
        image = np.full((20, 20), 7.0)
        image[:, 10:] = np.nan
        small = resize(image, (1.0, 1.0), 0.5)
        assert np.nanmin(small) == pytest.approx(7)
        assert np.nanmax(small) == pytest.approx(7)
        assert np.isfinite(small).mean() == pytest.approx(0.5, abs=0.03)

    def test_outline_of_a_square_lies_on_its_edge(self):
        labels = np.zeros((30, 30), np.uint8)
        labels[10:20, 10:20] = 3
        (line,) = outlines(labels, (1.0, 1.0), 0.25)
        # Edges at 10 and 20 mm are px 40 and 80; corners are rounded off.
        assert np.abs(line.min(axis=0) - 40).max() < 0.6
        assert np.abs(line.max(axis=0) - 80).max() < 0.6


class TestConvention:
    """Paint one place bright and look where it turns up on the screen."""

    def painted(self, case, where):
        lungs = case.lungs_exp.array
        values = np.where(lungs > 0, 0.1, np.nan).astype(np.float32)
        values[where & (lungs > 0)] = 2.0
        return replace(case, maps={**case.maps, "ventilation": case.exp.like(values)})

    def brightness(self, case, where, plane):
        """Share of yellow in the left and right half, and top and bottom half, of the ventilation column."""
        picture = pixels(montage(self.painted(case, where), plane, Cuts.through(case.lungs_exp), shown))
        height, width = picture.shape[:2]
        panel = picture[44 : height - 84, width // 4 : width // 2]
        return panel[..., 1] - panel[..., 2] > 0.5

    @pytest.mark.parametrize("plane", [CORONAL, AXIAL])
    def test_the_right_lung_is_on_the_viewers_left(self, case, plane):
        yellow = self.brightness(case, case.lungs_exp.array == RIGHT, plane)
        half = yellow.shape[1] // 2
        assert yellow[:, :half].mean() > 0.2
        assert yellow[:, half:].mean() < 0.01

    def test_sagittal_front_is_on_the_viewers_left(self, case):
        j = np.indices(case.exp.shape)[1]
        yellow = self.brightness(case, j < case.exp.shape[1] * 0.45, SAGITTAL)
        half = yellow.shape[1] // 2
        assert yellow[:, :half].mean() > 5 * yellow[:, half:].mean()

    def test_the_head_is_on_top(self, case):
        cuts = Cuts.through(case.lungs_exp)
        ramp = np.broadcast_to(np.arange(case.exp.shape[0])[:, None, None], case.exp.shape)
        for plane in (CORONAL, SAGITTAL):
            image = cuts.image(plane, ramp, cuts.montage(plane)[0])
            assert image[2, 5] > image[-3, 5]
        front = np.broadcast_to(np.arange(case.exp.shape[1])[:, None], case.exp.shape)
        assert np.diff(cuts.image(AXIAL, front, 10)[:, 5]).min() >= 0  # the front is on top of axial cuts

    def test_first_column_is_the_ct_in_its_window(self):
        assert grey(np.array([-1350.0, -600.0, 150.0])).tolist() == [[0] * 3, [0.5] * 3, [1] * 3]


class TestScales:
    def test_sequential_maps_reach_twice_their_mean_and_share_a_table(self, case):
        v, q = scale_of(case, "ventilation"), scale_of(case, "perfusion")
        inside = case.maps["ventilation"].array[case.lungs_exp.array > 0]
        assert v.high == pytest.approx(2 * np.nanmean(inside), rel=1e-3)
        assert (v.low, q.low) == (0, 0)
        assert q.high == pytest.approx(2, rel=1e-3)
        assert v.colours == q.colours

    def test_vq_is_centred_on_one(self, case):
        scale = scale_of(case, "vq_log2")
        assert (scale.low, scale.high) == (-2, 2)
        assert dict(scale.ticks)[0.0] == "1"
        middle = scale.rgb(np.array([0.0]))[0]
        assert np.ptp(middle) < 0.03  # grey: neither side
        assert scale.rgb(np.array([2.0]))[0, 0] > scale.rgb(np.array([2.0]))[0, 2]

    def test_a_map_without_values_still_has_a_scale(self, case):
        nothing = case.exp.like(np.full(case.exp.shape, np.nan, np.float32))
        scale = scale_of(replace(case, maps={"ventilation": nothing}), "ventilation")
        assert (scale.low, scale.high, scale.mark) == (0, 1, None)


class TestSurfaces:
    def test_a_ball_is_met_at_its_radius(self):
        lungs = ball()
        mask = soft_mask(lungs)
        for view in VIEWS:
            points = find_surface(mask, view).points
            points = points[np.isfinite(points[..., 0])]
            radius = np.linalg.norm(points - (10.0, -20.0, 30.0), axis=1)
            assert abs(np.median(radius) - 40) < 1.0
            assert np.percentile(np.abs(radius - 40), 95) < 1.5

    @pytest.mark.parametrize(
        ("view", "sight"),
        [(0, (0, 1, 0)), (1, (0, -1, 0)), (2, (1, 0, 0)), (3, (-1, 0, 0))],
        ids=lambda v: str(v),
    )
    def test_views_look_where_they_say(self, view, sight):
        """From the front one looks to the back; the seen half of the ball faces the viewer."""
        surface = find_surface(soft_mask(ball()), VIEWS[view])
        np.testing.assert_allclose(VIEWS[view].directions[2], sight)
        middle = surface.points[surface.points.shape[0] // 2, surface.points.shape[1] // 2]
        np.testing.assert_allclose(middle, np.array((10.0, -20.0, 30.0)) - 40 * np.array(sight), atol=2.0)

    def test_inward_is_towards_the_middle_of_a_ball(self):
        for view in VIEWS:
            surface = find_surface(soft_mask(ball()), view)
            seen = np.isfinite(surface.points[..., 0])
            towards = (10.0, -20.0, 30.0) - surface.points[seen]
            cosine = (towards * surface.inward[seen]).sum(axis=1) / np.linalg.norm(towards, axis=1)
            assert np.percentile(cosine, 5) > 0.98

    def test_screen_directions(self):
        """Left to right on the screen: to the patient's left, right, front (right side), back (left side)."""
        for view, across in zip(VIEWS, [(1, 0), (-1, 0), (0, -1), (0, 1)], strict=True):
            points = find_surface(soft_mask(ball()), view).points
            row = points[points.shape[0] // 2]
            row = row[np.isfinite(row[:, 0])]
            step = row[-1] - row[0]
            assert step[0] * across[0] + step[1] * across[1] > 60
            column = points[:, points.shape[1] // 2]
            column = column[np.isfinite(column[:, 0])]
            assert column[0, 2] - column[-1, 2] > 60  # the head is on top

    def test_the_mean_beneath_is_that_of_the_first_two_centimetres(self):
        lungs = ball()
        y = lungs.grid.world(np.moveaxis(np.indices(lungs.shape), 0, -1))[..., 1]
        surface = find_surface(soft_mask(lungs), VIEWS[0])
        values = mean_beneath(surface, lungs.like(y.astype(np.float32)))
        middle = values[values.shape[0] // 2, values.shape[1] // 2]
        assert middle == pytest.approx(-20 - 40 + 10, abs=1.5)  # half of 20 mm beneath the front

    def test_light_comes_from_the_upper_left(self):
        surface = find_surface(soft_mask(ball()), VIEWS[0])
        rows, columns = surface.light.shape
        assert surface.light[rows // 3, columns // 3] > surface.light[2 * rows // 3, 2 * columns // 3] + 0.2

    def test_nothing_to_draw(self, case):
        empty = replace(case, lungs_exp=case.lungs_exp.like(np.zeros_like(case.lungs_exp.array)))
        assert surfaces_picture(empty, shown) is None
        assert surfaces_picture(case, lambda name: True) is None
        assert surfaces_picture(case, shown).size[0] > 1000


def test_classes_are_painted_in_their_colours(case):
    cuts = Cuts.through(case.lungs_exp)
    only = case.exp.like(np.where(case.lungs_exp.array == LEFT, VQ_CLASSES["dead_space"], 0).astype(np.uint8))
    picture = pixels(class_overlay(replace(case, maps={**case.maps, "vq_class": only}), cuts, shown))
    orange = (picture[..., 0] - picture[..., 2] > 0.25)[:-60]  # without the legend
    panel = orange[:, : orange.shape[1] // 4]
    assert panel[:, panel.shape[1] // 2 :].mean() > 0.1
    assert panel[:, : panel.shape[1] // 2].mean() < 0.01


def test_registration_layers_lie_on_each_other(case):
    nothing = case.insp.like(np.full_like(case.insp.array, -1000))
    pictures = registration_layers(replace(case, insp=nothing), Cuts.through(case.lungs_exp))
    assert [p.name for p in pictures] == [
        "registration_expiration",
        "registration_before",
        "registration_after",
    ]
    assert len({p.size for p in pictures}) == 1
    expiration, before, after = (pixels(p)[60:] for p in pictures)
    # In the case the carried inspiration differs by lung brightness alone, and that is matched.
    lung = (expiration[..., 0] > 0.38) & (expiration[..., 0] < 0.55)
    assert lung.mean() > 0.2
    assert np.abs(after - expiration)[lung].mean() < 0.01
    assert np.abs(before - expiration)[lung].mean() > 0.1


def test_histogram_shares_add_up_to_the_whole_lung(case):
    svg = histogram(case, "ventilation").data.decode()
    assert svg.startswith("<svg")
    assert svg.count("<path") == 3
    assert "mL air per mL lung" in svg
    assert "nan" not in svg


def test_pictures_are_the_same_every_time(case):
    cuts = Cuts.through(case.lungs_exp)
    assert montage(case, AXIAL, cuts, shown).data == montage(case, AXIAL, cuts, shown).data
