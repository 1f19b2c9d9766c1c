"""Geometry: every property for every axis order, oblique and sheared, with unequal factors on each axis."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lungvq.errors import GeometryError, InputError
from lungvq.volume import ALL_AXIS_CODES, CANONICAL, Grid, Volume, grid_around

SPACING = (2.5, 0.8, 0.7)
SHAPE = (5, 6, 7)

settings.register_profile("lungvq", deadline=None, max_examples=40)
settings.load_profile("lungvq")

codes = st.sampled_from(ALL_AXIS_CODES)
spacings = st.tuples(*[st.floats(0.5, 4.0)] * 3)
shapes = st.tuples(*[st.integers(1, 9)] * 3)
offsets = st.tuples(*[st.floats(-500.0, 500.0)] * 3)


@st.composite
def grids(draw, shape=shapes, max_degrees=30.0, max_shear=0.3):
    """Any axis order, turned by up to `max_degrees`, sheared a little, anywhere."""
    first = draw(shape)
    straight = plain(first, draw(spacings), draw(codes))
    turn = Rotation.from_rotvec(
        draw(st.floats(-max_degrees, max_degrees)) * unit(draw(offsets)), degrees=True
    ).as_matrix()
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = [draw(st.floats(-max_shear, max_shear)) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = turn @ straight.affine[:3, :3] @ shear
    affine[:3, 3] = draw(offsets)
    return Grid(first, affine)


def unit(vector):
    length = np.linalg.norm(vector)
    return np.array(vector) / length if length else np.array([0.0, 0.0, 1.0])


def plain(shape=SHAPE, spacing=SPACING, axis_codes=CANONICAL):
    """A grid along the body axes, the directions written out by hand."""
    direction = {
        "L": (1, 0, 0),
        "R": (-1, 0, 0),
        "P": (0, 1, 0),
        "A": (0, -1, 0),
        "S": (0, 0, 1),
        "I": (0, 0, -1),
    }
    affine = np.eye(4)
    for axis, (letter, mm) in enumerate(zip(axis_codes, spacing, strict=True)):
        affine[:3, axis] = np.array(direction[letter]) * mm
    affine[:3, 3] = 10, -20, 30
    return Grid(shape, affine)


def numbered(grid, dtype=np.float32):
    return Volume(np.arange(np.prod(grid.shape), dtype=dtype).reshape(grid.shape), grid.affine)


def centres(grid):
    """LPS mm of all voxel centres, shape (K, J, I, 3)."""
    return grid.world(np.stack(np.indices(grid.shape), axis=-1))


def ramp(points):
    """A linear function of place; trilinear interpolation must be exact for it."""
    return points @ [0.31, -0.17, 0.53] + 7.0


def corners(grid):
    """The outer corners of the block that the voxels fill."""
    return grid.world(list(product(*((-0.5, n - 0.5) for n in grid.shape))))


# --- affines ----------------------------------------------------------------------------------------------


def test_there_are_48_axis_orders():
    assert len(set(ALL_AXIS_CODES)) == len(ALL_AXIS_CODES) == 48


@pytest.mark.parametrize("axis_codes", ALL_AXIS_CODES)
def test_codes_are_read_off_the_affine(axis_codes):
    grid = plain(axis_codes=axis_codes)
    assert grid.codes == axis_codes
    assert grid.spacing == pytest.approx(SPACING)


@given(axis_codes=codes, angle=st.floats(1, 40), axis=st.integers(0, 2))
def test_a_turn_about_a_body_axis_keeps_codes(axis_codes, angle, axis):
    straight = plain(axis_codes=axis_codes)
    affine = straight.affine.copy()
    affine[:3, :3] = Rotation.from_rotvec(angle * np.eye(3)[axis], degrees=True).as_matrix() @ affine[:3, :3]
    turned = Grid(SHAPE, affine)
    assert turned.codes == axis_codes
    assert turned.spacing == pytest.approx(SPACING)
    assert turned.voxel_ml == pytest.approx(straight.voxel_ml)


def test_voxel_volume_by_hand():
    assert plain().voxel_ml == pytest.approx(2.5 * 0.8 * 0.7 / 1000)
    sheared = plain().affine.copy()
    sheared[1, 0] += 1.0  # a shear moves slices past each other and leaves the volume
    assert Grid(SHAPE, sheared).voxel_ml == pytest.approx(2.5 * 0.8 * 0.7 / 1000)


@given(grid=grids(), index=st.tuples(*[st.floats(-20, 20)] * 3))
def test_index_and_world_are_inverse(grid, index):
    np.testing.assert_allclose(grid.index(grid.world(index)), index, atol=1e-6)


def test_world_by_hand():
    np.testing.assert_allclose(plain().world((1, 2, 3)), (10 + 3 * 0.7, -20 + 2 * 0.8, 30 + 2.5))


def test_a_grid_owns_its_affine():
    affine = plain().affine.copy()
    grid = Grid(SHAPE, affine)
    affine[0, 3] = 99
    assert grid.affine[0, 3] == 10
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 3] = 1


@pytest.mark.parametrize(
    ("shape", "change"),
    [
        ((5, 6), lambda a: a),
        ((5, 0, 7), lambda a: a),
        (SHAPE, lambda a: a * np.nan),
        (SHAPE, lambda a: a[:3]),
        (SHAPE, lambda a: a * 2),
        (SHAPE, lambda a: a @ np.diag([1, 0, 1, 1])),
        (SHAPE, lambda a: a[:, [0, 0, 2, 3]]),
    ],
)
def test_what_is_no_grid(shape, change):
    with pytest.raises(GeometryError):
        Grid(shape, change(plain().affine.copy()))
    assert issubclass(GeometryError, InputError)


# --- reorient ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis_codes", ALL_AXIS_CODES)
def test_reorient_moves_no_value_in_space(axis_codes):
    volume = numbered(plain())
    turned = volume.reorient(axis_codes)
    assert turned.grid.codes == axis_codes
    assert turned.array.flags.c_contiguous
    # Every voxel of the new array is found at the same place in the old one.
    old = np.rint(volume.grid.index(centres(turned.grid))).astype(int)
    np.testing.assert_array_equal(volume.array[tuple(np.moveaxis(old, -1, 0))], turned.array)


@given(grid=grids(), target=codes)
def test_reorient_there_and_back_is_exact(grid, target):
    volume = numbered(grid)
    there = volume.reorient(target)
    back = there.reorient(grid.codes)
    assert there.grid.codes == target
    assert sorted(there.spacing) == pytest.approx(sorted(volume.spacing))
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-9)
    assert back.grid.same_as(volume.grid)


@given(grid=grids(), first=codes, second=codes)
def test_reorient_twice_is_reorient_once(grid, first, second):
    volume = numbered(grid)
    direct, through = volume.reorient(second), volume.reorient(first).reorient(second)
    np.testing.assert_array_equal(direct.array, through.array)
    np.testing.assert_allclose(direct.affine, through.affine, atol=1e-9)


@given(grid=grids(), target=codes)
def test_grid_and_volume_reorient_alike(grid, target):
    assert numbered(grid).reorient(target).grid.same_as(grid.reorient(target))


def test_vectors_keep_their_components_when_axes_move():
    rng = np.random.default_rng(0)
    field = Volume(rng.normal(size=(*SHAPE, 3)).astype(np.float32), plain().affine)
    turned = field.reorient("ARI")
    assert turned.array.shape == (6, 7, 5, 3)
    point = field.grid.world((1, 2, 3))
    k, j, i = np.rint(turned.grid.index(point)).astype(int)
    np.testing.assert_array_equal(turned.array[k, j, i], field.array[1, 2, 3])


@pytest.mark.parametrize("bad", ["", "SP", "SPLL", "SPA", "spl", "XYZ", "SSL"])
def test_axis_codes_that_are_none(bad):
    with pytest.raises(GeometryError, match="expected axis codes"):
        plain().reorient(bad)


# --- same place? ------------------------------------------------------------------------------------------


def test_a_grid_is_the_same_as_its_copy():
    grid = plain()
    assert grid.same_as(grid)
    assert grid.same_as(Grid(list(grid.shape), grid.affine + 1e-4 * np.eye(4, k=3)))


@pytest.mark.parametrize("entry", list(product(range(3), range(4))))
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_change_of_any_number_in_the_affine_is_another_place(entry, sign):
    affine = plain().affine.copy()
    affine[entry] += sign * 0.02
    assert not plain().same_as(Grid(SHAPE, affine))
    assert not Grid(SHAPE, affine).same_as(plain())


def test_small_steps_add_up_across_a_large_grid():
    """A spacing that is 0.0001 mm off moves the last of 512 columns by 0.05 mm."""
    affine = plain().affine.copy()
    affine[0, 2] += 1e-4
    assert Grid(SHAPE, affine).same_as(plain())
    assert not Grid((5, 6, 512), affine).same_as(plain((5, 6, 512)))


@pytest.mark.parametrize("axis", range(3))
def test_another_size_is_another_grid(axis):
    shape = list(SHAPE)
    shape[axis] += 1
    assert not plain(tuple(shape)).same_as(plain())


@pytest.mark.parametrize("axis_codes", [c for c in ALL_AXIS_CODES if c != CANONICAL])
def test_the_same_voxels_in_another_order_are_another_grid(axis_codes):
    cube = plain((4, 4, 4), (1, 1, 1))
    assert not cube.reorient(axis_codes).same_as(cube)


# --- crop and paste ---------------------------------------------------------------------------------------


@st.composite
def boxes(draw, shape=SHAPE):
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    return tuple(slice(a, draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))


@given(grid=grids(shape=st.just(SHAPE)), box=boxes())
def test_a_crop_stays_where_it_was_and_goes_back(grid, box):
    volume = numbered(grid)
    part = volume.crop(box)
    start = [s.start for s in box]
    np.testing.assert_allclose(part.grid.world((0, 0, 0)), grid.world(start), atol=1e-9)
    np.testing.assert_array_equal(part.array, volume.array[box])
    assert np.shares_memory(part.array, volume.array)
    back = part.paste_into(grid, -1)
    assert back.grid.same_as(grid)
    expected = np.full(SHAPE, -1, np.float32)
    expected[box] = volume.array[box]
    np.testing.assert_array_equal(back.array, expected)


@given(box=boxes(), target=codes)
def test_crop_then_reorient_is_the_same_region(box, target):
    part = numbered(plain()).crop(box).reorient(target).reorient(CANONICAL)
    np.testing.assert_array_equal(part.array, numbered(plain()).array[box])
    assert part.grid.same_as(plain().crop(box))


def test_paste_keeps_type_and_components():
    field = Volume(np.ones((*SHAPE, 3), np.float32), plain().affine)
    pasted = field.crop((slice(1, 3),) * 3).paste_into(plain(), np.nan)
    assert pasted.array.shape == (*SHAPE, 3)
    assert np.isfinite(pasted.array).sum() == 8 * 3
    assert numbered(plain(), np.int16).paste_into(plain(), 0).array.dtype == np.int16


@pytest.mark.parametrize(
    "box",
    [
        (slice(2, 2), slice(None), slice(None)),
        (slice(3, 1), slice(None), slice(None)),
        (slice(5, 9), slice(None), slice(None)),
        (slice(0, 4, 2), slice(None), slice(None)),
        (slice(None, None, -1), slice(None), slice(None)),
    ],
)
def test_boxes_that_hold_nothing_or_skip(box):
    with pytest.raises(GeometryError, match="box"):
        numbered(plain()).crop(box)


@pytest.mark.parametrize("shift", [(0.3, 0, 0), (0, 0.3, 0), (0, 0, 0.3), (-1, 0, 0), (0, 2, 0), (0, 0, 5)])
def test_paste_refuses_what_is_off_the_lattice_or_sticks_out(shift):
    part = numbered(plain()).crop((slice(0, 4), slice(0, 5), slice(0, 6)))
    affine = part.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ shift
    with pytest.raises(GeometryError, match="voxel on voxel"):
        Volume(part.array, affine).paste_into(plain(), 0)


def test_paste_refuses_another_spacing_and_another_order():
    part = numbered(plain()).crop((slice(0, 3),) * 3)
    for affine in (part.affine @ np.diag([1, 1, 1.1, 1]), part.reorient("SPR").affine):
        with pytest.raises(GeometryError):
            Volume(part.array, affine).paste_into(plain(), 0)


# --- spacing ----------------------------------------------------------------------------------------------


@given(grid=grids(max_shear=0), spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3))
def test_a_new_spacing_covers_the_block_and_hardly_more(grid, spacing):
    new = grid.with_spacing(spacing)
    assert new.spacing == pytest.approx(spacing)
    assert new.codes == grid.codes
    old_voxels_of_new = grid.index(corners(new))
    low, high = old_voxels_of_new.min(axis=0), old_voxels_of_new.max(axis=0)
    np.testing.assert_allclose(low, -0.5, atol=1e-6)  # the first faces stay
    far = np.array(grid.shape) - 0.5
    one_new = np.array(spacing) / grid.spacing
    assert (high >= far - 1e-5 * one_new).all()
    assert (high < far + one_new + 1e-6).all()


def test_a_new_spacing_by_hand():
    new = plain((4, 10, 14)).with_spacing((5.0, 1.6, 1.4))
    assert new.shape == (2, 5, 7)
    # The first new voxel's centre lies between the first two old ones on every axis.
    np.testing.assert_allclose(new.world((0, 0, 0)), plain().world((0.5, 0.5, 0.5)))


@given(grid=grids())
def test_its_own_spacing_changes_nothing(grid):
    assert grid.with_spacing(grid.spacing).same_as(grid)


@given(
    points=st.lists(offsets, min_size=1, max_size=6),
    spacing=st.floats(0.5, 10),
    margin=st.floats(0, 30),
)
def test_a_grid_around_points_covers_them_with_the_margin(points, spacing, margin):
    grid = grid_around(points, spacing, margin)
    points = np.array(points)
    assert grid.codes == CANONICAL
    assert grid.spacing == pytest.approx((spacing,) * 3)
    first, last = grid.world((0, 0, 0)), grid.world(np.array(grid.shape) - 1)
    np.testing.assert_allclose(first, points.min(axis=0) - margin, atol=1e-9)
    assert (last >= points.max(axis=0) + margin - 1e-6).all()
    assert (last <= points.max(axis=0) + margin + spacing + 1e-6).all()


# --- resampling -------------------------------------------------------------------------------------------


def fine_inside(old, new):
    """Points of `new` between the outermost voxel centres of `old`, where interpolation needs no edge."""
    index = old.index(centres(new))
    return ((index >= -1e-9) & (index <= np.array(old.shape) - 1 + 1e-9)).all(axis=-1)


@given(
    old=grids(shape=st.tuples(*[st.integers(2, 9)] * 3)),
    new=grids(shape=st.just((4, 5, 6))),
    away=st.floats(0, 1),
)
@settings(max_examples=60)
def test_a_linear_ramp_is_exact_on_any_grid(old, new, away):
    # Bring the new grid's middle near the old one's.
    affine = new.affine.copy()
    affine[:3, 3] += old.world(np.array(old.shape) / 2 * (1 - 0.3 * away)) - new.world((2, 2.5, 3))
    new = Grid(new.shape, affine)
    source = Volume(ramp(centres(old)).astype(np.float32), old.affine)
    result = source.resample(new, antialias=False)
    assert result.array.dtype == np.float32
    inside = fine_inside(old, new)
    np.testing.assert_allclose(result.array[inside], ramp(centres(new))[inside], rtol=1e-5, atol=2e-3)
    index = old.index(centres(new))
    beyond = ((index < -0.501) | (index > np.array(old.shape) - 0.499)).any(axis=-1)
    assert np.isnan(result.array[beyond]).all()


def test_unequal_spacings_leave_a_mix_up_nowhere_to_hide():
    new = plain((9, 5, 4), (1.3, 0.9, 1.1), "LAI")
    affine = new.affine.copy()
    affine[:3, 3] = plain().world((3.5, 4.2, 1.1))
    new = Grid(new.shape, affine)
    source = Volume(ramp(centres(plain())).astype(np.float32), plain().affine)
    inside = fine_inside(plain(), new)
    assert inside.sum() > 20
    got = source.resample(new, antialias=False).array
    np.testing.assert_allclose(got[inside], ramp(centres(new))[inside], atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64, bool])
def test_its_own_grid_gives_its_own_values(dtype):
    values = np.random.default_rng(0).integers(0, 2 if dtype is bool else 200, SHAPE).astype(dtype)
    volume = Volume(values, plain().affine)
    for antialias in (False, True):
        result = volume.resample(volume.grid, antialias=antialias)
        assert result.array.dtype == np.float32
        np.testing.assert_allclose(result.array, values.astype(np.float32), atol=1e-4)


@given(grid=grids(shape=st.tuples(*[st.integers(2, 9)] * 3)), target=codes)
def test_resampling_onto_reoriented_axes_is_reorienting(grid, target):
    volume = Volume(np.random.default_rng(1).normal(size=grid.shape).astype(np.float32), grid.affine)
    expected = volume.reorient(target)
    np.testing.assert_allclose(volume.resample(expected.grid).array, expected.array, atol=1e-4)


@given(old=grids(), new=grids(shape=st.just((3, 4, 5))))
def test_sample_and_resample_agree(old, new):
    affine = new.affine.copy()
    affine[:3, 3] = old.world((0, 0, 0))
    new = Grid(new.shape, affine)
    volume = Volume(np.random.default_rng(2).normal(size=old.shape).astype(np.float32), old.affine)
    on_grid = volume.resample(new, fill=-9, antialias=False).array
    at_points = volume.sample(centres(new).reshape(-1, 3), fill=-9)
    # At the outermost face the two may fall on either side of it.
    edge = np.abs(np.abs(old.index(centres(new)) - (np.array(old.shape) - 1) / 2) - np.array(old.shape) / 2)
    clear = (edge > 1e-6).all(axis=-1)
    np.testing.assert_allclose(at_points.reshape(new.shape)[clear], on_grid[clear], atol=1e-4)


def test_the_edge_value_holds_for_half_a_voxel():
    volume = numbered(plain((2, 2, 2), (2, 3, 4)))
    points = volume.grid.world([(-0.49, 0, 0), (1.49, 1, 1), (-0.51, 0, 0), (1, 1, 1.51)])
    np.testing.assert_allclose(volume.sample(points), [0, 7, np.nan, np.nan])
    np.testing.assert_allclose(volume.sample(points, fill=5), [0, 7, 5, 5])


def test_a_volume_of_one_voxel():
    volume = Volume(np.full((1, 1, 1), 3, np.float32), plain((1, 1, 1)).affine)
    np.testing.assert_array_equal(volume.sample(volume.grid.world([(0.3, -0.4, 0.2)])), [3])


def test_what_has_no_weight_may_be_undefined():
    """A voxel that falls on a voxel takes its value, whatever lies beside it."""
    values = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    values[1, 1, 2] = np.nan
    volume = Volume(values, np.diag([2.0, 2.0, 2.0, 1.0]))
    got = volume.resample(Grid((5, 5, 5), np.diag([1.0, 1.0, 1.0, 1.0]))).array
    assert got[2, 2, 2] == 13
    assert np.isnan(got[2, 2, 3])
    assert np.isnan(got[2, 2, 4])


def test_vector_fields_are_resampled_component_by_component():
    points = centres(plain())
    field = Volume(
        np.stack([ramp(points), 2 * ramp(points), -points[..., 0]], -1).astype(np.float32), plain().affine
    )
    new = plain((3, 4, 5), (3.1, 0.9, 0.6))
    got, inside = field.resample(new, antialias=False).array, fine_inside(plain(), new)
    np.testing.assert_allclose(got[inside][:, 1], 2 * ramp(centres(new))[inside], atol=1e-3)
    np.testing.assert_allclose(got[inside][:, 2], -centres(new)[inside][:, 0], atol=1e-3)
    np.testing.assert_allclose(field.sample(centres(new)[inside]), got[inside], atol=1e-4)


@pytest.mark.parametrize("factor", [(2.0, 3.0, 1.5), (1.0, 4.0, 1.0), (3.0, 3.0, 3.0)])
def test_antialiasing_keeps_the_mean_and_the_ramp(factor):
    fine = plain((42, 48, 45), (0.9, 0.8, 0.7))
    coarse = fine.with_spacing(np.array(factor) * fine.spacing)
    noise = np.random.default_rng(3).normal(100, 50, fine.shape).astype(np.float32)
    smooth = Volume(noise, fine.affine).resample(coarse)
    assert smooth.array.mean() == pytest.approx(noise.mean(), abs=1.5)
    level = Volume(np.full(fine.shape, 7, np.float32), fine.affine).resample(coarse)
    np.testing.assert_allclose(level.array, 7, rtol=1e-6)
    sloped = Volume(ramp(centres(fine)).astype(np.float32), fine.affine).resample(coarse).array
    margin = (slice(3, -3),) * 3  # the Gaussian meets the edge there
    np.testing.assert_allclose(sloped[margin], ramp(centres(coarse))[margin], atol=1e-3)


def test_antialiasing_averages_what_point_samples_miss():
    """Stripes one voxel wide along each axis in turn, seen three times coarser, are grey.

    A box of three would leave a third of them, this Gaussian leaves 7 %.
    """
    for axis in range(3):
        fine = plain((33, 36, 39), (1.1, 0.8, 0.7))
        stripes = (np.indices(fine.shape)[axis] % 2 * 200.0).astype(np.float32)
        factor = np.ones(3)
        factor[axis] = 3
        coarse = fine.with_spacing(factor * fine.spacing)
        volume = Volume(stripes, fine.affine)
        inner = (slice(2, -2),) * 3
        assert np.ptp(volume.resample(coarse, antialias=False).array[inner]) == pytest.approx(200)
        assert np.ptp(volume.resample(coarse).array[inner]) < 16


def test_voxels_are_defined_where_their_centre_lies_in_the_old_block():
    fine = plain((7, 8, 10))
    coarse = fine.with_spacing(1.9 * np.array(SPACING))
    got = numbered(fine).resample(coarse).array
    index = fine.index(centres(coarse))
    np.testing.assert_array_equal(np.isfinite(got), (index <= np.array(fine.shape) - 0.5).all(axis=-1))
    assert np.isnan(got).any()


def test_antialiasing_brings_noise_down_as_a_box_would():
    """Averaging r voxels divides the variance by r; the Gaussian of equal variance does so within a third."""
    fine = plain((60, 60, 60), (1, 1, 1))
    noise = Volume(np.random.default_rng(4).normal(0, 10, fine.shape).astype(np.float32), fine.affine)
    coarse = noise.resample(fine.with_spacing((4, 1, 1)))
    assert coarse.array[2:-2].var() == pytest.approx(100 / 4, rel=0.35)


def test_antialiasing_follows_axes_when_the_new_grid_counts_them_otherwise():
    fine = plain((33, 36, 39), (1.1, 0.8, 0.7))
    stripes = Volume((np.indices(fine.shape)[0] % 2 * 200.0).astype(np.float32), fine.affine)
    coarse = fine.with_spacing((3.3, 0.8, 0.7))
    direct, other = stripes.resample(coarse), stripes.resample(coarse.reorient("LPI"))
    np.testing.assert_allclose(other.reorient(CANONICAL).array, direct.array, atol=1e-3)


@pytest.mark.parametrize(
    "spacing", [(2.0, 2.0, 2.0), (1.0, 2.5, 1.7), (0.8, 0.7, 1.4), (0.5, 3.0, 0.7), (0.3, 0.4, 0.5)]
)
def test_parallel_axes_are_resampled_as_any_others(spacing):
    """The way along parallel axes, one matrix each, against smoothing and trilinear interpolation."""
    affine = np.diag([0.8, 0.7, 0.7, 1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = 5.0, -7.0, 100.0
    noise = np.random.default_rng(5).normal(-700, 100, (21, 18, 25)).astype(np.float32)
    volume = Volume(noise, affine)
    grid = volume.grid.with_spacing(spacing)
    shifted = grid.affine.copy()
    shifted[:3, 3] += 3.3, -4.1, 2.7  # partly beyond
    for new in (grid, Grid(grid.shape, shifted)):
        direct, other = (volume.resample(onto, fill=-9) for onto in (new, new.reorient("LPS")))
        np.testing.assert_allclose(other.reorient(CANONICAL).array, direct.array, rtol=1e-5, atol=1e-3)
        assert direct.array.dtype == np.float32


def test_antialiasing_of_a_vector_field_smooths_space_and_not_components():
    fine = plain((20, 20, 20), (1, 1, 1))
    values = np.zeros((*fine.shape, 3), np.float32)
    values[..., 0], values[..., 2] = 10, -10
    coarse = Volume(values, fine.affine).resample(fine.with_spacing((2, 2, 2)))
    np.testing.assert_allclose(coarse.array, np.broadcast_to([10, 0, -10], coarse.array.shape), atol=1e-5)


@given(grid=grids(shape=st.tuples(*[st.integers(2, 6)] * 3)), target=codes)
def test_labels_are_carried_unmixed(grid, target):
    labels = Volume(np.random.default_rng(5).integers(0, 6, grid.shape).astype(np.uint8), grid.affine)
    expected = labels.reorient(target)
    got = labels.resample_labels(expected.grid)
    assert got.array.dtype == np.uint8
    np.testing.assert_array_equal(got.array, expected.array)


def test_labels_beyond_the_volume_are_the_fill():
    labels = Volume(np.full((2, 2, 2), 3, np.int16), plain((2, 2, 2)).affine)
    shifted = labels.grid.affine.copy()
    shifted[:3, 3] += shifted[:3, 0] * 1.0
    got = labels.resample_labels(Grid((2, 2, 2), shifted), fill=9)
    np.testing.assert_array_equal(got.array[0], 3)
    np.testing.assert_array_equal(got.array[1], 9)


# --- volumes ----------------------------------------------------------------------------------------------


def test_like_is_the_same_place_with_other_values():
    volume = numbered(plain())
    other = volume.like(np.zeros(SHAPE, bool))
    assert other.grid.same_as(volume.grid)
    assert other.array.dtype == bool
    with pytest.raises(GeometryError, match=r"expected shape \(5, 6, 7\), got \(7, 6, 5\)"):
        volume.like(np.zeros(SHAPE[::-1]))


@pytest.mark.parametrize("shape", [(4,), (4, 5), (2, 3, 4, 5, 6)])
def test_arrays_that_are_no_volumes(shape):
    with pytest.raises(GeometryError, match="expected an array"):
        Volume(np.zeros(shape), np.eye(4))
