"""From the density of a body to the CT numbers that a scanner makes of it.

A voxel of the input holds the mean over its own box. The scanner adds what reconstruction adds: the transfer
function of its kernel in the plane, the profile of its slices across, motion within the breath-hold, noise with
the spectrum of filtered back-projection, an error of scale, a circular field of view, and rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.linalg import solveh_banded
from scipy.ndimage import correlate1d, shift
from scipy.optimize import brentq
from scipy.special import ive, ndtr

from lungvq.errors import UsageError
from lungvq.volume import Grid, Volume

__all__ = ["KERNELS", "Kernel", "Scanner", "expose", "noise_sd"]

Floats = NDArray[np.float64]
Array32 = NDArray[np.float32]

REFERENCE_MM = 1.5  # the isotropic voxel for which `Scanner.noise_hu` is stated
RAMP_FLOOR = 0.02  # per mm: real spectra do not quite reach zero at frequency zero
MU_WATER = 0.019  # per mm at the mean energy of 120 kV
SIGMA_OF_FWHM = 1 / np.sqrt(8 * np.log(2))
LUNG_HU = (-980.0, -500.0)  # what is taken for lung where noise and motion are placed
LOWEST, HIGHEST = -1024, 3071
SLAB = 16  # slices at a time


class Kernel(NamedTuple):
    """A transfer function ``(1 + boost) exp(-2 (pi core f)^2) - boost exp(-2 (pi halo f)^2)``.

    `core` and `halo` are sds in mm of the two Gaussians; it is 1 at frequency 0 whatever the boost.
    """

    core: float
    halo: float
    boost: float

    def mtf(self, f: Floats) -> Floats:
        """Transfer at frequencies `f`, per mm."""
        return (1 + self.boost) * np.exp(-2 * (np.pi * self.core * f) ** 2) - self.boost * np.exp(
            -2 * (np.pi * self.halo * f) ** 2
        )


KERNELS: dict[str, Kernel] = {
    "soft": Kernel(0.45, 0.9, 0.0),
    "standard": Kernel(0.40, 0.75, 0.18),
    "sharp": Kernel(0.36, 0.60, 1.50),
}
"""Like those of type B30/STANDARD, B45 and B60/LUNG: the transfer is a half near 0.42, 0.52 and 0.78 per mm; the
last has a crest of 1.2."""


@dataclass(frozen=True)
class Scanner:
    """One acquisition. Lengths in mm.

    Parameters
    ----------
    kernel : {"soft", "standard", "sharp"}
        Reconstruction kernel, one of `KERNELS`; sharp ones overshoot at edges and are noisy.
    thickness : float, optional
        Full width at half maximum of the slice profile, at least the slice spacing; by default equal to it.
    noise_hu : float
        Sd of the noise in lung for the soft kernel and a voxel of 1.5 mm; `noise_sd` says what it becomes for
        this kernel and another voxel.
    unevenness : float
        0: the same noise everywhere. 1: as a constant tube current would make it, more in the middle of the body
        and through the shoulders. The mean square over the lung stays as stated.
    offset_hu, gain : float
        Error of scale: ``HU' = gain (HU + 1000) - 1000 + offset``.
    field_of_view : float, optional
        Diameter of the reconstruction circle, centred in the image; outside there is `padding`.
    padding : int
        What a voxel outside the circle holds: -1024, or -2000 or -3024 with some makers.
    motion_blur : float
        Sd of the motion along the body during the breath-hold at the base of the lungs, none above their
        middle; in the plane, as of the heart, half of it.
    stack_shift : float
        Sd of the displacement, along each axis, of the stacks of a scan taken in several of them.
    stack_height : float
        Height of one stack.
    """

    kernel: Literal["soft", "standard", "sharp"] = "soft"
    thickness: float | None = None
    noise_hu: float = 20.0
    unevenness: float = 0.3
    offset_hu: float = 0.0
    gain: float = 1.0
    field_of_view: float | None = None
    padding: int = LOWEST
    motion_blur: float = 0.0
    stack_shift: float = 0.0
    stack_height: float = 40.0

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise UsageError(f"there is no kernel called {self.kernel!r}: choose one of {', '.join(KERNELS)}")
        for name in ("noise_hu", "unevenness", "motion_blur", "stack_shift"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UsageError(f"the scanner's {name} is zero or more, got {getattr(self, name)}")
        for name in ("thickness", "field_of_view", "gain", "stack_height"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise UsageError(f"the scanner's {name} is above zero, got {value}")


def noise_sd(scanner: Scanner, spacing: tuple[float, float, float]) -> float:
    """Sd of the noise in lung, HU, for voxels of `spacing` (mm; slices, rows, columns).

    Notes
    -----
    The power spectrum of filtered back-projection is a ramp times the square of the transfer function [1]_, and
    the power goes with the inverse of the slice thickness. The integral over the voxel's aperture gives the
    known ``sd^2 ~ 1 / (width^3 thickness)`` for wide pixels and no dependence on the pixel for narrow ones.

    References
    ----------
    .. [1] Riederer SJ, Pelc NJ, Chesler DA (1978). Phys Med Biol 23:446-454.

    Examples
    --------
    >>> round(noise_sd(Scanner(noise_hu=20), (1.5, 1.5, 1.5)), 6)
    20.0
    >>> round(noise_sd(Scanner(noise_hu=20, thickness=6.0), (1.5, 1.5, 1.5)), 6)
    10.0
    """
    same = (128, 128)
    power = _spectrum(KERNELS[scanner.kernel], spacing[1:], same).mean() / (spacing[1] * spacing[2])
    reference = _spectrum(KERNELS["soft"], (REFERENCE_MM, REFERENCE_MM), same).mean() / REFERENCE_MM**2
    thickness = scanner.thickness or spacing[0]
    return float(scanner.noise_hu * np.sqrt(power / reference * REFERENCE_MM / thickness))


def expose(hu: Array32, grid: Grid, scanner: Scanner, rng: np.random.Generator) -> Volume:
    """What a scanner makes of a body.

    Parameters
    ----------
    hu : ndarray of float32, shape (K, J, I)
        Mean HU of each voxel, in canonical order, axes along the body; used as scratch and not to be read after.
    grid : Grid
        Where its voxels lie; any spacing.
    scanner : Scanner
        The acquisition.
    rng : numpy.random.Generator
        Of noise and stacks: another state, another breath-hold.

    Returns
    -------
    Volume
        int16 HU, clipped to -1024 ... 3071 (`padding` may be lower). But for clipping, padding and stacks the mean
        over the image is that of the input.

    Raises
    ------
    UsageError
        If the slices are to be thinner than their spacing.
    """
    spacing = grid.spacing
    across = _profile_sd(scanner.thickness, spacing[0])
    unrest, weight_k, weight_ji = _survey(hu, spacing, scanner.unevenness)
    if scanner.stack_shift > 0:
        _displace_stacks(hu, spacing, scanner, rng)
    if across > 0:
        _along_slices(hu, lambda rows: correlate1d(rows, _gaussian(across / spacing[0]), 0, mode="reflect"))
    moving = scanner.motion_blur * unrest
    if moving.any():
        bands = _motion_bands(moving / spacing[0])
        _along_slices(hu, lambda rows: _solve_twice(bands, rows))
    transfer = _Transfer(KERNELS[scanner.kernel], spacing[1:], hu.shape[1:])
    weight_ji *= noise_sd(scanner, spacing)
    grain = _grain(scanner, spacing, hu.shape, rng)
    out = np.empty(hu.shape, np.int16)
    outside = _outside_circle(scanner.field_of_view, spacing, hu.shape)
    for first in range(0, len(hu), SLAB):
        part = slice(first, min(first + SLAB, len(hu)))
        seen = transfer(hu[part], 0.5 * moving[part])
        seen *= scanner.gain
        seen += 1000 * (scanner.gain - 1) + scanner.offset_hu
        if scanner.noise_hu > 0:
            noise = next(grain)[: len(seen)]
            noise *= weight_k[part, None, None]
            noise *= weight_ji
            seen += noise
        np.rint(seen, out=seen)
        np.clip(seen, LOWEST, HIGHEST, out=seen)
        out[part] = seen
        out[part, outside] = scanner.padding
    return Volume(out, grid.affine)


def _aliases(pixel: tuple[float, float], fy: Floats, fx: Floats) -> Iterator[tuple[Floats, Floats]]:
    """The frequencies that sampling at `pixel` makes look like ``(fy, fx)``."""
    for m, n in product(range(-2, 3), repeat=2):
        yield fy + m / pixel[0], fx + n / pixel[1]


def _spectrum(kernel: Kernel, pixel: tuple[float, float], shape: tuple[int, int]) -> Floats:
    """Noise power (arbitrary unit) at the frequencies of a discrete transform, aliases folded in."""
    fy, fx = fft.fftfreq(shape[0], pixel[0])[:, None], fft.fftfreq(shape[1], pixel[1])
    power = np.zeros(shape)
    for y, x in _aliases(pixel, fy, fx):
        f, aperture = np.hypot(y, x), np.sinc(y * pixel[0]) * np.sinc(x * pixel[1])
        power += np.hypot(f, RAMP_FLOOR) * (kernel.mtf(f) * aperture) ** 2
    power[0, 0] = 0  # the mean of a slice is not moved
    return power


class _Transfer:
    """The kernel applied to slices, with mirrored borders so that the mean stays.

    Its point spread is sampled at the pixels, so that pixels too wide for it ring no more than it does.
    """

    def __init__(self, kernel: Kernel, pixel: tuple[float, float], shape: tuple[int, ...]) -> None:
        reach = [int(np.ceil(4 * max(kernel.halo, 1.0) / d)) for d in pixel]
        full = [fft.next_fast_len(n + 2 * r, real=True) for n, r in zip(shape, reach, strict=True)]
        self._shape = shape
        self._before = [(m - n) // 2 for m, n in zip(full, shape, strict=True)]
        self._pad = [(0, 0)] + [(b, m - n - b) for b, m, n in zip(self._before, full, shape, strict=True)]
        fy, fx = fft.fftfreq(full[0], pixel[0])[:, None], fft.rfftfreq(full[1], pixel[1])
        sampled: Floats = np.sum([kernel.mtf(np.hypot(y, x)) for y, x in _aliases(pixel, fy, fx)], axis=0)
        self._mtf = (sampled / sampled[0, 0]).astype(np.float32)
        self._f2 = (fy * fy + fx * fx).astype(np.float32)
        self._full = full

    def __call__(self, slices: Array32, motion: Floats) -> Array32:
        padded = np.pad(slices, self._pad, mode="symmetric")
        waves = fft.rfft2(padded, workers=-1)
        waves *= self._mtf
        for n in np.flatnonzero(motion):
            waves[n] *= np.exp(np.float32(-2 * (np.pi * motion[n]) ** 2) * self._f2)
        back = fft.irfft2(waves, s=self._full, workers=-1, overwrite_x=True)
        j, i = self._before
        return back[:, j : j + self._shape[0], i : i + self._shape[1]]


def _grain(
    scanner: Scanner, spacing: tuple[float, float, float], shape: tuple[int, ...], rng: np.random.Generator
) -> Iterator[Array32]:
    """Noise of sd 1, `SLAB` slices at a time for ever: the spectrum in the plane, the slice profile across."""
    fast = (fft.next_fast_len(shape[1]), fft.next_fast_len(shape[2]))
    power = _spectrum(KERNELS[scanner.kernel], spacing[1:], fast)
    # ifft2 divides by the number of pixels: amplitudes such that the mean square over pixels comes out as 1
    amplitude = (np.sqrt(power / power.mean()) * np.sqrt(power.size)).astype(np.float32)
    taps = _gaussian(SIGMA_OF_FWHM * (scanner.thickness or spacing[0]) / spacing[0])
    taps /= np.sqrt((taps**2).sum())
    reach = len(taps) // 2

    def draw(count: int) -> Array32:
        # Real and imaginary part of the transform of white complex noise: two independent slices for one.
        pairs = (count + 1) // 2
        white = rng.standard_normal((pairs, *fast, 2), np.float32).view(np.complex64)[..., 0]
        white *= amplitude
        wave = fft.ifft2(white, workers=-1, overwrite_x=True)[:, : shape[1], : shape[2]]
        return np.concatenate([wave.real, wave.imag])[:count]

    ahead = draw(2 * reach)
    while True:
        run = np.concatenate([ahead, draw(SLAB)])
        ahead = run[SLAB:].copy()
        mixed = np.zeros((SLAB, *run.shape[1:]), np.float32)
        for n, tap in enumerate(taps):
            mixed += np.float32(tap) * run[n : n + SLAB]
        yield mixed


def _gaussian(sd: float) -> Floats:
    """The discrete Gaussian (Lindeberg 1990): its variance is exactly ``sd^2``, also below one voxel."""
    reach = max(1, int(np.ceil(4 * sd)))
    taps = ive(np.abs(np.arange(-reach, reach + 1)), sd * sd)
    return taps / taps.sum()


def _profile_sd(thickness: float | None, step: float) -> float:
    """Sd of the Gaussian that brings a box as wide as the slice spacing to the wanted width at half maximum."""
    if thickness is None or abs(thickness - step) < 1e-3 * step:
        return 0.0
    if thickness < step:
        raise UsageError(f"slices {step:g} mm apart cannot be only {thickness:g} mm thick in the phantom")
    half = 0.5 * np.array([thickness, -thickness])

    def excess(sd: float) -> float:
        at_edge = ndtr((half[0] + step / 2) / sd) - ndtr((half[0] - step / 2) / sd)
        return float(at_edge - 0.5 * (2 * ndtr(step / 2 / sd) - 1))

    return float(brentq(excess, 0.02 * step, thickness))


def _along_slices(hu: Array32, work: Callable[[Array32], NDArray]) -> None:
    """Replace the array by ``work`` of it, a few rows at a time."""
    for j in range(0, hu.shape[1], SLAB):
        hu[:, j : j + SLAB] = work(hu[:, j : j + SLAB])


def _motion_bands(sd: Floats) -> Floats:
    """Bands of ``1 - D d2/dk2`` in flux form for sds in slices: symmetric, so sums and constants are kept."""
    flux = (sd[1:] ** 2 + sd[:-1] ** 2) / 8  # two solutions, each of half the variance, which is 2 D
    bands = np.zeros((2, len(sd)))
    bands[0, 1:] = -flux
    bands[1] = 1
    bands[1, 1:] += flux
    bands[1, :-1] += flux
    return bands


def _solve_twice(bands: Floats, rows: Array32) -> NDArray:
    flat = rows.reshape(len(rows), -1)
    return solveh_banded(bands, solveh_banded(bands, flat)).reshape(rows.shape)


def _displace_stacks(
    hu: Array32, spacing: tuple[float, float, float], scanner: Scanner, rng: np.random.Generator
) -> None:
    """Give each stack of slices but the first (the lowest) a place of its own."""
    still = hu.copy()
    height = max(1, round(scanner.stack_height / spacing[0]))
    for first in range(height, len(hu), height):
        last = min(first + height, len(hu))
        move = rng.normal(0, scanner.stack_shift, 3) / spacing
        margin = int(np.ceil(abs(move[0]))) + 1
        low, high = max(0, first - margin), min(len(hu), last + margin)
        moved = shift(still[low:high], move, order=1, mode="nearest")
        hu[first:last] = moved[first - low : last - low]


def _survey(
    hu: Array32, spacing: tuple[float, float, float], unevenness: float
) -> tuple[Floats, Floats, Array32]:
    """How much each slice moves (0 to 1), and the noise of each slice and of each pixel of a slice, relatively.

    The product of the two has mean square 1 over the lung; without a lung, over the image.
    """
    size, rows, columns = hu.shape
    water, lung = np.empty(size), np.empty(size)
    mass, inside = np.zeros((rows, columns)), np.empty((size, rows, columns), bool)
    for first in range(0, size, SLAB):
        part = slice(first, first + SLAB)
        density = np.maximum(hu[part] / 1000 + 1, 0)
        water[part] = density.sum(axis=(1, 2), dtype=float)
        mass += density.sum(axis=0, dtype=float)
        # Inside the body there is tissue before and behind; so the foam of the couch is no lung.
        tissue = hu[part] > -200
        inside[part] = (hu[part] > LUNG_HU[0]) & (hu[part] < LUNG_HU[1])
        inside[part] &= np.logical_or.accumulate(tissue, axis=1)
        inside[part] &= np.logical_or.accumulate(tissue[:, ::-1], axis=1)[:, ::-1]
        lung[part] = inside[part].sum(axis=(1, 2))
    levels = np.flatnonzero(lung > 0.05 * lung.max()) if lung.any() else np.array([0, size - 1])
    base, middle = levels[0], 0.5 * (levels[0] + levels[-1])
    rise = np.clip((middle - np.arange(size)) / max(middle - base, 1.0), 0, 1)
    unrest = rise * rise * (3 - 2 * rise)

    diameter = 2 * np.sqrt(water * spacing[1] * spacing[2] / np.pi)  # of water that attenuates as much
    typical = np.average(diameter, weights=lung) if lung.any() else diameter.mean()
    weight_k = np.exp(unevenness * MU_WATER / 2 * (diameter - typical))
    y, x = spacing[1] * np.arange(rows), spacing[2] * np.arange(columns)
    total = max(mass.sum(), 1e-9)
    from_y, from_x = y - (mass.sum(axis=1) @ y) / total, x - (mass.sum(axis=0) @ x) / total
    distance2 = from_y[:, None] ** 2 + from_x**2
    weight_ji = np.exp(-0.5 * unevenness * distance2 / max((typical / 2) ** 2, 1.0)).astype(np.float32)
    counted = inside if lung.any() else np.ones_like(inside)
    square = weight_ji.astype(float) ** 2
    power = sum(w * w * square[mask].sum() for w, mask in zip(weight_k, counted, strict=True))
    weight_ji *= np.float32(np.sqrt(counted.sum() / power))
    return unrest, weight_k, weight_ji


def _outside_circle(
    diameter: float | None, spacing: tuple[float, float, float], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Pixels whose centre is outside the circle of reconstruction; none without one."""
    if diameter is None:
        return np.zeros(shape[1:], bool)
    y, x = (d * (np.arange(n) - (n - 1) / 2) for d, n in zip(spacing[1:], shape[1:], strict=True))
    return np.hypot(y[:, None], x) > diameter / 2
