"""Bring what was found in two scans together on the expiration."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lungvq.agreement import slice_thickness
from lungvq.anatomy import LUNG_OF_LOBE_LABEL, LUNGS
from lungvq.breath import Breath
from lungvq.errors import GeometryError
from lungvq.findings import Finding, passed, warn
from lungvq.hu import OUTSIDE_HU, calibrate_hu
from lungvq.pair import MatchedPair
from lungvq.regional import carry, fill_from_nearest, reaching_out, within
from lungvq.register import Registration, warp_labels
from lungvq.segment.padding import without_padding
from lungvq.sharpness import matching_blur
from lungvq.volume import Grid, Volume
from lungvq.wall import LungHu, clear_of_wall

__all__ = [
    "Comparable",
    "alike",
    "carry_inspiration",
    "carry_lobes",
    "carry_map",
    "equally_sharp",
    "match",
    "on_one_basis",
    "one_scale",
]


def match(insp: LungHu, exp: LungHu, registration: Registration) -> MatchedPair:
    """Both scans, in calibrated HU and free of wall, on the registration's working grid.

    Returns
    -------
    MatchedPair
        Its Jacobian is the registration's, scaled lung by lung so that its sum over the expiratory lung is
        the inspiratory mask's volume; the Jacobian's errors are those the registration expects, as far as
        densities show no others (`MatchedPair.with_errors_as_seen`).
    """
    lungs = registration.lungs
    # Both scans take the same two steps, so that a scan matched to itself shows no difference.
    still = registration.displacement.like(np.zeros_like(registration.displacement.array))
    hu_exp, hu_insp = (
        scan.hu.through(motion, lungs.grid)
        for scan, motion in ((exp, still), (insp, registration.displacement))
    )
    doubt = lungs.like(registration.jacobian_se.array / registration.jacobian.array)
    hu_exp, hu_insp, jacobian, doubt = (
        within(volume, lungs) for volume in (hu_exp, hu_insp, registration.jacobian_raw, doubt)
    )
    # Once more: a motion that errs brings what lies deeper beside the pleura, and the other way round.
    hu_exp, clear = clear_of_wall(hu_exp, lungs, exp.wall_mm)
    hu_insp, _ = clear_of_wall(hu_insp, lungs, exp.wall_mm)
    for name, label in LUNGS.items():
        where = lungs.array == label
        total = float(jacobian.array[where].sum(dtype=np.float64)) * lungs.voxel_ml
        if total > 0:
            jacobian.array[where] *= np.float32(_expected(insp, exp, lungs, name) / total)
    return MatchedPair(
        hu_exp,
        hu_insp,
        jacobian,
        lungs,
        insp.held,
        exp.held,
        doubt,
        clear,
    ).with_errors_as_seen()


def _expected(insp: LungHu, exp: LungHu, lungs: Volume, name: str) -> float:
    """What J must sum to over a lung on the working grid, whose mask is a little coarser than the scan's."""
    here = float((lungs.array == LUNGS[name]).sum()) * lungs.voxel_ml
    there = exp.held[name].volume_ml
    return insp.held[name].volume_ml * (here / there if there else 1.0)


def carry_inspiration(displacement: Volume, insp: Volume, grid: Grid) -> Volume:
    """The inspiration scan seen from the expiration, int16 HU as scanned, at the resolution of `grid`."""
    scanned = insp.like(without_padding(insp.array, OUTSIDE_HU))
    carried = scanned.through(displacement, grid, fill=OUTSIDE_HU)
    return carried.like(np.rint(carried.array, out=carried.array).astype(np.int16))


def carry_map(values: Volume, lungs: Volume, lungs_exp: Volume) -> Volume:
    """A map on the working grid as seen on the expiration: trilinear within the lungs, NaN where not defined.

    Raises
    ------
    GeometryError
        If it does not lie on the working grid.
    """
    if not values.grid.same_as(lungs.grid):
        raise GeometryError("expected a map on the grid of pair.lungs")
    known = np.isfinite(values.array) & (lungs.array > 0)
    field = {
        name: reaching_out(
            lungs.like(np.where(known & (lungs.array == label), values.array, np.nan).astype(np.float32))
        )
        for name, label in LUNGS.items()
    }
    carried = carry(field, lungs_exp)
    missing = lungs.like(((lungs.array > 0) & ~known).astype(np.uint8)).resample_labels(lungs_exp.grid)
    return lungs_exp.like(np.where(missing.array > 0, np.float32(np.nan), carried))


def alike(insp: Breath, exp: Breath) -> tuple[Breath, Breath, Finding]:
    """Both breath-holds with the smoothing that makes them equally sharp, and a finding on how much that is.

    Kernels and slices differ between scans; single voxels of the sharper one cross thresholds for no other reason
    (`sharpness.matching_blur`).
    """
    scans = [(breath.ct, breath.anatomy.lungs) for breath in (insp, exp)]
    told_mm = slice_thickness(insp.scan.facts), slice_thickness(exp.scan.facts)
    blurs = matching_blur(scans[0], scans[1], told_mm)
    told = [
        f"the {b.role} scan was smoothed by {mm:.2f} mm {where}"
        for b, blur in zip((insp, exp), blurs, strict=True)
        for mm, where in ((max(blur[1:]), "within slices"), (blur[0], "across them"))
        if mm > 0
    ]
    if told:
        finding = warn(
            "SHARPNESS_MISMATCH",
            f"The scans are not equally sharp; for what is counted voxel by voxel {' and '.join(told)} (sigma).",
            value=round(max(max(blur) for blur in blurs), 2),
            limit=0.25,
            unit="mm",
            advice="Reconstruct both with the same soft kernel and slices of one thickness.",
            touches=("prm",),
        )
    else:
        finding = passed(
            "SHARPNESS_MISMATCH", "The scans are about equally sharp.", value=0.0, limit=0.25, unit="mm"
        )
    first, second = (replace(b, blur_mm=blur) for b, blur in zip((insp, exp), blurs, strict=True))
    return first, second, finding


def on_one_basis(insp: Breath, exp: Breath) -> tuple[Breath, Breath, Finding]:
    """Both breath-holds with HU scales that rest on the same references, and a finding on whether they did before.

    Blood that reads one HU too much to be believed would take the gain from one scan and leave it to the other, some
    2 % of mass apart: what one scan does not have is used of neither.
    """
    ranks = [_BASES.index(b.calibrate.basis) for b in (insp, exp)]
    if ranks[0] == ranks[1]:
        message = f"The HU scales of both scans rest on the same: {insp.calibrate.basis}."
        return insp, exp, passed("HU_BASIS", message)
    weaker = _BASES[min(ranks)]

    def resting(breath: Breath) -> Breath:
        seen = breath.calibrate.air_hu, breath.calibrate.blood_hu
        line = calibrate_hu(seen[0] if weaker == "air" else None, None)
        return replace(breath, calibrate=replace(line, air_hu=seen[0], blood_hu=seen[1]))

    told = " and ".join(f"that of {b.role} on {b.calibrate.basis}" for b in (insp, exp))
    finding = warn(
        "HU_BASIS",
        f"The scans' HU scales could not rest on the same: {told}; both rest on {weaker} now.",
        advice="Look at air and blood in QC: one scan may show contrast medium, or no trachea.",
        touches=("mass", "perfusion_ctp", "ventilation_hu", "ventilation", "density", "prm"),
    )
    return resting(insp), resting(exp), finding


_BASES = ("none", "air", "air and blood")


def one_scale(insp: Breath, exp: Breath) -> tuple[Breath, Breath]:
    """Both scans on the HU scale that their references have on average, for two reconstructions of one breath.

    A kernel keeps means, and one acquisition has one scale: where tracheal air reads a little otherwise, the kernel's
    edges in the trachea did it. References more than 20 HU apart are left to each scan: they may be two acquisitions.
    """
    air, blood = (
        [value for b in (insp, exp) if (value := getattr(b.references, name)) is not None]
        for name in ("air_hu", "blood_hu")
    )
    if len(air) < 2 or abs(air[0] - air[1]) > _ONE_SCALE_HU or len(blood) == 1:
        return insp, exp
    scale = calibrate_hu(float(np.mean(air)), float(np.mean(blood)) if blood else None)
    return replace(insp, calibrate=scale), replace(exp, calibrate=scale)


_ONE_SCALE_HU = 20.0


@dataclass(frozen=True, eq=False)
class Comparable:
    """Both scans on the expiration's voxels, equally sharp: what is compared voxel by voxel.

    Parameters
    ----------
    insp, exp : ndarray of int16, shape (K, J, I)
        HU as scanned, one smoothed where the other is smoother.
    inside : ndarray of bool, the same shape
        The expired lungs that were registered, as far as the inspiration scan shows where they went.
    """

    insp: np.ndarray
    exp: np.ndarray
    inside: np.ndarray


def equally_sharp(insp: Breath, exp: Breath, insp_on_exp: Volume, registration: Registration) -> Comparable:
    """Both scans as they can be compared voxel by voxel, one smoothed as `alike` found, on its own voxels.

    On the other's, of thicker slices, there would be nothing left to smooth across slices, but all of the noise.
    """
    inside = np.isin(exp.anatomy.lungs.array, [LUNGS[name] for name in registration.quality.lungs])
    if registration.quality.overall.unseen_percent > 0:
        scanned = insp.ct.like(np.ones(insp.ct.shape, np.uint8))
        inside &= scanned.through(registration.displacement, exp.ct.grid, fill=0, nearest=True).array > 0
    if any(insp.blur_mm):
        insp_on_exp = carry_inspiration(registration.displacement, _smoothed(insp), exp.ct.grid)
    return Comparable(insp_on_exp.array, _smoothed(exp).array, inside)


def _smoothed(breath: Breath) -> Volume:
    """A scan as smooth as the other, within its lungs."""
    if not any(breath.blur_mm):
        return breath.ct
    return breath.ct.like(np.rint(breath.as_smooth(breath.ct.array)).astype(np.int16))


def carry_lobes(registration: Registration, lobes_insp: Volume, lungs_exp: Volume) -> Volume:
    """Lobes of the inspiration on the expiration: every voxel of a lung gets a lobe of that lung.

    Returns
    -------
    Volume
        uint8 on the grid of `lungs_exp`.
    """
    lungs = registration.lungs
    lobes = warp_labels(registration, lobes_insp, lungs_exp.grid).array.astype(np.uint8)
    coarse = warp_labels(registration, lobes_insp, lungs.grid).array
    for label in LUNGS.values():
        astray = (lungs_exp.array == label) & (_LUNG_OF_LABEL[lobes] != label)
        own = (lungs.array == label) & (_LUNG_OF_LABEL[coarse] == label)
        if astray.any() and own.any():
            nearest = lungs.like(fill_from_nearest(coarse, ~own)).resample_labels(lungs_exp.grid)
            lobes[astray] = nearest.array[astray]
    lobes[lungs_exp.array == 0] = 0
    return lungs_exp.like(lobes)


_LUNG_OF_LABEL = np.array(LUNG_OF_LOBE_LABEL, np.uint8)
