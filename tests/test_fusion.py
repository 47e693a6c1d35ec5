"""A fused pair: its distance worked by hand, its rankings beside brute force, what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import ConfigurationError, EmbeddingsError, SpaceMismatchError
from onward.evaluation.backfill_curve import backfill_curve
from onward.evaluation.comparison import evaluate_embeddings
from onward.evaluation.retrieval import search
from onward.fusion import FusedEmbeddings, Fusion, Scale, Serving, fuse
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation, linear

METRICS = ("l2", "cosine", "ip")


def pair(old="l2", new="cosine", weight=0.5, dims=(3, 4)):
    spaces = Space("old", dims[0], old), Space("new", dims[1], new)
    return Fusion(*spaces, weight, Scale(4.0, 0.5), Scale(0.25, 1.5))


def embed(space, ids, seed, *, labels=None, grid=None):
    vectors = np.random.default_rng(seed).normal(size=(len(ids), space.dim)).astype(np.float32)
    if grid is not None:  # few values, so that many distances tie
        vectors = np.round(vectors * grid) / grid
        vectors[~vectors.any(axis=1), 0] = 1
    return Embeddings(tuple(ids), vectors, space, labels)


def brute_force(fusion, queries, gallery):
    """Return of each query its items with their fused distances, by naive loops in float64."""
    measures = {
        "l2": lambda a, b: np.sum((a - b) ** 2),
        "cosine": lambda a, b: 1 - a @ b / np.sqrt((a @ a) * (b @ b)),
        "ip": lambda a, b: -(a @ b),
    }
    found = []
    for q in queries.ids:
        distances = {}
        for item in {*gallery.old.ids, *gallery.new.ids}:
            terms = {}
            for name in ("old", "new"):
                asked, there = getattr(queries, name), getattr(gallery, name)
                if item not in there.ids:
                    continue
                a = np.float64(asked.vectors[asked.ids.index(q)])
                b = np.float64(there.vectors[there.ids.index(item)])
                scale = getattr(fusion, f"{name}_scale")
                terms[name] = measures[there.space.metric](a, b) / scale.std
            for name, other in (("old", "new"), ("new", "old")):
                if name not in terms:
                    terms[name] = terms[other] + getattr(fusion, f"{other}_scale").gap
            distances[item] = fusion.weight * terms["old"] + (1 - fusion.weight) * terms["new"]
        found.append(distances)
    return found


def test_a_fused_distance_worked_by_hand():
    fusion = pair("l2", "ip", weight=0.25)
    old, new = np.array([[3.0]], np.float32), np.array([[-2.0]], np.float32)
    # 0.25 * 3^2 / 4 + 0.75 * -2 / 0.25
    assert fusion.combine(old, new) == pytest.approx(0.5625 - 6)


def test_a_missing_distance_is_the_other_one_and_the_gap():
    fusion = pair("cosine", "ip", weight=0.25)  # gaps: 0.5 from the old space, 1.5 from the new
    nothing = np.array([[np.nan]], np.float32)
    old, new = np.array([[10.0]], np.float32), np.array([[1.0]], np.float32)
    assert fusion.combine(old, nothing) == pytest.approx(10 / 4 + 0.75 * 0.5)
    assert fusion.combine(nothing, new) == pytest.approx(1 / 0.25 + 0.25 * 1.5)


def test_scales_are_measured_on_the_same_pairs_in_both_spaces():
    spaces = Space("old", 2), Space("new", 2, "ip")
    # Squared: 0, 4, 16 and 100. The nearest third of three items is one; the query's own is NaN.
    old = np.array([[0.0, 2.0, 4.0, np.nan], [np.nan, 10.0, 2.0, 4.0]], np.float32)
    new = np.array([[3.0, 1.0, 2.0, np.nan], [np.nan, 2.0, 3.0, 1.0]], np.float32)
    fusion = Fusion.measure(*spaces, 0.5, [(old, new)])
    squared = np.array([0, 4, 16, 100, 4, 16.0])
    assert fusion.old_scale.std == pytest.approx(squared.std())
    assert fusion.new_scale.std == pytest.approx(np.array([3, 1, 2, 2, 3, 1.0]).std())
    a, b = fusion.old_scale.std, fusion.new_scale.std
    # Nearest by the old space: the first item of the first query, the third of the second.
    assert fusion.old_scale.gap == pytest.approx(((3 / b - 0 / a) + (3 / b - 4 / a)) / 2)
    # By the new space: the second item of the first query, the last of the second.
    assert fusion.new_scale.gap == pytest.approx(((4 / a - 1 / b) + (16 / a - 1 / b)) / 2)


@pytest.mark.parametrize("old", METRICS)
@pytest.mark.parametrize("new", METRICS)
def test_fused_rankings_are_those_of_brute_force_also_of_items_with_one_vector(old, new):
    fusion, ids = pair(old, new, 0.3), [f"i{n}" for n in range(40)]
    queries = fuse(fusion, embed(fusion.old, ids[:7], 1), embed(fusion.new, ids[:7], 2), "queries")
    gallery = FusedEmbeddings(
        fusion, embed(fusion.old, ids[:30], 3), embed(fusion.new, ids[10:], 4)
    )
    wanted = brute_force(fusion, queries, gallery)
    found = search(queries, gallery, 40, exclude_self=False)
    for row, distances in enumerate(wanted):
        assert found.ids_of(row) == sorted(distances, key=distances.__getitem__)
        np.testing.assert_allclose(
            found.distances[row], sorted(distances.values()), rtol=2e-6, atol=1e-6
        )


def test_for_l2_and_cosine_it_is_a_distance_of_vectors_side_by_side():
    fusion, ids = pair("l2", "cosine", 0.6), [f"i{n}" for n in range(50)]
    old, new = embed(fusion.old, ids, 1), embed(fusion.new, ids, 2)
    unit = new.vectors / np.linalg.norm(new.vectors, axis=1, keepdims=True)
    side_by_side = np.concatenate(
        [
            old.vectors * np.sqrt(fusion.weight / fusion.old_scale.std),
            unit * np.sqrt((1 - fusion.weight) / fusion.new_scale.std / 2),
        ],
        axis=1,
    )
    joined = Embeddings(tuple(ids), np.float32(side_by_side), Space("both", 7, "l2"))
    both = fuse(fusion, old, new, "items")
    fused = search(both, both, 10, exclude_self=True)
    plain = search(joined, joined, 10, exclude_self=True)
    assert [fused.ids_of(row) for row in range(50)] == [plain.ids_of(row) for row in range(50)]
    np.testing.assert_allclose(fused.distances, plain.distances**2, rtol=1e-4, atol=1e-6)


def test_items_at_the_same_fused_distance_come_in_the_order_of_their_ids():
    fusion = pair("l2", "l2")
    ids = ["c", "a", "b", "d"]
    alike = np.ones((4, 3), np.float32), np.ones((4, 4), np.float32)
    both = fuse(
        fusion,
        Embeddings(tuple(ids), alike[0], fusion.old),
        Embeddings(tuple(ids), alike[1], fusion.new),
        "items",
    )
    assert search(both, both, 3, exclude_self=True).ids_of(0) == ["a", "b", "d"]


@settings(deadline=None)
@given(seed=st.integers(0, 1000), grid=st.sampled_from([None, 1, 2]), k=st.integers(1, 40))
def test_blocks_and_the_order_of_the_gallery_change_nothing(seed, grid, k):
    fusion, ids = pair(), [f"i{n}" for n in range(30)]
    old, new = embed(fusion.old, ids, seed, grid=grid), embed(fusion.new, ids, seed + 1, grid=grid)
    both = FusedEmbeddings(fusion, old, new)
    mixed = FusedEmbeddings(fusion, old.select(range(29, -1, -1)), new.select(range(30)))
    whole, other = (search(both, gallery, k, exclude_self=True) for gallery in (both, mixed))
    alone = [search(both.select([row]), both, k, exclude_self=True) for row in range(30)]
    assert whole.ids_of(3) == other.ids_of(3)
    assert [one.ids_of(0) for one in alone] == [whole.ids_of(row) for row in range(30)]


def test_a_backfill_of_a_fused_pair_ends_as_everything_embedded():
    fusion, ids = pair("l2", "l2"), [f"i{n}" for n in range(30)]
    labels = np.arange(30) % 3
    old = embed(fusion.old, ids, 1, labels=labels)
    true, made = (embed(fusion.new, ids, seed, labels=labels) for seed in (2, 3))
    queries = FusedEmbeddings(fusion, old, true)
    half_made = FusedEmbeddings(fusion, old, made.select(range(0, 30, 2)))  # the rest by old alone
    curve = backfill_curve(
        queries, half_made, queries, ids, exclude_self=True, shares=(0.0, 0.5, 1.0)
    )
    for point, gallery in ((0, half_made), (2, queries)):
        wanted = evaluate_embeddings(queries, gallery, exclude_self=True)
        np.testing.assert_allclose(
            curve.evaluations[point].per_query("map"), wanted.per_query("map")
        )
    assert curve.lost == 0


def test_a_pair_that_can_be_saved_is_read_again_as_it_was():
    fusion = pair()
    assert Fusion.from_json(fusion.to_json()) == fusion


def test_numbers_of_numpy_are_kept_as_those_of_python():
    fusion = replace(
        pair(), weight=np.float64(0.25), old_scale=Scale(np.float64(2.0), np.float64(0.5))
    )
    assert type(fusion.weight) is float
    assert json.loads(json.dumps(fusion.to_json())) == fusion.to_json()


def test_what_to_serve_is_kept_with_a_transformation_and_is_not_of_its_digest(tmp_path):
    fusion = pair("l2", "l2", dims=(2, 2))
    plain = linear(fusion.old, None, fusion.new, np.eye(2), np.zeros(2), made_by={})
    told = replace(plain, serving=Serving("fused", fusion))
    told.save(tmp_path / "h")
    assert Transformation.load(tmp_path / "h").serving == Serving("fused", fusion)
    assert told.digest == plain.digest


def test_a_pair_of_other_spaces_is_refused_by_a_transformation():
    fusion = pair("l2", "l2", dims=(2, 2))
    other = replace(fusion, new=Space("another", 2))
    plain = linear(fusion.old, None, fusion.new, np.eye(2), np.zeros(2), made_by={})
    with pytest.raises(
        SpaceMismatchError, match="is not a pair to serve after the transformation old"
    ):
        replace(plain, serving=Serving("new", other))


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.1, float("nan")])
def test_a_weight_that_leaves_one_space_is_refused(weight):
    with pytest.raises(ConfigurationError, match="give a number between 0 and 1"):
        pair(weight=weight)


@pytest.mark.parametrize("shape", [(3, 9), (0, 9), (3, 1)])
def test_scales_of_items_that_are_all_alike_or_too_few_are_refused(shape):
    spaces, found = (Space("old", 2), Space("new", 2)), np.zeros(shape, np.float32)
    with pytest.raises(ConfigurationError, match="pairs of items that are not all alike"):
        Fusion.measure(*spaces, 0.5, [(found, found)])


def test_queries_by_one_model_only_are_named():
    fusion = pair()
    with pytest.raises(EmbeddingsError, match="2 are in only one of the two, the first 'a'"):
        fuse(fusion, embed(fusion.old, "ab", 1), embed(fusion.new, "bc", 2), "queries")


def test_vectors_of_another_space_are_refused():
    fusion = pair()
    with pytest.raises(EmbeddingsError, match="the old vectors of a fused pair are in new"):
        FusedEmbeddings(fusion, embed(fusion.new, "ab", 1), embed(fusion.new, "ab", 2))


def test_queries_of_one_space_cannot_ask_a_pair():
    fusion = pair()
    both = fuse(fusion, embed(fusion.old, "ab", 1), embed(fusion.new, "ab", 2), "items")
    with pytest.raises(SpaceMismatchError, match="by the same queries of both models"):
        search(both.new, both, 1, exclude_self=False)
