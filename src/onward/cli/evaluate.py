"""`onward evaluate`: how well queries find what they should."""

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
)
from onward.cli.options import EmbeddingsFile, SameLabels
from onward.cli.output import AsJson, show, tell
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.spaces import Embeddings
    from onward.verification import VerificationRates


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
    evaluation = judging.evaluate(asked, searched, (queries, gallery))
    show(evaluation, as_json, also=_tell_of_origins(searched))


def _tell_of_origins(gallery: "Embeddings") -> dict[str, dict[str, int]]:
    """Say so where a gallery's vectors came to be in several ways; return that for a machine."""
    counts = gallery.count_origins()
    if len(counts) < 2:
        return {}
    said = ", ".join(f"{count:,} {origin}" for origin, count in counts.items())
    tell(
        f"the gallery's vectors are of several origins ({said}); all are judged as they are "
        "stored. h alone is told by: onward compare"
    )
    return {"gallery_origins": counts}


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
