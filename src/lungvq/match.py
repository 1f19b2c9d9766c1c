"""Bring what was found in two scans together on the expiration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.ndimage import distance_transform_edt

from lungvq.agreement import slice_thickness
from lungvq.anatomy import LUNG_OF_LOBE_LABEL, LUNGS
from lungvq.breath import Breath
from lungvq.errors import GeometryError
from lungvq.findings import Finding, passed, warn
from lungvq.hu import OUTSIDE_HU, calibrate_hu
from lungvq.pair import LungTotals, MatchedPair, lung_totals
from lungvq.regional import Neighbourhoods, carry, fill_from_nearest, reaching_out
from lungvq.register import Registration, warp_labels
from lungvq.register.field import blur
from lungvq.sharpness import blurred_within, matching_blur
from lungvq.volume import Grid, Volume

__all__ = ["alike", "carry_inspiration", "carry_lobes", "carry_map", "equally_sharp", "match", "one_scale"]

_BENEATH_MM = 4.0  # sigma of the mean that stands for voxels which are partly wall


def match(insp: Breath, exp: Breath, registration: Registration) -> MatchedPair:
    """Both scans, in calibrated HU, on the registration's working grid.

    Returns
    -------
    MatchedPair
        Its Jacobian is the registration's, scaled lung by lung so that its sum over the expiratory lung is
        the inspiratory mask's volume; the Jacobian's errors are those the registration expects, as far as
        densities show no others (`MatchedPair.with_errors_as_seen`). Voxels that are partly chest wall have the
        CT number of the lung beneath them.
    """
    lungs = registration.lungs
    # Both scans take the same two steps, so that a scan matched to itself shows no difference.
    still = registration.displacement.like(np.zeros_like(registration.displacement.array))
    hu_exp, hu_insp = (
        _lung_hu(breath, lungs.spacing).through(motion, lungs.grid)
        for breath, motion in ((exp, still), (insp, registration.displacement))
    )
    doubt = lungs.like(registration.jacobian_se.array / registration.jacobian.array)
    hu_exp, hu_insp, jacobian, doubt = (
        _inside(volume, lungs) for volume in (hu_exp, hu_insp, registration.jacobian_raw, doubt)
    )
    clear, hu_exp, hu_insp = _clear_of_wall(
        lungs, hu_exp, hu_insp, max(b.ct.grid.voxel_mm for b in (insp, exp))
    )
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
        insp.totals,
        exp.totals,
        doubt,
        clear,
    ).with_errors_as_seen()


def _inside(volume: Volume, lungs: Volume) -> Volume:
    """A map within the lungs, with what is undefined there taken from the nearest voxel; NaN outside."""
    inside = lungs.array > 0
    if np.isnan(volume.array[inside]).any():
        volume = reaching_out(volume)
    return volume.like(np.where(inside, volume.array, np.nan).astype(np.float32))


def _clear_of_wall(lungs: Volume, exp: Volume, insp: Volume, wall_mm: float) -> tuple[Volume, Volume, Volume]:
    """Both scans without the wall that voxels beside the pleura share in, and where they are as they were.

    A voxel that is partly wall is denser than the lung in it, the more so the more air there is: breathing in seems
    to bring mass to the pleura, and too little air. Such voxels, within `wall_mm` of the surface and at least the
    outermost ones, get the mean of the lung beneath them; where there is none, as in slivers, they stay.
    """
    deep = np.zeros(lungs.shape, bool)
    for label in LUNGS.values():
        inside = np.pad(lungs.array == label, 1)
        depth = distance_transform_edt(inside, sampling=lungs.spacing)[1:-1, 1:-1, 1:-1]
        deep |= depth - min(lungs.spacing) / 2 > max(wall_mm, min(lungs.spacing) / 2)
    beneath = Neighbourhoods(lungs, _BENEATH_MM, deep)
    filled = [carry(beneath.mean(scan.array), lungs) for scan in (exp, insp)]
    clear = deep | ~np.isfinite(filled[0])
    exp, insp = (
        scan.like(np.where(clear, scan.array, mean)) for scan, mean in zip((exp, insp), filled, strict=True)
    )
    return lungs.like(clear & (lungs.array > 0)), exp, insp


def _expected(insp: Breath, exp: Breath, lungs: Volume, name: str) -> float:
    """What J must sum to over a lung on the working grid, whose mask is a little coarser than the scan's."""
    here = float((lungs.array == LUNGS[name]).sum()) * lungs.voxel_ml
    there = exp.totals[name].volume_ml
    return insp.totals[name].volume_ml * (here / there if there else 1.0)


def _lung_hu(breath: Breath, spacing: Sequence[float]) -> Volume:
    """Calibrated HU of the lungs alone, no finer than `spacing`; the chest wall does not leak into the pleura."""
    grid = breath.ct.grid.with_spacing([max(a, b) for a, b in zip(breath.ct.spacing, spacing, strict=True)])
    inside = (breath.anatomy.lungs.array > 0).astype(np.float32)
    hu = breath.calibrate(breath.ct.array)
    if any(breath.blur_mm):
        hu = blurred_within(hu, inside > 0, _voxels(breath.blur_mm, breath.ct))
    above, below = (breath.ct.like(part).resample(grid, fill=0.0).array for part in (hu * inside, inside))
    mean = np.full(above.shape, np.nan, np.float32)
    np.divide(above, below, out=mean, where=below > 0.05)
    return reaching_out(Volume(mean, grid.affine))


def carry_inspiration(displacement: Volume, insp: Breath, grid: Grid) -> Volume:
    """The inspiration scan seen from the expiration, int16 HU as scanned, at the resolution of `grid`."""
    carried = insp.ct.through(displacement, grid, fill=OUTSIDE_HU)
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
        f"the {b.role} scan by {max(blur[1:]):.2f} mm"
        for b, blur in zip((insp, exp), blurs, strict=True)
        if any(blur[1:])
    ]
    within = max(max(blur[1:]) for blur in blurs)
    if told:
        finding = warn(
            "SHARPNESS_MISMATCH",
            f"The scans are not equally sharp; for what is counted voxel by voxel {told[0]} (sigma) was smoothed.",
            value=round(within, 2),
            limit=0.25,
            unit="mm",
            advice="Reconstruct both with the same soft kernel.",
            touches=("prm",),
        )
    else:
        finding = passed(
            "SHARPNESS_MISMATCH", "The scans are about equally sharp.", value=0.0, limit=0.25, unit="mm"
        )
    first, second = (_smoothed(b, blur) for b, blur in zip((insp, exp), blurs, strict=True))
    return first, second, finding


def _smoothed(breath: Breath, blur_mm: tuple[float, float, float]) -> Breath:
    """With that smoothing, and what its lungs hold after it."""
    if not any(blur_mm):
        return breath
    smooth = replace(breath, blur_mm=blur_mm)
    return replace(smooth, totals=_totals(smooth))


def _matched(breath: Breath) -> np.ndarray:
    """HU as scanned, as smooth as the other scan's.

    The chest wall is smoothed along: a sharp kernel takes from the lung beneath the pleura what it gives to the wall,
    and a soft one brings the wall into the lung.
    """
    if not any(breath.blur_mm):
        return breath.ct.array
    sigma = [max(s, 1e-3) for s in _voxels(breath.blur_mm, breath.ct)]
    smooth: np.ndarray = blur(breath.ct.array.astype(np.float32), sigma)
    return smooth


def _totals(breath: Breath) -> dict[str, LungTotals]:
    return lung_totals(breath.ct.like(_matched(breath)), breath.anatomy.lungs, breath.calibrate)


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
    first, second = (replace(b, calibrate=scale) for b in (insp, exp))
    return replace(first, totals=_totals(first)), replace(second, totals=_totals(second))


_ONE_SCALE_HU = 20.0


def equally_sharp(insp: Breath, exp: Breath, insp_on_exp: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Inspiration and expiration on the expiration's voxels, int16 HU as scanned, one smoothed as `alike` found."""
    inside = exp.anatomy.lungs.array > 0
    both = []
    for breath, volume in ((insp, insp_on_exp), (exp, exp.ct)):
        array = volume.array
        if any(breath.blur_mm):
            smooth = blurred_within(array, inside, _voxels(breath.blur_mm, volume))
            array = np.rint(smooth).astype(np.int16)
        both.append(array)
    return both[0], both[1]


def _voxels(blur_mm: tuple[float, float, float], volume: Volume) -> tuple[float, float, float]:
    z, y, x = (mm / s for mm, s in zip(blur_mm, volume.spacing, strict=True))
    return z, y, x


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
