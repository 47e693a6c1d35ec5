"""The lab's scripts that compare maps, on a tiny world: they say what the library says, and run."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from onward.evaluation.metrics import evaluate
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import rank
from onward.spaces import Embeddings, Space
from onward.training.fit.closed_forms import solve_procrustes, solve_ridge
from onward.training.fit.pairs import Examples, Pairs

LAB = Path(__file__).parent.parent / "lab"
DIM, EACH = 6, 8
SCRIPTS = ("maps", "baselines", "better_h")


@pytest.fixture(scope="module")
def lab():
    """What they share and both scripts, as a script that lies beside them finds them."""
    sys.path.insert(0, str(LAB))
    yield tuple(importlib.import_module(name) for name in SCRIPTS)
    sys.path.remove(str(LAB))
    for name in SCRIPTS:
        del sys.modules[name]


def world(maps, classes, seed):
    """Items whose old vector lacks half of what the new one tells; the side-information has it."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(7)
    labels = np.repeat(np.arange(classes), EACH)
    centres, noise = rng.standard_normal((classes, DIM)), rng.standard_normal((len(labels), DIM))
    told = centres[labels] + 0.4 * noise
    kept = told * (np.arange(DIM) < DIM // 2)
    mixed = [fixed.standard_normal((DIM, DIM)) for _ in range(4)]
    arrays = {
        "old": kept @ mixed[0],
        "new": told @ mixed[1],
        "layers": (told - kept) @ mixed[2],
        "otherwise": told @ mixed[3],
    }
    near = {name: each + 0.1 * rng.standard_normal(each.shape) for name, each in arrays.items()}
    return maps.Items({n: x.astype(np.float32) for n, x in near.items()}, labels)


def study(maps):
    train = world(maps, 30, seed=1)
    fold_of = train.labels % 3
    folds = [(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)) for f in range(3)]
    heads = tuple(
        np.random.default_rng(2).standard_normal((8, DIM)).astype(np.float32) for _ in range(2)
    )
    galleries = {"closed": world(maps, 30, seed=1), "open": world(maps, 25, seed=3)}
    return maps.Study(train, galleries, folds, heads)


def embeddings(items, name, metric="l2"):
    ids = tuple(f"{row:03d}" for row in range(len(items)))
    return Embeddings(ids, items[name], Space(name, items[name].shape[1], metric), items.labels)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_what_queries_find_is_what_the_library_says(lab, metric):
    maps, *_ = lab
    items = world(maps, 25, seed=3)
    given = embeddings(items, "new", metric)
    relevance = Relevance.between(given, given, exclude_self=True)
    judged = evaluate(rank(given, given, exclude_self=True), relevance, metrics=("cmc@1", "map"))
    found = maps.find(
        maps.distances(items["new"], items["new"], metric), items.labels, np.arange(len(items))
    )
    assert 0.2 < found[0].mean() < 1
    np.testing.assert_allclose(found[0], judged.per_query("cmc@1"))
    np.testing.assert_allclose(found[1], judged.per_query("map"), rtol=1e-9)


def test_ridge_and_the_rotation_are_those_of_fit(lab):
    maps, baselines, _ = lab
    items = world(maps, 10, seed=4)
    old, side, new = (embeddings(items, name) for name in ("old", "layers", "new"))
    theirs = solve_ridge(Examples.of(Pairs(old, side, new)))({"method": "ridge", "penalty": 0.1})
    ours = maps.ridges(items.given("layers"), items["new"])(0.1)(items.given("layers"))
    np.testing.assert_allclose(ours, theirs.apply(old, side).vectors, rtol=1e-3, atol=1e-4)
    theirs = solve_procrustes(Examples.of(Pairs(old, None, new)))({"method": "procrustes"})
    ours = baselines.rotation(items["old"], items["new"])(items["old"])
    np.testing.assert_allclose(ours, theirs.apply(old).vectors, rtol=1e-3, atol=1e-4)


def test_fused_ranks_worked_by_hand(lab):
    """The query is item 0; the others have the ranks 1, 2, 3 in one space, 1, 3, 2 in the other."""
    maps, *_ = lab
    old, new = np.array([[0.0, 1, 2, 3]]), np.array([[0.0, 1, 3, 2]])
    score = maps.fused_ranks(old, new, np.array([0]))[0]
    np.testing.assert_allclose(-score[1:], [2 / 61, 1 / 62 + 1 / 63, 1 / 63 + 1 / 62], rtol=1e-9)
    assert score[1] < score[2] < score[3] < score[0]


def test_side_information_that_later_models_need_leaves_out_what_the_old_vector_tells(lab):
    *_, better_h = lab
    rng = np.random.default_rng(0)
    old, rest = rng.standard_normal((400, 4)), rng.standard_normal((400, 4))
    layers = np.hstack([9 * old @ rng.standard_normal((4, 4)), rest])
    found = better_h.directions(layers, old, np.arange(400) % 5, 4)
    assert {name: axes.shape for name, axes in found.items()} == dict.fromkeys(found, (4, 8))
    assert (found["residual"][:, 4:] ** 2).sum() > 0.95 * 4
    assert (better_h.largest_axes(np.cov(layers.T), 4)[:, :4] ** 2).sum() > 0.95 * 4


@pytest.mark.slow
@pytest.mark.parametrize("script", ["baselines", "better_h"])
def test_every_way_is_measured_in_both_galleries(lab, tmp_path, script, capsys):
    maps, baselines, better_h = lab
    one = study(maps)
    networks = [maps.Way("network", maps.as_it_is("new", "otherwise"), fused_as=maps.RIDGE)]
    ways = baselines.baselines(one.heads)
    if script == "better_h":
        ways = better_h.trials(["otherwise"], networks)
    for seed in (0, 1):
        maps.Measurement(one, ways, tmp_path / str(seed), every=2).run("")
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    maps.Measurement(one, ways, tmp_path / "0", every=2).run("")  # everything is there
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    names = [way.name for way in ways]
    assert len(kept) == 2 * len(set(names)) == 2 * len(ways)
    whole = maps.describe(maps.read(tmp_path, (0, 1), names), (maps.RIDGE,))
    for way in ways:
        served = {"one", "half", "advised"} if way.is_fused else {"one"}
        served |= {"ranks"} if way.by_ranks else set()
        cells = whole[way.name]
        assert set(cells) == {f"{part} {each}" for part in ("closed", "open") for each in served}
        assert all(0 < cell["cmc@1"]["mean"] <= 1 for cell in cells.values())

    def first(name):
        return whole[name]["open one"]["cmc@1"]["mean"]

    assert first(maps.NOTHING) + 0.05 < first(maps.RIDGE)
    maps.show(whole, "open")
    assert f"| {maps.RIDGE} | {100 * first(maps.RIDGE):.1f} / " in capsys.readouterr().out
