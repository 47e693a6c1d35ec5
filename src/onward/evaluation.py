"""Score rankings: cumulative matching characteristic (CMC) and average precision (AP).

A ranking says which gallery items came back for each query, nearest first. Nothing here
knows of images, models or distances: `onward.retrieval` makes rankings, this module judges them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from onward.errors import EvaluationError
from onward.rankings import Hits, Ranking, Relevance
from onward.spaces import Ids

Counts = Int64[np.ndarray, " query"]
PerQuery = Float64[np.ndarray, " query"]


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
            f"query {query} has {found[query]} hits but only {relevant[query]} relevant items; "
            "count relevance over the whole gallery, not over the ranking"
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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well each query was answered, and what that makes over all of them.

    A query that has nothing to find is left out of every mean and counted in `skipped`.

    Attributes:
        query_ids: one id a query.
        first_hit: rank of the first relevant item, from 0; -1 if none came back.
        relevant: number of gallery items relevant to the query.
        average_precision: in [0, 1]; NaN for a query with nothing to find.
        depth: number of ranks that were looked at; None if it was the whole gallery.

    Raises:
        EvaluationError: if a query stands twice, or the arrays are not one value a query.
    """

    query_ids: Ids
    first_hit: Counts
    relevant: Counts
    average_precision: PerQuery
    depth: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "query_ids", tuple(self.query_ids))
        types = {"first_hit": np.int64, "relevant": np.int64, "average_precision": np.float64}
        for name, dtype in types.items():
            values = np.array(getattr(self, name), dtype=dtype)
            values.flags.writeable = False
            object.__setattr__(self, name, values)
            if values.shape != (len(self.query_ids),):
                raise EvaluationError(
                    f"{name} of shape {values.shape} for {len(self.query_ids)} queries; "
                    "give one value a query"
                )
        if len(set(self.query_ids)) != len(self.query_ids):
            raise EvaluationError(
                f"{len(self.query_ids)} results for {len(set(self.query_ids))} queries; "
                "rank every query once"
            )

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
        return float(self.average_precision[self.counted].mean()) if self.queries else float("nan")

    def cmc(self, k: int) -> float:
        """Return the share of queries with a relevant item in the first k; NaN if none counts.

        Raises:
            EvaluationError: if k is not positive, or the rankings were cut above rank k.
        """
        return float(self.curve(k)[-1])

    def curve(self, k: int) -> Float64[np.ndarray, " rank"]:
        """Return cmc@1, cmc@2, ... cmc@k; it never falls.

        Raises:
            EvaluationError: if k is not positive, or the rankings were cut above rank k.
        """
        if k < 1:
            raise EvaluationError(f"cmc@{k} does not exist; k starts at 1")
        if self.depth is not None and k > self.depth:
            raise EvaluationError(
                f"cmc@{k} needs {k} ranks but the rankings were cut after {self.depth}; "
                f"rank at least the {k} nearest items"
            )
        if not self.queries:
            return np.full(k, np.nan)
        first = self.first_hit[self.counted]
        at_rank = np.bincount(first[(first >= 0) & (first < k)], minlength=k)
        curve: Float64[np.ndarray, " rank"] = np.cumsum(at_rank) / self.queries
        return curve

    def select(self, query_ids: Iterable[str]) -> "Evaluation":
        """Return the evaluation of some queries only, in that order.

        Raises:
            EvaluationError: if a query was not evaluated.
        """
        row_of = {item: row for row, item in enumerate(self.query_ids)}
        wanted = tuple(query_ids)
        missing = [item for item in wanted if item not in row_of]
        if missing:
            raise EvaluationError(
                f"{len(missing)} of {len(wanted)} queries were not evaluated, the first "
                f"{missing[0]!r}; evaluate them, or leave them out"
            )
        rows = np.array([row_of[item] for item in wanted], dtype=np.int64)
        return Evaluation(
            wanted,
            self.first_hit[rows],
            self.relevant[rows],
            self.average_precision[rows],
            self.depth,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the means as fractions, and how many queries count; None where there is none."""
        shown = {f"cmc@{k}": self.cmc(k) if self._reaches(k) else None for k in (1, 5)}
        shown["map"] = self.map if self.queries else None
        return {**shown, "queries": self.queries, "skipped": self.skipped}

    def __str__(self) -> str:
        header = f"{'(percent)':<12}{'cmc@1':>7}{'cmc@5':>7}{'map':>7}"
        return f"{header}\n{'':<12}{self.columns()}\n{self.counted_text()}"

    def columns(self) -> str:
        """Return cmc@1, cmc@5 and map in percent, seven characters each; - for what is unknown."""
        values = [value for name, value in self.to_json().items() if name[:3] in ("cmc", "map")]
        return "".join(f"{'-' if value is None else f'{100 * value:.1f}':>7}" for value in values)

    def counted_text(self) -> str:
        """Return a sentence that says how many queries count."""
        return f"{self.queries:,} queries; {self.skipped:,} more skipped (nothing to find)."

    def _reaches(self, k: int) -> bool:
        return self.queries > 0 and (self.depth is None or k <= self.depth)


def evaluate(rankings: Ranking | Iterable[Ranking], relevance: Relevance) -> Evaluation:
    """Judge rankings by what is relevant.

    Rankings are taken one at a time, so a generator of blocks needs no more memory than a block.

    Args:
        rankings: one, or several that together hold every query of the relevance once.
        relevance: what each query is looking for.

    Raises:
        EvaluationError: if queries are missing or stand twice, ids are unknown to the relevance,
            or rankings and relevance disagree on `exclude_self`.
    """
    ids: list[str] = []
    first: list[Counts] = [np.empty(0, dtype=np.int64)]
    relevant: list[Counts] = [np.empty(0, dtype=np.int64)]
    scores: list[PerQuery] = [np.empty(0, dtype=np.float64)]
    whole = relevance.longest
    depth = whole
    for ranking in (rankings,) if isinstance(rankings, Ranking) else rankings:
        hits = relevance.hits(ranking)
        counts = relevance.counts(ranking.query_ids)
        ids += ranking.query_ids
        first.append(first_hits(hits))
        relevant.append(counts)
        scores.append(average_precision(hits, counts))
        depth = min(depth, hits.shape[1])
    missing = set(relevance.query_ids) - set(ids)
    if missing:
        raise EvaluationError(
            f"{len(missing)} of {len(relevance.query_ids)} queries were not ranked, the first "
            f"{min(missing)!r}; rank them all, or make the relevance of those you rank"
        )
    return Evaluation(
        tuple(ids),
        np.concatenate(first),
        np.concatenate(relevant),
        np.concatenate(scores),
        None if depth >= whole else depth,
    )
