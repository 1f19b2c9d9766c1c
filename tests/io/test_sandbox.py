"""Untrusted files are taken apart in processes with limits, whatever becomes of those."""

import os
import subprocess
import sys
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from lungvq import io
from lungvq.errors import InputError, ResourceError
from lungvq.io import sandbox

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time are kept on Linux")


@pytest.fixture(autouse=True)
def own_processes():
    sandbox._idle.close()
    yield
    sandbox._idle.close()


def chest(shape=(12, 40, 33)):
    rng = np.random.default_rng(0)
    return np.where(rng.random(shape) < 0.4, -800, 40).astype(np.int16)


def series(folder, syntax=ExplicitVRLittleEndian, hu=None):
    """An ordinary series, its files in slice order."""
    files = []
    for k, plane in enumerate(chest() if hu is None else hu):
        d = Dataset()
        d.SOPClassUID, d.SOPInstanceUID, d.Modality = CTImageStorage, f"1.2.3.{k + 1}", "CT"
        d.StudyInstanceUID, d.SeriesInstanceUID, d.PatientID = "1.2.3", "1.2.4", "x"
        d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, 2 * k], [1, 0, 0, 0, 1, 0]
        d.PixelSpacing, (d.Rows, d.Columns) = [1, 1], plane.shape
        d.SamplesPerPixel, d.PhotometricInterpretation, d.PixelRepresentation = 1, "MONOCHROME2", 1
        d.BitsAllocated, d.BitsStored, d.HighBit = 16, 16, 15
        d.RescaleSlope, d.RescaleIntercept, d.PixelData = "1", "0", plane.tobytes()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
        if syntax.is_encapsulated:
            d.compress(syntax, generate_instance_uid=False)
        files.append(folder / f"{k:03d}.dcm")
        d.save_as(files[-1], enforce_file_format=True)
    return files


def swollen(file, size):
    """A packed file whose first fragment goes on for many bytes, of which the disk has none."""
    content = file.read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OB") + 12
    offsets = int.from_bytes(content[at + 4 : at + 8], "little")
    start = at + 8 + offsets
    with file.open("wb") as stream:
        stream.write(content[: start + 4] + size.to_bytes(4, "little") + content[start + 8 : -8])
        stream.seek(start + 8 + size)
        stream.write(b"\xfe\xff\xdd\xe0" + bytes(4))


@linux
def test_a_picture_that_takes_too_much_memory(tmp_path, monkeypatch):
    files = series(tmp_path, RLELossless)
    swollen(files[5], 1 << 30)
    monkeypatch.setattr(sandbox.LIMITS, "memory", 800 << 20)
    with pytest.raises(ResourceError, match=r"005\.dcm cannot be decoded within the memory") as caught:
        io.read(tmp_path)
    assert caught.value.exit_code == 6


@linux
def test_a_header_that_takes_too_much_memory(tmp_path, monkeypatch):
    files = series(tmp_path, DeflatedExplicitVRLittleEndian)
    head = files[5].read_bytes()
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = head.index(b"1.2.840.10008.1.2.1.99")
    files[5].write_bytes(
        head[:start] + head[start : start + 100] + packer.compress(bytes(200 << 20)) + packer.flush()
    )
    monkeypatch.setattr(sandbox.LIMITS, "memory", 500 << 20)
    with pytest.raises(InputError, match=r"005\.dcm (cannot|needs)"):
        io.read(tmp_path)


@linux
def test_a_header_that_takes_too_long(tmp_path, monkeypatch):
    files = series(tmp_path)
    content = files[5].read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OW")
    element = b"\x41\x00\x01\x00UN\0\0\0\0\0\0"
    files[5].write_bytes(content[:at] + element * 1_500_000 + content[at:])
    monkeypatch.setattr(sandbox.LIMITS, "seconds", 1)
    with pytest.raises(InputError, match=r"005\.dcm takes longer than a file may take"):
        io.read(tmp_path)


@linux
def test_a_file_that_never_answers(tmp_path, monkeypatch):
    files = series(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(sandbox.LIMITS, "silent_seconds", 1.0)
    replies = sandbox.each("headers", [*map(str, files), str(tmp_path / "pipe")])
    assert [r.get("kind") for r in replies[:-1]] == ["image"] * 12
    assert replies[-1] == {"refused": "takes longer than a file may take", "limit": True}


def test_a_decoder_that_crashes_costs_one_file(tmp_path, monkeypatch):
    files = series(tmp_path)
    crash = """
import os
from lungvq.io import child
describe = child.describe
child.describe = lambda path: os.abort() if path.endswith("005.dcm") else describe(path)
main(json.loads"""
    monkeypatch.setattr(sandbox, "_START", sandbox._START.replace("\nmain(json.loads", crash))
    replies = sandbox.each("headers", list(map(str, files)))
    assert replies[5] == {"refused": "crashes its decoder", "limit": False}
    assert all(reply["kind"] == "image" for n, reply in enumerate(replies) if n != 5)


def test_a_process_that_does_not_start_is_told(tmp_path, monkeypatch):
    series(tmp_path)
    monkeypatch.setattr(sandbox, "_START", "raise SystemExit(3)")
    with pytest.raises(ResourceError, match=r"does not start \(exit code 3\)"):
        io.read(tmp_path)


def test_a_parent_with_threads(tmp_path):
    series(tmp_path)
    scans = []
    threads = [threading.Thread(target=lambda: scans.append(io.read(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(scans) == 4
    for scan in scans:
        np.testing.assert_array_equal(scan.volume.array, chest())


def run(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_parent_that_forks_and_one_without_a_guard(tmp_path):
    """Workers forked from a process that has read before, from a script without ``if __name__``."""
    series(tmp_path)
    code = """
import multiprocessing, sys
from lungvq import io
def read(n):
    return int(io.read(sys.argv[1]).volume.array.astype(int).sum())
first = read(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(set(pool.map(read, range(4))) == {first})
"""
    done = run(code, tmp_path)
    assert done.stdout.strip() == "True", done.stderr


def test_nothing_is_left_running(tmp_path):
    series(tmp_path)
    code = """
import sys
from lungvq import io
from lungvq.io import sandbox
io.read(sys.argv[1])
print(*(p._popen.pid for p in sandbox._idle._processes))
"""
    done = run(code, tmp_path)
    pids = done.stdout.split()
    assert pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_reading_opens_no_socket(tmp_path):
    """Neither here nor in the processes, whatever the libraries would like to."""
    series(tmp_path, RLELossless)
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def told(event, arguments):\n"
        "    if event.startswith('socket.'):\n"
        "        os.write(os.open(os.environ['TOLD'], os.O_CREAT | os.O_APPEND | os.O_WRONLY), event.encode())\n"
        "sys.addaudithook(told)\n"
    )
    paths = os.pathsep.join([str(hook), os.environ.get("PYTHONPATH", "")])
    told = tmp_path / "told"
    done = run(
        "import sys; from lungvq import io; io.read(sys.argv[1])", tmp_path, PYTHONPATH=paths, TOLD=str(told)
    )
    assert done.returncode == 0, done.stderr
    assert not told.exists(), told.read_text()
    control = run("import socket; socket.socket()", PYTHONPATH=paths, TOLD=str(told))
    assert control.returncode == 0
    assert told.exists()


# --- archives ---------------------------------------------------------------------------------------------


def packed(folder, into):
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, f"../../{file.name}")
    return into


def test_a_zip_is_a_folder(tmp_path):
    (tmp_path / "in").mkdir()
    series(tmp_path / "in")
    scan = io.read(packed(tmp_path / "in", tmp_path / "study.zip"))
    np.testing.assert_array_equal(scan.volume.array, chest())
    assert scan.path == tmp_path / "study.zip"
    assert all(file.is_file() for file in scan.files)
    assert io.sha256_of(scan.files) == io.sha256_of((tmp_path / "in").iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "study.zip"]


def test_what_was_unpacked_goes_with_the_last_who_needs_it(tmp_path):
    (tmp_path / "in").mkdir()
    series(tmp_path / "in")
    (info,) = io.list_series(packed(tmp_path / "in", tmp_path / "study.zip"))
    file = info.files[0]
    assert info.to_dict()["files"][0] == str(tmp_path / "study.zip" / "000.dcm")
    scan = io.read_series(info)
    del info
    assert file.is_file()
    assert file.stat().st_mode & 0o077 == 0 or file.parent.stat().st_mode & 0o077 == 0
    del scan
    assert not file.parent.exists()


def test_an_archive_that_cannot_be_unpacked_is_listed_with_its_reason(tmp_path):
    series(tmp_path)
    whole = packed(tmp_path, tmp_path / "more.zip").read_bytes()
    (tmp_path / "more.zip").write_bytes(whole[:-100])
    usable, locked = sorted(io.list_series(tmp_path), key=lambda info: not info.usable)
    assert (usable.kind, locked.kind, locked.usable) == ("dicom", "zip", False)
    assert "cannot be unpacked" in locked.reasons[0]
    np.testing.assert_array_equal(io.read(tmp_path).volume.array, chest())
