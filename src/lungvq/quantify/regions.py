"""The voxels of the lungs in one row, and which of them belong to which region."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, SupportsFloat

import numpy as np

from lungvq.anatomy import LOBES, LUNGS, ZONES
from lungvq.quantify.zones import ZONE_DEF, slices_by_height, zone_table
from lungvq.volume import Volume

__all__ = ["Region", "Regions", "Row", "percent"]


_N_LUNGS, _N_LOBES = len(LUNGS) + 1, len(LOBES) + 1


class Row(NamedTuple):
    """One row of the table, but for the case, the interval and the QC state."""

    region: str
    zone_def: str
    metric: str
    method: str
    is_default: int
    value: float
    unit: str


class Region(NamedTuple):
    """The name of a region and, of a zone, its definition."""

    name: str
    zone_def: str = ""

    def row(self, metric: str, value: float, unit: str, method: str, default: int = 1) -> Row:
        """A row of the table about it."""
        return Row(self.name, self.zone_def, metric, method, default, value, unit)


class Regions:
    """The regions of one scan.

    Parameters
    ----------
    lungs, lobes : Volume
        Labels on one grid, in canonical order.
    zones : ndarray of uint8, shape (K, 3), optional
        The default zone of each slice outside the lungs (0), in the left and in the right one; else by their height.

    Notes
    -----
    Every region is made of whole slices of parts, a part being a lobe: what is counted for each slice of each part
    adds up to the numbers of any of them.
    """

    def __init__(self, lungs: Volume, lobes: Volume, zones: np.ndarray | None = None) -> None:
        self.lungs, self.lobes = lungs, lobes
        self.voxel_ml = lungs.voxel_ml
        self._voxels = np.flatnonzero(lungs.array)
        self.lung, self.lobe = self.row(lungs.array), self.row(lobes.array)
        part = self.lung * np.uint8(_N_LOBES) + self.lobe
        there = np.flatnonzero(np.bincount(part, minlength=_N_LUNGS * _N_LOBES))
        self._lung_of, self._lobe_of = np.divmod(there, _N_LOBES)
        number = np.zeros(_N_LUNGS * _N_LOBES, np.int32)
        number[there] = np.arange(there.size)
        slices, rows, columns = lungs.shape
        ends = np.searchsorted(self._voxels, np.arange(slices + 1) * rows * columns)
        self._cells = np.repeat(np.arange(slices, dtype=np.int32), np.diff(ends)) * np.int32(there.size)
        self._cells += number[part]
        self._size = np.bincount(self._cells, minlength=slices * there.size).reshape(slices, there.size)
        of_lung = [self._size[:, self._lung_of == label].sum(axis=1) for label in range(_N_LUNGS)]
        self._lung_size = np.stack(of_lung, axis=1)
        self._slice_zones = slices_by_height(self._lung_size) if zones is None else zones
        self._zone_of = self._slice_zones[:, self._lung_of]
        self.zone = self._zone_of.ravel()[self._cells]

    def row(self, array: np.ndarray) -> np.ndarray:
        """Values of the voxels in the lungs, shape (N,)."""
        return array.ravel()[self._voxels]

    def put(self, row: np.ndarray) -> Volume:
        """A map of the voxels' values, with 0 outside the lungs."""
        array = np.zeros(self.lungs.shape, row.dtype)
        array.ravel()[self._voxels] = row
        return self.lungs.like(array)

    def __iter__(self) -> Iterator[tuple[Region, np.ndarray]]:
        """Both lungs, each lung, each lobe, each zone, and which voxels of the row each has."""
        yield from self.each_lung()
        for name, label in LOBES.items():
            yield Region(name), self.lobe == label
        for number, name in enumerate(ZONES, start=1):
            yield Region(name, ZONE_DEF), self.zone == number

    def each_lung(self) -> Iterator[tuple[Region, np.ndarray]]:
        """Both lungs and each of them."""
        yield Region("both"), np.ones(self.lung.shape, bool)
        for name, label in LUNGS.items():
            yield Region(name), self.lung == label

    def tally(
        self, labels: np.ndarray, n: int, weights: np.ndarray | None = None
    ) -> Iterator[tuple[Region, np.ndarray]]:
        """For each region how many of its voxels have each label from 0 to n - 1, or the sums of their weights.

        Parameters
        ----------
        labels : ndarray of int or bool, shape (N,)
        weights : ndarray, shape (N,), optional
            Finite.
        """
        yield from self.add_up(self.by_slice(labels, n, weights))

    def by_slice(self, labels: np.ndarray, n: int, weights: np.ndarray | None = None) -> np.ndarray:
        """As `tally`, for each slice of each part.

        Returns
        -------
        ndarray, shape (K, P, n)
        """
        place = self._cells if n == 1 else np.multiply(self._cells, n, dtype=np.intp)
        if n > 1:
            place += labels
        return np.bincount(place, weights, minlength=self._size.size * n).reshape(*self._size.shape, n)

    def add_up(self, counts: np.ndarray) -> Iterator[tuple[Region, np.ndarray]]:
        """From numbers of each slice of each part to those of the regions, in the order of `__iter__`."""
        parts = counts.sum(axis=0)
        yield Region("both"), parts.sum(axis=0)
        for name, label in LUNGS.items():
            yield Region(name), parts[self._lung_of == label].sum(axis=0)
        for name, label in LOBES.items():
            yield Region(name), parts[self._lobe_of == label].sum(axis=0)
        for number, name in enumerate(ZONES, start=1):
            yield Region(name, ZONE_DEF), counts[self._zone_of == number].sum(axis=0)

    def zones(
        self, definition: str, carina_mm: float | None = None
    ) -> list[tuple[Region, np.ndarray]] | None:
        """Zones by another definition, those that there are (there is no left middle lobe).

        Returns
        -------
        list of (Region, ndarray of bool, shape (K, P)) or None
            And which slices of which parts each has; None where the definition needs a carina and none is known.
        """
        table = zone_table(definition, self._lung_size, self.lungs.grid, carina_mm)
        if table is None:
            return None
        number = np.where(self._size > 0, table[:, self._lung_of, self._lobe_of], 0)
        return [
            (Region(name, definition), number == n)
            for n, name in enumerate(ZONES, start=1)
            if (number == n).any()
        ]

    def thinned(self, spacing_mm: float) -> tuple[Regions, tuple[slice, slice, slice]]:
        """The same regions on every n-th voxel, about `spacing_mm` apart, and how to thin a map likewise.

        For what would take long on every voxel and gains nothing, in maps that are smooth over millimetres.
        """
        k, j, i = (max(1, round(spacing_mm / s)) for s in self.lungs.spacing)
        every = slice(None, None, k), slice(None, None, j), slice(None, None, i)
        affine = self.lungs.affine @ np.diag([k, j, i, 1.0])
        lungs, lobes = (
            Volume(np.ascontiguousarray(v.array[every]), affine) for v in (self.lungs, self.lobes)
        )
        return Regions(lungs, lobes, self._slice_zones[::k]), every

    def coarse(self, side_mm: float) -> tuple[Regions, tuple[slice, slice, slice]]:
        """The same regions on blocks of exactly `side_mm`, where voxels are not wider, and the box these begin in.

        The box is the voxels about the lungs; a block belongs to what the voxel in its middle belongs to.
        """
        plane = np.asarray(self.lungs.array.any(axis=0))
        used = (np.asarray(a.any(axis=n)) for a, n in ((self._lung_size[:, 1:], 1), (plane, 1), (plane, 0)))
        depth, height, width = (slice(a.argmax(), a.size - a[::-1].argmax()) for a in used)
        box = depth, height, width
        grid = self.lungs.grid.crop(box)
        steps = [max(1.0, side_mm / s) for s in grid.spacing]  # voxels of a block
        k, j, i = (
            np.minimum(((np.arange(np.ceil(n / step - 1e-6)) + 0.5) * step).astype(int), n - 1)
            for n, step in zip(grid.shape, steps, strict=True)
        )
        affine = grid.affine @ np.diag([*steps, 1.0])
        affine[:3, 3] += grid.affine[:3, :3] @ ((np.array(steps) - 1) / 2)
        middles = np.ix_(k, j, i)
        lungs, lobes = (Volume(v.array[box][middles], affine) for v in (self.lungs, self.lobes))
        return Regions(lungs, lobes, self._slice_zones[depth][k]), box

    def kept(self, every: tuple[slice, slice, slice]) -> np.ndarray:
        """Which voxels of the row are left after thinning, shape (N,)."""
        lattice = np.zeros(self.lungs.shape, bool)
        lattice[every] = True
        return self.row(lattice)


def percent(part: SupportsFloat, whole: SupportsFloat) -> float:
    """100 times the share; NaN of nothing."""
    return 100 * float(part) / float(whole) if float(whole) else float("nan")
