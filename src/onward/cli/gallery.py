"""`onward gallery`: make a gallery, add to it, take from it, look at it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from onward.cli.options import GalleryUrl
from onward.cli.output import AsJson, show, show_fields

app = typer.Typer(no_args_is_help=True, help="Make a gallery, add to it, take from it, look at it.")

Files = Annotated[
    list[Path], typer.Argument(help="Embeddings of the same items, one .parquet a space.")
]
Payloads = Annotated[
    Path | None, typer.Option(help="JSON lines: {id, ...}: where each item's image is, and so on.")
]


@app.command()
def create(gallery: GalleryUrl, embeddings: Files, payloads: Payloads = None) -> None:
    """Make GALLERY from embeddings; the first file's space answers queries.

    Example: onward gallery create photos.lance old.parquet side.parquet
    """
    from onward.gallery import create_gallery
    from onward.spaces import Embeddings

    loaded = [Embeddings.load(path) for path in embeddings]
    spaces = [each.space for each in loaded]
    where = _read_payloads(payloads, loaded[0].ids)
    made = create_gallery(gallery, *spaces, serving=spaces[0], query_model=spaces[0].name)
    made.add(*loaded, payloads=where)
    show(made.describe(), as_json=False)


@app.command()
def add(gallery: GalleryUrl, embeddings: Files, payloads: Payloads = None) -> None:
    """Add items to GALLERY: old embedding and side-information, or the new model's embedding.

    Example: onward gallery add photos.lance more-old.parquet more-side.parquet
    """
    from onward.gallery import open_gallery
    from onward.spaces import Embeddings

    loaded = [Embeddings.load(path) for path in embeddings]
    opened = open_gallery(gallery)
    opened.add(*loaded, payloads=_read_payloads(payloads, loaded[0].ids))
    show(opened.describe(), as_json=False)


@app.command()
def delete(
    gallery: GalleryUrl,
    ids: Annotated[list[str], typer.Argument(help="Ids of the items to delete.")],
    as_json: AsJson = False,
) -> None:
    """Delete items from GALLERY.

    Example: onward gallery delete photos.lance cat-17 cat-18
    """
    from onward.gallery import open_gallery

    show_fields({"deleted": open_gallery(gallery).delete(ids)}, as_json)


@app.command()
def describe(gallery: GalleryUrl, as_json: AsJson = False) -> None:
    """Say what GALLERY holds and which space answers queries.

    Example: onward gallery describe photos.lance --json
    """
    from onward.gallery import open_gallery

    show(open_gallery(gallery).describe(), as_json)


@app.command()
def export(
    gallery: GalleryUrl,
    out: Annotated[Path, typer.Argument(help="Embeddings to write: .parquet.")],
    space: Annotated[
        str | None, typer.Option(help="Name of the space; default: the one that answers queries.")
    ] = None,
) -> None:
    """Write the vectors of GALLERY in one space to a file.

    Example: onward gallery export photos.lance upgraded.parquet
    """
    from onward.errors import GalleryError
    from onward.gallery import open_gallery

    opened = open_gallery(gallery)
    description = opened.describe()
    by_name = {each.name: each for each in description.spaces}
    if space is not None and space not in by_name:
        raise GalleryError(f"{gallery} has no space {space!r}; it has {', '.join(by_name)}")
    embeddings = opened.read(by_name[space] if space else description.serving)
    embeddings.save(out)
    typer.echo(str(embeddings))


def _read_payloads(path: Path | None, ids: tuple[str, ...]) -> list[dict[str, object]] | None:
    from onward.errors import GalleryError

    if path is None:
        return None
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    by_id = {row.pop("id", None): row for row in rows}
    missing = [item for item in ids if item not in by_id]
    if missing:
        raise GalleryError(
            f"{path} has no payload for {len(missing)} of {len(ids)} items, the first "
            f"{missing[0]!r}; write a line of JSON with an `id` for each item"
        )
    return [by_id[item] for item in ids]
