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

from onward.compatibility import METRICS
from onward.errors import EvaluationError
from onward.evaluation import Evaluation
from onward.rankings import Relevance
from onward.retrieval import (
    BLOCK_QUERIES,
    LEFT_OUT,
    POSITION_BITS,
    SLICE_ITEMS,
    TILE_ITEMS,
    doubles,
    exact_distances,
)
from onward.spaces import Embeddings, Ids, check_same_space

POINTS = 22
"""The grid of FastFill: from 0 to 1 in steps of 1/21."""

BYTES_A_KEY = 64
"""Both keys of a query and a gallery item, and what it takes to count them."""
BYTES_A_PAIR = 32
"""Product and distance of one pair in a tile."""

Keys = UInt64[np.ndarray, "query item"]
ItemKeys = UInt64[np.ndarray, " item"]
Since = Int64[np.ndarray, " item"]


@dataclass(frozen=True, eq=False)
class BackfillCurve:
    """Evaluations of a gallery of which ever more is re-embedded.

    Attributes:
        shares: of the gallery's items that are re-embedded: evenly spaced, from 0 to 1.
        evaluations: the same queries at each of these shares.

    Raises:
        EvaluationError: if there are fewer than two shares, or not one evaluation for each.
    """

    shares: tuple[float, ...]
    evaluations: tuple[Evaluation, ...]

    def __post_init__(self) -> None:
        if len(self.shares) < 2 or len(self.shares) != len(self.evaluations):
            raise EvaluationError(
                f"{len(self.evaluations)} evaluations at {len(self.shares)} shares make no curve; "
                "give one each, at two shares or more"
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
            raise EvaluationError(f"there is no metric {metric!r}; choose one of {list(METRICS)}")
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
        }

    def __str__(self) -> str:
        lines = [f"{'re-embedded':<12}" + "".join(f"{metric:>7}" for metric in METRICS)]
        lines[0] += "   (percent)"
        for share, evaluation in zip(self.shares, self.evaluations, strict=True):
            lines.append(f"{f'{100 * share:.1f}':<12}{evaluation.columns()}")
        means = (self.auc(metric) for metric in METRICS)
        shown = ("-" if np.isnan(mean) else f"{100 * mean:.1f}" for mean in means)
        lines.append(f"{self.auc_name:<12}" + "".join(f"{mean:>7}" for mean in shown))
        return "\n".join([*lines, self.evaluations[0].counted_text()])


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

    Both distances of a query and an item are computed once. How often they lie below those of the
    relevant items is counted for all shares together, so a curve costs a few evaluations, not one
    for each point. At a share the first `round(share * items)` items of the order are re-embedded.

    Args:
        queries: with labels, in the new space.
        upgraded: the gallery with labels, in the new space, as the upgrade left it.
        embedded: the same items with the vectors that the new model gives them.
        order: the ids of the gallery, most urgent first.
        exclude_self: leave out a query's own gallery entry, the one of the same id.
        points: number of shares, from 0 to 1, both included; it stands in the name of the AUC.
        block_bytes: about how much memory to work in. It changes the speed, never the result.

    Raises:
        SpaceMismatchError: if the three are not in one space.
        EvaluationError: if the galleries or the order do not hold the same items, labels are
            missing or differ, or there are fewer than two points.
    """
    if points < 2:
        raise EvaluationError(
            f"a curve of points={points} has no two ends; ask for 2 or more, {POINTS} as FastFill"
        )
    check_same_space(queries.space, upgraded.space)
    check_same_space(queries.space, embedded.space)
    _check_same_items(upgraded.ids, embedded.ids, "upgraded", "embedded")
    _check_same_items(upgraded.ids, tuple(order), "upgraded", "order")
    if len(order) != len(upgraded):
        raise EvaluationError(
            f"the order names {len(order)} items where the gallery holds {len(upgraded)}; "
            "name every item once"
        )
    gallery = _Replaced.of(upgraded, embedded, order, points)
    relevance = Relevance.between(queries, gallery.upgraded, exclude_self=exclude_self)
    first, scores = _judge(queries, gallery, relevance, block_bytes)
    counts = relevance.counts(queries.ids)
    shares = tuple(point / (points - 1) for point in range(points))
    evaluations = tuple(
        Evaluation(queries.ids, first[:, point], counts, scores[:, point])
        for point in range(points)
    )
    return BackfillCurve(shares, evaluations)


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
            f"{len(ids)} ids; give one number an id, greatest where `h` is least sure"
        )
    by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    rows = by_id[np.argsort(-numbers[by_id], kind="stable")]
    return tuple(ids[row] for row in rows)


def oracle_order(upgraded: Embeddings, embedded: Embeddings) -> Ids:
    """Return ids by falling distance of the upgraded from the new vector, ties by id.

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

    `since` is the first point at which an item has its new vector, from 1 to points - 1.
    """

    upgraded: Embeddings
    embedded: Embeddings
    since: Since
    points: int

    @classmethod
    def of(
        cls, upgraded: Embeddings, embedded: Embeddings, order: Sequence[str], points: int
    ) -> "_Replaced":
        ids = sorted(upgraded.ids)
        before, after = upgraded.align(ids), embedded.align(ids)
        if not np.array_equal(before.labels, after.labels):  # type: ignore[arg-type]  # or None
            raise EvaluationError(
                "upgraded and embedded do not give the same items the same labels; take the "
                "labels of both from the same data"
            )
        done = np.round(np.arange(points) * len(ids) / (points - 1))  # items at each point
        place_of = {item: place for place, item in enumerate(order)}
        places = np.array([place_of[item] for item in ids], dtype=np.int64)
        since = np.searchsorted(done, places, side="right").astype(np.int64)
        return cls(before, after, since, points)


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
        for row, keys, new_keys in zip(rows, before, after, strict=True):
            wanted = relevance.gallery_labels == relevance.query_labels[row]
            if own[row] >= 0:
                wanted[own[row]] = False
            ranks = _ranks(keys, new_keys, np.flatnonzero(wanted), gallery)
            if len(ranks):
                first[row] = ranks[0]
                precision = np.arange(1, len(ranks) + 1)[:, None] / (ranks + 1)
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
        keys[:, part] = exact_distances(queries, others, gallery.space.metric).view(np.uint32)
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
    re-embedded, and of re-embedded ones.
    """
    limits = np.sort(np.concatenate([before[relevant], after[relevant]]))
    upgraded = _below(limits, before, gallery)
    embedded = _below(limits, after, gallery)
    below = upgraded.sum(axis=1, keepdims=True) + (embedded - upgraded).cumsum(axis=1)
    is_embedded = gallery.since[relevant, None] <= np.arange(gallery.points)
    ranks: Int64[np.ndarray, "relevant point"] = np.where(
        is_embedded,
        below[np.searchsorted(limits, after[relevant])],
        below[np.searchsorted(limits, before[relevant])],
    )
    ranks.sort(axis=0)
    return ranks


def _below(
    limits: UInt64[np.ndarray, " limit"], keys: ItemKeys, gallery: _Replaced
) -> Int64[np.ndarray, "limit point"]:
    """Count the keys below each limit, by the point at which their items are re-embedded."""
    place = np.searchsorted(limits, keys, side="right")  # below the limit of this place and on
    flat = place * gallery.points + gallery.since
    counts = np.bincount(flat, minlength=(len(limits) + 1) * gallery.points)
    below: Int64[np.ndarray, "limit point"] = counts.reshape(-1, gallery.points)[:-1].cumsum(axis=0)
    return below


def _check_same_items(one: Ids, other: Ids, one_name: str, other_name: str) -> None:
    differ = sorted(set(one) ^ set(other))
    if differ:
        item = differ[0]
        here, missing = (one_name, other_name) if item in set(one) else (other_name, one_name)
        raise EvaluationError(
            f"{item!r} is in {here}, not in {missing} ({len(differ)} of {len(set(one + other))} "
            "items are in one of the two alone); give both the same items"
        )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
