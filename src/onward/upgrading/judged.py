"""Which items of a sample a transformation can be judged by, and their vectors.

True new embeddings of some items are given; what the gallery stores of the same items is read, and
what the transformations make of it is computed. Items that a transformation was fitted on are left
out: of them it knows more than of the rest of the gallery. Nothing here writes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from onward.agreement import agreement, count_neighbours
from onward.artifacts import digest
from onward.backfill_curve import items_at
from onward.gallery import Gallery
from onward.labels import ClassNames, Labels, comparable, renumber, translate
from onward.rankings import Ranking
from onward.retrieval import search
from onward.spaces import Embeddings, Ids, Space
from onward.transformation import Transformation
from onward.upgrading.routes import Routes, needed_spaces, transform
from onward.upgrading.sample import check_sample_space
from onward.upgrading.work import answering_space

LEAST_ITEMS = 20
"""By fewer nothing can be judged."""

MOST_ITEMS = 2000
"""Every item is compared with every other; more than these change the numbers little."""

PerQuery = Float64[np.ndarray, " query"]

FITTED = "a transformation was fitted on them"
NOT_THERE = "not in the gallery"
NO_LABEL = "no label, where others have one"


@dataclass(frozen=True, eq=False)
class JudgedItems:
    """Items of a gallery with true new embeddings, by which an upgrade is judged.

    All of them are queries, and all are to be found, also those that no transformation carries.

    Attributes:
        nothing: what the gallery answers from now, of all of them.
        new: their true new embeddings, in the same order.
        upgraded: what the transformations make of them, of those that one of them can carry.
        labels: class of each, if they are judged by label.
        uncertainties: of those that are upgraded by a transformation that knows its own.
        left_out: of the sample's other items: why they are left out, and how many.
        remade: how many vectors in `nothing` an earlier upgrade made.
    """

    nothing: Embeddings
    new: Embeddings
    upgraded: Embeddings
    labels: Labels | None
    uncertainties: Mapping[str, float]
    left_out: Mapping[str, int]
    remade: int

    def __len__(self) -> int:
        return len(self.new)

    @property
    def ids(self) -> Ids:
        """Their ids, sorted."""
        return self.new.ids

    @property
    def lost(self) -> int:
        """How many no transformation can carry: an upgrade alone does not let them be found."""
        return len(self.new) - len(self.upgraded)

    @property
    def are_enough(self) -> bool:
        """Whether an upgrade can be judged by them."""
        return len(self) >= LEAST_ITEMS and len(self.upgraded) > 0

    def backfilled(self, order: Ids, share: float) -> Embeddings:
        """Return the upgraded gallery of which a share is embedded by the new model, in an order.

        What is neither upgraded nor embedded is missing: it is not found.
        """
        embedded = set(order[: items_at(share, len(order))])
        rest = self.upgraded.select([item not in embedded for item in self.upgraded.ids])
        made = self.new.select([item in embedded for item in self.ids])
        vectors = np.concatenate([made.vectors, rest.vectors])
        return Embeddings((*made.ids, *rest.ids), vectors, self.new.space)

    def agreement_of(self, queries: Embeddings, gallery: Embeddings) -> PerQuery:
        """Return which share of the neighbours that full backfill gives a gallery gives too."""
        count = count_neighbours(len(self))
        found = search(queries, gallery, count, exclude_self=True)
        return agreement(found, self._neighbours)

    @cached_property
    def _neighbours(self) -> Ranking:
        return search(self.new, self.new, count_neighbours(len(self)), exclude_self=True)


def choose_judged(
    gallery: Gallery,
    routes: Routes,
    sample: Embeddings,
    *,
    most_items: int,
    classes: Mapping[int, int] | None = None,
) -> JudgedItems:
    """Return the items of a sample that an upgrade can be judged by; there may be none.

    Where enough items have labels, in the sample or else in the gallery, and one of them can find
    another of its class among items of others, those without are left out; else all are judged
    without labels.

    Args:
        gallery: the gallery.
        routes: the transformations.
        sample: true new embeddings of some of its items.
        most_items: no more than these, chosen by a digest of their ids.
        classes: how many items of each class are searched; those of the sample alone if None.

    Raises:
        SpaceMismatchError: if the sample is in another space than the upgrade leads to.
    """
    check_sample_space(sample, routes.new)
    fitted = {item for one in routes.transformations for item in fitted_on(one.made_by)}
    fresh = sorted(item for item in sample.ids if item not in fitted)
    left_out = {FITTED: len(sample) - len(fresh)}
    if len(fresh) > most_items:
        left_out[f"more than {most_items:,} are not needed"] = len(fresh) - most_items
        fresh = first_by_digest(fresh, most_items)
    there = {item for batch in gallery.scan((), ids=fresh) for item in batch.ids}
    left_out[NOT_THERE] = len(fresh) - len(there)
    space = answering_space(gallery, routes)
    now, stored, remade = _read_now(gallery, space, sorted(there))
    left_out[f"no vector in {space.name}, which answers queries now"] = len(there) - len(now)
    known = known_labels(stored, gallery.class_names(), sample)
    labelled = [item for item in now.ids if item in known]
    kept, by_label = list(now.ids), _can_judge([known[item] for item in labelled], now, classes)
    if by_label:
        left_out[NO_LABEL] = len(kept) - len(labelled)
        kept = labelled
    upgraded, uncertainties = _upgrade(gallery, routes, kept)
    return JudgedItems(
        nothing=now.align(kept),
        new=Embeddings(sample.ids, sample.vectors, sample.space).align(kept),
        upgraded=upgraded,
        labels=np.array([known[item] for item in kept], np.int64) if by_label else None,
        uncertainties=uncertainties,
        left_out={why: count for why, count in left_out.items() if count},
        remade=sum(item in remade for item in kept),
    )


def first_by_digest(ids: Iterable[str], count: int) -> list[str]:
    """Return so many of some ids, sorted: the same of the same ids, in any order."""
    return sorted(sorted(ids, key=lambda item: digest(item.encode()))[:count])


def known_labels(
    stored: Mapping[str, int | None], names: ClassNames | None, sample: Embeddings | None
) -> dict[str, int]:
    """Return the class of each item that has one: the sample's word, else the gallery's.

    In the gallery's numbering. Where only one of the two has class names, their numbers cannot be
    put together, and only what the gallery stores counts, if it stores anything.

    Args:
        stored: what the gallery stores of some items.
        names: the names of the gallery's classes.
        sample: may have labels.
    """
    known = {item: label for item, label in stored.items() if label is not None and label >= 0}
    if sample is None or sample.labels is None:
        return known
    labels = sample.labels
    if known:
        if not comparable(sample.class_names, names):
            return known
        sources = ("the sample", "the gallery")
        labels = renumber(
            labels, translate(sample.class_names, names, same_labels=False, sources=sources)
        )
    given = zip(sample.ids, labels.tolist(), strict=True)
    return known | {item: label for item, label in given if label >= 0}


def fitted_on(made_by: Mapping[str, Any]) -> Iterator[str]:
    """Give the ids of the items that a transformation records it was fitted on."""
    for what in ("sample", "pairs"):
        yield from made_by.get(what, {}).get("ids", ())
    for part in made_by.get("parts", ()):
        yield from fitted_on(part.get("made_by", {}))


def count_unlisted(made_by: Mapping[str, Any]) -> int:
    """Count the training pairs whose ids are not kept, where no gallery sample was learned from.

    Such pairs are training images as a rule, which are in no gallery; but nothing says so.
    """
    pairs = made_by.get("pairs", {})
    unlisted = 0 if "ids" in pairs or "sample" in made_by else int(pairs.get("items", 0))
    return unlisted + sum(
        count_unlisted(one.get("made_by", {})) for one in made_by.get("parts", ())
    )


def _read_now(
    gallery: Gallery, space: Space, ids: list[str]
) -> tuple[Embeddings, dict[str, int | None], set[str]]:
    """Return what answers queries now, the labels, and the ids whose vector was upgraded."""
    found: list[str] = []
    vectors = [np.empty((0, space.dim), np.float32)]
    labels: dict[str, int | None] = {}
    remade: set[str] = set()
    for batch in gallery.scan([space], ids=ids):
        found += batch.ids
        vectors.append(batch.vectors[space])
        labels |= dict(zip(batch.ids, batch.labels, strict=True))
        origins = zip(batch.ids, batch.origins[space], strict=True)
        remade |= {item for item, origin in origins if origin == "upgraded"}
    now = Embeddings(tuple(found), np.concatenate(vectors), space)
    return now.align(sorted(found)), labels, remade


def _can_judge(labels: list[int], of: Embeddings, classes: Mapping[int, int] | None) -> bool:
    counts = Counter(labels) if classes is None else classes
    is_enough = 0 < len(labels) >= min(LEAST_ITEMS, len(of))
    return is_enough and len(counts) > 1 and any(counts.get(label, 0) > 1 for label in labels)


def carry(
    gallery: Gallery, routes: Routes, ids: Iterable[str]
) -> Iterator[tuple[Transformation, Embeddings]]:
    """Give what carries each item makes of it, in parts, with the transformation that did."""
    spaces, left = gallery.spaces(), set(ids)
    for transformation in routes.transformations:
        needed = needed_spaces(transformation)
        if not left or not set(needed) <= set(spaces):
            continue
        done: set[str] = set()
        for batch in gallery.scan(needed, ids=sorted(left)):
            made = transform(transformation, batch).embeddings
            done.update(made.ids)
            yield transformation, made
        left -= done


def _upgrade(
    gallery: Gallery, routes: Routes, ids: list[str]
) -> tuple[Embeddings, Mapping[str, float]]:
    """Return what carries each item makes of it, and how unsure it is where it knows."""
    vectors, found = [np.empty((0, routes.new.dim), np.float32)], Ids()
    unsure: dict[str, float] = {}
    for transformation, made in carry(gallery, routes, ids):
        vectors.append(made.vectors)
        found += made.ids
        if transformation.uncertainty is not None:
            numbers = transformation.uncertainty.of(made.vectors).tolist()
            unsure |= dict(zip(made.ids, numbers, strict=True))
    upgraded = Embeddings(found, np.concatenate(vectors), routes.new)
    return upgraded.align(sorted(found)), unsure
