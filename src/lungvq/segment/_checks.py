"""What a reader should know about a segmentation before trusting numbers from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungvq.anatomy import LEFT, RIGHT
from lungvq.findings import Finding, passed, warn
from lungvq.volume import Volume

COLLAPSED_RATIO = 0.25
ASYMMETRIC_RATIO = 0.55
MISSING_ML = 8.0
SMALL_ML = 800.0
TRUNCATED_PCT = 1.0
OPACITY_PCT = 15.0


def check_lungs(
    ct: Volume,
    lungs: NDArray[np.uint8],
    airways: NDArray[np.uint8],
    has_trachea: bool,
    leaked: bool,
    threshold: float,
) -> tuple[Finding, ...]:
    """Findings on size, symmetry, truncation, density and airways.

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
    """
    counts = np.bincount(lungs.ravel(), minlength=3)
    ml = {"left": float(counts[LEFT] * ct.voxel_ml), "right": float(counts[RIGHT] * ct.voxel_ml)}
    return (
        _check_sides(ml),
        _check_total(sum(ml.values())),
        _check_truncation(ct, lungs),
        _check_opacity(ct, lungs, threshold),
        _check_airways(float(airways.sum()) * ct.voxel_ml, sum(ml.values()), has_trachea, leaked),
    )


def _check_sides(ml: dict[str, float]) -> Finding:
    small, large = sorted(ml, key=lambda side: ml[side])
    ratio = ml[small] / ml[large]
    if ml[small] < MISSING_ML:
        return warn(
            "LUNG_MISSING",
            f"No aerated {small} lung was found; all results describe the {large} lung.",
            value=ml[small],
            limit=MISSING_ML,
            unit="mL",
            advice=f"Check for pneumonectomy, complete collapse or effusion on the {small}.",
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
    return passed(
        "LUNG_VOLUME", f"Both lungs together hold {total:.0f} mL.", value=total, limit=SMALL_ML, unit="mL"
    )


def _check_truncation(ct: Volume, lungs: NDArray[np.uint8]) -> Finding:
    """How much of the lungs' surface is the border of the image (or of padding), not the pleura."""
    mask = lungs > 0
    faces = {
        "below": int(mask[0].sum()),
        "above": int(mask[-1].sum()),
        "in front": int(mask[:, 0].sum()),
        "behind": int(mask[:, -1].sum()),
        "on the right": int(mask[:, :, 0].sum()),
        "on the left": int(mask[:, :, -1].sum()),
    }
    dz, dy, dx = ct.spacing
    lowest = ct.array.min(axis=0)
    padding = (lowest == ct.array.max(axis=0)) & (lowest < -1010)
    rim = ndimage.binary_dilation(padding) & ~padding
    area = dict(zip(faces, (dy * dx, dy * dx, dz * dx, dz * dx, dz * dy, dz * dy), strict=True))
    cut = {face: count * area[face] for face, count in faces.items()}
    cut["at the edge of the field of view"] = int(mask[:, rim].sum()) * dz * (dy + dx) / 2
    # Against the largest cross-sections, so that 100 % means a lung cut through its middle.
    largest = max(float(mask.sum(axis=(1, 2)).max()) * dy * dx, 1.0)
    share = 100 * sum(cut.values()) / largest
    where = " and ".join(face for face, a in cut.items() if a > 0.005 * largest)
    if share > TRUNCATED_PCT:
        return warn(
            "LUNG_TRUNCATED",
            f"The scan cuts the lungs {where or 'at its border'}: "
            f"the cut is {share:.0f} % of their largest cross-section.",
            value=round(share, 2),
            limit=TRUNCATED_PCT,
            unit="%",
            advice="Volumes and shares of the cut lung are too small by an unknown part.",
            touches=("all",),
        )
    return passed(
        "LUNG_COMPLETE",
        "Both lungs lie within the scan.",
        value=round(share, 2),
        limit=TRUNCATED_PCT,
        unit="%",
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


def _check_airways(airway_ml: float, lung_ml: float, has_trachea: bool, leaked: bool) -> Finding:
    if not has_trachea:
        return warn("AIRWAYS_NOT_FOUND", "No trachea was found; airways are not taken out of the lungs.")
    if leaked:
        return warn(
            "AIRWAY_LEAK",
            "The airways could not be followed without leaking into the lung; they are left out.",
        )
    return passed(
        "AIRWAYS",
        f"Trachea and bronchi were followed: {airway_ml:.0f} mL.",
        value=round(airway_ml, 1),
        unit="mL",
    )
