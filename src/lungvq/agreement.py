"""What the headers of two scans say of each other: the same patient, the same day, the same scanner?"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from lungvq.errors import PairError
from lungvq.findings import Finding, Severity

__all__ = [
    "Who",
    "agreement",
    "check_same_patient",
    "patient_agreement",
    "scan_time",
    "slice_thickness",
    "why_strangers",
]

MOST_HOURS_APART = 1.0
MOST_THICKNESS_RATIO = 1.5


class Who(Protocol):
    """What identifies a patient, as text that may be empty: `lungvq.io.Patient` is one."""

    @property
    def id(self) -> str:
        """Number given by the hospital."""

    @property
    def name(self) -> str:
        """In DICOM's form."""

    @property
    def birth_date(self) -> str:
        """YYYYMMDD."""

    @property
    def sex(self) -> str:
        """One letter."""


def why_strangers(a: Who, b: Who) -> str:
    """In what two patients differ, so that they cannot be one; empty where nothing speaks against it.

    A different Patient ID is enough, as is, with the same or no ID, a different date of birth together with
    another name or sex, or all that is known where there is no ID. What a file does not tell counts for nothing.

    Examples
    --------
    >>> from lungvq.io import Patient
    >>> why_strangers(Patient("1", "Doe^Jane"), Patient("2", "Doe^Jane"))
    'PatientID'
    >>> why_strangers(Patient("1", "Doe^Jane"), Patient("1", "DOE^JANE^"))
    ''
    >>> why_strangers(Patient("", "Doe^Jane"), Patient("", "Roe^Richard"))
    'PatientName'
    """
    differing = [title for title, (one, other) in _told_of_both(a, b).items() if one != other]
    same_id = bool(a.id) and a.id == b.id
    if "PatientID" in differing or len(differing) > 1 or (differing and not same_id):
        return " and ".join(differing)
    return ""


def _told_of_both(a: Who, b: Who) -> dict[str, tuple[str, str]]:
    """What two patients are both told to be, spelling aside, by the name of the attribute."""
    told = {
        "PatientID": (a.id, b.id),
        "PatientName": (_plain_name(a.name), _plain_name(b.name)),
        "PatientBirthDate": (a.birth_date, b.birth_date),
        "PatientSex": (_known_sex(a.sex), _known_sex(b.sex)),
    }
    return {title: values for title, values in told.items() if all(values)}


def _plain_name(name: str) -> str:
    """Of a name, what spelling does not change: letters without case and accents, family and given name."""
    parts = unicodedata.normalize("NFKD", name.split("=")[0].casefold()).split("^")[:2]
    return "^".join("".join(c for c in part if c.isalnum()) for part in parts).strip("^")


def _known_sex(sex: str) -> str:
    return sex if sex in ("M", "F") else ""


def check_same_patient(insp: Who, exp: Who) -> None:
    """Refuse scans that say they are of different patients; files that do not say are taken as given.

    Raises
    ------
    PairError
    """
    if differ := why_strangers(insp, exp):
        raise PairError(
            f"the scans are of different patients (their {differ} differ): give both scans of one patient"
        )


def patient_agreement(insp: Who, exp: Who) -> tuple[Finding, ...]:
    """Whether what both scans tell of their patient is the same; nothing where they tell nothing.

    One difference under one Patient ID is as a rule a correction between the scans, and is no reason to refuse
    (`why_strangers`); a number given twice looks the same.

    Examples
    --------
    >>> from lungvq.io import Patient
    >>> patient_agreement(Patient("1", "Doe^Jane"), Patient("1", "Roe^Jane"))[0].message
    'The scans name different patients under one PatientID: their PatientName differs.'
    """
    told = _told_of_both(insp, exp)
    if not told:
        return ()
    differing = [title for title, (one, other) in told.items() if one != other]
    if not differing:
        return (Finding("PATIENT_MATCH", Severity.PASS, "The scans name the same patient."),)
    return (
        Finding(
            "PATIENT_MISMATCH",
            Severity.WARN,
            "The scans name different patients under one PatientID:"
            f" their {' and '.join(differing)} {'differ' if len(differing) > 1 else 'differs'}.",
            advice="Check that both scans are of one patient.",
        ),
    )


_CLOCKS = {6: "%H%M%S", 4: "%H%M", 2: "%H"}


def scan_time(facts: Mapping[str, Any]) -> datetime | None:
    """When a series was acquired, from the most precise of what its header tells.

    Examples
    --------
    >>> scan_time({"acquisition_date": "20260115", "acquisition_time": "101530.25"})
    datetime.datetime(2026, 1, 15, 10, 15, 30)
    """
    together = str(facts.get("acquisition_datetime") or "")
    pairs = [(together[:8], together[8:])]
    for event in ("acquisition", "series", "study"):
        date = facts.get(f"{event}_date") or facts.get("study_date")
        pairs.append((str(date or ""), str(facts.get(f"{event}_time") or "")))
    for date, time in pairs:
        # DICOM lets go of seconds, and of minutes: without the length, 1015 would be read as 10:01:05.
        clock = time.split(".")[0].split("+")[0].split("-")[0]
        try:
            return datetime.strptime(date + clock, "%Y%m%d" + _CLOCKS[len(clock)])
        except (ValueError, KeyError):
            continue
    return None


def slice_thickness(facts: Mapping[str, Any]) -> float:
    """mm, the largest where slices differ; 0 where it is not told."""
    told = facts.get("slice_thickness_mm")
    values = told if isinstance(told, list | tuple) else [told]
    return max((float(v) for v in values if isinstance(v, int | float) and v > 0), default=0.0)


def agreement(insp: Mapping[str, Any], exp: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Check what the headers of two scans tell against each other; nothing where one of them does not tell.

    Parameters
    ----------
    insp, exp : dict
        Facts of `lungvq.io.Scan`.

    Returns
    -------
    tuple of Finding
        None of them a FAIL: the pair is registered whatever the headers say, but a reader should know.
    """
    return tuple(
        finding
        for finding in (
            _time(insp, exp),
            _same(insp, exp, ("study_uid",), "STUDY", "belong to the same study", "belong to two studies"),
            _same(
                insp,
                exp,
                ("frame_of_reference_uid",),
                "FRAME",
                "share a frame of reference",
                "have different frames of reference: the patient may have been moved between them",
            ),
            _same(
                insp,
                exp,
                ("patient_position",),
                "POSITION",
                "were taken in the same position",
                "were taken in different positions, so that gravity acts differently",
            ),
            _same(
                insp,
                exp,
                ("manufacturer", "model"),
                "SCANNER",
                "come from the same kind of scanner",
                "come from different scanners",
            ),
            _same(insp, exp, ("kvp",), "KVP", "have the same tube voltage", "have different tube voltages"),
            _thickness(insp, exp),
        )
        if finding
    )


def _time(insp: Mapping[str, Any], exp: Mapping[str, Any]) -> Finding | None:
    times = scan_time(insp), scan_time(exp)
    if times[0] is None or times[1] is None:
        return None
    hours = abs((times[1] - times[0]).total_seconds()) / 3600
    apart = (
        f"{hours / 24:.0f} days"
        if hours >= 48
        else f"{hours:.1f} hours"
        if hours >= 2
        else f"{60 * hours:.0f} minutes"
    )
    late = hours > MOST_HOURS_APART
    return Finding(
        "TIME_BETWEEN_SCANS",
        Severity.WARN if late else Severity.PASS,
        f"The scans were taken {apart} apart.",
        value=round(hours, 3),
        limit=MOST_HOURS_APART,
        unit="h",
        advice="The lungs may have changed in between; use two scans of one session." if late else "",
    )


def _same(
    insp: Mapping[str, Any],
    exp: Mapping[str, Any],
    keys: tuple[str, ...],
    code: str,
    same: str,
    different: str,
) -> Finding | None:
    values = [" ".join(str(facts[key]) for key in keys if facts.get(key)) for facts in (insp, exp)]
    if not all(values):
        return None
    if values[0] == values[1]:
        return Finding(f"{code}_MATCH", Severity.PASS, f"The scans {same}.")
    told = "" if keys[0].endswith("_uid") else f" ({values[0]} and {values[1]})"
    return Finding(f"{code}_MISMATCH", Severity.WARN, f"The scans {different}{told}.")


def _thickness(insp: Mapping[str, Any], exp: Mapping[str, Any]) -> Finding | None:
    mm = [slice_thickness(facts) for facts in (insp, exp)]
    if min(mm) <= 0:
        return None
    ratio = max(mm) / min(mm)
    far = ratio > MOST_THICKNESS_RATIO
    return Finding(
        "THICKNESS_MISMATCH" if far else "THICKNESS_MATCH",
        Severity.WARN if far else Severity.PASS,
        f"The slices are {mm[0]:g} mm thick at inspiration and {mm[1]:g} mm at expiration.",
        value=round(ratio, 2),
        limit=MOST_THICKNESS_RATIO,
        unit="thicker/thinner",
        advice="Reconstruct both with the same slice thickness." if far else "",
    )
