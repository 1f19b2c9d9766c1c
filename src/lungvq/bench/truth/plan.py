"""Which subjects the method is held against: a knob of the matrix each, then every disease three times and more."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lungvq.bench.table import voxel_size
from lungvq.errors import UsageError
from lungvq.phantom import CASES, CaseSettings, Physiology, Scanner

__all__ = ["LEAST_EACH", "Subject", "diseases_of", "plan", "spacing_of", "spacing_range"]

LEAST_EACH = 3
"""How often each disease is in a plan that is long enough."""

_UNFIT = ("shallow", "collapsed-left")
"""Not in the plan: with hardly a breath, or hardly a lung, shares and correlations say nothing."""


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
        ("healthy", "T1 T2 T9", "healthy"),
        ("low-dose", "T1 T2", "low-dose"),
        ("no-mass-change", "T3", "no-mass-change"),
        ("blood apart from flow", "T4", decoupled),
        ("mass-flip", "T5", "mass-flip"),
        ("offset of 15 HU", "T6", offset),
        ("pe", "T7 T9", "pe"),
        ("emphysema", "T7 T9", "emphysema"),
        ("blood follows flow", "T1", follows),
        ("air-trapping", "T7 T9", "air-trapping"),
        ("cteph", "T7 T9", "cteph"),
        ("sharp-kernel", "T1", "sharp-kernel"),
    ]


def diseases_of(settings: CaseSettings) -> set[str]:
    """The kinds of disease of a case, in the phantom's words.

    Examples
    --------
    >>> sorted(diseases_of(CASES["cteph"])), sorted(diseases_of(CASES["healthy"]))
    (['chronic emboli'], [])
    """
    kinds: set[str] = {disease.kind for disease in settings.diseases}
    emboli = settings.emboli
    if emboli.lobar + emboli.segmental + emboli.subsegmental:
        kinds.add("chronic emboli" if emboli.elsewhere > 1 else "emboli")
    if settings.collapsed:
        kinds.add("collapse")
    if settings.fluid:
        kinds.add("effusion")
    return kinds


def _in_turn(rows: list[tuple[str, str, str | CaseSettings]]) -> str:
    """The case that comes next: of the rarest disease of those seen too rarely, else of all, the least used."""
    settings = {name: case for name, case in CASES.items() if name not in _UNFIT}
    ill = {name: diseases_of(case) for name, case in settings.items()}
    used = Counter(name for name, *_ in rows)
    seen = Counter({kind: 0 for kinds in ill.values() for kind in kinds})
    seen.update(kind for name, *_ in rows for kind in ill.get(name, ()))
    lacking = [kind for kind, n in seen.items() if n < LEAST_EACH]
    if lacking:
        rarest = min(lacking, key=lambda kind: (seen[kind], kind))
        settings = {name: case for name, case in settings.items() if rarest in ill[name]}
    return min(settings, key=lambda name: used[name])  # the first of those as rare


def plan(count: int, seed: int = 11) -> list[Subject]:
    """The first `count` subjects: one for each knob of the matrix, then each disease three times, then every case.

    Every subject is another person; all are in T0 and T8. Forty are enough for each disease (`diseases_of`) to
    occur at least `LEAST_EACH` times; in longer plans the cases follow in turn.
    """
    rng = np.random.default_rng([seed, 6])
    rows = _matrix()
    while len(rows) < count:
        name = _in_turn(rows)
        rows.append((name, "", name))
    return [
        Subject(name, tests, case, int(rng.integers(1000, 1_000_000))) for name, tests, case in rows[:count]
    ]


def spacing_range(text: str) -> tuple[float, float]:
    """Voxel sizes from ``"3"`` or ``"1.5-3"``, mm.

    Raises
    ------
    UsageError
        If it is neither.

    Examples
    --------
    >>> spacing_range("1.5-3"), spacing_range("3")
    ((1.5, 3.0), (3.0, 3.0))
    """
    first, _, last = text.partition("-")
    low, high = voxel_size(first), voxel_size(last or first)
    if low > high:
        raise UsageError(f"expected a range of voxel sizes from the smaller to the larger, got {text!r}")
    return low, high


def spacing_of(subject: Subject, ends: tuple[float, float]) -> float:
    """The voxel size a subject is scanned with: drawn from the range with its seed, to a tenth of a millimetre."""
    drawn = np.random.default_rng([subject.seed, 9]).uniform(*ends)
    return float(np.clip(round(drawn, 1), *ends))
