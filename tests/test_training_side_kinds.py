"""Kinds of side-information beside SimCLR and layers: autoencoder, labels and views, frozen."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from onward.data import open_items
from onward.errors import ConfigurationError, DataError, ModelError
from onward.experiments.baselines import Autoencoder, Decoder, SupervisedContrastive, build_of
from onward.experiments.recipe import AutoencoderSettings, SupervisedContrastiveSettings
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import BackboneSpec, build_backbone
from onward.training.devices import seeded
from onward.training.image_models import train_model
from onward.training.images import ImageBatches, Preparation
from onward.training.losses import nt_xent
from onward.training.settings import FrozenSettings, RunSettings

SPEC = BackboneSpec(dim=8, size=8, channels=1, width=4)
TAKEN = InputSpec(8, 1, (0.3,), (0.6,))
CPU = RunSettings(device="cpu")
BRIEF = {"epochs": 2, "batch_items": 32, "flip": False}


@pytest.fixture(scope="module")
def items():
    return open_items("digits").select(np.arange(150))


AUTO = AutoencoderSettings(**BRIEF, width=4)


def train_auto(items, settings=AUTO, **changes):
    given = {"name": "auto", "seed": 3, "run": CPU, "build": build_of(settings), **changes}
    return train_model(items, settings, SPEC, **given)


def train_both(items, **changes):
    return train_auto(items, SupervisedContrastiveSettings(**BRIEF), **{"name": "both", **changes})


def frozen(spec, **given):
    return train_model(None, FrozenSettings(), spec, name="frozen", **given)


KINDS = pytest.mark.parametrize("train", [train_auto, train_both], ids=["autoencoder", "both"])


def drawn_pixels(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def backbone():
    with seeded(0):
        return build_backbone(SPEC).eval()


@pytest.mark.slow
@KINDS
def test_a_kind_is_an_ordinary_model_that_repeats_and_has_a_seed(items, train, tmp_path):
    model = train(items)
    assert model.space == train(items).space != train(items, seed=4).space
    assert (model.space.dim, model.space.metric) == (8, "l2")
    model.save(tmp_path / "side")
    again = EmbeddingModel.load(tmp_path / "side")
    np.testing.assert_array_equal(again.embed(items).vectors, model.embed(items).vectors)


@pytest.mark.slow
@KINDS
def test_a_kinds_training_that_was_stopped_ends_with_the_same_bytes(items, train, tmp_path):
    class Stopped(Exception):
        pass

    def stop(done, _):
        if done == 4:
            raise Stopped

    keep = {"device": "cpu", "checkpoint": tmp_path / "c.safetensors", "checkpoint_seconds": 0.0}
    with pytest.raises(Stopped):
        train(items, run=RunSettings(progress=stop, **keep))
    assert train(items, run=RunSettings(**keep)).space == train(items).space


# --- autoencoder ---


@pytest.mark.parametrize("size", [4, 8, 15, 28, 32])
def test_a_decoder_draws_images_of_any_size(size):
    decoder = Decoder(dim=6, size=size, channels=3, width=2)
    images = decoder(torch.zeros(5, 6))
    assert images.shape == (5, 3, size, size)


def test_an_autoencoders_loss_is_the_squared_error_of_normalised_pixels():
    objective = Autoencoder(backbone(), Preparation(TAKEN, None), width=4).eval()
    pixels = drawn_pixels(6)
    images = TAKEN.normalise(pixels.numpy())
    shown = torch.from_numpy(images)
    drawn = objective.decoder(objective.backbone(shown)).detach().numpy()
    expected = np.mean((drawn.astype(np.float64) - images) ** 2)
    assert objective(pixels, torch.zeros(6)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_an_autoencoder_needs_no_labels_and_keeps_no_decoder(items):
    relabelled = replace(items, labels=np.zeros(len(items), np.int64), class_names={0: "item"})
    model = train_auto(items)
    assert model.space == train_auto(relabelled).space
    assert (model.classes, model.classifier) == (None, None)
    assert not [name for name in model.engine.arrays() if "decoder" in name]


@pytest.mark.slow
def test_a_trained_autoencoder_draws_images_better_than_their_mean(items, monkeypatch):
    trained = []

    class Watched(Autoencoder):
        def __init__(self, *given):
            super().__init__(*given)
            trained.append(self)

    monkeypatch.setattr("onward.experiments.baselines.Autoencoder", Watched)
    settings = AutoencoderSettings(epochs=40, batch_items=32, width=8, augment=False, lr=3e-3)
    train_auto(items, settings=settings, input=TAKEN)
    pixels, _ = ImageBatches(items, TAKEN, image_bytes=1 << 20).read(np.arange(len(items)))
    images = TAKEN.normalise(pixels.numpy())
    assert trained[0](pixels).item() < 0.6 * np.mean((images - images.mean(axis=0)) ** 2)


# --- labels and views ---


def test_labels_and_views_add_cross_entropy_and_nt_xent():
    settings = SupervisedContrastiveSettings(weight=0.7, temperature=0.3, label_smoothing=0.2)
    with seeded(1):
        objective = SupervisedContrastive(backbone(), 3, Preparation(TAKEN, None), settings).eval()
    pixels, classes = drawn_pixels(4), torch.tensor([0, 2, 1, 0])
    embeddings = objective.backbone(torch.from_numpy(TAKEN.normalise(pixels.numpy())))
    logits = embeddings @ objective.classifier.T
    views = objective.head(embeddings).repeat(2, 1)  # without augmentation both views are one
    expected = torch.nn.functional.cross_entropy(logits, classes, label_smoothing=0.2)
    expected = expected + 0.7 * nt_xent(views, 0.3)
    torch.testing.assert_close(objective(pixels, classes), expected, rtol=1e-4, atol=1e-5)


def test_labels_and_views_keep_the_classifier_and_throw_the_head_away(items):
    model = train_both(items.of_classes([3, 7, 9]))
    assert model.classes == (3, 7, 9)
    assert model.classifier.shape == (3, 8)
    assert not [name for name in model.engine.arrays() if "head" in name]


def test_labels_and_views_need_two_classes(items):
    with pytest.raises(DataError, match=r"has 1 class\(es\); .* at least 2"):
        train_both(items.of_classes([4]))


# --- frozen encoders ---


@pytest.mark.slow
def test_a_frozen_encoder_gives_the_networks_own_pooled_output(tmp_path):
    spec = BackboneSpec(name="timm:resnet10t", size=32, dim=None)
    model = frozen(spec, seed=5)
    with seeded(5, "first weights"):
        network = build_backbone(spec).model.eval()
    pixels = drawn_pixels(3).repeat(1, 3, 4, 4).numpy()
    vectors, _ = model.pixel_embedder()(pixels)
    with torch.inference_mode():
        expected = network(torch.from_numpy(model.input.normalise(pixels))).numpy()
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    assert model.space.dim == 512
    model.save(tmp_path / "frozen")
    assert EmbeddingModel.load(tmp_path / "frozen").space == model.space
    assert model.made_by["recipe"] == "frozen encoder"
    assert model.made_by["versions"]["timm"] == timm.__version__


@pytest.mark.slow
def test_random_weights_are_decided_by_the_seed_and_leave_the_generators_alone():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = frozen(SPEC, seed=0)
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
    assert first.space == frozen(SPEC).space
    assert first.space != frozen(SPEC, seed=1).space


def test_pretrained_weights_that_cannot_be_had_are_told(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.create_model", refuse)
    spec = BackboneSpec(name="timm:resnet10t", dim=None, pretrained=True)
    with pytest.raises(
        ModelError,
        match=r"timm:resnet10t cannot be had .*no route.* connect to it once, or set pre",
    ):
        frozen(spec)


def test_pretrained_weights_behind_a_random_layer_are_refused():
    spec = BackboneSpec(name="timm:resnet10t", dim=64, pretrained=True)
    with pytest.raises(ConfigurationError, match=r"asked for 64 dimensions; .*Leave dim out for"):
        frozen(spec)


def test_pretrained_weights_without_a_dim_give_the_networks_own_output(monkeypatch):
    """A recipe cannot write None."""
    create, asked = timm.create_model, list[bool]()

    def offline(name, *, pretrained, **settings):
        asked.append(pretrained)
        return create(name, pretrained=False, **settings)

    monkeypatch.setattr("timm.create_model", offline)
    spec = BackboneSpec(name="timm:resnet10t", pretrained=True)
    assert frozen(spec).space.dim == 512
    assert asked == [True, False]  # once more without, to see that spec and weights say it all


def test_an_input_that_does_not_fit_a_frozen_encoder_is_refused():
    with pytest.raises(ConfigurationError, match=r"the input is 16 px .* the backbone takes 8 px"):
        frozen(SPEC, input=InputSpec(16, 1, (0.5,), (0.5,)))
