"""``lungvq segment``: lungs, lobes, airways and vessels of one scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import (
    LobeLabels,
    Models,
    Quiet,
    Segmentation,
    Threads,
    Verbose,
    listening,
    one_sentence,
    set_threads,
)


@one_sentence
def segment(
    ct: Annotated[Path, typer.Argument(help="A DICOM folder, or .nii(.gz), .mha, .nrrd.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for labels/ and segment.json.")],
    backend: Segmentation = "lungvq",
    models: Models = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Your lungs: nonzero is lung, or 1 left and 2 right.", show_default=False),
    ] = None,
    lobes: Annotated[
        Path | None, typer.Option(help="Your label map of the lobes.", show_default=False)
    ] = None,
    lobe_labels: LobeLabels = "",
    force: Annotated[bool, typer.Option("--force", help="Replace labels that are there.")] = False,
    threads: Threads = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find lungs, lobes, airways and vessels in one chest CT."""
    with listening(verbose=verbose, quiet=quiet) as progress:
        progress.stage("starting")
        set_threads(threads)
        from lungvq.segment.given import Masks
        from lungvq.single import segment_scan

        masks = Masks(insp=mask, lobes=lobes, lobe_labels=lobe_labels, segmentation=backend, models=models)
        summary = segment_scan(ct, output, masks=masks, force=force, progress=progress)
    for finding in summary.findings:
        if verbose or finding.severity != "PASS":
            typer.echo(f"{finding.severity} {finding.code}: {finding.message}", err=True)
    lobes_said = ", ".join(f"{name} {ml:.0f}" for name, ml in summary.lobes_ml.items())
    typer.echo(
        f"{output / 'labels'}: left {summary.left_ml:.0f} mL, right {summary.right_ml:.0f} mL ({lobes_said})"
    )
