"""The report opens in a real browser that has no network."""

import shutil
import subprocess

import pytest

from lungvq.phantom import make_phantom, write_phantom
from lungvq.run import run_case

pytestmark = pytest.mark.integration

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_phantom(make_phantom("healthy", seed=0, spacing=4.0), folder)
    run_case(folder / "insp.nii.gz", folder / "exp.nii.gz", folder / "result")
    return folder / "result" / "report.html"


def browse(report, *arguments):
    """What a headless browser prints; every request that leaves the machine would fail."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--proxy-server=127.0.0.1:9",
        f"--user-data-dir={report.parent.parent / 'profile'}",
        *arguments,
        report.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, timeout=120, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_page_is_laid_out_and_asks_for_nothing(report):
    done = browse(report, "--enable-logging=stderr", "--dump-dom")
    page = done.stdout.decode()
    assert "Research use only" in page
    assert page.rstrip().endswith("</html>")
    assert "ERR_" not in done.stderr.decode()  # a figure or script that could not be fetched


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_page_shows_pictures(report, tmp_path):
    picture = tmp_path / "page.png"
    browse(report, f"--screenshot={picture}", "--window-size=1200,2400", "--hide-scrollbars")
    assert picture.stat().st_size > 100_000  # maps and figures; a blank page has a few kB
