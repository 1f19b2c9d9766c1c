"""One value with all that was found in a pair, and what its numbers are checked by."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from lungvq import io
from lungvq.agreement import slice_thickness
from lungvq.anatomy import LOBES
from lungvq.breath import Breath
from lungvq.clinical.acceptance import METAL_HU, Evidence, predicted_volume_ml
from lungvq.pipeline.estimates import Estimates
from lungvq.pipeline.options import Options
from lungvq.register import Registration
from lungvq.register.quality import DEPTHS_MM
from lungvq.result import CaseResult, ScanSummary
from lungvq.segment.given import Given
from lungvq.segment.lobes import Lobes
from lungvq.versions import versions
from lungvq.volume import Volume

__all__ = ["Linked", "assembled", "evidence", "quality_numbers"]


@dataclass(frozen=True)
class Linked:
    """Two breath-holds and what leads from one to the other.

    `lobes` are those of the inspiration, `lobes_exp` the same as the registration carries them to the expiration.
    """

    insp: Breath
    exp: Breath
    lobes: Lobes
    registration: Registration
    lobes_exp: Volume


def assembled(
    case: str, pair: Linked, estimated: Estimates, metrics: pd.DataFrame, options: Options, given: Given
) -> CaseResult:
    """All that was found in one value; findings, timings and banner still to come."""
    insp, exp = pair.insp, pair.exp
    return CaseResult(
        case=case,
        scans=(_summary(insp), _summary(exp)),
        exp=exp.ct,
        insp_on_exp=estimated.insp_on_exp,
        lungs_exp=exp.anatomy.lungs,
        lobes_exp=pair.lobes_exp,
        maps=estimated.maps,
        insp=insp.ct,
        lungs_insp=insp.anatomy.lungs,
        lobes_insp=pair.lobes.labels,
        airways_insp=insp.anatomy.airways,
        vessels_insp=insp.anatomy.vessels,
        displacement=pair.registration.displacement,
        exp_grid=exp.grid,
        insp_grid=insp.grid,
        exp_codes=exp.scan.volume.grid.codes,
        insp_codes=insp.scan.volume.grid.codes,
        metrics=metrics,
        findings=(),
        registration=quality_numbers(pair.registration),
        fissures={name: asdict(fissure) for name, fissure in pair.lobes.fissures.items()},
        settings={
            **asdict(options),
            "estimators": {name: asdict(e.method) for name, e in estimated.others.items()},
            "segmentation": given.told(),
            "extravascular_g_ml": estimated.extravascular_g_ml,
            "hu_scale": {b.role: asdict(b.calibrate) for b in (insp, exp)},
        },
        versions=versions(),
        timings=[],
    )


def _summary(breath: Breath) -> ScanSummary:
    grid = breath.scan.volume.grid
    facts = {
        "format": breath.scan.kind,
        "voxels": " x ".join(str(n) for n in reversed(grid.shape)),
        "spacing_mm": " x ".join(f"{s:.3g}" for s in reversed(grid.spacing)),
        "axes": grid.codes,
        **breath.scan.facts,
        "air_hu": breath.references.air_hu,
        "blood_hu": breath.references.blood_hu,
        "blood_measured_in": breath.references.blood_site,
        "noise_hu": breath.references.noise_hu,
        "hu_scale": breath.calibrate.basis,
    }
    return ScanSummary(breath.role, breath.scan.path.name, io.sha256_of(breath.scan.files), facts)


def evidence(pair: Linked, estimated: Estimates, result: CaseResult) -> Evidence:
    """What a result is graded by, from the scans and from its own numbers."""
    breaths = (pair.insp, pair.exp)
    opaque = {"inspiration": -500, "expiration": -250}
    emptying = result.metric("both", "prm_emptying_emphysema_pct")
    return Evidence(
        spacing_mm={b.role: max(b.ct.spacing) for b in breaths},
        kernel={b.role: str(b.scan.facts.get("kernel") or "") for b in breaths},
        air_hu={b.role: b.references.air_hu for b in breaths},
        blood_hu={b.role: b.references.blood_hu for b in breaths},
        noise_hu={b.role: b.references.noise_hu for b in breaths},
        lowest_hu={b.role: b.references.lowest_hu for b in breaths},
        highest_hu={b.role: b.references.highest_hu for b in breaths},
        opacity_pct={
            b.role: 100 * float((b.ct.array[b.anatomy.lungs.array > 0] > opaque[b.role]).mean())
            for b in breaths
        },
        insp=estimated.free_insp.held,
        exp=estimated.free_exp.held,
        registration=result.registration,
        lobe_ml={lobe: result.metric(lobe, "volume_insp_ml") for lobe in LOBES},
        lobe_exp_ml={lobe: result.metric(lobe, "volume_exp_ml") for lobe in LOBES},
        thickness_mm={b.role: mm for b in breaths if (mm := slice_thickness(b.scan.facts)) > 0},
        slices={b.role: b.grid.shape[0] for b in breaths},
        kvp={b.role: float(kv) for b in breaths if isinstance(kv := b.scan.facts.get("kvp"), int | float)},
        metal_ml={b.role: float((b.ct.array > METAL_HU).sum()) * b.ct.voxel_ml for b in breaths},
        emptying_pct=emptying if np.isfinite(emptying) else None,
        predicted_ml=_predicted_ml(pair.insp.scan.patient),
        undefined_pct={
            name: result.metric("both", f"{name}_undefined_pct") for name in ("ventilation", "perfusion")
        },
    )


def _predicted_ml(patient: io.Patient) -> float | None:
    try:
        return predicted_volume_ml(patient.sex, 100 * float(patient.height_m), float(patient.weight_kg))
    except ValueError:  # not told
        return None


def quality_numbers(registration: Registration) -> dict[str, dict[str, float]]:
    """How well the registration went, per lung and overall, as plain numbers."""
    quality = registration.quality
    numbers = {}
    for name, lung in {**quality.lungs, "both": quality.overall}.items():
        plain = asdict(lung)
        percentiles = plain.pop("jacobian_percentiles")
        plain.update({f"jacobian_p{p}": v for p, v in zip((1, 5, 50, 95, 99), percentiles, strict=True)})
        thirds = zip(("lower", "middle", "upper"), plain.pop("surface_thirds_mm"), strict=True)
        plain.update({f"surface_{third}_mm": v for third, v in thirds if np.isfinite(v)})
        shells = zip(DEPTHS_MM, plain.pop("expected_error_mm"), strict=True)
        plain.update({f"expected_error_from_{d:g}_mm": v for d, v in shells if np.isfinite(v)})
        numbers[name] = plain
    return numbers
