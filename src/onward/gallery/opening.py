"""Open and create galleries by URL: the only place that knows which stores there are."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from onward.errors import GalleryError
from onward.gallery.checks import check_can_serve, label_items, make_rows
from onward.gallery.gallery import Gallery
from onward.gallery.memory import SCHEME, create_memory, open_memory
from onward.gallery.record import Field, Record, column_names, moment
from onward.gallery.store import Rows, Store
from onward.gallery.values import JournalEntry, Served
from onward.spaces import Embeddings, Space

KNOWN = "memory:NAME, which lives as long as the process, and a directory such as photos.lance"


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
