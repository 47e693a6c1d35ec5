"""Work off the rows that are to be done, batch by batch, in bounded memory.

What is left to do is in the rows: a run may be stopped or killed at any moment and another goes on.
A row of which no transformation makes a vector is left and does not stop the others.
Where the store has a way to fill the new space in large parts of the rows, this comes first; the
rest is scanned and written, and so is everything while the rate is limited.
Several workers may run one upgrade: they split the rows by their ids, and split them again when one
comes or goes. No image can be read here: nothing that could is imported.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from onward.errors import GalleryError, UpgradeError
from onward.gallery import Batch, Control, Derived, Gallery, Share
from onward.plain import fields_of
from onward.progress import Progress, silent
from onward.spaces import Space
from onward.transformation import Carried, Transformation
from onward.upgrading.routes import (
    Blocked,
    Routes,
    attempt,
    check_started,
    check_whole,
    choose_batch_rows,
    count_pending,
    fill_first,
    is_started,
    measure_work,
    next_step,
    pending,
    transform,
)

LOOK_SECONDS = 0.5
"""Seconds between the looks of a run that waits whether it may go on."""
FRUITLESS_PASSES = 3
"""Passes that may write nothing, as other processes change their rows, before a run gives up."""
COMPACTED_SHARE = 0.1
"""A run that has rewritten more of a gallery's rows than this has it compacted at its end."""
PASS_SECONDS = 600.0
"""Seconds after which a pass begins again: it reads what was stored when it began."""
PATIENCE_SECONDS = 30.0
"""After so long without a row written by them, what other workers hold is taken over."""

Outcome = Literal["nothing", "done", "cut short", "stopped"]
"""Of a pass: nothing was pending, all was done, there may be more to do, or it was told to stop."""


@dataclass(frozen=True)
class UpgradeResult:
    """What a run has done.

    Attributes:
        done: rows written in this run.
        skipped: rows that the transformation cannot carry over.
        remaining: rows that are still to be done.
        seconds: how long it took.
        stopped: whether it was asked to stop.
        blocked: the rows that cannot be done, by why.
    """

    done: int
    skipped: int
    remaining: int
    seconds: float
    stopped: bool
    blocked: tuple[Blocked, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values, with what to do next."""
        return {**fields_of(self), "next_steps": self._next_steps()}

    def __str__(self) -> str:
        rate = f", {self.done / self.seconds:,.0f} rows a second" if self.done else ""
        stopped = "stopped: " if self.stopped else ""
        lines = [
            f"{stopped}{self.done:,} rows upgraded in {self.seconds:,.1f} s{rate}; "
            f"{self.remaining:,} remaining, {self.skipped:,} skipped",
            *(f"  blocked  {one}" for one in self.blocked),
        ]
        return "\n".join(lines)

    def _next_steps(self) -> list[dict[str, str]]:
        if self.remaining:
            return [next_step("run", f"{self.remaining:,} rows remain")]
        steps = [next_step("verify", "every row that can be done is done")]
        if self.skipped:
            why = f"{self.skipped:,} rows cannot be carried over: embed them with the new model"
            steps.append(next_step("backfill", why))
        return steps


class Pace:
    """Keeps one worker to what the gallery's record asks for, over time.

    Rows beyond the limit are waited for before the next batch; time in which nothing was written
    is not made up for.

    Args:
        gallery: the gallery.
        space: what is filled.
        stop: says whether to end; asked before every batch, and again and again while waiting.

    Attributes:
        view: the gallery as it was last looked at: once before every batch.
    """

    def __init__(self, gallery: Gallery, space: Space, stop: Callable[[], bool]) -> None:
        self._gallery = gallery
        self._space = space
        self._stop = stop
        self.view = gallery.view()
        self._is_new = True  # nothing was done since it was looked at
        self._owed = 0.0  # rows
        self._looked = time.monotonic()

    def next_rows(self, rows: int, workers: int, waiting: Callable[[], None]) -> int | None:
        """Wait until a batch may be written; return how many rows it may have.

        Args:
            rows: how many it has at most.
            workers: how many share the limit.
            waiting: called before it waits.

        Returns:
            At most as many as the limit gives for a second; None if it is to end.
        """
        while not self._stop():
            self.view = self.view if self._is_new else self._gallery.view()
            self._is_new, control = False, self.control
            rate = None if control.rows_per_second is None else control.rows_per_second / workers
            passed, self._looked = time.monotonic() - self._looked, time.monotonic()
            self._owed = 0.0 if rate is None else max(0.0, self._owed - passed * rate)
            if not control.paused and not self._owed:
                batch = rows if rate is None else max(1, min(rows, int(rate)))
                self._owed = 0.0 if rate is None else float(batch)
                return batch
            waiting()
            due = LOOK_SECONDS if control.paused or not rate else self._owed / rate
            time.sleep(min(LOOK_SECONDS, due))
        return None

    @property
    def control(self) -> Control:
        """What was asked for when this was last looked at."""
        return self.view.control(self._space)


@dataclass
class _Run:
    """One run under way: rows are read and transformed while the batch before is written."""

    routes: Routes
    batch_rows: int
    progress: Progress
    pace: Pace
    writer: Executor
    done: int = 0
    left: int = 0
    stopped: bool = False
    total: int = field(init=False)
    rewritten: int = 0
    writing: "Future[int] | None" = None

    def __post_init__(self) -> None:
        self.total = count_pending(self.pace.view, self.routes)

    def work_off(self) -> None:
        """Make passes over the pending rows until none is left: others may add some meanwhile.

        Where others never rest, a later pass that found less than a batch ends it: there would
        always be some.
        """
        self.progress(0, self.total)
        with self.pace.view.working_on(self.routes.new) as share_now:
            fruitless, alone, passes = 0, False, 0
            while fruitless < FRUITLESS_PASSES:
                present, before = share_now(), self.done
                share = Share() if alone else present
                outcome = self._pass(share, present, share_now)
                if outcome == "nothing" and not share.is_everything:
                    outcome, alone = self._await_others(share_now)
                if outcome in ("nothing", "stopped"):
                    self.stopped = outcome == "stopped"
                    return
                passes += outcome == "done"
                caught_up = passes > 1 and 0 < self.done - before < self.batch_rows
                if outcome == "done" and share.is_everything and caught_up:
                    return
                fruitless = fruitless + 1 if outcome == "done" and self.done == before else 0

    def settle(self) -> None:
        """Wait until the batch that is being written is written."""
        writing, self.writing = self.writing, None
        if writing is None:
            return
        written = writing.result()
        self.done += written
        self.rewritten += written
        self.progress(self.done, max(self.total, self.done))

    def _pass(self, share: Share, present: Share, share_now: Callable[[], Share]) -> Outcome:
        """Work off what is pending of a share now, unless the workers are no longer the same.

        Rows that get no vector are left: where there are no others, nothing is to be done.
        """
        outcome = self._fill(share_now)
        if outcome == "stopped":
            return outcome
        begin = time.monotonic()
        for transformation, batch in pending(self.pace.view, self.routes, self.batch_rows, share):
            rest = batch
            while len(rest):
                rows = self.pace.next_rows(len(rest), share.of, self.settle)
                is_old = outcome == "done" and time.monotonic() - begin > PASS_SECONDS
                if rows is None or is_old or share_now() != present:
                    self.settle()
                    return "stopped" if rows is None else "cut short"
                if self._begin_writing(transformation, rest.part(0, rows)):
                    outcome = "done"
                rest = rest.part(rows, len(rest))
        self.settle()
        return outcome

    def _fill(self, share_now: Callable[[], Share]) -> Outcome:
        """Fill what the store can fill in large parts; another worker's parts are waited for."""
        outcome: Outcome = "nothing"
        underway = 0

        def derive(batch: Batch) -> Derived | None:
            nonlocal outcome, underway
            rows = self.pace.next_rows(len(batch), 1, self.settle)
            if rows is None:
                outcome = "stopped"
            if rows is None or self.pace.control.rows_per_second:  # what is under way is dropped
                return None
            new, unsure = _derived(self.routes.first, transform(self.routes.first, batch))
            underway += len(new)
            self.progress(self.done + underway, max(self.total, self.done + underway))
            return new, unsure

        if self.pace.control.rows_per_second:
            return outcome
        for written in fill_first(self.pace.view, self.routes, self.batch_rows, derive, share_now):
            self.done += written
            underway = 0
            outcome = "done" if written else outcome
            if not written:
                if self.pace.next_rows(1, 1, self.settle) is None:
                    return "stopped"
                time.sleep(LOOK_SECONDS)
        return outcome

    def _begin_writing(self, transformation: Transformation, batch: Batch) -> int:
        """Begin to write what is made of some rows; return of how many something is."""
        made, left = attempt(self.pace.view, self.routes, transformation, batch)
        self.left += len(left)
        for by, rows, carried in made:
            new, unsure = _derived(by, carried)
            if not len(new):
                continue
            self.settle()
            self.writing = self.writer.submit(
                self.pace.view.write,
                new,
                rows.revisions[carried.rows],
                origin="upgraded",
                uncertainty=unsure,
                made_by=self.routes.digest,
            )
        return len(batch) - len(left)

    def _await_others(self, share_now: Callable[[], Share]) -> tuple[Outcome, bool]:
        """Wait for what is left in others' shares.

        Returns:
            "nothing" if they have done it, "cut short" if there is more to be done by this worker;
            and whether that is everything, because they do not get on with it.
        """
        present, before, looks = share_now(), -1, 0
        while share_now() == present:
            left = count_pending(self.pace.view, self.routes)
            if not left:
                return "nothing", False
            looks = looks + 1 if left == before else 0
            if looks * LOOK_SECONDS >= PATIENCE_SECONDS:
                return "cut short", True
            before = left
            self.progress(max(self.done, self.total - left), max(self.total, self.done))
            if self.pace.next_rows(1, present.of, self.settle) is None:
                return "stopped", False
            time.sleep(LOOK_SECONDS)
        return "cut short", False


def _derived(transformation: Transformation, carried: Carried) -> Derived:
    new, layer = carried.embeddings, transformation.uncertainty
    return new, None if layer is None else layer.of(new.vectors)


def run_upgrade(
    gallery: Gallery,
    routes: Routes,
    *,
    batch_rows: int | None = None,
    progress: Progress = silent,
    stop: Callable[[], bool] = lambda: False,
) -> UpgradeResult:
    """Work off the rows of an upgrade; log what was done. See `Upgrade.run`.

    Where nothing is left, and much of the gallery was written, the store is compacted: searches of
    the space that serves are then as fast as before.

    Raises:
        UpgradeError: if it was not started, or with other transformations, or is aborted meanwhile.
    """
    if batch_rows is None:
        batch_rows = choose_batch_rows(*routes.transformations)
    check_whole("batch_rows", batch_rows)
    begin = time.perf_counter()
    pace = Pace(gallery, routes.new, stop)
    check_started(pace.view, routes)
    with ThreadPoolExecutor(1) as writer:
        run = _Run(routes, batch_rows, progress, pace, writer)
        try:
            try:
                writer.submit(int).result()  # nobody waits for a thread whose start is interrupted
                run.work_off()
            finally:
                run.settle()
        except KeyboardInterrupt:
            run.stopped = True
        except Exception as error:
            _log_failure(gallery, routes, run.done, error)
            raise
    work = measure_work(gallery.view(), routes, has_left=run.left > 0)
    seconds = time.perf_counter() - begin
    result = UpgradeResult(run.done, work.skipped, work.to_do, seconds, run.stopped, work.blocked)
    event = {"event": "run", "transformation": routes.digest, **result.to_json()}
    after = gallery.log(event | ({"left": list(work.left)} if work.left else {}))
    if not (run.stopped or work.to_do) and run.rewritten > COMPACTED_SHARE * work.rows:
        with suppress(GalleryError):  # the work is done; what is scattered stays so
            after.compact()
    return result


def _log_failure(gallery: Gallery, routes: Routes, done: int, error: Exception) -> None:
    """Log what went wrong.

    Raises:
        UpgradeError: where it is that the upgrade was aborted while it ran.
    """
    if isinstance(error, GalleryError) and not is_started(gallery.view(), routes):
        raise UpgradeError(
            f"the upgrade of gallery {gallery.url} to {routes.new.name} was aborted while it ran",
            "what it had written is gone with the space. The old vectors and the side-information "
            "are as they were: start it again if it was not meant to end",
        )
    event = {"event": "run", "transformation": routes.digest, "done": done, "error": str(error)}
    steps = [next_step("run", "once what the error says is put right; it goes on where it ended")]
    with suppress(Exception):  # what went wrong first is what is to be told
        gallery.log({**event, "next_steps": steps})
