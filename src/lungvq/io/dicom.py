"""DICOM CT series: which images make a volume, where it lies, and its HU.

Files are taken apart in processes of their own (`lungvq.io.sandbox`); what is here works on plain values.
A series is not a volume: scanners put scouts, several kernels and several breath-holds under one Series
Instance UID, so images are sorted into volumes by what they are, and then by where they lie.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungvq.errors import InputError, ResourceError
from lungvq.findings import Finding, passed, warn
from lungvq.io import sandbox
from lungvq.io.archive import Unpacked, is_archive, unpack
from lungvq.io.geometry import (
    SAME_DIRECTION,
    SAME_POSITION_MM,
    SAME_SPACING,
    Layout,
    Refusal,
    common_plane,
    lay_out,
    planes_from_slices,
    straighten,
    upright,
)
from lungvq.io.header import printable
from lungvq.io.scan import Patient
from lungvq.volume import Grid, Volume

__all__ = [
    "Image",
    "Part",
    "Refusal",
    "Stack",
    "Study",
    "arrange",
    "facts_of",
    "files_of",
    "find",
    "patient_of",
    "pixels",
    "split",
]

_CT, _ENHANCED_CT, _LEGACY_CT = (f"1.2.840.10008.5.1.4.1.1.2{end}" for end in ("", ".1", ".2"))
_MAX_SIDE = 4096
_MAX_VOXELS = 1_500_000_000
_MIN_ACQUISITION = 10  # slices; fewer with another number are an oddity, not another scan

_LOSSY = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 52, 53, 54, 55, 56, 81, 91, 93, 203)}
_PROJECTIONS = {"MIP", "MINIP", "MIN_IP", "MAX_IP", "PROJECTION IMAGE", "VOLUME RENDERING", "RENDERED"}
_NO_CONTRAST = {
    "NONE",
    "NO",
    "N",
    "NO CONTRAST",
    "NON CONTRAST",
    "WITHOUT",
    "W/O",
    "OHNE",
    "OHNE KM",
    "SANS",
    "0",
}


@dataclass(frozen=True, eq=False)
class Image:
    """One picture: a file of classic CT, or a frame of Enhanced CT.

    Parameters
    ----------
    file : Path
        Where it is.
    shown : Path
        What to call it; for members of archives the archive and the name within.
    tags : dict
        Values by keyword, see `lungvq.io.header.TAGS`, and Transfer Syntax UID; None where not told.
    wire : dict
        Where its pixels lie, for `sandbox.each`.
    """

    file: Path
    shown: Path
    tags: dict[str, Any]
    wire: dict[str, Any]

    def get(self, keyword: str) -> Any:
        """A value of the header."""
        return self.tags.get(keyword)

    @property
    def name(self) -> str:
        """For messages."""
        return (
            self.shown.name
            if self.wire["frames"] == 1
            else f"{self.shown.name} frame {self.wire['frame'] + 1}"
        )

    @property
    def image_type(self) -> list[str]:
        """In capitals."""
        value = self.get("ImageType") or []
        return [str(v).upper() for v in (value if isinstance(value, list) else [value])]


@dataclass(frozen=True, eq=False)
class Part:
    """Images that may be one volume.

    Parameters
    ----------
    images : tuple of Image
    number : int or None
        Counted from 1 where a series holds several; None where it is one.
    by : str
        What it has of its own: ``kernel Br40``.
    findings : tuple of Finding
    """

    images: tuple[Image, ...]
    number: int | None = None
    by: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of their positions, and where they lie.

    Parameters
    ----------
    slices : tuple of Image
        From the first slice to the last along the normal.
    layout : Layout
        How the volume's planes come from them.
    findings : tuple of Finding
    part : Part
    """

    slices: tuple[Image, ...]
    layout: Layout
    findings: tuple[Finding, ...]
    part: Part

    @property
    def grid(self) -> Grid:
        """Where the voxels lie, after what `pixels` mends."""
        rows, columns = (int(self.slices[0].get(k)) for k in ("Rows", "Columns"))
        return upright(Grid((self.layout.planes, rows, columns), self.layout.affine))

    @property
    def files(self) -> tuple[Path, ...]:
        """Each once."""
        return files_of(self.slices)


@dataclass(frozen=True, eq=False)
class Study:
    """What lies at a path.

    Parameters
    ----------
    parts : tuple of Part
    damaged : tuple of (Path, str, str or None)
        DICOM files that cannot be used: what to call them, why, and their series where that can be read.
    locked : tuple of (Path, str)
        Archives that cannot be unpacked, and why.
    keep : Unpacked or None
        What was unpacked from archives; it is there as long as this is.
    """

    parts: tuple[Part, ...]
    damaged: tuple[tuple[Path, str, str | None], ...]
    locked: tuple[tuple[Path, str], ...] = ()
    keep: Unpacked | None = field(default=None, repr=False)


def files_of(images: Iterable[Image]) -> tuple[Path, ...]:
    """Each file once, in order."""
    return tuple(dict.fromkeys(image.file for image in images))


# --- finding ----------------------------------------------------------------------------------------------


def find(path: Path) -> Study:
    """Read the headers of all DICOM images at or below a path, in archives too, whatever their names.

    Raises
    ------
    InputError
        If a file cannot be opened.
    ResourceError
        If there is no disk or process for it.
    """
    found = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    files = {}
    keep = None
    locked = []
    for file in found:
        try:
            packed = is_archive(file)
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror})") from None
        if packed:
            keep = keep or Unpacked()
            try:
                unpack(file, keep)
            except InputError as reason:
                locked.append((file, str(reason).removeprefix(f"{file}: ")))
        else:
            files[file] = file
    files |= keep.files if keep else {}
    replies = sandbox.each("headers", [str(file.absolute()) for file in files])
    images: list[Image] = []
    damaged: list[tuple[Path, str, str | None]] = []
    empty = []
    for (file, shown), reply in zip(files.items(), replies, strict=True):
        if "unreadable" in reply:
            raise InputError(f"{shown}: cannot be read ({reply['unreadable']})")
        if "refused" in reply or reply["kind"] == "damaged":
            damaged.append((shown, reply.get("refused") or reply["reason"], reply.get("series")))
        elif reply["kind"] == "empty":
            empty.append(shown)
        elif reply["kind"] == "image":
            images += _images(file, shown, reply)
    # An export that broke off leaves empty files where slices should be.
    places = {(image.shown.parent, image.shown.suffix) for image in images}
    damaged += [(f, "is empty", None) for f in empty if f.suffix and (f.parent, f.suffix) in places]
    series: dict[tuple[str, ...], list[Image]] = defaultdict(list)
    for image in images:
        keywords = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
        series[tuple(str(image.get(keyword)) for keyword in keywords)].append(image)
    parts = tuple(part for images in series.values() for part in split(images))
    return Study(parts, tuple(damaged), tuple(locked), keep)


def _images(file: Path, shown: Path, reply: dict[str, Any]) -> list[Image]:
    tags = {keyword: _printable(value) for keyword, value in reply["tags"].items()}
    if reply["preamble"]:
        tags["preamble"] = reply["preamble"]
    made = []
    for own, wire in reply["frames"]:
        mine = {**tags, **{k: _printable(v) for k, v in own.items() if v is not None}} if own else tags
        made.append(Image(file, shown, mine, {**wire, "path": str(file.absolute())}))
    return made


def _printable(value: Any) -> Any:
    """A value of a header, its text made `printable`."""
    if isinstance(value, str):
        return printable(value)
    return [_printable(v) for v in value] if isinstance(value, list) else value


# --- splitting --------------------------------------------------------------------------------------------

# What slices of one volume have in common; and, where slices would lie among each other, what may tell them apart.
_KINDS: dict[str, Callable[[Image], Any]] = {
    "modality": lambda image: image.get("Modality"),
    "object": lambda image: image.get("SOPClassUID"),
    "size": lambda image: f"{image.get('Rows')} x {image.get('Columns')}",
    "colours": lambda image: image.get("SamplesPerPixel"),
    "kernel": lambda image: image.get("ConvolutionKernel"),
    "image type": lambda image: "\\".join(image.image_type[:3]),
    "unit": lambda image: image.get("RescaleType"),
}
_PASSES = {
    "acquisition": "AcquisitionNumber",
    "time point": "TemporalPositionIdentifier",
    "breathing phase": "NominalPercentageOfRespiratoryPhase",
    "contrast": "ContrastBolusAgent",
    "tube voltage": "KVP",
    "thickness": "SliceThickness",
    "diameter": "ReconstructionDiameter",
    "description": "SeriesDescription",
    "protocol": "ProtocolName",
    "acquired": "AcquisitionDateTime",
    "acquired at": "AcquisitionTime",
}


def split(images: Sequence[Image]) -> list[Part]:
    """Sort the images of one series into what may be volumes, scouts set aside."""
    slices = [image for image in images if "LOCALIZER" not in image.image_type]
    if not slices:
        return [Part(tuple(images))]
    groups = [("", slices)]
    for what, key in _KINDS.items():
        groups = [(_join(by, told), part) for by, group in groups for told, part in _apart(group, what, key)]
    groups = [(_join(by, told), part) for by, group in groups for told, part in _frames_of_reference(group)]
    for what, keyword, count, tolerance in (
        ("orientation", "ImageOrientationPatient", 6, SAME_DIRECTION),
        ("pixel spacing", "PixelSpacing", 2, SAME_SPACING),
    ):
        groups = [
            (_join(by, told), part)
            for by, group in groups
            for told, part in _clusters(group, what, keyword, count, tolerance)
        ]
    groups = [(_join(by, told), part) for by, group in groups for told, part in _passes(group, list(_PASSES))]
    scouts = [image for image in images if "LOCALIZER" in image.image_type]
    aside = passed("LOCALIZERS_SET_ASIDE", f"Localizers in the series were set aside: {_names(scouts)}.")
    noticed: tuple[Finding, ...] = (aside,) if scouts else ()
    if len(groups) == 1:
        return [Part(tuple(slices), findings=noticed)]
    groups.sort(key=lambda group: (-len(group[1]), group[0]))
    told = "; ".join(f"{by} ({len(part)} image{'s' * (len(part) > 1)})" for by, part in groups[:6])
    noticed += (passed("SERIES_SPLIT", f"The series holds {len(groups)} kinds of images: {told}."),)
    return [Part(tuple(part), n, by, noticed) for n, (by, part) in enumerate(groups, 1)]


def _join(*told: str) -> str:
    return ", ".join(t for t in told if t)


def _apart(images: Sequence[Image], what: str, key: Callable[[Image], Any]) -> list[tuple[str, list[Image]]]:
    """Images with equal keys together, and what to call them."""
    groups: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        groups[_plain_text(key(image)) or "not told"].append(image)
    if len(groups) == 1:
        return [("", list(images))]
    return [(f"{what} {value}", group) for value, group in groups.items()]


def _frames_of_reference(images: Sequence[Image]) -> list[tuple[str, list[Image]]]:
    """Positions in different frames cannot be compared; but some who take names out give each slice its own."""
    groups = _apart(images, "frame of reference", lambda image: image.get("FrameOfReferenceUID"))
    if len(groups) > len(images) / 2:
        return [("", list(images))]
    return [(f"frame of reference {n}" if told else "", group) for n, (told, group) in enumerate(groups, 1)]


def _clusters(
    images: Sequence[Image], what: str, keyword: str, count: int, tolerance: float
) -> list[tuple[str, list[Image]]]:
    """Images whose numbers agree within a tolerance together; those without usable numbers with the most."""
    groups: list[tuple[NDArray[np.float64], list[Image]]] = []
    without = []
    for image in images:
        try:
            numbers = np.array(_numbers(image, keyword, count))
        except Refusal:
            without.append(image)
            continue
        scale = 1.0 if count == 6 else max(float(np.abs(numbers).max()), 1e-9)
        for usual, group in groups:
            if np.abs(numbers - usual).max() <= tolerance * scale:
                group.append(image)
                break
        else:
            groups.append((numbers, [image]))
    if not groups:
        return [("", list(images))]
    max(groups, key=lambda group: len(group[1]))[1].extend(without)  # `arrange` will refuse them
    if len(groups) == 1:
        return [("", groups[0][1])]
    return [(f"{what} {' '.join(f'{v:.5g}' for v in usual)}", group) for usual, group in groups]


def _passes(images: list[Image], left: list[str]) -> list[tuple[str, list[Image]]]:
    """Acquisitions that lie among each other apart; those that lie one after another stay together."""
    along = _along(images)
    if along is None:
        return [("", images)]
    gaps = np.diff(np.sort(along))
    doubled = bool(gaps.size) and float(gaps.min()) < SAME_POSITION_MM
    place = {id(image): z for image, z in zip(images, along, strict=True)}
    for n, what in enumerate(left):
        groups = _apart(images, what, lambda image, keyword=_PASSES[what]: image.get(keyword))  # type: ignore[misc]
        if not 1 < len(groups) <= len(images) / 2:
            continue
        spans = [[place[id(image)] for image in group] for _, group in groups]
        among = any(min(a) < max(b) and min(b) < max(a) for a, b in combinations(spans, 2))
        small = min(map(len, spans)) < _MIN_ACQUISITION
        if among and (doubled or not small):
            return [
                (_join(told, further), part)
                for told, group in groups
                for further, part in _passes(group, left[n + 1 :])
            ]
    return [("", images)]


def _along(images: Sequence[Image]) -> NDArray[np.float64] | None:
    """Positions along the normal, None where they cannot be had."""
    try:
        right, down, _ = common_plane(_table(images, "ImageOrientationPatient", 6), np.ones((1, 2)))
        return _table(images, "ImagePositionPatient", 3) @ np.cross(right, down)
    except Refusal:
        return None


# --- geometry ---------------------------------------------------------------------------------------------


def arrange(part: Part) -> Stack:
    """Put slices in order and find where they lie.

    Raises
    ------
    Refusal
        If they are not the slices of one CT volume.
    """
    findings = list(part.findings)
    if all("LOCALIZER" in image.image_type for image in part.images):
        raise Refusal("it holds only localizers (scout views)")
    slices, copies = _without_copies(part.images)
    _check_kind(slices)
    orientation, spacing = _table(slices, "ImageOrientationPatient", 6), _table(slices, "PixelSpacing", 2)
    position = _table(slices, "ImagePositionPatient", 3)
    right, down, _ = common_plane(orientation, spacing)
    kept, same = _one_at_each_place(slices, position @ np.cross(right, down), position)
    if copies or same:
        told = _names([*copies, *same])
        findings.append(passed("COPIES_SET_ASIDE", f"Images that occur twice were set aside: {told}."))
    slices, position, orientation, spacing = (
        [slices[n] for n in kept],
        position[kept],
        orientation[kept],
        spacing[kept],
    )
    if len(slices) == 1:
        raise Refusal("it is a single slice, expected a whole chest")
    layout = lay_out(position, orientation, spacing, [image.name for image in slices])
    stack = Stack(tuple(slices[n] for n in layout.order), layout, (), part)
    if np.prod(stack.grid.shape, dtype=float) > _MAX_VOXELS:
        raise Refusal(f"it claims {' x '.join(map(str, stack.grid.shape))} voxels, more than any CT")
    findings += [*layout.findings, *_remarks(stack)]
    return Stack(stack.slices, layout, tuple(findings), part)


def _names(images: Sequence[Image], most: int = 3) -> str:
    names = list(dict.fromkeys(image.name for image in images))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _numbers(image: Image, keyword: str, count: int) -> tuple[float, ...]:
    values = image.get(keyword)
    values = values if isinstance(values, list) else [values]
    if len(values) != count or not all(isinstance(v, (int, float)) and abs(v) < 1e6 for v in values):
        raise Refusal(f"{_names([image])} lacks a usable {keyword}")
    return tuple(float(v) for v in values)


def _table(images: Sequence[Image], keyword: str, count: int) -> NDArray[np.float64]:
    return np.array([_numbers(image, keyword, count) for image in images])


def _without_copies(images: Sequence[Image]) -> tuple[list[Image], list[Image]]:
    """Of files with one SOP Instance UID and equal bytes, the first."""
    uids = Counter(image.get("SOPInstanceUID") for image in images if image.wire["frame"] == 0)
    seen: set[tuple[bytes, int]] = set()
    digests: dict[Path, bytes] = {}
    kept, copies = [], []
    for image in images:
        if uids[image.get("SOPInstanceUID")] > 1:
            if image.file not in digests:
                digests[image.file] = hashlib.sha256(image.file.read_bytes()).digest()
            identity = digests[image.file], image.wire["frame"]
            if identity in seen:
                copies.append(image)
                continue
            seen.add(identity)
        kept.append(image)
    return kept, copies


def _one_at_each_place(
    slices: Sequence[Image], along: NDArray[np.float64], position: NDArray[np.float64]
) -> tuple[list[int], list[Image]]:
    """Of slices at one place with equal pixels, the first; refused where the pixels differ."""
    order = np.argsort(along, kind="stable")
    if len(order) < 2 or np.diff(along[order]).min() >= SAME_POSITION_MM:
        return list(range(len(slices))), []
    kept: list[int] = [int(order[0])]
    twice: list[tuple[int, int]] = []
    for n in map(int, order[1:]):
        if along[n] - along[kept[-1]] < SAME_POSITION_MM:
            twice.append((kept[-1], n))
        else:
            kept.append(n)
    first, second = slices[twice[0][0]], slices[twice[0][1]]
    shared = (
        f"{len(twice)} of its slices lie where another one lies, first {_names([first, second])};"
        " export the series again"
    )
    if any(np.linalg.norm(position[a] - position[b]) > SAME_POSITION_MM for a, b in twice):
        raise Refusal(shared)
    for start in range(0, len(twice), 64):
        pairs = twice[start : start + 64]
        one, other = (_decoded([slices[pair[n]] for pair in pairs]) for n in (0, 1))
        if one.shape != other.shape or not np.array_equal(one, other):
            raise Refusal(shared)
    return sorted(kept), [slices[n] for _, n in twice]


def _check_kind(slices: Sequence[Image]) -> None:
    """CT, grey, in HU, with a place for each picture."""
    first = slices[0]
    kind = first.get("SOPClassUID") or ""
    modality = first.get("Modality") or ("CT" if kind in (_CT, _ENHANCED_CT, _LEGACY_CT) else "unknown")
    if modality != "CT":
        raise Refusal(f"its modality is {modality}, expected CT")
    if (first.get("SamplesPerPixel") or 1) != 1:
        raise Refusal("its pictures are in colour, not in HU")
    for keyword in ("RescaleIntercept", "RescaleSlope"):
        without = [image for image in slices if not isinstance(image.get(keyword), (int, float))]
        if 0 < len(without) < len(slices):
            raise Refusal(f"{_names(without)} lacks a usable {keyword}, unlike the other slices")
    for image in slices:
        if projection := sorted(_PROJECTIONS.intersection(image.image_type)):
            raise Refusal(f"it holds projections ({projection[0]}), not slices; give the source images")
        rescale = str(image.get("RescaleType") or "HU").upper()
        if not rescale.startswith(("HU", "US")):  # US: unspecified
            raise Refusal(f"its values are in {rescale}, expected HU")
        size = image.get("Rows"), image.get("Columns")
        if not all(isinstance(n, int) and 0 < n <= _MAX_SIDE for n in size):
            raise Refusal(f"{_names([image])} claims {size[0]} x {size[1]} pixels")
        if kind == _CT and image.wire["frames"] != 1:
            raise Refusal("it is a multi-frame file of classic CT, which does not tell where its frames lie")


def _remarks(stack: Stack) -> list[Finding]:
    """What does not forbid use."""
    slices = stack.slices
    checks = (
        _tilt(stack),
        _loss(slices),
        _scales(slices),
        _gaps(stack),
        _agents(slices),
        _derived(slices),
        _acquisitions(slices),
        _many_frames(slices),
        _preambles(slices),
    )
    return [finding for finding in checks if finding is not None]


def _tilt(stack: Stack) -> Finding | None:
    first = stack.slices[0]
    if stack.grid.shape[1:] == (first.get("Rows"), first.get("Columns")):
        return None
    tilt = stack.layout.tilt_deg
    return warn(
        "GANTRY_TILT",
        f"The gantry was tilted by {tilt:.1f} degrees; the slices were set upright, which interpolates"
        " between pixels once.",
        value=round(tilt, 2),
        limit=0.0,
        unit="degrees",
        advice="Scan without tilt.",
    )


def _loss(slices: Sequence[Image]) -> Finding | None:
    lossy = [image for image in slices if _is_lossy(image)]
    return _none_of(
        lossy,
        "LOSSY_COMPRESSION",
        f"{len(lossy)} of {len(slices)} slices were compressed with loss; CT numbers may be off by tens of HU.",
        advice="Use the original, uncompressed images.",
    )


def _scales(slices: Sequence[Image]) -> Finding | None:
    """Scanners write one scale for a series: a slice with another is right only if its pixels were rewritten, too."""
    scales = Counter((image.get("RescaleSlope"), image.get("RescaleIntercept")) for image in slices)
    if len(scales) < 2:
        return None
    usual = scales.most_common(1)[0][0]
    odd = [i for i in slices if (i.get("RescaleSlope"), i.get("RescaleIntercept")) != usual]
    told = "; ".join(
        f"slope {slope}, intercept {intercept}" for (slope, intercept), _ in scales.most_common(3)
    )
    return warn(
        "SCALES_DIFFER",
        f"{len(odd)} of {len(slices)} slices are brought to HU by another scale than most, first {_names(odd, 1)}"
        f" ({told}).",
        value=float(len(odd)),
        limit=0.0,
        unit="slices",
        advice="Check that air and blood read alike in all slices; export the series again if not.",
        touches=("density", "mass", "perfusion", "ventilation", "prm"),
    )


def _gaps(stack: Stack) -> Finding | None:
    step = stack.grid.spacing[0]
    thickness = stack.slices[0].get("SliceThickness")
    if not (isinstance(thickness, (int, float)) and 0 < thickness < 0.75 * step):
        return None
    return warn(
        "SLICE_GAPS",
        f"Slices {thickness:g} mm thick lie {step:.3g} mm apart: lung between them was not scanned.",
        value=float(thickness),
        limit=0.75 * step,
        unit="mm",
        advice="Use a reconstruction without gaps.",
    )


def _agents(slices: Sequence[Image]) -> Finding | None:
    agents = sorted({agent for image in slices if (agent := _contrast(image))})
    if not agents:
        return None
    return warn(
        "CONTRAST_AGENT",
        f"The header names a contrast agent ({', '.join(agents)}); perfusion without contrast assumes there"
        " is none.",
        advice="Use the scans without contrast.",
    )


def _derived(slices: Sequence[Image]) -> Finding | None:
    derived = [image for image in slices if image.image_type[:1] == ["DERIVED"]]
    kind = _plain_text(derived[0].get("ImageType")) if derived else ""
    return _none_of(
        derived,
        "DERIVED_IMAGES",
        f"{len(derived)} of {len(slices)} slices are marked as derived ({kind}), not as original"
        " reconstructions.",
        advice="Use the original reconstruction.",
    )


def _acquisitions(slices: Sequence[Image]) -> Finding | None:
    acquisitions = Counter(_plain_text(image.get("AcquisitionNumber")) for image in slices)
    if len(acquisitions) < 2 or min(acquisitions.values()) < 2:
        return None
    return warn(
        "SEVERAL_ACQUISITIONS",
        f"The slices come from {len(acquisitions)} acquisitions one after another; the lung may have moved"
        " in between.",
        value=float(len(acquisitions)),
        limit=1.0,
        unit="acquisitions",
    )


def _many_frames(slices: Sequence[Image]) -> Finding | None:
    frames = {image.get("FrameOfReferenceUID") for image in slices}
    if len(frames) < 2:
        return None
    return passed(
        "FRAMES_OF_REFERENCE",
        f"The slices name {len(frames)} frames of reference; their positions were taken to be of one.",
        value=float(len(frames)),
        limit=1.0,
    )


def _preambles(slices: Sequence[Image]) -> Finding | None:
    odd = [image for image in slices if image.get("preamble")]
    like = f"{odd[0].get('preamble')} and may be one too, first {_names(odd, 1)}" if odd else ""
    return _none_of(
        odd,
        "SUSPICIOUS_PREAMBLE",
        f"{len(odd)} files begin like {like}; nothing of that was run.",
        unit="files",
        advice="Do not open these files with anything but DICOM software.",
    )


def _none_of(
    images: Sequence[Image], code: str, message: str, *, unit: str = "slices", advice: str
) -> Finding | None:
    """A warning where there are any such images."""
    if not images:
        return None
    return warn(code, message, value=float(len(images)), limit=0.0, unit=unit, advice=advice)


def _is_lossy(image: Image) -> bool:
    return image.get("TransferSyntaxUID") in _LOSSY or str(image.get("LossyImageCompression")) == "01"


def _contrast(image: Image) -> str | None:
    """The agent, None where none was given, in whatever words."""
    agent = _plain_text(image.get("ContrastBolusAgent"))
    return None if agent is None or agent.upper().strip(" .") in _NO_CONTRAST else agent


# --- pixels -----------------------------------------------------------------------------------------------


def pixels(stack: Stack) -> Volume:
    """HU of all slices, mended where the layout says so, on `Stack.grid`.

    Raises
    ------
    Refusal
        If a slice's pixels are cut short or cannot be decoded.
    ResourceError
        If one takes more memory or time than it may.
    """
    hu = planes_from_slices(_decoded(stack.slices), stack.layout.at)
    return straighten(Volume(hu, stack.layout.affine))


def _decoded(images: Sequence[Image]) -> NDArray[np.int16]:
    rows, columns = (int(images[0].get(k)) for k in ("Rows", "Columns"))
    hu = np.empty((len(images), rows, columns), np.int16)
    replies = sandbox.each("pixels", [i.wire for i in images], into=lambda n: memoryview(hu[n]).cast("B"))
    bad = [(image, reply) for image, reply in zip(images, replies, strict=True) if "bytes" not in reply]
    if bad:
        image, reply = bad[0]
        syntax = image.get("TransferSyntaxUID")
        told = reply.get("refused") or f"cannot be read ({reply.get('unreadable')})"
        more = f"; {len(bad) - 1} more like it" if len(bad) > 1 else ""
        message = f"{image.name} {told} (transfer syntax {SYNTAXES.get(syntax, syntax)}){more}"
        if reply.get("limit"):
            raise ResourceError(f"{message}; leave it out, or export the series again")
        raise Refusal(f"{message}; export the series again, uncompressed")
    return hu


# --- facts ------------------------------------------------------------------------------------------------

_TEXT_FACTS = {
    "series_description": "SeriesDescription",
    "series_number": "SeriesNumber",
    "study_description": "StudyDescription",
    "requested_procedure": "RequestedProcedureDescription",
    "protocol": "ProtocolName",
    "image_comments": "ImageComments",
    "body_part": "BodyPartExamined",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "series_date": "SeriesDate",
    "series_time": "SeriesTime",
    "acquisition_date": "AcquisitionDate",
    "acquisition_time": "AcquisitionTime",
    "acquisition_datetime": "AcquisitionDateTime",
    "acquisition_number": "AcquisitionNumber",
    "temporal_position": "TemporalPositionIdentifier",
    "respiratory_motion": "RespiratoryMotionCompensationTechnique",
    "respiratory_position": "RespiratoryCyclePosition",
    "respiratory_start_phase": "StartingRespiratoryPhase",
    "respiratory_end_phase": "EndingRespiratoryPhase",
    "respiratory_percent": "NominalPercentageOfRespiratoryPhase",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "kernel": "ConvolutionKernel",
    "scan_options": "ScanOptions",
    "patient_position": "PatientPosition",
    "image_type": "ImageType",
    "rescale_type": "RescaleType",
    "study_uid": "StudyInstanceUID",
    "series_uid": "SeriesInstanceUID",
    "frame_of_reference_uid": "FrameOfReferenceUID",
    "sop_class_uid": "SOPClassUID",
}
_NUMBER_FACTS = {
    "kvp": "KVP",
    "exposure_mas": "Exposure",
    "slice_thickness_mm": "SliceThickness",
    "reconstruction_diameter_mm": "ReconstructionDiameter",
    "rescale_slope": "RescaleSlope",
    "rescale_intercept": "RescaleIntercept",
    "pixel_padding": "PixelPaddingValue",
}


# As pydicom names them; importing it takes longer than reading a series.
SYNTAXES = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline (Process 1)",
    "1.2.840.10008.1.2.4.51": "JPEG Extended (Process 2 and 4)",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless, Non-Hierarchical (Process 14)",
    "1.2.840.10008.1.2.4.70": (
        "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])"
    ),
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless Image Compression",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Lossy (Near-Lossless) Image Compression",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.91": "JPEG 2000 Image Compression",
    "1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.202": (
        "High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)"
    ),
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000 Image Compression",
    "1.2.840.10008.1.2.5": "RLE Lossless",
}
_PATIENT = {
    "id": "PatientID",
    "name": "PatientName",
    "birth_date": "PatientBirthDate",
    "sex": "PatientSex",
    "height_m": "PatientSize",
    "weight_kg": "PatientWeight",
}


def facts_of(part: Part, stack: Stack | None) -> dict[str, Any]:
    """What the headers say, as plain values; the patient's number only as a hash, the name not at all.

    See `lungvq.io.Scan` for the keys.
    """
    images = stack.slices if stack else part.images
    first = images[0]
    patient = patient_of(part)
    syntax = first.get("TransferSyntaxUID")
    return {
        "patient": hashlib.sha256(patient.id.encode()).hexdigest()[:12] if patient.id else None,
        **{name: _plain_text(first.get(keyword)) for name, keyword in _TEXT_FACTS.items()},
        **{name: _plain_number(images, keyword) for name, keyword in _NUMBER_FACTS.items()},
        "contrast_agent": next((agent for image in images if (agent := _contrast(image))), None),
        "transfer_syntax": SYNTAXES.get(syntax, syntax),
        "lossy": any(_is_lossy(image) for image in images),
        "part": part.number,
        "part_by": part.by or None,
        "gantry_tilt_deg": round(stack.layout.tilt_deg, 4) if stack else None,
        "interpolated_slices": stack.layout.interpolated if stack else [],
    }


def patient_of(part: Part) -> Patient:
    """Who was scanned, as the first header has it."""
    first = part.images[0]
    return Patient(**{name: _plain_text(first.get(keyword)) or "" for name, keyword in _PATIENT.items()})


def _plain_text(value: Any) -> str | None:
    if isinstance(value, list):
        return "\\".join("" if v is None else str(v) for v in value) or None
    return None if value is None else str(value).strip() or None


def _plain_number(images: Sequence[Image], keyword: str) -> float | list[float] | None:
    """One number, or the lowest and the highest where slices differ."""
    values = {float(v) for image in images if isinstance(v := image.get(keyword), (int, float))}
    if len(values) > 1:
        return [min(values), max(values)]
    return values.pop() if values else None
