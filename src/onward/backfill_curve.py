"""How retrieval changes while an upgraded gallery is backfilled, from nothing to all of it.

In a gallery that was upgraded, items are re-embedded one after the other in some order: their
upgraded vectors give way to those of the new model. The curve says how well queries are answered
at evenly spaced shares of the way; its mean, the area under the curve (AUC), judges the order.
Nothing here knows how the vectors were made or where an order comes from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64, UInt64

from onward.errors import EvaluationError
from onward.evaluation import METRICS, Evaluation
from onward.labels import renumber, translate
from onward.relevance import Relevance
from onward.retrieval import (
    BLOCK_QUERIES,
    LEFT_OUT,
    POSITION_BITS,
    SLICE_ITEMS,
    TILE_ITEMS,
    doubles,
    exact_distances,
    sortable_bits,
)
from onward.spaces import Embeddings, Ids, check_same_space

POINTS = 22
"""The grid of FastFill: from 0 to 1 in steps of 1/21."""

BYTES_A_KEY = 64
"""Both keys of a query and a gallery item, and what it takes to count them."""
BYTES_A_PAIR = 32
"""Product and distance of one pair in a tile."""

NOT_FOUND = 2**62
"""The rank of what has no vector: greater than any other."""

Keys = UInt64[np.ndarray, "query item"]
ItemKeys = UInt64[np.ndarray, " item"]
Since = Int64[np.ndarray, " item"]


@dataclass(frozen=True, eq=False)
class BackfillCurve:
    """Evaluations of a gallery of which ever more is re-embedded.

    Attributes:
        shares: of the gallery's items that are re-embedded: evenly spaced, from 0 to 1.
        evaluations: the same queries at each of these shares.
        lost: how many items had no upgraded vector: they are not found until they are re-embedded.

    Raises:
        EvaluationError: if there are fewer than two shares, or not one evaluation for each.
    """

    shares: tuple[float, ...]
    evaluations: tuple[Evaluation, ...]
    lost: int = 0

    def __post_init__(self) -> None:
        if len(self.shares) < 2 or len(self.shares) != len(self.evaluations):
            raise EvaluationError(
                f"{len(self.evaluations)} evaluations at {len(self.shares)} shares make no curve",
                "give one each, at two shares or more",
            )

    @property
    def auc_name(self) -> str:
        """The name of the mean with its grid, such as "auc@22": other grids give other means."""
        return f"auc@{len(self.shares)}"

    def values(self, metric: str) -> Float64[np.ndarray, " share"]:
        """Return "cmc@1", "cmc@5" or "map" at each share, in [0, 1]; NaN if no query counts.

        Raises:
            EvaluationError: if there is no such metric.
        """
        if metric not in METRICS:
            raise EvaluationError(
                f"there is no metric {metric!r}", f"choose one of {list(METRICS)}"
            )
        values = [evaluation.to_json()[metric] for evaluation in self.evaluations]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def auc(self, metric: str) -> float:
        """Return the mean of a metric over the shares, in [0, 1]; NaN if no query counts.

        Raises:
            EvaluationError: if there is no such metric.

        References:
            Jaeckle et al., FastFill: efficient compatible model update, ICLR 2023.
        """
        return float(self.values(metric).mean())

    def to_json(self) -> dict[str, Any]:
        """Return fractions as plain values: by metric, and their means; None if unknown."""
        columns = {metric: self.values(metric).tolist() for metric in METRICS}
        means = {metric: self.auc(metric) for metric in METRICS}
        return {
            "shares": list(self.shares),
            **{metric: [_known(value) for value in column] for metric, column in columns.items()},
            self.auc_name: {metric: _known(mean) for metric, mean in means.items()},
            "queries": self.evaluations[0].queries,
            "skipped": self.evaluations[0].skipped,
        } | ({"lost": self.lost} if self.lost else {})

    def __str__(self) -> str:
        lines = [f"{'re-embedded':<12}" + "".join(f"{metric:>7}" for metric in METRICS)]
        lines[0] += "   (percent)"
        for share, evaluation in zip(self.shares, self.evaluations, strict=True):
            lines.append(f"{f'{100 * share:.1f}':<12}{evaluation.columns()}")
        means = (self.auc(metric) for metric in METRICS)
        shown = ("-" if np.isnan(mean) else f"{100 * mean:.1f}" for mean in means)
        lines.append(f"{self.auc_name:<12}" + "".join(f"{mean:>7}" for mean in shown))
        lines.append(self.evaluations[0].counted_text())
        if self.lost:
            lines.append(
                f"{self.lost:,} items have no upgraded vector: not found until re-embedded."
            )
        return "\n".join(lines)


def backfill_curve(
    queries: Embeddings,
    upgraded: Embeddings,
    embedded: Embeddings,
    order: Sequence[str],
    *,
    exclude_self: bool,
    points: int = POINTS,
    block_bytes: int = 64 << 20,
) -> BackfillCurve:
    """Evaluate a gallery while its items are re-embedded in an order; exact, in bounded memory.

    Args:
        queries: with labels, in the new space.
        upgraded: the gallery with labels, in the new space, as the upgrade left it. Items that no
            transformation could carry are missing here; see `evaluate_backfill`.
        embedded: all of the gallery's items with the vectors that the new model gives them.
        order: the ids of the gallery, most urgent first.
        exclude_self: leave out a query's own gallery entry, the one of the same id.
        points: number of shares, from 0 to 1, both included; it stands in the name of the AUC.
        block_bytes: about how much memory to work in. It changes the speed, never the result.

    Raises:
        SpaceMismatchError: if the three are not in one space.
        EvaluationError: as `evaluate_backfill` does, and if there are fewer than two points.
    """
    if points < 2:
        raise EvaluationError(
            f"a curve of points={points} has no two ends",
            f"ask for 2 or more, {POINTS} as FastFill",
        )
    shares = tuple(point / (points - 1) for point in range(points))
    evaluations = evaluate_backfill(
        queries,
        upgraded,
        embedded,
        order,
        shares,
        exclude_self=exclude_self,
        block_bytes=block_bytes,
    )
    return BackfillCurve(shares, evaluations, lost=len(embedded) - len(upgraded))


def evaluate_backfill(
    queries: Embeddings,
    upgraded: Embeddings,
    embedded: Embeddings,
    order: Sequence[str],
    shares: Sequence[float],
    *,
    exclude_self: bool,
    block_bytes: int = 64 << 20,
) -> tuple[Evaluation, ...]:
    """Evaluate a gallery of which some shares are re-embedded; exact, in bounded memory.

    Both distances of a query and an item are computed once. How often they lie below those of the
    relevant items is counted for all shares together, so this costs a few evaluations, not one for
    each share. An item without an upgraded vector is one to find all the same: until it is
    re-embedded it is not found, and adds zero.

    Args:
        queries: with labels, in the new space.
        upgraded: the gallery as the upgrade left it, with labels: of some of the items, or of all.
        embedded: all of the items with the vectors that the new model gives them.
        order: the ids of all of the items, most urgent first.
        shares: ascending, in [0, 1]; see `items_at`.
        exclude_self: leave out a query's own gallery entry, the one of the same id.
        block_bytes: about how much memory to work in. It changes the speed, never the result.

    Raises:
        SpaceMismatchError: if the three are not in one space.
        EvaluationError: if an upgraded item is not among the embedded ones, the order does not
            hold the same items, labels are missing or differ, or the shares are not as they must
            be.
    """
    check_same_space(queries.space, upgraded.space)
    check_same_space(queries.space, embedded.space)
    _check_among(upgraded.ids, embedded.ids)
    _check_same_items(embedded.ids, tuple(order), "embedded", "order")
    if len(order) != len(embedded):
        raise EvaluationError(
            f"the order names {len(order)} items where the gallery holds {len(embedded)}",
            "name every item once",
        )
    if not all(0 <= share <= 1 for share in shares) or list(shares) != sorted(shares):
        raise EvaluationError(
            f"the shares {list(shares)} were given", "give fractions from 0 to 1 in ascending order"
        )
    gallery = _Replaced.of(upgraded, embedded, order, shares)
    relevance = Relevance.between(queries, gallery.embedded, exclude_self=exclude_self)
    first, scores = _judge(queries, gallery, relevance, block_bytes)
    counts = relevance.counts(queries.ids)
    return tuple(
        Evaluation(queries.ids, first[:, point], counts, scores[:, point])
        for point in range(len(shares))
    )


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
    _check_same_items(upgraded.ids, embedded.ids, "upgraded", "embedded")
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

    upgraded: Embeddings
    embedded: Embeddings
    lost: Int64[np.ndarray, " lost"]
    since: Since
    points: int

    @classmethod
    def of(
        cls,
        upgraded: Embeddings,
        embedded: Embeddings,
        order: Sequence[str],
        shares: Sequence[float],
    ) -> "_Replaced":
        after = embedded.align(sorted(embedded.ids))
        row_of = {item: row for row, item in enumerate(after.ids)}
        there = np.array([row_of[item] for item in upgraded.ids], dtype=np.int64)
        if not _same_classes(upgraded, after.select(there)):
            raise EvaluationError(
                "upgraded and embedded do not give the same items the same labels",
                "take the labels of both from the same data",
            )
        vectors = after.vectors.copy()
        vectors[there] = upgraded.vectors
        before = Embeddings(after.ids, vectors, after.space)
        lost = np.setdiff1d(np.arange(len(after)), there)
        done = [items_at(share, len(after)) for share in shares]
        place_of = {item: place for place, item in enumerate(order)}
        places = np.array([place_of[item] for item in after.ids], dtype=np.int64)
        since = np.searchsorted(done, places, side="right").astype(np.int64)
        return cls(before, after, lost, since, len(shares))


def _same_classes(one: Embeddings, other: Embeddings) -> bool:
    """Say whether the same items are of the same classes, by name where both have names.

    The classes of the same items tell that their numbers mean the same where one has no names.
    """
    if one.labels is None or other.labels is None:
        return one.labels is other.labels
    names = (one.class_names, other.class_names)
    translated = translate(*names, same_labels=True, sources=("upgraded", "embedded"))
    return np.array_equal(renumber(one.labels, translated), other.labels)


def _judge(
    queries: Embeddings, gallery: _Replaced, relevance: Relevance, block_bytes: int
) -> tuple[Int64[np.ndarray, "query point"], Float64[np.ndarray, "query point"]]:
    """Return each query's first hit and average precision at each point."""
    size, metric = len(gallery.since), queries.space.metric
    row_of = {item: row for row, item in enumerate(gallery.upgraded.ids)}
    own = np.array([row_of.get(item, -1) for item in queries.ids], dtype=np.int64)
    if not relevance.exclude_self:
        own[:] = -1
    first = np.full((len(queries), gallery.points), -1, dtype=np.int64)
    scores = np.full((len(queries), gallery.points), np.nan)
    tile = max(1, min(size, TILE_ITEMS, block_bytes // (64 * queries.space.dim)))
    a_query = BYTES_A_KEY * size + BYTES_A_PAIR * tile + 48 * min(tile, SLICE_ITEMS)
    step = max(1, min(BLOCK_QUERIES, block_bytes // (a_query + 16 * queries.space.dim)))
    for start in range(0, len(queries), step):
        rows = range(start, min(start + step, len(queries)))
        vectors = doubles(queries.vectors[start : rows.stop], metric)
        before = _keys(vectors, gallery.upgraded, own[start : rows.stop], tile)
        after = _keys(vectors, gallery.embedded, own[start : rows.stop], tile)
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


def _keys(
    queries: Float64[np.ndarray, "query dim"],
    gallery: Embeddings,
    own: Int64[np.ndarray, " query"],
    tile: int,
) -> Keys:
    """Return keys that sort by distance and then by id, for a gallery in the order of ids."""
    keys = np.empty((len(queries), len(gallery)), dtype=np.uint64)
    for start in range(0, len(gallery), tile):
        part = slice(start, start + tile)
        others = doubles(gallery.vectors[part], gallery.space.metric)
        distances = exact_distances(queries, others, gallery.space.metric)
        keys[:, part] = sortable_bits(distances)
    keys <<= POSITION_BITS
    keys |= np.arange(len(gallery), dtype=np.uint64)
    inside = np.flatnonzero(own >= 0)
    keys[inside, own[inside]] = LEFT_OUT
    return keys


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


def _check_among(upgraded: Ids, embedded: Ids) -> None:
    strangers = sorted(set(upgraded) - set(embedded))
    if strangers:
        raise EvaluationError(
            f"{strangers[0]!r} is in upgraded, not in embedded ({len(strangers)} of "
            f"{len(upgraded)} upgraded items are not)",
            "give the new vectors of all of the gallery's items",
        )


def _check_same_items(one: Ids, other: Ids, one_name: str, other_name: str) -> None:
    differ = sorted(set(one) ^ set(other))
    if differ:
        item = differ[0]
        here, missing = (one_name, other_name) if item in set(one) else (other_name, one_name)
        raise EvaluationError(
            f"{item!r} is in {here}, not in {missing} ({len(differ)} of {len(set(one + other))} "
            "items are in one of the two alone)",
            "give both the same items",
        )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
