"""The gallery in memory, a module of its own as the specification that all stores are tested by.

It lives as long as the process, under a name. One lock makes every call atomic; what is right is
meant to be plain to see, nothing here is meant to be fast.
"""

import math
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
from jaxtyping import Shaped

from onward.errors import GalleryError
from onward.evaluation import retrieval
from onward.evaluation.retrieval import Ranking
from onward.fusion import FusedEmbeddings
from onward.gallery.record import Field, Record
from onward.gallery.store import (
    Batch,
    Filling,
    JournalEntry,
    Near,
    Rows,
    Scan,
    Share,
    Writing,
    share_of,
)
from onward.spaces import Embeddings, Ids, Origin

SCHEME = "memory:"


@dataclass(frozen=True, eq=False)
class _Stored:
    vector: Shaped[np.ndarray, " dim"]  # in the format of its space
    origin: Origin
    uncertainty: float = math.nan


@dataclass(frozen=True, eq=False)
class _Row:
    revision: int
    label: int | None = None
    payload: str | None = None
    stored: Mapping[str, _Stored] = field(default_factory=dict)


class MemoryStore:
    """A store in memory; see `onward.gallery.store.Store`."""

    def __init__(self, name: str, record: Record, entry: JournalEntry) -> None:
        self._name = name
        self._record = record
        self._journal = [entry]
        self._rows: dict[str, _Row] = {}
        self._columns = {one.column for one in record.fields}
        self._newest_revision = 0
        self._writes = 0
        self._workers: dict[str, str] = {}
        self._lock = threading.RLock()

    @property
    def url(self) -> str:
        """`memory:` and the name."""
        return SCHEME + self._name

    def read_record(self) -> Record:
        """Return the record as it is now."""
        return self._record

    def change_record(self, record: Record, entry: JournalEntry) -> bool:
        """Replace the record and append to the journal if nobody else has replaced it."""
        with self._lock:
            if self._record.revision != record.revision - 1:
                return False
            self._record = record
            self._journal.append(entry)
            return True

    def journal(self) -> list[JournalEntry]:
        """Return the journal."""
        return list(self._journal)

    def add_column(self, added: Field) -> bool:
        """Reserve the name; an empty field needs no room."""
        with self._lock:
            fresh = added.column not in self._columns
            self._columns.add(added.column)
            self._writes += fresh
            return fresh

    def drop_column(self, column: str) -> None:
        """Forget the vectors and free the name."""
        with self._lock:
            self._writes += column in self._columns
            self._columns.discard(column)
            for item, row in self._rows.items():
                kept = {c: stored for c, stored in row.stored.items() if c != column}
                self._rows[item] = replace(row, stored=kept)

    def insert(self, rows: Rows) -> Ids:
        """Insert rows, or none if an id is there."""
        with self._lock:
            self._check_columns(rows.vectors)
            there = tuple(item for item in rows.ids if item in self._rows)
            if not there:
                self._put(rows)
            return there

    def update(self, rows: Rows) -> Ids:
        """Replace what was given of rows, or of none if an id is not there."""
        with self._lock:
            self._check_columns(rows.vectors)
            unknown = tuple(item for item in rows.ids if item not in self._rows)
            if not unknown:
                self._put(rows)
            return unknown

    def delete(self, ids: Ids) -> int:
        """Delete rows."""
        with self._lock:
            deleted = sum(self._rows.pop(item, None) is not None for item in ids)
            self._writes += deleted
            return deleted

    def write(self, writing: Writing) -> int:
        """Write vectors where the row is there, not changed, and has no embedded one."""
        column, vectors, unsure = writing.to.column, writing.embeddings.vectors, writing.uncertainty
        written = 0
        with self._lock:
            self._check_columns([writing.to])
            for at, item in enumerate(writing.embeddings.ids):
                row = self._rows.get(item)
                if row is None or row.revision != writing.revisions[at]:
                    continue
                if column in row.stored and row.stored[column].origin == "embedded":
                    continue
                uncertainty = math.nan if unsure is None else float(unsure[at])
                new = _Stored(
                    vectors[at].astype(writing.to.space.dtype), writing.origin, uncertainty
                )
                kept = dict(row.stored)
                if column in kept and writing.origin == "embedded":  # what was made of it goes
                    for one in writing.derived:
                        if one.column in kept and kept[one.column].origin == "upgraded":
                            del kept[one.column]
                self._rows[item] = replace(row, stored={**kept, column: new})
                written += 1
            self._writes += written
        return written

    def fill(self, filling: Filling) -> Iterator[int]:  # noqa: ARG002 - `write` is as good
        """Fill nothing: there is no other way than `write`."""
        return iter(())

    def count(
        self, filled: Sequence[Field], empty: Sequence[Field], origin: Origin | None = None
    ) -> int:
        """Count rows by which fields are filled and which are empty."""
        rows = list(self._rows.values())
        return sum(_matches(row, filled, empty, origin) for row in rows)

    def scan(self, scan: Scan) -> Iterator[Batch]:
        """Give the rows as they are when the first batch is asked for."""
        asked = None if scan.ids is None else set(scan.ids)
        with self._lock:
            found = [
                (item, row)
                for item, row in self._rows.items()
                if (scan.share.holds(item) if asked is None else item in asked)
                and _matches(row, [*scan.wanted, *scan.filled], scan.empty, None)
            ]
        for start in range(0, len(found), scan.batch_rows):
            yield _batch(found[start : start + scan.batch_rows], scan.wanted)

    @contextmanager
    def working_on(self, field: Field) -> Iterator[Callable[[], Share]]:
        """Count the workers of this process; there are no others."""
        name = secrets.token_hex(8)
        with self._lock:
            self._workers[name] = field.column
        try:
            yield lambda: share_of(
                name, [one for one, on in tuple(self._workers.items()) if on == field.column]
            )
        finally:
            with self._lock:
                del self._workers[name]

    def payloads(self, ids: Ids) -> Mapping[str, str]:
        """Return the payloads that there are."""
        found = {item: self._rows[item].payload for item in ids if item in self._rows}
        return {item: payload for item, payload in found.items() if payload is not None}

    def search(
        self, of: Field, queries: Embeddings, k: int, *, exclude_self: bool, approximate: bool
    ) -> Ranking:
        """Search exactly, whatever was asked for."""
        del approximate
        return retrieval.search(queries, self._filled(of), k, exclude_self=exclude_self)

    def near(self, pair: tuple[Field, Field], queries: FusedEmbeddings, count: int) -> Near:
        """Return everything for every query."""
        del count
        old, new = map(self._filled, pair)
        items = FusedEmbeddings(queries.space, old, new)
        return Near(items, [np.arange(len(items))] * len(queries))

    def build_index(self, of: Field) -> None:
        """Do nothing: every search is exact."""

    def compact(self, keep: timedelta) -> None:
        """Do nothing: nothing is scattered."""

    def version(self) -> str:
        """Return how many writes there were: nobody else can write here."""
        return str(self._writes)

    def revision_sum(self) -> int:
        """Return the sum of all rows' revisions, modulo 2^64."""
        with self._lock:
            return sum(row.revision for row in self._rows.values()) % 2**64

    @contextmanager
    def scratch(self, record: Record, entry: JournalEntry) -> Iterator["MemoryStore"]:
        """Give a store that has no name."""
        yield MemoryStore("scratch", record, entry)

    def rewritten_bytes(self) -> int:
        """Return 0: a vector is written alone."""
        return 0

    def _filled(self, of: Field) -> Embeddings:
        """Return all vectors of a field."""
        batches = list(self.scan(Scan([of])))
        ids = tuple(item for batch in batches for item in batch.ids)
        parts = [np.empty((0, of.space.dim), np.float32)]
        parts += [batch.vectors[of.space] for batch in batches]
        return Embeddings(ids, np.concatenate(parts), of.space)

    def _check_columns(self, fields: Iterable[Field]) -> None:
        for one in fields:
            if one.column not in self._columns:
                raise GalleryError(
                    f"gallery {self.url} has no column {one.column}", "it was dropped"
                )

    def _put(self, rows: Rows) -> None:
        for at, item in enumerate(rows.ids):
            self._newest_revision += 1
            self._writes += 1
            was = self._rows.get(item, _Row(0))
            stored = {
                one.column: _Stored(vectors[at].astype(one.space.dtype), "embedded")
                for one, vectors in rows.vectors.items()
            }
            label = was.label if rows.labels is None else int(rows.labels[at])
            payload = was.payload if rows.payloads is None else rows.payloads[at]
            self._rows[item] = _Row(self._newest_revision, label, payload, stored)


_stores: dict[str, MemoryStore] = {}
_stores_lock = threading.Lock()


def create_memory(name: str, record: Record, entry: JournalEntry, rows: Rows | None) -> MemoryStore:
    """Make a store of this name, with its first rows if there are any.

    Raises:
        GalleryError: if there is one already.
    """
    with _stores_lock:
        if name in _stores:
            raise GalleryError(
                f"there is a gallery {SCHEME}{name} already", "open it, or choose another name"
            )
        store = MemoryStore(name, record, entry)
        if rows is not None:
            store.insert(rows)
        _stores[name] = store
        return store


def open_memory(name: str) -> MemoryStore:
    """Return the store of this name.

    Raises:
        GalleryError: if there is none in this process.
    """
    if name not in _stores:
        raise GalleryError(
            f"there is no gallery {SCHEME}{name} in this process",
            "make it with create_gallery. What must outlive the process goes into a directory",
        )
    return _stores[name]


def _matches(
    row: _Row, filled: Sequence[Field], empty: Sequence[Field], origin: Origin | None
) -> bool:
    there = [row.stored.get(one.column) for one in filled]
    if any(one is None or (origin is not None and one.origin != origin) for one in there):
        return False
    return not any(one.column in row.stored for one in empty)


def _batch(found: Sequence[tuple[str, _Row]], wanted: Sequence[Field]) -> Batch:
    rows = [row for _, row in found]
    stored = {one.space: [row.stored[one.column] for row in rows] for one in wanted}
    return Batch(
        ids=tuple(item for item, _ in found),
        revisions=np.array([row.revision for row in rows], np.int64),
        labels=tuple(None if row.label is None or row.label < 0 else row.label for row in rows),
        vectors={
            space: np.stack([one.vector for one in all_]).astype(np.float32)
            for space, all_ in stored.items()
        },
        origins={space: tuple(one.origin for one in all_) for space, all_ in stored.items()},
        uncertainties={
            space: np.array([one.uncertainty for one in all_], np.float32)
            for space, all_ in stored.items()
        },
    )
