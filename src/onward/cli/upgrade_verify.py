"""`onward upgrade verify`: prove that every row is there and right, and that search is good."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onward.cli.options import GalleryUrl, SameLabels, tell_numbering
from onward.cli.output import AsJson, show
from onward.cli.upgrade_options import Also, TransformationPath, open_upgrade, read_requirement
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.upgrading import Canaries

LeaveOut = Annotated[
    bool,
    typer.Option(
        "--leave-out", help="Pass although items that cannot be carried over will not be found."
    ),
]


def verify(
    gallery: GalleryUrl,
    transformation: TransformationPath,
    also: Also = None,
    sample: Annotated[int, typer.Option(min=1, help="How many rows to compute again.")] = 1000,
    every: Annotated[bool, typer.Option("--all", help="Compute all rows again.")] = False,
    leave_out: LeaveOut = False,
    canaries: Annotated[
        Path | None,
        typer.Option(help="Queries with labels, embedded by the new model: .parquet."),
    ] = None,
    canaries_old: Annotated[
        Path | None, typer.Option(help="The same queries, embedded by the old model: .parquet.")
    ] = None,
    require: Annotated[
        str | None,
        typer.Option(
            help="What the canaries must reach, such as 'cmc@1 >= 0.98 * old/old' or 'map >= 0.5'; "
            "default: 'map >= old/old'."
        ),
    ] = None,
    same_labels: SameLabels = False,
    as_json: AsJson = False,
) -> None:
    """Prove that every row is there and right; exit with 1 if not.

    With canaries, also that queries whose answers are known find as much as before.

    Example: onward upgrade verify photos.lance old-to-new/ --sample 5000
    """
    from onward.gallery import open_gallery

    asked = _read_canaries(canaries, canaries_old, require, same_labels)
    upgrade = open_upgrade(gallery, transformation, also)
    verification = upgrade.verify(
        sample_rows=None if every else sample, leave_out=leave_out, canaries=asked
    )
    if asked is not None:
        names = open_gallery(gallery).class_names()
        tell_numbering(asked.new.class_names, names, same_labels=same_labels)
    show(verification, as_json)
    if not verification.passed:
        raise typer.Exit(1)


def _read_canaries(
    new: Path | None, old: Path | None, require: str | None, same_labels: bool
) -> "Canaries | None":
    from onward.spaces import Embeddings
    from onward.upgrading import Canaries

    if new is None:
        if old is None and require is None:
            return None
        raise ConfigurationError(
            "--canaries-old and --require say what canaries are held to, but there are none; add "
            "--canaries FILE, queries embedded by the new model"
        )
    by_new = Embeddings.load(new)
    by_old = None if old is None else Embeddings.load(old).align(by_new.ids)
    requirement = read_requirement(require)
    return Canaries(by_new, by_old, require=requirement, same_labels=same_labels)
