"""CT-P: how large the apparent mass change is in regions of a stated size, and where it drowns in noise.

The magnitude of a noisy number is too large on average. So the signed change is averaged over a region first, its
magnitude is then freed of what its own standard error adds, and regions within twice that error are not counted
as changed at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear
from scipy.sparse import coo_array, csr_array, diags_array, vstack
from scipy.spatial import cKDTree

from lungvq.anatomy import LUNGS
from lungvq.regional import LungField, fill_from_nearest
from lungvq.volume import Volume

__all__ = ["RADII_MM", "RegionalMagnitude", "debiased_magnitude", "region_sigma", "regional_magnitude"]

RADII_MM = (10.0, 15.0, 20.0, 30.0)
"""Sizes of region that results are given for."""

NOISE_FLOOR = 2.0
"""Multiples of its standard error within which a change counts as none."""

_SMOOTHNESS = 0.1  # weight of a difference between neighbouring nodes, beside a mean with its standard error
_NODE = 0.5  # distance of nodes, of the region's radius
_REACH = 2.5  # sigma


def region_sigma(radius_mm: float) -> float:
    """Sigma of the Gaussian whose effective volume, (4 pi)^1.5 sigma^3, is that of a ball.

    Examples
    --------
    >>> round(region_sigma(20.0), 2)
    9.09
    """
    return float(radius_mm * (4 * np.pi / 3) ** (1 / 3) / np.sqrt(4 * np.pi))


def debiased_magnitude(change: np.ndarray, standard_error: np.ndarray) -> np.ndarray:
    """``sqrt(max(m^2 - s^2, 0))``: what is left of a magnitude without its error's part.

    Examples
    --------
    >>> debiased_magnitude(np.array([0.05, -0.05, 0.01]), np.array([0.03, 0.03, 0.03]))
    array([0.04, 0.04, 0.  ])
    """
    return np.sqrt(np.maximum(change**2 - standard_error**2, 0))


@dataclass(frozen=True)
class RegionalMagnitude:
    """CT-P at one size of region.

    Parameters
    ----------
    radius_mm : float
        Of a ball as large as the regions.
    magnitude : LungField
        g per mL of expiratory lung, not negative, relative to nothing; also where it is below the noise floor.
    below_floor : dict of str to float
        Share of each lung below the noise floor.
    """

    radius_mm: float
    magnitude: LungField
    below_floor: dict[str, float]


def above_noise(change: np.ndarray, standard_error: np.ndarray) -> np.ndarray:
    """Where a mass change can be told from none: beyond twice its standard error."""
    sure: np.ndarray = np.abs(change) > NOISE_FLOOR * standard_error
    return sure


def regional_magnitude(
    lungs: Volume, change: LungField, standard_error: LungField, radius_mm: float
) -> RegionalMagnitude:
    """The magnitude whose regional means fit the debiased ones best, not negative and smooth.

    Parameters
    ----------
    lungs : Volume
        1 left, 2 right, on the working grid.
    change, standard_error : LungField
        Signed mass change averaged with `region_sigma(radius_mm)`, and its standard error.
    radius_mm : float

    Notes
    -----
    Nodes on a lattice half a radius apart; regions overlap. With b the debiased magnitudes of the regions, s
    their standard errors and A the Gaussian average over nodes, ``|A q - b|^2 / s^2`` plus the differences
    between neighbouring nodes is minimised with q >= 0, after the published system [1]_ with regions of fixed size
    in place of its growing ones.

    References
    ----------
    .. [1] Castillo E et al (2021). Med Phys 48:1804.
    """
    magnitude, below = {}, {}
    for lung, part in change.items():
        error = standard_error[lung]
        inside = lungs.resample_labels(part.grid).array == LUNGS[lung]
        sure = above_noise(part.array, error.array)
        below[lung] = 1 - float(sure[inside].mean()) if inside.any() else float("nan")
        solved = _solved(part, error, inside, radius_mm)
        magnitude[lung] = part.like(solved.astype(np.float32))
    return RegionalMagnitude(radius_mm, magnitude, below)


def _solved(change: Volume, error: Volume, inside: np.ndarray, radius_mm: float) -> np.ndarray:
    """The constrained solution on the grid of `change`."""
    step = [max(1, round(_NODE * radius_mm / s)) for s in change.spacing]
    every = tuple(slice(n // 2, None, n) for n in step)
    nodes = np.argwhere(inside[every])
    if len(nodes) < 2:
        return debiased_magnitude(change.array, error.array)
    at = nodes * (np.array(step) * change.spacing)
    m, s = change.array[every][tuple(nodes.T)].astype(float), error.array[every][tuple(nodes.T)].astype(float)
    average = _average(at, region_sigma(radius_mm))
    weight = diags_array(1 / np.maximum(s, 1e-6))
    rough = _differences(at, max(np.array(step) * change.spacing)) * (_SMOOTHNESS / np.median(s))
    system = vstack([weight @ average, rough]).tocsr()
    target = np.concatenate([weight @ debiased_magnitude(m, s), np.zeros(rough.shape[0])])
    found = lsq_linear(system, target, bounds=(0, np.inf), tol=1e-3, lsmr_tol=1e-3, max_iter=30).x
    coarse = np.full(inside[every].shape, np.nan, np.float32)
    coarse[tuple(nodes.T)] = found
    affine = change.affine @ np.diag([*step, 1.0])
    affine[:3, 3] = change.grid.world([n // 2 for n in step])
    fine = Volume(fill_from_nearest(coarse, np.isnan(coarse)), affine).resample(change.grid, antialias=False)
    return fill_from_nearest(fine.array, np.isnan(fine.array))


def _average(at: np.ndarray, sigma_mm: float) -> csr_array:
    """Rows that average over the nodes with a Gaussian about each of them."""
    tree = cKDTree(at)
    near = tree.sparse_distance_matrix(tree, _REACH * sigma_mm, output_type="coo_matrix")
    weights = csr_array((np.exp(-0.5 * (near.data / sigma_mm) ** 2), (near.row, near.col)), near.shape)
    return diags_array(1 / weights.sum(axis=1)) @ weights


def _differences(at: np.ndarray, step_mm: float) -> csr_array:
    """Rows that take the difference of neighbouring nodes."""
    pairs = cKDTree(at).query_pairs(1.1 * step_mm, output_type="ndarray")
    rows = np.repeat(np.arange(len(pairs)), 2)
    values = np.tile([1.0, -1.0], len(pairs))
    return coo_array((values, (rows, pairs.ravel())), (len(pairs), len(at))).tocsr()
