"""Real processes upgrade a real gallery: killed at any moment, or two at the same time."""

import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from onward.gallery import create_gallery, open_gallery
from onward.spaces import Embeddings, Space
from onward.transformation import linear
from onward.upgrading import Upgrade

ROOT = Path(__file__).parent.parent
OLD, SIDE, NEW = Space("old@1", 16), Space("side@1", 16), Space("new@2", 16)
ROWS, BATCH_ROWS, TRIALS = 2000, 64, 20


def make_transformation():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((NEW.dim, OLD.dim + SIDE.dim)).astype(np.float32)
    return linear(OLD, SIDE, NEW, weight, np.zeros(NEW.dim, np.float32), made_by={})


def make_gallery(path):
    rng = np.random.default_rng(1)
    ids = tuple(f"item-{number:04d}" for number in range(ROWS))
    gallery = create_gallery(path, OLD, SIDE, query_model="old")
    vectors = [rng.standard_normal((ROWS, 16)).astype(np.float32) for _ in range(2)]
    gallery.add(Embeddings(ids, vectors[0], OLD), Embeddings(ids, vectors[1], SIDE))
    return gallery


def upgrade_all(connection):
    transformation = make_transformation()
    path = connection.recv()
    upgrade = Upgrade(open_gallery(path), transformation)
    connection.send("begin")
    upgrade.start()
    upgrade.run(batch_rows=BATCH_ROWS)
    assert upgrade.verify(sample_rows=None).passed
    upgrade.cut_over(query_model="new")
    connection.send("end")


def start_process():
    """Start a process that upgrades the gallery whose path it is sent."""
    context = multiprocessing.get_context("spawn")
    connection, its_end = context.Pipe()
    process = context.Process(target=upgrade_all, args=(its_end,))
    process.start()
    return process, connection


def begin(connection, path):
    connection.send(str(path))
    assert connection.recv() == "begin"
    return time.perf_counter()


def read_all(gallery):
    return {space: gallery.read(space) for space in (OLD, SIDE, NEW)}


def assert_same(found, expected):
    for space, embeddings in expected.items():
        assert found[space].ids == embeddings.ids
        np.testing.assert_array_equal(found[space].vectors, embeddings.vectors)


@pytest.mark.slow
def test_an_upgrade_that_is_killed_at_any_moment_is_completed_by_the_next(tmp_path):
    source = tmp_path / "source.lance"
    make_gallery(source)
    whole = tmp_path / "whole.lance"
    shutil.copytree(source, whole)
    (process, connection), next_one = start_process(), start_process()
    began = begin(connection, whole)
    assert connection.recv() == "end"
    longest = time.perf_counter() - began
    process.join()
    expected = read_all(open_gallery(whole))
    moments = np.random.default_rng().uniform(0, longest, TRIALS)
    half_done = 0
    for moment in moments:
        path = tmp_path / "killed.lance"
        shutil.copytree(source, path)
        (process, connection), next_one = next_one, start_process()
        begin(connection, path)
        time.sleep(moment)
        process.kill()
        process.join()
        gallery = open_gallery(path)
        half_done += NEW in gallery.spaces() and 0 < gallery.count([NEW]) < ROWS
        assert gallery.describe().serving in (OLD, NEW)
        upgrade = Upgrade(gallery, make_transformation())
        upgrade.start()
        assert upgrade.run().remaining == 0
        assert upgrade.verify(sample_rows=None).passed
        assert upgrade.cut_over(query_model="new").serving == NEW
        assert_same(read_all(gallery), expected)
        entries = gallery.journal()
        assert [entry["number"] for entry in entries] == list(range(1, len(entries) + 1))
        shutil.rmtree(path)
    next_one[0].kill()
    next_one[0].join()
    assert half_done >= TRIALS // 4, f"killed in the midst only {half_done} times: {moments}"


@pytest.mark.slow
def test_two_processes_that_upgrade_the_same_gallery_end_right(tmp_path):
    path = tmp_path / "g.lance"
    gallery = make_gallery(path)
    both = [start_process() for _ in range(2)]
    for _, connection in both:
        begin(connection, path)
    for process, _ in both:
        process.join()
    assert [process.exitcode for process, _ in both] == [0, 0]
    assert gallery.count() == gallery.count([OLD, SIDE, NEW]) == ROWS
    assert len(gallery.ids()) == len(set(gallery.ids())) == ROWS
    verification = Upgrade(gallery, make_transformation()).verify(sample_rows=None)
    assert verification.passed
    assert verification.checked == ROWS
    assert gallery.describe().serving == NEW
    entries = gallery.journal()
    assert [entry["number"] for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry["event"] for entry in entries].count("start upgrade") == 1


@pytest.mark.slow
def test_the_real_command_is_killed_while_others_write_and_nothing_is_lost(tmp_path, request):
    kills = request.config.getoption("--kills")
    run = [sys.executable, ROOT / "benchmarks" / "kill_upgrade.py", "--rows", "400"]
    subprocess.run([*run, "--kills", str(kills), "--out", tmp_path / "kills.json"], check=True)
    found = json.loads((tmp_path / "kills.json").read_text())
    assert sum(step["kills"] for step in found["steps"].values()) == kills
    assert sum(found["operations_of_the_writer"].values()) >= kills
