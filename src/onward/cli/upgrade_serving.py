"""`onward upgrade cutover`, `rollback` and `complete`: which space answers queries, for good."""

from typing import TYPE_CHECKING, Annotated

import typer

from onward.cli.options import GalleryUrl
from onward.cli.output import AsJson, show
from onward.cli.upgrade_options import Also, TransformationPath, open_upgrade
from onward.errors import ConfigurationError, UpgradeError

if TYPE_CHECKING:
    from datetime import timedelta

    from onward.upgrading import Upgrade

Force = Annotated[
    bool, typer.Option("--force", help="Cut over without a passed verification; logged.")
]
QueryModel = Annotated[
    str | None,
    typer.Option(
        help="Which model embeds the queries, for the record; default: the new space's name, or "
        "what is recorded where it serves already."
    ),
]


def cutover(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    also: Also = None,
    query_model: QueryModel = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Let the new space answer queries, at once and as a whole.

    Builds its index first, where it has none.

    Example: onward upgrade cutover photos.lance old-to-new/
    """
    upgrade = open_upgrade(gallery, transformation, also)
    model = name_query_model(upgrade, query_model)
    show(upgrade.cut_over(query_model=model, force=force), as_json)


def name_query_model(upgrade: "Upgrade", given: str | None) -> str | None:
    """Return the query model to record: that given, or the new space's name; None to keep it."""
    new = upgrade.routes.new
    serves = upgrade.gallery.describe().serving == new
    return given or (None if serves else new.name)


def rollback(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    also: Also = None,
    leave_out: Annotated[
        bool,
        typer.Option(
            "--leave-out",
            help="Roll back although items with the new model's embedding alone are not found.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let the space answer queries that did so before the cut over.

    Example: onward upgrade rollback photos.lance old-to-new/
    """
    show(open_upgrade(gallery, transformation, also).roll_back(leave_out=leave_out), as_json)


def complete(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    also: Also = None,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the holdover.")] = False,
    holdover_days: Annotated[
        float, typer.Option(min=0, help="So long after cutting over this is refused.")
    ] = 7,
    drop_original: Annotated[
        bool,
        typer.Option(
            "--drop-original", help="Give up the old vectors and the side-information too."
        ),
    ] = False,
    leave_out: Annotated[
        bool,
        typer.Option("--leave-out", help="Give up items that have no other vector, too."),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Give the originals up, knowing what that makes impossible."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """End the possibility of rolling back; drop what was derived and serves no longer.

    Example: onward upgrade complete photos.lance old-to-new/ --now
    """
    from onward.upgrading.complete import plan_completion, why_confirm

    holdover = _read_days(holdover_days)
    upgrade = open_upgrade(gallery, transformation, also)
    if drop_original and not yes:
        planned = plan_completion(upgrade.gallery.view(), upgrade.routes, drop_original=True)
        if planned.impossible:
            raise UpgradeError(why_confirm(planned))
    completion = upgrade.complete(
        now=now,
        holdover=holdover,
        drop_original=drop_original,
        leave_out=leave_out,
    )
    show(completion, as_json)


def _read_days(days: float) -> "timedelta":
    """Return so many days.

    Raises:
        ConfigurationError: if that is no length of time.
    """
    from datetime import timedelta

    try:
        return timedelta(days=days)
    except (ValueError, OverflowError) as error:  # NaN, infinity, or longer than a calendar
        raise ConfigurationError(
            f"--holdover-days {days:g} is not a number of days; give one such as 7"
        ) from error
