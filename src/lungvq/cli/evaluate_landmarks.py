"""``lungvq evaluate-landmarks``: how far a registration is off at landmark pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lungvq.cli._shared import one_sentence

_POINTS = "DIR-Lab or elastix text, CSV in mm (LPS), .fcsv or .mrk.json."


@one_sentence
def evaluate_landmarks(
    field: Annotated[
        Path, typer.Option(help="displacement.nii.gz, or the folder of 'lungvq register' or 'lungvq run'.")
    ],
    fixed_points: Annotated[Path, typer.Option(help=f"Landmarks at expiration: {_POINTS}")],
    moving_points: Annotated[Path, typer.Option(help="The same landmarks at inspiration, row by row.")],
    fixed_image: Annotated[
        Path | None, typer.Option(help="The expiration scan; needed where points are voxel indices.")
    ] = None,
    moving_image: Annotated[
        Path | None, typer.Option(help="The inspiration scan; likewise, and for the error with snapping.")
    ] = None,
    index_axes: Annotated[
        str | None,
        typer.Option(
            help="Where voxel indices lead, for slice, row, column: 'IPL' (from the head down; default for"
            " DIR-Lab), 'SPL', ..., or 'stored', as the image file has them (default for elastix).",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Errors point by point, as a new CSV file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain data instead of a table.")] = False,
) -> None:
    """Target registration error at landmark pairs: before, after, and snapped to voxels as DIR-Lab counts."""
    from lungvq.errors import UsageError

    if output is not None and output.exists():
        raise UsageError(f"{output} already exists; give a new file")
    from lungvq.landmarks import evaluate_landmarks as evaluate

    result = evaluate(
        fixed_points,
        moving_points,
        field,
        fixed_image=fixed_image,
        moving_image=moving_image,
        index_axes=index_axes,
    )
    if output is not None:
        result.write(output)
    for finding in result.findings:
        typer.echo(f"{finding.severity}: {finding.message} {finding.advice}".strip(), err=True)
    if as_json:
        import json

        typer.echo(json.dumps(result.to_dict(), indent=2))
        return
    typer.echo(
        f"{'mm':10}{'n':>6}" + "".join(f"{name:>9}" for name in ("mean", "sd", "median", "p95", "max"))
    )
    for name, row in result.summaries().items():
        values = (row.mean, row.sd, row.median, row.p95, row.max)
        typer.echo(f"{name:10}{row.n:6}" + "".join(f"{value:9.2f}" for value in values))
