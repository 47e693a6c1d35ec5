"""Check what fills an empty space, part by part; see `onward.gallery.Gallery.fill`."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from onward.errors import GalleryError
from onward.gallery.checks import check_made_by, check_writing, find_field
from onward.gallery.record import Field
from onward.gallery.store import Filling, Store, Writing
from onward.gallery.values import Batch, Revisions
from onward.spaces import Embeddings, Space

Derived = tuple[Embeddings, Float32[np.ndarray, " vector"] | None]
"""New vectors of rows of a batch, in its order, and the uncertainty of each, where it is known."""


def filled(
    store: Store,
    space: Space,
    wanted: Sequence[Field],
    derive: Callable[[Batch], Derived | None],
    *,
    made_by: str,
    batch_rows: int,
) -> Iterator[int]:
    """Let a store fill a space with vectors of the origin "upgraded".

    Args:
        store: the store.
        space: the space. Only rows that have no vector in it are filled, each part of them in one
            step, of what is stored then.
        wanted: the fields that the batches carry; rows without one are left out.
        derive: gives the new vectors of a batch and their uncertainty; None to end. Rows that it
            leaves out stay empty. If it ends or fails, the part under way is left as it was.
        made_by: digest of what makes the vectors.
        batch_rows: at most so many rows at a time.

    Yields:
        After each part, how many rows were written; 0 if others were quicker, or work on all that
        is left.

    Raises:
        GalleryError: if what is derived does not fit the batch or the space, or something else
            fills the space now.
    """
    record = store.read_record()
    to = find_field(store.url, record, space)
    check_made_by(store.url, record, to, made_by)  # a column is never used again for another

    def checked(batch: Batch) -> Writing | None:
        derived = derive(batch)
        if derived is None:
            return None
        embeddings, uncertainty = derived
        revisions = _revisions(batch, embeddings)
        check_writing(embeddings, revisions, "upgraded", uncertainty)
        if embeddings.space != space:
            raise GalleryError(
                f"vectors in {embeddings.space} were made to fill {space} of gallery {store.url}; "
                "nothing was written. Give vectors in that space"
            )
        return Writing(to, embeddings, revisions, "upgraded", uncertainty)

    return store.fill(Filling(to, wanted, batch_rows, checked))


def _revisions(batch: Batch, made: Embeddings) -> Revisions:
    """Return the revisions of the rows of which something was made."""
    if made.ids == batch.ids:
        return batch.revisions
    chosen = set(made.ids)
    rows = [row for row, item in enumerate(batch.ids) if item in chosen]
    if tuple(batch.ids[row] for row in rows) != made.ids:
        raise GalleryError(
            f"{len(made)} vectors were made of {len(batch)} rows, and not all are of these rows in "
            "their order; nothing was written. Give vectors of rows of the batch, as it has them"
        )
    return batch.revisions[rows]
