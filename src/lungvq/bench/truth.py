"""Accuracy on phantoms whose truth is known, beside a null that knows nothing and an oracle that knows more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.stats import spearmanr

from lungvq import io
from lungvq.anatomy import LOBES, LUNG_OF_LOBE_LABEL
from lungvq.bench.table import cases_named, made_with, table
from lungvq.breath import Breath, prepare
from lungvq.errors import LungvqError
from lungvq.match import carry_lobes
from lungvq.pair import lung_totals
from lungvq.phantom import Phantom, make_phantom
from lungvq.pipeline import Options, estimate
from lungvq.regional import Neighbourhoods, carry
from lungvq.register import Registration, register
from lungvq.segment.lobes import lobes_from_prior
from lungvq.volume import CANONICAL, Volume

__all__ = ["Accuracy", "bench_truth", "measure"]

_SHELLS_MM = ((0.0, 3.0), (3.0, 10.0), (10.0, np.inf))


@dataclass(frozen=True)
class Accuracy:
    """How one phantom came out.

    Parameters
    ----------
    lungs_dice : (float, float)
        Inspiration, expiration.
    lobes_dice : (float, float)
        Mean over lobes, and of the right middle lobe; inspiration.
    motion_mm : (float, float)
        Mean and 95th percentile of the displacement error over the lungs.
    shells_mm : tuple of 3 floats
        Mean displacement error 0-3, 3-10 and over 10 mm from the pleura.
    jacobian_r : float
        Pearson correlation of J with the truth smoothed alike.
    ventilation_r, perfusion_r, change_r : dict of str to float
        Spearman correlation with the truth, both over neighbourhoods of 5 mm (10 mm for the mass change):
        ``map``, ``oracle`` (true motion and masks), and the nulls ``density`` (expired) and ``height``.
    lobe_error_pp : dict of str to float
        Mean error of a lobe's share of ventilation in percentage points: ``map`` and the null ``volume``.
    """

    lungs_dice: tuple[float, float]
    lobes_dice: tuple[float, float]
    motion_mm: tuple[float, float]
    shells_mm: tuple[float, ...]
    jacobian_r: float
    ventilation_r: dict[str, float]
    perfusion_r: dict[str, float]
    change_r: dict[str, float]
    lobe_error_pp: dict[str, float]


def bench_truth(cases: str, seeds: int, spacing: float, tell: Callable[[str], None]) -> str:
    """Run the method on phantoms and compare with their truth.

    Parameters
    ----------
    cases : str
        Names separated by commas, or ``"all"``.
    seeds : int
        Subjects per case, seeds 0 to `seeds` - 1.
    spacing : float
        mm.
    tell : callable
        Takes a line for each phantom done.

    Returns
    -------
    str
        Markdown tables.
    """
    names = cases_named(cases)
    shape_rows, map_rows = [], []
    for name in names:
        for seed in range(seeds):
            label = f"{name} {seed}"
            try:
                found = measure(make_phantom(name, seed=seed, spacing=spacing))
            except LungvqError as error:
                tell(f"{label}: {error}")
                shape_rows.append([label, "refused", *[""] * 7])
                continue
            tell(f"{label}: motion error {found.motion_mm[0]:.2f} mm, V {found.ventilation_r['map']:.3f}")
            shape_rows.append(_shape_row(label, found))
            map_rows.append(_map_row(label, found))
    command = f"lungvq bench truth --cases {cases} --seeds {seeds} --spacing {spacing:g}"
    return "\n".join(
        [
            made_with(command),
            "",
            table(
                [
                    "phantom",
                    "lungs Dice insp / exp",
                    "lobes Dice mean / RML",
                    "motion error mean / p95 mm",
                    "0-3 mm from pleura",
                    "3-10",
                    ">10",
                    "J r",
                    "lobe V error pp (null: volume)",
                ],
                shape_rows,
            ),
            "",
            "Spearman correlation with the truth: map (oracle: true motion and masks; nulls: expired density,"
            " height).",
            "",
            table(["phantom", "ventilation", "perfusion", "mass change"], map_rows),
        ]
    )


def measure(phantom: Phantom) -> Accuracy:
    """Segment, register and estimate one phantom, and hold each against its truth."""
    insp, exp = (
        prepare(io.Scan(volume, Path(role), "phantom", (), {}), role)
        for role, volume in (("inspiration", phantom.insp), ("expiration", phantom.exp))
    )
    registration = register(exp.ct, insp.ct, exp.anatomy.lungs, insp.anatomy.lungs)
    lobes_insp = lobes_from_prior(insp.anatomy.lungs)
    lobes_exp = carry_lobes(registration, lobes_insp, exp.anatomy.lungs)
    maps = estimate(insp, exp, registration, Options()).maps

    true_lobes = {
        "insp": _onto(phantom.truth.lobes_insp, insp.ct),
        "exp": _onto(phantom.truth.lobes_exp, exp.ct),
    }
    oracle = estimate(
        _with_lungs(insp, _lungs_of(true_lobes["insp"])),
        _with_lungs(exp, _lungs_of(true_lobes["exp"])),
        _true_registration(phantom, registration),
        Options(),
    ).maps

    both = (true_lobes["exp"].array > 0) & (exp.anatomy.lungs.array > 0)
    true_lungs = _lungs_of(true_lobes["exp"])
    small, large = (Neighbourhoods(true_lungs, sigma) for sigma in (5.0, 10.0))
    truth = {
        name: carry(near.mean(np.nan_to_num(_onto(volume, exp.ct).array)), true_lungs)
        for name, volume, near in (
            ("ventilation", phantom.truth.ventilation, small),
            ("perfusion", phantom.truth.perfusion, small),
            ("change", phantom.truth.mass_change, large),
            ("jacobian", phantom.truth.jacobian, small),
        )
    }
    nulls = {
        "density": carry(Neighbourhoods(exp.anatomy.lungs, 5.0).mean(exp.ct.array), exp.anatomy.lungs),
        "height": np.broadcast_to(np.arange(exp.ct.shape[1], dtype=np.float32)[None, :, None], exp.ct.shape),
    }

    def against(name: str, key: str) -> dict[str, float]:
        found = {"map": maps[name].array, "oracle": oracle[name].array, **nulls}
        return {kind: _rank_r(values, truth[key], both) for kind, values in found.items()}

    error = _motion_error(phantom, registration, exp.ct, both)
    depth = distance_transform_edt(both, sampling=exp.ct.spacing)[both]
    return Accuracy(
        (
            _dice(insp.anatomy.lungs.array, _lungs_of(true_lobes["insp"]).array),
            _dice(exp.anatomy.lungs.array, _lungs_of(true_lobes["exp"]).array),
        ),
        (
            _dice(lobes_insp.array, true_lobes["insp"].array),
            _dice(lobes_insp.array, true_lobes["insp"].array, (LOBES["RML"],)),
        ),
        (float(error.mean()), float(np.percentile(error, 95))),
        tuple(float(error[(depth > a) & (depth <= b)].mean()) for a, b in _SHELLS_MM),
        float(np.corrcoef(maps["jacobian"].array[both], truth["jacobian"][both])[0, 1]),
        against("ventilation", "ventilation"),
        against("perfusion", "perfusion"),
        against("perfusion_ctp", "change"),
        _lobe_error(
            maps["ventilation"], lobes_exp, _onto(phantom.truth.ventilation, exp.ct), true_lobes["exp"]
        ),
    )


def _shape_row(label: str, found: Accuracy) -> list[str]:
    return [
        label,
        f"{found.lungs_dice[0]:.3f} / {found.lungs_dice[1]:.3f}",
        f"{found.lobes_dice[0]:.3f} / {found.lobes_dice[1]:.3f}",
        f"{found.motion_mm[0]:.2f} / {found.motion_mm[1]:.2f}",
        *(f"{mm:.2f}" for mm in found.shells_mm),
        f"{found.jacobian_r:.3f}",
        f"{found.lobe_error_pp['map']:.2f} ({found.lobe_error_pp['volume']:.2f})",
    ]


def _map_row(label: str, found: Accuracy) -> list[str]:
    def cell(r: dict[str, float]) -> str:
        return f"{r['map']:.3f} ({r['oracle']:.3f}; {r['density']:.3f}, {r['height']:.3f})"

    return [label, *(cell(r) for r in (found.ventilation_r, found.perfusion_r, found.change_r))]


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


def _motion_error(phantom: Phantom, found: Registration, ct: Volume, inside: np.ndarray) -> np.ndarray:
    points = ct.grid.world(np.argwhere(inside))
    return np.linalg.norm(found.displacement.sample(points) - (phantom.phi(points) - points), axis=1)


def _rank_r(found: np.ndarray, truth: np.ndarray, inside: np.ndarray) -> float:
    """Spearman correlation over every 20th voxel where both are defined."""
    a, b = found[inside][::20], truth[inside][::20]
    defined = np.isfinite(a) & np.isfinite(b)
    return float(spearmanr(a[defined], b[defined]).statistic)


def _dice(a: np.ndarray, b: np.ndarray, labels: tuple[int, ...] | None = None) -> float:
    labels = labels or tuple(np.unique(b[b > 0]).tolist())
    return float(
        np.mean([2 * ((a == n) & (b == n)).sum() / max((a == n).sum() + (b == n).sum(), 1) for n in labels])
    )


def _lobe_error(found: Volume, lobes: Volume, truth: Volume, true_lobes: Volume) -> dict[str, float]:
    """Mean error of the lobes' shares of ventilation, and that of their shares of volume as a guess."""

    def shares(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        sums = np.array([np.nansum(values[labels == n], dtype=np.float64) for n in LOBES.values()])
        return 100 * sums / sums.sum()

    true = shares(truth.array, true_lobes.array)
    ones = np.ones_like(found.array)
    return {
        "map": float(np.abs(shares(found.array, lobes.array) - true).mean()),
        "volume": float(np.abs(shares(ones, lobes.array) - true).mean()),
    }
