"""Shares of the V/Q and PRM classes in each region, and how they move with the threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lungvq.anatomy import PRM_CLASSES, VQ_CLASSES
from lungvq.clinical.defects import LEAST_DEFECT_ML, REFERENCE_CUTS, REFERENCE_RULE, large_clusters
from lungvq.clinical.topology import MINKOWSKI, coarse_labels, minkowski_map
from lungvq.clinical.vq import (
    JOINT_EDGES,
    SWEEP,
    at_one_scale,
    classes_of_joint,
    joint_histogram,
    log_sd,
    relative_to_mean,
    sweep_mean,
    vq_log2,
)
from lungvq.quantify.function import CLEAN_RULE, THIN_MM
from lungvq.quantify.regions import Region, Regions, Row, percent
from lungvq.volume import Volume

__all__ = ["class_rows", "prm_rows", "vq_rows"]

_PER_ML = {
    "surface": ("cm2_per_ml", "cm2/mL", 0.01),
    "curvature": ("cm_per_ml", "cm/mL", 0.1),
    "euler": ("per_ml", "1/mL", 1.0),
}
_BLOCK_MM = 3.0  # slices are seldom thicker: surfaces compare only at one scale
_SHOWN_THRESHOLDS = (0.40, 0.50, 0.70, 0.80)  # beside the default; between them the sweep's area speaks
_CLASSES = {"vq": VQ_CLASSES, "prm": PRM_CLASSES}
_BANDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "low": lambda ratio: ratio < 0.5,
    "even": lambda ratio: (ratio >= 0.8) & (ratio <= 1.25),
    "high": lambda ratio: ratio > 2,
}


def class_rows(
    tallies: Iterable[tuple[Region, np.ndarray]], prefix: str, method: str, default: int = 1
) -> Iterator[Row]:
    """Share of each class, in % of the voxels that have one; for V/Q of all that are not normal, and for PRM how
    much has none, in % of all voxels.

    Parameters
    ----------
    tallies : iterable of (Region, ndarray, shape (5,))
        How many voxels have no class, class 1, 2, 3 and 4.
    prefix : str
        ``"vq"`` or ``"prm"``.
    """
    for region, counts in tallies:
        whole = float(counts[1:].sum())
        if prefix == "prm":
            undefined = percent(counts[0], float(counts.sum()))
            yield region.row("prm_undefined_pct", undefined, "%", method, default)
        for name, label in _CLASSES[prefix].items():
            yield region.row(f"{prefix}_{name}_pct", percent(counts[label], whole), "%", method, default)
        if prefix == "vq":
            abnormal = whole - float(counts[VQ_CLASSES["normal"]])
            yield region.row("vq_abnormal_pct", percent(abnormal, whole), "%", method, default)


def prm_rows(regions: Regions, maps: dict[str, Volume]) -> Iterator[Row]:
    """PRM by its published filter, and by the one in space where it is given as ``prm_median3d``."""
    yield from class_rows(regions.tally(regions.row(maps["prm"].array), 5), "prm", "prm@1")
    if "prm_median3d" in maps:
        quiet = regions.row(maps["prm_median3d"].array)
        yield from class_rows(regions.tally(quiet, 5), "prm", "prm_median3d@1", 0)
    yield from _topology(regions, maps["prm"].array)


def _topology(regions: Regions, prm: np.ndarray) -> Iterator[Row]:
    """Surface, its curvature and Euler number of each PRM class, per mL that has a class, on blocks of 3 mm."""
    coarse, box = regions.coarse(_BLOCK_MM)
    lungs = coarse.lungs
    blocks, _ = coarse_labels(prm[box], regions.lungs.spacing, _BLOCK_MM, len(PRM_CLASSES) + 1)
    blocks[lungs.array == 0] = 0
    alike = np.zeros(coarse.lung.shape, np.int32)
    classed = [float(n[0]) * coarse.voxel_ml for _, n in coarse.tally(alike, 1, coarse.row(blocks > 0))]
    for name, label in PRM_CLASSES.items():
        added = minkowski_map(blocks == label, lungs.spacing)
        for functional, own in zip(MINKOWSKI, added, strict=True):
            suffix, unit, scale = _PER_ML[functional]
            sums = coarse.tally(alike, 1, coarse.row(own))
            for (region, total), ml in zip(sums, classed, strict=True):
                density = scale * float(total[0]) / ml if ml else float("nan")
                yield region.row(f"prm_{name}_{functional}_{suffix}", density, unit, "prm_minkowski3mm@1")


def vq_rows(
    regions: Regions, maps: dict[str, Volume], sigmas_mm: tuple[float, float] = (0.0, 0.0)
) -> Iterator[Row]:
    """V/Q classes at the default threshold and cleaned; over the sweep; the ratio; and the joint table.

    `sigmas_mm` are the Gaussians that ventilation and perfusion were averaged over: the finer one is brought to the
    coarser one's scale, as for the map of classes.
    """
    labels = regions.row(maps["vq_class"].array)
    yield from class_rows(regions.tally(labels, 5), "vq", "mean60@1")
    clean = regions.row(_without_small(maps["vq_class"].array, regions))
    yield from class_rows(regions.tally(clean, 5), "vq", CLEAN_RULE, 0)
    # The rest on fewer voxels; relative to the means over all of them, as the classes are.
    thin, every = regions.thinned(THIN_MM)
    kept = regions.kept(every)
    ventilation, perfusion = (maps[name].array for name in ("ventilation", "perfusion"))
    both = (regions.row(x) for x in at_one_scale(ventilation, perfusion, regions.lungs, sigmas_mm))
    v, q = (relative[kept] for relative in relative_to_mean(*both))
    log2 = vq_log2(v, q)
    yield from _swept(thin, v, q)
    for region, where in thin:
        own = log2[where]
        ratio = np.exp2(own[np.isfinite(own)])
        for name, inside in _BANDS.items():
            within = percent(np.count_nonzero(inside(ratio)), ratio.size)
            yield region.row(f"vq_ratio_{name}_pct", within, "%", "vq_log2@1")
        for letter, weights in (("v", v), ("q", q)):
            spread = log_sd(np.log(2) * own, weights[where])
            yield region.row(f"vq_log_sd_{letter}", spread, "1", "vq_log2@1")
    for region, where in thin.each_lung():
        yield region.row("vq_correlation", _correlation(v[where], q[where]), "1", "pearson@1")
    joint = joint_histogram(v, q, JOINT_EDGES)
    for (row, column), count in np.ndenumerate(joint):
        share = percent(count, joint.sum())
        yield Region("both").row(f"vq_joint_v{row + 1}q{column + 1}_pct", share, "%", "lb_mean_fixed@1")


def _swept(regions: Regions, v: np.ndarray, q: np.ndarray) -> Iterator[Row]:
    """Shares of the classes at other thresholds, and their areas over the sweep."""
    cut_v, cut_q = (np.float32(REFERENCE_CUTS[name][0]) for name in ("ventilation", "perfusion"))
    for region, where in regions:
        joint = joint_histogram(v[where], q[where], SWEEP)
        swept = [classes_of_joint(joint, at) for at in range(1, len(SWEEP) + 1)]
        for threshold in _SHOWN_THRESHOLDS:
            for name, share in swept[SWEEP.index(threshold)].items():
                yield region.row(f"vq_{name}_pct", share, "%", f"mean{round(100 * threshold)}@1", 0)
        reference = joint_histogram(v[where] / cut_v, q[where] / cut_q, (1.0,))
        for name, share in classes_of_joint(reference, 1).items():
            yield region.row(f"vq_{name}_pct", share, "%", REFERENCE_RULE, 0)
        for name in (*VQ_CLASSES, "abnormal"):
            area = sweep_mean([shares[name] for shares in swept])
            yield region.row(f"vq_{name}_sweep_pct", area, "%", "sweep40to80@1")


def _without_small(classes: np.ndarray, regions: Regions) -> np.ndarray:
    """V/Q classes with every cluster of a class that is smaller than a defect made normal."""
    abnormal = classes > VQ_CLASSES["normal"]
    parts = np.where(abnormal, regions.lungs.array * np.uint8(len(VQ_CLASSES) + 1) + classes, np.uint8(0))
    kept, _ = large_clusters(abnormal, parts, regions.voxel_ml, LEAST_DEFECT_ML)
    return np.where(abnormal & ~kept, np.uint8(VQ_CLASSES["normal"]), classes)


def _correlation(v: np.ndarray, q: np.ndarray) -> float:
    known = np.isfinite(v) & np.isfinite(q)
    if np.count_nonzero(known) < 2:
        return float("nan")
    x, y = (a[known] - a[known].mean(dtype=np.float64) for a in (v, q))
    scale = float(np.sqrt(np.square(x).sum() * np.square(y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else float("nan")
