"""What `fit` advises to serve: scales by loops, made worlds of each kind, and real queries."""

from dataclasses import replace

import numpy as np
import pytest

from onward.errors import ConfigurationError, EvaluationError, SpaceMismatchError
from onward.evaluation.comparison import evaluate_embeddings
from onward.evaluation.relevance import RealQueries, Relevance
from onward.evaluation.serving import WEIGHTS
from onward.fusion import FusedEmbeddings
from onward.spaces import Embeddings, Space
from onward.training.fit import selection
from onward.training.fit.fit import fit
from onward.training.fit.pairs import Pairs
from onward.training.fit.selection import Folds, Judge
from onward.training.fit.serving import choose_serving
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import Transformation

OLD, SIDE, NEW = Space("old@1", 16), Space("side@1", 16), Space("new@1", 16)
CPU = RunSettings(device="cpu")
RIDGE = FitSettings(method="ridge", ridge_penalties=(0.1,))
SEEN = RIDGE.model_copy(update={"gallery_classes": "seen"})


def rows(space, vectors, labels=None, prefix="i"):
    ids = tuple(f"{prefix}{n:04}" for n in range(len(vectors)))
    return Embeddings(ids, np.asarray(vectors, np.float32), space, labels)


def world(old_noise, new_noise, *, classes=30, each=6, seed=0, prefix="i"):
    """Items of classes by two models that see the same, each with an error of its own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    meaning = rng.normal(size=(classes, 16))[labels]
    old = meaning + old_noise * rng.normal(size=meaning.shape)
    new = meaning + new_noise * rng.normal(size=meaning.shape)
    turn = np.linalg.qr(np.random.default_rng(99).normal(size=(16, 16)))[0]
    return rows(OLD, old, labels, prefix), rows(NEW, new @ turn, labels, prefix)


def judged(old, new, seed=0):
    folds = Folds.of(Pairs(old, None, new), gallery_classes="unseen", seed=seed)
    return folds, Judge.of(folds, most=6000, seed=seed)


# --- what is measured ---


def test_scales_are_those_of_distances_between_queries_and_items_by_loops():
    old, new = world(0.3, 0.3)
    folds, judge = judged(old, new)
    made = [new.select(folds.held_out(fold)) for fold in range(folds.count)]
    made = [replace(one, vectors=one.vectors + 1) for one in made]  # far from what they are of
    fusion = choose_serving(judge, made, asked="items", seen=True, seed=0).fusion
    of_old, of_new = [], []
    for fold, gallery in enumerate(made):
        held_out = old.select(folds.held_out(fold)), new.select(folds.held_out(fold))
        for row in range(len(gallery)):
            for other in range(len(gallery)):
                if row != other:
                    differ = held_out[0].vectors[row] - held_out[0].vectors[other]
                    of_old.append(float((differ.astype(np.float64) ** 2).sum()))
                    differ = held_out[1].vectors[row] - gallery.vectors[other]
                    of_new.append(float((differ.astype(np.float64) ** 2).sum()))
    for scale, distances in ((fusion.old_scale, of_old), (fusion.new_scale, of_new)):
        assert scale.std == pytest.approx(np.std(distances), rel=1e-5)


@pytest.mark.slow
def test_scales_of_many_items_are_measured_on_some_of_them(monkeypatch):
    old, new = world(0.3, 0.3, classes=60)
    whole = fit(old, None, new, settings=SEEN, run=CPU).serving.fusion
    monkeypatch.setattr("onward.evaluation.serving.MOST_MEASURED", 60)
    some, again = (fit(old, None, new, settings=SEEN, run=CPU).serving.fusion for _ in range(2))
    assert some == again
    for name in ("old_scale", "new_scale"):
        assert getattr(some, name) != getattr(whole, name)
        assert getattr(some, name).std == pytest.approx(getattr(whole, name).std, rel=0.2)


def test_candidates_are_what_a_full_evaluation_gives():
    old, new = world(0.6, 0.4)
    folds, judge = judged(old, new)
    made = [new.select(folds.held_out(fold)) for fold in range(folds.count)]
    made = [replace(one, vectors=one.vectors[::-1] / 2 + one.vectors) for one in made]
    served = choose_serving(judge, made, asked="items", seen=True, seed=0)
    fusion = replace(served.fusion, weight=0.4)
    each = []
    for fold, gallery in enumerate(made):
        old_ones, new_ones = (one.select(folds.held_out(fold)) for one in (old, new))
        queries = FusedEmbeddings(fusion, old_ones, new_ones)
        searched = FusedEmbeddings(fusion, old_ones, gallery)
        each.append(evaluate_embeddings(queries, searched, exclude_self=True))
    values = served.values["fused, weight 0.4"]
    assert values["map"] == pytest.approx(np.mean([one.map for one in each]))
    assert values["cmc@1"] == pytest.approx(np.mean([one.cmc(1) for one in each]))
    assert list(served.values) == ["old", "new", *(f"fused, weight {w:g}" for w in WEIGHTS)]
    assert served.values["old"] == judge.references["old/old"]


# --- what is advised ---


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("old_noise", "new_noise", "served"),
    [(0.9, 0.7, "fused"), (0.6, 3.0, "old")],
    ids=["each-errs-by-itself", "a-worse-new-model"],
)
def test_what_finds_clearly_more_is_advised(old_noise, new_noise, served, seed):
    old, new = world(old_noise, new_noise, seed=seed)
    fitted = fit(old, None, new, settings=RIDGE, seed=seed, run=CPU)
    assert fitted.serving.advised == served
    assert fitted.transformation.serving.advised == served
    assert fitted.transformation.serving.fusion == fitted.serving.fusion


@pytest.mark.parametrize("seed", range(3))
def test_the_new_space_is_served_where_the_old_one_adds_nothing(seed):
    """Side-information carries all that the new model sees, and the old model hardly sees it."""
    old, new = world(6.0, 0.4, seed=seed)
    side = rows(SIDE, new.vectors + 0.01)
    fitted = fit(old, side, new, settings=SEEN, seed=seed, run=CPU)
    assert fitted.serving.advised == "new"
    assert "fused search is not clearly better" in str(fitted)


@pytest.mark.parametrize("seed", range(3))
def test_two_spaces_that_find_the_same_are_not_fused(seed):
    old, new = world(0.7, 0.7, seed=seed)
    turned = replace(new, vectors=old.vectors[:, ::-1].copy())
    served = fit(old, None, turned, settings=SEEN, seed=seed, run=CPU).serving
    assert served.advised == "new"
    assert abs(served.gained.estimate) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_for_unseen_classes_a_pair_that_does_no_harm_is_served(seed):
    """Where the new space is the better one; for seen classes it must be clearly better."""
    old, new = world(0.9, 0.7, seed=seed)
    rng = np.random.default_rng([seed, 1])
    side = rows(SIDE, new.vectors + 0.7 * rng.normal(size=new.vectors.shape))
    fitted = fit(old, side, new, settings=RIDGE, seed=seed, run=CPU)
    assert (fitted.serving.advised, fitted.serving.fusion.weight) == ("fused", 0.3)
    assert list(fitted.serving.values) == ["old", "new", "fused, weight 0.3"]
    seen = fit(old, side, new, settings=SEEN, seed=seed, run=CPU)
    assert len(seen.serving.values) == 2 + len(WEIGHTS)


def test_without_labels_one_space_is_advised_and_an_even_pair_is_kept():
    old, new = (replace(one, labels=None) for one in world(0.9, 0.7))
    fitted = fit(old, None, new, settings=RIDGE, run=CPU)
    served = fitted.serving
    assert (served.judged_by, served.queries) == ("agreement", 180)
    assert (served.advised, served.fusion.weight) == ("new", 0.5)
    assert fitted.transformation.serving.fusion == served.fusion
    assert {name: set(each) for name, each in served.values.items()} == {
        "old": {"agreement"},
        "new": {"agreement"},
    }
    assert str(fitted).endswith("cannot judge it; give labels, or real queries with judgements")


@pytest.mark.slow
def test_a_sample_of_the_gallery_chooses_where_it_judges():
    old, new = world(0.9, 0.7)
    more = world(0.6, 3.0, seed=5, classes=20, prefix="g")
    served = fit(old, None, new, sample=Pairs(more[0], None, more[1]), settings=RIDGE, run=CPU)
    assert (served.serving.advised, served.serving.queries) == ("old", 120)
    assert fit(old, None, new, settings=RIDGE, run=CPU).serving.advised == "fused"


@pytest.mark.parametrize("new_noise", [0.7, 4.0])
def test_of_a_sample_without_labels_the_pairs_say_what_to_serve(new_noise):
    """To a worse model too, which a sample's agreement with it cannot tell from a better one."""
    old, new = world(0.9, new_noise)
    more = (replace(one, labels=None) for one in world(0.9, new_noise, seed=5, prefix="g"))
    sample = Pairs(*(part for part in (next(more), None, next(more))))
    alone = fit(old, None, new, settings=RIDGE, run=CPU).serving
    served = fit(old, None, new, sample=sample, settings=RIDGE, run=CPU)
    assert served.judged_by == "agreement"
    assert (served.serving.judged_by, served.serving.queries) == ("label", 180)
    assert served.serving.advised == alone.advised == ("fused" if new_noise < 1 else "old")
    assert "judged on the training pairs, for no labels of the sample tell" in served.serving.reason
    lines = str(served).splitlines()
    assert lines[0].startswith("judged by agreement on ")
    assert "items of the training pairs, judged by label: 180 that count, in percent" in lines
    assert served.to_json()["serving"]["asked"] == "items of the training pairs"


def unlabelled(*given):
    return [replace(one, labels=None) for one in given]


def test_without_any_labels_a_sample_advises_the_new_space_as_pairs_do(monkeypatch):
    old, new = unlabelled(*world(0.9, 4.0))
    more = unlabelled(*world(0.9, 4.0, seed=5, prefix="g"))
    monkeypatch.setattr(selection, "neighbour_groups", None)  # which takes the square of the pairs
    served = fit(old, None, new, sample=Pairs(more[0], None, more[1]), settings=RIDGE, run=CPU)
    assert (served.serving.advised, served.serving.judged_by) == ("new", "agreement")
    assert "judged on the training pairs" not in served.serving.reason


@pytest.mark.parametrize("labels", [None, 900 + np.arange(180)])
def test_real_queries_are_asked_of_a_sample_before_items_of_the_pairs(labels):
    old, new = world(0.9, 0.7)
    more = unlabelled(*world(0.9, 0.7, seed=5, prefix="g"))
    asked = [replace(one, labels=labels) for one in world(0.9, 0.7, seed=5, prefix="q")]
    served = fit(
        *(old, None, new),
        sample=Pairs(more[0], None, more[1]),
        queries=RealQueries(*asked, None),
        settings=RIDGE,
        run=CPU,
    ).serving
    assert (served.asked, served.judged_by, served.advised) == ("real queries", "agreement", "new")


def test_the_result_says_what_to_serve_in_words_in_json_and_with_the_transformation(tmp_path):
    old, new = world(0.9, 0.7)
    fitted = fit(old, None, new, settings=RIDGE, run=CPU)
    lines = str(fitted).splitlines()
    names = [line.rsplit(maxsplit=2)[0] for line in lines[2:-2]]
    fused = [f"fused, weight {weight:g}" for weight in WEIGHTS]
    assert names == ["old/old", "new/old ridge penalty 0.1", *fused, "new/new"]
    weight = fitted.serving.fusion.weight
    assert lines[-1].startswith(
        f"serve: the old and the new space, fused: with the weight {weight:g} of the old, +"
    )
    assert lines[-1].endswith(" of the mean of cmc@1 and map above the old space alone")
    told = fitted.to_json()["serving"]
    assert told["advised"] == "fused"
    assert told["fusion"]["weight"] == weight
    assert told["gained"]["low"] > 0
    h = fitted.transformation
    assert h.made_by["serving"] == told
    h.save(tmp_path / "h")
    assert Transformation.load(tmp_path / "h").serving == h.serving


@pytest.mark.parametrize("role", ["old", "new"])
def test_distances_that_are_all_alike_make_no_pair(role):
    given = dict(zip(("old", "new"), world(0.5, 0.5), strict=True))
    given[role] = replace(given[role], vectors=np.ones_like(given[role].vectors))
    fitted = fit(given["old"], None, given["new"], settings=RIDGE, run=CPU)
    assert (fitted.serving.fusion, fitted.transformation.serving) == (None, None)
    words = f"there is no fused pair, for the distances in {given[role].space} are all alike"
    assert words in fitted.serving.reason
    assert list(fitted.serving.values) == ["old", "new"]


@pytest.mark.slow
def test_of_a_network_asked_for_by_name_the_new_space_is_advised_unmeasured():
    old, new = world(0.9, 0.7)
    quick = FitSettings(method="mlp", epochs=1, least_steps=0, inner=8)
    fitted = fit(old, None, new, settings=quick, run=CPU)
    assert (fitted.serving.advised, fitted.serving.fusion.weight) == ("new", 0.5)
    assert (fitted.serving.values, fitted.serving.gained) == ({}, None)
    assert fitted.transformation.serving.advised == "new"
    apart = np.float64(old.vectors)[:, None] - np.float64(old.vectors)
    apart = (apart**2).sum(axis=2)[~np.eye(180, dtype=bool)]
    assert fitted.serving.fusion.old_scale.std == pytest.approx(apart.std(), rel=1e-5)


# --- real queries ---


def ask(old_noise, new_noise, *, seed=1, count=60, judge=True):
    """Queries for the items of `world`'s classes by both models, and an item of each's class."""
    old, new = world(0.0, 0.0, each=2)
    rng = np.random.default_rng(seed)
    about = rng.integers(0, 60, count)
    by_old = old.vectors[about] + old_noise * rng.normal(size=(count, 16))
    by_new = new.vectors[about] + new_noise * rng.normal(size=(count, 16))
    classes = about // 2
    qrels = {f"q{n:04}": {f"i{6 * classes[n] + k:04}": 1 for k in range(6)} for n in range(count)}
    known = None if judge else classes
    return RealQueries(
        rows(OLD, by_old, known, "q"), rows(NEW, by_new, known, "q"), qrels if judge else None
    )


@pytest.mark.slow
@pytest.mark.parametrize("judge", [True, False], ids=["judgements", "labels"])
@pytest.mark.parametrize(
    ("noise", "served"), [((0.1, 3.0), "old"), ((3.0, 0.1), "new")], ids=["old", "new"]
)
def test_real_queries_choose_what_to_serve_and_not_what_to_keep(noise, served, judge):
    old, new = world(0.9, 0.7)
    alone = fit(old, None, new, settings=RIDGE, run=CPU)
    fitted = fit(old, None, new, queries=ask(*noise, judge=judge), settings=RIDGE, run=CPU)
    assert fitted.serving.advised == served
    assert (fitted.tried[0].values, fitted.chosen) == (alone.tried[0].values, alone.chosen)
    assert fitted.serving.asked == "real queries"
    assert len(fitted.serving.values) == 2 + len(WEIGHTS)  # a pair must be clearly better
    assert fitted.serving.judged_by == ("judgements" if judge else "label")
    lines = str(fitted).splitlines()
    assert lines[6] == (
        f"real queries, judged by {fitted.serving.judged_by}: 60 that count, in percent"
    )
    assert [line.split()[0] for line in lines[8:10]] == ["old", "new"]


def test_real_queries_find_what_a_full_evaluation_by_judgements_finds():
    """Where items are held out, they are all searched together."""
    old, new = world(0.9, 0.7)
    queries = ask(0.5, 0.5)
    served = fit(old, None, new, queries=queries, settings=SEEN, run=CPU).serving
    relevance = Relevance.of_qrels(
        queries.old.ids, old.ids, queries.qrels, exclude_self=False, ignore_unknown=True
    )
    bare = replace(old, labels=None)
    found = evaluate_embeddings(
        queries.old, bare, exclude_self=False, relevance=relevance, metrics=["ndcg@10"]
    )
    assert served.values["old"] == {"ndcg@10": pytest.approx(found.value("ndcg@10"))}


def test_real_queries_without_answers_choose_by_agreement():
    old, new = (replace(one, labels=None) for one in world(0.9, 0.7))
    queries = replace(ask(0.3, 0.3), qrels=None)
    served = fit(old, None, new, queries=queries, settings=RIDGE, run=CPU).serving
    assert (served.judged_by, served.queries) == ("agreement", 180)  # each in three galleries


@pytest.mark.slow
def test_what_judgements_want_is_searched_in_any_case():
    old, new = world(0.9, 0.7)
    few = RIDGE.model_copy(update={"most_judged": 12})
    queries = ask(0.3, 0.3)
    assert fit(old, None, new, queries=queries, settings=few, run=CPU).serving.queries == 60
    ids = tuple(f"{item}#{view}" for item in old.ids for view in (0, 1))
    twice = [
        Embeddings(ids, np.repeat(one.vectors, 2, axis=0), one.space, np.repeat(one.labels, 2))
        for one in (old, new)
    ]
    served = fit(twice[0], None, twice[1], queries=queries, settings=few, run=CPU).serving
    assert served.queries == 60


def test_queries_that_cannot_choose_are_refused():
    old, new = world(0.9, 0.7)
    queries = ask(0.3, 0.3)

    def refused(error, words, given, settings=RIDGE):
        with pytest.raises(error, match=words):
            fit(old, None, new, queries=given, settings=settings, run=CPU)

    for method in ("mlp", "ensemble"):
        words = rf"method '{method}' learns from all items: none is held out; choose 'auto' or"
        refused(ConfigurationError, words, queries, FitSettings(method=method))
    other = replace(queries.old, space=Space("other@1", 16))
    words = r"the real queries by the old model are in other@1 .* pairs are in old@1 .*; embed the"
    refused(SpaceMismatchError, words, replace(queries, old=other))
    words = r"the judgements name none of the 60 real queries; give judgements and queries with"
    refused(EvaluationError, words, replace(queries, qrels={"other": {"i0000": 1}}))
    words = r"none of the 60 real queries has anything to find among the 180 items .*: their judge"
    nothing = {item: {"gone": 1} for item in queries.old.ids}
    refused(EvaluationError, words, replace(queries, qrels=nothing))
    labels = np.full(60, 99)
    alone = [replace(one, labels=labels) for one in (queries.old, queries.new)]
    words = r"none of the 60 real queries has .*: their labels name others; embed items by the new"
    refused(EvaluationError, words, RealQueries(*alone))
