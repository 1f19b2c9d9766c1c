"""Slices that do not belong where they are: blank, on another scale, of elsewhere, of two breaths, or copies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungvq.findings import Finding, fail, warn
from lungvq.volume import Volume

__all__ = ["check_slices"]

MOST_CHANGED = 0.12
"""Share of tissue or air that may turn into the other from one slice to the next: 0.04 in whole scans, 0.18 to 1 in
broken ones."""

BLANK = 0.4
"""Likewise, from which on a good part of a slice is blank or on another scale; patients who move make less."""

_USUAL = 3.0, 4  # times the median of so many changes on both sides: along an oblique edge all are large

MOST_COPIES = 2
"""Slices in a row that are copies of the one before: more are no nearest neighbours of a resampling."""

MOST_ZIGZAG = 1.0
"""What turns from tissue to air or back in one step over what does in two: 0.5 along a plane edge; up to 0.2 in real
scans and 0.4 with only each fourth slice of them left, 2 to 20 where two breaths alternate."""

_ZIGZAG_SLICES = 20  # judged together: two breaths may agree at the apices and differ at the base
_ZIGZAG_SHARE = 5e-4  # of a slice's pixels that turn at least: of fewer, noise is much

_LEAST_SOFT, _LEAST_AIR = 0.10, 0.15  # of a slice, of which shares are judged: of less an organ is much


def check_slices(volume: Volume) -> tuple[Finding, ...]:
    """Whether neighbouring slices belong together: none blank, on another scale, of elsewhere or a copy.

    From one slice to the next only the edges of body and lungs change from tissue to air: 4 % of either at most in
    real scans and phantoms of 1 to 5 mm. Where a slice was lost on its way, or only a part of it arrived, it is far
    more, and more than around it. Where slices of two breaths alternate, a slice is less like the next than like the
    one after it.

    Parameters
    ----------
    volume : Volume
        HU, slices first. Slices without a body before and after it do not count.

    Returns
    -------
    tuple of Finding
        Empty where all is well.
    """
    hu = volume.array[:, ::2, ::2]
    soft, air = ([np.count_nonzero(kind(plane)) for plane in hu] for kind in (_is_soft, _is_air))
    least_soft, least_air = (share * hu[0].size for share in (_LEAST_SOFT, _LEAST_AIR))
    shown = np.flatnonzero(np.array(soft) > least_soft)
    if shown.size < 2:
        return ()
    changed, copies = {}, []
    for k in range(int(shown[0]), int(shown[-1])):
        one, other = hu[k], hu[k + 1]
        if np.array_equal(volume.array[k], volume.array[k + 1]) and np.ptp(one) > 0:
            copies.append(k + 1)
            continue
        emptied = np.count_nonzero(_is_soft(one) & _is_air(other))
        filled = np.count_nonzero(_is_air(one) & _is_soft(other))
        of_soft = [part / n for part, n in ((emptied, soft[k]), (filled, soft[k + 1])) if n > least_soft]
        of_air = [part / n for part, n in ((filled, air[k]), (emptied, air[k + 1])) if n > least_air]
        changed[k + 1] = max(*of_soft, *of_air, 0.0, 0.0)
    zigzag = _zigzag(hu[shown[0] : shown[-1] + 1])
    return (*_say_broken(volume, changed), *_say_alternating(zigzag), *_say_copies(volume, copies))


def _is_soft(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    return hu > -200


def _is_air(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    return hu < -800


def _turned(one: NDArray[np.int16], other: NDArray[np.int16]) -> int:
    """Pixels that are tissue in one slice and air in the other."""
    return int(
        np.count_nonzero(_is_soft(one) & _is_air(other)) + np.count_nonzero(_is_air(one) & _is_soft(other))
    )


def _zigzag(hu: NDArray[np.int16]) -> float:
    """What turns in one step over what does in two, where that is largest; 0 of too few slices."""
    if len(hu) < 3:
        return 0.0
    one, two = (np.array([_turned(hu[k], hu[k + n]) for k in range(len(hu) - 2)]) for n in (1, 2))
    ratio = np.where(one > _ZIGZAG_SHARE * hu[0].size, one / np.maximum(two, 1), 0.0)
    # A median: at a slice that is blank it is large, too, but there only.
    return float(ndimage.median_filter(ratio, min(_ZIGZAG_SLICES, len(ratio)), mode="nearest").max())


def _at(volume: Volume, slices: list[int]) -> str:
    """Numbers of slices, from 1, and the height of the first."""
    height = volume.grid.world(((slices[0]), (volume.shape[1] - 1) / 2, (volume.shape[2] - 1) / 2))[2]
    more = f" and {len(slices) - 5} more" if len(slices) > 5 else ""
    numbers = ", ".join(str(k + 1) for k in slices[:5])
    return f"{'slices' if len(slices) > 1 else 'slice'} {numbers}{more} of {volume.shape[0]} (z = {height:.0f} mm)"


def _say_broken(volume: Volume, changed: dict[int, float]) -> tuple[Finding, ...]:
    slices, shares = list(changed), np.array(list(changed.values()))
    times, reach = _USUAL
    around = [np.delete(shares[max(n - reach, 0) : n + reach + 1], min(n, reach)) for n in range(len(shares))]
    usual = np.array([np.median(near) if near.size else 0.0 for near in around])
    broken = np.flatnonzero((shares > MOST_CHANGED) & (shares > times * usual))
    if not broken.size:
        return ()
    worst = float(shares[broken].max())
    blank = worst > BLANK
    return (
        (fail if blank else warn)(
            "SLICES_BROKEN",
            f"From one slice to the next up to {100 * worst:.0f} % of tissue or air change to the other, at"
            f" {_at(volume, [slices[n] for n in broken])}.",
            value=round(100 * worst, 1),
            limit=100 * (BLANK if blank else MOST_CHANGED),
            unit="%",
            advice="A slice there is partly blank, on another scale or of elsewhere, or the patient moved: export"
            " the series again.",
            touches=("all",),
        ),
    )


def _say_alternating(zigzag: float) -> tuple[Finding, ...]:
    if zigzag <= MOST_ZIGZAG:
        return ()
    return (
        fail(
            "SLICES_ALTERNATE",
            f"Of tissue and air {zigzag:.1f} times as much changes from one slice to the next as to the one after.",
            value=round(zigzag, 2),
            limit=MOST_ZIGZAG,
            advice="Slices of two breath-holds, or of two reconstructions, lie among each other: export each as a"
            " series of its own.",
            touches=("all",),
        ),
    )


def _say_copies(volume: Volume, copies: list[int]) -> tuple[Finding, ...]:
    if not copies:
        return ()
    in_a_row = max(len(run) for run in np.split(copies, np.flatnonzero(np.diff(copies) != 1) + 1))
    make = fail if in_a_row > MOST_COPIES else warn
    return (
        make(
            "SLICES_REPEATED",
            f"Each voxel of {_at(volume, copies)} is that of the slice before, up to {in_a_row} times in a row.",
            value=float(in_a_row),
            limit=float(MOST_COPIES),
            unit="slices",
            advice="What was scanned there is missing, or the scan was brought to thinner slices by copies: export"
            " the series again, as it was reconstructed.",
            touches=("all",),
        ),
    )
