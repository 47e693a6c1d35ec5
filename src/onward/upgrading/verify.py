"""Prove that an upgrade is complete and right, from what is stored now.

Complete: no row that could be carried over is left, the ids of all rows less those with a new
vector are those of the rows that cannot be carried, and no item that can be found now would be lost
by cutting over. Intact: upgraded vectors, a sample or all, are what the transformation makes of the
old vectors and side-information that are stored now; where these were dropped, that cannot be known
any more, and the verification says so. Good enough: queries whose answers are known
find what they should. A verification says of which state of the gallery it speaks, and is stale as
soon as a row has changed, even by a program that is not Onward.
"""

import hashlib
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt64

from onward.gallery import Batch, Gallery, GalleryRows, GalleryView
from onward.plain import Plain, fields_of
from onward.progress import Progress
from onward.spaces import Space
from onward.transformation import Transformation
from onward.upgrading.canaries import Canaries, CanaryResult, ask_canaries
from onward.upgrading.routes import (
    EXAMPLES,
    Blocked,
    Routes,
    Work,
    carried,
    choose_batch_rows,
    measure_work,
    needed_spaces,
    pending_ids,
    transform,
)
from onward.upgrading.steps import check_started, next_step

Marks = UInt64[np.ndarray, " row"]

EVENT = "verify"
SAMPLE_ROWS = 1000
TOLERANCE = 1e-4
"""Of a recomputed vector's length; what two machines differ by is a thousandth of it."""


@dataclass(frozen=True)
class IdSets(Plain):
    """What the ids of a gallery's rows say.

    Attributes:
        rows: how many different ids there are.
        repeated: how many rows have an id that another row has too; 0 in a sound gallery.
        missing: how many ids have no vector in the space.
    """

    rows: int
    repeated: int
    missing: int


@dataclass(frozen=True, eq=False)
class Verification:
    """What was proved of an upgrade, and of which state of the gallery.

    Attributes:
        transformation: digest of the transformation, or of all of them where there are fallbacks.
        state: of the gallery's rows when it began; stale once they have another.
        version: of what the store held when it began; stale once it holds another, even if a
            program other than Onward wrote it, of which the state knows nothing.
        work: rows to do, done and blocked.
        pending: the first few ids of rows that are to be done.
        ids: what the ids of all rows, and of those with a new vector, say.
        leave_out: whether items may be lost by cutting over that the transformation cannot carry.
        checked: upgraded rows that were recomputed.
        upgraded: upgraded rows that could have been.
        embedded: rows whose new vector a model made; there is nothing to recompute.
        gone: spaces that the transformation reads and that were dropped; without them nothing can
            be recomputed.
        wrong: rows whose vector is not what the transformation makes of what is stored.
        wrong_examples: the first few of their ids.
        canaries: what queries found whose answers are known, if there were such.
        seconds: how long it took.
    """

    transformation: str
    state: str
    version: str
    work: Work
    pending: tuple[str, ...]
    ids: IdSets
    leave_out: bool
    checked: int
    upgraded: int
    embedded: int
    gone: tuple[Space, ...]
    wrong: int
    wrong_examples: tuple[str, ...]
    canaries: CanaryResult | None
    seconds: float

    @property
    def lost(self) -> tuple[Blocked, ...]:
        """Rows that can be found now and could not after cutting over."""
        return tuple(one for one in self.work.blocked if one.answering)

    @property
    def complete(self) -> bool:
        """Whether no row is left to do, and none would be lost unless that is allowed."""
        return not self.work.to_do and self.adds_up and (self.leave_out or not self.lost)

    @property
    def adds_up(self) -> bool:
        """Whether no id stands twice, and those without a new vector are to do or blocked."""
        left = self.work.to_do + self.work.skipped
        return not self.ids.repeated and self.ids.missing == left

    @property
    def intact(self) -> bool | None:
        """Whether every recomputed vector is as stored; None if no vector can be recomputed."""
        return None if self.gone and self.upgraded else not self.wrong

    @property
    def good_enough(self) -> bool:
        """Whether the canaries found what they should; true if there were none."""
        return self.canaries is None or self.canaries.met

    @property
    def passed(self) -> bool:
        """Whether the new space may answer queries."""
        return self.complete and self.intact is not False and self.good_enough

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, with what to do next."""
        return {
            "passed": self.passed,
            "complete": self.complete,
            "intact": self.intact,
            "good_enough": self.good_enough,
            **fields_of(self, without=("work",)),
            **self.work.to_json(),
            "wrong": None if self.intact is None else self.wrong,
            "next_steps": self._next_steps(),
        }

    def __str__(self) -> str:
        work = self.work
        left_out = " (allowed)" if self.leave_out else ""
        lines = [
            f"verification {'passed' if self.passed else 'FAILED'} in {self.seconds:,.1f} s",
            f"  rows       {work.done:,} of {work.rows:,} done, {work.to_do:,} to do"
            + (f" ({', '.join(self.pending)})" if self.pending else ""),
            *(f"  left out   {one}{left_out if one.answering else ''}" for one in work.blocked),
            f"  recomputed {self._integrity()}",
            f"  embedded   {self.embedded:,} rows, by a model",
        ]
        if not self.adds_up:
            lines.append(
                f"  ids        {self.ids.rows:,}, {self.ids.repeated:,} of them repeated and "
                f"{self.ids.missing:,} without a new vector: that does not add up"
            )
        if self.canaries is not None:
            lines.append(f"  canaries   {self.canaries}")
        return "\n".join(lines)

    def _integrity(self) -> str:
        if self.intact is None:
            names = " and ".join(space.name for space in self.gone)
            return (
                f"none of {self.upgraded:,} upgraded rows: what they were made from ({names}) was "
                "dropped, so whether they are right cannot be known any more"
            )
        examples = f" ({', '.join(self.wrong_examples)})" if self.wrong else ""
        return (
            f"{self.checked:,} of {self.upgraded:,} upgraded rows, {self.wrong:,} wrong{examples}"
        )

    def _next_steps(self) -> list[dict[str, str]]:
        if self.passed:
            passed = "the verification has passed"
            return [] if self.gone else [next_step("cut_over", passed)]  # it was completed
        steps = []
        if self.wrong:
            why = f"{self.wrong:,} vectors are wrong: drop the new space, and start again"
            steps.append(next_step("start", why))
        if self.work.to_do:
            steps.append(next_step("run", f"{self.work.to_do:,} rows are to be done"))
        if self.lost and not self.leave_out:
            rows = sum(one.rows for one in self.lost)
            why = f"{rows:,} items cannot be carried over: embed them, or allow that they are lost"
            why += " by verifying with leave_out (--leave-out)"
            steps.append(next_step("verify", why))
        if not self.adds_up:
            why = "the ids do not add up: rows changed meanwhile, or an id stands twice"
            steps.append(next_step("verify", why))
        if not self.good_enough:
            why = "the canaries find too little: embed some items again by the new model"
            steps.append(next_step("backfill", why))
        return steps


def verify_upgrade(
    gallery: Gallery,
    routes: Routes,
    *,
    sample_rows: int | None,
    leave_out: bool,
    tolerance: float,
    canaries: Canaries | None,
    progress: Progress,
) -> Verification:
    """Verify an upgrade that was started; log what was found. See `Upgrade.verify`."""
    begin, view = time.perf_counter(), gallery.view()
    check_started(view, routes)
    version, state = view.version(), view.state()
    work, counts = measure_work(view, routes), view.counts[routes.new]
    pending = _pending(view, routes, work)
    asked = None if canaries is None else ask_canaries(view, routes.new, canaries)
    gone = _dropped(view, routes)
    checked, wrong = 0, list[str]()
    if not gone:
        checked, wrong = _recompute(view, routes, sample_rows, tolerance, progress)
    verification = Verification(
        transformation=routes.digest,
        state=state,
        version=version,
        work=work,
        pending=pending,
        ids=compare_ids(view, routes.new),
        leave_out=leave_out,
        checked=checked,
        upgraded=counts.upgraded,
        embedded=counts.embedded,
        gone=gone,
        wrong=len(wrong),
        wrong_examples=tuple(sorted(wrong)[:EXAMPLES]),
        canaries=asked,
        seconds=time.perf_counter() - begin,
    )
    gallery.log({"event": EVENT, **verification.to_json()})
    return verification


def verification_state(view: GalleryView, routes: Routes) -> str:
    """Return "none", "passed", "failed", or "stale" if rows have changed since, by whomever."""
    entry = latest_verification(view, routes)
    if entry is None:
        return "none"
    # Of one that was made before versions were known, the state alone tells.
    if "version" in entry and entry["version"] != view.version():
        return "stale"
    if entry["state"] != view.state():
        return "stale"
    return "passed" if entry["passed"] else "failed"


def latest_verification(view: GalleryView, routes: Routes) -> Mapping[str, Any] | None:
    """Return the journal's newest entry of a verification of this upgrade, if there is one."""
    for entry in reversed(view.journal):
        if entry["event"] == EVENT and entry["transformation"] == routes.digest:
            return entry
    return None


def compare_ids(gallery: GalleryRows, space: Space) -> IdSets:
    """Compare the ids of all rows with those that have a vector in a space: none lost, none twice.

    They are compared by 8 bytes of a digest each, so a million rows take 8 MB.
    """
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


def _pending(view: GalleryView, routes: Routes, work: Work) -> tuple[str, ...]:
    """Return the first few ids of what is to be done, without what no transformation carries."""
    if not work.to_do:
        return ()
    found = pending_ids(view, routes, EXAMPLES + len(work.left))
    return tuple(item for item in found if item not in work.left)[:EXAMPLES]


def _dropped(view: GalleryView, routes: Routes) -> tuple[Space, ...]:
    """Return what the transformations read that is there no more: `complete` may drop it."""
    read = dict.fromkeys(space for one in routes.transformations for space in needed_spaces(one))
    there = view.spaces()
    return tuple(space for space in read if space not in there)


def _recompute(
    view: GalleryView,
    routes: Routes,
    sample_rows: int | None,
    tolerance: float,
    progress: Progress,
) -> tuple[int, list[str]]:
    """Return how many upgraded rows were recomputed, and the ids of those that are wrong."""
    total = view.count([routes.new])
    chosen = None
    if sample_rows is not None and sample_rows < total:
        chosen = view.sample([routes.new], sample_rows, seed=secrets.randbits(32))
        total = len(chosen)
    checked, seen, wrong = 0, 0, list[str]()
    rows = choose_batch_rows(*routes.transformations)
    for transformation, batch in carried(view, routes, rows, chosen):
        upgraded, bad = _wrong_rows(transformation, batch, tolerance)
        wrong += bad
        checked, seen = checked + upgraded, seen + len(batch)
        progress(seen, total)
    return checked, _made_by_none(view, routes, wrong, tolerance)


def _made_by_none(view: GalleryView, routes: Routes, ids: list[str], tolerance: float) -> list[str]:
    """Return the items whose vector is what none of the transformations makes.

    A row that a fallback has carried, and that got what the first transformation reads only then,
    is right as it is.
    """
    left, there = set(ids), set(view.spaces())
    for fallback in routes.fallbacks:
        spaces = (*needed_spaces(fallback), routes.new)
        for batch in view.scan(spaces, ids=left) if left and there >= set(spaces) else ():
            left -= set(batch.ids) - set(_wrong_rows(fallback, batch, tolerance)[1])
    return sorted(left)


def _wrong_rows(
    transformation: Transformation, batch: Batch, tolerance: float
) -> tuple[int, list[str]]:
    """Return how many rows are upgraded, and the ids of those that are not what is made of them.

    Wrong is also a vector where the transformation gives none.
    """
    new = transformation.new
    upgraded = np.array([one == "upgraded" for one in batch.origins[new]], np.bool_)
    carried = transform(transformation, batch)
    made = carried.embeddings.vectors.astype(np.float64)
    apart = np.linalg.norm(batch.vectors[new][carried.rows] - made, axis=1)
    right = np.zeros(len(batch), np.bool_)
    right[carried.rows] = apart <= tolerance * np.linalg.norm(made, axis=1)  # false for NaN
    wrong = np.flatnonzero(upgraded & ~right)
    return int(upgraded.sum()), [batch.ids[row] for row in wrong]
