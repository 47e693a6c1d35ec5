"""What must hold of a gallery after any step, whoever wrote to it and whatever was killed.

A dict says what was given of each item: `Watched.check` compares every row of a gallery with it.
`Process` is a store as one process sees it that is disturbed, or killed, at one of its calls.
"""

import itertools
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pytest

from onward import retrieval
from onward.errors import SpaceMismatchError
from onward.gallery import create_gallery, open_gallery
from onward.gallery.store import Store
from onward.spaces import Embeddings, Space
from onward.transformation import linear
from onward.upgrading import Routes

SPACES = OLD, SIDE, NEW, NEXT = (
    Space("old@1", 3),
    Space("side@1", 2),
    Space("new@2", 3),
    Space("next@3", 2),
)
MODELS = {space: f"model of {space.name}" for space in SPACES}
ITEMS = tuple("abcdefghij")


def make_transformation(seed, old, side, new):
    rng = np.random.default_rng(seed)
    width = old.dim + (0 if side is None else side.dim)
    weight = rng.standard_normal((new.dim, width)).astype(np.float32)
    return linear(old, side, new, weight, np.ones(new.dim, np.float32), made_by={})


TO_NEW = make_transformation(1, OLD, SIDE, NEW)
WAYS = {
    "new": Routes((TO_NEW,)),
    "new or without side": Routes((TO_NEW, make_transformation(2, OLD, None, NEW))),
    "next or by new": Routes(
        (make_transformation(3, OLD, SIDE, NEXT), make_transformation(4, NEW, None, NEXT))
    ),
}


class KilledError(BaseException):
    """Stands for the end of a process: nobody catches it."""


class Process:
    """A store as one process sees it; before one of its calls something happens, once."""

    def __init__(self, store, at, happens):
        self._store, self._at, self._happens = store, at, happens
        self._calls, self._is_dead = itertools.count(), False

    @property
    def url(self):
        return self._store.url

    def _before(self):
        if self._is_dead:
            raise KilledError
        if next(self._calls) == self._at:
            try:
                self._happens()
            except KilledError:
                self._is_dead = True
                raise

    def fill(self, filling):
        def derive(batch):
            self._before()
            return filling.derive(batch)

        self._before()
        return self._store.fill(replace(filling, derive=derive))

    def scan(self, *arguments, **options):
        batches = self._store.scan(*arguments, **options)
        while True:
            self._before()
            batch = next(batches, None)
            if batch is None:
                return
            yield batch


def _calling(name):
    def call(self, *arguments, **options):
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
    given: frozenset


def vectors_of(space, versions):
    """Return what the model of a space makes of items, given the version of each one."""
    name = space.name.encode()
    seeds = [[version, *item.encode(), *name] for item, version in versions.items()]
    vectors = [np.random.default_rng(seed).standard_normal(space.dim) for seed in seeds]
    return Embeddings(tuple(versions), np.array(vectors, np.float32).reshape(-1, space.dim), space)


class Control(NamedTuple):
    """What a gallery's record says: what fills each space, and what answers queries."""

    made_by: dict
    serving: Space
    previous: Space | None

    @classmethod
    def of(cls, gallery):
        now = gallery.describe()
        assert now.query_model == MODELS[now.serving]
        filled = {space: made_by.digest for space, made_by in now.transformations.items()}
        made_by = {space: filled.get(space) for space in now.spaces}
        return cls(made_by, now.serving, now.previous and now.previous.space)

    def without(self, *dropped):
        made_by = {space: made for space, made in self.made_by.items() if space not in dropped}
        return self._replace(made_by=made_by)

    def is_started(self, routes):
        return self.made_by.get(routes.new) == routes.digest

    def can_be(self, routes):
        """Say whether an upgrade was started or the gallery has what it reads."""
        return self.is_started(routes) or read_by(routes) <= set(self.made_by)


def read_by(routes):
    """Return the spaces that transformations read."""
    return {one for h in routes.transformations for one in (h.old, h.side)} - {None}


class Watched:
    """One gallery, and what was seen of it after the last step."""

    def __init__(self, url):
        self.url = url
        self.gallery = create_gallery(url, OLD, SIDE, query_model=MODELS[OLD])
        self.control = Control.of(self.gallery)
        self.held = {}  # of each item: the spaces in which it has a vector
        # of each space, the rows with a vector, each an item and its version
        self.embedded = {space: set() for space in SPACES}
        self.upgraded = {space: set() for space in SPACES}
        self.verified = {}  # of each way: whether it passed, and what was seen then
        self.paused = set()  # ways
        self.dropped = set()  # spaces, by the last step
        self.generation = 0
        self.orphans = {}  # upgraded vectors as they were: what made them may be dropped
        self.journal = []
        self.batch = None

    def reopen(self):
        """Go on as a new process does: with what is stored alone."""
        self.gallery, self.batch = open_gallery(self.url), None

    def seen(self, rows):
        """Return what makes a verification stale when it changes."""
        versions = {item: row.version for item, row in rows.items()}
        stored = [
            {space: set(of[space]) for space in SPACES} for of in (self.embedded, self.upgraded)
        ]
        return self.generation, list(self.control.made_by), versions, stored

    def to_do(self, routes):
        missing = {item: held for item, held in self.held.items() if routes.new not in held}
        return {item for item, held in missing.items() if routes.route_of(held) is not None}

    def answering(self, routes):
        """Return the space in which items are found until cutting over."""
        if self.control.serving != routes.new:
            return self.control.serving
        return self.control.previous or routes.first.old

    def lost(self, routes):
        """Return the items that can be found until cutting over, and then no more."""
        answering = self.answering(routes)
        return {
            item
            for item, held in self.held.items()
            if answering in held and routes.new not in held and routes.route_of(held) is None
        }

    def natives(self, space, *others):
        """Return the items that a model embedded in a space and that have no vector in others."""
        return {item for item, _ in self.embedded[space] if not self.held[item] & set(others)}

    def verification(self, routes, rows):
        """Return what the newest verification must be said to be; None if that is not known."""
        if routes.digest not in self.verified:
            return "none"
        passed, seen = self.verified[routes.digest]
        if passed is None:
            return None
        return "stale" if seen != self.seen(rows) else "passed" if passed else "failed"

    def check(self, rows, maybe=frozenset()):
        """Compare every row with what must be there, and take down how each vector came to be.

        Args:
            rows: of each item, what was given.
            maybe: spaces and items whose vectors a model may have made since the last check.
        """
        self.check_journal()
        assert self.gallery.ids() == tuple(sorted(rows))
        stored = {space: self.stored_in(space) for space in self.control.made_by}
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

    def stored_in(self, space):
        """Return vector and origin of each item with a vector in a space."""
        found = {}
        for batch in self.gallery.scan([space]):
            columns = batch.ids, batch.vectors[space], batch.origins[space]
            for item, vector, origin in zip(*columns, strict=True):
                assert item not in found, f"{item} is there twice"
                found[item] = vector, origin
        return found

    def check_embedded(self, space, stored, rows, maybe):
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

    def check_upgraded(self, space, stored, rows):
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

    def filled_from(self, space):
        """Return the spaces that the transformations read which fill a space."""
        made_by = self.control.made_by.get(space)
        return {read for one in WAYS.values() if one.digest == made_by for read in read_by(one)}

    def made_of_stored(self, space, item, stored):
        """Return what each of the transformations that fill a space makes of what is stored."""
        (routes,) = (one for one in WAYS.values() if one.digest == self.control.made_by[space])
        made = []
        for transformation in routes.transformations:
            needed = [one for one in (transformation.old, transformation.side) if one is not None]
            if all(item in stored.get(one, {}) for one in needed):
                read = [Embeddings((item,), stored[one][item][0][None], one) for one in needed]
                made.append(transformation.apply_reference(*read).vectors[0])
        return made

    def check_journal(self):
        """It is never rewritten, and has every number once."""
        entries = self.gallery.journal()
        assert entries[: len(self.journal)] == self.journal
        assert [entry["number"] for entry in entries] == list(range(1, len(entries) + 1))
        self.journal = entries

    def check_search(self, stored):
        """Only the space that serves answers: all rows that have a vector in it, in their order."""
        for space in SPACES:
            query = vectors_of(space, {"query": 0})
            if space != self.control.serving:
                with pytest.raises(SpaceMismatchError):
                    self.gallery.search(query, 1)
                continue
            ids = tuple(sorted(stored[space]))
            vectors = np.array([stored[space][item][0] for item in ids], np.float32)
            held = Embeddings(ids, vectors.reshape(-1, space.dim), space)
            expected = retrieval.search(query, held, len(ITEMS), exclude_self=False)
            assert self.gallery.search(query, len(ITEMS)).ids_of(0) == expected.ids_of(0)
