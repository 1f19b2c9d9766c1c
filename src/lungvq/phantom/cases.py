"""The subjects one can ask for: settings of breath, physiology, disease and scanner, each on its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from lungvq.phantom.scanner import Scanner

Range = tuple[float, float]


@dataclass(frozen=True)
class Breath:
    """How the lung moves. Pairs are ranges from which the seed draws.

    Parameters
    ----------
    descent_mm : (float, float)
        Descent of the diaphragm at the base, front to back averaged.
    widen, deepen : (float, float)
        Lateral and front-back growth of the chest, shares of its size.
    coarse_mm, fine_mm : float
        Sd of the random displacement with correlation lengths of 16-22 mm and of 8-15 mm.
    slide_mm : (float, float)
        How far lobes slide along their fissures.
    """

    descent_mm: Range = (63.0, 73.0)
    widen: Range = (0.08, 0.11)
    deepen: Range = (0.18, 0.22)
    coarse_mm: float = 1.1
    fine_mm: float = 0.31
    slide_mm: Range = (0.0, 0.0)


@dataclass(frozen=True)
class Physiology:
    """Blood and flow: knobs that the motion does not know of.

    Parameters
    ----------
    follow : (float, float)
        w: share of the blood volume that follows the flow.
    beta : (float, float)
        Blood gained on inspiration where flow is the mean, g per mL of expiratory lung; negative is lost.
    gamma : (float, float)
        Share of the blood lost on inspiration.
    flip : bool
        Whether both change their sign half way up the lung.
    hypoxic : float
        Flow goes with ventilation to this power (hypoxic vasoconstriction).
    flow_sd : float
        Sd of the logarithm of flow, without gravity.
    flow_mm : tuple of float
        Correlation lengths over which that is spread.
    flow_per_cm, dry_per_cm, blood_per_cm : (float, float)
        Relative change towards the back.
    prune : float
        How far vessels below 10 mm2 thin where disease takes flow away: an end that has lost all of it counts for
        ``1 - prune`` of an end. 0: not at all, as when flow was lost just now.
    """

    follow: Range = (0.3, 0.8)
    beta: Range = (-0.03, -0.008)
    gamma: Range = (0.0, 0.0)
    flip: bool = False
    hypoxic: float = 0.0
    flow_sd: float = 0.35
    flow_mm: tuple[float, ...] = (8.0, 14.0, 20.0)
    flow_per_cm: Range = (0.033, 0.037)
    dry_per_cm: Range = (0.011, 0.0145)
    blood_per_cm: Range = (0.029, 0.035)
    prune: float = 0.0


@dataclass(frozen=True)
class Disease:
    """One kind of lesion.

    Parameters
    ----------
    kind : str
        What the truth calls it.
    count : int
        How many balls; 1 for other forms.
    form : str
        ``ball`` at a random place, ``band`` (all lung above or below a height), ``rim`` (under the pleura,
        at the bases), ``lobe``.
    where : str
        ``upper``, ``lower``, ``any``, ``dependent``; the name of a lobe for ``lobe``.
    size_mm : (float, float)
        Radius of a ball, depth of a rim.
    texture : str
        ``solid``, ``holes`` (centrilobular), ``patches`` (whole lobules) or ``strands`` (reticulation).
    grain_mm, share : float
        Size of a lobule; share of lobules that are ill, or radius of a hole over that of a lobule.
    flow, blood, dry : (float, float)
        Factors where the lesion is full.
    added : (float, float)
        Fluid or cells, g/mL of expiratory lung.
    expansion : (float, float) or None
        J in the middle of a lesion; None leaves the motion alone.
    """

    kind: Literal["emphysema", "air-trapping", "consolidation", "ground-glass", "fibrosis", "patchy-flow"]
    count: int = 1
    form: Literal["ball", "band", "rim", "lobe"] = "ball"
    where: str = "any"
    size_mm: Range = (16.0, 30.0)
    texture: Literal["solid", "holes", "patches", "strands"] = "solid"
    grain_mm: float = 8.0
    share: float = 0.4
    flow: Range = (1.0, 1.0)
    blood: Range = (1.0, 1.0)
    dry: Range = (1.0, 1.0)
    added: Range = (0.0, 0.0)
    expansion: Range | None = None


@dataclass(frozen=True)
class Emboli:
    """Blocked arteries: the territory of each is exactly what its ends reach.

    Parameters
    ----------
    lobar, segmental, subsegmental : int
        How many of each.
    flow, blood : (float, float)
        Factors in the territory.
    expansion : (float, float)
        Factor on the expansion around the middle of a territory.
    elsewhere : float
        Blood volume of what is not blocked, as a factor: more than 1 makes the mosaic of chronic disease.
    """

    lobar: int = 0
    segmental: int = 0
    subsegmental: int = 0
    flow: Range = (0.03, 0.15)
    blood: Range = (0.6, 0.9)
    expansion: Range = (0.85, 0.95)
    elsewhere: float = 1.0


@dataclass(frozen=True)
class CaseSettings:
    """What sets one kind of subject apart.

    Parameters
    ----------
    description : str
        One line for people.
    breath, physiology, diseases, emboli
        See there.
    completeness : (float, float)
        How much of each fissure is there, as a share of its area.
    visible : bool
        Whether fissures show in the scans at all.
    collapsed : str
        ``""``, ``"left"`` (only a remnant of the left lung holds air), or a lobe without air.
    fluid : str
        ``""``, ``"right"`` or ``"left"``: pleural effusion.
    insp, exp : Scanner
        How each breath-hold was scanned.
    """

    description: str
    breath: Breath = Breath()
    physiology: Physiology = Physiology()
    diseases: tuple[Disease, ...] = ()
    emboli: Emboli = Emboli()
    completeness: Range = (0.75, 1.0)
    visible: bool = True
    collapsed: Literal["", "left", "RUL", "LLL"] = ""
    fluid: Literal["", "right", "left"] = ""
    insp: Scanner = field(default_factory=lambda: Scanner(noise_hu=12.0))
    exp: Scanner = field(default_factory=lambda: Scanner(noise_hu=20.0))


_EMPTYING = Disease("emphysema", flow=(0.1, 0.4), blood=(0.25, 0.5), dry=(0.2, 0.45), expansion=(1.0, 1.3))
_SHALLOW = Breath((8.0, 14.0), (0.012, 0.025), (0.015, 0.035), 0.8, 0.25)
_PRUNED = Physiology(prune=0.65)
_ILL = Breath(descent_mm=(36.0, 52.0), widen=(0.06, 0.10), deepen=(0.10, 0.16))

CASES: dict[str, CaseSettings] = {
    "healthy": CaseSettings("healthy adult, full breath, no disease"),
    "emphysema": CaseSettings(
        "emphysema of the upper lobes: low density, little expansion, little flow",
        _ILL,
        _PRUNED,
        diseases=(
            replace(_EMPTYING, count=9, where="upper", size_mm=(16, 32)),
            replace(_EMPTYING, form="band", where="upper", texture="holes", share=0.45),
        ),
    ),
    "emphysema-lower": CaseSettings(
        "panlobular emphysema of the lower lobes, as in alpha-1 antitrypsin deficiency",
        _ILL,
        _PRUNED,
        diseases=(
            Disease(
                "emphysema",
                form="band",
                where="lower",
                texture="patches",
                grain_mm=14,
                share=0.6,
                flow=(0.2, 0.4),
                blood=(0.3, 0.5),
                dry=(0.3, 0.5),
            ),
            replace(_EMPTYING, count=7, where="lower", size_mm=(18, 32)),
        ),
    ),
    "emphysema-diffuse": CaseSettings(
        "centrilobular emphysema everywhere",
        _ILL,
        _PRUNED,
        diseases=(
            Disease(
                "emphysema",
                form="band",
                where="any",
                texture="holes",
                grain_mm=7,
                share=0.5,
                flow=(0.2, 0.5),
                blood=(0.2, 0.4),
                dry=(0.15, 0.3),
            ),
        ),
    ),
    "air-trapping": CaseSettings(
        "regions that keep their air on expiration, flow partly kept",
        diseases=(
            Disease(
                "air-trapping",
                8,
                size_mm=(18, 32),
                flow=(0.5, 0.9),
                blood=(0.6, 0.8),
                dry=(0.6, 0.7),
                expansion=(1.0, 1.15),
            ),
        ),
    ),
    "small-airways": CaseSettings(
        "many lobules that keep their air: a mosaic on expiration",
        diseases=(
            Disease(
                "air-trapping",
                45,
                size_mm=(8, 14),
                flow=(0.5, 0.9),
                blood=(0.6, 0.8),
                dry=(0.6, 0.7),
                expansion=(1.0, 1.15),
            ),
        ),
    ),
    "pe": CaseSettings(
        "acute pulmonary emboli: territories of arteries without flow that still breathe",
        physiology=Physiology(follow=(0.5, 0.8)),
        emboli=Emboli(segmental=4, subsegmental=3),
    ),
    "pe-subsegmental": CaseSettings(
        "one or two small emboli", emboli=Emboli(subsegmental=2, expansion=(0.95, 1.0))
    ),
    "pe-lobar": CaseSettings(
        "a lobar and some segmental emboli", emboli=Emboli(lobar=1, segmental=2, blood=(0.6, 0.8))
    ),
    "pe-silent": CaseSettings(
        "emboli that change neither density nor motion: flow alone is lost, and CT cannot show it",
        physiology=Physiology(follow=(0.0, 0.0), beta=(0.0, 0.0)),
        emboli=Emboli(segmental=4, blood=(1.0, 1.0), expansion=(1.0, 1.0)),
    ),
    "cteph": CaseSettings(
        "chronic thromboembolic disease: many territories, mosaic density",
        physiology=replace(_PRUNED, follow=(0.6, 0.8)),
        emboli=Emboli(
            segmental=6,
            subsegmental=8,
            flow=(0.1, 0.4),
            blood=(0.3, 0.55),
            elsewhere=1.25,
            expansion=(0.95, 1.0),
        ),
    ),
    "collapsed-left": CaseSettings(
        "left lung collapsed to a small remnant, mediastinum drawn to that side", collapsed="left"
    ),
    "collapsed-lobe": CaseSettings("left lower lobe without air", collapsed="LLL"),
    "effusion": CaseSettings("pleural fluid at the back of the right chest", fluid="right"),
    "consolidation": CaseSettings(
        "consolidation: no air, flow partly kept (shunt), and ground glass around it",
        diseases=(
            Disease(
                "consolidation",
                3,
                where="dependent",
                size_mm=(18, 28),
                flow=(0.6, 0.9),
                added=(0.6, 0.7),
                expansion=(1.0, 1.03),
            ),
            Disease(
                "ground-glass",
                4,
                where="any",
                size_mm=(18, 30),
                flow=(0.8, 1.0),
                added=(0.12, 0.2),
                expansion=(1.2, 1.5),
            ),
        ),
    ),
    "fibrosis": CaseSettings(
        "reticulation under the pleura at the bases; stiff, small lungs",
        Breath((24.0, 36.0), (0.04, 0.07), (0.07, 0.12)),
        diseases=(
            Disease(
                "fibrosis",
                form="rim",
                where="lower",
                size_mm=(14, 24),
                texture="strands",
                grain_mm=9,
                flow=(0.4, 0.7),
                added=(0.25, 0.4),
            ),
            Disease("ground-glass", form="rim", where="lower", size_mm=(16, 26), added=(0.05, 0.1)),
        ),
    ),
    "collateral": CaseSettings(
        "emphysema of the left upper lobe with an incomplete left fissure: collateral ventilation",
        _ILL,
        _PRUNED,
        diseases=(
            Disease(
                "emphysema",
                form="lobe",
                where="LUL",
                texture="patches",
                grain_mm=12,
                share=0.7,
                flow=(0.15, 0.4),
                blood=(0.3, 0.5),
                dry=(0.25, 0.4),
            ),
        ),
        completeness=(0.45, 0.75),
    ),
    "post-infection": CaseSettings(
        "after an infection: patchy flow in lungs that look and breathe as healthy ones do",
        physiology=Physiology(flow_sd=0.42),
        diseases=(
            Disease(
                "patchy-flow",
                form="band",
                where="any",
                texture="patches",
                grain_mm=18,
                share=0.22,
                flow=(0.35, 0.6),
                blood=(0.85, 0.95),
            ),
        ),
    ),
    "hypoxic": CaseSettings(
        "air trapping with flow turned away from what does not breathe",
        physiology=Physiology(hypoxic=0.5),
        diseases=(
            Disease(
                "air-trapping", 8, size_mm=(18, 32), blood=(0.7, 0.9), dry=(0.6, 0.75), expansion=(1.0, 1.15)
            ),
        ),
    ),
    "no-mass-change": CaseSettings(
        "no blood comes or goes on breathing in, and blood does not follow flow",
        physiology=Physiology(follow=(0.0, 0.0), beta=(0.0, 0.0)),
    ),
    "mass-flip": CaseSettings(
        "blood lost at the base and gained at the apex", physiology=Physiology(beta=(-0.05, -0.03), flip=True)
    ),
    "large-motion": CaseSettings(
        "diaphragm descends by about 80 mm", Breath((76.0, 88.0), (0.07, 0.11), (0.10, 0.16))
    ),
    "sliding": CaseSettings(
        "lobes slide along their fissures by up to 14 mm",
        Breath(slide_mm=(8.0, 14.0)),
        completeness=(1.0, 1.0),
    ),
    "shallow": CaseSettings("a small breath: little volume between the scans", _SHALLOW),
    "low-dose": CaseSettings(
        "expiration at a quarter of the dose, scales shifted by some HU",
        insp=Scanner(noise_hu=18.0, offset_hu=6.0),
        exp=Scanner(noise_hu=38.0, offset_hu=-8.0, gain=1.01),
    ),
    "sharp-kernel": CaseSettings(
        "inspiration with a sharp kernel, expiration with a soft one",
        insp=Scanner(kernel="sharp", noise_hu=12.0),
    ),
    "thick-slices": CaseSettings(
        "5 mm slice profiles at both breath-holds",
        insp=Scanner(thickness=5.0, noise_hu=12.0),
        exp=Scanner(thickness=5.0, noise_hu=20.0),
    ),
    "no-fissures": CaseSettings("fissures that no scan shows", visible=False),
}
