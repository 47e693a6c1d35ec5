import json
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.artifacts import read_artifact
from onward.errors import EmbeddingsError, SpaceMismatchError, TransformationError
from onward.spaces import Embeddings, Space
from onward.transformation import (
    Dense,
    Network,
    Residual,
    Step,
    Transformation,
    Uncertainty,
    compose,
    linear,
    mean,
)
from onward.transformation.networks import BLOCK_ROWS, open_session, run_in_blocks

OLD, SIDE, NEW = Space("v1@11111111", 5), Space("s@22222222", 3), Space("v2@33333333", 4)
NEWEST = Space("v3@44444444", 6, "cosine")
FILES = ("config.json", "model.safetensors", "model.onnx", "README.md")
DIMS = st.integers(1, 40)


def one_network(old_branch, side_branch, mixer, uses_side):
    return Step((Network(old_branch, side_branch, mixer, uses_side),))


def layer(weight, bias, relu=False):
    return Dense(np.asarray(weight, np.float32), np.asarray(bias, np.float32), relu)


def dense(rng, into, out, relu=True):
    return layer(rng.normal(size=(out, into)) / np.sqrt(into), rng.normal(size=out), relu)


def embeddings(rng, items, space, labels=None):
    ids = tuple(f"item-{row}" for row in range(items))
    return Embeddings(ids, rng.normal(size=(items, space.dim)).astype(np.float32), space, labels)


def mlp(old=OLD, side=SIDE, new=NEW, seed=0, made_by=None):
    rng = np.random.default_rng(seed)
    second = old if side is None else side
    step = one_network(
        (dense(rng, old.dim, 7), dense(rng, 7, 6)),
        (dense(rng, second.dim, 7), dense(rng, 7, 6)),
        (dense(rng, 12, 9), dense(rng, 9, new.dim, relu=False)),
        uses_side=side is not None,
    )
    return Transformation(old, side, new, (step,), made_by or {"recipe": "test", "seed": seed})


def residuals(side=SIDE, seed=0):
    """Like `mlp`, with a residual in each branch and two in the mixer."""
    rng = np.random.default_rng(seed)

    def residual(dim):
        return Residual((dense(rng, dim, 3), dense(rng, 3, dim, relu=False)))

    second = OLD if side is None else side
    step = one_network(
        (residual(OLD.dim), dense(rng, OLD.dim, 6)),
        (dense(rng, second.dim, 6), residual(6)),
        (residual(12), residual(12), dense(rng, 12, NEW.dim, relu=False)),
        uses_side=side is not None,
    )
    return Transformation(OLD, side, NEW, (step,), {"recipe": "test", "seed": seed})


def short_cuts(side=SIDE, seed=0):
    """Like `mlp`, with a linear layer past it; two steps, the second without side-information."""
    rng = np.random.default_rng(seed)
    (first,) = mlp(side=side, seed=seed).steps
    fed = OLD.dim + (0 if side is None else side.dim)
    second = one_network((), (dense(rng, NEW.dim, 3),), (dense(rng, NEW.dim + 3, NEW.dim),), False)
    steps = (
        past(first, dense(rng, fed, NEW.dim, relu=False)),
        past(second, dense(rng, NEW.dim, NEW.dim, relu=False)),
    )
    return Transformation(OLD, side, NEW, steps, {"recipe": "test", "seed": seed})


def past(step, layer):
    """The step with a layer past all of its others, from what it is fed to what it gives."""
    return Step((*step.parts, Network((), (), (layer,), step.uses_side)))


def parallel(side=SIDE, networks=3):
    """The sum of several networks and a linear layer."""
    parts = [part for seed in range(networks) for part in mlp(side=side, seed=seed).steps[0].parts]
    (step,) = short_cuts(side).steps[:1]
    return Transformation(OLD, side, NEW, (Step((*parts, step.parts[1])),), {"recipe": "test"})


def inputs(items, side=SIDE, seed=1):
    rng = np.random.default_rng(seed)
    old = embeddings(rng, items, OLD)
    return (old,) if side is None else (old, embeddings(rng, items, side))


def assert_close(got, want):
    assert got.ids == want.ids
    assert got.space == want.space
    np.testing.assert_allclose(got.vectors, want.vectors, atol=1e-5 * np.abs(want.vectors).max())


# What it gives


def test_a_transformation_worked_by_hand():
    old, side, new = Space("o", 2), Space("s", 1), Space("n", 1)
    step = one_network(
        (layer([[1, -1]], [0.5], relu=True),),
        (layer([[2]], [1]),),
        (layer([[10, 1]], [-3]),),
        uses_side=True,
    )
    h = Transformation(old, side, new, (step,), {})
    items = Embeddings(("a", "b"), np.array([[3, 1], [1, 3]], np.float32), old)
    known = Embeddings(("a", "b"), np.array([[4], [-4]], np.float32), side)
    by_hand = [[10 * 2.5 + 9 - 3], [10 * 0 - 7 - 3]]
    np.testing.assert_array_equal(h.apply(items, known).vectors, by_hand)
    np.testing.assert_array_equal(h.apply_reference(items, known).vectors, by_hand)


def test_a_short_cut_worked_by_hand():
    old, side, new = Space("o", 2), Space("s", 1), Space("n", 1)
    mixer = (layer([[1, 1, 1]], [-2], relu=True),)
    step = past(one_network((), (), mixer, True), layer([[10, 20, 30]], [5]))
    h = Transformation(old, side, new, (step,), {})
    items = Embeddings(("a", "b"), np.array([[3, 1], [1, -3]], np.float32), old)
    known = Embeddings(("a", "b"), np.array([[4], [-4]], np.float32), side)
    by_hand = [[(3 + 1 + 4 - 2) + 30 + 20 + 120 + 5], [0 + 10 - 60 - 120 + 5]]
    np.testing.assert_array_equal(h.apply(items, known).vectors, by_hand)
    np.testing.assert_array_equal(h.apply_reference(items, known).vectors, by_hand)
    assert (h.parameters, h.macs) == (8, 6)


@pytest.mark.parametrize("side", [SIDE, None], ids=["side", "no-side"])
def test_a_step_gives_the_sum_of_what_its_parts_give(side):
    given = inputs(300, side)
    for h in (short_cuts(side), parallel(side)):
        assert_close(h.apply(*given), h.apply_reference(*given))
        apart = [replace(h, steps=(Step((part,)),)).apply(*given) for part in h.steps[0].parts]
        alone = replace(h, steps=h.steps[:1]).apply(*given)
        want = np.sum([one.vectors for one in apart], axis=0)
        np.testing.assert_allclose(alone.vectors, want, atol=1e-5)


def test_parts_are_fed_side_information_only_where_they_use_it():
    reads, ignores = mlp().steps[0].parts[0], mlp(side=None).steps[0].parts[0]
    h = Transformation(OLD, SIDE, NEW, (Step((ignores, reads)),))
    old, side = inputs(20)
    want = mlp(side=None).apply(old).vectors + mlp().apply(old, side).vectors
    np.testing.assert_allclose(h.apply(old, side).vectors, want, atol=1e-5)
    np.testing.assert_allclose(h.apply_reference(old, side).vectors, want, atol=1e-5)


def test_parallel_parts_cost_what_they_cost_apart():
    h, parts = parallel(networks=4), [mlp(seed=seed) for seed in range(4)]
    linear_map = (OLD.dim + SIDE.dim) * NEW.dim
    assert h.macs == sum(one.macs for one in parts) + linear_map
    assert h.parameters == sum(one.parameters for one in parts) + linear_map + NEW.dim


def test_parts_that_do_not_give_as_many_numbers_are_named():
    parts = parallel().steps[0].parts
    wrong = Network((), (), (layer(np.ones((3, 8)), np.ones(3)),), True)
    with pytest.raises(
        TransformationError,
        match=r"steps.0.sum.2 adds up vectors of 4 and of 3 numbers; give the last layers",
    ):
        Transformation(OLD, SIDE, NEW, (Step((*parts[:2], wrong)),), {})
    narrow = past(mlp().steps[0], layer(np.ones((4, 5)), np.ones(4)))
    with pytest.raises(TransformationError, match=r"layer steps\.0\.short_cut takes 5 .* is fed 8"):
        Transformation(OLD, SIDE, NEW, (narrow,), {})


def test_a_step_without_parts_is_refused():
    with pytest.raises(TransformationError, match="has no parts; give at least one network"):
        Step(())


def test_ids_and_labels_are_kept():
    old = embeddings(np.random.default_rng(0), 3, OLD, np.array([4, 0, 7]))
    new = mlp(side=None).apply(old)
    assert (new.ids, new.space) == (old.ids, NEW)
    np.testing.assert_array_equal(new.labels, [4, 0, 7])


def test_no_items_give_no_vectors():
    assert mlp().apply(*inputs(0)).vectors.shape == (0, 4)


@pytest.mark.parametrize("made", [mlp, residuals])
@pytest.mark.parametrize("side", [SIDE, None], ids=["side", "no-side"])
def test_onnxruntime_gives_what_the_numpy_reference_gives(side, made):
    h, given = made(side=side), inputs(300, side)
    assert_close(h.apply(*given), h.apply_reference(*given))


def test_onnxruntime_gives_what_the_numpy_reference_gives_at_the_papers_size():
    rng = np.random.default_rng(0)
    old, side, new = Space("o", 128), Space("s", 128), Space("n", 128)
    branch = [(dense(rng, 128, 256), dense(rng, 256, 256)) for _ in range(2)]
    mixer = (dense(rng, 512, 2048), dense(rng, 2048, 2048), dense(rng, 2048, 128, relu=False))
    h = Transformation(old, side, new, (one_network(*branch, mixer, uses_side=True),), {})
    given = embeddings(rng, 20, old), embeddings(rng, 20, side)
    assert_close(h.apply(*given), h.apply_reference(*given))
    assert 5.7e6 < h.macs < h.parameters < 5.72e6


def test_without_side_information_the_second_branch_is_fed_the_old_vector():
    branch = (layer(np.eye(5), np.zeros(5)),)
    mixer = (layer(np.hstack([np.eye(5), np.eye(5)]), np.zeros(5)),)
    h = Transformation(OLD, None, replace(NEW, dim=5), (one_network((), branch, mixer, False),), {})
    (old,) = inputs(3, side=None)
    np.testing.assert_array_equal(h.apply(old).vectors, 2 * old.vectors)
    np.testing.assert_array_equal(h.apply_reference(old).vectors, 2 * old.vectors)


@pytest.mark.parametrize("side", [SIDE, None], ids=["side", "no-side"])
def test_a_linear_transformation_is_a_matrix_on_old_and_side(side):
    old, *known = inputs(10, side)
    together = np.hstack([old.vectors, *(of.vectors for of in known)])
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, together.shape[1])), rng.normal(size=4)
    h = linear(OLD, side, NEW, weight, bias, made_by={"recipe": "ridge"})
    np.testing.assert_allclose(h.apply(old, *known).vectors, together @ weight.T + bias, atol=1e-5)


def test_a_step_without_layers_leaves_the_vectors_as_they_are():
    h = Transformation(OLD, None, replace(NEW, dim=5), (one_network((), (), (), False),), {})
    (old,) = inputs(3, side=None)
    np.testing.assert_array_equal(h.apply(old).vectors, old.vectors)


def test_a_residual_worked_by_hand():
    old, new = Space("o", 2), Space("n", 1)
    narrow = Residual((layer([[1, 1]], [-1], relu=True), layer([[2], [-3]], [0, 5])))
    h = Transformation(
        old, None, new, (one_network((), (), (narrow, layer([[1, 10]], [0])), False),), {}
    )
    items = Embeddings(("a", "b"), np.array([[3, 1], [-1, -3]], np.float32), old)
    by_hand = [[(3 + 2 * 3) + 10 * (1 - 3 * 3 + 5)], [-1 + 10 * (-3 + 5)]]
    np.testing.assert_array_equal(h.apply(items).vectors, by_hand)
    np.testing.assert_array_equal(h.apply_reference(items).vectors, by_hand)


# The same rows for any batching


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(old=DIMS, side=DIMS, new=DIMS, inner=st.integers(1, 300), data=st.data())
def test_rows_are_bitwise_the_same_in_any_order_and_any_batch(old, side, new, inner, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    step = one_network(
        (dense(rng, old, 2 * old),),
        (dense(rng, side, new),),
        (dense(rng, 2 * old + new, inner), dense(rng, inner, new, relu=False)),
        uses_side=True,
    )
    spaces = Space("o", old), Space("s", side), Space("n", new)
    h = Transformation(*spaces, (step,), {})
    items = 2 * BLOCK_ROWS + 37
    given = [embeddings(rng, items, space) for space in spaces[:2]]
    together = h.apply(*given).vectors

    def of(rows):
        return h.apply(*(each.select(rows) for each in given)).vectors

    order = rng.permutation(items)
    np.testing.assert_array_equal(of(order), together[order])
    cuts = sorted(data.draw(st.lists(st.integers(0, items), max_size=5)))
    apart = [of(rows) for rows in np.split(np.arange(items), cuts)]
    np.testing.assert_array_equal(np.concatenate(apart), together)
    row = data.draw(st.integers(0, items - 1))
    np.testing.assert_array_equal(of([row]), together[row : row + 1])


@pytest.mark.parametrize("items", [1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1])
def test_every_run_is_fed_a_block_of_the_same_size_whatever_the_processor(items):
    fed = []

    class Recorder:
        def run(self, outputs, inputs):
            fed.append(inputs["old"].shape)
            return [inputs["old"] + 1]

    old = np.arange(3.0 * items, dtype=np.float32).reshape(items, 3)
    new = run_in_blocks(Recorder(), {"old": old}, 3)
    np.testing.assert_array_equal(new, old + 1)
    assert fed == [(BLOCK_ROWS, 3)] * -(-items // BLOCK_ROWS)


def test_memory_beyond_the_output_does_not_grow_with_the_number_of_items():
    session, x = open_session(mlp(side=None).to_onnx()), np.ones((200_000, 5), np.float32)
    run_in_blocks(session, {"old": x[:1]}, 4)
    tracemalloc.start()
    new = run_in_blocks(session, {"old": x}, 4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - new.nbytes < 200_000 < x.nbytes


# What it refuses


@pytest.mark.parametrize(
    ("old", "side", "words"),
    [
        pytest.param(
            Space("v0@55555555", 5),
            SIDE,
            r"the old embeddings are in v0@55555555 \(5, l2\), but the transformation goes from "
            r"v1@11111111 \(5, l2\) to v2@33333333 \(4, l2\); give embeddings in v1@11111111 first",
            id="another",
        ),
        pytest.param(SIDE, OLD, "and side-information second", id="in-each-others-place"),
        pytest.param(NEW, SIDE, "upgraded already need nothing", id="wrong-way-round"),
        pytest.param(
            OLD,
            replace(SIDE, name="simclr@66666666"),
            r"given in simclr@66666666 .* was fitted with .* in s@22222222 .*; give the embeddings",
            id="another-side",
        ),
    ],
)
def test_embeddings_of_another_space_are_refused_with_both_names(old, side, words):
    rng = np.random.default_rng(0)
    with pytest.raises(SpaceMismatchError, match=words):
        mlp().apply(embeddings(rng, 2, old), embeddings(rng, 2, side))


def test_side_information_that_is_missing_or_not_wanted_is_refused():
    old, side = inputs(2)
    words = r"v1@11111111 -> v2@33333333 was fitted with side-information in s@22222222 \(3, l2\)"
    with pytest.raises(TransformationError, match=f"side-information is missing; .*{words}; give"):
        mlp().apply(old)
    with pytest.raises(TransformationError, match=r"given in s@2.*fitted without any; leave it ou"):
        mlp(side=None).apply(old, side)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([0, 1], "row 2 is item 'item-2' .* and nothing in .*, which are of 3 and 2 items; give"),
        ([0, 2, 1], "row 1 is item 'item-1' .* and 'item-2' in .*: side.align"),
        ([0, 1, 2, 3], "row 3 is item nothing .* and 'item-3' in .* of 3 and 4 items"),
    ],
    ids=["fewer", "in-another-order", "more"],
)
def test_side_information_of_other_items_names_the_first_row_that_differs(rows, words):
    old, side = inputs(4)
    with pytest.raises(TransformationError, match=words):
        mlp().apply(old.select([0, 1, 2]), side.select(rows))


def test_a_vector_that_comes_out_infinite_names_the_item():
    old, side = inputs(300)
    wild = old.vectors.copy()
    wild[280] = 3e38
    with pytest.raises(EmbeddingsError, match=r"vector of item 'item-280' \(row 280\) has NaN or"):
        mlp().apply(Embeddings(old.ids, wild, OLD), side)


@pytest.mark.parametrize(
    ("branch", "name"),
    [
        ("old_branch", "steps.0.old.1"),
        ("side_branch", "steps.0.side.1"),
        ("mixer", "steps.0.mixer.1"),
    ],
)
def test_layers_that_do_not_chain_are_named(branch, name):
    (network,) = mlp().steps[0].parts
    first, second = getattr(network, branch)
    broken = layer(np.zeros((second.weight.shape[0], 8)), second.bias, second.relu)
    with pytest.raises(TransformationError, match=f"layer {name} takes 8 numbers, but is fed"):
        Transformation(
            OLD, SIDE, NEW, (Step((replace(network, **{branch: (first, broken)}),)),), {}
        )


def test_a_mixer_that_does_not_fit_both_branches_is_named():
    step = Step((replace(mlp().steps[0].parts[0], side_branch=()),))
    with pytest.raises(
        TransformationError, match=r"steps\.0\.mixer\.0 takes 12 numbers, but is fed 9"
    ):
        Transformation(OLD, SIDE, NEW, (step,), {})


def test_a_residual_that_gives_another_dimension_than_it_is_fed_is_named():
    rng = np.random.default_rng(0)
    odd = Residual((dense(rng, 5, 3), dense(rng, 3, 4)))
    with pytest.raises(
        TransformationError, match=r"steps\.0\.old\.0 adds up vectors of 5 and of 4 numbers; give"
    ):
        Transformation(OLD, None, NEW, (one_network((odd,), (), (), False),), {})
    with pytest.raises(TransformationError, match=r"layer steps\.0\.old\.0\.inner\.0 takes 3 num"):
        Transformation(
            OLD, None, NEW, (one_network((Residual(odd.inner[1:]),), (), (), False),), {}
        )


def test_a_residual_without_layers_is_refused():
    with pytest.raises(TransformationError, match="no inner layers; give at least one"):
        Residual(())


def test_an_output_of_another_dimension_than_the_new_space_is_refused():
    with pytest.raises(TransformationError, match=r"give 4 numbers, but v2 \(9, l2\) has 9 dim"):
        Transformation(OLD, SIDE, Space("v2", 9), mlp().steps, {})


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_layer_that_is_not_finite_is_named(part, value):
    (network,) = mlp().steps[0].parts
    wild = getattr(network.mixer[1], part).copy()
    wild.flat[0] = value
    mixer = (network.mixer[0], replace(network.mixer[1], **{part: wild}))
    with pytest.raises(TransformationError, match=r"layer steps.0.mixer.1 holds NaN or infinite"):
        Transformation(OLD, SIDE, NEW, (Step((replace(network, mixer=mixer),)),), {})


def test_a_weight_and_a_bias_that_do_not_fit_are_refused():
    with pytest.raises(TransformationError, match=r"weight of shape \(2, 3\) and a bias of .*\(3,"):
        layer(np.zeros((2, 3)), np.zeros(3))


@pytest.mark.parametrize(
    ("side", "steps", "words"),
    [
        (SIDE, lambda: mlp(side=None).steps, "there is a space .* none does use it"),
        (None, lambda: mlp().steps, "there is no space .* one does use it"),
        (None, tuple, "has no steps; give at least one"),
    ],
    ids=["unused", "missing", "no-steps"],
)
def test_steps_that_do_not_fit_the_spaces_are_refused(side, steps, words):
    with pytest.raises(TransformationError, match=words):
        Transformation(OLD, side, NEW, steps(), {})


@pytest.mark.parametrize("value", [object(), float("nan")], ids=["object", "nan"])
def test_what_made_it_must_be_plain_values(value):
    with pytest.raises(TransformationError, match="made_by cannot be written as JSON"):
        mlp(made_by={"settings": value})


def test_arrays_given_to_a_layer_are_copied_and_read_only():
    weight = np.zeros((2, 3), np.float32)
    kept = layer(weight, [0, 0])
    weight[:] = 1
    assert not kept.weight.any()
    with pytest.raises(ValueError, match="read-only"):
        kept.weight[:] = 1


# On the disk


@pytest.mark.parametrize("side", [SIDE, None], ids=["side", "no-side"])
@pytest.mark.parametrize("made", [mlp, residuals, short_cuts, parallel])
def test_a_saved_transformation_is_read_back_the_same(tmp_path, made, side):
    h = made(side=side)
    h.save(tmp_path / "h")
    again = Transformation.load(tmp_path / "h")
    assert (again.old, again.side, again.new) == (h.old, h.side, h.new)
    assert (again.digest, again.to_json()) == (h.digest, h.to_json())
    given = inputs(20, side)
    np.testing.assert_array_equal(again.apply(*given).vectors, h.apply(*given).vectors)


def test_what_format_1_can_hold_is_written_in_it_with_the_digest_that_it_always_had(tmp_path):
    """An older program reads it, and galleries go on naming it by this digest."""
    begins = {"mlp": "d8fbf33b", "residuals": "859a5b2b", "short_cuts": "5d6d3f01"}
    for made in (mlp, residuals, short_cuts):
        made().save(tmp_path / "h")
        header = json.loads((tmp_path / "h" / "config.json").read_text())
        assert (header["format"], made().digest[:8]) == (1, begins[made.__name__])
    assert "short_cut" in short_cuts().to_json()["steps"][0]
    assert "short_cut" not in mlp().to_json()["steps"][0]
    assert "steps.0.short_cut.weight" in read_artifact(tmp_path / "h", "transformation").arrays


def test_parallel_networks_are_written_in_format_2(tmp_path):
    parallel().save(tmp_path / "h")
    artifact = read_artifact(tmp_path / "h", "transformation")
    assert artifact.format == 2
    assert [set(step) for step in artifact.config["steps"]] == [{"parts"}]
    assert "steps.0.parts.1.old.0.weight" in artifact.arrays
    assert parallel().digest != parallel(networks=2).digest


def test_out_of_fold_vectors_are_kept_with_a_transformation_and_are_no_part_of_its_digest(tmp_path):
    h = mlp()
    vectors = np.random.default_rng(1).normal(size=(3, h.new.dim)).astype(np.float32)
    unseen = Embeddings(("c", "a", "b"), vectors, h.new)
    knows = replace(h, out_of_fold=unseen)
    assert knows.digest == h.digest
    knows.save(tmp_path / "h")
    again = Transformation.load(tmp_path / "h")
    assert again.out_of_fold.ids == unseen.ids
    np.testing.assert_array_equal(again.out_of_fold.vectors, vectors)
    h.save(tmp_path / "without")
    assert Transformation.load(tmp_path / "without").out_of_fold is None
    with pytest.raises(SpaceMismatchError, match=r"the out-of-fold vectors are in .* leads to"):
        replace(h, out_of_fold=Embeddings(("a",), np.ones((1, 2), np.float32), Space("x", 2)))


def test_equal_transformations_are_saved_as_equal_bytes(tmp_path):
    mlp().save(tmp_path / "one")
    mlp().save(tmp_path / "two")
    Transformation.load(tmp_path / "one").save(tmp_path / "three")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(FILES)
    for name in FILES:
        saved = {(tmp_path / where / name).read_bytes() for where in ("one", "two", "three")}
        assert len(saved) == 1, name


def test_the_direction_stands_in_the_header_and_in_the_digest(tmp_path):
    square = replace(NEW, dim=5)
    there = linear(OLD, None, square, np.eye(5), np.zeros(5), made_by={})
    back = linear(square, None, OLD, np.eye(5), np.zeros(5), made_by={})
    assert there.digest != back.digest
    there.save(tmp_path / "h")
    header = json.loads((tmp_path / "h" / "config.json").read_text())
    assert header["config"]["direction"] == "v1@11111111 -> v2@33333333"


def test_the_digest_is_of_the_map_and_not_of_what_made_it():
    assert mlp(made_by={"a": 1}).digest == mlp(made_by={"a": 2}).digest
    assert mlp(seed=1).digest != mlp(seed=2).digest


def test_the_cards_example_runs_and_its_sizes_are_stated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    h, (old, side) = mlp(), inputs(5)
    h.save("TRANSFORMATION")
    old.save("old.parquet")
    side.save("side.parquet")
    card = (tmp_path / "TRANSFORMATION" / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {}
    exec(example, names)
    np.testing.assert_array_equal(names["new"].vectors, h.apply(old, side).vectors)
    for said in ("v1@11111111 (5, l2)", "s@22222222 (3, l2)", "| parameters | 323 |", h.digest):
        assert said in card


# The ONNX graph


@pytest.mark.parametrize("made", [mlp, parallel])
@pytest.mark.parametrize("side", [SIDE, None], ids=["side", "no-side"])
def test_the_graph_serves_any_number_of_rows_in_any_runtime(tmp_path, side, made):
    h, given = made(side=side), inputs(300, side)
    h.save(tmp_path / "h")
    session = onnxruntime.InferenceSession(tmp_path / "h" / "model.onnx")
    names = ["old", "side"][: len(given)]
    assert [of.name for of in session.get_inputs()] == names
    assert [of.shape for of in session.get_inputs()] == [["items", of.space.dim] for of in given]
    for rows in (1, 300):
        fed = {name: of.vectors[:rows] for name, of in zip(names, given, strict=True)}
        (new,) = session.run(["new"], fed)
        np.testing.assert_allclose(new, h.apply(*given).vectors[:rows], atol=1e-5)


def test_the_graph_names_its_spaces_and_its_opset():
    graph = onnx.load_from_string(mlp().to_onnx())
    assert [(of.domain, of.version) for of in graph.opset_import] == [("", 13)]
    said = {of.key: of.value for of in graph.metadata_props}
    assert said.pop("onward.digest") == mlp().digest
    spaces = {key: Space.from_json(json.loads(value)) for key, value in said.items()}
    assert spaces == {"onward.old": OLD, "onward.side": SIDE, "onward.new": NEW}


# Uncertainty


def unsure(h, weight=(1, -2, 0, 3), bias=0.5):
    middle = np.full(len(weight), 0.25, np.float32)
    return replace(h, uncertainty=Uncertainty(layer([weight], [bias]), middle))


def test_an_uncertainty_worked_by_hand():
    by_hand = Uncertainty(layer([[1, 2]], [0.5]), np.array([1, 0], np.float32))
    rows = np.array([[4, 4], [1, 1], [1, 0]], np.float32)  # 5, 1 and 0 from the middle
    want = [12.5 - np.log(25), 3.5, 1.5 - np.log(1e-12)]
    np.testing.assert_allclose(by_hand.of(rows), want, rtol=1e-6)
    assert not by_hand.middle.flags.writeable


def test_an_uncertainty_is_the_error_expected_as_a_share_of_the_distance_from_the_middle(tmp_path):
    h, given = unsure(mlp()), inputs(300)
    new = h.apply(*given).vectors
    want = new @ np.array([1, -2, 0, 3]) + 0.5 - np.log(((new - 0.25) ** 2).sum(axis=1))
    np.testing.assert_allclose(h.uncertainties(*given), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(h.apply(*given).vectors, mlp().apply(*given).vectors)
    assert (h.parameters, h.digest != mlp().digest) == (mlp().parameters + 9, True)
    h.save(tmp_path / "h")
    again = Transformation.load(tmp_path / "h")
    assert again.digest == h.digest
    np.testing.assert_array_equal(again.uncertainties(*given), h.uncertainties(*given))
    assert '"new" and "uncertainty"' in (tmp_path / "h" / "README.md").read_text()


@pytest.mark.parametrize("made", [mlp, parallel])
def test_the_graph_gives_the_uncertainty_as_a_second_output(made):
    h, (old, side) = unsure(made()), inputs(20)
    session = onnxruntime.InferenceSession(h.to_onnx(), providers=["CPUExecutionProvider"])
    given = {"old": old.vectors, "side": side.vectors}
    new, found = session.run(["new", "uncertainty"], given)
    np.testing.assert_allclose(new, h.apply(old, side).vectors, atol=1e-5)
    np.testing.assert_allclose(found[:, 0], h.uncertainties(old, side), rtol=1e-4, atol=1e-4)


def test_a_composed_transformation_is_as_unsure_as_its_second():
    first, second = mlp(), unsure(mlp(NEW, None, NEWEST, seed=5), (1, 0, 0, 0, 0, 2))
    given = inputs(30)
    want = second.uncertainties(first.apply(*given))
    np.testing.assert_array_equal(compose(first, second).uncertainties(*given), want)


def test_uncertainties_that_were_not_fitted_are_asked_for():
    with pytest.raises(TransformationError, match=r"without uncertainties; .*uncertainty=True"):
        mlp().uncertainties(*inputs(3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((layer(np.ones((2, 4)), np.ones(2)), 4), r"weight of shape \(2, 4\), .* of \(1, 4\)"),
        (
            (layer(np.ones((1, 4)), np.ones(1)), 3),
            r"middle of shape \(3,\), and relu",
        ),
        ((layer(np.ones((1, 3)), np.ones(1)), 3), r"of vectors of 3 numbers, .* has 4 dimensions"),
        ((layer(np.ones((1, 4)), np.ones(1), relu=True), 4), "relu is True"),
        ((layer(np.full((1, 4), np.nan), np.ones(1)), 4), "uncertainty holds NaN"),
    ],
    ids=["two", "middle", "dim", "relu", "nan"],
)
def test_an_uncertainty_that_cannot_be_is_refused(wrong, message):
    of, dim = wrong
    with pytest.raises(TransformationError, match=message):
        replace(mlp(), uncertainty=Uncertainty(of, np.zeros(dim, np.float32)))


# The mean


@pytest.mark.parametrize("side", [SIDE, None], ids=["side", "no-side"])
def test_the_mean_of_transformations_gives_the_mean_of_what_they_give(side, tmp_path):
    weight = np.random.default_rng(9).normal(size=(NEW.dim, OLD.dim + (SIDE.dim if side else 0)))
    ridge = linear(OLD, side, NEW, weight, np.ones(NEW.dim), made_by={})
    both = mean([unsure(mlp(side=side, seed=0)), mlp(side=side, seed=1)])
    given = inputs(300, side)
    want = (mlp(side=side).apply(*given).vectors + mlp(side=side, seed=1).apply(*given).vectors) / 2
    np.testing.assert_allclose(both.apply(*given).vectors, want, atol=1e-5)
    assert both.uncertainty is None
    all_three = mean([both, ridge])
    want = (want + ridge.apply(*given).vectors) / 2
    np.testing.assert_allclose(all_three.apply(*given).vectors, want, atol=1e-5)
    assert len(all_three.steps[0].parts) == 3
    all_three.save(tmp_path / "h")
    again = Transformation.load(tmp_path / "h").apply(*given).vectors
    np.testing.assert_array_equal(again, all_three.apply(*given).vectors)


def test_a_mean_over_two_spaces_is_refused():
    with pytest.raises(
        SpaceMismatchError, match=r"mean .* of v1@.* -> v2@.* and v2@.* -> v3@.*same"
    ):
        mean([mlp(), mlp(NEW, SIDE, NEWEST)])


def test_a_mean_of_what_has_no_last_weights_to_divide_is_refused():
    composed = compose(mlp(), mlp(NEW, SIDE, replace(NEWEST, name="x")))
    ends_in_relu = Transformation(
        OLD,
        None,
        NEW,
        (one_network((), (), (layer(np.ones((4, 5)), np.ones(4), relu=True),), False),),
    )
    for one in (composed, ends_in_relu):
        with pytest.raises(TransformationError, match=r"divides the last layer .* ridge and mlp"):
            mean([one])
    with pytest.raises(TransformationError, match="mean of no transformations"):
        mean([])


# Composition


@pytest.mark.parametrize(
    ("first_side", "second_side"),
    [(SIDE, SIDE), (SIDE, None), (None, SIDE), (None, None)],
    ids=["both", "first", "second", "none"],
)
def test_a_composed_transformation_gives_what_one_after_the_other_gives(first_side, second_side):
    first, second = mlp(side=first_side), mlp(NEW, second_side, NEWEST, seed=5)
    old, side = inputs(300)
    step = first.apply(old, *([side] if first_side else []))
    want = second.apply(step, *([side] if second_side else []))
    both = compose(first, second)
    got = both.apply(old, *([side] if both.side else []))
    assert (both.old, both.new, got.space) == (OLD, NEWEST, NEWEST)
    np.testing.assert_array_equal(got.vectors, want.vectors)


def test_a_composed_transformation_is_saved_with_both_of_its_makers(tmp_path):
    first, second = mlp(), mlp(NEW, SIDE, NEWEST, seed=5)
    compose(first, second).save(tmp_path / "h")
    again = Transformation.load(tmp_path / "h")
    given = inputs(3)
    assert_close(again.apply(*given), compose(first, second).apply_reference(*given))
    assert [part["made_by"]["seed"] for part in again.made_by["parts"]] == [0, 5]
    assert [part["digest"] for part in again.made_by["parts"]] == [first.digest, second.digest]


def test_transformations_that_do_not_meet_are_not_composed():
    with pytest.raises(
        SpaceMismatchError, match=r"first .* ends in v2@33333333 .* second starts from v1@11111111"
    ):
        compose(mlp(), mlp())


def test_transformations_with_different_side_information_are_not_composed():
    other = replace(SIDE, name="layers@77777777")
    with pytest.raises(SpaceMismatchError, match=r"s@22222222 .* layers@77777777 .* one only"):
        compose(mlp(), mlp(NEW, other, NEWEST))


# What it says


def test_a_transformation_prints_itself_on_a_line():
    text = str(mlp())
    assert text.startswith(f"transformation {mlp().digest[:8]}: v1@11111111 (5, l2) -> v2@33333333")
    assert text.endswith("323 parameters, 1,292 bytes, 284 MACs an item")
    assert "no side-information" in str(mlp(side=None))


def test_a_transformation_gives_plain_json():
    said = json.loads(json.dumps(mlp().to_json()))
    assert said["side"] == {"name": "s@22222222", "dim": 3, "metric": "l2"}
    assert (said["parameters"], said["bytes"], said["macs"]) == (323, 1292, 284)
    assert said["steps"][0]["mixer"][1] == {"in": 9, "out": 4, "relu": False}


def test_importing_and_making_one_loads_neither_torch_nor_onnx():
    code = """
import sys
import numpy as np
from onward.spaces import Space
from onward.transformation import linear
h = linear(Space("a", 2), None, Space("b", 2), np.eye(2), np.zeros(2), made_by={})
str(h), h.to_json()
print([name for name in ("torch", "onnx", "onnxruntime", "pyarrow") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
