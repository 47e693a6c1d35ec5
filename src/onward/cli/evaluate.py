"""`onward search`, `evaluate`, `compare` and `report`: what queries find, and how good that is."""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import onward
from onward.cli.judging import EvaluatedBy, Judging, Queries, align_files
from onward.cli.options import (
    DataStated,
    Device,
    EmbeddingsFile,
    OpenGallery,
    Overwrite,
    check_room,
    open_data,
    settings,
)
from onward.cli.output import Answer, Fields, Told, suggest, tell
from onward.errors import ConfigurationError, EvaluationError

if TYPE_CHECKING:
    from onward.data.items import Items
    from onward.evaluation.comparison import Cells, UpgradeComparison
    from onward.fusion import Fusion
    from onward.report import RetrievalGrid


def search(
    gallery: OpenGallery,
    queries: Annotated[Path, typer.Argument(help="Embeddings (.parquet), or an image file.")],
    queries_old: Annotated[
        Path | None,
        typer.Option(
            help="Where a fused pair answers: the same queries by its old model, .parquet."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The query model, where QUERIES is an image.")
    ] = None,
    old_model: Annotated[
        Path | None, typer.Option(help="The same of a fused pair's old space.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items for each query.")] = 5,
    exclude_self: Annotated[
        bool, typer.Option(help="Leave out the item with the query's own id.")
    ] = False,
    approximate: Annotated[
        bool, typer.Option(help="Let indexes choose what is looked at: faster, may miss items.")
    ] = False,
    allow_unserved: Annotated[
        bool, typer.Option(help="Look into a space that does not answer queries, as it is.")
    ] = False,
    device: Device = "auto",
) -> Answer:
    """Find the nearest items of GALLERY to each of QUERIES.

    Where a fused pair answers, QUERIES are by its new model.

    Example: onward search photos.lance cat.png --model models/new -k 10
    """
    asked = _read_queries(queries, model, "--model", device)
    asked_old = None
    if queries_old is not None or old_model is not None:
        asked_old = _read_queries(queries_old or queries, old_model, "--old-model", device)
    return gallery.search(
        asked,
        k,
        queries_old=asked_old,
        exclude_self=exclude_self,
        approximate=approximate,
        allow_unserved=allow_unserved,
    )


def _read_queries(
    queries: Path, model: Path | None, option: str, device: str
) -> "onward.Embeddings":
    """Return the embeddings in a file, or that of the image in it.

    Raises:
        ConfigurationError: if an image is given without a model, or embeddings with one.
    """
    is_embedded = queries.suffix == ".parquet"
    if is_embedded and model is not None:
        raise ConfigurationError(
            f"{queries} holds embeddings, and {option} embeds an image", "give one of the two"
        )
    if is_embedded:
        return onward.Embeddings.load(queries)
    if model is None:
        raise ConfigurationError(
            f"{queries} is an image, and an image needs a model",
            f"add {option} DIRECTORY, or give a .parquet file of embeddings",
        )
    return _embed_file(model, queries, device)


def _embed_file(model: Path, image: Path, device: str) -> "onward.Embeddings":
    import numpy as np

    from onward.data.items import Items

    where = {"path": os.path.realpath(image)}
    item = Items((str(image),), np.zeros(1, np.int64), {0: "unknown"}, (where,), str(image))
    embedded = onward.EmbeddingModel.load(model).embed(item, device=device)
    return replace(embedded, labels=None)


def evaluate(
    queries: EmbeddingsFile,
    gallery: EmbeddingsFile,
    judging: EvaluatedBy,
    far: Annotated[
        list[float] | None,
        typer.Option(help="Verify pairs instead: TAR at this false accept rate; may be repeated."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="With --far: only these pairs; a line each, two ids and 1 or 0."),
    ] = None,
) -> Told:
    """Evaluate the search of QUERIES in GALLERY, exact: by labels, or by qrels.

    Example: onward evaluate new.parquet upgraded.parquet --exclude-self
    """
    from onward.evaluation.judgements import read_pairs
    from onward.evaluation.verification import verify_pairs
    from onward.spaces import check_same_space

    if far is not None:
        given = judging.said & {"qrels", "ignored", "camera_column", "metrics"}
        for field in sorted(given):
            raise ConfigurationError(
                f"--{field.replace('_', '-')} is about search, and --far verifies pairs instead",
                "leave out one of them",
            )
    elif pairs is not None:
        raise ConfigurationError(
            "--pairs needs --far", "say at which false accept rate to verify them: --far 0.001"
        )
    if pairs is not None and judging.same_labels:
        raise ConfigurationError("--same-labels has no effect with --pairs", "leave one out")
    asked, searched = onward.Embeddings.load(queries), onward.Embeddings.load(gallery)
    if pairs is None:
        judging.tell_numbering((asked, searched))
    if far is None:
        check_same_space(asked.space, searched.space)  # what relevance needs is asked for later
        evaluation = onward.evaluate_embeddings(
            asked,
            searched,
            exclude_self=judging.exclude_self,
            relevance=judging.relevance(asked, searched, (queries, gallery)),
            metrics=judging.names,
        )
        return Told(evaluation, also=_tell_of_origins(searched))
    rates = verify_pairs(
        asked,
        searched,
        exclude_self=judging.exclude_self,
        same_labels=judging.same_labels,
        pairs=None if pairs is None else read_pairs(pairs),
        fars=far,
    )
    return Told(rates)


def _tell_of_origins(gallery: "onward.Embeddings") -> dict[str, dict[str, int]]:
    """Say so where a gallery's vectors came to be in several ways; return that for a machine."""
    counts = gallery.count_origins()
    if len(counts) < 2:
        return {}
    said = ", ".join(f"{count:,} {origin}" for origin, count in counts.items())
    tell(
        f"the gallery's vectors are of several origins ({said}); all are judged as they are "
        "stored. `onward compare` shows h alone"
    )
    return {"gallery_origins": counts}


SHOWN = ("old", "upgraded", "new", "exclude_self", "same_labels", "transformation")
"""Of the options of a comparison, those that a page can show."""


class Compared(Judging):
    """The items three times, the queries twice, and what is right.

    Attributes:
        old: the items by the old model: .parquet.
        upgraded: the items after the upgrade: .parquet.
        new: the items by the new model: .parquet; needed unless queries are given.
        transformation: what `fit` wrote, for its fused pair: without it, one of equal weights.
    """

    old: Path
    upgraded: Path
    new: Path | None = None
    transformation: Path | None = None

    def fusion(self, cells: "Cells") -> "Fusion | None":
        """Return the pair that is compared as fused search.

        That of the transformation, or else one of equal weights whose scales are those of these
        queries and items; None if their distances do not differ.

        Raises:
            ConfigurationError: if the transformation has none, or leads from or to other spaces.
        """
        from onward.evaluation.comparison import OLD, UPGRADED
        from onward.evaluation.serving import measure_pair

        if self.transformation is None:
            fusion, how = None, "not compared, for no scale can be measured on"
            with suppress(ConfigurationError):
                fusion = measure_pair([cells[OLD]], [cells[UPGRADED]], seed=0)
                how = "compared with equal weights and scales of"
            tell(
                f"fused search is {how} these queries and items; --transformation names the pair "
                "that fit chose"
            )
            return fusion
        serving = onward.Transformation.load(self.transformation).serving
        if serving is None:
            raise ConfigurationError(
                f"the transformation in {self.transformation} has no fused pair: it was fitted "
                "before `fit` measured one, or its distances do not differ",
                "fit it again, or leave --transformation out",
            )
        pair, spaces = serving.fusion, [cells[name][1].space for name in (OLD, UPGRADED)]
        if [pair.old, pair.new] != spaces:
            raise ConfigurationError(
                f"the transformation in {self.transformation} leads from {pair.old} to {pair.new}, "
                f"and the items are in {spaces[0]} and {spaces[1]}",
                "give the one that made --upgraded, or leave --transformation out",
            )
        return pair

    @property
    def cameras(self) -> tuple[Path, Path]:
        """The files with the cameras of the queries, and of the items."""
        items = self.new or self.upgraded
        return self.queries_new or items, items


def compare(asked: Compared) -> Told:
    """Compare doing nothing, upgrading and full backfill on the same items.

    Of a gallery that the new model embedded in part, h alone stands beside what is stored. Without
    labels and qrels, the agreement with full backfill is compared. Cameras are read from the files
    of the new model.

    Example: onward compare --old old.parquet --upgraded up.parquet --new new.parquet --exclude-self
    """
    made = compare_cells(read_cells(asked), asked)
    if asked.said - set(SHOWN) or asked.new is None:  # a page cannot show that
        return Told(made)
    files = {name: getattr(asked, name) for name in ("old", "upgraded", "new", "transformation")}
    named = [word for name, path in files.items() if path for word in (f"--{name}", path)]
    itself = "--exclude-self" if asked.exclude_self else "--include-self"
    stated = ("--same-labels",) if asked.same_labels else ()
    step = suggest("report", "page.html", *named, itself, *stated, why="the same as a page")
    return Told(made, [step])


def compare_cells(cells: "Cells", asked: Compared) -> "UpgradeComparison":
    """Return the comparison of what `read_cells` gave: by qrels, labels, or agreement."""
    from onward.evaluation.comparison import compare_upgraded

    if asked.judgements is None and all(queries.labels is None for queries, _ in cells.values()):
        _check_agreement(cells, asked)
        return compare_upgraded(
            cells, exclude_self=asked.exclude_self, relevance=None, fusion=asked.fusion(cells)
        )
    asked.tell_numbering(*cells.values())
    return compare_upgraded(
        cells,
        exclude_self=asked.exclude_self,
        relevance=lambda queries, gallery: asked.relevance(queries, gallery, asked.cameras),
        metrics=asked.names,
        fusion=asked.fusion(cells),
    )


def _check_agreement(cells: "Cells", asked: Compared) -> None:
    """Refuse to compare agreement where full backfill is missing, or other things are asked for.

    Raises:
        ConfigurationError: saying what is missing, or has no effect.
    """
    from onward.evaluation.comparison import NEW

    only = (
        "no --qrels say what they look for: only the agreement with full backfill can be compared"
    )
    if asked.said - ({*SHOWN, "queries_old", "queries_new"} - {"same_labels"}):
        raise ConfigurationError(
            f"the queries have no labels, and {only}, of which --metrics, --ignored, "
            "--camera-column, --same-labels and --ignore-unknown say nothing",
            "give --qrels or labels, or leave these options out",
        )
    if NEW not in cells:
        raise ConfigurationError(
            f"the queries in {asked.queries_new} have no labels, and {only}, and that needs the "
            "items by the new model",
            "give --qrels FILE, labels, or --new FILE",
        )


def read_cells(asked: Compared) -> "dict[str, tuple[onward.Embeddings, onward.Embeddings]]":
    """Return queries and gallery of each cell from files that hold the same items.

    Where no qrels say what is right, each knows the classes that any file of the items knows.

    Raises:
        EvaluationError: if they do not hold the same items, or old and new are of one model.
        LabelMismatchError: if two files put an item in two classes.
        ConfigurationError: if queries are given by one of the models alone, or neither queries nor
            the items by the new model.
    """
    from onward.evaluation.comparison import NEW, OLD, UPGRADED
    from onward.evaluation.relevance import label_alike

    queries, last = asked.queries, asked.new or asked.upgraded
    if asked.new is None and queries is None:
        raise ConfigurationError(
            "without queries the items themselves are the queries, by both models, but their "
            "embeddings by the new model were not given",
            "give --new FILE, or queries: --queries-old FILE --queries-new FILE",
        )
    given = {OLD: asked.old, UPGRADED: asked.upgraded, NEW: asked.new}
    paths = {cell: path for cell, path in given.items() if path is not None}
    items = {cell: onward.Embeddings.load(path) for cell, path in paths.items()}
    by_new = items.get(NEW, items[UPGRADED])
    if items[OLD].space == by_new.space:
        option = "--upgraded" if asked.new is None else "--new"
        raise EvaluationError(
            f"{asked.old} and {last} are both in {by_new.space}",
            f"give the items by the old model with --old, and by the new one with {option}",
        )
    found = [align_files(items[cell], by_new, (paths[cell], last), "items") for cell in paths]
    if asked.qrels is None:  # else no label is asked for
        found = label_alike(found, [str(path) for path in paths.values()])
        if queries is not None:
            named = [str(asked.queries_old), str(asked.queries_new)]
            queries = Queries(*label_alike(list(queries), named))
    by_both = queries or Queries(found[0], found[-1])
    return {
        cell: (by_both.old if cell == OLD else by_both.new, gallery)
        for cell, gallery in zip(paths, found, strict=True)
    }


INTRODUCTION = (
    "The same items by the old model, carried over by a transformation, and embedded again by the "
    "new model: what each gives when the items are searched."
)


def report(
    out: Annotated[Path, typer.Argument(help="The page to write: .html.")],
    asked: Annotated[
        Compared,
        settings(Compared, *SHOWN, make=Compared),
    ],
    stated: DataStated,
    data: Annotated[
        str | None, typer.Option(help="The items' images, to show what was found: as for embed.")
    ] = None,
    title: Annotated[str, typer.Option(help="The page's title.")] = "An upgrade and what it gave",
    overwrite: Overwrite = False,
) -> Fields:
    """Write a page that compares doing nothing, upgrading and full backfill.

    Example: onward report page.html --old old.parquet --upgraded up.parquet --new new.parquet
    --exclude-self --data digits
    """
    from onward.evaluation.comparison import of_h_alone
    from onward.report import write_report

    check_room(out, overwrite=overwrite)
    cells = read_cells(asked)
    items = None if data is None else open_data(data, stated)
    made = compare_cells(cells, asked)
    comparison, alone = _of_labels(made, asked), of_h_alone(cells)
    grid = _grid(items, alone, asked.exclude_self) if items and alone else None
    facts = {
        **{name: str(getattr(asked, name)) for name in ("old", "upgraded", "new")},
        "the upgraded gallery": ". ".join([made.origins_text, *made.caveats]),
        "a query's own gallery entry": "left out" if asked.exclude_self else "kept",
    }
    page = {"title": title, "introduction": INTRODUCTION}
    write_report(out, comparison, **page, grid=grid, facts=facts, upgrade=made)
    return Fields({"verdict": comparison.verdict, **made.origins, "written": [str(out)]})


def _grid(items: "Items", cells: "Cells", exclude_self: bool) -> "RetrievalGrid":
    """Return the images of what a few queries find in each cell."""
    from onward.evaluation.retrieval import search
    from onward.report import make_grid

    rankings = {
        name: search(queries, gallery, 5, exclude_self=exclude_self)
        for name, (queries, gallery) in cells.items()
    }
    return make_grid(items, rankings)


def _of_labels(made: "UpgradeComparison", asked: Compared) -> "onward.Comparison":
    """Return what h alone gives, judged by labels.

    Raises:
        EvaluationError: if it is known to have carried nothing, or there are no labels.
    """
    if made.alone is None:
        raise EvaluationError(
            f"h carried none of the items in {asked.upgraded}: what is known of them was embedded "
            "by the new model, and there is no upgrade to show. Give a file in which some are "
            "upgraded",
            "or let `onward compare` show what the gallery gives as it is stored",
        )
    if not isinstance(made.alone, onward.Comparison):
        raise EvaluationError(
            f"the items in {asked.old} and {asked.new} have no labels, and a page shows what is "
            "right by labels",
            "embed items with labels. `onward compare` shows the agreement with full backfill",
        )
    return made.alone
