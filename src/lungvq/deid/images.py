"""Which files are images that can be de-identified, and why the others are refused."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

__all__ = ["Refused", "read_image"]

_ACCEPTED = {
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.20",  # NM
    "1.2.840.10008.5.1.4.1.1.128",  # PET
    "1.2.840.10008.5.1.4.1.1.30",  # parametric map
    "1.2.840.10008.5.1.4.1.1.66.4",  # segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",
}
_CLASS_REASONS = (
    (r"Secondary Capture", "a secondary capture; names may be burned into it"),
    (r"Radiation Dose|Dose SR", "a dose report; its text may name people"),
    (r"\bSR\b|Structured|Report|Key Object", "a report; its text may name people"),
    (r"Encapsulated", "an encapsulated document; names may stand in it"),
    (r"Presentation State|Annotation", "an annotation; its text may name people"),
    (r"Raw Data|Storage - Trial|Waveform", "not an image whose content is known"),
)
_SCREENSHOT = re.compile(r"SCREEN|SAVE|DOSE|PROT\b|PROTOCOL|RPT|REPORT|CAPTURE|PATIENT", re.IGNORECASE)
_DESCRIBED = re.compile(
    r"dose\s*(report|info|record)|patient\s*protocol|screen\s*(save|shot|capture)", re.IGNORECASE
)
_MOST_BYTES = 4 << 30  # of one file, deflated or not


class Refused(Exception):
    """This file is not de-identified; the message says why and names nobody."""


def read_image(path: Path) -> Dataset:
    """A file as a dataset whose values are still the bytes of the file.

    Raises
    ------
    Refused
        If it is no DICOM image, or one that may show names in its pixels, or damaged.
    """
    try:
        _check_size(path)
        dataset = pydicom.dcmread(path, force=True)
        sop_class = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    except (Refused, MemoryError, OSError):
        raise
    except InvalidDicomError:
        raise Refused("not a DICOM file") from None
    except Exception:  # pydicom raises nearly anything on damaged files, RecursionError among it
        raise Refused("damaged, cannot be read") from None
    if not sop_class:
        raise Refused("not a DICOM image")
    try:
        _check_kind(dataset, sop_class)
        _check_pixels(dataset)
    except (Refused, MemoryError):
        raise
    except Exception:
        raise Refused("damaged, cannot be read") from None
    return dataset


def _check_size(path: Path) -> None:
    """Refuse what would fill the memory: very large files, and small ones that inflate to one."""
    if path.stat().st_size > _MOST_BYTES:
        raise Refused("larger than 4 GB")
    head = pydicom.filereader.read_file_meta_info(path) if _has_preamble(path) else Dataset()
    if head.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as stream:
        stream.seek(132 + 12 + int(head.get("FileMetaInformationGroupLength", 0)))
        while block := stream.read(1 << 16):
            while block:
                total += len(inflater.decompress(block, 1 << 20))
                block = inflater.unconsumed_tail
                if total > _MOST_BYTES:
                    raise Refused("inflates to more than 4 GB")


def _has_preamble(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _check_kind(dataset: Dataset, sop_class: str) -> None:
    """Refuse what is not a cross-sectional image, or may show names."""
    name = UID(sop_class).name
    if "Media Storage Directory" in name:
        raise Refused("a DICOMDIR; it names patients, and files that get new names")
    if sop_class not in _ACCEPTED:
        for pattern, reason in _CLASS_REASONS:
            if re.search(pattern, name):
                raise Refused(reason)
        raise Refused("not a CT, MR, NM or PET image, segmentation or parametric map")
    if str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        raise Refused("annotations are burned into it (Burned In Annotation is YES)")
    if "ConversionType" in dataset:
        raise Refused("converted from another form (Conversion Type is there); names may be burned into it")
    kind = dataset.get("ImageType") or ()
    values = [kind] if isinstance(kind, str) else list(kind)
    described = " ".join(
        str(dataset.get(k) or "") for k in ("SeriesDescription", "ImageComments", "ProtocolName")
    )
    if any(_SCREENSHOT.search(str(value)) for value in values[2:]) or _DESCRIBED.search(described):
        raise Refused(
            "a screen shot or dose page by its image type or description; names may be burned into it"
        )
    coloured = int(dataset.get("SamplesPerPixel") or 1) > 1 or "PALETTE" in str(
        dataset.get("PhotometricInterpretation")
    )
    if coloured and ".66." not in sop_class:  # segmentations have a palette of their own
        raise Refused("a colour picture; names may be burned into it")
    if sop_class == "1.2.840.10008.5.1.4.1.1.2" and not dataset.get("ImagePositionPatient"):
        raise Refused("without a position in the patient, so it cannot be told from a screen shot")
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x0102) in dataset and (group, 0x3000) not in dataset:
            raise Refused("an overlay is stored within its pixels, which are not touched here")


def _check_pixels(dataset: Dataset) -> None:
    """Refuse pixels that are missing or cut short."""
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise Refused("without pixels")
    if "PixelData" not in dataset:
        return
    syntax = dataset.file_meta.get("TransferSyntaxUID") or _guessed_syntax(dataset)
    dataset.file_meta.TransferSyntaxUID = syntax
    data = dataset.get_item("PixelData").value
    frames = int(dataset.get("NumberOfFrames") or 1)
    if UID(syntax).is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        if sum(1 for _ in generate_frames(data, number_of_frames=frames)) < frames:
            raise Refused("its pixels are cut short")
        return
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel") or 1)
    if len(data) * 8 < bits * int(dataset.BitsAllocated) * frames:
        raise Refused("its pixels are cut short")


def _guessed_syntax(dataset: Dataset) -> UID:
    return ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
