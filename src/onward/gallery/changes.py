"""How a gallery's record changes: from one record to the next, and never by halves.

Every change is a function from a record to the next one, so that a store needs one operation only:
replace the record if nobody else has, and log the event with it.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from onward.artifacts import canonical_json
from onward.errors import GalleryError
from onward.gallery.record import Field, Record
from onward.gallery.store import Store
from onward.gallery.values import Control, Served
from onward.labels import Labels, into, renumber, translate
from onward.spaces import Embeddings, Space

TRIES = 100
"""How often a change is tried again when other processes change the record too."""


def moment() -> str:
    """Return what time it is: UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def change_record(
    store: Store, changed: Callable[[Record], Record | None], event: Mapping[str, Any]
) -> Record:
    """Replace the record and log the event, in one step; do nothing if `changed` gives None.

    Args:
        store: that keeps the record.
        changed: gives the next record from the present one; called again when another process was
            quicker, so it may not change anything.
        event: plain JSON values, with the name under `event`.

    Returns:
        The record as it is afterwards.

    Raises:
        GalleryError: if other processes were quicker every time.
    """
    for _ in range(TRIES):
        record = store.read_record()
        new = changed(record)
        if new is None:
            return record
        new = replace(new, revision=record.revision + 1)
        entry = json.loads(canonical_json({"number": new.revision, "time": moment(), **event}))
        if store.change_record(new, entry):
            return new
    raise GalleryError(
        f"the record of gallery {store.url} was changed by others {TRIES} times while it was to be "
        "changed here; try again when fewer processes change it"
    )


def with_space(
    record: Record, url: str, added: Field, made_by: Mapping[str, Any] | None
) -> Record | None:
    """Return the record with one more space, or with what is recorded of its transformation.

    Args:
        record: as it is.
        url: of the gallery, for messages.
        added: the space; its column counts only if the record does not have the space yet.
        made_by: what is recorded of the transformation, with its `digest`.

    Returns:
        None if it says all of that already.

    Raises:
        GalleryError: if it says that another transformation fills this space.
    """
    at = record.find(added.space)
    if at is None:
        at = added
        record = replace(record, fields=(*record.fields, at))
    elif made_by is None:
        return None
    if made_by is None:
        return record
    stated = record.made_by.get(at.column)
    if stated is None:
        return replace(record, made_by={**record.made_by, at.column: dict(made_by)})
    if stated.get("digest") != made_by.get("digest"):
        raise GalleryError(
            f"the vectors of {at.space} in gallery {url} are made by the transformation "
            f"{str(stated.get('digest'))[:8]}, not by {str(made_by.get('digest'))[:8]}; go on with "
            "the first, or drop the space and start again"
        )
    return None


def without_space(record: Record, url: str, space: Space) -> Record | None:
    """Return the record without a space; None if it does not have it.

    Raises:
        GalleryError: if the space answers queries, or rolling back would return to it.
    """
    at = record.find(space)
    if at is None:
        return None
    if space == record.serving.space:
        raise GalleryError(
            f"{space} answers the queries of gallery {url} and cannot be dropped; serve another "
            "space first"
        )
    if record.previous is not None and space == record.previous.space:
        raise GalleryError(
            f"{space} is what rolling back gallery {url} returns to and cannot be dropped; "
            "complete the upgrade first"
        )
    return replace(
        record,
        fields=tuple(one for one in record.fields if one != at),
        made_by={column: made for column, made in record.made_by.items() if column != at.column},
        controls={column: one for column, one in record.controls.items() if column != at.column},
        retired=(*record.retired, at.column),
    )


def with_control(record: Record, at: Field, changed: Callable[[Control], Control]) -> Record | None:
    """Return the record with what those who fill a field obey from now on.

    Args:
        record: as it is.
        at: the field.
        changed: gives the next control from the present one.

    Returns:
        None if it says so already.
    """
    was = record.control_of(at)
    now = changed(was)
    return None if now == was else replace(record, controls={**record.controls, at.column: now})


def with_class_names(
    record: Record,
    url: str,
    items: Embeddings,
    *,
    same_labels: bool,
    labels_there: Callable[[], Collection[int]],
) -> Record | None:
    """Return the record that says what the classes of items to come are called.

    Names are never changed and labels never used again: what was translated by one record is
    right by the next.

    Args:
        record: as it is.
        url: of the gallery, for messages.
        items: labels and class names of the items.
        same_labels: if only the gallery or only the items have class names, the numbers of the
            others mean the same.
        labels_there: gives the labels that rows of the gallery have; read only where none of them
            has a name.

    Returns:
        None if it says so already.

    Raises:
        LabelMismatchError: as `onward.labels.into` does.
    """
    labels, given, known = items.labels, items.class_names, record.class_names
    if labels is None or (labels < 0).all():
        return None
    if not known:
        if given is not None and (known is None or same_labels):
            there = set(labels_there())
            if not there or (same_labels and there <= set(given)):
                return replace(record, class_names=given)
        translate(given, None, same_labels=same_labels, sources=label_sources(url))
        return None if known is not None else replace(record, class_names={})
    _, names = into(labels, given, known, same_labels=same_labels, sources=label_sources(url))
    return None if names == known else replace(record, class_names=names)


def translated_labels(record: Record, url: str, items: Embeddings) -> Labels | None:
    """Return the labels of items in the numbering of a record that names their classes."""
    if items.labels is None:
        return None
    known = record.class_names or None
    sources = label_sources(url)
    return renumber(
        items.labels, translate(items.class_names, known, same_labels=True, sources=sources)
    )


def label_sources(url: str) -> tuple[str, str]:
    """Return what the items and the gallery are called in messages on their labels."""
    return "the items", f"gallery {url}"


def with_serving(record: Record, now: Served) -> Record | None:
    """Return the record with something else answering queries; None if it does so already."""
    was = record.serving
    if was == now:
        return None
    if was.space == now.space:
        return replace(record, serving=replace(now, since=was.since))
    return replace(record, serving=now, previous=was)


def rolled_back(record: Record, url: str, served: Space | None = None) -> Record | None:
    """Return the record with what served before serving again.

    Args:
        record: as it is.
        url: of the gallery, for messages.
        served: what is to serve no longer; None for whatever serves now.

    Returns:
        None if the space `served` does not serve.

    Raises:
        GalleryError: if nothing has served before.
    """
    if served is not None and record.serving.space != served:
        return None
    if record.previous is None:
        raise GalleryError(
            f"gallery {url} has nothing to roll back to: no space has served before "
            f"{record.serving.space.name}, or the upgrade to it is complete"
        )
    return replace(record, serving=record.previous, previous=None)


def completed(record: Record, url: str, serving: Space, dropped: Sequence[Space]) -> Record | None:
    """Return the record with nothing to roll back to, and without some spaces.

    Args:
        record: as it is.
        url: of the gallery, for messages.
        serving: the space that must answer queries.
        dropped: spaces to be forgotten; those that are not there are passed over.

    Returns:
        None if it says so already.

    Raises:
        GalleryError: if another space answers queries.
    """
    if record.serving.space != serving:
        raise GalleryError(
            f"gallery {url} answers from {record.serving.space}, not from {serving}: nothing was "
            "completed and nothing dropped; cut over first"
        )
    if record.previous is None and not any(record.find(space) for space in dropped):
        return None
    record = replace(record, previous=None)
    for space in dropped:
        record = without_space(record, url, space) or record
    return record
