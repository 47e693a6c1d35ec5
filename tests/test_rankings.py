"""Rankings: what they hold, what they refuse, and how far two of them agree."""

import re

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import EvaluationError
from onward.evaluation.retrieval import Ranking, agreement, count_neighbours, search
from onward.spaces import Embeddings, Space

INF = np.inf


def ranking(rows, distances=None, *, queries="pq", gallery="abc", exclude_self=False):
    rows = np.array(rows)
    if distances is None:
        distances = np.where(rows < 0, INF, np.arange(rows.shape[1], dtype=np.float32))
    distances = np.array(distances, np.float32)
    return Ranking(tuple(queries), tuple(gallery), rows, distances, exclude_self)


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


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3", None])
def test_the_head_of_ranks_that_are_not_a_whole_number_is_refused(monkeypatch, k):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    words = f"k is {k!r}, which is not a whole number from 1 up; give the number of ranks as one"
    with pytest.raises(EvaluationError, match=re.escape(words)):
        ranking([[2], [1]]).head(k)


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


# Agreement of neighbours


def ids_ranked(gallery, *found, queries="pqr"):
    width = max(map(len, found), default=0)
    rows = [[gallery.index(item) for item in row] + [-1] * (width - len(row)) for row in found]
    rows = np.array(rows, np.int64).reshape(len(found), width)
    return ranking(rows, queries=queries[: len(found)], gallery=gallery)


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        pytest.param("ab", "ab", 1, id="the-same"),
        pytest.param("ba", "ab", 1, id="in-another-order"),
        pytest.param("ac", "ab", 1 / 2, id="one-of-two"),
        pytest.param("cd", "ab", 0, id="none"),
        pytest.param("a", "abcd", 1 / 4, id="fewer-found"),
        pytest.param("", "ab", 0, id="nothing-found"),
        pytest.param("ab", "", np.nan, id="nothing-wanted"),
    ],
)
def test_agreement_worked_by_hand(found, wanted, expected):
    got = agreement(ids_ranked("dcba", found), ids_ranked("abcd", wanted))
    np.testing.assert_allclose(got, [expected])


def test_an_item_that_the_judged_gallery_lacks_is_not_found():
    got = agreement(ids_ranked("ac", "ac", "ca"), ids_ranked("abc", "ab", "bc"))
    np.testing.assert_allclose(got, [1 / 2, 1 / 2])


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_agreement_is_what_a_loop_over_sets_gives(seed, count):
    rng = np.random.default_rng(seed)
    space, ids = Space("s", 2), tuple(f"i{n}" for n in range(12))
    one, other = (Embeddings(ids, rng.normal(size=(12, 2)).astype("f4"), space) for _ in "ab")
    part = other.select(rng.permutation(12)[:9])
    found = search(other, part, count, exclude_self=True)
    wanted = search(one, one, count, exclude_self=True)
    naive = [
        len(set(found.ids_of(row)) & set(wanted.ids_of(row))) / len(wanted.ids_of(row))
        for row in range(12)
    ]
    np.testing.assert_allclose(agreement(found, wanted), naive)
    np.testing.assert_array_equal(agreement(wanted, wanted), np.ones(12))


@pytest.mark.parametrize(("items", "expected"), [(2, 1), (20, 2), (99, 9), (100, 10), (5000, 10)])
def test_few_items_are_compared_by_fewer_neighbours(items, expected):
    assert count_neighbours(items) == expected


def test_rankings_of_other_queries_are_refused():
    with pytest.raises(EvaluationError, match="rankings of the same queries: 1 with"):
        agreement(ids_ranked("ab", "a", queries="x"), ids_ranked("ab", "a", queries="y"))
