"""The fissures of one lung as smooth surfaces: drawn to bright sheets, repelled by vessels, held by what people have.

A fissure is the height over the plane of the slices in the box of its lung (:mod:`lungvq.fissures`): the mean
one, plus the modes in which people's vary, plus bumps of some 3 cm for what is this person's own. The weights of
modes and bumps minimise::

    E(w) = 1/2 sum (w / sd)^2 - ATTRACTION sum_sheets c exp(-d^2 / 2 r^2) + REPULSION sum_vessels exp(-d^2 / 2 s^2)
           + BRONCHI sum_bronchi 1 / (1 + exp(d / r))

with d the distance of a point to its surface, of a bronchus the height on its own side. The reaches r and s shrink
from more than a centimetre to a voxel, so that far sheets guide first and only near ones count in the end: an outlier
has no hold on the surface. Vessels do not cross complete fissures, and the larger ones keep a distance: where no
fissure shows, this gap does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from lungvq.fissures import VALID, height

__all__ = ["Evidence", "FissureModel", "Fit", "Surface", "fit_surfaces"]

Floats = NDArray[np.float64]

ATTRACTION = 0.5
"""Nats that one sheet of a 3 mm cell is worth."""
REPULSION = 0.3
"""Nats that a vessel in a 3 mm cell costs: a vessel fills many cells, and they are not independent."""
BRONCHI = 1.0
"""Nats that a cell of a lobe's bronchus on the wrong side costs, no more: its name may be wrong."""
BUMP_MM = (30.0, 24.0)
"""Sd of a bump along x and y; bumps are as far apart."""
BUMP_SD = 0.014
"""Sd of a bump's height between people, in heights of the box: what the cubics leave (`fissures.RESIDUAL`)."""
BUMP_SD_BEYOND = 0.05
"""The same outside the part of the box in which people's fissures were seen (`fissures.VALID`)."""
TURNED_DEG = (20.0, 50.0)
"""A sheet counts in full up to the first angle to the surface, not at all from the second."""
COARSE = ((14.0, 8.0), (9.0, 6.0))
FINE = ((7.0, 5.0), (5.0, 4.0), (3.5, 3.0), (2.5, 3.0), (1.8, 3.0), (1.5, 3.0))
"""Reaches of sheets and of vessels, mm: of the search among modes, then of modes and bumps together."""
STARTS = (0.0, -1.3, 1.3)
"""In sd of each of the first four modes: the search begins at the mean and at each of these."""
APART_MM = 4.0
"""Height above the oblique fissure from which a sheet or vessel may belong to the horizontal one."""
_CELL_MM, _WIDE_CELL_MM = 3.0, 8.0
_LEAST_WIDE_MM = 5.0
_ITERATIONS = 25


@dataclass(frozen=True)
class FissureModel:
    """How one fissure lies in people.

    Parameters
    ----------
    name : str
        A field of :class:`lungvq.fissures.Fissures`.
    mean : ndarray, shape (10,)
    modes : ndarray, shape (M, 10)
        The fissures of one lung share the weights of their modes.
    """

    name: str
    mean: Floats
    modes: Floats


@dataclass(frozen=True, eq=False)
class Surface:
    """One fissure of one person, as a height over x and y in the box of its lung.

    Parameters
    ----------
    name : str
        A field of :class:`lungvq.fissures.Fissures`.
    coefficients : ndarray, shape (10,)
        Of the cubic.
    bumps : ndarray, shape (B,)
        Height of each bump, in heights of the box.
    size : ndarray, shape (3,)
        Of the box along x, y, z, mm.
    """

    name: str
    coefficients: Floats
    bumps: Floats
    size: Floats

    def height(self, x: Floats, y: Floats) -> Floats:
        """Height in the box, 0 base to 1 apex, of any shape of x and y (0..1)."""
        low = height(self.coefficients, x, y, valid=VALID[self.name])
        if not self.bumps.any():
            return low
        return np.asarray(low + _bumps(x, y, self.size) @ self.bumps)

    def normal(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Unit normals in mm, (x, y, z) with z upwards, shape (..., 3), and mm of way along them per mm upwards."""
        step = 0.01
        sx = (self.height(x + step, y) - self.height(x - step, y)) / (2 * step) * self.size[2] / self.size[0]
        sy = (self.height(x, y + step) - self.height(x, y - step)) / (2 * step) * self.size[2] / self.size[1]
        upright = 1 / np.sqrt(1 + sx * sx + sy * sy)
        return np.stack([-sx * upright, -sy * upright, upright], axis=-1), upright


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a scan shows in the box of one lung.

    Parameters
    ----------
    sheets : ndarray, shape (N, 3)
        Points on thin sheets: x, y, z in mm from the corner of the box.
    normals : ndarray, shape (N, 3)
    weights : ndarray, shape (N,)
        0 to 1.
    vessels : ndarray, shape (V, 3)
        Likewise, points in vessels.
    lung : ndarray, shape (L, 3)
        Likewise, points all over the lung.
    bronchi : ndarray, shape (B, 3)
        Likewise, points in bronchi whose lobe is known.
    sides : ndarray, shape (B, S)
        For each surface, whether its lobe lies above it (1), below it (-1) or not beside it (0).
    """

    sheets: Floats
    normals: Floats
    weights: Floats
    vessels: Floats
    lung: Floats
    bronchi: Floats
    sides: Floats

    def thinned(self) -> Evidence:
        """The most convincing sheet of each cell of 3 mm, one vessel, and one point of the lung in each of 8 mm."""
        best = _one_per_cell(self.sheets, _CELL_MM, self.weights)
        vessel = _one_per_cell(self.vessels, _CELL_MM)
        lung = _one_per_cell(self.lung, _WIDE_CELL_MM)
        bronchus = _one_per_cell(self.bronchi, _CELL_MM)
        return Evidence(
            self.sheets[best],
            self.normals[best],
            self.weights[best],
            self.vessels[vessel],
            self.lung[lung],
            self.bronchi[bronchus],
            self.sides[bronchus],
        )


@dataclass(frozen=True, eq=False)
class Fit:
    """The surfaces of one lung and how well the evidence holds them.

    Parameters
    ----------
    surfaces : tuple of Surface
    support : tuple of float
        Weight of the sheets within 2 mm, in cells of 3 mm.
    covariance : ndarray
        Of modes and bumps.
    models : tuple of FissureModel
    """

    surfaces: tuple[Surface, ...]
    support: tuple[float, ...]
    covariance: Floats
    models: tuple[FissureModel, ...]

    def deviation(self, which: int, x: Floats, y: Floats) -> Floats:
        """Standard deviation of surface `which` along its normal, mm, at x and y of shape (N,)."""
        surface, model = self.surfaces[which], self.models[which]
        columns = _columns(self.models, self.surfaces[0].size)[which]
        basis = _basis(x, y, model, surface.size)
        variance = np.einsum("nc,cd,nd->n", basis, self.covariance[np.ix_(columns, columns)], basis)
        _, upright = surface.normal(x, y)
        return np.asarray(np.sqrt(np.maximum(variance, 0)) * surface.size[2] * upright)


def fit_surfaces(models: Sequence[FissureModel], evidence: Evidence, size: Floats) -> Fit:
    """The fissures of one lung.

    Parameters
    ----------
    models : sequence of FissureModel
        One, or the oblique fissure and then the horizontal one, which lies above it.
    evidence : Evidence
    size : ndarray, shape (3,)
        Of the lung's box along x, y, z, mm.

    Returns
    -------
    Fit
    """
    problem = _Problem(tuple(models), evidence.thinned(), np.asarray(size, float))
    modes = problem.modes
    best, least = np.zeros(problem.count), np.inf
    for mode in range(min(4, modes)):
        for start in STARTS[(mode > 0) :]:
            weights = np.zeros(problem.count)
            weights[mode] = start
            for reach in COARSE:
                weights, energy = problem.descend(weights, *reach, free=modes)
            if energy < least - 1e-6:
                best, least = weights, energy
    for reach in FINE:
        best, _ = problem.descend(best, *reach, free=problem.count)
    return problem.fit(best)


class _Problem:
    """The energy of one lung and its descent."""

    def __init__(self, models: tuple[FissureModel, ...], evidence: Evidence, size: Floats) -> None:
        self.models, self.size = models, size
        self.modes = len(models[0].modes)
        self._columns = _columns(models, size)
        self.count = int(self._columns[-1][-1]) + 1
        self._stiffness = np.concatenate([np.ones(self.modes), *(_bump_stiffness(m, size) for m in models)])
        points = np.concatenate([evidence.sheets, evidence.vessels, evidence.lung]) / size
        self._x, self._y, self._z = points.T
        self._is_sheet = np.arange(len(points)) < len(evidence.sheets)
        self._is_lung = np.arange(len(points)) >= len(points) - len(evidence.lung)
        # Lung draws a surface as much as the vessels in it repel it on average, or it would leave the lung.
        filled = len(evidence.vessels) / max(1, len(evidence.lung))
        self._weights = np.where(self._is_lung, -REPULSION * filled, REPULSION)
        self._weights[self._is_sheet] = -ATTRACTION * evidence.weights
        self._normals = evidence.normals
        self._bases = [_basis(self._x, self._y, m, size) for m in models]
        self._bronchi, self._sides = evidence.bronchi / size, evidence.sides

    def surfaces(self, weights: Floats) -> tuple[Surface, ...]:
        shared = weights[: self.modes]
        return tuple(
            Surface(m.name, m.mean + shared @ m.modes, weights[c[self.modes :]], self.size)
            for m, c in zip(self.models, self._columns, strict=True)
        )

    def descend(
        self, weights: Floats, sheet_mm: float, vessel_mm: float, *, free: int
    ) -> tuple[Floats, float]:
        """Lower the energy by the first `free` weights, with slopes and angles as they are at the start."""
        reach = np.where(self._is_sheet, sheet_mm, vessel_mm)
        far = vessel_mm >= _LEAST_WIDE_MM  # points 8 mm apart are even to a wide hill only
        parts = []
        for (distance, upright, share), basis, columns in zip(
            self._seen_from(weights), self._bases, self._columns, strict=True
        ):
            used = columns < free
            near = (np.abs(distance) < 6 * reach) & (share > 0) & (far | ~self._is_lung)
            matrix = basis[near][:, used] * (self.size[2] * upright[near])[:, None]
            strength = (share * self._weights)[near]
            parts.append((columns[used], matrix, distance[near], strength, reach[near]))
        named = self._beside_bronchi(weights, free)

        unit = 1 / np.sqrt(self._stiffness[:free])  # in units of their sd all weights are alike to the search

        def energy(steps: Floats) -> tuple[float, Floats]:
            move = unit * steps
            now = weights.copy()
            now[:free] += move
            total, slope = 0.5 * float((now * now * self._stiffness).sum()), now * self._stiffness
            for columns, matrix, distance, strength, width in parts:
                d = distance - matrix @ move[columns]
                term = strength * np.exp(-0.5 * (d / width) ** 2)
                total += float(term.sum())
                slope[columns] += matrix.T @ (term * d / width**2)
            for columns, matrix, distance, side in named:
                wrong = expit(-side * (distance - matrix @ move[columns]) / sheet_mm)
                total += BRONCHI * float(wrong.sum())
                slope[columns] += matrix.T @ (BRONCHI * wrong * (1 - wrong) * side / sheet_mm)
            return total, slope[:free] * unit

        # Conjugate gradients: no matrix, so no threads of a linear algebra that cost more than they save.
        found = minimize(energy, np.zeros(free), jac=True, method="CG", options={"maxiter": _ITERATIONS})
        result = weights.copy()
        result[:free] += unit * found.x
        return result, float(found.fun)

    def _beside_bronchi(
        self, weights: Floats, free: int
    ) -> list[tuple[NDArray[np.intp], Floats, Floats, Floats]]:
        """Per surface: free weights, what they do to the distances of the bronchi, these, and their right side."""
        x, y, z = self._bronchi.T
        parts = []
        for n, (surface, columns) in enumerate(zip(self.surfaces(weights), self._columns, strict=True)):
            told = self._sides[:, n] != 0
            _, upright = surface.normal(x[told], y[told])
            scale = self.size[2] * upright
            distance = (z[told] - surface.height(x[told], y[told])) * scale
            used = columns < free
            basis = _basis(x[told], y[told], self.models[n], self.size)[:, used]
            parts.append((columns[used], basis * scale[:, None], distance, self._sides[told, n]))
        return parts

    def fit(self, weights: Floats) -> Fit:
        """What was found, with the curvature of the energy at it as its certainty."""
        precision = np.diag(self._stiffness)
        support = []
        reach = np.where(self._is_sheet, 2.0, FINE[-1][1])
        for (distance, upright, share), basis, columns in zip(
            self._seen_from(weights), self._bases, self._columns, strict=True
        ):
            held = share * np.abs(self._weights) * np.exp(-0.5 * (distance / reach) ** 2) * ~self._is_lung
            support.append(float(held[self._is_sheet].sum()) / ATTRACTION)
            # A sheet holds the surface the more the nearer it is, a vessel only where its hill is hollow.
            steep = np.where(self._is_sheet, 1.0, np.maximum((distance / reach) ** 2 - 1, 0))
            curvature = held * steep / reach**2
            use = curvature > 1e-5
            matrix = basis[use] * (self.size[2] * upright[use])[:, None]
            precision[np.ix_(columns, columns)] += matrix.T @ (matrix * curvature[use, None])
        return Fit(self.surfaces(weights), tuple(support), np.linalg.inv(precision), self.models)

    def _seen_from(self, weights: Floats) -> list[tuple[Floats, Floats, Floats]]:
        """Per surface: distance of each point, mm along the normal per mm upwards, share of it that belongs there."""
        full, none = np.cos(np.radians(TURNED_DEG))
        result: list[tuple[Floats, Floats, Floats]] = []
        for surface in self.surfaces(weights):
            normal, upright = surface.normal(self._x, self._y)
            distance = (self._z - surface.height(self._x, self._y)) * self.size[2] * upright
            share = np.ones(len(distance))
            along = np.abs((normal[self._is_sheet] * self._normals).sum(axis=1))
            share[self._is_sheet] = np.clip((along - none) / (full - none), 0, 1)
            if result:  # the horizontal fissure lies above the oblique one, and in front
                above = np.clip((result[0][0] - APART_MM) / 1.0, -30, 30)
                share *= (self._y < VALID[surface.name][1][1] + 0.15) / (1 + np.exp(-above))
            result.append((distance, upright, share))
        return result


def _columns(models: Sequence[FissureModel], size: Floats) -> list[NDArray[np.intp]]:
    """Which weights belong to each surface: the modes, which are shared, and its own bumps."""
    modes, bumps = len(models[0].modes), _bumps(np.zeros(1), np.zeros(1), size).shape[1]
    return [np.r_[0:modes, modes + n * bumps : modes + (n + 1) * bumps] for n in range(len(models))]


def _basis(x: Floats, y: Floats, model: FissureModel, size: Floats) -> Floats:
    """Height at x and y, shape (N,), that each mode and each bump is worth, shape (N, M + B)."""
    return np.concatenate([_cubic(x, y, model) @ model.modes.T, _bumps(x, y, size)], axis=1)


def _cubic(x: Floats, y: Floats, model: FissureModel) -> Floats:
    """The ten terms of a cubic, shape (N, 10), where the fissure was seen in people."""
    X, Y = (np.clip(v, *limits) - 0.5 for v, limits in zip((x, y), VALID[model.name], strict=True))
    return np.stack([np.ones_like(X), X, Y, X * X, X * Y, Y * Y, X**3, X * X * Y, X * Y * Y, Y**3], axis=-1)


def _bump_centres(size: Floats) -> tuple[Floats, Floats]:
    """Of a grid over the box and half a bump beyond: along x and along y, mm."""
    x, y = (np.arange(-w / 2, extent + w, w) for extent, w in zip(size[:2], BUMP_MM, strict=True))
    return x, y


def _bump_stiffness(model: FissureModel, size: Floats) -> Floats:
    """Inverse variance of each bump: far less where nobody's fissure was seen and the cubic says nothing."""
    beyond = []
    for centres, extent, (low, high) in zip(_bump_centres(size), size[:2], VALID[model.name], strict=True):
        beyond.append((centres < low * extent) | (centres > high * extent))
    outside = (beyond[0][:, None] | beyond[1][None, :]).ravel()
    return np.asarray(np.where(outside, BUMP_SD_BEYOND, BUMP_SD) ** -2.0)


def _bumps(x: Floats, y: Floats, size: Floats) -> Floats:
    """Gaussian bumps at the places of `_bump_centres`, shape x.shape + (B,)."""
    axes = []
    for value, extent, width, centres in zip((x, y), size[:2], BUMP_MM, _bump_centres(size), strict=True):
        axes.append(np.exp(-0.5 * ((value[..., None] * extent - centres) / width) ** 2))
    product = axes[0][..., :, None] * axes[1][..., None, :]
    return np.asarray(product.reshape((*np.shape(x), product.shape[-2] * product.shape[-1])))


def _one_per_cell(points: Floats, edge_mm: float, score: Floats | None = None) -> NDArray[np.intp]:
    """The point of the highest score in each cell."""
    if not len(points):
        return np.zeros(0, np.intp)
    score = np.ones(len(points)) if score is None else score
    cell = np.floor(points / edge_mm).astype(np.int64)
    cell -= cell.min(axis=0)
    key = np.ravel_multi_index(tuple(cell.T), tuple(cell.max(axis=0) + 1))
    order = np.lexsort((-score, key))
    return order[np.r_[True, np.diff(key[order]) > 0]]
