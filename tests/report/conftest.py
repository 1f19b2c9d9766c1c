"""A made-up but plausible case: two half-ellipsoid lungs with smooth maps whose sums are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lungvq.anatomy import LOBES, LUNGS, REGIONS, ZONES
from lungvq.clinical.acceptance import mark
from lungvq.findings import Finding, fail, passed, warn
from lungvq.result import CaseResult, ScanSummary
from lungvq.volume import Volume

UNITS = {"_ml": "mL", "_pct": "%", "_g": "g"}
NAN = float("nan")


def affine(spacing: tuple[float, float, float]) -> np.ndarray:
    """Canonical order: k to the head, j to the back, i to the left."""
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]]
    matrix[:3, 3] = (-150, -110, -140)
    return matrix


def anatomy(spacing: tuple[float, float, float], swell: float) -> tuple[Volume, Volume, Volume, np.ndarray]:
    """CT, lungs, lobes and a smooth 0..1 ramp from front to back."""
    extent = (280.0, 220.0, 300.0)
    shape = tuple(round(e / s) for e, s in zip(extent, spacing, strict=True))
    z, y, x = np.meshgrid(
        *(np.arange(n, dtype=np.float32) * s for n, s in zip(shape, spacing, strict=True)),
        indexing="ij", sparse=True,
    )  # fmt: skip
    z, y, x = z - 140, y - 110, x - 150
    lungs = np.zeros(shape, np.uint8)
    for side, label in LUNGS.items():
        centre = 74 if side == "left" else -74
        a, c = (56 if side == "left" else 62) * swell, 112 * swell
        inside = ((x - centre) / a) ** 2 + (y / (80 * swell)) ** 2 + ((z + 16) / c) ** 2 < 1
        dome = z > -84 * swell + 0.0035 * ((x - centre) ** 2 + y**2) * -1 + 40
        heart = ((x - 22) / 52) ** 2 + ((y + 30) / 48) ** 2 + ((z + 30) / 60) ** 2 < 1
        lungs[inside & dome & ~heart] = label
    oblique = z + 0.9 * y
    lobes = np.zeros(shape, np.uint8)
    left, right = lungs == LUNGS["left"], lungs == LUNGS["right"]
    lobes[left] = np.where(oblique + 0 * x < 8, LOBES["LUL"], LOBES["LLL"])[left]
    low, front = np.broadcast_to(z < 0, shape), np.broadcast_to(oblique < 12, shape)
    lobes[left] = np.where(front | ~low, LOBES["LUL"], LOBES["LLL"])[left]
    lobes[right] = np.where(low, np.where(front, LOBES["RML"], LOBES["RLL"]), LOBES["RUL"])[right]
    ramp = np.broadcast_to((y + 110) / 220, shape).astype(np.float32)
    body = (x / 148) ** 2 + (y / 108) ** 2 < 1
    rng = np.random.default_rng(7)
    hu = np.where(body, 40, -1000).astype(np.float32) + np.zeros(shape, np.float32)
    hu[lungs > 0] = (-780 if swell > 1 else -690) + 80 * ramp[lungs > 0]
    tubes = (np.sin(x / 9) * np.sin(y / 8) * np.sin(z / 11)) > 0.9
    hu[(lungs > 0) & tubes] = -250
    hu += rng.normal(0, 18, shape).astype(np.float32)
    matrix = affine(spacing)
    return (
        Volume(hu.astype(np.int16), matrix),
        Volume(lungs, matrix),
        Volume(lobes, matrix),
        ramp,
    )


def smooth(shape: tuple[int, ...], spacing: tuple[float, float, float], phase: float) -> np.ndarray:
    """A smooth pattern around 1."""
    k, j, i = np.meshgrid(
        *(np.arange(n, dtype=np.float32) * s for n, s in zip(shape, spacing, strict=True)),
        indexing="ij", sparse=True,
    )  # fmt: skip
    return (1 + 0.22 * np.sin(k / 31 + phase) * np.cos(i / 26) + 0.16 * np.sin(j / 19 - phase)).astype(
        np.float32
    )


def zone_labels(lungs: np.ndarray) -> np.ndarray:
    zones = np.zeros(lungs.shape, np.uint8)
    for side, label in LUNGS.items():
        used = np.flatnonzero((lungs == label).any(axis=(1, 2)))
        for part, slices in zip(("lower", "middle", "upper"), np.array_split(used, 3), strict=True):
            if slices.size:
                block = zones[slices[0] : slices[-1] + 1]
                block[lungs[slices[0] : slices[-1] + 1] == label] = ZONES.index(f"{side}_{part}") + 1
    return zones


def measure(case: CaseResult) -> pd.DataFrame:
    """Every metric of the contract, by plain sums."""
    lungs, lobes = case.lungs_exp.array, case.lobes_exp.array
    zones, ml = zone_labels(lungs), case.exp.voxel_ml
    v, q = case.maps["ventilation"].array, case.maps["perfusion"].array
    classes, prm = case.maps["vq_class"].array, case.maps["prm"].array
    inside = lungs > 0
    total_v, total_q = (float(np.nansum(m[inside], dtype=float)) for m in (v, q))
    mean_v, mean_q = (np.nanmean(m[inside]) if np.isfinite(m[inside]).any() else NAN for m in (v, q))
    rows: list[tuple[Any, ...]] = []
    for region in REGIONS:
        if region == "both":
            mask = inside
        elif region in LUNGS:
            mask = lungs == LUNGS[region]
        elif region in LOBES:
            mask = lobes == LOBES[region]
        else:
            mask = zones == ZONES.index(region) + 1
        n = int(mask.sum())
        rv, rq = (m[mask][np.isfinite(m[mask])].astype(float) for m in (v, q))

        def share(part: float, whole: float) -> float:
            return 100 * float(part) / whole if whole else NAN

        counts, prms = np.bincount(classes[mask], minlength=5), np.bincount(prm[mask], minlength=5)
        values = {
            "volume_exp_ml": n * ml,
            "volume_insp_ml": n * ml * (1 + (rv.mean() if rv.size else 0)),
            "ventilation_ml": rv.sum() * ml,
            "ventilation_fraction_pct": share(rv.sum(), total_v),
            "perfusion_fraction_pct": share(rq.sum(), total_q),
            "ventilation_cv": rv.std() / rv.mean() if rv.size else NAN,
            "perfusion_cv": rq.std() / rq.mean() if rq.size else NAN,
            "ventilation_h": np.subtract(*np.percentile(rv, (75, 25))) / rv.mean() if rv.size else NAN,
            "perfusion_h": np.subtract(*np.percentile(rq, (75, 25))) / rq.mean() if rq.size else NAN,
            "ventilation_defect_pct": share((rv < 0.6 * mean_v).sum(), rv.size),
            "perfusion_defect_pct": share((rq < 0.6 * mean_q).sum(), rq.size),
            "vq_normal_pct": share(counts[1], counts[1:].sum()),
            "vq_dead_space_pct": share(counts[2], counts[1:].sum()),
            "vq_shunt_pct": share(counts[3], counts[1:].sum()),
            "vq_matched_defect_pct": share(counts[4], counts[1:].sum()),
            "vq_abnormal_pct": share(counts[2:].sum(), counts[1:].sum()),
            "laa950_pct": 1.2 if n else NAN,
            "prm_fsad_pct": share(prms[2], prms[1:].sum()),
            "prm_emphysema_pct": share(prms[3], prms[1:].sum()),
            "mass_insp_g": n * ml * 0.30,
            "mass_exp_g": n * ml * 0.29,
        }
        zone_def = "equal_height_per_lung" if region in ZONES else ""
        for name, value in values.items():
            unit = next((u for end, u in UNITS.items() if name.endswith(end)), "1")
            rows.append((case.case, region, zone_def, name, "fake@1", 1, value, NAN, NAN, unit, "PASS"))
    rows.append((case.case, "both", "", "ventilation_ml", "other@1", 0, 1.0, NAN, NAN, "mL", "PASS"))
    columns = [
        "case", "region", "zone_def", "metric", "method", "is_default", "value", "ci_low", "ci_high", "unit", "qc",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


FINDINGS: tuple[Finding, ...] = (
    passed("VOLUME_CHANGE", "Volume change between the breath-holds is 2.1 L, not below the limit of 1.",
           value=2.1, limit=1.0, unit="L"),
    passed("REGISTRATION_DICE", "Overlap of the lungs after registration is 0.985.", value=0.985, limit=0.97),
    warn("SPACING_EXP", "Largest voxel spacing of the expiration scan is 2.5 mm, beyond the limit of 1.5.",
         value=2.5, limit=1.5, unit="mm", touches=("prm",),
         advice="Reconstruct thinner slices: fissures, small vessels and PRM need them."),
)  # fmt: skip


def build_case(
    spacing: tuple[float, float, float] = (4.0, 3.0, 3.0),
    change: Callable[[dict[str, Any]], None] | None = None,
) -> CaseResult:
    """The case; `change` may edit its parts before the numbers are taken."""
    exp, lungs, lobes, ramp = anatomy(spacing, 1.0)
    insp, lungs_insp, lobes_insp, _ = anatomy(spacing, 1.12)
    inside, shape = lungs.array > 0, lungs.shape
    undefined = exp.array > -350

    def masked(values: np.ndarray) -> Volume:
        return exp.like(np.where(inside & ~undefined, values, np.nan).astype(np.float32))

    k, j, i = np.indices(shape, sparse=True)
    wedge = ((k * spacing[0] - 190) ** 2 + (j * spacing[1] - 90) ** 2 + (i * spacing[2] - 235) ** 2) < 45**2
    plug = ((k * spacing[0] - 95) ** 2 + (j * spacing[1] - 140) ** 2 + (i * spacing[2] - 70) ** 2) < 40**2
    parts: dict[str, Any] = {
        "exp": exp,
        "insp": insp,
        "lungs": lungs,
        "lobes": lobes,
        "ventilation": (0.72 * (0.7 + 0.6 * ramp) * smooth(shape, spacing, 0.4) * np.where(plug, 0.35, 1)),
        "perfusion": (0.55 + 0.9 * ramp) * smooth(shape, spacing, 1.9) * np.where(wedge, 0.3, 1),
        "findings": FINDINGS,
        "case": "Fake case 07",
        "banner": "",
    }
    if change:
        change(parts)
    lungs, lobes = parts["lungs"], parts["lobes"]
    inside = lungs.array > 0
    v, q = masked(parts["ventilation"]), masked(parts["perfusion"])
    with np.errstate(all="ignore"):
        mean_v, mean_q = (
            m.array[inside & np.isfinite(m.array)].mean() if np.isfinite(m.array[inside]).any() else NAN
            for m in (v, q)
        )
        rv, rq = v.array / mean_v, q.array / mean_q
        log2 = np.log2(np.maximum(rv, 0.05) / np.maximum(rq, 0.05))
    low_v, low_q = rv < 0.6, rq < 0.6
    classes = np.select([low_v & low_q, low_v, low_q], [4, 3, 2], 1)
    classes[~np.isfinite(rv) | ~np.isfinite(rq)] = 0
    rng = np.random.default_rng(3)
    change_map = 0.02 * rng.standard_normal(shape).astype(np.float32)
    maps = {
        "ventilation": v,
        "perfusion": exp.like(rq.astype(np.float32)),
        "vq_log2": exp.like(log2.astype(np.float32)),
        "vq_class": exp.like(classes.astype(np.uint8)),
        "prm": exp.like(np.where(inside, np.where(ramp < 0.25, 2, 1), 0).astype(np.uint8)),
        "ventilation_se": masked(np.full(shape, 0.08, np.float32)),
        "perfusion_se": masked(np.full(shape, 0.1, np.float32)),
        "perfusion_ctp": masked(change_map),
        "perfusion_ctp_se": masked(np.full(shape, 0.02, np.float32)),
        "jacobian": masked(1 + parts["ventilation"]),
    }
    after = exp.like((exp.array - np.where(inside, 110, 0)).astype(np.int16))
    facts = {
        "file": "series/1",
        "format": "DICOM",
        "size": [280, 220, 300],
        "spacing_mm": spacing,
        "kernel": "B30f",
    }
    quality = {
        "dice": 0.985, "surface_mean_mm": 0.61, "surface_p95_mm": 1.9, "folded_percent": 0.002,
        "jacobian_p1": 0.92, "jacobian_p5": 1.1, "jacobian_p50": 1.71, "jacobian_p95": 2.4, "jacobian_p99": 2.9,
        "correlation_before": 0.31, "correlation_after": 0.83, "motion_mean_mm": 14.2, "motion_p95_mm": 36.0,
    }  # fmt: skip
    empty = exp.like(np.zeros(shape, np.uint8))
    case = CaseResult(
        case=parts["case"],
        scans=(
            ScanSummary("inspiration", "insp.nii.gz", "ab" * 32, facts),
            ScanSummary("expiration", "exp.nii.gz", "cd" * 32, {**facts, "note": None}),
        ),
        exp=exp, insp_on_exp=after, lungs_exp=lungs, lobes_exp=lobes, maps=maps, insp=insp,
        lungs_insp=lungs_insp, lobes_insp=lobes_insp, airways_insp=empty, vessels_insp=empty,
        displacement=Volume(np.zeros((2, 2, 2, 3), np.float32), np.eye(4)),
        exp_grid=exp.grid, insp_grid=insp.grid, exp_codes="SPL", insp_codes="SPL",
        metrics=pd.DataFrame(), findings=parts["findings"],
        registration={"left": quality, "right": {**quality, "closure": 1.01}, "both": quality},
        settings={"ventilation": {"sigma_mm": 5.0}, "perfusion": {"sigma_mm": 5.0, "extravascular_share": 0.36}},
        versions={"lungvq": "0.1", "numpy": np.__version__},
        timings=[("segment", 31.2), ("register", 64.9)],
        banner=parts["banner"],
    )  # fmt: skip
    return replace(case, metrics=mark(measure(case), case.findings))


@pytest.fixture(scope="session")
def case() -> CaseResult:
    return build_case()


@pytest.fixture(scope="session")
def make_case() -> Callable[..., CaseResult]:
    return build_case


@pytest.fixture(scope="session")
def failing() -> Callable[..., Callable[[dict[str, Any]], None]]:
    """A change that adds one FAIL with the given touches."""

    def add(*touches: str, message: str = "It broke.") -> Callable[[dict[str, Any]], None]:
        def change(parts: dict[str, Any]) -> None:
            parts["findings"] = (*FINDINGS, fail("BROKEN", message, touches=touches))

        return change

    return add


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures drawn small and coarse, for tests that look at something else than their quality."""
    monkeypatch.setattr("lungvq.report.figures._PANEL_PX", 150)
    monkeypatch.setattr("lungvq.report.render3d._VOXELS", 500_000)
