"""Parts of the method by themselves, from file to folder: one scan segmented, two scans registered."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lungvq import io
from lungvq.anatomy import LOBES, LUNGS
from lungvq.errors import UsageError
from lungvq.export.folder import staged
from lungvq.findings import Finding
from lungvq.match import carry_inspiration
from lungvq.pipeline import quality_numbers
from lungvq.progress import SILENT, Progress
from lungvq.regional import carry, close_sums, reaching_out
from lungvq.register import RegisterOptions, register
from lungvq.register.backends import backend_named
from lungvq.register.inverse import inverse_field
from lungvq.segment import segment
from lungvq.segment.given import Masks, place_lobes
from lungvq.segment.laterality import check_laterality
from lungvq.segment.lobes import find_lobes
from lungvq.segment.masks import lungs_from_mask
from lungvq.segment.vessels import small_vessel_density, small_vessels, vessel_sizes
from lungvq.versions import versions
from lungvq.volume import CANONICAL, Volume

__all__ = ["SegmentSummary", "register_scans", "segment_scan"]


@dataclass(frozen=True)
class SegmentSummary:
    """Volumes in mL and what was noticed."""

    left_ml: float
    right_ml: float
    lobes_ml: dict[str, float]
    findings: tuple[Finding, ...]


def segment_scan(
    ct: Path,
    out: Path,
    *,
    masks: Masks | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> SegmentSummary:
    """Segment one scan and leave ``labels/`` with lungs, lobes, airways and vessels on its grid, and what was found.

    Lobes are placed as on an inspiration. ``segment.json`` holds volumes, who found what, and all findings.

    Parameters
    ----------
    ct, out : Path
        The scan, and the folder for the result.
    masks : Masks, optional
        Lungs and lobes from elsewhere: those of the inspiration.

    Raises
    ------
    InputError
        If it is not a chest CT.
    UsageError
        If `out` already holds labels, without `force`.
    """
    masks = masks or Masks()
    hashes = masks.hashes()
    with staged(out, ("labels", "airways.csv", "segment.json"), force=force) as folder:
        progress.stage("reading the scan")
        scan = io.read(ct)
        given = masks.read({"insp": scan.volume}, progress)
        given.check(scan.volume.grid, scan.volume.grid)
        codes = scan.volume.grid.codes
        volume = scan.volume.reorient(CANONICAL)
        known = given.lungs_insp
        anatomy = segment(
            volume, lungs=known and lungs_from_mask(known.reorient(CANONICAL), volume), progress=progress
        )
        progress.stage("placing the lobes")
        placed = place_lobes(volume, anatomy, given)
        lobes = placed.labels
        labels = {
            "lungs": anatomy.lungs,
            "lobes": lobes,
            "airways": anatomy.airways,
            "vessels": anatomy.vessels,
        }
        counts = np.bincount(lobes.array.ravel(), minlength=6)
        lobes_ml = {name: float(counts[label] * lobes.voxel_ml) for name, label in LOBES.items()}
        findings = (
            *scan.findings,
            *anatomy.findings,
            *placed.findings,
            check_laterality(volume, anatomy.lungs),
        )
        summary = SegmentSummary(anatomy.volume_ml("left"), anatomy.volume_ml("right"), lobes_ml, findings)
        progress.stage("writing labels")
        (folder / "labels").mkdir()
        for name, label in labels.items():
            io.write(label.reorient(codes), folder / "labels" / f"{name}.nii.gz")
        sizes = vessel_sizes(volume, *(labels[name].array for name in ("lungs", "vessels", "airways")))
        anatomy.bronchi.tree.table().to_csv(folder / "airways.csv", index=False)
        found = given.told()
        record = {
            "schema": "lungvq.segment/1",
            "input": {"name": ct.name, "sha256": io.sha256_of(scan.files)},
            "found_by": {"lungs": found["lungs_insp"], "lobes": found["lobes"]},
            "masks": {k: {"name": path.name, "sha256": hashes[k]} for k, path in masks.files.items()},
            "volumes_ml": {
                "left": summary.left_ml,
                "right": summary.right_ml,
                **lobes_ml,
                "airways": float(np.count_nonzero(anatomy.airways.array)) * volume.voxel_ml,
                "vessels": float(sizes.filled.array.sum(dtype=float)) * volume.voxel_ml,
            },
            "fissures": {name: asdict(fissure) for name, fissure in placed.fissures.items()},
            "small_vessel_density": _small_vessel_density(small_vessels(volume, sizes), anatomy.lungs, lobes),
            "findings": [finding.to_dict() for finding in findings],
            "versions": versions(),
        }
        (folder / "segment.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return summary


def _small_vessel_density(small: Volume, lungs: Volume, lobes: Volume) -> dict[str, float]:
    """mL/mL of each lung and lobe there is."""
    found: dict[str, float] = {}
    for regions, labels in ((lungs, LUNGS), (lobes, LOBES)):
        density = small_vessel_density(small, regions)
        found |= {name: round(density[label], 6) for name, label in labels.items() if label in density}
    return found


def register_scans(
    fixed: Path,
    moving: Path,
    out: Path,
    *,
    fixed_mask: Path | None = None,
    moving_mask: Path | None = None,
    backend: str = "lungvq",
    lobes_apart: bool = False,
    inverse: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> dict[str, float]:
    """Register two scans and leave the field, its Jacobian, the warped scan and the quality numbers.

    ``displacement.nii.gz`` has its own grid; ``jacobian.nii.gz`` (NaN outside the lungs, closed per lung to
    the moving mask's volume), its standard error ``jacobian_se.nii.gz``, ``confidence.nii.gz`` and
    ``moving_on_fixed.nii.gz`` have that of the fixed scan. `backend` is that of `RegisterOptions`, by name.
    With `lobes_apart`, lobes of the moving scan, an inspiration, that slide along a fissure have fields of their own.
    With `inverse`, ``inverse.nii.gz`` is the field that leads back, on a grid around the moving lungs.

    Returns
    -------
    dict of str to float
        Quality of both lungs together.
    """
    if backend != "lungvq":
        if lobes_apart:
            raise UsageError(
                f"lobes apart are registered by lungvq itself, not by {backend!r}: leave out one of both"
            )
        backend_named(backend)  # a wrong name is told before the scans are read
    maps = ("jacobian", "jacobian_se", "confidence", "moving_on_fixed")
    fields = ("displacement", "inverse") if inverse else ("displacement",)
    names = (*(f"{name}.nii.gz" for name in (*fields, *maps)), "registration.json")
    with staged(out, names, force=force) as folder:
        progress.stage("reading the scans")
        scans = {"fixed": io.read(fixed).volume, "moving": io.read(moving).volume}
        codes = scans["fixed"].grid.codes
        volumes = {name: volume.reorient(CANONICAL) for name, volume in scans.items()}
        masks = {"fixed": fixed_mask, "moving": moving_mask}
        given = {name: _given_lungs(name, volumes[name], path) for name, path in masks.items()}
        lungs, parts = {}, None
        for name, volume in volumes.items():
            known = given[name]
            wants_lobes = lobes_apart and name == "moving"
            if known is None or wants_lobes:
                anatomy = segment(volume, lungs=known, progress=progress)
                known = anatomy.lungs
            if wants_lobes:
                progress.stage("placing the lobes")
                parts = find_lobes(volume, anatomy).that_may_slide()
            lungs[name] = known
        result = register(
            volumes["fixed"],
            volumes["moving"],
            lungs["fixed"],
            lungs["moving"],
            moving_parts=parts,
            options=RegisterOptions(backend=backend),
            progress=progress,
        )
        present = result.quality.lungs

        def onto(volume: Volume) -> np.ndarray:
            return carry(dict.fromkeys(present, reaching_out(volume)), lungs["fixed"])

        jacobian = onto(result.jacobian)
        totals = {
            lung: float((lungs["moving"].array == label).sum()) * lungs["moving"].voxel_ml
            for lung, label in LUNGS.items()
        }
        closure = close_sums(jacobian, lungs["fixed"].array, lungs["fixed"].voxel_ml, totals)
        warped = carry_inspiration(result.displacement, volumes["moving"], volumes["fixed"].grid)
        progress.stage("writing")
        io.write(result.displacement, folder / "displacement.nii.gz")
        left_over = None
        if inverse:
            back, left_over = inverse_field(result, lungs["moving"])
            io.write(back, folder / "inverse.nii.gz")
        arrays = (jacobian, onto(result.jacobian_se), onto(result.confidence), warped.array)
        for name, array in zip(maps, arrays, strict=True):
            io.write(lungs["fixed"].like(array).reorient(codes), folder / f"{name}.nii.gz")
        quality = quality_numbers(result)
        record = {
            "schema": "lungvq.registration/1",
            "backend": backend,
            "lobes_apart": lobes_apart,
            "quality": quality,
            "jacobian_closed_by": closure,
            "findings": [finding.to_dict() for finding in result.quality.findings],
            **({"inverse_left_over_mm": left_over} if inverse else {}),
            "inputs": {"fixed": fixed.name, "moving": moving.name},
            "versions": versions(),
        }
        (folder / names[-1]).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return quality["both"]


def _given_lungs(name: str, ct: Volume, mask: Path | None) -> Volume | None:
    """The lungs from a file, on the voxels of the scan, or None without one; a refusal names the file."""
    if mask is None:
        return None
    labels = io.read_labels(mask).reorient(CANONICAL)
    return lungs_from_mask(labels, ct, what=f"the lung mask given for the {name} scan (the file {mask.name})")
