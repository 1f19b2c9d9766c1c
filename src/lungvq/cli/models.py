"""``lungvq models``: the weights of other programs that can find lungs and lobes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import one_sentence


@one_sentence
def models(
    action: Annotated[str, typer.Argument(help="'list' or 'fetch'.")] = "list",
    name: Annotated[
        str, typer.Argument(help="fetch: 'lungmask' or 'totalsegmentator'.", show_default=False)
    ] = "",
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Copy the files from this folder instead of downloading.", show_default=False
        ),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(help="Where to keep them; default $LUNGVQ_MODELS or ~/.cache.", show_default=False),
    ] = None,
) -> None:
    """List or fetch the weights for --segmentation. Nothing else of lungvq downloads anything."""
    from lungvq.errors import UsageError
    from lungvq.segment.backends import BACKENDS, backend_named, fetch, models_folder, state

    folder = models_folder(models)
    if action == "list" and not name:
        for backend in BACKENDS.values():
            typer.echo(f"{backend.name} ({backend.licence}): {state(backend, folder)}")
    elif action == "fetch" and name:
        fetch(backend_named(name), folder, source=source, tell=typer.echo)
    else:
        raise UsageError("give 'list', or 'fetch' and the name of a program")
