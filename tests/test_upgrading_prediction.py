"""What a plan predicts within a sample and in the whole gallery: by hand, and against others."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from upgrades import run_upgrade
from worlds import (
    LINE_NEW,
    NEW,
    OLD,
    SIDE,
    line,
    line_gallery,
    numbers,
    scaled,
    unlabelled,
    unsure,
    world,
)

from onward.errors import ConfigurationError, SpaceMismatchError, UpgradeError
from onward.evaluation.comparison import evaluate_embeddings
from onward.evaluation.intervals import over_clusters
from onward.gallery import create_gallery
from onward.spaces import Embeddings, Space
from onward.transformation import linear
from onward.upgrading import (
    Requirement,
    Upgrade,
    decide,
    evidence,
    forecast,
    plan_backfill,
    plan_upgrade,
)
from onward.upgrading.evidence import fitted_on
from onward.upgrading.routes import Routes

# Worked by hand


def test_a_prediction_worked_by_hand():
    """Of twenty items four have a stranger beside them, their partner at ranks 3, 5, 2 and 2."""
    gallery, sample = line_gallery(), line(LINE_NEW, crossed=False, labels=False)
    found = forecast(gallery, Routes((scaled(1),)), sample).within
    crossed = (16 + 1 / 3 + 1 / 5 + 1 / 2 + 1 / 2) / 20
    expected = {
        "do nothing": (16 / 20, 1.0, crossed),
        "full backfill": (1.0, 1.0, 1.0),
    }
    for name, values in expected.items():
        got = [found.value(metric, name) for metric in ("cmc@1", "cmc@5", "map")]
        np.testing.assert_allclose(got, values, err_msg=name)
    backfills = [f"upgrade + backfill {share} %" for share in (10, 25, 50)]
    names = ["do nothing", "upgrade", *backfills, "full backfill"]
    assert [cell.name for cell in found.cells] == names
    assert found.value("agreement", "full backfill") == 1
    assert (found.items, found.queries, found.lost) == (20, 20, 0)


def test_a_transformation_that_gives_the_true_vectors_gives_what_full_backfill_gives():
    gallery, sample = line_gallery(crossed=False), line(LINE_NEW, crossed=False)
    found = forecast(gallery, Routes((scaled(1),)), sample).within
    for metric in found.metrics:
        for cell in found.cells:
            assert found.value(metric, cell.name) == 1, (metric, cell.name)
            assert (cell.gains[metric].estimate, cell.gains[metric].clear) == (0, False)


def test_an_item_that_cannot_be_carried_counts_as_not_found_until_it_is_backfilled():
    gallery, new, h = world(40)
    gallery.delete(new.ids[:10])
    gallery.add(Embeddings(new.ids[:10], np.zeros((10, 6), np.float32), OLD, np.arange(10)))
    predicted = forecast(gallery, Routes((unsure(h),)), new)
    found = predicted.within
    assert (found.lost, predicted.whole.lost) == (10, 10)
    assert str(predicted).count("10 items cannot be carried over; upgrading alone loses them") == 2
    top = found.value("map", "full backfill")
    assert found.value("map", "upgrade") < top
    # they come first, as in a backfill, and the vectors of the others are the true ones already
    assert found.value("map", "upgrade + backfill 10 %") < top
    part = found.value("map", "upgrade + backfill 25 %")
    np.testing.assert_allclose(part, top, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("labels", [True, False])
def test_every_interval_contains_its_value_and_gains_are_differences(seed, labels):
    gallery, new, h = world(60, seed, spoil=0.5)
    gallery = gallery if labels else unlabelled(gallery)
    found = forecast(gallery, Routes((h,)), new, seed=seed)
    assert (found.whole is not None) == labels
    for judgement in filter(None, (found.whole, found.within)):
        for cell, metric in itertools.product(judgement.cells, judgement.metrics):
            value, gain = cell.values[metric], cell.gains[metric]
            assert 0 <= value.low <= value.estimate <= value.high <= 1
            assert gain.low <= gain.estimate <= gain.high
            before = judgement.value(metric, "do nothing")
            assert math.isclose(gain.estimate, value.estimate - before, abs_tol=1e-12)
    assert found.to_json() == forecast(gallery, Routes((h,)), new, seed=seed).to_json()
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


def test_only_so_many_items_are_judged_the_same_for_any_order_of_the_sample(monkeypatch):
    monkeypatch.setattr(evidence, "MOST_ITEMS", 30)
    gallery, new, h = world(100)
    found = forecast(gallery, Routes((h,)), new)
    assert found.within.items == 30
    assert (found.whole.items, found.whole.queries) == (100, 30)
    assert found.left_out == {"more than 30 are not needed": 70}
    again = forecast(gallery, Routes((h,)), new.select(np.arange(100)[::-1]))
    for one, other in ((found.whole, again.whole), (found.within, again.within)):
        assert one.to_json() == other.to_json()


# The whole gallery


def by_hand(gallery, new, h, queries, written=()):
    """What a full evaluation gives: each way's gallery is built and asked by hand."""
    old, side = gallery.read(OLD), gallery.read(SIDE)
    labelled = Embeddings(new.ids, new.vectors, NEW, old.align(new.ids).labels)
    upgraded = h.apply(old, side)
    rows = np.isin(old.ids, list(written))
    vectors = np.where(rows[:, None], labelled.align(old.ids).vectors, upgraded.vectors)
    return {
        "do nothing": evaluate_embeddings(old.align(queries), old, exclude_self=True),
        "upgrade": evaluate_embeddings(
            labelled.align(queries),
            Embeddings(old.ids, upgraded.vectors, NEW, old.labels),
            exclude_self=True,
        ),
        "upgrade + the sample": evaluate_embeddings(
            labelled.align(queries),
            Embeddings(old.ids, vectors, NEW, old.labels),
            exclude_self=True,
        ),
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_whole_gallery_is_judged_as_a_full_evaluation_by_hand_does(seed):
    gallery, new, h = world(150, seed, spoil=0.5)
    sample = new.select(np.arange(40))
    found = forecast(gallery, Routes((h,)), sample).whole
    expected = by_hand(gallery, new, h, sample.ids, written=sample.ids)
    assert [cell.name for cell in found.cells] == list(expected)
    assert (found.items, found.queries, found.asked) == (150, 40, "items of the sample")
    for cell in found.cells:
        for metric in ("cmc@1", "cmc@5", "map"):
            got = cell.values[metric].estimate
            assert got == pytest.approx(expected[cell.name].to_json()[metric], abs=1e-12)
    gained = expected["upgrade + the sample"].map - expected["upgrade"].map
    assert found.of_sample.estimate == pytest.approx(gained, abs=1e-12)


def test_its_interval_is_that_of_the_difference_over_classes():
    gallery, new, h = world(150, spoil=0.5)
    sample = new.select(np.arange(40))
    found = forecast(gallery, Routes((h,)), sample).whole.cell("upgrade + the sample").gains["map"]
    cells = by_hand(gallery, new, h, sample.ids, written=sample.ids)
    gains = cells["upgrade + the sample"].average_precision - cells["do nothing"].average_precision
    classes = gallery.read(OLD, sample.ids).labels.tolist()
    assert found == over_clusters(gains, classes, difference=True)


def test_items_that_h_was_fitted_on_enter_as_it_makes_them_unseen():
    ids = tuple(f"i{number:04}" for number in range(200))
    gallery, new, h = world(made_by={"sample": {"ids": ids[:50]}})
    rng = np.random.default_rng(1)
    unseen = Embeddings(ids[:50], rng.normal(size=(50, 8)).astype(np.float32), NEW)
    sample = new.select(np.arange(100))
    found = forecast(gallery, Routes((replace(h, out_of_fold=unseen),)), sample).whole
    assert (found.items, found.queries) == (200, 50)
    old = gallery.read(OLD)
    upgraded = h.apply(old, gallery.read(SIDE)).vectors
    vectors = np.concatenate([unseen.vectors, upgraded[50:]])
    labelled = Embeddings(ids, new.vectors, NEW, old.labels).select(np.arange(50, 100))
    expected = evaluate_embeddings(
        labelled, Embeddings(ids, vectors, NEW, old.labels), exclude_self=True
    )
    assert found.value("map", "upgrade") == pytest.approx(expected.map, abs=1e-12)
    # in the cell of what is written the sample's true vectors stand, the fitted items' too
    exact = by_hand(gallery, new, h, sample.ids[50:], written=sample.ids)["upgrade + the sample"]
    assert found.value("map", "upgrade + the sample") == pytest.approx(exact.map, abs=1e-12)


def test_fitted_items_of_which_nothing_unseen_and_nothing_true_is_known_are_left_out():
    ids = tuple(f"i{number:04}" for number in range(200))
    gallery, new, h = world(made_by={"pairs": {"ids": ids[50:90]}})
    found = forecast(gallery, Routes((h,)), new.select(np.arange(60)))
    assert (found.whole.items, found.whole.queries) == (170, 50)
    why = "a transformation was fitted on them, and nothing says what it gives for them unseen"
    assert found.whole.left_out == {why: 30}
    assert f"left out of the gallery: 30 ({why})" in str(found)


def test_what_h_gives_for_items_that_it_was_fitted_on_does_not_keep_the_sample_from_being_written():
    ids = tuple(f"i{number:04}" for number in range(200))
    gallery, new, h = world(made_by={"pairs": {"ids": ids[:50]}})
    plan = plan_upgrade(gallery, h, sample=new.select(np.arange(100)))
    assert (plan.prediction.whole.flattered, plan.prediction.whole.queries) == (50, 50)
    assert "upgrade: 50 items are ones that h was fitted on; this flatters" in str(plan)
    assert plan.decision.writes_sample
    worse = replace(plan.prediction.whole.of_sample, estimate=-0.2, low=-0.3, high=-0.1)
    flattered = replace(plan.prediction.whole, of_sample=worse)
    assert decide(replace(plan.prediction, whole=flattered)).writes_sample
    known = replace(plan.prediction, whole=replace(flattered, flattered=0))
    assert not decide(known).writes_sample


def test_what_the_new_model_has_embedded_already_stays_and_is_judged_as_it_is():
    gallery, new, h = world(150, spoil=1.0)
    sample, before = new.select(np.arange(40)), new.select(np.arange(30, 80))
    Upgrade(gallery, h).start(sample=before)
    found = forecast(gallery, Routes((h,)), sample).whole
    for name, written in {
        "upgrade": before.ids,
        "upgrade + the sample": new.ids[:80],
    }.items():
        expected = by_hand(gallery, new, h, sample.ids, written=written)["upgrade + the sample"]
        assert found.value("map", name) == pytest.approx(expected.map, abs=1e-12)


def test_of_a_large_gallery_so_many_items_are_searched_always_with_the_sample(monkeypatch):
    monkeypatch.setattr(evidence, "MOST_SEARCHED", 60)
    gallery, new, h = world(200)
    sample = new.select(np.arange(150, 190))
    found = forecast(gallery, Routes((h,)), sample).whole
    assert (found.items, found.queries) == (60, 40)
    assert found.left_out == {"more than 60 are not needed": 140}
    again = forecast(gallery, Routes((h,)), sample).whole
    assert again.to_json() == found.to_json()
    monkeypatch.setattr(evidence, "MOST_SEARCHED", 10)
    few = forecast(gallery, Routes((h,)), sample).whole
    assert few.items == 40


def test_where_only_one_side_names_its_classes_the_gallery_s_labels_judge():
    gallery, new, h = world(100)
    names = {label: f"class {label}" for label in range(3)}
    wrong = Embeddings(new.ids, new.vectors, NEW, np.arange(100) % 3, names)
    assert forecast(gallery, Routes((h,)), wrong).whole.to_json() == (
        forecast(gallery, Routes((h,)), new).whole.to_json()
    )


# Labels


def test_without_labels_the_agreement_with_full_backfill_is_predicted_and_required():
    gallery, sample = line_gallery(labels=False), line(LINE_NEW, crossed=False, labels=False)
    plan = plan_upgrade(gallery, scaled(1), sample=sample)
    assert plan.prediction.whole is None
    assert plan.prediction.within.metrics == ("agreement",)
    assert plan.prediction.within.value("agreement", "full backfill") == 1
    assert "by agreement of 2 neighbours in 20 of its items" in str(plan)
    assert "agreement of items with items" in plan.decision.says
    assert "queries that are not items may give other results" in plan.decision.says
    assert "not whether the new model is better" in plan.recommendation
    with pytest.raises(UpgradeError, match=r"map >= old/old is required, but what is known in"):
        plan_upgrade(gallery, scaled(1), sample=sample, require=Requirement.parse("map>=old/old"))


def test_the_sample_s_labels_come_before_the_gallery_s():
    gallery, sample = line_gallery(), line(LINE_NEW, crossed=False)
    turned = Embeddings(sample.ids, sample.vectors, LINE_NEW, np.arange(20) % 2)
    found = forecast(gallery, Routes((scaled(1),)), turned)
    assert found.within.value("cmc@1", "full backfill") == 0
    found = forecast(gallery, Routes((scaled(1),)), sample)
    assert found.within.value("cmc@1", "full backfill") == 1


def test_where_enough_items_have_a_label_the_others_are_left_out():
    gallery, new, h = world(60)
    gallery.delete(new.ids[:15])
    old = Embeddings(new.ids[:15], np.ones((15, 6), np.float32), OLD)
    gallery.add(old, Embeddings(old.ids, np.ones((15, 4), np.float32), SIDE))
    found = forecast(gallery, Routes((h,)), new)
    assert (found.within.items, found.whole.items) == (45, 45)
    assert found.left_out == {"no label, where others have one": 15}


# What is left out


def test_items_that_h_was_fitted_on_are_left_out_however_it_came_to_know_them():
    ids = [f"i{number:04}" for number in range(200)]
    made_by = {
        "sample": {"ids": ids[:20]},
        "pairs": {"ids": ids[20:30]},
        "parts": [{"made_by": {"sample": {"ids": ids[30:35]}}}],
    }
    assert sorted(fitted_on(made_by)) == ids[:35]
    gallery, new, h = world(made_by=made_by)
    gallery.delete(ids[190:])
    found = forecast(gallery, Routes((h,)), new)
    assert (found.within.items, found.whole.queries, found.whole.items) == (155, 155, 190)
    assert found.left_out == {"a transformation was fitted on them": 35, "not in the gallery": 10}
    assert "left out of the sample: 35 (a transformation was fitted on them), 10" in str(found)


@pytest.mark.parametrize(
    ("made_by", "unlisted"),
    [
        ({"pairs": {"items": 5, "ids": list("abcde")}}, 0),
        ({"pairs": {"items": 90_000}}, 90_000),
        ({"pairs": {"items": 90_000}, "sample": {"ids": []}}, 0),
        ({"parts": [{"made_by": {"pairs": {"items": 7}}}, {"made_by": {}}]}, 7),
    ],
)
def test_training_pairs_whose_ids_are_not_kept_are_told(made_by, unlisted):
    gallery, new, h = world(40, made_by=made_by)
    found = forecast(gallery, Routes((h,)), new)
    assert found.unlisted == unlisted
    assert ("training pairs no ids are kept" in str(found)) == bool(unlisted)


def test_within_fewer_than_20_items_nothing_is_predicted_but_the_whole_gallery_is_judged():
    ids = [f"i{number:04}" for number in range(190)]
    gallery, new, h = world(made_by={"sample": {"ids": ids}})
    found = plan_upgrade(gallery, h, sample=new).prediction
    assert (found.within, found.whole.queries, found.whole.items) == (None, 10, 200)
    assert found.left_out == {"a transformation was fitted on them": 190}


def test_where_nothing_is_left_to_judge_by_the_plan_says_what_to_do():
    ids = [f"i{number:04}" for number in range(190)]
    gallery, new, h = world(made_by={"sample": {"ids": ids}})
    plan = plan_upgrade(unlabelled(gallery), h, sample=new)
    assert (plan.decision.answer, plan.decision.needed) == ("cannot judge", None)
    assert plan.to_json()["prediction"]["whole"] is None
    words = "10 of the sample's 200 items are left to judge by, 20 are needed; left out: 190 "
    assert words in plan.recommendation
    assert plan.recommendation.startswith("Not known: nothing can be predicted: ")
    assert "keep some of the sample for the plan when fitting: a fifth" in plan.recommendation
    with pytest.raises(UpgradeError, match=r"map > 0\.5 is required, but nothing can be predicted"):
        plan_upgrade(unlabelled(gallery), h, sample=new, require=Requirement.parse("map > 0.5"))


def test_a_sample_of_which_nothing_can_be_carried_is_found_by_nothing():
    gallery, new, h = world(30)
    bare = create_gallery(f"memory:p{next(numbers)}", OLD, SIDE, items=[gallery.read(OLD)])
    found = forecast(bare, Routes((h,)), new)
    assert (found.whole.value("map", "upgrade"), found.whole.lost) == (0, 30)
    assert found.within is None
    why = forecast(unlabelled(bare), Routes((h,)), new).why
    assert "and no transformation can carry one of them" in why


def test_vectors_that_an_upgrade_has_made_are_told_where_they_stand_for_queries():
    gallery, new, h = world(40)
    run_upgrade(gallery, h)
    gallery.serve(NEW, query_model=None)
    third = Space("third@3", 8)
    onward = scaled(1, NEW, third)
    sample = Embeddings(new.ids, new.vectors, third)
    found = forecast(gallery, Routes((onward,)), sample)
    assert found.remade == 40
    assert "40 queries are vectors that an upgrade has made" in str(found)


def test_a_sample_in_another_space_is_refused():
    gallery, new, h = world(30)
    other = Embeddings(new.ids, new.vectors, Space("other@9", 8))
    words = r"the sample is in other@9 \(8, l2\), the upgrade leads to new@2 .* give embeddings of"
    with pytest.raises(SpaceMismatchError, match=words):
        plan_upgrade(gallery, h, sample=other)
    with pytest.raises(SpaceMismatchError, match=words):
        plan_backfill(gallery, h, sample=other)
    with pytest.raises(SpaceMismatchError, match=words):
        Upgrade(gallery, h).start(sample=other)
    assert NEW not in gallery.spaces()


def test_a_cell_that_is_not_there_is_refused():
    gallery, new, h = world(30)
    with pytest.raises(
        UpgradeError, match="nothing is predicted of 'old/old', but of 'do nothing'"
    ):
        forecast(gallery, Routes((h,)), new).whole.cell("old/old")


def test_a_seed_that_is_none_is_refused():
    gallery, new, h = world(30)
    for predict in (forecast, plan_backfill):
        routes = Routes((h,)) if predict is forecast else h
        with pytest.raises(ConfigurationError, match="seed is -1; give a whole number"):
            predict(gallery, routes, sample=new, seed=-1)


# Words


def test_a_plan_without_a_sample_says_how_to_get_one():
    gallery, _, h = world(30)
    plan = plan_upgrade(gallery, h)
    assert (plan.prediction, plan.decision, plan.allowed) == (None, None, False)
    assert "true new embeddings of some items, or real queries" in plan.recommendation


def test_a_gallery_without_side_information_is_told_what_it_would_bring():
    gallery = line_gallery()
    (advice,) = plan_upgrade(gallery, scaled(1)).advice
    assert "Store side-information with every item from now on" in advice
    left_out = replace(scaled(1), made_by={"without_side": True})
    (advice,) = plan_upgrade(gallery, left_out).advice
    assert advice.startswith("No side-information is read: on what was held out, a transformation")
    gallery, _, h = world(30)
    assert plan_upgrade(gallery, h).advice == ()
    gallery.add(Embeddings(("bare", "naked"), np.ones((2, 6), np.float32), OLD))
    (advice,) = plan_upgrade(gallery, h).advice
    assert advice.startswith("2 rows have no side-information: fit a second transformation that")


def test_rows_in_a_space_that_nothing_reads_are_counted_and_named():
    gallery, _, h = world(30)
    other = Space("shop-2020", 3)
    gallery.add_space(other)
    gallery.add(Embeddings(("x", "y", "z"), np.ones((3, 3), np.float32), other))
    plan = plan_upgrade(gallery, h)
    assert plan.elsewhere == {other: 3}
    assert plan.to_json()["elsewhere"] == {"shop-2020": 3}
    assert "3 rows that are blocked have a vector in shop-2020, which nothing reads" in str(plan)


def test_an_order_by_uncertainty_is_drawn_only_if_items_that_are_judged_have_one():
    _, new, h = world(200)
    whole, rest = np.arange(100), np.arange(100, 200)
    old = Embeddings(new.ids, new.vectors[:, :6], OLD, new.labels)
    side = Embeddings(new.ids, new.vectors[:, :4], SIDE)
    first = [old.select(whole), side.select(whole)]
    gallery = create_gallery("memory:fallback", OLD, SIDE, items=first)
    gallery.add(old.select(rest))
    fallback = linear(OLD, None, NEW, np.eye(8, 6), np.zeros(8, np.float32), made_by={})
    routes = Routes((unsure(h), fallback))
    assert forecast(gallery, routes, new.select(rest)).order == "random"
    assert forecast(gallery, routes, new).order == "uncertainty"
