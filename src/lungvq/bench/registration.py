"""Registrations held against known motion: which pairs, what is measured, and how it is told.

``benchmarks/registration.py`` runs it, each registration in a process of its own.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter

from lungvq.anatomy import LUNG_OF_LOBE_LABEL, RIGHT
from lungvq.bench.table import table
from lungvq.errors import UsageError
from lungvq.landmarks import summarise
from lungvq.phantom import CASES, Breath, CaseSettings, Scanner, make_phantom
from lungvq.regional import Neighbourhoods, carry, reaching_out
from lungvq.register import RegisterOptions, Registration, register
from lungvq.register.backends import Backend, OneLung, affine, elastix, greedy
from lungvq.register.field import Array, jacobian, pull
from lungvq.run import peak_memory_mb
from lungvq.segment import segment
from lungvq.segment.lobes import find_lobes
from lungvq.volume import CANONICAL, Volume

__all__ = [
    "GREEDY_SMOOTHING",
    "METHODS",
    "PairSpec",
    "TruePair",
    "depth_mm",
    "jacobian_error",
    "known_motion_pair",
    "load_pair",
    "machine",
    "make_pair",
    "measure",
    "plan",
    "report",
    "run_method",
    "save_pair",
]

Floats = NDArray[np.floating]

SHELLS_MM = ((0.0, 3.0), (3.0, 6.0), (6.0, 10.0), (10.0, 20.0), (20.0, np.inf))
JACOBIAN_SIGMAS_MM = (5.0, 10.0)
GREEDY_SMOOTHING = ("1.5vox 0.5vox", "2vox 1vox", "3vox 1vox", "4vox 1.5vox", "5vox 2vox")
_ELASTIX_ITERATIONS = (250, 250, 500)
_OFFSET_MM = (23.0, -17.0, 28.0)  # 40 mm in all
_SLAB_MM = 14.0
_DESCENT_MM = 45.0


# ---------------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True, kw_only=True)
class PairSpec:
    """One pair of the benchmark.

    Parameters
    ----------
    name, kind : str
        `kind` is the table it belongs to: ``smooth``, ``heterogeneous``, ``robustness``.
    case : str or CaseSettings
    seed : int
        Which person.
    slice_mm : float or None
        Distance of slices, where it is not that of rows and columns.
    offset_mm : tuple of 3 floats
        By how much the inspiratory scan is displaced, LPS.
    slab : str
        ``fixed`` or ``moving``: whose mask lacks 14 mm of the right lung.
    peers : bool
        Whether the slow methods run on it too.
    """

    name: str
    kind: str
    case: str | CaseSettings
    seed: int
    slice_mm: float | None = None
    offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    slab: str = ""
    peers: bool = False


@dataclass(frozen=True, eq=False)
class TruePair:
    """Two scans, the masks a registration is given, and the true motion at every voxel of the true lung.

    Parameters
    ----------
    fixed, moving : Volume
        Expiration and inspiration, canonical order, HU.
    fixed_lungs, moving_lungs : Volume
        True lungs, 1 left and 2 right.
    given_fixed, given_moving : Volume
        The lungs a registration is told of.
    motion : ndarray, shape (N, 3)
        mm, LPS, at the N voxels of `fixed_lungs` in C order.
    jacobian : ndarray, shape (N,)
    landmarks : ndarray, shape (M, 2, 3)
        Expiration, inspiration; LPS mm.
    """

    fixed: Volume
    moving: Volume
    fixed_lungs: Volume
    moving_lungs: Volume
    given_fixed: Volume
    given_moving: Volume
    motion: Floats
    jacobian: Floats
    landmarks: Floats

    @property
    def points(self) -> Floats:
        """LPS mm of the voxels of the fixed lungs."""
        return self.fixed_lungs.grid.world(np.argwhere(self.fixed_lungs.array > 0))


def plan(seed: int = 4) -> list[PairSpec]:
    """The pairs, those for the slow methods first; `seed` chooses the persons and how far they breathe.

    Tune on one seed and judge on another.
    """
    rng = np.random.default_rng([seed, 4])
    specs = []

    def add(name: str, kind: str, case: str | CaseSettings, **more: Any) -> None:
        person = int(rng.integers(1000, 1_000_000))
        specs.append(PairSpec(name=name, kind=kind, case=case, seed=person, **more))

    for name, case, descent, peers in (
        ("smooth-easy", "healthy", (14, 22), False),
        ("smooth-middle", "healthy", (24, 34), True),
        ("smooth-far", "healthy", (42, 48), True),
        ("smooth-emphysema", "emphysema-diffuse", (30, 42), False),
        ("smooth-emboli", "pe-silent", (30, 46), False),
        ("smooth-low-dose", "low-dose", (30, 46), False),
    ):
        add(name, "smooth", _smooth(CASES[case], rng.uniform(*descent)), peers=peers)
    for name, peers in (
        ("healthy", True),
        ("emphysema", False),
        ("emphysema-lower", False),
        ("air-trapping", True),
        ("small-airways", False),
        ("pe", False),
        ("consolidation", False),
        ("fibrosis", False),
        ("large-motion", True),
        ("sliding", False),
        ("low-dose", False),
    ):
        add(name, "heterogeneous", name, peers=peers)
    healthy = CASES["healthy"]
    swapped = replace(healthy, insp=Scanner(noise_hu=38.0), exp=Scanner(noise_hu=12.0))
    add("offset-40mm", "robustness", "healthy", offset_mm=_OFFSET_MM, peers=True)
    add("thick-slices", "robustness", "thick-slices", slice_mm=5.0)
    add("slab-missing-exp", "robustness", "healthy", slab="fixed")
    add("slab-missing-insp", "robustness", "healthy", slab="moving")
    add("noise-swapped", "robustness", swapped)
    add("sharp-kernel", "robustness", "sharp-kernel")
    add("collapsed-lung", "robustness", "collapsed-left")
    add("collapsed-lobe", "robustness", "collapsed-lobe")
    return sorted(specs, key=lambda spec: not spec.peers)


def _smooth(settings: CaseSettings, descent_mm: float) -> CaseSettings:
    """The same subject with a breath that varies over 16-22 mm and not finer, in proportion to the descent."""
    part = descent_mm / 60
    breath = Breath(
        descent_mm=(descent_mm - 1, descent_mm + 1),
        widen=(0.09 * part, 0.10 * part),
        deepen=(0.17 * part, 0.20 * part),
        coarse_mm=1.0,
        fine_mm=0.0,
    )
    return replace(settings, breath=breath)


def make_pair(spec: PairSpec, spacing: float) -> TruePair:
    """The scans of a spec and their truth, at `spacing` mm."""
    phantom = make_phantom(spec.case, seed=spec.seed, spacing=(spec.slice_mm or spacing, spacing, spacing))
    fixed, moving, lobes, lobes_insp, displacement, jac = (
        v.reorient(CANONICAL)
        for v in (
            phantom.exp,
            phantom.insp,
            phantom.truth.lobes_exp,
            phantom.truth.lobes_insp,
            phantom.truth.displacement,
            phantom.truth.jacobian,
        )
    )
    shift = np.array(spec.offset_mm)
    affine_ = moving.affine.copy()
    affine_[:3, 3] += shift
    lung = np.array(LUNG_OF_LOBE_LABEL, np.uint8)
    fixed_lungs = lobes.like(lung[lobes.array])
    moving_lungs = Volume(lung[lobes_insp.array], affine_)
    inside = fixed_lungs.array > 0
    landmarks = phantom.truth.landmarks.copy()
    landmarks[:, 1] += shift
    return TruePair(
        fixed,
        Volume(moving.array, affine_),
        fixed_lungs,
        moving_lungs,
        without_slab(fixed_lungs) if spec.slab == "fixed" else fixed_lungs,
        without_slab(moving_lungs) if spec.slab == "moving" else moving_lungs,
        (displacement.array[inside] + shift).astype(np.float32),
        jac.array[inside],
        landmarks,
    )


def without_slab(lungs: Volume) -> Volume:
    """A mask that lacks the outermost 14 mm of the right lung, as where a segmentation gave up a consolidation."""
    right = lungs.array == RIGHT
    columns = np.flatnonzero(right.any(axis=(0, 1)))
    lateral = np.arange(right.shape[2]) < columns[0] + _SLAB_MM / lungs.spacing[2]
    return lungs.like(np.where(right & lateral, 0, lungs.array))


def known_motion_pair(scan: Volume, lungs: Volume, seed: int = 4) -> TruePair:
    """A real inspiration, and the expiration it would come from by a motion of our making.

    Real texture and size, with the truth in closed form: a tensor-product cubic spline. Parenchyma gets denser as
    it shrinks, vessels do not; noise of its own is added. What the real scan has of noise is in both.

    Parameters
    ----------
    scan, lungs : Volume
        Canonical order.
    seed : int
        Of the part of the motion that is random: 2 mm at knots 12 mm apart.
    """
    rng = np.random.default_rng(seed)
    present = np.argwhere(lungs.array > 0)
    margin = [int(np.ceil(6 / s)) for s in scan.spacing]
    low = np.maximum(present.min(axis=0) - margin, 0)
    high = np.minimum(present.max(axis=0) + 1 + margin, scan.shape)
    box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    corners = lungs.grid.world([present.min(axis=0), present.max(axis=0)])
    centre, bottom, top = corners.mean(axis=0), corners[0, 2], corners[1, 2]
    grid = scan.grid.crop(box)
    axes = [grid.affine[2 - n, 3] + grid.spacing[n] * np.arange(grid.shape[n]) for n in range(3)]  # z, y, x
    knots = [np.arange(a[0] - 36, a[-1] + 48, 12.0) for a in axes]
    here = [BSpline(t, np.eye(len(t) - 4), 3) for t in knots]
    z, y, x = np.meshgrid(
        *((t[2:-2]) for t in knots), indexing="ij"
    )  # where each basis function has its peak
    share = np.clip((top - z) / (top - bottom - _DESCENT_MM), 0, 1.3)
    motion = np.stack([-_DESCENT_MM * share**1.3, 0.12 * (y - centre[1]), 0.08 * (x - centre[0])])
    motion += rng.normal(0, 2.0, motion.shape)

    def evaluate(values: Floats, along: int | None = None) -> Floats:
        bases = [
            (b.derivative() if n == along else b)(a) for n, (b, a) in enumerate(zip(here, axes, strict=True))
        ]
        part = np.einsum("abc,ic->abi", values, bases[2], optimize=True)
        part = np.einsum("abi,jb->aji", part, bases[1], optimize=True)
        return np.tensordot(bases[0], part, axes=(1, 0)).astype(np.float32)

    u = np.stack([evaluate(component) for component in motion])
    gradient = [[evaluate(component, n) for n in range(3)] for component in motion]
    for n in range(3):
        gradient[n][n] += 1
    (a, b, c), (d, e, f), (g, h, i) = gradient
    jac = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    del gradient, a, b, c, d, e, f, g, h, i
    step = np.array(grid.spacing, np.float32)[:, None, None, None]
    in_voxels = u / step
    label = pull_nearest(lungs.array[box], in_voxels)
    density = 1 + pull(scan.array[box].astype(np.float32)[None], in_voxels, True, 0.0)[0] / 1000
    soft = np.clip((0.9 - density) / 0.6, 0, 1)
    noise = gaussian_filter(rng.standard_normal(grid.shape).astype(np.float32), 0.6)
    hu = 1000 * (density * (1 + (jac - 1) * soft) - 1) + noise * np.float32(20 / noise.std())
    fixed = scan.array.copy()
    was = lungs.array[box] > 0
    fixed[box] = np.where(label > 0, np.rint(hu), np.where(was, 40, fixed[box]))
    fixed_lungs = np.zeros_like(lungs.array)
    fixed_lungs[box] = label
    inside = label > 0
    all_motion = np.moveaxis(u[::-1], 0, -1)[inside]
    points = grid.world(np.argwhere(inside))
    bright = np.flatnonzero((hu[inside] > -400) & (distance_transform_edt(inside)[inside] > 8))
    chosen = rng.choice(bright, min(300, len(bright)), replace=False)
    volumes = (lungs.like(fixed_lungs), lungs)
    return TruePair(
        scan.like(fixed),
        scan,
        *volumes,
        *volumes,
        all_motion,
        jac[inside],
        np.stack([points[chosen], points[chosen] + all_motion[chosen]], axis=1),
    )


def pull_nearest(labels: NDArray, field_: Array) -> NDArray:
    """Labels at every voxel's own index plus a field, by the nearest voxel."""
    index = [
        np.clip(
            np.rint(field_[n] + np.arange(size).reshape([-1 if a == n else 1 for a in range(3)])), 0, size - 1
        )
        for n, size in enumerate(labels.shape)
    ]
    return labels[tuple(one.astype(np.intp) for one in index)]


_VOLUMES = ("fixed", "moving", "fixed_lungs", "moving_lungs", "given_fixed", "given_moving")
_ARRAYS = ("motion", "jacobian", "landmarks")


def save_pair(pair: TruePair, path: Path) -> None:
    """Keep a pair as one ``.npz`` file."""
    parts: dict[str, Any] = {name: getattr(pair, name) for name in _ARRAYS}
    for name in _VOLUMES:
        volume = getattr(pair, name)
        parts |= {name: volume.array, f"{name}_affine": volume.affine}
    temporary = path.with_suffix(".part.npz")
    np.savez(temporary, **parts)
    temporary.replace(path)


def load_pair(path: Path) -> TruePair:
    """What `save_pair` kept."""
    with np.load(path) as file:
        parts: dict[str, Any] = {n: Volume(file[n], file[f"{n}_affine"]) for n in _VOLUMES}
        return TruePair(**parts, **{name: file[name] for name in _ARRAYS})


# ------------------------------------------------------------------------------------------------- measures


def depth_mm(lungs: Volume) -> Floats:
    """Distance of each voxel of a lung from the surface of that lung, mm; 0 outside."""
    depth = np.zeros(lungs.shape)
    for label, box in enumerate(find_objects(lungs.array), start=1):
        if box is not None:
            inside = np.pad(lungs.array[box] == label, 1)  # beyond the image there is no lung either
            far = distance_transform_edt(inside, sampling=lungs.spacing)[1:-1, 1:-1, 1:-1]
            depth[box] = np.where(inside[1:-1, 1:-1, 1:-1], far, depth[box])
    return np.maximum(depth - 0.5 * min(lungs.spacing), 0)


def spread(error: Floats) -> dict[str, float]:
    """Mean, median, 95th percentile and largest of some errors; empty for none."""
    if not len(error):
        return {}
    summary = summarise(error)
    return {name: getattr(summary, name) for name in ("mean", "median", "p95", "max")}


def shells(error: Floats, depth: Floats) -> dict[str, float]:
    """Mean error in shells of depth under the pleura; NaN where a shell is empty."""
    found = {}
    for low, high in SHELLS_MM:
        here = (depth >= low) & (depth < high)
        name = f"{low:g}-{high:g}" if np.isfinite(high) else f">{low:g}"
        found[name] = float(error[here].mean()) if here.any() else float("nan")
    return found


def jacobian_error(found: Floats, truth: Floats, lungs: Volume, sigma_mm: float) -> tuple[float, float]:
    """How well J agrees with the truth once both are smoothed within each lung.

    Parameters
    ----------
    found, truth : ndarray, shape (N,)
        At the N voxels of `lungs` in C order.
    lungs : Volume
    sigma_mm : float
        Of the Gaussian.

    Returns
    -------
    r : float
        Pearson correlation; NaN where one of them does not vary.
    rms_percent : float
        Root mean square of the difference over the mean of the truth.
    """
    near, inside = Neighbourhoods(lungs, sigma_mm), lungs.array > 0
    smooth = []
    for values in (found, truth):
        image = np.zeros(lungs.shape, np.float32)
        image[inside] = values
        smooth.append(carry(near.mean(image), lungs)[inside].astype(float))
    a, b = smooth
    r = float(np.corrcoef(a, b)[0, 1]) if min(a.std(), b.std()) > 0 else float("nan")
    return r, 100 * float(np.sqrt(((a - b) ** 2).mean()) / b.mean())


def measure(pair: TruePair, found: Registration) -> dict[str, float]:
    """All errors of one registration, mm or as the name says; ``shell_`` by depth, ``closure_`` in percent."""
    points = pair.points
    error = np.linalg.norm(np.nan_to_num(found.displacement.sample(points)) - pair.motion, axis=1)
    depth = depth_mm(pair.fixed_lungs)[pair.fixed_lungs.array > 0]
    start, end = pair.landmarks[:, 0], pair.landmarks[:, 1]
    tre = np.linalg.norm(start + np.nan_to_num(found.displacement.sample(start)) - end, axis=1)
    values = {f"tre_{name}": value for name, value in spread(tre).items()}
    values |= {f"dense_{name}": value for name, value in spread(error).items()}
    values |= {f"shell_{name}": value for name, value in shells(error, depth).items()}
    raw = reaching_out(found.jacobian_raw).sample(points)
    for sigma in JACOBIAN_SIGMAS_MM:
        r, rms = jacobian_error(raw, pair.jacobian, pair.fixed_lungs, sigma)
        values |= {f"jacobian_r_{sigma:g}": r, f"jacobian_rms_{sigma:g}": rms}
    values["motion_mean"] = float(np.linalg.norm(pair.motion, axis=1).mean())
    values["motion_max"] = float(np.linalg.norm(pair.motion, axis=1).max())
    values["voxels"] = float(len(points))
    return values | without_truth(found)


def without_truth(found: Registration) -> dict[str, float]:
    """What can be said of a registration of which nobody knows the truth."""
    quality = found.quality
    inside = found.lungs.array > 0
    values = {
        "folded_percent": 100 * float((found.jacobian_raw.array[inside] <= 0).mean()),
        "surface_mean": quality.overall.surface_mean_mm,
        "surface_p95": quality.overall.surface_p95_mm,
        "dice": quality.overall.dice,
        "correlation": quality.overall.correlation_after,
    }
    closure = {name: 100 * (lung.closure - 1) for name, lung in quality.lungs.items()}
    return values | {f"closure_{name}": value for name, value in closure.items()}


# -------------------------------------------------------------------------------------------------- methods


LOBES_APART = "lungvq lobes apart"
"""As `lungvq run` does it: our own lobes of the moving scan, where their fissures were seen, each for itself."""

METHODS: dict[str, str | Backend] = {
    "affine": affine,
    "lungvq": "lungvq",
    LOBES_APART: "lungvq",
    **{f"greedy {s}": partial(greedy, smoothing=s) for s in GREEDY_SMOOTHING},
    "elastix": partial(elastix, iterations=_ELASTIX_ITERATIONS),
}
"""What is compared: everything before and after `RegisterOptions.backend` is the same for all."""
OURS = ("lungvq", LOBES_APART)
FAST = ("affine", *OURS)


@dataclass(eq=False)
class _Watched:
    """A backend, and how much of each lung its own field folds before that is mended for all alike."""

    backend: Backend
    folded: list[float] = field(default_factory=list)

    def __call__(self, fixed: OneLung, moving: OneLung) -> Array:
        motion = self.backend(fixed, moving)
        inside = fixed.share > 0.5
        self.folded.append(100 * float((jacobian(motion / fixed.grid.spacing[0])[inside] <= 0).mean()))
        return motion


def run_method(
    pair: TruePair, method: str, working_mm: float | None, inverse: bool = False
) -> dict[str, Any]:
    """Register one pair by one method, in this process, and measure error, time and memory.

    Returns
    -------
    dict
        ``values`` (str to float), ``notes`` (list of str), ``digest`` of the field, the same on every run. Times are
        those of the registration: not of finding lobes.
    """
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}; expected of {', '.join(METHODS)}")
    backend = METHODS[method]
    watched = backend if isinstance(backend, str) else _Watched(backend)
    options = RegisterOptions(backend=watched)
    if working_mm is not None:
        options = replace(options, spacing_mm=working_mm)
    scans = (pair.fixed, pair.moving, pair.given_fixed, pair.given_moving)
    # Once on a coarse grid, so that no compilation and no loading of compiled code is in the times.
    warm = "lungvq" if method in OURS else affine
    register(*scans, options=replace(options, spacing_mm=6.0, backend=warm))
    parts = None
    if method == LOBES_APART:
        parts = find_lobes(pair.moving, segment(pair.moving)).that_may_slide()
    start = _clocks()
    found = register(*scans, moving_parts=parts, options=options)
    wall, cpu = (after - before for after, before in zip(_clocks(), start, strict=True))
    values = {"wall_s": wall, "cpu_s": cpu, "peak_gb": _peak_gb()}
    if isinstance(watched, _Watched):
        values["own_folded_percent"] = max(watched.folded)
    values |= measure(pair, found) if len(pair.motion) else without_truth(found)
    if inverse:
        back = register(
            pair.moving, pair.fixed, pair.given_moving, pair.given_fixed, options=options
        ).displacement
        there = pair.points + found.displacement.sample(pair.points)
        values |= {
            f"inverse_{name}": value
            for name, value in spread(
                np.linalg.norm(there + np.nan_to_num(back.sample(there)) - pair.points, axis=1)
            ).items()
        }
    digest = hashlib.sha256(found.displacement.array.tobytes()).hexdigest()[:16]
    left_out = [f.message for f in found.quality.findings if f.code.startswith("LUNG_NOT_REGISTERED")]
    return {"values": values, "notes": left_out, "digest": digest}


def _clocks() -> tuple[float, float]:
    """Wall and CPU seconds, of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.monotonic(), sum(u.ru_utime + u.ru_stime for u in used)


def _peak_gb() -> float:
    """Most memory this process, or one it waited for, has held."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max((peak_memory_mb() or np.nan) / 1e3, children / (1e9 if platform.system() == "Darwin" else 1e6))


# --------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Limit:
    """What a measure is held to: at most, or at least."""

    name: str
    value: float
    at_least: bool = False

    def met(self, values: Mapping[str, float]) -> bool:
        found = self._of(values)
        return found >= self.value if self.at_least else found <= self.value

    def _of(self, values: Mapping[str, float]) -> float:
        if self.name == "closure":
            return max((abs(v) for k, v in values.items() if k.startswith("closure_")), default=np.inf)
        return values[self.name]


_ALWAYS = (Limit("folded_percent", 0.0), Limit("closure", 1.0))


def _limits(mean: float, p95: float, pleura: float, r: float, rms: float) -> tuple[Limit, ...]:
    return (
        Limit("dense_mean", mean),
        Limit("dense_p95", p95),
        Limit("shell_0-3", pleura),
        Limit("jacobian_r_5", r, at_least=True),
        Limit("jacobian_rms_5", rms),
        *_ALWAYS,
    )


LIMITS: dict[str, tuple[Limit, ...]] = {
    "smooth": _limits(0.35, 1.0, 0.8, 0.97, 2.5),
    "heterogeneous": _limits(0.6, 2.0, 1.4, 0.95, 4.5),
    # Twice the errors of the set above; what J is to be is not said.
    "robustness": (Limit("dense_mean", 1.2), Limit("dense_p95", 4.0), Limit("shell_0-3", 2.8), *_ALWAYS),
    "real texture": (
        *_limits(0.6, 2.0, 1.4, 0.95, 4.5),
        Limit("wall_s", 25.0),
        Limit("peak_gb", 4.0),
    ),
}

_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("landmarks mean", "tre_mean", 2),
    ("median", "tre_median", 2),
    ("p95", "tre_p95", 2),
    ("max", "tre_max", 1),
    ("lung mean", "dense_mean", 2),
    ("p95", "dense_p95", 2),
    ("max", "dense_max", 1),
    ("0-3 mm", "shell_0-3", 2),
    ("3-6", "shell_3-6", 2),
    ("6-10", "shell_6-10", 2),
    ("10-20", "shell_10-20", 2),
    (">20", "shell_>20", 2),
    ("J 5 mm r", "jacobian_r_5", 3),
    ("rms %", "jacobian_rms_5", 1),
    ("J 10 mm r", "jacobian_r_10", 3),
    ("rms %", "jacobian_rms_10", 1),
    ("folds %", "folded_percent", 3),
    ("own folds %", "own_folded_percent", 3),
    ("closure %", "closure", 2),
    ("inverse mm", "inverse_mean", 2),
    ("wall s", "wall_s", 1),
    ("CPU s", "cpu_s", 1),
    ("GB", "peak_gb", 2),
)
_REAL = (
    ("surface mean mm", "surface_mean", 2),
    ("p95", "surface_p95", 2),
    ("Dice", "dice", 4),
    ("folds %", "folded_percent", 3),
    ("own folds %", "own_folded_percent", 3),
    ("closure %", "closure", 2),
    ("local correlation", "correlation", 3),
    ("wall s", "wall_s", 1),
    ("CPU s", "cpu_s", 1),
    ("GB", "peak_gb", 2),
)

Row = Mapping[str, Any]
"""``pair``, ``kind``, ``method``, ``values``, ``notes``; ``key``: threads and working grid."""


def report(rows: Sequence[Row]) -> str:
    """Markdown: per set our pairs one by one with pass and fail, then all methods on the pairs they share."""
    parts = []
    for kind, limits in LIMITS.items():
        for method in OURS:
            ours = [row for row in rows if row["kind"] == kind and row["method"] == method]
            if ours:
                parts += [
                    f"### {kind.capitalize()}: {method}, pair by pair",
                    "",
                    _pair_table(ours, limits),
                    "",
                ]
        compared = [row for row in rows if row["kind"] == kind]
        if len({row["method"] for row in compared}) > 1:
            parts += [f"### {kind.capitalize()}: beside peers", "", _peer_table(compared), ""]
    if real := [row for row in rows if row["kind"] == "real"]:
        parts += ["### A real pair", "", _table(real, _REAL), ""]
    if scaled := [row for row in rows if row["kind"] == "scaling"]:
        parts += ["### How time grows", "", _scaling_table(scaled), ""]
    if noted := [f"- {row['pair']}, {row['method']}: {note}" for row in rows for note in row["notes"]]:
        parts += ["Notes of the registrations:", "", *noted, ""]
    return "\n".join(parts)


def _cell(values: Mapping[str, float], name: str, digits: int) -> str:
    if name == "closure":
        found = [v for k, v in values.items() if k.startswith("closure_")]
        return f"{max(found, key=abs):+.{digits}f}" if found else ""
    value = values.get(name, np.nan)
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _pair_table(rows: Sequence[Row], limits: Sequence[Limit]) -> str:
    columns = [c for c in _COLUMNS if any(_cell(row["values"], *c[1:]) for row in rows)]
    body = []
    for row in rows:
        missed = [limit.name for limit in limits if not limit.met(row["values"])]
        cells = [_cell(row["values"], *column[1:]) for column in columns]
        body.append([row["pair"], *cells, "pass" if not missed else "fail: " + ", ".join(missed)])
    held = ", ".join(f"{x.name} {'>=' if x.at_least else '<='} {x.value:g}" for x in limits)
    return table(["pair", *(c[0] for c in columns), "limits"], body) + f"\n\nLimits: {held}."


def _peer_table(rows: Sequence[Row]) -> str:
    """Means over the pairs that every method has done; the best greedy is that of the least mean error."""
    methods = [m for m in METHODS if any(row["method"] == m for row in rows)]
    done = {m: {row["pair"]: row for row in rows if row["method"] == m} for m in methods}
    shared = sorted(set.intersection(*(set(pairs) for pairs in done.values())))
    if not shared:
        return "No pair was done by all methods."
    means: list[dict[str, Any]] = []
    for method in methods:
        every = [done[method][pair]["values"] for pair in shared]
        mean = {
            name: float(np.mean([values.get(name, np.nan) for values in every]))
            for name in {name for values in every for name in values if not name.startswith("closure_")}
        }
        worst = [v for values in every for k, v in values.items() if k.startswith("closure_")]
        means.append({"method": method, "values": mean | {"closure_worst": max(worst, key=abs)}})
    text = f"Means over {', '.join(shared)}.\n\n{_table(means, _COLUMNS)}"
    by_name = {row["method"]: row["values"] for row in means}
    peers = [m for m in methods if m.startswith("greedy")]
    if not peers or "lungvq" not in by_name:
        return text
    best = min(peers, key=lambda m: by_name[m]["dense_mean"])
    return text + "\n\n" + _against(best, by_name["lungvq"], by_name[best])


def _against(peer: str, ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """One paragraph: where we are not better than a peer, and how much faster."""
    lower = [n for n in ours if n.startswith(("tre_", "dense_", "shell_", "jacobian_rms")) and n in theirs]
    worse = [n for n in lower if not ours[n] < theirs[n]]
    worse += [n for n in ours if n.startswith("jacobian_r_") and not ours[n] > theirs[n]]
    speed = theirs["wall_s"] / ours["wall_s"]
    verdict = "on every row" if not worse else "on every row but " + ", ".join(sorted(worse))
    return f"Best of greedy on this set: {peer}. lungvq is more accurate {verdict}, and {speed:.1f} times as fast."


def _scaling_table(rows: Sequence[Row]) -> str:
    body = [
        [
            row["pair"],
            str(row["key"].get("at_once", 1)),
            str(row["key"]["threads"]),
            str(row["key"]["working"] or "default"),
            *(f"{row['values'][name]:.1f}" for name in ("wall_s", "cpu_s", "peak_gb")),
            f"{row['values']['dense_mean']:.2f}",
        ]
        for row in rows
    ]
    return table(
        ["pair", "at once", "threads", "working grid mm", "wall s", "CPU s", "GB", "lung mean mm"], body
    )


def _table(rows: Sequence[Row], columns: Sequence[tuple[str, str, int]]) -> str:
    used = [c for c in columns if any(_cell(row["values"], *c[1:]) for row in rows)]
    body = [[row["method"], *(_cell(row["values"], *c[1:]) for c in used)] for row in rows]
    return table(["method", *(c[0] for c in used)], body)


def machine() -> str:
    """One line on the processor and the memory."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = named[0].split(":", 1)[1].strip() if named else name
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GB"
    return f"{name}, {os.cpu_count()} cores{memory}, {platform.system()}"
