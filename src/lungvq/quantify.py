"""From maps and labels to one tidy table: a row per region and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lungvq.anatomy import LOBES, LUNGS, PRM_CLASSES, VQ_CLASSES, ZONES
from lungvq.hu import density
from lungvq.volume import Volume

__all__ = ["COLUMNS", "ZONE_DEF", "BreathHold", "cv", "iqr_over_mean", "quantify", "zones_by_height"]

COLUMNS = [
    "case",
    "region",
    "zone_def",
    "metric",
    "method",
    "is_default",
    "value",
    "ci_low",
    "ci_high",
    "unit",
    "qc",
]

ZONE_DEF = "equal_height_per_lung"
DEFECT_SHARE = 0.60
"""Below this share of the lungs' mean a voxel is a defect: about the mean less 2 SD of healthy lungs in two
independent xenon-MRI pipelines (0.566 and 0.600)."""
LAA_HU = -950.0
_LEAST_AIR_CHANGE = 0.01  # of expired air: with less, shares of it are shares of noise


def zones_by_height(lungs: Volume) -> Volume:
    """Six zones: each lung's extent from base to apex in thirds of equal height.

    Parameters
    ----------
    lungs : Volume
        1 left, 2 right, in canonical order (slices run to the head).

    Returns
    -------
    Volume
        uint8, 1 + the position in `anatomy.ZONES`; a slice belongs to the third its centre lies in.
    """
    zones = np.zeros(lungs.shape, np.uint8)
    for name, label in LUNGS.items():
        inside = lungs.array == label
        slices = np.flatnonzero(inside.any(axis=(1, 2)))
        if slices.size == 0:
            continue
        low, high = slices[0], slices[-1] + 1
        third = np.clip((np.arange(lungs.shape[0]) + 0.5 - low) * 3 // (high - low), 0, 2).astype(int)
        order = np.array([ZONES.index(f"{name}_{part}") + 1 for part in ("lower", "middle", "upper")])
        zones += inside * order[third].astype(np.uint8)[:, None, None]
    return lungs.like(zones)


def cv(values: np.ndarray) -> float:
    """Coefficient of variation, SD over mean; NaN without a positive mean.

    Examples
    --------
    >>> round(cv(np.array([1.0, 3.0])), 3)
    0.5
    """
    mean = float(values.mean(dtype=np.float64)) if values.size else 0.0
    return float(values.std(dtype=np.float64) / mean) if mean > 0 else float("nan")


def iqr_over_mean(values: np.ndarray) -> float:
    """Heterogeneity H, interquartile range over mean; NaN without a positive mean.

    Examples
    --------
    >>> iqr_over_mean(np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    1.0
    """
    mean = float(values.mean(dtype=np.float64)) if values.size else 0.0
    if mean <= 0:
        return float("nan")
    low, high = np.percentile(values, (25, 75))
    return float((high - low) / mean)


@dataclass(frozen=True)
class BreathHold:
    """One scan with its labels, all on one grid, and how its CT numbers are corrected."""

    hu: Volume
    lungs: Volume
    lobes: Volume
    calibrate: Callable[[np.ndarray], np.ndarray]


class _Regions:
    """The voxels of the lungs in one row, and which of them belong to each region."""

    def __init__(self, lungs: Volume, lobes: Volume) -> None:
        self.inside = lungs.array > 0
        self.voxel_ml = lungs.voxel_ml
        self._lung = lungs.array[self.inside]
        self._lobe = lobes.array[self.inside]
        self._zone = zones_by_height(lungs).array[self.inside]

    def row(self, array: np.ndarray) -> np.ndarray:
        """Values of the voxels in the lungs, shape (N,)."""
        return array[self.inside]

    def __iter__(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """(region, zone_def, which voxels) for all regions of the contract."""
        yield "both", "", np.ones(self._lung.shape, bool)
        for name, label in LUNGS.items():
            yield name, "", self._lung == label
        for name, label in LOBES.items():
            yield name, "", self._lobe == label
        for n, name in enumerate(ZONES, start=1):
            yield name, ZONE_DEF, self._zone == n


def quantify(case: str, exp: BreathHold, insp: BreathHold, maps: dict[str, Volume]) -> pd.DataFrame:
    """Every number of a case.

    Parameters
    ----------
    case : str
    exp, insp : BreathHold
        Each on its own grid, canonical order.
    maps : dict of str to Volume
        On the grid of `exp`; the names of `result.MAPS`.

    Returns
    -------
    DataFrame
        With `COLUMNS`; ``qc`` still empty. Exactly one row with ``is_default == 1`` per region and metric.

    Notes
    -----
    A fraction is 100 times the sum over the region by the sum over both lungs, signed, over defined voxels;
    ``*_undefined_pct`` says what share of a region is not defined. Volumes and masses at inspiration are
    those of the inspiratory masks for lungs and lobes, and carried through the Jacobian for zones, so that a
    zone is the same tissue in both scans. LAA-950 is counted on the inspiratory scan, its zones by its own
    height.
    """
    rows = [*_expiratory(exp, maps), *_inspiratory(insp), *_carried(exp, maps)]
    table = pd.DataFrame(
        rows, columns=["region", "zone_def", "metric", "method", "is_default", "value", "unit"]
    )
    table.insert(0, "case", case)
    table["ci_low"] = table["ci_high"] = np.nan
    table["qc"] = ""
    return table[COLUMNS]


_Row = tuple[str, str, str, str, int, float, str]


def _expiratory(exp: BreathHold, maps: dict[str, Volume]) -> Iterator[_Row]:
    regions = _Regions(exp.lungs, exp.lobes)
    mass = density(exp.calibrate(regions.row(exp.hu.array)))
    row = {name: regions.row(volume.array) for name, volume in maps.items()}
    expired = (
        regions.voxel_ml * float(regions.inside.sum()) - float(mass.sum(dtype=np.float64)) * regions.voxel_ml
    )
    v, q = row["ventilation"], row["perfusion"]
    mean_v, mean_q = _mean(v), _mean(q)
    total_v, total_q = float(np.nansum(v, dtype=np.float64)), float(np.nansum(q, dtype=np.float64))
    if abs(total_v * regions.voxel_ml) < _LEAST_AIR_CHANGE * expired:
        total_v = float("nan")
    for region, zone_def, where in regions:

        def out(metric: str, value: float, unit: str, method: str, default: int = 1) -> _Row:
            return region, zone_def, metric, method, default, value, unit  # noqa: B023 - used in this turn

        n = int(where.sum())
        yield out("volume_exp_ml", n * regions.voxel_ml, "mL", "mask@1")
        yield out("mass_exp_g", float(mass[where].sum(dtype=np.float64)) * regions.voxel_ml, "g", "mask@1")
        for name, method, default in (
            ("ventilation", "air_gain@1", 1),
            ("ventilation_jacobian", "jacobian@1", 0),
            ("ventilation_hu", "hu_ratio@1", 0),
        ):
            yield out("ventilation_ml", _sum(row[name][where]) * regions.voxel_ml, "mL", method, default)
        for name, values, mean, total, method in (
            ("ventilation", v[where], mean_v, total_v, "air_gain@1"),
            ("perfusion", q[where], mean_q, total_q, "blood_mass@1"),
        ):
            defined = values[np.isfinite(values)]
            yield out(f"{name}_fraction_pct", _percent(_sum(values), total), "%", method)
            yield out(f"{name}_cv", cv(defined), "1", method)
            yield out(f"{name}_h", iqr_over_mean(defined), "1", method)
            low = float("nan")
            if mean > 0:
                low = _percent(float((defined < DEFECT_SHARE * mean).sum()), defined.size)
            yield out(f"{name}_defect_pct", low, "%", "mean60@1")
            yield out(f"{name}_undefined_pct", _percent(n - defined.size, n), "%", method)
        yield from (
            out(*shares, "mean60@1") for shares in _class_shares("vq", VQ_CLASSES, row["vq_class"][where])
        )
        yield from (out(*shares, "prm@1") for shares in _class_shares("prm", PRM_CLASSES, row["prm"][where]))


def _class_shares(
    prefix: str, classes: dict[str, int], labels: np.ndarray
) -> Iterator[tuple[str, float, str]]:
    counts = np.bincount(labels, minlength=5)[1:]
    for name, label in classes.items():
        yield f"{prefix}_{name}_pct", _percent(float(counts[label - 1]), float(counts.sum())), "%"
    if prefix == "vq":
        abnormal = float(counts.sum() - counts[classes["normal"] - 1])
        yield f"{prefix}_abnormal_pct", _percent(abnormal, float(counts.sum())), "%"


def _inspiratory(insp: BreathHold) -> Iterator[_Row]:
    regions = _Regions(insp.lungs, insp.lobes)
    hu = insp.calibrate(regions.row(insp.hu.array))
    for region, zone_def, where in regions:
        own = hu[where]
        yield (
            region,
            zone_def,
            "laa950_pct",
            "threshold@1",
            1,
            _percent(float((own <= LAA_HU).sum()), own.size),
            "%",
        )
        if not zone_def:
            yield region, "", "volume_insp_ml", "mask@1", 1, own.size * regions.voxel_ml, "mL"
            mass = float(density(own).sum(dtype=np.float64)) * regions.voxel_ml
            yield region, "", "mass_insp_g", "mask@1", 1, mass, "g"


def _carried(exp: BreathHold, maps: dict[str, Volume]) -> Iterator[_Row]:
    """Inspiratory volume and mass of expiratory regions: the only meaning a zone's can have."""
    regions = _Regions(exp.lungs, exp.lobes)
    volume = regions.row(maps["jacobian"].array)
    mass = density(exp.calibrate(regions.row(exp.hu.array))) + regions.row(maps["perfusion_ctp"].array)
    for region, zone_def, where in regions:
        default = int(bool(zone_def))
        ml, g = _sum(volume[where]) * regions.voxel_ml, _sum(mass[where]) * regions.voxel_ml
        yield region, zone_def, "volume_insp_ml", "jacobian@1", default, ml, "mL"
        yield region, zone_def, "mass_insp_g", "mass_change@1", default, g, "g"


def _sum(values: np.ndarray) -> float:
    return float(np.nansum(values, dtype=np.float64))


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values, dtype=np.float64)) if np.isfinite(values).any() else float("nan")


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else float("nan")
