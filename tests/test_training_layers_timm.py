"""Side-information of kind `layers` from timm's convolutional nets and transformers."""

import numpy as np
import pytest
import torch

from onward.data import open_items
from onward.models import EmbeddingModel
from onward.nn.backbones import BackboneSpec
from onward.training.image_models import train_model
from onward.training.layers import add_layers_side_information
from onward.training.settings import FrozenSettings

SPECS = [
    pytest.param(
        BackboneSpec(name="timm:resnet18", size=32, channels=1, dim=16),
        (64, 64, 128, 256, 512),  # the stem and four stages
        id="cnn",
    ),
    pytest.param(
        BackboneSpec(name="timm:vit_tiny_patch16_224", size=64, channels=1, dim=16),
        (192, 192, 192, 192),  # the token grid after each quarter of the blocks
        id="transformer",
    ),
    pytest.param(
        BackboneSpec(name="timm:vit_tiny_patch16_224", size=32, channels=1, dim=None),
        (192, 192, 192, 192),  # a grid of 2 x 2 tokens
        id="transformer-of-few-tokens",
    ),
]


@pytest.fixture(scope="module")
def items():
    return open_items("digits").select(np.arange(40))


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "stages"), SPECS)
def test_layers_are_read_from_timm_models_in_the_same_pass(items, spec, stages, tmp_path):
    model = train_model(None, FrozenSettings(), spec, name="old")
    assert model.stage_channels == stages
    with_side = add_layers_side_information(model, items, dim=12, format="float32")
    embeddings, side = with_side.embed_with_side(items)
    assert with_side.space == model.space
    np.testing.assert_allclose(embeddings.vectors, model.embed(items).vectors, rtol=1e-4, atol=1e-4)
    assert side.vectors.shape == (40, 12)
    variance = side.vectors.var(axis=0)
    assert variance[0] > 0
    assert list(variance) == sorted(variance, reverse=True)
    with_side.save(tmp_path / "old")
    again = EmbeddingModel.load(tmp_path / "old").embed_with_side(items)[1]
    assert again.space == side.space
    np.testing.assert_allclose(again.vectors, side.vectors, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "stages"), SPECS)
def test_the_stages_are_what_timm_says_of_them_averaged_over_a_grid(items, spec, stages):
    model = train_model(None, FrozenSettings(), spec, name="old")
    few = items.select(np.arange(3))
    (pooled,) = model.stages(few, grid=1)
    seen = []

    def remember(pixels):
        seen.append(pixels)
        return np.zeros((len(pixels), 1), np.float32)

    EmbeddingModel.from_callable(remember, name="eye", dim=1, input=model.input).embed(few)
    network = model.engine.backbone.model
    with torch.inference_mode():
        maps = network.forward_intermediates(
            torch.from_numpy(model.input.normalise(seen[0])), intermediates_only=True
        )
    if len(maps) > len(stages):
        maps = [maps[len(maps) * quarter // 4 - 1] for quarter in (1, 2, 3, 4)]
    expected = np.concatenate([stage.mean(dim=(2, 3)).numpy() for stage in maps], axis=1)
    np.testing.assert_allclose(pooled, expected, rtol=1e-3, atol=1e-4)
