"""The retrieval grid: a few queries with what came back for them before and after the upgrade.

`make_grid` chooses the queries by a fixed rule and says so in a sentence that stands in the page:
a grid of hand-picked queries proves nothing. Right and wrong differ in symbol, words and the
frame's stroke, not in colour alone.
"""

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from onward.data.items import Items
from onward.errors import DataError, EvaluationError
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import Ranking

THUMBNAIL_PIXELS = 96
CRISP_PIXELS = 48
"""Images up to this side are enlarged as sharp squares instead of being blurred."""

HEADINGS = {
    "old/old": "before: old model, old gallery",
    "new/old": "upgraded: no image read again",
    "new/new": "full backfill: every image read again",
}
GRID_CELLS = tuple(HEADINGS)


@dataclass(frozen=True)
class RetrievalGrid:
    """Queries downwards, what came back for them across.

    Attributes:
        chosen: how the queries were chosen, in sentences for the reader.
        drawn: HTML, with the images in it: a legend, the columns' heads, a row for each query.
    """

    chosen: str
    drawn: str


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
    hits = {cell: relevance.grades(first) > 0 for cell, first in firsts.items()}
    change = hits["new/old"].sum(axis=1) - hits["old/old"].sum(axis=1)
    findable = relevance.counts(relevance.query_ids) > 0
    labels = items.labels.tolist()
    asked = [(item, labels[row_of[item]]) for item in relevance.query_ids]
    known = frozenset(old_classes)
    rows = _choose(asked, change, findable, known, queries)
    pictures = _Pictures(items, row_of)
    drawn = []
    for row in rows:
        item, label = asked[row]
        groups = [
            pictures.group(cell, first, row, hits[cell][row]) for cell, first in firsts.items()
        ]
        about = "" if not known else "old class" if label in known else "new class"
        drawn.append(f"<li>{pictures.query(item, about)}{''.join(groups)}</li>")
    return RetrievalGrid(
        _say_how(len(rows), change[findable], k, bool(known)), _with_heads("".join(drawn))
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


def _with_heads(rows: str) -> str:
    heads = "".join(f"<p><b>{cell}</b> {words}</p>" for cell, words in HEADINGS.items())
    return (
        '<ul class="legend">'
        '<li class="right"><span class="key"></span> ✓ solid frame: right, the query’s class</li>'
        '<li class="wrong"><span class="key"></span> ✗ dashed frame: wrong class</li></ul>'
        f'<div class="grid-heads" aria-hidden="true"><p>query</p>{heads}</div>'
        f'<ol class="grid">{rows}</ol>'
    )


@dataclass(frozen=True)
class _Pictures:
    """Draws items with the names of their classes."""

    items: Items
    row_of: Mapping[str, int]

    def query(self, item: str, about: str) -> str:
        image = self._image(item, "query: {}", item)
        return (
            f'<figure class="query">{image}<figcaption><b>{_breakable(self._spoken(item))}</b>'
            f"<span>{about}</span></figcaption></figure>"
        )

    def group(self, cell: str, ranking: Ranking, row: int, hits: np.ndarray) -> str:
        found = list(
            zip(ranking.ids_of(row), hits.tolist(), ranking.distances[row].tolist(), strict=False)
        )
        right = sum(hit for _, hit, _ in found)
        count = f"{right} of {len(found)} right" if found else "nothing came back"
        pictures = "".join(self._result(*each) for each in found)
        return (
            f'<div class="came-back" role="group" aria-label="{cell}: {count}">'
            f"<p><b>{cell}</b> {count}</p><ol>{pictures}</ol></div>"
        )

    def _result(self, item: str, hit: bool, distance: float) -> str:
        word, sign = ("right", "✓") if hit else ("wrong", "✗")
        image = self._image(item, f"{{}}, {word}", f"{item} at distance {distance:.4g}")
        return (
            f'<li><figure class="{word}">{image}<figcaption><span aria-hidden="true">{sign}</span> '
            f"{_breakable(self._name(item))}</figcaption></figure></li>"
        )

    def _image(self, item: str, spoken: str, hint: str) -> str:
        small = self.items.open(self.row_of[item]).copy()
        small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        file = io.BytesIO()
        small.save(file, "PNG", optimize=True)
        crisp = ' class="crisp"' if max(small.size) <= CRISP_PIXELS else ""
        data = base64.b64encode(file.getvalue()).decode()
        return (
            f'<img{crisp} src="data:image/png;base64,{data}" width="{small.width}" '
            f'height="{small.height}" alt="{escape(spoken.format(self._spoken(item)))}" '
            f'title="{escape(hint)}">'
        )

    def _name(self, item: str) -> str:
        return self.items.class_names[int(self.items.labels[self.row_of[item]])]

    def _spoken(self, item: str) -> str:
        """The class's name, with the word class where it is only a number."""
        name = self._name(item)
        return f"class {name}" if name.isdigit() else name


def _breakable(name: str) -> str:
    return escape(name).replace("_", "_<wbr>")
