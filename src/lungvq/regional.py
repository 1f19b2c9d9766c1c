"""Regional averages inside a lung, and their return to the full grid.

A ratio or difference of regional means is steadier than the mean of voxel ratios: average first, combine
afterwards. Averages never mix the two lungs and never count what lies outside them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from lungvq.anatomy import LUNGS
from lungvq.register.field import REACH, blur, smooth
from lungvq.volume import Volume

__all__ = [
    "LungField",
    "LungVoxels",
    "Neighbourhoods",
    "carry",
    "close_sums",
    "detail_within",
    "fill_from_nearest",
    "reaching_out",
    "within",
]

_FAINT = 1e-4  # a mean that rests on less weight than this is not a mean
_STEP_MM = 4.0  # voxels this far apart tell all there is of averages over 5 mm and more

LungField = dict[str, Volume]
"""One quantity per lung, keyed ``left`` and ``right``: each on its own crop of the working grid, defined a
few sigma beyond the lung so that it can be interpolated up to the pleura. A missing lung has no entry."""


class Neighbourhoods:
    """Gaussian neighbourhoods inside each lung, over which any number of quantities can be averaged.

    Parameters
    ----------
    lungs : Volume
        1 left, 2 right.
    sigma_mm : float
        Of the Gaussian.
    weights : ndarray, optional
        Non-negative, of the shape of `lungs`; 0 leaves a voxel out. Default 1.

    Notes
    -----
    ``sum(G w x) / sum(G w)``, normalised convolution (Knutsson and Westin, 1993): a constant stays constant
    up to the pleura.
    """

    def __init__(self, lungs: Volume, sigma_mm: float, weights: np.ndarray | None = None) -> None:
        self.sigma_mm = sigma_mm
        self._lungs = lungs
        self._sigma = [sigma_mm / s for s in lungs.spacing]
        self._parts: list[tuple[str, tuple[slice, slice, slice], np.ndarray, np.ndarray]] = []
        margin = [int(np.ceil(REACH * s)) + 1 for s in self._sigma]
        boxes = find_objects(lungs.array, max_label=len(LUNGS))
        for (name, label), found in zip(LUNGS.items(), boxes, strict=True):
            if found is None:
                continue
            box = _widened(found, margin, lungs.shape)
            inside = lungs.array[box] == label
            weight = inside if weights is None else np.where(inside, weights[box], 0)
            weight = weight.astype(np.float32)
            self._parts.append((name, box, weight, self._spread(weight)))

    def mean(self, array: np.ndarray) -> LungField:
        """Weighted mean of `array`, finite inside the lungs, about each voxel; NaN where nothing is near."""
        result: LungField = {}
        for name, box, weight, total in self._parts:
            weighted = np.where(weight > 0, array[box], 0).astype(np.float32) * weight
            mean = np.full(weighted.shape, np.nan, np.float32)
            np.divide(self._spread(weighted), total, out=mean, where=total > _FAINT)
            result[name] = Volume(mean, self._lungs.grid.crop(box).affine)
        return result

    def _spread(self, array: np.ndarray) -> np.ndarray:
        return blur(array, self._sigma)


class LungVoxels:
    """The voxels of both lungs in one row, the left lung's first: what is done to each is done to no others.

    Parameters
    ----------
    lungs : Volume
        1 left, 2 right.

    Attributes
    ----------
    labels : ndarray of uint8, shape (N,)
        Which lung each of them belongs to.

    Examples
    --------
    >>> voxels = LungVoxels(Volume(np.array([[[2, 0, 1]]], np.uint8), np.eye(4)))
    >>> voxels.row(np.array([[[5.0, 6.0, 7.0]]])), voxels.put(np.array([1, 2], np.uint8), 0)
    (array([7., 5.]), array([[[2, 0, 1]]], dtype=uint8))
    """

    def __init__(self, lungs: Volume) -> None:
        self.grid = lungs.grid
        self._of = {name: np.flatnonzero(lungs.array == label) for name, label in LUNGS.items()}
        self._all = np.concatenate(list(self._of.values()))
        self.labels = lungs.array.ravel()[self._all]

    def row(self, array: np.ndarray) -> np.ndarray:
        """Their values in a map, shape (N,)."""
        return array.ravel()[self._all]

    def put(self, row: np.ndarray, fill: float = np.nan) -> np.ndarray:
        """A map of their values, with `fill` outside the lungs."""
        array = np.full(self.grid.shape, fill, row.dtype)
        array.ravel()[self._all] = row
        return array

    def carried(self, fields: Mapping[str, LungField]) -> dict[str, np.ndarray]:
        """Quantities per lung at the voxels, by their names: trilinear inside each lung; float32.

        Each part must be defined a voxel beyond its lung, as those of `Neighbourhoods.mean` are. A lung without
        an entry has NaN.
        """
        from lungvq import _sampling

        rows = {name: np.full(self.labels.size, np.nan, np.float32) for name in fields}
        stop = 0
        for lung, voxels in self._of.items():
            own = slice(stop, stop + voxels.size)
            stop = own.stop
            together: dict[tuple, list[str]] = {}  # those that share a grid
            for name, field in fields.items():
                if lung in field:
                    place = field[lung].shape, field[lung].affine.tobytes()
                    together.setdefault(place, []).append(name)
            for names in together.values():
                parts = [fields[name][lung] for name in names]
                to_index = np.ascontiguousarray((np.linalg.inv(parts[0].affine) @ self.grid.affine)[:3])
                arrays = np.stack([part.array for part in parts], axis=-1, dtype=np.float32)
                found = _sampling.sample_voxels(arrays, to_index, self.grid.shape, voxels)
                for name, values in zip(names, found, strict=True):
                    rows[name][own] = values
        return rows


def carry(field: LungField, lungs: Volume) -> np.ndarray:
    """A quantity per lung on another grid, as `LungVoxels.carried` does; NaN outside, float32."""
    voxels = LungVoxels(lungs)
    return voxels.put(voxels.carried({"": field})[""])


def close_sums(
    values: np.ndarray, labels: np.ndarray, voxel_ml: float, totals: dict[str, float]
) -> dict[str, float]:
    """Scale `values` in place, lung by lung, so that their sums over the lung match known totals.

    Parameters
    ----------
    values : ndarray
        Per mL.
    labels : ndarray of the same shape
        1 left, 2 right lung.
    voxel_ml : float
    totals : dict of str to float
        What each lung must sum to, in mL or g.

    Returns
    -------
    dict of str to float
        The factor each lung was multiplied by: a measure of how far the map was from closing by itself.
    """
    factors: dict[str, float] = {}
    for name, label in LUNGS.items():
        inside = labels == label
        total = float(np.nansum(values[inside], dtype=np.float64)) * voxel_ml
        if total != 0 and name in totals:
            factors[name] = totals[name] / total
            values[inside] *= np.float32(factors[name])
    return factors


def detail_within(field: LungField, lungs: Volume, sigma_mm: float, reach_mm: float) -> LungField:
    """How regional means differ from their own trend: what varies within a centimetre or so.

    Parameters
    ----------
    field : LungField
        Means over `sigma_mm`.
    lungs : Volume
        1 left, 2 right, on the working grid.
    sigma_mm, reach_mm : float
        The trend is that over a Gaussian of `reach_mm`, by straight lines fitted within each lung: means would be
        off at the pleura, where all of a neighbourhood lies to one side.

    Returns
    -------
    LungField
        0 outside the lungs and where `field` is not finite; all 0 where the means reach as far as the trend.
    """
    if sigma_mm >= reach_mm:
        return {lung: part.like(np.zeros_like(part.array)) for lung, part in field.items()}
    result: LungField = {}
    for lung, part in field.items():
        known = np.isfinite(part.array) & (lungs.resample_labels(part.grid).array == LUNGS[lung])
        step = max(1, int(_STEP_MM / min(part.spacing)))
        some = (slice(None, None, step),) * 3
        affine = part.affine.copy()
        affine[:3, :3] *= step
        values = np.where(known, part.array, np.float32(0))
        sigma = float(np.sqrt(reach_mm**2 - sigma_mm**2)) / (step * min(part.spacing))
        if known[some].any():
            trend = Volume(smooth(values[some][None], known[some], sigma)[0], affine)
            values -= trend.resample(part.grid, antialias=False).array
        result[lung] = part.like(np.where(known & np.isfinite(values), values, np.float32(0)))
    return result


def _widened(
    box: tuple[slice, ...], margin: list[int], shape: tuple[int, int, int]
) -> tuple[slice, slice, slice]:
    a, b, c = (
        slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in zip(box, margin, shape, strict=True)
    )
    return a, b, c


def reaching_out(volume: Volume) -> Volume:
    """A map of the lungs with its values continued beyond them, so that it can be carried to another grid."""
    return volume.like(fill_from_nearest(volume.array, np.isnan(volume.array)))


def within(volume: Volume, lungs: Volume) -> Volume:
    """A map within the lungs, with what is undefined there taken from the nearest voxel; NaN outside."""
    inside = lungs.array > 0
    if np.isnan(volume.array[inside]).any():
        volume = reaching_out(volume)
    return volume.like(np.where(inside, volume.array, np.nan).astype(np.float32))


def fill_from_nearest(array: np.ndarray, undefined: np.ndarray) -> np.ndarray:
    """A copy of `array` in which every undefined voxel has the value of the nearest defined one."""
    if not undefined.any() or undefined.all():
        return array
    nearest = distance_transform_edt(undefined, return_distances=False, return_indices=True)
    return np.ascontiguousarray(array[tuple(nearest)])
