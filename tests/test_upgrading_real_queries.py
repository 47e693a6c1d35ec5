"""Real queries judge an upgrade: by judgements, by labels, or by agreement with full backfill."""

from dataclasses import replace

import numpy as np
import pytest
from worlds import NEW, OLD, SIDE, numbers, unlabelled, world

from onward.errors import (
    EmbeddingsError,
    EvaluationError,
    LabelMismatchError,
    SpaceMismatchError,
    UpgradeError,
)
from onward.evaluation.comparison import evaluate_embeddings
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import search
from onward.gallery import create_gallery
from onward.spaces import Embeddings
from onward.upgrading import RealQueries, Requirement, Upgrade, evidence, forecast, plan_upgrade
from onward.upgrading.routes import Routes


def ask(gallery, new, count=60, *, noise=0.3, noise_old=0.3, seed=0, labels=False):
    """Queries near items, and each one's item with grade 2 and another of its class with grade 1.

    How far they are from their items differs: `noise_old` for the old model, `noise` for the new.
    """
    rng = np.random.default_rng(seed)
    old = gallery.read(OLD)
    about = rng.choice(len(old), count, replace=False)
    ids = tuple(f"q{number:03}" for number in range(count))
    by_old = old.vectors[about] + noise_old * rng.normal(size=(count, 6))
    by_new = new.vectors[about] + noise * rng.normal(size=(count, 8))
    classes = old.labels[about] if old.labels is not None else about % 20
    mate = [int(rng.choice(np.flatnonzero(np.arange(len(old)) % 20 == one))) for one in classes]
    qrels = {
        query: {old.ids[other]: 1, old.ids[item]: 2}
        for query, item, other in zip(ids, about, mate, strict=True)
    }
    known = classes if labels else None
    return (
        Embeddings(ids, by_old.astype(np.float32), OLD, known),
        Embeddings(ids, by_new.astype(np.float32), NEW, known),
        qrels,
    )


def test_judgements_give_what_a_full_evaluation_by_hand_gives():
    gallery, new, h = world(150, spoil=0.3)
    old, by_new, qrels = ask(gallery, new)
    sample = new.select(np.arange(30))
    queries = RealQueries(old, by_new.select(np.arange(60)[::-1]), qrels)
    found = forecast(gallery, Routes((h,)), sample, queries=queries).whole
    assert (found.asked, found.metric, found.queries) == ("real queries", "ndcg@10", 60)
    items = gallery.read(OLD)
    upgraded = h.apply(items, gallery.read(SIDE))
    written = np.concatenate([sample.vectors, upgraded.vectors[30:]])
    relevance = Relevance.of_qrels(old.ids, items.ids, qrels, exclude_self=False)
    for name, asked, searched in [
        ("do nothing", old, items),
        ("upgrade", by_new, upgraded),
        ("upgrade + the sample", by_new, Embeddings(items.ids, written, NEW)),
    ]:
        expected = evaluate_embeddings(
            asked, searched, exclude_self=False, relevance=relevance, metrics=found.metrics
        )
        for metric in ("ndcg@10", "map", "cmc@1"):
            assert found.value(metric, name) == pytest.approx(expected.value(metric), abs=1e-12)


def test_answers_of_real_queries_fall_though_items_agree_more_and_the_gate_stays_closed():
    """Items agreed more (41.8 -> 61.4 %), and answers of real queries fell (30.8 -> 28.5)."""
    gallery, new, h = world(200)
    gallery = unlabelled(gallery)
    sample = Embeddings(new.ids[:100], new.vectors[:100], NEW)
    by_items = plan_upgrade(gallery, h, sample=sample)
    assert by_items.decision.answer == "open"
    assert by_items.decision.nothing < 0.5 < by_items.decision.written
    assert "queries that are not items may give other results" in by_items.decision.says
    queries = RealQueries(*ask(gallery, new, noise=3.0, noise_old=0.2))
    by_queries = plan_upgrade(gallery, h, sample=sample, queries=queries)
    assert (by_queries.decision.answer, by_queries.decision.metric) == ("closed", "ndcg@10")
    assert by_queries.decision.gain.high < 0
    with pytest.raises(UpgradeError, match=r"the gate is CLOSED: ndcg@10 .* over 60 real queries"):
        Upgrade(gallery, h).start(prediction=by_queries.prediction, sample=sample)
    assert NEW not in gallery.spaces()


def test_judgements_need_no_sample():
    gallery, new, h = world(150, seen=0.3)
    queries = RealQueries(*ask(gallery, new, noise=0.1, noise_old=3.0))
    plan = plan_upgrade(gallery, h, queries=queries)
    assert (plan.decision.answer, plan.prediction.within) == ("open", None)
    assert [cell.name for cell in plan.prediction.whole.cells] == ["do nothing", "upgrade"]
    assert plan.recommendation.startswith("Upgrade: it takes ndcg@10 from ")
    started = Upgrade(gallery, h).start(prediction=plan.prediction)
    assert started.gate.says.startswith("ndcg@10 ")
    few = RealQueries(*ask(gallery, new, count=2))
    unsure = plan_upgrade(world(150)[0], h, queries=few).decision
    assert (unsure.answer, unsure.needed_of) == ("cannot judge", "real queries")
    assert f"at least {unsure.needed:,} real queries would tell" in unsure.says


def test_an_item_with_the_id_of_a_judged_query_is_another_thing():
    gallery, new, h = world(60)
    old, by_new, qrels = ask(gallery, new, count=20, noise=0.0, noise_old=0.0)
    ids = tuple(next(item for item, grade in qrels[q].items() if grade == 2) for q in old.ids)
    same = {item: {item: 1} for item in ids}
    queries = RealQueries(
        Embeddings(ids, old.vectors, OLD), Embeddings(ids, by_new.vectors, NEW), same
    )
    found = forecast(gallery, Routes((h,)), queries=queries).whole
    assert found.value("cmc@1", "do nothing") == 1


def test_labels_of_real_queries_judge_where_the_gallery_has_some():
    gallery, new, h = world(150, spoil=0.3)
    old, by_new, _ = ask(gallery, new, labels=True)
    found = forecast(gallery, Routes((h,)), queries=RealQueries(old, by_new)).whole
    assert (found.metric, found.queries) == ("map", 60)
    expected = evaluate_embeddings(old, gallery.read(OLD), exclude_self=True)
    assert found.value("map", "do nothing") == pytest.approx(expected.map, abs=1e-12)
    names = {label: f"class {label}" for label in range(20)}
    named = Embeddings(by_new.ids, by_new.vectors, NEW, by_new.labels, names)
    with pytest.raises(LabelMismatchError, match="the classes of the real queries have names"):
        forecast(gallery, Routes((h,)), queries=RealQueries(old, named))
    stated = RealQueries(old, named, same_labels=True)
    assert forecast(gallery, Routes((h,)), queries=stated).whole.to_json() == found.to_json()


def test_without_answers_the_agreement_of_real_queries_with_full_backfill_judges():
    gallery, new, h = world(200, seen=0.3)
    old, by_new, _ = ask(gallery, new)
    sample = new.select(np.arange(100))
    plan = plan_upgrade(gallery, h, sample=sample, queries=RealQueries(old, by_new))
    within = plan.prediction.within
    assert (plan.prediction.whole, within.asked, within.queries) == (None, "real queries", 60)
    assert within.value("agreement", "full backfill") == 1
    items = gallery.read(OLD, sample.ids)
    true = search(by_new, sample, 10, exclude_self=True)
    now = search(old, items, 10, exclude_self=True)
    expected = np.mean([len({*true.ids_of(q)} & {*now.ids_of(q)}) / 10 for q in range(60)])
    assert within.value("agreement", "do nothing") == pytest.approx(expected)
    assert plan.decision.says.startswith("agreement of real queries ")
    assert "queries that are not items" not in plan.decision.says
    assert within.cell("upgrade + the sample").share == 0.5
    alone = plan_upgrade(gallery, h, queries=RealQueries(old, by_new))
    assert alone.decision.answer == "cannot judge"
    assert (
        "nothing says what the real queries look for, and without a sample" in alone.recommendation
    )


def test_so_many_queries_are_asked_chosen_by_their_ids_among_those_that_are_judged(monkeypatch):
    gallery, new, h = world(100)
    old, by_new, qrels = ask(gallery, new)
    judged = {query: qrels[query] for query in old.ids[:30]}
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "MOST_ITEMS", 20)
        found = forecast(gallery, Routes((h,)), queries=RealQueries(old, by_new, judged))
    assert found.whole.queries == 20
    assert found.unasked == {"not in the judgements": 30, "more than 20 are not needed": 10}
    assert "left out of the real queries: 30 (not in the judgements), 10 (more than 20" in str(
        found
    )
    everything = forecast(gallery, Routes((h,)), queries=RealQueries(old, by_new, judged))
    assert (everything.whole.queries, everything.whole.skipped) == (30, 0)
    judged[old.ids[0]] = {"i0000": 0}
    found = forecast(gallery, Routes((h,)), queries=RealQueries(old, by_new, judged))
    assert (found.whole.queries, found.whole.skipped) == (29, 1)
    assert "1 more skipped (nothing to find)" in str(found)


def test_relevant_items_are_searched_in_any_case(monkeypatch):
    monkeypatch.setattr(evidence, "MOST_SEARCHED", 20)
    gallery, new, h = world(200)
    old, by_new, qrels = ask(gallery, new, count=5)
    queries = RealQueries(old, by_new, qrels)
    found = forecast(gallery, Routes((h,)), queries=queries).whole
    wanted = {item for grades in qrels.values() for item in grades}
    assert found.items == 20
    assert found.queries == 5
    monkeypatch.setattr(evidence, "MOST_SEARCHED", 1)
    few = forecast(gallery, Routes((h,)), queries=queries).whole
    assert few.items == len(wanted)


def test_queries_that_do_not_fit_are_refused():
    gallery, new, h = world(60)
    old, by_new, _ = ask(gallery, new, count=10)
    with pytest.raises(
        EmbeddingsError, match=r"10 queries by the old model and 9 by .* the first 'q0"
    ):
        RealQueries(old, by_new.select(np.arange(1, 10)))
    with pytest.raises(EvaluationError, match=r"no real queries were given; embed at least one"):
        RealQueries(old.select([]), by_new.select([]))
    words = r"the real queries by the old model are in new@2 .* asked in old@1 .*; embed them by"
    with pytest.raises(SpaceMismatchError, match=words):
        forecast(gallery, Routes((h,)), queries=RealQueries(by_new, old))
    with pytest.raises(UpgradeError, match=r"without true new embeddings .* or real queries by"):
        forecast(gallery, Routes((h,)))


def test_judgements_that_want_nothing_are_refused_and_not_replaced_by_agreement():
    gallery, new, h = world(60)
    old, by_new, qrels = ask(gallery, new, count=10)
    nothing = {query: dict.fromkeys(grades, 0) for query, grades in qrels.items()}
    words = r"judgements name no relevant item for the 10 real queries; give judgements with grades"
    for sample in (None, new):
        with pytest.raises(UpgradeError, match=words):
            forecast(gallery, Routes((h,)), sample, queries=RealQueries(old, by_new, nothing))


def test_judgements_of_items_that_the_gallery_lacks_are_refused_or_left_out():
    gallery, new, h = world(60)
    old, by_new, qrels = ask(gallery, new, count=10)
    qrels["q000"] = {**qrels["q000"], "gone": 1, "not relevant": 0}
    words = r"1 of \d+ relevant items in the judgements are not in .* 'gone'; .*ignore_unknown=True"
    with pytest.raises(UpgradeError, match=words):
        forecast(gallery, Routes((h,)), queries=RealQueries(old, by_new, qrels))
    found = forecast(
        gallery, Routes((h,)), queries=RealQueries(old, by_new, qrels, ignore_unknown=True)
    )
    assert (found.whole.queries, found.unknown) == (10, 1)
    assert "left out of the judgements: 1 (relevant items that the gallery lacks)" in str(found)
    with pytest.raises(UpgradeError, match="1 of 1 relevant items in the judgements are"):
        forecast(gallery, Routes((h,)), queries=RealQueries(old, by_new, {"q000": {"gone": 1}}))
    with pytest.raises(UpgradeError, match="the judgements name none of the 10 real queries; give"):
        forecast(gallery, Routes((h,)), queries=RealQueries(old, by_new, {"other": {"i0000": 1}}))


def test_labels_that_no_item_has_or_all_items_have_judge_nothing():
    gallery, new, h = world(60)
    old, by_new, _ = ask(gallery, new, count=10)
    alone = [replace(one, labels=np.full(10, 99)) for one in (old, by_new)]
    why = forecast(gallery, Routes((h,)), queries=RealQueries(*alone)).why
    assert why.startswith("nothing can be predicted: the gallery's labels do not tell what real")
    items = [replace(gallery.read(space), labels=np.full(60, 7)) for space in (OLD, SIDE)]
    one_class = create_gallery(f"memory:p{next(numbers)}", OLD, SIDE, items=items)
    same = [replace(one, labels=np.full(10, 7)) for one in (old, by_new)]
    assert forecast(one_class, Routes((h,)), queries=RealQueries(*same)).whole is None
    found = forecast(one_class, Routes((h,)), new)
    assert (found.whole, found.within.metric) == (None, "agreement")


def test_a_requirement_may_name_ndcg_where_judgements_judge():
    gallery, new, h = world(150, seen=0.3)
    queries = RealQueries(*ask(gallery, new, noise=0.1, noise_old=3.0))
    require = Requirement.parse("ndcg@10 >= 1.01 * old/old")
    plan = plan_upgrade(gallery, h, queries=queries, require=require)
    assert plan.decision.verdict.met
    bare = create_gallery(f"memory:p{next(numbers)}", OLD, SIDE, items=[gallery.read(OLD)])
    with pytest.raises(
        UpgradeError,
        match="what is known in the gallery is only cmc@1, cmc@5, map; give judgements",
    ):
        plan_upgrade(bare, h, sample=new, require=require)
