"""Score rankings: CMC, average precision, recall, reciprocal rank and discounted gain.

A ranking says which gallery items came back for each query, nearest first. Nothing here
knows of images, models or distances: `retrieval` makes rankings, this module judges them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from onward.errors import EvaluationError
from onward.evaluation.relevance import IGNORED, Grades, Relevance
from onward.evaluation.retrieval import Hits, Ranking, as_count, check_once
from onward.plain import plain
from onward.spaces import Ids, places

Counts = Int64[np.ndarray, " query"]
PerQuery = Float64[np.ndarray, " query"]

METRICS = ("cmc@1", "cmc@5", "map")
"""What is measured unless other metrics are asked for."""

SCORED = ("recall", "ndcg")
"""Kinds of metrics that more than the first hit and average precision must be known for."""


class MetricName(NamedTuple):
    """A metric and the number of ranks that it looks at."""

    kind: str
    k: int
    """0 for map, which looks at all."""

    @classmethod
    def parse(cls, name: str) -> "MetricName":
        """Read "map", "cmc@k", "recall@k", "mrr@k" or "ndcg@k".

        Raises:
            EvaluationError: if there is no such metric.
        """
        if name == "map":
            return cls("map", 0)
        found = re.fullmatch(r"(cmc|recall|mrr|ndcg)@([1-9][0-9]{0,8})", name)
        if found is None:
            raise EvaluationError(
                f"there is no metric {name!r}",
                "choose map, cmc@k, recall@k, mrr@k or ndcg@k, where "
                "k is the number of ranks to look at, such as cmc@1 or ndcg@10",
            )
        return cls(found[1], int(found[2]))


def parse_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of metrics, each once, if there are such metrics.

    Raises:
        EvaluationError: if there is no such metric, or no name.
    """
    known = tuple(dict.fromkeys(names))
    if not known:
        raise EvaluationError("no metric was asked for", f"name some, such as {', '.join(METRICS)}")
    for name in known:
        MetricName.parse(name)
    return known


def average_precision(hits: Hits, relevant: Counts) -> PerQuery:
    """Average precision of each query.

    The mean, over all relevant gallery items, of the precision at the rank where each was
    found. A relevant item that was not retrieved adds zero, so a short ranking cannot flatter.

    Args:
        hits: `hits[q, r]` is true if the item at rank r (0 is nearest) is relevant to query q.
        relevant: number of gallery items relevant to each query, retrieved or not.

    Returns:
        AP in [0, 1]; NaN for a query with nothing to find. `evaluate` counts and drops those.

    Raises:
        EvaluationError: if a query has more hits than relevant items.

    References:
        Manning, Raghavan, Schuetze, Introduction to Information Retrieval, section 8.4.
    """
    found = hits.sum(axis=1)
    if (found > relevant).any():
        query = int(np.argmax(found > relevant))
        raise EvaluationError(
            f"query {query} has {found[query]} hits but only {relevant[query]} relevant items",
            "count relevance over the whole gallery, not over the ranking",
        )
    query_of, rank_of = np.nonzero(hits)
    before = np.cumsum(found) - found
    precision = (np.arange(len(query_of)) - before[query_of] + 1) / (rank_of + 1)
    sums = np.bincount(query_of, weights=precision, minlength=len(hits))
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing to find
        scores: PerQuery = sums / relevant
    return scores


def first_hits(hits: Hits) -> Counts:
    """Return the rank of each query's first hit, from 0; -1 where there is none."""
    if hits.shape[1] == 0:
        return np.full(len(hits), -1, dtype=np.int64)
    first: Counts = np.where(hits.any(axis=1), hits.argmax(axis=1), -1)
    return first


def recall(hits: Hits, relevant: Counts) -> PerQuery:
    """Return the share of each query's relevant items that the ranking holds.

    In [0, 1]; NaN for a query with nothing to find.
    """
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing to find
        shares: PerQuery = hits.sum(axis=1) / relevant
    return shares


def discounted_gain(grades: Grades, best: Int32[np.ndarray, "query place"]) -> PerQuery:
    """Return the normalised discounted cumulative gain (nDCG) of each query.

    The sum, over the ranks r from 1, of grade / log2(r + 1), divided by that of the best ranking
    there is. The gain is the grade itself, as trec_eval has it, not 2 to its power.

    Args:
        grades: of what stands at each rank; 0 where it is not relevant.
        best: of what stands at each rank of a perfect ranking, cut at the same rank.

    Returns:
        In [0, 1]; NaN for a query with nothing to find.

    References:
        Jaervelin and Kekaelaeinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002.
    """
    discounts = 1 / np.log2(np.arange(max(grades.shape[1], best.shape[1])) + 2)
    gained = grades @ discounts[: grades.shape[1]]
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing to find
        shares: PerQuery = gained / (best @ discounts[: best.shape[1]])
    return shares


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well each query was answered, and what that makes over all of them.

    A query that has nothing to find is left out of every mean and counted in `skipped`.

    Attributes:
        query_ids: one id a query.
        first_hit: rank of the first relevant item, from 0; -1 if none came back. Ignored items
            are not counted as ranks.
        relevant: number of gallery items relevant to the query.
        average_precision: in [0, 1]; NaN for a query with nothing to find.
        depth: number of ranks that were looked at; None if it was the whole gallery.
        metrics: names of what is shown of it, such as "cmc@1", "map" or "ndcg@10".
        scores: what each query gets, by name, in those that the attributes above do not tell:
            recall@k and ndcg@k.
        left_out: how many queries, items and judgements did not count; see `Relevance`.

    Raises:
        EvaluationError: if a query stands twice, the arrays are not one value a query, or there
            is no metric of a name, or no scores of it.
    """

    query_ids: Ids
    first_hit: Counts
    relevant: Counts
    average_precision: PerQuery
    depth: int | None = None
    metrics: tuple[str, ...] = METRICS
    scores: Mapping[str, PerQuery] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "query_ids", tuple(self.query_ids))
        check_once(self.query_ids, "query ids of an evaluation")
        types = {"first_hit": np.int64, "relevant": np.int64, "average_precision": np.float64}
        for name, dtype in types.items():
            object.__setattr__(self, name, self._values(name, getattr(self, name), dtype))
        scores = {name: self._values(name, one, np.float64) for name, one in self.scores.items()}
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "left_out", dict(self.left_out))
        object.__setattr__(self, "metrics", parse_metrics(self.metrics))
        for name in self.metrics:
            self._check_measured(name)

    def _values(self, name: str, given: np.ndarray, dtype: type) -> np.ndarray:
        """Return a read-only copy of one value a query."""
        values: np.ndarray = np.array(given, dtype=dtype)
        values.flags.writeable = False
        if values.shape != (len(self.query_ids),):
            raise EvaluationError(
                f"{name} of shape {values.shape} for {len(self.query_ids)} queries",
                "give one value a query",
            )
        return values

    @property
    def queries(self) -> int:
        """How many queries count: those that have something to find."""
        return int(self.counted.sum())

    @property
    def skipped(self) -> int:
        """How many queries have nothing to find."""
        return len(self.query_ids) - self.queries

    @property
    def counted(self) -> Bool[np.ndarray, " query"]:
        """Which queries have something to find."""
        return self.relevant > 0

    @property
    def map(self) -> float:
        """Mean average precision in [0, 1]; NaN if no query counts."""
        return self.value("map")

    def per_query(self, metric: str) -> PerQuery:
        """Return what each query gets, in [0, 1]; NaN for one with nothing to find.

        Args:
            metric: "map", "cmc@k" or "mrr@k" for any k; "recall@k" or "ndcg@k" that was asked for
                when the rankings were judged.

        Raises:
            EvaluationError: if there is no such metric, it was not asked for, or the rankings were
                cut above rank k.
        """
        kind, k = MetricName.parse(metric)
        self._check_measured(metric)
        self._check_reaches(metric)
        if kind == "map":
            return self.average_precision
        if metric in self.scores:
            return self.scores[metric]
        found = (self.first_hit >= 0) & (self.first_hit < k)
        values: PerQuery = np.full(len(self.query_ids), np.nan)
        values[self.counted] = 0
        values[found] = {"cmc": 1.0, "mrr": 1 / (self.first_hit[found] + 1)}[kind]
        return values

    def value(self, metric: str) -> float:
        """Return the mean of a metric over the queries that count; NaN if none does.

        Raises:
            EvaluationError: as `per_query`.
        """
        values = self.per_query(metric)[self.counted]
        return float(values.mean()) if len(values) else float("nan")

    def cmc(self, k: SupportsIndex) -> float:
        """Return the share of queries with a relevant item in the first k; NaN if none counts.

        Raises:
            EvaluationError: if k is not a whole number from 1 up, or rankings were cut above it.
        """
        return self.value(f"cmc@{as_count(k, 'ranks')}")

    def curve(self, k: SupportsIndex) -> Float64[np.ndarray, " rank"]:
        """Return cmc@1, cmc@2, ... cmc@k; it never falls.

        Raises:
            EvaluationError: if k is not a whole number from 1 up, or rankings were cut above it.
        """
        ranks = as_count(k, "ranks")
        self._check_reaches(f"cmc@{ranks}")
        return np.array([self.cmc(rank) for rank in range(1, ranks + 1)])

    def select(self, query_ids: Iterable[str]) -> "Evaluation":
        """Return the evaluation of some queries only, in that order.

        Raises:
            EvaluationError: if a query was not evaluated.
        """
        wanted = tuple(query_ids)
        rows = places(wanted, self.query_ids)
        if missing := [item for item, row in zip(wanted, rows, strict=True) if row < 0]:
            raise EvaluationError(
                f"{len(missing)} of {len(wanted)} queries were not evaluated, the first "
                f"{missing[0]!r}",
                "evaluate them, or leave them out",
            )
        return replace(
            self,
            query_ids=wanted,
            first_hit=self.first_hit[rows],
            relevant=self.relevant[rows],
            average_precision=self.average_precision[rows],
            scores={name: values[rows] for name, values in self.scores.items()},
        )

    def align(self, other: "Evaluation", names: tuple[str, str]) -> "Evaluation":
        """Return this evaluation with its queries in the order of another, whose cell is compared.

        Args:
            other: of the same queries, which have as much to find there.
            names: what the two are called in messages.

        Raises:
            EvaluationError: if the other's queries are not the same, or have more or less to find.
        """
        (here, there), mine, theirs = names, self.query_ids, other.query_ids
        if set(mine) != set(theirs):
            raise EvaluationError(
                f"{here} has {len(mine)} queries, {there} has {len(theirs)}, and they are not the "
                "same",
                "evaluate every cell with the same queries",
            )
        aligned = self if mine == theirs else self.select(theirs)
        differ = np.flatnonzero(aligned.relevant != other.relevant)
        if len(differ):
            row = int(differ[0])
            raise EvaluationError(
                f"query {theirs[row]!r} has {aligned.relevant[row]} relevant items in {here} and "
                f"{other.relevant[row]} in {there}",
                "evaluate every cell on the same gallery items, with the same exclude_self",
            )
        return aligned

    def to_json(self) -> dict[str, Any]:
        """Return the means as fractions, and how many queries count; None where there is none.

        And `left_out`, if any query, item or judgement did not count.
        """
        left_out = {"left_out": dict(self.left_out)} if self.left_out else {}
        return {**self._shown(), "queries": self.queries, "skipped": self.skipped, **left_out}

    def __str__(self) -> str:
        header = f"{'(percent)':<12}{self.heads()}"
        return f"{header}\n{'':<12}{self.columns()}\n{self.counted_text()}"

    def heads(self) -> str:
        """Return the names of the metrics shown, as wide as `columns`."""
        return "".join(f"{name:>{_width(name)}}" for name in self.metrics)

    def columns(self) -> str:
        """Return the metrics shown in percent, as wide as `heads`; - for what is unknown."""
        return "".join(
            f"{'-' if value is None else f'{100 * value:.1f}':>{_width(name)}}"
            for name, value in self._shown().items()
        )

    def counted_text(self) -> str:
        """Return what says how many queries count, and how much was left out."""
        first = f"{self.queries:,} queries; {self.skipped:,} more skipped (nothing to find)."
        return "\n".join([first, *left_out_text(self.left_out)])

    def reaches(self, metric: str) -> bool:
        """Whether the rankings were not cut above the last rank that a metric looks at."""
        return self.depth is None or MetricName.parse(metric).k <= self.depth

    def _shown(self) -> dict[str, float | None]:
        return {
            name: plain(self.value(name)) if self.reaches(name) else None for name in self.metrics
        }

    def _check_reaches(self, metric: str) -> None:
        if not self.reaches(metric):
            k = MetricName.parse(metric).k
            raise EvaluationError(
                f"{metric} needs {k} ranks but the rankings were cut after {self.depth}",
                f"rank at least the {k} nearest items",
            )

    def _check_measured(self, metric: str) -> None:
        if MetricName.parse(metric).kind in SCORED and metric not in self.scores:
            measured = [*self.metrics, *(name for name in self.scores if name not in self.metrics)]
            raise EvaluationError(
                f"{metric} was not measured, only {', '.join(measured)}, and cmc@k and mrr@k of "
                f"any k",
                "judge the rankings with it among metrics=(...)",
            )


def left_out_text(left_out: Mapping[str, int]) -> list[str]:
    """Return a sentence on each kind of what did not count; see `Relevance.left_out`."""
    kinds = {
        "queries_without_label": "queries have an unknown label: skipped.",
        "queries_of_other_classes": "queries are of classes that the gallery lacks: skipped.",
        "items_without_label": "gallery items have an unknown label: relevant to no query.",
        "qrels_queries": "queries in the qrels are not among those asked: left out.",
        "qrels_items": "relevant items in the qrels are not in the gallery: left out.",
        "ignored_queries": "queries of pairs to ignore are not among those asked: left out.",
        "ignored_items": "items of pairs to ignore are not in the gallery: left out.",
    }
    return [f"{left_out[kind]:,} {words}" for kind, words in kinds.items() if left_out.get(kind)]


def evaluate(
    rankings: Ranking | Iterable[Ranking],
    relevance: Relevance,
    *,
    metrics: Sequence[str] = METRICS,
) -> Evaluation:
    """Judge rankings by what is relevant.

    Rankings are taken one at a time, so a generator of blocks needs no more memory than a block.
    Items that are ignored for a query are taken out of its ranking before ranks are counted.

    Args:
        rankings: one, or several that together hold every query of the relevance once.
        relevance: what each query is looking for, and what is ignored for it.
        metrics: names of what to measure and show: "map", "cmc@k", "recall@k", "mrr@k", "ndcg@k".

    Raises:
        EvaluationError: if queries are missing or stand twice, ids are unknown to the relevance,
            rankings and relevance disagree on `exclude_self`, or there is no metric of a name.
    """
    shown = parse_metrics(metrics)
    parts = [
        _judge(ranking, relevance, shown)
        for ranking in ((rankings,) if isinstance(rankings, Ranking) else rankings)
    ]
    ids = tuple(item for part in parts for item in part.query_ids)
    missing = set(relevance.query_ids) - set(ids)
    if missing:
        raise EvaluationError(
            f"{len(missing)} of {len(relevance.query_ids)} queries were not ranked, the first "
            f"{min(missing)!r}",
            "rank them all, or make the relevance of those you rank",
        )
    depths = [part.depth for part in parts if part.depth is not None]
    scored = [name for name in shown if MetricName.parse(name).kind in SCORED]
    return Evaluation(
        ids,
        _join((part.first_hit for part in parts), np.int64),
        _join((part.relevant for part in parts), np.int64),
        _join((part.average_precision for part in parts), np.float64),
        min(depths, default=None),
        shown,
        {name: _join((part.scores[name] for part in parts), np.float64) for name in scored},
        relevance.left_out,
    )


def _join(parts: Iterable[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=dtype), *parts])


def _judge(ranking: Ranking, relevance: Relevance, metrics: tuple[str, ...]) -> Evaluation:
    """Judge one ranking; its queries need not be all there are."""
    ids, width = ranking.query_ids, ranking.rows.shape[1]
    grades = relevance.grades(ranking)
    removed = _take_out_ignored(grades)
    hits, relevant = grades > 0, relevance.counts(ids)
    scores = {}
    for name in metrics:
        kind, k = MetricName.parse(name)
        if kind == "recall":
            scores[name] = recall(hits[:, :k], relevant)
        elif kind == "ndcg":
            scores[name] = discounted_gain(grades[:, :k], relevance.best(ids, k))
    return Evaluation(
        ids,
        first_hits(hits),
        relevant,
        average_precision(hits, relevant),
        None if width >= relevance.longest else width - removed,
        metrics,
        scores,
    )


def _take_out_ignored(grades: Grades) -> int:
    """Move what stands behind an ignored item up, in place; return the most taken out of a row."""
    ignored = grades == IGNORED
    for row in np.flatnonzero(ignored.any(axis=1)).tolist():
        left = grades[row, ~ignored[row]]
        grades[row] = 0
        grades[row, : len(left)] = left
    return int(ignored.sum(axis=1).max(initial=0))


def _width(name: str) -> int:
    return max(7, len(name) + 2)
