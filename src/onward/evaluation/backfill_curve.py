"""How retrieval changes while an upgraded gallery is backfilled, from nothing to all of it.

In a gallery that was upgraded, items are re-embedded one after the other in some order: their
upgraded vectors give way to those of the new model. The curve says how well queries are answered
at evenly spaced shares of the way; its mean, the area under the curve (AUC), judges the order.
Nothing here knows how the vectors were made or where an order comes from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64, UInt64

from onward.errors import EvaluationError
from onward.evaluation.distances import doubles
from onward.evaluation.metrics import METRICS, Evaluation
from onward.evaluation.relevance import Relevance, labelled_by
from onward.evaluation.retrieval import (
    LEFT_OUT,
    Searched,
    block_sizes,
    check_once,
    numbers_of,
)
from onward.fusion import Searchable, check_comparable
from onward.plain import plain
from onward.spaces import Embeddings, Ids, check_same_space, places

GRID = tuple(point / 21 for point in range(22))
"""The grid of FastFill: from 0 to 1 in steps of 1/21."""

BYTES_A_KEY = 72
"""Both keys of a query and a gallery item, and what it takes to join and count them."""

NOT_FOUND = 2**62
"""The rank of what has no vector: greater than any other."""

ItemKeys = UInt64[np.ndarray, " item"]
Since = Int64[np.ndarray, " item"]


@dataclass(frozen=True, eq=False)
class BackfillCurve:
    """Evaluations of a gallery of which ever more is re-embedded.

    Attributes:
        shares: of the gallery's items that are re-embedded.
        evaluations: the same queries at each of these shares.
        lost: how many items had no upgraded vector: they are not found until they are re-embedded.
    """

    shares: tuple[float, ...]
    evaluations: tuple[Evaluation, ...]
    lost: int = 0

    @property
    def auc_name(self) -> str:
        """The name of the mean with its grid, such as "auc@22": other grids give other means."""
        return f"auc@{len(self.shares)}"

    def values(self, metric: str) -> Float64[np.ndarray, " share"]:
        """Return "cmc@k", "mrr@k" or "map" at each share, in [0, 1]; NaN if no query counts.

        Raises:
            EvaluationError: if there is no such metric.
        """
        return np.array([evaluation.value(metric) for evaluation in self.evaluations])

    def auc(self, metric: str) -> float:
        """Return the mean of a metric over the shares, in [0, 1]; NaN if no query counts.

        It is the area under the curve where the shares are evenly spaced from 0 to 1.

        Raises:
            EvaluationError: if there is no such metric.

        References:
            Jaeckle et al., FastFill: efficient compatible model update, ICLR 2023.
        """
        return float(self.values(metric).mean())

    def to_json(self) -> dict[str, Any]:
        """Return fractions as plain values: by metric, and their means; None if unknown."""
        told = {
            "shares": self.shares,
            **{metric: self.values(metric) for metric in METRICS},
            self.auc_name: {metric: self.auc(metric) for metric in METRICS},
            "queries": self.evaluations[0].queries,
            "skipped": self.evaluations[0].skipped,
        }
        return dict(plain(told)) | ({"lost": self.lost} if self.lost else {})

    def __str__(self) -> str:
        first = self.evaluations[0]
        lines = [f"{'re-embedded':<12}{first.heads()}   (percent)"]
        for share, evaluation in zip(self.shares, self.evaluations, strict=True):
            lines.append(f"{f'{100 * share:.1f}':<12}{evaluation.columns()}")
        means = (self.auc(metric) for metric in METRICS)
        shown = ("-" if np.isnan(mean) else f"{100 * mean:.1f}" for mean in means)
        lines.append(f"{self.auc_name:<12}" + "".join(f"{mean:>7}" for mean in shown))
        lines.append(first.counted_text())
        if self.lost:
            lines.append(
                f"{self.lost:,} items have no upgraded vector: not found until re-embedded."
            )
        return "\n".join(lines)


def backfill_curve(
    queries: Searchable,
    upgraded: Searchable,
    embedded: Searchable,
    order: Sequence[str],
    *,
    exclude_self: bool,
    shares: Sequence[float] = GRID,
    block_bytes: int = 64 << 20,
) -> BackfillCurve:
    """Evaluate a gallery while its items are re-embedded in an order; exact, in bounded memory.

    Both distances of a query and an item are computed once. How often they lie below those of the
    relevant items is counted for all shares together, so this costs a few evaluations, not one for
    each share. An item without an upgraded vector is one to find all the same: until it is
    re-embedded it is not found, and adds zero.

    Args:
        queries: with labels, in the new space, or in a fused pair.
        upgraded: the gallery as the upgrade left it: of some of the items, or of all.
        embedded: all of the items with labels and the vectors that the new model gives them.
        order: the ids of all of the items, most urgent first.
        exclude_self: leave out a query's own gallery entry, the one of the same id.
        shares: ascending, in [0, 1]; see `items_at`. Their number stands in the name of the AUC.
        block_bytes: about how much memory to work in. It changes the speed, never the result.

    Raises:
        SpaceMismatchError: if the three are not in one space.
        EvaluationError: if an upgraded item is not among the embedded ones, the order does not
            hold the same items, labels are missing, or the shares are not as they must be.
        LabelMismatchError: if an item is upgraded in one class and embedded in another.
    """
    check_comparable(queries, upgraded)
    check_comparable(queries, embedded)
    _check_items({"upgraded": upgraded.ids, "embedded": embedded.ids}, all_of_both=False)
    _check_items({"embedded": embedded.ids, "order": order})
    check_once(tuple(order), "order")
    shares = tuple(map(float, shares))
    if not shares or not all(0 <= one <= 1 for one in shares) or list(shares) != sorted(shares):
        raise EvaluationError(
            f"the shares {list(shares)} were given", "give fractions from 0 to 1 in ascending order"
        )
    gallery = _Replaced.of(upgraded, embedded, order, shares)
    relevance = Relevance.between(queries, gallery.embedded, exclude_self=exclude_self)
    first, scores = _judge(queries, gallery, relevance, block_bytes)
    counts = relevance.counts(queries.ids)
    evaluations = tuple(
        Evaluation(queries.ids, first[:, point], counts, scores[:, point])
        for point in range(len(shares))
    )
    return BackfillCurve(shares, evaluations, lost=len(gallery.lost))


def items_at(share: float, items: int) -> int:
    """Return how many of so many items a share of them is: the nearest whole number."""
    return round(round(share * items, 9))  # a third of three is one, whatever floats make of it


def random_order(ids: Iterable[str], *, seed: int) -> Ids:
    """Return ids in a random order that depends on the seed and on which they are alone."""
    ordered = sorted(ids)
    shuffled = np.random.default_rng(seed).permutation(len(ordered))
    return tuple(ordered[row] for row in shuffled)


def uncertainty_order(
    ids: Sequence[str], uncertainty: Float[np.ndarray, " item"] | Sequence[float]
) -> Ids:
    """Return ids by falling uncertainty, ties by id; only the order of the numbers matters.

    Raises:
        EvaluationError: if there is not one number an id, or one of them is NaN.
    """
    numbers = np.asarray(uncertainty, dtype=np.float64)
    if numbers.shape != (len(ids),) or np.isnan(numbers).any():
        raise EvaluationError(
            f"uncertainty of shape {numbers.shape} with {int(np.isnan(numbers).sum())} NaN for "
            f"{len(ids)} ids",
            "give one number an id, greatest where `h` is least sure",
        )
    by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    rows = by_id[np.argsort(-numbers[by_id], kind="stable")]
    return tuple(ids[row] for row in rows)


def oracle_order(upgraded: Embeddings, embedded: Embeddings) -> Ids:
    """Return ids by falling distance of the upgraded from the new vector, ties by id.

    The distance is Euclidean, of vectors of length 1 for the cosine. For "ip" too: minus the inner
    product of a vector with the one it should be says nothing of how far apart they are.

    For evaluation only: who knows the new vectors has nothing left to backfill.

    Raises:
        SpaceMismatchError: if the two are not in one space.
        EvaluationError: if they do not hold the same items.
    """
    check_same_space(embedded.space, upgraded.space)
    _check_items({"upgraded": upgraded.ids, "embedded": embedded.ids})
    metric = upgraded.space.metric
    differences = doubles(upgraded.vectors, metric)
    differences -= doubles(embedded.align(upgraded.ids).vectors, metric)
    return uncertainty_order(upgraded.ids, np.sqrt((differences**2).sum(axis=1)))


@dataclass(frozen=True, eq=False)
class _Replaced:
    """A gallery before and after, in the order of ids, and when each item is re-embedded.

    `since` is the first point at which an item has its new vector; `points`, if at none. What is
    `lost` has no upgraded vector: that of the new model stands in its place, and is not used.
    """

    upgraded: Searchable
    embedded: Searchable
    lost: Int64[np.ndarray, " lost"]
    since: Since
    points: int

    @classmethod
    def of(
        cls,
        upgraded: Searchable,
        embedded: Searchable,
        order: Sequence[str],
        shares: Sequence[float],
    ) -> "_Replaced":
        after = embedded.align(sorted(embedded.ids))
        there = places(upgraded.ids, after.ids)
        before: Searchable = upgraded
        if isinstance(upgraded, Embeddings) and isinstance(after, Embeddings):
            labelled_by(upgraded, "upgraded", [(after.select(there), "embedded")])  # or refused
            vectors = after.vectors.copy()
            vectors[there] = upgraded.vectors
            before = Embeddings(after.ids, vectors, after.space)
        elif len(upgraded) < len(after):
            raise EvaluationError(
                f"{len(after) - len(upgraded)} of {len(after)} items have neither an old vector "
                "nor an upgraded one",
                "give the old vectors of all items of a fused pair",
            )
        lost = np.setdiff1d(np.arange(len(after)), there)
        done = [items_at(share, len(after)) for share in shares]
        turns = places(after.ids, tuple(order))
        since = np.searchsorted(done, turns, side="right").astype(np.int64)
        return cls(before, after, lost, since, len(shares))


def _judge(
    queries: Searchable, gallery: _Replaced, relevance: Relevance, block_bytes: int
) -> tuple[Int64[np.ndarray, "query point"], Float64[np.ndarray, "query point"]]:
    """Return each query's first hit and average precision at each point."""
    size = len(gallery.since)
    first = np.full((len(queries), gallery.points), -1, dtype=np.int64)
    scores = np.full((len(queries), gallery.points), np.nan)
    sides = Searched.of(gallery.upgraded), Searched.of(gallery.embedded)
    own = sides[0].own(queries.ids, relevance.exclude_self)
    step, tile = block_sizes(size, numbers_of(queries), block_bytes, kept=BYTES_A_KEY * size)
    for start in range(0, len(queries), step):
        rows = range(start, min(start + step, len(queries)))
        part = slice(start, rows.stop)
        asked = queries.select(rows)
        before, after = (
            np.concatenate(
                [np.empty((len(rows), 0), np.uint64), *side.keys(asked, own[part], tile)], axis=1
            )
            for side in sides
        )
        before[:, gallery.lost] = LEFT_OUT
        for row, keys, new_keys in zip(rows, before, after, strict=True):
            wanted, _ = relevance.relevant(queries.ids[row])
            ranks = _ranks(keys, new_keys, wanted, gallery)
            if len(ranks):
                first[row] = np.where(ranks[0] == NOT_FOUND, -1, ranks[0])
                precision = np.arange(1, len(ranks) + 1)[:, None] / (ranks + 1)
                precision[ranks == NOT_FOUND] = 0
                scores[row] = precision.sum(axis=0) / len(ranks)
    return first, scores


def _ranks(
    before: ItemKeys, after: ItemKeys, relevant: Int64[np.ndarray, " relevant"], gallery: _Replaced
) -> Int64[np.ndarray, "relevant point"]:
    """Return the ranks of the relevant items from 0, ascending, at each point.

    The rank of an item is the number of keys below its own: of upgraded items that are not yet
    re-embedded, and of re-embedded ones. `NOT_FOUND` where it has no vector yet.
    """
    limits = np.sort(np.concatenate([before[relevant], after[relevant]]))
    upgraded = _below(limits, before, gallery)
    embedded = _below(limits, after, gallery)
    below = upgraded.sum(axis=1, keepdims=True) + (embedded - upgraded).cumsum(axis=1)
    below = below[:, : gallery.points]
    is_embedded = gallery.since[relevant, None] <= np.arange(gallery.points)
    ranks: Int64[np.ndarray, "relevant point"] = np.where(
        is_embedded,
        below[np.searchsorted(limits, after[relevant])],
        np.where(
            (before[relevant] == LEFT_OUT)[:, None],
            NOT_FOUND,
            below[np.searchsorted(limits, before[relevant])],
        ),
    )
    ranks.sort(axis=0)
    return ranks


def _below(
    limits: UInt64[np.ndarray, " limit"], keys: ItemKeys, gallery: _Replaced
) -> Int64[np.ndarray, "limit point"]:
    """Count the keys below each limit, by the point at which their items are re-embedded.

    A column more than there are points is for those that are not.
    """
    place = np.searchsorted(limits, keys, side="right")  # below the limit of this place and on
    width = gallery.points + 1
    flat = place * width + gallery.since
    counts = np.bincount(flat, minlength=(len(limits) + 1) * width)
    below: Int64[np.ndarray, "limit point"] = counts.reshape(-1, width)[:-1].cumsum(axis=0)
    return below


def _check_items(given: Mapping[str, Sequence[str]], *, all_of_both: bool = True) -> None:
    """Refuse ids, by what they are, of which the first has others than the second, or too few."""
    (one, some), (other, every) = ((name, set(ids)) for name, ids in given.items())
    differ = sorted(some ^ every if all_of_both else some - every)
    if differ:
        here, missing = (one, other) if differ[0] in some else (other, one)
        raise EvaluationError(
            f"{differ[0]!r} is in {here}, not in {missing}, and {len(differ)} items are in one of "
            "the two alone",
            "give both for the items of the gallery",
        )
