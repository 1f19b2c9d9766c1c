"""Defects: where a map is too low, by rules that do not agree with each other.

A defect percentage means nothing without its rule: on one cohort the same maps gave 7 to 25 % by four of them.
Each rule comes down to one value, below which a voxel of that map is a defect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects, label

from lungvq.clinical.vq import DEFECT_SHARE

__all__ = [
    "DEFAULT_RULE",
    "DEFECT_RULES",
    "REFERENCE_CUTS",
    "REFERENCE_RULE",
    "DefectRule",
    "kmeans_cuts",
    "large_clusters",
    "rules_of",
]

DEFAULT_RULE = "mean60@1"
LEAST_DEFECT_ML = 1.0
"""Clusters smaller than this are not counted."""


@dataclass(frozen=True)
class DefectRule:
    """How the threshold of a defect is found.

    Parameters
    ----------
    says : str
        The rule in words.
    threshold : callable
        From all defined values of both lungs, in ascending order, to the value below which a voxel is a defect.
    source : str
    """

    says: str
    threshold: Callable[[np.ndarray], float]
    source: str = ""


def _of_mean(share: float) -> Callable[[np.ndarray], float]:
    return lambda ordered: share * float(ordered.mean(dtype=np.float64))


def _of_p99(share: float) -> Callable[[np.ndarray], float]:
    return lambda ordered: share * float(np.percentile(ordered, 99))


def kmeans_cuts(ordered: np.ndarray, seeds: tuple[float, ...]) -> list[float]:
    """Values that part clusters found by k-means in one dimension (Lloyd's iteration to its end).

    Parameters
    ----------
    ordered : ndarray, shape (N,)
        Ascending.
    seeds : tuple of float
        First centres, as shares of the range from the lowest to the highest value.

    Returns
    -------
    list of float
        Midway between neighbouring centres, one fewer than `seeds`.

    Examples
    --------
    >>> kmeans_cuts(np.array([0.0, 1.0, 9.0, 10.0]), (0.25, 0.75))
    [5.0]
    """
    total = np.concatenate([[0.0], np.cumsum(ordered, dtype=np.float64)])
    low, high = float(ordered[0]), float(ordered[-1])
    centres = low + np.array(seeds) * (high - low)
    ends = None
    while True:
        cuts = ((centres[1:] + centres[:-1]) / 2).astype(ordered.dtype)  # else all values would be converted
        found = np.concatenate([[0], np.searchsorted(ordered, cuts), [ordered.size]])
        if ends is not None and np.array_equal(found, ends):
            return [float(c) for c in cuts]
        ends = found
        count = np.diff(ends)
        means = np.diff(total[ends]) / np.maximum(count, 1)
        centres = np.where(count > 0, means, centres)  # an empty cluster stays where it is


_FOUR, _FIVE = (0.2, 0.4, 0.6, 0.8), (1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6)


def _lowest(ordered: np.ndarray, seeds: tuple[float, ...]) -> np.ndarray:
    return ordered[: int(np.searchsorted(ordered, kmeans_cuts(ordered, seeds)[0]))]


def _hierarchical(ordered: np.ndarray) -> float:
    """Four clusters; the lowest again in four, of which the lower two are the defect."""
    lowest = _lowest(ordered, _FOUR)
    return kmeans_cuts(lowest, _FOUR)[1] if lowest.size else float(ordered[0])


def _adaptive(ordered: np.ndarray) -> float:
    """As many clusters and rounds as the share of voxels in the lowest tenth of the range asks for."""
    low, high = float(ordered[0]), float(ordered[-1])
    share = 100 * float(np.searchsorted(ordered, low + (high - low) / 10)) / ordered.size
    if share >= 10:
        return kmeans_cuts(ordered, _FOUR)[0]
    lowest = _lowest(ordered, _FIVE if share < 4 else _FOUR)
    if not lowest.size:
        return low
    return kmeans_cuts(lowest, _FOUR)[1 if share < 4 else 2]


_XENON = "Duke xenon-MRI consortium pipeline (MIT), cut-points of healthy volunteers"
DEFECT_RULES: dict[str, DefectRule] = {
    DEFAULT_RULE: DefectRule(
        "below 60 % of the mean", _of_mean(DEFECT_SHARE), "Roach 2022, Acad Radiol; xenon MRI"
    ),
    "mean75@1": DefectRule("below 75 % of the mean", _of_mean(0.75), "Roach 2022, Acad Radiol; xenon MRI"),
    "lb_mean_fixed@1": DefectRule(
        "below 33 % of the mean, the lowest of six fixed bins", _of_mean(0.33), "linear binning, xenon MRI"
    ),
    "glb_mean@1": DefectRule("below 56.56 % of the mean", _of_mean(0.5656), _XENON),
    "glb_p99@1": DefectRule("below 38.91 % of the 99th percentile", _of_p99(0.3891), f"He 2016; {_XENON}"),
    "kmeans_h@1": DefectRule(
        "lower half of the lowest of four k-means clusters, clustered again in four",
        _hierarchical,
        "Kirby 2012, Acad Radiol",
    ),
    "kmeans_adaptive@1": DefectRule(
        "k-means clusters and rounds by the share of voxels in the lowest tenth of the range",
        _adaptive,
        "Zha 2016, Acad Radiol",
    ),
    "pctmax@1": DefectRule("below 42 % of the 99th percentile", _of_p99(0.42), "habit of SPECT"),
}
"""The rules that are the same for every map, by their method ids, the default first."""


REFERENCE_RULE = "ref_quantile@1"
REFERENCE_CUTS: dict[str, tuple[float, ...]] = {
    "ventilation": (0.336, 0.699, 1.021, 1.294, 1.556),
    "perfusion": (0.628, 0.789, 0.986, 1.206, 1.465),
}
"""Quantiles (2.28, 15.87, 50, 84.13 and 97.72 %) of each map over its mean, pooled over six healthy phantoms:
``python tools/reference_quantiles.py --seeds 101 102 103 104 105 106``. The first parts defects from the rest: of a
healthy lung some 2 % lie below it, whatever the distribution's shape. Seven more (seeds 107 to 113, with perfusion as
it is without the rim of the lungs) have 0.25 to 0.37 for ventilation, 0.56 to 0.65 for perfusion, 0.322 and
0.612 on average: within what another six would have moved them by, so the cut-points stayed."""


def rules_of(name: str) -> dict[str, DefectRule]:
    """Every rule for one map, with its own cut-point where a rule has a reference.

    Parameters
    ----------
    name : str
        ``"ventilation"`` or ``"perfusion"``.

    Examples
    --------
    >>> rules_of("perfusion")[REFERENCE_RULE].threshold(np.array([1.0, 3.0]))
    1.256
    """
    cut = REFERENCE_CUTS[name][0]
    says = f"below {100 * cut:.1f} % of the mean, the lowest 2.28 % of healthy phantoms"
    return {**DEFECT_RULES, REFERENCE_RULE: DefectRule(says, _of_mean(cut), "own")}


def large_clusters(
    low: np.ndarray, parts: np.ndarray, voxel_ml: float, least_ml: float = LEAST_DEFECT_ML
) -> tuple[np.ndarray, dict[int, list[float]]]:
    """Connected clusters of at least a given size.

    Parameters
    ----------
    low : ndarray of bool, shape (K, J, I)
    parts : ndarray of uint8, the same shape
        Clusters end where this label changes (1 left, 2 right lung); 0 is outside.
    voxel_ml, least_ml : float

    Returns
    -------
    kept : ndarray of bool
        `low` without its small clusters.
    sizes : dict of int to list of float
        mL of the clusters of each part, the largest first.

    Notes
    -----
    Voxels are connected through faces.

    Examples
    --------
    >>> low = np.array([[[1, 1, 0, 1, 1, 1]]], bool)
    >>> kept, sizes = large_clusters(low, np.array([[[1, 1, 1, 1, 2, 2]]], np.uint8), voxel_ml=1, least_ml=2)
    >>> kept.astype(int).tolist(), sizes
    ([[[1, 1, 0, 0, 1, 1]]], {1: [2.0], 2: [2.0]})
    """
    kept = np.zeros(low.shape, bool)
    sizes: dict[int, list[float]] = {}
    for part, box in enumerate(find_objects(parts), start=1):
        if box is None:
            continue
        own = low[box] & (parts[box] == part)
        clusters = label(own)[0][own]
        ml = np.bincount(clusters) * voxel_ml
        large = ml >= least_ml
        kept[box][own] = large[clusters]
        sizes[part] = sorted((float(v) for v in ml[large]), reverse=True)
    return kept, sizes
