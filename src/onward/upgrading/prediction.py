"""How well search will be: doing nothing, upgrading, writing a sample, full backfill.

Judged twice. In the whole gallery, whose old vectors are all there: what is found now, and what
would be found in what is to be written. And within the sample, where alone full backfill is known:
there some items are queries and gallery, and from cell to cell their vectors differ, never the
items. Cells of one of the two say nothing of cells of the other.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onward.agreement import agreement, count_neighbours
from onward.backfill_curve import random_order
from onward.errors import ConfigurationError, UpgradeError
from onward.evaluation import METRICS as BY_LABEL
from onward.evaluation import MetricName, evaluate
from onward.gallery import Gallery
from onward.gallery.values import aligned
from onward.intervals import Interval, over_clusters
from onward.labels import Labels
from onward.relevance import Relevance
from onward.retrieval import rank, search
from onward.spaces import Embeddings
from onward.upgrading.asked import Asked, RealQueries, Who, ask_items, ask_real, count_asked
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
from onward.upgrading.searched import MOST_SEARCHED, SearchedItems, choose_searched
from onward.upgrading.work import answering_space, check_whole

BY_GRADE = ("ndcg@10", *BY_LABEL)
AGREEMENT = "agreement"
METRICS = (*BY_GRADE, AGREEMENT)
NOTHING, UPGRADE, WITH_SAMPLE, EVERYTHING = (
    "do nothing",
    "upgrade",
    "upgrade + the sample",
    "full backfill",
)
SHARES = PLANNED_SHARES
"""Of the items that are backfilled beside the upgrade."""

_Found = Mapping[str, PerQuery]  # by metric; NaN where a query has nothing to find


@dataclass(frozen=True)
class Cell:
    """What one way to go is predicted to give.

    Attributes:
        name: "do nothing", "upgrade", "upgrade + the sample", "upgrade + backfill 10 %" and so on,
            or "full backfill".
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
class Judgement:
    """What each way to go gives the same queries from the same items.

    Attributes:
        asked: "items of the sample" or "real queries".
        metric: the one that decides: "map" where labels judge, "ndcg@10" where judgements do, else
            "agreement" with full backfill.
        queries: how many queries count by it.
        clusters: of how many classes these are, where labels judge; else as many.
        skipped: how many more have nothing to find.
        items: how many items are searched.
        lost: how many of them cannot be carried over; by the upgrade alone they are not found.
        flattered: how many of them a transformation was fitted on, and nothing says what it gives
            for them unseen: "upgrade" knows too much of them; the sample has their true vectors.
        left_out: other items: why they are left out, and how many.
        cells: what each way to go gives; "do nothing" first, then "upgrade".
        of_sample: by the metric that decides, what the upgrade gives with the sample written minus
            what it gives without, paired; None if there is no sample.
    """

    asked: Who
    metric: str
    queries: int
    clusters: int
    skipped: int
    items: int
    lost: int
    flattered: int
    left_out: Mapping[str, int]
    cells: tuple[Cell, ...]
    of_sample: Interval | None

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is known of each cell."""
        return tuple(self.cells[0].values)

    @property
    def of_one_class(self) -> bool:
        """Whether the queries, several, are all of one class, which says nothing of others."""
        return self.queries > self.clusters == 1

    def has(self, name: str) -> bool:
        """Say whether there is a cell of a name."""
        return any(one.name == name for one in self.cells)

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
            "asked": self.asked,
            "metric": self.metric,
            "queries": self.queries,
            "clusters": self.clusters,
            "skipped": self.skipped,
            "items": self.items,
            "lost": self.lost,
            "flattered": self.flattered,
            "left_out": dict(self.left_out),
            "cells": [cell.to_json() for cell in self.cells],
            "of_sample": None if self.of_sample is None else self.of_sample.to_json(),
        }

    def lines(self) -> list[str]:
        """Return a table of the cells, and what is left out."""
        rows = [("percent, 95 % interval", *self.metrics, "")]
        for cell in self.cells:
            shown = (_shown(cell.values[metric]) for metric in self.metrics)
            rows.append((cell.name, *shown, ""))
        said = aligned(rows)
        if self.skipped:
            said.append(f"{self.skipped:,} more skipped (nothing to find)")
        if self.lost:
            said.append(f"{self.lost:,} items cannot be carried over; upgrading alone loses them")
        if self.flattered:
            said.append(
                f"upgrade: {self.flattered:,} items are ones that h was fitted on; this flatters"
            )
        return said


@dataclass(frozen=True, eq=False)
class Prediction:
    """What doing nothing, upgrading, and backfilling are predicted to give.

    Attributes:
        transformation: digest of the transformations.
        sample: digest of the sample's ids and vectors; None if there is none.
        sample_items: how many items the sample has.
        rows: how many items the gallery has.
        whole: as judged in the whole gallery; None if nothing says what a query looks for.
        within: as judged within the sample, on items that no transformation was fitted on; None if
            there are fewer than 20.
        why: why neither of them is known, and what to do; None if one is.
        left_out: items of the sample that are no queries: why, and how many.
        unasked: real queries that are not asked: why, and how many.
        unknown: how many relevant items in the judgements the gallery lacks.
        remade: queries whose vector that is answered now was itself upgraded, and stands for the
            one that the model would have made.
        unlisted: of how many training pairs the transformations keep no ids, where they have not
            learned from a gallery sample: if items of the sample are among them, this flatters.
        order: in which items are backfilled within the sample: "uncertainty", or "random", the
            mean of 5 orders.
        neighbours: how many nearest items the agreement compares.
    """

    transformation: str
    sample: str | None
    sample_items: int
    rows: int
    whole: Judgement | None
    within: Judgement | None
    why: str | None
    left_out: Mapping[str, int]
    unasked: Mapping[str, int]
    unknown: int
    remade: int
    unlisted: int
    order: str
    neighbours: int

    @property
    def judge(self) -> Judgement | None:
        """The judgement that decides: in the whole gallery where that is known."""
        return self.whole or self.within

    def to_json(self) -> dict[str, Any]:
        """Return fractions as plain values."""
        return {
            "transformation": self.transformation,
            "sample": self.sample,
            "sample_items": self.sample_items,
            "rows": self.rows,
            "whole": None if self.whole is None else self.whole.to_json(),
            "within": None if self.within is None else self.within.to_json(),
            "why": self.why,
            "left_out": dict(self.left_out),
            "unasked": dict(self.unasked),
            "unknown": self.unknown,
            "remade": self.remade,
            "unlisted": self.unlisted,
            "order": self.order,
            "neighbours": self.neighbours,
        }

    def __str__(self) -> str:
        lines = []
        if self.whole is not None:
            one = self.whole
            by = "labels" if one.metric == "map" else "judgements"
            lines = [
                f"predicted by {by} in {one.items:,} items of the gallery, asked by "
                f"{count_asked(one.queries, one.asked)}",
                *(f"  {line}" for line in one.lines()),
                *_about("gallery", one.left_out),
            ]
        if self.within is not None:
            lines += [self._within_line(), *(f"  {line}" for line in self.within.lines())]
        lines += _about("sample", self.left_out)
        lines += _about("real queries", self.unasked)
        if self.unknown:
            lines.append(
                f"  left out of the judgements: {self.unknown:,} (relevant items that the gallery "
                "lacks)"
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
        return "\n".join(lines if self.why is None else [*lines, self.why])

    def _within_line(self) -> str:
        assert self.within is not None  # noqa: S101 (whoever calls has looked)
        one = self.within
        by = "labels" if one.metric == "map" else f"agreement of {self.neighbours} neighbours"
        order = self.order if self.order != RANDOM else f"{RANDOM}, the mean of {SEEDS} orders"
        return (
            f"within the sample alone, by {by} in {one.items:,} of its items, asked by "
            f"{count_asked(one.queries, one.asked)}; backfill by {order}"
        )


def predict(
    gallery: Gallery,
    routes: Routes,
    sample: Embeddings | None = None,
    *,
    queries: RealQueries | None = None,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    most_items: int = MOST_ITEMS,
    most_searched: int = MOST_SEARCHED,
) -> Prediction:
    """Predict how well search will be. Nothing is written.

    Args:
        gallery: the gallery.
        routes: the transformations.
        sample: true new embeddings of some of its items. Its labels judge, else the gallery's.
        queries: queries that people ask, by both models; items of the sample if None.
        shares: of the sample's items that are backfilled, each between 0 and 1.
        seed: of the order of backfill where it is random.
        most_items: no more queries, and within the sample no more items, chosen by a digest of
            their ids.
        most_searched: in the whole gallery, no more items, chosen likewise.

    Raises:
        SpaceMismatchError: if the sample or the queries are in another space than is needed.
        UpgradeError: if neither is given, or judgements name items that the gallery lacks.
        ConfigurationError: if a share is not between 0 and 1, or the seed or a number of items is
            none.
    """
    check_whole("seed", seed, least=0)
    check_whole("most_items", most_items)
    check_whole("most_searched", most_searched)
    _check_shares(shares)
    real = None
    if queries is not None:
        real = ask_real(gallery, queries, answering_space(gallery, routes), routes.new, most_items)
    wanted = () if real is None else real.wanted()
    searched = choose_searched(gallery, routes, sample, wanted=wanted, most=most_searched)
    judged = None
    if sample is not None:
        classes = Counter(searched.labels[searched.labels >= 0].tolist())
        judged = choose_judged(gallery, routes, sample, most_items=most_items, classes=classes)
    asked = _asked(real, judged)
    whole = _judge_whole(searched, asked, sample)
    within = None
    if sample is not None and judged is not None and judged.are_enough and len(asked):
        written = _share_written(gallery, sample) if whole is None else None
        within = _judge_within(judged, asked, sorted(shares), written=written, seed=seed)
    return Prediction(
        transformation=routes.digest,
        sample=None if sample is None else digest_sample(sample),
        sample_items=0 if sample is None else len(sample),
        rows=gallery.count(),
        whole=whole,
        within=within,
        why=None if whole or within else _why_not(asked, judged, sample),
        left_out={} if judged is None else judged.left_out,
        unasked=asked.left_out,
        unknown=asked.unknown,
        remade=judged.remade if judged is not None and real is None else 0,
        unlisted=sum(count_unlisted(one.made_by) for one in routes.transformations),
        order=UNCERTAINTY if judged is not None and judged.uncertainties else RANDOM,
        neighbours=0 if judged is None else count_neighbours(len(judged)),
    )


def _check_shares(shares: Sequence[float]) -> None:
    wrong = [share for share in shares if not 0 < share < 1]
    if wrong:
        raise ConfigurationError(
            f"a share of {wrong[0]:g} of the items is not a part of them; give shares between 0 "
            "and 1: upgrading alone and full backfill are predicted in any case"
        )


def _asked(real: Asked | None, judged: JudgedItems | None) -> Asked:
    """Return what is asked: the real queries, or where there are none the items of the sample.

    Raises:
        UpgradeError: if there are neither.
    """
    if real is not None:
        return real
    if judged is None:
        raise UpgradeError(
            "nothing is predicted without true new embeddings of some items (sample=...) or real "
            "queries by both models (queries=...); give one of them"
        )
    return ask_items(judged)


def _judge_whole(
    searched: SearchedItems, asked: Asked, sample: Embeddings | None
) -> Judgement | None:
    """Judge what is found in the whole gallery; None if nothing says what queries look for."""
    if not asked.has_answers or not len(asked):
        return None
    items = searched if asked.qrels is not None else searched.labelled()
    if asked.qrels is None and not _tell_apart(items.labels):
        return None
    relevance = asked.relevance(items.ids, items.labels)
    if not relevance.counts(asked.old.ids).any():
        return None
    metrics = BY_LABEL if asked.qrels is None else BY_GRADE
    found = {NOTHING: _answers(asked.old, items.now(), relevance, metrics)}
    upgraded = items.upgraded()
    lost = len(items.ids) - len(upgraded)
    found[UPGRADE] = _answers(asked.new, upgraded, relevance, metrics)
    shares = {}
    if sample is not None:
        true = items.with_sample(upgraded, sample)
        found[WITH_SAMPLE] = _answers(asked.new, true, relevance, metrics)
        among = set(sample.ids)
        shares[WITH_SAMPLE] = sum(item in among for item in items.ids) / len(items.ids)
    metric = "map" if asked.qrels is None else "ndcg@10"
    return _judgement(
        asked,
        metric,
        found,
        shares,
        items=len(items.ids),
        lost=lost,
        flattered=len(items.flattered.intersection(items.ids)),
        left_out=items.left_out,
    )


def _judge_within(
    judged: JudgedItems,
    asked: Asked,
    shares: Sequence[float],
    *,
    written: float | None,
    seed: int,
) -> Judgement:
    """Judge what is found among items of the sample, where full backfill is known too.

    Args:
        judged: the items.
        asked: the queries, which may be the same items.
        shares: of the items that are backfilled.
        written: the share of the gallery that a sample makes, if what is written is judged here.
        seed: of the random orders.
    """
    relevance = None
    if judged.labels is not None and asked.labels is not None and _tell_apart(judged.labels):
        relevance = asked.relevance(judged.ids, judged.labels)
        relevance = relevance if relevance.counts(asked.old.ids).any() else None
    count = count_neighbours(len(judged))
    nearest = search(asked.new, judged.new, count, exclude_self=asked.exclude_self)

    def answers(queries: Embeddings, gallery: Embeddings) -> _Found:
        found = search(queries, gallery, count, exclude_self=asked.exclude_self)
        agreed = {AGREEMENT: agreement(found, nearest)}
        if relevance is None:
            return agreed
        return {**_answers(queries, gallery, relevance, BY_LABEL), **agreed}

    orders = backfill_orders(judged, seed=seed)
    order = orders[UNCERTAINTY if judged.uncertainties else RANDOM]
    turns = range(seed, seed + SEEDS)
    ways = {UPGRADE: (0.0, order)}
    if written is not None:
        ways[WITH_SAMPLE] = (written, tuple(random_order(judged.ids, seed=turn) for turn in turns))
    ways |= {f"upgrade + backfill {100 * share:g} %": (share, order) for share in shares}
    ways[EVERYTHING] = (1.0, order)
    found = {NOTHING: answers(asked.old, judged.nothing)}
    for way, (share, each) in ways.items():
        some = each if 0 < share < 1 else each[:1]  # at the ends all are the same
        galleries = (judged.backfilled(one, share) for one in some)
        found[way] = _mean([answers(asked.new, gallery) for gallery in galleries])
    return _judgement(
        asked,
        AGREEMENT if relevance is None else "map",
        found,
        {way: share for way, (share, _) in ways.items()},
        items=len(judged),
        lost=judged.lost,
        flattered=0,
        left_out={},
    )


def _tell_apart(labels: Labels) -> bool:
    """Say whether items are of several classes; among those of one, nothing found is wrong."""
    return len(np.unique(labels)) > 1


def _answers(
    queries: Embeddings, gallery: Embeddings, relevance: Relevance, metrics: Sequence[str]
) -> _Found:
    """Return what each query gets, by metric; an item that the gallery lacks is not found."""
    ranked = rank(queries, gallery, exclude_self=relevance.exclude_self)
    evaluation = evaluate(ranked, relevance, metrics=metrics)
    first, found = evaluation.first_hit, {}
    for name in metrics:
        kind, k = MetricName.parse(name)
        if kind == "cmc":  # however few items there are
            found[name] = ((first >= 0) & (first < k)).astype(np.float64)
        else:
            found[name] = evaluation.average_precision if k == 0 else evaluation.scores[name]
        found[name] = np.where(evaluation.counted, found[name], np.nan)
    return found


def _mean(found: Sequence[_Found]) -> _Found:
    """Return what each query gets in the mean of several orders."""
    return {metric: np.mean([one[metric] for one in found], axis=0) for metric in found[0]}


def _judgement(
    asked: Asked,
    metric: str,
    found: Mapping[str, _Found],
    shares: Mapping[str, float],
    *,
    items: int,
    lost: int,
    flattered: int,
    left_out: Mapping[str, int],
) -> Judgement:
    nothing, clusters = found[NOTHING], asked.clusters
    cells = tuple(
        Cell(
            name,
            shares.get(name, 0.0),
            {by: _interval(each, clusters) for by, each in values.items()},
            {by: _interval(each - nothing[by], clusters, True) for by, each in values.items()},
        )
        for name, values in found.items()
    )
    of_sample = None
    if WITH_SAMPLE in found:
        difference = found[WITH_SAMPLE][metric] - found[UPGRADE][metric]
        of_sample = _interval(difference, clusters, True)
    counted = np.flatnonzero(~np.isnan(nothing[metric])).tolist()
    return Judgement(
        asked=asked.who,
        metric=metric,
        queries=len(counted),
        clusters=len({clusters[row] for row in counted}),
        skipped=len(asked) - len(counted),
        items=items,
        lost=lost,
        flattered=flattered,
        left_out=left_out,
        cells=cells,
        of_sample=of_sample,
    )


def _interval(values: PerQuery, clusters: Sequence[Hashable], difference: bool = False) -> Interval:
    counted = np.flatnonzero(~np.isnan(values)).tolist()
    return over_clusters(values[counted], [clusters[row] for row in counted], difference=difference)


def _share_written(gallery: Gallery, sample: Embeddings) -> float:
    """Return the share of the gallery's items that a sample of it makes."""
    there = sum(len(batch) for batch in gallery.scan((), ids=sample.ids))
    return min(1.0, there / max(1, gallery.count()))


def _why_not(asked: Asked, judged: JudgedItems | None, sample: Embeddings | None) -> str:
    if judged is None or sample is None:
        why = "nothing says what the real queries look for"
        if asked.has_answers:
            why = (
                "the gallery's labels do not tell what real queries look for from what they do not"
            )
        return (
            f"nothing can be predicted: {why}, and without a sample nobody knows what full "
            "backfill would answer; give judgements (qrels=..., --qrels), labels that queries and "
            "items share, or true new embeddings of some items (sample=..., --sample)"
        )
    reasons = ", ".join(f"{count:,} ({why})" for why, count in judged.left_out.items())
    left = f"{len(judged):,} of the sample's {len(sample):,} items are left to judge by"
    if len(judged) >= LEAST_ITEMS:
        left += ", and no transformation can carry one of them"
    return (
        f"nothing can be predicted: {left}, {LEAST_ITEMS} are needed"
        + (f"; left out: {reasons}" if reasons else "")
        + ". Keep a part of the sample for the plan when fitting (`onward fit --sample` keeps a "
        f"fifth, and {LEAST_ITEMS} at least), or embed more items of the gallery, chosen by "
        "`onward gallery sample`"
    )


def _about(whose: str, left_out: Mapping[str, int]) -> list[str]:
    said = ", ".join(f"{count:,} ({why})" for why, count in left_out.items())
    return [f"  left out of the {whose}: {said}"] if said else []


def _shown(value: Interval) -> str:
    return f"{100 * value.estimate:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
