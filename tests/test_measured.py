"""What the documentation says was measured is what the committed results hold."""

import json
from pathlib import Path

import pytest

from onward.experiments.tables import markdown

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "lab" / "results").glob("*.json"))
PAGE = (ROOT / "docs" / "measured.md").read_text()


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_tables_of_a_published_run_are_those_of_its_numbers(path):
    published = json.loads(path.read_text())
    seeds = {int(seed): numbers for seed, numbers in published["seeds"].items()}
    for table in markdown(published["recipe"], seeds).split("\n\n"):
        assert table in PAGE
    assert published["command"] in PAGE


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_published_run_has_the_name_of_its_recipe_and_says_how_it_was_made(path):
    published = json.loads(path.read_text())
    assert published["recipe"] == path.stem
    assert {"command", "seconds", "versions", "mean"} <= published.keys()
    assert all({"cells", "seconds"} <= numbers.keys() for numbers in published["seeds"].values())
