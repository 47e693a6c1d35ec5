"""A gallery: items with one nullable vector a space, and a record of which space answers queries.

The same for every store: this module checks, `onward.gallery.store` says what a store must do.
Nothing here knows of models, images or transformations.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any, SupportsIndex, final

import numpy as np
from jaxtyping import Float32

from onward.gallery import space_steps
from onward.gallery.changes import (
    change_record,
    moment,
    rolled_back,
    translated_labels,
    with_class_names,
)
from onward.gallery.checks import (
    check_all_new,
    check_batch_rows,
    check_made_by,
    check_none_new,
    check_search,
    check_writing,
    find_field,
    find_searched,
    label_items,
    make_rows,
    read_payload,
)
from onward.gallery.describing import describe, state_of
from onward.gallery.filling import Derived, filled
from onward.gallery.reading import (
    BATCH_ROWS,
    choose,
    embeddings_of,
    ids_of,
    known_ids,
    labels_of,
)
from onward.gallery.record import Field
from onward.gallery.sharing import EVERYTHING, Share
from onward.gallery.store import Rows, Store, Writing
from onward.gallery.values import (
    Batch,
    Control,
    GalleryDescription,
    JournalEntry,
    Revisions,
    Served,
)
from onward.labels import ClassNames
from onward.rankings import Ranking
from onward.retrieval import as_nearest
from onward.spaces import Embeddings, Ids, Origin, Space, check_unique

KEEP = timedelta(hours=1)


@final
class Gallery:
    """Items, their vectors in one space or more, and what answers queries.

    A row is an item: `id`, maybe a label, maybe a JSON payload, and one nullable vector for each
    space with its origin, "embedded" or "upgraded". What an upgrade still has to do is read from
    the rows themselves: those that have a vector in one space and none in another. Made by
    `open_gallery` and `create_gallery`.

    Every method may raise a GalleryError: it is gone, damaged, or too busy.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def url(self) -> str:
        """Where the gallery is, as `open_gallery` takes it."""
        return self._store.url

    def describe(self) -> GalleryDescription:
        """Return what the gallery holds and which space answers queries."""
        return describe(self._store)

    def add(
        self,
        *embeddings: Embeddings,
        payloads: Sequence[Mapping[str, Any]] | None = None,
        same_labels: bool = False,
    ) -> None:
        """Insert items with their vectors in one space or more.

        Labels are brought into the gallery's numbering by the names of their classes; classes that
        it does not know get new numbers where theirs are taken. Where neither has class names, the
        numbers are taken to mean the same.

        Args:
            embeddings: of the same items in the same order, each in a space of the gallery. Labels
                are taken from those that have them.
            payloads: JSON objects, one an item: where the image is, for instance. Tuples become
                lists; keys are strings.
            same_labels: if only the gallery or only the items have class names, the numbers of the
                others mean the same.

        Raises:
            GalleryError: if an item is there already, or what is given does not fit together;
                then no row is written.
            LabelMismatchError: if only the gallery or only the items have class names, and
                `same_labels` is false.
        """
        rows = self._rows(embeddings, payloads, same_labels)
        check_all_new(self.url, rows, self._store.insert(rows) if rows.ids else ())

    def update(
        self,
        *embeddings: Embeddings,
        payloads: Sequence[Mapping[str, Any]] | None = None,
        same_labels: bool = False,
    ) -> None:
        """Replace the vectors of items whose content has changed.

        The vectors in all other spaces were made from the old content: they are cleared, so that
        the rows are pending again. Labels and payloads stay where none are given; labels are those
        that `add` takes.

        Raises:
            GalleryError: if an item is not there, or what is given does not fit together; then
                no row is written.
            LabelMismatchError: as `add` does.
        """
        rows = self._rows(embeddings, payloads, same_labels)
        check_none_new(self.url, rows, self._store.update(rows) if rows.ids else ())

    def delete(self, ids: Iterable[str]) -> int:
        """Delete items; ids that are not there are passed over. Return how many were deleted.

        Raises:
            EmbeddingsError: if something cannot be an id.
        """
        chosen = _unique(ids)
        self._store.read_record()  # which refuses what a newer Onward writes
        return self._store.delete(chosen)

    def ids(
        self,
        with_spaces: Sequence[Space] = (),
        without: Sequence[Space] = (),
        *,
        limit: int | None = None,
    ) -> Ids:
        """Return the ids of the items with vectors in some spaces and none in others, sorted.

        Of these, only the first so many where there is a limit.
        """
        filled, empty = self._fields(with_spaces), self._fields(without)
        return ids_of(self._store.scan((), filled, empty, BATCH_ROWS), limit)

    def payloads(self, ids: Iterable[str]) -> list[dict[str, Any] | None]:
        """Return the payload of each item, None where it has none.

        Raises:
            GalleryError: if an item is not there.
        """
        chosen = known_ids(self._store, ids)
        texts = self._store.payloads(chosen)
        return [
            read_payload(self.url, item, texts[item]) if item in texts else None for item in chosen
        ]

    def spaces(self) -> tuple[Space, ...]:
        """Return the spaces, in the order in which they were added."""
        return self._store.read_record().spaces

    def class_names(self) -> ClassNames | None:
        """Return what each label is called; None where nothing says so."""
        return self._store.read_record().class_names or None

    def made_by(self, space: Space) -> Mapping[str, Any] | None:
        """Return what is recorded of the transformation that fills a space, if one does."""
        return self._store.read_record().transformations.get(space)

    def add_space(self, space: Space, *, made_by: Mapping[str, Any] | None = None) -> None:
        """Give every row room for a vector in a space; nothing happens if it is there.

        Args:
            space: the space.
            made_by: what is recorded of the transformation that will fill it, with its `digest`.

        Raises:
            GalleryError: if the gallery has a space of that name that is different, or recorded
                that another transformation fills this one.
        """
        space_steps.add_space(self._store, space, made_by)

    def drop_space(self, space: Space, *, event: Mapping[str, Any] | None = None) -> None:
        """Forget a space and all vectors in it; nothing happens if it is not there.

        `event` goes into the journal with it.

        Raises:
            GalleryError: if the space answers queries, or rolling back would return to it.
        """
        space_steps.drop_space(self._store, space, event or {})

    def count(
        self,
        with_spaces: Sequence[Space] = (),
        without: Sequence[Space] = (),
        origin: Origin | None = None,
    ) -> int:
        """Count the items with vectors in some spaces, of that origin if given, none in others."""
        return self._store.count(self._fields(with_spaces), self._fields(without), origin)

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
        chosen = None if ids is None else _unique(ids)
        filled, empty = self._fields(with_spaces), self._fields(without)
        size = check_batch_rows(batch_rows)
        return self._store.scan(self._fields(spaces), filled, empty, size, ids=chosen, share=share)

    def sample(self, with_spaces: Sequence[Space], count: int, *, seed: int) -> Ids:
        """Choose items with a vector in each of these spaces: the same for the same seed and ids.

        All of them if there are not more than `count`.
        """
        return choose(self._store.scan((), self._fields(with_spaces), (), BATCH_ROWS), count, seed)

    def read(self, space: Space, ids: Iterable[str] | None = None) -> Embeddings:
        """Return the vectors in a space: of these items in their order, or of all, sorted by id.

        They carry their origins, labels, negative where an item has none, if one of the items has a
        label, and the gallery's class names.

        Raises:
            GalleryError: if an item is not there or has no vector in the space.
        """
        at = self._fields([space])
        chosen = None if ids is None else known_ids(self._store, ids)
        batches = list(self._store.scan(at, (), (), BATCH_ROWS, ids=chosen))
        return embeddings_of(batches, space, chosen, self.class_names())

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
        record = self._store.read_record()
        to = find_field(self.url, record, embeddings.space)
        check_made_by(self.url, record, to, made_by)
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
    ) -> Iterator[int]:
        """Fill an empty space in large parts of the rows at once, where the store has a way to.

        What is left out, be it everything, is to be scanned and written; see `onward.gallery.store`
        and `onward.gallery.filling`.
        """
        size, wanted = check_batch_rows(batch_rows), self._fields(spaces)
        return filled(self._store, space, wanted, derive, made_by=made_by, batch_rows=size)

    def search(
        self,
        queries: Embeddings,
        k: SupportsIndex,
        *,
        exclude_self: bool = False,
        allow_unserved: bool = False,
        approximate: bool = False,
    ) -> Ranking:
        """Return the k nearest items of every query, from the space that answers queries.

        Distances and ties are those of `onward.retrieval`; items without a vector are left out.

        Args:
            queries: in the serving space.
            k: how many, at least 1.
            exclude_self: leave out a query's own entry, the one of the same id.
            allow_unserved: look into a space that does not answer queries yet, however many rows
                have a vector in it.
            approximate: let an index built by `build_index` choose what is looked at. The
                distances are exact, but near items may be missing.

        Raises:
            EvaluationError: if k is not a whole number from 1 up.
            SpaceMismatchError: if the queries are in another space; it names the missing upgrade.
        """
        nearest = as_nearest(k)
        at = check_search(self._store, queries.space, allow_unserved=allow_unserved)
        options = {"exclude_self": exclude_self, "approximate": approximate}
        return self._store.search(at, queries, nearest, **options)

    def build_index(self, space: Space) -> None:
        """Build what `search(approximate=True)` uses, where the store has such a thing."""
        self._store.build_index(find_searched(self.url, self._store.read_record(), space))

    def compact(self, *, keep: timedelta = KEEP) -> None:
        """Put together what writing has scattered, and free what it has replaced.

        Safe beside others who write. It makes searches as fast as they were before many rows were
        written, also those that use an index.

        Args:
            keep: what was replaced longer ago is deleted; who still reads it gets an error.
        """
        self._store.read_record()  # which refuses what a newer Onward writes
        self._store.compact(keep)

    def serve(
        self, space: Space, *, query_model: str | None, event: Mapping[str, Any] | None = None
    ) -> None:
        """Let a space answer queries from now on, and record which model embeds them: one step.

        What served before can be rolled back to. Nothing happens if it is so already. `event` goes
        into the journal with it.
        """
        space_steps.serve(self._store, Served(space, query_model, moment()), event or {})

    def roll_back(
        self, served: Space | None = None, *, event: Mapping[str, Any] | None = None
    ) -> Space:
        """Let the space that served before answer queries again, and its query model; one step.

        Args:
            served: what is to serve no longer; nothing happens if it does not serve.
            event: what goes into the journal with it.

        Returns:
            The space that serves now.

        Raises:
            GalleryError: if no other space has served.
        """
        logged = {"event": "roll back", **(event or {})}
        after = change_record(self._store, lambda of: rolled_back(of, self.url, served), logged)
        return after.serving.space

    def complete(
        self, serving: Space, dropped: Sequence[Space], *, event: Mapping[str, Any]
    ) -> None:
        """End the possibility of rolling back, and forget spaces and all vectors in them.

        The record changes first and in one step, then the vectors go: what a killed process has
        left is dropped by the next call.

        Args:
            serving: the space that must answer queries.
            dropped: the spaces to be forgotten.
            event: what goes into the journal with it; nothing is logged if nothing is left to do.

        Raises:
            GalleryError: if another space answers queries; then nothing changes.
        """
        space_steps.complete(self._store, serving, dropped, event)

    def control(self, space: Space) -> Control:
        """Return what those who fill a space have to obey."""
        record = self._store.read_record()
        return record.control_of(find_field(self.url, record, space))

    def change_control(
        self, space: Space, changed: Callable[[Control], Control], *, event: Mapping[str, Any]
    ) -> Control:
        """Change what those who fill a space have to obey, and log the event, in one step.

        `changed` gives the next control from the present one, and may be called again; nothing is
        logged if it changes nothing. Returns the control as it is afterwards.
        """
        return space_steps.change_control(self._store, space, changed, event)

    def working_on(self, space: Space) -> AbstractContextManager[Callable[[], Share]]:
        """Be one of the workers that fill a space, while the block runs.

        What is given tells this worker's share of all rows, as it is now.
        """
        return self._store.working_on(find_field(self.url, self._store.read_record(), space))

    def log(self, event: Mapping[str, Any]) -> None:
        """Append an event to the journal: plain JSON values, with the name under `event`."""
        change_record(self._store, lambda record: record, event)

    def journal(self) -> list[JournalEntry]:
        """Return what was done to this gallery's spaces and by its upgrades, oldest first."""
        return self._store.journal()

    def state(self) -> str:
        """Return a digest that changes when items are added, updated, deleted or written to."""
        return state_of(self._store)

    def version(self) -> str:
        """Return what differs after any write to rows or spaces, also one past Onward.

        In a directory others may write with a program of their own, which tells nobody: `state`
        stays as it is then. Logging, serving, building an index and compacting do not change it.
        """
        return self._store.version()

    def bytes_of_writing(self, space: Space) -> int:
        """Return about how many bytes writing a vector of a space into each row takes, a row."""
        return space.bytes + self._store.rewritten_bytes()

    def _rows(
        self,
        embeddings: Sequence[Embeddings],
        payloads: Sequence[Mapping[str, Any]] | None,
        same_labels: bool,
    ) -> Rows:
        """Return the rows that embeddings make; the record knows the names of their classes."""
        items = label_items(embeddings)
        rows = make_rows(self.url, self._store.read_record(), embeddings, payloads)
        record = change_record(
            self._store,
            lambda of: with_class_names(
                of,
                self.url,
                items,
                same_labels=same_labels,
                labels_there=lambda: labels_of(self._store),
            ),
            {"event": "name classes"},
        )
        return replace(rows, labels=translated_labels(record, self.url, items))

    def _fields(self, spaces: Sequence[Space]) -> list[Field]:
        if not spaces:
            return []
        record = self._store.read_record()
        return [find_field(self.url, record, space) for space in spaces]


def _unique(ids: Iterable[str]) -> Ids:
    chosen = tuple(dict.fromkeys(ids))
    check_unique(chosen)
    return chosen
