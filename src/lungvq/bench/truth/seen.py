"""A phantom as the method sees it, and as it would with the true motion and masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from lungvq import io
from lungvq.anatomy import LUNG_OF_LOBE_LABEL
from lungvq.breath import Breath, prepare
from lungvq.match import alike, on_one_basis
from lungvq.phantom import Phantom
from lungvq.pipeline import Options, estimate
from lungvq.regional import Neighbourhoods, carry
from lungvq.register import Registration, register
from lungvq.segment.lobes import Lobes, find_lobes
from lungvq.volume import CANONICAL, Volume

__all__ = [
    "Arrays",
    "Seen",
    "look",
    "lungs_of",
    "maps_of",
    "onto",
    "rank",
    "smoothed",
    "true_registration",
    "with_lungs",
]

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Seen:
    """What both ways of seeing a phantom start from.

    Parameters
    ----------
    insp, exp : Breath
        With our own lungs.
    lobes : Lobes
        Our own, of the inspiration.
    registration : Registration
        Our own.
    lobes_insp, lobes_exp : Volume
        The true ones on the grids of both scans, cropped.
    lungs : Volume
        The true ones at expiration.
    true_insp, true_exp : Breath
        With the true lungs.
    truly : Registration
        The true motion on the working grid.
    truth : dict of str to ndarray
        ``ventilation``, ``perfusion`` and ``mass_change`` on the grid of `exp`, 0 outside the lungs.
    inside : ndarray of bool
        Lung in truth and by our own mask.
    """

    phantom: Phantom
    insp: Breath
    exp: Breath
    lobes: Lobes
    registration: Registration
    lobes_insp: Volume
    lobes_exp: Volume
    lungs: Volume
    true_insp: Breath
    true_exp: Breath
    truly: Registration
    truth: Arrays
    inside: np.ndarray


def look(phantom: Phantom) -> Seen:
    """Segment and register a phantom, and put its truth beside."""
    insp, exp = (
        prepare(io.Scan(volume, Path(role), "phantom", (), {}), role)
        for role, volume in (("inspiration", phantom.insp), ("expiration", phantom.exp))
    )
    insp, exp, _ = on_one_basis(insp, exp)
    insp, exp, _ = alike(insp, exp)
    lobes = find_lobes(insp.ct, insp.anatomy)
    registration = register(
        exp.ct, insp.ct, exp.anatomy.lungs, insp.anatomy.lungs, moving_parts=lobes.that_may_slide()
    )
    lobes_insp, lobes_exp = (
        onto(v, b.ct) for v, b in ((phantom.truth.lobes_insp, insp), (phantom.truth.lobes_exp, exp))
    )
    lungs = lungs_of(lobes_exp)
    truth = {
        name: np.nan_to_num(onto(getattr(phantom.truth, name), exp.ct).array)
        for name in ("ventilation", "perfusion", "mass_change")
    }
    return Seen(
        phantom,
        insp,
        exp,
        lobes,
        registration,
        lobes_insp,
        lobes_exp,
        lungs,
        with_lungs(insp, lungs_of(lobes_insp)),
        with_lungs(exp, lungs),
        true_registration(phantom, registration),
        truth,
        (lungs.array > 0) & (exp.anatomy.lungs.array > 0),
    )


def maps_of(insp: Breath, exp: Breath, registration: Registration) -> Arrays:
    """All maps of a pair whose correspondence is known, on the grid of `exp`."""
    return {name: v.array for name, v in estimate(insp, exp, registration, Options()).maps.items()}


def onto(volume: Volume, like: Volume) -> Volume:
    """The part of a volume on the scan's grid that covers a crop of the scan."""
    volume = volume.reorient(CANONICAL)
    start = np.rint(volume.grid.index(like.grid.world((0, 0, 0)))).astype(int)
    box = [slice(int(a), int(a) + n) for a, n in zip(start, like.shape, strict=True)]
    return volume.crop((box[0], box[1], box[2]))


def lungs_of(lobes: Volume) -> Volume:
    return lobes.like(np.array(LUNG_OF_LOBE_LABEL, np.uint8)[lobes.array])


def with_lungs(breath: Breath, lungs: Volume) -> Breath:
    """The breath as it would be had segmentation found these lungs."""
    return replace(breath, anatomy=replace(breath.anatomy, lungs=lungs))


def true_registration(phantom: Phantom, found: Registration) -> Registration:
    """What a perfect registration would have said on the same working grid."""
    grid = found.lungs.grid
    lungs = lungs_of(phantom.truth.lobes_exp.reorient(CANONICAL).resample_labels(grid))
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


def smoothed(array: np.ndarray, lungs: Volume, sigma_mm: float) -> np.ndarray:
    """Gaussian mean within the lungs over what is defined."""
    defined = np.isfinite(array).astype(np.float32)
    return carry(Neighbourhoods(lungs, sigma_mm, defined).mean(np.nan_to_num(array)), lungs)


def rank(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman correlation where both are defined; 0 where one of them is constant."""
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 3 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return 0.0
    return float(spearmanr(a[known], b[known]).statistic)
