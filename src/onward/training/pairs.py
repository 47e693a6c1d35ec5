"""Pairs of old and new embeddings to fit a transformation on: checked, and split by item."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Int64

from onward.artifacts import digest, digest_arrays
from onward.errors import DataError, TransformationError
from onward.spaces import Embeddings, Ids
from onward.training.timetable import Rows

LEAST_ITEMS = 20
_VIEW = re.compile(r"(.*)#(\d+)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Pairs:
    """The same items, in the same order, in the old space and in the new one.

    Several views of an item count as one item; their ids are `<id>#<view>`, as
    `onward.training.views.embed_views` gives them.

    Attributes:
        old: what goes in.
        side: side-information that goes in with it, if any.
        new: what is to come out.

    Raises:
        TransformationError: if ids or their order differ, or the spaces cannot be mapped.
        DataError: if there are too few items.
    """

    old: Embeddings
    side: Embeddings | None
    new: Embeddings

    def __post_init__(self) -> None:
        if self.old.space == self.new.space:
            raise TransformationError(
                f"old and new embeddings are both in {self.old.space}: there is nothing to fit. "
                "Give the new model's embeddings as the new ones"
            )
        if self.side is not None:
            _check_same_items(self.old, self.side, "side-information")
        _check_same_items(self.old, self.new, "new")
        if self.items < LEAST_ITEMS:
            raise DataError(
                f"there are {self.items} items to fit a transformation on, in {len(self.old)} "
                f"pairs; it needs at least {LEAST_ITEMS}. Embed more items with both models"
            )

    def __len__(self) -> int:
        return len(self.old)

    @cached_property
    def item_of(self) -> Rows:
        """The item that each pair is of, as a number from 0 on."""
        names, numbers = _views(self.old.ids)
        position: dict[str, int] = {}
        items = np.array([position.setdefault(name, len(position)) for name in names], np.int64)
        seen = np.bincount(items)
        whole = len(position) > 1 and (seen == numbers.max(initial=-1) + 1).all()
        return items if whole else np.arange(len(names), dtype=np.int64)

    @property
    def items(self) -> int:
        """Number of items."""
        return int(self.item_of.max(initial=-1)) + 1

    @cached_property
    def targets(self) -> Float32[np.ndarray, "pair new"]:
        """What is to come out: the new vectors, of length 1 where only their direction counts."""
        vectors: np.ndarray = self.new.vectors
        if self.new.space.metric == "cosine":
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What goes in, by name: "old", and "side" where there is side-information."""
        given = {"old": self.old.vectors}
        return given if self.side is None else given | {"side": self.side.vectors}

    @cached_property
    def digest(self) -> str:
        """Changes when an id or a vector does."""
        arrays = digest_arrays({**self.inputs, "new": self.new.vectors})
        return digest(arrays.encode(), *(item.encode() for item in self.old.ids))


def split(
    pairs: Pairs, *, share: float, most: int, seed: int
) -> tuple[Int64[np.ndarray, " fitted_on"], Int64[np.ndarray, " held_out"]]:
    """Return the rows to fit on, and the rows to judge by: one a held-out item.

    All views of an item lie on the same side, and one is judged: the first that stands there.

    Args:
        share: of the items to hold out; at least 10 are, and at most half.
        most: hold out no more items than this.
        seed: decides which.
    """
    wanted = min(max(round(share * pairs.items), 10), most, pairs.items // 2)
    held_out = np.random.default_rng([seed, 0]).permutation(pairs.items)[:wanted]
    away = np.isin(pairs.item_of, held_out)
    _, first = np.unique(pairs.item_of, return_index=True)
    return np.flatnonzero(~away), np.sort(first[held_out])


def _views(ids: Ids) -> tuple[list[str], np.ndarray]:
    """Return each id without its view, and the view; if an id names none, all are items."""
    matches = [_VIEW.fullmatch(item) for item in ids]
    if not all(matches):
        return list(ids), np.zeros(len(ids), np.int64)
    named = [match for match in matches if match]
    return [match[1] for match in named], np.array([int(match[2]) for match in named])


def _check_same_items(old: Embeddings, other: Embeddings, what: str) -> None:
    if old.ids == other.ids:
        return
    if len(old) != len(other):
        raise TransformationError(
            f"there are {len(old)} old embeddings and {len(other)} {what} embeddings; a fit needs "
            "both for the same items in the same order. Keep the items that both have, by .align"
        )
    row = next(i for i, (a, b) in enumerate(zip(old.ids, other.ids, strict=True)) if a != b)
    same = set(old.ids) == set(other.ids)
    remedy = (
        "the same items in another order: give other.align(old.ids)"
        if same
        else "they are not the same items; embed the same ones with each model"
    )
    raise TransformationError(
        f"row {row} is item {old.ids[row]!r} in the old embeddings and {other.ids[row]!r} in the "
        f"{what} embeddings: {remedy}"
    )
