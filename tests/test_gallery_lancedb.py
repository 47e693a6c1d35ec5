"""What is special about a gallery in a directory: files, processes, damage, and memory."""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from rights import without_the_rights_of_root
from upgrades import OLD, embed

from onward.errors import GalleryError
from onward.evaluation.retrieval import search
from onward.gallery import create_gallery, open_gallery
from onward.gallery.lance import commits
from onward.gallery.lance import search as lance_search
from onward.gallery.lance.store import LanceStore
from onward.spaces import Embeddings, Space
from onward.transformation import linear

NEW = Space("new@2", 5)
EVERY_STORE = "memory:NAME, which lives as long as the process, and a directory such as"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "photos.lance"


@pytest.fixture
def gallery(path):
    gallery = create_gallery(path, OLD)
    gallery.add(embed(OLD, "abc"))
    return gallery


def test_importing_the_galleries_does_not_load_a_database():
    code = (
        "import sys, onward.gallery; "
        "print([m for m in ('lancedb', 'pyarrow', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_path_and_its_string_are_the_same_gallery(path, gallery):
    assert open_gallery(str(path)).ids() == open_gallery(path).ids() == ("a", "b", "c")
    assert gallery.url == str(path)


@pytest.mark.parametrize("url", ["s3://bucket/photos", "qdrant:photos", "postgresql://host/db"])
def test_an_unknown_scheme_lists_those_known(url):
    for verb in (open_gallery, create_gallery):
        with pytest.raises(GalleryError, match=f"no store is known for.*{EVERY_STORE}"):
            verb(url) if verb is open_gallery else verb(url, OLD)


def test_urls_without_a_name_are_refused():
    with pytest.raises(GalleryError, match="no store is known for an empty URL"):
        open_gallery("")
    with pytest.raises(GalleryError, match="a gallery in memory needs a name"):
        open_gallery("memory:")
    with pytest.raises(GalleryError, match="there is no gallery memory:nobody in this process"):
        open_gallery("memory:nobody")


def test_a_gallery_that_is_not_there_is_not_made_by_opening_it(path):
    with pytest.raises(GalleryError, match=r"there is no gallery .*; make it with create_gallery"):
        open_gallery(path)
    assert not path.exists()


def test_a_directory_or_a_file_that_is_no_gallery_is_refused_and_left_alone(path):
    path.mkdir()
    (path / "cat.png").write_bytes(b"cat")
    with pytest.raises(GalleryError, match=r"is not a gallery: .* items.lance and record.lance"):
        open_gallery(path)
    with pytest.raises(GalleryError, match="holds something that is not a gallery already"):
        create_gallery(path, OLD)
    assert [file.name for file in path.iterdir()] == ["cat.png"]
    with pytest.raises(GalleryError, match="is not a gallery"):
        open_gallery(path / "cat.png")
    with pytest.raises(GalleryError, match="holds something that is not a gallery already"):
        create_gallery(path / "cat.png", OLD)


def test_an_empty_directory_becomes_a_gallery_and_nothing_is_left_beside_it(path):
    path.mkdir()
    create_gallery(path, OLD)
    assert open_gallery(path).count() == 0
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("form", ["float16", "int8"])
def test_a_smaller_format_is_the_type_of_the_column(path, form):
    side = Space("side@1", 3, "l2", form)
    gallery = create_gallery(path, OLD, side)
    gallery.add_space(Space("later@1", 2, "l2", form))
    schema = lancedb.connect(path).open_table("items").schema
    number = {"float16": pa.float16(), "int8": pa.int8()}[form]
    assert schema.field("side_1").type == pa.list_(number, 3)
    assert schema.field("later_1").type == pa.list_(number, 2)


def test_a_gallery_that_was_moved_is_still_whole(path, gallery, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.move(path, moved)
    with pytest.raises(GalleryError, match=r"photos.lance is gone; restore it"):
        gallery.count()
    assert open_gallery(moved).ids() == ("a", "b", "c")


def of_inner_products(path, scale, *, long=()):
    """A gallery of 600 vectors of about that length, some of them much longer."""
    space, rng = Space("dot@1", 8, "ip"), np.random.default_rng(0)
    vectors = rng.standard_normal((600, 8)) * scale
    vectors[list(long)] *= 1e10
    items = Embeddings(tuple(f"i{row:03}" for row in range(600)), vectors.astype("f4"), space)
    queries = Embeddings(("q", "r"), rng.standard_normal((2, 8)).astype("f4"), space)
    return create_gallery(path, space, items=[items]), items, queries


@pytest.mark.parametrize("scale", [1e-17, 1e-9, 1, 1e16, 2.2e17])
def test_an_index_of_inner_products_finds_vectors_of_any_usual_length(path, scale):
    gallery, items, queries = of_inner_products(path, scale)
    gallery.build_index(items.space)
    near = gallery.search(queries, 10, approximate=True)
    exact = search(queries, items, 10, exclude_self=False)
    for row in (0, 1):
        assert len(set(near.ids_of(row)) & set(exact.ids_of(row))) >= 8


@pytest.mark.parametrize(("scale", "length"), [(1e-20, "e-20"), (1e20, r"e\+20")])
def test_an_index_in_which_inner_products_would_be_lost_is_refused(path, scale, length):
    gallery, items, queries = of_inner_products(path, scale)
    words = (
        rf"can have no index of dot@1 \(8, ip\): its longest vector has the length .*{length}, and "
        "Lance computes inner products in float32, for lengths from 1e-18 to 1.15292e.18. Search "
    )
    with pytest.raises(GalleryError, match=words):
        gallery.build_index(items.space)
    found = gallery.search(queries, 10, approximate=True)
    assert found.ids_of(0) == search(queries, items, 10, exclude_self=False).ids_of(0)


def test_where_an_index_has_lost_vectors_every_vector_is_read(path, monkeypatch):
    gallery, items, queries = of_inner_products(path, 1e20, long=range(0, 600, 2))
    monkeypatch.setattr(lance_search, "INDEXED_LENGTHS", (0, np.inf))
    gallery.build_index(items.space)
    found = gallery.search(queries, 10, approximate=True)
    exact = search(queries, items, 10, exclude_self=False)
    assert [found.ids_of(row) for row in (0, 1)] == [exact.ids_of(row) for row in (0, 1)]


def test_a_record_that_is_torn_is_damage(path, gallery):
    for file in (path / "record.lance" / "data").iterdir():
        file.write_bytes(b"")
    with pytest.raises(GalleryError, match="cannot be read or written"):
        open_gallery(path).describe()


def test_a_gallery_of_a_newer_format_is_refused(path, gallery, monkeypatch):
    monkeypatch.setattr("onward.gallery.record.WITHOUT_PAIR", 99)
    gallery.log({"event": "written by a newer Onward"})
    with pytest.raises(GalleryError, match="has format 99, this Onward reads up to 3; install"):
        open_gallery(path).describe()


def test_a_record_that_has_not_changed_is_not_read_again(path, gallery):
    """With the names of 100,000 classes, reading it takes longer than searching."""
    store = LanceStore(path)
    before = store.read_record()
    assert store.read_record() is before
    gallery.add_space(NEW)
    assert NEW in store.read_record().spaces


def test_an_open_gallery_sees_what_another_has_written(path, gallery):
    other = open_gallery(path)
    other.add_space(NEW)
    batch = next(iter(other.scan([OLD], without=[NEW])))
    gallery.update(embed(OLD, "a", 1))
    gallery.delete("b")
    assert other.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded") == 1
    assert gallery.ids([NEW]) == ("c",)
    gallery.serve(NEW, query_model="new")
    assert other.view().serving == NEW


def test_what_was_read_before_an_update_does_not_hide_what_was_read_after_it(path, gallery):
    gallery.add_space(NEW)
    ids = gallery.ids()
    next(gallery.scan([OLD], without=[NEW]))
    gallery.update(embed(OLD, ids, 5))
    batch = next(gallery.scan([OLD], without=[NEW]))
    assert gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded") == len(ids) > 0


def test_an_update_also_clears_a_space_that_another_process_has_just_added(path, gallery):
    other = open_gallery(path)
    gallery.count()
    other.add_space(NEW)
    batch = next(iter(other.scan([OLD], without=[NEW])))
    other.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded")
    gallery.update(embed(OLD, "a", 1))
    assert other.ids([NEW]) == ("b", "c")


@pytest.fixture
def before_first(monkeypatch):
    """Have something happen just before a method of LanceDB is first called on the items."""

    def arrange(name, happens):
        real, happened = getattr(lancedb.table.LanceTable, name), []

        def call(table, *arguments, **options):
            if table.name == "items" and not happened:
                happened.append(True)
                happens()
            return real(table, *arguments, **options)

        monkeypatch.setattr(lancedb.table.LanceTable, name, call)
        return happened

    return arrange


@pytest.mark.parametrize("verb", ["add", "update", "write"])
def test_a_space_that_is_dropped_while_rows_are_written_is_left_out(
    path, gallery, before_first, verb
):
    later = Space("later@3", 2)
    gallery.add_space(NEW)
    gallery.add_space(later)
    batch = next(iter(gallery.scan([OLD], without=[NEW])))
    dropped = before_first("merge_insert", lambda: open_gallery(path).drop_space(later))
    if verb == "write":
        made = embed(NEW, batch.ids)
        assert gallery.write(made, batch.revisions, origin="upgraded") == len(batch)
    else:
        getattr(gallery, verb)(embed(OLD, "x" if verb == "add" else "a", 1))
    assert dropped
    assert gallery.spaces() == (OLD, NEW)
    assert gallery.ids() == (("a", "b", "c", "x") if verb == "add" else ("a", "b", "c"))
    assert gallery.count([NEW]) == (3 if verb == "write" else 0)


@pytest.mark.parametrize("change", ["drop_space", "add_space"])
def test_spaces_may_change_between_looking_at_the_columns_and_reading_them(
    path, gallery, monkeypatch, change
):
    later = Space("later@3", 2)
    if change == "drop_space":
        gallery.add_space(later)
    real, changed = LanceStore._stream, []

    def change_first(store, condition, columns, batch_rows):
        if columns is None and not changed:
            changed.append(getattr(open_gallery(path), change)(later))
        return real(store, condition, columns, batch_rows)

    monkeypatch.setattr(LanceStore, "_stream", change_first)
    gallery.update(embed(OLD, "ab", 1))
    assert changed
    np.testing.assert_array_equal(gallery.read(OLD, "ab").vectors, embed(OLD, "ab", 1).vectors)


def test_a_space_is_added_and_indexed_beside_others_who_write(path, gallery, before_first):
    other = open_gallery(path)

    def conflict():
        other.delete("c")
        raise RuntimeError("Retryable commit conflict for version 5: preempted by Delete")

    failed = [before_first(name, conflict) for name in ("add_columns", "create_index")]
    gallery.add_space(NEW)
    gallery.add(*(embed(space, [f"{at}" for at in range(300)]) for space in (OLD, NEW)))
    gallery.build_index(NEW)
    assert failed == [[True], [True]]
    assert gallery.count([NEW]) == 300


@pytest.mark.parametrize("verb", ["describe", "state"])
def test_a_space_that_is_dropped_while_a_gallery_is_described_is_left_out(
    path, gallery, before_first, verb
):
    before = gallery.describe().to_json(), gallery.state()
    gallery.add_space(NEW)
    dropped = before_first("count_rows", lambda: open_gallery(path).drop_space(NEW))
    answer = getattr(gallery, verb)()
    assert dropped
    assert (answer if verb == "state" else answer.to_json()) in before


def test_vectors_for_a_space_that_is_dropped_meanwhile_are_refused(path, gallery, before_first):
    gallery.add_space(NEW)
    batch = next(iter(gallery.scan([OLD], without=[NEW])))
    before_first("merge_insert", lambda: open_gallery(path).drop_space(NEW))
    with pytest.raises(GalleryError, match="new_2"):
        gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded")
    assert gallery.ids() == ("a", "b", "c")


def test_conflicts_are_tried_again_but_not_for_ever(monkeypatch):
    monkeypatch.setattr("onward.gallery.lance.commits.LONGEST_PAUSE", 0)
    tried = []

    def conflicting():
        tried.append(1)
        if len(tried) % 3:
            raise RuntimeError("Retryable commit conflict for version 7")
        return "done"

    assert commits.commit("g", conflicting) == "done"
    assert len(tried) == 3

    def never():
        raise RuntimeError("Too many concurrent writers")

    with pytest.raises(GalleryError, match=r"gallery g is being changed by others: 20 tries .*run"):
        commits.commit("g", never)


@pytest.mark.parametrize("name", ["a conflict here", "conflict", "a timed out b"])
def test_a_word_in_the_name_of_a_directory_is_no_conflict(tmp_path, name):
    path = tmp_path / name / "g.lance"
    create_gallery(path, OLD).add(embed(OLD, "abc"))
    shutil.rmtree(path / "items.lance" / "data")
    with pytest.raises(GalleryError, match="cannot be read or written"):
        open_gallery(path).delete("a")


def test_a_tilde_at_the_beginning_of_a_path_is_a_directory_like_any_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create_gallery("~/g.lance", OLD).add(embed(OLD, "abc"))
    assert open_gallery("~/g.lance").count() == 3
    assert (tmp_path / "~" / "g.lance").is_dir()


@pytest.mark.slow
def test_a_directory_that_is_closed_to_writing_is_said_to_be(path, gallery):
    directories = [path, *(found for found in path.rglob("*") if found.is_dir())]
    for directory in directories:
        directory.chmod(0o500)
    with (
        without_the_rights_of_root(),
        pytest.raises(GalleryError, match="cannot be read or written"),
    ):
        gallery.delete("a")
    for directory in directories:
        directory.chmod(0o700)
    assert gallery.count() == 3


def test_compacting_merges_what_writing_scattered_and_frees_what_it_replaced(path, gallery):
    gallery.add_space(NEW)
    for batch in gallery.scan([OLD], without=[NEW], batch_rows=1):
        gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded")
    items = lancedb.connect(path).open_table("items")
    before = gallery.read(OLD).vectors, gallery.read(NEW).vectors, gallery.state()
    gallery.compact()
    items.checkout_latest()
    assert items.stats()["fragment_stats"]["num_fragments"] == 1
    assert len(items.list_versions()) > 1
    gallery.compact(keep=timedelta(0))
    items.checkout_latest()
    assert len(items.list_versions()) == 1
    after = gallery.read(OLD).vectors, gallery.read(NEW).vectors, gallery.state()
    for was, now in zip(before[:2], after[:2], strict=True):
        np.testing.assert_array_equal(was, now)
    assert after[2] == before[2]
    assert [entry["event"] for entry in gallery.journal()] == ["create", "add space"]


WRITES_OF_OTHERS = {
    "vectors": lambda items: items.update("id = 'a'", values={"old_1": [1.0, 2.0, 3.0, 4.0]}),
    "a label": lambda items: items.update("id = 'a'", values={"label": 7}),
    "a row is gone": lambda items: items.delete("id = 'a'"),
    "a column more": lambda items: items.add_columns({"more": "1"}),
    "another name": lambda items: items.alter_columns({"path": "label", "rename": "class"}),
    "compacted": lambda items: items.optimize(),
    "an old version": lambda items: items.restore(2),
}


@pytest.mark.parametrize("what", WRITES_OF_OTHERS)
def test_what_another_program_writes_into_the_table_changes_the_version(path, gallery, what):
    gallery.add(embed(OLD, "xy"))
    items = lancedb.connect(path).open_table("items")
    before = gallery.version()
    items.update("id = 'nobody'", values={"label": 7})
    assert gallery.version() == before
    WRITES_OF_OTHERS[what](items)
    assert gallery.version() != before


def test_what_another_program_writes_while_a_gallery_is_compacted_changes_the_version(
    path, gallery, monkeypatch
):
    from lance.optimize import Compaction

    gallery.add(embed(OLD, "xy"))
    before, real, between = gallery.version(), Compaction.execute, []

    def write_in_between(dataset, options):
        plan = Compaction.plan(dataset, options)
        rewritten = [task.execute(dataset) for task in plan.tasks]
        if not between:  # the items; the record comes after
            gallery.add(embed(OLD, "z"))
            between.append(gallery.version())
        Compaction.commit(dataset, rewritten)

    monkeypatch.setattr(Compaction, "execute", write_in_between)
    gallery.compact()
    assert gallery.version() == between[0] != before
    monkeypatch.setattr(Compaction, "execute", real)
    gallery.compact(keep=timedelta(0))
    assert gallery.version() == between[0]


COMMANDS = """
import sys
from onward.cli.app import app
for words in (
    "gallery create g.lance old.parquet", "search g.lance old.parquet -k 2",
    "upgrade g.lance h --yes --unjudged", "search g.lance new.parquet -k 2",
    "gallery delete g.lance i3", "gallery compact g.lance", "gallery add g.lance more.parquet",
    "gallery compact g.lance --keep-minutes 0", "gallery describe g.lance",
):
    print(f"--- {words}", file=sys.stderr, flush=True)
    app(words.split(), standalone_mode=False)
"""


def run_commands(directory, **environment):
    """What a process says on the terminal that runs COMMANDS; where the log goes is not told."""
    to_new = linear(OLD, None, NEW, np.eye(5, 4), np.zeros(5, np.float32), made_by={})
    to_new.save(directory / "h")
    old = embed(OLD, [f"i{row}" for row in range(300)])
    old.save(directory / "old.parquet")
    to_new.apply(old.select([1, 2])).save(directory / "new.parquet")
    embed(OLD, ["more"]).save(directory / "more.parquet")
    kept = {name: at for name, at in os.environ.items() if not name.startswith("LANCE")}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        cwd=directory,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"--- upgrade g.lance h --yes --unjudged", "--- gallery describe g.lance"} <= set(
        done.stderr.splitlines()
    )
    return done.stdout + done.stderr


LOGGED = re.compile(r"lance::|^\[\d{4}-|panicked|Warning|log file", re.MULTILINE)


@pytest.mark.slow
def test_what_lance_logs_goes_to_a_file_and_not_to_the_terminal(tmp_path):
    said = run_commands(tmp_path, XDG_STATE_HOME=str(tmp_path / "state"))
    assert not LOGGED.search(said), said
    logged = (tmp_path / "state" / "onward" / "lance.log").read_text()
    assert re.search(r"^\[\d{4}-.* WARN +lance.* partition 0 is empty", logged, re.MULTILINE), (
        logged
    )
    assert " INFO " not in logged


@pytest.mark.slow
def test_what_lance_logs_goes_where_it_is_asked_for(tmp_path):
    (tmp_path / "state").mkdir()
    said = run_commands(
        tmp_path, LANCE_LOG="info", LANCEDB_LOG="info", XDG_STATE_HOME=str(tmp_path / "state")
    )
    assert re.search(r"^\[\d{4}-.* INFO .*ompact", said, re.MULTILINE), said  # of lance
    assert re.search(r"^\[\d{4}-.* INFO .*kmeans", said, re.MULTILINE), said  # of lancedb
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        pytest.param({"XDG_STATE_HOME": "/dev/null"}, id="no-place"),
        pytest.param(
            {"LANCE_LOG_FILE": "/dev/full", "LANCE_LOG": "info"},
            marks=pytest.mark.skipif(
                not Path("/dev/full").exists(), reason="the system has no /dev/full"
            ),
            id="full-disk",
        ),
    ],
)
def test_a_log_that_cannot_be_written_stops_nothing_and_is_not_on_the_terminal(tmp_path, where):
    said = run_commands(tmp_path, **where)
    assert not LOGGED.search(said), said


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the environment says of the log; a test may say something first."""
    names = ("LANCE_LOG", "LANCE_LOG_FILE", "LANCEDB_LOG")
    for name in names:
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def keep_off(**said):
        for name, value in said.items():
            monkeypatch.setenv(name, value)
        commits.keep_off_the_terminal()
        return {name: os.environ[name] for name in names if name in os.environ}

    return keep_off


def test_the_log_lies_where_the_system_keeps_such_things(asked, monkeypatch, tmp_path):
    log = tmp_path / "state" / "onward" / "lance.log"
    expected = {"LANCE_LOG": "warn", "LANCE_LOG_FILE": str(log), "LANCEDB_LOG": "error"}
    assert asked() == expected
    assert log.stat().st_mode & 0o777 == 0o600
    for name in ("LANCE_LOG", "LANCE_LOG_FILE"):
        monkeypatch.delenv(name)
    log = tmp_path / ".local" / "state" / "onward" / "lance.log"
    assert asked(XDG_STATE_HOME="not/absolute", HOME=str(tmp_path))["LANCE_LOG_FILE"] == str(log)


@pytest.mark.parametrize(
    "said", [{"LANCE_LOG": "info"}, {"LANCE_LOG_FILE": "mine.log"}, {"LANCEDB_LOG": "debug"}]
)
def test_what_is_said_of_the_log_stays_as_it_was_said(asked, tmp_path, said):
    after = asked(**said)
    assert after.items() >= said.items()
    assert (tmp_path / "state").exists() == ("LANCEDB_LOG" in said)
    if "LANCEDB_LOG" not in said:
        assert after == said | {"LANCEDB_LOG": "error"}


def test_a_long_log_is_set_aside(asked, tmp_path):
    log = tmp_path / "state" / "onward" / "lance.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"long" * commits.LONGEST_LOG)
    assert asked()["LANCE_LOG_FILE"] == str(log)
    assert not log.exists()
    assert (log.parent / "lance.log.1").stat().st_size == 4 * commits.LONGEST_LOG


NO_PLACE = {
    "a file in the way": lambda log: log.parent.write_text("a file"),
    "a link": lambda log: (log.parent.mkdir(), log.symlink_to(log.parent / "elsewhere")),
    "a pipe": lambda log: (log.parent.mkdir(), os.mkfifo(log)),
    "no rights": lambda log: log.parent.parent.chmod(0o500),
}


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no links, pipes, rights like these"
)
@pytest.mark.parametrize("why", NO_PLACE)
def test_where_there_is_no_place_for_a_log_only_errors_are_logged(asked, tmp_path, why):
    state = tmp_path / "state"
    state.mkdir()
    NO_PLACE[why](state / "onward" / "lance.log")
    with without_the_rights_of_root() if why == "no rights" else nullcontext():
        assert asked() == {"LANCE_LOG": "error", "LANCEDB_LOG": "error"}
    assert not (state / "onward" / "elsewhere").exists()


@pytest.mark.parametrize("why", ["no home", "a name that Lance cannot read"])
def test_where_no_place_can_be_named_only_errors_are_logged(asked, monkeypatch, tmp_path, why):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    name = "" if why == "no home" else os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    assert asked(XDG_STATE_HOME=name) == {"LANCE_LOG": "error", "LANCEDB_LOG": "error"}


def _write_all(path, seed):
    """Update, delete and add rows again and again; tell what must be there at the end."""
    gallery = open_gallery(Path(path))
    rng = np.random.default_rng(seed)
    for number in range(25):
        mine = [f"{seed}-{row}" for row in rng.choice(200, 20, replace=False)]
        gallery.update(embed(OLD, mine, number))
        gallery.add(embed(OLD, [f"{seed}-new-{number}"]))
        if number:
            assert gallery.delete([f"{seed}-new-{number - 1}"]) == 1


@pytest.mark.slow
def test_compacting_beside_those_who_write_loses_nothing(path):
    ids = [f"{seed}-{row}" for seed in (1, 2) for row in range(200)]
    gallery = create_gallery(path, OLD, items=[embed(OLD, ids)])
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_all, args=(str(path), seed)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    compacted = 0
    while any(writer.is_alive() for writer in writers):
        gallery.compact()
        compacted += 1
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert compacted > 0
    assert gallery.ids() == tuple(sorted([*ids, "1-new-24", "2-new-24"]))
    expected = dict(zip(ids, embed(OLD, ids).vectors, strict=True))
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        for number in range(25):
            mine = [f"{seed}-{row}" for row in rng.choice(200, 20, replace=False)]
            expected |= dict(zip(mine, embed(OLD, mine, number).vectors, strict=True))
    found = gallery.read(OLD, ids)
    np.testing.assert_array_equal(found.vectors, np.stack([expected[item] for item in ids]))


def _add(path, first):
    gallery = open_gallery(Path(path))
    added = 0
    for number in range(10):
        try:
            gallery.add(embed(OLD, [f"{number}-{item}" for item in (first, "shared")]))
            added += 1
        except GalleryError as error:
            if "already: " not in str(error):
                raise
    gallery.log({"event": "added", "by": first, "batches": added})


@pytest.mark.slow
def test_two_processes_that_add_the_same_ids_make_each_row_once_and_whole(path):
    gallery = create_gallery(path, OLD)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add, args=(str(path), who)) for who in ("left", "right")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    ids = [item for batch in gallery.scan([OLD]) for item in batch.ids]
    assert len(ids) == len(set(ids)) == 20
    assert sum(item.endswith("shared") for item in ids) == 10
    entries = gallery.journal()[1:]
    assert sorted(entry["by"] for entry in entries) == ["left", "right"]
    assert sum(entry["batches"] for entry in entries) == 10
