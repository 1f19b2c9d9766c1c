"""What a folder or file holds, and whether it can be used."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from lungvq.errors import InputError
from lungvq.findings import Finding
from lungvq.io import dicom, formats
from lungvq.io.scan import MIN_SLICES, Patient, Scan, check_chest_ct, check_ct_spacing, hu_from_stored
from lungvq.volume import Grid, Volume

__all__ = ["SeriesInfo", "list_series", "read", "read_series"]


@dataclass(frozen=True, eq=False)
class SeriesInfo:
    """One DICOM series or one image file, and whether it is a chest CT that can be used.

    Parameters
    ----------
    path : Path
        The file, or the folder that holds the first file of the series.
    kind : str
        ``"dicom"``, ``"nifti"``, ``"mha"`` or ``"nrrd"``.
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
            "files": [str(f) for f in self.files],
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
    if path.is_file() and not _is_dicom_file(path):
        return [_describe_image(path)]
    found, damaged = dicom.find_series(path)
    listed = [_beside(damaged, _describe_series(headers)[0]) for headers in found.values()]
    if path.is_dir():
        images = sorted(f for f in path.rglob("*") if f.is_file() and formats.kind_of(f))
        listed += [_describe_image(file) for file in images]
    if not listed:
        raise InputError(_say_nothing_found(path, damaged))
    return sorted(listed, key=lambda s: (str(s.path), _series_number(s), s.uid))


def read(path: Path | str) -> Scan:
    """Read a chest CT.

    Parameters
    ----------
    path : Path
        A .nii, .nii.gz, .mha, .mhd, .nrrd or .nhdr file, or a folder with one DICOM CT series; localizers
        and objects that are not CT may lie beside it.

    Returns
    -------
    scan : Scan
        HU as int16 in stored order.

    Raises
    ------
    InputError
        If there is no chest CT to be had from it; the message says why.
    """
    path = Path(path)
    _check_exists(path)
    if path.is_file() and not _is_dicom_file(path):
        return _read_image(path)
    found, damaged = dicom.find_series(path)
    if damaged:
        names = ", ".join(f.name for f in damaged[:3])
        raise InputError(
            f"{path}: {len(damaged)} DICOM file{'s' * (len(damaged) > 1)} cannot be parsed ({names}); export the"
            " series again"
        )
    if not found:
        raise InputError(_say_nothing_found(path, damaged))
    if path.is_file():
        raise InputError(f"{path}: one DICOM file is not a whole scan; give the folder that holds all slices")
    listed = [_describe_series(headers) for headers in found.values()]
    # A broken second series counts too: the one that happens to be whole need not be the one that was meant.
    whole = [item for item in listed if item[0].modality in ("CT", "") and item[0].slices >= MIN_SLICES]
    if len(whole) > 1:
        names = "; ".join(_name(info) for info, _ in whole[:8])
        raise InputError(f"{path}: it holds {len(whole)} CT series: {names}; give the folder of one series")
    info, stack = whole[0] if whole else listed[0]
    if stack is None:
        told = "; ".join(f"{_name(i)}: {'; '.join(i.reasons)}" for i, _ in (whole or listed[:8]))
        raise InputError(f"{path}: no usable CT series: {told}")
    return _read_stack(path, _name(info), stack)


def read_series(info: SeriesInfo) -> Scan:
    """Read one series that `list_series` found.

    Raises
    ------
    InputError
        If it cannot be used.
    """
    if info.kind != "dicom":
        return _read_image(info.path)
    if not info.usable:
        raise InputError(f"{info.path}, {_name(info)}: {'; '.join(info.reasons)}")
    headers = [h for file in info.files for found in dicom.find_series(file)[0].values() for h in found]
    try:
        stack = dicom.arrange(headers)
    except dicom.Refusal as reason:
        raise InputError(f"{info.path}, {_name(info)}: {reason}") from None
    scan = _read_stack(info.path, _name(info), stack)
    return replace(scan, findings=info.findings)  # also of what was set aside when the series was listed


def _read_image(path: Path) -> Scan:
    stored = formats.load(path)
    if stored.array.ndim != 3:
        raise InputError(f"{path}: {stored.array.shape[3]} values per voxel; expected a CT with one")
    hu = hu_from_stored(stored.array, str(path), slope=stored.slope, intercept=stored.intercept)
    volume = Volume(hu, stored.affine)
    facts = {"stored_type": stored.array.dtype.name, **check_chest_ct(volume, str(path))}
    return Scan(volume, path, stored.kind, (path,), facts, stored.findings)


def _read_stack(path: Path, name: str, stack: dicom.Stack) -> Scan:
    name = f"{path}, {name}"
    check_ct_spacing(stack.shape, Grid(stack.shape, stack.affine).spacing, name)
    try:
        volume = Volume(dicom.pixels(stack), stack.affine)
    except dicom.Refusal as reason:
        raise InputError(f"{name}: {reason}") from None
    facts = {**dicom.facts_of(stack.slices), **check_chest_ct(volume, name)}
    return Scan(volume, path, "dicom", stack.files, facts, stack.findings, dicom.patient_of(stack.slices))


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")


def _is_dicom_file(path: Path) -> bool:
    if formats.kind_of(path):
        return False
    with path.open("rb") as stream:
        return dicom.looks_like_dicom(stream.read(1024))


def _say_nothing_found(path: Path, damaged: list[Path]) -> str:
    if damaged:
        return f"{path}: {len(damaged)} DICOM files, none of which can be parsed; export the series again"
    images = [f for f in path.glob("*") if formats.kind_of(f)] if path.is_dir() else []
    if images:
        return f"{path}: no DICOM images; to use {images[0].name}, give the file itself"
    return f"{path}: no DICOM images in it; expected a CT series, or one of {', '.join(formats.SUFFIXES)}"


def _name(info: SeriesInfo) -> str:
    number = info.facts.get("series_number")
    parts = [f"series {number}" if number else "series", f"'{info.description}'" if info.description else ""]
    return f"{' '.join(p for p in parts if p)} ({info.slices} images)"


def _series_number(info: SeriesInfo) -> int:
    number = str(info.facts.get("series_number") or "")
    return int(number) if number.isdigit() else 0


def _describe_series(headers: list[Dataset]) -> tuple[SeriesInfo, dicom.Stack | None]:
    facts = dicom.facts_of(headers)
    known: dict[str, Any] = {
        "path": Path(str(headers[0].filename)).parent,
        "kind": "dicom",
        "modality": str(headers[0].get("Modality") or ""),
        "description": facts["series_description"] or "",
        "kernel": facts["kernel"] or "",
        "uid": facts["series_uid"] or "",
        "facts": facts,
        "patient": dicom.patient_of(headers),
    }
    try:
        stack = dicom.arrange(headers)
        grid = Grid(stack.shape, stack.affine)
        known |= {"files": stack.files, "slices": len(stack.slices), "grid": grid, "findings": stack.findings}
        check_ct_spacing(grid.shape, grid.spacing, "")
    except (dicom.Refusal, InputError) as reason:
        files = tuple(Path(str(h.filename)) for h in headers)
        known = {"files": files, "slices": len(headers), **known}
        return SeriesInfo(usable=False, reasons=(str(reason).removeprefix(": "),), **known), None
    return SeriesInfo(usable=True, **known), stack


def _beside(damaged: list[Path], info: SeriesInfo) -> SeriesInfo:
    """A damaged file in the same folder may be a slice of the series: then it is not whole."""
    near = [f.name for f in damaged if f.parent in {file.parent for file in info.files}]
    if not near:
        return info
    reason = (
        f"{len(near)} DICOM files beside it cannot be parsed ({', '.join(near[:3])}); export the series again"
    )
    return replace(info, usable=False, reasons=(*info.reasons, reason))


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
