"""One breath-hold made ready: its lungs, its reference tissues and its HU scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lungvq.anatomy import LUNGS
from lungvq.errors import InputError
from lungvq.findings import Finding
from lungvq.hu import Calibration, calibrate_hu
from lungvq.io import Scan
from lungvq.progress import SILENT, Progress
from lungvq.segment import Anatomy, segment
from lungvq.segment.laterality import check_laterality
from lungvq.segment.masks import lungs_from_mask
from lungvq.segment.references import HuReferences, reference_tissue
from lungvq.sharpness import blurred_within
from lungvq.volume import CANONICAL, Box, Grid, Volume, box_around

__all__ = ["Breath", "prepare"]

_MARGIN_MM = 15.0


@dataclass(frozen=True)
class Breath:
    """One scan and what was found in it.

    Parameters
    ----------
    role : str
        ``"inspiration"`` or ``"expiration"``.
    scan : Scan
        As it was read.
    ct : Volume
        int16 HU as scanned, canonical axis order, cropped to the lungs with a margin; `anatomy` likewise.
    grid : Grid
        The whole canonical grid.
    references : HuReferences
        What air and blood look like in this scan.
    calibrate : Calibration
        The HU scale that follows.
    laterality : Finding
        Whether the right side of the image is the patient's.
    blur_mm : (float, float, float)
        Gaussian sigma along slices, rows and columns that makes it as smooth as the other scan; see `match.alike`.
    """

    role: str
    scan: Scan
    ct: Volume
    grid: Grid
    anatomy: Anatomy
    references: HuReferences
    calibrate: Calibration
    laterality: Finding
    blur_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What reading and segmentation noticed, each with the scan it belongs to."""
        suffix = {"inspiration": "INSP", "expiration": "EXP"}[self.role]
        return tuple(
            replace(f, code=f"{f.code}_{suffix}", message=f"In the {self.role} scan: {f.message}")
            for f in (*self.scan.findings, *self.anatomy.findings, self.laterality)
        )

    @cached_property
    def volumes_ml(self) -> dict[str, float]:
        """Of the mask of each lung, 0 where there is none."""
        count = np.bincount(self.anatomy.lungs.array.ravel(), minlength=len(LUNGS) + 1)
        return {name: float(count[label]) * self.anatomy.lungs.voxel_ml for name, label in LUNGS.items()}

    def as_smooth(self, hu: np.ndarray) -> np.ndarray:
        """CT numbers on the grid of `ct`, float32, smoothed by `blur_mm` within the lungs."""
        z, y, x = (mm / s for mm, s in zip(self.blur_mm, self.ct.spacing, strict=True))
        return blurred_within(hu, self.anatomy.lungs.array > 0, (z, y, x))


def prepare(scan: Scan, role: str, progress: Progress = SILENT, *, lungs: Volume | None = None) -> Breath:
    """Find lungs and reference tissues in one scan and set its HU scale.

    `lungs` are a mask from elsewhere on the scan's grid, in any axis order, as `lungs_from_mask` takes it.

    Raises
    ------
    InputError
        If there are no lungs in it, or more than anyone has; says in which scan.
    """
    ct = scan.volume.reorient(CANONICAL)
    known = None if lungs is None else lungs_from_mask(lungs.reorient(CANONICAL), ct)
    try:
        anatomy = segment(ct, lungs=known, progress=progress)
    except InputError as error:
        raise InputError(f"the {role} scan ({scan.path}): {error}") from error
    references = reference_tissue(ct, anatomy)
    laterality = check_laterality(ct, anatomy.lungs)
    margin = [int(np.ceil(_MARGIN_MM / spacing)) for spacing in ct.spacing]
    box = box_around(anatomy.lungs.array > 0, margin)
    anatomy = replace(
        anatomy,
        lungs=_part(anatomy.lungs, box),
        airways=_part(anatomy.airways, box),
        vessels=_part(anatomy.vessels, box),
    )
    part = _part(ct, box)
    calibrate = calibrate_hu(references.air_hu, references.blood_hu)
    return Breath(role, scan, part, ct.grid, anatomy, references, calibrate, laterality)


def _part(volume: Volume, box: Box) -> Volume:
    """A crop that does not keep the whole alive."""
    part = volume.crop(box)
    return part.like(np.ascontiguousarray(part.array))
