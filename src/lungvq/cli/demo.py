"""``lungvq demo``: the whole way, with no data needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import Quiet, Threads, Verbose, listening, one_sentence, set_threads


@one_sentence
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the phantom and its result.")
    ] = Path("lungvq-demo"),
    threads: Threads = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Make a phantom pair, run the pipeline on it and say where the report is."""
    with listening(verbose=verbose, quiet=quiet) as progress:
        progress.stage("starting")
        set_threads(threads)
        from lungvq.phantom import make_phantom, write_phantom
        from lungvq.run import run_case

        scans = output / "phantom"
        if not (scans / "truth" / "truth.json").exists():
            write_phantom(make_phantom("pe", seed=1, spacing=1.5, progress=progress), scans)
        record = run_case(
            scans / "insp.nii.gz",
            scans / "exp.nii.gz",
            output / "result",
            case="demo",
            force=True,
            progress=progress,
        )
    typer.echo(f"pipeline {record.seconds:.0f} s, QC {record.qc}")
    typer.echo(f"report: {(record.folder / 'report.html').resolve()}")
