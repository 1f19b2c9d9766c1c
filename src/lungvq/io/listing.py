"""What a folder or file holds, and whether it can be used."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lungvq.errors import InputError, ResourceError
from lungvq.findings import Finding
from lungvq.io import dicom, formats
from lungvq.io.archive import Unpacked, is_archive
from lungvq.io.header import looks_like_dicom
from lungvq.io.scan import (
    MIN_SLICES,
    Patient,
    Scan,
    check_chest_ct,
    check_ct_spacing,
    hu_from_stored,
    without_zero_fill,
)
from lungvq.volume import Grid, Volume

__all__ = ["SeriesInfo", "find_scan", "list_series", "read", "read_series"]


@dataclass(frozen=True, eq=False)
class SeriesInfo:
    """One DICOM series or one image file, and whether it is a chest CT that can be used.

    Parameters
    ----------
    path : Path
        The file, or the folder that holds the first file of the series.
    kind : str
        ``"dicom"``, ``"nifti"``, ``"mha"`` or ``"nrrd"``; ``"zip"`` for one that cannot be unpacked.
    files : tuple of Path
        In slice order where that is known.
    usable : bool
        Whether `read_series` takes it, as far as is known without decoding DICOM pixels.
    reasons : tuple of str
        Why not.
    modality, description, kernel, uid : str
        Empty where not told.
    slices : int
        Number of images.
    grid : Grid or None
        Where the voxels lie, where that could be found.
    facts : dict
        As in `Scan`.
    findings : tuple of Finding
        As in `Scan`.
    patient : Patient
        As in `Scan`; not part of `to_dict`.
    stack : Stack or None
        For `read_series`.
    keep : Unpacked or None
        As in `Scan`; `to_dict` calls what was unpacked by its name in the archive.
    """

    path: Path
    kind: str
    files: tuple[Path, ...]
    usable: bool
    reasons: tuple[str, ...] = ()
    modality: str = ""
    description: str = ""
    kernel: str = ""
    uid: str = ""
    slices: int = 0
    grid: Grid | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    patient: Patient = field(default_factory=Patient)
    stack: dicom.Stack | None = field(default=None, repr=False)
    keep: Unpacked | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        grid = self.grid
        return {
            "path": str(self.path),
            "kind": self.kind,
            "usable": self.usable,
            "reasons": list(self.reasons),
            "modality": self.modality,
            "description": self.description,
            "kernel": self.kernel,
            "series_uid": self.uid,
            "slices": self.slices,
            "shape": list(grid.shape) if grid else None,
            "spacing_mm": [round(mm, 4) for mm in grid.spacing] if grid else None,
            "axes": grid.codes if grid else None,
            "coverage_mm": round(grid.shape[0] * grid.spacing[0], 1) if grid else None,
            "facts": self.facts,
            "findings": [f.to_dict() for f in self.findings],
            "files": [str(self.keep.files.get(f, f) if self.keep else f) for f in self.files],
        }


def list_series(path: Path | str) -> list[SeriesInfo]:
    """Every DICOM series at or below a path, and every image file, usable or not.

    Parameters
    ----------
    path : Path
        A folder of any depth and any file names, or one file.

    Raises
    ------
    InputError
        If there is nothing that could be a scan.
    """
    path = Path(path)
    _check_exists(path)
    if path.is_file() and not _holds_dicom(path):
        return [_describe_image(path)]
    study = dicom.find(path)
    listed = [_describe_part(part, study, path) for part in study.parts]
    listed += [SeriesInfo(file, "zip", (file,), usable=False, reasons=(told,)) for file, told in study.locked]
    if path.is_dir():
        images = sorted(f for f in path.rglob("*") if f.is_file() and formats.kind_of(f))
        listed += [_describe_image(file) for file in images]
    if not listed:
        raise InputError(_say_nothing_found(path, study))
    return sorted(listed, key=lambda s: (str(s.path), _series_number(s), s.uid, s.facts.get("part") or 0))


def read(path: Path | str) -> Scan:
    """Read a chest CT.

    Parameters
    ----------
    path : Path
        A .nii, .nii.gz, .mha, .mhd, .nrrd or .nhdr file, or a folder, zip or multi-frame file with one DICOM
        CT volume; localizers and objects that are not CT may lie beside it.

    Returns
    -------
    scan : Scan
        HU as int16 in stored order.

    Raises
    ------
    InputError
        If there is no chest CT to be had from it; the message says why.
    """
    return read_series(find_scan(path))


def find_scan(path: Path | str) -> SeriesInfo:
    """The one CT that a path holds, for `read_series`: what `read` would read, as far as headers tell.

    Raises
    ------
    InputError
        If there is none, or more than one; the message says why.
    """
    path = Path(path)
    _check_exists(path)
    if path.is_file() and not _holds_dicom(path):
        return SeriesInfo(path, formats.kind_of(path) or "unknown", formats.files_of(path), usable=True)
    study = dicom.find(path)
    if not study.parts:
        raise InputError(_say_nothing_found(path, study))
    listed = [_describe_part(part, study, path) for part in study.parts]
    # A broken second volume counts too: the one that happens to be whole need not be the one that was meant.
    whole = [info for info in listed if info.modality in ("CT", "") and info.slices >= MIN_SLICES]
    if len(whole) > 1:
        names = "; ".join(_name(info) for info in whole[:8])
        raise InputError(f"{path}: it holds {len(whole)} CT series: {names}; give the folder of one series")
    if whole:
        return replace(whole[0], path=path)
    if path.is_file() and len(study.parts) == 1 == len(study.parts[0].images):
        raise InputError(f"{path}: one DICOM file is not a whole scan; give the folder that holds all slices")
    told = "; ".join(f"{_name(i)}: {'; '.join(i.reasons)}" for i in listed[:8])
    told += "".join(f"; {file.name}: {reason}" for file, reason in study.locked[:3])
    raise InputError(f"{path}: no usable CT series: {told}")


def read_series(info: SeriesInfo) -> Scan:
    """Read one volume that `list_series` found.

    Raises
    ------
    InputError
        If it cannot be used.
    ResourceError
        If one of its files takes more memory or time than a file may.
    """
    if info.kind != "dicom":
        return _read_image(info.path)
    name = f"{info.path}, {_name(info)}"
    if not info.usable or info.stack is None:
        raise InputError(f"{name}: {'; '.join(info.reasons)}")
    try:
        volume = dicom.pixels(info.stack)
    except dicom.Refusal as reason:
        raise InputError(f"{name}: {reason}") from None
    except ResourceError as reason:
        raise ResourceError(f"{name}: {reason}") from None
    facts = {**info.facts, **check_chest_ct(volume, name)}
    return Scan(volume, info.path, "dicom", info.files, facts, info.findings, info.patient, info.keep)


def _read_image(path: Path) -> Scan:
    stored = formats.load(path)
    if stored.array.ndim != 3:
        raise InputError(f"{path}: {stored.array.shape[3]} values per voxel; expected a CT with one")
    hu = hu_from_stored(stored.array, str(path), slope=stored.slope, intercept=stored.intercept)
    hu, filled = without_zero_fill(hu)
    volume = Volume(hu, stored.affine)
    facts = {"stored_type": stored.array.dtype.name, **check_chest_ct(volume, str(path))}
    return Scan(volume, path, stored.kind, formats.files_of(path), facts, (*stored.findings, *filled))


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")


def _holds_dicom(path: Path) -> bool:
    if formats.kind_of(path):
        return False
    with path.open("rb") as stream:
        head = stream.read(1024)
    return looks_like_dicom(head) or not head.strip(b"\0") or is_archive(path)


def _say_nothing_found(path: Path, study: dicom.Study) -> str:
    if study.locked:
        file, reason = study.locked[0]
        return f"{file}: {reason}"
    if study.damaged:
        count = len(study.damaged)
        file, reason, _ = study.damaged[0]
        told = f"{count} DICOM file{'s' * (count > 1)}, none of which can be used"
        return f"{path}: {told} ({file.name} {reason}); export the series again"
    images = [f for f in path.glob("*") if formats.kind_of(f)] if path.is_dir() else []
    if images:
        return f"{path}: no DICOM images; to use {images[0].name}, give the file itself"
    return f"{path}: no DICOM images in it; expected a CT series, or one of {', '.join(formats.SUFFIXES)}"


def _name(info: SeriesInfo) -> str:
    number = info.facts.get("series_number")
    parts = [f"series {number}" if number else "series", f"'{info.description}'" if info.description else ""]
    part = f", {info.facts['part_by']}" if info.facts.get("part_by") else ""
    return f"{' '.join(p for p in parts if p)}{part} ({info.slices} images)"


def _series_number(info: SeriesInfo) -> int:
    number = str(info.facts.get("series_number") or "")
    return int(number) if number.isdigit() else 0


def _describe_part(part: dicom.Part, study: dicom.Study, path: Path) -> SeriesInfo:
    try:
        stack = dicom.arrange(part)
        grid = stack.grid
        reasons = _say_damaged(part, study)
        check_ct_spacing(grid.shape, grid.spacing, "")
    except (dicom.Refusal, InputError) as reason:
        told = str(reason).removeprefix(": ")
        return SeriesInfo(
            usable=False, reasons=(told, *_say_damaged(part, study)), **_known(part, None, study, path)
        )
    known = _known(part, stack, study, path)
    return SeriesInfo(usable=not reasons, reasons=reasons, grid=grid, findings=stack.findings, **known)


def _known(part: dicom.Part, stack: dicom.Stack | None, study: dicom.Study, path: Path) -> dict[str, Any]:
    """What can be said of a series whether it can be used or not."""
    first = part.images[0]
    images = stack.slices if stack else part.images
    facts = dicom.facts_of(part, stack)
    return {
        "path": path if study.keep and first.file in study.keep.files else first.file.parent,
        "kind": "dicom",
        "files": dicom.files_of(images),
        "slices": len(images),
        "modality": str(first.get("Modality") or ""),
        "description": facts["series_description"] or "",
        "kernel": facts["kernel"] or "",
        "uid": facts["series_uid"] or "",
        "facts": facts,
        "patient": dicom.patient_of(part),
        "stack": stack,
        "keep": study.keep,
    }


def _say_damaged(part: dicom.Part, study: dicom.Study) -> tuple[str, ...]:
    """A damaged file of the series, or one in its folder of no known series, may be a slice: then it is not whole."""
    folders = {image.shown.parent for image in part.images}
    uid = part.images[0].get("SeriesInstanceUID")
    near = [d for d in study.damaged if d[2] == uid or (d[2] is None and d[0].parent in folders)]
    if not near:
        return ()
    file, reason, _ = near[0]
    count = f"{len(near)} DICOM files beside it" if len(near) > 1 else "a DICOM file beside it"
    return (f"{count} cannot be used: {file.name} {reason}; export the series again",)


def _describe_image(path: Path) -> SeriesInfo:
    kind = formats.kind_of(path) or "unknown"
    try:
        scan = _read_image(path)
    except InputError as reason:
        told = str(reason).removeprefix(f"{path}: ")
        return SeriesInfo(path, kind, (path,), usable=False, reasons=(told,), slices=0)
    return SeriesInfo(
        path,
        kind,
        (path,),
        usable=True,
        slices=scan.volume.shape[0],
        grid=scan.volume.grid,
        facts=scan.facts,
        findings=scan.findings,
    )
