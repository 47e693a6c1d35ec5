"""`onward evaluate`: how well queries find what they should."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onward.cli.options import EmbeddingsFile, SameLabels
from onward.cli.output import AsJson, show, tell
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.evaluation import Evaluation
    from onward.relevance import Relevance
    from onward.spaces import Embeddings
    from onward.verification import VerificationRates

ExcludeSelf = Annotated[
    bool,
    typer.Option(
        "--exclude-self/--include-self",
        help="Whether a query's own gallery entry (the same id) is left out.",
    ),
]
Qrels = Annotated[
    Path | None,
    typer.Option(help="What each query looks for, instead of labels: TREC or BEIR qrels, graded."),
]
Ignored = Annotated[
    Path | None,
    typer.Option(help="Pairs that do not count: a line each, id of a query and id of an item."),
]
CameraColumn = Annotated[
    str | None,
    typer.Option(help="Column of cameras: what the query's own camera took is ignored."),
]
IgnoreUnknown = Annotated[
    bool,
    typer.Option(
        "--ignore-unknown", help="Leave out items in qrels or pairs that the gallery lacks."
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(help="Such as ndcg@10,recall@100,mrr@10,map; cmc@1,cmc@5,map unless given."),
]


@dataclass(frozen=True)
class Judging:
    """The options that say what is right, and what is measured."""

    exclude_self: bool
    same_labels: bool = False
    qrels: Path | None = None
    ignored: Path | None = None
    camera_column: str | None = None
    ignore_unknown: bool = False
    metrics: str | None = None

    def __post_init__(self) -> None:
        if self.qrels is not None and self.same_labels:
            raise ConfigurationError("--same-labels has no effect with --qrels; leave one out")
        if self.ignore_unknown and self.qrels is None and self.ignored is None:
            raise ConfigurationError(
                "--ignore-unknown is about the items of --qrels or --ignored; give one of them, "
                "or leave it out"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics to measure."""
        from onward.evaluation import METRICS, parse_metrics

        given = METRICS if self.metrics is None else self.metrics.split(",")
        return parse_metrics(name.strip() for name in given)

    @cached_property
    def judgements(self) -> "dict[str, dict[str, int]] | None":
        """The grades of pairs, if there are qrels."""
        from onward.judgements import read_qrels

        return None if self.qrels is None else read_qrels(self.qrels)

    @cached_property
    def pairs_ignored(self) -> dict[str, set[str]] | None:
        """The pairs that do not count, if a file names them."""
        from onward.judgements import read_ignored

        return None if self.ignored is None else read_ignored(self.ignored)

    def tell_numbering(self, *cells: "tuple[Embeddings, Embeddings]") -> None:
        """Say so if labels of queries and gallery are compared by number, and may differ."""
        import numpy as np

        from onward.labels import numbering_note

        notes = {
            numbering_note(queries.class_names, gallery.class_names, same_labels=self.same_labels)
            for queries, gallery in cells
            if queries.labels is not None
            and gallery.labels is not None
            and not (queries.ids == gallery.ids and np.array_equal(queries.labels, gallery.labels))
        }
        for note in notes - {None} if self.qrels is None else ():
            tell(str(note))

    def evaluate(
        self, queries: "Embeddings", gallery: "Embeddings", cameras: tuple[Path, Path]
    ) -> "Evaluation":
        """Rank the gallery for every query and judge; see `relevance`."""
        from onward.compatibility import evaluate_embeddings
        from onward.spaces import check_same_space

        check_same_space(queries.space, gallery.space)  # what relevance needs is asked for later
        return evaluate_embeddings(
            queries,
            gallery,
            exclude_self=self.exclude_self,
            relevance=self.relevance(queries, gallery, cameras),
            metrics=self.names,
        )

    def relevance(
        self, queries: "Embeddings", gallery: "Embeddings", cameras: tuple[Path, Path]
    ) -> "Relevance":
        """Return what each query looks for.

        Args:
            queries: what is asked.
            gallery: what is searched.
            cameras: the files with the cameras of queries and of gallery items, if asked for.
        """
        from onward.embedding_files import read_column
        from onward.relevance import Relevance

        exclude_self, ignore_unknown = self.exclude_self, self.ignore_unknown
        if self.judgements is None:
            relevance = Relevance.between(
                queries, gallery, exclude_self=exclude_self, same_labels=self.same_labels
            )
        else:
            relevance = Relevance.of_qrels(
                queries.ids,
                gallery.ids,
                self.judgements,
                exclude_self=exclude_self,
                ignore_unknown=ignore_unknown,
            )
        if self.pairs_ignored is not None:
            relevance = relevance.ignoring(self.pairs_ignored, ignore_unknown=ignore_unknown)
        if self.camera_column is not None:
            asked, there = (read_column(path, self.camera_column) for path in cameras)
            relevance = relevance.ignoring_cameras(
                [asked[item] for item in queries.ids], [there[item] for item in gallery.ids]
            )
        return relevance


def evaluate(
    queries: EmbeddingsFile,
    gallery: EmbeddingsFile,
    exclude_self: ExcludeSelf,
    qrels: Qrels = None,
    ignored: Ignored = None,
    camera_column: CameraColumn = None,
    same_labels: SameLabels = False,
    ignore_unknown: IgnoreUnknown = False,
    metrics: Metrics = None,
    far: Annotated[
        list[float] | None,
        typer.Option(help="Verify pairs instead: TAR at this false accept rate; may be repeated."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="With --far: only these pairs; a line each, two ids and 1 or 0."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate the search of QUERIES in GALLERY, exact: by labels, or by qrels.

    Example: onward evaluate new.parquet upgraded.parquet --exclude-self
    """
    from onward.spaces import Embeddings

    judging = Judging(
        exclude_self, same_labels, qrels, ignored, camera_column, ignore_unknown, metrics
    )
    if far is not None:
        _check_alone(judging)
    elif pairs is not None:
        raise ConfigurationError(
            "--pairs names pairs to verify; say at which false accept rate: --far 0.001"
        )
    if pairs is not None and same_labels:
        raise ConfigurationError("--same-labels has no effect with --pairs; leave one out")
    asked, searched = Embeddings.load(queries), Embeddings.load(gallery)
    if pairs is None:
        judging.tell_numbering((asked, searched))
    if far is not None:
        show(_verify(asked, searched, judging, far, pairs), as_json)
        return
    show(judging.evaluate(asked, searched, (queries, gallery)), as_json)


def _check_alone(judging: Judging) -> None:
    """Refuse what says nothing where pairs are verified."""
    given = {
        "--qrels": judging.qrels,
        "--ignored": judging.ignored,
        "--camera-column": judging.camera_column,
        "--metrics": judging.metrics,
    }
    for option, value in given.items():
        if value is not None:
            raise ConfigurationError(
                f"{option} is about search, and --far verifies pairs instead; leave out one of them"
            )


def _verify(
    queries: "Embeddings",
    gallery: "Embeddings",
    judging: Judging,
    fars: list[float],
    pairs: Path | None,
) -> "VerificationRates":
    from onward.judgements import read_pairs
    from onward.verification import verify_pairs

    return verify_pairs(
        queries,
        gallery,
        exclude_self=judging.exclude_self,
        same_labels=judging.same_labels,
        pairs=None if pairs is None else read_pairs(pairs),
        fars=fars,
    )
