"""What one series tells of itself: is it a whole, plain chest CT, at which breath, how well suited?"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lungvq import io, kernels
from lungvq.agreement import scan_time, slice_thickness
from lungvq.segment.glance import Glance
from lungvq.study import words

__all__ = [
    "CONTRAST",
    "Candidate",
    "breath_told",
    "clean",
    "header_reasons",
    "look_reasons",
    "purpose",
    "shared_texts",
    "suitability",
]

LEAST_SLICES = 30
LEAST_COVERAGE_MM = 120.0
MOST_CUT_PCT = 10.0
CONTRAST_BLOOD_HU = 100.0
THIN_MM, THICK_MM = 1.5, 3.0
CONTRAST = "contrast"
"""How a reason begins that sets a series aside for contrast medium, so that the verdict can name it."""

_NO_AGENT = re.compile(
    r"^\W*(none?|no|nil|null|without|w/?o|ohne|nein|kein\w*|sans|sin|senza|sem|nativ|0|n/?a|oral|po|per os|water)\b"
    r"|^\W*$",
    re.IGNORECASE,
)
_PHASE = {"MAXIMUM": words.INSPIRATION, "MINIMUM": words.EXPIRATION}
_GATED = {"REALTIME", "GATING", "TRACKING", "PHASE_ORDERING", "PHASE_SCANNING", "RETROSPECTIVE", "CORRECTION"}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A whole chest CT that could be one of the two breath-holds, and the evidence about it.

    `told` is the breath-hold its header names, ``"inspiration"`` or ``"expiration"``, and `told_by` where that
    stands; `score` is 10 less what speaks against its use, each with a reason in `minus`.
    """

    series: io.SeriesInfo
    look: Glance
    told: str
    told_by: str
    posture: str
    score: float
    minus: tuple[str, ...]

    @classmethod
    def of(cls, series: io.SeriesInfo, look: Glance, shared: Collection[str] = ()) -> Candidate:
        """Gather the evidence of a series that was looked at; `shared` as in `breath_told`."""
        told, told_by = breath_told(series, shared)
        score, minus = suitability(series)
        if not told:
            score, minus = score - 0.5, (*minus, "−0.5 breath-hold not named")
        return cls(series, look, told, told_by, posture(series), score, minus)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Of the series."""
        return self.series.facts

    @property
    def kernel_family(self) -> str:
        """Soft, medium, sharp or unknown (empty)."""
        return kernels.family(self.series.kernel)

    @property
    def thickness_mm(self) -> float:
        """Slice thickness, or the step where it is not told."""
        return _thickness(self.series)

    @property
    def study(self) -> str:
        """UID of the study; empty for image files."""
        return str(self.facts.get("study_uid") or "")

    def same_acquisition(self, other: Candidate) -> bool:
        """Whether both are reconstructions of one breath-hold, as far as times and lungs tell."""
        alike = 0.97 < self.look.lung_ml / other.look.lung_ml < 1 / 0.97
        numbers = [c.facts.get("acquisition_number") for c in (self, other)]
        if all(numbers) and numbers[0] != numbers[1]:
            return False
        times = [scan_time(c.facts) for c in (self, other)]
        if times[0] is None or times[1] is None:
            return alike
        return alike and abs((times[1] - times[0]).total_seconds()) < 20


def clean(text: str) -> str:
    """Text of a header for one line of a terminal: no control characters, no more than 60 characters."""
    line = " ".join(io.printable(text).split())
    return line if len(line) <= 60 else line[:59] + "…"


def _told_texts(series: io.SeriesInfo) -> tuple[tuple[str, str], ...]:
    """What may name a breath-hold, the most particular first, and what to call it."""
    facts = series.facts
    if series.kind != "dicom":
        return ((series.path.name.split(".")[0], "file name"), (series.path.parent.name, "folder name"))
    return (
        (series.description, "series description"),
        (str(facts.get("image_comments") or ""), "image comments"),
        (str(facts.get("protocol") or ""), "protocol"),
        (series.path.name, "folder name"),
    )


def shared_texts(all_series: Sequence[io.SeriesInfo]) -> frozenset[str]:
    """Texts other than descriptions that all series have in common: a protocol's name sets none of them apart."""
    texts = [{text for text, _ in _told_texts(s)[1:]} for s in all_series]
    return frozenset(set.intersection(*texts)) if len(texts) > 1 else frozenset()


def breath_told(series: io.SeriesInfo, shared: Collection[str] = ()) -> tuple[str, str]:
    """The breath-hold a header names and where: explicit tags first, then words, the most particular first.

    Texts in `shared` do not count.
    """
    facts = series.facts
    phases = {_PHASE.get(str(facts.get(f"respiratory_{end}_phase") or "")) for end in ("start", "end")}
    phases.discard(None)
    if len(phases) == 1:
        return str(phases.pop()), "respiratory phase tag"
    for text, where in _told_texts(series):
        if text not in shared and (told := words.breath(text)):
            return told, where
    return "", ""


def posture(series: io.SeriesInfo) -> str:
    """``"supine"``, ``"prone"`` or ``"decubitus"``; words count before the tag, which is often left as it was."""
    told = words.position(f"{series.description} {series.facts.get('image_comments') or ''}")
    tag = str(series.facts.get("patient_position") or "").upper()
    by_tag = "prone" if tag.endswith("P") else "decubitus" if tag.endswith(("DL", "DR")) else "supine"
    return told or by_tag


def purpose(series: io.SeriesInfo) -> str:
    """What the series is for instead of a breath-hold; empty where nothing says so."""
    if str(series.facts.get("respiratory_motion") or "").upper() in _GATED:
        return "a gated phase"
    if series.facts.get("respiratory_percent") is not None:
        return "a gated phase"
    return words.other_purpose(f"{series.description}")


def header_reasons(series: io.SeriesInfo) -> tuple[str, ...]:
    """Why a series cannot be a plain whole chest, as far as headers and geometry tell; empty if it may be."""
    reasons = []
    image_type = {part.strip().upper() for part in str(series.facts.get("image_type") or "").split("\\")}
    if "LOCALIZER" in image_type:
        reasons.append("a localizer")
    if "SECONDARY" in image_type:
        reasons.append("derived from other images (ImageType SECONDARY)")
    if series.kind == "dicom" and (word := words.reformatted(series.description)):
        reasons.append(f"a reformat or computed image by its description ({word!r})")
    if other := purpose(series):
        reasons.append(f"made for another purpose: {other}")
    if 0 < series.slices < LEAST_SLICES:
        reasons.append(f"only {series.slices} slices, at least {LEAST_SLICES} are needed")
    if series.grid is not None:
        if series.kind == "dicom" and series.grid.codes[0] not in "SI":
            plane = "coronal" if series.grid.codes[0] in "PA" else "sagittal"
            reasons.append(f"{plane}, not axial: a reformat")
        span = dict(
            zip(series.grid.codes, zip(series.grid.shape, series.grid.spacing, strict=True), strict=True)
        )
        count, step = span.get("S") or span["I"]
        if count * step < LEAST_COVERAGE_MM:
            reasons.append(
                f"covers {count * step:.0f} mm from head to foot, a chest needs {LEAST_COVERAGE_MM:.0f}"
            )
    agent = str(series.facts.get("contrast_agent") or "")
    if agent and not _NO_AGENT.search(agent):
        reasons.append(f"{CONTRAST} medium by its header ({clean(agent)!r})")
    elif series.kind == "dicom" and words.is_contrast(series.description):
        reasons.append(f"{CONTRAST} medium by its description")
    return tuple(reasons)


def look_reasons(look: Glance) -> tuple[str, ...]:
    """Why what was seen is no plain whole chest; empty if it is."""
    reasons = []
    if look.cut_pct > MOST_CUT_PCT:
        reasons.append(
            f"the scan cuts the lungs, by {look.cut_pct:.0f} % of their cross-section (at most {MOST_CUT_PCT:.0f})"
        )
    if look.blood_hu is not None and look.blood_hu > CONTRAST_BLOOD_HU:
        reasons.append(
            f"{CONTRAST} medium by its brightness: {look.blood_hu:.0f} HU between the lungs"
            f" (at most {CONTRAST_BLOOD_HU:.0f})"
        )
    return tuple(reasons)


def suitability(series: io.SeriesInfo) -> tuple[float, tuple[str, ...]]:
    """10 less what speaks against using a series, and the reasons.

    A slice more than 3 mm thick costs more than a sharp kernel, because structure that was never resolved cannot be
    registered, while noise can be smoothed.
    """
    minus: list[tuple[float, str]] = []
    family = kernels.family(series.kernel)
    if family == kernels.SHARP:
        minus.append((2, f"sharp kernel {clean(series.kernel)}"))
    elif family == kernels.MEDIUM:
        minus.append((1, f"medium kernel {clean(series.kernel)}"))
    thickness = _thickness(series)
    if thickness > THICK_MM:
        minus.append((3, f"{thickness:.3g} mm slices"))
    elif thickness > THIN_MM:
        minus.append((1, f"{thickness:.3g} mm slices"))
    if "DERIVED" in str(series.facts.get("image_type") or "").upper().split("\\"):
        minus.append((1, "marked as derived"))
    if series.facts.get("lossy"):
        minus.append((2, "compressed with loss"))
    if any(finding.severity != "PASS" for finding in series.findings):
        minus.append((1, "warnings on reading"))
    return 10 - sum(points for points, _ in minus), tuple(f"−{points:g} {text}" for points, text in minus)


def _thickness(series: io.SeriesInfo) -> float:
    step = float(max(series.grid.spacing)) if series.grid is not None else 0.0
    return slice_thickness(series.facts) or step
