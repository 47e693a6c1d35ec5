"""Comparing cells: update gain, negative flips, the verdict, and what cannot be compared."""

import json

import numpy as np
import pytest

from onward.errors import EvaluationError, SpaceMismatchError
from onward.evaluation.comparison import Comparison, compare, evaluate_embeddings
from onward.evaluation.intervals import over_queries
from onward.evaluation.metrics import Evaluation
from onward.spaces import Embeddings, Space


def cell(scores, first_hit=None, *, relevant=None, ids=None):
    """An evaluation with these average precisions; the first hit is rank 0 where it is 1."""
    scores = np.array(scores, np.float64)
    if first_hit is None:
        first_hit = np.where(scores == 1, 0, 1)
    if relevant is None:
        relevant = np.where(np.isnan(scores), 0, 1)
    ids = tuple(ids or (f"q{row}" for row in range(len(scores))))
    return Evaluation(ids, np.array(first_hit), np.array(relevant), scores)


def comparison(old, upgraded, new, **others):
    cells = {"old/old": old, "new/old": upgraded, "new/new": new, **others}
    return compare({name: x if isinstance(x, Evaluation) else cell(x) for name, x in cells.items()})


USUAL = {
    "old": [1.0, 0.2, 0.2, 0.2, np.nan],
    "upgraded": [0.5, 1.0, 1.0, 0.3, np.nan],
    "new": [1.0, 1.0, 1.0, 0.4, np.nan],
}


def test_update_gain_worked_by_hand():
    made = comparison(**USUAL)
    assert made.value("map", "new/old") == pytest.approx(0.7)
    assert made.update_gain("map") == pytest.approx((0.7 - 0.4) / (0.85 - 0.4))
    assert made.update_gain("cmc@1") == pytest.approx((0.5 - 0.25) / (0.75 - 0.25))
    assert made.update_gain("map", "new/new") == 1
    assert made.update_gain("map", "old/old") == 0


def test_compatible_is_bcts_criterion():
    assert comparison([0.5], [0.6], [0.7]).compatible
    assert not comparison([0.5], [0.5], [0.7]).compatible
    assert not comparison([0.5], [0.4], [0.7]).compatible


def test_negative_flips_are_right_answers_that_were_lost():
    made = comparison(**USUAL, independent=cell([0.1, 0.1, 1.0, 0.1, np.nan]))
    assert made.negative_flips() == 0.25
    assert made.negative_flips("new/new") == 0
    assert made.negative_flips("independent") == 0.25


@pytest.mark.parametrize("full", [0.5, 0.4], ids=["changes-nothing", "loses"])
def test_update_gain_is_not_a_number_where_full_backfill_gains_nothing(full):
    made = comparison([0.5], [0.7], [full])
    assert np.isnan(made.update_gain("map"))
    assert made.to_json()["update_gain"]["map"] is None
    assert str(made).splitlines()[2].endswith("-")


def test_the_cells_are_compared_query_by_query_whatever_their_order():
    upgraded = cell([1.0, 0.2], ids=["b", "a"])
    made = comparison(cell([1.0, 0.2], ids=["a", "b"]), upgraded, cell([1.0, 1.0], ids=["a", "b"]))
    assert made.negative_flips() == 0.5
    assert made.cells["new/old"].query_ids == ("a", "b")


@pytest.mark.parametrize(
    ("old", "upgraded", "new", "sentence"),
    [
        pytest.param(
            [1.0, 0.0],
            [1.0, 0.8],
            [1.0, 1.0],
            "Upgrade: it takes map from 50.0 % (doing nothing) to 90.0 % and cmc@1 from 50.0 % to "
            "50.0 %; 80 % of what full backfill (100.0 %) gains.",
            id="better",
        ),
        pytest.param(
            [1.0, 0.0],
            [1.0, 1.0],
            [1.0, 0.5],
            "Upgrade: it takes map from 50.0 % (doing nothing) to 100.0 % and cmc@1 from 50.0 % to "
            "100.0 %; full backfill gives 75.0 %.",
            id="better-than-full-backfill",
        ),
        pytest.param(
            [1.0, 0.5],
            [1.0, 0.3],
            [1.0, 0.9],
            "Do not upgrade: it takes map from 75.0 % (doing nothing) to 65.0 %, worse than doing "
            "nothing; full backfill gives 95.0 %.",
            id="worse",
        ),
        pytest.param(
            [1.0, 0.5],
            [1.0, 0.5],
            [1.0, 0.9],
            "Do not upgrade: it gains nothing, map from 75.0 % (doing nothing) to 75.0 % and cmc@1 "
            "from 50.0 % to 50.0 %; full backfill gives 95.0 %.",
            id="no-gain",
        ),
        pytest.param(
            [1.0, 0.0],
            [0.9, 0.9],
            [1.0, 1.0],
            "Upgrade with care: it takes map from 50.0 % (doing nothing) to 90.0 %, but cmc@1 from "
            "50.0 % to 0.0 %, which is worse; full backfill gives 100.0 %.",
            id="first-ranks-worse",
        ),
        pytest.param(
            [1.0, 0.5],
            [1.0, 0.3],
            [1.0, 0.2],
            "Keep the old model: upgrading takes map from 75.0 % (doing nothing) to 65.0 %, and "
            "even full backfill gives 60.0 %.",
            id="new-model-worse",
        ),
        pytest.param(
            [np.nan],
            [np.nan],
            [np.nan],
            "Nothing can be said: no query has anything to find.",
            id="nothing-to-find",
        ),
    ],
)
def test_the_verdict_is_one_plain_sentence(old, upgraded, new, sentence):
    assert comparison(old, upgraded, new).verdict == sentence


def test_a_comparison_prints_an_aligned_table_in_percent():
    assert str(
        comparison(**USUAL, **{"bct new/old": [0.4, 0.2, 0.2, 0.2, np.nan]})
    ).splitlines() == [
        "query/gallery  cmc@1  cmc@5    map  update gain   (percent; update gain of map)",
        "old/old         25.0  100.0   40.0            -",
        "new/old         50.0  100.0   70.0         66.7",
        "new/new         75.0  100.0   85.0            -",
        "bct new/old      0.0  100.0   25.0        -33.3",
        "25.0 % of queries have a right first item in old/old and a wrong one in new/old.",
        "4 queries; 1 more skipped (nothing to find).",
        "Upgrade: it takes map from 40.0 % (doing nothing) to 70.0 % and cmc@1 from 25.0 % to "
        "50.0 %; 67 % of what full backfill (85.0 %) gains.",
    ]


def test_what_fused_search_gives_is_said_beside_the_upgrade():
    made = comparison(**USUAL, **{"new/old fused": cell([1.0, 1.0, 1.0, 0.2, np.nan])})
    assert made.fused == "new/old fused"
    assert str(made).splitlines()[5:] == [
        "25.0 % of queries have a right first item in old/old and a wrong one in new/old.",
        "0.0 % of queries have a right first item in old/old and a wrong one in new/old fused.",
        "4 queries; 1 more skipped (nothing to find).",
        "Upgrade: it takes map from 40.0 % (doing nothing) to 70.0 % and cmc@1 from 25.0 % to "
        "50.0 %; 67 % of what full backfill (85.0 %) gains. Fused search, with queries by both "
        "models, gives map 80.0 % and cmc@1 75.0 %.",
    ]
    assert made.to_json()["update_gain_by_cell"]["new/old fused"]["map"] == pytest.approx(
        0.4 / 0.45
    )
    assert comparison(**USUAL).fused is None


def plain(value):
    if isinstance(value, dict):
        return all(type(name) is str and plain(x) for name, x in value.items())
    return value is None or type(value) in (str, int, float, bool)


@pytest.mark.parametrize("scores", [[1.0, 0.5], [np.nan, np.nan]])
def test_a_comparison_is_written_as_plain_fractions(scores):
    made = comparison(scores, scores, scores, independent=cell(scores))
    written = made.to_json()
    assert plain(written)
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert list(written["cells"]) == ["old/old", "new/old", "new/new", "independent"]
    assert set(written["update_gain_by_cell"]) == {"new/old", "independent"}
    assert written["update_gain"] == written["update_gain_by_cell"]["new/old"]
    assert set(written["update_gain"]) == {"cmc@1", "cmc@5", "map"}
    assert written["verdict"] == made.verdict
    str(made)


def test_a_comparison_that_lacks_a_cell_says_what_it_is_for():
    with pytest.raises(
        EvaluationError,
        match=r"lacks \['new/old'\]; it needs old/old \(do nothing\) and new/old \(upgr",
    ):
        compare({"old/old": cell([1.0])})


def test_cells_with_other_queries_are_refused():
    with pytest.raises(
        EvaluationError, match="new/new has 1 queries, old/old has 2, and they are not the same; ev"
    ):
        comparison([1.0, 0.5], [1.0, 0.5], [1.0])


def test_cells_over_other_galleries_are_refused():
    with pytest.raises(
        EvaluationError,
        match="query 'q1' has 3 relevant items in new/old and 1 in old/old; evaluate every cell on",
    ):
        comparison([1.0, 0.5], cell([1.0, 0.5], relevant=[1, 3]), [1.0, 0.5])


def test_cells_and_metrics_that_are_not_there_are_named():
    made = comparison(**USUAL)
    with pytest.raises(EvaluationError, match="there is no cell 'bct'; there are "):
        made.negative_flips("bct")
    with pytest.raises(EvaluationError, match="there is no metric 'mAP'; choose map, cmc@k"):
        made.update_gain("mAP")


def test_the_cells_of_a_comparison_cannot_be_changed():
    with pytest.raises(TypeError):
        comparison(**USUAL).cells["new/old"] = cell([1.0])


def embedded(vectors, labels, name="old"):
    ids = tuple(f"i{row}" for row in range(len(vectors)))
    space = Space(name, len(vectors[0]))
    return Embeddings(ids, np.array(vectors, np.float32), space, np.array(labels))


def test_embeddings_are_evaluated_over_the_whole_gallery():
    made = embedded([[0], [1], [5], [7]], [0, 0, 1, 0])
    result = evaluate_embeddings(made, made, exclude_self=True)
    assert result.relevant.tolist() == [2, 2, 0, 2]
    expected = [(1 + 2 / 3) / 2, (1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2]
    np.testing.assert_allclose(result.average_precision[[0, 1, 3]], expected)
    assert (result.queries, result.skipped, result.depth) == (3, 1, None)
    assert evaluate_embeddings(made, made, exclude_self=False).cmc(1) == 1


def test_evaluating_across_spaces_is_refused():
    with pytest.raises(SpaceMismatchError, match="Upgrade the gallery from old to new first"):
        evaluate_embeddings(embedded([[1]], [0], "new"), embedded([[1]], [0]), exclude_self=False)


def test_any_metric_that_was_measured_has_an_update_gain_and_an_interval():
    items = {
        name: embedded(vectors, [0, 0, 1, 1], name)
        for name, vectors in {
            "old": [[0], [2], [1], [3]],
            "new": [[0], [1], [5], [6]],
        }.items()
    }
    metrics = ("ndcg@3", "recall@1")
    cells = {
        name: evaluate_embeddings(one, one, exclude_self=True, metrics=metrics)
        for name, one in (
            ("old/old", items["old"]),
            ("new/old", items["new"]),
            ("new/new", items["new"]),
        )
    }
    made = compare(cells)
    assert made.value("recall@1", "new/new") == made.update_gain("recall@1") == 1
    # Each query has one item to find; by the old model it stands at rank 2, 3, 3 and 2.
    old = (1 / np.log2(3) + 1 / np.log2(4)) / 2
    assert made.value("ndcg@3", "old/old") == pytest.approx(old)
    assert made.update_gain("ndcg@3") == pytest.approx(1)
    written = made.to_json()
    assert list(written["update_gain"]) == list(metrics)
    assert "ndcg@3" in str(made).splitlines()[0]
    assert "map from" in made.verdict
    gain = over_queries(cells["new/old"], "ndcg@3", baseline=cells["old/old"])
    assert gain.estimate == pytest.approx(1 - old)
    with pytest.raises(EvaluationError, match="recall@9 was not measured, only ndcg@3, recall@1"):
        made.value("recall@9", "new/old")


def test_cells_that_were_measured_otherwise_are_not_compared():
    items = embedded([[0], [1], [5], [6]], [0, 0, 1, 1])
    usual = evaluate_embeddings(items, items, exclude_self=True)
    other = evaluate_embeddings(items, items, exclude_self=True, metrics=("map", "ndcg@3"))
    with pytest.raises(
        EvaluationError, match="new/new shows map, ndcg@3, old/old cmc@1, cmc@5, map; evaluate"
    ):
        compare({"old/old": usual, "new/old": usual, "new/new": other})


def test_unknown_labels_are_said_of_a_comparison():
    items = embedded([[0], [1], [5], [6]], [0, 0, 1, -1])
    cell = evaluate_embeddings(items, items, exclude_self=True)
    made = compare({"old/old": cell, "new/old": cell, "new/new": cell})
    assert "1 gallery items have an unknown label: relevant to no query." in str(made)
    assert made.to_json()["cells"]["new/old"]["left_out"] == {
        "queries_without_label": 1,
        "items_without_label": 1,
    }


def test_without_full_backfill_no_gain_is_known():
    made = compare({"old/old": cell([1.0, 0.2]), "new/old": cell([1.0, 0.6])})
    assert np.isnan(made.update_gain("map"))
    assert str(made).splitlines()[2].split() == ["new/old", "50.0", "100.0", "80.0", "-"]
    assert made.verdict == (
        "Upgrade: it takes map from 60.0 % (doing nothing) to 80.0 % and cmc@1 from 50.0 % to "
        "50.0 %; what full backfill gives is not known."
    )
    written = made.to_json()
    assert list(written["cells"]) == ["old/old", "new/old"]
    assert written["update_gain"]["map"] is None
    assert written["negative_flips_by_cell"] == {"new/old": 0}


def test_without_an_upgrade_nothing_is_said_of_one():
    made = Comparison({name: cell([1.0, 0.2]) for name in ("old/old", "new/new", "bct new/old")})
    assert not {"update_gain", "negative_flips", "compatible", "verdict"} & set(made.to_json())
    assert str(made).splitlines()[-1] == "2 queries; 0 more skipped (nothing to find)."
    with pytest.raises(EvaluationError, match="there is no cell 'new/old'; there are"):
        made.update_gain("map")


def test_a_gallery_as_it_stands_is_never_called_by_the_name_of_h_alone():
    made = Comparison(
        {"old/old": cell([0.4]), "new/old as stored": cell([0.7]), "new/new": cell([1.0])}
    )
    assert made.update_gain("map") == pytest.approx(0.5)
    assert "new/old" not in made.to_json()["update_gain_by_cell"]
    assert "a wrong one in new/old as stored." in str(made)
