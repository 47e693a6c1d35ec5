"""What an upgrade would do and cost, before anything is written."""

import time
from dataclasses import dataclass
from typing import Any

from onward.gallery import Gallery, scratch_gallery
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation
from onward.upgrading.routes import Routes, needed_spaces, transform
from onward.upgrading.work import (
    Work,
    check_routes,
    check_same_routes,
    measure_work,
    next_step,
)

SAMPLE_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Plan:
    """What an upgrade would do and cost.

    Attributes:
        gallery: URL of the gallery.
        transformation: digest of the transformation.
        old: space of the vectors to be read.
        side: space of the side-information to be read, if any.
        new: space of the vectors to be written.
        work: rows to do, done and blocked.
        bytes: about what will be written; old versions of rows that a store keeps come on top.
        seconds: about how long it will take, from the time that `sampled` rows took. They were
            read from this gallery, transformed, and written to a scratch gallery of its kind where
            temporary files go.
        sampled: how many rows were.
        writes: what will be written, a sentence each.
    """

    gallery: str
    transformation: str
    old: Space
    side: Space | None
    new: Space
    work: Work
    bytes: int
    seconds: float
    sampled: int
    writes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, with what to do next."""
        return {
            "gallery": self.gallery,
            "transformation": self.transformation,
            "old": self.old.to_json(),
            "side": None if self.side is None else self.side.to_json(),
            "new": self.new.to_json(),
            **self.work.to_json(),
            "bytes": self.bytes,
            "seconds": self.seconds,
            "sampled": self.sampled,
            "writes": list(self.writes),
            "next_steps": self._next_steps(),
        }

    def __str__(self) -> str:
        side = "" if self.side is None else f" with side-information {self.side}"
        work = self.work
        lines = [
            f"plan for gallery {self.gallery}: {self.old} -> {self.new}{side}",
            f"  to do    {work.to_do:,} of {work.rows:,} rows, {work.done:,} are done already",
            *(f"  blocked  {one}" for one in work.blocked),
            f"  time     about {self.seconds:,.1f} s, measured on {self.sampled:,} rows",
            f"  bytes    {self.bytes:,}",
            *(f"  writes   {one}" for one in self.writes),
            "  A plan writes nothing.",
        ]
        return "\n".join(lines)

    def _next_steps(self) -> list[dict[str, str]]:
        if self.work.to_do:
            return [next_step("start", f"{self.work.to_do:,} rows can be upgraded")]
        if self.work.done:
            return [next_step("verify", "no row is left to do")]
        return []


def plan_upgrade(
    gallery: Gallery,
    transformation: Transformation,
    *fallbacks: Transformation,
    sample_rows: int = SAMPLE_ROWS,
) -> Plan:
    """Say what upgrading a gallery would do and cost. Nothing is written to it.

    Args:
        gallery: the gallery.
        transformation: from a space of the gallery to the new one.
        fallbacks: for rows that lack what the first one reads; see `onward.upgrading.routes`.
        sample_rows: how many rows are read, transformed and written elsewhere to measure the time.

    Raises:
        UpgradeError: if the gallery lacks a space that the transformation reads, or an upgrade to
            the new space was started with another transformation.
    """
    routes = Routes((transformation, *fallbacks))
    check_routes(gallery, routes)
    made_by = gallery.made_by(routes.new)
    if made_by is not None:
        check_same_routes(gallery, routes, made_by)
    work = measure_work(gallery, routes)
    seconds, sampled = _seconds_per_row(gallery, transformation, sample_rows)
    new = transformation.new
    writes = (
        f"the space {new} in every row, empty, and {routes.digest[:8]} as what fills it",
        f"a vector of {new.dim} numbers and the origin 'upgraded' in {work.to_do:,} rows",
        "what was done, in the gallery's journal",
    )
    return Plan(
        gallery=gallery.url,
        transformation=routes.digest,
        old=transformation.old,
        side=transformation.side,
        new=new,
        work=work,
        bytes=work.to_do * gallery.bytes_of_writing(new),
        seconds=seconds * work.to_do,
        sampled=sampled,
        writes=writes,
    )


def _seconds_per_row(
    gallery: Gallery, transformation: Transformation, sample_rows: int
) -> tuple[float, int]:
    """Return the seconds that a row takes, and how many were read, transformed and written.

    They are written to a scratch gallery of the same kind.
    """
    needed = needed_spaces(transformation)
    batches = gallery.scan(needed, batch_rows=sample_rows)
    begin = time.perf_counter()
    batch = next(batches, None)
    if batch is None:
        return 0.0, 0
    seconds = time.perf_counter() - begin
    transform(transformation, batch)  # the first time opens a session
    begin = time.perf_counter()
    new = transform(transformation, batch)
    seconds += time.perf_counter() - begin
    with scratch_gallery(gallery) as scratch:
        scratch.add_space(transformation.new)
        scratch.add(*(Embeddings(batch.ids, batch.vectors[space], space) for space in needed))
        written = next(scratch.pending(needed, transformation.new, batch_rows=sample_rows))
        begin = time.perf_counter()
        scratch.write(new.align(written.ids), written.revisions, origin="upgraded")
        seconds += time.perf_counter() - begin
    return seconds / len(batch), len(batch)
