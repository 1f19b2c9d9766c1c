"""A phantom as a scanner would have sent it: a DICOM study of several series.

Beside the two breath-holds there is what lies beside them in practice and must not be taken for them: localizers,
a second reconstruction of the inspiration with a sharp kernel, and coronal reformats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds
from scipy.ndimage import gaussian_filter

import lungvq
from lungvq.phantom.make import Phantom
from lungvq.volume import Volume

__all__ = ["study_tags", "write_series", "write_study"]

INTERCEPT = -1024
SOFT, SHARP = "B35f", "B70f"
_STORED_MAX = 4095  # 12 bits
_DATE, _START = "20260115", "101200"
_TIMES = {"localizer": "101312", "insp": "101530", "exp": "101641"}
_REFORMAT_MM = 5.0
_NAMESPACE = uuid5(NAMESPACE_URL, "https://lungvq.readthedocs.io/phantom")


def write_study(phantom: Phantom, folder: Path | str) -> None:
    """Write the scans of a phantom as one DICOM study, each series in a folder of its own.

    Series 1 holds two localizers, 2 the inspiration, 3 the same with a sharp kernel, 4 the expiration, 5 coronal
    reformats of the inspiration. All share a frame of reference, which is that of the truth.

    Parameters
    ----------
    phantom : Phantom
    folder : Path
        Becomes the parent of ``series-01`` and so on.
    """
    folder = Path(folder)
    insp, exp = phantom.insp.reorient("SPL"), phantom.exp.reorient("SPL")
    study = study_tags(phantom.case, phantom.seed, insp.spacing)
    thin = f"{insp.spacing[0]:.1f}"
    for n, view in enumerate(("PIL", "LIP"), start=1):
        write_series(
            _projection(insp, view),
            folder / "series-01",
            {
                **study,
                **_series(study, 1, "TOPOGRAM CHEST", "T20s", "localizer", acquisition=1),
                "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
                "RescaleType": "US",
                "Exposure": 5,
                "XRayTubeCurrent": 35,
            },
            first_number=n,
        )
    soft = _series(study, 2, f"CHEST INSP {thin} {SOFT}", SOFT, "insp", acquisition=2)
    write_series(insp, folder / "series-02", {**study, **soft})
    sharp = _series(study, 3, f"CHEST INSP {thin} {SHARP}", SHARP, "insp", acquisition=2)
    write_series(sharpened(insp), folder / "series-03", {**study, **sharp})
    slow = _series(study, 4, f"CHEST EXP {thin} {SOFT}", SOFT, "exp", acquisition=3)
    write_series(exp, folder / "series-04", {**study, **slow, "Exposure": 60, "XRayTubeCurrent": 96})
    coronal = insp.reorient("PIL")
    coronal = coronal.resample(
        coronal.grid.with_spacing((_REFORMAT_MM, *coronal.spacing[1:])), fill=INTERCEPT
    )
    mpr = {
        **_series(study, 5, "CHEST INSP COR 5.0 MPR", SOFT, "insp", acquisition=2),
        "ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"],
        "DerivationDescription": "Coronal reformats",
    }
    write_series(coronal, folder / "series-05", {**study, **mpr})


def study_tags(case: str, seed: int, spacing: Sequence[float]) -> dict[str, Any]:
    """What all images of a phantom's study share, by keyword; the same arguments give the same UIDs.

    Parameters
    ----------
    case : str
        A name of `CASES`.
    seed : int
    spacing : sequence of 3 floats
        mm; the same subject at another voxel size is another study.
    """
    source = [case, str(seed), "x".join(f"{mm:.4f}" for mm in spacing)]
    return {
        "PatientName": "LUNGVQ^PHANTOM",
        "PatientID": f"LUNGVQ-{case}-{seed}".upper(),
        "PatientBirthDate": "19660101",
        "PatientSex": "O",
        "PatientAge": "060Y",
        "QualityControlSubject": "YES",
        "StudyInstanceUID": derived_uid("study", *source),
        "FrameOfReferenceUID": derived_uid("frame", *source),
        "PositionReferenceIndicator": "",
        "StudyID": "1",
        "StudyDate": _DATE,
        "StudyTime": _START,
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "StudyDescription": "CT CHEST",
        "ProtocolName": "ChestBreathHolds",
        "BodyPartExamined": "CHEST",
        "Manufacturer": "lungvq",
        "ManufacturerModelName": "Digital phantom",
        "DeviceSerialNumber": f"{case}-{seed}",
        "SoftwareVersions": lungvq.__version__,
        "InstitutionName": "lungvq",
        "StationName": "PHANTOM",
    }


def _series(
    study: Mapping[str, Any], number: int, description: str, kernel: str, time: str, acquisition: int
) -> dict[str, Any]:
    """What sets one series apart."""
    return {
        "SeriesInstanceUID": derived_uid("series", study["StudyInstanceUID"], str(number)),
        "SeriesNumber": number,
        "SeriesDescription": description,
        "SeriesDate": _DATE,
        "SeriesTime": _TIMES[time],
        "AcquisitionDate": _DATE,
        "AcquisitionTime": _TIMES[time],
        "ContentDate": _DATE,
        "ContentTime": _TIMES[time],
        "AcquisitionNumber": acquisition,
        "ConvolutionKernel": kernel,
    }


def write_series(
    volume: Volume, folder: Path | str, tags: Mapping[str, Any], *, first_number: int = 1
) -> list[Path]:
    """Write a volume as CT Image Storage objects, one file for each slice.

    Parameters
    ----------
    volume : Volume
        HU, axes at right angles; a grid in canonical order gives axial slices. Values are clipped to
        -1024..3071, what 12 bits hold.
    folder : Path
        Made if it is not there.
    tags : dict of str to value
        By keyword: `study_tags` and what sets the series apart; they replace the defaults made here, and None
        leaves an element out.
    first_number : int, optional
        Instance number of the last slice along the normal: numbers run from the head down.

    Returns
    -------
    list of Path
        In the order of the volume's slices.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    image = _image(volume, tags)
    # Most elements are the same in every file: they are encoded once.
    fixed = {element.tag: _encoded(element) for element in image}
    stored = np.clip(np.rint(volume.array), INTERCEPT, INTERCEPT + _STORED_MAX).astype(np.int16) - INTERCEPT
    files = []
    for k, plane in enumerate(stored):
        number = first_number + len(stored) - 1 - k
        position = volume.grid.world((k, 0, 0))
        own = Dataset()
        own.SOPInstanceUID = derived_uid("image", image.SeriesInstanceUID, str(number))
        own.InstanceNumber = number
        own.ImagePositionPatient = [decimal(mm) for mm in position]
        own.SliceLocation = decimal(float(position @ _normal(volume)))
        own.add_new("PixelData", "OW", np.ascontiguousarray(plane, "<u2").tobytes())
        image.file_meta.MediaStorageSOPInstanceUID = own.SOPInstanceUID
        elements = fixed | {element.tag: _encoded(element) for element in own}
        files.append(folder / f"IM{number:05d}.dcm")
        files[-1].write_bytes(_preamble(image) + b"".join(elements[tag] for tag in sorted(elements)))
    return files


def _encoded(element: DataElement) -> bytes:
    """One element in explicit little endian, text in UTF-8."""
    alone = Dataset()
    alone.add(element)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, alone, parent_encoding="utf8")
    return bytes(buffer.getvalue())


def _preamble(image: Dataset) -> bytes:
    """What a file begins with, its meta information included."""
    buffer = DicomBytesIO(bytes(128) + b"DICM")
    buffer.seek(0, 2)
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_file_meta_info(buffer, image.file_meta, enforce_standard=True)
    return bytes(buffer.getvalue())


def _image(volume: Volume, tags: Mapping[str, Any]) -> Dataset:
    """All elements that do not change from slice to slice."""
    thickness, row_mm, column_mm = volume.spacing
    right, down = directions(volume)
    rows, columns = volume.shape[1:]
    values = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "PatientPosition": "HFS",
        "PatientOrientation": [_letters(right), _letters(down)],
        "ScanOptions": "SPIRAL",
        "KVP": 120,
        "XRayTubeCurrent": 160,
        "ExposureTime": 500,
        "Exposure": 100,
        "ExposureModulationType": "NONE",
        "SpiralPitchFactor": 1.2,
        "SingleCollimationWidth": 0.6,
        "TotalCollimationWidth": 38.4,
        "DataCollectionDiameter": 500,
        "DistanceSourceToDetector": 1085,
        "DistanceSourceToPatient": 595,
        "GantryDetectorTilt": 0,
        "TableHeight": 150,
        "RotationDirection": "CW",
        "FilterType": "FLAT",
        "ReconstructionDiameter": decimal(max(rows * row_mm, columns * column_mm)),
        "SliceThickness": decimal(thickness),
        "PixelSpacing": [decimal(row_mm), decimal(column_mm)],
        "ImageOrientationPatient": [decimal(c) for c in (*right, *down)],
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "RescaleIntercept": INTERCEPT,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "WindowCenter": -600,
        "WindowWidth": 1500,
        "BurnedInAnnotation": "NO",
        "ImageComments": "Digital phantom, not a patient",
        **tags,
    }
    image = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(image, keyword, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    return image


def sharpened(volume: Volume) -> Volume:
    """The same scan as a sharp kernel shows it: edges and noise enhanced within the slices."""
    hu = volume.array.astype(np.float32)
    width = [0.0, *(max(0.8, 1.0 / mm) for mm in volume.spacing[1:])]
    hu += 1.2 * (hu - gaussian_filter(hu, width))
    return volume.like(np.clip(np.rint(hu), INTERCEPT, INTERCEPT + _STORED_MAX).astype(np.int16))


def _projection(volume: Volume, codes: str) -> Volume:
    """One picture through the whole chest along the first axis of `codes`, as a localizer shows it."""
    through = volume.reorient(codes)
    grid = through.grid.with_spacing((through.shape[0] * through.spacing[0], *through.spacing[1:]))
    water = (through.array.astype(np.float32) + 1000).clip(0).mean(axis=0, keepdims=True)
    return Volume(np.rint(water - 200).astype(np.int16), grid.affine)


def directions(volume: Volume) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along a row and along a column of its slices."""
    _, row_mm, column_mm = volume.spacing
    return volume.affine[:3, 2] / column_mm, volume.affine[:3, 1] / row_mm


def _normal(volume: Volume) -> NDArray[np.float64]:
    """Unit vector across the slices."""
    normal = np.cross(volume.affine[:3, 2], volume.affine[:3, 1])
    return normal / np.linalg.norm(normal)


def _letters(direction: NDArray[np.float64]) -> str:
    """Body directions of a unit vector, the largest first: ``'L'``, ``'PR'``."""
    names = [(abs(c), pair[int(c < 0)]) for c, pair in zip(direction, ("LR", "PA", "HF"), strict=True)]
    return "".join(letter for size, letter in sorted(names, reverse=True) if size > 0.1)


def decimal(number: float) -> str:
    """A number as DICOM writes it in text."""
    return format_number_as_ds(float(number) + 0.0)


def derived_uid(*sources: str) -> str:
    """A UID that the same words give again."""
    return f"2.25.{uuid5(_NAMESPACE, '|'.join(sources)).int}"
