"""What a backfill would bring, before anything is spent on it: quality against share embedded.

True new embeddings of some items of the gallery are given, which `h` was not fitted on. They are
the queries, and the same items the gallery: at first as the upgrade makes them, or missing where
it cannot carry them, then embedded by the new model one after the other. The plan of the upgrade
says the same at the shares that both name. Nothing here writes, and no image can be read here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onward.errors import UpgradeError
from onward.gallery import Gallery
from onward.gallery.values import aligned
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation
from onward.upgrading.backfill_advice import advise
from onward.upgrading.judged import LEAST_ITEMS, MOST_ITEMS, JudgedItems, choose_judged
from onward.upgrading.order_curves import (
    PLANNED_SHARES,
    SEEDS,
    SHARES,
    OrderCurves,
    draw_curves,
)
from onward.upgrading.routes import Routes
from onward.upgrading.work import check_routes, check_whole, next_step

SHOWN = tuple(sorted({*SHARES[::3], *PLANNED_SHARES}))
"""The shares that a person is shown."""


@dataclass(frozen=True, eq=False)
class BackfillPlan:
    """What a backfill would bring.

    Attributes:
        gallery: URL of the gallery.
        transformation: digest of the transformations.
        space: the new space.
        upgraded: rows of the gallery that are as an upgrade made them.
        embedded: rows that the new model has embedded.
        missing: rows without a vector in the new space.
        items: by how many items of the sample it was judged.
        lost: how many of these no transformation can carry. Until they are embedded, which they are
            first, they are not found; all are queries, and looked for.
        left_out: of the sample's other items: why they are left out, and how many.
        drawn: the curves of each order, at `SHARES` of these items, and what full backfill gains.
    """

    gallery: str
    transformation: str
    space: Space
    upgraded: int
    embedded: int
    missing: int
    items: int
    lost: int
    left_out: Mapping[str, int]
    drawn: OrderCurves

    @property
    def metrics(self) -> tuple[str, ...]:
        """cmc@1, cmc@5 and map if labels judge, else the agreement of neighbours."""
        return tuple(self.drawn.gains)

    @property
    def auc_name(self) -> str:
        """The name of the mean over the shares, with its grid."""
        return f"auc@{len(SHARES)}"

    @cached_property
    def advice(self) -> str:
        """What to do, in a line or two."""
        return advise(self.drawn)

    def to_json(self) -> dict[str, Any]:
        """Return fractions as plain values, with what to do next."""
        return {
            "gallery": self.gallery,
            "transformation": self.transformation,
            "space": self.space.to_json(),
            "rows": {
                "upgraded": self.upgraded,
                "embedded": self.embedded,
                "missing": self.missing,
            },
            "items": self.items,
            "lost": self.lost,
            "left_out": dict(self.left_out),
            "shares": list(SHARES),
            "planned_shares": list(PLANNED_SHARES),
            "curves": {
                one.order: {
                    **{metric: values.tolist() for metric, values in one.values.items()},
                    self.auc_name: {metric: one.auc(metric) for metric in self.metrics},
                    "planned": {m: values.tolist() for m, values in one.planned.items()},
                }
                for one in self.drawn.curves
            },
            "gains": {metric: gain.to_json() for metric, gain in self.drawn.gains.items()},
            "advice": self.advice,
            "next_steps": self._next_steps(),
        }

    def __str__(self) -> str:
        by = "labels" if "map" in self.drawn.gains else "agreement of neighbours"
        lines = [
            f"plan for a backfill of gallery {self.gallery} in {self.space}",
            f"  rows     {self.upgraded:,} upgraded, {self.embedded:,} embedded, {self.missing:,} "
            "without a new vector",
            f"  judged   by {by} on {self.items:,} items; random is the mean of {SEEDS} orders",
        ]
        if self.lost:
            lines.append(
                f"  lost     {self.lost:,} of these items cannot be carried over: they are not "
                "found until they are embedded, which they are first"
            )
        lines += [f"  left out {count:,}: {why}" for why, count in self.left_out.items()]
        for metric in ("cmc@1", "map", "agreement"):
            if metric in self.drawn.gains:
                lines += ["", *(f"  {line}" for line in self._table(metric))]
        return "\n".join([*lines, "", self.advice, "A plan writes nothing."])

    def _table(self, metric: str) -> list[str]:
        rows = [(f"{metric}, percent", *(one.order for one in self.drawn.curves), "")]
        known = [one.at_all_shares(metric) for one in self.drawn.curves]
        for share in SHOWN:
            values = (f"{100 * one[share]:.1f}" for one in known)
            rows.append((f"{100 * share:.0f} % embedded", *values, ""))
        means = (f"{100 * one.auc(metric):.1f}" for one in self.drawn.curves)
        return aligned([*rows, (self.auc_name, *means, "")])

    def _next_steps(self) -> list[dict[str, str]]:
        worth = any(gain.estimate > 0 for gain in self.drawn.gains.values())
        return [next_step("backfill", self.advice)] if worth else []


def plan_backfill(
    gallery: Gallery,
    transformation: Transformation,
    *fallbacks: Transformation,
    sample: Embeddings,
    seed: int = 0,
    most_items: int = MOST_ITEMS,
) -> BackfillPlan:
    """Say what a backfill would bring. Nothing is written.

    Args:
        gallery: the gallery.
        transformation: what it was or is to be upgraded by.
        fallbacks: for rows that lack what the first one reads; see `onward.upgrading.routes`.
        sample: true new embeddings of some items of the gallery. Its labels judge, else the
            gallery's; where there are none, the agreement of neighbours with a full backfill.
        seed: of the random orders.
        most_items: judge by no more items than these, chosen by a digest of their ids.

    Raises:
        UpgradeError: if the gallery lacks a space that a transformation reads, fewer than 20
            items are left to judge by, or no transformation can carry one of them.
        SpaceMismatchError: if the sample is in another space than the upgrade leads to.
        ConfigurationError: if the seed or the number of items is none.
    """
    check_whole("seed", seed, least=0)
    check_whole("most_items", most_items)
    routes = Routes((transformation, *fallbacks))
    check_routes(gallery, routes)
    judged = choose_judged(gallery, routes, sample, most_items=most_items)
    if not judged.are_enough:
        raise UpgradeError(_why_not(judged, len(sample)))
    counts = gallery.describe().spaces.get(routes.new)
    upgraded, embedded = (0, 0) if counts is None else (counts.upgraded, counts.embedded)
    return BackfillPlan(
        gallery=gallery.url,
        transformation=routes.digest,
        space=routes.new,
        upgraded=upgraded,
        embedded=embedded,
        missing=max(0, gallery.count() - upgraded - embedded),
        items=len(judged),
        lost=judged.lost,
        left_out=judged.left_out,
        drawn=draw_curves(judged, seed=seed),
    )


def _why_not(judged: JudgedItems, given: int) -> str:
    named = ", ".join(f"{count:,} ({why})" for why, count in judged.left_out.items())
    none = ", and no transformation can carry one of them" if len(judged) >= LEAST_ITEMS else ""
    return (
        f"{len(judged):,} of the sample's {given:,} items are left to judge a backfill by{none}, "
        f"{LEAST_ITEMS} are needed{f'; left out: {named}' if named else ''}. Embed more items of "
        "the gallery with the new model; onward gallery sample chooses them"
    )
