"""What to serve after an upgrade, by what queries find: the old space, the new one, or both, fused.

Fused search needs the old model as long as it is served, so what is equal within the noise goes to
one space. Nothing here ranks: whoever asks queries says what they find with each candidate.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float64

from onward.evaluation.distances import doubles, exact_distances
from onward.evaluation.intervals import Interval, over_clusters
from onward.fusion import Distances, Fusion, Serve
from onward.plain import Plain
from onward.spaces import Embeddings

PerQuery = Float64[np.ndarray, " query"]
Asked = tuple[Embeddings, Embeddings]
"""What is asked in one space, and what is searched."""
JudgedBy = Literal["label", "judgements", "agreement"]

WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Weights of the old space that are tried; 0 and 1 are one space alone."""
EVEN = 0.5
"""The weight of a pair that nothing measured."""
MOST_MEASURED = 2000
"""The number of queries and of items at most, over all galleries, that scales are measured on."""
CLEAR = 0.95
"""The confidence beyond which a difference is clear."""
PRIOR, MOST = 0.3, 0.5
"""Held-out items of the pairs lean to the new space, because the new model was trained on them: the
best weight there is less than what the gallery wants. So, where that space is the better one, the
weight nearest to the first is taken that does no harm there, and none above the second."""
HALF_A_POINT, NOT_WORSE = 0.005, 0.02
"""More is harm: how much less of one metric, and how much less of the score within the noise."""
SERVED: Mapping[Serve, str] = {
    "old": "the old space alone",
    "new": "the new space alone",
    "fused": "the old and the new space, fused",
}

NOT_JUDGED = (
    "an upgrade leads to it, and fused search was not measured: agreement with a full backfill "
    "cannot judge it; give labels, or real queries with judgements"
)
BETTER = "it finds most"


@dataclass(frozen=True, eq=False)
class Found:
    """What queries find by one candidate.

    Attributes:
        per_query: of each metric, what each query that counts gets, in [0, 1].
    """

    per_query: Mapping[str, PerQuery]

    @cached_property
    def values(self) -> dict[str, float]:
        """The metrics: the mean over queries of each."""
        return {name: float(each.mean()) for name, each in self.per_query.items()}

    @cached_property
    def scores(self) -> PerQuery:
        """The score of each query: the mean of its metrics."""
        score: PerQuery = np.mean(list(self.per_query.values()), axis=0)
        return score


@dataclass(frozen=True)
class Advice(Plain):
    """What to serve, and why.

    Attributes:
        advised: "old" (doing nothing), "new" (the upgrade alone) or "fused".
        weight: that of the old space in the pair which is advised, or else in the best one.
        gained: by how much the score of that pair is above that of the better space alone; None if
            there is no pair, or nothing can judge it.
        reason: in words.
    """

    advised: Serve
    weight: float
    gained: Interval | None
    reason: str


def advise(
    old: Found,
    new: Found,
    fused: Callable[[float], Found],
    clusters: Sequence[Hashable],
    *,
    by: JudgedBy,
    lenient: str | None,
    weights: Sequence[float] = WEIGHTS,
) -> Advice:
    """Return what to serve.

    The better space alone, unless a pair is clearly better than it, beyond the 95 % interval of the
    paired difference, and no metric is below that of either space: then the best of such pairs.
    Where less is asked, and the new space is the better one, a pair is served that does no harm:
    see `PRIOR` and `HALF_A_POINT`. Where agreement judges, which leans to the new space far more,
    nothing is advised but the new space.

    Args:
        old: what is found in the old space.
        new: what is found in the new one.
        fused: what is found with a weight of the old space; asked only for those that matter.
        clusters: of each query that counts, as `over_clusters` has it.
        by: what says what is right.
        lenient: why less is asked of a pair, in words; None if it must be clearly better.
        weights: those that there are; none if there is no pair.
    """
    if by == "agreement":
        return Advice("new", EVEN, None, NOT_JUDGED)
    better: Serve = "old" if old.scores.mean() > new.scores.mean() else "new"
    less = lenient if better == "new" else None
    best = old if better == "old" else new
    pairs: list[tuple[float, Found, Interval]] = []
    good: list[tuple[float, Found, Interval]] = []
    for weight in weights if less is None else _by_prior(weights):
        found = fused(weight)
        gained = over_clusters(
            found.scores - best.scores, clusters, difference=True, confidence=CLEAR
        )
        pairs.append((weight, found, gained))
        if less is None:
            is_good = gained.low > 0 and not _is_below(found, (old, new), 0.0)
        else:
            is_good = gained.low >= -NOT_WORSE and not _is_below(found, (new,), HALF_A_POINT)
        if is_good:
            good.append(pairs[-1])
        if is_good and less is not None:
            break
    if not pairs:
        return Advice(better, EVEN, None, BETTER)
    weight, found, gained = max(good or pairs, key=lambda pair: pair[1].scores.mean())
    what = f"with the weight {weight:g} of the old, {gained} of {_score(found)}"
    what = f"{what} above {SERVED[better]}"
    if good:
        return Advice("fused", weight, gained, what if less is None else f"{what}; {less}")
    return Advice(better, weight, gained, f"fused search is not clearly better: {what}")


def measure_pair(olds: Sequence[Asked], news: Sequence[Asked], *, seed: int) -> Fusion:
    """Return a pair of even weight, with the scales of distances of queries from items.

    Args:
        olds: in each gallery, what is asked and what is searched in the old space.
        news: the same queries and items in the new space, in the same order.
        seed: decides on which of them scales are measured.

    Raises:
        ConfigurationError: if the distances of a space are all alike.
    """
    spaces = olds[0][0].space, news[0][0].space
    found = zip(_distances(olds, seed), _distances(news, seed), strict=True)
    return Fusion.measure(*spaces, EVEN, list(found))


def _distances(galleries: Sequence[Asked], seed: int) -> Iterator[Distances]:
    """Give distances of queries from items of each gallery; NaN of a query from itself.

    The same queries and items in either space.
    """
    share = max(MOST_MEASURED // len(galleries), 1)
    for place, (queries, gallery) in enumerate(galleries):
        random = np.random.default_rng([seed, 2, place])
        asked, there = (
            one.select(random.permutation(len(one))[:share]) for one in (queries, gallery)
        )
        metric = gallery.space.metric
        found = exact_distances(
            doubles(asked.vectors, metric), doubles(there.vectors, metric), metric
        )
        found[np.array(asked.ids)[:, None] == np.array(there.ids)] = np.nan
        yield found


def _by_prior(weights: Sequence[float]) -> list[float]:
    """Return the weights that may be served where less is asked, the first to try first."""
    few = [weight for weight in weights if weight <= MOST]
    return sorted(few, key=lambda weight: (round(abs(weight - PRIOR), 9), weight))


def _is_below(found: Found, others: Sequence[Found], margin: float) -> bool:
    """Say whether a metric is below that of one of the others by more than a margin."""
    return any(
        value < other.values[name] - margin
        for other in others
        for name, value in found.values.items()
    )


def _score(found: Found) -> str:
    """Return what the score is the mean of."""
    names = " and ".join(found.values)
    return f"the mean of {names}" if len(found.values) > 1 else names
