"""What PS3.15 asks for each attribute: Table E.1-1 and how its options and compound codes are settled.

The table is ``ps3_15_e.csv``: the tag (``x`` for any digit, ``odd`` for private attributes), its name, the code of
the Basic Application Level Confidentiality Profile, and the code under each option. Source: DICOM PS3.15 2026c,
Annex E, Table E.1-1 (656 rows).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources

from pydicom.datadict import tag_for_keyword

from lungvq.errors import UsageError

__all__ = ["EDITION", "Action", "Option", "Profile", "Row", "table"]

EDITION = "DICOM PS3.15 2026c, Table E.1-1"


class Action(StrEnum):
    """What is done with one attribute."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"
    KEEP = "K"
    CLEAN = "C"


class Option(StrEnum):
    """An option of the profile: the column of the table, and how it is called on the command line."""

    PATIENT = "patient"
    DEVICE = "device"
    INSTITUTION = "institution"
    MODIFIED_DATES = "modified-dates"
    FULL_DATES = "full-dates"
    DESCRIPTORS = "descriptors"

    @property
    def column(self) -> str:
        """Its column in the table."""
        return self.value.replace("-", "_")

    @property
    def code(self) -> tuple[str, str]:
        """Its DICOM code (CID 7050) and meaning."""
        return _CODES[self]


_CODES = {
    Option.DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    Option.FULL_DATES: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    Option.MODIFIED_DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Option.PATIENT: ("113108", "Retain Patient Characteristics Option"),
    Option.DEVICE: ("113109", "Retain Device Identity Option"),
    Option.INSTITUTION: ("113112", "Retain Institution Identity Option"),
}


@dataclass(frozen=True)
class Row:
    """One row of the table: codes by column, empty where the standard leaves the cell empty."""

    tag: str
    attribute: str
    codes: dict[str, str]


@cache
def table() -> dict[str, Row]:
    """The table, keyed by tag as eight upper-case digits (or ``50xxxxxx`` and the like)."""
    text = resources.files("lungvq.deid").joinpath("ps3_15_e.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["tag"]: Row(row.pop("tag"), row.pop("attribute"), row) for row in rows}


# "X unless Z (or D) is required": where the images that are accepted do require a value (PS3.3). Z keeps the
# attribute without a value, D with a made-up one.
_ENHANCED = {
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "legacy converted enhanced CT",
    "1.2.840.10008.5.1.4.1.1.30": "parametric map",
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "label map segmentation",
}
_PET = "1.2.840.10008.5.1.4.1.1.128"
_NEEDED_BY_ENHANCED = {
    "AcquisitionContextSequence": Action.EMPTY,
    "AcquisitionDateTime": Action.DUMMY,
    "ContentDate": Action.DUMMY,
    "ContentTime": Action.DUMMY,
    "DeviceSerialNumber": Action.DUMMY,
    "ReferencedImageSequence": Action.UID,
    "ReferencedPerformedProcedureStepSequence": Action.DUMMY,
    "SourceImageSequence": Action.UID,
}
_NEEDED_BY_PET = {
    "SeriesDate": Action.DUMMY,
    "SeriesTime": Action.DUMMY,
    "AcquisitionDate": Action.EMPTY,
    "AcquisitionTime": Action.EMPTY,
}
_ALWAYS = {"PatientID": Action.DUMMY}  # a pseudonym, so that the patient's files stay together


@dataclass(frozen=True)
class Profile:
    """The Basic Profile with some of its options.

    Parameters
    ----------
    options : frozenset of Option

    Raises
    ------
    UsageError
        If dates shall be both kept and shifted.
    """

    options: frozenset[Option] = frozenset()

    def __post_init__(self) -> None:
        if {Option.FULL_DATES, Option.MODIFIED_DATES} <= self.options:
            raise UsageError("full-dates and modified-dates exclude each other; give one of them")

    @classmethod
    def of(cls, names: Iterable[str]) -> Profile:
        """The profile with the options of these names.

        Raises
        ------
        UsageError
            If there is no option of a name.
        """
        known = {option.value: option for option in Option}
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise UsageError(f"there is no option {unknown[0]!r}; there are: {', '.join(known)}")
        return cls(frozenset(known[name] for name in names))

    def codes(self) -> list[tuple[str, str]]:
        """Codes and meanings for De-identification Method Code Sequence."""
        return [
            ("113100", "Basic Application Confidentiality Profile"),
            *sorted(option.code for option in self.options),
        ]

    def action(self, tag: int, sop_class: str = "") -> Action | None:
        """What is to be done with an attribute; None where the table does not name it.

        An option overrides the profile; where two options differ, keeping is left to the one that keeps.

        Parameters
        ----------
        tag : int
            Of a standard attribute: private ones, curves and overlays are removed as groups.
        sop_class : str
            Of the image it is in, which may need a value where the profile would remove it.
        """
        row = table().get(f"{tag:08X}")
        if row is None:
            return None
        given = {row.codes[option.column] for option in self.options} - {""}
        for action in (Action.KEEP, Action.CLEAN):
            if action in given:
                return action
        return _settled(row.codes["basic"], tag, sop_class)


def _settled(code: str, tag: int, sop_class: str) -> Action:
    """One action for a code such as ``X/Z/D``.

    Examples
    --------
    >>> _settled("X/D", 0x00080021, "1.2.840.10008.5.1.4.1.1.2")  # series date of a CT
    <Action.REMOVE: 'X'>
    >>> _settled("X/D", 0x00080021, "1.2.840.10008.5.1.4.1.1.128")  # of a PET
    <Action.DUMMY: 'D'>
    """
    allowed = [Action(part) for part in code.replace("*", "").split("/")]
    needed = _needed(sop_class).get(tag)
    return needed if needed in allowed else allowed[0]


@cache
def _needed(sop_class: str) -> dict[int, Action]:
    needed = dict(_ALWAYS)
    if sop_class in _ENHANCED:
        needed |= _NEEDED_BY_ENHANCED
    if sop_class == _PET:
        needed |= _NEEDED_BY_PET
    return {tag: action for name, action in needed.items() if (tag := tag_for_keyword(name)) is not None}
