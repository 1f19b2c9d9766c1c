"""Reading and writing images: the only place that knows file formats and their conventions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lungvq.errors import InputError
from lungvq.io import formats
from lungvq.io.formats import open_atomic, write
from lungvq.io.scan import Scan, check_chest_ct, hu_from_stored, sha256_of
from lungvq.volume import Volume

__all__ = [
    "Scan",
    "open_atomic",
    "read",
    "read_labels",
    "read_volume",
    "sha256_of",
    "write",
]


def read(path: Path | str) -> Scan:
    """Read a chest CT.

    Parameters
    ----------
    path : Path
        A .nii, .nii.gz, .mha, .mhd, .nrrd or .nhdr file.

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
    stored = formats.load(path)
    if stored.array.ndim != 3:
        raise InputError(f"{path}: {stored.array.shape[3]} values per voxel; expected a CT with one")
    hu = hu_from_stored(stored.array, str(path), slope=stored.slope, intercept=stored.intercept)
    volume = Volume(hu, stored.affine)
    facts = {"stored_type": stored.array.dtype.name, **stored.facts, **check_chest_ct(volume, str(path))}
    return Scan(volume, path, stored.kind, (path,), facts, stored.findings)


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
