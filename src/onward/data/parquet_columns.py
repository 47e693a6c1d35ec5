"""Which columns of image Parquet hold the images, the labels and the ids."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onward.embedding_files import hub_class_names
from onward.errors import DataError
from onward.labels import is_text

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = (
    "label", "labels", "fine_label", "fine_labels", "class", "class_id", "class_label", "category",
    "target", "targets", "y",
)  # fmt: skip
"""What a column of labels is called; a column that is called otherwise is taken if it is stated, or
if the file's metadata calls it one (`ClassLabel`)."""


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

    def __str__(self) -> str:
        ids = "file and row" if self.id is None else f"the column {self.id!r}"
        return f"images in the column {self.image!r}, labels in {self.label!r}, ids by {ids}"

    def to_json(self) -> dict[str, str | None]:
        """Return the names; `id` is null where file and row make the ids."""
        return {"image": self.image, "label": self.label, "id": self.id}


def read_schema(shard: Path) -> "pa.Schema":
    """Return the schema of a Parquet file.

    Raises:
        DataError: if the file cannot be read or is no Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not is_text(str(shard)):
        raise DataError(f"the path {str(shard)!r} is not UTF-8, and payloads are text", "rename it")
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
    `img`. The label column holds integers or strings and is one that the metadata calls a
    `ClassLabel`, or else one that is called like a label (`LABEL_NAMES`); of several, `fine_label`
    goes before `coarse_label`. Another column is not taken for labels because it is the only one.

    Raises:
        DataError: if a column wanted is missing or of a wrong type, or there is no single choice;
            the message lists the columns there are.
    """
    there = ", ".join(f"{field.name} ({field.type})" for field in schema)
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise DataError(
            f"{file} has two columns {twice[0]!r}",
            f"its columns are {there}. Write it again with names that differ",
        )
    for name in (wanted.image, wanted.label, wanted.id):
        if name is not None and name not in schema.names:
            raise DataError(f"{file} has no column {name!r}", f"its columns are {there}")
    images = [field.name for field in schema if _is_image_type(field.type)]
    image = wanted.image or _pick_image(images)
    labels = [wanted.label] if wanted.label else _find_labels(schema, wanted.id)
    if image is None or len(labels) != 1:
        option, missing = "image", "single image column, a struct {bytes, path}"
        if image is not None:
            option, missing = "label", "column that is known for the labels"
            if labels:
                missing = f"single column of labels: {' and '.join(labels)} may be meant"
        raise DataError(
            f"{file} has no {missing}",
            f"its columns are {there}. Name one: --{option}-column NAME ({option}_column=...)",
        )
    for name, fits, needed in (
        (image, image in images, "images need a struct with a binary field 'bytes'"),
        (labels[0], _is_label_type(schema, labels[0]), "labels need integers or strings"),
        (wanted.id, wanted.id is None or _is_id_type(schema, wanted.id), "ids need strings"),
    ):
        if not fits:
            raise DataError(f"column {name!r} of {file} is {schema.field(name).type}", f"{needed}")
    return Columns(image, labels[0], wanted.id)


def _pick_image(found: list[str]) -> str | None:
    named = [name for name in found if name.lower() in IMAGE_NAMES]
    single = named or found
    return single[0] if len(single) == 1 else None


def _find_labels(schema: "pa.Schema", used: str | None) -> list[str]:
    """Return the columns that may hold the labels: one where it is clear."""
    fitting = [name for name in schema.names if name != used and _is_label_type(schema, name)]
    stated = [name for name in fitting if class_names(schema, name)]
    named = [name for name in fitting if name.lower() in LABEL_NAMES]
    found = [name for name in fitting if name in stated or name in named]
    found = [name for name in found if name.lower() != "coarse_label"] or found
    both = [name for name in found if name in stated and name in named]
    return both if len(both) == 1 else found


def has_numbers(schema: "pa.Schema", column: str) -> bool:
    """Say whether a column holds integers."""
    import pyarrow as pa

    return bool(pa.types.is_integer(schema.field(column).type))


def has_strings(schema: "pa.Schema", column: str) -> bool:
    """Say whether there is such a column and it holds strings."""
    there = column in schema.names and _is_label_type(schema, column)
    return there and not has_numbers(schema, column)


def class_names(schema: "pa.Schema", label: str) -> list[str]:
    """Return the names of a `ClassLabel` in the metadata that the `datasets` library writes."""
    return list(hub_class_names(schema.metadata, label).values())


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
                f"{schema.field(column).type}",
                "the shards of a data set have the same columns",
            )
    if class_names(found, columns.label) != class_names(schema, columns.label):
        raise DataError(
            f"{other} and {first} give the classes of {columns.label!r} different names",
            "the shards of a data set have the same classes",
        )


def _is_image_type(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    content = kind.field("bytes").type
    return bool(pa.types.is_binary(content) or pa.types.is_large_binary(content))


def _is_id_type(schema: "pa.Schema", column: str) -> bool:
    import pyarrow as pa

    kind = schema.field(column).type
    return bool(_is_string(kind) or pa.types.is_integer(kind))


def _is_label_type(schema: "pa.Schema", column: str) -> bool:
    import pyarrow as pa

    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        return _is_string(kind.value_type)
    return bool(_is_string(kind) or pa.types.is_integer(kind))


def _is_string(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )
