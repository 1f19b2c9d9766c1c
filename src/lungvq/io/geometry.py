"""Where the slices of a stack lie: one line, equal steps, or an explicit repair, or a refusal.

A series reader that bridges a missing slice, sorts a scout among the slices or ignores a gantry tilt
returns a volume all the same, with lungs too long, too short or sheared, and every Jacobian with them. Here
positions alone decide, and whatever is mended is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lungvq.findings import Finding, warn
from lungvq.volume import Grid, Volume

__all__ = ["Layout", "Refusal", "common_plane", "lay_out", "planes_from_slices", "straighten", "upright"]

# Positions are often written with one decimal: what rounding explains is no unevenness.
ROUNDING_MM = 0.06
SAME_POSITION_MM = 0.02
# Slices that differ less than this are parallel and equally spaced in the plane: 0.05 mm at the edge.
SAME_DIRECTION, SAME_SPACING = 2e-4, 1e-4
_NOT_UNIT = 1e-3  # direction cosines written with three decimals
# An affine sheared by less is orthogonal to everybody (ITK refuses more); it is kept as it is.
_SHEAR = 1e-4
_MAX_TILT_DEG = 45.0
_MAX_MISSING = 2
_MAX_BRIDGED_MM = 6.0
_MAX_UNEVEN_MM, _MAX_UNEVEN_RATIO = 5.0, 4.0
_OUTSIDE_HU = -1024

Array = NDArray[np.float64]


class Refusal(Exception):
    """Why a series cannot be used, without saying which; the caller knows."""


@dataclass(frozen=True, eq=False)
class Layout:
    """How planes at equal steps come from slices.

    Parameters
    ----------
    order : ndarray of int
        Which slice comes first, second, ... along the normal.
    affine : ndarray, shape (4, 4)
        (k, j, i, 1) of the planes to LPS mm; sheared where the gantry was tilted.
    at : ndarray of float or None
        For each plane its place among the ordered slices, 3.5 halfway between the fourth and the fifth; None
        where planes and slices are the same.
    findings : tuple of Finding
        What was mended.
    """

    order: NDArray[np.intp]
    affine: Array
    at: Array | None = None
    findings: tuple[Finding, ...] = field(default=())

    @property
    def planes(self) -> int:
        """How many there are."""
        return len(self.order) if self.at is None else len(self.at)

    @property
    def interpolated(self) -> list[int]:
        """Planes that lie between slices."""
        return [] if self.at is None else np.flatnonzero(self.at % 1).tolist()

    @property
    def tilt_deg(self) -> float:
        """Angle between the line along which slices are stacked and their normal."""
        _, down, right = self.affine[:3, :3].T / np.linalg.norm(self.affine[:3, :3], axis=0)
        line = self.affine[:3, 0]
        sideways = np.hypot(line @ down, line @ right)
        return float(np.degrees(np.arctan2(sideways, np.sqrt(max(line @ line - sideways**2, 0)))))


def common_plane(orientation: Array, spacing: Array) -> tuple[Array, Array, tuple[float, float]]:
    """Unit vectors to the right and down the picture, and the distances between rows and columns in mm.

    Parameters
    ----------
    orientation : ndarray, shape (N, 6)
        Image Orientation (Patient) of slices that are parallel.
    spacing : ndarray, shape (N, 2)
        Pixel Spacing.

    Raises
    ------
    Refusal
        If they are not a right angle and positive distances.
    """
    if spacing.min() <= 0:
        raise Refusal("its pixel spacing is zero or negative")
    right, down = np.median(orientation, axis=0).reshape(2, 3)
    lengths = float(np.linalg.norm(right)), float(np.linalg.norm(down))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(right @ down))) > _NOT_UNIT:
        raise Refusal("its ImageOrientationPatient is not two unit vectors at a right angle")
    right = right / lengths[0]
    down = down - (down @ right) * right
    rows, columns = np.median(spacing, axis=0)
    return right, down / np.linalg.norm(down), (float(rows), float(columns))


def lay_out(position: Array, orientation: Array, spacing: Array, names: Sequence[str]) -> Layout:
    """Order parallel slices by position and find the planes at equal steps that they stand for.

    Parameters
    ----------
    position : ndarray, shape (N, 3)
        Image Position (Patient), N > 1, no two at one place.
    orientation, spacing : ndarray
        As for `common_plane`.
    names : sequence of str
        What to call each slice.

    Raises
    ------
    Refusal
        If they are not the slices of one volume.
    """
    right, down, (rows, columns) = common_plane(orientation, spacing)
    normal = np.cross(right, down)
    order = np.argsort(position @ normal, kind="stable")
    position = position[order]
    along = position @ normal
    told = [names[n] for n in order]
    _check_line(position, along, normal)
    affine = np.eye(4)
    affine[:3, 1:3] = np.column_stack([down * rows, right * columns])
    at, affine[:3, 0], affine[:3, 3], findings = _steps(position, along, told)
    _unshear_rounding(affine, normal, len(order) if at is None else len(at))
    layout = Layout(order, affine, at, tuple(findings))
    if layout.tilt_deg > _MAX_TILT_DEG:
        raise Refusal(f"its slices are stacked at {layout.tilt_deg:.0f} degrees to their normal")
    return layout


def _unshear_rounding(affine: Array, normal: Array, planes: int) -> None:
    """Put a stack upright whose planes rounding alone may have moved sideways, in place."""
    sideways = affine[:3, 0] - normal * (normal @ affine[:3, 0])
    drift = float(np.linalg.norm(sideways)) * (planes - 1)
    if drift <= ROUNDING_MM and np.linalg.norm(sideways) > _SHEAR * np.linalg.norm(affine[:3, 0]):
        affine[:3, 0] -= sideways
        affine[:3, 3] += sideways * (planes - 1) / 2


def _check_line(position: Array, along: Array, normal: Array) -> None:
    """Slices may lie on an oblique line, but on one."""
    sideways = position - np.outer(along, normal)
    slope, offset = np.polynomial.polynomial.polyfit(along - along[0], sideways, 1)[::-1]
    off = np.linalg.norm(sideways - offset - np.outer(along - along[0], slope), axis=1)
    if off.max() > 2 * ROUNDING_MM:
        raise Refusal(f"its slices are shifted sideways against each other, by up to {off.max():.2f} mm")


def _fit(index: Array, position: Array) -> tuple[Array, Array, float]:
    """Step and origin of the line through positions, and how far the worst lies from its place."""
    origin, step = np.polynomial.polynomial.polyfit(index, position, 1)
    off = np.linalg.norm(position - origin - np.outer(index, step), axis=1)
    return step, origin, float(off.max())


def _steps(
    position: Array, along: Array, names: Sequence[str]
) -> tuple[Array | None, Array, Array, list[Finding]]:
    """Places of the planes among the slices, step and origin of their line, and what was mended."""
    gaps = np.diff(along)
    step, origin, off = _fit(np.arange(len(along), dtype=float), position)
    if off <= min(ROUNDING_MM, 0.1 * float(gaps.mean())):
        return None, step, origin, []
    usual = float(np.median(gaps))
    multiple = np.maximum(np.rint(gaps / usual), 1)
    index = np.concatenate([[0], np.cumsum(multiple)])
    step, origin, off = _fit(index, position)
    wide = np.flatnonzero(multiple > 1)
    holes = wide.size <= max(_MAX_MISSING, 0.2 * gaps.size) or np.diff(wide).min() > 1
    if off <= min(ROUNDING_MM, 0.1 * usual) and holes:
        finding = _bridge(multiple, wide, along, names)
        return np.interp(np.arange(index[-1] + 1), index, np.arange(len(index))), step, origin, [finding]
    at, line, first, finding = _even_out(position, along, names)
    return at, line, first, [finding]


def _bridge(multiple: Array, wide: NDArray[np.intp], along: Array, names: Sequence[str]) -> Finding:
    """Say which missing slices are interpolated; refuse where they are too many or too far apart."""
    missing = int((multiple - 1).sum())
    are = "slices are" if missing > 1 else "slice is"
    places = [
        f"between {names[n]} and {names[n + 1]} ({along[n]:.1f} to {along[n + 1]:.1f} mm)" for n in wide[:3]
    ]
    where = "; ".join(places) + (f"; and {len(wide) - 3} more" if len(wide) > 3 else "")
    bridged = float(np.diff(along)[wide].max())
    apart = len(wide) < 2 or np.diff(wide).min() > 1
    if missing > _MAX_MISSING or multiple.max() > 2 or not apart or bridged > _MAX_BRIDGED_MM:
        raise Refusal(f"{missing} {are} missing, {where}; export the whole series")
    return warn(
        "MISSING_SLICES",
        f"{missing} {are} missing and {'were' if missing > 1 else 'was'} interpolated from the neighbours: {where}.",
        value=float(missing),
        limit=0.0,
        unit="slices",
        advice="Export the whole series again.",
    )


def _even_out(position: Array, along: Array, names: Sequence[str]) -> tuple[Array, Array, Array, Finding]:
    """Planes at the usual step where nearly all slices have it, else at the finest step there is."""
    gaps = np.diff(along)
    usual, finest, widest = float(np.median(gaps)), float(gaps.min()), float(gaps.max())
    same = np.abs(gaps - usual) <= ROUNDING_MM
    step = usual if same.mean() >= 0.8 else finest
    n = int(np.argmax(np.abs(gaps - usual)))
    where = f"between {names[n]} and {names[n + 1]} ({along[n]:.1f} to {along[n + 1]:.1f} mm)"
    if widest > _MAX_UNEVEN_MM or widest > _MAX_UNEVEN_RATIO * step or finest < 0.25 * step:
        raise Refusal(
            f"its slice steps differ, from {finest:.2f} to {widest:.2f} mm, most {where}; use a"
            " reconstruction with equal steps"
        )
    # From a slice whose neighbour lies at this step, both ways to the ends.
    anchor = along[int(np.argmin(np.abs(gaps - step)))]
    back, forth = (int(np.floor((d + ROUNDING_MM) / step)) for d in (anchor - along[0], along[-1] - anchor))
    places = anchor + step * np.arange(-back, forth + 1)
    at = np.interp(places, along, np.arange(len(along), dtype=float))
    nearest = np.rint(at)
    at = np.where(np.abs(places - along[nearest.astype(int)]) <= ROUNDING_MM, nearest, at)
    slope, offset = np.polynomial.polynomial.polyfit(along, position, 1)[::-1]
    between = int(np.count_nonzero(at % 1))
    finding = warn(
        "UNEVEN_SLICES",
        f"Slices lie {finest:.2f} to {widest:.2f} mm apart, unlike {where}: of {len(at)} planes at {step:.2f} mm"
        f" {between} were interpolated between slices.",
        value=float(between),
        limit=0.0,
        unit="planes",
        advice="Use a reconstruction with equal steps.",
    )
    return at, step * slope, offset + places[0] * slope, finding


# --- values -----------------------------------------------------------------------------------------------


def planes_from_slices(slices: NDArray[np.int16], at: Array | None) -> NDArray[np.int16]:
    """Planes at places among slices, linear between two."""
    if at is None:
        return slices
    planes = np.empty((len(at), *slices.shape[1:]), np.int16)
    for plane, place in zip(planes, at, strict=True):
        n = int(place)
        share = np.float32(place - n)
        if share:
            plane[...] = np.rint(slices[n] * (1 - share) + slices[n + 1] * share)
        else:
            plane[...] = slices[n]
    return planes


def upright(grid: Grid) -> Grid:
    """The grid of right angles over all of a sheared one: the same pixels, planes stacked along the normal."""
    shear = _shear(grid)
    if shear is None:
        return grid
    straight, first, _, size = shear
    affine = grid.affine.copy()
    affine[:3, 0] = straight
    affine[:3, 3] = grid.affine[:3, 3] + grid.affine[:3, 1:3] @ first
    return Grid((grid.shape[0], int(size[0]), int(size[1])), affine)


def straighten(volume: Volume) -> Volume:
    """Take out a gantry tilt: each plane is shifted within itself, linear between pixels, by a part of one.

    What was not scanned becomes air of -1024 HU. A volume tilted by less than 0.0001 is returned as it is; its
    affine tells.
    """
    shear = _shear(volume.grid)
    if shear is None:
        return volume
    _, first, per_plane, (rows, columns) = shear
    grid = upright(volume.grid)
    hu = np.empty(grid.shape, np.int16)
    for k, plane in enumerate(volume.array):
        # Where the first row and column of the new plane lie in the old one.
        start = first - k * per_plane
        moved = _shifted(plane.astype(np.float32), start[0], int(rows))
        moved = _shifted(moved.T, start[1], int(columns)).T
        hu[k] = np.rint(moved)
    return Volume(hu, grid.affine)


def _shear(grid: Grid) -> tuple[Array, Array, Array, NDArray[np.intp]] | None:
    """Step along the normal, first row and column of the new planes, shift per plane in pixels, new size."""
    line, down, right = grid.affine[:3, :3].T
    normal = np.cross(down, right)
    normal = normal / np.linalg.norm(normal)
    straight = normal * (normal @ line)
    sideways = line - straight
    if np.linalg.norm(sideways) <= _SHEAR * np.linalg.norm(line):
        return None
    per_plane = np.array([sideways @ axis / (axis @ axis) for axis in (down, right)])
    per_plane[np.abs(per_plane) * grid.shape[0] < 1e-3] = 0  # straight along this axis
    ends = per_plane * (grid.shape[0] - 1)
    first = np.floor(np.minimum(ends, 0))
    size = np.array(grid.shape[1:]) + np.ceil(np.maximum(ends, 0)).astype(int) - first.astype(int)
    return straight, first, per_plane, size


def _shifted(values: NDArray[np.float32], start: float, size: int) -> NDArray[np.float32]:
    """Rows ``start, start + 1, ...`` of an array, linear between its rows, -1024 beyond them."""
    whole = int(np.floor(start))
    share = np.float32(start - whole)
    between = int(share > 0)
    result = np.full((size, values.shape[1]), _OUTSIDE_HU, np.float32)
    # The first and the last new row that lie between rows there are.
    first, last = max(0, -whole), min(size, len(values) - whole - between)
    if first < last:
        result[first:last] = values[first + whole : last + whole] * (1 - share)
        result[first:last] += values[first + whole + between : last + whole + between] * share
    return result
