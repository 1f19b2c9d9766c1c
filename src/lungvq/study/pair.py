"""Which two of a study's chest CTs are the breath-holds: lung volume decides, words and headers give evidence.

The order of the argument: scans whose lungs hold the same (within 5 %) are one *level* of breath; two levels are an
inspiration and an expiration; where there are more, only words can tell which two are meant. Words that contradict
the volumes are believed neither over a clear breath nor against a doubtful one. Of several reconstructions of the
same breath the pair with matching kernels, thin slices and soft kernels is taken. Where any of this leaves a doubt,
the answer is no pair, and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lungvq import kernels
from lungvq.agreement import MOST_THICKNESS_RATIO, agreement, patient_agreement, scan_time
from lungvq.findings import Finding, passed, warn
from lungvq.pipeline import NO_BREATHING_RATIO
from lungvq.study.evidence import Candidate
from lungvq.study.words import EXPIRATION, INSPIRATION

__all__ = ["Pair", "Undecided", "best_pair", "decide", "pair_findings", "partner"]

SMALL_BREATH_RATIO = 0.90
CLEAR_BREATH_RATIO = 0.75
MASS_RATIO = 1.4
_NEAR_SCORE = 1.0


@dataclass(frozen=True, eq=False)
class Pair:
    """Two series that go together, and how well: 20 is a pair nothing speaks against."""

    insp: Candidate
    exp: Candidate
    score: float
    minus: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def ratio(self) -> float:
        """Lung volume at expiration over that at inspiration."""
        return self.exp.look.lung_ml / self.insp.look.lung_ml


@dataclass(frozen=True)
class Undecided:
    """Why no pair was chosen, in words that follow "no pair was chosen: "."""

    why: str


def decide(candidates: Sequence[Candidate]) -> Pair | Undecided:
    """The pair among the plain chest CTs of one study.

    Parameters
    ----------
    candidates : sequence of Candidate
        All of one patient and one study.
    """
    if len(candidates) < 2:
        many = "one chest CT" if candidates else "no chest CT"
        return Undecided(f"{many} that could be used was found, and a pair needs exactly two")
    by_posture = {
        posture: [c for c in candidates if c.posture == posture] for posture in _postures(candidates)
    }
    if len(by_posture) == 1:
        return _decide_levels(candidates)
    found = {posture: decide(group) for posture, group in by_posture.items()}
    pairs = [pair for pair in found.values() if isinstance(pair, Pair)]
    if len(pairs) == 1:
        return pairs[0]
    if pairs:
        return Undecided(f"there is a pair in each of several positions ({', '.join(found)})")
    whys = "; ".join(f"{posture}: {u.why}" for posture, u in found.items() if isinstance(u, Undecided))
    return Undecided(f"scans in different positions are not compared ({whys})")


def partner(chosen: Candidate, role: str, candidates: Sequence[Candidate]) -> Pair | Undecided:
    """The other breath-hold to one that a user chose.

    Parameters
    ----------
    chosen : Candidate
    role : str
        What `chosen` is: ``"inspiration"`` or ``"expiration"``.
    candidates : sequence of Candidate
        The other plain chest CTs of the same study.
    """
    other_role = EXPIRATION if role == INSPIRATION else INSPIRATION

    def breathing(other: Candidate) -> bool:
        insp, exp = (chosen, other) if role == INSPIRATION else (other, chosen)
        return exp.look.lung_ml <= NO_BREATHING_RATIO * insp.look.lung_ml

    others = [c for c in candidates if c is not chosen and breathing(c)]
    others = [c for c in others if c.posture == chosen.posture] or others
    levels = _levels(others)
    if len(levels) > 1:
        levels = [level for level in levels if {c.told for c in level} - {""} == {other_role}]
    if len(levels) != 1:
        many = f"{len(levels)} breath-holds" if levels else "nothing else"
        return Undecided(f"{many} in the study could be the {other_role} to the {role} that was chosen")
    insp, exp = ([chosen], levels[0]) if role == INSPIRATION else (levels[0], [chosen])
    return best_pair(insp, exp)


def _postures(candidates: Sequence[Candidate]) -> list[str]:
    return list(dict.fromkeys(c.posture for c in candidates))


def _levels(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Groups of equal breath, the fullest first: a gap of more than 5 % in lung volume parts two groups."""
    levels: list[list[Candidate]] = []
    for c in sorted(candidates, key=lambda c: -c.look.lung_ml):
        if levels and c.look.lung_ml > NO_BREATHING_RATIO * levels[-1][-1].look.lung_ml:
            levels[-1].append(c)
        else:
            levels.append([c])
    return levels


def _decide_levels(candidates: Sequence[Candidate]) -> Pair | Undecided:
    """The pair among scans in one position."""
    levels = _levels(candidates)
    litres = ", ".join(f"{c.look.lung_ml / 1000:.2f}" for level in levels for c in level)
    if len(levels) == 1:
        ratio = levels[0][-1].look.lung_ml / levels[0][0].look.lung_ml
        if ratio <= NO_BREATHING_RATIO:
            return Undecided(f"the lungs hold {litres} L, without a gap between inspiration and expiration")
        return Undecided(
            f"there is no breathing between the chest CTs: the lungs hold {litres} L (ratio {ratio:.3f}, at most"
            f" {NO_BREATHING_RATIO} is needed; two that are chosen by hand may be run with --allow-no-breathing)"
        )
    if len(levels) > 2:
        return _by_words(levels, litres)
    return _two_levels(levels[0], levels[1])


def _by_words(levels: list[list[Candidate]], litres: str) -> Pair | Undecided:
    """Three breath-holds or more: the one called inspiration and the one called expiration, if each is one.

    Where scans that hold the same are called both, they are of several breaths, if not of several people.
    """
    told_both = any({INSPIRATION, EXPIRATION} <= {c.told for c in level} for level in levels)
    named = {
        role: [n for n, level in enumerate(levels) if {c.told for c in level} - {""} == {role}]
        for role in (INSPIRATION, EXPIRATION)
    }
    insp, exp = named[INSPIRATION], named[EXPIRATION]
    if len(insp) == len(exp) == 1 and insp[0] < exp[0] and not told_both:
        return best_pair(levels[insp[0]], levels[exp[0]])
    return Undecided(
        f"there are {len(levels)} different breath-holds (the lungs hold {litres} L), and words do not tell which"
        " two are meant"
    )


def _two_levels(full: list[Candidate], empty: list[Candidate]) -> Pair | Undecided:
    """Two breath-holds: the fuller is the inspiration, unless words and volumes leave a doubt."""
    fitting = (
        [c for c in full if c.told != EXPIRATION],
        [c for c in empty if c.told != INSPIRATION],
    )
    contrary = [c for c in (*full, *empty) if c not in (*fitting[0], *fitting[1])]
    pair = best_pair(fitting[0] or full, fitting[1] or empty)
    if not contrary or isinstance(pair, Undecided):
        return pair
    insp, exp = pair.insp, pair.exp
    said = " and ".join(
        f"the {'fuller' if c in full else 'emptier'} one is called {c.told} in its {c.told_by}"
        for c in contrary[:2]
    )
    volumes = f"the lungs hold {insp.look.lung_ml / 1000:.2f} and {exp.look.lung_ml / 1000:.2f} L, but {said}"
    if fitting[0] and fitting[1]:
        return _with(pair, _contradicted(pair, volumes))
    limit = CLEAR_BREATH_RATIO if insp.told == exp.told else SMALL_BREATH_RATIO
    mass = exp.look.lung_g / insp.look.lung_g
    consistent = 1 / MASS_RATIO < mass < MASS_RATIO
    if pair.ratio <= limit and consistent:
        return _with(pair, _contradicted(pair, volumes))
    doubt = (
        f"a ratio of {pair.ratio:.2f} is too little to overrule words (at most {limit:.2f})"
        if pair.ratio > limit
        else f"their mass differs by a factor of {max(mass, 1 / mass):.2f}, so the volumes cannot be trusted either"
    )
    return Undecided(f"words and lung volumes contradict each other: {volumes}; {doubt}")


def _with(pair: Pair, finding: Finding) -> Pair:
    return Pair(pair.insp, pair.exp, pair.score, pair.minus, (finding, *pair.findings))


def _contradicted(pair: Pair, volumes: str) -> Finding:
    return warn(
        "WORDS_CONTRADICT_VOLUME",
        f"Words and lung volumes disagree: {volumes}; volume decided.",
        value=round(pair.ratio, 3),
        limit=SMALL_BREATH_RATIO,
        unit="expiration/inspiration",
        advice="Check that the descriptions of the series were swapped, not the patients.",
    )


def best_pair(full: Sequence[Candidate], empty: Sequence[Candidate]) -> Pair | Undecided:
    """Of several reconstructions of two breath-holds, the two that go together best."""
    pairs = [_rated(insp, exp) for insp in full for exp in empty]
    pairs = [p for p in pairs if p.ratio <= NO_BREATHING_RATIO] or pairs
    pairs.sort(key=_preference)
    best = pairs[0]
    for other in pairs[1:]:
        near = best.score - other.score <= _NEAR_SCORE
        apart = not best.insp.same_acquisition(other.insp) and not best.exp.same_acquisition(other.exp)
        if near and apart and _in_one_session(other):
            return Undecided("two pairs are equally good: the breath-holds were taken twice")
    return best


def _preference(pair: Pair) -> tuple[object, ...]:
    """Best first: score, thin, then the order in which series are numbered."""
    numbers = [_number(c.facts.get("series_number")) for c in (pair.insp, pair.exp)]
    paths = [str(c.series.path) for c in (pair.insp, pair.exp)]
    return (-pair.score, pair.insp.thickness_mm + pair.exp.thickness_mm, *numbers, *paths)


def _number(value: object) -> int:
    text = str(value or "")
    return int(text) if text.isdigit() else 0


def _rated(insp: Candidate, exp: Candidate) -> Pair:
    """How well two series go together: both scores less what sets them apart."""
    minus: list[tuple[float, str]] = []
    names = [kernels.main_part(c.series.kernel) for c in (insp, exp)]
    if all(names) and names[0] != names[1]:
        same_family = insp.kernel_family == exp.kernel_family != ""
        minus.append((1, "kernels of one family") if same_family else (4, "different kernels"))
    thick, thin = sorted((insp.thickness_mm, exp.thickness_mm), reverse=True)
    if thin > 0 and thick / thin > MOST_THICKNESS_RATIO:
        minus.append((1, "different slice thickness"))
    codes = {f.code for f in agreement(insp.facts, exp.facts) if f.severity != "PASS"}
    for code, points, text in (
        ("FRAME_MISMATCH", 1, "different frames of reference"),
        ("SCANNER_MISMATCH", 2, "different scanners"),
        ("KVP_MISMATCH", 1, "different tube voltages"),
        ("TIME_BETWEEN_SCANS", 1, "more than an hour apart"),
    ):
        if code in codes:
            minus.append((points, text))
    if not _in_one_session_times(insp, exp):
        minus.append((0.5, "more than ten minutes apart"))
    score = insp.score + exp.score - sum(points for points, _ in minus)
    return Pair(insp, exp, score, tuple(f"−{points:g} {text}" for points, text in minus))


def _in_one_session(pair: Pair) -> bool:
    return _in_one_session_times(pair.insp, pair.exp)


def _in_one_session_times(a: Candidate, b: Candidate) -> bool:
    times = scan_time(a.facts), scan_time(b.facts)
    if times[0] is None or times[1] is None:
        return True
    return abs((times[1] - times[0]).total_seconds()) <= 600


def pair_findings(pair: Pair) -> tuple[Finding, ...]:
    """What a reader should know about the chosen pair: agreement of headers, kernels, depth of the breath, words."""
    return (
        *pair.findings,
        _breath(pair),
        *_kernels(pair),
        *patient_agreement(pair.insp.series.patient, pair.exp.series.patient),
        *agreement(pair.insp.facts, pair.exp.facts),
    )


def _breath(pair: Pair) -> Finding:
    make = warn if pair.ratio > SMALL_BREATH_RATIO else passed
    return make(
        "BREATH_BETWEEN_SCANS",
        f"The lungs hold about {pair.insp.look.lung_ml / 1000:.2f} L at inspiration and"
        f" {pair.exp.look.lung_ml / 1000:.2f} L at expiration.",
        value=round(pair.ratio, 3),
        limit=SMALL_BREATH_RATIO,
        unit="expiration/inspiration",
        advice=""
        if make is passed
        else "So small a breath says little about ventilation; look for a better pair.",
    )


def _kernels(pair: Pair) -> tuple[Finding, ...]:
    names = [kernels.main_part(c.series.kernel) for c in (pair.insp, pair.exp)]
    if not all(names) or names[0] == names[1]:
        return ()
    return (
        warn(
            "KERNEL_MISMATCH",
            f"The scans have different kernels: {names[0]} and {names[1]}.",
            advice="Reconstruct both with the same soft kernel.",
        ),
    )
