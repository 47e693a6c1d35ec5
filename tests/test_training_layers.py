import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from onward.data import open_items
from onward.errors import ConfigurationError, DataError, ModelError
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import BackboneSpec, build_backbone
from onward.training import layers
from onward.training.devices import seeded
from onward.training.layers import add_layers_side_information, measure, principal_components

SPEC = BackboneSpec(dim=8, size=8, channels=1, width=4)


@pytest.fixture(scope="module")
def items():
    return open_items("digits").select(np.arange(120))


@pytest.fixture(scope="module")
def model():
    with seeded(0):
        return EmbeddingModel.of_backbone(build_backbone(SPEC), SPEC, name="old")


def test_side_information_is_the_pca_of_standardised_stages(model, items):
    raw = np.concatenate(list(model.stages(items, grid=2))).astype(np.float64)
    deviation = raw.std(axis=0)
    scale = np.where(deviation > 1e-6 * deviation.max(), deviation, 1)
    expected = PCA(5, svd_solver="full").fit_transform((raw - raw.mean(axis=0)) / scale)
    _, side = add_layers_side_information(model, items, dim=5).embed_with_side(items)
    np.testing.assert_allclose(np.abs(side.vectors), np.abs(expected), rtol=2e-3, atol=2e-3)


def test_embeddings_and_their_space_stay_what_they_are(model, items):
    with_side = add_layers_side_information(model, items, dim=6)
    embeddings, side = with_side.embed_with_side(items)
    assert with_side.space == model.space
    np.testing.assert_allclose(embeddings.vectors, model.embed(items).vectors, atol=1e-6)
    assert (side.space.dim, side.space.name.split("@")[0]) == (6, "old-layers")
    assert side.ids == embeddings.ids


def test_it_is_the_same_every_time(model, items):
    first, second = (add_layers_side_information(model, items, dim=4) for _ in range(2))
    assert first.side == second.side


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
    with pytest.raises(ModelError, match="does not tell what its stages say"):
        add_layers_side_information(model, items, dim=2)


def test_generators_are_left_alone(model, items):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    add_layers_side_information(model, items, dim=2)
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
