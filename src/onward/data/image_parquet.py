"""Items of image Parquet as the Hugging Face hub has it.

One file, or shards such as `train-00000-of-00003.parquet`. A struct column `{bytes, path}` holds
image files, a column of integers or strings the labels; class names may stand in the schema's
metadata, and strings are names. Labels and ids are read here, images only where what is bad is to
be left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onward.data.decoding import MAX_PIXELS
from onward.data.items import Items, LeftOut, number_classes
from onward.data.parquet_columns import (
    Columns,
    check_alike,
    class_names,
    has_numbers,
    has_strings,
    read_schema,
)
from onward.data.payloads import describe_payload, find_fault
from onward.data.row_groups import read_group
from onward.errors import DataError
from onward.labels import LARGEST_LABEL

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class _Row:
    """One row as it stands in its file; `fault` says why it cannot be used."""

    id: str
    label: int
    payload: dict[str, Any]
    fault: str | None

    @property
    def where(self) -> str:
        return describe_payload(self.payload)


def open_parquet(
    folder: Path,
    shards: Sequence[Path],
    columns: Columns,
    *,
    among: Sequence[Path],
    numbered: Sequence[Path],
    source: str,
    skip_bad: bool,
    max_pixels: int = MAX_PIXELS,
) -> Items:
    """List the items of Parquet shards, in the order of shards and rows.

    Ids come from the id column. Without one they are the shard's path within the folder and the row
    in it, "train-00000-of-00003/000017", and do not change when other shards come or go. A negative
    label means that the class is not known, as in the test parts of the hub.

    Args:
        folder: what ids are relative to.
        shards: at least one file.
        columns: those to read.
        among: the shards of all parts that are used together, in which labels mean the same.
        numbered: those and others, whose labels that are strings are numbered together.
        source: what to call the data set in messages.
        skip_bad: leave out rows without image, label or id, rows whose image cannot be decoded and
            rows whose id was there before, and note each in `left_out`. Decodes every image.
        max_pixels: the most pixels that an image may have.

    Raises:
        DataError: if a file is no Parquet, a column is missing or of a wrong type, shards differ,
            or a row cannot be used; the message names file and row.
    """
    for shard in among:
        check_alike(among[0], shard, columns)
    numbers, names = _label_numbers(among[0], numbered, columns, source)
    left_out: list[LeftOut] = []
    rows: dict[str, _Row] = {}
    for row in _read_shards(folder, shards, columns, numbers):
        why = row.fault
        if names and row.label >= 0 and row.label not in names:
            why = why or f"its label ({columns.label}) is {row.label}, of {len(names)} classes"
        if row.id in rows:
            why = why or f"its id {row.id!r} ({columns.id}) stands at {rows[row.id].where} already"
        if skip_bad and not why:
            why = find_fault(row.payload, max_pixels)
        if not why:
            rows[row.id] = row
        elif skip_bad:
            left_out.append(LeftOut(row.where, why))
        else:
            raise DataError(
                f"{row.where}: {why}. Mend it, or leave out whatever cannot be used: skip_bad=True"
            )
    return Items(
        ids=tuple(rows),
        labels=np.array([row.label for row in rows.values()], dtype=np.int64),
        class_names={row.label: str(row.label) for row in rows.values() if row.label >= 0} | names,
        payloads=tuple(row.payload for row in rows.values()),
        source=source,
        left_out=tuple(left_out),
        named=bool(names),
        max_pixels=max_pixels,
    )


def _label_numbers(
    first: Path, shards: Sequence[Path], columns: Columns, source: str
) -> tuple[Mapping[str, int] | None, dict[int, str]]:
    """Return the label of each string, None where labels are numbers; and each label's name."""
    schema = read_schema(first)
    if has_numbers(schema, columns.label):
        return None, dict(enumerate(class_names(schema, columns.label)))
    found: set[str] = set()
    for shard in shards:
        if not has_strings(read_schema(shard), columns.label):
            continue
        values = _read_columns(shard, [columns.label])[columns.label]
        found |= {value for value in values.unique().to_pylist() if value}
    numbers = number_classes(found, f"the labels of {source}")
    return numbers, {number: name for name, number in numbers.items()}


def _read_shards(
    folder: Path, shards: Sequence[Path], columns: Columns, numbers: Mapping[str, int] | None
) -> Iterator[_Row]:
    for shard in shards:
        prefix = shard.relative_to(folder).with_suffix("").as_posix()
        yield from _read_rows(shard, columns, prefix, numbers)


def _read_rows(
    shard: Path, columns: Columns, prefix: str, numbers: Mapping[str, int] | None
) -> Iterator[_Row]:
    file = str(shard.absolute())
    imageless = _rows_without_image(file, columns.image)
    table = _read_columns(shard, [columns.label, *filter(None, [columns.id])])
    labels = table[columns.label].to_pylist()
    ids = (
        table[columns.id].to_pylist()
        if columns.id
        else [f"{prefix}/{i:06}" for i in range(len(labels))]
    )
    for row, (item, given) in enumerate(zip(ids, labels, strict=True)):
        fault, label = None, given if numbers is None else numbers.get(given, 0)
        if row in imageless:
            fault = f"its image ({columns.image}) has null bytes"
        elif given in (None, ""):
            fault = f"its label ({columns.label}) is {'null' if given is None else 'empty'}"
        elif label > LARGEST_LABEL:
            fault = f"its label ({columns.label}) is {label}, above {LARGEST_LABEL}"
        if fault is None and item in (None, ""):
            fault = f"its id ({columns.id}) is {'null' if item is None else 'empty'}"
        payload = {"file": file, "row": row, "column": columns.image}
        yield _Row(str(item), 0 if fault else max(label, -1), payload, fault)


def _read_columns(shard: Path, columns: list[str]) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(shard) as parquet:
            return parquet.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{shard} is damaged, {' and '.join(columns)} cannot be read "
            f"({str(error).splitlines()[0]})",
            "fetch it again",
        ) from error


def _rows_without_image(file: str, column: str) -> set[int]:
    """Return the rows whose bytes are null; reads images only where the footer does not tell."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    footer = pq.read_metadata(file)
    leaves = [footer.schema.column(leaf).path for leaf in range(footer.num_columns)]
    found: set[int] = set()
    start = 0
    for group in range(footer.num_row_groups):
        described = footer.row_group(group)
        known = described.column(leaves.index(f"{column}.bytes")).statistics
        if known is None or not known.has_null_count or known.null_count:
            nulls = pc.is_null(read_group(file, group, column)).to_numpy()
            found.update((start + np.flatnonzero(nulls)).tolist())
        start += described.num_rows
    return found
