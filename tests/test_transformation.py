import numpy as np

from onward.spaces import Embeddings, Space
from onward.transformation import Dense, Step, Transformation

OLD, SIDE, NEW = Space("v1@11111111", 5), Space("s@22222222", 3), Space("v2@33333333", 4)


def dense(rng, into, out, relu=True):
    weight = rng.normal(size=(out, into)) / np.sqrt(into)
    return Dense(weight.astype(np.float32), rng.normal(size=out).astype(np.float32), relu)


def embeddings(rng, items, space):
    ids = tuple(f"item-{row}" for row in range(items))
    return Embeddings(ids, rng.normal(size=(items, space.dim)).astype(np.float32), space)


def mlp(seed=0, old=OLD, side=SIDE, new=NEW, made_by=None):
    rng = np.random.default_rng(seed)
    second = old if side is None else side
    step = Step(
        (dense(rng, old.dim, 7), dense(rng, 7, 6)),
        (dense(rng, second.dim, 7), dense(rng, 7, 6)),
        (dense(rng, 12, 9), dense(rng, 9, new.dim, relu=False)),
        uses_side=side is not None,
    )
    return Transformation(old, side, new, (step,), made_by or {})


def test_onnxruntime_gives_what_the_numpy_reference_gives():
    rng = np.random.default_rng(1)
    old, side = embeddings(rng, 300, OLD), embeddings(rng, 300, SIDE)
    got, want = mlp().apply(old, side), mlp().apply_reference(old, side)
    assert got.ids == old.ids
    assert got.space == NEW
    np.testing.assert_allclose(got.vectors, want.vectors, atol=1e-5 * np.abs(want.vectors).max())


def test_a_saved_transformation_is_read_back_the_same(tmp_path):
    mlp().save(tmp_path / "h")
    assert Transformation.load(tmp_path / "h").digest == mlp().digest
