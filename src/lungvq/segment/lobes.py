"""Lobes: the lungs cut along fissures that are looked for in the scan, and expected where people have them.

Where the scan shows nothing, the mean fissures of 50 people (:mod:`lungvq.fissures`) are the answer, and are said
to be: a fissure of one person lies some 8 mm (median) from them, and the middle lobe reaches a Dice of about 0.73.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from lungvq.anatomy import LEFT, LOBES, LOBES_OF_LUNG, RIGHT
from lungvq.errors import GeometryError
from lungvq.findings import Finding, passed, warn
from lungvq.fissures import LEFT_MODES, MEANS, RIGHT_MODES
from lungvq.segment._coarse import distance_to
from lungvq.segment.sheets import KEPT, Sheets, find_sheets, flattened
from lungvq.segment.surfaces import APART_MM, Evidence, FissureModel, Fit, Surface, fit_surfaces
from lungvq.volume import CANONICAL, Grid, Volume, box_around

if TYPE_CHECKING:
    from lungvq.segment import Anatomy

__all__ = ["PLACED", "Fissure", "Gap", "Lobes", "find_lobes", "lobes_from_prior"]

MODELS: dict[int, tuple[FissureModel, ...]] = {
    LEFT: (FissureModel("left_oblique", np.array(MEANS.left_oblique), np.array(LEFT_MODES)),),
    RIGHT: (
        FissureModel("right_oblique", np.array(MEANS.right_oblique), np.array(RIGHT_MODES)[:, :10]),
        FissureModel("horizontal", np.array(MEANS.horizontal), np.array(RIGHT_MODES)[:, 10:]),
    ),
}
SIDES = {"LUL": (1,), "LLL": (-1,), "RUL": (1, 1), "RML": (1, -1), "RLL": (-1, 0)}
"""Of each lobe to the fissures of its lung, in the order of `MODELS`: 1 above, -1 below, 0 not beside it."""
HELD_TOGETHER = {
    "left oblique": ("LUL", "LLL"),
    "right horizontal": ("RUL", "RML"),
    "right oblique": ("RUL", "RML", "RLL"),
}
"""Lobes that are one piece where a fissure is missing."""
NAMES = {"left_oblique": "left oblique", "right_oblique": "right oblique", "horizontal": "right horizontal"}
PLACED = {
    "image": "seen in part",
    "vessels": "not seen, laid through the gap between vessels",
    "prior": "not seen, laid where it lies in people on average",
}
"""What the bases of a `Fissure` mean, where it was not seen well enough for its completeness."""
FULL_COHERENCE = 0.55
"""Of a sheet that counts in full; it begins to count at `sheets.KEPT`."""
SEEN_CELLS = 60
"""Cells of 3 mm (some 5 cm2 in all) on which a fissure has to be seen to be called seen."""
LEAST_COMPLETENESS = 0.3
"""Of people's fissures less than this is rarely there: the scan is then too poor to tell missing from unseen."""
LUNG_STEP = 2
"""Voxels from one point of the lung to the next that stand for it."""
VESSEL_CELLS = 500
"""Voxels in vessels without which their gaps say nothing."""
EDGE_MM = 5.0
"""Distance from pleura and hilum that completeness leaves out: sheets are not looked for there."""
PATCH_MM = 2.5
LEAST_RIDGE = 0.25
SLIDES_FROM = 0.8
"""Completeness of a fissure from which the lobes on both sides may slide on one another."""
LEAST_GAP_MM2 = 200.0
MOST_ASTRAY_PCT = 40.0
"""Of a lobe's bronchi that may run in another one."""
HILUM_MM = 15.0
"""From the fork of a lobar bronchus: so far it may run beside its lobe, on either side of a fissure drawn on."""


def lobes_from_prior(lungs: Volume) -> Volume:
    """Lobes of an inspiratory lung mask by the mean fissures.

    Parameters
    ----------
    lungs : Volume of uint8
        1 left, 2 right, in canonical order ``"SPL"`` (a slight obliquity is neglected), any spacing. Both
        lungs should be complete: the surfaces are placed by each lung's bounding box.

    Returns
    -------
    Volume of uint8
        1 LUL, 2 LLL, 3 RUL, 4 RML, 5 RLL wherever `lungs` is not 0.

    Raises
    ------
    GeometryError
        If the volume is not in canonical order.
    """
    _check(lungs)
    lobes = np.zeros(lungs.shape, np.uint8)
    for side, models in MODELS.items():
        mask = lungs.array == side
        if mask.any():
            box = box_around(mask)
            nothing = np.zeros(0)
            _cut(
                lobes[box],
                mask[box],
                tuple(Surface(m.name, m.mean, nothing, np.ones(3)) for m in models),
            )
    return lungs.like(lobes)


def _check(lungs: Volume) -> None:
    if lungs.grid.codes != CANONICAL:
        raise GeometryError(f"expected lungs in canonical order {CANONICAL}, got {lungs.grid.codes}")


def _cut(lobes: NDArray[np.uint8], mask: NDArray[np.bool_], surfaces: tuple[Surface, ...]) -> None:
    """Write the lobes of one lung into its box."""
    # Voxel centres within the box, whose faces are at 0 and 1.
    z, y, x = (((np.arange(n) + 0.5) / n) for n in mask.shape)
    heights = [s.height(*np.broadcast_arrays(x[None, :], y[:, None])) for s in surfaces]
    above = z[:, None, None] > heights[0]
    if len(surfaces) == 1:
        labels = np.where(above, LOBES["LUL"], LOBES["LLL"])
    else:
        upper = np.where(z[:, None, None] > heights[1], LOBES["RUL"], LOBES["RML"])
        labels = np.where(above, upper, LOBES["RLL"])
    lobes[mask] = labels[mask]


@dataclass(frozen=True)
class Gap:
    """A part of a fissure in which it was not seen.

    Parameters
    ----------
    area_cm2 : float
    centre_mm : tuple of 3 floats
        LPS.
    """

    area_cm2: float
    centre_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Fissure:
    """Where one fissure was found and how sure that is.

    Parameters
    ----------
    name : str
        ``"left oblique"``, ``"right oblique"`` or ``"right horizontal"``.
    basis : str
        ``"image"``: it was seen; ``"vessels"``: it was laid through the gap between vessels; ``"prior"``: it is
        where it lies in people on average.
    points : int
        Cells of 3 mm in which it was seen.
    completeness : float or None
        Share of its area that was seen, 0 to 1, some millimetres under the pleura left out; None where the fissure
        as a whole was not seen, which does not say that it is not there.
    uncertainty_mm : float
        Standard deviation of its place along the normal, root mean square over its area.
    gaps : tuple of Gap
        The larger parts where it was not seen, largest first; empty without completeness.
    """

    name: str
    basis: str
    points: int
    completeness: float | None
    uncertainty_mm: float
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, eq=False)
class Lobes:
    """The lobes of one scan and the fissures between them.

    Parameters
    ----------
    labels : Volume of uint8
        1 LUL, 2 LLL, 3 RUL, 4 RML, 5 RLL.
    fissures : dict of str to Fissure
    findings : tuple of Finding
    """

    labels: Volume
    fissures: dict[str, Fissure]
    findings: tuple[Finding, ...]

    def that_may_slide(self) -> Volume | None:
        """The parts of the lungs that may slide on one another: lobes, or several that hold together.

        Returns
        -------
        Volume of uint8, or None
            On the grid of `labels`, each part with the label of one of its lobes; None where nothing slides, as no
            fissure was seen over at least `SLIDES_FROM` of its area: where it is missing, the lung holds together.
        """
        free = [
            f.name
            for f in self.fissures.values()
            if f.basis == "image" and (f.completeness or 0) >= SLIDES_FROM
        ]
        if not free:
            return None
        part = np.arange(1 + max(LOBES.values()), dtype=np.uint8)
        for name, lobes in HELD_TOGETHER.items():
            if name not in free:
                part[[LOBES[lobe] for lobe in lobes]] = part[LOBES[lobes[0]]]
        return self.labels.like(part[self.labels.array])


def find_lobes(ct: Volume, anatomy: Anatomy) -> Lobes:
    """Lobes of an inspiration scan.

    Parameters
    ----------
    ct : Volume
        HU in canonical order ``"SPL"`` (slightly oblique is fine), any spacing.
    anatomy : Anatomy
        On the grid of `ct`.

    Returns
    -------
    Lobes

    Raises
    ------
    GeometryError
        If the volume is not in canonical order.
    """
    lungs = anatomy.lungs
    _check(lungs)
    flat, labels = flattened(ct, lungs)
    sheets = find_sheets(flat, labels)
    reach = 4 * EDGE_MM
    pleura = flat.like(np.minimum(distance_to(labels == 0, flat.spacing, reach), np.float32(reach)))
    lobes = np.zeros(lungs.shape, np.uint8)
    fissures: dict[str, Fissure] = {}
    for side, models in MODELS.items():
        mask = lungs.array == side
        if not mask.any():
            continue
        box = box_around(mask)
        size = np.array([n * s for n, s in zip(mask[box].shape, ct.spacing, strict=True)])[::-1]
        evidence, ridge = _evidence(sheets, anatomy, side, box)
        fit = fit_surfaces(models, evidence, size)
        _cut(lobes[box], mask[box], fit.surfaces)
        patches = _patches(fit.surfaces, lungs.grid.crop(box), pleura)
        for n, patch in enumerate(patches):
            fissures[patch.name] = _judge(fit, n, patch, evidence, ridge, pleura.spacing)
    labels_out = lungs.like(lobes)
    return Lobes(labels_out, fissures, (*_findings(fissures), *_check_bronchi(labels_out, anatomy)))


@dataclass(frozen=True, eq=False)
class _Patches:
    """One fissure as points on a regular grid over its lung, those of it that lie well inside.

    `points`, `normals` (N, 3) in mm from the corner of the box, `area` (N,) mm2, `world` (N, 3) LPS mm, `cell`
    (N, 2) place on the grid of `shape`, `x`, `y` (N,) in the box.
    """

    name: str
    points: NDArray[np.float64]
    normals: NDArray[np.float64]
    area: NDArray[np.float64]
    world: NDArray[np.float64]
    cell: NDArray[np.intp]
    shape: tuple[int, int]
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def _patches(surfaces: tuple[Surface, ...], grid: Grid, pleura: Volume) -> list[_Patches]:
    size = surfaces[0].size
    x, y = (np.arange(0.5 * PATCH_MM, extent, PATCH_MM) / extent for extent in size[:2])
    X, Y = np.broadcast_arrays(x[None, :], y[:, None])
    result = []
    for n, surface in enumerate(surfaces):
        height = surface.height(X, Y)
        normal, upright = surface.normal(X, Y)
        points = np.stack([X, Y, height], axis=-1) * size
        world = grid.world(points.reshape(-1, 3)[:, ::-1] / grid.spacing - 0.5)
        deep = pleura.sample(world, fill=0).reshape(X.shape) > max(EDGE_MM, 2 * max(pleura.spacing))
        if n:  # the horizontal fissure ends at the oblique one
            deep &= (height - surfaces[0].height(X, Y)) * size[2] > APART_MM
        cell = np.argwhere(deep)
        result.append(
            _Patches(
                NAMES[surface.name],
                points[deep],
                normal[deep],
                PATCH_MM**2 / upright[deep],
                world[deep.ravel()],
                cell,
                (X.shape[0], X.shape[1]),
                X[deep],
                Y[deep],
            )
        )
    return result


def _judge(
    fit: Fit,
    which: int,
    patch: _Patches,
    evidence: Evidence,
    ridge: NDArray[np.float32],
    spacing: tuple[float, float, float],
) -> Fissure:
    """How much of a fissure was seen, where it was not, and how well its place is known."""
    points = round(fit.support[which])
    area = float(patch.area.sum())
    basis = (
        "image" if points >= SEEN_CELLS else "vessels" if len(evidence.vessels) >= VESSEL_CELLS else "prior"
    )
    if not area:
        return Fissure(patch.name, "prior" if basis == "vessels" else basis, points, None, float("nan"))
    deviation = fit.deviation(which, patch.x, patch.y)
    uncertainty = float(np.sqrt((deviation**2 * patch.area).sum() / area))
    if basis != "image":
        return Fissure(patch.name, basis, points, None, uncertainty)
    seen = _seen(fit.surfaces[which], patch, evidence, ridge, max(1.0, float(np.mean(spacing)) / 1.5))
    completeness = float(patch.area[seen].sum()) / area
    if completeness < LEAST_COMPLETENESS:
        return Fissure(patch.name, basis, points, None, uncertainty)
    return Fissure(patch.name, basis, points, completeness, uncertainty, _gaps(patch, seen))


def _seen(
    surface: Surface, patch: _Patches, evidence: Evidence, ridge: NDArray[np.float32], scale: float
) -> NDArray[np.bool_]:
    """Which points of a fissure have a sheet on them that is brighter than both of its sides."""
    x, y = (evidence.sheets[:, :2] / surface.size[:2]).T
    normal, upright = surface.normal(x, y)
    distance = evidence.sheets[:, 2] - surface.height(x, y) * surface.size[2]
    aligned = np.abs((normal * evidence.normals).sum(axis=1)) > np.cos(np.radians(30))
    on = aligned & (np.abs(distance * upright) < 2.0 * scale)
    if not on.any():
        return np.zeros(len(patch.points), bool)
    near, number = cKDTree(evidence.sheets[on]).query(patch.points, k=15, distance_upper_bound=4.0 * scale)
    ridges = np.append(ridge[on], np.nan)[number]  # beyond the bound the number is that of none
    some = near[:, 0] < 1.5 * scale
    seen = np.zeros(len(patch.points), bool)
    seen[some] = np.nanmedian(ridges[some], axis=1) > LEAST_RIDGE
    return seen


def _gaps(patch: _Patches, seen: NDArray[np.bool_]) -> tuple[Gap, ...]:
    """Connected parts of at least 2 cm2 that were not seen, largest first."""
    missing = np.zeros(patch.shape, bool)
    missing[tuple(patch.cell[~seen].T)] = True
    parts, count = ndimage.label(missing, np.ones((3, 3)))
    of = parts[tuple(patch.cell.T)]
    gaps = []
    for n in range(1, count + 1):
        area = patch.area[of == n]
        if area.sum() >= LEAST_GAP_MM2:
            centre = np.average(patch.world[of == n], axis=0, weights=area)
            gaps.append(Gap(float(area.sum()) / 100, (float(centre[0]), float(centre[1]), float(centre[2]))))
    return tuple(sorted(gaps, key=lambda g: -g.area_cm2))


def _check_bronchi(lobes: Volume, anatomy: Anatomy) -> tuple[Finding, ...]:
    """Whether the bronchi of each lobe run in it."""
    astray: dict[str, float] = {}
    for name, points in anatomy.bronchi.points.items():
        beyond = points[np.linalg.norm(points - points[0], axis=1) > HILUM_MM]
        index = np.rint(lobes.grid.index(beyond)).astype(int)
        index = index[((index >= 0) & (index < lobes.shape)).all(axis=1)]
        found = lobes.array[tuple(index.T)]
        if (found > 0).sum() >= 5:
            astray[name] = 100 * float((found[found > 0] != LOBES[name]).mean())
    if not astray:
        return ()
    worst = max(astray, key=lambda name: astray[name])
    details = {"value": astray[worst], "limit": MOST_ASTRAY_PCT, "unit": "%"}
    if astray[worst] <= MOST_ASTRAY_PCT:
        return (passed("LOBES_HOLD_BRONCHI", "The bronchi of each lobe run within it.", **details),)
    return (
        warn(
            "LOBES_HOLD_BRONCHI",
            f"{astray[worst]:.0f} % of the bronchi named {worst} run in another lobe: fissure or name is wrong.",
            advice="Compare the lobes' outlines with the scan before using numbers of single lobes.",
            touches=("lobes",),
            **details,
        ),
    )


def _findings(fissures: dict[str, Fissure]) -> tuple[Finding, ...]:
    """One finding per fissure: how it was placed."""
    findings = []
    for name, fissure in fissures.items():
        code = "FISSURE_" + name.upper().replace(" ", "_")
        off = f"{fissure.uncertainty_mm:.1f} mm (SD)"
        if fissure.basis == "image" and fissure.completeness is not None:
            findings.append(
                passed(
                    code,
                    f"The {name} fissure was seen over {100 * fissure.completeness:.0f} % of its area; its place is"
                    f" known to {off}.",
                    value=100 * fissure.completeness,
                    unit="%",
                )
            )
            continue
        crosses = np.isfinite(fissure.uncertainty_mm)
        findings.append(
            warn(
                code,
                f"The {name} fissure was {PLACED[fissure.basis]}; it may be off by {off}."
                if crosses
                else f"The {name} fissure was not seen, and does not cross the lung where it would have to lie.",
                value=float(fissure.points),
                limit=float(SEEN_CELLS),
                unit="cells seen",
                advice="Compare the lobes' outlines with the scan before using numbers of the lobes beside it.",
                touches=("lobes",),
            )
        )
    return tuple(findings)


def _evidence(
    sheets: Sheets, anatomy: Anatomy, side: int, box: tuple[slice, slice, slice]
) -> tuple[Evidence, NDArray[np.float32]]:
    """Sheets and vessels of one lung in mm from the corner of its box, and how much each sheet is a ridge."""
    grid = anatomy.lungs.grid
    corner = np.array([b.start for b in box]) - 0.5
    use = sheets.lung == side
    axes = grid.affine[:3, :3] / grid.spacing
    weight = (sheets.coherence[use] - KEPT) / (FULL_COHERENCE - KEPT)
    inside = anatomy.lungs.array[box] == side
    in_vessel = (anatomy.vessels.array[box] > 0) & inside
    in_vessel &= ~_near(grid.index(sheets.points[use]) - corner - 0.5, inside.shape, grid.spacing)

    def placed(mask: NDArray[np.bool_], step: int) -> NDArray[np.float64]:
        centres = (np.argwhere(mask) * step + 0.5) * np.array(grid.spacing)
        return centres[:, ::-1].astype(np.float64)

    bronchi = anatomy.bronchi.points
    known = [
        name for name in LOBES_OF_LUNG["left" if side == LEFT else "right"] if len(bronchi.get(name, ()))
    ]
    of_bronchi = [(grid.index(bronchi[name]) - corner) * grid.spacing for name in known]
    sides = [np.tile(SIDES[name], (len(bronchi[name]), 1)) for name in known]
    evidence = Evidence(
        sheets=((grid.index(sheets.points[use]) - corner) * grid.spacing)[:, ::-1],
        normals=(sheets.normals[use] @ axes)[:, ::-1].astype(np.float64),
        weights=np.clip(weight, 0, 1).astype(np.float64),
        vessels=placed(in_vessel, 1),
        lung=placed(inside[::LUNG_STEP, ::LUNG_STEP, ::LUNG_STEP], LUNG_STEP),
        bronchi=np.concatenate([*of_bronchi, np.zeros((0, 3))])[:, ::-1],
        sides=np.concatenate([*sides, np.zeros((0, len(MODELS[side])))]),
    )
    return evidence, sheets.ridge[use]


def _near(
    index: NDArray[np.floating], shape: tuple[int, ...], spacing: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """Voxels whose centres are no farther than 1 mm, or an edge within the slice, from the voxels of some points.

    What finds its like in a disc is no vessel, however bright: coarse voxels make lines of a sheet.
    """
    reach = 1.01 * max(1.0, *spacing[1:])
    steps = [np.arange(-int(reach / s), int(reach / s) + 1) for s in spacing]
    ball = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    ball = ball[np.linalg.norm(ball * spacing, axis=1) <= reach]
    where = np.rint(index).astype(int)
    near = np.zeros(shape, bool)
    for step in ball:
        own = where + step
        near[tuple(own[((own >= 0) & (own < shape)).all(axis=1)].T)] = True
    return near
