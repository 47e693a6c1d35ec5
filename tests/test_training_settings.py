import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from onward.errors import ConfigurationError
from onward.training.settings import (
    PAPER,
    FitSettings,
    RunSettings,
    SimCLRSettings,
    TrainingSettings,
    read_settings,
)


def test_the_defaults_are_the_papers():
    settings = TrainingSettings()
    assert settings.highest_lr == pytest.approx(1.024)
    assert (settings.momentum, settings.epochs, settings.batch_size) == (0.875, 100, 1024)
    assert settings.weight_decay == pytest.approx(3.0517578125e-5, abs=0)
    assert (PAPER.optimizer, PAPER.highest_lr, PAPER.inner, PAPER.epochs) == (
        "adam",
        5e-4,
        2048,
        80,
    )
    assert PAPER.running_statistics_from == 0.5


def test_without_an_lr_it_is_in_proportion_to_the_batch():
    assert TrainingSettings(batch_size=128).highest_lr == pytest.approx(0.128)
    assert TrainingSettings(batch_size=128, lr=0.3).highest_lr == 0.3


def test_crops_of_the_whole_image_are_written_only_where_they_are_taken():
    for settings in (TrainingSettings, SimCLRSettings):
        assert "least_crop" not in settings().model_dump()
        assert settings(least_crop=0.08).model_dump()["least_crop"] == 0.08


def test_random_crops_that_nothing_would_show_are_refused():
    words = "least_crop is 0.08, which is of random crops, and augment is false; leave one of the"
    with pytest.raises(ConfigurationError, match=words):
        read_settings(TrainingSettings, {"least_crop": 0.08, "augment": False}, where="mine")


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        SimCLRSettings().temperature = 0.5


def test_an_unknown_name_is_offered_the_nearest_one():
    with pytest.raises(
        ConfigurationError, match=r"recipe\.toml: there is no 'temprature'; did you mean 'temperat"
    ):
        read_settings(SimCLRSettings, {"temprature": 0.5}, where="recipe.toml")


def test_a_name_like_no_other_is_told_all_names():
    with pytest.raises(
        ConfigurationError, match=r"no 'xyzzy'; Known: batch_size, .*epochs, .*inner"
    ):
        read_settings(FitSettings, {"xyzzy": 1}, where="fit")


def test_a_value_out_of_range_is_named_with_what_was_given():
    with pytest.raises(ConfigurationError, match="fit: epochs is 0: Input should be greater"):
        read_settings(FitSettings, {"epochs": 0}, where="fit")
    with pytest.raises(ConfigurationError, match="method is 'rigde': Input should be 'auto'"):
        read_settings(FitSettings, {"method": "rigde"}, where="fit")


def test_settings_are_read_from_plain_values_and_by_the_names_of_older_programs():
    assert read_settings(FitSettings, {"epochs": 3}, where="fit") == FitSettings(epochs=3)
    older = read_settings(FitSettings, {"batch_items": 32}, where="fit")
    assert older == FitSettings(batch_size=32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "gpu"}, "device is 'gpu'; choose one of auto, cpu, cuda"),
        ({"precision": "16"}, "precision is '16'; choose one of 32-true, bf16-mixed"),
        ({"devices": 0}, "devices is 0; a run needs at least 1"),
    ],
)
def test_a_run_refuses_what_it_cannot_be(fields, message):
    with pytest.raises(ConfigurationError, match=message):
        RunSettings(**fields)


def test_reading_settings_loads_no_torch():
    code = "import sys, onward.training.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
