"""Maps in colour on the expiration CT, with their scale burned in, for any viewer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import UID

from lungvq.export.dicom.common import Context, describe, ds, save
from lungvq.export.dicom.series import mean_of
from lungvq.result import MAPS
from lungvq.volume import Grid, Volume

__all__ = ["COLOURED", "write_fused"]

COLOURED: dict[str, str] = {
    "ventilation_colour": "ventilation",
    "perfusion_colour": "perfusion",
    "vq_colour": "vq_log2",
}
"""Which map each colour series shows."""

_STEP_MM = 3.0  # between pictures: thinner slices would cost hundreds of MB and show nothing more
_ROWS = 400  # much smaller pictures are enlarged, so that words can be read
_BAR_PX = 118  # to the right of the picture, so that nothing is covered
_LEVEL_HU, _WIDTH_HU = -600.0, 1500.0
_STRENGTH = 0.62  # of the colour; the rest is the CT beneath

# Dark blue over green to yellow: lightness rises evenly, readable without colour vision too (as viridis).
_RISING = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"
# Blue over light grey to red, for ratios about 1.
_TWO_SIDED = "0b3c7d 2f74b5 8dbbdc e9eaec eba47f c84a3a 7d0f24"


@dataclass(frozen=True)
class _Scale:
    """From values to colours, and the words beside them."""

    title: str
    unit: str
    low: float
    high: float
    anchors: str
    ticks: tuple[tuple[float, str], ...]

    def rgb(self, values: np.ndarray) -> NDArray[np.float32]:
        """Colours 0 to 255, shape (..., 3)."""
        stops = np.array([[int(c[n : n + 2], 16) for n in (0, 2, 4)] for c in self.anchors.split()], float)
        at = np.clip((values - self.low) / (self.high - self.low), 0, 1) * (len(stops) - 1)
        return np.stack(
            [np.interp(at, np.arange(len(stops)), stops[:, n]) for n in range(3)], axis=-1
        ).astype(np.float32)


def _scale_of(name: str, volume: Volume) -> _Scale:
    if name == "vq_log2":
        steps = ((-2.0, "1/4"), (-1.0, "1/2"), (0.0, "1"), (1.0, "2"), (2.0, "4"))
        return _Scale("V/Q", "1 = lung mean", -2.0, 2.0, _TWO_SIDED, steps)
    mean = mean_of(volume)
    mean = mean if mean > 0 else 0.5
    ticks = ((0.0, "0"), (mean, f"{mean:.2f} mean"), (2 * mean, f"{2 * mean:.2f}"))
    unit = {"ventilation": "mL/mL", "perfusion": "lung mean = 1"}[name]
    return _Scale(MAPS[name].title, unit, 0.0, 2 * mean, _RISING, ticks)


def write_fused(context: Context, kind: str, folder: Path) -> int:
    """Write a map in colour on the CT, on slices at least 3 mm apart that hold lung; returns their number.

    Notes
    -----
    Secondary Capture has no geometry of its own; position, orientation and frame of reference are added, so
    that viewers can draw where a picture lies. The picture is the part of the CT around the lungs.
    """
    result, name = context.result, COLOURED[kind]
    codes = context.grid.codes
    part = result.exp.grid.reorient(codes)
    ct, values, lungs = (_seen(v, codes) for v in (result.exp, result.maps[name], result.lungs_exp))
    scale = _scale_of(name, result.maps[name])
    zoom = max(1, round(_ROWS / part.shape[1]))
    strip = _strip(scale, part.shape[1] * zoom, result.withheld(name))
    fine = _enlarged(part, zoom)

    image = context.place(context.new(kind))
    image.ConversionType = "WSD"
    image.ImageType = ["DERIVED", "SECONDARY", "OTHER", name.upper()]
    image.BurnedInAnnotation = "YES"
    image.ContentQualification = "RESEARCH"
    image.PatientOrientation = ""
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    axes = fine.affine[:3, :3] / np.array(fine.spacing)
    image.ImageOrientationPatient = [ds(v) for v in (*axes[:, 2], *axes[:, 1])]
    image.PixelSpacing = [ds(fine.spacing[1]), ds(fine.spacing[2])]
    slices = context.slices
    offset = round(float(context.grid.index(part.world((0, 0, 0)))[0]))
    first, last = context.lung_slices
    stride = max(1, round(_STEP_MM / context.step))
    shown = range(first, last + 1, stride)
    image.SliceThickness, image.SpacingBetweenSlices = ds(context.step), ds(context.step * stride)

    for number, k in enumerate(shown, start=1):
        picture = _blend(ct[k - offset], values[k - offset], lungs[k - offset] > 0, scale)
        picture = np.concatenate([picture.repeat(zoom, axis=0).repeat(zoom, axis=1), strip], axis=1)
        image.InstanceNumber = number
        image.SOPInstanceUID = UID(context.instance_uid(kind, number))
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        position = fine.world((k - offset, 0, 0))
        image.ImagePositionPatient = [ds(v) for v in position]
        image.SliceLocation = ds(float(position @ context.normal))
        image.Rows, image.Columns = picture.shape[:2]
        describe(image, context, f"{MAPS[name].meaning} In colour on the CT.", slices[k] if slices else None)
        image.PixelData = picture.tobytes() + b"\0" * (picture.size % 2)
        image["PixelData"].VR = "OB"
        save(image, folder / f"{number:04d}.dcm")
    return len(shown)


def _seen(volume: Volume, codes: str) -> np.ndarray:
    """A view of the values in another axis order."""
    order, flips = volume.grid.reorientation_to(codes)
    return volume.array.transpose(order)[tuple(slice(None, None, -1 if f else 1) for f in flips)]


def _enlarged(grid: Grid, zoom: int) -> Grid:
    """Each pixel of every slice cut into `zoom` x `zoom`."""
    affine = grid.affine.copy()
    affine[:3, 1:3] /= zoom
    affine[:3, 3] -= (affine[:3, 1] + affine[:3, 2]) * (zoom - 1) / 2
    return Grid((grid.shape[0], grid.shape[1] * zoom, grid.shape[2] * zoom), affine)


def _blend(hu: np.ndarray, values: np.ndarray, lung: np.ndarray, scale: _Scale) -> NDArray[np.uint8]:
    grey = 255 * np.clip((hu.astype(np.float32) - _LEVEL_HU) / _WIDTH_HU + 0.5, 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    where = lung & np.isfinite(values)
    picture[where] = (1 - _STRENGTH) * picture[where] + _STRENGTH * scale.rgb(values[where])
    return np.rint(picture).astype(np.uint8)


def _strip(scale: _Scale, rows: int, failed: bool) -> NDArray[np.uint8]:
    """The colour bar with its words, `rows` high."""
    image = Image.new("RGB", (_BAR_PX, rows), (14, 16, 20))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    pale = (235, 238, 240)
    heads = [scale.title, scale.unit] + ["QC FAIL"] * failed
    for n, words in enumerate(heads):
        draw.text((8, 8 + 17 * n), words, fill=(255, 120, 90) if words == "QC FAIL" else pale, font=font)
    top, bottom = 8 + 17 * len(heads) + 16, rows - 62
    ramp = scale.rgb(np.linspace(scale.high, scale.low, bottom - top))
    image.paste(Image.fromarray(np.repeat(np.rint(ramp)[:, None], 18, axis=1).astype(np.uint8)), (8, top))
    for value, words in scale.ticks:
        y = bottom - (value - scale.low) / (scale.high - scale.low) * (bottom - top)
        draw.line([(26, y), (31, y)], fill=pale)
        draw.text((35, y - 8), words, fill=pale, font=font)
    for n, words in enumerate(("Research only,", "not for diagnosis")):
        draw.text((8, rows - 40 + 16 * n), words, fill=(160, 168, 178), font=ImageFont.load_default(11))
    return np.asarray(image)
