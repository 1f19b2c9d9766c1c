"""Images without identity, after PS3.15 Annex E: the Basic Application Level Confidentiality Profile."""

from __future__ import annotations

import io
import json
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

import lungvq
from lungvq.deid.clean import Deidentifier, Secret
from lungvq.deid.images import Refused, read_image
from lungvq.deid.profile import EDITION, Option, Profile
from lungvq.errors import InputError, OutputError, UsageError
from lungvq.export.folder import staged
from lungvq.progress import SILENT, Progress

__all__ = ["Option", "Outcome", "Profile", "Secret", "deidentify"]

LOG = "deid.json"
_IMAGES = "dicom"
_IMPLEMENTATION = UID("2.25.253287162105127460182737127317264539186")  # of this de-identifier


@dataclass
class Outcome:
    """What became of the files.

    Attributes
    ----------
    written : int
        Files de-identified.
    patients, studies, series : set of str
        The new names of all that was written.
    refused : dict of Path to str
        Files that were left out, and why.
    done : Counter of str
        How often each action was taken.
    """

    written: int = 0
    patients: set[str] = field(default_factory=set)
    studies: set[str] = field(default_factory=set)
    series: set[str] = field(default_factory=set)
    refused: dict[Path, str] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Why files were refused and how many, most first."""
        return Counter(self.refused.values()).most_common()


def deidentify(
    source: Path,
    out: Path,
    *,
    profile: Profile | None = None,
    secret: Secret | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Outcome:
    """Write a copy of every image below `source` without what could name its patient.

    The copies lie in ``out/dicom/<study>/<series>/<instance>.dcm``, called by their new UIDs, with ``out/deid.json``
    beside them, which counts and names nobody. Pixels are those of the source, byte for byte.

    Parameters
    ----------
    source : Path
        A folder with DICOM files at any depth, or one file.
    out : Path
        A folder outside `source`.
    profile : Profile, optional
        Default the Basic Profile without options.
    secret : Secret, optional
        With the same one, the same patient, study or instance gets the same new name in every call. Default a new one
        that is forgotten.
    force : bool
        Replace images that were written there before.
    progress : Progress, optional

    Returns
    -------
    Outcome

    Raises
    ------
    InputError
        If no file could be de-identified; nothing is written then.
    UsageError
        If `out` lies within `source`, or holds images already.
    OutputError
        If it cannot be written.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist; give a folder with DICOM files, or one file")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out} lies within {source}; choose a folder outside of it")
    profile, secret = profile or Profile(), secret or Secret.from_user()
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    worker, outcome = Deidentifier(profile, secret), Outcome()
    outcome.done = worker.done
    # What pydicom says of an odd value quotes it.
    with (
        staged(out, (_IMAGES, LOG), force=force) as stage,
        warnings.catch_warnings(action="ignore"),
        pydicom.config.disable_value_validation(),
    ):
        progress.stage("de-identifying")
        for n, file in enumerate(files, 1):
            try:
                _one(file, stage / _IMAGES, worker, outcome)
            except Refused as refusal:
                outcome.refused[file] = str(refusal)
            progress.fraction(n / len(files))
        if not outcome.written:
            reasons = "; ".join(f"{count} {reason}" for reason, count in outcome.reasons)
            raise InputError(f"no file in {source} could be de-identified: {reasons or 'it is empty'}")
        (stage / LOG).write_text(json.dumps(_log(profile, outcome), indent=2) + "\n", encoding="utf-8")
    return outcome


def _one(file: Path, folder: Path, worker: Deidentifier, outcome: Outcome) -> None:
    """Read, clean and write one image."""
    dataset = read_image(file)
    try:
        worker.clean(dataset)
        dataset.file_meta = _meta(dataset)
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
        names = [str(dataset[k].value) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    except (Refused, MemoryError):
        raise
    except Exception:  # damaged values come to light only when they are decoded
        raise Refused("damaged, cannot be read") from None
    target = folder / names[0] / names[1] / f"{names[2]}.dcm"
    data = buffer.getvalue()
    if target.exists():
        if target.read_bytes() != data:
            raise Refused("another file has the same SOP Instance UID and other content")
        raise Refused("a copy of another file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from error
    outcome.written += 1
    outcome.patients.add(str(dataset.PatientID))
    outcome.studies.add(names[0])
    outcome.series.add(names[1])


def _meta(dataset: Dataset) -> FileMetaDataset:
    """File meta information that says nothing of who wrote the file before."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = "LUNGVQ_DEID"
    dataset.preamble = b"\0" * 128
    return meta


def _log(profile: Profile, outcome: Outcome) -> dict[str, Any]:
    return {
        "schema": "lungvq.deid/1",
        "lungvq": lungvq.__version__,
        "profile": EDITION,
        "options": sorted(option.value for option in profile.options),
        "codes": [f"{value} {meaning}" for value, meaning in profile.codes()],
        "patients": len(outcome.patients),
        "studies": len(outcome.studies),
        "series": len(outcome.series),
        "files": outcome.written,
        "refused": dict(outcome.reasons),
        "actions": dict(sorted(outcome.done.items())),
    }
