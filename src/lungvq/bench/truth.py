"""The method on phantoms whose truth is known: the test matrix T0 to T8, nulls and oracles beside each accuracy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.stats import spearmanr

import lungvq
from lungvq import io
from lungvq.anatomy import LOBES, LUNG_OF_LOBE_LABEL, LUNGS
from lungvq.bench.table import cases_named, made_with, table
from lungvq.breath import Breath, prepare
from lungvq.ctp import region_sigma
from lungvq.errors import LungvqError
from lungvq.hu import air_fraction, density
from lungvq.intervals import lobe_borders, region_intervals
from lungvq.match import alike, carry_lobes
from lungvq.pair import LungTotals, MatchedPair, lung_totals
from lungvq.perfusion import perfusion_terms
from lungvq.phantom import CASES, CaseSettings, Phantom, Physiology, Scanner, make_phantom
from lungvq.phantom.place import lobes_at
from lungvq.phantom.subject import Samples, tissue_at
from lungvq.pipeline import Options, estimate
from lungvq.quantify import BreathHold
from lungvq.regional import LungField, Neighbourhoods, carry
from lungvq.register import Registration, register
from lungvq.segment.lobes import find_lobes
from lungvq.ventilation import jacobian_gain, ventilation_terms
from lungvq.volume import CANONICAL, Volume

__all__ = ["Subject", "bench_truth", "measure", "plan", "pointwise"]

SHELLS_MM = ((0.0, 3.0), (3.0, 10.0), (10.0, np.inf))
LOW = 0.60
_Z = 1.96

Values = dict[str, Any]


# ---------------------------------------------------------------------------------------------------- subjects


@dataclass(frozen=True)
class Subject:
    """One phantom of the plan and what it is there for."""

    name: str
    tests: str
    case: str | CaseSettings
    seed: int


def _blood(**more: Any) -> CaseSettings:
    return replace(CASES["healthy"], physiology=replace(Physiology(), **more))


def _matrix() -> list[tuple[str, str, str | CaseSettings]]:
    healthy = CASES["healthy"]
    offset = replace(healthy, insp=Scanner(noise_hu=12.0, offset_hu=15.0))
    decoupled = _blood(follow=(0.0, 0.0), beta=(0.02, 0.02))
    follows = _blood(follow=(1.0, 1.0), beta=(-0.05, -0.05))
    return [
        ("healthy", "T1 T2", "healthy"),
        ("low-dose", "T1 T2", "low-dose"),
        ("no-mass-change", "T3", "no-mass-change"),
        ("blood apart from flow", "T4", decoupled),
        ("mass-flip", "T5", "mass-flip"),
        ("offset of 15 HU", "T6", offset),
        ("pe", "T7", "pe"),
        ("emphysema", "T7", "emphysema"),
        ("blood follows flow", "T1", follows),
        ("air-trapping", "T7", "air-trapping"),
        ("cteph", "T7", "cteph"),
        ("sharp-kernel", "T6", "sharp-kernel"),
    ]


def plan(count: int, seed: int = 11) -> list[Subject]:
    """The first `count` subjects: one for each knob of the matrix, then every case of the phantom in turn.

    Every subject is another person; all are in T0 and T8.
    """
    rng = np.random.default_rng([seed, 6])
    rows = _matrix()
    names = [name for name in CASES if name not in ("shallow", "collapsed-left")]
    while len(rows) < count:
        name = names[(len(rows) - 12) % len(names)]
        rows.append((name, "", name))
    return [
        Subject(name, tests, case, int(rng.integers(1000, 1_000_000))) for name, tests, case in rows[:count]
    ]


def bench_truth(
    cases: str,
    seeds: int,
    spacing: float,
    tell: Callable[[str], None],
    kept_in: Path | None = None,
) -> str:
    """Run the method on phantoms and compare with their truth.

    Parameters
    ----------
    cases : str
        A number: so many subjects of the seeded plan. Or names separated by commas, or ``"all"``.
    seeds : int
        Subjects per named case, seeds 0 to `seeds` - 1.
    spacing : float
        mm.
    tell : callable
        Takes a line for each phantom done.
    kept_in : Path, optional
        Where finished subjects are kept, so that a stopped run goes on; done again where the code has changed.

    Returns
    -------
    str
        Markdown tables.
    """
    if cases.isdigit():
        subjects = plan(int(cases))
    else:
        subjects = [Subject(name, "", name, seed) for name in cases_named(cases) for seed in range(seeds)]
    found: list[tuple[Subject, Values]] = []
    refused = []
    for subject in subjects:
        try:
            values = _kept(subject, spacing, kept_in)
        except LungvqError as error:
            tell(f"{subject.name} {subject.seed}: {error}")
            refused.append(f"- {subject.name} {subject.seed} was refused: {error}")
            continue
        tell(
            f"{subject.name} {subject.seed}: motion error {values['motion_mean']:.2f} mm, V"
            f" {values['v8_map']:.3f}, covered {values['v_covered']:.0f} %"
        )
        found.append((subject, values))
    command = f"lungvq bench truth --cases {cases} --spacing {spacing:g}"
    command += "" if cases.isdigit() else f" --seeds {seeds}"
    return "\n".join([made_with(command), "", *refused, *_report(found)])


def _kept(subject: Subject, spacing: float, folder: Path | None) -> Values:
    """A subject's values, measured or from the cache."""
    if folder is None:
        return measure(make_phantom(subject.case, seed=subject.seed, spacing=spacing))
    key = repr((subject, spacing, _fingerprint()))
    name = f"{subject.name.replace(' ', '-')}-{subject.seed}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
    path = folder / name
    if path.exists():
        kept: Values = json.loads(path.read_text(encoding="utf-8"))
        return kept
    values = measure(make_phantom(subject.case, seed=subject.seed, spacing=spacing))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return values


_CODE = (
    "register/*.py",
    "segment/*.py",
    "phantom/*.py",
    "ventilation.py",
    "perfusion.py",
    "ctp.py",
    "pair.py",
)
_MORE_CODE = ("match.py", "maps.py", "hu.py", "regional.py", "intervals.py", "bench/truth.py")


@cache
def _fingerprint() -> str:
    """What changes with the code that the values come from."""
    package = Path(lungvq.__file__).parent
    files = [file for pattern in (*_CODE, *_MORE_CODE) for file in sorted(package.glob(pattern))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------- measuring


def measure(phantom: Phantom) -> Values:
    """Segment, register and estimate one phantom, and hold all of it against its truth.

    Returns
    -------
    dict
        Plain numbers and lists of them. ``v5_``, ``v8_``, ``q10_``, ``m20_``: rank correlations with the truth at
        that scale of ``map``, ``oracle`` (true motion and masks) and nulls; ``t0_``: with densities of the truth
        itself; ``*_covered``: share of voxels, in percent, whose 95 % interval holds the truth.
    """
    insp, exp = (
        prepare(io.Scan(volume, Path(role), "phantom", (), {}), role)
        for role, volume in (("inspiration", phantom.insp), ("expiration", phantom.exp))
    )
    insp, exp, _ = alike(insp, exp)
    registration = register(exp.ct, insp.ct, exp.anatomy.lungs, insp.anatomy.lungs)
    found = find_lobes(insp.ct, insp.anatomy)
    lobes_exp = carry_lobes(registration, found.labels, exp.anatomy.lungs)
    maps = {n: v.array for n, v in estimate(insp, exp, registration, Options()).maps.items()}

    true_insp, true_exp = (
        _onto(v, b.ct) for v, b in ((phantom.truth.lobes_insp, insp), (phantom.truth.lobes_exp, exp))
    )
    lungs = _lungs_of(true_exp)
    truly = _true_registration(phantom, registration)
    with_truth = _with_lungs(insp, _lungs_of(true_insp)), _with_lungs(exp, lungs)
    oracle = {n: v.array for n, v in estimate(*with_truth, truly, Options()).maps.items()}

    inside = (lungs.array > 0) & (exp.anatomy.lungs.array > 0)
    truth = {
        name: np.nan_to_num(_onto(getattr(phantom.truth, name), exp.ct).array)
        for name in ("ventilation", "perfusion", "mass_change")
    }
    values: Values = {
        "lungs_dice": [
            _dice(b.anatomy.lungs.array, _lungs_of(t).array) for b, t in ((insp, true_insp), (exp, true_exp))
        ],
        "lobes_dice": [
            _dice(found.labels.array, true_insp.array),
            _dice(found.labels.array, true_insp.array, (LOBES["RML"],)),
        ],
        **_motion(phantom, registration, exp.ct, inside),
        **_jacobian(phantom, registration),
    }
    ideal, values_t0 = pointwise(phantom, truly.lungs)
    values |= values_t0
    values |= _correlations(maps, oracle, truth, exp, lungs, inside)
    values |= _coverage(maps, truth, ideal, lungs, inside)
    values |= _changes(maps, oracle, truth, lungs, inside)
    values |= _defects(maps, oracle, truth, lungs, inside)
    borders = lobe_borders({f.name: f.uncertainty_mm for f in found.fissures.values()})
    blood = carry(ideal, lungs)
    values |= _shares(maps, {**truth, "blood": blood}, exp, lobes_exp, true_exp, lungs, borders)
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
        "motion_shells": [float(error[(depth > a) & (depth <= b)].mean()) for a, b in SHELLS_MM],
        "motion_said": float(np.sqrt((said[some] ** 2).mean() / (error[some] ** 2).mean())),
        "motion_rank": _rank(said[some][::20], error[some][::20]),
    }


def _jacobian(phantom: Phantom, found: Registration) -> Values:
    """J and its standard error at the scale of `Registration.jacobian`, on the working grid."""
    lungs = _lungs_of(phantom.truth.lobes_exp.reorient(CANONICAL).resample_labels(found.lungs.grid))
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
    pair = MatchedPair(hu[0], hu[1], full(jac), lungs, totals[0], totals[1], 0.0, 0.0, sure)
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
    return blood.blood, {
        "t0_v": _rank(v[::20], v_true[::20]),
        "t0_j": _rank(j[::20], v_true[::20]),
        "t0_v_bias_pct": 100 * float(v.mean() / v_true.mean() - 1),
        "t0_j_bias_pct": 100 * float(j.mean() / v_true.mean() - 1),
        "t0_m_error_pct": 100 * float(np.sqrt(((m - m_true) ** 2).mean())) / size if size > 1e-6 else 0.0,
        "t0_sum_pct": 100 * abs(float(gain.sum()) * lungs.voxel_ml / gained - 1),
    }


def _smoothed(array: np.ndarray, lungs: Volume, sigma_mm: float) -> np.ndarray:
    """Gaussian mean within the lungs over what is defined."""
    defined = np.isfinite(array).astype(np.float32)
    return carry(Neighbourhoods(lungs, sigma_mm, defined).mean(np.nan_to_num(array)), lungs)


def _correlations(
    maps: Mapping[str, np.ndarray],
    oracle: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    exp: Breath,
    lungs: Volume,
    inside: np.ndarray,
) -> Values:
    """Rank correlations with the truth, nulls beside."""
    height = np.broadcast_to(np.arange(exp.ct.shape[1], dtype=np.float32)[None, :, None], exp.ct.shape)
    values: Values = {}
    own = 5.0  # mm, of the maps
    for prefix, scale, true, names in (
        (
            "v5",
            5.0,
            "ventilation",
            ("ventilation", "ventilation_hybrid", "ventilation_hu", "ventilation_jacobian"),
        ),
        (
            "v8",
            8.0,
            "ventilation",
            ("ventilation", "ventilation_hybrid", "ventilation_hu", "ventilation_jacobian"),
        ),
        ("q10", 10.0, "perfusion", ("perfusion",)),
    ):
        target = _smoothed(truth[true], lungs, scale)
        more = np.sqrt(scale**2 - own**2)

        def r(array: np.ndarray, sigma: float, target: np.ndarray = target) -> float:
            at = _smoothed(array, lungs, sigma) if sigma > 0 else array
            return _rank(at[inside][::20], target[inside][::20])

        values[f"{prefix}_map"], values[f"{prefix}_oracle"] = (
            r(maps[names[0]], more),
            r(oracle[names[0]], more),
        )
        for name in names[1:]:
            values[f"{prefix}_{name.removeprefix('ventilation_')}"] = r(maps[name], more)
        values[f"{prefix}_density"] = r(exp.ct.array.astype(np.float32), scale)
        values[f"{prefix}_height"] = r(height, 0)
    target = _smoothed(truth["perfusion"], lungs, region_sigma(20.0))
    for kind, source in (("map", maps), ("oracle", oracle)):
        values[f"ctp_flow_{kind}"] = _rank(
            np.abs(source["perfusion_ctp"])[inside][::20], target[inside][::20]
        )
    return values


def _covered(error: np.ndarray, standard_error: np.ndarray) -> float:
    """Percent of errors within 1.96 standard errors."""
    known = np.isfinite(error) & np.isfinite(standard_error)
    return 100 * float((np.abs(error[known]) <= _Z * standard_error[known]).mean())


def _coverage(
    maps: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    ideal: LungField,
    lungs: Volume,
    inside: np.ndarray,
) -> Values:
    v = _smoothed(truth["ventilation"], lungs, 5.0)
    m = _smoothed(truth["mass_change"], lungs, region_sigma(20.0))
    blood, q = carry(ideal, lungs)[inside], maps["perfusion"][inside]
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


def _changes(
    maps: Mapping[str, np.ndarray],
    oracle: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    lungs: Volume,
    inside: np.ndarray,
) -> Values:
    """The mass change by regions of 20 mm: what was there, what was found, what the true motion finds."""
    true = _smoothed(truth["mass_change"], lungs, region_sigma(20.0))
    step = [max(1, round(20.0 / s)) for s in lungs.spacing]
    nodes = tuple(slice(n // 2, None, n) for n in step)
    some = inside[nodes]
    rows = [x[nodes][some] for x in (true, maps["perfusion_ctp"], oracle["perfusion_ctp"])]
    change, error = maps["perfusion_ctp"][inside], maps["perfusion_ctp_se"][inside]
    clear = np.abs(change) > 2 * error
    signed = clear & (true[inside] != 0)
    return {
        "m_regions": [[round(float(x), 5) for x in row] for row in rows],
        "m_below_pct": 100 * float(1 - clear.mean()),
        "m_sign_pct": 100 * float((np.sign(change) == np.sign(true[inside]))[signed].mean())
        if signed.any()
        else None,
        "m20_map": _rank(change[::20], true[inside][::20]),
        "m20_oracle": _rank(oracle["perfusion_ctp"][inside][::20], true[inside][::20]),
    }


def _defects(
    maps: Mapping[str, np.ndarray],
    oracle: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    lungs: Volume,
    inside: np.ndarray,
) -> Values:
    """Dice of what lies below 60 % of the mean; classes of the truth (rows) by ours (columns), in percent."""
    low: dict[str, dict[str, np.ndarray]] = {}
    for name in ("ventilation", "perfusion"):
        of = {"truth": _smoothed(truth[name], lungs, 5.0), "map": maps[name], "oracle": oracle[name]}
        rows = {kind: array[inside] for kind, array in of.items()}
        known = np.logical_and.reduce([np.isfinite(row) for row in rows.values()])
        low[name] = {kind: (row < LOW * row[known].mean()) & known for kind, row in rows.items()}
    values: Values = {}
    for name, kinds in low.items():
        there = kinds["truth"].mean()
        values[f"{name}_low_pct"] = 100 * float(there)
        for kind in ("map", "oracle"):
            both = (kinds["truth"] & kinds[kind]).sum()
            values[f"{name}_dice_{kind}"] = float(2 * both / max(kinds["truth"].sum() + kinds[kind].sum(), 1))
    classes = [2 * k["ventilation"] + k["perfusion"] for k in _by_kind(low, ("truth", "map"))]
    values["confusion"] = np.round(
        100 * np.bincount(4 * classes[0] + classes[1], minlength=16) / classes[0].size, 2
    ).tolist()
    return values


def _by_kind(
    low: Mapping[str, Mapping[str, np.ndarray]], kinds: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    return [{name: of[kind].astype(np.intp) for name, of in low.items()} for kind in kinds]


def _shares(
    maps: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    exp: Breath,
    lobes: Volume,
    true_lobes: Volume,
    lungs: Volume,
    borders: Mapping[str, float],
) -> Values:
    """Shares of lobes in percent, by our lobes and the true ones, and of nulls; and which intervals hold."""
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
    true_hold = BreathHold(exp.ct, lungs, true_lobes, exp.calibrate)
    held: dict[str, list[bool]] = {}
    for kind, labels, border in (("own", lobes, borders), ("given", nearest, {})):
        hold = BreathHold(exp.ct, own, labels, exp.calibrate)
        said = region_intervals(hold, volumes, border_mm=border)
        regions = true_hold.regions()
        row, tissue = regions.row(truth["ventilation"]), regions.row(truth["blood"])
        for region, where in regions:
            if region.name == "both":
                continue
            group = "lobes" if region.name in LOBES else "zones" if region.zone_def else "lungs"
            if group != "lobes" and kind == "given":
                continue
            share = 100 * float(row[where].sum() / row.sum())
            low, high = said[region.name, "ventilation_fraction_pct"]
            held.setdefault(f"{group}_{kind}", []).append(bool(low <= share <= high))
            if group == "lobes":
                blood = 100 * float(np.nansum(tissue[where]) / np.nansum(tissue))
                low, high = said[region.name, "perfusion_fraction_pct"]
                held.setdefault(f"blood_{kind}", []).append(bool(low <= blood <= high))
    return values | {"held": held}


def carry_true_lobes(true_lobes: Volume, lungs: Volume) -> Volume:
    """The true lobes within lungs that differ from the true ones by a rim: the nearest lobe there."""
    index = distance_transform_edt(true_lobes.array == 0, return_distances=False, return_indices=True)
    return lungs.like(np.where(lungs.array > 0, true_lobes.array[tuple(index)], 0).astype(np.uint8))


# ------------------------------------------------------------------------------------------------------- report


def _report(found: Sequence[tuple[Subject, Values]]) -> list[str]:
    """All tables."""
    if not found:
        return ["No subject was measured."]
    return [
        *_table(
            "Anatomy, motion, Jacobian",
            "Dice of lungs (inspiration / expiration) and lobes; error of the motion; what of it was"
            " expected (1: the"
            " expected error has the right size) and its rank correlation with the error; J over 4"
            " mm, and the share of"
            " voxels whose 95 % interval holds the true J.",
            [
                "phantom",
                "lungs",
                "lobes / RML",
                "motion mean / p95 mm",
                "0-3 / 3-10 / >10 mm",
                "expected",
                "rank r",
                "J r",
                "J rms %",
                "J covered %",
            ],
            [
                [
                    _label(s),
                    _pair(v["lungs_dice"], 3),
                    _pair(v["lobes_dice"], 3),
                    f"{v['motion_mean']:.2f} / {v['motion_p95']:.2f}",
                    _pair(v["motion_shells"], 2),
                    f"{v['motion_said']:.2f}",
                    f"{v['motion_rank']:.2f}",
                    f"{v['j_r']:.3f}",
                    f"{v['j_rms_pct']:.1f}",
                    f"{v['j_covered']:.0f}",
                ]
                for s, v in found
            ],
        ),
        *_table(
            "T0: true motion, densities of the tissue itself",
            "Rank correlation and bias of the default ventilation and of J - 1 less the true mass"
            " change; error of the"
            " mass change relative to its rms; the sum of air gained against the two lungs' air.",
            ["phantom", "V r", "V bias %", "J r", "J bias %", "m error %", "sum %"],
            [
                [
                    _label(s),
                    f"{v['t0_v']:.4f}",
                    f"{v['t0_v_bias_pct']:+.2f}",
                    f"{v['t0_j']:.4f}",
                    f"{v['t0_j_bias_pct']:+.2f}",
                    f"{v['t0_m_error_pct']:.2f}",
                    f"{v['t0_sum_pct']:.3f}",
                ]
                for s, v in found
            ],
        ),
        *_table(
            "Ventilation (T1, T2, T6)",
            "Rank correlation with the true air gained at 8 mm: default map, oracle (true motion and"
            " masks), other"
            " estimators, and the better of the nulls expired density and height; the default at 5"
            " mm; share of voxels"
            " whose 95 % interval holds the truth at 5 mm.",
            [
                "phantom",
                "tests",
                "map",
                "oracle",
                "hybrid",
                "Jacobian",
                "HU",
                "best null",
                "map 5 mm",
                "covered %",
            ],
            [
                [
                    _label(s),
                    s.tests,
                    *(f"{v['v8_' + n]:.3f}" for n in ("map", "oracle", "hybrid", "jacobian", "hu")),
                    f"{max(abs(v['v8_density']), abs(v['v8_height'])):.3f}",
                    f"{v['v5_map']:.3f}",
                    f"{v['v_covered']:.0f}",
                ]
                for s, v in found
            ],
        ),
        *_table(
            "Perfusion and mass change (T3, T4, T5)",
            "Blood mass against true flow at 10 mm, and the nulls; magnitude of the mass change,"
            " averaged first, against"
            " true flow, and the signed change against the true one, over 20 mm; share of lung where"
            " it is within twice"
            " its error; share of the rest where its sign is right; share of voxels whose 95 %"
            " interval holds the truth.",
            [
                "phantom",
                "tests",
                "Q",
                "oracle",
                "density",
                "height",
                "abs(m) to flow",
                "oracle",
                "m",
                "oracle",
                "below floor %",
                "sign %",
                "covered %",
            ],
            [
                [
                    _label(s),
                    s.tests,
                    *(f"{v['q10_' + n]:.3f}" for n in ("map", "oracle", "density", "height")),
                    *(f"{v[n]:.3f}" for n in ("ctp_flow_map", "ctp_flow_oracle", "m20_map", "m20_oracle")),
                    f"{v['m_below_pct']:.0f}",
                    "" if v["m_sign_pct"] is None else f"{v['m_sign_pct']:.0f}",
                    f"{v['m_covered']:.0f}",
                ]
                for s, v in found
            ],
        ),
        *_slopes(found),
        *_table(
            "Defects (T7)",
            "Lung below 60 % of the mean in truth, and Dice of what we and the oracle find there;"
            " classes of the truth"
            " found as themselves, percent of each (normal, dead space, shunt, matched).",
            ["phantom", "V low %", "V Dice", "oracle", "Q low %", "Q Dice", "oracle", "classes"],
            [
                [
                    _label(s),
                    *(
                        text
                        for n in ("ventilation", "perfusion")
                        for text in (
                            f"{v[n + '_low_pct']:.1f}",
                            f"{v[n + '_dice_map']:.2f}",
                            f"{v[n + '_dice_oracle']:.2f}",
                        )
                    ),
                    _diagonal(v["confusion"]),
                ]
                for s, v in found
            ],
        ),
        *_lobar(found),
        *_held(found),
    ]


def _label(subject: Subject) -> str:
    return f"{subject.name} {subject.seed}"


def _pair(numbers: Sequence[float], digits: int) -> str:
    return " / ".join(f"{x:.{digits}f}" for x in numbers)


def _table(title: str, words: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [f"### {title}", "", words, "", table(head, rows), ""]


def _diagonal(confusion: Sequence[float]) -> str:
    # 2 V low + Q low: normal, dead space, shunt, matched
    matrix = np.array(confusion).reshape(4, 4)
    whole = matrix.sum(axis=1)
    return " / ".join(f"{100 * matrix[n, n] / whole[n]:.0f}" if whole[n] > 0.2 else "-" for n in range(4))


def _slopes(found: Sequence[tuple[Subject, Values]]) -> list[str]:
    """Whether the registration takes away mass change: what was found on what was there, all
    regions together."""
    regions = np.concatenate([np.array(v["m_regions"], float) for _, v in found], axis=1)
    each = np.array([np.nanmean(np.array(v["m_regions"], float), axis=1) for _, v in found])
    rows = []
    for n, name in ((1, "found"), (2, "true motion and masks")):
        known = np.isfinite(regions[n]) & np.isfinite(regions[0])
        x, y = regions[0][known], regions[n][known]
        # subjects are what is independent
        slopes = []
        for leave in range(len(found)):
            parts = [np.array(v["m_regions"], float) for m, (_, v) in enumerate(found) if m != leave]
            if parts:
                joined = np.concatenate(parts, axis=1)
                some = np.isfinite(joined[n]) & np.isfinite(joined[0])
                slopes.append(_slope(joined[0][some], joined[n][some]))
        count = len(slopes)
        error = (
            float(np.sqrt((count - 1) / count * np.sum((np.array(slopes) - np.mean(slopes)) ** 2)))
            if count
            else 0
        )
        rows.append(
            [
                name,
                f"{_slope(x, y):.2f} ({error:.2f})",
                f"{np.corrcoef(x, y)[0, 1]:.2f}",
                f"{1000 * (y - x).mean():+.1f}",
                f"{1000 * (y - x).std():.1f}",
                f"{_slope(each[:, 0], each[:, n]):.2f}" if len(found) > 2 else "",
            ]
        )
    return _table(
        "Does the registration take away mass change?",
        f"Mass change found on mass change there, {regions.shape[1]} regions of 20 mm radius of all"
        " subjects: slope"
        " (its jackknife error over subjects), correlation, bias and spread in mg/mL; slope of the"
        " subjects' means. A"
        " registration that matched densities would make slopes small.",
        ["", "slope", "r", "bias", "spread", "slope of means"],
        rows,
    )


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    spread = float(((x - x.mean()) ** 2).sum())
    return float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else float("nan")


def _lobar(found: Sequence[tuple[Subject, Values]]) -> list[str]:
    """T8: shares of lobes, all subjects together."""
    rows = []
    for short, name in (("v", "ventilation"), ("q", "perfusion")):
        true = np.array([v[f"share_{short}_true"] for _, v in found])
        for key, words in (
            (f"share_{short}", "map, our lobes"),
            (f"share_{short}_given", "map, true lobes"),
            ("share_volume", "null: lobe volume"),
            ("share_density", "null: lobe mass"),
        ):
            ours = np.array([v[key] for _, v in found])
            error = ours - true
            within = [
                np.corrcoef(ours[:, n], true[:, n])[0, 1] for n in range(ours.shape[1]) if len(found) > 2
            ]
            rows.append(
                [
                    name,
                    words,
                    f"{np.corrcoef(ours.ravel(), true.ravel())[0, 1]:.3f}",
                    f"{np.nanmean(within):.3f}" if within else "",
                    f"{np.abs(error).mean():.2f}",
                    f"{error.std() * _Z:.1f}",
                ]
            )
    return _table(
        "Shares of lobes (T8)",
        f"{len(found)} subjects, five lobes each: pooled r, r over subjects within a lobe (mean of"
        " five), mean absolute"
        " error and 95 % limits of agreement in percentage points. Perfusion is held against flow,"
        " which blood mass"
        " does not measure.",
        ["", "", "pooled r", "within-lobe r", "error pp", "limits pp"],
        rows,
    )


def _held(found: Sequence[tuple[Subject, Values]]) -> list[str]:
    names = {
        "lungs_own": "lungs",
        "zones_own": "zones",
        "lobes_own": "lobes, ours",
        "lobes_given": "lobes, the true ones given",
        "blood_own": "lobes, ours: blood mass",
        "blood_given": "lobes, the true ones given: blood mass",
    }
    rows = []
    for key, words in names.items():
        all_held = [h for _, v in found for h in v["held"].get(key, [])]
        rows.append([words, len(all_held), f"{100 * np.mean(all_held):.0f}" if all_held else ""])
    voxels = [
        [words, "voxels", f"{np.mean([v[key] for _, v in found]):.0f}"]
        for key, words in (
            ("j_covered", "J, 4 mm"),
            ("v_covered", "ventilation, 5 mm"),
            ("q_covered", "blood mass, 5 mm"),
            ("m_covered", "mass change"),
        )
    ]
    return _table(
        "Stated 95 % intervals that hold the truth",
        "Shares of ventilation by region, where not said otherwise; and voxel by voxel, mean over the subjects.",
        ["", "intervals", "hold %"],
        [*rows, *voxels],
    )


# ------------------------------------------------------------------------------------------------------ helpers


def _onto(volume: Volume, like: Volume) -> Volume:
    """The part of a volume on the scan's grid that covers a crop of the scan."""
    volume = volume.reorient(CANONICAL)
    start = np.rint(volume.grid.index(like.grid.world((0, 0, 0)))).astype(int)
    box = [slice(int(a), int(a) + n) for a, n in zip(start, like.shape, strict=True)]
    return volume.crop((box[0], box[1], box[2]))


def _lungs_of(lobes: Volume) -> Volume:
    return lobes.like(np.array(LUNG_OF_LOBE_LABEL, np.uint8)[lobes.array])


def _with_lungs(breath: Breath, lungs: Volume) -> Breath:
    """The breath as it would be had segmentation found these lungs."""
    totals = lung_totals(breath.ct, lungs, breath.calibrate)
    return replace(breath, anatomy=replace(breath.anatomy, lungs=lungs), totals=totals)


def _true_registration(phantom: Phantom, found: Registration) -> Registration:
    """What a perfect registration would have said on the same working grid."""
    grid = found.lungs.grid
    lungs = _lungs_of(phantom.truth.lobes_exp.reorient(CANONICAL).resample_labels(grid))
    inside = lungs.array > 0
    points = grid.world(np.argwhere(inside))
    displacement = found.displacement.array.copy()
    displacement[inside] = phantom.phi(points) - points
    jacobian = np.full(grid.shape, np.nan, np.float32)
    jacobian[inside] = phantom.jacobian_at(points)
    return replace(
        found,
        displacement=found.displacement.like(displacement),
        lungs=lungs,
        jacobian=lungs.like(jacobian),
        jacobian_raw=lungs.like(jacobian),
        jacobian_se=lungs.like(np.where(inside, np.float32(0), np.nan)),
    )


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman correlation where both are defined; 0 where one of them is constant."""
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 3 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return 0.0
    return float(spearmanr(a[known], b[known]).statistic)


def _dice(a: np.ndarray, b: np.ndarray, labels: tuple[int, ...] | None = None) -> float:
    labels = labels or tuple(np.unique(b[b > 0]).tolist())
    return float(
        np.mean([2 * ((a == n) & (b == n)).sum() / max((a == n).sum() + (b == n).sum(), 1) for n in labels])
    )
