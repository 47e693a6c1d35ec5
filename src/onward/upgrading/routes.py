"""Rows of a gallery by what they hold and lack: which transformation carries which, what is left.

A gallery that is older than its side-information, or that has been upgraded before, has rows of
different kinds. An upgrade then takes several transformations into the same new space: a row is
carried by the first of them that has all it reads. Rows are chosen by what is stored, in disjoint
parts, so no row is found twice, and there is no cursor that could be wrong.
A row is to be done if it has what a transformation reads and no vector in the new space. It is
blocked if it lacks that, or if no transformation gives it a vector: NaN, infinite, or without a
direction. Which rows are of the second kind is known once a run has tried. What fits no gallery, or
another upgrade than was started, is refused here. Nothing here writes.
"""

import heapq
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any

from onward.artifacts import canonical_json, digest
from onward.errors import ConfigurationError, EmbeddingsError, UpgradeError
from onward.fusion import Fusion
from onward.gallery import (
    Batch,
    Derived,
    GalleryRows,
    GalleryView,
    JournalEntry,
    RecordedRoutes,
    RecordedTransformation,
    Share,
)
from onward.gallery.store import EVERYTHING
from onward.plain import Plain, fields_of
from onward.spaces import Embeddings, Ids, Space
from onward.transformation import Carried, Transformation

NO_OLD, NO_SIDE = "no vector in the old space", "no side-information"
EXAMPLES = 5
"""How many ids of rows that cannot be done are named."""

MOST_NAMED = 1000
"""Number of ids of rows that get no vector kept in the journal; more are counted."""
MOST_TRIED = 16384
"""Number of rows that get a vector after which those that get none are looked for no further."""

BATCH_BYTES = 96 << 20
FEWEST_ROWS, MOST_ROWS = 256, 16384


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

    def split(self, spaces: Sequence[Space]) -> Iterator["Part"]:
        """Give these rows in disjoint parts, by which of some spaces they have vectors in."""
        if not spaces:
            yield self
            return
        first, *others = spaces
        if first not in self.empty:
            yield from Part(_together(self.filled, (first,)), self.empty).split(others)
        if first not in self.filled:
            yield from Part(self.filled, _together(self.empty, (first,))).split(others)

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
                    f"a {type(given).__name__} was given, and a transformation is needed",
                    "give what `fit` has kept, fit(...).transformation, or load one "
                    "(Transformation.load)",
                )
        for at, fallback in enumerate(self.fallbacks, start=1):
            if fallback.new != self.new:
                raise UpgradeError(
                    f"the fallback {fallback.digest[:8]} leads to {fallback.new}, the first "
                    f"transformation to {self.new}",
                    "all must lead into the same new space",
                )
            if not _uncarried(Part(needed_spaces(fallback), ()), self.transformations[:at]):
                raise UpgradeError(
                    f"the fallback {fallback.digest[:8]} reads {_names(fallback)}, and every row "
                    "that has these is carried by a transformation before it",
                    "give the one that reads more first, or leave this one out",
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

    @property
    def reads(self) -> tuple[Space, ...]:
        """The spaces that they read."""
        every = (space for one in self.transformations for space in needed_spaces(one))
        return tuple(dict.fromkeys(every))

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


Made = tuple[Transformation, Batch, Carried]
"""By which transformation, of which rows, and what."""


def attempt(
    gallery: GalleryRows, routes: Routes, transformation: Transformation, batch: Batch
) -> tuple[list[Made], dict[str, str]]:
    """Carry rows by the transformation whose turn it is, and what it leaves by the fallbacks.

    Returns what is made, and of the rows that get no vector from any of them, by id, why the first
    gives none.

    Raises:
        EmbeddingsError: if a stored vector is damaged; the message names the item.
    """
    carried = transform(transformation, batch)
    made, left = [(transformation, batch, carried)], dict(carried.left)
    behind = routes.transformations[routes.transformations.index(transformation) + 1 :]
    for fallback in behind:
        needed = needed_spaces(fallback)
        if not left or not {*needed, routes.new} <= set(gallery.spaces()):
            continue
        for rows in gallery.scan(needed, without=[routes.new], ids=tuple(left)):
            carried = transform(fallback, rows)
            made.append((fallback, rows, carried))
            for item in carried.embeddings.ids:
                del left[item]
    return made, left


def pending(
    gallery: GalleryRows, routes: Routes, batch_rows: int, share: Share = EVERYTHING
) -> Iterator[tuple[Transformation, Batch]]:
    """Give the rows that are to be done, each batch with the transformation that carries it.

    A row is to be done if a transformation has all it reads and there is no vector in the new
    space. Each comes once at most; what others add meanwhile may come now or in the next call.
    Only rows that belong to the share.
    """
    for transformation, part in _parts_of(gallery, routes, to_do=True):
        for batch in gallery.scan(
            needed_spaces(transformation),
            with_spaces=part.filled,
            without=part.empty,
            batch_rows=batch_rows,
            share=share,
        ):
            yield transformation, batch


def fill_first(
    gallery: GalleryRows,
    routes: Routes,
    batch_rows: int,
    derive: Callable[[Batch], Derived | None],
    share_now: Callable[[], Share],
) -> Iterator[int]:
    """Fill what the first transformation carries in large parts; see `Gallery.fill`."""
    needed = needed_spaces(routes.first)
    if not set(needed) <= set(gallery.spaces()):
        return iter(())
    return gallery.fill(
        routes.new,
        needed,
        derive,
        batch_rows=batch_rows,
        made_by=routes.digest,
        share_now=share_now,
    )


def carried(
    gallery: GalleryRows, routes: Routes, batch_rows: int, ids: Ids | None = None
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


def count_pending(gallery: GalleryRows, routes: Routes) -> int:
    """Count the rows that `pending` would give."""
    parts = _parts_of(gallery, routes, to_do=True)
    return sum(gallery.count(part.filled, part.empty) for _, part in parts)


def pending_ids(gallery: GalleryRows, routes: Routes, work: "Work") -> Ids:
    """Return the first few ids of the rows that are to do and get a vector, sorted."""
    parts, most = _parts_of(gallery, routes, to_do=True), EXAMPLES + len(work.left)
    found = {one for _, part in parts for one in gallery.ids(part.filled, part.empty, limit=most)}
    return tuple(sorted(found - set(work.left))[:EXAMPLES])


def next_step(step: str, why: str) -> dict[str, str]:
    """Return what to do next, for machines, and why.

    Args:
        step: a method of `Upgrade`; "verify_fused" or "cut_over_fused", which is that method with
            serve="fused"; or "backfill", or "write", which is the gallery's.
        why: in a few words.
    """
    return {"step": step, "why": why}


def check_whole(what: str, value: object, least: int = 1) -> None:
    """Refuse what is not a whole number, of Python or of NumPy, of at least so much.

    Raises:
        ConfigurationError: naming it.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least:  # type: ignore[operator]
        raise ConfigurationError(f"{what} is {value!r}", f"give a whole number of {least} or more")


def check_routes(view: GalleryView, routes: Routes) -> None:
    """Refuse transformations that read a space which the gallery lacks, or one that they write.

    Raises:
        UpgradeError: saying what is missing, and whether the direction is wrong.
    """
    for transformation in routes.transformations:
        _check_fits(view, transformation)


def _check_fits(view: GalleryView, transformation: Transformation) -> None:
    spaces = view.spaces()
    old, side, new = transformation.old, transformation.side, transformation.new
    known = ", ".join(str(space) for space in spaces)
    if new in (old, side):
        raise UpgradeError(
            f"the transformation goes from {old} to {new}, which it reads itself",
            "there is nothing "
            "to upgrade, and what was given stays as it is. Give a transformation to another space",
        )
    if old not in spaces:
        filled_by, step = view.made_by(new), None
        do = "give a transformation from one of these, or fit one from the old model's embeddings"
        if filled_by is not None and transformation.digest in filled_by.digests:
            do = f"they were dropped after this very upgrade: {new} holds what it has made"
            step = "status"
        elif new in spaces:
            do = f"it seems to go the wrong way: fit one from {new.name}"
        raise UpgradeError(
            f"the transformation goes from {old} to {new}, but gallery {view.url} has no vectors "
            f"in {old}",
            do,
            needed=f"it has {known}",
            step=step,
        )
    if side is not None and side not in spaces:
        raise UpgradeError(
            f"the transformation needs side-information in {side}, but gallery {view.url} has none",
            "fit a transformation without side-information, or store the side-information first",
            needed=f"it has {known}",
            step="write",
        )
    made_by = view.made_by(old)
    if made_by is not None and new in made_by.reads:
        raise UpgradeError(
            f"the transformation goes from {old} to {new}, but the vectors in {old} of gallery "
            f"{view.url} are made from those in {new}: it goes the wrong way. To answer queries "
            f"from {new.name} again, roll back",
            step="roll_back",
        )


def is_started(view: GalleryView, routes: Routes) -> bool:
    """Say whether the gallery records that these transformations fill the new space."""
    made_by = view.made_by(routes.new)
    return made_by is not None and made_by.digest == routes.digest


def check_started(view: GalleryView, routes: Routes) -> None:
    """Refuse to go on with an upgrade that was not started, or with other transformations.

    Raises:
        UpgradeError: saying which of the two.
    """
    if view.made_by(routes.new) is None:
        raise UpgradeError(
            f"the upgrade of gallery {view.url} from {routes.first.old.name} to "
            f"{routes.new.name} was not started",
            "start it first",
            step="start",
        )
    check_same_routes(view, routes)


def check_same_routes(view: GalleryView, routes: Routes) -> None:
    """Refuse to mix vectors of other transformations in one space.

    Raises:
        UpgradeError: naming both.
    """
    made_by = view.made_by(routes.new)
    if made_by is None or made_by.digest == routes.digest:
        return
    started, given = (
        f"the transformation {first[:8]} and "
        + (f"the fallback {', '.join(one[:8] for one in others)}" if others else "no fallback")
        for first, *others in (made_by.digests, [one.digest for one in routes.transformations])
    )
    raise UpgradeError(
        f"the upgrade of gallery {view.url} to {routes.new.name} was started with {started}, and "
        f"now there is {given}",
        "vectors of two transformations may not be mixed. Go on with what it was started with, the "
        "fallbacks in the same order, or abort the upgrade, with that, and start again",
        step="abort",
    )


def describe_chains(view: GalleryView, routes: Routes) -> tuple[str, ...]:
    """Return a sentence for each transformation that starts from upgraded vectors: a chain.

    A transformation that is fitted from the first vectors and the side-information loses once.
    Where these were dropped, or were never given, it can only start from what an earlier upgrade
    has made, and loses again.
    """
    notes = []
    for by in routes.transformations:
        made_by = view.made_by(by.old)
        if made_by is None or not view.counts[by.old].upgraded:
            continue
        parts = [part for one, part in _parts_of(view, routes) if one is by]
        rows = sum(view.count(part.filled, part.empty) for part in parts)
        rows -= sum(view.count(part.filled, part.empty, "embedded") for part in parts)
        first = [one.old for one in made_by.transformations]
        kept = " and ".join(space.name for space in first if space in view.spaces())
        advice = "Their originals were dropped; a sample says what is left (plan with sample=...)"
        if kept:
            advice = f"A transformation fitted from {kept} directly, still stored, is better"
        if rows:
            notes.append(
                f"{rows:,} rows are a chain, {first[0].name} -> {by.old.name} -> {by.new.name}: "
                f"every link loses a little. {advice}"
            )
    return tuple(notes)


@dataclass(frozen=True)
class CountedRows(Plain):
    """Rows, by how many they are.

    Attributes:
        rows: how many, at least 1.
        examples: the first few ids.
    """

    rows: int
    examples: tuple[str, ...]

    @property
    def named(self) -> str:
        """The first few ids, and whether there are more."""
        return ", ".join(self.examples) + (", ..." if self.rows > len(self.examples) else "")

    def __str__(self) -> str:
        return f"{self.rows:,} rows ({self.named})"


@dataclass(frozen=True)
class Blocked(CountedRows):
    """Rows that have no vector in the new space and cannot get one by the transformation.

    Attributes:
        reason: what they lack, or what is wrong with what the transformation makes of them.
        answering: whether these rows can be found now, and cannot after cutting over.
    """

    reason: str
    answering: bool

    def joined(self, other: "Blocked") -> "Blocked":
        """Return these rows and others for the same reason."""
        examples = tuple(sorted((*self.examples, *other.examples))[:EXAMPLES])
        return replace(self, rows=self.rows + other.rows, examples=examples)

    def __str__(self) -> str:
        return f"{self.rows:,} rows: {self.reason} ({self.named})"


@dataclass(frozen=True)
class Work:
    """How far an upgrade is.

    Attributes:
        rows: all items; those to do, done and blocked together.
        to_do: rows that the transformation can carry over and has not yet.
        done: rows with a vector in the new space, however it came to be.
        blocked: rows that the transformation cannot carry over.
        left: ids of the first of those among them that have what it reads, and get no vector.
    """

    rows: int
    to_do: int
    done: int
    blocked: tuple[Blocked, ...]
    left: Ids = ()

    @property
    def skipped(self) -> int:
        """How many rows are blocked."""
        return sum(one.rows for one in self.blocked)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return fields_of(self, without=("left",))


def measure_work(
    view: GalleryView, routes: Routes, *, pair: Fusion | None = None, has_left: bool = False
) -> Work:
    """Count what is done, to be done and blocked.

    Vectors are read only if a run has left rows that get none, and only of rows without one.

    Args:
        view: the gallery.
        routes: the transformations.
        pair: what is to answer queries; None for the new space alone.
        has_left: whether a run that is not in the journal yet has left such rows.
    """
    spaces, now = view.spaces(), answering_spaces(view, routes)
    then = () if pair is None else (pair.old,)
    split = tuple(dict.fromkeys((*now, *then)))
    found: dict[tuple[str, bool], Blocked] = {}

    def add(blocked: Blocked) -> None:
        key = (blocked.reason, blocked.answering)
        found[key] = blocked if key not in found else found[key].joined(blocked)

    for part in routes.uncarried:
        for one in Part(part.filled, (*part.empty, routes.new)).split(split):
            there = one.among(spaces)
            rows = 0 if there is None else view.count(there.filled, there.empty)
            if there is not None and rows:
                examples = view.ids(there.filled, there.empty, limit=EXAMPLES)
                filled = set(one.filled)
                lost = not filled.isdisjoint(now) and filled.isdisjoint(then)
                add(Blocked(rows, examples, _reason(routes, one), lost))
    done = view.count([routes.new]) if routes.new in spaces else 0
    to_do, left, named = count_pending(view, routes), 0, Ids()
    tries = to_do and routes.new in spaces
    if tries and (has_left or left_by_runs(view, routes.new, routes.digest)):
        for tried, ids in _tried(view, routes, now, then):
            add(tried)
            left, named = left + tried.rows, tuple(heapq.nsmallest(MOST_NAMED, (*named, *ids)))
    return Work(view.rows, max(0, to_do - left), done, tuple(found.values()), named)


def left_by_runs(view: GalleryView, new: Space, transformation: str | None) -> Ids:
    """Return the first ids of the rows that the latest run left, because they get no vector.

    Some of them may have one since, be changed, or be gone.

    Args:
        view: the gallery.
        new: the space of the upgrade.
        transformation: digest of the transformations.
    """
    runs = journal_of(view, new, "run", transformation=transformation)
    return tuple(next((one.get("left", ()) for one in runs if "error" not in one), ()))


def journal_of(view: GalleryView, new: Space, event: str, **said: object) -> Iterator[JournalEntry]:
    """Give the entries of an event, and that say so, since a space was dropped last; newest first.

    All of them if it never was.
    """
    space = new.to_json()
    for entry in reversed(view.journal):
        was_dropped = entry["event"] in ("abort", "drop space") and entry["space"] == space
        if was_dropped or space in entry.get("dropped", ()):
            return
        if entry["event"] == event and said.items() <= entry.items():
            yield entry


def answering_spaces(view: GalleryView, routes: Routes) -> tuple[Space, ...]:
    """Return the spaces in which items are found until cutting over to the new one.

    Where that one answers already, those that rolling back returns to, and the old one of a pair.
    """
    record = view.record
    now = record.serving.spaces
    if routes.new in now and record.previous is not None:
        now = (*record.previous.spaces, *now)
    return tuple(one for one in dict.fromkeys(now) if one != routes.new) or (routes.first.old,)


def choose_batch_rows(*transformations: Transformation) -> int:
    """Return how many rows take about 96 MiB: what is read, what is written, and copies.

    Of the transformation that needs most, if there are several.
    """
    dims = max(
        sum(space.dim for space in (*needed_spaces(one), one.new)) for one in transformations
    )
    return min(MOST_ROWS, max(FEWEST_ROWS, BATCH_BYTES // (16 * dims)))


def _tried(
    view: GalleryView, routes: Routes, now: tuple[Space, ...], then: tuple[Space, ...]
) -> Iterator[tuple[Blocked, Ids]]:
    """Give, part by part, the rows that have what is read and get no vector; nothing is written.

    Only those before the first part with a damaged vector, which a run names.
    """
    size, made, known = choose_batch_rows(*routes.transformations), 0, view.spaces()
    for transformation, batch in pending(view, routes, size):
        try:
            _, left = attempt(view, routes, transformation, batch)
        except EmbeddingsError:
            return
        without = [one for one in then if one in known]
        found = {
            item
            for one in (now if left else ())
            if one in known
            for part in view.scan((), with_spaces=[one], without=without, ids=tuple(left))
            for item in part.ids
        }
        kinds = itertools.product(sorted(set(left.values())), (True, False))
        for reason, can_be_found in kinds:
            ids = tuple(
                sorted(one for one in left if (left[one], one in found) == (reason, can_be_found))
            )
            if ids:
                yield Blocked(len(ids), ids[:EXAMPLES], reason, can_be_found), ids
        made += len(batch) - len(left)
        if made > MOST_TRIED:
            return


def _reason(routes: Routes, part: Part) -> str:
    """Return what these rows lack: of each transformation, the first thing that it reads."""
    first = routes.first
    words = {first.old: NO_OLD, first.side: NO_SIDE}
    lacking = (
        next(space for space in needed_spaces(one) if space in part.empty)
        for one in routes.transformations
    )
    return ", ".join(words.get(one, f"no vector in {one.name}") for one in dict.fromkeys(lacking))


def _parts_of(
    gallery: GalleryRows, routes: Routes, *, to_do: bool = False
) -> list[tuple[Transformation, Part]]:
    """Return the parts that there can be in a gallery, given the spaces that it has.

    Only of the rows without a vector in the new space, if these are wanted.
    """
    spaces, lacking = gallery.spaces(), (routes.new,) if to_do else ()
    found = [
        (one, Part(part.filled, _together(lacking, part.empty)).among(spaces))
        for one, part in routes.parts
    ]
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
