"""From maps and labels to one tidy table: a row per region, metric and method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from lungvq.clinical.defects import DEFAULT_RULE
from lungvq.clinical.density import low_attenuation_pct
from lungvq.clinical.gravity import SUPINE
from lungvq.clinical.heterogeneity import cv, iqr_over_mean
from lungvq.clinical.vq import DEFECT_SHARE
from lungvq.quantify.classes import class_rows, prm_rows, vq_rows
from lungvq.quantify.density import LAA_HU, BreathHold, carried_rows, hu_levels, ratio_rows, scan_rows
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
    others: Mapping[str, tuple[str, str]] | None = None,
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
    rows += function_rows(expired, maps, air, down, others)
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
    inside = {"exp": exp.lungs.array > 0, "insp": insp.lungs.array > 0}
    holds = {"exp": exp, "insp": insp}
    levels = {hold: hu_levels(b.hu.array[inside[hold]], b.calibrate) for hold, b in holds.items()}
    row = {name: maps[name].array[inside["exp"]] for name in (*DEFAULT_METHODS, "vq_class", "prm")}
    counted = {r.metric: r.value for r in rows if r.region == "both" and r.is_default}
    for definition in ZONE_DEFS:
        zones = {hold: zones_of(definition, b.lungs, b.lobes, b.carina_mm) for hold, b in holds.items()}
        if definition == ZONE_DEF or any(z is None for z in zones.values()):
            continue
        regions = {
            hold: Regions(b.lungs, b.lobes, zone, definition)
            for hold, b in holds.items()
            if (zone := zones[hold]) is not None
        }
        for hold, (labels, hu) in levels.items():
            for region, counts in regions[hold].tally_zones(labels, hu.size):
                if hold == "exp":
                    ml = float(counts.sum()) * regions[hold].voxel_ml
                    yield region.row("volume_exp_ml", ml, "mL", "mask@1", 0)
                for metric, threshold in LAA_HU[hold].items():
                    yield region.row(
                        metric, low_attenuation_pct(hu, threshold, counts), "%", "threshold@1", 0
                    )
        for name, method in DEFAULT_METHODS.items():
            yield from _zone_shares(regions["exp"], name, method, row[name], counted[f"{name}_fraction_pct"])
        yield from class_rows(regions["exp"].tally_zones(row["vq_class"], 5), "vq", DEFAULT_RULE, 0)
        yield from class_rows(regions["exp"].tally_zones(row["prm"], 5), "prm", "prm@1", 0)


def _zone_shares(regions: Regions, name: str, method: str, values: np.ndarray, whole: float) -> Iterator[Row]:
    """Fraction and defects of the zones; `whole` is the fraction of both lungs, 100 or NaN."""
    defined = np.isfinite(values)
    known = np.where(defined, values, 0)
    total = float(known.sum(dtype=np.float64))
    mean = total / max(int(defined.sum()), 1)
    # Label 0: not defined, 1: kept, 2: in a defect.
    labels = defined.astype(np.int8) + (defined & (values < DEFECT_SHARE * mean))
    counts = regions.tally_zones(labels, 3)
    sums = regions.tally_zones(np.zeros(values.shape, bool), 1, known)
    for (region, n), (_, own) in zip(counts, sums, strict=True):
        share = percent(own[0], total) if np.isfinite(whole) else float("nan")
        low = percent(n[2], n[1] + n[2]) if mean > 0 else float("nan")
        yield region.row(f"{name}_fraction_pct", share, "%", method, 0)
        yield region.row(f"{name}_defect_pct", low, "%", DEFAULT_RULE, 0)
