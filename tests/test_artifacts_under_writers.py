"""Artefacts while they are replaced: readers, killed writers, several writers, and others' files.

What is tried, each where the system exchanges two directories in one step and where it cannot:
a writer killed before and after each call that changes the disk, what a reader and what the next
writer find then; readers beside a writer; two writers; a directory and a file that are a user's and
are called as if they were ours; the same for single files.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onward import artifacts
from onward.artifacts import (
    Artifact,
    clean_leftovers,
    read_artifact,
    read_header,
    write_artifact,
    write_aside,
)
from onward.errors import ArtifactError

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
import numpy as np
from onward import artifacts
from onward.artifacts import Artifact, read_artifact, write_artifact, write_aside

def generation(number):
    arrays = {"weight": np.full((64, 64), number, np.float32)}
    files = {"model.onnx": bytes([number % 256]) * 5000}
    config = {"number": number}
    return Artifact("transformation", config, arrays, {}, f"# {number}", files)

def number_of(found):
    values = {found.config["number"], int(found.arrays["weight"].flat[0]), int(found.card[2:])}
    assert len(values) == 1 and found.files["model.onnx"][0] == min(values) % 256, values
    return min(values)

def without_exchange():
    artifacts._exchange = lambda one, other: False

def killed_at(step, write):
    "Kill a child before its n-th call that changes the disk; say whether it lived on."
    child = os.fork()
    if child == 0:
        count = 0
        def fatal(function):
            def call(*arguments, **settings):
                nonlocal count
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return function(*arguments, **settings)
            return call
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "open", "write"):
            setattr(os, name, fatal(getattr(os, name)))
        artifacts._exchange = fatal(artifacts._exchange)
        artifacts._lock = fatal(artifacts._lock)
        write()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
"""

both_ways = pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two-renames"])


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def start(program: str, *arguments: object, exchange: bool = True) -> subprocess.Popen[str]:
    """Begin a program that knows generations."""
    how = "" if exchange else "without_exchange()\n"
    whole = [sys.executable, "-c", PROGRAM + how + program, *map(str, arguments)]
    return subprocess.Popen(
        whole, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE
    )


def outcome(program: subprocess.Popen[str]) -> str:
    out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    return out


def artifact(number: int) -> Artifact:
    weight = {"weight": np.full((2, 2), number, np.float32)}
    return Artifact("transformation", {"number": number}, weight, {}, f"# {number}\n", {})


@both_ways
def test_a_writer_killed_at_any_instant_leaves_one_generation_to_read(tmp_path, exchange):
    target = tmp_path / "h"
    program = """
from itertools import count
target = Path(sys.argv[1])
write_artifact(target, generation(1))
found = []
for step in count():
    finished = killed_at(step, lambda: write_artifact(target, generation(2)))
    here = sorted(os.listdir(target.parent))
    read = number_of(read_artifact(target, "transformation"))
    assert sorted(os.listdir(target.parent)) == here, "a reader changed what is on the disk"
    found.append(read)
    write_artifact(target, generation(1))
    assert os.listdir(target.parent) == [target.name], os.listdir(target.parent)
    assert number_of(read_artifact(target, "transformation")) == 1
    if finished:
        break
print(json.dumps(found))
"""
    found = json.loads(outcome(start(program, target, exchange=exchange)))
    assert len(found) > 20
    assert found == sorted(found)  # once the new one is there, it stays
    assert set(found) == {1, 2}


@pytest.mark.slow
@both_ways
def test_what_the_next_writer_finds_survives_when_it_is_killed_too(tmp_path, exchange):
    """Every pair of instants: the second writer dies while it puts right what the first left."""
    target = tmp_path / "h"
    program = """
target = Path(sys.argv[1])
write_artifact(target, generation(1))
seen = set()
for first in range(int(sys.argv[2]), 60, 9):
    second, finished = first % 3, False
    while not finished:
        write_artifact(target, generation(1))
        killed_at(first, lambda: write_artifact(target, generation(2)))
        before = number_of(read_artifact(target, "transformation"))
        finished = killed_at(second, lambda: write_artifact(target, generation(3)))
        now = number_of(read_artifact(target, "transformation"))
        assert now in (before, 3), (before, now)
        seen.add(now)
        second += 3
print(json.dumps(sorted(seen)))
"""
    first = 1 if exchange else 4
    assert json.loads(outcome(start(program, target, first, exchange=exchange))) == [1, 2, 3]


@pytest.mark.slow
@both_ways
def test_readers_beside_writers_always_read_one_whole_generation(tmp_path, exchange):
    target = tmp_path / "h"
    write_artifact(target, artifact(0))
    outcome(start("write_artifact(Path(sys.argv[1]), generation(0))", target))
    writer = """
target, begin, until = Path(sys.argv[1]), int(sys.argv[2]), time.monotonic() + 6
number = begin
while time.monotonic() < until:
    write_artifact(target, generation(number))
    number += 2
print(number)
"""
    reader = """
target, until = Path(sys.argv[1]), time.monotonic() + 6
loads, seen = 0, set()
while time.monotonic() < until:
    seen.add(number_of(read_artifact(target, "transformation")))
    loads += 1
print(json.dumps([loads, len(seen)]))
"""
    writers = [start(writer, target, first, exchange=exchange) for first in (1, 2)]
    readers = [start(reader, target, exchange=exchange) for _ in range(3)]
    counts = [json.loads(outcome(each)) for each in readers]
    ends = [int(outcome(each)) for each in writers]
    assert sum(loads for loads, _ in counts) > 1000
    assert min(seen for _, seen in counts) > 10  # they were replaced meanwhile
    assert names_in(tmp_path) == ["h"]
    assert read_header(target)["config"]["number"] in {end - 2 for end in ends}


@both_ways
def test_a_reader_never_touches_what_a_living_writer_has_aside(tmp_path, exchange):
    target = tmp_path / "h"
    program = """
target = Path(sys.argv[1])
write_artifact(target, generation(1))
rename = artifacts.Path.rename
def slow(self, other):
    print("about to rename", flush=True)
    sys.stdin.readline()
    return rename(self, other)
artifacts.Path.rename = slow
write_artifact(target, generation(2))
"""
    writer = start(program, target, exchange=exchange)
    renames = 0
    while writer.stdout.readline():
        before = names_in(tmp_path)
        assert read_artifact(target, "transformation").config["number"] in (1, 2)
        clean_leftovers(target)  # as another writer to it would
        assert names_in(tmp_path) == before
        renames += 1
        writer.stdin.write("\n")
        writer.stdin.flush()
    outcome(writer)
    assert renames == (1 if exchange else 3)
    assert read_artifact(target, "transformation").config["number"] == 2


def test_a_user_s_files_with_names_like_ours_are_never_deleted(tmp_path):
    """Also where they are called exactly as ours are."""
    theirs = [".h.replaced", ".h.0123456789abcdef.aside", f".h.{os.getpid()}.aside", ".h.lock"]
    for name in theirs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    (tmp_path / ".h.fedcba9876543210.aside").write_text("years of work")
    link = tmp_path / ".h.00000000deadbeef.aside"
    link.symlink_to(tmp_path / ".h.replaced")
    for number in (1, 2, 3):
        write_artifact(tmp_path / "h", artifact(number))
        with write_aside(tmp_path / "h.parquet") as aside:
            aside.write_text("vectors")
        read_artifact(tmp_path / "h", "transformation")
    shutil.rmtree(tmp_path / "h")
    with pytest.raises(ArtifactError, match=r"h does not exist; give a directory that Onward"):
        read_artifact(tmp_path / "h", "transformation")
    for name in theirs:
        assert (tmp_path / name / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / ".h.fedcba9876543210.aside").read_text() == "years of work"
    assert link.is_symlink()


def test_a_link_in_the_place_of_the_writer_s_file_is_not_followed(tmp_path):
    place = tmp_path / ".h.0123456789abcdef.aside"
    place.mkdir()
    (tmp_path / "precious").write_text("years of work")
    (place / artifacts.WRITER).symlink_to(tmp_path / "precious")
    (place / "thesis.txt").write_text("years of work")
    write_artifact(tmp_path / "h", artifact(1))
    assert (place / "thesis.txt").exists()
    assert (tmp_path / "precious").read_text() == "years of work"


def test_names_aside_cannot_be_guessed_and_nobody_else_may_look_in(tmp_path):
    names = set()
    for _ in range(20):
        with write_aside(tmp_path / "h.parquet") as aside:
            aside.write_text("vectors")
            assert re.fullmatch(r"\.h\.parquet\.[0-9a-f]{16}\.aside", aside.parent.name)
            assert aside.parent.stat().st_mode & 0o777 == 0o700
            names.add(aside.parent.name)
    assert len(names) == 20


def test_what_was_deleted_after_it_was_replaced_does_not_come_back(tmp_path):
    """A writer was killed after it had put the new one in, and before it removed the old one."""
    write_artifact(tmp_path / "h", artifact(2))
    place = tmp_path / ".h.0123456789abcdef.aside"
    place.mkdir()
    (place / artifacts.WRITER).write_text("")
    write_artifact(place / "old.0", artifact(1))
    shutil.rmtree(tmp_path / "h")
    with pytest.raises(ArtifactError, match="h does not exist"):
        read_artifact(tmp_path / "h", "transformation")
    write_artifact(tmp_path / "h", artifact(3))
    assert names_in(tmp_path) == ["h"]


@pytest.mark.parametrize("suffix", [".parquet", ""])
def test_a_writer_of_a_file_killed_at_any_instant_leaves_one_whole_file(tmp_path, suffix):
    target = tmp_path / f"vectors{suffix}"
    program = """
from itertools import count
target = Path(sys.argv[1])
def write(text):
    with write_aside(target) as aside:
        aside.write_text(text * 10_000)
write("a")
found = []
for step in count():
    finished = killed_at(step, lambda: write("b"))
    found.append(target.read_text()[:1])
    assert target.read_text() == found[-1] * 10_000
    write("a")
    assert os.listdir(target.parent) == [target.name], os.listdir(target.parent)
    if finished:
        break
print(json.dumps(found))
"""
    found = json.loads(outcome(start(program, target)))
    assert len(found) > 8
    assert found == sorted(found)
    assert set(found) == {"a", "b"}


def test_damage_is_told_after_reading_twice(tmp_path, monkeypatch):
    write_artifact(tmp_path / "h", artifact(1))
    (tmp_path / "h" / "model.safetensors").write_bytes(b"nonsense")
    reads = []
    read = artifacts._read_file
    monkeypatch.setattr(artifacts, "_read_file", lambda path: reads.append(path.name) or read(path))
    with pytest.raises(ArtifactError, match=r"model\.safetensors was changed or damaged"):
        read_artifact(tmp_path / "h", "transformation")
    assert reads.count("model.safetensors") == 2


def test_a_copy_that_is_still_being_made_is_read_once_it_is_whole(tmp_path, monkeypatch):
    """The header is of the next generation before the other files are, as rsync may have it."""
    write_artifact(tmp_path / "h", artifact(1))
    write_artifact(tmp_path / "next", artifact(2))
    shutil.copy(tmp_path / "next" / "config.json", tmp_path / "h")
    generation = artifacts._generation

    def copied_meanwhile(place):
        for path in (tmp_path / "next").iterdir():
            shutil.copy(path, tmp_path / "h")
        return generation(place)

    monkeypatch.setattr(artifacts, "_generation", copied_meanwhile)
    assert read_artifact(tmp_path / "h", "transformation").config["number"] == 2


def test_where_there_are_no_locks_nothing_of_another_writer_is_cleaned(tmp_path, monkeypatch):
    place = tmp_path / ".h.0123456789abcdef.aside"
    place.mkdir()
    (place / artifacts.WRITER).write_text("")
    (place / "new.h").mkdir()
    monkeypatch.setattr(artifacts, "_lock", lambda file, *, wait: False)
    write_artifact(tmp_path / "h", artifact(1))
    assert names_in(tmp_path) == [place.name, "h"]
    monkeypatch.undo()
    write_artifact(tmp_path / "h", artifact(2))
    assert names_in(tmp_path) == ["h"]


@pytest.mark.slow
def test_a_gallery_whose_making_was_killed_is_made_again_and_cleaned(tmp_path):
    program = """
import signal
from onward import Space, create_gallery
import onward.gallery.lance.store as place
if sys.argv[2] == "killed":
    place.record_table = lambda *anything: os.kill(os.getpid(), signal.SIGKILL)
create_gallery(sys.argv[1], Space("s", 4), serving=Space("s", 4), query_model="s")
"""
    killed = start(program, tmp_path / "g.lance", "killed")
    killed.communicate()
    assert killed.returncode == -9
    assert [name[:9] for name in names_in(tmp_path)] == [".g.lance."]
    outcome(start(program, tmp_path / "g.lance", "whole"))
    assert names_in(tmp_path) == ["g.lance"]
