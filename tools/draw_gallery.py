"""Draw the pictures of docs/gallery.md: one for each case of the phantom.

    python tools/draw_gallery.py [CASE ...] [--seed N] [--spacing MM] [-o FOLDER]

Each picture is a coronal and an axial cut of the inspiratory scan, of the expiratory scan, and of the true
ventilation and perfusion at expiration, with diseased lung outlined. The cuts go through as much of the disease
as they can; those of inspiration follow the tissue. The pictures in docs/images/gallery are those of the defaults.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion, gaussian_filter

from lungvq.anatomy import LOBES
from lungvq.phantom import CASES, Phantom, make_phantom
from lungvq.volume import Volume

GALLERY = Path(__file__).resolve().parents[1] / "docs" / "images" / "gallery"
WINDOW = (-1350.0, 150.0)  # HU
MAPS = {"V": ("ventilation", "viridis"), "Q": ("perfusion", "inferno")}  # from 0 to twice the mean
PANEL_PX, GAP_PX, TITLE_PX = 178, 2, 16
AROUND_MM = 20.0
OUTLINED_MM = 3.0  # sd: holes and lobules of one lesion become one outline
OUTLINE = (0, 229, 255)
MAX_BYTES = 60_000
# Greys, of which each map has half as many colours: tried in turn until the file is small enough.
LEVELS = (64, 48, 32, 24, 20, 16)


def planes(phantom: Phantom) -> tuple[float, float]:
    """y of the coronal cut and z of the axial one, at expiration: most disease, or the trachea and most lung.

    Fluid and a lobe without air lie at the back.
    """
    lobes, disease = phantom.truth.lobes_exp, phantom.truth.disease.array
    shown = disease > 0 if disease.any() else lobes.array > 0
    k, j = (np.argmax(gaussian_filter(shown.sum(axis=other).astype(float), 2)) for other in ((1, 2), (0, 2)))
    at = lobes.grid.world((k, j, 0))
    y = at[1] if disease.any() else phantom.subject.trees.airways.ends[0, 1, 1]
    if phantom.settings.fluid or phantom.settings.collapsed in LOBES:
        y = np.percentile(lobes.grid.world(np.argwhere(lobes.array > 0))[:, 1], 80)
    return float(y), float(at[2])


def follow(phantom: Phantom, y: float, z: float) -> tuple[float, float]:
    """Where the lung in these planes is at inspiration, on average."""
    lobes = phantom.truth.lobes_exp
    points = lobes.grid.world(np.argwhere(lobes.array > 0))
    moves = []
    for axis, mm in ((1, y), (2, z)):
        near = points[np.abs(points[:, axis] - mm) < 5]
        moves.append(float((phantom.phi(near) - near)[:, axis].mean()))
    return y + moves[0], z + moves[1]


def frame(phantom: Phantom) -> tuple[np.ndarray, np.ndarray]:
    """Corners, LPS mm, around both lungs at both breath-holds, as wide to the left as to the right."""
    corners = []
    for lobes in (phantom.truth.lobes_exp, phantom.truth.lobes_insp):
        at = lobes.grid.world(np.argwhere(lobes.array > 0))
        corners += [at.min(axis=0), at.max(axis=0)]
    low, high = np.min(corners, axis=0) - AROUND_MM, np.max(corners, axis=0) + AROUND_MM
    high[0] = max(high[0], -low[0])
    low[0] = -high[0]
    return low, high


def cut(volume: Volume, axis: int, mm: float, low: np.ndarray, high: np.ndarray, step: float) -> np.ndarray:
    """Values in the plane at `mm` of LPS axis 1 (coronal, head up) or 2 (axial, front up), right side first."""
    x = np.arange(low[0], high[0], step)[:PANEL_PX]
    rows = np.arange(high[2], low[2], -step) if axis == 1 else np.arange(low[1], high[1], step)
    points = np.empty((len(rows), len(x), 3))
    points[..., 0], points[..., axis], points[..., 3 - axis] = x, mm, rows[:, None]
    outside = WINDOW[0] if volume.array.dtype == np.int16 else 0.0  # beyond a scan it is black, air is grey
    return volume.sample(points.reshape(-1, 3), fill=outside).reshape(points.shape[:2])


def column(phantom: Phantom, name: str, y: float, z: float) -> list[np.ndarray]:
    """RGB pictures, coronal and axial, of one of: insp, exp, V, Q."""
    low, high = frame(phantom)
    step = (high[0] - low[0]) / PANEL_PX
    truth, pictures = phantom.truth, []
    if name == "insp":
        y, z = follow(phantom, y, z)
    for axis, mm in ((1, y), (2, z)):

        def here(volume: Volume, axis: int = axis, mm: float = mm) -> np.ndarray:
            return cut(volume, axis, mm, low, high, step)

        if name in MAPS:
            field, table = MAPS[name]
            volume = getattr(truth, field)
            known = volume.like(np.isfinite(volume.array).astype(np.float32))
            filled = volume.like(np.nan_to_num(volume.array))
            mean = np.nanmean(volume.array, dtype=float)
            weight = here(known)
            value = here(filled) / np.maximum(weight, 0.01) / (2 * mean)
            rgb = 255 * colormaps[table](np.clip(value, 0, 1))[..., :3]
            rgb[weight < 0.5] = 0
            ill = truth.disease.array > 0
            if ill.any():
                soft = gaussian_filter(ill.astype(np.float32), np.divide(OUTLINED_MM, truth.disease.spacing))
                inside = (here(truth.disease.like(soft)) > 0.4) & (weight >= 0.5)
                rgb[inside & ~binary_erosion(inside)] = OUTLINE
        else:
            hu = here(getattr(phantom, name))
            grey = 255 * np.clip((hu - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1)
            rgb = np.repeat(grey[..., None], 3, axis=-1)
        pictures.append(np.rint(rgb).astype(np.uint8))
    return pictures


def draw(phantom: Phantom) -> Image.Image:
    """The picture of one phantom."""
    y, z = planes(phantom)
    titles = {"insp": "inspiration", "exp": "expiration", "V": "true ventilation", "Q": "true perfusion"}
    columns = {name: column(phantom, name, y, z) for name in titles}
    heights = [len(picture) for picture in columns["insp"]]
    width = len(titles) * (PANEL_PX + GAP_PX) - GAP_PX
    sheet = Image.new("RGB", (width, TITLE_PX + sum(heights) + GAP_PX), "white")
    pen = ImageDraw.Draw(sheet)
    for n, (name, pictures) in enumerate(columns.items()):
        x = n * (PANEL_PX + GAP_PX)
        pen.text((x + PANEL_PX / 2, 1), titles[name], "black", ImageFont.load_default(12), anchor="ma")
        sheet.paste(Image.fromarray(pictures[0]), (x, TITLE_PX))
        sheet.paste(Image.fromarray(pictures[1]), (x, TITLE_PX + heights[0] + GAP_PX))
    return sheet


def palette(levels: int) -> Image.Image:
    """So many greys, half as many colours of each map, and the outline."""
    ramp = np.linspace(0, 1, levels)
    tables = [colormaps[name](ramp)[:, :3] for name in ("gray", *(table for _, table in MAPS.values()))]
    colours = np.concatenate([255 * tables[0], *(255 * table[::2] for table in tables[1:]), [OUTLINE]])
    image = Image.new("P", (1, 1))
    image.putpalette(np.rint(colours).astype(np.uint8).tobytes())
    return image


def save(sheet: Image.Image, path: Path) -> int:
    """Write a small PNG; its size in bytes."""
    data = b""
    for levels in LEVELS:
        out = io.BytesIO()
        sheet.quantize(palette=palette(levels), dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        data = out.getvalue()
        if len(data) <= MAX_BYTES:
            break
    path.write_bytes(data)
    return len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all without any")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spacing", type=float, default=3.0, help="mm")
    parser.add_argument("-o", "--output", type=Path, default=GALLERY)
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"there is no case called {', '.join(sorted(unknown))}")
    args.output.mkdir(parents=True, exist_ok=True)
    for case in args.cases or CASES:
        sheet = draw(make_phantom(case, seed=args.seed, spacing=args.spacing))
        size = save(sheet, args.output / f"{case}.png")
        print(f"{case}: {sheet.width} x {sheet.height}, {size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
