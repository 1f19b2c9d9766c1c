"""A finished case as pages a physician can read: one HTML file that opens anywhere, the same as PDF, and figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lungvq.errors import OutputError
from lungvq.progress import SILENT, Progress
from lungvq.report.content import build_page
from lungvq.report.figures import PLANES, Cuts, class_overlay, montage, registration_layers
from lungvq.report.histogram import histogram
from lungvq.report.html import render
from lungvq.report.pdf import render_pdf
from lungvq.report.plate import Picture
from lungvq.report.render3d import surfaces_picture
from lungvq.result import CaseResult

__all__ = ["Picture", "build_page", "draw_pictures", "write_report"]

_COUNT = 10  # pictures of a report from which nothing is withheld


def write_report(result: CaseResult, folder: Path, *, progress: Progress = SILENT) -> list[Path]:
    """Write ``report.html``, ``report.pdf`` and ``figures/``.

    Parameters
    ----------
    result : CaseResult
    folder : Path
        Made where it is missing.
    progress : Progress, optional

    Returns
    -------
    list of Path
        What was written, the page first, then the PDF.

    Raises
    ------
    OutputError
        If the files cannot be written.
    """
    progress.stage("drawing the report")
    pictures = draw_pictures(result, progress=progress)
    page, by_name = build_page(result), {picture.name: picture for picture in pictures}
    figures = folder / "figures"
    written = {figures / f"{p.name}.{p.kind}": p.data for p in pictures}
    html, pdf = folder / "report.html", folder / "report.pdf"
    try:
        figures.mkdir(parents=True, exist_ok=True)
        for path, data in written.items():
            path.write_bytes(data)
        html.write_bytes(render(page, by_name).encode())
        pdf.write_bytes(render_pdf(page, by_name, figures))
    except OSError as error:
        raise OutputError(f"the report cannot be written to {folder}: {error.strerror or error}") from error
    return [html, pdf, *written]


def draw_pictures(result: CaseResult, *, progress: Progress = SILENT) -> list[Picture]:
    """Every picture of the report that is not withheld."""
    pictures = []
    for picture in _pictures(result):
        pictures.append(picture)
        progress.fraction(min(1.0, len(pictures) / _COUNT))
    return pictures


def _pictures(result: CaseResult) -> Iterator[Picture]:
    withheld, cuts = result.withheld, Cuts.through(result.lungs_exp)
    for plane in PLANES:
        yield montage(result, plane, cuts, withheld)
    if "vq_class" in result.maps and not withheld("vq_class"):
        yield class_overlay(result, cuts, withheld)
    for name in ("ventilation", "perfusion"):
        if name in result.maps and not withheld(name):
            yield histogram(result, name)
    yield from registration_layers(result, cuts)
    surfaces = surfaces_picture(result, withheld)
    if surfaces:
        yield surfaces
