"""The last millimetres: local correlation and the pleura, by Gauss-Newton steps in Gaussian windows.

Around each voxel the moving image is brought to the fixed one by a local gain and offset, so nothing is
assumed about how density changes with volume (a mass-preserving metric would remove the very signal that
perfusion is read from). What then differs, and how far the mapped pleura lies from the pleura, is linearised in
the displacement and solved per window: the registration analogue of Lucas and Kanade's flow with locally
normalised intensities. Windows stop at the mask, so the two sides of the pleura never see each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.ndimage import binary_dilation
from scipy.special import erfinv

from lungvq.register.field import (
    Array,
    Mask,
    affine_field,
    blur,
    fit_affine,
    gaussian_mean,
    pull,
    smooth,
)

__all__ = ["STAGES", "Stage", "local_correlation", "pleura_distance", "refine"]


@dataclass(frozen=True)
class Stage:
    """Some iterations with windows of one size; lengths in voxels."""

    window: float
    """Sigma of the Gaussian window over which a displacement is fitted."""
    iterations: int
    reach: float = 5.0
    """Sigma over which places that see nothing take after those that do."""
    smoothing: float = 1.0
    """Sigma of the smoothing of the field after each step."""


STAGES = (Stage(4.0, 4), Stage(2.5, 4))

_NORMALISE = 2.0  # sigma of the window in which gain and offset are fitted, voxels
_NOISE_HU = 25.0  # below this a difference says nothing
_RIDGE = 0.05  # information per voxel^2 below which a place follows its surroundings
_PLEURA_WEIGHT = 2.0
_PLEURA_BAND = 2.0  # voxels to both sides
_PLEURA_DOUBT = 2.0  # voxels of distance at which the two masks are taken to disagree
_LARGEST_STEP = 1.0  # voxels


def pleura_distance(share: Array, *, sigma: float = 1.0) -> Array:
    """Signed distance to the surface of a lung in voxels, negative inside, held beyond about 2.3 sigma.

    From the share of each voxel that is lung, smoothed: across a flat surface that is an error function of
    the distance, whose inverse is finer than any distance counted in voxels.
    """
    soft = np.clip(blur(share, sigma), 0.01, 0.99)
    width = np.sqrt(sigma**2 + 1 / 12)
    distance: Array = (width * np.sqrt(2) * erfinv(1 - 2 * soft)).astype(np.float32)
    return distance


def _with_gradients(image: Array, distance: Array) -> Array:
    """Image, its gradient, distance and its gradient: (K, J, I, 8).

    By central differences: those within a cell would draw the field to where interpolation averages most noise.
    """
    channels = [image, *np.gradient(image), distance, *np.gradient(distance)]
    return np.ascontiguousarray(np.stack(channels, axis=-1, dtype=np.float32))


@numba.njit(parallel=True, cache=True)
def _gather(source, field, domain, outside, far):
    """Trilinear values of `source` (K, J, I, 8) at the mapped voxels of `domain`: (8, k, j, i)."""
    nz, ny, nx = source.shape[:3]
    shape = domain.shape
    out = np.zeros((8, shape[0], shape[1], shape[2]), np.float32)
    for k in numba.prange(shape[0]):
        for j in range(shape[1]):
            for i in range(shape[2]):
                if not domain[k, j, i]:
                    continue
                z, y, x = k + field[0, k, j, i], j + field[1, k, j, i], i + field[2, k, j, i]
                if not (0 <= z <= nz - 1 and 0 <= y <= ny - 1 and 0 <= x <= nx - 1):
                    out[0, k, j, i] = outside
                    out[4, k, j, i] = far
                    continue
                a, b, c = min(int(z), nz - 2), min(int(y), ny - 2), min(int(x), nx - 2)
                for corner in range(8):
                    da, db, dc = corner >> 2, (corner >> 1) & 1, corner & 1
                    w = (1 - abs(z - a - da)) * (1 - abs(y - b - db)) * (1 - abs(x - c - dc))
                    s = source[a + da, b + db, c + dc]
                    for n in range(8):
                        out[n, k, j, i] += w * s[n]
    return out


@numba.njit(parallel=True, cache=True)
def _normal_equations(fixed, gathered, stats, pleura, domain, noise2, pleura_weight, band, doubt):
    """The six entries of J'J, the three of J'r and the count, of image and pleura, in blocks of 2x2x2 voxels.

    stats (5, K, J, I): local means over the domain of F, F^2, M, M^2, F M. Returns (10, K/2, J/2, I/2), rounded
    up.
    """
    nz, ny, nx = fixed.shape
    out = np.zeros((10, (nz + 1) // 2, (ny + 1) // 2, (nx + 1) // 2), np.float32)
    for k2 in numba.prange(out.shape[1]):
        for k in range(2 * k2, min(2 * k2 + 2, nz)):
            for j in range(ny):
                for i in range(nx):
                    if not domain[k, j, i]:
                        continue
                    o = out[:, k2, j // 2, i // 2]
                    mean_f, mean_m = stats[0, k, j, i], stats[2, k, j, i]
                    var_f = max(stats[1, k, j, i] - mean_f * mean_f, 0.0)
                    var_m = max(stats[3, k, j, i] - mean_m * mean_m, 0.0)
                    cov = stats[4, k, j, i] - mean_f * mean_m
                    gain = max(cov, 0.0) / (var_m + np.float32(1.0))
                    weight = 1.0 / (max(var_f - gain * cov, 0.0) + noise2)
                    r = (fixed[k, j, i] - mean_f) - gain * (gathered[0, k, j, i] - mean_m)
                    for n in range(2):
                        if n == 1:
                            if abs(pleura[k, j, i]) >= band:
                                break
                            r = pleura[k, j, i] - gathered[4, k, j, i]
                            weight = pleura_weight / (1.0 + (r / doubt) ** 2) ** 2
                            gain = 1.0
                        gz = gain * gathered[4 * n + 1, k, j, i]
                        gy = gain * gathered[4 * n + 2, k, j, i]
                        gx = gain * gathered[4 * n + 3, k, j, i]
                        o[0] += weight * gz * gz
                        o[1] += weight * gz * gy
                        o[2] += weight * gz * gx
                        o[3] += weight * gy * gy
                        o[4] += weight * gy * gx
                        o[5] += weight * gx * gx
                        o[6] += weight * gz * r
                        o[7] += weight * gy * r
                        o[8] += weight * gx * r
                    o[9] += 1.0
    return out


@numba.njit(parallel=True, cache=True)
def _belief(sums, ridge):
    """How well a window's sums (10, N) fix a displacement in its worst direction, 0 to 1."""
    out = np.zeros(sums.shape[1], np.float32)
    for p in numba.prange(sums.shape[1]):
        if sums[9, p] < 1e-4:
            continue
        r = 0.1 * ridge * sums[9, p]
        a, b, c = sums[0, p] + r, sums[1, p], sums[2, p]
        d, e, f = sums[3, p] + r, sums[4, p], sums[5, p] + r
        ia, ib, ic = d * f - e * e, c * e - b * f, b * e - c * d
        det = a * ia + b * ib + c * ic
        harmonic = 3 * det / (ia + a * f - c * c + a * d - b * b) / sums[9, p]
        out[p] = harmonic / (harmonic + ridge)
    return out


@numba.njit(parallel=True, cache=True)
def _solve(sums, tether, ridge, largest):
    """The step (3, N) from windows' sums (10, N), no longer than `largest`; 0 where nothing was counted.

    Directions in which the window sees nothing follow `tether` (3, N).
    """
    out = np.zeros((3, sums.shape[1]), np.float32)
    for p in numba.prange(sums.shape[1]):
        if sums[9, p] < 1e-4:
            continue
        r = ridge * sums[9, p]
        a, b, c = sums[0, p] + r, sums[1, p], sums[2, p]
        d, e, f = sums[3, p] + r, sums[4, p], sums[5, p] + r
        u, v, w = sums[6, p] + r * tether[0, p], sums[7, p] + r * tether[1, p], sums[8, p] + r * tether[2, p]
        ia, ib, ic = d * f - e * e, c * e - b * f, b * e - c * d
        ie, ig, ih = a * f - c * c, b * c - a * e, a * d - b * b
        det = a * ia + b * ib + c * ic
        z = (ia * u + ib * v + ic * w) / det
        y = (ib * u + ie * v + ig * w) / det
        x = (ic * u + ig * v + ih * w) / det
        length = np.sqrt(z * z + y * y + x * x)
        scale = min(1.0, largest / (length + 1e-9))
        out[0, p], out[1, p], out[2, p] = z * scale, y * scale, x * scale
    return out


def _away(shape: tuple[int, ...], scale: float, shift: float) -> Array:
    """The field that takes index x to ``scale * x + shift``."""
    return affine_field(np.full(3, shift), (scale - 1) * np.eye(3), shape)


def _local_sums(fixed: Array, warped: Array, weight: Array, blurred_weight: Array, sigma: float) -> Array:
    """Local means over the domain of F, F^2, M, M^2 and F M: (5, K, J, I)."""
    sums = np.stack([fixed, fixed * fixed, warped, warped * warped, fixed * warped]) * weight
    return (blur(sums, sigma) / np.maximum(blurred_weight, 1e-6)).astype(np.float32, copy=False)


def refine(
    fixed: Array,
    share: Array,
    moving: Array,
    moving_share: Array,
    field: Array,
    stages: tuple[Stage, ...],
    *,
    outside: float,
) -> Array:
    """Improve a field that is right to about two voxels.

    Parameters
    ----------
    fixed, moving : ndarray, shapes (K, J, I) and (K', J', I')
        HU, `outside` beyond the lung.
    share, moving_share : ndarray of float32, the same shapes
        Share of each voxel that is lung.
    field : ndarray, shape (3, K, J, I)
        Index of a fixed voxel to index of `moving`, in voxels.
    stages : tuple of Stage
    outside : float
        HU

    Returns
    -------
    ndarray, shape (3, K, J, I)
        Good on the mask and the two voxels around it.
    """
    mask = share > 0.5
    domain = binary_dilation(mask, iterations=2)
    weight = domain.astype(np.float32)
    pleura = pleura_distance(share)
    source = _with_gradients(moving, pleura_distance(moving_share))
    blurred = blur(weight, _NORMALISE)
    halve = _away(mask.shape, 0.5, -0.25)  # from a voxel to its place among the blocks of two, and back
    double = _away(tuple((n + 1) // 2 for n in mask.shape), 2.0, 0.5)
    for stage in stages:
        for _ in range(stage.iterations):
            gathered = _gather(source, field, domain, np.float32(outside), np.float32(3.0))
            stats = _local_sums(fixed, gathered[0], weight, blurred, _NORMALISE)
            sums = _normal_equations(
                fixed,
                gathered,
                stats,
                pleura,
                domain,
                np.float32(_NOISE_HU**2),
                np.float32(_PLEURA_WEIGHT),
                np.float32(_PLEURA_BAND),
                np.float32(_PLEURA_DOUBT),
            )
            # Windows are wide enough to be summed on every second voxel; the blocks add their own width.
            sums = blur(sums, float(np.sqrt(stage.window**2 / 4 - 1 / 12)))
            flat = sums.reshape(10, -1)
            belief = _belief(flat, np.float32(_RIDGE)).reshape(sums.shape[1:])
            here = pull(field, double, True, np.float32(0))
            agreed = smooth(here, belief * np.minimum(sums[9] / 8, 1), stage.reach / 2)
            step = _solve(flat, (agreed - here).reshape(3, -1), np.float32(_RIDGE), np.float32(_LARGEST_STEP))
            field = field + pull(step.reshape(here.shape), halve, True, np.float32(0))
            affine = affine_field(*fit_affine(field, domain), mask.shape)
            field = affine + gaussian_mean(field - affine, domain, stage.smoothing)
    return field


def local_correlation(fixed: Array, warped: Array, mask: Mask, *, sigma: float = _NORMALISE) -> Array:
    """Local correlation of two images over the mask, 0 to 1.

    Parameters
    ----------
    fixed, warped : ndarray, shape (K, J, I)
        HU
    mask : ndarray of bool, shape (K, J, I)
    sigma : float, optional
        Of the Gaussian window, voxels.

    Returns
    -------
    ndarray of float32, shape (K, J, I)
        Correlation coefficient, negative ones as 0, damped where the window holds nothing but noise;
        NaN outside the mask.
    """
    weight = mask.astype(np.float32)
    stats = _local_sums(fixed, warped, weight, blur(weight, sigma), sigma)
    var_f = np.maximum(stats[1] - stats[0] ** 2, 0)
    var_m = np.maximum(stats[3] - stats[2] ** 2, 0)
    cov = stats[4] - stats[0] * stats[2]
    correlation = cov / np.sqrt(var_f * var_m + _NOISE_HU**4 / 16)
    return np.where(mask, np.clip(correlation, 0, 1), np.float32(np.nan))
