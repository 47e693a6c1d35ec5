"""The retrieval grid: a few queries with what came back for them before and after the upgrade.

`make_grid` chooses the queries by a fixed rule and says so in a sentence that stands in the page:
a grid of hand-picked queries proves nothing. `grid_html` draws it: right and wrong differ in
symbol, words and the frame's stroke, not in colour alone.
"""

import base64
import io
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from onward.data.items import Items
from onward.errors import DataError, EvaluationError
from onward.evaluation.rankings import Ranking
from onward.evaluation.relevance import Relevance

if TYPE_CHECKING:
    from PIL.Image import Image

GRID_CELLS = ("old/old", "new/old", "new/new")
THUMBNAIL_PIXELS = 96
CRISP_PIXELS = 48
"""Images up to this side are enlarged as sharp squares instead of being blurred."""

HEADINGS = {
    "old/old": "before: old model, old gallery",
    "new/old": "upgraded: no image read again",
    "new/new": "full backfill: every image read again",
}


@dataclass(frozen=True)
class GridResult:
    """One item that came back for a query.

    Attributes:
        id: its id.
        label: its class.
        hit: whether its class is the query's.
        distance: from the query, in the space that was searched.
        image: a PNG file.
    """

    id: str
    label: int
    hit: bool
    distance: float
    image: bytes


@dataclass(frozen=True)
class GridQuery:
    """A query and, for each cell, what came back, nearest first.

    Attributes:
        id: its id.
        label: its class.
        image: a PNG file.
        results: by the cells' names, in the order of the columns.
    """

    id: str
    label: int
    image: bytes
    results: Mapping[str, tuple[GridResult, ...]]


@dataclass(frozen=True)
class RetrievalGrid:
    """Queries downwards, what came back for them across.

    Attributes:
        class_names: what to call each label.
        queries: the rows.
        old_classes: labels that the old model was trained on; empty where that is not known.
        chosen: how the queries were chosen, in sentences for the reader.
    """

    class_names: Mapping[int, str]
    queries: tuple[GridQuery, ...]
    old_classes: frozenset[int]
    chosen: str


def make_grid(
    items: Items,
    rankings: Mapping[str, Ranking],
    *,
    old_classes: Collection[int] = (),
    queries: int = 8,
    k: int = 5,
) -> RetrievalGrid:
    """Choose queries by rule and take their first results and all images.

    Half of the queries are of old classes and half of new ones, evenly spread over the class
    numbers. In each class the first query by id is taken for which old/old and new/old do not
    find equally many relevant items, for better or worse; where there is none, the first by id.
    Queries with nothing to find are left out.

    Args:
        items: the queries and the gallery's items.
        rankings: what came back for the same queries under `old/old`, `new/old` and `new/new`.
        old_classes: labels that the old model was trained on; empty where that is not known.
        queries: how many to show, at most.
        k: how many results to show for each.

    Raises:
        EvaluationError: if a ranking is missing or the rankings are of different queries.
        DataError: if a query or a gallery item is not among the items, or its image is unreadable.
    """
    asked_by = [rankings[cell].query_ids for cell in GRID_CELLS if cell in rankings]
    if len(asked_by) < len(GRID_CELLS) or len(set(asked_by)) > 1:
        raise EvaluationError(
            f"a grid compares the same queries, in the same order, under {', '.join(GRID_CELLS)}, "
            "and these are not such rankings",
            "search with the same ids under each",
        )
    row_of = {item: row for row, item in enumerate(items.ids)}
    firsts = {cell: rankings[cell].head(k) for cell in GRID_CELLS}
    relevance = _relevance(items, row_of, firsts["old/old"])
    hits = {cell: relevance.hits(first) for cell, first in firsts.items()}
    change = hits["new/old"].sum(axis=1) - hits["old/old"].sum(axis=1)
    findable = relevance.counts(relevance.query_ids) > 0
    labels = dict(zip(items.ids, items.labels.tolist(), strict=True))
    asked = [(item, labels[item]) for item in relevance.query_ids]
    rows = _choose(asked, change, findable, frozenset(old_classes), queries)

    @cache
    def png(item: str) -> bytes:
        return _png(items.open(row_of[item]))

    def shown(row: int, cell: str) -> tuple[GridResult, ...]:
        first = firsts[cell]
        found = zip(first.ids_of(row), hits[cell][row], first.distances[row], strict=False)
        return tuple(
            GridResult(one, labels[one], bool(hit), float(distance), png(one))
            for one, hit, distance in found
        )

    return RetrievalGrid(
        class_names=dict(items.class_names),
        queries=tuple(
            GridQuery(*asked[row], png(asked[row][0]), {cell: shown(row, cell) for cell in firsts})
            for row in rows
        ),
        old_classes=frozenset(old_classes),
        chosen=_say_how(len(rows), change[findable], k, bool(old_classes)),
    )


def _relevance(items: Items, row_of: Mapping[str, int], asked: Ranking) -> Relevance:
    ids = (*asked.query_ids, *asked.gallery_ids)
    missing = [item for item in ids if item not in row_of]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(ids)} ranked ids are not among the items of {items.source}, "
            f"the first {missing[0]!r}",
            "give the items that were searched",
        )
    labels = items.labels[[row_of[item] for item in asked.query_ids]]
    return Relevance.of_labels(
        asked.query_ids, items.ids, labels, items.labels, exclude_self=asked.exclude_self
    )


def _choose(
    asked: Sequence[tuple[str, int]],
    change: np.ndarray,
    findable: np.ndarray,
    old_classes: frozenset[int],
    count: int,
) -> list[int]:
    """Rows of the queries to show: old classes first, each class's changed queries first.

    Args:
        asked: the id and label of each query.
        change: how many more right items each finds.
        findable: which have something to find.
        old_classes: those that come first.
        count: how many to show.
    """
    of_class: dict[int, list[int]] = {}
    rows = np.flatnonzero(findable).tolist()
    for row in sorted(rows, key=lambda row: (change[row] == 0, asked[row][0])):
        of_class.setdefault(asked[row][1], []).append(row)
    old = sorted(of_class.keys() & old_classes)
    new = sorted(of_class.keys() - old_classes)
    of_old = 0 if not old else count if not new else (count + 1) // 2
    wanted = _spread(old, of_old) + _spread(new, count - of_old)
    waiting = {label: iter(rows) for label, rows in of_class.items()}
    taken = [next(waiting[label], None) for label in wanted]
    return [row for row in taken if row is not None]


def _spread(classes: Sequence[int], count: int) -> list[int]:
    """`count` classes evenly spaced over the sorted ones; each several times if they are few."""
    if not classes or not count:
        return []
    if count >= len(classes):
        return sorted(classes[turn % len(classes)] for turn in range(count))
    places = np.linspace(0, len(classes) - 1, count).round().astype(int)
    return [classes[place] for place in places]


def _png(image: "Image") -> bytes:
    """A PNG file of the image, reduced to `THUMBNAIL_PIXELS` a side where it is larger."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return file.getvalue()


def _say_how(shown: int, change: np.ndarray, k: int, classes_known: bool) -> str:
    better, worse, same = (int(mark.sum()) for mark in (change > 0, change < 0, change == 0))
    spread = "half of old and half of new classes, evenly spread" if classes_known else "spread"
    return (
        f"These {shown} queries were chosen by a fixed rule, not by hand: {spread} over the class "
        f"numbers and, in each class, the first by id for which old/old and new/old do not find "
        f"equally many right items among the first {k} (if there is none, the first by id). So the "
        f"grid shows where the upgrade changes something, for better or worse; it is not a fair "
        f"average. Of all {len(change):,} queries, the upgrade finds more right items among the "
        f"first {k} for {better:,}, fewer for {worse:,} and as many for {same:,}."
    )


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
