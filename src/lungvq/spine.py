"""What the spine says of two scans: breathing neither stretches nor parts it, as a wrong step or lost slices do.

A step between slices that one file states wrongly, or slices that it lacks, change volumes and all that is measured
with them, and nothing within the lungs tells that from breathing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from lungvq.findings import Finding, Severity, passed, warn
from lungvq.volume import Volume, grid_around

__all__ = ["SpineMatch", "compare_spines", "spine_findings"]

_VOXEL_MM = 3.0
_BONE_HU = 50.0, 300.0  # below is muscle, alike all along; above it may be metal, or contrast medium
_COLUMN_MM = 20.0  # Gaussian within slices by which a column of bone stands out from ribs
_ALIKE_MM = (
    20.0  # Gaussian along the spine of what is alike there, as vessels with contrast medium, and is left out
)
_OFF_MIDDLE_MM = 70.0  # of all bone, which the spine's may be
_HALF_MM = 54.0, 45.0  # of the box that is compared, backwards and sidewards
_SIDE_MM = 15.0  # by which a slab may lie off its place within the box
_SLAB_MM = 24.0  # about a vertebra
_EVERY_MM = 12.0
_STRETCHES = np.concatenate([np.arange(-0.5, 0.5, 0.01), np.arange(0.5, 1.01, 0.02)]).round(2)
_WIDTHS = np.arange(0.75, 1.36, 0.05).round(2)
_LEAST_SLABS = 8
_LEAST_SIDE = 5  # slabs above and below where a spine is parted
_LEAST_OVERLAP = 0.6  # of the slabs of the shorter one
_LEAST_CONTRAST_HU = 15.0  # SD within a slab
_LARGEST_JUMP_MM = 45.0
_AS_GOOD = 0.02  # in correlation: vertebrae are alike, and of jumps that fit as well the smallest is meant

LEAST_LIKENESS = 0.4
"""Two scans of one person reach 0.42 where one is turned by 10 degrees, 0.6 and more by less; phantoms of 3 mm 0.55
and more; three pairs of strangers 0.19 to 0.38."""

LEAST_GAIN = 0.08
"""In correlation, by which a stretch or a jump must explain the spine better than none."""

SURE_LIKENESS = 0.65
"""Below it a jump is a warning at most: of a spine that is turned far a vertebra is taken for the next."""

STRETCH_PCT = 6.0, 12.0
JUMP_MM = 6.0, 20.0
WIDTH_PCT, WIDTH_GAIN = (14.0, 24.0), 0.1  # phantoms' spines grow wider by up to a tenth with the chest
_ALL = ("all",)
_OR_STRANGERS = ", and check that both are of one patient: volumes and all maps are wrong otherwise."


@dataclass(frozen=True)
class SpineMatch:
    """How the spine of one scan lies on that of another.

    Parameters
    ----------
    likeness : float
        Mean correlation of slabs of the one with the other where the best shift and stretch bring them.
    likeness_straight : float
        The same without stretch.
    stretch_pct : float
        How much taller the other spine is.
    likeness_parted : float
        The same without stretch, with a shift of its own above and below one height.
    jump_mm, jump_at_mm : float
        By how much the other is longer there, and that height on the one, z in LPS mm.
    width_pct, width_gain : float
        How much wider the other spine is, and by how much the correlation rises with it.
    """

    likeness: float
    likeness_straight: float
    stretch_pct: float
    likeness_parted: float
    jump_mm: float
    jump_at_mm: float
    width_pct: float
    width_gain: float


def compare_spines(one: Volume, other: Volume) -> SpineMatch | None:
    """Find the spine of one scan on another, slab by slab.

    Parameters
    ----------
    one, other : Volume
        HU, any spacing and orientation.

    Returns
    -------
    SpineMatch or None
        None where a scan shows too little of a spine.
    """
    (here, bottom_mm), (there, _) = _bone_column(one, 0.0), _bone_column(other, _SIDE_MM)
    thick, every = round(_SLAB_MM / _VOXEL_MM), round(_EVERY_MM / _VOXEL_MM)
    starts = np.arange(0, len(here) - thick + 1, every)
    starts = starts[[here[k : k + thick].std() >= _LEAST_CONTRAST_HU for k in starts]]
    if len(starts) < _LEAST_SLABS or len(there) < thick + _LEAST_SLABS * every:
        return None
    found, place = _correlation(here, there, starts, thick)
    straight, z = _best_shift(found, starts, 0.0)
    likeness, heights, stretch = max(
        ((*_best_shift(found, starts, stretch), stretch) for stretch in _STRETCHES), key=lambda x: x[0]
    )
    overlap = int(((z >= 0) & (z <= found.shape[1] - 1)).sum())
    parted, jump, above = _best_jump(found, starts, straight, overlap)
    widths = _by_width(here, there, starts, heights, place, thick)
    widest = int(np.argmax(widths))
    return SpineMatch(
        likeness=likeness,
        likeness_straight=straight,
        stretch_pct=100 * float(stretch),
        likeness_parted=parted,
        jump_mm=jump * _VOXEL_MM,
        jump_at_mm=bottom_mm + float(above) * _VOXEL_MM,
        width_pct=100 * (float(_WIDTHS[widest]) - 1),
        width_gain=float(widths[widest] - widths[_WIDTHS == 1][0]),
    )


def _bone_column(ct: Volume, margin_mm: float) -> tuple[NDArray[np.float32], float]:
    """Bone in a box round the spine, (K, J, I) of 3 mm along the body axes, and the height of its first slice."""
    grid = grid_around(ct.grid.corners(), _VOXEL_MM)
    low, high = _BONE_HU
    bone = np.clip(ct.resample(grid, fill=low).array, low, high) - np.float32(low)
    seen = bone.sum(axis=0, dtype=np.float64)
    middle = ndimage.center_of_mass(seen) if seen.any() else [n / 2 for n in seen.shape]
    column = ndimage.gaussian_filter(seen, _COLUMN_MM / _VOXEL_MM)
    column[: int(middle[0])] = -1  # the spine is behind the middle of all bone
    column[:, np.abs(np.arange(seen.shape[1]) - middle[1]) * _VOXEL_MM > _OFF_MIDDLE_MM] = -1
    j, i = np.unravel_index(int(column.argmax()), column.shape)
    half = [round((h + margin_mm) / _VOXEL_MM) for h in _HALF_MM]
    bone = np.pad(bone, ((0, 0), (half[0], half[0]), (half[1], half[1])))
    box = bone[:, j : j + 2 * half[0] + 1, i : i + 2 * half[1] + 1]
    box = box - ndimage.gaussian_filter1d(box, _ALIKE_MM / _VOXEL_MM, axis=0)
    return np.ascontiguousarray(box), float(grid.affine[2, 3])


def _correlation(
    here: NDArray[np.float32], there: NDArray[np.float32], starts: NDArray[np.int64], thick: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Correlation of each slab (rows) with each height of the other box (columns), the best within its reach.

    Returns
    -------
    correlation : ndarray of float64
    place : ndarray of int64
        Where that is, ``row * columns + column``.
    """
    shape = [fft.next_fast_len(n, real=True) for n in (len(there) + thick, *there.shape[1:])]
    count = thick * here.shape[1] * here.shape[2]
    theirs, squared = fft.rfftn(there, shape), fft.rfftn(there * there, shape)
    ones = np.conj(fft.rfftn(np.ones((thick, *here.shape[1:]), np.float32), shape))
    sums, squares = (fft.irfftn(x * ones, shape) for x in (theirs, squared))
    spread = np.sqrt(np.maximum(squares - sums**2 / count, count))  # at least 1 HU
    heights, rows, columns = (n - m + 1 for n, m in zip(there.shape, (thick, *here.shape[1:]), strict=True))
    best = []
    for k in starts:
        slab = here[k : k + thick] - here[k : k + thick].mean()
        products = fft.irfftn(theirs * np.conj(fft.rfftn(slab, shape)), shape) / spread
        best.append(products[:heights, :rows, :columns].reshape(heights, -1) / np.linalg.norm(slab))
    return np.array([b.max(axis=1) for b in best], float), np.array([b.argmax(axis=1) for b in best])


def _shifted(
    found: NDArray[np.float64], starts: NDArray[np.int64], stretch: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation of each slab at each shift of a stretched spine, NaN beyond the other box; and the heights."""
    room = found.shape[1]
    shifts = np.arange(-int(starts[-1]) - 1, room)
    middle = starts.mean()
    z = middle + (1 + stretch) * (starts[:, None] - middle) + shifts
    below = np.clip(np.floor(z).astype(int), 0, room - 2)
    part = z - below
    slabs = np.arange(len(found))[:, None]
    value = found[slabs, below] * (1 - part) + found[slabs, below + 1] * part
    return np.where((z >= 0) & (z <= room - 1), value, np.nan), z


def _best_shift(
    found: NDArray[np.float64], starts: NDArray[np.int64], stretch: float
) -> tuple[float, NDArray[np.float64]]:
    """The highest mean correlation of a stretched spine, and the heights of its slabs there."""
    value, z = _shifted(found, starts, stretch)
    seen = np.isfinite(value).sum(axis=0)
    mean = np.where(seen >= _needed(found), np.nansum(value, axis=0) / np.maximum(seen, 1), -1)
    top = int(mean.argmax())
    return float(mean[top]), z[:, top]


def _best_jump(
    found: NDArray[np.float64], starts: NDArray[np.int64], straight: float, overlap: int
) -> tuple[float, float, float]:
    """What a spine parted at one height can do at best: mean correlation, voxels longer, and that height.

    `straight` is the mean correlation of the `overlap` slabs that both show without a jump. Slabs that a jump pushes
    beyond the other scan count as that, or it would be better for leaving out what fits badly.
    """
    value, _ = _shifted(found, starts, 0.0)
    seen = np.isfinite(value)
    # Sums over all slabs below each one, and of all.
    sums = np.pad(np.where(seen, value, 0).cumsum(axis=0), ((1, 0), (0, 0)))
    counts = np.pad(seen.cumsum(axis=0), ((1, 0), (0, 0)))
    needed = _needed(found)
    tried: list[tuple[float, float, float]] = [(-1.0, 0.0, float(starts[0]))]
    reach = int(_LARGEST_JUMP_MM / _VOXEL_MM)
    for above in range(_LEAST_SIDE, len(starts) - _LEAST_SIDE + 1):
        for jump in range(-reach, reach + 1):
            low = slice(max(0, -jump), value.shape[1] - max(0, jump))
            high = slice(max(0, jump), value.shape[1] - max(0, -jump))
            n_low, n_high = counts[above, low], counts[-1, high] - counts[above, high]
            total = sums[above, low] + sums[-1, high] - sums[above, high]
            ok = (n_low >= _LEAST_SIDE) & (n_high >= _LEAST_SIDE) & (n_low + n_high >= needed)
            if ok.any():
                shown = (n_low + n_high)[ok]
                beyond = np.maximum(overlap - shown, 0)
                mean = float(((total[ok] + beyond * straight) / (shown + beyond)).max())
                tried.append((mean, float(jump), float(starts[above])))
    best = max(mean for mean, _, _ in tried)
    good = [t for t in tried if t[0] >= best - _AS_GOOD]
    smallest = min(abs(jump) for _, jump, _ in good)
    return max(t for t in good if abs(t[1]) == smallest)


def _needed(found: NDArray[np.float64]) -> float:
    """How many slabs must lie on the other spine."""
    return _LEAST_OVERLAP * min(len(found), found.shape[1] * _VOXEL_MM / _EVERY_MM)


def _by_width(
    here: NDArray[np.float32],
    there: NDArray[np.float32],
    starts: NDArray[np.int64],
    heights: NDArray[np.float64],
    place: NDArray[np.int64],
    thick: int,
) -> NDArray[np.float64]:
    """Mean correlation of slabs with where they were found, made wider or narrower, for each of `_WIDTHS`."""
    rows, columns = (there.shape[a] - here.shape[a] + 1 for a in (1, 2))
    z = np.rint(heights).astype(int)
    pairs = []
    for k, height, at in zip(starts, z, place, strict=True):
        if 0 <= height < len(at):
            j, i = divmod(int(at[height]), columns)
            boxes = [
                there[height : height + thick, v : v + here.shape[1], w : w + here.shape[2]]
                for v in range(max(0, j - 2), min(rows, j + 3))
                for w in range(max(0, i - 2), min(columns, i + 3))
            ]
            pairs.append((k, np.stack([_normalised(box).ravel() for box in boxes])))
    middle = [(n - 1) / 2 for n in here.shape[1:]]
    means = []
    for width in _WIDTHS:
        scale = [1, 1 / width, 1 / width]
        wide = ndimage.affine_transform(here, scale, [0, *(m - m / width for m in middle)], order=1)
        means.append(
            np.mean([(boxes @ _normalised(wide[k : k + thick]).ravel()).max() for k, boxes in pairs])
        )
    return np.array(means)


def _normalised(box: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of mean 0 and length 1."""
    centred = box - box.mean()
    unit: NDArray[np.float32] = centred / max(float(np.linalg.norm(centred)), 1e-6)
    return unit


def spine_findings(match: SpineMatch | None) -> tuple[Finding, ...]:
    """What follows for the geometry of the two scans; nothing where too little of a spine is seen.

    Parameters
    ----------
    match : SpineMatch or None
        Of the expiration scan (the one) with the inspiration scan (the other).
    """
    if match is None:
        return ()
    likeness = max(match.likeness, match.likeness_parted) + match.width_gain
    if likeness < LEAST_LIKENESS:
        return (
            warn(
                "SPINES_UNLIKE",
                f"The spine of one scan is not found in the other: it correlates by {likeness:.2f} at best.",
                value=likeness,
                limit=LEAST_LIKENESS,
                advice="Check that both scans are of one patient, and the voxel sizes their files state.",
                touches=_ALL,
            ),
        )
    return _step(match), _gap(match), _pixels(match)


def _is_parted(m: SpineMatch) -> bool:
    return m.likeness_parted >= m.likeness + LEAST_GAIN


def _graded(
    code: str, value: float, limits: tuple[float, float], unit: str, told: str, advice: str
) -> Finding:
    severity = Severity.FAIL if abs(value) >= limits[1] else Severity.WARN
    limit = limits[severity is Severity.FAIL]
    return Finding(code, severity, told, value, limit, unit, advice, _ALL)


def _step(m: SpineMatch) -> Finding:
    """Whether the spine is as tall in both."""
    sure = m.likeness - m.likeness_straight >= LEAST_GAIN and not _is_parted(m)
    if not sure or abs(m.stretch_pct) < STRETCH_PCT[0]:
        value = m.stretch_pct if sure else 0.0
        told = (
            "The spine is as tall in one scan as in the other, to 6 %: the steps between their slices agree."
        )
        return passed("SLICE_STEP", told, value=value, limit=STRETCH_PCT[0], unit="%")
    relation = "taller" if m.stretch_pct > 0 else "shorter"
    return _graded(
        "SLICE_STEP",
        m.stretch_pct,
        STRETCH_PCT,
        "%",
        f"The spine is {abs(m.stretch_pct):.0f} % {relation} in the inspiration scan than in the expiration scan: the"
        " step between slices is wrong in one of them.",
        f"Compare the slice spacing of both files with the scanner's{_OR_STRANGERS}",
    )


def _gap(m: SpineMatch) -> Finding:
    """Whether slices are missing from one of them."""
    if not _is_parted(m) or abs(m.jump_mm) < JUMP_MM[0]:
        told = "The spine is whole in both scans: no slices are missing from one of them."
        return passed("SLICES_MISSING", told, value=0.0, limit=JUMP_MM[0], unit="mm")
    sure = m.likeness_parted >= SURE_LIKENESS
    return _graded(
        "SLICES_MISSING",
        m.jump_mm,
        JUMP_MM if sure else (JUMP_MM[0], np.inf),
        "mm",
        f"The spine is parted in one of the scans, by about {abs(m.jump_mm):.0f} mm near z = {m.jump_at_mm:.0f} mm of"
        " the expiration scan: slices are missing there, or are there twice.",
        "Check that the series is whole and that the patient did not move during the scan.",
    )


def _pixels(m: SpineMatch) -> Finding:
    """Whether the spine is as wide in both."""
    if m.width_gain < WIDTH_GAIN or abs(m.width_pct) < WIDTH_PCT[0]:
        told = "The spine is as wide in one scan as in the other, to 15 %: their pixel sizes agree."
        value = m.width_pct if m.width_gain >= WIDTH_GAIN else 0.0
        return passed("PIXEL_SIZE", told, value=value, limit=15.0, unit="%")
    relation = "wider" if m.width_pct > 0 else "narrower"
    return _graded(
        "PIXEL_SIZE",
        m.width_pct,
        WIDTH_PCT,
        "%",
        f"The spine is {abs(m.width_pct):.0f} % {relation} in the inspiration scan than in the expiration scan: the"
        " pixel size is wrong in one of them.",
        f"Compare the pixel spacing of both files with the scanner's{_OR_STRANGERS}",
    )
