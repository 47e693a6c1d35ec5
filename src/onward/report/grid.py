"""The retrieval grid: a few queries with what came back for them before and after the upgrade.

`make_grid` chooses the queries by a fixed rule and says so in a sentence that stands in the page:
a grid of hand-picked queries proves nothing. Nothing here knows of HTML.
"""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onward.data.items import Items
from onward.errors import DataError, EvaluationError
from onward.rankings import Hits, Ranking
from onward.relevance import Relevance

if TYPE_CHECKING:
    from PIL.Image import Image

GRID_CELLS = ("old/old", "new/old", "new/new")
THUMBNAIL_PIXELS = 96


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
    _check(rankings)
    row_of = {item: row for row, item in enumerate(items.ids)}
    firsts = {cell: rankings[cell].head(k) for cell in GRID_CELLS}
    relevance = _relevance(items, row_of, firsts["old/old"])
    hits = {cell: relevance.hits(first) for cell, first in firsts.items()}
    change = hits["new/old"].sum(axis=1) - hits["old/old"].sum(axis=1)
    findable = relevance.counts(relevance.query_ids) > 0
    labels = dict(zip(items.ids, items.labels.tolist(), strict=True))
    asked = [(item, labels[item]) for item in relevance.query_ids]
    rows = _choose(asked, change, findable, frozenset(old_classes), queries)
    drawer = _Drawer(items, row_of, {})
    return RetrievalGrid(
        class_names=dict(items.class_names),
        queries=tuple(drawer.query(row, firsts, hits) for row in rows),
        old_classes=frozenset(old_classes),
        chosen=_say_how(len(rows), change[findable], k, bool(old_classes)),
    )


@dataclass(frozen=True, eq=False)
class _Drawer:
    """Opens the images of items, each once."""

    items: Items
    row_of: Mapping[str, int]
    made: dict[str, bytes]

    def query(self, row: int, firsts: Mapping[str, Ranking], hits: Mapping[str, Hits]) -> GridQuery:
        """Gather a query and what came back for it."""
        item = firsts["old/old"].query_ids[row]
        results = {
            cell: tuple(
                GridResult(back, self.label(back), bool(hit), float(distance), self.png(back))
                for back, hit, distance in zip(
                    first.ids_of(row), hits[cell][row], first.distances[row], strict=False
                )
            )
            for cell, first in firsts.items()
        }
        return GridQuery(item, self.label(item), self.png(item), results)

    def label(self, item: str) -> int:
        return int(self.items.labels[self.row_of[item]])

    def png(self, item: str) -> bytes:
        if item not in self.made:
            self.made[item] = _png(self.items.open(self.row_of[item]))
        return self.made[item]


def _check(rankings: Mapping[str, Ranking]) -> None:
    missing = [cell for cell in GRID_CELLS if cell not in rankings]
    if missing:
        raise EvaluationError(
            f"the grid shows {', '.join(GRID_CELLS)}",
            f"there is no ranking for "
            f"{', '.join(missing)}. Search with the same queries under each",
        )
    asked = rankings["old/old"].query_ids
    for cell in GRID_CELLS:
        if rankings[cell].query_ids != asked:
            raise EvaluationError(
                f"the ranking of {cell} is of other queries, or in another order, than that of "
                "old/old",
                "a grid compares the same queries. Search with the same ids under each",
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
