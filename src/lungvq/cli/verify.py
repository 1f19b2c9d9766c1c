"""``lungvq verify``: are the files of a result as they were written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import one_sentence


@one_sentence
def verify(folder: Annotated[Path, typer.Argument(help="The output folder of a run.")]) -> None:
    """Compare the files of a finished run with its run.json."""
    from lungvq.errors import InputError
    from lungvq.export.folder import verify as differences

    problems = differences(folder)
    if problems:
        raise InputError(f"{folder} is not as it was written: {'; '.join(problems)}")
    typer.echo(f"{folder}: all files are as they were written")
