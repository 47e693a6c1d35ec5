"""How far an upgrade is, and what comes next."""

from dataclasses import dataclass
from typing import Any

from onward.spaces import Space
from onward.upgrading.work import Work, next_step


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
        verification: "none", "passed", "failed", or "stale" if rows have changed since.
        serving: the space that answers queries.
        query_model: fingerprint of the model that embeds the queries, if it is known.
    """

    gallery: str
    transformation: str
    old: Space
    new: Space
    started: bool
    work: Work
    verification: str
    serving: Space
    query_model: str | None

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
            "verification": self.verification,
            "cut_over": self.is_cut_over,
            "serving": self.serving.to_json(),
            "query_model": self.query_model,
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
            f"  verification {self.verification}",
            f"  serving      {self.serving}, queries embedded by model {model}",
        ]
        return "\n".join(lines)

    def _next_steps(self) -> list[dict[str, str]]:
        if not self.started:
            return [next_step("start", f"{self.work.to_do:,} rows can be upgraded")]
        steps = []
        if self.work.to_do:
            steps.append(next_step("run", f"{self.work.to_do:,} rows are to be done"))
        if self.is_cut_over:
            return [*steps, next_step("roll_back", "if the new space serves badly")]
        if not self.work.to_do and self.verification != "passed":
            steps.append(next_step("verify", f"the verification is: {self.verification}"))
        elif self.verification == "passed":
            steps.append(next_step("cut_over", "the verification has passed"))
        return steps
