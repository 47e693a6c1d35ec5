"""Choose among transformations by what they do for retrieval; apart, for it fits none itself.

Real galleries hold people, products and texts of classes that no model was trained on. There it
says little how a transformation fares on further items of classes that it has learned from; so
whole classes are held out, in folds. Where nobody knows classes, items that are each other's
nearest neighbours stand for them.

Each trial is judged on every fold by what learned from the others. Trials are compared query by
query, so what is hard for all cancels. Where retrieval cannot tell trials apart the squared error
decides; where that cannot either, the simpler method is kept: never one because of its place in a
list, and never the strongest penalty because all tie.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from onward.errors import DataError, EvaluationError
from onward.evaluation.intervals import Interval, over_clusters
from onward.evaluation.metrics import evaluate
from onward.evaluation.relevance import RealQueries, Relevance, relevant_items
from onward.evaluation.retrieval import Ranking, agreement, count_neighbours, rank, search
from onward.evaluation.serving import CLEAR, Found, JudgedBy
from onward.fusion import Searchable
from onward.labels import Labels, renumber
from onward.spaces import Embeddings
from onward.training.fit.pairs import Pairs, Rows, count_labels
from onward.transformation import Transformation

PerQuery = Float64[np.ndarray, " query"]
PerItem = Float64[np.ndarray, " judged"]
Gallery = tuple[Embeddings, Embeddings]

FLAT = 0.68
"""Penalties are alike where the interval of the first confidence holds 0, about one standard error:
their error then tells them apart. A method that bends further must be better beyond `CLEAR`."""
ENOUGH = 100
"""So many queries that labels give something to find, or half of all, are judged by labels; but not
among items that are all of one class, where nothing that is found can be wrong."""
BY_LABEL, BY_JUDGEMENTS = ("cmc@1", "map"), ("ndcg@10",)
"""What is measured by labels, and by judgements, which may be graded."""
SIMPLE_FIRST = ("procrustes", "ridge", "ensemble", "mlp")
"""Methods by how far their map can bend: ties go to the earlier one."""
GalleryClasses = Literal["unseen", "seen"]
By = Literal["class", "group", "neighbours", "item"]
Groups = Int64[np.ndarray, " item"]

FOLDS = 3
"""A network learns once a fold; more folds take longer and change little."""
MOST_ASKED = 2000
"""More real queries change the numbers little."""
NEIGHBOURS = (10, 5, 3, 2, 1)
LARGEST = 0.1
"""No group of neighbours is to hold more than this share of the items."""


@dataclass(frozen=True, eq=False)
class Folds:
    """Items in folds: each is judged by what was learned from the other folds.

    Attributes:
        pairs: of these items.
        by: what is held out as a whole: "class", "group" (as the caller gave them), "neighbours"
            (connected by being each other's nearest) or "item".
        groups: which class, group or item each item is of.
        fold_of: the fold of each item, from 0 on.
    """

    pairs: Pairs
    by: By
    groups: Groups
    fold_of: Groups

    @classmethod
    def of(
        cls,
        pairs: Pairs,
        *,
        gallery_classes: GalleryClasses,
        groups: Sequence[str | None] | None = None,
        seed: int,
    ) -> "Folds":
        """Divide pairs: by class, or else by given groups or by neighbours; or item by item.

        Args:
            pairs: what is divided; all views of an item stay together.
            gallery_classes: "unseen": whole groups are held out. "seen": items.
            groups: of each pair, what is to be held out as a whole; None is a group of its own.
                Without any it is the class where labels tell classes apart: they are known of half
                of the items, and no class has more than half. Else it is the neighbours.
            seed: decides which fold a group is in.

        Raises:
            DataError: if there are not as many groups as pairs, or there is one alone.
        """
        if groups is not None and len(groups) != len(pairs):
            raise DataError(
                f"{len(groups)} groups and {len(pairs)} pairs were given", "give one group a pair"
            )
        by: By = "item"
        found = np.arange(pairs.items)
        if gallery_classes == "unseen":
            by, found = _held_together(pairs, groups)
        return cls(pairs, by, found, _deal(found, FOLDS, seed))

    @property
    def count(self) -> int:
        """How many folds there are."""
        return int(self.fold_of.max()) + 1

    def learned(self, fold: int) -> Rows:
        """Return the pairs that are learned from where a fold is held out."""
        return np.flatnonzero(self.fold_of[self.pairs.item_of] != fold)

    def items(self, fold: int) -> Rows:
        """Return the items of a fold."""
        return np.flatnonzero(self.fold_of == fold)

    def held_out(self, fold: int) -> Rows:
        """Return the first pair of each item of a fold."""
        rows: Rows = self.pairs.first_rows[self.items(fold)]
        return rows


@dataclass(frozen=True, eq=False)
class Trial:
    """A transformation of each fold, and how they fare together.

    Attributes:
        described: the method and its settings, as plain values.
        values: metrics of new queries in the upgraded gallery, as fractions: "cmc@1" and "map", or
            "agreement".
        scores: of each query that counts, what the best trial has most of: the mean of cmc@1 and
            average precision, or the agreement. cmc@1 alone would let one query decide.
        errors: squared distance of each judged item to its true new vector, as a share of the mean
            over items of that to their middle.
        made: the transformation of each fold.
    """

    described: Mapping[str, Any]
    values: Mapping[str, float]
    scores: PerQuery
    errors: PerItem
    made: tuple[Transformation, ...] = ()

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
class Questions:
    """Queries by both models, and what each is looking for in one gallery of held-out items.

    Attributes:
        old: by the old model.
        new: the same by the new model.
        items: what they are asked among, by the new model.
        relevance: what they look for; None if it is what they find in a full backfill.
        clusters: of each query, the class or else the group or the query; those of one are hard or
            easy together.
        metrics: what is measured by the relevance.
    """

    old: Embeddings
    new: Embeddings
    items: Embeddings
    relevance: Relevance | None
    clusters: Groups
    metrics: tuple[str, ...] = BY_LABEL

    @cached_property
    def counted(self) -> Bool[np.ndarray, " query"]:
        """Which queries count: those that have something to find."""
        if self.relevance is None:
            return np.ones(len(self.new), bool)
        return self.relevance.counts(self.new.ids) > 0

    def find(self, queries: Searchable, gallery: Searchable) -> dict[str, PerQuery]:
        """Return the metrics of each query that counts, in the gallery as something makes it."""
        if self.relevance is None:
            count = count_neighbours(len(gallery))
            found = search(queries, gallery, count, exclude_self=True)
            return {"agreement": agreement(found, self.wanted)}
        ranked = rank(queries, gallery, exclude_self=self.relevance.exclude_self)
        judged = evaluate(ranked, self.relevance, metrics=self.metrics)
        return {name: judged.per_query(name)[judged.counted] for name in self.metrics}

    @cached_property
    def wanted(self) -> Ranking:
        """What is right where nothing says so: what they find in a full backfill."""
        return search(self.new, self.items, count_neighbours(len(self.items)), exclude_self=True)


@dataclass(frozen=True, eq=False)
class Judge:
    """The items of some folds, and what counts as good among them.

    Queries are embedded by the new model, the gallery is what transformations make of the old
    embeddings, each item by one that has not seen it. Items of whole groups are searched fold by
    fold, so that each gallery is made by one transformation. Items that are held out one by one are
    searched together, for else most would lack their mates.

    Queries are the items themselves, none of which looks for itself, or real ones. With labels that
    items share, a query should find others of its class. Without, it should find what it finds in a
    full backfill: the agreement is the share of its 10 nearest neighbours there that are among its
    10 nearest in the upgraded gallery (a tenth where there are fewer than 100). Judgements of real
    queries say what else they look for.

    Attributes:
        rows: of each fold, the pairs that are judged.
        galleries: what is searched together: old and new embeddings, in the order of `rows`.
        questions: what is asked in each gallery.
        targets: what is to come out, of all items.
        by: what counts: "label", "agreement" or "judgements".
        groups: which class or group each item is of; items of one are hard or easy together.
    """

    rows: tuple[np.ndarray, ...]
    galleries: tuple[Gallery, ...]
    questions: tuple[Questions, ...]
    targets: Float32[np.ndarray, "judged new"]
    by: JudgedBy
    groups: Int64[np.ndarray, " judged"]

    @classmethod
    def of(cls, folds: Folds, *, most: int, seed: int) -> "Judge":
        """Return the judge of the pairs that are divided.

        Args:
            most: no more items than these are judged, whole groups where they fit.
            seed: decides which, where there are more.
        """
        pairs, rows = folds.pairs, _judged_rows(folds, most, seed)
        every, together = np.concatenate(rows), _searched_together(folds, rows)
        labels = pairs.labels
        if labels is None or not _labels_judge([labels[each] for each in together]):
            labels = None
        galleries = tuple(
            (_select(pairs.old, each, labels), _select(pairs.new, each, labels))
            for each in together
        )
        groups = folds.groups[pairs.item_of] if labels is None else labels
        questions = tuple(
            _ask_items(*gallery, groups[each])
            for gallery, each in zip(galleries, together, strict=True)
        )
        by: JudgedBy = "agreement" if labels is None else "label"
        return cls(rows, galleries, questions, pairs.targets[every], by, groups[every])

    @classmethod
    def of_queries(cls, folds: Folds, queries: RealQueries, *, most: int, seed: int) -> "Judge":
        """Return the judge of the same items that asks real queries among them.

        Args:
            folds: of the pairs.
            queries: some 2,000 at most are asked, in each gallery that holds something for them.
            most: as of `of`; what judgements want is searched in any case.
            seed: decides which, where there are more.

        Raises:
            EvaluationError: if no query has anything to find among the items.
            LabelMismatchError: if labels judge, only the queries or only the pairs have class
                names, and nothing says that the numbers of the others mean the same.
        """
        pairs, queries = folds.pairs, _some_queries(queries, seed)
        ids, labels = np.array(pairs.item_ids, object)[pairs.item_of], _labels_of(queries, pairs)
        relevant = relevant_items(queries.qrels or {}, queries.new.ids)
        wanted = np.isin(ids, list(set[str]().union(*relevant.values())))
        rows = tuple(
            np.union1d(some, folds.held_out(fold)[wanted[folds.held_out(fold)]])
            for fold, some in enumerate(_judged_rows(folds, most, seed))
        )
        every, galleries, questions = np.concatenate(rows), list[Gallery](), list[Questions]()
        for each in _searched_together(folds, rows):
            named = tuple(ids[each].tolist())
            old, new = (
                replace(_select(one, each, pairs.labels), ids=named)
                for one in (pairs.old, pairs.new)
            )
            galleries.append((old, new))
            questions.append(_ask_real(queries, labels, new))
        by: JudgedBy = "agreement" if labels is None else "label"
        by = by if queries.qrels is None else "judgements"
        groups = folds.groups[pairs.item_of[every]]
        found = cls(rows, tuple(galleries), tuple(questions), pairs.targets[every], by, groups)
        if not found.queries:
            raise EvaluationError(
                f"none of the {len(queries.new):,} real queries has anything to find among the "
                f"{len(every):,} items that the transformation is judged on: their "
                f"{by if by == 'judgements' else 'labels'} name others",
                "embed items by the new model that they look for, or leave the queries out",
            )
        return found

    def judge(self, made: Sequence[Embeddings], described: Mapping[str, Any]) -> Trial:
        """Return how new queries fare among what was made of the judged items of each fold."""
        cells = [
            (asked.new, gallery)
            for asked, gallery in zip(self.questions, self.upgraded(made), strict=True)
        ]
        found = self.find(cells)
        return Trial(described, found.values, found.scores, self.errors(made))

    def upgraded(self, made: Sequence[Embeddings]) -> list[Embeddings]:
        """Return each gallery of what was made of the judged items of each fold."""
        vectors = np.concatenate([one.vectors for one in made])
        ends = np.cumsum([len(new) for _, new in self.galleries])[:-1]
        return [
            Embeddings(new.ids, part, new.space, new.labels)
            for (_, new), part in zip(self.galleries, np.split(vectors, ends), strict=True)
        ]

    def errors(self, made: Sequence[Embeddings]) -> PerItem:
        """Return how far what was made of each item is from its true vector, as `Trial` has it."""
        vectors, targets = np.concatenate([one.vectors for one in made]), np.float64(self.targets)
        variance = ((targets - targets.mean(axis=0)) ** 2).sum(axis=1).mean()
        found: PerItem = ((vectors - targets) ** 2).sum(axis=1) / max(variance, 1e-300)
        return found

    @cached_property
    def references(self) -> Mapping[str, Mapping[str, float]]:
        """What doing nothing and embedding everything again give on the same items."""
        asked = list(zip(self.questions, self.galleries, strict=True))
        nothing = self.find([(one.old, old) for one, (old, _) in asked])
        everything = self.find([(one.new, new) for one, (_, new) in asked])
        return {"old/old": nothing.values, "new/new": everything.values}

    def find(self, cells: Sequence[tuple[Searchable, Searchable]]) -> Found:
        """Return what queries find in each gallery, given both as something makes them."""
        pairs = zip(self.questions, cells, strict=True)
        each = [asked.find(*cell) for asked, cell in pairs if asked.counted.any()]
        return Found({name: np.concatenate([one[name] for one in each]) for name in each[0]})

    @property
    def queries(self) -> int:
        """How many queries count: those that have something to find."""
        return len(self.clusters)

    def difference(self, one: Trial | Found, other: Trial | Found, confidence: float) -> Interval:
        """Return by how much one's score is above another's, and the noise in that."""
        gained = one.scores - other.scores
        return over_clusters(gained, self.clusters, difference=True, confidence=confidence)

    def errs_less(self, one: Trial, other: Trial) -> bool:
        """Say whether a trial's vectors are clearly nearer to the true ones than another's."""
        less = one.errors - other.errors
        found = over_clusters(less, self.groups.tolist(), difference=True, confidence=CLEAR)
        return found.high < 0

    @cached_property
    def clusters(self) -> list[int]:
        """The cluster of each query that counts."""
        return [int(each) for one in self.questions for each in one.clusters[one.counted]]


def name_method(described: Mapping[str, Any]) -> str:
    """Return a method with what it was given, such as "ridge penalty 0.1"."""
    penalty = [f"penalty {described['penalty']:g}"] if "penalty" in described else []
    without = ["without side"] if described.get("without_side") else []
    return " ".join([described["method"], *penalty, *without])


def choose_penalty(trials: Sequence[Trial], judge: Judge) -> tuple[Trial, str]:
    """Return which trial of one method to keep, and why: by retrieval, and by error where flat.

    Of those that cannot be told from the best, the one whose vectors are nearest to the true ones.
    """
    flat = _like_the_best(trials, judge, FLAT)
    kept = min(flat, key=lambda trial: (trial.error, trial.described.get("penalty", 0)))
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
    out only where retrieval clearly says so and the error does not say the opposite, or where the
    error says so and retrieval cannot tell.
    """
    gained = judge.difference(without, with_it, CLEAR)
    if gained.low > 0 and not judge.errs_less(with_it, without):
        return "side-information is left out, because ridge finds more without it"
    if gained.high > 0 and judge.errs_less(without, with_it):
        return "side-information is left out, because ridge errs less without it"
    return None


def choose_method(trials: Sequence[Trial], judge: Judge) -> tuple[Trial, str]:
    """Return which trial of several methods to keep, and why.

    The one that finds most, unless retrieval cannot tell it from a simpler one. Of those that it
    cannot tell apart the simplest is kept, unless the error clearly says another.
    """
    flat = _like_the_best(trials, judge, CLEAR)
    flat.sort(key=lambda trial: SIMPLE_FIRST.index(trial.method))
    kept = simplest = flat[0]
    for trial in flat[1:]:
        if judge.errs_less(trial, kept):
            kept = trial
    if len(flat) == 1:
        return kept, "it finds most"
    *names, last = (trial.method for trial in flat)
    alike = f"{judge.queries:,} queries cannot tell {', '.join(names)} and {last} apart"
    if kept is simplest:
        return kept, f"{alike}, and it is the simplest"
    return kept, f"{alike}, and it errs less than {simplest.method}"


def neighbour_groups(embeddings: Embeddings) -> Groups:
    """Return the groups of items that are connected by being each other's nearest neighbours.

    Two items are connected if each is among the k nearest of the other. k is 10, or less if a group
    would hold more than a tenth of the items.
    """
    count = len(embeddings)
    found = search(embeddings, embeddings, min(NEIGHBOURS[0], count - 1), exclude_self=True).rows
    for nearest in NEIGHBOURS:
        groups = _connected(count, _mutual(found[:, :nearest]))
        if np.bincount(groups).max() <= max(LARGEST * count, 2):
            break
    return groups


def _like_the_best(trials: Sequence[Trial], judge: Judge, confidence: float) -> list[Trial]:
    """Return the trial that finds most, and those that retrieval cannot tell from it."""
    best = max(trials, key=lambda trial: (trial.scores.mean(), -trial.error))
    return [
        each for each in trials if each is best or judge.difference(best, each, confidence).low <= 0
    ]


def _ask_items(old: Embeddings, new: Embeddings, clusters: Groups) -> Questions:
    """Return a gallery's items as its queries, none of which looks for itself."""
    labelled = new.labels is not None
    relevance = Relevance.between(new, new, exclude_self=True) if labelled else None
    return Questions(old, new, new, relevance, clusters)


def _ask_real(queries: RealQueries, labels: Labels | None, items: Embeddings) -> Questions:
    """Return real queries as they are asked in a gallery, given the true new vectors there."""
    asked, ids = (queries.old, queries.new, items), queries.new.ids
    if queries.qrels is None and labels is not None and items.labels is not None:
        relevance = Relevance.of_labels(ids, items.ids, labels, items.labels, exclude_self=True)
        return Questions(*asked, relevance, labels)
    each = np.arange(len(ids))
    if queries.qrels is None:
        return Questions(*asked, None, each)
    known = {query: queries.qrels.get(query, {}) for query in ids}
    relevance = Relevance.of_qrels(ids, items.ids, known, exclude_self=False, ignore_unknown=True)
    return Questions(*asked, relevance, each, BY_JUDGEMENTS)


def _labels_of(queries: RealQueries, pairs: Pairs) -> Labels | None:
    """Return the class of each query in the numbering of the pairs; None if labels do not judge."""
    given = max(queries.new, queries.old, key=count_labels)
    if queries.qrels is not None or given.labels is None or pairs.labels is None:
        return None
    names, sources = (given.class_names, pairs.class_names), ("the real queries", "the pairs")
    return renumber(given.labels, *names, same_labels=queries.same_labels, sources=sources)


def _some_queries(queries: RealQueries, seed: int) -> RealQueries:
    """Return the queries that are judged, if judgements say so, and no more than are asked."""
    ids, qrels = queries.new.ids, queries.qrels
    known = [row for row, item in enumerate(ids) if qrels is None or item in qrels]
    chosen = np.sort(np.random.default_rng([seed, 3]).permutation(known)[:MOST_ASKED])
    if not len(chosen):
        raise EvaluationError(
            f"the judgements name none of the {len(ids):,} real queries",
            "give judgements and queries with the same ids",
        )
    old, new = queries.old.select(chosen), queries.new.select(chosen)
    return replace(queries, old=old, new=new, paired=None)


def _judged_rows(folds: Folds, most: int, seed: int) -> tuple[np.ndarray, ...]:
    """Return of each fold the pairs that are judged: the first of each item."""
    share = max(most // folds.count, 2)
    return tuple(
        _some(folds.held_out(fold), folds.groups[folds.fold_of == fold], share, seed)
        for fold in range(folds.count)
    )


def _searched_together(folds: Folds, rows: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Return the pairs of each gallery: those of a fold, or all where items were held out."""
    return (np.concatenate(rows),) if folds.by == "item" else rows


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
    _, first, inverse = np.unique(groups[shuffled], return_index=True, return_inverse=True)
    order = shuffled[np.argsort(first[inverse.reshape(-1)], kind="stable")]
    last = order[most - 1 : most + 1]
    whole = order[:most]
    if groups[last[0]] == groups[last[1]] and (groups[whole] != groups[last[1]]).any():
        whole = whole[groups[whole] != groups[last[1]]]
    return np.sort(rows[whole])


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


def _held_together(pairs: Pairs, groups: Sequence[str | None] | None) -> tuple[By, Groups]:
    """Return what is held out as a whole, and which of it each item is of."""
    first = pairs.first_rows
    if groups is not None:
        found = _numbers([groups[row] for row in first])
        if len(np.unique(found)) < 2:
            raise DataError(
                f"all {pairs.items} items are of one group, so none can be held out",
                "give groups that tell items apart, or none",
            )
        return "group", found
    if pairs.labels is not None and tell_classes_apart(pairs):
        labels = pairs.labels[first].tolist()
        return "class", _numbers([None if label < 0 else label for label in labels])
    return "neighbours", neighbour_groups(pairs.new.select(first))


def tell_classes_apart(pairs: Pairs) -> bool:
    """Say whether most items have a label, and enough is left to learn from without any class."""
    if pairs.labels is None:
        return False
    labels = pairs.labels[pairs.first_rows]
    _, sizes = np.unique(labels[labels >= 0], return_counts=True)
    return bool(len(sizes) > 1 and sizes.sum() >= len(labels) / 2 >= sizes.max())


def _numbers(names: Sequence[object]) -> Groups:
    """Number what is named, in order of appearance; None is a group of its own each time."""
    known: dict[object, int] = {}
    keys = ((row,) if name is None else name for row, name in enumerate(names))
    return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)


def _deal(groups: Groups, folds: int, seed: int) -> Groups:
    """Give each group a fold: the larger ones first, each to the fold with fewest items."""
    sizes = np.bincount(groups)
    order = np.random.default_rng([seed, 0]).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = [(0, fold) for fold in range(min(folds, int((sizes > 0).sum())))]
    fold_of = np.zeros(len(sizes), np.int64)
    for group in order.tolist():
        if sizes[group]:
            items, fold = heapq.heappop(filled)
            fold_of[group] = fold
            heapq.heappush(filled, (items + int(sizes[group]), fold))
    dealt: Groups = fold_of[groups]
    return dealt


def _mutual(found: Int64[np.ndarray, "item neighbour"]) -> Int64[np.ndarray, "edge 2"]:
    """Return the pairs of items of which each is among the found neighbours of the other."""
    count, nearest = found.shape
    near, far = np.repeat(np.arange(count), nearest), found.reshape(-1)
    there = far >= 0
    edges, back = near[there] * count + far[there], far[there] * count + near[there]
    both = np.isin(edges, back)
    return np.stack([near[there][both], far[there][both]], axis=1)


def _connected(count: int, edges: Int64[np.ndarray, "edge 2"]) -> Groups:
    """Return the number of each item's connected component, from 0 on."""
    root = np.arange(count)
    while True:
        lower = root.copy()
        np.minimum.at(lower, edges[:, 0], root[edges[:, 1]])
        np.minimum.at(lower, edges[:, 1], root[edges[:, 0]])
        lower = lower[lower]
        if (lower == root).all():
            break
        root = lower
    return np.unique(root, return_inverse=True)[1].reshape(-1)
