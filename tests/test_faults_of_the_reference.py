"""Known faults of apple/ml-fct, by number, and traps of other libraries' metrics, each shown not
to be here. That each backbone takes a batch of one is tested beside the backbones (fault 7).
"""

import tracemalloc

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from sklearn.metrics import average_precision_score

from onward.data import open_items
from onward.errors import ConfigurationError, SpaceMismatchError
from onward.evaluation.comparison import compare, evaluate_embeddings
from onward.evaluation.metrics import average_precision, evaluate
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import search
from onward.experiments.recipe import load_recipe
from onward.models import EmbeddingModel, InputSpec
from onward.nn.specs import BackboneSpec
from onward.spaces import Embeddings, Space
from onward.training.fit.fit import fit as fit_and_choose
from onward.training.images import embed_views
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import linear


def fit(*given, **more):
    """Return the transformation alone."""
    return fit_and_choose(*given, **more).transformation


def embeddings(vectors, labels, *, ids=None, metric="l2", name="old"):
    vectors = np.array(vectors, np.float32)
    ids = tuple(ids or (f"i{row}" for row in range(len(vectors))))
    return Embeddings(ids, vectors, Space(name, vectors.shape[1], metric), np.array(labels))


QUERIES = embeddings([[0.0], [10.0]], [1, 2], ids=["p", "q"])
GOOD = embeddings([[0.0], [1.0], [9.0], [10.0]], [1, 1, 2, 2])
BAD = embeddings([[0.0], [1.0], [9.0], [10.0]], [2, 2, 1, 1])


def test_fault_1_cmc_tells_a_good_ranking_from_a_bad_one_where_queries_are_not_the_gallery():
    assert evaluate_embeddings(QUERIES, GOOD, exclude_self=False).curve(4).tolist() == [1, 1, 1, 1]
    assert evaluate_embeddings(QUERIES, BAD, exclude_self=False).curve(4).tolist() == [0, 0, 1, 1]


def test_fault_2_average_precision_depends_on_the_ranking_where_queries_are_not_the_gallery():
    assert evaluate_embeddings(QUERIES, GOOD, exclude_self=False).map == 1
    expected = (1 / 3 + 2 / 4) / 2
    assert evaluate_embeddings(QUERIES, BAD, exclude_self=False).map == pytest.approx(expected)


def test_fault_3_self_matches_are_known_by_id_and_not_by_equal_lists_of_labels():
    gallery = embeddings([[0.0], [1.0], [9.0]], [1, 1, 2], ids=["a", "b", "c"])
    same_labels = embeddings([[0.0], [1.0], [9.0]], [1, 1, 2], ids=["x", "y", "z"])
    turned_round = gallery.select([2, 1, 0])
    assert evaluate_embeddings(same_labels, gallery, exclude_self=True).skipped == 0
    result = evaluate_embeddings(turned_round, gallery, exclude_self=True)
    assert result.select(["a", "b", "c"]).relevant.tolist() == [1, 1, 0]
    assert result.cmc(1) == 1


def test_fault_4_the_cosine_distance_of_a_vector_to_itself_is_zero():
    one = embeddings([[1.0, 1.0]], [0], metric="cosine")
    assert search(one, one, 1, exclude_self=False).distances.tolist() == [[0.0]]
    across = embeddings([[1.0, -1.0], [-3.0, -3.0]], [0, 0], metric="cosine")
    np.testing.assert_allclose(search(one, across, 2, exclude_self=False).distances, [[1, 2]])


@pytest.mark.slow
def test_fault_5_no_matrix_of_queries_by_gallery_ever_stands_in_memory():
    random = np.random.default_rng(0)
    few, many = (
        embeddings(random.standard_normal((size, 4)), random.integers(0, 9, size))
        for size in (300, 2000)
    )
    evaluate_embeddings(few, few, exclude_self=True)  # warm up
    tracemalloc.start()
    evaluate_embeddings(many.select(range(500)), many, exclude_self=True)
    once = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    evaluate_embeddings(many, many, exclude_self=True)
    four_times_the_queries = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert four_times_the_queries < 1.1 * once
    assert four_times_the_queries < 2000 * 2000 * 40  # a matrix, its argsort and its hits


def test_fault_6_a_misspelt_name_in_a_configuration_is_refused_and_never_ignored(tmp_path):
    bundled = load_recipe("digits").model_dump()
    assert "epochs" in bundled["fit"]
    with pytest.raises(ConfigurationError, match=r"no 'fit.epoch'; did you mean 'epochs'"):
        load_recipe("digits", {"fit.epoch": 3})
    (tmp_path / "own.toml").write_text('name = "own"\n[fit]\nepoch = 3\n')
    with pytest.raises(ConfigurationError, match=r"no 'fit.epoch'; did you mean 'epochs'"):
        load_recipe(str(tmp_path / "own.toml"))
    with pytest.raises(ValidationError, match="epoch"):
        FitSettings(epoch=3)
    with pytest.raises(ValidationError, match="widht"):
        BackboneSpec(widht=3)


class Counting:
    """A model of the user's that counts how many images it was given."""

    def __init__(self):
        self.images = 0

    def __call__(self, pixels):
        self.images += len(pixels)
        return pixels.reshape(len(pixels), -1)[:, 20:26].astype(np.float32)


def counted_model(name):
    counting = Counting()
    input = InputSpec(8, 1, (0.5,), (0.5,))
    return EmbeddingModel.from_callable(counting, name=name, dim=6, input=input), counting


def test_fault_7_one_item_alone_gives_what_it_gives_in_a_batch():
    items = open_items("digits").select(range(5))
    model, _ = counted_model("old")
    vectors = model.embed(items)
    weight, bias = np.eye(6, dtype=np.float32), np.ones(6, np.float32)
    h = linear(model.space, None, Space("new", 6), weight, bias, made_by={})
    for row in range(5):
        alone = model.embed(items.select([row]))
        assert alone.vectors.shape == h.apply(alone).vectors.shape == (1, 6)
        np.testing.assert_array_equal(alone.vectors[0], vectors.vectors[row])
        np.testing.assert_array_equal(h.apply(alone).vectors[0], h.apply(vectors).vectors[row])
        found = search(alone, vectors, 3, exclude_self=False)
        np.testing.assert_array_equal(
            found.rows[0], search(vectors, vectors, 3, exclude_self=False).rows[row]
        )
        assert search(alone, alone, 1, exclude_self=False).rows.tolist() == [[0]]


def test_fault_8_the_first_classes_are_the_lowest_labels_and_not_the_first_strings(tmp_path):
    for number in range(60):
        for folder in (tmp_path / "numbers" / f"{number}", tmp_path / "names" / f"class{number}"):
            folder.mkdir(parents=True)
            Image.new("L", (1, 1)).save(folder / "a.png")
    for source, prefix in (("numbers", ""), ("names", "class")):
        items = open_items(tmp_path / source)
        assert items.labels.tolist() == list(range(60))
        first = items.of_classes(range(12))
        assert first.ids == tuple(f"{prefix}{number}/a.png" for number in range(12))


def test_fault_9_values_are_fractions_and_only_what_is_printed_is_percent():
    made = evaluate_embeddings(QUERIES, GOOD, exclude_self=False)
    comparison = compare(dict.fromkeys(("old/old", "new/old", "new/new"), made))
    for written in (made.to_json(), *comparison.to_json()["cells"].values()):
        assert all(0 <= written[name] <= 1 for name in ("cmc@1", "cmc@5", "map"))
    assert "100.0" in str(made)
    assert "(percent)" in str(made)
    assert "100.0" in str(comparison)


def test_fault_10_vectors_of_different_spaces_are_never_compared():
    new = Embeddings(QUERIES.ids, QUERIES.vectors, Space("new", 1), QUERIES.labels)
    with pytest.raises(SpaceMismatchError, match="the queries are in new"):
        evaluate_embeddings(new, GOOD, exclude_self=False)
    with pytest.raises(SpaceMismatchError, match="the queries are in new"):
        search(new, GOOD, 1, exclude_self=False)


def test_fault_11_without_side_information_the_old_model_sees_each_image_once():
    items = open_items("digits").select(range(60))
    (old, seen_by_old), (new, seen_by_new) = counted_model("old"), counted_model("new")
    seen = {}
    for model in (old, new):
        seen |= embed_views(model, items, views=1)
    settings, run = FitSettings(method="ridge"), RunSettings(device="cpu")
    h = fit(seen[old.space], None, seen[new.space], settings=settings, seed=0, run=run)
    assert h.side is None
    gallery = old.embed(items)
    assert len(h.apply(gallery)) == 60
    assert (seen_by_old.images, seen_by_new.images) == (120, 60)  # to fit, and the gallery


def test_fault_12_a_query_with_nothing_to_find_is_neither_a_failure_nor_unmentioned():
    lonely = embeddings([[0.0], [5.0], [10.0]], [1, 3, 2], ids=["p", "r", "q"])
    result = evaluate_embeddings(lonely, GOOD, exclude_self=False)
    assert (result.map, result.cmc(1)) == (1, 1)
    assert (result.queries, result.skipped) == (2, 1)
    assert result.to_json()["skipped"] == 1
    assert "1 more skipped (nothing to find)" in str(result)


def test_trap_relevant_items_at_distance_zero_are_not_dropped():
    gallery = embeddings([[0.0], [0.0], [1.0], [2.0]], [2, 1, 1, 2])
    query = embeddings([[0.0]], [1], ids=["q"])
    result = evaluate_embeddings(query, gallery, exclude_self=False)
    nearness = -np.array([0.0, 0.0, 1.0, 2.0])  # none of them positive
    assert (nearness <= 0).all()
    assert result.map == pytest.approx((1 / 2 + 2 / 3) / 2)
    untied = -np.array([0.0, 0.1, 1.0, 2.0])
    assert result.map == pytest.approx(average_precision_score([0, 1, 1, 0], untied))


def test_trap_average_precision_looks_at_the_whole_gallery_and_not_at_the_first_k():
    size = 2000
    gallery = embeddings(np.arange(size)[:, None], [0] * (size - 1) + [1])
    query = embeddings([[0.0]], [1], ids=["q"])
    assert evaluate_embeddings(query, gallery, exclude_self=False).map == pytest.approx(1 / size)


def test_trap_average_precision_is_divided_by_what_there_is_and_not_by_what_was_found():
    gallery = embeddings([[0.0], [1.0], [2.0], [3.0]], [1, 2, 1, 1])
    query = embeddings([[0.0]], [1], ids=["q"])
    relevance = Relevance.between(query, gallery, exclude_self=False)
    short = evaluate(search(query, gallery, 2, exclude_self=False), relevance)
    assert short.map == pytest.approx(1 / 3)
    assert average_precision(np.array([[True, False]]), np.array([3])) == pytest.approx(1 / 3)
