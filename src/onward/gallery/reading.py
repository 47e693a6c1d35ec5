"""Put together what comes out of a store in batches, in no order."""

import heapq
from collections.abc import Iterable, Sequence

import numpy as np

from onward.artifacts import digest
from onward.errors import GalleryError
from onward.gallery.checks import check_known, name_ids
from onward.gallery.store import Store
from onward.gallery.values import Batch
from onward.labels import ClassNames
from onward.spaces import Embeddings, Ids, Space, check_unique

BATCH_ROWS = 8192
"""How many rows are read at a time where nothing else is asked for."""


def known_ids(store: Store, ids: Iterable[str]) -> Ids:
    """Return ids of which all are there.

    Raises:
        GalleryError: naming those that are not.
    """
    chosen = tuple(ids)
    check_unique(chosen)
    batches = store.scan((), (), (), BATCH_ROWS, ids=chosen)
    check_known(store.url, chosen, {item for batch in batches for item in batch.ids})
    return chosen


def ids_of(batches: Iterable[Batch], limit: int | None = None) -> Ids:
    """Return the ids in the batches, sorted; only the first so many if there is a limit."""
    every = (item for batch in batches for item in batch.ids)
    return tuple(sorted(every) if limit is None else heapq.nsmallest(limit, every))


def choose(batches: Iterable[Batch], count: int, seed: int) -> Ids:
    """Return some of the ids in the batches: the same for the same ids and seed, in any order."""
    mark = str(seed).encode()
    every = (item for batch in batches for item in batch.ids)
    return tuple(heapq.nsmallest(count, every, key=lambda item: digest(mark, item.encode())))


def labels_of(store: Store) -> set[int]:
    """Return the labels that rows of a store have."""
    batches = store.scan((), (), (), BATCH_ROWS)
    return {label for batch in batches for label in batch.labels if label is not None}


def embeddings_of(
    batches: Sequence[Batch], space: Space, ids: Ids | None, class_names: ClassNames | None
) -> Embeddings:
    """Return the vectors in a space: of these items in their order, or of all, sorted by id.

    Raises:
        GalleryError: if an item is not in the batches.
    """
    found = tuple(item for batch in batches for item in batch.ids)
    order = sorted(found) if ids is None else ids
    missing = sorted(set(order) - set(found))
    if missing:
        raise GalleryError(
            f"{len(missing)} of {len(order)} items have no vector in {space}: "
            f"{name_ids(missing)}. Leave them out, or upgrade the gallery into that space"
        )
    labels = [-1 if label is None else label for batch in batches for label in batch.labels]
    parts = [np.empty((0, space.dim), np.float32), *(batch.vectors[space] for batch in batches)]
    known = np.array(labels, np.int64) if any(label >= 0 for label in labels) else None
    origins = tuple(origin for batch in batches for origin in batch.origins[space])
    made = Embeddings(found, np.concatenate(parts), space, known, class_names, origins)
    return made.align(order)
