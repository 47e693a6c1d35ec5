"""Parquet as the Hugging Face hub has it: shards, their columns, and single images or texts in it.

```
data/train-00000-of-00003.parquet     part train
default/validation/0000.parquet       part validation
cifar10-test.parquet                  part test
clean/train.parquet  noisy/train.parquet      configurations clean and noisy, each with a train part
```

A struct column `{bytes, path}` holds image files, or a column of strings texts; a column of
integers or strings the labels, which texts may lack. Class names may stand in the schema's
metadata, and strings are names. Labels and ids are read when a data set is opened, images and texts
only where what is bad is to be left out.
"""

import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePath
from threading import Lock
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onward.data.folders import Folder, summarise
from onward.data.items import Items, natural_key, number_classes
from onward.data.parts import (
    ORDER,
    STATE_PARTS,
    Found,
    Part,
    Source,
    Stated,
    names_of,
    split_name,
)
from onward.embedding_files import hub_class_names, is_text_type
from onward.errors import ConfigurationError, DataError
from onward.labels import LARGEST_LABEL, is_text
from onward.plain import Plain

SUFFIX = ".parquet"
SHARD = re.compile(r"(.*)-([0-9]+)-of-([0-9]+)(-[0-9a-f]{16})?")
NUMBER = re.compile(r"[-_.]?(?<![0-9])(?!(?:19|20)[0-9]{2}$)[0-9]+$")  # but no year
EVERY = "*"
NOT_PARQUET = "files that are not Parquet"

IMAGE_NAMES = ("image", "img")
TEXT_NAME, ID_NAME = "text", "_id"  # so BEIR calls them
LABEL_NAMES = (
    "label", "labels", "fine_label", "fine_labels", "class", "class_id", "class_label", "category",
    "target", "targets", "y",
)  # fmt: skip
"""What a column of labels is called; a column that is called otherwise is taken if it is stated, or
if the file's metadata calls it one (`ClassLabel`)."""

HELD_BYTES = 256 << 20
"""How much of the row groups read last is held, or one of them if it alone is larger: so reading a
file from top to bottom decodes each group once."""

GroupKey = tuple[str, int, int, str, int]


@dataclass(frozen=True)
class Columns(Plain):
    """Columns that are there and have the right types.

    Attributes:
        image: of images; None where the items are texts.
        label: None where texts have none.
        id: None where rows number the items.
        text: of texts; None where the items are images.
    """

    image: str | None
    label: str | None
    id: str | None
    text: str | None = None

    @property
    def item(self) -> str:
        """The column that holds the items."""
        return self.image or self.text or ""

    def __str__(self) -> str:
        ids = "file and row" if self.id is None else f"the column {self.id!r}"
        labels = f", labels in {self.label!r}" if self.label else ""
        kind = "images" if self.image else "texts"
        return f"{kind} in the column {self.item!r}{labels}, ids by {ids}"


@dataclass(frozen=True)
class Shard:
    """A Parquet file of a data set.

    Attributes:
        path: where it is.
        part: the part that its path within the data set names.
        config: what else its path names, if it names a part: the hub's configuration, "" without.
    """

    path: Path
    part: Part
    config: str

    @classmethod
    def of(cls, path: Path, folder: Path) -> "Shard":
        """Return what the path of a shard within its data set tells.

        Raises:
            DataError: if it names two parts, such as `train/test.parquet`.
        """
        *above, stem = path.relative_to(folder).with_suffix("").parts
        numbered = SHARD.fullmatch(stem)
        words = [split_name(name.removeprefix("split=")) for name in above]  # so Spark writes it
        word, role, rest = split_name(NUMBER.sub("", numbered[1] if numbered else stem))
        words.append((word, role, rest if role else ""))  # a stem without a part is any name
        parts = [Part(word, role) for word, role, _ in words if role]
        if len({part.role for part in parts}) > 1:
            raise DataError(
                f"{path} names two parts, {parts[0].name!r} and {parts[-1].name!r}",
                "rename the file or its folder after the one that it belongs to",
            )
        config = "/".join(rest for _, _, rest in words if rest)
        return cls(path, parts[-1] if parts else Part(""), config)


def find_shards(folder: Folder) -> list[Path]:
    """Return the Parquet files in and below a folder, in natural order; a single file as it is.

    Raises:
        DataError: if there are some, and a folder cannot be read that may hold others.
    """
    if folder.path.is_file():
        return [folder.path]
    below = [*folder.below()]
    shards = [file for one in below for file in one.files if file.suffix.lower() == SUFFIX]
    for one in below if shards else ():
        if one.error is not None:
            raise one.error
    return sorted(shards, key=lambda path: natural_key(path.relative_to(folder.path).as_posix()))


class ImageParquet(Source):
    """A Parquet file of images or texts, or a folder of shards."""

    kind = "image Parquet"

    def __init__(self, folder: Folder, stated: Stated) -> None:
        path, found = folder.path, find_shards(folder)
        shards = [
            Shard(path, Part(""), "") if file == path else Shard.of(file, path) for file in found
        ]
        below = [*folder.below()]
        passed = [each for one in below for each in one.passed_over]
        others = (file for one in below for file in one.files if file.suffix.lower() != SUFFIX)
        self.passed_over = summarise([*passed, *((NOT_PARQUET, file) for file in others)], path)
        self.shards = _of_config(shards, stated.config, path)
        self.config = self.shards[0].config if stated.config is not None else ""
        there = {shard.part for shard in self.shards}
        parts = sorted(there, key=lambda part: (ORDER.index(part.role), part.name))
        super().__init__(path, stated, parts)
        if len(parts) > 1 and Part("") in parts and not self.named_parts:
            loose = next(shard.path.name for shard in self.shards if shard.part == Part(""))
            raise DataError(
                f"{path} holds the parts {names_of([part for part in parts if part.name])}, and "
                f"files of no part, such as {loose}. Say which parts are meant: {STATE_PARTS}"
            )

    def open(self, parts: Sequence[Part]) -> Items:
        """List the items of some parts, in the order of shards and rows.

        Ids come from the id column. Without one they are the shard's path within the folder and the
        row in it, "train-00000-of-00003/000017", and do not change when other shards come or go. A
        negative label means that the class is not known, as in the test parts of the hub.

        Raises:
            DataError: if a file is not Parquet, a column is missing or of a wrong type, shards
                differ, or a row cannot be used; the message names file and row.
        """
        shards = [shard for shard in self.shards if shard.part in parts]
        if self.path.is_dir():
            _check_whole([shard.path for shard in shards])
        columns = choose_columns(shards[0].path, self.stated)
        self.kind = "image Parquet" if columns.image else "text Parquet"
        for shard in shards:
            _check_alike(shards[0].path, shard.path, columns)
        numbers, names = self._number_labels(shards[0].path, columns)
        rows = (row for shard in shards for row in self._rows(shard, columns, numbers, names))
        return replace(self.collect(rows, names, self.passed_over), columns=columns)

    def _number_labels(
        self, first: Path, columns: Columns
    ) -> tuple[Mapping[str, int] | None, Mapping[int, str]]:
        """Return the label of each string, None where labels are numbers; and each label's name."""
        schema = read_schema(first)
        if columns.label is None:
            return None, {}
        if _kind_of(schema, columns.label) == "numbers":
            return None, hub_class_names(schema.metadata, columns.label)
        found: set[str] = set()
        for shard in (shard.path for shard in self.shards if shard.part in self.numbered):
            if _kind_of(read_schema(shard), columns.label) == "strings":
                values = _read_columns(shard, [columns.label])[columns.label]
                found |= {value for value in values.unique().to_pylist() if value}
        numbers = number_classes(found, f"the labels of {self.path}")
        return numbers, {number: name for name, number in numbers.items()}

    def _rows(
        self,
        shard: Shard,
        columns: Columns,
        numbers: Mapping[str, int] | None,
        names: Mapping[int, str],
    ) -> Iterator[Found]:
        file, folder = str(shard.path.absolute()), self.path
        prefix = shard.path.relative_to(folder if folder.is_dir() else folder.parent)
        table = _read_columns(shard.path, [*filter(None, [columns.label, columns.id])])
        rows = range(read_rows(shard.path))
        ids = [f"{prefix.with_suffix('').as_posix()}/{row:06}" for row in rows]
        if columns.id:
            ids = table[columns.id].to_pylist()
        labels = table[columns.label].to_pylist() if columns.label else [-1 for _ in rows]
        for row, item, given in zip(rows, ids, labels, strict=True):
            fault, label = None, given if numbers is None else numbers.get(given, 0)
            if given in (None, ""):
                fault = f"has {'a null' if given is None else 'an empty'} label ({columns.label})"
            elif label > LARGEST_LABEL:
                fault = f"has label {label} ({columns.label}), above {LARGEST_LABEL}"
            elif item in (None, ""):
                fault = f"has {'a null' if item is None else 'an empty'} id ({columns.id})"
            elif names and label >= 0 and label not in names:
                fault = f"has label {label} ({columns.label}), but there are {len(names)} classes"
            payload = {"file": file, "row": row, "column": columns.item}
            number = 0 if fault else max(label, -1)
            yield Found(str(item), number, payload, f"{file}, row {row}", shard.part, fault)


def _of_config(shards: Sequence[Shard], config: str | None, source: object) -> list[Shard]:
    """Return the shards of one configuration: its name or the last part of it, `EVERY` for all.

    Raises:
        DataError: if there are several and none is named, or there is none of this name.
    """
    names = sorted({shard.config for shard in shards}, key=natural_key)
    if config == EVERY or (config is None and len(names) == 1):
        return list(shards)
    exact = [name for name in names if name == config]
    chosen = exact or [name for name in names if config and PurePath(name).name == config]
    if len(chosen) != 1:
        there = ", ".join(repr(name) for name in names)
        raise DataError(
            f"{source} holds {len(names)} configurations, and images may stand in each of them: "
            f"{there}. Name one: config=...; all of them are '*'"
            if config is None
            else f"{source} has no configuration {config!r}; it has {there}"
        )
    return [shard for shard in shards if shard.config == chosen[0]]


def _check_whole(shards: Sequence[Path]) -> None:
    """Refuse a data set of which a shard is missing, or that was written twice.

    Names like `train-00000-of-00003` tell it.
    """
    there: dict[tuple[Path, str], dict[int, tuple[Path, re.Match[str]]]] = {}
    for shard in shards:
        if named := SHARD.fullmatch(shard.stem):
            numbers = there.setdefault((shard.parent, named[1]), {})
            first, its = next(iter(numbers.values()), (shard, named))
            if numbers.setdefault(int(named[2]), (shard, named))[0] != shard or its[3] != named[3]:
                raise DataError(
                    f"{first} and {shard.name} are shards of one part that was written twice",
                    "remove the older files, or give one file",
                )
    for numbers in there.values():
        shard, named = next(iter(numbers.values()))
        for number in range(int(named[3])):
            if number not in numbers:
                name = f"{named[1]}-{number:0{len(named[2])}}-of-{named[3]}{SUFFIX}"
                raise DataError(
                    f"{shard.with_name(name)} is missing, though {shard.name} is there",
                    "fetch it too, or give the one file instead of its folder",
                )


def _check_alike(first: Path, other: Path, columns: Columns) -> None:
    """Refuse shards whose columns in use differ in type, or whose classes are named differently."""
    schema, found = read_schema(first), read_schema(other)
    for column in filter(None, (columns.item, columns.label, columns.id)):
        there = found.field(column).type if column in found.names else "not there"
        if there != schema.field(column).type:
            raise DataError(
                f"column {column!r} of {other} is {there}, that of {first} is "
                f"{schema.field(column).type}",
                "the shards of a data set have the same columns",
            )
    label = columns.label or ""
    names, others = (hub_class_names(one.metadata, label) for one in (schema, found))
    if names != others:
        raise DataError(
            f"{other} and {first} give the classes of {label!r} different names",
            "the shards of a data set have the same classes",
        )


def choose_columns(file: Path, stated: Stated) -> Columns:
    """Return the columns to use: those stated, and where none is stated those that stand out.

    The image column is the only struct `{bytes, path}`, or of several the one called `image` or
    `img`. The label column holds integers or strings and is one that the metadata calls a
    `ClassLabel`, or else one that is called like a label (`LABEL_NAMES`); of several, `fine_label`
    goes before `coarse_label`. Another column is not taken for labels because it is the only one.

    Without a column of images, the column of strings called `text` holds the items. Texts need no
    labels, and where no column of ids is stated, they have the ids of a column called `_id`.

    Raises:
        DataError: if a column stated is missing or of a wrong type, or there is no single choice;
            the message lists the columns there are.
    """
    schema = read_schema(file)
    there = f"its columns are {', '.join(f'{field.name} ({field.type})' for field in schema)}"
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise DataError(
            f"{file} has two columns {twice[0]!r}",
            f"{there}. Write it again with names that differ",
        )
    for name in (
        stated.image_column, stated.text_column, stated.label_column, stated.id_column
    ):  # fmt: skip
        if name is not None and name not in schema.names:
            raise DataError(f"{file} has no column {name!r}", there)
    found = _find_items(schema, stated)
    only_texts = len(found) == 1 and _kind_of(schema, found[0]) == "strings"
    holds_texts = stated.text_column is not None or (only_texts and not stated.image_column)
    id_column = stated.id_column
    if holds_texts and id_column is None and ID_NAME in schema.names:
        id_column = ID_NAME
    labels = [stated.label_column] if stated.label_column else _find_labels(schema, id_column)
    if len(found) != 1 or len(labels) > 1 or not (labels or holds_texts):
        option, missing = "image", "single image column, a struct {bytes, path}"
        if len(found) == 1:
            option, missing = "label", "column that is known for the labels"
            if labels:
                missing = f"single column of labels: {' and '.join(labels)} may hold them"
        raise DataError(f"{file} has no {missing}", f"{there}. Name one: {option}_column=...")
    image, text = (None, found[0]) if holds_texts else (found[0], None)
    columns = Columns(image, labels[0] if labels else None, id_column, text)
    for use, kinds, name in (
        ("images need a struct with a binary field 'bytes'", ("images",), image),
        ("texts need strings", ("strings",), text),
        ("labels need integers or strings", ("numbers", "strings"), columns.label),
        ("ids need strings", ("numbers", "strings"), id_column),
    ):
        if name is not None and _kind_of(schema, name) not in kinds:
            raise DataError(f"column {name!r} of {file} is {schema.field(name).type}", use)
    return columns


def _find_items(schema: pa.Schema, stated: Stated) -> list[str]:
    """Return the columns that may hold the items: one where it is clear."""
    if stated.image_column and stated.text_column:
        raise ConfigurationError(
            "image_column and text_column were both stated", "items are images or texts: state one"
        )
    if chosen := stated.image_column or stated.text_column:
        return [chosen]
    images = [name for name in schema.names if _kind_of(schema, name) == "images"]
    named = [name for name in images if name.lower() in IMAGE_NAMES]
    texts = [TEXT_NAME] if _kind_of(schema, TEXT_NAME) == "strings" else []
    return named or images or texts


def _find_labels(schema: pa.Schema, used: str | None) -> list[str]:
    """Return the columns that may hold the labels: one where it is clear."""
    others = [name for name in schema.names if name != used]
    fitting = [name for name in others if _kind_of(schema, name) in ("numbers", "strings")]
    stated = [name for name in fitting if hub_class_names(schema.metadata, name)]
    named = [name for name in fitting if name.lower() in LABEL_NAMES]
    found = [name for name in fitting if name in stated or name in named]
    found = [name for name in found if name.lower() != "coarse_label"] or found
    both = [name for name in found if name in stated and name in named]
    return both if len(both) == 1 else found


def _kind_of(schema: pa.Schema, column: str) -> Literal["images", "numbers", "strings", "others"]:
    """Return what a column holds; "others" also where it is not there."""
    if column not in schema.names:
        return "others"
    kind = schema.field(column).type
    if pa.types.is_integer(kind):
        return "numbers"
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        content = kind.field("bytes").type
        fits = pa.types.is_binary(content) or pa.types.is_large_binary(content)
        return "images" if fits else "others"
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return "strings" if is_text_type(kind) else "others"


@contextmanager
def _reading(file: str | Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file} is not a readable Parquet file: {str(error).splitlines()[0]}",
            "fetch it again, or give an image folder or a folder of Parquet shards",
        ) from error


def read_schema(shard: Path) -> pa.Schema:
    """Return the schema of a Parquet file.

    Raises:
        DataError: if the file cannot be read or is not Parquet.
    """
    if not is_text(str(shard)):
        raise DataError(f"the path {str(shard)!r} is not UTF-8, and payloads are text", "rename it")
    with _reading(shard):
        return pq.read_schema(shard)


def _read_columns(shard: Path, columns: list[str]) -> pa.Table:
    with _reading(shard), pq.ParquetFile(shard) as parquet:
        return parquet.read(columns=columns)


class HeldGroups:
    """The row groups read last: the least recently used leaves first. Safe to use from threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._groups: OrderedDict[GroupKey, pa.ChunkedArray] = OrderedDict()
        self.nbytes = 0

    def get(self, key: GroupKey, read: Callable[[], pa.ChunkedArray]) -> pa.ChunkedArray:
        """Return a row group, which is read if it is not held."""
        with self._lock:
            if key not in self._groups:
                self._groups[key] = read()
                self.nbytes += self._groups[key].nbytes
            self._groups.move_to_end(key)
            while self.nbytes > HELD_BYTES and len(self._groups) > 1:
                _, dropped = self._groups.popitem(last=False)
                self.nbytes -= dropped.nbytes
            return self._groups[key]


_held = HeldGroups()


def read_rows(shard: Path) -> int:
    """Return the number of rows of a Parquet file.

    Raises:
        DataError: if the file cannot be read or is not Parquet.
    """
    with _reading(shard):
        return int(pq.read_metadata(shard).num_rows)


def read_cell(file: str, row: int, column: str) -> bytes | str | None:
    """Return what a column has in one row: a text, or the `bytes` of a struct; None for null.

    Raises:
        DataError: if the file is gone or is not Parquet, or has no such row or column (any more).
    """
    try:
        state = Path(file).stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", "it held an item") from error
    size, changed = state.st_size, state.st_mtime_ns
    ends = _row_group_ends(file, size, changed)
    if not 0 <= row < ends[-1]:
        raise DataError(
            f"{file} has {ends[-1]} rows and no row {row}",
            "it was changed after its items were listed: list them again",
        )
    group = bisect_right(ends, row) - 1
    key = (file, size, changed, column, group)
    cells = _held.get(key, lambda: read_group(file, group, column))
    found = cells[row - ends[group]].as_py()
    if isinstance(found, bytes | str | None):
        return found
    raise DataError(
        f"the column {column!r} of {file} holds {type(found).__name__}, not bytes of an image",
        "name another column",
    )


def read_group(file: str, group: int, column: str) -> pa.ChunkedArray:
    """Return the texts, or the `bytes` of the images, of a column in one row group.

    Raises:
        DataError: if the file cannot be read or has no such column.
    """
    with _reading(file), pq.ParquetFile(file, memory_map=True) as parquet:
        if _kind_of(parquet.schema_arrow, column) == "strings":
            return parquet.read_row_group(group, columns=[column])[column]
        table = parquet.read_row_group(group, columns=[f"{column}.bytes"])
    if column not in table.column_names:
        raise DataError(
            f"{file} has no column {column!r} with a field 'bytes'",
            "it was changed after its items were listed: list them again",
        )
    return pc.struct_field(table[column], "bytes")


@lru_cache(maxsize=4096)
def _row_group_ends(
    file: str,
    size: int,  # noqa: ARG001  # with `changed`, tells the cache one state of the file from another
    changed: int,  # noqa: ARG001
) -> tuple[int, ...]:
    """Return where the row groups begin and, last, where the last one ends."""
    with _reading(file):
        footer = pq.read_metadata(file)
    counts = (footer.row_group(group).num_rows for group in range(footer.num_row_groups))
    return tuple(accumulate(counts, initial=0))
