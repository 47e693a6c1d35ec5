"""Work off the rows that are to be done, batch by batch, in bounded memory.

What is left to do is in the rows: a run may be stopped or killed at any moment and another goes on.
No image can be read here: nothing that could is imported.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from onward.dense import run_uncertainty
from onward.gallery import Gallery
from onward.progress import Progress
from onward.upgrading.routes import Routes, count_pending, pending, transform
from onward.upgrading.work import measure_work, next_step

FRUITLESS_PASSES = 3
"""So often may a pass write nothing, because other processes change its rows, before it gives up"""


@dataclass(frozen=True)
class UpgradeResult:
    """What a run has done.

    Attributes:
        done: rows written in this run.
        skipped: rows that the transformation cannot carry over.
        remaining: rows that are still to be done.
        seconds: how long it took.
        stopped: whether it was asked to stop.
    """

    done: int
    skipped: int
    remaining: int
    seconds: float
    stopped: bool

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values, with what to do next."""
        return {
            "done": self.done,
            "skipped": self.skipped,
            "remaining": self.remaining,
            "seconds": self.seconds,
            "stopped": self.stopped,
            "next_steps": self._next_steps(),
        }

    def __str__(self) -> str:
        rate = f", {self.done / self.seconds:,.0f} rows a second" if self.done else ""
        stopped = "stopped: " if self.stopped else ""
        return (
            f"{stopped}{self.done:,} rows upgraded in {self.seconds:,.1f} s{rate}; "
            f"{self.remaining:,} remaining, {self.skipped:,} skipped"
        )

    def _next_steps(self) -> list[dict[str, str]]:
        if self.remaining:
            return [next_step("run", f"{self.remaining:,} rows remain")]
        return [next_step("verify", "every row that can be done is done")]


@dataclass
class _Run:
    """One run under way."""

    gallery: Gallery
    routes: Routes
    batch_rows: int
    progress: Progress
    stop: Callable[[], bool]
    done: int = 0
    stopped: bool = False
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = count_pending(self.gallery, self.routes)

    def work_off(self) -> None:
        """Make passes over the pending rows until none is left: others may add some meanwhile."""
        fruitless = 0
        self.progress(0, self.total)
        while fruitless < FRUITLESS_PASSES:
            before, found = self.done, self._pass()
            if self.stopped or not found:
                return
            fruitless = fruitless + 1 if self.done == before else 0

    def _pass(self) -> bool:
        """Work off what is pending now; say whether there was anything."""
        found = False
        for transformation, batch in pending(self.gallery, self.routes, self.batch_rows):
            found = True
            if self.stop():
                self.stopped = True
                return found
            new = transform(transformation, batch)
            layer = transformation.uncertainty
            unsure = None if layer is None else run_uncertainty(layer, new.vectors)
            self.done += self.gallery.write(
                new, batch.revisions, origin="upgraded", uncertainty=unsure
            )
            self.progress(self.done, max(self.total, self.done))
        return found


def run_upgrade(
    gallery: Gallery,
    routes: Routes,
    *,
    batch_rows: int,
    progress: Progress,
    stop: Callable[[], bool],
) -> UpgradeResult:
    """Work off an upgrade that was started; log what was done.

    Args:
        gallery: the gallery.
        routes: the transformations with which it was started.
        batch_rows: how many rows are read, transformed and written at a time.
        progress: told after every batch.
        stop: asked before every batch; an interrupt from the keyboard stops the run too.
    """
    begin = time.perf_counter()
    run = _Run(gallery, routes, batch_rows, progress, stop)
    try:
        run.work_off()
    except KeyboardInterrupt:
        run.stopped = True
    work = measure_work(gallery, routes)
    seconds = time.perf_counter() - begin
    result = UpgradeResult(run.done, work.skipped, work.to_do, seconds, run.stopped)
    event = {"event": "run", "transformation": routes.digest, **result.to_json()}
    gallery.log(event)
    return result
