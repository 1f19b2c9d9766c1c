"""The headerless scans of DIR-Lab: what the publisher's table says and the file does not.

The ten COPDgene breath-hold pairs (``copd1_iBHCT.img``, ``copd1_eBHCT.img``) [1]_ and the ten 4-D CTs
(``case1_T00_s.img``) [2]_ come as bare int16 values, HU + 1024, slice by slice from the head down, with -2000
outside the field of view. Size and spacing stand on the download pages alone; how the slices lie is written
nowhere. Distances between landmarks do not depend on it, sides do.

References
----------
.. [1] Castillo R et al (2013). Phys Med Biol 58:2861-2877.
.. [2] Castillo R et al (2009). Phys Med Biol 54:1849-1870.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lungvq.errors import InputError

__all__ = ["AXES", "CASES", "case_of", "load_raw"]

AXES = "IPL"
"""Where slice, row and column lead: to the feet, to the back, to the patient's left."""

_COPD = (121, 102, 126, 126, 131, 119, 112, 115, 116, 135)
_COPD_MM = (0.625, 0.645, 0.652, 0.590, 0.647, 0.633, 0.625, 0.586, 0.664, 0.742)
_4DCT = (94, 112, 104, 99, 106, 128, 136, 128, 128, 120)
_4DCT_MM = (0.97, 1.16, 1.15, 1.13, 1.10, 0.97, 0.97, 0.97, 0.97, 0.97)

CASES: dict[str, tuple[tuple[int, int, int], tuple[float, float, float]]] = {
    **{
        f"copd{n}": ((k, 512, 512), (2.5, mm, mm))
        for n, (k, mm) in enumerate(zip(_COPD, _COPD_MM, strict=True), 1)
    },
    **{
        f"case{n}": ((k, 256 if n <= 5 else 512, 256 if n <= 5 else 512), (2.5, mm, mm))
        for n, (k, mm) in enumerate(zip(_4DCT, _4DCT_MM, strict=True), 1)
    },
}
"""Number of slices, rows and columns, and their spacing in mm, as published."""

_NAME = re.compile(
    r"(copd(?:10|[1-9]))_[ie]bhct\.img|(case(?:10|[1-9]))_t\d0(?:_s|-ssm)?\.img", re.IGNORECASE
)
_OFFSET_HU = -1024
_OUTSIDE_STORED = -1500  # -2000 is written there; nothing that was measured is below -1024
_BELOW_AIR_HU, _BELOW_AIR_SHARE = -1200, 0.02


def case_of(path: Path) -> str | None:
    """``"copd1"`` or ``"case1"`` for a file that has DIR-Lab's own name and no header beside it, else None."""
    found = _NAME.fullmatch(path.name)
    if not found or path.with_suffix(".hdr").exists():
        return None
    return (found[1] or found[2]).lower()


def load_raw(path: Path) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """HU and affine of a scan that `case_of` knows.

    Returns
    -------
    hu : ndarray of int16, shape (K, J, I)
        In the order of the file; -1024 outside the field of view.
    affine : ndarray, shape (4, 4)
        (k, j, i, 1) to LPS mm; the first voxel is the origin.

    Raises
    ------
    InputError
        If the file has another size than published, or values that are not HU + 1024.
    """
    shape, spacing = CASES[case_of(path) or ""]
    stored = np.fromfile(path, "<i2")
    if stored.size != np.prod(shape):
        size = " x ".join(map(str, shape[::-1]))
        raise InputError(
            f"{path}: expected {2 * int(np.prod(shape))} bytes ({size} voxels, as DIR-Lab publishes for this case),"
            f" got {path.stat().st_size}"
        )
    outside = stored <= _OUTSIDE_STORED
    hu = np.where(outside, _OFFSET_HU, stored.astype(np.int32) + _OFFSET_HU)
    if np.mean(hu[~outside] < _BELOW_AIR_HU) > _BELOW_AIR_SHARE:
        raise InputError(f"{path}: expected values of HU + 1024, as DIR-Lab distributes them, got others")
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, spacing[2]], [0, spacing[1], 0], [-spacing[0], 0, 0]]
    return hu.astype(np.int16).reshape(shape), affine
