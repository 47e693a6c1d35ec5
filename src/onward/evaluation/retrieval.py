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

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from operator import index
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt32, UInt64

from onward.arrays import as_numbers
from onward.errors import EvaluationError
from onward.fusion import FusedEmbeddings, Searchable, check_comparable, joined
from onward.spaces import Embeddings, Ids, Metric, Vectors, places

Rows = Int64[np.ndarray, "query rank"]
Distances = Float32[np.ndarray, "query rank"]
Hits = Bool[np.ndarray, "query rank"]

Nearest = tuple[Ids, Float32[np.ndarray, " rank"]]
"""Items that came back for a query, nearest first, and their distances."""

NEIGHBOURS = 10
"""So many neighbours, which tell how near a gallery comes to a full backfill, need no labels."""

Doubles = Float64[np.ndarray, "item dim"]
Keys = UInt64[np.ndarray, "query rank"]

LEFT_OUT = np.uint64(2**64 - 1)
"""The key of a query's own entry: greater than that of any distance."""

POSITION_BITS = np.uint64(32)
SIGN_BIT = np.uint32(1 << 31)
LARGEST = np.finfo(np.float32).max
BLOCK_QUERIES, TILE_ITEMS = 256, 8192
"""At most. Large matrix products wait less for each other's threads on a busy machine."""

SLICE_ITEMS = 1024
"""What is done to each pair is done by slices that stay in the processor's cache."""

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


@dataclass(frozen=True, eq=False)
class Searched:
    """A gallery, and where each of its items stands in the order of ids."""

    gallery: Searchable
    order: Int64[np.ndarray, " item"]
    position_of: dict[str, int]

    @classmethod
    def of(cls, gallery: Searchable) -> "Searched":
        """Return a gallery with its order."""
        order = sorted(range(len(gallery)), key=gallery.ids.__getitem__)
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


def sortable_bits(
    distances: Float32[np.ndarray, "*shape item"],
) -> UInt32[np.ndarray, "*shape item"]:
    """Return numbers that sort as distances do, negative ones too; -0.0 has that of 0.0.

    They are the distances' bits: with the sign bit set, or all flipped of a negative distance.
    """
    bits = distances.view(np.uint32)
    found: np.ndarray = bits | SIGN_BIT
    if distances.min(initial=0) < 0:
        found = np.where(distances < 0, ~bits, found)
    return found


def from_sortable_bits(
    bits: UInt32[np.ndarray, "*shape item"],
) -> Float32[np.ndarray, "*shape item"]:
    """Return the distances that `sortable_bits` made these numbers of."""
    found: np.ndarray = bits ^ SIGN_BIT
    if bits.min(initial=SIGN_BIT) < SIGN_BIT:
        found = np.where(bits < SIGN_BIT, ~bits, found)
    return found.view(np.float32)


def exact_distances(
    queries: Doubles, gallery: Float64[np.ndarray, "other dim"], metric: Metric
) -> Float32[np.ndarray, "item other"]:
    """Return the float64 distance of each pair, rounded to float32: finite, and never -0.0.

    It is computed from the pair's differences; that of ip from its products, whose exact sum is
    rounded. A matrix product gives it within a known error. Where both ends of that interval round
    to the same float32, that is the answer; the few other pairs, among them all at distance 0, are
    computed one by one. So the order in which a matrix product sums, which changes with shapes and
    threads, never shows.

    Args:
        queries: vectors as `doubles` gives them: of length 1 for the cosine.
        gallery: vectors as `doubles` gives them.
        metric: what to make of each pair: the root of the squared distance for l2, half of it for
            the cosine, minus the inner product for ip.
    """
    products = (-queries if metric == "ip" else -2 * queries) @ gallery.T
    distances = np.empty(products.shape, dtype=np.float32)
    for start in range(0, len(gallery), SLICE_ITEMS):
        part = slice(start, start + SLICE_ITEMS)
        distances[:, part] = _round(queries, gallery[part], products[:, part], metric)
    return distances


def _round(
    queries: Doubles,
    gallery: Float64[np.ndarray, "other dim"],
    products: Float64[np.ndarray, "item other"],
    metric: Metric,
) -> Float32[np.ndarray, "item other"]:
    """Return the distances of pairs whose matrix product, times -2 or for ip -1, is given."""
    query_squares, gallery_squares = (queries**2).sum(axis=1), (gallery**2).sum(axis=1)
    if metric == "ip":
        errors = np.sqrt(query_squares)[:, None] * np.sqrt(gallery_squares)
    else:
        errors = query_squares[:, None] + gallery_squares
        products = products + errors
    errors *= (2 * queries.shape[1] + 16) * np.finfo(
        np.float64
    ).eps  # more than rounding can add up to
    high = _finish(products + errors, metric)
    products -= errors
    if metric != "ip":
        np.maximum(products, 0, out=products)
    low = _finish(products, metric)
    rows, columns = np.nonzero(low != high)
    step = max(1, (1 << 17) // queries.shape[1])
    for start in range(0, len(rows), step):
        row, column = rows[start : start + step], columns[start : start + step]
        high[row, column] = paired_distances(queries[row], gallery[column], metric)
    return high


def paired_distances(
    queries: Doubles, others: Doubles, metric: Metric
) -> Float32[np.ndarray, " item"]:
    """Return the distance of each row from the row beside it, as `exact_distances` has it."""
    if metric == "ip":
        values = -_inner_products(queries, others)
    else:
        differences = queries - others
        differences *= differences
        values = differences.sum(axis=1)
    found: np.ndarray = _finish(values, metric)
    return found


def _inner_products(one: Doubles, other: Doubles) -> Float64[np.ndarray, " item"]:
    """Return the inner product of each pair of float32 vectors: the exact one, rounded once.

    The product of two float32 numbers is exact in float64. The products are added in pairs, with
    the error of each sum; where every error is 0 the sum is exact, else `math.fsum` finds it.

    References:
        Knuth, The Art of Computer Programming, volume 2, section 4.2.2: the error of a sum.
    """
    terms = one * other
    sums, inexact = terms, np.zeros(len(terms), dtype=np.bool_)
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        left, right, rest = sums[:, :half], sums[:, half : 2 * half], sums[:, 2 * half :]
        added = left + right
        of_right = added - left
        inexact |= ((left - (added - of_right)) + (right - of_right)).any(axis=1)
        sums = np.concatenate([added, rest], axis=1)
    found: np.ndarray = sums[:, 0].copy()
    for row in np.flatnonzero(inexact):
        found[row] = math.fsum(terms[row].tolist())
    return found


def _finish(values: np.ndarray, metric: Metric) -> np.ndarray:
    """Return distances from squared distances, or of ip from themselves.

    They are finite, monotone, rounded to float32, and never -0.0.
    """
    if metric == "ip":
        values = np.maximum(values, -LARGEST)
    elif metric == "cosine":  # of unit vectors: 1 - u.v = |u - v|^2 / 2
        values = values / 2
        values[values < 1e-30] = 0  # the same direction, as far as float64 can tell
    else:
        values = np.sqrt(values)
    finished: np.ndarray = np.minimum(values, LARGEST, out=values).astype(np.float32)
    if metric == "ip":
        finished += np.float32(0)  # -0.0 becomes 0.0
    return finished


def doubles(vectors: Vectors, metric: Metric) -> Doubles:
    """Return vectors as `exact_distances` wants them: in float64, of length 1 for the cosine."""
    ready: Doubles = vectors.astype(np.float64)
    if metric == "cosine":
        ready /= np.abs(ready).max(axis=1, keepdims=True)
        ready /= np.sqrt((ready**2).sum(axis=1, keepdims=True))
    return ready
