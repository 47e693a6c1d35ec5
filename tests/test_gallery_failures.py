"""What goes wrong with a gallery in a directory is said with its cause and with what to do.

The system refuses, Lance gives up, or another program has written into the tables.
"""

import errno
import json
import resource
import shutil
from pathlib import Path

import lancedb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from upgrades import OLD, embed, numbered

from onward.errors import GalleryError
from onward.gallery import RecordedRoutes, create_gallery, open_gallery
from onward.gallery.lance import commits, fragments
from onward.spaces import Space

NEW = Space("new@2", 5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "photos.lance"


@pytest.fixture
def gallery(path):
    gallery = create_gallery(path, OLD)
    gallery.add(embed(OLD, "abc"))
    return gallery


CAUSES = {
    "no files left": (OSError(errno.EMFILE, "Too many open files"), "allow more .ulimit -n., and"),
    "said by Lance": (
        RuntimeError("LanceError(IO): Too many open files (os error 24) at path /g/x.lance"),
        "More files are open than are allowed",
    ),
    "a full disk": (
        RuntimeError("LanceError(IO): No space left on device (os error 28), /x.rs:1:2"),
        "No space left on device .os error 28.. The disk is full, .* make room, and run the same",
    ),
    "a quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "what you may use of it: make room"),
    "no rights": (
        RuntimeError("Permission denied (os error 13)"),
        "may not read or write its files: get the right",
    ),
    "read-only": (
        OSError(errno.EROFS, "Read-only file system"),
        "may not read or write its files: get the right",
    ),
    "no memory": (MemoryError(), "MemoryError. There is too little memory: free some, or ask for"),
    "a file is gone": (RuntimeError("Not found: /g/a.lance"), "or damaged, restore it from a copy"),
    "half a manifest": (OSError("file size is too small, /x.rs:3"), "changed, removed or damaged"),
    "anything else": (TypeError("what?"), "TypeError: what.. If its files were .* damaged"),
}


@pytest.mark.parametrize("what", CAUSES)
def test_what_lance_raises_is_said_with_its_cause_and_what_to_do(path, gallery, what):
    raised, words = CAUSES[what]

    def fail():
        raise raised

    message = rf"^gallery {path} cannot be read or written: .*{words}"
    with pytest.raises(GalleryError, match=message) as caught:
        commits.commit(str(path), fail)
    assert caught.value.__cause__ is raised
    assert ("damaged" in str(caught.value)) == ("damaged" in words)


def test_a_panic_of_lance_is_an_error_like_any_other_and_an_interrupt_is_not(path, gallery):
    class PanicException(BaseException):  # as pyo3 makes it
        pass

    with (
        pytest.raises(GalleryError, match="More files are open than are allowed"),
        commits.speaking(str(path)),
    ):
        raise PanicException('Os { code: 24, kind: TooManyOpenFiles, message: "Too many" }')
    with pytest.raises(KeyboardInterrupt):
        commits.commit(str(path), _interrupted)


def _interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize("verb", ["compact", "version", "open", "create"])
def test_where_no_more_files_may_be_open_that_is_said(path, gallery, tmp_path, verb):
    verbs = {
        "compact": gallery.compact,
        "version": gallery.version,
        "open": lambda: open_gallery(path),
        "create": lambda: create_gallery(tmp_path / "other.lance", OLD),
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, hard))
    try:
        with pytest.raises(GalleryError, match=r"Too many open files. More files .*ulimit -n"):
            verbs[verb]()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    verbs[verb]()
    assert gallery.ids() == ("a", "b", "c")
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")]


def test_where_no_more_may_be_written_to_the_disk_that_is_said_and_nothing_is_lost(path, gallery):
    many = embed(OLD, numbered(20_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(GalleryError, match=r"too large .* The disk is full, or .* make room"):
            gallery.add(many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert open_gallery(path).ids() == ("a", "b", "c")
    gallery.add(many)
    assert gallery.count() == 20_003


def _halve(directory):
    for file in directory.iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE = {
    "the items are gone": lambda path: shutil.rmtree(path / "items.lance"),
    "their versions are gone": lambda path: shutil.rmtree(path / "items.lance" / "_versions"),
    "their files are gone": lambda path: shutil.rmtree(path / "items.lance" / "data"),
    "the record is gone": lambda path: shutil.rmtree(path / "record.lance" / "_versions"),
    "half a version": lambda path: _halve(path / "items.lance" / "_versions"),
    "half a record": lambda path: _halve(path / "record.lance" / "_versions"),
    "half the files": lambda path: _halve(path / "items.lance" / "data"),
    "another table": lambda path: lancedb.connect(path).create_table(
        "items", pa.table({"id": ["a"]}), mode="overwrite"
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_files_that_were_taken_away_or_cut_are_said_to_be(path, gallery, what):
    DAMAGE[what](path)
    words = r"gallery .* cannot be read or written: .* changed, removed or damaged, restore it from"
    for one in (gallery.read, gallery.search):
        arguments = (OLD,) if one == gallery.read else (embed(OLD, "q"), 1)
        with pytest.raises(GalleryError, match=words):
            one(*arguments)
    with pytest.raises(GalleryError, match=r"restore it from a copy|is not a gallery"):
        open_gallery(path).add(embed(OLD, "d"))


def test_rows_cannot_be_added_beside_a_column_of_others_that_may_not_be_empty(path, gallery):
    items = lancedb.connect(path).open_table("items")
    items.add_columns({"shop": "'x'"})
    items.alter_columns({"path": "shop", "nullable": False})
    words = r"nothing was added to gallery .*: the column shop .* may not be empty.*nullable=True"
    with pytest.raises(GalleryError, match=words):
        gallery.add(embed(OLD, "d"))
    gallery.update(embed(OLD, "b", 5))
    gallery.add_space(NEW)
    for batch in gallery.scan([OLD], without=[NEW]):
        assert gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded") == 3
    items.checkout_latest()
    assert items.to_arrow()["shop"].to_pylist() == ["x", "x", "x"]
    items.alter_columns({"path": "shop", "nullable": True})
    gallery.add(embed(OLD, "d"))
    assert gallery.ids([OLD]) == ("a", "b", "c", "d")


def test_a_column_of_others_keeps_what_is_in_it_when_a_row_is_updated(path, gallery):
    items = lancedb.connect(path).open_table("items")
    items.add_columns({"shop": "id"})
    gallery.update(embed(OLD, "ab", 5))
    items.checkout_latest()
    rows = items.to_arrow()
    assert rows["shop"].to_pylist() == rows["id"].to_pylist()


CHANGES_OF_COLUMNS = {
    "the vectors": ("old_1", None),
    "the origins": ("old_1__origin", None),
    "the revisions": ("revision", None),
    "another type": ("old_1", pa.list_(pa.float16(), 4)),
}


@pytest.mark.parametrize("what", CHANGES_OF_COLUMNS)
def test_nothing_is_written_where_another_program_has_changed_the_columns(path, gallery, what):
    name, to = CHANGES_OF_COLUMNS[what]
    items = lancedb.connect(path).open_table("items")
    if to is None:
        items.drop_columns([name])
    else:
        items.alter_columns({"path": name, "data_type": to})
    before = gallery.version()
    words = rf"nothing was written to gallery .* needs the column {name} of .*, another program"
    for verb, items in ((gallery.add, "d"), (gallery.update, "a")):
        with pytest.raises(GalleryError, match=words):
            verb(embed(OLD, items))
    assert gallery.version() == before


def test_a_column_that_another_program_has_given_another_type_is_not_filled(
    path, gallery, monkeypatch
):
    monkeypatch.setattr(fragments, "FEWEST_ROWS", 1)
    gallery.add_space(NEW, made_by=RecordedRoutes("x", NEW))
    items = lancedb.connect(path).open_table("items")
    items.alter_columns({"path": "new_2", "data_type": pa.list_(pa.float16(), NEW.dim)})
    filling = gallery.fill(NEW, [OLD], lambda batch: (embed(NEW, batch.ids), None), made_by="x")
    with pytest.raises(
        GalleryError, match=r"needs the column new_2 of .* has one of the type .*half"
    ):
        next(filling)
    assert gallery.count([NEW]) == 0


def test_a_vector_that_another_program_has_taken_away_is_missed(path, gallery):
    items = lancedb.connect(path).open_table("items")
    row = items.to_arrow().filter(pc.field("id") == "b")
    at = row.schema.get_field_index("old_1")
    row = row.set_column(at, row.schema.field("old_1"), pa.nulls(1, row["old_1"].type))
    items.merge_insert("id").when_matched_update_all().execute(row)
    words = (
        r"1 items have an origin but no vector in old@1 .*: 'b'. Another .* emptied .* update\(\)"
    )
    with pytest.raises(GalleryError, match=words):
        gallery.read(OLD)
    gallery.update(embed(OLD, "b"))
    assert gallery.read(OLD).ids == ("a", "b", "c")


@pytest.mark.parametrize("text", ["x", "[1]", "{", "[" * 5000])
def test_a_payload_that_another_program_has_written_is_said_to_be_none(path, gallery, text):
    items = lancedb.connect(path).open_table("items")
    items.update("id = 'b'", values={"payload": text})
    words = r"the payload of item 'b' in gallery .* is not a JSON object .*another program"
    with pytest.raises(GalleryError, match=words):
        gallery.payloads("ab")
    gallery.update(embed(OLD, "b"), payloads=[{"at": 1}])
    assert gallery.payloads("ab") == [None, {"at": 1}]


RECORDS = {
    "it is gone": lambda record: record.delete("number = 0"),
    "no JSON": lambda record: record.update("number = 0", values={"content": "x"}),
    "not its keys": lambda record: record.update("number = 0", values={"content": "{}"}),
    "no record": lambda record: record.update("number = 0", values={"content": "[1]"}),
    "a format of letters": lambda record: record.update(
        "number = 0", values={"content": json.dumps({"format": "1"})}
    ),
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_that_was_changed_by_others_is_said_to_be(path, gallery, what):
    RECORDS[what](lancedb.connect(path).open_table("record"))
    for verb in (gallery.describe, lambda: gallery.log({"event": "note"})):
        with pytest.raises(
            GalleryError, match=r"the record of gallery .* changed or removed .*copy"
        ):
            verb()
