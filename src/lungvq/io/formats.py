"""Image files: NIfTI, MetaImage and NRRD, to volumes and back.

*Convention.* Inside the package an affine takes (k, j, i) to LPS mm. NIfTI says (i, j, k) to RAS; MetaImage
and NRRD say (i, j, k) to LPS. The conversion is `_swap_axes` (i, j, k <-> k, j, i) and `_RAS_LPS`, here and
nowhere else.

NIfTI is read with nibabel because SimpleITK refuses an sform that is sheared, or chooses the qform over it
without a word, and because it turns the signs of displacement intents.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from isal import igzip, isal_zlib
from isal.igzip_lib import IsalError
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from lungvq.errors import GeometryError, InputError, OutputError
from lungvq.findings import Finding, fail, warn
from lungvq.io import dirlab
from lungvq.io.scan import MAX_VOXELS
from lungvq.volume import Grid, Volume

__all__ = ["SUFFIXES", "Stored", "files_of", "kind_of", "load", "open_atomic", "write"]

SUFFIXES = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".mha": "mha",
    ".mhd": "mha",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
}
"""The file names that are read, and their kind."""

_RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_COMPRESSION = 1  # maps are mostly NaN and CT is mostly noise: higher levels cost seconds and gain little
_BLOCK = 1 << 20
_SAME_PLACE_MM = 0.1
_DAMAGED_NIFTI: tuple[type[Exception], ...] = (
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    IsalError,  # type: ignore[assignment]  # its stub calls the class an instance
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)
_ORIENTATION_ADVICE = "Export the scan again from DICOM, or add the orientation to the header."


@dataclass(frozen=True, eq=False)
class Stored:
    """An image file's values before they are taken for HU or labels: value = slope * array + intercept."""

    array: np.ndarray
    affine: NDArray[np.float64]
    kind: str
    slope: float = 1.0
    intercept: float = 0.0
    findings: tuple[Finding, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def kind_of(path: Path) -> str | None:
    """``"nifti"``, ``"mha"``, ``"nrrd"`` or ``"dirlab"`` by the file's name; None for another name."""
    name = path.name.lower()
    kind = next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)
    return kind or ("dirlab" if dirlab.case_of(path) else None)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that an image lies in: its own, and those of its values where a header is apart from them."""
    kind = kind_of(path)
    try:
        with path.open("rb") as stream:
            if kind == "mha":
                others = _meta_values(path, _meta_fields(stream)["ElementDataFile"])
            elif kind == "nrrd":
                others = _nrrd_values(path, _nrrd_head(stream).decode("utf-8", "replace"))
            else:
                others = []
    except (OSError, ValueError):  # reading it will say what is wrong
        others = []
    return (path, *(other for other in others if other.is_file()))


def _meta_values(path: Path, named: str) -> list[Path]:
    """Where the values of a MetaImage are that its header names; nowhere else where they follow the header."""
    return [] if named == "LOCAL" else [path.with_name(Path(named).name)]


def _nrrd_values(path: Path, head: str) -> list[Path]:
    """The files that hold an NRRD's values; none where they follow the header.

    Examples
    --------
    >>> [other.name for other in _nrrd_values(Path("ct.nhdr"), "type: short\\ndatafile: LIST\\na.raw\\nb.raw\\n")]
    ['a.raw', 'b.raw']
    """
    found = re.search(r"^data ?file: *(.+?)\s*$", head, re.MULTILINE)
    if not found:
        return []
    if found[1].startswith("LIST"):
        return [path.parent / name for name in head[found.end() :].split()]
    if "%" in found[1]:
        pattern = path.parent / found[1].rsplit(maxsplit=3)[0]
        return sorted(pattern.parent.glob(re.sub(r"%\d*d", "*", pattern.name)))
    return [path.parent / found[1]]


def load(path: Path) -> Stored:
    """Read a three-dimensional image file, scalar or with three components.

    Raises
    ------
    InputError
        If the file is missing, damaged, not an image, or not three-dimensional.
    """
    kind = kind_of(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    if kind is None:
        raise InputError(f"{path}: not an image format known here; expected {', '.join(SUFFIXES)} or DICOM")
    if not path.is_file():
        raise InputError(f"{path}: expected an image file, got a folder")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; copy it again")
    try:
        readers = {"nifti": _load_nifti, "mha": _load_meta, "nrrd": _load_nrrd, "dirlab": _load_dirlab}
        stored = readers[kind](path)
        Grid(stored.array.shape[:3], stored.affine)
    except PermissionError:
        raise InputError(f"{path}: no permission to read it") from None
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}; check the header's spacing and orientation") from None
    return stored


def _check_layout(path: Path, size: tuple[int, ...], components: int) -> None:
    """Three dimensions, one or three components, and a size that memory can hold."""
    if len(size) > 3 and any(n > 1 for n in size[3:]):
        raise InputError(
            f"{path}: {size[3]} volumes in one file; expected one breath-hold scan, so give one volume alone"
        )
    if len(size) < 3 or min(size[:3]) < 2:
        raise InputError(f"{path}: a single picture, not a volume (size {' x '.join(map(str, size))})")
    if components not in (1, 3):
        raise InputError(f"{path}: {components} values per voxel; expected one")
    if int(np.prod(size[:3], dtype=object)) * components > MAX_VOXELS:
        raise InputError(f"{path}: the header claims {' x '.join(map(str, size))} voxels; it is damaged")


def _swap_axes(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """An affine of (i, j, k) as one of (k, j, i), or back."""
    return affine[:, [2, 1, 0, 3]]


def _orientation_unknown(path: Path) -> Finding:
    return fail(
        "ORIENTATION_UNKNOWN",
        f"{path.name} does not say how it lies in the patient: left and right may be exchanged.",
        advice=_ORIENTATION_ADVICE,
        touches=("lobes", "left", "right"),
    )


# --- NIfTI ------------------------------------------------------------------------------------------------


def _load_nifti(path: Path) -> Stored:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with (
            igzip.open(path) if packed else path.open("rb") as stream,
            _quiet_nibabel(),
        ):
            stored = _parse_nifti(path, stream, packed)
            while stream.read(_BLOCK):  # to the end: gzip's checksum comes last
                pass
    except PermissionError:
        raise
    except _DAMAGED_NIFTI:
        raise InputError(
            f"{path}: not a NIfTI image, or damaged, or cut short; copy or convert it again"
        ) from None
    return stored


@contextmanager
def _quiet_nibabel() -> Iterator[None]:
    """What it logs of a header that it mends or refuses is told as one sentence of ours."""
    logger = logging.getLogger("nibabel.global")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _parse_nifti(path: Path, stream: Any, packed: bool) -> Stored:
    first = stream.read(4)
    stream.seek(0)
    kind = (
        nib.Nifti2Image
        if 540 in (int.from_bytes(first, "little"), int.from_bytes(first))
        else nib.Nifti1Image
    )
    spacing = kind.header_class.from_fileobj(stream, check=False)["pixdim"][1:4]
    stream.seek(0)
    image = kind.from_stream(stream)
    header = image.header
    proxy: Any = image.dataobj
    size: tuple[int, ...] = image.shape
    components = 1
    if len(size) == 5 and size[3] == 1:
        components = size[4]
        size = size[:3]
    _check_layout(path, size, components)
    if header.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: expected one number per voxel, got type {header.get_data_dtype()}")
    if header["sform_code"] == 0 and not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"{path}: the header's spacing is zero, negative or not a number")
    affine, findings = _nifti_affine(path, image)
    array = np.array(
        proxy.get_unscaled(), order="K", copy=None if packed else True
    )  # never a map of the file
    array = array.reshape((*size[:3], *([components] if components > 1 else [])), order="F")
    array = array.transpose(2, 1, 0, *range(3, array.ndim))
    return Stored(_native(array), affine, "nifti", float(proxy.slope), float(proxy.inter), findings)


def _nifti_affine(path: Path, image: nib.Nifti1Image) -> tuple[NDArray[np.float64], tuple[Finding, ...]]:
    """(k, j, i) to LPS mm, and what is doubtful about it."""
    header = image.header
    findings: list[Finding] = []
    sform, qform = header.get_sform(coded=True)[0], None
    try:
        qform = header.get_qform(coded=True)[0]
    except (ValueError, HeaderDataError):
        if sform is None:
            raise InputError(f"{path}: the orientation in the header is damaged") from None
    if sform is None and qform is None:
        findings.append(_orientation_unknown(path))
    affine = header.get_best_affine()
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path}: the header's spacing or orientation is zero or not a number")
    if sform is not None and qform is not None:
        corners = np.array([(*c, 1) for c in product(*((0, n - 1) for n in image.shape[:3]))], float)
        apart = float(np.abs(corners @ (sform - qform).T).max())
        if apart > _SAME_PLACE_MM:
            if nib.aff2axcodes(sform) != nib.aff2axcodes(qform):
                raise InputError(
                    f"{path}: the header's two orientations (sform, qform) contradict each other, so left and"
                    " right cannot be told; convert the scan again from DICOM"
                )
            findings.append(
                warn(
                    "HEADER_CONFLICT",
                    f"{path.name}: the header's two orientations (sform, qform) lie {apart:.3g} mm apart;"
                    " the sform was used.",
                    value=apart,
                    limit=_SAME_PLACE_MM,
                    unit="mm",
                    advice="Convert the scan again from DICOM.",
                )
            )
    to_mm = {"meter": 1000.0, "micron": 0.001}.get(header.get_xyzt_units()[0], 1.0)
    return _swap_axes(np.diag([to_mm, to_mm, to_mm, 1]) @ _RAS_LPS @ affine), tuple(findings)


def _native(array: np.ndarray) -> np.ndarray:
    """C-contiguous and in the machine's byte order."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _nifti_header(volume: Volume) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(volume.array.dtype)
    shape: tuple[int, ...] = volume.shape[::-1]
    if volume.array.ndim == 4:
        # A *vector* intent: readers turn the signs of x and y of a displacement intent.
        header.set_data_shape((*shape, 1, volume.array.shape[3]))
        header.set_intent("vector")
    else:
        header.set_data_shape(shape)
    affine = _RAS_LPS @ _swap_axes(volume.affine)
    header.set_sform(affine, "scanner")
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose(direction.T @ direction, np.eye(3), atol=1e-5):
        header.set_qform(affine, "scanner")
    else:
        header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["magic"], header["vox_offset"] = b"n+1", 352
    return header.binaryblock + bytes(4)


# --- MetaImage --------------------------------------------------------------------------------------------

_MET_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def _load_meta(path: Path) -> Stored:
    """Read a .mha, or a .mhd and its file of values.

    Ours, because the usual reader crashes the interpreter on a header as simple as ``NDims = -3``, and takes
    damaged values for good.
    """
    try:
        with path.open("rb") as stream:
            header = _meta_fields(stream)
            size = tuple(map(int, header["DimSize"].split()))
            channels = int(header.get("ElementNumberOfChannels", 1))
            if len(size) != int(header["NDims"]) or min(size) < 1 or len(size) > 8:
                raise ValueError
            _check_layout(path, size, channels)
            kind = _MET_TYPES[header["ElementType"].removesuffix("_ARRAY")]
            if _is_true(header, "BinaryDataByteOrderMSB", "ElementByteOrderMSB"):
                kind = ">" + kind
            shape = (*size[2::-1], *([channels] if channels > 1 else []))
            content = _meta_content(path, stream, header, int(np.prod(shape)) * np.dtype(kind).itemsize)
        affine = _meta_affine(header, len(size))
    except PermissionError:
        raise
    except (KeyError, ValueError, EOFError, OSError, zlib.error):
        raise InputError(
            f"{path}: not a MetaImage, or damaged, or cut short; copy or convert it again"
        ) from None
    says = any(key in header for key in ("TransformMatrix", "Rotation", "Orientation"))
    findings = () if says else (_orientation_unknown(path),)
    return Stored(
        _native(np.frombuffer(content, kind).reshape(shape).copy()), affine, "mha", findings=findings
    )


def _meta_fields(stream: BinaryIO) -> dict[str, str]:
    """The lines ``key = value`` up to the one that tells where the values are."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        key, equals, value = stream.readline(4096).decode("ascii").partition("=")
        if not equals:
            raise ValueError
        fields[key.strip()] = value.strip()
    return fields


def _is_true(fields: dict[str, str], *keys: str) -> bool:
    return any(fields.get(key, "").lower() in ("true", "1") for key in keys)


def _meta_content(path: Path, stream: BinaryIO, fields: dict[str, str], length: int) -> bytes:
    """The bytes of the values, exactly `length`."""
    name = fields["ElementDataFile"]
    if not _is_true(fields, "BinaryData") or name == "LIST" or "%" in name:
        raise InputError(
            f"{path}: values as text or in many files are not read; convert it to one .mha or .nii.gz"
        )
    for other in _meta_values(path, name):
        if not other.exists():
            raise InputError(f"{path}: its values are in {other.name}, which is not beside it")
        with other.open("rb") as values:
            return _meta_content(path, values, {**fields, "ElementDataFile": "LOCAL"}, length)
    skip = int(fields.get("HeaderSize", 0))
    if skip == -1:
        stream.seek(-length, os.SEEK_END)
    elif skip:
        stream.seek(skip)
    if not _is_true(fields, "CompressedData"):
        content = stream.read(length)
    else:
        unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS)  # zlib, or gzip
        content = unpacker.decompress(stream.read(), length + 1)
        unpacker.decompress(unpacker.unconsumed_tail, 1)  # reads the checksum
        if not unpacker.eof:
            raise EOFError
    if len(content) != length:
        raise EOFError
    return content


def _meta_affine(fields: dict[str, str], dimensions: int) -> NDArray[np.float64]:
    def numbers(keys: tuple[str, ...], default: NDArray[np.float64]) -> NDArray[np.float64]:
        text = next((fields[key] for key in keys if key in fields), None)
        return default if text is None else np.array(text.split(), float).reshape(default.shape)

    # One row for each image axis.
    direction = numbers(("TransformMatrix", "Rotation", "Orientation"), np.eye(dimensions))
    spacing = numbers(("ElementSpacing", "ElementSize"), np.ones(dimensions))
    affine = np.eye(4)
    affine[:3, :3] = direction[:3, :3].T * spacing[:3]
    affine[:3, 3] = numbers(("Offset", "Position", "Origin"), np.zeros(dimensions))[:3]
    return _swap_axes(affine)


# --- NRRD -------------------------------------------------------------------------------------------------


def _load_dirlab(path: Path) -> Stored:
    hu, affine = dirlab.load_raw(path)
    return Stored(hu, affine, "dirlab", facts={"dirlab_case": dirlab.case_of(path)})


def _load_nrrd(path: Path) -> Stored:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO")
    try:
        with path.open("rb") as stream:
            head = _nrrd_head(stream)
            _check_packed(stream, head)
        reader.ReadImageInformation()
        size = reader.GetSize()
        _check_layout(path, size, reader.GetNumberOfComponents())
        if len(size) > 3:  # a fourth axis of length 1
            reader.SetExtractSize([*size[:3], 0])
        image = reader.Execute()
    except PermissionError:
        raise
    except (RuntimeError, EOFError, OSError, zlib.error):
        raise InputError(
            f"{path}: not an NRRD image, or damaged, or cut short; copy or convert it again"
        ) from None
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    findings = () if b"\nspace:" in head else (_orientation_unknown(path),)
    return Stored(sitk.GetArrayFromImage(image), _swap_axes(affine), "nrrd", findings=findings)


def _nrrd_head(stream: BinaryIO) -> bytes:
    """The text header, which ends with an empty line."""
    head = b""
    while (line := stream.readline()).strip():
        head += line
    return head


def _check_packed(stream: BinaryIO, head: bytes) -> None:
    """Unpack values that follow an NRRD's header once up to their checksum, which the reader ignores."""
    elsewhere = re.search(rb"^data ?file:", head, re.M)
    if re.search(rb"^encoding: *(gzip|gz)", head, re.M) and not elsewhere:
        unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS)
        while block := stream.read(_BLOCK >> 4):
            unpacker.decompress(block)
        if not unpacker.eof:
            raise EOFError


# --- headers of MetaImage and NRRD ------------------------------------------------------------------------


def _numbers(values: NDArray[np.float64], join: str = " ") -> str:
    return join.join(repr(float(v)) for v in values)


def _mha_header(volume: Volume, compressed_size: int) -> bytes:
    affine = _swap_axes(volume.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    kinds = {"uint8": "MET_UCHAR", "int16": "MET_SHORT", "float32": "MET_FLOAT"}
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {compressed_size}",
        f"TransformMatrix = {_numbers((affine[:3, :3] / spacing).T.ravel())}",
        f"Offset = {_numbers(affine[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_numbers(spacing)}",
        f"DimSize = {' '.join(map(str, volume.shape[::-1]))}",
        *([f"ElementNumberOfChannels = {volume.array.shape[3]}"] if volume.array.ndim == 4 else []),
        f"ElementType = {kinds[volume.array.dtype.name]}",
        "ElementDataFile = LOCAL",
    ]
    return ("\n".join(lines) + "\n").encode()


def _nrrd_header(volume: Volume) -> bytes:
    affine = _swap_axes(volume.affine)
    vector = volume.array.ndim == 4
    directions = " ".join(f"({_numbers(column, ',')})" for column in affine[:3, :3].T)
    kinds = {"uint8": "uint8", "int16": "int16", "float32": "float"}
    lines = [
        "NRRD0004",
        f"type: {kinds[volume.array.dtype.name]}",
        f"dimension: {3 + vector}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, volume.array.shape[3:] + volume.shape[::-1]))}",
        f"space directions: {'none ' * vector}{directions}",
        f"kinds: {'vector ' * vector}domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: ({_numbers(affine[:3, 3], ',')})",
    ]
    return ("\n".join(lines) + "\n\n").encode()


# --- writing ----------------------------------------------------------------------------------------------


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under its name whole or not at all.

    Raises
    ------
    OutputError
        If the disk is full, the folder is missing or read-only, or the medium reports an error.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # some file systems tell of a full disk only now
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}; check the folder's space and permissions, or choose another"
        ) from error
    finally:
        # A folder that went away has taken the file with it.
        if temporary.exists():
            temporary.unlink()


def write(volume: Volume, path: Path) -> None:
    """Write a volume so that equal volumes give equal bytes; the file appears whole or not at all.

    Parameters
    ----------
    volume : Volume
        bool, uint8, int16 or float32 of shape (K, J, I), or float32 of shape (K, J, I, 3) with vectors in
        LPS mm.
    path : Path
        Ending in .nii.gz, .nii, .mha or .nrrd; the folder exists.

    Raises
    ------
    OutputError
        If it cannot be written there, or the name's ending is another.
    ValueError
        If the values are of another type or shape.

    Notes
    -----
    Vectors are kept as they are. A NIfTI file with vectors has the *vector* intent, which SimpleITK reads
    unchanged, ready for ``DisplacementFieldTransform`` once cast to ``sitkVectorFloat64``.
    """
    path = Path(path)
    if volume.array.dtype == bool:
        volume = volume.like(volume.array.view(np.uint8))
    array = volume.array
    if array.dtype.name not in ("uint8", "int16", "float32"):
        raise ValueError(f"expected bool, uint8, int16 or float32 values, got {array.dtype}")
    if array.ndim == 4 and (array.shape[3] != 3 or array.dtype != np.float32):
        raise ValueError(
            f"expected three float32 components per voxel, got {array.shape[3]} of {array.dtype}"
        )
    name = path.name.lower()
    parts: Sequence[bytes | memoryview]
    if name.endswith((".nii", ".nii.gz")):
        # NIfTI keeps one component after the other.
        values = array if array.ndim == 3 else np.moveaxis(array, -1, 0)
        parts = [_nifti_header(volume), _content(values)]
        if name.endswith(".gz"):
            parts = _gzip(parts)
    elif name.endswith(".nrrd"):
        parts = [_nrrd_header(volume), *_gzip([_content(array)])]
    elif name.endswith(".mha"):
        packed = _zlib([_content(array)])
        parts = [_mha_header(volume, sum(map(len, packed))), *packed]
    else:
        raise OutputError(f"cannot write {path}: expected a name ending in .nii.gz, .nii, .mha or .nrrd")
    with open_atomic(path) as stream:
        stream.writelines(parts)


def _content(array: np.ndarray) -> memoryview:
    """The bytes of the values, little-endian, last axis fastest."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data.cast("B")


def _gzip(content: Sequence[bytes | memoryview]) -> list[bytes]:
    """A gzip member (RFC 1952) with no name and no time: equal content gives equal bytes."""
    return _pack(content, 16 + zlib.MAX_WBITS)


def _zlib(content: Sequence[bytes | memoryview]) -> list[bytes]:
    """A zlib stream (RFC 1950)."""
    return _pack(content, zlib.MAX_WBITS)


def _pack(content: Sequence[bytes | memoryview], wbits: int) -> list[bytes]:
    """Compress, ten times as fast as zlib does at its lowest level and no larger."""
    packer = isal_zlib.compressobj(_COMPRESSION, isal_zlib.DEFLATED, wbits)
    packed = [packer.compress(p[n : n + _BLOCK]) for p in content for n in range(0, len(p), _BLOCK)]
    return [*packed, packer.flush()]
