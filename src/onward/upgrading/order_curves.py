"""Curves of a backfill in several orders, on items of which the true new embeddings are known.

Random, by uncertainty, and by the oracle, which backfills first what is farthest off: only who has
all new embeddings knows that order. Nothing here reads a gallery.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from onward.agreement import agreement, count_neighbours
from onward.backfill_curve import (
    POINTS,
    backfill_curve,
    oracle_order,
    random_order,
    uncertainty_order,
)
from onward.compatibility import METRICS
from onward.intervals import Interval, difference_over_queries, over_values
from onward.retrieval import search
from onward.spaces import Embeddings, Ids
from onward.upgrading.judged import JudgedItems

RANDOM, UNCERTAINTY, ORACLE = "random", "uncertainty", "oracle"
SEEDS = 5
"""The random curve is the mean of so many orders."""
SHARES = tuple(point / (POINTS - 1) for point in range(POINTS))
"""Of the items that are embedded: evenly spaced, from 0 to 1."""

Values = Float64[np.ndarray, " share"]


@dataclass(frozen=True, eq=False)
class OrderCurve:
    """What search gives while ever more items are embedded in one order.

    Attributes:
        order: "random", "uncertainty", or "oracle" (the farthest off first, which nobody can know).
        values: at each share, by metric.
    """

    order: str
    values: Mapping[str, Values]

    def auc(self, metric: str) -> float:
        """Return the mean over the shares, in [0, 1]."""
        return float(self.values[metric].mean())


@dataclass(frozen=True, eq=False)
class OrderCurves:
    """The curves of all orders, and what lies between their ends.

    Attributes:
        curves: random; uncertainty, where the transformations know it; oracle. All begin with the
            upgrade alone and end with full backfill.
        gains: by metric, what full backfill gives minus what upgrading alone does, with the
            paired bootstrap's interval over the queries.
    """

    curves: tuple[OrderCurve, ...]
    gains: Mapping[str, Interval]

    def of(self, order: str) -> OrderCurve | None:
        """Return the curve of an order, if there is one."""
        return next((one for one in self.curves if one.order == order), None)


def draw_curves(judged: JudgedItems, *, seed: int) -> OrderCurves:
    """Return the curves of those of the items that a transformation carries.

    Args:
        judged: the items; cmc@1, cmc@5 and map if they have labels, else the agreement of
            neighbours with a full backfill.
        seed: of the random orders.
    """
    orders = _orders(judged, seed)
    return (_by_agreement if judged.labels is None else _by_labels)(judged, orders)


def _orders(judged: JudgedItems, seed: int) -> dict[str, list[Ids]]:
    """Return the orders whose curves are drawn; of the random ones the mean is taken."""
    upgraded = judged.upgraded
    orders = {RANDOM: [random_order(upgraded.ids, seed=seed + turn) for turn in range(SEEDS)]}
    known = judged.uncertainties
    if known:
        numbers = [known.get(item, -np.inf) for item in upgraded.ids]
        orders[UNCERTAINTY] = [uncertainty_order(upgraded.ids, numbers)]
    orders[ORACLE] = [oracle_order(upgraded, judged.new.align(upgraded.ids))]
    return orders


def _by_labels(judged: JudgedItems, orders: Mapping[str, Sequence[Ids]]) -> OrderCurves:
    assert judged.labels is not None  # noqa: S101  # whoever calls has looked
    label_of = dict(zip(judged.ids, judged.labels.tolist(), strict=True))
    ids = judged.upgraded.ids
    labels = np.array([label_of[item] for item in ids], np.int64)
    upgraded = Embeddings(ids, judged.upgraded.vectors, judged.upgraded.space, labels)
    new = Embeddings(ids, judged.new.align(ids).vectors, judged.new.space, labels)
    found = {
        name: [backfill_curve(new, upgraded, new, ids, exclude_self=True) for ids in each]
        for name, each in orders.items()
    }
    curves = tuple(
        OrderCurve(name, {m: np.mean([one.values(m) for one in each], axis=0) for m in METRICS})
        for name, each in found.items()
    )
    ends = found[ORACLE][0].evaluations
    gains = {metric: difference_over_queries(ends[-1], ends[0], metric) for metric in METRICS}
    return OrderCurves(curves, gains)


def _by_agreement(judged: JudgedItems, orders: Mapping[str, Sequence[Ids]]) -> OrderCurves:
    upgraded, new = judged.upgraded, judged.new.align(judged.upgraded.ids)
    count = count_neighbours(len(new))
    wanted = search(new, new, count, exclude_self=True)
    place = {item: row for row, item in enumerate(new.ids)}

    def agree(order: Ids, point: int) -> Float64[np.ndarray, " query"]:
        vectors = upgraded.vectors.copy()
        rows = [place[item] for item in order[: round(point * len(order) / (POINTS - 1))]]
        vectors[rows] = new.vectors[rows]
        mixed = Embeddings(new.ids, vectors, new.space)
        return agreement(search(new, mixed, count, exclude_self=True), wanted)

    def curve(order: Ids) -> Values:
        return np.array([agree(order, point).mean() for point in range(POINTS)])

    curves = tuple(
        OrderCurve(name, {"agreement": np.mean([curve(ids) for ids in each], axis=0)})
        for name, each in orders.items()
    )
    gained = 1.0 - agree(orders[ORACLE][0], 0)
    return OrderCurves(curves, {"agreement": over_values(gained, difference=True)})
