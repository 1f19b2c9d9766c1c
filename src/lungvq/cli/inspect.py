"""``lungvq inspect``: what is in there, what would be used, what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import listening, one_sentence


@one_sentence
def inspect(
    path: Annotated[Path, typer.Argument(help="A folder with DICOM files at any depth, or one image file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of series for machines.")] = False,
) -> None:
    """List the series below a folder, the part each could play, and why.

    Exits with 3 where no pair can be made of them.
    """
    import json
    import sys

    from lungvq.cli._table import show_table

    with listening(quiet=not sys.stderr.isatty()) as progress:
        progress.stage("reading headers")
        from lungvq.study import survey

        found = survey(path, progress=progress)
    if as_json:
        typer.echo(json.dumps([entry.to_dict() for entry in found.entries], indent=2))
    else:
        show_table(found.entries, found.findings)
    if not found.has_pair:
        typer.echo(f"lungvq: {found.verdict}", err=True)
        raise typer.Exit(3)
    if not as_json:
        typer.echo(found.verdict)
