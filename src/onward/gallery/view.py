"""What can be asked of a gallery's rows and written into them, by one record of its spaces.

`GalleryRows` does all that changes no record. Of a `Gallery` every method looks at the record
again; a `GalleryView` has looked once, so that a step which asks much decides on one moment.
Nothing here knows of models, images or transformations.
"""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, SupportsIndex, final

import numpy as np
from jaxtyping import Float32

from onward.artifacts import canonical_json, digest
from onward.errors import GalleryError, SpaceMismatchError
from onward.evaluation.retrieval import Ranking, as_count
from onward.fusion import FusedEmbeddings, Fusion, fuse
from onward.gallery.checks import (
    check_batch_rows,
    check_can_serve,
    check_ids,
    check_writing,
    name_ids,
    read_payload,
)
from onward.gallery.fused import PairSearch
from onward.gallery.record import Control, Field, Record, RecordedRoutes
from onward.gallery.store import (
    BATCH_ROWS,
    EVERYTHING,
    Batch,
    Filling,
    JournalEntry,
    Revisions,
    Scan,
    Share,
    Store,
    Writing,
)
from onward.labels import ClassNames
from onward.plain import plain
from onward.spaces import Embeddings, Ids, Origin, Space, check_unique

KEEP = timedelta(hours=1)

Derived = tuple[Embeddings, Float32[np.ndarray, " vector"] | None]
"""New vectors of rows of a batch, in its order, and the uncertainty of each, where it is known."""


@dataclass(frozen=True)
class FieldCounts:
    """How many rows have a vector in one space, and how these came to be.

    Attributes:
        embedded: vectors that a model made.
        upgraded: vectors that a transformation made.
    """

    embedded: int
    upgraded: int

    @property
    def filled(self) -> int:
        """How many rows have a vector in this space."""
        return self.embedded + self.upgraded

    def to_json(self) -> dict[str, int]:
        """Return the counts as plain values."""
        return {"filled": self.filled, "embedded": self.embedded, "upgraded": self.upgraded}


class GalleryRows(ABC):
    """The rows of a gallery, asked and filled by a record that says where each space is stored.

    Every method may raise a GalleryError: the gallery is gone, damaged, too busy, or without a
    space that was asked for.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def url(self) -> str:
        """Where the gallery is, as `open_gallery` takes it."""
        return self._store.url

    @abstractmethod
    def _record(self) -> Record:
        """Return the record by which spaces are found."""

    def spaces(self) -> tuple[Space, ...]:
        """Return the spaces, in the order in which they were added."""
        return self._record().spaces

    def class_names(self) -> ClassNames | None:
        """Return what each label is called; None where nothing says so."""
        return self._record().class_names or None

    def made_by(self, space: Space) -> RecordedRoutes | None:
        """Return which transformations fill a space, if any do."""
        return self._record().transformations.get(space)

    def control(self, space: Space) -> Control:
        """Return what those who fill a space have to obey."""
        record = self._record()
        return record.control_of(record.field_of(space))

    def count(
        self,
        with_spaces: Sequence[Space] = (),
        without: Sequence[Space] = (),
        origin: Origin | None = None,
    ) -> int:
        """Count the items with vectors in some spaces, of that origin if given, none in others."""
        filled, empty = self._fields(with_spaces, without)
        return self._store.count(filled, empty, origin)

    def ids(
        self,
        with_spaces: Sequence[Space] = (),
        without: Sequence[Space] = (),
        *,
        limit: int | None = None,
    ) -> Ids:
        """Return the ids of the items with vectors in some spaces and none in others, sorted.

        Where there is a limit, only the first ones up to it.
        """
        every = self._ids(with_spaces, without)
        return tuple(sorted(every) if limit is None else heapq.nsmallest(limit, every))

    def sample(self, with_spaces: Sequence[Space], count: int, *, seed: int) -> Ids:
        """Choose items with a vector in each of these spaces: the same for the same seed and ids.

        All of them if there are not more than `count`.
        """
        mark, every = str(seed).encode(), self._ids(with_spaces, ())
        return tuple(heapq.nsmallest(count, every, key=lambda item: digest(mark, item.encode())))

    def payloads(self, ids: Iterable[str]) -> list[dict[str, Any] | None]:
        """Return the payload of each item, None where it has none.

        Raises:
            GalleryError: if an item is not there.
        """
        chosen = self._known_ids(ids)
        texts = self._store.payloads(chosen)
        return [
            read_payload(self.url, item, texts[item]) if item in texts else None for item in chosen
        ]

    def scan(
        self,
        spaces: Sequence[Space],
        *,
        with_spaces: Sequence[Space] = (),
        without: Sequence[Space] = (),
        batch_rows: int = BATCH_ROWS,
        ids: Iterable[str] | None = None,
        share: Share = EVERYTHING,
    ) -> Iterator[Batch]:
        """Give the rows with a vector in each of these spaces, in no order, in bounded memory.

        Of all items, or of those with these ids; ids that are not there are passed over. Only rows
        that have vectors `with_spaces` too, and none `without`. Without ids, only of the share.
        """
        chosen = None if ids is None else unique_ids(ids)
        wanted, filled, empty = self._fields(spaces, with_spaces, without)
        size = check_batch_rows(batch_rows)
        return self._store.scan(Scan(wanted, filled, empty, size, chosen, share))

    def read(self, space: Space, ids: Iterable[str] | None = None) -> Embeddings:
        """Return the vectors in a space: of these items in their order, or of all, sorted by id.

        They carry their origins, labels, negative where an item has none, if one of the items has a
        label, and the gallery's class names.

        Raises:
            GalleryError: if an item is not there or has no vector in the space.
        """
        record = self._record()
        at = [record.field_of(space)]
        chosen = None if ids is None else self._known_ids(ids)
        batches = list(self._store.scan(Scan(at, ids=chosen)))
        found = tuple(item for batch in batches for item in batch.ids)
        order = sorted(found) if chosen is None else chosen
        missing = sorted(set(order) - set(found))
        if missing:
            raise GalleryError(
                f"{len(missing)} of {len(order)} items have no vector in {space}: "
                f"{name_ids(missing)}",
                "leave them out, or upgrade the gallery into that space",
            )
        labels = [-1 if label is None else label for batch in batches for label in batch.labels]
        known = np.array(labels, np.int64) if any(label >= 0 for label in labels) else None
        parts = [np.empty((0, space.dim), np.float32), *(batch.vectors[space] for batch in batches)]
        origins = tuple(origin for batch in batches for origin in batch.origins[space])
        names = record.class_names or None
        return Embeddings(found, np.concatenate(parts), space, known, names, origins).align(order)

    def search(
        self,
        queries: Embeddings,
        k: SupportsIndex,
        *,
        queries_old: Embeddings | None = None,
        fusion: Fusion | None = None,
        exclude_self: bool = False,
        allow_unserved: bool = False,
        approximate: bool = False,
    ) -> Ranking:
        """Return the k nearest items of every query, from what answers queries: a space or a pair.

        Distances and ties are those of `retrieval`. In one space, items without a vector in it are
        left out; in a fused pair those without any are, and the distance is the pair's.

        Args:
            queries: in the serving space; of a fused pair, by its new model.
            k: how many, at least 1.
            queries_old: where a fused pair answers, the same queries by its old model.
            fusion: a pair that does not answer queries yet; with `allow_unserved`.
            exclude_self: leave out a query's own entry, the one of the same id.
            allow_unserved: look into a space or a pair that does not answer queries yet, however
                many rows have a vector in it.
            approximate: let indexes built by `build_index` choose what is looked at. The distances
                are exact, but near items may be missing.

        Raises:
            EvaluationError: if k is not a whole number from 1 up.
            SpaceMismatchError: if the queries are in another space, in one where a pair answers, or
                in two where one space does; it names the missing upgrade or queries.
            EmbeddingsError: if a query is embedded by one of two models only.
        """
        nearest, record = as_count(k, "nearest items"), self._record()
        if queries_old is not None or fusion is not None:
            pair = self._check_pair(record, queries, queries_old, fusion, allow_unserved)
            of_old, of_new = record.field_of(pair.space.old), record.field_of(pair.space.new)
            among = PairSearch(
                self._store, pair.space, of_old, of_new, nearest, exclude_self, approximate
            )
            return among.run(pair)
        check_can_serve(self.url, queries.space)
        if not (allow_unserved and record.find(queries.space)):
            self._check_served(record, queries.space)
        at = record.field_of(queries.space)
        options = {"exclude_self": exclude_self, "approximate": approximate}
        return self._store.search(at, queries, nearest, **options)

    def write(
        self,
        embeddings: Embeddings,
        revisions: Revisions,
        *,
        origin: Origin,
        uncertainty: Float32[np.ndarray, " vector"] | None = None,
        made_by: str | None = None,
    ) -> int:
        """Write vectors in one space into rows that are there.

        A row that was deleted, or changed since its revision was read, is left alone; so is one
        whose vector in this space was embedded: only `update` replaces what a model has made.
        Writing the same again changes nothing. Where an embedded vector replaces an upgraded one,
        what other transformations have made of that is cleared: it is pending again.

        Args:
            embeddings: the vectors.
            revisions: of the same rows, as the batch had them from which the vectors were made.
            origin: how the vectors came to be.
            uncertainty: of each vector, where it is known; what to embed again first.
            made_by: digest of what has made them, where nothing else may fill the space.

        Returns:
            How many rows were written.
        """
        check_writing(embeddings, revisions, origin, uncertainty)
        # Only the newest record knows of every upgrade that reads what is replaced.
        record = self._store.read_record() if origin == "embedded" else self._record()
        to = record.field_of(embeddings.space)
        record.check_made_by(to, made_by)
        writing = Writing(to, embeddings, revisions, origin, uncertainty, record.made_from(to))
        return self._store.write(writing) if len(embeddings) else 0

    def fill(
        self,
        space: Space,
        spaces: Sequence[Space],
        derive: Callable[[Batch], Derived | None],
        *,
        batch_rows: int = BATCH_ROWS,
        made_by: str,
        share_now: Callable[[], Share] = lambda: EVERYTHING,
    ) -> Iterator[int]:
        """Fill an empty space in large parts of the rows at once, where the store has a way to.

        What is left out, be it everything, is to be scanned and written.

        Args:
            space: the space. Only rows that have no vector in it are filled, each part of them in
                one step, of what is stored then; the origin is "upgraded".
            spaces: those of which the batches carry vectors; rows without one are left out.
            derive: gives the new vectors of a batch and their uncertainty; None to end. Rows that
                it leaves out stay empty. If it ends or fails, the part under way is left as it was.
            batch_rows: the most rows at a time.
            made_by: digest of what makes the vectors.
            share_now: gives this worker's share of all parts, as `working_on` tells it.

        Yields:
            After each part, how many rows were written; 0 if others were quicker, or work on all
            that is left.

        Raises:
            GalleryError: if what is derived does not fit the batch or the space, or something else
                fills the space now.
        """
        record, size = self._record(), check_batch_rows(batch_rows)
        wanted = [record.field_of(one) for one in spaces]
        to = record.field_of(space)
        record.check_made_by(to, made_by)  # a column is never used again for another

        def checked(batch: Batch) -> Writing | None:
            derived = derive(batch)
            if derived is None:
                return None
            embeddings, uncertainty = derived
            revisions = _revisions(batch, embeddings)
            check_writing(embeddings, revisions, "upgraded", uncertainty)
            if embeddings.space != space:
                raise GalleryError(
                    f"vectors in {embeddings.space} were made to fill {space} of gallery "
                    f"{self.url}",
                    "nothing was written. Give vectors in that space",
                )
            return Writing(to, embeddings, revisions, "upgraded", uncertainty)

        return self._store.fill(Filling(to, wanted, size, checked, share_now))

    def build_index(self, space: Space) -> None:
        """Build what `search(approximate=True)` uses, where the store has such a thing."""
        check_can_serve(self.url, space)
        self._store.build_index(self._record().field_of(space))

    def compact(self, *, keep: timedelta = KEEP) -> None:
        """Put together what writing has scattered, and free what it has replaced.

        Safe beside others who write. It makes searches as fast as they were before many rows were
        written, also those that use an index.

        Args:
            keep: what was replaced longer ago is deleted; who still reads it gets an error.
        """
        self._record()  # which refuses what a newer Onward writes
        self._store.compact(keep)

    def working_on(self, space: Space) -> AbstractContextManager[Callable[[], Share]]:
        """Be one of the workers that fill a space, while the block runs.

        What is given tells this worker's share of all rows, as it is now.
        """
        return self._store.working_on(self._record().field_of(space))

    def version(self) -> str:
        """Return what differs after any write to rows or spaces, also one past Onward.

        In a directory others may write with a program of their own, which tells nobody: `state`
        stays as it is then. Logging, serving, building an index and compacting do not change it.
        """
        return self._store.version()

    def bytes_of_writing(self, space: Space) -> int:
        """Return about how many bytes writing a vector of a space into each row takes, a row."""
        return space.bytes + self._store.rewritten_bytes()

    def _check_served(self, record: Record, space: Space) -> None:
        """Refuse to search in a space that does not answer queries.

        Raises:
            SpaceMismatchError: naming the space that serves and the upgrade that is missing.
        """
        serving, at = record.serving.space, record.find(space)
        if record.serving.fusion is not None and space in record.serving.spaces:
            other = next(one for one in record.serving.spaces if one != space)
            raise SpaceMismatchError(
                f"the queries are in {space} alone, but gallery {self.url} answers from the pair "
                f"{record.serving}",
                f"give the same queries by the model of {other.name}, too, the old ones as "
                "queries_old=...; or look into one space with allow_unserved=True",
            )
        if space == serving:
            return
        given = f"the queries are in {space}, but gallery {self.url} answers from {record.serving}"
        embed = "embed the queries with the model that serves"
        if at is None:
            raise SpaceMismatchError(
                given,
                f"distances between them mean nothing. Upgrade the gallery from {serving.name} to "
                f"{space.name} first, or {embed}",
                step="upgrade",
            )
        step = None
        if record.previous is not None and record.previous.space == space:
            step, do = (
                "roll_back",
                f"It answered until the gallery was cut over: {embed}, or roll back",
            )
        elif space in record.transformations:
            step, do = "upgrade", f"Finish the upgrade to {space.name} and cut over, or {embed}"
        else:
            do = f"{embed[0].upper()}{embed[1:]}, or upgrade to {space.name} and cut over"
        held = f"{self._store.count([at], ()):,} of {self._store.count((), ()):,} rows"
        raise SpaceMismatchError(
            given,
            f"{held} have a vector in {space.name}. {do}, or look into it as it is with "
            "allow_unserved=True",
            step=step,
        )

    def _check_pair(
        self,
        record: Record,
        queries: Embeddings,
        queries_old: Embeddings | None,
        fusion: Fusion | None,
        allow_unserved: bool,
    ) -> FusedEmbeddings:
        """Return the queries of a fused pair, if that answers queries or may be looked into.

        Raises:
            SpaceMismatchError: if it does not, or the queries are not in its spaces.
            EmbeddingsError: if a query is embedded by one of the two models only.
        """
        served = record.serving
        pair = served.fusion if fusion is None else fusion
        if queries_old is None:
            raise SpaceMismatchError(
                f"only queries in {queries.space} were given to ask the pair {pair}",
                "give the same queries by the old model, too: queries_old=...",
            )
        if pair is None or (pair != served.fusion and not allow_unserved):
            asked = f"{queries_old.space} and {queries.space}" if pair is None else str(pair)
            raise SpaceMismatchError(
                f"queries were given by two models, for {asked}, but gallery {self.url} answers "
                f"from {served}",
                f"give queries in {' and '.join(one.name for one in served.spaces)} alone, or look "
                "into a pair as it is with the arguments fusion and allow_unserved, in Python",
            )
        for one, wanted in ((queries_old, pair.old), (queries, pair.new)):
            check_can_serve(self.url, wanted)
            if one.space != wanted:
                raise SpaceMismatchError(
                    f"queries in {queries_old.space} (old) and {queries.space} (new) were given to "
                    f"ask the pair {pair}",
                    f"give the old ones in {pair.old.name} and the new ones in {pair.new.name}",
                )
        return fuse(pair, queries_old, queries, "queries")

    def _fields(self, *spaces: Sequence[Space]) -> list[list[Field]]:
        """Return where spaces are stored; the record is looked at if there are any."""
        if not any(spaces):
            return [[] for _ in spaces]
        record = self._record()
        return [[record.field_of(space) for space in some] for some in spaces]

    def _ids(self, with_spaces: Sequence[Space], without: Sequence[Space]) -> Iterator[str]:
        batches = self.scan((), with_spaces=with_spaces, without=without)
        return (item for batch in batches for item in batch.ids)

    def _known_ids(self, ids: Iterable[str]) -> Ids:
        """Return ids of which all are there.

        Raises:
            GalleryError: naming those that are not.
        """
        chosen = tuple(ids)
        check_unique(chosen)
        batches = self._store.scan(Scan(ids=chosen))
        unknown = sorted(set(chosen) - {item for batch in batches for item in batch.ids})
        check_ids(self.url, len(chosen), unknown, "are not in", "ask for others, or add them")
        return chosen


@final
class GalleryView(GalleryRows):
    """A gallery by the record of one moment: it does not look at the record again.

    What is counted of the spaces, and the journal, are read once too. The rows themselves are those
    of the moment in which they are asked for. Made by `Gallery.view`.

    Attributes:
        record: the spaces, what fills each, and which of them answers queries.
    """

    def __init__(self, store: Store, record: Record) -> None:
        super().__init__(store)
        self.record = record

    def _record(self) -> Record:
        return self.record

    @property
    def serving(self) -> Space:
        """The space that answers queries; of a fused pair the new one."""
        return self.record.serving.space

    @property
    def fusion(self) -> Fusion | None:
        """The fused pair that answers queries; None where one space does."""
        return self.record.serving.fusion

    @property
    def previous(self) -> Space | None:
        """The space that rolling back returns to, if there is one."""
        return None if self.record.previous is None else self.record.previous.space

    @property
    def query_model(self) -> str | None:
        """The fingerprint of the model that embeds the queries, if it is known."""
        return self.record.serving.query_model

    @cached_property
    def rows(self) -> int:
        """The number of items."""
        return self.count()

    @cached_property
    def counts(self) -> Mapping[Space, FieldCounts]:
        """For each space, how many items have a vector in it."""
        return {
            space: FieldCounts(
                self.count([space], origin="embedded"), self.count([space], origin="upgraded")
            )
            for space in self.spaces()
        }

    @cached_property
    def journal(self) -> list[JournalEntry]:
        """What was done to this gallery's spaces and by its upgrades, oldest first."""
        return self._store.journal()

    def state(self) -> str:
        """Return a digest that changes when items are added, updated, deleted or written to."""
        counts = {one.column: self.counts[one.space].to_json() for one in self.record.fields}
        whole = {"rows": self.rows, "revisions": self._store.revision_sum()}
        return digest(canonical_json({**whole, "counts": counts}))

    def to_json(self) -> dict[str, Any]:
        """Return what it holds and which space answers queries, as plain values."""
        serving, names, made_by = (
            self.record.serving,
            self.class_names(),
            self.record.transformations,
        )
        of_pair = {"fusion": plain(serving.fusion), "old_query_model": serving.old_query_model}
        return {
            "url": self.url,
            "rows": self.rows,
            "spaces": [
                {
                    **space.to_json(),
                    "format": space.format,
                    "bytes": space.bytes,
                    **counts.to_json(),
                    "serving": space in serving.spaces,
                    "transformation": plain(made_by.get(space)),
                }
                for space, counts in self.counts.items()
            ],
            "serving": self.serving.to_json(),
            "query_model": self.query_model,
            **({} if self.fusion is None else of_pair),
            "since": serving.since,
            "previous": plain(self.record.previous),
            "named_classes": None if names is None else len(names),
        }

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("space", "dim", "metric", "format", "bytes", "filled", "embedded", "upgraded", "")
        ]
        served = self.record.serving
        notes = {} if self.previous is None else {self.previous: "rolling back returns here"}
        notes |= dict.fromkeys(
            served.spaces, "serving" if self.fusion is None else "serving, fused"
        )
        for space, counts in self.counts.items():
            numbers = (f"{n:,}" for n in (counts.filled, counts.embedded, counts.upgraded))
            stored = (str(space.dim), space.metric, space.format, f"{space.bytes:,}")
            rows.append((space.name, *stored, *numbers, notes.get(space, "")))
        models = (served.query_model, *(() if self.fusion is None else (served.old_query_model,)))
        named = " and ".join("not recorded" if one is None else one for one in models)
        head = f"gallery {self.url}: {self.rows:,} rows, queries embedded by model {named}"
        names = self.class_names()
        if names is not None:
            head += f", labels of {len(names):,} named classes"
        return "\n".join([head, *aligned(rows)])


def unique_ids(ids: Iterable[str]) -> Ids:
    """Return ids, each once, in their order.

    Raises:
        EmbeddingsError: if something cannot be an id.
    """
    chosen = tuple(dict.fromkeys(ids))
    check_unique(chosen)
    return chosen


def _revisions(batch: Batch, made: Embeddings) -> Revisions:
    """Return the revisions of the rows of which something was made."""
    if made.ids == batch.ids:
        return batch.revisions
    chosen = set(made.ids)
    rows = [row for row, item in enumerate(batch.ids) if item in chosen]
    if tuple(batch.ids[row] for row in rows) != made.ids:
        raise GalleryError(
            f"{len(made)} vectors were made of {len(batch)} rows, and not all are of these rows in "
            "their order",
            "nothing was written. Give vectors of rows of the batch, as it has them",
        )
    return batch.revisions[rows]


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [row[c].rjust(widths[c]) if c < last else row[c] for c in range(1, len(row))]
        lines.append("  ".join(cells).rstrip())
    return lines
