"""A recipe over seeds: what is written, what not done twice, whose rows join, what is refused."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
from test_study import QUICK, quiet
from typer.testing import CliRunner

from onward.cli.app import app
from onward.cli.experiment import read_override
from onward.errors import ConfigurationError
from onward.experiments import experiment
from onward.experiments.experiment import (
    Experiment,
    join_variants,
    markdown,
    means,
    merge_arms,
    run_experiment,
    split_variants,
)
from onward.experiments.recipe import load_recipe
from onward.experiments.splits import split
from onward.experiments.study import COMPARISON, RECIPE, describe_study

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "lab" / "results").glob("*.json"))
ARMS = [
    {"name": "new/old ridge", "fit": {"method": "ridge"}},
    {"name": "new/old"},
    {"name": "new/old sample 10%", "gallery_sample": 0.1},
    {"name": "new/old mlp", "fit": {"method": "mlp"}},
]
OPEN = {"data.old_classes": 3, "data.new_classes": 7, "arms": ARMS}


@pytest.fixture
def stage(tmp_path):
    return quiet(tmp_path / "cache")


class StandIn:
    """Studies that take no time: all metrics of an arm are `rows[arm]`, of models `models`.

    Of an arm without a row they are a tenth of the seed. Each has a fused row too if `fused`.
    """

    def __init__(self):
        self.rows = dict.fromkeys((arm["name"] for arm in ARMS), 0.5)
        self.models, self.performed, self.meanwhile = 0.4, [], lambda: None
        self.fused = False

    def __call__(self, recipe, out, stage, *, overwrite):
        self.performed.append((recipe.seed, [arm.name for arm in recipe.performed]))
        self.meanwhile()
        out.mkdir(parents=True)
        (out / RECIPE).write_text(json.dumps(describe_study(recipe, split(recipe))))
        (out / COMPARISON).write_text(json.dumps(self.told(recipe)))

    @property
    def seeds(self):
        return [seed for seed, _ in self.performed]

    def told(self, recipe):
        arms = recipe.performed
        closed = self._cells([arm.name for arm in arms if not arm.gallery_sample], recipe.seed)
        whole = self._cells([arm.name for arm in arms], recipe.seed)
        parts = {"cells": closed, "open": whole, "unsampled": whole}
        told = dict(parts)
        for before, cells in zip(("", "open_", "unsampled_"), parts.values(), strict=True):
            by_cell = {cell: {"l2": row, "compared by": "l2"} for cell, row in cells.items()}
            told |= {f"{before}distances": by_cell}
            rows = {arm.name: cells[arm.name]["map"] for arm in arms if arm.name in cells}
            told |= {f"{before}{name}_by_cell": rows for name in ("update_gain", "negative_flips")}
            if "new/old" in rows:
                told |= {f"{before}verdict": f"{rows['new/old']}"}
        of_arms = {"side_bytes": 8, "side_macs": 9, "fit": {}}
        return told | {
            "by_classes": {"old": closed, "new": closed},
            "intervals": {"cells": closed, "open": whole},
            "arms": {arm.name: of_arms | {"gallery_sample": arm.gallery_sample} for arm in arms},
            "recipe": {"name": recipe.name, "seed": recipe.seed, "digest": recipe.digest},
            "data": split(recipe).digests,
            "seconds": 2.0,
            "training_seconds": {"old": 1.0, "new": 1.0},
            "peak_bytes": 1,
            "versions": {"onward": "1"},
        }

    def _cells(self, arms, seed):
        values = {"old/old": self.models}
        both = [f"{arm}{end}" for arm in arms for end in ("", *([" fused"] if self.fused else []))]
        values |= {cell: self.rows.get(cell, seed / 10) for cell in both}
        values |= {"new/new": 2 * self.models}
        counts = {"queries": 5, "skipped": 0}
        return {
            cell: dict.fromkeys(("cmc@1", "cmc@5", "map"), value) | counts
            for cell, value in values.items()
        }


@pytest.fixture
def stand_in(monkeypatch):
    made = StandIn()
    monkeypatch.setattr(experiment, "run_study", made)
    return made


def test_numbers_of_all_seeds_stand_in_one_file_with_their_mean(tmp_path, stage, stand_in):
    run_experiment(load_recipe("digits"), [0, 2, 4], tmp_path, stage, command="onward it")
    written = json.loads((tmp_path / "digits.json").read_text())
    assert list(written["seeds"]) == ["0", "2", "4"]
    assert written["mean"]["cells"]["new/old layers"]["cmc@1"] == pytest.approx(0.2)
    assert (written["recipe"], written["command"]) == ("digits", "onward it")
    assert written["seconds"] == 6.0


def test_the_table_has_mean_least_and_greatest_in_percent(tmp_path, stage, stand_in):
    run_experiment(load_recipe("digits"), [1, 3], tmp_path, stage, command="")
    table = (tmp_path / "digits.md").read_text().splitlines()
    assert table[0].startswith("| digits, closed set, 2 seeds, percent | cmc@1 | cmc@5 | map |")
    spread = "20.0 (10.0 to 30.0)"
    assert any(line.startswith(f"| new/old layers | {spread} | {spread} |") for line in table)


def test_a_seed_that_is_finished_is_not_performed_again(tmp_path, stage, stand_in):
    run_experiment(load_recipe("digits"), [0, 1], tmp_path, stage, command="")
    run_experiment(load_recipe("digits"), [0, 1, 2], tmp_path, stage, command="")
    assert stand_in.seeds == [0, 1, 2]


def test_a_seed_finished_with_another_recipe_is_performed_again(tmp_path, stage, stand_in):
    run_experiment(load_recipe("digits"), [0], tmp_path, stage, command="")
    other = load_recipe("digits", {"views": 1})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match=r"seed-0 holds another study, of other settings"):
        run_experiment(other, [0], tmp_path, stage, command="")
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(FileExistsError):  # the stand-in was called
        run_experiment(other, [0], tmp_path, stage, command="", overwrite=True)


def test_results_of_other_seeds_are_not_lost_without_a_word(tmp_path, stage, stand_in):
    recipe = load_recipe("digits")
    run_experiment(recipe, [0, 1], tmp_path, stage, command="")
    words = r"holds digits\.json, \.md or \.html with other results than those of these seeds"
    with pytest.raises(ConfigurationError, match=words):
        run_experiment(recipe, [1, 2], tmp_path, stage, command="")
    assert stand_in.seeds == [0, 1]
    run_experiment(recipe, [1, 2], tmp_path, stage, command="", overwrite=True)
    assert list(json.loads((tmp_path / "digits.json").read_text())["seeds"]) == ["1", "2"]


@pytest.mark.parametrize(
    "text", ["my notes", "[]", '{"recipe": "another", "seeds": {}}', "[" * 9999]
)
def test_a_file_of_a_user_s_where_results_are_written_is_left_alone(
    tmp_path, stage, stand_in, text
):
    for name in ("digits.json", "digits.md"):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigurationError, match="they were left as they are"):
            run_experiment(load_recipe("digits"), [0], tmp_path, stage, command="")
        assert (tmp_path / name).read_text() == text
        (tmp_path / name).unlink()
    assert stand_in.seeds == []


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


def test_variants_are_performed_apart_and_stand_in_one_table(tmp_path, stage, stand_in):
    variants = {"narrow": {"backbone.width": 8}, "wide": {"backbone.width": 32}}
    run_experiment(load_recipe("digits", {"variants": variants}), [0], tmp_path, stage, command="")
    written = json.loads((tmp_path / "digits.json").read_text())
    assert {"narrow: new/old", "wide: new/new"} <= written["seeds"]["0"]["cells"].keys()
    assert stand_in.seeds == [0, 0]


def test_differences_to_new_old_are_paired_over_seeds(tmp_path, stage, stand_in):
    run_experiment(load_recipe("digits"), [1, 3], tmp_path, stage, command="")
    written = json.loads((tmp_path / "digits.json").read_text())
    paired = written["difference_to_upgraded"]["cells"]["new/new"]["cmc@1"]
    assert (paired["estimate"], paired["low"], paired["high"]) == pytest.approx((0.3, 0.3, 0.3))


def test_a_variant_that_cannot_be_is_refused_before_another_is_performed(tmp_path, stage, stand_in):
    variants = {"narrow": {"backbone.width": 8}, "wide": {"backbone.widht": 32}}
    recipe = load_recipe("digits", {"variants": variants})
    with pytest.raises(ConfigurationError, match="did you mean 'width'"):
        run_experiment(recipe, [0], tmp_path, stage, command="")
    assert stand_in.seeds == []


def test_rows_that_are_advised_are_counted_over_the_seeds():
    def seed(closed, opened):
        numbers = dict.fromkeys(("cmc@1", "cmc@5", "map"), 0.5)
        rows = dict.fromkeys(("old/old", "new/old", "new/old fused", "new/new"), numbers)
        serving = {"closed": {"advised": closed}, "open": {"advised": opened}}
        arm = {"side_bytes": 8, "side_macs": 9, "fit": {}, "serving": serving}
        return {"cells": rows, "open": rows, "arms": {"new/old": arm}}

    text = markdown(
        "tiny", {0: seed("new", "fused"), 1: seed("new", "old"), 2: seed("old", "fused")}
    )
    closed, opened = text.split("\n\n")
    assert closed.splitlines()[0].endswith("| flips | bytes | MACs | advised |")
    counts = [
        [line.split(" | ")[-1].rstrip(" |") for line in table.splitlines()[2:]]
        for table in (closed, opened)
    ]
    assert counts == [["", "2 of 3", "0 of 3", ""], ["", "0 of 3", "2 of 3", ""]]
    assert "| new/old fused | 50.0 (50.0 to 50.0) |" in opened
    assert "| 8 | 9 | 2 of 3 |" in opened


def test_what_is_not_known_is_a_dash_and_null():
    unknown = {"cmc@1": None, "cmc@5": None, "map": None}
    cells = dict.fromkeys(("old/old", "new/old", "new/new"), unknown)
    assert "| new/old | - | - | - |" in markdown("digits", {0: {"cells": cells}})
    assert means({0: {"cells": cells}})["cells"]["new/old"]["map"] is None


def test_both_distances_stand_in_the_table_and_the_one_a_cell_is_compared_by():
    def seed(shift, by):
        found = {
            metric: dict.fromkeys(("cmc@1", "cmc@5", "map"), value + shift)
            for metric, value in (("l2", 0.25), ("cosine", 0.375))
        }
        of_fused = {"l2": found["l2"], "compared by": "l2"}
        return {
            "cells": {"old/old": found[by], "new/old fused": found["l2"]},
            "distances": {"old/old": {**found, "compared by": by}, "new/old fused": of_fused},
        }

    def cells_of(seeds):
        heads, _, *rows = markdown("tiny", dict(enumerate(seeds))).splitlines()
        assert heads.endswith("| compared by | l2 | cosine |")
        return [row.split(" | ")[-3:] for row in rows]

    partly = seed(0.5, "l2")
    del partly["distances"]["old/old"]["cosine"]
    assert cells_of([seed(0, "l2"), partly])[0] == ["l2", "50.0 / 50.0", "- |"]
    same, differ = [seed(0, "cosine"), seed(0.5, "cosine")], [seed(0, "cosine"), seed(0.5, "l2")]
    nothing, fused = cells_of(same)
    assert nothing == ["cosine", "50.0 / 50.0", "62.5 / 62.5 |"]
    assert fused == ["l2", "50.0 / 50.0", "- |"]
    assert cells_of(differ)[0][0] == "either"


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


# --- rows of some arms join what was written ---


def recipe_of(*only, **overrides):
    return load_recipe("digits", OPEN | {"only": list(only)} | overrides)


@pytest.fixture
def written(tmp_path, stage, stand_in):
    """An experiment of two seeds, and all arms but the last."""
    run_experiment(recipe_of(arms=ARMS[:3]), [0, 1], tmp_path / "run", stage, command="onward it")
    stand_in.performed.clear()
    return tmp_path / "run" / "digits.json"


def read(path):
    return json.loads(path.read_text())


def test_rows_do_not_join_a_file_whose_rows_were_searched_by_one_distance(written, stage, stand_in):
    older = read(written)
    for seed in older["seeds"].values():
        for name in [name for name in seed if name.endswith("distances")]:
            del seed[name]
    written.write_text(json.dumps(older))
    words = "were searched by one distance, and new ones count by the better of two; perform the"
    with pytest.raises(ConfigurationError, match=words):
        merge_arms(recipe_of("new/old ridge"), [0, 1], written, stage, command="onward again")
    assert read(written) == older
    assert not stand_in.performed


def test_a_row_is_renewed_and_everything_else_stays_as_it_was(written, stage, stand_in):
    before = read(written)
    stand_in.rows = dict.fromkeys(stand_in.rows, 0.75)
    merge_arms(recipe_of("new/old ridge"), [1], written, stage, command="onward again")
    assert stand_in.performed == [(1, ["new/old ridge"])]
    after, expected = read(written), copy.deepcopy(before)
    seed = expected["seeds"]["1"]
    row = seed["cells"]["new/old ridge"] | dict.fromkeys(("cmc@1", "cmc@5", "map"), 0.75)
    for table in (
        *(seed[part] for part in ("cells", "open", "unsampled")),
        *seed["by_classes"].values(),
        *seed["intervals"].values(),
    ):
        table["new/old ridge"] = row
    for name in [name for name in seed if name.endswith("_by_cell")]:
        seed[name]["new/old ridge"] = 0.75
    for name in [name for name in seed if name.endswith("distances")]:
        seed[name]["new/old ridge"] = {"l2": row, "compared by": "l2"}
    assert after["seeds"]["0"] == before["seeds"]["0"]
    (run,) = after["seeds"]["1"].pop("renewed")
    assert (run["arms"], run["command"], run["seconds"]) == (["new/old ridge"], "onward again", 2)
    assert after["seeds"]["1"] == seed
    assert list(after["seeds"]["1"]["cells"]) == list(before["seeds"]["1"]["cells"])
    assert after["mean"]["cells"]["new/old ridge"]["map"] == (0.5 + 0.75) / 2
    paired = after["difference_to_upgraded"]["cells"]["new/old ridge"]["map"]
    assert paired["estimate"] == 0.25 / 2
    for name in ("command", "seconds", "versions"):
        assert after[name] == before[name]


def test_what_is_said_of_new_old_is_renewed_with_it_alone(written, stage, stand_in):
    stand_in.rows = dict.fromkeys(stand_in.rows, 0.75)
    merge_arms(recipe_of("new/old ridge"), [0, 1], written, stage, command="")
    assert read(written)["seeds"]["0"]["open_verdict"] == "0.5"
    merge_arms(recipe_of("new/old"), [0, 1], written, stage, command="")
    assert read(written)["seeds"]["0"]["open_verdict"] == "0.75"


def test_a_row_that_is_new_stands_where_the_recipe_has_it(written, stage, stand_in):
    arms = [{"name": "new/old first"}, *ARMS]
    stand_in.rows |= {"new/old first": 0.5}
    recipe = recipe_of("new/old first", "new/old mlp", arms=arms)
    merge_arms(recipe, [0, 1], written, stage, command="")
    study = read(written)["seeds"]["0"]
    names = [arm["name"] for arm in arms]
    assert list(study["open"]) == ["old/old", *names, "new/new"]
    assert list(study["cells"]) == ["old/old", *(n for n in names if "%" not in n), "new/new"]
    assert list(study["arms"]) == names
    assert read(written)["mean"]["open"]["new/old mlp"]["map"] == 0.5


def test_a_fused_row_is_joined_and_dropped_with_its_arm(written, stage, stand_in):
    stand_in.fused = True
    merge_arms(recipe_of("new/old ridge"), [0, 1], written, stage, command="")
    before = ["old/old", "new/old ridge", "new/old ridge fused", "new/old"]
    assert list(read(written)["seeds"]["1"]["cells"])[:4] == before
    stand_in.rows["new/old ridge fused"] = 0.9
    merge_arms(recipe_of("new/old ridge"), [0, 1], written, stage, command="")
    study = read(written)["seeds"]["1"]
    assert study["open"]["new/old ridge fused"]["map"] == 0.9
    assert study["intervals"]["open"]["new/old ridge fused"]["map"] == 0.9
    stand_in.fused = False
    with pytest.raises(ConfigurationError, match="the row 'new/old ridge fused' of one of the se"):
        merge_arms(recipe_of("new/old ridge"), [0], written, stage, command="")
    merge_arms(recipe_of("new/old ridge"), [0, 1], written, stage, command="")
    assert "new/old ridge fused" not in read(written)["seeds"]["0"]["cells"]


def test_an_arm_that_came_to_take_a_sample_leaves_the_closed_set(written, stage, stand_in):
    sampled = [{**arm, "gallery_sample": 0.1} if "ridge" in arm["name"] else arm for arm in ARMS]
    merge_arms(recipe_of("new/old ridge", arms=sampled), [0, 1], written, stage, command="")
    study = read(written)["seeds"]["1"]
    assert "new/old ridge" not in study["cells"].keys() | study["by_classes"]["old"].keys()
    assert "new/old ridge" in study["open"].keys() & study["arms"].keys()


@pytest.mark.slow
def test_rows_that_were_joined_meanwhile_are_kept(written, stage, stand_in):
    def join_another():
        stand_in.meanwhile = lambda: None
        merge_arms(recipe_of("new/old"), [0, 1], written, stage, command="another")

    stand_in.meanwhile = join_another
    merge_arms(recipe_of("new/old mlp"), [0, 1], written, stage, command="one")
    study = read(written)["seeds"]["1"]
    assert [run["command"] for run in study["renewed"]] == ["another", "one"]
    assert "new/old mlp" in study["cells"]
    merge_arms(recipe_of("new/old mlp"), [0, 1], written, stage, command="again")
    told = [(run["command"], run["arms"]) for run in read(written)["seeds"]["0"]["renewed"]]
    assert told == [("another", ["new/old"]), ("again", ["new/old mlp"])]


def test_tables_and_page_beside_the_file_are_renewed_where_there_are_any(
    written, stage, stand_in, tmp_path
):
    alone = tmp_path / "published" / "digits.json"
    alone.parent.mkdir()
    alone.write_bytes(written.read_bytes())
    stand_in.rows = dict.fromkeys(stand_in.rows, 0.77)
    for file in (written, alone):
        merge_arms(recipe_of("new/old"), [0, 1], file, stage, command="")
    assert [path.name for path in alone.parent.iterdir()] == ["digits.json"]
    assert "| new/old | 77.0" in written.with_suffix(".md").read_text()
    assert "77.0" in written.with_suffix(".html").read_text()


def test_rows_of_variants_join_those_of_the_same_variant(tmp_path, stage, stand_in):
    variants = {"narrow": {"backbone.width": 8}, "wide": {"backbone.width": 32}}
    whole = recipe_of(variants=variants, arms=ARMS[:2])
    run_experiment(whole, [0], tmp_path / "run", stage, command="")
    file = tmp_path / "run" / "digits.json"
    stand_in.rows = dict.fromkeys(stand_in.rows, 0.75)
    merge_arms(recipe_of("new/old", variants=variants), [0], file, stage, command="again")
    study = read(file)["seeds"]["0"]
    maps = {cell: row["map"] for cell, row in study["cells"].items()}
    assert maps == {
        f"{variant}: {cell}": value
        for variant in variants
        for cell, value in {
            "old/old": 0.4,
            "new/old ridge": 0.5,
            "new/old": 0.75,
            "new/new": 0.8,
        }.items()
    }
    assert study["variants"]["wide"]["intervals"]["open"]["new/old"]["map"] == 0.75
    assert study["variants"]["wide"]["renewed"][0]["command"] == "again"
    with pytest.raises(ConfigurationError, match=r"has the variants \['narrow', 'wide'\], the rec"):
        merge_arms(recipe_of("new/old"), [0], file, stage, command="")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (([], [0], {}), "and none is named; name them: arm="),
        ((["new/old"], [0, 3], {}), "has the seeds 0, 1, and rows of seed 3 are to join"),
        ((["new/old"], [], {}), "no seed is given; give some of those of .*: 0, 1"),
        (
            (["new/old mlp"], [1], {}),
            "no row 'new/old mlp', .* every seed .* give all of them: 0, 1",
        ),
        ((["new/old"], [0], {"name": "other"}), "is of the recipe 'digits', and 'other' is to be"),
        ((["new/old"], [0], {"data.new_classes": 8}), "is of other images than digits: their dig"),
    ],
)
def test_what_cannot_join_is_refused_before_any_work(given, words, written, stage, stand_in):
    only, seeds, overrides = given
    before = written.read_bytes()
    with pytest.raises(ConfigurationError, match=words):
        merge_arms(recipe_of(*only, **overrides), seeds, written, stage, command="")
    assert (written.read_bytes(), stand_in.performed) == (before, [])


def test_rows_of_other_models_are_refused_with_both_numbers(written, stage, stand_in):
    before = written.read_bytes()
    stand_in.models = 0.4004
    merge_arms(recipe_of("new/old"), [0], written, stage, command="")
    assert read(written)["seeds"]["0"]["cells"]["old/old"]["map"] == 0.4
    written.write_bytes(before)
    stand_in.models = 0.401001
    words = (
        r"digits.json, seed 0: old/old has the cmc@1 0.4 there and 0.401001 now \(closed set\), "
        r"more than 0.001 apart, so models or images are others.*Versions there: onward 1; here: "
        r"onward 1\. The file was left as it is; perform the whole recipe, or these"
    )
    with pytest.raises(ConfigurationError, match=words):
        merge_arms(recipe_of("new/old"), [0, 1], written, stage, command="")
    assert written.read_bytes() == before
    assert stand_in.seeds == [0, 0]  # seed 1 was spared


def test_a_row_that_one_seed_alone_would_have_is_refused(written, stage, stand_in):
    before = written.read_bytes()
    sampled = [{**arm, "gallery_sample": 0.1} if "ridge" in arm["name"] else arm for arm in ARMS]
    with pytest.raises(ConfigurationError, match="row 'new/old ridge' of one of the seeds 0 and 1"):
        merge_arms(recipe_of("new/old ridge", arms=sampled), [0], written, stage, command="")
    assert written.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: "my notes",
        lambda whole: [],
        lambda whole: {**whole, "seeds": {}},
        lambda whole: {**whole, "seeds": {"one": whole["seeds"]["0"]}},
        lambda whole: {**whole, "seeds": {"0": {"cells": {}}}},
        lambda whole: {**whole, "seeds": {"0": {**whole["seeds"]["0"], "open": []}}},
        lambda whole: {**whole, "seeds": {"0": {**whole["seeds"]["0"], "seconds": float("nan")}}},
        lambda whole: {**whole, "seeds": {"0": [1]}},
        lambda whole: {**whole, "seeds": {"0": {**whole["seeds"]["0"], "variants": [1]}}},
        lambda whole: {**whole, "seeds": {"0": {**whole["seeds"]["0"], "open": {"x": 1}}}},
        lambda whole: {name: value for name, value in whole.items() if name != "command"},
    ],
)
def test_a_file_that_is_no_experiment_is_left_as_it_is(change, written, stage, stand_in):
    text = json.dumps(change(read(written)))
    written.write_text(text)
    with pytest.raises(ConfigurationError, match="is not an experiment's JSON that rows could joi"):
        merge_arms(recipe_of("new/old"), [0], written, stage, command="")
    assert (written.read_text(), stand_in.performed) == (text, [])


def test_a_file_that_is_not_there_is_refused(tmp_path, stage):
    with pytest.raises(ConfigurationError, match=r"nowhere\.json is not an experiment's JSON"):
        merge_arms(recipe_of("new/old"), [0], tmp_path / "nowhere.json", stage, command="")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_what_is_published_is_what_would_be_written_of_its_seeds(path):
    """So a row that joins it changes nothing but itself and what is computed from it."""
    published = read(path)
    seeds = {int(seed): study for seed, study in published["seeds"].items()}
    made = Experiment(published["recipe"], published["command"], seeds)
    assert json.loads(json.dumps(made.to_json())) == published
    for study in seeds.values():
        if "variants" in study:
            assert json.dumps(join_variants(split_variants(study))) == json.dumps(study)


def test_publishing_leaves_out_where_a_run_was_written():
    spec = importlib.util.spec_from_file_location("publish", ROOT / "lab" / "publish.py")
    publish = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(publish)
    long = "onward experiment x --cache /a/b --arm new/old --merge=/c.json --seeds 0 --out /d"
    short = "onward experiment x --arm new/old --seeds 0"
    told = {"command": long, "seeds": {"0": {"renewed": [{"command": long, "arms": ["x"]}]}}}
    assert publish.without_places(told) == {
        "command": short,
        "seeds": {"0": {"renewed": [{"command": short, "arms": ["x"]}]}},
    }


def test_the_command_refuses_what_a_merge_has_no_use_for(written, monkeypatch):
    before = written.read_bytes()
    for more in (["--out", "elsewhere"], ["--overwrite"]):
        words = ["experiment", "digits", "--arm", "new/old", "--merge", str(written), *more]
        done = CliRunner().invoke(app, words)
        assert str(done.exception).startswith("--merge writes its own file alone; leave --out")
    assert written.read_bytes() == before


@pytest.mark.slow
def test_rows_performed_apart_are_those_of_the_whole_experiment(tmp_path, stage):
    """With models trained anew: the same numbers, and no model that the arms do not need."""
    arms = [
        {"name": "new/old", "side": "layers", "format": "int8"},
        {"name": "new/old simclr", "side": "simclr", "fit": {"method": "ridge"}},
        {"name": "new/old sample 10%", "gallery_sample": 0.1, "fit": {"uncertainty": True}},
        {"name": "new/old chained", "through": "chained"},
    ]
    small = {**QUICK, "data.old_classes": 4, "data.new_classes": 8, "middle_classes": 6}
    given = {**small, "fit.discriminative": "none", "arms": arms}
    run_experiment(load_recipe("digits", given), [0], tmp_path / "run", stage, command="it")
    file = tmp_path / "run" / "digits.json"
    whole = read(file)
    anew = quiet(tmp_path / "another cache")
    for only in (["new/old"], ["new/old sample 10%"], ["new/old simclr"]):
        recipe = load_recipe("digits", {**given, "only": only})
        merge_arms(recipe, [0], file, anew, command="again")
    after = read(file)
    runs = after["seeds"]["0"].pop("renewed")
    assert after == whole
    sides = [run["training_seconds"].keys() - {"old", "new"} for run in runs]
    assert sides == [set(), set(), {"simclr"}]


@pytest.mark.slow
def test_arms_by_themselves_are_an_experiment_without_a_gallery(tmp_path, stage):
    """None of them is the one that is performed in a store, or has a row of the closed set."""
    arms = [{"name": "new/old"}, {"name": "new/old sample 10%", "gallery_sample": 0.1}]
    given = {**QUICK, "data.old_classes": 4, "data.new_classes": 8, "arms": arms}
    recipe = load_recipe("digits", {**given, "only": ["new/old sample 10%"]})
    run_experiment(recipe, [0], tmp_path / "run", stage, command="it")
    seed = read(tmp_path / "run" / "digits.json")["seeds"]["0"]
    models = ["independent", "old/old", "new/new"]
    assert list(seed["cells"]) == models
    arm = "new/old sample 10%"
    assert list(seed["open"]) == [*models[:2], arm, f"{arm} fused", "new/new"]
    assert "verdict" not in seed
    assert not (tmp_path / "run" / "seed-0" / "gallery.lance").exists()
    assert (tmp_path / "run" / "digits.html").is_file()
