"""The voxels of the lungs in one row, and which of them belong to which region."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lungvq.anatomy import LOBES, LUNGS, ZONES
from lungvq.quantify.zones import ZONE_DEF
from lungvq.volume import Volume

__all__ = ["Region", "Regions", "Row", "percent"]


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
    """One region: its name, the definition of its zone, if it is one, and which voxels of the row it has."""

    name: str
    zone_def: str
    where: np.ndarray

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
        self.lung, self.lobe, self.zone = (v.array[self.inside] for v in (lungs, lobes, zones))

    def row(self, array: np.ndarray) -> np.ndarray:
        """Values of the voxels in the lungs, shape (N,)."""
        return array[self.inside]

    def __iter__(self) -> Iterator[Region]:
        """Both lungs, each lung, each lobe, each zone."""
        yield from self.lungs_only()
        for name, label in LOBES.items():
            yield Region(name, "", self.lobe == label)
        yield from self.zones_only()

    def lungs_only(self) -> Iterator[Region]:
        """Both lungs and each of them."""
        yield Region("both", "", np.ones(self.lung.shape, bool))
        for name, label in LUNGS.items():
            yield Region(name, "", self.lung == label)

    def zones_only(self) -> Iterator[Region]:
        """Each zone that its definition knows of (there is no left middle lobe)."""
        for n, name in enumerate(ZONES, start=1):
            if self._zone_def == ZONE_DEF or (self.zone == n).any():
                yield Region(name, self._zone_def, self.zone == n)

    def thinned(self, spacing_mm: float) -> tuple[Regions, tuple[slice, slice, slice]]:
        """The same regions on every n-th voxel, about `spacing_mm` apart, and how to thin a map likewise.

        For what needs neighbourhoods of centimetres, in maps that are smooth over millimetres.
        """
        k, j, i = (max(1, round(spacing_mm / s)) for s in self.lungs.spacing)
        every = slice(None, None, k), slice(None, None, j), slice(None, None, i)
        affine = self.lungs.affine @ np.diag([k, j, i, 1.0])
        labels = (
            Volume(np.ascontiguousarray(v.array[every]), affine)
            for v in (self.lungs, self._lobes, self._zones)
        )
        lungs, lobes, zones = labels
        return Regions(lungs, lobes, zones, self._zone_def), every


def percent(part: float, whole: float) -> float:
    """100 times the share; NaN of nothing."""
    return 100 * part / whole if whole else float("nan")
