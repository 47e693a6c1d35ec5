"""`onward upgrade`: what its commands record, and what they say that is easily overlooked."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner
from upgrades import SECOND, TO_SECOND, make_gallery

from onward.cli.app import app

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
