"""Metrics: worked by hand, against naive loops and against other libraries."""

import json
import pickle
import re

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onward.errors import EvaluationError
from onward.evaluation.metrics import Evaluation, average_precision, evaluate
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import Ranking, rank, search
from onward.spaces import Embeddings, Space

SPACE = Space("old", 3)


def labelled(rows, *, seed=0, classes=4, prefix="i"):
    random = np.random.default_rng(seed)
    ids = tuple(f"{prefix}{row}" for row in range(rows))
    vectors = random.standard_normal((rows, SPACE.dim)).astype(np.float32)
    return Embeddings(ids, vectors, SPACE, random.integers(0, classes, rows))


def evaluated(first_hit, relevant, scores, depth=None):
    ids = tuple(f"q{row}" for row in range(len(first_hit)))
    return Evaluation(
        ids,
        np.array(first_hit, np.int64),
        np.array(relevant, np.int64),
        np.array(scores, np.float64),
        depth,
    )


HITS = hnp.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 12)))


@pytest.mark.parametrize(
    ("ranking", "relevant", "expected"),
    [
        pytest.param("--+", 1, 1 / 3, id="found-last"),
        pytest.param("+-+", 2, (1 / 1 + 2 / 3) / 2, id="both-found"),
        pytest.param("+--", 3, 1 / 3, id="two-of-three-missed"),
        pytest.param("---", 2, 0.0, id="none-found"),
        pytest.param("+++", 3, 1.0, id="perfect"),
        pytest.param("---", 0, np.nan, id="nothing-to-find"),
        pytest.param("", 2, 0.0, id="nothing-came-back"),
    ],
)
def test_average_precision_worked_by_hand(ranking, relevant, expected):
    hits = np.array([[mark == "+" for mark in ranking]], dtype=bool)
    np.testing.assert_allclose(average_precision(hits, np.array([relevant])), [expected])


@settings(deadline=None)
@given(HITS, st.integers(0, 3))
def test_average_precision_is_that_of_naive_loops(hits, missed):
    for row, score in zip(hits, average_precision(hits, hits.sum(axis=1) + missed), strict=True):
        found, total = 0, 0.0
        for position, hit in enumerate(row, start=1):
            if hit:
                found += 1
                total += found / position
        relevant = found + missed
        assert np.isnan(score) if relevant == 0 else np.isclose(score, total / relevant, rtol=1e-12)


def test_more_hits_than_relevant_items_names_the_query():
    with pytest.raises(
        EvaluationError,
        match="query 1 has 2 hits but only 1 relevant items; count relevance over the whole",
    ):
        average_precision(np.array([[True, False], [True, True]]), np.array([1, 1]))


def test_cmc_worked_by_hand():
    result = evaluated([0, 2, -1, 1, -1], [1, 1, 2, 3, 0], [1.0, 1 / 3, 0.0, 0.5, np.nan])
    assert [result.cmc(k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 0.75]
    assert result.curve(4).tolist() == [0.25, 0.5, 0.75, 0.75]
    assert result.map == pytest.approx((1 + 1 / 3 + 0 + 0.5) / 4)
    assert (result.queries, result.skipped) == (4, 1)


def test_a_cmc_of_no_rank_or_below_the_cut_is_refused():
    result = evaluated([0], [1], [1.0], depth=3)
    assert result.cmc(3) == 1.0
    with pytest.raises(EvaluationError, match="k is 0, which is not a whole number from 1 up"):
        result.cmc(0)
    with pytest.raises(
        EvaluationError,
        match="cmc@4 needs 4 ranks but the rankings were cut after 3; rank at least the 4 nearest",
    ):
        result.curve(4)


def test_an_evaluation_in_which_nothing_can_be_found_says_so_without_a_number():
    nothing = evaluated([-1, -1], [0, 0], [np.nan, np.nan])
    assert np.isnan([nothing.map, nothing.cmc(1)]).all()
    assert nothing.to_json() == {
        "cmc@1": None,
        "cmc@5": None,
        "map": None,
        "queries": 0,
        "skipped": 2,
    }
    assert evaluated([], [], []).to_json()["queries"] == 0
    assert str(nothing).splitlines()[1].split() == ["-", "-", "-"]


def test_an_evaluation_prints_percent_and_writes_fractions():
    result = evaluated([0, 2, -1, -1], [1, 1, 2, 0], [1.0, 0.25, 0.0, np.nan])
    assert str(result).splitlines() == [
        "(percent)     cmc@1  cmc@5    map",
        "               33.3   66.7   41.7",
        "3 queries; 1 more skipped (nothing to find).",
    ]
    written = result.to_json()
    assert written == {
        "cmc@1": pytest.approx(1 / 3),
        "cmc@5": pytest.approx(2 / 3),
        "map": pytest.approx(1.25 / 3),
        "queries": 3,
        "skipped": 1,
    }
    assert {type(value) for value in written.values()} == {int, float}
    json.dumps(written, allow_nan=False)


def test_an_evaluation_goes_to_another_process_whole():
    gallery = labelled(12, classes=2)
    relevance = Relevance.between(gallery, gallery, exclude_self=True).ignoring({"i1": {"i2"}})
    sent = pickle.loads(pickle.dumps(relevance))
    result = evaluate(rank(gallery, gallery, exclude_self=True), sent, metrics=("ndcg@3",))
    assert pickle.loads(pickle.dumps(result)).to_json() == result.to_json()


def test_some_queries_can_be_looked_at_apart():
    result = evaluated([0, 2, -1], [1, 1, 2], [1.0, 1 / 3, 0.0], depth=5)
    some = result.select(["q2", "q0"])
    assert some.query_ids == ("q2", "q0")
    assert (some.cmc(1), some.map, some.depth) == (0.5, 0.5, 5)
    with pytest.raises(
        EvaluationError, match="1 of 2 queries were not evaluated, the first 'x'; evaluate them"
    ):
        result.select(["q0", "x"])


def test_an_evaluation_refuses_a_query_twice_and_arrays_that_do_not_fit():
    one = np.array([0]), np.array([1]), np.array([1.0])
    two = np.array([0, 0]), np.array([1, 1]), np.array([1.0, 1.0])
    with pytest.raises(EvaluationError, match="'q' stands in rows 0 and 1 of the query ids"):
        Evaluation(("q", "q"), *two)
    with pytest.raises(EvaluationError, match=r"first_hit of shape \(1,\) for 2 queries; give one"):
        Evaluation(("p", "q"), *one)
    with pytest.raises(ValueError, match="read-only"):
        Evaluation(("p",), *one).relevant[0] = 3


MEASURES = {
    "map": ir_measures.AP,
    "cmc@1": ir_measures.Success @ 1,
    "cmc@5": ir_measures.Success @ 5,
    "recall@1": ir_measures.R @ 1,
    "recall@10": ir_measures.R @ 10,
    "mrr@1": ir_measures.RR @ 1,
    "mrr@10": ir_measures.RR @ 10,
    "ndcg@1": ir_measures.nDCG @ 1,
    "ndcg@5": ir_measures.nDCG @ 5,
    "ndcg@10": ir_measures.nDCG @ 10,
    "ndcg@1000": ir_measures.nDCG @ 1000,
}


@pytest.mark.parametrize("seed", range(6))
def test_graded_metrics_are_those_of_ir_measures(seed):
    random = np.random.default_rng(seed)
    gallery, queries = labelled(60, seed=seed), labelled(25, seed=seed + 100, prefix="q")
    ties = Embeddings(gallery.ids, np.round(gallery.vectors), SPACE)
    asked = Embeddings(queries.ids, np.round(queries.vectors), SPACE)
    qrels = {
        query: {
            item: int(random.integers(-1, 5))
            for item in random.choice(ties.ids, random.integers(1, 40), replace=False).tolist()
        }
        for query in asked.ids[:-2]  # the last two are not judged
    }
    relevance = Relevance.of_qrels(asked.ids, ties.ids, qrels, exclude_self=False)
    found = search(asked, ties, 60, exclude_self=False)
    assert (np.diff(found.distances, axis=1) == 0).any()
    result = evaluate(found, relevance, metrics=tuple(MEASURES))

    run = [
        ir_measures.ScoredDoc(query, item, float(-position))
        for row, query in enumerate(asked.ids)
        for position, item in enumerate(found.ids_of(row))
    ]
    judged = [
        ir_measures.Qrel(query, item, grade)
        for query, grades in qrels.items()
        for item, grade in grades.items()
    ]
    names = {measure: name for name, measure in MEASURES.items()}
    per_query = {
        name: dict(zip(asked.ids, result.per_query(name), strict=True)) for name in MEASURES
    }
    counted = {item for item, counts in zip(asked.ids, result.counted, strict=True) if counts}
    seen = 0
    for metric in ir_measures.iter_calc(list(MEASURES.values()), judged, run):
        if metric.query_id in counted:
            ours = per_query[names[metric.measure]][metric.query_id]
            assert ours == pytest.approx(metric.value, abs=1e-9), metric
            seen += 1
    assert seen == len(MEASURES) * len(counted) > 200
    for name in MEASURES:
        values = result.per_query(name)
        assert result.value(name) == pytest.approx(values[result.counted].mean())
        assert np.isnan(values[~result.counted]).all()


def test_recall_and_gain_worked_by_hand():
    found = Ranking(
        ("q",), tuple("abcd"), np.array([[0, 1, 2, 3]]), np.arange(4, dtype="f4")[None], False
    )
    qrels = {"q": {"b": 3, "d": 1, "a": 0}}
    relevance = Relevance.of_qrels(("q",), tuple("abcde"), qrels, exclude_self=False)
    metrics = ("recall@1", "recall@2", "recall@4", "mrr@1", "mrr@2", "ndcg@1", "ndcg@2", "ndcg@4")
    result = evaluate(found, relevance, metrics=metrics)
    best = 3 + 1 / np.log2(3)
    gained = 3 / np.log2(3)
    expected = [0, 1 / 2, 1, 0, 1 / 2, 0, gained / best, (gained + 1 / np.log2(5)) / best]
    assert [result.value(name) for name in metrics] == pytest.approx(expected)


def test_the_metrics_that_were_asked_for_are_shown_in_that_order():
    gallery = labelled(12, classes=2)
    relevance = Relevance.between(gallery, gallery, exclude_self=True)
    metrics = ("ndcg@10", "map", "recall@100", "map")
    result = evaluate(rank(gallery, gallery, exclude_self=True), relevance, metrics=metrics)
    assert list(result.to_json()) == ["ndcg@10", "map", "recall@100", "queries", "skipped"]
    head, values, _ = str(result).splitlines()
    assert head.split() == ["(percent)", "ndcg@10", "map", "recall@100"]
    assert len(head) == len(values)
    assert values.split() == [f"{100 * result.value(name):.1f}" for name in metrics[:3]]
    some = result.select(gallery.ids[3:5])
    assert some.per_query("ndcg@10").tolist() == result.per_query("ndcg@10")[3:5].tolist()
    assert some.metrics == result.metrics


def test_a_metric_that_was_not_measured_or_does_not_exist_is_refused():
    result = evaluated([0], [1], [1.0])
    words = (
        "ndcg@10 was not measured, only cmc@1, cmc@5, map, and cmc@k and mrr@k of any k; judge the "
        "rankings with it among metrics=(...)"
    )
    with pytest.raises(EvaluationError, match=re.escape(words)):
        result.value("ndcg@10")
    assert result.value("mrr@999999999") == 1
    relevance = Relevance.of_labels(
        ("q",), ("a",), np.zeros(1, int), np.zeros(1, int), exclude_self=False
    )
    for name in (
        "ndcg",
        "NDCG@10",
        "recall@0",
        "mrr@-1",
        "cmc@1.5",
        "map@10",
        "ndcg@1000000000",
        "",
    ):
        with pytest.raises(
            EvaluationError, match=f"there is no metric '{name}'; choose map, cmc@k"
        ):
            evaluate([], relevance, metrics=("map", name))
    with pytest.raises(EvaluationError, match="no metric was asked for; name some, such as cmc@1"):
        evaluate([], relevance, metrics=())


def test_graded_metrics_of_short_rankings_are_known_to_their_cut():
    gallery = labelled(30, classes=3)
    relevance = Relevance.between(gallery, gallery, exclude_self=True)
    metrics = ("recall@5", "recall@6", "ndcg@5", "ndcg@6", "mrr@6")
    cut = evaluate(search(gallery, gallery, 5, exclude_self=True), relevance, metrics=metrics)
    whole = evaluate(search(gallery, gallery, 29, exclude_self=True), relevance, metrics=metrics)
    shown = cut.to_json()
    assert [shown[name] for name in ("recall@6", "ndcg@6", "mrr@6")] == [None] * 3
    assert shown["recall@5"] == whole.value("recall@5")
    assert shown["ndcg@5"] == whole.value("ndcg@5")
    with pytest.raises(EvaluationError, match="ndcg@6 needs 6 ranks but the rankings were cut aft"):
        cut.value("ndcg@6")


def test_a_cut_is_remembered_only_where_it_hides_something():
    gallery = labelled(6)
    relevance = Relevance.between(gallery, gallery, exclude_self=True)
    depth_of = {
        k: evaluate(search(gallery, gallery, k, exclude_self=True), relevance).depth
        for k in (3, 4, 5, 9)
    }
    assert depth_of == {3: 3, 4: 4, 5: None, 9: None}


def test_a_cut_that_hides_an_item_from_queries_outside_the_gallery_is_remembered():
    space, labels = Space("line", 1), np.array([1, 1, 2])
    gallery = Embeddings(("a", "b", "c"), np.array([[0], [1], [2]], np.float32), space, labels)
    queries = Embeddings(("a", "q"), np.array([[0], [0]], np.float32), space, np.array([1, 2]))
    relevance = Relevance.between(queries, gallery, exclude_self=True)
    depth_of = {
        k: evaluate(search(queries, gallery, k, exclude_self=True), relevance).depth
        for k in (1, 2, 3, 4)
    }
    assert depth_of == {1: 1, 2: 2, 3: None, 4: None}
    cut = evaluate(search(queries, gallery, 2, exclude_self=True), relevance)
    with pytest.raises(EvaluationError, match="cmc@3 needs 3 ranks but the rankings were cut"):
        cut.cmc(3)


def test_queries_that_were_not_ranked_are_missed():
    gallery = labelled(6)
    relevance = Relevance.between(gallery, gallery, exclude_self=False)
    with pytest.raises(
        EvaluationError,
        match="2 of 6 queries were not ranked, the first 'i2'; rank them all, or make the relev",
    ):
        evaluate(rank(gallery.select([0, 1, 3, 5]), gallery, exclude_self=False), relevance)


def test_no_queries_make_an_empty_evaluation():
    gallery, none = labelled(3), labelled(0)
    relevance = Relevance.between(none, gallery, exclude_self=False)
    result = evaluate(rank(none, gallery, exclude_self=False), relevance)
    assert (result.queries, result.skipped, result.depth) == (0, 0, None)


def test_a_ranking_with_padding_counts_what_did_not_come_back_as_missed():
    found = Ranking(
        ("q",),
        ("a", "b"),
        np.array([[1, -1, -1]]),
        np.array([[0.5, np.inf, np.inf]], np.float32),
        False,
    )
    relevance = Relevance.of_labels(
        ("q",), ("a", "b", "c"), np.array([1]), np.array([1, 0, 1]), exclude_self=False
    )
    result = evaluate(found, relevance)
    assert (result.map, result.cmc(3)) == (0, 0)
    assert result.relevant.tolist() == [2]
