"""``lungvq segment``: lungs, lobes, airways and vessels of one scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import Quiet, Threads, Verbose, listening, one_sentence, set_threads


@one_sentence
def segment(
    ct: Annotated[Path, typer.Argument(help="A DICOM folder, or .nii(.gz), .mha, .nrrd.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for labels/.")],
    force: Annotated[bool, typer.Option("--force", help="Replace labels that are there.")] = False,
    threads: Threads = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find lungs, lobes, airways and vessels in one chest CT."""
    with listening(verbose=verbose, quiet=quiet) as progress:
        progress.stage("starting")
        set_threads(threads)
        from lungvq.single import segment_scan

        summary = segment_scan(ct, output, force=force, progress=progress)
    for finding in summary.findings:
        if verbose or finding.severity != "PASS":
            typer.echo(f"{finding.severity} {finding.code}: {finding.message}", err=True)
    typer.echo(f"{output / 'labels'}: left {summary.left_ml:.0f} mL, right {summary.right_ml:.0f} mL")
