"""Volumes, masses and CT numbers of each region, scan by scan, and expiration against inspiration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lungvq.anatomy import LUNGS
from lungvq.clinical.density import PERCENTILES, low_attenuation_pct, percentile_hu, trapping_volume_pct
from lungvq.clinical.prm import EMPHYSEMA_HU, TRAPPING_HU, median_filter
from lungvq.hu import density
from lungvq.quantify.regions import Region, Regions, Row
from lungvq.volume import Volume

__all__ = ["LAA_HU", "BreathHold", "Levels", "carried_rows", "ratio_rows", "scan_rows"]

LAA_HU: dict[str, dict[str, float]] = {
    "insp": {"laa950_pct": EMPHYSEMA_HU, "laa910_pct": -910.0},
    "exp": {"laa856_pct": TRAPPING_HU},
}
"""Low attenuation areas of each breath-hold and their thresholds."""


@dataclass(frozen=True)
class BreathHold:
    """One scan with its labels, all on one grid, and how its CT numbers are corrected.

    `carina_mm` is the height of the carina in LPS, where it is known; `small_vessels` the share of each voxel
    that is blood in small vessels, where it was measured; `free` calibrated HU of the lungs free of wall, defined
    beyond them on a grid of its own: what lungs hold is told by it.
    """

    hu: Volume
    lungs: Volume
    lobes: Volume
    calibrate: Callable[[np.ndarray], np.ndarray]
    carina_mm: float | None = None
    small_vessels: Volume | None = None
    free: Volume | None = None

    def regions(self) -> Regions:
        """Its lungs, lobes and zones of equal height."""
        return Regions(self.lungs, self.lobes)


class Levels(NamedTuple):
    """How often each CT number occurs: all that densities need.

    Parameters
    ----------
    counts : ndarray of int, shape (K, P, n)
        In each slice of each part, as `Regions.by_slice` has it.
    hu : ndarray, shape (n,)
        Calibrated.
    """

    counts: np.ndarray
    hu: np.ndarray

    @staticmethod
    def of(hu: np.ndarray, breath: BreathHold, regions: Regions) -> Levels:
        """Of CT numbers as scanned, int16 on the grid of the scan: a few thousand different ones."""
        row = regions.row(hu)
        lowest, highest = (int(row.min()), int(row.max())) if row.size else (0, 0)
        counts = regions.by_slice(row.astype(np.int32) - lowest, highest - lowest + 1)
        return Levels(counts, breath.calibrate(np.arange(lowest, highest + 1)))


def scan_rows(breath: BreathHold, regions: Regions, levels: Levels, hold: str) -> Iterator[Row]:
    """What one scan tells by itself.

    Parameters
    ----------
    levels : Levels
        Of the scan.
    hold : str
        ``"insp"`` or ``"exp"``. Volume, air and mass of zones are left to `carried_rows` at inspiration, where a
        zone would not be the same tissue.
    """
    hu = levels.hu
    mass_per_ml = density(hu.astype(np.float64))
    free_of_wall = _masses(breath, regions)
    for region, counts in regions.add_up(levels.counts):
        n = float(counts.sum())
        volume, mass = n * regions.voxel_ml, float(counts @ mass_per_ml) * regions.voxel_ml
        if hold == "exp" or not region.zone_def:
            yield region.row(f"volume_{hold}_ml", volume, "mL", "mask@1")
            weights = {"clear_of_wall@1": free_of_wall[region]} if free_of_wall else {}
            weights["mask@1"] = mass
            for method, weight in weights.items():
                default = int(method == next(iter(weights)))
                yield region.row(f"mass_{hold}_g", weight, "g", method, default)
                yield region.row(f"air_{hold}_ml", volume - weight, "mL", method, default)
        yield region.row(f"mld_{hold}_hu", 1000 * (_over(mass, volume) - 1), "HU", "densitometry@1")
        for percent, value in zip(PERCENTILES, percentile_hu(hu, counts=counts), strict=True):
            yield region.row(f"perc{percent}_{hold}_hu", value, "HU", "densitometry@1")
        for metric, threshold in LAA_HU[hold].items():
            yield region.row(metric, low_attenuation_pct(hu, threshold, counts), "%", "threshold@1")
        if not region.zone_def:
            share = trapping_volume_pct(hu, counts)
            yield region.row(f"trapping_volume_{hold}_pct", share, "%", "densitometry@1")
    if breath.small_vessels is not None:
        small = regions.row(breath.small_vessels.array)
        alike = np.zeros(small.shape, np.int32)
        for (region, blood), (_, count) in zip(
            regions.tally(alike, 1, small), regions.tally(alike, 1), strict=True
        ):
            yield region.row(
                "small_vessel_density", _over(float(blood[0]), float(count[0])), "mL/mL", "bv5@1"
            )
    quiet = Levels.of(median_filter(breath.hu.array, breath.lungs.array > 0, 3), breath, regions)
    for region, counts in regions.add_up(quiet.counts):
        for metric, threshold in LAA_HU[hold].items():
            least = low_attenuation_pct(quiet.hu, threshold, counts)
            yield region.row(metric, least, "%", "threshold_median3d@1", 0)


def _masses(breath: BreathHold, regions: Regions) -> dict[Region, float]:
    """Mass of each region free of wall, g; none where that was not looked at."""
    if breath.free is None:
        return {}
    mass = _tissue(breath, regions)
    sums = regions.tally(np.zeros(mass.shape, np.int32), 1, mass)
    return {region: float(g[0]) * regions.voxel_ml for region, g in sums}


def _tissue(breath: BreathHold, regions: Regions) -> np.ndarray:
    """g/mL of each voxel of the lungs, free of wall where that was looked at."""
    if breath.free is None:
        return density(breath.calibrate(regions.row(breath.hu.array)))
    return density(regions.row(breath.free.resample(breath.hu.grid, antialias=False).array))


def carried_rows(
    breath: BreathHold, regions: Regions, jacobian: Volume, change: Volume, mass_insp_g: Mapping[str, float]
) -> Iterator[Row]:
    """Inspiratory volume, mass and air of expiratory regions: the only meaning a zone's can have.

    Parameters
    ----------
    breath : BreathHold
        The expiration.
    jacobian, change : Volume
        Inspiratory volume, and mass gained, per mL of expiratory lung; nothing is added where they are NaN, and a
        region where all is has no numbers.
    mass_insp_g : dict of str to float
        What each lung weighs on the inspiration, keyed ``left`` and ``right``. Masses are scaled to it: the map of
        the change is an average that counts the rim of a lung less than it weighs.
    """
    volume = np.nan_to_num(regions.row(jacobian.array))
    mass = _tissue(breath, regions) + np.nan_to_num(regions.row(change.array))
    for lung, label in LUNGS.items():
        own = regions.lung == label
        carried = float(mass[own].sum(dtype=np.float64)) * regions.voxel_ml
        if carried > 0:
            mass[own] *= np.float32(mass_insp_g.get(lung, carried) / carried)
    alike = np.zeros(volume.shape, np.int32)
    sums = (regions.tally(alike, 1, weights) for weights in (volume, mass))
    for (region, ml), (_, g) in zip(*sums, strict=True):
        unit = regions.voxel_ml if ml[0] else float("nan")  # a lung that was not registered has no numbers
        volume_ml, mass_g = float(ml[0]) * unit, float(g[0]) * unit
        default = int(bool(region.zone_def))
        yield region.row("volume_insp_ml", volume_ml, "mL", "jacobian@1", default)
        yield region.row("mass_insp_g", mass_g, "g", "mass_carried@1", default)
        yield region.row("air_insp_ml", volume_ml - mass_g, "mL", "mass_carried@1", default)


def ratio_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Expiration over inspiration, from the default rows of both scans.

    E/I of mean lung density is that of a zone by -1000 HU plus mass per volume, so that it compares the same tissue.
    """
    known = {(r.region, r.metric): r for r in rows if r.is_default}

    def value(region: str, metric: str) -> float:
        row = known.get((region, metric))
        return row.value if row else float("nan")

    for region, metric in list(known):
        if metric != "volume_exp_ml":
            continue
        zone_def = known[region, metric].zone_def
        exp, insp = (
            {kind: value(region, f"{kind}_{hold}_{unit}") for kind, unit in (("volume", "ml"), ("mass", "g"))}
            for hold in ("exp", "insp")
        )
        if zone_def:
            levels = [_over(b["mass"], b["volume"]) - 1 for b in (exp, insp)]
        else:
            levels = [value(region, f"mld_{hold}_hu") for hold in ("exp", "insp")]
        yield Row(
            region, zone_def, "ei_volume_ratio", "ratio@1", 1, _over(exp["volume"], insp["volume"]), "1"
        )
        yield Row(region, zone_def, "ei_mld_ratio", "ratio@1", 1, _over(levels[0], levels[1]), "1")
        if not zone_def:
            change = value(region, "trapping_volume_exp_pct") - value(region, "trapping_volume_insp_pct")
            yield Row(region, zone_def, "rvc856_950_pct", "densitometry@1", 1, change, "%")


def _over(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
