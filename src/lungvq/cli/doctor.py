"""``lungvq doctor``: is the installation whole?"""

from __future__ import annotations

from typing import Annotated

import typer

from lungvq.cli._shared import one_sentence


@one_sentence
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print it for machines.")] = False,
) -> None:
    """Check the installation: versions, threads, memory, decoders, compiled-code cache; then try the method.

    The first time compiles the method's inner loops and takes a minute or two; later runs need not.
    """
    import json

    from lungvq.doctor import examine

    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            typer.echo(f"{check.severity:4} {check.message}" + (f" {check.advice}" if check.advice else ""))
    if as_json:
        typer.echo(json.dumps([check.to_dict() for check in checks], indent=2))
    if any(check.severity == "FAIL" for check in checks):
        raise typer.Exit(1)
