"""Inline SVG and HTML drawings: CMC curves and the way from doing nothing to full backfill.

Every line differs from the others by dash and marker as well as by colour and carries its name.
A drawing is made for one width, because text in a shrunken SVG cannot be read on a phone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from types import MappingProxyType

from onward.compatibility import Comparison
from onward.report.wording import in_order, percent, with_sign

_KS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Stroke:
    """How a cell's line looks: a CSS class for the colour, a dash pattern and a marker."""

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
    }
)
_LONGEST_NAME = 30  # letters; more find no room beside the curves on a phone
_OTHER = Stroke("aside", "4 2 1 2", "plus")
_KEY_LINE = 22


@dataclass(frozen=True)
class Frame:
    """Where a drawing's plot lies, in its own pixels, and which shares it spans.

    Attributes:
        width, height: of the whole drawing.
        left, right, top, bottom: edges of the plot.
        floor: the share at the bottom; the top is 1.
        ks: where curves have markers and the axis has ticks.
    """

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    floor: float
    ks: tuple[int, ...]

    def x(self, k: int) -> float:
        """Place of k, on a logarithmic scale."""
        return self.left + (self.right - self.left) * math.log(k) / math.log(self.ks[-1])

    def y(self, share: float) -> float:
        """Height of a share of queries."""
        above = (share - self.floor) / (1 - self.floor)
        return self.bottom - (self.bottom - self.top) * above


def drawn_cells(comparison: Comparison) -> list[str]:
    """Cells whose curve is drawn.

    `independent` is at chance and would press all others together at the top; it is left out of
    the drawing (not of the tables), and so is a cell without any query.
    """
    cells = in_order(comparison.cells)
    return [c for c in cells if c != "independent" and comparison.cells[c].queries > 0]


def curve_ks(comparison: Comparison) -> tuple[int, ...]:
    """Return where the curves have markers: as far down as every ranking reaches."""
    depths = [cell.depth for cell in comparison.cells.values() if cell.depth is not None]
    return tuple(k for k in _KS if k <= min(depths, default=_KS[-1]))


def cmc_chart(comparison: Comparison, *, width: int, height: int, beside: bool) -> str:
    """Draw cmc@k against k for every cell, as an SVG of that size.

    Args:
        comparison: the cells.
        width: of the drawing.
        height: of the drawing, the key aside.
        beside: name each line at its beginning; else in a key below, where there is no room.
    """
    names = drawn_cells(comparison)
    ks = curve_ks(comparison)
    curves = {name: comparison.cells[name].curve(ks[-1]).tolist() for name in names}
    names.sort(key=lambda name: -curves[name][0])
    left = 7.2 * max((len(_short(name)) for name in names), default=0) + 62 if beside else 8.0
    key_height = 0 if beside else _KEY_LINE * len(names) + 12
    floor = axis_floor(comparison)
    frame = Frame(width, height, left, width - 34.0, 34.0, height - 44.0, floor, ks)
    parts = [_axes(frame)]
    parts += [_line(frame, name, curves[name]) for name in reversed(names)]
    parts.append(_names(frame, curves, names) if beside else _key(frame, curves, names))
    spoken = "; ".join(f"{name}: {percent(curves[name][0])} % at k = 1" for name in names)
    return (
        f'<svg viewBox="0 0 {width} {height + key_height}" role="img" '
        f'aria-label="{escape(f"CMC curves. {spoken}. All values in the table below.")}">'
        + "".join(parts)
        + "</svg>"
    )


def axis_floor(comparison: Comparison) -> float:
    """Return the share at which the charts' vertical axis begins, a multiple of 0.1."""
    firsts = [comparison.cells[name].cmc(1) for name in drawn_cells(comparison)]
    return max(0, math.floor(10 * min(firsts, default=0.0) - 0.2)) / 10


def _axes(frame: Frame) -> str:
    step = 0.05 if frame.floor >= 0.75 else 0.1 if frame.floor >= 0.45 else 0.2
    shares = [share / 100 for share in range(100, int(frame.floor * 100) - 1, -round(step * 100))]
    parts = [
        f'<path class="rule" d="M{frame.left:.1f} {frame.y(s):.1f}H{frame.right:.1f}"/>'
        f'<text class="tick" x="{frame.right + 9:.1f}" y="{frame.y(s) + 4:.1f}">'
        f"{100 * s:.0f}</text>"
        for s in shares
    ]
    parts += [
        f'<path class="rule" d="M{frame.x(k):.1f} {frame.bottom:.1f}v5"/><text class="tick" '
        f'text-anchor="middle" x="{frame.x(k):.1f}" y="{frame.bottom + 19:.1f}">{k}</text>'
        for k in frame.ks
    ]
    parts.append(
        f'<text class="axis" text-anchor="end" x="{frame.width - 2}" y="14">'
        "cmc@k: queries with a right item in the first k, %</text>"
        f'<text class="axis" text-anchor="end" x="{frame.right:.1f}" y="{frame.height - 6}">'
        "k, results looked at (log scale)</text>"
    )
    return "".join(parts)


def _line(frame: Frame, name: str, curve: Sequence[float]) -> str:
    stroke = _stroke(name)
    points = [(frame.x(k), frame.y(share)) for k, share in enumerate(curve, start=1)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    marks = "".join(marker(stroke.marker, *points[k - 1]) for k in frame.ks)
    return (
        f'<g class="tone-{stroke.tone}"><path class="line" stroke-dasharray="{stroke.dash}" '
        f'd="{path}"/>{marks}</g>'
    )


def _names(frame: Frame, curves: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """Names and first values left of the lines' beginnings, moved apart, each with a leader."""
    starts = [frame.y(curves[name][0]) for name in names]
    places = apart(starts, gap=17.0, top=frame.top, bottom=frame.bottom)
    end = frame.left - 28
    return "".join(
        f'<path class="leader" d="M{end + 4:.1f} {place:.1f}L{frame.left - 8:.1f} {start:.1f}"/>'
        f'<text class="name tone-{_stroke(name).tone}" text-anchor="end" x="{end:.1f}" '
        f'y="{place + 4.5:.1f}">{escape(_short(name))} {percent(curves[name][0])}</text>'
        for name, start, place in zip(names, starts, places, strict=True)
    )


def _key(frame: Frame, curves: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """A piece of each line with its name and first value, in the order of their beginnings."""
    parts = []
    for turn, name in enumerate(names):
        y, stroke = frame.height + 12.0 + _KEY_LINE * turn, _stroke(name)
        parts.append(
            f'<g class="tone-{stroke.tone}"><path class="line" stroke-dasharray="{stroke.dash}" '
            f'd="M8 {y}h44"/>{marker(stroke.marker, 30.0, y)}</g>'
            f'<text class="name tone-{stroke.tone}" x="62" y="{y + 4.5}">{escape(_short(name))} '
            f"{percent(curves[name][0])}</text>"
        )
    return "".join(parts)


def _short(name: str) -> str:
    """Return a name that fits beside the curves; the table below has all of it."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _stroke(name: str) -> Stroke:
    return STROKES.get(name, _OTHER)


def apart(wanted: Sequence[float], *, gap: float, top: float, bottom: float) -> list[float]:
    """Move ascending places apart by at least `gap`, above `bottom` and, if they fit, below `top`.

    Heights grow downwards, as in SVG.
    """
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + gap if places else top))
    limit = bottom
    for position in range(len(places) - 1, -1, -1):
        places[position] = min(places[position], limit)
        limit = places[position] - gap
    return places


def marker(shape: str, x: float, y: float, size: float = 4.5) -> str:
    """Draw a small sign at a place."""
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


def gain_track(comparison: Comparison, metric: str) -> str:
    """Draw how far new/old has come from old/old towards new/new in one metric, as HTML."""
    share = comparison.update_gain(metric)
    low, reached, high = (
        percent(comparison.value(metric, cell)) for cell in ("old/old", "new/old", "new/new")
    )
    turn = "back" if share < 0 else "on"
    head = (
        f'<div class="gain" data-turn="{turn}"><h3>{metric}</h3><p class="gain-value">'
        f"<b>{with_sign(share)}</b> of the way, to {reached} %</p>"
    )
    if not math.isfinite(share):
        return (
            f"{head}<p>Full backfill ({high} %) is no better than doing nothing ({low} %), so "
            "there is no way to go.</p></div>"
        )
    shown = min(max(share, -0.25), 1.25)
    start, end = min(0.0, shown), max(1.0, shown)
    nothing, upgraded, backfill = (100 * (s - start) / (end - start) for s in (0.0, shown, 1.0))
    return (
        f'{head}<div class="track" aria-hidden="true"><span class="way" '
        f'style="left:{min(nothing, upgraded):.1f}%;width:{abs(upgraded - nothing):.1f}%"></span>'
        f'<span class="stop stop-old" style="left:{nothing:.1f}%"></span>'
        f'<span class="stop stop-new" style="left:{backfill:.1f}%"></span>'
        f'<span class="stop stop-upgraded" style="left:{upgraded:.1f}%"></span></div>'
        f'<p class="ends" style="padding:0 {100 - backfill:.1f}% 0 {nothing:.1f}%">'
        f"<span>old/old {low}</span><span>new/new {high}</span></p></div>"
    )


def gain_bars(metric: str, gains: Mapping[str, Sequence[float]]) -> str:
    """Draw the update gain of several cells as bars, as HTML.

    Args:
        metric: what the gain is in.
        gains: by cell, one a seed; none where it is not defined. A bar that would be longer than
            one and a half times the way, or further back than half of it, is cut off; the number
            beside it is not.
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
