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
from onward.gallery import Gallery, GalleryDescription
from onward.spaces import Space
from onward.upgrading.natives import CountedRows, find_natives
from onward.upgrading.routes import Routes, needed_spaces, recorded_reads
from onward.upgrading.work import EXAMPLES, check_started

HOLDOVER = timedelta(days=7)
"""So long after cutting over an upgrade can be rolled back, unless it is completed at once."""


@dataclass(frozen=True)
class Kept:
    """A space that no longer serves and is kept, and why."""

    space: Space
    why: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"space": self.space.to_json(), "why": self.why}

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
    """

    gallery: str
    transformation: str
    serving: Space
    ended: Space | None
    dropped: tuple[Space, ...]
    kept: tuple[Kept, ...]
    impossible: tuple[str, ...]
    unreachable: CountedRows | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, with what to do next: nothing."""
        return {
            "gallery": self.gallery,
            "transformation": self.transformation,
            "serving": self.serving.to_json(),
            "ended": None if self.ended is None else self.ended.to_json(),
            "dropped": [space.to_json() for space in self.dropped],
            "kept": [one.to_json() for one in self.kept],
            "impossible": list(self.impossible),
            "unreachable": None if self.unreachable is None else self.unreachable.to_json(),
            "next_steps": [],
        }

    def __str__(self) -> str:
        back = "there was nothing to roll back to" if self.ended is None else str(self.ended)
        lines = [
            f"upgrade of gallery {self.gallery} to {self.serving} is complete",
            f"  no way back  {back}",
            *(f"  dropped      {space}" for space in self.dropped),
            *(f"  kept         {one}" for one in self.kept),
            *(f"  impossible   {one}" for one in self.impossible),
        ]
        return "\n".join(lines)


def plan_completion(gallery: Gallery, routes: Routes, *, drop_original: bool) -> Completion:
    """Say what completing would end, drop and keep; nothing is written.

    Args:
        gallery: the gallery.
        routes: the transformations of the upgrade.
        drop_original: give up what the transformations read: old vectors and side-information.

    Raises:
        UpgradeError: if the upgrade was not started, or its space does not answer queries.
    """
    check_started(gallery, routes)
    now = gallery.describe()
    if now.serving != routes.new:
        raise UpgradeError(
            f"gallery {gallery.url} answers from {now.serving}, not from {routes.new}: there "
            "is nothing to complete, and nothing was dropped; cut over first (onward upgrade "
            "cutover)"
        )
    given_up = _originals(now, routes) if drop_original else set[Space]()
    served = _have_served(gallery)
    under_way = {space for space in now.transformations if space not in served}
    originals = [
        space
        for made_by in now.transformations.values()
        for space, _ in recorded_reads(made_by)
        if space not in now.transformations and space not in given_up
    ]
    dropped, kept = list[Space](), list[Kept]()
    for space in (one for one in now.spaces if one != routes.new):
        why = None
        if space in under_way:
            why = "an upgrade to it is under way"
        elif space in _read_by(now, under_way):
            why = "an upgrade that is under way reads it"
        elif space not in now.transformations and space not in given_up:
            why = "later upgrades are fitted from it directly"
        elif space not in given_up:
            natives = find_natives(gallery, space, without=originals, unless_embedded=routes.new)
            why = None if natives is None else f"a model embedded {natives} in no other space"
        if why is None:
            dropped.append(space)
        else:
            kept.append(Kept(space, why))
    gone = [space for space in dropped if space in given_up]
    return Completion(
        gallery=gallery.url,
        transformation=routes.digest,
        serving=routes.new,
        ended=None if now.previous is None else now.previous.space,
        dropped=tuple(dropped),
        kept=tuple(kept),
        impossible=_impossible(gone, routes.new) if gone else (),
        unreachable=_unreachable(gallery, dropped),
    )


def complete(
    gallery: Gallery,
    routes: Routes,
    *,
    now: bool,
    holdover: timedelta,
    drop_original: bool,
    leave_out: bool,
) -> Completion:
    """Complete an upgrade that has cut over; see `Upgrade.complete`."""
    completion = plan_completion(gallery, routes, drop_original=drop_original)
    described = gallery.describe()
    if described.previous is not None and not now:
        _check_holdover(described, holdover)
    if completion.unreachable is not None and not leave_out:
        raise UpgradeError(
            f"nothing was dropped: {completion.unreachable} have no other vector and could never "
            "be found again. Run the upgrade to its end, embed or delete these items, or give "
            "them up with leave_out=True (--leave-out)"
        )
    event = {
        "event": "complete",
        "now": now,
        "holdover_seconds": holdover.total_seconds(),
        "drop_original": drop_original,
        "leave_out": leave_out,
        **completion.to_json(),
    }
    gallery.complete(routes.new, completion.dropped, event=event)
    return completion


def why_confirm(completion: Completion) -> str:
    """Return what is to be read before the originals are given up."""
    return (
        f"to give up the originals of gallery {completion.gallery} makes impossible: "
        f"{'; '.join(completion.impossible)}. Nothing was dropped yet; to go on, say --yes"
    )


def _check_holdover(now: GalleryDescription, holdover: timedelta) -> None:
    """Refuse to complete before the time to roll back is over.

    Raises:
        UpgradeError: saying when that is.
    """
    at_once = "To complete it at once, say now=True (--now)"
    if now.since is None:
        raise UpgradeError(
            f"it is not recorded when gallery {now.url} was cut over to {now.serving}, so the time "
            f"to roll back cannot be over. {at_once}"
        )
    since = datetime.fromisoformat(now.since)
    until = since + holdover
    if datetime.now(UTC) < until:
        raise UpgradeError(
            f"the upgrade of gallery {now.url} cannot be completed before "
            f"{until:%Y-%m-%d %H:%M} UTC: it was cut over at {since:%Y-%m-%d %H:%M} UTC, and can "
            f"be rolled back for {holdover.total_seconds() / 86400:g} days. {at_once}"
        )


def _have_served(gallery: Gallery) -> set[Space]:
    """Return the spaces that answer queries or have done so, as the journal says."""
    entries = (one for one in gallery.journal() if one["event"] in ("cut over", "serve"))
    return {gallery.describe().serving, *(Space.from_json(one["space"]) for one in entries)}


def _read_by(now: GalleryDescription, filled: Iterable[Space]) -> set[Space]:
    """Return the spaces that the transformations read which fill these spaces."""
    reads = (read for one in filled for read in recorded_reads(now.transformations[one]))
    return {space for old, side in reads for space in (old, side) if space is not None}


def _originals(now: GalleryDescription, routes: Routes) -> set[Space]:
    """Return what the upgrade was made from, and what that was made from in its turn."""
    found = {space for one in routes.transformations for space in needed_spaces(one)}
    while True:
        more = _read_by(now, [one for one in found if one in now.transformations]) - found
        if not more:
            return found & set(now.spaces) - {routes.new}
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


def _unreachable(gallery: Gallery, dropped: Sequence[Space]) -> CountedRows | None:
    """Return the rows that have vectors in what is dropped, and in nothing that is kept."""
    left = [space for space in gallery.spaces() if space not in dropped]
    rows, examples = 0, list[str]()
    for at, space in enumerate(dropped):
        without = [*dropped[:at], *left]
        rows += gallery.count([space], without)
        examples += gallery.ids([space], without, limit=EXAMPLES)
    return CountedRows(rows, tuple(sorted(examples)[:EXAMPLES])) if rows else None
