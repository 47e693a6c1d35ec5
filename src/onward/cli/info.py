"""`onward info`: say what a file or a directory is."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onward.cli.gallery import steps_of_gallery
from onward.cli.output import AsJson, show
from onward.cli.reading import takes_data
from onward.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from onward.data.sources import Stated


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


@takes_data
def info(
    path: Annotated[
        Path, typer.Argument(help="A model, a transformation, embeddings, a gallery, images.")
    ],
    stated: "Stated",
    as_json: AsJson = False,
) -> None:
    """Say what PATH holds: its spaces, its sizes and what made it; of images, how they are read.

    The options say how images are read, as for `train`.

    Example: onward info runs/demo/models/new
    """
    from onward.data.sources import DIGITS, Stated

    if str(path) == DIGITS or _holds_images(path):
        show(_data(path, stated), as_json)
        return
    if stated != Stated():
        raise ConfigurationError(
            f"{path} holds no images, and these options say how images are read; leave them out"
        )
    show(_describe(path), as_json)


def _describe(path: Path) -> Information:
    if (path / "config.json").is_file():
        return _artifact(path)
    if _holds_vectors(path):
        return _embeddings(path)
    if path.is_dir():
        return _gallery(path)
    raise ArtifactError(
        f"{path} is not a model, a transformation, embeddings, a gallery or images; "
        "give a directory that Onward wrote, a .parquet file of embeddings, or a folder of images"
    )


def _holds_vectors(path: Path) -> bool:
    return path.suffix == ".parquet" or (path.is_dir() and _first_shard(path) is not None)


def _holds_images(path: Path) -> bool:
    """Say whether something is a source of images rather than what Onward wrote."""
    if (path / "config.json").is_file() or _is_gallery(path):
        return False
    shard = path if path.is_file() else _first_shard(path) if path.is_dir() else None
    if shard is None:
        return path.is_dir() and any(path.iterdir())
    if shard.suffix.lower() != ".parquet":
        return False
    from onward.data.parquet_columns import read_schema

    return "vector" not in read_schema(shard).names


def _first_shard(folder: Path) -> Path | None:
    from onward.data.shards import find_shards

    return None if _is_gallery(folder) else next(iter(find_shards(folder).shards), None)


def _is_gallery(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.lance"))


def _data(path: Path, stated: "Stated") -> Information:
    from onward.data.sources import describe_data

    description = describe_data(str(path), stated)
    fields = {**description.to_json(), "kind": "images", "layout": description.kind}
    return Information(fields, str(description))


def _gallery(path: Path) -> Information:
    from onward.gallery import open_gallery

    description = open_gallery(str(path)).describe()
    fields = {"kind": "gallery", **description.to_json()}
    fields["next_steps"] = steps_of_gallery(description)
    return Information(fields, str(description))


def _embeddings(path: Path) -> Information:
    from onward.spaces import Embeddings

    embeddings = Embeddings.load(path)
    known = embeddings.labels
    unknown = 0 if known is None else int((known < 0).sum())
    names = None if embeddings.class_names is None else len(embeddings.class_names)
    fields = {
        "kind": "embeddings",
        "space": embeddings.space.to_json(),
        "format": embeddings.space.format,
        "bytes": embeddings.space.bytes,
        "items": len(embeddings),
        "labels": known is not None,
        "unknown_labels": unknown,
        "named_classes": names,
        "origins": embeddings.count_origins(),
    }
    stored = f"{embeddings.space.bytes:,} bytes an item ({embeddings.space.format})"
    labels = "without labels" if known is None else "with labels without class names"
    if names is not None:
        labels = f"with labels of {names:,} named classes"
    labels += f", of {unknown:,} items not known" if unknown else ""
    if embeddings.origins is not None:
        counts = embeddings.count_origins().items()
        labels += f", {' and '.join(f'{count:,} {origin}' for origin, count in counts)}"
    return Information(fields, f"{embeddings}, {stored}, {labels}")


def _artifact(path: Path) -> Information:
    from onward.artifacts import read_artifact, read_header

    header = read_header(path)
    artifact = read_artifact(path, header["kind"])  # checks every file
    fields = {"kind": header["kind"], **header["config"], "made_by": header["made_by"]}
    return Information({**fields, "digest": header["digest"]}, artifact.card.strip())
