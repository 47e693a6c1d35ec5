"""Embed the items of a gallery with the new model, those first that an upgrade serves worst.

That is: what it cannot carry, which is not found at all; then what it is least sure of.

What is left to do is in the rows: those whose new vector a model has not made. So a backfill may be
stopped or killed at any moment, and another one goes on, before cutting over and after. Those who
backfill one gallery at the same time part the rows by their ids. How images become vectors is the
caller's: nothing that could read one is imported here.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onward.errors import ConfigurationError, GalleryError, UpgradeError
from onward.gallery import Gallery, Share
from onward.progress import Progress, silent
from onward.spaces import Embeddings, Ids, Space
from onward.upgrading.backfill_result import LOGGED, ORDERS, BackfillResult, Order
from onward.upgrading.backfill_waiting import Waiting, in_turn, meeting_space
from onward.upgrading.budget import Budget, Meter
from onward.upgrading.control import Pace
from onward.upgrading.evidence import check_embedded, digest_sample
from onward.upgrading.run import COMPACTED_SHARE
from onward.upgrading.work import check_whole

BATCH_SECONDS = 10.0
FIRST_ROWS, FEWEST_ROWS, MOST_ROWS = 64, 32, 4096
"""A batch has as many rows as are done in this time, between these bounds: writing rows takes the
store hardly longer than writing one."""
MOST_NAMED = 1000
"""Number of skipped items that are named; more are counted."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """What became of some items that were to be embedded.

    Attributes:
        embeddings: in the new space, of those that could be.
        skipped: of the others: why not.
    """

    embeddings: Embeddings
    skipped: Mapping[str, str] = field(default_factory=dict)


Embed = Callable[[Ids, Sequence[Mapping[str, Any] | None]], Embedded]
"""Called with ids and the payloads of the same items, None where there is none."""


def backfill(
    gallery: Gallery,
    new: Space,
    embed: Embed,
    *,
    budget: Budget,
    order: Order = "uncertainty",
    seed: int = 0,
    ids: Iterable[str] | None = None,
    batch_rows: int | None = None,
    progress: Progress = silent,
    stop: Callable[[], bool] = lambda: False,
) -> BackfillResult:
    """Give items the vectors that the new model makes, until the budget is spent; log it.

    First the rows that the upgrade cannot carry, for they are not found at all; then those that it
    has made; last those that its next run will carry. A row that was changed or deleted since its
    payload was read is left alone, and so is one that a model has embedded. While the upgrade is
    paused it waits, and it keeps to its limit of rows a second. Several may run at once, each with
    a budget of its own: each does its share of the rows in that order, then helps the others;
    hardly more than a batch is embedded twice. Memory is bounded by a batch, beside the ids and
    uncertainties of what is to be done. Where much of the gallery was written, the store is
    compacted, as at the end of an upgrade.

    Args:
        gallery: the gallery; it must have the new space.
        new: the space of the new model.
        embed: makes the vectors; see `embeddings_given` where they are there already.
        budget: what may be spent.
        order: of what the upgrade has made. "uncertainty": what the transformation was least sure
            of comes first, ties by id, and last what has none stored; or "random".
        seed: of the random order.
        ids: only these items; all if None.
        batch_rows: how many rows are embedded and written at a time; what takes about 10 seconds,
            32 to 4,096, if None.
        progress: told after every batch.
        stop: asked before every batch. A backfill that is told to stop, or is interrupted from the
            keyboard, ends within one batch and keeps what was done before.

    Raises:
        UpgradeError: if the gallery lacks the space, no uncertainty is stored although the budget
            makes the order matter, or `embed` gives something else than was asked for.
        ConfigurationError: if there is no such order, or the seed or the number of rows is none.
    """
    if batch_rows is not None:
        check_whole("batch_rows", batch_rows)
    check_whole("seed", seed, least=0)
    if order not in ORDERS:
        raise ConfigurationError(f"there is no order {order!r}; choose {' or '.join(ORDERS)}")
    begin = time.perf_counter()
    _check_space(gallery, new)
    meter = Meter(budget, gallery.count())
    waiting = Waiting.of(gallery, new, None if ids is None else frozenset(ids))
    chosen = waiting.in_order(gallery.url, new, order, seed, matters=not meter.covers(len(waiting)))
    run = _Run(gallery, new, embed, meter, batch_rows, progress, Pace(gallery, new, stop))
    try:
        with gallery.working_on(meeting_space(gallery, new)) as share_now:
            run.work_off(chosen, share_now)
    except KeyboardInterrupt:
        run.stopped = True
    except Exception as error:
        with suppress(Exception):  # what went wrong first is what is to be told
            gallery.log({"event": "backfill", **run.counts(), "error": str(error)})
        raise
    result = run.result(budget, order, time.perf_counter() - begin)
    seeded = {"seed": seed} if order == "random" else {}
    gallery.log({"event": "backfill", **seeded, **_logged(result)})
    if not run.stopped and run.done > COMPACTED_SHARE * gallery.count():
        with suppress(GalleryError):  # the work is done; what is scattered stays so
            gallery.compact()
    return result


def embeddings_given(embeddings: Embeddings) -> Embed:
    """Return what `backfill` calls where the vectors are there already: no image is read.

    Raises:
        UpgradeError: if vectors were upgraded, not embedded by the new model.
    """
    check_embedded(embeddings, "the embeddings")
    given = Embeddings(embeddings.ids, embeddings.vectors, embeddings.space)
    rows = {item: row for row, item in enumerate(given.ids)}

    def embed(ids: Ids, _: Sequence[Mapping[str, Any] | None]) -> Embedded:
        there = [item for item in ids if item in rows]
        skipped = {item: "no embedding of it was given" for item in ids if item not in rows}
        return Embedded(given.select([rows[item] for item in there]), skipped)

    return embed


def write_sample(gallery: Gallery, sample: Embeddings) -> int:
    """Write a sample's vectors, with the origin "embedded", into the rows that are there; log it.

    A vector that a model made stays as it is. The sample must be of the items as they are now:
    rows that were updated since it was embedded are to be left out of it.

    Returns:
        How many rows were written.
    """
    written = 0
    vectors = Embeddings(sample.ids, sample.vectors, sample.space)
    for batch in gallery.scan((), ids=sample.ids):
        written += gallery.write(vectors.align(batch.ids), batch.revisions, origin="embedded")
    event = {
        "event": "sample",
        "sample": digest_sample(sample),
        "space": sample.space.to_json(),
        "items": len(sample),
        "written": written,
    }
    gallery.log(event)
    return written


@dataclass
class _Run:
    """One backfill under way."""

    gallery: Gallery
    new: Space
    embed: Embed
    meter: Meter
    batch_rows: int | None
    progress: Progress
    pace: Pace
    done: int = 0
    changed: int = 0
    skipped: int = 0
    passed: int = 0
    total: int = 0
    stopped: bool = False
    reasons: dict[str, str] = field(default_factory=dict)

    def work_off(self, ids: Ids, share_now: Callable[[], Share]) -> None:
        """Embed these items in their order until the budget is spent, parted with other workers."""
        self.total = self.meter.total(len(ids))
        self.progress(0, self.total)
        left = ids
        while left and not self.stopped and self.meter.next_rows(1):
            present = share_now()
            ordered = in_turn(left, present)
            done = frozenset(ordered[: self._pass(ordered, present, share_now)])
            left = tuple(item for item in left if item not in done)

    def _pass(self, ids: Ids, present: Share, share_now: Callable[[], Share]) -> int:
        """Embed these items while the workers are the same; return how many came to their turn."""
        at = 0
        while at < len(ids) and share_now() == present:
            paid = self.meter.next_rows(self._rows_of_a_batch())
            rows = self.pace.next_rows(paid, present.of, lambda: None) if paid else None
            if rows is None:
                self.stopped = bool(paid)
                break
            tried = min(rows, len(ids) - at)
            self._batch(ids[at : at + tried])
            at, self.passed = at + tried, self.passed + tried
            self.progress(min(self.passed - self.skipped, self.total), self.total)
        return at

    def _rows_of_a_batch(self) -> int:
        if self.batch_rows is not None:
            return self.batch_rows
        likely = self.meter.rows_in(BATCH_SECONDS)
        return FIRST_ROWS if likely is None else min(MOST_ROWS, max(FEWEST_ROWS, likely))

    def _batch(self, ids: Ids) -> None:
        revisions, payloads = _read(self.gallery, self.new, ids)
        there = tuple(revisions)
        if not there:
            return
        found = self.embed(there, [payloads[item] for item in there])
        _check_embedded(found, there, self.new)
        made = found.embeddings
        self.meter.spend(len(made), tried=len(there))
        since = np.array([revisions[item] for item in made.ids], np.int64)
        written = self.gallery.write(made, since, origin="embedded")
        self.done += written
        self.changed += len(made) - written
        self.skipped += len(found.skipped)
        for item, why in found.skipped.items():
            if len(self.reasons) < MOST_NAMED:
                self.reasons[item] = why

    def counts(self) -> dict[str, Any]:
        """Return what was done so far, as plain values."""
        done = {"done": self.done, "changed": self.changed, "skipped": self.skipped}
        return {"space": self.new.to_json(), **done}

    def result(self, budget: Budget, order: Order, seconds: float) -> BackfillResult:
        """Return what was done, and what is left now."""
        now = self.gallery.describe()
        counts = now.spaces[self.new]
        return BackfillResult(
            gallery=now.url,
            space=self.new,
            budget=str(budget),
            order=order,
            done=self.done,
            changed=self.changed,
            skipped=self.skipped,
            reasons=self.reasons,
            upgraded=counts.upgraded,
            missing=max(0, now.rows - counts.filled),
            serving=now.serving == self.new,
            seconds=seconds,
            stopped=self.stopped,
        )


def _read(
    gallery: Gallery, new: Space, ids: Ids
) -> tuple[dict[str, int], dict[str, Mapping[str, Any] | None]]:
    """Return revisions and payloads of those items that are there and not embedded yet.

    The revisions are read first: a payload that changes after that is of a newer revision, and what
    is made of it is not written.
    """
    revisions: dict[str, int] = {}
    left = dict.fromkeys(ids)
    for batch in gallery.scan([new], ids=ids):
        rows = zip(batch.ids, batch.revisions.tolist(), batch.origins[new], strict=True)
        for item, revision, origin in rows:
            del left[item]
            if origin == "upgraded":
                revisions[item] = revision
    if left:
        for batch in gallery.scan((), without=[new], ids=left):
            revisions |= dict(zip(batch.ids, batch.revisions.tolist(), strict=True))
    there = tuple(item for item in ids if item in revisions)
    payloads: dict[str, Mapping[str, Any] | None]
    try:
        payloads = dict(zip(there, gallery.payloads(there), strict=True))
    except GalleryError:  # one may have been deleted since
        now = {item for batch in gallery.scan((), ids=there) for item in batch.ids}
        if len(now) == len(there):
            raise
        return _read(gallery, new, tuple(item for item in there if item in now))
    return {item: revisions[item] for item in there}, payloads


def _check_space(gallery: Gallery, new: Space) -> None:
    spaces = gallery.spaces()
    if new not in spaces:
        raise UpgradeError(
            f"gallery {gallery.url} has no vectors in {new}, so there is nothing to backfill; it "
            f"has {', '.join(map(str, spaces))}. Give the model of one of these, or start the "
            "upgrade to that space first (onward upgrade start)"
        )


def _check_embedded(found: Embedded, asked: Ids, new: Space) -> None:
    made = found.embeddings
    if made.space != new:
        raise UpgradeError(
            f"the items were embedded in {made.space}, but {new} is backfilled; nothing of this "
            "batch was written. Give the model of that space"
        )
    given = sorted((*made.ids, *found.skipped))
    if given != sorted(asked):
        odd = min((set(given) ^ set(asked)) or (set(made.ids) & set(found.skipped)))
        raise UpgradeError(
            f"of {len(asked)} items, {len(made)} were embedded and {len(found.skipped)} skipped; "
            f"each must be one of the two, once, and {odd!r} is not. Nothing of this batch was "
            "written: mend what embeds them"
        )


def _logged(result: BackfillResult) -> dict[str, Any]:
    first = dict(list(result.reasons.items())[:LOGGED])
    return {**result.to_json(), "reasons": first}
