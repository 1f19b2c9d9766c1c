"""A pair of chest CTs whose every truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from lungvq import anatomy
from lungvq.errors import UsageError
from lungvq.phantom import render
from lungvq.phantom.cases import CASES
from lungvq.phantom.motion import Motion, map_points, unmap_points
from lungvq.phantom.subject import Subject, Tubes, at_inspiration, draw_subject, join
from lungvq.phantom.tissue import composition_at
from lungvq.progress import SILENT, Progress
from lungvq.volume import Grid, Volume

Floats = NDArray[np.float64]

LANDMARKS = 300
WALL_OF_RADIUS = 1.25  # outer radius of an airway over that of its lumen
PSF_MM = 0.45  # sd of the scanner's blur
LOW_VENTILATION = LOW_FLOW = 0.6  # of the mean: below, a voxel counts as having lost it


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of a phantom. Maps lie on the expiratory grid; NaN outside the lungs.

    Parameters
    ----------
    displacement : Volume
        (K, J, I, 3), mm, LPS: what `Phantom.phi` adds to each voxel centre, in the whole image.
    jacobian : Volume
        Inspiratory per expiratory volume.
    lobes_exp, lobes_insp : Volume
        Labels of :mod:`lungvq.anatomy`, each on the grid of its scan.
    ventilation : Volume
        Air gained, mL per mL of expiratory lung, tissue and blood counted as water.
    perfusion : Volume
        Relative flow, mean 1 over the lungs.
    mass_change : Volume
        g per mL of expiratory lung, inspiration minus expiration.
    vq_class : Volume
        1 normal, 2 dead space, 3 shunt, 4 matched defect; low means below 0.6 of the mean.
    landmarks : ndarray, shape (N, 2, 3)
        Forks of vessels, expiration and inspiration, LPS mm.
    scalars : dict
        Volumes and masses, for ``truth.json``.
    """

    displacement: Volume
    jacobian: Volume
    lobes_exp: Volume
    lobes_insp: Volume
    ventilation: Volume
    perfusion: Volume
    mass_change: Volume
    vq_class: Volume
    landmarks: Floats
    scalars: dict[str, object]


@dataclass(frozen=True, eq=False)
class Phantom:
    """Two scans of one subject, in HU on their own grids, and the truth about them."""

    case: str
    seed: int
    insp: Volume
    exp: Volume
    truth: Truth
    motion: Motion

    def phi(self, points: NDArray) -> Floats:
        """Where points (N, 3) of the expiratory lung are at inspiration, LPS mm, in closed form."""
        return map_points(self.motion, np.ascontiguousarray(points, float))[0]

    def jacobian_at(self, points: NDArray) -> Floats:
        """``det grad phi`` at points (N, 3), by the chain rule."""
        return map_points(self.motion, np.ascontiguousarray(points, float))[1]

    def phi_inverse(self, points: NDArray) -> Floats:
        """Where points (N, 3) of the inspiratory lung are at expiration, LPS mm, to 1e-9 mm."""
        return unmap_points(self.motion, np.ascontiguousarray(points, float))


def make_phantom(
    case: str = "healthy",
    *,
    seed: int = 0,
    spacing: float | Sequence[float] = 2.0,
    progress: Progress = SILENT,
) -> Phantom:
    """A pair of scans at inspiration and expiration with its truth.

    Parameters
    ----------
    case : str
        One of `CASES`.
    seed : int
        Chooses the subject within the case: size, shape, fissures, motion, tissue, noise.
    spacing : float or three floats
        mm, for slices, rows and columns.

    Raises
    ------
    UsageError
        If there is no such case, or the spacing is not positive.
    """
    if case not in CASES:
        raise UsageError(f"there is no phantom called {case!r}: choose one of {', '.join(CASES)}")
    step = tuple(np.broadcast_to(np.asarray(spacing, float), (3,)))
    if not all(0.3 <= s <= 10 for s in step):
        raise UsageError(f"the spacing of a phantom is 0.3 to 10 mm, got {spacing}")
    settings = CASES[case]
    rng = np.random.default_rng([seed, sorted(CASES).index(case)])
    progress.stage("drawing a subject")
    subject = draw_subject(settings, rng)
    grid_exp, grid_insp = _grids(subject, step)
    progress.stage("rendering the expiratory scan")
    scan = _scan(subject, grid_exp, False)
    exp = _expose(scan.hu, grid_exp, settings.noise_hu[1], settings.hu_offset[1], rng)
    lobes_exp, tubes_g = scan.lobes, scan.tubes_g
    measured = {"volume_exp_ml": scan.volume_ml, "mass_exp_g": scan.mass_g}
    progress.stage("rendering the inspiratory scan")
    scan = _scan(subject, grid_insp, True, tubes_g)
    insp = _expose(scan.hu, grid_insp, settings.noise_hu[0], settings.hu_offset[0], rng)
    lobes_insp = scan.lobes
    measured |= {"volume_insp_ml": scan.volume_ml, "mass_insp_g": scan.mass_g}
    del scan
    progress.stage("writing down the truth")
    truth = _truth(subject, grid_exp, lobes_exp, Volume(lobes_insp, grid_insp.affine), measured, rng)
    return Phantom(case, seed, insp, exp, truth, subject.motion)


def _grids(subject: Subject, step: tuple[float, ...]) -> tuple[Grid, Grid]:
    c = subject.shape
    half_x, half_y = c.half_width + c.wall + c.fat, c.half_depth + c.wall + c.fat
    moved = map_points(subject.motion, subject.samples)[0]
    grow_x, grow_y = (
        moved[:, 0].max() - subject.samples[:, 0].max(),
        subject.samples[:, 1].min() - moved[:, 1].min(),
    )
    grids = []
    for bottom, wide, deep in ((subject.samples[:, 2].min(), 0.0, 0.0), (moved[:, 2].min(), grow_x, grow_y)):
        low = np.array([-half_x - wide - 12, -half_y - deep - 14, bottom - 34])
        high = np.array([half_x + wide + 12, half_y + 42, c.apex_z + 34])
        count = np.ceil((high - low) / step[::-1]).astype(int)
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2] = step
        affine[:3, 3] = low
        affine[3, 3] = 1
        grids.append(Grid((int(count[2]), int(count[1]), int(count[0])), affine))
    return grids[0], grids[1]


class _Scan(NamedTuple):
    """HU without blur and noise, lobe labels, and what the lungs and the tubes in them hold."""

    hu: NDArray[np.float32]
    lobes: NDArray[np.uint8]
    mass_g: float
    volume_ml: float
    tubes_g: float


def _scan(subject: Subject, grid: Grid, breath_in: bool, tubes_g: float | None = None) -> _Scan:
    """One breath-hold; `tubes_g` is what the tubes weighed at the other, to be kept."""
    rho, cover = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    body, lobes = np.full(grid.shape, -1000, np.int16), np.zeros(grid.shape, np.uint8)
    render.render_lungs(
        subject.shape,
        subject.motion,
        subject.tissue,
        breath_in,
        grid.shape,
        grid.affine,
        subject.ribs_rise,
        rho,
        cover,
        body,
        lobes,
    )
    _add_couch(body, grid, subject)
    walls = Tubes(subject.airways.ends, subject.airways.radius * WALL_OF_RADIUS, subject.airways.lobe)
    solid = join([subject.vessels, walls])
    lumen = _draw(subject.airways, np.ones(len(subject.airways.radius)), subject, grid, breath_in, lobes)
    excess = _relative_excess(subject, solid) if breath_in else np.ones(len(solid.radius))
    dense = _draw(solid, excess, subject, grid, breath_in, lobes)
    tubes = render.tube_mass(rho, cover, dense, lumen) * grid.voxel_ml
    if tubes_g is not None:
        # Forks and ends overlap otherwise than before the breath; a few percent of the radius makes up for it.
        for _ in range(3):
            excess *= (tubes / tubes_g) if tubes_g > 0 else 1.0
            dense = _draw(solid, excess, subject, grid, breath_in, lobes)
            tubes = render.tube_mass(rho, cover, dense, lumen) * grid.voxel_ml
    mass, volume = render.mix(rho, cover, body, dense, lumen)
    return _Scan(rho, lobes, float(mass * grid.voxel_ml), float(volume * grid.voxel_ml), float(tubes))


def _draw(
    tubes: Tubes, excess: Floats, subject: Subject, grid: Grid, breath_in: bool, lobes: NDArray[np.uint8]
) -> NDArray[np.uint16]:
    """Coverage by tubes on one grid."""
    ends, radius = tubes.ends, tubes.radius
    if breath_in:
        ends, radius = at_inspiration(tubes, subject.motion, excess)
    out = np.zeros(grid.shape, np.uint16)
    start, stop = np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1])
    render.draw_tubes(start, stop, radius, radius, tubes.lobe, lobes, grid.affine, out)
    return out


def _relative_excess(subject: Subject, tubes: Tubes) -> Floats:
    """Density of blood above the parenchyma around it, at inspiration over expiration."""
    middle = tubes.ends.mean(axis=1)
    parts = composition_at(subject.tissue, middle)
    jac = map_points(subject.motion, middle)[1]
    before = parts[:, 0] + parts[:, 1]
    after = (before + parts[:, 2]) / jac
    return (render.DENSE - after) / (render.DENSE - before)


def _add_couch(body: NDArray[np.int16], grid: Grid, subject: Subject) -> None:
    """A plate under the back: thin skins of carbon fibre around foam."""
    c = subject.shape
    x = grid.affine[0, 3] + grid.affine[0, 2] * np.arange(grid.shape[2])
    y = grid.affine[1, 3] + grid.affine[1, 1] * np.arange(grid.shape[1])
    depth = y[:, None] - (c.half_depth + c.wall + c.fat + 12.0) + 0.0008 * x[None, :] ** 2
    width = max(1.5, grid.spacing[1])
    skin = (np.abs(depth) < width / 2) | (np.abs(depth - 16) < width / 2)
    foam = (depth > 0) & (depth < 16)
    air = body <= -1000
    np.copyto(body, np.int16(-880), where=air & foam[None])
    np.copyto(body, np.int16(-250), where=air & skin[None])


def _expose(
    hu: NDArray[np.float32], grid: Grid, noise: float, offset: float, rng: np.random.Generator
) -> Volume:
    """Blur, correlated noise, offset and rounding of a scanner."""
    step = np.array(grid.spacing)
    gaussian_filter(hu, PSF_MM / step, output=hu)
    grain = rng.standard_normal(grid.shape, dtype=np.float32)
    gaussian_filter(grain, 0.6 / step, output=grain)
    grain *= noise * np.sqrt(1.5 / np.prod(step) ** (1 / 3)) / grain[::3].std()
    hu += grain
    hu += offset
    return Volume(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), grid.affine)


def _truth(
    subject: Subject,
    grid: Grid,
    lobes: NDArray[np.uint8],
    lobes_insp: Volume,
    measured: dict[str, float],
    rng: np.random.Generator,
) -> Truth:
    displacement = np.empty((*grid.shape, 3), np.float32)
    jacobian, ventilation, flow, change = (np.empty(grid.shape, np.float32) for _ in range(4))
    render.render_truth(
        subject.shape,
        subject.motion,
        subject.tissue,
        grid.shape,
        grid.affine,
        lobes,
        displacement,
        jacobian,
        ventilation,
        flow,
        change,
    )
    inside = lobes > 0
    flow /= flow[inside].mean(dtype=float)
    v_low = ventilation < LOW_VENTILATION * ventilation[inside].mean(dtype=float)
    q_low = flow < LOW_FLOW
    kind = np.where(inside, 1 + q_low + 2 * v_low, 0).astype(np.uint8)
    scalars: dict[str, object] = dict(measured)
    scalars["air_gained_ml"] = float(ventilation[inside].sum(dtype=float) * grid.voxel_ml)
    scalars["mass_gained_g"] = float(change[inside].sum(dtype=float) * grid.voxel_ml)
    scalars["lobes"] = {
        name: {
            "volume_exp_ml": float((lobes == label).sum() * grid.voxel_ml),
            "volume_insp_ml": float((lobes_insp.array == label).sum() * lobes_insp.voxel_ml),
            "air_gained_ml": float(ventilation[lobes == label].sum(dtype=float) * grid.voxel_ml),
            "flow_share": float(flow[lobes == label].sum(dtype=float) / flow[inside].sum(dtype=float)),
        }
        for name, label in anatomy.LOBES.items()
    }

    def volume(array: NDArray) -> Volume:
        return Volume(array, grid.affine)

    return Truth(
        volume(displacement),
        volume(jacobian),
        volume(lobes),
        lobes_insp,
        volume(ventilation),
        volume(flow),
        volume(change),
        volume(kind),
        _landmarks(subject, rng),
        scalars,
    )


def _landmarks(subject: Subject, rng: np.random.Generator) -> Floats:
    """Forks of vessels thick enough to see, at both breath-holds."""
    seen = np.flatnonzero(subject.vessels.radius > 0.8)
    chosen = rng.choice(seen, min(LANDMARKS, seen.size), replace=False)
    exp = np.ascontiguousarray(subject.vessels.ends[np.sort(chosen), 1])
    return np.stack([exp, map_points(subject.motion, exp)[0]], axis=1)
