from dataclasses import replace

import numpy as np
import pytest
from test_training_transformations import CPU, world

from onward.experiments.baselines import fit_residual_bottleneck, low_rank
from onward.training.fit.closed_forms import solve_ridge
from onward.training.fit.pairs import Examples, Pairs
from onward.training.settings import FitSettings
from onward.transformation import Transformation

QUICK = FitSettings(method="mlp", epochs=20, batch_size=64, least_steps=0)


def rbt(old, side, new, **changes):
    settings = QUICK.model_copy(update=changes)
    examples = Examples.of(Pairs(old, side, new))
    return fit_residual_bottleneck(examples, settings, seed=0, run=CPU)


def ridge_and_low_rank(rank, penalty=0.1):
    examples = Examples.of(Pairs(*world()))
    ridge = solve_ridge(examples)({"method": "ridge", "penalty": penalty})
    return ridge, low_rank(ridge, examples, rank)


@pytest.mark.parametrize("rank", [8, 64])
def test_low_rank_of_full_rank_is_ridge(rank):
    ridge, low = ridge_and_low_rank(rank)
    old, side, _ = world()
    np.testing.assert_allclose(
        low.apply(old, side).vectors, ridge.apply(old, side).vectors, atol=1e-5
    )
    assert (low.made_by["method"], low.made_by["rank"]) == ("low-rank", 8)
    assert low.made_by["penalty"] == ridge.made_by["penalty"]


def test_low_rank_has_the_least_penalised_error_among_maps_of_its_rank():
    """Worse: what is nearest to ridge among maps of that rank, and ridge cut down at random."""
    old, side, new = world()
    x = np.concatenate([old.vectors, side.vectors], axis=1).astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    x = (x - mean) / deviation
    y = new.vectors - new.vectors.mean(axis=0)

    def loss(weight):
        on_standardised = weight * deviation
        return ((y - x @ on_standardised.T) ** 2).sum() / 400 + 0.1 * (on_standardised**2).sum()

    ridge, low = ridge_and_low_rank(2)
    narrow, wide = (layer.weight.astype(np.float64) for layer in low.steps[0].parts[0].mixer)
    assert (narrow.shape, wide.shape) == ((2, 11), (8, 2))
    full = ridge.steps[0].parts[0].mixer[0].weight.astype(np.float64)
    assert loss(full) < loss(wide @ narrow)
    left, size, right = np.linalg.svd(full)
    others = [left[:, :2] * size[:2] @ right[:2]]
    for seed in range(20):
        basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 2)))[0]
        others.append(basis @ basis.T @ full)
    assert loss(wide @ narrow) < min(map(loss, others))


def test_a_rank_of_one_is_small():
    _, low = ridge_and_low_rank(1)
    assert low.parameters == (11 + 1) + (8 + 8)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_residual_bottleneck_and_another_seed_another():
    examples, settings = Examples.of(Pairs(*world())), QUICK.model_copy(update={"epochs": 4})
    first, again, other = (
        fit_residual_bottleneck(examples, settings, seed=seed, run=CPU) for seed in (0, 0, 1)
    )
    assert first.digest == again.digest != other.digest


@pytest.mark.slow
@pytest.mark.parametrize("with_side", [True, False], ids=["side", "no-side"])
def test_the_residual_bottleneck_learns(with_side, tmp_path):
    old, side, new = world()
    aside = side if with_side else None
    h = rbt(old, aside, new, epochs=25, lr=5e-3)
    assert h.made_by["method"] == "rbt"
    kinds = [type(layer).__name__ for layer in h.steps[0].parts[0].mixer]
    assert kinds == ["Residual"] * 4 + ["Dense"]
    constant = float(np.mean((new.vectors - new.vectors.mean(axis=0)) ** 2))
    error = float(np.mean((h.apply(old, aside).vectors - new.vectors) ** 2))
    assert error < (0.15 if with_side else 0.75) * constant
    reference = h.apply_reference(old, aside).vectors
    np.testing.assert_allclose(h.apply(old, aside).vectors, reference, atol=1e-5)
    h.save(tmp_path / "h")
    again = Transformation.load(tmp_path / "h")
    np.testing.assert_array_equal(again.apply(old, aside).vectors, h.apply(old, aside).vectors)


def test_the_residual_bottleneck_does_not_mind_where_its_inputs_lie():
    old, _, new = world()
    moved = replace(old, vectors=50 * old.vectors - 300)
    here, there = (
        np.mean((rbt(each, None, new, epochs=5).apply(each).vectors - new.vectors) ** 2)
        for each in (old, moved)
    )
    assert there == pytest.approx(here, rel=0.05)


def test_the_residual_bottleneck_bears_side_information_that_never_changes():
    old, side, new = world()
    still = replace(side, vectors=np.full_like(side.vectors, 3.0))
    h = rbt(old, still, new, epochs=2)
    assert np.isfinite(h.apply(old, still).vectors).all()
