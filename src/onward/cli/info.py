"""`onward info`: say what a file or a directory is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from onward.cli.gallery import steps_of_gallery
from onward.cli.output import AsJson, show
from onward.errors import ArtifactError


@dataclass(frozen=True)
class Information:
    """What something is: fields for a machine, text for a person."""

    fields: dict[str, Any]
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return self.fields

    def __str__(self) -> str:
        return self.text


def info(
    path: Annotated[Path, typer.Argument(help="A model, a transformation, embeddings, a gallery.")],
    as_json: AsJson = False,
) -> None:
    """Say what PATH holds: its spaces, its sizes and what made it.

    Example: onward info runs/demo/models/new
    """
    show(_describe(path), as_json)


def _describe(path: Path) -> Information:
    if path.suffix == ".parquet":
        return _embeddings(path)
    if (path / "config.json").is_file():
        return _artifact(path)
    if path.is_dir():
        from onward.gallery import open_gallery

        description = open_gallery(str(path)).describe()
        fields = {"kind": "gallery", **description.to_json()}
        fields["next_steps"] = steps_of_gallery(description)
        return Information(fields, str(description))
    raise ArtifactError(
        f"{path} is no model, transformation, embeddings or gallery; "
        "give a directory that Onward wrote or a .parquet file of embeddings"
    )


def _embeddings(path: Path) -> Information:
    from onward.spaces import Embeddings

    embeddings = Embeddings.load(path)
    labelled = embeddings.labels is not None
    fields = {
        "kind": "embeddings",
        "space": embeddings.space.to_json(),
        "format": embeddings.space.format,
        "bytes": embeddings.space.bytes,
        "items": len(embeddings),
        "labels": labelled,
    }
    stored = f"{embeddings.space.bytes:,} bytes an item ({embeddings.space.format})"
    labels = f"{'with' if labelled else 'without'} labels"
    return Information(fields, f"{embeddings}, {stored}, {labels}")


def _artifact(path: Path) -> Information:
    from onward.artifacts import read_artifact, read_header

    header = read_header(path)
    artifact = read_artifact(path, header["kind"])  # checks every file
    fields = {"kind": header["kind"], **header["config"], "made_by": header["made_by"]}
    return Information({**fields, "digest": header["digest"]}, artifact.card.strip())
