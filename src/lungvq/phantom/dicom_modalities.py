"""SPECT and dual-energy CT of a phantom as their machines would have sent them: NM and CT objects.

Each is a study of its own, on another day than the breath-holds and in another frame of reference; SPECT and
its low-dose CT share theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.pm import RealWorldValueMapping
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, NuclearMedicineImageStorage

from lungvq.phantom.dicom import decimal, derived_uid, directions, study_tags, write_series
from lungvq.phantom.make import Phantom
from lungvq.phantom.modalities import Modalities
from lungvq.volume import Volume

__all__ = ["write_modality_studies", "write_nm"]

_LARGEST = 2**16 - 1
_SLICE_VECTOR = Tag("SliceVector")
_OPPOSITE = dict(zip("LRAPSI", "RLPAIS", strict=True))
_KEV = (126.0, 154.0)  # 140 keV, 20 % wide
_SPECT_DAY, _DECT_DAY = "20260117", "20260116"
_TRACERS: dict[str, dict[str, Any]] = {
    "v": {
        "SeriesDescription": "LUNG VENTILATION SPECT AC",
        "SeriesTime": "091000",
        "Radiopharmaceutical": "Tc-99m Technegas",
        "AdministrationRouteCodeSequence": codes.SCT.ByInhalation,
        "RadionuclideTotalDose": 40,
    },
    "q": {
        "SeriesDescription": "LUNG PERFUSION SPECT AC",
        "SeriesTime": "093000",
        "Radiopharmaceutical": "Tc-99m MAA",
        "AdministrationRouteCodeSequence": codes.SCT.IntravenousRoute,
        "RadionuclideTotalDose": 160,
    },
}


def write_modality_studies(modalities: Modalities, phantom: Phantom, folder: Path | str) -> None:
    """Write ``spect/``: its low-dose CT, ventilation and perfusion; and ``dect/``: perfused blood volume.

    Parameters
    ----------
    modalities : Modalities
        From :func:`lungvq.phantom.modalities.make_modalities`, of this phantom.
    phantom : Phantom
    folder : Path
        Becomes the parent of both; each series has a folder of its own.

    Notes
    -----
    Patient and voxels are those of `Phantom` and `Modalities`; counts are rounded to what 16 bits hold.
    """
    folder = Path(folder)
    common = study_tags(phantom.case, phantom.seed, phantom.insp.reorient("SPL").spacing)
    source = json.dumps(modalities.scalars, sort_keys=True)

    def study(name: str, day: str, time: str, description: str) -> dict[str, Any]:
        uid = derived_uid(name, common["StudyInstanceUID"], source)
        dates = {f"{what}Date": day for what in ("Study", "Series", "Acquisition", "Content")}
        return {
            **common,
            **dates,
            "StudyInstanceUID": uid,
            "FrameOfReferenceUID": derived_uid("frame", uid),
            "StudyTime": time,
            "StudyDescription": description,
            "ProtocolName": description,
        }

    def series(of: Mapping[str, Any], number: int, description: str, time: str) -> dict[str, Any]:
        return {
            **of,
            "SeriesInstanceUID": derived_uid("series", of["StudyInstanceUID"], str(number)),
            "SeriesNumber": number,
            "SeriesDescription": description,
            "AcquisitionNumber": number,
            **{f"{what}Time": time for what in ("Series", "Acquisition", "Content")},
        }

    spect = study("spect", _SPECT_DAY, "090000", "NM LUNG V/Q SPECT CT")
    write_series(
        modalities.spect_ct,
        folder / "spect" / "series-01",
        {
            **series(spect, 1, "CT LOW DOSE FREE BREATHING AC", "090500"),
            "ConvolutionKernel": "B30f",
            "XRayTubeCurrent": 20,
            "Exposure": 10,
            "WindowCenter": 40,
            "WindowWidth": 400,
        },
    )
    for number, (name, tracer) in enumerate(_TRACERS.items(), start=2):
        tags = series(spect, number, tracer["SeriesDescription"], tracer["SeriesTime"])
        file = folder / "spect" / f"series-{number:02d}" / "IM00001.dcm"
        write_nm(getattr(modalities, f"spect_{name}"), file, {**tags, **_isotope(tracer)})
    dect = study("dect", _DECT_DAY, "140000", "CT CHEST DUAL ENERGY")
    write_series(
        modalities.dect_pbv,
        folder / "dect" / "series-01",
        {
            **series(dect, 1, "PERFUSED BLOOD VOLUME", "140500"),
            "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
            "DerivationDescription": "Iodine in lung, HU; -1024 elsewhere",
            "ContrastBolusAgent": "Iodine",
            "ConvolutionKernel": "D30f",
            "WindowCenter": 40,
            "WindowWidth": 80,
        },
    )


def write_nm(volume: Volume, file: Path | str, tags: Mapping[str, Any]) -> float:
    """Write counts as one NM Image Storage object, reconstructed tomography, a frame for each slice.

    Parameters
    ----------
    volume : Volume
        Zero or more everywhere, axes at right angles and right-handed or not: the slices are turned such that
        they follow each other along the cross product of row and column direction, as NM has it.
    file : Path
        Its folder is made if it is not there.
    tags : dict of str to value
        By keyword: `study_tags`, what sets the series apart and how it was taken; they replace the defaults.

    Returns
    -------
    float
        What one stored unit stands for; also in the real world value mapping and in the rescale slope, which
        NM does not know but vendors write and readers heed.
    """
    if np.linalg.det(volume.affine[:3, :3]) > 0:  # (k, j, i): a right-handed (i, j, k) has a negative one
        volume = volume.reorient(_OPPOSITE[volume.grid.codes[0]] + volume.grid.codes[1:])
    slope = 10.0 ** np.ceil(np.log10(max(float(volume.array.max()), 1e-6) / _LARGEST))
    stored = np.rint(volume.array / slope).astype("<u2")
    right, down = directions(volume)
    step, row_mm, column_mm = volume.spacing
    rotation = _item(
        StartAngle=180,
        AngularStep=3,
        RotationDirection="CC",
        ScanArc=360,
        ActualFrameDuration=15_000,
        NumberOfFramesInRotation=60,
        RadialPosition=250,
        TableTraverse=0,
        TableHeight=150,
    )
    detector = _item(
        CollimatorGridName="LEHR",
        CollimatorType="PARA",
        FieldOfViewShape="RECTANGLE",
        FieldOfViewDimensions=[540, 400],
        FocalDistance=0,
        StartAngle=180,
        ImageOrientationPatient=[decimal(c) for c in (*right, *down)],
        ImagePositionPatient=[decimal(mm) for mm in volume.grid.world((0, 0, 0))],
    )
    values = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"],
        "SOPClassUID": NuclearMedicineImageStorage,
        "Modality": "NM",
        "InstanceNumber": 1,
        "PatientOrientation": None,
        "PatientOrientationCodeSequence": [
            _code(codes.SCT.Recumbent, PatientOrientationModifierCodeSequence=[_code(codes.SCT.Supine)])
        ],
        "PatientGantryRelationshipCodeSequence": [_code(codes.SCT.Headfirst)],
        "NumberOfFrames": len(stored),
        "FrameIncrementPointer": _SLICE_VECTOR,
        "SliceVector": list(range(1, len(stored) + 1)),
        "NumberOfSlices": len(stored),
        "NumberOfEnergyWindows": 1,
        "NumberOfDetectors": 1,
        "NumberOfRotations": 1,
        "EnergyWindowInformationSequence": [
            _item(
                EnergyWindowName="Tc-99m",
                EnergyWindowRangeSequence=[
                    _item(EnergyWindowLowerLimit=_KEV[0], EnergyWindowUpperLimit=_KEV[1])
                ],
            )
        ],
        "RadiopharmaceuticalInformationSequence": [],
        "DetectorInformationSequence": [detector],
        "RotationInformationSequence": [rotation],
        "TypeOfDetectorMotion": "STEP AND SHOOT",
        "CountsAccumulated": round(float(volume.array.sum(dtype=float))),
        "CorrectedImage": ["UNIF", "COR", "NCO", "DECY", "ATTN", "SCAT"],
        "LossyImageCompression": "00",
        "SliceThickness": decimal(step),
        "SpacingBetweenSlices": decimal(step),
        "PixelSpacing": [decimal(row_mm), decimal(column_mm)],
        "Rows": stored.shape[1],
        "Columns": stored.shape[2],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "WindowCenter": decimal(_LARGEST * slope / 2),
        "WindowWidth": decimal(_LARGEST * slope),
        "RescaleIntercept": 0,
        "RescaleSlope": decimal(slope),
        "RescaleType": "COUNTS",
        "RealWorldValueMappingSequence": [
            RealWorldValueMapping("COUNTS", "Counts per voxel", _COUNTS, (0, _LARGEST), slope, 0.0)
        ],
        "BurnedInAnnotation": "NO",
        "ImageComments": "Digital phantom, not a patient",
        **tags,
    }
    image = Dataset()
    for keyword, value in values.items():
        setattr(image, keyword, value)
    image.SOPInstanceUID = derived_uid("image", image.SeriesInstanceUID, "1")
    image.add_new("PixelData", "OW", stored.tobytes())
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    image.save_as(file, enforce_file_format=True)
    return float(slope)


_COUNTS = CodedConcept("{counts}", "UCUM", "Counts")


def _isotope(tracer: Mapping[str, Any]) -> dict[str, Any]:
    """The radiopharmaceutical of one acquisition."""
    given = _item(
        RadionuclideCodeSequence=[_code(codes.SCT._99mTechnetium)],
        AdministrationRouteCodeSequence=[_code(tracer["AdministrationRouteCodeSequence"])],
        Radiopharmaceutical=tracer["Radiopharmaceutical"],
        RadionuclideTotalDose=tracer["RadionuclideTotalDose"],
    )
    return {"RadiopharmaceuticalInformationSequence": [given]}


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _code(code: Any, **values: Any) -> Dataset:
    """An item of a code sequence, with what else it holds."""
    return _item(
        CodeValue=code.value,
        CodingSchemeDesignator=code.scheme_designator,
        CodeMeaning=code.meaning,
        **values,
    )
