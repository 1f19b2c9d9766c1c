"""Intervals of regional numbers, from the standard errors of the maps they are sums of.

What makes one voxel's value wrong is shared by its surroundings, and by nothing far away: over a region errors
average out as if each cube of `CORRELATION_MM` had one of its own. To that come errors of a region's outline: of the
lung's mask, and of the borders between lobes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lungvq.anatomy import LOBES, LUNG_OF_LOBE_LABEL, LUNGS, ZONES
from lungvq.hu import air_fraction
from lungvq.quantify import BreathHold
from lungvq.quantify.regions import Region, Regions
from lungvq.volume import Volume

__all__ = ["CORRELATION_MM", "border_areas", "lobe_borders", "region_intervals"]

CORRELATION_MM = {"ventilation": 10.5, "perfusion": 12.0}
"""Side of the cubes within which the error of a map is shared, as measured on phantoms."""

OUTLINE = {"ventilation": 0.0022, "perfusion": 0.003}
"""Standard error of what a lung holds from its own outline, as a share of it, likewise: of the air of each scan, and
of blood."""

SMALL_LUNG_ML = 1200.0
"""Volume of a lung below which its outline errs by no fewer mL: those on which that share was measured held about as
much at expiration. A collapsed lung has less surface, but lies against what is as dense: of a real one of 90 mL whose
volume did not change, the masks of two scans differ by 4 mL, 2.9 each, for the 2.6 that follow from this."""

ALIKE = 0.5
"""Correlation of the two lungs' errors of outline, which one rule found in one scan: what it is in shares of healthy
phantoms. In the sum of both it is taken as 1, to be on the safe side."""

HU_SCALE = 0.0035
"""Standard error of air in mL from the HU scale, as a share of the air of each scan: about 3 HU, as the maps assume.
Tracheal air reads some HU otherwise with another kernel or a narrower trachea, which phantoms do not show. Shares do
not suffer: the error is everywhere the same."""

KIND = {"ventilation": 0.0, "perfusion": 0.042}
"""Standard error of a region's sum that no averaging takes away: vessels that count as tissue. As a share of it, or
of what as much of the whole lungs holds where that is more: there are as many in thin lung."""

ZONE_BORDER = 0.55
"""Standard error of where a zone ends, in slices: zones move with the lung's highest and lowest slice, and by a whole
one or not at all."""

DOME = 0.05
"""Standard error of where a lung ends upwards and downwards, of the thickness of slices beyond 3 mm (in squares):
thicker slices blur domes and bases. From three pairs of reconstructions of one breath, of 1 to 1.5 mm and 5 mm."""

ACROSS_MM = 0.15
"""What means over 5 mm carry across a border of lobes, as if it lay so much elsewhere; likewise from phantoms."""

PRIOR_MM = 8.0
"""How far a fissure lies from that of other people."""

TOGETHER = 0.5
"""How much of a fissure's uncertainty is a shift of the whole of it."""

_Z = 1.96
_THIN_MM = 2.0
_THICK_MM = 3.0
_STAIRS = 2 / 3  # faces of voxels along a slanting border have half as much again as its area


def border_areas(labels: Volume, lungs: Volume, names: Mapping[str, int]) -> dict[str, float]:
    """Area in mm^2 of each labelled part's borders with other parts of the same lung."""
    total = np.zeros(max(names.values()) + 1)
    spacing = np.array(labels.spacing)
    for axis in range(3):
        (a, b), (left, right) = (
            (np.moveaxis(v.array, axis, 0)[:-1], np.moveaxis(v.array, axis, 0)[1:]) for v in (labels, lungs)
        )
        border = (a != b) & (left == right) & (a > 0) & (b > 0)
        face = float(np.prod(np.delete(spacing, axis)))
        for found in (a[border], b[border]):
            total += np.bincount(found, minlength=total.size) * face
    return {name: float(total[label]) for name, label in names.items()}


def rim_areas(labels: Volume, lungs: Volume, names: Mapping[str, int]) -> dict[str, float]:
    """Area in mm^2 of each labelled part's borders with what is no lung, upwards and downwards."""
    total = np.zeros(max(names.values()) + 1)
    for part, lung in ((labels.array, lungs.array), (labels.array[::-1], lungs.array[::-1])):
        total += np.bincount(part[:-1][(lung[:-1] > 0) & (lung[1:] == 0)], minlength=total.size)
    face = lungs.spacing[1] * lungs.spacing[2]
    return {name: float(total[label]) * face for name, label in names.items()}


def zone_ends(zones: Volume, values: np.ndarray) -> dict[str, float]:
    """What a slice holds where each zone meets others of its lung, a zone with two such ends that of both in squares.

    Parameters
    ----------
    zones : Volume
        As `zones_by_height` has them.
    values : ndarray
        Of the same shape, per mL; NaN counts as nothing.
    """
    kinds = len(ZONES) + 1
    place = (np.arange(len(zones.array))[:, None, None] * kinds + zones.array).ravel()
    weights = np.nan_to_num(values).ravel()
    size, held = (
        np.bincount(place, w, len(zones.array) * kinds).reshape(-1, kinds) * zones.voxel_ml
        for w in (None, weights)
    )
    squares = dict.fromkeys(ZONES, 0.0)
    for side in LUNGS:
        for pair in (("lower", "middle"), ("middle", "upper")):
            names = [f"{side}_{part}" for part in pair]
            low, high = (ZONES.index(name) + 1 for name in names)
            if size[:, low].any() and size[:, high].any():
                last, first = np.flatnonzero(size[:, low])[-1], np.flatnonzero(size[:, high])[0]
                for name in names:
                    squares[name] += float((held[last, low] + held[first, high]) / 2) ** 2
    return {name: square**0.5 for name, square in squares.items()}


_FISSURES = {
    "LUL": ("left oblique",),
    "LLL": ("left oblique",),
    "RUL": ("right oblique", "right horizontal"),
    "RML": ("right oblique", "right horizontal"),
    "RLL": ("right oblique",),
}


def lobe_borders(uncertainty_mm: Mapping[str, float]) -> dict[str, float]:
    """Standard error of where each lobe's borders lie as a whole, from how sure each fissure's place is.

    Parameters
    ----------
    uncertainty_mm : mapping of str to float
        Standard deviation of a fissure's place, by its name; without one that of fissures known from other people
        alone.
    """
    known = {name: mm for name, mm in uncertainty_mm.items() if np.isfinite(mm)}
    return {
        lobe: TOGETHER * max(known.get(name, PRIOR_MM) for name in names) for lobe, names in _FISSURES.items()
    }


def region_intervals(
    hold: BreathHold,
    maps: Mapping[str, Volume],
    *,
    border_mm: Mapping[str, float] | None = None,
    slice_mm: float = 0.0,
) -> dict[tuple[str, str], tuple[float, float]]:
    """95 % intervals of the shares of ventilation and perfusion, and of ventilation in mL.

    Parameters
    ----------
    hold : BreathHold
        The expiration.
    maps : mapping of str to Volume
        ``ventilation``, ``perfusion`` and their ``_se``, on the grid of `hold`.
    border_mm : mapping of str to float, optional
        For each lobe, the standard error of where its borders with other lobes lie, as a mean over them.
    slice_mm : float
        Thickness of the thicker slices of both scans; at least the spacing of `hold`.

    Returns
    -------
    dict
        Keyed (region, metric), as `quantify` takes them.

    Notes
    -----
    Ventilation is made to add up to the air of both scans lung by lung: what a part has too much, the rest of its
    lung lacks; a part with the share g of its lung's volume has the variance ``(1 - g)^2 A + g^2 B`` of its own A
    and the rest's B. A share ``a / (a + b)`` of independent parts of perfusion, with variances A and B, has
    ``((1 - f)^2 A + f^2 B) / (a + b)^2``.
    """
    whole = hold.regions()
    regions, every = whole.thinned(_THIN_MM)  # for errors; the values are those of every voxel
    lungs, lobes = regions.lungs, regions.lobes
    zones = regions.put(regions.zone)
    borders = {
        lobe: float(np.hypot((border_mm or {}).get(lobe, 0.0), ACROSS_MM)) * _STAIRS * area / 1000
        for lobe, area in border_areas(lobes, lungs, LOBES).items()
    }
    labels = {zone: number for number, zone in enumerate(ZONES, start=1)}
    end = ZONE_BORDER * hold.lungs.spacing[0] / lungs.spacing[0]
    dome_mm = DOME * max(max(slice_mm, hold.lungs.spacing[0]) ** 2 - _THICK_MM**2, 0.0) ** 0.5
    rims = {
        name: dome_mm * area / 1000
        for part, names in ((lungs, LUNGS), (lobes, LOBES), (zones, labels))
        for name, area in rim_areas(part, lungs, names).items()
    }
    rims["both"] = sum(rims[lung] for lung in LUNGS)
    hu = np.ascontiguousarray(hold.hu.array[every])
    expired = air_fraction(hold.calibrate(regions.row(hu)))
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for name in ("ventilation", "perfusion"):
        totals = _totals(whole, maps[name].array)
        values, errors = (regions.row(maps[key].array[every]) for key in (name, f"{name}_se"))
        ends = {zone: end * held for zone, held in zone_ends(zones, maps[name].array[every]).items()}
        # A lung's outline is wrong by as much where nothing was breathed: it errs by the air of either scan.
        held = np.hypot(expired, expired + values) if name == "ventilation" else values
        found |= _shares(regions, name, totals, values, errors, held, borders, ends, rims)
    return found


def _totals(regions: Regions, values: np.ndarray) -> dict[str, float]:
    """What each region holds; undefined voxels count as nothing."""
    one = np.zeros(regions.lung.size, np.uint8)
    sums = regions.tally(one, 1, np.nan_to_num(regions.row(values)))
    return {r.name: float(n[0]) * regions.voxel_ml for r, n in sums}


def _shares(
    regions: Regions,
    name: str,
    totals: Mapping[str, float],
    values: np.ndarray,
    errors: np.ndarray,
    held: np.ndarray,
    border_ml: Mapping[str, float],
    ends: Mapping[str, float],
    rim_ml: Mapping[str, float],
) -> dict[tuple[str, str], tuple[float, float]]:
    known = np.isfinite(values) & np.isfinite(errors)
    ml = regions.voxel_ml
    shared = max(CORRELATION_MM[name] ** 3 / 1000, ml)
    one = np.zeros(values.size, np.uint8)

    def sums(row: np.ndarray) -> dict[Region, float]:
        return {r: float(n[0]) * ml for r, n in regions.tally(one, 1, np.where(known, row, 0))}

    outlines, squares, defined = sums(held), sums(errors**2), sums(known)
    volumes = {r.name: float(n[0]) * ml for r, n in regions.tally(one, 1)}
    own_square = {r.name: v for r, v in squares.items()}
    whole = totals["both"]
    larger = {lung: max(SMALL_LUNG_ML / max(volumes[lung], 1.0), 1.0) for lung in LUNGS}
    larger["both"] = sum(larger[lung] * volumes[lung] for lung in LUNGS) / max(volumes["both"], 1.0)

    def outline_of(region: Region) -> float:
        """Error of what a region holds from the outline of its lung."""
        rim = rim_ml[region.name] / volumes[region.name] if volumes[region.name] else 0.0
        own = OUTLINE[name] * larger[_lung_of(region.name)]
        return float(abs(outlines[region]) * np.hypot(own, rim))

    of_lung = {lung: outline_of(Region(lung)) for lung in LUNGS}
    found = {}
    for region in outlines:
        total, lung = totals[region.name], _lung_of(region.name)
        if not defined[region]:
            continue
        outline = outline_of(region)
        edge = ends.get(region.name, border_ml.get(region.name, 0.0) * abs(total) / volumes[region.name])
        if name == "ventilation":
            # A lung holds what both scans say it holds: what the map has too much of here it lacks elsewhere in it.
            square = (
                0.0 if region.name == "both" else shared * _of_part(region.name, lung, volumes, own_square)
            )
            scale = HU_SCALE * abs(outlines[region])
            error = (square + outline**2 + edge**2 + scale**2) ** 0.5
            found[region.name, "ventilation_ml"] = _around(total, error)
        if region.name == "both" or not whole > 0:
            continue
        f = total / whole
        # What a lung's outline adds to it moves its own regions' shares up, and those of the other lung down.
        up = outline * (1 - totals[lung] / whole)
        down = f * next(error for other, error in of_lung.items() if other != lung)
        outlined = up**2 + down**2 - 2 * ALIKE * up * down
        kind = KIND[name] * max(abs(total), whole * volumes[region.name] / volumes["both"]) * (1 - f)
        if name == "ventilation":
            map_error = square
        else:
            rest = max(own_square["both"] - squares[region], 0)
            map_error = shared * ((1 - f) ** 2 * squares[region] + f**2 * rest)
        parts = map_error, outlined, edge**2, kind**2
        found[region.name, f"{name}_fraction_pct"] = _around(100 * f, 100 * sum(parts) ** 0.5 / whole)
    found = _mirrored(found, f"{name}_fraction_pct")
    if name == "perfusion":  # no blood is negative; ventilation can be
        shares = {key: ends for key, ends in found.items() if key[1] == "perfusion_fraction_pct"}
        found |= {key: (max(low, 0.0), min(high, 100.0)) for key, (low, high) in shares.items()}
    return found


def _mirrored(
    found: dict[tuple[str, str], tuple[float, float]], metric: str
) -> dict[tuple[str, str], tuple[float, float]]:
    """The lungs' shares add up to 100 %, so that one is as wrong as the other: the wider of both."""
    pairs = {lung: found[lung, metric] for lung in LUNGS if (lung, metric) in found}
    if len(pairs) == len(LUNGS):
        half = max(high - low for low, high in pairs.values()) / 2
        for lung, (low, high) in pairs.items():
            middle = (low + high) / 2
            found[lung, metric] = middle - half, middle + half
    return found


def _of_part(region: str, lung: str, volumes: Mapping[str, float], squares: Mapping[str, float]) -> float:
    """The square of a part's error where the errors of the whole lung have to add up to none."""
    share = volumes[region] / volumes[lung] if volumes[lung] else 0.0
    return (1 - share) ** 2 * squares[region] + share**2 * max(squares[lung] - squares[region], 0)


def _lung_of(region: str) -> str:
    if region in LOBES:
        return next(n for n, label in LUNGS.items() if label == LUNG_OF_LOBE_LABEL[LOBES[region]])
    return region.split("_")[0]


def _around(value: float, error: float) -> tuple[float, float]:
    return value - _Z * error, value + _Z * error
