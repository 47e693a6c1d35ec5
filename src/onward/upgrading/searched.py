"""The gallery as a whole, in which an upgrade is judged: which items, and their vectors.

Old vectors of all items are there, and a transformation can be applied to all. So nothing but the
true new vectors is known of a part only. Where there are very many items, some are chosen. Nothing
here writes.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from onward.gallery import Batch, Gallery, Origin
from onward.spaces import Embeddings, Ids, Space
from onward.transformation import Transformation
from onward.upgrading.judged import NO_LABEL, carry, fitted_on, known_labels
from onward.upgrading.routes import Routes
from onward.upgrading.work import answering_space

MOST_SEARCHED = 100_000
"""In more items than these nothing is judged: what all of them would show, these do."""

UNSEEN = "a transformation was fitted on them, and nothing says what it gives for them unseen"


@dataclass(frozen=True, eq=False)
class SearchedItems:
    """Items of a gallery that can be found now, in which queries are asked.

    Attributes:
        gallery: the gallery.
        routes: the transformations.
        ids: of the items, sorted.
        labels: class of each in the gallery's numbering; negative where it is unknown.
        space: the space in which they are found now.
        embedded: of those that the new model has embedded already, their vectors: they stay.
        every: whether these are all items that can be found now.
        flattered: ids of those that a transformation was fitted on which does not tell what it
            gives for them unseen; of these the sample has the true vectors.
        left_out: why others are left out, and how many.
    """

    gallery: Gallery
    routes: Routes
    ids: Ids
    labels: Int64[np.ndarray, " item"]
    space: Space
    embedded: Embeddings
    every: bool
    flattered: frozenset[str]
    left_out: Mapping[str, int]

    def labelled(self) -> "SearchedItems":
        """Return those whose class is known: of others nobody can say whether they are right."""
        known = self.labels >= 0
        ids = tuple(item for item, is_known in zip(self.ids, known, strict=True) if is_known)
        left_out = dict(self.left_out) | _counted(NO_LABEL, len(self.ids) - len(ids))
        return replace(self, ids=ids, labels=self.labels[known], left_out=left_out)

    def now(self) -> Embeddings:
        """Return what the gallery answers from now."""
        wanted = frozenset(self.ids)
        batches = self.gallery.scan([self.space], ids=None if self.every else self.ids)
        return _joined(self.space, (_some(batch, self.space, wanted) for batch in batches))

    def upgraded(self) -> Embeddings:
        """Return what it would answer from after the upgrade; what cannot be carried is missing.

        Items that a transformation was fitted on are as it makes them unseen, where that is known.
        """
        made = (_unseen(by, one) for by, one in carry(self.gallery, self.routes, self.ids))
        return with_true(_joined(self.routes.new, made), self.embedded, among=self.ids)

    def with_sample(self, upgraded: Embeddings, sample: Embeddings) -> Embeddings:
        """Return the upgraded gallery into which a sample is written: what is embedded stays."""
        there = set(self.embedded.ids)
        among = [item for item in self.ids if item not in there]
        return with_true(upgraded, sample, among=among)


def choose_searched(
    gallery: Gallery,
    routes: Routes,
    sample: Embeddings | None,
    *,
    wanted: Iterable[str],
    most: int,
) -> SearchedItems:
    """Return the items of a gallery in which an upgrade is judged.

    All that can be found now; where there are more than `most`, some are chosen by a digest of
    their ids, beside the sample's and those that queries want, which are there in any case. Left
    out is what a transformation was fitted on, if it does not tell what it gives for the item
    unseen, and no true vector of it is known either.

    Args:
        gallery: the gallery.
        routes: the transformations.
        sample: true new embeddings of some of its items.
        wanted: ids of items that are relevant to a query.
        most: how many items to choose.
    """
    space = answering_space(gallery, routes)
    drawn = gallery.sample([space], most + 1, seed=0)
    every = len(drawn) <= most
    if not every:
        asked = sorted({*wanted, *(() if sample is None else sample.ids)})
        there = gallery.scan((), with_spaces=[space], ids=asked)
        first = {item for batch in there for item in batch.ids}
        drawn = (*first, *(item for item in drawn if item not in first))[: max(most, len(first))]
    embedded = _embedded(gallery, routes.new, drawn)
    fitted = _never_seen(routes) - set(embedded.ids)
    flattered = fitted.intersection(() if sample is None else sample.ids)
    unseen = fitted - flattered
    ids = tuple(sorted(item for item in drawn if item not in unseen))
    stored: dict[str, int | None] = {}
    for batch in gallery.scan((), ids=None if every else ids):
        stored |= dict(zip(batch.ids, batch.labels, strict=True))
    labels = known_labels(stored, gallery.class_names(), sample)
    left_out = _counted(UNSEEN, len(drawn) - len(ids))
    if not every:
        more = gallery.count([space]) - len(drawn)
        left_out |= _counted(f"more than {most:,} are not needed", more)
    numbers = np.array([labels.get(item, -1) for item in ids], np.int64)
    return SearchedItems(
        gallery, routes, ids, numbers, space, embedded, every, frozenset(flattered), left_out
    )


def with_true(upgraded: Embeddings, true: Embeddings, *, among: Collection[str]) -> Embeddings:
    """Return a gallery in which some items have their true vectors; also those it lacks."""
    ids = frozenset(among)
    given = true.select([item in ids for item in true.ids])
    replaced = frozenset(given.ids)
    rest = upgraded.select([item not in replaced for item in upgraded.ids])
    vectors = np.concatenate([given.vectors, rest.vectors])
    return Embeddings((*given.ids, *rest.ids), vectors, upgraded.space)


def _never_seen(routes: Routes) -> set[str]:
    """Return the items that a transformation was fitted on, save those of which it tells more."""
    fitted, told = set[str](), set[str]()
    for one in routes.transformations:
        fitted.update(fitted_on(one.made_by))
        told.update(() if one.out_of_fold is None else one.out_of_fold.ids)
    return fitted - told


def _unseen(transformation: Transformation, made: Embeddings) -> Embeddings:
    """Replace what was made of items that were learned from by what is made of them unseen."""
    told = transformation.out_of_fold
    return made if told is None else with_true(made, told, among=made.ids)


def _embedded(gallery: Gallery, new: Space, ids: Iterable[str]) -> Embeddings:
    """Return the vectors of some items that the new model has given to the gallery already."""
    if new not in gallery.spaces():
        return _joined(new, ())
    return _joined(
        new,
        (
            _some(batch, new, _of_origin(batch, new, "embedded"))
            for batch in gallery.scan([new], ids=sorted(ids))
        ),
    )


def _of_origin(batch: Batch, space: Space, origin: Origin) -> Collection[str]:
    origins = zip(batch.ids, batch.origins[space], strict=True)
    return {item for item, found in origins if found == origin}


def _some(batch: Batch, space: Space, wanted: Collection[str]) -> Embeddings:
    rows = [row for row, item in enumerate(batch.ids) if item in wanted]
    return Embeddings(tuple(batch.ids[row] for row in rows), batch.vectors[space][rows], space)


def _joined(space: Space, parts: Iterable[Embeddings]) -> Embeddings:
    ids: list[str] = []
    vectors = [np.empty((0, space.dim), np.float32)]
    for part in parts:
        ids += part.ids
        vectors.append(part.vectors)
    return Embeddings(tuple(ids), np.concatenate(vectors), space)


def _counted(why: str, count: int) -> dict[str, int]:
    return {why: count} if count > 0 else {}
