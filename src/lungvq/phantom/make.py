"""A pair of chest CTs whose every truth is known."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lungvq import anatomy
from lungvq.errors import UsageError
from lungvq.phantom import render
from lungvq.phantom.cases import CASES, CaseSettings
from lungvq.phantom.motion import Motion, map_points, scaled, unmap_points
from lungvq.phantom.place import lobes_at
from lungvq.phantom.scanner import expose
from lungvq.phantom.subject import Samples, Subject, draw_subject, tissue_at
from lungvq.phantom.tree import Tree
from lungvq.progress import SILENT, Progress
from lungvq.volume import Grid, Volume

Floats = NDArray[np.float64]

LANDMARKS = 300
LANDMARK_RADIUS_MM = 0.8
WALL_OF_RADIUS = 1.25  # outer radius of an airway over that of its lumen
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
    disease : Volume
        1 emphysema, 2 air trapping, 3 territory of a blocked artery, 4 consolidation, 5 ground glass,
        6 fibrosis, 7 patchy flow; 0 none of them, and outside the lungs.
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
    disease: Volume
    landmarks: Floats
    scalars: dict[str, object]


@dataclass(frozen=True, eq=False)
class Phantom:
    """Two scans of one subject, in HU on their own grids, and the truth about them."""

    case: str
    seed: int
    settings: CaseSettings
    insp: Volume
    exp: Volume
    truth: Truth
    subject: Subject

    @property
    def motion(self) -> Motion:
        """The breath, in closed form."""
        return self.subject.motion

    def phi(self, points: NDArray) -> Floats:
        """Where points (N, 3) of the expiratory lung are at inspiration, LPS mm, in closed form."""
        return map_points(self.motion, np.ascontiguousarray(points, float))[0]

    def jacobian_at(self, points: NDArray) -> Floats:
        """``det grad phi`` at points (N, 3), by the chain rule."""
        return map_points(self.motion, np.ascontiguousarray(points, float))[1]

    def phi_inverse(self, points: NDArray) -> Floats:
        """Where points (N, 3) of the inspiratory lung are at expiration, LPS mm, to 1e-9 mm."""
        return unmap_points(self.motion, np.ascontiguousarray(points, float))

    def at(self, share: float, points: NDArray) -> tuple[Floats, Floats]:
        """Where points (N, 3) of expiration are after a part of the breath, and the expansion there."""
        return map_points(scaled(self.motion, share), np.ascontiguousarray(points, float))


def make_phantom(
    case: str | CaseSettings = "healthy",
    *,
    seed: int = 0,
    spacing: float | Sequence[float] = 2.0,
    matrix: tuple[int, int] | None = None,
    progress: Progress = SILENT,
) -> Phantom:
    """A pair of scans at inspiration and expiration with its truth.

    Parameters
    ----------
    case : str or CaseSettings
        One of `CASES`, or settings of one's own.
    seed : int
        Chooses the person: size, shape, fissures, motion, tissue, noise. The same seed is the same person
        in every case.
    spacing : float or three floats
        mm, for slices, rows and columns.
    matrix : (int, int), optional
        Rows and columns of the images; without it, as many as the body needs.

    Raises
    ------
    UsageError
        If there is no such case, or the spacing is not that of a scan.
    """
    if isinstance(case, str) and case not in CASES:
        raise UsageError(f"there is no phantom called {case!r}: choose one of {', '.join(CASES)}")
    step = tuple(float(s) for s in np.broadcast_to(np.asarray(spacing, float), (3,)))
    if not all(0.3 <= s <= 10 for s in step):
        raise UsageError(f"the spacing of a phantom is 0.3 to 10 mm, got {spacing}")
    settings = CASES[case] if isinstance(case, str) else case
    name = case if isinstance(case, str) else "custom"
    progress.stage("drawing a subject")
    subject = draw_subject(settings, seed)
    noise = [np.random.default_rng([seed, zlib.crc32(name.encode()), n]) for n in range(3)]
    return _taken(subject, settings, (name, seed), _grids(subject, step, matrix), noise, progress)


def rescan(phantom: Phantom, *, share: float = 1.0, draw: int = 1, progress: Progress = SILENT) -> Phantom:
    """The same subject scanned again: other noise, and a breath in of another depth.

    Parameters
    ----------
    share : float
        Of the first breath, 0 to 1; lobes that slide do not slide again.
    draw : int
        Chooses the noise; 1 or more.
    """
    motion = phantom.subject.motion
    subject = replace(phantom.subject, motion=scaled(motion, share) if share != 1 else motion)
    number = zlib.crc32(phantom.case.encode())
    noise = [np.random.default_rng([phantom.seed, number, n, draw]) for n in range(3)]
    grids = phantom.exp.grid, phantom.insp.grid
    return _taken(subject, phantom.settings, (phantom.case, phantom.seed), grids, noise, progress)


def _taken(
    subject: Subject,
    settings: CaseSettings,
    named: tuple[str, int],
    grids: tuple[Grid, Grid],
    noise: Sequence[np.random.Generator],
    progress: Progress,
) -> Phantom:
    """Both scans of a subject and the truth about them."""
    grid_exp, grid_insp = grids
    progress.stage("rendering the expiratory scan")
    scan = _scan(subject, grid_exp, False)
    lobes_exp, tubes_g, totals = scan.lobes, scan.tubes_g, scan.totals
    measured = {"volume_exp_ml": scan.volume_ml, "mass_exp_g": scan.mass_g}
    progress.stage("scanning at expiration")
    exp = expose(scan.hu, grid_exp, settings.exp, noise[0])
    progress.stage("rendering the inspiratory scan")
    scan = _scan(subject, grid_insp, True, tubes_g)
    lobes_insp, insp_ml = scan.lobes, scan.totals[:, 0]
    measured |= {"volume_insp_ml": scan.volume_ml, "mass_insp_g": scan.mass_g}
    progress.stage("scanning at inspiration")
    insp = expose(scan.hu, grid_insp, settings.insp, noise[1])
    del scan
    progress.stage("writing down the truth")
    truth = _truth(
        subject,
        grid_exp,
        lobes_exp,
        Volume(lobes_insp, grid_insp.affine),
        measured,
        totals,
        insp_ml,
        noise[2],
    )
    truth.scalars["settings"] = asdict(settings)
    return Phantom(*named, settings, insp, exp, truth, subject)


def _grids(subject: Subject, step: tuple[float, ...], matrix: tuple[int, int] | None) -> tuple[Grid, Grid]:
    c = subject.shape
    half_x = c.half_width + c.wall + c.fat + 42 * c.size  # to the shoulders
    half_y = c.half_depth + c.wall + c.fat + 0.5 * c.breast
    points = subject.samples.points
    moved = map_points(subject.motion, points)[0]
    grow_x, grow_y = moved[:, 0].max() - points[:, 0].max(), points[:, 1].min() - moved[:, 1].min()
    grids = []
    for bottom, wide, deep in ((points[:, 2].min(), 0.0, 0.0), (moved[:, 2].min(), grow_x, grow_y)):
        low = np.array([-half_x - wide - 12, -half_y - deep - 14, bottom - 34])
        high = np.array([half_x + wide + 12, c.half_depth + c.wall + c.fat + 42, c.apex_z + 34])
        count = np.ceil((high - low) / step[::-1]).astype(int)
        if matrix is not None:
            middle = (low + high) / 2
            count[:2] = matrix[::-1]
            low[:2] = middle[:2] - (count[:2] - 1) / 2 * step[:0:-1]
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2] = step
        affine[:3, 3] = low
        affine[3, 3] = 1
        grids.append(Grid((int(count[2]), int(count[1]), int(count[0])), affine))
    return grids[0], grids[1]


class _Scan(NamedTuple):
    """HU without blur and noise, lobe labels, and what the lungs and the tubes in each lobe hold."""

    hu: NDArray[np.float32]
    lobes: NDArray[np.uint8]
    mass_g: float
    volume_ml: float
    tubes_g: Floats
    totals: Floats  # (6, 4) of each lobe, mL: volume, that at inspiration, mass gained (g), flow


class Tubes(NamedTuple):
    """What is drawn as one: ends (B, 2, 3) at expiration, radii (B,), the lobe each stays in (0: any)."""

    ends: Floats
    radius: Floats
    lobe: NDArray[np.int64]


def _join(*trees: tuple[Tree, float]) -> Tubes:
    """All branches of several trees, each with a factor on its radii."""
    return Tubes(
        np.concatenate([tree.ends for tree, _ in trees]),
        np.concatenate([tree.radius * factor for tree, factor in trees]),
        np.concatenate([tree.lobe for tree, _ in trees]),
    )


def _scan(subject: Subject, grid: Grid, breath_in: bool, tubes_g: Floats | None = None) -> _Scan:
    """One breath-hold; `tubes_g` is what the tubes of each lobe weighed at the other, to be kept."""
    rho, cover = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.uint16)
    body, lobes = np.full(grid.shape, -1000, np.int16), np.zeros(grid.shape, np.uint8)
    totals = render.render_lungs(
        subject.shape,
        subject.motion,
        subject.tissue,
        subject.territory,
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
    trees = subject.trees
    solid = _join((trees.arteries, 1.0), (trees.veins, 1.0), (trees.airways, WALL_OF_RADIUS))
    airways = _join((trees.airways, 1.0))
    lumen = _draw(airways, np.ones(len(airways.radius)), subject, grid, breath_in, lobes)
    excess = _relative_excess(subject, solid) if breath_in else np.ones(len(solid.radius))
    dense = _draw(solid, excess, subject, grid, breath_in, lobes)
    tubes = render.tube_mass(rho, cover, dense, lumen, lobes).sum(axis=0) * grid.voxel_ml
    if tubes_g is not None:
        # Forks and ends overlap otherwise than before the breath; a few percent of the radius makes up for it.
        for _ in range(3):
            factor = np.where(tubes_g > 1e-3, tubes / np.maximum(tubes_g, 1e-3), 1.0)
            factor[0] = 1.0
            excess *= factor[solid.lobe]
            dense = _draw(solid, excess, subject, grid, breath_in, lobes)
            tubes = render.tube_mass(rho, cover, dense, lumen, lobes).sum(axis=0) * grid.voxel_ml
    mass, volume = render.mix(rho, cover, body, dense, lumen)
    return _Scan(
        rho,
        lobes,
        float(mass.sum() * grid.voxel_ml),
        float(volume.sum() * grid.voxel_ml),
        tubes,
        totals.sum(axis=0) * grid.voxel_ml,
    )


def _draw(
    tubes: Tubes, excess: Floats, subject: Subject, grid: Grid, breath_in: bool, lobes: NDArray[np.uint8]
) -> NDArray[np.uint16]:
    """Coverage by tubes on one grid."""
    ends, radius = tubes.ends, tubes.radius
    if breath_in:
        ends, radius = _at_inspiration(tubes, subject.motion, excess)
    out = np.zeros(grid.shape, np.uint16)
    start, stop = np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1])
    render.draw_tubes(start, stop, radius, radius, tubes.lobe, lobes, grid.affine, out)
    return out


def _at_inspiration(tubes: Tubes, motion: Motion, excess: Floats) -> tuple[Floats, Floats]:
    """Where branches are after the breath, and how thick: each keeps its mass above what surrounds it.

    `excess` (B,) is the density above the surroundings at inspiration, relative to expiration.
    """
    ends = map_points(motion, tubes.ends.reshape(-1, 3))[0].reshape(-1, 2, 3)
    before = np.linalg.norm(np.diff(tubes.ends, axis=1)[:, 0], axis=1)
    after = np.linalg.norm(np.diff(ends, axis=1)[:, 0], axis=1)
    return ends, tubes.radius * np.sqrt(np.maximum(before, 1e-6) / np.maximum(after, 1e-6) / excess)


def _relative_excess(subject: Subject, tubes: Tubes) -> Floats:
    """Density of blood above the parenchyma around it, at inspiration over expiration."""
    middle = np.ascontiguousarray(tubes.ends.mean(axis=1))
    labels, depth, fissure, jac = lobes_at(subject.shape, subject.motion, middle)
    parts = tissue_at(subject.tissue, subject.territory, Samples(middle, labels, depth, fissure, jac))
    before = parts[:, 0] + parts[:, 1]
    after = (before + parts[:, 2]) / jac
    excess = (render.DENSE - after) / np.maximum(render.DENSE - before, 0.05)
    return np.where(labels > 0, np.clip(excess, 0.5, 3.0), 1.0)


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


def _truth(
    subject: Subject,
    grid: Grid,
    lobes: NDArray[np.uint8],
    lobes_insp: Volume,
    measured: dict[str, float],
    totals: Floats,
    insp_ml: Floats,
    rng: np.random.Generator,
) -> Truth:
    displacement = np.empty((*grid.shape, 3), np.float32)
    jacobian, ventilation, flow, change = (np.empty(grid.shape, np.float32) for _ in range(4))
    disease = np.zeros(grid.shape, np.uint8)
    render.render_truth(
        subject.shape,
        subject.motion,
        subject.tissue,
        subject.territory,
        grid.shape,
        grid.affine,
        lobes,
        displacement,
        jacobian,
        ventilation,
        flow,
        change,
        disease,
    )
    inside = lobes > 0
    flow /= flow[inside].mean(dtype=float)  # of these voxels, where the subject's is of its samples
    v_low = ventilation < LOW_VENTILATION * ventilation[inside].mean(dtype=float)
    q_low = flow < LOW_FLOW
    kind = np.where(inside, 1 + q_low + 2 * v_low, 0).astype(np.uint8)
    scalars: dict[str, object] = dict(measured)
    scalars["air_gained_ml"] = float((totals[:, 1] - totals[:, 0] - totals[:, 2]).sum())
    scalars["mass_gained_g"] = float(totals[:, 2].sum())
    scalars["lobes"] = {
        name: {
            "volume_exp_ml": float(totals[label, 0]),
            "volume_insp_ml": float(insp_ml[label]),
            "air_gained_ml": float(totals[label, 1] - totals[label, 0] - totals[label, 2]),
            "mass_gained_g": float(totals[label, 2]),
            "flow_share": float(totals[label, 3] / totals[:, 3].sum()),
        }
        for name, label in anatomy.LOBES.items()
    }
    scalars["fissure_completeness"] = subject.completeness
    scalars["blocked_branches"] = list(subject.blocked)
    tissue = subject.tissue
    scalars["knobs"] = {
        name: float(getattr(tissue, name)) for name in ("follow", "beta", "gamma", "flip", "hypoxic")
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
        volume(disease),
        _landmarks(subject, rng),
        scalars,
    )


def _landmarks(subject: Subject, rng: np.random.Generator) -> Floats:
    """Forks of vessels thick enough to see, at both breath-holds."""
    forks = []
    for tree in (subject.trees.arteries, subject.trees.veins):
        forks.append(tree.ends[(tree.radius > LANDMARK_RADIUS_MM) & ~tree.is_leaf & (tree.lobe > 0), 1])
    points = np.concatenate(forks)
    chosen = rng.choice(len(points), min(LANDMARKS, len(points)), replace=False)
    exp = np.ascontiguousarray(points[np.sort(chosen)])
    return np.stack([exp, map_points(subject.motion, exp)[0]], axis=1)
