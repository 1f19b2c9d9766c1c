"""``lungvq methods``: which estimators and ways of counting there are, and what each is good for."""

from __future__ import annotations

from typing import Annotated

import typer

from lungvq.cli._shared import one_sentence, visible


@one_sentence
def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print it for machines.")] = False,
) -> None:
    """List every estimator and way of counting, with version, unit, source and limits; those of plug-ins too."""
    import json
    from dataclasses import asdict

    from lungvq.methods import METHODS, METRICS, installed

    others = installed()
    if as_json:
        plain = {
            "methods": [asdict(method) for method in METHODS.values()],
            "metrics": [asdict(metric) for metric in METRICS.values()],
            "installed": [other.to_dict() for other in others],
        }
        typer.echo(json.dumps(plain, indent=2))
        return
    for kind, title in (("map", "Maps"), ("count", "Counts")):
        typer.echo(f"{title}\n")
        for method in METHODS.values():
            if method.kind == kind:
                typer.echo(f"  {method.id}  [{method.unit}]  {method.measures}")
                typer.echo(f"      source: {method.source}\n      limits: {method.limits}")
        typer.echo("")
    typer.echo("From other packages\n")
    for other in others:
        what = f"[{other.method.unit}]  {other.method.measures}" if other.method else other.error
        typer.echo(visible(f"  {other.name}  ({other.package})  {what}"))
    if not others:
        typer.echo("  none")
