"""The gallery in a directory, loaded only where one is opened: LanceDB tables `items` and `record`.

Every write is one commit of Lance, so a process may be killed at any moment. A row is rewritten as
a whole, in a merge that only updates, on the condition that its column `change` is what it was when
the row was read: a deleted row is not born again, and nobody's writing is lost. In the table
`record`, row 0 is the record and row n the n-th entry of the journal; a merge replaces the one and
inserts the other on the condition that nobody else has.
"""

import json
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from onward.artifacts import beside
from onward.errors import GalleryError, OnwardError
from onward.evaluation.retrieval import Ranking
from onward.fusion import FusedEmbeddings
from onward.gallery.lance.commits import commit, connect, open_dataset, speaking
from onward.gallery.lance.fragments import (
    Filler,
    compact_table,
    content_version,
    count_scattered,
    working_in,
)
from onward.gallery.lance.rows import (
    IDS_A_QUERY,
    batch_columns,
    check_columns,
    check_insertable,
    field_columns,
    given_rows,
    items_schema,
    names_of,
    read_batch,
    record_table,
    rows_in,
    rows_of,
    rows_where,
    vectors_of,
    where_kept,
    with_given,
    with_vectors,
    without_changes,
)
from onward.gallery.lance.search import (
    BLOCK_BYTES,
    Asked,
    Lengths,
    build_index,
    has_index,
    search_pair,
    search_table,
)
from onward.gallery.record import FORMAT, Field, Record
from onward.gallery.store import Batch, Filling, JournalEntry, Near, Rows, Scan, Share, Writing
from onward.spaces import Embeddings, Ids, Origin

os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(256 << 20))
"""Lance would read up to 2 GiB ahead of who reads slower than the disk. A page of each column must
fit, or it hangs: pages of vectors take up to 32 MiB."""

ITEMS, RECORD, WORKERS = "items", "record", "workers"
READ_ROWS = 2048
"""The most rows that are read at a time: Lance reads many such batches ahead."""
KEPT_BATCHES = 2
"""Number of batches of whole rows kept to be written: one, while the next is read."""
LEAST_KEPT = timedelta(milliseconds=1)
"""LanceDB warns of less."""
REWRITE_TRIES = 20
FIRST_BITS, STEP_BITS = 60, 40
"""`revision` and `change` start anywhere below 2^60 and grow by less than 2^40 a time: they are
never the same again, and eight million changes of one row fit."""


class LanceStore:
    """A store in a directory; see `onward.gallery.store.Store`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table = path / f"{ITEMS}.lance"
        self._lengths = Lengths(self._table)
        self._last_read: deque[pa.Table] = deque(maxlen=KEPT_BATCHES)
        with speaking(self.url):
            database = connect(path)
            self._items: Any = database.open_table(ITEMS)
            self._record: Any = database.open_table(RECORD)

    @property
    def url(self) -> str:
        """The directory."""
        return str(self._path)

    def read_record(self) -> Record:
        """Return row 0 of the table `record`."""
        with speaking(self.url):
            contents = self._record.search().where("number = 0").to_arrow()["content"].to_pylist()
        try:
            (content,) = contents
            record, number = _parse_record(self.url, content)
        except (AttributeError, LookupError, TypeError, ValueError, OnwardError) as error:
            raise GalleryError(
                f"the record of gallery {self.url}, which says what the gallery holds, was changed "
                f"or removed by something else ({type(error).__name__}: {error})",
                "restore the gallery from a copy",
            ) from error
        if record is not None:
            return record
        raise GalleryError(
            f"gallery {self.url} has format {number}, this Onward reads up to {FORMAT}",
            "install a newer Onward",
        )

    def change_record(self, record: Record, entry: JournalEntry) -> bool:
        """Replace row 0 and insert the entry, in one merge."""
        table = record_table(record, entry)

        def merge() -> bool:
            merging = self._record.merge_insert("number").when_matched_update_all(
                where="target.number = 0 AND target.revision = source.revision - 1"
            )
            result = merging.when_not_matched_insert_all().execute(table)
            return bool(result.num_updated_rows == 1)

        return commit(self.url, merge)

    def journal(self) -> list[JournalEntry]:
        """Return the other rows of the table `record`, by number."""
        with speaking(self.url):
            table = self._record.search().where("number > 0").to_arrow().sort_by("number")
            return [json.loads(content) for content in table["content"].to_pylist()]

    def add_column(self, added: Field) -> bool:
        """Add three columns of nulls: a change of the schema, whatever the number of rows."""
        names = {column.name for column in field_columns(added)}

        def add() -> bool:
            if names & set(self._items.schema.names):
                return False
            try:
                self._items.add_columns(pa.schema(field_columns(added)))
            except Exception:
                if names & set(self._items.schema.names):  # another process was quicker
                    return False
                raise
            return True

        return commit(self.url, add)

    def drop_column(self, column: str) -> None:
        """Drop the three columns."""
        names = set(names_of(column))

        def drop() -> None:
            there = sorted(names & set(self._items.schema.names))
            if there:
                self._items.drop_columns(there)

        commit(self.url, drop)

    def insert(self, rows: Rows) -> Ids:
        """Insert rows by a merge that inserts only.

        If another process inserts one of the ids at the same moment, what was inserted here is
        taken back.
        """
        there = self._there(rows.ids)
        if there:
            return tuple(item for item in rows.ids if item in there)
        token = secrets.randbits(FIRST_BITS)

        def merge() -> int:
            schema = self._items.schema
            check_columns(self.url, schema, tuple(rows.vectors))
            check_insertable(self.url, schema)
            table = given_rows(rows, schema, token)
            merging = self._items.merge_insert("id").when_not_matched_insert_all()
            try:
                result = merging.use_index(False).execute(table, on_bad_vectors="null")
            except Exception as error:
                if self._lacks_columns_of(table):
                    raise RuntimeError("in conflict with dropping a column") from error
                raise
            return int(result.num_inserted_rows)

        if commit(self.url, merge) == len(rows.ids):
            return ()
        commit(self.url, lambda: self._items.delete(f"revision = {token}"))
        there = self._there(rows.ids)
        return tuple(item for item in rows.ids if item in there)

    def update(self, rows: Rows) -> Ids:
        """Rewrite rows with the new values given."""
        unknown = set(rows.ids) - self._there(rows.ids)
        if not unknown:
            token = secrets.randbits(FIRST_BITS)

            def changed(stored: pa.Table, step: int) -> pa.Table:
                check_columns(self.url, stored.schema, tuple(rows.vectors))
                return with_given(stored, rows, token, step)

            self._rewrite(rows.ids, changed)
        return tuple(item for item in rows.ids if item in unknown)

    def delete(self, ids: Ids) -> int:
        """Delete rows, some thousands in a commit."""
        deleted = 0
        for condition in rows_of(ids):
            result: Any = commit(self.url, partial(self._items.delete, condition))
            deleted += int(result.num_deleted_rows)
        return deleted

    def write(self, writing: Writing) -> int:
        """Rewrite those rows that may get the vectors."""

        def changed(stored: pa.Table, step: int) -> pa.Table:
            check_columns(self.url, stored.schema, [writing.to])
            return with_vectors(stored, writing, step)

        return self._rewrite(writing.embeddings.ids, changed, partial(where_kept, writing))

    def fill(self, filling: Filling) -> Iterator[int]:
        """Write new files beside large fragments."""
        self._last_read.clear()
        return Filler(self._table, self.url, filling).fill()

    def count(
        self, filled: Sequence[Field], empty: Sequence[Field], origin: Origin | None = None
    ) -> int:
        """Count rows by their columns of origins; vectors are not read."""
        with speaking(self.url):
            return int(self._items.count_rows(rows_where(filled, empty, origin) or None))

    def scan(self, scan: Scan) -> Iterator[Batch]:
        """Stream the rows of one version of the table."""
        to_be_written = bool(scan.wanted) and bool(scan.empty)
        columns = None if to_be_written else batch_columns(scan.wanted)
        condition, ids = rows_where([*scan.wanted, *scan.filled], scan.empty, None), scan.ids
        conditions = [rows_in(scan.share, condition)] if ids is None else rows_of(ids, condition)
        for one in conditions:
            for table in self._stream(one, columns, scan.batch_rows):
                if to_be_written:
                    self._last_read.append(table)
                yield read_batch(table, scan.wanted)

    def working_on(self, field: Field) -> AbstractContextManager[Callable[[], Share]]:
        """Hold a lock on a file in the gallery's directory."""
        return working_in(self._path / WORKERS / field.column, self.url)

    def payloads(self, ids: Ids) -> Mapping[str, str]:
        """Return the payloads that there are."""
        found: dict[str, str] = {}
        for condition in rows_of(ids, "payload IS NOT NULL"):
            for table in self._stream(condition, ["id", "payload"], IDS_A_QUERY):
                found |= dict(
                    zip(table["id"].to_pylist(), table["payload"].to_pylist(), strict=True)
                )
        return found

    def search(
        self, of: Field, queries: Embeddings, k: int, *, exclude_self: bool, approximate: bool
    ) -> Ranking:
        """Let Lance choose candidates where it can, and rank by exact distances."""
        with speaking(self.url):
            filled = int(self._items.count_rows(rows_where([of], (), None)))
            indexed = approximate and has_index(self._items, of)
            asked = Asked(of, min(k, max(1, filled)), exclude_self, filled, indexed)
            metric = of.space.metric  # without an index Lance chooses well by some
            odd = None if metric != "cosine" else self._lengths.odd_one(of, self._items.version)
            by_lance = indexed or (metric != "ip" and odd is None)
            everything = partial(self._parts, of)
            return search_table(self._items, asked, queries, everything, by_lance=by_lance)

    def near(self, pair: tuple[Field, Field], queries: FusedEmbeddings, count: int) -> Near | None:
        """Ask the indexes of both fields at the same time, each for both vectors of a row."""
        with speaking(self.url):
            return search_pair(self._items, pair, queries, count)

    def _parts(self, of: Field) -> Iterator[Embeddings]:
        rows = max(1, BLOCK_BYTES // (4 * of.space.dim))
        for part in self._stream(rows_where([of], (), None), ["id", of.column], rows):
            yield Embeddings(tuple(part["id"].to_pylist()), vectors_of(part, of), of.space)

    def build_index(self, of: Field) -> None:
        """Build an inverted file of vectors in 8 bits a number, for approximate search."""

        def build() -> None:
            build_index(self._items, of, self.url, self._parts(of), self._lengths)

        commit(self.url, build)

    def compact(self, keep: timedelta) -> None:
        """Merge small fragments, index new rows, and forget old versions, in both tables."""
        self._last_read.clear()
        pa.default_memory_pool().release_unused()  # merging takes memory too
        for name in (ITEMS, RECORD):
            table = self._path / f"{name}.lance"
            commit(self.url, partial(compact_table, table, max(keep, LEAST_KEPT)))

    def version(self) -> str:
        """Return a digest of which files hold the rows: every write of Lance makes others."""
        with speaking(self.url):
            return content_version(open_dataset(self._table))

    def revision_sum(self) -> int:
        """Return the sum of the column `revision`, modulo 2^64."""
        total = 0
        for table in self._stream("", ["revision"], 1 << 16):
            total += int(table["revision"].to_numpy().astype(np.uint64).sum(dtype=np.uint64))
        return total % 2**64

    @contextmanager
    def scratch(self, record: Record, entry: JournalEntry) -> Iterator["LanceStore"]:
        """Make a database in a temporary directory."""
        try:
            with TemporaryDirectory(prefix="onward-") as directory:
                yield create_lancedb(Path(directory) / "scratch.lance", record, entry)
        except (GalleryError, OSError) as error:
            raise GalleryError(
                f"the time to write could not be measured where temporary files go: {error}. "
                f"Nothing was written to gallery {self.url}",
                "set TMPDIR to a directory with room",
            ) from error

    def rewritten_bytes(self) -> int:
        """Return the mean size of a row, times the share of the rows that are rewritten."""
        with speaking(self.url):
            stats = self._items.stats()
            scattered, rows = count_scattered(self._table)
        return int(stats["total_bytes"]) * scattered // rows**2 if rows else 0

    def _there(self, ids: Ids) -> set[str]:
        """Return those of the ids that are there."""
        # A long list of ids takes longer to parse than the column to read.
        conditions = rows_of(ids) if len(ids) <= IDS_A_QUERY else [""]
        wanted, there = pa.array(ids, pa.string()), set[str]()
        for condition in conditions:
            for table in self._stream(condition, ["id"], 1 << 16):
                found = table["id"]
                there.update(found.filter(pc.is_in(found, value_set=wanted)).to_pylist())
        return there

    def _stream(
        self, condition: str, columns: list[str] | None, batch_rows: int
    ) -> Iterator[pa.Table]:
        """Give what one version of the table holds, in tables of `batch_rows` and a last one."""
        with speaking(self.url):
            query = self._items.search()
            query = query.where(condition) if condition else query
            query = query.select(columns) if columns else query
            reader = query.to_batches(min(batch_rows, READ_ROWS))
            parts: list[pa.Table] = []
            held = 0
            for part in reader:
                parts.append(pa.Table.from_batches([part]))
                held += part.num_rows
                while held >= batch_rows:
                    together = pa.concat_tables(parts)
                    yield together.slice(0, batch_rows)
                    parts, held = [together.slice(batch_rows)], held - batch_rows
            if held:
                yield pa.concat_tables(parts)

    def _kept_rows(self, ids: Ids) -> pa.Table | None:
        """Return whole rows of a batch that was read to be written, if one holds them all."""
        schema = self._items.schema
        for batch in tuple(self._last_read):
            if batch.schema.names == schema.names:
                chosen = pc.is_in(batch["id"], value_set=pa.array(ids, pa.string()))
                held = pc.sum(chosen).as_py()
                if held == len(ids):
                    return (batch if held == len(batch) else batch.filter(chosen)).cast(schema)
        return None

    def _rows(self, ids: Ids) -> pa.Table:
        """Return whole rows as they are stored now, also where a space is added or dropped."""
        for _ in range(REWRITE_TRIES):
            schema = self._items.schema
            parts = [part for one in rows_of(ids) for part in self._stream(one, None, IDS_A_QUERY)]
            if all(part.schema.names == schema.names for part in parts):
                return pa.concat_tables([schema.empty_table(), *(p.cast(schema) for p in parts)])
        raise RuntimeError("spaces were added or dropped all the time")

    def _rewrite(
        self,
        ids: Ids,
        changed: Callable[[pa.Table, int], pa.Table],
        also: Callable[[pa.Schema], str] = lambda _: "",
    ) -> int:
        """Write changed rows where nobody else has written since they were read.

        Args:
            ids: of the rows.
            changed: gives, of rows as they are stored, those to be written, with the step added to
                their column `change`.
            also: gives a further condition, of the columns of these rows.

        Returns:
            How many rows were written.
        """
        step = 1 + secrets.randbits(STEP_BITS)
        unchanged = f"target.change = source.change - {step}"
        written, expected = 0, dict[str, int]()
        with speaking(self.url):
            kept = self._kept_rows(ids)
        for _ in range(REWRITE_TRIES):
            with speaking(self.url):
                stored, was_kept, kept = kept, kept is not None, None
                stored = self._rows(ids) if stored is None else stored
                new = changed(without_changes(stored, expected), step)
            if was_kept and len(new) < len(ids):
                continue  # it was kept from before the rows were what is to be replaced
            if not len(new):
                return written
            try:
                condition = unchanged + also(new.schema)
                count = commit(self.url, partial(self._merge, new, condition))
            except GalleryError:
                if self._lacks_columns_of(new):
                    continue
                raise
            written += count
            if count == len(new):
                return written
            ids = tuple(new["id"].to_pylist())
            expected = dict(zip(ids, new["change"].to_pylist(), strict=True))
        raise GalleryError(
            f"{len(ids)} rows of gallery {self.url} were changed by others {REWRITE_TRIES} times "
            "while they were to be written here",
            "try again when fewer processes write them",
        )

    def _lacks_columns_of(self, rows: pa.Table) -> bool:
        """Say whether columns were dropped since these rows were made: none of them is written."""
        with speaking(self.url):
            return not set(rows.schema.names) <= set(self._items.schema.names)

    def _merge(self, table: pa.Table, condition: str) -> int:
        merging = self._items.merge_insert("id").when_matched_update_all(where=condition)
        result = merging.use_index(False).execute(table, on_bad_vectors="null")
        return int(result.num_updated_rows)


def create_lancedb(
    path: Path, record: Record, entry: JournalEntry, rows: Rows | None = None
) -> LanceStore:
    """Make a database in a directory that is not there or empty; it is there whole or not at all.

    Raises:
        GalleryError: if something stands there already.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        what = "a gallery" if _is_gallery(path) else "something that is not a gallery"
        raise GalleryError(
            f"{path} holds {what} already",
            "it was left as it is. Open it, or give another directory",
        )
    with speaking(str(path), "created"), beside(path) as aside:
        database = connect(aside)
        schema = items_schema(record.fields)
        first = None if rows is None else given_rows(rows, schema, secrets.randbits(FIRST_BITS))
        items: Any = database.create_table(ITEMS, first, schema, on_bad_vectors="null")
        items.set_unenforced_primary_key("id")  # makes two inserts of one id conflict
        database.create_table(RECORD, data=record_table(record, entry))
        aside.rename(path)
    return LanceStore(path)


def open_lancedb(path: Path) -> LanceStore:
    """Open the database in a directory.

    Raises:
        GalleryError: if it is not there, or is not a gallery.
    """
    if not path.exists():
        raise GalleryError(
            f"there is no gallery {path}", "make it with create_gallery", step="create_gallery"
        )
    if not _is_gallery(path):
        raise GalleryError(
            f"{path} is not a gallery: a gallery is a directory that holds {ITEMS}.lance and "
            f"{RECORD}.lance. Give the directory that create_gallery made"
        )
    return LanceStore(path)


def _is_gallery(path: Path) -> bool:
    return all((path / f"{table}.lance").is_dir() for table in (ITEMS, RECORD))


@lru_cache(maxsize=4)
def _parse_record(url: str, content: str) -> tuple[Record | None, int]:
    """Return a record, if this Onward reads its format, and the format.

    The last ones are kept: with the names of 100,000 classes, reading takes longer than searching.
    """
    written = json.loads(content)
    number = written["format"]
    return (Record.from_json(url, written) if number <= FORMAT else None), number
