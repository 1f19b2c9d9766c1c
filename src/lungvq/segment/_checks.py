"""What a reader should know about a segmentation before trusting numbers from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungvq.anatomy import LEFT, LOBES, LUNG_OF_LOBE, LUNGS, RIGHT
from lungvq.findings import Finding, fail, passed, warn
from lungvq.segment._coarse import dilate, erode
from lungvq.segment.padding import PADDING_HU, padding_of
from lungvq.segment.rim import surface_offset
from lungvq.volume import Volume, box_around

COLLAPSED_RATIO = 0.25
ASYMMETRIC_RATIO = 0.55
MISSING_ML = 8.0
SMALL_ML, LARGE_ML = 800.0, 8500.0
MOST_ML = 12_000.0
"""No lungs hold more."""
TRUNCATED_PCT = 1.0
TALL_AS_DEEP = 0.6, 2.1  # of 100 people 0.72 to 1.73, by the affines of annotated fissure points
TURNED = 1.0, 1.15  # depth of both lungs over their width: 0.56 to 0.81 in 30 scans, 1.2 to 1.8 when turned
SURFACE_MM, SURFACE_VOXELS = (0.6, 2.0), (0.3, 0.8)  # the larger of both; own masks lie within 0.5 mm
LARGELY_CUT_PCT = 14.0  # of the cross-section: about 2 % of the volume
OPACITY_PCT = 15.0
HOLES_PCT = 1.0
SCATTERED_PCT = 5.0
LOOSE_AIR_ML = 25.0
LOOSE_AIR_HU = 25.0  # above that of air: emphysema holds some tissue, a pleural space none
LOOSE_AIR_PLEURA = 0.15  # share of its surface that must lie at the pleura
_LEAST_WEIGHT = 0.02  # of a mean: less is the filter's rounding

UPRIGHT = 0.35  # airways' mean height within the lungs: 0.77 to 0.81 in 12 scans, -0.06 to 0.10 upside down
UPRIGHT_ML = 5.0  # of airways; of less the place says nothing

AIRLESS_ML = 40.0
AIRLESS_GAP_MM = 18.0  # from the lung's back to the next rib; healthy backs have 2 to 12
CHEST_WALL_MM = 10.0
BONE_HU = 180.0
RIB_STEP_MM = 14.0  # ribs slope: within this much up and down there is one everywhere

LOBE_SHARES: dict[str, tuple[float, float]] = {
    "LUL": (18.1, 26.6),
    "LLL": (19.4, 28.7),
    "RUL": (11.8, 22.7),
    "RML": (6.6, 13.8),
    "RLL": (22.3, 34.0),
}
"""Smallest and largest share of both lungs, %, of 32 healthy people at inspiration, supine (PMC7490509, table 3)."""


def check_lungs(
    ct: Volume,
    lungs: NDArray[np.uint8],
    airways: NDArray[np.uint8],
    has_trachea: bool,
    leaked: bool,
    threshold: float,
    coarse: Volume,
    midline_mm: float,
    air_hu: float = -1000.0,
) -> tuple[Finding, ...]:
    """Findings on size, symmetry, truncation, shape, density, air outside the lung, and airways.

    Parameters
    ----------
    ct : Volume
        HU.
    lungs, airways : ndarray of uint8
        On the grid of `ct`.
    has_trachea : bool
        Whether a trachea was found.
    leaked : bool
        Whether it could not be grown without leaking.
    threshold : float
        HU at or above which lung counts as opacity.
    coarse : Volume of float32
        Means of `ct` over blocks, as `coarsen` makes them.
    midline_mm : float
        x of the spine, LPS mm.
    air_hu : float, optional
        HU of air in this scan.
    """
    counts = np.bincount(lungs.ravel(), minlength=3)
    ml = {"left": float(counts[LEFT] * ct.voxel_ml), "right": float(counts[RIGHT] * ct.voxel_ml)}
    sparse = ct.like(lungs).resample_labels(coarse.grid).array
    return (
        _check_sides(ml),
        _check_total(sum(ml.values())),
        *_check_proportion(sparse, coarse),
        _check_surface(ct, lungs, coarse, sparse),
        _check_truncation(ct, lungs),
        _check_shape(sparse, coarse),
        _check_opacity(ct, lungs, threshold),
        _check_loose_air(sparse, coarse, air_hu),
        _check_airless(sparse, coarse, midline_mm),
        _check_airways(float(airways.sum()) * ct.voxel_ml, sum(ml.values()), has_trachea, leaked),
        *_check_upright(ct, lungs, airways),
    )


def _check_sides(ml: dict[str, float]) -> Finding:
    small, large = sorted(ml, key=lambda side: ml[side])
    ratio = ml[small] / ml[large]
    if ml[small] < MISSING_ML:
        return warn(
            "LUNG_MISSING",
            f"Nothing of the {small} lung is in the mask, by its air or as given.",
            value=ml[small],
            limit=MISSING_ML,
            unit="mL",
            advice=f"Check for pneumonectomy, complete collapse or effusion on the {small}, or the mask given.",
            touches=(small,),
        )
    if ratio < COLLAPSED_RATIO:
        return warn(
            "LUNG_COLLAPSED",
            f"The {small} lung holds only {ml[small]:.0f} mL, the {large} {ml[large]:.0f} mL: "
            f"the {small} lung is largely collapsed or consolidated.",
            value=ml[small],
            limit=COLLAPSED_RATIO * ml[large],
            unit="mL",
            advice=f"Read the results of the {small} lung as those of its aerated remnant.",
            touches=(small,),
        )
    message = f"Left lung {ml['left']:.0f} mL, right lung {ml['right']:.0f} mL."
    make = warn if ratio < ASYMMETRIC_RATIO else passed
    return make("LUNG_RATIO", message, value=round(ratio, 3), limit=ASYMMETRIC_RATIO, unit="smaller/larger")


def _check_total(total: float) -> Finding:
    if total < SMALL_ML:
        return warn(
            "LUNGS_SMALL",
            f"Both lungs together hold only {total:.0f} mL.",
            value=total,
            limit=SMALL_ML,
            unit="mL",
            advice="Check that the scan covers both lungs.",
        )
    if total > LARGE_ML:
        return warn(
            "LUNGS_LARGE",
            f"Both lungs together hold {total / 1000:.1f} L.",
            value=total,
            limit=LARGE_ML,
            unit="mL",
            advice="Few people's do: check the spacing of voxels and slices in the header.",
            touches=("all",),
        )
    return passed(
        "LUNG_VOLUME", f"Both lungs together hold {total:.0f} mL.", value=total, limit=SMALL_ML, unit="mL"
    )


def _check_proportion(lungs: NDArray[np.uint8], coarse: Volume) -> tuple[Finding, ...]:
    """Whether lungs are as tall, deep and wide as lungs are: not so where a spacing or the patient's position is read
    wrongly.
    """
    sizes = np.bincount(lungs.ravel(), minlength=3)[1:3]
    if not sizes.any():
        return ()
    height, depth, _ = _extent(lungs == 1 + int(np.argmax(sizes)), coarse.spacing)
    ratio = height / depth
    low, high = TALL_AS_DEEP
    told = f"The larger lung is {height:.0f} mm tall and {depth:.0f} mm deep."
    details = {"value": round(ratio, 2), "limit": low if ratio < low else high, "unit": "height/depth"}
    if low <= ratio <= high:
        proportion = passed("LUNG_PROPORTION", told, **details)
    else:
        proportion = warn(
            "LUNG_PROPORTION",
            f"{told} Few people's is.",
            advice="Check that the scan covers the lungs, and the spacing of voxels and slices in the header.",
            touches=("all",),
            **details,
        )
    if sizes.min() < COLLAPSED_RATIO * sizes.max():
        return (proportion,)  # one lung is deeper than wide
    _, depth, width = _extent(lungs > 0, coarse.spacing)
    ratio = depth / width
    told = f"Both lungs together are {width:.0f} mm wide and {depth:.0f} mm deep"
    details = {"value": round(ratio, 2), "unit": "depth/width"}
    if ratio <= TURNED[0]:
        return proportion, passed("LUNGS_LIE_SIDE_BY_SIDE", f"{told}.", limit=TURNED[0], **details)
    wrong = ratio > TURNED[1]
    return proportion, (fail if wrong else warn)(
        "BODY_TURNED",
        f"{told}: the patient lies turned about the long axis, as on a side, or the header's orientation is wrong.",
        limit=TURNED[wrong],
        advice="Left and right lung cannot be told apart so; correct the orientation, and check zones by height.",
        touches=("left", "right", "lobes"),
        **details,
    )


def _extent(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> tuple[float, ...]:
    """Height, depth and width in mm of all but the outermost voxels of a mask, two in a thousand on each side."""
    ends = []
    for axis, mm in enumerate(spacing):
        share = np.cumsum(mask.sum(axis=tuple(a for a in range(3) if a != axis))) / np.count_nonzero(mask)
        ends.append(float(np.searchsorted(share, 0.998) - np.searchsorted(share, 0.002) + 1) * mm)
    return tuple(ends)


def _check_surface(
    ct: Volume, lungs: NDArray[np.uint8], coarse: Volume, sparse: NDArray[np.uint8]
) -> Finding:
    """Whether the mask ends where the lung does: of a mask a voxel too small a tenth of the volume can be missing."""
    offset = surface_offset(ct, lungs, coarse, sparse)
    if not np.isfinite(offset):
        return passed(
            "LUNG_SURFACE", "Nowhere does the mask's surface lie between lung and wall: not judged."
        )
    limits = [
        max(mm, voxels * max(ct.spacing)) for mm, voxels in zip(SURFACE_MM, SURFACE_VOXELS, strict=True)
    ]
    side = "outside" if offset > 0 else "inside"
    message = f"The surface of the lung mask lies {abs(offset):.1f} mm {side} the lungs' (median)."
    details = {"value": round(offset, 2), "unit": "mm"}
    if abs(offset) <= limits[0]:
        return passed("LUNG_SURFACE", message, limit=round(limits[0], 2), **details)
    wrong = abs(offset) > limits[1]
    return (fail if wrong else warn)(
        "LUNG_SURFACE",
        message,
        limit=round(limits[wrong], 2),
        advice=f"Volumes, masses and ventilation are too {'large' if offset > 0 else 'small'} by what lies between"
        " the two: check how the mask was made, or leave it to lungvq.",
        touches=("both", "left", "right") if wrong else ("all",),
        **details,
    )


def _check_truncation(ct: Volume, lungs: NDArray[np.uint8]) -> Finding:
    """How much of the lungs ends at the border of the image (or of padding), not at the pleura.

    The cut on each side is held against the largest cross-section of the lungs in that direction, and the worst side
    counts: at 100 % it goes through the middle. Towards apex and base the cross-section grows about evenly, so a
    lung cut where that is a share a of the largest lacks some a squared of its volume.
    """
    mask = lungs > 0
    sections = [mask.sum(axis=tuple(n for n in range(3) if n != axis)) for axis in range(3)]
    largest = [max(float(s.max()), 1.0) for s in sections]
    ends = (("below", "above"), ("in front", "behind"), ("on the right", "on the left"))
    cut = {
        name: _cut_at(ct, section, axis, end) / most
        for axis, (names, section, most) in enumerate(zip(ends, sections, largest, strict=True))
        for name, end in zip(names, (0, -1), strict=True)
    }
    _, dy, dx = ct.spacing
    # The rim runs at all angles: against the largest sagittal section.
    sagittal = largest[2] * dy
    cut["at the edge of the field of view"] = min(_beside_padding(ct, mask) * (dy + dx) / 2 / sagittal, 1.0)
    share = 100 * max(cut.values())
    where = " and ".join(face for face, a in cut.items() if a > 0.005)
    told = {"value": round(share, 2), "unit": "%"}
    if share <= TRUNCATED_PCT:
        return passed("LUNG_COMPLETE", "Both lungs lie within the scan.", limit=TRUNCATED_PCT, **told)
    message = (
        f"The scan cuts the lungs {where}: the cut is {share:.0f} % of their largest cross-section there"
    )
    advice = "Volumes and shares of the cut lung are too small by an unknown part."
    if share <= LARGELY_CUT_PCT:
        return warn(
            "LUNG_TRUNCATED", f"{message}.", limit=TRUNCATED_PCT, advice=advice, touches=("all",), **told
        )
    return fail(
        "LUNG_TRUNCATED",
        f"{message}, so that more than 2 % of them may be missing.",
        limit=LARGELY_CUT_PCT,
        advice=f"{advice} Numbers of lungs, lobes and zones are withheld; the maps show what was scanned.",
        touches=("both", "left", "right"),
        **told,
    )


def _cut_at(ct: Volume, section: NDArray[np.integer], axis: int, end: int) -> float:
    """Voxels of the mask in its outermost plane towards one end, if nothing was scanned beyond that; else 0."""
    planes = np.flatnonzero(section)
    if not planes.size:
        return 0.0
    beyond = int(planes[end]) + (1 if end else -1)
    if 0 <= beyond < len(section):
        plane = ct.array.take(beyond, axis)
        if plane.max() >= PADDING_HU and plane.max() > plane.min():
            return 0.0
    return float(section[planes[end]])


def _beside_padding(ct: Volume, mask: NDArray[np.bool_]) -> int:
    """Voxels of a mask that have a neighbour in their slice that was not scanned."""
    if not mask.any():
        return 0
    box = box_around(mask, (0, 1, 1))
    padding = padding_of(ct.array[box])
    beside = np.zeros_like(padding)
    beside[:, 1:] |= padding[:, :-1]
    beside[:, :-1] |= padding[:, 1:]
    beside[..., 1:] |= padding[..., :-1]
    beside[..., :-1] |= padding[..., 1:]
    return int(np.count_nonzero(beside & mask[box] & ~padding))


def _check_shape(lungs: NDArray[np.uint8], coarse: Volume) -> Finding:
    """Holes within the mask, and pieces apart from each lung's largest."""
    total = max(int(np.count_nonzero(lungs)), 1)
    box = box_around(lungs > 0, (1, 1, 1)) if lungs.any() else (slice(None),) * 3
    part = lungs[box]
    outside, _ = ndimage.label(np.pad(part == 0, 1, constant_values=True))
    holes = 100 * float(np.count_nonzero(outside > 1)) / total
    scattered = 0.0
    for side in (LEFT, RIGHT):
        sizes = np.bincount(ndimage.label(part == side)[0].ravel())[1:]
        scattered += 100 * float(sizes.sum() - sizes.max()) / total if len(sizes) > 1 else 0.0
    if holes > HOLES_PCT:
        return warn(
            "LUNG_HOLES",
            f"The lung mask encloses holes of {holes:.1f} % of its volume.",
            value=round(holes, 2),
            limit=HOLES_PCT,
            unit="%",
            advice="Vessels and nodules belong to the lung: close the mask, or leave it to lungvq.",
            touches=("left", "right"),
        )
    if scattered > SCATTERED_PCT:
        return warn(
            "LUNG_SCATTERED",
            f"{scattered:.0f} % of the lung mask lies apart from the largest piece of its lung.",
            value=round(scattered, 2),
            limit=SCATTERED_PCT,
            unit="%",
            advice="Look at the lungs' outline in the report: consolidation, effusion or a wrong mask cut it up.",
            touches=("left", "right"),
        )
    return passed(
        "LUNG_SHAPE",
        f"Each lung is of one piece without holes, but for {holes + scattered:.1f} %.",
        value=round(holes + scattered, 2),
        limit=HOLES_PCT,
        unit="%",
    )


def _check_loose_air(lungs: NDArray[np.uint8], coarse: Volume, air_hu: float) -> Finding:
    """Air without any lung in it, at the pleura: pneumothorax, a large bulla, or bowel gas taken for lung.

    Where the mean over some 7 mm within the mask is that of air to 25 HU, in balls of 4 mm at least, in pieces of
    25 mL of which 15 % of the surface lies at the border of the mask.
    """
    ml = {"left": 0.0, "right": 0.0}
    if lungs.any():
        box = box_around(lungs > 0, (2, 2, 2))
        mask, grid = lungs[box], coarse.grid.crop(box)
        inner = erode(mask > 0, 1.01 * max(grid.spacing[1:]), grid.spacing)
        size = [max(1, 2 * round(3.5 / s) + 1) if s < 6 else 1 for s in grid.spacing]
        # Of the wall nothing, whatever the voxels: air would end where it comes into the mean.
        weight = ndimage.uniform_filter(inner.astype(np.float32), size)
        total = ndimage.uniform_filter(np.where(inner, np.minimum(coarse.array[box], 0), np.float32(0)), size)
        smooth = np.divide(total, weight, out=np.zeros_like(total), where=weight > _LEAST_WEIGHT)
        empty = (mask > 0) & (smooth < air_hu + LOOSE_AIR_HU)
        core = erode(empty, 4.0, grid.spacing)
        labels, _ = ndimage.label(core)
        for n, near in enumerate(ndimage.find_objects(labels), start=1):
            wide = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in near)
            piece = dilate(labels[wide] == n, 4.0, grid.spacing) & empty[wide]
            size_ml = float(piece.sum()) * coarse.voxel_ml
            shell = dilate(piece, 1.5 * max(grid.spacing), grid.spacing) & ~piece
            at_pleura = float((~inner[wide])[shell].mean()) if shell.any() else 0.0
            if size_ml >= LOOSE_AIR_ML and at_pleura >= LOOSE_AIR_PLEURA:
                side = np.bincount(mask[wide][piece], minlength=3)[1:].argmax()
                ml["left" if side == 0 else "right"] += size_ml
    worst = max(ml, key=lambda side: ml[side])
    if ml[worst] == 0:
        return passed("NO_LOOSE_AIR", "No air without lung in it lies at the pleura.", value=0.0, unit="mL")
    where = " and ".join(f"{value:.0f} mL on the {side}" for side, value in ml.items() if value)
    return warn(
        "PNEUMOTHORAX_OR_BULLA",
        f"Air without lung in it lies at the pleura, {where}: a pneumothorax, a large bulla, or bowel gas;"
        " it is counted as lung.",
        value=round(sum(ml.values()), 1),
        limit=LOOSE_AIR_ML,
        unit="mL",
        advice="Look at the scan; with a pneumothorax, volume and ventilation of that lung are not its own.",
        touches=tuple(side for side, value in ml.items() if value),
    )


def _check_airless(lungs: NDArray[np.uint8], coarse: Volume, midline_mm: float) -> Finding:
    """What lies between the back of the lungs and the ribs where there should be lung: fluid, or lung without air.

    Column by column from front to back, 35 mm and more from the spine, between a tenth and nine tenths of the
    lungs' height.
    """
    ml = {"left": 0.0, "right": 0.0}
    height = np.flatnonzero(lungs.any(axis=(1, 2)))
    dz, dy, dx = coarse.spacing
    if len(height) > 10:
        inner = slice(int(height[0] + 0.1 * len(height)), int(height[0] + 0.9 * len(height)) + 1)
        reach = 2 * max(1, round(RIB_STEP_MM / dz)) + 1
        bone = ndimage.maximum_filter1d((coarse.array > BONE_HU).view(np.uint8), reach, axis=0)[inner]
        rows = np.arange(lungs.shape[1])[:, None]
        columns = np.arange(lungs.shape[2])
        x = coarse.grid.world(np.stack([0 * columns, 0 * columns, columns], axis=1))[:, 0]
        lateral = abs(x - midline_mm) > 35
        for side, label in LUNGS.items():
            mask = lungs[inner] == label
            last = np.where(mask, rows, -1).max(axis=1)
            behind = (bone > 0) & (rows > last[:, None])
            gap = (np.argmax(behind, axis=1) - last) * dy
            judged = (last >= 0) & behind.any(axis=1) & lateral & (gap > AIRLESS_GAP_MM)
            ml[side] = float((gap[judged] - CHEST_WALL_MM).sum() * dz * dx / 1000)
    large = {side: value for side, value in ml.items() if value > AIRLESS_ML}
    if not large:
        return passed(
            "LUNG_REACHES_RIBS",
            "At the back both lungs reach the ribs.",
            value=round(max(ml.values()), 1),
            limit=AIRLESS_ML,
            unit="mL",
        )
    where = " and ".join(f"{value:.0f} mL on the {side}" for side, value in large.items())
    return warn(
        "AIRLESS_BEHIND_LUNG",
        f"Between the back of the lung and the ribs lie about {where} without air: effusion, consolidation or"
        " collapse; they are not counted as lung.",
        value=round(max(large.values()), 1),
        limit=AIRLESS_ML,
        unit="mL",
        advice="Read volumes and shares as those of the aerated lung.",
        touches=tuple(large),
    )


def check_lobes(lobes: Volume) -> Finding:
    """Each lobe's share of the lungs at inspiration against published ranges.

    Parameters
    ----------
    lobes : Volume of uint8
        Labels of :mod:`lungvq.anatomy`.
    """
    counts = np.bincount(lobes.array.ravel(), minlength=6)[1:6]
    shares = dict(zip(LOBES, (100 * counts / max(counts.sum(), 1)).tolist(), strict=True))
    sides = [sum(shares[n] for n in LOBES if LUNG_OF_LOBE[n] == side) for side in LUNGS]
    said = ", ".join(f"{name} {share:.0f} %" for name, share in shares.items())
    if min(sides) < ASYMMETRIC_RATIO * max(sides):
        return passed("LOBE_FRACTIONS", f"Shares of the lungs: {said}. One lung is too small to judge them.")
    beyond = {
        name: share
        for name, share in shares.items()
        if not LOBE_SHARES[name][0] <= share <= LOBE_SHARES[name][1]
    }
    if not beyond:
        return passed("LOBE_FRACTIONS", f"Shares of the lungs as healthy people have them: {said}.")
    name = max(beyond, key=lambda n: max(LOBE_SHARES[n][0] - beyond[n], beyond[n] - LOBE_SHARES[n][1]))
    low, high = LOBE_SHARES[name]
    others = f"; also {', '.join(n for n in beyond if n != name)}" if len(beyond) > 1 else ""
    return warn(
        "LOBE_FRACTIONS",
        f"{name} holds {beyond[name]:.1f} % of the lungs, healthy people's {low:g} to {high:g} %{others}.",
        value=round(beyond[name], 1),
        limit=high if beyond[name] > high else low,
        unit="%",
        advice="Compare the lobes with the fissures in the report: disease can do this, a misplaced fissure too.",
        touches=("lobes",),
    )


def _check_opacity(ct: Volume, lungs: NDArray[np.uint8], threshold: float) -> Finding:
    mask = lungs > 0
    share = 100 * float((ct.array[mask] >= threshold).mean())
    make = warn if share > OPACITY_PCT else passed
    return make(
        "LUNG_OPACITY",
        f"{share:.1f} % of the lung mask is dense (vessels, nodules, atelectasis or consolidation).",
        value=round(share, 2),
        limit=OPACITY_PCT,
        unit="%",
    )


def _check_upright(ct: Volume, lungs: NDArray[np.uint8], airways: NDArray[np.uint8]) -> tuple[Finding, ...]:
    """Whether trachea and bronchi lie in the upper part of the lungs' height, as they do in everyone."""
    # Plane by plane, as numpy counts along axes sixty times as slowly.
    held, lung = (np.array([np.count_nonzero(plane) for plane in mask]) for mask in (airways, lungs))
    slices = np.flatnonzero(lung)
    if held.sum() * ct.voxel_ml < UPRIGHT_ML or slices.size < 2:
        return ()
    middle = float(held @ np.arange(held.size)) / float(held.sum())
    height = (middle - slices[0]) / (slices[-1] - slices[0])
    told = {"value": round(height, 2), "limit": UPRIGHT, "unit": "of the lungs' height"}
    where = f"Trachea and bronchi lie at {100 * height:.0f} % of the lungs' height"
    if height >= UPRIGHT:
        return (passed("UPRIGHT", f"{where}: the scan is upright.", **told),)
    return (
        fail(
            "UPSIDE_DOWN",
            f"{where}: the scan is upside down, or its header says so.",
            advice="Check whether the image was flipped, or head and feet exchanged in the header.",
            touches=("left", "right", "lobes"),
            **told,
        ),
    )


def _check_airways(airway_ml: float, lung_ml: float, has_trachea: bool, leaked: bool) -> Finding:
    if not has_trachea:
        return warn(
            "AIRWAYS_NOT_FOUND",
            "No trachea was found; airways are not taken out of the lungs.",
            advice="Counts of light lung and volumes hold the air of bronchi; check that the scan begins above the"
            " carina.",
            touches=("all",),
        )
    if leaked:
        return warn(
            "AIRWAY_LEAK",
            "The airways could not be followed without leaking into the lung; they are left out.",
            advice="Counts of light lung hold the air of bronchi.",
            touches=("density", "prm"),
        )
    return passed(
        "AIRWAYS",
        f"Trachea and bronchi were followed: {airway_ml:.0f} mL.",
        value=round(airway_ml, 1),
        unit="mL",
    )
