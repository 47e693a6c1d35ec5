"""`onward compare`: do nothing, upgrade or embed everything again: what each gives."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onward.cli.evaluate import ExcludeSelf
from onward.cli.output import AsJson, next_step, show

if TYPE_CHECKING:
    from onward.compatibility import Comparison
    from onward.spaces import Embeddings

Old = Annotated[Path, typer.Option(help="The items by the old model: .parquet.")]
Upgraded = Annotated[Path, typer.Option(help="The items after the upgrade: .parquet.")]
New = Annotated[Path, typer.Option(help="The items by the new model: .parquet.")]


def compare(
    old: Old, upgraded: Upgraded, new: New, exclude_self: ExcludeSelf, as_json: AsJson = False
) -> None:
    """Compare doing nothing, upgrading and full backfill on the same items.

    Example: onward compare --old old.parquet --upgraded up.parquet --new new.parquet --exclude-self
    """
    comparison = compare_files(old, upgraded, new, exclude_self=exclude_self)
    files = ("--old", old, "--upgraded", upgraded, "--new", new)
    itself = "--exclude-self" if exclude_self else "--include-self"
    step = next_step("report", "page.html", *files, itself, why="the same as a page")
    show(comparison, as_json, [step])


def compare_files(old: Path, upgraded: Path, new: Path, *, exclude_self: bool) -> "Comparison":
    """Return the comparison of three files that hold the same items."""
    from onward.compatibility import compare, evaluate_embeddings

    cells = read_cells(old, upgraded, new).items()
    return compare(
        {
            name: evaluate_embeddings(queries, gallery, exclude_self=exclude_self)
            for name, (queries, gallery) in cells
        }
    )


def read_cells(old: Path, upgraded: Path, new: Path) -> "dict[str, tuple[Embeddings, Embeddings]]":
    """Return queries and gallery of each cell from three files that hold the same items.

    Raises:
        EvaluationError: if they do not, or old and new are of one model.
    """
    from onward.errors import EvaluationError
    from onward.spaces import Embeddings

    by_new, by_old, carried = (Embeddings.load(path) for path in (new, old, upgraded))
    if by_old.space == by_new.space:
        raise EvaluationError(
            f"{old} and {new} are both in {by_new.space}; give the items by the old model with "
            "--old, and by the new one with --new"
        )
    for path, one in ((old, by_old), (upgraded, carried)):
        apart = sorted(set(one.ids) ^ set(by_new.ids))
        if apart:
            raise EvaluationError(
                f"{len(apart)} items stand in only one of {path} and {new}, the first "
                f"{apart[0]!r}; give files of the same items"
            )
    by_old, carried = by_old.align(by_new.ids), carried.align(by_new.ids)
    return {"old/old": (by_old, by_old), "new/old": (by_new, carried), "new/new": (by_new, by_new)}
