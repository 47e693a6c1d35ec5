"""Losses against naive loops in float64, and what settings say of them."""

import numpy as np
import pytest
import torch

from onward.data import open_items
from onward.errors import ConfigurationError
from onward.models import InputSpec
from onward.nn.backbones import BackboneSpec
from onward.training.image_models import (
    classification_loss,
    contrastive_loss,
    start,
    train_model,
)
from onward.training.settings import (
    BackwardCompatibleSettings,
    RunSettings,
    TrainingSettings,
    metric_of,
    read_settings,
)

SPEC = BackboneSpec(dim=8, size=8, channels=1, width=4)
CPU = RunSettings(device="cpu")
BRIEF = {"epochs": 2, "batch_size": 32, "flip": False}
LOSSES = ["softmax", "arcface", "cosface", "supcon"]


@pytest.fixture(scope="module")
def items():
    return open_items("digits").select(np.arange(150))


def trained(items, **settings):
    chosen = TrainingSettings(**BRIEF, **settings)
    return train_model(items, chosen, SPEC, name="m", seed=3, run=CPU)


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def with_margin(cosine, loss, margin):
    """Deng et al., equation 3, and as their code goes on beyond 180 degrees; Wang et al., 4."""
    if loss == "cosface":
        return cosine - margin
    angle = np.arccos(cosine)
    return np.cos(angle + margin) if angle + margin <= np.pi else cosine - margin * np.sin(margin)


def margin_loss_by_loops(embeddings, classifier, positions, loss, margin):
    cosines, total = unit(embeddings) @ unit(classifier).T, 0.0
    for row, own in enumerate(positions):
        logits = cosines[row].copy()
        logits[own] = with_margin(logits[own], loss, margin)
        total += np.log(np.exp(8 * logits).sum()) - 8 * logits[own]
    return total / len(positions)


@pytest.mark.parametrize(("loss", "margin"), [("arcface", 0.5), ("cosface", 0.35)])
def test_a_margin_loss_equals_naive_loops_at_the_papers_margin_and_another(loss, margin):
    for seed in range(20):
        embeddings, classifier = drawn(7, 4, seed=seed), drawn(5, 4, seed=seed + 100)
        positions = np.random.default_rng(seed).integers(0, 5, size=7)
        arrays = embeddings.double().numpy(), classifier.double().numpy(), positions
        for chosen, fields in ((margin, {}), (0.2, {"margin": 0.2})):
            settings = TrainingSettings(loss=loss, scale=8.0, **fields)
            expected = margin_loss_by_loops(*arrays, loss, chosen)
            found = classification_loss(
                embeddings, classifier, torch.from_numpy(positions), settings
            )
            assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", ["arcface", "cosface"])
def test_a_margin_loss_teaches_embeddings_and_classifier_whatever_their_lengths(loss):
    settings = TrainingSettings(loss=loss, scale=16.0)
    positions = torch.tensor([0, 1, 2, 0])
    classifier = drawn(3, 4).requires_grad_()
    embeddings = drawn(4, 4, seed=1).requires_grad_()
    found = classification_loss(embeddings, classifier, positions, settings)
    found.backward()
    assert float(embeddings.grad.abs().sum()) > 0
    assert float(classifier.grad.abs().sum()) > 0
    longer = classification_loss(embeddings * 7, classifier * 3, positions, settings)
    torch.testing.assert_close(found, longer)


def test_a_stored_classifier_gives_logits_of_embeddings_as_they_are(items):
    """Rows of one length; at the mean length of embeddings a cosine of 1 is worth the scale."""
    model = trained(items, loss="cosface", scale=16.0)
    mean_length = np.linalg.norm(model.embed(items).vectors, axis=1).mean()
    np.testing.assert_allclose(
        np.linalg.norm(model.classifier, axis=1), 16 / mean_length, rtol=1e-4
    )


def test_what_is_stored_has_the_directions_that_were_learned(items):
    settings = TrainingSettings(loss="arcface", scale=16.0)
    objective = start(items, SPEC, InputSpec.of_spec(SPEC), settings, 0)
    rows, learned = objective.classifier_array(), objective.classifier.detach().numpy()
    np.testing.assert_allclose(rows, 16 * unit(learned), rtol=1e-5)


def test_the_supervised_contrastive_loss_equals_naive_loops():
    views, labels = drawn(9, 4).double().numpy(), np.array([0, 1, 2, 0, 1, 2, 0, 0, 1])
    cosines, total = unit(views) @ unit(views).T, 0.0
    for i in range(9):
        others = [k for k in range(9) if k != i]
        partners = [k for k in others if labels[k] == labels[i]]
        below = sum(np.exp(cosines[i, k] / 0.2) for k in others)
        total -= np.mean([np.log(np.exp(cosines[i, p] / 0.2) / below) for p in partners])
    found = contrastive_loss(torch.from_numpy(views).float(), 0.2, torch.from_numpy(labels))
    assert found.item() == pytest.approx(total / 9, rel=1e-5)


def test_each_loss_makes_another_model_in_a_space_of_its_metric_and_repeats(items):
    models = {loss: trained(items, loss=loss) for loss in LOSSES}
    assert len({model.fingerprint for model in models.values()}) == len(LOSSES)
    for loss, model in models.items():
        assert model.space.metric == metric_of(loss) == ("l2" if loss == "softmax" else "cosine")
        assert (model.classes, model.space.dim) == (tuple(range(10)), 8)
        assert (model.classifier is None) == (loss == "supcon")
        assert trained(items, loss=loss).fingerprint == model.fingerprint


def test_the_metric_can_be_chosen_all_the_same(items):
    settings = TrainingSettings(**BRIEF, loss="cosface")
    model = train_model(items, settings, SPEC, name="m", metric="l2", run=CPU)
    assert model.space.metric == "l2"


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "lr"), [("arcface", 0.03), ("cosface", 0.03), ("supcon", 0.3)])
def test_a_model_trained_by_each_loss_puts_classes_together(items, loss, lr):
    learning = {"epochs": 20, "batch_size": 32, "lr": lr, "augment": False}
    settings = TrainingSettings(loss=loss, **learning)
    spec = SPEC.model_copy(update={"dim": 16, "width": 8})
    model = train_model(items, settings, spec, name="m", seed=0, run=CPU)
    vectors = unit(model.embed(items).vectors)
    cosines = vectors @ vectors.T - 2 * np.eye(len(items))
    assert np.mean(items.labels[cosines.argmax(axis=1)] == items.labels) > 0.8


def test_a_margin_loss_in_bfloat16_is_computed_in_float32(items):
    settings = TrainingSettings(**BRIEF, loss="arcface")
    run = RunSettings(device="cpu", precision="bf16-mixed")
    model = train_model(items, settings, SPEC, name="m", seed=3, run=run)
    assert np.isfinite(model.classifier).all()


def test_a_softmax_models_settings_are_written_as_they_were_before_there_were_other_losses():
    assert sorted(TrainingSettings().model_dump()) == [
        "augment",
        "batch_size",
        "epochs",
        "flip",
        "label_smoothing",
        "lr",
        "momentum",
        "optimizer",
        "running_statistics_from",
        "warmup",
        "weight_decay",
    ]
    added = set(BackwardCompatibleSettings().model_dump()) - set(TrainingSettings().model_dump())
    assert added == {"weight"}


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"loss": "arcface"}, {"margin": None, "scale": 64.0}),
        ({"loss": "cosface", "margin": 0.2}, {"margin": 0.2, "scale": 64.0}),
        ({"loss": "supcon"}, {"temperature": 0.1, "projection_dim": 128}),
    ],
)
def test_settings_of_another_loss_are_written_and_read_back(fields, written):
    settings = TrainingSettings(**fields)
    dump = settings.model_dump(mode="json")
    assert {name: dump[name] for name in written} == written
    assert not {"margin", "scale", "temperature", "projection_dim"} & set(dump) - set(written)
    assert read_settings(TrainingSettings, dump, where="file") == settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"margin": 0.5},
            "toml: margin is a setting of the loss arcface and cosface, and the loss is softmax; l",
        ),
        ({"loss": "arcface", "temperature": 0.1}, "temperature is a setting of the loss supcon, a"),
        ({"loss": "triplet"}, "toml: loss is 'triplet': Input should be 'softmax', 'arcface', "),
        ({"loss": "cosface", "scale": 0}, "toml: scale is 0: Input should be greater than 0"),
    ],
)
def test_settings_of_the_wrong_loss_are_refused(fields, message):
    with pytest.raises(ConfigurationError, match=message):
        read_settings(TrainingSettings, fields, where="toml")
