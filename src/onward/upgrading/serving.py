"""Cut over and roll back: which space answers queries, changed in one atomic step.

What is upgraded stays as it is in both directions.
"""

import time
from collections.abc import Mapping
from typing import Any

from onward.errors import UpgradeError
from onward.gallery import Gallery
from onward.spaces import Space
from onward.upgrading.natives import CountedRows, find_natives
from onward.upgrading.routes import Routes
from onward.upgrading.verify import verification_state
from onward.upgrading.work import check_started, next_step

INDEX_EVENT = "build index"


def cut_over(gallery: Gallery, routes: Routes, *, query_model: str | None, force: bool) -> None:
    """Let the new space answer queries; see `Upgrade.cut_over`."""
    check_started(gallery, routes)
    now, new = gallery.describe(), routes.new
    if now.serving == new and query_model in (None, now.query_model):
        return
    verified = verification_state(gallery, routes)
    if verified != "passed" and not force:
        raise UpgradeError(_why_not(verified, gallery.url))
    if build_index(gallery, new):
        verified = verification_state(gallery, routes)
        if verified != "passed" and not force:
            raise UpgradeError(_why_not(verified, gallery.url))
    event = {
        "event": "cut over",
        "transformation": routes.digest,
        "verification": verified,
        "forced": verified != "passed",
        "next_steps": [
            next_step("roll_back", "if the new space serves badly"),
            next_step("complete", "if it serves well"),
        ],
    }
    gallery.serve(new, query_model=query_model, event=event)


def build_index(gallery: Gallery, new: Space) -> bool:
    """Build the index of a space that is to serve, once; say whether it was built now.

    Rows that change afterwards are found without it, so it is not built again. A space without a
    single vector gets none.
    """
    rows = gallery.count([new])
    if not rows or _is_indexed(gallery.journal(), new):
        return False
    begin = time.perf_counter()
    gallery.build_index(new)
    seconds = time.perf_counter() - begin
    event = {"event": INDEX_EVENT, "space": new.to_json(), "rows": rows, "seconds": seconds}
    gallery.log({**event, "next_steps": [next_step("cut_over", "the index is built")]})
    return True


def roll_back(gallery: Gallery, routes: Routes, *, leave_out: bool) -> None:
    """Let the space that served before answer queries again; see `Upgrade.roll_back`."""
    now, new = gallery.describe(), routes.new
    if now.serving != new:
        return
    natives = None
    if now.previous is not None:
        natives = find_natives(gallery, new, without=[now.previous.space])
        if natives is not None and not leave_out:
            raise UpgradeError(_why_not_back(gallery.url, natives, now.previous.space))
    event = {
        "event": "roll back",
        "transformation": routes.digest,
        "left_out": None if natives is None else natives.to_json(),
        "next_steps": [next_step("cut_over", "what was upgraded is still there")],
    }
    gallery.roll_back(new, event=event)


def _is_indexed(journal: list[Mapping[str, Any]], new: Space) -> bool:
    """Say whether an index was built since the space was added last."""
    for entry in reversed(journal):
        if entry.get("space") == new.to_json():
            if entry["event"] == INDEX_EVENT:
                return True
            if entry["event"] in ("start upgrade", "add space", "drop space"):
                return False
    return False


def _why_not(verified: str, url: str) -> str:
    reasons = {
        "none": "its upgrade was not verified; verify it first (onward upgrade verify)",
        "failed": "the verification of its upgrade has failed; see what it says, mend that, and "
        "verify again",
        "stale": "rows have changed since its upgrade was verified; run it again (onward upgrade "
        "start), then verify (onward upgrade verify)",
    }
    return (
        f"gallery {url} was not cut over: {reasons[verified]}. To cut over all the same, and have "
        "that logged, say force=True (--force)"
    )


def _why_not_back(url: str, natives: CountedRows, back_to: Space) -> str:
    return (
        f"gallery {url} was not rolled back: {natives} were added with the new model's embedding "
        f"and have no vector in {back_to}, so that they would not be found. Embed them with the "
        "old model and write these vectors too (onward gallery write), or leave them out with "
        "leave_out=True (--leave-out): they stay in the gallery, and cutting over again finds them"
    )
