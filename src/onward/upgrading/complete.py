"""Complete an upgrade: end the possibility of rolling back, and drop what nothing needs any more.

What a transformation has made and what serves no longer is dropped. What a model has made is kept:
the old vectors and the side-information, from which every later upgrade is fitted directly, unless
they are given up by name. See docs/decisions/0011 for what is kept and why.
"""

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from onward.errors import UpgradeError
from onward.gallery import GalleryView
from onward.plain import fields_of
from onward.spaces import Space
from onward.upgrading.routes import (
    EXAMPLES,
    CountedRows,
    Routes,
    check_started,
)

ROLLBACK_WINDOW = timedelta(days=7)
"""So long after cutting over an upgrade can be rolled back, unless it is completed at once."""
SERVES = ("cut over", "serve")
"""Events of the journal with which a space begins to answer queries."""
DAY = timedelta(days=1)
LONGEST_WINDOW = 36500 * DAY
CLOCK_SLACK = DAY
"""Clocks that differ by more than this are not believed."""


@dataclass(frozen=True, eq=False)
class Completion:
    """What completing an upgrade ends, drops and keeps.

    Attributes:
        gallery: URL of the gallery.
        transformation: digest of the transformations.
        serving: the space that answers queries; of a fused pair the new one.
        ended: the space that could be rolled back to until then, if any.
        dropped: spaces that are dropped with all their vectors.
        kept: spaces that no longer serve and are not dropped, and why.
        impossible: what cannot be done any more, a sentence each.
        unreachable: rows that are left without any vector, if there are such.
    """

    gallery: str
    transformation: str
    serving: Space
    ended: Space | None
    dropped: tuple[Space, ...]
    kept: Mapping[Space, str]
    impossible: tuple[str, ...]
    unreachable: CountedRows | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, with what to do next: nothing."""
        kept = [{"space": space.to_json(), "why": why} for space, why in self.kept.items()]
        return {**fields_of(self, without=("kept",)), "kept": kept, "next_steps": []}

    def __str__(self) -> str:
        back = "there was nothing to roll back to" if self.ended is None else str(self.ended)
        lines = [
            f"upgrade of gallery {self.gallery} to {self.serving} is complete",
            f"  no way back  {back}",
            *(f"  dropped      {space}" for space in self.dropped),
            *(f"  kept         {space}: {why}" for space, why in self.kept.items()),
            *(f"  impossible   {one}" for one in self.impossible),
        ]
        return "\n".join(lines)


def find_natives(
    view: GalleryView,
    space: Space,
    *,
    without: Sequence[Space],
    unless_embedded: Space | None = None,
) -> CountedRows | None:
    """Return the rows that a model embedded in a space and that have no vector in others.

    Rolling back to the others cannot find them, and dropping the space would lose what no
    transformation can make again. Reads the vectors of rows that lack vectors in the others; these
    are few as a rule.

    Args:
        view: the gallery.
        space: the space; there are no such rows if the gallery does not have it.
        without: the other spaces; those that the gallery lacks hold no vectors.
        unless_embedded: leave out rows that a model embedded in this space too.

    Returns:
        None if there are none.
    """
    known = view.spaces()
    if space not in known:
        return None
    others = [one for one in without if one in known]
    also = [one for one in (unless_embedded,) if one in known and one != space]
    scans = [view.scan([space], without=[*others, *also])]
    scans += [view.scan([space, one], without=others) for one in also]
    rows, found = 0, list[str]()
    for batch in itertools.chain(*scans):
        native = np.ones(len(batch), np.bool_)
        for one, origins in batch.origins.items():
            native &= (np.array(origins) == "embedded") == (one == space)
        natives = [item for item, is_one in zip(batch.ids, native, strict=True) if is_one]
        rows += len(natives)
        found = heapq.nsmallest(EXAMPLES, [*found, *natives])
    return CountedRows(rows, tuple(found)) if rows else None


def plan_completion(view: GalleryView, routes: Routes, *, drop_original: bool) -> Completion:
    """Say what completing would end, drop and keep; nothing is written.

    Args:
        view: the gallery.
        routes: the transformations of the upgrade.
        drop_original: give up what the transformations read: old vectors and side-information.

    Raises:
        UpgradeError: if the upgrade was not started, or its space does not answer queries.
    """
    check_started(view, routes)
    if view.serving != routes.new:
        raise UpgradeError(
            f"gallery {view.url} answers from {view.serving}, not from {routes.new}: there "
            "is nothing to complete, and nothing was dropped",
            "cut over first",
            step="cut_over",
        )
    given_up = _originals(view, routes) if drop_original else set[Space]()
    if view.fusion is not None and view.fusion.old in given_up:
        raise UpgradeError(
            f"gallery {view.url} answers from {view.fusion}, which needs the old vectors: nothing "
            "was dropped",
            "cut over to the new space alone first, serve='new', or keep the originals",
            step="cut_over",
        )
    whys = {space: _why_kept(view, routes, space, given_up) for space in view.spaces()}
    dropped = [space for space, why in whys.items() if why is None and space != routes.new]
    gone = [space for space in dropped if space in given_up]
    return Completion(
        gallery=view.url,
        transformation=routes.digest,
        serving=routes.new,
        ended=view.previous,
        dropped=tuple(dropped),
        kept={space: why for space, why in whys.items() if why is not None},
        impossible=_impossible(gone, routes.new) if gone else (),
        unreachable=_unreachable(view, dropped),
    )


def check_complete(
    view: GalleryView,
    completion: Completion,
    *,
    now: bool,
    window: timedelta,
    leave_out: bool,
) -> None:
    """Refuse to complete before its time, or where items would be left without any vector.

    Raises:
        UpgradeError: saying when that is, or which items.
    """
    if not timedelta(0) <= window <= LONGEST_WINDOW:
        raise UpgradeError(
            f"a rollback window of {window / DAY:g} days was given",
            f"give 0 to {LONGEST_WINDOW / DAY:,.0f}",
        )
    if view.previous is not None and not now:
        _check_window(view, window)
    if completion.unreachable is not None and not leave_out:
        raise UpgradeError(
            f"nothing was dropped: {completion.unreachable} have no other vector and could never "
            "be found again",
            "run the upgrade to its end, embed or delete these items, or give them up with "
            "leave_out=True",
        )


def why_confirm(completion: Completion) -> str:
    """Return what is to be read before the originals are given up."""
    return (
        f"giving up the originals of gallery {completion.gallery} makes impossible: "
        f"{'; '.join(completion.impossible)}. Nothing was dropped yet"
    )


def _check_window(view: GalleryView, window: timedelta) -> None:
    """Refuse to complete before the time to roll back is over.

    Raises:
        UpgradeError: saying when that is.
    """
    at_once, since = "to complete it at once, say now=True", _cut_over_at(view)
    if since is None:
        raise UpgradeError(
            f"it is not recorded when gallery {view.url} was cut over to {view.serving}, or the "
            "clock was wrong, so nobody knows whether the time to roll back is over",
            at_once,
        )
    until = since + window
    if datetime.now(UTC) < until:
        raise UpgradeError(
            f"the upgrade of gallery {view.url} cannot be completed before "
            f"{until:%Y-%m-%d %H:%M} UTC: it was cut over at {since:%Y-%m-%d %H:%M} UTC, and can "
            f"be rolled back for {window / DAY:g} days",
            at_once,
        )


def _cut_over_at(view: GalleryView) -> datetime | None:
    """Return from when on the time to roll back is counted; None if that is not known.

    What the record says, or what the journal says of an entry from before the cutover, if that is
    newer: a clock that was set back must not make the time shorter. Where the two are more than a
    day apart, or the record's moment is ahead of the clock by more, one of the clocks was wrong.
    See docs/decisions/0016 for why later entries do not count.
    """
    journal, now = view.journal, view.record.serving
    new, latest = now.space.to_json(), datetime.now(UTC) + CLOCK_SLACK
    cuts = [
        number
        for number, entry in enumerate(journal)
        if (entry.get("space"), entry.get("since")) == (new, now.since) and entry["event"] in SERVES
    ]
    earlier = (_moment(entry.get("time")) for entry in journal[: max(cuts, default=None)])
    before = max((at for at in earlier if at is not None and at <= latest), default=None)
    since = _moment(now.since)
    if since is None or since > latest or (before is not None and before - since > CLOCK_SLACK):
        return None
    return since if before is None else max(since, before)


def _moment(written: object) -> datetime | None:
    """Return the moment that a text says, in UTC where it says no zone; None if it is none."""
    try:
        at = datetime.fromisoformat(str(written))
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _why_kept(view: GalleryView, routes: Routes, space: Space, given_up: set[Space]) -> str | None:
    """Return why a space is not dropped; None if it is, or if it answers queries."""
    filled = view.record.transformations
    began = (one for one in view.journal if one["event"] in SERVES)
    served = {view.serving, *(Space.from_json(one["space"]) for one in began)}
    under_way = {one for one in filled if one not in served}
    if space == routes.new or space in given_up - under_way - _read_by(view, under_way):
        return None
    if space in view.record.serving.spaces:
        return "it answers queries, in the fused pair"
    if space in under_way:
        return "an upgrade to it is under way"
    if space in _read_by(view, under_way):
        return "an upgrade that is under way reads it"
    if space not in filled:
        return "later upgrades are fitted from it directly"
    read = (one.old for made_by in filled.values() for one in made_by.transformations)
    originals = [old for old in read if old not in filled and old not in given_up]
    natives = find_natives(view, space, without=originals, unless_embedded=routes.new)
    return None if natives is None else f"a model embedded {natives} in no other space"


def _read_by(view: GalleryView, filled: Iterable[Space]) -> set[Space]:
    """Return the spaces that the transformations read which fill these spaces."""
    return {space for one in filled for space in view.record.transformations[one].reads}


def _originals(view: GalleryView, routes: Routes) -> set[Space]:
    """Return what the upgrade was made from, and what that was made from in its turn."""
    found = set(routes.reads)
    while True:
        more = _read_by(view, found & set(view.record.transformations)) - found
        if not more:
            return found & set(view.spaces()) - {routes.new}
        found |= more


def _impossible(gone: Sequence[Space], new: Space) -> tuple[str, ...]:
    names = " and ".join(space.name for space in gone)
    return (
        f"rolling back to a space that was dropped ({names})",
        "verifying upgraded vectors by computing them again: what they were made from is gone",
        f"fitting a later upgrade from {names} directly: from {new.name} it is a chain, and every "
        "link of a chain loses a little",
        f"carrying over items that are added with vectors in {names} alone",
    )


def _unreachable(view: GalleryView, dropped: Sequence[Space]) -> CountedRows | None:
    """Return the rows that have vectors in what is dropped, and in nothing that is kept."""
    left = [space for space in view.spaces() if space not in dropped]
    rows, examples = 0, list[str]()
    for at, space in enumerate(dropped):
        without = [*dropped[:at], *left]
        rows += view.count([space], without)
        examples += view.ids([space], without, limit=EXAMPLES)
    return CountedRows(rows, tuple(sorted(examples)[:EXAMPLES])) if rows else None
