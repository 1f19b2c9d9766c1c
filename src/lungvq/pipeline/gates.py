"""What stops a pair, or is said of one that was let through: no breathing, no match, sums that do not close."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from lungvq.anatomy import LOBES, LUNG_OF_LOBE, LUNGS
from lungvq.errors import PairError
from lungvq.findings import Finding, fail, passed, warn
from lungvq.register import Registration
from lungvq.result import CaseResult

__all__ = [
    "NO_BREATHING_RATIO",
    "breathing_volumes",
    "check_breathing",
    "check_match",
    "check_sums",
    "overrides",
]

NO_BREATHING_RATIO = 0.95
"""V_exp / V_insp above which there is no breathing between the scans; above its inverse they are swapped."""

LEAST_CORRELATION = 0.38
"""Mean local correlation inside the lungs after registration, below which two scans are refused as a pair.

Nine pairs of strangers reached 0.25 to 0.37, scans upside down less, pairs 0.55 or more even in heavy noise
(`register.quality.MISMATCH_CORRELATION`); between this and that a finding says so.
"""


def breathing_volumes(
    insp_ml: Mapping[str, float], exp_ml: Mapping[str, float], least_ml: float
) -> tuple[float, float]:
    """Volumes at inspiration and at expiration of the lungs of which both scans show at least `least_ml`.

    A lung that only one scan shows, as where the other's mask leaves it out, would look like a breath. Where no lung
    is in both, of all there is.

    Examples
    --------
    >>> breathing_volumes({"left": 1500, "right": 1800}, {"left": 4, "right": 1800}, 10)
    (1800, 1800)
    """
    shared = [lung for lung in insp_ml if min(insp_ml[lung], exp_ml[lung]) >= least_ml] or list(insp_ml)
    return sum(insp_ml[lung] for lung in shared), sum(exp_ml[lung] for lung in shared)


def check_breathing(insp_ml: float, exp_ml: float, *, allow: bool = False) -> str:
    """Refuse a pair that is swapped or shows no breathing.

    Parameters
    ----------
    insp_ml, exp_ml : float
        Volume of the lungs: `breathing_volumes`.
    allow : bool
        Go on without breathing; swapped scans are refused all the same.

    Returns
    -------
    str
        What every page must say; empty for an ordinary pair.

    Raises
    ------
    PairError
    """
    volumes = f"{insp_ml / 1000:.2f} L at inspiration and {exp_ml / 1000:.2f} L at expiration"
    ratio = exp_ml / insp_ml
    if ratio > 1 / NO_BREATHING_RATIO:
        raise PairError(
            f"the scans look swapped, the lungs hold {volumes}: exchange --insp and --exp, unless a lung without"
            " air, or a mask that was given, makes one of them wrong"
        )
    if ratio <= NO_BREATHING_RATIO:
        return ""
    if not allow:
        raise PairError(
            f"there is no breathing between the scans, the lungs hold {volumes} (ratio {ratio:.3f}, at most"
            f" {NO_BREATHING_RATIO} is needed): choose another pair, or add --allow-no-breathing to go on"
        )
    return (
        f"No breathing between the scans, or nearly none ({volumes}): allowed by request; what ventilation shows is"
        " mostly its error, and V/Q and air trapping cannot be told."
    )


def overrides(banner: str) -> list[Finding]:
    """What was allowed by request, among the findings where a reader looks."""
    if not banner:
        return []
    return [
        warn(
            "NO_BREATHING_ALLOWED",
            banner,
            advice="V/Q, air trapping and what is relative to ventilation are left empty.",
            touches=("ventilation", "ventilation_hu", "jacobian", "prm", "trapping"),
        )
    ]


def check_match(registration: Registration) -> None:
    """Refuse two scans whose lungs cannot be brought together.

    Raises
    ------
    PairError
    """
    found = registration.quality.overall.correlation_after
    if found < LEAST_CORRELATION:
        raise PairError(
            "the lungs of the two scans cannot be brought together: after registration their structure correlates"
            f" by {found:.2f}, and a pair does by at least {LEAST_CORRELATION}; check that both are of the same"
            " patient and each is the right way up"
        )


def check_sums(result: CaseResult) -> Finding:
    """Whether the parts of the table add up to the whole, and the whole to the masks.

    Lobes are held against the lungs that were registered: of another they are not known at expiration, which is said
    of that lung.
    """
    registered = [lung for lung in LUNGS if lung in result.registration] or list(LUNGS)
    lobes = [lobe for lobe in LOBES if LUNG_OF_LOBE[lobe] in registered]
    expired_ml = result.metric("both", "volume_exp_ml")
    exp_ml = float((result.lungs_exp.array > 0).sum()) * result.lungs_exp.voxel_ml
    off = {"the lungs to the whole": 0.0, "the lobes to the lungs": 0.0}
    off["the whole to the mask"] = abs(expired_ml - exp_ml) / exp_ml

    def total(parts: Iterable[str], metric: str) -> float:
        return float(sum(np.nan_to_num(result.metric(part, metric)) for part in parts))

    for metric in ("volume_insp_ml", "volume_exp_ml", "mass_insp_g", "mass_exp_g", "ventilation_ml"):
        # Ventilation may add up to nothing: it is held against what breathes.
        scale = expired_ml if metric == "ventilation_ml" else abs(result.metric("both", metric))
        for what, parts, whole in (
            ("the lungs to the whole", list(LUNGS), ["both"]),
            ("the lobes to the lungs", lobes, registered),
        ):
            off[what] = max(off[what], abs(total(parts, metric) - total(whole, metric)) / scale)
    worst = max(off, key=lambda what: off[what])
    told = {"value": 100 * off[worst], "limit": 0.1, "unit": "%"}
    if off[worst] < 1e-3:
        return passed(
            "SUMS_CLOSE",
            "Lungs and lobes add up to the whole, in volume, mass and ventilation, and the whole to the masks, to"
            f" {100 * off[worst]:.2g} %.",
            **told,
        )
    return fail(
        "SUMS_CLOSE",
        f"The parts do not add up: {worst} by {100 * off[worst]:.2g} %, in volume, mass or ventilation.",
        advice="Numbers of lobes can be wrong; look at the lobes and masks.",
        touches=("lobes",) if worst == "the lobes to the lungs" else ("all",),
        **told,
    )
