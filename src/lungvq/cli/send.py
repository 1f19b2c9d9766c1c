"""``lungvq send``: the DICOM objects of a result, to a PACS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import Quiet, Verbose, listening, one_sentence


@one_sentence
def send(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The output folder of a run with DICOM.")],
    to: Annotated[
        str | None, typer.Option(metavar="AET@HOST:PORT", help="Send by C-STORE to this application entity.")
    ] = None,
    stow: Annotated[
        str | None, typer.Option(metavar="URL", help="Send by STOW-RS to this DICOMweb address.")
    ] = None,
    aet: Annotated[str, typer.Option(help="Our own application entity title.")] = "LUNGVQ",
    commit: Annotated[
        bool,
        typer.Option("--commit/--no-commit", help="With --to: ask for storage commitment and wait for it."),
    ] = True,
    listen: Annotated[
        int, typer.Option(min=1, max=65535, help="With --to: port on which the commitment is awaited.")
    ] = 11113,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds without an answer after which a try has failed.")
    ] = 30.0,
    attempts: Annotated[int, typer.Option(min=1, max=20, help="Tries in all.")] = 3,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Send the DICOM objects of a finished result to a PACS. Sending twice stores once."""
    from lungvq.errors import UsageError

    if (to is None) == (stow is None):
        raise UsageError("give one destination: --to AET@HOST:PORT or --stow URL")
    with listening(verbose=verbose, quiet=quiet) as progress:
        progress.stage("checking the files")
        import lungvq.send as network

        peer = network.Peer.parse(to) if to is not None else None
        options = network.Sending(aet, commit, listen, timeout, attempts)
        objects = network.objects_of(folder)
        if peer is not None:
            outcome = network.send(objects, peer, options, progress=progress)
        else:
            assert stow is not None
            outcome = network.stow(objects, stow, options, progress=progress)
    for note in outcome.notes:
        typer.echo(note, err=True)
    committed = "" if outcome.committed is None else f", {outcome.committed} committed"
    typer.echo(f"{folder}: {outcome.stored} objects stored at {to or stow}{committed}")
