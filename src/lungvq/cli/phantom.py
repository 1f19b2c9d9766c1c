"""``lungvq phantom``: a pair of scans whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import Quiet, Threads, Verbose, listening, one_sentence, set_threads


@one_sentence
def phantom(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A new folder.", show_default=False)
    ] = None,
    case: Annotated[str, typer.Option(help="Which disease or motion; 'list' names them.")] = "healthy",
    seed: Annotated[int, typer.Option(min=0, help="Which subject.")] = 0,
    spacing: Annotated[float, typer.Option(min=0.5, max=5.0, help="Voxel size in mm.")] = 1.5,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Write the scans as a DICOM study below DIR/dicom.")
    ] = False,
    modalities: Annotated[
        bool,
        typer.Option("--modalities", help="Also SPECT of ventilation and perfusion, and dual-energy CT."),
    ] = False,
    threads: Threads = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Make a synthetic inspiration/expiration pair together with its ventilation, perfusion and motion."""
    from lungvq.errors import UsageError

    with listening(verbose=verbose, quiet=quiet) as progress:
        progress.stage("starting")
        set_threads(threads)
        from lungvq.export.folder import staged
        from lungvq.phantom import CASES, make_phantom, write_phantom

        if case == "list":
            for name, settings in CASES.items():
                typer.echo(f"{name}: {settings.description}")
            return
        if output is None:
            raise UsageError("say where the phantom goes: -o, a new folder")
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UsageError(f"{output} already exists and is not empty; give a new folder")
        made = make_phantom(case, seed=seed, spacing=spacing, progress=progress)
        names = ["truth", *(["dicom"] if dicom else ["insp.nii.gz", "exp.nii.gz"])]
        if modalities:
            from lungvq.phantom.modalities import IMAGES, make_modalities, write_modalities

            names += [f"{name}.nii.gz" for name in IMAGES]
        with staged(output, tuple(names)) as folder:
            progress.stage("writing the files")
            write_phantom(made, folder, dicom=dicom)
            if modalities:
                progress.stage("imaging with SPECT and dual-energy CT")
                images = make_modalities(made, seed=seed)
                write_modalities(images, folder)
                if dicom:
                    from lungvq.phantom.dicom_modalities import write_modality_studies

                    write_modality_studies(images, made, folder / "dicom")
    scans = "dicom/" if dicom else "insp.nii.gz, exp.nii.gz"
    if modalities:
        scans += f", {', '.join(IMAGES)}"
    typer.echo(f"{output}: {scans} and truth/ of a {case} phantom, seed {seed}, {spacing:g} mm")
