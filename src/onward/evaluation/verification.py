"""Verify pairs of items: the true accept rate (TAR) at a false accept rate (FAR), exact.

Of all pairs, or of given ones, it is asked whether the two have the same label. A pair is
accepted if its distance is below a limit. The limit that a FAR allows is found in two passes over
the pairs, without keeping them: a float32 distance has 32 bits that sort as it does, so the first
pass counts pairs by the upper half of the bits, and the second by the lower half where a limit
lies. Nothing here ranks: no query is asked for what is near it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from onward.errors import EvaluationError
from onward.evaluation.distances import (
    doubles,
    exact_distances,
    from_sortable_bits,
    paired_distances,
    sortable_bits,
)
from onward.evaluation.judgements import Pair
from onward.evaluation.metrics import left_out_text
from onward.evaluation.relevance import common_labels, unlabelled
from onward.evaluation.retrieval import TILE_ITEMS, block_sizes
from onward.plain import plain
from onward.spaces import Embeddings, check_same_space, places

FARS = (1e-4, 1e-3, 1e-2)

HALF_BITS = np.uint32(16)
HALF = 1 << 16
"""How many values half of a distance's bits can have."""

BYTES_A_LABEL = 16
"""Label and bin of one pair in a tile."""

Rows = Int64[np.ndarray, " pair"]
Counts = Int64[np.ndarray, "two value"]
"""By value of half of the bits: pairs of the same label, and pairs of different labels."""


class Accepted(NamedTuple):
    """What is accepted at a FAR.

    The limit is the largest that accepts at most that share of the pairs of different labels, so
    the distance of one of those pairs. Pairs at the same distance are accepted together or not at
    all, so ties can make the FAR that is reached smaller than the one asked for, never greater.
    """

    limit: float
    """The distance below which a pair is accepted; infinite where all may be."""
    same: int
    """How many pairs of the same label are accepted."""
    different: int
    """How many pairs of different labels are."""


class _Tile(NamedTuple):
    """Some pairs: the `sortable_bits` of their distance, and whether their labels differ."""

    bits: UInt32[np.ndarray, " pair"]
    different: Bool[np.ndarray, " pair"]


@dataclass(frozen=True)
class VerificationRates:
    """How many pairs of the same and of different labels are accepted at given FARs.

    Attributes:
        same_pairs: number of pairs of the same label.
        different_pairs: number of pairs of different labels.
        accepted: what is accepted at each false accept rate asked for, in (0, 1], ascending.
        left_out: how many items made no pair, by kind, none that is 0; see `Relevance`.
    """

    same_pairs: int
    different_pairs: int
    accepted: Mapping[float, Accepted] = field(hash=False)
    left_out: Mapping[str, int] = field(default_factory=dict, hash=False)

    def tar(self, far: float) -> float:
        """Return the share of pairs of the same label that are accepted at a FAR.

        In [0, 1]; NaN where it cannot be measured: there is no pair of the same label, or so few
        of different labels that accepting a single one exceeds the FAR.

        Raises:
            EvaluationError: if this FAR was not asked for when the pairs were counted.
        """
        if far not in self.accepted:
            raise EvaluationError(
                f"TAR was not counted at FAR {far}",
                f"it was at {list(self.accepted)}. Count the pairs again with this rate in `fars`",
            )
        return self.accepted[far].same / self.same_pairs if self.measurable(far) else float("nan")

    def measurable(self, far: float) -> bool:
        """Whether there are pairs of the same label, and enough of different labels for a FAR.

        One of them at least must be allowed: FAR >= 1 / pairs of different labels.
        """
        return self.same_pairs > 0 and _allowed(far, self.different_pairs) > 0

    def to_json(self) -> dict[str, Any]:
        """Return fractions and counts as plain values; None for what cannot be measured."""
        limits = {
            repr(far): one.limit if self.measurable(far) and np.isfinite(one.limit) else None
            for far, one in self.accepted.items()
        }
        return {
            **{f"tar@{far!r}": plain(self.tar(far)) for far in self.accepted},
            "limits": limits,
            "same_pairs": self.same_pairs,
            "different_pairs": self.different_pairs,
            **({"left_out": dict(self.left_out)} if self.left_out else {}),
        }

    def __str__(self) -> str:
        lines = [f"{'FAR (percent)':>14}{'TAR':>7}   accepted below distance"]
        for far, one in self.accepted.items():
            if self.measurable(far):
                below = f"{one.limit:.6g}" if np.isfinite(one.limit) else "any"
                lines.append(f"{100 * far:>14.6g}{100 * self.tar(far):>7.1f}   {below}")
            else:
                lines.append(f"{100 * far:>14.6g}{'-':>7}   not measurable: too few pairs")
        pairs = f"{self.same_pairs:,} pairs of the same label, {self.different_pairs:,} of "
        return "\n".join([*lines, pairs + "different labels.", *left_out_text(self.left_out)])


def verify_pairs(
    queries: Embeddings,
    gallery: Embeddings,
    *,
    exclude_self: bool,
    same_labels: bool = False,
    pairs: Sequence[Pair] | None = None,
    fars: Sequence[float] = FARS,
    block_bytes: int = 64 << 20,
) -> VerificationRates:
    """Count the pairs of the same and of different labels that each FAR lets through; exact.

    Unless pairs are given, every query makes a pair with every gallery item. Where queries and
    gallery are the same embeddings (the same ids with the same vectors and labels, in any order),
    each unordered pair counts once. Counting both orders would change no TAR that both can
    measure. An item whose label is unknown (negative) makes no pair, and is counted.

    Args:
        queries: with labels, unless pairs are given.
        gallery: in the same space; the same embeddings if that is what is asked.
        exclude_self: leave out the pair of a query and its own gallery entry, the one of the same
            id.
        same_labels: if only one of the two has class names, the other's numbers mean the same.
        pairs: those that count: the id of a query, the id of a gallery item, and whether they are
            the same. Labels are not looked at.
        fars: false accept rates in (0, 1].
        block_bytes: about how much memory to work in, besides 1 MiB for each FAR. It changes the
            speed, never the result.

    Raises:
        SpaceMismatchError: if the two are in different spaces.
        EvaluationError: if labels are missing, a rate is not in (0, 1], or a pair is not of these
            embeddings or stands twice.
        LabelMismatchError: if only one of the two has class names, and `same_labels` is false.

    References:
        Klare et al., Pushing the frontiers of unconstrained face detection and recognition:
        IARPA Janus Benchmark A, CVPR 2015.
    """
    wanted = tuple(sorted({float(far) for far in fars}))
    if not wanted or not all(0 < far <= 1 for far in wanted):
        raise EvaluationError(
            f"the false accept rates asked for are {list(fars)}",
            "give one or more, as fractions above 0 and up to 1: 0.001 is 0.1 %",
        )
    check_same_space(queries.space, gallery.space)
    left_out: dict[str, int] = {}
    if pairs is None:
        labels, others = common_labels(queries, gallery, same_labels=same_labels)
        left_out = unlabelled(labels, others)
        rows = _rows_of_same(queries, gallery)
        if once := rows is not None and np.array_equal(labels, others[rows]):
            queries, labels = gallery, others  # row by row
        tiles = partial(
            _all_pairs,
            *(queries, gallery, labels, others),
            exclude_self=exclude_self,
            once=once,
            block_bytes=block_bytes,
        )
    else:
        tiles = partial(iter, _listed(queries, gallery, pairs, exclude_self, block_bytes))
    upper = _count_upper(tiles())
    same, different = (int(number) for number in upper.sum(axis=1))
    allowed = {far: _allowed(far, different) for far in wanted}
    reached = np.cumsum(upper[1])
    bin_of = {  # where the nearest pair lies that is one too many
        far: int(np.searchsorted(reached, number, side="right"))
        for far, number in allowed.items()
        if number < different
    }
    lower = _count_lower(tiles(), sorted(set(bin_of.values()))) if bin_of else {}
    accepted = {
        far: _accepted(upper, bin_of[far], lower[bin_of[far]], number)
        if far in bin_of
        else Accepted(float("inf"), same, different)
        for far, number in allowed.items()
    }
    return VerificationRates(same, different, accepted, left_out)


def _all_pairs(
    queries: Embeddings,
    gallery: Embeddings,
    labels: Int64[np.ndarray, " query"],
    others: Int64[np.ndarray, " item"],
    *,
    exclude_self: bool,
    once: bool,
    block_bytes: int,
) -> Iterator[_Tile]:
    """Give all pairs of known labels; where the queries are the gallery, each of them `once`."""
    size, metric = len(gallery), gallery.space.metric
    own = places(queries.ids, gallery.ids) if exclude_self else np.full(len(queries), -1)
    kept = BYTES_A_LABEL * min(size, TILE_ITEMS)
    step, tile = block_sizes(size, gallery.space.dim, block_bytes, kept=kept)
    for first in range(0, len(queries), step):
        row = np.arange(first, min(first + step, len(queries)))[:, None]
        vectors = doubles(queries.vectors[row[:, 0]], metric)
        for start in range(first if once else 0, size, tile):
            column = np.arange(start, min(start + tile, size))
            theirs = doubles(gallery.vectors[column], metric)
            bits = sortable_bits(exact_distances(vectors, theirs, metric))
            counts = (labels[row] >= 0) & (others[column] >= 0) & (column != own[row])
            if once:
                counts &= column >= row
            yield _Tile(bits[counts], (labels[row] != others[column])[counts])


def _rows_of_same(queries: Embeddings, gallery: Embeddings) -> Rows | None:
    """Return the gallery row of each query, if the two are the same items with the same vectors."""
    if set(queries.ids) != set(gallery.ids):
        return None
    rows = places(queries.ids, gallery.ids)
    return rows if np.array_equal(queries.vectors, gallery.vectors[rows]) else None


def _listed(
    queries: Embeddings,
    gallery: Embeddings,
    pairs: Sequence[Pair],
    exclude_self: bool,
    block_bytes: int,
) -> list[_Tile]:
    """Return the pairs that are given.

    Raises:
        EvaluationError: if one is none, is not of these embeddings, or stands twice.
    """
    _check_pairs(pairs, either_order=_rows_of_same(queries, gallery) is not None)
    kept = [pair for pair in pairs if not (exclude_self and pair[0] == pair[1])]
    rows = _rows_of([one for one, _, _ in kept], queries, "queries")
    others = _rows_of([other for _, other, _ in kept], gallery, "gallery")
    different = np.array([not same for _, _, same in kept], dtype=np.bool_)
    metric, dim, tiles = gallery.space.metric, gallery.space.dim, []
    step = max(1, block_bytes // (48 * dim + 48))
    for start in range(0, len(kept), step):
        part = slice(start, start + step)
        vectors = doubles(queries.vectors[rows[part]], metric)
        theirs = doubles(gallery.vectors[others[part]], metric)
        bits = sortable_bits(paired_distances(vectors, theirs, metric))
        tiles.append(_Tile(bits, different[part]))
    return tiles


def _rows_of(ids: Sequence[str], embeddings: Embeddings, whose: str) -> Rows:
    """Return the rows of ids that pairs name.

    Raises:
        EvaluationError: if one of them is not there.
    """
    rows = places(ids, embeddings.ids)
    if missing := [item for item, row in zip(ids, rows, strict=True) if row < 0]:
        raise EvaluationError(
            f"{len(missing)} of {len(ids)} pairs name an item that the embeddings of the {whose} "
            f"lack, the first {missing[0]!r}",
            "a pair is the id of a query, the id of a gallery "
            "item, and whether they are the same. Give the ids that the embeddings have",
        )
    return rows


def _check_pairs(pairs: Sequence[Pair], *, either_order: bool) -> None:
    """Refuse a pair that is none, or that stands twice.

    Raises:
        EvaluationError: naming the pair.
    """
    place_of: dict[tuple[str, ...], int] = {}
    for place, pair in enumerate(pairs, start=1):
        if len(pair) != 3 or pair[2] not in (True, False):
            raise EvaluationError(
                f"pair {place} is {pair!r}",
                "give each as the id of a query, the id of a gallery item, and True or False",
            )
        ids = tuple(sorted(pair[:2])) if either_order else pair[:2]
        if (first := place_of.setdefault(ids, place)) != place:
            raise EvaluationError(
                f"{pair[0]!r} and {pair[1]!r} are pair {first} and pair {place}",
                "give each pair once",
            )


def _allowed(far: float, pairs: int) -> int:
    """Return how many of the pairs of different labels a FAR lets through.

    It is the largest number whose share is at most the FAR, as division in float64 has it: 29 of
    100 pairs at 0.29, although 0.29 * 100 is less than 29.
    """
    number = min(int(far * pairs) + 1, pairs)
    while number and number / pairs > far:
        number -= 1
    return number


def _count_upper(pairs: Iterable[_Tile]) -> Counts:
    counts = np.zeros(2 * HALF, dtype=np.int64)
    for tile in pairs:
        index = (tile.bits >> HALF_BITS).astype(np.int64)
        index[tile.different] += HALF
        counts += np.bincount(index, minlength=2 * HALF)
    return counts.reshape(2, HALF)


def _count_lower(pairs: Iterable[_Tile], bins: Sequence[int]) -> dict[int, Counts]:
    """Count, in each of some bins of the upper half, the pairs by the lower half."""
    slot_of = np.full(HALF, -1, dtype=np.int64)
    slot_of[list(bins)] = np.arange(len(bins))
    counts = np.zeros(len(bins) * 2 * HALF, dtype=np.int64)
    for tile in pairs:
        slot = slot_of[tile.bits >> HALF_BITS]
        inside = np.flatnonzero(slot >= 0)
        index = (2 * slot[inside] + tile.different[inside]) * HALF
        index += tile.bits[inside] & np.uint32(HALF - 1)
        np.add.at(counts, index, 1)
    return dict(zip(bins, counts.reshape(-1, 2, HALF), strict=True))


def _accepted(upper: Counts, coarse: int, lower: Counts, allowed: int) -> Accepted:
    """Return the limit that lets through at most that many pairs of different labels.

    Args:
        upper: all pairs, by the upper half of their distance's bits.
        coarse: the upper half of the limit's bits.
        lower: the pairs with that upper half, by their lower half.
        allowed: less than there are.
    """
    same, different = (int(number) for number in upper[:, :coarse].sum(axis=1))
    fine = int(np.searchsorted(np.cumsum(lower[1]), allowed - different, side="right"))
    (limit,) = from_sortable_bits(np.array([(coarse << 16) | fine], dtype=np.uint32))
    below = lower[:, :fine].sum(axis=1)
    return Accepted(float(limit), same + int(below[0]), different + int(below[1]))
