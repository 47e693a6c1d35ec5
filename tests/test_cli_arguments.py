"""Two thousand calls of the command line with wrong arguments: none ends in a traceback.

A seeded generator mixes good and bad values for the parameters that every command has in the
table of commands, so that a new command is called too. Each call ends with 0, 1 or 2; says what is
wrong in one message, which is never that nobody foresaw it; with `--json` prints JSON or nothing;
and changes nothing but the gallery that it is for and what it writes: a file that was there only
with `--overwrite`.

What is bad: other types, numbers that are not finite, huge, negative or empty; control characters,
half characters, NUL; files that are missing, empty, cut off, of another kind, or directories; links
that lead to themselves; JSON that is nested too deeply or holds NaN; options of other commands,
options twice, arguments too many and too few.
"""

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import parameters
from PIL import Image

from onward.artifacts import CONFIG, Artifact, read_header, write_artifact
from onward.cli import main
from onward.gallery import create_gallery, open_gallery
from onward.nn.specs import BackboneSpec
from onward.spaces import Embeddings, Space
from onward.training.image_models import train_model
from onward.training.settings import FrozenSettings
from onward.transformation import Transformation, linear
from onward.upgrading import Upgrade

CALLS, CHUNKS, IN_A_PROCESS = 2000, 8, 40
SECONDS = 30.0
"""A call that takes longer hangs: the work that good values ask for takes well under one."""

OLD, SIDE = Space("old@1", 4), Space("side@1", 3)
IDS = tuple(f"item-{row}" for row in range(60))

JUNK = (
    *("", " ", "-", "--", "-1", "0", "1", "1.5", "nan", "inf", "-inf", "1e309", "-0.0", "1e-320"),
    *("99999999999999999999", "-99999999999999999999", "0x10", "1_0", "½", "true", "null", "[]"),
    *("%", "3%", "-3%", "101%", "nan%", "$20", "1e400s", "0-0", "5-1", "0-", ",", "a=b", "=", "a="),
    *("0-99999999999999999999", "0-100000000000", "'", '"', "`", "$(true)", "*", "~", "{}", "{0}"),
    *(
        "\x1b[31mred",
        "bell\x07",
        "a\nb",
        "a\tb",
        "\r",
        "\x7f",
        "\x9b",
        "\u202e",
        "\u2028",
        "\ud800",
    ),
    *("\udcff", "nul\0", "é", "猫", "x" * 300, "x" * 5000, "--json", "--help", "-k", "None"),
    *("map >= ", "map >= 2", "cmc@0 >= 1", "cmc@1 >= nan", "map > 0.1 * nope", "1 >= map"),
    *(
        "lr=nan",
        "lr=1e999",
        "batch_size=0",
        "views=-1",
        "data.source=\ud800",
        "temperature=1e-320",
    ),
    *(
        "old",
        "other@1",
        "memory:",
        "memory:x",
        "s3://bucket/key",
        "http://localhost:1/x",
        "file:///",
    ),
    *("lancedb://x", "postgresql://nobody@127.0.0.1:1/x", "timm:", "timm:nope", "small-resnet"),
)
PLACES = (
    *(
        "",
        ".",
        "..",
        "/proc/nowhere/x",
        "nowhere",
        "nowhere/deep",
        "old.parquet/x",
        "~/x",
        "x" * 300,
    ),
    *("missing.parquet", "missing.jsonl", "missing.html", "no\x1b[2Jwhere", "no\nwhere.parquet"),
    *("\udcff.parquet", "nul\0.parquet", "loop", "loop/x", "loop.parquet", "dangling.parquet"),
    *("/dev/null", "/proc/self/mem", "new.PARQUET", "memory:g"),
)
SLOW_IF_HUGE = {"epochs", "networks", "seeds", "sample_rows", "rows_per_second", "size", "width"}
"""Parameters for which a huge or small number is a right one and asks for much work."""
FEW = ("", " ", "nan", "inf", "-1", "-1.5", "0", "x", "1e309", "\x1b[1m", "\ud800", "a\nb", "½")
WRITES = {"out", "side_out", "payloads_out", "report", "tensorboard", "cache"}
CHANGES = (
    *("gallery create", "gallery add", "gallery write", "gallery delete", "gallery compact"),
    "backfill run",
)

GOOD: dict[str, tuple[str, ...]] = {
    "fallback": ("h-bare",),
    "backbone": ("small-resnet",),
    "batch": ("4",),
    "budget": ("10", "10%", "5s", "$20"),
    "by": ("random", "uncertainty"),
    "camera_column": ("camera",),
    "canaries": ("new.parquet",),
    "canaries_old": ("old.parquet",),
    "channels": ("1", "3"),
    "classes": ("0-1", "0"),
    "classifier": ("model",),
    "count": ("20", "50%"),
    "data": ("photos", "images.parquet", "lines.jsonl"),
    "device": ("cpu", "auto"),
    "devices": ("1",),
    "dim": ("4",),
    "embeddings": ("old.parquet", "side.parquet", "new.parquet", "shards"),
    "epochs": ("1",),
    "far": ("1e-3", "0.1"),
    "gallery": ("photos.lance", "started.lance"),
    "gallery create gallery": ("made.lance",),
    "rollback_days": ("0", "7"),
    "id_column": ("id",),
    "ids": ("item-1", "item-2"),
    "ignored": ("ignored.txt",),
    "image_column": ("image",),
    "k": ("1", "5", "100"),
    "keep_minutes": ("0", "60"),
    "label_column": ("label",),
    "layers": ("4",),
    "layers_format": ("int8", "float32"),
    "layers_grid": ("1",),
    "layers_stages": ("0-1",),
    "lr": ("0.01",),
    "method": ("procrustes", "ridge"),
    "metrics": ("map", "ndcg@10,mrr@5", "cmc@1"),
    "model": ("model",),
    "name": ("named",),
    "networks": ("1",),
    "new": ("new.parquet",),
    "objective": ("mse", "l1", "cosine"),
    "train objective": ("cross-entropy", "none", "simclr"),
    "evaluate gallery": ("old.parquet", "new.parquet"),
    "old": ("old.parquet", "photos.lance"),
    "old_classes": ("1",),
    "old_model": ("model",),
    "order": ("random", "uncertainty"),
    "out": ("made",),
    "embed out": ("made.parquet",),
    "gallery export out": ("made.parquet",),
    "gallery sample out": ("made.jsonl",),
    "report out": ("made.html",),
    "pairs": ("pairs.txt",),
    "path": ("model", "h", "old.parquet", "photos.lance", "photos"),
    "payloads": ("lines.jsonl",),
    "payloads_out": ("made2.jsonl",),
    "precision": ("32-true",),
    "price": ("0.5",),
    "qrels": ("qrels.txt",),
    "queries": ("new.parquet", "old.parquet", "photos/a/0.png"),
    "queries_new": ("new.parquet",),
    "queries_old": ("old.parquet",),
    "query_model": ("q",),
    "report": ("made3.html",),
    "require": ("map >= old/old", "cmc@1 >= 0.5"),
    "rows_per_second": ("none", "1000000"),
    "sample": ("new.parquet",),
    "sample_rows": ("20",),
    "sample_share": ("0.5", "1"),
    "seed": ("0", "7"),
    "set_": ("epochs=1",),
    "side": ("side.parquet", "side@1"),
    "side_out": ("made4.parquet",),
    "size": ("8",),
    "space": ("old@1", "new@2"),
    "split": ("all", "train", "test"),
    "tensorboard": ("events",),
    "title": ("A title",),
    "transformation": ("h", "h-bare"),
    "upgraded": ("upgraded.parquet",),
    "width": ("4",),
}
QUICK = {
    "train": ["--epochs", "1", "--size", "8", "--width", "4", "--dim", "4", "--batch-size", "4"],
    "fit": ["--method", "procrustes"],
}
"""What lets a command end soon where nothing else is said."""
WRONG = {
    "demo": (
        "--data",
        ("nowhere", "bad-noise.parquet", "empty-dir", "loop", "h", "a\x1b[1m", "nul\0"),
    ),
    "experiment": (
        "recipe",
        ("nope", "", "bad-noise.toml", "bad-deep.toml", "recipe.toml", "loop"),
    ),
}
"""What is always wrong, whatever else may be: these would train for minutes."""


@dataclass
class Call:
    """Arguments; and which places they name that a command may write to."""

    command: str
    words: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    galleries: list[str] = field(default_factory=list)

    @property
    def as_json(self) -> bool:
        return "--json" in self.words

    def __str__(self) -> str:
        return ascii(self.words)


TABLE = parameters()


def bad_value(draw: random.Random, name: str, good: str, files: list[str]) -> str:
    """Return junk, a place, any file, or one that is like the good one but for something."""
    if name in SLOW_IF_HUGE:
        return draw.choice(FEW)
    alike = [one for one in files if one != good and one.startswith(f"{good}-")]
    alike += [one for one in files if Path(good).suffix and one.endswith(Path(good).suffix)]
    kinds = [JUNK, PLACES, files, *([alike] * 3 if alike else [])]
    return draw.choice(draw.choice(kinds))


def value_of(draw: random.Random, command: str, name: str, files: list[str], chance: float) -> str:
    """Return a good value by this chance, where one is known; else a bad one."""
    known = GOOD.get(f"{command} {name}", GOOD.get(name, ()))
    good = draw.choice(known or ("",))
    return good if known and draw.random() < chance else bad_value(draw, name, good, files)


def generate(draw: random.Random, files: list[str]) -> Call:
    """Return a call: mostly a command with all that it needs, a few options, some of it bad."""
    command = draw.choice(list(TABLE))
    call, good = Call(command, command.split()), draw.choice((0.0, 0.5, 0.8, 0.9))
    name, wrong = WRONG.get(command, ("", ()))
    parameters = [one for one in TABLE[command] if one.name != "help"]
    needed = [one for one in parameters if one.required and draw.random() < 0.97]
    free = [one for one in parameters if not one.required and one.opts[0] != name]
    chosen = draw.sample(free, min(len(free), draw.choice((0, 1, 1, 2, 3, 5))))
    if wrong:
        needed = []
        call.words += [name, draw.choice(wrong)] if name.startswith("--") else [draw.choice(wrong)]
    elif draw.random() < 0.05:
        chosen.append(draw.choice(TABLE[draw.choice(list(TABLE))]))
    arguments = [one for one in needed if one.param_type_name == "argument"]
    options = [one for one in [*needed, *chosen] if one.param_type_name == "option"]
    for one in arguments:
        for _ in range(draw.choice((1, 1, 2)) if one.nargs == -1 else 1):
            call.words.append(_given(draw, call, one.name, files, good))
    for one in options:
        flag = draw.choice([*one.opts, *one.secondary_opts])
        call.words.append(flag)
        if not one.is_flag:
            call.words.append(_given(draw, call, one.name, files, good))
    quick = iter(QUICK.get(command, ()))
    for flag, value in zip(quick, quick, strict=True):
        call.words += [] if flag in call.words else [flag, value]
    if draw.random() < 0.5:
        call.words.append("--json")
    if not wrong:
        _disturb(draw, call)
    return call


def _given(draw: random.Random, call: Call, name: str, files: list[str], good: float) -> str:
    value = value_of(draw, call.command, name, files, good)
    if name in WRITES:
        call.writes.append(value)
    if name == "gallery":
        call.galleries.append(value)
    return value


def _disturb(draw: random.Random, call: Call) -> None:
    """Now and then give a word too many or too few, or all in another order."""
    if draw.random() < 0.04:
        call.words.append(draw.choice(JUNK))
    if draw.random() < 0.03:
        call.words.pop(draw.randrange(1, len(call.words)))
    if draw.random() < 0.02:
        draw.shuffle(call.words)


def make_world(folder: Path) -> None:
    """Good files, a model, transformations, galleries; and everything that can be wrong."""
    _good_files(folder)
    _bad_files(folder)
    _bad_artefacts(folder)


def _good_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 4)).astype(np.float32)
    labels = np.arange(60) % 3
    spec = BackboneSpec(name="small-resnet", dim=4, size=8, channels=1, width=4)
    model = train_model(None, FrozenSettings(), spec, name="new", seed=0)
    model.save(folder / "model")
    side = Embeddings(IDS, vectors[:, :3], SIDE)
    old, new = Embeddings(IDS, vectors, OLD, labels), Embeddings(IDS, vectors, model.space, labels)
    eye = np.eye(4, dtype=np.float32)
    both = np.concatenate([eye, np.zeros((3, 4), np.float32)])
    h = linear(OLD, SIDE, model.space, both.T, np.zeros(4), made_by={})
    bare = linear(OLD, None, model.space, eye, np.zeros(4), made_by={})
    h.save(folder / "h")
    bare.save(folder / "h-bare")
    for name, one in (("old", old), ("side", side), ("new", new), ("upgraded", bare.apply(old))):
        one.save(folder / f"{name}.parquet")
    (folder / "shards").mkdir()
    old.select(range(30)).save(folder / "shards" / "0.parquet")
    old.select(range(30, 60)).save(folder / "shards" / "1.parquet")
    payloads = [{"path": str(folder / "photos" / "a" / f"{row % 8}.png")} for row in range(60)]
    for name in ("photos", "started"):
        create_gallery(
            str(folder / f"{name}.lance"),
            *(OLD, SIDE),
            serving=OLD,
            query_model="old",
            items=[old, side],
            payloads=payloads,
        )
    upgrade = Upgrade(
        open_gallery(str(folder / "started.lance")), Transformation.load(folder / "h")
    )
    upgrade.start()
    upgrade.run()
    _images(folder, rng)
    lines = [
        json.dumps({"id": item, **payload}) for item, payload in zip(IDS, payloads, strict=True)
    ]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    (folder / "qrels.txt").write_text("".join(f"{item} 0 {item} 1\n" for item in IDS))
    (folder / "ignored.txt").write_text(f"{IDS[0]} {IDS[1]}\n")
    (folder / "pairs.txt").write_text(f"{IDS[0]} {IDS[1]} 1\n{IDS[0]} {IDS[2]} 0\n")


def _images(folder: Path, rng: np.random.Generator) -> None:
    rows: dict[str, list[Any]] = {"image": [], "label": [], "id": []}
    for name in ("a", "b"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(8):
            path = folder / "photos" / name / f"{number}.png"
            Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(path)
            rows["image"].append({"bytes": path.read_bytes(), "path": path.name})
            rows["label"].append("ab".index(name))
            rows["id"].append(f"{name}-{number}")
    pq.write_table(pa.table(rows), folder / "images.parquet")


def _bad_files(folder: Path) -> None:
    noise = random.Random(1).randbytes(3000)
    whole = (folder / "old.parquet").read_bytes()
    deep = "[" * 100_000 + "]" * 100_000
    contents: dict[str, bytes] = {
        "empty": b"",
        "noise": noise,
        "cut": whole[: len(whole) // 2],
        "end": whole[-100:],
        "text": "Überschrift\n".encode("utf-16"),
        "deep": f'{{"id": "a", "x": {deep}}}\n'.encode(),
        "nan": b'{"id": "item-1", "x": NaN, "path": 1e999}\n',
        "twice": b'{"id": "a"}\n{"id": "a"}\n',
        "odd": b'{"id": "item-1", "digits": true}\n{"id": "b", "path": ["x"]}\n{"id": "\\ud800"}\n',
        "one": b"item-1\n",
        "long": b"item-1 " * 100_000,
        "huge": b'{"id": "item-1", "digits": 99999999999999999999}\n',
        "nul": b'{"id": "item-1", "path": "\\u0000"}\n',
    }
    for name, data in contents.items():
        for suffix in (".parquet", ".jsonl", ".png", ".txt", ".toml", ""):
            (folder / f"bad-{name}{suffix}").write_bytes(data)
    (folder / "dir.parquet").mkdir()
    (folder / "dir.parquet" / "thesis.txt").write_text("years of work")
    (folder / "empty-dir").mkdir()
    (folder / "dir.jsonl").mkdir()
    (folder / "dir.html").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "loop.parquet").symlink_to("loop.parquet")
    (folder / "dangling.parquet").symlink_to("nothing.parquet")
    (folder / "recipe.toml").write_text('name = "x"\n[data]\nsource = "nowhere"\n')
    columns: dict[str, Any] = {
        "no-space": {"id": ["a"], "vector": [[1.0, 2.0]]},
        "no-id": {"vector": [[1.0]]},
        "null": {"id": ["a", None], "vector": [[1.0, 2.0], None]},
        "no-rows": {"id": pa.array([], pa.string())},
    }
    for name, one in columns.items():
        pq.write_table(pa.table(one), folder / f"table-{name}.parquet")
    (folder / "photos-bad" / "a").mkdir(parents=True)
    (folder / "photos-bad" / "b").mkdir()
    (folder / "photos-bad" / "a" / "0.png").write_bytes(noise)
    (folder / "photos-bad" / "b" / "0.png").write_bytes(b"")


def _bad_artefacts(folder: Path) -> None:
    """Transformations and models of which one thing is wrong, and galleries that are none."""
    for name in ("h", "model"):
        header = json.loads((folder / name / CONFIG).read_bytes())
        for what in ("noise", "empty", "deep", "nan"):
            shutil.copytree(folder / name, folder / f"{name}-{what}")
            data = (folder / f"bad-{what}").read_bytes()
            (folder / f"{name}-{what}" / CONFIG).write_bytes(data)
        shutil.copytree(folder / name, folder / f"{name}-cut")
        (folder / f"{name}-cut" / "model.safetensors").write_bytes(b"nonsense")
        for number, config in enumerate(({}, {"spaces": 1}, {**header["config"], "steps": [{}]})):
            artifact = Artifact(header["kind"], config, {}, {}, "", {})
            write_artifact(folder / f"{name}-config-{number}", artifact)
    assert read_header(folder / "h-config-0")
    (folder / "empty.lance").mkdir()
    shutil.copytree(folder / "photos.lance", folder / "noise.lance")
    for path in (folder / "noise.lance").rglob("*.lance"):
        if path.is_file():
            path.write_bytes(b"nonsense")
    shutil.copytree(folder / "photos.lance", folder / "half.lance")
    shutil.rmtree(folder / "half.lance" / "items.lance")


@dataclass
class World:
    """A folder in which calls are made, and a copy of how it was."""

    folder: Path
    pristine: Path
    files: list[str]
    before: dict[str, tuple[Any, ...]]

    @classmethod
    def make(cls, place: Path) -> "World":
        folder, pristine = place / "world", place / "pristine"
        folder.mkdir()
        make_world(folder)
        shutil.copytree(folder, pristine, symlinks=True)
        files = sorted(path.name for path in folder.iterdir())
        return cls(folder, pristine, files, look_at(folder))

    def check(self, call: Call) -> None:
        """Find what a call has changed that it may not change, and put everything back."""
        after = look_at(self.folder)
        touched = [
            name for name in {**self.before, **after} if self.before.get(name) != after.get(name)
        ]
        try:
            for name in touched:
                assert not name.endswith(".aside"), f"{name} was left by {call}"
                assert self._may(call, name), f"{name} was changed by {call}"
        finally:
            for top in {name.partition("/")[0] for name in touched}:
                self._put_back(top)
            self.before = look_at(self.folder) if touched else self.before

    def _may(self, call: Call, name: str) -> bool:
        """Whether a call may change this: its gallery, or what it writes and was not there."""
        changes = call.command in CHANGES or call.command.startswith("upgrade ")
        if any(self._within(name, gallery) for gallery in call.galleries):
            return changes
        was_there = name in self.before and not self._was_empty(name)
        written = [*call.writes, *(f"{one}/x" for one in call.writes)]
        written += call.galleries if call.command == "gallery create" else []
        above = any(os.path.normpath(one).startswith(f"{name}/") for one in written if one)
        named = above or any(self._within(name, one) for one in call.writes)
        if call.command == "train":
            named |= any(f".{Path(one).name}.checkpoint" in name for one in call.writes if one)
        return named and (not was_there or "--overwrite" in call.words)

    def _was_empty(self, name: str) -> bool:
        """A directory changes where something comes to stand in it."""
        return self.before[name][0] == "directory"

    def _within(self, name: str, given: str) -> bool:
        try:
            whole = Path(os.path.realpath(self.folder / given))
            return bool(given) and (self.folder / name).is_relative_to(whole)
        except (ValueError, OSError):
            return False

    def _put_back(self, top: str) -> None:
        path, kept = self.folder / top, self.pristine / top
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if kept.is_symlink():
            path.symlink_to(kept.readlink())
        elif kept.is_dir():
            shutil.copytree(kept, path, symlinks=True)
        elif kept.exists():
            shutil.copy2(kept, path)


def look_at(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return what tells one state of each file from another."""
    found: dict[str, tuple[Any, ...]] = {}
    for top, directories, files in os.walk(folder):
        inside = os.path.relpath(top, folder)
        for name in directories:
            found[os.path.normpath(f"{inside}/{name}")] = ("directory",)
        for name in files:
            status = os.lstat(f"{top}/{name}")
            known = (status.st_size, status.st_mtime_ns, status.st_ino)
            found[os.path.normpath(f"{inside}/{name}")] = ("file", *known)
    return found


def answer_of(call: Call) -> tuple[Any, str, str]:
    """Make a call in this process; return exit code, standard output and standard error."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    err.reconfigure(errors="backslashreplace")
    code: Any = "none"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(call.words)
        except SystemExit as end:
            code = end.code
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return code, *texts


def check_answer(call: Call, code: Any, out: str, err: str, seconds: float) -> None:
    """Hold an answer to what is promised."""
    said = f"{call} ended with {code} after {seconds:.1f} s:\n{out[-300:]}\n{err[-1500:]}"
    assert code in (0, 1, 2), said
    assert "unexpected error" not in err, said
    assert "Traceback" not in out + err, said
    assert seconds < SECONDS, said
    messages = [line for line in err.splitlines() if line.startswith("onward: ")]
    assert len(messages) <= 1, said
    helped = "Usage: " in out + err
    assert code == 0 or messages or (out and code == 1) or helped, said
    assert code != 2 or not out or helped, said
    assert all(c.isprintable() or c == "\n" for c in err.replace("\r", "")), said
    if call.as_json and not helped:
        lines = out.splitlines() if call.command == "upgrade log" else [out]
        for one in lines:
            assert not one or isinstance(json.loads(one, parse_constant=pytest.fail), dict), said


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World.make(tmp_path_factory.mktemp("arguments"))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_wrong_arguments_end_with_one_message_and_change_nothing(world, monkeypatch, chunk):
    monkeypatch.chdir(world.folder)
    monkeypatch.setattr(sys, "argv", ["onward"])
    draw = random.Random(f"arguments {chunk}")
    for _ in range((CALLS - IN_A_PROCESS) // CHUNKS):
        call = generate(draw, world.files)
        started = time.monotonic()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            code, out, err = answer_of(call)
        check_answer(call, code, out, err, time.monotonic() - started)
        assert not [str(one.message) for one in warned if one.category is not ResourceWarning], call
        world.check(call)


@pytest.mark.slow
def test_wrong_arguments_of_real_processes_end_with_one_message(world):
    draw = random.Random("processes")
    for _ in range(IN_A_PROCESS):
        call = generate(draw, world.files)
        words = [one for one in call.words if "\0" not in one and "\ud800" not in one]
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "onward", *words],
            cwd=world.folder,
            capture_output=True,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode(errors="backslashreplace")
        call.words = words
        check_answer(call, done.returncode, out, err, time.monotonic() - started)
        world.check(call)


def test_every_parameter_of_every_command_is_drawn(tmp_path):
    """Also of a command that is new: nothing here names the commands."""
    draw, drawn = random.Random(0), {name: set[str]() for name in TABLE}
    for _ in range(CALLS * 2):
        call = generate(draw, ["old.parquet"])
        drawn[call.command] |= set(call.words)
    for name, known in TABLE.items():
        options = [one for one in known if one.param_type_name == "option"]
        assert drawn[name], name
        missing = [one.opts[0] for one in options if not {*one.opts} & drawn[name]]
        assert len(missing) <= len(options) // 5, f"{name}: {missing}"
