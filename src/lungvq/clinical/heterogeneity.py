"""How unevenly a map is spread over the lung, in numbers without unit.

Smoothing lowers every one of them and voxel noise raises it: they compare only at one scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.ndimage import find_objects, uniform_filter
from scipy.spatial import cKDTree

from lungvq.regional import Neighbourhoods, carry
from lungvq.volume import Volume

__all__ = [
    "CELL_MM",
    "FWHM",
    "PIECES_MM",
    "SCALES_MM",
    "CellSummary",
    "between_share",
    "cell_summary",
    "cubes_of",
    "cv",
    "cv_beyond_error",
    "fractal_dimension",
    "gini",
    "iqr_over_mean",
    "local_cv",
    "skewness",
    "smoothed",
    "voronoi_cells",
]

SCALES_MM: tuple[int, ...] = (5, 10, 15, 20)
"""Full widths at half maximum of the Gaussians over which the CV is followed."""

FWHM = float(2 * np.sqrt(2 * np.log(2)))
"""Of a Gaussian, in sigma."""

PIECES_MM: tuple[float, ...] = (12.0, 17.0, 24.0, 34.0)
"""Sides of the cubes over which the fractal dimension is fitted: each holds nearly three times the one before."""

CELL_MM = 20.0
"""Cells of a lung hold about a cube of this side, 8 mL."""

_LEAST_PIECE = 0.5  # of a cube: smaller pieces of lung are not counted
_LEAST_PIECES = 10
_LLOYD_STEPS = 5
_LEAST_CUBE = 0.25  # a cube must lie in the lung by that much, or its CV is not taken


def cv(values: np.ndarray) -> float:
    """Coefficient of variation, SD over mean; NaN without a positive mean.

    Examples
    --------
    >>> round(cv(np.array([1.0, 3.0])), 3)
    0.5
    """
    mean = float(values.mean(dtype=np.float64)) if values.size else 0.0
    return float(values.std(dtype=np.float64) / mean) if mean > 0 else float("nan")


def iqr_over_mean(values: np.ndarray) -> float:
    """Heterogeneity H, interquartile range over mean; NaN without a positive mean.

    Examples
    --------
    >>> iqr_over_mean(np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    1.0
    """
    mean = float(values.mean(dtype=np.float64)) if values.size else 0.0
    if mean <= 0:
        return float("nan")
    low, high = np.percentile(values, (25, 75))
    return float((high - low) / mean)


def skewness(values: np.ndarray) -> float:
    """Third standardised moment, corrected for sample size; NaN for fewer than three values or none that differ.

    0: symmetric. Positive: a tail of high values.

    Examples
    --------
    >>> round(skewness(np.array([0.0, 0.0, 3.0])), 4), round(skewness(np.array([0.0, 0.0, 0.0, 4.0])), 4)
    (1.7321, 2.0)
    """
    n = values.size
    if n < 3:
        return float("nan")
    centred = values - values.mean(dtype=np.float64)
    squares = centred * centred
    variance = float(squares.mean(dtype=np.float64))
    if variance <= 0:
        return float("nan")
    third = float((squares * centred).mean(dtype=np.float64))
    return float(np.sqrt(n * (n - 1)) / (n - 2) * third / variance**1.5)


def gini(values: np.ndarray) -> float:
    """Gini coefficient, half the mean absolute difference of two voxels over the mean; NaN without a positive mean.

    0: the same everywhere. 1: all in one voxel. With negative values it can exceed 1.

    Notes
    -----
    ``sum((2 i - n - 1) x_i) / (n sum x)`` over values in ascending order, i from 1.

    Examples
    --------
    >>> gini(np.array([1.0, 1.0, 1.0])), gini(np.array([3.0, 1.0])), gini(np.array([0.0, 0.0, 0.0, 1.0]))
    (0.0, 0.25, 0.75)
    """
    n = values.size
    total = float(values.sum(dtype=np.float64))
    if n == 0 or total <= 0:
        return float("nan")
    rank = np.arange(1 - n, n, 2, dtype=np.float64)
    return float((rank * np.sort(values)).sum()) / (n * total)


def cv_beyond_error(values: np.ndarray, standard_error: np.ndarray) -> float:
    """CV less what the values' own errors add to it; 0 where they explain all of it.

    Parameters
    ----------
    values, standard_error : ndarray of the same shape
        Voxels whose error is not known are left out.

    Notes
    -----
    ``sqrt(SD^2 - mean(SE^2)) / mean``. A standard error holds parts that whole regions share and that add
    nothing to the spread within them, so this errs on the low side.

    Examples
    --------
    >>> round(cv_beyond_error(np.array([1.0, 3.0]), np.array([0.6, 0.6])), 3)
    0.4
    """
    known = np.isfinite(standard_error)
    values, errors = values[known], standard_error[known]
    mean = float(values.mean(dtype=np.float64)) if values.size else 0.0
    if mean <= 0:
        return float("nan")
    beyond = float(values.var(dtype=np.float64)) - float(np.square(errors).mean(dtype=np.float64))
    return float(np.sqrt(max(beyond, 0.0)) / mean)


def between_share(values: np.ndarray, groups: np.ndarray) -> float:
    """Share of the variance, in %, that lies between groups of voxels; the rest lies within them.

    Parameters
    ----------
    values : ndarray, shape (N,)
    groups : ndarray of int, shape (N,)
        Label of each voxel's group, such as its lobe; 0 belongs to none and is left out.

    Returns
    -------
    float
        0: the groups' means are equal. 100: all voxels of a group are equal. NaN: no variance, or one group.

    Notes
    -----
    Sum of squares between groups over the total (eta squared of a one-way analysis of variance).

    Examples
    --------
    >>> between_share(np.array([1.0, 3.0, 5.0, 7.0]), np.array([1, 1, 2, 2]))
    80.0
    """
    known = groups > 0
    values, groups = values[known].astype(np.float64), groups[known]
    counts = np.bincount(groups)
    if np.count_nonzero(counts) < 2:
        return float("nan")
    values = values - values.mean()
    total = float(np.square(values).sum())
    sums = np.bincount(groups, values)
    between = float(np.sum(sums**2 / np.maximum(counts, 1)))
    return 100 * between / total if total > 0 else float("nan")


def local_cv(values: np.ndarray, lungs: Volume, side_mm: float = 20.0) -> np.ndarray:
    """CV within a cube about each voxel, within its lung.

    Parameters
    ----------
    values : ndarray, shape of `lungs`
        NaN where not defined: such voxels are left out of every cube.
    lungs : Volume
        1 left, 2 right.
    side_mm : float
        Of the cube; the nearest odd number of voxels.

    Returns
    -------
    ndarray of float32
        NaN outside the lungs, where the map is not defined, where less than a quarter of the cube is lung, and
        where the mean is not positive.

    References
    ----------
    .. [1] Norberg P et al (2014). EJNMMI Res 4:39: cubes of 2 cm.

    Examples
    --------
    Stripes of 1 and 3, three voxels per cube: about the middle 3, 1, 3 with mean 7/3.

    >>> lungs = Volume(np.ones((1, 1, 5), np.uint8), np.diag([10.0, 10.0, 10.0, 1.0]))
    >>> local_cv(np.array([[[1.0, 3.0, 1.0, 3.0, 1.0]]]), lungs, side_mm=30)[0, 0, 1:4].round(3)
    array([0.566, 0.404, 0.566], dtype=float32)
    """
    size = [2 * max(round((side_mm / s - 1) / 2), 0) + 1 for s in lungs.spacing]
    size = [1 if n == 1 else w for n, w in zip(lungs.shape, size, strict=True)]
    out = np.full(lungs.shape, np.nan, np.float32)
    for label, box in enumerate(find_objects(lungs.array), start=1):
        if box is None:
            continue
        own = values[box]
        mask = (lungs.array[box] == label) & np.isfinite(own)
        if not mask.any():
            continue
        mean = float(own[mask].mean(dtype=np.float64))
        centred = np.where(mask, own - mean, 0).astype(np.float64)

        def around(array: np.ndarray) -> np.ndarray:
            return uniform_filter(array, size, mode="constant")

        weight = around(mask.astype(np.float64))
        enough = mask & (weight >= _LEAST_CUBE)
        first, second = (around(a)[enough] / weight[enough] for a in (centred, centred * centred))
        level = first + mean
        spread = np.sqrt(np.maximum(second - first**2, 0))
        out[box][enough] = np.divide(spread, level, out=np.full_like(level, np.nan), where=level > 0)
    return out


def smoothed(values: np.ndarray, lungs: Volume, fwhm_mm: float) -> np.ndarray:
    """A map averaged over a Gaussian within each lung, over defined voxels; NaN where it was not defined.

    Examples
    --------
    >>> lungs = Volume(np.ones((8, 8, 8), np.uint8), np.diag([3.0, 3.0, 3.0, 1.0]))
    >>> bool(np.allclose(smoothed(np.full(lungs.shape, 2.0), lungs, 10), 2))
    True
    """
    known = np.isfinite(values)
    mean = carry(Neighbourhoods(lungs, fwhm_mm / FWHM, known.astype(np.float32)).mean(values), lungs)
    return np.where(known, mean, np.float32(np.nan))


def cubes_of(points: np.ndarray, parts: np.ndarray, side_mm: float) -> np.ndarray:
    """Which cube each voxel lies in, the first from the corner of all voxels; cubes end where parts do.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        mm.
    parts : ndarray of uint8, shape (N,)
        The lung of each voxel.
    side_mm : float

    Examples
    --------
    >>> points = np.array([[0.0, 0, 0], [0, 0, 9], [0, 0, 10], [0, 0, 10]])
    >>> cubes_of(points, np.array([1, 1, 1, 2], np.uint8), 10.0).tolist()
    [2, 2, 3, 5]
    """
    where = np.floor((points - points.min(axis=0) + 1e-6) / side_mm).astype(np.int32)
    axes = [parts, *where.T]
    return np.ravel_multi_index(axes, [int(own.max()) + 1 for own in axes])


def fractal_dimension(values: np.ndarray, pieces: Mapping[float, np.ndarray], voxel_ml: float) -> float:
    """How the unevenness between pieces of lung falls as the pieces grow.

    Parameters
    ----------
    values : ndarray, shape (N,)
        All defined.
    pieces : dict of float to ndarray of int, shape (N,)
        Of each side in mm, the cube of every voxel (`cubes_of`).
    voxel_ml : float

    Returns
    -------
    float
        1: pieces differ as much whatever their size, as where the lung falls in few large parts. 1.5: neighbours
        have nothing to do with each other, as in noise. NaN without a positive mean, without any unevenness, or
        where fewer than two sizes give ten pieces of at least half a cube.

    Notes
    -----
    ``RD(m) = RD0 (m / m0)^(1 - D)`` [1]_, a straight line through ln RD and ln m, with RD the CV of the pieces'
    means, weighted by their volumes, and m their mean volume.

    References
    ----------
    .. [1] Bassingthwaighte JB, King RB, Roger SA (1989). Circ Res 65:578.
    """
    if not values.size or values.mean(dtype=np.float64) <= 0:
        return float("nan")
    volumes, dispersions = [], []
    for side, cubes in pieces.items():
        size = np.bincount(cubes)
        large = size * voxel_ml >= _LEAST_PIECE * side**3 / 1000
        weights = size[large]
        if weights.size < _LEAST_PIECES:
            continue
        means = np.bincount(cubes, values)[large] / weights
        mean = float(np.average(means, weights=weights))
        dispersions.append(float(np.sqrt(np.average((means - mean) ** 2, weights=weights))) / mean)
        volumes.append(float(weights.mean()) * voxel_ml)
    if len(volumes) < 2 or not min(dispersions) > 1e-6:
        return float("nan")
    slope, _ = np.polyfit(np.log(volumes), np.log(dispersions), 1)
    return float(1 - slope)


def voronoi_cells(points: np.ndarray, voxel_ml: float, side_mm: float = CELL_MM) -> np.ndarray:
    """A lung cut into compact cells of about equal volume: every voxel goes to the nearest seed.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        The lung's voxels, in mm.
    voxel_ml : float
    side_mm : float
        Of a cube with the volume of a cell.

    Returns
    -------
    ndarray of int, shape (N,)
        The number of each voxel's cell, from 0; all 0 where the lung is too small for two.

    Notes
    -----
    Seeds begin as the middles of what lies in cubes about the lung's own middle, where that is at least half of a
    cube, and move to the middles of their cells five times (Lloyd): no chance is involved.

    Examples
    --------
    >>> voronoi_cells(np.array([[0.0, 0, 0], [0, 0, 20], [0, 0, 40], [0, 0, 60]]), voxel_ml=8.0).tolist()
    [0, 1, 2, 3]
    """
    centred = points - points.mean(axis=0) + 1e-6
    where = np.floor(centred / side_mm).astype(np.int32)
    where -= where.min(axis=0)
    cells = np.ravel_multi_index(tuple(where.T), tuple(where.max(axis=0) + 1))
    least = side_mm**3 / 2000 / voxel_ml
    for _ in range(_LLOYD_STEPS + 1):
        size = np.bincount(cells)
        kept = size >= least
        if np.count_nonzero(kept) < 2:
            return np.zeros(len(points), np.intp)
        seeds = np.stack([np.bincount(cells, x)[kept] / size[kept] for x in centred.T], axis=1)
        cells = cKDTree(seeds).query(centred)[1]
        least = 1
    return np.asarray(cells)


class CellSummary(NamedTuple):
    """What cells of a lung say of a map.

    Parameters
    ----------
    median : float
        Of the cells' means, in the unit of the map.
    cv : float
        SD of the cells' means over their mean, each cell counted by its volume.
    within_cv : float
        Mean of the CVs within each cell.
    low_pct : float
        Share of the volume in cells whose mean is below a threshold.
    """

    median: float
    cv: float
    within_cv: float
    low_pct: float


def cell_summary(values: np.ndarray, cells: np.ndarray, low: float) -> CellSummary:
    """Statistics within cells, then over cells.

    Parameters
    ----------
    values : ndarray, shape (N,)
        NaN where not defined; a cell is what is defined of it.
    cells : ndarray of int, shape (N,)
        As `voronoi_cells` numbers them.
    low : float
        Cells whose mean is below it are low.

    Returns
    -------
    CellSummary
        NaN where no cell is defined; CVs and share also where the mean, or `low`, is not positive.

    References
    ----------
    .. [1] Cisneros J et al (2026). Phys Med Biol 71:055004.

    Examples
    --------
    >>> summary = cell_summary(np.array([1.0, 1.0, 2.0, 4.0]), np.array([0, 0, 1, 1]), low=1.2)
    >>> [round(x, 3) for x in summary]
    [2.0, 0.5, 0.167, 50.0]
    """
    known = np.isfinite(values)
    values, cells = values[known].astype(np.float64), cells[known]
    size = np.bincount(cells)
    there = np.flatnonzero(size)
    if not there.size:
        return CellSummary(*[float("nan")] * 4)
    size = size[there]
    means = np.bincount(cells, values)[there] / size
    mean = float(np.average(means, weights=size))
    if not (mean > 0 and low > 0):
        return CellSummary(float(np.median(means)), *[float("nan")] * 3)
    overall = float(np.sqrt(np.average((means - mean) ** 2, weights=size))) / mean
    squares = np.bincount(cells, (values - mean) ** 2)[there] / size - (means - mean) ** 2
    spread = np.sqrt(np.maximum(squares, 0))[means > 0] / means[means > 0]
    low_share = 100 * float(size[means < low].sum()) / float(size.sum())
    return CellSummary(float(np.median(means)), overall, float(spread.mean()), low_share)
