"""``lungvq run`` from files to folder: the output contract, recomputed from what it wrote."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from lungvq import io
from lungvq.anatomy import LOBES
from lungvq.result import MAPS

LABELS = ("lungs_exp", "lungs_insp", "lobes_exp", "lobes_insp", "airways_insp", "vessels_insp")


def value(table, region, metric):
    row = table[(table.region == region) & (table.metric == metric) & (table.is_default == 1)]
    assert len(row) == 1
    return row.value.iloc[0]


def test_every_promised_file_is_there_and_on_its_own_grid(finished, pair):
    insp, exp = (io.read_volume(path).grid for path in pair)
    for name in MAPS:
        volume = io.read_volume(finished / "maps" / f"{name}.nii.gz")
        assert volume.grid.same_as(exp), name
        assert volume.array.dtype == (np.uint8 if MAPS[name].scale == "classes" else np.float32), name
    for name in LABELS:
        grid = io.read_labels(finished / "labels" / f"{name}.nii.gz").grid
        assert grid.same_as(insp if name.endswith("insp") else exp), name
    assert io.read_volume(finished / "registration" / "insp_on_exp.nii.gz").grid.same_as(exp)
    assert (finished / "report.html").stat().st_size > 100_000
    assert any((finished / "figures").iterdir())


def test_the_manifest_is_true(lungvq, finished):
    record = json.loads((finished / "run.json").read_text())
    assert record["status"] == "done"
    assert record["case"] == "case-7"
    assert record["qc"] in ("PASS", "WARN", "FAIL")
    assert {f["severity"] for f in record["findings"]} >= {record["qc"]}
    assert len(record["inputs"]["insp"]["sha256"]) == 64
    written = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()} - {"run.json"}
    assert set(record["files"]) == written
    verified = lungvq("verify", finished)
    assert verified.returncode == 0, verified.stderr


def test_the_table_follows_from_the_maps(finished):
    table = pd.read_csv(finished / "metrics.csv", keep_default_na=False, na_values=[""])
    lobes = io.read_labels(finished / "labels" / "lobes_exp.nii.gz")
    lungs = io.read_labels(finished / "labels" / "lungs_exp.nii.gz").array
    assert ((lobes.array > 0) == (lungs > 0)).all()
    for name, metric in (
        ("ventilation", "ventilation_fraction_pct"),
        ("perfusion", "perfusion_fraction_pct"),
    ):
        array = io.read_volume(finished / "maps" / f"{name}.nii.gz").array
        assert np.isnan(array[lungs == 0]).all()
        total = np.nansum(array[lungs > 0], dtype=float)
        shares = {
            lobe: 100 * np.nansum(array[lobes.array == n], dtype=float) / total for lobe, n in LOBES.items()
        }
        assert sum(value(table, lobe, metric) for lobe in LOBES) == pytest.approx(100, abs=1e-3)
        for lobe, share in shares.items():
            assert value(table, lobe, metric) == pytest.approx(share, abs=1e-3)
    for lobe, n in LOBES.items():
        assert value(table, lobe, "volume_exp_ml") == pytest.approx(
            (lobes.array == n).sum() * lobes.voxel_ml, rel=1e-5
        )


def test_ventilation_sums_to_the_air_that_came_in(finished, phantom):
    table = pd.read_csv(finished / "metrics.csv")
    gained = (value(table, "both", "volume_insp_ml") - value(table, "both", "volume_exp_ml")) - (
        value(table, "both", "mass_insp_g") - value(table, "both", "mass_exp_g")
    )
    assert value(table, "both", "ventilation_ml") == pytest.approx(gained, rel=1e-4)
    truth = phantom.truth.ventilation
    assert value(table, "both", "ventilation_ml") == pytest.approx(
        np.nansum(truth.array) * truth.voxel_ml, rel=0.05
    )


def test_sides_are_the_patients(finished, phantom):
    truth = phantom.truth.lobes_exp
    table = pd.read_csv(finished / "metrics.csv")
    for side, labels in (("left", (1, 2)), ("right", (3, 4, 5))):
        ml = np.isin(truth.array, labels).sum() * truth.voxel_ml
        assert value(table, side, "volume_exp_ml") == pytest.approx(ml, rel=0.05)
    lungs = io.read_labels(finished / "labels" / "lungs_exp.nii.gz")
    x = {n: lungs.grid.world(np.argwhere(lungs.array == n))[:, 0].mean() for n in (1, 2)}
    assert x[1] > x[2]  # LPS: the patient's left is +x


def test_simpleitk_reads_the_field_as_it_is(finished, phantom):
    field = sitk.Cast(
        sitk.ReadImage(str(finished / "registration" / "displacement.nii.gz")), sitk.sitkVectorFloat64
    )
    assert max(field.GetSpacing()) <= 2.5
    assert np.isfinite(sitk.GetArrayViewFromImage(field)).all()
    transform = sitk.DisplacementFieldTransform(field)
    lungs = phantom.truth.lobes_exp
    points = lungs.grid.world(np.argwhere(lungs.array > 0)[::500])
    found = np.array([transform.TransformPoint(p.tolist()) for p in points])
    error = np.linalg.norm(found - phantom.phi(points), axis=1)
    still = np.linalg.norm(points - phantom.phi(points), axis=1)
    assert np.median(error) < 2.0
    assert error.mean() < 0.15 * still.mean()


def test_running_again_does_nothing_and_says_so(lungvq, finished, pair):
    before = (finished / "run.json").stat().st_mtime_ns
    again = lungvq("run", "-q", "--insp", pair[0], "--exp", pair[1], "-o", finished)
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    assert (finished / "run.json").stat().st_mtime_ns == before


def test_strict_agrees_with_the_record(lungvq, finished, pair):
    qc = json.loads((finished / "run.json").read_text())["qc"]
    again = lungvq("run", "-q", "--strict", "--insp", pair[0], "--exp", pair[1], "-o", finished)
    assert again.returncode == (5 if qc == "FAIL" else 0)


def test_another_result_is_not_overwritten(lungvq, finished, pair):
    other = lungvq("run", "-q", "--insp", pair[0], "--exp", pair[1], "-o", finished, "--case", "someone-else")
    assert other.returncode == 2
    assert "--force" in other.stderr
    assert lungvq("verify", finished).returncode == 0


def test_swapped_scans_are_refused_with_the_way_out(lungvq, pair, tmp_path):
    swapped = lungvq("run", "-q", "--insp", pair[1], "--exp", pair[0], "-o", tmp_path / "out")
    assert swapped.returncode == 3
    assert "exchange --insp and --exp" in swapped.stderr
    assert not (tmp_path / "out").exists()


def test_a_healthy_phantom_raises_nothing_but_the_size_of_its_voxels(finished):
    findings = json.loads((finished / "run.json").read_text())["findings"]
    assert {f["code"] for f in findings if f["severity"] != "PASS"} == {"SPACING_INSP", "SPACING_EXP"}  # 4 mm


def test_no_breathing_is_refused_unless_allowed_and_then_nothing_moves(lungvq, pair, tmp_path):
    twice = ("run", "-q", "--insp", pair[1], "--exp", pair[1], "-o", tmp_path / "out")
    refused = lungvq(*twice)
    assert refused.returncode == 3
    assert "no breathing" in refused.stderr
    assert not (tmp_path / "out").exists()
    allowed = lungvq(*twice, "--allow-no-breathing", "--relative", "--ctp-radius", 15)
    assert allowed.returncode == 0, allowed.stderr
    v = io.read_volume(tmp_path / "out" / "maps" / "ventilation.nii.gz").array
    assert np.nanmax(np.abs(v)) < 0.01
    assert "No breathing between the scans" in (tmp_path / "out" / "report.html").read_text()
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["banner"]
    warned = next(f for f in record["findings"] if f["code"] == "NO_BREATHING_ALLOWED")
    assert warned["severity"] == "WARN"
    table = pd.read_csv(tmp_path / "out" / "metrics.csv").query("is_default == 1").set_index("metric")
    assert (table.loc["ventilation_ml", "ci_low"] < 0).all()
    assert (table.loc["ventilation_ml", "ci_high"] > 0).all()
    # Without an expiration nothing tells trapped air from inspired lung, and nothing is low beside no ventilation.
    assert table.loc[["prm_fsad_pct", "vq_shunt_pct", "ventilation_defect_pct"], "value"].isna().all()
    assert (table.loc["prm_emphysema_pct", "value"] < 1).all()
    assert 2 not in np.unique(io.read_volume(tmp_path / "out" / "maps" / "prm.nii.gz").array)
    assert np.isnan(io.read_volume(tmp_path / "out" / "maps" / "ventilation_relative.nii.gz").array).all()
    assert record["parameters"]["perfusion"]["ctp_radius_mm"] == 15


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--insp", "missing.nii.gz", "--exp", "{exp}"), 3, "no such file"),
        (("--insp", "{insp}"), 2, "both --insp and --exp"),
        (("--insp", "{cut}", "--exp", "{exp}"), 3, "damaged"),
        (("--insp", "{insp}", "--exp", "{exp}", "--max-memory", "0.1"), 6, "--max-memory"),
        (("--insp", "{insp}", "--exp", "{exp}", "--threads", "0"), 2, "threads"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(lungvq, pair, tmp_path, arguments, code, words):
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(pair[1].read_bytes()[:50_000])
    names = {"insp": pair[0], "exp": pair[1], "cut": cut}
    done = lungvq("run", "-q", *(a.format(**names) for a in arguments), "-o", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_changed_file_is_found(lungvq, finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    with (copy / "metrics.csv").open("a") as stream:
        stream.write("edited\n")
    changed = lungvq("verify", copy)
    assert changed.returncode == 3
    assert "metrics.csv" in changed.stderr
