"""What a plan predicts from a sample, and the gate: by hand, against others, its words."""

import itertools
import json
import math

import jaxtyping
import numpy as np
import pytest

from onward.backfill_curve import backfill_curve, random_order
from onward.compatibility import evaluate_embeddings
from onward.dense import Dense, Uncertainty
from onward.errors import ConfigurationError, SpaceMismatchError, UpgradeError
from onward.gallery import create_gallery
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation, linear
from onward.upgrading import (
    Prediction,
    Requirement,
    Unpredicted,
    Upgrade,
    plan_backfill,
    plan_upgrade,
    predict,
)
from onward.upgrading.gate import default_requirement
from onward.upgrading.judged import fitted_on
from onward.upgrading.order_curves import SEEDS
from onward.upgrading.routes import Routes

LINE_OLD, LINE_NEW = Space("line@1", 1), Space("line@2", 1)
OLD, SIDE, NEW = Space("old@1", 6), Space("side@1", 4), Space("new@2", 8)
PAIRS = tuple(f"{pair}{one}" for pair in range(10) for one in "ab")

numbers = itertools.count()


def scaled(factor, old=LINE_OLD, new=LINE_NEW):
    weight = factor * np.eye(new.dim, old.dim, dtype=np.float32)
    return linear(old, None, new, weight, np.zeros(new.dim, np.float32), made_by={})


def line(space, *, crossed, labels=True):
    """Ten pairs far from each other; of the first two, the second ones have changed places."""
    places = np.array([100 * int(item[0]) + (item[1] == "b") for item in PAIRS], np.float32)
    if crossed:
        places[[1, 3]] = places[[3, 1]]
    known = np.array([int(item[0]) for item in PAIRS]) if labels else None
    return Embeddings(PAIRS, places[:, None], space, known)


def line_gallery(*, crossed=True, labels=True):
    old = line(LINE_OLD, crossed=crossed, labels=labels)
    return create_gallery(f"memory:p{next(numbers)}", LINE_OLD, items=[old])


def world(items=200, seed=0, *, spoil=0.0, made_by=None):
    """A gallery whose old vectors see a part of the meaning, the sample, and two transformations.

    Returns gallery, true new embeddings, and h with side-information, spoilt by noise on its map.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(items) % 20
    meaning = rng.normal(size=(20, 10))[labels] + 0.9 * rng.normal(size=(items, 10))
    to_new = rng.normal(size=(10, 8))
    ids = tuple(f"i{number:04}" for number in range(items))
    old = Embeddings(ids, meaning[:, :6].astype(np.float32), OLD, labels)
    side = Embeddings(ids, meaning[:, 6:].astype(np.float32), SIDE)
    new = Embeddings(ids, (meaning @ to_new).astype(np.float32), NEW)
    gallery = create_gallery(f"memory:p{next(numbers)}", OLD, SIDE, items=[old, side])
    weight = (to_new + spoil * rng.normal(size=to_new.shape)).T
    h = linear(OLD, SIDE, NEW, weight, np.zeros(8, np.float32), made_by=made_by or {})
    return gallery, new, h


def unsure(h, seed=0):
    weight = np.random.default_rng(seed).normal(size=(1, h.new.dim)).astype(np.float32)
    layer = Dense(weight, np.zeros(1, np.float32), relu=False)
    uncertainty = Uncertainty(layer, np.zeros(h.new.dim, np.float32))
    return Transformation(h.old, h.side, h.new, h.steps, h.made_by, uncertainty)


# Worked by hand


def test_a_prediction_worked_by_hand():
    """Of twenty items four have a stranger beside them, their partner at ranks 3, 5, 2 and 2."""
    gallery, sample = line_gallery(), line(LINE_NEW, crossed=False, labels=False)
    found = predict(gallery, Routes((scaled(1),)), sample, shares=[])
    crossed = (16 + 1 / 3 + 1 / 5 + 1 / 2 + 1 / 2) / 20
    expected = {
        "do nothing": (16 / 20, 1.0, crossed),
        "full backfill": (1.0, 1.0, 1.0),
    }
    for name, values in expected.items():
        got = [found.value(metric, name) for metric in ("cmc@1", "cmc@5", "map")]
        np.testing.assert_allclose(got, values, err_msg=name)
    assert [cell.name for cell in found.cells] == ["do nothing", "upgrade", "full backfill"]
    assert found.value("agreement", "full backfill") == 1
    assert (found.items, found.queries, found.neighbours, found.lost) == (20, 20, 2, 0)


def test_a_transformation_that_gives_the_true_vectors_gives_what_full_backfill_gives():
    gallery, sample = line_gallery(crossed=False), line(LINE_NEW, crossed=False)
    found = predict(gallery, Routes((scaled(1),)), sample)
    for metric in found.metrics:
        for cell in found.cells:
            assert found.value(metric, cell.name) == 1, (metric, cell.name)
            assert (cell.gains[metric].estimate, cell.gains[metric].clear) == (0, False)


def test_an_item_that_cannot_be_carried_counts_as_not_found_until_it_is_backfilled():
    gallery, new, h = world(40)
    gallery.delete(new.ids[:10])
    gallery.add(Embeddings(new.ids[:10], np.zeros((10, 6), np.float32), OLD, np.arange(10)))
    found = predict(gallery, Routes((unsure(h),)), new, shares=[0.1, 0.25])
    assert found.lost == 10
    assert "10 items cannot be carried over; upgrading alone loses them" in str(found)
    top = found.value("map", "full backfill")
    assert found.value("map", "upgrade") < top
    # they come first, as in a backfill, and the vectors of the others are the true ones already
    assert found.value("map", "upgrade + backfill 10 %") < top
    part = found.value("map", "upgrade + backfill 25 %")
    np.testing.assert_allclose(part, top, atol=1e-9)


# Against what is known otherwise


@pytest.mark.parametrize("known", [True, False], ids=["uncertainty", "random"])
def test_cells_are_those_of_the_backfill_curve(known):
    gallery, new, h = world(spoil=0.4)
    h = unsure(h) if known else h
    found = predict(gallery, Routes((h,)), new, shares=[0.1, 0.5], seed=3)
    assert found.order == ("uncertainty" if known else "random")
    old, side = gallery.read(OLD), gallery.read(SIDE)
    orders = [random_order(old.ids, seed=3 + turn) for turn in range(SEEDS)]
    if known:
        values = dict(zip(old.ids, h.uncertainties(old, side), strict=True))
        orders = [sorted(old.ids, key=lambda item: -values[item])]
    labelled = Embeddings(new.ids, new.vectors, NEW, old.labels)
    upgraded = h.apply(old, side)
    curves = [
        backfill_curve(labelled, upgraded, labelled, order, exclude_self=True, points=11)
        for order in orders
    ]
    nothing = evaluate_embeddings(old, old, exclude_self=True)
    for metric in ("cmc@1", "cmc@5", "map"):
        values = np.mean([curve.values(metric) for curve in curves], axis=0)
        expected = [nothing.to_json()[metric], values[0], values[1], values[5], values[10]]
        got = [cell.values[metric].estimate for cell in found.cells]
        np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("labels", [True, False])
def test_every_interval_contains_its_value_and_gains_are_differences(seed, labels):
    gallery, new, h = world(60, seed, spoil=0.5)
    if not labels:
        gallery = create_gallery(
            f"memory:p{next(numbers)}",
            OLD,
            SIDE,
            items=[Embeddings(e.ids, e.vectors, e.space) for e in map(gallery.read, (OLD, SIDE))],
        )
    found = predict(gallery, Routes((h,)), new, seed=seed)
    for cell, metric in itertools.product(found.cells, found.metrics):
        value, gain = cell.values[metric], cell.gains[metric]
        assert 0 <= value.low <= value.estimate <= value.high <= 1
        assert gain.low <= gain.estimate <= gain.high
        before = found.value(metric, "do nothing")
        assert math.isclose(gain.estimate, value.estimate - before, abs_tol=1e-12)
    assert found.to_json() == predict(gallery, Routes((h,)), new, seed=seed).to_json()
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


def test_only_so_many_items_are_judged_the_same_for_any_order_of_the_sample():
    gallery, new, h = world(100)
    found = predict(gallery, Routes((h,)), new, most_items=30)
    assert found.items == 30
    assert found.left_out == {"more than 30 are not needed": 70}
    again = predict(gallery, Routes((h,)), new.select(np.arange(100)[::-1]), most_items=30)
    assert [c.to_json() for c in again.cells] == [c.to_json() for c in found.cells]


# Labels


def test_without_labels_the_agreement_with_full_backfill_is_predicted_and_required():
    gallery, sample = line_gallery(labels=False), line(LINE_NEW, crossed=False, labels=False)
    plan = plan_upgrade(gallery, scaled(1), sample=sample)
    assert plan.predicted.metrics == ("agreement",)
    assert plan.predicted.value("agreement", "full backfill") == 1
    assert str(plan.verdict.requirement) == "agreement >= old/old"
    assert "by agreement of 2 neighbours on 20 items" in str(plan)
    assert "nothing is known of how good the new model itself is" in plan.recommendation
    with pytest.raises(UpgradeError, match=r"map >= old/old is required, but .* have no labels"):
        plan_upgrade(gallery, scaled(1), sample=sample, require=Requirement.parse("map>=old/old"))


def test_the_sample_s_labels_come_before_the_gallery_s():
    gallery, sample = line_gallery(), line(LINE_NEW, crossed=False)
    turned = Embeddings(sample.ids, sample.vectors, LINE_NEW, np.arange(20) % 2)
    found = predict(gallery, Routes((scaled(1),)), turned)
    assert found.value("cmc@1", "full backfill") == 0
    assert predict(gallery, Routes((scaled(1),)), sample).value("cmc@1", "full backfill") == 1


def test_where_enough_items_have_a_label_the_others_are_left_out():
    gallery, new, h = world(60)
    gallery.delete(new.ids[:15])
    old = Embeddings(new.ids[:15], np.ones((15, 6), np.float32), OLD)
    gallery.add(old, Embeddings(old.ids, np.ones((15, 4), np.float32), SIDE))
    found = predict(gallery, Routes((h,)), new)
    assert (found.items, "map" in found.metrics) == (45, True)
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
    found = predict(gallery, Routes((h,)), new)
    assert found.items == 155
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
    found = predict(gallery, Routes((h,)), new)
    assert found.unlisted == unlisted
    assert ("training pairs no ids are kept" in str(found)) == bool(unlisted)


def test_where_nothing_is_left_to_judge_by_the_plan_says_what_to_do():
    ids = [f"i{number:04}" for number in range(190)]
    gallery, new, h = world(made_by={"sample": {"ids": ids}})
    plan = plan_upgrade(gallery, h, sample=new)
    assert isinstance(plan.predicted, Unpredicted)
    assert plan.allowed
    assert plan.to_json()["prediction"] is None
    words = "10 of the sample's 200 items are left to judge by, 20 are needed; left out: 190 "
    assert words in plan.recommendation
    assert "`onward fit --sample` keeps a fifth" in plan.recommendation
    with pytest.raises(UpgradeError, match=r"map > 0\.5 is required, but nothing can be predicted"):
        plan_upgrade(gallery, h, sample=new, require=Requirement.parse("map > 0.5"))


def test_a_sample_of_which_nothing_can_be_carried_predicts_nothing():
    gallery, new, h = world(30)
    bare = create_gallery(f"memory:p{next(numbers)}", OLD, SIDE, items=[gallery.read(OLD)])
    found = predict(bare, Routes((h,)), new)
    assert "and no transformation can carry one of them" in str(found)


def test_vectors_that_an_upgrade_has_made_are_told_where_they_stand_for_queries():
    gallery, new, h = world(40)
    Upgrade(gallery, h).start()
    Upgrade(gallery, h).run()
    gallery.serve(NEW, query_model=None)
    third = Space("third@3", 8)
    onward = scaled(1, NEW, third)
    sample = Embeddings(new.ids, new.vectors, third)
    found = predict(gallery, Routes((onward,)), sample)
    assert found.remade == 40
    assert "40 queries are vectors that an upgrade has made" in str(found)


def test_a_sample_in_another_space_is_refused():
    gallery, new, h = world(30)
    other = Embeddings(new.ids, new.vectors, Space("other@9", 8))
    words = r"the sample is in other@9 \(8, l2\), the upgrade leads to new@2 .* give embeddings of"
    with pytest.raises(SpaceMismatchError, match=words):
        plan_upgrade(gallery, h, sample=other)
    with pytest.raises(SpaceMismatchError, match=words):
        Upgrade(gallery, h).start(sample=other)
    assert NEW not in gallery.spaces()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 7.0, math.nan, math.inf])
def test_a_share_that_is_no_part_is_refused(share):
    gallery, new, h = world(30)
    with pytest.raises(ConfigurationError, match=f"{share:g} of the items is not a part of"):
        predict(gallery, Routes((h,)), new, shares=[0.5, share])


def test_a_cell_that_is_not_there_is_refused():
    gallery, new, h = world(30)
    with pytest.raises(
        UpgradeError, match="nothing is predicted of 'old/old', but of 'do nothing'"
    ):
        predict(gallery, Routes((h,)), new).cell("old/old")


# The gate


def far():
    """A gallery that h, fitted elsewhere, makes worse; full backfill makes it better."""
    gallery, sample = line_gallery(crossed=False), line(LINE_NEW, crossed=False)
    worse = linear(LINE_OLD, None, LINE_NEW, np.zeros((1, 1)), np.zeros(1, np.float32), made_by={})
    return gallery, sample, worse


def test_a_gallery_that_an_upgrade_would_make_worse_is_not_upgraded_unless_forced():
    gallery, sample, worse = far()
    plan = plan_upgrade(gallery, worse, sample=sample)
    assert not plan.allowed
    assert plan.recommendation.startswith("Do nothing: upgrading takes map from 100.0 % (doing")
    assert "gate CLOSED: map >= old/old is required, that is 100.0 %" in str(plan)
    assert "--force" in plan.to_json()["next_steps"][0]["why"]
    upgrade, before = Upgrade(gallery, worse), gallery.journal()
    with pytest.raises(
        UpgradeError, match=r"not started: the gate is CLOSED: .* Do nothing: .*--f"
    ):
        upgrade.start(prediction=plan.predicted)
    assert gallery.journal() == before
    assert LINE_NEW not in gallery.spaces()
    upgrade.start(prediction=plan.predicted, force=True)
    gate = gallery.journal()[1]
    assert (gate["event"], gate["forced"], gate["met"]) == ("gate", True, False)
    assert gate["prediction"]["cells"][0]["name"] == "do nothing"
    assert upgrade.run().done == 20


def test_an_upgrade_that_meets_the_gate_starts_and_the_sample_is_the_first_slice_of_its_backfill():
    gallery, new, h = world(200)
    sample = new.select(np.arange(100))
    plan = plan_upgrade(gallery, h, sample=sample)
    assert plan.allowed
    assert "the sample's vectors and the origin 'embedded' in up to 100 rows" in plan.writes
    assert NEW not in gallery.spaces()
    upgrade = Upgrade(gallery, h)
    stranger = Embeddings(("none",), np.ones((1, 8), np.float32), NEW)
    both = Embeddings(
        (*sample.ids, "none"), np.concatenate([sample.vectors, stranger.vectors]), NEW
    )
    for _ in range(2):  # a second time changes nothing
        upgrade.start(prediction=plan.predicted, sample=both)
        assert gallery.describe().spaces[NEW].embedded == 100
    assert upgrade.run().done == 100
    np.testing.assert_array_equal(gallery.read(NEW, sample.ids).vectors, sample.vectors)
    assert upgrade.verify().passed
    events = {entry["event"]: entry for entry in reversed(gallery.journal())}
    assert (events["gate"]["forced"], events["gate"]["met"]) == (False, True)
    assert (events["sample"]["items"], events["sample"]["written"]) == (101, 100)
    # now that the vectors stand in the gallery, planning again says the same
    assert plan_upgrade(gallery, h, sample=sample).predicted.to_json() == plan.predicted.to_json()


def test_something_is_required_but_there_is_no_sample():
    gallery, _, h = world(30)
    require = Requirement.parse("map >= old/old")
    words = r"map >= old/old is required, but nothing is predicted; give true new embeddings"
    with pytest.raises(UpgradeError, match=words):
        plan_upgrade(gallery, h, require=require)
    with pytest.raises(UpgradeError, match=words):
        Upgrade(gallery, h).start(require=require)
    assert NEW not in gallery.spaces()


def test_a_prediction_of_another_transformation_opens_no_gate():
    gallery, new, h = world(40)
    other = plan_upgrade(gallery, world(40, spoil=0.1)[2], sample=new).predicted
    words = f"is of the transformation {other.transformation[:8]}, the upgrade is by {h.digest[:8]}"
    with pytest.raises(UpgradeError, match=words):
        Upgrade(gallery, h).start(prediction=other, force=True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("map >= old/old", "map >= old/old"),
        ("map>old/old", "map > old/old"),
        (" cmc@1  >=  0.95 *new/new ", "cmc@1 >= 0.95 * new/new"),
        ("cmc@5 > 1.5*old/old", "cmc@5 > 1.5 * old/old"),
        ("agreement >= .5", "agreement >= 0.5"),
        ("map >= 1", "map >= 1"),
    ],
)
def test_a_requirement_is_read_and_written(text, shown):
    requirement = Requirement.parse(text)
    assert str(requirement) == shown
    assert Requirement.parse(shown) == requirement


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("map => old/old", r"'map => old/old' is not a requirement; write a metric \(cmc@1, cmc@5"),
        ("map >= new/old", "is not a requirement"),
        ("map == 0.5", "is not a requirement"),
        ("", "'' is not a requirement"),
        ("cmc@3 >= 0.5", "there is no metric 'cmc@3' to require something of; choose one of"),
        ("map >= 50", "map lies between 0 and 1, and 50 is required of it; give a fraction"),
        ("map >= 0 * old/old", r"0 \* old/old is nothing to require; give a multiple"),
        (f"map >= {'9' * 400} * old/old", r"inf \* old/old is nothing to require; give a"),
        ("map >= nan", "is not a requirement"),
        ("map >= -0.5", "is not a requirement"),
        ("map >= nan * old/old", "is not a requirement"),
    ],
)
def test_what_is_no_requirement_is_refused(text, words):
    with pytest.raises(ConfigurationError, match=words):
        Requirement.parse(text)


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0, 7.0])
@pytest.mark.parametrize("cell", [None, "old/old"])
def test_a_number_that_cannot_be_required_is_refused(cell, number):
    if cell is not None and number == 7.0:
        assert str(Requirement("map", False, cell, number)) == "map >= 7 * old/old"
        return
    with pytest.raises(ConfigurationError, match=f"{number:g}"):
        Requirement("map", False, cell, number)


@pytest.mark.parametrize("options", [{"seed": -1}, {"most_items": 0}, {"most_items": 2.5}])
def test_numbers_of_a_prediction_that_are_none_are_refused(monkeypatch, options):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    gallery, new, h = world(30)
    ((name, value),) = options.items()
    words = f"{name} is {value}; give a whole number"
    with pytest.raises(ConfigurationError, match=words):
        predict(gallery, Routes((h,)), new, **options)
    with pytest.raises(ConfigurationError, match=words):
        plan_backfill(gallery, h, sample=new, **options)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("map >= old/old", True),
        ("map > old/old", False),
        ("map >= new/new", True),
        ("cmc@1 >= 1", True),
        ("cmc@1 > 0.999", True),
        ("agreement >= 1.01 * new/new", False),
    ],
)
def test_a_requirement_is_met_or_not(text, met):
    gallery, sample = line_gallery(crossed=False), line(LINE_NEW, crossed=False)
    found = predict(gallery, Routes((scaled(1),)), sample)
    verdict = Requirement.parse(text).judge(found)
    assert verdict.met is met
    assert str(verdict).startswith("open: " if met else "CLOSED: ")
    assert str(default_requirement(found)) == "map >= old/old"


# Words


def test_a_plan_without_a_sample_says_how_to_get_one():
    gallery, _, h = world(30)
    plan = plan_upgrade(gallery, h)
    assert (plan.predicted, plan.verdict, plan.allowed) == (None, None, True)
    for command in ("onward gallery sample", "onward embed MODEL sample.jsonl", "--sample new.p"):
        assert command in plan.recommendation


def test_a_gallery_without_side_information_is_told_what_it_would_bring():
    gallery = line_gallery()
    (advice,) = plan_upgrade(gallery, scaled(1)).advice
    assert "Store side-information with every item from now on" in advice
    gallery, _, h = world(30)
    assert plan_upgrade(gallery, h).advice == ()
    gallery.add(Embeddings(("bare", "naked"), np.ones((2, 6), np.float32), OLD))
    (advice,) = plan_upgrade(gallery, h).advice
    assert advice.startswith("2 rows have no side-information: fit a second transformation without")


def test_rows_in_a_space_that_nothing_reads_are_counted_and_named():
    gallery, _, h = world(30)
    other = Space("shop-2020", 3)
    gallery.add_space(other)
    gallery.add(Embeddings(("x", "y", "z"), np.ones((3, 3), np.float32), other))
    plan = plan_upgrade(gallery, h)
    assert plan.elsewhere == {other: 3}
    assert plan.to_json()["elsewhere"] == {"shop-2020": 3}
    assert "3 rows that are blocked have a vector in shop-2020, which nothing reads" in str(plan)


@pytest.mark.parametrize(
    ("spoil", "seed", "begins"),
    [
        (0.0, 0, "Upgrade: it takes map from"),
        (0.4, 0, "Upgrade with care: it takes map from"),
        (3.0, 0, "Do not upgrade by this alone: it takes map from"),
    ],
)
def test_the_recommendation_follows_the_numbers(spoil, seed, begins):
    gallery, new, h = world(100, seed, spoil=spoil)
    plan = plan_upgrade(gallery, h, sample=new)
    assert isinstance(plan.predicted, Prediction)
    assert plan.recommendation.startswith(begins), str(plan)
    assert "\n" not in plan.recommendation
