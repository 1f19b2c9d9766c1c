"""The output folder: whole or no result, and nothing of the user's is ever lost."""

import json
from pathlib import Path

import pytest

from lungvq.errors import InputError, OutputError, UsageError
from lungvq.export.folder import MANIFEST, open_run, staged, verify


def fill(folder, text="a"):
    (folder.stage / "maps").mkdir()
    (folder.stage / "maps" / "ventilation.nii.gz").write_text(text)
    (folder.stage / "report.html").write_text(text)


def finished(path, key="k", text="a"):
    folder = open_run(path, key)
    fill(folder, text)
    folder.finish({"key": key, "qc": "PASS"})
    return path


def test_a_finished_folder_verifies_and_running_again_does_nothing(tmp_path):
    out = finished(tmp_path / "new" / "out")
    assert verify(out) == []
    assert sorted(p.name for p in out.iterdir()) == ["maps", "report.html", MANIFEST]
    assert set(json.loads((out / MANIFEST).read_text())["files"]) == {
        "maps/ventilation.nii.gz",
        "report.html",
    }
    assert open_run(out, "k") is None


def test_another_result_is_replaced_only_when_forced(tmp_path):
    out = finished(tmp_path / "out")
    with pytest.raises(UsageError, match="--force"):
        open_run(out, "other")
    folder = open_run(out, "other", force=True)
    assert verify(out) == []  # still there while the new one is made
    fill(folder, "b")
    folder.finish({"key": "other", "qc": "PASS"})
    assert (out / "report.html").read_text() == "b"
    assert verify(out) == []


def test_a_failed_run_leaves_nothing_and_what_was_there(tmp_path):
    folder = open_run(tmp_path / "out", "k")
    fill(folder)
    folder.discard()
    assert not (tmp_path / "out").exists()
    out = finished(tmp_path / "old")
    folder = open_run(out, "other", force=True)
    fill(folder, "b")
    folder.discard()
    assert verify(out) == []
    assert (out / "report.html").read_text() == "a"


def test_an_interruption_while_moving_leaves_no_half_result(tmp_path, monkeypatch):
    folder = open_run(tmp_path / "out", "k")
    fill(folder)
    move = Path.replace

    def interrupted(self, target):
        if self.name == "report.html":
            raise KeyboardInterrupt
        return move(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.finish({"key": "k", "qc": "PASS"})
    folder.discard()
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_ours_are_never_touched(tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(UsageError, match="not empty"):
            open_run(tmp_path, "k", force=force)
    assert (tmp_path / "maps" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_run_killed_while_moving_files_is_recovered(tmp_path, moved):
    out = tmp_path / "out"
    folder = open_run(out, "k")
    fill(folder)
    for name in ("maps", "report.html")[:moved]:  # as finish() does, up to the moment of the kill
        (folder.stage / name).replace(out / name)
    folder.leave()  # as the system does for it
    with pytest.raises(InputError, match="not a finished result"):
        verify(out)
    again = open_run(out, "k")
    assert again is not None
    assert [p.name for p in out.iterdir()] == [".lungvq-partial"]
    fill(again)
    again.finish({"key": "k", "qc": "PASS"})
    assert verify(out) == []


def test_a_kill_after_the_manifest_loses_nothing(tmp_path):
    out = finished(tmp_path / "out")
    (out / ".lungvq-partial").mkdir()
    assert open_run(out, "k") is None
    assert not (out / ".lungvq-partial").exists()


@pytest.mark.parametrize("change", ["edit", "remove", "add", "say"])
def test_a_changed_result_is_told_and_made_again_only_when_forced(tmp_path, change):
    out = finished(tmp_path / "out")
    if change == "edit":
        (out / "report.html").write_text("b")
    elif change == "remove":
        (out / "report.html").unlink()
    elif change == "say":
        told = (out / "run.json").read_text()
        assert '"qc": "PASS"' in told
        (out / "run.json").write_text(told.replace('"qc": "PASS"', '"qc": "WARN"'))
    else:
        (out / "maps" / "stale.nii.gz").write_text("old")
    assert len(verify(out)) == 1
    with pytest.raises(UsageError, match="--force"):
        open_run(out, "k")


def test_a_file_in_the_way_is_a_mistake_of_usage(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        open_run(tmp_path / "out", "k")


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        open_run(tmp_path / "file" / "out", "k")


def test_staged_files_arrive_together_or_not_at_all(tmp_path):
    def write(fail):
        with staged(tmp_path, ("a", "b")) as folder:
            (folder / "a").write_text("1")
            if fail:
                raise RuntimeError
            (folder / "b").write_text("2")

    with pytest.raises(RuntimeError):
        write(fail=True)
    assert list(tmp_path.iterdir()) == []
    write(fail=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    with pytest.raises(UsageError, match="already holds a, b"):
        write(fail=False)


def test_two_runs_do_not_write_to_one_folder_at_once(tmp_path):
    first = open_run(tmp_path / "out", "a")
    for begin in (
        lambda: open_run(tmp_path / "out", "b", force=True),
        staged(tmp_path / "out", ("x",)).__enter__,
    ):
        with pytest.raises(UsageError, match="another run is writing to"):
            begin()
    (first.stage / "metrics.csv").write_text("a")
    first.finish({"key": "a"})
    assert verify(tmp_path / "out") == []
    again = open_run(tmp_path / "out", "b", force=True)
    again.discard()
    assert (tmp_path / "out" / "metrics.csv").read_text() == "a"
    assert open_run(tmp_path / "out", "a") is None
    assert open_run(tmp_path / "out", "b", force=True) is not None
