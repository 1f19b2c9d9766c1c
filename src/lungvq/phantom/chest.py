"""The body of one subject: sizes and places of what the chest is made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lungvq.phantom.cases import CaseSettings
from lungvq.phantom.shape import Shape

Floats = NDArray[np.float64]

# Mean fissures of 75 inspiratory scans, z_n = sum c [1 X Y X^2 XY Y^2 X^3 X^2Y XY^2 Y^3] in the box of each
# lung, from the annotated points of the Chest Imaging Platform; and how far they vary between people.
_LEFT_OBLIQUE = (0.460, -0.029, 1.249, 0.668, 0.407, 0.517, -1.982, -3.595, -2.954, -4.325)
_RIGHT_OBLIQUE = (0.427, -0.044, 0.996, 0.194, 0.245, 0.173, 1.317, -0.864, 1.633, -3.136)
_HORIZONTAL = (0.508, -0.006, 0.134, 0.489, 0.862, 0.885, 1.759, 1.858, 1.783, 2.081)
# The outline here is simpler than a real lung: raised so much, the lobes have their published mean shares.
_RAISE_RIGHT, _RAISE_HORIZONTAL = 0.045, 0.055
_FISSURE_SD = {"left": 0.094, "right": 0.067, "horizontal": 0.059}


def vary(rng: np.random.Generator, mean: float, share: float) -> float:
    return float(mean * (1 + share * np.clip(rng.normal(), -2, 2)))


def _fissure(rng: np.random.Generator, mean: tuple[float, ...], sd: float, lift: float = 0.0) -> Floats:
    """A fissure of one person: the mean surface, raised and tilted within the published spread."""
    c = np.array(mean)
    c[0] += lift + np.clip(rng.normal(), -1.8, 1.8) * sd * 0.35
    c[1:3] += np.clip(rng.normal(size=2), -1.8, 1.8) * sd * 1.2
    c[3:6] += np.clip(rng.normal(size=3), -1.8, 1.8) * sd * 1.5
    return c


def draw_shape(case: CaseSettings, rng: np.random.Generator) -> Shape:
    size = vary(rng, 1.0, 0.05)
    half_width = vary(rng, 113 * size, 0.03)
    half_depth = vary(rng, 78 * size, 0.04)
    height = vary(rng, 186 * size, 0.04)
    shift = rng.uniform(22, 30) if case.collapsed_left else rng.uniform(-2, 4)
    recess = 0.0
    dome_left = recess + height * rng.uniform(0.16, 0.22)
    dome_right = dome_left + rng.uniform(8, 18)
    spine_y = half_depth * 0.78
    remnant = np.zeros((2, 4))
    if case.collapsed_left:
        remnant[1] = (half_width * 0.62, half_depth * 0.05, height * 0.72, 24 * size)
    return Shape(
        apex_z=height,
        height=height,
        half_width=half_width,
        half_depth=half_depth,
        taper=rng.uniform(0.55, 0.68),
        midline=shift,
        waist=24 * size,
        heart=np.array([24 * size + shift, -28 * size, dome_left + 24 * size]),
        heart_radius=np.array([52.0, 42.0, 42.0]) * size * rng.uniform(0.92, 1.06),
        spine_y=spine_y,
        spine_radius=19 * size,
        aorta=np.array([24 * size, spine_y - 24 * size, 12.0, height * 0.72]),
        dome_z=np.array([dome_right, dome_left]),
        dome=np.array([dome_right, dome_left]) * rng.uniform(0.75, 0.9),
        dome_x=np.array([56.0, 60.0]) * size,
        dome_rx=np.array([58.0, 54.0]) * size,
        dome_y=-22 * size,
        dome_ry=84 * size * rng.uniform(0.95, 1.05),
        recess_z=recess,
        remnant=remnant,
        lung_low=np.zeros((2, 3)),
        lung_high=np.ones((2, 3)),
        oblique=np.stack(
            [
                _fissure(rng, _RIGHT_OBLIQUE, _FISSURE_SD["right"], _RAISE_RIGHT),
                _fissure(rng, _LEFT_OBLIQUE, _FISSURE_SD["left"]),
            ]
        ),
        horizontal=_fissure(rng, _HORIZONTAL, _FISSURE_SD["horizontal"], _RAISE_HORIZONTAL),
        wall=rng.uniform(15, 19),
        fat=rng.uniform(8, 24),
        rib_slope=rng.uniform(0.35, 0.5),
        rib_step=height / rng.uniform(8.5, 9.5),
    )
