"""Rankings: what they hold, and what they refuse."""

import re

import jaxtyping
import numpy as np
import pytest

from onward.errors import EvaluationError
from onward.rankings import Ranking

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
