"""How the fissures of real people lie and vary, for phantoms that look like people and as a prior.

A fissure is a height over the plane of the slices in the box of its lung: z (0 base, 1 apex) as a cubic
polynomial of x (0 patient right, 1 left) and y (0 front, 1 back). Means and modes of variation were fitted by
``tools/fit_fissures.py`` to annotated points of 50 people on inspiration, aligned by one affine each, that
are published with the Chest Imaging Platform [1]_ [2]_. They are modified data, not the original, under its
licence (see NOTICE), and hold no point, image or transform of any person.

Expiration was looked at apart (50 other people): in the lung's box the oblique fissures lie no differently,
the horizontal one 0.03 box heights lower. The constants are those of inspiration.

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


class Fissures(NamedTuple):
    """Coefficients of the three surfaces.

    Each holds the 10 factors of ``1, X, Y, X^2, XY, Y^2, X^3, X^2 Y, X Y^2, Y^3``, with ``X = x - 0.5`` and
    ``Y = y - 0.5``.
    """

    left_oblique: tuple[float, ...]
    right_oblique: tuple[float, ...]
    horizontal: tuple[float, ...]


# Written by tools/fit_fissures.py; do not edit by hand.
# fmt: off
MEANS = Fissures(
    left_oblique=(0.4678, 0.0356, 1.1223, 0.5925, -0.4661, -0.2701, -1.4277, -1.4797, -0.4600, 0.2541,),
    right_oblique=(0.4499, 0.0083, 0.9006, 0.0834, 0.3062, -0.0133, 0.5962, -0.4670, 0.8806, -2.0302,),
    horizontal=(0.5321, -0.0203, -0.0061, -0.0259, 0.5143, -0.1221, 0.4437, 0.4383, 1.0755, 0.5767,),
)
LEFT_MODES: tuple[tuple[float, ...], ...] = (
    (-0.0399, -0.0779, -0.1566, 0.0574, 0.1182, -0.4385, 0.0643, -0.0606, 0.7975, 0.0087,),
    (0.0294, 0.0322, -0.2376, -0.0662, -0.1009, -0.0094, 0.0664, 0.2997, 0.4362, 0.2010,),
    (-0.0047, 0.1221, 0.0533, -0.1117, -0.1218, -0.3136, 0.1429, 0.3106, 0.3677, 0.5336,),
    (-0.0287, 0.1294, 0.1120, -0.1690, -0.4872, 0.2673, -0.0370, 0.5757, -0.0650, -0.7002,),
)
RIGHT_MODES: tuple[tuple[float, ...], ...] = (
    (0.0004, -0.0086, 0.1716, -0.0299, -0.6707, -0.7421, 0.3348, 0.3931, 2.4582, 0.6184,
     -0.0003, 0.0017, 0.0167, 0.0238, -0.0205, 0.0491, 0.0930, 0.0452, -0.1868, 0.0798),
    (0.0406, -0.0807, -0.0826, -0.1239, -0.1286, -0.4383, 0.1050, 0.5616, 0.6939, 1.0277,
     0.0249, -0.0129, -0.0698, 0.0673, 0.0780, 0.0244, 0.0338, -0.0682, 0.2024, 0.1188),
    (-0.0015, 0.0185, 0.1887, 0.0659, 0.1167, 0.2854, -0.0308, -0.3802, -0.1341, -1.0386,
     0.0158, -0.0270, 0.1120, -0.0025, -0.0503, 0.1796, 0.1502, -0.0875, 0.0796, 0.3032),
    (0.0313, -0.0366, -0.1044, -0.0684, -0.1002, -0.3152, 0.1348, 0.4057, 0.4158, 1.0845,
     -0.0038, 0.0438, 0.0093, 0.0064, 0.0410, -0.0666, -0.0117, 0.0796, -0.2355, 0.0569),
    (-0.0080, -0.1099, 0.0591, -0.0118, -0.0237, 0.0056, 0.0781, -0.2968, 0.5633, -0.1842,
     -0.0047, -0.0252, 0.0114, 0.0124, 0.0421, 0.0783, 0.0719, -0.0316, 0.1407, 0.1500),
    (0.0026, 0.0021, 0.0387, 0.0364, 0.2134, -0.1295, 0.0256, -0.1497, -0.2959, 0.1937,
     -0.0189, 0.0031, -0.0908, -0.0292, -0.0020, 0.0765, -0.1133, -0.0661, -0.0542, 0.2045),
    (-0.0071, 0.0098, -0.0419, -0.0013, -0.2143, 0.2489, -0.0947, 0.2766, 0.0585, 0.1946,
     -0.0057, -0.0046, -0.0166, -0.0239, 0.0036, -0.0665, -0.0532, 0.0021, -0.0526, -0.3428),
    (-0.0027, 0.0015, 0.0563, 0.1196, -0.1783, 0.0715, 0.1327, -0.5134, 0.3742, -0.7340,
     -0.0085, -0.0494, -0.0023, -0.0363, 0.0401, 0.0617, -0.0112, -0.1753, 0.1389, 0.0004),
)
VALID: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "left_oblique": ((0.150, 1.000), (0.100, 0.900)),
    "right_oblique": ((0.000, 0.950), (0.100, 0.950)),
    "horizontal": ((0.050, 0.850), (0.050, 0.650)),
}
SPREAD: dict[str, float] = {
    "left_oblique": 0.1003,
    "right_oblique": 0.0992,
    "horizontal": 0.0521,
}
RESIDUAL: dict[str, float] = {
    "left_oblique": 0.0142,
    "right_oblique": 0.0118,
    "horizontal": 0.0118,
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
    Mean + sum over modes of w times mode, with w normal, cut off beyond 2 and widened to keep unit variance
    nowhere: the spread of a sample is 0.88 of the fitted one, less the variance in modes left out.

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
LARGEST_DIP = 0.01
"""Most a height may fall over 1/40 of the way back, in box heights."""


def _middle_lobe(fissures: Fissures) -> NDArray[np.float64]:
    """Thickness of the middle lobe over the box, in box heights; negative where the fissures cross."""
    oblique = height(fissures.right_oblique, X_GRID, Y_GRID, valid=VALID["right_oblique"])
    horizontal = height(fissures.horizontal, X_GRID, Y_GRID, valid=VALID["horizontal"])
    return np.asarray(np.clip(horizontal, 0, 1) - np.clip(oblique, 0, 1))


def _weights(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Standard normal numbers, none beyond `MODE_LIMIT`."""
    weights = rng.standard_normal(n)
    while (beyond := np.abs(weights) > MODE_LIMIT).any():
        weights[beyond] = rng.standard_normal(int(beyond.sum()))
    return weights


def _plausible(fissures: Fissures) -> bool:
    for name in ("left_oblique", "right_oblique"):
        climb = np.diff(height(getattr(fissures, name), X_GRID, Y_GRID, valid=VALID[name]), axis=1)
        # Small dips are real (a fissure bulges), a fissure that turns back is not.
        if climb.min() < -LARGEST_DIP:
            return False
    thickness = _middle_lobe(fissures)
    if thickness[:, Y_GRID[0] < FRONT].min() < 0:
        return False
    size = np.clip(thickness, 0, None).mean() / np.clip(_middle_lobe(MEANS), 0, None).mean()
    return bool(MIDDLE_LOBE[0] < size < MIDDLE_LOBE[1])
