"""The pictures of the report, drawn from arrays: no global plotting state, the same bytes every time.

All volumes are canonical (``"SPL"``: slices run to the head, rows to the back, columns to the patient's
left). Pictures follow the radiological convention: the patient's right is on the viewer's left, the head
is on top, and a sagittal cut is seen from the patient's left, so that the front is on the viewer's left.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape

import contourpy
import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.sparse import csr_array

from lungvq.anatomy import LEFT, LUNGS, RIGHT, VQ_CLASSES
from lungvq.result import MAPS, CaseResult
from lungvq.volume import Volume

__all__ = [
    "AXIAL",
    "CLASS_COLOURS",
    "CORONAL",
    "PLANES",
    "SAGITTAL",
    "Picture",
    "Plane",
    "Plate",
    "Scale",
    "class_overlay",
    "grey",
    "histogram",
    "montage",
    "registration_layers",
    "resize",
    "scale_of",
    "slice_positions",
]

_INK = (0.93, 0.94, 0.95)
_FAINT = (0.62, 0.66, 0.70)
_PAPER = (0.055, 0.065, 0.078)  # the plates are dark, as on a reading screen
_GAP = 10  # px between panels
_PANEL_PX = 372  # width of the widest panel
_MARGIN_MM = 8.0  # shown around the lungs

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
class Picture:
    """One figure, ready to be embedded or written.

    Parameters
    ----------
    name : str
        Stem of the file.
    kind : str
        ``"png"`` or ``"svg"``.
    data : bytes
    size : tuple of int
        Width and height in px.
    alt : str
        What it shows, for those who cannot see it.
    """

    name: str
    kind: str
    data: bytes
    size: tuple[int, int]
    alt: str


# ------------------------------------------------------------------------------------------- cuts


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


def slice_positions(mask: np.ndarray, axis: int, shares: Iterable[float]) -> list[int]:
    """Indices along `axis` below which the given shares of the mask lie; no index twice.

    Examples
    --------
    >>> slice_positions(np.ones((10, 2, 2), bool), 0, (0.25, 0.5, 0.75))
    [2, 4, 7]
    """
    profile = mask.sum(axis=tuple(n for n in range(3) if n != axis))
    if not profile.any():
        return [mask.shape[axis] // 2]
    cumulated = np.cumsum(profile) / profile.sum()
    return sorted({int(np.searchsorted(cumulated, share)) for share in shares})


def resize(image: np.ndarray, steps: tuple[float, float], pixel: float) -> NDArray[np.float32]:
    """An image with square pixels of `pixel` mm, interpolated where finer and averaged where coarser.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        NaN where undefined: such pixels carry no weight, and the result is NaN where most weight is NaN.
    steps : tuple of float
        mm between rows and between columns.
    pixel : float
        mm.

    Examples
    --------
    >>> resize(np.array([[0.0, 2.0], [np.nan, np.nan]]), (2.0, 1.0), 1.0)
    array([[ 0.,  2.],
           [ 0.,  2.],
           [nan, nan],
           [nan, nan]], dtype=float32)
    """
    down, across = (
        _triangle_weights(n, pixel / step) for n, step in zip(image.shape, steps, strict=True)
    )
    defined = np.isfinite(image)
    weight = across @ (down @ defined.astype(np.float32)).T
    total = across @ (down @ np.where(defined, image, 0).astype(np.float32)).T
    weight, total = weight.T, total.T
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0.5)


@cache
def _triangle_weights(count: int, ratio: float) -> csr_array:
    """(new, count): weights of old samples for new ones `ratio` old steps apart; rows add up to 1."""
    new = max(1, int(count / ratio + 1e-6))
    centres = (np.arange(new) + 0.5) * ratio - 0.5
    weights = np.clip(1 - np.abs(centres[:, None] - np.arange(count)) / max(1.0, ratio), 0, None)
    return csr_array((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def outlines(labels: np.ndarray, steps: tuple[float, float], pixel: float) -> list[NDArray[np.float64]]:
    """Borders of every label in a cut, as lines of (x, y) in px of the resized cut."""
    lines: list[NDArray[np.float64]] = []
    for label in np.unique(labels[labels > 0]):
        soft = np.pad(resize(labels == label, steps, pixel), 1)
        if min(soft.shape) > 1:
            lines += [line - 0.5 for line in contourpy.contour_generator(z=soft).lines(0.5)]
    return lines


# ---------------------------------------------------------------------------------- scales, colour


@dataclass(frozen=True)
class Scale:
    """How values become colours, and what the bar beside them says.

    `mark` is a value to point out on the bar, with its word.
    """

    title: str
    unit: str
    colours: Colormap
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    mark: tuple[float, str] | None = None

    def rgb(self, values: np.ndarray) -> NDArray[np.float32]:
        """Colours of values, shape (..., 3); NaN gives the colour of `low`."""
        share = np.clip((np.nan_to_num(values, nan=self.low) - self.low) / (self.high - self.low), 0, 1)
        return self.colours(share)[..., :3].astype(np.float32)


# Blue to red through a light grey: lightness falls evenly to both sides, the ends stay apart for all.
_DIVERGING = LinearSegmentedColormap.from_list(
    "lungvq_diverging",
    ["#0b3c7d", "#2f74b5", "#8dbbdc", "#e9eaec", "#eba47f", "#c84a3a", "#7d0f24"],
)


def scale_of(result: CaseResult, name: str) -> Scale:
    """The display scale of a map: fixed limits where its `MapSpec` has them, else 0 to twice the mean."""
    spec = MAPS[name]
    if name == "vq_log2":
        ticks = ((-2.0, "¼"), (-1.0, "½"), (0.0, "1"), (1.0, "2"), (2.0, "4"))
        return Scale("V/Q", "ratio, log2 axis; 1 = lung mean", _DIVERGING, -2.0, 2.0, ticks)
    if spec.limits is not None:
        low, high = spec.limits
        colours = _DIVERGING if spec.scale == "diverging" else colormaps["viridis"]
        return Scale(spec.title, spec.unit, colours, low, high, _ticks(low, high))
    mean = _mean(result.maps.get(name), result.lungs_exp)
    high = 2 * mean if mean > 0 else 1.0
    mark = (mean, "mean") if mean > 0 else None
    return Scale(spec.title, spec.unit, colormaps["viridis"], 0.0, high, _ticks(0.0, high), mark)


def _ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    values = [v for v in MaxNLocator(4).tick_values(low, high) if low - 1e-9 <= v <= high + 1e-9]
    return tuple((float(v), f"{v:g}".replace("-", "\N{MINUS SIGN}")) for v in np.round(values, 6))


def _mean(volume: Volume | None, lungs: Volume) -> float:
    """Mean over the defined voxels of both lungs; NaN where there is none."""
    if volume is None:
        return float("nan")
    values = volume.array[lungs.array > 0]
    values = values[np.isfinite(values)]
    return float(values.mean(dtype=np.float64)) if values.size else float("nan")


def grey(hu: np.ndarray, level: float = -600.0, width: float = 1500.0) -> NDArray[np.float32]:
    """CT numbers through a window, as grey RGB, 0 to 1, shape (..., 3)."""
    share = np.clip((np.nan_to_num(hu, nan=-1000.0) - level) / width + 0.5, 0, 1)
    return np.repeat(share[..., None], 3, axis=-1).astype(np.float32)


# ------------------------------------------------------------------------------------------ plates


class Plate:
    """A dark sheet on which panels, lines, words and colour bars are placed in px from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self.canvas = np.empty((height, width, 3), np.float32)
        self.canvas[:] = _PAPER
        self._lines: list[tuple[list[NDArray[np.float64]], float, float]] = []
        self._words: list[tuple[float, float, str, dict[str, object]]] = []

    def image(self, x: int, y: int, rgb: np.ndarray) -> None:
        """Lay an RGB image down with its top left corner at (x, y)."""
        height, width = rgb.shape[:2]
        self.canvas[y : y + height, x : x + width] = rgb

    def lines(
        self, x: float, y: float, lines: Sequence[NDArray[np.float64]], *, width: float = 0.9, alpha: float = 0.8
    ) -> None:
        """Draw thin white lines given relative to (x, y)."""
        self._lines.append(([line + (x, y) for line in lines], width, alpha))

    def text(
        self, x: float, y: float, words: str, *, size: float = 15, ha: str = "left", va: str = "center",
        colour: tuple[float, float, float] = _INK, bold: bool = False,
    ) -> None:  # fmt: skip
        """Write words; `size` in px."""
        style = {"fontsize": size, "ha": ha, "va": va, "color": colour, "weight": "bold" if bold else "normal"}
        self._words.append((x, y, words, style))

    def letters(self, x: int, y: int, width: int, height: int, plane: Plane, *, all_four: bool) -> None:
        """Write the body directions at the edges of a panel."""
        left, right, top, bottom = plane.letters
        self.text(x + 6, y + height / 2, left, size=15, bold=True)
        self.text(x + width - 6, y + height / 2, right, size=15, bold=True, ha="right")
        if all_four:
            self.text(x + width / 2, y + 5, top, size=15, bold=True, ha="center", va="top")
            self.text(x + width / 2, y + height - 5, bottom, size=15, bold=True, ha="center", va="bottom")

    def bar(self, x: int, y: int, width: int, scale: Scale) -> None:
        """Draw a colour bar with its ticks and unit below; it takes 60 px of height."""
        ramp = np.linspace(scale.low, scale.high, width)
        self.image(x, y, np.repeat(scale.rgb(ramp)[None], 12, axis=0))
        for value, label in scale.ticks:
            at = x + (value - scale.low) / (scale.high - scale.low) * width
            self.lines(at, y + 12, [np.array([[0.0, 0.0], [0.0, 4.0]])], width=1.0, alpha=0.9)
            ha = "left" if at < x + 6 else "right" if at > x + width - 6 else "center"
            self.text(at, y + 26, label, size=14, ha=ha)
        if scale.mark:
            at = x + (scale.mark[0] - scale.low) / (scale.high - scale.low) * width
            self.text(at, y - 4, f"{scale.mark[1]} ▾", size=12, ha="center", va="bottom", colour=_FAINT)
        self.text(x + width / 2, y + 46, scale.unit, size=13, ha="center", colour=_FAINT)

    def png(self) -> bytes:
        """Everything, as a PNG file."""
        height, width = self.canvas.shape[:2]
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # at 72 dpi a point is a pixel
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(self.canvas, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
        for lines, line_width, alpha in self._lines:
            axes.add_collection(LineCollection(lines, colors=[(1, 1, 1, alpha)], linewidths=line_width))
        for x, y, words, style in self._words:
            axes.text(x, y, words, parse_math=False, **style)  # type: ignore[arg-type]
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=72, metadata={"Software": None})
        return buffer.getvalue()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px."""
        return self.canvas.shape[1], self.canvas.shape[0]


# ----------------------------------------------------------------------------------------- montage


def lung_box(lungs: Volume, margin_mm: float = _MARGIN_MM) -> tuple[slice, slice, slice]:
    """The box of the lungs and a margin; the whole volume where there is no lung."""
    box = []
    for axis, (count, step) in enumerate(zip(lungs.shape, lungs.spacing, strict=True)):
        used = np.flatnonzero(lungs.array.any(axis=tuple(n for n in range(3) if n != axis)))
        margin = int(np.ceil(margin_mm / step))
        first, last = (used[0], used[-1]) if used.size else (0, count - 1)
        box.append(slice(max(0, int(first) - margin), min(count, int(last) + margin + 1)))
    return box[0], box[1], box[2]


def pixel_mm(lungs: Volume) -> float:
    """mm per px at which the widest cut through the lungs fills a panel: one for all planes of a case."""
    box = lung_box(lungs)
    width = (box[2].stop - box[2].start) * lungs.spacing[2]
    height = (box[0].stop - box[0].start) * lungs.spacing[0]
    depth = (box[1].stop - box[1].start) * lungs.spacing[1]
    return max(width, height, depth) / _PANEL_PX


def plane_positions(lungs: Volume, plane: Plane) -> list[int]:
    """Where a montage cuts: four times through both lungs, or twice through each for sagittal cuts."""
    if plane is not SAGITTAL:
        return slice_positions(lungs.array > 0, plane.axis, (0.2, 0.4, 0.6, 0.8))
    sides = [lungs.array == LUNGS[side] for side in ("right", "left")]
    cuts = [i for side in sides if side.any() for i in slice_positions(side, 2, (0.33, 0.67))]
    return cuts or [lungs.shape[2] // 2]


def montage(
    result: CaseResult, plane: Plane, withheld: Callable[[str], bool] = lambda name: False
) -> Picture:
    """CT, ventilation, perfusion and V/Q side by side, several cuts below each other, one scale a column.

    Maps lie over a dimmed CT, which shows where a map is undefined. A withheld map leaves its column empty.
    """
    columns = ("ventilation", "perfusion", "vq_log2")
    box, pixel = lung_box(result.lungs_exp), pixel_mm(result.lungs_exp)
    steps = plane.steps(result.exp.spacing)
    cuts = plane_positions(result.lungs_exp, plane)
    sheets = [_sheet(result, plane, index, box, pixel, withheld) for index in cuts]
    height, width = sheets[0]["ct"].shape[:2]
    top, foot = 44, 84
    plate = Plate(
        4 * width + 5 * _GAP, top + len(cuts) * (height + _GAP) + foot
    )
    shown = {name: not withheld(name) and name in result.maps for name in columns}
    for n, title in enumerate(("CT, expiration", *(MAPS[name].title for name in columns))):
        plate.text(_GAP + n * (width + _GAP) + width / 2, top / 2, title, size=18, bold=True, ha="center")
    for row, (index, sheet) in enumerate(zip(cuts, sheets, strict=True)):
        y = top + row * (height + _GAP)
        lines = outlines(plane.cut(_labels(result, withheld)[box], index - box[plane.axis].start), steps, pixel)
        for n, name in enumerate(("ct", *columns)):
            x = _GAP + n * (width + _GAP)
            if n and not shown[name]:
                plate.text(x + width / 2, y + height / 2, "withheld", size=16, ha="center", colour=_FAINT)
                continue
            plate.image(x, y, sheet[name])
            plate.lines(x, y, lines)
            plate.letters(x, y, width, height, plane, all_four=n == 0)
        plate.text(_GAP + 6, y + height - 12, _where(result.exp, plane, index), size=13, colour=_FAINT)
    y = plate.size[1] - foot + 16
    ct_scale = Scale("CT", "HU", colormaps["gray"], -1350, 150, _ticks(-1200, 0))
    for n, scale in enumerate((ct_scale, *(scale_of(result, name) for name in columns))):
        if n == 0 or shown[columns[n - 1]]:
            inset = width // 8
            plate.bar(_GAP + n * (width + _GAP) + inset, y, width - 2 * inset, scale)
    alt = (
        f"{len(cuts)} {plane.name} cuts, each as CT, ventilation, perfusion and V/Q; patient's "
        f"{'right' if plane is not SAGITTAL else 'front'} on the viewer's left; lobes outlined."
    )
    return Picture(f"montage_{plane.name}", "png", plate.png(), plate.size, alt)


def _labels(result: CaseResult, withheld: Callable[[str], bool]) -> np.ndarray:
    """What is outlined: the lobes, or the lungs where the lobes are withheld or missing."""
    lobes = result.lobes_exp.array
    return result.lungs_exp.array if withheld("lobes") or not lobes.any() else lobes


def _where(volume: Volume, plane: Plane, index: int) -> str:
    """The world coordinate of a cut, as a viewer shows it."""
    place = [0.0, 0.0, 0.0]
    place[plane.axis] = index
    axis = 2 - plane.axis
    return f"{'xyz'[axis]} = {volume.grid.world(place)[axis]:.0f} mm".replace("-", "\N{MINUS SIGN}")


def _sheet(
    result: CaseResult,
    plane: Plane,
    index: int,
    box: tuple[slice, slice, slice],
    pixel: float,
    withheld: Callable[[str], bool],
) -> dict[str, NDArray[np.float32]]:
    """The panels of one cut, as RGB."""
    steps = plane.steps(result.exp.spacing)

    def cut(array: np.ndarray) -> np.ndarray:
        return plane.cut(array[box], index - box[plane.axis].start)

    ct = grey(resize(cut(result.exp.array), steps, pixel))
    lung = resize(cut(result.lungs_exp.array) > 0, steps, pixel) > 0.5
    sheet = {"ct": ct}
    for name in ("ventilation", "perfusion", "vq_log2"):
        if withheld(name) or name not in result.maps:
            continue
        values = resize(cut(result.maps[name].array), steps, pixel)
        shown = lung & np.isfinite(values)
        sheet[name] = np.where(shown[..., None], scale_of(result, name).rgb(values), 0.45 * ct)
    return sheet


# ----------------------------------------------------------------------------------- V/Q class overlay


def class_overlay(result: CaseResult, withheld: Callable[[str], bool] = lambda name: False) -> Picture:
    """Coronal and axial CT with the V/Q classes laid over it, and a legend."""
    box, pixel = lung_box(result.lungs_exp), pixel_mm(result.lungs_exp)
    start = [b.start for b in box]
    rows: list[list[tuple[Plane, NDArray[np.float32], list[NDArray[np.float64]]]]] = []
    for plane in (CORONAL, AXIAL):
        steps = plane.steps(result.exp.spacing)
        row = []
        for index in plane_positions(result.lungs_exp, plane):
            at = index - start[plane.axis]
            rgb = grey(resize(plane.cut(result.exp.array[box], at), steps, pixel))
            classes = plane.cut(result.maps["vq_class"].array[box], at)
            for name, label in VQ_CLASSES.items():
                share = np.nan_to_num(resize(classes == label, steps, pixel))[..., None]
                alpha = share * (0.16 if name == "normal" else 0.72)
                rgb = rgb * (1 - alpha) + alpha * np.array(CLASS_COLOURS[name], np.float32)
            row.append((plane, rgb, outlines(plane.cut(_labels(result, withheld)[box], at), steps, pixel)))
        rows.append(row)
    width = rows[0][0][1].shape[1]
    count = max(len(row) for row in rows)
    heights = [row[0][1].shape[0] for row in rows]
    plate = Plate(count * width + (count + 1) * _GAP, sum(heights) + 3 * _GAP + 44)
    y = _GAP
    for row, height in zip(rows, heights, strict=True):
        for n, (plane, rgb, lines) in enumerate(row):
            x = _GAP + n * (width + _GAP)
            plate.image(x, y, rgb)
            plate.lines(x, y, lines)
            plate.letters(x, y, width, height, plane, all_four=n == 0)
        y += height + _GAP
    for n, (name, colour) in enumerate(CLASS_COLOURS.items()):
        x = _GAP + n * (plate.size[0] - _GAP) // 4
        plate.image(x, y + 10, np.full((18, 18, 3), colour, np.float32))
        plate.text(x + 26, y + 19, CLASS_TITLES[name], size=15)
    alt = "Coronal and axial cuts with the V/Q classes normal, dead space, shunt-like and matched defect."
    return Picture("vq_classes", "png", plate.png(), plate.size, alt)


# ---------------------------------------------------------------------------------------- registration


def registration_layers(result: CaseResult) -> list[Picture]:
    """Three sheets that lie on each other: expiration, inspiration as scanned, inspiration carried onto it.

    The windows of the inspiratory sheets are shifted so that lung is as bright as on expiration: what moves
    when they alternate is anatomy, not brightness.
    """
    box, pixel = lung_box(result.lungs_exp), pixel_mm(result.lungs_exp)
    cuts = [(CORONAL, slice_positions(result.lungs_exp.array > 0, 1, (0.5,))[0])]
    cuts += [(AXIAL, slice_positions(result.lungs_exp.array > 0, 0, (0.4,))[0])]
    for label in (RIGHT, LEFT):
        if (result.lungs_exp.array == label).any():
            cuts.append((SAGITTAL, slice_positions(result.lungs_exp.array == label, 2, (0.5,))[0]))
    level = {
        "expiration": -600.0,
        "before": -600.0 + _brightness_shift(result),
        "after": -600.0 + _brightness_shift(result),
    }
    titles = {
        "expiration": "Expiration",
        "before": "Inspiration, same place in the scanner (before)",
        "after": "Inspiration, carried onto expiration (after)",
    }
    sheets = {name: _registration_cuts(result, name, cuts, box) for name in titles}
    pictures = []
    for name, title in titles.items():
        panels = []
        for (plane, index), image in zip(cuts, sheets[name], strict=True):
            steps = plane.steps(result.exp.spacing)
            lines = outlines(plane.cut(result.lungs_exp.array[box], index - box[plane.axis].start), steps, pixel)
            panels.append((plane, grey(resize(image, steps, pixel), level[name]), lines))
        height = max(rgb.shape[0] for _, rgb, _ in panels)
        plate = Plate(sum(rgb.shape[1] + _GAP for _, rgb, _ in panels) + _GAP, height + 44 + _GAP)
        plate.text(_GAP, 22, title, size=18, bold=True)
        x = _GAP
        for plane, rgb, lines in panels:
            y = 44 + (height - rgb.shape[0]) // 2
            plate.image(x, y, rgb)
            plate.lines(x, y, lines, alpha=0.55)
            plate.letters(x, y, rgb.shape[1], rgb.shape[0], plane, all_four=True)
            x += rgb.shape[1] + _GAP
        alt = f"{title}: coronal, axial and sagittal CT with the outline of the expiratory lungs."
        pictures.append(Picture(f"registration_{name}", "png", plate.png(), plate.size, alt))
    return pictures


def _brightness_shift(result: CaseResult) -> float:
    """HU by which the lungs are brighter on the carried inspiration than on expiration (negative)."""
    inside = result.lungs_exp.array > 0
    after, exp = result.insp_on_exp.array[inside][::7], result.exp.array[inside][::7]
    return float(np.median(after) - np.median(exp)) if exp.size else 0.0


def _registration_cuts(
    result: CaseResult, name: str, cuts: list[tuple[Plane, int]], box: tuple[slice, slice, slice]
) -> list[np.ndarray]:
    images = []
    for plane, index in cuts:
        at = index - box[plane.axis].start
        if name == "before":
            thin = list(box)
            thin[plane.axis] = slice(index, index + 1)
            grid = result.exp.grid.crop((thin[0], thin[1], thin[2]))
            same_place = result.insp.resample(grid, fill=-1000.0, antialias=False)
            images.append(plane.cut(same_place.array, 0))
        else:
            volume = result.exp if name == "expiration" else result.insp_on_exp
            images.append(plane.cut(volume.array[box], at))
    return images


# ------------------------------------------------------------------------------------------- histogram

_SERIES = {"both": ("both lungs", "#8a949e", ""), "right": ("right lung", "#b0522d", ""),
           "left": ("left lung", "#2a6fb0", "5 3")}  # fmt: skip
_SAMPLE = 400_000  # voxels are enough for a smooth curve


def histogram(result: CaseResult, name: str) -> Picture:
    """How the values of a map are distributed over both lungs and in each, as a share of its volume.

    A small hand-made SVG: it follows the page's text colour in light and dark.
    """
    scale = scale_of(result, name)
    low, high = scale.low - 0.15 * (scale.high - scale.low), scale.high * 1.25
    edges = np.linspace(low, high, 71)
    curves = {}
    for series in _SERIES:
        mask = result.lungs_exp.array > 0 if series == "both" else result.lungs_exp.array == LUNGS[series]
        values = result.maps[name].array[mask]
        values = values[np.isfinite(values)]
        if values.size:
            values = values[:: max(1, values.size // _SAMPLE)]
            # Values beyond the axis belong into its outermost bins: nothing is left out silently.
            counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
            curves[series] = 100 * counts / values.size
    return _histogram_svg(name, scale, edges, curves)


def _histogram_svg(name: str, scale: Scale, edges: np.ndarray, curves: dict[str, np.ndarray]) -> Picture:
    width, height, left, right, top, bottom = 520, 250, 44, 12, 30, 48
    peak = max((float(c.max()) for c in curves.values()), default=1.0) * 1.08
    inner = height - top - bottom

    def px(value: float) -> float:
        return left + (value - edges[0]) / (edges[-1] - edges[0]) * (width - left - right)

    def py(value: float) -> float:
        return top + inner * (1 - value / peak)

    title = f"Histogram of {scale.title.lower()}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="12" '
        f'fill="currentColor"><title>{escape(title)}</title>'
    ]
    for value, label in _ticks(0, peak):
        y = py(value)
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="currentColor" stroke-opacity="0.12"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill-opacity="0.7">{label}</text>'
        )
    for value, label in _ticks(float(edges[0]), float(edges[-1])):
        parts.append(
            f'<text x="{px(value):.1f}" y="{height - bottom + 16}" text-anchor="middle" '
            f'fill-opacity="0.7">{label}</text>'
        )
    if scale.mark:
        x = px(scale.mark[0])
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + inner}" stroke="currentColor" '
            f'stroke-opacity="0.45" stroke-dasharray="2 3"/>'
        )
    for series, curve in curves.items():
        _, colour, dash = _SERIES[series]
        corners = [(x, y) for n, y in enumerate(curve) for x in (edges[n], edges[n + 1])]
        path = "M" + " L".join(f"{px(x):.1f},{py(y):.1f}" for x, y in corners)
        if series == "both":
            closed = f"{path} L{px(edges[-1]):.1f},{py(0):.1f} L{px(edges[0]):.1f},{py(0):.1f} Z"
            parts.append(f'<path d="{closed}" fill="{colour}" fill-opacity="0.30" stroke="none"/>')
        else:
            parts.append(
                f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8" '
                f'stroke-dasharray="{dash or "none"}"/>'
            )
    x = left
    for series in curves:
        words, colour, dash = _SERIES[series]
        parts.append(
            f'<line x1="{x}" x2="{x + 20}" y1="12" y2="12" stroke="{colour}" '
            f'stroke-width="{8 if series == "both" else 2}" stroke-opacity="{0.4 if series == "both" else 1}" '
            f'stroke-dasharray="{dash or "none"}"/><text x="{x + 26}" y="16">{words}</text>'
        )
        x += 110
    parts.append(
        f'<line x1="{left}" x2="{width - right}" y1="{top + inner}" y2="{top + inner}" '
        f'stroke="currentColor" stroke-opacity="0.5"/>'
        f'<text x="{(left + width - right) / 2}" y="{height - 8}" text-anchor="middle">'
        f"{escape(scale.title)}, {escape(scale.unit)}</text>"
        f'<text x="{width - right}" y="16" text-anchor="end" fill-opacity="0.7">% of lung per bin</text></svg>'
    )
    svg = "".join(parts)
    return Picture(f"histogram_{name}", "svg", svg.encode(), (width, height), title)
