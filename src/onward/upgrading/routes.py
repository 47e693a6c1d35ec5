"""Which transformation carries which row, where one alone cannot carry all of them.

A gallery that is older than its side-information, or that has been upgraded before, has rows of
different kinds. An upgrade then takes several transformations into the same new space: a row is
carried by the first of them that has all it reads. Rows are chosen by what is stored, in disjoint
parts, so no row is found twice. Nothing here writes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from onward.artifacts import canonical_json, digest
from onward.errors import UpgradeError
from onward.gallery import (
    Batch,
    Derived,
    Gallery,
    Origin,
    RecordedRoutes,
    RecordedTransformation,
    Share,
)
from onward.gallery.store import EVERYTHING
from onward.spaces import Embeddings, Ids, Space
from onward.transformation import Carried, Transformation


@dataclass(frozen=True)
class Part:
    """Rows by what they hold.

    Attributes:
        filled: spaces in which they have a vector.
        empty: spaces in which they have none.
    """

    filled: tuple[Space, ...]
    empty: tuple[Space, ...]

    def lacking(self, spaces: tuple[Space, ...]) -> Iterator["Part"]:
        """Give the disjoint parts of these rows that together lack one of the spaces or more."""
        for at, space in enumerate(spaces):
            filled = _together(self.filled, spaces[:at])
            part = Part(filled, _together(self.empty, (space,)))
            if not set(part.filled) & set(part.empty):
                yield part

    def split(self, space: Space) -> Iterator["Part"]:
        """Give those of these rows that have a vector in a space, and those that have none."""
        if space not in self.empty:
            yield Part(_together(self.filled, (space,)), self.empty)
        if space not in self.filled:
            yield Part(self.filled, _together(self.empty, (space,)))

    def among(self, spaces: Collection[Space]) -> "Part | None":
        """Return the same rows of a gallery that has these spaces only; None if there are none.

        In a space that the gallery lacks, every row is empty.
        """
        if any(space not in spaces for space in self.filled):
            return None
        return Part(self.filled, tuple(space for space in self.empty if space in spaces))


@dataclass(frozen=True, eq=False)
class Routes:
    """Transformations into one new space; a row is carried by the first that has all it reads.

    Attributes:
        transformations: the first one, then its fallbacks, in the order in which they are tried.

    Raises:
        UpgradeError: if one is not a transformation, they lead into different spaces, or it can
            never be the turn of one.
    """

    transformations: tuple[Transformation, ...]

    def __post_init__(self) -> None:
        for given in self.transformations:
            if not isinstance(given, Transformation):
                raise UpgradeError(
                    f"a {type(given).__name__} was given, and a transformation is needed; give "
                    "what `fit` has kept, fit(...).transformation, or load one "
                    "(Transformation.load)"
                )
        for at, fallback in enumerate(self.fallbacks, start=1):
            if fallback.new != self.new:
                raise UpgradeError(
                    f"the fallback {fallback.digest[:8]} leads to {fallback.new}, the first "
                    f"transformation to {self.new}; all must lead into the same new space"
                )
            if not _uncarried(Part(needed_spaces(fallback), ()), self.transformations[:at]):
                raise UpgradeError(
                    f"the fallback {fallback.digest[:8]} reads {_names(fallback)}, and every row "
                    "that has these is carried by a transformation before it; give the one that "
                    "reads more first, or leave this one out"
                )

    @property
    def first(self) -> Transformation:
        """The transformation that carries every row that it can."""
        return self.transformations[0]

    @property
    def fallbacks(self) -> tuple[Transformation, ...]:
        """The others, each for the rows that none before it can carry."""
        return self.transformations[1:]

    @property
    def new(self) -> Space:
        """The space of the vectors to be written."""
        return self.first.new

    @cached_property
    def digest(self) -> str:
        """Digest of all transformations in their order; of one alone, that one's digest."""
        if not self.fallbacks:
            return self.first.digest
        return digest(canonical_json([one.digest for one in self.transformations]))

    @cached_property
    def parts(self) -> tuple[tuple[Transformation, Part], ...]:
        """The rows that each transformation carries, in disjoint parts."""
        found: list[tuple[Transformation, Part]] = []
        before: list[Transformation] = []
        for transformation in self.transformations:
            parts = _uncarried(Part(needed_spaces(transformation), ()), before)
            found += [(transformation, part) for part in parts]
            before.append(transformation)
        return tuple(found)

    @cached_property
    def uncarried(self) -> tuple[Part, ...]:
        """The rows that no transformation can carry, in disjoint parts."""
        return _uncarried(Part((), ()), self.transformations)

    def route_of(self, held: Collection[Space]) -> Transformation | None:
        """Return what carries a row that has vectors in these spaces; None if nothing can."""
        able = (one for one in self.transformations if set(needed_spaces(one)) <= set(held))
        return next(able, None)

    @property
    def recorded(self) -> RecordedRoutes:
        """What a gallery records of what fills the new space."""
        described = (
            RecordedTransformation(one.digest, one.old, one.side) for one in self.transformations
        )
        return RecordedRoutes(self.digest, self.new, tuple(described))


def needed_spaces(transformation: Transformation) -> tuple[Space, ...]:
    """Return the spaces that the transformation reads: old, and side where it uses one."""
    side = transformation.side
    return (transformation.old,) if side is None else (transformation.old, side)


def transform(transformation: Transformation, batch: Batch) -> Carried:
    """Return the new vectors of those rows of a batch that get one, and why the others get none.

    Raises:
        EmbeddingsError: if a stored vector is damaged; the message names the item.
    """
    old, side = transformation.old, transformation.side
    aside = None if side is None else Embeddings(batch.ids, batch.vectors[side], side)
    return transformation.carry(Embeddings(batch.ids, batch.vectors[old], old), aside)


@dataclass(frozen=True, eq=False)
class Attempt:
    """What all transformations together make of some rows.

    Attributes:
        made: by which transformation, of which rows, and what.
        left: of the rows that none of them gives a vector, by id: why the first gives none.
    """

    made: tuple[tuple[Transformation, Batch, Carried], ...]
    left: Mapping[str, str]


def attempt(
    gallery: Gallery, routes: Routes, transformation: Transformation, batch: Batch
) -> Attempt:
    """Carry rows by the transformation whose turn it is, and what it leaves by the fallbacks.

    Raises:
        EmbeddingsError: if a stored vector is damaged; the message names the item.
    """
    carried = transform(transformation, batch)
    made, left = [(transformation, batch, carried)], dict(carried.left)
    behind = routes.transformations[routes.transformations.index(transformation) + 1 :]
    for fallback in behind if left else ():
        needed = needed_spaces(fallback)
        there = gallery.spaces()
        if not left or not {*needed, routes.new} <= set(there):
            continue
        for rows in gallery.scan(needed, without=[routes.new], ids=tuple(left)):
            carried = transform(fallback, rows)
            made.append((fallback, rows, carried))
            for item in carried.embeddings.ids:
                del left[item]
    return Attempt(tuple(made), left)


def pending(
    gallery: Gallery, routes: Routes, batch_rows: int, share: Share = EVERYTHING
) -> Iterator[tuple[Transformation, Batch]]:
    """Give the rows that are to be done, each batch with the transformation that carries it.

    A row is to be done if a transformation has all it reads and there is no vector in the new
    space. Each comes once at most; what others add meanwhile may come now or in the next call.
    Only rows that belong to the share.
    """
    for transformation, part in _parts_of(gallery, routes):
        for batch in gallery.scan(
            needed_spaces(transformation),
            with_spaces=part.filled,
            without=[routes.new, *part.empty],
            batch_rows=batch_rows,
            share=share,
        ):
            yield transformation, batch


def fill_first(
    gallery: Gallery,
    routes: Routes,
    batch_rows: int,
    derive: Callable[[Batch], Derived | None],
) -> Iterator[int]:
    """Fill what the first transformation carries in large parts; see `Gallery.fill`."""
    needed = needed_spaces(routes.first)
    if not set(needed) <= set(gallery.spaces()):
        return iter(())
    return gallery.fill(routes.new, needed, derive, batch_rows=batch_rows, made_by=routes.digest)


def carried(
    gallery: Gallery, routes: Routes, batch_rows: int, ids: Ids | None = None
) -> Iterator[tuple[Transformation, Batch]]:
    """Give the rows with a vector in the new space, with the transformation that would carry them.

    Of all such rows, or of those with these ids. The batches hold the new vectors too.
    """
    for transformation, part in _parts_of(gallery, routes):
        for batch in gallery.scan(
            [*needed_spaces(transformation), routes.new],
            with_spaces=part.filled,
            without=part.empty,
            batch_rows=batch_rows,
            ids=ids,
        ):
            yield transformation, batch


def count_pending(gallery: Gallery, routes: Routes) -> int:
    """Count the rows that `pending` would give."""
    missing = [routes.new] if routes.new in gallery.spaces() else []
    parts = _parts_of(gallery, routes)
    return sum(gallery.count(part.filled, [*missing, *part.empty]) for _, part in parts)


def count_carried(
    gallery: Gallery, routes: Routes, by: Transformation, origin: Origin | None = None
) -> int:
    """Count the rows that one of the transformations carries, done or not.

    If an origin is given, only those of which all that it reads is of that origin.
    """
    parts = [part for one, part in _parts_of(gallery, routes) if one is by]
    return sum(gallery.count(part.filled, part.empty, origin) for part in parts)


def pending_ids(gallery: Gallery, routes: Routes, limit: int) -> Ids:
    """Return the first few ids of the rows that `pending` would give, sorted."""
    missing = [routes.new] if routes.new in gallery.spaces() else []
    found: list[str] = []
    for _, part in _parts_of(gallery, routes):
        found += gallery.ids(part.filled, [*missing, *part.empty], limit=limit)
    return tuple(sorted(found)[:limit])


def _parts_of(gallery: Gallery, routes: Routes) -> list[tuple[Transformation, Part]]:
    """Return the parts that there can be in a gallery, given the spaces that it has."""
    spaces = gallery.spaces()
    found = [(transformation, part.among(spaces)) for transformation, part in routes.parts]
    return [(transformation, part) for transformation, part in found if part is not None]


def _uncarried(part: Part, by: Iterable[Transformation]) -> tuple[Part, ...]:
    """Return the disjoint parts of some rows that none of the transformations can carry."""
    parts = [part]
    for transformation in by:
        needed = needed_spaces(transformation)
        parts = [lacking for one in parts for lacking in one.lacking(needed)]
    return tuple(parts)


def _together(first: tuple[Space, ...], second: tuple[Space, ...]) -> tuple[Space, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _names(transformation: Transformation) -> str:
    return " and ".join(space.name for space in needed_spaces(transformation))
