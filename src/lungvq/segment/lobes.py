"""Where the lobes lie when no fissure has been looked for: the mean fissures of 100 people.

The surfaces were fitted to annotated fissure points published with the Chest Imaging Platform [1]_. They
are a prior, not an observation: a fissure of one person lies some 8 mm (median) from them, and the middle
lobe reaches a Dice of about 0.73.

References
----------
.. [1] San Jose Estepar R et al. (2015). Chest Imaging Platform: an open-source library and workstation for
   quantitative chest imaging. Am J Respir Crit Care Med 191:A4975.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lungvq.anatomy import LEFT, LOBES, RIGHT
from lungvq.errors import GeometryError
from lungvq.segment._coarse import box_around
from lungvq.volume import CANONICAL, Volume

__all__ = ["FISSURES", "FissurePrior", "lobes_from_prior"]


@dataclass(frozen=True)
class FissurePrior:
    """One mean fissure as a height over the plane of the slices, in coordinates of its lung's bounding box.

    Parameters
    ----------
    coefficients : tuple of 10 floats
        Of ``1, X, Y, X^2, XY, Y^2, X^3, X^2 Y, X Y^2, Y^3`` with ``X = x - 0.5``, ``Y = y - 0.5``; x runs
        from 0 (patient right) to 1 (left), y from 0 (front) to 1 (back), the height from 0 (base) to 1
        (apex).
    y_range : tuple of 2 floats
        Where it was observed; beyond, the height at the nearer end is used.
    spread : float
        Standard deviation of the height between people, in box heights.
    """

    coefficients: tuple[float, ...]
    y_range: tuple[float, float]
    spread: float

    def height(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Height in the box, 0 base to 1 apex.

        Examples
        --------
        >>> FISSURES["left oblique"].height(np.array(0.5), np.array(0.5)).item()
        0.46
        """
        X = np.clip(x, 0, 1) - 0.5
        Y = np.clip(y, *self.y_range) - 0.5
        terms = (np.ones_like(X * Y), X, Y, X * X, X * Y, Y * Y, X**3, X * X * Y, X * Y * Y, Y**3)
        result: NDArray[np.float64] = np.asarray(
            sum(c * t for c, t in zip(self.coefficients, terms, strict=True))
        )
        return result


FISSURES = {
    "left oblique": FissurePrior(
        (0.460, -0.029, 1.249, 0.668, 0.407, 0.517, -1.982, -3.595, -2.954, -4.325), (0.17, 0.88), 0.094
    ),
    "right oblique": FissurePrior(
        (0.427, -0.044, 0.996, 0.194, 0.245, 0.173, 1.317, -0.864, 1.633, -3.136), (0.17, 0.90), 0.067
    ),
    "right horizontal": FissurePrior(
        (0.508, -0.006, 0.134, 0.489, 0.862, 0.885, 1.759, 1.858, 1.783, 2.081), (0.03, 0.63), 0.059
    ),
}


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
    if lungs.grid.codes != CANONICAL:
        raise GeometryError(f"expected lungs in canonical order {CANONICAL}, got {lungs.grid.codes}")
    lobes = np.zeros(lungs.shape, np.uint8)
    for side in (LEFT, RIGHT):
        mask = lungs.array == side
        if not mask.any():
            continue
        box = box_around(mask, (0, 0, 0))
        mask = mask[box]
        # Voxel centres within the box, whose faces are at 0 and 1.
        z, y, x = (((np.arange(n) + 0.5) / n) for n in mask.shape)
        z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
        if side == LEFT:
            labels = np.where(z > FISSURES["left oblique"].height(x, y), LOBES["LUL"], LOBES["LLL"])
        else:
            upper = np.where(z > FISSURES["right horizontal"].height(x, y), LOBES["RUL"], LOBES["RML"])
            labels = np.where(z > FISSURES["right oblique"].height(x, y), upper, LOBES["RLL"])
        lobes[box][mask] = labels[mask]
    return lungs.like(lobes)
