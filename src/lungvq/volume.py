"""Voxel values and where they lie in the patient.

Conventions, for the whole package: arrays are indexed ``(k, j, i)`` = (slice, row, column), C-contiguous;
an affine takes ``(k, j, i, 1)`` to LPS millimetres (x to the patient's left, y to the back, z to the head)
at voxel centres. Every other convention ends in :mod:`lungvq.io`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungvq.errors import GeometryError

__all__ = ["ALL_AXIS_CODES", "CANONICAL", "Box", "Grid", "Volume", "box_around", "grid_around"]

CANONICAL = "SPL"
"""Axis codes in which the algorithms work: slices run to the head, rows to the back, columns to the left."""

_AXIS_OF_LETTER = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
_LETTER_OF_AXIS = {axis: letter for letter, axis in _AXIS_OF_LETTER.items()}

ALL_AXIS_CODES: tuple[str, ...] = tuple(
    "".join(letters) for order in permutations(("LR", "PA", "SI")) for letters in product(*order)
)
"""The 48 ways to lay array axes along the body, each letter the direction in which that index grows."""

Box = tuple[slice, slice, slice]

_SAME_PLACE_MM = 0.01


def _check_codes(codes: str) -> None:
    if codes not in ALL_AXIS_CODES:
        raise GeometryError(
            f"expected axis codes such as 'SPL', one letter each of LR, PA and SI, got {codes!r}"
        )


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie, without their values.

    Parameters
    ----------
    shape : tuple of 3 ints
        Number of slices, rows, columns.
    affine : ndarray, shape (4, 4)
        ``(k, j, i, 1)`` to LPS mm at voxel centres.

    Raises
    ------
    GeometryError
        If the shape is not three positive numbers or the affine is singular, not finite or not affine.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"expected three positive dimensions (slices, rows, columns), got {shape}")
        affine = np.array(self.affine, dtype=float)  # our own copy
        if (
            affine.shape != (4, 4)
            or not np.isfinite(affine).all()
            or not np.array_equal(affine[3], [0, 0, 0, 1])
        ):
            raise GeometryError("expected a finite 4x4 affine whose last row is 0 0 0 1")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError("the affine is singular: two image axes are parallel or a spacing is zero")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbours along k, j and i."""
        a, b, c = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(a), float(b), float(c)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)

    @property
    def voxel_mm(self) -> float:
        """Edge of a cube as large as a voxel, mm."""
        return float(np.cbrt(1000 * self.voxel_ml))

    @cached_property
    def codes(self) -> str:
        """For k, j and i the body direction in which the index grows, the nearest if oblique: ``'SPL'``."""
        direction = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        best = max(
            permutations(range(3)),
            key=lambda order: sum(abs(direction[axis, n]) for n, axis in enumerate(order)),
        )
        return "".join(
            _LETTER_OF_AXIS[axis, 1 if direction[axis, n] >= 0 else -1] for n, axis in enumerate(best)
        )

    def world(self, index: ArrayLike) -> NDArray[np.float64]:
        """LPS mm of indices ``(..., 3)`` in (k, j, i) order."""
        return np.asarray(index, float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def corners(self) -> NDArray[np.float64]:
        """LPS mm of the middles of the eight outermost voxels, (8, 3)."""
        return self.world(list(product(*((0, n - 1) for n in self.shape))))

    def index(self, world: ArrayLike) -> NDArray[np.float64]:
        """Continuous (k, j, i) indices of points ``(..., 3)`` in LPS mm."""
        return (np.asarray(world, float) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def same_as(self, other: Grid) -> bool:
        """Whether voxels of equal index coincide, to 0.01 mm everywhere in the grid."""
        if self.shape != other.shape:
            return False
        corners = np.array(list(product(*((0, n) for n in self.shape))), float)
        return bool(np.abs(self.world(corners) - other.world(corners)).max() < _SAME_PLACE_MM)

    def crop(self, box: Box) -> Grid:
        """The part of the grid in `box`: slices with non-negative start and stop, step 1."""
        start = [s.indices(n)[0] for s, n in zip(box, self.shape, strict=True)]
        stop = [s.indices(n)[1] for s, n in zip(box, self.shape, strict=True)]
        if any(s.step not in (None, 1) for s in box) or any(b <= a for a, b in zip(start, stop, strict=True)):
            raise GeometryError(f"expected a box that is not empty, with step 1, got {box}")
        affine = self.affine.copy()
        affine[:3, 3] = self.world(start)
        return Grid((stop[0] - start[0], stop[1] - start[1], stop[2] - start[2]), affine)

    def reorientation_to(self, codes: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """How to reach `codes`: which present axis becomes each new one, and whether it is flipped."""
        _check_codes(codes)
        have = [_AXIS_OF_LETTER[c] for c in self.codes]
        want = [_AXIS_OF_LETTER[c] for c in codes]
        order = tuple(next(n for n, (axis, _) in enumerate(have) if axis == goal) for goal, _ in want)
        flips = tuple(have[n][1] != sign for n, (_, sign) in zip(order, want, strict=True))
        return order, flips

    def reorient(self, codes: str) -> Grid:
        """The same voxels, counted along other axes."""
        order, flips = self.reorientation_to(codes)
        linear = self.affine[:3, list(order)].copy()
        first = self.affine[:3, 3].copy()
        for n, (old, flip) in enumerate(zip(order, flips, strict=True)):
            if flip:
                first += linear[:, n] * (self.shape[old] - 1)
                linear[:, n] *= -1
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = linear, first
        return Grid((self.shape[order[0]], self.shape[order[1]], self.shape[order[2]]), affine)

    def with_spacing(self, spacing: Sequence[float]) -> Grid:
        """A grid over the same block of space with another spacing (mm, for k, j, i).

        The outer faces of the first voxels stay where they are; the far faces move outwards by less than
        one new voxel.
        """
        factor = np.asarray(spacing, float) / self.spacing
        shape = np.maximum(1, np.ceil(np.array(self.shape) / factor - 1e-6)).astype(int)
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] * factor
        affine[:3, 3] = self.world((factor - 1) / 2)
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def box_around(mask: NDArray[np.bool_], margin: Sequence[int] = (0, 0, 0)) -> Box:
    """The smallest box that holds a non-empty `mask`, with a margin of some voxels where there is room."""
    box = []
    for axis, m in enumerate(margin):
        where = np.flatnonzero(mask.any(axis=tuple(n for n in range(3) if n != axis)))
        box.append(slice(max(0, int(where[0]) - m), min(mask.shape[axis], int(where[-1]) + 1 + m)))
    return box[0], box[1], box[2]


def grid_around(points: ArrayLike, spacing: float, margin: float = 0.0) -> Grid:
    """A grid along the body axes, in canonical order, that covers points.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        LPS mm.
    spacing : float
        mm, the same along all axes.
    margin : float, optional
        mm beyond the outermost points on every side.
    """
    points = np.asarray(points, float)
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    count = np.maximum(1, np.ceil((high - low) / spacing).astype(int) + 1)
    affine = np.eye(4)
    affine[:3, :3] = spacing * np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    affine[:3, 3] = low
    return Grid((int(count[2]), int(count[1]), int(count[0])), affine)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxel values and where they lie in the patient.

    Parameters
    ----------
    array : ndarray, shape (K, J, I) or (K, J, I, C)
        Slice, row, column, and for vector fields the component; vectors are in LPS mm.
    affine : ndarray, shape (4, 4)
        ``(k, j, i, 1)`` to LPS mm at voxel centres.
    """

    array: np.ndarray
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.array.ndim not in (3, 4):
            raise GeometryError(f"expected an array (slices, rows, columns), got shape {self.array.shape}")
        object.__setattr__(self, "affine", self.grid.affine)

    @cached_property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.array.shape[:3], self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows, columns."""
        return self.grid.shape

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbours along k, j and i."""
        return self.grid.spacing

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return self.grid.voxel_ml

    def like(self, array: np.ndarray) -> Volume:
        """The same place with other values."""
        if array.shape[:3] != self.array.shape[:3]:
            raise GeometryError(f"expected shape {self.array.shape[:3]}, got {array.shape[:3]}")
        return replace(self, array=array)

    def reorient(self, codes: str) -> Volume:
        """The same voxels with axes laid along `codes`, such as ``'SPL'``; exact, nothing is resampled."""
        order, flips = self.grid.reorientation_to(codes)
        array = self.array.transpose(*order, *range(3, self.array.ndim))
        array = array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
        return Volume(np.ascontiguousarray(array), self.grid.reorient(codes).affine)

    def crop(self, box: Box) -> Volume:
        """The part of the volume in `box`; a view, not a copy."""
        return Volume(self.array[box], self.grid.crop(box).affine)

    def paste_into(self, grid: Grid, fill: float) -> Volume:
        """The inverse of `crop`: these values at their place in a larger grid, `fill` elsewhere.

        Raises
        ------
        GeometryError
            If the two grids do not share their voxel lattice or this one sticks out.
        """
        start = np.rint(grid.index(self.grid.world((0, 0, 0)))).astype(int)
        stop = start + self.shape
        inside = (start >= 0).all() and (stop <= grid.shape).all()
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        if not inside or not grid.crop((box[0], box[1], box[2])).same_as(self.grid):
            raise GeometryError("expected a part of the larger grid, voxel on voxel")
        array = np.full(grid.shape + self.array.shape[3:], fill, self.array.dtype)
        array[box] = self.array
        return Volume(array, grid.affine)

    def resample(self, grid: Grid, *, fill: float = np.nan, antialias: bool = True) -> Volume:
        """Values on another grid, by trilinear interpolation, as float32.

        Parameters
        ----------
        grid : Grid
            Where values are wanted.
        fill : float, optional
            Value outside this volume.
        antialias : bool, optional
            Where the new grid is coarser, first smooth along each axis with the Gaussian that brings a voxel
            of the present width to one of the new width.
        """
        from lungvq import _sampling

        to_index = _index_map(grid, self.grid)
        if _runs_along(to_index):
            return Volume(_resampled_along(self.array, to_index, grid.shape, fill, antialias), grid.affine)
        source = np.ascontiguousarray(self.array, np.float32)
        if antialias:
            source = _prefilter(source, to_index)
        beyond = np.float32(fill)
        if source.ndim == 3:
            return Volume(_sampling.resample_linear(source, to_index, grid.shape, beyond), grid.affine)
        planes = [
            _sampling.resample_linear(np.ascontiguousarray(source[..., c]), to_index, grid.shape, beyond)
            for c in range(source.shape[3])
        ]
        return Volume(np.stack(planes, axis=-1), grid.affine)

    def resample_labels(self, grid: Grid, *, fill: int = 0) -> Volume:
        """Labels on another grid: the value of the nearest voxel, in the same type."""
        from lungvq import _sampling

        array = _sampling.resample_nearest(self.array, _index_map(grid, self.grid), grid.shape, fill)
        return Volume(array, grid.affine)

    def through(
        self, displacement: Volume, grid: Grid, *, fill: float = np.nan, nearest: bool = False
    ) -> Volume:
        """These values as seen from another grid through a displacement field.

        Parameters
        ----------
        displacement : Volume
            (K, J, I, 3), mm, LPS; a point x of `grid` shows what lies at ``x + u(x)`` here.
        grid : Grid
            Where values are wanted.
        fill : float, optional
            Value where the field or this volume does not reach.
        nearest : bool, optional
            The value of the nearest voxel, for labels; otherwise trilinear.

        Returns
        -------
        Volume
            float32, or the type of this volume with `nearest`.
        """
        from lungvq import _sampling

        array = _sampling.warp(
            np.ascontiguousarray(self.array, np.float32),
            np.ascontiguousarray(np.linalg.inv(self.affine)[:3]),
            np.ascontiguousarray(displacement.array, np.float32),
            _index_map(grid, displacement.grid),
            np.ascontiguousarray(grid.affine[:3]),
            grid.shape,
            nearest,
            np.float32(fill),
        )
        return Volume(array.astype(self.array.dtype) if nearest else array, grid.affine)

    def sample(self, world: ArrayLike, *, fill: float = np.nan) -> NDArray[np.float32]:
        """Trilinear values at points ``(N, 3)`` in LPS mm: shape (N,), or (N, C) for a vector field."""
        from lungvq import _sampling

        index = np.ascontiguousarray(self.grid.index(world))
        source, beyond = np.ascontiguousarray(self.array, np.float32), np.float32(fill)
        if source.ndim == 3:
            return _sampling.sample_linear(source, index, beyond)
        planes = [
            _sampling.sample_linear(np.ascontiguousarray(source[..., c]), index, beyond)
            for c in range(source.shape[3])
        ]
        return np.stack(planes, axis=-1)


def _index_map(new: Grid, old: Grid) -> NDArray[np.float64]:
    """(3, 4): homogeneous index of `new` to index of `old`."""
    return np.ascontiguousarray((np.linalg.inv(old.affine) @ new.affine)[:3])


_COARSER = 1.01  # new voxels over old ones, from which it is worth smoothing first


def _smoothing(ratio: float) -> float:
    """Sigma of what makes a voxel `ratio` times as wide, in old voxels: the variances of both widths differ by it."""
    return float(np.sqrt((ratio * ratio - 1) / 12)) if ratio > _COARSER else 0.0


def _prefilter(array: np.ndarray, to_index: NDArray[np.float64]) -> np.ndarray:
    """Smooth each axis for a coarser grid."""
    from scipy.ndimage import gaussian_filter1d

    result = array
    for axis, ratio in enumerate(np.abs(to_index[:, :3]).max(axis=1)):
        if sigma := _smoothing(ratio):
            result = gaussian_filter1d(result, sigma, axis=axis, mode="nearest")
    return np.ascontiguousarray(result)


def _runs_along(to_index: NDArray[np.float64]) -> bool:
    """Whether a grid has the axes of another one."""
    steps = to_index[:, :3]
    return bool(np.abs(steps - np.diag(np.diag(steps))).max() < 1e-9)


def _resampled_along(
    array: np.ndarray,
    to_index: NDArray[np.float64],
    shape: tuple[int, int, int],
    fill: float,
    antialias: bool,
) -> NDArray[np.float32]:
    """What `_prefilter` and linear interpolation make of an array: along parallel axes, one step for both each."""
    from lungvq import _sampling

    lines = [
        _line(n, m, to_index[axis, axis], to_index[axis, 3], antialias)
        for axis, (n, m) in enumerate(zip(array.shape, shape, strict=False))
    ]
    needed = tuple(slice(int(first.min()), int(first.max()) + w.shape[1]) for first, w, _ in lines)
    part = np.ascontiguousarray(array[needed], np.float32)
    fewer = shape[2] < part.shape[2]
    for axis in (2, 1, 0) if fewer else (0, 1, 2):  # first what leaves less for the rest
        first, weights, _ = lines[axis]
        part = _sampling.weigh(part, axis, first - needed[axis].start, weights)
    for axis, (_, _, within) in enumerate(lines):
        np.moveaxis(part, axis, 0)[~within] = fill
    return part


def _line(
    n: int, m: int, step: float, start: float, antialias: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """How `m` new values come from `n` old ones along an axis: at ``start + step * index``.

    Returns
    -------
    first : ndarray of int, shape (m,)
        Of the old values that make a new one.
    weights : ndarray of float32, shape (m, W)
        Of that one and those behind it.
    within : ndarray of bool, shape (m,)
        Whether it lies within the outer faces of the old voxels.
    """
    from scipy.ndimage import gaussian_filter1d

    from lungvq import _sampling

    dense = _sampling.between(n, m, step, start)
    if antialias and (sigma := _smoothing(abs(step))):
        dense = dense @ gaussian_filter1d(np.eye(n), sigma, axis=0, mode="nearest")
    at = start + step * np.arange(m)
    within = (at >= -0.5) & (at <= n - 0.5)
    first, weights = _sampling.banded(dense)
    return first, weights, within
