from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from onward.data import open_items
from onward.errors import ConfigurationError, DataError, ModelError
from onward.models import EmbeddingModel, InputSpec, LayersReadout
from onward.nn.backbones import BackboneSpec, build_backbone
from onward.quantisation import Quantisation, fit_quantisation
from onward.spaces import Space
from onward.training import layers
from onward.training.devices import seeded
from onward.training.image_models import train_model
from onward.training.layers import add_layers_side_information, measure, principal_components
from onward.training.settings import FrozenSettings

SPEC = BackboneSpec(dim=8, size=8, channels=1, width=4)


@pytest.fixture(scope="module")
def items():
    return open_items("digits").select(np.arange(120))


@pytest.fixture(scope="module")
def model():
    with seeded(0):
        return EmbeddingModel.of_backbone(build_backbone(SPEC), SPEC, name="old")


@pytest.mark.parametrize("stages", [None, (1,)])
def test_side_information_is_the_pca_of_the_standardised_stages_that_are_read(model, items, stages):
    raw = np.concatenate(list(model.stages(items, grid=2))).astype(np.float64)
    first, second, *_ = (channels * 4 for channels in model.stage_channels)
    raw = raw if stages is None else raw[:, first : first + second]
    deviation = raw.std(axis=0)
    scale = np.where(deviation > 1e-6 * deviation.max(), deviation, 1)
    expected = PCA(5, svd_solver="full").fit_transform((raw - raw.mean(axis=0)) / scale)
    made = add_layers_side_information(model, items, dim=5, format="float32", stages=stages)
    _, side = made.embed_with_side(items)
    np.testing.assert_allclose(np.abs(side.vectors), np.abs(expected), rtol=2e-3, atol=2e-3)
    assert made.readout.components.shape == (5, raw.shape[1])


def test_embeddings_and_their_space_stay_what_they_are(model, items):
    with_side = add_layers_side_information(model, items, dim=6, format="float32")
    embeddings, side = with_side.embed_with_side(items)
    assert with_side.space == model.space
    np.testing.assert_allclose(embeddings.vectors, model.embed(items).vectors, atol=1e-6)
    assert (side.space.dim, side.space.name.split("@")[0]) == (6, "old-layers")
    assert side.ids == embeddings.ids


@pytest.mark.parametrize("form", ["float16", "int8"])
def test_quantised_in_the_same_pass_as_afterwards(model, items, form):
    plain = add_layers_side_information(model, items, dim=6, format="float32")
    quantised = add_layers_side_information(model, items, dim=6, format=form)
    expected = fit_quantisation(plain.embed_with_side(items)[1], form).apply(
        plain.embed_with_side(items)[1]
    )
    embeddings, side = quantised.embed_with_side(items)
    assert (quantised.side, quantised.space) == (side.space, model.space)
    assert side.space == expected.space
    np.testing.assert_array_equal(side.vectors, expected.vectors)
    np.testing.assert_array_equal(embeddings.vectors, model.embed(items).vectors)
    assert quantised.side.name.startswith(f"old-layers-{form}@")
    assert quantised.made_by["layers"]["format"] == form


def test_all_stages_named_are_all_stages(model, items):
    every = tuple(range(len(model.stage_channels)))
    named = add_layers_side_information(model, items, dim=4, stages=every[::-1])
    assert named.side == add_layers_side_information(model, items, dim=4).side
    assert named.side != add_layers_side_information(model, items, dim=4, stages=every[1:]).side


@pytest.mark.parametrize("form", ["float32", "float16", "int8"])
@pytest.mark.parametrize("stages", [None, (0, 2)])
def test_what_is_saved_reads_the_same_side_information(model, items, tmp_path, form, stages):
    made = add_layers_side_information(model, items, dim=3, format=form, stages=stages)
    made.save(tmp_path / "model")
    loaded = EmbeddingModel.load(tmp_path / "model")
    assert (loaded.side, loaded.space) == (made.side, made.space)
    one, two = (each.embed_with_side(items)[1].vectors for each in (loaded, made))
    np.testing.assert_array_equal(one, two)
    size = {"float32": 12, "float16": 6, "int8": 3}[form]
    assert f"{size} bytes an item" in (tmp_path / "model" / "README.md").read_text()


def test_side_information_is_named_as_ever():
    # names of models trained before there were formats and a choice of stages
    readout = LayersReadout(
        1, (2, 1), np.zeros(3, np.float32), np.ones(3, np.float32), np.eye(2, 3, dtype=np.float32)
    )
    assert readout.space_of(Space("old@00000000", 2)) == Space("old-layers@bac5145f", 2)


def test_progress_goes_from_nothing_to_all_in_either_format(model, items):
    told = []
    add_layers_side_information(
        model, items, dim=2, format="int8", progress=lambda *given: told.append(given)
    )
    assert told == [(120, 240), (240, 240)]


def test_stages_and_formats_that_there_are_not_are_refused(model, items, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(
        ModelError, match=r"stages \[4\] cannot be read: the model has 4, .* from 0"
    ):
        add_layers_side_information(model, items, dim=2, stages=(4,))
    with pytest.raises(ModelError, match=r"stages \[\] cannot be read"):
        add_layers_side_information(model, items, dim=2, stages=())
    with pytest.raises(ConfigurationError, match="cannot be stored as 'int4'; choose one of float"):
        add_layers_side_information(model, items, dim=2, format="int4")


def test_a_quantisation_of_other_side_information_is_refused(model, items):
    other = Quantisation(Space("other@1", 2), "float16")
    readout = add_layers_side_information(model, items, dim=2).readout
    words = r"the quantisation is for other@1 .* but the read-out makes old-layers@"
    with pytest.raises(ModelError, match=words):
        model.with_layers(replace(readout, quantisation=other))


def test_it_is_the_same_every_time_and_leaves_the_generators_alone(model, items):
    before = torch.get_rng_state()
    first, second = (add_layers_side_information(model, items, dim=4) for _ in range(2))
    assert first.side == second.side
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@given(cuts=st.lists(st.integers(1, 39), max_size=4, unique=True), offset=st.floats(-1e4, 1e4))
def test_moments_are_the_same_for_any_batches(cuts, offset):
    rows = (np.random.default_rng(0).normal(size=(40, 3)) + offset).astype(np.float32)
    moments = measure(iter(np.split(rows, sorted(cuts))))
    exact = rows.astype(np.float64)
    assert moments.count == 40
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(moments.covariance, np.cov(exact.T, bias=True), atol=1e-9)


def test_components_are_orthonormal_and_their_largest_value_is_positive():
    rows = np.random.default_rng(1).normal(size=(50, 6)) * [3, 1, 2, 5, 1, 1]
    components = principal_components(np.cov(rows.T), 4)
    np.testing.assert_allclose(components @ components.T, np.eye(4), atol=1e-12)
    assert (components[np.arange(4), np.abs(components).argmax(axis=1)] > 0).all()
    variance = (rows @ components.T).var(axis=0)
    assert list(variance) == sorted(variance, reverse=True)


def test_large_covariances_are_treated_by_iteration_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(400, 80)) * np.geomspace(10, 0.1, 80)
    exact = principal_components(np.cov(rows.T), 5)
    monkeypatch.setattr(layers, "EXACT_UP_TO", 10)
    np.testing.assert_allclose(principal_components(np.cov(rows.T), 5), exact, atol=1e-6)


def test_more_dimensions_than_the_stages_hold_are_refused(model, items):
    with pytest.raises(
        ConfigurationError, match=r"the stages of old@.* hold 160 values on a 2 x 2"
    ):
        add_layers_side_information(model, items, dim=161)


def test_too_few_items_are_refused(model, items):
    with pytest.raises(
        DataError, match=r"10 items are too few for .* 16 dimensions; .*at least 17"
    ):
        add_layers_side_information(model, items.select(np.arange(10)), dim=16)


def test_a_model_without_stages_is_refused(items):
    model = EmbeddingModel.from_callable(
        lambda pixels: np.ones((len(pixels), 3), np.float32),
        name="f",
        dim=3,
        input=InputSpec(8, 1, (0.5,), (0.5,)),
    )
    with pytest.raises(ModelError, match="stages cannot be read"):
        add_layers_side_information(model, items, dim=2)


# --- timm's convolutional nets and transformers ---

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


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "stages"), SPECS)
def test_layers_are_read_from_timm_models_in_the_same_pass(items, spec, stages, tmp_path):
    items = items.select(np.arange(40))
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
