"""`onward compare`: do nothing, upgrade or embed everything again: what each gives."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onward.cli.judging import (
    CameraColumn,
    ExcludeSelf,
    Ignored,
    IgnoreUnknown,
    Judging,
    Metrics,
    Qrels,
    Queries,
    QueriesNew,
    QueriesOld,
    align_files,
    read_queries,
)
from onward.cli.options import SameLabels
from onward.cli.output import AsJson, next_step, show

if TYPE_CHECKING:
    from onward.compatibility import Comparison
    from onward.spaces import Embeddings

Old = Annotated[Path, typer.Option(help="The items by the old model: .parquet.")]
Upgraded = Annotated[Path, typer.Option(help="The items after the upgrade: .parquet.")]
New = Annotated[Path, typer.Option(help="The items by the new model: .parquet.")]


def compare(
    old: Old,
    upgraded: Upgraded,
    new: New,
    exclude_self: ExcludeSelf,
    queries_old: QueriesOld = None,
    queries_new: QueriesNew = None,
    qrels: Qrels = None,
    ignored: Ignored = None,
    camera_column: CameraColumn = None,
    same_labels: SameLabels = False,
    ignore_unknown: IgnoreUnknown = False,
    metrics: Metrics = None,
    as_json: AsJson = False,
) -> None:
    """Compare doing nothing, upgrading and full backfill on the same items.

    Cameras are read from the files of the new model.

    Example: onward compare --old old.parquet --upgraded up.parquet --new new.parquet --exclude-self
    """
    judging = Judging(
        exclude_self, same_labels, qrels, ignored, camera_column, ignore_unknown, metrics
    )
    queries = (queries_old, queries_new)
    comparison = compare_files(old, upgraded, new, judging, queries=queries)
    show(comparison, as_json, _report_step(old, upgraded, new, judging, queries))


def _report_step(
    old: Path, upgraded: Path, new: Path, judging: Judging, queries: tuple[Path | None, Path | None]
) -> list[dict[str, str]]:
    """Return how to see the same as a page, where a page can show it."""
    plain = Judging(judging.exclude_self, judging.same_labels)
    if judging != plain or queries != (None, None):
        return []
    files = ("--old", old, "--upgraded", upgraded, "--new", new)
    itself = "--exclude-self" if judging.exclude_self else "--include-self"
    stated = ("--same-labels",) if judging.same_labels else ()
    return [next_step("report", "page.html", *files, itself, *stated, why="the same as a page")]


def compare_files(
    old: Path,
    upgraded: Path,
    new: Path,
    judging: Judging,
    *,
    queries: tuple[Path | None, Path | None] = (None, None),
) -> "Comparison":
    """Return the comparison of three files that hold the same items; see `read_cells`."""
    from onward.compatibility import compare

    cells = read_cells(old, upgraded, new, queries=queries)
    if judging.judgements is None:
        items = cells["new/new"][1]
        _check_classes(cells["old/old"][1], items, old, new)
        _check_classes(cells["new/old"][1], items, upgraded, new)
    judging.tell_numbering(*cells.values())
    cameras = (queries[1] or new, new)
    return compare(
        {
            name: judging.evaluate(asked, searched, cameras)
            for name, (asked, searched) in cells.items()
        }
    )


def read_cells(
    old: Path,
    upgraded: Path,
    new: Path,
    *,
    queries: tuple[Path | None, Path | None] = (None, None),
) -> "dict[str, tuple[Embeddings, Embeddings]]":
    """Return queries and gallery of each cell from three files that hold the same items.

    Args:
        old: the items by the old model.
        upgraded: the items after the upgrade.
        new: the items by the new model.
        queries: by the old model and by the new one; the items themselves if None.

    Raises:
        EvaluationError: if they do not hold the same items, or old and new are of one model.
        ConfigurationError: if queries are given by one of the models alone.
    """
    from onward.errors import EvaluationError
    from onward.spaces import Embeddings

    by_new, by_old, carried = (Embeddings.load(path) for path in (new, old, upgraded))
    if by_old.space == by_new.space:
        raise EvaluationError(
            f"{old} and {new} are both in {by_new.space}; give the items by the old model with "
            "--old, and by the new one with --new"
        )
    by_old = align_files(by_old, by_new, (old, new), "items")
    carried = align_files(carried, by_new, (upgraded, new), "items")
    asked = read_queries(*queries) or Queries(by_old, by_new)
    return {
        "old/old": (asked.old, by_old),
        "new/old": (asked.new, carried),
        "new/new": (asked.new, by_new),
    }


def _check_classes(one: "Embeddings", other: "Embeddings", path: Path, other_path: Path) -> None:
    """Refuse embeddings of the same items, in the same order, that put one in two classes.

    Raises:
        LabelMismatchError: naming the item.
    """
    import numpy as np

    from onward.errors import LabelMismatchError
    from onward.labels import shown
    from onward.relevance import common_labels

    if one.labels is None or other.labels is None:
        return
    labels, others = common_labels(one, other, same_labels=True)
    apart = np.flatnonzero((labels != others) & (labels >= 0) & (others >= 0))
    if len(apart):
        row = int(apart[0])
        raise LabelMismatchError(
            f"item {one.ids[row]!r} is of class {shown(int(one.labels[row]), one.class_names)} in "
            f"{path} and of class {shown(int(others[row]), other.class_names)} in {other_path}, "
            f"and {len(apart)} of {len(one)} items differ like that; give files whose classes are "
            "numbered the same, or all with class names"
        )
