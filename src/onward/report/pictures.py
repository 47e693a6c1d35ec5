"""The retrieval grid as HTML: queries down, what came back under each cell across.

Right and wrong differ in symbol, words and the frame's stroke, not in colour alone.
"""

import base64
import struct
from html import escape

from onward.report.grid import GRID_CELLS, GridQuery, GridResult, RetrievalGrid

CRISP_PIXELS = 48
"""Images up to this side are enlarged as sharp squares instead of being blurred."""

HEADINGS = {
    "old/old": "before: old model, old gallery",
    "new/old": "upgraded: no image read again",
    "new/new": "full backfill: every image read again",
}


def grid_html(grid: RetrievalGrid) -> str:
    """Return the legend, the column heads and one row for each query."""
    heads = "".join(f"<p><b>{escape(cell)}</b> {escape(HEADINGS[cell])}</p>" for cell in GRID_CELLS)
    rows = "".join(_row(grid, query) for query in grid.queries)
    return (
        '<ul class="legend">'
        '<li class="right"><span class="key"></span> ✓ solid frame: right, the query’s class</li>'
        '<li class="wrong"><span class="key"></span> ✗ dashed frame: wrong class</li></ul>'
        f'<div class="grid-heads" aria-hidden="true"><p>query</p>{heads}</div>'
        f'<ol class="grid">{rows}</ol>'
    )


def _row(grid: RetrievalGrid, query: GridQuery) -> str:
    name = _spoken(grid, query.label)
    known = ""
    if grid.old_classes:
        known = "old class" if query.label in grid.old_classes else "new class"
    asked = (
        f'<figure class="query">{_image(query.image, f"query: {name}", query.id)}'
        f"<figcaption><b>{_breakable(name)}</b><span>{known}</span></figcaption></figure>"
    )
    groups = "".join(_group(grid, cell, query.results[cell]) for cell in GRID_CELLS)
    return f"<li>{asked}{groups}</li>"


def _group(grid: RetrievalGrid, cell: str, results: tuple[GridResult, ...]) -> str:
    right = sum(result.hit for result in results)
    count = f"{right} of {len(results)} right" if results else "nothing came back"
    pictures = "".join(_result(grid, result) for result in results)
    return (
        f'<div class="came-back" role="group" aria-label="{escape(f"{cell}: {count}")}">'
        f"<p><b>{escape(cell)}</b> {count}</p><ol>{pictures}</ol></div>"
    )


def _result(grid: RetrievalGrid, result: GridResult) -> str:
    name = _spoken(grid, result.label)
    word, sign = ("right", "✓") if result.hit else ("wrong", "✗")
    hint = f"{result.id} at distance {result.distance:.4g}"
    return (
        f'<li><figure class="{word}">{_image(result.image, f"{name}, {word}", hint)}'
        f'<figcaption><span aria-hidden="true">{sign}</span> '
        f"{_breakable(grid.class_names[result.label])}</figcaption></figure></li>"
    )


def _image(png: bytes, spoken: str, hint: str) -> str:
    width, height = struct.unpack(">II", png[16:24])  # the PNG's header
    crisp = ' class="crisp"' if max(width, height) <= CRISP_PIXELS else ""
    data = base64.b64encode(png).decode()
    return (
        f'<img{crisp} src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(spoken)}" title="{escape(hint)}">'
    )


def _spoken(grid: RetrievalGrid, label: int) -> str:
    """The class's name, with the word class where it is only a number."""
    name = grid.class_names[label]
    return f"class {name}" if name.isdigit() else name


def _breakable(name: str) -> str:
    return escape(name).replace("_", "_<wbr>")
