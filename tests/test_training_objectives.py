from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from onward.errors import (
    ConfigurationError,
    LabelMismatchError,
    ModelError,
    SpaceMismatchError,
)
from onward.evaluation.comparison import evaluate_embeddings
from onward.models import EmbeddingModel, InputSpec
from onward.spaces import Embeddings, Space
from onward.training.fit.fit import fit as fit_and_choose
from onward.training.fit.networks import FCTTransformation, Fitting, Scaling
from onward.training.fit.pairs import Classifier, Examples, Pairs
from onward.training.settings import FitSettings, RunSettings

OLD, SIDE, NEW = Space("old@1", 6), Space("side@1", 3), Space("new@1", 8)
CPU = RunSettings(device="cpu")
QUICK = FitSettings(method="mlp", epochs=40, batch_size=64, inner=32, least_steps=0, lr=3e-3)
CENTRES = np.random.default_rng(5).normal(size=(20, 9))
TO_NEW = np.random.default_rng(6).normal(size=(9, 8))


def fit(*given, **more):
    """Return the transformation alone."""
    return fit_and_choose(*given, **more).transformation


def world(items=400, seed=0, space=NEW, labelled=True):
    """Items of 20 classes; old and side each see a part of them, new sees all of it, mixed."""
    rng = np.random.default_rng(seed)
    labels = np.arange(items) % len(CENTRES)
    whole = CENTRES[labels] + 0.8 * rng.normal(size=(items, 9))
    new = np.tanh(whole @ TO_NEW / 2)
    old = np.concatenate([whole[:, :4], rng.normal(size=(items, 2))], axis=1)
    ids = tuple(f"{seed}-{n:03}" for n in range(items))
    return tuple(
        Embeddings(ids, vectors.astype(np.float32), where, labels if labelled else None)
        for where, vectors in ((OLD, old), (SIDE, whole[:, 4:7]), (space, new))
    )


def classifier(space=NEW, classes=range(20)):
    """Rows are the classes' centres: the new vector's product with its own is large."""
    weight = 2 * np.tanh(CENTRES @ TO_NEW / 2).astype(np.float32)
    return Classifier(weight[list(classes)], tuple(classes), space)


def changed(**changes):
    return QUICK.model_copy(update=changes)


def fitting(settings, given=None, scaling=None):
    examples = Examples.of(Pairs(*world()))
    scaling = scaling or Scaling.of(examples)
    return Fitting(FCTTransformation(6, 3, 8, 16), scaling, settings, given), scaling


def batch(scaling, items=12, seed=1):
    """Standardised outputs and targets, and what they are outside."""
    rng = np.random.default_rng(seed)
    pair = [torch.tensor(rng.normal(size=(items, 8)).astype(np.float32)) for _ in range(2)]
    return pair, [scaling.mean + scaling.std * each.double().numpy() for each in pair]


# --- worked out apart ---


@pytest.mark.parametrize("objective", ["mse", "l1", "cosine"])
def test_the_distance_is_numpy_s(objective):
    learner, scaling = fitting(changed(objective=objective))
    (given, wanted), (z, y) = batch(scaling)
    expected = {
        "mse": (((z - y) / scaling.std) ** 2).mean(axis=1),
        "l1": np.abs((z - y) / scaling.std).mean(axis=1),
        "cosine": 1 - (z * y).sum(1) / np.linalg.norm(z, axis=1) / np.linalg.norm(y, axis=1),
    }[objective]
    losses = learner.per_item(given, wanted, torch.full((12,), -1))
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-4)


def test_the_discriminative_part_is_a_smoothed_cross_entropy_of_whole_vectors():
    settings = changed(discriminative="classifier", discriminative_weight=3.0, label_smoothing=0.2)
    learner, scaling = fitting(settings, classifier())
    plain, _ = fitting(QUICK)
    (given, wanted), (z, _) = batch(scaling)
    classes = np.array([0, 4, -1, 19, 3, 3, -1, 7, 8, 9, 10, 11])
    logits = z @ classifier().weight.T
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    smoothed = 0.8 * np.eye(20)[classes] + 0.2 / 20
    expected = np.where(classes < 0, 0, -3 * (smoothed * logs).sum(axis=1))
    chosen = torch.from_numpy(classes)
    added = learner.per_item(given, wanted, chosen) - plain.per_item(given, wanted, chosen)
    np.testing.assert_allclose(added.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_weighted_mean_over_items():
    learner, scaling = fitting(QUICK)
    learner.eval().requires_grad_(requires_grad=False)
    old, side, new = world(12)
    given = [torch.from_numpy(e.vectors.copy()) for e in (old, side)]
    wanted = torch.from_numpy(scaling.standardise(new.vectors))
    weights, none = torch.linspace(0, 2, 12), torch.full((12,), -1)
    losses = learner.per_item(learner.network(*given), wanted, none)
    expected = float((weights * losses).sum() / 12)
    assert float(learner(*given, wanted, none, weights)) == pytest.approx(expected, rel=1e-5)


def test_a_classifier_meets_unit_vectors_at_the_length_that_it_knows():
    cosine = Space("new@1", 8, "cosine")
    pairs = Pairs(*world(space=cosine))
    long = Embeddings(pairs.new.ids, 7 * pairs.new.vectors, cosine)
    scaling = Scaling.of(Examples.of(Pairs(pairs.old, None, long)))
    assert scaling.length == pytest.approx(np.linalg.norm(long.vectors, axis=1).mean(), rel=1e-5)
    learner, _ = fitting(changed(discriminative="classifier"), classifier(cosine), scaling)
    expected = scaling.length * classifier().weight
    np.testing.assert_allclose(learner.classes.numpy(), expected, rtol=1e-5)


# --- what it does ---


@pytest.mark.slow
def test_the_classifier_s_part_lifts_map():
    train, gallery = world(), world(seed=1)
    maps = []
    for part in ("none", "classifier"):
        settings = changed(discriminative=part)
        h = fit(*train, classifier=classifier(), settings=settings, run=CPU)
        upgraded = h.apply(*gallery[:2])
        maps.append(evaluate_embeddings(gallery[2], upgraded, exclude_self=True).map)
    assert maps[1] > maps[0] + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["l1", "cosine"])
def test_a_network_learns_by_every_objective(objective):
    train = world()
    h = fit(*train, settings=changed(objective=objective, epochs=20), run=CPU)
    z, y = h.apply(*train[:2]).vectors, train[2].vectors
    cosines = (z * y).sum(1) / np.linalg.norm(z, axis=1) / np.linalg.norm(y, axis=1)
    assert cosines.mean() > 0.8
    assert h.made_by["settings"]["objective"] == objective


def test_what_the_classifier_does_not_know_is_learned_without_it():
    half = classifier(classes=range(10))
    np.testing.assert_array_equal(half.rows_of(np.array([3, 12, 9, -1])), [3, -1, 9, -1])
    turned = classifier(classes=[7, 2, 5])
    np.testing.assert_array_equal(turned.rows_of(np.array([5, 7, 6, 8])), [2, 0, -1, -1])
    settings = changed(discriminative="classifier", epochs=2)
    h = fit(*world(), classifier=half, settings=settings, run=CPU)
    assert np.isfinite(h.apply(*world()[:2]).vectors).all()


def test_a_model_s_classifier_is_known_with_its_space():
    input_spec = InputSpec(8, 1, (0.5,), (0.5,))
    model = EmbeddingModel.from_callable(lambda _: None, name="new@1", dim=8, input=input_spec)
    with pytest.raises(ConfigurationError, match=r"new@1 has no classifier; .* or no classifier"):
        Classifier.of(model)
    given = classifier()
    able = EmbeddingModel(model.space, input_spec, model.engine, given.classes, given.weight)
    assert Classifier.of(able).space == NEW
    np.testing.assert_array_equal(Classifier.of(able).weight, given.weight)


# --- uncertainty ---


def test_weighed_by_the_variance_the_discriminative_part_makes_fastfill_s_whole_loss():
    """mean of exp(-s) / 2 * (L_sim + L_disc) + s / 2, nothing standardised."""
    _, scaling = fitting(QUICK)
    weight = 1 / scaling.std**2
    chosen = changed(uncertainty=True, discriminative="classifier", discriminative_weight=weight)
    learner, _ = fitting(chosen, classifier())
    learner.eval().requires_grad_(requires_grad=False)
    learner.unsure.weight.copy_(torch.linspace(-1, 1, 8)[None])
    old, side, new = world(12)
    given = [torch.from_numpy(e.vectors.copy()) for e in (old, side)]
    vectors = learner.network(*given).double().numpy()
    z = scaling.mean + scaling.std * vectors
    logits = z @ classifier().weight.T
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    smoothed = 0.9 * np.eye(20)[new.labels] + 0.1 / 20
    both = ((z - new.vectors) ** 2).mean(axis=1) - (smoothed * logs).sum(axis=1)
    s = vectors @ np.linspace(-1, 1, 8) + 2 * np.log(scaling.std)  # of losses in other units
    expected = np.mean(0.5 * np.exp(-s) * both + 0.5 * s)
    wanted = torch.from_numpy(scaling.standardise(new.vectors))
    classes = torch.from_numpy(new.labels.copy())
    found = float(learner(*given, wanted, classes, torch.ones(12)))
    assert found == pytest.approx(expected - np.log(scaling.std), rel=1e-4)


def uneven(items=600, seed=0):
    """Items whose first old dimension says how much of the new vector is chance."""
    rng = np.random.default_rng(seed)
    whole = rng.normal(size=(items, 6))
    noise = np.exp(whole[:, :1]) * rng.normal(size=(items, 8))
    new = whole @ np.random.default_rng(3).normal(size=(6, 8)) + noise
    ids = tuple(f"{seed}-{n:03}" for n in range(items))
    old = Embeddings(ids, whole.astype(np.float32), OLD)
    return old, None, Embeddings(ids, new.astype(np.float32), NEW)


def rank_correlation(a, b):
    return np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ridge", "mlp"])
def test_the_uncertain_items_are_those_with_the_large_errors(method):
    h = fit(*uneven(), settings=changed(method=method, uncertainty=True, epochs=60), run=CPU)
    old, _, new = uneven(seed=1)
    carried = h.apply(old).vectors
    errors = np.linalg.norm(carried - new.vectors, axis=1)
    shares = errors / np.linalg.norm(carried - h.uncertainty.middle, axis=1)
    assert rank_correlation(h.uncertainties(old), shares) > (0.6 if method == "ridge" else 0.4)


def test_the_uncertainty_of_a_closed_form_is_where_the_loss_is_least():
    old, _, new = uneven()
    h = fit(old, None, new, settings=changed(method="ridge", uncertainty=True), run=CPU)
    plain = fit(old, None, new, settings=changed(method="ridge"), run=CPU)
    assert plain.uncertainty is None  # for nobody asked
    z = h.apply(old).vectors.astype(np.float64)
    std = Scaling.of(Examples.of(Pairs(old, None, new))).std
    losses = (((z - new.vectors) / std) ** 2).mean(axis=1)
    layer = h.uncertainty.layer
    weight, bias = layer.weight[0].astype(np.float64), float(layer.bias[0])
    np.testing.assert_allclose(h.uncertainty.middle, new.vectors.mean(axis=0), rtol=1e-5)

    def value(weight, bias):
        s = z @ weight + bias
        return np.mean(np.exp(-s) * losses + s)

    least = value(weight, bias)
    for seed in range(20):
        step = 0.02 * np.random.default_rng(seed).normal(size=9)
        assert value(weight + step[:8], bias + step[8]) > least


# --- refused ---


@pytest.mark.parametrize(
    ("given", "labelled", "error", "words"),
    [
        (None, True, ConfigurationError, "no classifier was given; .*=Classifier"),
        (classifier(), False, ConfigurationError, "needs labels, but neither"),
        (classifier(Space("other@1", 8)), True, SpaceMismatchError, "other@1 .* apart, .* new@1"),
        (
            Classifier(classifier().weight[:2], (77, 78), NEW),
            True,
            ConfigurationError,
            r"classes 77, 78, .* labels 0, 1, 2, 3, 4 \.\.\.",
        ),
    ],
)
def test_a_classifier_that_is_needed_and_missing_is_asked_for(given, labelled, error, words):
    settings = changed(discriminative="classifier")
    with pytest.raises(error, match=words):
        fit(*world(labelled=labelled), classifier=given, settings=settings, run=CPU)


def test_a_classifier_has_a_row_for_each_class():
    with pytest.raises(ModelError, match=r"shape \(20, 8\) for 19 classes"):
        Classifier(classifier().weight, tuple(range(19)), NEW)


def named(embeddings, names, order=None):
    """The same items with class names; in another order of the classes, numbered by it."""
    labels = embeddings.labels if order is None else np.argsort(order)[embeddings.labels]
    called = names if order is None else {new: names[old] for new, old in enumerate(order)}
    return replace(embeddings, labels=labels, class_names=called)


def test_a_classifier_goes_by_the_names_of_its_classes():
    settings = changed(discriminative="classifier", epochs=2)
    names = {label: f"class {label}" for label in range(20)}
    order = np.random.default_rng(3).permutation(20).tolist()
    old, side, new = world(items=60)
    known = replace(classifier(), class_names=names)
    plain = fit(old, side, new, classifier=classifier(), settings=settings, run=CPU)
    turned, turned_new = named(old, names, order), named(new, names, order)
    by_name = fit(turned, side, turned_new, classifier=known, settings=settings, run=CPU)
    assert plain.digest == by_name.digest
    with pytest.raises(LabelMismatchError, match="the classes of the items have names"):
        fit(turned, side, turned_new, classifier=classifier(), settings=settings, run=CPU)
    with pytest.raises(LabelMismatchError, match="those of the items have none"):
        fit(old, side, new, classifier=known, settings=settings, run=CPU)
    stated = {"settings": settings, "run": CPU, "same_labels": True}
    assert fit(old, side, new, classifier=known, **stated).digest == plain.digest


def test_a_classifier_that_is_not_used_may_have_other_names():
    settings = changed(method="ridge")
    old, side, new = world(items=60)
    given = replace(classifier(), class_names=dict.fromkeys(range(20), "x") | {0: "y"})
    assert fit(old, side, new, classifier=given, settings=settings, run=CPU).new == NEW


def test_classes_that_the_embeddings_call_otherwise_have_no_row():
    known = replace(classifier(classes=[0, 1]), class_names={0: "cat", 1: "owl"})
    other = known.numbered_as({0: "owl", 1: "dog", 5: "cat"}, same_labels=False)
    assert other.rows_of(np.array([0, 1, 5, -1])).tolist() == [1, -1, 0, -1]
    fewer = known.numbered_as({0: "dog"}, same_labels=False)
    assert fewer.rows_of(np.array([0])).tolist() == [-1]


def test_pairs_take_the_labels_of_those_who_know_more_classes():
    old, side, new = world(items=20)
    partly = replace(old, labels=np.full(20, -1))
    named_new = replace(new, class_names={label: str(label) for label in range(20)})
    pairs = Pairs(partly, side, named_new)
    assert pairs.labels.tolist() == new.labels.tolist()
    assert pairs.class_names == named_new.class_names
    assert Pairs(old, side, named_new).class_names is None


def test_what_is_solved_in_closed_form_has_no_discriminative_part():
    settings = changed(method="ridge", discriminative="classifier")
    with pytest.raises(ConfigurationError, match=r"'classifier', .* is 'ridge'; choose"):
        fit(*world(), classifier=classifier(), settings=settings, run=CPU)


def test_a_sample_weight_is_a_share():
    with pytest.raises(ValidationError, match="less than 1"):
        FitSettings(sample_weight=1.0)
