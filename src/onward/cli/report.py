"""`onward report`: one HTML page from embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onward.cli.compare import Files, New, Old, Upgraded, compare_cells, read_cells
from onward.cli.judging import ExcludeSelf, Judging
from onward.cli.options import (
    Overwrite,
    SameLabels,
    check_room,
)
from onward.cli.output import AsJson, show_fields
from onward.cli.reading import open_data, takes_data
from onward.errors import EvaluationError

if TYPE_CHECKING:
    from onward.compatibility import Cells, Comparison, UpgradeComparison
    from onward.data.items import Items
    from onward.data.sources import Stated
    from onward.report import RetrievalGrid

INTRODUCTION = (
    "The same items by the old model, carried over by a transformation, and embedded again by the "
    "new model: what each gives when the items are searched."
)


@takes_data
def report(
    out: Annotated[Path, typer.Argument(help="The page to write: .html.")],
    old: Old,
    upgraded: Upgraded,
    new: New,
    exclude_self: ExcludeSelf,
    stated: "Stated",
    data: Annotated[
        str | None, typer.Option(help="The items' images, to show what was found: as for embed.")
    ] = None,
    title: Annotated[str, typer.Option(help="The page's title.")] = "An upgrade and what it gave",
    same_labels: SameLabels = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write a page that compares doing nothing, upgrading and full backfill.

    Example: onward report page.html --old old.parquet --upgraded up.parquet --new new.parquet
    --exclude-self --data digits
    """
    from onward.report import write_report

    check_room(out, overwrite=overwrite)
    files = Files(old, upgraded, new)
    cells = read_cells(files)
    alone = _of_h(cells, files)
    grid = None if data is None else _grid(open_data(data, stated), alone, exclude_self)
    made = compare_cells(cells, files, Judging(exclude_self, same_labels))
    comparison = _of_labels(made, files)
    facts = {
        **{name: str(path) for name, path in (("old", old), ("upgraded", upgraded), ("new", new))},
        "the upgraded gallery": ". ".join([made.origins_text, *made.caveats]),
        "a query's own gallery entry": "left out" if exclude_self else "kept",
    }
    page = {"title": title, "introduction": INTRODUCTION}
    write_report(out, comparison, **page, grid=grid, facts=facts, upgrade=made)
    fields = {"verdict": comparison.verdict, **made.origins, "written": [str(out)]}
    show_fields(fields, as_json)


def _grid(items: "Items", cells: "Cells", exclude_self: bool) -> "RetrievalGrid":
    """Return the images of what a few queries find in each cell."""
    from onward.report import make_grid
    from onward.retrieval import search

    rankings = {
        name: search(queries, gallery, 5, exclude_self=exclude_self)
        for name, (queries, gallery) in cells.items()
    }
    return make_grid(items, rankings)


def _of_h(cells: "Cells", files: Files) -> "Cells":
    """Return the cells of what h carried.

    Raises:
        EvaluationError: if it is known to have carried nothing.
    """
    from onward.compatibility import of_h_alone

    alone = of_h_alone(cells)
    if alone is None:
        raise EvaluationError(
            f"h carried none of the items in {files.upgraded}: what is known of them was embedded "
            "by the new model, and there is no upgrade to show. Give a file in which some are "
            "upgraded; what the gallery gives as it is stored is told by: onward compare"
        )
    return alone


def _of_labels(made: "UpgradeComparison", files: Files) -> "Comparison":
    """Return what h alone gives, judged by labels.

    Raises:
        EvaluationError: if there are no labels.
    """
    from onward.compatibility import Comparison

    if not isinstance(made.alone, Comparison):
        raise EvaluationError(
            f"the items in {files.old} and {files.new} have no labels, and a page shows what is "
            "right by labels; embed items with labels. The agreement with full backfill is told "
            "by: onward compare"
        )
    return made.alone
