"""Volumes, masses and CT numbers of each region, scan by scan, and expiration against inspiration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lungvq.clinical.density import PERCENTILES, low_attenuation_pct, percentile_hu, trapping_volume_pct
from lungvq.clinical.prm import EMPHYSEMA_HU, TRAPPING_HU, median_filter
from lungvq.hu import density
from lungvq.quantify.regions import Regions, Row
from lungvq.quantify.zones import zones_by_height
from lungvq.volume import Volume

__all__ = ["BreathHold", "carried_rows", "ratio_rows", "scan_rows"]

LAA_HU: dict[str, dict[str, float]] = {
    "insp": {"laa950_pct": EMPHYSEMA_HU, "laa910_pct": -910.0},
    "exp": {"laa856_pct": TRAPPING_HU},
}
"""Low attenuation areas of each breath-hold and their thresholds."""


@dataclass(frozen=True)
class BreathHold:
    """One scan with its labels, all on one grid, and how its CT numbers are corrected.

    `carina_mm` is the height of the carina in LPS, where it is known.
    """

    hu: Volume
    lungs: Volume
    lobes: Volume
    calibrate: Callable[[np.ndarray], np.ndarray]
    carina_mm: float | None = None

    def regions(self) -> Regions:
        """Its lungs, lobes and zones of equal height."""
        return Regions(self.lungs, self.lobes, zones_by_height(self.lungs))


def scan_rows(breath: BreathHold, regions: Regions, hold: str) -> Iterator[Row]:
    """What one scan tells by itself.

    Parameters
    ----------
    hold : str
        ``"insp"`` or ``"exp"``. Volume, air and mass of zones are left to `carried_rows` at inspiration, where a
        zone would not be the same tissue.
    """
    hu = breath.calibrate(regions.row(breath.hu.array))
    quiet = breath.calibrate(regions.row(median_filter(breath.hu.array, regions.inside, 3)))
    ml = regions.voxel_ml
    for region in regions:
        own = hu[region.where]
        if hold == "exp" or not region.zone_def:
            volume, mass = own.size * ml, float(density(own).sum(dtype=np.float64)) * ml
            yield region.row(f"volume_{hold}_ml", volume, "mL", "mask@1")
            yield region.row(f"mass_{hold}_g", mass, "g", "mask@1")
            yield region.row(f"air_{hold}_ml", volume - mass, "mL", "mask@1")
        mean = float(own.mean(dtype=np.float64)) if own.size else float("nan")
        yield region.row(f"mld_{hold}_hu", mean, "HU", "densitometry@1")
        for percent, value in zip(PERCENTILES, percentile_hu(own), strict=True):
            yield region.row(f"perc{percent}_{hold}_hu", value, "HU", "densitometry@1")
        for metric, threshold in LAA_HU[hold].items():
            yield region.row(metric, low_attenuation_pct(own, threshold), "%", "threshold@1")
            least = low_attenuation_pct(quiet[region.where], threshold)
            yield region.row(metric, least, "%", "threshold_median3d@1", 0)
        if not region.zone_def:
            yield region.row(f"trapping_volume_{hold}_pct", trapping_volume_pct(own), "%", "densitometry@1")


def carried_rows(breath: BreathHold, regions: Regions, jacobian: Volume, change: Volume) -> Iterator[Row]:
    """Inspiratory volume, mass and air of expiratory regions: the only meaning a zone's can have.

    Parameters
    ----------
    breath : BreathHold
        The expiration.
    jacobian, change : Volume
        Inspiratory volume, and mass gained, per mL of expiratory lung.
    """
    volume = regions.row(jacobian.array)
    mass = density(breath.calibrate(regions.row(breath.hu.array))) + regions.row(change.array)
    for region in regions:
        default = int(bool(region.zone_def))
        ml, g = (
            float(np.nansum(values[region.where], dtype=np.float64)) * regions.voxel_ml
            for values in (volume, mass)
        )
        yield region.row("volume_insp_ml", ml, "mL", "jacobian@1", default)
        yield region.row("mass_insp_g", g, "g", "mass_change@1", default)
        yield region.row("air_insp_ml", ml - g, "mL", "mass_change@1", default)


def ratio_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Expiration over inspiration, from the default rows of both scans.

    E/I of mean lung density is that of -1000 HU plus mass per volume, so that of a zone compares the same tissue.
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
        levels = [_over(b["mass"], b["volume"]) - 1 for b in (exp, insp)]
        yield Row(
            region, zone_def, "ei_volume_ratio", "ratio@1", 1, _over(exp["volume"], insp["volume"]), "1"
        )
        yield Row(region, zone_def, "ei_mld_ratio", "ratio@1", 1, _over(levels[0], levels[1]), "1")
        if not zone_def:
            change = value(region, "trapping_volume_exp_pct") - value(region, "trapping_volume_insp_pct")
            yield Row(region, zone_def, "rvc856_950_pct", "densitometry@1", 1, change, "%")


def _over(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
