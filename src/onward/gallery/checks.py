"""What a gallery refuses before its store is called, and in which words.

Nothing here reads or writes a store.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex

import numpy as np

from onward.errors import EvaluationError, GalleryError, LabelMismatchError
from onward.evaluation.relevance import labelled_by
from onward.evaluation.retrieval import as_count
from onward.gallery.record import Field, Record
from onward.gallery.store import Revisions, Rows
from onward.labels import comparable
from onward.spaces import LENGTHS, Embeddings, Space, has_length

NAMED = 3
"""How many ids a message names."""
DEEPEST = 100
"""How deep a payload may be nested: Python cannot always read again what it can write as JSON."""
TOO_DEEP = f"it is nested more than {DEEPEST} deep"


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


def make_rows(
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
        to = record.field_of(one.space)
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
        GalleryError: if there are no embeddings, or their ids differ.
        LabelMismatchError: if an item is in two classes, or nothing tells in which.
    """
    if not embeddings:
        raise GalleryError(
            "no embeddings were given", "give the items' vectors in one space or more"
        )
    whole = replace(embeddings[0])
    for one in embeddings[1:]:
        _check_aligned(whole, one)
        _check_comparable(whole, one)
        if one.labels is not None:
            whole = labelled_by(whole, f"those in {whole.space}", [(one, f"those in {one.space}")])
            whole = replace(whole, class_names=whole.class_names or one.class_names)
    return whole


def check_ids(url: str, given: int, wrong: Sequence[str], state: str, do: str) -> None:
    """Refuse items some of which are in the gallery already, or not there.

    Args:
        url: of the gallery.
        given: how many items were given.
        wrong: the ids of those that are refused, if there are any.
        state: "are in" or "are not in" the gallery.
        do: what to do.

    Raises:
        GalleryError: naming the first few.
    """
    if wrong:
        already = " already" if state == "are in" else ""
        raise GalleryError(
            f"{len(wrong)} of {given} items {state} gallery {url}{already}: {name_ids(wrong)}", do
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


def check_batch_rows(batch_rows: SupportsIndex) -> int:
    """Return the number of rows of a batch.

    Raises:
        GalleryError: if it is not a whole number from 1 up.
    """
    try:
        return as_count(batch_rows, "rows")
    except EvaluationError:
        raise GalleryError(
            f"batches of {batch_rows!r} rows cannot be made", "ask for a whole number of rows"
        ) from None


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


def _check_comparable(whole: Embeddings, one: Embeddings) -> None:
    """Refuse labels of two numberings where no item tells that the numbers mean the same.

    Raises:
        LabelMismatchError: naming an item that has its label in the numbering without names.
    """
    if whole.labels is None or one.labels is None or comparable(one.class_names, whole.class_names):
        return
    labels = whole.labels, one.labels
    bare, named = labels[::-1] if one.class_names is None else labels
    alone = (bare >= 0) & (named < 0)
    if alone.any():
        raise LabelMismatchError(
            f"of the embeddings in {one.space} and in {whole.space} only one has class names, and "
            f"item {one.ids[int(np.argmax(alone))]!r} has its label in the other, so nothing tells "
            "which class that is. Give both with class names, or only one of them with labels"
        )


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


def _check_nesting(value: Any, depth: int = 0) -> None:
    """Refuse keys that JSON would make strings of, and what is nested too deep to be read again.

    Raises:
        TypeError, ValueError: saying what.
    """
    if not isinstance(value, Mapping | list | tuple):
        return
    if depth == DEEPEST:
        raise ValueError(TOO_DEEP)
    for one in value:
        if isinstance(value, Mapping) and not isinstance(one, str):
            raise TypeError(f"its key {one!r} is of type {type(one).__name__}")
        _check_nesting(value[one] if isinstance(value, Mapping) else one, depth + 1)
