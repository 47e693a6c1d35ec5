"""Embed the items of a gallery with the new model, those first that an upgrade serves worst.

That is: what it cannot carry, which is not found at all; then what it is least sure of.

What is left to do is in the rows: those whose new vector a model has not made. So a backfill may be
stopped or killed at any moment, and another one goes on, before cutting over and after. What it may
spend is a budget: rows, a share of the gallery, time, or money at a price an item. Those who
backfill one gallery at the same time share the rows by their ids. How images become vectors is the
caller's: nothing that could read one is imported here.
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np

from onward.errors import ConfigurationError, GalleryError, UpgradeError
from onward.evaluation.backfill_curve import random_order, uncertainty_order
from onward.gallery import Gallery, GalleryView, Share
from onward.plain import fields_of, plain
from onward.progress import Progress, silent
from onward.spaces import Embeddings, Ids, Space
from onward.upgrading.evidence import check_embedded, digest_sample
from onward.upgrading.routes import MOST_NAMED, check_whole, left_by_runs, next_step
from onward.upgrading.run import COMPACTED_SHARE, Pace

BUDGET = re.compile(r"(?P<money>\$?)\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>%|s|m|h|)")
BUDGETS = "rows (5000), a share of the gallery (10%), a time (90s, 15m, 2h) or money ($20)"
KINDS = {
    "rows": "a whole number above 0",
    "share": "above 0 and at most 1 (100 %)",
    "seconds": "a number above 0",
    "money": "a number above 0",
}
SECONDS = {"s": 1, "m": 60, "h": 3600}
MOST_DIGITS = 18
"""Of a number that is written: more are no budget."""
UNTIMED_ROWS = 16
"""The rows of a first batch that a time pays for: they tell how long a row takes."""

BATCH_SECONDS = 10.0
FIRST_ROWS, FEWEST_ROWS, MOST_ROWS = 64, 32, 4096
"""A batch has as many rows as are done in this time, between these bounds: writing rows takes the
store hardly longer than writing one."""
NAMED = 1000
"""Number of skipped items that are named; more are counted."""
LOGGED = 5
"""Number of skipped items that are named in the journal, and to a person."""

Order = Literal["uncertainty", "random"]
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True)
class Budget:
    """What one backfill may spend: one of these four.

    It counts what the model embeds; an image that cannot be read costs nothing.

    Attributes:
        rows: how many rows, 1 or more.
        share: of all rows of the gallery, above 0 and at most 1; rounded down to rows.
        seconds: above 0. Nothing is begun after them; what is under way is finished.
        money: above 0, in the currency of the price; rounded down to rows.
        price: of one item, above 0; needed with money, and only there.

    Raises:
        ConfigurationError: if one of these is something else.
    """

    rows: int | None = None
    share: float | None = None
    seconds: float | None = None
    money: float | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigurationError(
                f"a budget of {', '.join(given) or 'nothing'} was given",
                f"give one thing: {BUDGETS}",
            )
        (name,) = given
        value = getattr(self, name)
        is_right = _is_above_0(value) and (name != "share" or value <= 1)
        if not is_right or (name == "rows" and not isinstance(value, Integral)):
            raise ConfigurationError(
                f"a budget of {name} {value} was given", f"it must be {KINDS[name]}"
            )
        if name == "money" and not _is_above_0(self.price):
            raise ConfigurationError(
                f"a budget of money, {value:g}, needs the price of one item, a number above 0",
                f"the price given is {self.price}. Add it: price=...",
            )
        if name != "money" and self.price is not None:
            raise ConfigurationError(
                f"a price of {self.price} an item was given, but the budget is {self}, which is "
                "not money",
                "leave the price out, or give money, such as $20",
            )

    @classmethod
    def parse(cls, text: str, *, price: float | None = None) -> "Budget":
        """Read a budget as it is written: "5000", "10%", "90s", "15m", "2h" or "$20".

        Args:
            text: what was written.
            price: of one item, for money.

        Raises:
            ConfigurationError: if it is none; the message says how one is written.
        """
        found = BUDGET.fullmatch(text.strip())
        is_long = found is not None and len(found["number"]) > MOST_DIGITS
        if found is None or is_long or (found["money"] and found["unit"]):
            shown = text if len(text) <= 40 else text[:40] + "..."
            raise ConfigurationError(f"{shown!r} is not a budget", f"write {BUDGETS}")
        number, unit = Decimal(found["number"]), found["unit"]
        if found["money"]:
            return cls(money=float(number), price=price)
        if unit == "%":
            return cls(share=float(number / 100), price=price)
        if unit:
            return cls(seconds=float(number * SECONDS[unit]), price=price)
        if number != number.to_integral_value():
            raise ConfigurationError(f"{text!r} rows are not a whole number", f"write {BUDGETS}")
        return cls(rows=int(number), price=price)

    def rows_of(self, rows: int) -> int | None:
        """Return how many of a gallery's rows it pays for; None where only time will tell."""
        if self.share is not None:
            return int(_exact(self.share) * rows)
        if self.money is not None and self.price is not None:
            return min(rows, int(_exact(self.money) / _exact(self.price)))
        return None if self.rows is None else min(rows, self.rows)

    def __str__(self) -> str:
        if self.share is not None:
            return f"{_exact(self.share) * 100:f}".rstrip("0").rstrip(".") + "%"
        if self.seconds is not None:
            return f"{self.seconds:g}s"
        if self.money is not None:
            return f"${self.money:g} at ${self.price:g} an item"
        return f"{self.rows:,} rows"


class Meter:
    """What is left of a budget while it is spent.

    Args:
        budget: what may be spent.
        rows: how many the gallery has.
        batch_rows: how many are done at a time; what takes about 10 seconds if None.
        clock: seconds that only grow.

    Attributes:
        left: how many rows are paid for still; None where only time will tell.
    """

    def __init__(
        self,
        budget: Budget,
        rows: int,
        batch_rows: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._begin = clock()
        self._seconds = math.inf if budget.seconds is None else budget.seconds
        self._batch_rows = batch_rows
        self.left = budget.rows_of(rows)
        self._tried = 0

    def next_rows(self) -> int:
        """Return the number of rows to do next; 0 if everything is spent.

        Of a time as many as are likely to be done within what is left of it, but one in any case.
        """
        elapsed = self._clock() - self._begin
        rate = self._tried / elapsed if self._tried and elapsed else None
        rows = self._batch_rows
        if rows is None:
            likely = FIRST_ROWS if rate is None else int(rate * BATCH_SECONDS)
            rows = min(MOST_ROWS, max(FEWEST_ROWS, likely))
        if self.left is not None:
            return min(rows, self.left)
        if elapsed >= self._seconds:
            return 0
        if rate is None:
            return rows if self._tried else min(rows, UNTIMED_ROWS)
        return int(max(1, min(rows, rate * (self._seconds - elapsed))))

    def spend(self, embedded: int, *, tried: int) -> None:
        """Count the rows that a model has embedded, and those that were tried."""
        self._tried += tried
        if self.left is not None:
            self.left -= embedded


@dataclass(frozen=True, eq=False)
class EmbeddedItems:
    """What became of some items that were to be embedded.

    Attributes:
        embeddings: in the new space, of those that could be.
        skipped: of the others: why not.
    """

    embeddings: Embeddings
    skipped: Mapping[str, str] = field(default_factory=dict)


Embed = Callable[[Ids, Sequence[Mapping[str, Any] | None]], EmbeddedItems]
"""Called with ids and the payloads of the same items, None where there is none."""


@dataclass(frozen=True, eq=False)
class BackfillResult:
    """What a backfill has done.

    Attributes:
        gallery: URL of the gallery.
        space: the new space.
        budget: what might be spent.
        order: "uncertainty" or "random".
        done: rows that have got the new model's vector.
        changed: rows whose embedding was wasted: changed, embedded or deleted by others meanwhile.
        skipped: rows that could not be embedded.
        reasons: of the first of them, by id: why not.
        upgraded: rows that are left with what an upgrade made.
        missing: rows that are left without a vector in the new space.
        serving: whether the new space answers queries.
        seconds: how long it took.
        stopped: whether it was asked to stop.
    """

    gallery: str
    space: Space
    budget: str
    order: Order
    done: int
    changed: int
    skipped: int
    reasons: Mapping[str, str]
    upgraded: int
    missing: int
    serving: bool
    seconds: float
    stopped: bool

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values, with what to do next."""
        return {**fields_of(self), "next_steps": self._next_steps()}

    def __str__(self) -> str:
        rate = f", {self.done / self.seconds:,.1f} rows a second" if self.done else ""
        stopped = "stopped: " if self.stopped else ""
        lines = [
            f"{stopped}{self.done:,} rows embedded in {self.seconds:,.1f} s{rate}; "
            f"budget {self.budget}, order {self.order}",
            f"  left     {self.upgraded:,} rows as the upgrade made them, {self.missing:,} without "
            "a new vector",
        ]
        if self.changed:
            lines.append(f"  changed  {self.changed:,} rows meanwhile; they were left alone")
        if self.skipped:
            lines.append(f"  skipped  {self.skipped:,} rows:")
            first = islice(self.reasons.items(), LOGGED)
            lines += [f"    {item}: {why}" for item, why in first]
            lines += ["    ..."] if self.skipped > LOGGED else []
        return "\n".join(lines)

    def _next_steps(self) -> list[dict[str, str]]:
        steps = []
        if self.skipped:
            why = f"{self.skipped:,} rows were skipped: put right what their reasons name, then"
            steps.append(next_step("backfill", f"{why} backfill again"))
        elif self.upgraded or self.missing:
            left = f"{self.upgraded + self.missing:,} rows are not embedded by the new model"
            steps.append(next_step("backfill", f"{left}; it goes on where this one ended"))
        if not self.serving:
            steps.append(next_step("verify", "rows have changed, and the new space is to serve"))
        return steps


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
        raise ConfigurationError(f"there is no order {order!r}", f"choose {' or '.join(ORDERS)}")
    begin = time.perf_counter()
    view = gallery.view()
    if new not in view.spaces():
        raise UpgradeError(
            f"gallery {view.url} has no vectors in {new}, so there is nothing to backfill",
            "give the model of one of these, or start the upgrade to that space first",
            needed=f"it has {', '.join(map(str, view.spaces()))}",
            step="start",
        )
    meter = Meter(budget, view.rows, batch_rows)
    among = None if ids is None else frozenset(ids)
    chosen = _waiting_in_order(view, new, among, order=order, seed=seed, meter=meter)
    run = _Run(gallery, new, embed, meter, progress, Pace(gallery, new, stop))
    try:
        with gallery.working_on(_meeting_space(view, new)) as share_now:
            run.work_off(chosen, share_now)
    except KeyboardInterrupt:
        run.stopped = True
    except Exception as error:
        with suppress(Exception):  # what went wrong first is what is to be told
            done = {name: getattr(run, name) for name in ("done", "changed", "skipped")}
            gallery.log({"event": "backfill", "space": plain(new), **done, "error": str(error)})
        raise
    result = run.result(budget, order, time.perf_counter() - begin)
    entry = {"event": "backfill", **({"seed": seed} if order == "random" else {})}
    first = dict(islice(result.reasons.items(), LOGGED))
    gallery.log({**entry, **result.to_json(), "reasons": first})
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

    def embed(ids: Ids, _: Sequence[Mapping[str, Any] | None]) -> EmbeddedItems:
        there = [item for item in ids if item in rows]
        skipped = {item: "no embedding of it was given" for item in ids if item not in rows}
        return EmbeddedItems(given.select([rows[item] for item in there]), skipped)

    return embed


def write_sample(gallery: Gallery, sample: Embeddings, *, after: GalleryView) -> None:
    """Write a sample's vectors, with the origin "embedded", into the rows that are there; log it.

    A vector that a model made stays as it is. The sample must be of the items as they are now:
    rows that were updated since it was embedded are to be left out of it. `after` is the gallery
    as it was just looked at.
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
    gallery.log(event, after=after)


def _waiting_in_order(
    view: GalleryView,
    new: Space,
    among: frozenset[str] | None,
    *,
    order: Order,
    seed: int,
    meter: Meter,
) -> Ids:
    """Return the items, or those among some, that no model has embedded, in their order.

    First what has no vector in the new space and no recorded transformation can carry, because it
    lacks what that reads or because the latest run got no vector for it; then what was upgraded;
    last what a run of the upgrade will carry.

    Raises:
        UpgradeError: if the budget makes an order by uncertainty matter, and none is stored.
    """
    upgraded = dict[str, float]()
    for batch in view.scan([new]):
        numbers = batch.uncertainties[new].tolist()
        for item, origin, number in zip(batch.ids, batch.origins[new], numbers, strict=True):
            if origin == "upgraded" and (among is None or item in among):
                upgraded[item] = -math.inf if math.isnan(number) else number
    missing = [item for item in view.ids(without=[new]) if among is None or item in among]
    carried = _to_be_carried(view, new)
    lost = [item for item in missing if item not in carried]
    pending = [item for item in missing if item in carried]
    if order == "random":
        parts = (lost, upgraded, pending)
        return tuple(item for part in parts for item in random_order(part, seed=seed))
    covers_all = meter.left is not None and meter.left >= len(missing) + len(upgraded)
    if upgraded and max(upgraded.values()) == -math.inf and not covers_all:
        raise UpgradeError(
            f"there is no order by uncertainty: gallery {view.url} does not store the uncertainty "
            f"of its {len(upgraded):,} upgraded vectors in {new}",
            "backfill in random order, order='random', or fit the transformation with "
            "uncertainty=True and upgrade with that",
        )
    unsure = uncertainty_order(tuple(upgraded), tuple(upgraded.values()))
    return (*lost, *unsure, *pending)


def in_turn(ids: Ids, share: Share) -> Ids:
    """Return items in the order in which a worker with this share gets to them.

    Its own first, as they stand. Then the others', who may be slow, or have spent their budget:
    from the end, where these come last, and each worker from a place of its own, so that two are
    seldom at the same.
    """
    if share.is_everything:
        return ids
    own = frozenset(item for item in ids if share.holds(item))
    theirs = [item for item in reversed(ids) if item not in own]
    first = len(theirs) * share.number // share.of
    return (*(item for item in ids if item in own), *theirs[first:], *theirs[:first])


def _meeting_space(view: GalleryView, new: Space) -> Space:
    """Return the space by whose workers those tell each other apart who backfill the new one.

    It is one that no transformation fills, if there is one. On the new space itself the runs of
    the upgrade meet, which do other rows: a backfill would leave rows to them that they never do.
    """
    return next((space for space in view.spaces() if view.made_by(space) is None), new)


def _to_be_carried(view: GalleryView, new: Space) -> frozenset[str]:
    """Return the rows without a new vector that a run of the upgrade, as recorded, would carry."""
    made_by, spaces = view.made_by(new), view.spaces()
    needed = () if made_by is None else [one.reads for one in made_by.transformations]
    able = [each for each in needed if set(each) <= set(spaces)]
    carried = frozenset(item for each in able for item in view.ids(each, [new]))
    if not carried or made_by is None:
        return carried
    left = left_by_runs(view, new, made_by.digest)
    # Where only the first are named, nobody knows which of the others get no vector either.
    return frozenset() if len(left) >= MOST_NAMED else carried - set(left)


@dataclass
class _Run:
    """One backfill under way."""

    gallery: Gallery
    new: Space
    embed: Embed
    meter: Meter
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
        """Embed these items in their order until the budget is spent, split with others."""
        self.total = len(ids) if self.meter.left is None else min(len(ids), self.meter.left)
        self.progress(0, self.total)
        left, share = ids, Share()
        while left and (paid := self.meter.next_rows()):
            present = share_now()
            if present != share:
                unseen = frozenset(left)
                left = in_turn(tuple(item for item in ids if item in unseen), present)
                share = present
            rows = self.pace.next_rows(paid, share.of, lambda: None)
            if rows is None:
                self.stopped = True
                return
            batch, left = left[:rows], left[rows:]
            self._batch(batch)
            self.passed += len(batch)
            self.progress(min(self.passed - self.skipped, self.total), self.total)

    def _batch(self, ids: Ids) -> None:
        revisions, payloads = _read(self.gallery, self.new, ids)
        there = tuple(revisions)
        if not there:
            return
        found = self.embed(there, payloads)
        _check_embedded(found, there, self.new)
        made = found.embeddings
        self.meter.spend(len(made), tried=len(there))
        since = np.array([revisions[item] for item in made.ids], np.int64)
        written = self.gallery.write(made, since, origin="embedded")
        self.done += written
        self.changed += len(made) - written
        self.skipped += len(found.skipped)
        for item, why in found.skipped.items():
            if len(self.reasons) < NAMED:
                self.reasons[item] = why

    def result(self, budget: Budget, order: Order, seconds: float) -> BackfillResult:
        """Return what was done, and what is left now."""
        now = self.gallery.describe()
        counts = now.counts[self.new]
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
) -> tuple[dict[str, int], list[dict[str, Any] | None]]:
    """Return revisions and payloads of those items that are there and not embedded yet.

    The revisions are read first: a payload that changes after that is of a newer revision, and what
    is made of it is not written.
    """
    found = dict[str, int]()
    for batch in gallery.scan((), ids=ids):
        found |= dict(zip(batch.ids, batch.revisions.tolist(), strict=True))
    for batch in gallery.scan([new], ids=ids):
        for item, origin in zip(batch.ids, batch.origins[new], strict=True):
            if origin == "embedded":
                found.pop(item, None)
    revisions = {item: found[item] for item in ids if item in found}
    try:
        return revisions, gallery.payloads(revisions)
    except GalleryError:  # one may have been deleted since
        now = {item for batch in gallery.scan((), ids=revisions) for item in batch.ids}
        if len(now) == len(revisions):
            raise
        return _read(gallery, new, tuple(item for item in ids if item in now))


def _check_embedded(found: EmbeddedItems, asked: Ids, new: Space) -> None:
    made = found.embeddings
    if made.space != new:
        raise UpgradeError(
            f"the items were embedded in {made.space}, but {new} is backfilled",
            "nothing of this batch was written. Give the model of that space",
        )
    given = sorted((*made.ids, *found.skipped))
    if given != sorted(asked):
        odd = min((set(given) ^ set(asked)) or (set(made.ids) & set(found.skipped)))
        raise UpgradeError(
            f"of {len(asked)} items, {len(made)} were embedded and {len(found.skipped)} skipped",
            f"each must be one of the two, once, and {odd!r} is not. Nothing of this batch was "
            "written: mend what embeds them",
        )


def _is_above_0(value: object) -> bool:
    """Say whether it is a number above 0; infinity, NaN and truth values are not."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0  # type: ignore[arg-type, operator]


def _exact(number: float) -> Decimal:
    """Return the number that was written, not the float nearest to it."""
    return Decimal(repr(float(number)))
