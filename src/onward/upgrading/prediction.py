"""How well search will be: doing nothing, upgrading, backfilling a part, full backfill.

Some items of the gallery are both queries and gallery, and no query looks for itself. From cell to
cell their vectors differ, never the items. They are fewer than the gallery's, so it is the
differences between cells that carry over to it, not the height of the numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onward.agreement import count_neighbours
from onward.errors import ConfigurationError, UpgradeError
from onward.evaluation import evaluate
from onward.gallery import Gallery
from onward.gallery.values import aligned
from onward.intervals import Interval, over_values
from onward.relevance import Relevance
from onward.retrieval import rank
from onward.spaces import Embeddings
from onward.upgrading.judged import (
    LEAST_ITEMS,
    MOST_ITEMS,
    JudgedItems,
    PerQuery,
    choose_judged,
    count_unlisted,
)
from onward.upgrading.order_curves import (
    PLANNED_SHARES,
    RANDOM,
    SEEDS,
    UNCERTAINTY,
    backfill_orders,
)
from onward.upgrading.routes import Routes
from onward.upgrading.sample import digest_sample
from onward.upgrading.work import check_whole

METRICS = ("cmc@1", "cmc@5", "map", "agreement")
NOTHING, UPGRADE, EVERYTHING = "do nothing", "upgrade", "full backfill"
SHARES = PLANNED_SHARES
"""Of the items that are backfilled beside the upgrade."""

_Found = Mapping[str, PerQuery]  # by metric


@dataclass(frozen=True)
class Cell:
    """What one way to go is predicted to give.

    Attributes:
        name: "do nothing", "upgrade", "upgrade + backfill 10 %" and so on, or "full backfill".
        share: of the items that the new model embeds, in [0, 1]; of doing nothing, 0.
        values: each metric with its interval.
        gains: each metric minus that of doing nothing, with its paired interval.
    """

    name: str
    share: float
    values: Mapping[str, Interval]
    gains: Mapping[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "name": self.name,
            "share": self.share,
            "values": {metric: value.to_json() for metric, value in self.values.items()},
            "gains": {metric: gain.to_json() for metric, gain in self.gains.items()},
        }


@dataclass(frozen=True, eq=False)
class Prediction:
    """What doing nothing, upgrading, and backfilling are predicted to give.

    Attributes:
        transformation: digest of the transformations.
        sample: digest of the sample's ids and vectors.
        items: by how many items it was judged; no transformation was fitted on them.
        queries: how many of them count: where labels judge, those that have something to find.
        neighbours: how many nearest items the agreement compares.
        lost: items among them that cannot be carried over; by the upgrade alone they are not found.
        remade: items among them whose vector that answers queries now was itself upgraded, and
            stands for the query that the model would have made.
        unlisted: of how many training pairs the transformations keep no ids, where they have not
            learned from a gallery sample: if items of the sample are among them, this flatters.
        left_out: the sample's other items: why they are left out, and how many.
        order: in which items are backfilled: "uncertainty", or "random", the mean of 5 orders.
        cells: what each way to go gives; "do nothing" first, then "upgrade", last "full backfill".
    """

    transformation: str
    sample: str
    items: int
    queries: int
    neighbours: int
    lost: int
    remade: int
    unlisted: int
    left_out: Mapping[str, int]
    order: str
    cells: tuple[Cell, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is known: cmc@1, cmc@5 and map if labels judge, and the agreement always."""
        return tuple(self.cells[0].values)

    def cell(self, name: str) -> Cell:
        """Return a cell by its name.

        Raises:
            UpgradeError: if there is none of that name.
        """
        for one in self.cells:
            if one.name == name:
                return one
        known = ", ".join(repr(one.name) for one in self.cells)
        raise UpgradeError(f"nothing is predicted of {name!r}, but of {known}; choose one of these")

    def value(self, metric: str, name: str) -> float:
        """Return what a cell is predicted to give, in [0, 1]."""
        return self.cell(name).values[metric].estimate

    def to_json(self) -> dict[str, Any]:
        """Return fractions as plain values."""
        return {
            "transformation": self.transformation,
            "sample": self.sample,
            "items": self.items,
            "queries": self.queries,
            "neighbours": self.neighbours,
            "lost": self.lost,
            "remade": self.remade,
            "unlisted": self.unlisted,
            "left_out": dict(self.left_out),
            "order": self.order,
            "cells": [cell.to_json() for cell in self.cells],
        }

    def __str__(self) -> str:
        rows = [("percent, 95 % interval", *self.metrics, "")]
        for cell in self.cells:
            shown = (_shown(cell.values[metric]) for metric in self.metrics)
            rows.append((cell.name, *shown, ""))
        by = "labels" if "map" in self.metrics else f"agreement of {self.neighbours} neighbours"
        lines = [
            f"predicted by {by} on {self.items:,} items of the sample, {self.queries:,} of them "
            f"queries; backfill by {_shown_order(self.order)}",
            *(f"  {line}" for line in aligned(rows)),
        ]
        left_out = ", ".join(f"{count:,} ({why})" for why, count in self.left_out.items())
        if left_out:
            lines.append(f"  left out of the sample: {left_out}")
        if self.lost:
            lines.append(
                f"  {self.lost:,} items cannot be carried over; upgrading alone loses them"
            )
        if self.remade:
            lines.append(
                f"  doing nothing: {self.remade:,} queries are vectors that an upgrade has made; "
                "the model's own may find more or less"
            )
        if self.unlisted:
            lines.append(
                f"  of {self.unlisted:,} training pairs no ids are kept; if the sample's items are "
                "among them, this flatters"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Unpredicted:
    """Why nothing can be predicted, and what to do."""

    why: str

    def __str__(self) -> str:
        return self.why


def predict(
    gallery: Gallery,
    routes: Routes,
    sample: Embeddings,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    most_items: int = MOST_ITEMS,
) -> Prediction | Unpredicted:
    """Predict how well search will be. Nothing is written.

    Args:
        gallery: the gallery.
        routes: the transformations.
        sample: true new embeddings of some of its items. Its labels judge, else the gallery's.
        shares: of the items that are backfilled, each between 0 and 1.
        seed: of the bootstrap's draws, and of the order of backfill where it is random.
        most_items: judge by no more items than these, chosen by a digest of their ids.

    Returns:
        The prediction; or why there is none, where fewer than 20 items are left to judge by.

    Raises:
        SpaceMismatchError: if the sample is in another space than the upgrade leads to.
        ConfigurationError: if a share is not between 0 and 1, or the seed or the number of items is
            none.
    """
    check_whole("seed", seed, least=0)
    check_whole("most_items", most_items)
    wrong = [share for share in shares if not 0 < share < 1]
    if wrong:
        raise ConfigurationError(
            f"a share of {wrong[0]:g} of the items is not a part of them; give shares between 0 "
            "and 1: upgrading alone and full backfill are predicted in any case"
        )
    judged = choose_judged(gallery, routes, sample, most_items=most_items)
    if not judged.are_enough:
        return Unpredicted(_why_not(judged, len(sample)))
    name = UNCERTAINTY if judged.uncertainties else RANDOM
    orders = backfill_orders(judged, seed=seed)[name]
    ways = {UPGRADE: 0.0}
    ways |= {f"upgrade + backfill {100 * share:g} %": share for share in sorted(shares)}
    ways[EVERYTHING] = 1.0
    found = {NOTHING: _judge(judged, judged.nothing, judged.nothing)}
    for way, share in ways.items():
        each = orders if 0 < share < 1 else orders[:1]  # at the ends all are the same
        galleries = (judged.backfilled(order, share) for order in each)
        found[way] = _mean([_judge(judged, judged.new, gallery) for gallery in galleries])
    cells = tuple(
        _cell(way, ways.get(way, 0.0), values, found[NOTHING], seed)
        for way, values in found.items()
    )
    by = "agreement" if judged.labels is None else "map"
    return Prediction(
        transformation=routes.digest,
        sample=digest_sample(sample),
        items=len(judged),
        queries=len(found[NOTHING][by]),
        neighbours=count_neighbours(len(judged)),
        lost=judged.lost,
        remade=judged.remade,
        unlisted=sum(count_unlisted(one.made_by) for one in routes.transformations),
        left_out=judged.left_out,
        order=name,
        cells=cells,
    )


def _judge(judged: JudgedItems, queries: Embeddings, gallery: Embeddings) -> _Found:
    """Return what each query gets, by metric; an item that the gallery lacks is not found."""
    found = {"agreement": judged.agreement_of(queries, gallery)}
    if judged.labels is None:
        return found
    relevance = Relevance.of_labels(
        judged.ids, judged.ids, judged.labels, judged.labels, exclude_self=True
    )
    evaluation = evaluate(rank(queries, gallery, exclude_self=True), relevance)
    first = evaluation.first_hit[evaluation.counted]
    hits = {f"cmc@{k}": ((first >= 0) & (first < k)).astype(np.float64) for k in (1, 5)}
    return {**hits, "map": evaluation.average_precision[evaluation.counted], **found}


def _mean(found: Sequence[_Found]) -> _Found:
    """Return what each query gets in the mean of several orders."""
    return {metric: np.mean([one[metric] for one in found], axis=0) for metric in found[0]}


def _cell(name: str, share: float, values: _Found, nothing: _Found, seed: int) -> Cell:
    return Cell(
        name=name,
        share=share,
        values={metric: over_values(each, seed=seed) for metric, each in values.items()},
        gains={
            metric: over_values(each - nothing[metric], difference=True, seed=seed)
            for metric, each in values.items()
        },
    )


def _why_not(judged: JudgedItems, given: int) -> str:
    reasons = ", ".join(f"{count:,} ({why})" for why, count in judged.left_out.items())
    left = f"{len(judged):,} of the sample's {given:,} items are left to judge by"
    if len(judged) >= LEAST_ITEMS:
        left += ", and no transformation can carry one of them"
    return (
        f"nothing can be predicted: {left}, {LEAST_ITEMS} are needed"
        + (f"; left out: {reasons}" if reasons else "")
        + ". Keep a part of the sample for the plan when fitting (`onward fit --sample` keeps a "
        f"fifth, and {LEAST_ITEMS} at least), or embed more items of the gallery, chosen by "
        "`onward gallery sample`"
    )


def _shown_order(order: str) -> str:
    return order if order != RANDOM else f"{RANDOM}, the mean of {SEEDS} orders"


def _shown(value: Interval) -> str:
    return f"{100 * value.estimate:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
