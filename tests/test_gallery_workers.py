"""Those who fill a space: how they split the rows, what they obey, and what they may not write."""

import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from upgrades import OLD, embed, numbered

from onward.errors import GalleryError
from onward.gallery import Control, RecordedRoutes, Share, create_gallery, open_gallery
from onward.spaces import Space

NEW = Space("new@2", 5)


@pytest.fixture
def gallery(url):
    gallery = create_gallery(url, OLD, items=[embed(OLD, numbered(300))])
    gallery.add_space(NEW, made_by=RecordedRoutes("1" * 64, NEW))
    return gallery


@pytest.mark.parametrize("of", [1, 2, 3, 7, pytest.param(64, marks=pytest.mark.slow)])
def test_every_id_belongs_to_exactly_one_share_and_shares_are_about_equal(of):
    shares = [Share(number, of) for number in range(of)]
    held = [[share.holds(item) for share in shares] for item in [*numbered(6400), "é", "'"]]
    assert all(sum(row) == 1 for row in held)
    sizes = np.sum(held, axis=0)
    assert sizes.min() > 0.6 * 6400 / of
    assert sizes.max() < 1.5 * 6400 / of


def test_workers_split_the_rows_while_they_are_there(url, gallery):
    other = open_gallery(url)
    with gallery.working_on(NEW) as mine:
        assert mine() == Share(0, 1)
        with other.working_on(NEW) as theirs, gallery.working_on(OLD) as elsewhere:
            assert {mine(), theirs()} == {Share(0, 2), Share(1, 2)}
            assert elsewhere() == Share(0, 1)
        assert mine() == Share(0, 1)


def work_until_killed(path, connection):
    with open_gallery(path).working_on(NEW) as share_now:
        connection.send(share_now())
        connection.recv()


@pytest.mark.slow
def test_a_worker_that_was_killed_is_no_longer_one(tmp_path):
    path = tmp_path / "g.lance"
    gallery = create_gallery(path, OLD)
    gallery.add_space(NEW)
    context = multiprocessing.get_context("spawn")
    connection, its_end = context.Pipe()
    process = context.Process(target=work_until_killed, args=(str(path), its_end))
    process.start()
    assert connection.recv() == Share(0, 1)
    with gallery.working_on(NEW) as share_now:
        assert share_now().of == 2
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert share_now() == Share(0, 1)
    assert not list((path / "workers" / "new_2").iterdir())


def test_without_locks_every_worker_believes_to_be_alone(tmp_path, monkeypatch):
    gallery = create_gallery(tmp_path / "g.lance", OLD)
    monkeypatch.setattr("onward.gallery.lance.fragments._lock", lambda file, exclusive: None)
    with gallery.working_on(OLD) as mine, gallery.working_on(OLD) as theirs:
        assert mine() == theirs() == Share(0, 1)


def test_a_control_is_kept_in_the_record_and_its_changes_in_the_journal(url, gallery):
    assert gallery.control(NEW) == Control(paused=False, rows_per_second=None)
    event = {"event": "pause"}
    after = gallery.change_control(NEW, lambda now: replace(now, paused=True), event=event)
    assert after.control(NEW) == open_gallery(url).control(NEW) == Control(paused=True)
    gallery.change_control(NEW, lambda now: replace(now, paused=True), event=event)
    gallery.change_control(NEW, lambda now: replace(now, rows_per_second=5.5), event=event)
    assert open_gallery(url).control(NEW) == Control(paused=True, rows_per_second=5.5)
    assert [entry["event"] for entry in gallery.journal()].count("pause") == 2
    assert gallery.control(OLD) == Control()
    with pytest.raises(GalleryError, match="has no space other@1"):
        gallery.control(Space("other@1", 3))
    assert str(Control(paused=True, rows_per_second=1500.0)) == (
        "paused, then at most 1,500 rows a second"
    )


def test_a_space_that_was_dropped_takes_its_control_with_it(gallery):
    gallery.change_control(NEW, lambda now: Control(paused=True), event={"event": "pause"})
    gallery.drop_space(NEW, event={"event": "abort", "why": "a test"})
    entry = gallery.journal()[-1]
    assert (entry["event"], entry["why"], entry["space"]) == ("abort", "a test", NEW.to_json())
    gallery.add_space(NEW)
    assert gallery.control(NEW) == Control()


def test_what_another_transformation_has_made_is_not_written(gallery):
    batch = next(gallery.scan([OLD], without=[NEW], batch_rows=10))
    vectors = embed(NEW, batch.ids)
    options = {"origin": "upgraded"}
    words = "what the transformation 22222222 has made was not written to new@2 .*filled by 111111"
    with pytest.raises(GalleryError, match=words):
        gallery.write(vectors, batch.revisions, made_by="2" * 64, **options)
    assert gallery.write(vectors, batch.revisions, made_by="1" * 64, **options) == 10


def test_who_is_late_cannot_write_into_a_space_that_came_later(gallery):
    """The column of a space that was dropped is never used again."""
    batch = next(gallery.scan([OLD], without=[NEW], batch_rows=10))
    before = gallery._store.read_record()
    gallery.drop_space(NEW)
    gallery.add_space(NEW, made_by=RecordedRoutes("2" * 64, NEW))
    gallery._store.read_record, now = (lambda: before), gallery._store.read_record
    with pytest.raises(GalleryError):
        gallery.write(embed(NEW, batch.ids), batch.revisions, origin="upgraded", made_by="1" * 64)
    gallery._store.read_record = now
    assert gallery.count([NEW]) == 0
