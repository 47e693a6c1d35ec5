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
    Require,
    Sample,
    TransformationPath,
    open_upgrade,
    read_requirement,
    read_sample,
)
from onward.cli.upgrade_serving import QueryModel, complete, cutover, name_query_model, rollback
from onward.cli.upgrade_verify import LeaveOut, verify

if TYPE_CHECKING:
    from onward.upgrading import Upgrade, UpgradeResult, UpgradeStatus


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
def everything(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    also: Also = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only the plan.")] = False,
    sample: Sample = None,
    require: Require = None,
    force: ForceStart = False,
    query_model: QueryModel = None,
    leave_out: LeaveOut = False,
    as_json: AsJson = False,
) -> None:
    """Plan; with --yes also run, verify and cut over.

    Where others change rows meanwhile, it runs and verifies again, three times in all.

    Example: onward upgrade photos.lance old-to-new/ --yes
    """
    from onward.upgrading import plan_upgrade, verify_and_cut_over

    embedded, required = read_sample(sample), read_requirement(require)
    upgrade = open_upgrade(gallery, transformation, also)
    transformations = upgrade.routes.transformations
    planned = plan_upgrade(upgrade.gallery, *transformations, sample=embedded, require=required)
    if not yes:
        show(planned, as_json)
        if not planned.allowed:
            tell("To do it all the same: add --yes --force")
            raise typer.Exit(1)
        tell("To do it: add --yes")
        return
    tell_answer(planned)
    started = upgrade.start(
        prediction=planned.predicted, require=required, force=force, sample=embedded
    )
    gate = _tell_of_gate(started)
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
def plan(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    also: Also = None,
    sample: Sample = None,
    require: Require = None,
    as_json: AsJson = False,
) -> None:
    """Say what an upgrade would do, cost and be worth; write nothing.

    Ends with 1 if it is predicted to give less than is required.

    Example: onward upgrade plan photos.lance old-to-new/ --sample new.parquet
    """
    from onward.upgrading import plan_upgrade

    upgrade = open_upgrade(gallery, transformation, also)
    planned = plan_upgrade(
        upgrade.gallery,
        *upgrade.routes.transformations,
        sample=read_sample(sample),
        require=read_requirement(require),
    )
    show(planned, as_json)
    if not planned.allowed:
        raise typer.Exit(1)


@app.command()
def start(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    also: Also = None,
    sample: Sample = None,
    require: Require = None,
    force: ForceStart = False,
    rows_per_second: RowsPerSecond = None,
    as_json: AsJson = False,
) -> None:
    """Write the new vectors, batch by batch; go on where an earlier run was stopped.

    With a sample, only if search is predicted to be as good as required; the sample's own vectors
    are written as they are. Ctrl-C stops it within a batch; nothing is lost. Several processes
    that run it share the rows. Ends with 1 if anything was not done.

    Example: onward upgrade start photos.lance old-to-new/ --sample new.parquet
    """
    from onward.upgrading import predict
    from onward.upgrading.control import check_rate

    embedded, required = read_sample(sample), read_requirement(require)
    rate = None if rows_per_second is None else read_rate(rows_per_second)
    check_rate(rate)
    upgrade = open_upgrade(gallery, transformation, also)
    predicted = None if embedded is None else predict(upgrade.gallery, upgrade.routes, embedded)
    if predicted is not None:
        tell_answer(predicted)
    started = upgrade.start(prediction=predicted, require=required, force=force, sample=embedded)
    gate = _tell_of_gate(started)
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


def _tell_of_gate(started: "UpgradeStatus") -> dict[str, Any]:
    """Warn if the gate has not judged an upgrade; return what it said, for a machine."""
    if started.gate is None:  # it was given up meanwhile
        return {"gate": None}
    if started.gate.warning is not None:
        tell(f"WARNING: {started.gate.warning}.")
    return {"gate": started.gate.to_json()}


def _steps_of_pause(upgrade: "Upgrade") -> Steps:
    """Return what comes before all else where a run was stopped while the upgrade is paused."""
    from onward.upgrading.work import next_step

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
