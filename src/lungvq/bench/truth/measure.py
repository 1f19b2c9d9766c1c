"""One phantom held against its truth: T0 to T9, nulls and oracles beside each accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from lungvq.anatomy import LOBES, LUNGS
from lungvq.bench.truth.robust import imposed_errors, offset_cost, repeated
from lungvq.bench.truth.seen import Arrays, Seen, look, lungs_of, maps_of, rank, smoothed
from lungvq.breath import Breath
from lungvq.ctp import region_sigma
from lungvq.hu import air_fraction, density
from lungvq.intervals import lobe_borders, region_intervals
from lungvq.maps import OPAQUE_Q
from lungvq.match import carry_lobes
from lungvq.pair import LungTotals, MatchedPair
from lungvq.perfusion import perfusion_terms
from lungvq.phantom import Phantom
from lungvq.phantom.place import lobes_at
from lungvq.phantom.subject import Samples, tissue_at
from lungvq.quantify import BreathHold
from lungvq.regional import LungField, Neighbourhoods, carry
from lungvq.register import Registration
from lungvq.ventilation import jacobian_gain, ventilation_terms
from lungvq.volume import CANONICAL, Volume
from lungvq.wall import lung_hu, wall_reach

__all__ = ["SHELLS_MM", "Values", "measure", "pointwise"]

SHELLS_MM = ((0.0, 3.0), (3.0, 10.0), (10.0, np.inf))
LOW = 0.60
_Z = 1.96

Values = dict[str, Any]


@dataclass(frozen=True)
class _Beside:
    """Our maps and those of the oracle, beside the truth.

    Parameters
    ----------
    seen : Seen
    maps, oracle : dict of str to ndarray
        By our own masks and motion, and by the true ones.
    blood : ndarray
        The true blood mass on the grid of ``seen.exp``, as no scanner blurs it; NaN outside and in opacities.
    """

    seen: Seen
    maps: Arrays
    oracle: Arrays
    blood: np.ndarray


def measure(phantom: Phantom, tests: str = "") -> Values:
    """Segment, register and estimate one phantom, and hold all of it against its truth.

    Parameters
    ----------
    tests : str
        Names of tests that take longer, of ``T2 T6 T9``: done only where asked for.

    Returns
    -------
    dict
        Plain numbers and lists of them. ``v5_``, ``v8_``, ``q10_``, ``m20_``: rank correlations with the truth at
        that scale of ``map``, ``oracle`` (true motion and masks) and nulls; ``t0_``: with densities of the truth
        itself; ``*_covered``: share of voxels, in percent, whose 95 % interval holds the truth; ``t2``, ``t6`` and
        ``t9`` as `robust` has them.
    """
    seen = look(phantom)
    insp, exp, registration = seen.insp, seen.exp, seen.registration
    found = seen.lobes
    lobes_exp = carry_lobes(registration, found.labels, exp.anatomy.lungs)
    ideal, values_t0 = pointwise(phantom, seen.truly.lungs)
    beside = _Beside(
        seen,
        maps_of(insp, exp, registration),
        maps_of(seen.true_insp, seen.true_exp, seen.truly),
        carry(ideal, seen.lungs),
    )
    borders = lobe_borders({f.name: f.uncertainty_mm for f in found.fissures.values()})
    values: Values = {
        "lungs_dice": [
            _dice(b.anatomy.lungs.array, lungs_of(t).array)
            for b, t in ((insp, seen.lobes_insp), (exp, seen.lobes_exp))
        ],
        "lobes_dice": [
            _dice(found.labels.array, seen.lobes_insp.array),
            _dice(found.labels.array, seen.lobes_insp.array, (LOBES["RML"],)),
        ],
        **_motion(phantom, registration, exp.ct, seen.inside),
        **_jacobian(phantom, registration),
        **values_t0,
        **_correlations(beside),
        **_coverage(beside),
        **_changes(beside),
        **_defects(beside),
        **_shares(beside, lobes_exp, borders),
        **_held(seen),
    }
    asked = tests.split()
    if "T2" in asked:
        values["t2"] = imposed_errors(seen)
    if "T6" in asked:
        values["t6"] = offset_cost(seen, beside.maps)
    if "T9" in asked:
        values["t9"] = repeated(seen, beside.maps)
    return values


def _motion(phantom: Phantom, found: Registration, ct: Volume, inside: np.ndarray) -> Values:
    points = ct.grid.world(np.argwhere(inside))
    error = np.linalg.norm(found.displacement.sample(points) - (phantom.phi(points) - points), axis=1)
    depth = distance_transform_edt(inside, sampling=ct.spacing)[inside]
    said = found.expected_error.sample(points)
    some = np.isfinite(said)
    return {
        "motion_mean": float(error.mean()),
        "motion_p95": float(np.percentile(error, 95)),
        "motion_shells": [_mean(error[(depth > a) & (depth <= b)]) for a, b in SHELLS_MM],
        "motion_said": float(np.sqrt((said[some] ** 2).mean() / (error[some] ** 2).mean())),
        "motion_rank": rank(said[some][::20], error[some][::20]),
    }


def _mean(values: np.ndarray) -> float:
    """NaN of nothing: voxels of more than 3 mm have none so near the pleura."""
    return float(values.mean()) if values.size else float("nan")


def _jacobian(phantom: Phantom, found: Registration) -> Values:
    """J and its standard error at the scale of `Registration.jacobian`, on the working grid."""
    lungs = lungs_of(phantom.truth.lobes_exp.reorient(CANONICAL).resample_labels(found.lungs.grid))
    true = lungs.array > 0
    raw = np.zeros(lungs.shape, np.float32)
    raw[true] = phantom.jacobian_at(lungs.grid.world(np.argwhere(true)))
    smooth = carry(Neighbourhoods(lungs, 4.0).mean(raw), lungs)
    both = true & (found.lungs.array > 0)
    error = found.jacobian.array[both] - smooth[both]
    return {
        "j_r": float(np.corrcoef(found.jacobian.array[both], smooth[both])[0, 1]),
        "j_rms_pct": 100 * float(np.sqrt((error**2).mean()) / smooth[both].mean()),
        "j_covered": _covered(error, found.jacobian_se.array[both]),
    }


def pointwise(phantom: Phantom, lungs: Volume) -> tuple[LungField, Values]:
    """T0: true motion, and densities of the tissue itself without scanner or vessels. Also the true blood mass.

    The blood mass is NaN in opacities, where density is not blood.
    `lungs` are the true ones at expiration, on any grid in canonical order.
    """
    inside = lungs.array > 0
    points = lungs.grid.world(np.argwhere(inside))
    subject = phantom.subject
    labels, depth, fissure, jac = lobes_at(subject.shape, subject.motion, np.ascontiguousarray(points, float))
    parts = tissue_at(subject.tissue, subject.territory, Samples(points, labels, depth, fissure, jac))
    exp = parts[:, 0] + parts[:, 1]
    change = parts[:, 2]
    insp = (exp + change) / jac

    def full(row: np.ndarray) -> Volume:
        array = np.zeros(lungs.shape, np.float32)
        array[inside] = row
        return lungs.like(array)

    totals = []
    for volume, mass in ((jac, jac * insp), (np.ones_like(jac), exp)):
        of = {}
        for name, label in LUNGS.items():
            here = lungs.array[inside] == label
            ml, g = (float(x[here].sum()) * lungs.voxel_ml for x in (volume, mass))
            of[name] = LungTotals(ml, ml - g, g)
        totals.append(of)
    sure = lungs.like(np.zeros(lungs.shape, np.float32))
    hu = full(1000 * (exp - 1)), full(1000 * (insp - 1))
    pair = MatchedPair(hu[0], hu[1], full(jac), lungs, totals[0], totals[1], sure, lungs.like(inside))
    air, blood = ventilation_terms(pair), perfusion_terms(pair)
    gain = jac * air_fraction(1000 * (insp - 1)) - air_fraction(1000 * (exp - 1))
    near, far = Neighbourhoods(lungs, 5.0), Neighbourhoods(lungs, region_sigma(20.0))

    def at(field: Any) -> np.ndarray:
        return carry(field, lungs)[inside]

    v, v_true = at(air.air_insp) - at(air.air_exp), at(near.mean(full(gain).array))
    j = jacobian_gain(at(air.jacobian)) - at(near.mean(full(change).array))
    m, m_true = at(blood.change), at(far.mean(full(change).array))
    gained = sum(totals[0][n].air_ml - totals[1][n].air_ml for n in LUNGS)
    size = float(np.sqrt((m_true**2).mean()))
    clear = {
        lung: part.like(np.where(blood.density_exp[lung].array > OPAQUE_Q, np.float32(np.nan), part.array))
        for lung, part in blood.blood.items()
    }
    return clear, {
        "t0_v": rank(v[::20], v_true[::20]),
        "t0_j": rank(j[::20], v_true[::20]),
        "t0_v_bias_pct": 100 * float(v.mean() / v_true.mean() - 1),
        "t0_j_bias_pct": 100 * float(j.mean() / v_true.mean() - 1),
        "t0_m_error_pct": 100 * float(np.sqrt(((m - m_true) ** 2).mean())) / size if size > 1e-6 else 0.0,
        "t0_sum_pct": 100 * abs(float(gain.sum()) * lungs.voxel_ml / gained - 1),
    }


def _correlations(beside: _Beside) -> Values:
    """Rank correlations with the truth, nulls beside."""
    seen, maps, oracle = beside.seen, beside.maps, beside.oracle
    exp, lungs, inside, truth = seen.exp, seen.lungs, seen.inside, seen.truth
    height = _height(exp.ct)
    values: Values = {}
    own = 5.0  # mm, of the maps
    for prefix, scale, true, names in (
        (
            "v5",
            5.0,
            "ventilation",
            ("ventilation", "ventilation_plain", "ventilation_hu", "ventilation_jacobian"),
        ),
        (
            "v8",
            8.0,
            "ventilation",
            ("ventilation", "ventilation_plain", "ventilation_hu", "ventilation_jacobian"),
        ),
        ("q10", 10.0, "perfusion", ("perfusion",)),
    ):
        target = smoothed(truth[true], lungs, scale)
        more = np.sqrt(scale**2 - own**2)

        def r(array: np.ndarray, sigma: float, target: np.ndarray = target) -> float:
            at = smoothed(array, lungs, sigma) if sigma > 0 else array
            return rank(at[inside][::20], target[inside][::20])

        values[f"{prefix}_map"], values[f"{prefix}_oracle"] = (
            r(maps[names[0]], more),
            r(oracle[names[0]], more),
        )
        for name in names[1:]:
            values[f"{prefix}_{name.removeprefix('ventilation_')}"] = r(maps[name], more)
        values[f"{prefix}_density"] = r(exp.ct.array.astype(np.float32), scale)
        values[f"{prefix}_height"] = r(height, 0)
    target = smoothed(truth["perfusion"], lungs, region_sigma(20.0))
    for kind, source in (("map", maps), ("oracle", oracle)):
        values[f"ctp_flow_{kind}"] = rank(np.abs(source["perfusion_ctp"])[inside][::20], target[inside][::20])
    return values


def _height(ct: Volume) -> np.ndarray:
    """A ramp from front to back: what gravity alone would do to a supine lung."""
    ramp = np.arange(ct.shape[1], dtype=np.float32)[None, :, None]
    return np.broadcast_to(ramp, ct.shape)


def _covered(error: np.ndarray, standard_error: np.ndarray) -> float:
    """Percent of errors within 1.96 standard errors."""
    known = np.isfinite(error) & np.isfinite(standard_error)
    return 100 * float((np.abs(error[known]) <= _Z * standard_error[known]).mean())


def _coverage(beside: _Beside) -> Values:
    maps, lungs, inside, truth = beside.maps, beside.seen.lungs, beside.seen.inside, beside.seen.truth
    v = smoothed(truth["ventilation"], lungs, 5.0)
    m = smoothed(truth["mass_change"], lungs, region_sigma(20.0))
    blood, q = beside.blood[inside], maps["perfusion"][inside]
    known = np.isfinite(blood) & np.isfinite(q)
    q_error = q[known] / q[known].mean() - blood[known] / blood[known].mean()
    return {
        "q_covered": _covered(q_error, maps["perfusion_se"][inside][known]),
        "q_rms": float(np.sqrt((q_error**2).mean())),
        "q_said": float(np.sqrt(np.nanmean(maps["perfusion_se"][inside] ** 2))),
        "v_covered": _covered((maps["ventilation"] - v)[inside], maps["ventilation_se"][inside]),
        "v_rms": float(np.sqrt(np.nanmean((maps["ventilation"] - v)[inside] ** 2))),
        "m_covered": _covered((maps["perfusion_ctp"] - m)[inside], maps["perfusion_ctp_se"][inside]),
    }


def _changes(beside: _Beside) -> Values:
    """The mass change by regions of 20 mm: what was there, what was found, what the true motion finds."""
    maps, oracle, lungs, inside = beside.maps, beside.oracle, beside.seen.lungs, beside.seen.inside
    true = smoothed(beside.seen.truth["mass_change"], lungs, region_sigma(20.0))
    step = [max(1, round(20.0 / s)) for s in lungs.spacing]
    nodes = tuple(slice(n // 2, None, n) for n in step)
    some = inside[nodes]
    rows = [x[nodes][some] for x in (true, maps["perfusion_ctp"], oracle["perfusion_ctp"])]
    change, error = maps["perfusion_ctp"][inside], maps["perfusion_ctp_se"][inside]
    clear = np.abs(change) > 2 * error
    signed = clear & (true[inside] != 0)
    changes = np.ptp(true[inside]) > 0  # else there is nothing to rank
    exp = beside.seen.exp.ct
    nulls = smoothed(exp.array.astype(np.float32), lungs, region_sigma(20.0)), _height(exp)
    return {
        "m_regions": [[round(float(x), 5) for x in row] for row in rows],
        "m_below_pct": 100 * float(1 - clear.mean()),
        "m_sign_pct": 100 * float((np.sign(change) == np.sign(true[inside]))[signed].mean())
        if signed.any()
        else None,
        "m20_map": rank(change[::20], true[inside][::20]) if changes else None,
        "m20_oracle": rank(oracle["perfusion_ctp"][inside][::20], true[inside][::20]) if changes else None,
        "m20_null": max(abs(rank(null[inside][::20], true[inside][::20])) for null in nulls)
        if changes
        else None,
    }


def _defects(beside: _Beside) -> Values:
    """Dice of what lies below 60 % of the mean; classes of the truth (rows) by ours (columns), in percent of the lung
    that has a class of ours.
    """
    exp, lungs, inside, truth = beside.seen.exp, beside.seen.lungs, beside.seen.inside, beside.seen.truth
    low: dict[str, dict[str, np.ndarray]] = {}
    dense = smoothed(exp.ct.array.astype(np.float32), lungs, 5.0)[inside]
    seen = np.ones(dense.shape, bool)
    for name in ("ventilation", "perfusion"):
        of = {
            "truth": smoothed(truth[name], lungs, 5.0),
            "map": beside.maps[name],
            "oracle": beside.oracle[name],
        }
        rows = {kind: array[inside] for kind, array in of.items()}
        known = np.logical_and.reduce([np.isfinite(row) for row in rows.values()])
        # Where ours is undefined nothing was found; what was there is there all the same.
        low[name] = {kind: row < LOW * row[known].mean() for kind, row in rows.items()}
        seen &= np.isfinite(rows["map"])
        # As much lung as is low in truth, of the lowest density.
        low[name]["null"] = dense < np.quantile(dense, low[name]["truth"].mean())
    values: Values = {}
    for name, kinds in low.items():
        there = kinds["truth"].mean()
        values[f"{name}_low_pct"] = 100 * float(there)
        for kind in ("map", "oracle", "null"):
            both = (kinds["truth"] & kinds[kind]).sum()
            values[f"{name}_dice_{kind}"] = float(2 * both / max(kinds["truth"].sum() + kinds[kind].sum(), 1))
    classes = [(2 * k["ventilation"] + k["perfusion"])[seen] for k in _by_kind(low, ("truth", "map"))]
    values["confusion"] = np.round(
        100 * np.bincount(4 * classes[0] + classes[1], minlength=16) / max(classes[0].size, 1), 2
    ).tolist()
    return values


def _by_kind(
    low: Mapping[str, Mapping[str, np.ndarray]], kinds: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    return [{name: of[kind].astype(np.intp) for name, of in low.items()} for kind in kinds]


def _shares(beside: _Beside, lobes: Volume, borders: Mapping[str, float]) -> Values:
    """Shares of lobes in percent, by our lobes and the true ones, and of nulls; and which intervals hold."""
    seen, maps = beside.seen, beside.maps
    exp, truth, true_lobes = seen.exp, seen.truth, seen.lobes_exp
    own = exp.anatomy.lungs
    nearest = carry_true_lobes(true_lobes, own)
    mass = density(exp.calibrate(exp.ct.array))

    def of(array: np.ndarray, labels: Volume) -> list[float]:
        sums = np.array([np.nansum(array[labels.array == n], dtype=np.float64) for n in LOBES.values()])
        return [float(x) for x in 100 * sums / sums.sum()]

    values: Values = {
        "share_volume": of(np.ones(own.shape), lobes),
        "share_density": of(mass, lobes),
    }
    for name, short in (("ventilation", "v"), ("perfusion", "q")):
        values[f"share_{short}_true"] = of(truth[name], true_lobes)
        values[f"share_{short}"] = of(maps[name], lobes)
        values[f"share_{short}_given"] = of(maps[name], nearest)
    volumes = {n: own.like(maps[n]) for n in ("ventilation", "ventilation_se", "perfusion", "perfusion_se")}
    true_hold = BreathHold(exp.ct, seen.lungs, true_lobes, exp.calibrate)
    held: dict[str, list[bool]] = {}
    unsaid = (np.nan, np.nan)  # of a region of which nothing is known: holds nothing
    for kind, labels, border in (("own", lobes, borders), ("given", nearest, {})):
        hold = BreathHold(exp.ct, own, labels, exp.calibrate)
        said = region_intervals(hold, volumes, border_mm=border)
        regions = true_hold.regions()
        row, tissue = regions.row(truth["ventilation"]), regions.row(beside.blood)
        for region, where in regions:
            if region.name == "both":
                continue
            group = "lobes" if region.name in LOBES else "zones" if region.zone_def else "lungs"
            if group != "lobes" and kind == "given":
                continue
            share, ml = 100 * float(row[where].sum() / row.sum()), float(row[where].sum()) * regions.voxel_ml
            for key, true in ((f"{group}_{kind}", share), (f"{group}_{kind}_ml", ml)):
                metric = "ventilation_ml" if key.endswith("_ml") else "ventilation_fraction_pct"
                low, high = said.get((region.name, metric), unsaid)
                held.setdefault(key, []).append(bool(low <= true <= high))
            if group == "lobes":
                blood = 100 * float(np.nansum(tissue[where]) / np.nansum(tissue))
                low, high = said.get((region.name, "perfusion_fraction_pct"), unsaid)
                held.setdefault(f"blood_{kind}", []).append(bool(low <= blood <= high))
    return values | {"held": held}


def _held(seen: Seen) -> Values:
    """What both lungs hold, in percent above the truth: mass at expiration and inspiration, and air gained.

    With our masks and free of wall, with the true masks and free of wall, and with our masks as scanned (null).
    """
    scalars = seen.phantom.truth.scalars
    true = np.array([scalars[key] for key in ("mass_exp_g", "mass_insp_g", "air_gained_ml")], float)
    spacing, rows = seen.registration.lungs.spacing, {}
    for kind, insp, exp in (("ours", seen.insp, seen.exp), ("true", seen.true_insp, seen.true_exp)):
        reach = wall_reach(insp, exp)
        before, after = (lung_hu(b, spacing, reach).held.values() for b in (exp, insp))
        gained = sum(t.air_ml for t in after) - sum(t.air_ml for t in before)
        rows[kind] = np.array([sum(t.mass_g for t in before), sum(t.mass_g for t in after), gained])
    (before_ml, before_g), (after_ml, after_g) = (_as_scanned(b) for b in (seen.exp, seen.insp))
    rows["scanned"] = np.array([before_g, after_g, after_ml - after_g - (before_ml - before_g)])
    return {f"held_{kind}_pct": [float(x) for x in 100 * (row / true - 1)] for kind, row in rows.items()}


def _as_scanned(breath: Breath) -> tuple[float, float]:
    """Volume in mL and mass in g of both lungs."""
    mass = density(breath.calibrate(breath.ct.array[breath.anatomy.lungs.array > 0]))
    return mass.size * breath.ct.voxel_ml, float(mass.sum(dtype=np.float64)) * breath.ct.voxel_ml


def carry_true_lobes(true_lobes: Volume, lungs: Volume) -> Volume:
    """The true lobes within lungs that differ from the true ones by a rim: the nearest lobe there."""
    index = distance_transform_edt(true_lobes.array == 0, return_distances=False, return_indices=True)
    return lungs.like(np.where(lungs.array > 0, true_lobes.array[tuple(index)], 0).astype(np.uint8))


def _dice(a: np.ndarray, b: np.ndarray, labels: tuple[int, ...] | None = None) -> float:
    labels = labels or tuple(np.unique(b[b > 0]).tolist())
    return float(
        np.mean([2 * ((a == n) & (b == n)).sum() / max((a == n).sum() + (b == n).sum(), 1) for n in labels])
    )
