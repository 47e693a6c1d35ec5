"""An upgrade: start, run, pause, verify, cut over, roll back, complete, each safe to repeat.

The order is plan, start, run, verify, cut over, roll back, complete. Everything that an upgrade
knows is in the gallery, so any process can go on with it. A step looks at the gallery once, decides
by that view, and only what writes looks again. No image can be read here: nothing that could is
imported.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from onward.errors import GalleryError, UpgradeError
from onward.fusion import Fusion, Serve
from onward.gallery import Control, Gallery, GalleryView
from onward.plain import fields_of
from onward.progress import Progress, silent
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation
from onward.upgrading.backfill import write_sample
from onward.upgrading.complete import (
    ROLLBACK_WINDOW,
    Completion,
    check_complete,
    find_natives,
    plan_completion,
)
from onward.upgrading.cutover import build_indexes, check_verified, choose_pair, query_models
from onward.upgrading.evidence import check_sample_space
from onward.upgrading.forecast import Forecast
from onward.upgrading.gate import (
    GATE,
    MARGIN,
    GateEntry,
    Requirement,
    check_allowed,
    gate_event,
)
from onward.upgrading.routes import (
    EXAMPLES,
    NO_SIDE,
    CountedRows,
    Routes,
    Work,
    check_routes,
    check_same_routes,
    check_started,
    check_whole,
    describe_chains,
    is_started,
    journal_of,
    measure_work,
    next_step,
    pending_ids,
)
from onward.upgrading.run import UpgradeResult, run_upgrade
from onward.upgrading.verify import (
    SAMPLE_ROWS,
    VERIFY,
    Answering,
    Canaries,
    Verification,
    ask_canaries,
    compare_ids,
    recompute,
    verification_state,
    verified_last,
)

ATTEMPTS = 3
AFTER_CUTTING_OVER = (
    next_step("roll_back", "if the new space serves badly"),
    next_step("complete", "if it serves well: then there is no rolling back any more"),
)


@dataclass(frozen=True, eq=False)
class UpgradeStatus:
    """How far an upgrade is.

    Attributes:
        gallery: URL of the gallery.
        transformation: digest of the transformation.
        old: the space upgraded from.
        new: the space upgraded to.
        started: whether the new space is there and filled by this transformation.
        work: rows to do, done and blocked.
        notes: which rows are carried on from vectors that were upgraded themselves.
        verification: "none", "passed", "failed", or "stale" if rows have changed since.
        verified: what was verified last: that the new space may serve ("new"), or the pair
            ("fused"); None if nothing was.
        serving: the space that answers queries; of a fused pair the new one.
        fusion: the pair that answers queries, if one does.
        query_model: fingerprint of the model that embeds the queries, if it is known.
        old_query_model: of a pair, fingerprint of the model that embeds them in its old space.
        since: when the serving space was cut over to (UTC, ISO 8601), if it was.
        previous: the space that rolling back returns to, if there is one.
        natives: rows that a model embedded in the new space and that have no vector in the space
            that serves, or, once the new one serves, in the one that rolling back returns to.
        control: whether those who run it wait, and how fast they may be.
        gate: what was said of how well search will be when it was started; None if it was not.
    """

    gallery: str
    transformation: str
    old: Space
    new: Space
    started: bool
    work: Work
    notes: tuple[str, ...]
    verification: str
    verified: Answering | None
    serving: Space
    fusion: Fusion | None
    query_model: str | None
    old_query_model: str | None
    since: str | None
    previous: Space | None
    natives: CountedRows | None
    control: Control
    gate: GateEntry | None

    @property
    def is_cut_over(self) -> bool:
        """Whether the new space answers queries."""
        return self.serving == self.new

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, with what to do next."""
        return {
            **fields_of(self, without=("work", "control")),
            **self.work.to_json(),
            **self.control.to_json(),
            "cut_over": self.is_cut_over,
            "next_steps": self._next_steps(),
        }

    def __str__(self) -> str:
        work = self.work
        models = (self.query_model, *(() if self.fusion is None else (self.old_query_model,)))
        named = " and ".join("not recorded" if one is None else one for one in models)
        serving = self.serving if self.fusion is None else self.fusion
        of_pair = " of the fused pair" if self.verified == "fused" else ""
        lines = [
            f"upgrade of gallery {self.gallery}: {self.old} -> {self.new}",
            f"  started      {'yes' if self.started else 'no'}",
            f"  rows         {work.done:,} of {work.rows:,} done, {work.to_do:,} to do",
            *(f"  blocked      {one}" for one in work.blocked),
            *(f"  note         {one}" for one in self.notes),
            f"  verification {self.verification}{of_pair}",
            f"  serving      {serving}, queries embedded by model {named}",
        ]
        if self.gate is not None:
            lines.insert(2, f"  gate         {self.gate}")
        if self.control != Control():
            lines.insert(2, f"  running      {self.control}")
        if self.natives is not None:
            found = "would not be found after rolling back" if self.is_cut_over else "not found now"
            lines.append(f"  only new     {self.natives}: embedded by the new model alone, {found}")
        return "\n".join(lines)

    def _next_steps(self) -> list[dict[str, str]]:
        helps = self._steps_for_blocked()
        if not self.started:
            return [next_step("start", f"{self.work.to_do:,} rows can be upgraded"), *helps]
        steps = []
        if self.work.to_do and self.control.paused:
            steps.append(next_step("resume", "the upgrade is paused"))
        if self.work.to_do:
            steps.append(next_step("run", f"{self.work.to_do:,} rows are to be done"))
        if self.is_cut_over and self.previous is None:  # complete: there is no way back
            return [*steps, *helps]
        if self.is_cut_over:
            return [*steps, *AFTER_CUTTING_OVER, *helps]
        if self.verification == "passed":
            step = "cut_over_fused" if self.verified == "fused" else "cut_over"
            return [*steps, next_step(step, "the verification has passed"), *helps]
        if not self.work.to_do:
            fused = self.gate is not None and self.gate.serve == "fused"
            verify = "verify_fused" if fused else "verify"
            helps.append(next_step(verify, f"the verification is: {self.verification}"))
        return [*steps, *helps]

    def _steps_for_blocked(self) -> list[dict[str, str]]:
        """Return what would help the rows that the transformation cannot carry."""
        rows, steps = self.work.skipped, []
        lacking = sum(one.rows for one in self.work.blocked if NO_SIDE in one.reason)
        if lacking:
            why = f"{lacking:,} rows have no side-information: write it, and they are carried"
            steps.append(next_step("write", why))
        if not rows:
            return steps
        fallback = f"with a transformation that carries {rows:,} blocked rows too, as a fallback"
        if not self.started:
            return [*steps, next_step("start", fallback)]
        why = f"{rows:,} rows cannot be carried over: embed them with the new model"
        steps.append(next_step("backfill", why))
        if not self.is_cut_over:
            steps.append(next_step("abort", f"then start again {fallback}"))
        return steps


class Upgrade:
    """The upgrade of one gallery by one transformation, or by several into the same space.

    Args:
        gallery: the gallery.
        transformation: from a space of the gallery to the new one.
        fallbacks: other transformations to the new space, for rows that lack what the first one
            reads. A row is carried by the first of all that has what it reads; see
            `onward.upgrading.routes`.

    Every step but `start` and `status` may raise an UpgradeError: the upgrade was not started, or
    with another transformation.

    Raises:
        UpgradeError: if the gallery lacks a space that a transformation reads, they lead into
            different spaces, or one of them can never be its turn.
    """

    def __init__(
        self, gallery: Gallery, transformation: Transformation, *fallbacks: Transformation
    ) -> None:
        routes, view = Routes((transformation, *fallbacks)), gallery.view()
        if not is_started(view, routes):  # what it was made from may be dropped afterwards
            check_routes(view, routes)
        self.gallery = gallery
        self.routes = routes

    @property
    def transformation(self) -> Transformation:
        """The first transformation; `routes` has all of them."""
        return self.routes.first

    def start(
        self,
        *,
        prediction: Forecast | None = None,
        require: Requirement | None = None,
        margin: float = MARGIN,
        force: bool = False,
        sample: Embeddings | None = None,
        serve: Serve | None = None,
        old_model_gone: bool = False,
    ) -> UpgradeStatus:
        """Give every row room for a vector in the new space, and record the transformation.

        Args:
            prediction: what a plan or `forecast` says of how well search will be; what the gate
                makes of it is logged. If None, it starts without being judged, and the status says
                so.
            require: what it must reach besides being better than doing nothing.
            margin: as `decide` takes it.
            force: start although the gate is not open; that is logged.
            sample: true new embeddings of some items, to be written: the first slice of a backfill.
                Not if they are predicted to make search worse beside upgraded vectors.
            serve: what the gate judges, as `decide` takes it; what is served says `cut_over`.
            old_model_gone: as `decide` takes it.

        Raises:
            UpgradeError: if an upgrade to this space was started with another transformation, the
                gate is not open, something is required and nothing predicted, fused search is asked
                for where no pair is known, or the prediction is of something else.
            SpaceMismatchError: if the sample is in another space than the upgrade leads to.
            ConfigurationError: if the margin is not in [0, 1), or fused search is asked for without
                the old model.
        """
        if sample is not None:
            check_sample_space(sample, self.routes.new)
        decision = check_allowed(
            self.routes.digest,
            prediction,
            sample=sample,
            margin=margin,
            require=require,
            force=force,
            serve=serve,
            old_model_gone=old_model_gone,
        )
        view, new = self.gallery.view(), self.routes.new
        check_same_routes(view, self.routes)
        if decision is not None or not is_started(view, self.routes):
            event = gate_event(prediction, decision, self.routes.digest, serve)
            self.gallery.log(event, after=view)
        view = self.gallery.add_space(new, made_by=self.routes.recorded)
        if sample is not None and (decision is None or decision.writes_sample):
            write_sample(self.gallery, sample, after=view)
        return self.status(view)

    def run(
        self,
        *,
        progress: Progress = silent,
        batch_rows: int | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> UpgradeResult:
        """Carry over the rows that are to be done; also those that others add meanwhile.

        An item of which no transformation makes a vector (NaN, infinite, or zero where the metric
        is the cosine) is left, and named in the result: the others are done.

        Args:
            progress: told after every batch.
            batch_rows: how many rows are read, transformed and written at a time; chosen so that
                they take about 96 MiB if None.
            stop: asked before every batch; a run that is told to stop, or is interrupted from the
                keyboard, ends within one batch, and the next one goes on.

        Raises:
            ConfigurationError: if the number of rows is not a whole number from 1 up.
            EmbeddingsError: if a stored vector is damaged; the message names the item.
        """
        return run_upgrade(
            self.gallery, self.routes, batch_rows=batch_rows, progress=progress, stop=stop
        )

    def pause(self) -> UpgradeStatus:
        """Let all who run this upgrade wait, after the batch that they are writing.

        Those who run it later wait too, until `resume`; other processes may do so.
        """
        return self._control({"event": "pause"}, lambda now: replace(now, paused=True))

    def resume(self) -> UpgradeStatus:
        """Let all who run this upgrade go on."""
        return self._control({"event": "resume"}, lambda now: replace(now, paused=False))

    def limit(self, rows_per_second: float | None) -> UpgradeStatus:
        """Limit how many rows a second all who run this upgrade write together, now and later.

        Args:
            rows_per_second: positive; None lifts the limit.

        Raises:
            UpgradeError: if the limit is not positive.
        """
        check_rate(rows_per_second)
        event = {"event": "limit", "rows_per_second": rows_per_second}
        return self._control(event, lambda now: replace(now, rows_per_second=rows_per_second))

    def abort(self, *, leave_out: bool = False) -> UpgradeStatus:
        """Give the upgrade up and drop the new space; runs end with an error that says so.

        Args:
            leave_out: allow that items which have a vector in the new space only have none then.

        Raises:
            UpgradeError: if the new space answers queries or rolling back would return to it, or
                an item has no other vector.
        """
        view, new = self._started(), self.routes.new
        served = view.record.serving.spaces
        back = view.record.previous is not None and new in view.record.previous.spaces
        if back or new in served:
            what = "rolling back returns to it" if back else "it answers queries"
            way = "complete the upgrade from it first" if back else "roll back first"
            raise UpgradeError(
                f"the upgrade of gallery {view.url} to {new.name} cannot be aborted: {what}. "
                f"Nothing was dropped",
                f"{way}",
            )
        natives = find_natives(view, new, without=[one for one in view.spaces() if one != new])
        if natives is not None and not leave_out:
            raise UpgradeError(
                f"aborting the upgrade of gallery {view.url} would take the only vector of "
                f"{natives}. Nothing was dropped",
                "embed these items with the model that serves, or "
                "allow that they cannot be found with leave_out=True",
            )
        counts = view.counts[new].to_json()
        event = {"event": "abort", "transformation": self.routes.digest, **counts}
        return self.status(self.gallery.drop_space(new, event=event))

    def verify(
        self,
        *,
        sample_rows: int | None = SAMPLE_ROWS,
        leave_out: bool = False,
        canaries: Canaries | None = None,
        serve: Answering = "new",
        fusion: Fusion | None = None,
        progress: Progress = silent,
    ) -> Verification:
        """Prove that the upgrade is complete, and its vectors what the transformation makes.

        Args:
            sample_rows: how many upgraded rows are recomputed, chosen at random; None for all.
            leave_out: allow that items which can be found now, and which the transformation cannot
                carry over, cannot be found after cutting over.
            canaries: queries whose answers are known, and what they must reach to pass.
            serve: what is to answer queries: the new space alone, or a fused pair, in which an item
                that has its old vector only is found, too.
            fusion: the pair; the transformation's if None.
            progress: told how many rows are recomputed.

        Raises:
            ConfigurationError: if the number of rows is not a whole number from 1 up.
            UpgradeError: if nothing says which pair, or the gallery lacks a space of it.
        """
        if sample_rows is not None:
            check_whole("sample_rows", sample_rows)
        begin, view, routes = time.perf_counter(), self._started(), self.routes
        pair = choose_pair(view, self.routes, serve, fusion)
        version, state = view.version(), view.state()
        work, counts = measure_work(view, routes, pair=pair), view.counts[routes.new]
        asked = None if canaries is None else ask_canaries(view, routes.new, canaries, pair)
        gone = tuple(one for one in routes.reads if one not in view.spaces())  # completing drops it
        checked, wrong = (0, []) if gone else recompute(view, routes, sample_rows, progress)
        verification = Verification(
            transformation=routes.digest,
            serve=serve,
            fusion=pair,
            state=state,
            version=version,
            work=work,
            pending=pending_ids(view, routes, work) if work.to_do else (),
            ids=compare_ids(view, routes.new),
            leave_out=leave_out,
            checked=checked,
            upgraded=counts.upgraded,
            embedded=counts.embedded,
            gone=gone,
            wrong=len(wrong),
            wrong_examples=tuple(wrong[:EXAMPLES]),
            canaries=asked,
            seconds=time.perf_counter() - begin,
        )
        self.gallery.log({"event": VERIFY, **verification.to_json()})
        return verification

    def cut_over(
        self,
        *,
        query_model: str | None,
        serve: Answering = "new",
        fusion: Fusion | None = None,
        old_query_model: str | None = None,
        force: bool = False,
    ) -> UpgradeStatus:
        """Let the new space, or a fused pair with it, answer queries: one atomic step.

        It records which models embed the queries. From the new space to the pair and back it may be
        called at any time until the upgrade is complete; rolling back undoes both.

        Args:
            query_model: fingerprint of the new model, which embeds the queries from now on. Where
                the new space answers queries already, None keeps what is recorded.
            serve: "new" for the new space alone, "fused" for the pair.
            fusion: the pair; the transformation's if None.
            old_query_model: fingerprint of the old model, which goes on embedding queries for a
                pair; what is recorded of it if None.
            force: do it without a passed and fresh verification; that is logged.

        Raises:
            UpgradeError: if the verification of what is to serve is missing, failed or stale, or
                nothing says which pair.
        """
        view, new = self._started(), self.routes.new
        pair = choose_pair(view, self.routes, serve, fusion)
        models = query_models(view, new, pair, query_model, old_query_model)
        now = view.record.serving
        if (now.space, now.fusion, now.query_model, now.old_query_model) == (new, pair, *models):
            return self.status(view)
        verified = check_verified(view, self.routes, pair, force=force)
        indexed = build_indexes(self.gallery, view, new, pair)
        if indexed is not None:
            verified = check_verified(indexed, self.routes, pair, force=force)
        event = {
            "event": "cut over",
            "transformation": self.routes.digest,
            "verification": verified,
            "forced": verified != "passed",
            "next_steps": list(AFTER_CUTTING_OVER),
        }
        named = {"query_model": models[0], "old_query_model": models[1]}
        return self.status(self.gallery.serve(new if pair is None else pair, **named, event=event))

    def roll_back(self, *, leave_out: bool = False) -> UpgradeStatus:
        """Let the space that served before answer queries again, at once.

        What was upgraded stays, so cutting over again needs no work. Nothing happens if the new
        space does not answer queries. The answer names the items that are not found now: those
        that were added with the new model's embedding alone.

        Args:
            leave_out: allow that there are such items.

        Raises:
            UpgradeError: if there are such items and that is not allowed.
            GalleryError: if the upgrade was completed: there is nothing to roll back to.
        """
        view, new, natives = self.gallery.view(), self.routes.new, None
        if view.serving != new:
            return self.status(view)
        back = view.record.previous
        if back is not None:
            natives = find_natives(view, new, without=back.spaces)
            if natives is not None and not leave_out:
                raise UpgradeError(
                    f"gallery {view.url} was not rolled back: {natives} were added with the new "
                    f"model's embedding and have no vector in {back}, so that they would "
                    "not be found",
                    "embed them with the old model and write these vectors too, or leave them out "
                    "with leave_out=True: they stay in the gallery, and cutting over again finds "
                    "them",
                    step="write",
                )
        event = {
            "event": "roll back",
            "transformation": self.routes.digest,
            "left_out": None if natives is None else natives.to_json(),
            "next_steps": [next_step("cut_over", "what was upgraded is still there")],
        }
        self.gallery.roll_back(new, event=event)
        return self.status()

    def complete(
        self,
        *,
        now: bool = False,
        rollback_window: timedelta = ROLLBACK_WINDOW,
        drop_original: bool = False,
        leave_out: bool = False,
    ) -> Completion:
        """End the possibility of rolling back, and drop what was derived and serves no longer.

        Kept are the old vectors and the side-information, from which later upgrades are fitted,
        and a space in which a model embedded items that it embedded nowhere else. May be killed:
        the next call drops what is left.

        Args:
            now: do not wait for the end of the rollback window.
            rollback_window: how long after cutting over this is refused.
            drop_original: drop what the transformations read too; `plan_completion` says what that
                makes impossible.
            leave_out: with `drop_original`: give up items that have no other vector.

        Raises:
            UpgradeError: if the new space does not answer queries, the rollback window is not over,
                or items would be left without any vector.
        """
        view = self.gallery.view()
        completion = plan_completion(view, self.routes, drop_original=drop_original)
        check_complete(view, completion, now=now, window=rollback_window, leave_out=leave_out)
        event = {
            "event": "complete",
            "now": now,
            "rollback_window_seconds": rollback_window.total_seconds(),
            "drop_original": drop_original,
            "leave_out": leave_out,
            **completion.to_json(),
        }
        self.gallery.complete(self.routes.new, completion.dropped, event=event)
        return completion

    def status(self, view: GalleryView | None = None) -> UpgradeStatus:
        """Return how far the upgrade is, by a view, or by a newer one where a space was dropped."""
        return self.gallery.ask(lambda now: _status_of(now, self.routes), view)

    def _started(self) -> GalleryView:
        view = self.gallery.view()
        check_started(view, self.routes)
        return view

    def _control(
        self, event: dict[str, Any], changed: Callable[[Control], Control]
    ) -> UpgradeStatus:
        self._started()
        logged = {**event, "transformation": self.routes.digest}
        try:
            view = self.gallery.change_control(self.routes.new, changed, event=logged)
        except GalleryError:
            self._started()  # it was aborted meanwhile
            raise
        return self.status(view)


def verify_and_cut_over(
    upgrade: Upgrade,
    *,
    query_model: str | None,
    serve: Answering = "new",
    old_query_model: str | None = None,
    leave_out: bool = False,
    tell: Callable[[Verification], None] | None = None,
) -> UpgradeStatus:
    """Verify an upgrade that was run, and cut over; run and verify again if rows have changed.

    Args:
        upgrade: the upgrade.
        query_model: as `Upgrade.cut_over` takes it.
        serve: as `Upgrade.cut_over` takes it; of a pair, the transformation's.
        old_query_model: as `Upgrade.cut_over` takes it.
        leave_out: as `Upgrade.verify` takes it.
        tell: told every verification.

    Raises:
        UpgradeError: if the verification fails, a run is stopped, or rows changed every time.
    """
    gallery, routes = upgrade.gallery, upgrade.routes
    view = upgrade._started()
    pair = choose_pair(view, routes, serve, None)
    build_indexes(gallery, view, routes.new, pair)  # it takes long, and rows may change meanwhile
    longest = 0.0
    for _ in range(ATTEMPTS):
        verification = upgrade.verify(leave_out=leave_out, serve=serve)
        if tell is not None:
            tell(verification)
        longest = max(longest, verification.seconds)
        try:
            return upgrade.cut_over(
                serve=serve, query_model=query_model, old_query_model=old_query_model
            )
        except UpgradeError:
            if verification_state(gallery.view(), routes, pair) != "stale":
                raise
        if upgrade.run().stopped:
            raise UpgradeError(
                f"the upgrade of gallery {gallery.url} was stopped before it cut over",
                "run the same again to go on",
            )
    raise UpgradeError(
        f"gallery {gallery.url} was not cut over: others changed rows during each of {ATTEMPTS} "
        f"verifications. Everything else is done",
        f"keep rows unchanged for about {longest:,.1f} s, as long as a "
        "verification takes, and do the same again. Or cut over with force=True: rows "
        "that are to be done then are done by the next run",
    )


def check_rate(rows_per_second: float | None) -> None:
    """Refuse a limit that is none.

    Raises:
        UpgradeError: if it is not positive, infinite or NaN.
    """
    if rows_per_second is not None and not 0 < rows_per_second < math.inf:
        raise UpgradeError(
            f"a limit of {rows_per_second:g} rows a second was asked for",
            "give a positive number, or none (None) to lift the limit. To let the upgrade wait, "
            "pause it",
        )


def _status_of(view: GalleryView, routes: Routes) -> UpgradeStatus:
    new, started = routes.new, is_started(view, routes)
    verified, pair = verified_last(view, routes) or (None, None)
    said = journal_of(view, new, GATE, transformation=routes.digest)
    home = view.record.serving if view.serving != new else view.record.previous
    return UpgradeStatus(
        gallery=view.url,
        transformation=routes.digest,
        old=routes.first.old,
        new=new,
        started=started,
        work=measure_work(view, routes, pair=pair),
        notes=describe_chains(view, routes),
        verification=verification_state(view, routes, pair),
        verified=verified,
        serving=view.serving,
        fusion=view.fusion,
        old_query_model=view.record.serving.old_query_model,
        query_model=view.record.serving.query_model,
        since=view.record.serving.since,
        previous=view.previous,
        natives=None if home is None else find_natives(view, new, without=home.spaces),
        control=view.control(new) if new in view.spaces() else Control(),
        gate=GateEntry.of(next(said, None)) if started else None,
    )
