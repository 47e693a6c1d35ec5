"""Agreement of neighbours: worked by hand, and against a loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import EvaluationError
from onward.rankings import Ranking, agreement, count_neighbours
from onward.retrieval import search
from onward.spaces import Embeddings, Space


def ranking(gallery, *rows, queries=None, exclude_self=False):
    width = max(map(len, rows), default=0)
    padded = [[gallery.index(item) for item in row] + [-1] * (width - len(row)) for row in rows]
    distances = [list(range(len(row))) + [np.inf] * (width - len(row)) for row in rows]
    ids = queries or [f"q{number}" for number in range(len(rows))]
    shape = (len(rows), width)
    return Ranking(
        tuple(ids),
        tuple(gallery),
        np.array(padded, np.int64).reshape(shape),
        np.array(distances, np.float32).reshape(shape),
        exclude_self,
    )


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
    got = agreement(ranking("dcba", found), ranking("abcd", wanted))
    np.testing.assert_allclose(got, [expected])


def test_an_item_that_the_judged_gallery_lacks_is_not_found():
    got = agreement(ranking("ac", "ac", "ca"), ranking("abc", "ab", "bc"))
    np.testing.assert_allclose(got, [1 / 2, 1 / 2])


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
        agreement(ranking("ab", "a", queries=["x"]), ranking("ab", "a", queries=["y"]))
