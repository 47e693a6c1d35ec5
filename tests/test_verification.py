"""TAR at FAR: by hand, against naive loops and scikit-learn, and the same whatever the blocks."""

import itertools
import json
import math
import re
import tracemalloc

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from onward.errors import EvaluationError, LabelMismatchError, SpaceMismatchError
from onward.evaluation.verification import verify_pairs
from onward.spaces import Embeddings, Space


def embeddings(vectors, labels, ids=None, *, metric="l2", name="faces"):
    vectors = np.array(vectors, np.float32)
    ids = tuple(ids or (f"i{row}" for row in range(len(vectors))))
    return Embeddings(ids, vectors, Space(name, vectors.shape[1], metric), np.array(labels))


def random_embeddings(rows, *, dim=4, classes=5, seed=0, metric="l2", prefix="i"):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    centres = np.random.default_rng(99).standard_normal((classes, dim))
    vectors = centres[labels] + random.standard_normal((rows, dim))
    return embeddings(vectors, labels, [f"{prefix}{row}" for row in range(rows)], metric=metric)


def distances_of(pairs):
    """(distance, same label) of each pair, computed one at a time."""
    found = []
    for (vector, label), (another, other), metric in pairs:
        a, b = vector.astype(np.float64), another.astype(np.float64)
        if metric == "cosine":
            u, v = (x / np.sqrt((x**2).sum()) for x in (a, b))
            distance = ((u - v) ** 2).sum() / 2
        elif metric == "ip":
            distance = -(a * b).sum()
        else:
            distance = np.sqrt(((a - b) ** 2).sum())
        found.append((float(np.float32(distance)), bool(label == other)))
    return found


def items_of(these):
    return list(zip(these.vectors, these.labels, strict=True))


def unordered(items):
    rows = itertools.combinations(items_of(items), 2)
    return distances_of((a, b, items.space.metric) for a, b in rows)


def crossed(queries, gallery, *, exclude_self):
    return distances_of(
        (query, item, gallery.space.metric)
        for query_id, query in zip(queries.ids, items_of(queries), strict=True)
        for item_id, item in zip(gallery.ids, items_of(gallery), strict=True)
        if not (exclude_self and item_id == query_id)
    )


def naive_tar(pairs, far):
    """The best TAR of all limits that keep the FAR, each tried."""
    same = [distance for distance, is_same in pairs if is_same]
    different = [distance for distance, is_same in pairs if not is_same]
    if not same or not different or 1 / len(different) > far:
        return math.nan
    best = 0.0
    for limit in [*{distance for distance, _ in pairs}, math.inf]:
        if sum(distance < limit for distance in different) / len(different) <= far:
            best = max(best, sum(distance < limit for distance in same) / len(same))
    return best


LINE = embeddings([[0], [1], [3], [10], [12]], [0, 0, 0, 1, 1])
# Same label:      1 (0-1), 2 (1-3), 2 (10-12), 3 (0-3)
# Different label: 7 (3-10), 9 (1-10), 9 (3-12), 10 (0-10), 11 (1-12), 12 (0-12)


def column(rates, name):
    return tuple(getattr(one, name) for one in rates.accepted.values())


def test_rates_worked_by_hand():
    moved = embeddings([[0], [1], [9], [10], [12]], [0, 0, 0, 1, 1])
    # Same: 1, 8, 2, 9. Different: 1 (9-10), 3 (9-12), 9 (1-10), 10, 11, 12.
    rates = verify_pairs(moved, moved, exclude_self=True, fars=[1 / 6, 2 / 6, 3 / 6, 1.0])
    assert (rates.same_pairs, rates.different_pairs) == (4, 6)
    assert [rates.tar(far) for far in rates.accepted] == [2 / 4, 3 / 4, 1, 1]
    assert column(rates, "limit") == (3, 9, 10, math.inf)
    assert column(rates, "different") == (1, 2, 3, 6)


def test_pairs_at_the_same_distance_are_accepted_together_or_not_at_all():
    square = embeddings([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 1, 1])
    # At distance 1: two pairs of the same label and two of different labels; two more at sqrt(2).
    rates = verify_pairs(square, square, exclude_self=True, fars=[0.25, 0.49, 0.5, 1.0])
    assert [rates.tar(far) for far in rates.accepted] == [0, 0, 1, 1]
    assert column(rates, "different") == (0, 0, 2, 4)


def test_a_far_that_not_even_one_pair_keeps_is_not_measurable():
    rates = verify_pairs(LINE, LINE, exclude_self=True, fars=[0.001, 0.1, 1 / 6])
    assert [rates.measurable(far) for far in rates.accepted] == [False, False, True]
    assert math.isnan(rates.tar(0.001))
    assert rates.tar(1 / 6) == 1


def test_without_pairs_of_either_kind_nothing_is_measurable():
    of_one_label = embeddings([[0], [1]], [0, 0])
    of_two_labels = embeddings([[0], [1]], [0, 1])
    nobody = LINE.select([])
    for items, counts in ((of_one_label, (1, 0)), (of_two_labels, (0, 1)), (nobody, (0, 0))):
        rates = verify_pairs(items, items, exclude_self=True, fars=[1.0])
        assert (rates.same_pairs, rates.different_pairs) == counts
        assert math.isnan(rates.tar(1.0))
        assert rates.to_json()["tar@1.0"] is None


def test_the_number_of_pairs_that_a_far_allows_is_not_lost_in_rounding():
    assert 0.29 * 100 < 29
    queries = embeddings(np.zeros((1, 1)), [0], ["q"])
    gallery = embeddings(np.arange(101)[:, None], [*[1] * 100, 0])
    rates = verify_pairs(queries, gallery, exclude_self=False, fars=[0.29])
    assert column(rates, "different") == (29,)
    assert column(rates, "limit") == (29,)


def test_an_own_pair_is_left_out_by_id():
    gallery = embeddings([[0], [0], [5]], [0, 0, 1], "abc")
    queries = embeddings([[0], [5]], [0, 1], ["b", "x"])
    counted = [verify_pairs(queries, gallery, exclude_self=excluded) for excluded in (True, False)]
    assert [(rates.same_pairs, rates.different_pairs) for rates in counted] == [(2, 3), (3, 3)]
    own_too = verify_pairs(gallery, gallery, exclude_self=False)
    assert (own_too.same_pairs, own_too.different_pairs) == (4, 2)


FARS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.99, 1.0)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("exclude_self", [True, False])
def test_rates_of_queries_against_a_gallery_are_those_of_naive_loops(metric, exclude_self):
    gallery = random_embeddings(30, metric=metric)
    queries = random_embeddings(14, seed=1, metric=metric)  # the ids of 14 of them, other vectors
    rates = verify_pairs(queries, gallery, exclude_self=exclude_self, fars=FARS)
    pairs = crossed(queries, gallery, exclude_self=exclude_self)
    assert rates.same_pairs + rates.different_pairs == len(pairs) == 420 - 14 * exclude_self
    np.testing.assert_array_equal(
        [rates.tar(far) for far in FARS], [naive_tar(pairs, far) for far in FARS]
    )


def test_pairs_whose_limit_is_below_zero_worked_by_hand():
    vectors, labels = [[2, 0], [3, 0], [1, 1], [-1, 0]], [0, 0, 1, 1]
    items = embeddings(vectors, labels, metric="ip")
    rates = verify_pairs(items, items, exclude_self=True, fars=(0.25, 0.5, 0.75, 1.0))
    # Of the same label: -6 and 1. Of different labels: -2, -3, 2 and 3.
    assert column(rates, "limit") == (-2, 2, 3, np.inf)
    assert column(rates, "same") == (1, 2, 2, 2)
    assert column(rates, "different") == (1, 2, 3, 4)
    assert rates.to_json()["limits"] == {"0.25": -2, "0.5": 2, "0.75": 3, "1.0": None}
    assert "25   50.0   -2" in str(rates)


@settings(deadline=None, max_examples=60)
@given(
    places=st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 2)), min_size=1, max_size=12),
    fars=st.lists(st.floats(0.01, 1), min_size=1, max_size=3),
    metric=st.sampled_from(["l2", "ip"]),
)
def test_rates_of_pairs_with_many_ties_are_those_of_naive_loops(places, fars, metric):
    vectors, labels = [[place] for place, _ in places], [label for _, label in places]
    items = embeddings(vectors, labels, metric=metric)
    rates = verify_pairs(items, items, exclude_self=True, fars=fars)
    pairs = unordered(items)
    for far in fars:
        np.testing.assert_equal(rates.tar(far), naive_tar(pairs, far))


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_rates_are_those_of_scikit_learns_roc_curve(metric):
    items = random_embeddings(300, dim=8, classes=12, metric=metric)
    distance, same = np.array(unordered(items)).T
    reached, accepted, _ = roc_curve(same, -distance, drop_intermediate=False)
    fars = (1e-4, 1e-3, 1e-2, 0.1, 0.5)
    rates = verify_pairs(items, items, exclude_self=True, fars=fars)
    for far in fars:
        assert rates.tar(far) == pytest.approx(accepted[reached <= far].max(), rel=1e-12)


def test_the_same_embeddings_make_each_pair_once_in_whatever_order_they_come():
    items = random_embeddings(40)
    shuffled = items.select(np.random.default_rng(3).permutation(40))
    other_ids = Embeddings(
        tuple(f"x{item}" for item in items.ids), items.vectors, items.space, items.labels
    )
    once = verify_pairs(items, items, exclude_self=True, fars=FARS)
    assert once.same_pairs + once.different_pairs == 40 * 39 // 2
    assert verify_pairs(shuffled, items, exclude_self=True, fars=FARS) == once
    crosswise = verify_pairs(other_ids, items, exclude_self=False, fars=FARS)
    assert crosswise.same_pairs + crosswise.different_pairs == 40 * 40


def test_counting_each_pair_in_both_orders_changes_no_rate():
    items = random_embeddings(40)
    turned = Embeddings(items.ids, np.nextafter(items.vectors, 9), items.space, items.labels)
    once = verify_pairs(items, items, exclude_self=True, fars=FARS)
    pairs = crossed(items, items, exclude_self=True)
    for far in FARS:
        if once.measurable(far):
            assert once.tar(far) == naive_tar(pairs, far)
    twice = verify_pairs(turned, items, exclude_self=True, fars=FARS)
    assert twice.different_pairs == 2 * once.different_pairs


@pytest.mark.parametrize("block_bytes", [1, 3000, 20_000, 1 << 20])
def test_the_result_does_not_depend_on_the_block(block_bytes):
    items, others = random_embeddings(30), random_embeddings(17, seed=2)
    settings = {"exclude_self": True, "fars": FARS}
    for queries in (items, others):
        whole = verify_pairs(queries, items, **settings)
        assert verify_pairs(queries, items, **settings, block_bytes=block_bytes) == whole


def test_memory_is_bounded_by_the_block():
    items = random_embeddings(3000)
    block = 8 << 20
    verify_pairs(items.select(range(9)), items, exclude_self=True)  # warm up
    tracemalloc.start()
    verify_pairs(items, items, exclude_self=True, fars=[0.001, 0.5], block_bytes=block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < block + (6 << 20)
    assert peak < 3000 * 3000 * 4 / 2


def test_rates_print_themselves_in_percent_and_are_written_as_fractions():
    rates = verify_pairs(LINE, LINE, exclude_self=True, fars=[0.001, 0.2, 1.0])
    assert str(rates).splitlines() == [
        " FAR (percent)    TAR   accepted below distance",
        "           0.1      -   not measurable: too few pairs",
        "            20  100.0   9",
        "           100  100.0   any",
        "4 pairs of the same label, 6 of different labels.",
    ]
    assert json.loads(json.dumps(rates.to_json(), allow_nan=False)) == {
        "tar@0.001": None,
        "tar@0.2": 1.0,
        "tar@1.0": 1.0,
        "limits": {"0.001": None, "0.2": 9.0, "1.0": None},
        "same_pairs": 4,
        "different_pairs": 6,
    }


def test_a_far_that_was_not_asked_for_is_refused():
    rates = verify_pairs(LINE, LINE, exclude_self=True)
    with pytest.raises(
        EvaluationError,
        match=re.escape("not counted at FAR 0.5; it was at [0.0001, 0.001, 0.01]. Count the pairs"),
    ):
        rates.tar(0.5)


@pytest.mark.parametrize("fars", [[], [0.0], [1.5], [0.1, -1.0], [math.nan]])
def test_a_far_outside_its_range_is_refused(fars):
    with pytest.raises(EvaluationError, match=r"give one or more, as fractions above 0 and up to"):
        verify_pairs(LINE, LINE, exclude_self=True, fars=fars)


def test_embeddings_without_labels_or_of_another_space_are_refused():
    unlabelled = Embeddings(LINE.ids, LINE.vectors, LINE.space)
    with pytest.raises(EvaluationError, match="the gallery have no labels"):
        verify_pairs(LINE, unlabelled, exclude_self=True)
    with pytest.raises(EvaluationError, match="the queries have no labels"):
        verify_pairs(unlabelled, unlabelled, exclude_self=True)
    elsewhere = embeddings(LINE.vectors, LINE.labels, name="other")
    with pytest.raises(SpaceMismatchError, match="distances between them mean nothing"):
        verify_pairs(elsewhere, LINE, exclude_self=True)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("block_bytes", [1, 2000, 1 << 20])
def test_all_pairs_given_as_a_list_have_the_rates_of_all_pairs(metric, block_bytes):
    items = random_embeddings(40, metric=metric)
    label_of = dict(zip(items.ids, items.labels.tolist(), strict=True))
    pairs = [(a, b, label_of[a] == label_of[b]) for a, b in itertools.combinations(items.ids, 2)]
    whole = verify_pairs(items, items, exclude_self=True, fars=FARS)
    bare = Embeddings(items.ids, items.vectors, items.space)  # labels are not looked at
    how = {"exclude_self": True, "pairs": pairs, "fars": FARS, "block_bytes": block_bytes}
    assert verify_pairs(bare, bare, **how) == whole


def test_a_given_pair_of_an_item_with_itself_is_left_out_if_it_is_said():
    pairs = [("i0", "i0", True), ("i0", "i1", True)]
    counts = {
        excluded: verify_pairs(LINE, LINE, exclude_self=excluded, pairs=pairs).same_pairs
        for excluded in (True, False)
    }
    assert counts == {True: 1, False: 2}


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        pytest.param(
            [("i0", "x", True), ("i0", "i1", True)],
            "1 of 2 pairs name an item that the embeddings of the gallery lack, the first 'x'",
            id="unknown-item",
        ),
        pytest.param([("x", "i0", True)], "embeddings of the queries lack, the first", id="query"),
        pytest.param(
            [("i0", "i1", True), ("i2", "i1", False), ("i1", "i0", True)],
            "'i1' and 'i0' are pair 1 and pair 3; give each pair once",
            id="twice-in-either-order",
        ),
        pytest.param(
            [("i0", "i1", True), ("i0", "i1", False)],
            "are pair 1 and pair 2; give each pair once",
            id="both-verdicts",
        ),
        pytest.param(
            [("i0", "i1", 2)], "pair 1 is ('i0', 'i1', 2); give each as the id", id="verdict"
        ),
        pytest.param([("i0", "i1")], "pair 1 is ('i0', 'i1'); give each as the id of", id="short"),
    ],
)
def test_given_pairs_that_do_not_fit_are_refused(pairs, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(EvaluationError, match=re.escape(words)):
        verify_pairs(LINE, LINE, exclude_self=True, pairs=pairs)


def test_pairs_of_different_sets_may_be_given_in_both_orders():
    moved = embeddings([[0], [1]], [0, 0])
    pairs = [("i0", "i1", True), ("i1", "i0", True)]
    assert verify_pairs(moved, LINE, exclude_self=True, pairs=pairs).same_pairs == 2


def test_no_pairs_make_no_rate():
    rates = verify_pairs(LINE, LINE, exclude_self=True, pairs=[], fars=[0.5])
    assert (rates.same_pairs, rates.different_pairs) == (0, 0)
    assert math.isnan(rates.tar(0.5))


def test_an_item_of_unknown_label_makes_no_pair_and_is_counted():
    some = embeddings([[0], [1], [3], [10], [12], [4]], [0, 0, 0, 1, 1, -1])
    rates = verify_pairs(some, some, exclude_self=True, fars=[0.2])
    whole = verify_pairs(LINE, LINE, exclude_self=True, fars=[0.2])
    assert rates.to_json() == whole.to_json() | {
        "left_out": {"queries_without_label": 1, "items_without_label": 1}
    }
    assert "1 gallery items have an unknown label" in str(rates)
    crosswise = verify_pairs(embeddings([[0]], [-1]), LINE, exclude_self=False)
    assert (crosswise.same_pairs, crosswise.different_pairs) == (0, 0)


def test_pairs_are_of_the_same_class_by_its_name():
    names, turned = {0: "ann", 1: "bob"}, {0: "bob", 1: "ann"}
    ids, labels = LINE.ids, np.array(LINE.labels)
    one = Embeddings(ids, LINE.vectors, LINE.space, labels, names)
    other = Embeddings(ids, LINE.vectors, LINE.space, 1 - labels, turned)
    assert verify_pairs(one, other, exclude_self=True) == verify_pairs(one, one, exclude_self=True)
    with pytest.raises(LabelMismatchError, match="the classes of the queries have names"):
        verify_pairs(one, LINE, exclude_self=True)
    stated = verify_pairs(one, LINE, exclude_self=True, same_labels=True)
    assert stated == verify_pairs(LINE, LINE, exclude_self=True)
