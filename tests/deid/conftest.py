"""Small DICOM files with a patient in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROOT = "1.2.276.0.7230010.3.1.4.8323329"


def ct_image(number: int = 1, *, series: int = 1, size: int = 16) -> FileDataset:
    """One CT slice of Erika Mustermann."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.SourceApplicationEntityTitle = "MUSTERMANN_CT"
    image = FileDataset("", {}, file_meta=meta, preamble=b"Erika Mustermann was here".ljust(128, b"\0"))
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = f"{ROOT}.{series}.{number}"
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{ROOT}.9", f"{ROOT}.{series}"
    image.FrameOfReferenceUID = f"{ROOT}.8"
    image.PatientName, image.PatientID = "Mustermann^Erika^^Dr.", "4711-0815"
    image.PatientBirthDate, image.PatientSex, image.PatientAge = "19640812", "F", "061Y"
    image.StudyDate, image.StudyTime = "20260314", "101112.5"
    image.AcquisitionDateTime = "20260314101530.250000+0100"
    image.AccessionNumber, image.StudyID = "ACC998877", "STUDY5544"
    image.ReferringPhysicianName = "Doe^John"
    image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.Manufacturer, image.ManufacturerModelName = "ACME", "Tube 3000"
    image.DeviceSerialNumber, image.StationName = "SN556677", "CTROOM2"
    image.InstitutionName = "Klinikum Musterstadt"
    image.SeriesDescription = "Thorax Inspiration 1.0 mm Br59f Mustermann"
    image.StudyDescription = "CT Chest - 61F Dr. Doe"
    image.ProtocolName = "Lung low dose"
    image.BodyPartExamined, image.PatientPosition = "CHEST", "HFS"
    image.ConvolutionKernel, image.KVP, image.SliceThickness = "Br59f", "120", "2.5"
    image.SeriesNumber, image.InstanceNumber, image.AcquisitionNumber = series, number, 1
    image.ImagePositionPatient, image.ImageOrientationPatient = [-100, -90, 2.5 * number], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing = [0.75, 0.7]
    image.Rows = image.Columns = size
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = "1", "-1024", "HU"
    pixels = np.random.default_rng(100 * series + number).integers(-900, 900, (size, size)).astype("<i2")
    image.PixelData = pixels.tobytes()
    return image


def reference(sop_class: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    return item


@pytest.fixture
def make_image() -> Callable[..., FileDataset]:
    return ct_image


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two series of twelve slices, in files named after the patient."""
    folder = tmp_path / "Mustermann_Erika"
    for series in (1, 2):
        (folder / f"series{series}").mkdir(parents=True)
        for number in range(1, 13):
            image = ct_image(number, series=series)
            if number > 1:
                image.ReferencedImageSequence = [reference(CTImageStorage, f"{ROOT}.{series}.1")]
            image.save_as(
                folder / f"series{series}" / f"Mustermann_{generate_uid()}.dcm", enforce_file_format=True
            )
    return folder
