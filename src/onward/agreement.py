"""Agreement: how many of the neighbours that a full backfill would give a ranking gives as well.

It needs no labels. It says how near a gallery comes to the new model, not whether that model is any
good: only labels can. Nothing here knows how the rankings were made.
"""

import numpy as np
from jaxtyping import Float64

from onward.errors import EvaluationError
from onward.rankings import Ranking
from onward.spaces import places

NEIGHBOURS = 10


def count_neighbours(items: int) -> int:
    """Return how many neighbours are compared among so many items: 10, or a tenth if fewer."""
    return max(1, min(NEIGHBOURS, items // 10))


def agreement(found: Ranking, wanted: Ranking) -> Float64[np.ndarray, " query"]:
    """Return, of each query, the share of the wanted items that were found; ranks do not matter.

    Args:
        found: the nearest items in the gallery that is judged; it may lack items.
        wanted: as many in a full backfill, for the same queries in the same order.

    Returns:
        Fractions in [0, 1]; NaN where nothing is wanted.

    Raises:
        EvaluationError: if the queries differ, or `exclude_self` does.
    """
    if found.query_ids != wanted.query_ids or found.exclude_self != wanted.exclude_self:
        raise EvaluationError(
            f"agreement compares rankings of the same queries: {len(found)} with "
            f"exclude_self={found.exclude_self} and {len(wanted)} with "
            f"exclude_self={wanted.exclude_self} were given, or their ids differ",
            "search both galleries with the same queries",
        )
    rows_here = np.append(places(found.gallery_ids, wanted.gallery_ids), -1)
    rows = rows_here[found.rows]  # padding finds the -1 at the end
    first = np.arange(len(wanted), dtype=np.int64)[:, None] * len(wanted.gallery_ids)
    have = np.where(rows >= 0, first + rows, -1)
    want = np.where(wanted.rows >= 0, first + wanted.rows, -2)
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing is wanted
        shares: np.ndarray = np.isin(want, have).sum(axis=1) / (wanted.rows >= 0).sum(axis=1)
    return shares
