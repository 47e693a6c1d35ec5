"""`onward upgrade`: bring a gallery into a new space. Reads no image."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import onward
from onward.cli.judging import AskedCanaries, Judges
from onward.cli.options import (
    REQUIRED,
    AsJson,
    Bundle,
    Commands,
    GalleryUrl,
    OpenGallery,
    defaults_to,
    read_time,
    tell_numbering,
)
from onward.cli.output import Answer, Steps, Told, tell, tell_answer, to_text
from onward.errors import ConfigurationError, UpgradeError
from onward.progress import progress_bar, visible

if TYPE_CHECKING:
    from onward.upgrading import Forecast, Plan, UpgradeResult
    from onward.upgrading.verify import Answering


def _open(
    gallery: str, transformation: Path, fallback: list[Path] | None = None
) -> "onward.Upgrade":
    """Return the upgrade of a gallery by a transformation and its fallbacks."""
    routes = [onward.Transformation.load(path) for path in (transformation, *(fallback or ()))]
    return onward.Upgrade(onward.open_gallery(gallery), *routes)


Fitted = Annotated[Path, typer.Argument(help="Directory written by `fit`.")]
Fallbacks = Annotated[
    list[Path] | None,
    typer.Option(
        help="Another transformation to the same space, for rows that lack what those before it "
        "read; may be given more than once."
    ),
]
OpenUpgrade = Annotated[
    "onward.Upgrade",
    Bundle(
        {
            "gallery": (GalleryUrl, REQUIRED),
            "transformation": (Fitted, REQUIRED),
            "fallback": (Fallbacks, None),
        },
        _open,
    ),
]
"""The upgrade that a command is for."""
RowsPerSecond = Annotated[
    str | None,
    typer.Option(
        help="Most rows that all runs together write a second, now and later; 'none' for no limit."
    ),
]
LeaveOut = Annotated[
    bool, typer.Option(help="Pass although items that cannot be carried over will not be found.")
]
QueryModel = Annotated[
    str | None,
    typer.Option(
        help="Which model embeds the queries, for the record; default: the new space's name, or "
        "what is recorded where it serves already."
    ),
]


OldQueryModel = Annotated[
    str | None,
    typer.Option(
        help="Which model embeds the queries of a fused pair in its old space, for the record; "
        "default: what is recorded of that space."
    ),
]
Serve = Annotated[
    Literal["new", "fused"],
    typer.Option(help="What is to answer queries: the new space, or old and new space fused."),
]


class Starting(Judges):
    """By what an upgrade is judged, and whether it starts all the same.

    Attributes:
        force: start although the gate is closed or cannot judge; logged.
        unjudged: start although nothing says if search gets better; logged.
    """

    force: bool = False
    unjudged: bool = False


DIGEST_DIGITS = 64
HOW_TO_JUDGE = (
    "choose items (onward gallery sample GALLERY sample.jsonl --count 3%), embed them with the new "
    "model (onward embed MODEL sample.jsonl new.parquet), and plan with --sample new.parquet; or "
    "give real queries (--queries-old, --queries-new, --qrels)"
)

NOT_SHOWN = frozenset(
    {"number", "time", "event", "state", "version", "gallery", "next_steps", "made_by", "left"}
)
"""To a person: what every line has, or says too much."""


app = Commands(
    cls=defaults_to("all"),
    no_args_is_help=True,
    help="Bring a gallery into a new space with a transformation. Reads no image.\n\n"
    "`onward upgrade GALLERY TRANSFORMATION` shows the plan; with --yes it does everything.",
)


@app.command(name="all")
def everything(
    upgrade: OpenUpgrade,
    judges: Starting,
    yes: Annotated[bool, typer.Option(help="Do it; without, only the plan.")] = False,
    query_model: QueryModel = None,
    old_query_model: OldQueryModel = None,
    leave_out: LeaveOut = False,
) -> Told:
    """Plan; with --yes also run, verify and cut over, if the gate is open.

    Where others change rows meanwhile, it runs and verifies again, three times in all. With --yes
    it judges and serves the new space alone, unless --serve fused is said.

    Example: onward upgrade photos.lance old-to-new/ --sample new.parquet --yes
    """
    from onward.upgrading import verify_and_cut_over
    from onward.upgrading.routes import is_started

    if yes:
        _check_judged(upgrade, judges)
    serve = judges.serve or ("new" if yes else None)
    planned = _plan(upgrade, judges, serve)
    if not yes:
        closed = planned.decision is not None and not planned.allowed
        goes_on = planned.allowed or is_started(upgrade.gallery.view(), upgrade.routes)
        then = "To do it: add --yes" if goes_on else "To do it unjudged: --yes --unjudged"
        then = "To do it all the same: add --yes --force" if closed else then
        then += " --serve fused" if planned.serves_fused else ""
        return Told(planned, then=_how_to_judge(planned) + then, failed=closed)
    tell_answer(planned)
    gate = _start(upgrade, judges, planned.prediction, serve)
    result, steps = _run(upgrade)
    if result.stopped:
        return Told(result, steps, gate, failed=True)
    model = name_query_model(upgrade, query_model)
    cut = verify_and_cut_over(
        upgrade,
        query_model=model,
        serve=serve or "new",
        old_query_model=old_query_model,
        leave_out=leave_out,
        tell=tell_answer,
    )
    return Told(cut)


@app.command()
def plan(upgrade: OpenUpgrade, judges: Judges) -> Told:
    """Say what an upgrade would do, cost and be worth; write nothing.

    Ends with 1 if the gate is closed or cannot judge.

    Example: onward upgrade plan photos.lance old-to-new/ --sample new.parquet
    """
    planned = _plan(upgrade, judges, judges.serve)
    closed = planned.decision is not None and not planned.allowed
    return Told(planned, then=_how_to_judge(planned), failed=closed)


@app.command()
def start(upgrade: OpenUpgrade, judges: Starting, rows_per_second: RowsPerSecond = None) -> Told:
    """Write the new vectors, batch by batch; go on where an earlier run was stopped.

    Only if the gate is open, by a sample or by real queries; the sample's own vectors are written
    as they are, unless that is predicted to make search worse. Ctrl-C stops it within a batch;
    nothing is lost. Several processes that run it share the rows. Ends with 1 if anything was not
    done.

    Example: onward upgrade start photos.lance old-to-new/ --sample new.parquet
    """
    from onward.upgrading import forecast
    from onward.upgrading.routes import next_step
    from onward.upgrading.upgrade import check_rate

    rate = read_rate(rows_per_second or "none")
    check_rate(rate)
    _check_judged(upgrade, judges)
    prediction = None
    if judges.are_given:
        prediction = forecast(
            upgrade.gallery, upgrade.routes, judges.embedded, queries=judges.real_queries
        )
        tell_answer(prediction)
    gate = _start(upgrade, judges, prediction, judges.serve)
    if rows_per_second is not None:
        upgrade.limit(rate)
    result, steps = _run(upgrade)
    if (gate["gate"] or {}).get("serve") == "fused" and not result.remaining:
        steps = (*steps, next_step("verify_fused", "the fused pair is to be served"))
    failed = result.stopped or result.remaining > 0 or result.skipped > 0
    return Told(result, steps, gate, failed=failed)


@app.command()
def status(upgrade: OpenUpgrade) -> Answer:
    """Say how far an upgrade is and what comes next.

    Example: onward upgrade status photos.lance old-to-new/
    """
    return upgrade.status()


@app.command()
def pause(upgrade: OpenUpgrade) -> Answer:
    """Let all who run an upgrade wait, after the batch that they are writing.

    Example: onward upgrade pause photos.lance old-to-new/
    """
    return upgrade.pause()


@app.command()
def resume(upgrade: OpenUpgrade) -> Answer:
    """Let all who run an upgrade go on.

    Example: onward upgrade resume photos.lance old-to-new/
    """
    return upgrade.resume()


@app.command()
def limit(upgrade: OpenUpgrade, rows_per_second: RowsPerSecond = None) -> Answer:
    """Limit how many rows a second an upgrade writes, also while it runs.

    Example: onward upgrade limit photos.lance old-to-new/ --rows-per-second 5000
    """
    if rows_per_second is None:
        raise ConfigurationError(
            "no limit was given", "give --rows-per-second with a number, or none to lift the limit"
        )
    return upgrade.limit(read_rate(rows_per_second))


@app.command()
def abort(
    upgrade: OpenUpgrade,
    yes: Annotated[
        bool, typer.Option(help="Do it; without, only say what would be dropped.")
    ] = False,
    leave_out: Annotated[
        bool, typer.Option(help="Drop it although some items have a vector in the new space only.")
    ] = False,
) -> Told:
    """Give an upgrade up: runs of it end, and the new space is dropped. Nothing else changes.

    Example: onward upgrade abort photos.lance old-to-new/ --yes
    """
    if yes:
        return Told(upgrade.abort(leave_out=leave_out))
    status = upgrade.status()
    then = (
        f"onward: nothing was done. Aborting would drop {status.new} with the vectors of "
        f"{status.work.done:,} rows; to do it: add --yes"
    )
    return Told(status, then=then, failed=True)


@app.command()
def verify(
    upgrade: OpenUpgrade,
    canaries: AskedCanaries,
    sample: Annotated[int, typer.Option(min=1, help="How many rows to compute again.")] = 1000,
    every: Annotated[bool, typer.Option("--all", help="Compute all rows again.")] = False,
    leave_out: LeaveOut = False,
    serve: Serve = "new",
) -> Told:
    """Prove that every row is there and right; exit with 1 if not.

    With canaries, or real queries and what they look for, also that these find as much as before.

    Example: onward upgrade verify photos.lance old-to-new/ --sample 5000
    """
    verification = upgrade.verify(
        sample_rows=None if every else sample,
        leave_out=leave_out,
        canaries=canaries,
        serve=serve,
    )
    if canaries is not None and canaries.qrels is None:
        names = upgrade.gallery.class_names()
        tell_numbering(canaries.new.class_names, names, same_labels=canaries.same_labels)
    return Told(verification, failed=not verification.passed)


@app.command()
def cutover(
    upgrade: OpenUpgrade,
    serve: Serve = "new",
    query_model: QueryModel = None,
    old_query_model: OldQueryModel = None,
    force: Annotated[
        bool, typer.Option(help="Cut over without a passed verification; logged.")
    ] = False,
) -> Answer:
    """Let the new space, or old and new space fused, answer queries, at once and as a whole.

    Builds indexes first, where there are none.

    Example: onward upgrade cutover photos.lance old-to-new/
    """
    return upgrade.cut_over(
        query_model=name_query_model(upgrade, query_model),
        serve=serve,
        old_query_model=old_query_model,
        force=force,
    )


@app.command()
def rollback(
    upgrade: OpenUpgrade,
    leave_out: Annotated[
        bool,
        typer.Option(
            help="Roll back although items with the new model's embedding alone are not found."
        ),
    ] = False,
) -> Answer:
    """Let the space answer queries that did so before the cut over.

    Example: onward upgrade rollback photos.lance old-to-new/
    """
    return upgrade.roll_back(leave_out=leave_out)


@app.command()
def complete(
    upgrade: OpenUpgrade,
    now: Annotated[
        bool, typer.Option(help="Do not wait for the end of the time to roll back.")
    ] = False,
    rollback_days: Annotated[
        float, typer.Option(min=0, help="Days after cutting over during which this is refused.")
    ] = 7,
    drop_original: Annotated[
        bool, typer.Option(help="Give up the old vectors and the side-information too.")
    ] = False,
    leave_out: Annotated[
        bool, typer.Option(help="Give up items that have no other vector, too.")
    ] = False,
    yes: Annotated[
        bool, typer.Option(help="Give the originals up, knowing what that makes impossible.")
    ] = False,
) -> Answer:
    """End the possibility of rolling back; drop what was derived and serves no longer.

    Example: onward upgrade complete photos.lance old-to-new/ --now
    """
    from onward.upgrading.complete import plan_completion, why_confirm

    rollback_window = read_time("--rollback-days", rollback_days, timedelta(days=1))
    if drop_original and not yes:
        planned = plan_completion(upgrade.gallery.view(), upgrade.routes, drop_original=True)
        if planned.impossible:
            raise UpgradeError(why_confirm(planned), "to do it: add --yes")
    return upgrade.complete(
        now=now, rollback_window=rollback_window, drop_original=drop_original, leave_out=leave_out
    )


@app.command()
def log(gallery: OpenGallery, as_json: AsJson = False) -> None:
    """Show every step that was taken on GALLERY, oldest first; with --json, one a line.

    Example: onward upgrade log photos.lance --json
    """
    for entry in gallery.journal():
        typer.echo(to_text(entry, indent=None) if as_json else visible(_line(entry)))


def _plan(upgrade: "onward.Upgrade", judges: Judges, serve: "Answering | None") -> "Plan":
    return onward.plan_upgrade(
        upgrade.gallery,
        *upgrade.routes.transformations,
        sample=judges.embedded,
        queries=judges.real_queries,
        require=judges.requirement,
        margin=judges.margin / 100,
        serve=serve,
        old_model_gone=judges.old_model_gone,
    )


def _how_to_judge(planned: "Plan") -> str:
    """Say by which commands an upgrade is judged, where nothing could judge it."""
    is_judged = planned.prediction is not None and planned.prediction.judge is not None
    return "" if is_judged else f"To judge it, {HOW_TO_JUDGE}. "


def _check_judged(upgrade: "onward.Upgrade", judges: Starting) -> None:
    """Refuse to start what nothing judges, unless that is said; what was started may go on.

    Raises:
        UpgradeError: saying how to judge it.
        ConfigurationError: if it is said, and there is something to judge by.
    """
    from onward.upgrading.routes import is_started

    is_judged = judges.are_given or judges.require is not None
    if judges.unjudged and is_judged:
        raise ConfigurationError(
            "--unjudged starts an upgrade that nothing judges, and --sample, --queries-old, "
            "--queries-new and --require judge it",
            "leave one out. To start it whatever they say: --force",
        )
    if judges.unjudged or is_judged or is_started(upgrade.gallery.view(), upgrade.routes):
        return
    raise UpgradeError(
        "the upgrade was not started: nothing says whether it makes search better. To judge it, "
        f"{HOW_TO_JUDGE}. To start all the same, and have that logged: --unjudged"
    )


def _start(
    upgrade: "onward.Upgrade",
    judges: Starting,
    prediction: "Forecast | None",
    serve: "Answering | None",
) -> dict[str, Any]:
    """Start an upgrade; warn if the gate was not open, and return what it said, for a machine."""
    started = upgrade.start(
        prediction=prediction,
        require=judges.requirement,
        margin=judges.margin / 100,
        force=judges.force,
        sample=judges.embedded,
        serve=serve,
        old_model_gone=judges.old_model_gone,
    )
    gate = started.gate
    if gate is None:  # it was given up meanwhile
        return {"gate": None}
    how = "onward upgrade verify --canaries"
    tell(f"gate {gate}" if gate.warning is None else f"WARNING: {gate.warning} ({how}).")
    return {"gate": gate.to_json()}


def _run(upgrade: "onward.Upgrade") -> "tuple[UpgradeResult, Steps]":
    """Run an upgrade; also return what comes before all else where it was stopped while paused."""
    from onward.upgrading.routes import next_step

    def is_paused() -> bool:
        return upgrade.gallery.control(upgrade.routes.new).paused

    if is_paused():
        tell("The upgrade is paused, and so is this run, until: onward upgrade resume")
    with progress_bar("Upgrade", unit="rows") as progress:
        result = upgrade.run(progress=progress)
    if not (result.stopped and is_paused()):
        return result, ()
    tell("The upgrade is still paused. To go on: onward upgrade resume, then the same again")
    return result, (next_step("resume", "the upgrade is paused"),)


def name_query_model(upgrade: "onward.Upgrade", given: str | None) -> str | None:
    """Return the query model to record: that given, or the new space's name; None to keep it."""
    new = upgrade.routes.new
    serves = upgrade.gallery.describe().serving == new
    return given or (None if serves else new.name)


def read_rate(given: str) -> float | None:
    """Return the limit that a word says.

    Raises:
        ConfigurationError: if it says none.
    """
    if given.lower() == "none":
        return None
    try:
        return float(given.replace(",", "").replace("_", ""))
    except ValueError as error:
        raise ConfigurationError(
            f"--rows-per-second {given} is not a number",
            "give one such as 5000, or none for no limit",
        ) from error


def _line(entry: Mapping[str, Any]) -> str:
    first = f"{entry['number']:>4}  {entry.get('time')}  {entry['event']}"
    shown = ((name, _short(value)) for name, value in entry.items() if name not in NOT_SHOWN)
    return "  ".join([first, *(f"{name}={value}" for name, value in shown if value)])


def _short(value: Any) -> str:
    """Return a number, a text, a space by its name, rows by their count, or a list of these."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return _short(value.get("name", value.get("space", value.get("rows", ""))))
    if isinstance(value, list):
        return ",".join(filter(None, map(_short, value)))
    is_digest = isinstance(value, str) and len(value) == DIGEST_DIGITS
    return "" if value is None else str(value)[:8] if is_digest else str(value)
