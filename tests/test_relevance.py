"""Relevance: what counts as a hit, what there is to find, and what is ignored for whom."""

import re
import tracemalloc

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import EvaluationError
from onward.evaluation.comparison import evaluate_embeddings
from onward.evaluation.metrics import evaluate
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import Ranking, rank, search
from onward.spaces import Embeddings, Space

INF = np.inf
LINE = Space("line", 1)


def ranking(rows, *, queries="pq", gallery="abc", exclude_self=False):
    rows = np.array(rows)
    distances = np.where(rows < 0, INF, np.arange(rows.shape[1])).astype(np.float32)
    return Ranking(tuple(queries), tuple(gallery), rows, distances, exclude_self)


def relevance(query_labels, gallery_labels, *, queries="pq", gallery="abc", exclude_self=False):
    labels = np.array(query_labels), np.array(gallery_labels)
    return Relevance.of_labels(tuple(queries), tuple(gallery), *labels, exclude_self=exclude_self)


def on_a_line(places, ids, labels=None):
    vectors = np.array(places, np.float32)[:, None]
    return Embeddings(tuple(ids), vectors, LINE, None if labels is None else np.array(labels))


@pytest.mark.parametrize(
    ("labels", "ranked", "expected"),
    [
        pytest.param([8, 7, 8], {"rows": [[2, 1, 0], [1, 0, -1]]}, ["-+-", "-+-"], id="by-class"),
        pytest.param([7, 7, 8], {"rows": [[-1], [-1]]}, ["-", "-"], id="padding"),
        pytest.param(
            [7, 8, 7], {"rows": [[0, 1], [1, -1]], "gallery": "cb"}, ["+-", "+-"], id="some-items"
        ),
        pytest.param([7, 8, 7], {"rows": [[0], [0]], "queries": "qp"}, ["-", "+"], id="turned"),
        pytest.param([], {"rows": [[-1], [-1]], "gallery": ""}, ["-", "-"], id="empty-gallery"),
    ],
)
def test_hits_are_the_items_of_the_querys_class_by_id(labels, ranked, expected):
    made = relevance([7, 8], np.array(labels, int), gallery="abc"[: len(labels)])
    found = made.grades(ranking(**ranked))
    assert ["".join("-+"[hit] for hit in row) for row in found.tolist()] == expected


def test_relevant_items_are_counted_over_the_whole_gallery():
    made = relevance([7, 9], [7, 8, 7])
    assert made.counts(("p", "q")).tolist() == [2, 0]
    assert made.counts(("q",)).tolist() == [0]


def test_a_querys_own_entry_is_left_out_of_the_count_by_id():
    labels = {"query_labels": [7, 7], "gallery_labels": [7, 8, 7], "queries": "ax"}
    assert relevance(**labels).counts(("a", "x")).tolist() == [2, 2]
    assert relevance(**labels, exclude_self=True).counts(("a", "x")).tolist() == [1, 2]


@pytest.mark.parametrize("ours", [True, False])
def test_ranking_and_relevance_must_agree_on_self_matches(ours):
    words = (
        f"the ranking was made with exclude_self={not ours}, the relevance with "
        f"exclude_self={ours}; make both with the same"
    )
    with pytest.raises(EvaluationError, match=words):
        relevance([7, 8], [7, 8, 7], exclude_self=ours).grades(
            ranking([[0], [1]], exclude_self=not ours)
        )


def test_a_ranking_that_holds_the_entry_it_left_out_is_refused():
    made = relevance([7, 8], [7, 8, 7], queries="xb", exclude_self=True)
    with pytest.raises(
        EvaluationError,
        match="ranking of query 'b' holds its own gallery entry but says exclude_self=True; leave",
    ):
        made.grades(ranking([[0, 2], [0, 1]], queries="xb", exclude_self=True))


def test_unknown_queries_and_items_are_named():
    made = relevance([7, 8], [7, 8, 7])
    with pytest.raises(EvaluationError, match=r"knows no query 'x' \(1 of 2 are unknown to it\)"):
        made.grades(ranking([[0], [1]], queries="px"))
    with pytest.raises(EvaluationError, match=r"knows no gallery item 'z' \(1 of 2 are unknown"):
        made.grades(ranking([[0], [1]], gallery="az"))
    with pytest.raises(EvaluationError, match="make ranking and relevance from the same queries"):
        made.counts(("y",))


def test_relevance_refuses_labels_that_do_not_fit():
    with pytest.raises(
        EvaluationError, match=r"gallery labels of shape \(2,\) for 3 gallery ids; give one label"
    ):
        relevance([7, 8], [7, 8])
    with pytest.raises(EvaluationError, match="'p' stands in rows 0 and 1 of the query ids of a"):
        relevance([7, 8], [7, 8, 7], queries="pp")


def test_relevance_between_embeddings_needs_labels():
    space = Space("old", 1)
    labelled = Embeddings(("a",), np.ones((1, 1), "f4"), space, np.array([3]))
    bare = Embeddings(("b", "c"), np.ones((2, 1), "f4"), space)
    assert Relevance.between(labelled, labelled, exclude_self=False).counts(("a",)).tolist() == [1]
    assert Relevance.between(labelled, labelled, exclude_self=True).counts(("a",)).tolist() == [0]
    for queries, gallery, whose in ((bare, labelled, "queries"), (labelled, bare, "gallery")):
        with pytest.raises(
            EvaluationError, match=f"embeddings of the {whose} have no labels, and labels make rel"
        ):
            Relevance.between(queries, gallery, exclude_self=False)


# Labels that are not known


def test_an_unknown_label_is_neither_query_nor_relevant_and_is_counted():
    made = relevance([-1, 7], [-1, 7, -1])
    assert made.counts(("p", "q")).tolist() == [0, 1]
    assert made.grades(ranking([[0, 1, 2], [0, 1, 2]])).tolist() == [
        [False, False, False],
        [False, True, False],
    ]
    assert made.left_out == {"queries_without_label": 1, "items_without_label": 2}


def test_unknown_labels_are_counted_in_the_evaluation_and_said():
    gallery = on_a_line([0, 1, 2, 3], "abcd", [4, -1, 4, -2])
    made = evaluate_embeddings(gallery, gallery, exclude_self=True)
    assert (made.queries, made.skipped) == (2, 2)
    assert made.map == pytest.approx((1 / 2 + 1 / 3) / 2)  # a: b c* d; c: b d a*
    assert made.to_json()["left_out"] == {"queries_without_label": 2, "items_without_label": 2}
    assert "2 gallery items have an unknown label: relevant to no query." in str(made)


# Judgements


def test_qrels_give_an_item_to_several_queries_and_a_query_several_items():
    gallery = on_a_line([0, 1, 2, 3], ("d1", "d2", "d3", "d4"))
    queries = on_a_line([0, 3], ("q1", "q2"))
    qrels = {"q1": {"d2": 1, "d3": 2}, "q2": {"d3": 1, "d4": 2}}
    made = Relevance.of_qrels(queries.ids, gallery.ids, qrels, exclude_self=False)
    # q1: d1 d2* d3* d4; q2: d4* d3* d2 d1
    assert made.counts(("q2", "q1")).tolist() == [2, 2]
    assert made.grades(search(queries, gallery, 4, exclude_self=False)).tolist() == [
        [0, 1, 2, 0],
        [2, 1, 0, 0],
    ]
    found = evaluate_embeddings(
        queries, gallery, exclude_self=False, relevance=made, metrics=("map", "ndcg@2", "recall@2")
    )
    assert found.map == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)
    best = 2 + 1 / np.log2(3)
    assert found.per_query("ndcg@2") == pytest.approx([1 / np.log2(3) / best, 1])
    assert found.per_query("recall@2").tolist() == [1 / 2, 1]


def test_a_grade_of_zero_or_less_is_not_relevant():
    made = Relevance.of_qrels(("q",), ("a", "b"), {"q": {"a": 0, "b": -1}}, exclude_self=False)
    assert made.counts(("q",)).tolist() == [0]
    there = Relevance.of_qrels(("q",), ("a",), {"q": {"a": 1, "gone": 0}}, exclude_self=False)
    assert (there.counts(("q",)).tolist(), dict(there.left_out)) == ([1], {})


def test_a_query_that_is_not_judged_has_nothing_to_find():
    made = Relevance.of_qrels(("p", "q"), ("a", "b"), {"q": {"a": 1}}, exclude_self=False)
    found = evaluate(ranking([[0, 1], [1, 0]], gallery="ab"), made)
    assert (found.queries, found.skipped, found.map) == (1, 1, 1 / 2)


def test_judged_queries_that_were_not_asked_are_counted():
    made = Relevance.of_qrels(
        ("q",), ("a",), {"q": {"a": 1}, "other": {"zz": 1}}, exclude_self=False
    )
    assert made.left_out == {"qrels_queries": 1}


def test_qrels_of_other_queries_alone_are_refused():
    words = (
        "none of the 1 queries in the qrels is among the 2 that are asked; the first there is 'Q1'"
    )
    with pytest.raises(EvaluationError, match=words):
        Relevance.of_qrels(("q1", "q2"), ("a",), {"Q1": {"a": 1}}, exclude_self=False)


def test_relevant_items_that_the_gallery_lacks_are_refused_or_counted():
    qrels = {"q": {"a": 1, "x": 2, "y": 1}}
    words = (
        "2 of 3 qrels name an item that is not among the 2 of the gallery, the first 'x' for query "
        "'q'; give the ids that the gallery has, or leave such items out with ignore_unknown=True"
    )
    with pytest.raises(EvaluationError, match=re.escape(words)):
        Relevance.of_qrels(("q",), ("a", "b"), qrels, exclude_self=False)
    made = Relevance.of_qrels(("q",), ("a", "b"), qrels, exclude_self=False, ignore_unknown=True)
    assert (made.counts(("q",)).tolist(), dict(made.left_out)) == ([1], {"qrels_items": 2})


@pytest.mark.parametrize("grade", [1.5, "1", None, 2**31, float("nan")])
def test_a_grade_that_is_not_a_whole_number_is_refused(grade, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(EvaluationError, match=r"the grade of item 'a' for query 'q' is .*; grades"):
        Relevance.of_qrels(("q",), ("a",), {"q": {"a": grade}}, exclude_self=False)


def test_qrels_that_give_no_grades_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(
        EvaluationError, match="the qrels of query 'q' are set, not a mapping; give"
    ):
        Relevance.of_qrels(("q",), ("a",), {"q": {"a"}}, exclude_self=False)
    made = relevance([7, 8], [7, 8, 7])
    with pytest.raises(EvaluationError, match="of query 'p' are None; give a set or a list of ids"):
        made.ignoring({"p": None})


# Ignored items


PERSON, CAMERA = [1, 1, 1, 2, 2, 3], [1, 2, 3, 1, 2, 2]
PEOPLE = on_a_line([0.1, 5, 9, 2, 7, 1], (f"g{row}" for row in range(6)), PERSON)
ASKED = on_a_line([0], ("q0",), [1])  # of camera 1


def test_an_ignored_item_is_neither_hit_nor_miss():
    bare = Relevance.between(ASKED, PEOPLE, exclude_self=False)
    ways = (bare.ignoring({"q0": {"g0"}}), bare.ignoring_cameras([1], CAMERA))
    # g0 (ignored) g5 g3 g1* g4 g2*
    for made in ways:
        found = evaluate_embeddings(ASKED, PEOPLE, exclude_self=False, relevance=made)
        assert found.map == pytest.approx((1 / 3 + 2 / 5) / 2)
        assert [found.cmc(k) for k in (1, 2, 3)] == [0, 0, 1]
        assert found.relevant.tolist() == [2]
    plain = evaluate_embeddings(ASKED, PEOPLE, exclude_self=False)
    assert plain.cmc(1) == 1


def test_an_ignored_item_that_nobody_wants_moves_others_up():
    found = evaluate_embeddings(ASKED, PEOPLE, exclude_self=False, ignored={"q0": ["g5", "g3"]})
    # g0* g1* g4 g2*
    assert found.map == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_what_the_own_camera_took_of_others_counts():
    made = Relevance.between(ASKED, PEOPLE, exclude_self=False).ignoring_cameras([2], CAMERA)
    # g0* g5 g3 (g1) g4 g2*: g5 and g4 are of camera 2 too, but of other people
    found = evaluate_embeddings(ASKED, PEOPLE, exclude_self=False, relevance=made)
    assert found.map == pytest.approx((1 + 2 / 5) / 2)


def test_a_query_whose_every_item_is_ignored_has_nothing_to_find():
    made = Relevance.between(ASKED, PEOPLE, exclude_self=False)
    made = made.ignoring({"q0": {"g0", "g1"}}).ignoring({"q0": {"g2", "g1"}})
    found = evaluate_embeddings(ASKED, PEOPLE, exclude_self=False, relevance=made)
    assert (found.queries, found.skipped) == (0, 1)


def test_a_ranking_that_was_cut_is_known_to_fewer_ranks_where_items_were_ignored():
    made = Relevance.between(ASKED, PEOPLE, exclude_self=False).ignoring({"q0": {"g0", "g5"}})
    found = evaluate(search(ASKED, PEOPLE, 4, exclude_self=False), made)
    assert found.depth == 2  # g3 g1*
    assert found.cmc(2) == 1
    with pytest.raises(EvaluationError, match="cmc@3 needs 3 ranks but the rankings were cut af"):
        found.cmc(3)
    whole = evaluate(search(ASKED, PEOPLE, 6, exclude_self=False), made)
    assert (whole.depth, whole.cmc(5)) == (None, 1)


def test_ignored_pairs_of_unknown_ids_are_counted_or_refused():
    made = relevance([7, 8], [7, 8, 7])
    assert made.ignoring({"p": {"a"}, "x": {"a"}}).left_out == {"ignored_queries": 1}
    with pytest.raises(
        EvaluationError, match="1 of 2 pairs to ignore name an item that is not among the 3 of the"
    ):
        made.ignoring({"p": ["a", "zz"]})
    left = made.ignoring({"p": ["a", "zz"]}, ignore_unknown=True)
    assert (left.counts(("p",)).tolist(), dict(left.left_out)) == ([1], {"ignored_items": 1})
    with pytest.raises(EvaluationError, match="none of the 1 queries in the pairs to ignore is"):
        made.ignoring({"x": {"a"}})
    with pytest.raises(EvaluationError, match="of query 'p' are 'ab'; give a set or a list of ids"):
        made.ignoring({"p": "ab"})


@pytest.mark.parametrize(
    ("cameras", "words"),
    [
        pytest.param(([1], [1, 2]), "1 and 2 cameras for 1 queries and 3 gallery", id="too-few"),
        pytest.param(([None], [1, 2, 3]), "camera of query 'q' is None; give", id="none"),
        pytest.param(
            ([1], [1, np.nan, 3]), "camera of gallery item 'b' is nan; give every", id="nan"
        ),
        pytest.param(([1], ["1", "2", "3"]), "camera of gallery item 'a' is '1'; give", id="kinds"),
    ],
)
def test_cameras_that_do_not_fit_are_refused(cameras, words):
    made = relevance([7], [7, 7, 8], queries="q")
    with pytest.raises(EvaluationError, match=words):
        made.ignoring_cameras(*cameras)


def test_cameras_are_names_or_numbers_of_any_kind():
    made = relevance([7], [7, 7, 8], queries="q")
    for cameras in (["x"], ["x", "y", "x"]), ([2**70], [2**70, 1, 1]), ([-1], [-1, 0, -1]):
        assert made.ignoring_cameras(*cameras).counts(("q",)).tolist() == [1]
    numpy = made.ignoring_cameras(np.array([3], np.int32), np.array([3, 4, 3]))
    assert numpy.counts(("q",)).tolist() == [1]


def market_1501(distances, persons, cameras, gallery_persons, gallery_cameras):
    """The protocol of Market-1501, one query at a time, as re-identification code has it.

    Left out of a query's ranking: images of junk (-1), and those of its person by its camera.
    """
    firsts, scores = [], []
    for row, person, camera in zip(distances, persons, cameras, strict=True):
        matches = []
        for place in np.argsort(row, kind="stable"):
            same = gallery_persons[place] == person
            if gallery_persons[place] == -1 or (same and gallery_cameras[place] == camera):
                continue
            matches.append(bool(same))
        if not any(matches):
            continue
        ranks = [rank for rank, match in enumerate(matches, start=1) if match]
        firsts.append(ranks[0])
        scores.append(sum((n + 1) / rank for n, rank in enumerate(ranks)) / len(ranks))
    return firsts, scores


@pytest.mark.parametrize("seed", range(8))
def test_re_identification_is_that_of_market_1501(seed):
    random = np.random.default_rng(seed)
    people = random.integers(-1, 6, 60)  # -1: junk; 0: distractors, whom no query shows
    cameras = random.integers(0, 4, 60)
    asked, asked_by = random.integers(1, 8, 20), random.integers(0, 4, 20)
    gallery = on_a_line(random.permutation(600)[:60], (f"g{n:02}" for n in range(60)), people)
    queries = on_a_line(random.permutation(600)[:20], (f"q{n:02}" for n in range(20)), asked)
    distances = np.abs(queries.vectors.astype(float) - gallery.vectors[:, 0])
    firsts, scores = market_1501(distances, asked, asked_by, people, cameras)

    kept = people != -1  # junk does not belong to the gallery
    left, by = gallery.select(kept), cameras[kept]
    made = Relevance.between(queries, left, exclude_self=False).ignoring_cameras(asked_by, by)
    found = evaluate_embeddings(queries, left, exclude_self=False, relevance=made)
    assert found.queries == len(firsts) < 20
    np.testing.assert_allclose(found.average_precision[found.counted], scores, rtol=1e-12)
    assert (found.first_hit[found.counted] + 1).tolist() == firsts


# Anything against loops over pairs


@st.composite
def cases(draw):
    queries, items = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    ids = tuple(f"i{n}" for n in range(items))
    asked = draw(st.permutations([*ids, "x", "y", "z"]))[:queries]
    pairs = st.dictionaries(st.sampled_from(ids), st.integers(-1, 3))
    graded = {query: draw(pairs) for query in asked}
    ignored = {query: draw(st.sets(st.sampled_from(ids))) for query in asked}
    return ids, tuple(asked), graded, ignored, draw(st.booleans())


@settings(deadline=None, max_examples=60)
@given(cases())
def test_grades_counts_and_the_best_ranking_are_those_of_naive_loops(case):
    ids, asked, graded, ignored, exclude_self = case
    made = Relevance.of_qrels(asked, ids, graded, exclude_self=exclude_self).ignoring(ignored)
    vectors = np.arange(len(ids)).astype(np.float32)
    gallery, queries = on_a_line(vectors, ids), on_a_line(np.zeros(len(asked)), asked)
    (found,) = rank(queries, gallery, exclude_self=exclude_self)
    grades = made.grades(found)
    for row, query in enumerate(asked):
        left = [item for item in ids if item != query or not exclude_self]
        grade = {item: max(graded[query].get(item, 0), 0) for item in left}
        expected = [-1 if item in ignored[query] else grade[item] for item in found.ids_of(row)]
        assert grades[row, : len(expected)].tolist() == expected
        best = sorted((grade[item] for item in left if item not in ignored[query]), reverse=True)
        relevant = sum(one > 0 for one in best)
        assert made.counts((query,)).tolist() == [relevant]
        assert made.best((query,), 3)[0].tolist() == best[: min(3, relevant)]


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(cases(), st.integers(1, 6))
def test_ignoring_items_is_searching_a_gallery_that_lacks_them(case, depth):
    ids, asked, graded, ignored, exclude_self = case
    metrics = ("map", "cmc@1", "mrr@2", "recall@2", "ndcg@3")
    gallery = on_a_line(np.arange(len(ids)), ids)
    queries = on_a_line(np.zeros(len(asked)), asked)
    made = Relevance.of_qrels(asked, ids, graded, exclude_self=exclude_self).ignoring(ignored)
    whole = evaluate(rank(queries, gallery, exclude_self=exclude_self), made, metrics=metrics)
    cut = evaluate(
        search(queries, gallery, depth, exclude_self=exclude_self), made, metrics=metrics
    )
    for row, query in enumerate(asked):
        left = gallery.select([item not in ignored[query] for item in ids])
        grades = {item: grade for item, grade in graded[query].items() if item in left.ids}
        alone = evaluate_embeddings(
            queries.select([row]),
            left,
            exclude_self=exclude_self,
            relevance=Relevance.of_qrels(
                (query,), left.ids, {query: grades}, exclude_self=exclude_self
            ),
            metrics=metrics,
        )
        for name in metrics:
            expected = alone.per_query(name)[0]
            np.testing.assert_allclose(whole.per_query(name)[row], expected, rtol=1e-12)
            if name != "map" and cut.reaches(name):
                np.testing.assert_allclose(cut.per_query(name)[row], expected, rtol=1e-12)


def test_labels_take_memory_for_the_gallery_and_not_for_pairs():
    labels = np.zeros(20_000, np.int64)  # all alike: 400 million pairs
    ids = tuple(f"i{row}" for row in range(20_000))
    cameras = (np.arange(20_000) % 3).tolist()
    tracemalloc.start()
    made = Relevance.of_labels(ids, ids, labels, labels, exclude_self=True)
    made = made.ignoring_cameras(cameras, cameras)
    counts = made.counts(ids[:50])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts[0] == 20_000 - 6667
    assert peak < 30 << 20


def test_a_relevance_of_another_gallery_is_refused():
    made = Relevance.between(ASKED, PEOPLE.select([0, 1]), exclude_self=False)
    words = "4 items are in only one of the gallery and the relevance, the first 'g2'; make the"
    with pytest.raises(EvaluationError, match=words):
        evaluate_embeddings(ASKED, PEOPLE, exclude_self=False, relevance=made)


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["labels", "qrels"]))
@settings(max_examples=40, deadline=None)
def test_a_relevance_among_some_items_is_that_of_a_gallery_of_these(seed, exclude_self, by):
    rng = np.random.default_rng(seed)
    ids, asked = tuple("abcdefgh"), tuple("abcxyz")
    labels, wanted = rng.integers(-1, 3, size=8), rng.integers(-1, 3, size=6)
    gallery = on_a_line(rng.normal(size=8), ids, labels)
    queries = on_a_line(rng.normal(size=6), asked, wanted)
    qrels = {q: {i: int(rng.integers(0, 4)) for i in ids} for q in asked}
    cameras = dict(zip(ids, rng.integers(0, 2, size=8).tolist(), strict=True))
    some = [item for item in rng.permutation(ids).tolist() if rng.random() < 0.6]
    who = [query for query in asked if rng.random() < 0.7]

    def make(queries, gallery):
        if by == "labels":
            made = Relevance.between(queries, gallery, exclude_self=exclude_self)
            return made.ignoring_cameras([0] * len(queries), [cameras[i] for i in gallery.ids])
        kept = {q: {i: g for i, g in qrels[q].items() if i in gallery.ids} for q in queries.ids}
        return Relevance.of_qrels(queries.ids, gallery.ids, kept, exclude_self=exclude_self)

    few, fewer = gallery.align(some), queries.align(who)
    among = make(queries, gallery).among(fewer.ids, few.ids)
    metrics = ("map", "cmc@1", "ndcg@3")
    for one, other in zip(
        *(
            evaluate(rank(fewer, few, exclude_self=exclude_self), made, metrics=metrics)
            .to_json()
            .items()
            for made in (among, make(fewer, few))
        ),
        strict=False,
    ):
        if one[0] != "left_out":
            assert one == other


def test_a_relevance_among_unknown_items_names_one():
    with pytest.raises(EvaluationError, match="knows no gallery item 'z'"):
        relevance([7, 8], [7, 8, 7]).among(("p",), ("a", "z"))
