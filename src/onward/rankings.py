"""Rankings, and the relevance that judges them.

A ranking says which gallery items came back for each query, nearest first; relevance says which
of them the query was looking for. Nothing here knows of distances, models or databases.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float32, Int64

from onward.errors import EvaluationError
from onward.labels import renumber, translate
from onward.spaces import Embeddings, Ids

Rows = Int64[np.ndarray, "query rank"]
Distances = Float32[np.ndarray, "query rank"]
Hits = Bool[np.ndarray, "query rank"]
Counts = Int64[np.ndarray, " query"]


@dataclass(frozen=True, eq=False)
class Ranking:
    """The gallery items that came back for each query, nearest first.

    Checked once, here. The arrays are read-only.

    Attributes:
        query_ids: one id a query.
        gallery_ids: all gallery items, or only those that came back.
        rows: rows into `gallery_ids`, each at most once a query; -1 where fewer items came back.
        distances: ascending and finite, of some metrics negative; infinite exactly where rows are
            -1, so at the end.
        exclude_self: true if a query's own gallery entry, the one of the same id, was left out.

    Raises:
        EvaluationError: if any of this does not hold; the message names the query.
    """

    query_ids: Ids
    gallery_ids: Ids
    rows: Rows
    distances: Distances
    exclude_self: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "query_ids", tuple(self.query_ids))
        object.__setattr__(self, "gallery_ids", tuple(self.gallery_ids))
        object.__setattr__(self, "rows", _read_only(self.rows, np.int64))
        object.__setattr__(self, "distances", _read_only(self.distances, np.float32))
        _check_once(self.query_ids, "query ids of a ranking")
        _check_once(self.gallery_ids, "gallery ids of a ranking")
        _check_shapes(self)
        _check_ranks(self)

    def __len__(self) -> int:
        return len(self.query_ids)

    def ids_of(self, query_row: int) -> list[str]:
        """Return the ids that came back for one query, nearest first."""
        return [self.gallery_ids[row] for row in self.rows[query_row] if row >= 0]

    def head(self, k: SupportsIndex) -> "Ranking":
        """Return the first k ranks, or all if there are fewer.

        Raises:
            EvaluationError: if k is not a whole number from 1 up.
        """
        ranks = as_count(k, "ranks")
        if ranks < 1:
            raise EvaluationError(f"the first {ranks} ranks hold nothing; ask for at least 1")
        rows, distances = self.rows[:, :ranks], self.distances[:, :ranks]
        return Ranking(self.query_ids, self.gallery_ids, rows, distances, self.exclude_self)

    def to_json(self) -> dict[str, Any]:
        """Return, for each query, the items that came back with their distances."""
        return {"queries": [{"id": item, "items": list(found)} for item, found in self._found()]}

    def __str__(self) -> str:
        return "\n".join(
            f"{item}: " + ", ".join(f"{one['id']} ({one['distance']:.3f})" for one in found)
            for item, found in self._found()
        )

    def _found(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for row, item in enumerate(self.query_ids):
            distances = self.distances[row].tolist()
            found = zip(self.ids_of(row), distances, strict=False)  # the rest is padding
            yield item, [{"id": other, "distance": distance} for other, distance in found]


@dataclass(frozen=True, eq=False)
class Relevance:
    """Which gallery items each query is looking for: those with its label.

    Attributes:
        query_ids: one id a query.
        gallery_ids: every item of the gallery, brought back or not.
        query_labels: class of each query; a negative label means that it is not known: such a
            query looks for nothing.
        gallery_labels: class of each gallery item, in the same numbering; one whose class is not
            known is relevant to no query.
        exclude_self: true if a query's own gallery entry, the one of the same id, does not count:
            neither as a hit nor as something to find.

    Raises:
        EvaluationError: if an id stands twice or ids and labels differ in number.
    """

    query_ids: Ids
    gallery_ids: Ids
    query_labels: Int64[np.ndarray, " query"]
    gallery_labels: Int64[np.ndarray, " gallery"]
    exclude_self: bool

    def __post_init__(self) -> None:
        for whose in ("query", "gallery"):
            ids = tuple(getattr(self, f"{whose}_ids"))
            labels = _read_only(getattr(self, f"{whose}_labels"), np.int64)
            _check_once(ids, f"{whose} ids of a relevance")
            if labels.shape != (len(ids),):
                raise EvaluationError(
                    f"{whose} labels of shape {labels.shape} for {len(ids)} {whose} ids; "
                    "give one label an id"
                )
            object.__setattr__(self, f"{whose}_ids", ids)
            object.__setattr__(self, f"{whose}_labels", labels)

    @classmethod
    def between(
        cls,
        queries: Embeddings,
        gallery: Embeddings,
        *,
        exclude_self: bool,
        same_labels: bool = False,
    ) -> "Relevance":
        """Return the relevance that the labels of queries and gallery make.

        Labels are compared by the names of their classes where both have names, and by number
        where neither has; the labels here are in the gallery's numbering.

        Args:
            queries: with labels.
            gallery: with labels.
            exclude_self: whether a query's own gallery entry is left out.
            same_labels: if only one of the two has class names, the other's numbers mean the same.

        Raises:
            EvaluationError: if either has no labels.
            LabelMismatchError: if only one of the two has class names, and `same_labels` is false.
        """
        if queries.labels is None or gallery.labels is None:
            whose = "queries" if queries.labels is None else "gallery"
            raise EvaluationError(
                f"the embeddings of the {whose} have no labels, and labels make relevance; "
                "embed labelled items, or build Relevance with labels of your own"
            )
        translated = translate(
            queries.class_names,
            gallery.class_names,
            same_labels=same_labels,
            sources=("the queries", "the gallery"),
        )
        wanted = renumber(queries.labels, translated)
        return cls(queries.ids, gallery.ids, wanted, gallery.labels, exclude_self)

    def hits(self, ranking: Ranking) -> Hits:
        """Return where the ranking holds a relevant item; padding is never a hit.

        Raises:
            EvaluationError: if the two disagree on `exclude_self`, the ranking names a query or
                an item that is unknown here, or it holds an own entry that it says it left out.
        """
        if ranking.exclude_self != self.exclude_self:
            raise EvaluationError(
                f"the ranking was made with exclude_self={ranking.exclude_self}, the relevance "
                f"with exclude_self={self.exclude_self}; make both with the same"
            )
        rows = self._translate(ranking)
        if self.exclude_self:
            own = self._own_rows(ranking.query_ids)[:, None]
            complaint = "holds its own gallery entry but says exclude_self=True; leave it out by id"
            _refuse(ranking, (rows == own) & (own >= 0), complaint)
        wanted = self._labels_of(ranking.query_ids)[:, None]
        if not len(self.gallery_ids):
            return np.zeros(rows.shape, dtype=np.bool_)
        hits: Hits = (self.gallery_labels[rows] == wanted) & (wanted >= 0) & (rows >= 0)
        return hits

    def counts(self, query_ids: Ids) -> Counts:
        """Return how many gallery items are relevant to each query.

        With `exclude_self` a query's own entry is not counted.

        Raises:
            EvaluationError: if a query is unknown here.
        """
        wanted = self._labels_of(query_ids)
        first = np.searchsorted(self._sorted_labels, wanted, side="left")
        counts: Counts = np.searchsorted(self._sorted_labels, wanted, side="right") - first
        if self.exclude_self:
            own = self._own_rows(query_ids)
            present = np.flatnonzero(own >= 0)
            counts[present] -= self.gallery_labels[own[present]] == wanted[present]
        counts[wanted < 0] = 0
        return counts

    @property
    def unknown(self) -> int:
        """How many queries look for nothing because their class is not known."""
        return int((self.query_labels < 0).sum())

    @property
    def longest(self) -> int:
        """How many items a ranking of the whole gallery holds for the query that has most.

        One fewer than there are where every query's own entry is left out of it.
        """
        own = self.exclude_self and all(item in self._gallery_row for item in self.query_ids)
        return max(len(self.gallery_ids) - own, 0)

    @cached_property
    def _sorted_labels(self) -> Int64[np.ndarray, " gallery"]:
        return np.sort(self.gallery_labels)

    @cached_property
    def _query_row(self) -> Mapping[str, int]:
        return {item: row for row, item in enumerate(self.query_ids)}

    @cached_property
    def _gallery_row(self) -> Mapping[str, int]:
        return {item: row for row, item in enumerate(self.gallery_ids)}

    def _labels_of(self, query_ids: Ids) -> Counts:
        labels: Counts = self.query_labels[_look_up(query_ids, self._query_row, "query")]
        return labels

    def _own_rows(self, ids: Ids) -> Counts:
        return np.array([self._gallery_row.get(item, -1) for item in ids], dtype=np.int64)

    def _translate(self, ranking: Ranking) -> Rows:
        """Return the ranking's rows as rows into `gallery_ids` of this relevance."""
        if ranking.gallery_ids is self.gallery_ids or ranking.gallery_ids == self.gallery_ids:
            return ranking.rows
        row_here = _look_up(ranking.gallery_ids, self._gallery_row, "gallery item")
        rows: Rows = np.append(row_here, -1)[ranking.rows]  # padding finds the -1 at the end
        return rows


def as_count(k: SupportsIndex, of: str) -> int:
    """Return k as a number of things.

    Raises:
        EvaluationError: if it is not a whole number, of Python or of NumPy; 2.0 and True are not.
    """
    if not isinstance(k, bool | np.bool_):
        try:
            return index(k)
        except TypeError:
            pass
    raise EvaluationError(
        f"k is {k!r}, which is not a whole number; give the number of {of} as one, such as 10"
    )


def _check_once(ids: Ids, what: str) -> None:
    """Raise an EvaluationError that names the id and its rows if one stands twice."""
    if len(set(ids)) != len(ids):
        twice = next(item for item, times in Counter(ids).items() if times > 1)
        first, second = [row for row, item in enumerate(ids) if item == twice][:2]
        raise EvaluationError(
            f"{twice!r} stands in rows {first} and {second} of the {what}; an id may stand once"
        )


def _look_up(ids: Ids, row_of: Mapping[str, int], what: str) -> Counts:
    rows = np.array([row_of.get(item, -1) for item in ids], dtype=np.int64)
    if (rows < 0).any():
        missing = ids[int(np.argmax(rows < 0))]
        raise EvaluationError(
            f"the relevance knows no {what} {missing!r} ({int((rows < 0).sum())} of {len(ids)} "
            "are unknown to it); make ranking and relevance from the same queries and gallery"
        )
    return rows


def _read_only(array: np.ndarray, dtype: type) -> np.ndarray:
    view: np.ndarray = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


def _check_shapes(ranking: Ranking) -> None:
    rows, distances = ranking.rows.shape, ranking.distances.shape
    if len(rows) != 2 or rows != distances or rows[0] != len(ranking.query_ids):
        raise EvaluationError(
            f"rows of shape {rows} and distances of shape {distances} for "
            f"{len(ranking.query_ids)} queries; give both one line a query, one column a rank"
        )


def _check_ranks(ranking: Ranking) -> None:
    rows, distances, size = ranking.rows, ranking.distances, len(ranking.gallery_ids)
    outside = (rows < -1) | (rows >= size)
    _refuse(ranking, outside, f"points outside its {size} gallery ids; -1 is padding")
    ordered = np.sort(rows, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    _refuse(ranking, twice, "brings an item back twice; an item may come back once")
    unknown = ~(distances > -np.inf)  # or NaN
    _refuse(ranking, unknown, "has a distance that is NaN or -infinity; give finite distances")
    descending = distances[:, 1:] < distances[:, :-1]
    _refuse(ranking, descending, "has descending distances; rank the nearest first")
    padded = np.isinf(distances) != (rows < 0)
    _refuse(ranking, padded, "pads otherwise than with row -1 and an infinite distance together")


def _refuse(ranking: Ranking, bad: Hits, complaint: str) -> None:
    if bad.any():
        query = ranking.query_ids[int(np.argmax(np.any(bad, axis=1)))]
        raise EvaluationError(f"the ranking of query {query!r} {complaint}")
