"""`onward train`: each objective reaches the function of the library that it names."""

import pytest
from typer.testing import CliRunner

from onward.cli.app import app
from onward.cli.train import ModelKind
from onward.errors import ConfigurationError
from onward.models import EmbeddingModel

SMALL = "--classes 0-2 --size 8 --channels 1 --width 4 --dim 8 --epochs 1 --batch-size 64 --no-flip"


def train(out, *words):
    given = ["train", "digits", str(out), "--device", "cpu", *words]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return EmbeddingModel.load(out)


RECIPES = {
    ModelKind.CROSS_ENTROPY: "embedding model",
    ModelKind.ARCFACE: "embedding model",
    ModelKind.COSFACE: "embedding model",
    ModelKind.SUPCON: "embedding model",
    ModelKind.SIMCLR: "side-information by SimCLR",
    ModelKind.NONE: "frozen encoder",
}


@pytest.mark.slow
@pytest.mark.parametrize("objective", RECIPES)
def test_a_model_is_trained_by_each_objective(objective, tmp_path):
    model = train(tmp_path / "model", "--objective", objective.value, *SMALL.split())
    assert model.made_by["recipe"] == RECIPES[objective]
    by_name = objective in {ModelKind.ARCFACE, ModelKind.COSFACE, ModelKind.SUPCON}
    if by_name:
        assert model.made_by["settings"]["loss"] == objective.value
    assert model.space.metric == ("cosine" if by_name else "l2")
    assert model.space.dim == 8


@pytest.mark.slow
def test_any_setting_of_the_objective_can_be_set(tmp_path):
    words = [*SMALL.split(), "--objective", "cosface", "--set", "margin=0.2", "--set", "scale=16"]
    words[words.index("--batch-size")] = "--batch"  # its other spelling
    settings = train(tmp_path / "model", *words).made_by["settings"]
    assert (settings["loss"], settings["margin"], settings["scale"]) == ("cosface", 0.2, 16)
    assert settings["batch_size"] == 64


def test_an_option_may_not_be_given_in_both_its_spellings(tmp_path):
    words = ["train", "digits", str(tmp_path / "m"), "--batch", "32", "--batch-size", "64"]
    with pytest.raises(ConfigurationError, match="--batch and --batch-size mean the same; give"):
        CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.mark.slow
def test_backward_compatible_training_takes_class_means(tmp_path):
    train(tmp_path / "old", *SMALL.split())
    words = [*SMALL.replace("0-2", "0-4").split(), "--objective", "backward-compatible"]
    words += ["--old-model", str(tmp_path / "old"), "--set", "old_classifier=class means"]
    model = train(tmp_path / "bct", *words)
    assert model.made_by["settings"]["old_classifier"] == "class means"


@pytest.mark.slow
def test_a_backbone_as_it_is_gives_its_own_dimensions_and_layers(tmp_path):
    words = ["--objective", "none", "--backbone", "timm:resnet10t", "--layers", "4"]
    model = train(tmp_path / "model", *words)
    assert (model.space.dim, model.side.dim) == (512, 4)


def test_a_setting_that_the_objective_has_not_is_refused(tmp_path):
    words = ["train", "digits", str(tmp_path / "m"), "--objective", "simclr"]
    with pytest.raises(ConfigurationError, match="onward train: there is no 'margin'"):
        CliRunner().invoke(
            app, [*words, "--size", "8", "--set", "margin=0.1"], catch_exceptions=False
        )


def test_a_backward_compatible_model_needs_an_old_one(tmp_path):
    words = ["train", "digits", str(tmp_path / "m"), "--objective", "backward-compatible"]
    with pytest.raises(ConfigurationError, match="add --old-model DIRECTORY"):
        CliRunner().invoke(app, words, catch_exceptions=False)
