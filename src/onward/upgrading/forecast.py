"""How well search will be: doing nothing, upgrading, writing a sample, and ever more of a backfill.

Judged twice. In the whole gallery, whose old vectors are all there: what is found now, and what
would be found in what is to be written. And within the sample, where alone full backfill is known:
there some items are queries and gallery, and from cell to cell their vectors differ, never the
items. Cells of one of the two say nothing of cells of the other. The plan of an upgrade and that of
a backfill say what is found here. Nothing here writes.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from onward.errors import UpgradeError
from onward.evaluation.backfill_curve import (
    GRID,
    backfill_curve,
    items_at,
    oracle_order,
    random_order,
    uncertainty_order,
)
from onward.evaluation.intervals import Interval, over_clusters
from onward.evaluation.metrics import METRICS as BY_LABEL
from onward.evaluation.metrics import Evaluation, PerQuery, evaluate
from onward.evaluation.relevance import RealQueries, Relevance
from onward.evaluation.retrieval import Ranking, agreement, count_neighbours, rank, search
from onward.evaluation.serving import MOST, Advice, JudgedBy, advise
from onward.evaluation.serving import Found as OfCandidate
from onward.fusion import Searchable, Serve
from onward.gallery import Gallery, GalleryView
from onward.gallery.view import aligned
from onward.plain import Plain, fields_of
from onward.spaces import Embeddings, Ids
from onward.upgrading.evidence import (
    ITEMS,
    LEAST_ITEMS,
    Questions,
    Trial,
    Who,
    count_asked,
    count_unlisted,
    digest_sample,
    gather,
)
from onward.upgrading.routes import Routes, check_whole

BY_GRADE = ("ndcg@10", *BY_LABEL)
AGREEMENT: Literal["agreement"] = "agreement"
METRICS = (*BY_GRADE, AGREEMENT)
NOTHING, UPGRADE, FUSED, SAMPLE, EVERYTHING = (
    "do nothing",
    "upgrade",
    "fused",
    "the sample",
    "full backfill",
)
SERVED: Mapping[Serve, str] = {"old": NOTHING, "new": UPGRADE, "fused": FUSED}
"""Of what is served: the cell in which the new model embeds nothing besides."""
WITH_SAMPLE, FUSED_WITH_SAMPLE = f"{UPGRADE} + {SAMPLE}", f"{FUSED} + {SAMPLE}"

WEIGHED = {"map": ("map", "cmc@1"), "ndcg@10": ("ndcg@10",), AGREEMENT: (AGREEMENT,)}
"""Of the metric that decides: those by which it is said what to serve."""
JUDGED_BY: Mapping[str, JudgedBy] = {"map": "label", "ndcg@10": "judgements", AGREEMENT: AGREEMENT}

RANDOM, UNCERTAINTY, ORACLE = "random", "uncertainty", "oracle"
SEEDS = 5
"""The number of random orders whose mean stands for a random order."""
SHARES = (0.1, 0.25, 0.5)
"""Of the items that are backfilled beside the upgrade, between nothing and all."""

Found = Mapping[str, PerQuery]
"""What each query gets, by metric; NaN where it has nothing to find."""
Way = tuple[Serve, str]
"""What is served, and what the new model embeds besides: nothing (""), the sample, or a share."""


@dataclass(frozen=True)
class Cell(Plain):
    """What one way to go is predicted to give.

    Attributes:
        name: "do nothing", "upgrade", "upgrade + the sample", "upgrade + backfill 10 %" and so on,
            or "full backfill". Those that a fused pair of the old and the new space answers begin
            with "fused": "fused", "fused + backfill 10 %", "fused + full backfill".
        share: of the items that the new model embeds, in [0, 1]; of doing nothing, 0.
        values: each metric with its interval.
        gains: each metric minus that of doing nothing, with its paired interval.
        over_one_space: of a fused pair, each metric minus that of the new space alone, the same
            items embedded, with its paired interval; else empty.
        advice: of a fused pair, what to serve of that, the new space alone, and what answers now,
            by the rule of `onward.evaluation.serving`; else None.
    """

    name: str
    share: float
    values: Mapping[str, Interval]
    gains: Mapping[str, Interval]
    over_one_space: Mapping[str, Interval]
    advice: Advice | None = None


@dataclass(frozen=True, eq=False)
class Judgement(Plain):
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
        cells: what each way to go gives; "do nothing" first, then "upgrade"; fused ones are last.
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

    @property
    def weighed(self) -> tuple[str, ...]:
        """The metrics by which it is said what to serve, that which decides first."""
        return WEIGHED[self.metric]

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
        raise UpgradeError(
            f"nothing is predicted of {name!r}, but of {known}", "choose one of these"
        )

    def backfilled(self, serve: Serve) -> tuple[Cell, ...]:
        """Return the cells of ever more of a backfill, the last of a full one.

        Raises:
            UpgradeError: if there are none.
        """
        ways = [*(_backfill(share) for share in SHARES), EVERYTHING]
        return tuple(self.cell(_name(serve, what)) for what in ways)

    def value(self, metric: str, name: str) -> float:
        """Return what a cell is predicted to give, in [0, 1]."""
        return self.cell(name).values[metric].estimate

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
class Curves:
    """What search gives while ever more items are embedded, in each of some orders.

    Attributes:
        values: by order, each metric at each share of the items, ascending from 0 to 1. The orders
            are "random", "uncertainty", where the transformations know it, and "oracle" (the
            farthest off first, which only who has all new embeddings can know). All begin with the
            upgrade alone and end with full backfill.
        gains: what full backfill gives minus what upgrading alone does, paired: in cmc@1, cmc@5 and
            map where labels judge, else in the agreement of neighbours.
    """

    values: Mapping[str, Mapping[str, Mapping[float, float]]]
    gains: Mapping[str, Interval]

    def on_grid(self, order: str, metric: str) -> Float64[np.ndarray, " share"]:
        """Return a metric at each share of `GRID`."""
        return np.array([self.values[order][metric][share] for share in GRID], np.float64)

    def auc(self, order: str, metric: str) -> float:
        """Return the mean over the shares of `GRID`, in [0, 1]."""
        return float(self.on_grid(order, metric).mean())


@dataclass(frozen=True, eq=False)
class Forecast:
    """What doing nothing, upgrading, and backfilling are predicted to give.

    Attributes:
        transformation: digest of the transformations.
        sample: digest of the sample's ids and vectors; None if there is none.
        sample_items: how many items the sample has.
        rows: how many items the gallery has.
        whole: as judged in the whole gallery; None if nothing says what a query looks for, or that
            was not asked for.
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
        curves: within the sample, by what is served, "new" and, if there is a pair, "fused"; None
            without `within`, or where they were not asked for.
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
    curves: Mapping[Serve, Curves] | None

    @property
    def judge(self) -> Judgement | None:
        """The judgement that decides: in the whole gallery where that is known."""
        return self.whole or self.within

    def to_json(self) -> dict[str, Any]:
        """Return fractions as plain values; not the curves."""
        return fields_of(self, without=("curves",))

    def __str__(self) -> str:
        lines = []
        if self.whole is not None:
            lines = [
                f"predicted by {_by(self.whole, self.neighbours)} in {self.whole.items:,} items of "
                f"the gallery, asked by {count_asked(self.whole.queries, self.whole.asked)}",
                *(f"  {line}" for line in self.whole.lines()),
                *_about("gallery", self.whole.left_out),
            ]
        if self.within is not None:
            order = self.order if self.order != RANDOM else f"{RANDOM}, the mean of {SEEDS} orders"
            lines += [
                f"within the sample alone, by {_by(self.within, self.neighbours)} in "
                f"{self.within.items:,} of its items, asked by "
                f"{count_asked(self.within.queries, self.within.asked)}; backfill by {order}",
                *(f"  {line}" for line in self.within.lines()),
            ]
        lines += _about("sample", self.left_out)
        lines += _about("real queries", self.unasked)
        if self.unknown:
            lacking = {"relevant items that the gallery lacks": self.unknown}
            lines += _about("judgements", lacking)
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


def forecast(
    gallery: Gallery | GalleryView,
    routes: Routes,
    sample: Embeddings | None = None,
    *,
    queries: RealQueries | None = None,
    curves: bool = False,
    seed: int = 0,
) -> Forecast:
    """Predict how well search will be. Nothing is written.

    Args:
        gallery: the gallery, or a view of it, which is what it is judged by then.
        routes: the transformations.
        sample: true new embeddings of some of its items; those that no transformation was fitted
            on are the queries. Its labels judge, else the gallery's, else the agreement of
            neighbours with full backfill.
        queries: queries that people ask, by both models; items of the sample if None.
        curves: draw the curve of a backfill within the sample, in each order, in place of judging
            in the whole gallery. That by uncertainty is there only if a transformation knows its
            own.
        seed: of the order of backfill where it is random.

    Raises:
        SpaceMismatchError: if the sample or the queries are in another space than is needed.
        UpgradeError: if neither is given, or judgements name items that the gallery lacks.
        ConfigurationError: if the seed is not a whole number.
    """
    check_whole("seed", seed, least=0)
    if sample is None and queries is None:
        raise UpgradeError(
            "nothing is predicted without true new embeddings of some items (sample=...) or real "
            "queries by both models (queries=...)",
            "give one of them",
        )
    view = gallery.view() if isinstance(gallery, Gallery) else gallery
    asked, gallery_trial, trial = gather(view, routes, sample, queries, whole=not curves)
    whole = within = drawn = None
    if gallery_trial is not None:
        whole = _judge_whole(gallery_trial, sampled=sample is not None)
    if trial is not None and trial.says_something:
        backfilled = _Backfilled.of(trial, seed)
        within, drawn = backfilled.judge(curves=curves, written=not curves and whole is None)
    items = 0 if sample is None else len(sample)
    return Forecast(
        transformation=routes.digest,
        sample=None if sample is None else digest_sample(sample),
        sample_items=items,
        rows=view.rows,
        whole=whole,
        within=within,
        why=None if whole or within else _why_not(asked, trial, items),
        left_out={} if trial is None else trial.items.left_out,
        unasked=asked.left_out,
        unknown=asked.unknown,
        remade=sum(origin == "upgraded" for origin in asked.old.origins or ()),
        unlisted=sum(count_unlisted(one.made_by) for one in routes.transformations),
        order=UNCERTAINTY if trial is not None and trial.knows_uncertainty else RANDOM,
        neighbours=0 if trial is None else count_neighbours(len(trial.now)),
        curves=drawn,
    )


def _judge_whole(trial: Trial, *, sampled: bool) -> Judgement | None:
    """Judge what is found in the whole gallery; None if nothing says what queries look for."""
    asked, relevance = trial.asked, trial.asked.relevance(trial.items)
    if relevance is None:
        return None
    metrics, best = (BY_LABEL, "map") if asked.qrels is None else (BY_GRADE, "ndcg@10")
    ways: list[Way] = [("old", "")]
    for serve in trial.ways:
        ways += [(serve, ""), (serve, SAMPLE)] if sampled else [(serve, "")]
    cells = {}
    for serve, what in ways:
        written = trial.true if what else None
        found = _answers(trial.queries(serve), trial.gallery(serve, written), relevance, metrics)
        cells[serve, what] = trial.share if what else 0.0, found
    return _judgement(trial, best, cells)


@dataclass(frozen=True, eq=False)
class _Backfilled:
    """The items of a sample while ever more of them are embedded, and who asks for them.

    Attributes:
        trial: the queries, and the items, of all of which the true vectors are known.
        relevance: what they look for among the items, if labels judge.
        nearest: the neighbours that each query finds among these.
        orders: in which the items can be embedded, by name; random ones are several. What no
            transformation carries comes first in each: it is not found at all.
        seed: of the random orders.
    """

    trial: Trial
    relevance: Relevance | None
    nearest: Ranking
    orders: Mapping[str, tuple[Ids, ...]]
    seed: int

    @classmethod
    def of(cls, trial: Trial, seed: int) -> "_Backfilled":
        """Return the items of a trial; by uncertainty only if it is known of some."""
        upgraded, true, asked = trial.upgraded, trial.true, trial.asked
        lost = sorted(set(true.ids) - set(upgraded.ids))
        random = (
            (*random_order(lost, seed=turn), *random_order(upgraded.ids, seed=turn))
            for turn in range(seed, seed + SEEDS)
        )
        orders: dict[str, tuple[Ids, ...]] = {RANDOM: tuple(random)}
        if trial.knows_uncertainty:
            numbers = [trial.uncertainties.get(item, -np.inf) for item in upgraded.ids]
            orders[UNCERTAINTY] = ((*lost, *uncertainty_order(upgraded.ids, numbers)),)
        orders[ORACLE] = ((*lost, *oracle_order(upgraded, true.align(upgraded.ids))),)
        count = count_neighbours(len(true))
        nearest = search(asked.new, true, count, exclude_self=asked.exclude_self)
        relevance = None if asked.qrels is not None else asked.relevance(trial.items)
        return cls(trial, relevance, nearest, orders, seed)

    def judge(self, *, curves: bool, written: bool) -> tuple[Judgement, dict[Serve, Curves] | None]:
        """Judge what is found in the better order that can be had.

        Args:
            curves: whether to draw the curve of each order, too, of all that can be served.
            written: whether the writing of the sample is judged here, by its share of the gallery.
        """
        best, trial = UNCERTAINTY if UNCERTAINTY in self.orders else RANDOM, self.trial
        ends = (0.0, *SHARES, 1.0)
        shares = sorted({*GRID, *SHARES}) if curves else ends
        nothing = dict[str, PerQuery]()
        if self.relevance is not None:
            nothing |= _answers(trial.asked.old, trial.now, self.relevance, BY_LABEL)
        nothing |= self.agreement(trial.asked.old, trial.now)
        cells: dict[Way, tuple[float, Found]] = {("old", ""): (0.0, nothing)}
        drawn: dict[Serve, Curves] = {}
        for serve in trial.ways:
            found = {
                name: self.found(serve, each, shares, agreed=ends if name == best else ())
                for name, each in self.orders.items()
                if name == best or curves
            }
            if curves:
                drawn[serve] = self._curves(found)
            cells[serve, ""] = 0.0, found[best][0.0]
            if written:
                turns, share = range(self.seed, self.seed + SEEDS), trial.share
                some = tuple(random_order(trial.true.ids, seed=turn) for turn in turns)
                sampled = self.found(serve, some, (share,), agreed=(share,))[share]
                cells[serve, SAMPLE] = share, sampled
            for share in SHARES:
                cells[serve, _backfill(share)] = share, found[best][share]
            cells[serve, EVERYTHING] = 1.0, found[best][1.0]
        judged = _judgement(trial, AGREEMENT if self.relevance is None else "map", cells)
        return judged, drawn if curves else None

    def _curves(self, found: Mapping[str, Mapping[float, Found]]) -> Curves:
        """Return the curves of what was found in each order, at each share."""
        metrics = (AGREEMENT,) if self.relevance is None else BY_LABEL
        each = next(iter(found.values()))  # all orders have the same ends
        gains = {metric: each[1.0][metric] - each[0.0][metric] for metric in metrics}
        values = {
            order: {
                metric: {share: float(np.nanmean(one[metric])) for share, one in at.items()}
                for metric in metrics
            }
            for order, at in found.items()
        }
        clusters = self.trial.asked.clusters
        return Curves(values, {m: _interval(one, clusters, True) for m, one in gains.items()})

    def found(
        self,
        serve: Serve,
        orders: tuple[Ids, ...],
        shares: Sequence[float],
        *,
        agreed: Sequence[float],
    ) -> dict[float, dict[str, PerQuery]]:
        """Return what each query gets at each share, in the mean of several orders.

        By labels if they judge, and by agreement at some of the shares; else by agreement at all.
        """
        trial, true = self.trial, self.trial.true
        queries = trial.queries(serve)
        found: dict[float, dict[str, PerQuery]] = {share: {} for share in shares}
        if self.relevance is not None:
            each = [
                backfill_curve(
                    queries,
                    trial.gallery(serve),
                    trial.gallery(serve, true),
                    order,
                    exclude_self=trial.asked.exclude_self,
                    shares=shares,
                ).evaluations
                for order in orders
            ]
            for share, *both in zip(shares, *each, strict=True):
                found[share] = _mean([_by_metric(one, BY_LABEL) for one in both])
        for share in shares if self.relevance is None else agreed:
            some = orders if 0 < share < 1 else orders[:1]  # at the ends all are the same
            galleries = (  # what has no vector is not found
                trial.gallery(serve, true.align(order[: items_at(share, len(order))]))
                for order in some
            )
            found[share] |= _mean([self.agreement(queries, one) for one in galleries])
        return found

    def agreement(self, queries: Searchable, gallery: Searchable) -> dict[str, PerQuery]:
        """Return of each query how many of its nearest items a gallery finds."""
        count = count_neighbours(len(self.trial.true))
        exclude_self = self.trial.asked.exclude_self
        found = search(queries, gallery, count, exclude_self=exclude_self)
        return {AGREEMENT: agreement(found, self.nearest)}


def _answers(
    queries: Searchable, gallery: Searchable, relevance: Relevance, metrics: Sequence[str]
) -> dict[str, PerQuery]:
    """Return what each query gets, by metric; an item that the gallery lacks is not found."""
    ranked = rank(queries, gallery, exclude_self=relevance.exclude_self)
    return _by_metric(evaluate(ranked, relevance, metrics=metrics), metrics)


def _by_metric(evaluation: Evaluation, metrics: Sequence[str]) -> dict[str, PerQuery]:
    found = replace(evaluation, depth=None)  # all that is there was ranked, however little that is
    return {name: found.per_query(name) for name in metrics}


def _mean(found: Sequence[Found]) -> dict[str, PerQuery]:
    """Return what each query gets in the mean of several orders."""
    return {metric: np.mean([one[metric] for one in found], axis=0) for metric in found[0]}


def _judgement(trial: Trial, metric: str, found: Mapping[Way, tuple[float, Found]]) -> Judgement:
    """Return the cells of what was found: of which share, and what each query gets."""
    (_, nothing), clusters = found["old", ""], trial.asked.clusters
    stored = {*trial.upgraded.ids, *trial.embedded.ids}

    def over(each: Found, other: Found) -> dict[str, Interval]:
        return {by: _interval(each[by] - other[by], clusters, True) for by in each}

    cells = tuple(
        Cell(
            _name(serve, what),
            share,
            {by: _interval(one, clusters) for by, one in each.items()},
            over(each, nothing),
            over(each, found["new", what][1]) if serve == "fused" else {},
            _advise(trial, metric, nothing, found["new", what][1], each)
            if serve == "fused"
            else None,
        )
        for (serve, what), (share, each) in found.items()
    )
    of_sample = None
    if ("new", SAMPLE) in found:
        of_sample = over(found["new", SAMPLE][1], found["new", ""][1])[metric]
    counted = np.flatnonzero(~np.isnan(nothing[metric])).tolist()
    return Judgement(
        asked=trial.asked.who,
        metric=metric,
        queries=len(counted),
        clusters=len({clusters[row] for row in counted}),
        skipped=len(trial.asked) - len(counted),
        items=len(trial.now),
        lost=len(trial.now) - len(stored),
        flattered=trial.flattered,
        left_out=trial.items.left_out,
        cells=cells,
        of_sample=of_sample,
    )


def _advise(trial: Trial, metric: str, now: Found, new: Found, fused: Found) -> Advice:
    """Return what to serve, by what queries find in what answers now, the new space, and the pair.

    The one weight is the pair's. Fused search must be clearly better, unless the fit advises it by
    what it held out, with a weight for which less may be asked: then it need only do no harm here,
    and find no less in the mean.
    """
    rows = np.flatnonzero(~np.isnan(now[metric]))
    candidates = (
        OfCandidate({one: each[one][rows] for one in WEIGHED[metric]}) for each in (now, new, fused)
    )
    found_now, found_new, found_fused = candidates
    assert trial.serving is not None  # noqa: S101 (there is a pair)
    by_fit = trial.serving.advised == "fused" and trial.serving.fusion.weight <= MOST
    is_lenient = trial.asked.who == ITEMS and by_fit
    advice = advise(
        found_now,
        found_new,
        lambda _: found_fused,
        [trial.asked.clusters[row] for row in rows.tolist()],
        by=JUDGED_BY[metric],
        lenient="the fit advises it, and it does no harm here" if is_lenient else None,
        weights=(trial.serving.fusion.weight,),
    )
    if advice.advised == "fused" and advice.gained is not None and advice.gained.estimate < 0:
        return replace(advice, advised="new", reason="fused search finds less in the mean")
    return advice


def _backfill(share: float) -> str:
    return f"backfill {100 * share:g} %"


def _name(serve: Serve, what: str) -> str:
    if (serve, what) == ("new", EVERYTHING):
        return EVERYTHING  # nothing is upgraded then
    return " + ".join(filter(None, (SERVED[serve], what)))


def _interval(values: PerQuery, clusters: Sequence[Hashable], difference: bool = False) -> Interval:
    counted = np.flatnonzero(~np.isnan(values)).tolist()
    return over_clusters(values[counted], [clusters[row] for row in counted], difference=difference)


def _why_not(asked: Questions, trial: Trial | None, sample_items: int) -> str:
    if trial is None:
        why = "nothing says what the real queries look for"
        if asked.new.labels is not None or asked.qrels is not None:
            why = (
                "the gallery's labels do not tell what real queries look for from what they do not"
            )
        return (
            f"nothing can be predicted: {why}, and without a sample nobody knows what full "
            "backfill would answer; give judgements (qrels=...), labels that queries and "
            "items share, or true new embeddings of some items (sample=...)"
        )
    reasons = ", ".join(f"{count:,} ({why})" for why, count in trial.items.left_out.items())
    left = f"{len(trial.now):,} of the sample's {sample_items:,} items are left to judge by"
    if len(trial.now) >= LEAST_ITEMS:
        left += ", and no transformation can carry one of them"
    return (
        f"nothing can be predicted: {left}, {LEAST_ITEMS} are needed"
        + (f"; left out: {reasons}" if reasons else "")
        + ". Embed more items of the gallery, chosen at random, or keep some of the sample for the "
        f"plan when fitting: a fifth, and {LEAST_ITEMS} at least"
    )


def _by(judgement: Judgement, neighbours: int) -> str:
    by = {"map": "labels", "ndcg@10": "judgements"}
    return by.get(judgement.metric, f"agreement of {neighbours} neighbours")


def _about(whose: str, left_out: Mapping[str, int]) -> list[str]:
    said = ", ".join(f"{count:,} ({why})" for why, count in left_out.items())
    return [f"  left out of the {whose}: {said}"] if said else []


def _shown(value: Interval) -> str:
    return f"{100 * value.estimate:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
