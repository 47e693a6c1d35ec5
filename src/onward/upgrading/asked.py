"""What is asked of a gallery to judge an upgrade: real queries, or items of a sample.

Each query is embedded by both models. Nothing here searches or writes.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, SupportsIndex

from onward.errors import SpaceMismatchError, UpgradeError
from onward.gallery import Gallery
from onward.labels import Labels, renumber, translate
from onward.relevance import Relevance
from onward.spaces import Embeddings, Ids, Space
from onward.upgrading.judged import JudgedItems, first_by_digest

Who = Literal["items of the sample", "real queries"]
ITEMS: Who = "items of the sample"
REAL: Who = "real queries"


def count_asked(count: int, who: Who) -> str:
    """Say how many were asked, such as "1 real query" or "20 items of the sample"."""
    one = {ITEMS: "item of the sample", REAL: "real query"}
    return f"{count:,} {one[who] if count == 1 else who}"


Qrels = Mapping[str, Mapping[str, SupportsIndex]]


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

    Raises:
        UpgradeError: if there is no query, or the two are not of the same queries.
    """

    old: Embeddings
    new: Embeddings
    qrels: Qrels | None = None
    ignore_unknown: bool = False
    same_labels: bool = False

    def __post_init__(self) -> None:
        alone = sorted(set(self.old.ids) ^ set(self.new.ids))
        if alone:
            raise UpgradeError(
                f"{len(self.old):,} queries by the old model and {len(self.new):,} by the new one "
                f"were given, and {len(alone):,} are in only one of the two, the first "
                f"{alone[0]!r}; embed the same queries by both models"
            )
        if not len(self.old):
            raise UpgradeError("no real queries were given; embed at least one by both models")
        object.__setattr__(self, "new", self.new.align(self.old.ids))


@dataclass(frozen=True, eq=False)
class Asked:
    """Queries by both models, and what each is looking for, as far as that is known.

    Attributes:
        who: what they are.
        old: in the space that the gallery answers now.
        new: the same queries in the new space.
        labels: class of each in the gallery's numbering, negative where it is unknown; None if no
            labels judge.
        qrels: judgements, if they judge.
        exclude_self: whether a query's own entry in the gallery is left out.
        left_out: of the real queries that were given: why some are not asked, and how many.
        unknown: how many relevant items in the judgements the gallery lacks.
    """

    who: Who
    old: Embeddings
    new: Embeddings
    labels: Labels | None
    qrels: Qrels | None = None
    exclude_self: bool = True
    left_out: Mapping[str, int] = field(default_factory=dict)
    unknown: int = 0

    def __len__(self) -> int:
        return len(self.new)

    @property
    def has_answers(self) -> bool:
        """Whether it is known what they are looking for."""
        return self.labels is not None or self.qrels is not None

    @property
    def clusters(self) -> Sequence[Hashable]:
        """The class of each query where labels judge, for those of one are alike; else its id."""
        return self.old.ids if self.labels is None else self.labels.tolist()

    def wanted(self) -> Iterator[str]:
        """Give the ids of the items that judgements name as relevant to these queries."""
        for query in self.old.ids if self.qrels is not None else ():
            grades = (self.qrels or {}).get(query, {})
            yield from (item for item, grade in grades.items() if int(grade) > 0)

    def relevance(self, ids: Ids, labels: Labels) -> Relevance:
        """Return what they are looking for among some items, whose labels are given too."""
        if self.qrels is not None:
            return Relevance.of_qrels(
                self.old.ids, ids, self.qrels, exclude_self=self.exclude_self, ignore_unknown=True
            )
        assert self.labels is not None  # noqa: S101 (whoever calls has looked)
        return Relevance.of_labels(
            self.old.ids, ids, self.labels, labels, exclude_self=self.exclude_self
        )


def ask_items(judged: JudgedItems) -> Asked:
    """Return the items of a sample as queries: what the gallery stores of each, and the truth."""
    return Asked(ITEMS, judged.nothing, judged.new, judged.labels)


def ask_real(gallery: Gallery, queries: RealQueries, now: Space, new: Space, most: int) -> Asked:
    """Return real queries as they are asked of a gallery.

    Args:
        gallery: the gallery.
        queries: the queries.
        now: the space in which it answers.
        new: the space that the upgrade leads to.
        most: no more queries than these, chosen by a digest of their ids.

    Raises:
        SpaceMismatchError: if the queries are in other spaces.
        UpgradeError: if no query is in the judgements, or a relevant item is not in the gallery,
            unless that is to be ignored.
        LabelMismatchError: if labels judge, only the queries or only the gallery have class names,
            and nothing says that the numbers of the others mean the same.
    """
    for whose, given, wanted in (("old", queries.old, now), ("new", queries.new, new)):
        if given.space != wanted:
            raise SpaceMismatchError(
                f"the real queries by the {whose} model are in {given.space}, and they are asked "
                f"in {wanted}; embed them by the model of that space"
            )
    ids, qrels = queries.old.ids, queries.qrels
    judged = [query for query in ids if qrels is None or query in qrels]
    if not judged:
        raise UpgradeError(
            f"the judgements name none of the {len(ids):,} real queries; give judgements and "
            "queries with the same ids"
        )
    chosen = first_by_digest(judged, most)
    left_out = {
        "not in the judgements": len(ids) - len(judged),
        f"more than {most:,} are not needed": len(judged) - len(chosen),
    }
    asked = Asked(
        REAL,
        queries.old.align(chosen),
        queries.new.align(chosen),
        None,
        qrels,
        exclude_self=qrels is None,
        left_out={why: count for why, count in left_out.items() if count},
    )
    if qrels is None:
        return replace(asked, labels=_labels_of(gallery, queries, asked))
    return replace(asked, unknown=_count_unknown(gallery, asked, queries.ignore_unknown))


def _labels_of(gallery: Gallery, queries: RealQueries, asked: Asked) -> Labels | None:
    """Return the labels of the queries in the gallery's numbering; None if they have none."""
    given = max(asked.new, asked.old, key=_known_labels)
    if given.labels is None or not _known_labels(given):
        return None
    translated = translate(
        given.class_names,
        gallery.class_names(),
        same_labels=queries.same_labels,
        sources=("the real queries", f"gallery {gallery.url}"),
    )
    return renumber(given.labels, translated)


def _known_labels(embeddings: Embeddings) -> int:
    return 0 if embeddings.labels is None else int((embeddings.labels >= 0).sum())


def _count_unknown(gallery: Gallery, asked: Asked, ignore: bool) -> int:
    """Return how many relevant items the gallery lacks; refuse them unless they are ignored."""
    wanted = sorted(set(asked.wanted()))
    there = {item for batch in gallery.scan((), ids=wanted) for item in batch.ids}
    missing = [item for item in wanted if item not in there]
    if not there:
        raise UpgradeError(
            f"the judgements name no relevant item of gallery {gallery.url} for the "
            f"{len(asked):,} real queries; give the ids that queries and gallery have"
        )
    if missing and not ignore:
        raise UpgradeError(
            f"{len(missing):,} of {len(wanted):,} relevant items in the judgements are not in "
            f"gallery {gallery.url}, the first {missing[0]!r}; give the ids that the gallery has, "
            "or leave such items out with ignore_unknown=True (--ignore-unknown)"
        )
    return len(missing)
