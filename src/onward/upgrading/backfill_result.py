"""What a backfill has done, and what comes next. Nothing here reads or writes a gallery."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from onward.spaces import Space
from onward.upgrading.work import next_step

Order = Literal["uncertainty", "random"]
ORDERS: tuple[Order, ...] = get_args(Order)

LOGGED = 5
"""Number of skipped items that are named in the journal, and to a person."""


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
        return {
            "gallery": self.gallery,
            "space": self.space.to_json(),
            "budget": self.budget,
            "order": self.order,
            "done": self.done,
            "changed": self.changed,
            "skipped": self.skipped,
            "reasons": dict(self.reasons),
            "upgraded": self.upgraded,
            "missing": self.missing,
            "serving": self.serving,
            "seconds": self.seconds,
            "stopped": self.stopped,
            "next_steps": self._next_steps(),
        }

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
            lines += [f"    {item}: {why}" for item, why in list(self.reasons.items())[:LOGGED]]
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
