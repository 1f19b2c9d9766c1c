"""How the fissures of real people lie and vary, for phantoms that look like people and as a prior.

A fissure is a height over the plane of the slices in the box of its lung: z (0 base, 1 apex) as a cubic
polynomial of x (0 patient right, 1 left) and y (0 front, 1 back). Means and modes of variation were fitted by
``tools/fit_fissures.py`` to annotated points of 50 people on inspiration, aligned by one affine each, that
are published with the Chest Imaging Platform [1]_ [2]_. They are modified data, not the original, under its
licence (see NOTICE), and hold no point, image or transform of any person.

Expiration was looked at apart (50 other people): in the lung's box the oblique fissures lie on average no
differently but vary more, the horizontal one lies 0.03 box heights lower. The constants are those of inspiration.

References
----------
.. [1] San Jose Estepar R et al (2015). Chest Imaging Platform: an open-source library and workstation for
   quantitative chest imaging. Am J Respir Crit Care Med 191:A4975.
.. [2] Ross JC et al (2010). Automatic lung lobe segmentation using particles, thin plate splines, and maximum
   a posteriori estimation. MICCAI 13:163-171.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LEFT_MODES",
    "MEANS",
    "RESIDUAL",
    "RIGHT_MODES",
    "SPREAD",
    "VALID",
    "Fissures",
    "height",
    "sample_fissures",
]

MODE_LIMIT = 2.0
"""Standard deviations at which a mode is cut off."""
WIDENED = 1.36
"""Standard deviation of the normal law whose part within `MODE_LIMIT` has a standard deviation of 1."""


class Fissures(NamedTuple):
    """Coefficients of the three surfaces.

    Each holds the 10 factors of ``1, X, Y, X^2, XY, Y^2, X^3, X^2 Y, X Y^2, Y^3``, with ``X = x - 0.5`` and
    ``Y = y - 0.5``.
    """

    left_oblique: tuple[float, ...]
    right_oblique: tuple[float, ...]
    horizontal: tuple[float, ...]


# MEANS: the mean surfaces. LEFT_MODES, RIGHT_MODES: a row a mode, added to the coefficients of the left oblique,
# or of the right oblique and then the horizontal fissure, for a person 1 sd from the mean. VALID: lowest and
# highest x, then y, where at least 5 of the people have points. SPREAD: sd of height between people, RESIDUAL:
# of a point from its person's cubic, both in box heights.
# Written by tools/fit_fissures.py; do not edit by hand.
# fmt: off
MEANS = Fissures(
    left_oblique=(0.4679, 0.0254, 1.0453, 0.6015, -0.3832, -0.2860, -1.3812, -1.5214, -0.3925, 0.1456,),
    right_oblique=(0.4568, 0.0061, 0.8478, 0.0663, 0.3240, -0.0993, 0.6420, -0.1770, 0.7669, -1.6982,),
    horizontal=(0.5331, -0.0094, -0.0259, -0.0103, 0.5313, -0.1240, 0.4376, 0.5519, 1.0919, 0.6564,),
)
LEFT_MODES: tuple[tuple[float, ...], ...] = (
    (-0.0447, -0.0500, -0.0158, 0.0376, 0.0696, -0.1797, -0.0076, -0.0375, 0.1224, -0.2054,),
    (-0.0154, -0.0319, 0.2475, 0.0848, 0.1726, 0.1317, -0.0619, -0.4483, -0.6182, -0.3383,),
    (-0.0144, 0.1292, 0.0648, -0.0585, -0.0990, -0.0877, 0.0143, 0.1990, -0.0496, 0.1244,),
    (-0.0221, 0.0768, 0.0821, -0.0876, -0.3223, 0.3268, -0.0966, 0.3479, -0.2582, -0.8104,),
)
RIGHT_MODES: tuple[tuple[float, ...], ...] = (
    (-0.0336, 0.0634, 0.0417, 0.0577, -0.0486, 0.1626, -0.0170, -0.0512, -0.1353, -0.3195,
     -0.0293, 0.0252, 0.0714, -0.0732, -0.0697, -0.0930, -0.0690, 0.1037, -0.2915, -0.2223),
    (0.0132, 0.0246, 0.1523, -0.0108, 0.0435, 0.0845, -0.0275, 0.0361, 0.0470, -0.5092,
     0.0178, 0.0020, 0.1270, 0.0283, -0.0103, 0.1494, 0.1619, 0.1053, -0.0086, 0.2729),
    (0.0214, -0.0462, -0.0796, 0.0058, 0.0717, -0.1082, 0.1141, -0.0652, 0.0344, 0.4958,
     -0.0095, 0.0407, -0.0123, -0.0172, 0.0244, 0.0276, -0.0510, -0.0536, -0.1708, 0.2814),
    (0.0097, 0.1022, -0.0804, -0.0018, 0.0599, -0.0570, -0.0682, 0.3688, -0.5750, 0.4095,
     0.0040, 0.0395, -0.0432, -0.0296, -0.1139, -0.1830, -0.1273, -0.0136, -0.3925, -0.2073),
    (-0.0029, 0.0035, 0.0583, 0.0244, 0.1232, 0.0214, -0.0244, -0.0783, -0.1222, -0.1112,
     -0.0224, -0.0140, -0.0701, -0.0532, 0.0474, 0.2359, -0.1374, -0.0854, 0.2133, 0.3267),
    (0.0105, -0.0056, -0.0181, 0.0335, -0.0790, -0.3042, 0.1317, 0.0689, 0.0276, 0.5279,
     -0.0046, 0.0030, -0.0822, 0.0443, -0.0640, -0.2580, 0.0042, -0.0433, -0.5255, -0.1020),
    (-0.0009, 0.0016, 0.0027, 0.0031, 0.0733, -0.1027, -0.0790, 0.0507, -0.2974, 0.2726,
     0.0062, 0.0596, -0.0087, 0.0575, -0.1199, 0.0211, 0.0080, -0.0126, -0.2637, 0.3175),
    (-0.0057, 0.0164, -0.0196, 0.0922, 0.1823, -0.0636, 0.0530, -0.1800, -0.5308, 0.4664,
     -0.0011, -0.0186, -0.0456, 0.0138, -0.0565, -0.1298, -0.0070, -0.0063, -0.1523, 0.0697),
)
VALID: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "left_oblique": ((0.150, 1.000), (0.100, 0.900)),
    "right_oblique": ((0.000, 0.950), (0.100, 0.950)),
    "horizontal": ((0.050, 0.850), (0.050, 0.650)),
}
SPREAD: dict[str, float] = {
    "left_oblique": 0.0827,
    "right_oblique": 0.0591,
    "horizontal": 0.0601,
}
RESIDUAL: dict[str, float] = {
    "left_oblique": 0.0161,
    "right_oblique": 0.0133,
    "horizontal": 0.0133,
}
# fmt: on


def height(
    coefficients: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    valid: tuple[tuple[float, float], tuple[float, float]] = ((0, 1), (0, 1)),
) -> NDArray[np.float64]:
    """Height of a fissure in its lung's box.

    Parameters
    ----------
    coefficients : array_like, shape (10,)
        One member of a `Fissures`.
    x, y : array_like, broadcast against each other
        Place in the box: x 0 patient right to 1 left, y 0 front to 1 back.
    valid : pair of pairs, optional
        Lowest and highest x, then y, where the fissure was seen: its entry of `VALID`. Beyond, the height at
        the nearest place within is used, as a cubic runs away.

    Returns
    -------
    ndarray of float64
        0 base to 1 apex; may lie outside 0..1, where the fissure does not cross the lung at that place.

    Examples
    --------
    >>> height((0.4, 0, 1, 0, 0, 0, 0, 0, 0, 0), 0.3, [0.5, 0.75]).tolist()
    [0.4, 0.65]
    """
    c = np.asarray(coefficients, dtype=float)
    X = np.clip(np.asarray(x, dtype=float), *valid[0]) - 0.5
    Y = np.clip(np.asarray(y, dtype=float), *valid[1]) - 0.5
    # Horner's scheme in Y, each factor a polynomial in X
    return np.asarray(
        c[0]
        + X * (c[1] + X * (c[3] + X * c[6]))
        + Y * (c[2] + X * (c[4] + X * c[7]) + Y * (c[5] + X * c[8] + Y * c[9]))
    )


def sample_fissures(rng: np.random.Generator) -> Fissures:
    """Fissures of a person who does not exist, drawn from how those of real people vary.

    Parameters
    ----------
    rng : numpy.random.Generator
        The same state gives the same fissures.

    Returns
    -------
    Fissures
        For use with `height` and `VALID`. The oblique fissures climb from front to back, the horizontal one
        lies above the right oblique one in front, and the middle lobe has between 0.6 and 1.6 times its mean
        size. A draw that breaks one of these rules is drawn again.

    Notes
    -----
    Mean + sum over modes of w times mode, where w is normal, none beyond 2, of variance 1. The spread of a sample
    is the fitted one, less what the modes left out and the draws refused would have added.

    Examples
    --------
    >>> one = sample_fissures(np.random.default_rng(1))
    >>> another = sample_fissures(np.random.default_rng(1))
    >>> one == another
    True
    """
    while True:
        left = np.array(MEANS.left_oblique) + _weights(rng, len(LEFT_MODES)) @ np.array(LEFT_MODES)
        right = np.array(MEANS.right_oblique + MEANS.horizontal)
        right = right + _weights(rng, len(RIGHT_MODES)) @ np.array(RIGHT_MODES)
        drawn = Fissures(
            tuple(map(float, left)), tuple(map(float, right[:10])), tuple(map(float, right[10:]))
        )
        if _plausible(drawn):
            return drawn


X_GRID, Y_GRID = np.meshgrid(np.linspace(0.05, 0.95, 19), np.linspace(0.025, 0.975, 39), indexing="ij")
FRONT = 0.3
"""Share of the lung's depth, from the front, in which the horizontal fissure must lie above the oblique."""
MIDDLE_LOBE = (0.6, 1.6)
"""Smallest and largest middle lobe, as a share of the mean one (people: 0.7 to 1.5)."""
DIP, DIPPING = 0.01, 0.05
"""An oblique fissure may fall by more than this over 1/40 of the way back in so large a share of the box."""


def _middle_lobe(fissures: Fissures) -> NDArray[np.float64]:
    """Thickness of the middle lobe over the box, in box heights; negative where the fissures cross."""
    oblique = height(fissures.right_oblique, X_GRID, Y_GRID, valid=VALID["right_oblique"])
    horizontal = height(fissures.horizontal, X_GRID, Y_GRID, valid=VALID["horizontal"])
    return np.asarray(np.clip(horizontal, 0, 1) - np.clip(oblique, 0, 1))


def _weights(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Cut off normal numbers of mean 0 and variance 1, none beyond `MODE_LIMIT`."""
    weights = rng.normal(0, WIDENED, n)
    while (beyond := np.abs(weights) > MODE_LIMIT).any():
        weights[beyond] = rng.normal(0, WIDENED, int(beyond.sum()))
    return weights


def _plausible(fissures: Fissures) -> bool:
    for name in ("left_oblique", "right_oblique"):
        climb = np.diff(height(getattr(fissures, name), X_GRID, Y_GRID, valid=VALID[name]), axis=1)
        # Some dips are real (a fissure bulges), a fissure that turns back is not.
        if (climb < -DIP).mean() > DIPPING:
            return False
    thickness = _middle_lobe(fissures)
    middle = np.abs(X_GRID - 0.5) < 0.35  # at the walls the box is mostly outside the lung
    if thickness[middle & (Y_GRID < FRONT)].min() < 0:
        return False
    size = np.clip(thickness, 0, None).mean() / np.clip(_middle_lobe(MEANS), 0, None).mean()
    return bool(MIDDLE_LOBE[0] < size < MIDDLE_LOBE[1])
