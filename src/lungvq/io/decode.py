"""The pixels of one picture in a DICOM file as HU; runs in `lungvq.io.child`, for files one cannot trust."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungvq.io.header import Damaged, inflated

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["hu_of"]

MAX_SIDE = 4096
CT_MAX_HU = 3071
MAX_SLOPE, MAX_INTERCEPT = 100.0, 100_000.0
PADDED_HU = -1024  # for padding that would otherwise look like metal

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
# The classic JPEG processes: SimpleITK decodes all of them exactly, pydicom's permissive plugins only some.
_JPEG = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(5\d|6\d|70)$")


def hu_of(wire: dict[str, Any]) -> NDArray[np.int16]:
    """HU of one picture.

    Raises
    ------
    Damaged
        If its header claims what cannot be, or its pixels are cut short.
    """
    rows, columns, samples, allocated = (int(wire[n]) for n in ("rows", "columns", "samples", "allocated"))
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE) or samples != 1:
        raise Damaged(f"claims {rows} x {columns} pixels of {samples} values")
    if wire["syntax"] in _NATIVE:
        stored = _native(wire, rows, columns, allocated)
    elif _JPEG.match(wire["syntax"]):
        stored = _jpeg(wire)
    else:
        from pydicom.pixels import pixel_array

        stored = pixel_array(_whole(wire["path"]), index=int(wire["frame"]), raw=True)
    if stored.shape != (rows, columns):
        raise Damaged(f"has {stored.shape} pixels where its header claims {(rows, columns)}")
    return _to_hu(stored, wire, allocated)


def _native(wire: dict[str, Any], rows: int, columns: int, allocated: int) -> np.ndarray:
    """Stored values of one uncompressed picture, straight from the file."""
    if allocated not in (8, 16, 32):
        raise Damaged(f"allocates {allocated} bits to a pixel")
    size = rows * columns * allocated // 8
    frames, length = int(wire["frames"]), wire["length"]
    if length is None:
        raise Damaged("says its pixels are not compressed and packs them")
    if length < frames * size or wire["offset"] + frames * size > wire["end"]:
        raise Damaged(f"is cut short: {min(length, wire['end'] - wire['offset'])} of {frames * size} bytes")
    if length >= frames * size + columns * allocated // 8:
        raise Damaged(f"has {length} bytes of pixels where its header claims {frames * size}")
    swapped = not wire["little"] and allocated > 8
    kind = np.dtype(f"{'>' if swapped else '<'}{'i' if wire['signed'] else 'u'}{allocated // 8}")
    start = wire["offset"] + int(wire["frame"]) * size
    if wire["deflated"]:
        content = _unpacked(wire["path"])[start : start + size]
    else:
        with open(wire["path"], "rb") as file:  # noqa: PTH123
            file.seek(start)
            content = file.read(size)
    if len(content) != size:
        raise Damaged("is cut short")
    if allocated == 8 and not wire["little"]:  # big-endian words of two pixels each
        content = np.frombuffer(content + bytes(size % 2), "<u2").byteswap().tobytes()[:size]
    return np.frombuffer(content, kind).reshape(rows, columns)


@lru_cache(maxsize=1)  # the frames of one file are asked for one after another
def _unpacked(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        return inflated(file, file.read(1024)).read()


@lru_cache(maxsize=1)
def _whole(path: str) -> Dataset:
    import pydicom

    return pydicom.dcmread(path, force=True)


def _jpeg(wire: dict[str, Any]) -> np.ndarray:
    """Stored values of one JPEG picture: SimpleITK is given a file with it alone, and no rescaling."""
    import pydicom
    import SimpleITK as sitk
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate, get_frame
    from pydicom.uid import UID

    whole = _whole(wire["path"])
    stream = get_frame(whole.PixelData, int(wire["frame"]), number_of_frames=int(wire["frames"]))
    alone = Dataset()
    alone.file_meta = FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = UID(wire["syntax"])
    alone.SOPClassUID, alone.SOPInstanceUID, alone.Modality = "1.2.840.10008.5.1.4.1.1.2", "1.2.3", "CT"
    alone.PhotometricInterpretation = whole.get("PhotometricInterpretation", "MONOCHROME2")
    alone.SamplesPerPixel, alone.Rows, alone.Columns = 1, int(wire["rows"]), int(wire["columns"])
    alone.BitsAllocated, alone.BitsStored = int(wire["allocated"]), int(wire["stored"])
    alone.HighBit, alone.PixelRepresentation = int(wire["stored"]) - 1, int(wire["signed"])
    alone.PixelData = encapsulate([stream])
    alone["PixelData"].VR = "OB"
    content = BytesIO()
    pydicom.dcmwrite(content, alone, enforce_file_format=True)
    with _as_path(content.getvalue()) as path:
        try:
            return sitk.GetArrayFromImage(sitk.ReadImage(path, imageIO="GDCMImageIO"))[0]
        except RuntimeError:
            raise Damaged("cannot be decoded") from None


@contextmanager
def _as_path(content: bytes) -> Iterator[str]:
    """Where a library that wants a path finds these bytes; in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("frame"), "wb", buffering=0) as memory:  # noqa: PTH123
            memory.write(content)
            yield f"/proc/self/fd/{memory.fileno()}"
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "frame.dcm")  # noqa: PTH118
            with open(path, "wb") as file:  # noqa: PTH123
                file.write(content)
            yield path


def _to_hu(stored: np.ndarray, wire: dict[str, Any], allocated: int) -> NDArray[np.int16]:
    """Stored values times slope plus intercept; padding that would look like metal becomes air."""
    if stored.dtype.kind not in "iu":
        raise Damaged(f"stores {stored.dtype} values, not whole numbers")
    bits = int(wire["stored"] or allocated)
    high = bits - 1 if wire["high"] is None else int(wire["high"])
    if not 1 <= bits <= allocated or not bits - 1 <= high < allocated:
        raise Damaged(f"stores {bits} bits up to bit {high} of {allocated}")
    if stored.dtype.itemsize * 8 == allocated and bits < allocated:
        # Drops overlay bits beside the value, and carries its sign.
        stored = (stored << (allocated - 1 - high)) >> (allocated - bits)
    slope, intercept = float(wire["slope"]), float(wire["intercept"])
    if not (0 < abs(slope) < MAX_SLOPE and abs(intercept) < MAX_INTERCEPT):
        raise Damaged(f"has a rescale slope of {slope} and intercept of {intercept}")
    padding = wire["padding"]
    metal = isinstance(padding, (int, float)) and padding * slope + intercept > CT_MAX_HU
    low, high = int(stored.min()), int(stored.max())
    if slope == 1 and intercept.is_integer() and low + intercept >= -32768 and high + intercept <= 32767:
        # Modulo 65536 like the numbers themselves: right, as the sums fit, and in one pass.
        hu = stored.astype(np.int16) + np.int64(intercept).astype(np.int16)
    else:
        hu = np.clip(np.rint(stored * slope + intercept), -32768, 32767).astype(np.int16)
    if metal:
        hu[stored == padding] = PADDED_HU
    return hu.astype("<i2", copy=False)
