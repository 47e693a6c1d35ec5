"""What every page of a report has around its own content, and how pages name cells and numbers.

One file that needs nothing else: pictures and style stand in it, there is no script, and a content
security policy forbids the browser to load anything. Fractions become percent here and nowhere
else.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from onward import __version__
from onward.artifacts import write_aside

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MISSING = "–"
Row = tuple[str, list[str]]
"""The beginning of a row of a table, and its cells: HTML."""

CELLS: Mapping[str, str] = MappingProxyType(
    {
        "independent": "New queries, old gallery as it stands. Nothing joins the spaces: chance.",
        "old/old": "Do nothing: the old model asks, the old gallery answers.",
        "bct new/old": "A new model trained to fit the old space, old gallery as it stands.",
        "new/old without side": "Upgraded from the old embeddings alone.",
        "new/old": "Upgraded: the stored vectors carried over, no image read.",
        "new/old as stored": "The gallery as it stands: some items upgraded, some embedded again.",
        "new/old layers": "Upgraded; the side-information is the old model’s own layers.",
        "bct new/new": "The model trained to fit the old space, every image embedded again.",
        "new/new": "Full backfill: every image embedded again with the new model.",
    }
)
"""What stands behind each cell that the recipes make, in the order of a reader's questions."""

_LAST_UPGRADED = list(CELLS).index("new/old layers")


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

    A name that is not known stands behind the upgraded galleries, in the order given.
    """
    place = {name: float(position) for position, name in enumerate(CELLS)}
    return sorted(cells, key=lambda name: place.get(name, _LAST_UPGRADED + 0.5))


def explain(cell: str, cells: Iterable[str]) -> str:
    """Say in a sentence what stands behind a cell; nothing where its name is not known.

    Only beside `new/old without side` does `new/old` say by its name that it had side-information.
    """
    if cell == "new/old" and "new/old without side" in cells:
        return "Upgraded from the old embeddings and their side-information."
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
