"""The DICOM conformance statement, put together from the tables that the code works by.

``python -m lungvq.conformance`` prints it; ``docs/conformance.md`` is that text, and a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill

from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from lungvq.anatomy import PRM_CLASSES, REGIONS, VQ_CLASSES
from lungvq.export.dicom.common import IMPLEMENTATION_CLASS, MAKER, RESEARCH_USE
from lungvq.export.dicom.names import (
    CT_IMAGE,
    KINDS,
    LABEL_MAP,
    OWN_SCHEME,
    QUANTITIES,
    TITLES,
    name_of_class,
    own,
    site_of,
)
from lungvq.export.dicom.seg import SEGMENTS
from lungvq.export.dicom.series import PADDING
from lungvq.export.dicom.source import CARRIED, REQUIRED
from lungvq.export.dicom.sr import STANDARD_NAMES
from lungvq.io import dicom
from lungvq.result import MAPS
from lungvq.send import AUTHORIZATION, OPTIONAL, Sending, Stored, proposed_contexts

__all__ = ["own_codes", "statement"]

_READ = (CT_IMAGE, "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")


def own_codes() -> list[Code]:
    """Every code of the private scheme that a release can write, in order of its value."""
    names = {
        *TITLES,
        *(spec.method for spec in MAPS.values()),
        "mask@1",
        "clear_of_wall@1",
        "threshold@1",
        *(f"vq_{name}_pct" for name in (*VQ_CLASSES, "abnormal")),
        *(f"prm_{name}_pct" for name in PRM_CLASSES),
    }
    return sorted(map(own, names), key=lambda code: code.value)


def statement() -> str:
    """The conformance statement as Markdown."""
    parts = (_head(), _written(), _series(), _codes(), _carried(), _read(), _network(), _rest())
    return "\n\n".join(_filled(block) for part in parts for block in part.split("\n\n")) + "\n"


def _filled(block: str) -> str:
    """A paragraph in lines of equal length; headings and tables as they are."""
    if block.startswith(("#", "|")):
        return block
    return fill(" ".join(block.split()), 118, break_long_words=False, break_on_hyphens=False)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _shown(code: Code) -> str:
    return f"({code.value}, {code.scheme_designator}, “{code.meaning}”)"


def _head() -> str:
    return f"""# DICOM conformance statement

lungvq reads CT series, writes derived objects into the study of the expiration scan, and sends them.
{RESEARCH_USE} This page is made by `python -m lungvq.conformance` from the tables that the code works by. How
to use it in practice: [your PACS and lungvq](pacs.md).

Implementation Class UID `{IMPLEMENTATION_CLASS}`, Implementation Version Name `{MAKER.upper()}`. There are no
private attributes, no private SOP classes and no private transfer syntaxes."""


def _written() -> str:
    rows = [
        (
            f"`{name}`",
            kind.title,
            f"{name_of_class(kind.sop_class)} `{kind.sop_class}`",
            kind.modality,
            kind.number,
            f"`--dicom-also {kind.extra}`" if kind.extra else "always",
        )
        for name, kind in KINDS.items()
    ]
    compressed = f"{RLELossless.name} for {name_of_class(LABEL_MAP)}"
    return f"""## Objects written

{_table(("name", "Series Description (and “(research)”)", "SOP class", "Modality", "Series Number", "written"), rows)}

Transfer syntax: {ExplicitVRLittleEndian.name}; {compressed}. An object is left out where there is nothing in
it, which `run.json` notes. A series that a failed check touches is called “QC FAIL: ...”.

UIDs are name-based UUIDs below the arc 2.25 (PS3.5 B.2). They follow from the SHA-256 of the input files, the
parameters, the version, the kind of object and the instance number: the same run again makes the same UIDs,
with the dates of the later run."""


def _series() -> str:
    rows = [
        (
            MAPS[name].title,
            quantity.display_unit,
            f"`{quantity.rescale_type}`",
            _shown(quantity.unit),
            _shown(quantity.code),
        )
        for name, quantity in QUANTITIES.items()
        if name in KINDS
    ]
    return f"""## Quantitative series

{UID(CT_IMAGE).name}, one file for each slice of the expiration scan, at its position and in its frame of
reference. Image Type `DERIVED\\SECONDARY\\AXIAL\\...`, Content Qualification `RESEARCH`, unsigned 16 bits,
Pixel Padding Value {PADDING} where the map is not defined. Derivation Description and Contributing Equipment
tell method, software, version, input hashes and all parameters; Source Image names the slice of the scan at the
same position, where there is one.

{_table(("map", "value after rescale", "Rescale Type", "unit of the real world value mapping", "quantity"), rows)}

The slope is the finest of 1, 2 or 5 times a power of ten, at least 0.01, with which all values of the map fit.

Secondary Capture images carry Image Position, Image Orientation, Pixel Spacing and Frame of Reference too, and
a burned-in colour bar without any patient data."""


def _codes() -> str:
    segments = [
        (
            f"`{name}`",
            number,
            segment.label,
            _shown(segment.category),
            _shown(segment.kind),
            _shown(segment.side) if segment.side else "",
        )
        for name, listed in SEGMENTS.items()
        for number, segment in enumerate(listed, start=1)
    ]
    sites = [(f"`{r}`", _shown(site_of(r).structure), _shown(site_of(r).side)) for r in REGIONS]
    standard = [(f"`{m}`", _shown(name), _shown(when)) for m, (name, when) in STANDARD_NAMES.items()]
    private = [(f"`{code.value}`", code.meaning) for code in own_codes()]
    return f"""## Segmentations

{_table(("object", "segment", "label", "category", "type", "modifier"), segments)}

Binary; label maps on request. Frames have the full matrix; only those that hold a segment are written.

## Measurement report

TID 1500 in Comprehensive 3D SR, complete, unverified. One group for each region: TID 1411 on its segment for
lungs and lobes, TID 1501 for both lungs together and for zones. The core numbers of `metrics.csv` are there,
those of the first table of its page, by their default method and where they are defined: with seven digits, unit
(UCUM), method and, where there is one, interval (`ci_low`, `ci_high`). Air gained is there by every estimator;
properties mark what is not the default (`use`: `alternative`), and what a check touches (`qc`: its state).

{_table(("region", "finding site", "laterality"), sites)}

{_table(("metric", "concept", "(272517003, SCT, “Respiratory cycle point”)"), standard)}

## Codes of our own

Coding Scheme Designator `{OWN_SCHEME}`. A code value is the name of the metric or method in `metrics.csv`,
shortened to 16 characters where it is longer: `ventilation` to `v`, `perfusion` to `q`, and so on. Values are
never reused.

{_table(("code value", "code meaning"), private)}"""


def _carried() -> str:
    rows = [
        (module, ", ".join(f"{k}{' (2)' if k in REQUIRED else ''}" for k in keywords))
        for module, keywords in CARRIED.items()
    ]
    return f"""## Attributes taken from the expiration scan

{_table(("module", "attributes; (2): present and empty where unknown"), rows)}

Also Frame of Reference UID, Position Reference Indicator, Patient Position, Slice Thickness, and Acquisition
Date and Time. Nothing else is copied. Text is decoded and written in UTF-8 (`ISO_IR 192`). A value that its
type does not allow is left out, but for identifiers, which are never changed. Clinical Trial attributes are
copied only where the module is whole. For scans without DICOM, Patient ID and Name are the case's name, or
`ANON`, and study and frame of reference are new."""


def _read() -> str:
    classes = [(UID(uid).name, f"`{uid}`") for uid in _READ]
    syntaxes = [(name, f"`{uid}`") for uid, name in dicom.SYNTAXES.items()]
    return f"""## Objects read

From files, folders and zip archives; there is no query or retrieve.

{_table(("SOP class", "UID"), classes)}

{_table(("transfer syntax", "UID"), syntaxes)}

All character sets of PS3.3 C.12.1.1.2 that pydicom knows."""


def _network() -> str:
    usual = Sending()
    objects = [
        Stored(
            Path(name),
            kind.sop_class,
            "",
            str(RLELossless if kind.sop_class == LABEL_MAP else ExplicitVRLittleEndian),
        )
        for name, kind in KINDS.items()
    ]
    contexts = [
        (name_of_class(sop_class), ", ".join(UID(syntax).name for syntax in syntaxes), "SCU")
        for sop_class, syntaxes in proposed_contexts(objects)
    ]
    contexts.append(("Storage Commitment Push Model", "the library's defaults", "SCU"))
    left_out = ", ".join(sorted(map(name_of_class, OPTIONAL)))
    return f"""## Network: `lungvq send`

Only `lungvq send` opens connections; nothing listens otherwise.

One association at a time to the called AE; calling AE title `{usual.title}` unless `--aet` is given. Only
presentation contexts for the files at hand are proposed:

{_table(("abstract syntax", "transfer syntaxes", "role"), contexts)}

C-STORE sends the bytes of the file; where the peer does not take its transfer syntax, the same values
uncompressed. Status 0000 and the warnings B000, B006 and B007 count as stored. Refused: Out of Resources
(A7xx), a lost association and no answer are tried again, {usual.attempts} times in all, with pauses that
double; any other status is final. Not an error, but a note, where the peer does not take it: {left_out}.
Time-out {usual.timeout:g} s.

Then an N-ACTION (Action Type ID 1) asks for storage commitment of all that was stored. The N-EVENT-REPORT is
taken on the same association, or on one that the peer opens to port {usual.listen} (`--listen`) of the address
from which it was asked; it must call our AE title and be the AE that was asked. Without it within the time-out,
or with failures in it, the command ends with 7. A peer without storage commitment is a note.

STOW-RS: `POST` of `multipart/related; type="application/dicom"` in parts of about 32 MB, `Accept:
application/dicom+json`; the value of `{AUTHORIZATION}` goes into the Authorization header. Answers 408, 429 and
5xx are tried again; what a Failed SOP Sequence names is not."""


def _rest() -> str:
    return """## Security

DIMSE connections are neither encrypted nor authenticated: within a protected network or a tunnel only. STOW-RS
may use https, with the certificates that the system trusts. De-identification is a command of its own (`lungvq
deid`)."""


if __name__ == "__main__":
    print(statement(), end="")
