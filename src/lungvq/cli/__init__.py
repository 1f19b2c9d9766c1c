"""The command line: thin doors onto the library, a module per command.

Heavy imports wait inside the commands, so that ``lungvq --help`` answers at once.
"""

from __future__ import annotations

import sys

import typer

from lungvq.cli.bench import bench
from lungvq.cli.deid import deid
from lungvq.cli.demo import demo
from lungvq.cli.doctor import doctor
from lungvq.cli.evaluate_landmarks import evaluate_landmarks
from lungvq.cli.inspect import inspect
from lungvq.cli.methods import methods
from lungvq.cli.models import models
from lungvq.cli.phantom import phantom
from lungvq.cli.register import register
from lungvq.cli.run import run
from lungvq.cli.segment import segment
from lungvq.cli.send import send
from lungvq.cli.verify import verify

__all__ = ["app", "main"]

app = typer.Typer(
    help="Maps of lung ventilation and perfusion from two breath-hold chest CTs, without contrast or tracer."
    " Research use only.",
    epilog="Exit codes: 0 done, 1 internal error, 2 usage, 3 input not usable, 5 QC failed under --strict,"
    " 6 out of memory, time or disk, 7 network or peer, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    run,
    inspect,
    segment,
    register,
    evaluate_landmarks,
    phantom,
    demo,
    verify,
    doctor,
    methods,
    bench,
    deid,
    send,
    models,
):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and leave.", is_eager=True),
) -> None:
    if version:
        import lungvq

        typer.echo(f"lungvq {lungvq.__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the ``lungvq`` command."""
    if any(not a or (a.startswith("--") and a.endswith("=")) for a in sys.argv[1:]):
        # An empty path would be the current folder: whatever lies there is not what was meant.
        typer.echo("lungvq: an argument is empty; is a variable of your shell not set?", err=True)
        raise SystemExit(2)
    app()
