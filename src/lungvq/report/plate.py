"""What figures are made of: cuts with square pixels, colour scales, and a sheet to place them on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array
from skimage.measure import find_contours

from lungvq.result import MAPS, CaseResult
from lungvq.volume import Volume

__all__ = [
    "FAINT",
    "Picture",
    "Plate",
    "Scale",
    "grey",
    "half_way",
    "outlines",
    "resize",
    "scale_of",
    "ticks",
]

_INK = (0.93, 0.94, 0.95)
FAINT = (0.62, 0.66, 0.70)
_PAPER = (0.055, 0.065, 0.078)  # the plates are dark, as on a reading screen
_GREYS = 64  # steps of the CT window: finer ones drown in noise, and double the size of a file
_SAMPLE = 4e6  # voxels are plenty for the mean that sets a colour scale
_HALO = withStroke(linewidth=3, foreground=(*_PAPER, 0.75))  # words stay readable on bright bone


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
    down, across = (_triangle_weights(n, pixel / step) for n, step in zip(image.shape, steps, strict=True))
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
    blur = 0.5 * max(*steps, pixel) / pixel  # rounds off the steps of coarse voxels
    lines: list[NDArray[np.float64]] = []
    for label in np.unique(labels[labels > 0]):
        soft = np.pad(gaussian_filter(resize(labels == label, steps, pixel), blur, mode="nearest"), 1)
        lines += [line - 0.5 for line in half_way(soft)]
    return lines


def half_way(image: np.ndarray) -> list[NDArray[np.float64]]:
    """Lines of (x, y) along which an image is one half; there is none next to NaN."""
    return [line[:, ::-1] for line in find_contours(image, 0.5)]


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
        steps = ((-2.0, "¼"), (-1.0, "½"), (0.0, "1"), (1.0, "2"), (2.0, "4"))
        return Scale("V/Q", "ratio, log2 axis; 1 = lung mean", _DIVERGING, -2.0, 2.0, steps)
    if spec.limits is not None:
        low, high = spec.limits
        colours = _DIVERGING if spec.scale == "diverging" else colormaps["viridis"]
        return Scale(spec.title, spec.unit, colours, low, high, ticks(low, high))
    mean = _mean(result.maps.get(name), result.lungs_exp)
    high = 2 * mean if mean > 0 else 1.0
    mark = (mean, "mean") if mean > 0 else None
    return Scale(spec.title, spec.unit, colormaps["viridis"], 0.0, high, ticks(0.0, high), mark)


def ticks(low: float, high: float, count: int = 4) -> tuple[tuple[float, str], ...]:
    """Round values between two limits, with their words."""
    values = [v for v in MaxNLocator(count).tick_values(low, high) if low - 1e-9 <= v <= high + 1e-9]
    return tuple((float(v), f"{v:g}".replace("-", "\N{MINUS SIGN}")) for v in np.round(values, 6))


def _mean(volume: Volume | None, lungs: Volume) -> float:
    """Mean over the defined voxels of both lungs, from a regular sample; NaN where there is none."""
    if volume is None:
        return float("nan")
    step = max(1, round((volume.array.size / _SAMPLE) ** (1 / 3)))
    thin = (slice(None, None, step),) * 3
    values = volume.array[thin][lungs.array[thin] > 0]
    values = values[np.isfinite(values)]
    return float(values.mean(dtype=np.float64)) if values.size else float("nan")


def grey(hu: np.ndarray, level: float = -600.0, width: float = 1500.0) -> NDArray[np.float32]:
    """CT numbers through a window, as grey RGB, 0 to 1, shape (..., 3)."""
    share = np.clip((np.nan_to_num(hu, nan=-1000.0) - level) / width + 0.5, 0, 1)
    share = np.rint(share * _GREYS) / _GREYS
    return np.repeat(share[..., None], 3, axis=-1).astype(np.float32)


class Plate:
    """A dark sheet on which panels, lines, words and colour bars are placed in px from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self.canvas = np.empty((height, width, 3), np.float32)
        self.canvas[:] = _PAPER
        self._lines: list[tuple[list[NDArray[np.float64]], float, tuple[float, ...]]] = []
        self._words: list[tuple[float, float, str, dict[str, object]]] = []

    def image(self, x: int, y: int, rgb: np.ndarray) -> None:
        """Lay an RGB image down with its top left corner at (x, y)."""
        height, width = rgb.shape[:2]
        self.canvas[y : y + height, x : x + width] = rgb

    def lines(
        self,
        x: float,
        y: float,
        lines: Sequence[NDArray[np.float64]],
        *,
        width: float = 0.9,
        colour: tuple[float, float, float, float] = (1, 1, 1, 0.8),
    ) -> None:
        """Draw thin lines given relative to (x, y)."""
        self._lines.append(([line + np.array([x, y]) for line in lines], width, colour))

    def text(
        self, x: float, y: float, words: str, *, size: float = 15, ha: str = "left", va: str = "center",
        colour: tuple[float, float, float] = _INK, bold: bool = False,
    ) -> None:  # fmt: skip
        """Write words; `size` in px."""
        style = {
            "fontsize": size,
            "ha": ha,
            "va": va,
            "color": colour,
            "weight": "bold" if bold else "normal",
        }
        self._words.append((x, y, words, style))

    def letters(
        self, x: int, y: int, size: tuple[int, int], letters: tuple[str, str, str, str], *, all_four: bool
    ) -> None:
        """Write the body directions at the left, right, top and bottom edge of a panel of `size`."""
        width, height = size
        left, right, top, bottom = letters
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
            self.lines(at, y + 12, [np.array([[0.0, 0.0], [0.0, 4.0]])], width=1.0)
            ha = "left" if at < x + 6 else "right" if at > x + width - 6 else "center"
            self.text(at, y + 26, label, size=14, ha=ha)
        if scale.mark:
            at = x + (scale.mark[0] - scale.low) / (scale.high - scale.low) * width
            self.text(at, y - 4, f"{scale.mark[1]} ▾", size=12, ha="center", va="bottom", colour=FAINT)
        self.text(x + width / 2, y + 46, scale.unit, size=13, ha="center", colour=FAINT)

    def png(self) -> bytes:
        """Everything, as a PNG file."""
        height, width = self.canvas.shape[:2]
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # at 72 dpi a point is a pixel
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(
            np.rint(255 * np.clip(self.canvas, 0, 1)).astype(np.uint8),
            extent=(0, width, height, 0),
            interpolation="nearest",
            aspect="auto",
        )
        for lines, line_width, colour in self._lines:
            axes.add_collection(LineCollection(lines, colors=[colour], linewidths=line_width))
        for x, y, words, style in self._words:
            axes.text(x, y, words, parse_math=False, path_effects=[_HALO], **style)  # type: ignore[arg-type]
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format="png", dpi=72, metadata={"Software": None}, pil_kwargs={"compress_level": 4}
        )
        return buffer.getvalue()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px."""
        return self.canvas.shape[1], self.canvas.shape[0]
