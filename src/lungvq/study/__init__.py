"""Which two of the scans in a folder are the breath-holds, and why.

`words` reads headers, `evidence` gathers what each series tells of itself, `pair` decides; here a folder
goes in and a decision table comes out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lungvq import io
from lungvq.agreement import check_same_patient, scan_time, why_strangers
from lungvq.errors import InputError, PairError, ResourceError
from lungvq.findings import Finding
from lungvq.progress import SILENT, Progress
from lungvq.segment.glance import Glance, glance
from lungvq.study.evidence import (
    CONTRAST,
    Candidate,
    clean,
    header_reasons,
    look_reasons,
    shared_texts,
)
from lungvq.study.pair import Pair, Undecided, decide, pair_findings, partner
from lungvq.study.words import EXPIRATION, INSPIRATION
from lungvq.volume import CANONICAL

__all__ = ["Chosen", "Entry", "NoPairError", "Survey", "choose_pair", "look_at", "survey", "survey_series"]

CANDIDATE, SET_ASIDE = "candidate", "set aside"
HOW_TO_CHOOSE = "choose with --insp-series and --exp-series"
_LOOK_STEP_MM = 5.0
_LOOK_SLICES = 25

Look = Callable[[io.SeriesInfo], Glance]


@dataclass(frozen=True)
class Entry:
    """One series and the part it could play: a row of the decision table.

    Parameters
    ----------
    series : SeriesInfo
    key : str
        What to call it in ``--insp-series``: its number, with a letter where numbers repeat, or its file's name.
    role : str
        ``inspiration`` or ``expiration`` where a pair was found, ``candidate`` for a chest CT that is not part of
        one, ``set aside`` for what cannot be used.
    reasons : tuple of str
        Why.
    candidate : Candidate or None
        What was found out about it, where it was looked at.
    day : str
        Date of its study, where the folder holds several.
    """

    series: io.SeriesInfo
    key: str
    role: str
    reasons: tuple[str, ...]
    candidate: Candidate | None = None
    day: str = ""

    @property
    def slices(self) -> int:
        """Number of images."""
        return self.series.slices

    @property
    def name(self) -> str:
        """Description or file name, fit for a terminal; with what sets it apart where that is needed."""
        name = clean(self.series.description or self.series.path.name)
        apart = [clean(text) for text in (str(self.series.facts.get("part_by") or ""), self.day) if text]
        return f"{name} ({', '.join(apart)})" if apart else name

    @property
    def title(self) -> str:
        """Key and name."""
        return f"series {self.key} ({self.name})" if self.series.kind == "dicom" else self.name

    @property
    def lung_ml(self) -> float | None:
        """What the lungs hold at a quick look."""
        return self.candidate.look.lung_ml if self.candidate else None

    @property
    def score(self) -> float | None:
        """10 for a series nothing speaks against."""
        return self.candidate.score if self.candidate else None

    @property
    def geometry(self) -> str:
        """Size and spacing for people."""
        grid = self.series.grid
        if grid is None:
            return "geometry unknown"
        size = " x ".join(str(n) for n in reversed(grid.shape))
        return f"{size} voxels of {' x '.join(f'{s:.3g}' for s in reversed(grid.spacing))} mm"

    def row(self) -> dict[str, Any]:
        """Plain values for the decision table of ``run.json`` and the report; nothing that names the patient."""
        c = self.candidate
        return {
            "series": self.key,
            "name": self.name,
            "role": self.role,
            "score": self.score,
            "slices": self.slices,
            "kernel": clean(self.series.kernel),
            "lung_ml": round(c.look.lung_ml, 1) if c else None,
            "lung_hu": round(c.look.lung_hu, 1) if c else None,
            "told": c.told if c else "",
            "told_by": c.told_by if c else "",
            "reasons": list(self.reasons),
        }

    def to_dict(self) -> dict[str, Any]:
        """All that is known of the series: at least ``slices``, ``role`` and ``reasons``."""
        return {**self.series.to_dict(), **self.row()}


@dataclass(frozen=True)
class Survey:
    """All series of a folder, and what can be made of them.

    Parameters
    ----------
    entries : tuple of Entry
        The decision table.
    verdict : str
        What was decided or why nothing was, in one sentence without a full stop.
    pair : Pair or None
    findings : tuple of Finding
        What a reader should know about the pair; empty where there is none.
    """

    entries: tuple[Entry, ...]
    verdict: str
    pair: Pair | None = None
    findings: tuple[Finding, ...] = ()

    def playing(self, role: str) -> io.SeriesInfo | None:
        """The series with a role, if there is one."""
        return next((entry.series for entry in self.entries if entry.role == role), None)

    @property
    def has_pair(self) -> bool:
        """Whether an inspiration and an expiration were found."""
        return self.pair is not None


@dataclass(frozen=True)
class Chosen:
    """The two series to run, and how they were found: for ``run.json`` and the report.

    `how` is a sentence, `entries` the decision table.
    """

    insp: io.SeriesInfo
    exp: io.SeriesInfo
    how: str
    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values: ``how`` and, for ``series``, `Entry.row` of each."""
        return {"how": self.how, "series": [entry.row() for entry in self.entries]}


class NoPairError(PairError):
    """No pair could be decided on; `entries` is the decision table."""

    def __init__(self, survey: Survey) -> None:
        super().__init__(survey.verdict)
        self.entries, self.findings = survey.entries, survey.findings


def look_at(series: io.SeriesInfo) -> Glance:
    """What a quick look at a series shows; of a fine one only slices some 5 mm apart are read.

    Raises
    ------
    InputError
        If it cannot be read or shows no lungs.
    """
    step = series.grid.spacing[0] if series.grid is not None else _LOOK_STEP_MM
    stride = min(int(_LOOK_STEP_MM / step), series.slices // _LOOK_SLICES)
    return glance(io.read_series(_thinned(series, stride)).volume.reorient(CANONICAL))


def _thinned(series: io.SeriesInfo, stride: int) -> io.SeriesInfo:
    """Every `stride`-th slice of a series whose slices need no mending."""
    if stride < 2 or series.stack is None or series.stack.layout.at is not None:
        return series
    layout = series.stack.layout
    affine = layout.affine.copy()
    affine[:3, 0] *= stride
    layout = replace(layout, order=layout.order[::stride], affine=affine)
    return replace(series, stack=replace(series.stack, slices=series.stack.slices[::stride], layout=layout))


def survey(path: Path, *, look: Look = look_at, progress: Progress = SILENT) -> Survey:
    """List every series below a folder and decide which are the breath-holds.

    Parameters
    ----------
    path : Path
    look : callable, optional
        Takes a series and gives a `Glance`, or raises `InputError`.
    progress : Progress, optional

    Raises
    ------
    InputError
        If there is nothing that could be a scan.
    """
    return survey_series(io.list_series(path), look=look, progress=progress)


def survey_series(
    listed: Sequence[io.SeriesInfo], *, look: Look = look_at, progress: Progress = SILENT
) -> Survey:
    """As `survey`, of series that were listed already."""
    entries = _entries(listed, look, progress)
    candidates = [e.candidate for e in entries if e.candidate and e.role == CANDIDATE]
    if strangers := _strangers(listed):
        return Survey(tuple(entries), strangers)
    studies = {
        study: [c for c in candidates if c.study == study] for study in {c.study: None for c in candidates}
    }
    found = {study: decide(group) for study, group in studies.items()}
    pairs = [pair for pair in found.values() if isinstance(pair, Pair)]
    if len(pairs) == 1:
        return _survey_with(entries, pairs[0], "", _how_found(pairs[0], len(studies)))
    if pairs:
        days = " and ".join(sorted(_date(pair.insp.series) for pair in pairs))
        why = f"{len(pairs)} studies hold a pair each ({days}); give the folder of one"
    else:
        whys = Counter(u.why for u in found.values() if isinstance(u, Undecided))
        why = next(iter(whys), "") or _none(entries)
        if len(found) > 1:
            each = (f"in {n if n < len(found) else 'each'} of them {told}" for told, n in whys.items())
            why = f"none of {len(found)} studies holds a pair: {'; '.join(each)}"
        why += _set_aside_for_contrast(entries)
    hint = f"; {HOW_TO_CHOOSE}" if sum(s.usable for s in listed) > 1 else ""
    return Survey(tuple(entries), f"no pair was chosen: {why}{hint}")


def choose_pair(
    path: Path, insp: str | None, exp: str | None, *, look: Look = look_at, progress: Progress = SILENT
) -> Chosen:
    """The inspiration and the expiration series of a study.

    Parameters
    ----------
    path : Path
    insp, exp : str or None
        Key, series number, UID, description or folder of a series that a user chose; what is None is decided.
    look, progress
        As in `survey`.

    Raises
    ------
    InputError
        If a chosen series is not there or cannot be used.
    NoPairError
        If no pair can be decided on.
    PairError
        If the chosen two are of different patients.
    """
    listed = io.list_series(path)
    keys = _keys(listed)
    chosen = {
        role: _named(listed, keys, name) for role, name in ((INSPIRATION, insp), (EXPIRATION, exp)) if name
    }
    if len(chosen) == 2:
        return _as_told(listed, keys, chosen)
    if chosen:
        found = _with_partner(listed, chosen, look, progress)
    else:
        found = survey_series(listed, look=look, progress=progress)
    if found.pair is None:
        raise NoPairError(found)
    pair = found.pair
    return Chosen(pair.insp.series, pair.exp.series, found.verdict, found.entries, found.findings)


def _entries(listed: Sequence[io.SeriesInfo], look: Look, progress: Progress) -> list[Entry]:
    """The table before anything is decided: every series either a candidate or set aside."""
    keys = _keys(listed)
    reasons = [s.reasons or ("not usable",) if not s.usable else header_reasons(s) for s in listed]
    plausible = [s for s, why in zip(listed, reasons, strict=True) if not why]
    shared = shared_texts(plausible)
    entries = []
    for n, (series, why) in enumerate(zip(listed, reasons, strict=True)):
        if why:
            entries.append(Entry(series, keys[n], SET_ASIDE, tuple(map(io.printable, why))))
            continue
        progress.stage(f"looking at {clean(series.description or series.path.name)}")
        progress.fraction(n / len(listed))
        entries.append(_looked_at(series, keys[n], look, shared))
    if len({s.facts.get("study_uid") for s in listed}) > 1:
        return [replace(e, day=_date(e.series)) for e in entries]
    return entries


def _looked_at(series: io.SeriesInfo, key: str, look: Look, shared: frozenset[str]) -> Entry:
    try:
        seen = look(series)
    except (InputError, ResourceError) as error:
        # Paths may name the patient, and the table is kept in the record.
        told = str(error).removeprefix(str(series.path)).lstrip(":, ")
        return Entry(series, key, SET_ASIDE, (io.printable(told),))
    candidate = Candidate.of(series, seen, shared)
    notes = tuple(f"{f.severity}: {f.message}" for f in series.findings if f.severity != "PASS")
    if why := look_reasons(seen):
        return Entry(series, key, SET_ASIDE, (*why, *notes), candidate)
    told = (
        f"called {candidate.told} in its {candidate.told_by}"
        if candidate.told
        else "no word on the breath-hold"
    )
    lungs = f"lungs hold {seen.lung_ml / 1000:.2f} L at {seen.lung_hu:.0f} HU"
    posture = () if candidate.posture == "supine" else (candidate.posture,)
    return Entry(series, key, CANDIDATE, (lungs, told, *posture, *candidate.minus, *notes), candidate)


def _keys(listed: Sequence[io.SeriesInfo]) -> list[str]:
    """A short name for each series that no other has: its number, with a letter where numbers repeat."""
    names = [
        str(s.facts.get("series_number") or s.path.name) if s.kind == "dicom" else s.path.name for s in listed
    ]
    names = [clean(name) for name in names]
    keys = []
    for n, name in enumerate(names):
        nth = names[:n].count(name)
        keys.append(name if names.count(name) == 1 else f"{name}{_letters(nth)}")
    return keys


def _letters(n: int) -> str:
    """a, b, ..., z, aa, ab, ...

    Examples
    --------
    >>> [_letters(n) for n in (0, 25, 26)]
    ['a', 'z', 'aa']
    """
    head, tail = divmod(n, 26)
    return (_letters(head - 1) if head else "") + chr(ord("a") + tail)


def _named(listed: Sequence[io.SeriesInfo], keys: Sequence[str], name: str) -> io.SeriesInfo:
    """The one series that a user means by a name."""
    wanted = name.strip().casefold()
    ways: tuple[Callable[[int, io.SeriesInfo], str], ...] = (
        lambda n, s: keys[n],
        lambda n, s: s.uid,
        lambda n, s: str(s.facts.get("series_number") or ""),
        lambda n, s: s.description,
        lambda n, s: s.path.name,
        lambda n, s: str(s.path),
    )
    matching: list[int] = []
    for way in ways:
        matching = [n for n, s in enumerate(listed) if way(n, s).strip().casefold() == wanted]
        if matching:
            break
    # Localizers and other things that cannot be read may share a number or a folder with what is meant.
    usable = [n for n in matching if listed[n].usable]
    if len(usable) == 1:
        return listed[usable[0]]
    known = ", ".join(keys[n] for n in (usable or range(len(listed))))
    if matching and not usable:
        raise InputError(
            f"series {clean(name)} cannot be used: {io.printable('; '.join(listed[matching[0]].reasons))}"
        )
    many = f"{len(usable)} series are" if usable else "no series is"
    raise InputError(f"{many} called {clean(name)!r}; choose among: {known}")


def _as_told(
    listed: Sequence[io.SeriesInfo], keys: Sequence[str], chosen: dict[str, io.SeriesInfo]
) -> Chosen:
    """Both breath-holds as a user chose them; nothing is measured here, `run` will."""
    insp, exp = chosen[INSPIRATION], chosen[EXPIRATION]
    if insp is exp:
        raise PairError("--insp-series and --exp-series name the same series; give two")
    check_same_patient(insp.patient, exp.patient)
    roles = {id(s): role for role, s in chosen.items()}
    entries = tuple(
        Entry(s, key, roles.get(id(s), CANDIDATE if s.usable else SET_ASIDE), _why_listed(s, roles))
        for s, key in zip(listed, keys, strict=True)
    )
    return Chosen(insp, exp, "both series were chosen by the user", entries)


def _why_listed(series: io.SeriesInfo, roles: dict[int, str]) -> tuple[str, ...]:
    told = (f"chosen as {roles[id(series)]}",) if id(series) in roles else ()
    return (*told, *map(io.printable, series.reasons if not series.usable else header_reasons(series)))


def _with_partner(
    listed: Sequence[io.SeriesInfo], chosen: dict[str, io.SeriesInfo], look: Look, progress: Progress
) -> Survey:
    """One breath-hold as a user chose it, whatever speaks against it, and the other to go with it."""
    ((role, series),) = chosen.items()
    entries = _entries(listed, look, progress)
    mine = next(e for e in entries if e.series is series)
    known = mine.candidate or Candidate.of(series, look(series))
    others = [
        e.candidate
        for e in entries
        if e.candidate
        and e.role == CANDIDATE
        and e.series is not series
        and e.candidate.study == known.study
        and not why_strangers(e.series.patient, series.patient)
    ]
    found = partner(known, role, others)
    if isinstance(found, Undecided):
        return Survey(tuple(entries), f"no pair was chosen: {found.why}; {HOW_TO_CHOOSE}")
    return _survey_with(entries, found, f"{role} chosen by the user; ", "")


def _survey_with(entries: Sequence[Entry], pair: Pair, before: str, after: str) -> Survey:
    """The table with the roles of a pair; the verdict names both series, between two parts of a sentence."""
    roles = {id(pair.insp.series): INSPIRATION, id(pair.exp.series): EXPIRATION}
    told = tuple(
        replace(e, role=roles[id(e.series)], reasons=(*e.reasons, *pair.minus))
        if id(e.series) in roles
        else e
        for e in entries
    )
    insp, exp = (next(e for e in told if e.role == role).title for role in (INSPIRATION, EXPIRATION))
    litres = f"lungs hold {pair.insp.look.lung_ml / 1000:.2f} and {pair.exp.look.lung_ml / 1000:.2f} L"
    verdict = f"{before}inspiration: {insp}, expiration: {exp}; {litres}{after}"
    return Survey(told, verdict, pair, pair_findings(pair))


def _how_found(pair: Pair, studies: int) -> str:
    by_words = pair.insp.told == INSPIRATION and pair.exp.told == EXPIRATION
    agree = "; words agree" if by_words else "; by lung volume"
    return agree + (f", the only pair within one of {studies} studies" if studies > 1 else "")


def _date(series: io.SeriesInfo) -> str:
    when = scan_time(series.facts)
    return when.date().isoformat() if when else "no date"


def _strangers(listed: Sequence[io.SeriesInfo]) -> str:
    """A sentence where the folder holds series of more than one patient, whatever they show."""
    people: list[io.SeriesInfo] = []
    differ = ""
    for series in listed:
        against = [why_strangers(series.patient, other.patient) for other in people]
        if all(against):
            people.append(series)
            differ = against[-1] if against else differ
    if len(people) < 2:
        return ""
    return (
        f"no pair was chosen: the folder holds series of {len(people)} different patients (their {differ} differ);"
        f" give the scans of one patient, or {HOW_TO_CHOOSE}"
    )


def _none(entries: Sequence[Entry]) -> str:
    whys = [f"{e.title}: {e.reasons[0]}" for e in entries[:3] if e.reasons]
    return (
        f"no chest CT that could be used was found ({'; '.join(whys)})" if whys else "no chest CT was found"
    )


def _set_aside_for_contrast(entries: Sequence[Entry]) -> str:
    enhanced = [
        e.key for e in entries if e.role == SET_ASIDE and any(r.startswith(CONTRAST) for r in e.reasons)
    ]
    return f" (set aside for contrast medium: series {', '.join(enhanced)})" if enhanced else ""
