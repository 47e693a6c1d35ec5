"""Intervals over queries and seeds: by hand, against loops and SciPy, and how often they hold."""

import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from onward.errors import EvaluationError
from onward.evaluation.intervals import (
    BLOCK_BYTES,
    Interval,
    over_clusters,
    over_queries,
    over_seeds,
    queries_for,
)
from onward.evaluation.metrics import Evaluation


def evaluated(first_hit, scores=None, relevant=None, depth=None):
    size = len(first_hit)
    relevant = np.ones(size, np.int64) if relevant is None else np.array(relevant, np.int64)
    scores = np.where(relevant > 0, 0.5, np.nan) if scores is None else scores
    ids = tuple(f"q{row}" for row in range(size))
    return Evaluation(ids, np.array(first_hit, np.int64), relevant, np.array(scores), depth)


def random_evaluation(size, *, seed=0, hit=0.6):
    random = np.random.default_rng(seed)
    first = np.where(random.random(size) < hit, 0, random.integers(1, 9, size))
    return evaluated(first, random.random(size))


def test_the_bootstrap_over_queries_is_that_of_a_loop():
    evaluation = random_evaluation(50)
    draws = np.random.default_rng(7).integers(50, size=(300, 50))
    for metric, values in (
        ("map", evaluation.average_precision),
        ("cmc@3", (evaluation.first_hit < 3).astype(float)),
    ):
        means = [np.mean([values[row] for row in rows]) for rows in draws]
        found = over_queries(evaluation, metric, seed=7, resamples=300, confidence=0.9)
        assert found.estimate == pytest.approx(values.mean(), rel=1e-12)
        ends = np.quantile(means, [0.05, 0.95])
        np.testing.assert_allclose([found.low, found.high], ends, rtol=1e-12)


def test_the_estimate_is_the_metric_itself_and_skipped_queries_are_not_drawn():
    evaluation = evaluated([0, -1, 4, -1], [1, 0, 0.2, np.nan], relevant=[1, 1, 1, 0])
    for metric, value in (("map", evaluation.map), ("cmc@1", 1 / 3), ("cmc@5", 2 / 3)):
        found = over_queries(evaluation, metric)
        assert found.estimate == pytest.approx(value)
        assert 0 <= found.low <= found.estimate <= found.high <= 1
        assert found.method == "bootstrap over 3 queries"


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(200):
        evaluation = random_evaluation(100, seed=seed, hit=0.6)
        found = over_queries(evaluation, "cmc@1", seed=seed, resamples=400, confidence=0.9)
        held += found.low <= 0.6 <= found.high
    assert 0.83 < held / 200 < 0.97


def test_the_same_seed_gives_the_same_interval_whatever_the_memory(monkeypatch):
    evaluation = random_evaluation(101)
    whole = over_queries(evaluation, "map", seed=3, resamples=501)
    assert over_queries(evaluation, "map", seed=3, resamples=501) == whole
    assert over_queries(evaluation, "map", seed=4, resamples=501) != whole
    monkeypatch.setattr("onward.evaluation.intervals.BLOCK_BYTES", 16 * 101 * 7)
    assert over_queries(evaluation, "map", seed=3, resamples=501) == whole


def test_memory_is_bounded_whatever_the_resamples():
    evaluation = random_evaluation(20_000)
    tracemalloc.start()
    over_queries(evaluation, "map", resamples=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * BLOCK_BYTES < 500 * 20_000 * 8


def test_a_paired_difference_is_that_of_both_cells_on_the_same_drawn_queries():
    cell, baseline = random_evaluation(60, hit=0.7), random_evaluation(60, seed=1, hit=0.5)
    turned = baseline.select(baseline.query_ids[::-1])
    draws = np.random.default_rng(5).integers(60, size=(200, 60))
    means = [
        over.average_precision[rows].mean() - under.average_precision[rows].mean()
        for over, under, rows in ((cell, baseline, rows) for rows in draws)
    ]
    found = over_queries(cell, "map", baseline=turned, seed=5, resamples=200)
    assert found.estimate == pytest.approx(cell.map - baseline.map)
    np.testing.assert_allclose(
        [found.low, found.high], np.quantile(means, [0.025, 0.975]), rtol=1e-9
    )


def test_cells_with_other_queries_or_relevant_items_are_refused():
    cell = evaluated([0, 1, 2])
    with pytest.raises(
        EvaluationError,
        match="the baseline has 2 queries, the cell has 3, and they are not the same; ev",
    ):
        over_queries(cell, "map", baseline=cell.select(["q0", "q1"]))
    with pytest.raises(
        EvaluationError,
        match="query 'q1' has 4 relevant items in the baseline and 1 in the cell; evaluate every",
    ):
        over_queries(cell, "map", baseline=evaluated([0, 1, 2], relevant=[1, 4, 1]))


def test_settings_outside_their_range_are_refused():
    with pytest.raises(EvaluationError, match="0 resamples make no interval; draw 1,000 or more"):
        over_queries(evaluated([0]), "map", resamples=0)
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(
            EvaluationError, match=r"give a fraction between 0 and 1, such as 0\.95"
        ):
            over_queries(evaluated([0]), "map", confidence=confidence)


def test_without_a_query_that_counts_the_interval_is_unknown():
    found = over_queries(evaluated([-1], relevant=[0]), "map")
    assert math.isnan(found.estimate)
    assert str(found) == "unknown (no query has anything to find)"
    assert found.to_json()["estimate"] is found.to_json()["low"] is None


def test_the_t_interval_worked_by_hand():
    found = over_seeds({0: 0.50, 1: 0.54})
    assert found.estimate == pytest.approx(0.52)
    assert found.high - found.estimate == pytest.approx(12.706205 * 0.02, rel=1e-6)


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda given: np.std(given) > 1e-6),
    st.floats(0.5, 0.999),
)
def test_the_t_interval_is_scipys(values, confidence):
    found = over_seeds(dict(enumerate(values)), confidence=confidence)
    expected = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-6, atol=1e-9)


def test_the_difference_over_seeds_is_paired_by_seed():
    cell, baseline = {0: 0.50, 1: 0.60, 2: 0.70}, {2: 0.68, 1: 0.58, 0: 0.47}
    found = over_seeds(cell, baseline=baseline)
    assert found.estimate == pytest.approx((0.03 + 0.02 + 0.02) / 3)
    expected = stats.ttest_rel([0.5, 0.6, 0.7], [0.47, 0.58, 0.68]).confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-9)
    assert found.clear


def test_seeds_that_are_not_the_same_are_refused():
    with pytest.raises(
        EvaluationError, match=r"the cell has the seeds \[0, 1\], the baseline \[0, 2\]; a paired"
    ):
        over_seeds({0: 0.5, 1: 0.5}, baseline={0: 0.5, 2: 0.5})
    with pytest.raises(EvaluationError, match="there are no seeds to take the mean over; give one"):
        over_seeds({})


def test_one_seed_has_a_mean_and_no_interval():
    found = over_seeds({0: 0.5}, baseline={0: 0.4})
    assert not found.clear
    assert str(found) == "+10.0 points (95 % interval unknown; one seed shows no spread)"
    assert found.to_json()["low"] is None


def test_an_interval_prints_itself_in_percent_and_is_written_in_fractions():
    share = Interval(0.5432, 0.5, 0.6, 0.9, False, "bootstrap over 1,000 queries")
    moved = Interval(-0.021, -0.04, -0.0001, 0.95, True, "t-interval over 3 seeds")
    assert str(share) == "54.3 % (90 % interval 50.0 to 60.0; bootstrap over 1,000 queries)"
    assert str(moved) == "-2.1 points (95 % interval -4.0 to -0.0; t-interval over 3 seeds)"
    assert moved.clear
    assert json.loads(json.dumps(share.to_json())) == {
        "estimate": 0.5432,
        "low": 0.5,
        "high": 0.6,
        "confidence": 0.9,
        "difference": False,
        "method": "bootstrap over 1,000 queries",
    }


def test_an_interval_over_clusters_by_hand():
    values, clusters = np.array([0.5, 0.5, -0.5, 0.0]), ["a", "a", "b", "c"]
    mean = 0.125
    sums = np.array([0.75, -0.625, -0.125])
    spread = (sums**2).sum() * 3 / 2 + (1 - mean) ** 2 + (-1 - mean) ** 2
    half = stats.t.ppf(0.975, 2) * np.sqrt(spread) / 6
    got = over_clusters(values, clusters, difference=True)
    assert got.estimate == pytest.approx(mean)
    assert (got.low, got.high) == (pytest.approx(max(mean - half, -1)), pytest.approx(1))
    assert got.method == "t-interval over 4 queries in 3 clusters"


def test_equal_values_still_have_an_interval_that_narrows_with_their_number():
    widths = []
    for count in (2, 20, 300):
        got = over_clusters(np.zeros(count), range(count), difference=True)
        assert got.estimate == 0
        assert got.low < 0 < got.high
        widths.append(got.high)
    assert widths[0] > 0.5
    assert widths[1] > 0.05
    assert widths[2] < 0.01
    hits = over_clusters(np.ones(20), range(20))
    assert (hits.estimate, hits.high) == (1, 1)
    assert 0.8 < hits.low < 1


def test_one_cluster_says_no_more_than_one_query():
    values = np.full(100, 0.4)
    got = over_clusters(values, ["only"] * 100, difference=True)
    alone = over_clusters(values[:1], ["only"], difference=True)
    assert (got.estimate, got.low, got.high) == pytest.approx((0.4, alone.low, alone.high))
    assert got.low == -1
    assert got.method == "t-interval over 100 queries in 1 clusters"


def test_queries_of_one_class_count_for_less_than_independent_ones():
    random = np.random.default_rng(0)
    of_class = np.repeat(random.normal(0, 0.2, 30).clip(-1, 1), 10)
    related = over_clusters(of_class, np.repeat(np.arange(30), 10).tolist(), difference=True)
    alone = over_clusters(of_class, range(300), difference=True)
    assert related.high - related.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_intervals_over_clusters_hold_the_truth_as_often_as_they_say(seed):
    """Classes differ by 0.1, queries of a class by 0.3; the truth is 0.02."""
    random, held = np.random.default_rng(seed), 0
    clusters = np.repeat(np.arange(15), 5).tolist()
    for _ in range(300):
        shift = np.repeat(random.normal(0.02, 0.1, 15), 5)
        values = (shift + random.normal(0, 0.3, 75)).clip(-1, 1)
        got = over_clusters(values, clusters, difference=True)
        held += got.low <= 0.02 <= got.high
    assert 0.93 < held / 300 <= 1


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.3])
@pytest.mark.parametrize(("queries", "clusters"), [(20, 20), (40, 40), (60, 20), (200, 100)])
@pytest.mark.parametrize("more", [2, 7, 30])
def test_so_many_queries_have_an_interval_as_narrow_as_was_asked_for(
    spread, queries, clusters, more
):
    """Queries of a cluster get the same, clusters half of them one thing, half another."""

    def asked(queries, clusters):
        which = np.arange(queries) % clusters
        values = np.where(which % 2, spread, -spread)
        return over_clusters(values, which.tolist(), difference=True)

    found, again = asked(queries, clusters), asked(more * queries, more * clusters)
    count = queries_for(found, again.high, queries=queries, clusters=clusters)
    assert count == pytest.approx(more * queries, rel=0.06)
    assert queries_for(found, found.high, queries=queries, clusters=clusters) == queries


def test_where_all_got_the_same_the_number_that_tells_does_not_hang_on_how_many_were_asked():
    for asked in (60, 100, 200):
        found = over_clusters(np.zeros(asked), range(asked), difference=True)
        assert 190 < queries_for(found, 0.01, queries=asked, clusters=asked) < 200


def test_clusters_and_values_must_be_as_many():
    with pytest.raises(EvaluationError, match="3 values and 2 clusters were given; give the clu"):
        over_clusters(np.zeros(3), [0, 1])
    assert math.isnan(over_clusters(np.zeros(0), []).estimate)
