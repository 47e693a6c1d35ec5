"""Rows whose only embedding by a model is in one space: what was added natively, and where.

Such rows have no vector in the space that served before, so rolling back cannot find them; and
dropping the space would lose what no transformation can make again. Nothing here writes.
"""

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onward.gallery import Gallery
from onward.spaces import Space
from onward.upgrading.work import EXAMPLES


@dataclass(frozen=True)
class CountedRows:
    """Rows, by how many they are.

    Attributes:
        rows: how many, at least 1.
        examples: the first few ids.
    """

    rows: int
    examples: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"rows": self.rows, "examples": list(self.examples)}

    def __str__(self) -> str:
        more = ", ..." if self.rows > len(self.examples) else ""
        return f"{self.rows:,} rows ({', '.join(self.examples)}{more})"


def find_natives(
    gallery: Gallery,
    space: Space,
    *,
    without: Sequence[Space],
    unless_embedded: Space | None = None,
) -> CountedRows | None:
    """Return the rows that a model embedded in a space and that have no vector in others.

    Reads the vectors of rows that lack vectors in the others; these are few as a rule.

    Args:
        gallery: the gallery.
        space: the space; there are no such rows if the gallery does not have it.
        without: the other spaces; those that the gallery lacks hold no vectors.
        unless_embedded: leave out rows that a model embedded in this space too.

    Returns:
        None if there are none.
    """
    known = gallery.spaces()
    if space not in known:
        return None
    others = [one for one in without if one in known]
    also = [one for one in (unless_embedded,) if one in known and one != space]
    scans = [gallery.scan([space], without=[*others, *also])]
    scans += [gallery.scan([space, one], without=others) for one in also]
    rows, found = 0, list[str]()
    for batch in itertools.chain(*scans):
        native = np.ones(len(batch), np.bool_)
        for one, origins in batch.origins.items():
            native &= (np.array(origins) == "embedded") == (one == space)
        natives = [item for item, is_one in zip(batch.ids, native, strict=True) if is_one]
        rows += len(natives)
        found = heapq.nsmallest(EXAMPLES, [*found, *natives])
    return CountedRows(rows, tuple(found)) if rows else None
