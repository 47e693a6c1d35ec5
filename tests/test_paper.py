"""Every setting that the paper's authors published is in the recipes, or told as a deviation."""

import re
import tomllib
from pathlib import Path

import pytest

from onward.experiments.recipe import load_recipe
from onward.models import InputSpec

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs" / "recipes.md").read_text()
HEADING = "## Where these recipes differ from the paper"
SETTINGS = tomllib.loads((HERE / "paper.toml").read_text())["setting"]
RECIPES = ("imagenet", "places365", "vggface2")
IN_RECIPES = [
    pytest.param(recipe, setting["recipe"], id=f"{recipe}: {setting['what']}")
    for setting in SETTINGS
    if "recipe" in setting
    for recipe in setting.get("of", RECIPES)
]


def told():
    """The first cells of the list of deviations."""
    section = PAGE.partition(HEADING)[2].partition("\n## ")[0]
    table = section.partition("| --- | --- | --- |\n")[2].partition("\n\n")[0]
    return re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)


def value_at(recipe, key):
    first, *others = key.split(".")
    value = InputSpec.of_spec(recipe.backbone) if first == "input" else getattr(recipe, first)
    for name in others:
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    return list(value or ()) if value is None or isinstance(value, tuple) else value  # as in TOML


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting["what"])
def test_a_setting_of_the_paper_is_in_the_recipes_or_told_as_a_deviation(setting):
    assert ("recipe" in setting) != ("deviation" in setting)
    assert set(setting.get("of", RECIPES)) <= set(RECIPES)
    if "deviation" in setting:
        assert setting["deviation"] in told()


@pytest.mark.parametrize(("name", "values"), IN_RECIPES)
def test_a_recipe_has_the_papers_values(name, values):
    recipe = load_recipe(name)
    found = {key: value_at(recipe, key) for key in values}
    assert found == {
        key: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
        for key, value in values.items()
    }


def test_every_deviation_that_is_told_is_of_a_setting_of_the_paper():
    assert sorted(told()) == sorted(one["deviation"] for one in SETTINGS if "deviation" in one)


@pytest.mark.parametrize("name", RECIPES)
def test_each_image_is_learned_from_80_times_as_in_the_paper(name):
    recipe = load_recipe(name)
    assert recipe.views * recipe.fit.epochs == 80
    assert recipe.fit.epochs % 2 == 0  # half of them by running statistics
