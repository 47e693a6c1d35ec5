"""Search in a table of LanceDB: Lance chooses candidates, `onward.retrieval` ranks them.

Lance computes distances in float32 and breaks ties as it likes. So it is asked for more candidates
than are wanted, until no item that was left out can be among the nearest; the distances and the
order that come back are those of `onward.retrieval`. Of inner products Lance's error depends on the
longest vector of all, so there it chooses by an index only. Only `onward.gallery.lancedb` imports
this.
"""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from onward import retrieval
from onward.errors import GalleryError
from onward.gallery.arrow_rows import vectors_of
from onward.gallery.record import Field
from onward.rankings import Ranking
from onward.spaces import Embeddings, Ids, Space, Vectors

MORE = 8
"""Candidates beyond those wanted, at first; each further try asks for four times as many."""
QUERY_LENGTH = 2.0**50
"""To this length queries of inner products are brought, which changes no order: Lance's distance is
one minus the product, in which products below 1e-7 are lost."""
INDEXED_LENGTHS = 1e-18, 1e18
"""Between these the longest vector of an index of inner products must be, for float32's sake."""
BLOCK_BYTES = 64 << 20
"""About how much memory the vectors of the candidates take."""

Nearest = tuple[Ids, Float32[np.ndarray, " rank"]]


def search_table(
    table: Any, of: Field, queries: Embeddings, k: int, *, exclude_self: bool, approximate: bool
) -> Ranking:
    """Return the k nearest rows of every query among those with a vector in the field."""
    indexed = approximate and has_index(table, of)
    found: dict[int, Nearest] = {}
    k = min(k, max(1, table.count_rows()))  # more than there are cannot come back
    fetch = k + exclude_self + MORE
    left = list(range(len(queries)))
    while left:
        step = max(1, BLOCK_BYTES // (4 * of.space.dim * fetch))
        again: list[int] = []
        for start in range(0, len(left), step):
            block = left[start : start + step]
            asked = queries.select(block)
            candidates = _candidates(table, of, asked, fetch, indexed)
            for row, ids, vectors, farthest in zip(block, *candidates, strict=True):
                gallery = Embeddings(ids, vectors, of.space)
                ranking = retrieval.search(
                    queries.select([row]), gallery, k, exclude_self=exclude_self
                )
                found[row] = tuple(ranking.ids_of(0)), ranking.distances[0]
                if not (indexed or len(ids) < fetch or _is_whole(of, ranking, k, farthest)):
                    again.append(row)
        left, fetch = again, 4 * fetch
    return _together(queries.ids, found, exclude_self)


def distance_type(space: Space) -> Literal["l2", "cosine", "dot"]:
    """Return Lance's name of a space's metric; its "dot" is one minus the inner product."""
    return "dot" if space.metric == "ip" else space.metric


def _brought_to_length(vectors: Vectors) -> Vectors:
    """Return vectors of `QUERY_LENGTH`; those that are zero stay so."""
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    return (exact * (QUERY_LENGTH / np.where(lengths > 0, lengths, 1))).astype(np.float32)


def check_indexed(url: str, of: Field, longest: float) -> None:
    """Refuse to build an index of inner products in which Lance would lose vectors.

    Raises:
        GalleryError: saying what the lengths may be.
    """
    least, most = INDEXED_LENGTHS
    if not least <= longest <= most:
        raise GalleryError(
            f"gallery {url} can have no index of {of.space}: its longest vector has the length "
            f"{longest:.3g}, and Lance computes inner products in float32, for lengths from "
            f"{least:g} to {most:g}. Search without an index, which is exact, or scale the vectors"
        )


def has_index(table: Any, of: Field) -> bool:
    """Say whether an index of the field's vectors was built."""
    return any(of.column in index.columns for index in table.list_indices())


def _candidates(
    table: Any, of: Field, queries: Embeddings, fetch: int, indexed: bool
) -> tuple[list[Ids], list[np.ndarray], list[float]]:
    """Return, for each query, ids and vectors of candidates and Lance's largest distance."""
    asked = queries.vectors if of.space.metric != "ip" else _brought_to_length(queries.vectors)
    query = table.search(asked, vector_column_name=of.column, query_type="vector")
    query = query.distance_type(distance_type(of.space)).limit(fetch)
    query = query.refine_factor(4) if indexed else query.bypass_vector_index()
    answer: pa.Table = query.select(["id", of.column, "_distance"]).to_arrow()
    of_query = np.zeros(len(answer), np.int64)
    if "query_index" in answer.schema.names:
        of_query = answer["query_index"].to_numpy()
    vectors, distances = vectors_of(answer, of), answer["_distance"].to_numpy()
    ids = answer["id"].to_pylist()
    rows = [np.flatnonzero(of_query == at) for at in range(len(queries))]
    return (
        [tuple(ids[row] for row in mine) for mine in rows],
        [vectors[mine] for mine in rows],
        [float(distances[mine].max(initial=0)) for mine in rows],
    )


def _is_whole(of: Field, ranking: Ranking, k: int, farthest: float) -> bool:
    """Say whether no item beyond the candidates can be nearer than the last one wanted.

    Args:
        of: where was searched.
        ranking: of the candidates.
        k: how many are wanted.
        farthest: Lance's largest distance of a candidate, in float32: squared for l2. Its relative
            (l2) or absolute (cosine) error is below a rounding for each dimension.
    """
    if ranking.rows.shape[1] < k or ranking.rows[0, k - 1] < 0 or not np.isfinite(farthest):
        return False
    last = float(ranking.distances[0, k - 1])
    error = 1e-5 + 2.0**-23 * of.space.dim
    if of.space.metric == "cosine":
        return last + error < farthest
    return last**2 * (1 + error) < farthest


def _together(query_ids: Ids, found: dict[int, Nearest], exclude_self: bool) -> Ranking:
    gallery_ids = tuple(sorted({item for ids, _ in found.values() for item in ids}))
    row_of = {item: row for row, item in enumerate(gallery_ids)}
    width = max((len(ids) for ids, _ in found.values()), default=0)
    rows = np.full((len(query_ids), width), -1, np.int64)
    distances = np.full((len(query_ids), width), np.inf, np.float32)
    for query, (ids, nearest) in found.items():
        rows[query, : len(ids)] = [row_of[item] for item in ids]
        distances[query, : len(ids)] = nearest[: len(ids)]
    return Ranking(query_ids, gallery_ids, rows, distances, exclude_self)
