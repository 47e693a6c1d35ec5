"""Embedding models that learn from images: what each kind learns by, and what is kept of it."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from pytorch_metric_learning.losses import NTXentLoss
from test_training_loop import Stopped, stop_after

from onward.data import open_items
from onward.errors import ConfigurationError, DataError, LabelMismatchError, ModelError
from onward.experiments.baselines import Autoencoder, Decoder, SupervisedContrastive, build_of
from onward.experiments.recipe import AutoencoderSettings, SupervisedContrastiveSettings
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import BackboneSpec, build_backbone
from onward.training.devices import seeded
from onward.training.image_models import BackwardCompatible, contrastive_loss, start, train_model
from onward.training.images import ImageBatches, Preparation
from onward.training.settings import (
    BackwardCompatibleSettings,
    FrozenSettings,
    RunSettings,
    SimCLRSettings,
    TrainingSettings,
)

SPEC = BackboneSpec(dim=8, size=8, channels=1, width=4)
SETTINGS = TrainingSettings(epochs=2, batch_size=32, flip=False)
BRIEF = {"epochs": 1, "batch_size": 32, "flip": False}
TAKEN = InputSpec(8, 1, (0.3,), (0.6,))
CPU = RunSettings(device="cpu")
NO_CROPS = {"least_crop": None}


@pytest.fixture(scope="module")
def items():
    digits = open_items("digits")
    return digits.select(np.arange(150))


@pytest.fixture(scope="module")
def old(items):
    return train_new(items.of_classes([0, 1, 2]), name="old")


@pytest.fixture
def started(monkeypatch):
    """Each backward compatible objective, in the order in which they were started."""
    made = []

    class Watched(BackwardCompatible):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr("onward.training.image_models.BackwardCompatible", Watched)
    return made


def train_new(items, **changes):
    given = {"settings": SETTINGS, "name": "new", "seed": 3, "run": CPU, **changes}
    return train_model(items, backbone=SPEC, **given)


def train_side(items, **changes):
    settings = SimCLRSettings(epochs=1, batch_size=32, flip=False)
    given = {"name": "side", "seed": 3, "run": CPU, **changes}
    return train_model(items, settings, SPEC, **given)


def train_bound(items, old, *, spec=SPEC, same_labels=False, **fields):
    settings = BackwardCompatibleSettings(**{**BRIEF, **fields})
    given = {"name": "bct", "old_model": old, "run": CPU, "same_labels": same_labels}
    return train_model(items, settings, spec, **given)


def train_auto(items, settings=None, **changes):
    settings = settings or AutoencoderSettings(**BRIEF, width=4)
    given = {"name": "auto", "seed": 3, "run": CPU, "build": build_of(settings), **changes}
    return train_model(items, settings, SPEC, **given)


def train_both(items, **changes):
    return train_auto(items, SupervisedContrastiveSettings(**BRIEF), **{"name": "both", **changes})


def frozen(spec, **given):
    return train_model(None, FrozenSettings(), spec, name="frozen", **given)


def drawn_pixels(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def backbone():
    with seeded(0):
        return build_backbone(SPEC).eval()


# --- all kinds ---


@pytest.mark.slow
@pytest.mark.parametrize("train", [train_new, train_side, train_auto, train_both])
def test_each_kind_is_an_ordinary_model_that_repeats_and_has_a_seed(items, train, tmp_path):
    model = train(items)
    assert model.space == train(items).space != train(items, seed=4).space
    assert (model.space.dim, model.space.metric) == (8, "l2")
    model.save(tmp_path / "model")
    again = EmbeddingModel.load(tmp_path / "model")
    np.testing.assert_array_equal(again.embed(items).vectors, model.embed(items).vectors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "step"),
    [(train_new, 1), (train_new, 4), (train_new, 9), (train_auto, 4), (train_both, 4)],
)
def test_a_training_that_was_stopped_ends_with_the_same_bytes(items, tmp_path, train, step):
    keep = {"device": "cpu", "checkpoint": tmp_path / "c.safetensors", "checkpoint_seconds": 0.0}
    with pytest.raises(Stopped):
        train(items, run=RunSettings(progress=stop_after(step), **keep))
    assert train(items, run=RunSettings(**keep)).space == train(items).space


@pytest.mark.slow
@pytest.mark.parametrize("train", [train_side, train_auto], ids=["simclr", "autoencoder"])
def test_side_information_needs_no_labels(items, train):
    relabelled = replace(items, labels=np.zeros(len(items), np.int64), class_names={0: "item"})
    model = train(items)
    assert model.space == train(relabelled).space
    assert (model.classes, model.classifier) == (None, None)


def test_what_stood_on_the_backbone_is_thrown_away_but_the_classifier(items):
    model = train_both(items.of_classes([3, 7, 9]))
    assert (model.classes, model.classifier.shape) == ((3, 7, 9), (3, 8))
    names = [*model.engine.content()[0], *train_auto(items).engine.content()[0]]
    assert not [name for name in names if "head" in name or "decoder" in name]


@pytest.mark.parametrize("train", [train_new, train_both], ids=["supervised", "both"])
def test_one_class_is_refused(items, train):
    with pytest.raises(DataError, match=r"has 1 class\(es\); .* at least 2"):
        train(items.of_classes([4]))


@pytest.mark.parametrize("train", [train_new, lambda _, **given: frozen(SPEC, **given)])
def test_an_input_that_does_not_fit_the_backbone_is_refused(items, train):
    with pytest.raises(ModelError, match=r"the input is 16 px .* the backbone takes 8 px"):
        train(items, input=InputSpec(16, 1, (0.5,), (0.5,)))


# --- supervised ---


def test_a_model_knows_its_classes_by_label_number_and_keeps_its_classifier(items):
    some = items.of_classes([3, 7, 9])
    model = train_new(some)
    assert model.classes == (3, 7, 9)
    assert model.classifier.shape == (3, 8)
    assert model.space.name == f"new@{model.fingerprint}"
    assert model.made_by["settings"]["epochs"] == 2
    assert model.made_by["data"]["digest"] == some.digest


@pytest.mark.slow
def test_a_trained_model_tells_classes_apart(items):
    model = train_new(items, settings=SETTINGS.model_copy(update={"epochs": 40, "lr": 0.3}))
    logits = model.embed(items).vectors @ model.classifier.T
    assert np.mean(np.array(model.classes)[logits.argmax(axis=1)] == items.labels) > 0.8


def test_labels_become_positions_among_the_classes(items):
    some = items.of_classes([3, 9])
    batches = ImageBatches(some, InputSpec.of_spec(SPEC), image_bytes=1 << 20)
    pixels, classes = batches.read(np.arange(len(some)))
    assert pixels.dtype == torch.uint8
    assert np.array([3, 9])[classes.numpy()].tolist() == some.labels.tolist()


def test_the_loss_is_label_smoothed_cross_entropy_worked_by_hand():
    digits = open_items("digits").of_classes([0, 1])
    objective = start(digits, SPEC, InputSpec.of_spec(SPEC), SETTINGS, 0)
    with torch.no_grad():
        objective.classifier.zero_()
        objective.classifier[0, 0] = 1.0
    embeddings = torch.zeros(1, 8)
    embeddings[0, 0] = 2.0  # logits 2 and 0
    log_p = np.array([2.0, 0.0]) - np.log(np.exp(2.0) + 1)
    expected = -(0.95 * log_p[0] + 0.05 * log_p[1])
    loss = objective.loss(embeddings, torch.tensor([0])).item()
    assert loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_the_new_model_is_the_same_files_whatever_was_trained_before_it(items, old, tmp_path):
    train_new(items).save(tmp_path / "alone")
    train_side(items.of_classes(range(5)))
    train_bound(items, old)
    torch.manual_seed(11)
    torch.rand(7)
    train_new(items).save(tmp_path / "after")
    alone, after = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("alone", "after")
    )
    assert alone == after


@pytest.mark.parametrize(
    ("kind", "of", "words"),
    [
        (TrainingSettings, (True, True), "was given with an old model; .*neither"),
        (SimCLRSettings, (True, True), "was given with an old model; .*neither"),
        (BackwardCompatibleSettings, (True, False), "was given without an old model; .*needs one"),
        (TrainingSettings, (False, False), "TrainingSettings was given without images"),
    ],
)
def test_each_kind_is_given_what_it_learns_from_and_nothing_of_an_old_model(
    items, old, kind, of, words
):
    images, old_model = (
        each if is_given else None for each, is_given in zip((items, old), of, strict=True)
    )
    with pytest.raises(ConfigurationError, match=words):
        train_model(images, kind(**BRIEF), SPEC, name="m", old_model=old_model, run=CPU)


@pytest.mark.slow
def test_images_that_do_not_fit_in_memory_give_the_same_model(items):
    streamed = RunSettings(device="cpu", image_bytes=0)
    assert train_new(items, run=streamed).fingerprint == train_new(items).fingerprint


# --- crops of the whole image ---


@pytest.mark.slow
@pytest.mark.parametrize("settings", [SETTINGS, SimCLRSettings(**BRIEF)], ids=["labels", "simclr"])
def test_crops_of_the_whole_image_go_on_after_a_kill_as_if_there_had_been_none(
    items, settings, tmp_path
):
    cropping = settings.model_copy(update={"least_crop": 0.08, "epochs": 3})

    keep = {"device": "cpu", "checkpoint": tmp_path / "state", "checkpoint_seconds": 0.0}
    with pytest.raises(Stopped):
        train_new(items, settings=cropping, run=RunSettings(progress=stop_after(7), **keep))
    whole = train_new(items, settings=cropping)
    resumed = train_new(items, settings=cropping, run=RunSettings(**keep))
    assert resumed.space == whole.space
    assert whole.space != train_new(items, settings=cropping.model_copy(update=NO_CROPS)).space


def test_each_epoch_and_each_view_is_another_crop_whatever_stands_in_the_batch(items):
    def batches(seed=0):
        return ImageBatches(items, TAKEN, image_bytes=1 << 20, views=2, least_crop=0.3, seed=seed)

    pixels, classes = batches().read(np.arange(6), 1)
    first, second = pixels[:6], pixels[6:]
    assert (pixels.shape, classes.shape) == ((12, 1, 8, 8), (6,))
    assert not torch.equal(first, second)
    assert torch.equal(batches().read(np.array([4, 2]), 1)[0], pixels[[4, 2, 10, 8]])
    for other in (batches().read(np.arange(6), 2)[0], batches(seed=1).read(np.arange(6), 1)[0]):
        assert not torch.equal(other, pixels)


@pytest.mark.slow
def test_a_model_embeds_the_central_crop_that_it_was_told_and_keeps_it(items, tmp_path):
    cropped = replace(TAKEN, crop_share=0.5)
    model, whole = (train_new(items, input=one) for one in (cropped, TAKEN))
    assert model.made_by["crop_share"] == 0.5
    model.save(tmp_path / "model")
    again = EmbeddingModel.load(tmp_path / "model")
    assert (again.input, again.space) == (cropped, model.space)
    np.testing.assert_array_equal(again.embed(items).vectors, model.embed(items).vectors)
    assert ", 0.5 of the shorter side" in (tmp_path / "model" / "README.md").read_text()
    assert "crop_share" not in whole.made_by


def test_preparation_without_augmentation_is_what_embedding_does(items):
    pixels, _ = ImageBatches(items, TAKEN, image_bytes=1 << 20).read(np.arange(4))
    expected = TAKEN.normalise(pixels.numpy())
    np.testing.assert_allclose(Preparation(TAKEN, None)(pixels).numpy(), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("train", [train_new, train_side], ids=["supervised", "simclr"])
def test_training_in_bfloat16_gives_float32_weights_that_differ_and_repeat(items, train):
    run = RunSettings(device="cpu", precision="bf16-mixed")
    first, second, plain = train(items, run=run), train(items, run=run), train(items)
    assert first.space == second.space != plain.space
    assert {array.dtype.name for array in first.engine.content()[0].values()} == {
        "float32",
        "int64",
    }


# --- SimCLR ---


def nt_xent_by_loops(views, temperature):
    unit = views / np.linalg.norm(views, axis=1, keepdims=True)
    total, half = 0.0, len(views) // 2
    for i in range(len(views)):
        partner = (i + half) % len(views)
        others = [np.exp(unit[i] @ unit[k] / temperature) for k in range(len(views)) if k != i]
        total -= np.log(np.exp(unit[i] @ unit[partner] / temperature) / sum(others))
    return total / len(views)


def test_nt_xent_equals_naive_loops_and_the_librarys_triplet_form():
    views = torch.from_numpy(np.random.default_rng(2).normal(size=(10, 4)).astype(np.float32))
    loss = contrastive_loss(views, 0.3).item()
    assert loss == pytest.approx(nt_xent_by_loops(views.numpy().astype(np.float64), 0.3), rel=1e-5)
    image = torch.arange(5).repeat(2)
    assert loss == pytest.approx(NTXentLoss(temperature=0.3)(views, image).item(), rel=1e-5)


# --- BCT ---


def test_the_old_term_counts_items_of_old_classes_only():
    digits = open_items("digits").of_classes([1, 2, 5])
    input_spec = InputSpec.of_spec(SPEC)
    settings = SETTINGS.model_copy(update={"augment": False})
    new = start(digits, SPEC, input_spec, settings, 0).eval()
    bound = BackwardCompatibleSettings(**settings.model_dump(), weight=2.0)
    both = start(digits, SPEC, input_spec, bound, 0).eval()
    old_classifier = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 8))).float()
    both.hold_to(old_classifier, torch.tensor([1, -1, 0]))
    pixels, classes = ImageBatches(digits, input_spec, image_bytes=1 << 20).read(np.arange(30))
    embeddings = new.backbone(new.preparation(pixels))
    known = np.flatnonzero(np.isin(classes.numpy(), [0, 2]))
    rows = torch.tensor([{0: 1, 2: 0}[int(classes[i])] for i in known])
    expected = new(pixels, classes) + 2.0 * torch.nn.functional.cross_entropy(
        embeddings[known] @ old_classifier.T, rows, label_smoothing=0.1
    )
    torch.testing.assert_close(both(pixels, classes), expected)
    unknown = torch.from_numpy(np.flatnonzero(classes.numpy() == 1))
    torch.testing.assert_close(
        both(pixels[unknown], classes[unknown]), new(pixels[unknown], classes[unknown])
    )


def test_backward_compatible_training_leaves_the_old_classifier_as_it_is(items, old):
    before = old.classifier.copy()
    model = train_bound(items, old)
    np.testing.assert_array_equal(old.classifier, before)
    assert model.classes == tuple(range(10))
    assert model.made_by["old model"]["name"] == old.space.name


@pytest.mark.parametrize(
    ("spec", "classes", "message"),
    [
        (SPEC.model_copy(update={"dim": 16}), range(10), "the old model has 8 .* backbone 16; .*"),
        (SPEC, [7, 8], "knows none of the 2 classes of .*needs items of old classes"),
    ],
    ids=["other-dimension", "no-class-in-common"],
)
def test_an_old_model_that_does_not_fit_is_refused(items, old, spec, classes, message):
    with pytest.raises(ConfigurationError, match=message):
        train_bound(items.of_classes(classes), old, spec=spec)


def test_an_old_model_is_asked_by_the_names_of_its_classes(items, old, started):
    assert old.class_names == {0: "0", 1: "1", 2: "2"}
    turned = replace(items, labels=9 - items.labels, class_names={n: str(9 - n) for n in range(10)})
    train_bound(turned, old)
    assert started[-1].old_position.tolist() == [-1] * 7 + [2, 1, 0]
    words = replace(items, class_names={n: f"digit {n}" for n in range(10)})
    bare = replace(old, class_names=None)
    with pytest.raises(LabelMismatchError, match="the classes of the items have names"):
        train_bound(words, bare)
    train_bound(words, bare, same_labels=True)
    assert started[-1].old_position.tolist() == [0, 1, 2] + [-1] * 7


def test_items_of_unknown_class_are_refused_where_labels_teach(items):
    some = replace(items, labels=np.where(np.arange(len(items)) < 3, -1, items.labels))
    words = r"the class of 3 of 150 items of .* is not known .*items\.select\(items\.labels >= 0\)"
    with pytest.raises(DataError, match=words):
        train_new(some)
    assert train_side(some).classes is None


def test_an_old_model_without_classifier_is_refused(items):
    side = train_side(items)
    with pytest.raises(ConfigurationError, match=r"has no classifier; .*trained on classes"):
        train_bound(items, side)


def mean_of(old, items, label, *, normalised):
    vectors = old.embed(items.of_classes([label])).vectors
    if normalised:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.mean(axis=0)


@pytest.mark.parametrize("normalised", ["nothing", "embeddings"])
def test_class_means_are_rows_for_all_classes_old_ones_too(items, old, started, normalised):
    some = items.of_classes([1, 5, 2, 7])
    fields = {"old_classifier": "class means", "normalised": normalised}
    model = train_bound(some, old, **fields)
    (objective,) = started
    assert objective.old_position.tolist() == [0, 1, 2, 3]
    by_length = normalised == "embeddings"
    for row, label in zip(objective.old_classifier.numpy(), [1, 2, 5, 7], strict=True):
        mean = mean_of(old, some, label, normalised=by_length)
        np.testing.assert_allclose(row, mean, rtol=1e-4, atol=1e-6)
    assert model.made_by["settings"].items() >= {"old_classifier": "class means"}.items()
    assert model.space.metric == ("cosine" if by_length else "l2")
    assert train_bound(some, old).space != model.space


@pytest.mark.parametrize("normalised", ["embeddings", "new classifier"])
def test_what_is_normalised_before_which_classifier(normalised):
    digits = open_items("digits").of_classes([1, 2, 5])
    input_spec = InputSpec.of_spec(SPEC)
    fields = {**BRIEF, "augment": False, "weight": 10.0, "normalised": normalised}
    settings = BackwardCompatibleSettings(**fields)
    objective = start(digits, SPEC, input_spec, settings, 0).eval()
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 8))).float()
    objective.hold_to(rows, torch.arange(3))
    batches = ImageBatches(digits, input_spec, image_bytes=1 << 20)
    pixels, classes = batches.read(np.arange(30), epoch=0)
    embeddings = objective.backbone(objective.preparation(pixels)).detach().numpy()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    def cross_entropy(given, classifier):
        logits = torch.from_numpy(given @ classifier.T)
        return torch.nn.functional.cross_entropy(logits, classes, label_smoothing=0.1)

    own, old = objective.classifier.detach().numpy(), unit
    if normalised == "new classifier":
        own, old = 30 * own / np.linalg.norm(own, axis=1, keepdims=True), embeddings
    expected = cross_entropy(unit, own) + 10 * cross_entropy(old, rows.numpy())
    torch.testing.assert_close(objective(pixels, classes), expected, rtol=1e-4, atol=1e-5)


def test_the_classifier_of_cosines_serves_on_embeddings_as_they_are(items, old):
    model = train_bound(items, old, normalised="new classifier")
    lengths = np.linalg.norm(model.classifier, axis=1)
    mean_length = np.linalg.norm(model.embed(items).vectors, axis=1).mean()
    np.testing.assert_allclose(lengths * mean_length, 30, rtol=1e-4)


def test_class_means_need_neither_a_classifier_nor_a_class_in_common(items, old):
    bare = replace(old, classifier=None, classes=None, class_names=None)
    model = train_bound(items.of_classes([7, 8]), bare, old_classifier="class means")
    assert model.classes == (7, 8)


def test_a_backward_compatible_model_may_start_from_the_old_one(items, old, started):
    fields = {"start": "old model", "lr": 1e-12, "running_statistics_from": 0.0, "augment": False}
    train_bound(items, old, **fields)
    weights, _ = old.engine.content()
    for name, array in started[-1].backbone.state_dict().items():
        np.testing.assert_allclose(array.numpy(), weights[name], rtol=1e-4, atol=1e-5)
    wider = SPEC.model_copy(update={"width": 2 * SPEC.width})
    words = "start is 'old model', whose network is .*give both the same network, or start ="
    with pytest.raises(ConfigurationError, match=words):
        train_bound(items, old, spec=wider, start="old model")


def test_a_margin_loss_is_not_normalised_again():
    with pytest.raises(ValueError, match="for the loss softmax: arcface looks at directions alone"):
        BackwardCompatibleSettings(loss="arcface", normalised="embeddings")


def test_plain_settings_say_nothing_of_the_variants():
    assert "start" not in BackwardCompatibleSettings().model_dump()
    assert BackwardCompatibleSettings(start="old model").model_dump()["start"] == "old model"


def test_a_margin_loss_holds_the_new_model_to_the_old_rows_directions(items):
    old = train_new(
        items.of_classes([0, 1, 2]),
        name="old",
        settings=TrainingSettings(**BRIEF, loss="arcface"),
    )
    model = train_bound(items, old, loss="arcface", old_classifier="class means")
    assert model.space.metric == "cosine"
    lengths = np.linalg.norm(model.classifier, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
    mean_length = np.linalg.norm(model.embed(items).vectors, axis=1).mean()
    assert lengths[0] * mean_length == pytest.approx(64, rel=1e-4)


@pytest.mark.parametrize(
    ("of_old", "of_new", "message"),
    [
        ("softmax", "arcface", "learned by the loss softmax, .*by arcface, .*give loss = softmax"),
        ("cosface", "softmax", "learned by the loss cosface, .*by softmax, .*give loss = cosface"),
        ("softmax", "supcon", "supcon has no classifier, .*old model's loss, which is softmax"),
    ],
)
def test_a_loss_that_does_not_fit_the_old_classifier_is_refused(items, of_old, of_new, message):
    old = train_new(
        items.of_classes([0, 1]), settings=TrainingSettings(**BRIEF, loss=of_old), name="old"
    )
    with pytest.raises(ConfigurationError, match=message):
        train_bound(items, old, loss=of_new)


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
def test_a_trained_autoencoder_draws_images_better_than_their_mean(items, monkeypatch):
    trained = []

    class Watched(Autoencoder):
        def __init__(self, *given):
            super().__init__(*given)
            trained.append(self)

    monkeypatch.setattr("onward.experiments.baselines.Autoencoder", Watched)
    settings = AutoencoderSettings(epochs=40, batch_size=32, width=8, augment=False, lr=3e-3)
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
    expected = expected + 0.7 * contrastive_loss(views, 0.3)
    twice = pixels.repeat(2, 1, 1, 1)
    torch.testing.assert_close(objective(twice, classes), expected, rtol=1e-4, atol=1e-5)


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
