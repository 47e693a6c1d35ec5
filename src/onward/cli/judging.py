"""What is asked and what is right: the options that judge search, the same for each command.

`evaluate`, `compare`, `report`, `upgrade plan` and `upgrade verify` take them from here.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, Field

import onward
from onward.cli.options import settings, tell_numbering
from onward.cli.output import tell
from onward.errors import ConfigurationError, EvaluationError

if TYPE_CHECKING:
    from onward.evaluation.relevance import RealQueries
    from onward.upgrading import Canaries, Requirement


class Queries(NamedTuple):
    """The same queries, in the same order, by both models."""

    old: "onward.Embeddings"
    new: "onward.Embeddings"


class Asked(BaseModel):
    """What is asked, and what is right.

    Attributes:
        queries_old: queries that are not the items, by the old model: .parquet.
        queries_new: the same queries by the new model: .parquet.
        qrels: what each query looks for, instead of labels: TREC or BEIR qrels, graded.
        ignore_unknown: leave out items in qrels or pairs that the gallery lacks.
        same_labels: if only one side has class names: the other's label numbers mean the same.
    """

    of_items: ClassVar[tuple[str, ...]] = ("qrels",)
    """Options that may name items which the gallery lacks."""

    queries_old: Path | None = None
    queries_new: Path | None = None
    qrels: Path | None = None
    ignore_unknown: bool = False
    same_labels: bool = False

    def model_post_init(self, _: Any) -> None:
        """Refuse options that say nothing beside others."""
        if self.qrels is not None and self.same_labels:
            raise ConfigurationError("--same-labels has no effect with --qrels", "leave one out")
        if self.ignore_unknown and not self.said.intersection(self.of_items):
            raise ConfigurationError(
                f"--ignore-unknown needs --{' or --'.join(self.of_items)}",
                "give one of them, or leave it out",
            )

    @property
    def said(self) -> set[str]:
        """The options that were said."""
        return set(self.model_dump(exclude_defaults=True))

    @cached_property
    def judgements(self) -> "dict[str, dict[str, int]] | None":
        """The grades of pairs, if there are qrels."""
        from onward.evaluation.judgements import read_qrels

        return None if self.qrels is None else read_qrels(self.qrels)

    @cached_property
    def queries(self) -> Queries | None:
        """The queries by both models; None if neither is given.

        Raises:
            ConfigurationError: if only one of the two is given.
            EvaluationError: if they do not hold the same queries, or both are by one model.
        """
        old, new = self.queries_old, self.queries_new
        if old is None and new is None:
            return None
        if old is None or new is None:
            raise ConfigurationError(
                "give the queries by both models, --queries-old and --queries-new: each cell is "
                "asked by the model that its name begins with"
            )
        by_new = onward.Embeddings.load(new)
        by_old = align_files(onward.Embeddings.load(old), by_new, (old, new), "queries")
        if by_old.space == by_new.space:
            raise EvaluationError(
                f"{old} and {new} are both in {by_new.space}",
                "give the queries by the old model with --queries-old, and by the new one with "
                "--queries-new",
            )
        return Queries(by_old, by_new)

    def ask(self, paired: "onward.Embeddings | None" = None) -> "RealQueries | None":
        """Return the real queries, and what they look for.

        Args:
            paired: the same queries by the new model of a pair that answers now, if one does.

        Raises:
            ConfigurationError: if there are none, but something is said about them.
        """
        from onward.evaluation.relevance import RealQueries

        if self.queries is not None:
            return RealQueries(
                *self.queries, self.judgements, self.ignore_unknown, self.same_labels, paired
            )
        for field in sorted(self.said & {"qrels", "same_labels", "queries_paired"}):
            raise ConfigurationError(
                f"--{field.replace('_', '-')} is about real queries, and there are none",
                "give them by both models, --queries-old and --queries-new",
            )
        return None


class Judging(Asked):
    """What is right, and what is measured, where search is evaluated.

    Attributes:
        exclude_self: whether a query's own gallery entry (the same id) is left out.
        ignored: pairs that do not count: a line each, id of a query and id of an item.
        camera_column: column of cameras: what the query's own camera took is ignored.
        metrics: such as ndcg@10,recall@100,mrr@10,map; cmc@1,cmc@5,map unless given.
    """

    of_items: ClassVar[tuple[str, ...]] = ("qrels", "ignored")

    exclude_self: bool
    ignored: Path | None = None
    camera_column: str | None = None
    metrics: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics to measure."""
        from onward.evaluation.metrics import METRICS, parse_metrics

        given = METRICS if self.metrics is None else self.metrics.split(",")
        return parse_metrics(name.strip() for name in given)

    @cached_property
    def pairs_ignored(self) -> dict[str, set[str]] | None:
        """The pairs that do not count, if a file names them."""
        from onward.evaluation.judgements import read_ignored

        return None if self.ignored is None else read_ignored(self.ignored)

    def tell_numbering(self, *cells: "tuple[onward.Embeddings, onward.Embeddings]") -> None:
        """Say so if labels of queries and gallery are compared by number, and may differ."""
        import numpy as np

        for queries, gallery in cells if self.qrels is None else ():
            one, other = queries.labels, gallery.labels
            if one is None or other is None:
                continue
            if queries.ids != gallery.ids or not np.array_equal(one, other):
                names = queries.class_names, gallery.class_names
                tell_numbering(*names, same_labels=self.same_labels)
                break

    def relevance(
        self, queries: "onward.Embeddings", gallery: "onward.Embeddings", cameras: tuple[Path, Path]
    ) -> "onward.Relevance":
        """Return what each query looks for.

        Args:
            queries: what is asked.
            gallery: what is searched.
            cameras: the files with the cameras of queries and of gallery items, if asked for.
        """
        from onward.embedding_files import read_column

        exclude_self, ignore_unknown = self.exclude_self, self.ignore_unknown
        if self.judgements is None:
            relevance = onward.Relevance.between(
                queries, gallery, exclude_self=exclude_self, same_labels=self.same_labels
            )
        else:
            relevance = onward.Relevance.of_qrels(
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


EvaluatedBy = Annotated[
    Judging,
    settings(
        Judging,
        *("exclude_self", "qrels", "ignored", "camera_column"),
        *("same_labels", "ignore_unknown", "metrics"),
        make=Judging,
    ),
]
"""What is right and what is measured, where no queries by both models are asked."""


def align_files(
    one: "onward.Embeddings", other: "onward.Embeddings", paths: tuple[Path, Path], what: str
) -> "onward.Embeddings":
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


class Held(Asked):
    """What is asked, and what it is held to.

    Attributes:
        require: what must be reached besides, such as 'cmc@1 >= 0.95 * new/new' of what is
            predicted, or 'map >= old/old' of canaries, which is their default.
    """

    require: str | None = None

    @cached_property
    def requirement(self) -> "Requirement | None":
        """What must be reached besides, if anything."""
        from onward.upgrading import Requirement

        return None if self.require is None else Requirement.parse(self.require)


class Judges(Held):
    """What an upgrade is judged by; what is wrong with it is said first.

    Attributes:
        queries_paired: where a fused pair answers: the queries by the other model of it.
        sample: true new embeddings of some items, to judge by, and to be written: .parquet.
        margin: points by which search may get worse and the gate be open.
        serve: what is to be served then, and is judged; default: what is advised.
        old_model_gone: no query can be embedded by the old model: nothing is fused.
    """

    queries_paired: Path | None = None
    sample: Path | None = None
    margin: float = Field(1.0, ge=0, le=99)
    serve: Literal["new", "fused"] | None = None
    old_model_gone: bool = False

    def model_post_init(self, context: Any) -> None:
        """Read what the options name."""
        from onward.upgrading.gate import check_asked

        super().model_post_init(context)
        check_asked(self.margin / 100, self.serve, self.old_model_gone)
        _ = self.real_queries, self.embedded, self.requirement

    @cached_property
    def embedded(self) -> "onward.Embeddings | None":
        """The sample."""
        return None if self.sample is None else onward.Embeddings.load(self.sample)

    @cached_property
    def real_queries(self) -> "RealQueries | None":
        """The real queries, and what they look for, if there are any."""
        by_pair = self.queries_paired
        return self.ask(None if by_pair is None else onward.Embeddings.load(by_pair))

    @property
    def are_given(self) -> bool:
        """Whether there is anything to judge by."""
        return self.sample is not None or self.queries is not None


def _read_canaries(**said: Any) -> "Canaries | None":
    """Return the queries that a verification asks, if there are any.

    Raises:
        ConfigurationError: if options are missing, or do not go together.
    """
    from onward.upgrading import Canaries

    given = Held(**said)
    old, new, judged = given.queries_old, given.queries_new, given.judgements
    if new is None:
        if not said:
            return None
        raise ConfigurationError(
            "--canaries-old, --queries-old, --qrels, --same-labels and --require are about "
            "canaries, but there are none",
            "add --canaries FILE or --queries-new FILE, queries embedded by the new model",
        )
    by_new = onward.Embeddings.load(new)
    requirement = given.requirement
    by_old = (
        None
        if old is None
        else align_files(onward.Embeddings.load(old), by_new, (old, new), "queries")
    )
    if judged is not None:
        grades = (judged.get(query, {}).values() for query in by_new.ids)
        unjudged = sum(max(each, default=0) <= 0 for each in grades)
        if unjudged:
            tell(
                f"{unjudged:,} of {len(by_new):,} queries have no relevant item in {given.qrels}: "
                "left out"
            )
    return Canaries(by_new, by_old, judged, requirement, given.same_labels)


AskedCanaries = Annotated[
    "Canaries | None",
    settings(
        Held,
        *("queries_new", "queries_old", "qrels", "require", "same_labels"),
        also={"canaries": "queries_new", "canaries_old": "queries_old"},
        make=_read_canaries,
    ),
]
"""What a verification asks."""
