"""Runs that obey: pause, resume, limit, abort; and several workers on one gallery."""

import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from upgrades import OLD, SIDE, embed, make_gallery, make_transformation, start_upgrade

from onward.errors import GalleryError, UpgradeError
from onward.gallery import GalleryRows, Share, open_gallery
from onward.spaces import Space
from onward.upgrading import Upgrade

NEW = Space("new@2", 5)
ROWS = 100


H = make_transformation(OLD, SIDE, NEW)


@pytest.fixture
def gallery(url):
    return make_gallery(url, ROWS)


@pytest.fixture
def upgrade(gallery):
    return start_upgrade(gallery, H)


class Clock:
    """Time that passes only while somebody sleeps; what is to happen then may be told."""

    def __init__(self, *happenings):
        self.now = 0.0
        self.happenings = list(happenings)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.happenings:
            self.happenings.pop(0)()


def nothing():
    pass


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    fake = SimpleNamespace(
        monotonic=clock.monotonic, sleep=clock.sleep, perf_counter=time.perf_counter
    )
    monkeypatch.setattr("onward.upgrading.run.time", fake)
    return clock


def events(gallery):
    return [entry["event"] for entry in gallery.journal()]


# Pausing


def test_a_run_pauses_within_a_batch_and_goes_on_when_it_is_told_to(url, gallery, upgrade, clock):
    other = Upgrade(open_gallery(url), H)
    seen = []
    clock.happenings = [
        nothing,
        lambda: seen.append(gallery.count([NEW])),
        lambda: seen.append(gallery.count([NEW])),
        other.resume,
    ]

    def pause_once(done, total):
        if done == 20:
            assert other.pause().control.paused

    result = upgrade.run(batch_rows=10, progress=pause_once)
    assert (result.done, result.remaining) == (ROWS, 0)
    assert seen[0] == seen[1] <= 30
    assert clock.now > 0
    assert events(gallery)[-3:] == ["pause", "resume", "run"]


def test_a_paused_upgrade_says_so_and_a_run_of_it_ends_when_told_to(upgrade, clock):
    status = upgrade.pause()
    assert "running      paused, then as fast as it can" in str(status)
    assert status.to_json()["paused"] is True
    assert status.to_json()["next_steps"][0]["step"] == "resume"
    asked = itertools.count()
    result = upgrade.run(stop=lambda: next(asked) > 3)
    assert (result.done, result.remaining, result.stopped) == (0, ROWS, True)
    assert upgrade.pause().control.paused
    assert events(upgrade.gallery).count("pause") == 1
    assert not upgrade.resume().control.paused


# The limit


def test_the_limit_is_kept_over_time(upgrade, clock):
    upgrade.limit(8.0)
    upgrade.run(batch_rows=30)
    assert upgrade.gallery.count([NEW]) == ROWS
    assert ROWS / 8 - 1 <= clock.now <= ROWS / 8
    assert upgrade.gallery.journal()[-1]["done"] == ROWS


def test_the_limit_may_change_while_it_runs(url, upgrade, clock):
    other = Upgrade(open_gallery(url), H)
    upgrade.limit(1.0)
    clock.happenings = [nothing, nothing, lambda: other.limit(10.0)] + 5 * [nothing]
    clock.happenings.append(lambda: other.limit(None))
    upgrade.run(batch_rows=30)
    assert upgrade.gallery.count([NEW]) == ROWS
    assert clock.now < 10
    assert upgrade.status().control.rows_per_second is None


def test_a_limit_that_is_none_or_slow_is_in_the_status(upgrade):
    status = upgrade.limit(1500.0)
    assert "running      at most 1,500 rows a second" in str(status)
    assert status.to_json()["rows_per_second"] == 1500
    assert "running" not in str(upgrade.limit(None))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_no_rate_is_refused(upgrade, rate):
    words = r"a limit of .* rows a second was asked for; give a positive number, or none"
    with pytest.raises(UpgradeError, match=words):
        upgrade.limit(rate)


def test_of_what_was_not_started_every_step_is_refused(gallery):
    upgrade = Upgrade(gallery, H)
    words = r"from old@1 to new@2 was not started; start it first$"
    steps = [upgrade.run, upgrade.verify, lambda: upgrade.cut_over(query_model="m", force=True)]
    for step in (*steps, upgrade.pause, upgrade.resume, lambda: upgrade.limit(1.0), upgrade.abort):
        with pytest.raises(UpgradeError, match=words):
            step()
    assert NEW not in gallery.spaces()


# Aborting


def test_aborting_drops_the_new_space_and_nothing_else(gallery, upgrade):
    before = gallery.read(OLD).vectors
    upgrade.run()
    status = upgrade.abort()
    assert not status.started
    assert gallery.spaces() == (OLD, SIDE)
    np.testing.assert_array_equal(gallery.read(OLD).vectors, before)
    entry = gallery.journal()[-1]
    assert (entry["event"], entry["upgraded"], entry["embedded"]) == ("abort", ROWS, 0)
    assert entry["transformation"] == H.digest
    again = start_upgrade(gallery, make_transformation(OLD, SIDE, NEW, seed=1))
    assert again.run().done == ROWS
    assert again.verify(sample_rows=None).passed


def test_a_run_that_is_aborted_ends_with_an_error_that_says_so(url, gallery, upgrade):
    def abort(done, total):
        if done == 20:
            Upgrade(open_gallery(url), H).abort()

    words = r"to new@2 was aborted while it ran; .* start it again if it was not meant to end"
    with pytest.raises(UpgradeError, match=words):
        upgrade.run(batch_rows=10, progress=abort)
    assert NEW not in gallery.spaces()
    assert gallery.count([OLD, SIDE]) == ROWS


def test_a_run_writes_nothing_where_another_upgrade_was_started_meanwhile(url, gallery, upgrade):
    other = make_transformation(OLD, SIDE, NEW, seed=1)

    def start_another(done, total):
        if done == 20:
            Upgrade(open_gallery(url), H).abort()
            Upgrade(open_gallery(url), other).start()

    with pytest.raises(UpgradeError, match="was aborted while it ran"):
        upgrade.run(batch_rows=10, progress=start_another)
    assert gallery.made_by(NEW).digest == other.digest
    assert gallery.count([NEW]) == 0


def test_what_serves_or_is_needed_to_roll_back_is_not_aborted(gallery, upgrade):
    upgrade.run()
    upgrade.cut_over(query_model="new", force=True)
    with pytest.raises(UpgradeError, match="cannot be aborted: it answers queries"):
        upgrade.abort()
    gallery.serve(OLD, query_model="old")
    with pytest.raises(UpgradeError, match="cannot be aborted: rolling back returns to it"):
        upgrade.abort()
    assert gallery.count([NEW]) == ROWS


def test_the_only_vector_of_an_item_is_not_aborted_unless_that_is_allowed(gallery, upgrade):
    gallery.add(embed(NEW, ["native"]))
    words = r"would take the only vector of 1 rows \(native\). Nothing was dropped"
    with pytest.raises(UpgradeError, match=words):
        upgrade.abort()
    assert gallery.count([NEW]) == 1
    assert not upgrade.abort(leave_out=True).started


# A run writes one batch while it makes the next


def test_what_is_being_written_when_a_batch_cannot_be_made_is_written_and_counted(
    gallery, upgrade, monkeypatch
):
    told = []
    scan = GalleryRows.scan

    def damaged(self, *args, **options):
        for number, batch in enumerate(scan(self, *args, **options)):
            if number == 2:
                batch.vectors[OLD] = batch.vectors[OLD] * np.float32(np.nan)
            yield batch

    monkeypatch.setattr(GalleryRows, "scan", damaged)
    with pytest.raises(Exception, match="NaN"):
        upgrade.run(batch_rows=10, progress=lambda done, total: told.append(done))
    assert told == [0, 10, 20]
    assert gallery.count([NEW]) == 20


def test_a_batch_that_cannot_be_written_ends_the_run_with_its_error(upgrade, monkeypatch):
    def full(self, *args, **options):
        raise GalleryError("the disk is full")

    monkeypatch.setattr(GalleryRows, "write", full)
    with pytest.raises(GalleryError, match="the disk is full"):
        upgrade.run(batch_rows=10)
    monkeypatch.undo()
    assert upgrade.run().remaining == 0


# Several workers


def count_writes(monkeypatch):
    """Let every write be counted, row by row, whoever makes it."""
    written, write = [], GalleryRows.write

    def counted(self, embeddings, *args, **options):
        count = write(self, embeddings, *args, **options)
        written.append(count)
        return count

    monkeypatch.setattr(GalleryRows, "write", counted)
    return written


def test_workers_in_one_process_part_the_rows(url, upgrade, monkeypatch):
    written = count_writes(monkeypatch)
    others = [Upgrade(open_gallery(url), H) for _ in range(2)]
    results = []
    meeting = threading.Barrier(3)

    def run(one):
        meet = iter([meeting.wait])
        results.append(
            one.run(batch_rows=10, progress=lambda done, total: next(meet, lambda: None)())
        )

    threads = [threading.Thread(target=run, args=(one,)) for one in [upgrade, *others]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.remaining for result in results] == [0, 0, 0]
    assert ROWS <= sum(written) <= ROWS + 3 * 10
    assert upgrade.verify(sample_rows=None).passed


def test_what_a_worker_holds_that_does_not_get_on_is_taken_over(gallery, upgrade, clock):
    with gallery.working_on(NEW) as share_now:  # it holds half the rows and does nothing
        result = upgrade.run(batch_rows=10)
        assert share_now() == Share(0, 1)
    assert (result.done, result.remaining) == (ROWS, 0)
    assert clock.now >= 30


def test_a_worker_leaves_to_others_what_is_theirs_and_takes_it_over_when_they_go(
    gallery, upgrade, clock
):
    other = gallery.working_on(NEW)
    other.__enter__()
    seen = []
    clock.happenings = [
        lambda: seen.append(gallery.count([NEW])),
        lambda: other.__exit__(None, None, None),
    ]
    result = upgrade.run(batch_rows=10)
    assert 0 < seen[0] < ROWS
    assert (result.done, result.remaining) == (ROWS, 0)
    assert clock.now < 5


def run_and_count(path, connection):
    written = count_writes(pytest.MonkeyPatch())
    upgrade = Upgrade(open_gallery(path), H)
    connection.send("ready")
    connection.recv()

    def tell(done, total):
        if connection.poll():
            connection.recv()
            connection.send(done)

    result = upgrade.run(batch_rows=64, progress=tell)
    connection.send({"written": sum(written), **result.to_json()})


def start_worker(path):
    context = multiprocessing.get_context("spawn")
    connection, its_end = context.Pipe()
    process = context.Process(target=run_and_count, args=(str(path), its_end))
    process.start()
    assert connection.recv() == "ready"
    return process, connection


@pytest.mark.slow
def test_two_processes_do_no_work_twice_beyond_a_batch(tmp_path):
    gallery = make_gallery(tmp_path / "g.lance", 4000)
    Upgrade(gallery, H).start()
    workers = [start_worker(tmp_path / "g.lance") for _ in range(2)]
    for _, connection in workers:
        connection.send("go")
    told = [connection.recv() for _, connection in workers]
    for process, _ in workers:
        process.join()
    assert [one["remaining"] for one in told] == [0, 0]
    assert sum(one["written"] for one in told) <= 4000 + 2 * 64
    assert min(one["written"] for one in told) > 0
    verification = Upgrade(gallery, H).verify(sample_rows=None)
    assert verification.passed
    assert verification.checked == 4000
    runs = [entry for entry in gallery.journal() if entry["event"] == "run"]
    assert json.loads(json.dumps(runs)) == runs
    assert sum(entry["done"] for entry in runs) == sum(one["written"] for one in told)


@pytest.mark.slow
def test_the_share_of_a_killed_process_is_taken_over(tmp_path):
    gallery = make_gallery(tmp_path / "g.lance", 4000)
    Upgrade(gallery, H).start()
    (killed, first), (process, connection) = (start_worker(tmp_path / "g.lance") for _ in range(2))
    for one in (first, connection):
        one.send("go")
    first.send("how far?")
    first.recv()
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    told = connection.recv()
    process.join()
    assert told["remaining"] == 0
    assert Upgrade(gallery, H).verify(sample_rows=None).passed
