"""``lungvq bench``: every claim of accuracy or speed, printed by a command that anyone can run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import Threads, one_sentence, set_threads


@one_sentence
def bench(
    what: Annotated[
        str,
        typer.Argument(
            help="'pipeline' (time and memory, stage by stage), 'truth' (accuracy on phantoms) or"
            " 'phantom' (the phantoms themselves against published facts)."
        ),
    ],
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="truth: subjects per case, 2; phantom: healthy subjects, 50."),
    ] = None,
    cases: Annotated[
        str,
        typer.Option(
            help="truth, phantom: case names, separated by commas; 'all'; truth: a number, so many of its plan."
        ),
    ] = "all",
    cache: Annotated[
        Path | None, typer.Option(help="truth: keep finished phantoms there and go on where it stopped.")
    ] = None,
    spacing: Annotated[
        str, typer.Option(help="truth, phantom: voxel size in mm, 0.7 to 4; truth: also a range, 1.5-3.")
    ] = "1.5",
    large: Annotated[
        bool, typer.Option("--large", help="phantom: also time a pair of 512 x 512 x about 400 voxels.")
    ] = False,
    size: Annotated[
        str, typer.Option(help="pipeline: columns x rows x slices of the phantom pair.")
    ] = "512x512x300",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also write the table to this Markdown file.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Measure and print tables. Nulls and oracles stand beside every accuracy figure."""
    from lungvq.errors import UsageError

    set_threads(threads)
    if what == "pipeline":
        from lungvq.bench.pipeline import bench_pipeline

        text = bench_pipeline(size)
    elif what == "truth":
        from lungvq.bench.truth import bench_truth

        text = bench_truth(cases, seeds or 2, spacing, lambda line: typer.echo(line, err=True), cache)
    elif what == "phantom":
        from lungvq.bench.phantom import bench_phantom
        from lungvq.bench.table import voxel_size

        mm = voxel_size(spacing)
        text = bench_phantom(cases, seeds or 50, mm, large, tell=lambda line: typer.echo(line, err=True))
    else:
        raise UsageError(f"no benchmark {what!r}; expected pipeline, truth or phantom")
    typer.echo(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
