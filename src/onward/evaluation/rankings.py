"""Rankings: which gallery items came back for each query, nearest first.

Nothing here knows what a query was looking for (`relevance` does), nor of models or
databases.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import index
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from onward.arrays import as_numbers
from onward.errors import EvaluationError
from onward.spaces import Ids, places

Rows = Int64[np.ndarray, "query rank"]
Distances = Float32[np.ndarray, "query rank"]
Hits = Bool[np.ndarray, "query rank"]

NEIGHBOURS = 10
"""So many neighbours, which tell how near a gallery comes to a full backfill, need no labels."""


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
        check_once(self.query_ids, "query ids of a ranking")
        check_once(self.gallery_ids, "gallery ids of a ranking")
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


def count_neighbours(items: int) -> int:
    """Return how many neighbours are compared among so many items: 10, or a tenth if fewer."""
    return max(1, min(NEIGHBOURS, items // 10))


def agreement(found: Ranking, wanted: Ranking) -> Float64[np.ndarray, " query"]:
    """Return, of each query, the share of the wanted items that were found; ranks do not matter.

    It needs no labels. It says how near a gallery comes to the new model, not whether that model
    is any good: only labels can.

    Args:
        found: the nearest items in the gallery that is judged; it may lack items.
        wanted: as many in a full backfill, for the same queries in the same order.

    Returns:
        Fractions in [0, 1]; NaN where nothing is wanted.

    Raises:
        EvaluationError: if the queries differ, or `exclude_self` does.
    """
    if found.query_ids != wanted.query_ids or found.exclude_self != wanted.exclude_self:
        raise EvaluationError(
            f"agreement compares rankings of the same queries: {len(found)} with "
            f"exclude_self={found.exclude_self} and {len(wanted)} with "
            f"exclude_self={wanted.exclude_self} were given, or their ids differ",
            "search both galleries with the same queries",
        )
    rows_here = np.append(places(found.gallery_ids, wanted.gallery_ids), -1)
    rows = rows_here[found.rows]  # padding finds the -1 at the end
    first = np.arange(len(wanted), dtype=np.int64)[:, None] * len(wanted.gallery_ids)
    have = np.where(rows >= 0, first + rows, -1)
    want = np.where(wanted.rows >= 0, first + wanted.rows, -2)
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing is wanted
        shares: np.ndarray = np.isin(want, have).sum(axis=1) / (wanted.rows >= 0).sum(axis=1)
    return shares


def as_count(k: SupportsIndex, of: str) -> int:
    """Return k as a number of things.

    Raises:
        EvaluationError: if it is not a whole number from 1 up, of Python or of NumPy; 2.0 and True
            are not.
    """
    count = 0
    if not isinstance(k, bool | np.bool_):
        with suppress(TypeError):
            count = index(k)
    if count < 1:
        raise EvaluationError(
            f"k is {k!r}, which is not a whole number from 1 up",
            f"give the number of {of} as one, such as 10",
        )
    return count


def check_once(ids: Ids, what: str) -> None:
    """Raise an EvaluationError that names the id and its rows if one stands twice."""
    if len(set(ids)) != len(ids):
        twice = next(item for item, times in Counter(ids).items() if times > 1)
        first, second = [row for row, item in enumerate(ids) if item == twice][:2]
        raise EvaluationError(
            f"{twice!r} stands in rows {first} and {second} of the {what}", "an id may stand once"
        )


def _read_only(array: np.ndarray, dtype: type) -> np.ndarray:
    what = "rows" if dtype is np.int64 else "distances"
    wrong, do = f"the {what} of a ranking are not numbers", f"give them as {dtype.__name__}"
    view: np.ndarray = as_numbers(array, dtype, EvaluationError, wrong, do).view()
    view.flags.writeable = False
    return view


def _check_shapes(ranking: Ranking) -> None:
    rows, distances = ranking.rows.shape, ranking.distances.shape
    if len(rows) != 2 or rows != distances or rows[0] != len(ranking.query_ids):
        raise EvaluationError(
            f"rows of shape {rows} and distances of shape {distances} for "
            f"{len(ranking.query_ids)} queries",
            "give both one line a query, one column a rank",
        )


def _check_ranks(ranking: Ranking) -> None:
    rows, distances, size = ranking.rows, ranking.distances, len(ranking.gallery_ids)
    outside = (rows < -1) | (rows >= size)
    refuse(ranking, outside, f"points outside its {size} gallery ids; -1 is padding")
    ordered = np.sort(rows, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    refuse(ranking, twice, "brings an item back twice; an item may come back once")
    unknown = ~(distances > -np.inf)  # or NaN
    refuse(ranking, unknown, "has a distance that is NaN or -infinity; give finite distances")
    descending = distances[:, 1:] < distances[:, :-1]
    refuse(ranking, descending, "has descending distances; rank the nearest first")
    padded = np.isinf(distances) != (rows < 0)
    refuse(ranking, padded, "pads otherwise than with row -1 and an infinite distance together")


def refuse(ranking: Ranking, bad: Hits, complaint: str) -> None:
    """Raise an EvaluationError that names the first query with a bad rank, if there is one."""
    if bad.any():
        query = ranking.query_ids[int(np.argmax(np.any(bad, axis=1)))]
        raise EvaluationError(f"the ranking of query {query!r} {complaint}")
