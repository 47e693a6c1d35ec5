"""Choose which items of a gallery to embed again first: a sample for `fit` to learn from.

Only stored vectors are read. At random is the rule to beat; k-means spreads the sample over all
that the gallery holds; uncertainty asks where a first transformation knows least.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from onward.errors import ConfigurationError, TransformationError
from onward.spaces import Embeddings, Ids
from onward.transformation import Transformation

MOST_CENTRES = 500
SEEN_A_CENTRE = 100
"""Centres are found on at most so many items each; more move them little."""
ROUNDS = 20
BLOCK_ITEMS = 4096

Vectors = Float32[np.ndarray, "item dim"]
Centres = Float32[np.ndarray, "centre dim"]
Rows = Int64[np.ndarray, " row"]
Distances = Float32[np.ndarray, " item"]


def choose_sample(
    old: Embeddings,
    side: Embeddings | None = None,
    *,
    count: int,
    by: Literal["random", "k-means", "uncertainty"] = "random",
    transformation: Transformation | None = None,
    seed: int = 0,
) -> Ids:
    """Return the ids of the items to embed with the new model.

    Args:
        old: the gallery's old embeddings.
        side: side-information of the same items in the same order, if any.
        count: how many to choose.
        by: "random"; "k-means": the items nearest to the centres of as many clusters of [old,
            side], each dimension standardised (of at most 500 clusters: beyond, each gives its
            share, its nearest items first); or "uncertainty": the least certain first.
        transformation: one fitted without the sample, for "uncertainty"; else not used.
        seed: decides what is drawn at random.

    Returns:
        `count` ids, each once; by uncertainty the least certain first, else in the gallery's order.

    Raises:
        ConfigurationError: if there are not so many items, or a transformation is needed.
        TransformationError: if side-information is of other items.
        SpaceMismatchError: if the transformation is of other spaces.
    """
    if not 1 <= count <= len(old):
        raise ConfigurationError(
            f"a sample of {count} items was asked for, of {len(old)}; ask for 1 to {len(old)}"
        )
    if side is not None and side.ids != old.ids:
        raise TransformationError(
            "old embeddings and side-information are not of the same items in the same order; "
            "give side.align(old.ids)"
        )
    rng = np.random.default_rng(seed)
    if by == "random":
        rows = np.sort(rng.permutation(len(old))[:count])
    elif by == "k-means":
        rows = np.sort(_spread(_standardised(old, side), count, rng))
    else:
        rows = _uncertain(old, side, count, transformation)
    return tuple(old.ids[row] for row in rows)


def _uncertain(
    old: Embeddings, side: Embeddings | None, count: int, transformation: Transformation | None
) -> Rows:
    if transformation is None:
        raise ConfigurationError(
            "choosing by uncertainty needs a transformation that knows its own; give one fitted "
            "with FitSettings(uncertainty=True), or choose by 'k-means'"
        )
    unsure = transformation.uncertainties(old, side)
    return np.argsort(-unsure, kind="stable")[:count].astype(np.int64)


def _standardised(old: Embeddings, side: Embeddings | None) -> Vectors:
    both = [old.vectors] if side is None else [old.vectors, side.vectors]
    given = np.concatenate(both, axis=1)
    deviation = given.std(axis=0)
    vectors: Vectors = (given - given.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return vectors


def _spread(vectors: Vectors, count: int, rng: np.random.Generator) -> Rows:
    """Return `count` rows, from each cluster its share, those nearest to its centre first."""
    centres = _centres(vectors, min(count, MOST_CENTRES), rng)
    cluster, distance = _nearest(vectors, centres)
    sizes = np.bincount(cluster, minlength=len(centres))
    order = np.lexsort((distance, cluster))
    place = np.empty(len(vectors), np.int64)  # of each row within its cluster, nearest first
    place[order] = np.arange(len(vectors)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # The first of every cluster, then the second of those large enough, and so on, evenly.
    turn = place / sizes[cluster] if count > len(centres) else place.astype(np.float64)
    turn[place == 0] = -1
    return np.lexsort((distance, turn))[:count].astype(np.int64)


def _centres(vectors: Vectors, count: int, rng: np.random.Generator) -> Centres:
    """Return the centres of Lloyd's algorithm, begun by k-means++ on some of the items.

    References:
        Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, 2007.
    """
    seen = vectors[rng.permutation(len(vectors))[: SEEN_A_CENTRE * count]]
    first = [int(rng.integers(len(seen)))]
    distance = ((seen - seen[first[0]]) ** 2).sum(axis=1)
    while len(first) < count:
        total = distance.sum()
        share = distance / total if total > 0 else None  # only copies are left: any will do
        first.append(int(rng.choice(len(seen), p=share)))
        distance = np.minimum(distance, ((seen - seen[first[-1]]) ** 2).sum(axis=1))
    centres = seen[first]
    for _ in range(ROUNDS):
        cluster, _ = _nearest(seen, centres)
        sizes = np.bincount(cluster, minlength=count)
        sums = np.zeros_like(centres)
        np.add.at(sums, cluster, seen)
        moved = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
        if np.allclose(moved, centres, atol=1e-4):
            break
        centres = moved.astype(np.float32)
    return centres


def _nearest(vectors: Vectors, centres: Centres) -> tuple[Rows, Distances]:
    """Return each item's nearest centre and its squared distance, block by block."""
    lengths = (centres**2).sum(axis=1)
    cluster = np.empty(len(vectors), np.int64)
    distance = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK_ITEMS):
        block = vectors[start : start + BLOCK_ITEMS]
        squared = lengths - 2 * block @ centres.T
        rows = slice(start, start + len(block))
        cluster[rows] = squared.argmin(axis=1)
        distance[rows] = squared.min(axis=1) + (block**2).sum(axis=1)
    return cluster, distance
