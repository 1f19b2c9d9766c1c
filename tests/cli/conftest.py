"""One small phantom pair on disk and one finished run of it, shared by all tests of the commands."""

import subprocess
import sys
from pathlib import Path

import pytest

from lungvq import io
from lungvq.phantom import make_phantom


def run_lungvq(*arguments, **options):
    """Run the command as a user would."""
    command = [sys.executable, "-m", "lungvq", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture(scope="session")
def lungvq():
    return run_lungvq


@pytest.fixture(scope="session")
def phantom():
    return make_phantom("healthy", seed=3, spacing=4.0)


@pytest.fixture(scope="session")
def pair(tmp_path_factory, phantom) -> tuple[Path, Path]:
    """The two scans in different formats and axis orders, as users bring them."""
    folder = tmp_path_factory.mktemp("pair")
    io.write(phantom.insp.reorient("ARS"), folder / "insp.mha")
    io.write(phantom.exp.reorient("SAR"), folder / "exp.nii.gz")
    return folder / "insp.mha", folder / "exp.nii.gz"


@pytest.fixture(scope="session")
def finished(tmp_path_factory, pair) -> Path:
    out = tmp_path_factory.mktemp("runs") / "case-7"
    done = run_lungvq("run", "--insp", pair[0], "--exp", pair[1], "-o", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{out / 'report.html'}: QC ")
    assert "GB of memory" in done.stderr
    return out
