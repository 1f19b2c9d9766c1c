"""From maps and labels to one tidy table: a row per region, metric and method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from lungvq.anatomy import PRM_CLASSES, VQ_CLASSES
from lungvq.clinical.defects import DEFAULT_RULE
from lungvq.clinical.density import low_attenuation_pct
from lungvq.clinical.gravity import SUPINE
from lungvq.clinical.heterogeneity import cv, iqr_over_mean
from lungvq.clinical.vq import DEFECT_SHARE
from lungvq.quantify.classes import class_rows, prm_rows, vq_rows
from lungvq.quantify.density import LAA_HU, BreathHold, carried_rows, ratio_rows, scan_rows
from lungvq.quantify.function import DEFAULT_METHODS, function_rows
from lungvq.quantify.regions import Regions, Row, percent
from lungvq.quantify.zones import ZONE_DEF, ZONE_DEFS, zones_by_height, zones_of
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
    rows = [*scan_rows(exp, expired, "exp"), *scan_rows(insp, inspired, "insp")]
    rows += carried_rows(exp, expired, maps["jacobian"], maps["perfusion_ctp"])
    rows += ratio_rows(rows)
    air = next(r.value for r in rows if r.region == "both" and r.metric == "air_exp_ml")
    rows += function_rows(expired, maps, air, down)
    rows += vq_rows(expired, maps)
    rows += prm_rows(expired, maps)
    rows += _other_zones(exp, insp, maps, rows)
    table = pd.DataFrame(rows, columns=Row._fields)
    table.insert(0, "case", case)
    known = intervals or {}
    ends = [
        known.get((r.region, r.metric), (np.nan, np.nan)) if r.is_default else (np.nan, np.nan) for r in rows
    ]
    table["ci_low"], table["ci_high"] = (np.array(side, float) for side in zip(*ends, strict=True))
    table["qc"] = ""
    return table[COLUMNS]


def _other_zones(
    exp: BreathHold, insp: BreathHold, maps: dict[str, Volume], rows: list[Row]
) -> Iterator[Row]:
    """The zone numbers that decisions are made on, by every definition but the default."""
    known = {r.metric: r.value for r in rows if r.region == "both" and r.is_default}
    for definition in ZONE_DEFS:
        zones = [zones_of(definition, b.lungs, b.lobes, b.carina_mm) for b in (exp, insp)]
        if definition == ZONE_DEF or zones[0] is None or zones[1] is None:
            continue
        expired = Regions(exp.lungs, exp.lobes, zones[0], definition)
        inspired = Regions(insp.lungs, insp.lobes, zones[1], definition)
        for breath, regions, hold in ((exp, expired, "exp"), (insp, inspired, "insp")):
            hu = breath.calibrate(regions.row(breath.hu.array))
            for region in regions.zones_only():
                if hold == "exp":
                    ml = float(np.count_nonzero(region.where)) * regions.voxel_ml
                    yield region.row("volume_exp_ml", ml, "mL", "mask@1", 0)
                for metric, threshold in LAA_HU[hold].items():
                    low = low_attenuation_pct(hu[region.where], threshold)
                    yield region.row(metric, low, "%", "threshold@1", 0)
        for name, method in DEFAULT_METHODS.items():
            values = expired.row(maps[name].array)
            total = float(np.nansum(values, dtype=np.float64))
            mean = total / max(int(np.isfinite(values).sum()), 1)
            for region in expired.zones_only():
                own = values[region.where]
                share = percent(float(np.nansum(own, dtype=np.float64)), total)
                if np.isnan(known[f"{name}_fraction_pct"]):
                    share = float("nan")
                yield region.row(f"{name}_fraction_pct", share, "%", method, 0)
                low = percent(float((own < DEFECT_SHARE * mean).sum()), float(np.isfinite(own).sum()))
                yield region.row(
                    f"{name}_defect_pct", low if mean > 0 else float("nan"), "%", DEFAULT_RULE, 0
                )
        vq, prm = (expired.row(maps[name].array) for name in ("vq_class", "prm"))
        yield from class_rows(expired.zones_only(), "vq", VQ_CLASSES, vq, DEFAULT_RULE, 0)
        yield from class_rows(expired.zones_only(), "prm", PRM_CLASSES, prm, "prm@1", 0)
