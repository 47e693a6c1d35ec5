"""Every answer in JSON says what may come next, by commands that there are."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import commands, run
from typer.testing import CliRunner
from upgrades import OLD, SECOND, SIDE, TO_SECOND, embed, numbered

from onward.cli.app import app
from onward.cli.output import suggest, to_text
from onward.spaces import Embeddings

ROWS = 60


@pytest.mark.parametrize("command", commands())
def test_every_command_can_answer_in_json(command):
    assert "--json" in run(*command.split(), "--help").stdout


def test_steps_of_a_command_come_before_those_of_its_answer_and_last_of_all():
    step = suggest("gallery sample", "my photos.lance", None, "OUT", why="it is first")
    command = "onward gallery sample 'my photos.lance' OUT"
    assert step == {"step": "sample", "command": command, "why": "it is first"}
    named = {"step": "verify", "why": "it is second"}
    own = {"step": "verify", "command": "onward upgrade verify", "why": "it is second"}
    text = to_text({"next_steps": [named], "rows": 3}, [step], {"gate": None})
    assert list(json.loads(text)) == ["rows", "gate", "next_steps"]
    assert json.loads(text)["next_steps"] == [step, own]
    unknown = {"step": "of a newer program", "why": "it can more"}
    told = json.loads(to_text({"next_steps": [unknown]}))["next_steps"]
    assert told == [{"step": "of a newer program", "command": "", "why": "it can more"}]
    assert json.loads(to_text({"rows": 3})) == {"rows": 3, "next_steps": []}
    assert to_text({"rows": 3}, indent=None) == '{"rows": 3, "next_steps": []}'


def steps_of(*words, code=0):
    """The steps that an answer names; each must be a command that there is."""
    given = [*map(str, words), "--json"]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == code, result.output
    steps = json.loads(result.stdout)["next_steps"]
    for one in steps:
        assert list(one) == ["step", "command", "why"]
        named = one["command"].removeprefix("onward ")
        assert any(f"{named} ".startswith(f"{each} ") for each in commands()), named
    return [one["command"].removeprefix("onward ") for one in steps]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Embeddings of sixty items by the old and the new model, and their side-information."""
    monkeypatch.chdir(tmp_path)
    ids, labels = numbered(ROWS), np.arange(ROWS) % 4
    old, side = embed(OLD, ids, labels=labels), embed(SIDE, ids)
    old.save(Path("old.parquet"))
    side.save(Path("side.parquet"))
    upgraded = TO_SECOND.apply(old, side)
    Embeddings(ids, upgraded.vectors, SECOND, labels).save(Path("new.parquet"))
    TO_SECOND.save(Path("h"))
    return tmp_path


@pytest.mark.slow
def test_a_gallery_leads_from_a_sample_to_an_upgrade(place):
    first = ["gallery sample g.lance sample.jsonl"]
    assert steps_of("gallery", "create", "g.lance", "old.parquet") == first
    assert steps_of("gallery", "write", "g.lance", "side.parquet") == first
    assert steps_of("gallery", "describe", "g.lance") == steps_of("info", "g.lance") == first
    assert steps_of("gallery", "delete", "g.lance", "item-0003") == first
    sampled = steps_of("gallery", "sample", "g.lance", "s.jsonl", "--count", 30)
    assert sampled == ["embed MODEL s.jsonl s.parquet"]
    fitted = steps_of("fit", "g.lance", "new.parquet", "h2", "--method", "ridge")
    assert fitted == ["upgrade plan g.lance h2 --sample new.parquet"]
    assert steps_of("upgrade", "start", "g.lance", "h", "--unjudged") == ["upgrade verify"]
    under_way = ["upgrade status g.lance TRANSFORMATION"]
    assert steps_of("gallery", "compact", "g.lance") == under_way
    assert steps_of("upgrade", "cutover", "g.lance", "h", "--force")[0] == "upgrade rollback"
    assert steps_of("gallery", "describe", "g.lance") == []
    embed(OLD, ["late"]).save(Path("late.parquet"))
    assert steps_of("gallery", "add", "g.lance", "late.parquet") == under_way
    assert steps_of("search", "g.lance", "new.parquet") == []
    exported = steps_of("gallery", "export", "g.lance", "out.parquet")
    assert exported == ["evaluate QUERIES out.parquet --exclude-self"]


def test_files_lead_to_a_plan_and_a_page(place):
    fit = ("fit", "old.parquet", "new.parquet", "h2", "--method", "ridge")
    assert steps_of(*fit) == ["upgrade plan GALLERY h2"]
    files = ("--old", "old.parquet", "--upgraded", "new.parquet", "--new", "new.parquet")
    compared = steps_of("compare", *files, "--exclude-self")
    assert compared == [f"report page.html {' '.join(files)} --exclude-self"]
    assert steps_of("report", "page.html", *files, "--exclude-self") == []
    assert steps_of("evaluate", "new.parquet", "new.parquet", "--exclude-self") == []
    assert steps_of("info", "old.parquet") == steps_of("info", "h") == []
