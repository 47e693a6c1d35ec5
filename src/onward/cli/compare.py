"""`onward compare`: do nothing, upgrade or embed everything again: what each gives."""

from dataclasses import dataclass, replace
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
from onward.errors import ConfigurationError, EvaluationError

if TYPE_CHECKING:
    from onward.compatibility import Cells, UpgradeComparison
    from onward.spaces import Embeddings

Old = Annotated[Path, typer.Option(help="The items by the old model: .parquet.")]
Upgraded = Annotated[Path, typer.Option(help="The items after the upgrade: .parquet.")]
New = Annotated[Path, typer.Option(help="The items by the new model: .parquet.")]


@dataclass(frozen=True)
class Files:
    """The files that are compared: the items three times, and the queries twice.

    Attributes:
        old: the items by the old model.
        upgraded: the items after the upgrade.
        new: the items by the new model, if they are all embedded.
        queries_old: queries by the old model; the items are the queries if None.
        queries_new: the same by the new model.
    """

    old: Path
    upgraded: Path
    new: Path | None
    queries_old: Path | None = None
    queries_new: Path | None = None

    @property
    def cameras(self) -> tuple[Path, Path]:
        """The files with the cameras of the queries, and of the items."""
        items = self.new or self.upgraded
        return self.queries_new or items, items


def compare(
    old: Old,
    upgraded: Upgraded,
    exclude_self: ExcludeSelf,
    new: Annotated[
        Path | None,
        typer.Option(help="The items by the new model: .parquet; needed unless queries are given."),
    ] = None,
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

    Of a gallery that the new model embedded in part, h alone stands beside what is stored. Without
    labels and qrels, the agreement with full backfill is compared. Cameras are read from the files
    of the new model.

    Example: onward compare --old old.parquet --upgraded up.parquet --new new.parquet --exclude-self
    """
    judging = Judging(
        exclude_self, same_labels, qrels, ignored, camera_column, ignore_unknown, metrics
    )
    files = Files(old, upgraded, new, queries_old, queries_new)
    show(compare_cells(read_cells(files), files, judging), as_json, _report_step(files, judging))


def _report_step(files: Files, judging: Judging) -> list[dict[str, str]]:
    """Return how to see the same as a page, where a page can show it."""
    plain = Judging(judging.exclude_self, judging.same_labels)
    if judging != plain or files.new is None or files.queries_new is not None:
        return []
    named = ("--old", files.old, "--upgraded", files.upgraded, "--new", files.new)
    itself = "--exclude-self" if judging.exclude_self else "--include-self"
    stated = ("--same-labels",) if judging.same_labels else ()
    return [next_step("report", "page.html", *named, itself, *stated, why="the same as a page")]


def compare_cells(cells: "Cells", files: Files, judging: Judging) -> "UpgradeComparison":
    """Return the comparison of what `read_cells` gave: by qrels, labels, or agreement."""
    from onward.compatibility import NEW, OLD, UPGRADED, compare_upgraded

    asked = [queries for queries, _ in cells.values()]
    if judging.judgements is None and all(queries.labels is None for queries in asked):
        _check_agreement(cells, files, judging)
        return compare_upgraded(cells, exclude_self=judging.exclude_self, relevance=None)
    if judging.judgements is None and NEW in cells and files.new is not None:
        items = cells[NEW][1]
        _check_classes(cells[OLD][1], items, files.old, files.new)
        _check_classes(cells[UPGRADED][1], items, files.upgraded, files.new)
    elif judging.judgements is None:
        _check_classes(cells[OLD][1], cells[UPGRADED][1], files.old, files.upgraded)
    judging.tell_numbering(*cells.values())
    return compare_upgraded(
        cells,
        exclude_self=judging.exclude_self,
        relevance=lambda queries, gallery: judging.relevance(queries, gallery, files.cameras),
        metrics=judging.names,
    )


def _check_agreement(cells: "Cells", files: Files, judging: Judging) -> None:
    """Refuse to compare agreement where full backfill is missing, or other things are asked for.

    Raises:
        ConfigurationError: saying what is missing, or has no effect.
    """
    from onward.compatibility import NEW

    if judging != Judging(judging.exclude_self):
        raise ConfigurationError(
            "the queries have no labels, and no --qrels say what they look for: only the agreement "
            "with full backfill can be compared, of which --metrics, --ignored, --camera-column, "
            "--same-labels and --ignore-unknown say nothing. Give --qrels or labels, or leave "
            "these options out"
        )
    if NEW not in cells:
        raise ConfigurationError(
            f"the queries in {files.queries_new} have no labels, and no --qrels say what they look "
            "for: only the agreement with full backfill can be compared, and that needs the items "
            "by the new model. Give --qrels FILE, labels, or --new FILE"
        )


def read_cells(files: Files) -> "dict[str, tuple[Embeddings, Embeddings]]":
    """Return queries and gallery of each cell from files that hold the same items.

    Raises:
        EvaluationError: if they do not hold the same items, or old and new are of one model.
        ConfigurationError: if queries are given by one of the models alone, or neither queries nor
            the items by the new model.
    """
    from onward.compatibility import NEW, OLD, UPGRADED
    from onward.spaces import Embeddings

    queries = read_queries(files.queries_old, files.queries_new)
    if files.new is None and queries is None:
        raise ConfigurationError(
            "without queries the items themselves are asked, by both models, and by the new one "
            "they are not there; give --new FILE, or queries: --queries-old FILE --queries-new FILE"
        )
    last = files.new or files.upgraded
    by_new, by_old = Embeddings.load(last), Embeddings.load(files.old)
    if by_old.space == by_new.space:
        option = "--upgraded" if files.new is None else "--new"
        raise EvaluationError(
            f"{files.old} and {last} are both in {by_new.space}; give the items by the old model "
            f"with --old, and by the new one with {option}"
        )
    by_old = align_files(by_old, by_new, (files.old, last), "items")
    if files.new is None:
        assert queries is not None  # noqa: S101 (refused above)
        return {OLD: (queries.old, by_old), UPGRADED: (queries.new, by_new)}
    carried = Embeddings.load(files.upgraded)
    carried = align_files(carried, by_new, (files.upgraded, files.new), "items")
    if queries is None:
        by_old, carried, by_new = _labelled_alike(by_old, carried, by_new)
    asked = queries or Queries(by_old, by_new)
    return {OLD: (asked.old, by_old), UPGRADED: (asked.new, carried), NEW: (asked.new, by_new)}


def _labelled_alike(*same_items: "Embeddings") -> "list[Embeddings]":
    """Return embeddings of the same items, those without labels with the labels of another."""
    labelled = next((each for each in same_items if each.labels is not None), None)
    if labelled is None:
        return list(same_items)
    return [
        replace(each, labels=labelled.labels, class_names=labelled.class_names)
        if each.labels is None
        else each
        for each in same_items
    ]


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
