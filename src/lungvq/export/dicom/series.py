"""Quantitative maps as ordinary CT-like slices: 16 bits, a rescale, and a real world value mapping."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from lungvq.export.dicom.common import Context, code_item, describe, ds, planes_of, save
from lungvq.export.dicom.names import QUANTITIES
from lungvq.result import MAPS
from lungvq.volume import Volume

__all__ = ["PADDING", "Scaling", "scaling_of", "write_series"]

PADDING = 0
"""The stored value of a voxel where the map is not defined; stored values from 1 on are values."""

_MOST = 65535


@dataclass(frozen=True)
class Scaling:
    """value = slope * stored + intercept, exact in decimals; stored values 1 to 65535."""

    slope: Decimal
    intercept: Decimal

    def store(self, values: np.ndarray) -> NDArray[np.uint16]:
        """Values as stored numbers, `PADDING` where they are NaN.

        Examples
        --------
        >>> Scaling(Decimal("0.1"), Decimal(-1)).store(np.array([0.0, 5.04, np.nan])).tolist()
        [10, 60, 0]
        """
        stored = np.rint((values.astype(np.float64) - float(self.intercept)) / float(self.slope))
        return np.where(np.isnan(stored), PADDING, np.clip(stored, 1, _MOST)).astype(np.uint16)


def scaling_of(low: float, high: float) -> Scaling:
    """The finest round step with which 16 bits hold every value from `low` to `high`, and 0 exactly.

    Examples
    --------
    >>> scaling_of(-120.0, 4000.0)
    Scaling(slope=Decimal('0.1'), intercept=Decimal('-120.1'))
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        low = high = 0.0
    low, high = min(low, 0.0), max(high, 0.0)
    exponent, digit = -2, 1  # no finer than 0.01 of the displayed unit
    while (high - low) / float(slope := Decimal(digit).scaleb(exponent)) > _MOST - 4:
        exponent, digit = (exponent, 2 * digit) if digit < 5 else (exponent + 1, 1)
        digit = {4: 5}.get(digit, digit)
    steps = int(np.floor(low / float(slope))) - 1
    return Scaling(slope, slope * steps)


def limits_of(volume: Volume) -> tuple[float, float]:
    """Lowest and highest defined value, slice by slice; NaN where there is none."""
    low, high = np.inf, -np.inf
    for plane in volume.array:
        defined = plane[np.isfinite(plane)]
        if defined.size:
            low, high = min(low, float(defined.min())), max(high, float(defined.max()))
    return (low, high) if low <= high else (float("nan"), float("nan"))


def mean_of(volume: Volume) -> float:
    """Mean of the defined values, without a copy of the whole; NaN where there is none."""
    total, count = 0.0, 0
    for plane in volume.array:
        defined = plane[np.isfinite(plane)]
        total, count = total + float(defined.sum(dtype=np.float64)), count + defined.size
    return total / count if count else float("nan")


def real_world_mapping(name: str, scaling: Scaling) -> Dataset:
    """From stored values to the map's own unit, as in its NIfTI file."""
    quantity = QUANTITIES[name]
    item = Dataset()
    item.LUTExplanation, item.LUTLabel = MAPS[name].title, name.upper()[:16]
    item.MeasurementUnitsCodeSequence = [code_item(quantity.unit)]
    item.add_new("RealWorldValueFirstValueMapped", "US", 1)
    item.add_new("RealWorldValueLastValueMapped", "US", _MOST)
    item.RealWorldValueSlope = float(scaling.slope / quantity.display_factor)
    item.RealWorldValueIntercept = float(scaling.intercept / quantity.display_factor)
    definition = Dataset()
    definition.ValueType = "CODE"
    definition.ConceptNameCodeSequence = [code_item(codes.SCT.Quantity)]
    definition.ConceptCodeSequence = [code_item(quantity.code)]
    item.QuantityDefinitionSequence = [definition]
    return item


def write_series(context: Context, name: str, folder: Path) -> int:
    """Write a map on every slice of the expiration scan, one file each.

    Parameters
    ----------
    name : str
        ``ventilation`` or ``perfusion``.
    folder : Path

    Returns
    -------
    int
        Number of files.

    Notes
    -----
    The SOP class is CT Image Storage, because every PACS shows, windows and reformats it; Image Type is
    ``DERIVED\\SECONDARY`` and Rescale Type never HU, so that nobody need take it for CT numbers.
    """
    volume, quantity, spec = context.result.maps[name], QUANTITIES[name], MAPS[name]
    low, high = (quantity.display_factor * limit for limit in limits_of(volume))
    scaling = scaling_of(low, high)
    mean = quantity.display_factor * mean_of(volume)
    plane = planes_of(volume, context.grid, np.nan)

    image = context.place(context.new(name))
    image.ImageType = ["DERIVED", "SECONDARY", "AXIAL", name.upper()]
    image.PatientPosition = context.source.patient_position
    image.AcquisitionDate, image.AcquisitionTime = context.source.acquired
    image.AcquisitionNumber, image.KVP = None, None
    image.ContentQualification = "RESEARCH"
    image.BurnedInAnnotation = "NO"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.add_new("PixelPaddingValue", "US", PADDING)
    image.RescaleSlope, image.RescaleIntercept = ds(float(scaling.slope)), ds(float(scaling.intercept))
    image.RescaleType = quantity.rescale_type
    width = max(1.0, 2 * mean) if mean > 0 else max(1.0, high - low if high > low else 1.0)
    image.WindowCenter, image.WindowWidth = ds(round(width / 2, 1)), ds(round(width, 1))
    image.WindowCenterWidthExplanation = "0 to twice the mean"
    image.RealWorldValueMappingSequence = [real_world_mapping(name, scaling)]
    image.ImageComments = f"{spec.meaning} Values after rescale: {quantity.display_unit}, not HU."
    slices = context.slices

    for k in range(context.grid.shape[0]):
        # One object, changed from slice to slice and written each time.
        image.InstanceNumber = k + 1
        image.SOPInstanceUID = context.instance_uid(name, k + 1)
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        context.lay(image, k)
        describe(image, context, f"{spec.meaning} Method {spec.method}.", slices[k] if slices else None)
        image.PixelData = scaling.store(plane(k) * np.float64(quantity.display_factor)).tobytes()
        image["PixelData"].VR = "OW"
        save(image, folder / f"{k + 1:04d}.dcm")
    return int(context.grid.shape[0])
