"""Real processes upgrade a real gallery: killed at any moment, or two at the same time."""

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onward.cli import INTERRUPTED
from onward.fusion import Fusion, Scale, Serving
from onward.gallery import create_gallery, open_gallery
from onward.gallery.record import Served
from onward.spaces import Embeddings, Space
from onward.transformation import linear
from onward.upgrading import Upgrade

ROOT = Path(__file__).parent.parent
OLD, SIDE, NEW = Space("old@1", 16), Space("side@1", 16), Space("new@2", 16)
ROWS, BATCH_ROWS, TRIALS = 2000, 64, 20
PAIR = Fusion(OLD, NEW, 0.5, Scale(32.0, 8.0), Scale(64.0, 16.0))
SERVED = (Served(OLD, "old"), Served(NEW, "new"), Served(NEW, "new", None, PAIR, "old"))


def make_transformation():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((NEW.dim, OLD.dim + SIDE.dim)).astype(np.float32)
    h = linear(OLD, SIDE, NEW, weight, np.zeros(NEW.dim, np.float32), made_by={})
    return replace(h, serving=Serving("fused", PAIR))


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
    assert upgrade.verify(sample_rows=None, serve="fused").passed
    upgrade.cut_over(query_model="new", serve="fused", old_query_model="old")
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
        assert gallery.view().record.serving in SERVED
        upgrade = Upgrade(gallery, make_transformation())
        upgrade.start()
        assert upgrade.run().remaining == 0
        assert upgrade.verify(sample_rows=None).passed
        assert upgrade.cut_over(query_model="new").serving == NEW
        assert gallery.view().record.serving == SERVED[1]
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
    assert gallery.view().serving == NEW
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


# Ctrl-C once, and once more

SLOW = """
import sys, time
from onward.cli import main
from onward.gallery import GalleryRows

write = GalleryRows.write

def slow(self, *args, **options):
    print("writing", file=sys.stderr, flush=True)
    time.sleep(60)
    return write(self, *args, **options)

{patch}
print("ready", file=sys.stderr, flush=True)
main()
"""


def command(path, patch="", words=("start", "--unjudged")):
    """A process of the command line that upgrades a gallery in which room was made already."""
    h = path.parent / "h"
    make_transformation().save(h)
    program = [sys.executable, "-c", SLOW.format(patch=patch)]
    return subprocess.Popen(
        [*program, "upgrade", *words, str(path), str(h)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ready(process):
    """Wait until the command is called; return when that was."""
    while "ready" not in process.stderr.readline():
        assert process.poll() is None
    return time.perf_counter()


def assert_it_can_be_gone_on_with(path):
    upgrade = Upgrade(open_gallery(path), make_transformation())
    upgrade.start()
    assert upgrade.run().remaining == 0
    assert upgrade.verify(sample_rows=None).passed


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_the_batch_that_is_written(tmp_path):
    path = tmp_path / "g.lance"
    make_gallery(path)
    with command(path, patch="GalleryRows.write = slow") as process:
        while "writing" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert (out, err) == ("", f"onward: {INTERRUPTED}\n")
    assert_it_can_be_gone_on_with(path)


@pytest.mark.slow
def test_a_process_that_is_not_to_be_interrupted_is_not(tmp_path):
    path = tmp_path / "g.lance"
    make_gallery(path)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = command(path)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with process:
        for _ in range(20):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


@pytest.mark.slow
def test_two_ctrl_c_at_any_moments_end_without_a_traceback_and_lose_nothing(tmp_path):
    source = tmp_path / "source.lance"
    make_gallery(source)
    with command(shutil.copytree(source, tmp_path / "whole.lance")) as process:
        begun = ready(process)
        assert process.wait(timeout=60) == 0
    whole = time.perf_counter() - begun
    rng = np.random.default_rng(5)
    for trial in range(6):
        path = shutil.copytree(source, tmp_path / f"{trial}.lance")
        with command(path) as process:
            ready(process)
            for wait in rng.uniform(0.05, 1.0) * whole, rng.uniform(0.0, 0.3):
                time.sleep(wait)
                process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        assert process.returncode in (0, 1, -signal.SIGINT)
        assert_it_can_be_gone_on_with(path)
