"""What all objects of a run share: where their slices lie, whose they are, who made them and how."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

import lungvq
from lungvq.errors import GeometryError
from lungvq.export.dicom.names import CT_IMAGE, KINDS, own
from lungvq.export.dicom.source import Reference, Source
from lungvq.export.dicom.uids import uid
from lungvq.findings import Severity
from lungvq.result import CaseResult
from lungvq.volume import Grid, Volume

__all__ = [
    "RESEARCH_USE",
    "Context",
    "check_right_angles",
    "code_item",
    "describe",
    "ds",
    "planes_of",
    "save",
]

MAKER = "lungvq"
IMPLEMENTATION_CLASS = UID(uid(MAKER, "implementation class"))
RESEARCH_USE = "Research use only, not for diagnosis or treatment."
_RIGHT_ANGLE = 1e-4
_ST, _LT = 1024, 10240  # characters that these types may hold


def ds(value: float) -> str:
    """A number as a decimal string of at most 16 characters, as exact as that allows.

    Examples
    --------
    >>> ds(0.1), ds(-1 / 3)
    ('0.1', '-0.3333333333333')
    """
    return format_number_as_ds(float(value) + 0.0)


def code_item(code: Code) -> Dataset:
    """A code as an item of a code sequence."""
    return highdicom.sr.CodedConcept.from_code(code)


def save(dataset: Dataset, path: Path) -> None:
    """Write a file as PS3.10 has it, refused where it is not conformant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def planes_of(volume: Volume, grid: Grid, fill: float) -> Callable[[int], np.ndarray]:
    """Slices of a larger grid, one at a time, from a volume that covers a part of it; nothing is copied.

    Parameters
    ----------
    volume : Volume
        Any axis order; a part of `grid`, voxel on voxel.
    grid : Grid
    fill : float
        Value outside the volume.

    Returns
    -------
    callable
        Number of a slice of `grid` to its values (J, I).
    """
    order, flips = volume.grid.reorientation_to(grid.codes)
    part = volume.array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    start = np.rint(grid.index(volume.grid.reorient(grid.codes).world((0, 0, 0)))).astype(int)
    stop = start + part.shape
    if (start < 0).any() or (stop > grid.shape).any():
        raise GeometryError("expected a part of the larger grid")

    def plane(k: int) -> np.ndarray:
        whole = np.full(grid.shape[1:], fill, volume.array.dtype)
        if start[0] <= k < stop[0]:
            whole[start[1] : stop[1], start[2] : stop[2]] = part[k - start[0]]
        return whole

    return plane


@dataclass(frozen=True, eq=False)
class Context:
    """A finished case on its way into DICOM.

    Parameters
    ----------
    result : CaseResult
    source : Source
    created : datetime
        With time zone.
    """

    result: CaseResult
    source: Source
    created: datetime
    grid: Grid = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", _upright(self.result, self.source))

    # --- identity -----------------------------------------------------------------------------------------

    def series_uid(self, kind: str) -> str:
        """Series Instance UID of one kind of object."""
        return uid(self.source.seed, kind)

    def instance_uid(self, kind: str, number: int = 1) -> str:
        """SOP Instance UID of the object with an instance number."""
        return uid(self.source.seed, kind, number)

    def identity(self, kind: str) -> dict[str, Any]:
        """What highdicom asks of an object that is alone in its series: its names and its maker."""
        return {
            "series_instance_uid": self.series_uid(kind),
            "series_number": KINDS[kind].number,
            "sop_instance_uid": self.instance_uid(kind),
            "instance_number": 1,
            "manufacturer": MAKER,
            "manufacturer_model_name": MAKER,
            "software_versions": lungvq.__version__,
            "device_serial_number": "none",
        }

    def description(self, kind: str) -> str:
        """Series Description; what a failed check touches says so first."""
        name = (
            kind.removeprefix("pmap_").removesuffix("_colour").removeprefix("seg_").removeprefix("labelmap_")
        )
        touched = {"vq": "vq_log2", "vq_classes": "vq_class"}.get(name, name.removesuffix("_defects"))
        if kind in ("measurements", "report"):  # of everything
            fails = self.result.status is Severity.FAIL
        else:
            fails = self.result.withheld(touched)
        failed = "QC FAIL: " if fails else ""
        return f"{failed}{KINDS[kind].title} (research)"

    def new(self, kind: str, number: int = 1) -> Dataset:
        """An object with everything that all objects share."""
        sop_class = UID(KINDS[kind].sop_class)
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, UID(self.instance_uid(kind, number))
        dataset.InstanceNumber = number
        return self.stamp(dataset, kind)

    def stamp(self, dataset: Dataset, kind: str) -> Dataset:
        """Put all that objects share on one, in place."""
        meta = dataset.file_meta
        meta.FileMetaInformationVersion = b"\x00\x01"
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
            dataset.SOPClassUID,
            dataset.SOPInstanceUID,
        )
        meta.ImplementationClassUID, meta.ImplementationVersionName = IMPLEMENTATION_CLASS, MAKER.upper()
        dataset.preamble = b"\x00" * 128
        dataset.ContributingEquipmentSequence = self.equipment
        return self.belong(dataset, kind)

    def belong(self, dataset: Dataset, kind: str) -> Dataset:
        """Put patient, study, series, maker and time on an object, in place."""
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.update(deepcopy(self.source.header))  # elements are shared otherwise, and changed for all
        dataset.SeriesInstanceUID, dataset.SeriesNumber = UID(self.series_uid(kind)), KINDS[kind].number
        dataset.Modality, dataset.SeriesDescription = KINDS[kind].modality, self.description(kind)
        dataset.Manufacturer, dataset.ManufacturerModelName = MAKER, MAKER
        dataset.SoftwareVersions, dataset.DeviceSerialNumber = lungvq.__version__, "none"
        now = self.source.local(self.created)
        date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
        for event in ("InstanceCreation", "Series", "Content"):
            setattr(dataset, f"{event}Date", date)
            setattr(dataset, f"{event}Time", time)
        return dataset

    def place(self, dataset: Dataset) -> Dataset:
        """Put frame of reference and body part on an image, in place."""
        dataset.FrameOfReferenceUID = UID(self.source.frame_of_reference_uid)
        dataset.PositionReferenceIndicator = self.source.position_reference
        dataset.BodyPartExamined = self.source.body_part
        return dataset

    # --- geometry -----------------------------------------------------------------------------------------

    @cached_property
    def orientation(self) -> list[str]:
        """Image Orientation (Patient): along a row, then down a column."""
        columns = self.grid.affine[:3, :3] / np.array(self.grid.spacing)
        return [ds(v) for v in (*columns[:, 2], *columns[:, 1])]

    @cached_property
    def positions(self) -> NDArray[np.float64]:
        """Centre of the first voxel of every slice, (K, 3), LPS mm."""
        k = np.arange(self.grid.shape[0])
        return self.grid.world(np.stack([k, 0 * k, 0 * k], axis=-1))

    @cached_property
    def step(self) -> float:
        """mm between slices along their normal."""
        return abs(float(self.grid.affine[:3, 0] @ self.normal))

    @cached_property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector across the slices."""
        normal = np.cross(self.grid.affine[:3, 2], self.grid.affine[:3, 1])
        return normal / np.linalg.norm(normal)

    def lay(self, dataset: Dataset, k: int) -> Dataset:
        """Put the place of slice `k` on a single-frame image, in place."""
        dataset.ImageOrientationPatient = self.orientation
        dataset.ImagePositionPatient = [ds(v) for v in self.positions[k]]
        dataset.SliceLocation = ds(self.positions[k] @ self.normal)
        dataset.PixelSpacing = [ds(self.grid.spacing[1]), ds(self.grid.spacing[2])]
        dataset.SliceThickness = ds(self.source.slice_thickness or self.step)
        dataset.SpacingBetweenSlices = ds(self.step)
        dataset.Rows, dataset.Columns = self.grid.shape[1:]
        return dataset

    @cached_property
    def slices(self) -> list[Reference] | None:
        """The slice of the scan at every slice of the result; None where they do not match one to one."""
        return self.source.at(self.positions)

    def headers(self, first: int, last: int) -> list[Dataset]:
        """Images that a derived object refers to, without pixels: the scan's own slices `first` to `last`.

        Where the scan was no DICOM, is multi-frame or was resampled, the slices of the ventilation series.
        """
        scan = self.slices
        if scan is not None and any(reference.frame is not None for reference in scan):
            scan = None
        listed = []
        for k in range(first, last + 1):
            header = self.lay(self.place(self.belong(Dataset(), "ventilation")), k)
            header.PatientName = None  # stamped on later; highdicom would comment on how it is written
            header.SOPClassUID = UID(scan[k].sop_class if scan else CT_IMAGE)
            header.SOPInstanceUID = UID(scan[k].instance if scan else self.instance_uid("ventilation", k + 1))
            if scan:
                header.SeriesInstanceUID = UID(self.source.series_uid)
            listed.append(header)
        return listed

    @property
    def reference_series(self) -> str:
        """Series Instance UID of what `headers` names."""
        return str(self.headers(0, 0)[0].SeriesInstanceUID)

    @cached_property
    def lung_slices(self) -> tuple[int, int]:
        """First and last slice that holds lung."""
        plane = planes_of(self.result.lungs_exp, self.grid, 0)
        holding = [k for k in range(self.grid.shape[0]) if plane(k).any()]
        return holding[0], holding[-1]

    # --- provenance ---------------------------------------------------------------------------------------

    @cached_property
    def parameters(self) -> list[str]:
        """Every parameter of the run as ``name=value``."""
        return sorted(_flat(self.result.settings))

    @cached_property
    def equipment(self) -> list[Dataset]:
        """Contributing Equipment: one item a stage, with all its parameters."""
        stages: dict[str, list[str]] = {}
        for setting in self.parameters:
            stages.setdefault(setting.split(".")[0] if "." in setting.split("=")[0] else "run", []).append(
                setting
            )
        scans = ", ".join(f"{scan.role} sha256 {scan.sha256}" for scan in self.result.scans)
        digest = sha256(json.dumps(self.parameters).encode()).hexdigest()
        told = [f"inputs: {scans}; parameters sha256 {digest}; {RESEARCH_USE}"]
        told += [f"{stage}: {'; '.join(settings)}" for stage, settings in stages.items()]
        now = self.source.local(self.created).strftime("%Y%m%d%H%M%S")
        return [
            highdicom.ContributingEquipment(
                manufacturer=MAKER,
                purpose_of_reference=codes.DCM.ProcessingEquipment,
                manufacturer_model_name=MAKER,
                software_versions=lungvq.__version__,
                contribution_datetime=now,
                contribution_description=text,
            )
            for stage in told
            for text in _pieces(stage, _ST)
        ]

    def algorithm(self, name: str, family: Code) -> Any:
        """Algorithm Identification for a segment or a map."""
        return highdicom.AlgorithmIdentificationSequence(
            name=name,
            family=family,
            version=lungvq.__version__,
            source=MAKER,
            parameters={name: value for name, _, value in (p.partition("=") for p in self.parameters)},
        )

    def derivation(self, method: str) -> str:
        """How an image came to be, for people."""
        notes = [f.message for f in self.result.findings if f.severity == "FAIL"]
        text = (
            f"{method} lungvq {lungvq.__version__}, from an inspiration and an expiration CT without contrast."
            f" {RESEARCH_USE} {self.result.banner} {'QC FAIL: ' * bool(notes)}{' '.join(notes)}"
        )
        return text.strip()[:_ST]


def describe(dataset: Dataset, context: Context, method: str, reference: Reference | None) -> None:
    """Say on a derived single-frame image what it was made from, and how."""
    dataset.DerivationDescription = context.derivation(method)
    dataset.DerivationCodeSequence = [code_item(own("vq_maps"))]
    if reference is None:
        return
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
        UID(reference.sop_class),
        UID(reference.instance),
    )
    if reference.frame is not None:
        item.ReferencedFrameNumber = reference.frame
    item.PurposeOfReferenceCodeSequence = [code_item(codes.DCM.SourceImageForImageProcessingOperation)]
    dataset.SourceImageSequence = [item]


def check_right_angles(grid: Grid) -> None:
    """Refuse a scan whose rows and columns are not at right angles: DICOM has no place for that.

    Raises
    ------
    GeometryError
    """
    axes = grid.affine[:3, :3] / np.array(grid.spacing)
    if abs(axes[:, 1] @ axes[:, 2]) > _RIGHT_ANGLE:
        raise GeometryError(
            "rows and columns of the expiration scan are not at right angles, which DICOM cannot hold; run with"
            " --no-dicom, or resample the scan"
        )


def _upright(result: CaseResult, source: Source) -> Grid:
    """The expiration grid in the axis order of its file, or, where that was no DICOM, as a scanner has it."""
    grid = result.exp_grid.reorient(result.exp_codes) if source.slices else result.exp_grid
    check_right_angles(grid)
    return grid


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as ``a.b=value``."""
    flat = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}.")
        else:
            shown = f"{value:.7g}" if isinstance(value, float) and math.isfinite(value) else str(value)
            flat.append(f"{prefix}{name}={shown}".replace("\\", "/"))
    return flat


def _pieces(text: str, length: int) -> list[str]:
    """Text cut into parts of at most `length` characters, at semicolons."""
    parts = [""]
    for piece in text.split("; "):
        joined = f"{parts[-1]}; {piece}" if parts[-1] else piece
        if len(joined) <= length:
            parts[-1] = joined
        else:
            parts.append(piece[:length])
    return [part for part in parts if part]
