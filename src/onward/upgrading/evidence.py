"""By what an upgrade is judged: queries, items whose true new vectors are known, and the gallery.

Old vectors of all items are there, and a transformation can be applied to all: nothing but the true
new vectors is known of a sample only. Queries are real ones, or items of that sample. Each item is
read, and carried by its transformation, once. Nothing here searches or writes.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from onward.artifacts import digest
from onward.errors import SpaceMismatchError, UpgradeError
from onward.evaluation.relevance import Qrels, RealQueries, Relevance, relevant_items
from onward.fusion import FusedEmbeddings, Searchable, Serve, Serving
from onward.gallery import GalleryRows, GalleryView
from onward.gallery.record import Served
from onward.labels import Labels, comparable, renumber
from onward.spaces import Embeddings, Ids, Origin, Space
from onward.upgrading.routes import Routes, needed_spaces, transform

LEAST_ITEMS = 20
"""By fewer nothing can be judged."""

MOST_ITEMS = 2000
"""Every item is compared with every other; more than these change the numbers little."""
MOST_SEARCHED = 100_000
"""In more items than these nothing is judged: what all of them would show, these do."""

FITTED = "a transformation was fitted on them"
UNSEEN = "a transformation was fitted on them, and nothing says what it gives for them unseen"
NOT_THERE = "not in the gallery"
NO_LABEL = "no label, where others have one"
NOT_NEEDED = "more than {:,} are not needed"

Who = Literal["items of the sample", "real queries"]
ITEMS: Who = "items of the sample"
REAL: Who = "real queries"


def count_asked(count: int, who: Who) -> str:
    """Say how many were asked, such as "1 real query" or "20 items of the sample"."""
    one = {ITEMS: "item of the sample", REAL: "real query"}
    return f"{count:,} {one[who] if count == 1 else who}"


@dataclass(frozen=True, eq=False)
class Questions:
    """Queries by both models, and what each is looking for, as far as that is known.

    Attributes:
        who: what they are.
        old: in the space, or the fused pair, that the gallery answers now.
        new: the same queries in the new space; if labels judge, with the class of each in the
            gallery's numbering, negative where it is unknown.
        qrels: judgements, if they judge.
        left_out: of the real queries that were given: why some are not asked, and how many.
        unknown: how many relevant items in the judgements the gallery lacks.
    """

    who: Who
    old: Searchable
    new: Embeddings
    qrels: Qrels | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    unknown: int = 0

    def __len__(self) -> int:
        return len(self.new)

    @property
    def exclude_self(self) -> bool:
        """Whether a query's own entry in the gallery is left out."""
        return self.qrels is None

    @property
    def clusters(self) -> Sequence[Hashable]:
        """The class of each query where labels judge, for those of one are alike; else its id."""
        return self.new.ids if self.new.labels is None else self.new.labels.tolist()

    def wanted(self) -> set[str]:
        """Return the ids of the items that judgements name as relevant to these queries."""
        return set[str]().union(*relevant_items(self.qrels or {}, self.new.ids).values())

    def relevance(self, items: "Items") -> Relevance | None:
        """Return what they are looking for among some items.

        None if that is not known, no query finds anything, or all items are of one class: among
        those nothing found is wrong.
        """
        asked, labels, ids = self.new.labels, items.labels, self.new.ids
        if self.qrels is not None:
            found = Relevance.of_qrels(
                ids, items.ids, self.qrels, exclude_self=False, ignore_unknown=True
            )
        elif asked is not None and labels is not None and len(np.unique(labels)) > 1:
            found = Relevance.of_labels(ids, items.ids, asked, labels, exclude_self=True)
        else:
            return None
        return found if found.counts(ids).any() else None


@dataclass(frozen=True, eq=False)
class Items:
    """Some items of a gallery, and what is known of their classes.

    Attributes:
        class_of: each item's class in the gallery's numbering, negative where it is unknown.
        left_out: why others are left out, and how many.
    """

    class_of: Mapping[str, int]
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.class_of)

    @property
    def ids(self) -> Ids:
        """Their ids."""
        return tuple(self.class_of)

    @property
    def labels(self) -> Labels | None:
        """Their classes; None if not one is known."""
        labels = np.array(list(self.class_of.values()), np.int64)
        return labels if (labels >= 0).any() else None

    def searched(self, given: Searchable) -> Searchable:
        """Return what is searched of these items, in one space or in a fused pair."""
        if isinstance(given, Embeddings):
            return self.of(given)
        return replace(given, old=self.of(given.old), new=self.of(given.new))

    def of(self, embeddings: Embeddings) -> Embeddings:
        """Return the embeddings of these items, with their classes, if these are known."""
        found = among(embeddings, self.class_of)
        labels = np.array([self.class_of[item] for item in found.ids], np.int64)
        return replace(found, labels=None if self.labels is None else labels)

    def among(self, ids: Collection[str], why: str = "") -> "Items":
        """Return those that are among some; the others are counted where it is said why."""
        kept = {item: label for item, label in self.class_of.items() if item in ids}
        left_out = _counted((why, len(self) - len(kept))) if why else {}
        return Items(kept, {**self.left_out, **left_out})

    def labelled(self) -> "Items":
        """Return those whose class is known: of others nobody can say whether they are right."""
        return self.among({item for item, label in self.class_of.items() if label >= 0}, NO_LABEL)


@dataclass(frozen=True, eq=False)
class Trial:
    """Queries, and the items in which they are asked, before and after an upgrade.

    Attributes:
        asked: the queries.
        items: the items.
        now: what the gallery answers from now, of all of them.
        serving: the pair in which they can be searched after the upgrade, and what the fit advises
            to serve; None if no pair is known.
        upgraded: what the transformations make, of those that one of them can carry. Of an item
            that one was fitted on, what it makes of it unseen, where that is known.
        embedded: what the new model has embedded already; it stays as it is.
        true: what the new model gives, of the sample's items among them.
        share: of all that is searched after the upgrade, what the sample is, in [0, 1].
        flattered: how many items a transformation was fitted on which does not tell what it gives
            for them unseen; of these the true vectors are known.
        uncertainties: of the items that are upgraded by a transformation that knows its own.
    """

    asked: Questions
    items: Items
    now: Searchable
    serving: Serving | None
    upgraded: Embeddings
    embedded: Embeddings
    true: Embeddings
    share: float
    flattered: int = 0
    uncertainties: Mapping[str, float] = field(default_factory=dict)

    @property
    def says_something(self) -> bool:
        """Whether there are enough items, and some of them can be carried."""
        return len(self.now) >= LEAST_ITEMS and len(self.upgraded) > 0 and len(self.asked) > 0

    @property
    def knows_uncertainty(self) -> bool:
        """Whether the transformation of any of them tells how unsure it is."""
        return not self.uncertainties.keys().isdisjoint(self.upgraded.ids)

    @property
    def ways(self) -> tuple[Serve, ...]:
        """What can be served after the upgrade: the new space, and the fused pair, if any."""
        return ("new",) if self.serving is None else ("new", "fused")

    def queries(self, serve: Serve) -> Searchable:
        """Return the queries as they are asked of what is served; now, that is "old"."""
        if serve == "fused":
            return self._fused(self.asked.old, self.asked.new)
        return self.asked.old if serve == "old" else self.asked.new

    def gallery(self, serve: Serve, written: Embeddings | None = None) -> Searchable:
        """Return the items as they are searched in what is served.

        Args:
            serve: what is; now, that is "old".
            written: the true vectors that some items have then.
        """
        if serve == "old":
            return self.now
        stored = self.upgraded if written is None else with_true(self.upgraded, written)
        stored = self.items.of(with_true(stored, self.embedded))  # what a model embedded stays
        return self._fused(self.now, stored) if serve == "fused" else stored

    def _fused(self, old: Searchable, new: Embeddings) -> FusedEmbeddings:
        assert self.serving is not None  # noqa: S101 (it is one of the ways)
        pair = self.serving.fusion
        return FusedEmbeddings(pair, vectors_in(old, pair.old), new)


def gather(
    view: GalleryView,
    routes: Routes,
    sample: Embeddings | None,
    queries: RealQueries | None,
    *,
    whole: bool,
) -> tuple[Questions, Trial | None, Trial | None]:
    """Read all by which an upgrade is judged; see `forecast` in `onward.upgrading.forecast`.

    Returns the queries; how they are asked in all that can be found now, None if nothing says what
    they look for there, or it is not to be judged (`whole`); and in items of the sample, None if
    there is none.

    Raises:
        SpaceMismatchError: if the sample or the queries are in another space than is needed.
        UpgradeError: if judgements name items that the gallery lacks.
    """
    answers, new = what_answers(view, routes), routes.new
    serving = usable_serving(routes, answers)
    asked = None if queries is None else _ask_real(view, queries, answers, new)
    found, flattered = _choose_searched(view, routes, answers, sample, asked)
    judged, true, within, everywhere = None, _joined(new, ()), None, None
    if sample is not None:
        judged = _choose_judged(view, routes, answers, sample, found)
        true = Embeddings(sample.ids, sample.vectors, sample.space)
    searched = _where_answers_are_known(found, asked, judged) if whole else None
    ids = {*(searched.ids if searched else ()), *(judged.ids if judged else ())}
    now, (upgraded, uncertainties) = _read_served(view, answers, ids), _carry(view, routes, ids)
    if judged is not None:
        judged = judged.among(frozenset(now.ids))  # others may have been deleted meanwhile
        true_ones = judged.of(true.align(judged.ids))
        asked = asked or Questions(ITEMS, now.align(judged.ids), true_ones)
        within = Trial(
            asked,
            judged,
            now=judged.searched(now),
            serving=serving,
            upgraded=judged.of(upgraded),
            embedded=_joined(new, ()),
            true=true_ones,
            share=sum(len(one) for one in view.scan((), ids=true.ids)) / max(1, view.rows),
            uncertainties=uncertainties,
        )
    assert asked is not None  # noqa: S101 (of a sample or of queries one is there)
    if searched is not None:
        everywhere = Trial(
            asked,
            searched,
            now=searched.searched(now),
            serving=serving,
            upgraded=searched.of(upgraded),
            embedded=_read(view, new, searched.class_of, origin="embedded"),
            true=searched.of(true),
            share=len(searched.of(true)) / max(1, len(searched)),
            flattered=len(flattered.intersection(searched.class_of)),
        )
    return asked, everywhere, within


def what_answers(view: GalleryView, routes: Routes) -> Served:
    """Return the space or the fused pair in which items are found until cutting over."""
    served = view.record.serving if view.serving != routes.new else view.record.previous
    return served or Served(routes.first.old, None)


def usable_serving(routes: Routes, now: Served) -> Serving | None:
    """Return what the first transformation knows of a pair, if its old space answers now.

    Alone, or in a pair with another: queries are embedded in it in any case.
    """
    known = routes.first.serving
    if known is None or known.fusion.new != routes.new or known.fusion.old not in now.spaces:
        return None
    return known


def vectors_in(given: Searchable, space: Space) -> Embeddings:
    """Return the vectors in one space of what has them in that, or in a pair with another."""
    if isinstance(given, Embeddings):
        return given
    return given.old if given.old.space == space else given.new


def among(embeddings: Embeddings, ids: Collection[str]) -> Embeddings:
    """Return the embeddings of those items that are among some."""
    return embeddings.select([item in ids for item in embeddings.ids])


def with_true(upgraded: Embeddings, true: Embeddings) -> Embeddings:
    """Return a gallery in which some items have their true vectors; also those it lacks."""
    replaced = frozenset(true.ids)
    rest = upgraded.select([item not in replaced for item in upgraded.ids])
    return _joined(upgraded.space, [true, rest])


def digest_sample(sample: Embeddings) -> str:
    """Return what changes when an id or a vector does."""
    return digest(sample.vectors.tobytes(), *(item.encode() for item in sample.ids))


def check_sample_space(sample: Embeddings, new: Space) -> None:
    """Refuse a sample that is in another space than the upgrade leads to, or not the model's own.

    Raises:
        SpaceMismatchError: naming both spaces.
        UpgradeError: if vectors were upgraded.
    """
    if sample.space != new:
        raise SpaceMismatchError(
            f"the sample is in {sample.space}, the upgrade leads to {new}",
            "give embeddings of gallery items by the model that the transformation was fitted for",
        )
    check_embedded(sample, "the sample")


def check_embedded(given: Embeddings, what: str) -> None:
    """Refuse vectors that a transformation made where the new model's own are needed.

    Raises:
        UpgradeError: saying how many of the embeddings, called `what`, are such.
    """
    upgraded = given.count_origins().get("upgraded", 0)
    if upgraded:
        raise UpgradeError(
            f"{upgraded:,} of the {len(given):,} vectors of {what} were upgraded by a "
            "transformation, and those that the new model itself gives are needed",
            "embed these items by the new model, or leave them out",
        )


def labels_of(
    gallery: GalleryRows, given: Searchable, same_labels: bool, what: str
) -> Labels | None:
    """Return the labels of embeddings, called `what`, in the gallery's numbering, if they have any.

    Raises:
        LabelMismatchError: if only they or only the gallery have class names, and nothing says
            (`same_labels`) that the numbers of the others mean the same.
    """
    if given.labels is None:
        return None
    names, sources = (given.class_names, gallery.class_names()), (what, f"gallery {gallery.url}")
    return renumber(given.labels, *names, same_labels=same_labels, sources=sources)


def _count_known(given: Searchable) -> int:
    return 0 if given.labels is None else int((given.labels >= 0).sum())


def _makings(made_by: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give what a transformation records of how it was made, and what each of its parts does."""
    yield made_by
    for part in made_by.get("parts", ()):
        yield from _makings(part.get("made_by", {}))


def fitted_on(made_by: Mapping[str, Any]) -> Iterator[str]:
    """Give the ids of the items that a transformation records it was fitted on."""
    for one in _makings(made_by):
        for what in ("sample", "pairs"):
            yield from one.get(what, {}).get("ids", ())


def fitted_items(routes: Routes) -> set[str]:
    """Return the ids of the items that one of the transformations was fitted on."""
    return {item for one in routes.transformations for item in fitted_on(one.made_by)}


def count_unlisted(made_by: Mapping[str, Any]) -> int:
    """Count the training pairs whose ids are not kept, where no gallery sample was learned from.

    Such pairs are training images as a rule, which are in no gallery; but nothing says so.
    """
    pairs = (one.get("pairs", {}) for one in _makings(made_by) if "sample" not in one)
    return sum(int(one.get("items", 0)) for one in pairs if "ids" not in one)


def _where_answers_are_known(
    found: Items, asked: Questions | None, judged: Items | None
) -> Items | None:
    """Return the items in which it can be told what queries look for; None if it is not known."""
    if asked is not None and asked.qrels is not None:
        return found
    labels = asked.new.labels if asked is not None else None if judged is None else judged.labels
    return None if labels is None else found.labelled()


def _ask_real(view: GalleryView, queries: RealQueries, now: Served, new: Space) -> Questions:
    """Return real queries as they are asked of a gallery, no more than some, chosen by a digest.

    Raises:
        SpaceMismatchError: if the queries are in other spaces.
        UpgradeError: if no query is in the judgements, or a relevant item is not in the gallery,
            unless that is to be ignored.
        LabelMismatchError: if labels judge, only the queries or only the gallery have class names,
            and nothing says that the numbers of the others mean the same.
    """
    asked_now = _as_asked(queries, now)
    asked_in = now.fusion or now.space
    for whose, given, wanted in (("old", asked_now, asked_in), ("new", queries.new, new)):
        if given.space != wanted:
            raise SpaceMismatchError(
                f"the real queries by the {whose} model are in {given.space}, and they are asked "
                f"in {wanted}",
                "embed them by the model of that space",
            )
    ids, qrels = queries.old.ids, queries.qrels
    judged = [query for query in ids if qrels is None or query in qrels]
    if not judged:
        raise UpgradeError(
            f"the judgements name none of the {len(ids):,} real queries",
            "give judgements and queries with the same ids",
        )
    chosen = _first_by_digest(judged)
    old, new_ones, labels = asked_now.align(chosen), queries.new.align(chosen), None
    if qrels is None:
        named = max(new_ones, old, key=_count_known)
        labels = labels_of(view, named, queries.same_labels, "the real queries")
        labels = labels if _count_known(named) else None
    left_out = _counted(
        ("not in the judgements", len(ids) - len(judged)),
        (NOT_NEEDED.format(MOST_ITEMS), len(judged) - len(chosen)),
    )
    asked = Questions(
        REAL, old, replace(new_ones, labels=labels, class_names=None), qrels, left_out
    )
    return replace(asked, unknown=_count_unknown(view, asked, queries.ignore_unknown))


def _as_asked(queries: RealQueries, now: Served) -> Searchable:
    """Return real queries as what answers now is asked: by one model, or by both of a pair.

    Raises:
        SpaceMismatchError: if a pair answers and they are not in both of its spaces, or one space
            does and they are given by a second model, too.
    """
    given = {one.space: one for one in (queries.old, queries.paired) if one is not None}
    pair = now.fusion
    if pair is None:
        if queries.paired is not None:
            raise SpaceMismatchError(
                f"the real queries are given in {queries.paired.space}, too, but {now} alone "
                "answers now",
                "leave the paired ones out, --queries-paired",
            )
        return queries.old
    if set(given) != set(now.spaces):
        raise SpaceMismatchError(
            f"the gallery answers from {pair}, and the real queries by the models that answer now "
            f"are in {' and '.join(map(str, given))}",
            f"give them by the models of {pair.old.name} and {pair.new.name}, one as the old "
            "queries and the other as the paired ones, --queries-paired",
        )
    return FusedEmbeddings(pair, given[pair.old], given[pair.new])


def _count_unknown(view: GalleryView, asked: Questions, ignore: bool) -> int:
    """Return how many relevant items the gallery lacks; refuse them unless they are ignored."""
    if asked.qrels is None:
        return 0
    wanted = sorted(asked.wanted())
    if not wanted:
        raise UpgradeError(
            f"the judgements name no relevant item for the {len(asked):,} real queries",
            "give judgements with grades above 0 of these queries, or none",
        )
    there = {item for batch in view.scan((), ids=wanted) for item in batch.ids}
    missing = [item for item in wanted if item not in there]
    if missing and not (ignore and there):
        raise UpgradeError(
            f"{len(missing):,} of {len(wanted):,} relevant items in the judgements are not in "
            f"gallery {view.url}, the first {missing[0]!r}",
            "give the ids that the gallery has, or, if it has some of them, leave the others out "
            "with ignore_unknown=True",
        )
    return len(missing)


def _choose_searched(
    view: GalleryView,
    routes: Routes,
    now: Served,
    sample: Embeddings | None,
    asked: Questions | None,
) -> tuple[Items, frozenset[str]]:
    """Return the items of a gallery in which an upgrade is judged.

    All that can be found now; where there are more than 100,000, some are chosen by a digest of
    their ids, beside the sample's and those that queries want, which are there in any case. Left
    out is what a transformation was fitted on, if it does not tell what it gives for the item
    unseen, and no true vector of it is known either; where that is known, it is given apart.
    """
    given, most = () if sample is None else sample.ids, MOST_SEARCHED
    drawn = _draw(view, now, most + 1)
    every = len(drawn) <= most
    if not every:
        wanted = () if asked is None else asked.wanted()
        first = _findable(view, now, {*wanted, *given})
        drawn = (*first, *(item for item in drawn if item not in first))[: max(most, len(first))]
    told = {
        item for one in routes.transformations if one.out_of_fold for item in one.out_of_fold.ids
    }
    untold = (fitted_items(routes) - told).intersection(drawn)
    untold -= set(_read(view, routes.new, untold, origin="embedded").ids)
    flattered = untold.intersection(given)
    ids = tuple(sorted(set(drawn) - (untold - flattered)))
    stored: dict[str, int | None] = {}
    for batch in view.scan((), ids=None if every else ids):
        stored |= dict(zip(batch.ids, batch.labels, strict=True))
    known = _known_labels(view, stored, sample)
    left_out = _counted((UNSEEN, len(drawn) - len(ids)))
    if not every:
        both = 0 if now.fusion is None else view.count(now.spaces)
        findable = sum(view.count([space]) for space in now.spaces) - both
        left_out |= _counted((NOT_NEEDED.format(most), findable - len(drawn)))
    return Items({item: known.get(item, -1) for item in ids}, left_out), frozenset(flattered)


def _draw(view: GalleryView, now: Served, most: int) -> Ids:
    """Choose items that can be found now, the same for the same ids; all if there are fewer."""
    first, *others = (view.sample([space], most, seed=0) for space in now.spaces)
    if not others:
        return first
    together = {*first, *others[0]}
    return tuple(sorted(together, key=lambda item: digest(b"0", item.encode()))[:most])


def _findable(view: GalleryView, now: Served, ids: Collection[str]) -> set[str]:
    """Return those of some items that can be found now."""
    there = (view.scan((), with_spaces=[one], ids=sorted(ids)) for one in now.spaces)
    return {item for scanned in there for batch in scanned for item in batch.ids}


def _known_labels(
    view: GalleryView, stored: Mapping[str, int | None], sample: Embeddings | None
) -> dict[str, int]:
    """Return the class of each item that has one: the sample's word, else the gallery's.

    In the gallery's numbering. Where only one of the two has class names, their numbers cannot be
    put together, and only what the gallery stores counts, if it stores anything.
    """
    known = {item: label for item, label in stored.items() if label is not None and label >= 0}
    if sample is None or (known and not comparable(sample.class_names, view.class_names())):
        return known
    labels = labels_of(view, sample, False, "the sample") if known else sample.labels
    given = zip(sample.ids, () if labels is None else labels.tolist(), strict=labels is not None)
    return known | {item: label for item, label in given if label >= 0}


def _choose_judged(
    view: GalleryView,
    routes: Routes,
    now: Served,
    sample: Embeddings,
    searched: Items,
) -> Items:
    """Return the items of a sample that an upgrade can be judged by; there may be none.

    Left out are those that a transformation was fitted on: of them it knows more than of the rest
    of the gallery. Where a fused pair answers now, so are those that lack one of its two vectors:
    they cannot ask. Where enough items have labels, in the sample or else in the gallery, and one
    of them can find another of its class among items of others, those without are left out; else
    all are judged without labels.
    """
    check_sample_space(sample, routes.new)
    fitted = fitted_items(routes)
    fresh = sorted(item for item in sample.ids if item not in fitted)
    chosen = _first_by_digest(fresh)
    found = searched.among(frozenset(chosen))
    elsewhere = view.scan((), ids=sorted(set(chosen) - set(found.ids)))
    no_vector = sum(len(batch) for batch in elsewhere)
    named = " and ".join(space.name for space in now.spaces)
    left_out = _counted(
        (FITTED, len(sample) - len(fresh)),
        (NOT_NEEDED.format(MOST_ITEMS), len(fresh) - len(chosen)),
        (NOT_THERE, len(chosen) - len(found) - no_vector),
        (f"no vector in {named}, which answers queries now", no_vector),
    )
    found = replace(found, left_out=left_out)
    if now.fusion is not None:
        both = view.scan((), with_spaces=now.spaces, ids=found.ids)
        whole = {item for batch in both for item in batch.ids}
        found = found.among(whole, f"no vector in one of {named}, which answer queries now")
    labelled = found.labelled()
    classes = Counter(label for label in searched.class_of.values() if label >= 0)
    are_enough = 0 < len(labelled) >= min(LEAST_ITEMS, len(found)) and len(classes) > 1
    if are_enough and any(classes[label] > 1 for label in labelled.class_of.values()):
        return labelled
    return Items(dict.fromkeys(found.ids, -1), found.left_out)


def _first_by_digest(ids: Iterable[str]) -> list[str]:
    """Return the first of some ids by their digests, sorted: the same in any order of them."""
    return sorted(sorted(ids, key=lambda item: digest(item.encode()))[:MOST_ITEMS])


def _read_served(view: GalleryView, now: Served, ids: Collection[str]) -> Searchable:
    """Read what items are found by now; those that lack it are left out."""
    each = [_read(view, space, ids) for space in now.spaces]
    return each[0] if now.fusion is None else FusedEmbeddings(now.fusion, *each)


def _read(
    view: GalleryView, space: Space, ids: Collection[str], *, origin: str | None = None
) -> Embeddings:
    """Read the vectors that items have in a space, if it is there, with their origins.

    Those that lack one are left out, and where only vectors of one origin are wanted, the others.
    Where they are most of all items, every one is read: that is faster than to look each up.
    """
    if not ids or space not in view.spaces():
        return _joined(space, ())
    every, found = 2 * len(ids) > view.count([space]), []
    for batch in view.scan([space], ids=None if every else sorted(ids)):
        origins = batch.origins[space]
        rows = [
            row
            for row, item in enumerate(batch.ids)
            if item in ids and origin in (None, origins[row])
        ]
        some, known = tuple(batch.ids[row] for row in rows), tuple(origins[row] for row in rows)
        found.append(Embeddings(some, batch.vectors[space][rows], space, origins=known))
    return _joined(space, found)


def _carry(
    view: GalleryView, routes: Routes, ids: Iterable[str]
) -> tuple[Embeddings, dict[str, float]]:
    """Carry each item by the first transformation that can; return how unsure each is, too.

    Of an item that it was fitted on, what it makes of it unseen, where it tells that.
    """
    made, uncertainties = [], dict[str, float]()
    spaces, left = view.spaces(), set(ids)
    for one in routes.transformations:
        needed = needed_spaces(one)
        able = left and set(needed) <= set(spaces)
        for batch in view.scan(needed, ids=sorted(left)) if able else ():
            carried = transform(one, batch).embeddings
            left -= set(carried.ids)
            if one.uncertainty is not None:
                numbers = one.uncertainty.of(carried.vectors).tolist()
                uncertainties |= dict(zip(carried.ids, numbers, strict=True))
            told = one.out_of_fold
            made.append(carried if told is None else with_true(carried, among(told, carried.ids)))
    return _joined(routes.new, made), uncertainties


def _joined(space: Space, given: Iterable[Embeddings]) -> Embeddings:
    ids: list[str] = []
    vectors, origins = [np.empty((0, space.dim), np.float32)], list[Origin | None]()
    for one in given:
        ids += one.ids
        vectors.append(one.vectors)
        origins += one.origins or [None] * len(one)
    return Embeddings(tuple(ids), np.concatenate(vectors), space, origins=tuple(origins))


def _counted(*reasons: tuple[str, int]) -> dict[str, int]:
    """Return why something is left out, and how many, without what nothing is left out for."""
    return {why: count for why, count in reasons if count > 0}
