"""Divide pairs so that what is learned from one part can be judged on what it has not seen.

Real galleries hold people, products and texts of classes that no model was trained on. There it
says little how a transformation fares on further items of classes that it has learned from; so
whole classes are held out. Where nobody knows classes, items that are each other's nearest
neighbours stand for them.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from onward.errors import DataError
from onward.labels import Labels
from onward.retrieval import search
from onward.spaces import Embeddings
from onward.training.pairs import Pairs, Rows

GalleryClasses = Literal["unseen", "seen"]
By = Literal["class", "group", "neighbours", "item"]
Groups = Int64[np.ndarray, " item"]

FOLDS = 3
"""A network learns once a fold; more folds take longer and change little."""
NEIGHBOURS = (10, 5, 3, 2, 1)
LARGEST = 0.1
"""No group of neighbours is to hold more than this share of the items."""


@dataclass(frozen=True, eq=False)
class Folds:
    """Items in folds: each is judged by what was learned from the other folds.

    Attributes:
        by: what is held out as a whole: "class", "group" (as the caller gave them), "neighbours"
            (connected by being each other's nearest) or "item".
        groups: which class, group or item each item is of.
        fold_of: the fold of each item, from 0 on.
        item_of: the item of each pair.
        first_rows: the first pair of each item.
    """

    by: By
    groups: Groups
    fold_of: Groups
    item_of: Rows
    first_rows: Groups

    @classmethod
    def of(
        cls,
        pairs: Pairs,
        *,
        gallery_classes: GalleryClasses,
        groups: Sequence[str | None] | None = None,
        seed: int,
    ) -> "Folds":
        """Divide pairs: by class, or else by given groups or by neighbours; or item by item.

        Args:
            pairs: what is divided; all views of an item stay together.
            gallery_classes: "unseen": whole groups are held out. "seen": items.
            groups: of each pair, what is to be held out as a whole; None is a group of its own.
                Without any it is the class where labels tell classes apart: they are known of half
                of the items, and no class has more than half. Else it is the neighbours.
            seed: decides which fold a group is in.

        Raises:
            DataError: if there are not as many groups as pairs, or there is one alone.
        """
        if groups is not None and len(groups) != len(pairs):
            raise DataError(
                f"{len(groups)} groups and {len(pairs)} pairs were given; give one group a pair"
            )
        by: By = "item"
        found = np.arange(pairs.items)
        if gallery_classes == "unseen":
            by, found = _held_together(pairs, groups)
        return cls(by, found, _deal(found, FOLDS, seed), pairs.item_of, pairs.first_rows)

    @property
    def count(self) -> int:
        """How many folds there are."""
        return int(self.fold_of.max()) + 1

    def learned(self, fold: int) -> Rows:
        """Return the pairs that are learned from where a fold is held out."""
        return np.flatnonzero(self.fold_of[self.item_of] != fold)

    def items(self, fold: int) -> Rows:
        """Return the items of a fold."""
        return np.flatnonzero(self.fold_of == fold)

    def held_out(self, fold: int) -> Rows:
        """Return the first pair of each item of a fold."""
        rows: Rows = self.first_rows[self.items(fold)]
        return rows


def neighbour_groups(embeddings: Embeddings) -> Groups:
    """Return the groups of items that are connected by being each other's nearest neighbours.

    Two items are connected if each is among the k nearest of the other. k is 10, or less if a group
    would hold more than a tenth of the items.
    """
    count = len(embeddings)
    found = search(embeddings, embeddings, min(NEIGHBOURS[0], count - 1), exclude_self=True).rows
    for nearest in NEIGHBOURS:
        groups = _connected(count, _mutual(found[:, :nearest]))
        if np.bincount(groups).max() <= max(LARGEST * count, 2):
            break
    return groups


def _held_together(pairs: Pairs, groups: Sequence[str | None] | None) -> tuple[By, Groups]:
    """Return what is held out as a whole, and which of it each item is of."""
    first = pairs.first_rows
    if groups is not None:
        found = _numbers([groups[row] for row in first])
        if len(np.unique(found)) < 2:
            raise DataError(
                f"all {pairs.items} items are of one group, so none can be held out; give groups "
                "that tell items apart, or none"
            )
        return "group", found
    if pairs.labels is not None:
        labels = pairs.labels[first]
        if _tell_classes(labels):
            return "class", _numbers([None if label < 0 else label for label in labels.tolist()])
    return "neighbours", neighbour_groups(pairs.new.select(first))


def _tell_classes(labels: Labels) -> bool:
    """Say whether most items have a label, and enough is left to learn from without any class."""
    _, sizes = np.unique(labels[labels >= 0], return_counts=True)
    return len(sizes) > 1 and bool(sizes.sum() >= len(labels) / 2 >= sizes.max())


def _numbers(names: Sequence[object]) -> Groups:
    """Number what is named, in order of appearance; None is a group of its own each time."""
    known: dict[object, int] = {}
    keys = ((row,) if name is None else name for row, name in enumerate(names))
    return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)


def _deal(groups: Groups, folds: int, seed: int) -> Groups:
    """Give each group a fold: the larger ones first, each to the fold with fewest items."""
    sizes = np.bincount(groups)
    order = np.random.default_rng([seed, 0]).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = [(0, fold) for fold in range(min(folds, int((sizes > 0).sum())))]
    fold_of = np.zeros(len(sizes), np.int64)
    for group in order.tolist():
        if sizes[group]:
            items, fold = heapq.heappop(filled)
            fold_of[group] = fold
            heapq.heappush(filled, (items + int(sizes[group]), fold))
    dealt: Groups = fold_of[groups]
    return dealt


def _mutual(found: Int64[np.ndarray, "item neighbour"]) -> Int64[np.ndarray, "edge 2"]:
    """Return the pairs of items of which each is among the found neighbours of the other."""
    count, nearest = found.shape
    near, far = np.repeat(np.arange(count), nearest), found.reshape(-1)
    there = far >= 0
    edges, back = near[there] * count + far[there], far[there] * count + near[there]
    both = np.isin(edges, back)
    return np.stack([near[there][both], far[there][both]], axis=1)


def _connected(count: int, edges: Int64[np.ndarray, "edge 2"]) -> Groups:
    """Return the number of each item's connected component, from 0 on."""
    root = np.arange(count)
    while True:
        lower = root.copy()
        np.minimum.at(lower, edges[:, 0], root[edges[:, 1]])
        np.minimum.at(lower, edges[:, 1], root[edges[:, 0]])
        lower = lower[lower]
        if (lower == root).all():
            break
        root = lower
    return np.unique(root, return_inverse=True)[1].reshape(-1)
