"""The values of all subjects as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lungvq.bench.table import table
from lungvq.bench.truth.measure import Values
from lungvq.bench.truth.plan import Subject
from lungvq.bench.truth.robust import REPEATED, RESTS_ON_HU

__all__ = ["report"]

_Z = 1.96

Found = Sequence[tuple[Subject, Values]]
Column = tuple[str, Callable[[Values], str]]


def report(found: Found) -> list[str]:
    """All tables, as lines of Markdown."""
    if not found:
        return ["No subject was measured."]
    tables = (
        _geometry,
        _pointwise,
        _amounts,
        _ventilation,
        _imposed,
        _perfusion,
        _slopes,
        _offset,
        _defects,
        _lobar,
        _repeated,
        _held,
    )
    return [line for make in tables for line in make(found)]


def _table(title: str, words: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [f"### {title}", "", words, "", table(head, rows), ""]


def _by_subject(
    title: str, words: str, found: Found, columns: Sequence[Column], *, tests: bool = False
) -> list[str]:
    """One row per subject, one column per (heading, how to write it)."""
    head = ["phantom", *(["tests"] if tests else []), *(heading for heading, _ in columns)]
    rows = [
        [f"{s.name} {s.seed}", *([s.tests] if tests else []), *(write(v) for _, write in columns)]
        for s, v in found
    ]
    return _table(title, words, head, rows)


def _plain(key: str, form: str) -> Callable[[Values], str]:
    """Writes one value; nothing where there is none."""
    return lambda v: "" if v[key] is None else format(v[key], form)


def _several(key: str, form: str) -> Callable[[Values], str]:
    return lambda v: " / ".join(format(x, form) for x in v[key])


def _geometry(found: Found) -> list[str]:
    return _by_subject(
        "Anatomy, motion, Jacobian",
        "Dice of lungs (inspiration / expiration) and lobes; error of the motion; what of it was expected (1: the"
        " expected error has the right size) and its rank correlation with the error; J over 4 mm, and the share of"
        " voxels whose 95 % interval holds the true J.",
        found,
        [
            ("mm", _plain("spacing_mm", "g")),
            ("lungs", _several("lungs_dice", ".3f")),
            ("lobes / RML", _several("lobes_dice", ".3f")),
            ("motion mean / p95 mm", lambda v: f"{v['motion_mean']:.2f} / {v['motion_p95']:.2f}"),
            ("0-3 / 3-10 / >10 mm", _several("motion_shells", ".2f")),
            ("expected", _plain("motion_said", ".2f")),
            ("rank r", _plain("motion_rank", ".2f")),
            ("J r", _plain("j_r", ".3f")),
            ("J rms %", _plain("j_rms_pct", ".1f")),
            ("J covered %", _plain("j_covered", ".0f")),
        ],
    )


def _pointwise(found: Found) -> list[str]:
    return _by_subject(
        "T0: true motion, densities of the tissue itself",
        "Rank correlation and bias of the default ventilation and of J - 1 less the true mass change; error of the"
        " mass change relative to its rms; the sum of air gained against the two lungs' air.",
        found,
        [
            ("V r", _plain("t0_v", ".4f")),
            ("V bias %", _plain("t0_v_bias_pct", "+.2f")),
            ("J r", _plain("t0_j", ".4f")),
            ("J bias %", _plain("t0_j_bias_pct", "+.2f")),
            ("m error %", _plain("t0_m_error_pct", ".2f")),
            ("sum %", _plain("t0_sum_pct", ".3f")),
        ],
    )


def _amounts(found: Found) -> list[str]:
    """What lungs hold, on average and in every subject."""
    names = {"ours": "ours", "true": "true masks", "scanned": "null: our masks, CT numbers as scanned"}
    rows = []
    for kind, words in names.items():
        errors = np.array([v[f"held_{kind}_pct"] for _, v in found]).T
        rows.append([words, *(f"{e.mean():+.1f} ({e.min():+.1f} to {e.max():+.1f})" for e in errors)])
    return _table(
        "What the lungs hold",
        "How far mass and air gained of both lungs are off, percent: mean (range). Ours are free of wall: voxels that"
        " are partly wall count as the lung beneath them.",
        ["", "mass at expiration", "mass at inspiration", "air gained"],
        rows,
    )


def _ventilation(found: Found) -> list[str]:
    return _by_subject(
        "Ventilation (T1, T6)",
        "Rank correlation with the true air gained at 8 mm: default map, oracle (true motion and masks), the map with"
        " J as registered (plain), other estimators, and the better of the nulls expired density and height; the"
        " default at 5 mm; share of voxels"
        " whose 95 % interval holds the truth at 5 mm.",
        found,
        [
            *((n, _plain(f"v8_{n.lower()}", ".3f")) for n in ("map", "oracle", "plain", "Jacobian", "HU")),
            ("best null", lambda v: f"{max(abs(v['v8_density']), abs(v['v8_height'])):.3f}"),
            ("map 5 mm", _plain("v5_map", ".3f")),
            ("covered %", _plain("v_covered", ".0f")),
        ],
        tests=True,
    )


def _imposed(found: Found) -> list[str]:
    """T2: rows of the errors, averaged over the subjects."""
    each = [v["t2"] for _, v in found if "t2" in v]
    if not each:
        return []
    null = np.mean([max(abs(v["v8_density"]), abs(v["v8_height"])) for _, v in found if "t2" in v])
    changing = [v["m20_null"] for _, v in found if "t2" in v and v["m20_null"] is not None]
    null_m = f"{np.mean(changing):.3f}" if changing else ""
    rows = []
    for same in zip(*each, strict=True):
        mean = {key: float(np.mean([row[key] for row in same])) for key in same[0]}
        rows.append(
            [
                f"{mean['mm']:g}" if mean["mm"] else "none (oracle)",
                f"{mean['scale_mm']:g}" if mean["mm"] else "",
                *(f"{mean[key]:.3f}" for key in ("v8", "plain8", "j8", "m20")),
                f"{mean['m_covered']:.0f}" if mean["mm"] else "",
                f"{mean['folded']:.1f}",
            ]
        )
    rows.append(["null: density or height", "", *[f"{null:.3f}"] * 3, null_m, "", ""])
    return _table(
        "A motion that is wrong by a known amount (T2)",
        f"The true motion and masks with random errors added, mean of {len(each)} subjects: their rms in mm and the"
        " Gaussian that makes them smooth; rank correlation with the truth of ventilation (default, plain, Jacobian)"
        " at 8 mm and of the mass change over 20 mm; share of its 95 % intervals that hold the truth, given the size"
        " of the error; folded share of the lungs.",
        ["error mm", "sigma mm", "V", "plain", "Jacobian", "mass change", "covered %", "folded %"],
        rows,
    )


def _perfusion(found: Found) -> list[str]:
    return _by_subject(
        "Perfusion and mass change (T3, T4, T5)",
        "Blood mass against true flow at 10 mm, and the nulls; magnitude of the mass change, averaged first, against"
        " true flow, and the signed change against the true one, over 20 mm, with the better of the nulls expired"
        " density and height; share of lung where it is within twice"
        " its error; share of the rest where its sign is right; share of voxels whose 95 % interval holds the truth.",
        found,
        [
            ("Q", _plain("q10_map", ".3f")),
            *((n, _plain(f"q10_{n}", ".3f")) for n in ("oracle", "density", "height")),
            ("abs(m) to flow", _plain("ctp_flow_map", ".3f")),
            ("oracle", _plain("ctp_flow_oracle", ".3f")),
            ("m", _plain("m20_map", ".3f")),
            ("oracle", _plain("m20_oracle", ".3f")),
            ("best null", _plain("m20_null", ".3f")),
            ("below floor %", _plain("m_below_pct", ".0f")),
            ("sign %", _plain("m_sign_pct", ".0f")),
            ("covered %", _plain("m_covered", ".0f")),
        ],
        tests=True,
    )


def _offset(found: Found) -> list[str]:
    rows = []
    ranks = len(RESTS_ON_HU)
    for subject, values in found:
        if "t6" not in values:
            continue
        base = values["t6"]["without"]
        for kind, numbers in values["t6"].items():
            shown = [f"{x:.3f}" for x in numbers[:ranks]]
            if kind in ("calibrated", "as scanned"):
                shown = [f"{x:.3f} ({x - b:+.3f})" for x, b in zip(numbers[:ranks], base, strict=False)]
            # Expired density is no amount of air or mass.
            amounts = [] if kind == "null" else numbers[ranks:]
            shown += [f"{x:+.1f}" for x in amounts] or ["", ""]
            rows.append([f"{subject.name} {subject.seed}", kind, *shown])
    if not rows:
        return []
    return _table(
        "A wrong HU scale (T6)",
        "Rank correlation with the truth at a scale in mm of the same scan without the offset, with it and calibrated"
        " (the default), and with it as scanned, in brackets what the offset costs; true motion and masks (oracle);"
        " expired density (null). Ranks do not see what is off everywhere: how far the air gained is off, and the"
        " mass change on average.",
        ["phantom", "", *(f"{name} {scale:.0f} mm" for name, scale, _ in RESTS_ON_HU), "air %", "mass mg/mL"],
        rows,
    )


def _defects(found: Found) -> list[str]:
    columns: list[Column] = []
    for name, letter in (("ventilation", "V"), ("perfusion", "Q")):
        columns += [
            (f"{letter} low %", _plain(f"{name}_low_pct", ".1f")),
            (f"{letter} Dice", _plain(f"{name}_dice_map", ".2f")),
            ("oracle", _plain(f"{name}_dice_oracle", ".2f")),
            ("null", _plain(f"{name}_dice_null", ".2f")),
        ]
    return _by_subject(
        "Defects (T7)",
        "Lung below 60 % of the mean in truth, and Dice of what we and the oracle find there, and of as much lung of"
        " the lowest expired density (null); classes of the truth found as themselves, percent of each (normal, dead"
        " space, shunt, matched).",
        found,
        [*columns, ("classes", lambda v: _diagonal(v["confusion"]))],
    )


def _slopes(found: Found) -> list[str]:
    """Whether the registration takes away mass change: what was found on what was there, all regions together."""
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
        f"Mass change found on mass change there, {regions.shape[1]} regions of 20 mm radius of all subjects: slope"
        " (its jackknife error over subjects), correlation, bias and spread in mg/mL; slope of the subjects' means."
        " A registration that matched densities would make slopes small.",
        ["", "slope", "r", "bias", "spread", "slope of means"],
        rows,
    )


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    spread = float(((x - x.mean()) ** 2).sum())
    return float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else float("nan")


def _lobar(found: Found) -> list[str]:
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
        f"{len(found)} subjects, five lobes each: pooled r, r over subjects within a lobe (mean of five), mean"
        " absolute error and 95 % limits of agreement in percentage points. Perfusion is held against flow, which"
        " blood mass does not measure.",
        ["", "", "pooled r", "within-lobe r", "error pp", "limits pp"],
        rows,
    )


def _diagonal(confusion: Sequence[float]) -> str:
    # 2 V low + Q low: normal, dead space, shunt, matched
    matrix = np.array(confusion).reshape(4, 4)
    whole = matrix.sum(axis=1)
    return " / ".join(f"{100 * matrix[n, n] / whole[n]:.0f}" if whole[n] > 0.2 else "-" for n in range(4))


def _repeated(found: Found) -> list[str]:
    """T9: how much numbers change from one day to another, beside how much people differ."""
    each = [v["t9"] for _, v in found if "t9" in v]
    if not each:
        return []
    days = {kind: np.array([t[kind] for t in each]) for kind in ("map", "truth")}  # subject, day, number
    rows = []
    for n, name in enumerate(REPEATED):
        row: list[object] = [name]
        for kind in ("map", "truth"):
            pairs = days[kind][:, :, n]
            within = float(np.sqrt((np.diff(pairs, axis=1) ** 2 / 2).mean()))
            row += [f"{pairs.mean():.3g}", f"{within:.2g}", f"{100 * within / pairs.mean():.1f}"]
        means = days["map"][:, :, n].mean(axis=1)
        row.append(f"{100 * means.std(ddof=1) / means.mean():.0f}" if len(means) > 1 else "")
        rows.append(row)
    r = {n: np.mean([t[f"r_{n}"] for t in each]) for n in ("ventilation", "perfusion", "density")}
    depths = [100 * t["depth"] for t in each]
    return _table(
        "The same subject on another day (T9)",
        f"{len(each)} subjects scanned twice, other noise and a breath in of"
        f" {min(depths):.0f} to {max(depths):.0f} % of the first: mean, SD within subjects and coefficient of"
        " variation in percent, of our maps and of the truth (the oracle: what the breath itself changed); CV between"
        " subjects (the null: a number that says nothing about the person). Rank correlation of both days' maps:"
        f" ventilation {r['ventilation']:.3f}, perfusion {r['perfusion']:.3f}, expired density {r['density']:.3f}.",
        ["", "mean", "within", "CoV %", "true mean", "within", "CoV %", "between, CV %"],
        rows,
    )


def _held(found: Found) -> list[str]:
    regions = {"lungs": "lungs_own", "zones": "zones_own", "lobes, ours": "lobes_own"}
    regions["lobes, the true ones given"] = "lobes_given"
    names = {f"share of ventilation: {words}": key for words, key in regions.items()}
    names |= {f"ventilation in mL: {words}": f"{key}_ml" for words, key in regions.items()}
    names |= {
        "share of blood mass: lobes, ours": "blood_own",
        "share of blood mass: lobes, the true ones given": "blood_given",
    }
    rows: list[list[object]] = []
    for words, key in names.items():
        held = [h for _, v in found for h in v["held"].get(key, [])]
        rows.append([words, len(held), f"{100 * np.mean(held):.0f}" if held else ""])
    voxels = (
        ("J, 4 mm", "j_covered"),
        ("ventilation, 5 mm", "v_covered"),
        ("blood mass, 5 mm", "q_covered"),
        ("mass change", "m_covered"),
    )
    rows += [[words, "voxels", f"{np.mean([v[key] for _, v in found]):.0f}"] for words, key in voxels]
    return _table(
        "Stated 95 % intervals that hold the truth",
        "Region by region, all subjects together; and voxel by voxel, mean over the subjects.",
        ["", "intervals", "hold %"],
        rows,
    )
