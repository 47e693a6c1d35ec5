"""Read single images out of Parquet files, with bounded memory.

Parquet is read by row groups. The groups read last are held, up to `HELD_BYTES` (or one group, if
it alone is larger), so that reading a file from top to bottom decodes each group once.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from onward.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

HELD_BYTES = 256 << 20

GroupKey = tuple[str, int, int, str, int]


class HeldGroups:
    """The row groups read last: the least recently used leaves first. Safe to use from threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._groups: OrderedDict[GroupKey, pa.ChunkedArray] = OrderedDict()
        self.nbytes = 0

    def get(self, key: GroupKey, read: Callable[[], "pa.ChunkedArray"]) -> "pa.ChunkedArray":
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


def read_image_bytes(file: str, row: int, column: str) -> bytes | None:
    """Return what the `bytes` field of a struct column holds in one row; None where it is null.

    Raises:
        DataError: if the file is gone or is no Parquet, or has no such row or column (any more).
    """
    try:
        state = Path(file).stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", "it held an item") from error
    size, changed = state.st_size, state.st_mtime_ns
    ends = _row_group_ends(file, size, changed)
    if not 0 <= row < (ends[-1] if ends else 0):
        raise DataError(
            f"{file} has {ends[-1] if ends else 0} rows and no row {row}",
            "it was changed after its items were listed: list them again",
        )
    group = bisect_right(ends, row)
    start = ends[group - 1] if group else 0
    key = (file, size, changed, column, group)
    cells = _held.get(key, lambda: read_group(file, group, column))
    found = cells[row - start].as_py()
    if isinstance(found, bytes | None):
        return found
    raise DataError(
        f"the column {column!r} of {file} holds {type(found).__name__}, not bytes of an image",
        "name another column",
    )


def read_group(file: str, group: int, column: str) -> "pa.ChunkedArray":
    """Return the `bytes` of an image column in one row group.

    Raises:
        DataError: if the file cannot be read or has no such column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, memory_map=True) as parquet:
            table = parquet.read_row_group(group, columns=[f"{column}.bytes"])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a readable Parquet file: {error}") from error
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a readable Parquet file: {error}") from error
    return tuple(accumulate(footer.row_group(g).num_rows for g in range(footer.num_row_groups)))
