"""What an upgrade would do and cost, and what a backfill would bring; nothing is written."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from onward.errors import UpgradeError
from onward.evaluation.backfill_curve import GRID
from onward.evaluation.relevance import RealQueries
from onward.fusion import Serve
from onward.gallery import Gallery, GalleryRows, GalleryView, scratch_gallery
from onward.gallery.view import aligned
from onward.plain import fields_of, plain
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation
from onward.upgrading.evidence import usable_serving, what_answers
from onward.upgrading.forecast import (
    FUSED,
    RANDOM,
    SEEDS,
    SHARES,
    UNCERTAINTY,
    Curves,
    Forecast,
    Judgement,
    forecast,
)
from onward.upgrading.gate import (
    MARGIN,
    OPEN,
    Decision,
    Requirement,
    check_allowed,
    check_asked,
    percent,
    points,
)
from onward.upgrading.routes import (
    NO_SIDE,
    Routes,
    Work,
    check_routes,
    check_same_routes,
    describe_chains,
    is_started,
    measure_work,
    needed_spaces,
    next_step,
    transform,
)
from onward.upgrading.run import run_upgrade

SAMPLE_ROWS = 8192

ADVISED = ("map", "cmc@1", "agreement")
"""The metrics by which a backfill is judged, as far as they are known."""
NOTICED = 0.002
"""Curves that differ by less than this are taken to be level."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What an upgrade would do and cost.

    Attributes:
        gallery: URL of the gallery.
        transformation: digest of the transformation.
        old: space of the vectors to be read.
        side: space of the side-information to be read, if any.
        new: space of the vectors to be written.
        work: rows to do, done and blocked.
        elsewhere: of the blocked rows, how many have a vector in each space that is not read.
        bytes: about what will be written; old versions of rows that a store keeps come on top.
        seconds: about how long it will take, from the time that `sampled` rows took. They were
            read from this gallery, transformed, and written to a scratch gallery of its kind where
            temporary files go.
        sampled: how many rows were.
        writes: what will be written, a sentence each.
        prediction: how well search will be; None without a sample and without real queries.
        decision: what the gate says of it, the sample written; None where nothing is predicted.
        advice: what would help with what is missing, a sentence or two each.
    """

    gallery: str
    transformation: str
    old: Space
    side: Space | None
    new: Space
    work: Work
    elsewhere: Mapping[Space, int]
    bytes: int
    seconds: float
    sampled: int
    writes: tuple[str, ...]
    prediction: Forecast | None
    decision: Decision | None
    advice: tuple[str, ...]

    @property
    def allowed(self) -> bool:
        """Whether the gate is open; it is not where nothing is predicted."""
        return self.decision is not None and self.decision.answer == OPEN

    @property
    def serves_fused(self) -> bool:
        """Whether the gate judged that a fused pair is to answer queries, by advice or request."""
        return self.decision is not None and self.decision.serve == "fused"

    @property
    def recommendation(self) -> str:
        """What to do, in one line."""
        if self.decision is not None:
            return self.decision.recommendation
        return (
            "Not judged: nothing is predicted without true new embeddings of some items, or real "
            "queries by both models."
        )

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, with what to do next."""
        return {
            **fields_of(self, without=("work", "elsewhere", "decision")),
            **self.work.to_json(),
            "elsewhere": {space.name: rows for space, rows in self.elsewhere.items()},
            "gate": plain(self.decision),
            "allowed": self.allowed,
            "recommendation": self.recommendation,
            "next_steps": self._next_steps(),
        }

    def __str__(self) -> str:
        side = "" if self.side is None else f" with side-information {self.side}"
        work = self.work
        lines = [
            f"plan for gallery {self.gallery}: {self.old} -> {self.new}{side}",
            f"  to do    {work.to_do:,} of {work.rows:,} rows, {work.done:,} are done already",
            *(f"  blocked  {one}" for one in work.blocked),
            f"  time     about {self.seconds:,.1f} s, measured on {self.sampled:,} rows",
            f"  bytes    {self.bytes:,}",
            *(f"  writes   {one}" for one in self.writes),
            *(f"  advice   {one}" for one in self.advice),
            "  A plan writes nothing.",
        ]
        if self.prediction is not None:
            lines.append(str(self.prediction))
        if self.decision is not None:
            lines.append(f"gate {self.decision}")
        return "\n".join([*lines, self.recommendation])

    def _next_steps(self) -> list[dict[str, str]]:
        if self.decision is not None and not self.allowed:
            why = f"only with force=True: the gate is {self.decision.answer}"
            return [next_step("start", why)]
        if self.decision is None and self.work.to_do and not self.work.done:
            why = "plan with a sample first; without one, nothing judges what is started"
            return [next_step("start", why)]
        if self.work.to_do:
            then = "; then serve the fused pair" if self.serves_fused else ""
            return [next_step("start", f"{self.work.to_do:,} rows can be upgraded{then}")]
        if self.work.done:
            verify = "verify_fused" if self.serves_fused else "verify"
            return [next_step(verify, "no row is left to do")]
        return []


def plan_upgrade(
    gallery: Gallery,
    transformation: Transformation,
    *fallbacks: Transformation,
    sample: Embeddings | None = None,
    queries: RealQueries | None = None,
    require: Requirement | None = None,
    margin: float = MARGIN,
    serve: Serve | None = None,
    old_model_gone: bool = False,
) -> Plan:
    """Say what upgrading a gallery would do and cost. Nothing is written to it.

    Args:
        gallery: the gallery.
        transformation: from a space of the gallery to the new one.
        fallbacks: for rows that lack what the first one reads; see `onward.upgrading.routes`.
        sample: as `forecast` takes it; it is to be written.
        queries: as `forecast` takes them; they judge in place of items.
        require: what must be reached besides being better than doing nothing.
        margin: as `decide` takes it.
        serve: as `decide` takes it.
        old_model_gone: as `decide` takes it.

    Raises:
        UpgradeError: if the gallery lacks a space that the transformation reads, an upgrade to
            the new space was started with another transformation, something is required of which
            nothing can be predicted, or fused search is asked for where no pair is known.
        SpaceMismatchError: if the sample or the queries are in another space than is needed.
        ConfigurationError: if the margin is not in [0, 1), or fused search is asked for without
            the old model.
    """
    check_asked(margin, serve, old_model_gone)
    routes = Routes((transformation, *fallbacks))
    view = gallery.view()
    check_routes(view, routes)
    check_same_routes(view, routes)
    prediction = None
    if sample is not None or queries is not None:
        prediction = forecast(view, routes, sample, queries=queries)
    decision = check_allowed(
        routes.digest,
        prediction,
        sample=sample,
        margin=margin,
        require=require,
        force=True,
        serve=serve,
        old_model_gone=old_model_gone,
    )
    work, elsewhere = measure_work(view, routes), _elsewhere(view, routes)
    seconds, sampled = _seconds_per_row(gallery, transformation)
    told = _advice_of_fit(view, routes) if prediction is None and not old_model_gone else ()
    written = sample if decision is None or decision.writes_sample else None
    return Plan(
        gallery=gallery.url,
        transformation=routes.digest,
        old=transformation.old,
        side=transformation.side,
        new=transformation.new,
        work=work,
        elsewhere=elsewhere,
        bytes=work.to_do * gallery.bytes_of_writing(transformation.new),
        seconds=seconds * work.to_do,
        sampled=sampled,
        writes=tuple(_writes(routes, work, written, started=is_started(view, routes))),
        prediction=prediction,
        decision=decision,
        advice=(*told, *_advice(gallery, routes, work, elsewhere), *describe_chains(view, routes)),
    )


def _writes(
    routes: Routes, work: Work, sample: Embeddings | None, *, started: bool
) -> Iterator[str]:
    """Give what will be written, a sentence each."""
    if not started:
        filled = f"{routes.digest[:8]} as what fills it"
        yield f"the space {routes.new} in every row, empty, and {filled}"
    yield f"a vector of {routes.new.dim} numbers and the origin 'upgraded' in {work.to_do:,} rows"
    if sample is not None:
        yield f"the sample's vectors and the origin 'embedded' in up to {len(sample):,} rows"
    yield "what was done, in the gallery's journal"


def _elsewhere(gallery: GalleryRows, routes: Routes) -> dict[Space, int]:
    """Count the rows that nothing can carry, by the spaces that nothing reads."""
    spaces = gallery.spaces()
    missing = [routes.new] if routes.new in spaces else []
    parts = [part for part in (one.among(spaces) for one in routes.uncarried) if part is not None]
    counts = {
        space: sum(gallery.count([*part.filled, space], [*part.empty, *missing]) for part in parts)
        for space in spaces
        if space not in (*routes.reads, routes.new)
    }
    return {space: rows for space, rows in counts.items() if rows}


def _advice_of_fit(view: GalleryView, routes: Routes) -> Iterator[str]:
    """Give what the fit advises to serve, where nothing of this gallery says so."""
    serving = usable_serving(routes, what_answers(view, routes))
    if serving is not None and serving.advised == "fused":
        yield (
            f"The fit advises to serve {serving.fusion}, by what it held out. A plan with a "
            "sample, or with real queries, says whether that holds for this gallery"
        )


def _advice(
    gallery: Gallery, routes: Routes, work: Work, elsewhere: Mapping[Space, int]
) -> Iterator[str]:
    """Give what would help with what is missing; no number that was not counted."""
    reads_none = all(one.side is None for one in routes.transformations)
    if reads_none and any(one.made_by.get("without_side") for one in routes.transformations):
        yield (
            "No side-information is read: on what was held out, a transformation did worse with "
            "what is stored than without it. Another kind, or more pairs, may do better"
        )
    elif reads_none:
        yield (
            "No side-information is read: no transformation brings back what the old vectors left "
            "out. Store side-information with every item from now on, and with those whose "
            "images are at hand: a transformation that reads it carries these rows, and this one "
            "the rest, as a fallback. What it brings here, a plan says once a sample of them is "
            "embedded"
        )
    lacking = sum(one.rows for one in work.blocked if NO_SIDE in one.reason)
    if lacking:
        yield (
            f"{lacking:,} rows have no side-information: fit a second transformation that reads "
            "none and give it as a fallback, store side-information for them, or backfill them"
        )
    for space, rows in elsewhere.items():
        yield (
            f"{rows:,} rows that are blocked have a vector in {space.name}, which nothing reads: "
            "fit a transformation from it and give it as a fallback, or backfill them"
        )
    new = routes.new
    if work.to_do >= SAMPLE_ROWS and gallery.bytes_of_writing(new) > 2 * new.bytes:
        yield (
            "Most rows are in many small parts of the store, and each part is rewritten as a "
            "whole: put them together first, by compact(), and only the new vectors are written"
        )


def _seconds_per_row(gallery: Gallery, transformation: Transformation) -> tuple[float, int]:
    """Return the seconds that a row takes to be read and upgraded, and how many rows told that.

    They are upgraded in a scratch gallery of the same kind, by a run.
    """
    needed, routes = needed_spaces(transformation), Routes((transformation,))
    begin = time.perf_counter()
    batch = next(gallery.scan(needed, batch_rows=SAMPLE_ROWS), None)
    seconds = time.perf_counter() - begin
    if batch is None:
        return 0.0, 0
    transform(transformation, batch.part(0, 1))  # the first time opens a session
    with scratch_gallery(gallery) as scratch:
        scratch.add(*(Embeddings(batch.ids, batch.vectors[space], space) for space in needed))
        scratch.add_space(transformation.new, made_by=routes.recorded)
        seconds += run_upgrade(scratch, routes).seconds
    return seconds / len(batch), len(batch)


@dataclass(frozen=True, eq=False)
class BackfillPlan:
    """What a backfill would bring, before anything is spent on it.

    Attributes:
        gallery: URL of the gallery.
        transformation: digest of the transformations.
        space: the new space.
        upgraded: rows of the gallery that are as an upgrade made them.
        embedded: rows that the new model has embedded.
        missing: rows without a vector in the new space.
        within: as judged within the sample: what the plan of the upgrade says too. Of its items,
            those that are lost are embedded first; all are queries, and looked for.
        left_out: of the sample's other items: why they are left out, and how many.
        drawn: the curves of each order on these items, and what full backfill gains.
        fused: the same of fused search; None if no pair is known that it could be served by.
    """

    gallery: str
    transformation: str
    space: Space
    upgraded: int
    embedded: int
    missing: int
    within: Judgement
    left_out: Mapping[str, int]
    drawn: Curves
    fused: Curves | None

    @property
    def metrics(self) -> tuple[str, ...]:
        """cmc@1, cmc@5 and map if labels judge, else the agreement of neighbours."""
        return tuple(self.drawn.gains)

    @property
    def auc_name(self) -> str:
        """The name of the mean over the shares, with its grid."""
        return f"auc@{len(GRID)}"

    @cached_property
    def advice(self) -> str:
        """What to do, in a line or two."""
        said = advise(self.drawn)
        return said if self.fused is None else f"{said} {compare_fused(self.within)}"

    def to_json(self) -> dict[str, Any]:
        """Return fractions as plain values, with what to do next."""
        rows, fused = ("upgraded", "embedded", "missing"), self.fused
        gains = [*self.drawn.gains.values(), *(() if fused is None else fused.gains.values())]
        worth = any(gain.estimate > 0 for gain in gains)
        return {
            **fields_of(self, without=(*rows, "within", "drawn", "fused")),
            "rows": {name: getattr(self, name) for name in rows},
            "items": self.within.items,
            "lost": self.within.lost,
            "shares": list(GRID),
            "planned_shares": list(SHARES),
            **self._plainly(self.drawn),
            "fused": None if fused is None else self._plainly(fused),
            "advice": self.advice,
            "next_steps": [next_step("backfill", self.advice)] if worth else [],
        }

    def __str__(self) -> str:
        by = "labels" if "map" in self.metrics else "agreement of neighbours"
        lines = [
            f"plan for a backfill of gallery {self.gallery} in {self.space}",
            f"  rows     {self.upgraded:,} upgraded, {self.embedded:,} embedded, {self.missing:,} "
            "without a new vector",
            f"  judged   by {by} on {self.within.items:,} items; random is the mean of {SEEDS} "
            "orders",
        ]
        if self.within.lost:
            lines.append(
                f"  lost     {self.within.lost:,} of these items cannot be carried over: they are "
                "not found until they are embedded; they come first"
            )
        lines += [f"  left out {count:,}: {why}" for why, count in self.left_out.items()]
        for metric in ("cmc@1", "map", "agreement"):
            if metric in self.metrics:
                lines += ["", *(f"  {line}" for line in self._table(self.drawn, metric))]
            if metric in self.metrics and self.fused is not None:
                lines += ["", *(f"  {line}" for line in self._table(self.fused, metric, "fused "))]
        return "\n".join([*lines, "", self.advice, "A plan writes nothing."])

    def _plainly(self, drawn: Curves) -> dict[str, Any]:
        curves = {
            order: {
                **{one: drawn.on_grid(order, one).tolist() for one in self.metrics},
                self.auc_name: {one: drawn.auc(order, one) for one in self.metrics},
                "planned": {one: [values[one][share] for share in SHARES] for one in values},
            }
            for order, values in drawn.values.items()
        }
        return {"curves": curves, "gains": plain(drawn.gains)}

    def _table(self, drawn: Curves, metric: str, how: str = "") -> list[str]:
        orders = drawn.values
        rows = [(f"{how}{metric}, percent", *orders, "")]
        for share in sorted({*GRID[::3], *SHARES}):
            values = (f"{100 * one[metric][share]:.1f}" for one in orders.values())
            rows.append((f"{100 * share:.0f} % embedded", *values, ""))
        means = (f"{100 * drawn.auc(one, metric):.1f}" for one in orders)
        return aligned([*rows, (self.auc_name, *means, "")])


def plan_backfill(
    gallery: Gallery,
    transformation: Transformation,
    *fallbacks: Transformation,
    sample: Embeddings,
    seed: int = 0,
) -> BackfillPlan:
    """Say what a backfill would bring. Nothing is written.

    Args:
        gallery: the gallery.
        transformation: what it was or is to be upgraded by.
        fallbacks: for rows that lack what the first one reads; see `onward.upgrading.routes`.
        sample: as `forecast` takes it.
        seed: of the random orders.

    Raises:
        UpgradeError: if the gallery lacks a space that a transformation reads, fewer than 20
            items are left to judge by, or no transformation can carry one of them.
        SpaceMismatchError: if the sample is in another space than the upgrade leads to.
        ConfigurationError: if the seed is not a whole number.
    """
    routes, view = Routes((transformation, *fallbacks)), gallery.view()
    check_routes(view, routes)
    prediction = forecast(view, routes, sample, curves=True, seed=seed)
    if prediction.within is None or prediction.curves is None:
        raise UpgradeError(prediction.why or "", step="sample")
    counts = view.counts.get(routes.new)
    upgraded, embedded = (0, 0) if counts is None else (counts.upgraded, counts.embedded)
    return BackfillPlan(
        gallery=gallery.url,
        transformation=routes.digest,
        space=routes.new,
        upgraded=upgraded,
        embedded=embedded,
        missing=max(0, prediction.rows - upgraded - embedded),
        within=prediction.within,
        left_out=prediction.left_out,
        drawn=prediction.curves["new"],
        fused=prediction.curves.get("fused"),
    )


def advise(drawn: Curves) -> str:
    """Say whether to spend anything on a backfill, in which order, and how far.

    Judged by map and cmc@1, or by agreement where there are no labels. A discriminative loss may
    place upgraded items so well that full backfill makes map worse; then it is advised against.
    """
    metrics = [metric for metric in ADVISED if metric in drawn.gains]
    gains = {metric: drawn.gains[metric].estimate for metric in metrics}
    possible = [one for one in (RANDOM, UNCERTAINTY) if one in drawn.values]
    order = max(possible, key=lambda one: (drawn.auc(one, metrics[0]), one == UNCERTAINTY))
    curves = {metric: drawn.on_grid(order, metric) for metric in metrics}
    ends = " and ".join(
        f"{metric} from {percent(values[0])} to {percent(values[-1])}"
        for metric, values in curves.items()
    )
    if all(gain <= 0 for gain in gains.values()):
        return (
            f"Spend nothing: the upgrade alone answers at least as well as full backfill, which "
            f"takes {ends}."
        )
    rising = next(metric for metric in metrics if gains[metric] > 0)
    falling = [metric for metric in metrics if gains[metric] < 0]
    said = [f"Full backfill takes {ends}."]
    if falling:
        said = [
            f"Spend nothing unless {rising} counts more than {falling[0]}: full backfill takes "
            f"{ends}."
        ]
    elif not drawn.gains[rising].clear:
        said.append(
            f"These queries cannot tell that from no change ({drawn.gains[rising]}); a larger "
            "sample can."
        )
    on_the_way = _on_the_way(order, rising, curves[rising])
    return " ".join([*said, *on_the_way, *_about_orders(drawn, order)])


def compare_fused(within: Judgement) -> str:
    """Say whether fused search answers a backfilled gallery better than the new space alone.

    By the metric that decides, and cmc@1 beside map: before anything is embedded, and once all is.
    """
    ends = [within.backfilled("fused")[-1].over_one_space]
    ends.insert(0, within.cell(FUSED).over_one_space)
    better = [any(end[one].low > 0 for one in within.weighed) for end in ends]
    worse = [any(end[one].high < 0 for one in within.weighed) for end in ends]
    first, last = (", ".join(f"{one} {points(end[one])}" for one in within.weighed) for end in ends)
    if any(up and down for up, down in zip(better, worse, strict=True)):
        said = "Fused search gives more in one metric and less in another"
    elif all(better):
        said = "Fused search is better all the way"
    elif better[0]:
        said = "Fused search is better at first, and not clearly once everything is embedded"
    elif better[1]:
        said = "Fused search is clearly better only once much is embedded"
    elif any(worse):
        said = "Fused search is worse than the new space alone"
    else:
        said = "Fused search is not clearly better than the new space alone"
    return (
        f"{said}: {first} beside the upgrade alone, {last} beside full backfill. It embeds every "
        "query by both models."
    )


def _on_the_way(order: str, metric: str, values: Float64[np.ndarray, " share"]) -> Iterator[str]:
    """Say how much must be embedded for half of the gain, and where less is worse than nothing."""
    half = GRID[int(np.argmax(values >= (values[0] + values[-1]) / 2))]
    how = "At random" if order == RANDOM else "By uncertainty"
    yield f"{how}, {percent(half, 0)} of the items give half of that in {metric}."
    lowest = int(values.argmin())
    if values[lowest] < min(values[0], values[-1]) - NOTICED:
        yield (
            f"On the way {metric} falls below both ends, to {percent(values[lowest])} at "
            f"{percent(GRID[lowest], 0)}: spend more than that, or nothing."
        )


def _about_orders(drawn: Curves, order: str) -> Iterator[str]:
    """Say where a random order would do better than uncertainty."""
    if UNCERTAINTY not in drawn.values:
        yield (
            "The transformation gives no uncertainty, so only a random order is possible: "
            "fit it with uncertainty=True."
        )
        return
    means = {
        one: (drawn.auc(RANDOM, one), drawn.auc(UNCERTAINTY, one))
        for one in ADVISED
        if one in drawn.gains
    }
    better = [
        f"{one} ({percent(first)} against {percent(second)} on average)"
        for one, (first, second) in means.items()
        if first > second + NOTICED
    ]
    if better:
        choice = "take that" + ("" if order == RANDOM else " if it counts more")
        yield f"On the way a random order gives more {' and '.join(better)}: {choice}."
