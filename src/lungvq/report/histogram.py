"""How the values of a map are distributed: a small hand-made SVG that follows the page's text colour."""

from __future__ import annotations

from html import escape

import numpy as np

from lungvq.anatomy import LUNGS
from lungvq.report.plate import Picture, Scale, scale_of, ticks
from lungvq.result import CaseResult

__all__ = ["histogram"]

_SERIES = {"both": ("both lungs", "#8a949e", ""), "right": ("right lung", "#b0522d", ""),
           "left": ("left lung", "#2a6fb0", "5 3")}  # fmt: skip
_SAMPLE = 400_000  # voxels are enough for a smooth curve


def histogram(result: CaseResult, name: str) -> Picture:
    """How the values of a map are distributed over both lungs and in each, as a share of its volume.

    A small hand-made SVG: it follows the page's text colour in light and dark.
    """
    scale = scale_of(result, name)
    low, high = scale.low - 0.15 * (scale.high - scale.low), scale.high * 1.25
    edges = np.linspace(low, high, 71)
    curves = {}
    for series in _SERIES:
        mask = result.lungs_exp.array > 0 if series == "both" else result.lungs_exp.array == LUNGS[series]
        values = result.maps[name].array[mask]
        values = values[np.isfinite(values)]
        if values.size:
            values = values[:: max(1, values.size // _SAMPLE)]
            # Values beyond the axis belong into its outermost bins: nothing is left out silently.
            counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
            curves[series] = 100 * counts / values.size
    return _histogram_svg(name, scale, edges, curves)


def _histogram_svg(name: str, scale: Scale, edges: np.ndarray, curves: dict[str, np.ndarray]) -> Picture:
    width, height, left, right, top, bottom = 520, 250, 44, 12, 30, 48
    peak = max((float(c.max()) for c in curves.values()), default=1.0) * 1.08
    inner = height - top - bottom

    def px(value: float) -> float:
        return left + (value - edges[0]) / (edges[-1] - edges[0]) * (width - left - right)

    def py(value: float) -> float:
        return top + inner * (1 - value / peak)

    title = f"Histogram of {scale.title.lower()}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="12" '
        f'fill="currentColor"><title>{escape(title)}</title>'
    ]
    for value, label in ticks(0, peak):
        y = py(value)
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="currentColor" stroke-opacity="0.12"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill-opacity="0.7">{label}</text>'
        )
    for value, label in ticks(float(edges[0]), float(edges[-1])):
        parts.append(
            f'<text x="{px(value):.1f}" y="{height - bottom + 16}" text-anchor="middle" '
            f'fill-opacity="0.7">{label}</text>'
        )
    if scale.mark:
        x = px(scale.mark[0])
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + inner}" stroke="currentColor" '
            f'stroke-opacity="0.45" stroke-dasharray="2 3"/>'
        )
    for series, curve in curves.items():
        _, colour, dash = _SERIES[series]
        corners = [(x, y) for n, y in enumerate(curve) for x in (edges[n], edges[n + 1])]
        path = "M" + " L".join(f"{px(x):.1f},{py(y):.1f}" for x, y in corners)
        if series == "both":
            closed = f"{path} L{px(edges[-1]):.1f},{py(0):.1f} L{px(edges[0]):.1f},{py(0):.1f} Z"
            parts.append(f'<path d="{closed}" fill="{colour}" fill-opacity="0.30" stroke="none"/>')
        else:
            parts.append(
                f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8" '
                f'stroke-dasharray="{dash or "none"}"/>'
            )
    x = left
    for series in curves:
        words, colour, dash = _SERIES[series]
        parts.append(
            f'<line x1="{x}" x2="{x + 20}" y1="12" y2="12" stroke="{colour}" '
            f'stroke-width="{8 if series == "both" else 2}" stroke-opacity="{0.4 if series == "both" else 1}" '
            f'stroke-dasharray="{dash or "none"}"/><text x="{x + 26}" y="16">{words}</text>'
        )
        x += 110
    parts.append(
        f'<line x1="{left}" x2="{width - right}" y1="{top + inner}" y2="{top + inner}" '
        f'stroke="currentColor" stroke-opacity="0.5"/>'
        f'<text x="{(left + width - right) / 2}" y="{height - 8}" text-anchor="middle">'
        f"{escape(scale.title)}, {escape(scale.unit)}</text>"
        f'<text x="{width - right}" y="16" text-anchor="end" fill-opacity="0.7">% of lung per bin</text></svg>'
    )
    svg = "".join(parts)
    return Picture(f"histogram_{name}", "svg", svg.encode(), (width, height), title)
