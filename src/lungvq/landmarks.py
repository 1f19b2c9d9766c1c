"""Target registration error at landmark pairs a user brings, in both conventions the literature reports.

Fixed points lie in the expiration scan, moving points in the inspiration scan; the field takes each fixed point
to where the registration believes it went, and the error is the distance from there to the moving point.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import KDTree

from lungvq import io
from lungvq.errors import InputError, UsageError
from lungvq.findings import Finding, warn
from lungvq.io.dirlab import AXES as DIRLAB_AXES
from lungvq.io.points import Points, read_points
from lungvq.volume import ALL_AXIS_CODES, Grid, Volume

__all__ = [
    "STORED",
    "ErrorSummary",
    "LandmarkErrors",
    "evaluate_landmarks",
    "read_field",
    "snap_to_voxel",
    "summarise",
    "target_errors",
    "world_points",
]

STORED = "stored"
"""Indices count along the axes of the image as its file has them."""

_MOST_OUTSIDE = 0.1  # of the points may lie beyond the field and be left out
_ENOUGH_INSIDE, _FEW_INSIDE = 0.9, 0.5
_LEAST_IN_LUNG = 0.7
_LUNG_HU, _AROUND_MM = -400, 4.0
_CLEARLY_BETTER = 0.5
_ON_VOXEL = 0.1
_FARTHEST_MM = 150.0  # diaphragms move up to 90
_MISSED_MM = 5.0  # median: what registrations of lungs are far below, and wrong frames far above


@dataclass(frozen=True)
class ErrorSummary:
    """Distances in mm; `sd` is that of a sample (n - 1), as DIR-Lab's tables have it."""

    n: int
    mean: float
    sd: float
    median: float
    p95: float
    max: float


@dataclass(frozen=True, eq=False)
class LandmarkErrors:
    """What registration did to landmarks.

    Parameters
    ----------
    fixed, moving, mapped : ndarray, shape (N, 3)
        LPS mm: the pairs, and where the field takes the fixed points; NaN beyond the field.
    before, after : ndarray, shape (N,)
        mm, without and with the registration.
    snapped : ndarray, shape (N,), or None
        mm, from the voxel centre of the moving scan nearest to the mapped point; None without a moving scan.
    findings : tuple of Finding
        What a reader should know before quoting the numbers.
    """

    fixed: NDArray[np.float64]
    moving: NDArray[np.float64]
    mapped: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    snapped: NDArray[np.float64] | None
    findings: tuple[Finding, ...] = ()

    def summaries(self) -> dict[str, ErrorSummary]:
        """``before``, ``after`` and, with a moving scan, ``snapped``, over the same points."""
        inside = np.isfinite(self.after)
        rows = {"before": self.before[inside], "after": self.after[inside]}
        if self.snapped is not None:
            rows["snapped"] = self.snapped[inside]
        return {name: summarise(errors) for name, errors in rows.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the summaries in mm, how many points were left out, and the findings."""
        return {
            "schema": "lungvq.landmarks/1",
            "unit": "mm",
            **{name: asdict(summary) for name, summary in self.summaries().items()},
            "points": len(self.after),
            "points_beyond_field": int(np.isnan(self.after).sum()),
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def write(self, path: Path) -> None:
        """A CSV file with one row per point, from 1, in the order of the files; empty where there is no value."""
        columns: dict[str, NDArray[Any]] = {"point": np.arange(1, len(self.after) + 1)}
        for name, points in (("fixed", self.fixed), ("moving", self.moving), ("mapped", self.mapped)):
            columns |= {f"{name}_{axis}": points[:, n] for n, axis in enumerate("xyz")}
        columns |= {"before_mm": self.before, "after_mm": self.after}
        if self.snapped is not None:
            columns["snapped_mm"] = self.snapped
        with io.open_atomic(path) as stream:
            stream.write(pd.DataFrame(columns).to_csv(index=False, float_format="%.4f").encode())


def target_errors(mapped: NDArray[np.float64], moving: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances between paired points: mm, shape (N,).

    Examples
    --------
    >>> target_errors(np.zeros((1, 3)), np.array([[2.0, 3.0, 6.0]]))
    array([7.])
    """
    return np.linalg.norm(np.asarray(mapped, float) - np.asarray(moving, float), axis=1)


def snap_to_voxel(points: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """The voxel centres nearest to points, LPS mm, shape (N, 3).

    Landmarks that were set voxel by voxel are known to half a voxel only. DIR-Lab's convention therefore rounds
    the mapped point to a voxel before it measures, which lowers the error of a good registration, since a point
    less than half a voxel away counts as met. For landmarks between voxels it only adds noise.
    """
    return grid.world(np.rint(grid.index(points)))


def summarise(errors: NDArray[np.floating]) -> ErrorSummary:
    """Number, mean, standard deviation, median, 95th percentile and maximum.

    Examples
    --------
    >>> summarise(np.array([1.0, 2.0, 3.0, 6.0])).mean
    3.0
    """
    n = len(errors)
    return ErrorSummary(
        n,
        float(errors.mean()),
        float(errors.std(ddof=1)) if n > 1 else 0.0,
        float(np.median(errors)),
        float(np.percentile(errors, 95)),
        float(errors.max()),
    )


def world_points(points: Points, grid: Grid | None, *, axes: str | None = None) -> NDArray[np.float64]:
    """Landmarks in LPS mm, whatever they were.

    Parameters
    ----------
    points : Points
    grid : Grid or None
        Of the scan they lie in, in stored order; indices need it, and points in mm are checked against it.
    axes : str, optional
        Along which body directions indices count, as codes for slice, row, column, or ``'stored'`` for the axes of
        the file. By default ``'IPL'`` for DIR-Lab, whose first slice is the uppermost, and ``'stored'`` for elastix.

    Raises
    ------
    UsageError
        If there are indices and no scan, or `axes` is not known.
    InputError
        If points lie outside the scan.
    """
    if points.first is None:
        if grid is not None:
            _check_inside(points.xyz, grid, points.path, "the scan")
        return points.xyz
    if grid is None:
        raise UsageError(f"{points.path} holds voxel indices; give the scan too, which turns them into mm")
    axes = axes or (DIRLAB_AXES if points.first == 1 else STORED)
    if axes != STORED and axes not in ALL_AXIS_CODES:
        raise UsageError(f"expected index axes such as 'IPL', or 'stored', got {axes!r}")
    lattice = grid if axes == STORED else grid.reorient(axes)
    index = points.xyz[:, ::-1] - points.first
    outside = ~_among_voxels(index, lattice)
    if outside.any():
        size = " x ".join(map(str, lattice.shape[::-1]))
        first = points.xyz[np.argmax(outside)]
        raise InputError(
            f"{points.path}: {outside.sum()} of {len(index)} points are no voxels of the scan ({size}, counted from"
            f" {points.first}), such as {' '.join(f'{v:g}' for v in first)}; is it another scan, or are these mm?"
        )
    return lattice.world(index)


def read_field(path: Path) -> Volume:
    """The displacement a registration left: the file itself, or the folder of ``lungvq register`` or ``run``.

    Returns
    -------
    field : Volume
        (K, J, I, 3), mm, LPS.

    Raises
    ------
    InputError
        If there is none.
    """
    if path.is_dir():
        places = [path / "displacement.nii.gz", path / "registration" / "displacement.nii.gz"]
        file = next((place for place in places if place.exists()), None)
        if file is None:
            raise InputError(f"{path}: no displacement.nii.gz in it, nor in its folder registration")
        path = file
    field = io.read_volume(path)
    if field.array.ndim != 4 or field.array.shape[3] != 3:
        raise InputError(f"{path}: expected a displacement field, three values per voxel, got one")
    return field


def evaluate_landmarks(
    fixed_points: Path,
    moving_points: Path,
    field: Path,
    *,
    fixed_image: Path | None = None,
    moving_image: Path | None = None,
    index_axes: str | None = None,
) -> LandmarkErrors:
    """Target registration error of a field at landmark pairs, all from files.

    Parameters
    ----------
    fixed_points, moving_points : Path
        What `lungvq.io.points.read_points` knows; pairs by row. The same file twice if it holds both.
    field : Path
        As for `read_field`.
    fixed_image, moving_image : Path, optional
        The scans: needed where points are voxel indices, and the moving one for the error with snapping.
    index_axes : str, optional
        As for `world_points`.

    Raises
    ------
    InputError
        If something cannot be read, the numbers of points differ, or more than a tenth lie beyond the field.
    UsageError
        If points are indices and their scan is not given.
    """
    pairs = [read_points(fixed_points, side="fixed"), read_points(moving_points, side="moving")]
    if len(pairs[0].xyz) != len(pairs[1].xyz):
        raise InputError(
            f"the points are not pairs: {len(pairs[0].xyz)} in {fixed_points}, {len(pairs[1].xyz)} in {moving_points}"
        )
    pairs, findings = _leave_out_unplaced(pairs)
    displacement = read_field(field)
    scans = [None if path is None else io.read(path).volume for path in (fixed_image, moving_image)]
    fixed, moving = (
        world_points(points, scan.grid if scan else None, axes=index_axes)
        for points, scan in zip(pairs, scans, strict=True)
    )
    outside_lung = [
        found
        for points, scan, world in zip(pairs, scans, (fixed, moving), strict=True)
        if scan is not None
        for found in _say_not_in_lung(points, scan, world)
    ]
    doubts = " ".join(f"{found.message} {found.advice}" for found in outside_lung)
    _check_inside(fixed, displacement.grid, fixed_points, "the displacement field", doubts)
    mapped = fixed + displacement.sample(fixed)
    after = target_errors(mapped, moving)
    snapped = target_errors(snap_to_voxel(mapped, scans[1].grid), moving) if scans[1] is not None else None
    if scans[1] is not None:
        findings += _say_between_voxels(moving, scans[1].grid)
    findings += outside_lung + _say_left_out(after)
    findings += (
        _say_the_same(fixed, moving)
        or _say_wrong_order(fixed, moving, mapped, displacement)
        or _say_far_apart(fixed, moving, after) + _say_missed(pairs, scans, displacement, after)
    )
    return LandmarkErrors(
        fixed, moving, mapped, target_errors(fixed, moving), after, snapped, tuple(findings)
    )


def _inside(points: NDArray[np.float64], grid: Grid) -> NDArray[np.bool_]:
    return _among_voxels(grid.index(points), grid)


def _among_voxels(index: NDArray[np.float64], grid: Grid) -> NDArray[np.bool_]:
    return np.all((index >= -0.5) & (index <= np.array(grid.shape) - 0.5), axis=1)


def _check_inside(points: NDArray[np.float64], grid: Grid, path: Path, what: str, doubts: str = "") -> None:
    outside = ~_inside(points, grid)
    if outside.mean() <= _MOST_OUTSIDE:
        return
    advice = doubts or "do they belong to this pair, and which of them is expiration?"
    mirrored = _inside(points * (-1, -1, 1), grid).mean()
    if mirrored > _ENOUGH_INSIDE and outside.mean() > _FEW_INSIDE:
        advice = (
            "they would lie inside with the signs of x and y turned, so they look like RAS; this needs LPS"
        )
    raise InputError(f"{path}: {outside.sum()} of {len(points)} points lie outside {what}; {advice}")


def _leave_out_unplaced(pairs: list[Points]) -> tuple[list[Points], list[Finding]]:
    """Pairs of which both points have a place, and how many have not."""
    placed = ~np.isnan(pairs[0].xyz[:, 0] + pairs[1].xyz[:, 0])
    if placed.all():
        return pairs, []
    if not placed.any():
        raise InputError("no pair of points has a place in both " + " and ".join(str(p.path) for p in pairs))
    missing = len(placed) - np.count_nonzero(placed)
    finding = warn(
        "POINTS_WITHOUT_PLACE",
        f"{missing} of {len(placed)} pairs of points were never placed in one of the scans and are left out.",
        value=float(missing),
        limit=0.0,
        advice="Rows of the results count the others. Place them in 3D Slicer, or delete their rows.",
    )
    return [replace(points, xyz=points.xyz[placed]) for points in pairs], [finding]


def _say_the_same(fixed: NDArray[np.float64], moving: NDArray[np.float64]) -> list[Finding]:
    if (fixed != moving).any():
        return []
    return [
        warn(
            "POINTS_THE_SAME",
            "The fixed and the moving points are the same, so the error is nothing but the motion that was found.",
            advice="Give the points of the inspiration as moving points.",
        )
    ]


def _say_far_apart(
    fixed: NDArray[np.float64], moving: NDArray[np.float64], after: NDArray[np.float64]
) -> list[Finding]:
    apart = np.where(np.isfinite(after), target_errors(fixed, moving), 0)  # the others are left out
    far = np.flatnonzero(apart > _FARTHEST_MM)
    if not len(far):
        return []
    rows = ", ".join(str(n + 1) for n in far[:5]) + (", ..." if len(far) > 5 else "")
    return [
        warn(
            "POINTS_FAR_APART",
            f"{len(far)} of {len(apart)} pairs of points (rows {rows}) lie more than {_FARTHEST_MM:g} mm apart,"
            " and lungs do not move that far.",
            value=round(float(apart.max()), 1),
            limit=_FARTHEST_MM,
            unit="mm",
            advice="Check these rows: they rule the mean.",
        )
    ]


def _say_missed(
    pairs: list[Points], scans: Sequence[Volume | None], field: Volume, after: NDArray[np.float64]
) -> list[Finding]:
    """Half of the points end far from where they should: a registration that failed, or points of another place."""
    half = float(np.nanmedian(after))
    if half < _MISSED_MM:
        return []
    advice = (
        "Look at the registration's report. Where it tells of no trouble, the points lie in another frame: RAS for"
        " LPS, voxels for mm, another scan."
    )
    if pairs[0].first is not None and scans[0] is not None and scans[1] is not None:
        fixed, moving = _by_axes(pairs[0], scans[0].grid), _by_axes(pairs[1], scans[1].grid)
        medians = {}
        for axes in (axes for axes in fixed if axes in moving):
            errors = target_errors(fixed[axes] + field.sample(fixed[axes]), moving[axes])
            medians[axes] = float(np.nanmedian(errors)) if np.isfinite(errors).any() else np.inf
        best = min(medians, key=lambda axes: medians[axes], default="")
        if best and medians[best] < _CLEARLY_BETTER * half:
            advice = f"With --index-axes {best} it would be {medians[best]:.1f} mm."
    return [
        warn(
            "POINTS_MISSED",
            f"Half of the points end more than {half:.1f} mm from where they should.",
            value=round(half, 1),
            limit=_MISSED_MM,
            unit="mm",
            advice=advice,
        )
    ]


def _say_between_voxels(moving: NDArray[np.float64], grid: Grid) -> list[Finding]:
    index = grid.index(moving)
    off = float(np.median(np.abs(index - np.rint(index)).max(axis=1)))
    if off < _ON_VOXEL:
        return []
    return [
        warn(
            "POINTS_BETWEEN_VOXELS",
            "The moving points were not set on voxels, so snapping adds up to half a voxel to their errors.",
            value=round(off, 2),
            limit=_ON_VOXEL,
            unit="voxel",
            advice="Quote the error without snapping.",
        )
    ]


def _say_left_out(after: NDArray[np.float64]) -> list[Finding]:
    left = int(np.isnan(after).sum())
    if not left:
        return []
    return [
        warn(
            "POINTS_BEYOND_FIELD",
            f"{left} of {len(after)} points lie beyond the displacement field and are left out.",
            value=float(left),
            limit=0.0,
            advice="Give the number of points with the result: the errors left out are likely large.",
        )
    ]


def _say_wrong_order(
    fixed: NDArray[np.float64], moving: NDArray[np.float64], mapped: NDArray[np.float64], field: Volume
) -> list[Finding]:
    """Fixed and moving exchanged, axes that point the other way, or rows that are not pairs."""
    known = np.isfinite(mapped).all(axis=1)
    after = float(np.median(target_errors(mapped, moving)[known]))
    exchanged = target_errors(moving + field.sample(moving), fixed)
    other = float(np.nanmedian(exchanged)) if np.isfinite(exchanged).any() else np.inf
    if other < _CLEARLY_BETTER * after:
        return [
            warn(
                "POINTS_EXCHANGED",
                f"Taken the other way round the median error would be {other:.1f} mm instead of {after:.1f} mm.",
                value=other,
                limit=_CLEARLY_BETTER * after,
                unit="mm",
                advice="Fixed points are those of the expiration scan, moving points those of the inspiration.",
            )
        ]
    for axes, signs in (("x and y", (-1, -1, 1)), ("x", (-1, 1, 1)), ("y", (1, -1, 1))):
        turned = target_errors(fixed * signs + field.sample(fixed * signs), moving * signs)
        there = np.isfinite(turned)
        other = float(np.median(turned[there])) if there.mean() > _ENOUGH_INSIDE else np.inf
        if other < _CLEARLY_BETTER * after:
            return [
                warn(
                    "POINTS_MIRRORED",
                    f"With the signs of {axes} turned the median error would be {other:.1f} mm instead of {after:.1f}"
                    " mm.",
                    value=other,
                    limit=_CLEARLY_BETTER * after,
                    unit="mm",
                    advice="Points are taken as LPS mm; RAS has the signs of x and y turned.",
                )
            ]
    nearest = float(np.median(KDTree(moving).query(mapped[known])[0]))
    if len(moving) >= 10 and nearest < _CLEARLY_BETTER * after and _typical_gap(moving) < after:
        return [
            warn(
                "ROWS_NOT_PAIRS",
                f"Half of the mapped points have some moving point within {nearest:.1f} mm, but not the one of"
                f" their own row ({after:.1f} mm).",
                value=nearest,
                limit=_CLEARLY_BETTER * after,
                unit="mm",
                advice="Check that both files list the landmarks in the same order.",
            )
        ]
    return []


def _typical_gap(points: NDArray[np.float64]) -> float:
    """Median distance from a point to its nearest neighbour, mm."""
    return float(np.median(KDTree(points).query(points, k=2)[0][:, 1]))


def _lung_share(scan: Volume, world: NDArray[np.float64]) -> float:
    """Share of points with lung around them: landmarks sit on vessels, so their own HU says little."""
    steps = _AROUND_MM * np.concatenate([np.eye(3), -np.eye(3)])
    around = np.stack([scan.sample(world + step) for step in steps])
    seen = np.isfinite(around).any(axis=0)  # the others lie beyond the scan
    return float(np.sum(np.nanmedian(around[:, seen], axis=0) < _LUNG_HU) / len(world))


def _by_axes(points: Points, grid: Grid) -> dict[str, NDArray[np.float64]]:
    """Where voxel indices lie, LPS mm, by the axes they may be counted along; only where all are in the scan."""
    turned = "SPL" if grid.codes[0] == "I" else DIRLAB_AXES
    found = {}
    for axes in dict.fromkeys((STORED, DIRLAB_AXES, turned)):
        with suppress(InputError):
            found[axes] = world_points(points, grid, axes=axes)
    return found


def _say_not_in_lung(points: Points, scan: Volume, world: NDArray[np.float64]) -> list[Finding]:
    share = _lung_share(scan, world)
    if share >= _LEAST_IN_LUNG:
        return []
    advice = "Check that the points belong to this scan."
    if points.first is not None:
        shares = {axes: _lung_share(scan, there) for axes, there in _by_axes(points, scan.grid).items()}
        best = max(shares, key=lambda axes: shares[axes], default="")
        if best and shares[best] > share + 0.1:
            advice = f"With --index-axes {best} it would be {100 * shares[best]:.0f} %."
    return [
        warn(
            "POINTS_NOT_IN_LUNG",
            f"Only {100 * share:.0f} % of the points of {points.path.name} have lung around them.",
            value=round(100 * share, 1),
            limit=100 * _LEAST_IN_LUNG,
            unit="%",
            advice=advice,
        )
    ]
