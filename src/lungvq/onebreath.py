"""What two scans of one breath cannot tell, taken out of a result.

Two reconstructions of one breath-hold may be run on request: then ventilation is zero within its error, and
densities, blood mass and emphysema are what one scan tells. But what is *relative* to ventilation is relative to
noise, and an "expiration" that is none makes healthy inspired lung, below -856 HU, look like trapped air.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from lungvq.anatomy import PRM_CLASSES
from lungvq.result import CaseResult

__all__ = ["without_breathing"]

_RELATIVE = tuple(
    f"ventilation_{name}"
    for name in (
        "fraction",
        "cv",
        "h",
        "skewness",
        "gini",
        "local_cv",
        "fractal",
        "voronoi_cv",
        "voronoi_within",
        "voronoi_low",
        "between",
        "gradient",
        "defect",
        "high",
    )
)
_TRAPPING = ("prm_normal", "prm_fsad", "laa856", "rvc856", "trapping_volume_exp")


def without_breathing(result: CaseResult) -> CaseResult:
    """A result of two scans without a breath between them, freed of what rests on one.

    Returns
    -------
    CaseResult
        With V/Q undefined, PRM without trapped air (0 where it said so; its class of normal lung is no more than
        lung without emphysema; shares of emphysema stay those of all lung that had a class) and empty values of all
        metrics that are relative to ventilation or tell trapped air.
    """
    told = result.metrics.copy()
    empty = told["metric"].map(
        lambda name: name.startswith(("vq_", *_TRAPPING)) or _of(name, _RELATIVE)  # not ventilation_hu or _ml
    )
    of_undefined = told["metric"] == "prm_undefined_pct"
    told.loc[of_undefined, "value"] = told[of_undefined].apply(_with_trapped(told), axis=1)
    told.loc[empty, ["value", "ci_low", "ci_high"]] = np.nan
    maps = dict(result.maps)
    prm = maps["prm"].array
    maps["prm"] = maps["prm"].like(np.where(prm == PRM_CLASSES["fsad"], 0, prm).astype(prm.dtype))
    maps["vq_class"] = maps["vq_class"].like(np.zeros_like(maps["vq_class"].array))
    for name in ("vq_log2", "ventilation_relative", "ventilation_detrended"):
        if name in maps:
            maps[name] = maps[name].like(np.full_like(maps[name].array, np.nan))
    return replace(result, maps=maps, metrics=told)


def _with_trapped(told: pd.DataFrame) -> Callable[[pd.Series], float]:
    """What of a region has no class of PRM once the class of trapped air is taken out of the map, %."""
    key = ["region", "zone_def", "method"]
    trapped = told[told["metric"] == "prm_fsad_pct"].set_index(key)["value"]

    def undefined(row: pd.Series) -> float:
        of_classed = trapped.get(tuple(row[key]), np.nan)
        return float(row["value"] + (100 - row["value"]) * np.nan_to_num(of_classed) / 100)

    return undefined


def _of(name: str, stems: tuple[str, ...]) -> bool:
    """Whether a metric is one of these or of their kind: the stem, or the stem and a word."""
    return any(name == stem or name.startswith(f"{stem}_") for stem in stems)
