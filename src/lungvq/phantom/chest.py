"""The body of one subject: sizes and places of what the chest is made of."""

from __future__ import annotations

import numpy as np

from lungvq.phantom.cases import CaseSettings
from lungvq.phantom.shape import Shape, spine_at


def vary(rng: np.random.Generator, mean: float, share: float) -> float:
    return float(mean * (1 + share * np.clip(rng.normal(), -2, 2)))


def draw_shape(case: CaseSettings, rng: np.random.Generator) -> Shape:
    """Draw the sizes of one man or woman, by even odds."""
    female = bool(rng.random() < 0.5)
    size = vary(rng, 0.965 if female else 1.045, 0.03)
    half_width = vary(rng, 118 * size, 0.03)
    half_depth = vary(rng, 79 * size, 0.04)
    height = vary(rng, 196 * size, 0.035)
    shift = rng.uniform(22, 30) if case.collapsed == "left" else rng.uniform(-2, 4)
    recess = 0.0
    dome_left = recess + height * rng.uniform(0.22, 0.28)
    dome_right = dome_left + rng.uniform(8, 18)
    spine_y = half_depth - rng.uniform(41, 47) * size
    spine_radius = 17.5 * size
    kyphosis = rng.uniform(22, 32) * size
    arch_z = height * rng.uniform(0.68, 0.70)
    heart = rng.uniform(0.93, 1.05) * size
    aorta_radius = rng.uniform(12.0, 16.0)
    beside = spine_radius + aorta_radius  # from the middle of the spine to that of the aorta
    taper = rng.uniform(0.95, 1.08)
    c = Shape(
        size=size,
        apex_z=height,
        height=height,
        half_width=half_width,
        half_depth=half_depth,
        crest_y=half_depth * rng.uniform(0.06, 0.16),
        taper_side=0.60 * taper,
        taper_front=0.80 * taper,
        taper_back=0.52 * taper,
        midline=shift,
        waist=21 * size,
        junction=rng.uniform(3.5, 8.0),
        heart_x=25 * size + shift,
        heart_y=-28 * size,
        heart_z=dome_left + 26 * size,
        heart_long=54.0 * heart,
        heart_wide=41.0 * heart,
        atria=40.0 * heart,
        spine_y=spine_y,
        spine_radius=spine_radius,
        kyphosis=kyphosis,
        aorta_x=0.8 * beside,
        aorta_y=0.0,  # set below
        aorta_radius=aorta_radius,
        arch_z=arch_z,
        blood_hu=rng.uniform(36, 48),
        dome_right=dome_right,
        dome_left=dome_left,
        dome_x=0.50 * half_width,
        dome_y=-0.12 * half_depth,
        recess_z=recess,
        remnant_side=1 if case.collapsed == "left" else -1,
        remnant_x=half_width * 0.62,
        remnant_y=half_depth * 0.05,
        remnant_z=height * 0.60,
        remnant_radius=24 * size,
        fluid_side=-1,
        fluid_y=0.0,
        fluid_slope=0.0,
        wall=rng.uniform(14, 18) if female else rng.uniform(16, 21),
        fat=rng.uniform(8, 26),
        breast=rng.uniform(42, 62) if female else 0.0,
        rib_slope=rng.uniform(0.35, 0.5),
        rib_step=height / rng.uniform(8.5, 9.5),
    )
    return c._replace(aorta_y=spine_at(c, arch_z) - 0.6 * beside)
