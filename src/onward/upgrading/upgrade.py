"""An upgrade: start, run, verify, cut over, roll back, each safe to repeat.

The order is plan, start, run, verify, cut over, roll back. Everything that an upgrade knows is in
the gallery, so any process can go on with it. No image can be read here: nothing that could is
imported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onward.errors import UpgradeError
from onward.gallery import Gallery
from onward.progress import Progress, silent
from onward.spaces import Space
from onward.transformation import Transformation
from onward.upgrading.run import UpgradeResult, run_upgrade
from onward.upgrading.verify import (
    SAMPLE_ROWS,
    TOLERANCE,
    Verification,
    latest_verification,
    verify_upgrade,
)
from onward.upgrading.work import (
    Work,
    check_fits,
    check_same_transformation,
    check_started,
    choose_batch_rows,
    describe_transformation,
    measure_work,
    next_step,
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


class Upgrade:
    """The upgrade of one gallery by one transformation.

    Args:
        gallery: the gallery.
        transformation: from a space of the gallery to the new one.

    Raises:
        UpgradeError: if the gallery lacks a space that the transformation reads.
    """

    def __init__(self, gallery: Gallery, transformation: Transformation) -> None:
        check_fits(gallery, transformation)
        self.gallery = gallery
        self.transformation = transformation

    def start(self) -> UpgradeStatus:
        """Give every row room for a vector in the new space, and record the transformation.

        Raises:
            UpgradeError: if an upgrade to this space was started with another transformation.
        """
        new = self.transformation.new
        made_by = self.gallery.made_by(new)
        if made_by is not None:
            check_same_transformation(self.gallery, self.transformation, made_by)
        self.gallery.add_space(new, made_by=describe_transformation(self.transformation))
        return self.status()

    def run(
        self,
        *,
        progress: Progress = silent,
        batch_rows: int | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> UpgradeResult:
        """Carry over the rows that are to be done; also those that others add meanwhile.

        Args:
            progress: told after every batch.
            batch_rows: how many rows are read, transformed and written at a time; chosen so that
                they take about 32 MiB if None.
            stop: asked before every batch; a run that is told to stop, or is interrupted from the
                keyboard, ends within one batch, and the next one goes on.

        Raises:
            UpgradeError: if the upgrade was not started, or with another transformation.
            EmbeddingsError: if a stored vector is damaged; the message names the item.
            TransformationError: if an item's vector comes out NaN or infinite.
        """
        check_started(self.gallery, self.transformation)
        return run_upgrade(
            self.gallery,
            self.transformation,
            batch_rows=choose_batch_rows(self.transformation) if batch_rows is None else batch_rows,
            progress=progress,
            stop=stop,
        )

    def verify(
        self,
        *,
        sample_rows: int | None = SAMPLE_ROWS,
        leave_out: bool = False,
        tolerance: float = TOLERANCE,
        progress: Progress = silent,
    ) -> Verification:
        """Prove that the upgrade is complete, and its vectors what the transformation makes.

        Args:
            sample_rows: how many upgraded rows are recomputed, chosen at random; None for all.
            leave_out: allow that items which can be found now, and which the transformation cannot
                carry over, cannot be found after cutting over.
            tolerance: how far a stored vector may be from the recomputed one, as a share of the
                latter's length.
            progress: told how many rows are recomputed.

        Raises:
            UpgradeError: if the upgrade was not started, or with another transformation.
        """
        check_started(self.gallery, self.transformation)
        return verify_upgrade(
            self.gallery,
            self.transformation,
            sample_rows=sample_rows,
            leave_out=leave_out,
            tolerance=tolerance,
            progress=progress,
        )

    def cut_over(self, *, query_model: str | None, force: bool = False) -> UpgradeStatus:
        """Let the new space answer queries, and record which model embeds them: one atomic step.

        Args:
            query_model: fingerprint of the new model, which embeds the queries from now on.
            force: do it without a passed and fresh verification; that is logged.

        Raises:
            UpgradeError: if the upgrade was not started, or its verification is missing, failed or
                stale.
        """
        check_started(self.gallery, self.transformation)
        now, new = self.gallery.describe(), self.transformation.new
        if now.serving == new and now.query_model == query_model:
            return self.status()
        verified = self._verification()
        if verified != "passed" and not force:
            raise UpgradeError(_why_not(verified, self.gallery.url))
        event = {
            "event": "cut over",
            "transformation": self.transformation.digest,
            "verification": verified,
            "forced": verified != "passed",
        }
        self.gallery.serve(new, query_model=query_model, event=event)
        return self.status()

    def roll_back(self) -> UpgradeStatus:
        """Let the space that served before answer queries again, at once.

        What was upgraded stays, so cutting over again needs no work. Nothing happens if the new
        space does not answer queries.
        """
        if self.gallery.describe().serving == self.transformation.new:
            self.gallery.roll_back()
        return self.status()

    def status(self) -> UpgradeStatus:
        """Return how far the upgrade is."""
        description = self.gallery.describe()
        transformation = self.transformation
        made_by = description.transformations.get(transformation.new)
        return UpgradeStatus(
            gallery=self.gallery.url,
            transformation=transformation.digest,
            old=transformation.old,
            new=transformation.new,
            started=_digest_of(made_by) == transformation.digest,
            work=measure_work(self.gallery, transformation),
            verification=self._verification(),
            serving=description.serving,
            query_model=description.query_model,
        )

    def _verification(self) -> str:
        entry = latest_verification(self.gallery, self.transformation)
        if entry is None:
            return "none"
        if entry["state"] != self.gallery.state():
            return "stale"
        return "passed" if entry["passed"] else "failed"


def _digest_of(made_by: Mapping[str, Any] | None) -> str | None:
    return None if made_by is None else made_by.get("digest")


def _why_not(verified: str, url: str) -> str:
    reasons = {
        "none": "its upgrade was not verified; verify it first",
        "failed": "the verification of its upgrade has failed; see what it says, mend that, and "
        "verify again",
        "stale": "rows have changed since its upgrade was verified; run it again, then verify",
    }
    return (
        f"gallery {url} was not cut over: {reasons[verified]}. To cut over all the same, and have "
        "that logged, say force=True (--force)"
    )
