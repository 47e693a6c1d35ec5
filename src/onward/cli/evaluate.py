"""`onward evaluate`: how well queries find what they should."""

from typing import Annotated

import typer

from onward.cli.options import EmbeddingsFile
from onward.cli.output import AsJson, show

ExcludeSelf = Annotated[
    bool,
    typer.Option(
        "--exclude-self/--include-self",
        help="Whether a query's own gallery entry (the same id) is left out.",
    ),
]


def evaluate(
    queries: EmbeddingsFile,
    gallery: EmbeddingsFile,
    exclude_self: ExcludeSelf,
    as_json: AsJson = False,
) -> None:
    """Evaluate the search of QUERIES in GALLERY by labels: cmc@1, cmc@5 and map, exact.

    Example: onward evaluate new.parquet upgraded.parquet --exclude-self
    """
    from onward.compatibility import evaluate_embeddings
    from onward.spaces import Embeddings

    asked, searched = Embeddings.load(queries), Embeddings.load(gallery)
    show(evaluate_embeddings(asked, searched, exclude_self=exclude_self), as_json)
