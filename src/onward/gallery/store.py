"""What a store must do to hold a gallery: rows with one nullable vector a field, and one record.

`onward.gallery.memory` is the specification; every store passes the same suite against it. A store
checks nothing that `Gallery` has checked before it calls: spaces are known, ids are unique, arrays
fit together.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from onward.evaluation.retrieval import Ranking
from onward.fusion import FusedEmbeddings
from onward.gallery.record import Field, Record
from onward.labels import Labels
from onward.spaces import Embeddings, Ids, Origin, Space, Vectors

Revisions = Int64[np.ndarray, " item"]
"""Of each row: changes whenever the item's given content does, and is never used again."""

JournalEntry = Mapping[str, Any]
"""`number`, `time` (UTC, ISO 8601), `event`, and what belongs to the event: plain JSON values."""

BATCH_ROWS = 8192
"""How many rows are read at a time where nothing else is asked for."""
DIGITS = 8
"""Number of hexadecimal digits of an id's digest that say to which share it belongs."""


@dataclass(frozen=True)
class Share:
    """One of several equal shares of all ids, in which workers split the rows of a gallery.

    Which rows belong to whom needs no message between them: each worker knows how many they are
    and which of them it is.

    Attributes:
        number: which one, from 0 on.
        of: how many shares there are.
    """

    number: int = 0
    of: int = 1

    @property
    def is_everything(self) -> bool:
        """Whether every id belongs to it."""
        return self.of == 1

    @property
    def bounds(self) -> tuple[str, str | None]:
        """The least digest of an id that belongs to it, as far as it counts, and the least above.

        The latter is None if there is none.
        """
        low, high = (
            f"{16**DIGITS * at // self.of:0{DIGITS}x}" for at in (self.number, self.number + 1)
        )
        return low, None if self.number == self.of - 1 else high

    def holds(self, item: str) -> bool:
        """Say whether an id belongs to it."""
        found = hashlib.md5(item.encode(), usedforsecurity=False).hexdigest()
        low, high = self.bounds
        return found >= low and (high is None or found < high)


EVERYTHING = Share()
"""The share of a worker that is alone."""


def share_of(worker: str, workers: list[str]) -> Share:
    """Return the share of one of the workers that there are; it counts as one in any case."""
    every = sorted({worker, *workers})
    return Share(every.index(worker), len(every))


@dataclass(frozen=True, eq=False)
class Scan:
    """Which rows are read, and what of them.

    Attributes:
        wanted: the fields whose vectors the batches carry; all of them must be filled.
        filled: other fields that must be filled.
        empty: fields that must not.
        batch_rows: the most rows at a time.
        ids: only these rows, if given.
        share: only rows whose ids belong to it; not together with `ids`.
    """

    wanted: Sequence[Field] = ()
    filled: Sequence[Field] = ()
    empty: Sequence[Field] = ()
    batch_rows: int = BATCH_ROWS
    ids: Ids | None = None
    share: Share = EVERYTHING


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of a gallery, as they were at one moment.

    Attributes:
        ids: identity of each item.
        revisions: to be given back with what is written, so that rows changed since are left alone.
        labels: class of each item, None where it has none.
        vectors: one row an item, for each space that was asked for.
        origins: how each of these vectors came to be.
        uncertainties: what was stored with each of these vectors; NaN where nothing was.
    """

    ids: Ids
    revisions: Revisions
    labels: tuple[int | None, ...]
    vectors: Mapping[Space, Vectors]
    origins: Mapping[Space, tuple[Origin, ...]]
    uncertainties: Mapping[Space, Float32[np.ndarray, " item"]]

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> "Batch":
        """Return the rows from `start` to before `stop`."""
        rows = slice(start, stop)
        return Batch(
            self.ids[rows],
            self.revisions[rows],
            self.labels[rows],
            {space: vectors[rows] for space, vectors in self.vectors.items()},
            {space: origins[rows] for space, origins in self.origins.items()},
            {space: unsure[rows] for space, unsure in self.uncertainties.items()},
        )


@dataclass(frozen=True, eq=False)
class Rows:
    """Items as they are given: to be inserted, or to replace what was given before.

    Attributes:
        ids: unique.
        labels: class of each item, negative where it has none; None leaves the labels as they are.
        payloads: JSON text of each item; None leaves the payloads as they are.
        vectors: for some fields, one vector an item. The other fields become empty.
    """

    ids: Ids
    labels: Labels | None
    payloads: tuple[str, ...] | None
    vectors: Mapping[Field, Vectors]


@dataclass(frozen=True, eq=False)
class Writing:
    """Vectors that are to be written into rows that are there.

    Attributes:
        to: the field.
        embeddings: the vectors, with the ids of the rows.
        revisions: of these rows when that was read from which the vectors were made.
        origin: how the vectors came to be.
        uncertainty: of each vector, where it is known.
        derived: fields that may have been made from this one. Where an embedded vector replaces
            another, upgraded vectors in these are cleared.
    """

    to: Field
    embeddings: Embeddings
    revisions: Revisions
    origin: Origin
    uncertainty: Float32[np.ndarray, " item"] | None
    derived: tuple[Field, ...] = ()


@dataclass(frozen=True, eq=False)
class Filling:
    """What fills a field, and from what.

    Attributes:
        to: the field; only rows in which it is empty are filled.
        wanted: the fields whose vectors the batches carry.
        batch_rows: the most rows at a time.
        derive: gives the new vectors of a batch in its order, maybe not of all rows, whose field
            then stays empty; None to end.
        share_now: gives the share of the parts that are to be filled here, as it is now.
    """

    to: Field
    wanted: Sequence[Field]
    batch_rows: int
    derive: Callable[[Batch], Writing | None]
    share_now: Callable[[], Share] = lambda: EVERYTHING


@runtime_checkable
class Store(Protocol):
    """Rows and a record; see the module.

    Everything is atomic, and safe when several processes or threads call it at the same time. What
    fails raises a GalleryError that names the gallery and what it lacks or has already: the ids,
    the space or the column.
    """

    @property
    def url(self) -> str:
        """Where the gallery is, as `open_gallery` takes it."""
        ...

    def read_record(self) -> Record:
        """Return the record as it is now."""
        ...

    def change_record(self, record: Record, entry: JournalEntry) -> bool:
        """Replace the record and append to the journal, in one step.

        Returns:
            False, and nothing is written, if the record's revision is no longer the one before.
        """
        ...

    def journal(self) -> list[JournalEntry]:
        """Return what `change_record` appended, in order."""
        ...

    def add_column(self, added: Field) -> bool:
        """Make room for a field, empty in every row; false if that column is there already."""
        ...

    def drop_column(self, column: str) -> None:
        """Forget the vectors of a field, by its column; nothing happens if they are gone."""
        ...

    def insert(self, rows: Rows) -> Ids:
        """Insert rows, their vectors of origin "embedded", or none if an id is there already.

        Returns:
            The ids that are there already; then nothing is written.
        """
        ...

    def update(self, rows: Rows) -> Ids:
        """Replace what was given of some rows, empty the other fields, give new revisions.

        Returns:
            The ids that are not there; then nothing is written.
        """
        ...

    def delete(self, ids: Ids) -> int:
        """Delete rows; ids that are not there are passed over. Return how many were deleted."""
        ...

    def write(self, writing: Writing) -> int:
        """Write vectors of one field where the row is there and has still this revision.

        A vector of origin "embedded" is never replaced. Return how many rows were written.
        """
        ...

    def fill(self, filling: Filling) -> Iterator[int]:
        """Fill a field in large parts of the rows at once, where the store has a way to.

        The rows that are left out are to be written with `write`. Each part is filled in one step,
        from what is stored, where nobody else has filled or changed it. If `derive` ends or fails,
        the part under way is left as it was. Memory is bounded by the batch.

        Yields:
            After each part, how many rows were written; 0 if others were quicker, or work on all
            that is left.
        """
        ...

    def count(
        self, filled: Sequence[Field], empty: Sequence[Field], origin: Origin | None = None
    ) -> int:
        """Count rows with vectors in some fields, all of that origin if given, none in others."""
        ...

    def scan(self, scan: Scan) -> Iterator[Batch]:
        """Give rows that have what is wanted, in the store's own order.

        Memory is bounded by the batch. Every row comes once at most; rows that others write
        meanwhile may come or not.
        """
        ...

    def working_on(self, field: Field) -> AbstractContextManager[Callable[[], Share]]:
        """Be one of the workers that fill a field, while the block runs.

        What is given tells this worker's share of the rows as it is now: it changes when workers
        come and go. One that was killed is soon no longer a worker. Where the store cannot tell,
        every worker's share is everything.
        """
        ...

    def payloads(self, ids: Ids) -> Mapping[str, str]:
        """Return the JSON text of those of the rows that are there and have a payload."""
        ...

    def search(
        self, of: Field, queries: Embeddings, k: int, *, exclude_self: bool, approximate: bool
    ) -> Ranking:
        """Return the k nearest rows of every query among those with a vector in the field."""
        ...

    def build_index(self, of: Field) -> None:
        """Build what makes approximate search fast, where the store has such a thing."""
        ...

    def compact(self, keep: timedelta) -> None:
        """Put together what writing has scattered, and index what was rewritten.

        Args:
            keep: what was replaced or deleted longer ago is deleted from the disk; who still reads
                what stood there then fails.
        """
        ...

    def version(self) -> str:
        """Return what differs after any write to rows or columns, whoever made it.

        So it tells what revisions do not: that another program has written past Onward. Neither
        the record, the journal and indexes change it, nor does `compact`, for rows stay as they
        are. Where something was put together by others, it may differ needlessly.
        """
        ...

    def revision_sum(self) -> int:
        """Return the sum of all rows' revisions, modulo 2^64."""
        ...

    def scratch(self, record: Record, entry: JournalEntry) -> AbstractContextManager["Store"]:
        """Give an empty store of the same kind, with this record, to measure on; gone afterwards.

        It takes room where temporary things go, not where the gallery is.
        """
        ...

    def rewritten_bytes(self) -> int:
        """Return about how many bytes of a row are written again with any one of its vectors."""
        ...


@dataclass(frozen=True, eq=False)
class Near:
    """Items near some queries in either space of a fused pair.

    Attributes:
        items: with the vectors that they have in the two spaces.
        rows: of each query, the rows in `items` of those near it, each once.
    """

    items: FusedEmbeddings
    rows: Sequence[Int64[np.ndarray, " _"]]


@runtime_checkable
class PairStore(Store, Protocol):
    """A store that gives the vectors of both spaces of a pair with what its indexes find in one.

    A store need not be one. Approximate search in a fused pair then reads these vectors by ids.
    """

    def near(self, pair: tuple[Field, Field], queries: FusedEmbeddings, count: int) -> Near | None:
        """Return at least `count` items near each query in each of the fields, by their indexes.

        A query's own entry counts as others do.

        Returns:
            None if a field has no index, or fewer are found for a query: then `search` is asked.
        """
        ...
