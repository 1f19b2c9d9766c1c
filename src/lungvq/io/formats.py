"""Image files: NIfTI, MetaImage and NRRD, to volumes and back.

*Convention.* Inside the package an affine takes (k, j, i) to LPS mm. NIfTI says (i, j, k) to RAS; MetaImage
and NRRD say (i, j, k) to LPS. The conversion is `_swap_axes` (i, j, k <-> k, j, i) and `_RAS_LPS`, here and
nowhere else.

NIfTI is read with nibabel because SimpleITK refuses an sform that is sheared, or chooses the qform over it
without a word, and because it turns the signs of displacement intents.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from lungvq.errors import GeometryError, InputError, OutputError
from lungvq.findings import Finding, fail, warn
from lungvq.io.scan import MAX_VOXELS
from lungvq.volume import Grid, Volume

__all__ = ["SUFFIXES", "Stored", "kind_of", "load", "open_atomic", "write"]

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
_LAST_BLOCK = b"\x03\x00"  # an empty deflate block that says it is the last
_SAME_PLACE_MM = 0.1
_NIFTI_ERRORS = (ImageFileError, HeaderDataError, WrapStructError)
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
    """``"nifti"``, ``"mha"`` or ``"nrrd"`` by the file's name; None for another name."""
    name = path.name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


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
        stored = _load_nifti(path) if kind == "nifti" else _load_itk(path, kind)
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
            gzip.open(path) if packed else path.open("rb") as stream,
            LoggingOutputSuppressor(),
            warnings.catch_warnings(action="ignore"),
        ):
            stored = _parse_nifti(path, stream, packed)
            while stream.read(_BLOCK):  # to the end: gzip's checksum comes last
                pass
    except PermissionError:
        raise
    except (EOFError, OSError, ValueError, OverflowError, zlib.error, *_NIFTI_ERRORS):
        raise InputError(
            f"{path}: not a NIfTI image, or damaged, or cut short; copy or convert it again"
        ) from None
    return stored


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


# --- MetaImage and NRRD -----------------------------------------------------------------------------------


def _load_itk(path: Path, kind: str) -> Stored:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("MetaImageIO" if kind == "mha" else "NrrdImageIO")
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        _check_layout(path, size, reader.GetNumberOfComponents())
        if len(size) > 3:  # a fourth axis of length 1
            reader.SetExtractSize([*size[:3], 0])
        image = reader.Execute()
        head = _check_packed(path, kind)
    except (RuntimeError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, PermissionError):
            raise
        raise InputError(f"{path}: not a readable image; it is damaged, cut short, or not complete") from None
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    findings = () if _says_orientation(head, kind) else (_orientation_unknown(path),)
    return Stored(sitk.GetArrayFromImage(image), _swap_axes(affine), kind, findings=findings)


def _check_packed(path: Path, kind: str) -> bytes:
    """Unpack compressed values up to their checksum, which the readers ignore; return the text header."""
    packed = rb"^CompressedData *= *True" if kind == "mha" else rb"^encoding: *(gzip|gz)"
    head = b""
    with path.open("rb") as stream:
        while line := stream.readline():
            head += line
            if line.startswith(b"ElementDataFile") if kind == "mha" else not line.strip():
                break
        elsewhere = re.search(rb"^(data ?file:|ElementDataFile *=(?! *LOCAL))", head, re.M)
        if re.search(packed, head, re.M | re.I) and not elsewhere:
            unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS)  # gzip or zlib
            while block := stream.read(_BLOCK >> 4):
                unpacker.decompress(block)
            if not unpacker.eof:
                raise EOFError
    return head


def _says_orientation(head: bytes, kind: str) -> bool:
    if kind == "mha":
        return any(key in head for key in (b"TransformMatrix", b"Rotation", b"Orientation"))
    return b"\nspace:" in head


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


def _deflate(content: Sequence[bytes | memoryview]) -> list[bytes]:
    """One raw deflate stream, its blocks packed at the same time; the same whatever the number of threads."""
    blocks = [part[first : first + _BLOCK] for part in content for first in range(0, len(part), _BLOCK)]

    def pack(block: bytes | memoryview) -> bytes:
        packer = zlib.compressobj(_COMPRESSION, zlib.DEFLATED, -zlib.MAX_WBITS)
        return packer.compress(block) + packer.flush(zlib.Z_SYNC_FLUSH)  # ends on a byte, stream goes on

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return [*pool.map(pack, blocks), _LAST_BLOCK]


def _gzip(content: Sequence[bytes | memoryview]) -> list[bytes]:
    """A gzip member (RFC 1952) with no name and no time: equal content gives equal bytes."""
    checksum = 0
    for part in content:
        checksum = zlib.crc32(part, checksum)
    size = sum(map(len, content)) & 0xFFFFFFFF
    return [b"\x1f\x8b\x08" + bytes(6) + b"\xff", *_deflate(content), struct.pack("<II", checksum, size)]


def _zlib(content: Sequence[bytes | memoryview]) -> list[bytes]:
    """A zlib stream (RFC 1950)."""
    checksum = 1
    for part in content:
        checksum = zlib.adler32(part, checksum)
    return [b"\x78\x01", *_deflate(content), struct.pack(">I", checksum)]
