"""Items of image Parquet as the Hugging Face hub has it.

One file, or shards such as `train-00000-of-00003.parquet`. A struct column `{bytes, path}` holds
image files, an integer column the labels; class names may stand in the schema's metadata. Labels
and ids are read here, images only where what is bad is to be left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onward.data.items import Items, LeftOut
from onward.data.parquet_columns import (
    Columns,
    WantedColumns,
    check_alike,
    choose_columns,
    class_names,
    read_schema,
)
from onward.data.payloads import describe_payload, find_fault
from onward.data.row_groups import read_group
from onward.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST_LABEL = int(np.iinfo(np.int64).max)


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
    folder: Path, shards: Sequence[Path], wanted: WantedColumns, *, source: str, skip_bad: bool
) -> Items:
    """List the items of Parquet shards, in the order of shards and rows.

    Ids come from the id column. Without one they are the shard's path within the folder and the row
    in it, "train-00000-of-00003/000017", and do not change when other shards come or go.

    Args:
        folder: what ids are relative to.
        shards: at least one file.
        wanted: columns that the user named.
        source: what to call the data set in messages.
        skip_bad: leave out rows without image, label or id, rows whose image cannot be decoded and
            rows whose id was there before, and note each in `left_out`. Decodes every image.

    Raises:
        DataError: if a file is no Parquet, a column is missing or of a wrong type, shards differ,
            or a row cannot be used; the message names file and row.
    """
    schema = read_schema(shards[0])
    columns = choose_columns(shards[0], schema, wanted)
    left_out: list[LeftOut] = []
    rows: dict[str, _Row] = {}
    for row in _read_shards(folder, shards, columns):
        why = row.fault
        if row.id in rows:
            why = why or f"its id {row.id!r} ({columns.id}) stands at {rows[row.id].where} already"
        if skip_bad and not why:
            why = find_fault(row.payload)
        if not why:
            rows[row.id] = row
        elif skip_bad:
            left_out.append(LeftOut(row.where, why))
        else:
            raise DataError(
                f"{row.where}: {why}. Mend it, or leave out whatever cannot be used: --skip-bad "
                "(skip_bad=True)"
            )
    names = dict(enumerate(class_names(schema, columns.label)))
    return Items(
        ids=tuple(rows),
        labels=np.array([row.label for row in rows.values()], dtype=np.int64),
        class_names={row.label: str(row.label) for row in rows.values()} | names,
        payloads=tuple(row.payload for row in rows.values()),
        source=source,
        left_out=tuple(left_out),
        named=bool(names),
    )


def _read_shards(folder: Path, shards: Sequence[Path], columns: Columns) -> Iterator[_Row]:
    for shard in shards:
        check_alike(shards[0], shard, columns)
        yield from _read_rows(shard, columns, shard.relative_to(folder).with_suffix("").as_posix())


def _read_rows(shard: Path, columns: Columns, prefix: str) -> Iterator[_Row]:
    file = str(shard.absolute())
    imageless = _rows_without_image(file, columns.image)
    table = _read_columns(shard, [columns.label, *filter(None, [columns.id])])
    labels = table[columns.label].to_pylist()
    ids = (
        table[columns.id].to_pylist()
        if columns.id
        else [f"{prefix}/{i:06}" for i in range(len(labels))]
    )
    for row, (item, label) in enumerate(zip(ids, labels, strict=True)):
        fault = None
        if row in imageless:
            fault = f"its image ({columns.image}) has null bytes"
        elif label is None or not 0 <= label <= LARGEST_LABEL:
            fault = f"its label ({columns.label}) is {'null' if label is None else label}"
            fault += "" if label is None else f", not 0 to {LARGEST_LABEL}"
        elif item is None or item == "":
            fault = f"its id ({columns.id}) is {'null' if item is None else 'empty'}"
        payload = {"file": file, "row": row, "column": columns.image}
        yield _Row(str(item), label or 0, payload, fault)


def _read_columns(shard: Path, columns: list[str]) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(shard) as parquet:
            return parquet.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{shard} is damaged, {' and '.join(columns)} cannot be read "
            f"({str(error).splitlines()[0]}); fetch it again"
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
