"""`onward upgrade pause`, `resume`, `limit` and `abort`: what reaches a run wherever it runs."""

from typing import Annotated

import typer

from onward.cli.options import GalleryUrl
from onward.cli.output import AsJson, show
from onward.cli.upgrade_options import Also, TransformationPath, open_upgrade
from onward.errors import ConfigurationError

RowsPerSecond = Annotated[
    str | None,
    typer.Option(
        "--rows-per-second",
        help="How many rows all who run it may write a second, now and later; 'none' for any.",
    ),
]


def pause(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    also: Also = None,
    as_json: AsJson = False,
) -> None:
    """Let all who run an upgrade wait, after the batch that they are writing.

    Example: onward upgrade pause photos.lance old-to-new/
    """
    show(open_upgrade(gallery, transformation, also).pause(), as_json)


def resume(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    also: Also = None,
    as_json: AsJson = False,
) -> None:
    """Let all who run an upgrade go on.

    Example: onward upgrade resume photos.lance old-to-new/
    """
    show(open_upgrade(gallery, transformation, also).resume(), as_json)


def limit(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    rows_per_second: RowsPerSecond = None,
    also: Also = None,
    as_json: AsJson = False,
) -> None:
    """Limit how many rows a second an upgrade writes, also while it runs.

    Example: onward upgrade limit photos.lance old-to-new/ --rows-per-second 5000
    """
    if rows_per_second is None:
        raise ConfigurationError(
            "no limit was given; give --rows-per-second with a number, or none to lift the limit"
        )
    upgrade = open_upgrade(gallery, transformation, also)
    show(upgrade.limit(read_rate(rows_per_second)), as_json)


def abort(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    also: Also = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what goes.")] = False,
    leave_out: Annotated[
        bool,
        typer.Option("--leave-out", help="Also where items have a vector in the new space only."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give an upgrade up: runs of it end, and the new space is dropped. Nothing else changes.

    Example: onward upgrade abort photos.lance old-to-new/ --yes
    """
    upgrade = open_upgrade(gallery, transformation, also)
    if yes:
        show(upgrade.abort(leave_out=leave_out), as_json)
        return
    status = upgrade.status()
    show(status, as_json)
    raise ConfigurationError(
        f"nothing was done. Aborting would drop {status.new} with the vectors of "
        f"{status.work.done:,} rows; to do it: add --yes"
    )


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
            f"--rows-per-second {given} is not a number; give one such as 5000, or none for no "
            "limit"
        ) from error
