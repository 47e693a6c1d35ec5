"""`onward report`: one HTML page from embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onward.cli.compare import New, Old, Upgraded, compare_files, read_cells
from onward.cli.judging import ExcludeSelf, Judging
from onward.cli.options import (
    Overwrite,
    SameLabels,
    check_room,
)
from onward.cli.output import AsJson, show_fields
from onward.cli.reading import open_data, takes_data

if TYPE_CHECKING:
    from onward.data.sources import Stated

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
    from onward.report import make_grid, write_report
    from onward.retrieval import search

    check_room(out, overwrite=overwrite)
    grid = None
    if data is not None:
        items = open_data(data, stated)
        rankings = {
            name: search(queries, gallery, 5, exclude_self=exclude_self)
            for name, (queries, gallery) in read_cells(old, upgraded, new).items()
        }
        grid = make_grid(items, rankings)
    comparison = compare_files(old, upgraded, new, Judging(exclude_self, same_labels))
    facts = {
        "old": str(old),
        "upgraded": str(upgraded),
        "new": str(new),
        "a query's own gallery entry": "left out" if exclude_self else "kept",
    }
    write_report(out, comparison, title=title, introduction=INTRODUCTION, grid=grid, facts=facts)
    show_fields({"verdict": comparison.verdict, "written": [str(out)]}, as_json)
