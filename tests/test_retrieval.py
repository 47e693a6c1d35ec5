"""Rankings, and exact search: against naive loops, the same whatever blocks, threads and order."""

import re
import tracemalloc
from fractions import Fraction

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onward.errors import EvaluationError, SpaceMismatchError
from onward.evaluation.distances import from_sortable_bits, sortable_bits
from onward.evaluation.retrieval import (
    Ranking,
    agreement,
    count_neighbours,
    rank,
    search,
    search_among,
    search_parts,
)
from onward.spaces import Embeddings, Space

METRICS = ["l2", "cosine", "ip"]
LARGEST = float(np.finfo(np.float32).max)


def embeddings(vectors, ids=None, *, metric="l2", name="old"):
    vectors = np.array(vectors, np.float32)
    ids = tuple(ids or (f"i{row}" for row in range(len(vectors))))
    return Embeddings(ids, vectors, Space(name, vectors.shape[1], metric))


def random_embeddings(rows, dim, *, seed=0, metric="l2", prefix="i"):
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    return embeddings(vectors, [f"{prefix}{row}" for row in range(rows)], metric=metric)


def naive(queries, gallery, *, exclude_self):
    """For each query the (distance, id) of all items, computed one pair at a time."""
    results = []
    for query_id, query in zip(queries.ids, queries.vectors.astype(np.float64), strict=True):
        found = []
        for item_id, item in zip(gallery.ids, gallery.vectors.astype(np.float64), strict=True):
            if exclude_self and item_id == query_id:
                continue
            if gallery.space.metric == "cosine":
                u, v = (x / np.sqrt((x**2).sum()) for x in (query, item))
                distance = ((u - v) ** 2).sum() / 2
            elif gallery.space.metric == "ip":
                distance = -(query * item).sum()
            else:
                distance = np.sqrt(((query - item) ** 2).sum())
            found.append((float(np.float32(distance)), item_id))
        results.append(sorted(found))
    return results


def all_ranks(queries, gallery, **settings):
    blocks = list(rank(queries, gallery, **settings))
    rows = np.concatenate([block.rows for block in blocks])
    distances = np.concatenate([block.distances for block in blocks])
    ids = [item for block in blocks for item in block.query_ids]
    assert ids == list(queries.ids)
    return rows, distances


@pytest.mark.parametrize(
    ("metric", "query", "vectors", "ids", "distances"),
    [
        ("l2", [0, 0], [[0, 0], [3, 4], [1, 0], [0, -2]], "acdb", [0, 1, 2, 5]),
        ("cosine", [1, 0], [[0, 2], [-3, 0], [5, 5], [7, 0]], "dcab", [0, 1 - np.sqrt(0.5), 1, 2]),
        ("ip", [1, 0], [[1, 1], [3, 0], [0, 0], [-2, 1], [0, 5]], "baced", [-3, -1, 0, 0, 2]),
    ],
)
def test_ranks_worked_by_hand(metric, query, vectors, ids, distances):
    gallery = embeddings(vectors, "abcde"[: len(vectors)], metric=metric)
    asked = embeddings([query], "q", metric=metric)
    found = search(asked, gallery, 5, exclude_self=False)
    assert "".join(found.ids_of(0)) == ids
    np.testing.assert_allclose(found.distances, [distances], rtol=1e-7)
    assert search(asked, gallery, 3, exclude_self=False).ids_of(0) == [*ids[:3]]


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_the_ranking_is_that_of_naive_loops(metric, exclude_self):
    gallery = random_embeddings(40, 5, metric=metric)
    queries = embeddings(
        np.vstack([gallery.vectors[:6], random_embeddings(4, 5, seed=1).vectors]),
        [*gallery.ids[3:9], *"wxyz"],
        metric=metric,
    )
    rows, distances = all_ranks(queries, gallery, exclude_self=exclude_self)
    for row, expected in enumerate(naive(queries, gallery, exclude_self=exclude_self)):
        there = rows[row] >= 0
        assert [gallery.ids[x] for x in rows[row][there]] == [item for _, item in expected]
        expected_distances = [distance for distance, _ in expected]
        np.testing.assert_allclose(distances[row][there], expected_distances, rtol=1e-6, atol=1e-30)


def test_every_distance_is_the_float64_one_rounded_to_float32():
    gallery = random_embeddings(300, 64)
    _, distances = all_ranks(gallery, gallery, exclude_self=False)
    vectors = gallery.vectors.astype(np.float64)
    for row in range(0, 300, 25):
        exact = np.sqrt(((vectors[row] - vectors) ** 2).sum(axis=1)).astype(np.float32)
        np.testing.assert_array_equal(distances[row], np.sort(exact))


def test_equal_vectors_far_from_the_origin_are_at_distance_zero():
    vectors = 1000 + np.random.default_rng(0).random((8, 3)).astype(np.float32)
    gallery = embeddings(np.vstack([vectors, vectors]))
    _, distances = all_ranks(gallery, gallery, exclude_self=False)
    assert (distances[:, :2] == 0).all()
    assert (distances[:, 2:] > 0).all()


def test_vectors_that_nearly_cancel_keep_their_order():
    step = np.spacing(np.float32(4096))
    gallery = embeddings(4096 + step * np.array([[3], [1], [2], [0]], np.float32), "abcd")
    found = search(gallery, gallery, 4, exclude_self=False)
    assert found.ids_of(3) == ["d", "b", "c", "a"]
    np.testing.assert_array_equal(found.distances[3], step * np.arange(4))


def test_items_at_the_same_distance_come_in_the_order_of_their_ids():
    gallery = embeddings([[1, 0], [0, 1], [-1, 0], [0, -1], [0, 0.5]], ["d", "B", "a", "10", "9"])
    assert search(embeddings([[0, 0]], "q"), gallery, 5, exclude_self=False).ids_of(0) == [
        "9",
        "10",
        "B",
        "a",
        "d",
    ]
    assert search(embeddings([[0, 0]], "q"), gallery, 3, exclude_self=False).ids_of(0) == [
        "9",
        "10",
        "B",
    ]


def test_a_query_is_left_out_by_id_and_not_by_rank():
    gallery = embeddings([[0], [0], [5]], "abc")
    queries = embeddings([[0], [5]], ["b", "a"])
    found = search(queries, gallery, 3, exclude_self=True)
    assert found.ids_of(0) == ["a", "c"]  # its duplicate stays
    assert found.ids_of(1) == ["c", "b"]  # its own entry goes, wherever its vector is


def test_where_only_some_queries_stand_in_the_gallery_their_rows_are_padded():
    gallery = embeddings([[0], [1]], "ab")
    found = search(embeddings([[0], [0]], ["a", "x"]), gallery, 5, exclude_self=True)
    assert found.rows.tolist() == [[1, -1], [0, 1]]
    assert found.distances.tolist() == [[1, np.inf], [0, 1]]


def test_an_empty_gallery_gives_nothing_back_and_no_queries_make_no_ranks():
    empty = Embeddings((), np.empty((0, 2), np.float32), Space("old", 2))
    one = embeddings([[0, 1]])
    assert search(one, empty, 3, exclude_self=False).ids_of(0) == []
    assert len(search(empty, one, 3, exclude_self=False)) == 0
    assert list(rank(empty, one, exclude_self=True)) == []


def test_huge_and_tiny_vectors_have_finite_distances():
    largest = np.finfo(np.float32).max
    gallery = embeddings([[largest, largest], [1e-44, 0], [0, 0]], "abc")
    found = search(embeddings([[-largest, -largest]], "q"), gallery, 3, exclude_self=False)
    assert found.distances.tolist() == [[largest] * 3]  # as far as float32 can say
    assert search(gallery.select([2]), gallery, 2, exclude_self=False).distances[0, 1] > 0


@pytest.mark.parametrize("k", [None, 1, 7])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block_bytes", [1, 3_000, 20_000, 1 << 30])
def test_the_size_of_a_block_changes_nothing_bit_for_bit(block_bytes, metric, k):
    gallery = random_embeddings(20, 33, metric=metric)
    twins = embeddings(np.vstack([gallery.vectors, gallery.vectors]), metric=metric)
    expected = all_ranks(twins, twins, exclude_self=True, k=k)
    found = all_ranks(twins, twins, exclude_self=True, k=k, block_bytes=block_bytes)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1].view(np.uint32), expected[1].view(np.uint32))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_gallery_changes_nothing(data):
    metric = data.draw(st.sampled_from(METRICS))
    size, dim = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    small = st.integers(-2, 2).map(float)  # many ties
    rows = st.lists(st.lists(small, min_size=dim, max_size=dim), min_size=size, max_size=size)
    vectors = np.array(data.draw(rows))
    if metric == "cosine":
        vectors[:, 0] = np.where(np.any(vectors != 0, axis=1), vectors[:, 0], 1)
    gallery = embeddings(vectors, metric=metric)
    shuffled = gallery.select(data.draw(st.permutations(range(size))))
    k = data.draw(st.none() | st.integers(1, size))
    block = data.draw(st.sampled_from([1, 500, 1 << 20]))
    rows, distances = all_ranks(gallery, gallery, exclude_self=True, k=k)
    again, same = all_ranks(gallery, shuffled, exclude_self=True, k=k, block_bytes=block)
    np.testing.assert_array_equal(distances, same)
    names, others = (np.array([*where.ids, "pad"]) for where in (gallery, shuffled))
    np.testing.assert_array_equal(names[rows], others[again])


@given(st.integers(1, 30), st.integers(1, 40), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_k_nearest_are_the_first_k_of_all(size, k, exclude_self):
    gallery = random_embeddings(size, 3, seed=size)
    every, distances = all_ranks(gallery, gallery, exclude_self=exclude_self)
    found = search(gallery, gallery, k, exclude_self=exclude_self)
    np.testing.assert_array_equal(found.rows, every[:, :k])
    np.testing.assert_array_equal(found.distances, distances[:, :k])


@pytest.mark.slow
@pytest.mark.parametrize(("k", "metric"), [(None, "l2"), (10, "l2"), (10, "ip")])
def test_memory_is_bounded_by_the_block(k, metric):
    gallery = random_embeddings(2000, 4, metric=metric)
    if metric == "ip":  # nearly all pairs are at distance 0, and computed one by one
        gallery = embeddings(np.eye(4)[np.arange(2000) % 4], metric=metric)
    queries = gallery.select(range(400 if metric == "ip" else 2000))
    matrix = 2000 * 2000 * 8
    block = 1 << 20
    list(rank(gallery.select(range(5)), gallery, exclude_self=True))  # warm up
    tracemalloc.start()
    for _ in rank(queries, gallery, exclude_self=True, k=k, block_bytes=block):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * block  # the order of the ids is kept too
    assert peak < matrix / 10


extremes = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-3, 3).map(float),
    st.sampled_from([LARGEST, -LARGEST, 2.0**-149, -(2.0**-149), 1e20, -1e20, 1.0, -0.0]),
)


def exact_inner_products(one, other):
    """Minus the inner product of each pair, by exact fractions: to float64, then to float32."""
    rows = [
        [-sum(Fraction(a) * Fraction(b) for a, b in zip(u, v, strict=True)) for v in other]
        for u in one
    ]
    clipped = np.clip(np.array([[float(x) for x in row] for row in rows]), -LARGEST, LARGEST)
    return clipped.astype(np.float32)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_inner_products_are_those_of_exact_fractions(data):
    dim = data.draw(st.integers(1, 7))
    shape = st.tuples(st.integers(1, 5), st.just(dim))
    asked, held = (data.draw(hnp.arrays(np.float32, shape, elements=extremes)) for _ in range(2))
    if data.draw(st.booleans()):  # what is added is taken away again
        asked, held = np.hstack([asked, asked]), np.hstack([held, -held])
    queries = embeddings(asked, [f"q{row}" for row in range(len(asked))], metric="ip")
    gallery = embeddings(held, metric="ip")
    expected = exact_inner_products(asked.tolist(), held.tolist())
    block = data.draw(st.sampled_from([1, 1 << 20]))
    rows, distances = all_ranks(queries, gallery, exclude_self=False, block_bytes=block)
    for row in range(len(asked)):
        order = sorted(range(len(held)), key=lambda item, row=row: (expected[row, item], item))
        assert rows[row].tolist() == order
        np.testing.assert_array_equal(distances[row], expected[row, order])
    assert not (np.signbit(distances) & (distances == 0)).any()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda rng: rng.standard_normal((60, 48)), id="usual"),
        pytest.param(lambda rng: rng.choice([-1, 1], (60, 48)), id="ones"),
        pytest.param(lambda rng: rng.choice([-1, 1], (60, 48)) / np.sqrt(48), id="unit"),
        pytest.param(lambda rng: np.maximum(rng.standard_normal((60, 48)) - 1.5, 0), id="sparse"),
        pytest.param(lambda rng: rng.standard_normal((60, 48)) * 5e37, id="huge"),
        pytest.param(lambda rng: rng.standard_normal((60, 48)) * 1e-38, id="tiny"),
        pytest.param(lambda rng: 10.0 ** rng.integers(-38, 38, (60, 48)), id="of-all-sizes"),
    ],
)
def test_inner_products_of_many_kinds_are_those_of_exact_fractions(make):
    held = make(np.random.default_rng(0)).astype(np.float32)
    gallery = embeddings(held, metric="ip")
    found = search(gallery.select(range(4)), gallery, 60, exclude_self=False)
    expected = exact_inner_products(held[:4].tolist(), held.tolist())
    for row in range(4):
        np.testing.assert_array_equal(found.distances[row], expected[row, found.rows[row]])
        keys = [(expected[row, at], gallery.ids[at]) for at in found.rows[row]]
        assert keys == sorted(keys)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(0, 30), elements=finite | st.sampled_from([0.0, -0.0])))
def test_bits_sort_as_the_distances_and_give_them_back(distances):
    bits = sortable_bits(distances)
    smaller = distances[:, None] < distances
    np.testing.assert_array_equal(bits[:, None] < bits, smaller)
    np.testing.assert_array_equal(from_sortable_bits(bits), distances)
    assert not np.signbit(from_sortable_bits(sortable_bits(np.zeros(1, np.float32) * -1))).any()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_gallery_in_parts_is_searched_as_the_whole(data):
    metric = data.draw(st.sampled_from(METRICS))
    size = data.draw(st.integers(0, 12))
    numbers = np.random.default_rng(data.draw(st.integers(0, 99))).integers(1, 3, (size, 2))
    signs = np.random.default_rng(size).choice([-1, 1], (size, 2))
    space = Space("old", 2, metric)
    ids = data.draw(st.permutations([f"i{row}" for row in range(size)]))
    gallery = Embeddings(tuple(ids), (numbers * signs).astype(np.float32), space)
    strangers = embeddings([[1, 2], [-1, 1]], ["i0", "x"], metric=metric)
    queries = data.draw(st.sampled_from([strangers, gallery, strangers.select([])]))
    exclude_self, k = data.draw(st.booleans()), data.draw(st.integers(1, 14))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=4)))
    edges = zip([0, *cuts], [*cuts, size], strict=True)
    parts = (gallery.select(range(start, stop)) for start, stop in edges)
    found = search_parts(queries, parts, k, exclude_self=exclude_self)
    whole = search(queries, gallery, k, exclude_self=exclude_self)
    for row in range(len(queries)):
        assert found.ids_of(row) == whole.ids_of(row)
    if len(queries):
        np.testing.assert_array_equal(found.distances, whole.distances)
    assert found.exclude_self is exclude_self


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("exclude_self", [False, True])
def test_among_items_of_its_own_a_query_finds_what_a_gallery_of_them_gives(metric, exclude_self):
    rng = np.random.default_rng(4)
    gallery = random_embeddings(60, 5, metric=metric)
    gallery = embeddings(np.round(gallery.vectors * 2) + 0.5, gallery.ids, metric=metric)
    queries = gallery.select([3, 9, 9 + 20, 50])
    rows = [rng.permutation(60)[:count] for count in (30, 60, 0, 1)]
    found = search_among(queries, gallery, rows, 7, exclude_self=exclude_self)
    for row, (ids, distances) in enumerate(found):
        one, some = queries.select([row]), gallery.select(rows[row])
        alone = search(one, some, 7, exclude_self=exclude_self).nearest(0)
        assert ids == alone[0]
        np.testing.assert_array_equal(distances, alone[1])


def test_no_parts_give_nothing_back_and_a_part_of_another_space_is_refused():
    one, other = embeddings([[1]]), embeddings([[1]], name="new")
    assert search_parts(one, [], 3, exclude_self=False).ids_of(0) == []
    with pytest.raises(SpaceMismatchError, match="the queries are in old"):
        search_parts(one, [one, other], 3, exclude_self=False)


@pytest.mark.parametrize(
    "k", [0, -1, -(2**70), 1.5, 2.0, True, "3", np.float64(2), np.True_, np.array([1, 2])]
)
def test_a_k_that_is_not_a_whole_number_is_refused(monkeypatch, k):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    one = embeddings([[1], [2]])
    words = f"k is {k!r}, which is not a whole number from 1 up; give the number of nearest items"
    for refused in (
        lambda: search(one, one, k, exclude_self=False),
        lambda: rank(one, one, exclude_self=False, k=k),
        lambda: search_parts(one, [], k, exclude_self=False),
    ):
        with pytest.raises(EvaluationError, match=re.escape(words)):
            refused()


def test_k_none_ranks_all_but_is_no_number_to_search_for(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    one = embeddings([[1], [2]])
    assert all_ranks(one, one, exclude_self=False, k=None)[0].shape == (2, 2)
    with pytest.raises(EvaluationError, match="k is None, which is not a whole number"):
        search(one, one, None, exclude_self=False)


@pytest.mark.parametrize("k", [np.int8(3), np.uint64(2**64 - 1), 2**63, 10**30])
def test_a_k_of_any_size_and_kind_of_whole_number_is_taken(k):
    one = embeddings([[1], [2], [4]])
    assert search(one, one, k, exclude_self=False).ids_of(0) == ["i0", "i1", "i2"]
    assert search_parts(one, [one], k, exclude_self=False).ids_of(2) == ["i2", "i1", "i0"]
    assert search(one, one, 3, exclude_self=False).head(k).rows.shape == (3, 3)


def test_spaces_are_checked_before_anything_is_computed():
    words = (
        "the queries are in new (1, l2), the gallery in old (1, l2); distances between them mean "
        "nothing. Upgrade the gallery from old to new first"
    )
    with pytest.raises(SpaceMismatchError, match=re.escape(words)):
        rank(embeddings([[1]], name="new"), embeddings([[1]]), exclude_self=False)


# Rankings: what they hold, what they refuse, and how far two of them agree

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
            "the ranking of query 'p' must pad with row -1 and an infinite distance",
            id="padding-with-a-distance",
        ),
        pytest.param(
            {"rows": [[0, 1], [1, 2]], "distances": [[0, 1], [0, INF]]},
            "the ranking of query 'q' must pad with row -1 and an infinite distance",
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
