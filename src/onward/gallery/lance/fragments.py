"""Fill an empty field beside the rows of a Lance table, where the store else rewrites rows.

A merge looks for rows by id among all, and rewrites each as a whole. But in a fragment that is
older than a field, the field is null in every row. One file with a value for each of the fragment's
rows, in their order, fills it. Nothing is moved or written again, so the indexes of other fields
stay complete.

The file is made from the fragment as it was read, and becomes part of the table only if the same
files make up the fragment still. What others change or delete meanwhile is marked as deleted there;
changed rows stand elsewhere, without a vector in the field.

Several processes split the fragments by their shares. Which processes those are, locks on files
tell: the operating system takes a lock away from a process that ends, however it ends. So a worker
that was killed is no longer one at once, without a clock and without being told. Correctness never
depends on this: where there are no locks, every worker believes to be alone, and of two who fill
the same fragment the first one wins.

Only `onward.gallery.lance.store` imports this.
"""

import errno
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from datetime import timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from onward.artifacts import digest
from onward.gallery.lance.commits import commit, open_dataset, speaking
from onward.gallery.lance.rows import (
    batch_columns,
    check_columns,
    field_columns,
    read_batch,
    rows_where,
    written_columns,
)
from onward.gallery.record import Field
from onward.gallery.store import EVERYTHING, Batch, Filling, Share, Writing, share_of

FEWEST_ROWS = 8192
"""Parts in which fewer rows are to be filled are left to merges."""
FRAGMENT_ROWS = 1 << 17
"""Number of rows of the parts that compaction makes: what a killed process does twice at most."""
READ_AHEAD = 2
"""Number of batches that are read ahead."""
NULL_ROWS = 4096
"""The most rows that are made at a time where some have nothing."""
FRUITLESS_TRIES = 3
"""Times that a part is made again which others have changed at the last moment."""
HANGING_SECONDS = 30.0
"""Where other workers have finished no part for so long, theirs are filled here too."""
COMPACTION: Any = {
    "target_rows_per_fragment": FRAGMENT_ROWS,
    "num_threads": 1,
    "batch_size": 2048,
    "io_buffer_size": 1 << 30,
}
"""Bounds memory. Lance hangs if a page of each column does not fit its buffer."""
COMPACTED = "onward.compacted"
"""In the configuration of the table: a digest of its files, and the version of what they hold."""
LEFTOVER = timedelta(days=7)
"""Files that were never finished are deleted when they are older: nobody writes to them still."""
NOT_USED = -2
"""In the place of a column's number: Lance does not look for it in this file."""
PLACE_BITS = 32
"""The lower bits of a row's address say where in its fragment it stands."""
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
"""A link in the place of a lock is not followed: what it leads to is not a worker's."""


class Filler:
    """Fills one field of a table, fragment by fragment, beside others who do the same.

    Attributes:
        path: of the table.
        url: of the gallery.
        filling: what fills which field.
    """

    def __init__(self, path: Path, url: str, filling: Filling) -> None:
        self._path, self._url, self._filling = path, url, filling
        self._schema = pa.schema(field_columns(filling.to))
        self._left_out = set[int]()

    def fill(self) -> Iterator[int]:
        """Fill the field in every large fragment in which it is empty; see `Store.fill`.

        Gives after each how many rows were written, or 0 where others work on all that is left.
        """
        tries, awaited, since = Counter[int](), dict[int, int](), 0.0
        while large := self._large():
            if large != awaited:
                awaited, since = large, time.monotonic()
            share = self._filling.share_now()
            own = [one for one, place in large.items() if place % share.of == share.number]
            if time.monotonic() - since > HANGING_SECONDS:
                own = list(large)
            if not own:
                yield 0
                continue
            written = self._fill(own[0])
            if written is None:
                return
            yield written
            if not written:  # the fragments are others now
                tries[own[0]] += 1
                self._left_out |= {own[0]} if tries[own[0]] == FRUITLESS_TRIES else set()

    def _large(self) -> dict[int, int]:
        """Return the fragments to be filled, with their places; remember which are too small."""
        to, wanted = self._filling.to, rows_where(self._filling.wanted, (), None)
        with speaking(self._url):
            dataset = open_dataset(self._path)
            numbers = set(_numbers(dataset, to))
            if numbers:
                check_columns(self._url, dataset.schema, [to])
            large = {}
            for place, one in enumerate(dataset.get_fragments() if numbers else ()):
                if one.fragment_id in self._left_out:
                    continue
                if _is_empty(one, to, numbers) and one.count_rows(wanted) >= FEWEST_ROWS:
                    large[one.fragment_id] = place
                else:
                    self._left_out.add(one.fragment_id)
            return large

    def _fill(self, number: int) -> int | None:
        """Fill the field in a fragment.

        Returns:
            How many rows were written, 0 if others were quicker or no row gets a vector; None if it
            was told to end.
        """
        from lance.fragment import DataFile

        with speaking(self._url):
            dataset = open_dataset(self._path)
            fragment, numbers = dataset.get_fragment(number), _numbers(dataset, self._filling.to)
            if (
                fragment is None
                or not numbers
                or not _is_empty(fragment, self._filling.to, set(numbers))
            ):
                return 0
            files = fragment.metadata.files
        name, is_needless = f"{token_hex(20)}.lance", True
        path = self._path / "data" / name
        try:
            written = self._write(fragment, path)
            if not written:
                return written
            version = files[0].file_major_version, files[0].file_minor_version
            places = list(range(len(numbers)))
            file = DataFile(name, numbers, places, *version, path.stat().st_size)
            is_needless = False  # whatever interrupts this, the file may be part of the table then
            taken = commit(self._url, partial(self._take, number, files, file))
            is_needless = not taken
            return written if taken else 0
        finally:
            if is_needless:
                path.unlink(missing_ok=True)

    def _write(self, fragment: Any, path: Path) -> int | None:
        """Write the file; return how many rows have a vector in it, None if it was told to end."""
        from lance.file import LanceFileWriter

        first = fragment.data_files()[0]
        version = f"{first.file_major_version}.{first.file_minor_version}"
        written = end = 0
        with speaking(self._url):
            writer = LanceFileWriter(str(path), self._schema, version=version)
        batches = self._batches(fragment)
        with ThreadPoolExecutor(2) as others:  # one reads ahead, one writes what was made before
            reading, writing = others.submit(next, batches, None), others.submit(lambda: None)
            while (given := reading.result()) is not None:
                reading = others.submit(next, batches, None)
                (batch, places), begin = given, end
                made = self._filling.derive(batch)
                writing.result()
                if made is None:
                    return None
                if len(made.embeddings) < len(batch):
                    chosen = set(made.embeddings.ids)
                    places = places[[item in chosen for item in batch.ids]]
                if len(places):
                    written, end = written + len(places), int(places[-1]) + 1
                    writing = others.submit(self._append, writer, made, places - begin)
            writing.result()
        with speaking(self._url):
            for begin in range(end, fragment.physical_rows, NULL_ROWS):
                rows = min(NULL_ROWS, fragment.physical_rows - begin)
                nulls = [pa.nulls(rows, column.type) for column in self._schema]
                writer.write_batch(pa.record_batch(nulls, schema=self._schema))
            writer.close()
        return written

    def _batches(self, fragment: Any) -> Iterator[tuple[Batch, Int64[np.ndarray, " row"]]]:
        """Give the rows to be filled, and where in the fragment they stand, in this order."""
        wanted = self._filling.wanted
        with speaking(self._url):
            scanner = fragment.scanner(
                columns=batch_columns(wanted),
                filter=rows_where(wanted, (), None),
                batch_size=self._filling.batch_rows,
                batch_readahead=READ_AHEAD,
                with_row_address=True,
            )
            for part in scanner.to_batches():
                if len(part):
                    addresses = part["_rowaddr"].to_numpy()
                    places = (addresses & np.uint64((1 << PLACE_BITS) - 1)).astype(np.int64)
                    yield read_batch(pa.Table.from_batches([part]), wanted), places

    def _append(self, writer: Any, made: Writing, places: Int64[np.ndarray, " row"]) -> None:
        """Write a batch's vectors at their places, counted from the end of what came before."""
        if places[0] < 0 or (np.diff(places) <= 0).any():
            raise RuntimeError("Lance gave the rows of a fragment in another order than theirs")
        batch = pa.record_batch(list(written_columns(made).values()), schema=self._schema)
        rows = np.full(int(places[-1]) + 1, -1)  # which of them stands at each place
        rows[places] = np.arange(len(places))
        with speaking(self._url):
            if len(rows) == len(batch):
                writer.write_batch(batch)
                return
            for piece in np.split(rows, range(NULL_ROWS, len(rows), NULL_ROWS)):
                writer.write_batch(batch.take(pa.array(piece, mask=piece < 0)))

    def _take(self, number: int, files: list[Any], file: Any) -> bool:
        """Make a file part of a fragment, if it is made up of the same files still."""
        from lance import LanceDataset, LanceOperation

        dataset = open_dataset(self._path)
        fragment, numbers = dataset.get_fragment(number), _numbers(dataset, self._filling.to)
        if fragment is None or fragment.metadata.files != files or file.fields != numbers:
            return False
        after = fragment.metadata
        kept = list(map(copy, files))
        for one in kept:  # whose columns are no longer used
            one.fields = [NOT_USED if at in numbers else at for at in one.fields]
        after.files = [*kept, file]
        update = LanceOperation.Update(
            updated_fragments=[after], fields_modified=numbers, update_mode="rewrite_columns"
        )
        LanceDataset.commit(dataset, update, read_version=dataset.version)
        return True


def count_scattered(path: Path) -> tuple[int, int]:
    """Count the rows in fragments that are too small to be filled, and all rows."""
    live = [one.physical_rows - one.num_deletions for one in open_dataset(path).get_fragments()]
    return sum(rows for rows in live if rows < FEWEST_ROWS), sum(live)


def content_version(dataset: Any) -> str:
    """Return a digest of the columns of a table and of the files that hold its rows.

    What compaction has put together counts as what it was made from.
    """
    now = _digest_of_files(dataset)
    same, _, before = dataset.config().get(COMPACTED, "").partition(" ")
    return before if now == same else now


def _digest_of_files(dataset: Any) -> str:
    columns = [(column.name(), column.id()) for column in dataset.lance_schema.fields()]
    fragments = [one.metadata.to_json() for one in dataset.get_fragments()]
    return digest(json.dumps([columns, fragments], sort_keys=True, default=str).encode())


def compact_table(path: Path, keep: timedelta) -> None:
    """Merge small fragments, index new rows, and forget versions that are older than `keep`.

    It is noted in the table that its rows are as they were before. Others may have written
    meanwhile: what was merged is what the version just before held.
    """
    from lance.optimize import Compaction

    dataset = open_dataset(path)
    read = dataset.version
    Compaction.execute(dataset, COMPACTION)
    if dataset.version != read:
        with suppress(OSError, ValueError):  # that version is gone: then nobody knows
            before = content_version(dataset.checkout_version(dataset.version - 1))
            dataset.update_config({COMPACTED: f"{_digest_of_files(dataset)} {before}"})
    dataset = open_dataset(path)
    dataset.optimize.optimize_indices()
    dataset.cleanup_old_versions(older_than=keep, error_if_tagged_old_versions=False)
    for file in (path / "data").glob(".tmp*"):  # a killed process has left it; Lance does not look
        with suppress(FileNotFoundError):  # others may take it away meanwhile
            if time.time() - file.stat().st_mtime > LEFTOVER.total_seconds():
                file.unlink()


def _is_empty(fragment: Any, field: Field, numbers: set[int]) -> bool:
    """Say whether a field is null in every row, whether it has a file or not."""
    has_file = any(numbers & set(file.fields) for file in fragment.data_files())
    return not has_file or fragment.count_rows(rows_where([field], (), None)) == 0


def _numbers(dataset: Any, to: Field) -> list[int]:
    """Return by which numbers the table knows the field's columns now; none if they are gone."""
    numbers = {column.name(): column.id() for column in dataset.lance_schema.fields()}
    names = [column.name for column in field_columns(to)]
    return [numbers[name] for name in names] if set(names) <= set(numbers) else []


@contextmanager
def working_in(directory: Path, url: str) -> Iterator[Callable[[], Share]]:
    """Be one of the workers that have a file in this directory, while the block runs."""
    name = token_hex(8)
    aside, own = directory / f".{name}", directory / name
    with speaking(url):
        directory.mkdir(parents=True, exist_ok=True)
        file = aside.open("x")  # never what somebody else has put there
    with file:
        try:
            if _lock(file, exclusive=True) is None:
                yield lambda: EVERYTHING
                return
            with speaking(url):
                aside.rename(own)  # locked before others can see it
            yield lambda: share_of(name, _alive(directory, name))
        finally:
            own.unlink(missing_ok=True)
            aside.unlink(missing_ok=True)


def _alive(directory: Path, own: str) -> list[str]:
    """Return the other workers; forget those that have ended."""
    found = []
    for path in directory.iterdir():
        if path.name.startswith(".") or path.name == own:
            continue
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | _NOFOLLOW)) as file:
                if _lock(file, exclusive=False):
                    path.unlink(missing_ok=True)
                else:
                    found.append(path.name)
        except FileNotFoundError:  # it ended just now
            continue
        except OSError as error:
            if error.errno != errno.ELOOP:  # a link is not a worker
                raise
    return found


def _lock(file: IO[str], *, exclusive: bool) -> bool | None:
    """Lock a file until it is closed; say whether that could be done, or None where none has locks.

    False means that another process holds it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this file system has no locks
        return None
    return True
