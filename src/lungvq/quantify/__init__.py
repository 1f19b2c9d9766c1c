"""From maps and labels to one tidy table: a row per region, metric and method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lungvq.clinical.defects import DEFAULT_RULE
from lungvq.clinical.density import low_attenuation_pct
from lungvq.clinical.gravity import SUPINE
from lungvq.clinical.heterogeneity import cv, iqr_over_mean
from lungvq.clinical.vq import DEFECT_SHARE
from lungvq.quantify.classes import class_rows, prm_rows, vq_rows
from lungvq.quantify.density import LAA_HU, BreathHold, Levels, carried_rows, ratio_rows, scan_rows
from lungvq.quantify.function import DEFAULT_METHODS, function_rows
from lungvq.quantify.regions import Region, Regions, Row, percent
from lungvq.quantify.zones import ZONE_DEF, ZONE_DEFS, zones_by_height
from lungvq.volume import Volume

__all__ = [
    "COLUMNS",
    "DEFAULT_METHODS",
    "DEFECT_SHARE",
    "ZONE_DEF",
    "ZONE_DEFS",
    "BreathHold",
    "cv",
    "iqr_over_mean",
    "quantify",
    "zones_by_height",
]

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


def quantify(
    case: str,
    exp: BreathHold,
    insp: BreathHold,
    maps: dict[str, Volume],
    *,
    down: tuple[float, float, float] = SUPINE,
    others: Mapping[str, tuple[str, str]] | None = None,
    sigmas_mm: tuple[float, float] = (0.0, 0.0),
    intervals: Mapping[tuple[str, str], tuple[float, float]] | None = None,
) -> pd.DataFrame:
    """Every number of a case.

    Parameters
    ----------
    case : str
    exp, insp : BreathHold
        Each on its own grid, canonical order.
    maps : dict of str to Volume
        On the grid of `exp`; the names of `result.MAPS`, and ``prm_median3d`` where PRM was also taken after a
        median in space.
    down : tuple of float
        The way down in LPS.
    others : dict of str to (str, str), optional
        Maps of `maps` by other estimators: their quantity, ``ventilation`` or ``perfusion``, and method id.
    sigmas_mm : (float, float), optional
        Gaussians that ventilation and perfusion were averaged over, where they differ.
    intervals : dict, optional
        95 % intervals of default values, keyed (region, metric): for ``ci_low`` and ``ci_high``.

    Returns
    -------
    DataFrame
        With `COLUMNS`; ``qc`` still empty. Exactly one row with ``is_default == 1`` per region and metric; rows
        differ in region, zone definition, metric or method.

    Notes
    -----
    A fraction is 100 times the sum over the region by the sum over both lungs, signed, over defined
    voxels; ``*_undefined_pct`` says what share of a region is not defined. Volumes and masses at inspiration are
    those of the inspiratory masks for lungs and lobes, and carried through the Jacobian for zones, so that a
    zone is the same tissue in both scans. Densities of the inspiratory scan (LAA-950, percentiles) are counted on
    it, its zones by its own height.
    """
    expired, inspired = exp.regions(), insp.regions()
    levels = {
        "exp": Levels.of(exp.hu.array, exp, expired),
        "insp": Levels.of(insp.hu.array, insp, inspired),
    }
    rows = [
        *scan_rows(exp, expired, levels["exp"], "exp"),
        *scan_rows(insp, inspired, levels["insp"], "insp"),
    ]
    weighed = {r.region: r.value for r in rows if r.metric == "mass_insp_g" and r.is_default}
    rows += carried_rows(exp, expired, maps["jacobian"], maps["perfusion_ctp"], weighed)
    rows += ratio_rows(rows)
    air = next(r.value for r in rows if r.region == "both" and r.metric == "air_exp_ml" and r.is_default)
    rows += function_rows(expired, maps, air, down, others)
    rows += vq_rows(expired, maps, sigmas_mm)
    rows += prm_rows(expired, maps)
    rows += _other_zones({"exp": (exp, expired), "insp": (insp, inspired)}, levels, maps, rows)
    table = pd.DataFrame(rows, columns=Row._fields)
    table.insert(0, "case", case)
    known = intervals or {}
    none = np.nan, np.nan
    ends = [
        known.get((r.region, r.metric), none) if r.is_default and np.isfinite(r.value) else none for r in rows
    ]
    table["ci_low"], table["ci_high"] = (np.array(side, float) for side in zip(*ends, strict=True))
    table["qc"] = ""
    return table[COLUMNS]


def _other_zones(
    scans: Mapping[str, tuple[BreathHold, Regions]],
    levels: Mapping[str, Levels],
    maps: dict[str, Volume],
    rows: list[Row],
) -> Iterator[Row]:
    """The zone numbers that decisions are made on, by every definition but the default."""
    regions = scans["exp"][1]
    classes = {name: regions.by_slice(regions.row(maps[name].array), 5) for name in ("vq_class", "prm")}
    whole = {r.metric: r.value for r in rows if r.region == "both" and r.is_default}
    shares = [
        _Shares.of(name, regions, regions.row(maps[name].array), whole[f"{name}_fraction_pct"])
        for name in DEFAULT_METHODS
    ]
    for definition in ZONE_DEFS:
        if definition == ZONE_DEF:
            continue
        zones = {hold: own.zones(definition, breath.carina_mm) for hold, (breath, own) in scans.items()}
        expired, inspired = zones["exp"], zones["insp"]
        if expired is None or inspired is None:
            continue
        for hold, parts in (("exp", expired), ("insp", inspired)):
            for region, cells in parts:
                counts = levels[hold].counts[cells].sum(axis=0)
                if hold == "exp":
                    ml = float(counts.sum()) * regions.voxel_ml
                    yield region.row("volume_exp_ml", ml, "mL", "mask@1", 0)
                for metric, threshold in LAA_HU[hold].items():
                    low = low_attenuation_pct(levels[hold].hu, threshold, counts)
                    yield region.row(metric, low, "%", "threshold@1", 0)
        for share in shares:
            yield from share.rows(expired)
        for name, prefix, method in (("vq_class", "vq", DEFAULT_RULE), ("prm", "prm", "prm@1")):
            tallies = ((region, classes[name][cells].sum(axis=0)) for region, cells in expired)
            yield from class_rows(tallies, prefix, method, 0)


@dataclass(frozen=True)
class _Shares:
    """What fraction and defects of a zone are counted from.

    `counts` are, of each slice and part, how many voxels are not defined, kept, and in a defect; `sums` what their
    values add up to. `total` is NaN where a share of it means nothing, and `mean` where nothing can be low against
    it.
    """

    name: str
    counts: np.ndarray
    sums: np.ndarray
    total: float
    mean: float

    @staticmethod
    def of(name: str, regions: Regions, row: np.ndarray, whole_pct: float) -> _Shares:
        defined = np.isfinite(row)
        values = np.where(defined, row, 0)
        total = float(values.sum(dtype=np.float64))
        mean = total / max(int(defined.sum()), 1)
        labels = defined.astype(np.int8) + (defined & (values < DEFECT_SHARE * mean))
        counts, sums = regions.by_slice(labels, 3), regions.by_slice(labels, 1, values)[..., 0]
        return _Shares(name, counts, sums, total if np.isfinite(whole_pct) else float("nan"), mean)

    def rows(self, zones: list[tuple[Region, np.ndarray]]) -> Iterator[Row]:
        """Of each zone."""
        for region, cells in zones:
            n = self.counts[cells].sum(axis=0)
            share = percent(self.sums[cells].sum(), self.total)
            low = percent(n[2], n[1] + n[2]) if self.mean > 0 else float("nan")
            yield region.row(f"{self.name}_fraction_pct", share, "%", DEFAULT_METHODS[self.name], 0)
            yield region.row(f"{self.name}_defect_pct", low, "%", DEFAULT_RULE, 0)
