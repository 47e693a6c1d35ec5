"""The gate: open, closed, cannot judge or not judged; what it lets be written; its words."""

import math
from dataclasses import replace

import numpy as np
import pytest
from worlds import (
    LINE_NEW,
    LINE_OLD,
    NEW,
    OLD,
    SIDE,
    line,
    line_gallery,
    numbers,
    scaled,
    unlabelled,
    world,
)

from onward.errors import ConfigurationError, UpgradeError
from onward.evaluation.intervals import Interval, queries_for
from onward.gallery import create_gallery
from onward.spaces import Embeddings
from onward.transformation import linear
from onward.upgrading import Requirement, Upgrade, decide, forecast, gate, plan_upgrade
from onward.upgrading.routes import Routes


def good():
    """A gallery, a sample of half of it, and a transformation that makes search much better."""
    gallery, new, h = world(200, seen=0.3)
    return gallery, new.select(np.arange(100)), h


def bad():
    """The same with a transformation that makes search worse."""
    gallery, new, h = world(200, spoil=3.0)
    return gallery, new.select(np.arange(100)), h


def events(gallery, kind):
    return [entry for entry in gallery.journal() if entry["event"] == kind]


# The answers


def test_it_is_open_where_search_gets_better_beyond_doubt():
    gallery, sample, h = good()
    plan = plan_upgrade(gallery, h, sample=sample)
    decision = plan.decision
    assert (decision.answer, decision.metric, decision.queries) == ("open", "map", 100)
    assert decision.gain.low > 0
    assert plan.allowed
    assert plan.recommendation.startswith("Upgrade: it takes map from 9.3 % (doing nothing) to 18.")
    assert "gate open: map 9.3 % -> 18.9 % (upgrade + the sample), +9.6 points [" in str(plan)
    upgrade = Upgrade(gallery, h)
    started = upgrade.start(prediction=plan.prediction, sample=sample)
    assert (started.gate.answer, started.gate.forced, started.gate.warning) == ("open", False, None)
    assert str(started.gate).startswith("open: map 9.3 % -> 18.9 %")
    assert gallery.view().counts[NEW].embedded == 100


def test_it_is_closed_where_search_gets_worse_beyond_doubt_and_opens_by_force_alone():
    gallery, sample, h = bad()
    plan = plan_upgrade(gallery, h, sample=sample)
    assert plan.decision.answer == "closed"
    assert plan.decision.gain.high < 0
    assert plan.recommendation.startswith(
        "Do not upgrade with this transformation alone: it takes map from 23.2 %"
    )
    assert "force=True" in plan.to_json()["next_steps"][0]["why"]
    upgrade, before = Upgrade(gallery, h), gallery.journal()
    words = (
        r"nothing was written: the gate is CLOSED: map .* Do not upgrade with this "
        r"transformation alone: .*force=True$"
    )
    with pytest.raises(UpgradeError, match=words):
        upgrade.start(prediction=plan.prediction, sample=sample)
    assert gallery.journal() == before
    assert NEW not in gallery.spaces()
    started = upgrade.start(prediction=plan.prediction, sample=sample, force=True)
    (entry,) = events(gallery, "gate")
    assert (entry["answer"], entry["forced"]) == ("closed", True)
    assert entry["prediction"]["whole"]["cells"][0]["name"] == "do nothing"
    assert str(started.gate).startswith("CLOSED, but forced: map 23.2 %")
    assert upgrade.run().done == 100


def test_where_full_backfill_is_no_better_either_the_advice_is_to_do_nothing():
    gallery, sample = line_gallery(crossed=False), line(LINE_NEW, crossed=False)
    worse = linear(LINE_OLD, None, LINE_NEW, np.zeros((1, 1)), np.zeros(1, np.float32), made_by={})
    plan = plan_upgrade(gallery, worse, sample=sample.select(np.arange(0, 20, 2)))
    assert plan.decision.answer == "closed"
    assert plan.recommendation.startswith("Do nothing: upgrading takes map from 100.0 % (doing")
    plan = plan_upgrade(gallery, worse, sample=sample)
    assert plan.decision.answer == "cannot judge"  # all of it is written: nothing changes


@pytest.mark.parametrize(
    ("world_of", "beside", "start"), [(bad, "do nothing", "26.0"), (good, "upgrade", "22.0")]
)
def test_the_least_backfill_that_is_no_worse_is_named_beside_the_full_one(world_of, beside, start):
    gallery, sample, h = world_of()
    prediction = plan_upgrade(gallery, h, sample=sample).prediction
    assert f"{100 * prediction.within.value('map', beside):.1f}" == start

    def at(cell):
        value = {0.1: 0.2, 0.25: 0.3, 1.0: 0.4}.get(cell.share)
        values = {} if value is None else {"map": replace(cell.values["map"], estimate=value)}
        return replace(cell, values={**cell.values, **values})

    within = replace(prediction.within, cells=tuple(map(at, prediction.within.cells)))
    decision = decide(replace(prediction, within=within))
    assert (
        f"; within the sample backfilling 25 % takes map from {start} % to 30.0 %, and in full to "
        "40.0 %."
    ) in decision.recommendation


def few(items=28, classes=27):
    """Of 28 items two are of one class and the others each of their own; all are told apart."""
    labels = np.array([0, *range(classes)])
    places = (100 * labels + np.arange(items) / 100).astype(np.float32)[:, None]
    ids = tuple(f"i{number:02}" for number in range(items))
    gallery = create_gallery(
        f"memory:few{next(numbers)}", LINE_OLD, items=[Embeddings(ids, places, LINE_OLD, labels)]
    )
    return gallery, Embeddings(ids, places, LINE_NEW)


def test_two_queries_cannot_open_it_however_well_they_do():
    """The case that was let through: 28 items, 2 of them queries, 100.0 [100.0, 100.0]."""
    gallery, sample = few()
    plan = plan_upgrade(gallery, scaled(1), sample=sample)
    decision = plan.decision
    assert (decision.answer, decision.queries) == ("cannot judge", 2)
    assert decision.nothing == decision.written == 1
    assert decision.gain.low < -0.5 < 0.5 < decision.gain.high
    assert decision.needed > 28
    words = f"a sample of at least {decision.needed:,} items of more than one class would tell, "
    assert words in decision.says
    assert plan.recommendation.startswith("Not known: 2 items of the sample cannot tell whether ")
    upgrade = Upgrade(gallery, scaled(1))
    with pytest.raises(UpgradeError, match=r"the gate is CANNOT JUDGE: map 100\.0 % .* Not known"):
        upgrade.start(prediction=plan.prediction, sample=sample)
    assert LINE_NEW not in gallery.spaces()
    started = upgrade.start(prediction=plan.prediction, sample=sample, force=True)
    assert (started.gate.answer, started.gate.forced) == ("cannot judge", True)
    assert "the gate did NOT OPEN for this upgrade, which goes on; it may make search worse" in (
        started.gate.warning
    )


def test_one_class_cannot_open_it_and_within_it_labels_judge_nothing():
    gallery, new, h = world(2000, seen=0.3)
    plan = plan_upgrade(gallery, h, sample=new.select(np.arange(3, 2000, 20)))
    assert plan.decision.answer == "cannot judge"
    assert (plan.decision.queries, plan.decision.metric) == (100, "map")
    assert plan.decision.gain.low == -1
    assert plan.decision.needed > 100
    assert (
        f"; a sample of at least {plan.decision.needed:,} items of more than one class would"
        in (str(plan.decision))
    )
    assert plan.prediction.within.metric == "agreement"


def test_a_sample_too_small_to_predict_by_cannot_be_judged():
    gallery, new, h = world(40)
    sample = new.select(np.arange(19))
    plan = plan_upgrade(unlabelled(gallery), h, sample=Embeddings(sample.ids, sample.vectors, NEW))
    assert plan.decision.answer == "cannot judge"
    assert "19 of the sample's 19 items are left to judge by, 20 are needed" in plan.recommendation
    with pytest.raises(UpgradeError, match=r"CANNOT JUDGE: nothing can be predicted: 19 of the"):
        Upgrade(gallery, h).start(prediction=plan.prediction)


def test_without_a_prediction_a_library_s_caller_decides_and_the_status_says_so():
    gallery, _, h = good()
    started = Upgrade(gallery, h).start()
    assert (started.gate.answer, started.gate.forced) == (None, False)
    assert str(started.gate).startswith("NOT JUDGED: neither a sample nor real queries were given")
    assert "the gate has NOT JUDGED this upgrade" in started.gate.warning
    assert [entry["answer"] for entry in events(gallery, "gate")] == [None]
    Upgrade(gallery, h).start()  # what was started goes on
    assert len(events(gallery, "gate")) == 1


# The rule


def interval(low, mean, high):
    return Interval(mean, low, high, 0.95, True, "given")


@pytest.mark.parametrize(
    ("gain", "margin", "expected"),
    [
        (interval(0.01, 0.05, 0.09), 0.01, "open"),
        (interval(-0.009, 0.0, 0.009), 0.01, "open"),
        (interval(-0.01, 0.0, 0.01), 0.01, "cannot judge"),
        (interval(-0.005, -0.001, 0.003), 0.01, "cannot judge"),
        (interval(-0.03, 0.01, 0.05), 0.01, "cannot judge"),
        (interval(-0.03, 0.01, 0.05), 0.05, "open"),
        (interval(-0.001, 0.05, 0.1), 0.0, "cannot judge"),
        (interval(-0.009, -0.005, -0.001), 0.01, "closed"),
        (interval(-0.1, -0.05, 0.0), 0.01, "cannot judge"),
        (interval(math.nan, math.nan, math.nan), 0.01, "cannot judge"),
    ],
)
def test_the_answer_follows_from_interval_and_margin(gain, margin, expected):
    assert gate._answer(gain, margin) == expected


@pytest.mark.parametrize(
    ("gain", "margin", "half"),
    [
        (interval(-0.05, 0.01, 0.07), 0.01, 0.02),  # then its lower end is at the margin
        (interval(-0.08, -0.02, 0.04), 0.01, 0.02),  # then its upper end is at 0
        (interval(-0.04, 0.0, 0.04), 0.01, 0.01),
        (interval(-0.04, 0.0, 0.04), 0.0, None),
    ],
)
def test_the_size_that_would_tell_is_that_of_an_interval_narrow_enough(gain, margin, half):
    gallery, new, h = world(100, made_by={"sample": {"ids": [f"i{n:04}" for n in range(50)]}})
    prediction = forecast(gallery, Routes((h,)), new)
    assert (prediction.whole.queries, prediction.sample_items) == (50, 100)
    found = gate._needed(prediction, prediction.whole, gain, margin)
    if half is None:
        assert found is None
    else:
        assert found == 2 * queries_for(gain, half, queries=50, clusters=20)
        assert found > 100


def test_a_margin_that_is_none_is_refused():
    gallery, sample, h = good()
    for margin in (-0.01, 1.0, math.nan):
        with pytest.raises(ConfigurationError, match=r"the margin is .*; give a fraction from 0"):
            plan_upgrade(gallery, h, sample=sample, margin=margin)
    same = plan_upgrade(*few()[:1], scaled(1), sample=few()[1], margin=0.0)
    assert "without a margin, no number of queries can show that nothing gets worse" in str(same)
    no_better = world(200, seen=0.3, spoil=5.0)[2]
    assert plan_upgrade(gallery, no_better, sample=sample, margin=0.0).decision.answer != "open"
    assert plan_upgrade(gallery, no_better, sample=sample, margin=0.3).decision.answer == "open"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_of_many_samples_few_intervals_miss_the_truth_and_few_gates_open_wrongly(seed):
    """The truth is the difference over all items of the gallery; h is no better than nothing."""
    gallery, new, h = world(400, seed, spoil=1.5, seen=0.5)
    truth = forecast(gallery, Routes((h,)), new).whole.cell("upgrade").gains["map"].estimate
    rng, held, wrong, samples = np.random.default_rng(seed), 0, 0, 40
    for _ in range(samples):
        some = new.select(np.sort(rng.choice(400, 80, replace=False)))
        found = forecast(gallery, Routes((h,)), some).whole.cell("upgrade").gains["map"]
        held += found.low <= truth <= found.high
        wrong += gate._answer(found, 0.01) == ("closed" if truth > 0 else "open")
    assert held >= 0.95 * samples
    assert wrong <= 0.05 * samples


# What is written


def shifted():
    """h is right but for a direction that the new model does not use: each kind finds its own."""
    gallery, new, _ = world(200, seen=0.3)
    old = np.hstack([gallery.read(OLD).vectors, gallery.read(SIDE).vectors])
    weight = np.linalg.lstsq(old, new.vectors, rcond=None)[0].T.astype(np.float32)
    weight[7] = 0
    true = new.vectors * np.array([1] * 7 + [0], np.float32)
    away = np.array([0] * 7 + [50], np.float32)
    return gallery, Embeddings(new.ids, true, NEW), linear(OLD, SIDE, NEW, weight, away, made_by={})


def test_a_sample_that_makes_search_worse_beside_upgraded_vectors_is_not_written():
    gallery, new, h = shifted()
    sample = new.select(np.arange(100))
    plan = plan_upgrade(gallery, h, sample=sample)
    decision, whole = plan.decision, plan.prediction.whole
    assert whole.of_sample.high < 0
    assert (decision.answer, decision.writes_sample) == ("open", False)
    assert decision.written == whole.value("map", "upgrade")
    words = "the sample is not written, because beside upgraded vectors it makes search worse: map"
    assert words in str(plan)
    assert not any("the sample's vectors" in one for one in plan.writes)
    upgrade = Upgrade(gallery, h)
    started = upgrade.start(prediction=plan.prediction, sample=sample)
    assert "the sample is not written" in started.gate.says
    assert gallery.view().counts[NEW].embedded == 0
    assert not events(gallery, "sample")
    assert upgrade.run().done == 200


def test_what_is_judged_is_what_will_be_written():
    gallery, new, h = shifted()
    sample = new.select(np.arange(100))
    prediction = forecast(gallery, Routes((h,)), sample)
    with_it, without = (decide(prediction, writes_sample=one) for one in (True, False))
    assert with_it.written == without.written == prediction.whole.value("map", "upgrade")
    assert without.sample_note is None
    gallery, sample, h = good()
    prediction = forecast(gallery, Routes((h,)), sample)
    assert decide(prediction).written == prediction.whole.value("map", "upgrade + the sample")
    assert decide(prediction, writes_sample=False).written == prediction.whole.value(
        "map", "upgrade"
    )


def test_an_upgrade_starts_with_the_sample_that_was_judged_and_no_other():
    gallery, sample, h = good()
    plan = plan_upgrade(gallery, h, sample=sample)
    assert "the sample's vectors and the origin 'embedded' in up to 100 rows" in plan.writes
    assert NEW not in gallery.spaces()
    upgrade = Upgrade(gallery, h)
    with pytest.raises(UpgradeError, match="the prediction is not of the sample that is to be wr"):
        upgrade.start(prediction=plan.prediction, sample=sample.select(np.arange(50)))
    assert NEW not in gallery.spaces()
    for _ in range(2):  # a second time changes nothing
        upgrade.start(prediction=plan.prediction, sample=sample)
        assert gallery.view().counts[NEW].embedded == 100
    assert upgrade.run().done == 100
    np.testing.assert_array_equal(gallery.read(NEW, sample.ids).vectors, sample.vectors)
    assert upgrade.verify().passed
    assert events(gallery, "sample")[0]["written"] == 100
    # now that the vectors stand in the gallery, planning again says the same of what is written
    again = plan_upgrade(gallery, h, sample=sample)
    assert again.decision.to_json() == plan.decision.to_json()


def test_without_labels_the_share_of_the_sample_is_part_of_what_is_predicted():
    gallery, sample, h = good()
    plan = plan_upgrade(unlabelled(gallery), h, sample=Embeddings(sample.ids, sample.vectors, NEW))
    within, decision = plan.prediction.within, plan.decision
    assert plan.prediction.whole is None
    assert within.cell("upgrade + the sample").share == 0.5
    assert decision.written == within.value("agreement", "upgrade + the sample")
    assert decision.says.startswith("agreement of items with items ")
    assert "queries that are not items may give other results" in decision.says
    assert "give real ones." in decision.recommendation


# What is required besides


def test_what_is_required_besides_can_close_it_and_never_opens_it():
    gallery, sample, h = good()
    require = Requirement.parse("map >= 0.5")
    plan = plan_upgrade(gallery, h, sample=sample, require=require)
    assert (plan.decision.answer, plan.decision.verdict.met) == ("closed", False)
    assert "map >= 0.5 is required, that is 50.0 %, and 18.9 % is predicted" in str(plan)
    assert plan.recommendation.startswith("Do not upgrade yet: it takes map from 9.3 %")
    with pytest.raises(UpgradeError, match=r"CLOSED: .* map >= 0\.5 is required, that is 50\.0 %"):
        Upgrade(gallery, h).start(prediction=plan.prediction, require=require, sample=sample)
    met = plan_upgrade(gallery, h, sample=sample, require=Requirement.parse("map >= 0.1"))
    assert (met.decision.answer, met.decision.verdict.met) == ("open", True)
    gallery, sample = few()
    easy = plan_upgrade(gallery, scaled(1), sample=sample, require=Requirement.parse("map >= 0.1"))
    assert easy.decision.answer == "cannot judge"


def test_what_is_compared_with_full_backfill_is_judged_within_the_sample():
    gallery, sample, h = good()
    prediction = forecast(gallery, Routes((h,)), sample)
    verdict = Requirement.parse("map >= 0.9 * new/new").judge(prediction)
    assert verdict.limit == pytest.approx(0.9 * prediction.within.value("map", "full backfill"))
    assert verdict.value == prediction.within.value("map", "upgrade")
    verdict = Requirement.parse("map >= old/old").judge(prediction)
    assert verdict.limit == prediction.whole.value("map", "do nothing")


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
    other = plan_upgrade(gallery, world(40, spoil=0.1)[2], sample=new).prediction
    words = f"is of the transformation {other.transformation[:8]}, the upgrade is by {h.digest[:8]}"
    with pytest.raises(UpgradeError, match=words):
        Upgrade(gallery, h).start(prediction=other, force=True)


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
    found = forecast(gallery, Routes((scaled(1),)), sample)
    assert Requirement.parse(text).judge(found).met is met


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
        ("map => old/old", r"'map => old/old' is not a requirement; write a metric \(ndcg@10, cmc"),
        ("map >= new/old", "is not a requirement"),
        ("map == 0.5", "is not a requirement"),
        ("", "'' is not a requirement"),
        ("cmc@3 >= 0.5", "there is no metric 'cmc@3' to require something of; choose one of"),
        ("map >= 50", "50 is nothing to require of map; give a fraction from 0 to 1"),
        ("map >= 0 * old/old", r"0 \* old/old is nothing to require of map; give .* a multiple"),
        (f"map >= {'9' * 400} * old/old", r"inf \* old/old is nothing to require of"),
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
