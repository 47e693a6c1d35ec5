"""Relevance: which gallery items each query is looking for, and which do not count for it.

It comes from labels, or from judgements of pairs; either way it is kept sparse. Queries that people
ask, embedded by two models, stand here beside their judgements. Nothing here knows of distances,
models, databases or files: `onward.evaluation.judgements` reads files.
"""

import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int32, Int64

from onward.errors import EvaluationError, LabelMismatchError
from onward.evaluation.retrieval import Ranking, Rows, check_once, refuse
from onward.fusion import Searchable, check_same_items
from onward.labels import as_labels, into, renumber, shown
from onward.spaces import Embeddings, Ids

Counts = Int64[np.ndarray, " query"]
Grades = Int32[np.ndarray, "query rank"]

Qrels = Mapping[str, Mapping[str, SupportsIndex]]
"""For each query's id, the grade of each item's id."""

IGNORED = -1
"""The grade of an item that is ignored for a query."""


class Items(NamedTuple):
    """Some gallery items, and what each is to a query. Queries of one label share one."""

    rows: Int64[np.ndarray, " item"]
    """Rows of the gallery, ascending."""
    grades: Int32[np.ndarray, " item"]
    """How relevant each is, above 0, or `IGNORED`."""

    @classmethod
    def of(cls, grade_of: Mapping[int, int]) -> "Items":
        """Return items by their rows."""
        rows = sorted(grade_of)
        return cls(np.array(rows, np.int64), np.array([grade_of[row] for row in rows], np.int32))


@dataclass(frozen=True, eq=False)
class Relevance:
    """Which gallery items each query is looking for, how much, and which do not count for it.

    Made `between` labelled embeddings, `of_labels` or `of_qrels`; `ignoring` pairs, or what a
    query's own camera took (`ignoring_cameras`), makes another. An ignored item is neither hit
    nor miss: it is taken out of the query's ranking before ranks are counted, and it is not
    among what there is to find, even if it is wanted.

    Attributes:
        query_ids: one id a query.
        gallery_ids: every item of the gallery, brought back or not.
        items: for each query, what it is looking for and what is ignored for it.
        exclude_self: true if a query's own gallery entry, the one of the same id, does not count:
            neither as a hit nor as something to find.
        left_out: how many had to be left out, by kind, none that is 0: "queries_without_label"
            and "items_without_label"; "queries_of_other_classes", whose names the gallery lacks;
            "qrels_queries" and "qrels_items", which the qrels name and are not there;
            "ignored_queries" and "ignored_items", which pairs to ignore name.

    Raises:
        EvaluationError: if an id stands twice, or there are not items for each query.
    """

    query_ids: Ids
    gallery_ids: Ids
    items: tuple[Items, ...]
    exclude_self: bool
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for whose in ("query", "gallery"):
            ids = tuple(getattr(self, f"{whose}_ids"))
            check_once(ids, f"{whose} ids of a relevance")
            object.__setattr__(self, f"{whose}_ids", ids)
        known = {name: number for name, number in self.left_out.items() if number}
        object.__setattr__(self, "left_out", known)
        if len(self.items) != len(self.query_ids):
            raise EvaluationError(
                f"items for {len(self.items)} queries, and {len(self.query_ids)} query ids",
                "make them of the same queries",
            )

    @classmethod
    def of_labels(
        cls,
        query_ids: Ids,
        gallery_ids: Ids,
        query_labels: Int64[np.ndarray, " query"],
        gallery_labels: Int64[np.ndarray, " gallery"],
        *,
        exclude_self: bool,
    ) -> "Relevance":
        """Return the relevance in which a query is looking for the items of its label.

        Args:
            query_ids: one id a query.
            gallery_ids: every item of the gallery.
            query_labels: class of each query; a negative one is unknown, and nothing to find.
            gallery_labels: class of each item; one whose class is unknown is relevant to nothing.
            exclude_self: leave out a query's own gallery entry, the one of the same id.

        Raises:
            EvaluationError: if an id stands twice, or ids and labels differ in number.
            EmbeddingsError: if labels are not whole numbers.
        """
        given = {"query": (query_ids, query_labels), "gallery": (gallery_ids, gallery_labels)}
        for whose, (ids, labels) in given.items():
            if np.shape(labels) != (len(ids),):
                raise EvaluationError(
                    f"{whose} labels of shape {np.shape(labels)} for {len(ids)} {whose} ids",
                    "give one label an id",
                )
        asked, there = as_labels(query_labels), as_labels(gallery_labels)
        left_out = unlabelled(asked, there)
        order = np.argsort(there, kind="stable")
        labels, starts = np.unique(there[order], return_index=True)
        rows_of = dict(zip(labels.tolist(), np.split(order, starts[1:]), strict=False))
        known = {label: rows for label, rows in rows_of.items() if label >= 0}
        wanted = {label: Items(rows, np.ones(len(rows), np.int32)) for label, rows in known.items()}
        items = tuple(wanted.get(label, Items.of({})) for label in asked.tolist())
        return cls(tuple(query_ids), tuple(gallery_ids), items, exclude_self, left_out)

    @classmethod
    def between(
        cls,
        queries: Searchable,
        gallery: Searchable,
        *,
        exclude_self: bool,
        same_labels: bool = False,
    ) -> "Relevance":
        """Return the relevance that the labels of queries and gallery make; see `of_labels`.

        Labels are compared by the names of their classes where both have names, and by number
        where neither has.

        Args:
            queries: with labels.
            gallery: with labels.
            exclude_self: whether a query's own gallery entry is left out.
            same_labels: if only one of the two has class names, the other's numbers mean the same.

        Raises:
            EvaluationError: if either has no labels.
            LabelMismatchError: if only one of the two has class names, and `same_labels` is false.
        """
        asked, there = common_labels(queries, gallery, same_labels=same_labels)
        made = cls.of_labels(queries.ids, gallery.ids, asked, there, exclude_self=exclude_self)
        if queries.class_names is None or gallery.class_names is None:
            return made
        other = ~np.isin(asked, list(gallery.class_names)) & (asked >= 0)
        left_out = {**made.left_out, "queries_of_other_classes": int(other.sum())}
        return replace(made, left_out=left_out)

    @classmethod
    def of_qrels(
        cls,
        query_ids: Ids,
        gallery_ids: Ids,
        qrels: Qrels,
        *,
        exclude_self: bool,
        ignore_unknown: bool = False,
    ) -> "Relevance":
        """Return the relevance that judgements make: for each query, the grades of some items.

        An item may be relevant to several queries. A grade above 0 is relevant, and the more the
        higher (`ndcg@k` weighs by it); 0 or less is not. Queries that are not judged have nothing
        to find. Judgements of queries that are not among the ids are left out and counted.

        Args:
            query_ids: one id a query.
            gallery_ids: every item of the gallery.
            qrels: for each query's id, the grade of each item's id; see `read_qrels`.
            exclude_self: leave out a query's own gallery entry, the one of the same id.
            ignore_unknown: leave out and count relevant items that the gallery lacks, too.

        Raises:
            EvaluationError: if an id stands twice, a grade is not a whole number of 32 bits, no
                query is judged, or relevant items are not in the gallery, which as a rule means
                other ids.
        """
        for query, grades in qrels.items():
            if not isinstance(grades, Mapping):
                raise EvaluationError(
                    f"the qrels of query {query!r} are {type(grades).__name__}, not a mapping",
                    "give for each query's id the grade of each item's id: {'q1': {'d2': 1}}",
                )
        relevant = {
            query: {
                item: grade
                for item, given in grades.items()
                if (grade := _grade(query, item, given)) > 0
            }
            for query, grades in qrels.items()
        }
        nothing = cls(query_ids, gallery_ids, (Items.of({}),) * len(query_ids), exclude_self)
        return nothing._with_pairs("qrels", relevant, ignore_unknown)

    def ignoring(
        self, pairs: Mapping[str, Collection[str]], *, ignore_unknown: bool = False
    ) -> "Relevance":
        """Return this relevance with more items ignored: for each query's id, the items' ids.

        Queries that are unknown here are left out and counted.

        Args:
            pairs: for each query's id, the ids of the items to ignore.
            ignore_unknown: leave out and count items that the gallery lacks, too.

        Raises:
            EvaluationError: if none of the queries is known, or an item is not in the gallery.
        """
        for query, ids in pairs.items():
            if isinstance(ids, str) or not isinstance(ids, Collection):
                raise EvaluationError(
                    f"the pairs to ignore of query {query!r} are {ids!r}",
                    "give a set or a list of ids",
                )
        grades = {query: dict.fromkeys(ids, IGNORED) for query, ids in pairs.items()}
        return self._with_pairs("ignored", grades, ignore_unknown)

    def _with_pairs(
        self, what: str, named: Mapping[str, Mapping[str, int]], ignore_unknown: bool
    ) -> "Relevance":
        """Return this relevance with other grades of some items, for each query's id by theirs.

        Raises:
            EvaluationError: if no query is known, or an item is not, unless that is to be ignored.
        """
        words = "qrels" if what == "qrels" else "pairs to ignore"
        asked = [query for query in named if query in self._query_row]
        if named and not asked:
            raise EvaluationError(
                f"none of the {len(named)} queries in the {words} is among the "
                f"{len(self.query_ids)} that are asked",
                f"the first there is {next(iter(named))!r}. Give the ids that the embeddings have",
            )
        pairs = [(query, item) for query in asked for item in named[query]]
        missing = [pair for pair in pairs if pair[1] not in self._gallery_row]
        if missing and not ignore_unknown:
            query, item = missing[0]
            raise EvaluationError(
                f"{len(missing)} of {len(pairs)} {words} name an item that is not among the "
                f"{len(self.gallery_ids)} of the gallery, the first {item!r} for query {query!r}",
                "give the ids that the gallery has, or leave such items out with "
                "ignore_unknown=True",
            )
        items = list(self.items)
        for query in asked:
            row = self._query_row[query]
            grade_of = dict(zip(*(each.tolist() for each in items[row]), strict=True))
            for item, grade in named[query].items():
                if item in self._gallery_row:
                    grade_of[self._gallery_row[item]] = grade
            items[row] = Items.of(grade_of)
        unknown = {f"{what}_queries": len(named) - len(asked), f"{what}_items": len(missing)}
        counts = Counter(self.left_out) + Counter(unknown)
        return replace(self, items=tuple(items), left_out=counts)

    def ignoring_cameras(
        self, query_cameras: Collection[Any], gallery_cameras: Collection[Any]
    ) -> "Relevance":
        """Return this relevance with those items ignored that a query wants of its own camera.

        That is the rule of re-identification, as Market-1501 has it: finding a person again in
        the pictures of the camera that the query comes from is neither right nor wrong.

        Args:
            query_cameras: the camera of each query: numbers, or strings.
            gallery_cameras: the camera of each gallery item.

        Raises:
            EvaluationError: if cameras and ids differ in number, one is missing (None or NaN), or
                some are numbers and some are strings.

        References:
            Zheng et al., Scalable person re-identification: a benchmark, ICCV 2015.
        """
        asked, there = list(query_cameras), list(gallery_cameras)
        if (len(asked), len(there)) != (len(self.query_ids), len(self.gallery_ids)):
            raise EvaluationError(
                f"{len(asked)} and {len(there)} cameras for {len(self.query_ids)} queries and "
                f"{len(self.gallery_ids)} gallery items",
                "give one camera to each",
            )
        kind = str if asked and isinstance(asked[0], str) else (int, np.integer)
        sides = (("query", self.query_ids, asked), ("gallery item", self.gallery_ids, there))
        for side, ids, cameras in sides:
            for item, camera in zip(ids, cameras, strict=True):
                if not isinstance(camera, kind):
                    raise EvaluationError(
                        f"the camera of {side} {item!r} is {camera!r:.60}",
                        "give every query and item a whole number, or every one a string",
                    )
        keys = np.array(there, dtype=object)

        def without(items: Items, camera: Any) -> Items:
            return Items(items.rows, np.where(keys[items.rows] == camera, IGNORED, items.grades))

        return replace(self, items=_once_each(without, list(zip(self.items, asked, strict=True))))

    def among(self, query_ids: Ids, gallery_ids: Ids) -> "Relevance":
        """Return this relevance of some of its queries, among some of its gallery items alone.

        What is relevant and what is ignored stays so; the other items are not there to be found.
        What was left out is not counted again.

        Raises:
            EvaluationError: if a query or an item is unknown here.
        """
        if (len(query_ids), len(gallery_ids)) == (len(self.query_ids), len(self.gallery_ids)):
            return self
        queries = self._rows_of(query_ids)
        rows = np.sort(_look_up(gallery_ids, self._gallery_row, "gallery item"))
        place = np.full(len(self.gallery_ids), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))

        def kept(items: Items) -> Items:
            places = place[items.rows]
            return Items(places[places >= 0], items.grades[places >= 0])

        items = _once_each(kept, [(self.items[query],) for query in queries.tolist()])
        gallery = tuple(self.gallery_ids[row] for row in rows)
        return Relevance(query_ids, gallery, items, self.exclude_self)

    def grades(self, ranking: Ranking) -> Grades:
        """Return how relevant what stands at each rank is to the query.

        0: not relevant, or nothing came back. -1: ignored for this query. Above 0: relevant.

        Raises:
            EvaluationError: if the two disagree on `exclude_self`, the ranking names a query or
                an item that is unknown here, or it holds an own entry that it says it left out.
        """
        if ranking.exclude_self != self.exclude_self:
            raise EvaluationError(
                f"the ranking was made with exclude_self={ranking.exclude_self}, the relevance "
                f"with exclude_self={self.exclude_self}",
                "make both with the same",
            )
        rows: Rows = ranking.rows
        same = ranking.gallery_ids is self.gallery_ids or ranking.gallery_ids == self.gallery_ids
        if not same:
            row_here = _look_up(ranking.gallery_ids, self._gallery_row, "gallery item")
            rows = np.append(row_here, -1)[rows]  # padding finds the -1 at the end
        if self.exclude_self:
            entries = [self._gallery_row.get(item, -1) for item in ranking.query_ids]
            own = np.array(entries, dtype=np.int64)[:, None]
            complaint = "holds its own gallery entry but says exclude_self=True; leave it out by id"
            refuse(ranking, (rows == own) & (own >= 0), complaint)
        found = np.zeros(rows.shape, dtype=np.int32)
        marks = np.zeros(len(self.gallery_ids) + 1, dtype=np.int32)  # the last is padding's
        for place, query in enumerate(self._rows_of(ranking.query_ids).tolist()):
            items, grades = self.items[query]
            marks[items] = grades
            found[place] = marks[rows[place]]
            marks[items] = 0
        return found

    def counts(self, query_ids: Ids) -> Counts:
        """Return how many gallery items are relevant to each query, and not ignored for it.

        With `exclude_self` a query's own entry is not counted.

        Raises:
            EvaluationError: if a query is unknown here.
        """
        self._rows_of(query_ids)
        return np.array([len(self.relevant(one).rows) for one in query_ids], dtype=np.int64)

    def relevant(self, query_id: str) -> Items:
        """Return the gallery items that are relevant to a query.

        Without those that are ignored, and its own entry with `exclude_self`.

        Raises:
            EvaluationError: if the query is unknown here.
        """
        (row,) = self._rows_of((query_id,)).tolist()
        rows, grades = self.items[row]
        own = self._gallery_row.get(query_id) if self.exclude_self else None
        left = (grades > 0) & (rows != (-1 if own is None else own))
        return Items(rows[left], grades[left])

    def best(self, query_ids: Ids, k: int) -> Grades:
        """Return the grades of the first k ranks of a perfect ranking; 0 where nothing is left.

        Of fewer ranks where no query has as many relevant items.

        Raises:
            EvaluationError: if a query is unknown here.
        """
        grades = [self.relevant(one).grades for one in query_ids]
        width = min(k, max(map(len, grades), default=0))
        best = np.zeros((len(query_ids), width), dtype=np.int32)
        for place, found in enumerate(grades):
            best[place, : len(found)] = np.sort(found)[::-1][:width]
        return best

    @property
    def longest(self) -> int:
        """How many items a ranking of the whole gallery holds for the query that has most.

        One fewer than there are where every query's own entry is left out of it.
        """
        own = self.exclude_self and all(item in self._gallery_row for item in self.query_ids)
        return max(len(self.gallery_ids) - own, 0)

    @cached_property
    def _query_row(self) -> Mapping[str, int]:
        return {item: row for row, item in enumerate(self.query_ids)}

    @cached_property
    def _gallery_row(self) -> Mapping[str, int]:
        return {item: row for row, item in enumerate(self.gallery_ids)}

    def _rows_of(self, query_ids: Ids) -> Counts:
        return _look_up(query_ids, self._query_row, "query")


def common_labels(
    queries: Searchable, gallery: Searchable, *, same_labels: bool
) -> tuple[Counts, Int64[np.ndarray, " gallery"]]:
    """Return the labels of queries and gallery in the gallery's numbering; see `between`.

    Raises:
        EvaluationError: if either has no labels.
        LabelMismatchError: if only one of the two has class names, and `same_labels` is false.
    """
    if queries.labels is None or gallery.labels is None:
        whose = "queries" if queries.labels is None else "gallery"
        raise EvaluationError(
            f"the embeddings of the {whose} have no labels, and labels make relevance",
            "embed items with labels, or say what is right by judgements (qrels=...) or by pairs "
            "to verify (pairs=...)",
        )
    names, sources = (queries.class_names, gallery.class_names), ("the queries", "the gallery")
    asked = renumber(queries.labels, *names, same_labels=same_labels, sources=sources)
    return asked, gallery.labels


def unlabelled(
    query_labels: Counts, gallery_labels: Int64[np.ndarray, " gallery"]
) -> dict[str, int]:
    """Return how many labels of queries and gallery are unknown; see `Relevance.left_out`."""
    known = {"queries_without_label": query_labels, "items_without_label": gallery_labels}
    counts = {kind: int((labels < 0).sum()) for kind, labels in known.items()}
    return {kind: count for kind, count in counts.items() if count}


def label_alike(same_items: Sequence[Embeddings], sources: Sequence[str]) -> list[Embeddings]:
    """Return embeddings of the same items, each with the classes that any of them knows.

    What each says stays, in its own numbering; what it does not know it takes from the others.

    Args:
        same_items: embeddings with the same ids in the same order.
        sources: what each is, for messages: a file, or "the old embeddings".

    Raises:
        LabelMismatchError: if two put an item in two classes, by name where both have names.
    """
    known = list(zip(same_items, sources, strict=True))
    return [labelled_by(*one, known) for one in known]


def labelled_by(
    each: Embeddings, source: str, others: Sequence[tuple[Embeddings, str]]
) -> Embeddings:
    """Return embeddings with the classes that others of the same items know too.

    Raises:
        LabelMismatchError: if an item is in two classes.
    """
    for other, whose in others:
        if other.labels is None or other is each:
            continue
        if each.labels is None:
            each = replace(each, labels=other.labels, class_names=other.class_names)
            source = whose
            continue
        names, sources = (other.class_names, each.class_names), (whose, source)
        labels, class_names = into(other.labels, *names, same_labels=True, sources=sources)
        apart = np.flatnonzero((labels != each.labels) & (labels >= 0) & (each.labels >= 0))
        if len(apart):
            row = int(apart[0])
            ours = shown(int(each.labels[row]), each.class_names)
            theirs = shown(int(other.labels[row]), other.class_names)
            raise LabelMismatchError(
                f"item {each.ids[row]!r} is of class {ours} in {source} and of class "
                f"{theirs} in {whose}, and {len(apart)} of {len(each)} items differ like that",
                "give labels that are numbered the same, or all with class names",
            )
        if ((labels >= 0) & (each.labels < 0)).any():
            merged = np.where(each.labels < 0, labels, each.labels)
            each = replace(each, labels=merged, class_names=class_names)
    return each


def relevant_items(qrels: Qrels, queries: Iterable[str]) -> dict[str, set[str]]:
    """Return which items judgements name as relevant to each query: with a grade above 0."""
    return {
        query: {item for item, grade in qrels.get(query, {}).items() if int(grade) > 0}
        for query in queries
    }


@dataclass(frozen=True, eq=False)
class RealQueries:
    """Queries that people ask, embedded by both models, and the answers where they are known.

    Answers are judgements (`qrels`), else labels, in the old or the new embeddings, where the
    gallery's items have some too. A query with the id of an item is another thing than the item
    where `qrels` judge, and else does not look for itself.

    Attributes:
        old: by the model that the gallery answers now.
        new: of the same queries, in any order, by the model that the upgrade leads to.
        qrels: for each query's id, the grade of each item's id; see `Relevance.of_qrels`.
        ignore_unknown: leave out and count relevant items in `qrels` that the gallery lacks.
        same_labels: if only the queries or only the gallery have class names, the numbers of the
            others mean the same.
        paired: where a fused pair answers now, of the same queries by the other one of its two
            models; None where one space does.

    Raises:
        EvaluationError: if there is no query.
        EmbeddingsError: if they are not of the same queries.
    """

    old: Embeddings
    new: Embeddings
    qrels: Qrels | None = None
    ignore_unknown: bool = False
    same_labels: bool = False
    paired: Embeddings | None = None

    def __post_init__(self) -> None:
        check_same_items(self.old, self.new, "queries")
        if self.paired is not None:
            check_same_items(self.paired, self.new, "queries", ("paired", "new"))
        if not len(self.old):
            raise EvaluationError("no real queries were given", "embed at least one by both models")
        object.__setattr__(self, "new", self.new.align(self.old.ids))
        if self.paired is not None:
            object.__setattr__(self, "paired", self.paired.align(self.old.ids))


def _once_each(change: Callable[..., Items], given: Sequence[tuple[Any, ...]]) -> tuple[Items, ...]:
    """Return what a change makes of each, made once of what queries share."""
    keys = [tuple(map(id, one[:1])) + one[1:] for one in given]
    made = {key: change(*one) for key, one in dict(zip(keys, given, strict=True)).items()}
    return tuple(made[key] for key in keys)


def _grade(query: str, item: str, grade: Any) -> int:
    """Return a grade as a number.

    Raises:
        EvaluationError: if it is not a whole number of 32 bits.
    """
    try:
        number = operator.index(grade)
    except TypeError:
        number = None
    if number is None or not -(2**31) <= number < 2**31:
        raise EvaluationError(
            f"the grade of item {item!r} for query {query!r} is {grade!r}",
            "grades are whole "
            "numbers of 32 bits: 0 is not relevant, and the higher the more relevant",
        )
    return number


def _look_up(ids: Ids, row_of: Mapping[str, int], what: str) -> Counts:
    rows = np.array([row_of.get(item, -1) for item in ids], dtype=np.int64)
    if (rows < 0).any():
        missing = ids[int(np.argmax(rows < 0))]
        raise EvaluationError(
            f"the relevance knows no {what} {missing!r} ({int((rows < 0).sum())} of {len(ids)} "
            "are unknown to it)",
            "make ranking and relevance from the same queries and gallery",
        )
    return rows
