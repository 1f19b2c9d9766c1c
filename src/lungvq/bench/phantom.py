"""The phantom against published anatomy and physiology, and its truths against each other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes
from scipy.spatial import cKDTree

from lungvq.anatomy import LOBES, VQ_CLASSES
from lungvq.bench.facts import HALF, PUBLISHED, SOURCES, by_generation, facts
from lungvq.bench.table import cases_named, made_with, table
from lungvq.phantom import CASES, Phantom, make_phantom
from lungvq.phantom import tissue as kinds
from lungvq.phantom.motion import map_points, unmap_points
from lungvq.phantom.place import lobes_at
from lungvq.phantom.subject import Subject, draw_subject
from lungvq.phantom.tree import AIRWAY_DIAMETER

__all__ = ["balance", "bench_phantom", "crossings", "derivatives", "wedges"]

Floats = NDArray[np.float64]
Tell = Callable[[str], None]

DISEASES = {
    "emphysema": kinds.EMPHYSEMA,
    "air trapping": kinds.TRAPPING,
    "embolism": kinds.EMBOLISM,
    "consolidation": kinds.CONSOLIDATION,
    "ground glass": kinds.GROUND_GLASS,
    "fibrosis": kinds.FIBROSIS,
    "patchy flow": kinds.PATCHY_FLOW,
}
WEIBEL_DIAMETER = (18.0, 12.2, 8.3, 5.6, 4.5, 3.5, 2.8, 2.3, 1.86)  # mm, generations 0 to 8
LARGE = {"spacing": (0.8, 0.7, 0.7), "matrix": (512, 512)}


def bench_phantom(cases: str, seeds: int, spacing: float, large: bool, tell: Tell) -> str:
    """Hold the phantom against the literature and against itself.

    Parameters
    ----------
    cases : str
        Names separated by commas, or ``"all"``: which are drawn in voxels and checked.
    seeds : int
        Healthy subjects for the table of facts, seeds 0 to `seeds` - 1.
    spacing : float
        mm; every case is drawn at twice that, the balances are also checked at 4/3 and 1 of it.
    large : bool
        Whether to time a pair of 512 x 512 x about 400 voxels.
    tell : callable
        Takes a line for each step done.

    Returns
    -------
    str
        Markdown tables.
    """
    names = cases_named(cases)
    command = f"lungvq bench phantom --cases {cases} --seeds {seeds} --spacing {spacing:g}"
    parts = [made_with(command + " --large" * large), *_facts_part(seeds, tell)]
    parts += _cases_part(names, spacing, tell)
    parts += _knobs_part(tell)
    parts += _cost_part(large, tell)
    return "\n\n".join(parts)


def _facts_part(seeds: int, tell: Tell) -> list[str]:
    found, generations = [], []
    for seed in range(seeds):
        subject = draw_subject(CASES["healthy"], seed)
        found.append(facts(subject))
        generations.append(by_generation(subject))
        tell(f"healthy {seed}: drawn")
    rows = []
    for name, low, high, source in PUBLISHED:
        values = np.array([one[name] for one in found])
        inside = int(((values >= low) & (values <= high)).sum())
        range_ = f"{low:.3g} to {high:.3g}" if np.isfinite(high) else f"over {low:.3g}"
        rows.append(
            [
                name,
                range_,
                source,
                f"{values.mean():.3g} ({values.std():.2g})",
                f"{values.min():.3g} to {values.max():.3g}",
                f"{inside}" if inside == seeds else f"**{inside}**",
            ]
        )
    head = ["fact", "published", "source", "phantom: mean (sd)", "least to most", f"inside of {seeds}"]
    return [
        f"### Facts of {seeds} healthy subjects",
        "Means and sds were published for CHE19, MIL89, CIP, the right lung, and the densities of BRU87: the range is"
        f" mean ± 2 sd. Where no spread was published (the other values of BRU87, HOP07, GRAV, MUSCH02, the mass of"
        f" KOB25, arteries) it is {HALF}; of a ratio, of what exceeds 1. Phantoms are counted at points 4 mm apart,"
        " without noise; back and front are thirds of the lung in the middle half of its height.",
        table(head, rows),
        "Sources: " + "; ".join(f"{key}: {text}" for key, text in SOURCES.items()) + ".",
        "### Airways and arteries by generation",
        _generation_table(generations),
    ]


def _generation_table(generations: Sequence[Floats]) -> str:
    mean = np.nanmean(generations, axis=0)
    rows = [
        [
            g,
            f"{mean[g, 0]:.0f}",
            f"{mean[g, 1]:.1f}",
            f"{AIRWAY_DIAMETER[g]:.1f}",
            f"{WEIBEL_DIAMETER[g]:.1f}",
            f"{mean[g, 2]:.1f}",
        ]
        for g in range(len(mean))
    ]
    head = ["generation", "airways", "diameter, mm", "Schmidt 2004", "Weibel A", "arteries, diameter, mm"]
    return table(head, rows)


# ---- what holds within one phantom


def balance(phantom: Phantom) -> tuple[float, float, float]:
    """How far volume, mass and air are from balance, in %.

    Returns
    -------
    volume : float
        Sum of J over the expiratory lung against the volume at inspiration.
    mass : float
        Mass at inspiration less that at expiration, against the blood that was set to come, in % of the mass.
    air : float
        Air at inspiration less that at expiration, against the sum of V, in % of that.
    """
    s = {name: value for name, value in phantom.truth.scalars.items() if isinstance(value, float)}
    stretched = s["volume_exp_ml"] + s["air_gained_ml"] + s["mass_gained_g"]
    mass = s["mass_insp_g"] - s["mass_exp_g"]
    air = s["volume_insp_ml"] - s["volume_exp_ml"] - mass
    return (
        100 * (stretched / s["volume_insp_ml"] - 1),
        100 * (mass - s["mass_gained_g"]) / s["mass_exp_g"],
        100 * (air / s["air_gained_ml"] - 1),
    )


def derivatives(subject: Subject, count: int = 2000, step: float = 1e-3) -> tuple[float, float]:
    """Largest relative error of J against finite differences of the map, and of map then inverse, mm.

    Differences are taken over `step` mm to both sides, more than 1 mm from fissures, where sliding has no derivative.
    """
    samples = subject.samples
    away = np.flatnonzero(samples.fissure > 1.0)
    points = samples.points[np.random.default_rng(0).choice(away, count)]
    moved, jacobian = map_points(subject.motion, points)
    columns = [
        map_points(subject.motion, points + step * d)[0] - map_points(subject.motion, points - step * d)[0]
        for d in np.eye(3)
    ]
    difference = np.linalg.det(np.stack(columns, axis=-1) / (2 * step))
    back = unmap_points(subject.motion, moved)
    return (
        float(np.abs(difference / jacobian - 1).max()),
        float(np.linalg.norm(back - points, axis=1).max()),
    )


def crossings(subject: Subject, step: float = 0.5) -> tuple[int, int]:
    """Points along branches in lobes that lie outside their lobe, and how many points were looked at."""
    wrong = total = 0
    for tree in subject.trees:
        inside = tree.lobe > 0
        ends, lobe = tree.ends[inside], tree.lobe[inside]
        count = np.ceil(tree.length[inside] / step).astype(int) + 1
        owner = np.repeat(np.arange(len(count)), count)
        share = (np.arange(len(owner)) - (np.cumsum(count) - count)[owner]) / np.maximum(count - 1, 1)[owner]
        points = ends[owner, 0] + share[:, None] * (ends[owner, 1] - ends[owner, 0])
        found = lobes_at(subject.shape, subject.motion, points)[0]
        wrong += int((found != lobe[owner]).sum())
        total += len(owner)
    return wrong, total


def wedges(phantom: Phantom) -> tuple[int, int]:
    """Voxels of embolism in the truth, and how many differ from what a search of all ends says.

    By another route than the phantom's: a k-d tree of the ends in each lobe, and the branches above each end.
    """
    truth, arteries = phantom.truth, phantom.subject.trees.arteries
    below = np.zeros(len(arteries), bool)
    for branch in phantom.subject.blocked:
        below |= arteries.subtree(branch)
    expected = np.zeros(truth.disease.shape, bool)
    for label in LOBES.values():
        ends = np.flatnonzero(arteries.is_leaf & (arteries.lobe == label))
        index = np.argwhere(truth.lobes_exp.array == label)
        if len(ends) and len(index):
            nearest = cKDTree(arteries.ends[ends, 1]).query(truth.lobes_exp.grid.world(index))[1]
            expected[tuple(index.T)] = below[ends[nearest]]
    found = truth.disease.array == kinds.EMBOLISM
    return int(found.sum()), int((found != expected).sum())


def _cases_part(names: Sequence[str], spacing: float, tell: Tell) -> list[str]:
    case_rows, balance_rows, check_rows = [], [], []
    for name in names:
        phantom = make_phantom(name, seed=0, spacing=2 * spacing)
        case_rows.append(_case_row(phantom))
        balance_rows.append(_balance_row(phantom, 2 * spacing))
        check_rows.append(_check_row(phantom))
        tell(f"{name}: drawn and checked")
    for name in [name for name in ("healthy", "large-motion", "sliding") if name in names]:
        for step, seed in ((4 / 3 * spacing, 1), (spacing, 2)):
            balance_rows.append(_balance_row(make_phantom(name, seed=seed, spacing=step), step))
            tell(f"{name} {seed}, {step:g} mm: balanced")
    return [
        "### Conservation",
        "Truth that is summed over the expiratory image against what both images hold, in %.",
        table(["phantom", "spacing, mm", "sum of J", "mass", "air"], balance_rows),
        "### Closed form, trees and territories",
        "J against finite differences over 1 µm; map then inverse; points each 0.5 mm along branches of airways,"
        " arteries and veins in lobes that lie outside their lobe; voxels enclosed by lung without a lobe; voxels of"
        " embolism that are not exactly those whose nearest end of artery is below a blocked branch.",
        table(
            ["phantom", "J, relative", "inverse, mm", "outside their lobe", "no lobe", "embolism, wrong"],
            check_rows,
        ),
        f"### Every case, seed 0, {2 * spacing:g} mm",
        "With scanner and noise. Published for healthy never-smokers (PMC3703944): 2.0 % (sd 2.7) at or below -950 HU"
        " at inspiration, 9.2 % (sd 6.8) at or below -856 HU at expiration.",
        table(
            [
                "case",
                "volume exp / insp, L",
                "mean HU exp / insp",
                "≤ -950, %",
                "≤ -856, %",
                "normal / dead space / shunt / matched, %",
                "disease, % of volume",
            ],
            case_rows,
        ),
    ]


def _balance_row(phantom: Phantom, step: float) -> list[str]:
    return [f"{phantom.case} {phantom.seed}", f"{step:g}", *(f"{v:+.3f}" for v in balance(phantom))]


def _check_row(phantom: Phantom) -> list[str]:
    jacobian, inverse = derivatives(phantom.subject)
    wrong, total = crossings(phantom.subject)
    lobes = phantom.truth.lobes_exp.array
    holes = int((binary_fill_holes(lobes > 0) & (lobes == 0)).sum())
    ill, differ = wedges(phantom)
    return [
        f"{phantom.case} {phantom.seed}",
        f"{jacobian:.1e}",
        f"{inverse:.1e}",
        f"{wrong} of {total}",
        f"{holes}",
        f"{differ} of {ill}" if phantom.subject.blocked else "",
    ]


def _case_row(phantom: Phantom) -> list[str]:
    truth = phantom.truth
    inside = truth.lobes_exp.array > 0
    exp, insp = phantom.exp.array[inside], phantom.insp.array[truth.lobes_insp.array > 0]
    classes = [100 * (truth.vq_class.array[inside] == n).mean() for n in VQ_CLASSES.values()]
    ill = {name: 100 * (truth.disease.array[inside] == n).mean() for name, n in DISEASES.items()}
    litres = [float(truth.scalars[f"volume_{role}_ml"]) / 1000 for role in ("exp", "insp")]  # type: ignore[arg-type]
    return [
        phantom.case,
        f"{litres[0]:.2f} / {litres[1]:.2f}",
        f"{exp.mean():.0f} / {insp.mean():.0f}",
        f"{100 * (insp <= -950).mean():.1f}",
        f"{100 * (exp <= -856).mean():.1f}",
        " / ".join(f"{c:.0f}" for c in classes),
        ", ".join(f"{name} {share:.1f}" for name, share in ill.items() if share > 0),
    ]


# ---- knobs


def _knobs_part(tell: Tell) -> list[str]:
    def turned(follow: float, beta: float, gamma: float = 0.0) -> Phantom:
        healthy = CASES["healthy"]
        physiology = replace(
            healthy.physiology, follow=(follow, follow), beta=(beta, beta), gamma=(gamma, gamma)
        )
        settings = replace(healthy, physiology=physiology)
        tell(f"follow {follow}, beta {beta}, gamma {gamma}: drawn")
        return make_phantom(settings, seed=0, spacing=4.0)

    base = turned(0.5, -0.02)
    rows = [
        _knob_row("beta -0.02 to 0.03", base, turned(0.5, 0.03)),
        _knob_row("w 0.5 to 0 (beta form)", base, turned(0.0, -0.02)),
        _knob_row("gamma 0 to 0.1", base, turned(0.5, -0.02, 0.1)),
    ]
    return [
        "### Knobs",
        "Healthy, seed 0, 4 mm, the same person but for one knob: largest change of each truth over all voxels. V is"
        " to fall by exactly what the mass rises by (tissue and blood count as water).",
        table(
            ["knob", "motion, mm", "J", "flow", "mass m, g/mL", "V", "V + m", "expired mean HU"],
            rows,
        ),
    ]


def _knob_row(name: str, a: Phantom, b: Phantom) -> list[str]:
    def change(field: str) -> Floats:
        return getattr(b.truth, field).array.astype(float) - getattr(a.truth, field).array

    def most(values: Floats) -> str:
        return f"{np.nanmax(np.abs(values)):.2g}"

    inside = a.truth.lobes_exp.array > 0
    mass, air = change("mass_change"), change("ventilation")
    hu = b.exp.array[inside].mean() - a.exp.array[inside].mean()
    return [
        name,
        most(change("displacement")),
        most(change("jacobian")),
        most(change("perfusion")),
        most(mass),
        most(air),
        most(mass + air),
        f"{hu:+.1f}",
    ]


# ---- cost


def _cost_part(large: bool, tell: Tell) -> list[str]:
    jobs: list[tuple[str, dict[str, object]]] = [("2 mm", {"spacing": 2.0})]
    if large:
        jobs.append(("0.8 x 0.7 x 0.7 mm, 512 x 512", dict(LARGE)))
    rows = []
    for name, arguments in jobs:
        spent = _spend(arguments)
        tell(f"{name}: {spent['wall']:.1f} s")
        rows.append(
            [
                name,
                " and ".join("x".join(map(str, shape)) for shape in spent["shapes"]),
                f"{spent['wall']:.1f}",
                f"{spent['cpu']:.1f}",
                f"{spent['peak_mb'] / 1000:.2f}",
                f"{spent['cpu'] / _peer(spent['shapes']):.1f}",
            ]
        )
    head = ["pair", "voxels", "wall, s", "CPU, s", "peak memory, GB", "CPU, times the peer's"]
    return [
        "### Time and memory",
        "`make_phantom('healthy', seed=0)` in a process of its own, compiled before. The peer is SimpleITK's"
        " recursive Gaussian of 2 mm over two arrays of the same size, CPU time in the same run.",
        table(head, rows),
    ]


_CHILD = """
import json, sys, time
from lungvq.phantom import make_phantom
from lungvq.run import peak_memory_mb
make_phantom("healthy", seed=0, spacing=8.0)
wall, cpu = time.monotonic(), time.process_time()
phantom = make_phantom("healthy", seed=0, **json.loads(sys.argv[1]))
print(json.dumps({
    "wall": time.monotonic() - wall,
    "cpu": time.process_time() - cpu,
    "peak_mb": peak_memory_mb() or float("nan"),
    "shapes": [phantom.exp.shape, phantom.insp.shape],
}))
"""


def _spend(arguments: dict[str, object]) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(arguments)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def _peer(shapes: Iterable[Sequence[int]]) -> float:
    """CPU seconds of the peer."""
    start = time.process_time()
    for shape in shapes:
        image = sitk.GetImageFromArray(np.zeros(shape, np.float32))
        sitk.SmoothingRecursiveGaussian(image, 2.0)
    return time.process_time() - start
