"""Choose among transformations by what they are for: retrieval on what they were not fitted on.

Each trial is judged on every fold by what learned from the others. Trials are compared query by
query, so what is hard for all cancels. Where retrieval cannot tell trials apart the squared error
decides; where that cannot either, the simpler method is kept: never one because of its place in a
list, and never the strongest penalty because all tie.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from onward.agreement import agreement, count_neighbours
from onward.evaluation import evaluate
from onward.intervals import Interval, over_clusters
from onward.labels import Labels
from onward.relevance import Relevance
from onward.retrieval import rank, search
from onward.spaces import Embeddings
from onward.training.folds import Folds
from onward.training.pairs import Pairs, Rows

PerQuery = Float64[np.ndarray, " query"]
PerItem = Float64[np.ndarray, " judged"]
Gallery = tuple[Embeddings, Embeddings]

FLAT, CLEAR = 0.68, 0.95
"""Penalties are alike where the interval of the first confidence holds 0, about one standard error:
their error then tells them apart. A method that bends further must be better beyond the second."""
ENOUGH = 100
"""So many queries that labels give something to find, or half of all, are judged by labels; but not
among items that are all of one class, where nothing that is found can be wrong."""
SIMPLE_FIRST = ("identity", "procrustes", "low-rank", "ridge", "ensemble", "mlp", "rbt")
"""Methods by how far their map can bend: ties go to the earlier one."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A transformation of each fold, and how they fare together.

    Attributes:
        described: the method and its settings, as plain values.
        values: metrics of new queries in the upgraded gallery, as fractions: "cmc@1" and "map", or
            "agreement".
        merits: of each query that counts, what the best trial has most of: the mean of cmc@1 and
            average precision, or the agreement. cmc@1 alone would let one query decide.
        errors: squared distance of each judged item to its true new vector, as a share of the mean
            over items of that to their middle.
    """

    described: Mapping[str, Any]
    values: Mapping[str, float]
    merits: PerQuery
    errors: PerItem

    @property
    def error(self) -> float:
        """The mean of its errors: 1 is what always giving the middle would have."""
        return float(self.errors.mean())

    @property
    def method(self) -> str:
        """The name of its method."""
        return str(self.described["method"])

    def __str__(self) -> str:
        return name_method(self.described)

    def to_json(self) -> dict[str, Any]:
        """Return what was tried and what it gave, as plain values."""
        return {**self.described, **self.values, "error": self.error}


@dataclass(frozen=True, eq=False)
class Judge:
    """The items of some folds, and what counts as good among them.

    Queries are embedded by the new model, the gallery is what transformations make of the old
    embeddings, each item by one that has not seen it; a query is not looked for itself. Items of
    whole groups are searched fold by fold, so that each gallery is made by one transformation.
    Items that are held out one by one are searched together, for else most would lack their mates.

    With labels that items share, a query should find others of its class. Without, it should find
    what it finds in a full backfill: the agreement is the share of its 10 nearest neighbours there
    that are among its 10 nearest in the upgraded gallery (a tenth where there are fewer than 100).

    Attributes:
        rows: of each fold, the pairs that are judged.
        galleries: what is searched together: old and new embeddings, in the order of `rows`.
        targets: what is to come out, of all.
        by: what counts: "label" or "agreement".
        groups: which class or group each item is of; items of one are hard or easy together.
    """

    rows: tuple[np.ndarray, ...]
    galleries: tuple[Gallery, ...]
    targets: Float32[np.ndarray, "judged new"]
    by: str
    groups: Int64[np.ndarray, " judged"]

    @classmethod
    def of(cls, pairs: Pairs, folds: Folds, *, most: int, seed: int) -> "Judge":
        """Return the judge of some pairs.

        Args:
            most: no more items than these are judged, whole groups where they fit.
            seed: decides which, where there are more.
        """
        share = max(most // folds.count, 2)
        rows = tuple(
            _some(folds.held_out(fold), folds.groups[folds.fold_of == fold], share, seed)
            for fold in range(folds.count)
        )
        every = np.concatenate(rows)
        together = (every,) if folds.by == "item" else rows
        labels = pairs.labels
        if labels is None or not _labels_judge([labels[each] for each in together]):
            labels = None
        galleries = tuple(
            (_select(pairs.old, each, labels), _select(pairs.new, each, labels))
            for each in together
        )
        groups = folds.groups[pairs.item_of] if labels is None else labels
        by = "agreement" if labels is None else "label"
        return cls(rows, galleries, pairs.targets[every], by, groups[every])

    def judge(self, made: Sequence[Embeddings], described: Mapping[str, Any]) -> Trial:
        """Return how new queries fare among what was made of the judged items of each fold."""
        vectors = np.concatenate([one.vectors for one in made])
        ends = np.cumsum([len(new) for _, new in self.galleries])[:-1]
        cells = [
            (new, Embeddings(new.ids, part, new.space, new.labels))
            for (_, new), part in zip(self.galleries, np.split(vectors, ends), strict=True)
        ]
        targets = self.targets.astype(np.float64)
        variance = ((targets - targets.mean(axis=0)) ** 2).sum(axis=1).mean()
        errors = ((vectors - targets) ** 2).sum(axis=1) / max(variance, 1e-300)
        values, merits = self._found(cells)
        return Trial(described, values, merits, errors)

    @cached_property
    def references(self) -> Mapping[str, Mapping[str, float]]:
        """What doing nothing and embedding everything again give on the same items."""
        cells = {
            "old/old": [(old, old) for old, _ in self.galleries],
            "new/new": [(new, new) for _, new in self.galleries],
        }
        return {name: self._found(each)[0] for name, each in cells.items()}

    @property
    def queries(self) -> int:
        """How many queries count: those that have something to find."""
        return int(self._counted.sum())

    def difference(self, one: Trial, other: Trial, confidence: float) -> Interval:
        """Return by how much a trial's merit is above another's, and the noise in that."""
        gained, clusters = one.merits - other.merits, self.groups[self._counted].tolist()
        return over_clusters(gained, clusters, difference=True, confidence=confidence)

    def errs_less(self, one: Trial, other: Trial) -> bool:
        """Say whether a trial's vectors are clearly nearer to the true ones than another's."""
        less = one.errors - other.errors
        found = over_clusters(less, self.groups.tolist(), difference=True, confidence=CLEAR)
        return found.high < 0

    @cached_property
    def _counted(self) -> Bool[np.ndarray, " judged"]:
        if self.by == "agreement":
            return np.ones(len(self.groups), bool)
        return np.concatenate([_have_mates(new.labels) for _, new in self.galleries])

    def _found(self, cells: Sequence[Gallery]) -> tuple[dict[str, float], PerQuery]:
        """Return the metrics of queries and galleries, and what each query that counts gets."""
        if self.by == "agreement":
            shared = np.concatenate(
                [
                    _agreement(queries, gallery, new)
                    for (queries, gallery), (_, new) in zip(cells, self.galleries, strict=True)
                ]
            )
            return {"agreement": float(shared.mean())}, shared
        first, precision = (np.concatenate(each) for each in zip(*map(_judged, cells), strict=True))
        values = {"cmc@1": float(first.mean()), "map": float(precision.mean())}
        return values, (first + precision) / 2


def name_method(described: Mapping[str, Any]) -> str:
    """Return a method with what it was given, such as "ridge penalty 0.1"."""
    named = [name for name in ("penalty", "rank") if name in described]
    without = ["without side"] if described.get("without_side") else []
    return " ".join(
        [described["method"], *(f"{name} {described[name]:g}" for name in named), *without]
    )


def choose_penalty(trials: Sequence[Trial], judge: Judge) -> tuple[int, str]:
    """Return which trial of one method to keep, and why: by retrieval, and by error where flat.

    Of those that cannot be told from the best, the one whose vectors are nearest to the true ones.
    """
    best = _best(trials)
    flat = [
        row
        for row, trial in enumerate(trials)
        if row == best or judge.difference(trials[best], trial, FLAT).low <= 0
    ]
    kept = min(flat, key=lambda row: (trials[row].error, trials[row].described.get("penalty", 0)))
    if len(trials) == 1:
        return kept, "there is one"
    if len(flat) == 1:
        return kept, "its penalty finds most"
    return kept, (
        f"its penalty is that of the least error among {len(flat)} that retrieval cannot tell apart"
    )


def leaves_side_out(without: Trial, with_it: Trial, judge: Judge) -> str | None:
    """Return why side-information is to be left out; None if it is to be used.

    Poor side-information is worse than none where pairs are few. What was stored to be used is left
    out only where retrieval clearly says so, or the error does where retrieval cannot tell.
    """
    gained = judge.difference(without, with_it, CLEAR)
    if gained.low > 0:
        return "side-information is left out, for ridge finds more without it"
    if gained.high > 0 and judge.errs_less(without, with_it):
        return "side-information is left out, for ridge errs less without it"
    return None


def choose_method(trials: Sequence[Trial], judge: Judge) -> tuple[int, str]:
    """Return which trial of several methods to keep, and why.

    The one that finds most, unless retrieval cannot tell it from a simpler one. Of those that it
    cannot tell apart the simplest is kept, unless the error clearly says another.
    """
    best = _best(trials)
    flat = [
        row
        for row in sorted(
            range(len(trials)), key=lambda row: SIMPLE_FIRST.index(trials[row].method)
        )
        if row == best or judge.difference(trials[best], trials[row], CLEAR).low <= 0
    ]
    kept = simplest = flat[0]
    for row in flat[1:]:
        if judge.errs_less(trials[row], trials[kept]):
            kept = row
    if len(flat) == 1:
        return kept, "it finds most"
    *names, last = (trials[row].method for row in flat)
    alike = f"{judge.queries:,} queries cannot tell {', '.join(names)} and {last} apart"
    if kept == simplest:
        return kept, f"{alike}, and it is the simplest"
    return kept, f"{alike}, and it errs less than {trials[simplest].method}"


def _best(trials: Sequence[Trial]) -> int:
    return max(range(len(trials)), key=lambda row: (trials[row].merits.mean(), -trials[row].error))


def _judged(cell: Gallery) -> tuple[PerQuery, PerQuery]:
    """Return of each query that counts whether the first found is relevant, and its precision."""
    relevance = Relevance.between(*cell, exclude_self=True)
    found = evaluate(rank(*cell, exclude_self=True), relevance)
    first = (found.first_hit == 0).astype(np.float64)
    return first[found.counted], found.average_precision[found.counted]


def _agreement(queries: Embeddings, gallery: Embeddings, new: Embeddings) -> PerQuery:
    count = count_neighbours(len(new))
    wanted = search(new, new, count, exclude_self=True)
    return agreement(search(queries, gallery, count, exclude_self=True), wanted)


def _select(embeddings: Embeddings, rows: Rows, labels: Labels | None) -> Embeddings:
    """Return some rows, labelled as all of the pairs are."""
    known = None if labels is None else labels[rows]
    some = embeddings.select(rows)
    return Embeddings(some.ids, some.vectors, some.space, known)


def _some(
    rows: Rows, groups: Int64[np.ndarray, " row"], most: int, seed: int
) -> Int64[np.ndarray, " judged"]:
    """Return the rows of a fold that are judged: whole groups, as many as fit; else any rows."""
    if len(rows) <= most:
        return rows
    shuffled = np.random.default_rng([seed, 1]).permutation(len(rows))
    order = shuffled[np.argsort(_places(groups[shuffled]), kind="stable")]
    last = order[most - 1 : most + 1]
    whole = order[:most]
    if groups[last[0]] == groups[last[1]] and (groups[whole] != groups[last[1]]).any():
        whole = whole[groups[whole] != groups[last[1]]]
    return np.sort(rows[whole])


def _places(groups: Int64[np.ndarray, " row"]) -> Int64[np.ndarray, " row"]:
    """Return where in the order of first appearance each group stands."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    places: Int64[np.ndarray, " row"] = first[inverse.reshape(-1)]
    return places


def _have_mates(labels: Labels | None) -> Bool[np.ndarray, " item"]:
    """Say of each item whether another has its label; unknown ones have none."""
    assert labels is not None  # noqa: S101  # who asks judges by label
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    mates: Bool[np.ndarray, " item"] = (counts[inverse.reshape(-1)] > 1) & (labels >= 0)
    return mates


def _labels_judge(galleries: Sequence[np.ndarray]) -> bool:
    """Say whether labels give enough queries something to find, and something to find wrongly."""
    tell = np.concatenate(
        [_have_mates(labels) & (labels != labels[:1]).any() for labels in galleries]
    )
    return bool(0 < tell.sum() >= min(ENOUGH, len(tell) / 2))
