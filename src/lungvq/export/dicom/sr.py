"""The numbers as a TID 1500 Measurement Report that refers to the segmentations they were taken on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

import pandas as pd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID

import lungvq
from lungvq.anatomy import LOBES, LUNGS, PRM_CLASSES, VQ_CLASSES
from lungvq.export.dicom.common import MAKER, RESEARCH_USE, Context, save
from lungvq.export.dicom.names import KINDS, OWN_SCHEME, TITLES, own, site_of, ucum
from lungvq.export.dicom.seg import SEGMENTS, segment_uid
from lungvq.export.dicom.uids import uid

__all__ = ["CORE_METRICS", "STANDARD_NAMES", "write_sr"]

STANDARD_NAMES: dict[str, tuple[Code, Code]] = {
    "volume_insp_ml": (codes.SCT.Volume, codes.SCT.Inspiration),
    "volume_exp_ml": (codes.SCT.Volume, codes.SCT.Expiration),
    "mass_insp_g": (codes.SCT.MassQuantity, codes.SCT.Inspiration),
    "mass_exp_g": (codes.SCT.MassQuantity, codes.SCT.Expiration),
}
"""Metrics with a standard code, and the breath-hold that modifies it; all others are in our own scheme."""

CORE_METRICS: frozenset[str] = frozenset(
    {
        *TITLES,
        *(f"vq_{name}_pct" for name in (*VQ_CLASSES, "abnormal")),
        *(f"prm_{name}_pct" for name in PRM_CLASSES),
    }
)
"""Metrics that go into the report, by their default method; a PACS is no place for all of ``metrics.csv``."""

_ALTERNATIVES = "ventilation_ml"  # of this one, what the other estimators say is written too

_CYCLE_POINT = codes.SCT.RespiratoryCyclePoint


def write_sr(context: Context, path: Path, segmentations: frozenset[str]) -> int:
    """Write the defined numbers of `CORE_METRICS`; returns the number of files.

    Parameters
    ----------
    segmentations : set of str
        Kinds of segmentation that were written, ``seg_lobes`` and ``seg_lungs``; groups refer to them.
    """
    result = context.result
    table = result.metrics
    shown = (table["is_default"] == 1) | (table["metric"] == _ALTERNATIVES)
    metrics = table[table["value"].notna() & shown & table["metric"].isin(CORE_METRICS)]
    groups = [
        _group(context, str(region), rows, segmentations)
        for region, rows in metrics.groupby("region", sort=False)
    ]
    report = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device,
                observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                    uid=UID(uid(MAKER, "device", lungvq.__version__)),
                    name=MAKER,
                    manufacturer_name=MAKER,
                    model_name=f"{MAKER} {lungvq.__version__}",
                ),
            )
        ),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    report[0].ContentSequence.append(
        TextContentItem(
            name=codes.DCM.Comment,
            value=f"{RESEARCH_USE} {result.banner}".strip(),
            relationship_type=RelationshipTypeValues.CONTAINS,
        )
    )
    first, last = context.lung_slices
    document = Comprehensive3DSR(
        evidence=[*context.headers(first, last), *map(context.new, sorted(segmentations))],
        content=report[0],
        series_instance_uid=context.series_uid("measurements"),
        series_number=KINDS["measurements"].number,
        sop_instance_uid=context.instance_uid("measurements"),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    context.stamp(document, "measurements")
    document.CodingSchemeIdentificationSequence = [_own_scheme()]
    save(document, path)
    return 1


class _Row(Protocol):
    """A row of ``metrics.csv``."""

    metric: str
    method: str
    is_default: int
    value: float
    ci_low: float
    ci_high: float
    unit: str
    qc: str


def _group(
    context: Context, region: str, rows: pd.DataFrame, segmentations: frozenset[str]
) -> MeasurementsAndQualitativeEvaluations | VolumetricROIMeasurementsAndQualitativeEvaluations:
    """All measurements of one region, on its segment where it has one."""
    site = site_of(region)
    zone = next(iter(rows["zone_def"]))
    shared: dict[str, Any] = {
        "finding_sites": [FindingSite(anatomic_location=site.structure, laterality=site.side)],
        "finding_type": site.structure,
        "method": own(zone) if zone else None,
        "measurements": [_measurement(cast(_Row, row)) for row in rows.itertuples(index=False)],
        "qualitative_evaluations": [_quality(rows)],
        "algorithm_id": AlgorithmIdentification(name=MAKER, version=lungvq.__version__),
    }
    name = "lobes" if region in LOBES else "lungs" if region in LUNGS else ""
    if f"seg_{name}" not in segmentations:
        return MeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(
                uid=UID(uid(context.source.seed, "tracking", region)), identifier=region
            ),
            **shared,
        )
    number = [segment.name for segment in SEGMENTS[name]].index(region) + 1
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=segment_uid(context, name, region), identifier=region),
        referenced_segment=ReferencedSegment(
            sop_class_uid=KINDS[f"seg_{name}"].sop_class,
            sop_instance_uid=context.instance_uid(f"seg_{name}"),
            segment_number=number,
            source_series=SourceSeriesForSegmentation(context.reference_series),
        ),
        **shared,
    )


def _measurement(row: _Row) -> Measurement:
    """One row of the table."""
    name, modifier = STANDARD_NAMES.get(row.metric, (own(row.metric), None))
    measurement = Measurement(
        name=name,
        value=_seven_digits(row.value),
        unit=ucum(row.unit),
        method=own(row.method),
    )
    content = measurement[0].ContentSequence
    if modifier:
        content.append(
            CodeContentItem(_CYCLE_POINT, modifier, relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD)
        )
    for bound, value in (("ci_low", row.ci_low), ("ci_high", row.ci_high)):
        if pd.notna(value):
            number = NumContentItem(
                own(bound),
                _seven_digits(value),
                ucum(row.unit),
                relationship_type=RelationshipTypeValues.HAS_PROPERTIES,
            )
            content.append(number)
    properties = []
    if not row.is_default:
        properties.append((own("use"), own("alternative")))
    if not row.qc.startswith("PASS"):
        properties.append((own("qc"), _quality_code(row.qc)))
    for question, answer in properties:
        content.append(
            CodeContentItem(question, answer, relationship_type=RelationshipTypeValues.HAS_PROPERTIES)
        )
    return measurement


def _seven_digits(value: float) -> float:
    """As ``metrics.csv`` has it."""
    return float(f"{value:.7g}")


def _quality(rows: pd.DataFrame) -> QualitativeEvaluation:
    """The worst quality state of a region."""
    states = {str(qc).split()[0] for qc in rows["qc"]}
    worst = next((s for s in ("FAIL", "WARN") if s in states), "PASS")
    return QualitativeEvaluation(name=own("qc"), value=_quality_code(worst))


def _quality_code(state: str) -> Code:
    return own(f"qc_{(state.split() or ['PASS'])[0].lower()}")


def _own_scheme() -> Dataset:
    return CodingSchemeIdentificationItem(
        designator=OWN_SCHEME, name="lungvq codes", responsible_organization="The lungvq authors"
    )
