"""`onward upgrade`: what its commands record, and what they say that is easily overlooked."""

import json
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from commands import attempt, run
from typer.testing import CliRunner
from upgrades import OLD, SECOND, SIDE, TO_SECOND, carry_out, embed, make_gallery, steps_of
from worlds import paired

from onward.cli.app import app
from onward.cli.output import message_of
from onward.errors import OnwardError
from onward.gallery import open_gallery
from onward.upgrading import Upgrade

ROWS = 30


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A gallery that was cut over, as commands take it; no test changes it."""
    path = tmp_path_factory.mktemp("served")
    carry_out(make_gallery(str(path / "shop.lance"), ROWS), TO_SECOND)
    TO_SECOND.save(path / "h")
    return str(path / "shop.lance"), str(path / "h")


@pytest.fixture
def words(tmp_path):
    """A gallery with labels and a transformation from it, as commands take them."""
    make_gallery(str(tmp_path / "shop.lance"), ROWS, labels=np.arange(ROWS) % 3)
    TO_SECOND.save(tmp_path / "h")
    return str(tmp_path / "shop.lance"), str(tmp_path / "h")


@pytest.mark.slow
def test_cutting_over_again_keeps_the_query_model_that_is_recorded(words):
    named = ("--query-model", "resnet at 3 epochs")
    run("upgrade", "all", *words, "--yes", "--unjudged", *named)
    for again in ("cutover", "all"):
        yes = ["--yes"] if again == "all" else []
        said = json.loads(run("upgrade", again, *words, *yes, "--json").stdout)
        assert (said["cut_over"], said["query_model"]) == (True, named[1]), again
    renamed = run("upgrade", "cutover", *words, "--query-model", "another", "--json")
    assert json.loads(renamed.stdout)["query_model"] == "another"
    run("upgrade", "rollback", *words)
    said = json.loads(run("upgrade", "cutover", *words, "--json").stdout)
    assert (said["cut_over"], said["query_model"]) == (True, SECOND.name)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["start", "all"])
def test_what_comes_next_after_ctrl_c_in_a_paused_run_is_to_resume(words, monkeypatch, command):
    upgrade = Upgrade(open_gallery(words[0]), TO_SECOND)
    upgrade.start()
    upgrade.pause()

    def interrupt(seconds):
        raise KeyboardInterrupt

    fake = SimpleNamespace(
        monotonic=time.monotonic, perf_counter=time.perf_counter, sleep=interrupt
    )
    monkeypatch.setattr("onward.upgrading.run.time", fake)
    yes = ["--yes"] if command == "all" else []
    result = run("upgrade", command, *words, *yes, "--json", code=1)
    steps = json.loads(result.stdout)["next_steps"]
    assert [one["command"] for one in steps] == ["onward upgrade resume", "onward upgrade start"]
    assert "still paused. To go on: onward upgrade resume, then the same again" in result.stderr
    upgrade.resume()
    assert json.loads(run("upgrade", "start", *words, "--json").stdout)["done"] == ROWS


@pytest.mark.slow
def test_status_says_what_helps_rows_that_are_blocked(words):
    gallery = open_gallery(words[0])
    gallery.add(embed(OLD, ["legacy"]))
    gallery.add(embed(SIDE, ["aside"]))
    upgrade = Upgrade(gallery, TO_SECOND)
    steps = upgrade.status().to_json()["next_steps"]
    assert [one["step"] for one in steps] == ["start", "write", "start"]
    shown = json.loads(run("upgrade", "status", *words, "--json").stdout)["next_steps"]
    assert shown[1]["command"] == "onward gallery write"
    assert steps[1]["why"].startswith("1 rows have no side-information: write it")
    assert "a transformation that carries 2 blocked rows too, as a fallback" in steps[2]["why"]
    upgrade.start()
    assert steps_of(upgrade.status()) == ["run", "write", "backfill", "abort"]
    upgrade.run()
    assert steps_of(upgrade.status()) == ["write", "backfill", "abort", "verify"]
    upgrade.verify(leave_out=True)
    assert steps_of(upgrade.status()) == ["cut_over", "write", "backfill", "abort"]
    status = upgrade.cut_over(query_model="second")
    assert steps_of(status) == ["roll_back", "complete", "write", "backfill"]
    gallery.delete(["legacy", "aside"])
    assert steps_of(upgrade.status()) == ["roll_back", "complete"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("complete", "--rollback-days", "inf"), "--rollback-days inf is not a number of days"),
        (("complete", "--rollback-days", "1e300"), r"1e\+300 is not a number of days"),
        (("complete", "--rollback-days", "999999999"), r"window of 1e\+09 days was given"),
        (("limit",), "no limit was given; give --rows-per-second with a number, or none"),
        (("limit", "--rows-per-second", "nan"), "a limit of nan rows a second was asked for"),
        (("limit", "--rows-per-second", "1e999"), "a limit of inf rows a second"),
        (("limit", "--rows-per-second", "-5"), "a limit of -5 rows a second"),
        (("start", "--rows-per-second", "nan"), "a limit of nan rows a second"),
        (("start", "--rows-per-second", "many"), "--rows-per-second many is not a number"),
        (("plan", "--require", "map >= nan"), "'map >= nan' is not a requirement"),
        (("plan", "--require", "map >= 1.5"), r"1\.5 is nothing to require of map"),
        (("verify", "--require", "map >= nan", "--canaries", "none.parquet"), "there is no file"),
    ],
)
def test_a_number_that_is_none_is_refused_in_one_message(served, arguments, words):
    command, *options = arguments
    result = CliRunner().invoke(app, ["upgrade", command, *served, *options])
    assert result.exit_code == 1
    assert isinstance(result.exception, OnwardError), result.exception
    assert re.search(words, str(result.exception)), result.exception


@pytest.mark.parametrize(
    "options",
    [
        ("verify", "--sample", "0"),
        ("verify", "--sample", "1.5"),
        ("complete", "--rollback-days", "-1"),
        ("complete", "--rollback-days", "nan"),
    ],
)
def test_a_number_out_of_the_range_of_an_option_is_wrong_usage(served, options):
    command, *rest = options
    result = CliRunner().invoke(app, ["upgrade", command, *served, *rest])
    assert result.exit_code == 2
    assert "Invalid value for" in result.stderr


def test_what_is_to_be_served_is_said_to_the_plan_and_so_is_that_the_old_model_is_gone(
    words, tmp_path
):
    paired(TO_SECOND).save(tmp_path / "pair")
    plan = (
        "upgrade",
        "plan",
        words[0],
        str(tmp_path / "pair"),
        "--sample",
        str(tmp_path / "new.parquet"),
    )
    new = TO_SECOND.apply(*(open_gallery(words[0]).read(space) for space in (OLD, SIDE)))
    replace(new, origins=None).save(tmp_path / "new.parquet")

    def said(*options):
        result = CliRunner().invoke(app, [*plan, *options, "--json"])
        return json.loads(result.stdout)

    assert said("--serve", "fused")["gate"]["serve"] == "fused"
    assert said("--serve", "new")["gate"]["serve"] == "new"
    gone = said("--old-model-gone")
    assert gone["gate"]["serve"] == "new"
    assert "because the old model is gone" in gone["recommendation"]
    start = ("upgrade", "start", *plan[2:], "--serve", "fused", "--force", "--json")
    steps = json.loads(run(*start).stdout)["next_steps"]
    assert steps[0]["command"] == "onward upgrade verify --serve fused"
    refused = attempt(*plan, "--serve", "fused", "--old-model-gone").exception
    asked = "fused search is asked for (--serve fused), and the old model, which must embed every "
    assert message_of(refused).startswith(asked)
    assert "said to be gone (--old-model-gone); leave one" in message_of(refused)
