"""The voxels of the lungs in one row, and which of them belong to which region."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple, SupportsFloat

import numpy as np

from lungvq.anatomy import LOBES, LUNGS, ZONES
from lungvq.quantify.zones import ZONE_DEF, zone_table
from lungvq.volume import Volume

__all__ = ["Region", "Regions", "Row", "percent"]


_N_LUNGS, _N_LOBES, _N_ZONES = len(LUNGS) + 1, len(LOBES) + 1, len(ZONES) + 1


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
    lungs, lobes, zones : Volume
        Labels on one grid, in canonical order.
        The zones are those by default.
    """

    def __init__(self, lungs: Volume, lobes: Volume, zones: Volume) -> None:
        self.lungs, self._lobes, self._zones = lungs, lobes, zones
        self.inside = lungs.array > 0
        self.voxel_ml = lungs.voxel_ml
        self.lung, self.lobe, self.zone = (v.array[self.inside] for v in (lungs, lobes, zones))
        self._parts = self.lung * np.uint8(_N_LOBES * _N_ZONES) + self.lobe * np.uint8(_N_ZONES) + self.zone

    def row(self, array: np.ndarray) -> np.ndarray:
        """Values of the voxels in the lungs, shape (N,)."""
        return array[self.inside]

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
        counts = _counts(self._parts, (_N_LUNGS, _N_LOBES, _N_ZONES), labels, n, weights)
        by_lung, by_lobe = counts.sum(axis=(1, 2)), counts.sum(axis=(0, 2))
        yield Region("both"), by_lung.sum(axis=0)
        for name, label in LUNGS.items():
            yield Region(name), by_lung[label]
        for name, label in LOBES.items():
            yield Region(name), by_lobe[label]
        by_zone = counts.sum(axis=(0, 1))
        for number, name in enumerate(ZONES, start=1):
            yield Region(name, ZONE_DEF), by_zone[number]

    @cached_property
    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Which parts, of lung and lobe, there are; and for each voxel its slice and part, counted through."""
        part = self.lung * np.uint8(_N_LOBES) + self.lobe
        there = np.flatnonzero(np.bincount(part, minlength=_N_LUNGS * _N_LOBES))
        number = np.zeros(_N_LUNGS * _N_LOBES, np.int32)
        number[there] = np.arange(there.size)
        slices = np.repeat(np.arange(self.lungs.shape[0], dtype=np.int32), self.inside.sum(axis=(1, 2)))
        return there, slices * np.int32(there.size) + number[part]

    def by_slice(self, labels: np.ndarray, n: int, weights: np.ndarray | None = None) -> np.ndarray:
        """The numbers of `tally` for each slice and part: what `zones` of any definition add up from.

        Returns
        -------
        ndarray, shape (K, P, n)
        """
        there, cells = self._cells
        return _counts(cells, (self.lungs.shape[0], there.size), labels, n, weights)

    def zones(
        self, definition: str, carina_mm: float | None = None
    ) -> list[tuple[Region, np.ndarray]] | None:
        """Zones by another definition, those that there are (there is no left middle lobe).

        Returns
        -------
        list of (Region, ndarray of bool, shape (K, P)) or None
            And which slices of which parts each has; None where the definition needs a carina and none is known.
        """
        there, _ = self._cells
        lung, lobe = np.divmod(there, _N_LOBES)
        voxels = self.by_slice(np.zeros(self.lung.shape, np.uint8), 1)[..., 0]
        counts = np.stack([voxels[:, lung == label].sum(axis=1) for label in range(_N_LUNGS)], axis=1)
        table = zone_table(definition, counts, self.lungs.grid, carina_mm)
        if table is None:
            return None
        number = np.where(voxels > 0, table[:, lung, lobe], 0)
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
        lungs, lobes, zones = (
            Volume(np.ascontiguousarray(v.array[every]), affine)
            for v in (self.lungs, self._lobes, self._zones)
        )
        return Regions(lungs, lobes, zones), every

    def kept(self, every: tuple[slice, slice, slice]) -> np.ndarray:
        """Which voxels of the row are left after thinning, shape (N,)."""
        lattice = np.zeros(self.inside.shape, bool)
        lattice[every] = True
        return self.row(lattice)


def _counts(
    parts: np.ndarray, shape: tuple[int, ...], labels: np.ndarray, n: int, weights: np.ndarray | None
) -> np.ndarray:
    """How many voxels, or the sum of their weights, of each part and label: `shape` and a last axis of n."""
    place = parts if n == 1 else np.multiply(parts, n, dtype=np.intp)
    if n > 1:
        place += labels
    return np.bincount(place, weights, minlength=int(np.prod(shape)) * n).reshape(*shape, n)


def percent(part: SupportsFloat, whole: SupportsFloat) -> float:
    """100 times the share; NaN of nothing."""
    return 100 * float(part) / float(whole) if float(whole) else float("nan")
