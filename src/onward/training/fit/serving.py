"""Choose what to serve after an upgrade: the old space, the new one, or both as a fused pair.

All are asked the same queries among the same held-out items, each carried by a transformation that
has not seen it; `onward.evaluation.serving` has the rule, and measures scales. Nothing here learns:
a weight costs a ranking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onward.errors import ConfigurationError
from onward.evaluation.intervals import Interval
from onward.evaluation.serving import SERVED, WEIGHTS, Asked, Found, advise, measure_pair
from onward.fusion import FusedEmbeddings, Fusion, Serve, Serving
from onward.plain import Plain
from onward.spaces import Embeddings
from onward.training.fit.selection import Judge

ITEMS, REAL, OF_PAIRS = "items", "real queries", "items of the training pairs"
LEAN = (
    "held-out items of the pairs lean to the new space, so a pair is served that does no harm there"
)
NOT_MEASURED = "an upgrade leads to it, and nothing was held out to choose by"


@dataclass(frozen=True)
class ServingChoice(Plain):
    """What to serve after the upgrade, and how each candidate fared.

    Attributes:
        advised: "old" (doing nothing), "new" (the upgrade alone) or "fused".
        fusion: the pair with the weight that was found best, whether it is advised or not; None if
            distances in one of the spaces do not differ.
        reason: why it is advised.
        asked: what the queries were: "items" (those by which the method was chosen), "items of the
            training pairs", "real queries", or "" if nothing was measured.
        judged_by: "label", "agreement" or "judgements".
        queries: how many queries count.
        values: the metrics of each candidate that was tried, as fractions: "old", "new" and "fused"
            with a weight of the old space.
        gained: by how much the pair's score is above that of the better space alone; None if that
            was not measured.
    """

    advised: Serve
    fusion: Fusion | None
    reason: str
    asked: str = ""
    judged_by: str = ""
    queries: int = 0
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    gained: Interval | None = None

    @property
    def serving(self) -> Serving | None:
        """What a transformation keeps of it; None where there is no pair."""
        return None if self.fusion is None else Serving(self.advised, self.fusion)

    def __str__(self) -> str:
        """Return the line that says what to serve, and why."""
        return f"serve: {SERVED[self.advised]}: {self.reason}"


def choose_serving(
    judge: Judge, made: Sequence[Embeddings], *, asked: str, seen: bool, seed: int
) -> ServingChoice:
    """Return what to serve, by what queries find among what was made of the held-out items.

    Args:
        judge: the judge of the items, or of real queries among them.
        made: what the transformation of each fold makes of the judged items that it has not seen.
        asked: what the queries are, `ITEMS`, `REAL` or `OF_PAIRS`.
        seen: whether the gallery holds classes that the models know: else items lean to the new
            space, and less is asked of a pair.
        seed: decides on which of the items scales are measured.
    """
    olds = [(one.old, old) for one, (old, _) in zip(judge.questions, judge.galleries, strict=True)]
    upgraded = zip(judge.questions, judge.upgraded(made), strict=True)
    news = [(one.new, gallery) for one, gallery in upgraded]
    old, new, tried = judge.find(olds), judge.find(news), dict[float, Found]()
    even, why_none = _pair(olds, news, seed)

    def find(weight: float) -> Found:
        assert even is not None  # noqa: S101  # else no weight is asked for
        tried[weight] = judge.find(_cells(replace(even, weight=weight), olds, news))
        return tried[weight]

    found = advise(
        *(old, new, find, judge.clusters),
        by=judge.by,
        lenient=None if asked == REAL or seen else LEAN,
        weights=() if even is None else WEIGHTS,
    )
    fused = {f"fused, weight {weight:g}": tried[weight].values for weight in sorted(tried)}
    return ServingChoice(
        found.advised,
        None if even is None else replace(even, weight=found.weight),
        f"{found.reason}{why_none}",
        asked=asked,
        judged_by=judge.by,
        queries=judge.queries,
        values={"old": old.values, "new": new.values, **fused},
        gained=found.gained,
    )


def serve_unmeasured(olds: Asked, news: Asked, *, seed: int) -> ServingChoice:
    """Return what to serve where nothing was held out: the new space, and a pair of even weight.

    Args:
        olds: old vectors of some items, as what is asked and what is searched.
        news: true new vectors of these items, and what the transformation makes of them.
        seed: decides on which of the items scales are measured.
    """
    even, why_none = _pair([olds], [news], seed)
    return ServingChoice("new", even, f"{NOT_MEASURED}{why_none}")


def _pair(olds: Sequence[Asked], news: Sequence[Asked], seed: int) -> tuple[Fusion | None, str]:
    """Return the pair of even weight; or None, and why there is none."""
    try:
        return measure_pair(olds, news, seed=seed), ""
    except ConfigurationError as error:
        return None, f"; there is no fused pair, for {error}"


def _cells(
    fusion: Fusion, olds: Sequence[Asked], news: Sequence[Asked]
) -> list[tuple[FusedEmbeddings, FusedEmbeddings]]:
    """Return queries and gallery of each as a fused pair of vectors."""
    return [
        (FusedEmbeddings(fusion, old[0], new[0]), FusedEmbeddings(fusion, old[1], new[1]))
        for old, new in zip(olds, news, strict=True)
    ]
