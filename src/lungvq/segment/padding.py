"""What a scan shows where nothing was scanned."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PADDING_HU", "columns_beyond", "padding_of", "without_padding"]

PADDING_HU = -1400
"""Below it lies what scanners fill in, -1500, -2000 or -3024; noise of 100 HU does not reach it from any air."""


def columns_beyond(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Beyond a round field of view: columns of one value, as dark as air or darker; shape (J, I).

    Air that was scanned has noise, also where values were cut off at -1000.
    """
    lowest = array.min(axis=0)
    beyond: NDArray[np.bool_] = (lowest == array.max(axis=0)) & (lowest < -990)
    return beyond


def padding_of(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels that were not scanned: beyond a round field of view, or below what noise makes of air."""
    padding: NDArray[np.bool_] = (array < PADDING_HU) | columns_beyond(array)
    return padding


def without_padding(array: NDArray[Any], air_hu: int) -> NDArray[Any]:
    """CT numbers in which padding reads as air, so that its value does not mix with what lies beside it."""
    return np.where(array < PADDING_HU, np.array(air_hu, array.dtype), array)
