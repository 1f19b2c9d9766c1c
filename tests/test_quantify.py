"""The table: what each number must be on lungs made of a few boxes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lungvq.anatomy import LOBES, LUNG_OF_LOBE, PRM_CLASSES, REGIONS, ZONES
from lungvq.clinical.vq import at_one_scale, relative_to_mean
from lungvq.hu import Calibration
from lungvq.methods import METHODS, METRICS
from lungvq.quantify import COLUMNS, ZONE_DEFS, BreathHold, cv, iqr_over_mean, quantify, zones_by_height
from lungvq.quantify.zones import carina_height, zones_by_landmark, zones_by_volume
from lungvq.result import MAPS
from lungvq.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -50], [0, 3.0, 0, 10], [4.0, 0, 0, -300], [0, 0, 0, 1]])
ML = 0.024


def boxes(shape=(30, 12, 26)):
    lungs, lobes = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    lungs[2:29, 2:10, 2:12], lungs[5:26, 2:10, 15:24] = 2, 1
    lobes[20:29, 2:10, 2:12], lobes[13:20, 2:10, 2:12], lobes[2:13, 2:10, 2:12] = 3, 4, 5
    lobes[15:26, 2:10, 15:24], lobes[5:15, 2:10, 15:24] = 1, 2
    return Volume(lungs, AFFINE), Volume(lobes, AFFINE)


def breath(lungs, lobes, hu):
    return BreathHold(lungs.like(np.full(lungs.shape, hu, np.int16)), lungs, lobes, Calibration())


@pytest.fixture
def case():
    lungs, lobes = boxes()
    rng = np.random.default_rng(5)
    inside = lungs.array > 0
    maps = {}
    for n, (name, spec) in enumerate(MAPS.items()):
        values = rng.uniform(0.5, 1.5, lungs.shape) + n
        if spec.scale == "classes":
            maps[name] = lungs.like(np.where(inside, rng.integers(1, 5, lungs.shape), 0).astype(np.uint8))
        else:
            maps[name] = lungs.like(np.where(inside, values, np.nan).astype(np.float32))
    return lungs, lobes, maps


def value(table, region, metric, method=None):
    rows = table[(table.region == region) & (table.metric == metric)]
    rows = rows[rows.is_default == 1] if method is None else rows[rows.method == method]
    assert len(rows) == 1
    return rows.value.iloc[0]


def test_the_table_keeps_its_contract(case):
    lungs, lobes, maps = case
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    assert list(table.columns) == COLUMNS
    assert set(table.region) == set(REGIONS)
    counts = table.groupby(["region", "metric"]).is_default.sum()
    assert (counts == 1).all()
    assert table.value.dtype == float
    default_zones = table.region.isin(ZONES) & (table.is_default == 1)
    assert set(table.loc[default_zones, "zone_def"]) == {"equal_height_per_lung"}
    assert set(table.loc[table.region.isin(ZONES), "zone_def"]) == set(ZONE_DEFS) - {"anatomic_landmark"}
    assert not table.duplicated(["region", "zone_def", "metric", "method"]).any()
    assert set(table.loc[~table.region.isin(ZONES), "zone_def"]) == {""}
    promised = """volume_insp_ml volume_exp_ml ventilation_ml ventilation_fraction_pct perfusion_fraction_pct
        ventilation_cv perfusion_cv ventilation_h perfusion_h ventilation_defect_pct perfusion_defect_pct
        vq_normal_pct vq_dead_space_pct vq_shunt_pct vq_matched_defect_pct vq_abnormal_pct laa950_pct
        prm_fsad_pct prm_emphysema_pct mass_insp_g mass_exp_g""".split()  # noqa: SIM905
    for region in REGIONS:
        assert set(promised) <= set(table.loc[table.region == region, "metric"])


def test_volumes_and_masses_are_those_of_the_boxes(case):
    lungs, lobes, maps = case
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    assert value(table, "right", "volume_exp_ml") == pytest.approx(27 * 8 * 10 * ML)
    assert value(table, "RML", "volume_exp_ml") == pytest.approx(7 * 8 * 10 * ML)
    assert value(table, "left", "mass_exp_g") == pytest.approx(0.3 * 21 * 8 * 9 * ML)
    assert value(table, "both", "mass_insp_g") == pytest.approx(0.15 * (27 * 80 + 21 * 72) * ML)


def test_zones_at_inspiration_add_up_to_each_lung_whatever_the_map_of_the_change_sums_to(case):
    lungs, lobes, maps = case
    maps["perfusion_ctp"].array[lungs.array > 0] -= 0.01  # 0.01 g/mL too little everywhere
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    for lung in ("left", "right"):
        zones = [zone for zone in ZONES if zone.startswith(lung)]
        for metric in ("mass_insp_g", "volume_exp_ml", "mass_exp_g"):
            assert sum(value(table, z, metric) for z in zones) == pytest.approx(
                value(table, lung, metric), rel=1e-5
            )


def test_the_wall_in_a_zone_is_no_mass_that_breathing_in_moves(case):
    lungs, lobes, maps = case
    maps["jacobian"].array[lungs.array > 0] = 1
    maps["perfusion_ctp"].array[lungs.array > 0] = 0
    seen = breath(lungs, lobes, -700)
    seen.hu.array[26:] = -300  # apices that share in the wall
    seen = replace(seen, free=lungs.like(np.full(lungs.shape, -700, np.float32)))
    table = quantify("c", seen, seen, maps)
    for zone in ZONES:
        assert value(table, zone, "mass_insp_g") == pytest.approx(value(table, zone, "mass_exp_g"), rel=1e-5)
        assert value(table, zone, "ei_mld_ratio") == pytest.approx(1, rel=1e-5)


def test_a_lung_that_was_not_registered_has_no_inspiratory_zones(case):
    lungs, lobes, maps = case
    for values in maps.values():
        if values.array.dtype == np.float32:
            values.array[lungs.array == 1] = np.nan
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    for metric in ("volume_insp_ml", "mass_insp_g", "air_insp_ml", "ei_volume_ratio", "ei_mld_ratio"):
        for zone in ZONES:
            assert np.isnan(value(table, zone, metric)) == zone.startswith("left"), (zone, metric)
    assert value(table, "left_upper", "volume_exp_ml") > 0


def test_fractions_add_to_100_and_sums_to_the_whole(case):
    lungs, lobes, maps = case
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    for metric in ("ventilation_fraction_pct", "perfusion_fraction_pct"):
        for parts in (LOBES, ("left", "right"), ZONES):
            assert sum(value(table, part, metric) for part in parts) == pytest.approx(100, abs=1e-6)
    v = maps["ventilation"].array
    for lobe, label in LOBES.items():
        assert value(table, lobe, "ventilation_ml") == pytest.approx(
            np.nansum(v[lobes.array == label], dtype=float) * ML, rel=1e-6
        )
    for lung in ("left", "right"):
        own = [lobe for lobe, side in LUNG_OF_LOBE.items() if side == lung]
        assert sum(value(table, lobe, "ventilation_ml") for lobe in own) == pytest.approx(
            value(table, lung, "ventilation_ml")
        )


def test_a_fraction_is_signed_and_counts_only_what_is_defined(case):
    lungs, lobes, maps = case
    v = maps["ventilation"].array
    v[lungs.array == 2] = 1.0
    v[lungs.array == 1] = -0.1
    v[lobes.array == LOBES["RML"]] = np.nan
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    right, left = 20 * 80 * 1.0, 21 * 72 * -0.1
    assert value(table, "left", "ventilation_fraction_pct") == pytest.approx(
        100 * left / (left + right), rel=1e-5
    )
    assert value(table, "right", "ventilation_fraction_pct") > 100
    assert value(table, "RML", "ventilation_undefined_pct") == 100
    assert np.isnan(value(table, "RML", "ventilation_fraction_pct"))  # not known is not nothing
    assert np.isnan(value(table, "RML", "ventilation_cv"))


def test_without_breathing_there_are_no_fractions(case):
    lungs, lobes, maps = case
    maps["ventilation"].array[lungs.array > 0] = 1e-5
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -700), maps)
    assert np.isnan(value(table, "RUL", "ventilation_fraction_pct"))
    assert value(table, "both", "ventilation_ml") == pytest.approx(
        1e-5 * (lungs.array > 0).sum() * ML, rel=1e-4
    )


def test_of_less_than_nothing_there_are_no_fractions_and_no_intervals_of_them(case):
    lungs, lobes, maps = case
    maps["ventilation"].array[lungs.array > 0] = -0.1
    both = breath(lungs, lobes, -700)
    intervals = {("RUL", "ventilation_fraction_pct"): (10.0, 12.5), ("RUL", "ventilation_ml"): (-9.0, -8.0)}
    table = quantify("c", both, both, maps, intervals=intervals)
    assert np.isnan(value(table, "RUL", "ventilation_fraction_pct"))
    assert table[table.ci_low.notna()].metric.tolist() == ["ventilation_ml"]


def test_defects_lie_below_60_percent_of_the_mean_of_both_lungs(case):
    lungs, lobes, maps = case
    v = maps["ventilation"].array
    v[lungs.array == 2], v[lungs.array == 1] = 1.0, 0.5
    mean = (27 * 80 * 1.0 + 21 * 72 * 0.5) / (27 * 80 + 21 * 72)
    assert 0.6 * mean < 0.5
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    assert value(table, "left", "ventilation_defect_pct") == 0
    v[lungs.array == 1] = 0.4
    table = quantify("c", breath(lungs, lobes, -700), breath(lungs, lobes, -850), maps)
    assert value(table, "left", "ventilation_defect_pct") == 100
    assert value(table, "right", "ventilation_defect_pct") == 0


def test_laa950_counts_at_the_threshold(case):
    lungs, lobes, maps = case
    insp = breath(lungs, lobes, -850)
    insp.hu.array[lobes.array == LOBES["RUL"]] = -950
    table = quantify("c", breath(lungs, lobes, -700), insp, maps)
    assert value(table, "RUL", "laa950_pct") == 100
    assert value(table, "RLL", "laa950_pct") == 0
    assert value(table, "right", "laa950_pct") == pytest.approx(100 * 9 / 27)


def test_zones_are_thirds_of_each_lungs_own_height():
    lungs, _ = boxes()
    zones = zones_by_height(lungs).array
    right = [np.unique(zones[k][lungs.array[k] == 2]).tolist() for k in (2, 10, 11, 19, 20, 28)]
    label = {name: n for n, name in enumerate(ZONES, start=1)}
    assert right == [
        [label[f"right_{part}"]] for part in ("lower", "lower", "middle", "middle", "upper", "upper")
    ]
    left = [np.unique(zones[k][lungs.array[k] == 1]).tolist() for k in (5, 11, 12, 25)]
    assert left == [[label[f"left_{part}"]] for part in ("lower", "lower", "middle", "upper")]


def test_a_crumb_above_a_lung_does_not_make_it_taller():
    lungs, _ = boxes()
    crumbs = lungs.array.copy()
    top = np.flatnonzero((crumbs == 1).any(axis=(1, 2)))[-1]
    assert top + 2 < len(crumbs)
    crumbs[top + 2 :, 4, 24] = 1
    zones = zones_by_height(lungs.like(crumbs)).array
    inside = lungs.array > 0
    assert np.array_equal(zones[inside], zones_by_height(lungs).array[inside])
    assert (zones[top + 2 :, 4, 24] == ZONES.index("left_upper") + 1).all()


def test_heterogeneity_by_hand():
    assert cv(np.array([1.0, 3.0])) == pytest.approx(0.5)
    assert iqr_over_mean(np.arange(5.0)) == pytest.approx(1.0)
    assert np.isnan(cv(np.array([-1.0, 1.0])))
    assert np.isnan(iqr_over_mean(np.array([])))


def count(case, **options):
    lungs, lobes, maps = case
    exp, insp = (replace(breath(lungs, lobes, hu), carina_mm=-250.0) for hu in (-700, -850))
    small = lungs.like(np.where(lobes.array == 3, 0.02, 0.01).astype(np.float32))
    return quantify("c", exp, replace(insp, small_vessels=small), maps, **options)


def test_small_vessels_are_averaged_over_each_region(case):
    table = count(case)
    assert value(table, "RUL", "small_vessel_density") == pytest.approx(0.02)
    assert value(table, "left", "small_vessel_density") == pytest.approx(0.01)
    upper = float((case[1].array == 3).sum() / (case[0].array == 2).sum())
    assert value(table, "right", "small_vessel_density") == pytest.approx(0.01 + 0.01 * upper)


def test_every_row_is_known_to_the_registry(case):
    maps = case[2]
    maps["prm_median3d"] = maps["prm"]
    table = count(case)
    assert set(table.metric) == set(METRICS)
    assert set(table.method) <= set(METHODS)
    assert all(METRICS[m].unit == u for m, u in zip(table.metric, table.unit, strict=True))


def test_intervals_go_to_the_default_rows_they_are_for(case):
    intervals = {("RUL", "ventilation_fraction_pct"): (10.0, 12.5), ("both", "perfusion_cv"): (0.0, 1.0)}
    table = count(case, intervals=intervals)
    known = table[table.ci_low.notna()]
    assert known[["region", "metric", "is_default", "ci_low", "ci_high"]].to_numpy().tolist() == [
        ["RUL", "ventilation_fraction_pct", 1, 10.0, 12.5],
        ["both", "perfusion_cv", 1, 0.0, 1.0],
    ]


def test_classes_add_to_100_by_every_method_and_in_every_zone(case):
    maps = case[2]
    maps["prm_median3d"] = maps["prm"]
    table = count(case)
    for prefix, names in (
        ("vq", ("normal", "dead_space", "shunt", "matched_defect")),
        ("prm", tuple(PRM_CLASSES)),
    ):
        parts = table[table.metric.isin([f"{prefix}_{n}_pct" for n in names])]
        sums = parts.groupby(["region", "zone_def", "method"]).value.agg(["sum", "count"])
        assert (sums["count"] == 4).all()
        assert sums["sum"].to_numpy() == pytest.approx(100)
    joint = table[table.metric.str.startswith("vq_joint")]
    assert len(joint) == 36
    assert joint.value.sum() == pytest.approx(100)


def test_zones_of_every_definition_hold_what_the_lungs_hold(case):
    table = count(case)
    zones = table[table.region.isin(ZONES) & table.method.isin(["mask@1", "hybrid@2"])]
    wholes = {"volume_exp_ml": value(table, "both", "volume_exp_ml"), "ventilation_fraction_pct": 100}
    for metric, whole in wholes.items():
        sums = zones[zones.metric == metric].groupby("zone_def").value.sum()
        assert set(sums.index) == set(ZONE_DEFS)
        assert sums.to_numpy() == pytest.approx(whole)
    assert "left_middle" not in set(zones[zones.zone_def == "lobar_proxy"].region)


def test_thirds_of_volume_by_lung_and_pooled_by_hand():
    """The right lung holds 4, 4 and 1 voxels a slice from the base, the left one 0, 0 and 9."""
    lungs = np.zeros((3, 1, 13), np.uint8)
    lungs[:2, 0, :4], lungs[2, 0, 0] = 2, 2
    lungs[2, 0, 4:] = 1
    volume = Volume(lungs, AFFINE)
    label = {name: n for n, name in enumerate(ZONES, start=1)}
    own, pooled = (zones_by_volume(volume, pooled=p).array for p in (False, True))
    # Middles of the slices at 2, 6 and 8.5 of the right lung's 9 voxels; at 2, 6 and 13 of all 18.
    assert own[:, 0, 0].tolist() == [label[f"right_{part}"] for part in ("lower", "upper", "upper")]
    assert pooled[:, 0, 0].tolist() == [label[f"right_{part}"] for part in ("lower", "middle", "upper")]
    assert own[2, 0, 4] == label["left_middle"]
    assert pooled[2, 0, 4] == label["left_upper"]


def test_landmark_zones_part_at_the_carina_and_5_cm_below_it():
    lungs, _ = boxes()
    zones = zones_by_landmark(lungs, carina_mm=-220.0).array
    label = {name: n for n, name in enumerate(ZONES, start=1)}
    z = -300 + 4.0 * np.arange(lungs.shape[0])
    expected = ["upper" if h > -220 else "middle" if h > -270 else "lower" for h in z]
    right = [k for k in range(lungs.shape[0]) if (lungs.array[k] == 2).any()]
    for k in right:
        assert np.unique(zones[k][lungs.array[k] == 2]).tolist() == [label[f"right_{expected[k]}"]]


def test_the_carina_is_where_one_tube_becomes_two():
    airways = np.zeros((30, 40, 60), np.uint8)
    airways[15:28, 18:24, 26:34] = 1  # trachea, from slice 15 up
    for k in range(5, 15):  # two bronchi that part downwards
        apart = 5 + (15 - k)
        airways[k, 18:24, 30 - apart - 4 : 30 - apart] = 1
        airways[k, 18:24, 30 + apart : 30 + apart + 4] = 1
    affine = np.array([[0, 0, 1.5, 0], [0, 1.5, 0, 0], [2.0, 0, 0, -100], [0, 0, 0, 1]])
    assert carina_height(Volume(airways, affine)) == pytest.approx(-100 + 2.0 * 14.5)
    airways[:15] = 0
    assert carina_height(Volume(airways, affine)) is None


def test_expiration_over_inspiration(case):
    table = count(case)
    assert value(table, "RUL", "ei_volume_ratio") == pytest.approx(1)
    assert value(table, "RUL", "ei_mld_ratio") == pytest.approx(700 / 850)
    assert value(table, "both", "mld_exp_hu") == pytest.approx(-700)
    assert value(table, "both", "perc15_insp_hu") == pytest.approx(-850)
    # Nothing is trapped: at inspiration all lung lies above -856 HU, at expiration too.
    assert value(table, "both", "rvc856_950_pct") == 0
    volume, mass, air = (value(table, "LLL", m) for m in ("volume_exp_ml", "mass_exp_g", "air_exp_ml"))
    assert air == pytest.approx(volume - mass)


def test_numbers_do_not_hang_on_thinning(case):
    """The same lungs on voxels a third as wide, each repeated: nothing may move."""
    lungs, lobes, maps = case
    table = count(case)

    def fine(volume):
        return Volume(np.repeat(volume.array, 3, axis=2), volume.affine @ np.diag([1, 1, 1 / 3, 1]))

    again = count((fine(lungs), fine(lobes), {name: fine(volume) for name, volume in maps.items()}))
    keys = ["region", "zone_def", "metric", "method"]
    both = pd.merge(table, again, on=keys, suffixes=("", "_fine"))
    assert len(both) == len(table) == len(again)
    smooth = both.metric.str.contains(
        "_mm|local|cv_|defect_count|largest|gradient"
    ) | both.method.str.contains("min1ml|median3d|detrended")
    same = both[~smooth & both.value.notna()]
    assert same.value_fine.to_numpy() == pytest.approx(same.value.to_numpy(), rel=1e-5, abs=1e-6)


def test_prm_topology_and_cells_of_the_boxes(case):
    """Two boxes of one class: their surfaces and Euler numbers, per mL, and parts that add up to the whole."""
    lungs, _, maps = case
    maps["prm"] = lungs.like((lungs.array > 0) * np.uint8(PRM_CLASSES["fsad"]))
    maps["perfusion"] = lungs.like(np.where(lungs.array == 1, 1.0, 3.0).astype(np.float32))
    table = count(case)
    assert value(table, "both", "prm_normal_surface_cm2_per_ml") == 0
    # 20 mm of the right lung from side to side are 7 blocks of 3 mm, the left one's 18 are 6; slices and rows stay.
    sides = {"right": (27 * 4.0, 8 * 3.0, 21.0), "left": (21 * 4.0, 8 * 3.0, 18.0)}
    for lung, (a, b, c) in sides.items():
        ml = a * b * c / 1000
        assert value(table, lung, "prm_fsad_euler_per_ml") == pytest.approx(1 / ml, rel=1e-4)
        surface = 0.01 * 2 * (a * b + a * c + b * c) / ml
        # Faces along the axes come out too small (clinical.topology).
        assert 0.8 < value(table, lung, "prm_fsad_surface_cm2_per_ml") / surface < 1
    widths = {"left": 1.0, "right": 21 / 20}
    ml = {r: value(table, r, "volume_exp_ml") * widths[LUNG_OF_LOBE[r]] for r in LOBES}
    for metric in ("surface_cm2_per_ml", "curvature_cm_per_ml", "euler_per_ml"):
        parts = sum(value(table, r, f"prm_fsad_{metric}") * ml[r] for r in LOBES)
        assert parts == pytest.approx(value(table, "both", f"prm_fsad_{metric}") * sum(ml.values()))
    medians = {r: value(table, r, "perfusion_voronoi_median") for r in ("left", "right", "both")}
    assert medians == {"left": 1.0, "right": 3.0, "both": 2.0}
    # Below 60 % of the mean of all voxels, which is above 2: all of the left lung.
    lows = [value(table, r, "perfusion_voronoi_low_pct") for r in ("left", "right", "both")]
    sizes = [value(table, r, "volume_exp_ml") for r in ("left", "both")]
    assert lows == [100, 0, pytest.approx(100 * sizes[0] / sizes[1], abs=4)]  # on voxels 4 mm apart


def test_a_lung_that_is_not_there_has_no_cells(case):
    lungs, lobes, _ = case
    lungs.array[lungs.array == 1], lobes.array[lobes.array < 3] = 0, 0
    table = count(case)
    assert np.isnan(value(table, "left", "perfusion_voronoi_cv"))
    assert value(table, "both", "perfusion_voronoi_cv") == value(table, "right", "perfusion_voronoi_cv")
    assert np.isnan(value(table, "left", "prm_fsad_euler_per_ml"))


def test_a_ratio_of_exactly_one_half_or_two_is_neither_below_nor_above(case):
    lungs, _, maps = case
    inside = np.flatnonzero(lungs.array)
    third = inside.size // 3
    q = maps["perfusion"].array
    q.ravel()[inside] = 0.5
    q.ravel()[inside[:third]] = 2.0  # a third of the voxels: the mean is 1
    maps["ventilation"].array[lungs.array > 0] = 1.0
    shares = [value(count(case), "both", f"vq_ratio_{name}_pct") for name in ("low", "even", "high")]
    assert shares == [0, 0, 0]
    q.ravel()[inside] = np.where(np.arange(inside.size) < third, 2.2, 0.4)
    shares = [value(count(case), "both", f"vq_ratio_{name}_pct") for name in ("low", "even", "high")]
    assert shares == pytest.approx([100 / 3, 0, 200 / 3])


def test_vq_numbers_are_of_the_map_where_ventilation_and_perfusion_are_of_unlike_scales(case):
    lungs, lobes, maps = case
    rng = np.random.default_rng(5)
    for name in ("ventilation", "perfusion"):
        maps[name].array[lungs.array > 0] = rng.uniform(0.1, 1, np.count_nonzero(lungs.array))
    sigmas = 3.0, 8.0
    both = breath(lungs, lobes, -700)
    v, q = relative_to_mean(*at_one_scale(maps["ventilation"].array, maps["perfusion"].array, lungs, sigmas))
    ratio = (np.maximum(v, 0.05) / np.maximum(q, 0.05))[lungs.array > 0]
    low = 100 * (ratio < 0.5).mean()
    table = quantify("c", both, both, maps, sigmas_mm=sigmas)
    assert value(table, "both", "vq_ratio_low_pct") == pytest.approx(low, abs=1e-3)
    assert abs(value(quantify("c", both, both, maps), "both", "vq_ratio_low_pct") - low) > 3
