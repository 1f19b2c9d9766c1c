"""The registration from end to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.ndimage import label as components

from lungvq import _sampling
from lungvq.anatomy import LUNGS
from lungvq.errors import GeometryError, PairError
from lungvq.progress import SILENT, Progress
from lungvq.register import backends, discrete, doubt, refine
from lungvq.register.descriptors import encode
from lungvq.register.field import (
    Array,
    Mask,
    affine_field,
    blur,
    extrapolate,
    fit_affine,
    gaussian_mean,
    grown,
    halve_voxels,
    jacobian,
    pull,
    smooth,
)
from lungvq.register.initialise import moments_map
from lungvq.register.parts import LEVEL as PART_LEVEL
from lungvq.register.parts import border_mm, loosened, parts_at, slides
from lungvq.register.quality import (
    Evidence,
    RegistrationQuality,
    check_islands,
    check_registered,
    check_rims,
    check_surfaces,
    measure,
    signed_distance,
)
from lungvq.volume import Box, Grid, Volume, box_around, grid_around

__all__ = ["RegisterOptions", "Registration", "register", "warp_labels"]

_OUTSIDE_HU = -600.0  # near enough to lung that its edge does not drown the texture beside it
_CLIP_HU = (-1000.0, 100.0)
_SMALLEST_JACOBIAN = 0.1
_UNFOLD_SIGMAS = (1.0, 1.5, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 6.0, 8.0)  # voxels
_BOX_MARGIN = 5  # voxels around a lung
_ISLAND_ML = 1.0  # a piece of a mask smaller than this, apart from the rest, is not registered
_HARDLY_DENSER_HU = 150.0
_PART_WINDOWS = (6.0, 6.0, 5.0, 4.0)  # no smaller than the whole lung's, beside which they are judged
_LIKENESS = 3.0  # sigma, voxels
_PART_REACH_MM = 20.0  # beyond where a part is thought to be
_FINE = 0.75  # voxels of the refinement, of the working spacing or of the scans' voxels if these are larger
_FINEST = 0.5  # likewise of its last steps, of the working spacing; the scans' voxels count as before
_WORTH_IT = 0.8  # of the voxels before: with less the last steps have no grid of their own
_STEPS_BEFORE, _STEPS_AGAIN = 5, 3  # where they do: so many steps before them, and so many windows twice
_WIDEST_VOXEL = (
    0.5625  # of the working spacing: wider ones are halved first, as linear interpolation blurs them
)


@dataclass(frozen=True, kw_only=True)
class RegisterOptions:
    """How to register.

    Parameters
    ----------
    spacing_mm : float
        Of the working grid, on which the results lie.
    jacobian_sigma_mm : float
        Gaussian sigma of the average that makes `Registration.jacobian`.
    margin_mm : float
        How far the results reach beyond the fixed lungs.
    smallest_lung_ml : float
        A lung below this volume in either scan is not registered.
    backend : str or Backend
        Who registers each lung: ``lungvq``, a name in `lungvq.register.backends.BACKENDS`, or such a function.
    """

    spacing_mm: float = 2.0
    jacobian_sigma_mm: float = 4.0
    margin_mm: float = 20.0
    smallest_lung_ml: float = 10.0
    backend: str | backends.Backend = "lungvq"


@dataclass(frozen=True, eq=False)
class Registration:
    """Where each point of the fixed scan (expiration) lies in the moving one (inspiration).

    All volumes share one isotropic grid along the body axes that covers both fixed lungs and a margin.

    Parameters
    ----------
    displacement : Volume, (K, J, I, 3) float32
        ``u(x) = phi(x) - x`` in mm, LPS (x, y, z); finite everywhere. ``moving.through(displacement, fixed.grid)`` is
        the moving scan on the fixed one's voxels.
    lungs : Volume, uint8
        The fixed lungs that were registered, 1 left, 2 right.
    jacobian, jacobian_raw : Volume, float32
        det grad phi, from each lung's own field: averaged within the lung, and as it is. NaN outside.
    jacobian_se : Volume, float32
        Standard error of `jacobian`, from what can be measured without a truth; NaN outside the lungs.
    expected_error : Volume, float32
        Root of the mean square error of the displacement to be expected, mm; NaN outside the lungs.
    confidence : Volume, float32
        0 to 1, `doubt.confidence` of the expected error: a half where 1 mm is to be expected.
    quality : RegistrationQuality
    """

    displacement: Volume
    lungs: Volume
    jacobian: Volume
    jacobian_raw: Volume
    jacobian_se: Volume
    expected_error: Volume
    confidence: Volume
    quality: RegistrationQuality


@dataclass(frozen=True, eq=False)
class _Lung:
    """One lung of one scan on a working grid: HU, constant around it, and the share of lung in a voxel."""

    hu: Array
    share: Array
    grid: Grid

    @property
    def mask(self) -> Mask:
        return self.share > 0.5


@dataclass(frozen=True, eq=False)
class _Source:
    """One lung of one scan as given, cut to its surroundings."""

    scan: Volume
    lung: Volume
    islands_ml: float
    """Crumbs of the mask that were left out."""
    aerated_rim: float
    """Share of what lies just outside the mask that looks like the lung inside."""

    @classmethod
    def cut(
        cls, scan: Volume, lungs: Volume, label: int, widest_mm: float, margin_mm: float = 12.0
    ) -> _Source:
        """Voxels wider than `widest_mm` are halved."""
        box = box_around(lungs.array == label, [int(np.ceil(margin_mm / s)) for s in scan.spacing])
        lung = lungs.array[box] == label
        islands = _islands(lung, _ISLAND_ML / scan.voxel_ml)
        lung &= ~islands
        hu = np.where(lung, np.clip(scan.array[box], *_CLIP_HU), _OUTSIDE_HU).astype(np.float32)
        return cls(
            _finer(Volume(hu, scan.grid.crop(box).affine), lung, widest_mm),
            Volume(lung.astype(np.float32), scan.grid.crop(box).affine),
            float(islands.sum()) * scan.voxel_ml,
            _aerated_rim(scan.array[box], lungs.array[box], label, scan.spacing),
        )

    @property
    def volume_ml(self) -> float:
        return float(self.lung.array.sum(dtype=float)) * self.lung.voxel_ml

    def corners(self) -> NDArray[np.float64]:
        """LPS mm of the corners of the box around the lung."""
        box = box_around(self.lung.array > 0)
        return self.lung.grid.world(list(product(*((s.start, s.stop - 1) for s in box))))

    def on(self, grid: Grid) -> _Lung:
        """On a working grid, without aliasing."""
        hu = self.scan.resample(grid, fill=_OUTSIDE_HU).array
        return _Lung(hu, self.lung.resample(grid, fill=0.0).array, grid)

    def around(self, lattice: Grid, margin: int, corners: NDArray[np.float64] | None = None) -> _Lung:
        """On a working grid of its own whose voxels fall in with those of `lattice`, beyond it where need be.

        Around the lung, or what of it lies within the box of `corners`, LPS mm.
        """
        own = self.corners()
        if corners is not None:
            own = np.clip(corners, own.min(axis=0), own.max(axis=0))
        index = lattice.index(own)
        low = np.floor(index.min(axis=0)).astype(int) - margin
        high = np.ceil(index.max(axis=0)).astype(int) + margin
        affine = lattice.affine.copy()
        affine[:3, 3] = lattice.world(low)
        k, j, i = (int(n) for n in high - low + 1)
        return self.on(Grid((k, j, i), affine))


@dataclass(frozen=True, eq=False)
class _Result:
    """One lung's registration on its part of the working grid."""

    box: Box
    mask: Mask
    motion: Array
    """u in mm, components along (k, j, i), good in the mask and continued beyond."""
    jacobian: Array
    signs: doubt.Signs
    evidence: Evidence


def register(
    fixed: Volume,
    moving: Volume,
    fixed_lungs: Volume,
    moving_lungs: Volume,
    *,
    moving_parts: Volume | None = None,
    options: RegisterOptions = RegisterOptions(),
    progress: Progress = SILENT,
) -> Registration:
    """Find where each point of the fixed lungs (expiration) lies in the moving scan (inspiration).

    Parameters
    ----------
    fixed, moving : Volume
        HU, canonical order (``reorient("SPL")``), any spacing.
    fixed_lungs, moving_lungs : Volume, uint8
        0 outside, 1 left, 2 right, on the grids of `fixed` and `moving`.
    moving_parts : Volume, uint8, optional
        Parts of the lungs that may slide on one another, as lobes do where a fissure parts them: any numbers but
        0, on the grid of `moving`. Each gets a field of its own within its lung (``lungvq`` only).
    options : RegisterOptions, optional
    progress : Progress, optional

    Returns
    -------
    Registration

    Raises
    ------
    GeometryError
        If a mask does not lie on its scan's grid.
    PairError
        If no lung is large enough in both scans.

    Notes
    -----
    The metric is local correlation, blind to how density changes with volume: nothing here assumes that mass
    is kept. Left and right never share a field. The same input gives the same result, bit for bit.
    """
    for scan, lungs, name in ((fixed, fixed_lungs, "fixed"), (moving, moving_lungs, "moving")):
        if not scan.grid.same_as(lungs.grid):
            raise GeometryError(f"expected the {name} lungs on the grid of the {name} scan, got another grid")
    if moving_parts is not None and not moving.grid.same_as(moving_parts.grid):
        raise GeometryError(
            "expected the parts of the lungs on the grid of the moving scan, got another grid"
        )
    sources, missing = _pair_up(fixed, moving, fixed_lungs, moving_lungs, options)
    unregistered = check_registered(missing, options.smallest_lung_ml)
    if not sources:
        raise PairError("no lung can be registered: " + " ".join(f.message for f in unregistered))

    present = fixed_lungs.array > 0
    everything = Volume(present, fixed_lungs.affine).crop(box_around(present))
    corners = everything.grid.corners()
    grid = grid_around(corners, options.spacing_mm, options.margin_mm)
    results = {}
    for name, (a, b) in sources.items():
        progress.stage(f"registering the {name} lung")
        parts = None
        if moving_parts is not None:
            own = moving_lungs.array == LUNGS[name]
            parts = moving_parts.like(np.where(own, moving_parts.array, 0).astype(np.uint8))
        results[name] = _register_lung(a, b, parts, grid, moving.grid, options, progress)

    crumbs = {
        scan: sum(pair[n].islands_ml for pair in sources.values())
        for n, scan in enumerate(("fixed", "moving"))
    }
    rims = {name: max(source.aerated_rim for source in pair) for name, pair in sources.items()}
    progress.stage("joining the lungs")
    labels = np.zeros(grid.shape, np.uint8)
    smoothed, raw, error, jacobian_se = (np.full(grid.shape, np.nan, np.float32) for _ in range(4))
    h = options.spacing_mm
    sigma = options.jacobian_sigma_mm / h
    for name, r in results.items():
        labels[r.box][r.mask] = LUNGS[name]
        raw[r.box][r.mask] = r.jacobian[r.mask]
        smoothed[r.box][r.mask] = gaussian_mean(r.jacobian, r.mask, sigma)[r.mask]
        error[r.box][r.mask] = r.evidence.expected_error[r.mask]
        share = doubt.jacobian_error(r.signs, options.jacobian_sigma_mm)[r.mask]
        jacobian_se[r.box][r.mask] = share * smoothed[r.box][r.mask]
    motion = _join(list(results.values()), grid)
    displacement = Volume(np.ascontiguousarray(np.moveaxis(motion[::-1], 0, -1)), grid.affine)
    each = {name: measure([r.evidence]) for name, r in results.items()}
    return Registration(
        displacement=displacement,
        lungs=Volume(labels, grid.affine),
        jacobian=Volume(smoothed, grid.affine),
        jacobian_raw=Volume(raw, grid.affine),
        jacobian_se=Volume(jacobian_se, grid.affine),
        expected_error=Volume(error, grid.affine),
        confidence=Volume(doubt.confidence(error), grid.affine),
        quality=RegistrationQuality(
            overall=measure([r.evidence for r in results.values()]),
            lungs=each,
            findings=(*unregistered, *check_surfaces(each), *check_rims(rims), *check_islands(crumbs)),
        ),
    )


def warp_labels(registration: Registration, labels: Volume, onto: Grid) -> Volume:
    """Labels of the moving scan brought onto a grid of the fixed one.

    Parameters
    ----------
    registration : Registration
    labels : Volume
        On the moving scan's grid, or any other in its space.
    onto : Grid
        In the space of the fixed scan.

    Returns
    -------
    Volume
        On `onto`: the label at the voxel nearest to phi(x); 0 outside `labels` and outside the registration's
        grid.
    """
    return labels.through(registration.displacement, onto, fill=0, nearest=True)


def _pair_up(
    fixed: Volume, moving: Volume, fixed_lungs: Volume, moving_lungs: Volume, options: RegisterOptions
) -> tuple[dict[str, tuple[_Source, _Source]], dict[str, tuple[float, float]]]:
    """The lungs there is enough of in both scans; of the others how many mL the fixed and the moving scan show."""
    sources, missing = {}, {}
    for name, label in LUNGS.items():
        before, after = (
            float(np.count_nonzero(m.array == label)) * m.voxel_ml for m in (fixed_lungs, moving_lungs)
        )
        if min(before, after) >= options.smallest_lung_ml:
            widest = _WIDEST_VOXEL * options.spacing_mm
            sources[name] = (
                _Source.cut(fixed, fixed_lungs, label, widest),
                _Source.cut(moving, moving_lungs, label, widest),
            )
        else:
            missing[name] = before, after
    return sources, missing


def _finer(scan: Volume, lung: Mask, largest_mm: float) -> Volume:
    """A scan on voxels halved along each axis until no wider than `largest_mm`.

    By splines within the lung, which keep what linear interpolation blurs; linearly near the edge, at which
    they would overshoot.
    """
    if max(scan.spacing) <= largest_mm:
        return scan
    deep = ~grown(~lung, 2)
    for axis in range(3):
        while scan.spacing[axis] > largest_mm:
            spline, linear = (halve_voxels(scan.array, axis, kind) for kind in ("spline", "linear"))
            deep = deep.repeat(2, axis=axis)
            affine = scan.affine.copy()
            affine[:3, axis] /= 2
            affine[:3, 3] -= affine[:3, axis] / 2
            scan = Volume(np.where(deep, spline, linear), affine)
    return scan


def _islands(lung: Mask, least: float) -> Mask:
    """Pieces of fewer than `least` voxels apart from the largest, counted on blocks of 2 x 2 x 2 voxels."""
    padded = np.pad(lung, [(0, n % 2) for n in lung.shape])
    count = padded.astype(np.uint8)
    for axis in range(3):
        even, odd = (tuple(slice(n, None, 2) if a == axis else slice(None) for a in range(3)) for n in (0, 1))
        count = count[even] + count[odd]
    pieces, n = components(count > 0, np.ones((3, 3, 3)))
    if n < 2:
        return np.zeros(lung.shape, bool)
    sizes = np.bincount(pieces.ravel(), weights=count.ravel(), minlength=n + 1)
    small = sizes < least
    small[0] = small[sizes[1:].argmax() + 1] = False
    fine = small[pieces].repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    return fine[: lung.shape[0], : lung.shape[1], : lung.shape[2]] & lung


def _aerated_rim(hu: Array, lungs: NDArray[np.uint8], label: int, spacing: Sequence[float]) -> float:
    """Share of the shell some 2 to 4 mm outside a lung that is hardly denser than the lung; on about 2 mm."""
    some = tuple(slice(None, None, max(1, round(2 / s))) for s in spacing)
    hu, lungs = hu[some], lungs[some]
    lung = lungs == label
    near = grown(lung)
    shell = grown(near) & ~near & (lungs == 0)
    if not shell.any() or not lung.any():
        return 0.0
    return float((hu[shell] < np.median(hu[lung]) + _HARDLY_DENSER_HU).mean())


def _register_lung(
    fixed: _Source,
    moving: _Source,
    moving_parts: Volume | None,
    whole: Grid,
    whole_scan: Grid,
    options: RegisterOptions,
    progress: Progress,
) -> _Result:
    """Register one lung on its part of the grid `whole`; `whole_scan` is all that the moving scan shows."""
    h = options.spacing_mm
    box = _box_holding(fixed.corners(), whole, _BOX_MARGIN)
    a, b = fixed.on(whole.crop(box)), moving.around(whole, _BOX_MARGIN)
    mask = a.mask

    extents = moments_map(a.share, b.share)
    start = _straight(*extents, mask.shape, pad=0)
    if options.backend == "lungvq":
        found = _search(a, b, extents, progress)
        field = refine.refine(a.hu, a.share, b.hu, b.share, found, refine.WINDOWS, outside=_OUTSIDE_HU).field
        progress.fraction(0.5)
        motion, parts = _to_mm(field, a.grid, b.grid), None
        if moving_parts is not None:
            parts = parts_at(moving_parts, mask, motion, a.grid, options.smallest_lung_ml)
        if parts is not None:
            border = border_mm(parts, h)
            apart = _search_apart(moving, a, _to_mm(found, a.grid, b.grid), parts, border)
            if not slides(_likeness(a, b, motion), _likeness(a, b, apart), mask, border):
                parts = None
        progress.fraction(0.6)
        if parts is None:
            motion, seen = _refine_finely(fixed, moving, a.grid, motion)
    else:
        chosen, parts = options.backend, None
        backend = backends.backend_named(chosen) if isinstance(chosen, str) else chosen
        motion = extrapolate(backend(a, b), mask)
        # What one more step would say is asked for, and not taken.
        spacings = _fine_spacings(fixed, moving, h)
        window = refine.FINE_WINDOWS[-1] * spacings[0] / spacings[-1]
        _, seen = _refine_on(fixed, moving, a.grid, motion, spacings[-1], (window,))
    if parts is None:
        motion, raw = _unfold(motion, mask, h)
    else:
        motion, seen, raw = _refine_apart(fixed, moving, a, apart, parts)
    progress.fraction(1.0)

    signs = doubt.Signs.of(seen[0], seen[1], mask, h)
    evidence = replace(
        _evidence(a, b, start, motion, raw, doubt.displacement_error(signs), moving.volume_ml),
        parts=1 if parts is None else len(np.unique(parts)),
        unseen=_unseen(a.grid, mask, motion, whole_scan),
    )
    return _Result(box, mask, motion, raw, signs, evidence)


def _unseen(grid: Grid, mask: Mask, motion: Array, scan: Grid) -> float:
    """Share of a lung that is mapped out of a scan; every eighth voxel is asked."""
    some = np.argwhere(mask)[::8]
    moved = grid.world(some) + motion[(slice(None), *some.T)][::-1].T
    index = scan.index(moved)
    return float(((index < -0.5) | (index > np.array(scan.shape) - 0.5)).any(axis=1).mean())


def _search(a: _Lung, b: _Lung, extents: tuple[NDArray, NDArray], progress: Progress) -> Array:
    """One lung found by exhaustive search: voxels from the fixed lung's grid to the moving one's."""
    mask = a.mask
    codes = encode(a.hu, mask)
    padded = _straight(*extents, mask.shape, discrete.LEVELS[0].radius)
    for n, level in enumerate(discrete.LEVELS):
        field = discrete.search(codes, mask, b.hu, b.share, padded, level.radius, level, outside=_OUTSIDE_HU)
        if n + 1 < len(discrete.LEVELS):
            padded = _continued(field, mask, [(discrete.LEVELS[n + 1].radius,) * 2] * 3)
        progress.fraction(0.2 * (n + 1))
    return field


def _likeness(a: _Lung, b: _Lung, motion: Array) -> Array:
    """Local correlation of a lung with the other scan as `motion` brings it there, in mm."""
    warped = pull(b.hu[None], _to_index(motion, a.grid, b.grid), False, _OUTSIDE_HU)[0]
    return refine.local_correlation(a.hu, warped, a.mask, sigma=_LIKENESS)


def _search_apart(moving: _Source, a: _Lung, motion: Array, parts: NDArray[np.uint8], border: Array) -> Array:
    """Each part of a lung found for itself, from the whole lung's search, mm on `a`'s grid.

    `parts` numbers them, `border` is how far a voxel is from other parts, mm.
    """
    found = motion.copy()
    for box, part, own in _cut_out(parts, a.mask):
        mask, grid = a.mask[box], a.grid.crop(box)
        start = loosened(motion[(slice(None), *box)], part, mask, border[box])
        b = moving.around(a.grid, _BOX_MARGIN, _reach(grid, own, start))
        hu, share = np.ascontiguousarray(a.hu[box]), a.share[box]
        field = _continued(_to_index(start, grid, b.grid), own, [(PART_LEVEL.radius,) * 2] * 3)
        field = discrete.search(
            encode(hu, mask), own, b.hu, b.share, field, PART_LEVEL.radius, PART_LEVEL, outside=_OUTSIDE_HU
        )
        field = refine.refine(
            hu, share, b.hu, b.share, field, _PART_WINDOWS, outside=_OUTSIDE_HU, part=part
        ).field
        found[(slice(None), *box)][:, part] = _to_mm(field, grid, b.grid)[:, part]
    return found


def _refine_apart(
    fixed: _Source, moving: _Source, a: _Lung, motion: Array, parts: NDArray[np.uint8]
) -> tuple[Array, Array, Array]:
    """Refine each part of a lung for itself, mm on `a`'s grid.

    Returns motion, signs of error as of `_refine_finely`, and the Jacobian, which knows no difference across the
    border of two parts.
    """
    h = a.grid.spacing[0]
    refined, seen, raw = motion.copy(), np.zeros((2, *parts.shape), np.float32), np.ones_like(a.hu)
    for box, part, own in _cut_out(parts, a.mask):
        grid = a.grid.crop(box)
        start = extrapolate(motion[(slice(None), *box)], own)
        found, signs = _refine_finely(fixed, moving, grid, start, part=part, reach=_reach(grid, own, start))
        found, expansion = _unfold(found, own, h)
        refined[(slice(None), *box)][:, part] = found[:, part]
        seen[(slice(None), *box)][:, part] = signs[:, part]
        raw[box][part] = expansion[part]
    return refined, seen, raw


def _cut_out(parts: NDArray[np.uint8], mask: Mask) -> Iterator[tuple[Box, Mask, Mask]]:
    """For each part of a lung: the box around it, all that belongs to it there, and what of that is lung."""
    for number in np.unique(parts):
        box = box_around((parts == number) & mask, [_BOX_MARGIN] * 3)
        part = (parts == number)[box]
        yield box, part, part & mask[box]


def _reach(grid: Grid, own: Mask, motion: Array) -> NDArray[np.float64]:
    """Two corners, LPS mm, of what voxels may be mapped into."""
    moved = grid.world(np.argwhere(own)) + motion[::-1, own].T
    return np.stack([moved.min(axis=0) - _PART_REACH_MM, moved.max(axis=0) + _PART_REACH_MM])


def _fine_spacings(fixed: _Source, moving: _Source, h: float) -> tuple[float, ...]:
    """Voxels of the one or two grids that a lung is refined on, mm, from the working spacing and the scans.

    Small windows want more voxels than large ones. But between the voxels of the scans there is nothing to find,
    and noise reaches further than the windows know.
    """
    voxel = max(fixed.lung.grid.voxel_mm, moving.lung.grid.voxel_mm)
    fine, finest = _FINE * max(h, voxel), max(_FINEST * h, _FINE * voxel)
    return (fine, finest) if finest < _WORTH_IT * fine else (fine,)


def _refine_finely(
    fixed: _Source,
    moving: _Source,
    grid: Grid,
    motion: Array,
    *,
    part: Mask | None = None,
    reach: NDArray[np.float64] | None = None,
) -> tuple[Array, Array]:
    """Refine a lung's motion, mm on `grid`, on grids as fine as the scans allow.

    Windows do not become smaller with the voxels: how unevenly a lung breathes is not a matter of the scan.
    """
    *before, last = _fine_spacings(fixed, moving, grid.spacing[0])
    windows: tuple[float, ...] = refine.FINE_WINDOWS
    for spacing in before:
        motion, _ = _refine_on(
            fixed, moving, grid, motion, spacing, windows[:_STEPS_BEFORE], part=part, reach=reach
        )
        windows = tuple(w * spacing / last for w in windows[_STEPS_BEFORE - _STEPS_AGAIN :])
    return _refine_on(fixed, moving, grid, motion, last, windows, part=part, reach=reach)


def _refine_on(
    fixed: _Source,
    moving: _Source,
    grid: Grid,
    motion: Array,
    spacing: float,
    windows: tuple[float, ...],
    *,
    part: Mask | None = None,
    reach: NDArray[np.float64] | None = None,
) -> tuple[Array, Array]:
    """Refine a lung's motion, mm on `grid`, on another grid of `spacing` mm, with `windows` in its voxels.

    Also the two signs of error that come with it, (2, K, J, I), in mm. With `part` of the lung alone, which the
    moving scan shows within the corners `reach`.
    """
    fine = grid_around(grid.corners(), spacing)
    a, b = fixed.on(fine), moving.around(fine, _BOX_MARGIN, reach)
    field = _to_index(_carried(motion, grid, fine), a.grid, b.grid)
    own = None if part is None else _carried(part[None].astype(np.float32), grid, fine)[0] > 0.5
    found = refine.refine(
        a.hu, a.share, b.hu, b.share, field, windows, outside=_OUTSIDE_HU, part=own, settled=True
    )
    signs = np.stack([found.discord, found.weakness]) * np.float32(fine.spacing[0])
    return _carried(_to_mm(found.field, a.grid, b.grid), fine, grid), _carried(signs, fine, grid)


def _carried(values: Array, grid: Grid, onto: Grid) -> Array:
    """A field on another grid along the same axes, by linear interpolation."""
    step = onto.spacing[0] / grid.spacing[0]
    first = grid.index(onto.world((0, 0, 0)))
    return _sampling.resample_along(np.ascontiguousarray(values), onto.shape, (step,) * 3, first)


def _continued(field: Array, mask: Mask, beyond: Sequence[tuple[int, int]]) -> Array:
    """A field that is known all over its box, continued so many voxels before and behind it along each axis.

    By the affine map that fits it in the mask, and what the field has beside that at the edge.
    """
    constant, slope = fit_affine(field, mask)
    rest = field - affine_field(constant, slope, mask.shape)
    rest = np.pad(rest, [(0, 0), *beyond], mode="edge")
    first = constant - slope @ np.array([before for before, _ in beyond])
    return affine_field(first, slope, rest.shape[1:]) + rest


def _unfold(motion: Array, mask: Mask, h: float) -> tuple[Array, Array]:
    """Where the map folds or nearly so, replace it by ever smoother versions of itself; and its Jacobian."""
    found = jacobian(motion / h)
    for sigma in _UNFOLD_SIGMAS:
        folded = (found < _SMALLEST_JACOBIAN) & mask
        if not folded.any():
            break
        share = np.clip(4 * blur(grown(folded, 2).astype(np.float32), sigma), 0, 1)
        motion = motion + share * (smooth(motion, mask, sigma) - motion)
        found = jacobian(motion / h)
    return motion, found


def _evidence(
    a: _Lung, b: _Lung, start: Array, motion: Array, raw: Array, expected: Array, moving_ml: float
) -> Evidence:
    """What the quality of a lung's registration is measured from."""
    h = a.grid.spacing[0]
    field = _to_index(motion, a.grid, b.grid)
    mask = a.mask

    def warp(image: Array, by: Array, fill: float) -> Array:
        return pull(image[None], by, False, fill)[0]

    seen = np.stack([warp(b.hu, by, _OUTSIDE_HU) for by in (start, field)])
    before, after = refine.local_correlation(a.hu, seen, mask)
    gap = signed_distance(b.mask, h)
    surface = mask & grown(~mask)
    # the middle of a voxel at the surface lies half a voxel within
    beyond = -h / 2 - pull(gap[None], field, True, 0.0)[0][surface]
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    height = (np.nonzero(surface)[0] - slices[0]) / max(slices[-1] - slices[0], 1)
    return Evidence(
        mask=mask,
        warped_mask=warp(b.share, field, 0) > 0.5,
        surface_mm=beyond,
        surface_height=height.astype(np.float32),
        expected_error=expected,
        jacobian=raw,
        before=before,
        after=after,
        motion_mm=np.sqrt((motion**2).sum(axis=0)),
        voxel_ml=h**3 / 1000,
        volume_moving_ml=moving_ml,
    )


def _join(results: list[_Result], grid: Grid) -> Array:
    """One finite field, mm: each lung's own in it and near it, blended by distance in between."""
    total = np.zeros((3, *grid.shape), np.float32)
    weight = np.zeros(grid.shape, np.float32)
    for r in results:
        beyond = [(part.start, n - part.stop) for part, n in zip(r.box, grid.shape, strict=True)]
        motion = _continued(r.motion, r.mask, beyond)
        if len(results) == 1:
            return motion
        share = 1 / (np.float32(1e-3) + _distance(np.pad(r.mask, beyond)) ** 2)
        total += share * motion
        weight += share
    return total / weight


def _distance(mask: Mask) -> Array:
    """Voxels from a mask, roughly: counted on every second voxel, but 0 in all of it and nowhere else."""
    coarse = 2 * distance_transform_edt(~mask[::2, ::2, ::2]).astype(np.float32)
    for axis, n in enumerate(mask.shape):
        coarse = coarse.repeat(2, axis=axis).take(np.arange(n), axis=axis)
    return np.where(mask, np.float32(0), np.maximum(coarse, np.float32(1)))


def _straight(scale: NDArray, shift: NDArray, shape: tuple[int, ...], pad: int) -> Array:
    """The field of ``x -> scale * x + shift``, on `pad` more voxels to each side."""
    first = shift + (scale - 1) * -pad
    return affine_field(first, np.diag(scale - 1), tuple(n + 2 * pad for n in shape))


def _offset(fixed: Grid, moving: Grid) -> Array:
    """From voxel 0 of one grid to voxel 0 of the other, mm, along (k, j, i)."""
    return (moving.world((0, 0, 0)) - fixed.world((0, 0, 0)))[::-1].astype(np.float32)[:, None, None, None]


def _to_mm(field: Array, fixed: Grid, moving: Grid) -> Array:
    return field * np.float32(fixed.spacing[0]) + _offset(fixed, moving)


def _to_index(motion: Array, fixed: Grid, moving: Grid) -> Array:
    return (motion - _offset(fixed, moving)) / np.float32(fixed.spacing[0])


def _box_holding(points: NDArray[np.float64], grid: Grid, margin: int) -> Box:
    """The box of voxels of `grid` around points, widened by `margin` voxels where there is room."""
    index = grid.index(points)
    low = np.maximum(np.floor(index.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(index.max(axis=0)).astype(int) + 1 + margin, grid.shape)
    return (
        slice(int(low[0]), int(high[0])),
        slice(int(low[1]), int(high[1])),
        slice(int(low[2]), int(high[2])),
    )
