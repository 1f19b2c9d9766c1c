"""What is where in one chest CT: lungs, airways, vessels; and how far that can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lungvq.anatomy import LEFT, LUNGS, RIGHT
from lungvq.errors import InputError
from lungvq.findings import Finding
from lungvq.progress import SILENT, Progress
from lungvq.segment._checks import MOST_ML, check_lungs
from lungvq.segment._coarse import coarsen
from lungvq.segment.airways import find_trachea, follow_bronchi, grow_airways
from lungvq.segment.lungs import (
    COARSE_MM,
    air_threshold,
    around_airways,
    find_body,
    find_lungs,
    refine_surface,
)
from lungvq.segment.slices import check_slices
from lungvq.segment.tree import LobarBronchi, build_tree, check_bronchi, label_lobes
from lungvq.segment.vessels import find_vessels
from lungvq.volume import Volume

__all__ = ["Anatomy", "segment"]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The lungs of one scan and what runs through them.

    Parameters
    ----------
    lungs : Volume of uint8
        1 left, 2 right; closed: vessels and small nodules belong to it, trachea and main bronchi do not.
    airways : Volume of uint8
        1 in trachea and bronchi, as far as they could be followed.
    vessels : Volume of uint8
        1 in the vessels within the lungs that the voxels resolve.
    findings : tuple of Finding
    bronchi : LobarBronchi
        The airways as branches, those of each lobe named; empty without a trachea.
    """

    lungs: Volume
    airways: Volume
    vessels: Volume
    findings: tuple[Finding, ...]
    bronchi: LobarBronchi = field(default_factory=LobarBronchi)

    def volume_ml(self, region: str) -> float:
        """mL of ``"left"``, ``"right"`` or ``"both"`` lungs."""
        labels = (LEFT, RIGHT) if region == "both" else (LUNGS[region],)
        return float(np.isin(self.lungs.array, labels).sum() * self.lungs.voxel_ml)


def segment(ct: Volume, *, lungs: Volume | None = None, progress: Progress = SILENT) -> Anatomy:
    """Lungs, airways and vessels of one chest CT.

    Parameters
    ----------
    ct : Volume of int16
        HU in canonical order ``"SPL"`` (slightly oblique is fine), any spacing of 0.5 to 7 mm.
    lungs : Volume of uint8, optional
        Lungs known from elsewhere, on the grid of `ct`; they are taken as they are.
    progress : Progress, optional

    Returns
    -------
    Anatomy
        On the grid of `ct`.

    Raises
    ------
    InputError
        If the scan shows no lungs, or more than anyone has.
    """
    if min(ct.shape) < 8:
        raise InputError(
            f"no lungs found: expected a chest CT, got only {' x '.join(map(str, ct.shape))} voxels"
        )
    progress.stage("finding the body and the trachea")
    coarse = coarsen(ct, COARSE_MM)
    body = find_body(coarse)
    threshold = air_threshold(coarse.array, body.inside)
    trachea = find_trachea(coarse, body.inside, body.midline_mm)

    progress.stage("following the airways")
    airways = np.zeros(ct.shape, np.uint8)
    coarse_airways = np.zeros(coarse.shape, bool)
    leaked = False
    if trachea is not None:
        tree, leaked = grow_airways(ct, trachea)
        tree_labels = tree.like(tree.array.view(np.uint8))
        airways = tree_labels.resample_labels(ct.grid).array
        coarse_airways = tree.like(tree.array.astype(np.float32)).resample(coarse.grid, fill=0.0).array > 0.2

    if lungs is None:
        progress.stage("finding the lungs")
        closed = coarse.like(find_lungs(coarse, body, coarse_airways, threshold))
        barred = around_airways(coarse, coarse_airways) & (closed.array == 0)
        lungs = ct.like(refine_surface(ct, closed, barred, threshold))
        _refuse_immense(lungs, coarse)

    progress.stage("following the bronchi")
    bronchi = LobarBronchi()
    if trachea is not None:
        fine = follow_bronchi(ct, lungs.array, trachea)
        airways |= fine.like(fine.array.view(np.uint8)).resample_labels(ct.grid).array
        bronchi = label_lobes(build_tree(fine, trachea.points[0], resolution_mm=max(ct.spacing)), lungs)

    progress.stage("finding the vessels")
    vessels = find_vessels(ct, lungs.array, airways)
    findings = check_lungs(
        ct,
        lungs.array,
        airways,
        trachea is not None,
        leaked,
        threshold,
        coarse,
        body.midline_mm,
        trachea.hu if trachea else -1000.0,
    )
    findings = (*findings, check_bronchi(bronchi), *check_slices(ct))
    return Anatomy(lungs, ct.like(airways), ct.like(vessels), findings, bronchi)


def _refuse_immense(lungs: Volume, coarse: Volume) -> None:
    """Stop where air around the body passes for lung, or voxels are far larger than they were."""
    held = np.count_nonzero(lungs.array) * lungs.voxel_ml
    if held > MOST_ML:
        air = float(np.percentile(coarse.array, 1))
        raise InputError(
            f"what looks like lung holds {held / 1000:.1f} L, and no lungs do: check the voxel sizes in the header,"
            f" and that values are HU (the darkest air reads {air:.0f} HU, and should read about -1000)"
        )
