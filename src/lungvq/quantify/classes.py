"""Shares of the V/Q and PRM classes in each region, and how they move with the threshold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from lungvq.anatomy import PRM_CLASSES, VQ_CLASSES
from lungvq.clinical.defects import LEAST_DEFECT_ML, large_clusters
from lungvq.clinical.vq import (
    JOINT_EDGES,
    SWEEP,
    classes_of_joint,
    joint_histogram,
    log_sd,
    relative_to_mean,
    sweep_mean,
    vq_log2,
)
from lungvq.quantify.function import CLEAN_RULE
from lungvq.quantify.regions import Region, Regions, Row, percent
from lungvq.volume import Volume

__all__ = ["class_rows", "prm_rows", "vq_rows"]

_SHOWN_THRESHOLDS = (0.40, 0.50, 0.70, 0.80)  # beside the default; between them the sweep's area speaks
_BANDS = {"low": (0.0, 0.5), "even": (0.8, 1.25), "high": (2.0, np.inf)}


def class_rows(
    regions: Iterable[Region],
    prefix: str,
    classes: dict[str, int],
    labels: np.ndarray,
    method: str,
    default: int = 1,
) -> Iterator[Row]:
    """Share of each class, in % of the voxels that have one, and for V/Q of all that are not normal.

    Parameters
    ----------
    labels : ndarray of uint8, shape (N,)
        Class of each voxel of the row; 0 none.
    """
    for region in regions:
        counts = np.bincount(labels[region.where], minlength=5)[1:]
        whole = float(counts.sum())
        for name, label in classes.items():
            share = percent(float(counts[label - 1]), whole)
            yield region.row(f"{prefix}_{name}_pct", share, "%", method, default)
        if prefix == "vq":
            abnormal = percent(whole - float(counts[classes["normal"] - 1]), whole)
            yield region.row("vq_abnormal_pct", abnormal, "%", method, default)


def prm_rows(regions: Regions, maps: dict[str, Volume]) -> Iterator[Row]:
    """PRM by its published filter, and by the one in space where it is given as ``prm_median3d``."""
    yield from class_rows(regions, "prm", PRM_CLASSES, regions.row(maps["prm"].array), "prm@1")
    if "prm_median3d" in maps:
        quiet = regions.row(maps["prm_median3d"].array)
        yield from class_rows(regions, "prm", PRM_CLASSES, quiet, "prm_median3d@1", 0)


def vq_rows(regions: Regions, maps: dict[str, Volume]) -> Iterator[Row]:
    """V/Q classes at the default threshold, cleaned, and over the sweep; the ratio; and the joint table."""
    labels = regions.row(maps["vq_class"].array)
    yield from class_rows(regions, "vq", VQ_CLASSES, labels, "mean60@1")
    clean = regions.row(_without_small(maps["vq_class"].array, regions))
    yield from class_rows(regions, "vq", VQ_CLASSES, clean, CLEAN_RULE, 0)
    v, q = relative_to_mean(regions.row(maps["ventilation"].array), regions.row(maps["perfusion"].array))
    log2 = vq_log2(v, q)
    for region in regions:
        own_v, own_q, own_log2 = v[region.where], q[region.where], log2[region.where]
        joint = joint_histogram(own_v, own_q, SWEEP)
        swept = [classes_of_joint(joint, at) for at in range(1, len(SWEEP) + 1)]
        for threshold in _SHOWN_THRESHOLDS:
            for name, share in swept[SWEEP.index(threshold)].items():
                yield region.row(f"vq_{name}_pct", share, "%", f"mean{round(100 * threshold)}@1", 0)
        for name in (*VQ_CLASSES, "abnormal"):
            area = sweep_mean([shares[name] for shares in swept])
            yield region.row(f"vq_{name}_sweep_pct", area, "%", "sweep40to80@1")
        known = own_log2[np.isfinite(own_log2)]
        for name, (low, high) in _BANDS.items():
            ratio = np.exp2(known)
            within = percent(float(((ratio >= low) & (ratio <= high)).sum()), known.size)
            yield region.row(f"vq_ratio_{name}_pct", within, "%", "vq_log2@1")
        for letter, weights in (("v", own_v), ("q", own_q)):
            yield region.row(f"vq_log_sd_{letter}", log_sd(np.log(2) * own_log2, weights), "1", "vq_log2@1")
    for region in regions.lungs_only():
        yield region.row("vq_correlation", _correlation(v[region.where], q[region.where]), "1", "pearson@1")
    both = next(regions.lungs_only())
    joint = joint_histogram(v, q, JOINT_EDGES)
    for row, counts in enumerate(joint, start=1):
        for column, count in enumerate(counts, start=1):
            share = percent(float(count), float(joint.sum()))
            yield both.row(f"vq_joint_v{row}q{column}_pct", share, "%", "lb_mean_fixed@1")


def _without_small(classes: np.ndarray, regions: Regions) -> np.ndarray:
    """V/Q classes with every cluster of a class that is smaller than a defect made normal."""
    clean = classes.copy()
    for name, number in VQ_CLASSES.items():
        if name != "normal":
            low = classes == number
            kept, _ = large_clusters(low, regions.lungs.array, regions.voxel_ml, LEAST_DEFECT_ML)
            clean[low & ~kept] = VQ_CLASSES["normal"]
    return clean


def _correlation(v: np.ndarray, q: np.ndarray) -> float:
    known = np.isfinite(v) & np.isfinite(q)
    if np.count_nonzero(known) < 2:
        return float("nan")
    x, y = (a[known] - a[known].mean(dtype=np.float64) for a in (v, q))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else float("nan")
