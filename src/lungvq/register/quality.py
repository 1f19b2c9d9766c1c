"""How good a registration is, in numbers that need no truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lungvq.findings import Finding, fail, passed, warn
from lungvq.register.field import Array, Mask

__all__ = [
    "DEPTHS_MM",
    "MISMATCH_CORRELATION",
    "LungQuality",
    "RegistrationQuality",
    "check_islands",
    "check_rims",
    "check_surfaces",
    "measure",
    "signed_distance",
]

SURFACE_OFF_MM = 5.0
SURFACE_OFF_PCT = 3.0
AERATED_RIM_PCT, LARGELY_AERATED_RIM_PCT = 3.0, 40.0
"""Share of the shell outside a mask that looks like lung: at most 0.3 % around whole masks of phantoms and of a real
pair, 8 to 11 % where a slab of 14 mm was missing."""

ISLANDS_ML = 0.05
"""Volume of a mask's crumbs from which they are told: single voxels at its edge matter to no map."""

DEPTHS_MM = (0.0, 3.0, 6.0, 10.0, 20.0)
"""Shells under the pleura in which the expected error is told; the last one has no end."""

MISMATCH_CORRELATION = 0.4
"""`LungQuality.correlation_after` below which two scans do not belong together.

Phantoms of five cases and a real breathing pair reached 0.74 to 0.77, and 0.55 with 60 HU of noise added; two
different subjects, whose masks match
as well (Dice 0.99), 0.09 to 0.29; scans upside down or back to front 0.13 to 0.20.
"""


@dataclass(frozen=True)
class LungQuality:
    """One lung, or both together."""

    dice: float
    """Overlap of the fixed mask and the moving mask brought onto it."""
    surface_mean_mm: float
    surface_p95_mm: float
    """Distance of the mapped fixed surface from the moving surface."""
    surface_thirds_mm: tuple[float, float, float]
    """Its mean over the lung's lower, middle and upper third of height, where the base moves most; NaN where
    a lung of few slices has no such third."""
    surface_off_percent: float
    """Share of the fixed surface mapped more than 5 mm away from the moving one, inwards or outwards."""
    unseen_percent: float
    """Share of the fixed lung mapped to where the moving scan shows nothing."""
    folded_percent: float
    """Share of lung where the unsmoothed Jacobian is not positive."""
    jacobian_percentiles: tuple[float, float, float, float, float]
    """1, 5, 50, 95, 99 % of the unsmoothed Jacobian."""
    expected_error_mm: tuple[float, ...]
    """Root mean square of `Registration.expected_error` in the shells that begin at `DEPTHS_MM` under the pleura; NaN
    where a lung is not that thick."""
    parts: int
    """Into how many parts that slide on one another the lung was taken; of both lungs together the sum."""
    correlation_before: float
    correlation_after: float
    """Mean local correlation away from the pleura, of the lungs brought together by their extent alone and
    at the end: what tells a pair from two scans that do not belong together."""
    motion_mean_mm: float
    motion_p95_mm: float
    motion_max_mm: float
    closure: float
    """Sum of J dx over the fixed lung by the volume of the moving lung; 1 is perfect."""
    volume_fixed_ml: float
    volume_moving_ml: float


@dataclass(frozen=True)
class RegistrationQuality:
    """Per lung and overall; a lung that could not be registered is missing and has a finding."""

    overall: LungQuality
    lungs: dict[str, LungQuality]
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """What `measure` needs of one lung; arrays on its working grid, of which `mask` selects the lung."""

    mask: Mask
    warped_mask: Mask
    surface_mm: NDArray[np.float32]
    surface_height: NDArray[np.float32]
    """0 at the lung's lowest voxel, 1 at its highest, of the same voxels of the surface."""
    expected_error: Array
    jacobian: Array
    before: Array
    after: Array
    motion_mm: Array
    voxel_ml: float
    volume_moving_ml: float
    parts: int = 1
    unseen: float = 0.0

    @cached_property
    def core(self) -> Mask:
        """Away from the pleura; all of the lung where nothing is."""
        core = np.zeros_like(self.mask)
        core[self.mask] = self.depth_mm > 3 * np.cbrt(1000 * self.voxel_ml)
        return core if core.any() else self.mask

    @cached_property
    def depth_mm(self) -> NDArray[np.float32]:
        """Of each voxel of the lung under its surface."""
        return -signed_distance(self.mask, float(np.cbrt(1000 * self.voxel_ml)))[self.mask]


def signed_distance(mask: Mask, spacing: float) -> NDArray[np.float32]:
    """Distance to the surface of a mask in mm, negative inside, zero on the faces between voxels."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    to_border: NDArray[np.float32] = (
        sitk.GetArrayFromImage(  # from the mask's outermost voxels, negative inside
            sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=False)
        )
    )
    return (to_border - np.float32(0.5)) * np.float32(spacing)


def measure(lungs: list[Evidence]) -> LungQuality:
    """One row of numbers for one lung, or for several taken together."""

    def pooled(name: str) -> NDArray[np.float32]:
        return np.concatenate([getattr(lung, name)[lung.mask] for lung in lungs])

    surface = np.abs(np.concatenate([lung.surface_mm for lung in lungs]))
    jacobian, motion = pooled("jacobian"), pooled("motion_mm")
    both = sum(int((lung.mask & lung.warped_mask).sum()) for lung in lungs)
    sizes = sum(int(lung.mask.sum()) + int(lung.warped_mask.sum()) for lung in lungs)
    moving_ml = sum(lung.volume_moving_ml for lung in lungs)
    before = np.concatenate([lung.before[lung.core] for lung in lungs])
    after = np.concatenate([lung.after[lung.core] for lung in lungs])
    height = np.concatenate([lung.surface_height for lung in lungs])
    third = np.minimum((3 * height).astype(int), 2)
    depth, error = np.concatenate([lung.depth_mm for lung in lungs]), pooled("expected_error")
    p = np.percentile(jacobian, (1, 5, 50, 95, 99))
    return LungQuality(
        dice=2 * both / sizes,
        surface_mean_mm=float(surface.mean()),
        surface_p95_mm=float(np.percentile(surface, 95)),
        surface_thirds_mm=(
            _mean(surface[third == 0]),
            _mean(surface[third == 1]),
            _mean(surface[third == 2]),
        ),
        expected_error_mm=tuple(
            _mean(error[(depth >= low) & (depth < high)] ** 2) ** 0.5
            for low, high in zip(DEPTHS_MM, (*DEPTHS_MM[1:], np.inf), strict=True)
        ),
        parts=sum(lung.parts for lung in lungs),
        surface_off_percent=100 * float((surface > SURFACE_OFF_MM).mean()),
        unseen_percent=100
        * float(np.average([x.unseen for x in lungs], weights=[x.mask.sum() for x in lungs])),
        folded_percent=100 * float((jacobian <= 0).mean()),
        jacobian_percentiles=(float(p[0]), float(p[1]), float(p[2]), float(p[3]), float(p[4])),
        correlation_before=float(before.mean()),
        correlation_after=float(after.mean()),
        motion_mean_mm=float(motion.mean()),
        motion_p95_mm=float(np.percentile(motion, 95)),
        motion_max_mm=float(motion.max()),
        closure=sum(float(lung.jacobian[lung.mask].sum(dtype=float)) * lung.voxel_ml for lung in lungs)
        / moving_ml,
        volume_fixed_ml=sum(float(lung.mask.sum()) * lung.voxel_ml for lung in lungs),
        volume_moving_ml=moving_ml,
    )


def _mean(values: NDArray[np.float32]) -> float:
    return float(values.mean(dtype=float)) if values.size else float("nan")


def check_registered(missing: dict[str, tuple[float, float]], needed_ml: float) -> tuple[Finding, ...]:
    """Whether a lung that a scan shows could not be registered; `missing`: its mL in the fixed and the moving scan.

    A lung that neither shows, as after its removal, is no finding.
    """
    return tuple(
        fail(
            f"LUNG_NOT_REGISTERED_{name.upper()}",
            f"The {name} lung was not registered: {before:.0f} mL of it in the fixed scan and {after:.0f} mL in the"
            f" moving scan, {needed_ml:.0f} mL are needed in both.",
            value=round(min(before, after), 2),
            limit=needed_ml,
            unit="mL",
            advice="Nothing is known of how it breathes. Look at the mask that holds less.",
            touches=(name,),
        )
        for name, (before, after) in missing.items()
        if max(before, after) > 0
    )


def check_surfaces(quality: dict[str, LungQuality]) -> tuple[Finding, ...]:
    """Whether the masks of the two scans show the same lungs, and the moving scan all of them.

    Returns
    -------
    tuple of Finding
        ``MASKS_DISAGREE_LEFT`` and ``_RIGHT`` by the share of the surface that does not meet its like, as where
        one mask lacks a part that the other has; ``LUNG_BEYOND_SCAN_LEFT`` and ``_RIGHT`` by the share of a lung
        that was mapped out of the moving scan.
    """
    findings = []
    for name, lung in quality.items():
        found = (
            (
                "MASKS_DISAGREE",
                lung.surface_off_percent,
                SURFACE_OFF_PCT,
                f"of the {name} lung's surface lie more than {SURFACE_OFF_MM:g} mm from where the other scan has it",
                "One mask may lack a part of the lung: look at both; do not trust numbers near that surface.",
            ),
            (
                "LUNG_BEYOND_SCAN",
                lung.unseen_percent,
                1.0,
                f"of the {name} lung were mapped to where the other scan shows nothing",
                "The other scan may cut the lung off: what lies there is unknown.",
            ),
        )
        for code, value, limit, what, advice in found:
            make = warn if value > limit else passed
            findings.append(
                make(
                    f"{code}_{name.upper()}",
                    f"{value:.1f} % {what}.",
                    value=round(value, 2),
                    limit=limit,
                    unit="%",
                    advice=advice if value > limit else "",
                    touches=(name,),
                )
            )
    return tuple(findings)


def check_rims(aerated: dict[str, float]) -> tuple[Finding, ...]:
    """Whether a mask ends in the middle of a lung; `aerated` is the worse scan's share, keyed by lung."""
    findings = []
    for name, share in aerated.items():
        value = round(100 * share, 2)
        cut, largely = value > AERATED_RIM_PCT, value > LARGELY_AERATED_RIM_PCT
        findings.append(
            (fail if largely else warn if cut else passed)(
                f"MASK_CUTS_LUNG_{name.upper()}",
                f"{value:.1f} % of what lies just outside the mask of the {name} lung looks like lung.",
                value=value,
                limit=LARGELY_AERATED_RIM_PCT if largely else AERATED_RIM_PCT,
                unit="%",
                advice="The mask may lack a part of the lung: numbers near there are not to be trusted."
                if cut
                else "",
                touches=(name,),
            )
        )
    return tuple(findings)


def check_islands(ml: dict[str, float]) -> tuple[Finding, ...]:
    """Whether crumbs of the masks were left out of the registration; `ml` keyed by scan."""
    crumbs = {scan: volume for scan, volume in ml.items() if volume > 0}
    if sum(crumbs.values()) < ISLANDS_ML:
        return ()
    listed = " and ".join(f"{volume:.2f} mL in the {scan} mask" for scan, volume in crumbs.items())
    return (
        warn(
            "MASK_ISLANDS",
            f"Small pieces apart from the lungs were not registered: {listed}.",
            value=round(sum(crumbs.values()), 3),
            unit="mL",
            advice="They are probably not lung; their motion is that of the lung around them.",
        ),
    )
