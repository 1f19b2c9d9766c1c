"""Maps as DICOM Parametric Map: the standard's own answer, for the readers that have it."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
from pydicom.uid import ExplicitVRLittleEndian

from lungvq.export.dicom.common import Context, planes_of, save
from lungvq.export.dicom.names import KINDS, QUANTITIES, short
from lungvq.export.dicom.series import limits_of, mean_of
from lungvq.result import MAPS

__all__ = ["write_pmap"]


def write_pmap(context: Context, kind: str, path: Path) -> int:
    """Write one map as float32 Parametric Map; returns the number of files.

    Values are those of the NIfTI file, in the map's own unit, NaN where it is not defined: no whole number could be
    kept for that without a program somewhere taking it for a value. Only slices that hold lung are written.
    """
    name = kind.removeprefix("pmap_")
    volume, quantity, spec = context.result.maps[name], QUANTITIES[name], MAPS[name]
    first, last = context.lung_slices
    plane = planes_of(volume, context.grid, np.nan)
    pixels = np.empty((last - first + 1, *context.grid.shape[1:]), np.float32)
    for k in range(first, last + 1):
        pixels[k - first] = plane(k)
    limits = limits_of(volume)
    low, high = limits if np.isfinite(limits).all() else (0.0, 0.0)
    mean = mean_of(volume)
    ratio = name == "vq_log2"
    parametric = highdicom.pm.ParametricMap(
        source_images=context.headers(first, last),
        pixel_array=pixels,
        **context.identity(kind),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            highdicom.pm.RealWorldValueMapping(
                lut_label=short(name).upper(),
                lut_explanation=spec.title,
                unit=quantity.unit,
                value_range=(low, high),
                slope=1.0,
                intercept=0.0,
                quantity_definition=quantity.code,
            )
        ],
        voi_lut_transformations=[
            highdicom.VOILUTTransformation(
                window_center=0.0 if ratio or not mean > 0 else mean,
                window_width=4.0 if ratio or not mean > 0 else 2 * mean,
            )
        ],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label=short(name).upper(),
        content_description=f"{KINDS[kind].title} (research)",
    )
    context.stamp(parametric, kind)
    context.place(parametric)
    save(parametric, path)
    return 1
