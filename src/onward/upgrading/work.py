"""What an upgrade has to do, read from the rows themselves: there is no cursor that could be wrong.

A row is to be done if it has what the transformation needs and no vector in the new space. It is
blocked if it lacks that, or if no transformation gives it a vector: NaN, infinite, or without a
direction. Which rows are of the second kind is known once a run has tried.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from onward.errors import ConfigurationError, EmbeddingsError, UpgradeError
from onward.gallery import Gallery, RecordedRoutes
from onward.spaces import Ids, Space
from onward.transformation import Transformation
from onward.upgrading.routes import (
    Part,
    Routes,
    attempt,
    count_pending,
    needed_spaces,
    pending,
)

NO_OLD, NO_SIDE = "no vector in the old space", "no side-information"
EXAMPLES = 5
"""How many ids of rows that cannot be done are named."""

MOST_NAMED = 1000
"""Number of ids of rows that get no vector kept in the journal; more are counted."""
MOST_TRIED = 16384
"""After so many rows that get a vector it is not looked any further for those that get none."""

BATCH_BYTES = 96 << 20
FEWEST_ROWS, MOST_ROWS = 256, 16384


@dataclass(frozen=True)
class Blocked:
    """Rows that have no vector in the new space and cannot get one by the transformation.

    Attributes:
        reason: what they lack, or what is wrong with what the transformation makes of them.
        rows: how many they are.
        examples: the first few ids.
        answering: whether these rows can be found until cutting over.
    """

    reason: str
    rows: int
    examples: tuple[str, ...]
    answering: bool

    def joined(self, other: "Blocked") -> "Blocked":
        """Return these rows and others for the same reason."""
        examples = tuple(sorted((*self.examples, *other.examples))[:EXAMPLES])
        return replace(self, rows=self.rows + other.rows, examples=examples)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "reason": self.reason,
            "rows": self.rows,
            "examples": list(self.examples),
            "answering": self.answering,
        }

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
        left: ids of the first of those among them that have what it reads, and get no vector.
    """

    rows: int
    to_do: int
    done: int
    blocked: tuple[Blocked, ...]
    left: Ids = ()

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


def check_whole(what: str, value: object, least: int = 1) -> None:
    """Refuse what is not a whole number, of Python or of NumPy, of at least so much.

    Raises:
        ConfigurationError: naming it.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least:  # type: ignore[operator]
        raise ConfigurationError(f"{what} is {value!r}; give a whole number of {least} or more")


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
        filled_by = gallery.made_by(new)
        if filled_by is not None and transformation.digest in filled_by.digests:
            raise UpgradeError(
                f"{why}. The old ones were dropped after this very upgrade: {new} holds what it "
                "has made, and there is nothing to plan; see onward upgrade status"
            )
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
    made_by = gallery.made_by(old)
    if made_by is not None and new in made_by.reads:
        raise UpgradeError(
            f"the transformation goes from {old} to {new}, but the vectors in {old} of gallery "
            f"{gallery.url} are made from those in {new}: it goes the wrong way. To answer queries "
            f"from {new.name} again, roll back (onward upgrade rollback)"
        )


def check_routes(gallery: Gallery, routes: Routes) -> None:
    """Refuse transformations that do not fit the gallery; see `check_fits`."""
    for transformation in routes.transformations:
        check_fits(gallery, transformation)


def measure_work(gallery: Gallery, routes: Routes, *, has_left: bool = False) -> Work:
    """Count what is done, to be done and blocked.

    Vectors are read only if a run has left rows that get none, and only of rows without one.

    Args:
        gallery: the gallery.
        routes: the transformations.
        has_left: whether a run that is not in the journal yet has left such rows.
    """
    rows, spaces = gallery.count(), gallery.spaces()
    done = gallery.count([routes.new]) if routes.new in spaces else 0
    answering = answering_space(gallery, routes)
    found: dict[tuple[str, bool], Blocked] = {}
    for part in routes.uncarried:
        for one in Part(part.filled, (*part.empty, routes.new)).split(answering):
            there = one.among(spaces)
            blocked = None if there is None else _blocked(gallery, routes, there, one, answering)
            if blocked is not None and blocked.rows:
                key = (blocked.reason, blocked.answering)
                found[key] = blocked if key not in found else found[key].joined(blocked)
    to_do = count_pending(gallery, routes)
    left, named = 0, Ids()
    if routes.new not in spaces or not to_do:
        return Work(rows, to_do, done, tuple(found.values()))
    if has_left or left_by_runs(gallery, routes.new, routes.digest):
        for tried, ids in _tried(gallery, routes, answering):
            key = (tried.reason, tried.answering)
            found[key] = tried if key not in found else found[key].joined(tried)
            left, named = left + tried.rows, tuple(heapq.nsmallest(MOST_NAMED, (*named, *ids)))
    return Work(rows, max(0, to_do - left), done, tuple(found.values()), named)


def left_by_runs(gallery: Gallery, new: Space, transformation: str | None) -> Ids:
    """Return the first ids of the rows that the latest run left, because they get no vector.

    Some of them may have one since, be changed, or be gone.

    Args:
        gallery: the gallery.
        new: the space of the upgrade.
        transformation: digest of the transformations.
    """
    for entry in reversed(gallery.journal()):
        if entry["event"] == "run" and entry.get("transformation") == transformation:
            if "error" not in entry:
                return tuple(entry.get("left", ()))
        elif entry["event"] == "start upgrade" and entry.get("space") == new.to_json():
            break
    return ()


def _tried(gallery: Gallery, routes: Routes, answering: Space) -> Iterator[tuple[Blocked, Ids]]:
    """Give, part by part, the rows that have what is read and get no vector; nothing is written.

    Only those before the first part with a damaged vector, which a run names.
    """
    size, made = choose_batch_rows(*routes.transformations), 0
    for transformation, batch in pending(gallery, routes, size):
        try:
            left = attempt(gallery, routes, transformation, batch).left
        except EmbeddingsError:
            return
        there = gallery.scan((), with_spaces=[answering], ids=tuple(left)) if left else ()
        found = {item for part in there for item in part.ids}
        for reason in sorted(set(left.values())):
            for can_be_found in (True, False):
                ids = sorted(
                    item
                    for item in left
                    if left[item] == reason and (item in found) == can_be_found
                )
                if ids:
                    examples = tuple(ids[:EXAMPLES])
                    yield Blocked(reason, len(ids), examples, answering=can_be_found), tuple(ids)
        made += len(batch) - len(left)
        if made > MOST_TRIED:
            return


def choose_batch_rows(*transformations: Transformation) -> int:
    """Return how many rows take about 96 MiB: what is read, what is written, and copies.

    Of the transformation that needs most, if there are several.
    """
    dims = max(
        sum(space.dim for space in (*needed_spaces(one), one.new)) for one in transformations
    )
    return min(MOST_ROWS, max(FEWEST_ROWS, BATCH_BYTES // (16 * dims)))


COMMANDS = {
    "start": "onward upgrade start",
    "run": "onward upgrade start",
    "pause": "onward upgrade pause",
    "resume": "onward upgrade resume",
    "limit": "onward upgrade limit",
    "abort": "onward upgrade abort",
    "verify": "onward upgrade verify",
    "backfill": "onward backfill",
    "write": "onward gallery write",
    "cut_over": "onward upgrade cutover",
    "roll_back": "onward upgrade rollback",
    "complete": "onward upgrade complete",
}
"""Of each step, a method of `Upgrade` or a function of its own: the command that does it."""


def next_step(step: str, why: str) -> dict[str, str]:
    """Return what to do next, for machines: the method of `Upgrade`, its command, and why."""
    return {"step": step, "command": COMMANDS[step], "why": why}


def check_started(gallery: Gallery, routes: Routes) -> RecordedRoutes:
    """Refuse to go on with an upgrade that was not started, or with other transformations.

    Raises:
        UpgradeError: saying which of the two.
    """
    made_by = gallery.made_by(routes.new)
    if made_by is None:
        raise UpgradeError(
            f"the upgrade of gallery {gallery.url} from {routes.first.old.name} to "
            f"{routes.new.name} was not started; start it first (onward upgrade start)"
        )
    check_same_routes(gallery, routes, made_by)
    return made_by


def check_same_routes(gallery: Gallery, routes: Routes, made_by: RecordedRoutes) -> None:
    """Refuse to mix vectors of other transformations in one space.

    Raises:
        UpgradeError: naming both.
    """
    if made_by.digest == routes.digest:
        return
    started, given = made_by.digests, [one.digest for one in routes.transformations]
    if started[0] == given[0]:
        raise UpgradeError(
            f"the upgrade of gallery {gallery.url} to {routes.new.name} was started with "
            f"{_fallback_names(started)}, and now there is {_fallback_names(given)}; give the same "
            "fallbacks in the same order (--also), or drop the space "
            f"{routes.new.name} and start again"
        )
    raise UpgradeError(
        f"the upgrade of gallery {gallery.url} to {routes.new.name} was started with "
        f"the transformation {started[0][:8]}, this is {given[0][:8]}; vectors of two "
        "transformations may not be mixed. Go on "
        f"with the first, or drop the space {routes.new.name} and start again"
    )


def _fallback_names(digests: list[str]) -> str:
    named = ", ".join(one[:8] for one in digests[1:])
    return f"the fallback {named}" if named else "no fallback"


def answering_space(gallery: Gallery, routes: Routes) -> Space:
    """Return the space in which items are found until cutting over to the new one."""
    now = gallery.describe()
    if now.serving != routes.new:
        return now.serving
    return routes.first.old if now.previous is None else now.previous.space


def _blocked(
    gallery: Gallery, routes: Routes, there: Part, part: Part, answering: Space
) -> Blocked:
    rows = gallery.count(there.filled, there.empty)
    examples = gallery.ids(there.filled, there.empty, limit=EXAMPLES) if rows else ()
    return Blocked(_reason(routes, part), rows, examples, answering=answering in part.filled)


def _reason(routes: Routes, part: Part) -> str:
    """Return what these rows lack: of each transformation, the first thing that it reads."""
    first = routes.first
    words = {first.old: NO_OLD, first.side: NO_SIDE}
    lacking = (
        next(space for space in needed_spaces(one) if space in part.empty)
        for one in routes.transformations
    )
    return ", ".join(words.get(one, f"no vector in {one.name}") for one in dict.fromkeys(lacking))
