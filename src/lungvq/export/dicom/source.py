"""Whose result it is: patient, study and frame of reference, from the scan or, without DICOM, made up."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from lungvq.errors import InputError
from lungvq.export.dicom.uids import uid

__all__ = ["CARRIED", "Reference", "Source", "carried", "made_up", "read_source"]

CARRIED: dict[str, tuple[str, ...]] = {
    "Patient": (
        "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex",
        "EthnicGroup", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    ),
    "General Study": (
        "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
        "StudyDescription",
    ),
    "Patient Study": ("PatientAge", "PatientSize", "PatientWeight"),
    "Clinical Trial": (
        "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName",
        "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID",
    ),
    "SOP Common": ("TimezoneOffsetFromUTC", "LongitudinalTemporalInformationModified"),
}  # fmt: skip
"""What is copied from the expiration scan into every object, module by module; nothing else is."""

REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
"""Present in every object, empty where the scan does not tell."""

_IDENTIFIERS = {"PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID"}
"""Carried as they are, even where too long: a shortened number is another patient's."""

_TRIAL = CARRIED["Clinical Trial"]
_TRIAL_NEEDED = ("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialSubjectID")
_GEOMETRY = ("FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition", "SliceThickness")
_SLICE = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImagePositionPatient", "AcquisitionDate",
    "AcquisitionTime", "BodyPartExamined", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip

_SAME_PLACE_MM = 0.05

_PATTERNS = {
    "AS": r"\d{3}[DWMY]",
    "CS": r"[A-Z0-9_ ]{0,16}",
    "DA": r"\d{8}",
    "SH": r"[^\\]{0,16}",
    "LO": r"[^\\]{0,64}",
    "PN": r"[^\\]{0,200}",
    "TM": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
    "UI": r"\d[\d.]{1,63}",  # forgiving: it must stay the same as in the scan
}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Reference:
    """One slice of the scan that a result was made from."""

    sop_class: str
    instance: str
    position: tuple[float, float, float] | None
    frame: int | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """What every object of a run has from its scan.

    Parameters
    ----------
    seed : str
        What the UIDs of a result follow from: equal for runs that give the same result.
    header : Dataset
        Patient and study, text already decoded, values that the standard does not allow left out.
    series_uid : str
        Of the expiration scan; empty where it was not DICOM.
    slices : tuple of Reference
        Its slices or frames, in any order.
    frame_of_reference_uid, position_reference, patient_position, body_part : str
    slice_thickness : float or None
    acquired : tuple of str
        Acquisition date and time, empty where unknown.
    """

    seed: str
    header: Dataset
    series_uid: str
    slices: tuple[Reference, ...]
    frame_of_reference_uid: str
    position_reference: str = ""
    patient_position: str = ""
    body_part: str = "CHEST"
    slice_thickness: float | None = None
    acquired: tuple[str, str] = ("", "")

    def at(self, positions: np.ndarray) -> list[Reference] | None:
        """The slice at each of the positions (N, 3) in LPS mm; None unless every one has its own."""
        known = [r for r in self.slices if r.position is not None]
        if not known or not self.series_uid:
            return None
        there = np.array([r.position for r in known])
        nearest = [int(np.argmin(np.abs(there - p).sum(axis=1))) for p in positions]
        off = np.abs(there[nearest] - positions).max()
        return (
            [known[n] for n in nearest] if off < _SAME_PLACE_MM and len({*nearest}) == len(nearest) else None
        )

    def local(self, moment: datetime) -> datetime:
        """A moment on the clock that the scan's times were written by."""
        offset = str(self.header.get("TimezoneOffsetFromUTC") or "")
        return moment.astimezone(datetime.strptime(offset, "%z").tzinfo if offset else None)


def read_source(files: Sequence[Path], seed: str) -> Source:
    """Patient, study and slices of a DICOM series.

    Parameters
    ----------
    files : sequence of Path
        All files of the series; already read once, so known to be a CT.
    seed : str
        What the UIDs of the result follow from, and those that the scan should have and has not.

    Raises
    ------
    InputError
        If a file cannot be read any more.
    """
    wanted = [k for names in (*CARRIED.values(), _GEOMETRY, _SLICE) for k in names]
    headers = []
    for file in files:
        try:
            with warnings.catch_warnings(action="ignore"):
                headers.append(
                    pydicom.dcmread(
                        file,
                        stop_before_pixels=True,
                        force=True,
                        specific_tags=["SpecificCharacterSet", *wanted],
                    )
                )
        except Exception as error:  # a damaged header raises nearly anything
            raise InputError(
                f"{file}: its header cannot be read again for the DICOM results ({type(error).__name__}); run with"
                " --no-dicom, or export the series again"
            ) from None
    first = headers[0]
    with warnings.catch_warnings(action="ignore"):  # pydicom would print values that it finds odd
        header = carried(first)
    if "StudyInstanceUID" not in header:
        header.StudyInstanceUID = uid(seed, "study")
    thickness = _number(first.get("SliceThickness"))
    return Source(
        seed=seed,
        header=header,
        series_uid=_clean(first, "SeriesInstanceUID") or "",
        slices=tuple(reference for each in headers for reference in _references(each)),
        frame_of_reference_uid=_clean(first, "FrameOfReferenceUID") or uid(seed, "frame of reference"),
        position_reference=_clean(first, "PositionReferenceIndicator") or "",
        patient_position=_clean(first, "PatientPosition") or "",
        slice_thickness=thickness if thickness and thickness > 0 else None,
        acquired=(_clean(first, "AcquisitionDate") or "", _clean(first, "AcquisitionTime") or ""),
    )


def made_up(case: str | None, seed: str) -> Source:
    """A patient and a study for scans that came without: the case's name, or ``ANON``."""
    header = Dataset()
    for keyword in REQUIRED:
        setattr(header, keyword, "")
    header.PatientID = _CONTROLS.sub("", (case or "ANON").replace("\\", "/"))[:64]
    header.PatientName = header.PatientID.replace("^", " ").replace("=", " ")
    header.StudyInstanceUID = uid(seed, "study")
    header.StudyDescription = "CT that came without DICOM headers"
    return Source(seed, header, "", (), uid(seed, "frame of reference"))


def carried(first: Dataset) -> Dataset:
    """The carried attributes, as plain text that any character set can be written in."""
    header = Dataset()
    for keyword in (k for names in CARRIED.values() for k in names):
        if keyword == "DeidentificationMethodCodeSequence":
            items = [_code(item) for item in first.get(keyword) or ()]
            if items and None not in items:
                setattr(header, keyword, items)
            continue
        value = _clean(first, keyword)
        if value is not None:
            setattr(header, keyword, PersonName(value) if dictionary_VR(keyword) == "PN" else value)
    for keyword in REQUIRED:
        if keyword not in header:
            setattr(header, keyword, "")
    if header.PatientSex not in ("", "M", "F", "O"):
        header.PatientSex = ""
    if header.get("PatientIdentityRemoved") == "YES" and not (
        "DeidentificationMethod" in header or "DeidentificationMethodCodeSequence" in header
    ):
        header.DeidentificationMethod = "Not told by the source"
    whole = all(header.get(keyword) for keyword in _TRIAL_NEEDED)
    for keyword in _TRIAL:
        if not whole and keyword in header:
            del header[keyword]
        elif whole and keyword not in header:
            setattr(header, keyword, "")
    return header


def _clean(header: Dataset, keyword: str) -> str | None:
    """A value as text, None where it is missing or not what its type allows."""
    try:
        with warnings.catch_warnings(action="ignore"):
            value: Any = header.get(keyword)
    except Exception:  # undecodable text, or a number that is none
        return None
    if value is None:
        return None
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        value = "\\".join(map(str, value)) if keyword in _IDENTIFIERS else (value[0] if len(value) else "")
    text = _CONTROLS.sub("", str(value)).strip()
    vr = dictionary_VR(keyword)
    if vr == "DS":
        return text if _number(text) is not None and len(text) <= 16 else None
    if keyword in _IDENTIFIERS:
        return text
    if not re.fullmatch(_PATTERNS.get(vr, r".*"), text) and text:
        return None
    if vr == "DA" and text and not _is_date(text):
        return None
    if keyword == "TimezoneOffsetFromUTC" and not re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", text):
        return None
    return text or None


def _is_date(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return True


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _code(item: Dataset) -> Dataset | None:
    """A code sequence item of three plain texts, or None."""
    keywords = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    values = [_clean(item, keyword) for keyword in keywords]
    if None in values:
        return None
    code = Dataset()
    for keyword, value in zip(keywords, values, strict=True):
        setattr(code, keyword, value)
    return code


def _references(header: Dataset) -> list[Reference]:
    """The slice of a single-frame header, or every frame of a multi-frame one."""
    sop_class, instance = _clean(header, "SOPClassUID"), _clean(header, "SOPInstanceUID")
    if sop_class is None or instance is None:
        return []
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        return [Reference(sop_class, instance, _position(header))]
    return [
        Reference(sop_class, instance, _position((group.get("PlanePositionSequence") or [Dataset()])[0]), n)
        for n, group in enumerate(groups, start=1)
    ]


def _position(header: Dataset) -> tuple[float, float, float] | None:
    values = [_number(v) for v in header.get("ImagePositionPatient") or ()]
    if len(values) != 3 or None in values:
        return None
    return tuple(values)  # type: ignore[return-value]
