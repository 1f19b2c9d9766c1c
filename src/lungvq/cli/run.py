"""``lungvq run``: two scans in, a folder with maps, numbers and a report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungvq.cli._shared import (
    LobeLabels,
    Models,
    Quiet,
    Segmentation,
    Threads,
    Verbose,
    listening,
    one_sentence,
    set_threads,
)

if TYPE_CHECKING:
    from lungvq.io import SeriesInfo
    from lungvq.study import Chosen


@one_sentence
def run(
    study: Annotated[
        Path | None,
        typer.Argument(help="A folder that holds both scans as DICOM series; or use --insp and --exp."),
    ] = None,
    insp: Annotated[
        Path | None, typer.Option(help="Inspiration: a DICOM folder, or .nii(.gz), .mha, .nrrd.")
    ] = None,
    exp: Annotated[Path | None, typer.Option(help="Expiration, likewise.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the result.")] = Path(
        "lungvq-result"
    ),
    insp_series: Annotated[
        str | None,
        typer.Option(help="The inspiration in STUDY: number, UID, description or folder of its series."),
    ] = None,
    exp_series: Annotated[str | None, typer.Option(help="The expiration in STUDY, likewise.")] = None,
    lobes: Annotated[
        Path | None,
        typer.Option(help="Your label map of the lobes, on the grid of the inspiration.", show_default=False),
    ] = None,
    lobe_labels: LobeLabels = "",
    insp_mask: Annotated[
        Path | None,
        typer.Option(
            help="Your lungs of the inspiration: nonzero is lung, or 1 left and 2 right.", show_default=False
        ),
    ] = None,
    exp_mask: Annotated[
        Path | None, typer.Option(help="Your lungs of the expiration, likewise.", show_default=False)
    ] = None,
    segmentation: Segmentation = "lungvq",
    models: Models = None,
    case: Annotated[str | None, typer.Option(help="Name of the case; default the output folder's.")] = None,
    allow_no_breathing: Annotated[
        bool,
        typer.Option("--allow-no-breathing", help="Go on where the lungs did not change; under a banner."),
    ] = False,
    dicom: Annotated[
        bool | None,
        typer.Option(
            "--dicom/--no-dicom",
            help="Write the results as DICOM too; default where the expiration scan is DICOM.",
            show_default=False,
        ),
    ] = None,
    dicom_also: Annotated[
        list[str] | None,
        typer.Option(
            help="One more kind of DICOM object: 'labelmap' or 'pmap' (parametric maps); may be repeated.",
            show_default=False,
        ),
    ] = None,
    estimator: Annotated[
        list[str] | None,
        typer.Option(
            help="One more estimator, of another package ('lungvq methods' lists them); may be repeated.",
            show_default=False,
        ),
    ] = None,
    detrended: Annotated[
        bool,
        typer.Option("--detrended", help="Also write V and Q with their trend along gravity divided out."),
    ] = False,
    relative: Annotated[
        bool, typer.Option("--relative", help="Also write V relative to the lungs' mean (Q always is).")
    ] = False,
    ctp_radius: Annotated[
        int, typer.Option(help="Regions of the mass change (CT-P): 10, 15, 20 or 30 mm.")
    ] = 20,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 5 when a QC check fails.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another result in the output folder.")
    ] = False,
    threads: Threads = None,
    max_memory: Annotated[
        float | None,
        typer.Option(min=0.1, help="GB; refuse to start when more is expected.", show_default=False),
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Turn an inspiration and an expiration CT into ventilation and perfusion maps, numbers and a report.

    Running it again on a finished result does nothing.
    """
    from lungvq.errors import StrictQcError, UsageError
    from lungvq.findings import Severity

    if (study is None) == (insp is None and exp is None) or (insp is None) != (exp is None):
        raise UsageError("give either a STUDY folder or both --insp and --exp")
    if study is None and (insp_series or exp_series):
        raise UsageError("--insp-series and --exp-series choose within a STUDY folder; none was given")

    chosen = None
    if study is not None:
        chosen = _choose(study, insp_series, exp_series, threads, verbose, quiet)
    with listening(verbose=verbose, quiet=quiet) as progress:
        progress.stage("starting")
        set_threads(threads)
        from lungvq.perfusion import PerfusionOptions
        from lungvq.pipeline import Options
        from lungvq.run import run_case
        from lungvq.segment.given import Masks

        pair: tuple[Path | SeriesInfo, Path | SeriesInfo]
        if chosen is not None:
            pair = chosen.insp, chosen.exp
        else:
            assert insp is not None
            assert exp is not None
            pair = insp, exp
        record = run_case(
            pair[0],
            pair[1],
            output,
            case=case,
            options=Options(
                allow_no_breathing=allow_no_breathing,
                estimators=tuple(estimator or ()),
                detrended=detrended,
                relative=relative,
                perfusion=PerfusionOptions(ctp_radius_mm=float(ctp_radius)),
            ),
            masks=Masks(
                insp=insp_mask,
                exp=exp_mask,
                lobes=lobes,
                lobe_labels=lobe_labels,
                segmentation=segmentation,
                models=models,
            ),
            selection=chosen.to_dict() if chosen else None,
            selection_findings=chosen.findings if chosen else (),
            dicom=dicom,
            dicom_also=dicom_also or (),
            force=force,
            max_memory_gb=max_memory,
            progress=progress,
        )
    state = "already done, nothing to do" if record.already_done else f"{record.seconds:.0f} s"
    typer.echo(f"{output / 'report.html'}: QC {record.qc} ({state})")
    if strict and record.qc is Severity.FAIL:
        raise StrictQcError(f"QC failed; see {output / 'report.html'}")


def _choose(
    study: Path, insp: str | None, exp: str | None, threads: int | None, verbose: bool, quiet: bool
) -> Chosen:
    """The pair in a study; the decision table is shown whether there is one or not."""
    with listening(verbose=verbose, quiet=quiet) as progress:
        progress.stage("finding the pair")
        set_threads(threads)
        from lungvq.study import NoPairError, choose_pair

        found: Chosen | NoPairError
        try:
            found = choose_pair(study, insp, exp, progress=progress)
        except NoPairError as error:
            found = error
    if not quiet:
        from lungvq.cli._table import show_table

        show_table(found.entries, found.findings, on_stderr=True)
    if isinstance(found, NoPairError):
        raise found
    if not quiet:
        typer.echo(found.how, err=True)
    return found
