"""What `fit` keeps, and why: folds of whole classes, trials judged on them, ties.

The inputs that once gave the wrong choice are here: many classes with few items, where most
held-out items have no mate; the ceiling, where all trials tie; classes that were learned from,
where a network wins that fails on others.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import ConfigurationError, DataError, LabelMismatchError
from onward.evaluation.comparison import evaluate_embeddings
from onward.spaces import Embeddings, Space
from onward.training.fit import fit as fit_module
from onward.training.fit import networks
from onward.training.fit.fit import fit
from onward.training.fit.pairs import Pairs
from onward.training.fit.selection import (
    FOLDS,
    Folds,
    Judge,
    Trial,
    choose_method,
    choose_penalty,
    leaves_side_out,
    neighbour_groups,
)
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import linear

OLD, NEW = Space("old@1", 12), Space("new@1", 16)
CPU = RunSettings(device="cpu")
RIDGE = FitSettings(method="ridge")


def rows(space, vectors, labels=None, ids=None):
    ids = tuple(f"i{n:04}" for n in range(len(vectors))) if ids is None else tuple(ids)
    return Embeddings(ids, np.asarray(vectors, np.float32), space, labels)


def world(classes=30, each=6, *, noise=0.4, seed=0, lossy=4):
    """Items of classes; the old model sees all but a few dimensions of what the new one sees."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    meaning = rng.normal(size=(classes, 16))[labels] + noise * rng.normal(size=(len(labels), 16))
    fixed = np.random.default_rng(99)
    mixed = fixed.normal(size=(16 - lossy, 12)) / 4
    old = np.tanh(meaning[:, : 16 - lossy] @ mixed)
    new = meaning @ fixed.normal(size=(16, 16)) / 4
    return rows(OLD, old, labels), rows(NEW, new, labels)


def pairs_of(old, new):
    return Pairs(old, None, new)


# --- folds ---


def test_whole_classes_are_held_out_by_default():
    old, new = world()
    folds = Folds.of(pairs_of(old, new), gallery_classes="unseen", seed=0)
    assert (folds.by, folds.count) == ("class", FOLDS)
    for fold in range(FOLDS):
        learned, out = folds.learned(fold), folds.held_out(fold)
        assert not set(old.labels[learned]) & set(old.labels[out])
        assert len(learned) + len(out) == len(old)
        assert len(out) == 60
    assert sorted(np.concatenate([folds.held_out(n) for n in range(FOLDS)])) == list(range(180))


def test_items_are_held_out_where_the_gallery_holds_seen_classes():
    old, new = world()
    folds = Folds.of(pairs_of(old, new), gallery_classes="seen", seed=0)
    assert folds.by == "item"
    for fold in range(FOLDS):
        out, learned = (set(old.labels[get(fold)]) for get in (folds.held_out, folds.learned))
        assert len(out & learned) > 20


def test_given_groups_are_held_out_whole_and_none_is_a_group_of_its_own():
    old, new = world(classes=4, each=10)
    groups = [None if row % 5 == 0 else f"album {row % 7}" for row in range(40)]
    folds = Folds.of(pairs_of(old, new), gallery_classes="unseen", groups=groups, seed=0)
    assert (folds.by, len(set(folds.groups))) == ("group", 7 + 8)
    for name in {name for name in groups if name}:
        assert len({folds.fold_of[row] for row in range(40) if groups[row] == name}) == 1


def test_without_labels_items_that_are_each_others_neighbours_stay_together():
    old, new = world(classes=40, each=5, noise=0.05)
    bare = pairs_of(replace(old, labels=None), replace(new, labels=None))
    folds = Folds.of(bare, gallery_classes="unseen", seed=0)
    assert folds.by == "neighbours"
    together = [len(set(folds.fold_of[new.labels == label])) for label in range(40)]
    assert np.mean(np.array(together) == 1) > 0.9


def test_groups_of_neighbours_are_the_connected_components_by_hand():
    points = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [9.0]])
    found = neighbour_groups(rows(Space("line", 1), points))
    # k = 1: 0 and 1 are each other's nearest (1 ties with 2, the lower id goes first), 3 and 4 too
    assert found.tolist() == [0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("labels", "by"),
    [
        (np.arange(60) // 30, "class"),
        (np.where(np.arange(60) < 30, np.arange(60) // 3, -1), "class"),
        (np.where(np.arange(60) < 29, np.arange(60) // 3, -1), "neighbours"),  # most have none
        (np.zeros(60, int), "neighbours"),
        (np.where(np.arange(60) < 31, 0, np.arange(60)), "neighbours"),  # one has most items
        (np.full(60, -1), "neighbours"),
    ],
)
def test_classes_are_held_out_where_labels_tell_them_apart_and_neighbours_where_not(labels, by):
    old, new = world(classes=20, each=3)
    known = pairs_of(replace(old, labels=labels), replace(new, labels=labels))
    assert Folds.of(known, gallery_classes="unseen", seed=0).by == by


def test_no_group_of_neighbours_swallows_the_gallery():
    cloud = np.random.default_rng(0).normal(size=(400, 3))
    sizes = np.bincount(neighbour_groups(rows(Space("cloud", 3), cloud)))
    assert sizes.max() <= 40


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=20, max_size=60), st.integers(0, 3))
def test_folds_are_about_as_large_as_each_other_and_hold_every_item_once(labels, seed):
    vectors = np.random.default_rng(0).normal(size=(len(labels), 12))
    new = np.random.default_rng(1).normal(size=(len(labels), 16))
    known = np.array(labels)
    pairs = pairs_of(rows(OLD, vectors, known), rows(NEW, new, known))
    folds = Folds.of(pairs, gallery_classes="unseen", seed=seed)
    sizes = [len(folds.held_out(fold)) for fold in range(folds.count)]
    assert sum(sizes) == len(labels)
    assert folds.count >= 2
    largest = np.bincount(folds.groups).max()
    assert max(sizes) - min(sizes) <= largest


def test_views_of_an_item_are_never_parted():
    old, new = world(classes=10, each=5)
    ids = [f"{item}#{view}" for view in range(3) for item in old.ids]
    labels = np.tile(old.labels, 3)
    many = [
        rows(
            one.space, np.concatenate([one.vectors + 0.01 * view for view in range(3)]), labels, ids
        )
        for one in (old, new)
    ]
    folds = Folds.of(pairs_of(*many), gallery_classes="seen", seed=0)
    learned, out = folds.learned(0), folds.held_out(0)
    assert len(learned) + 3 * len(out) == 150
    assert not {ids[row].split("#")[0] for row in learned} & {ids[r].split("#")[0] for r in out}
    assert all(ids[row].endswith("#0") for row in out)


def test_another_seed_deals_other_folds():
    pairs = pairs_of(*world())
    one, other = (Folds.of(pairs, gallery_classes="unseen", seed=seed) for seed in (0, 1))
    assert one.fold_of.tolist() != other.fold_of.tolist()


def test_groups_that_cannot_be_held_out_are_refused():
    old, new = world()
    with pytest.raises(
        DataError, match=r"3 groups and 180 pairs were given; give one group a pair"
    ):
        fit(old, None, new, groups=["a", "b", "c"], settings=RIDGE, run=CPU)
    with pytest.raises(DataError, match=r"all 180 items are of one group, .*; give groups that"):
        fit(old, None, new, groups=["a"] * 180, settings=RIDGE, run=CPU)
    seen = FitSettings(method="ridge", gallery_classes="seen")
    with pytest.raises(
        ConfigurationError, match=r"gallery_classes is 'seen', .*; leave the groups"
    ):
        fit(old, None, new, groups=["a", "b"] * 90, settings=seen, run=CPU)


# --- judging ---


def judge_of(old, new, **more):
    unseen = more.pop("gallery_classes", "unseen")
    folds = Folds.of(pairs_of(old, new), gallery_classes=unseen, seed=0)
    return Judge.of(folds, most=more.pop("most", 6000), seed=0), folds


def test_a_fold_is_judged_as_a_gallery_of_its_own():
    old, new = world()
    judge, folds = judge_of(old, new)
    parts = [new.select(folds.held_out(fold)) for fold in range(FOLDS)]
    trial = judge.judge(parts, {"method": "ridge"})
    each = [evaluate_embeddings(part, part, exclude_self=True) for part in parts]
    assert trial.values["map"] == pytest.approx(np.mean([one.map for one in each]))
    assert trial.values["cmc@1"] == pytest.approx(np.mean([one.cmc(1) for one in each]))
    assert trial.values == judge.references["new/new"]
    assert (trial.error, judge.queries, judge.by) == (0, 180, "label")


def test_items_of_seen_classes_are_searched_together():
    old, new = world()
    judge, folds = judge_of(old, new, gallery_classes="seen")
    parts = [new.select(folds.held_out(fold)) for fold in range(FOLDS)]
    trial = judge.judge(parts, {"method": "ridge"})
    whole = evaluate_embeddings(new, new, exclude_self=True)
    assert trial.values["map"] == pytest.approx(whole.map)


def test_the_error_is_a_share_of_the_variance_by_hand():
    old, new = world()
    judge, folds = judge_of(old, new)
    parts = [new.select(folds.held_out(fold)) for fold in range(FOLDS)]
    moved = [replace(part, vectors=part.vectors + 1) for part in parts]
    wanted = np.concatenate([part.vectors for part in parts]).astype(np.float64)
    variance = ((wanted - wanted.mean(axis=0)) ** 2).sum()
    got = judge.judge(moved, {"method": "ridge"}).error
    assert got == pytest.approx(wanted.size / variance, rel=1e-6)


def test_agreement_judges_where_labels_cannot():
    old, new = world(classes=180, each=1)
    judge, folds = judge_of(old, new)
    assert (judge.by, judge.queries) == ("agreement", 180)
    parts = [new.select(folds.held_out(fold)) for fold in range(FOLDS)]
    assert judge.judge(parts, {"method": "ridge"}).values == {"agreement": 1.0}
    few = np.where(np.arange(180) < 30, np.arange(180) // 2, -1)  # 30 of 180 have a mate
    judge, _ = judge_of(replace(old, labels=few), replace(new, labels=few))
    assert judge.by == "agreement"


def test_labels_do_not_judge_where_all_that_is_searched_is_of_one_class():
    old, new = world(classes=3, each=20)  # each fold is one class: nothing found can be wrong
    assert judge_of(old, new)[0].by == "agreement"
    old, new = world(classes=6, each=10)
    assert judge_of(old, new)[0].by == "label"


def test_agreement_is_the_share_of_neighbours_that_are_common_by_loops():
    old, new = (replace(one, labels=None) for one in world(classes=30, each=5))
    judge, folds = judge_of(old, new, gallery_classes="seen")
    order = np.concatenate([folds.held_out(fold) for fold in range(FOLDS)])
    off = new.vectors + np.random.default_rng(0).normal(size=new.vectors.shape).astype(np.float32)
    parts = [replace(new, vectors=off).select(folds.held_out(fold)) for fold in range(FOLDS)]
    shared = 0
    for query in order:
        near = []
        for vectors in (off, new.vectors):
            apart = ((vectors[order] - new.vectors[query]) ** 2).sum(axis=1)
            apart[order == query] = np.inf
            near.append(set(np.argsort(apart)[:10]))
        shared += len(near[0] & near[1])
    got = judge.judge(parts, {"method": "ridge"}).values["agreement"]
    assert got == pytest.approx(shared / 10 / len(order))


def test_no_more_items_are_judged_than_asked_whole_classes_where_they_fit():
    old, new = world(classes=30, each=6)
    judge, _ = judge_of(old, new, most=90)
    assert [len(each) for each in judge.rows] == [30, 30, 30]
    assert judge.queries == 90
    assert set(np.bincount(judge.groups)) <= {0, 6}
    judge, _ = judge_of(old, new, most=12)
    assert [len(each) for each in judge.rows] == [4, 4, 4]


def test_items_of_unknown_class_are_searched_and_ask_nothing():
    old, new = world()
    labels = np.where(np.arange(180) < 150, old.labels, -1)
    judge, _ = judge_of(replace(old, labels=labels), replace(new, labels=labels))
    assert (judge.by, judge.queries, len(judge.groups)) == ("label", 150, 180)


# --- choosing ---


def trial(method, scores, error=0.5, **more):
    scores = np.asarray(scores, np.float64)
    errors = np.broadcast_to(np.asarray(error, np.float64), (180,))
    return Trial({"method": method, **more}, {"map": float(scores.mean())}, scores, errors)


@pytest.fixture
def judge():
    return judge_of(*world())[0]  # 180 queries of 30 classes


LOW, HIGH, MIDDLE = (
    np.random.default_rng(0).uniform(*ends, 180) for ends in ((0.3, 0.5), (0.5, 0.7), (0.4, 0.6))
)
ERRORS, OTHER = (np.random.default_rng(seed).uniform(0.4, 0.6, 180) for seed in (1, 2))


@pytest.mark.parametrize(
    ("trials", "kept", "why"),
    [
        ([("ridge", LOW), ("mlp", HIGH)], "mlp", "it finds most"),
        ([("mlp", HIGH), ("ridge", LOW)], "mlp", "it finds most"),
        (
            [("mlp", MIDDLE + 0.001, OTHER), ("ensemble", MIDDLE, ERRORS), ("ridge", MIDDLE)],
            "ridge",
            "180 queries cannot tell ridge, ensemble and mlp apart, and it is the simplest",
        ),
        (
            [("ridge", MIDDLE, ERRORS), ("ensemble", MIDDLE + 0.001, ERRORS - 0.05)],
            "ensemble",
            "180 queries cannot tell ridge and ensemble apart, and it errs less than ridge",
        ),
        (
            [("ridge", MIDDLE + 0.2, ERRORS), ("ensemble", MIDDLE, ERRORS - 0.05)],
            "ridge",
            "it finds most",
        ),
    ],
    ids=["better", "better-first", "simplest", "errs-less", "finds-more-and-errs-more"],
)
def test_the_method_that_finds_most_is_kept_and_where_none_does_the_simplest(
    trials, kept, why, judge
):
    """Unless the error of another is clearly less; never one because of its place."""
    found, reason = choose_method([trial(*each) for each in trials], judge)
    assert (found.method, reason) == (kept, why)


def test_where_retrieval_is_flat_the_error_decides_and_never_the_strongest_penalty(judge):
    penalties = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 3.0)
    errors = (0.31, 0.3, 0.32, 0.4, 0.6, 0.8)
    trials = [
        trial("ridge", np.ones(180), error, penalty=penalty)
        for penalty, error in zip(penalties, errors, strict=True)
    ]
    for order in (range(6), reversed(range(6))):
        given = [trials[place] for place in order]
        kept, why = choose_penalty(given, judge)
        assert kept.described["penalty"] == 1e-3
        assert why.startswith("its penalty is that of the least error among 6 ")


def test_equal_trials_are_not_told_apart_by_their_place(judge):
    same = np.full(180, 0.5)
    trials = [Trial({"method": "ridge", "penalty": each}, {}, same, same) for each in (1, 0.1, 10)]
    for turn in range(3):
        some = trials[turn:] + trials[:turn]
        assert choose_penalty(some, judge)[0].described["penalty"] == 0.1


def test_a_penalty_with_a_small_error_that_finds_less_is_not_kept(judge):
    trials = [trial("ridge", LOW, 0.1, penalty=0.1), trial("ridge", HIGH, 0.9, penalty=3.0)]
    kept, why = choose_penalty(trials, judge)
    assert (kept.described["penalty"], why) == (3.0, "its penalty finds most")


# --- fit ---


def people(count, seed):
    """Four images each of people whom the new model tells apart, and the old one nearly so."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    labels = np.repeat(np.arange(count), 4)
    meaning = rng.normal(size=(count, 12))[labels] + 0.03 * rng.normal(size=(4 * count, 12))
    scales = np.geomspace(1, 0.05, 12)
    old = meaning * scales + 0.003 * rng.normal(size=meaning.shape)
    return rows(OLD, old, labels), rows(NEW, meaning @ fixed.normal(size=(12, 16)), labels)


def test_at_the_ceiling_with_few_mates_the_mild_penalty_is_kept():
    """176 people with 4 images each: trials find all, and only the error can tell them apart."""
    old, new = people(176, seed=0)
    penalties = (1e-4, 1e-3, 1e-2, 3e-2)
    settings = FitSettings(method="ridge", ridge_penalties=penalties)
    fitted = fit(old, None, new, settings=settings, run=CPU)
    assert fitted.queries == 704
    assert all(one.values == {"cmc@1": 1.0, "map": 1.0} for one in fitted.tried)
    assert fitted.chosen["penalty"] == 1e-4
    assert "the least error among 4 that retrieval cannot tell apart" in fitted.reason


def test_a_network_that_is_lost_on_unseen_classes_is_not_kept(monkeypatch):
    """It gives every item the same vector, as one does that knows no class of the gallery."""
    old, new = world()
    lost = linear(OLD, None, NEW, np.zeros((16, 12)), np.zeros(16), made_by={})
    monkeypatch.setattr(networks, "fit_networks", lambda *_, **__: lost)
    monkeypatch.setattr(fit_module, "mean", lambda both: both[0])
    fitted = fit(old, None, new, run=CPU)
    assert fitted.chosen["method"] == "ridge"
    assert [one.method for one in fitted.tried] == ["ridge"] * 8 + ["mlp", "ensemble"]
    assert "judged on classes that h has not seen: it finds most" in str(fitted)


@pytest.mark.slow
def test_seen_and_unseen_classes_can_want_another_h():
    """With few items of many wide classes a network remembers classes, which serves these alone."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), 10)
    meaning = rng.normal(size=(30, 32))[labels] + 0.5 * rng.normal(size=(300, 32))
    new = np.tanh(meaning @ rng.normal(size=(32, 16)) / 6)
    old = np.tanh(meaning[:, :20] @ rng.normal(size=(20, 12)) / 4)
    given = rows(OLD, old, labels), None, rows(NEW, new, labels)
    unseen = fit(*given, run=CPU)
    seen = fit(*given, settings=FitSettings(gallery_classes="seen"), run=CPU)
    assert unseen.chosen["method"] == "ridge"
    assert seen.chosen["method"] in ("ensemble", "mlp")
    assert unseen.judged_on == "classes that h has not seen"
    assert seen.judged_on == "further items of classes that h has seen"


def test_the_result_says_what_was_tried_and_why_in_words_and_in_json():
    old, new = world()
    fitted = fit(old, None, new, settings=RIDGE, run=CPU)
    lines = str(fitted).splitlines()
    assert lines[0] == (
        "judged by label on 3 folds of 30 classes: 180 items, 180 queries that count, in percent"
    )
    assert lines[1].split() == ["cmc@1", "map"]
    assert lines[2].startswith("old/old ")
    assert lines[-3].startswith("new/new ")
    assert lines[-2].startswith(
        f"kept: new/old ridge penalty {fitted.chosen['penalty']:g}, judged on classes that h has "
        "not seen: it was asked for by name; its penalty "
    )
    told = fitted.to_json()
    assert (told["judged_by"], told["queries"], told["folds"]) == ("label", 180, 3)
    assert len(told["tried"]) == 8
    assert told.items() <= fitted.transformation.made_by.items()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_h_that_has_learned_nothing_says_so(seed):
    old, new = world(seed=seed)
    unrelated = np.random.default_rng(seed).normal(size=new.vectors.shape)

    assert "it has learned nothing" in fit(old, None, rows(NEW, unrelated), settings=RIDGE).reason
    assert "learned nothing" not in fit(old, None, new, settings=RIDGE).reason


def test_a_network_that_was_asked_for_says_that_nothing_was_held_out():
    old, new = world()
    quick = FitSettings(method="mlp", epochs=1, least_steps=0, inner=8)
    fitted = fit(old, None, new, settings=quick, run=CPU)
    assert str(fitted) == (
        "kept: new/old mlp: it was asked for by name and learned from everything: nothing was "
        "held out\n"
        "serve: the new space alone: an upgrade leads to it, and nothing was held out to choose by"
    )


# --- out of fold ---


def test_what_a_gallery_may_hold_is_kept_out_of_fold():
    old, new = world()
    assert fit(old, None, new, settings=RIDGE, run=CPU).transformation.out_of_fold is None
    seen = FitSettings(method="ridge", gallery_classes="seen", ridge_penalties=(1e-4,))
    h = fit(old, None, new, settings=seen, run=CPU).transformation
    assert set(h.out_of_fold.ids) == set(old.ids)
    fitted, unseen = h.apply(old).vectors, h.out_of_fold.align(old.ids).vectors
    near, far = (((one - new.vectors) ** 2).mean() for one in (fitted, unseen))
    assert near < far


def test_of_items_of_the_gallery_it_is_kept_also_where_whole_classes_are_held_out():
    old, new = world()
    h = fit(old, None, new, of_gallery=True, settings=RIDGE, run=CPU)
    assert h.judged_on == "classes that h has not seen"
    assert set(h.transformation.out_of_fold.ids) == set(old.ids)


def test_of_a_sample_that_judges_all_items_are_kept_out_of_fold():
    old, new = world()
    more = [replace(one, ids=tuple(f"g{n}" for n in range(60))) for one in world(10, 6, seed=3)]
    h = fit(old, None, new, sample=Pairs(more[0], None, more[1]), settings=RIDGE, run=CPU)
    assert set(h.transformation.out_of_fold.ids) == set(more[0].ids)
    assert h.judged_on == "held-out items of the gallery's sample: classes that h has seen"
    assert h.items == 60


@pytest.mark.parametrize("items", [60, 12])  # the sample judges, or the pairs do
def test_what_is_judged_was_not_learned_from_under_another_name(monkeypatch, items):
    old, new = world()
    sample = Pairs(old.select(np.arange(items)), None, new.select(np.arange(items)))
    learned = []
    solve = fit_module.solve_ridge
    monkeypatch.setattr(
        fit_module, "solve_ridge", lambda examples: learned.append(examples) or solve(examples)
    )
    fit(old, None, new, sample=sample, settings=RIDGE, run=CPU)
    judged = sample if items == 60 else pairs_of(old, new)
    seen = "seen" if items == 60 else "unseen"
    folds = Folds.of(judged, gallery_classes=seen, seed=0)
    for fold, examples in enumerate(learned[:-1]):
        out = judged.old.vectors[folds.held_out(fold)]
        rows = {row.tobytes() for row in examples.inputs["old"]}
        assert not any(row.tobytes() in rows for row in out)
        assert len(rows) == 180 - len(out)
    assert len(learned) == folds.count + 1


def test_groups_beside_a_sample_that_is_held_out_are_refused():
    old, new = world()
    sample = Pairs(old.select(np.arange(20)), None, new.select(np.arange(20)))
    words = r"groups of the 180 pairs were given, but the 20 items of the gallery's sample are held"
    with pytest.raises(ConfigurationError, match=words):
        fit(old, None, new, sample=sample, groups=["a", "b"] * 90, settings=RIDGE, run=CPU)


# --- side-information ---

SIDE = Space("side@1", 200)
QUICK = FitSettings(epochs=2, least_steps=20, inner=32)


def with_side(helpful, seed=0, classes=20):
    """Few pairs, with side-information of 200 numbers: of what the old model misses, or noise."""
    old, new = world(classes, 5, seed=seed)
    rng = np.random.default_rng([seed, 1])
    side = rng.normal(size=(len(old), 200))
    if helpful:
        side = new.vectors @ np.random.default_rng(98).normal(size=(16, 200)) / 4 + 0.1 * side
    return old, rows(SIDE, side), new


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_side_information_that_makes_search_worse_is_left_out(seed):
    old, side, new = with_side(helpful=False, seed=seed)
    fitted = fit(old, side, new, settings=QUICK, seed=seed, run=CPU)
    alone = fit(old, None, new, settings=QUICK, seed=seed, run=CPU)
    assert fitted.transformation.side is None
    assert fitted.chosen == {**alone.chosen, "without_side": True}
    np.testing.assert_array_equal(
        fitted.transformation.apply(old).vectors, alone.transformation.apply(old).vectors
    )
    assert "side-information is left out, because ridge finds more without it" in fitted.reason
    assert "ridge penalty" in str(fitted)
    assert "without side" in str(fitted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_side_information_that_helps_is_used(seed):
    old, side, new = with_side(helpful=True, seed=seed)
    fitted = fit(old, side, new, settings=QUICK, seed=seed, run=CPU)
    assert fitted.transformation.side == SIDE
    assert "left out" not in fitted.reason
    assert "without_side" not in fitted.chosen
    assert sum("without_side" in trial.described for trial in fitted.tried) == 1


def test_a_method_that_is_asked_for_by_name_uses_the_side_information_that_it_is_given():
    old, side, new = with_side(helpful=False)
    fitted = fit(old, side, new, settings=RIDGE, run=CPU)
    assert fitted.transformation.side == SIDE
    assert not any("without_side" in trial.described for trial in fitted.tried)


@pytest.mark.slow
def test_uncertainty_is_learned_without_the_side_information_that_is_left_out():
    old, side, new = with_side(helpful=False)
    settings = QUICK.model_copy(update={"uncertainty": True})
    h = fit(old, side, new, settings=settings, run=CPU).transformation
    assert (h.side, h.uncertainty is None) == (None, False)


def test_where_retrieval_cannot_tell_the_error_leaves_side_information_out(judge):
    rng = np.random.default_rng(0)
    scores, errors = rng.uniform(0.4, 0.6, 180), rng.uniform(0.4, 0.6, 180)
    without, same = trial("ridge", scores, errors), trial("ridge", scores, errors)
    errs_more = trial("ridge", scores, errors + 0.05)
    finds_more = trial("ridge", scores + 0.1, errors)
    contradicted = trial("ridge", scores + 0.1, errors + 0.05)
    assert "errs less without it" in leaves_side_out(without, errs_more, judge)
    assert "finds more without it" in leaves_side_out(finds_more, without, judge)
    for with_it in (same, finds_more, contradicted):
        assert leaves_side_out(without, with_it, judge) is None
    assert leaves_side_out(contradicted, without, judge) is None
    assert leaves_side_out(errs_more, without, judge) is None


# --- labels of the same items in two files ---


@pytest.mark.parametrize("wrong", ["old", "new"])
def test_items_that_old_and_new_embeddings_put_in_two_classes_are_refused(wrong):
    old, new = world()
    permuted = np.roll(old.labels, 3)
    given = {"old": old, "new": new}
    given[wrong] = replace(given[wrong], labels=permuted)
    words = r"item 'i0000' is of class \d+ in the \w+ embeddings and of class \d+ in the \w+ emb"
    with pytest.raises(LabelMismatchError, match=words):
        fit(given["old"], None, given["new"], settings=RIDGE, run=CPU)


def test_classes_that_only_one_of_the_two_knows_count():
    old, new = world()
    half = np.arange(len(old)) % 2 == 0
    one = replace(old, labels=np.where(half, old.labels, -1))
    other = replace(new, labels=np.where(half, -1, new.labels))
    found = Pairs(one, None, other)
    np.testing.assert_array_equal(found.labels, old.labels)
    named = {label: f"class {label}" for label in range(30)}
    backwards = {29 - label: name for label, name in named.items()}
    by_name = Pairs(
        replace(one, class_names=named),
        None,
        replace(other, labels=np.where(half, -1, 29 - new.labels), class_names=backwards),
    )
    np.testing.assert_array_equal(by_name.labels, old.labels)
