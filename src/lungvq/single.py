"""Parts of the method by themselves, from file to folder: one scan segmented, two scans registered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from lungvq.register import RegisterOptions, Registration, register
from lungvq.register.backends import backend_named
from lungvq.register.inverse import inverse_field
from lungvq.segment import Anatomy, segment
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
        findings = (
            *scan.findings,
            *anatomy.findings,
            *placed.findings,
            check_laterality(volume, anatomy.lungs),
        )
        progress.stage("writing labels")
        labels = {
            "lungs": anatomy.lungs,
            "lobes": placed.labels,
            "airways": anatomy.airways,
            "vessels": anatomy.vessels,
        }
        (folder / "labels").mkdir()
        for name, label in labels.items():
            io.write(label.reorient(codes), folder / "labels" / f"{name}.nii.gz")
        anatomy.bronchi.tree.table().to_csv(folder / "airways.csv", index=False)
        lungs_ml = {name: anatomy.volume_ml(name) for name in LUNGS}
        lobes_ml = _lobes_ml(placed.labels)
        found = given.told()
        record = {
            "schema": "lungvq.segment/1",
            "input": {"name": ct.name, "sha256": io.sha256_of(scan.files)},
            "found_by": {"lungs": found["lungs_insp"], "lobes": found["lobes"]},
            "masks": {k: {"name": path.name, "sha256": hashes[k]} for k, path in masks.files.items()},
            **_amounts(volume, anatomy, placed.labels, {**lungs_ml, **lobes_ml}),
            "fissures": {name: asdict(fissure) for name, fissure in placed.fissures.items()},
            "findings": [finding.to_dict() for finding in findings],
            "versions": versions(),
        }
        (folder / "segment.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return SegmentSummary(lungs_ml["left"], lungs_ml["right"], lobes_ml, findings)


def _lobes_ml(lobes: Volume) -> dict[str, float]:
    counts = np.bincount(lobes.array.ravel(), minlength=len(LOBES) + 1)
    return {name: float(counts[label] * lobes.voxel_ml) for name, label in LOBES.items()}


def _amounts(ct: Volume, anatomy: Anatomy, lobes: Volume, lungs_ml: dict[str, float]) -> dict[str, Any]:
    """How much there is of each thing in mL, and of small vessels in mL per mL of each lung and lobe there is."""
    labels = anatomy.lungs.array, anatomy.vessels.array, anatomy.airways.array
    sizes = vessel_sizes(ct, *labels)
    small = small_vessels(ct, sizes)
    density: dict[str, float] = {}
    for regions, named in ((anatomy.lungs, LUNGS), (lobes, LOBES)):
        found = small_vessel_density(small, regions)
        density |= {name: round(found[label], 6) for name, label in named.items() if label in found}
    return {
        "volumes_ml": {
            **lungs_ml,
            "airways": float(np.count_nonzero(anatomy.airways.array)) * ct.voxel_ml,
            "vessels": float(sizes.filled.array.sum(dtype=float)) * ct.voxel_ml,
        },
        "small_vessel_density": density,
    }


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
    images = ["displacement", "jacobian", "jacobian_se", "confidence", "moving_on_fixed"]
    if inverse:
        images.append("inverse")
    names = (*(f"{name}.nii.gz" for name in images), "registration.json")
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
        onto_fixed, closure = _maps_on_fixed(result, lungs)
        onto_fixed["moving_on_fixed"] = carry_inspiration(
            result.displacement, volumes["moving"], volumes["fixed"].grid
        )
        progress.stage("writing")
        io.write(result.displacement, folder / "displacement.nii.gz")
        for name, values in onto_fixed.items():
            io.write(values.reorient(codes), folder / f"{name}.nii.gz")
        quality = quality_numbers(result)
        record = {
            "schema": "lungvq.registration/1",
            "backend": backend,
            "lobes_apart": lobes_apart,
            "quality": quality,
            "jacobian_closed_by": closure,
            "findings": [finding.to_dict() for finding in result.quality.findings],
            "inputs": {"fixed": fixed.name, "moving": moving.name},
            "versions": versions(),
        }
        if inverse:
            back, record["inverse_left_over_mm"] = inverse_field(result, lungs["moving"])
            io.write(back, folder / "inverse.nii.gz")
        (folder / names[-1]).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return quality["both"]


def _maps_on_fixed(
    result: Registration, lungs: Mapping[str, Volume]
) -> tuple[dict[str, Volume], dict[str, float]]:
    """Jacobian, its standard error and the confidence on the fixed scan's voxels, NaN outside its lungs.

    The Jacobian is closed per lung to the volume of the moving mask; by how much comes second.
    """

    def onto(volume: Volume) -> np.ndarray:
        return carry(dict.fromkeys(result.quality.lungs, reaching_out(volume)), lungs["fixed"])

    jacobian = onto(result.jacobian)
    totals = {
        name: float((lungs["moving"].array == label).sum()) * lungs["moving"].voxel_ml
        for name, label in LUNGS.items()
    }
    closure = close_sums(jacobian, lungs["fixed"].array, lungs["fixed"].voxel_ml, totals)
    arrays = {
        "jacobian": jacobian,
        "jacobian_se": onto(result.jacobian_se),
        "confidence": onto(result.confidence),
    }
    return {name: lungs["fixed"].like(array) for name, array in arrays.items()}, closure


def _given_lungs(name: str, ct: Volume, mask: Path | None) -> Volume | None:
    """The lungs from a file, on the voxels of the scan, or None without one; a refusal names the file."""
    if mask is None:
        return None
    labels = io.read_labels(mask).reorient(CANONICAL)
    return lungs_from_mask(labels, ct, what=f"the lung mask given for the {name} scan (the file {mask.name})")
