"""`onward gallery`: make a gallery, add to it, take from it, look at it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from onward.cli.options import GalleryUrl
from onward.cli.output import AsJson, show, show_fields
from onward.errors import GalleryError

app = typer.Typer(no_args_is_help=True, help="Make a gallery, add to it, take from it, look at it.")

Files = Annotated[
    list[Path], typer.Argument(help="Embeddings of the same items, one .parquet a space.")
]
Payloads = Annotated[
    Path | None, typer.Option(help='JSON lines, {"id": ..., ...}: what to keep with each item.')
]


@app.command()
def create(
    gallery: GalleryUrl, embeddings: Files, payloads: Payloads = None, as_json: AsJson = False
) -> None:
    """Make GALLERY from embeddings; the first file's space answers queries.

    Example: onward gallery create photos.lance old.parquet side.parquet
    """
    from onward.gallery import create_gallery
    from onward.spaces import Embeddings

    loaded = [Embeddings.load(path) for path in embeddings]
    spaces = [each.space for each in loaded]
    where = _read_payloads(payloads, loaded[0].ids)
    made = create_gallery(
        gallery,
        *spaces,
        serving=spaces[0],
        query_model=spaces[0].name,
        items=loaded,
        payloads=where,
    )
    show(made.describe(), as_json)


@app.command()
def add(
    gallery: GalleryUrl, embeddings: Files, payloads: Payloads = None, as_json: AsJson = False
) -> None:
    """Add items to GALLERY: old embedding and side-information, or the new model's embedding.

    Example: onward gallery add photos.lance more-old.parquet more-side.parquet
    """
    from onward.gallery import open_gallery
    from onward.spaces import Embeddings

    loaded = [Embeddings.load(path) for path in embeddings]
    opened = open_gallery(gallery)
    opened.add(*loaded, payloads=_read_payloads(payloads, loaded[0].ids))
    show(opened.describe(), as_json)


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
    as_json: AsJson = False,
) -> None:
    """Write the vectors of GALLERY in one space to a file.

    Example: onward gallery export photos.lance upgraded.parquet
    """
    from onward.gallery import open_gallery

    opened = open_gallery(gallery)
    description = opened.describe()
    by_name = {each.name: each for each in description.spaces}
    if space is not None and space not in by_name:
        raise GalleryError(f"{gallery} has no space {space!r}; it has {', '.join(by_name)}")
    embeddings = opened.read(by_name[space] if space else description.serving)
    embeddings.save(out)
    fields = {"items": len(embeddings), "space": str(embeddings.space), "written": [str(out)]}
    show_fields(fields, as_json)


def _read_payloads(path: Path | None, ids: tuple[str, ...]) -> list[dict[str, Any]] | None:
    """Return the payload of each item, from JSON lines in any order.

    Raises:
        GalleryError: naming the line that is none, or the item that has none.
    """
    if path is None:
        return None
    by_id: dict[str, dict[str, Any]] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    item, payload = _read_payload(f"line {number} of {path}", line)
                    if item in by_id:
                        raise GalleryError(
                            f"line {number} of {path} is the second one for item {item!r}; "
                            "give one line an item"
                        )
                    by_id[item] = payload
    except UnicodeDecodeError as error:
        raise GalleryError(f"{path} is no text in UTF-8: {error}. {_PAYLOAD_LINES}") from error
    missing = [item for item in ids if item not in by_id]
    if missing:
        raise GalleryError(
            f"{path} has no payload for {len(missing)} of {len(ids)} items, the first "
            f"{missing[0]!r}. {_PAYLOAD_LINES}"
        )
    return [by_id[item] for item in ids]


def _read_payload(where: str, line: str) -> tuple[str, dict[str, Any]]:
    try:
        payload = json.loads(line)
    except ValueError as error:
        raise GalleryError(f"{where} is no JSON: {error}. {_PAYLOAD_LINES}") from error
    if not isinstance(payload, dict) or not isinstance(payload.get("id"), str):
        raise GalleryError(f"{where} is no JSON object with a string as `id`. {_PAYLOAD_LINES}")
    return payload.pop("id"), payload


_PAYLOAD_LINES = (
    "Write a line of JSON for each item, such as " + '{"id": "cat-17", "path": "17.jpg"}'
)
