"""An upgrade: start, run, verify, cut over, roll back, each safe to repeat.

The order is plan, start, run, verify, cut over, roll back. Everything that an upgrade knows is in
the gallery, so any process can go on with it. No image can be read here: nothing that could is
imported.
"""

from collections.abc import Callable
from datetime import timedelta

from onward.errors import ConfigurationError
from onward.gallery import Gallery
from onward.progress import Progress, silent
from onward.spaces import Embeddings
from onward.transformation import Transformation
from onward.upgrading import control
from onward.upgrading.backfill import write_sample
from onward.upgrading.canaries import Canaries
from onward.upgrading.complete import HOLDOVER, Completion, complete
from onward.upgrading.evidence import check_sample_space
from onward.upgrading.forecast import Forecast
from onward.upgrading.gate import MARGIN, Requirement, check_allowed, gate_event
from onward.upgrading.routes import Routes
from onward.upgrading.run import UpgradeResult, run_upgrade
from onward.upgrading.serving import cut_over, roll_back
from onward.upgrading.status import UpgradeStatus, is_started, read_status
from onward.upgrading.verify import (
    SAMPLE_ROWS,
    TOLERANCE,
    Verification,
    verify_upgrade,
)
from onward.upgrading.work import (
    check_routes,
    check_same_routes,
    check_started,
    check_whole,
    choose_batch_rows,
)


class Upgrade:
    """The upgrade of one gallery by one transformation, or by several into the same space.

    Args:
        gallery: the gallery.
        transformation: from a space of the gallery to the new one.
        fallbacks: other transformations to the new space, for rows that lack what the first one
            reads. A row is carried by the first of all that has what it reads; see
            `onward.upgrading.routes`.

    Raises:
        UpgradeError: if the gallery lacks a space that a transformation reads, they lead into
            different spaces, or one of them can never be its turn.
    """

    def __init__(
        self, gallery: Gallery, transformation: Transformation, *fallbacks: Transformation
    ) -> None:
        routes = Routes((transformation, *fallbacks))
        if not is_started(gallery, routes):  # what it was made from may be dropped afterwards
            check_routes(gallery, routes)
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
    ) -> UpgradeStatus:
        """Give every row room for a vector in the new space, and record the transformation.

        Args:
            prediction: what a plan or `predict` says of how well search will be; what the gate
                makes of it is logged. If None, it starts without being judged, and the status says
                so.
            require: what it must reach besides being better than doing nothing.
            margin: search may get worse by so much, in [0, 1), and still the gate opens; see
                `decide`.
            force: start although the gate is not open; that is logged.
            sample: true new embeddings of some items, to be written: the first slice of a backfill.
                Not if they are predicted to make search worse beside upgraded vectors.

        Raises:
            UpgradeError: if an upgrade to this space was started with another transformation, the
                gate is not open, something is required and nothing predicted, or the prediction is
                of something else.
            SpaceMismatchError: if the sample is in another space than the upgrade leads to.
            ConfigurationError: if the margin is not in [0, 1).
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
        )
        new = self.routes.new
        made_by = self.gallery.made_by(new)
        if made_by is not None:
            check_same_routes(self.gallery, self.routes, made_by)
        if decision is not None or made_by is None:
            self.gallery.log(gate_event(prediction, decision, self.routes.digest))
        self.gallery.add_space(new, made_by=self.routes.recorded)
        if sample is not None and (decision is None or decision.writes_sample):
            write_sample(self.gallery, sample)
        return self.status()

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
            UpgradeError: if the upgrade was not started, or with another transformation.
            ConfigurationError: if the number of rows is not a whole number from 1 up.
            EmbeddingsError: if a stored vector is damaged; the message names the item.
        """
        if batch_rows is not None:
            check_whole("batch_rows", batch_rows)
        check_started(self.gallery, self.routes)
        chosen = choose_batch_rows(*self.routes.transformations)
        return run_upgrade(
            self.gallery,
            self.routes,
            batch_rows=chosen if batch_rows is None else batch_rows,
            progress=progress,
            stop=stop,
        )

    def pause(self) -> UpgradeStatus:
        """Let all who run this upgrade wait, after the batch that they are writing.

        Those who run it later wait too, until `resume`; other processes may do so.

        Raises:
            UpgradeError: if the upgrade was not started, or with another transformation.
        """
        control.pause(self.gallery, self.routes)
        return self.status()

    def resume(self) -> UpgradeStatus:
        """Let all who run this upgrade go on.

        Raises:
            UpgradeError: if the upgrade was not started, or with another transformation.
        """
        control.resume(self.gallery, self.routes)
        return self.status()

    def limit(self, rows_per_second: float | None) -> UpgradeStatus:
        """Limit how many rows a second all who run this upgrade write together, now and later.

        Args:
            rows_per_second: positive; None lifts the limit.

        Raises:
            UpgradeError: if the limit is not positive, the upgrade was not started, or with another
                transformation.
        """
        control.limit(self.gallery, self.routes, rows_per_second)
        return self.status()

    def abort(self, *, leave_out: bool = False) -> UpgradeStatus:
        """Give the upgrade up and drop the new space; runs end with an error that says so.

        Args:
            leave_out: allow that items which have a vector in the new space only have none then.

        Raises:
            UpgradeError: if the new space answers queries or rolling back would return to it, an
                item has no other vector, or the upgrade was not started.
        """
        control.abort(self.gallery, self.routes, leave_out=leave_out)
        return self.status()

    def verify(
        self,
        *,
        sample_rows: int | None = SAMPLE_ROWS,
        leave_out: bool = False,
        tolerance: float = TOLERANCE,
        canaries: Canaries | None = None,
        progress: Progress = silent,
    ) -> Verification:
        """Prove that the upgrade is complete, and its vectors what the transformation makes.

        Args:
            sample_rows: how many upgraded rows are recomputed, chosen at random; None for all.
            leave_out: allow that items which can be found now, and which the transformation cannot
                carry over, cannot be found after cutting over.
            tolerance: how far a stored vector may be from the recomputed one, as a share of the
                latter's length.
            canaries: queries whose answers are known, and what they must reach to pass.
            progress: told how many rows are recomputed.

        Raises:
            UpgradeError: if the upgrade was not started, or with another transformation.
            ConfigurationError: if the number of rows is not a whole number from 1 up, or the
                tolerance none from 0 to 1.
        """
        if sample_rows is not None:
            check_whole("sample_rows", sample_rows)
        if not 0 <= tolerance <= 1:
            raise ConfigurationError(
                f"tolerance is {tolerance!r}; give a share of a vector's length, from 0 to 1"
            )
        check_started(self.gallery, self.routes)
        return verify_upgrade(
            self.gallery,
            self.routes,
            sample_rows=sample_rows,
            leave_out=leave_out,
            tolerance=tolerance,
            canaries=canaries,
            progress=progress,
        )

    def cut_over(self, *, query_model: str | None, force: bool = False) -> UpgradeStatus:
        """Let the new space answer queries, and record which model embeds them: one atomic step.

        Args:
            query_model: fingerprint of the new model, which embeds the queries from now on. Where
                the new space answers queries already, None keeps what is recorded.
            force: do it without a passed and fresh verification; that is logged.

        Raises:
            UpgradeError: if the upgrade was not started, or its verification is missing, failed or
                stale.
        """
        cut_over(self.gallery, self.routes, query_model=query_model, force=force)
        return self.status()

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
        roll_back(self.gallery, self.routes, leave_out=leave_out)
        return self.status()

    def complete(
        self,
        *,
        now: bool = False,
        holdover: timedelta = HOLDOVER,
        drop_original: bool = False,
        leave_out: bool = False,
    ) -> Completion:
        """End the possibility of rolling back, and drop what was derived and serves no longer.

        Kept are the old vectors and the side-information, from which later upgrades are fitted,
        and a space in which a model embedded items that it embedded nowhere else. May be killed:
        the next call drops what is left.

        Args:
            now: do not wait for the holdover.
            holdover: how long after cutting over this is refused.
            drop_original: drop what the transformations read too; `plan_completion` says what that
                makes impossible.
            leave_out: with `drop_original`: give up items that have no other vector.

        Raises:
            UpgradeError: if the new space does not answer queries, the holdover is not over, or
                items would be left without any vector.
        """
        return complete(
            self.gallery,
            self.routes,
            now=now,
            holdover=holdover,
            drop_original=drop_original,
            leave_out=leave_out,
        )

    def status(self) -> UpgradeStatus:
        """Return how far the upgrade is."""
        return read_status(self.gallery, self.routes)
