"""The voxels of the lungs in one row, and which of them belong to which region."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import NamedTuple, SupportsFloat

import numpy as np

from lungvq.anatomy import LOBES, LUNGS, ZONES
from lungvq.quantify.zones import ZONE_DEF
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
        Labels on one grid.
    zone_def : str
        What the zones are.
    """

    def __init__(self, lungs: Volume, lobes: Volume, zones: Volume, zone_def: str = ZONE_DEF) -> None:
        self.lungs, self._lobes, self._zones, self._zone_def = lungs, lobes, zones, zone_def
        self.inside = lungs.array > 0
        self.voxel_ml = lungs.voxel_ml
        self.lung, self.lobe = (v.array[self.inside] for v in (lungs, lobes))
        self._set_zones(zones.array[self.inside])

    def with_zones(self, zones: Volume, zone_def: str) -> Regions:
        """The same lungs and lobes with other zones."""
        other = copy(self)
        other._zones, other._zone_def = zones, zone_def
        other._set_zones(zones.array[self.inside])
        return other

    def _set_zones(self, row: np.ndarray) -> None:
        self.zone = row
        self._zones_there = [bool((row == n).any()) for n in range(_N_ZONES)]

    def row(self, array: np.ndarray) -> np.ndarray:
        """Values of the voxels in the lungs, shape (N,)."""
        return array[self.inside]

    def __iter__(self) -> Iterator[tuple[Region, np.ndarray]]:
        """Both lungs, each lung, each lobe, each zone, and which voxels of the row each has."""
        yield from self.each_lung()
        for name, label in LOBES.items():
            yield Region(name), self.lobe == label
        for number, name in enumerate(ZONES, start=1):
            yield Region(name, self._zone_def), self.zone == number

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
        parts = self.lung * np.uint8(_N_LOBES * _N_ZONES) + self.lobe * np.uint8(_N_ZONES) + self.zone
        counts = _counts(parts, (_N_LUNGS, _N_LOBES, _N_ZONES), labels, n, weights)
        by_lung, by_lobe = counts.sum(axis=(1, 2)), counts.sum(axis=(0, 2))
        yield Region("both"), by_lung.sum(axis=0)
        for name, label in LUNGS.items():
            yield Region(name), by_lung[label]
        for name, label in LOBES.items():
            yield Region(name), by_lobe[label]
        yield from self._each_zone(counts.sum(axis=(0, 1)))

    def tally_zones(
        self, labels: np.ndarray, n: int, weights: np.ndarray | None = None
    ) -> Iterator[tuple[Region, np.ndarray]]:
        """The zones of `tally`; of those not by default only what there is (there is no left middle lobe)."""
        yield from self._each_zone(_counts(self.zone, (_N_ZONES,), labels, n, weights))

    def _each_zone(self, counts: np.ndarray) -> Iterator[tuple[Region, np.ndarray]]:
        for number, name in enumerate(ZONES, start=1):
            if self._zone_def == ZONE_DEF or self._zones_there[number]:
                yield Region(name, self._zone_def), counts[number]

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
        return Regions(lungs, lobes, zones, self._zone_def), every


def _counts(
    parts: np.ndarray, shape: tuple[int, ...], labels: np.ndarray, n: int, weights: np.ndarray | None
) -> np.ndarray:
    """How many voxels, or the sum of their weights, of each part and label: `shape` and a last axis of n."""
    place = parts.astype(np.intp) if n == 1 else parts.astype(np.intp) * n + labels
    return np.bincount(place, weights, minlength=int(np.prod(shape)) * n).reshape(*shape, n)


def percent(part: SupportsFloat, whole: SupportsFloat) -> float:
    """100 times the share; NaN of nothing."""
    return 100 * float(part) / float(whole) if float(whole) else float("nan")
