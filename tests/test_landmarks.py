"""Landmarks: every format to the same points, errors known beforehand, and mistakes that are told."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from lungvq import io
from lungvq.cli import app
from lungvq.errors import InputError, UsageError
from lungvq.io.dirlab import CASES
from lungvq.io.points import read_points
from lungvq.landmarks import (
    evaluate_landmarks,
    read_field,
    snap_to_voxel,
    summarise,
    target_errors,
    world_points,
)
from lungvq.volume import Grid, Volume, grid_around

SHIFT = np.array([3.0, -2.0, 25.0])  # from expiration to inspiration, mm
MISS = np.array([0, 0.6, 0.8])  # 1 mm


def shifted(field_grid):
    """A field that takes every point by SHIFT."""
    return Volume(np.broadcast_to(SHIFT.astype(np.float32), (*field_grid.shape, 3)).copy(), field_grid.affine)


@pytest.fixture
def fixed():
    """Forty points spread over lungs that lie off the origin."""
    return np.random.default_rng(0).uniform((-110, -70, -240), (120, 60, -20), (40, 3))


@pytest.fixture
def case(tmp_path, fixed):
    """Paths of a field and of points that it misses by MISS."""
    io.write(shifted(grid_around(fixed, 5.0, 20.0)), tmp_path / "displacement.nii.gz")
    write_csv(tmp_path / "fixed.csv", fixed)
    write_csv(tmp_path / "moving.csv", fixed + SHIFT + MISS)
    return tmp_path


def write_csv(path, points, header="x,y,z"):
    np.savetxt(path, points, delimiter=",", header=header, comments="", fmt="%.6f")


def chest(shape=(60, 70, 80), spacing=(4.0, 3.5, 3.0)):
    """Tissue with one block of lung, in an oblique storage order; enough to count as a chest CT."""
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]]
    affine[:3, 3] = (-120, -120, -300)
    hu = np.full(shape, 30, np.int16)
    hu[:4] = hu[:, :4] = hu[:, :, :4] = -1000
    hu[30:55, 12:60, 10:70] = -820  # in the upper half alone
    return Volume(hu, affine)


# ---- formats ----------------------------------------------------------------------------------------------


def test_every_format_in_mm_gives_the_same_points(tmp_path):
    lps = np.array([[1.5, -2.25, 3.0], [-40.0, 50.5, -60.75]])
    ras = lps * (-1, -1, 1)
    text = {
        "a.csv": "id, X; Y".replace(";", ",").replace("id, X, Y", "id,X,Y,Z")
        + "\n"
        + row_lines(lps, ids=True),
        "b.csv": "r,a,s\n" + row_lines(ras),
        "c.csv": "exp_x;exp_y;exp_z;insp_x;insp_y;insp_z\n"
        + "\n".join(";".join(map(str, [*p, 0, 0, 0])) for p in lps),
        "d.txt": "point\n2\n" + "\n".join(" ".join(map(str, p)) for p in lps) + "\n",
        "e.fcsv": "# Markups fiducial file version = 4.11\n# CoordinateSystem = 0\n# columns = id,x,y,z\n"
        + row_lines(ras, ids=True),
        "f.fcsv": "# CoordinateSystem = LPS\n" + row_lines(lps, ids=True),
        "g.mrk.json": slicer(ras, "RAS"),
        "h.mrk.json": slicer(lps, "LPS"),
    }
    for name, content in text.items():
        (tmp_path / name).write_text(content)
        points = read_points(tmp_path / name)
        assert points.first is None, name
        np.testing.assert_allclose(points.xyz, lps, err_msg=name)
    assert not read_points(tmp_path / "c.csv", side="moving").xyz.any()


def row_lines(points, ids=False):
    return "\n".join(",".join(map(str, [n, *p] if ids else p)) for n, p in enumerate(points)) + "\n"


def slicer(points, system):
    controls = [{"label": f"F-{n}", "position": list(p)} for n, p in enumerate(points)]
    return json.dumps(
        {"markups": [{"type": "Fiducial", "coordinateSystem": system, "controlPoints": controls}]}
    )


def test_indices_count_from_one_in_dirlab_and_from_zero_in_elastix(tmp_path):
    scan = chest()
    kji = np.array([[3, 5, 7], [40, 60, 10]])
    truth = scan.grid.world(kji)
    (tmp_path / "elastix.txt").write_text("index\n2\n" + "\n".join(f"{i} {j} {k}" for k, j, i in kji))
    np.testing.assert_allclose(world_points(read_points(tmp_path / "elastix.txt"), scan.grid), truth)
    stored = "\n".join(f"{i + 1}\t{j + 1}\t{k + 1}\t" for k, j, i in kji) + "\n"
    (tmp_path / "stored.txt").write_text(stored)
    points = read_points(tmp_path / "stored.txt")
    np.testing.assert_allclose(world_points(points, scan.grid, axes="stored"), truth)
    # DIR-Lab's first slice is the uppermost; this scan's is the lowest.
    down = "\n".join(f"{i + 1}\t{j + 1}\t{scan.shape[0] - k}" for k, j, i in kji)
    (tmp_path / "down.txt").write_text(down)
    for codes in ("SPL", "IPL", "ARS", "LSP"):
        grid = scan.grid.reorient(codes)
        np.testing.assert_allclose(world_points(read_points(tmp_path / "down.txt"), grid), truth, atol=1e-9)


def test_a_raw_scan_is_read_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(CASES, "copd9", ((60, 70, 80), (4.0, 3.5, 3.0)))
    scan = chest().reorient("IPL")
    stored = scan.array + np.int16(1024)
    stored[:, 0, 0] = -2000
    stored.astype("<i2").tofile(tmp_path / "copd9_eBHCT.img")
    read = io.read(tmp_path / "copd9_eBHCT.img").volume
    assert read.grid.codes == "IPL"
    assert read.spacing == (4.0, 3.5, 3.0)
    np.testing.assert_array_equal(read.array[:, 1:, 1:], scan.array[:, 1:, 1:])
    assert (read.array[:, 0, 0] == -1024).all()
    (tmp_path / "copd9_eBHCT.img").write_bytes(stored.tobytes()[:-2])
    with pytest.raises(InputError, match="expected 672000 bytes"):
        io.read(tmp_path / "copd9_eBHCT.img")
    (stored - 1024).tofile(tmp_path / "copd9_iBHCT.img")
    with pytest.raises(InputError, match="HU \\+ 1024"):
        io.read(tmp_path / "copd9_iBHCT.img")


def test_the_published_table():
    assert len(CASES) == 20
    assert CASES["copd1"] == ((121, 512, 512), (2.5, 0.625, 0.625))
    assert CASES["case5"] == ((106, 256, 256), (2.5, 1.10, 1.10))


# ---- errors -----------------------------------------------------------------------------------------------


def test_error_before_and_after_is_the_one_built_in(case, fixed):
    result = evaluate_landmarks(case / "fixed.csv", case / "moving.csv", case)
    np.testing.assert_allclose(result.after, 1.0, atol=1e-4)
    np.testing.assert_allclose(result.before, np.linalg.norm(SHIFT + MISS), atol=1e-4)
    assert result.snapped is None
    assert not result.findings
    assert result.to_dict()["after"]["mean"] == pytest.approx(1, abs=1e-4)


def test_snapping_forgives_half_a_voxel_and_no_more():
    affine = np.diag([0.6, 1.0, 2.5, 1.0])[:, [2, 1, 0, 3]]
    grid = Grid((50, 60, 70), affine)
    centre = grid.world((20, 30, 40))
    for off, left in (((0.29, 0.49, 1.24), (0, 0, 0)), ((0.31, 0.51, 1.26), (0.6, 1.0, 2.5))):
        mapped = centre + np.array([off])
        error = target_errors(snap_to_voxel(mapped, grid), centre[None])
        np.testing.assert_allclose(error, np.linalg.norm(left), atol=1e-9)


def test_summary_of_known_numbers():
    summary = summarise(np.arange(1.0, 102.0))
    assert (summary.n, summary.mean, summary.median, summary.p95, summary.max) == (101, 51, 51, 96, 101)
    assert summary.sd == pytest.approx(np.sqrt(101 * 102 / 12))
    assert summarise(np.array([2.0])).sd == 0


def test_points_from_indices_with_both_conventions(tmp_path):
    scan = chest()
    index = np.random.default_rng(1).integers((32, 14, 12), (52, 58, 68), (30, 3))
    moved = index + np.array([2, -1, 1])  # whole voxels: snapping must bring the error to nothing
    fixed, moving = scan.grid.world(index), scan.grid.world(moved)
    truth = moving[0] - fixed[0]
    field = grid_around(fixed, 5.0, 20.0)
    off = (0.9, -0.9, 1.1)  # less than half a voxel along each axis
    io.write(
        Volume(np.broadcast_to((truth + off).astype(np.float32), (*field.shape, 3)).copy(), field.affine),
        tmp_path / "displacement.nii.gz",
    )
    io.write(scan, tmp_path / "scan.nii.gz")
    for name, kji in (("fixed", index), ("moving", moved)):
        rows = (f"{i + 1}\t{j + 1}\t{scan.shape[0] - k}" for k, j, i in kji)
        (tmp_path / f"{name}.txt").write_text("\n".join(rows))
    paths = (tmp_path / "fixed.txt", tmp_path / "moving.txt", tmp_path)
    images = {"fixed_image": tmp_path / "scan.nii.gz", "moving_image": tmp_path / "scan.nii.gz"}
    result = evaluate_landmarks(*paths, **images)
    np.testing.assert_allclose(result.after, np.linalg.norm(off), atol=1e-4)
    np.testing.assert_allclose(result.snapped, 0, atol=1e-4)
    assert not result.findings
    write_csv(tmp_path / "between.csv", moving + np.array([1.2, 0, 0]))
    told = evaluate_landmarks(paths[0], tmp_path / "between.csv", tmp_path, **images).findings
    assert [finding.code for finding in told] == ["POINTS_BETWEEN_VOXELS"]
    # Counted from the wrong end they lie below the lung: that is told, with what would help.
    with pytest.raises(InputError, match=r"Only 0 % .* With --index-axes IPL it would be 100 %"):
        evaluate_landmarks(*paths, **images, index_axes="stored")
    io.write(
        shifted(grid_around(scan.grid.world([(0, 0, 0), scan.shape]), 10.0)), tmp_path / "displacement.nii.gz"
    )
    told = {f.code: f for f in evaluate_landmarks(*paths, **images, index_axes="stored").findings}
    assert "IPL" in told["POINTS_NOT_IN_LUNG"].advice
    with pytest.raises(UsageError, match="voxel indices"):
        evaluate_landmarks(*paths)
    with pytest.raises(UsageError, match="index axes"):
        evaluate_landmarks(*paths, **images, index_axes="XYZ")


# ---- mistakes ---------------------------------------------------------------------------------------------


def test_points_that_are_ras_or_of_another_pair_are_refused(case, fixed):
    left = fixed[fixed[:, 0] > 20]
    grid = grid_around(left, 5.0, 5.0)
    io.write(shifted(grid), case / "left.nii.gz")
    write_csv(case / "ras.csv", left * (-1, -1, 1))
    write_csv(case / "far.csv", fixed + 1000)
    write_csv(case / "short.csv", fixed[:-1])
    (case / "empty").mkdir()
    with pytest.raises(InputError, match="look like RAS"):
        evaluate_landmarks(case / "ras.csv", case / "ras.csv", case / "left.nii.gz")
    with pytest.raises(InputError, match="40 of 40 points lie outside the displacement field"):
        evaluate_landmarks(case / "far.csv", case / "moving.csv", case)
    with pytest.raises(InputError, match="not pairs: 39 in"):
        evaluate_landmarks(case / "short.csv", case / "moving.csv", case)
    with pytest.raises(InputError, match="no displacement"):
        read_field(case / "empty")


def test_mm_given_as_indices_and_another_scan(tmp_path):
    (tmp_path / "p.txt").write_text("12.5\t3.25\t7\n")
    with pytest.raises(InputError, match="for mm add a first line"):
        read_points(tmp_path / "p.txt")
    (tmp_path / "p.txt").write_text("-12\t30\t7\n300\t20\t1\n")
    with pytest.raises(InputError, match="2 of 2 points are no voxels of the scan \\(80 x 70 x 60"):
        world_points(read_points(tmp_path / "p.txt"), chest().grid)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "empty"),
        ("a.txt", "1 2\n", "three numbers a line, got '1 2'"),
        ("a.txt", "1 2 3\n4 five 6\n", "could not convert"),
        ("a.txt", "point\n3\n1 2 3\n", "expected 3 points"),
        ("a.txt", "index\n1 2 3\n", "the number of points"),
        ("a.csv", "a,b,c\n1,2,3\n", "expected columns x, y, z"),
        ("a.csv", "x,y,z\n1,2,\n", "no number under"),
        ("a.csv", "x,y,z\n", "no points"),
        ("a.csv", "x,y,z\n1,2,nan\n", "NaN"),
        ("a.fcsv", "0,1,2,3\n", "LPS or RAS"),
        ("a.json", "{}", "3D Slicer"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_reason(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_points(tmp_path / name)


def test_a_few_points_beyond_the_field_are_left_out_and_told(case, fixed):
    far = fixed.copy()
    far[3, 2] += 500
    write_csv(case / "some.csv", far)
    result = evaluate_landmarks(case / "some.csv", case / "moving.csv", case)
    assert result.summaries()["after"].n == result.summaries()["before"].n == len(fixed) - 1
    assert [f.code for f in result.findings] == ["POINTS_BEYOND_FIELD"]
    assert result.to_dict()["points_beyond_field"] == 1


def test_exchanged_scans_and_shuffled_rows_are_told(case, fixed):
    result = evaluate_landmarks(case / "moving.csv", case / "fixed.csv", case)
    assert [f.code for f in result.findings if f.code != "POINTS_BEYOND_FIELD"] == ["POINTS_EXCHANGED"]
    write_csv(case / "shuffled.csv", np.roll(fixed + SHIFT, 7, axis=0))
    result = evaluate_landmarks(case / "fixed.csv", case / "shuffled.csv", case)
    assert [f.code for f in result.findings] == ["ROWS_NOT_PAIRS"]


@pytest.mark.parametrize(("signs", "axes"), [((-1, -1, 1), "x and y"), ((1, -1, 1), "y")])
def test_axes_that_point_the_other_way_are_told(tmp_path, fixed, signs, axes):
    around = grid_around(np.concatenate([fixed, fixed * signs]), 5.0, 20.0)
    io.write(shifted(around), tmp_path / "displacement.nii.gz")
    write_csv(tmp_path / "fixed.csv", fixed * signs)
    write_csv(tmp_path / "moving.csv", (fixed + SHIFT + MISS) * signs)
    (finding,) = evaluate_landmarks(tmp_path / "fixed.csv", tmp_path / "moving.csv", tmp_path).findings
    assert finding.code == "POINTS_MIRRORED"
    assert f"signs of {axes} turned" in finding.message


def test_points_that_slicer_lists_without_a_place_are_left_out_and_told(case, fixed):
    def written(name, points, unplaced):
        content = json.loads(slicer(points, "LPS"))
        for n, control in enumerate(content["markups"][0]["controlPoints"]):
            control["positionStatus"] = "undefined" if n in unplaced else "defined"
            if n in unplaced:
                control["position"] = [0.0, 0.0, 0.0]
        (case / name).write_text(json.dumps(content))
        return case / name

    one = written("f.mrk.json", fixed, {3})
    other = written("m.mrk.json", fixed + SHIFT + MISS, {3, 7})
    result = evaluate_landmarks(one, other, case)
    (finding,) = result.findings
    assert (finding.code, finding.value) == ("POINTS_WITHOUT_PLACE", 2)
    np.testing.assert_allclose(result.after, np.ones(38), atol=1e-3)
    nowhere = written("n.mrk.json", fixed, set(range(40)))
    with pytest.raises(InputError, match="no points in it"):
        evaluate_landmarks(nowhere, other, case)
    half = written("a.mrk.json", fixed, set(range(20))), written("b.mrk.json", fixed, set(range(20, 40)))
    with pytest.raises(InputError, match="no pair of points has a place in both"):
        evaluate_landmarks(*half, case)


def test_the_same_points_twice_and_pairs_too_far_apart_are_told(case, fixed):
    (finding,) = evaluate_landmarks(case / "fixed.csv", case / "fixed.csv", case).findings
    assert finding.code == "POINTS_THE_SAME"
    moving = fixed + SHIFT + MISS
    moving[[4, 9]] = 9999
    write_csv(case / "moving.csv", moving)
    (finding,) = evaluate_landmarks(case / "fixed.csv", case / "moving.csv", case).findings
    assert finding.code == "POINTS_FAR_APART"
    assert "2 of 40 pairs" in finding.message
    assert "rows 5, 10" in finding.message


def test_points_of_another_frame_are_told_by_how_far_they_are_missed(case, fixed):
    write_csv(case / "moving.csv", fixed + SHIFT + (0, 0, 6))
    (finding,) = evaluate_landmarks(case / "fixed.csv", case / "moving.csv", case).findings
    assert (finding.code, finding.value) == ("POINTS_MISSED", 6)


def test_indices_counted_along_other_axes_are_told_by_how_far_they_are_missed(tmp_path):
    scan = chest()
    io.write(scan, tmp_path / "scan.nii.gz")
    kji = np.random.default_rng(1).integers((33, 15, 13), (52, 57, 60), (40, 3))
    for name, moved in (("fixed", 0), ("moving", 3)):  # slices upwards
        lines = "\n".join(f"{i + moved + 1} {j + 1} {k + moved + 1}" for k, j, i in kji)
        (tmp_path / f"{name}.txt").write_text(lines)
    field = Volume(np.zeros((*scan.shape, 3), np.float32) + np.float32([9, 0, 12]), scan.affine)
    io.write(field, tmp_path / "displacement.nii.gz")
    files = {"fixed_image": tmp_path / "scan.nii.gz", "moving_image": tmp_path / "scan.nii.gz"}
    found = evaluate_landmarks(tmp_path / "fixed.txt", tmp_path / "moving.txt", tmp_path, **files).findings
    (finding,) = [f for f in found if f.code == "POINTS_MISSED"]
    assert finding.value == 24
    assert finding.advice == "With --index-axes stored it would be 0.0 mm."


def test_the_command_prints_a_table_or_data_and_writes_each_point(case, fixed):
    options = ["--field", case, "--fixed-points", case / "fixed.csv", "--moving-points", case / "moving.csv"]
    command = ["evaluate-landmarks", *map(str, options)]
    done = CliRunner().invoke(app, [*command, "-o", str(case / "errors.csv")])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[2].split() == ["after", "40", "1.00", "0.00", "1.00", "1.00", "1.00"]
    rows = np.genfromtxt(case / "errors.csv", delimiter=",", names=True)
    np.testing.assert_allclose(rows["mapped_z"], fixed[:, 2] + SHIFT[2], atol=1e-3)
    np.testing.assert_allclose(rows["after_mm"], 1, atol=1e-3)
    assert CliRunner().invoke(app, [*command, "-o", str(case / "errors.csv")]).exit_code == 2
    assert json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["after"]["n"] == 40
    assert CliRunner().invoke(app, [*command[:-1], str(case / "none.csv")]).exit_code == 3
