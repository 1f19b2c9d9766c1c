"""Reading and writing images: the only place that knows file formats and their conventions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lungvq.errors import InputError
from lungvq.io import _offline as _offline  # before anything that imports pydicom
from lungvq.io import formats
from lungvq.io.formats import files_of, open_atomic, write
from lungvq.io.header import printable
from lungvq.io.listing import SeriesInfo, find_scan, list_series, read, read_series
from lungvq.io.scan import Patient, Scan, sha256_of
from lungvq.volume import Volume

__all__ = [
    "Patient",
    "Scan",
    "SeriesInfo",
    "files_of",
    "find_scan",
    "list_series",
    "open_atomic",
    "printable",
    "read",
    "read_labels",
    "read_series",
    "read_volume",
    "sha256_of",
    "write",
]


def read_labels(path: Path | str) -> Volume:
    """Read a mask or a label map that a user made.

    Returns
    -------
    labels : Volume
        uint8, or int16 where labels exceed 255.

    Raises
    ------
    InputError
        If the file cannot be read or holds values that are not labels.
    """
    path = Path(path)
    volume = read_volume(path)
    values = volume.array
    if values.ndim != 3:
        raise InputError(f"{path}: {values.shape[3]} values per voxel; expected labels")
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.rint(values))).all():
        raise InputError(f"{path}: some values are not whole numbers; expected a mask or a label map")
    low, high = values.min(), values.max()
    if low < 0 or high > np.iinfo(np.int16).max:
        raise InputError(
            f"{path}: values {low} to {high} are not labels; expected 0 for outside and small numbers"
        )
    return volume.like(values.astype(np.uint8 if high <= 255 else np.int16))


def read_volume(path: Path | str) -> Volume:
    """Read any image file as it is: a map, a vector field, a mask.

    Returns
    -------
    volume : Volume
        Values of the stored type, or float32 where the header rescales them; (K, J, I) or (K, J, I, 3).

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    stored = formats.load(Path(path))
    array = stored.array
    if (stored.slope, stored.intercept) != (1.0, 0.0):
        array = array.astype(np.float32) * np.float32(stored.slope) + np.float32(stored.intercept)
    return Volume(array, stored.affine)
