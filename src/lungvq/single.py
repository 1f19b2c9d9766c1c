"""Parts of the method by themselves, from file to folder: one scan segmented, two scans registered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungvq import io
from lungvq.anatomy import LUNGS
from lungvq.export.folder import staged
from lungvq.findings import Finding
from lungvq.hu import OUTSIDE_HU
from lungvq.pipeline import quality_numbers
from lungvq.progress import SILENT, Progress
from lungvq.regional import carry, close_sums, reaching_out
from lungvq.register import RegisterOptions, register
from lungvq.register.backends import backend_named
from lungvq.segment import segment
from lungvq.segment.laterality import check_laterality
from lungvq.segment.lobes import lobes_from_prior
from lungvq.segment.masks import lungs_from_mask
from lungvq.versions import versions
from lungvq.volume import CANONICAL, Volume

__all__ = ["SegmentSummary", "register_scans", "segment_scan"]


@dataclass(frozen=True)
class SegmentSummary:
    """Volumes in mL and what was noticed."""

    left_ml: float
    right_ml: float
    findings: tuple[Finding, ...]


def segment_scan(ct: Path, out: Path, *, force: bool = False, progress: Progress = SILENT) -> SegmentSummary:
    """Segment one scan and leave ``labels/`` with lungs, lobes, airways and vessels on its grid.

    Raises
    ------
    InputError
        If it is not a chest CT.
    UsageError
        If `out` already holds labels, without `force`.
    """
    with staged(out, ("labels",), force=force) as folder:
        progress.stage("reading the scan")
        scan = io.read(ct)
        codes = scan.volume.grid.codes
        volume = scan.volume.reorient(CANONICAL)
        anatomy = segment(volume, progress=progress)
        progress.stage("placing the lobes")
        labels = {
            "lungs": anatomy.lungs,
            "lobes": lobes_from_prior(anatomy.lungs),
            "airways": anatomy.airways,
            "vessels": anatomy.vessels,
        }
        progress.stage("writing labels")
        (folder / "labels").mkdir()
        for name, label in labels.items():
            io.write(label.reorient(codes), folder / "labels" / f"{name}.nii.gz")
    findings = (*scan.findings, *anatomy.findings, check_laterality(volume, anatomy.lungs))
    return SegmentSummary(anatomy.volume_ml("left"), anatomy.volume_ml("right"), findings)


def register_scans(
    fixed: Path,
    moving: Path,
    out: Path,
    *,
    fixed_mask: Path | None = None,
    moving_mask: Path | None = None,
    backend: str = "lungvq",
    force: bool = False,
    progress: Progress = SILENT,
) -> dict[str, float]:
    """Register two scans and leave the field, its Jacobian, the warped scan and the quality numbers.

    ``displacement.nii.gz`` has its own grid; ``jacobian.nii.gz`` (NaN outside the lungs, closed per lung to
    the moving mask's volume) and ``moving_on_fixed.nii.gz`` have that of the fixed scan. `backend` is that of
    `RegisterOptions`, by name.

    Returns
    -------
    dict of str to float
        Quality of both lungs together.
    """
    if backend != "lungvq":
        backend_named(backend)  # a wrong name is told before the scans are read
    names = ("displacement.nii.gz", "jacobian.nii.gz", "moving_on_fixed.nii.gz", "registration.json")
    with staged(out, names, force=force) as folder:
        progress.stage("reading the scans")
        scans = {"fixed": io.read(fixed).volume, "moving": io.read(moving).volume}
        codes = scans["fixed"].grid.codes
        volumes = {name: volume.reorient(CANONICAL) for name, volume in scans.items()}
        masks = {"fixed": fixed_mask, "moving": moving_mask}
        lungs = {name: _lungs(volumes[name], masks[name], progress) for name in volumes}
        result = register(
            volumes["fixed"],
            volumes["moving"],
            lungs["fixed"],
            lungs["moving"],
            options=RegisterOptions(backend=backend),
            progress=progress,
        )
        jacobian = carry(dict.fromkeys(result.quality.lungs, reaching_out(result.jacobian)), lungs["fixed"])
        totals = {
            lung: float((lungs["moving"].array == label).sum()) * lungs["moving"].voxel_ml
            for lung, label in LUNGS.items()
        }
        closure = close_sums(jacobian, lungs["fixed"], totals)
        progress.stage("writing")
        io.write(result.displacement, folder / names[0])
        io.write(lungs["fixed"].like(jacobian).reorient(codes), folder / names[1])
        warped = volumes["moving"].through(result.displacement, volumes["fixed"].grid, fill=OUTSIDE_HU)
        io.write(warped.like(np.rint(warped.array).astype(np.int16)).reorient(codes), folder / names[2])
        quality = quality_numbers(result)
        record = {
            "schema": "lungvq.registration/1",
            "backend": backend,
            "quality": quality,
            "jacobian_closed_by": closure,
            "notes": list(result.quality.notes),
            "inputs": {"fixed": fixed.name, "moving": moving.name},
            "versions": versions(),
        }
        (folder / names[3]).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return quality["both"]


def _lungs(ct: Volume, mask: Path | None, progress: Progress) -> Volume:
    if mask is None:
        return segment(ct, progress=progress).lungs
    return lungs_from_mask(io.read_labels(mask).reorient(CANONICAL), ct)
