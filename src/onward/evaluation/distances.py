"""Exact distances of pairs of vectors, and numbers that sort as they do.

Every distance is the float64 distance, computed from the differences of the two vectors (from
their products for the metric "ip"), rounded to float32. It does not depend on how many are computed
at a time, nor on threads. Nothing here knows of items or rankings.
"""

import math

import numpy as np
from jaxtyping import Float32, Float64, UInt32

from onward.spaces import Metric, Vectors

Doubles = Float64[np.ndarray, "item dim"]

SIGN_BIT = np.uint32(1 << 31)
LARGEST = np.finfo(np.float32).max
SLICE_ITEMS = 1024
"""What is done to each pair is done by slices that stay in the processor's cache."""
PAIR_NUMBERS = 1 << 17
"""How many numbers of vectors are compared at a time where pairs are compared one by one."""


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
    errors *= _rounding(queries.shape[1])
    high = _finish(products + errors, metric)
    products -= errors
    if metric != "ip":
        np.maximum(products, 0, out=products)
    low = _finish(products, metric)
    rows, columns = np.nonzero(low != high)
    step = max(1, PAIR_NUMBERS // queries.shape[1])
    for start in range(0, len(rows), step):
        row, column = rows[start : start + step], columns[start : start + step]
        high[row, column] = paired_distances(queries[row], gallery[column], metric)
    return high


def paired_distances(
    queries: Doubles, others: Doubles, metric: Metric
) -> Float32[np.ndarray, " item"]:
    """Return the distance of each row from the row beside it, as `exact_distances` has it."""
    if metric == "ip":
        return _paired_products(queries, others)
    differences = queries - others
    differences *= differences
    found: np.ndarray = _finish(differences.sum(axis=1), metric)
    return found


def _paired_products(queries: Doubles, others: Doubles) -> Float32[np.ndarray, " item"]:
    """Return minus the inner product of each pair; only where it may matter, the exact one."""
    values = -(queries * others).sum(axis=1)
    errors = np.linalg.norm(queries, axis=1) * np.linalg.norm(others, axis=1)
    errors *= _rounding(queries.shape[1])
    found, low = _finish(values + errors, "ip"), _finish(values - errors, "ip")
    unclear = low != found
    found[unclear] = _finish(-_inner_products(queries[unclear], others[unclear]), "ip")
    return found


def _rounding(dim: int) -> float:
    """Return more than rounding can add up to in a product of two vectors of length 1."""
    return (2 * dim + 16) * float(np.finfo(np.float64).eps)


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
