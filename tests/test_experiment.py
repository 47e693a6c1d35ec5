"""A recipe over seeds: what is written, what is not done twice, what is refused."""

import json
from contextlib import contextmanager

import pytest

from onward.cli.experiment import read_override
from onward.errors import ConfigurationError
from onward.experiments import experiment
from onward.experiments.experiment import run_experiment
from onward.experiments.recipe import load_recipe
from onward.experiments.stage import Cache, Stage
from onward.experiments.study import COMPARISON, RECIPE, describe_study
from onward.experiments.tables import markdown, means
from onward.experiments.vectors import split


@contextmanager
def no_bar(what, unit):
    yield lambda done, total: None


@pytest.fixture
def stage(tmp_path):
    return Stage("cpu", lambda line: None, no_bar, Cache(tmp_path / "cache"))


@pytest.fixture
def performed(monkeypatch):
    """A study that takes no time and whose numbers follow from the seed."""
    seeds = []

    def study(recipe, out, stage, *, overwrite):
        seeds.append(recipe.seed)
        out.mkdir(parents=True)
        numbers = {"cmc@1": recipe.seed / 10, "cmc@5": 1.0, "map": 0.5}
        cells = dict.fromkeys(("old/old", "new/old", "new/new"), numbers)
        (out / RECIPE).write_text(json.dumps(describe_study(recipe, split(recipe))))
        (out / COMPARISON).write_text(
            json.dumps({"cells": cells, "seconds": 2.0, "versions": {"onward": "1"}})
        )

    monkeypatch.setattr(experiment, "run_study", study)
    return seeds


def test_numbers_of_all_seeds_stand_in_one_file_with_their_mean(tmp_path, stage, performed):
    run_experiment(load_recipe("digits"), [0, 2, 4], tmp_path, stage, command="onward it")
    written = json.loads((tmp_path / "digits.json").read_text())
    assert list(written["seeds"]) == ["0", "2", "4"]
    assert written["mean"]["cells"]["new/old"]["cmc@1"] == pytest.approx(0.2)
    assert (written["recipe"], written["command"]) == ("digits", "onward it")
    assert written["seconds"] == 6.0


def test_the_table_has_mean_least_and_greatest_in_percent(tmp_path, stage, performed):
    run_experiment(load_recipe("digits"), [1, 3], tmp_path, stage, command="")
    table = (tmp_path / "digits.md").read_text().splitlines()
    assert table[0].startswith("| digits, closed set, 2 seeds, percent | cmc@1 | cmc@5 | map |")
    assert table[3].startswith(
        "| new/old | 20.0 (10.0 to 30.0) | 100.0 (100.0 to 100.0) | 50.0 (50.0 to 50.0) |"
    )


def test_a_seed_that_is_finished_is_not_performed_again(tmp_path, stage, performed):
    run_experiment(load_recipe("digits"), [0, 1], tmp_path, stage, command="")
    run_experiment(load_recipe("digits"), [0, 1, 2], tmp_path, stage, command="")
    assert performed == [0, 1, 2]


def test_a_seed_finished_with_another_recipe_is_performed_again(tmp_path, stage, performed):
    run_experiment(load_recipe("digits"), [0], tmp_path, stage, command="")
    other = load_recipe("digits", {"views": 1})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match=r"seed-0 holds another study, of other settings"):
        run_experiment(other, [0], tmp_path, stage, command="")
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(FileExistsError):  # the stand-in was called
        run_experiment(other, [0], tmp_path, stage, command="", overwrite=True)


def test_results_of_other_seeds_are_not_lost_without_a_word(tmp_path, stage, performed):
    recipe = load_recipe("digits")
    run_experiment(recipe, [0, 1], tmp_path, stage, command="")
    words = r"holds digits\.json, \.md or \.html with other results than those of these seeds"
    with pytest.raises(ConfigurationError, match=words):
        run_experiment(recipe, [1, 2], tmp_path, stage, command="")
    assert performed == [0, 1]
    run_experiment(recipe, [1, 2], tmp_path, stage, command="", overwrite=True)
    assert list(json.loads((tmp_path / "digits.json").read_text())["seeds"]) == ["1", "2"]


@pytest.mark.parametrize(
    "text", ["my notes", "[]", '{"recipe": "another", "seeds": {}}', "[" * 9999]
)
def test_a_file_of_a_user_s_where_results_are_written_is_left_alone(
    tmp_path, stage, performed, text
):
    for name in ("digits.json", "digits.md"):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigurationError, match="they were left as they are"):
            run_experiment(load_recipe("digits"), [0], tmp_path, stage, command="")
        assert (tmp_path / name).read_text() == text
        (tmp_path / name).unlink()
    assert performed == []


def test_an_experiment_without_seeds_is_refused(tmp_path, stage):
    with pytest.raises(ConfigurationError, match="without seeds has no numbers; give at least one"):
        run_experiment(load_recipe("digits"), [], tmp_path, stage, command="")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("fit.epochs=20", ("fit.epochs", 20)),
        ("fit.method=ridge", ("fit.method", "ridge")),
        ("embedding_model.flip=false", ("embedding_model.flip", False)),
        ("data.source=my photos/x", ("data.source", "my photos/x")),
    ],
)
def test_overrides_are_read_as_toml_and_bare_words_as_strings(text, read):
    assert read_override(text) == read


def test_an_override_that_sets_nothing_is_refused_with_an_example():
    with pytest.raises(ConfigurationError, match=r"'epochs' sets nothing; .* --set fit.epochs=20"):
        read_override("epochs")


def test_variants_are_performed_apart_and_stand_in_one_table(tmp_path, stage, performed):
    variants = {"narrow": {"backbone.width": 8}, "wide": {"backbone.width": 32}}
    run_experiment(load_recipe("digits", {"variants": variants}), [0], tmp_path, stage, command="")
    written = json.loads((tmp_path / "digits.json").read_text())
    assert {"narrow: new/old", "wide: new/new"} <= written["seeds"]["0"]["cells"].keys()
    assert performed == [0, 0]


def test_differences_to_new_old_are_paired_over_seeds(tmp_path, stage, performed):
    run_experiment(load_recipe("digits"), [1, 3], tmp_path, stage, command="")
    written = json.loads((tmp_path / "digits.json").read_text())
    paired = written["difference_to_upgraded"]["cells"]["new/new"]["cmc@1"]
    assert (paired["estimate"], paired["low"], paired["high"]) == (0.0, 0.0, 0.0)


def test_a_variant_that_cannot_be_is_refused_before_another_is_performed(
    tmp_path, stage, performed
):
    variants = {"narrow": {"backbone.width": 8}, "wide": {"backbone.widht": 32}}
    recipe = load_recipe("digits", {"variants": variants})
    with pytest.raises(ConfigurationError, match="did you mean 'width'"):
        run_experiment(recipe, [0], tmp_path, stage, command="")
    assert performed == []


def test_what_is_not_known_is_a_dash_and_null():
    unknown = {"cmc@1": None, "cmc@5": None, "map": None}
    cells = dict.fromkeys(("old/old", "new/old", "new/new"), unknown)
    assert "| new/old | - | - | - |" in markdown("digits", {0: {"cells": cells}})
    assert means({0: {"cells": cells}})["cells"]["new/old"]["map"] is None


def test_the_backfill_of_arms_that_say_how_unsure_they_are_stands_in_a_table():
    def seed(shift):
        curve = {metric: [0.25, 0.5 + shift, 0.75] for metric in ("cmc@1", "cmc@5", "map")}
        auc = {"auc@3": {"cmc@1": 0.5 + shift, "map": 0.6}}
        backfill = {"open": {"new/old": {"random": curve | auc, "oracle": curve | auc}}}
        return {"cells": {}, "backfill": backfill}

    table = markdown("tiny", {0: seed(0), 1: seed(0.1)})
    assert table.splitlines() == [
        "| tiny, backfill of the open set, 2 seeds, percent | metric | nothing re-embedded | "
        "auc@3 random | auc@3 oracle | everything |",
        "| --- | --- | --- | --- | --- | --- |",
        "| new/old | cmc@1 | 25.0 (25.0 to 25.0) | 55.0 (50.0 to 60.0) | 55.0 (50.0 to 60.0) | "
        "75.0 (75.0 to 75.0) |",
        "| new/old | map | 25.0 (25.0 to 25.0) | 60.0 (60.0 to 60.0) | 60.0 (60.0 to 60.0) | "
        "75.0 (75.0 to 75.0) |",
    ]
