"""Maps as DICOM Parametric Map: the standard's own answer, for the readers that have it."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
from pydicom.uid import ExplicitVRLittleEndian

from lungvq.export.dicom.common import Context, planes_of, save
from lungvq.export.dicom.names import KINDS, QUANTITIES, short
from lungvq.export.dicom.series import PADDING, limits_of, mean_of, scaling_of
from lungvq.result import MAPS

__all__ = ["write_pmap"]


def write_pmap(context: Context, kind: str, path: Path) -> int:
    """Write one map as unsigned 16-bit Parametric Map; returns the number of files.

    Real world values are in the map's own unit, those of the NIfTI file, in steps of at most 1/65531 of
    their range. Only slices that hold lung are written.
    """
    name = kind.removeprefix("pmap_")
    volume, quantity, spec = context.result.maps[name], QUANTITIES[name], MAPS[name]
    first, last = context.lung_slices
    factor = 1000  # fine steps for ratios too
    low, high = (factor * limit for limit in limits_of(volume))
    scaling = scaling_of(low, high)
    plane = planes_of(volume, context.grid, np.nan)
    pixels = np.zeros((last - first + 1, *context.grid.shape[1:]), np.uint16)
    for k in range(first, last + 1):
        pixels[k - first] = scaling.store(plane(k) * np.float64(factor))
    slope, intercept = float(scaling.slope / factor), float(scaling.intercept / factor)
    mean = mean_of(volume)
    centre = (max(mean, 0.0) if name != "vq_log2" else 0.0) - intercept
    half = mean if mean > 0 and name != "vq_log2" else 2.0
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
                value_range=(PADDING, 65535),
                slope=slope,
                intercept=intercept,
                quantity_definition=quantity.code,
            )
        ],
        voi_lut_transformations=[
            highdicom.VOILUTTransformation(
                window_center=centre / slope, window_width=max(1.0, 2 * half / slope)
            )
        ],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label=short(name).upper(),
        content_description=f"{KINDS[kind].title} (research)",
    )
    context.stamp(parametric, kind)
    context.place(parametric)
    parametric.add_new("PixelPaddingValue", "US", PADDING)
    save(parametric, path)
    return 1
