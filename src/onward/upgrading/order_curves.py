"""Curves of a backfill in several orders, on items of which the true new embeddings are known.

Random, by uncertainty, and by the oracle, which backfills first what is farthest off: only who has
all new embeddings knows that order. Nothing here reads a gallery.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from onward.backfill_curve import (
    POINTS,
    evaluate_backfill,
    oracle_order,
    random_order,
    uncertainty_order,
)
from onward.evaluation import METRICS, Evaluation
from onward.intervals import Interval, difference_over_queries, over_values
from onward.spaces import Embeddings, Ids
from onward.upgrading.judged import JudgedItems, PerQuery

RANDOM, UNCERTAINTY, ORACLE = "random", "uncertainty", "oracle"
SEEDS = 5
"""The random curve is the mean of so many orders."""
SHARES = tuple(point / (POINTS - 1) for point in range(POINTS))
"""Of the items that are embedded: evenly spaced, from 0 to 1."""

PLANNED_SHARES = (0.1, 0.25, 0.5)
"""What the plan of an upgrade speaks of, between nothing and all."""
ALL_SHARES = tuple(sorted({*SHARES, *PLANNED_SHARES}))

Values = Float64[np.ndarray, " share"]
Planned = Float64[np.ndarray, " planned"]


@dataclass(frozen=True, eq=False)
class OrderCurve:
    """What search gives while ever more items are embedded in one order.

    Attributes:
        order: "random", "uncertainty", or "oracle" (the farthest off first, which nobody can know).
        values: at each of `SHARES`, by metric.
        planned: at each of `PLANNED_SHARES`, by metric: what the plan of the upgrade says too.
    """

    order: str
    values: Mapping[str, Values]
    planned: Mapping[str, Planned] = field(default_factory=dict)

    @classmethod
    def of(cls, order: str, found: Mapping[str, Values]) -> "OrderCurve":
        """Return the curve of what was found at each of `ALL_SHARES`, by metric."""
        on_grid, planned = (
            np.isin(ALL_SHARES, shares) for shares in (np.array(SHARES), np.array(PLANNED_SHARES))
        )
        return cls(
            order,
            {metric: values[on_grid] for metric, values in found.items()},
            {metric: values[planned] for metric, values in found.items()},
        )

    def at_all_shares(self, metric: str) -> dict[float, float]:
        """Return what a metric is at each share that is known, in their order."""
        known = dict(zip(SHARES, self.values[metric].tolist(), strict=True))
        planned = self.planned.get(metric, np.empty(0)).tolist()
        known |= dict(zip(PLANNED_SHARES, planned, strict=False))
        return dict(sorted(known.items()))

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


def backfill_orders(judged: JudgedItems, *, seed: int) -> dict[str, tuple[Ids, ...]]:
    """Return in which orders a backfill can embed the items, by name; random ones are several.

    What no transformation carries comes first in each: it is not found at all. That by uncertainty
    is there only if a transformation knows its own.
    """
    upgraded = judged.upgraded
    lost = sorted(set(judged.ids) - set(upgraded.ids))
    orders: dict[str, tuple[Ids, ...]] = {
        RANDOM: tuple(
            (*random_order(lost, seed=turn), *random_order(upgraded.ids, seed=turn))
            for turn in range(seed, seed + SEEDS)
        )
    }
    known = judged.uncertainties
    if known:
        numbers = [known.get(item, -np.inf) for item in upgraded.ids]
        orders[UNCERTAINTY] = ((*lost, *uncertainty_order(upgraded.ids, numbers)),)
    orders[ORACLE] = ((*lost, *oracle_order(upgraded, judged.new.align(upgraded.ids))),)
    return orders


def draw_curves(judged: JudgedItems, *, seed: int) -> OrderCurves:
    """Return the curves of a backfill of the items; what no transformation carries counts too.

    Args:
        judged: the items; cmc@1, cmc@5 and map if they have labels, else the agreement of
            neighbours with a full backfill.
        seed: of the random orders.
    """
    orders = backfill_orders(judged, seed=seed)
    return (_by_agreement if judged.labels is None else _by_labels)(judged, orders)


def _by_labels(judged: JudgedItems, orders: Mapping[str, Sequence[Ids]]) -> OrderCurves:
    assert judged.labels is not None  # noqa: S101  # whoever calls has looked
    new = Embeddings(judged.ids, judged.new.vectors, judged.new.space, judged.labels)
    ids, vectors = judged.upgraded.ids, judged.upgraded.vectors
    upgraded = Embeddings(ids, vectors, new.space, new.align(ids).labels)
    found = {
        name: [
            evaluate_backfill(new, upgraded, new, order, ALL_SHARES, exclude_self=True)
            for order in each
        ]
        for name, each in orders.items()
    }
    curves = tuple(
        OrderCurve.of(name, {metric: _mean_over_orders(each, metric) for metric in METRICS})
        for name, each in found.items()
    )
    ends = found[ORACLE][0]
    gains = {metric: difference_over_queries(ends[-1], ends[0], metric) for metric in METRICS}
    return OrderCurves(curves, gains)


def _mean_over_orders(found: Sequence[Sequence[Evaluation]], metric: str) -> Values:
    values = [[evaluation.to_json()[metric] for evaluation in each] for each in found]
    mean: Values = np.array(values, dtype=np.float64).mean(axis=0)
    return mean


def _by_agreement(judged: JudgedItems, orders: Mapping[str, Sequence[Ids]]) -> OrderCurves:
    def agree(order: Ids, share: float) -> PerQuery:
        return judged.agreement_of(judged.new, judged.backfilled(order, share))

    def curve(order: Ids) -> Values:
        return np.array([agree(order, share).mean() for share in ALL_SHARES])

    curves = tuple(
        OrderCurve.of(name, {"agreement": np.mean([curve(ids) for ids in each], axis=0)})
        for name, each in orders.items()
    )
    gained = 1.0 - agree(orders[ORACLE][0], 0.0)
    return OrderCurves(curves, {"agreement": over_values(gained, difference=True)})
