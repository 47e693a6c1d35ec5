"""Every command where only the core is installed, without what the extras bring.

A command that needs none of it works; any other ends with 1 and one message that says how to
install it. What `pip install .` would not have is hidden from a process of its own.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from blocks import ROOT
from commands import commands

from onward.cli import EXTRAS
from onward.gallery import create_gallery
from onward.nn.specs import BackboneSpec
from onward.spaces import Embeddings, Space
from onward.training.image_models import train_model
from onward.training.settings import FrozenSettings
from onward.transformation import linear

OLD, NEW = Space("old@1", 4), Space("new@2", 4)
IDS = tuple(f"item-{row}" for row in range(60))

PROGRAM = """
import contextlib, io, json, sys
from importlib.machinery import PathFinder

hidden, calls = json.load(sys.stdin)

class Core(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        away = name.partition(".")[0] in hidden
        return None if away else PathFinder.find_spec(name, path, target)

sys.meta_path = [Core if finder is PathFinder else finder for finder in sys.meta_path]
from onward.cli import main

for arguments in calls:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""

FIT, TRAIN, VISION = "'onward[fit]'", "'onward[train]'", "'onward[vision]'"
FILES = "--old old.parquet --upgraded upgraded.parquet --new new.parquet --exclude-self"
CALLS: list[tuple[str, str | None]] = [
    ("demo --out demo", TRAIN),
    ("experiment digits --out experiment", TRAIN),
    ("train digits trained", TRAIN),
    ("train digits trained --objective none", TRAIN),
    ("train digits trained --objective none --backbone timm:resnet18", TRAIN),
    ("train digits trained --tensorboard events", TRAIN),
    ("fit old.parquet new.parquet fitted", None),
    ("fit old.parquet new.parquet ridge --method ridge --uncertainty", None),
    ("fit photos.lance new.parquet rotation --method procrustes", None),
    ("fit old.parquet new.parquet network --method mlp", FIT),
    ("fit old.parquet new.parquet both --method ensemble", FIT),
    ("embed model digits embedded.parquet", VISION),
    ("embed model digits embedded.parquet --side-out side.parquet", VISION),
    ("search photos.lance photo.png --model model", VISION),
    ("backfill photos.lance --model model --budget 10", VISION),
    ("backfill plan photos.lance h --model model", VISION),
    ("backfill plan photos.lance h --sample new.parquet --report b.html", None),
    ("search photos.lance old.parquet", None),
    ("evaluate old.parquet old.parquet --exclude-self", None),
    (f"compare {FILES}", None),
    (f"report page.html {FILES}", None),
    ("info model", None),
    ("info h", None),
    ("info old.parquet", None),
    ("info photos.lance", None),
    ("gallery create other.lance old.parquet", None),
    ("gallery add other.lance more.parquet", None),
    ("gallery write other.lance new.parquet", None),
    ("gallery delete other.lance item-1", None),
    ("gallery describe other.lance", None),
    ("gallery compact other.lance", None),
    ("gallery export other.lance exported.parquet", None),
    ("gallery sample photos.lance sample.jsonl --count 30", None),
    ("gallery sample photos.lance unsure.jsonl --by uncertainty --transformation ridge", None),
    ("embed model sample.jsonl embedded.parquet", VISION),
    ("upgrade photos.lance h", None),
    ("upgrade plan photos.lance h --sample new.parquet --margin 50", None),
    ("upgrade start photos.lance h --unjudged", None),
    ("upgrade pause photos.lance h", None),
    ("upgrade resume photos.lance h", None),
    ("upgrade limit photos.lance h --rows-per-second none", None),
    ("upgrade status photos.lance h", None),
    ("upgrade verify photos.lance h", None),
    ("upgrade cutover photos.lance h", None),
    ("backfill run photos.lance --embeddings new.parquet", None),
    ("upgrade rollback photos.lance h", None),
    ("upgrade log photos.lance", None),
    ("upgrade cutover photos.lance h --force", None),
    ("upgrade complete photos.lance h --now", None),
    ("upgrade all third.lance h --yes --unjudged", None),
    ("upgrade start fourth.lance h --unjudged", None),
    ("upgrade abort fourth.lance h --yes", None),
]


def make_world(folder: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    labels = np.arange(60) % 3
    h = linear(OLD, None, NEW, np.eye(4), np.zeros(4), made_by={})
    old = Embeddings(IDS, vectors, OLD, labels)
    old.save(folder / "old.parquet")
    Embeddings(("another",), vectors[:1], OLD, labels[:1]).save(folder / "more.parquet")
    h.apply(old).save(folder / "upgraded.parquet")
    Embeddings(IDS, vectors, NEW, labels).save(folder / "new.parquet")
    h.save(folder / "h")
    payloads = [{"digits": row} for row in range(60)]
    for name in ("photos", "third", "fourth"):
        url = str(folder / f"{name}.lance")
        create_gallery(url, OLD, serving=OLD, query_model="old", items=[old], payloads=payloads)
    spec = BackboneSpec(name="small-resnet", dim=4, size=8, channels=1, width=4)
    train_model(None, FrozenSettings(), spec, name="model", seed=0).save(folder / "model")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Exit code, standard output and standard error of each call."""
    folder = tmp_path_factory.mktemp("core")
    make_world(folder)
    lines = called_without(list(EXTRAS), [call.split() for call, _ in CALLS], folder)
    return dict(zip([call for call, _ in CALLS], lines, strict=True))


def called_without(hidden, calls, folder):
    """Exit code, standard output and standard error of each call, where some packages are not."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([hidden, calls]),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("call", "needed"), CALLS, ids=[call for call, _ in CALLS])
def test_a_command_works_or_says_what_to_install(answers, call, needed):
    code, out, err = answers[call]
    if needed is None:
        assert code == 0, err
        return
    assert (code, out) == (1, "")
    assert f"is not installed; it comes with an extra: pip install {needed}" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_without_torch_fit_keeps_ridge_and_says_what_the_network_needs(answers):
    code, _, err = answers["fit old.parquet new.parquet fitted"]
    *_, kept, serve = err.splitlines()
    assert (code, kept.startswith("kept: new/old ridge")) == (0, True)
    assert serve.startswith("serve: ")
    assert "torch is not installed: pip install 'onward[fit]'" in kept


def test_every_command_is_called():
    called = {call for call, _ in CALLS} | {"upgrade all", "backfill run"}  # without their verb
    missing = [name for name in commands() if not any(call.startswith(name) for call in called)]
    assert not missing, f"say in CALLS what these do without the extras: {missing}"


def test_every_package_that_an_extra_brings_has_its_line():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"]
    brought = {
        package.partition(">")[0]
        for extra in ("fit", "vision", "train", "tensorboard", "text")
        for package in extras[extra]
        if not package.startswith("onward")
    }
    assert brought == {package for package, _ in EXTRAS.values()}


@pytest.mark.slow
def test_the_network_of_h_needs_torch_and_no_other_package_of_an_extra(tmp_path):
    make_world(tmp_path)
    call = ["fit", "old.parquet", "new.parquet", "fitted", "--method", "mlp", "--epochs", "1"]
    ((code, _, err),) = called_without(
        [name for name in EXTRAS if name != "torch"], [call], tmp_path
    )
    assert code == 0, err
