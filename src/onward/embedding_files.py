"""The Parquet files that embeddings are read from: one, or a folder of them.

Everything that a file says of its vectors is read from that file, none of it from its neighbours:
which space they are in, what their classes are called, which partition `label=cat/` they lie in.
Here a file's parts are read; `onward.spaces` compares what the files say. Nothing here knows what
a space is.
"""

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from onward.artifacts import is_left_behind
from onward.errors import EmbeddingsError, LabelMismatchError
from onward.labels import ClassNames, Labels, as_class_names, as_labels, as_name, comparable, into

if TYPE_CHECKING:
    import pyarrow as pa

Words = tuple[str | None, ...]

KNOWN = ("id", "vector", "label", "origin")
ORIGINS = frozenset({"embedded", "upgraded", None})
SPACE_KEY = b"onward.space"
CLASSES_KEY = b"onward.class_names"
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, eq=False)
class VectorFile:
    """What one file holds, as the file itself says it.

    Attributes:
        path: the file.
        ids: of its rows: strings that are not empty.
        lists: its column of vectors.
        space: what it says of the space of its vectors, if anything.
        classes: of its rows, as labels, negative where one is not known, or as names, None where
            one is not known; None where nothing says them.
        class_names: what its metadata call each label.
        origins: how each vector came to be, None where nothing says so; None where its column
            `origin` holds anything else, and so is not about that, or there is none.
    """

    path: Path
    ids: tuple[str, ...]
    lists: "pa.ChunkedArray"
    space: bytes | None
    classes: Labels | Words | None
    class_names: ClassNames | None
    origins: Words | None

    def vectors(self, dim: int, space: str) -> np.ndarray:
        """Return the vectors, one row an item, in the type in which they are stored.

        Raises:
            EmbeddingsError: if they are not lists of that many numbers; the message names the row.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        lists, kind = self.lists, self.lists.type
        if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
            lists = lists.cast(pa.large_list(kind.value_type))
        known = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        if not any(check(lists.type) for check in known):
            raise EmbeddingsError(
                f"the column 'vector' of {self.path} is {kind}",
                needed=f"{space} needs a list of {dim} numbers an item",
            )
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        if (lengths != dim).any():
            row = int(np.argmax(lengths != dim))
            raise EmbeddingsError(
                f"row {row} of {self.path} holds {lengths[row]} numbers",
                needed=f"{space} needs {dim}",
            )
        parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in lists.chunks]
        return join([part.reshape(-1, dim) for part in parts] or [np.empty((0, dim), np.float32)])


def read_vector_files(path: Path) -> list[VectorFile]:
    """Read a Parquet file, or every one in a folder and in the folders in it, by name.

    Hidden files, those that begin with `_` (such as `_SUCCESS`) and what systems leave in folders
    are passed over. A folder `label=cat` says so of all files in it, as Spark and others write it:
    where all of these are whole numbers they are labels, else they are the names of classes.

    Raises:
        EmbeddingsError: if a file is not Parquet, lacks `id` or `vector` or has labels that are
            neither whole numbers nor text, or a folder holds none; the message names the file.
    """
    if not path.is_dir():
        return [_read_file(path, ())]
    if (path / "record.lance").exists():
        raise EmbeddingsError(
            f"{path} is a gallery, and a file of embeddings is needed",
            "write what it holds in a space to one: gallery.read(space).save(FILE)",
            step="export",
        )
    found = _walk(path)
    if not found:
        raise EmbeddingsError(
            f"the folder {path} holds no file of embeddings",
            "give a .parquet file or a folder of them; what a gallery holds is written to one by "
            "gallery.read(space).save(FILE)",
            step="export",
        )
    partitions = [_partition_of(file.relative_to(path)) for file in found]
    known = {text for text in partitions if text not in {None, NULL_PARTITION}}
    numbers = {text: int(text) for text in known if text and WHOLE_NUMBER.fullmatch(text)}
    if len(numbers) < len(known) or len(set(numbers.values())) < len(numbers):
        numbers = {}
    elif NULL_PARTITION in partitions:
        numbers[NULL_PARTITION] = -1
    said = {
        text: None if text == NULL_PARTITION else as_name(text)
        for text in partitions
        if text is not None
    }
    return [
        _read_file(file, () if text is None else ({**said, **numbers}[text],))
        for file, text in zip(found, partitions, strict=True)
    ]


def common_labels(files: Sequence[VectorFile]) -> tuple[Labels | None, ClassNames | None]:
    """Return the labels of all rows, in one numbering, and what the classes are called.

    Names in a column or in the names of folders are numbered in their order, over all files; where
    a file's metadata number the names otherwise than the first file's, its labels are translated.

    Raises:
        EmbeddingsError: if some files have labels and some have none.
        LabelMismatchError: if some name their classes and some do not.
    """
    filled = [one for one in files if one.ids] or files[:1]
    labelled = [one for one in filled if one.classes is not None]
    if not labelled:
        return None, None
    if len(labelled) < len(filled):
        bare = next(one for one in filled if one.classes is None)
        raise EmbeddingsError(
            f"{labelled[0].path} has labels and {bare.path} has none",
            "write all files of a folder "
            "with labels, with nulls where a class is not known, or all without",
        )
    first, names, parts = None, None, list[Labels]()
    for one, (labels, given) in zip(labelled, _numbered(labelled), strict=True):
        if (labels < 0).all():  # no label that could mean anything
            parts.append(labels)
            continue
        if first is None:
            first, names = one, given
        if not comparable(given, names):
            named, bare = (first, one) if given is None else (one, first)
            raise LabelMismatchError(
                f"{named.path} says what its classes are called and {bare.path} does not, so "
                "nothing tells whether a label means the same class in both",
                "write all files of a folder with class names, or all without",
            )
        sources = (str(one.path), str(first.path))
        new, names = into(labels, given, names, same_labels=False, sources=sources)
        parts.append(new)
    return np.concatenate(parts), names


def _numbered(files: Sequence[VectorFile]) -> Iterator[tuple[Labels, ClassNames | None]]:
    """Yield the labels of each file and their names; words are numbered alike in all of them."""
    of_words = [one.classes for one in files if isinstance(one.classes, tuple)]
    every = {word for words in of_words for word in words if word is not None}
    if all(word.isdecimal() and word == str(int(word[:18])) for word in every):
        number_of = {word: int(word) for word in sorted(every, key=int)}  # "7" is class 7
    else:
        number_of = {word: number for number, word in enumerate(sorted(every))}
    names = {number: word for word, number in number_of.items()}
    for one in files:
        if isinstance(one.classes, tuple):
            numbers = [-1 if word is None else number_of[word] for word in one.classes]
            yield np.array(numbers, np.int64), names
        elif one.classes is not None:
            yield one.classes, one.class_names


def common_origins(files: Sequence[VectorFile]) -> Words | None:
    """Return how the vector of each row of all files came to be; None if no file says so."""
    if all(one.origins is None for one in files):
        return None
    return tuple(
        origin for one in files for origin in one.origins or itertools.repeat(None, len(one.ids))
    )


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays as one; a single one as it is, since a copy may be as large as the memory."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def check_ids_across(files: Sequence[VectorFile]) -> None:
    """Refuse an id that stands in two files.

    Raises:
        EmbeddingsError: naming the id and both files.
    """
    if len(files) == 1:  # embeddings look into one file themselves
        return
    seen: dict[str, Path] = {}
    for one in files:
        for item in one.ids:
            first = seen.setdefault(item, one.path)
            if first is not one.path:
                raise EmbeddingsError(
                    f"id {item!r} stands in {first} and in {one.path}",
                    "take out the file that was written twice, or give one file",
                    needed="every item needs an id of its own",
                )


def read_column(path: Path, name: str) -> dict[Any, Any]:
    """Return what a column beside the vectors holds, by id: of a file, or of a folder of them.

    Raises:
        EmbeddingsError: if a file is not Parquet, or lacks `id` or that column; it says which.
    """
    found = _walk(path) if path.is_dir() else [path]
    values: dict[Any, Any] = {}
    for file in found:
        table = _read_table(file, ("id", name))
        missing = [one for one in ("id", name) if one not in table.column_names]
        if missing:
            raise EmbeddingsError(
                f"{file} has no column {missing[0]!r}",
                "give the name of one that every file has",
                needed=f"it has {', '.join(table.column_names)}",
            )
        values.update(zip(table["id"].to_pylist(), table[name].to_pylist(), strict=True))
    return values


def _walk(folder: Path) -> list[Path]:
    """Return the files in a folder and below that are not left out, by path."""
    found = []
    pending = [(folder, frozenset({os.path.realpath(folder)}))]
    while pending:
        here, above = pending.pop()
        try:
            entries = list(here.iterdir())
        except OSError as error:
            raise EmbeddingsError(f"the folder {here} cannot be read: {error}") from error
        for entry in entries:
            hidden = entry.name[0] == "." or (entry.name[0] == "_" and "=" not in entry.name)
            if hidden or is_left_behind(entry.name):
                continue
            if not entry.is_dir():
                found.append(entry)
            elif (real := os.path.realpath(entry)) not in above:  # a link may lead back up
                pending.append((entry, above | {real}))
    return sorted(found)


def _partition_of(inside: Path) -> str | None:
    """Return what the folders on the way to a file say of the label, if they do."""
    said = [part.partition("=")[2] for part in inside.parts[:-1] if part.startswith("label=")]
    return unquote(said[-1]) if said else None


def _read_file(path: Path, said: tuple[int | str | None, ...]) -> VectorFile:
    """Read a file, of whose rows the folder that it lies in may say the class."""
    table = _read_table(path)
    names = table.column_names
    missing = {"id", "vector"} - set(names)
    if missing:
        raise EmbeddingsError(
            f"{path} has the columns {names}, not {sorted(missing)}",
            "embeddings have `id` (string) and `vector` (fixed-size list of numbers)",
        )
    metadata = table.schema.metadata or {}
    classes = _read_labels(table["label"], path) if "label" in names else None
    for one in said:
        if classes is not None:
            raise EmbeddingsError(
                f"{path} has a column 'label' and lies in a folder label={one}",
                "leave one of the two out",
            )
        rows = len(table)
        classes = np.full(rows, one, np.int64) if isinstance(one, int) else (one,) * rows
    return VectorFile(
        path,
        _read_ids(table["id"], path),
        table["vector"],
        metadata.get(SPACE_KEY),
        classes,
        _read_class_names(metadata, classes, path) if isinstance(classes, np.ndarray) else None,
        _read_origins(table["origin"]) if "origin" in names else None,
    )


def _read_table(path: Path, known: Sequence[str] = KNOWN) -> "pa.Table":
    """Return the columns of a file that count, or all where one of the first two is not there.

    Nothing is taken from the folders it lies in. Values of a dictionary stand for themselves.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if not path.is_file():
            raise OSError("it is not a file that can be read")
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            twice = [name for name in known if names.count(name) > 1]
            if twice:
                raise EmbeddingsError(
                    f"{path} has two columns {twice[0]!r}", "write it again with one"
                )
            wanted = [name for name in known if name in names]
            table = file.read(columns=wanted if set(known[:2]) <= set(names) else None)
            for place, of in enumerate(table.schema):
                if pa.types.is_dictionary(of.type):
                    table = table.set_column(place, of.name, table[place].cast(of.type.value_type))
            return table
    except (pa.ArrowException, OSError) as error:
        what = str(error).rstrip(".")
        raise EmbeddingsError(
            f"{path} is not a readable Parquet file: {what}. Write it again, or take it out of "
            "the folder if it holds no embeddings"
        ) from error


def _read_ids(column: "pa.ChunkedArray", path: Path) -> tuple[str, ...]:
    ids = tuple(column.to_pylist())
    row = next((row for row, item in enumerate(ids) if not isinstance(item, str) or not item), None)
    if row is not None:
        raise EmbeddingsError(
            f"row {row} of {path} has the id {ids[row]!r}",
            needed="ids are strings that are not empty",
        )
    return ids


def _read_labels(column: "pa.ChunkedArray", path: Path) -> Labels | Words:
    """Return a column of whole numbers as labels, one of text as words; null is not known."""
    import pyarrow as pa

    kind = column.type
    if is_text_type(kind):
        words = tuple(None if word is None else as_name(word) for word in column.to_pylist())
        if "" in words:
            raise EmbeddingsError(
                f"row {words.index('')} of {path} names its class ''",
                "give the class a name, or null where it is not known",
            )
        return words
    if pa.types.is_null(kind):
        return np.full(len(column), -1, np.int64)
    if not pa.types.is_integer(kind) and not pa.types.is_floating(kind):
        raise EmbeddingsError(
            f"the column 'label' of {path} is {kind}",
            "labels are whole numbers, or text that names the classes",
        )
    try:
        plain = column.cast(pa.int64()) if pa.types.is_integer(kind) else column
        return as_labels(plain.fill_null(-1).to_numpy())
    except (pa.ArrowInvalid, EmbeddingsError) as error:
        raise EmbeddingsError(f"the column 'label' of {path} is {kind}: {error}") from error


def is_text_type(kind: "pa.DataType") -> bool:
    """Say whether a column of this type holds strings."""
    import pyarrow as pa

    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in texts)


def _read_origins(column: "pa.ChunkedArray") -> Words | None:
    """Return what a column says of how vectors came to be; None if it is not about that."""
    values = tuple(column.to_pylist()) if is_text_type(column.type) else (0,)
    return values if ORIGINS.issuperset(values) else None


def hub_class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> ClassNames:
    """Return the names of a `ClassLabel` in the metadata that the `datasets` library writes."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {number: str(name) for number, name in enumerate(features[column]["names"])}
    except (KeyError, TypeError, ValueError):
        return {}


def _read_class_names(
    metadata: Mapping[bytes, bytes], labels: Labels, path: Path
) -> ClassNames | None:
    stored = metadata.get(CLASSES_KEY)
    try:
        said = {int(k): v for k, v in json.loads(stored).items()} if stored is not None else {}
    except (ValueError, TypeError, AttributeError) as error:
        raise EmbeddingsError(
            f"{path} says {stored!r} of its class names",
            'that is not JSON of names by label, such as {"0": "cat"}. Write the file again',
        ) from error
    try:
        names = said or hub_class_names(metadata, "label")
        return as_class_names(names, labels) if names else None
    except EmbeddingsError as error:
        raise EmbeddingsError(f"{path}: {error}") from error
