"""The subjects one can ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class CaseSettings:
    """What sets one kind of subject apart. Pairs are ranges from which the seed draws.

    Parameters
    ----------
    description : str
        One line for people.
    descent_mm : (float, float)
        Descent of the diaphragm at the base, front to back averaged.
    widen, deepen : (float, float)
        Lateral and front-back growth of the chest, shares of its size.
    ripple_mm : float
        Sd of the smooth random displacement on top.
    follow : (float, float)
        Share of the blood volume that follows the flow.
    gain : (float, float)
        Blood gained on inspiration where flow is the mean, g per mL of expiratory lung; negative is lost.
    flip : bool
        Whether the gain changes its sign half way up the lung.
    flow_sd : float
        Sd of the logarithm of the flow on scales of centimetres.
    emphysema, trapping, emboli : int
        How many regions of each kind.
    collapsed_left : bool
        Whether only a remnant of the left lung holds air.
    hu_offset : (float, float)
        Added to the inspiratory and the expiratory scan.
    noise_hu : (float, float)
        Sd of the noise of the two scans at 1.5 mm.
    """

    description: str
    descent_mm: tuple[float, float] = (44.0, 66.0)
    widen: tuple[float, float] = (0.08, 0.14)
    deepen: tuple[float, float] = (0.14, 0.22)
    ripple_mm: float = 1.6
    follow: tuple[float, float] = (0.3, 0.8)
    gain: tuple[float, float] = (-0.035, -0.01)
    flip: bool = False
    flow_sd: float = 0.3
    emphysema: int = 0
    trapping: int = 0
    emboli: int = 0
    collapsed_left: bool = False
    hu_offset: tuple[float, float] = (0.0, 0.0)
    noise_hu: tuple[float, float] = (20.0, 30.0)


_HEALTHY = CaseSettings("healthy adult, full breath, no disease")

CASES: dict[str, CaseSettings] = {
    "healthy": _HEALTHY,
    "emphysema": replace(
        _HEALTHY,
        description="emphysema of the upper lobes: low density, little expansion, little flow",
        emphysema=9,
        descent_mm=(32.0, 45.0),
    ),
    "air-trapping": replace(
        _HEALTHY, description="regions that keep their air on expiration, flow partly kept", trapping=7
    ),
    "pe": replace(
        _HEALTHY,
        description="pulmonary emboli: wedges without flow that still breathe",
        emboli=5,
        follow=(0.5, 0.8),
    ),
    "collapsed-left": replace(
        _HEALTHY,
        description="left lung collapsed to a small remnant, mediastinum drawn to that side",
        collapsed_left=True,
    ),
    "large-motion": replace(
        _HEALTHY,
        description="diaphragm descends by about 80 mm",
        descent_mm=(76.0, 88.0),
        widen=(0.09, 0.13),
        deepen=(0.12, 0.18),
    ),
    "shallow": replace(
        _HEALTHY,
        description="a small breath: little volume between the scans",
        descent_mm=(10.0, 16.0),
        widen=(0.015, 0.03),
        deepen=(0.02, 0.04),
        ripple_mm=0.8,
    ),
}
