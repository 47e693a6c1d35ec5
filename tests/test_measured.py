"""What the documentation says was measured is what the committed results hold."""

import json
from pathlib import Path
from statistics import mean

import pytest

from onward.experiments.experiment import markdown

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "lab" / "results").glob("*.json"))
PAGE = (ROOT / "docs" / "measured.md").read_text()
README = (ROOT / "README.md").read_text()


def results_of(recipe):
    return json.loads((ROOT / "lab" / "results" / f"{recipe}.json").read_text())


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


@pytest.mark.parametrize(
    ("said", "direct", "two_steps"),
    [
        ("the network alone (mlp), one a step", "new/old mlp", "{} mlp"),
        ("the default, less the default", "new/old", "{}"),
        ("penalty 6, less the default", "new/old penalty 6", "{}"),
        ("penalty 6, less penalty 6", "new/old penalty 6", "{}, penalty 6"),
        ("two networks, less the default", "new/old two networks", "{}"),
        ("two networks, penalty 6, less the default", "new/old two networks, penalty 6", "{}"),
        (
            "two networks, penalty 6, less penalty 6",
            "new/old two networks, penalty 6",
            "{}, penalty 6",
        ),
        (
            "two networks, penalty 10, less penalty 6",
            "new/old two networks, penalty 10",
            "{}, penalty 6",
        ),
    ],
)
def test_what_is_said_of_a_sequence_is_what_its_numbers_say(said, direct, two_steps):
    seeds = results_of("sequence")["seeds"].values()
    steps = [two_steps.format(f"new/old {way}") for way in ("chained", "composed")]
    numbers = " | ".join(
        " / ".join(
            f"{100 * mean(run[part][direct][what] - run[part][way][what] for run in seeds):+.2f}"
            for way in steps
        )
        for part in ("cells", "open")
        for what in ("cmc@1", "map")
    )
    assert f"| {said} | {numbers} |" in PAGE


@pytest.mark.parametrize(
    ("cell", "row"),
    [
        ("old/old", "old/old: do nothing | |"),
        ("bct new/old", "backward compatible model, gallery as it is | |"),
        ("new/old paper", "new/old, as in the paper | SimCLR, 512 bytes |"),
        ("new/old without side", "**new/old, ridge and network together** | none |"),
        ("new/old", "**new/old, ridge and network together** | **layers, 256 bytes** |"),
        (
            "new/old sample 10%",
            "the same, 10 % of the gallery embedded again | layers, 256 bytes |",
        ),
        ("new/new", "new/new: embed every image again | |"),
    ],
)
def test_the_table_of_cifar_100_in_the_readme_is_that_of_the_published_numbers(cell, row):
    small, paper = results_of("cifar100-small")["mean"], results_of("cifar100-small-paper")["mean"]
    numbers = [
        f"{100 * part[cell]['cmc@1']:.1f} / {100 * part[cell]['map']:.1f}" if cell in part else ""
        for part in (small["cells"], small["open"], paper["cells"])
    ]
    said = [f"**{number}**" if cell == "new/old" else number for number in numbers]
    assert f"| {row} {' | '.join(said)} |".replace("  ", " ") in README
