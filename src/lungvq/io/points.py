"""Landmarks from files: DIR-Lab, elastix, CSV, 3D Slicer."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungvq.errors import InputError

__all__ = ["Points", "read_points"]

_RAS_LPS = np.array([-1.0, -1.0, 1.0])
_SPLIT = re.compile(r"[,;\s]+")
_SIDES = {"fixed": ("", "fixed_", "exp_"), "moving": ("", "moving_", "insp_")}


@dataclass(frozen=True, eq=False)
class Points:
    """Landmarks as a file has them.

    Parameters
    ----------
    xyz : ndarray, shape (N, 3)
        One point a row, in the order of the file; NaN for one that 3D Slicer lists without a place.
    first : int or None
        None: LPS mm. Else voxel indices (column, row, slice), whose first is this: 1 for DIR-Lab, 0 for elastix.
    path : Path
        Where they come from.
    """

    xyz: NDArray[np.float64]
    first: int | None
    path: Path


def read_points(path: Path | str, *, side: str = "fixed") -> Points:
    """Read landmarks.

    The content decides what a file is; only Slicer's are told by their names.

    - Three whole numbers a line, nothing else: DIR-Lab's voxel indices from 1, columns x, y, z.
    - ``point`` or ``index``, the number of points, then three numbers a line: elastix and transformix, in LPS mm
      or in voxel indices from 0.
    - A header that names ``x``, ``y`` and ``z``: LPS mm; one that names ``r``, ``a`` and ``s``: RAS mm. Pairs in
      one file have ``fixed_x`` or ``exp_x``, and ``moving_x`` or ``insp_x``, and so on.
    - ``.fcsv`` and ``.mrk.json`` of 3D Slicer, which say themselves whether they are LPS or RAS.

    Parameters
    ----------
    path : Path or str
    side : {'fixed', 'moving'}
        Which columns of a file with both.

    Raises
    ------
    InputError
        If the file is missing or none of these.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: expected a file with points, got a folder") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected text with points, got a binary file") from None
    name = path.name.lower()
    if name.endswith(".json"):
        points = _slicer_json(path, text)
    elif name.endswith(".fcsv"):
        points = _slicer_csv(path, text)
    else:
        points = _plain(path, text, side)
    if np.isnan(points.xyz).all():
        raise InputError(f"{path}: no points in it")
    return points


def _plain(path: Path, text: str, side: str) -> Points:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path}: the file is empty")
    if lines[0].lower() in ("point", "index"):
        return _elastix(path, lines)
    if re.search(r"[A-Za-z]", lines[0]):
        return _table(path, lines, side)
    xyz = _numbers(path, lines)
    if (xyz != np.rint(xyz)).any():
        raise InputError(
            f"{path}: three columns without a header are taken for DIR-Lab's voxel indices, which are whole"
            " numbers; for mm add a first line 'x,y,z' (LPS)"
        )
    return Points(xyz, 1, path)


def _elastix(path: Path, lines: list[str]) -> Points:
    if len(lines) < 2 or not lines[1].isdigit():
        raise InputError(f"{path}: expected the number of points below '{lines[0]}'")
    xyz = _numbers(path, lines[2:])
    if len(xyz) != int(lines[1]):
        raise InputError(f"{path}: expected {lines[1]} points, as its second line says, got {len(xyz)}")
    return Points(xyz, 0 if lines[0].lower() == "index" else None, path)


def _numbers(path: Path, lines: list[str]) -> NDArray[np.float64]:
    try:
        rows = [[float(word) for word in _SPLIT.split(line.strip(",;"))] for line in lines]
    except ValueError as error:
        raise InputError(f"{path}: expected three numbers a line; {error}") from None
    wrong = next((n for n, row in enumerate(rows) if len(row) != 3), None)
    if wrong is not None:
        raise InputError(f"{path}: expected three numbers a line, got '{lines[wrong]}'")
    return _finite(path, rows)


def _finite(path: Path, rows: list[list[float]]) -> NDArray[np.float64]:
    xyz = np.array(rows, float).reshape(-1, 3)
    if not np.isfinite(xyz).all():
        raise InputError(f"{path}: some coordinates are NaN or infinite")
    return xyz


def _table(path: Path, lines: list[str], side: str) -> Points:
    rows = list(csv.reader(lines, delimiter=max(",;\t", key=lines[0].count)))
    header = [name.strip().strip("#").strip().lower() for name in rows[0]]
    for letters, signs in (("xyz", np.ones(3)), ("ras", _RAS_LPS)):
        for prefix in _SIDES[side]:
            wanted = [prefix + letter for letter in letters]
            if set(wanted) <= set(header):
                columns = [header.index(name) for name in wanted]
                try:
                    numbers = [[float(row[c]) for c in columns] for row in rows[1:]]
                except (ValueError, IndexError):
                    raise InputError(f"{path}: a row has no number under {', '.join(wanted)}") from None
                return Points(_finite(path, numbers) * signs, None, path)
    names = " or ".join(f"{p}x, {p}y, {p}z" for p in _SIDES[side])
    raise InputError(f"{path}: expected columns {names}, got {', '.join(header)}")


def _slicer_csv(path: Path, text: str) -> Points:
    system = re.search(r"^#\s*CoordinateSystem\s*=\s*(\S+)", text, re.MULTILINE)
    rows = [line.split(",") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        xyz = np.array([[float(word) for word in row[1:4]] for row in rows], float).reshape(-1, 3)
    except ValueError:
        raise InputError(
            f"{path}: expected a number, x, y, z in each line, as 3D Slicer writes them"
        ) from None
    xyz = _finite(path, xyz.tolist())
    return Points(xyz * _signs(path, system[1] if system else ""), None, path)


def _slicer_json(path: Path, text: str) -> Points:
    try:
        content: Any = json.loads(text)
        lists = [m for m in content["markups"] if m["type"] == "Fiducial"]
        controls = lists[0]["controlPoints"]
        placed = np.array([c.get("positionStatus", "defined") == "defined" for c in controls], bool)
        xyz = np.full((len(controls), 3), np.nan)
        xyz[placed] = _finite(
            path, [c["position"] for c, there in zip(controls, placed, strict=True) if there]
        )
        system = str(lists[0]["coordinateSystem"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise InputError(f"{path}: expected a point list that 3D Slicer wrote (.mrk.json)") from None
    return Points(xyz * _signs(path, system), None, path)


def _signs(path: Path, system: str) -> NDArray[np.float64]:
    """Signs to LPS; older files of Slicer number the systems."""
    if system.upper() in ("LPS", "1"):
        return np.ones(3)
    if system.upper() in ("RAS", "0"):
        return _RAS_LPS
    raise InputError(f"{path}: expected coordinates in LPS or RAS, got {system or 'no word on it'}")
