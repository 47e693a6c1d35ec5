"""Make and open the directory in which a gallery is a LanceDB database."""

import secrets
from pathlib import Path
from typing import Any

from onward.artifacts import beside
from onward.errors import GalleryError
from onward.gallery.arrow_rows import given_rows, items_schema, record_table
from onward.gallery.lance_commits import connect, speaking
from onward.gallery.lancedb import FIRST_BITS, ITEMS, RECORD, LanceStore
from onward.gallery.record import Record
from onward.gallery.store import Rows
from onward.gallery.values import JournalEntry


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
            f"{path} holds {what} already; it was left as it is. Open it, or give another directory"
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
        GalleryError: if it is not there, or is no gallery.
    """
    if not path.exists():
        raise GalleryError(
            f"there is no gallery {path}; make it with create_gallery (onward gallery create)"
        )
    if not _is_gallery(path):
        raise GalleryError(
            f"{path} is not a gallery: a gallery is a directory that holds {ITEMS}.lance and "
            f"{RECORD}.lance. Give the directory that create_gallery made"
        )
    return LanceStore(path)


def _is_gallery(path: Path) -> bool:
    return all((path / f"{table}.lance").is_dir() for table in (ITEMS, RECORD))
