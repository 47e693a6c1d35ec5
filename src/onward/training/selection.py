"""Judge transformations by what they are for: retrieval on items they were not fitted on.

A smaller squared error does not promise better retrieval, so nothing here looks at errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from onward.agreement import agreement, count_neighbours
from onward.evaluation import evaluate
from onward.labels import Labels
from onward.relevance import Relevance
from onward.retrieval import rank, search
from onward.spaces import Embeddings
from onward.training.pairs import Pairs
from onward.training.timetable import Rows
from onward.transformation import Transformation

ERROR = "standard error"  # of the merit, over the queries
PerQuery = Float64[np.ndarray, " query"]
Numbers = dict[str, float]


@dataclass(frozen=True, eq=False)
class Judge:
    """Held-out items, and what counts as good among them.

    Queries are embedded by the new model, the gallery is what a transformation makes of the old
    embeddings; a query is not looked for itself. With labels that some items share, a query should
    find others of its class. Without, it should find what it finds in a full backfill: the
    agreement is the share of its 10 nearest neighbours there that are among its 10 nearest in the
    upgraded gallery (a tenth of the items where they are fewer than 100).

    Attributes:
        old: held-out old embeddings.
        side: their side-information, if any.
        new: their new embeddings.
        by: what counts: "label" or "agreement".
    """

    old: Embeddings
    side: Embeddings | None
    new: Embeddings
    by: str

    @classmethod
    def of(cls, pairs: Pairs, rows: Rows, *, use_labels: bool = True) -> "Judge":
        """Return the judge that knows some of the pairs, one an item."""
        old, new = pairs.old.select(rows), pairs.new.select(rows)
        side = None if pairs.side is None else pairs.side.select(rows)
        labels = None if pairs.labels is None or not use_labels else pairs.labels[rows]
        by_label = labels is not None and _some_share(labels[labels >= 0])
        known = labels if by_label else None
        old, new = (Embeddings(e.ids, e.vectors, e.space, known) for e in (old, new))
        return cls(old, side, new, "label" if by_label else "agreement")

    def upgrade(self, transformation: Transformation) -> Numbers:
        """Return how new queries fare in the upgraded gallery, as fractions."""
        return self._numbers(self.new, transformation.apply(self.old, self.side))

    def merit(self, numbers: Mapping[str, Any]) -> float:
        """Return what the best transformation has most of, from what `upgrade` gave.

        With labels the mean of cmc@1 and map: cmc@1 alone would let one query decide between two
        methods where few items are held out.
        """
        if self.by == "agreement":
            return float(numbers["agreement"])
        return float(numbers["cmc@1"] + numbers["map"]) / 2

    def references(self) -> Mapping[str, Numbers]:
        """Return what doing nothing and embedding everything again give on the same items."""
        return {
            "old/old": self._numbers(self.old, self.old),
            "new/new": self._numbers(self.new, self.new),
        }

    def _numbers(self, queries: Embeddings, gallery: Embeddings) -> Numbers:
        if self.by == "agreement":
            shared = self._agreement(queries, gallery)
            return {"agreement": float(shared.mean()), ERROR: _standard_error(shared)}
        relevance = Relevance.between(queries, gallery, exclude_self=True)
        found = evaluate(rank(queries, gallery, exclude_self=True), relevance)
        merits = ((found.first_hit == 0) + found.average_precision)[found.counted] / 2
        return {"cmc@1": found.cmc(1), "map": found.map, ERROR: _standard_error(merits)}

    def _agreement(self, queries: Embeddings, gallery: Embeddings) -> PerQuery:
        count = count_neighbours(len(queries))
        wanted = search(self.new, self.new, count, exclude_self=True)
        return agreement(search(queries, gallery, count, exclude_self=True), wanted)


def choose_penalty(tried: Sequence[Mapping[str, Any]], judge: Judge) -> int:
    """Return which trial of a linear map to keep: the strongest penalty that is not clearly worse.

    Of the trials whose merit lies within one standard error of the best, the one with the largest
    penalty: held-out items are of classes that the new model knows, and a map that is bent to them
    serves unseen classes less.

    References:
        Breiman, Friedman, Olshen, Stone, Classification and Regression Trees, 1984, section 3.4.3.
    """
    merits = np.array([judge.merit(trial) for trial in tried])
    best = int(np.argmax(merits))
    within = np.flatnonzero(merits >= merits[best] - tried[best][ERROR])
    return max(within.tolist(), key=lambda row: tried[row].get("penalty", 0.0))


def _some_share(labels: Labels) -> bool:
    return len(np.unique(labels)) < len(labels)


def _standard_error(values: PerQuery) -> float:
    return float(values.std() / np.sqrt(max(len(values), 1)))
