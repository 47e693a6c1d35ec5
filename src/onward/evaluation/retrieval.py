"""Rankings, and the exact nearest neighbours that make them, in bounded memory.

A ranking says which gallery items came back for each query, nearest first. Queries are taken in
blocks and the gallery in tiles, so that no matrix of all queries by all gallery items ever stands
in memory. The result is exact: every distance is the float64 distance, computed from the
differences of the two vectors (from their products for the metric "ip"), rounded to float32. It
does not depend on block size, number of threads or the order of the gallery, and items at the same
distance come in the order of their ids. A fused pair of spaces is ranked as one space is: its
distance is made of these two. Nothing here knows of labels or of what a query is looking for:
`relevance` does.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt64

from onward.arrays import as_numbers
from onward.errors import EvaluationError
from onward.evaluation.distances import (
    PAIR_NUMBERS,
    SLICE_ITEMS,
    doubles,
    exact_distances,
    from_sortable_bits,
    paired_distances,
    sortable_bits,
)
from onward.fusion import FusedEmbeddings, Searchable, check_comparable, joined
from onward.spaces import Embeddings, Ids, places

Rows = Int64[np.ndarray, "query rank"]
Distances = Float32[np.ndarray, "query rank"]
Hits = Bool[np.ndarray, "query rank"]

Nearest = tuple[Ids, Float32[np.ndarray, " rank"]]
"""Items that came back for a query, nearest first, and their distances."""

NEIGHBOURS = 10
"""So many neighbours, which tell how near a gallery comes to a full backfill, need no labels."""

Keys = UInt64[np.ndarray, "query rank"]

LEFT_OUT = np.uint64(2**64 - 1)
"""The key of a query's own entry: greater than that of any distance."""

POSITION_BITS = np.uint64(32)
BLOCK_QUERIES, TILE_ITEMS = 256, 8192
"""At most. Large matrix products wait less for each other's threads on a busy machine."""

BYTES_A_KEY = 48
"""Keys, their sorted copy, rows, distances and the checks of a Ranking, for one item of a row."""
BYTES_A_PAIR = 32
"""Product, distance and key of one pair in a tile."""


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

    def nearest(self, query_row: int) -> Nearest:
        """Return the ids that came back for one query, nearest first, and their distances."""
        ids = tuple(self.ids_of(query_row))
        return ids, self.distances[query_row, : len(ids)]

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


def together(query_ids: Ids, found: Mapping[int, Nearest], exclude_self: bool) -> Ranking:
    """Return one ranking of what came back for each query, by its row."""
    gallery_ids = tuple(sorted({item for ids, _ in found.values() for item in ids}))
    row_of = {item: row for row, item in enumerate(gallery_ids)}
    width = max((len(ids) for ids, _ in found.values()), default=0)
    rows = np.full((len(query_ids), width), -1, np.int64)
    distances = np.full((len(query_ids), width), np.inf, np.float32)
    for query, (ids, nearest) in found.items():
        rows[query, : len(ids)] = [row_of[item] for item in ids]
        distances[query, : len(ids)] = nearest
    return Ranking(query_ids, gallery_ids, rows, distances, exclude_self)


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
    refuse(ranking, padded, "must pad with row -1 and an infinite distance together")


def refuse(ranking: Ranking, bad: Hits, complaint: str) -> None:
    """Raise an EvaluationError that names the first query with a bad rank, if there is one."""
    if bad.any():
        query = ranking.query_ids[int(np.argmax(np.any(bad, axis=1)))]
        raise EvaluationError(f"the ranking of query {query!r} {complaint}")


def rank(
    queries: Searchable,
    gallery: Searchable,
    *,
    exclude_self: bool,
    k: SupportsIndex | None = None,
    block_bytes: int = 64 << 20,
) -> Iterator[Ranking]:
    """Rank the gallery for every query, block of queries by block of queries.

    Args:
        queries: what is asked.
        gallery: what is searched, in the same space or fused pair.
        exclude_self: leave out a query's own gallery entry, the one of the same id.
        k: number of nearest items; all of them if None or more than there are.
        block_bytes: about how much memory to work in. A block is one query at least, and one
            query's ranks must fit. It changes the speed, never the result.

    Returns:
        Rankings of consecutive queries, each as wide as the others. A row is padded if the own
        entry of that query was left out and those of other queries were not there.

    Raises:
        SpaceMismatchError: if the two are in different spaces.
        EvaluationError: if k is not a whole number from 1 up.
    """
    check_comparable(queries, gallery)
    nearest = None if k is None else as_count(k, "nearest items")
    return _blocks(queries, Searched.of(gallery), exclude_self, nearest, block_bytes)


def search(
    queries: Searchable, gallery: Searchable, k: SupportsIndex, *, exclude_self: bool
) -> Ranking:
    """Return the k nearest gallery items of every query, or all if there are fewer.

    Arguments and errors are those of `rank`; the result is one ranking that is held whole.
    """
    blocks = list(rank(queries, gallery, exclude_self=exclude_self, k=as_count(k, "nearest items")))
    rows = [block.rows for block in blocks] or [np.empty((0, 0), dtype=np.int64)]
    distances = [block.distances for block in blocks] or [np.empty((0, 0), dtype=np.float32)]
    return Ranking(
        queries.ids, gallery.ids, np.concatenate(rows), np.concatenate(distances), exclude_self
    )


def search_parts(
    queries: Searchable, parts: Iterable[Searchable], k: SupportsIndex, *, exclude_self: bool
) -> Ranking:
    """Return the k nearest items of a gallery that comes in parts, one of which is held at a time.

    Args:
        queries: what is asked.
        parts: embeddings of different items, all in the space or the fused pair of the queries. An
            item that comes again, because a pair has changed meanwhile, counts as it came first.
        k: number of nearest items; all of them if there are fewer.
        exclude_self: leave out a query's own gallery entry, the one of the same id.

    Returns:
        What `search` gives for the whole gallery, but its `gallery_ids` are those that came back.

    Raises:
        SpaceMismatchError: if a part is in another space than the queries.
        EvaluationError: if k is not a whole number from 1 up.
    """
    most = as_count(k, "nearest items")
    held = queries.select([])
    for part in parts:
        check_comparable(queries, part)
        again = frozenset(held.ids).intersection(part.ids)
        fresh = part.select([item not in again for item in part.ids]) if again else part
        whole = joined(held, fresh)
        rows = search(queries, whole, most, exclude_self=exclude_self).rows
        held = whole.select(np.unique(rows[rows >= 0]))  # the others are never nearest
    return search(queries, held, most, exclude_self=exclude_self)


def search_among(
    queries: Searchable,
    gallery: Searchable,
    rows: Sequence[Int64[np.ndarray, " _"]],
    k: int,
    *,
    exclude_self: bool,
) -> list[Nearest]:
    """Return the k nearest of each query among items that are others for every query.

    Args:
        queries: what is asked.
        gallery: what is searched, in the same space or fused pair.
        rows: of each query, with which items of the gallery it is compared, each once.
        k: number of nearest items; all of them if there are fewer.
        exclude_self: leave out a query's own gallery entry, the one of the same id.

    Returns:
        Of each query, what `search` finds where the gallery holds these items alone.

    Raises:
        SpaceMismatchError: if the two are in different spaces.
    """
    check_comparable(queries, gallery)
    asked = np.repeat(np.arange(len(queries)), [len(some) for some in rows])
    items = np.concatenate([np.empty(0, np.int64), *rows])
    if exclude_self:
        others = items != places(queries.ids, gallery.ids)[asked]
        asked, items = asked[others], items[others]
    distances, step = np.empty(len(items), np.float32), max(1, PAIR_NUMBERS // numbers_of(queries))
    for start in range(0, len(items), step):
        part = slice(start, start + step)
        distances[part] = _beside(queries, gallery, asked[part], items[part])
    position = np.empty(len(gallery), np.int64)
    position[_order(gallery.ids)] = np.arange(len(gallery))
    order = np.lexsort((position[items], distances, asked))
    found = []
    for start, stop in pairwise(np.searchsorted(asked, np.arange(len(queries) + 1)).tolist()):
        nearest = order[start : min(stop, start + k)]
        found.append((tuple(gallery.ids[row] for row in items[nearest]), distances[nearest]))
    return found


def _beside(
    queries: Searchable,
    gallery: Searchable,
    asked: Int64[np.ndarray, " pair"],
    items: Int64[np.ndarray, " pair"],
) -> Float32[np.ndarray, " pair"]:
    """Return the distances of pairs of a query and an item, given by their rows."""
    if isinstance(gallery, FusedEmbeddings):
        assert isinstance(queries, FusedEmbeddings)  # noqa: S101  # their spaces were compared
        old = queries.old_rows[asked], gallery.old_rows[items]
        new = queries.new_rows[asked], gallery.new_rows[items]
        of_old = _beside_or_none(queries.old, gallery.old, *old)
        of_new = _beside_or_none(queries.new, gallery.new, *new)
        fused: np.ndarray = gallery.space.combine(of_old[None], of_new[None])[0]
        return fused
    assert isinstance(queries, Embeddings)  # noqa: S101  # their spaces were compared
    return _beside_or_none(queries, gallery, asked, items)


def _beside_or_none(
    queries: Embeddings,
    gallery: Embeddings,
    asked: Int64[np.ndarray, " pair"],
    items: Int64[np.ndarray, " pair"],
) -> Float32[np.ndarray, " pair"]:
    """Return the distances of pairs in one space, NaN of those whose item has the row -1."""
    there, metric = items >= 0, gallery.space.metric
    one = doubles(queries.vectors[asked[there]], metric)
    other = doubles(gallery.vectors[items[there]], metric)
    distances = np.full(len(items), np.nan, np.float32)
    distances[there] = paired_distances(one, other, metric)
    return distances


def _order(ids: Ids) -> list[int]:
    return sorted(range(len(ids)), key=ids.__getitem__)


@dataclass(frozen=True, eq=False)
class Searched:
    """A gallery, and where each of its items stands in the order of ids."""

    gallery: Searchable
    order: Int64[np.ndarray, " item"]
    position_of: dict[str, int]

    @classmethod
    def of(cls, gallery: Searchable) -> "Searched":
        """Return a gallery with its order."""
        order = _order(gallery.ids)
        position_of = {gallery.ids[row]: position for position, row in enumerate(order)}
        return cls(gallery, np.array(order, dtype=np.int64), position_of)

    def own(self, ids: Ids, exclude_self: bool) -> Int64[np.ndarray, " query"]:
        """Return the positions of queries' own entries; -1 where there is none to leave out."""
        position_of = self.position_of if exclude_self else {}
        return np.array([position_of.get(item, -1) for item in ids], dtype=np.int64)

    def keys(
        self, queries: Searchable, own: Int64[np.ndarray, " query"], tile: int
    ) -> Iterator[Keys]:
        """Give the keys of all pairs, tile by tile of the gallery in the order of ids.

        A key is the distance's `sortable_bits`, then the position in the order of ids: keys sort by
        distance and then by id. That of an own entry is `LEFT_OUT`.
        """
        size, measure = len(self.order), _measure(queries, self.gallery)
        for start in range(0, size, tile):
            stop = min(start + tile, size)
            keys = sortable_bits(measure(self.order[start:stop])).astype(np.uint64)
            keys <<= POSITION_BITS
            keys |= np.arange(start, stop, dtype=np.uint64)
            inside = np.flatnonzero((own >= start) & (own < stop))
            keys[inside, own[inside] - start] = LEFT_OUT
            yield keys


def _measure(
    queries: Searchable, gallery: Searchable
) -> Callable[[Int64[np.ndarray, " item"]], Float32[np.ndarray, "query item"]]:
    """Return what gives the distance of each query from the items of some rows of the gallery."""
    if isinstance(gallery, FusedEmbeddings):
        assert isinstance(queries, FusedEmbeddings)  # noqa: S101  # their spaces were compared
        of_old = _measure(queries.old.align(queries.ids), gallery.old)
        of_new = _measure(queries.new, gallery.new)

        def fused(rows: Int64[np.ndarray, " item"]) -> Float32[np.ndarray, "query item"]:
            old = _of_some(of_old, gallery.old_rows[rows], len(queries))
            new = _of_some(of_new, gallery.new_rows[rows], len(queries))
            return gallery.space.combine(old, new)

        return fused
    assert isinstance(queries, Embeddings)  # noqa: S101  # their spaces were compared
    metric, vectors = gallery.space.metric, gallery.vectors
    asked = doubles(queries.vectors, metric)
    return lambda rows: exact_distances(asked, doubles(vectors[rows], metric), metric)


def _of_some(
    measure: Callable[[Int64[np.ndarray, " item"]], Float32[np.ndarray, "query item"]],
    rows: Int64[np.ndarray, " item"],
    queries: int,
) -> Float32[np.ndarray, "query item"]:
    """Return distances from items, NaN from those that lack a vector, whose row is -1."""
    there = rows >= 0
    if there.all():
        return measure(rows)
    distances = np.full((queries, len(rows)), np.nan, np.float32)
    distances[:, there] = measure(rows[there])
    return distances


def block_sizes(items: int, dim: int, block_bytes: int, *, kept: int) -> tuple[int, int]:
    """Return how many queries, and how many gallery items, to take at a time.

    Args:
        items: how many the gallery has.
        dim: of the vectors.
        block_bytes: about how much memory to work in.
        kept: how many bytes a query takes beside its vector and the pairs of a tile.
    """
    tile = max(1, min(items, TILE_ITEMS, block_bytes // (64 * dim)))
    a_query = kept + BYTES_A_PAIR * tile + 48 * min(tile, SLICE_ITEMS) + 16 * dim
    return max(1, min(BLOCK_QUERIES, block_bytes // a_query)), tile


def _blocks(
    queries: Searchable, searched: Searched, exclude_self: bool, k: int | None, block_bytes: int
) -> Iterator[Ranking]:
    size = len(searched.order)
    own = searched.own(queries.ids, exclude_self)
    there = size - 1 if len(own) and (own >= 0).all() else size
    width = there if k is None else min(k, there)
    kept = BYTES_A_KEY * min(size, 2 * width + TILE_ITEMS)
    step, tile = block_sizes(size, numbers_of(queries), block_bytes, kept=kept)
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        asked = queries.select(np.arange(len(queries))[part])
        nearest = _nearest(searched.keys(asked, own[part], tile), len(asked), width)
        rows, distances = _decode(nearest, searched.order)
        yield Ranking(asked.ids, searched.gallery.ids, rows, distances, exclude_self)


def numbers_of(queries: Searchable) -> int:
    """Return how many numbers a query is; for a fused pair so that its larger pairs count, too."""
    if isinstance(queries, FusedEmbeddings):
        return 2 * (queries.old.space.dim + queries.new.space.dim)
    return queries.space.dim


def _nearest(tiles: Iterator[Keys], queries: int, width: int) -> Keys:
    """Return the smallest keys of each query, sorted, holding about twice as many at a time."""
    kept = [np.empty((queries, 0), dtype=np.uint64)]
    for keys in tiles:
        kept.append(keys)
        if width and sum(part.shape[1] for part in kept) > 2 * width:
            together = np.concatenate(kept, axis=1)
            together.partition(width - 1, axis=1)
            kept = [together[:, :width].copy()]
    nearest = np.concatenate(kept, axis=1)
    kept.clear()
    nearest.sort(axis=1)
    return nearest[:, :width]


def _decode(
    keys: Keys, order: Int64[np.ndarray, " item"]
) -> tuple[Int64[np.ndarray, "query rank"], Float32[np.ndarray, "query rank"]]:
    left_out = keys == LEFT_OUT
    positions = (keys & np.uint64(2**32 - 1)).astype(np.int64)
    positions[left_out] = 0
    rows = order[positions]
    rows[left_out] = -1
    distances = from_sortable_bits((keys >> POSITION_BITS).astype(np.uint32))
    distances[left_out] = np.inf
    return rows, distances
