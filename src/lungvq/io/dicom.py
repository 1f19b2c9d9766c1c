"""DICOM CT series: headers to geometry, pixels to HU; strict, because a wrong geometry is silent.

A series reader that bridges a missing slice, sorts a scout among the slices or ignores a gantry tilt
returns a volume all the same, with lungs too long, too short or sheared, and every Jacobian with them. Here
positions alone decide, slices must lie on one line at equal steps, and what does not is refused by name.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from lungvq.errors import InputError
from lungvq.findings import Finding, passed, warn
from lungvq.io.scan import Patient

__all__ = [
    "Refusal",
    "Stack",
    "arrange",
    "facts_of",
    "find_series",
    "looks_like_dicom",
    "patient_of",
    "pixels",
]

_CT, _ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
_DIRECTORY = b"1.2.840.10008.1.3.10"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_MAX_INFLATED = 64 << 20  # twice the largest slice
_MAX_SIDE = 4096
_CT_MAX_HU = 3071

# The classic JPEG processes: SimpleITK decodes all of them exactly, pydicom's permissive plugins only some.
_JPEG = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(5\d|6\d|70)$")
_LOSSY = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(5[0-6]|81|91|93|203)$")
_PROJECTIONS = {"MIP", "MINIP", "MIN_IP", "MAX_IP", "PROJECTION IMAGE", "VOLUME RENDERING", "RENDERED"}

# Tolerances: what positions written with three decimals and rounded steps need, and no more.
_SAME_DIRECTION, _SAME_SPACING = 1e-3, 1e-3
_SAME_POSITION_MM, _SIDEWAYS_MM = 0.02, 0.5

_PATIENT = {"id": "PatientID", "name": "PatientName", "birth_date": "PatientBirthDate", "sex": "PatientSex"}


class Refusal(Exception):
    """Why a series cannot be used, without saying which; the caller knows."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of their positions, and where they lie.

    Parameters
    ----------
    slices : tuple of Dataset
        Headers, from the first slice to the last along the normal.
    affine : ndarray, shape (4, 4)
        (k, j, i, 1) to LPS mm.
    findings : tuple of Finding
    """

    slices: tuple[Dataset, ...]
    affine: NDArray[np.float64]
    findings: tuple[Finding, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows, columns."""
        return len(self.slices), int(self.slices[0].Rows), int(self.slices[0].Columns)

    @property
    def files(self) -> tuple[Path, ...]:
        """One for each slice."""
        return tuple(map(_file, self.slices))


# --- finding series ---------------------------------------------------------------------------------------


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins so may be DICOM, with its preamble or without."""
    return head[128:132] == b"DICM" or (len(head) > 132 and head[:2] == b"\x08\0" and head[3] == 0)


def find_series(path: Path) -> tuple[dict[str, list[Dataset]], list[Path]]:
    """Read the headers of all DICOM images at or below a path, whatever their names.

    Returns
    -------
    series : dict of str to list of Dataset
        Headers without pixels, by Series Instance UID; objects without pixels are left out.
    damaged : list of Path
        Files that say they are DICOM and cannot be parsed.

    Raises
    ------
    InputError
        If a file cannot be opened at all.
    """
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    series: dict[str, list[Dataset]] = defaultdict(list)
    damaged = []
    for file in files:
        try:
            with file.open("rb") as stream:
                head = stream.read(1024)
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror})") from None
        if not looks_like_dicom(head):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                header = _header(file, head)
        except Exception:  # a damaged header raises nearly anything
            header = Dataset()
        kind = header.get("SOPClassUID")
        if kind and header.get("Rows") and header.get("Columns"):
            series[str(header.get("SeriesInstanceUID", ""))].append(header)
        elif head[128:132] == b"DICM" and kind in (None, _CT) and _DIRECTORY not in head:
            damaged.append(file)
    return dict(series), damaged


def _header(file: Path, head: bytes) -> Dataset:
    if _DEFLATED in head:
        _check_inflated_size(file)
    header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_KEYWORDS))
    for keyword in _KEYWORDS:
        header.get(keyword)  # values are parsed when first asked for
    return header


def _check_inflated_size(file: Path) -> None:
    """A deflated file of some kB can inflate to GB, and pydicom would."""
    with file.open("rb") as stream:
        meta = pydicom.filereader.read_file_meta_info(file)
        stream.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while (block := stream.read(1 << 16)) and size < _MAX_INFLATED:
            size += len(unpacker.decompress(block))
    if size >= _MAX_INFLATED:
        raise ValueError("inflates beyond all measure")


# --- geometry ---------------------------------------------------------------------------------------------


def arrange(headers: Sequence[Dataset]) -> Stack:
    """Put the slices of one series in order and find where they lie.

    Raises
    ------
    Refusal
        If they are not the slices of one CT volume at equal steps.
    """
    findings: list[Finding] = []
    slices = [h for h in headers if "LOCALIZER" not in _image_type(h)]
    if not slices:
        raise Refusal("it holds only localizers (scout views)")
    if scouts := [h for h in headers if "LOCALIZER" in _image_type(h)]:
        findings.append(
            passed("LOCALIZERS_SET_ASIDE", f"Localizers in the series were set aside: {_names(scouts)}.")
        )
    slices, copies = _without_copies(slices)
    if copies:
        findings.append(
            passed("COPIES_SET_ASIDE", f"Files that occur twice were set aside: {_names(copies)}.")
        )
    _check_kind(slices)
    right, down, spacing = _common_plane(slices)
    normal = np.cross(right, down)
    position = np.array([_numbers(h, "ImagePositionPatient", 3) for h in slices])
    order = np.argsort(position @ normal, kind="stable")
    slices, position = [slices[n] for n in order], position[order]
    step = _common_step(slices, position, normal)
    findings += _remarks(slices, step)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([normal * step, down * spacing[0], right * spacing[1]])
    affine[:3, 3] = position[0]
    return Stack(tuple(slices), affine, tuple(findings))


def _file(header: Dataset) -> Path:
    return Path(str(header.filename))


def _names(headers: Iterable[Dataset], most: int = 3) -> str:
    names = [_file(h).name for h in headers]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _image_type(header: Dataset) -> set[str]:
    value = header.get("ImageType") or ()
    return {value.upper()} if isinstance(value, str) else {str(v).upper() for v in value}


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    try:
        values = header.get(keyword)
        numbers = tuple(float(v) for v in (values if count > 1 else [values]))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise Refusal(f"{_names([header])} lacks a usable {keyword}")
    return numbers


def _without_copies(headers: Sequence[Dataset]) -> tuple[list[Dataset], list[Dataset]]:
    """Of files with one SOP Instance UID and equal bytes, the first."""
    repeated = {uid for uid, n in Counter(h.get("SOPInstanceUID") for h in headers).items() if n > 1}
    seen: set[bytes] = set()
    kept, copies = [], []
    for header in headers:
        if header.get("SOPInstanceUID") in repeated:
            digest = hashlib.sha256(_file(header).read_bytes()).digest()
            if digest in seen:
                copies.append(header)
                continue
            seen.add(digest)
        kept.append(header)
    return kept, copies


def _check_kind(slices: Sequence[Dataset]) -> None:
    """CT, one frame per file, grey, in HU, and enough of them."""
    for header in slices:
        kind = str(header.get("SOPClassUID", ""))
        modality = header.get("Modality") or ("CT" if kind in (_CT, _ENHANCED_CT) else "unknown")
        if modality != "CT":
            raise Refusal(f"its modality is {modality}, expected CT")
        if kind == _ENHANCED_CT or int(header.get("NumberOfFrames") or 1) > 1:
            raise Refusal("it is Enhanced (multi-frame) CT; export it as classic CT, one file for each slice")
        if int(header.get("SamplesPerPixel") or 1) != 1:
            raise Refusal("its pictures are in colour, not in HU")
        if projection := _image_type(header) & _PROJECTIONS:
            raise Refusal(f"it holds projections ({projection.pop()}), not slices; give the source images")
        rescale = str(header.get("RescaleType") or "HU").upper()
        if not rescale.startswith(("HU", "US")):  # US: unspecified
            raise Refusal(f"its values are in {rescale}, expected HU")
        if max(int(header.Rows), int(header.Columns)) > _MAX_SIDE:
            raise Refusal(f"{_names([header])} claims {header.Rows} x {header.Columns} pixels")
    if len(slices) == 1:
        raise Refusal("it is a single slice, expected a whole chest")
    if len({(int(h.Rows), int(h.Columns)) for h in slices}) > 1:
        raise Refusal(
            f"its slices differ in size: {_odd_ones(slices, lambda h: (int(h.Rows), int(h.Columns)))}"
        )


def _odd_ones(slices: Sequence[Dataset], key: Any) -> str:
    """Which slices are not like most."""
    usual = Counter(map(key, slices)).most_common(1)[0][0]
    odd = [h for h in slices if key(h) != usual]
    return f"{_names(odd)} unlike the other {len(slices) - len(odd)}"


def _common_plane(
    slices: Sequence[Dataset],
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, ...]]:
    """Unit vectors to the right and down the picture, and the distances between rows and columns in mm."""
    orientation = np.array([_numbers(h, "ImageOrientationPatient", 6) for h in slices])
    if np.abs(orientation - np.median(orientation, axis=0)).max() > _SAME_DIRECTION:
        odd = _odd_ones(slices, lambda h: tuple(np.round(_numbers(h, "ImageOrientationPatient", 6), 3) + 0.0))
        raise Refusal(f"its slices are not parallel: {odd}")
    spacing = np.array([_numbers(h, "PixelSpacing", 2) for h in slices])
    if spacing.min() <= 0:
        raise Refusal("its pixel spacing is zero or negative")
    if np.abs(spacing / np.median(spacing, axis=0) - 1).max() > _SAME_SPACING:
        odd = _odd_ones(slices, lambda h: tuple(np.round(_numbers(h, "PixelSpacing", 2), 4)))
        raise Refusal(f"its slices differ in pixel spacing: {odd}")
    right, down = orientation[0, :3], orientation[0, 3:]
    lengths = np.linalg.norm(right), np.linalg.norm(down)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(right @ down)) > _SAME_DIRECTION:
        raise Refusal("its ImageOrientationPatient is not two unit vectors at a right angle")
    right = right / lengths[0]
    down = down - (down @ right) * right
    return right, down / np.linalg.norm(down), tuple(spacing[0])


def _common_step(slices: Sequence[Dataset], position: np.ndarray, normal: np.ndarray) -> float:
    """The distance between slices, all of which lie on one line along the normal."""
    along = position @ normal
    gaps = np.diff(along)
    twice = np.flatnonzero(gaps < _SAME_POSITION_MM)
    if twice.size:
        raise Refusal(_say_duplicates(slices, twice))
    step = float(np.median(gaps))
    tolerance = 0.01 * step + 0.01
    wide = np.flatnonzero(np.abs(gaps - step) > tolerance)
    if wide.size:
        raise Refusal(_say_uneven(slices, along, gaps, wide, step, tolerance))
    # Small errors of one sign add up to a distance too.
    step = float((along[-1] - along[0]) / (len(slices) - 1))
    drift = np.abs(along - along[0] - step * np.arange(len(slices))).max()
    if drift > 0.25 * step:
        raise Refusal(f"its slice step changes along the series, by up to {drift:.2f} mm in position")
    sideways = position - position[0] - np.outer(along - along[0], normal)
    if np.linalg.norm(sideways, axis=1).max() > _SIDEWAYS_MM:
        line = position[-1] - position[0]
        tilt = np.degrees(np.arccos(np.clip(line @ normal / np.linalg.norm(line), -1, 1)))
        straight = np.outer(np.arange(len(slices)) / (len(slices) - 1), sideways[-1])
        if np.abs(sideways - straight).max() > _SIDEWAYS_MM:
            raise Refusal("its slices are shifted sideways against each other")
        raise Refusal(f"its gantry is tilted by {tilt:.1f} degrees; use a reconstruction without tilt")
    return step


def _say_duplicates(slices: Sequence[Dataset], twice: NDArray[np.intp]) -> str:
    pairs = [slices[n] for n in twice] + [slices[n + 1] for n in twice]
    for keyword, what in (
        ("AcquisitionNumber", "acquisitions"),
        ("ConvolutionKernel", "kernels"),
        ("TemporalPositionIdentifier", "breathing phases or time points"),
    ):
        values = sorted({str(h.get(keyword)) for h in pairs})
        if len(values) > 1:
            return f"several {what} share one series ({', '.join(values[:5])}); export them as series of their own"
    return (
        f"{twice.size} of its slices lie where another one lies, first"
        f" {_names([slices[twice[0]], slices[twice[0] + 1]])}; export the series again"
    )


def _say_uneven(
    slices: Sequence[Dataset],
    along: NDArray[np.float64],
    gaps: NDArray[np.float64],
    wide: NDArray[np.intp],
    step: float,
    tolerance: float,
) -> str:
    multiple = np.rint(gaps[wide] / step)
    n = int(wide[0])
    where = f"between {_names([slices[n]])} and {_names([slices[n + 1]])} ({along[n]:.1f} to {along[n + 1]:.1f} mm)"
    few = wide.size <= max(2, 0.2 * gaps.size)
    if few and multiple.min() >= 2 and (np.abs(gaps[wide] - multiple * step) <= tolerance * multiple).all():
        missing = int((multiple - 1).sum())
        return (
            f"{missing} slice{'s are' if missing > 1 else ' is'} missing, {'first ' * (wide.size > 1)}{where};"
            " export the whole series"
        )
    return (
        f"its slice steps differ, from {gaps.min():.2f} to {gaps.max():.2f} mm, first {where};"
        " use a reconstruction with equal steps"
    )


def _remarks(slices: Sequence[Dataset], step: float) -> list[Finding]:
    """What does not forbid use."""
    found = []
    lossy = [h for h in slices if _is_lossy(h)]
    if lossy:
        found.append(
            warn(
                "LOSSY_COMPRESSION",
                f"{len(lossy)} of {len(slices)} slices were compressed with loss; CT numbers may be off by tens"
                " of HU.",
                value=float(len(lossy)),
                limit=0.0,
                unit="slices",
                advice="Use the original, uncompressed images.",
            )
        )
    thickness = slices[0].get("SliceThickness")
    if thickness and float(thickness) < 0.75 * step:
        found.append(
            warn(
                "SLICE_GAPS",
                f"Slices {float(thickness):g} mm thick lie {step:.3g} mm apart: lung between them was not scanned.",
                value=float(thickness),
                limit=0.75 * step,
                unit="mm",
                advice="Use a reconstruction without gaps.",
            )
        )
    agents = {str(h.get("ContrastBolusAgent") or "").strip() for h in slices} - {""}
    if agents:
        found.append(
            warn(
                "CONTRAST_AGENT",
                f"The header names a contrast agent ({', '.join(sorted(agents))}); perfusion without contrast"
                " assumes there is none.",
                advice="Use the scans without contrast.",
            )
        )
    return found


# --- pixels -----------------------------------------------------------------------------------------------


def _syntax(header: Dataset) -> str:
    return str(header.file_meta.get("TransferSyntaxUID", ""))


def pixels(stack: Stack) -> NDArray[np.int16]:
    """HU of all slices, decoded side by side into one array.

    Raises
    ------
    Refusal
        If a slice's pixels are cut short or cannot be decoded.
    """
    hu = np.empty(stack.shape, np.int16)

    def decode(k: int) -> None:
        hu[k] = _slice_hu(stack.slices[k], stack.shape[1:])

    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(decode, range(len(stack.slices))))
    return hu


def _slice_hu(header: Dataset, size: tuple[int, ...]) -> NDArray[np.int16]:
    file = _file(header)
    try:
        if _JPEG.match(_syntax(header)):
            hu = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))[0]
        else:
            hu = _rescaled(pydicom.dcmread(file, force=True))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        told = str(error).splitlines()[0][:160] if str(error) and not _JPEG.match(_syntax(header)) else ""
        syntax = UID(_syntax(header)).name
        raise Refusal(
            f"the pixels of {file.name} ({syntax}) are cut short or cannot be decoded{f' ({told})' if told else ''};"
            " export it again, uncompressed"
        ) from None
    if hu.shape != size:
        raise Refusal(f"the pixels of {file.name} are {hu.shape}, expected {size}")
    return np.clip(np.rint(hu) if hu.dtype.kind == "f" else hu, -32768, 32767).astype(np.int16)


def _rescaled(image: Dataset) -> np.ndarray:
    """Stored values times slope plus intercept; padding that would look like metal becomes air."""
    if "TransferSyntaxUID" not in image.file_meta:
        image.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian
            if image.original_encoding[0]
            else pydicom.uid.ExplicitVRLittleEndian
        )
    stored = image.pixel_array
    unused = int(image.BitsAllocated) - int(image.BitsStored)
    if unused and stored.dtype.itemsize * 8 == int(image.BitsAllocated):
        stored = (stored << unused) >> unused  # drops overlay bits, and carries the sign
    # Not given means as stored; whether that can be HU is checked on the whole volume.
    slope = float(image.get("RescaleSlope", 1))
    intercept = float(image.get("RescaleIntercept", 0))
    hu: np.ndarray
    if slope == 1 and intercept.is_integer():
        hu = stored.astype(np.int32) + int(intercept)
    else:
        hu = stored * slope + intercept
    padding = image.get("PixelPaddingValue")
    if padding is not None and int(padding) * slope + intercept > _CT_MAX_HU:
        hu[stored == int(padding)] = -1024
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
    "contrast_agent": "ContrastBolusAgent",
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


_KEYWORDS = frozenset(
    """
    SOPInstanceUID InstanceNumber NumberOfFrames SamplesPerPixel PixelRepresentation Rows Columns Modality
    ImagePositionPatient ImageOrientationPatient PixelSpacing LossyImageCompression
    """.split()  # noqa: SIM905
).union(_TEXT_FACTS.values(), _NUMBER_FACTS.values(), _PATIENT.values())


def facts_of(headers: Sequence[Dataset]) -> dict[str, Any]:
    """What the headers say, as plain values; the patient's number only as a hash, the name not at all."""
    first = headers[0]
    patient = patient_of(headers)
    return {
        "patient": hashlib.sha256(patient.id.encode()).hexdigest()[:12] if patient.id else None,
        **{name: _plain_text(first.get(keyword)) for name, keyword in _TEXT_FACTS.items()},
        **{name: _plain_number(headers, keyword) for name, keyword in _NUMBER_FACTS.items()},
        "transfer_syntax": UID(_syntax(first)).name if _syntax(first) else None,
        "lossy": any(_is_lossy(h) for h in headers),
    }


def patient_of(headers: Sequence[Dataset]) -> Patient:
    """Who was scanned, as the first header has it."""
    told = {name: str(headers[0].get(keyword) or "").strip() for name, keyword in _PATIENT.items()}
    return Patient(**told)


def _is_lossy(header: Dataset) -> bool:
    return bool(_LOSSY.match(_syntax(header))) or header.get("LossyImageCompression") == "01"


def _plain_text(value: Any) -> str | None:
    if value is None or isinstance(value, (str, int, float)):
        return str(value).strip() or None if value is not None else None
    return "\\".join(map(str, value)) or None


def _plain_number(headers: Sequence[Dataset], keyword: str) -> float | list[float] | None:
    """One number, or the lowest and the highest where slices differ."""
    values = set()
    for header in headers:
        try:
            values.add(float(header.get(keyword)))
        except (TypeError, ValueError):
            continue
    if len(values) > 1:
        return [min(values), max(values)]
    return values.pop() if values else None
