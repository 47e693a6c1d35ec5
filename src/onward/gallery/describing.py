"""Say what a store holds: its rows, its spaces, and a digest of both that changes with the rows.

Only `onward.gallery.gallery` imports this.
"""

from collections.abc import Callable
from typing import TypeVar

from onward.artifacts import canonical_json, digest
from onward.errors import GalleryError
from onward.gallery.record import Field, Record
from onward.gallery.store import Store
from onward.gallery.values import FieldCounts, GalleryDescription

T = TypeVar("T")


def describe(store: Store) -> GalleryDescription:
    """Return what a gallery holds and which space answers queries."""
    return _of_the_record(store, lambda record: _describe(store, record))


def state_of(store: Store) -> str:
    """Return a digest that changes when items are added, updated, deleted or written to."""
    return _of_the_record(store, lambda record: _state_of(store, record))


def _describe(store: Store, record: Record) -> GalleryDescription:
    return GalleryDescription(
        url=store.url,
        rows=store.count((), ()),
        spaces={one.space: _counts(store, one) for one in record.fields},
        serving=record.serving.space,
        query_model=record.serving.query_model,
        since=record.serving.since,
        previous=record.previous,
        transformations=record.transformations,
        class_names=record.class_names or None,
    )


def _state_of(store: Store, record: Record) -> str:
    counts = {one.column: _counts(store, one).to_json() for one in record.fields}
    whole = {"rows": store.count((), ()), "revisions": store.revision_sum()}
    return digest(canonical_json({**whole, "counts": counts}))


def _of_the_record(store: Store, say: Callable[[Record], T]) -> T:
    """Say something of the record as it is; again if a space is dropped while it is said."""
    while True:
        record = store.read_record()
        try:
            return say(record)
        except GalleryError:
            if store.read_record().revision == record.revision:
                raise


def _counts(store: Store, of: Field) -> FieldCounts:
    embedded = store.count([of], (), "embedded")
    return FieldCounts(embedded, store.count([of], (), "upgraded"))
