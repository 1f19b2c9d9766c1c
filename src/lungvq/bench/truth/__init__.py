"""The method on phantoms whose truth is known: the test matrix T0 to T9, nulls and oracles beside each accuracy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import lungvq
from lungvq.bench.table import cases_named, made_with
from lungvq.bench.truth.measure import Values, measure, pointwise
from lungvq.bench.truth.plan import Subject, plan, spacing_of, spacing_range
from lungvq.bench.truth.report import report
from lungvq.errors import LungvqError
from lungvq.phantom import make_phantom

__all__ = ["Subject", "bench_truth", "measure", "plan", "pointwise"]


def bench_truth(
    cases: str,
    seeds: int,
    spacing: str,
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
    spacing : str
        mm: ``"3"``, or ``"1.5-3"`` for another voxel size of each subject, drawn with its seed.
    tell : callable
        Takes a line for each phantom done.
    kept_in : Path, optional
        Where finished subjects are kept, so that a stopped run goes on; done again where the code has changed.

    Returns
    -------
    str
        Markdown tables.

    Raises
    ------
    UsageError
        If there is no such case or voxel size.
    """
    ends = spacing_range(spacing)
    if cases.isdigit():
        subjects = plan(int(cases))
    else:
        subjects = [Subject(name, "", name, seed) for name in cases_named(cases) for seed in range(seeds)]
    found: list[tuple[Subject, Values]] = []
    refused = []
    for subject in subjects:
        try:
            values = kept(subject, spacing_of(subject, ends), kept_in)
        except LungvqError as error:
            tell(f"{subject.name} {subject.seed}: {error}")
            refused.append(f"- {subject.name} {subject.seed} was refused: {error}")
            continue
        tell(_line(subject, values))
        found.append((subject, values))
    command = f"lungvq bench truth --cases {cases} --spacing {spacing}"
    command += "" if cases.isdigit() else f" --seeds {seeds}"
    return "\n".join([made_with(command), "", *refused, *report(found)])


def _line(subject: Subject, values: Values) -> str:
    return (
        f"{subject.name} {subject.seed}: motion error {values['motion_mean']:.2f} mm, V {values['v8_map']:.3f},"
        f" covered {values['v_covered']:.0f} %"
    )


def kept(subject: Subject, spacing: float, folder: Path | None) -> Values:
    """A subject's values, measured or from the cache."""
    if folder is None:
        return _measured(subject, spacing)
    key = repr((subject, spacing, fingerprint()))
    name = f"{subject.name.replace(' ', '-')}-{subject.seed}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
    path = folder / name
    if path.exists():
        known: Values = json.loads(path.read_text(encoding="utf-8"))
        return known
    values = _measured(subject, spacing)
    folder.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")  # a run that is stopped while writing leaves no half a file
    draft.write_text(json.dumps(values), encoding="utf-8")
    draft.replace(path)
    return values


def _measured(subject: Subject, spacing: float) -> Values:
    phantom = make_phantom(subject.case, seed=subject.seed, spacing=spacing)
    return {"spacing_mm": spacing, **measure(phantom, subject.tests)}


_CODE = (
    "register/*.py",
    "segment/*.py",
    "phantom/*.py",
    "quantify/*.py",
    "pipeline/*.py",
    *(
        f"{name}.py"
        for name in ("ventilation", "perfusion", "ctp", "pair", "match", "wall", "maps", "hu", "breath")
    ),
    *(f"{name}.py" for name in ("regional", "sharpness", "intervals", "fissures", "volume", "_sampling")),
    *(f"clinical/{name}.py" for name in ("prm", "vq", "heterogeneity")),
    *(f"bench/truth/{name}.py" for name in ("measure", "robust", "seen")),
)


@cache
def fingerprint() -> str:
    """What changes with the code that the values come from; how they are shown does not matter."""
    package = Path(lungvq.__file__).parent
    files = [file for pattern in _CODE for file in sorted(package.glob(pattern))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
