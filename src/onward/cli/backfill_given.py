"""`onward backfill --embeddings`: write what the new model has embedded already."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onward.cli.output import tell

if TYPE_CHECKING:
    from onward.gallery import Gallery
    from onward.spaces import Embeddings
    from onward.upgrading.backfill import BackfillResult
    from onward.upgrading.budget import Budget

NAMED = 5
"""Number of items that are named; more are counted."""


@dataclass(frozen=True)
class Absent:
    """Items that stand in one of two places only: how many, and the first few of them."""

    items: int = 0
    examples: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"items": self.items, "examples": list(self.examples)}

    def __str__(self) -> str:
        more = ", ..." if self.items > len(self.examples) else ""
        return f"({', '.join(self.examples)}{more})"


@dataclass(frozen=True)
class Given:
    """What became of embeddings that were given.

    Attributes:
        result: of writing them.
        not_in_gallery: of them, those whose items are not there.
        not_in_file: items that the budget asks for beyond those that were given.
    """

    result: "BackfillResult"
    not_in_gallery: Absent
    not_in_file: Absent

    def to_json(self) -> dict[str, Any]:
        """Return what is absent, for a machine."""
        return {
            "not_in_gallery": self.not_in_gallery.to_json(),
            "not_in_file": self.not_in_file.to_json(),
        }


def write_given(
    gallery: "Gallery",
    given: "Embeddings",
    path: Path,
    budget: "Budget",
    *,
    all_given: bool,
    order: Literal["uncertainty", "random"],
    seed: int,
) -> Given:
    """Write embeddings into the rows that wait for them, and tell what could not be done.

    Args:
        gallery: the gallery.
        given: what the new model has embedded.
        path: where that stood, to be told.
        budget: how much of it.
        all_given: whether no budget was named: then no more is asked for than was given.
        order: as `backfill` takes it.
        seed: as `backfill` takes it.
    """
    from onward.progress import progress_bar
    from onward.upgrading.backfill import backfill, embeddings_given

    paid = None if all_given else budget.rows_of(gallery.count())
    waiting = frozenset[str]() if paid is None else frozenset(_waiting(gallery, given))
    with progress_bar("Write", unit="rows") as progress:
        result = backfill(
            gallery,
            given.space,
            embeddings_given(given),
            budget=budget,
            order=order,
            seed=seed,
            ids=given.ids,
            progress=progress,
        )
    there = {item for batch in gallery.scan((), ids=given.ids) for item in batch.ids}
    strangers = _first(set(given.ids) - there)
    asked = min(paid or 0, len(waiting))
    lacking = waiting - set(given.ids)
    short = 0 if result.stopped else min(len(lacking), asked - result.done - result.changed)
    absent = Absent(short, _first(lacking).examples[:short]) if short > 0 else Absent()
    tell(f"{result.done:,} of the {len(given):,} embeddings in {path} were written")
    if strangers.items:
        tell(
            f"{strangers.items:,} of their items are not in {gallery.url} {strangers}: add these "
            "(onward gallery add)"
        )
    if absent.items:
        tell(
            f"{absent.items:,} of the {asked:,} items that the budget asks for are not in {path}; "
            f"it lacks {absent}: embed such items too (--model), or give a smaller --budget"
        )
    return Given(result, strangers, absent)


def _first(items: "set[str] | frozenset[str]") -> Absent:
    return Absent(len(items), tuple(heapq.nsmallest(NAMED, items)))


def _waiting(gallery: "Gallery", given: "Embeddings") -> "Iterator[str]":
    """Give the items that no model has embedded in the space."""
    space = given.space
    if space not in gallery.spaces():
        return
    yield from gallery.ids(without=[space])
    for batch in gallery.scan([space]):
        origins: tuple[Any, ...] = batch.origins[space]
        yield from (
            item for item, origin in zip(batch.ids, origins, strict=True) if origin == "upgraded"
        )
