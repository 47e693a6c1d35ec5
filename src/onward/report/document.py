"""What pages are made of: a frame, tables, curves and bars, the names of cells, and percent.

One file that needs nothing else: pictures and style stand in it, there is no script, and a content
security policy forbids the browser to load anything. Fractions become percent here and nowhere
else. Curves are SVG in it, and bars HTML: every line differs from the others by dash and marker as
well as by colour and carries its name. A drawing is made for one width, because text in a shrunken
SVG cannot be read on a phone.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from onward import __version__
from onward.artifacts import write_aside
from onward.evaluation.comparison import WHEN_FUSED

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MISSING = "–"
Row = tuple[str, list[str]]
"""The beginning of a row of a table, and its cells: HTML."""

CELLS: Mapping[str, str] = MappingProxyType(
    {
        "independent": "New queries, old gallery as it stands. Nothing joins the spaces: chance.",
        "old/old": "Do nothing: the old model asks, the old gallery answers.",
        "bct new/old": "A new model trained to fit the old space, old gallery as it stands.",
        "bct class means new/old": "The same, held to the means of old embeddings of all classes.",
        "bct class means x10 new/old": "The same, held to them with a weight of 10.",
        "bct from old model new/old": "The same, and begun with the old model’s weights.",
        "bct cosines new/old": "Held to the old classifier, its own one by cosines.",
        "new/old without side": "Upgraded from the old embeddings alone.",
        "new/old": "Upgraded: the stored vectors carried over, no image read.",
        "new/old as stored": "The gallery as it stands: some items upgraded, some embedded again.",
        "new/old layers": "Upgraded; the side-information is the old model’s own layers.",
        "bct new/new": "The model trained to fit the old space, every image embedded again.",
        "bct class means new/new": "Every image embedded again by the model of class means.",
        "bct class means x10 new/new": "The same, of the model held to them with a weight of 10.",
        "bct from old model new/new": "The same, of the model begun with the old model’s weights.",
        "bct cosines new/new": "Every image embedded again by the model that learned by cosines.",
        "new/new": "Full backfill: every image embedded again with the new model.",
    }
)
"""What stands behind each cell that the recipes make, in the order of a reader's questions."""

_FUSED = "The same vectors beside the old ones: queries by both models, both distances count."
_LAST_UPGRADED = list(CELLS).index("new/old layers")
_STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_LONGEST_NAME = 30  # letters; more find no room on a phone
_KEY_LINE = 22


def write_page(
    path: Path | str,
    title: str,
    sections: Sequence[str],
    *,
    kind: str,
    introduction: str,
    facts: Mapping[str, str],
) -> None:
    """Write a whole page; a reader sees the old one or all of the new one.

    Args:
        path: the HTML file.
        title: its heading.
        sections: from `section`.
        kind: what sort of page it is, in a word.
        introduction: for somebody who knows nothing of it; blank lines divide paragraphs.
        facts: how the numbers came to be, such as seed, versions, command and time.
    """
    style = files("onward.report").joinpath("style.css").read_text(encoding="utf-8")
    paragraphs = "".join(
        f"<p>{escape(one.strip())}</p>" for one in introduction.split("\n\n") if one.strip()
    )
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    folded = f"<details><summary>{escape(', '.join(facts))}</summary><dl>{rows}</dl></details>"
    if facts:
        sections = [*sections, section("facts", "How these numbers came to be", folded)]
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header><p class="kicker">Onward · {kind}</p><h1>{escape(title)}</h1>{paragraphs}'
        "</header>\n<main>\n" + "\n".join(sections).replace(" %", "&nbsp;%") + "\n</main>\n"
        f"<footer><p>Written by Onward {__version__}. The page is whole in this one file: it loads "
        "nothing and runs no script.</p></footer>\n</body>\n</html>\n"
    )
    with write_aside(Path(path)) as aside:
        aside.write_text(page, encoding="utf-8")


def section(name: str, heading: str, content: str) -> str:
    """Return a section with its heading.

    Args:
        name: its id in the page.
        heading: plain text.
        content: HTML.
    """
    return (
        f'<section id="{name}" aria-labelledby="{name}-heading">'
        f'<h2 id="{name}-heading">{escape(heading)}</h2>{content}</section>'
    )


def table_row(head: str, values: Iterable[str], *, tone: str = "", about: str = "") -> Row:
    """Return a row of a table: its head and what stands below that, then HTML, a cell a column.

    What has a tone is a cell of a comparison.
    """
    words, shown = "", escape(head)
    if tone:
        words, shown = f' class="tone-{tone}" data-cell="{shown}"', f"<b>{shown}</b>"
    below = f"<span>{escape(about)}</span>" if about else ""
    return f'<tr role="row"{words}><th scope="row" role="rowheader">{shown}{below}</th>', [*values]


def table(
    heads: Sequence[str], rows: Iterable[Row], caption: str, *, words: str = "", wide: str = ""
) -> str:
    """Return a table.

    The roles are written out because a phone lays some rows out as cards, which would otherwise
    take the table's meaning from those who listen to it.

    Args:
        heads: of the columns.
        rows: from `table_row`.
        caption: what they are numbers of.
        words: attributes of the table.
        wide: where it is scrolled sideways if it does not fit, its first column fixed: what it is
            called by those who listen to it.
    """
    shown = "".join(f'<th scope="col" role="columnheader">{escape(head)}</th>' for head in heads)
    body = "".join(
        first
        + "".join(
            f'<td role="cell" data-name="{escape(head)}">{value}</td>'
            for head, value in zip(heads[1:], values, strict=True)
        )
        + "</tr>"
        for first, values in rows
    )
    whole = (
        f'<table role="table" {words}><caption>{caption}</caption><thead role="rowgroup">'
        f'<tr role="row">{shown}</tr></thead><tbody role="rowgroup">{body}</tbody></table>'
    )
    region = f'<div class="wide runs" role="region" tabindex="0" aria-label="{escape(wide)}">'
    return f"{region}{whole}</div>" if wide else whole


def in_order(cells: Iterable[str]) -> list[str]:
    """Return the cells' names as the report lists them: known ones first to last by `CELLS`.

    A name that is not known stands behind the upgraded galleries, in the order given; what is fused
    behind what it is fused of.
    """
    place = {name: float(position) for position, name in enumerate(CELLS)}
    place |= {f"{name}{WHEN_FUSED}": position + 0.25 for name, position in place.items()}
    return sorted(cells, key=lambda name: place.get(name, _LAST_UPGRADED + 0.5))


def explain(cell: str, cells: Iterable[str]) -> str:
    """Say in a sentence what stands behind a cell; nothing where its name is not known.

    Only beside `new/old without side` does `new/old` say by its name that it had side-information.
    """
    if cell == "new/old" and "new/old without side" in cells:
        return "Upgraded from the old embeddings and their side-information."
    if cell.endswith(WHEN_FUSED):
        return _FUSED
    return CELLS.get(cell, "")


def percent(fraction: float, digits: int = 1) -> str:
    """Return a fraction as percent without the sign, or a dash where it is not defined."""
    if not math.isfinite(fraction):
        return MISSING
    return f"{100 * fraction:.{digits}f}".replace("-", "−")


def with_sign(fraction: float, digits: int = 1) -> str:
    """Return a fraction as percent with the sign, or "not defined"."""
    if not math.isfinite(fraction):
        return "not defined"
    return f"{percent(fraction, digits)} %"


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
        "new/old fused": Stroke("upgraded", "10 3", "fallen"),
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
