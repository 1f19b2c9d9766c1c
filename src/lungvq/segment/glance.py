"""A quick look at one chest CT: enough to tell breath-holds apart, far too little to measure with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lungvq.anatomy import LEFT, RIGHT
from lungvq.segment._checks import _check_truncation
from lungvq.segment._coarse import coarsen, erode
from lungvq.segment.lungs import air_threshold, find_body, find_lungs
from lungvq.volume import Volume

__all__ = ["Glance", "glance"]

_LOOK_MM = 4.5
_TISSUE_HU = (-15.0, 600.0)  # soft tissue, with or without contrast
_LEAST_POOL_ML = 20.0


@dataclass(frozen=True)
class Glance:
    """What a quick look at a chest CT shows.

    Parameters
    ----------
    lung_ml : float
        Volume of both lungs with trachea and main bronchi, mL; within some 3 % of what `segment` finds.
    lung_hu : float
        Mean HU of it.
    cut_pct : float
        Share of the lungs' largest cross-section that the border of the scan cuts, in %.
    blood_hu : float or None
        Median HU of the largest body of soft tissue between the lungs, mostly heart; None where there is little.
    """

    lung_ml: float
    lung_hu: float
    cut_pct: float
    blood_hu: float | None = None

    @property
    def lung_g(self) -> float:
        """Mass of the lungs in g: it hardly changes with the breath."""
        return self.lung_ml * (1 + self.lung_hu / 1000)


def glance(ct: Volume) -> Glance:
    """Look at the lungs on a copy with voxels of about 4.5 mm.

    Parameters
    ----------
    ct : Volume
        HU in canonical order ``"SPL"``; slices may be some 5 mm apart.

    Raises
    ------
    InputError
        If the scan shows no lungs.
    """
    coarse = coarsen(ct, _LOOK_MM)
    body = find_body(coarse)
    threshold = air_threshold(coarse.array, body.inside)
    lungs = find_lungs(coarse, body, np.zeros(coarse.shape, bool), threshold)
    cut = _check_truncation(coarse, lungs).value
    return Glance(
        lung_ml=float(np.count_nonzero(lungs) * coarse.voxel_ml),
        lung_hu=float(coarse.array[lungs > 0].mean()),
        cut_pct=float(cut or 0.0),
        blood_hu=_between_lungs(coarse, lungs),
    )


def _between_lungs(coarse: Volume, lungs: np.ndarray) -> float | None:
    """Median HU of the largest piece of soft tissue between the lungs, 8 mm inside its surface."""
    between = np.logical_or.accumulate(lungs == RIGHT, axis=2)
    between &= np.logical_or.accumulate((lungs == LEFT)[:, :, ::-1], axis=2)[:, :, ::-1]
    soft = between & (lungs == 0) & (coarse.array > _TISSUE_HU[0]) & (coarse.array < _TISSUE_HU[1])
    labels, count = ndimage.label(erode(soft, 8.0, coarse.spacing))
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    if sizes.max() * coarse.voxel_ml < _LEAST_POOL_ML:
        return None
    return float(np.median(coarse.array[labels == sizes.argmax()]))
