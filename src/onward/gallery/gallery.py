"""A gallery: items with one nullable vector a space, and a record of which space answers queries.

The same for every store: this module checks, `onward.gallery.store` says what a store must do.
A column is made before the record names it, and dropped after the record has forgotten it. So a
process that is killed in between leaves an empty column, or one that the next step drops. A name
that was in use is never used again: whoever is late writes nowhere.
`open_gallery` and `create_gallery` are the only ones that know which stores there are. Nothing here
knows of models, images or transformations.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, final

from onward.artifacts import canonical_json
from onward.errors import GalleryError
from onward.fusion import Fusion
from onward.gallery.checks import check_can_serve, check_ids, label_items, make_rows
from onward.gallery.memory import SCHEME, create_memory, open_memory
from onward.gallery.record import (
    Control,
    Field,
    Record,
    RecordedRoutes,
    Served,
    column_names,
    moment,
)
from onward.gallery.store import JournalEntry, Rows, Scan, Store
from onward.gallery.view import GalleryRows, GalleryView, unique_ids
from onward.spaces import Embeddings, Space

TRIES = 100
"""How often a change is tried again when other processes change the record too."""

KNOWN = "memory:NAME, which lives as long as the process, and a directory such as photos.lance"

T = TypeVar("T")


@final
class Gallery(GalleryRows):
    """Items, their vectors in one space or more, and what answers queries.

    A row is an item: `id`, maybe a label, maybe a JSON payload, and one nullable vector for each
    space with its origin, "embedded" or "upgraded". What an upgrade still has to do is read from
    the rows themselves: those that have a vector in one space and none in another. Made by
    `open_gallery` and `create_gallery`.

    Every method may raise a GalleryError: it is gone, damaged, or too busy.
    """

    def _record(self) -> Record:
        return self._store.read_record()

    def view(self) -> GalleryView:
        """Look at the record once: what is asked of the view goes by it."""
        return GalleryView(self._store, self._record())

    def ask(self, question: Callable[[GalleryView], T], view: GalleryView | None = None) -> T:
        """Return what a question finds in a view; it is asked again where a space is dropped then.

        Args:
            question: asks a view.
            view: which it asks first; the gallery as it is now if None.
        """
        view = self.view() if view is None else view
        while True:
            try:
                return question(view)
            except GalleryError:
                now = self.view()
                if now.record.revision == view.record.revision:
                    raise
                view = now

    def describe(self) -> GalleryView:
        """Return the gallery as it is now, all of it counted that tells what it holds."""

        def counted(view: GalleryView) -> GalleryView:
            view.to_json()
            return view

        return self.ask(counted)

    def state(self) -> str:
        """Return a digest that changes when items are added, updated, deleted or written to."""
        return self.ask(GalleryView.state)

    def journal(self) -> list[JournalEntry]:
        """Return what was done to this gallery's spaces and by its upgrades, oldest first."""
        return self._store.journal()

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
                `same_labels` is false; or the embeddings put an item in two classes.
        """
        rows = self._rows(embeddings, payloads, same_labels)
        there = self._store.insert(rows) if rows.ids else ()
        do = "nothing was written. Leave them out, or give changed items to update()"
        check_ids(self.url, len(rows.ids), there, "are in", do)

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
        unknown = self._store.update(rows) if rows.ids else ()
        do = "nothing was written. Leave them out, or give new items to add()"
        check_ids(self.url, len(rows.ids), unknown, "are not in", do)

    def delete(self, ids: Iterable[str]) -> int:
        """Delete items; ids that are not there are passed over. Return how many were deleted.

        Raises:
            EmbeddingsError: if something cannot be an id.
        """
        chosen = unique_ids(ids)
        self._record()  # which refuses what a newer Onward writes
        return self._store.delete(chosen)

    def add_space(self, space: Space, *, made_by: RecordedRoutes | None = None) -> GalleryView:
        """Give every row room for a vector in a space; nothing happens if it is there.

        Args:
            space: the space.
            made_by: which transformations will fill it, if any.

        Returns:
            The gallery as it is afterwards.

        Raises:
            GalleryError: if the gallery has a space of that name that is different, or recorded
                that another transformation fills this one.
        """
        added: Field | None = None

        def changed(record: Record) -> Record | None:
            nonlocal added
            at = record.find(space) or added
            if at is None:
                names = (name for name in column_names(space) if name not in record.retired)
                free = (Field(space, name) for name in names)
                at = added = next(one for one in free if self._store.add_column(one))
            return record.with_space(at, made_by)

        made = None if made_by is None else made_by.to_json()
        name = "add space" if made is None else "start upgrade"
        return self._change(changed, {"event": name, "space": space.to_json(), "made_by": made})

    def drop_space(self, space: Space, *, event: Mapping[str, Any] | None = None) -> GalleryView:
        """Forget a space and all vectors in it; nothing happens if it is not there.

        `event` goes into the journal with it. Returns the gallery as it is afterwards.

        Raises:
            GalleryError: if the space answers queries, or rolling back would return to it.
        """
        logged = {"event": "drop space", **(event or {}), "space": space.to_json()}
        after = self._change(lambda record: record.without_space(space), logged)
        return self._without_columns(after)

    def serve(
        self,
        what: Space | Fusion,
        *,
        query_model: str | None,
        old_query_model: str | None = None,
        event: Mapping[str, Any] | None = None,
    ) -> GalleryView:
        """Let a space, or a fused pair, answer queries from now on, and record by which models.

        That is one step. What served before can be rolled back to. Nothing happens if it is so
        already. `event` goes into the journal with it.

        Args:
            what: the space, or the pair.
            query_model: which model embeds the queries; of a pair, in its new space.
            old_query_model: which model embeds them in the old space of a pair.
            event: what the journal is to say besides.

        Returns:
            The gallery as it is afterwards.
        """
        pair = None if isinstance(what, Space) else what
        space = what if isinstance(what, Space) else what.new
        now = Served(space, query_model, moment(), pair, old_query_model)

        def changed(record: Record) -> Record | None:
            for one in now.spaces:
                check_can_serve(self.url, record.field_of(one).space)
            return record.with_serving(now)

        return self._change(changed, {"event": "serve", **(event or {}), **now.to_json()})

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
        return self._change(lambda record: record.rolled_back(served), logged).serving

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
        after = self._change(lambda record: record.completed(serving, dropped), event)
        self._without_columns(after)

    def change_control(
        self, space: Space, changed: Callable[[Control], Control], *, event: Mapping[str, Any]
    ) -> GalleryView:
        """Change what those who fill a space have to obey, and log the event, in one step.

        `changed` gives the next control from the present one, and may be called again; nothing is
        logged if it changes nothing. Returns the gallery as it is afterwards.
        """

        def change(record: Record) -> Record | None:
            return record.with_control(record.field_of(space), changed)

        return self._change(change, event)

    def log(self, event: Mapping[str, Any], *, after: GalleryView | None = None) -> GalleryView:
        """Append an event to the journal: plain JSON values, with the name under `event`.

        Where the record is still that of a view, it is not looked at again. Returns the gallery as
        it is afterwards.
        """
        return self._change(lambda record: record, event, None if after is None else after.record)

    def _change(
        self,
        changed: Callable[[Record], Record | None],
        event: Mapping[str, Any],
        first: Record | None = None,
    ) -> GalleryView:
        """Replace the record and log the event, in one step; do nothing if `changed` gives None.

        Args:
            changed: gives the next record from the present one; called again when another process
                was quicker, so it may not change anything.
            event: plain JSON values, with the name under `event`.
            first: the record to begin with, if it was just looked at.

        Returns:
            The gallery as it is afterwards.

        Raises:
            GalleryError: if other processes were quicker every time.
        """
        for _ in range(TRIES):
            record, first = first or self._record(), None
            new = changed(record)
            if new is None:
                return GalleryView(self._store, record)
            new = replace(new, revision=record.revision + 1)
            entry = json.loads(canonical_json({"number": new.revision, "time": moment(), **event}))
            if self._store.change_record(new, entry):
                return GalleryView(self._store, new)
        raise GalleryError(
            f"the record of gallery {self.url} was changed by others {TRIES} times while it was to "
            "be changed here",
            "try again when fewer processes change it",
        )

    def _without_columns(self, after: GalleryView) -> GalleryView:
        """Drop the columns that a record has forgotten; killed before, the next call does it."""
        for column in after.record.retired:
            self._store.drop_column(column)
        return after

    def _rows(
        self,
        embeddings: Sequence[Embeddings],
        payloads: Sequence[Mapping[str, Any]] | None,
        same_labels: bool,
    ) -> Rows:
        """Return the rows that embeddings make; the record knows the names of their classes."""
        items = label_items(embeddings)
        rows = make_rows(self._record(), embeddings, payloads)

        def labels_there() -> set[int]:
            batches = self._store.scan(Scan())
            return {label for batch in batches for label in batch.labels if label is not None}

        def named(record: Record) -> Record | None:
            return record.with_class_names(
                items, same_labels=same_labels, labels_there=labels_there
            )

        record = self._change(named, {"event": "name classes"}).record
        return replace(rows, labels=record.labels_of(items))


@dataclass(frozen=True)
class Place:
    """Where a gallery is, or may be made: how a store is reached that no URL leads to.

    Attributes:
        url: names the gallery in messages.
        create: makes the store, with its record, the journal's first entry and rows, or None of
            them: all or nothing. Raises a GalleryError if something stands there.
        open: returns the store that is there.
    """

    url: str
    create: Callable[[Record, JournalEntry, Rows | None], Store]
    open: Callable[[], Store]


def open_gallery(url: str | Path | Place) -> Gallery:
    """Open a gallery that is there.

    Args:
        url: `memory:NAME`, or the directory of a LanceDB database that `create_gallery` made; or
            the place of a store of your own.

    Raises:
        GalleryError: if it is not there, is not a gallery, is damaged, or the URL is of a kind
            that is not known.
    """
    return Gallery(_place(url).open())


def create_gallery(
    url: str | Path | Place,
    *spaces: Space,
    serving: Space | None = None,
    query_model: str | None = None,
    items: Sequence[Embeddings] = (),
    payloads: Sequence[Mapping[str, Any]] | None = None,
) -> Gallery:
    """Make a gallery, empty or with its first items: it is there whole or not at all.

    Args:
        url: `memory:NAME`, or a directory that is not there yet or empty; `.lance` at its end is
            usual; or the place of a store of your own.
        spaces: the spaces of the vectors to be stored, side-information among them.
        serving: the space that answers queries, in float32; the first one if None.
        query_model: fingerprint of the model that embeds the queries, if it is known.
        items: embeddings of the first items, as `Gallery.add` takes them.
        payloads: of these items.

    Raises:
        GalleryError: if something stands there already, the URL is of a kind that is not known, or
            the items do not fit together.
    """
    place = _place(url)
    record = _first_record(place.url, spaces, serving, query_model)
    created = {"event": "create", "spaces": [space.to_json() for space in spaces]}
    entry = {"number": 1, "time": moment(), **created, "serving": record.serving.to_json()}
    rows = None
    if items:
        whole = label_items(items)
        rows = replace(make_rows(record, items, payloads), labels=whole.labels)
        named = record.with_class_names(whole, same_labels=False, labels_there=set)
        record = named or record
    return Gallery(place.create(record, entry, rows))


@contextmanager
def scratch_gallery(like: Gallery) -> Iterator[Gallery]:
    """Give an empty gallery of the same kind with the same spaces, to measure on; gone afterwards.

    A directory is made where temporary files go, not beside the gallery.
    """
    spaces = like.spaces()
    searched = next(space for space in spaces if space.format == "float32")
    record = _first_record(like.url, spaces, searched, None)
    with like._store.scratch(record, {"number": 1, "event": "create"}) as store:
        yield Gallery(store)


def _first_record(
    url: str, spaces: tuple[Space, ...], serving: Space | None, query_model: str | None
) -> Record:
    if not spaces:
        raise GalleryError("a gallery needs a space", "give the space of the items' embeddings")
    served = spaces[0] if serving is None else serving
    if served not in spaces:
        raise GalleryError(
            f"{served} is to answer queries but is not among the gallery's spaces: "
            f"{', '.join(str(space) for space in spaces)}"
        )
    check_can_serve(url, served)
    fields: list[Field] = []
    for space in spaces:
        if space.name in {one.space.name for one in fields}:
            raise GalleryError(f"the space {space.name} was given twice", "give each space once")
        taken = {one.column for one in fields}
        column = next(name for name in column_names(space) if name not in taken)
        fields.append(Field(space, column))
    return Record(url, 1, tuple(fields), Served(served, query_model))


def _place(url: str | Path | Place) -> Place:
    if isinstance(url, Place):
        return url
    if isinstance(url, str) and url.startswith(SCHEME):
        name = url.removeprefix(SCHEME)
        if not name:
            raise GalleryError("a gallery in memory needs a name, such as memory:photos")
        return Place(url, partial(create_memory, name), partial(open_memory, name))
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", str(url))
    if isinstance(url, str) and (scheme or not url):
        what = f"the scheme {scheme[0]}" if scheme else "an empty URL"
        raise GalleryError(f"{url!r}: no store is known for {what}", f"give {KNOWN}")
    from onward.gallery.lance.store import create_lancedb, open_lancedb

    path = Path(url)
    return Place(str(path), partial(create_lancedb, path), partial(open_lancedb, path))
