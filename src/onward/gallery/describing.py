"""Say what a store holds: its rows, its spaces, and a digest of both that changes with the rows.

Only `onward.gallery.gallery` imports this.
"""

from onward.artifacts import canonical_json, digest
from onward.gallery.record import Field
from onward.gallery.store import Store
from onward.gallery.values import FieldCounts, GalleryDescription


def describe(store: Store) -> GalleryDescription:
    """Return what a gallery holds and which space answers queries."""
    record = store.read_record()
    return GalleryDescription(
        url=store.url,
        rows=store.count((), ()),
        spaces={one.space: _counts(store, one) for one in record.fields},
        serving=record.serving.space,
        query_model=record.serving.query_model,
        since=record.serving.since,
        previous=record.previous,
        transformations=record.transformations,
    )


def state_of(store: Store) -> str:
    """Return a digest that changes when items are added, updated, deleted or written to."""
    fields = store.read_record().fields
    counts = {one.column: _counts(store, one).to_json() for one in fields}
    whole = {"rows": store.count((), ()), "revisions": store.revision_sum()}
    return digest(canonical_json({**whole, "counts": counts}))


def _counts(store: Store, of: Field) -> FieldCounts:
    embedded = store.count([of], (), "embedded")
    return FieldCounts(embedded, store.count([of], (), "upgraded"))
