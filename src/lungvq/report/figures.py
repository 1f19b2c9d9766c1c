"""The pictures of the report, drawn from arrays: no global plotting state, the same bytes every time.

All volumes are canonical (``"SPL"``: slices run to the head, rows to the back, columns to the patient's
left). Pictures follow the radiological convention: the patient's right is on the viewer's left, the head
is on top, and a sagittal cut is seen from the patient's left, so that the front is on the viewer's left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from lungvq.anatomy import LEFT, RIGHT, VQ_CLASSES
from lungvq.report.plate import FAINT, Picture, Plate, Scale, grey, outlines, resize, scale_of, ticks
from lungvq.result import MAPS, CaseResult
from lungvq.volume import Volume

__all__ = [
    "AXIAL",
    "CLASS_COLOURS",
    "CLASS_TITLES",
    "CORONAL",
    "PLANES",
    "SAGITTAL",
    "Cuts",
    "Plane",
    "class_overlay",
    "montage",
    "registration_layers",
]

_GAP = 10  # px between panels
_PANEL_PX = 372  # width of the widest panel
_DIM = 0.38  # the CT around and under a map
_MARGIN_MM = 8.0  # shown around the lungs
_BORDER = (0.96, 0.72, 0.16, 0.9)  # seen on dark lung and on bright wall alike
_LEVEL = -600.0  # HU: the middle of the CT window

CLASS_COLOURS: dict[str, tuple[float, float, float]] = {
    "normal": (0.55, 0.71, 0.64),
    "dead_space": (0.90, 0.45, 0.14),
    "shunt": (0.20, 0.52, 0.86),
    "matched_defect": (0.62, 0.42, 0.72),
}
"""One colour a V/Q class: apart for the common forms of colour blindness, in lightness too."""

CLASS_TITLES: dict[str, str] = {
    "normal": "normal",
    "dead_space": "dead space (V kept, Q low)",
    "shunt": "shunt-like (Q kept, V low)",
    "matched_defect": "matched defect (both low)",
}


@dataclass(frozen=True)
class Plane:
    """A cutting direction, and how a cut is laid on the screen.

    `letters` stand at the left, right, top and bottom edge of the picture.
    """

    name: str
    axis: int
    letters: tuple[str, str, str, str]

    def cut(self, array: np.ndarray, index: int) -> np.ndarray:
        """The cut at `index`, as it is seen: row 0 on top."""
        image = array[(slice(None),) * self.axis + (index,)]
        return image if self.axis == 0 else image[::-1]  # slices grow to the head, screen rows downwards

    def steps(self, spacing: Sequence[float]) -> tuple[float, float]:
        """mm between rows and between columns of a cut."""
        rows, columns = (s for n, s in enumerate(spacing) if n != self.axis)
        return rows, columns


CORONAL = Plane("coronal", 1, ("R", "L", "H", "F"))
AXIAL = Plane("axial", 0, ("R", "L", "A", "P"))
SAGITTAL = Plane("sagittal", 2, ("A", "P", "H", "F"))
PLANES = (CORONAL, AXIAL, SAGITTAL)


@dataclass(frozen=True, eq=False)
class Cuts:
    """Where a case is cut and at what size it is shown: settled once, for all figures.

    Parameters
    ----------
    box : tuple of slice
        The lungs and a margin.
    pixel : float
        mm per px: the widest cut fills a panel, and all planes share the scale.
    spacing : tuple of float
        mm between voxels along k, j and i.
    profiles : dict of int to tuple of 3 ndarrays
        For each lung that is there, its voxels per index of k, j and i.
    """

    box: tuple[slice, slice, slice]
    pixel: float
    spacing: tuple[float, float, float]
    profiles: dict[int, tuple[NDArray[np.int64], ...]]

    @classmethod
    def through(cls, lungs: Volume) -> Cuts:
        """The cuts for these lungs; without lungs, through the middle of the volume."""
        profiles: dict[int, tuple[NDArray[np.int64], ...]] = {}
        for label in (RIGHT, LEFT):
            mask = lungs.array == label
            if mask.any():
                seen = mask.sum(axis=0, dtype=np.int64)
                profiles[label] = (mask.sum(axis=(1, 2), dtype=np.int64), seen.sum(axis=1), seen.sum(axis=0))
        box = []
        for axis, (count, step) in enumerate(zip(lungs.shape, lungs.spacing, strict=True)):
            used = [np.flatnonzero(profile[axis]) for profile in profiles.values()]
            margin = int(np.ceil(_MARGIN_MM / step))
            first = min((int(u[0]) for u in used), default=0)
            last = max((int(u[-1]) for u in used), default=count - 1)
            box.append(slice(max(0, first - margin), min(count, last + margin + 1)))
        widest = max((b.stop - b.start) * step for b, step in zip(box, lungs.spacing, strict=True))
        return cls((box[0], box[1], box[2]), widest / _PANEL_PX, lungs.spacing, profiles)

    def positions(self, axis: int, shares: Iterable[float], label: int = 0) -> list[int]:
        """Indices below which these shares of both lungs lie, or of one; no index twice."""
        profile = sum(p[axis] for n, p in self.profiles.items() if label in (0, n))
        if not np.any(profile):
            return [(self.box[axis].start + self.box[axis].stop) // 2]
        cumulated = np.cumsum(profile) / np.sum(profile)
        return sorted({int(np.searchsorted(cumulated, share)) for share in shares})

    def montage(self, plane: Plane) -> list[int]:
        """Four cuts through both lungs; sagittal ones two through each, from right to left."""
        if plane is SAGITTAL and self.profiles:
            return [i for label in self.profiles for i in self.positions(2, (0.33, 0.67), label)]
        return self.positions(plane.axis, (0.2, 0.4, 0.6, 0.8))

    def raw(self, plane: Plane, array: np.ndarray, index: int) -> np.ndarray:
        """A cut through the box, voxel by voxel."""
        return plane.cut(array[self.box], index - self.box[plane.axis].start)

    def image(self, plane: Plane, array: np.ndarray, index: int) -> NDArray[np.float32]:
        """A cut through the box, with square pixels."""
        return resize(self.raw(plane, array, index), plane.steps(self.spacing), self.pixel)

    def lines(self, plane: Plane, labels: np.ndarray, index: int) -> list[NDArray[np.float64]]:
        """The borders of labels in a cut, in px."""
        return outlines(self.raw(plane, labels, index), plane.steps(self.spacing), self.pixel)


# ----------------------------------------------------------------------------------------- montage

_Withheld = Callable[[str], bool]


def montage(result: CaseResult, plane: Plane, cuts: Cuts, withheld: _Withheld) -> Picture:
    """CT, ventilation, perfusion and V/Q side by side, several cuts below each other, one scale a column.

    Maps lie over a dimmed CT, which shows where a map is undefined. A withheld map leaves its column empty.
    """
    columns = ("ventilation", "perfusion", "vq_log2")
    scales = {n: scale_of(result, n) for n in columns if n in result.maps and not withheld(n)}
    labels, places = _outlined(result, withheld), cuts.montage(plane)
    rows = [_panels(result, plane, index, cuts, scales) for index in places]
    height, width = rows[0]["ct"].shape[:2]
    top, foot = 44, 84
    plate = Plate(4 * width + 5 * _GAP, top + len(rows) * (height + _GAP) + foot)
    left = [_GAP + n * (width + _GAP) for n in range(4)]
    for x, title in zip(left, ("CT, expiration", *(MAPS[name].title for name in columns)), strict=True):
        plate.text(x + width / 2, top / 2, title, size=18, bold=True, ha="center")
    for row, (index, panels) in enumerate(zip(places, rows, strict=True)):
        y = top + row * (height + _GAP)
        lines = cuts.lines(plane, labels, index)
        for x, name in zip(left, ("ct", *columns), strict=True):
            if name in panels:
                plate.image(x, y, panels[name])
                plate.lines(x, y, lines)
                plate.letters(x, y, (width, height), plane.letters, all_four=name == "ct")
            else:
                plate.text(x + width / 2, y + height / 2, "withheld", size=16, ha="center", colour=FAINT)
        plate.text(_GAP + 6, y + height - 12, _where(result.exp, plane, index), size=13)
    ct = Scale("CT", "HU", colormaps["gray"], _LEVEL - 750, _LEVEL + 750, ticks(-1200, 0, 2))
    for x, scale in zip(left, (ct, *(scales.get(name) for name in columns)), strict=True):
        if scale:
            plate.bar(x + width // 8, plate.size[1] - foot + 16, width - 2 * (width // 8), scale)
    alt = (
        f"{len(rows)} {plane.name} cuts, each as CT, ventilation, perfusion and V/Q; patient's "
        f"{'front' if plane is SAGITTAL else 'right'} on the viewer's left; lobes outlined."
    )
    return Picture(f"montage_{plane.name}", "png", plate.png(), plate.size, alt)


def _panels(
    result: CaseResult, plane: Plane, index: int, cuts: Cuts, scales: dict[str, Scale]
) -> dict[str, NDArray[np.float32]]:
    """The pictures of one cut, as RGB."""
    ct = grey(cuts.image(plane, result.exp.array, index), _LEVEL)
    inside = cuts.raw(plane, result.lungs_exp.array, index) > 0
    lung = resize(inside, plane.steps(cuts.spacing), cuts.pixel) > 0.5
    panels = {"ct": ct}
    for name, scale in scales.items():
        values = cuts.image(plane, result.maps[name].array, index)
        shown = lung & np.isfinite(values)
        panels[name] = np.where(shown[..., None], scale.rgb(values), _DIM * ct)
    return panels


def _outlined(result: CaseResult, withheld: _Withheld) -> np.ndarray:
    """What is outlined: the lobes, or the lungs where the lobes are withheld or missing."""
    lobes = result.lobes_exp.array
    return result.lungs_exp.array if withheld("lobes") or not lobes.any() else lobes


def _where(volume: Volume, plane: Plane, index: int) -> str:
    """The world coordinate of a cut, as a viewer shows it."""
    place = [0.0, 0.0, 0.0]
    place[plane.axis] = index
    axis = 2 - plane.axis
    return f"{'xyz'[axis]} = {volume.grid.world(place)[axis]:.0f} mm".replace("-", "\N{MINUS SIGN}")


# ----------------------------------------------------------------------------------- V/Q class overlay


def class_overlay(result: CaseResult, cuts: Cuts, withheld: _Withheld) -> Picture:
    """Coronal and axial CT with the V/Q classes laid over it, and a legend."""
    labels = _outlined(result, withheld)
    rows = [
        (
            plane,
            [(_classes(result, plane, i, cuts), cuts.lines(plane, labels, i)) for i in cuts.montage(plane)],
        )
        for plane in (CORONAL, AXIAL)
    ]
    width = rows[0][1][0][0].shape[1]
    heights = [panels[0][0].shape[0] for _, panels in rows]
    count = max(len(panels) for _, panels in rows)
    plate = Plate(count * width + (count + 1) * _GAP, sum(heights) + 3 * _GAP + 44)
    y = _GAP
    for (plane, panels), height in zip(rows, heights, strict=True):
        for n, (rgb, lines) in enumerate(panels):
            x = _GAP + n * (width + _GAP)
            plate.image(x, y, rgb)
            plate.lines(x, y, lines)
            plate.letters(x, y, (width, height), plane.letters, all_four=n == 0)
        y += height + _GAP
    for n, (name, colour) in enumerate(CLASS_COLOURS.items()):
        x = _GAP + n * (plate.size[0] - _GAP) // len(CLASS_COLOURS)
        plate.image(x, y + 10, np.full((18, 18, 3), colour, np.float32))
        plate.text(x + 26, y + 19, CLASS_TITLES[name], size=15)
    alt = "Coronal and axial cuts with the V/Q classes normal, dead space, shunt-like and matched defect."
    return Picture("vq_classes", "png", plate.png(), plate.size, alt)


def _classes(result: CaseResult, plane: Plane, index: int, cuts: Cuts) -> NDArray[np.float32]:
    """One cut of the CT under its V/Q classes; normal lung is only hinted at."""
    rgb = grey(cuts.image(plane, result.exp.array, index), _LEVEL)
    classes = cuts.raw(plane, result.maps["vq_class"].array, index)
    for name, label in VQ_CLASSES.items():
        share = resize(classes == label, plane.steps(cuts.spacing), cuts.pixel)[..., None]
        alpha = share * (0.16 if name == "normal" else 0.72)
        rgb = rgb * (1 - alpha) + alpha * np.array(CLASS_COLOURS[name], np.float32)
    return rgb


# ---------------------------------------------------------------------------------------- registration

_LAYERS = {
    "expiration": "Expiration",
    "before": "Inspiration, same place in the scanner (before)",
    "after": "Inspiration, carried onto expiration (after)",
}


def registration_layers(result: CaseResult, cuts: Cuts) -> list[Picture]:
    """Three sheets that lie on each other: expiration, inspiration as scanned, inspiration carried onto it.

    The windows of the inspiratory sheets are shifted so that lung is as bright as on expiration: what moves
    when they alternate is anatomy, not brightness.
    """
    places = [(CORONAL, cuts.positions(1, (0.5,))[0]), (AXIAL, cuts.positions(0, (0.4,))[0])]
    places += [(SAGITTAL, cuts.positions(2, (0.5,), label)[0]) for label in cuts.profiles]
    lines = [cuts.lines(plane, result.lungs_exp.array, index) for plane, index in places]
    shift = _brightness_shift(result, cuts)
    pictures = []
    for name, title in _LAYERS.items():
        level = _LEVEL if name == "expiration" else _LEVEL + shift
        panels = [grey(_layer(result, name, plane, index, cuts), level) for plane, index in places]
        height = max(panel.shape[0] for panel in panels)
        plate = Plate(sum(panel.shape[1] + _GAP for panel in panels) + _GAP, height + 44 + _GAP)
        plate.text(_GAP, 22, title, size=18, bold=True)
        x = _GAP
        for (plane, _), panel, borders in zip(places, panels, lines, strict=True):
            y = 44 + (height - panel.shape[0]) // 2
            plate.image(x, y, panel)
            plate.lines(x, y, borders, colour=_BORDER)
            plate.letters(x, y, (panel.shape[1], panel.shape[0]), plane.letters, all_four=True)
            x += panel.shape[1] + _GAP
        alt = f"{title}: coronal, axial and sagittal CT with the outline of the expiratory lungs."
        pictures.append(Picture(f"registration_{name}", "png", plate.png(), plate.size, alt))
    return pictures


def _brightness_shift(result: CaseResult, cuts: Cuts) -> float:
    """HU by which lung is brighter on the carried inspiration than on expiration: negative."""
    thin = tuple(slice(b.start, b.stop, 3) for b in cuts.box)
    inside = result.lungs_exp.array[thin] > 0
    if not inside.any():
        return 0.0
    return float(
        np.median(result.insp_on_exp.array[thin][inside]) - np.median(result.exp.array[thin][inside])
    )


def _layer(result: CaseResult, name: str, plane: Plane, index: int, cuts: Cuts) -> NDArray[np.float32]:
    if name != "before":
        volume = result.exp if name == "expiration" else result.insp_on_exp
        return cuts.image(plane, volume.array, index)
    box = list(cuts.box)
    box[plane.axis] = slice(index, index + 1)
    grid = result.exp.grid.crop((box[0], box[1], box[2]))
    same_place = result.insp.resample(grid, fill=-1000.0, antialias=False)
    return resize(plane.cut(same_place.array, 0), plane.steps(cuts.spacing), cuts.pixel)
