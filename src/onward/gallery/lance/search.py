"""Search in a table of LanceDB, apart from what writes it: Lance chooses, `retrieval` ranks.

Lance computes distances in float32 and breaks ties as it likes. So it is asked for more candidates
than are wanted, until no item that was left out can be among the nearest; the distances and the
order that come back are those of `onward.evaluation.retrieval`.

Where its arithmetic fails, it leaves items out without a word: a distance that comes out as NaN
is to it as none. So its candidates are counted, and where they are too few, or float32 cannot
tell which are the nearest, all vectors are compared, part by part. That goes for the cosine of
vectors whose squares leave the range of float32, for l2 distances that overflow or vanish, and for
indexes that look into too few of their lists. Of inner products Lance's error depends on the
longest vector of all, so there it chooses by an index only.

Only `onward.gallery.lance.store` imports this.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from onward.errors import GalleryError
from onward.evaluation import retrieval
from onward.evaluation.retrieval import Nearest, Ranking
from onward.fusion import FusedEmbeddings, Fusion
from onward.gallery.lance.commits import open_dataset
from onward.gallery.lance.rows import origin_column, rows_where, vectors_of
from onward.gallery.record import Field
from onward.gallery.store import Near
from onward.spaces import LENGTHS, LONGEST, Embeddings, Space, Vectors, has_length, places

MORE = 8
"""Candidates beyond those wanted, at first; each further try asks for four times as many."""
TRIES = 3
"""After this number of tries, comparing all vectors is quicker."""
QUERY_LENGTH = 2.0**50
"""To this length queries of inner products are brought, which changes no order: Lance's distance is
one minus the product, in which products below 1e-7 are lost."""
INDEXED_LENGTHS = 1e-18, LONGEST
"""Between these the longest vector of an index of inner products must be, for float32's sake."""
BLOCK_BYTES = 64 << 20
"""About how much memory the vectors of the candidates take."""
READ_ROWS = 2048
"""Number of vectors that are measured at a time."""
VANISHING = 2.0**-126
"""A square below it may be nothing to Lance: float32 holds it badly or not at all."""

Candidates = tuple[Embeddings, int, float]
"""What Lance gives for a query: those that have a vector in the field; how many rows in all; and
the largest distance, as Lance computes it."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a field.

    Attributes:
        of: where is searched.
        k: how many items are wanted for each query, at most as many as are `filled`.
        exclude_self: leave out a query's own entry, the one of the same id.
        filled: how many rows have a vector in the field.
        indexed: whether an index chooses the candidates.
    """

    of: Field
    k: int
    exclude_self: bool
    filled: int
    indexed: bool


class Lengths:
    """Knows which files of a table hold only vectors whose lengths Lance can compute with.

    Onward writes no others where the metric is the cosine, but earlier versions and other programs
    may have. A file never changes, so each is measured once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._measured: set[tuple[str, str]] = set()
        self._versions: dict[str, int] = {}

    def odd_one(self, of: Field, version: int) -> str | None:
        """Return the id of an item with another vector, at this version of the table or later."""
        if self._versions.get(of.column) == version:
            return None
        dataset = open_dataset(self._path)
        number = {one.name(): one.id() for one in dataset.lance_schema.fields()}.get(of.column)
        for fragment in dataset.get_fragments():
            files = {(of.column, one.path) for one in fragment.data_files() if number in one.fields}
            if files <= self._measured:
                continue
            odd = _odd_one(fragment, of)
            if odd is not None:
                return odd
            self._measured |= files
        self._versions[of.column] = version
        return None


def build_index(
    table: Any, of: Field, url: str, everything: Iterator[Embeddings], lengths: Lengths
) -> None:
    """Build an inverted file of vectors in 8 bits a number, for approximate search.

    Raises:
        GalleryError: if Lance would lose vectors in it, saying what their lengths may be.
    """
    from lancedb.index import IvfSq

    without = "Search is exact without one"
    if of.space.metric == "ip":
        each = (np.linalg.norm(part.vectors.astype(float), axis=1).max() for part in everything)
        longest = float(max(each, default=1.0))
        least, most = INDEXED_LENGTHS
        if not least <= longest <= most:
            raise GalleryError(
                f"gallery {url} can have no index of {of.space}: its longest vector has the length "
                f"{longest:.3g}, and Lance computes inner products in float32, for lengths from "
                f"{least:g} to {most:g}. {without}; to have one, scale the vectors"
            )
    elif (odd := lengths.odd_one(of, table.version)) is not None:
        raise GalleryError(
            f"no index of {of.space} was built in gallery {url}: the vector of item {odd!r} is too "
            f"long or too short: indexes take {LENGTHS}. {without}",
            "to have one, give such items other vectors (update)",
        )
    config = IvfSq(distance_type=distance_type(of.space))
    table.create_index(of.column, config=config, replace=True)


def search_table(
    table: Any,
    asked: Asked,
    queries: Embeddings,
    everything: Callable[[], Iterator[Embeddings]],
    *,
    by_lance: bool,
) -> Ranking:
    """Return the k nearest rows of every query among those with a vector in the field.

    Args:
        table: the items.
        asked: what is asked of which field.
        queries: in the field's space.
        everything: gives all vectors of the field, in parts.
        by_lance: whether Lance may choose candidates.
    """
    found: dict[int, Nearest] = {}
    left = list(range(len(queries)))
    fetch = asked.k + asked.exclude_self + MORE
    for _ in range(TRIES if by_lance else 0):
        bytes_each = 4 * asked.of.space.dim * fetch
        if not left or bytes_each > BLOCK_BYTES:
            break
        step, again = BLOCK_BYTES // bytes_each, list[int]()
        for start in range(0, len(left), step):
            block = left[start : start + step]
            given = _candidates(table, asked, queries.select(block), fetch)
            for row, candidates in zip(block, given, strict=True):
                one = queries.select([row])
                ranking = retrieval.search(
                    one, candidates[0], asked.k, exclude_self=asked.exclude_self
                )
                found[row] = ranking.nearest(0)
                if not _is_whole(asked, candidates, ranking, fetch):
                    again.append(row)
        left, fetch = again, 4 * fetch
    if left:
        of_all = retrieval.search_parts(
            queries.select(left), everything(), asked.k, exclude_self=asked.exclude_self
        )
        found |= {row: of_all.nearest(at) for at, row in enumerate(left)}
    return retrieval.together(queries.ids, found, asked.exclude_self)


def search_pair(
    table: Any, pair: tuple[Field, Field], queries: FusedEmbeddings, count: int
) -> Near | None:
    """Return what the indexes of both fields take for near to each query, with both vectors.

    Args:
        table: the items.
        pair: the fields of the old and of the new space.
        queries: by both models.
        count: how many items are wanted of each index.

    Returns:
        None if there are not both indexes, or one finds fewer.
    """
    indexed = {column for index in table.list_indices() for column in index.columns}
    if not len(queries) or not {of.column for of in pair} <= indexed:
        return None
    asked = queries.old.align(queries.ids), queries.new
    columns = ["id", "_distance", *(name for of in pair for name in (of.column, origin_column(of)))]

    def ask(of: Field, given: Embeddings) -> pa.Table:
        query = _query(table, of, given, count).select(columns)
        return query.to_arrow()

    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(ask, pair, asked))
    of_query = [_of_query(answer) for answer in answers]
    if any((np.bincount(one, minlength=len(queries)) < count).any() for one in of_query):
        return None
    return _near(queries.space, pair, answers, of_query, len(queries))


def distance_type(space: Space) -> Literal["l2", "cosine", "dot"]:
    """Return Lance's name of a space's metric; its "dot" is one minus the inner product."""
    return "dot" if space.metric == "ip" else space.metric


def has_index(table: Any, of: Field) -> bool:
    """Say whether an index of the field's vectors was built."""
    return any(of.column in index.columns for index in table.list_indices())


def _odd_one(fragment: Any, of: Field) -> str | None:
    scanner = fragment.scanner(
        columns=["id", of.column], filter=rows_where([of], (), None), batch_size=READ_ROWS
    )
    for batch in scanner.to_batches():
        table = pa.Table.from_batches([batch])
        fits = has_length(vectors_of(table, of), of.space)
        if not fits.all():
            odd: str = table["id"][int(np.argmin(fits))].as_py()
            return odd
    return None


def _candidates(table: Any, asked: Asked, queries: Embeddings, fetch: int) -> Iterator[Candidates]:
    """Give what Lance takes for the nearest rows of each query."""
    of, origin = asked.of, origin_column(asked.of)
    query = _query(table, of, queries, fetch)
    query = query.refine_factor(4) if asked.indexed else query.bypass_vector_index()
    answer: pa.Table = query.select(["id", of.column, origin, "_distance"]).to_arrow()
    of_query = _of_query(answer)
    vectors, distances = vectors_of(answer, of), answer["_distance"].to_numpy()
    ids, known = answer["id"].to_pylist(), answer[origin].is_valid().to_numpy()
    for at in range(len(queries)):
        mine = of_query == at
        rows = np.flatnonzero(mine & known)
        items = Embeddings(tuple(ids[row] for row in rows), vectors[rows], of.space)
        yield items, int(mine.sum()), float(distances[mine].max(initial=-np.inf))


def _query(table: Any, of: Field, queries: Embeddings, fetch: int) -> Any:
    query = table.search(_as_lance_can(queries), vector_column_name=of.column, query_type="vector")
    return query.distance_type(distance_type(of.space)).limit(fetch)


def _of_query(answer: pa.Table) -> Int64[np.ndarray, " row"]:
    """Return to which query each row of an answer belongs."""
    if "query_index" not in answer.schema.names:
        return np.zeros(len(answer), np.int64)
    numbers: np.ndarray = answer["query_index"].to_numpy().astype(np.int64)
    return numbers


def _near(
    fusion: Fusion,
    pair: tuple[Field, Field],
    answers: list[pa.Table],
    of_query: list[Int64[np.ndarray, " row"]],
    queries: int,
) -> Near:
    """Return what both answers hold, each item once."""
    every, asked = pa.concat_tables(answers), np.concatenate(of_query)
    ids = every["id"].to_pylist()
    first = {item: row for row, item in reversed(list(enumerate(ids)))}
    once = every.take(pa.array(first.values(), pa.int64()))
    held = [once.filter(pc.is_valid(once[origin_column(of)])) for of in pair]
    old, new = (
        Embeddings(tuple(some["id"].to_pylist()), vectors_of(some, of), of.space)
        for some, of in zip(held, pair, strict=True)
    )
    items = FusedEmbeddings(fusion, old, new)
    places_of, size = places(ids, items.ids), max(1, len(items))
    pairs = np.unique((asked * size + places_of)[places_of >= 0])
    ends = np.searchsorted(pairs, size * np.arange(1, queries))
    return Near(items, np.split(pairs % size, ends))


def _as_lance_can(queries: Embeddings) -> Vectors:
    """Return the queries' vectors; for all but l2 of a length with which Lance can compute."""
    if queries.space.metric == "l2":
        return queries.vectors
    if queries.space.metric == "ip":
        exact = queries.vectors.astype(np.float64)
        lengths = np.linalg.norm(exact, axis=1, keepdims=True)
        return (exact * (QUERY_LENGTH / np.where(lengths > 0, lengths, 1))).astype(np.float32)
    _, exponents = np.frexp(np.abs(queries.vectors).max(axis=1, keepdims=True, initial=0))
    scaled: Vectors = np.ldexp(queries.vectors, -exponents)
    return scaled


def _is_whole(asked: Asked, candidates: Candidates, ranking: Ranking, fetch: int) -> bool:
    """Say whether the ranking of the candidates is that of all vectors.

    With an index: whether there are as many as were wanted, or all. Else: whether Lance has given
    all, or no item beyond the candidates can be nearer than the last one wanted. Lance's distance
    is squared for l2. Its relative (l2) or absolute (cosine) error is below a rounding for each
    dimension, unless squares vanish.
    """
    space, k, (items, came, farthest) = asked.of.space, asked.k, candidates
    if asked.indexed:
        return len(items) >= min(k + asked.exclude_self, asked.filled)
    if came < fetch:
        return len(items) >= asked.filled
    if ranking.rows.shape[1] < k or ranking.rows[0, k - 1] < 0:
        return False
    if not np.isfinite(farthest):
        return False
    last = float(ranking.distances[0, k - 1])
    error = 1e-5 + 2.0**-23 * space.dim
    if space.metric == "cosine":
        return last + error < farthest
    return last**2 * (1 + error) + VANISHING * space.dim < farthest
