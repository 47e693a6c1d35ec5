"""Judge transformations by what they are for: retrieval on items they were not fitted on.

A smaller squared error does not promise better retrieval, so nothing here looks at errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onward.evaluation import Evaluation, evaluate
from onward.rankings import Relevance
from onward.retrieval import rank
from onward.spaces import Embeddings
from onward.training.pairs import Pairs
from onward.training.timetable import Rows
from onward.transformation import Transformation


@dataclass(frozen=True, eq=False)
class Judge:
    """Held-out items, and what counts as a hit among them.

    Queries are embedded by the new model, the gallery is what a transformation makes of the old
    embeddings. With labels that some items share, a query should find others of its class, itself
    left out; without, it should find its own item.

    Attributes:
        old: held-out old embeddings.
        side: their side-information, if any.
        new: their new embeddings.
        by_label: whether classes count, not identities.
    """

    old: Embeddings
    side: Embeddings | None
    new: Embeddings
    by_label: bool

    @classmethod
    def of(cls, pairs: Pairs, rows: Rows) -> "Judge":
        """Return the judge that knows some of the pairs, one an item."""
        old, new = pairs.old.select(rows), pairs.new.select(rows)
        side = None if pairs.side is None else pairs.side.select(rows)
        labels = new.labels if old.labels is None else old.labels
        by_label = labels is not None and len(np.unique(labels)) < len(labels)
        known = labels if by_label else np.arange(len(rows))
        old, new = (Embeddings(e.ids, e.vectors, e.space, known) for e in (old, new))
        return cls(old, side, new, by_label)

    def new_old(self, transformation: Transformation) -> Evaluation:
        """Return how new queries fare in the upgraded gallery."""
        return self._evaluate(self.new, transformation.apply(self.old, self.side))

    def references(self) -> Mapping[str, Any]:
        """Return what doing nothing and embedding everything anew give on the same items.

        Empty where identities count: there an item is trivially found in its own space.
        """
        if not self.by_label:
            return {}
        return {
            "old/old": numbers(self._evaluate(self.old, self.old)),
            "new/new": numbers(self._evaluate(self.new, self.new)),
        }

    def _evaluate(self, queries: Embeddings, gallery: Embeddings) -> Evaluation:
        relevance = Relevance.between(queries, gallery, exclude_self=self.by_label)
        return evaluate(rank(queries, gallery, exclude_self=self.by_label), relevance)


def merit(evaluation: Evaluation) -> float:
    """Return what the best transformation has most of: the mean of cmc@1 and map.

    cmc@1 alone would let one query decide between two methods where few items are held out.
    """
    return (evaluation.cmc(1) + evaluation.map) / 2


def numbers(evaluation: Evaluation) -> dict[str, float]:
    """Return cmc@1 and map, as fractions."""
    return {"cmc@1": evaluation.cmc(1), "map": evaluation.map}
