"""`onward upgrade`: bring a gallery into a new space. Reads no image."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from onward.cli.options import GalleryUrl
from onward.cli.output import AsJson, Steps, show, tell, tell_answer
from onward.cli.upgrade_control import RowsPerSecond, abort, limit, pause, read_rate, resume
from onward.cli.upgrade_log import log
from onward.cli.upgrade_options import (
    Also,
    ForceStart,
    Judges,
    TransformationPath,
    Unjudged,
    open_upgrade,
    takes_judges,
)
from onward.cli.upgrade_serving import QueryModel, complete, cutover, name_query_model, rollback
from onward.cli.upgrade_verify import LeaveOut, verify
from onward.errors import ConfigurationError, UpgradeError

if TYPE_CHECKING:
    from onward.upgrading import Forecast, Plan, Upgrade, UpgradeResult


class WholeUpgradeByDefault(TyperGroup):
    """Take `upgrade GALLERY TRANSFORMATION` for `upgrade all GALLERY TRANSFORMATION`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default command where the first word is no command."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["all", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=WholeUpgradeByDefault,
    no_args_is_help=True,
    help="Bring a gallery into a new space with a transformation. Reads no image.\n\n"
    "`onward upgrade GALLERY TRANSFORMATION` shows the plan; with --yes it does everything.",
)


@app.command(name="all")
@takes_judges
def everything(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    judges: Judges,
    also: Also = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only the plan.")] = False,
    force: ForceStart = False,
    unjudged: Unjudged = False,
    query_model: QueryModel = None,
    leave_out: LeaveOut = False,
    as_json: AsJson = False,
) -> None:
    """Plan; with --yes also run, verify and cut over, if the gate is open.

    Where others change rows meanwhile, it runs and verifies again, three times in all.

    Example: onward upgrade photos.lance old-to-new/ --sample new.parquet --yes
    """
    from onward.upgrading import verify_and_cut_over
    from onward.upgrading.steps import is_started

    upgrade = open_upgrade(gallery, transformation, also)
    if yes:
        _check_judged(upgrade, judges, unjudged=unjudged)
    planned = _plan(upgrade, judges)
    if not yes:
        show(planned, as_json)
        if planned.decision is not None and not planned.allowed:
            tell("To do it all the same: add --yes --force")
            raise typer.Exit(1)
        goes_on = planned.allowed or is_started(upgrade.gallery.view(), upgrade.routes)
        tell("To do it: add --yes" if goes_on else "To do it unjudged: --yes --unjudged")
        return
    tell_answer(planned)
    gate = _start(upgrade, judges, planned.predicted, force=force)
    result = _run(upgrade)
    if result.stopped:
        show(result, as_json, _steps_of_pause(upgrade), also=gate)
        raise typer.Exit(1)
    status = verify_and_cut_over(
        upgrade,
        query_model=name_query_model(upgrade, query_model),
        leave_out=leave_out,
        tell=tell_answer,
    )
    show(status, as_json)


@app.command()
@takes_judges
def plan(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    judges: Judges,
    also: Also = None,
    as_json: AsJson = False,
) -> None:
    """Say what an upgrade would do, cost and be worth; write nothing.

    Ends with 1 if the gate is closed or cannot judge.

    Example: onward upgrade plan photos.lance old-to-new/ --sample new.parquet
    """
    planned = _plan(open_upgrade(gallery, transformation, also), judges)
    show(planned, as_json)
    if planned.decision is not None and not planned.allowed:
        raise typer.Exit(1)


@app.command()
@takes_judges
def start(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    judges: Judges,
    also: Also = None,
    force: ForceStart = False,
    unjudged: Unjudged = False,
    rows_per_second: RowsPerSecond = None,
    as_json: AsJson = False,
) -> None:
    """Write the new vectors, batch by batch; go on where an earlier run was stopped.

    Only if the gate is open, by a sample or by real queries; the sample's own vectors are written
    as they are, unless that is predicted to make search worse. Ctrl-C stops it within a batch;
    nothing is lost. Several processes that run it share the rows. Ends with 1 if anything was not
    done.

    Example: onward upgrade start photos.lance old-to-new/ --sample new.parquet
    """
    from onward.upgrading import forecast
    from onward.upgrading.upgrade import check_rate

    rate = None if rows_per_second is None else read_rate(rows_per_second)
    check_rate(rate)
    upgrade = open_upgrade(gallery, transformation, also)
    _check_judged(upgrade, judges, unjudged=unjudged)
    predicted = None
    if judges.are_given:
        predicted = forecast(upgrade.gallery, upgrade.routes, judges.sample, queries=judges.queries)
        tell_answer(predicted)
    gate = _start(upgrade, judges, predicted, force=force)
    if rows_per_second is not None:
        upgrade.limit(rate)
    result = _run(upgrade)
    show(result, as_json, _steps_of_pause(upgrade) if result.stopped else (), also=gate)
    if result.stopped or result.remaining or result.skipped:
        raise typer.Exit(1)


@app.command()
def status(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    also: Also = None,
    as_json: AsJson = False,
) -> None:
    """Say how far an upgrade is and what comes next.

    Example: onward upgrade status photos.lance old-to-new/
    """
    show(open_upgrade(gallery, transformation, also).status(), as_json)


for command in (pause, resume, limit, abort, verify, cutover, rollback, complete, log):
    app.command()(command)


def _plan(upgrade: "Upgrade", judges: Judges) -> "Plan":
    from onward.upgrading import plan_upgrade

    return plan_upgrade(
        upgrade.gallery,
        *upgrade.routes.transformations,
        sample=judges.sample,
        queries=judges.queries,
        require=judges.require,
        margin=judges.margin,
    )


def _check_judged(upgrade: "Upgrade", judges: Judges, *, unjudged: bool) -> None:
    """Refuse to start what nothing judges, unless that is said; what was started may go on.

    Raises:
        UpgradeError: saying how to judge it.
        ConfigurationError: if it is said, and there is something to judge by.
    """
    from onward.upgrading.gate import HOW_TO_JUDGE
    from onward.upgrading.steps import is_started

    if unjudged and (judges.are_given or judges.require is not None):
        raise ConfigurationError(
            "--unjudged starts an upgrade that nothing judges, and --sample, --queries-old, "
            "--queries-new and --require judge it; leave one out. To start it whatever they say: "
            "--force"
        )
    if judges.are_given or judges.require is not None or unjudged:
        return
    if is_started(upgrade.gallery.view(), upgrade.routes):
        return
    raise UpgradeError(
        "the upgrade was not started: nothing says whether it makes search better. To judge it, "
        f"{HOW_TO_JUDGE}. To start all the same, and have that logged: --unjudged"
    )


def _start(
    upgrade: "Upgrade", judges: Judges, predicted: "Forecast | None", *, force: bool
) -> dict[str, Any]:
    """Start an upgrade; warn if the gate was not open, and return what it said, for a machine."""
    started = upgrade.start(
        prediction=predicted,
        require=judges.require,
        margin=judges.margin,
        force=force,
        sample=judges.sample,
    )
    if started.gate is None:  # it was given up meanwhile
        return {"gate": None}
    if started.gate.warning is not None:
        tell(f"WARNING: {started.gate.warning}.")
    else:
        tell(f"gate {started.gate}")
    return {"gate": started.gate.to_json()}


def _steps_of_pause(upgrade: "Upgrade") -> Steps:
    """Return what comes before all else where a run was stopped while the upgrade is paused."""
    from onward.upgrading.steps import next_step

    if not upgrade.gallery.control(upgrade.routes.new).paused:
        return ()
    tell("The upgrade is still paused. To go on: onward upgrade resume, then the same again")
    return (next_step("resume", "the upgrade is paused"),)


def _run(upgrade: "Upgrade") -> "UpgradeResult":
    from onward.progress import progress_bar

    if upgrade.gallery.control(upgrade.routes.new).paused:
        tell("The upgrade is paused, and so is this run, until: onward upgrade resume")
    with progress_bar("Upgrade", unit="rows") as progress:
        return upgrade.run(progress=progress)
