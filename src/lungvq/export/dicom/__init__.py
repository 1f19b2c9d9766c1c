"""Results as DICOM: the other door, besides :mod:`lungvq.io`, at which that convention is known.

Objects of one run share patient, study and frame of reference with the expiration scan, have UIDs that follow
from inputs, parameters and version, and say that they are research and not Hounsfield units.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from lungvq.errors import OutputError, UsageError
from lungvq.export.dicom.common import Context, check_right_angles
from lungvq.export.dicom.fused import COLOURED, write_fused
from lungvq.export.dicom.names import EXTRAS, KINDS
from lungvq.export.dicom.pdf import write_pdf
from lungvq.export.dicom.pmap import write_pmap
from lungvq.export.dicom.seg import write_seg
from lungvq.export.dicom.series import write_series
from lungvq.export.dicom.source import Source, made_up, read_source
from lungvq.export.dicom.sr import write_sr
from lungvq.progress import SILENT, Progress
from lungvq.result import CaseResult

__all__ = [
    "EXTRAS",
    "KINDS",
    "Source",
    "Written",
    "check_extras",
    "check_right_angles",
    "made_up",
    "read_source",
    "write_dicom",
]


def check_extras(also: Collection[str]) -> None:
    """Refuse what is not one of `EXTRAS`.

    Raises
    ------
    UsageError
    """
    if unknown := sorted({*also} - {*EXTRAS}):
        raise UsageError(f"no DICOM objects {', '.join(unknown)}; expected one of {', '.join(EXTRAS)}")


@dataclass(frozen=True)
class Written:
    """What was written, for ``run.json``.

    Parameters
    ----------
    objects : dict
        By kind: series UID, SOP class, number of files and where they are.
    notes : tuple of str
        What was left out, and why.
    """

    objects: dict[str, dict[str, str | int]]
    notes: tuple[str, ...]


def write_dicom(
    result: CaseResult,
    source: Source,
    folder: Path,
    *,
    created: datetime,
    pdf: bytes | None = None,
    also: Collection[str] = (),
    progress: Progress = SILENT,
) -> Written:
    """Write every object for the PACS.

    Parameters
    ----------
    result : CaseResult
    source : Source
        From `read_source`, or `made_up` where the scan was not DICOM.
    folder : Path
        Usually ``OUT/dicom``.
    created : datetime
        With time zone.
    pdf : bytes, optional
        The report.
    also : collection of str
        Further objects: `EXTRAS`.
    progress : Progress, optional

    Raises
    ------
    GeometryError
        If the scan's rows and columns are not at right angles.
    OutputError
        If files cannot be written.
    """
    context = Context(result, source, created)
    objects: dict[str, dict[str, str | int]] = {}
    notes: list[str] = []
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # pydicom would print identifiers that it finds too long
            for kind, write in _writers(context, folder, pdf, also, objects).items():
                count = write()
                if not count:
                    notes.append(f"no {KINDS[kind].title.lower()}: there is nothing in it")
                    continue
                objects[kind] = _listed(context, kind, folder, count)
                progress.fraction(len(objects) / len(KINDS))
    except OSError as error:
        raise OutputError(f"the DICOM objects cannot be written: {error.strerror or error}") from error
    if pdf is None:
        notes.append("no encapsulated PDF: there is no report.pdf")
    return Written(objects, tuple(notes))


def _listed(context: Context, kind: str, folder: Path, files: int) -> dict[str, str | int]:
    """One kind of object for ``run.json``."""
    place = folder / kind if (folder / kind).is_dir() else folder / f"{kind}.dcm"
    return {
        "path": place.relative_to(folder.parent).as_posix(),
        "files": files,
        "series_uid": context.series_uid(kind),
        "sop_class_uid": KINDS[kind].sop_class,
    }


def _writers(
    context: Context,
    folder: Path,
    pdf: bytes | None,
    also: Collection[str],
    written: Collection[str],
) -> dict[str, Callable[[], int]]:
    """What is to be written, in order, each with its writer."""

    def one(kind: str) -> Callable[[], int] | None:
        path = folder / f"{kind}.dcm"
        if kind in ("ventilation", "perfusion"):
            return partial(write_series, context, kind, folder / kind)
        if kind in COLOURED:
            return partial(write_fused, context, kind, folder / kind)
        if kind.startswith(("seg_", "labelmap_")):
            return partial(write_seg, context, kind, path)
        if kind.startswith("pmap_"):
            return partial(write_pmap, context, kind, path)
        if kind == "measurements":
            return lambda: write_sr(context, path, frozenset({"seg_lungs", "seg_lobes"} & {*written}))
        return partial(write_pdf, context, pdf, path) if pdf is not None else None

    chosen = {kind: one(kind) for kind, facts in KINDS.items() if not facts.extra or facts.extra in also}
    return {kind: write for kind, write in chosen.items() if write is not None}
