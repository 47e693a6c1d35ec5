import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from onward.errors import DataError, TransformationError
from onward.nn import transformations as modules
from onward.spaces import Embeddings, Space
from onward.training import transformations
from onward.training.pairs import Pairs, split
from onward.training.ridge import fit_ridge
from onward.training.selection import Judge
from onward.training.settings import FitSettings, RunSettings
from onward.training.transformations import fit
from onward.transformation import linear

OLD, SIDE, NEW = Space("old@1", 6), Space("side@1", 5), Space("new@1", 8)
CPU = RunSettings(device="cpu")
QUICK = FitSettings(method="mlp", epochs=20, batch_items=64, inner=32, least_steps=0)
RNG = np.random.default_rng(0)


def rows(space, vectors, ids=None, labels=None):
    ids = tuple(f"i{n:03}" for n in range(len(vectors))) if ids is None else ids
    return Embeddings(ids, np.asarray(vectors, np.float32), space, labels)


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
    pairs = Pairs(old, side, new)
    ((_, h),) = fit_ridge(pairs, np.arange(400), [penalty])
    x = np.concatenate([old.vectors, side.vectors], axis=1).astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    expected = Ridge(penalty * len(x)).fit(x, new.vectors).predict(x)
    np.testing.assert_allclose(h.apply(old, side).vectors, expected, atol=1e-4)


def test_ridge_finds_a_linear_map_back():
    old, _, _ = world()
    weight, bias = RNG.normal(size=(8, 6)), RNG.normal(size=8)
    new = rows(NEW, old.vectors @ weight.T + bias)
    settings = FitSettings(method="ridge", ridge_penalties=(1e-7,))
    h = fit(old, None, new, settings=settings, run=CPU)
    np.testing.assert_allclose(h.apply(old).vectors, new.vectors, atol=1e-4)
    assert (h.made_by["method"], h.made_by["penalty"]) == ("ridge", 1e-7)


def test_an_input_that_never_changes_does_no_harm():
    old, side, new = world()
    constant = side.vectors.copy()
    constant[:, 0] = 3.0
    h = fit(old, rows(SIDE, constant), new, settings=FitSettings(method="ridge"), run=CPU)
    assert np.isfinite(h.apply(old, rows(SIDE, constant)).vectors).all()


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


def test_without_side_information_the_network_is_as_large_as_with():
    old, side, new = world()
    same = rows(SIDE, side.vectors)
    with_side = fit(old, same, new, settings=QUICK, run=CPU)
    without = fit(old, None, new, settings=QUICK, run=CPU)
    wide = fit(old, rows(Space("s", 6), old.vectors), new, settings=QUICK, run=CPU)
    assert without.parameters == wide.parameters >= with_side.parameters


def test_what_is_saved_is_what_the_network_computes_in_eval_mode(monkeypatch):
    networks = []
    built = modules.FCTTransformation

    def keep(*args):
        networks.append(built(*args))
        return networks[-1]

    monkeypatch.setattr(transformations, "FCTTransformation", keep)
    old, side, new = world()
    h = fit(old, side, new, settings=QUICK, run=CPU)
    with torch.no_grad():
        raw = networks[0](torch.tensor(old.vectors), torch.tensor(side.vectors)).numpy()
    middle = new.vectors.mean(axis=0)
    expected = raw * (new.vectors - middle).std() + middle
    np.testing.assert_allclose(h.apply(old, side).vectors, expected, atol=1e-5)


def test_the_same_seed_gives_the_same_transformation_and_another_seed_another():
    given = world()
    first = fit(*given, settings=QUICK, run=CPU)
    torch.rand(3)
    assert fit(*given, settings=QUICK, run=CPU).digest == first.digest
    assert fit(*given, settings=QUICK, seed=1, run=CPU).digest != first.digest


def test_in_a_cosine_space_only_the_direction_is_fitted():
    old, side, new = world()
    cosine = Space("new@1", 8, "cosine")
    stretched = new.vectors * RNG.uniform(0.1, 10, size=(len(new), 1))
    for method in ("ridge", "mlp"):
        settings = QUICK.model_copy(update={"method": method})
        plain, other = (
            fit(old, side, rows(cosine, vectors), settings=settings, run=CPU)
            for vectors in (new.vectors, stretched)
        )
        np.testing.assert_allclose(
            plain.apply(old, side).vectors, other.apply(old, side).vectors, atol=0.02
        )


def test_a_few_pairs_are_seen_for_at_least_so_many_steps():
    steps = []
    run = RunSettings(device="cpu", progress=lambda done, total: steps.append(total))
    fit(*world(60), settings=QUICK.model_copy(update={"least_steps": 50}), run=run)
    assert steps[-1] == 50
    fit(*world(60), settings=QUICK, run=run)
    assert steps[-1] == 20


# --- choosing ---


def test_auto_keeps_what_retrieves_best_and_says_what_it_tried():
    h = fit(*world(), settings=QUICK.model_copy(update={"method": "auto"}), run=CPU)
    made_by = h.made_by
    assert [tried["method"] for tried in made_by["tried"]] == ["ridge"] * 5 + ["mlp"]
    merits = [(tried["cmc@1"] + tried["map"]) / 2 for tried in made_by["tried"]]
    best = made_by["tried"][int(np.argmax(merits))]
    assert best["method"] == made_by["method"]
    assert (made_by["judged by"], made_by["judged on"]) == ("label", 40)
    assert made_by["references"]["new/new"]["map"] > made_by["references"]["old/old"]["map"]


def test_auto_chooses_by_retrieval_even_where_the_error_says_otherwise(monkeypatch):
    """In a cosine space a network that is right but for its scale errs much and ranks well."""
    old = world()[0]
    cosine = Space("new@1", 6, "cosine")
    new = rows(cosine, old.vectors + 1, labels=old.labels)
    large = linear(OLD, None, cosine, 100 * np.eye(6), np.full(6, 100.0), made_by={})
    flat = fit(
        old, None, new, settings=FitSettings(method="ridge", ridge_penalties=(1e3,)), run=CPU
    )
    assert error(flat, old, None, new) < error(large, old, None, new) / 100
    monkeypatch.setattr(transformations, "_fit_network", lambda *_: large)
    settings = FitSettings(method="auto", ridge_penalties=(1e3,))
    assert fit(old, None, new, settings=settings, run=CPU).made_by["method"] == "mlp"


def test_without_labels_each_held_out_query_looks_for_its_own_item():
    old, side, new = (rows(e.space, e.vectors) for e in world())
    h = fit(old, side, new, settings=FitSettings(method="ridge"), run=CPU)
    assert h.made_by["judged by"] == "identity"
    assert h.made_by["references"] == {}
    assert 0 < h.made_by["tried"][0]["cmc@1"] <= 1


def test_labels_that_no_two_items_share_count_as_identities():
    old, _, new = (rows(e.space, e.vectors, labels=np.arange(len(e))) for e in world())
    assert not Judge.of(Pairs(old, None, new), np.arange(30)).by_label


def test_a_judge_gives_a_perfect_transformation_what_new_new_has():
    old, _, new = world()
    judge = Judge.of(Pairs(old, rows(Space("o", 8), new.vectors), new), np.arange(50))
    side = rows(Space("o", 8), new.vectors)
    h = fit(old, side, new, settings=FitSettings(method="ridge", ridge_penalties=(1e-9,)), run=CPU)
    assert judge.new_old(h).map == pytest.approx(judge.references()["new/new"]["map"], abs=0.01)


# --- pairs ---


def with_views(embeddings, views):
    ids = tuple(f"{item}#{view}" for view in range(views) for item in embeddings.ids)
    vectors = np.concatenate([embeddings.vectors + 0.01 * view for view in range(views)])
    return rows(embeddings.space, vectors, ids, np.tile(embeddings.labels, views))


def test_views_of_an_item_are_never_parted():
    pairs = Pairs(*(with_views(each, 3) for each in world(50)))
    assert pairs.items == 50
    fitted_on, held_out = split(pairs, share=0.2, most=100, seed=0)
    assert len(held_out) == 10
    assert len(fitted_on) == 3 * 40
    names = [item.split("#")[0] for item in pairs.old.ids]
    assert not {names[i] for i in fitted_on} & {names[i] for i in held_out}
    assert all(pairs.old.ids[i].endswith("#0") for i in held_out)


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


def test_how_many_are_held_out_has_bounds():
    pairs = Pairs(*world(100))
    assert len(split(pairs, share=0.01, most=100, seed=0)[1]) == 10
    assert len(split(pairs, share=0.9, most=100, seed=0)[1]) == 50
    assert len(split(pairs, share=0.9, most=7, seed=0)[1]) == 7


def test_another_seed_holds_out_other_items():
    pairs = Pairs(*world(100))
    first, second = (split(pairs, share=0.1, most=99, seed=seed)[1] for seed in (0, 1))
    assert first.tolist() != second.tolist()


def test_too_few_items_are_refused():
    with pytest.raises(DataError, match=r"there are 19 items .* at least 20\. Embed more items"):
        fit(*world(19), run=CPU)


def test_views_do_not_make_up_for_items():
    given = [with_views(each, 4) for each in world(10)]
    with pytest.raises(DataError, match=r"there are 10 items .* in 40 pairs"):
        fit(*given, run=CPU)


def test_another_number_of_embeddings_is_refused():
    old, side, new = world(40)
    with pytest.raises(TransformationError, match=r"40 old embeddings and 39 new .*by \.align"):
        fit(old, side, new.select(np.arange(39)), run=CPU)
    with pytest.raises(TransformationError, match="40 old embeddings and 39 side-information"):
        fit(old, side.select(np.arange(39)), new, run=CPU)


def test_another_order_is_refused_and_the_remedy_named():
    old, side, new = world(40)
    backwards = new.select(np.arange(40)[::-1])
    with pytest.raises(
        TransformationError, match=r"row 0 is item 'i000' .* 'i039' .*give other\.align\(old\.ids\)"
    ):
        fit(old, side, backwards, run=CPU)


def test_other_items_are_refused():
    old, side, new = world(40)
    ids = ("other", *new.ids[1:])
    with pytest.raises(
        TransformationError, match=r"'i000' in the old .*'other' in the new .*not the"
    ):
        fit(old, side, rows(NEW, new.vectors, ids), run=CPU)


def test_one_space_is_refused():
    old, _, _ = world(40)
    with pytest.raises(TransformationError, match=r"both in old@1 .*nothing to fit"):
        fit(old, None, old, run=CPU)


def test_a_fit_that_was_stopped_goes_on_to_the_same_transformation(tmp_path):
    class Stopped(Exception):
        pass

    def stop(done, _):
        if done == 30:
            raise Stopped

    keep = {"device": "cpu", "checkpoint": tmp_path / "c.safetensors", "checkpoint_seconds": 0.0}
    given = world()
    with pytest.raises(Stopped):
        fit(*given, settings=QUICK, run=RunSettings(progress=stop, **keep))
    resumed = fit(*given, settings=QUICK, run=RunSettings(**keep))
    assert resumed.digest == fit(*given, settings=QUICK, run=CPU).digest
