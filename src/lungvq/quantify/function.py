"""Ventilation and perfusion of each region: amounts, shares, unevenness and defects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from lungvq.anatomy import LUNGS
from lungvq.clinical.defects import DEFAULT_RULE, LEAST_DEFECT_ML, large_clusters, rules_of
from lungvq.clinical.gravity import depth_mm, detrended, gradient_pct_per_cm
from lungvq.clinical.heterogeneity import (
    PIECES_MM,
    SCALES_MM,
    CellSummary,
    between_share,
    cell_summary,
    cubes_of,
    cv,
    cv_beyond_error,
    fractal_dimension,
    gini,
    iqr_over_mean,
    local_cv,
    skewness,
    smoothed,
    voronoi_cells,
)
from lungvq.clinical.vq import DEFECT_SHARE
from lungvq.quantify.regions import Region, Regions, Row, percent
from lungvq.volume import Volume

__all__ = ["CLEAN_RULE", "DEFAULT_METHODS", "THIN_MM", "function_rows"]

DEFAULT_METHODS: dict[str, str] = {"ventilation": "hybrid@2", "perfusion": "blood_mass@1"}
"""Estimators of the maps that are counted."""

OTHER_METHODS: dict[str, tuple[str, str]] = {
    "ventilation_jacobian": ("ventilation", "jacobian@1"),
    "ventilation_hu": ("ventilation", "hu_ratio@1"),
    "ventilation_plain": ("ventilation", "air_gain@1"),
}
"""Other maps of the same quantity: that quantity and their estimator."""

CLEAN_RULE = "mean60_min1ml@1"
THIN_MM = 2.0
"""The maps are averages over 5 mm and more: beyond sums, shares and CV, voxels this far apart tell as much."""
_CELLS_THIN_MM = 4.0  # cells hold 8 mL

_HIGH_SHARE = 2.0
_NO_CELLS = CellSummary(*[float("nan")] * 4)
_UNITS = {"ventilation": "mL/mL", "perfusion": "1"}
_UNEVEN = 0.20  # a local CV above it is counted as uneven
_LEAST_AIR_CHANGE = 0.01  # of expired air: with less, shares of it are shares of noise


def function_rows(
    regions: Regions,
    maps: dict[str, Volume],
    expired_air_ml: float,
    down: tuple[float, float, float],
    others: Mapping[str, tuple[str, str]] | None = None,
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
    others : dict of str to (str, str)
        More maps: their quantity, ``ventilation`` or ``perfusion``, and the id of their method.
    """
    for name in DEFAULT_METHODS:
        values = regions.row(maps[name].array)
        yield from _row_by_row(regions, name, values, expired_air_ml)
        yield from _on_thinned(regions, name, maps, down)
        yield from _clusters(regions, name, maps[name], values)
    yield from _in_pieces(regions, maps)
    for name, (quantity, method) in {**OTHER_METHODS, **(others or {})}.items():
        if name in maps:
            in_ml = name in OTHER_METHODS  # in what unit the maps of others are is not known here
            yield from _beside(regions, quantity, method, regions.row(maps[name].array), in_ml)


def _row_by_row(regions: Regions, name: str, values: np.ndarray, expired_air_ml: float) -> Iterator[Row]:
    """Amounts, shares, CV, H and defects, on every voxel."""
    method = DEFAULT_METHODS[name]
    defined = np.isfinite(values)
    ordered = np.sort(values[defined])
    total = _sum(ordered)
    if name == "ventilation" and total * regions.voxel_ml < _LEAST_AIR_CHANGE * expired_air_ml:
        total = float("nan")
    mean = float(ordered.mean(dtype=np.float64)) if ordered.size else float("nan")
    rules = rules_of(name)
    cuts = [how.threshold(ordered) if mean > 0 else float("nan") for how in rules.values()]
    del ordered
    # What a voxel is below: each at the first of these that it does not reach; at the end those above all, and the
    # undefined ones.
    above = np.nextafter(np.float32(_HIGH_SHARE * mean), np.float32(np.inf))
    ends = np.array([*cuts, above], np.float32)
    order = np.argsort(ends)
    labels = np.searchsorted(ends[order], values, side="right").astype(np.uint8)
    labels[~defined] = ends.size + 1
    counted = regions.tally(labels, ends.size + 2)
    sums = regions.tally(labels, 1, np.where(defined, values, 0))
    for (region, where), (_, counts), (_, own_sum) in zip(regions, counted, sums, strict=True):
        own = values[where & defined]
        whole = float(own_sum[0]) if own.size else float("nan")  # where nothing is known, not nothing
        below = np.empty(ends.size)
        below[order] = np.cumsum(counts)[: ends.size]
        if name == "ventilation":
            yield region.row("ventilation_ml", whole * regions.voxel_ml, "mL", method)
        yield region.row(f"{name}_fraction_pct", percent(whole, total), "%", method)
        yield region.row(f"{name}_undefined_pct", percent(counts[-1], counts.sum()), "%", method)
        yield region.row(f"{name}_cv", cv(own), "1", method)
        yield region.row(f"{name}_h", iqr_over_mean(own), "1", method)
        shares = [
            percent(n, own.size) if mean > 0 else float("nan") for n in (*below[:-1], own.size - below[-1])
        ]
        for rule, low in zip(rules, shares[:-1], strict=True):
            yield region.row(f"{name}_defect_pct", low, "%", rule, int(rule == DEFAULT_RULE))
        yield region.row(f"{name}_high_pct", shares[-1], "%", "mean200@1")


def _beside(regions: Regions, quantity: str, method: str, values: np.ndarray, in_ml: bool) -> Iterator[Row]:
    """What another estimator of the same quantity says, beside the default."""
    known, one = np.isfinite(values), np.zeros(values.shape, np.uint8)
    sums, there = (regions.tally(one, 1, w) for w in (np.where(known, values, 0), known))
    whole = _sum(values[known])
    for (region, own), (_, voxels) in zip(sums, there, strict=True):
        total = float(own[0]) if voxels[0] else float("nan")
        if in_ml:
            yield region.row(f"{quantity}_ml", total * regions.voxel_ml, "mL", method, 0)
        share = percent(total, whole) if whole > 0 else float("nan")
        yield region.row(f"{quantity}_fraction_pct", share, "%", method, 0)


def _share_of(which: np.ndarray, mean: float) -> float:
    """%; NaN where there is no positive mean to be low or high against."""
    return percent(np.count_nonzero(which), which.size) if mean > 0 else float("nan")


def _on_thinned(
    regions: Regions, name: str, maps: dict[str, Volume], down: tuple[float, float, float]
) -> Iterator[Row]:
    """What depends on what lies nearby, or on height, and further numbers of unevenness."""
    method = DEFAULT_METHODS[name]
    thin, every = regions.thinned(THIN_MM)
    volume, errors = (np.ascontiguousarray(maps[n].array[every]) for n in (name, f"{name}_se"))
    local = thin.row(local_cv(volume, thin.lungs))
    scales = {mm: thin.row(smoothed(volume, thin.lungs, mm)) for mm in SCALES_MM}
    values, error = thin.row(volume), thin.row(errors)
    depth = thin.row(depth_mm(thin.lungs.grid, down))
    level = detrended(values, depth)
    mean = float(np.nanmean(values, dtype=np.float64)) if np.isfinite(values).any() else float("nan")
    flat = f"{method.partition('@')[0]}_detrended@1"
    for region, where in thin:
        where = where & np.isfinite(values)
        own = values[where]
        yield region.row(f"{name}_skewness", skewness(own), "1", method)
        yield region.row(f"{name}_gini", gini(own), "1", method)
        yield region.row(f"{name}_cv_corrected", cv_beyond_error(own, error[where]), "1", method)
        for mm, smooth in scales.items():
            yield region.row(f"{name}_cv_{mm}mm", cv(smooth[where]), "1", method)
        spread = local[where & np.isfinite(local)]
        low, middle, high = np.percentile(spread, (25, 50, 75)) if spread.size else [float("nan")] * 3
        yield region.row(f"{name}_local_cv", float(middle), "1", "cube20mm@1")
        yield region.row(f"{name}_local_cv_iqr", float(high - low), "1", "cube20mm@1")
        uneven = percent(np.count_nonzero(spread > _UNEVEN), spread.size)
        yield region.row(f"{name}_local_cv_high_pct", uneven, "%", "cube20mm@1")
        yield region.row(f"{name}_cv", cv(level[where]), "1", flat, 0)
        below = _share_of(level[where] < DEFECT_SHARE * mean, mean)
        yield region.row(f"{name}_defect_pct", below, "%", "mean60_detrended@1", 0)
    for region, where in thin.each_lung():
        where = where & np.isfinite(values)
        for kind, groups in (("lobes", thin.lobe), ("zones", thin.zone)):
            share = between_share(values[where], groups[where])
            yield region.row(f"{name}_between_{kind}_pct", share, "%", "variance_split@1")
        slope = gradient_pct_per_cm(values[where], depth[where])
        yield region.row(f"{name}_gradient_pct_per_cm", slope, "%/cm", "height@1")


def _in_pieces(regions: Regions, maps: dict[str, Volume]) -> Iterator[Row]:
    """What depends on how a lung is cut: the fractal dimension, and statistics over Voronoi cells of some 8 mL."""
    yield from _fractal(regions, maps)
    thin, every = regions.thinned(_CELLS_THIN_MM)
    points = _points(thin)
    of_lung = {lung: np.flatnonzero(thin.lung == label) for lung, label in LUNGS.items()}
    of_lung["both"] = np.arange(thin.lung.size)
    cells = _cells(points, thin)
    for name in DEFAULT_METHODS:
        values = thin.row(maps[name].array[every])
        defined = values[np.isfinite(values)]
        low = DEFECT_SHARE * float(defined.mean(dtype=np.float64)) if defined.size else float("nan")
        for lung in ("both", *LUNGS):
            own = of_lung[lung]
            summary = cell_summary(values[own], cells[own], low) if own.size else _NO_CELLS
            units = {"median": _UNITS[name], "cv": "1", "within_cv": "1", "low_pct": "%"}
            for kind, unit in units.items():
                value = getattr(summary, kind)
                yield Region(lung).row(f"{name}_voronoi_{kind}", value, unit, "voronoi20mm@2")


def _cells(points: np.ndarray, thin: Regions) -> np.ndarray:
    """The Voronoi cell of each voxel of the row, numbered through; none holds voxels of both lungs."""
    cells = np.zeros(len(points), int)
    count = 0
    for label in LUNGS.values():
        own = np.flatnonzero(thin.lung == label)
        if own.size:
            cells[own] = count + voronoi_cells(points[own], thin.voxel_ml)
            count = int(cells[own].max()) + 1
    return cells


def _fractal(regions: Regions, maps: dict[str, Volume]) -> Iterator[Row]:
    thin, every = regions.thinned(THIN_MM)
    points = _points(thin)
    cubes = {side: cubes_of(points, thin.lung, side) for side in PIECES_MM} if points.size else {}
    for name in DEFAULT_METHODS:
        values = thin.row(maps[name].array[every])
        for region, where in thin.each_lung():
            known = where & np.isfinite(values)
            pieces = {side: own[known] for side, own in cubes.items()}
            dimension = fractal_dimension(values[known], pieces, thin.voxel_ml)
            yield region.row(f"{name}_fractal_d", dimension, "1", "box_dispersion@1")


def _points(regions: Regions) -> np.ndarray:
    """Where the voxels of the row are, in mm from the first of the grid, shape (N, 3)."""
    points: np.ndarray = np.argwhere(regions.lungs.array > 0) @ regions.lungs.affine[:3, :3].T
    return points


def _clusters(regions: Regions, name: str, volume: Volume, values: np.ndarray) -> Iterator[Row]:
    """Defects of at least 1 mL: how many, how large the largest, and the share that is in them."""
    defined = np.isfinite(values)
    mean = float(values[defined].mean(dtype=np.float64)) if defined.any() else float("nan")
    with np.errstate(invalid="ignore"):
        low = volume.array < np.float32(DEFECT_SHARE * mean if mean > 0 else np.nan)
    kept, sizes = large_clusters(low, regions.lungs.array, regions.voxel_ml, LEAST_DEFECT_ML)
    # Label 0: not defined, 1: kept, 2: in a defect.
    for region, counts in regions.tally(defined.astype(np.int8) + (defined & regions.row(kept)), 3):
        share = percent(counts[2], counts[1] + counts[2]) if mean > 0 else float("nan")
        yield region.row(f"{name}_defect_pct", share, "%", CLEAN_RULE, 0)
    of_lung = {lung: sizes.get(label, []) for lung, label in LUNGS.items()}
    of_lung["both"] = [ml for own in sizes.values() for ml in own]
    there = {lung for lung, label in LUNGS.items() if (defined & (regions.lung == label)).any()} | {"both"}
    for lung, own in of_lung.items():
        told = mean > 0 and lung in there
        count, largest = (float(len(own)), max(own, default=0.0)) if told else (float("nan"),) * 2
        yield Region(lung).row(f"{name}_defect_count", count, "1", CLEAN_RULE)
        yield Region(lung).row(f"{name}_defect_largest_ml", largest, "mL", CLEAN_RULE)


def _sum(values: np.ndarray) -> float:
    return float(np.nansum(values, dtype=np.float64))
