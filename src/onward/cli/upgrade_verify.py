"""`onward upgrade verify`: prove that every row is there and right, and that search is good."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onward.cli.judging import Qrels, align_files
from onward.cli.options import GalleryUrl, SameLabels, tell_numbering
from onward.cli.output import AsJson, show, tell
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
    queries_new: Annotated[
        Path | None, typer.Option(help="Real queries by the new model, as canaries: .parquet.")
    ] = None,
    queries_old: Annotated[
        Path | None, typer.Option(help="The same queries by the old model: .parquet.")
    ] = None,
    qrels: Qrels = None,
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

    With canaries, or real queries and what they look for, also that these find as much as before.

    Example: onward upgrade verify photos.lance old-to-new/ --sample 5000
    """
    from onward.gallery import open_gallery

    by_new = _one_of(("--canaries", canaries), ("--queries-new", queries_new))
    by_old = _one_of(("--canaries-old", canaries_old), ("--queries-old", queries_old))
    asked = _read_canaries(by_new, by_old, qrels, require, same_labels=same_labels)
    upgrade = open_upgrade(gallery, transformation, also)
    verification = upgrade.verify(
        sample_rows=None if every else sample, leave_out=leave_out, canaries=asked
    )
    if asked is not None and asked.relevant is None:
        names = open_gallery(gallery).class_names()
        tell_numbering(asked.new.class_names, names, same_labels=same_labels)
    show(verification, as_json)
    if not verification.passed:
        raise typer.Exit(1)


def _one_of(*given: tuple[str, Path | None]) -> Path | None:
    """Return the file of two options that mean the same.

    Raises:
        ConfigurationError: if both are given.
    """
    files = [path for _, path in given if path is not None]
    if len(files) > 1:
        names = " and ".join(option for option, _ in given)
        raise ConfigurationError(f"{names} name the same queries; give one of the two")
    return files[0] if files else None


def _read_canaries(
    new: Path | None,
    old: Path | None,
    qrels: Path | None,
    require: str | None,
    *,
    same_labels: bool,
) -> "Canaries | None":
    from onward.judgements import read_qrels
    from onward.spaces import Embeddings
    from onward.upgrading import Canaries

    if new is None:
        if old is None and require is None and qrels is None:
            return None
        raise ConfigurationError(
            "--canaries-old, --queries-old, --qrels and --require say what canaries are held to, "
            "but there are none; add --canaries FILE or --queries-new FILE, queries embedded by "
            "the new model"
        )
    by_new, requirement = Embeddings.load(new), read_requirement(require)
    by_old = None
    if old is not None:
        by_old = align_files(Embeddings.load(old), by_new, (old, new), "queries")
    if qrels is None:
        return Canaries(by_new, by_old, require=requirement, same_labels=same_labels)
    if same_labels:
        raise ConfigurationError("--same-labels has no effect with --qrels; leave one out")
    asked = Canaries.of_qrels(by_new, read_qrels(qrels), old=by_old, require=requirement)
    if len(asked.new) < len(by_new):
        unjudged = len(by_new) - len(asked.new)
        tell(f"{unjudged:,} of {len(by_new):,} queries have no relevant item in {qrels}: left out")
    return asked
