"""What other machines would see of a phantom: SPECT of ventilation and perfusion, dual-energy CT.

All come from the same truth, so that comparison studies know the right answer. SPECT is taken in free
breathing on another day: its own lung volume, its own low-dose CT, its own place of the patient.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from lungvq import anatomy
from lungvq.errors import UsageError
from lungvq.phantom.scanner import SIGMA_OF_FWHM, Scanner, expose
from lungvq.volume import Grid, Volume, grid_around

if TYPE_CHECKING:
    from lungvq.phantom.make import Phantom

__all__ = [
    "Dect",
    "Modalities",
    "Spect",
    "deposit",
    "dual_energy",
    "make_modalities",
    "spect_image",
    "write_modalities",
]

Floats = NDArray[np.float64]
Array32 = NDArray[np.float32]

IMAGES = ("spect_v", "spect_q", "spect_ct", "dect_pbv")
WORK_MM = 2.5  # at which the body is carried to another lung volume
CENTRAL_RADIUS_MM = 2.6  # airways at least so wide collect aerosol
HOT_SPOT_MM = 3.5  # sd of one
DROPLETS = 60  # in one
SCATTER_MM = 40.0  # sd of the haze
ATTENUATION_MM = 40.0  # over how much body the error of attenuation goes
LOW_DOSE = Scanner(kernel="standard", noise_hu=150.0, unevenness=0.5)  # some 40 HU in voxels so large
AIR_HU, MIN_EXPANSION = -1000.0, 0.05


@dataclass(frozen=True)
class Spect:
    """One SPECT/CT examination, ventilation first, then perfusion without moving.

    Parameters
    ----------
    voxel_mm : float
        Isotropic; 3.9 to 4.8 mm in use.
    fwhm_mm : float
        Resolution of the images, 12 to 15 mm; `filter_mm` of it is the filter after reconstruction.
    kilocounts : float
        Counts of each acquisition.
    noise_gain : float
        Variance of a reconstructed voxel over that of as many counts seen directly. At 2 and 500 kilocounts a
        uniform lung shows a V/Q whose distribution is 0.3 wide at half maximum, as dual-isotope phantoms do.
    attenuation_error : float
        Sd over the lung of the smooth error that imperfect correction leaves.
    scatter : float
        Share of the counts in a haze around their origin, within the body.
    central : float
        Share of the ventilation counts that aerosol leaves in hot spots of the central airways; 0.02 is a good
        Technegas study, 0.2 a liquid aerosol in airway obstruction.
    hot_spots : int
        How many.
    shares : tuple of floats
        Parts of the breath, from the expiratory breath-hold, over which free breathing smears the tracer.
    ct_share : float
        The part of it at which the low-dose CT is taken.
    ct_spacing : three floats
        mm, slices, rows and columns.
    ct_scanner : Scanner
        Its acquisition.
    turn_deg, shift_mm : float
        Sds of the patient's new place on this table, about and along each axis.
    """

    voxel_mm: float = 4.42
    fwhm_mm: float = 13.0
    filter_mm: float = 8.0
    kilocounts: float = 500.0
    noise_gain: float = 2.0
    attenuation_error: float = 0.03
    scatter: float = 0.06
    central: float = 0.02
    hot_spots: int = 6
    shares: tuple[float, ...] = (0.2, 0.3, 0.4)
    ct_share: float = 0.3
    ct_spacing: tuple[float, float, float] = (5.0, 2.5, 2.5)
    ct_scanner: Scanner = LOW_DOSE
    turn_deg: float = 2.0
    shift_mm: float = 8.0

    def __post_init__(self) -> None:
        if not 0 < self.voxel_mm <= self.fwhm_mm or self.filter_mm < 0:
            raise UsageError(
                f"a SPECT voxel of {self.voxel_mm} mm does not go with {self.fwhm_mm} mm resolution"
            )
        if self._system_variance() < 0:
            raise UsageError(
                f"a filter of {self.filter_mm} mm is too wide for a resolution of {self.fwhm_mm} mm"
            )
        if not (self.kilocounts > 0 and 0 <= self.scatter < 1 and 0 <= self.central < 1):
            raise UsageError(
                "SPECT counts are above zero; the shares of scatter and hot spots are 0 to below 1"
            )
        if not self.shares or not all(0 <= s <= 1 for s in (*self.shares, self.ct_share)):
            raise UsageError("the parts of the breath in free breathing are between 0 and 1")

    def _system_variance(self) -> float:
        """Blur before the counts are drawn, mm2: what the filter and the voxel do not make."""
        filtered = (SIGMA_OF_FWHM * self.filter_mm) ** 2
        return float((SIGMA_OF_FWHM * self.fwhm_mm) ** 2 - filtered - self.voxel_mm**2 / 6)

    @property
    def system_sd(self) -> float:
        """Sd in mm of the blur before the counts are drawn."""
        return float(np.sqrt(self._system_variance()))


@dataclass(frozen=True)
class Dect:
    """Perfused blood volume by dual-energy CT at inspiration.

    Parameters
    ----------
    spacing_mm : float
        Isotropic.
    artery_hu : float
        Iodine in the pulmonary trunk; the lung's mean is 0.15 of it, as published for normal lungs.
    noise_hu : float
        As `Scanner.noise_hu`, of the iodine map.
    streak_hu : float
        Beam hardening by the undiluted contrast in the superior vena cava: height of the streaks beside it.
    window_hu : (float, float)
        HU of inspiration that counts as lung; so vessels and dense disease are left out.
    """

    spacing_mm: float = 2.0
    artery_hu: float = 200.0
    noise_hu: float = 12.0
    streak_hu: float = 15.0
    window_hu: tuple[float, float] = (-960.0, -600.0)


@dataclass(frozen=True, eq=False)
class Modalities:
    """What `make_modalities` gives.

    Parameters
    ----------
    spect_v, spect_q : Volume
        Counts per voxel, float32.
    spect_ct : Volume
        int16 HU, in the frame of reference of the SPECT.
    dect_pbv : Volume
        int16 HU of iodine, in the frame of the inspiratory scan; -1024 outside the lung window.
    spect_from_exp : Volume
        (K, J, I, 3), mm, LPS: what to add to a point of expiration to find it in the low-dose CT.
    scalars : dict
        Shares of each lobe, the patient's place, the settings.
    """

    spect_v: Volume
    spect_q: Volume
    spect_ct: Volume
    dect_pbv: Volume
    spect_from_exp: Volume
    scalars: dict[str, object]


def make_modalities(
    phantom: Phantom, *, spect: Spect | None = None, dect: Dect | None = None, seed: int = 0
) -> Modalities:
    """SPECT V and Q with their CT, and dual-energy CT, of a phantom.

    Parameters
    ----------
    phantom : Phantom
        From :func:`lungvq.phantom.make_phantom`.
    spect, dect : Spect, Dect, optional
        How they are taken.
    seed : int
        Of noise, hot spots and the patient's place.

    Notes
    -----
    The activity of a parcel of lung is its truth, V (air gained) or Q, times its volume at expiration. It is
    carried along and deposited; so each lobe keeps its activity exactly, and density falls as 1/J.
    """
    spect, dect = spect or Spect(), dect or Dect()
    rng = np.random.default_rng([phantom.seed, seed, 33])
    truth = phantom.truth
    inside = truth.lobes_exp.array > 0
    parcels = truth.lobes_exp.grid.world(np.argwhere(inside))
    tracers = {
        "v": np.maximum(truth.ventilation.array[inside], 0).astype(float),
        "q": truth.perfusion.array[inside].astype(float),
    }
    place = _new_place(parcels.mean(axis=0), spect, rng)
    spots = _hot_spots(phantom, spect.hot_spots, rng)
    states = [_apply(place, phantom.at(share, parcels)[0]) for share in spect.shares]
    grid = grid_around(np.concatenate(states), spect.voxel_mm, 75.0)
    ct, moved = _low_dose_ct(phantom, spect, place, rng)
    density: Array32 = np.clip(ct.resample(grid, fill=AIR_HU).array / 1000 + 1, 0, 1.2, dtype=np.float32)

    images = {}
    for name, amount in tracers.items():
        activity: Floats = np.sum([deposit(points, amount, grid) for points in states], axis=0)
        activity *= (1 - spect.central * (name == "v")) / activity.sum()
        if name == "v" and spect.central > 0:
            strength = rng.dirichlet(np.full(len(spots), 2.0))
            at = np.repeat(spots, DROPLETS, axis=0) + rng.normal(0, HOT_SPOT_MM, (DROPLETS * len(spots), 3))
            where = _apply(place, phantom.at(float(np.mean(spect.shares)), at)[0])
            activity += deposit(where, np.repeat(strength, DROPLETS) * spect.central / DROPLETS, grid)
        images[name] = spect_image(activity, density, grid, spect, rng)
    pbv = dual_energy(phantom, dect, rng)
    labels = truth.lobes_exp.array[inside]
    scalars: dict[str, object] = {
        "lobes": {
            lobe: {f"{name}_share": float(a[labels == label].sum() / a.sum()) for name, a in tracers.items()}
            for lobe, label in anatomy.LOBES.items()
        },
        "place": place.tolist(),
        "hot_spots_exp": spots.tolist(),
        "spect": asdict(spect),
        "dect": asdict(dect),
    }
    return Modalities(images["v"], images["q"], ct, pbv, moved, scalars)


def deposit(points: Floats, amount: NDArray, grid: Grid) -> Floats:
    """Lay amounts down at points, each shared among the eight voxels around it, so that sums stay.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        LPS mm; what lies outside the outermost voxel centres is lost.
    amount : ndarray, shape (N,)
    grid : Grid

    Returns
    -------
    ndarray, shape `grid.shape`
    """
    out = np.zeros(grid.shape)
    _deposit(np.ascontiguousarray(grid.index(points)), np.ascontiguousarray(amount, float), out)
    return out


@numba.njit(cache=True)
def _deposit(index, amount, out):
    nz, ny, nx = out.shape
    for n in range(index.shape[0]):
        k, j, i = (int(np.floor(index[n, 0])), int(np.floor(index[n, 1])), int(np.floor(index[n, 2])))
        if k < 0 or j < 0 or i < 0 or k >= nz - 1 or j >= ny - 1 or i >= nx - 1:
            continue
        fz, fy, fx = index[n, 0] - k, index[n, 1] - j, index[n, 2] - i
        for a in range(2):
            wz = fz if a else 1 - fz
            for b in range(2):
                wy = fy if b else 1 - fy
                out[k + a, j + b, i] += amount[n] * wz * wy * (1 - fx)
                out[k + a, j + b, i + 1] += amount[n] * wz * wy * fx


def spect_image(
    activity: Floats, density: Array32, grid: Grid, spect: Spect, rng: np.random.Generator
) -> Volume:
    """The reconstruction of an activity.

    Parameters
    ----------
    activity : ndarray, shape `grid.shape`
        Activity per voxel, any unit.
    density : ndarray, shape `grid.shape`
        Of the body, g/mL; attenuates and scatters.
    grid : Grid
    spect : Spect
    rng : numpy.random.Generator

    Returns
    -------
    Volume
        float32 counts; their expectation sums to ``1000 spect.kilocounts``.

    Notes
    -----
    Not a simulation of projections: blur, error of attenuation and haze are laid on the image, and the counts are
    drawn from Poisson's law before the filter, which gives noise its grain.
    """
    step = spect.voxel_mm
    seen = gaussian_filter(activity, spect.system_sd / step, mode="constant")
    seen *= _attenuation_error(activity, density, spect)
    haze = gaussian_filter(seen, SCATTER_MM / step, mode="constant") * (density > 0.15)
    seen *= (1 - spect.scatter) / seen.sum()
    if haze.sum() > 0:
        seen += spect.scatter * haze / haze.sum()
    seen *= 1000 * spect.kilocounts / seen.sum()
    counts = rng.poisson(seen / spect.noise_gain).astype(np.float32) * np.float32(spect.noise_gain)
    gaussian_filter(counts, SIGMA_OF_FWHM * spect.filter_mm / step, mode="constant", output=counts)
    return Volume(counts, grid.affine)


def _attenuation_error(activity: Floats, density: Array32, spect: Spect) -> Array32:
    """Factor around 1, low where much body lies around: sd over the activity as set."""
    around = gaussian_filter(density, ATTENUATION_MM / spect.voxel_mm, mode="constant")
    lung = activity > 0.1 * activity.max()
    spread = around[lung].std()
    if spread < 1e-6:
        return np.ones_like(around)
    return np.clip(1 - spect.attenuation_error * (around - around[lung].mean()) / spread, 0.5, 1.5)


def dual_energy(phantom: Phantom, dect: Dect, rng: np.random.Generator) -> Volume:
    """Perfused blood volume at inspiration, int16 HU of iodine; -1024 outside the lung window.

    Notes
    -----
    At first pass the iodine that reaches a parcel goes with its flow, whatever blood it holds; so the map is Q
    carried to inspiration, Q/J, with mean 0.15 of the pulmonary trunk. Blood that does not flow is not seen.
    """
    insp = phantom.insp.grid
    grid = insp.with_spacing([max(dect.spacing_mm, s) for s in insp.spacing])
    inside = phantom.truth.lobes_insp.resample_labels(grid).array > 0
    home = phantom.phi_inverse(grid.world(np.argwhere(inside)))
    flow = phantom.truth.perfusion
    known = np.isfinite(flow.array)
    # linear interpolation among the voxels that are lung
    value = flow.like(np.where(known, flow.array, 0)).sample(home, fill=0)
    weight = flow.like(known.astype(np.float32)).sample(home, fill=0)
    density = value / np.maximum(weight, 1e-3) / phantom.jacobian_at(home)
    iodine = np.zeros(grid.shape, np.float32)
    iodine[inside] = 0.15 * dect.artery_hu * density / density.mean()
    iodine += _streaks(phantom, grid, dect, rng) * inside
    result = expose(iodine, grid, Scanner(noise_hu=dect.noise_hu), rng)
    hu = phantom.insp.resample(grid, fill=AIR_HU).array
    lung = inside & (hu >= dect.window_hu[0]) & (hu <= dect.window_hu[1])
    np.copyto(result.array, np.int16(-1024), where=~lung)
    return result


def _streaks(phantom: Phantom, grid: Grid, dect: Dect, rng: np.random.Generator) -> Array32:
    """Dark and bright rays around the superior vena cava, above the heart."""
    shape = phantom.subject.shape
    phase = rng.uniform(0, 2 * np.pi, 2)
    z = grid.affine[2, 3] + grid.affine[2, 0] * np.arange(grid.shape[0])
    at = phantom.phi(np.array([[shape.midline - 20.0, -0.25 * shape.half_depth, shape.heart[2] + 30.0]]))[0]
    y = (grid.affine[1, 3] + grid.affine[1, 1] * np.arange(grid.shape[1]) - at[1])[:, None]
    x = grid.affine[0, 3] + grid.affine[0, 2] * np.arange(grid.shape[2]) - at[0]
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    rays = 0.6 * np.cos(5 * angle + phase[0]) + 0.4 * np.cos(11 * angle + phase[1])
    plane = dect.streak_hu * rays * np.exp(-np.maximum(radius - 15, 0) / 35)
    above = 1 / (1 + np.exp(-(z - at[2]) / 8))
    return (above[:, None, None] * plane).astype(np.float32)


def _new_place(centre: Floats, spect: Spect, rng: np.random.Generator) -> Floats:
    """(4, 4): from the frame of the breath-holds to that of the SPECT."""
    place = np.eye(4)
    place[:3, :3] = Rotation.from_rotvec(rng.normal(0, spect.turn_deg, 3), degrees=True).as_matrix()
    place[:3, 3] = centre - place[:3, :3] @ centre + rng.normal(0, spect.shift_mm, 3)
    return place


def _apply(place: Floats, points: Floats) -> Floats:
    return points @ place[:3, :3].T + place[:3, 3]


def _hot_spots(phantom: Phantom, count: int, rng: np.random.Generator) -> Floats:
    """Places in central airways at expiration, forks first: shape (count, 3)."""
    airways = phantom.subject.trees.airways
    wide = np.flatnonzero((airways.radius > CENTRAL_RADIUS_MM) & (airways.generation > 0))
    return airways.ends[rng.choice(wide, count), 0]


def _low_dose_ct(
    phantom: Phantom, spect: Spect, place: Floats, rng: np.random.Generator
) -> tuple[Volume, Volume]:
    """The CT of the SPECT, and where each point of expiration lies in it.

    Each parcel of the expiratory scan, resampled to `WORK_MM`, brings its volume after the motion, and its mass:
    lung keeps it but for blood, the rest of the body keeps its density.
    """
    error = phantom.settings.exp
    grid = phantom.exp.grid.with_spacing((WORK_MM,) * 3)
    points = grid.world(np.argwhere(np.ones(grid.shape, bool)))
    moved, expansion = phantom.at(spect.ct_share, points)
    moved, expansion = _apply(place, moved), np.maximum(expansion, MIN_EXPANSION)
    hu = np.maximum(phantom.exp.array, np.int16(-1024))
    hu = phantom.exp.like(hu).resample(grid, fill=AIR_HU).array.ravel()
    density = np.maximum((hu + 1000 - error.offset_hu) / (1000 * error.gain), 0)
    lung = (phantom.truth.lobes_exp.resample_labels(grid).array > 0).ravel()
    gained = np.nan_to_num(phantom.truth.mass_change.array)
    gained = phantom.truth.mass_change.like(gained).resample(grid, fill=0).array.ravel()
    mass = np.where(lung, density + spect.ct_share * gained, density * expansion)
    ct_grid = grid_around(moved, 1.0).with_spacing(spect.ct_spacing)
    volume = deposit(moved, expansion, ct_grid)
    held = deposit(moved, mass, ct_grid)
    hu_ct = np.full(ct_grid.shape, AIR_HU, np.float32)
    np.divide(1000 * held, volume, out=hu_ct, where=volume > 1e-3)
    hu_ct[volume > 1e-3] -= 1000
    field = (moved - points).astype(np.float32).reshape(*grid.shape, 3)
    return expose(hu_ct, ct_grid, spect.ct_scanner, rng), Volume(field, grid.affine)


def write_modalities(modalities: Modalities, folder: Path | str) -> None:
    """Write the images as NIfTI, and below ``truth/`` the motion to the SPECT and ``modalities.json``."""
    from lungvq.io import write

    folder = Path(folder)
    truth = folder / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    for name in IMAGES:
        write(getattr(modalities, name), folder / f"{name}.nii.gz")
    write(modalities.spect_from_exp, truth / "spect_from_exp.nii.gz")
    (truth / "modalities.json").write_text(json.dumps(modalities.scalars, indent=2) + "\n")
