"""Which columns of image Parquet hold the images, the labels and the ids."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onward.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "fine_label", "labels")


@dataclass(frozen=True)
class WantedColumns:
    """Columns as the user named them; None is found by type and name."""

    image: str | None = None
    label: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class Columns:
    """Columns that are there and have the right types; `id` is None where rows number the items."""

    image: str
    label: str
    id: str | None


def read_schema(shard: Path) -> "pa.Schema":
    """Return the schema of a Parquet file.

    Raises:
        DataError: if the file cannot be read or is no Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(shard)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{shard} is not a readable Parquet file: {error}. Fetch it again, or give an image "
            "folder or a folder of Parquet shards"
        ) from error


def choose_columns(file: Path, schema: "pa.Schema", wanted: WantedColumns) -> Columns:
    """Return the columns to use: those wanted, and where none is wanted those that stand out.

    The image column is the only struct `{bytes, path}`, or of several the one called `image` or
    `img`. The label column is `label`, `fine_label` or `labels`, or else the only integer column.

    Raises:
        DataError: if a column wanted is missing or of a wrong type, or there is no single choice;
            the message lists the columns there are.
    """
    import pyarrow as pa

    there = ", ".join(f"{field.name} ({field.type})" for field in schema)
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise DataError(
            f"{file} has two columns {twice[0]!r}; its columns are {there}. Write it again with "
            "names that differ"
        )
    for name in (wanted.image, wanted.label, wanted.id):
        if name is not None and name not in schema.names:
            raise DataError(f"{file} has no column {name!r}; its columns are {there}")
    images = [field.name for field in schema if _is_image_type(field.type)]
    numbers = [f.name for f in schema if pa.types.is_integer(f.type) and f.name != wanted.id]
    image = wanted.image or _pick(images, IMAGE_NAMES)
    label = wanted.label or _pick(numbers, LABEL_NAMES)
    if image is None or label is None:
        missing = (
            "image column, a struct {bytes, path}" if image is None else "integer label column"
        )
        option = "image" if image is None else "label"
        raise DataError(
            f"{file} has no single {missing}; its columns are {there}. Name one: "
            f"--{option}-column ({option}_column=...)"
        )
    for name, fits, needed in (
        (image, image in images, "images need a struct with a binary field 'bytes'"),
        (label, label in numbers, "labels need integers"),
        (wanted.id, wanted.id is None or _is_id_type(schema, wanted.id), "ids need strings"),
    ):
        if not fits:
            raise DataError(f"column {name!r} of {file} is {schema.field(name).type}; {needed}")
    return Columns(image, label, wanted.id)


def class_names(schema: "pa.Schema", label: str) -> list[str]:
    """Return the names of a `ClassLabel` in the metadata that the `datasets` library writes."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def check_alike(first: Path, other: Path, columns: Columns) -> None:
    """Refuse shards whose columns in use differ in type, or whose classes are named differently.

    Raises:
        DataError: naming both files and the column.
    """
    schema, found = read_schema(first), read_schema(other)
    for column in filter(None, (columns.image, columns.label, columns.id)):
        there = found.field(column).type if column in found.names else "not there"
        if there != schema.field(column).type:
            raise DataError(
                f"column {column!r} of {other} is {there}, that of {first} is "
                f"{schema.field(column).type}; the shards of a data set have the same columns"
            )
    if class_names(found, columns.label) != class_names(schema, columns.label):
        raise DataError(
            f"{other} and {first} give the classes of {columns.label!r} different names; "
            "the shards of a data set have the same classes"
        )


def _pick(found: list[str], preferred: Sequence[str]) -> str | None:
    named = [name for name in preferred if name in found]
    if named:
        return named[0]
    return found[0] if len(found) == 1 else None


def _is_image_type(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    content = kind.field("bytes").type
    return bool(pa.types.is_binary(content) or pa.types.is_large_binary(content))


def _is_id_type(schema: "pa.Schema", column: str) -> bool:
    import pyarrow as pa

    kind = schema.field(column).type
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(texts or pa.types.is_integer(kind))
