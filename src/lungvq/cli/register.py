"""``lungvq register``: where each point of the expiratory lung went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import Quiet, Threads, Verbose, listening, one_sentence, set_threads


@one_sentence
def register(
    fixed: Annotated[Path, typer.Option(help="Expiration: a DICOM folder, or .nii(.gz), .mha, .nrrd.")],
    moving: Annotated[Path, typer.Option(help="Inspiration, likewise.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the field and its Jacobian.")],
    fixed_mask: Annotated[
        Path | None, typer.Option(help="Lungs of the fixed scan; nonzero is lung, or 1 left and 2 right.")
    ] = None,
    moving_mask: Annotated[Path | None, typer.Option(help="Lungs of the moving scan, likewise.")] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="Who registers: 'lungvq', 'greedy' or 'elastix' (both in lungvq[bench]), 'affine'."
        ),
    ] = "lungvq",
    lobes_apart: Annotated[
        bool,
        typer.Option(
            "--lobes-apart",
            help="Find the lobes of the moving scan, an inspiration; those that slide get fields of their own.",
        ),
    ] = False,
    inverse: Annotated[
        bool, typer.Option("--inverse", help="Also the field that leads from the moving lungs back.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a registration that is there.")] = False,
    threads: Threads = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find the displacement that takes each point of the fixed lungs to the moving scan, in mm, LPS."""
    with listening(verbose=verbose, quiet=quiet) as progress:
        progress.stage("starting")
        set_threads(threads)
        from lungvq.register import MISMATCH_CORRELATION
        from lungvq.single import register_scans

        quality = register_scans(
            fixed,
            moving,
            output,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            backend=backend,
            lobes_apart=lobes_apart,
            inverse=inverse,
            force=force,
            progress=progress,
        )
    typer.echo(
        f"{output}: mean motion {quality['motion_mean_mm']:.1f} mm, overlap {quality['dice']:.3f},"
        f" {quality['folded_percent']:.2f} % folded, local correlation {quality['correlation_after']:.2f}"
    )
    if quality["correlation_after"] < MISMATCH_CORRELATION:
        typer.echo(
            f"the lungs hardly match: of one patient they do by {MISMATCH_CORRELATION} and more; check the scans",
            err=True,
        )
