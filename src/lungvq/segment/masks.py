"""Lungs and lobes that a user brings along, or that another program found."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from lungvq.anatomy import LEFT, LOBES, LUNG_OF_LOBE_LABEL, RIGHT
from lungvq.errors import GeometryError, InputError, UsageError
from lungvq.findings import Finding, passed, warn
from lungvq.segment._checks import MOST_ML
from lungvq.segment._coarse import coarsen
from lungvq.segment.lungs import COARSE_MM, find_body, part_by_side
from lungvq.segment.padding import padding_of
from lungvq.volume import Grid, Volume

__all__ = [
    "check_grid",
    "check_mask",
    "has_sides",
    "lobes_from_labels",
    "lungs_from_mask",
    "parse_lobe_labels",
]

LEAST_OVERLAP = 0.9
"""Dice of lobes that were given and the lungs found, below which a finding says so."""
MOST_PADDING = 0.1
"""Share of a mask that may lie where nothing was scanned; it is left out, and the lungs are told to be cut there."""
LEAST_ML = 1.0
"""A mask that holds less has no lungs in it."""
MOST_ACROSS = 0.35
"""Share of a lung that may lie beyond the middle of the body: one that has taken the place of the other."""
LEAST_WITHIN = 0.3
"""Share of what a label map calls lobes that must lie in the lungs: less is something else."""
LEAST_LOBE_ML = 20.0
"""Of a lobe of which so little is seen the place says nothing."""
_FILL_MM = 2.5  # voxels on which the nearest lobe is looked for


def parse_lobe_labels(text: str) -> dict[str, int]:
    """Which number each lobe has in a label map, from ``LUL=1,LLL=2,RUL=3,RML=4,RLL=5``.

    Raises
    ------
    UsageError
        If a lobe is unknown or named twice, a label is no positive whole number, or two lobes share one.

    Examples
    --------
    >>> parse_lobe_labels("RUL=10, LUL=20")
    {'RUL': 10, 'LUL': 20}
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in LOBES or not equals or not number.isdigit() or int(number) == 0:
            raise UsageError(
                f"cannot read {part.strip()!r} in the labels of lobes: expected such as LUL=1, of {', '.join(LOBES)}"
            )
        if name in found or int(number) in found.values():
            raise UsageError(f"{part.strip()!r} in the labels of lobes repeats a lobe or a label")
        found[name] = int(number)
    return found


def lungs_from_mask(mask: Volume, ct: Volume, *, what: str = "the mask") -> Volume:
    """Left and right lung of a user's mask.

    Parameters
    ----------
    mask : Volume
        Nonzero is lung, but for what is padding in the scan. Where it holds both 1 and 2, and nothing else, these
        are left and right; otherwise sides come from geometry.
    ct : Volume
        The scan it belongs to, on the same grid, both in canonical order.
    what : str
        How messages call it.

    Returns
    -------
    Volume
        uint8, 1 left, 2 right.

    Raises
    ------
    GeometryError
        If mask and scan lie on different grids.
    InputError
        If the mask is empty or too small for a lung, its 1 lies to the right of its 2, one of them lies in both
        halves of the body, or more than a tenth of it is padding.
    """
    check_grid(what, mask.grid, ct.grid)
    check_mask(what, mask)
    inside = mask.array > 0
    given = np.count_nonzero(inside)
    inside &= ~padding_of(ct.array)
    beyond = 1 - np.count_nonzero(inside) / given
    if beyond > MOST_PADDING:
        raise InputError(
            f"{what} lies to {100 * beyond:.0f} % where nothing was scanned (the scan shows padding there), expected"
            f" at most {100 * MOST_PADDING:.0f} %: check that mask and scan belong together"
        )
    coarse = coarsen(ct, COARSE_MM)
    midline_mm = find_body(coarse).midline_mm
    if has_sides(mask):
        _check_sides(what, mask, midline_mm)
        return mask.like(np.where(inside, mask.array, 0).astype(np.uint8))
    share = mask.like(inside.astype(np.float32)).resample(coarse.grid, fill=0.0)
    pieces, _ = label(share.array > 0.5)
    sides = part_by_side(coarse, pieces.astype(np.int32), midline_mm)
    nearest = distance_transform_edt(sides == 0, return_distances=False, return_indices=True)
    everywhere = coarse.like(sides[tuple(nearest)]).resample_labels(mask.grid).array
    return mask.like(np.where(inside, everywhere, 0).astype(np.uint8))


def _check_sides(what: str, mask: Volume, midline_mm: float) -> None:
    """Refuse a mask whose 1 or 2 lies in both halves of the body: lungs and something else, not left and right."""
    x = mask.grid.affine[0, 3] + np.arange(mask.shape[2]) * mask.grid.affine[0, 2]
    for value, name, across in ((LEFT, "left", x < midline_mm), (RIGHT, "right", x > midline_mm)):
        columns = _columns_of(mask, value)
        share = columns[across].sum() / columns.sum()
        if share > MOST_ACROSS:
            raise InputError(
                f"{what} holds 1 and 2, which stand for the left and the right lung, but {100 * share:.0f} % of its"
                f" {value} lies in the other half of the body than the {name} lung, expected at most"
                f" {100 * MOST_ACROSS:.0f} %: if one of them is something else, such as a lesion, give a mask that is"
                " 1 wherever there is lung"
            )


def check_mask(what: str, mask: Volume) -> None:
    """Refuse a mask that holds no lungs, or in which what is called left lies to the right.

    Parameters
    ----------
    what : str
        How the message calls it.
    mask : Volume
        In canonical order: columns run to the left.

    Raises
    ------
    InputError
        If it is empty, holds less than `LEAST_ML` or more than `MOST_ML`, or has two sides (`has_sides`) and the
        middle of its 1 lies to the right of that of its 2: all results would change sides.
    """
    held = np.count_nonzero(mask.array > 0) * mask.voxel_ml
    if held == 0:
        raise InputError(f"{what} is empty: no voxel of it is nonzero")
    if held < LEAST_ML:
        raise InputError(
            f"{what} holds {held:.2g} mL, expected lungs, {LEAST_ML:g} mL or more: check that it is a mask of lungs"
        )
    if held > MOST_ML:
        raise InputError(
            f"{what} holds {held / 1000:.1f} L, expected lungs, at most {MOST_ML / 1000:g} L: check that its nonzero"
            " voxels are the lungs, and not all around them"
        )
    if not has_sides(mask):
        return
    middle = []
    for value in (LEFT, RIGHT):
        columns = _columns_of(mask, value)
        middle.append(float(columns @ np.arange(columns.size) / columns.sum()))
    apart = (middle[0] - middle[1]) * mask.spacing[2]
    if apart < 0:
        raise InputError(
            f"{what}: its 1 lies {-apart:.0f} mm to the right of its 2, but 1 is the left lung and 2 the right one:"
            " exchange the numbers (lungmask's R231 has them the other way round), or correct the headers if the"
            " image itself is mirrored"
        )


def _columns_of(mask: Volume, value: int) -> NDArray[np.intp]:
    """How many voxels of a value each column of a mask in canonical order holds, from right to left."""
    return np.asarray(np.count_nonzero(mask.array == value, axis=(0, 1)))


def has_sides(mask: Volume) -> bool:
    """Whether a mask holds both 1 and 2 and nothing else: then these are left and right."""
    counts = [int(np.count_nonzero(mask.array == value)) for value in (LEFT, RIGHT)]
    return min(counts) > 0 and sum(counts) == np.count_nonzero(mask.array)


def lobes_from_labels(
    labels: Volume, lungs: Volume, numbers: Mapping[str, int] = LOBES, *, basis: str = "the lobes given"
) -> tuple[Volume, tuple[Finding, ...]]:
    """Lobes of the lungs by a label map from elsewhere.

    The lungs' outline stays: where the map says nothing, a voxel of a lung joins the nearest lobe of that
    lung, and what lies outside the lungs is left out. So lungs of both scans stay alike, and lobes add up.

    Parameters
    ----------
    labels : Volume
        On the grid of `lungs`, both in canonical order. Labels that are no lobe's are left out.
    lungs : Volume of uint8
        1 left, 2 right.
    numbers : dict of str to int, optional
        Which number each lobe has; those of :mod:`lungvq.anatomy` unless given.
    basis : str, optional
        How findings call it.

    Returns
    -------
    lobes : Volume of uint8
    findings : tuple of Finding

    Raises
    ------
    GeometryError
        If they lie on different grids.
    InputError
        If no voxel has a lobe's number, what has one lies outside the lungs, left lobes lie in the right lung, or an
        upper lobe where the lower belongs.
    """
    check_grid("the label map of the lobes", labels.grid, lungs.grid)
    table = np.zeros(int(labels.array.max()) + 1, np.uint8)
    for name, number in numbers.items():
        if number < len(table):
            table[number] = LOBES[name]
    given = table[labels.array]
    if not given.any():
        there = np.unique(labels.array)[1:].tolist()
        wanted = ", ".join(f"{name}={number}" for name, number in numbers.items())
        raise InputError(
            f"the label map of the lobes holds none of {wanted}, but"
            f" {', '.join(map(str, there[:12])) or 'nothing'}; name its numbers by --lobe-labels"
        )
    within = np.count_nonzero(given[lungs.array > 0]) / np.count_nonzero(given)
    if within < LEAST_WITHIN:
        there = np.bincount(labels.array[lungs.array > 0].ravel())
        there[0] = 0
        fill = sorted(int(label) for label in np.argsort(there)[-len(LOBES) :] if there[label])
        raise InputError(
            f"only {100 * within:.0f} % of what the label map calls lobes lies in the lungs, expected"
            f" {100 * LEAST_WITHIN:.0f} % or more; the lungs are filled by"
            f" {', '.join(map(str, fill)) or 'none of its labels'}: name its numbers by --lobe-labels, or check that"
            " it belongs to the inspiration"
        )
    side = np.array(LUNG_OF_LOBE_LABEL, np.uint8)[given]
    for value, name in ((LEFT, "left"), (RIGHT, "right")):
        mine, other = ((side == value) & (lungs.array == which) for which in (value, 3 - value))
        if other.sum() > mine.sum():
            raise InputError(
                f"what the label map calls lobes of the {name} lung lies in the other lung; name its numbers by"
                " --lobe-labels, or check whether it was mirrored"
            )
    found = np.where(side == lungs.array, given, 0)
    _check_places(labels.like(found))
    return labels.like(_filled(labels.like(found), lungs)), _check(given, found, lungs, basis)


def _check_places(lobes: Volume) -> None:
    """Refuse lobes whose names are exchanged, by where their middles lie.

    Disease moves lobes far, but an upper one not to below and behind the lower one of its side, the middle one not
    to behind the lower nor above the upper one.
    """
    steps = [max(1, round(_FILL_MM / s)) for s in lobes.spacing]
    thinned = lobes.array[:: steps[0], :: steps[1], :: steps[2]]
    middle = {}
    for name, number in LOBES.items():
        at = np.argwhere(thinned == number) * steps
        if len(at) * np.prod(steps) * lobes.voxel_ml >= LEAST_LOBE_ML:
            middle[name] = lobes.grid.world(at.mean(axis=0))

    def refuse(lobe: str, where: str, other: str) -> None:
        raise InputError(
            f"what the label map calls {lobe} lies {where} what it calls {other}; name its numbers by --lobe-labels,"
            " or check how the label map is turned"
        )

    for upper, lower in (("LUL", "LLL"), ("RUL", "RLL")):
        if {upper, lower} <= middle.keys():
            _, behind, above = middle[upper] - middle[lower]
            if above < 0 < behind:
                refuse(upper, "below and behind", lower)
    if {"RML", "RLL"} <= middle.keys() and middle["RML"][1] > middle["RLL"][1]:
        refuse("RML", "behind", "RLL")
    if {"RML", "RUL"} <= middle.keys() and middle["RML"][2] > middle["RUL"][2]:
        refuse("RML", "above", "RUL")


def _filled(lobes: Volume, lungs: Volume) -> NDArray[np.uint8]:
    """Every voxel of a lung that has no lobe joins the nearest of its lung."""
    missing = (lungs.array > 0) & (lobes.array == 0)
    out = lobes.array.astype(np.uint8)
    if not missing.any():
        return out
    grid = lobes.grid.with_spacing([max(_FILL_MM, s) for s in lobes.spacing])
    coarse = lobes.resample_labels(grid).array
    of_side = np.array(LUNG_OF_LOBE_LABEL, np.uint8)[coarse]
    for value in (LEFT, RIGHT):
        todo = missing & (lungs.array == value)
        own = of_side == value
        if todo.any() and own.any():
            nearest = distance_transform_edt(
                ~own, sampling=grid.spacing, return_distances=False, return_indices=True
            )
            spread = Volume(coarse[tuple(nearest)], grid.affine).resample_labels(lobes.grid).array
            out[todo] = spread[todo]
    return out


def _check(
    given: NDArray[np.uint8], kept: NDArray[np.integer], lungs: Volume, basis: str
) -> tuple[Finding, ...]:
    """How well lobes that were given fit the lungs, and which are missing."""
    total = np.count_nonzero(given) + np.count_nonzero(lungs.array)
    overlap = round(2 * np.count_nonzero(kept) / total, 3)
    make = passed if overlap >= LEAST_OVERLAP else warn
    findings = [
        make(
            "LOBES_GIVEN",
            f"Lobes: {basis}; they and the lungs overlap by a Dice of {overlap:.3f}.",
            value=overlap,
            limit=LEAST_OVERLAP,
            unit="Dice",
            advice="" if overlap >= LEAST_OVERLAP else "Check that the lobes belong to the inspiration.",
            touches=("lobes",),
        )
    ]
    ml = np.bincount(kept.ravel(), minlength=6) * lungs.voxel_ml
    if missing := [name for name, number in LOBES.items() if ml[number] == 0]:
        findings.append(
            warn(
                "LOBES_MISSING",
                f"The label map holds no {', '.join(missing)} in the lungs: what lies next to it takes its place.",
                value=float(len(missing)),
                limit=0.0,
                unit="lobes",
                advice="Check --lobe-labels, unless the lobe was removed.",
                touches=("lobes",),
            )
        )
    return tuple(findings)


def check_grid(what: str, labels: Grid, scan: Grid, name: str = "its scan") -> None:
    """Refuse labels that lie elsewhere than their scan.

    Raises
    ------
    GeometryError
        Naming both.
    """
    if labels.same_as(scan):
        return
    if labels.shape == scan.shape:
        apart = float(np.linalg.norm(labels.corners() - scan.corners(), axis=1).max())
        by = f", up to {apart:.3g} mm away: resample it onto the scan, or correct its header"
    else:
        by = ""
    raise GeometryError(
        f"{what} does not lie on the grid of {name}: expected {_said(scan)}, got {_said(labels)}{by}"
    )


def _said(grid: Grid) -> str:
    size = " x ".join(str(n) for n in grid.shape)
    spacing = " x ".join(f"{s:.3g}" for s in grid.spacing)
    origin = ", ".join(f"{o:.1f}" for o in grid.affine[:3, 3])
    return f"{size} voxels of {spacing} mm from ({origin})"
