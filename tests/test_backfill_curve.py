"""The backfill curve: by hand, against mixed galleries evaluated one by one, and its orders."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from onward.errors import EvaluationError, LabelMismatchError, SpaceMismatchError
from onward.evaluation.backfill_curve import (
    backfill_curve,
    items_at,
    oracle_order,
    random_order,
    uncertainty_order,
)
from onward.evaluation.comparison import METRICS
from onward.evaluation.metrics import evaluate
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import rank
from onward.spaces import Embeddings, Space


def on_a_line(places, labels, ids="abcd", name="new"):
    vectors = np.array(places, np.float32)[:, None]
    return Embeddings(tuple(ids[: len(places)]), vectors, Space(name, 1), np.array(labels))


def grid(points):
    return [point / (points - 1) for point in range(points)]


QUERY = on_a_line([0], [0], ids="q")
UPGRADED = on_a_line([4, 1, 2, 3], [0, 1, 0, 1])
EMBEDDED = on_a_line([0, 5, 1, 6], [0, 1, 0, 1])
# One query at 0 looks for a and c. Nearest first, * is relevant, capitals are re-embedded:
#   none: b c* d a*    AP = (1/2 + 2/4) / 2 = 1/2
#   d:    b c* a* D    AP = (1/2 + 2/3) / 2 = 7/12
#   d b:  c* a* B D    AP = 1
#   d b a, and all:    AP = 1


def test_a_curve_worked_by_hand():
    curve = backfill_curve(QUERY, UPGRADED, EMBEDDED, "dbac", exclude_self=False, shares=grid(5))
    assert curve.shares == (0, 0.25, 0.5, 0.75, 1)
    np.testing.assert_allclose(curve.values("map"), [1 / 2, 7 / 12, 1, 1, 1])
    assert curve.values("cmc@1").tolist() == [0, 0, 1, 1, 1]
    assert curve.auc("map") == pytest.approx((1 / 2 + 7 / 12 + 3) / 5)
    assert curve.auc("cmc@1") == pytest.approx(3 / 5)


def test_an_item_whose_turn_comes_between_two_points_waits_for_the_next():
    curve = backfill_curve(QUERY, UPGRADED, EMBEDDED, "dbac", exclude_self=False, shares=grid(3))
    np.testing.assert_allclose(curve.values("map"), [1 / 2, 1, 1])
    many = backfill_curve(QUERY, UPGRADED, EMBEDDED, "dbac", exclude_self=False, shares=grid(9))
    np.testing.assert_allclose(many.values("map")[::2], [1 / 2, 7 / 12, 1, 1, 1])


def mixed_gallery(upgraded, embedded, order, share):
    """What is stored where a share of an order is embedded, and the rest as it was upgraded."""
    done = order[: items_at(share, len(order))]
    rest = upgraded.select([item not in done for item in upgraded.ids])
    new = embedded.align(done)
    vectors, labels = (
        np.concatenate(both)
        for both in zip(*((one.vectors, one.labels) for one in (new, rest)), strict=True)
    )
    return Embeddings((*new.ids, *rest.ids), vectors, new.space, labels)


def check_against_mixed(queries, upgraded, embedded, order, *, exclude_self, shares):
    """Compare a curve with the mixed gallery of each share, evaluated from the beginning."""
    how = {"exclude_self": exclude_self}
    curve = backfill_curve(queries, upgraded, embedded, order, shares=shares, **how)
    relevance = Relevance.between(queries, embedded, **how)
    for share, ours in zip(shares, curve.evaluations, strict=True):
        stored = mixed_gallery(upgraded, embedded, order, share)
        theirs = evaluate(rank(queries, stored, **how), relevance)
        assert (ours.query_ids, ours.depth) == (theirs.query_ids, None)
        np.testing.assert_array_equal(ours.first_hit, theirs.first_hit)
        np.testing.assert_array_equal(ours.relevant, theirs.relevant)
        np.testing.assert_allclose(ours.average_precision, theirs.average_precision, rtol=1e-12)
    return curve


def galleries(rows, *, seed, dim=3, classes=4, metric="l2", ties=False):
    """Upgraded and embedded vectors of the same items, the second in another order."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    new = random.standard_normal((classes, dim))[labels] + random.standard_normal((rows, dim))
    old = new + random.standard_normal((rows, dim))
    if ties:
        new, old = np.round(new) + 0.25, np.round(old) + 0.25
    ids = tuple(f"i{row}" for row in random.permutation(rows))
    space = Space("new", dim, metric)
    upgraded = Embeddings(ids, old.astype(np.float32), space, labels)
    embedded = Embeddings(ids, new.astype(np.float32), space, labels)
    return upgraded, embedded.select(random.permutation(rows))


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("ties", [False, True])
def test_a_curve_is_that_of_mixed_galleries_evaluated_one_by_one(exclude_self, metric, ties):
    upgraded, embedded = galleries(37, seed=1, metric=metric, ties=ties)
    strangers, _ = galleries(9, seed=2, classes=6, metric=metric, ties=ties)
    other = Embeddings(
        tuple(f"x{item}" for item in strangers.ids),
        strangers.vectors,
        strangers.space,
        strangers.labels,
    )
    order = random_order(upgraded.ids, seed=3)
    for queries in (embedded, embedded.select(range(11)), other):
        how = {"exclude_self": exclude_self, "shares": grid(6)}
        curve = check_against_mixed(queries, upgraded, embedded, order, **how)
    assert curve.evaluations[0].skipped > 0


# b is lost: no transformation could carry it. Nearest first, as above:
#   none: c* d a*      AP = (1/1 + 2/3) / 2 = 5/6
#   d:    c* a* D      AP = 1
# c is lost instead, which q looks for:
#   none: b d a*       AP = (1/3 + 0) / 2 = 1/6
#   d:    b a* D       AP = (1/2 + 0) / 2 = 1/4
#   d b:  a* B D       AP = 1/2
#   d b a: A* B D      AP = 1/2
#   all:  A* C* B D    AP = 1


@pytest.mark.parametrize(
    ("kept", "values"),
    [
        pytest.param("acd", [5 / 6, 1, 1, 1, 1], id="another-class"),
        pytest.param("abd", [1 / 6, 1 / 4, 1 / 2, 1 / 2, 1], id="looked-for"),
        pytest.param("", [0, 0, 0, 1 / 2, 1], id="all"),
    ],
)
def test_an_item_without_an_upgraded_vector_is_not_found_until_it_is_embedded(kept, values):
    upgraded = UPGRADED.align(kept)
    curve = backfill_curve(QUERY, upgraded, EMBEDDED, "dbac", exclude_self=False, shares=grid(5))
    np.testing.assert_allclose(curve.values("map"), values)
    assert curve.lost == curve.to_json()["lost"] == 4 - len(kept)
    assert f"{4 - len(kept)} items have no upgraded vector: not found until" in str(curve)
    assert curve.values("cmc@5")[0] == (kept != "")


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_with_lost_items_each_share_is_that_of_the_gallery_as_it_is_then(exclude_self, metric):
    upgraded, embedded = galleries(41, seed=6, metric=metric, ties=True)
    carried = upgraded.select(np.random.default_rng(7).permutation(41)[:23])
    order, shares = random_order(embedded.ids, seed=8), (0.0, 0.1, 0.25, 0.5, 0.9)
    how = {"exclude_self": exclude_self, "shares": shares}
    check_against_mixed(embedded, carried, embedded, order, **how)


def test_a_query_of_unknown_class_finds_nothing_and_is_counted():
    unknown = on_a_line([0, 0], [0, -1], ids="qr")
    strangers = on_a_line([4, 1, 2, 3], [0, -1, 0, -1])
    new = on_a_line([0, 5, 1, 6], [0, -1, 0, -1])
    curve = backfill_curve(unknown, strangers, new, "dbac", exclude_self=False, shares=grid(2))
    assert (curve.evaluations[0].queries, curve.evaluations[0].skipped) == (1, 1)
    np.testing.assert_allclose(curve.values("map"), [1 / 2, 1])


@pytest.mark.parametrize("shares", [(0.5, 0.2), (-0.1,), (1.5,), (float("nan"),), ()])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(EvaluationError, match="give fractions from 0 to 1 in ascending order"):
        backfill_curve(QUERY, UPGRADED, EMBEDDED, "dbac", exclude_self=False, shares=shares)


@pytest.mark.slow
def test_the_size_of_a_block_changes_nothing_and_bounds_the_memory():
    upgraded, embedded = galleries(1500, seed=5)
    order = random_order(upgraded.ids, seed=0)
    how = {"exclude_self": True, "shares": grid(3)}
    queries = embedded.select(range(300))
    whole = backfill_curve(queries, upgraded, embedded, order, **how)
    tracemalloc.start()
    small = backfill_curve(queries, upgraded, embedded, order, **how, block_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert small.to_json() == whole.to_json()
    assert peak < (1 << 20) + (1 << 20)  # and the results themselves


def test_the_oracle_backfills_first_what_lies_farthest_off():
    assert oracle_order(UPGRADED, EMBEDDED) == ("a", "b", "d", "c")  # off by 4, 4, 3 and 1
    space = Space("new", 2, "cosine")
    upgraded = Embeddings(("a", "b"), np.array([[1, 0], [3, 0]], np.float32), space)
    embedded = Embeddings(("b", "a"), np.array([[9, 0], [1, 1]], np.float32), space)
    assert oracle_order(upgraded, embedded) == ("a", "b")  # b only changed its length
    space = Space("new", 2, "ip")
    upgraded = Embeddings(("a", "b"), np.array([[1, 0], [3, 0]], np.float32), space)
    embedded = Embeddings(("b", "a"), np.array([[3, 0], [1, 1]], np.float32), space)
    assert oracle_order(upgraded, embedded) == ("a", "b")  # the inner product of b is the greater


def test_items_are_ordered_by_falling_uncertainty_and_ties_by_id():
    assert uncertainty_order("cab", [0.5, 0.5, np.inf]) == ("b", "a", "c")
    assert uncertainty_order("cab", np.array([-3.0, -1.0, -2.0])) == ("a", "b", "c")


def test_a_random_order_depends_on_the_seed_and_not_on_the_order_given():
    ids = [f"i{row}" for row in range(50)]
    once = random_order(ids, seed=0)
    assert random_order(reversed(ids), seed=0) == once
    assert sorted(once) == sorted(ids)
    assert random_order(ids, seed=1) != once


def test_a_curve_prints_percent_and_writes_fractions():
    curve = backfill_curve(QUERY, UPGRADED, EMBEDDED, "dbac", exclude_self=False, shares=grid(3))
    assert str(curve).splitlines() == [
        "re-embedded   cmc@1  cmc@5    map   (percent)",
        "0.0             0.0  100.0   50.0",
        "50.0          100.0  100.0  100.0",
        "100.0         100.0  100.0  100.0",
        "auc@3          66.7  100.0   83.3",
        "1 queries; 0 more skipped (nothing to find).",
    ]
    written = curve.to_json()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert written == {
        "shares": [0.0, 0.5, 1.0],
        "cmc@1": [0.0, 1.0, 1.0],
        "cmc@5": [1.0, 1.0, 1.0],
        "map": [0.5, 1.0, 1.0],
        "auc@3": {"cmc@1": pytest.approx(2 / 3), "cmc@5": 1.0, "map": pytest.approx(2.5 / 3)},
        "queries": 1,
        "skipped": 0,
    }


def test_a_curve_over_queries_with_nothing_to_find_has_no_numbers():
    lonely = on_a_line([0], [7], ids="q")
    curve = backfill_curve(lonely, UPGRADED, EMBEDDED, "dbac", exclude_self=False, shares=grid(2))
    assert curve.to_json()["auc@2"] == dict.fromkeys(METRICS)
    assert np.isnan(curve.auc("map"))
    assert str(curve).splitlines()[-2].split() == ["auc@2", "-", "-", "-"]


@pytest.mark.parametrize(
    ("embedded", "order", "words"),
    [
        (
            EMBEDDED.select([0, 1, 2]),
            "dbac",
            "'d' is in upgraded, not in embedded, and 1 items are",
        ),
        (EMBEDDED, "dba", "'c' is in embedded, not in order"),
        (EMBEDDED, "dbacx", "'x' is in order, not in embedded"),
        (EMBEDDED, "dbacd", "'d' stands in rows 0 and 4 of the order; an id may stand once"),
    ],
)
def test_galleries_and_orders_of_other_items_are_refused(embedded, order, words):
    with pytest.raises(EvaluationError, match=words):
        backfill_curve(QUERY, UPGRADED, embedded, order, exclude_self=False)
    with pytest.raises(EvaluationError, match="'d' is in embedded, not in upgraded"):
        oracle_order(UPGRADED.select([0, 1, 2]), EMBEDDED)


def test_galleries_of_one_data_agree_on_classes_however_they_number_them():
    plain = on_a_line([0, 5, 1, 6], [0, 1, 0, 1])
    expected = backfill_curve(QUERY, UPGRADED, plain, "dbac", exclude_self=False)
    named = replace(plain, labels=1 - plain.labels, class_names={0: "owl", 1: "cat"})
    upgraded = replace(UPGRADED, class_names={0: "cat", 1: "owl"})
    query = replace(QUERY, class_names={0: "cat", 1: "owl"})
    curve = backfill_curve(query, upgraded, named, "dbac", exclude_self=False)
    assert [one.map for one in curve.evaluations] == [one.map for one in expected.evaluations]
    wrong = replace(named, labels=plain.labels)
    with pytest.raises(LabelMismatchError, match="of class 'cat' in upgraded and of class 'owl'"):
        backfill_curve(query, upgraded, wrong, "dbac", exclude_self=False)


def test_vectors_of_another_space_are_refused():
    elsewhere = on_a_line([4, 1, 2, 3], [0, 1, 0, 1], name="old")
    with pytest.raises(SpaceMismatchError, match="Upgrade the gallery from old to new first"):
        backfill_curve(QUERY, elsewhere, EMBEDDED, "dbac", exclude_self=False)
    with pytest.raises(SpaceMismatchError, match="Upgrade the gallery from old to new first"):
        oracle_order(elsewhere, EMBEDDED)


def test_uncertainties_that_are_not_one_number_an_id_are_refused():
    for numbers in ([0.5], [0.5, np.nan, 1.0]):
        with pytest.raises(EvaluationError, match="for 3 ids; give one number an id, greatest"):
            uncertainty_order("abc", numbers)


def test_a_metric_that_is_not_there_is_named():
    curve = backfill_curve(QUERY, UPGRADED, EMBEDDED, "dbac", exclude_self=False, shares=grid(2))
    with pytest.raises(EvaluationError, match="there is no metric 'mAP'; choose map, cmc"):
        curve.auc("mAP")
