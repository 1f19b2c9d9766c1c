"""One run of a study whose headers name a patient and carry script: nothing leaks, runs or leaves the machine."""

import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys

import pydicom
import pytest

pytestmark = pytest.mark.slow

IDENTITY = [
    "Mustermann",
    "Erika",
    "ID4711x",
    "19640812",
    "ACC998877",
    "Doe^Jonathan",
    "Musterstadt",
    "STUDY5544",
]
SCRIPT = "<script>alert(1)</script>[/red]${7*7}#panic()"

# Reports every socket that Python code of this process or of its children makes, binds or connects.
HOOK = """
import os, sys
def hook(event, args, log=os.environ["SOCKET_LOG"]):
    if event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.")):
        with open(log, "a") as stream:
            stream.write(f"{event} {args}\\n")
with open(os.environ["SOCKET_LOG"], "a") as stream:
    stream.write(f"watching {os.getpid()}\\n")
sys.addaudithook(hook)
"""


def lungvq(*arguments, **options):
    command = [sys.executable, "-m", "lungvq", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=500, **options)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A phantom as DICOM, of a patient with a name, by a scanner that writes script."""
    folder = tmp_path_factory.mktemp("phantom")
    assert lungvq("phantom", "-o", folder / "p", "--spacing", "5", "--dicom", "-q").returncode == 0
    for file in (folder / "p" / "dicom").rglob("*.dcm"):
        image = pydicom.dcmread(file)
        image.SpecificCharacterSet = "ISO_IR 192"
        image.PatientName, image.PatientID = "Mustermann^Erika", "ID4711x"
        image.PatientBirthDate, image.AccessionNumber, image.StudyID = "19640812", "ACC998877", "STUDY5544"
        image.ReferringPhysicianName, image.InstitutionName = "Doe^Jonathan", "Klinikum Musterstadt"
        image.SeriesDescription = f"{image.SeriesDescription[:18]} {SCRIPT}"
        image.ProtocolName = image.ManufacturerModelName = SCRIPT
        image.save_as(file)
    return folder / "p" / "dicom"


@pytest.fixture(scope="module")
def run(study, tmp_path_factory):
    """The finished run: its folder, what it said, and what it did with sockets."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "sitecustomize.py").write_text(HOOK)
    log = folder / "sockets.txt"
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = lungvq("run", study, "-o", folder / "out", "-v",
                  env={**os.environ, "PYTHONPATH": path, "SOCKET_LOG": str(log)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout + done.stderr, log.read_text()


def without_dicom(out):
    return [p for p in out.rglob("*") if p.is_file() and p.relative_to(out).parts[0] != "dicom"]


def test_no_socket_is_opened(run):
    watching, *events = run[2].splitlines()
    assert watching.startswith("watching ")
    assert [event for event in events if not event.startswith("watching ")] == []


def test_no_identifier_is_said(run):
    for word in IDENTITY:
        assert word not in run[1]


def test_no_identifier_is_in_a_file_name(run):
    for path in run[0].rglob("*"):
        assert not any(word.lower() in path.name.lower() for word in IDENTITY)


def test_no_identifier_is_in_a_file_but_the_dicom_objects(run):
    """Those carry the patient over, so that a PACS files them beside the scans."""
    for path in without_dicom(run[0]):
        data = path.read_bytes()
        for word in IDENTITY:
            assert word.encode() not in data, path.name
    images = [pydicom.dcmread(p, stop_before_pixels=True) for p in (run[0] / "dicom").rglob("*.dcm")]
    assert {str(image.PatientID) for image in images} == {"ID4711x"}


def test_script_is_text_on_the_page(run):
    page = (run[0] / "report.html").read_text(encoding="utf-8")
    assert html.escape(SCRIPT, quote=False) in page
    assert "<script" not in page


def test_script_is_text_in_what_is_said(run, study):
    assert SCRIPT[:25] in run[1]  # long names are cut
    shown = lungvq("inspect", study)
    assert shown.returncode == 0
    assert SCRIPT[:25] in shown.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
def test_script_does_not_speak_to_a_terminal(study):
    """On a terminal too, where square brackets could be markup and control characters would be obeyed."""
    import pty

    terminal, inner = pty.openpty()
    command = [sys.executable, "-m", "lungvq", "inspect", str(study)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=inner, stderr=inner, env={**os.environ, "COLUMNS": "400"}
    ) as process:
        os.close(inner)
        said = b""
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            said += data
    os.close(terminal)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    assert "Traceback" not in text
    assert SCRIPT[:25] in text


def test_script_is_text_in_the_tables(run):
    """No cell of the table is a formula, and the record is plain JSON."""
    with (run[0] / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.reader(stream):
            for cell in row:
                assert not cell.startswith(("=", "+", "@", "\t")), cell
                assert not cell.startswith("-") or float(cell) < 0
    assert SCRIPT in json.dumps(json.loads((run[0] / "run.json").read_text(encoding="utf-8")))


def test_the_pdf_is_listed_with_its_hash(run):
    files = json.loads((run[0] / "run.json").read_text(encoding="utf-8"))["files"]
    assert files["report.pdf"]["bytes"] == (run[0] / "report.pdf").stat().st_size
    assert lungvq("verify", run[0]).returncode == 0


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="no poppler-utils on this machine")
def test_script_is_text_on_paper_and_nobody_is_named(run):
    done = subprocess.run(
        ["pdftotext", run[0] / "report.pdf", "-"], capture_output=True, check=True, timeout=60
    )
    text = re.sub(r"[\s\u200b]", "", done.stdout.decode())
    assert SCRIPT in text
    for word in IDENTITY:
        assert word not in text


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace on this machine")
def test_no_process_asks_the_kernel_for_a_socket(study, tmp_path):
    """Second route, which sees compiled code too."""
    trace = tmp_path / "trace.txt"
    command = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-e",
        "trace=socket,connect,bind,sendto",
        "-e",
        "signal=none",
        "-o",
        trace,
    ]
    probe = "import socket; socket.socket()"
    if subprocess.run([*command, sys.executable, "-c", probe], capture_output=True, timeout=60).returncode:
        pytest.skip("strace may not trace here")
    assert "socket(" in trace.read_text()
    done = subprocess.run(
        [*command, sys.executable, "-m", "lungvq", "run", study, "-o", tmp_path / "out", "-q"],
        capture_output=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [
        line
        for line in trace.read_text().splitlines()
        if re.search(r"\b(socket|connect|bind|sendto)\(", line)
    ] == []
