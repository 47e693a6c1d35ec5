"""Exact nearest neighbours, in bounded memory.

Queries are taken in blocks and the gallery in tiles, so that no matrix of all queries by all
gallery items ever stands in memory. The result is exact: every distance is the float64 distance,
computed from the differences of the two vectors, rounded to float32. It does not depend on block
size, number of threads or the order of the gallery, and items at the same distance come in the
order of their ids. Nothing here knows of labels or of what a query is looking for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt64

from onward.errors import EvaluationError
from onward.rankings import Ranking
from onward.spaces import Embeddings, Metric, Vectors, check_same_space

Doubles = Float64[np.ndarray, "item dim"]
Keys = UInt64[np.ndarray, "query rank"]

LEFT_OUT = np.uint64(2**64 - 1)
"""The key of a query's own entry: greater than that of any distance."""

POSITION_BITS = np.uint64(32)
BLOCK_QUERIES, TILE_ITEMS = 256, 8192
"""At most. Large matrix products wait less for each other's threads on a busy machine."""

SLICE_ITEMS = 1024
"""What is done to each pair is done by slices that stay in the processor's cache."""

BYTES_A_KEY = 48
"""Keys, their sorted copy, rows, distances and the checks of a Ranking, for one item of a row."""
BYTES_A_PAIR = 32
"""Product, distance and key of one pair in a tile."""


def rank(
    queries: Embeddings,
    gallery: Embeddings,
    *,
    exclude_self: bool,
    k: int | None = None,
    block_bytes: int = 64 << 20,
) -> Iterator[Ranking]:
    """Rank the gallery for every query, block of queries by block of queries.

    Args:
        queries: what is asked.
        gallery: what is searched, in the same space.
        exclude_self: leave out a query's own gallery entry, the one of the same id.
        k: number of nearest items; all of them if None or more than there are.
        block_bytes: about how much memory to work in. A block is one query at least, and one
            query's ranks must fit. It changes the speed, never the result.

    Returns:
        Rankings of consecutive queries, each as wide as the others. A row is padded if the own
        entry of that query was left out and those of other queries were not there.

    Raises:
        SpaceMismatchError: if the two are in different spaces.
        EvaluationError: if k is less than 1.
    """
    check_same_space(queries.space, gallery.space)
    if k is not None and k < 1:
        raise EvaluationError(f"the nearest {k} items were asked for; ask for at least 1")
    return _blocks(queries, _Searched.of(gallery), exclude_self, k, block_bytes)


def search(queries: Embeddings, gallery: Embeddings, k: int, *, exclude_self: bool) -> Ranking:
    """Return the k nearest gallery items of every query, or all if there are fewer.

    Arguments and errors are those of `rank`; the result is one ranking that is held whole.
    """
    blocks = list(rank(queries, gallery, exclude_self=exclude_self, k=k))
    rows = [block.rows for block in blocks] or [np.empty((0, 0), dtype=np.int64)]
    distances = [block.distances for block in blocks] or [np.empty((0, 0), dtype=np.float32)]
    return Ranking(
        queries.ids, gallery.ids, np.concatenate(rows), np.concatenate(distances), exclude_self
    )


@dataclass(frozen=True, eq=False)
class _Searched:
    """A gallery, and where each of its items stands in the order of ids."""

    gallery: Embeddings
    order: Int64[np.ndarray, " item"]
    position_of: dict[str, int]

    @classmethod
    def of(cls, gallery: Embeddings) -> "_Searched":
        order = sorted(range(len(gallery)), key=gallery.ids.__getitem__)
        position_of = {gallery.ids[row]: position for position, row in enumerate(order)}
        return cls(gallery, np.array(order, dtype=np.int64), position_of)

    def tile(self, start: int, stop: int) -> Doubles:
        rows = self.order[start:stop]
        return doubles(self.gallery.vectors[rows], self.gallery.space.metric)


def _blocks(
    queries: Embeddings, searched: _Searched, exclude_self: bool, k: int | None, block_bytes: int
) -> Iterator[Ranking]:
    size, dim = len(searched.order), queries.space.dim
    own = np.array([searched.position_of.get(item, -1) for item in queries.ids], dtype=np.int64)
    if not exclude_self:
        own[:] = -1
    there = size - 1 if len(own) and (own >= 0).all() else size
    width = there if k is None else min(k, there)
    tile = max(1, min(size, TILE_ITEMS, block_bytes // (64 * dim)))
    a_query = BYTES_A_KEY * min(size, 2 * width + tile) + BYTES_A_PAIR * tile + 16 * dim
    a_query += 48 * min(tile, SLICE_ITEMS)
    step = max(1, min(BLOCK_QUERIES, block_bytes // a_query))
    for start in range(0, len(queries), step):
        stop = min(start + step, len(queries))
        vectors = doubles(queries.vectors[start:stop], queries.space.metric)
        tiles = _tiles(vectors, searched, own[start:stop], tile)
        nearest = _nearest(tiles, len(vectors), width)
        rows, distances = _decode(nearest, searched.order)
        yield Ranking(queries.ids[start:stop], searched.gallery.ids, rows, distances, exclude_self)


def _tiles(
    queries: Doubles, searched: _Searched, own: Int64[np.ndarray, " query"], tile: int
) -> Iterator[Keys]:
    """Give the keys of all pairs, tile by tile of the gallery in the order of ids.

    A key is the bits of the distance, then the position in the order of ids: as distances are not
    negative, keys sort by distance and then by id.
    """
    size, metric = len(searched.order), searched.gallery.space.metric
    for start in range(0, size, tile):
        stop = min(start + tile, size)
        distances = exact_distances(queries, searched.tile(start, stop), metric)
        keys = distances.view(np.uint32).astype(np.uint64)
        keys <<= POSITION_BITS
        keys |= np.arange(start, stop, dtype=np.uint64)
        inside = np.flatnonzero((own >= start) & (own < stop))
        keys[inside, own[inside] - start] = LEFT_OUT
        yield keys


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
    distances = (keys >> POSITION_BITS).astype(np.uint32).view(np.float32)
    distances[left_out] = np.inf
    return rows, distances


def exact_distances(
    queries: Doubles, gallery: Float64[np.ndarray, "other dim"], metric: Metric
) -> Float32[np.ndarray, "item other"]:
    """Return the float64 distance from the differences of each pair, rounded to float32.

    A matrix product gives the squared distance of every pair within a known error. Where both
    ends of that interval round to the same float32, that is the answer; the few other pairs, among
    them all that are equal, are computed from their differences. So the order in which a matrix
    product sums, which changes with shapes and threads, never shows.

    Args:
        queries: vectors; of length 1 for the cosine.
        gallery: vectors; of length 1 for the cosine.
        metric: what to make of the squared distance: its root, or half of it.
    """
    products = (-2 * queries) @ gallery.T
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
    """Return the distances of pairs whose matrix product, times -2, is given."""
    squares = (queries**2).sum(axis=1)[:, None] + (gallery**2).sum(axis=1)
    products = products + squares
    squares *= (2 * queries.shape[1] + 16) * np.finfo(
        np.float64
    ).eps  # more than rounding can add up to
    high = _finish(products + squares, metric)
    products -= squares
    low = _finish(np.maximum(products, 0, out=products), metric)
    rows, columns = np.nonzero(low != high)
    step = max(1, (1 << 19) // queries.shape[1])
    for start in range(0, len(rows), step):
        row, column = rows[start : start + step], columns[start : start + step]
        differences = queries[row] - gallery[column]
        differences *= differences
        high[row, column] = _finish(differences.sum(axis=1), metric)
    return high


def _finish(squares: np.ndarray, metric: Metric) -> np.ndarray:
    """Return distances from squared distances: finite, monotone and rounded to float32."""
    if metric == "cosine":  # of unit vectors: 1 - u.v = |u - v|^2 / 2
        squares = squares / 2
        squares[squares < 1e-30] = 0  # the same direction, as far as float64 can tell
    else:
        squares = np.sqrt(squares)
    largest = np.finfo(np.float32).max
    finished: np.ndarray = np.minimum(squares, largest, out=squares).astype(np.float32)
    return finished


def doubles(vectors: Vectors, metric: Metric) -> Doubles:
    """Return vectors as `exact_distances` wants them: in float64, of length 1 for the cosine."""
    ready: Doubles = vectors.astype(np.float64)
    if metric == "cosine":
        ready /= np.abs(ready).max(axis=1, keepdims=True)
        ready /= np.sqrt((ready**2).sum(axis=1, keepdims=True))
    return ready
