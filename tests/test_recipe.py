"""Recipes: what is read, and what is refused in which words."""

from typing import get_args

import pytest

from onward.errors import ConfigurationError
from onward.experiments.recipe import ARMS, Baseline, bundled_recipes, load_recipe
from onward.training.settings import FitSettings


@pytest.mark.parametrize("name", bundled_recipes())
def test_every_bundled_recipe_is_read_and_called_by_its_name(name):
    assert load_recipe(name).name == name


def test_overrides_reach_into_tables():
    recipe = load_recipe("digits", {"data.old_classes": 3, "seed": 7, "fit.epochs": 2})
    assert (recipe.data.old_classes, recipe.seed, recipe.fit.epochs) == (3, 7, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.old_clases": 3}, r"no 'data.old_clases'; did you mean 'old_classes'\?"),
        ({"backbones.width": 3}, r"no 'backbones'; did you mean 'backbone'\?"),
        ({"fit.inner": "wide"}, "recipe digits: fit.inner is 'wide'"),
        ({"fit": 3}, "fit is 3"),
        ({"seed": 1, "seed.of": 2}, "seed is a value, not a table"),
        ({"new_model": {"epoch": 2}}, r"\[new_model\].*did you mean 'epochs'\?"),
        (
            {"arms": [{"name": "new/old", "fit": {"methot": "ridge"}}]},
            r"arm 'new/old', \[fit\].*did you mean 'method'",
        ),
        ({"base": "images"}, "'digits' has no base that 'images' could repl"),
    ],
)
def test_what_is_misspelt_or_of_the_wrong_kind_is_refused_in_words(changes, words):
    with pytest.raises(ConfigurationError, match=words):
        load_recipe("digits", changes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", r"no recipe 'digit'; choose one of .*digits, .*images"),
        ("mine.toml", r"there is no recipe 'mine\.toml'; choose one of"),
    ],
)
def test_a_recipe_that_is_not_there_is_refused(name, words):
    with pytest.raises(ConfigurationError, match=words):
        load_recipe(name)


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "mine.toml").write_text("name = ")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        load_recipe(str(tmp_path / "mine.toml"))


def test_parts_have_seeds_of_their_own_that_follow_from_the_seed():
    recipe, other = load_recipe("digits"), load_recipe("digits", {"seed": 1})
    roles = ["old", "side", "new", "bct", "fit", "views"]
    assert len({recipe.seed_of(role) for role in roles}) == len(roles)
    assert recipe.seed_of("old") == load_recipe("digits").seed_of("old") != other.seed_of("old")


def test_each_baseline_is_trained_in_its_own_way():
    recipe = load_recipe("digits", {"backward_compatible.epochs": 7})
    ways = [recipe.training_of(baseline) for baseline in get_args(Baseline)]
    assert len({str(way) for way in ways}) == len(ways)
    assert {way.epochs for way in ways} == {7}


def test_a_baseline_that_does_not_fit_the_loss_is_refused_before_any_training():
    losses = {"embedding_model.loss": "arcface", "backward_compatible.loss": "arcface"}
    load_recipe("digits", {**losses, "baselines": ["bct"]})
    words = "baseline 'bct cosines': normalised is .*for the loss softmax"
    with pytest.raises(ConfigurationError, match=words):
        load_recipe("digits", {**losses, "baselines": ["bct", "bct cosines"]})


def test_a_baseline_that_begins_with_the_old_model_needs_its_network():
    words = "'bct from old model' begins with the old model's weights, .*another network; leave it"
    with pytest.raises(ConfigurationError, match=words):
        load_recipe("digits", {"baselines": ["bct from old model"], "new_backbone.width": 32})


def test_the_digest_changes_with_any_setting():
    digests = {
        load_recipe("digits", overrides).digest
        for overrides in ({}, {"seed": 1}, {"fit.inner": 8}, {"data.source": "photos"})
    }
    assert len(digests) == 4


def test_a_crop_is_written_only_where_it_is_less_than_the_whole_square():
    assert "crop_share" not in load_recipe("digits").model_dump(mode="json")
    cropped = load_recipe("digits", {"crop_share": 0.875})
    assert cropped.model_dump(mode="json")["crop_share"] == 0.875
    assert cropped.digest != load_recipe("digits").digest


def test_a_file_may_have_the_values_of_another_recipe_but_for_its_own(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "digits"\nname = "mine"\n[fit]\nepochs = 3\n')
    recipe, base = load_recipe(str(mine)), load_recipe("digits")
    assert (recipe.name, recipe.fit.epochs) == ("mine", 3)
    assert (recipe.fit.inner, recipe.backbone) == (base.fit.inner, base.backbone)


def test_a_variant_differs_in_its_own_values_alone():
    recipe = load_recipe("digits", {"seed": 3, "variants": {"wide": {"backbone.width": 32}}})
    wide = recipe.variant("wide")
    assert (wide.backbone.width, wide.seed, wide.variants) == (32, 3, {})
    assert wide.fit == recipe.fit


def test_a_misspelt_key_of_a_variant_is_refused_with_the_nearest_name():
    recipe = load_recipe("digits", {"variants": {"wide": {"backbone.widht": 32}}})
    with pytest.raises(ConfigurationError, match=r"variant 'wide'.*did you mean 'width'\?"):
        recipe.variant("wide")


def test_arms_need_names_of_their_own_and_one_that_is_performed():
    twice = [{"name": "new/old"}, {"name": "new/old", "side": "layers"}]
    for arms in (twice, [{"name": "new/old layers", "side": "layers"}]):
        with pytest.raises(ConfigurationError, match="arms need names of their own, and one"):
            load_recipe("digits", {"arms": arms})


PROTOCOLS = ("cifar100", "imagenet", "places365", "vggface2")
"""Recipes of the paper's protocol: their networks are the paper's."""
DEFAULT = ("new/old", "new/old without side", "new/old sample 10%")


@pytest.mark.parametrize("name", [name for name in bundled_recipes() if name not in PROTOCOLS])
def test_the_default_is_fitted_as_fit_does_and_all_else_names_its_method(name):
    recipe = load_recipe(name)
    for arm in recipe.arms:
        if arm.name in DEFAULT or arm in ARMS or (name == "fused" and "ridge" not in arm.name):
            assert recipe.fit_of(arm).method == FitSettings().method == "auto"
            assert "method" not in arm.fit
        else:
            assert "method" in arm.fit or arm.baseline is not None


def test_some_arms_are_performed_without_baselines_and_models_of_others():
    arms = [{"name": "new/old"}, {"name": "new/old chained", "through": "chained"}]
    given = {"arms": arms, "middle_classes": 7}
    whole, one, other = (
        load_recipe("digits", {**given, "only": only})
        for only in ([], ["new/old"], ["new/old chained"])
    )
    assert [arm.name for arm in one.performed] == ["new/old"]
    assert (len(whole.performed), whole.trained_baselines) == (2, ("bct",))
    assert (one.trained_baselines, one.needs_middle) == ((), False)
    assert whole.needs_middle
    assert other.needs_middle


def test_an_arm_that_is_not_there_is_refused_with_the_nearest_names():
    words = r"no arm 'new/old simcrl'; did you mean 'new/old simclr' or 'new/old.*Arms: new/old wit"
    with pytest.raises(ConfigurationError, match=words):
        load_recipe("digits", {"only": ["new/old", "new/old simcrl"]})
    with pytest.raises(ConfigurationError, match="there is no arm '!'; Arms: new/old without"):
        load_recipe("digits", {"only": ["!"]})


def test_an_arm_through_a_middle_model_needs_one():
    arms = [{"name": "new/old"}, {"name": "new/old chained", "through": "chained"}]
    with pytest.raises(ConfigurationError, match="goes by way of a middle model: give"):
        load_recipe("digits", {"arms": arms})


def test_a_recipe_may_begin_with_another_base():
    recipe = load_recipe("losses", {"base": "digits"})
    assert (recipe.name, recipe.data.source) == ("losses", "digits")
    assert recipe.variant("softmax to arcface").training_of_new.loss == "arcface"


def test_the_new_model_differs_in_what_is_said_alone():
    new = {"new_backbone": {"dim": 32}, "new_model": {"epochs": 2}, "baselines": []}
    recipe = load_recipe("digits", new)
    assert (recipe.backbone_of_new.dim, recipe.backbone_of_new.width) == (32, 16)
    assert (recipe.training_of_new.epochs, recipe.training_of_new.flip) == (2, False)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"name": "old/old"}, "an arm cannot be called 'old/old': cells of a study or a variant"),
        ({"name": "bct new/old"}, "an arm cannot be called 'bct new/old'"),
        ({"name": "new/old fused"}, "an arm cannot be called 'new/old fused'"),
        ({"name": "wide: new/old"}, "an arm cannot be called 'wide: new/old'"),
        ({"name": "new/old", "reverse": True}, "'new/old' is performed on a gallery in a store"),
        ({"name": "new/old", "gallery_sample": 0.1}, "'new/old' is performed on a gallery"),
        ({"name": "x", "gallery_sample": 0.1, "reverse": True}, "has no use for a gallery sample"),
        ({"name": "x", "gallery_sample": 0.6}, "gallery_sample is 0.6"),
    ],
)
def test_an_arm_that_cannot_be_is_refused_in_words(arm, words):
    with pytest.raises(ConfigurationError, match=words):
        load_recipe("digits", {"arms": [{"name": "new/old"}, arm][arm["name"] == "new/old" :]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"new_backbone": {"dim": 8}}, "64 dimensions, the new one 8: no backward compatible.*= "),
        (
            {"embedding_model.loss": "arcface"},
            "loss is arcface, that of .backward_compatible. soft",
        ),
        ({"embedding_model.margin": 0.5}, "digits: embedding_model: margin is a setting of the"),
        ({"views": 2, "new_backbone": {"size": 16}}, "2 views of each image.*give views = 1"),
        ({"new_model": {"loss": "supcon"}}, "supcon has no classifier.*discriminative = 'none'"),
        ({"arms": [{"name": "new/old", "side": "frozen"}]}, "give one as .frozen_encoder., such"),
        (
            {"arms": [{"name": "new/old", "fit": {"method": "ridge", "networks": 2}}]},
            r"arm 'new/old', \[fit\]: networks is 2, .* method is 'ridge'; choose",
        ),
        ({"variants": {"a: b": {}}}, "a variant cannot be called 'a: b'; leave the colon out"),
    ],
)
def test_what_could_only_fail_after_training_is_refused_before(changes, words):
    with pytest.raises(ConfigurationError, match=words):
        load_recipe("digits", changes)


def test_several_networks_are_those_of_the_arms_that_train_any():
    recipe = load_recipe("transformations", {"data.source": "digits", "fit.networks": 2})
    networks = {arm.name: recipe.fit_of(arm).networks for arm in recipe.arms}
    assert (networks["new/old mlp"], networks["new/old"]) == (2, 2)
    assert (networks["new/old procrustes"], networks["new/old rbt"]) == (1, 1)
