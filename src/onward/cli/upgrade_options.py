"""Arguments that the commands of `onward upgrade` share, and how they open an upgrade."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onward.cli.judging import (
    IgnoreUnknown,
    Judging,
    Qrels,
    QueriesNew,
    QueriesOld,
    read_queries,
)
from onward.cli.options import SameLabels, takes
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.spaces import Embeddings
    from onward.upgrading import RealQueries, Requirement, Upgrade

TransformationPath = Annotated[Path, typer.Argument(help="Directory written by `fit`.")]
Also = Annotated[
    list[Path] | None,
    typer.Option(
        "--also",
        help="Another transformation to the same space, for rows that lack what those before it "
        "read; may be given more than once.",
    ),
]
ForceStart = Annotated[
    bool,
    typer.Option("--force", help="Start although the gate is closed or cannot judge; logged."),
]
Unjudged = Annotated[
    bool,
    typer.Option("--unjudged", help="Start although nothing says if search gets better; logged."),
]
_JUDGES: dict[str, tuple[Any, Any]] = {
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
            f"{'--qrels' if qrels else '--same-labels'} is about real queries, and there are none; "
            "give them by both models, --queries-old and --queries-new"
        )
    real = None
    if asked is not None:
        real = RealQueries(*asked, judging.judgements, ignore_unknown, same_labels)
    embedded = None if sample is None else Embeddings.load(sample)
    return Judges(embedded, real, read_requirement(require), margin / 100)


takes_judges = takes("judges", _JUDGES, read_judges)
"""Give a command the options that say what an upgrade is judged by, in place of `judges`."""


def open_upgrade(gallery: str, transformation: Path, also: list[Path] | None = None) -> "Upgrade":
    """Return the upgrade of a gallery by a transformation and its fallbacks."""
    from onward.gallery import open_gallery
    from onward.transformation import Transformation
    from onward.upgrading import Upgrade

    fallbacks = (Transformation.load(path) for path in also or ())
    return Upgrade(open_gallery(gallery), Transformation.load(transformation), *fallbacks)


def read_requirement(require: str | None) -> "Requirement | None":
    """Return what is required, if anything is said."""
    from onward.upgrading import Requirement

    return None if require is None else Requirement.parse(require)
