"""What an upgrade has to do, read from the rows themselves: there is no cursor that could be wrong.

A row is to be done if it has what the transformation needs and no vector in the new space.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onward.errors import UpgradeError
from onward.gallery import Batch, Gallery
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation

NO_OLD, NO_SIDE = "no vector in the old space", "no side-information"
EXAMPLES = 5
"""How many ids of rows that cannot be done are named."""

BATCH_BYTES = 32 << 20
FEWEST_ROWS, MOST_ROWS = 256, 16384


@dataclass(frozen=True)
class Blocked:
    """Rows that have no vector in the new space and cannot get one by the transformation.

    Attributes:
        reason: what they lack.
        rows: how many they are.
        examples: the first few ids.
        answering: whether these rows have an old vector, and so can be found until cutting over.
    """

    reason: str
    rows: int
    examples: tuple[str, ...]
    answering: bool

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"reason": self.reason, "rows": self.rows, "examples": list(self.examples)}

    def __str__(self) -> str:
        more = ", ..." if self.rows > len(self.examples) else ""
        return f"{self.rows:,} rows: {self.reason} ({', '.join(self.examples)}{more})"


@dataclass(frozen=True)
class Work:
    """How far an upgrade is.

    Attributes:
        rows: all items; those to do, done and blocked together.
        to_do: rows that the transformation can carry over and has not yet.
        done: rows with a vector in the new space, however it came to be.
        blocked: rows that the transformation cannot carry over.
    """

    rows: int
    to_do: int
    done: int
    blocked: tuple[Blocked, ...]

    @property
    def skipped(self) -> int:
        """How many rows are blocked."""
        return sum(one.rows for one in self.blocked)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "rows": self.rows,
            "to_do": self.to_do,
            "done": self.done,
            "blocked": [one.to_json() for one in self.blocked],
        }


def needed_spaces(transformation: Transformation) -> tuple[Space, ...]:
    """Return the spaces that the transformation reads: old, and side where it uses one."""
    side = transformation.side
    return (transformation.old,) if side is None else (transformation.old, side)


def check_fits(gallery: Gallery, transformation: Transformation) -> None:
    """Refuse a transformation that reads a space which the gallery lacks, or one that it writes.

    Raises:
        UpgradeError: saying what is missing, and whether the direction is wrong.
    """
    spaces = gallery.spaces()
    old, side, new = transformation.old, transformation.side, transformation.new
    known = ", ".join(str(space) for space in spaces)
    if new in (old, side):
        raise UpgradeError(
            f"the transformation goes from {old} to {new}, which it reads itself; there is nothing "
            "to upgrade, and what was given stays as it is. Give a transformation to another space"
        )
    if old not in spaces:
        why = f"gallery {gallery.url} has no vectors in {old}; it has {known}"
        if new in spaces:
            raise UpgradeError(
                f"the transformation goes from {old} to {new}, but {why}. It seems to go the wrong "
                f"way: fit one from {new.name}"
            )
        raise UpgradeError(
            f"{why}. Give a transformation from one of these, or fit one from the old model's "
            "embeddings"
        )
    if side is not None and side not in spaces:
        raise UpgradeError(
            f"the transformation needs side-information in {side}, but gallery {gallery.url} has "
            f"none; it has {known}. Fit a transformation without side-information, or store the "
            "side-information first (add_space, then write)"
        )


def measure_work(gallery: Gallery, transformation: Transformation) -> Work:
    """Count what is done, to be done and blocked; reads no vectors."""
    old, side, new = transformation.old, transformation.side, transformation.new
    missing = [new] if new in gallery.spaces() else []
    rows = gallery.count()
    done = gallery.count([new]) if missing else 0
    blocked = [_blocked(gallery, NO_OLD, [], [old, *missing])]
    if side is not None:
        blocked.append(_blocked(gallery, NO_SIDE, [old], [side, *missing]))
    to_do = gallery.count(needed_spaces(transformation), missing)
    return Work(rows, to_do, done, tuple(one for one in blocked if one.rows))


def choose_batch_rows(transformation: Transformation) -> int:
    """Return how many rows take about 32 MiB: what is read, what is written, and copies."""
    dims = sum(space.dim for space in (*needed_spaces(transformation), transformation.new))
    return min(MOST_ROWS, max(FEWEST_ROWS, BATCH_BYTES // (16 * dims)))


def transform(transformation: Transformation, batch: Batch) -> Embeddings:
    """Return the new vectors of a batch.

    Raises:
        EmbeddingsError: if a stored vector is damaged.
        TransformationError: if a vector comes out NaN or infinite; both name the item.
    """
    old, side = transformation.old, transformation.side
    aside = None if side is None else Embeddings(batch.ids, batch.vectors[side], side)
    return transformation.apply(Embeddings(batch.ids, batch.vectors[old], old), aside)


def describe_transformation(transformation: Transformation) -> dict[str, Any]:
    """Return what a gallery records of the transformation that fills a space."""
    old, side, new = transformation.old, transformation.side, transformation.new
    return {
        "digest": transformation.digest,
        "old": old.to_json(),
        "side": None if side is None else side.to_json(),
        "new": new.to_json(),
    }


COMMANDS = {
    "start": "onward upgrade start",
    "run": "onward upgrade start",
    "verify": "onward upgrade verify",
    "cut_over": "onward upgrade cutover",
    "roll_back": "onward upgrade rollback",
}
"""Of each step, a method of `Upgrade`: the command that does it."""


def next_step(step: str, why: str) -> dict[str, str]:
    """Return what to do next, for machines: the method of `Upgrade`, its command, and why."""
    return {"step": step, "command": COMMANDS[step], "why": why}


def check_started(gallery: Gallery, transformation: Transformation) -> Mapping[str, Any]:
    """Refuse to go on with an upgrade that was not started, or with another transformation.

    Raises:
        UpgradeError: saying which of the two.
    """
    made_by = gallery.made_by(transformation.new)
    if made_by is None:
        raise UpgradeError(
            f"the upgrade of gallery {gallery.url} from {transformation.old.name} to "
            f"{transformation.new.name} was not started; start it first"
        )
    check_same_transformation(gallery, transformation, made_by)
    return made_by


def check_same_transformation(
    gallery: Gallery, transformation: Transformation, made_by: Mapping[str, Any]
) -> None:
    """Refuse to mix vectors of two transformations in one space.

    Raises:
        UpgradeError: naming both.
    """
    if made_by.get("digest") != transformation.digest:
        raise UpgradeError(
            f"the upgrade of gallery {gallery.url} to {transformation.new.name} was started with "
            f"the transformation {str(made_by.get('digest'))[:8]}, this is "
            f"{transformation.digest[:8]}; vectors of two transformations may not be mixed. Go on "
            f"with the first, or drop the space {transformation.new.name} and start again"
        )


def _blocked(gallery: Gallery, reason: str, has: list[Space], lacks: list[Space]) -> Blocked:
    rows = gallery.count(has, lacks)
    examples = gallery.ids(has, lacks, limit=EXAMPLES) if rows else ()
    return Blocked(reason, rows, examples, answering=bool(has))
