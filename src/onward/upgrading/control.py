"""Pause, resume, limit and abort an upgrade, wherever it runs; and how a run obeys.

What is asked for stands in the gallery's record, so it holds for every process that runs the
upgrade now or later. A run looks at it before every batch.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from onward.errors import GalleryError, UpgradeError
from onward.gallery import Control, Gallery
from onward.spaces import Space
from onward.upgrading.natives import find_natives
from onward.upgrading.routes import Routes
from onward.upgrading.work import check_started

LOOK_SECONDS = 0.5
"""Seconds between the looks of a run that waits whether it may go on."""


def pause(gallery: Gallery, routes: Routes) -> None:
    """Let all who run an upgrade wait; see `Upgrade.pause`."""
    _change(gallery, routes, lambda now: replace(now, paused=True), {"event": "pause"})


def resume(gallery: Gallery, routes: Routes) -> None:
    """Let all who run an upgrade go on; see `Upgrade.resume`."""
    _change(gallery, routes, lambda now: replace(now, paused=False), {"event": "resume"})


def limit(gallery: Gallery, routes: Routes, rows_per_second: float | None) -> None:
    """Limit how many rows an upgrade writes a second; see `Upgrade.limit`."""
    check_rate(rows_per_second)
    rate = rows_per_second
    event = {"event": "limit", "rows_per_second": rate}
    _change(gallery, routes, lambda now: replace(now, rows_per_second=rate), event)


def check_rate(rows_per_second: float | None) -> None:
    """Refuse a limit that is none.

    Raises:
        UpgradeError: if it is not positive, infinite or NaN.
    """
    rate = rows_per_second
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise UpgradeError(
            f"a limit of {rate:g} rows a second was asked for; give a positive number, or none "
            "(None) to lift the limit. To let the upgrade wait, pause it"
        )


def abort(gallery: Gallery, routes: Routes, *, leave_out: bool) -> None:
    """Give up an upgrade and drop the new space; see `Upgrade.abort`."""
    check_started(gallery, routes)
    now, new = gallery.describe(), routes.new
    back = now.previous is not None and now.previous.space == new
    if new == now.serving or back:
        what = "rolling back returns to it" if back else "it answers queries"
        way = "complete the upgrade from it first" if back else "roll back first"
        raise UpgradeError(
            f"the upgrade of gallery {gallery.url} to {new.name} cannot be aborted: {what}. "
            f"Nothing was dropped; {way}"
        )
    natives = find_natives(gallery, new, without=[one for one in gallery.spaces() if one != new])
    if natives is not None and not leave_out:
        raise UpgradeError(
            f"aborting the upgrade of gallery {gallery.url} would take the only vector of "
            f"{natives}. Nothing was dropped; embed these items with the model that serves, or "
            "allow that they cannot be found with leave_out (--leave-out)"
        )
    event = {"event": "abort", "transformation": routes.digest, **now.spaces[new].to_json()}
    gallery.drop_space(new, event=event)


def check_not_aborted(gallery: Gallery, routes: Routes) -> None:
    """Refuse to go on with an upgrade that was aborted while it ran.

    Raises:
        UpgradeError: saying so.
    """
    made_by = gallery.made_by(routes.new)
    if made_by is None or made_by.digest != routes.digest:
        raise UpgradeError(
            f"the upgrade of gallery {gallery.url} to {routes.new.name} was aborted while it ran; "
            "what it had written is gone with the space. The old vectors and the side-information "
            "are as they were: start it again if it was not meant to end"
        )


class Pace:
    """Keeps one worker to what the gallery's record asks for, over time.

    Rows beyond the limit are waited for before the next batch; time in which nothing was written
    is not made up for.

    Args:
        gallery: the gallery.
        space: what is filled.
        stop: says whether to end; asked before every batch, and again and again while waiting.

    Attributes:
        limited: whether the rate was limited when this was last looked at.
    """

    def __init__(self, gallery: Gallery, space: Space, stop: Callable[[], bool]) -> None:
        self._gallery = gallery
        self._space = space
        self._stop = stop
        self.limited = False
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
            control = self.look()
            rate = None if control.rows_per_second is None else control.rows_per_second / workers
            passed, self._looked = self._passed(), time.monotonic()
            self._owed = 0.0 if rate is None else max(0.0, self._owed - passed * rate)
            if not control.paused and not self._owed:
                batch = rows if rate is None else max(1, min(rows, int(rate)))
                self._owed = 0.0 if rate is None else float(batch)
                return batch
            waiting()
            due = LOOK_SECONDS if control.paused or not rate else self._owed / rate
            time.sleep(min(LOOK_SECONDS, due))
        return None

    def look(self) -> Control:
        """Return what is asked for now."""
        control = self._gallery.control(self._space)
        self.limited = control.rows_per_second is not None
        return control

    def _passed(self) -> float:
        return time.monotonic() - self._looked


def _change(
    gallery: Gallery, routes: Routes, changed: Callable[[Control], Control], event: dict[str, Any]
) -> None:
    check_started(gallery, routes)
    try:
        gallery.change_control(
            routes.new, changed, event={**event, "transformation": routes.digest}
        )
    except GalleryError:
        check_started(gallery, routes)  # it was aborted meanwhile
        raise
