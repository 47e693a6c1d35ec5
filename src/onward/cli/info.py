"""`onward info`: say what a file or a directory is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from onward.cli.output import AsJson, show_fields
from onward.errors import ArtifactError


def info(
    path: Annotated[Path, typer.Argument(help="A model, a transformation, embeddings, a gallery.")],
    as_json: AsJson = False,
) -> None:
    """Say what PATH holds: its spaces, its sizes and what made it.

    Example: onward info runs/demo/models/new
    """
    show_fields(_describe(path), as_json)


def _describe(path: Path) -> dict[str, Any]:
    from onward.artifacts import read_header

    if path.suffix in (".parquet", ".npy"):
        from onward.spaces import Embeddings

        embeddings = Embeddings.load(path)
        labelled = embeddings.labels is not None
        return {
            "kind": "embeddings",
            "space": str(embeddings.space),
            "items": len(embeddings),
            "labels": labelled,
        }
    if (path / "config.json").is_file():
        header = read_header(path)
        return {
            "kind": header["kind"],
            **header["config"],
            "made_by": header["made_by"],
            "digest": header["digest"],
        }
    if path.is_dir():
        from onward.gallery import open_gallery

        return {"kind": "gallery", **open_gallery(str(path)).describe().to_json()}
    raise ArtifactError(
        f"{path} is no model, transformation, embeddings or gallery; "
        "give a directory that Onward wrote or a .parquet file of embeddings"
    )
