"""`onward upgrade`: what its commands record, and what they say that is easily overlooked."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner
from upgrades import OLD, SECOND, SIDE, TO_SECOND, embed, make_gallery, steps_of

from onward.cli.app import app
from onward.gallery import open_gallery
from onward.upgrading import Upgrade

ROWS = 30


def answer(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def words(tmp_path):
    """A gallery with labels and a transformation from it, as commands take them."""
    make_gallery(str(tmp_path / "shop.lance"), ROWS, labels=np.arange(ROWS) % 3)
    TO_SECOND.save(tmp_path / "h")
    return str(tmp_path / "shop.lance"), str(tmp_path / "h")


@pytest.mark.slow
def test_cutting_over_again_keeps_the_query_model_that_is_recorded(words):
    named = ("--query-model", "resnet at 3 epochs")
    answer("upgrade", "all", *words, "--yes", *named)
    for again in ("cutover", "all"):
        yes = ["--yes"] if again == "all" else []
        said = json.loads(answer("upgrade", again, *words, *yes, "--json").stdout)
        assert (said["cut_over"], said["query_model"]) == (True, named[1]), again
    renamed = answer("upgrade", "cutover", *words, "--query-model", "another", "--json")
    assert json.loads(renamed.stdout)["query_model"] == "another"
    answer("upgrade", "rollback", *words)
    said = json.loads(answer("upgrade", "cutover", *words, "--json").stdout)
    assert (said["cut_over"], said["query_model"]) == (True, SECOND.name)


@pytest.mark.parametrize("command", ["start", "all"])
def test_what_comes_next_after_ctrl_c_in_a_paused_run_is_to_resume(words, monkeypatch, command):
    upgrade = Upgrade(open_gallery(words[0]), TO_SECOND)
    upgrade.start()
    upgrade.pause()

    def interrupt(seconds):
        raise KeyboardInterrupt

    fake = SimpleNamespace(monotonic=time.monotonic, sleep=interrupt)
    monkeypatch.setattr("onward.upgrading.control.time", fake)
    yes = ["--yes"] if command == "all" else []
    result = answer("upgrade", command, *words, *yes, "--json", code=1)
    steps = json.loads(result.stdout)["next_steps"]
    assert [one["command"] for one in steps] == ["onward upgrade resume", "onward upgrade start"]
    assert "still paused. To go on: onward upgrade resume, then the same again" in result.stderr
    upgrade.resume()
    assert json.loads(answer("upgrade", "start", *words, "--json").stdout)["done"] == ROWS


def test_status_says_what_helps_rows_that_are_blocked(words):
    gallery = open_gallery(words[0])
    gallery.add(embed(OLD, ["legacy"]))
    gallery.add(embed(SIDE, ["aside"]))
    upgrade = Upgrade(gallery, TO_SECOND)
    steps = upgrade.status().to_json()["next_steps"]
    assert [one["step"] for one in steps] == ["start", "write", "start"]
    assert steps[1]["command"] == "onward gallery write"
    assert steps[1]["why"].startswith("1 rows have no side-information: write it")
    assert "a transformation that carries 2 blocked rows too (--also)" in steps[2]["why"]
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
