"""What the maps lose to a wrong motion (T2), to a wrong HU scale (T6) and to another day (T9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lungvq.bench.truth.seen import Arrays, Seen, look, maps_of, rank, smoothed
from lungvq.breath import Breath
from lungvq.clinical.heterogeneity import cv, iqr_over_mean
from lungvq.clinical.vq import DEFECT_SHARE
from lungvq.ctp import region_sigma
from lungvq.hu import Calibration
from lungvq.phantom import Phantom, rescan
from lungvq.regional import Neighbourhoods, carry
from lungvq.register import Registration
from lungvq.register.field import blur
from lungvq.volume import Volume

__all__ = ["IMPOSED_MM", "REPEATED", "RESTS_ON_HU", "SCALES_MM", "imposed_errors", "offset_cost", "repeated"]

IMPOSED_MM = (1.0, 2.0, 4.0)
"""Root mean square length of the errors added to the true motion."""

SCALES_MM = (10.0, 20.0)
"""Gaussian sigma of the noise that makes them: how smooth they are."""

RESTS_ON_HU = (
    ("ventilation", 8.0, "ventilation"),
    ("ventilation_hu", 8.0, "ventilation"),
    ("perfusion", 10.0, "perfusion"),
    ("perfusion_ctp", region_sigma(20.0), "mass_change"),
)
"""Maps held against a truth at a scale, mm."""

REPEATED = tuple(f"{name} {what}" for name in ("V", "Q") for what in ("CV", "H", "defect %"))

_OWN_MM = 5.0  # of the maps
_LIKELY_DEPTH = (0.93, 1.0)  # of the first breath in: about 200 mL less at most


def scores(maps: Arrays, seen: Seen) -> list[float]:
    """Rank correlation with the truth of each of `RESTS_ON_HU`; then, since ranks do not see what is off everywhere,
    how far the air gained is off in percent, and the mass change on average in mg/mL."""
    found = []
    for name, scale, true in RESTS_ON_HU:
        own = scale if name == "perfusion_ctp" else _OWN_MM
        more = float(np.sqrt(scale**2 - own**2))
        at = smoothed(maps[name], seen.lungs, more) if more > 0 else maps[name]
        target = smoothed(seen.truth[true], seen.lungs, scale)
        found.append(rank(at[seen.inside][::20], target[seen.inside][::20]))
    known = seen.inside & np.isfinite(maps["ventilation"])
    air, change = (seen.truth[name][known] for name in ("ventilation", "mass_change"))
    found.append(
        100 * float(maps["ventilation"][known].mean(dtype=np.float64) / air.mean(dtype=np.float64) - 1)
    )
    found.append(1000 * float(np.nanmean(maps["perfusion_ctp"][known] - change, dtype=np.float64)))
    return found


# ------------------------------------------------------------------------------------------------- wrong motion


def imposed_errors(seen: Seen) -> list[dict[str, float]]:
    """The true motion with errors of known size and smoothness, from none on.

    Returns
    -------
    list of dict
        ``mm``, ``scale_mm``; rank correlations with the truth of ventilation ``v8``, plain ``plain8`` and
        Jacobian ``j8`` at 8 mm and of the mass change ``m20``; ``m_covered``, the share of its 95 % intervals that
        hold the truth in percent, where the size of the error is known; ``folded`` in percent.
    """
    rows = [_with_error(seen, 0.0, SCALES_MM[0])]
    return rows + [_with_error(seen, mm, scale) for scale in SCALES_MM for mm in IMPOSED_MM]


def _with_error(seen: Seen, mm: float, scale_mm: float) -> dict[str, float]:
    wrong = wrong_motion(seen.phantom, seen.truly, mm, scale_mm) if mm > 0 else seen.truly
    maps = maps_of(seen.true_insp, seen.true_exp, wrong)
    more = float(np.sqrt(8.0**2 - _OWN_MM**2))
    target = smoothed(seen.truth["ventilation"], seen.lungs, 8.0)[seen.inside][::20]
    found = {"mm": mm, "scale_mm": scale_mm}
    for key, name in (
        ("v8", "ventilation"),
        ("plain8", "ventilation_plain"),
        ("j8", "ventilation_jacobian"),
    ):
        found[key] = rank(smoothed(maps[name], seen.lungs, more)[seen.inside][::20], target)
    change = smoothed(seen.truth["mass_change"], seen.lungs, region_sigma(20.0))[seen.inside]
    ours, error = (maps[name][seen.inside] for name in ("perfusion_ctp", "perfusion_ctp_se"))
    found["m20"] = rank(ours[::20], change[::20])
    found["m_covered"] = 100 * float(np.nanmean(np.abs(ours - change) <= 1.96 * error))
    found["folded"] = 100 * float((wrong.jacobian_raw.array[wrong.lungs.array > 0] <= 0).mean())
    return found


def wrong_motion(phantom: Phantom, truly: Registration, mm: float, scale_mm: float) -> Registration:
    """The true motion after a random one: ``phi(x + e(x))`` and its Jacobian, by the chain rule.

    `mm` is the root mean square of ``|e|`` in the lungs, whose standard error of J is what these errors make of it.
    """
    grid, inside = truly.lungs.grid, truly.lungs.array > 0
    rng = np.random.default_rng([phantom.seed, round(10 * mm), round(10 * scale_mm)])
    sigma = [scale_mm / s for s in grid.spacing]
    error = np.stack([blur(rng.normal(size=grid.shape).astype(np.float32), sigma) for _ in range(3)], axis=-1)
    error *= np.float32(mm / np.sqrt((error[inside] ** 2).sum(axis=-1).mean()))
    # Components x, y, z lie along the axes i, j, k of a canonical grid.
    slopes = [np.gradient(error[..., n], *grid.spacing) for n in range(3)]
    tensor = np.stack([np.stack([s[2], s[1], s[0]], axis=-1)[inside] for s in slopes], axis=-2)
    points = grid.world(np.argwhere(inside))
    moved = points + error[inside]
    displacement = truly.displacement.array.copy()
    displacement[inside] = phantom.phi(moved) - points
    jacobian = np.full(grid.shape, np.nan, np.float32)
    jacobian[inside] = phantom.jacobian_at(moved) * np.linalg.det(np.eye(3) + tensor)
    off = truly.lungs.like(np.nan_to_num(jacobian - truly.jacobian_raw.array))
    rms = np.sqrt((carry(Neighbourhoods(truly.lungs, 4.0).mean(off.array), truly.lungs)[inside] ** 2).mean())
    like = truly.lungs.like
    return replace(
        truly,
        displacement=truly.displacement.like(displacement),
        jacobian=like(jacobian),
        jacobian_raw=like(jacobian),
        jacobian_se=like(np.where(inside, np.float32(rms), np.float32(np.nan))),
    )


# --------------------------------------------------------------------------------------------------- wrong scale


def offset_cost(seen: Seen, maps: Arrays) -> dict[str, list[float]]:
    """`scores` of a scan whose CT numbers are off, calibrated (the default) and not, and of one without the error.

    The offset is that of the phantom's inspiration; the scan without it has the same noise and goes the whole way
    from segmentation on.
    """
    offset = seen.phantom.settings.insp.offset_hu
    right = seen.phantom.insp.array.astype(np.int32) - round(offset)
    twin = replace(seen.phantom, insp=seen.phantom.insp.like(np.maximum(right, -1024).astype(np.int16)))
    without = look(twin)
    as_scanned = maps_of(_uncalibrated(seen.insp), _uncalibrated(seen.exp), seen.registration)
    return {
        "without": scores(maps_of(without.insp, without.exp, without.registration), without),
        "calibrated": scores(maps, seen),
        "as scanned": scores(as_scanned, seen),
        "oracle": scores(maps_of(seen.true_insp, seen.true_exp, seen.truly), seen),
        "null": scores(
            dict.fromkeys((n for n, *_ in RESTS_ON_HU), seen.exp.ct.array.astype(np.float32)), seen
        ),
    }


def _null(seen: Seen) -> list[float]:
    """Expired density in place of every map: ranks alone mean something."""
    density = seen.exp.ct.array.astype(np.float32)
    return scores(dict.fromkeys((name for name, *_ in RESTS_ON_HU), density), seen)[: len(RESTS_ON_HU)]


def _uncalibrated(breath: Breath) -> Breath:
    return replace(breath, calibrate=Calibration())


# --------------------------------------------------------------------------------------------------- another day


def repeated(seen: Seen, maps: Arrays) -> dict[str, Any]:
    """The same subject scanned again: other noise, and a breath in that is a little less deep.

    Returns
    -------
    dict
        ``map`` and ``truth``: `REPEATED` of both days; ``r_ventilation``, ``r_perfusion``, ``r_density``: rank
        correlation of the maps of both days, and of the density they might come from.
    """
    depth = float(np.random.default_rng([seen.phantom.seed, 7]).uniform(*_LIKELY_DEPTH))
    again = look(rescan(seen.phantom, share=depth))
    later = maps_of(again.insp, again.exp, again.registration)
    density = [smoothed(s.exp.ct.array.astype(np.float32), s.lungs, _OWN_MM) for s in (seen, again)]
    values: dict[str, Any] = {
        "depth": depth,
        "map": [_told(m, s.exp.anatomy.lungs.array > 0) for m, s in ((maps, seen), (later, again))],
        "truth": [_told(_true_maps(s), s.lungs.array > 0) for s in (seen, again)],
        "r_density": _agree(seen, density[0], again, density[1]),
    }
    for name in ("ventilation", "perfusion"):
        values[f"r_{name}"] = _agree(seen, maps[name], again, later[name])
    return values


def _true_maps(seen: Seen) -> Arrays:
    return {n: smoothed(seen.truth[n], seen.lungs, _OWN_MM) for n in ("ventilation", "perfusion")}


def _told(maps: Mapping[str, np.ndarray], inside: np.ndarray) -> list[float]:
    """CV, H and share below 60 % of the mean, of ventilation and of perfusion."""
    found = []
    for name in ("ventilation", "perfusion"):
        own = maps[name][inside]
        own = own[np.isfinite(own)]
        low = 100 * float((own < DEFECT_SHARE * own.mean(dtype=np.float64)).mean())
        found += [cv(own), iqr_over_mean(own), low]
    return found


def _agree(seen: Seen, first: np.ndarray, again: Seen, second: np.ndarray) -> float:
    """Rank correlation of two maps on crops of one grid, where both are lung."""
    other = Volume(np.where(again.inside, second, np.nan).astype(np.float32), again.exp.ct.affine)
    start = np.rint(other.grid.index(seen.exp.ct.grid.world((0, 0, 0)))).astype(int)
    at = np.argwhere(seen.inside)[::20]
    there = at + start
    within = ((there >= 0) & (there < other.shape)).all(axis=1)
    return rank(first[tuple(at[within].T)], other.array[tuple(there[within].T)])
