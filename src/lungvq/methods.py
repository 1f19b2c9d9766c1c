"""Every method by its id, with what it measures, its source and its limits; and a door for methods of others.

``python -m lungvq.methods`` prints the page ``docs/methods.md``, and a test compares them.

A package adds an estimator through the entry-point group ``lungvq.estimators``: the name of the entry point is the
name of its map, and what it points to is an `Estimator`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from lungvq.errors import UsageError

if TYPE_CHECKING:
    from lungvq.pair import MatchedPair
    from lungvq.volume import Volume

__all__ = [
    "ESTIMATORS",
    "METHODS",
    "METRICS",
    "Estimator",
    "Installed",
    "Method",
    "Metric",
    "installed",
    "load_estimator",
    "page",
]

ESTIMATORS = "lungvq.estimators"
"""The entry-point group for estimators of other packages."""


@dataclass(frozen=True)
class Method:
    """One way to get a number or a map.

    Parameters
    ----------
    id : str
        Name and version, as in ``metrics.csv``: a change of values is a new version.
    kind : str
        ``"map"``: an estimator; ``"count"``: a way of counting.
    measures, unit : str
    source : str
        Where it comes from; ``"own"`` where it is this package's.
    limits : str
        How far it goes, and what it is not valid for.
    """

    id: str
    kind: str
    measures: str
    unit: str
    source: str
    limits: str


@dataclass(frozen=True)
class Metric:
    """One column of numbers in ``metrics.csv``: its name, unit and meaning."""

    name: str
    unit: str
    meaning: str


class Estimator(Protocol):
    """What an entry point of the group ``lungvq.estimators`` must give: a map from a matched pair.

    ``method`` says what it is; ``quantity`` is ``"ventilation"`` or ``"perfusion"``.
    """

    method: Method
    quantity: str

    def __call__(self, pair: MatchedPair) -> Volume:
        """The map per mL of expiratory lung, on the grid of ``pair.lungs``; NaN where it is not defined."""


_MAPS = (
    (
        "hybrid@2",
        "air gained on breathing in per mL of expiratory lung, J F_insp - F_exp, detail of J within 12 mm weighed"
        " against density by inverse variances",
        "mL/mL",
        "own; absolute form of SACJ, Ding 2012; averages first, Castillo 2019",
        "difference of two breath-holds, not tidal breathing; not defined in opacities (density above 0.75 g/mL);"
        " where mass changes unevenly within 12 mm part of that counts as error of J",
    ),
    (
        "air_gain@1",
        "as hybrid@2, J as the registration has it",
        "mL/mL",
        "absolute form of SACJ, Ding 2012; averages first, Castillo 2019",
        "as hybrid@2, and every error of the registration is in it",
    ),
    (
        "jacobian@1",
        "volume gained per mL of expiratory lung, J - 1",
        "mL/mL",
        "Reinhardt 2008",
        "geometry alone: blood that comes in counts as air; as good as the registration",
    ),
    (
        "hu_ratio@1",
        "volume gained as densities tell it, k rho_exp / rho_insp - 1",
        "mL/mL",
        "Simon 2000, Guerrero 2006, global mass Mistry 2013",
        "takes mass to change by one factor in a whole lung; an HU offset of 15 is an error of some 13 %;"
        " too low where expansion is uneven within its average (6 % where ln J has an SD of 0.2 there)",
    ),
    (
        "blood_mass@1",
        "blood mass of parenchyma relative to the lungs' mean",
        "1",
        "own; extravascular share from Brudin 1987",
        "blood volume, not flow; not for acute embolism; wrong wherever density is not blood (fibrosis, ground glass,"
        " oedema, collapse, tumour); with contrast medium not at all",
    ),
    (
        "mass_change@1",
        "apparent mass gained on breathing in, J rho_insp - rho_exp, signed",
        "g/mL",
        "CT-P, Castillo 2021",
        "blood volume that comes and goes, not flow; 1 % of J is as large as 1 % of the mass: read it with its"
        " standard error, over regions of 2 to 3 cm",
    ),
    (
        "ctp_regions@1",
        "debiased magnitude of the mass change over regions of 20 mm radius or as asked, none within twice its error",
        "g/mL",
        "after CT-P, Castillo 2021; regions of fixed size",
        "as mass_change@1, without its sign; where it is undefined nothing can be said, not that there is no flow",
    ),
    (
        "vq_log2@1",
        "log2 of ventilation over perfusion, each relative to its mean",
        "1",
        "own",
        "as good as both maps; floored at 5 % of the mean",
    ),
    (
        "expected_error@1",
        "1 / (1 + e^2), e the expected error of the motion in mm",
        "1",
        "own",
        "an expectation learned on phantoms, not a measurement of this case",
    ),
)
_COUNTS = (
    (
        "mask@1",
        "volume, mass and air of the region's mask on its own scan",
        "mL, g",
        "own",
        "as good as the mask; tissue taken as water; the wall in voxels beside the pleura counts",
    ),
    (
        "clear_of_wall@1",
        "mass and air, voxels that are partly wall taken as the lung beneath them",
        "mL, g",
        "own",
        "says nothing of the outermost voxel; what maps add up to",
    ),
    (
        "densitometry@1",
        "mean, percentiles and relative volumes of calibrated CT numbers",
        "HU, %",
        "Parr 2004; Matsuoka 2008",
        "depends on depth of breath, dose, kernel and slices; zones at inspiration are of that scan's height",
    ),
    (
        "threshold@1",
        "share of voxels at or below a CT number",
        "%",
        "LAA-950, -910 at inspiration, -856 at expiration",
        "noise and sharp kernels count as disease",
    ),
    (
        "threshold_median3d@1",
        "the same after a median of 3 x 3 x 3 voxels",
        "%",
        "own",
        "noise moves it less; holes smaller than the filter vanish; not comparable with published LAA",
    ),
    (
        "bv5@1",
        "blood in vessels of a cross-section below 5 mm2, per volume of lung, at inspiration",
        "mL/mL",
        "Estepar 2013 for the cut; partial volumes: own",
        "vessels thinner than about half a voxel are missed: compare scans of one spacing only; not perfusion",
    ),
    (
        "ratio@1",
        "expiration over inspiration, of volume and of mean lung density",
        "1",
        "Yamashiro 2010",
        "depends on the effort of both breaths",
    ),
    (
        "mass_carried@1",
        "mass and air of a part at inspiration: wall-free mass at expiration and its change, as clear_of_wall@1",
        "g, mL",
        "own",
        "as mass_change@1",
    ),
    (
        "prm@1",
        "PRM classes after a median of 3 x 3 voxels in-plane, CT numbers within -1000 to -500 HU",
        "%",
        "Galban 2012",
        "at a threshold is disease; noise, kernel and misregistration count as disease; not for thick slices",
    ),
    (
        "prm_median3d@1",
        "PRM classes after a median of 3 x 3 x 3 voxels",
        "%",
        "own",
        "noise moves it less; not comparable with published PRM",
    ),
    (
        "mean60@1",
        "share below 60 % of the lungs' mean; V/Q classes by the same threshold",
        "%",
        "Roach 2022, xenon MRI",
        "the default; no threshold is published for CT",
    ),
    ("mean75@1", "share below 75 % of the mean", "%", "Roach 2022, xenon MRI", "as mean60"),
    ("mean200@1", "share above twice the mean", "%", "xenon MRI", "as mean60"),
    *(
        (f"mean{t}@1", f"V/Q classes at {t} % of the means", "%", "own", "for the effect of the threshold")
        for t in (40, 50, 70, 80)
    ),
    (
        "sweep40to80@1",
        "V/Q classes averaged over thresholds from 40 to 80 % of the means",
        "%",
        "own",
        "does not hang on one threshold; taken on voxels 2 mm apart",
    ),
    (
        "lb_mean_fixed@1",
        "share below 33 % of the mean; bins at 33, 66, 100, 133 and 166 % of it",
        "%",
        "linear binning, xenon MRI",
        "fixed bins, not from healthy people",
    ),
    (
        "glb_mean@1",
        "share below 56.56 % of the mean",
        "%",
        "generalised linear binning, Duke xenon MRI",
        "cut-point of healthy xenon images, not of CT",
    ),
    (
        "glb_p99@1",
        "share below 38.91 % of the 99th percentile",
        "%",
        "He 2016; Duke xenon MRI",
        "cut-point of healthy xenon images, not of CT",
    ),
    (
        "kmeans_h@1",
        "share in the lower half of the lowest of four k-means clusters, clustered again in four",
        "%",
        "Kirby 2012, helium MRI",
        "finds a lowest cluster in any lung, healthy or not",
    ),
    (
        "kmeans_adaptive@1",
        "share in the lowest k-means clusters; how many of how many, in one round or two, the histogram says",
        "%",
        "Zha 2016, xenon MRI",
        "jumps where the share in the lowest tenth of the range crosses 4 or 10 %",
    ),
    (
        "ref_quantile@1",
        "share below the lowest 2.28 % of healthy phantoms: 33.6 % of the mean for V, 62.8 % for Q; classes likewise",
        "%",
        "own: six phantoms, tools/reference_quantiles.py",
        "drawn lungs, not people, of one age; goes with these versions of the maps",
    ),
    (
        "pctmax@1",
        "share below 42 % of the 99th percentile",
        "%",
        "habit of SPECT",
        "depends on a few high voxels",
    ),
    (
        "mean60_min1ml@1",
        "as mean60, in connected clusters of at least 1 mL",
        "%, mL, 1",
        "own",
        "connected through faces, within one lung",
    ),
    (
        "mean60_detrended@1",
        "as mean60, after the trend with height was divided out",
        "%",
        "own",
        "what disease does along gravity goes with the trend; beside the default, never instead",
    ),
    *(
        (
            f"{name}_detrended@1",
            "CV after the trend with height was divided out",
            "1",
            "own",
            "what disease does along gravity goes with the trend",
        )
        for name in ("hybrid", "blood_mass")
    ),
    (
        "cube20mm@1",
        "CV within cubes of 2 cm",
        "1, %",
        "Norberg 2014; IQR: helium MRI",
        "on voxels 2 mm apart; at least a quarter of the cube in the lung",
    ),
    (
        "box_dispersion@1",
        "fractal dimension: 1 less the slope of ln CV against ln volume, over cubes of 12, 17, 24 and 34 mm",
        "1",
        "Bassingthwaighte 1989",
        "on voxels 2 mm apart; the map's smoothness and a trend with gravity lower it, noise raises it",
    ),
    (
        "voronoi20mm@2",
        "statistics within, then over Voronoi cells of some 8 mL",
        "mL/mL, 1, %",
        "after Cisneros 2026; seeds and statistics own",
        "on voxels 4 mm apart; the source's seeds and statistics are not public",
    ),
    (
        "prm_minkowski3mm@1",
        "surface, integral of its mean curvature and Euler number of a PRM class, per mL that has a class",
        "cm2/mL, cm/mL, 1/mL",
        "Hoff 2017; Ohser 2000",
        "on blocks of 3 mm, the commonest class of each; borders on vessels and the pleura count; no windows",
    ),
    (
        "variance_split@1",
        "share of variance between lobes or zones",
        "%",
        "one-way analysis of variance",
        "as good as the lobes' borders",
    ),
    (
        "height@1",
        "straight-line trend downwards, of the mean",
        "%/cm",
        "own",
        "down is the back unless the header tells another position",
    ),
    (
        "pearson@1",
        "correlation of ventilation and perfusion over voxels",
        "1",
        "own",
        "a shared trend with gravity is enough to raise it",
    ),
)

METHODS: dict[str, Method] = {
    row[0]: Method(row[0], kind, *row[1:])
    for kind, rows in (("map", _MAPS), ("count", _COUNTS))
    for row in rows
}
"""Every method of this package, by its id."""


def _metrics() -> Iterator[Metric]:
    for hold, title in (("insp", "inspiration"), ("exp", "expiration")):
        carried = "; of a zone: carried by the Jacobian" if hold == "insp" else ""
        yield Metric(f"volume_{hold}_ml", "mL", f"volume at {title}{carried}")
        yield Metric(f"mass_{hold}_g", "g", f"mass at {title}{carried}")
        yield Metric(f"air_{hold}_ml", "mL", f"air at {title}, volume less mass{carried}")
        yield Metric(f"mld_{hold}_hu", "HU", f"mean lung density at {title}")
        for percent in (5, 10, 15, 50, 85, 95):
            yield Metric(
                f"perc{percent}_{hold}_hu", "HU", f"percentile of density at {title}; add 1000 for g/L"
            )
        yield Metric(
            f"trapping_volume_{hold}_pct",
            "%",
            f"share of lung above -950 HU that is at most -856 HU, {title}",
        )
    yield Metric("laa950_pct", "%", "at or below -950 HU on inspiration")
    yield Metric("laa910_pct", "%", "at or below -910 HU on inspiration")
    yield Metric("laa856_pct", "%", "at or below -856 HU on expiration")
    yield Metric(
        "small_vessel_density", "mL/mL", "blood in vessels below 5 mm2, per mL of lung at inspiration"
    )
    yield Metric(
        "rvc856_950_pct",
        "%",
        "trapping volume at expiration less at inspiration; near 0 where air is trapped",
    )
    yield Metric("ei_volume_ratio", "1", "volume at expiration over volume at inspiration")
    yield Metric("ei_mld_ratio", "1", "mean lung density at expiration over that at inspiration, in HU")
    yield Metric("ventilation_ml", "mL", "air gained on breathing in")
    for name in ("ventilation", "perfusion"):
        yield Metric(f"{name}_fraction_pct", "%", "share of the signed sum over both lungs")
        yield Metric(f"{name}_undefined_pct", "%", "share of voxels where the map is not defined")
        yield Metric(f"{name}_defect_pct", "%", "share of defined voxels that are too low")
        yield Metric(f"{name}_defect_count", "1", "number of connected defects")
        yield Metric(f"{name}_defect_largest_ml", "mL", "the largest of them")
        yield Metric(f"{name}_high_pct", "%", "share of defined voxels that are too high")
        yield Metric(f"{name}_cv", "1", "SD / mean")
        for scale in (5, 10, 15, 20):
            yield Metric(
                f"{name}_cv_{scale}mm",
                "1",
                f"CV after a Gaussian of {scale} mm FWHM on top, within each lung",
            )
        yield Metric(f"{name}_cv_corrected", "1", "CV less what the standard errors explain; a lower bound")
        yield Metric(f"{name}_h", "1", "interquartile range / mean")
        yield Metric(f"{name}_skewness", "1", "skewness")
        yield Metric(f"{name}_gini", "1", "Gini coefficient")
        yield Metric(f"{name}_local_cv", "1", "median of the local CV")
        yield Metric(f"{name}_local_cv_iqr", "1", "interquartile range of the local CV")
        yield Metric(f"{name}_local_cv_high_pct", "%", "share with a local CV above 20 %")
        yield Metric(
            f"{name}_fractal_d", "1", "fractal dimension: 1.5 where neighbours are unlike, 1 where all is one"
        )
        unit = "mL/mL" if name == "ventilation" else "1"
        yield Metric(
            f"{name}_voronoi_median",
            unit,
            "median over cells of 8 mL",
        )
        yield Metric(f"{name}_voronoi_cv", "1", "CV of the cells' means")
        yield Metric(f"{name}_voronoi_within_cv", "1", "mean of the CV within cells")
        yield Metric(
            f"{name}_voronoi_low_pct", "%", "share in cells whose mean is below 60 % of that of both lungs"
        )
        yield Metric(f"{name}_between_lobes_pct", "%", "share of variance between lobes")
        yield Metric(f"{name}_between_zones_pct", "%", "share of variance between zones")
        yield Metric(f"{name}_gradient_pct_per_cm", "%/cm", "change per cm downwards, of the mean")
    titles = {"normal": "normal", "dead_space": "V kept, Q low", "shunt": "Q kept, V low",
              "matched_defect": "both low", "abnormal": "not normal"}  # fmt: skip
    for name, title in titles.items():
        yield Metric(f"vq_{name}_pct", "%", f"share of classed voxels: {title}")
        yield Metric(f"vq_{name}_sweep_pct", "%", "the same, averaged over thresholds")
    for name, title in (("low", "below 0.5"), ("even", "0.8 to 1.25"), ("high", "above 2")):
        yield Metric(f"vq_ratio_{name}_pct", "%", f"share with V/Q {title}")
    yield Metric("vq_log_sd_v", "1", "SD of ln(V/Q), weighted by V")
    yield Metric("vq_log_sd_q", "1", "SD of ln(V/Q), weighted by Q")
    yield Metric("vq_correlation", "1", "correlation of V and Q over voxels")
    for v in range(1, 7):
        for q in range(1, 7):
            yield Metric(f"vq_joint_v{v}q{q}_pct", "%", f"share in bin {v} of V and {q} of Q")
    for name in ("normal", "fsad", "emphysema", "emptying_emphysema"):
        yield Metric(f"prm_{name}_pct", "%", "share of classed voxels")
    yield Metric("prm_undefined_pct", "%", "share of voxels without a class: below -1000 or above -500 HU")
    for name in ("normal", "fsad", "emphysema", "emptying_emphysema"):
        yield Metric(f"prm_{name}_surface_cm2_per_ml", "cm2/mL", "surface of the class per mL of all classes")
        yield Metric(
            f"prm_{name}_curvature_cm_per_ml", "cm/mL", "integral of that surface's mean curvature, likewise"
        )
        yield Metric(f"prm_{name}_euler_per_ml", "1/mL", "pieces and hollows less tunnels, likewise")


METRICS: dict[str, Metric] = {metric.name: metric for metric in _metrics()}
"""Every metric of ``metrics.csv``, by its name."""


@dataclass(frozen=True)
class Installed:
    """An estimator that another package brings: its name, that package with its version, and what it is.

    `method` is None where it could not be loaded, and `error` says why.
    """

    name: str
    package: str
    method: Method | None
    quantity: str = ""
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def installed() -> list[Installed]:
    """The estimators of other packages; one that cannot be loaded is listed with its error."""
    found = []
    for point in sorted(entry_points(group=ESTIMATORS), key=lambda p: p.name):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else ""
        try:
            estimator = load_estimator(point.name)
            found.append(Installed(point.name, package, estimator.method, estimator.quantity))
        except UsageError as error:
            found.append(Installed(point.name, package, None, error=str(error)))
    return found


def load_estimator(name: str) -> Estimator:
    """The estimator of another package, by the name of its entry point.

    Raises
    ------
    UsageError
        If there is none of that name, it cannot be loaded, or it is not an `Estimator`.
    """
    points = {point.name: point for point in entry_points(group=ESTIMATORS)}
    if name not in points:
        there = ", ".join(sorted(points)) or "none"
        raise UsageError(f"no estimator is called {name!r}; installed: {there}")
    if not name.isidentifier():
        raise UsageError(f"{name!r} cannot be the name of an estimator: it is no plain word")
    try:
        estimator: Estimator = points[name].load()
    except Exception as error:
        raise UsageError(f"the estimator {name!r} cannot be loaded: {error}") from error
    quantity = getattr(estimator, "quantity", None)
    if (
        not callable(estimator)
        or quantity not in ("ventilation", "perfusion")
        or not isinstance(getattr(estimator, "method", None), Method)
        or estimator.method.id in METHODS
    ):
        raise UsageError(
            f"the estimator {name!r} is not one: it needs a method with an id of its own, a quantity (ventilation or"
            " perfusion), and to be callable on a matched pair"
        )
    return estimator


def page() -> str:
    """The page on methods, as Markdown."""
    return f"""# Methods

Every number and every map names its method. An id ends in a version: where values change, the version does.
`lungvq methods` prints what is here, and what other packages add; this page is made by `python -m lungvq.methods`.

## Maps

{_table(m for m in METHODS.values() if m.kind == "map")}

## Counts

{_table(m for m in METHODS.values() if m.kind == "count")}

## Metrics

Every metric of [metrics.csv](metrics). Where a metric is there by several methods, one of them is the default.

{_rows(("metric", "unit", "meaning"), ((f"`{m.name}`", m.unit, m.meaning) for m in _listed()))}

{_PLUGINS}"""


def _listed() -> Iterator[Metric]:
    """The metrics, the cells of the joint table in one row."""
    for metric in METRICS.values():
        if not metric.name.startswith("vq_joint"):
            yield metric
        elif metric.name == "vq_joint_v1q1_pct":
            text = "joint table of both lungs: share in each of six bins of V (first) and of Q, lowest first"
            yield Metric("vq_joint_v1q1_pct` ... `vq_joint_v6q6_pct", metric.unit, text)


def _table(methods: Iterable[Method]) -> str:
    head = ("id", "measures", "unit", "source", "limits")
    return _rows(head, ((f"`{m.id}`", m.measures, m.unit, m.source, m.limits) for m in methods))


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))


_PLUGINS = """## Your own estimator

A package adds one by an entry point of the group `lungvq.estimators`. It is given the matched pair (both scans in
calibrated HU on one grid over the expiratory lungs, the Jacobian, the lungs: `lungvq.pair.MatchedPair`) and returns a
map per mL of expiratory lung on that grid:

```toml
[project.entry-points."lungvq.estimators"]
ventilation_tissue = "my_package:tissue_loss"
```

```python
from lungvq.hu import density
from lungvq.methods import Method


class TissueLoss:
    quantity = "ventilation"
    method = Method("tissue_loss@1", "map", "density lost on breathing in", "g/mL", "me", "an example")

    def __call__(self, pair):
        return pair.lungs.like(density(pair.hu_exp.array) - density(pair.hu_insp.array))


tissue_loss = TissueLoss()
```

`lungvq methods` then lists it, and `lungvq run --estimator ventilation_tissue` writes
`maps/ventilation_tissue.nii.gz` and its numbers, never as the default. The name must be a plain word that no map of
lungvq has.
"""


if __name__ == "__main__":
    print(page(), end="")
