"""What a plan predicts of fused search, what it recommends to serve, and the gate for it."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from pages import Elements
from upgrades import run_upgrade, steps_of
from worlds import NEW, OLD, SIDE, paired, unlabelled, unsure, world

from onward.errors import ConfigurationError, EmbeddingsError, SpaceMismatchError, UpgradeError
from onward.evaluation.comparison import evaluate_embeddings
from onward.evaluation.intervals import Interval
from onward.evaluation.metrics import evaluate
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import agreement, count_neighbours, rank, search
from onward.evaluation.serving import Found, advise
from onward.fusion import FusedEmbeddings
from onward.report import write_backfill_report
from onward.spaces import Embeddings, Space
from onward.transformation import linear
from onward.upgrading import (
    Cell,
    Judgement,
    RealQueries,
    Requirement,
    Upgrade,
    decide,
    evidence,
    forecast,
    plan_backfill,
    plan_upgrade,
)
from onward.upgrading.forecast import SHARES
from onward.upgrading.plan import compare_fused
from onward.upgrading.routes import Routes

# What is predicted


def fused_by_hand(h, old, new, asked):
    """What a full evaluation of a fused pair gives, some items asking for the others."""
    both = FusedEmbeddings(h.serving.fusion, old, new)
    return evaluate_embeddings(asked, both, exclude_self=True)


def stored(h, gallery, new, written=()):
    """The vectors of a gallery in the new space, some of them the true ones; with labels."""
    old = gallery.read(OLD)
    upgraded = h.apply(old, gallery.read(SIDE))
    rows = np.isin(old.ids, list(written))[:, None]
    vectors = np.where(rows, new.align(old.ids).vectors, upgraded.vectors)
    return Embeddings(old.ids, vectors, NEW, old.labels)


@pytest.mark.parametrize("seed", range(3))
def test_in_the_whole_gallery_fused_search_is_judged_as_a_full_evaluation_by_hand_does(seed):
    gallery, new, h = world(150, seed, spoil=0.5)
    h, sample = paired(h, 0.4), new.select(np.arange(40))
    found = forecast(gallery, Routes((h,)), sample).whole
    names = ["do nothing", "upgrade", "upgrade + the sample", "fused", "fused + the sample"]
    assert [cell.name for cell in found.cells] == names
    old, fusion = gallery.read(OLD), h.serving.fusion
    labelled = Embeddings(sample.ids, sample.vectors, NEW, old.align(sample.ids).labels)
    asked = FusedEmbeddings(fusion, old.align(sample.ids), labelled)
    for name, written in {"fused": (), "fused + the sample": sample.ids}.items():
        expected = fused_by_hand(h, old, stored(h, gallery, new, written), asked).to_json()
        for metric in ("cmc@1", "cmc@5", "map"):
            assert found.value(metric, name) == pytest.approx(expected[metric], abs=1e-12)


@pytest.mark.parametrize("labels", [True, False])
def test_within_the_sample_fused_search_has_its_own_cells_and_is_compared_with_one_space(labels):
    gallery, new, h = world(60, spoil=0.5)
    h, gallery = paired(unsure(h)), gallery if labels else unlabelled(gallery)
    found = forecast(gallery, Routes((h,)), new).within
    one_space = ["upgrade", *(f"upgrade + backfill {share} %" for share in (10, 25, 50))]
    fused = [name.replace("upgrade", "fused") for name in one_space]
    written = [] if labels else ["{} + the sample"]
    twins = dict(zip([*fused, "fused + full backfill"], [*one_space, "full backfill"], strict=True))
    twins |= {one.format("fused"): one.format("upgrade") for one in written}
    names = [cell.name for cell in found.cells]
    assert set(names) == {"do nothing", *twins, *twins.values()}
    assert (names[:2], names[-1]) == (["do nothing", "upgrade"], "fused + full backfill")
    for cell, metric in itertools.product(found.cells, found.metrics):
        if cell.name not in twins:
            assert cell.over_one_space == {}
            continue
        over = cell.over_one_space[metric].estimate
        alone = found.value(metric, twins[cell.name])
        assert math.isclose(over, cell.values[metric].estimate - alone, abs_tol=1e-12)


def test_fused_agreement_is_that_with_a_full_backfill_in_one_space():
    gallery, new, h = world(60, spoil=0.5)
    h, gallery = paired(h, 0.7), unlabelled(gallery)
    found = forecast(gallery, Routes((h,)), new).within
    count, old = count_neighbours(60), gallery.read(OLD)
    asked = FusedEmbeddings(h.serving.fusion, old, new)
    for name, there in {"fused": stored(h, gallery, new), "fused + full backfill": new}.items():
        both = FusedEmbeddings(h.serving.fusion, old, there)
        nearest = (search(a, b, count, exclude_self=True) for a, b in ((asked, both), (new, new)))
        assert found.value("agreement", name) == pytest.approx(agreement(*nearest).mean())


def test_an_item_that_cannot_be_carried_is_found_by_its_old_vector_in_fused_search():
    gallery, new, h = world(40)
    gallery.delete(new.ids[:10])
    lost = Embeddings(new.ids[:10], np.ones((10, 6), np.float32), OLD, np.arange(10))
    gallery.add(lost)
    h = paired(h)
    found = forecast(gallery, Routes((h,)), new)
    old, carried = gallery.read(OLD), gallery.read(OLD, new.ids[10:])
    upgraded = replace(h.apply(carried, gallery.read(SIDE, new.ids[10:])), labels=carried.labels)
    labelled = Embeddings(new.ids, new.vectors, NEW, old.align(new.ids).labels)
    asked = FusedEmbeddings(h.serving.fusion, old, labelled)
    expected = fused_by_hand(h, old, upgraded, asked)
    for judged in (found.whole, found.within):
        assert judged.lost == 10
        assert judged.value("map", "fused") == pytest.approx(expected.map, abs=1e-12)


def test_what_the_new_model_has_embedded_already_is_fused_as_it_is():
    gallery, new, h = world(150, spoil=1.0)
    h, sample, before = paired(h), new.select(np.arange(40)), new.select(np.arange(30, 80))
    Upgrade(gallery, h).start(sample=before)
    found = forecast(gallery, Routes((h,)), sample).whole
    old = gallery.read(OLD)
    labelled = Embeddings(sample.ids, sample.vectors, NEW, old.align(sample.ids).labels)
    asked = FusedEmbeddings(h.serving.fusion, old.align(sample.ids), labelled)
    for name, written in {"fused": before.ids, "fused + the sample": new.ids[:80]}.items():
        expected = fused_by_hand(h, old, stored(h, gallery, new, written), asked)
        assert found.value("map", name) == pytest.approx(expected.map, abs=1e-12)


def test_real_queries_are_asked_of_both_spaces():
    gallery, new, h = world(100)
    h, items = paired(h), new.select(np.arange(20))
    old = gallery.read(OLD, items.ids)
    names = tuple(f"q{number}" for number in range(20))
    asked = [replace(one, ids=names, labels=None) for one in (old, items)]
    qrels = {
        name: {item: 1, f"i{40 + row:04}": 2}
        for row, (name, item) in enumerate(zip(names, items.ids, strict=True))
    }
    found = forecast(gallery, Routes((h,)), queries=RealQueries(*asked, qrels)).whole
    assert [cell.name for cell in found.cells] == ["do nothing", "upgrade", "fused"]
    whole = FusedEmbeddings(h.serving.fusion, gallery.read(OLD), stored(h, gallery, new))
    ranked = search(FusedEmbeddings(h.serving.fusion, *asked), whole, 10, exclude_self=False)
    first = np.mean([ranked.ids_of(row)[0] in qrels[name] for row, name in enumerate(names)])
    assert found.value("cmc@1", "fused") == pytest.approx(first)


@pytest.mark.parametrize("whose", ["none", "another old space"])
def test_without_a_pair_of_what_answers_now_nothing_is_said_of_fused_search(whose):
    gallery, new, h = world(40)
    if whose != "none":
        other = linear(SIDE, None, NEW, np.eye(8, 4), np.zeros(8, np.float32), made_by={})
        h = paired(other)  # it knows how to fuse the side-information, which answers nothing
    found = forecast(gallery, Routes((h,)), new)
    for judged in (found.whole, found.within):
        assert not any("fused" in cell.name for cell in judged.cells)


def test_the_curve_of_a_backfill_has_its_own_values_with_fused_search():
    gallery, new, h = world(60, spoil=1.0)
    h = paired(unsure(h))
    plan = plan_backfill(gallery, h, sample=new)
    predicted = plan_upgrade(gallery, h, sample=new).prediction.within
    assert list(plan.fused.values) == list(plan.drawn.values)
    names = {0.0: "fused", 1.0: "fused + full backfill"}
    names |= {share: f"fused + backfill {100 * share:g} %" for share in SHARES}
    for (share, name), metric in itertools.product(names.items(), ("cmc@1", "cmc@5", "map")):
        drawn = plan.fused.values["uncertainty"][metric][share]
        assert drawn == pytest.approx(predicted.value(metric, name), abs=1e-12)
    ends = plan.fused.on_grid("oracle", "map")
    assert plan.fused.gains["map"].estimate == pytest.approx(ends[-1] - ends[0])
    told = json.loads(json.dumps(plan.to_json()))
    assert told["fused"]["curves"]["oracle"]["map"] == ends.tolist()
    assert told["fused"]["curves"]["uncertainty"]["planned"]["map"] == [
        plan.fused.values["uncertainty"]["map"][share] for share in SHARES
    ]
    assert told["fused"]["gains"] == {one: gain.to_json() for one, gain in plan.fused.gains.items()}
    assert "  map, percent " in str(plan)
    assert "  fused map, percent " in str(plan)
    assert compare_fused(plan.within) in plan.advice
    alone = plan_backfill(gallery, replace(h, serving=None), sample=new)
    assert (alone.fused, alone.to_json()["fused"]) == (None, None)
    assert "used" not in str(alone)
    assert alone.to_json()["curves"] == told["curves"]


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        ((0.02, 0.02), (0.02, 0.0), "Fused search is better all the way: map +2.0 points [+1.6, "),
        ((0.02, 0.0), (0.0, 0.0), "Fused search is better at first, and not clearly once everyth"),
        ((0.0, 0.0), (0.02, 0.0), "Fused search is clearly better only once much is embedded: "),
        ((0.0, 0.0), (0.0, -0.02), "Fused search is worse than the new space alone: map +0.0 "),
        ((-0.02, 0.02), (0.0, 0.0), "Fused search gives more in one metric and less in another: "),
        ((0.0, 0.0), (0.0, 0.0), "Fused search is not clearly better than the new space alone: "),
    ],
)
def test_the_advice_says_how_fused_search_does_beside_one_space(first, last, words):
    within = given((0.0, 0.0), first)
    found = {one: interval(change) for one, change in zip(("map", "cmc@1"), last, strict=True)}
    rest = (
        replace(within.cell("fused"), name=f"fused + {what}", over_one_space=found)
        for what in ("backfill 10 %", "backfill 25 %", "backfill 50 %", "full backfill")
    )
    said = compare_fused(replace(within, cells=(*within.cells, *rest)))
    assert said.startswith(words)
    assert "points [-0.4, +0.4]" in said or "all the way" in said
    assert said.endswith(" beside full backfill. It embeds every query by both models.")


def test_the_page_of_a_backfill_draws_fused_search_beside_the_new_space(tmp_path):
    gallery, new, h = world(60, spoil=1.0)
    plan = plan_backfill(gallery, paired(h), sample=new)
    write_backfill_report(tmp_path / "page.html", plan, facts={})
    page = Elements((tmp_path / "page.html").read_text())
    names = ["cmc@1", "fused cmc@1", "map", "fused map"]
    headings = [one["text"] for one in page.of("h2")]
    assert headings[1:5] == [f"{name} against the share embedded" for name in names]
    mean = 100 * plan.fused.auc("oracle", "map")
    shown = [one["text"] for one in page.of("text") if "name" in one.get("class", "")]
    assert f"oracle, auc@22 {mean:.1f}" in shown
    words = "".join(one["text"] for one in page.of("p"))
    assert words.count("The old vectors and the new ones answer together.") == 2


# What is advised


def interval(mean, half=0.004):
    return Interval(mean, mean - half, mean + half, 0.95, True, "given")


def given(beside_now, beside_new, metric="map"):
    """A judgement in which fused search is better by so much than what answers now, and the new.

    Each is given as the difference in the metric that decides and, with map, in cmc@1.
    """
    names = (metric, "cmc@1") if metric == "map" else (metric,)
    values = dict.fromkeys(names, Interval(0.5, 0.4, 0.6, 0.95, False, "given"))
    changes = (beside_now, beside_new, np.subtract(beside_now, beside_new).tolist())
    now, over, new = (
        {one: interval(*np.atleast_1d(change)) for one, change in zip(names, each, strict=True)}
        for each in changes
    )
    cells = (
        Cell("do nothing", 0.0, values, dict.fromkeys(names, interval(0.0)), {}),
        Cell("upgrade", 0.0, values, new, {}),
        Cell("fused", 0.0, values, now, over),
    )
    return Judgement("items of the sample", metric, 99, 9, 0, 99, 0, 0, {}, cells, None)


@pytest.mark.parametrize("fitted", ["new", "fused"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_advised_is_what_the_rule_makes_of_the_same_queries(fitted, seed):
    """A pair must be clearly better, unless the fit found it best: then it may do no harm."""
    gallery, new, h = world(200, seed, spoil=0.7, seen=0.7)
    h = paired(h, 0.4, 9.3, 63.0, fitted)
    sample, old = new.select(np.arange(100)), gallery.read(OLD)
    labelled = Embeddings(sample.ids, sample.vectors, NEW, old.align(sample.ids).labels)
    whole = forecast(gallery, Routes((h,)), sample).whole
    for name, written in {"fused": (), "fused + the sample": sample.ids}.items():
        carried = stored(h, gallery, new, written)
        asked = FusedEmbeddings(h.serving.fusion, old.align(sample.ids), labelled)
        evaluations = (
            evaluate_embeddings(asked.old, old, exclude_self=True),
            evaluate_embeddings(labelled, carried, exclude_self=True),
            fused_by_hand(h, old, carried, asked),
        )
        now, alone, fused = (
            Found({metric: one.per_query(metric) for metric in ("map", "cmc@1")})
            for one in evaluations
        )
        expected = advise(
            now,
            alone,
            {0.4: fused}.__getitem__,
            asked.labels.tolist(),
            by="label",
            lenient="the fit advises it, and it does no harm here" if fitted == "fused" else None,
            weights=(0.4,),
        )
        assert whole.cell(name).advice == expected
    assert whole.cell("upgrade").advice is None


def test_what_the_fit_found_on_what_it_held_out_stands_where_it_does_no_harm():
    """Fused search is better by so little that these queries cannot tell."""
    advised = []
    for fitted in ("new", "fused"):
        gallery, new, h = world(200, seed=4, spoil=0.0, seen=0.7)
        prediction = forecast(gallery, Routes((paired(h, 0.1, 9.3, 63.0, fitted),)), new)
        decision, cell = decide(prediction), prediction.whole.cell("fused + the sample")
        assert not cell.over_one_space["map"].clear
        advised.append((decision.serve, decision.advised))
    assert advised == [("new", "new"), ("fused", "fused")]


def test_a_weight_for_which_no_less_is_asked_is_judged_as_if_the_fit_had_not_advised_it():
    gallery, new, h = world(200, seed=0, spoil=0.3, seen=1.0)
    advice = []
    for fitted in ("new", "fused"):
        by = Routes((paired(h, 0.6, 9.3, 63.0, fitted),))
        advice.append(forecast(gallery, by, new.select(np.arange(100))).whole.cell("fused").advice)
    assert [one.advised for one in advice] == ["fused", "fused"]
    assert advice[0] == advice[1]


def test_what_the_fit_found_does_not_stand_where_fused_search_finds_less_in_the_mean():
    gallery, new, h = world(200, seed=7, seen=0.6)
    found = forecast(gallery, Routes((paired(h, 0.1, 9.3, 63.0, "fused"),)), new)
    advice = found.whole.cell("fused").advice
    assert -0.005 < advice.gained.estimate < 0  # so little that the rule calls it no harm
    assert advice.advised == "new"
    assert advice.reason == "fused search finds less in the mean"


def test_agreement_advises_no_fused_search_and_the_plan_says_that_it_cannot_tell():
    gallery, new, h = world(200, spoil=1.0, seen=0.7)
    plan = plan_upgrade(unlabelled(gallery), paired(h, 0.5, 9.3, 63.0), sample=new)
    assert plan.prediction.within.metric == "agreement"
    assert plan.decision.serve == "new"
    words = "%: not clearly better than one space, but agreement does not tell."
    assert words in plan.recommendation


def better(advised="fused"):
    """A gallery where fused search is best, a sample of half of it, and h with its pair."""
    gallery, new, h = world(400, spoil=1.0, seen=0.7)
    return gallery, new.select(np.arange(200)), paired(h, 0.5, 9.3, 63.0, advised)


@pytest.fixture(scope="module")
def predicted():
    """What is predicted where fused search is best."""
    gallery, sample, h = better()
    return forecast(gallery, Routes((h,)), sample)


def worse():
    """A gallery where doing nothing is best."""
    gallery, new, h = world(400, seed=1, spoil=3.0, seen=0.7)
    return gallery, new.select(np.arange(200)), paired(h, 0.5, 9.3, 120.0, "old")


def test_where_fused_search_is_best_it_is_advised_with_what_it_costs():
    gallery, sample, h = better()
    plan = plan_upgrade(gallery, h, sample=sample)
    decision, whole = plan.decision, plan.prediction.whole
    assert (decision.answer, decision.serve, decision.advised) == ("open", "fused", "fused")
    assert decision.written == whole.value("map", "fused + the sample")
    assert decision.gain == whole.cell("fused + the sample").gains["map"]
    assert decision.lost_if_retired == whole.cell("fused + the sample").over_one_space
    assert "(fused + the sample), +" in str(decision)
    first = f"{100 * decision.nothing:.1f} % (doing nothing) to {100 * decision.written:.1f} %"
    said = plan.recommendation
    assert said.startswith(f"Upgrade, and serve it fused: it takes map from {first}; within the ")
    assert "Fused search embeds every query by both models, so both must be kept." in said
    lost = decision.lost_if_retired["map"]
    words = f"map {-100 * lost.estimate:+.1f} points [{-100 * lost.high:+.1f}, "
    assert f"Once the old model is retired, the new space answers alone: {words}" in said
    (step,) = plan.to_json()["next_steps"]
    assert step["why"] == "400 rows can be upgraded; then serve the fused pair"
    told = json.loads(json.dumps(plan.to_json()))["gate"]
    assert (told["serve"], told["advised"]) == ("fused", "fused")
    assert set(told["lost_if_retired"]) == {"cmc@1", "cmc@5", "map"}


def test_what_is_to_be_served_is_what_the_gate_judges_and_the_journal_keeps(predicted):
    gallery, sample, h = better()
    alone = decide(predicted, serve="new")
    assert (alone.serve, alone.advised) == ("new", "fused")
    assert alone.written == predicted.whole.value("map", "upgrade + the sample")
    assert alone.lost_if_retired == {}
    assert "%, and is advised: serve='fused'." in alone.recommendation
    upgrade = Upgrade(gallery, h)
    started = upgrade.start(prediction=predicted, sample=sample, serve="new")
    assert started.gate.serve == "new"
    started = upgrade.start(prediction=predicted, sample=sample)
    assert (started.gate.answer, started.gate.serve) == ("open", "fused")
    upgrade.run()
    assert steps_of(upgrade.status()) == ["verify_fused"]
    *_, last = (entry for entry in gallery.journal() if entry["event"] == "gate")
    assert last["decision"]["advised"] == "fused"


def test_what_is_to_be_served_is_kept_where_nothing_judges_it():
    gallery, _, h = better()
    upgrade = Upgrade(gallery, h)
    assert upgrade.start(serve="fused").gate.serve == "fused"
    upgrade.run()
    assert steps_of(upgrade.status()) == ["verify_fused"]


def test_without_the_old_model_nothing_is_fused_and_the_plan_says_so(predicted):
    gallery, sample, h = better()
    gone = decide(predicted, old_model_gone=True)
    assert (gone.serve, gone.advised) == ("new", "new")
    assert "Fused search is out of the running, because the old model is gone." in (
        gone.recommendation
    )
    words = r"fused search is asked for \(serve='fused'\), and the old model, which must embed"
    how = {"sample": sample, "serve": "fused", "old_model_gone": True}
    with pytest.raises(ConfigurationError, match=words):
        plan_upgrade(gallery, h, **how)
    with pytest.raises(ConfigurationError, match=words):
        Upgrade(gallery, h).start(prediction=predicted, **how)
    assert NEW not in gallery.spaces()


def test_where_doing_nothing_is_as_good_fused_search_is_not_advised_and_opens_if_asked_for():
    gallery, sample, h = worse()
    plan = plan_upgrade(gallery, h, sample=sample)
    assert (plan.decision.answer, plan.decision.serve, plan.decision.advised) == (
        "closed",
        "new",
        "old",
    )
    assert plan.recommendation.startswith("Do nothing: upgrading takes map from 18.5 %")
    assert "%: not clearly better than one space." in plan.recommendation
    prediction = plan.prediction
    asked = decide(prediction, serve="fused", margin=0.2)
    assert (asked.serve, asked.advised) == ("fused", "old")
    assert "It is not clearly better than one space. Fused search embeds every query" in (
        asked.recommendation
    )


def test_what_the_fit_found_is_told_where_nothing_of_the_gallery_says_so():
    gallery, sample, h = better()
    (told,) = plan_upgrade(gallery, h).advice
    assert told.startswith("The fit advises to serve fused old@1")
    assert told.endswith("a sample, or with real queries, says whether that holds for this gallery")
    assert plan_upgrade(gallery, h, sample=sample).advice == ()
    assert plan_upgrade(gallery, h, old_model_gone=True).advice == ()
    assert plan_upgrade(gallery, better("new")[2]).advice == ()


def test_what_is_required_is_required_of_what_is_to_be_served(predicted):
    whole = predicted.whole
    both = [whole.value("map", f"{served} + the sample") for served in ("upgrade", "fused")]
    require = Requirement.parse(f"map >= {np.mean(both):.4f}")
    fused = decide(predicted, require=require)
    assert (fused.answer, fused.verdict.met) == ("open", True)
    alone = decide(predicted, require=require, serve="new")
    assert (alone.answer, alone.advised) == ("closed", "fused")
    within, full = predicted.within, Requirement.parse("map >= 0.9 * new/new")
    for served, cell in {"new": "upgrade", "fused": "fused"}.items():
        verdict = decide(predicted, require=full, serve=served).verdict
        assert verdict.value == within.value("map", cell)


def test_fused_search_without_a_pair_and_another_word_are_refused():
    gallery, sample, h = better()
    words = r"fused search is asked for \(serve='fused'\), but the transformation knows no pair of "
    few = sample.select(np.arange(40))
    with pytest.raises(UpgradeError, match=words + r".*; fit it again from that space, with a fit"):
        plan_upgrade(gallery, replace(h, serving=None), sample=few, serve="fused")
    words = r"an upgrade cannot lead to serving 'old'; choose 'new' or 'fused'"
    with pytest.raises(ConfigurationError, match=words):
        plan_upgrade(gallery, h, sample=sample, serve="old")


def test_what_cannot_be_judged_is_not_advised_fused_or_alone():
    gallery, sample, h = better()
    few = sample.select(np.arange(19))
    plan = plan_upgrade(unlabelled(gallery), h, sample=few, serve="fused")
    assert (plan.decision.serve, plan.decision.advised) == ("fused", None)


# Where a fused pair answers now


THIRD = Space("third@3", 8)


def serving_a_pair():
    """A gallery that a pair of the old and the new space answers, and a transformation further.

    Returns the gallery, true vectors in a third space, and a transformation with a pair from the
    old space to that. Ten items were added by the new model alone since.
    """
    gallery, new, h = world(120, spoil=0.5)
    h = paired(h, 0.4, 9.3, 63.0)
    upgrade = run_upgrade(gallery, h)
    upgrade.cut_over(query_model="new", serve="fused", force=True)
    rng = np.random.default_rng(1)
    added = Embeddings(
        tuple(f"n{number}" for number in range(10)),
        (rng.normal(size=(10, 8)) + new.vectors[:10]).astype(np.float32),
        NEW,
        np.arange(10),
    )
    gallery.add(added)
    true = Embeddings(new.ids, new.vectors[:, ::-1].copy(), THIRD)
    weight = rng.normal(size=(8, 10)).astype(np.float32)
    further = linear(OLD, SIDE, THIRD, weight, np.zeros(8, np.float32), made_by={})
    return gallery, true, paired(further, 0.5, 9.3, 20.0)


def test_where_a_fused_pair_answers_now_doing_nothing_is_fused_search_with_that():
    gallery, true, h = serving_a_pair()
    sample = true.select(np.arange(40))
    found = forecast(gallery, Routes((h,)), sample)
    assert found.whole.items == 130  # also what only the new model has embedded
    assert found.whole.lost == 10
    old, new = (gallery.read(space, gallery.ids([space])) for space in (OLD, NEW))
    labels = {item: row % 20 for row, item in enumerate(true.ids)}
    labels |= {f"n{number}": number for number in range(10)}
    old, new = (
        replace(one, labels=np.array([labels[item] for item in one.ids])) for one in (old, new)
    )
    now = FusedEmbeddings(gallery.view().fusion, old, new)
    expected = evaluate_embeddings(now.align(sample.ids), now, exclude_self=True)
    assert found.whole.value("map", "do nothing") == pytest.approx(expected.map, abs=1e-12)
    third = replace(h.apply(gallery.read(OLD, true.ids), gallery.read(SIDE, true.ids)), labels=None)
    labelled = replace(sample, labels=old.align(sample.ids).labels)
    asked = FusedEmbeddings(h.serving.fusion, old.align(sample.ids), labelled)
    both = FusedEmbeddings(h.serving.fusion, old, third)
    with_lost = Relevance.of_labels(
        sample.ids,
        now.ids,
        labelled.labels,
        np.array([labels[item] for item in now.ids]),
        exclude_self=True,
    )
    score = evaluate(rank(asked, both, exclude_self=True), with_lost)
    assert found.whole.value("map", "fused") == pytest.approx(score.map, abs=1e-12)
    assert found.within.items == 40
    assert found.remade == 40  # the new vectors of the queries were upgraded


def test_items_that_lack_a_vector_of_the_pair_that_answers_now_do_not_ask():
    gallery, true, h = serving_a_pair()
    more = Embeddings(("n0", "n1"), np.ones((2, 8), np.float32), THIRD)
    sample = Embeddings(
        (*true.ids[:40], *more.ids), np.vstack([true.vectors[:40], more.vectors]), THIRD
    )
    found = forecast(gallery, Routes((h,)), sample)
    assert (found.whole.queries, found.within.items) == (40, 40)
    why = "no vector in one of old@1 and new@2, which answer queries now"
    assert found.left_out == {why: 2}


def test_of_a_large_gallery_that_a_pair_answers_items_are_drawn_of_both_spaces(monkeypatch):
    gallery, true, h = serving_a_pair()
    whole = forecast(gallery, Routes((h,)), true.select(np.arange(40))).whole
    monkeypatch.setattr(evidence, "MOST_SEARCHED", 125)
    found = forecast(gallery, Routes((h,)), true.select(np.arange(40))).whole
    assert (whole.items, found.items) == (130, 125)
    assert found.left_out == {"more than 125 are not needed": 5}


def test_real_queries_are_asked_of_a_pair_that_answers_now_by_both_of_its_models():
    gallery, true, h = serving_a_pair()
    names = tuple(f"q{number}" for number in range(20))
    by_old, by_new = (gallery.read(space, true.ids[:20]) for space in (OLD, NEW))
    by_old, by_new, by_third = (
        Embeddings(names, one.vectors[:20], one.space) for one in (by_old, by_new, true)
    )
    qrels = {name: {item: 1} for name, item in zip(names, true.ids, strict=False)}
    both = RealQueries(by_old, by_third, qrels, paired=by_new.select(np.arange(20)[::-1]))
    found = forecast(gallery, Routes((h,)), queries=both).whole
    assert found.value("cmc@1", "do nothing") == 1  # each item is nearest to itself
    turned = RealQueries(by_new, by_third, qrels, paired=by_old)
    again = forecast(gallery, Routes((h,)), queries=turned).whole
    assert again.to_json() == found.to_json()
    words = (
        r"the gallery answers from fused old@1 .*, and the real queries by the models that answer "
        r"now are in old@1 \(6, l2\); give them by the models of old@1 and new@2, one as the old "
        r"queries and the other as the paired ones, --queries-paired"
    )
    with pytest.raises(SpaceMismatchError, match=words):
        forecast(gallery, Routes((h,)), queries=RealQueries(by_old, by_third, qrels))
    gallery.serve(NEW, query_model="new")
    words = r"the real queries are given in old@1 .*, too, but new@2 .* alone answers now; leave"
    with pytest.raises(SpaceMismatchError, match=words):
        forecast(gallery, Routes((h,)), queries=turned)
    words = "20 queries by the paired model and 19 by the new one were given, and 1 are in only one"
    with pytest.raises(EmbeddingsError, match=words):
        RealQueries(by_old.select(range(19)), by_third.select(range(19)), paired=by_new)
