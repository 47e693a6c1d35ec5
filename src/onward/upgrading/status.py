"""How far an upgrade is, and what comes next."""

from dataclasses import dataclass
from typing import Any

from onward.gallery import Control, Gallery
from onward.spaces import Space
from onward.upgrading.chains import describe_chains
from onward.upgrading.gate import GATE, GateSaid
from onward.upgrading.natives import CountedRows, find_natives
from onward.upgrading.routes import Routes
from onward.upgrading.verify import verification_state
from onward.upgrading.work import NO_SIDE, Work, measure_work, next_step


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
        serving: the space that answers queries.
        query_model: fingerprint of the model that embeds the queries, if it is known.
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
    serving: Space
    query_model: str | None
    since: str | None
    previous: Space | None
    natives: CountedRows | None
    control: Control
    gate: GateSaid | None

    @property
    def is_cut_over(self) -> bool:
        """Whether the new space answers queries."""
        return self.serving == self.new

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, with what to do next."""
        return {
            "gallery": self.gallery,
            "transformation": self.transformation,
            "old": self.old.to_json(),
            "new": self.new.to_json(),
            "started": self.started,
            **self.work.to_json(),
            "notes": list(self.notes),
            "verification": self.verification,
            "cut_over": self.is_cut_over,
            "serving": self.serving.to_json(),
            "query_model": self.query_model,
            "since": self.since,
            "previous": None if self.previous is None else self.previous.to_json(),
            "natives": None if self.natives is None else self.natives.to_json(),
            **self.control.to_json(),
            "gate": None if self.gate is None else self.gate.to_json(),
            "next_steps": self._next_steps(),
        }

    def __str__(self) -> str:
        work = self.work
        model = "not recorded" if self.query_model is None else self.query_model
        lines = [
            f"upgrade of gallery {self.gallery}: {self.old} -> {self.new}",
            f"  started      {'yes' if self.started else 'no'}",
            f"  rows         {work.done:,} of {work.rows:,} done, {work.to_do:,} to do",
            *(f"  blocked      {one}" for one in work.blocked),
            *(f"  note         {one}" for one in self.notes),
            f"  verification {self.verification}",
            f"  serving      {self.serving}, queries embedded by model {model}",
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
        if self.is_cut_over:
            return [*steps, *self._steps_after_cutting_over(), *helps]
        if self.verification == "passed":
            return [*steps, next_step("cut_over", "the verification has passed"), *helps]
        if not self.work.to_do:
            helps.append(next_step("verify", f"the verification is: {self.verification}"))
        return [*steps, *helps]

    def _steps_for_blocked(self) -> list[dict[str, str]]:
        """Return what would help the rows that the transformation cannot carry."""
        rows, lacking = (
            self.work.skipped,
            sum(one.rows for one in self.work.blocked if NO_SIDE in one.reason),
        )
        steps = []
        if lacking:
            why = f"{lacking:,} rows have no side-information: write it, and they are carried"
            steps.append(next_step("write", why))
        if not rows:
            return steps
        fallback = f"with a transformation that carries {rows:,} blocked rows too (--also)"
        if not self.started:
            return [*steps, next_step("start", fallback)]
        why = f"{rows:,} rows cannot be carried over: embed them with the new model"
        steps.append(next_step("backfill", why))
        if not self.is_cut_over:
            steps.append(next_step("abort", f"then start again {fallback}"))
        return steps

    def _steps_after_cutting_over(self) -> list[dict[str, str]]:
        if self.previous is None:  # complete: there is no way back
            return []
        return [
            next_step("roll_back", "if the new space serves badly"),
            next_step("complete", "if it serves well: then there is no rolling back any more"),
        ]


def is_started(gallery: Gallery, routes: Routes) -> bool:
    """Say whether the gallery records that these transformations fill the new space."""
    made_by = gallery.made_by(routes.new)
    return made_by is not None and made_by.digest == routes.digest


def read_gate(gallery: Gallery, routes: Routes) -> GateSaid | None:
    """Return what the gate said when an upgrade was started; None if it was not.

    What it said before the upgrade was given up, and started again, counts no more.
    """
    if not is_started(gallery, routes):
        return None
    for entry in reversed(gallery.journal()):
        if entry["event"] == GATE and entry["transformation"] == routes.digest:
            return GateSaid.of(entry)
        if entry["event"] in ("abort", "drop space") and entry["space"] == routes.new.to_json():
            break
    return GateSaid.of(None)


def read_status(gallery: Gallery, routes: Routes) -> UpgradeStatus:
    """Return how far an upgrade is."""
    now, new = gallery.describe(), routes.new
    previous = None if now.previous is None else now.previous.space
    home = now.serving if now.serving != new else previous
    return UpgradeStatus(
        gallery=gallery.url,
        transformation=routes.digest,
        old=routes.first.old,
        new=new,
        started=is_started(gallery, routes),
        work=measure_work(gallery, routes),
        notes=describe_chains(gallery, routes),
        verification=verification_state(gallery, routes),
        serving=now.serving,
        query_model=now.query_model,
        since=now.since,
        previous=previous,
        natives=None if home is None else find_natives(gallery, new, without=[home]),
        control=gallery.control(new) if new in now.spaces else Control(),
        gate=read_gate(gallery, routes),
    )
