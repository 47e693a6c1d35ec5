"""What is asked and what is right: the options that judge search, the same for each command.

`evaluate`, `compare`, `report`, `upgrade plan` and `upgrade verify` take them from here.
"""

from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, Field

from onward.cli.options import takes_settings
from onward.cli.output import tell
from onward.errors import ConfigurationError, EvaluationError

if TYPE_CHECKING:
    from onward.evaluation.metrics import Evaluation
    from onward.evaluation.relevance import Relevance
    from onward.spaces import Embeddings
    from onward.upgrading import Canaries, RealQueries, Requirement

EXCLUDE_SELF = "--exclude-self/--include-self"


class Judging(BaseModel):
    """What is right, and what is measured, where search is evaluated.

    Attributes:
        exclude_self: whether a query's own gallery entry (the same id) is left out.
        qrels: what each query looks for, instead of labels: TREC or BEIR qrels, graded.
        ignored: pairs that do not count: a line each, id of a query and id of an item.
        camera_column: column of cameras: what the query's own camera took is ignored.
        same_labels: if only one side has class names: the other's label numbers mean the same.
        ignore_unknown: leave out items in qrels or pairs that the gallery lacks.
        metrics: such as ndcg@10,recall@100,mrr@10,map; cmc@1,cmc@5,map unless given.
    """

    exclude_self: bool
    qrels: Path | None = None
    ignored: Path | None = None
    camera_column: str | None = None
    same_labels: bool = False
    ignore_unknown: bool = False
    metrics: str | None = None

    def model_post_init(self, _: Any) -> None:
        """Refuse options that say nothing beside others."""
        _check_qrels(self.qrels, self.same_labels)
        if self.ignore_unknown and self.qrels is None and self.ignored is None:
            raise ConfigurationError(
                "--ignore-unknown is about the items of --qrels or --ignored",
                "give one of them, or leave it out",
            )

    @property
    def said(self) -> set[str]:
        """The options that were said."""
        return set(self.model_dump(exclude_defaults=True))

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics to measure."""
        from onward.evaluation.metrics import METRICS, parse_metrics

        given = METRICS if self.metrics is None else self.metrics.split(",")
        return parse_metrics(name.strip() for name in given)

    @cached_property
    def judgements(self) -> "dict[str, dict[str, int]] | None":
        """The grades of pairs, if there are qrels."""
        from onward.evaluation.judgements import read_qrels

        return None if self.qrels is None else read_qrels(self.qrels)

    @cached_property
    def pairs_ignored(self) -> dict[str, set[str]] | None:
        """The pairs that do not count, if a file names them."""
        from onward.evaluation.judgements import read_ignored

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
        from onward.evaluation.comparison import evaluate_embeddings
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
        from onward.evaluation.relevance import Relevance

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


takes_judging = takes_settings(
    "judging", Judging, flags={"exclude_self": EXCLUDE_SELF}, make=Judging
)
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


class Judges(BaseModel):
    """What an upgrade is judged by.

    Attributes:
        sample: true new embeddings of some items, to judge by, and to be written: .parquet.
        queries_old: queries that are not the items, by the old model: .parquet.
        queries_new: the same queries by the new model: .parquet.
        qrels: what each query looks for, instead of labels: TREC or BEIR qrels, graded.
        ignore_unknown: leave out items in qrels that the gallery lacks.
        same_labels: if only one side has class names: the other's label numbers mean the same.
        require: what must be predicted besides, such as 'cmc@1 >= 0.95 * new/new'.
        margin: points by which search may get worse and the gate be open.
    """

    sample: Path | None = None
    queries_old: Path | None = None
    queries_new: Path | None = None
    qrels: Path | None = None
    ignore_unknown: bool = False
    same_labels: bool = False
    require: str | None = None
    margin: float = Field(1.0, ge=0, le=99)

    @cached_property
    def embedded(self) -> "Embeddings | None":
        """The sample."""
        from onward.spaces import Embeddings

        return None if self.sample is None else Embeddings.load(self.sample)

    @cached_property
    def queries(self) -> "RealQueries | None":
        """The real queries.

        Raises:
            ConfigurationError: if options are missing, or do not go together.
        """
        from onward.evaluation.judgements import read_qrels
        from onward.upgrading import RealQueries

        _check_qrels(self.qrels, self.same_labels)
        if self.ignore_unknown and self.qrels is None:
            raise ConfigurationError("--ignore-unknown is about the items of --qrels", "give both")
        asked = read_queries(self.queries_old, self.queries_new)
        if asked is not None:
            judgements = None if self.qrels is None else read_qrels(self.qrels)
            return RealQueries(*asked, judgements, self.ignore_unknown, self.same_labels)
        if self.qrels is not None or self.same_labels:
            option = "--qrels" if self.qrels else "--same-labels"
            raise ConfigurationError(
                f"{option} is about real queries, and there are none",
                "give them by both models, --queries-old and --queries-new",
            )
        return None

    @property
    def requirement(self) -> "Requirement | None":
        """What must be reached besides, if anything."""
        return _read_requirement(self.require)

    @property
    def are_given(self) -> bool:
        """Whether there is anything to judge by."""
        return self.sample is not None or self.queries is not None


def read_judges(kind: type[Judges], **said: Any) -> Judges:
    """Return options by which an upgrade is judged; what is wrong with them is said first."""
    judges = kind(**said)
    _ = judges.queries, judges.embedded, judges.requirement
    return judges


takes_judges = takes_settings("judges", Judges, make=partial(read_judges, Judges))
"""Give a command the options that say what an upgrade is judged by, in place of `judges`."""


def _check_qrels(qrels: Path | None, same_labels: bool) -> None:
    if qrels is not None and same_labels:
        raise ConfigurationError("--same-labels has no effect with --qrels", "leave one out")


def _read_requirement(require: str | None) -> "Requirement | None":
    from onward.upgrading import Requirement

    return None if require is None else Requirement.parse(require)


class CanaryOptions(BaseModel):
    """What a verification asks.

    Attributes:
        canaries: queries with labels, embedded by the new model: .parquet.
        canaries_old: the same queries, embedded by the old model: .parquet.
        queries_new: real queries by the new model, as canaries: .parquet.
        queries_old: the same queries by the old model: .parquet.
        qrels: what each query looks for, instead of labels: TREC or BEIR qrels, graded.
        require: what the canaries must reach, such as 'cmc@1 >= 0.98 * old/old' or 'map >= 0.5';
            default: 'map >= old/old'.
        same_labels: if only one side has class names: the other's label numbers mean the same.
    """

    canaries: Path | None = None
    canaries_old: Path | None = None
    queries_new: Path | None = None
    queries_old: Path | None = None
    qrels: Path | None = None
    require: str | None = None
    same_labels: bool = False


def _read_canaries(**said: Any) -> "Canaries | None":
    """Return the queries that a verification asks, if there are any.

    Raises:
        ConfigurationError: if options are missing, or do not go together.
    """
    from onward.evaluation.judgements import read_qrels
    from onward.spaces import Embeddings
    from onward.upgrading import Canaries

    given = CanaryOptions(**said)
    new = _one_of("--canaries and --queries-new", given.canaries, given.queries_new)
    old = _one_of("--canaries-old and --queries-old", given.canaries_old, given.queries_old)
    if new is None:
        if old is None and given.require is None and given.qrels is None:
            return None
        raise ConfigurationError(
            "--canaries-old, --queries-old, --qrels and --require say what canaries are held to, "
            "but there are none",
            "add --canaries FILE or --queries-new FILE, queries embedded by the new model",
        )
    by_new, by_old, judged = Embeddings.load(new), None, None
    requirement = _read_requirement(given.require)
    if old is not None:
        by_old = align_files(Embeddings.load(old), by_new, (old, new), "queries")
    _check_qrels(given.qrels, given.same_labels)
    if given.qrels is not None:
        judged = read_qrels(given.qrels)
        grades = (judged.get(query, {}).values() for query in by_new.ids)
        unjudged = sum(max(each, default=0) <= 0 for each in grades)
        if unjudged:
            tell(
                f"{unjudged:,} of {len(by_new):,} queries have no relevant item in {given.qrels}: "
                "left out"
            )
    return Canaries(by_new, by_old, judged, requirement, given.same_labels)


takes_canaries = takes_settings("canaries", CanaryOptions, make=_read_canaries)
"""Give a command the options that say what a verification asks, in place of `canaries`."""


def _one_of(options: str, one: Path | None, other: Path | None) -> Path | None:
    """Return the file of two options that mean the same.

    Raises:
        ConfigurationError: if both are given.
    """
    if one is not None and other is not None:
        raise ConfigurationError(f"{options} name the same queries", "give one of the two")
    return one or other
