"""What reading a chest CT gives, and what an image must be like to count as one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, label

from lungvq.errors import InputError
from lungvq.findings import Finding, warn
from lungvq.volume import Volume

__all__ = [
    "Patient",
    "Scan",
    "check_chest_ct",
    "check_ct_spacing",
    "hu_from_stored",
    "sha256_of",
    "without_zero_fill",
]

MIN_SLICES = 10
MIN_SPACING_MM, MAX_SPACING_MM = 0.1, 7.5
MAX_VOXELS = 4_000_000_000
_INT16 = np.iinfo(np.int16)

# Shares of all voxels that any chest CT exceeds by far: even one cut down to a box around the lungs, and even
# one whose outside was painted over with a padding value.
_MIN_AIR_SHARE, _MIN_SOFT_SHARE = 0.002, 0.005
_AIR_HU, _SOFT_HU = -500, (-150, 150)

NOT_SCANNED_HU = -2000
"""What voxels get that the scanner did not see, as some scanners write it themselves."""


@dataclass(frozen=True)
class Patient:
    """Who was scanned, as text that the header has; empty where it does not tell, as in image files.

    Kept apart from `Scan.facts`, which goes into ``run.json``: nothing here is written anywhere unless asked.
    """

    id: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    height_m: str = ""
    weight_kg: str = ""


@dataclass(frozen=True, eq=False)
class Scan:
    """One CT as it was read.

    Parameters
    ----------
    volume : Volume
        HU as int16, voxels in the order in which they were stored.
    path : Path
        What the user named: a file or a folder.
    kind : str
        ``"nifti"``, ``"mha"``, ``"nrrd"`` or ``"dicom"``.
    files : tuple of Path
        Every file the values came from.
    facts : dict
        What the header says, as plain values for ``run.json``; no patient's name or number. For the keys
        that DICOM gives see Notes.
    findings : tuple of Finding
        What was noticed while reading and does not forbid use.
    patient : Patient
        For comparing the two scans; not part of `facts`.
    keep : object
        Holds what was unpacked from an archive: `files` are there as long as this is.

    Notes
    -----
    Facts of a DICOM series; None where the header does not tell. Text is str, as it stands in the header.

    - ``patient``: 12 hex digits, a hash of Patient ID.
    - ``series_description``, ``study_description``, ``requested_procedure``, ``protocol``,
      ``image_comments``, ``body_part``: words that may tell inspiration from expiration.
    - ``series_number``: text; may repeat where one series was split into several volumes.
    - ``study_uid``, ``series_uid``, ``frame_of_reference_uid``, ``sop_class_uid``.
    - ``study_date``, ``study_time``, ``series_date``, ``series_time``, ``acquisition_date``,
      ``acquisition_time``, ``acquisition_datetime``: YYYYMMDD and HHMMSS.ffffff, as DICOM has them.
    - ``acquisition_number``, ``temporal_position``: text, of the first slice.
    - ``respiratory_motion``, ``respiratory_position``, ``respiratory_start_phase``,
      ``respiratory_end_phase``, ``respiratory_percent``: explicit tags, mostly of Enhanced CT.
    - ``manufacturer``, ``model``, ``kernel``, ``scan_options``, ``patient_position`` (HFS, FFP, ...),
      ``contrast_agent``.
    - ``image_type``: parts joined by backslashes. ``rescale_type``: usually HU.
    - ``kvp``, ``exposure_mas``, ``slice_thickness_mm``, ``reconstruction_diameter_mm``, ``rescale_slope``,
      ``rescale_intercept``, ``pixel_padding``: float, or [lowest, highest] where slices differ.
    - ``transfer_syntax``: its name. ``lossy``: whether some slice was compressed with loss.
    - ``part``: 1, 2, ... where one series holds several volumes, and ``part_by``, what this one has of its
      own: ``acquisition 2``; else None.
    - ``gantry_tilt_deg``: from the positions; the volume is upright all the same.
    - ``interpolated_slices``: which k of the volume lie between slices that were there.
    - ``hu_min``, ``hu_max``, ``voxels_below_minus_1024``: in `Scan` only, as they need the pixels.
    """

    volume: Volume
    path: Path
    kind: str
    files: tuple[Path, ...]
    facts: dict[str, Any]
    findings: tuple[Finding, ...] = ()
    patient: Patient = field(default_factory=Patient)
    keep: object = field(default=None, repr=False)


def sha256_of(files: Iterable[Path]) -> str:
    """One SHA-256 over the content of files, whatever their names and order.

    A single file gives its ordinary digest, as ``sha256sum`` prints it; several give the digest of their
    sorted digests, so that a series keeps its hash when it is copied or renamed.
    """
    digests = []
    for file in files:
        with Path(file).open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def hu_from_stored(
    stored: np.ndarray, name: str, *, slope: float = 1.0, intercept: float = 0.0
) -> NDArray[np.int16]:
    """Stored values as HU, rounded and clipped to int16, a slice at a time.

    Parameters
    ----------
    stored : ndarray, shape (K, J, I)
        Values as the file has them.
    name : str
        Of the file, for the message.
    slope, intercept : float, optional
        HU = slope * stored + intercept.

    Raises
    ------
    InputError
        If values are NaN or infinite.
    """
    if stored.dtype == np.int16 and (slope, intercept) == (1.0, 0.0):
        return np.ascontiguousarray(stored)
    hu = np.empty(stored.shape, np.int16)
    unusable = 0
    for plane, target in zip(stored, hu, strict=True):
        values = plane if (slope, intercept) == (1, 0) else plane * np.float64(slope) + np.float64(intercept)
        unusable += values.size - int(np.count_nonzero(np.isfinite(values)))
        if not unusable:
            target[...] = np.clip(np.rint(values), _INT16.min, _INT16.max)
    if unusable:
        raise InputError(
            f"{name}: {unusable} of {stored.size} values are NaN or infinite; a CT in HU has none,"
            " so give the scan as it was exported, not a masked copy"
        )
    return hu


def without_zero_fill(hu: NDArray[np.int16]) -> tuple[NDArray[np.int16], tuple[Finding, ...]]:
    """HU in which what a resampling filled with zeros reads as not scanned, and a finding where there was such.

    Most programs that turn, shift or pad an image fill with 0, which in HU is the body's density. Fill reaches a
    corner of the image and is exactly 0 throughout; the body reaches none, and has noise.

    Parameters
    ----------
    hu : ndarray of int16, shape (K, J, I)

    Returns
    -------
    hu : ndarray of int16
        The same array where nothing was filled.
    findings : tuple of Finding
    """
    corners = product((slice(0, 3), slice(-3, None)), repeat=3)
    reached = [corner for corner in corners if not hu[corner].any()]
    if not reached:
        return hu, ()
    zero = hu == 0
    flat = np.zeros_like(zero)
    # In planes, as even the edge of a wedge is wide along the image's border.
    for shape in ((1, 3, 3), (3, 1, 3), (3, 3, 1)):
        plane = np.ones(shape, bool)
        flat |= binary_dilation(binary_erosion(zero, plane, border_value=1), plane) & zero
    labels, _ = label(flat, np.ones((3, 3, 3), bool))
    seeds = np.unique(np.concatenate([labels[corner].ravel() for corner in reached]))
    fill = np.isin(labels, seeds[seeds > 0])
    share = 100 * float(fill.mean())
    finding = warn(
        "ZERO_FILL",
        f"{share:.1f} % of the image are exactly 0 HU from a corner on: fill of a program that turned or padded it;"
        " it is read as not scanned.",
        value=round(share, 2),
        limit=0.0,
        unit="%",
        advice="Resample CT with a fill of -1024, or give the scan as it was exported.",
    )
    return np.where(fill, np.int16(NOT_SCANNED_HU), hu), (finding,)


def check_ct_spacing(shape: tuple[int, int, int], spacing: tuple[float, float, float], name: str) -> None:
    """Refuse images too coarse, too few-sliced or too oddly spaced to be a chest CT.

    Raises
    ------
    InputError
        In one sentence that names the file.
    """
    if min(shape) < MIN_SLICES:
        raise InputError(
            f"{name}: {min(shape)} slices are not a chest CT; expected at least {MIN_SLICES},"
            " and usually over 100"
        )
    if min(spacing) < MIN_SPACING_MM:
        raise InputError(
            f"{name}: a voxel spacing of {min(spacing):.3g} mm cannot be right for a CT; check the header"
        )
    if max(spacing) > MAX_SPACING_MM:
        raise InputError(
            f"{name}: {max(spacing):.3g} mm between slices is too thick for regional lung maps; use a"
            f" reconstruction of {MAX_SPACING_MM:g} mm or less, at best 1.5 mm"
        )


def check_chest_ct(volume: Volume, name: str) -> dict[str, Any]:
    """Refuse what is not a chest CT in HU; otherwise say how its values are distributed.

    Parameters
    ----------
    volume : Volume
        HU, int16.
    name : str
        Of the file or folder, for the message.

    Returns
    -------
    facts : dict
        ``hu_min``, ``hu_max`` and ``voxels_below_minus_1024``, the latter usually padding outside the
        reconstructed circle; such values are kept as they are.

    Raises
    ------
    InputError
        If the geometry or the values cannot be those of a chest CT.
    """
    check_ct_spacing(volume.shape, volume.spacing, name)
    hu = volume.array
    low, high = int(hu.min()), int(hu.max())
    if low == high:
        raise InputError(f"{name}: every value is {low}; there is no picture in it")
    if low >= 0:
        if high <= 255:
            what = "look like an 8-bit picture, not HU"
        else:
            what = "look unscaled (rescale intercept lost?) or are not CT"
        raise InputError(
            f"{name}: values {low} to {high} {what}; expected air near -1000 HU, so export the CT again as HU"
        )
    padded = air = soft = 0
    for plane in hu:
        padded += int(np.count_nonzero(plane < -1024))
        air += int(np.count_nonzero(plane <= _AIR_HU))
        soft += int(np.count_nonzero((plane >= _SOFT_HU[0]) & (plane <= _SOFT_HU[1])))
    if air < _MIN_AIR_SHARE * hu.size:
        raise InputError(
            f"{name}: almost no voxel lies below {_AIR_HU} HU (values {low} to {high}), so this is"
            " not a chest CT or its values are not HU; expected lungs near -800 HU"
        )
    if soft < _MIN_SOFT_SHARE * hu.size:
        raise InputError(
            f"{name}: almost no voxel lies between {_SOFT_HU[0]} and {_SOFT_HU[1]} HU (values {low} to"
            f" {high}), so there is no soft tissue and the values are not HU; check the rescale intercept"
        )
    return {
        "hu_min": low,
        "hu_max": high,
        "voxels_below_minus_1024": int(padded),
    }
