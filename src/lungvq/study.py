"""Which two of the scans in a folder are the breath-holds, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lungvq import io
from lungvq.errors import InputError, PairError
from lungvq.pipeline import NO_BREATHING_RATIO, check_same_patient
from lungvq.progress import SILENT, Progress
from lungvq.segment import segment
from lungvq.volume import CANONICAL

__all__ = ["Entry", "Survey", "choose_pair", "survey"]

_LOOK_MM = 3.0  # lung volumes to a few per cent are enough to tell the breath-holds apart

INSPIRATION, EXPIRATION, CANDIDATE, SET_ASIDE = "inspiration", "expiration", "candidate", "set aside"


@dataclass(frozen=True)
class Entry:
    """One series and the part it could play.

    `role` is ``inspiration`` or ``expiration`` where a pair was found, ``candidate`` for a chest CT that is
    not part of one, ``set aside`` for what cannot be used; `reasons` say why.
    """

    series: io.SeriesInfo
    role: str
    reasons: tuple[str, ...]
    lung_ml: float | None = None

    @property
    def slices(self) -> int:
        """Number of images."""
        return self.series.slices

    @property
    def title(self) -> str:
        """What to call it: number, description or file."""
        number = self.series.facts.get("series_number")
        name = self.series.description or self.series.path.name
        return f"series {number}: {name}" if number else name

    @property
    def geometry(self) -> str:
        """Size and spacing for people."""
        grid = self.series.grid
        if grid is None:
            return "geometry unknown"
        size = " x ".join(str(n) for n in reversed(grid.shape))
        return f"{size} voxels of {' x '.join(f'{s:.3g}' for s in reversed(grid.spacing))} mm"

    def to_dict(self) -> dict[str, Any]:
        """Plain values: at least ``slices``, ``role`` and ``reasons``."""
        return {
            **self.series.to_dict(),
            "role": self.role,
            "reasons": list(self.reasons),
            "lung_ml": self.lung_ml,
        }


@dataclass(frozen=True)
class Survey:
    """All series of a folder, and what can be made of them."""

    entries: tuple[Entry, ...]
    verdict: str

    def playing(self, role: str) -> io.SeriesInfo | None:
        """The series with a role, if there is one."""
        return next((entry.series for entry in self.entries if entry.role == role), None)

    @property
    def has_pair(self) -> bool:
        """Whether an inspiration and an expiration were found."""
        return self.playing(INSPIRATION) is not None and self.playing(EXPIRATION) is not None


def survey(path: Path, *, progress: Progress = SILENT) -> Survey:
    """List every series below a folder and decide which are the breath-holds.

    The one measurement that decides is the volume of the lungs; where more than two chest CTs could be meant,
    nothing is decided.

    Raises
    ------
    InputError
        If there is nothing that could be a scan.
    """
    entries = [_look(series, progress) for series in io.list_series(path)]
    candidates = sorted((e for e in entries if e.role == CANDIDATE), key=lambda e: -(e.lung_ml or 0))
    if len(candidates) != 2:
        many = {0: "no chest CT was", 1: "one chest CT was"}.get(
            len(candidates), f"{len(candidates)} chest CTs were"
        )
        hint = "; choose with --insp-series and --exp-series" if len(candidates) > 2 else ""
        return Survey(tuple(entries), f"{many} found in {path}, and a pair needs exactly two{hint}")
    insp, exp = candidates
    assert insp.lung_ml is not None
    assert exp.lung_ml is not None
    volumes = f"{insp.lung_ml / 1000:.2f} L and {exp.lung_ml / 1000:.2f} L"
    if exp.lung_ml > NO_BREATHING_RATIO * insp.lung_ml:
        return Survey(tuple(entries), f"there is no breathing between the two chest CTs in {path}: {volumes}")
    try:
        check_same_patient(insp.series.facts, exp.series.facts)
    except PairError as error:
        return Survey(tuple(entries), str(error))
    roles = {id(insp): INSPIRATION, id(exp): EXPIRATION}
    chosen = tuple(replace(e, role=roles.get(id(e), e.role)) for e in entries)
    return Survey(chosen, f"inspiration: {insp.title}; expiration: {exp.title} (lungs hold {volumes})")


def choose_pair(
    path: Path, insp: str | None, exp: str | None, *, progress: Progress = SILENT
) -> tuple[io.SeriesInfo, io.SeriesInfo]:
    """The inspiration and the expiration series of a study.

    Parameters
    ----------
    path : Path
    insp, exp : str or None
        Series number or UID that a user chose; what is None is decided by lung volume.

    Raises
    ------
    InputError
        If a chosen series is not there or cannot be used.
    PairError
        If no pair can be decided on; the message has every series with its reasons.
    """
    series = io.list_series(path)
    chosen = [_named(series, name) if name else None for name in (insp, exp)]
    if chosen[0] is not None and chosen[1] is not None:
        return chosen[0], chosen[1]
    found = survey(path, progress=progress)
    pair = [
        given or found.playing(role) for given, role in zip(chosen, (INSPIRATION, EXPIRATION), strict=True)
    ]
    if pair[0] is None or pair[1] is None or pair[0].uid == pair[1].uid != "":
        table = "; ".join(f"{e.title} ({e.role}: {', '.join(e.reasons)})" for e in found.entries)
        raise PairError(f"{found.verdict}. Found: {table}")
    return pair[0], pair[1]


def _look(series: io.SeriesInfo, progress: Progress) -> Entry:
    """Measure the lungs of one series on a coarse copy."""
    if not series.usable:
        return Entry(series, SET_ASIDE, series.reasons or ("not usable",))
    progress.stage(f"looking at {series.description or series.path.name}")
    try:
        ct = io.read_series(series).volume.reorient(CANONICAL)
        coarse = ct.resample(ct.grid.with_spacing([max(_LOOK_MM, s) for s in ct.spacing]), fill=-1024.0)
        lung_ml = segment(coarse.like(coarse.array.astype("int16"))).volume_ml("both")
    except InputError as error:
        return Entry(series, SET_ASIDE, (str(error),))
    notes = tuple(f"{f.severity} {f.message}" for f in series.findings if f.severity != "PASS")
    return Entry(series, CANDIDATE, (f"chest CT, lungs hold {lung_ml / 1000:.2f} L", *notes), lung_ml)


def _named(series: list[io.SeriesInfo], name: str) -> io.SeriesInfo:
    matching = [s for s in series if name in (s.uid, str(s.facts.get("series_number")), s.path.name)]
    if len(matching) != 1:
        known = ", ".join(str(s.facts.get("series_number") or s.path.name) for s in series)
        raise InputError(f"{len(matching)} series are called {name!r}; there are: {known}")
    if not matching[0].usable:
        raise InputError(f"series {name} cannot be used: {'; '.join(matching[0].reasons)}")
    return matching[0]
