"""What a gallery refuses before its store is called, and in which words.

Nothing here reads or writes a store.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex

import numpy as np

from onward.errors import EvaluationError, GalleryError, LabelMismatchError, SpaceMismatchError
from onward.gallery.record import Field, Record
from onward.gallery.store import Rows, Store
from onward.gallery.values import Revisions
from onward.labels import comparable, into, shown
from onward.rankings import as_count
from onward.spaces import LENGTHS, Embeddings, Ids, Space, has_length

NAMED = 3
"""How many ids a message names."""
DEEPEST = 100
"""How deep a payload may be nested: Python cannot always read again what it can write as JSON."""
TOO_DEEP = f"it is nested more than {DEEPEST} deep"


def find_field(url: str, record: Record, space: Space) -> Field:
    """Return where a space is stored.

    Raises:
        GalleryError: if the gallery does not have it, or has one of that name that is different.
    """
    found = record.find(space)
    if found is not None:
        return found
    check_name_is_free(url, record, space)
    known = ", ".join(str(one) for one in record.spaces)
    raise GalleryError(
        f"gallery {url} has no space {space}",
        "give embeddings in one of these, "
        "or add it with add_space and write vectors of items that are there",
        needed=f"it has {known}",
        step="write",
    )


def find_searched(url: str, record: Record, space: Space) -> Field:
    """Return where a space is stored that is to be searched.

    Raises:
        GalleryError: if the gallery does not have it, or its number format is for side-information.
    """
    check_can_serve(url, space)
    return find_field(url, record, space)


def check_name_is_free(url: str, record: Record, space: Space) -> None:
    """Refuse a space whose name the gallery has with other dimensions, metric or format.

    Raises:
        GalleryError: saying what the gallery has.
    """
    for one in record.spaces:
        if one.name == space.name and one != space:
            raise GalleryError(
                f"gallery {url} knows the space {one.name} with {one.dim} dimensions, the metric "
                f"{one.metric} and the format {one.format}",
                f"these have {space.dim}, {space.metric} "
                f"and {space.format}. One name is one model: check which model made them",
            )


def check_can_serve(url: str, space: Space) -> None:
    """Refuse to search in a space of a smaller number format: it is for side-information.

    Raises:
        GalleryError: saying so.
    """
    if space.format != "float32":
        raise GalleryError(
            f"{space} cannot answer queries of gallery {url}: its vectors are stored as "
            f"{space.format}, which is for side-information. Let a space of float32 serve"
        )


def check_served(store: Store, record: Record, space: Space) -> None:
    """Refuse to search in a space that does not answer queries.

    Raises:
        SpaceMismatchError: naming the space that serves and the upgrade that is missing.
        GalleryError: if the space can never answer any.
    """
    check_can_serve(store.url, space)
    url, serving, at = store.url, record.serving.space, record.find(space)
    if space == serving:
        return
    opening = f"the queries are in {space}, but gallery {url} answers from {serving}"
    if at is not None:
        filled, rows = store.count([at], ()), store.count((), ())
        raise SpaceMismatchError(
            f"{opening}",
            f"{filled:,} of {rows:,} rows have a vector in {space.name}. "
            f"{_what_to_do(record, space)}, or look into it as it is with allow_unserved=True",
        )
    raise SpaceMismatchError(
        f"{opening}",
        f"distances between them mean nothing. Upgrade the gallery from {serving.name} "
        f"to {space.name} first, or embed the queries with the model that serves",
        step="upgrade",
    )


def _what_to_do(record: Record, space: Space) -> str:
    """Say how queries in a space of the gallery that does not serve can be answered."""
    embed = "embed the queries with the model that serves"
    if record.previous is not None and record.previous.space == space:
        return f"It answered until the gallery was cut over: {embed} now, or roll back"
    if space in record.transformations:
        return f"Finish the upgrade to {space.name} and cut over, or {embed}"
    return f"{embed[0].upper()}{embed[1:]}, or upgrade to {space.name} and cut over"


def check_search(store: Store, record: Record, space: Space, *, allow_unserved: bool) -> Field:
    """Return where the queries of a search are compared.

    Raises:
        SpaceMismatchError, GalleryError: as `check_served`, unless the gallery has the space and
            one that does not serve is allowed.
    """
    if not (allow_unserved and record.find(space)):
        check_served(store, record, space)
    return find_searched(store.url, record, space)


def make_rows(
    url: str,
    record: Record,
    embeddings: Sequence[Embeddings],
    payloads: Sequence[Mapping[str, Any]] | None,
) -> Rows:
    """Return the rows that these embeddings of the same items make, without their labels.

    Raises:
        GalleryError: if two are in the same space, a space is unknown, their ids differ, a vector
            has no length for the cosine or was upgraded, or a payload is no JSON object.
    """
    first = embeddings[0]
    vectors: dict[Field, np.ndarray] = {}
    for one in embeddings:
        to = find_field(url, record, one.space)
        if to in vectors:
            raise GalleryError(
                f"embeddings in {one.space} were given twice", "give each space once"
            )
        _check_aligned(first, one)
        _check_lengths(one)
        _check_embedded(one)
        vectors[to] = one.vectors
    texts = None if payloads is None else _payload_texts(first, payloads)
    return Rows(first.ids, None, texts, vectors)


def label_items(embeddings: Sequence[Embeddings]) -> Embeddings:
    """Return the first of some embeddings of the same items, with labels and class names of all.

    Labels that have names are compared by name; others by number, since an item is of one class.
    Where some do not know an item's class, the others say it.

    Raises:
        GalleryError: if there are no embeddings, their ids differ, or an item has two labels.
    """
    if not embeddings:
        raise GalleryError(
            "no embeddings were given", "give the items' vectors in one space or more"
        )
    whole = replace(embeddings[0])
    for one in embeddings[1:]:
        _check_aligned(whole, one)
        whole = _with_labels_of(whole, one)
    return whole


def check_all_new(url: str, rows: Rows, there: Ids) -> None:
    """Say which items could not be inserted because they are there.

    Raises:
        GalleryError: if there are any.
    """
    if there:
        raise GalleryError(
            f"{len(there)} of {len(rows.ids)} items are in gallery {url} already: "
            f"{name_ids(there)}. Nothing was written",
            "leave them out, or give changed items to update()",
        )


def check_none_new(url: str, rows: Rows, unknown: Ids) -> None:
    """Say which items could not be updated because they are not there.

    Raises:
        GalleryError: if there are any.
    """
    if unknown:
        raise GalleryError(
            f"{len(unknown)} of {len(rows.ids)} items are not in gallery {url}: "
            f"{name_ids(unknown)}. Nothing was written",
            "leave them out, or give new items to add()",
        )


def check_writing(
    embeddings: Embeddings, revisions: Revisions, origin: str, uncertainty: np.ndarray | None
) -> None:
    """Refuse what does not fit together in a call of `Gallery.write`.

    Raises:
        GalleryError: if revisions or uncertainty are not one a vector, the origin is unknown or not
            that of the vectors, or a vector has no length for the cosine.
    """
    _check_lengths(embeddings)
    if origin == "embedded":
        _check_embedded(embeddings)
    for what, given in (("revisions", revisions), ("uncertainty", uncertainty)):
        if given is not None and np.shape(given) != (len(embeddings),):
            raise GalleryError(
                f"{what} of shape {np.shape(given)} for {len(embeddings)} vectors",
                "give one a vector, as the batch has them",
            )
    if origin not in ("embedded", "upgraded"):
        raise GalleryError(f"the origin is {origin!r}", needed="it is 'embedded' or 'upgraded'")


def check_made_by(url: str, record: Record, to: Field, digest: str | None) -> None:
    """Refuse to write what one transformation has made where another one fills the space.

    Raises:
        GalleryError: naming both.
    """
    stated = record.made_by.get(to.column)
    now = None if stated is None else stated.digest
    if digest is not None and now != digest:
        raise GalleryError(
            f"what the transformation {digest[:8]} has made was not written to {to.space} in "
            f"gallery {url}: the space is now filled by {str(now)[:8]}"
        )


def check_batch_rows(batch_rows: SupportsIndex) -> int:
    """Return the number of rows of a batch.

    Raises:
        GalleryError: if it is not a whole number from 1 up.
    """
    try:
        size = as_count(batch_rows, "rows")
    except EvaluationError:
        raise GalleryError(
            f"batches of {batch_rows!r} rows cannot be made", "ask for a whole number of rows"
        ) from None
    if size < 1:
        raise GalleryError(f"batches of {size} rows hold nothing", "ask for at least 1")
    return size


def check_known(url: str, asked: Sequence[str], there: Collection[str]) -> None:
    """Refuse ids of items that are not there.

    Raises:
        GalleryError: naming the first few.
    """
    unknown = sorted(set(asked) - set(there))
    if unknown:
        raise GalleryError(
            f"{len(unknown)} of {len(asked)} items are not in gallery {url}: {name_ids(unknown)}"
        )


def read_payload(url: str, item: str, text: str) -> dict[str, Any]:
    """Return the payload that a text holds.

    Raises:
        GalleryError: if it holds none; something else has written it.
    """
    try:
        payload = json.loads(text)
        if isinstance(payload, dict):
            return payload
        raise ValueError(f"a {type(payload).__name__} instead of an object")
    except (ValueError, RecursionError) as error:
        raise GalleryError(
            f"the payload of item {item!r} in gallery {url} is not a JSON object ({error}): "
            "another program has written it. Give the item another one with update()"
        ) from error


def name_ids(ids: Sequence[str]) -> str:
    """Return the first few ids for a message, and how many more there are."""
    named = ", ".join(repr(item) for item in ids[:NAMED])
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return named + more


def _check_aligned(first: Embeddings, other: Embeddings) -> None:
    if first.ids == other.ids:
        return
    if set(first.ids) == set(other.ids):
        raise GalleryError(
            f"the embeddings in {first.space} and in {other.space} are of the same items in "
            "different order",
            "bring the second into the order of the first, by align(first.ids)",
        )
    apart = sorted(set(first.ids) ^ set(other.ids))
    raise GalleryError(
        f"the embeddings in {first.space} and in {other.space} are not of the same items: "
        f"{name_ids(apart)} stand in one only. Embed the same items in both spaces"
    )


def _check_embedded(given: Embeddings) -> None:
    """Refuse vectors that a transformation made: here they would pass as what a model embedded."""
    upgraded = given.count_origins().get("upgraded", 0)
    if upgraded:
        raise GalleryError(
            f"{upgraded:,} of the {len(given):,} vectors in {given.space} were upgraded by a "
            "transformation, as their origin says",
            "in the gallery they would pass as what a model "
            "embedded. Add the vectors that they were made from and upgrade the gallery, or leave "
            "these items out",
        )


def _check_lengths(given: Embeddings) -> None:
    if given.space.metric != "cosine":
        return
    fits = has_length(given.vectors, given.space)
    if not fits.all():
        row, many = int(np.argmin(fits)), int((~fits).sum())
        length = np.linalg.norm(given.vectors[row].astype(np.float64))
        raise GalleryError(
            f"the vector of item {given.ids[row]!r} (row {row}) has the length {length:.2g}, and "
            f"{many} of {len(given)} vectors in {given.space} are too long or too short: for the "
            f"cosine a gallery takes {LENGTHS}. Divide each by its length: its direction, which "
            "alone counts, stays as it is"
        )


def _with_labels_of(whole: Embeddings, one: Embeddings) -> Embeddings:
    if one.labels is None:
        return whole
    if whole.labels is None:
        return replace(whole, labels=one.labels, class_names=one.class_names)
    sources = (f"those in {one.space}", f"those in {whole.space}")
    labels, names = one.labels, whole.class_names
    if one.class_names is not None and names is not None:
        labels, names = into(labels, one.class_names, names, same_labels=False, sources=sources)
    bare, named = (labels, whole.labels) if one.class_names is None else (whole.labels, labels)
    alone = (bare >= 0) & (named < 0)  # else the items tell that the numbers mean the same
    if alone.any() and not comparable(one.class_names, whole.class_names):
        raise LabelMismatchError(
            f"of the embeddings in {one.space} and in {whole.space} only one has class names, and "
            f"item {one.ids[int(np.argmax(alone))]!r} has its label in the other, so nothing tells "
            "which class that is. Give both with class names, or only one of them with labels"
        )
    apart = (whole.labels != labels) & (whole.labels >= 0) & (labels >= 0)
    if apart.any():
        row = int(np.argmax(apart))
        raise GalleryError(
            f"item {one.ids[row]!r} is of class {shown(int(whole.labels[row]), whole.class_names)} "
            "in one of the embeddings and of class "
            f"{shown(int(one.labels[row]), one.class_names)} in those in {one.space}",
            "an item is of one class",
        )
    common = np.where(whole.labels >= 0, whole.labels, labels)
    return replace(whole, labels=common, class_names=names or one.class_names)


def _payload_texts(items: Embeddings, payloads: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    if len(payloads) != len(items):
        raise GalleryError(
            f"{len(payloads)} payloads for {len(items)} items", "give one an item, {} if empty"
        )
    texts = []
    for item, payload in zip(items.ids, payloads, strict=True):
        try:
            if not isinstance(payload, Mapping):
                raise TypeError(f"it is a {type(payload).__name__}, not a mapping")
            texts.append(json.dumps(dict(payload), sort_keys=True, allow_nan=False))
            _check_nesting(payload)
        except (TypeError, ValueError, RecursionError) as error:
            why = TOO_DEEP if isinstance(error, RecursionError) else error
            raise GalleryError(
                f"the payload of item {item!r} cannot be kept as JSON: {why}. Give a mapping of "
                "strings, finite numbers, lists and mappings, with strings as keys"
            ) from error
    return tuple(texts)


def _check_nesting(payload: Mapping[Any, Any]) -> None:
    """Refuse keys that JSON would make strings of, and what is nested too deep to be read again.

    Raises:
        TypeError, ValueError: saying what.
    """
    level: list[Any] = [payload]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, Mapping):
                odd = next((key for key in one if not isinstance(key, str)), None)
                if odd is not None or None in one:
                    raise TypeError(f"its key {odd!r} is of type {type(odd).__name__}")
                inner += one.values()
            elif isinstance(one, list | tuple):
                inner += one
        level = inner
        if not level:
            return
    raise ValueError(TOO_DEEP)
