"""The lungs as a shaded surface, coloured by what lies just beneath it: numpy alone, no graphics card.

A view is an orthographic projection: along each line of sight the first point where the softened lung mask
passes one half. The gradient of that mask is the surface normal, which is what makes the surface look smooth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from lungvq.report.plate import Picture, Plate, half_way, resize, scale_of
from lungvq.result import MAPS, CaseResult
from lungvq.volume import Volume, grid_around

__all__ = ["VIEWS", "Surface", "View", "find_surface", "mean_beneath", "surfaces_picture"]

DEPTH_MM = 20.0
"""How far under the surface a map is averaged."""

_VOXELS = 9_000_000  # of the softened mask: about 1.1 mm for an adult
_LIGHT = np.array([-0.42, 0.58, 0.70])  # from the upper left, in front: right, up, towards the viewer


@dataclass(frozen=True)
class View:
    """A direction to look along: the axis of sight, whether it runs against the index, and the mirror."""

    name: str
    axis: int
    against: bool
    mirrored: bool

    def turn(self, array: np.ndarray) -> np.ndarray:
        """A view of an array as (screen row, screen column, depth)."""
        turned = array.transpose(0, 2, 1) if self.axis == 1 else array
        turned = turned[::-1, ::-1] if self.mirrored else turned[::-1]
        return turned[..., ::-1] if self.against else turned

    @property
    def directions(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Right on the screen, up on the screen, and along the sight, LPS."""
        x, y, z = np.eye(3)
        right, sight = (x, y) if self.axis == 1 else (y, x)
        return (-right if self.mirrored else right), z, (-sight if self.against else sight)


# From the front the patient's right is on the viewer's left; from behind it is on the viewer's right.
VIEWS = (
    View("front", 1, against=False, mirrored=False),
    View("back", 1, against=True, mirrored=True),
    View("right side", 2, against=False, mirrored=True),
    View("left side", 2, against=True, mirrored=False),
)


@dataclass(frozen=True)
class Surface:
    """What one view sees.

    Parameters
    ----------
    points : ndarray, shape (rows, columns, 3)
        Where the lines of sight meet the surface, LPS mm; NaN beside the lungs.
    inward : ndarray, shape (rows, columns, 3)
        Direction from the surface into the lung, at right angles to it, LPS.
    light : ndarray, shape (rows, columns)
        Brightness, about 0.5 to 1.1.
    cover : ndarray, shape (rows, columns)
        0 beside the lungs, 1 on them, between at the edge.
    spacing : float
        mm per pixel.
    """

    points: NDArray[np.float32]
    inward: NDArray[np.float32]
    light: NDArray[np.float32]
    cover: NDArray[np.float32]
    spacing: float


def soft_mask(lungs: Volume) -> Volume | None:
    """The lung mask on a cubic grid along the body axes, blurred so that its steps vanish; None if empty."""
    used = [np.flatnonzero(lungs.array.any(axis=tuple(a for a in range(3) if a != n))) for n in range(3)]
    if not used[0].size:
        return None
    corners = np.array(np.meshgrid(*[(u[0], u[-1]) for u in used])).reshape(3, -1).T
    points = lungs.grid.world(corners)
    blur = max(3.0, 1.2 * max(lungs.spacing))
    margin = 4 * blur
    extent = points.max(axis=0) - points.min(axis=0) + 2 * margin
    spacing = max(1.0, float(np.prod(extent) / _VOXELS) ** (1 / 3))
    grid = grid_around(points, spacing, margin)
    mask = lungs.like((lungs.array > 0).astype(np.uint8)).resample(grid, fill=0.0, antialias=False)
    return mask.like(gaussian_filter(mask.array, blur / spacing, mode="constant", truncate=3.0))


def find_surface(mask: Volume, view: View) -> Surface:
    """The first surface of a `soft_mask` along a view, and how it is lit."""
    soft = view.turn(mask.array)
    hit = np.argmax(soft >= 0.5, axis=-1)
    rows, columns = np.indices(hit.shape)
    inside = hit > 0
    before, after = soft[rows, columns, hit - 1], soft[rows, columns, hit]
    share = np.where(inside, (0.5 - before) / np.where(inside, after - before, 1), 0)
    depth = hit - 1 + share

    def slope(axis: int) -> np.ndarray:
        """The derivative of the mask along a screen axis, at the surface between two voxels."""
        ends = []
        for at in (hit - 1, hit):
            place = [rows, columns, at]
            count = soft.shape[axis]
            up, down = list(place), list(place)
            up[axis] = np.minimum(place[axis] + 1, count - 1)
            down[axis] = np.maximum(place[axis] - 1, 0)
            ends.append(soft[tuple(up)] - soft[tuple(down)])
        return ends[0] * (1 - share) + ends[1] * share

    # Outward normal, in screen terms: to the right, up, towards the viewer.
    normal = np.stack([-slope(1), slope(0), slope(2)], axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    lit = np.clip(normal @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)
    far = np.where(inside, depth, np.nan)
    haze = (far - np.nanmin(far)) / max(np.nanmax(far) - np.nanmin(far), 1) if inside.any() else far
    light = (0.52 + 0.66 * lit) * (1 - 0.22 * np.nan_to_num(haze))
    cover = np.clip((soft.max(axis=-1) - 0.35) / 0.3, 0, 1)

    # Screen to index, turned back the way `View.turn` went.
    k = soft.shape[0] - 1 - rows
    across = soft.shape[1] - 1 - columns if view.mirrored else columns
    along = soft.shape[2] - 1 - depth if view.against else depth
    index = np.stack([k, along, across] if view.axis == 1 else [k, across, along], axis=-1).astype(float)
    points = np.where(inside[..., None], mask.grid.world(index), np.nan)
    right, up, sight = view.directions
    inward = -(normal[..., :1] * right + normal[..., 1:2] * up - normal[..., 2:] * sight)
    return Surface(
        points.astype(np.float32),
        inward.astype(np.float32),
        light.astype(np.float32),
        cover.astype(np.float32),
        mask.spacing[0],
    )


def mean_beneath(surface: Surface, volume: Volume, depth_mm: float = DEPTH_MM) -> NDArray[np.float32]:
    """The mean of a map along the first `depth_mm` under the surface; NaN where nothing is defined there."""
    inside = np.isfinite(surface.points[..., 0])
    start, inward = surface.points[inside], surface.inward[inside]
    total = np.zeros(len(start), np.float32)
    count = np.zeros(len(start), np.float32)
    for d in np.arange(1.0, depth_mm, 2.0):
        values = volume.sample(start + d * inward)
        defined = np.isfinite(values)
        total[defined] += values[defined]
        count += defined
    result = np.full(inside.shape, np.nan, np.float32)
    result[inside] = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return result


def lobe_borders(surface: Surface, lobes: Volume) -> list[NDArray[np.float64]]:
    """Lines on the screen where one lobe meets another, as (x, y) in pixels of the view."""
    inside = np.isfinite(surface.points[..., 0])
    labels = np.zeros(inside.shape, np.uint8)
    # A little under the surface, where the blurred mask and the labels agree.
    nearest = np.rint(lobes.grid.index(surface.points[inside] + 4.0 * surface.inward[inside])).astype(int)
    nearest = np.clip(nearest, 0, np.array(lobes.shape) - 1)
    labels[inside] = lobes.array[tuple(nearest.T)]
    known = gaussian_filter((labels > 0).astype(np.float32), 1.5)
    lines: list[NDArray[np.float64]] = []
    for label in np.unique(labels[labels > 0])[:-1]:
        share = gaussian_filter((labels == label).astype(np.float32), 1.5)
        lines += half_way(np.where(known < 0.9, np.nan, share / np.maximum(known, 1e-6)))
    return [line for line in lines if len(line) > 12]  # crumbs of a few pixels say nothing


def surfaces_picture(result: CaseResult, withheld: Callable[[str], bool]) -> Picture | None:
    """Lungs from four sides, coloured by ventilation and by perfusion; None where nothing can be shown."""
    names = [n for n in ("ventilation", "perfusion") if n in result.maps and not withheld(n)]
    mask = soft_mask(result.lungs_exp)
    if mask is None or not names:
        return None
    surfaces = [find_surface(mask, view) for view in VIEWS]
    borders = [[] if withheld("lobes") else lobe_borders(s, result.lobes_exp) for s in surfaces]
    crops = [_crop(s) for s in surfaces]
    spacing = mask.spacing[0]
    pixel = sum(c[1].stop - c[1].start for c in crops) * spacing / 1480
    widths = [int((c[1].stop - c[1].start) * spacing / pixel + 1e-6) for c in crops]
    height = int((crops[0][0].stop - crops[0][0].start) * spacing / pixel + 1e-6)
    gap, top, label, foot = 20, 16, 30, 104
    row_height = height + label + foot
    plate = Plate(sum(widths) + gap * (len(widths) + 1), top + row_height * len(names))
    for row, name in enumerate(names):
        scale = scale_of(result, name)
        x, y = gap, top + row * row_height
        for surface, view, crop, lines, width in zip(surfaces, VIEWS, crops, borders, widths, strict=True):
            paper = plate.canvas[0, 0]
            rgb = _paint(surface, mean_beneath(surface, result.maps[name]), scale.rgb)
            image = [
                resize(paper[c] + (rgb[..., c] - paper[c]) * surface.cover, (spacing, spacing), pixel)
                for c in range(3)
            ]
            large = np.stack(image, axis=-1)
            left, up = crop[1].start * spacing / pixel, crop[0].start * spacing / pixel
            plate.image(x, y + label, large[int(up) : int(up) + height, int(left) : int(left) + width])
            shift = np.array([left, up])
            plate.lines(x, y + label, [(line + 0.5) * spacing / pixel - shift for line in lines], width=1.1)
            plate.text(x + width / 2, y + 10, view.name, size=15, ha="center")
            x += width + gap
        bar = 380
        plate.text(plate.size[0] / 2 - bar / 2 - 16, y + label + height + 30, MAPS[name].title, size=18,
                   bold=True, ha="right")  # fmt: skip
        plate.bar(plate.size[0] // 2 - bar // 2, y + label + height + 24, bar, scale)
    alt = (
        f"The lungs from the front, the back, the right and the left, coloured by {' and by '.join(names)} "
        f"in the first {DEPTH_MM:.0f} mm under the surface, lobe borders as lines."
    )
    return Picture("surfaces", "png", plate.png(), plate.size, alt)


def _crop(surface: Surface) -> tuple[slice, slice]:
    """The part of a view that holds the lungs in its columns; rows are the same in all views."""
    columns = np.flatnonzero((surface.cover > 0).any(axis=0))
    rows = np.flatnonzero((surface.cover > 0).any(axis=1))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _paint(
    surface: Surface, values: NDArray[np.float32], colours: Callable[[np.ndarray], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Light times colour; grey where the map is undefined."""
    rgb = np.where(np.isfinite(values)[..., None], colours(values), np.float32(0.5))
    rgb = np.clip(rgb * surface.light[..., None], 0, 1).astype(np.float32)
    # The soft edge reaches beyond the last hit: it takes that colour on.
    beside = ~np.isfinite(surface.points[..., 0])
    rows, columns = distance_transform_edt(beside, return_distances=False, return_indices=True)
    return rgb[rows, columns]
