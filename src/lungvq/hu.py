"""From CT numbers to grams and millilitres, on a scale checked against air and blood in the same scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["BLOOD_HU", "OUTSIDE_HU", "Calibration", "air_fraction", "calibrate_hu", "density"]

BLOOD_HU = 45.0
"""CT number of unenhanced blood that the scale is set to."""

OUTSIDE_HU = -1024
"""What a CT shows where nothing was scanned."""

_AIR_RANGE = (-1050.0, -950.0)  # beyond, the check of it fails: not air, or not its true value
_BLOOD_RANGE = (0.0, 70.0)  # beyond: contrast medium, or not blood


@dataclass(frozen=True)
class Calibration:
    """A straight line from the scanner's CT numbers to corrected ones: ``gain * HU + offset``.

    `air_hu` and `blood_hu` are what the scan shows in the trachea and in blood, or None where they could not
    be measured; `basis` says which of them were used: ``"air and blood"``, ``"air"`` or ``"none"``.
    """

    gain: float = 1.0
    offset: float = 0.0
    air_hu: float | None = None
    blood_hu: float | None = None
    basis: str = "none"

    def __call__(self, hu: np.ndarray) -> np.ndarray:
        """Corrected CT numbers, float32, in the shape of `hu`."""
        return hu.astype(np.float32) * np.float32(self.gain) + np.float32(self.offset)


def calibrate_hu(air_hu: float | None, blood_hu: float | None) -> Calibration:
    """The line that puts tracheal air at -1000 HU and blood at 45 HU.

    Parameters
    ----------
    air_hu, blood_hu : float or None
        Medians in the eroded tracheal lumen and in the aorta or heart. A value that cannot be what it is
        taken for (air outside -1050..-950 HU, blood outside 0..70 HU) is not used.

    Returns
    -------
    Calibration
        With both: through both points. With air alone: a shift. Otherwise: no change.

    References
    ----------
    .. [1] Parr DG et al (2004). Am J Respir Crit Care Med 170:1159, air recalibration in CT densitometry.

    Examples
    --------
    >>> line = calibrate_hu(-980.0, 45.0)
    >>> line(np.array([-980.0, 45.0])).round(3)
    array([-1000.,    45.], dtype=float32)
    """
    if air_hu is None or not _AIR_RANGE[0] <= air_hu <= _AIR_RANGE[1]:
        return Calibration(air_hu=air_hu, blood_hu=blood_hu)
    if blood_hu is None or not _BLOOD_RANGE[0] <= blood_hu <= _BLOOD_RANGE[1]:
        return Calibration(1.0, -1000.0 - air_hu, air_hu, blood_hu, "air")
    gain = (1000.0 + BLOOD_HU) / (blood_hu - air_hu)
    return Calibration(gain, -1000.0 - gain * air_hu, air_hu, blood_hu, "air and blood")


def density(hu: np.ndarray) -> np.ndarray:
    """Mass per volume in g/mL, ``1 + HU/1000``: air 0, water 1. Not clipped, so that noise stays unbiased.

    Examples
    --------
    >>> density(np.array([-1000.0, -700.0, 0.0])).round(3)
    array([0. , 0.3, 1. ])
    """
    return 1 + hu / 1000


def air_fraction(hu: np.ndarray) -> np.ndarray:
    """Share of a voxel that is gas, ``-HU/1000``, tissue taken as water. Not clipped.

    Examples
    --------
    >>> air_fraction(np.array([-1000.0, -700.0, 0.0])).round(3) + 0.0
    array([1. , 0.7, 0. ])
    """
    return -hu / 1000
