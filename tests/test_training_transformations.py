from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from test_training_loop import Stopped, stop_after

from onward.errors import DataError, SpaceMismatchError, TransformationError
from onward.evaluation.comparison import evaluate_embeddings
from onward.spaces import Embeddings, Space
from onward.training.fit import fit as fit_module
from onward.training.fit import networks as networks_module
from onward.training.fit.closed_forms import solve_ridge
from onward.training.fit.fit import fit as fit_and_choose
from onward.training.fit.networks import Scaling, fit_networks
from onward.training.fit.pairs import Examples, Pairs
from onward.training.loop import forget_checkpoint
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import Transformation

OLD, SIDE, NEW = Space("old@1", 6), Space("side@1", 5), Space("new@1", 8)
CPU = RunSettings(device="cpu")
QUICK = FitSettings(method="mlp", epochs=20, batch_size=64, inner=32, least_steps=0)
RNG = np.random.default_rng(0)


def rows(space, vectors, ids=None, labels=None):
    ids = tuple(f"i{n:03}" for n in range(len(vectors))) if ids is None else ids
    return Embeddings(ids, np.asarray(vectors, np.float32), space, labels)


def fit(*given, **more):
    """Return the transformation alone."""
    return fit_and_choose(*given, **more).transformation


def world(items=400, classes=20, seed=0):
    """Items of some classes in 9 dimensions: old sees 4 of them, side the rest, new all mixed."""
    rng = np.random.default_rng(seed)
    labels = np.arange(items) % classes
    whole = np.random.default_rng(5).normal(size=(classes, 9))[labels]
    whole = whole + 0.3 * rng.normal(size=whole.shape)
    old = np.concatenate([whole[:, :4], rng.normal(size=(items, 2))], axis=1)
    new = np.tanh(whole @ np.random.default_rng(6).normal(size=(9, 8)) / 2)
    return tuple(
        rows(space, vectors, labels=labels)
        for space, vectors in ((OLD, old), (SIDE, whole[:, 4:]), (NEW, new))
    )


def error(transformation, old, side, new):
    return float(np.mean((transformation.apply(old, side).vectors - new.vectors) ** 2))


# --- ridge ---


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0])
def test_ridge_is_scikit_learns(penalty):
    old, side, new = world()
    h = solve_ridge(Examples.of(Pairs(old, side, new)))({"penalty": penalty})
    x = np.concatenate([old.vectors, side.vectors], axis=1).astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    expected = Ridge(penalty * len(x)).fit(x, new.vectors).predict(x)
    np.testing.assert_allclose(h.apply(old, side).vectors, expected, atol=1e-4)


def test_an_input_that_never_changes_does_no_harm():
    old, side, new = world()
    constant = side.vectors.copy()
    constant[:, 0] = 3.0
    h = fit(old, rows(SIDE, constant), new, settings=FitSettings(method="ridge"), run=CPU)
    assert np.isfinite(h.apply(old, rows(SIDE, constant)).vectors).all()


# --- what ridge is compared with ---


def settings_for(method, **changes):
    return QUICK.model_copy(update={"method": method, **changes})


def rotation(dim, seed=3):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]


def test_procrustes_uses_no_side_information_and_refuses_it():
    with pytest.raises(
        TransformationError,
        match=r"'procrustes' uses no side-information, .* side@1 .*leave it out",
    ):
        fit(*world(), settings=settings_for("procrustes"), run=CPU)


@pytest.mark.parametrize("into", [OLD, Space("new@1", 3), Space("new@1", 9)])
def test_no_orthogonal_map_comes_nearer_than_procrustes(into):
    """Rotations near the one that was found, in the larger of both spaces, filled up with zeros."""
    _, side, _ = world()
    rng = np.random.default_rng(4)
    target = np.tanh(side.vectors @ rng.normal(size=(5, into.dim)) + rng.normal(size=into.dim))
    new = rows(into, target)
    weight = (
        fit(side, None, new, settings=settings_for("procrustes"), run=CPU)
        .steps[0]
        .parts[0]
        .mixer[0]
    )
    dim = max(5, into.dim)
    x, y = np.zeros((400, dim)), np.zeros((400, dim))
    x[:, :5] = side.vectors - side.vectors.mean(axis=0)
    y[:, : into.dim] = target - target.mean(axis=0)
    left, _, right = np.linalg.svd(y.T @ x)
    whole = left @ right
    np.testing.assert_allclose(whole[: into.dim, :5], weight.weight, atol=1e-5)
    best = np.sum((y - x @ whole.T) ** 2)
    for seed in range(20):
        skew = np.random.default_rng(seed).normal(size=(dim, dim)) * 0.05
        near = np.linalg.qr(np.eye(dim) + skew - skew.T)[0]
        assert np.sum((y - x @ (near @ whole).T) ** 2) >= best - 1e-6


@pytest.mark.parametrize("method", ["procrustes", "ridge"])
def test_what_has_a_closed_form_says_how_it_fared_and_is_solved_on_all_pairs(method):
    old, _, _ = world()
    new = rows(Space("new@1", 6), old.vectors @ rotation(6), labels=old.labels)
    h = fit(old, None, new, settings=settings_for(method), run=CPU)
    assert {tried["method"] for tried in h.made_by["tried"]} == {method}
    assert set(h.made_by["references"]) == {"old/old", "new/new"}
    assert (h.made_by["method"], h.made_by["items"]) == (method, 400)
    other = fit(old, None, new, settings=settings_for(method), seed=1, run=CPU)
    if h.made_by.get("penalty") == other.made_by.get("penalty"):
        assert h.digest == other.digest


@pytest.mark.parametrize(
    ("method", "most"),
    [("ridge", 1), ("procrustes", 1), ("mlp", 1.2)],  # over five seeds a network has 0.91 to 1.02
)
def test_fitted_the_other_way_round_it_brings_new_queries_to_the_old_gallery(method, most):
    (old, _, new), (gallery, _, queries) = world(), world(seed=1)
    h = fit(new, None, old, settings=settings_for(method, epochs=8, lr=5e-3), run=CPU)
    assert (h.old, h.new) == (NEW, OLD)
    brought = evaluate_embeddings(h.apply(queries), gallery, exclude_self=True)
    old_old = evaluate_embeddings(gallery, gallery, exclude_self=True)
    assert 0.6 * old_old.map < brought.map < most * old_old.map
    with pytest.raises(SpaceMismatchError, match="wrong way round"):
        h.apply(gallery)


# --- the network ---


@pytest.mark.slow
def test_the_network_learns_what_side_information_adds():
    train, test = world(), world(seed=1)
    settings = QUICK.model_copy(update={"epochs": 60})
    with_side = fit(*train, settings=settings, run=CPU)
    without = fit(train[0], None, train[2], settings=settings, run=CPU)
    assert error(with_side, *test) < 0.7 * error(without, test[0], None, test[2])
    assert (with_side.side, without.side) == (SIDE, None)


def test_the_new_embedding_as_side_information_gives_the_new_embedding_back():
    old, _, new = world()
    oracle = rows(Space("oracle@1", 8), new.vectors)
    settings = FitSettings(method="ridge", ridge_penalties=(1e-7,))
    h = fit(old, oracle, new, settings=settings, run=CPU)
    np.testing.assert_allclose(h.apply(old, oracle).vectors, new.vectors, atol=1e-4)


@pytest.mark.slow
def test_without_side_information_the_network_is_as_large_as_with():
    old, side, new = world()
    same = rows(SIDE, side.vectors)
    with_side = fit(old, same, new, settings=QUICK, run=CPU)
    without = fit(old, None, new, settings=QUICK, run=CPU)
    wide = fit(old, rows(Space("s", 6), old.vectors), new, settings=QUICK, run=CPU)
    assert without.parameters == wide.parameters >= with_side.parameters


@pytest.mark.slow
def test_what_is_saved_is_what_the_network_computes_in_eval_mode(monkeypatch):
    networks = []
    built = networks_module.FCTTransformation

    def keep(*args):
        networks.append(built(*args))
        return networks[-1]

    monkeypatch.setattr(networks_module, "FCTTransformation", keep)
    old, side, new = world()
    h = fit(old, side, new, settings=QUICK, run=CPU)
    with torch.no_grad():
        raw = networks[0](torch.tensor(old.vectors), torch.tensor(side.vectors)).numpy()
    middle = new.vectors.mean(axis=0)
    expected = raw * (new.vectors - middle).std() + middle
    np.testing.assert_allclose(h.apply(old, side).vectors, expected, atol=1e-5)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_transformation_and_another_seed_another():
    given, settings = world(), settings_for("mlp", epochs=4)
    first = fit(*given, settings=settings, run=CPU)
    torch.rand(3)
    assert fit(*given, settings=settings, run=CPU).digest == first.digest
    assert fit(*given, settings=settings, seed=1, run=CPU).digest != first.digest


@pytest.mark.slow
@pytest.mark.parametrize(("with_side", "networks"), [(True, 1), (False, 1), (True, 2)])
def test_an_ensemble_is_the_mean_of_the_networks_mean_and_ridge(with_side, networks, tmp_path):
    old, side, new = world()
    side = side if with_side else None
    parts = [fit(old, side, new, settings=settings_for("mlp", networks=networks), run=CPU)]
    h = fit(old, side, new, settings=settings_for("ensemble", networks=networks), run=CPU)
    assert (h.made_by["method"], h.made_by.get("networks", 1)) == ("ensemble", networks)
    one_penalty = settings_for("ridge", ridge_penalties=(h.made_by["penalty"],))
    parts.append(fit(old, side, new, settings=one_penalty, run=CPU))
    mean = sum(part.apply(old, side).vectors for part in parts) / 2
    np.testing.assert_allclose(h.apply(old, side).vectors, mean, atol=1e-4)
    h.save(tmp_path / "h")
    loaded = Transformation.load(tmp_path / "h").apply(old, side).vectors
    np.testing.assert_array_equal(loaded, h.apply(old, side).vectors)


@pytest.mark.slow
@pytest.mark.parametrize("with_side", [True, False], ids=["side", "no-side"])
def test_several_networks_give_their_mean(with_side, monkeypatch, tmp_path):
    learned, built = [], networks_module._fit_network

    def keep(*given, **rest):
        learned.append(built(*given, **rest))
        return learned[-1]

    monkeypatch.setattr(networks_module, "_fit_network", keep)
    old, side, new = world()
    side = side if with_side else None
    h = fit(old, side, new, settings=settings_for("mlp", networks=3), run=CPU)
    parts = [network.apply(old, side).vectors for network in learned]
    np.testing.assert_allclose(h.apply(old, side).vectors, np.mean(parts, axis=0), atol=1e-5)
    alone = fit(old, side, new, settings=settings_for("mlp"), run=CPU)
    first, second, third = (network.digest for network in learned[:3])
    assert first == alone.digest
    assert len({first, second, third}) == 3
    h.save(tmp_path / "h")
    loaded = Transformation.load(tmp_path / "h").apply(old, side).vectors
    np.testing.assert_array_equal(loaded, h.apply(old, side).vectors)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "networks"), [("ensemble", 1), ("ensemble", 2), ("mlp", 2)])
def test_a_sum_of_maps_says_how_unsure_it_is(method, networks):
    old, side, new = world()
    settings = settings_for(method, networks=networks, uncertainty=True)
    h = fit(old, side, new, settings=settings, run=CPU)
    assert h.uncertainties(old, side).shape == (len(old),)


@pytest.mark.slow
def test_several_networks_that_were_stopped_go_on_to_the_same_transformation(tmp_path):
    told = []

    def stop(done, steps):
        told.append((done, steps))
        stop_after(190)(done, steps)

    keep = {"device": "cpu", "checkpoint": tmp_path / "c.safetensors", "checkpoint_seconds": 0.0}
    given, settings = world(), settings_for("mlp", networks=2)
    with pytest.raises(Stopped):
        fit(*given, settings=settings, run=RunSettings(progress=stop, **keep))
    assert told[-1] == (190, 280)  # 7 batches an epoch, 20 epochs, 2 networks
    again = []
    run = RunSettings(progress=lambda done, _: again.append(done), **keep)
    resumed = fit(*given, settings=settings, run=run)
    assert again[0] == 191
    assert resumed.digest == fit(*given, settings=settings, run=CPU).digest
    at_once = []
    run = RunSettings(progress=lambda done, _: at_once.append(done), **keep)
    assert fit(*given, settings=settings, run=run).digest == resumed.digest
    assert set(at_once) <= {140, 280}
    forget_checkpoint(keep["checkpoint"])
    assert list(tmp_path.iterdir()) == []


def test_a_few_pairs_are_seen_for_at_least_so_many_steps():
    steps = []
    run = RunSettings(device="cpu", progress=lambda done, total: steps.append(total))
    fit(*world(60), settings=QUICK.model_copy(update={"least_steps": 50}), run=run)
    assert steps[-1] == 50
    fit(*world(60), settings=QUICK, run=run)
    assert steps[-1] == 20


# --- choosing ---


def test_without_labels_a_query_should_find_what_it_finds_in_a_full_backfill():
    old, side, new = (rows(e.space, e.vectors) for e in world())
    h = fit(old, side, new, settings=FitSettings(method="ridge"), run=CPU)
    assert h.made_by["judged_by"] == "agreement"
    references = h.made_by["references"]
    assert references["old/old"]["agreement"] < h.made_by["tried"][0]["agreement"] < 1
    assert references["new/new"] == {"agreement": 1.0}


def test_vectors_of_inner_products_are_learned_with_their_lengths():
    space, (old, side, _) = Space("dot@1", 8, "ip"), (rows(e.space, e.vectors) for e in world())
    weight = np.random.default_rng(3).normal(size=(8, 11))
    whole = np.concatenate([old.vectors, side.vectors], axis=1)
    new = rows(space, (whole @ weight.T) ** 3)
    pairs = Pairs(old, side, new)
    np.testing.assert_array_equal(pairs.targets, new.vectors)
    assert pairs.length == 1
    h = fit(old, side, new, settings=FitSettings(method="ridge"), run=CPU)
    assert error(h, old, side, new) < np.mean(new.vectors**2)


# --- a gallery sample ---


def far_gallery(items, seed=7):
    """Items that the training pairs say little of: the same spaces, another map between them."""
    rng = np.random.default_rng(seed)
    old = rng.normal(size=(items, 6)) + 2
    turn = np.random.default_rng(8).normal(size=(6, 8))
    ids = tuple(f"g{seed}-{n:03}" for n in range(items))
    return rows(OLD, old, ids), rows(NEW, np.tanh(old @ turn / 4), ids)


def sampled(items=80):
    old, new = far_gallery(items)
    return Pairs(old, None, new)


def test_what_the_method_is_chosen_on_is_the_sample():
    old, _, new = world()
    settings = FitSettings(method="ridge")
    h = fit(old, None, new, sample=sampled(), settings=settings, run=CPU)
    assert (h.made_by["judged_by"], h.made_by["items"]) == ("agreement", 80)
    assert h.made_by["sample"]["items"] == 80
    assert h.made_by["pairs"] == fit(old, None, new, settings=settings, run=CPU).made_by["pairs"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ridge", "mlp"])
def test_a_sample_lowers_the_error_on_the_rest_of_its_gallery(method):
    old, _, new = world()
    rest = far_gallery(200, seed=9)
    settings = settings_for(method, lr=5e-3)
    without = fit(old, None, new, settings=settings, run=CPU)
    with_sample = fit(old, None, new, sample=sampled(), settings=settings, run=CPU)
    assert error(with_sample, rest[0], None, rest[1]) < 0.7 * error(without, rest[0], None, rest[1])


def test_weighting_a_sample_is_showing_it_several_times():
    """80 items that weigh as much as 400 are 80 items that stand there five times."""
    old, _, new = world()
    sample = sampled()
    examples = Examples.of(Pairs(old, None, new), sample=sample, sample_weight=0.5)
    assert examples.weights.mean() == pytest.approx(1)
    assert examples.weights[400:].sum() == pytest.approx(240)
    h = solve_ridge(examples)({"penalty": 0.1})
    five = [
        np.concatenate([part.vectors] + 5 * [more.vectors])
        for part, more in ((old, sample.old), (new, sample.new))
    ]
    x, y = (array.astype(np.float64) for array in five)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    expected = Ridge(0.1 * len(x)).fit(x, y).predict(x)
    both = rows(OLD, five[0])
    np.testing.assert_allclose(h.apply(both).vectors, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("training", "items", "share"), [(400, 20, 200 / 600), (400, 80, 0.5), (40, 80, 80 / 120)]
)
def test_an_item_of_a_sample_counts_as_ten_up_to_half_of_the_weight(training, items, share):
    old, _, new = world(training)
    pairs = Pairs(with_views(old, 2), None, with_views(new, 2))
    examples = Examples.of(pairs, sample=sampled(items))
    assert examples.weights[2 * training :].sum() / examples.weights.sum() == pytest.approx(share)


@pytest.mark.parametrize(
    ("items", "weight", "shown"),
    [(80, 0.5, (400, 5 * 80)), (80, 0.05, (4 * 400, 80)), (3, 0.999, (400, 100 * 3))],
)
def test_a_network_meets_a_heavy_sample_more_often_but_none_more_than_a_hundred_times(
    items, weight, shown
):
    pairs = Pairs(world()[0], None, world()[2])
    examples = Examples.of(pairs, sample=sampled(items), sample_weight=weight)
    batches = networks_module._ExampleBatches(examples, Scaling.of(examples), None)
    assert len(batches) == sum(shown)
    *_, weights = batches.read(np.arange(len(batches)), epoch=0)
    of_sample, total = float(weights[-shown[1] :].double().sum()), float(weights.double().sum())
    assert of_sample == pytest.approx(weight * total, rel=1e-3)


@pytest.mark.slow
def test_a_sample_too_small_to_judge_by_is_learned_from():
    old, side, new = world()
    few = world(items=3, seed=9)
    sample = Pairs(*(replace(each, ids=("s0", "s1", "s2")) for each in few))
    without = fit(old, side, new, settings=settings_for("auto"), run=CPU)
    h = fit(old, side, new, sample=sample, settings=settings_for("auto"), run=CPU)
    assert (h.made_by["judged_by"], h.made_by["items"]) == ("label", 400)
    assert h.digest != without.digest


def test_a_network_that_is_kept_learns_from_all_of_the_sample(monkeypatch, tmp_path):
    seen = []

    def keep(examples, settings, **rest):
        seen.append((len(examples), rest["run"].checkpoint))
        return fit_networks(examples, settings, **rest)

    monkeypatch.setattr(networks_module, "fit_networks", keep)
    monkeypatch.setattr(fit_module, "choose_method", lambda trials, _: (trials[1], "it was told"))
    old, _, new = world()
    settings = settings_for("auto", epochs=1, ridge_penalties=(1e-3,))
    run = RunSettings(device="cpu", checkpoint=tmp_path / "c")
    h = fit(old, None, new, sample=sampled(), settings=settings, run=run)
    assert h.made_by["method"] == "mlp"
    trials = [(size, place.name) for size, place in seen[:3]]
    assert trials == [(453, "c.trial-0"), (453, "c.trial-1"), (454, "c.trial-2")]
    assert seen[3] == (480, tmp_path / "c")
    serving = seen[4:]  # of a sample without labels the pairs say what to serve
    assert [place.name for _, place in serving] == ["c.serving-0", "c.serving-1", "c.serving-2"]
    assert sum(480 - size for size, _ in serving) == 400  # each pair once, of the sample nothing
    assert [each.name for each in tmp_path.iterdir()] == ["c"]


def test_a_sample_of_other_spaces_is_refused():
    old, side, new = world()
    with pytest.raises(
        SpaceMismatchError, match=r"side-information .* in side@1 .* sample are not given; .* same"
    ):
        fit(old, side, new, sample=sampled(), run=CPU)


# --- pairs ---


def with_views(embeddings, views):
    ids = tuple(f"{item}#{view}" for view in range(views) for item in embeddings.ids)
    vectors = np.concatenate([embeddings.vectors + 0.01 * view for view in range(views)])
    return rows(embeddings.space, vectors, ids, np.tile(embeddings.labels, views))


@pytest.mark.parametrize(
    "ids",
    [
        [f"shard#{n}" for n in range(30)],
        [f"i{n}" for n in range(29)] + ["i#0"],
        [f"i{n}#0" for n in range(15)]
        + [f"i{n}#1" for n in range(5)]
        + [f"j{n}#2" for n in range(10)],
    ],
    ids=["one-name", "not-all", "not-the-same-views"],
)
def test_ids_that_only_look_like_views_are_items(ids):
    old, _, new = world(30)
    ids = tuple(ids)
    pairs = Pairs(rows(OLD, old.vectors, ids), None, rows(NEW, new.vectors, ids))
    assert pairs.items == 30


BACKWARDS = np.arange(40)[::-1]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            lambda old, side, new: (old, side, new.select(BACKWARDS[1:])),
            TransformationError,
            "40 old embeddings and 39 new .*in one order",
        ),
        (
            lambda old, side, new: (old, side.select(BACKWARDS[1:]), new),
            TransformationError,
            "40 old embeddings and 39 side-information",
        ),
        (
            lambda old, side, new: (old, side, new.select(BACKWARDS)),
            TransformationError,
            r"row 0 is item 'i000' .* 'i039' .*by align\(old\.ids\)",
        ),
        (
            lambda old, side, new: (old, side, replace(new, ids=("other", *new.ids[1:]))),
            TransformationError,
            "'i000' in the old .*'other' in the new .*not the",
        ),
        (
            lambda old, side, new: (old, None, old),
            TransformationError,
            "both in old@1 .*nothing to fit",
        ),
        (
            lambda *given: [each.select(np.arange(19)) for each in given],
            DataError,
            "there are 19 items .* at least 20",
        ),
        (
            lambda *given: [with_views(each.select(np.arange(10)), 4) for each in given],
            DataError,
            "there are 10 items .* in 40 pairs",
        ),
    ],
)
def test_pairs_that_are_none_or_too_few_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        fit(*change(*world(40)), run=CPU)
