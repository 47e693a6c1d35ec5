"""How far a mean can be trusted: intervals over queries and over seeds.

Two things make a number of a study uncertain. Other queries would have given another mean: the
bootstrap over queries says by how much, for models and a gallery that are as they are. Another
training would have given other models: only several seeds can show that, and what they show holds
for the queries that were asked. Where two cells are compared, they are compared on the same
queries, or seed by seed: what is hard for both then cancels.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float64

from onward.errors import EvaluationError
from onward.evaluation.metrics import Evaluation
from onward.plain import Plain

PerQuery = Float64[np.ndarray, " query"]

BLOCK_BYTES = 32 << 20
"""About how much memory resampling works in, whatever the number of queries and resamples."""
MANY = 1000
"""With more degrees of freedom than these Student's t changes by less than a thousandth."""


@dataclass(frozen=True)
class Interval(Plain):
    """A mean, or a difference of two, and the interval that its truth lies in.

    Attributes:
        estimate: the mean in [0, 1], or the difference in [-1, 1]; NaN if it is not known.
        low: lower end; NaN if the interval is not known.
        high: upper end.
        confidence: the share of such intervals that hold the truth, in (0, 1).
        difference: whether it is a difference of two means.
        method: how it was made, such as "bootstrap over 1,000 queries".
    """

    estimate: float
    low: float
    high: float
    confidence: float
    difference: bool
    method: str

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside: of a difference, whether its sign is beyond doubt."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        if math.isnan(self.estimate):
            return f"unknown ({self.method})"
        share = f"{100 * self.confidence:g} %"
        interval = f"{share} interval {self._percent(self.low)} to {self._percent(self.high)}"
        if math.isnan(self.low):
            interval = f"{share} interval unknown"
        unit = "points" if self.difference else "%"
        return f"{self._percent(self.estimate)} {unit} ({interval}; {self.method})"

    def _percent(self, value: float) -> str:
        return f"{100 * value:+.1f}" if self.difference else f"{100 * value:.1f}"


def over_queries(
    evaluation: Evaluation,
    metric: str,
    *,
    baseline: Evaluation | None = None,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return a metric, or what a cell has more of it than another, with its bootstrap interval.

    The queries that count are drawn again, as many, with replacement, `resamples` times; the
    interval lies between the percentiles of the means. Models and gallery stay as they are, and
    queries are taken to be independent of each other. Where every query has the same value the
    interval has no width, which says that it saw no other query, not that there is none. The same
    seed draws the same queries for every metric and cell.

    Args:
        evaluation: what was judged.
        metric: one that was measured, such as "map"; see `Evaluation.per_query`.
        baseline: subtracted query by query, such as old/old: what is hard for both then cancels.
            The same queries with as much to find, in any order.
        seed: of the draws.
        resamples: how often to draw; the ends are uncertain themselves if it is small.
        confidence: in (0, 1).

    Raises:
        EvaluationError: if the two do not have the same queries with as much to find, there is no
            such metric, or a setting is out of its range.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    values = evaluation.per_query(metric)
    if baseline is not None:
        aligned = baseline.align(evaluation, ("the baseline", "the cell"))
        values = values - aligned.per_query(metric)
    return bootstrap(
        values[evaluation.counted],
        difference=baseline is not None,
        seed=seed,
        resamples=resamples,
        confidence=confidence,
    )


def bootstrap(
    values: PerQuery,
    *,
    difference: bool = False,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean of what each query that counts got, with an interval as of `over_queries`.

    Raises:
        EvaluationError: if a setting is out of its range.
    """
    if resamples < 1:
        raise EvaluationError(f"{resamples} resamples make no interval", "draw 1,000 or more")
    tail = _tail(confidence)
    if not len(values):
        return _unknown(confidence, difference)
    random, means = np.random.default_rng(seed), []
    step = max(1, BLOCK_BYTES // (16 * len(values)))
    for start in range(0, resamples, step):  # some at a time
        shape = (min(step, resamples - start), len(values))
        means.append(values[random.integers(len(values), size=shape)].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    method = f"bootstrap over {len(values):,} queries"
    return Interval(float(values.mean()), float(low), float(high), confidence, difference, method)


def over_clusters(
    values: PerQuery,
    clusters: Sequence[Hashable],
    *,
    difference: bool = False,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean of what each query got, with an interval for few and related queries.

    `mean ± t(g - 1) * error` for g clusters, such as the classes of the queries: those of one class
    are hard or easy together, so the error is that of the clusters' sums, or that of independent
    queries where it is larger. A single cluster says no more than a single query. Two queries more
    are counted that nobody has asked: of a mean one at either end of what can be, of a difference
    half of one at either end and one that is 0. So the interval has a width where every query that
    was asked got the same, and a handful of queries proves nothing. It is kept within what can be.

    Args:
        values: one for each query that counts, in [0, 1]; in [-1, 1] for a difference.
        clusters: which cluster each query is of; queries of different clusters are independent.
        difference: whether each is a difference of two cells, for the same query.
        confidence: in (0, 1).

    Raises:
        EvaluationError: if there are not as many clusters as values, or the confidence is out of
            its range.

    References:
        Liang and Zeger, Longitudinal data analysis using generalized linear models, 1986 (the
        error over clusters); Agresti and Min, Simple improved confidence intervals for comparing
        matched proportions, 2005 (the two queries more of a difference: half a pair in each of the
        four cells); Agresti and Caffo, Simple and effective confidence intervals for proportions,
        2000 (those of a mean: one success and one failure).
    """
    if len(values) != len(clusters):
        raise EvaluationError(
            f"{len(values)} values and {len(clusters)} clusters were given",
            "give the cluster of each value's query",
        )
    tail, count = _tail(confidence), len(values)
    if not count:
        return _unknown(confidence, difference)
    numbers: dict[Hashable, int] = {}
    which = [numbers.setdefault(each, len(numbers)) for each in clusters]
    mean, groups = float(values.mean()), len(numbers)
    method = f"t-interval over {count:,} queries in {groups:,} clusters"
    if groups > 1:
        sums = np.bincount(which, weights=values - mean)
        spread = float(((values - mean) ** 2).sum())
        spread = max(spread, float((sums**2).sum()) * groups / (groups - 1))
    else:
        count, spread = 1, 0.0
    ends = (-1.0, 1.0) if difference else (0.0, 1.0)
    spread += _spread_added(mean, difference=difference)
    freedom = min(max(groups - 1, 1), MANY)
    half = _t_quantile(1 - 2 * tail, freedom) * math.sqrt(spread) / (count + 2)
    low, high = max(mean - half, ends[0]), min(mean + half, ends[1])
    return Interval(mean, low, high, confidence, difference, method)


def queries_for(found: Interval, half: float, *, queries: int, clusters: int) -> int:
    """Return about how many queries would narrow an interval of `over_clusters` to a half-width.

    They are taken to differ as much as those that were asked, and to be of as many clusters each.
    Where all queries got the same, only the two that nobody has asked are left to outweigh, and
    fewer are needed than if all of the width came from queries that differ. Of an interval that is
    kept within what can be it is the least number: how wide it was is not known.

    Args:
        found: the interval.
        half: what its larger half is to be, above 0.
        queries: how many were asked for it.
        clusters: of how many clusters they are.
    """
    added = _spread_added(found.estimate, difference=found.difference)
    inside, asked = found.confidence, queries if clusters > 1 else 1
    now = max(found.high - found.estimate, found.estimate - found.low)
    factor = _t_quantile(inside, min(max(clusters - 1, 1), MANY))
    each = max((now * (asked + 2) / factor) ** 2 - added, 0.0) / asked
    count = float(asked)
    for _ in range(5):  # the more clusters, the smaller the factor
        freedom = min(max(round(clusters * count / asked) - 1, 1), MANY)
        square = _t_quantile(inside, freedom) ** 2
        root = (square * each) ** 2 + 4 * half**2 * square * (added - 2 * each)
        count = max((square * each + math.sqrt(max(root, 0.0))) / (2 * half**2) - 2, 1.0)
    return math.ceil(round(count, 6))


def _spread_added(mean: float, *, difference: bool) -> float:
    """Return what the two queries that nobody has asked add to the sum of squares."""
    if difference:
        return ((1 - mean) ** 2 + (1 + mean) ** 2) / 2 + mean**2
    return (1 - mean) ** 2 + mean**2


def over_seeds(
    values: Mapping[int, float],
    *,
    baseline: Mapping[int, float] | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean over seeds, or what a cell has more than another, with its t-interval.

    `mean ± t(n - 1) * s / sqrt(n)`, where s is the standard deviation over n seeds. Not a
    bootstrap: from 2 to 5 seeds it draws a handful of different means and never one outside the
    values seen, so its intervals are far too narrow (two seeds: the truth lies between them half
    of the time). The t-interval takes the values to be normally distributed and pays for few
    seeds: the factor t is 12.7 for two, 4.3 for three, 2.8 for five. One seed has no interval.

    Args:
        values: the metric by seed, a fraction.
        baseline: the same of another cell, for the same seeds, subtracted seed by seed. Two cells
            of one seed share its old and new models, so their difference varies less than either.
        confidence: in (0, 1).

    Raises:
        EvaluationError: if the seeds are not the same, there is none, or the confidence is out of
            its range.
    """
    difference = baseline is not None
    if baseline is not None:
        if values.keys() != baseline.keys():
            raise EvaluationError(
                f"the cell has the seeds {sorted(values)}, the baseline {sorted(baseline)}",
                needed="a paired difference needs the same seeds in both",
            )
        values = {seed: value - baseline[seed] for seed, value in values.items()}
    tail = _tail(confidence)
    if not values:
        raise EvaluationError("there are no seeds to take the mean over", "give one value or more")
    given = np.array(list(values.values()), dtype=np.float64)
    mean, count = float(given.mean()), len(given)
    if count == 1:
        nan = float("nan")
        return Interval(mean, nan, nan, confidence, difference, "one seed shows no spread")
    half = _t_quantile(1 - 2 * tail, count - 1) * float(given.std(ddof=1)) / math.sqrt(count)
    method = f"t-interval over {count} seeds"
    return Interval(mean, mean - half, mean + half, confidence, difference, method)


def _unknown(confidence: float, difference: bool) -> Interval:
    nan = float("nan")
    return Interval(nan, nan, nan, confidence, difference, "no query has anything to find")


def _tail(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise EvaluationError(
            f"a confidence of {confidence} makes no interval",
            "give a fraction between 0 and 1, such as 0.95",
        )
    return (1 - confidence) / 2


@cache
def _t_quantile(inside: float, freedom: int) -> float:
    """Return the t that Student's t lies within, on either side of 0, with a probability."""
    high = 1.0
    while _t_inside(high, freedom) < inside:
        high *= 2
    low = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_inside(middle, freedom) < inside else (low, middle)
    return (low + high) / 2


def _t_inside(t: float, freedom: int) -> float:
    """Return the probability that Student's t lies in [-t, t].

    References:
        Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * power / (power + 1)
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
