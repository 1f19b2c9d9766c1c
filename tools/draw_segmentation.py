"""Draw the pictures of docs/anatomy.md: what the segmentation finds, on phantoms and on a real scan.

    python tools/draw_segmentation.py                    # phantoms: docs/images/segmentation.png
    python tools/draw_segmentation.py --scan FOLDER -o docs/images/segmentation-real.png

A row a scan: a coronal, an axial and two sagittal cuts through the middle of both lungs and of each. Outlined are the
lobes found, and filled the airways; where the truth is known, its fissures are dotted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from PIL import Image

from lungvq import io
from lungvq.anatomy import LEFT, LOBES, RIGHT
from lungvq.phantom import make_phantom
from lungvq.segment import segment
from lungvq.segment.lobes import find_lobes
from lungvq.volume import CANONICAL, Volume

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
WINDOW = (-1350.0, 150.0)  # HU
COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#009e73")  # of Okabe and Ito, LUL to RLL
CASES = (("healthy", 11), ("effusion", 12), ("collapsed-lobe", 13))
AIRWAYS = ListedColormap(["#ff3030"])


def cuts(lungs: Volume) -> list[tuple[str, int, int]]:
    """Name, axis and index of the planes of a row."""
    middle = [int(np.mean(np.flatnonzero((lungs.array > 0).any(axis=o)))) for o in ((1, 2), (0, 2))]
    found = [("coronal", 1, middle[1]), ("axial", 0, middle[0])]
    for side, name in ((RIGHT, "right lung"), (LEFT, "left lung")):
        columns = (lungs.array == side).sum(axis=(0, 1))
        if columns.any():
            found.append((name, 2, int(columns.argmax())))
    return found


def draw(axes: plt.Axes, ct: Volume, labels: dict[str, np.ndarray], axis: int, index: int) -> None:
    """One plane, cropped to the lungs with some mm around them."""
    inside = labels["lobes"] > 0
    box = []
    for n in range(3):
        hit = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != n)))
        margin = int(12 / ct.spacing[n])
        box.append(slice(max(hit[0] - margin, 0), hit[-1] + margin))
    box[axis] = index

    def plane(array: np.ndarray) -> np.ndarray:
        cut = array[tuple(box)]
        return cut if axis == 0 else cut[::-1]

    high, wide = (ct.spacing[n] for n in range(3) if n != axis)
    axes.imshow(plane(ct.array), cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], aspect=high / wide)
    for label, colour in zip(LOBES.values(), COLOURS, strict=True):
        axes.contour(plane(labels["lobes"]) == label, [0.5], colors=colour, linewidths=0.8)
        if "truth" in labels:
            axes.contour(
                plane(labels["truth"]) == label, [0.5], colors="white", linewidths=0.4, linestyles="dotted"
            )
    airways = plane(labels["airways"]).astype(float)
    axes.imshow(np.where(airways > 0, 1.0, np.nan), cmap=AIRWAYS, alpha=0.8, aspect=high / wide)
    axes.set_axis_off()


def main() -> None:
    """Parse the command line, segment, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scan", type=Path, help="a real scan instead of the phantoms")
    parser.add_argument("--spacing", type=float, default=1.5, help="voxels of the phantoms, mm")
    parser.add_argument("--output", "-o", type=Path, default=IMAGES / "segmentation.png")
    options = parser.parse_args()
    rows = []
    if options.scan:
        rows.append((options.scan.name, io.read(options.scan).volume.reorient(CANONICAL), None))
    else:
        for case, seed in CASES:
            phantom = make_phantom(case, seed=seed, spacing=options.spacing)
            truth = phantom.truth.lobes_insp.reorient(CANONICAL).array
            rows.append((case, phantom.insp.reorient(CANONICAL), truth))
    figure, grid = plt.subplots(len(rows), 4, figsize=(8.4, 2.2 * len(rows)), squeeze=False)
    for line, (name, ct, truth) in zip(grid, rows, strict=True):
        anatomy = segment(ct)
        labels = {"lobes": find_lobes(ct, anatomy).labels.array, "airways": anatomy.airways.array}
        if truth is not None:
            labels["truth"] = truth
        for axes, (plane, axis, index) in zip(line, cuts(anatomy.lungs), strict=False):
            draw(axes, ct, labels, axis, index)
            axes.set_title(plane if options.scan else f"{name}, {plane}", fontsize=7)
    figure.tight_layout(pad=0.3)
    figure.savefig(options.output, dpi=110, facecolor="white")
    picture = Image.open(options.output).convert("RGB")
    picture.quantize(48, dither=Image.Dither.NONE).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
