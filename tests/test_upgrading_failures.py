"""What may go wrong around an upgrade: each a clear error, nothing lost, and afterwards it ends."""

import resource
import shutil
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import lancedb
import pytest
from rights import without_the_rights_of_root
from upgrades import OLD, SECOND, SIDE, TO_SECOND, embed, make_gallery, numbered, start_upgrade

from onward.errors import GalleryError, UpgradeError
from onward.gallery import open_gallery
from onward.upgrading import Upgrade, Verification
from onward.upgrading.backfill import Budget, backfill, embeddings_given

ROWS = 60
IDS = numbered(ROWS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "photos.lance"


@pytest.fixture
def gallery(path):
    return make_gallery(path, ROWS)


def state_of(gallery):
    """Return what no failure may change."""
    now = gallery.describe()
    given = [gallery.read(space).vectors.tobytes() for space in (OLD, SIDE)]
    return gallery.ids(), given, now.serving, now.query_model, now.record.previous


def run_and_verify(gallery, transformation=TO_SECOND):
    """Carry the upgrade out, wherever it stands, up to cutting over."""
    upgrade = start_upgrade(gallery, transformation)
    assert upgrade.run().remaining == 0
    assert upgrade.verify(sample_rows=None).passed
    return upgrade


def finish(gallery, transformation=TO_SECOND):
    """Carry the upgrade out, wherever it stands."""
    upgrade = run_and_verify(gallery, transformation)
    upgrade.cut_over(query_model="second")
    assert len(gallery.search(embed(transformation.new, ["q"]), ROWS).ids_of(0)) == ROWS


# The disk is full


def backfill_some(upgrade):
    given = embeddings_given(embed(SECOND, IDS))
    options = {"budget": Budget(rows=30), "order": "random", "batch_rows": 10}
    return backfill(upgrade.gallery, SECOND, given, **options)


STEPS = {
    "start": lambda upgrade: upgrade.start(),
    "run": lambda upgrade: upgrade.run(batch_rows=20),
    "verify": lambda upgrade: upgrade.verify(sample_rows=None),
    "cut over": lambda upgrade: upgrade.cut_over(query_model="second"),
    "backfill": backfill_some,
    "roll back": lambda upgrade: upgrade.roll_back(),
    "complete": lambda upgrade: upgrade.complete(now=True),
}


def go_as_far_as(name, upgrade):
    for step, take in STEPS.items():
        if step == name:
            return
        if step != "roll back":
            take(upgrade)


@contextmanager
def no_room_for_files():
    """Let every write to a file fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


NO_ROOM = r"gallery .*photos.lance cannot be .*The disk is full.* run the same again"


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_a_step_for_which_there_is_no_room_changes_nothing_and_is_taken_later(path, gallery, name):
    upgrade = Upgrade(gallery, TO_SECOND)
    go_as_far_as(name, upgrade)
    before, entries = state_of(gallery), gallery.journal()
    with no_room_for_files(), pytest.raises(GalleryError, match=NO_ROOM):
        STEPS[name](upgrade)
    assert (state_of(open_gallery(path)), open_gallery(path).journal()) == (before, entries)
    STEPS[name](upgrade)
    finish(open_gallery(path))


@pytest.fixture
def small_disk(tmp_path):
    """Give a directory with 1 MiB of room."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small disk cannot be made here: mounting one takes the rights of root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_run_that_fills_the_disk_goes_on_when_there_is_room(small_disk):
    gallery = make_gallery(small_disk / "photos.lance", ROWS)
    upgrade = start_upgrade(gallery, TO_SECOND)
    before, failed = state_of(gallery), 0
    for kibibytes in (4, 8, 16, 32, 48):
        filled = small_disk / "something else"
        filled.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 1024 * kibibytes))
        try:
            with suppress(GalleryError):
                failed += 1
                upgrade.run(batch_rows=10)
                failed -= 1
        finally:
            filled.unlink()
        assert state_of(open_gallery(gallery.url)) == before
    assert failed
    finish(gallery)


# A file is removed, damaged, or closed to us


@pytest.mark.slow
@pytest.mark.parametrize("part", ["data", "_versions"])
@pytest.mark.parametrize("table", ["items", "record"])
def test_a_file_that_is_gone_is_said_to_be_and_with_it_back_the_run_ends(
    path, gallery, table, part
):
    upgrade = start_upgrade(gallery, TO_SECOND)
    before = state_of(gallery)
    directory, aside = path / f"{table}.lance" / part, path.parent / "aside"
    told = []

    def remove(done, total):
        if done == 20:
            told.append(done)
            directory.rename(aside)

    words = r"photos.lance cannot be read or written: .*restore it from a copy"
    with pytest.raises(GalleryError, match=words):
        upgrade.run(batch_rows=20, progress=remove)
    assert told
    shutil.rmtree(directory, ignore_errors=True)  # what was written since is in it
    aside.rename(directory)
    assert state_of(open_gallery(path)) == before
    finish(open_gallery(path))


@pytest.mark.slow
def test_a_gallery_that_is_gone_is_said_to_be_and_found_again(path, gallery):
    upgrade = start_upgrade(gallery, TO_SECOND)
    before = state_of(gallery)
    path.rename(path.with_name("elsewhere"))
    for step in (upgrade.run, upgrade.verify, upgrade.status):
        with pytest.raises(GalleryError, match=r"photos.lance is gone; restore it from a copy"):
            step()
    path.with_name("elsewhere").rename(path)
    assert state_of(open_gallery(path)) == before
    finish(open_gallery(path))


@pytest.mark.slow
@pytest.mark.parametrize("table", ["items", "record"])
def test_a_run_that_may_read_but_not_write_says_so_and_with_the_right_to_it_ends(table):
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # where nobody may look
        Path(directory).chmod(0o755)
        path = Path(directory) / "photos.lance"
        upgrade = start_upgrade(make_gallery(path, ROWS), TO_SECOND)
        before = state_of(upgrade.gallery)
        closed = [path / f"{table}.lance", *(path / f"{table}.lance").rglob("*")]
        modes = {one: one.stat().st_mode for one in closed}
        for one in closed:
            one.chmod(0o555 if one.is_dir() else 0o444)
        words = (
            r"cannot be read or written: .*[Pp]ermission denied.*may not read or write its files"
        )
        with without_the_rights_of_root():
            assert Upgrade(open_gallery(path), TO_SECOND).status().work.to_do == ROWS
            with pytest.raises(GalleryError, match=words):
                Upgrade(open_gallery(path), TO_SECOND).run()
        assert state_of(open_gallery(path)) == before
        for one, mode in modes.items():
            one.chmod(mode)
        finish(open_gallery(path))


# What is stored, or what is made of it, is no vector


# Another program writes into the store


WRITES_OF_OTHERS = {
    "a new vector": lambda items: items.update(
        f"id = '{IDS[3]}'", values={"second_2": [1.0] * SECOND.dim}
    ),
    "a label": lambda items: items.update(f"id = '{IDS[3]}'", values={"label": 7}),
    "a row": lambda items: items.delete(f"id = '{IDS[3]}'"),
    "a column": lambda items: items.add_columns({"more": "1"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WRITES_OF_OTHERS)
def test_a_verification_goes_stale_when_another_program_writes(path, gallery, what):
    upgrade = run_and_verify(gallery)
    assert upgrade.status().verification == "passed"
    WRITES_OF_OTHERS[what](lancedb.connect(path).open_table("items"))
    assert upgrade.status().verification == "stale"
    with pytest.raises(UpgradeError, match="rows have changed since its upgrade was verified"):
        upgrade.cut_over(query_model="second")
    assert gallery.view().serving == OLD
    verification = upgrade.verify(sample_rows=None)
    assert verification.passed == (what != "a new vector")
    assert verification.wrong_examples == ((IDS[3],) if what == "a new vector" else ())


@pytest.mark.slow
def test_what_onward_itself_notes_and_builds_leaves_a_verification_fresh(path, gallery):
    upgrade = run_and_verify(gallery)
    gallery.log({"event": "a note"})
    upgrade.limit(100.0)
    gallery.build_index(SECOND)
    gallery.compact()
    other = Upgrade(open_gallery(path), TO_SECOND)
    assert other.status().verification == "passed"
    assert other.cut_over(query_model="second").serving == SECOND


@pytest.mark.slow
def test_of_a_verification_from_before_versions_the_state_alone_tells(gallery, monkeypatch):
    written = Verification.to_json
    monkeypatch.setattr(
        Verification,
        "to_json",
        lambda self: {name: one for name, one in written(self).items() if name != "version"},
    )
    upgrade = run_and_verify(gallery)
    assert "version" not in gallery.journal()[-1]
    assert upgrade.status().verification == "passed"
    gallery.delete([IDS[3]])
    assert upgrade.status().verification == "stale"
