"""Rankings and relevance: what they refuse, and what counts as a hit."""

import re

import jaxtyping
import numpy as np
import pytest

from onward.errors import EvaluationError
from onward.rankings import Ranking, Relevance
from onward.spaces import Embeddings, Space

INF = np.inf


def ranking(rows, distances=None, *, queries="pq", gallery="abc", exclude_self=False):
    rows = np.array(rows)
    if distances is None:
        distances = np.where(rows < 0, INF, np.arange(rows.shape[1], dtype=np.float32))
    distances = np.array(distances, np.float32)
    return Ranking(tuple(queries), tuple(gallery), rows, distances, exclude_self)


def relevance(query_labels, gallery_labels, *, queries="pq", gallery="abc", exclude_self=False):
    labels = np.array(query_labels), np.array(gallery_labels)
    return Relevance(tuple(queries), tuple(gallery), *labels, exclude_self)


def test_a_ranking_gives_the_ids_that_came_back_nearest_first():
    made = ranking([[2, 0, -1], [1, 0, 2]])
    assert len(made) == 2
    assert made.ids_of(0) == ["c", "a"]
    assert made.ids_of(1) == ["b", "a", "c"]


def test_the_head_of_a_ranking_is_its_first_ranks():
    head = ranking([[2, 0, -1], [1, 0, 2]], exclude_self=True).head(2)
    assert [head.ids_of(0), head.ids_of(1)] == [["c", "a"], ["b", "a"]]
    assert head.exclude_self
    assert ranking([[2], [1]]).head(5).rows.shape == (2, 1)


def test_distances_below_zero_rank_like_any_others():
    made = ranking([[2, 0, -1], [1, 0, 2]], distances=[[-2, -0.5, INF], [-1e38, 0, 3]])
    assert made.ids_of(0) == ["c", "a"]
    assert str(made.head(1)) == "p: c (-2.000)\nq: b (-99999996802856924650656260769173209088.000)"
    assert made.to_json()["queries"][0]["items"][0] == {"id": "c", "distance": -2}


@pytest.mark.parametrize("k", [1.5, True, "3", None])
def test_the_head_of_ranks_that_are_not_a_whole_number_is_refused(monkeypatch, k):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    words = f"k is {k!r}, which is not a whole number; give the number of ranks as one, such as 10"
    with pytest.raises(EvaluationError, match=re.escape(words)):
        ranking([[2], [1]]).head(k)


def test_the_head_of_no_ranks_is_refused():
    with pytest.raises(EvaluationError, match="the first 0 ranks hold nothing; ask for at least 1"):
        ranking([[2], [1]]).head(0)


def test_the_arrays_of_a_ranking_cannot_be_written_to():
    made = ranking([[0], [1]])
    with pytest.raises(ValueError, match="read-only"):
        made.rows[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        made.distances[0, 0] = 1


def test_a_ranking_without_queries_or_without_ranks_stands():
    assert len(Ranking((), ("a",), np.empty((0, 1), int), np.empty((0, 1), "f4"), False)) == 0
    assert ranking(np.empty((2, 0), int), gallery="").ids_of(1) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(
            {"rows": [[0], [1]], "queries": "pp"},
            "'p' stands in rows 0 and 1 of the query ids of a ranking; an id may stand once",
            id="query-twice",
        ),
        pytest.param(
            {"rows": [[0], [1]], "gallery": "aba"},
            "'a' stands in rows 0 and 2 of the gallery ids of a ranking; an id may stand once",
            id="gallery-item-twice",
        ),
        pytest.param(
            {"rows": [[0], [1], [2]]},
            "rows of shape (3, 1) and distances of shape (3, 1) for 2 queries; give both one line",
            id="too-many-rows",
        ),
        pytest.param(
            {"rows": [[0, 1], [1, 3]]},
            "the ranking of query 'q' points outside its 3 gallery ids; -1 is padding",
            id="row-too-large",
        ),
        pytest.param(
            {"rows": [[0, -2], [1, 2]], "distances": [[0, INF], [0, 1]]},
            "the ranking of query 'p' points outside its 3 gallery ids",
            id="row-too-small",
        ),
        pytest.param(
            {"rows": [[0, 1], [1, 1]]},
            "the ranking of query 'q' brings an item back twice; an item may come back once",
            id="item-twice",
        ),
        pytest.param(
            {"rows": [[-1, 1], [1, 2]], "distances": [[-INF, 1], [0, 1]]},
            "the ranking of query 'p' has a distance that is NaN or -infinity; give finite",
            id="minus-infinity",
        ),
        pytest.param(
            {"rows": [[0, 1], [1, 2]], "distances": [[0, 1], [0, np.nan]]},
            "the ranking of query 'q' has a distance that is NaN or -infinity",
            id="nan",
        ),
        pytest.param(
            {"rows": [[0, 1], [1, 2]], "distances": [[0, 1], [2, 1]]},
            "the ranking of query 'q' has descending distances; rank the nearest first",
            id="descending",
        ),
        pytest.param(
            {"rows": [[0, 1], [1, 2]], "distances": [[-1, -2], [2, 3]]},
            "the ranking of query 'p' has descending distances; rank the nearest first",
            id="descending-below-zero",
        ),
        pytest.param(
            {"rows": [[0, -1], [1, 2]], "distances": [[0, 1], [0, 1]]},
            "the ranking of query 'p' pads otherwise than with row -1 and an infinite distance",
            id="padding-with-a-distance",
        ),
        pytest.param(
            {"rows": [[0, 1], [1, 2]], "distances": [[0, 1], [0, INF]]},
            "the ranking of query 'q' pads otherwise than with row -1 and an infinite distance",
            id="item-at-infinity",
        ),
    ],
)
def test_a_ranking_refuses_what_cannot_be_one(arguments, words):
    with pytest.raises(EvaluationError, match=re.escape(words)):
        ranking(**arguments)


def test_rows_and_distances_of_different_shapes_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(
        EvaluationError,
        match=r"rows of shape \(2, 1\) and distances of shape \(2, 2\) for 2 queries; give both",
    ):
        ranking([[0], [1]], distances=[[0, 1], [0, 1]])


def test_hits_are_the_items_of_the_querys_class():
    found = relevance([7, 8], [8, 7, 8]).hits(ranking([[2, 1, 0], [1, 0, -1]]))
    assert found.tolist() == [[False, True, False], [False, True, False]]


def test_padding_is_no_hit_even_where_the_last_gallery_item_is_relevant():
    assert not relevance([8, 8], [7, 7, 8]).hits(ranking([[-1], [-1]])).any()


def test_hits_are_found_by_id_where_only_some_items_came_back():
    some = ranking([[0, 1], [1, -1]], gallery="cb")
    found = relevance([7, 8], [7, 8, 7]).hits(some)
    assert found.tolist() == [[True, False], [True, False]]


def test_hits_are_found_by_id_where_queries_come_in_another_order():
    found = relevance([7, 8], [7, 8, 7]).hits(ranking([[0], [0]], queries="qp"))
    assert found.tolist() == [[False], [True]]


def test_nothing_is_hit_in_an_empty_gallery():
    empty = relevance([7, 8], np.empty(0, int), gallery="")
    assert empty.hits(ranking([[-1], [-1]], gallery="")).tolist() == [[False], [False]]
    assert empty.counts(("p", "q")).tolist() == [0, 0]


def test_relevant_items_are_counted_over_the_whole_gallery():
    made = relevance([7, 9], [7, 8, 7])
    assert made.counts(("p", "q")).tolist() == [2, 0]
    assert made.counts(("q",)).tolist() == [0]


def test_a_querys_own_entry_is_left_out_of_the_count_by_id():
    labels = {"query_labels": [7, 7], "gallery_labels": [7, 8, 7], "queries": "ax"}
    assert relevance(**labels).counts(("a", "x")).tolist() == [2, 2]
    assert relevance(**labels, exclude_self=True).counts(("a", "x")).tolist() == [1, 2]


def test_an_own_entry_of_another_class_was_never_counted():
    made = relevance([7, 7], [8, 7, 7], queries="ax", exclude_self=True)
    assert made.counts(("a",)).tolist() == [2]


@pytest.mark.parametrize("ours", [True, False])
def test_ranking_and_relevance_must_agree_on_self_matches(ours):
    words = (
        f"the ranking was made with exclude_self={not ours}, the relevance with "
        f"exclude_self={ours}; make both with the same"
    )
    with pytest.raises(EvaluationError, match=words):
        relevance([7, 8], [7, 8, 7], exclude_self=ours).hits(
            ranking([[0], [1]], exclude_self=not ours)
        )


def test_a_ranking_that_holds_the_entry_it_left_out_is_refused():
    made = relevance([7, 8], [7, 8, 7], queries="xb", exclude_self=True)
    with pytest.raises(
        EvaluationError,
        match="ranking of query 'b' holds its own gallery entry but says exclude_self=True; leave",
    ):
        made.hits(ranking([[0, 2], [0, 1]], queries="xb", exclude_self=True))


def test_padding_is_not_taken_for_an_own_entry():
    made = relevance([7, 8], [7, 8, 7], exclude_self=True)
    assert made.hits(ranking([[0, -1], [1, -1]], exclude_self=True)).sum() == 2


def test_unknown_queries_and_items_are_named():
    made = relevance([7, 8], [7, 8, 7])
    with pytest.raises(EvaluationError, match=r"knows no query 'x' \(1 of 2 are unknown to it\)"):
        made.hits(ranking([[0], [1]], queries="px"))
    with pytest.raises(EvaluationError, match=r"knows no gallery item 'z' \(1 of 2 are unknown"):
        made.hits(ranking([[0], [1]], gallery="az"))
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
