"""Add, serve and drop spaces: a gallery's record and the columns of its store, in a safe order.

A column is made before the record names it, and dropped after the record has forgotten it. So a
process that is killed in between leaves an empty column, or one that the next step drops. A name
that was in use is never used again: whoever is late writes nowhere.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onward.gallery.changes import (
    change_record,
    completed,
    with_control,
    with_serving,
    with_space,
    without_space,
)
from onward.gallery.checks import check_name_is_free, find_field, find_searched
from onward.gallery.record import Field, Record, column_names
from onward.gallery.store import Store
from onward.gallery.values import Control, Served
from onward.spaces import Space


def add_space(store: Store, space: Space, made_by: Mapping[str, Any] | None) -> None:
    """Give every row room for a vector in a space; see `Gallery.add_space`."""
    made = None if made_by is None else dict(made_by)
    added: Field | None = None

    def changed(record: Record) -> Record | None:
        nonlocal added
        check_name_is_free(store.url, record, space)
        at = record.find(space) or added
        if at is None:
            at = added = _add_column(store, space, record.retired)
        return with_space(record, store.url, at, made)

    name = "add space" if made is None else "start upgrade"
    change_record(store, changed, {"event": name, "space": space.to_json(), "made_by": made})


def drop_space(store: Store, space: Space, event: Mapping[str, Any]) -> None:
    """Forget a space and all vectors in it; see `Gallery.drop_space`."""
    after = change_record(
        store,
        lambda record: without_space(record, store.url, space),
        {"event": "drop space", **event, "space": space.to_json()},
    )
    _drop_columns(store, after)


def serve(store: Store, now: Served, event: Mapping[str, Any]) -> None:
    """Let a space answer queries from now on; see `Gallery.serve`."""

    def changed(record: Record) -> Record | None:
        find_searched(store.url, record, now.space)
        return with_serving(record, now)

    change_record(store, changed, {"event": "serve", **event, **now.to_json()})


def change_control(
    store: Store, space: Space, changed: Callable[[Control], Control], event: Mapping[str, Any]
) -> Control:
    """Change what those who fill a space have to obey; see `Gallery.change_control`."""

    def change(record: Record) -> Record | None:
        return with_control(record, find_field(store.url, record, space), changed)

    after = change_record(store, change, event)
    return after.control_of(find_field(store.url, after, space))


def complete(
    store: Store, serving: Space, dropped: Sequence[Space], event: Mapping[str, Any]
) -> None:
    """End the possibility of rolling back, and forget spaces; see `Gallery.complete`."""
    after = change_record(
        store, lambda record: completed(record, store.url, serving, dropped), event
    )
    _drop_columns(store, after)


def _add_column(store: Store, space: Space, retired: Sequence[str]) -> Field:
    fields = (Field(space, name) for name in column_names(space) if name not in retired)
    return next(added for added in fields if store.add_column(added))


def _drop_columns(store: Store, record: Record) -> None:
    for column in record.retired:
        store.drop_column(column)
