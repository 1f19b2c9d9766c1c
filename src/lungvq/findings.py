"""A finding: one thing that was checked, its value, its limit and what to do about it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How a check ended. The order PASS < WARN < FAIL is that of `rank`."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"

    @property
    def rank(self) -> int:
        """0 for PASS, 1 for WARN, 2 for FAIL."""
        return ("PASS", "WARN", "FAIL").index(self.value)


@dataclass(frozen=True)
class Finding:
    """One check and how it ended.

    Parameters
    ----------
    code : str
        Stable, upper case, for machines: ``LUNG_COLLAPSED``.
    severity : Severity
        PASS findings are kept too: a reader should see what was checked.
    message : str
        One sentence for a physician.
    value, limit : float or None
        What was measured and what it was held against, in `unit`.
    advice : str
        What to do, where there is something to do.
    touches : tuple of str
        What a FAIL withholds or marks: map names (``perfusion``), ``lobes``, a region (``left``), or
        ``all``.
    """

    code: str
    severity: Severity
    message: str
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    advice: str = ""
    touches: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Plain data for ``run.json`` and the report."""
        return {**asdict(self), "severity": self.severity.value, "touches": list(self.touches)}


def worst(findings: tuple[Finding, ...] | list[Finding]) -> Severity:
    """The most severe of the findings; PASS where there is none."""
    return max((f.severity for f in findings), key=lambda s: s.rank, default=Severity.PASS)


def passed(code: str, message: str, **details: object) -> Finding:
    """A check that passed."""
    return Finding(code, Severity.PASS, message, **details)  # type: ignore[arg-type]


def warn(code: str, message: str, **details: object) -> Finding:
    """A check that calls for caution."""
    return Finding(code, Severity.WARN, message, **details)  # type: ignore[arg-type]


def fail(code: str, message: str, **details: object) -> Finding:
    """A check that withholds or marks what it touches."""
    return Finding(code, Severity.FAIL, message, **details)  # type: ignore[arg-type]


def graded(
    code: str,
    value: float,
    limits: tuple[float, float],
    what: str,
    *,
    unit: str = "",
    advice: str = "",
    touches: tuple[str, ...] = (),
    high_is_good: bool = False,
) -> Finding:
    """Hold one value, not NaN, against its two limits.

    Parameters
    ----------
    limits : (float, float)
        Up to the first (or from it on, with `high_is_good`) PASS; up to the second WARN; beyond FAIL.
    what : str
        The quantity with its subject: ``"slice spacing of the expiration scan"``.

    Examples
    --------
    >>> graded("NOISE", 35.0, (30, 50), "image noise", unit="HU").severity
    <Severity.WARN: 'WARN'>
    """
    sign = -1 if high_is_good else 1
    held = round(value, 5)  # a spacing of 3.0000001 mm is not beyond 3
    rank = sum(sign * held > sign * limit for limit in limits)
    severity = (Severity.PASS, Severity.WARN, Severity.FAIL)[rank]
    limit = float(limits[max(rank - 1, 0)])
    if math.isnan(value):
        raise ValueError(f"{code}: a value that is not known cannot be held against limits")
    digits = next((n for n in (3, 4, 5) if f"{held:.{n}g}" != f"{limit:.{n}g}" or held == limit), 6)
    message = " ".join(f"{what[:1].upper()}{what[1:]} is {value:.{digits}g} {unit}".split())
    if math.isinf(limit):  # whatever the value: that it is there at all is the finding
        return Finding(code, severity, f"{message}.", value, None, unit, advice if rank else "", touches)
    beyond = "below" if high_is_good else "above"
    relation = f"{beyond if rank else f'not {beyond}'} the limit of {limit:.3g}"
    return Finding(
        code, severity, f"{message}, {relation}.", value, limit, unit, advice if rank else "", touches
    )
