"""Whether the side called right looks right: the heart, the diaphragm and the aorta are asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lungvq.anatomy import LEFT, RIGHT
from lungvq.findings import Finding, passed, warn
from lungvq.segment._coarse import coarsen
from lungvq.segment.lungs import find_body
from lungvq.segment.references import track_aorta
from lungvq.volume import Volume

__all__ = ["check_laterality"]

CONTRADICTED = -1.0
WEAK = 0.5


def check_laterality(ct: Volume, lungs: Volume) -> Finding:
    """Ask the organs that are not symmetric whether left is left.

    Each witness gives a number, positive where it agrees with the header, of size 1 where it is clear:
    how far the tissue between the lungs lies left of the midline (per 8 mm; not asked where one lung is
    much smaller, as that draws the heart), how much higher the right dome of the diaphragm is
    (per 15 mm), how much more solid the tissue under the right dome is (liver against stomach and fat; per
    20 %), and over what length a round vessel runs beside the spine on the left
    rather than the right (per 80 mm). The heart counts twice.

    Parameters
    ----------
    ct : Volume
        HU, canonical order.
    lungs : Volume of uint8
        1 left, 2 right.

    Returns
    -------
    Finding
        WARN ``LATERALITY_CONTRADICTED`` if their weighted sum is below -1, ``LATERALITY_UNSURE`` where one lung is
        so small that hardly any witness is left; else PASS ``LATERALITY``, which says so where the evidence is
        weak. Situs inversus looks the same as mirrored data.
    """
    coarse = coarsen(ct, 3.0)
    labels = lungs.resample_labels(coarse.grid).array
    midline = find_body(coarse).midline_mm
    votes: dict[str, float] = {}
    counts = [int((labels == side).sum()) for side in (LEFT, RIGHT)]
    if min(counts) > 0.5 * max(counts):
        votes["heart"] = 2 * _vote(_heart_shift(coarse, labels, midline), 8.0)
    if min(counts) > 0.3 * max(counts):
        votes["diaphragm"] = 0.5 * _vote(_dome_height(coarse, labels), 15.0)
        votes["liver"] = _vote(_solid_below(coarse, labels), 0.2)
    lengths = [_length(track_aorta(coarse, labels, midline, side=side)) for side in (LEFT, RIGHT)]
    votes["aorta"] = _vote(lengths[0] - lengths[1], 80.0)
    total = round(sum(votes.values()), 2)
    said = ", ".join(f"{name} {vote:+.1f}" for name, vote in votes.items())
    if total < CONTRADICTED:
        return warn(
            "LATERALITY_CONTRADICTED",
            f"The anatomy contradicts the stated sides: it looks like a mirrored chest ({said}).",
            value=total,
            limit=CONTRADICTED,
            unit="votes",
            advice="Check whether the image was flipped on the way here; situs inversus looks the same.",
            touches=("left", "right"),
        )
    if max(counts) > 0 and "liver" not in votes and abs(total) <= WEAK:
        return warn(
            "LATERALITY_UNSURE",
            f"One lung is much smaller than the other, and the anatomy does not tell which side is which ({said}).",
            value=total,
            limit=WEAK,
            unit="votes",
            advice="Look whether liver and heart lie on their sides: a mirrored image would pass unseen.",
        )
    strength = "supports" if total > WEAK else "neither supports nor contradicts"
    return passed(
        "LATERALITY",
        f"The anatomy {strength} the stated sides ({said}).",
        value=total,
        limit=CONTRADICTED,
        unit="votes",
    )


def _vote(value: float | None, scale: float) -> float:
    return 0.0 if value is None else float(np.clip(value / scale, -1, 1))


def _length(track: NDArray[np.float64]) -> float:
    return float(np.ptp(track[:, 2])) if len(track) else 0.0


def _heart_shift(coarse: Volume, labels: NDArray[np.uint8], midline_mm: float) -> float | None:
    """mm by which what lies between the lungs is left of the midline, above the diaphragm, below mid-lung."""
    lungs = np.flatnonzero((labels > 0).any(axis=(1, 2)))
    height = lungs[-1] - lungs[0]
    # From above the domes to the middle: where the heart is, and the liver is not.
    part = slice(int(lungs[0] + 0.3 * height), int(lungs[0] + 0.55 * height))
    right, left = labels[part] == RIGHT, labels[part] == LEFT
    between = np.logical_or.accumulate(right, axis=2)
    between &= np.logical_or.accumulate(left[:, :, ::-1], axis=2)[:, :, ::-1]
    between &= labels[part] == 0
    if between.sum() * coarse.voxel_ml < 30:
        return None
    centre = [float(a.mean()) for a in np.nonzero(between)]
    return float(coarse.crop((part, slice(None), slice(None))).grid.world(centre)[0]) - midline_mm


def _bases(labels: NDArray[np.uint8], side: int) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Columns through the middle of one lung, and the slice where each leaves it below."""
    mask = labels == side
    footprint = mask.sum(axis=0)
    columns = footprint > 0.4 * footprint.max()
    return columns, mask.argmax(axis=0)


def _dome_height(coarse: Volume, labels: NDArray[np.uint8]) -> float | None:
    """mm by which the right dome is higher than the left; None where the scan ends within a lung."""
    heights = {}
    for side in (LEFT, RIGHT):
        columns, base = _bases(labels, side)
        if (base[columns] == 0).mean() > 0.3:
            return None
        heights[side] = float(np.percentile(base[columns], 80)) * coarse.spacing[0]
    return heights[RIGHT] - heights[LEFT]


def _solid_below(coarse: Volume, labels: NDArray[np.uint8]) -> float | None:
    """Share of solid tissue (0 to 120 HU) 10 to 35 mm under the right lung less that under the left."""
    shares = {}
    for side in (LEFT, RIGHT):
        columns, base = _bases(labels, side)
        depth = [round(mm / coarse.spacing[0]) for mm in (10, 35)]
        j, i = np.nonzero(columns & (base >= depth[1]))
        if len(j) * coarse.spacing[1] * coarse.spacing[2] < 500:
            return None
        below = np.stack([coarse.array[base[j, i] - d, j, i] for d in range(depth[0], depth[1] + 1)])
        shares[side] = float(((below > 0) & (below < 120)).mean())
    return shares[RIGHT] - shares[LEFT]
