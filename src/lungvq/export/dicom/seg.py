"""Regions as DICOM Segmentation: lungs, lobes, V/Q classes and defects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from lungvq.anatomy import LOBES, LUNGS, VQ_CLASSES
from lungvq.export.dicom.common import MAKER, Context, code_item, planes_of, save
from lungvq.export.dicom.names import CLASS_TITLES, DEFECTS, KINDS, own, short, site_of
from lungvq.export.dicom.series import mean_of
from lungvq.export.dicom.uids import uid
from lungvq.quantify import DEFECT_SHARE
from lungvq.result import CaseResult
from lungvq.volume import Volume

__all__ = ["SEGMENTS", "Segment", "write_seg"]


@dataclass(frozen=True)
class Segment:
    """One segment: its name, its place, its meaning and its colour (0 to 255)."""

    name: str
    label: str
    category: Code
    kind: Code
    side: Code | None
    colour: tuple[int, int, int]


def _anatomy(name: str, label: str, colour: tuple[int, int, int]) -> Segment:
    site = site_of(name)
    return Segment(name, label, codes.SCT.AnatomicalStructure, site.structure, site.side, colour)


_LOBE_COLOURS = {
    "LUL": (86, 156, 214),
    "LLL": (44, 94, 168),
    "RUL": (240, 178, 80),
    "RML": (222, 112, 76),
    "RLL": (164, 62, 72),
}
_CLASS_COLOURS = {
    "normal": (140, 181, 163),
    "dead_space": (230, 115, 36),
    "shunt": (51, 133, 219),
    "matched_defect": (158, 107, 184),
}
_DEFECTS = {f"{name}_defects": name for name in DEFECTS}
_DEFECT_COLOURS = {"ventilation": (51, 133, 219), "perfusion": (230, 115, 36)}
_LOBE_TITLES = {
    "LUL": "Left upper lobe",
    "LLL": "Left lower lobe",
    "RUL": "Right upper lobe",
    "RML": "Right middle lobe",
    "RLL": "Right lower lobe",
}

_FAMILIES = {
    "lungs": codes.DCM.MorphologicalOperations,
    "lobes": codes.DCM.DeformableModels,
    "vq_classes": codes.DCM.HistogramAnalysis,
    **dict.fromkeys(_DEFECTS, codes.DCM.HistogramAnalysis),
}

SEGMENTS: dict[str, tuple[Segment, ...]] = {
    "lungs": tuple(
        _anatomy(name, f"{name.capitalize()} lung", _LOBE_COLOURS[lobe])
        for name, lobe in zip(LUNGS, ("LUL", "RUL"), strict=True)
    ),
    "lobes": tuple(_anatomy(name, _LOBE_TITLES[name], _LOBE_COLOURS[name]) for name in LOBES),
    "vq_classes": tuple(
        Segment(
            name,
            CLASS_TITLES[name].meaning,
            codes.SCT.Function,
            CLASS_TITLES[name],
            None,
            _CLASS_COLOURS[name],
        )
        for name in VQ_CLASSES
    ),
    **{
        kind: (
            Segment(
                name,
                own(f"{name}_defect").meaning,
                codes.SCT.Function,
                own(f"{name}_defect"),
                None,
                _DEFECT_COLOURS[name],
            ),
        )
        for kind, name in _DEFECTS.items()
    },
}
"""The segments of each object; a segment's number is its label in the NIfTI files.

Ventilation and perfusion defects overlap, so they are two objects."""


def defect(result: CaseResult, name: str) -> Volume:
    """Where ventilation, or perfusion, is below 60 % of its mean over the lungs."""
    volume = result.maps[name]
    mean = mean_of(volume)
    with np.errstate(invalid="ignore"):
        return volume.like(volume.array < (DEFECT_SHARE * mean if mean > 0 else -np.inf))


def write_seg(context: Context, kind: str, path: Path) -> int:
    """Write one segmentation, binary or label map; returns the number of files (0 where nothing is in it).

    Frames have the full matrix of the scan and are written for slices that hold something of a segment.
    """
    form, _, name = kind.partition("_")
    first, last = context.lung_slices
    pixels = _pixels(context, name, first, last)
    if not pixels.any():
        return 0
    binary = form == "seg"
    segments = [_description(context, name, n, s) for n, s in enumerate(SEGMENTS[name], start=1)]
    segmentation = highdicom.seg.Segmentation(
        source_images=context.headers(first, last),
        pixel_array=pixels,
        segmentation_type="BINARY" if binary else "LABELMAP",
        segment_descriptions=segments,
        **context.identity(kind),
        content_label=short(name).upper(),
        content_description=f"{KINDS[kind].title} (research)",
        transfer_syntax_uid=ExplicitVRLittleEndian if binary else RLELossless,
        omit_empty_frames=True,
    )
    context.stamp(segmentation, kind)
    context.place(segmentation)
    save(segmentation, path)
    return 1


def _pixels(context: Context, name: str, first: int, last: int) -> np.ndarray:
    """(K, J, I) labels of the slices `first` to `last`."""
    result = context.result
    if name in _DEFECTS:
        labels = defect(result, _DEFECTS[name])
    else:
        labels = {
            "lungs": result.lungs_exp,
            "lobes": result.lobes_exp,
            "vq_classes": result.maps["vq_class"],
        }[name]
    plane = planes_of(labels, context.grid, 0)
    stack = np.zeros((last - first + 1, *context.grid.shape[1:]), np.uint8)
    for k in range(first, last + 1):
        stack[k - first] = plane(k)
    return stack


def _description(
    context: Context, name: str, number: int, segment: Segment
) -> highdicom.seg.SegmentDescription:
    described = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label[:64],
        segmented_property_category=segment.category,
        segmented_property_type=segment.kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=context.algorithm(f"{MAKER} {name}", _FAMILIES[name]),
        tracking_uid=segment_uid(context, name, segment.name),
        tracking_id=f"{MAKER} {name} {segment.name}",
        anatomic_regions=None if segment.side else [codes.SCT.Lung],
        display_color=highdicom.color.CIELabColor.from_rgb(*segment.colour),
    )
    if segment.side:
        item = described.SegmentedPropertyTypeCodeSequence[0]
        item.SegmentedPropertyTypeModifierCodeSequence = [code_item(segment.side)]
    return described


def segment_uid(context: Context, name: str, segment: str) -> UID:
    """Tracking UID of a segment: the same in the segmentation and in the measurements on it."""
    return UID(uid(context.source.seed, "tracking", name, segment))
