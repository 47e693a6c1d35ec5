"""Kill the real command at random moments of an upgrade, while another process writes all the time.

For each kill there is a fresh gallery in a directory, as it stands before one of the steps: run,
verify, cut over to the new space or to a fused pair, roll back from the pair, backfill, complete. A
second process inserts, updates and deletes items in it and keeps a ledger. The command is started,
its imports are waited for, and at a random moment of what the step takes it is killed with SIGKILL.
Then, and again after the step was taken to its end, every row is compared with the ledger: no item
lost, none reborn, every upgraded vector what the transformation makes of what is stored, one thing
that answers, with its models, the journal whole.

Examples:
    python benchmarks/kill_upgrade.py
    python benchmarks/kill_upgrade.py --rows 500 --kills 5 --out kills.json
"""

import argparse
import io
import json
import multiprocessing
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from onward.cli import main
from onward.errors import GalleryError
from onward.fusion import Fusion, Scale, Serving
from onward.gallery import Gallery, create_gallery, open_gallery
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation, linear
from onward.upgrading import Upgrade

DIM = 32
OLD, SIDE, NEW, NEXT = (Space(name, DIM) for name in ("old@1", "side@1", "new@2", "next@3"))
STEPS = ("run", "verify", "cut over", "cut over fused", "roll back", "backfill", "complete")
PAIR = Fusion(OLD, NEW, 0.5, Scale(30.0, 10.0), Scale(60.0, 20.0))
MOST_ROWS, PAUSE_SECONDS = 20, 0.1
"""Of the writer: rows in an operation, and the longest pause between two of them."""

COMMAND = (
    "import json, sys, lancedb, onnxruntime, onward.upgrading, onward.upgrading.backfill, "
    "onward.cli.app, onward.gallery.lance.store; from onward.cli import main; "
    "print('ready', flush=True); main(json.loads(sys.stdin.readline()))"
)
"""The command `onward`, that waits for its arguments when all is imported."""


def make_transformation(seed: int, new: Space) -> Transformation:
    weight = np.random.default_rng(seed).standard_normal((DIM, 2 * DIM)).astype(np.float32)
    return linear(OLD, SIDE, new, weight, np.zeros(DIM, np.float32), made_by={})


TO_NEW = replace(make_transformation(1, NEW), serving=Serving("fused", PAIR))
TO_NEXT = make_transformation(2, NEXT)


def embed(space: Space, versions: dict[str, int]) -> Embeddings:
    """Return what the model of a space makes of items, by their numbers and versions."""
    numbers = np.array([int(item.removeprefix("item-")) for item in versions], np.float64)
    of_version = np.array(list(versions.values()), np.float64)
    phases = np.outer(numbers + 1, np.sqrt(np.arange(2, DIM + 2))) * (1 + len(space.name) / 7)
    vectors = np.sin(phases + ord(space.name[0]) * (of_version[:, None] + 1) * np.e)
    return Embeddings(tuple(versions), vectors.astype(np.float32), space)


# The other process


@dataclass
class Ledger:
    """What a gallery must hold.

    Attributes:
        items: version of each item that is there; never the same again for one item.
        native: items that were given in the new space alone.
        counts: how often the writer did what.
    """

    items: dict[str, int]
    native: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    newest: int = 0

    def write(self, gallery: Gallery, choose: random.Random, new: Space | None) -> None:
        """Do one operation until it is done, and take it down."""
        kind = choose.choice(["add", "add natively", "update", "delete", "add again"])
        rows, there = choose.randint(1, MOST_ROWS), sorted(self.items)
        chosen = choose.sample(there, min(rows, len(there)))
        if kind == "delete":
            insist(lambda: gallery.delete(chosen))
            for item in chosen:
                del self.items[item]
            self.native -= set(chosen)
        elif kind == "update":
            self._give(gallery, "update", chosen, (OLD, SIDE))
        elif kind == "add natively" and new is not None:
            self._give(gallery, "add", self._fresh(rows), (new,))
        elif kind == "add again":
            gone = [f"item-{choose.randrange(self.newest)}" for _ in range(rows)]
            again = sorted({item for item in gone if item not in self.items})
            self._give(gallery, "add", again, (OLD, SIDE))
        else:
            self._give(gallery, "add", self._fresh(rows), (OLD, SIDE))
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def _fresh(self, rows: int) -> list[str]:
        self.newest += rows
        return [f"item-{number}" for number in range(self.newest - rows, self.newest)]

    def _give(self, gallery: Gallery, verb: str, ids: list[str], spaces: tuple[Space, ...]) -> None:
        if not ids:
            return
        stamp = time.time_ns() // 1000 % 10**9
        versions = dict.fromkeys(ids, stamp)
        given = [embed(space, versions) for space in spaces]
        insist(lambda: getattr(gallery, verb)(*given))
        self.items |= versions
        self.native = self.native - set(ids) if OLD in spaces else self.native | set(ids)


def first_ledger(rows: int) -> Ledger:
    """Return what a gallery holds before anybody writes to it."""
    return Ledger(dict.fromkeys((f"item-{number}" for number in range(rows)), 0), newest=rows)


def insist(write: Callable[[], object]) -> None:
    """Write, and write again where others were quicker; what an earlier try wrote is there."""
    for attempt in range(50):
        try:
            write()
        except GalleryError as error:
            if attempt and "already: " in str(error):
                return
            if "in conflict" not in str(error) and "changed by others" not in str(error):
                raise
        else:
            return
    raise GalleryError("the writer found no moment to write in 50 tries")


def write_all_the_time(connection: Connection, seed: int) -> None:
    """Write to the galleries that are named, until told to rest; then give the ledger back."""
    choose = random.Random(seed)
    while (told := connection.recv()) is not None:
        path, new, ledger = told
        gallery = open_gallery(path)
        connection.send("writing")
        while not connection.poll(choose.uniform(0, PAUSE_SECONDS)):
            ledger.write(gallery, choose, new)
        connection.recv()
        connection.send(ledger)


@dataclass
class Writer:
    """The other process, as this one sees it."""

    connection: Connection

    @contextmanager
    def writing(self, path: Path, new: Space | None, box: list[Ledger]) -> Iterator[None]:
        """Let it write to a gallery meanwhile; its ledger is then the one thing in the box."""
        self.connection.send((path, new, box[0]))
        self.connection.recv()
        try:
            yield
        finally:
            self.connection.send("rest")
            box[0] = self.connection.recv()


# What must hold


def check(path: Path, ledger: Ledger, backfilled: Embeddings) -> Gallery:
    """Compare every row with the ledger; return the gallery."""
    gallery = open_gallery(path)
    entries = gallery.journal()
    assert [entry["number"] for entry in entries] == list(range(1, len(entries) + 1))
    now = gallery.describe()
    of_old = None if now.fusion is None else f"model of {now.fusion.old.name}"
    assert now.query_model == f"model of {now.serving.name}"
    assert now.record.serving.old_query_model == of_old
    every = [item for batch in gallery.scan([]) for item in batch.ids]
    assert len(every) == len(set(every)), "an item is there twice"
    assert set(every) == ledger.items.keys(), (
        f"lost: {sorted(ledger.items.keys() - set(every))[:5]}, "
        f"reborn: {sorted(set(every) - ledger.items.keys())[:5]}"
    )
    given = {item: at for item, at in ledger.items.items() if item not in ledger.native}
    expected = embed(OLD, given), embed(SIDE, given)
    for one in expected:
        found = gallery.read(one.space)
        assert set(found.ids) == given.keys()
        assert np.array_equal(found.align(one.ids).vectors, one.vectors), f"{one.space} changed"
    for transformation in (TO_NEW, TO_NEXT):
        if transformation.new in now.counts:
            check_new(gallery, transformation.apply(*expected), ledger, backfilled)
    return gallery


def check_new(gallery: Gallery, made: Embeddings, ledger: Ledger, backfilled: Embeddings) -> None:
    """Check the vectors that were upgraded, backfilled, or given by the writer."""
    native = {item: at for item, at in ledger.items.items() if item in ledger.native}
    sources = {"upgraded": made, "native": embed(made.space, native), "backfilled": backfilled}
    rows = {name: {item: row for row, item in enumerate(of.ids)} for name, of in sources.items()}
    for batch in gallery.scan([made.space]):
        of: dict[str, list[int]] = {name: [] for name in sources}
        for row, (item, origin) in enumerate(
            zip(batch.ids, batch.origins[made.space], strict=True)
        ):
            name = "native" if item in native else "backfilled"
            of["upgraded" if origin == "upgraded" else name].append(row)
        for name, chosen in of.items():
            right = sources[name].vectors[[rows[name][batch.ids[row]] for row in chosen]]
            apart = np.abs(batch.vectors[made.space][chosen] - right).max(axis=1, initial=0)
            wrong = [batch.ids[row] for row, by in zip(chosen, apart, strict=True) if by > 1e-4]
            assert not wrong, f"{wrong[:5]}: not what was {name}"


# The kills


@dataclass(frozen=True)
class Place:
    """Where everything lies: galleries as they stand before each step, transformations, vectors."""

    directory: Path
    backfilled: Embeddings
    rows_per_second: int

    def before(self, step: str) -> Path:
        names = {"run": "fresh", "roll back": "paired", "complete": "second"}
        return self.directory / f"{names.get(step, 'done')}.lance"

    def arguments(self, step: str, path: Path) -> list[str]:
        """Return what the command `onward` is given."""
        h = self.directory / ("to-next" if step == "complete" else "to-new")
        words = {
            "run": [
                *("upgrade", "start", path, h, "--unjudged"),
                *("--rows-per-second", self.rows_per_second),
            ],
            "verify": ["upgrade", "verify", path, h, "--all"],
            "cut over": ["upgrade", "cutover", path, h, "--force", "--query-model"],
            "cut over fused": ["upgrade", "cutover", path, h, "--force", "--serve", "fused"],
            "roll back": ["upgrade", "rollback", path, h, "--leave-out"],
            "backfill": ["backfill", path, "--embeddings", self.directory / "backfill.parquet"],
            "complete": ["upgrade", "complete", path, h, "--now"],
        }[step]
        words += {
            "cut over": ["model of new@2"],
            "cut over fused": ["--query-model", "model of new@2"],
            "backfill": ["--budget", "20%", "--order", "random"],
        }.get(step, [])
        return [str(word) for word in words]


def prepare(directory: Path, rows: int) -> Place:
    """Make the galleries as they stand before each step."""
    versions = first_ledger(rows).items
    items = embed(OLD, versions), embed(SIDE, versions)
    fresh = directory / "fresh.lance"
    create_gallery(fresh, OLD, SIDE, query_model="model of old@1", items=items)
    TO_NEW.save(directory / "to-new")
    TO_NEXT.save(directory / "to-next")
    backfilled = embed(NEW, versions)
    backfilled.save(directory / "backfill.parquet")
    done = directory / "done.lance"
    shutil.copytree(fresh, done)
    upgrade = Upgrade(open_gallery(done), TO_NEW)
    upgrade.start()
    upgrade.run()
    paired = directory / "paired.lance"
    shutil.copytree(done, paired)
    both = Upgrade(open_gallery(paired), TO_NEW)
    both.cut_over(query_model="model of new@2", serve="fused", force=True)
    second = directory / "second.lance"
    shutil.copytree(done, second)
    for transformation in (TO_NEW, TO_NEXT):
        upgrade = Upgrade(open_gallery(second), transformation)
        upgrade.start()
        upgrade.run()
        upgrade.cut_over(query_model=f"model of {transformation.new.name}", force=True)
    return Place(directory, backfilled, rows_per_second=rows // 4)  # so there are some batches


class Command:
    """The command `onward` in a process of its own, with everything imported."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def begin(self, arguments: list[str]) -> None:
        assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()

    def kill_after(self, seconds: float) -> bool:
        """Kill it; say whether it was still at work."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
        answer, errors = self.process.communicate()
        code = self.process.returncode
        assert code in (0, 1, -signal.SIGKILL), errors
        assert "Traceback" not in errors, errors
        assert code != 1 or answer, errors  # verify may fail beside a writer, and says so
        return code == -signal.SIGKILL


def take_to_its_end(arguments: list[str]) -> None:
    """Run the command once more, in this process."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), suppress(SystemExit):
        main(arguments)
    assert "onward: " not in said.getvalue(), said.getvalue()


def stands_at(gallery: Gallery, step: str) -> str:
    """Say how far a step has come: for the record of what was killed in the midst."""
    now = gallery.describe()
    if step == "run":
        done = NEW in now.counts and now.counts[NEW].upgraded
        return f"{100 * done // max(1, now.rows)} %"
    if step == "backfill":
        return f"{now.counts[NEW].embedded} rows embedded"
    if step == "complete":
        return "dropped" if NEW not in now.counts else "not dropped"
    if step in ("cut over", "cut over fused", "roll back"):
        return f"serving {now.record.serving}"
    return f"{[entry['event'] for entry in gallery.journal()].count('verify')} verified"


def try_once(
    place: Place, writer: Writer, step: str, rows: int, seconds: float
) -> tuple[bool, str, Ledger]:
    """Take a step, kill it, check, take it to its end, check."""
    path = place.directory / "killed.lance"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(place.before(step), path)
    transformation = TO_NEXT if step == "complete" else TO_NEW
    natively = None if step == "run" else transformation.new
    box, command = [first_ledger(rows)], Command()
    with writer.writing(path, natively, box):
        command.begin(place.arguments(step, path))
        was_killed = command.kill_after(seconds)
    stood = stands_at(check(path, box[0], place.backfilled), step)
    with writer.writing(path, natively, box):
        take_to_its_end(place.arguments(step, path))
    gallery = check(path, box[0], place.backfilled)
    upgrade = Upgrade(gallery, transformation)
    assert upgrade.run().remaining == 0
    serving = {"cut over": NEW, "cut over fused": PAIR, "complete": NEXT}.get(step, OLD)
    now = check(path, box[0], place.backfilled).view()
    assert (now.fusion or now.serving) == serving
    assert step != "complete" or NEW not in gallery.spaces()
    return was_killed, stood, box[0]


def how_long(place: Place, writer: Writer, step: str, rows: int) -> float:
    """Return the seconds that a step takes when nobody kills it."""
    path = place.directory / "whole.lance"
    shutil.copytree(place.before(step), path)
    with writer.writing(path, None, [first_ledger(rows)]):
        command = Command()
        command.begin(place.arguments(step, path))
        begin = time.perf_counter()
        assert command.process.stdout.readline()  # what comes after the answer is no work
        seconds = time.perf_counter() - begin
        command.process.communicate()
    shutil.rmtree(path)
    return seconds


def kill_often(rows: int, kills: int, seed: int) -> dict:
    """Kill so often; return what happened."""
    begin, choose = time.perf_counter(), random.Random(seed)
    context = multiprocessing.get_context("spawn")
    connection, its_end = context.Pipe()
    process = context.Process(target=write_all_the_time, args=(its_end, seed), daemon=True)
    process.start()
    writer, writes = Writer(connection), dict[str, int]()
    steps = {step: {"kills": 0, "too_late": 0, "stood": []} for step in STEPS}
    with tempfile.TemporaryDirectory(prefix="onward-kills-") as directory:
        place = prepare(Path(directory), rows)
        for step, found in steps.items():
            found["seconds"] = how_long(place, writer, step, rows)
        while (done := sum(found["kills"] for found in steps.values())) < kills:
            step = STEPS[done % len(STEPS)]
            moment = choose.uniform(0, steps[step]["seconds"])
            was_killed, stood, ledger = try_once(place, writer, step, rows, moment)
            steps[step]["kills" if was_killed else "too_late"] += 1
            if was_killed:
                steps[step]["stood"].append(stood)
            for kind, count in ledger.counts.items():
                writes[kind] = writes.get(kind, 0) + count
            print(f"{done + was_killed} of {kills}: {step} at {moment:.2f} s, {stood}", flush=True)
    connection.send(None)
    process.join()
    return {
        "command": f"python benchmarks/kill_upgrade.py --rows {rows} --kills {kills} --seed {seed}",
        "rows": rows,
        "kills": kills,
        "seconds": time.perf_counter() - begin,
        "steps": steps,
        "operations_of_the_writer": writes,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("lancedb", "numpy", "onnxruntime")},
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("lab/kill-upgrade.json"))
    options = parser.parse_args()
    result = kill_often(options.rows, options.kills, options.seed)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
