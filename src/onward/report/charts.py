"""Inline SVG and HTML drawings: curves, and the way from doing nothing to full backfill.

Every line differs from the others by dash and marker as well as by colour and carries its name.
A drawing is made for one width, because text in a shrunken SVG cannot be read on a phone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from types import MappingProxyType

from onward.report.document import percent, with_sign

_STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_LONGEST_NAME = 30  # letters; more find no room on a phone
_KEY_LINE = 22


@dataclass(frozen=True)
class Stroke:
    """How a line looks: a CSS class for the colour, a dash pattern and a marker."""

    tone: str
    dash: str
    marker: str


STROKES: Mapping[str, Stroke] = MappingProxyType(
    {
        "independent": Stroke("aside", "1 5", "cross"),
        "old/old": Stroke("old", "8 4", "circle"),
        "bct new/old": Stroke("aside", "3 3", "triangle"),
        "new/old without side": Stroke("aside", "12 3 2 3", "fallen"),
        "new/old": Stroke("upgraded", "", "diamond"),
        "new/old layers": Stroke("aside", "6 2", "square"),
        "bct new/new": Stroke("aside", "2 2 8 2", "plus"),
        "new/new": Stroke("new", "2 3", "square"),
        "random": Stroke("aside", "3 3", "triangle"),
        "uncertainty": Stroke("upgraded", "", "diamond"),
        "oracle": Stroke("new", "2 3", "square"),
    }
)
"""Of the cells of a comparison, and of the orders of a backfill."""
_OTHER = Stroke("aside", "4 2 1 2", "plus")


@dataclass(frozen=True)
class Line:
    """A line of a drawing.

    Attributes:
        name: of the cell or the order, by which it is stroked.
        about: what stands behind the name in the key.
        points: places along the horizontal axis, in [0, 1], and the share at each.
        marked: of the points, those with a marker.
    """

    name: str
    about: str
    points: Sequence[tuple[float, float]]
    marked: Sequence[int]

    @property
    def label(self) -> str:
        """What stands in the key."""
        is_long = len(self.name) > _LONGEST_NAME
        return f"{f'{self.name[: _LONGEST_NAME - 1]}…' if is_long else self.name}{self.about}"

    @property
    def stroke(self) -> Stroke:
        """How it looks."""
        return STROKES.get(self.name, _OTHER)


def levels_around(least: float, most: float) -> list[float]:
    """Return the shares at whole steps around all values, ascending."""
    step = next((one for one in _STEPS if most - least <= 5 * one), _STEPS[-1])
    low, high = math.floor(least / step), math.ceil(most / step)
    low, high = (low, high) if high > low else (low - 1, high + 1)
    return [turn * step for turn in range(low, high + 1)]


def curves(
    lines: Sequence[Line],
    *,
    levels: Sequence[float],
    ticks: Sequence[tuple[float, str]],
    titles: tuple[str, str],
) -> str:
    """Draw the same lines as SVG for a wide and for a narrow screen.

    Args:
        lines: the first is drawn above the others.
        levels: the shares that have a rule, from that at the bottom to that at the top.
        ticks: places along the horizontal axis, and what stands there.
        titles: of the vertical and of the horizontal axis.
    """
    plots = {"wide": Plot(1000, 450, levels), "narrow": Plot(340, 330, levels)}
    spoken = "; ".join(f"{line.label} at the left" for line in lines)
    return "".join(
        f'<div class="chart chart-{screen}">'
        f'<svg viewBox="0 0 {plot.width} {plot.height + _KEY_LINE * len(lines) + 12}" role="img" '
        f'aria-label="{escape(f"{titles[0]} against {titles[1]}. {spoken}.")}">'
        f"{_axes(plot, ticks, titles)}{''.join(_line(plot, line) for line in reversed(lines))}"
        f"{_key(plot, lines)}</svg></div>"
        for screen, plot in plots.items()
    )


@dataclass(frozen=True)
class Plot:
    """Where a plot lies in a drawing, in its pixels, and which shares it spans."""

    width: int
    height: int
    levels: Sequence[float]

    def x(self, place: float) -> float:
        """Where a place in [0, 1] of the horizontal axis is."""
        return 8.0 + (self.width - 54.0) * place

    def y(self, share: float) -> float:
        """Where a share is."""
        above = (share - self.levels[0]) / (self.levels[-1] - self.levels[0])
        return self.height - 44.0 - (self.height - 78.0) * above


def _axes(plot: Plot, ticks: Sequence[tuple[float, str]], titles: tuple[str, str]) -> str:
    digits = 1 if plot.levels[1] - plot.levels[0] < 0.0099 else 0
    above, below = titles
    right, bottom = plot.x(1.0), plot.y(plot.levels[0])
    rules = [
        f'<path class="rule" d="M{plot.x(0.0):.1f} {plot.y(one):.1f}H{right:.1f}"/><text '
        f'class="tick" x="{right + 9:.1f}" y="{plot.y(one) + 4:.1f}">{percent(one, digits)}</text>'
        for one in plot.levels
    ]
    below_it = [
        f'<path class="rule" d="M{plot.x(place):.1f} {bottom:.1f}v5"/><text class="tick" '
        f'text-anchor="middle" x="{plot.x(place):.1f}" y="{bottom + 19:.1f}">{shown}</text>'
        for place, shown in ticks
    ]
    return (
        f"{''.join([*rules, *below_it])}"
        f'<text class="axis" text-anchor="end" x="{plot.width - 2}" y="14">{escape(above)}</text>'
        f'<text class="axis" text-anchor="end" x="{right:.1f}" y="{plot.height - 6}">{below}</text>'
    )


def _line(plot: Plot, line: Line) -> str:
    points = [(plot.x(place), plot.y(share)) for place, share in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return _stroke(line.stroke, path, [points[at] for at in line.marked])


def _key(plot: Plot, lines: Sequence[Line]) -> str:
    """A piece of each line with its label, one below the other."""
    parts = []
    for turn, line in enumerate(lines):
        y = plot.height + 12.0 + _KEY_LINE * turn
        parts.append(
            f"{_stroke(line.stroke, f'M8 {y}h44', [(30.0, y)])}"
            f'<text class="name tone-{line.stroke.tone}" x="62" y="{y + 4.5}">'
            f"{escape(line.label)}</text>"
        )
    return "".join(parts)


def _stroke(stroke: Stroke, path: str, marks: Sequence[tuple[float, float]]) -> str:
    drawn = "".join(_marker(stroke.marker, *place) for place in marks)
    return (
        f'<g class="tone-{stroke.tone}"><path class="line" stroke-dasharray="{stroke.dash}" '
        f'd="{path}"/>{drawn}</g>'
    )


def _marker(shape: str, x: float, y: float, size: float = 4.5) -> str:
    paths = {
        "circle": f"M{x - size:.1f} {y:.1f}a{size} {size} 0 1 0 {2 * size} 0"
        f"a{size} {size} 0 1 0 {-2 * size} 0Z",
        "square": f"M{x - size + 0.5:.1f} {y - size + 0.5:.1f}h{2 * size - 1}v{2 * size - 1}"
        f"h{1 - 2 * size}Z",
        "diamond": f"M{x:.1f} {y - size - 1:.1f}l{size + 1} {size + 1}l{-size - 1} {size + 1}"
        f"l{-size - 1} {-size - 1}Z",
        "triangle": f"M{x:.1f} {y - size:.1f}l{size} {2 * size - 1}h{-2 * size}Z",
        "fallen": f"M{x:.1f} {y + size:.1f}l{size} {1 - 2 * size}h{-2 * size}Z",
        "cross": f"M{x - 3.5:.1f} {y - 3.5:.1f}l7 7m0 -7l-7 7",
        "plus": f"M{x - size:.1f} {y:.1f}h{2 * size}m{-size} {-size}v{2 * size}",
    }
    return f'<path class="mark" d="{paths[shape]}"/>'


def gain_bars(metric: str, gains: Mapping[str, Sequence[float]]) -> str:
    """Draw the update gain of several cells as bars, as HTML.

    Args:
        metric: what the gain is in.
        gains: by cell, one a seed, where it is defined. A bar that would be longer than one and a
            half times the way, or further back than half of it, is cut off; the number beside it
            is not.
    """
    known = [gain for each in gains.values() for gain in each]
    start, end = max(-0.5, min([0.0, *known])), min(1.5, max([1.0, *known]))

    def place(share: float) -> float:
        return 100 * (min(max(share, start), end) - start) / (end - start)

    rows = "".join(_gain_bar(cell, each, place) for cell, each in gains.items())
    return (
        f'<div class="gain-chart" style="--nothing:{place(0.0):.1f}%;--backfill:{place(1.0):.1f}%">'
        f"<h3>Update gain of {metric}</h3><ul>{rows}</ul></div>"
    )


def _gain_bar(cell: str, gains: Sequence[float], place: Callable[[float], float]) -> str:
    name = f'<span class="gain-of">{escape(cell)}</span>'
    if not gains:
        return f'<li>{name}<span></span><span class="gain-is">not defined</span></li>'
    mean = sum(gains) / len(gains)
    nothing, reached, least, most = (place(x) for x in (0.0, mean, min(gains), max(gains)))
    spread = f'<span class="spread" style="left:{least:.1f}%;width:{most - least:.1f}%"></span>'
    return (
        f'<li data-turn="{"back" if mean < 0 else "on"}">{name}'
        f'<span class="rail" aria-hidden="true"><span class="way" '
        f'style="left:{min(nothing, reached):.1f}%;width:{abs(reached - nothing):.1f}%"></span>'
        f'{spread}</span><span class="gain-is">{with_sign(mean)}</span></li>'
    )
