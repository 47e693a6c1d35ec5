"""Compare the ids of all rows with the ids of those that have a vector: nothing lost, none twice.

Ids are compared by 8 bytes of a digest each, so a million rows take 8 MB. Nothing here writes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt64

from onward.gallery import Batch, Gallery
from onward.spaces import Space

Marks = UInt64[np.ndarray, " row"]


@dataclass(frozen=True)
class IdSets:
    """What the ids of a gallery's rows say.

    Attributes:
        rows: how many different ids there are.
        repeated: how many rows have an id that another row has too; 0 in a sound gallery.
        missing: how many ids have no vector in the space.
    """

    rows: int
    repeated: int
    missing: int


def compare_ids(gallery: Gallery, space: Space) -> IdSets:
    """Read all ids, and those with a vector in a space, and compare the two sets."""
    every = _marks(gallery.scan(()))
    filled = _marks(gallery.scan((), with_spaces=[space]))
    unique = np.unique(every)
    return IdSets(
        rows=len(unique),
        repeated=len(every) - len(unique),
        missing=len(np.setdiff1d(unique, filled)),
    )


def _marks(batches: Iterator[Batch]) -> Marks:
    parts = [np.empty(0, np.uint64)]
    for batch in batches:
        digests = b"".join(
            hashlib.blake2b(item.encode(), digest_size=8).digest() for item in batch.ids
        )
        parts.append(np.frombuffer(digests, np.uint64))
    return np.concatenate(parts)
