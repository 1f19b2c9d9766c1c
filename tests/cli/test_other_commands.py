"""The smaller commands: what they leave, say and return."""

import json

import numpy as np
import pytest

from lungvq import io


def test_help_and_version_answer(lungvq):
    assert "Research use only" in lungvq("--help").stdout
    assert lungvq("--version").stdout.startswith("lungvq ")
    assert lungvq("no-such-command").returncode == 2


def test_segment_leaves_labels_on_the_scans_grid(lungvq, pair, phantom, tmp_path):
    done = lungvq("segment", pair[0], "-o", tmp_path / "out", "-q")
    assert done.returncode == 0, done.stderr
    grid = io.read_volume(pair[0]).grid
    for name in ("lungs", "lobes", "airways", "vessels"):
        assert io.read_labels(tmp_path / "out" / "labels" / f"{name}.nii.gz").grid.same_as(grid)
    lungs = io.read_labels(tmp_path / "out" / "labels" / "lungs.nii.gz").reorient("SPL")
    true = phantom.truth.lobes_insp.array
    assert 2 * ((lungs.array > 0) & (true > 0)).sum() / ((lungs.array > 0).sum() + (true > 0).sum()) > 0.97
    again = lungvq("segment", pair[0], "-o", tmp_path / "out", "-q")
    assert again.returncode == 2
    assert "--force" in again.stderr


def test_register_takes_any_mask_and_leaves_a_field(lungvq, pair, phantom, tmp_path):
    masks = {}
    for name, lobes, codes in (
        ("exp", phantom.truth.lobes_exp, "SAR"),
        ("insp", phantom.truth.lobes_insp, "ARS"),
    ):
        masks[name] = tmp_path / f"{name}.nrrd"
        io.write(lobes.like((lobes.array > 0).astype(np.uint8)).reorient(codes), masks[name])
    options = [
        "--fixed",
        pair[1],
        "--moving",
        pair[0],
        "--fixed-mask",
        masks["exp"],
        "--moving-mask",
        masks["insp"],
        "--lobes-apart",
    ]
    done = lungvq("register", *options, "-o", tmp_path / "out", "-q")
    assert done.returncode == 0, done.stderr
    quality = json.loads((tmp_path / "out" / "registration.json").read_text())["quality"]
    assert quality["both"]["folded_percent"] == 0
    assert quality["both"]["dice"] > 0.95
    assert quality["both"]["parts"] == 2  # nothing slides here: each lung is one
    jacobian = io.read_volume(tmp_path / "out" / "jacobian.nii.gz")
    assert jacobian.grid.same_as(io.read_volume(pair[1]).grid)
    insp_ml = (phantom.truth.lobes_insp.array > 0).sum() * phantom.truth.lobes_insp.voxel_ml
    assert np.nansum(jacobian.array, dtype=float) * jacobian.voxel_ml == pytest.approx(insp_ml, rel=1e-3)
    field = io.read_volume(tmp_path / "out" / "displacement.nii.gz")
    points = phantom.exp.grid.world(np.argwhere(phantom.truth.lobes_exp.array > 0)[::500])
    error = np.linalg.norm(field.sample(points) - (phantom.phi(points) - points), axis=1)
    assert np.median(error) < 2.0


def test_segment_takes_lobes_of_ones_own(lungvq, pair, phantom, tmp_path):
    truth = phantom.truth.lobes_insp
    table = np.array([0, 10, 20, 30, 40, 50], np.uint8)
    io.write(truth.like(table[truth.array]), tmp_path / "mine.nrrd")
    options = ["--lobes", tmp_path / "mine.nrrd", "--lobe-labels", "LUL=10,LLL=20,RUL=30,RML=40,RLL=50"]
    done = lungvq("segment", pair[0], *options, "-o", tmp_path / "out", "-q")
    assert done.returncode == 0, done.stderr
    lobes = io.read_labels(tmp_path / "out" / "labels" / "lobes.nii.gz").reorient("SPL")
    true = truth.reorient("SPL").array
    for label in range(1, 6):
        a, b = lobes.array == label, true == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.98
    record = json.loads((tmp_path / "out" / "segment.json").read_text())
    assert record["found_by"] == {"lungs": "lungvq", "lobes": "the file mine.nrrd"}
    assert record["volumes_ml"]["RML"] == pytest.approx((lobes.array == 4).sum() * lobes.voxel_ml)
    assert "LOBES_GIVEN" in {f["code"] for f in record["findings"]}
    assert all(0 < record["small_vessel_density"][name] < 0.05 for name in ("left", "right", "RML"))
    airways = (tmp_path / "out" / "airways.csv").read_text().splitlines()
    names = {line.split(",")[airways[0].split(",").index("name")] for line in airways[1:]}
    assert {"trachea", "LMB", "RMB"} <= names


def test_a_mask_of_another_grid_is_refused(lungvq, pair, phantom, tmp_path):
    wrong = phantom.truth.lobes_exp.resample_labels(phantom.truth.lobes_exp.grid.with_spacing((5, 5, 5)))
    io.write(wrong, tmp_path / "wrong.nii.gz")
    options = ["--fixed", pair[1], "--moving", pair[0], "--fixed-mask", tmp_path / "wrong.nii.gz"]
    done = lungvq("register", *options, "-o", tmp_path / "out", "-q")
    assert done.returncode == 3
    assert (
        "the lung mask given for the fixed scan (the file wrong.nii.gz) does not lie on the grid"
        in done.stderr
    )
    assert not (tmp_path / "out").exists()


def test_lobes_apart_are_not_for_other_programs(lungvq, pair, tmp_path):
    options = ["--fixed", pair[1], "--moving", pair[0], "--lobes-apart", "--backend", "greedy"]
    done = lungvq("register", *options, "-o", tmp_path / "out", "-q")
    assert done.returncode == 2
    assert "leave out one of both" in done.stderr


def test_inspect_finds_the_pair_and_abstains_on_a_lone_series(lungvq, pair, tmp_path):
    found = lungvq("inspect", pair[0].parent, "--json")
    assert found.returncode == 0, found.stderr
    roles = {entry["role"]: entry for entry in json.loads(found.stdout)}
    assert roles["inspiration"]["path"].endswith("insp.mha")
    assert roles["expiration"]["path"].endswith("exp.nii.gz")
    assert all(entry["slices"] > 50 and entry["reasons"] for entry in roles.values())
    lone = lungvq("inspect", pair[0])
    assert lone.returncode == 3
    assert "a pair needs exactly two" in lone.stderr


def test_phantom_leaves_its_truth_and_never_overwrites(lungvq, tmp_path):
    done = lungvq("phantom", "-o", tmp_path / "p", "--case", "pe", "--seed", "2", "--spacing", "4", "-q")
    assert done.returncode == 0, done.stderr
    truth = {p.name for p in (tmp_path / "p" / "truth").iterdir()}
    names = "displacement jacobian lobes_exp lobes_insp ventilation perfusion mass_change vq_class".split()  # noqa: SIM905
    assert truth >= {f"{name}.nii.gz" for name in names} | {"landmarks.csv", "truth.json"}
    assert lungvq("phantom", "-o", tmp_path / "p", "-q").returncode == 2
    unknown = lungvq("phantom", "-o", tmp_path / "q", "--case", "nobody", "-q")
    assert unknown.returncode == 2
    assert "healthy" in unknown.stderr
    listed = lungvq("phantom", "--case", "list", "-q")
    assert listed.returncode == 0
    assert "\npe: " in listed.stdout
    assert "-o" in lungvq("phantom", "-q").stderr
    assert not (tmp_path / "p" / ".lungvq-partial").exists()


@pytest.mark.parametrize("empty", [("--insp", ""), ("--insp=",), ("",)])
def test_an_empty_argument_is_not_the_current_folder(lungvq, pair, tmp_path, empty):
    done = lungvq("run", *empty, "--exp", pair[1], "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "an argument is empty" in done.stderr
    assert not (tmp_path / "out").exists()
