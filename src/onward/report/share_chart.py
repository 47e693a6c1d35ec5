"""Inline SVG of what search gives against the share of a gallery that is embedded again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from types import MappingProxyType

from onward.report.charts import Stroke, marker
from onward.report.wording import percent

STROKES: Mapping[str, Stroke] = MappingProxyType(
    {
        "random": Stroke("aside", "3 3", "triangle"),
        "uncertainty": Stroke("upgraded", "", "diamond"),
        "oracle": Stroke("new", "2 3", "square"),
    }
)
"""How the line of each order looks; every other one is drawn as `random` is."""

_KEY_LINE = 22
_STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MARK_EVERY = 3  # points of a curve


@dataclass(frozen=True)
class _Plot:
    """Where the plot lies in the drawing's own pixels, and which fractions it spans."""

    left: float
    right: float
    top: float
    bottom: float
    low: float
    high: float
    step: float

    def x(self, share: float) -> float:
        return self.left + (self.right - self.left) * share

    def y(self, fraction: float) -> float:
        return self.bottom - (self.bottom - self.top) * (fraction - self.low) / (
            self.high - self.low
        )


def share_chart(
    metric: str,
    shares: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    width: int,
    height: int,
) -> str:
    """Draw a metric against the share that is embedded, a line an order, as an SVG of that width.

    Args:
        metric: what is drawn, such as "map".
        shares: in [0, 1], ascending.
        curves: by order: the metric in [0, 1] at each share.
        width: of the drawing.
        height: of the drawing, the key below aside.
    """
    values = [value for curve in curves.values() for value in curve]
    low, high, step = _span(min(values), max(values))
    plot = _Plot(8.0, width - 46.0, 34.0, height - 44.0, low, high, step)
    lines = "".join(_line(plot, name, shares, curve) for name, curve in curves.items())
    spoken = "; ".join(
        f"{name}: from {percent(curve[0])} % to {percent(curve[-1])} %"
        for name, curve in curves.items()
    )
    whole = height + _KEY_LINE * len(curves) + 12
    return (
        f'<svg viewBox="0 0 {width} {whole}" role="img" '
        f'aria-label="{escape(f"{metric} against the share embedded. {spoken}.")}">'
        f"{_axes(plot, metric, width, height)}{lines}{_key(curves, height)}</svg>"
    )


def _span(least: float, most: float) -> tuple[float, float, float]:
    """Return the axis' ends, at whole steps around all values, and the step."""
    step = next((one for one in _STEPS if most - least <= 5 * one), _STEPS[-1])
    low, high = math.floor(least / step) * step, math.ceil(most / step) * step
    return (low, high, step) if high > low else (low - step, high + step, step)


def _axes(plot: _Plot, metric: str, width: int, height: int) -> str:
    digits = 1 if plot.step < 0.01 else 0
    count = round((plot.high - plot.low) / plot.step)
    levels = [plot.low + plot.step * turn for turn in range(count + 1)]
    parts = [
        f'<path class="rule" d="M{plot.left:.1f} {plot.y(one):.1f}H{plot.right:.1f}"/>'
        f'<text class="tick" x="{plot.right + 9:.1f}" y="{plot.y(one) + 4:.1f}">'
        f"{percent(one, digits)}</text>"
        for one in levels
    ]
    parts += [
        f'<path class="rule" d="M{plot.x(one):.1f} {plot.bottom:.1f}v5"/><text class="tick" '
        f'text-anchor="middle" x="{plot.x(one):.1f}" y="{plot.bottom + 19:.1f}">{100 * one:.0f}'
        "</text>"
        for one in _TICKS
    ]
    parts.append(
        f'<text class="axis" text-anchor="end" x="{width - 2}" y="14">{escape(metric)}, %</text>'
        f'<text class="axis" text-anchor="end" x="{plot.right:.1f}" y="{height - 6}">'
        "items embedded by the new model, %</text>"
    )
    return "".join(parts)


def _line(plot: _Plot, name: str, shares: Sequence[float], curve: Sequence[float]) -> str:
    stroke = STROKES.get(name, STROKES["random"])
    points = [(plot.x(s), plot.y(value)) for s, value in zip(shares, curve, strict=True)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    marks = "".join(marker(stroke.marker, *point) for point in points[::_MARK_EVERY])
    return (
        f'<g class="tone-{stroke.tone}"><path class="line" stroke-dasharray="{stroke.dash}" '
        f'd="{path}"/>{marks}</g>'
    )


def _key(curves: Mapping[str, Sequence[float]], top: int) -> str:
    parts = []
    for turn, (name, curve) in enumerate(curves.items()):
        y, stroke = top + 12.0 + _KEY_LINE * turn, STROKES.get(name, STROKES["random"])
        mean = percent(sum(curve) / len(curve))
        parts.append(
            f'<g class="tone-{stroke.tone}"><path class="line" stroke-dasharray="{stroke.dash}" '
            f'd="M8 {y}h44"/>{marker(stroke.marker, 30.0, y)}</g>'
            f'<text class="name tone-{stroke.tone}" x="62" y="{y + 4.5}">{escape(name)}, '
            f"auc@{len(curve)} {mean}</text>"
        )
    return "".join(parts)
