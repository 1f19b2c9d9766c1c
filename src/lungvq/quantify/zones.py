"""Upper, middle and lower: five meanings of thirds of a lung, each by its name.

A number of a zone is useless without the meaning it was taken with; one common toolkit ships two of them.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import find_objects, label

from lungvq.anatomy import LOBES, LUNGS, ZONES
from lungvq.volume import Grid, Volume

__all__ = [
    "ZONE_DEF",
    "ZONE_DEFS",
    "carina_height",
    "slices_by_height",
    "zone_table",
    "zones_by_height",
    "zones_by_landmark",
    "zones_by_volume",
]

ZONE_DEF = "equal_height_per_lung"
"""The default: what planar scintigraphy reads."""

ZONE_DEFS: dict[str, str] = {
    ZONE_DEF: "thirds of each lung's height, as in planar scintigraphy",
    "equal_volume_per_lung": "slices that hold a third of that lung's volume each",
    "equal_volume_pooled": "slices that hold a third of both lungs' volume each, the same planes for both",
    "anatomic_landmark": "above the carina; from there to 5 cm below it, about the lower pulmonary veins; below",
    "lobar_proxy": "upper lobes, middle lobe, lower lobes; there is no left middle zone",
}
"""Every definition and what it means."""

VEINS_BELOW_CARINA_MM = 50.0
"""Where the lower pulmonary veins are taken to lie: they are not looked for."""

_PARTS = ("lower", "middle", "upper")
_LEAST_PIECE = 0.01  # of a lung's voxels: less, in slices apart from the others, is a crumb
_LEAST_BRONCHUS_MM2, _LEAST_APART_MM, _LEAST_SPLIT_MM = 25.0, 10.0, 15.0


def zones_by_height(lungs: Volume) -> Volume:
    """Six zones: each lung's extent from base to apex in thirds of equal height.

    Parameters
    ----------
    lungs : Volume
        1 left, 2 right, in canonical order (slices run to the head).

    Returns
    -------
    Volume
        uint8, 1 + the position in `anatomy.ZONES`; a slice belongs to the third its centre lies in.

    Examples
    --------
    >>> column = Volume(np.ones((6, 1, 1), np.uint8), np.eye(4))
    >>> [ZONES[n - 1] for n in zones_by_height(column).array[::2, 0, 0]]
    ['left_lower', 'left_middle', 'left_upper']
    """
    return _painted(lungs, slices_by_height(_slice_counts(lungs)))


def zones_by_volume(lungs: Volume, *, pooled: bool = False) -> Volume:
    """Six zones: slices that hold equal thirds of a lung's volume, or of both lungs' with `pooled`.

    Returns
    -------
    Volume
        As `zones_by_height`; a slice belongs to the third in which the middle of its volume lies.

    Examples
    --------
    The base of a cone holds so much that its middle slice belongs to the upper third:

    >>> cone = np.zeros((3, 1, 4), np.uint8)
    >>> cone[0], cone[1, 0, :3], cone[2, 0, :1] = 1, 1, 1
    >>> [ZONES[n - 1] for n in zones_by_volume(Volume(cone, np.eye(4))).array[:, 0, 0]]
    ['left_lower', 'left_upper', 'left_upper']
    """
    return _painted(lungs, _by_volume(_slice_counts(lungs), pooled=pooled))


def zones_by_landmark(lungs: Volume, carina_mm: float) -> Volume:
    """Six zones: above the carina, down to 5 cm below it, and below that.

    Parameters
    ----------
    carina_mm : float
        z of the carina in LPS mm, as `carina_height` finds it.

    Notes
    -----
    Readers take the lower pulmonary veins for the second plane; here it is a fixed distance.
    """
    return _painted(lungs, _by_landmark(_slice_counts(lungs), lungs.grid, carina_mm))


def zone_table(
    definition: str, counts: np.ndarray, grid: Grid, carina_mm: float | None = None
) -> np.ndarray | None:
    """The zone of each slice, lung and lobe by the name of a definition: none needs more to be told.

    Parameters
    ----------
    definition : str
        Of `ZONE_DEFS`.
    counts : ndarray of int, shape (K, 3)
        Voxels of each slice outside the lungs, which does not matter, in the left and in the right one.
    grid : Grid
        In canonical order.
    carina_mm : float, optional
        z of the carina in LPS mm.

    Returns
    -------
    ndarray of uint8, shape (K, 3, 6), or None
        As `zones_by_height`, 0 where there is no zone; None for landmarks where the carina is not known.

    Raises
    ------
    KeyError
        If there is no such definition.
    """
    if definition == "anatomic_landmark" and carina_mm is None:
        return None
    if definition == "lobar_proxy":
        return np.broadcast_to(_OF_LOBE, (len(counts), len(LUNGS) + 1, _OF_LOBE.size))
    of_slice = {
        ZONE_DEF: lambda: slices_by_height(counts),
        "equal_volume_per_lung": lambda: _by_volume(counts),
        "equal_volume_pooled": lambda: _by_volume(counts, pooled=True),
        "anatomic_landmark": lambda: _by_landmark(counts, grid, carina_mm or 0.0),
    }[definition]()
    return np.broadcast_to(of_slice[:, :, None], (*of_slice.shape, _OF_LOBE.size))


def carina_height(airways: Volume) -> float | None:
    """z, in LPS mm, at which the trachea parts into two main bronchi; None where it is not seen.

    Parameters
    ----------
    airways : Volume
        1 in trachea and bronchi, in canonical order.

    Notes
    -----
    From the head down, the first slice from which on, for 15 mm, there are two tubes of at least 25 square
    millimetres whose centres are at least 10 mm apart from side to side: a bronchus that rises beside the trachea
    is shorter.
    """
    dz, dy, dx = airways.spacing
    box = find_objects((airways.array > 0).view(np.uint8), max_label=1)[0]
    if box is None:
        return None
    inside = airways.array[box] > 0
    needed = max(1, round(_LEAST_SPLIT_MM / dz))
    seen = 0
    for k in range(len(inside) - 1, -1, -1):
        tubes, n = label(inside[k])
        area = np.bincount(tubes.ravel(), minlength=n + 1)[1:] * dy * dx
        large = [
            dx * float(np.nonzero(tubes == t + 1)[1].mean())
            for t in np.flatnonzero(area >= _LEAST_BRONCHUS_MM2)
        ]
        parted = len(large) >= 2 and max(large) - min(large) >= _LEAST_APART_MM
        seen = seen + 1 if parted else 0
        if seen == needed:
            middle = ((n - 1) / 2 for n in airways.shape[1:])
            return float(airways.grid.world((box[0].start + k + needed - 0.5, *middle))[2])
    return None


def _slice_counts(lungs: Volume) -> np.ndarray:
    """Voxels of each slice outside, in the left and in the right lung."""
    return np.array([np.bincount(plane.ravel(), minlength=len(LUNGS) + 1) for plane in lungs.array])


def slices_by_height(counts: np.ndarray) -> np.ndarray:
    """The zone of each slice in each lung, shape (K, 3), by thirds of height; `counts` as for `zone_table`.

    Crumbs of a mask above or below the lung, apart from it, do not make it taller.
    """

    def third(n: np.ndarray) -> np.ndarray:
        pieces, _ = label(n > 0)
        held = np.bincount(pieces, weights=n)
        slices = np.flatnonzero((pieces > 0) & (held[pieces] >= _LEAST_PIECE * n.sum()))
        low, high = slices[0], slices[-1] + 1
        return (np.arange(n.size) + 0.5 - low) * 3 / (high - low)

    return _numbered({side: third(counts[:, label]) for side, label in _present(counts)}, len(counts))


def _by_volume(counts: np.ndarray, *, pooled: bool = False) -> np.ndarray:
    def third(n: np.ndarray) -> np.ndarray:
        return (np.cumsum(n) - n / 2) * 3 / n.sum()

    whole = counts[:, 1:].sum(axis=1)
    return _numbered(
        {side: third(whole if pooled else counts[:, label]) for side, label in _present(counts)}, len(counts)
    )


def _by_landmark(counts: np.ndarray, grid: Grid, carina_mm: float) -> np.ndarray:
    z = grid.world([(k, *((n - 1) / 2 for n in grid.shape[1:])) for k in range(len(counts))])[:, 2]
    part = np.where(z > carina_mm, 2.0, np.where(z > carina_mm - VEINS_BELOW_CARINA_MM, 1.0, 0.0))
    return _numbered({side: part for side, _ in _present(counts)}, len(counts))


def _present(counts: np.ndarray) -> list[tuple[str, int]]:
    """Names and labels of the lungs that are there."""
    return [(side, label) for side, label in LUNGS.items() if counts[:, label].any()]


def _numbered(third: dict[str, np.ndarray], slices: int) -> np.ndarray:
    """Zones, shape (K, 3), from the third that each slice of each lung lies in: 0 to 1 lower, to 2 middle, to 3
    upper."""
    zones = np.zeros((slices, len(LUNGS) + 1), np.uint8)
    for side, position in third.items():
        order = np.array([ZONES.index(f"{side}_{part}") + 1 for part in _PARTS], np.uint8)
        zones[:, LUNGS[side]] = order[np.clip(position, 0, 2).astype(int)]
    return zones


def _painted(lungs: Volume, of_slice: np.ndarray) -> Volume:
    """A label map from the zone of each slice and lung."""
    zones = np.empty(lungs.shape, np.uint8)
    for plane, lung, number in zip(zones, lungs.array, of_slice, strict=True):
        np.take(number, lung, out=plane)
    return lungs.like(zones)


_OF_LOBE = np.zeros(len(LOBES) + 1, np.uint8)
for _lobe, _zone in (
    ("LUL", "left_upper"),
    ("LLL", "left_lower"),
    ("RUL", "right_upper"),
    ("RML", "right_middle"),
    ("RLL", "right_lower"),
):
    _OF_LOBE[LOBES[_lobe]] = ZONES.index(_zone) + 1
