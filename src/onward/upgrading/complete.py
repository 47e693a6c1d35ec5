"""Complete an upgrade: end the possibility of rolling back, and drop what nothing needs any more.

What a transformation has made and what serves no longer is dropped. What a model has made is kept:
the old vectors and the side-information, from which every later upgrade is fitted directly, unless
they are given up by name. See docs/decisions/0011 for what is kept and why.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from onward.errors import UpgradeError
from onward.gallery import GalleryView, JournalEntry, Served
from onward.plain import Plain, fields_of
from onward.spaces import Space
from onward.upgrading.routes import (
    EXAMPLES,
    CountedRows,
    Routes,
    find_natives,
    needed_spaces,
)
from onward.upgrading.steps import check_started

HOLDOVER = timedelta(days=7)
"""So long after cutting over an upgrade can be rolled back, unless it is completed at once."""
SERVES, BEGINS = ("cut over", "serve"), ("start upgrade", "add space")
"""Events of the journal with which a space begins to answer queries, and is there."""
CLOCK_SLACK = timedelta(days=1)
"""A moment of the journal that lies farther ahead of the clock than this is not used."""


@dataclass(frozen=True)
class Kept(Plain):
    """A space that no longer serves and is kept, and why."""

    space: Space
    why: str

    def __str__(self) -> str:
        return f"{self.space}: {self.why}"


@dataclass(frozen=True, eq=False)
class Completion:
    """What completing an upgrade ends, drops and keeps.

    Attributes:
        gallery: URL of the gallery.
        transformation: digest of the transformations.
        serving: the space that answers queries.
        ended: the space that could be rolled back to until then, if any.
        dropped: spaces that are dropped with all their vectors.
        kept: spaces that are not, and why.
        impossible: what cannot be done any more, a sentence each.
        unreachable: rows that are left without any vector, if there are such.
        clock: what is odd about the moments in the journal, a sentence each.
    """

    gallery: str
    transformation: str
    serving: Space
    ended: Space | None
    dropped: tuple[Space, ...]
    kept: tuple[Kept, ...]
    impossible: tuple[str, ...]
    unreachable: CountedRows | None
    clock: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, with what to do next: nothing."""
        return {**fields_of(self), "next_steps": []}

    def __str__(self) -> str:
        back = "there was nothing to roll back to" if self.ended is None else str(self.ended)
        lines = [
            f"upgrade of gallery {self.gallery} to {self.serving} is complete",
            f"  no way back  {back}",
            *(f"  dropped      {space}" for space in self.dropped),
            *(f"  kept         {one}" for one in self.kept),
            *(f"  impossible   {one}" for one in self.impossible),
            *(f"  clock        {one}" for one in self.clock),
        ]
        return "\n".join(lines)


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
    whys = {space: _why_kept(view, routes, space, given_up) for space in view.spaces()}
    dropped = [space for space, why in whys.items() if why is None and space != routes.new]
    gone = [space for space in dropped if space in given_up]
    return Completion(
        gallery=view.url,
        transformation=routes.digest,
        serving=routes.new,
        ended=view.previous,
        dropped=tuple(dropped),
        kept=tuple(Kept(space, why) for space, why in whys.items() if why is not None),
        impossible=_impossible(gone, routes.new) if gone else (),
        unreachable=_unreachable(view, dropped),
        clock=_Moments.of(view.journal).odd,
    )


def check_complete(
    view: GalleryView,
    completion: Completion,
    *,
    now: bool,
    holdover: timedelta,
    leave_out: bool,
) -> None:
    """Refuse to complete before its time, or where items would be left without any vector.

    Raises:
        UpgradeError: saying when that is, or which items.
    """
    if holdover < timedelta(0):
        raise UpgradeError(
            f"a holdover of {holdover.total_seconds() / 86400:g} days was given", "give 0 or more"
        )
    if view.previous is not None and not now:
        _check_holdover(view, holdover)
    if completion.unreachable is not None and not leave_out:
        raise UpgradeError(
            f"nothing was dropped: {completion.unreachable} have no other vector and could never "
            "be found again. Run the upgrade to its end, embed or delete these items, or give "
            "them up with leave_out=True"
        )


def why_confirm(completion: Completion) -> str:
    """Return what is to be read before the originals are given up."""
    return (
        f"to give up the originals of gallery {completion.gallery} makes impossible: "
        f"{'; '.join(completion.impossible)}. Nothing was dropped yet; to go on, say --yes"
    )


def _check_holdover(view: GalleryView, holdover: timedelta) -> None:
    """Refuse to complete before the time to roll back is over.

    Raises:
        UpgradeError: saying when that is.
    """
    at_once = "To complete it at once, say now=True"
    moments = _Moments.of(view.journal)
    odd = "".join(f" ({one})" for one in moments.odd)
    since = None if view.record.serving.since is None else _opened(view, moments)
    if since is None:
        raise UpgradeError(
            f"it is not recorded when gallery {view.url} was cut over to {view.serving}, or not by "
            f"a clock that was right, so the time to roll back cannot be over{odd}. {at_once}"
        )
    try:
        until = since + holdover
    except OverflowError as error:
        raise UpgradeError(
            f"a holdover of {holdover.total_seconds() / 86400:g} days from {since:%Y-%m-%d} on "
            "ends after all that a calendar knows",
            "give fewer days",
        ) from error
    if datetime.now(UTC) < until:
        raise UpgradeError(
            f"the upgrade of gallery {view.url} cannot be completed before "
            f"{until:%Y-%m-%d %H:%M} UTC: {_how(view.record.serving, since)} "
            f"{since:%Y-%m-%d %H:%M} UTC, and can be rolled back for "
            f"{holdover.total_seconds() / 86400:g} days{odd}. {at_once}"
        )


def _how(now: Served, since: datetime) -> str:
    """Say what stands behind a moment from which the time to roll back is counted."""
    if since == _moment(now.since):
        return "it was cut over at"
    return (
        f"it was cut over at {now.since} as its record says, which its journal contradicts, so "
        "not before"
    )


@dataclass(frozen=True, eq=False)
class _Moments:
    """When the entries of a journal were written, as far as that can be believed.

    Attributes:
        known: of each entry; None where it says nothing that can be read, or a moment that lies
            more than a day ahead of this system's clock.
        odd: what is not believed, a sentence each.
    """

    known: tuple[datetime | None, ...]
    odd: tuple[str, ...]

    @classmethod
    def of(cls, journal: Sequence[JournalEntry]) -> "_Moments":
        latest = datetime.now(UTC) + CLOCK_SLACK
        read = [_moment(entry.get("time")) for entry in journal]
        both = list(zip(journal, read, strict=True))
        ahead = [entry for entry, at in both if at is not None and at > latest]
        unread = [entry for entry, at in both if at is None]
        odd = [
            f"{len(entries):,} moments of the journal {why} and are not used, such as that of "
            f"entry {entries[0].get('number')}, {entries[0].get('event')}: {entries[0].get('time')}"
            for entries, why in (
                (ahead, "lie more than a day ahead of this system's clock"),
                (unread, "cannot be read"),
            )
            if entries
        ]
        known = tuple(at if at is not None and at <= latest else None for at in read)
        return cls(known, tuple(odd))

    def newest(self, begin: int, end: int | None = None) -> datetime | None:
        """Return the newest moment of some entries, if one is known."""
        return max((at for at in self.known[begin:end] if at is not None), default=None)

    def first(self, begin: int, least: datetime | None) -> datetime | None:
        """Return the moment of the first entry from one on that is not before another moment."""
        later = (at for at in self.known[begin:] if at is not None)
        return next((at for at in later if least is None or at >= least), None)


def _opened(view: GalleryView, moments: _Moments) -> datetime | None:
    """Return from when on the time to roll back is counted; None if that is not known.

    What the record says, unless the journal knows a newer moment from before: a clock that was set
    back must not make the time shorter. Where the two are more than a day apart, or what the record
    says is not to be believed, it is the first moment after cutting over that is not before those
    that the journal knows; where there is none, the newest of this upgrade. See
    docs/decisions/0016 for why later entries do not count.
    """
    journal, now = view.journal, view.record.serving
    new = now.space.to_json()
    of_new = [number for number, entry in enumerate(journal) if entry.get("space") == new]
    cuts = [one for one in of_new if journal[one]["event"] in SERVES]
    stated = [one for one in cuts if journal[one].get("since") == now.since]
    cut = max(stated or cuts, default=len(journal))
    begun = max((one for one in of_new if one < cut and journal[one]["event"] in BEGINS), default=0)
    since, before = _moment(now.since), moments.newest(0, cut)
    believed = since is not None and since <= datetime.now(UTC) + CLOCK_SLACK
    if since is not None and believed and (before is None or before - since <= CLOCK_SLACK):
        return since if before is None else max(since, before)
    after = moments.first(cut, before)
    if after is not None:
        return after
    earlier, newest = moments.newest(0, begun), moments.newest(begun)
    if newest is None or (earlier is not None and earlier - newest > CLOCK_SLACK):
        return None
    return newest if earlier is None else max(earlier, newest)


def _moment(written: object) -> datetime | None:
    """Return the moment that a text says, in UTC where it says no zone; None if it is none."""
    try:
        at = datetime.fromisoformat(str(written))
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _why_kept(view: GalleryView, routes: Routes, space: Space, given_up: set[Space]) -> str | None:
    """Return why a space is not dropped; None if it is, or if it answers queries."""
    filled, served = view.record.transformations, _have_served(view)
    under_way = {one for one in filled if one not in served}
    if space == routes.new or space in given_up - under_way - _read_by(view, under_way):
        return None
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


def _have_served(view: GalleryView) -> set[Space]:
    """Return the spaces that answer queries or have done so, as the journal says."""
    entries = (one for one in view.journal if one["event"] in SERVES)
    return {view.serving, *(Space.from_json(one["space"]) for one in entries)}


def _read_by(view: GalleryView, filled: Iterable[Space]) -> set[Space]:
    """Return the spaces that the transformations read which fill these spaces."""
    return {space for one in filled for space in view.record.transformations[one].reads}


def _originals(view: GalleryView, routes: Routes) -> set[Space]:
    """Return what the upgrade was made from, and what that was made from in its turn."""
    found = {space for one in routes.transformations for space in needed_spaces(one)}
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
