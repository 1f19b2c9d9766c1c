"""Ventilation and perfusion of each region: amounts, shares, unevenness and defects."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lungvq.clinical.defects import DEFAULT_RULE, DEFECT_RULES, LEAST_DEFECT_ML, large_clusters
from lungvq.clinical.gravity import detrended, gradient_pct_per_cm
from lungvq.clinical.heterogeneity import (
    SCALES_MM,
    between_share,
    cv,
    cv_beyond_error,
    gini,
    iqr_over_mean,
    local_cv,
    skewness,
    smoothed,
)
from lungvq.clinical.vq import DEFECT_SHARE
from lungvq.quantify.regions import Regions, Row, percent
from lungvq.volume import Volume

__all__ = ["DEFAULT_METHODS", "function_rows"]

DEFAULT_METHODS: dict[str, str] = {"ventilation": "air_gain@1", "perfusion": "blood_mass@1"}
"""Estimators of the maps that are counted."""

OTHER_METHODS: dict[str, tuple[str, str]] = {
    "ventilation_jacobian": ("ventilation", "jacobian@1"),
    "ventilation_hu": ("ventilation", "hu_ratio@1"),
}
"""Other maps of the same quantity: that quantity and their estimator."""

CLEAN_RULE = "mean60_min1ml@1"
_THIN_MM = 2.0  # the maps are averages over 5 mm and more: neighbourhoods need no finer voxels
_HIGH_SHARE = 2.0
_UNEVEN = 0.20  # a local CV above it is counted as uneven
_LEAST_AIR_CHANGE = 0.01  # of expired air: with less, shares of it are shares of noise


def function_rows(
    regions: Regions, maps: dict[str, Volume], expired_air_ml: float, down: tuple[float, float, float]
) -> Iterator[Row]:
    """Everything counted on one map at a time.

    Parameters
    ----------
    regions : Regions
        Of the expiration.
    maps : dict of str to Volume
        ``ventilation`` and ``perfusion``, their ``_se``, and any of `OTHER_METHODS`.
    expired_air_ml : float
        Air in both lungs: against less than 1 % of it, shares of ventilation are not defined.
    down : tuple of float
        The way down in LPS.
    """
    for name in DEFAULT_METHODS:
        yield from _row_by_row(regions, name, maps, expired_air_ml)
        yield from _neighbourhoods(regions, name, maps[name], down)
        yield from _clusters(regions, name, maps[name])
    for name, (quantity, method) in OTHER_METHODS.items():
        if name in maps:
            values = regions.row(maps[name].array)
            for region in regions:
                ml = _sum(values[region.where]) * regions.voxel_ml
                yield region.row(f"{quantity}_ml", ml, "mL", method, 0)


def _row_by_row(regions: Regions, name: str, maps: dict[str, Volume], expired_air_ml: float) -> Iterator[Row]:
    method = DEFAULT_METHODS[name]
    values = regions.row(maps[name].array)
    errors = regions.row(maps[f"{name}_se"].array)
    defined = np.isfinite(values)
    ordered = np.sort(values[defined])
    total = _sum(ordered)
    if name == "ventilation" and abs(total * regions.voxel_ml) < _LEAST_AIR_CHANGE * expired_air_ml:
        total = float("nan")
    mean = float(ordered.mean(dtype=np.float64)) if ordered.size else float("nan")
    thresholds = {
        rule: how.threshold(ordered) if mean > 0 else float("nan") for rule, how in DEFECT_RULES.items()
    }
    for region in regions:
        known = region.where & defined
        own = values[known]
        n = int(np.count_nonzero(region.where))
        if name == "ventilation":
            yield region.row("ventilation_ml", _sum(own) * regions.voxel_ml, "mL", method)
        yield region.row(f"{name}_fraction_pct", percent(_sum(own), total), "%", method)
        yield region.row(f"{name}_undefined_pct", percent(n - own.size, n), "%", method)
        for metric, value in (
            ("cv", cv(own)),
            ("h", iqr_over_mean(own)),
            ("skewness", skewness(own)),
            ("gini", gini(own)),
            ("cv_corrected", cv_beyond_error(own, errors[known])),
        ):
            yield region.row(f"{name}_{metric}", value, "1", method)
        for rule, threshold in thresholds.items():
            low = percent(float((own < threshold).sum()), own.size) if mean > 0 else float("nan")
            yield region.row(f"{name}_defect_pct", low, "%", rule, int(rule == DEFAULT_RULE))
        high = percent(float((own > _HIGH_SHARE * mean).sum()), own.size) if mean > 0 else float("nan")
        yield region.row(f"{name}_high_pct", high, "%", "mean200@1")


def _neighbourhoods(
    regions: Regions, name: str, volume: Volume, down: tuple[float, float, float]
) -> Iterator[Row]:
    """What depends on what lies nearby, or on height: on thinned voxels."""
    method = DEFAULT_METHODS[name]
    thin, every = regions.thinned(_THIN_MM)
    values = np.ascontiguousarray(volume.array[every])
    local = thin.row(local_cv(values, thin.lungs))
    scales = {mm: thin.row(smoothed(values, thin.lungs, mm)) for mm in SCALES_MM}
    row = thin.row(values)
    depth = _depth(thin, down)
    level = detrended(row, depth)
    mean = float(np.nanmean(row, dtype=np.float64)) if np.isfinite(row).any() else float("nan")
    flat = f"{method.partition('@')[0]}_detrended@1"
    for region in thin:
        for mm, smooth in scales.items():
            yield region.row(f"{name}_cv_{mm}mm", cv(_known(smooth[region.where])), "1", method)
        spread = _known(local[region.where])
        low, middle, high = np.percentile(spread, (25, 50, 75)) if spread.size else [float("nan")] * 3
        yield region.row(f"{name}_local_cv", float(middle), "1", "cube20mm@1")
        yield region.row(f"{name}_local_cv_iqr", float(high - low), "1", "cube20mm@1")
        uneven = percent(float((spread > _UNEVEN).sum()), spread.size)
        yield region.row(f"{name}_local_cv_high_pct", uneven, "%", "cube20mm@1")
        own = _known(level[region.where])
        yield region.row(f"{name}_cv", cv(own), "1", flat, 0)
        below = percent(float((own < DEFECT_SHARE * mean).sum()), own.size) if mean > 0 else float("nan")
        yield region.row(f"{name}_defect_pct", below, "%", "mean60_detrended@1", 0)
    for region in thin.lungs_only():
        known = region.where & np.isfinite(row)
        for kind, groups in (("lobes", thin.lobe), ("zones", thin.zone)):
            share = between_share(row[known], groups[known])
            yield region.row(f"{name}_between_{kind}_pct", share, "%", "variance_split@1")
        slope = gradient_pct_per_cm(row[known], depth[known])
        yield region.row(f"{name}_gradient_pct_per_cm", slope, "%/cm", "height@1")


def _clusters(regions: Regions, name: str, volume: Volume) -> Iterator[Row]:
    """Defects of at least 1 mL: how many, how large the largest, and the share that is in them."""
    values = volume.array
    defined = np.isfinite(values) & regions.inside
    mean = float(values[defined].mean(dtype=np.float64)) if defined.any() else float("nan")
    if not mean > 0:
        kept, sizes = np.zeros(values.shape, bool), None
    else:
        with np.errstate(invalid="ignore"):
            low = values < np.float32(DEFECT_SHARE * mean)
        kept, sizes = large_clusters(low, regions.lungs.array, regions.voxel_ml, LEAST_DEFECT_ML)
    row, known = regions.row(kept), regions.row(defined)
    for region in regions:
        n = float(np.count_nonzero(known & region.where))
        share = percent(float(np.count_nonzero(row & region.where)), n) if sizes is not None else float("nan")
        yield region.row(f"{name}_defect_pct", share, "%", CLEAN_RULE, 0)
    for region in regions.lungs_only():
        labels = np.unique(regions.lung[region.where])
        own = (
            sorted((ml for label in labels for ml in sizes.get(int(label), [])), reverse=True)
            if sizes
            else []
        )
        count, largest = (
            (float(len(own)), own[0] if own else 0.0) if sizes is not None else [float("nan")] * 2
        )
        yield region.row(f"{name}_defect_count", count, "1", CLEAN_RULE)
        yield region.row(f"{name}_defect_largest_ml", largest, "mL", CLEAN_RULE)


def _depth(regions: Regions, down: tuple[float, float, float]) -> np.ndarray:
    """How far down each voxel of the row lies, in mm."""
    index = np.argwhere(regions.inside).astype(np.float32)
    return index @ (regions.lungs.affine[:3, :3].T @ np.array(down)).astype(np.float32)


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _sum(values: np.ndarray) -> float:
    return float(np.nansum(values, dtype=np.float64))
