"""`onward search`: the nearest items of a gallery."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onward.cli.options import Device, GalleryUrl
from onward.cli.output import AsJson, show
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.spaces import Embeddings


def search(
    gallery: GalleryUrl,
    queries: Annotated[Path, typer.Argument(help="Embeddings (.parquet), or an image file.")],
    model: Annotated[
        Path | None, typer.Option(help="The query model, where QUERIES is an image.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items a query.")] = 5,
    exclude_self: Annotated[
        bool, typer.Option("--exclude-self", help="Leave out the item with the query's own id.")
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find the nearest items of GALLERY to each of QUERIES.

    Example: onward search photos.lance cat.png --model models/new -k 10
    """
    from onward.gallery import open_gallery
    from onward.spaces import Embeddings

    if queries.suffix == ".parquet":
        asked = Embeddings.load(queries)
    elif model is None:
        raise ConfigurationError(
            f"{queries} is an image, and an image needs a model: add --model DIRECTORY, "
            "or give a .parquet file of embeddings"
        )
    else:
        asked = _embed_file(model, queries, device)
    show(open_gallery(gallery).search(asked, k, exclude_self=exclude_self), as_json)


def _embed_file(model: Path, image: Path, device: str) -> "Embeddings":
    import numpy as np

    from onward.data.items import Items
    from onward.models import EmbeddingModel

    where = {"path": os.path.realpath(image)}
    item = Items((str(image),), np.zeros(1, np.int64), {0: "unknown"}, (where,), str(image))
    embedded = EmbeddingModel.load(model).embed(item, device=device)
    return replace(embedded, labels=None)
