"""Divide items into a training and a test part, the same way on every machine."""

from dataclasses import replace

import numpy as np

from onward.artifacts import digest
from onward.data.items import Items

TEST_SHARE = 0.25


def split_by_id(items: Items) -> tuple[Items, Items]:
    """Return (train, test): of each class a quarter, chosen by a digest of the id, is for testing.

    The order and the number of other classes do not matter. A class of two or three items gives one
    to the test part, a class of one none. Both parts keep the order of the items. What was left out
    of the source is noted in the training part alone, so that it is told once.
    """
    rank = np.array([digest(item.encode()) for item in items.ids])
    in_test = np.zeros(len(items), dtype=bool)
    for label in items.classes:
        rows = np.flatnonzero(items.labels == label)
        held_out = max(round(len(rows) * TEST_SHARE), 1) if len(rows) > 1 else 0
        in_test[rows[np.argsort(rank[rows])][:held_out]] = True
    return items.select(~in_test), replace(items.select(in_test), left_out=())
