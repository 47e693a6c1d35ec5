"""What is asked and what is right: the options that judge search, the same for each command.

`evaluate`, `compare`, `report`, `upgrade plan` and `upgrade verify` take them from here.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from onward.cli.options import REQUIRED, SameLabels, takes
from onward.cli.output import tell
from onward.errors import ConfigurationError, EvaluationError

if TYPE_CHECKING:
    from onward.evaluation import Evaluation
    from onward.relevance import Relevance
    from onward.spaces import Embeddings
    from onward.upgrading import Canaries, RealQueries, Requirement

QueriesOld = Annotated[
    Path | None, typer.Option(help="Queries that are not the items, by the old model: .parquet.")
]
QueriesNew = Annotated[
    Path | None, typer.Option(help="The same queries by the new model: .parquet.")
]
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
            raise ConfigurationError("--same-labels has no effect with --qrels", "leave one out")
        if self.ignore_unknown and self.qrels is None and self.ignored is None:
            raise ConfigurationError(
                "--ignore-unknown is about the items of --qrels or --ignored",
                "give one of them, or leave it out",
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


JUDGING_OPTIONS: dict[str, tuple[Any, Any]] = {
    "exclude_self": (ExcludeSelf, REQUIRED),
    "qrels": (Qrels, None),
    "ignored": (Ignored, None),
    "camera_column": (CameraColumn, None),
    "same_labels": (SameLabels, False),
    "ignore_unknown": (IgnoreUnknown, False),
    "metrics": (Metrics, None),
}
takes_judging = takes("judging", JUDGING_OPTIONS, Judging)
"""Give a command the options that say what is right and what is measured, as `judging`."""


class Queries(NamedTuple):
    """The same queries, in the same order, by both models."""

    old: "Embeddings"
    new: "Embeddings"


def read_queries(old: Path | None, new: Path | None) -> Queries | None:
    """Return the queries of `--queries-old` and `--queries-new`; None if neither is given.

    Raises:
        ConfigurationError: if only one of the two is given.
        EvaluationError: if they do not hold the same queries, or both are by one model.
    """
    from onward.spaces import Embeddings

    if old is None and new is None:
        return None
    if old is None or new is None:
        raise ConfigurationError(
            "give the queries by both models, --queries-old and --queries-new: each cell is "
            "asked by the model that its name begins with"
        )
    by_new = Embeddings.load(new)
    by_old = align_files(Embeddings.load(old), by_new, (old, new), "queries")
    if by_old.space == by_new.space:
        raise EvaluationError(
            f"{old} and {new} are both in {by_new.space}",
            "give the queries by the old model with "
            "--queries-old, and by the new one with --queries-new",
        )
    return Queries(by_old, by_new)


def align_files(
    one: "Embeddings", other: "Embeddings", paths: tuple[Path, Path], what: str
) -> "Embeddings":
    """Return embeddings in the order of others, which are to be of the same ids.

    Args:
        one: is brought into order.
        other: has it.
        paths: the file of each.
        what: "items" or "queries".

    Raises:
        EvaluationError: if they are not of the same ids.
    """
    apart = sorted(set(one.ids) ^ set(other.ids))
    if apart:
        raise EvaluationError(
            f"{len(apart)} {what} are in only one of {paths[0]} and {paths[1]}, the first "
            f"{apart[0]!r}",
            f"give files of the same {what}",
        )
    return one.align(other.ids)


JUDGE_OPTIONS: dict[str, tuple[Any, Any]] = {
    "sample": (
        Annotated[
            Path | None,
            typer.Option(
                help="True new embeddings of some items, to judge by, and to be written: .parquet."
            ),
        ],
        None,
    ),
    "queries_old": (QueriesOld, None),
    "queries_new": (QueriesNew, None),
    "qrels": (Qrels, None),
    "ignore_unknown": (IgnoreUnknown, False),
    "same_labels": (SameLabels, False),
    "require": (
        Annotated[
            str | None,
            typer.Option(help="What must be predicted besides, such as 'cmc@1 >= 0.95 * new/new'."),
        ],
        None,
    ),
    "margin": (
        Annotated[
            float,
            typer.Option(
                min=0, max=99, help="Points by which search may get worse and the gate be open."
            ),
        ],
        1.0,
    ),
}


@dataclass(frozen=True, eq=False)
class Judges:
    """What an upgrade is judged by, read from files.

    Attributes:
        sample: true new embeddings of some items, if they are given.
        queries: real queries by both models, if they are given.
        require: what must be reached besides, if anything.
        margin: search may get worse by so much, in [0, 1).
    """

    sample: "Embeddings | None"
    queries: "RealQueries | None"
    require: "Requirement | None"
    margin: float

    @property
    def are_given(self) -> bool:
        """Whether there is anything to judge by."""
        return self.sample is not None or self.queries is not None


def read_judges(
    *,
    sample: Path | None,
    queries_old: Path | None,
    queries_new: Path | None,
    qrels: Path | None,
    ignore_unknown: bool,
    same_labels: bool,
    require: str | None,
    margin: float,
) -> Judges:
    """Return what the options name.

    Raises:
        ConfigurationError: if options are missing, or do not go together.
    """
    from onward.spaces import Embeddings
    from onward.upgrading import RealQueries

    judging = Judging(False, same_labels, qrels, None, None, ignore_unknown)
    asked = read_queries(queries_old, queries_new)
    if asked is None and (qrels is not None or same_labels):
        raise ConfigurationError(
            f"{'--qrels' if qrels else '--same-labels'} is about real queries, and there are none",
            "give them by both models, --queries-old and --queries-new",
        )
    real = None
    if asked is not None:
        real = RealQueries(*asked, judging.judgements, ignore_unknown, same_labels)
    embedded = None if sample is None else Embeddings.load(sample)
    return Judges(embedded, real, read_requirement(require), margin / 100)


takes_judges = takes("judges", JUDGE_OPTIONS, read_judges)
"""Give a command the options that say what an upgrade is judged by, in place of `judges`."""


def read_requirement(require: str | None) -> "Requirement | None":
    """Return what is required, if anything is said."""
    from onward.upgrading import Requirement

    return None if require is None else Requirement.parse(require)


CANARY_OPTIONS: dict[str, tuple[Any, Any]] = {
    "canaries": (
        Annotated[
            Path | None,
            typer.Option(help="Queries with labels, embedded by the new model: .parquet."),
        ],
        None,
    ),
    "canaries_old": (
        Annotated[
            Path | None, typer.Option(help="The same queries, embedded by the old model: .parquet.")
        ],
        None,
    ),
    "queries_new": (
        Annotated[
            Path | None, typer.Option(help="Real queries by the new model, as canaries: .parquet.")
        ],
        None,
    ),
    "queries_old": (
        Annotated[Path | None, typer.Option(help="The same queries by the old model: .parquet.")],
        None,
    ),
    "qrels": (Qrels, None),
    "require": (
        Annotated[
            str | None,
            typer.Option(
                help="What the canaries must reach, such as 'cmc@1 >= 0.98 * old/old' or "
                "'map >= 0.5'; default: 'map >= old/old'."
            ),
        ],
        None,
    ),
    "same_labels": (SameLabels, False),
}


def read_canaries(
    *,
    canaries: Path | None,
    canaries_old: Path | None,
    queries_new: Path | None,
    queries_old: Path | None,
    qrels: Path | None,
    require: str | None,
    same_labels: bool,
) -> "Canaries | None":
    """Return the queries that a verification asks, if there are any.

    Raises:
        ConfigurationError: if options are missing, or do not go together.
    """
    from onward.judgements import read_qrels
    from onward.spaces import Embeddings
    from onward.upgrading import Canaries

    new = _one_of(("--canaries", canaries), ("--queries-new", queries_new))
    old = _one_of(("--canaries-old", canaries_old), ("--queries-old", queries_old))
    if new is None:
        if old is None and require is None and qrels is None:
            return None
        raise ConfigurationError(
            "--canaries-old, --queries-old, --qrels and --require say what canaries are held to, "
            "but there are none",
            "add --canaries FILE or --queries-new FILE, queries embedded by the new model",
        )
    by_new, requirement = Embeddings.load(new), read_requirement(require)
    by_old = None
    if old is not None:
        by_old = align_files(Embeddings.load(old), by_new, (old, new), "queries")
    if qrels is not None and same_labels:
        raise ConfigurationError("--same-labels has no effect with --qrels", "leave one out")
    judged = None if qrels is None else read_qrels(qrels)
    for_nothing = [
        query
        for query in by_new.ids
        if judged is not None and max(judged.get(query, {}).values(), default=0) <= 0
    ]
    if for_nothing:
        tell(
            f"{len(for_nothing):,} of {len(by_new):,} queries have no relevant item in {qrels}: "
            "left out"
        )
    return Canaries(by_new, by_old, judged, requirement, same_labels)


takes_canaries = takes("canaries", CANARY_OPTIONS, read_canaries)
"""Give a command the options that say what a verification asks, in place of `canaries`."""


def _one_of(*given: tuple[str, Path | None]) -> Path | None:
    """Return the file of two options that mean the same.

    Raises:
        ConfigurationError: if both are given.
    """
    files = [path for _, path in given if path is not None]
    if len(files) > 1:
        names = " and ".join(option for option, _ in given)
        raise ConfigurationError(f"{names} name the same queries", "give one of the two")
    return files[0] if files else None
