"""``lungvq deid``: images without what could name their patient."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import Quiet, Verbose, listening, one_sentence, visible


@one_sentence
def deid(
    source: Annotated[Path, typer.Argument(help="A folder with DICOM files at any depth, or one file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder outside of it.")],
    retain: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep what an option of PS3.15 keeps: patient, device, institution, modified-dates,"
            " full-dates. May be repeated.",
            show_default=False,
        ),
    ] = None,
    clean_descriptors: Annotated[
        bool,
        typer.Option("--clean-descriptors", help="Keep words of descriptions that are known to name nobody."),
    ] = False,
    salt: Annotated[
        str | None, typer.Option(help="Secret that makes new names and UIDs the same in every call.")
    ] = None,
    salt_file: Annotated[
        Path | None, typer.Option(help="File that holds the secret; made with a new one where it is missing.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace images that were written there before.")
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """De-identify images: DICOM PS3.15 Basic Profile, pixels untouched.

    Images that may show names in their pixels are refused and listed.
    """
    from lungvq.deid import Profile, Secret, deidentify

    profile = Profile.of([*(retain or ()), *(["descriptors"] if clean_descriptors else [])])
    secret = Secret.from_user(salt, salt_file)
    with listening(verbose=verbose, quiet=quiet) as progress:
        outcome = deidentify(source, output, profile=profile, secret=secret, force=force, progress=progress)
    for reason, count in outcome.reasons if not quiet else ():
        typer.echo(f"refused {count:5d}: {reason}", err=True)
    if verbose:  # names of files may name patients
        for path, reason in outcome.refused.items():
            typer.echo(visible(f"  {path}: {reason}"), err=True)
    typer.echo(
        f"{output}: {outcome.written} of {outcome.written + len(outcome.refused)} files de-identified,"
        f" {len(outcome.series)} series of {len(outcome.patients)} patient{'s' if len(outcome.patients) != 1 else ''}"
    )
