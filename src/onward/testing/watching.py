"""What must hold of a gallery after any step, apart from the machine that chooses the steps.

A dict says what was given of each item: `Watched.check` compares every row of a gallery with it.
`Process` is a store as one process sees it that is disturbed, or killed, at one of its calls.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from onward.errors import SpaceMismatchError
from onward.evaluation import retrieval
from onward.fusion import FusedEmbeddings, Fusion, Scale, Serving
from onward.gallery import Batch, Gallery, JournalEntry, Place, create_gallery, open_gallery
from onward.gallery.record import Served
from onward.gallery.store import Filling, Scan, Store, Writing
from onward.spaces import Embeddings, Origin, Space
from onward.transformation import Transformation, linear
from onward.upgrading import Routes

SPACES = OLD, SIDE, NEW, NEXT = (
    Space("old@1", 3),
    Space("side@1", 2),
    Space("new@2", 3),
    Space("next@3", 2),
)
MODELS = {space: f"model of {space.name}" for space in SPACES}
ITEMS = tuple("abcdefghij")

Answering = Space | Fusion
"""What answers queries: one space, or a fused pair."""
Stored = Mapping[Space, Mapping[str, tuple[np.ndarray, Origin]]]
Versions = set[tuple[str, int]]


def _linear(seed: int, old: Space, side: Space | None, new: Space) -> Transformation:
    width = old.dim + (0 if side is None else side.dim)
    weight = np.random.default_rng(seed).standard_normal((new.dim, width)).astype(np.float32)
    return linear(old, side, new, weight, np.ones(new.dim, np.float32), made_by={})


def _pair(old: Space, new: Space) -> Fusion:
    return Fusion(old, new, 0.4, Scale(8.0, 3.0), Scale(5.0, 2.0))


def _first(seed: int, new: Space) -> Transformation:
    serving = Serving("fused", _pair(OLD, new))
    return replace(_linear(seed, OLD, SIDE, new), serving=serving)


TO_NEW = _first(1, NEW)
WAYS = {
    "new": Routes((TO_NEW,)),
    "new or without side": Routes((TO_NEW, _linear(2, OLD, None, NEW))),
    "next or by new": Routes((_first(3, NEXT), _linear(4, NEW, None, NEXT))),
}
CHAINED = _pair(NEW, NEXT)
PAIRS = (_pair(OLD, NEW), _pair(OLD, NEXT), CHAINED)
SERVES = ("new", "fused", "fused with what was upgraded")
"""What may answer after an upgrade: its new space, the pair of its transformation, another pair."""


def pair_of(routes: Routes, serve: str) -> Fusion | None:
    """Return the pair that is to answer after an upgrade; None for its new space alone."""
    if serve == SERVES[0]:
        return None
    if serve == SERVES[2] and routes.new == NEXT:
        return CHAINED
    return _pair(OLD, routes.new)


def newest(answering: Answering | None) -> Space | None:
    """Return the space that answers, or the new one of a pair."""
    return answering.new if isinstance(answering, Fusion) else answering


def spaces_of(answering: Answering | None) -> tuple[Space, ...]:
    """Return the spaces in which items are found."""
    if isinstance(answering, Fusion):
        return answering.old, answering.new
    return () if answering is None else (answering,)


def said(served: Served) -> Answering:
    """Return what answers, or would; with it, its models are recorded."""
    old = None if served.fusion is None else MODELS[served.fusion.old]
    assert (served.query_model, served.old_query_model) == (MODELS[served.space], old)
    return served.fusion or served.space


class KilledError(BaseException):
    """Stands for the end of a process: nobody catches it."""


class Process:
    """A store as one process sees it; before one of its calls something happens, once."""

    def __init__(self, store: Store, at: int, happens: Callable[[], None]) -> None:
        self._store, self._at, self._happens = store, at, happens
        self._calls, self._is_dead = itertools.count(), False

    @property
    def url(self) -> str:
        """Where the gallery is."""
        return self._store.url

    def _before(self) -> None:
        if self._is_dead:
            raise KilledError
        if next(self._calls) == self._at:
            try:
                self._happens()
            except KilledError:
                self._is_dead = True
                raise

    def fill(self, filling: Filling) -> Iterator[int]:
        """Fill, disturbed before any batch."""

        def derive(batch: Batch) -> Writing | None:
            self._before()
            return filling.derive(batch)

        self._before()
        return self._store.fill(replace(filling, derive=derive))

    def scan(self, scan: Scan) -> Iterator[Batch]:
        """Scan, disturbed before any batch."""
        batches = self._store.scan(scan)
        while True:
            self._before()
            batch = next(batches, None)
            if batch is None:
                return
            yield batch


def _calling(name: str) -> Callable[..., Any]:
    def call(self: Process, *arguments: Any, **options: Any) -> Any:
        self._before()
        return getattr(self._store, name)(*arguments, **options)

    return call


for _name in set(vars(Store)) - set(vars(Process)):
    if not _name.startswith("_"):
        setattr(Process, _name, _calling(_name))


@dataclass(frozen=True)
class Row:
    """What was given of an item: which version of it, never the same again, and in which spaces."""

    version: int
    given: frozenset[Space]


@lru_cache(maxsize=1 << 14)
def _vector_of(space: Space, item: str, version: int) -> np.ndarray:
    seed = [version, *item.encode(), *space.name.encode()]
    return np.random.default_rng(seed).standard_normal(space.dim)


def vectors_of(space: Space, versions: Mapping[str, int]) -> Embeddings:
    """Return what the model of a space makes of items, given the version of each one."""
    vectors = [_vector_of(space, item, version) for item, version in versions.items()]
    return Embeddings(tuple(versions), np.array(vectors, np.float32).reshape(-1, space.dim), space)


QUERIES = {space: vectors_of(space, {"query": 0}) for space in SPACES}


class Stated(NamedTuple):
    """What a gallery's record says: what fills each space, and what answers queries."""

    made_by: Mapping[Space, str | None]
    serving: Answering
    previous: Answering | None

    @classmethod
    def of(cls, gallery: Gallery) -> "Stated":
        """Return what a gallery says now."""
        now = gallery.view()
        before = now.record.previous
        filled = {space: made_by.digest for space, made_by in now.record.transformations.items()}
        made_by = {space: filled.get(space) for space in now.spaces()}
        return cls(made_by, said(now.record.serving), None if before is None else said(before))

    @property
    def space(self) -> Space | None:
        """The space that answers, or the new one of the pair that does."""
        return newest(self.serving)

    def without(self, *dropped: Space) -> "Stated":
        """Return what it says without some spaces."""
        made_by = {space: made for space, made in self.made_by.items() if space not in dropped}
        return self._replace(made_by=made_by)

    def is_started(self, routes: Routes) -> bool:
        """Say whether an upgrade was started."""
        return self.made_by.get(routes.new) == routes.digest

    def can_be(self, routes: Routes) -> bool:
        """Say whether an upgrade was started or the gallery has what it reads."""
        return self.is_started(routes) or read_by(routes) <= set(self.made_by)


def read_by(routes: Routes) -> set[Space]:
    """Return the spaces that transformations read."""
    return {space for one in routes.recorded.transformations for space in one.reads}


class Watched:
    """One gallery, and what was seen of it after the last step."""

    def __init__(self, place: str | Path | Place) -> None:
        self.place = place
        self.gallery = create_gallery(place, OLD, SIDE, query_model=MODELS[OLD])
        self.stated = Stated.of(self.gallery)
        self.held: dict[str, set[Space]] = {}  # of each item: the spaces with a vector of it
        # of each space, the rows with a vector, each an item and its version
        self.embedded: dict[Space, Versions] = {space: set() for space in SPACES}
        self.upgraded: dict[Space, Versions] = {space: set() for space in SPACES}
        # of each way and what is to answer: whether it passed, and what was seen then; None where
        # that is not known
        self.verified: dict[tuple[str, Fusion | None], tuple[bool | None, Any]] = {}
        self.paused: set[str] = set()  # ways
        self.dropped: set[Space] = set()  # by the last step
        self.generation = 0
        # upgraded vectors as they were: what made them may be dropped
        self.orphans: dict[tuple[Space, str], np.ndarray] = {}
        self.journal: list[JournalEntry] = []

    def reopen(self) -> None:
        """Go on as a new process does: with what is stored alone."""
        self.gallery = open_gallery(self.place)

    def seen(self, rows: Mapping[str, Row]) -> Any:
        """Return what makes a verification stale when it changes."""
        versions = {item: row.version for item, row in rows.items()}
        stored = [
            {space: set(of[space]) for space in SPACES} for of in (self.embedded, self.upgraded)
        ]
        return self.generation, list(self.stated.made_by), versions, stored

    def to_do(self, routes: Routes) -> set[str]:
        """Return the items that an upgrade can still carry."""
        missing = {item: held for item, held in self.held.items() if routes.new not in held}
        return {item for item, held in missing.items() if routes.route_of(held) is not None}

    def lost(self, routes: Routes, pair: Fusion | None) -> set[str]:
        """Return the items that can be found until cutting over, and then no more."""
        now = set(spaces_of(self.stated.serving))
        if routes.new in now:
            now |= set(spaces_of(self.stated.previous))
        now = now - {routes.new} or {routes.first.old}
        then = {routes.new, *spaces_of(pair)}
        missing = {item: held for item, held in self.held.items() if now & held and not then & held}
        return {item for item, held in missing.items() if routes.route_of(held) is None}

    def natives(self, space: Space, *others: Space) -> set[str]:
        """Return the items that a model embedded in a space and that have no vector in others."""
        return {item for item, _ in self.embedded[space] if not self.held[item] & set(others)}

    def verification(
        self, routes: Routes, rows: Mapping[str, Row], pair: Fusion | None = None
    ) -> str | None:
        """Return what the newest verification must be said to be; None if that is not known."""
        if (routes.digest, pair) not in self.verified:
            return "none"
        passed, seen = self.verified[routes.digest, pair]
        if passed is None:
            return None
        return "stale" if seen != self.seen(rows) else "passed" if passed else "failed"

    def check(
        self, rows: Mapping[str, Row], maybe: Collection[tuple[Space, str]] = frozenset()
    ) -> None:
        """Compare every row with what must be there, and note how each vector came to be.

        Args:
            rows: of each item, what was given.
            maybe: spaces and items whose vectors a model may have made since the last check.
        """
        self.check_journal()
        assert self.gallery.ids() == tuple(sorted(rows))
        stored = {space: self.stored_in(space) for space in self.stated.made_by}
        embedded = {space: self.check_embedded(space, stored, rows, maybe) for space in SPACES}
        upgraded = {space: self.check_upgraded(space, stored, rows) for space in SPACES}
        for space in stored:
            known = self.upgraded[space] & {(item, row.version) for item, row in rows.items()}
            gone = known - upgraded[space] - embedded[space]
            for other in self.filled_from(space):  # what was made of it had to go
                gone -= embedded[other] & self.upgraded[other]
            assert not gone, f"{gone} have lost their vector in {space}"
        self.embedded, self.upgraded = embedded, upgraded
        self.held = {item: {one for one in stored if item in stored[one]} for item in rows}
        self.check_search(stored)

    def stored_in(self, space: Space) -> dict[str, tuple[np.ndarray, Origin]]:
        """Return vector and origin of each item with a vector in a space."""
        found: dict[str, tuple[np.ndarray, Origin]] = {}
        for batch in self.gallery.scan([space]):
            columns = batch.ids, batch.vectors[space], batch.origins[space]
            for item, vector, origin in zip(*columns, strict=True):
                assert item not in found, f"{item} is there twice"
                found[item] = vector, origin
        return found

    def check_embedded(
        self,
        space: Space,
        stored: Stored,
        rows: Mapping[str, Row],
        maybe: Collection[tuple[Space, str]],
    ) -> Versions:
        """Check the vectors that a model has made; return the rows that have one."""
        origins = {item: origin for item, (_, origin) in stored.get(space, {}).items()}
        found = {item: rows[item].version for item in origins if origins[item] == "embedded"}
        expected = vectors_of(space, found)
        for item, vector in zip(expected.ids, expected.vectors, strict=True):
            np.testing.assert_array_equal(stored[space][item][0], vector)
        there = {(item, row.version) for item, row in rows.items() if space in stored}
        must = self.embedded[space] & there
        must |= {at for at in there if space in rows[at[0]].given}
        can = must | {at for at in there if (space, at[0]) in maybe}
        assert must <= set(found.items()) <= can
        return set(found.items())

    def check_upgraded(self, space: Space, stored: Stored, rows: Mapping[str, Row]) -> Versions:
        """Check the vectors that a transformation has made; return the rows that have one."""
        of_space = stored.get(space, {}).items()
        found = {item: vector for item, (vector, origin) in of_space if origin == "upgraded"}
        for item, vector in found.items():
            made = self.made_of_stored(space, item, stored)
            if (space, item) in self.orphans and not self.filled_from(space) <= stored.keys():
                made.append(self.orphans[space, item])
            assert any(np.allclose(vector, one, atol=1e-5) for one in made), f"{item} is wrong"
            self.orphans[space, item] = vector
        return {(item, rows[item].version) for item in found}

    def filled_from(self, space: Space) -> set[Space]:
        """Return the spaces that the transformations read which fill a space."""
        made_by = self.stated.made_by.get(space)
        return {read for one in WAYS.values() if one.digest == made_by for read in read_by(one)}

    def made_of_stored(self, space: Space, item: str, stored: Stored) -> list[np.ndarray]:
        """Return what each of the transformations that fill a space makes of what is stored."""
        (routes,) = (one for one in WAYS.values() if one.digest == self.stated.made_by[space])
        made: list[np.ndarray] = []
        for transformation in routes.transformations:
            needed = [one for one in (transformation.old, transformation.side) if one is not None]
            if all(item in stored.get(one, {}) for one in needed):
                read = [Embeddings((item,), stored[one][item][0][None], one) for one in needed]
                made.append(transformation.apply_reference(*read).vectors[0])
        return made

    def check_journal(self) -> None:
        """It is never rewritten, and has every number once."""
        entries = self.gallery.journal()
        assert entries[: len(self.journal)] == self.journal
        assert [entry["number"] for entry in entries] == list(range(1, len(entries) + 1))
        self.journal = entries

    def check_search(self, stored: Stored) -> None:
        """Only what serves answers: all rows that it finds, in their order."""
        serving = self.stated.serving
        for space in SPACES:
            if space != serving:
                with pytest.raises(SpaceMismatchError):
                    self.gallery.search(QUERIES[space], 1)
        for pair in PAIRS:
            if pair != serving:
                with pytest.raises(SpaceMismatchError):
                    self.gallery.search(QUERIES[pair.new], 1, queries_old=QUERIES[pair.old])
        asked = [QUERIES[space] for space in spaces_of(serving)]
        held = [self.held_in(space, stored) for space in spaces_of(serving)]
        if isinstance(serving, Space):
            found = self.gallery.search(asked[0], len(ITEMS))
            expected = retrieval.search(asked[0], held[0], len(ITEMS), exclude_self=False)
        else:
            found = self.gallery.search(asked[1], len(ITEMS), queries_old=asked[0])
            both, among = (FusedEmbeddings(serving, *one) for one in (asked, held))
            expected = retrieval.search(both, among, len(ITEMS), exclude_self=False)
        assert found.ids_of(0) == expected.ids_of(0)

    def held_in(self, space: Space, stored: Stored) -> Embeddings:
        """Return the vectors that are stored in a space."""
        ids = tuple(sorted(stored[space]))
        vectors = np.array([stored[space][item][0] for item in ids], np.float32)
        return Embeddings(ids, vectors.reshape(-1, space.dim), space)
