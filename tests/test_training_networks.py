import numpy as np
import pytest
import torch

from onward.experiments.baselines import ResidualBottleneck
from onward.spaces import Embeddings, Space
from onward.training.fit.networks import FCTTransformation
from onward.transformation import Step, Transformation


def fct(side_dim):
    return FCTTransformation(old_dim=6, side_dim=side_dim, new_dim=4, inner=16)


def rbt(side_dim):
    dim = 6 + (side_dim or 0)
    middle, spread = torch.linspace(-2, 3, dim), torch.linspace(0.5, 4, dim)
    return ResidualBottleneck(middle, spread, 4, uses_side=side_dim is not None)


def trained(side_dim=5, steps=20, build=fct):
    """A small h after some steps, so that no BatchNorm is at its beginning."""
    torch.manual_seed(0)
    h = build(side_dim)
    optimizer = torch.optim.Adam(h.parameters(), 1e-2)
    for _ in range(steps):
        old = 3 * torch.randn(32, 6) + 1
        side = None if side_dim is None else torch.randn(32, side_dim)
        loss = (h(old, side) - old[:, :4] ** 2).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return h.eval()


def arrays(side_dim=5, items=50):
    generator = np.random.default_rng(1)
    old = generator.normal(1, 3, (items, 6)).astype(np.float32)
    return old, generator.normal(size=(items, side_dim)).astype(np.float32)


def test_the_paper_s_transformation_has_5_71_million_parameters():
    h = FCTTransformation(128, 128, 128, inner=2048)
    assert sum(parameter.numel() for parameter in h.parameters()) == 5_712_000
    assert sum(p.numel() for p in FCTTransformation(128, None, 128).parameters()) == 5_712_000


def test_the_layers_are_the_method_s():
    h = FCTTransformation(old_dim=3, side_dim=5, new_dim=7, inner=11)
    shapes = {
        name: [tuple(m.weight.shape) for m in branch if isinstance(m, torch.nn.Linear)]
        for name, branch in h.named_children()
    }
    assert shapes == {
        "old_branch": [(6, 3), (14, 6)],
        "side_branch": [(10, 5), (14, 10)],
        "mixer": [(11, 28), (11, 11), (7, 11)],
    }
    kinds = [type(module).__name__ for module in h.mixer]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [m.bias is not None for m in h.mixer if isinstance(m, torch.nn.Linear)] == [0, 0, 1]


def test_the_residual_bottleneck_is_four_narrow_corrections_and_a_linear_map():
    h = ResidualBottleneck(torch.zeros(9), torch.ones(9), 7, uses_side=True)
    assert len(h.blocks) == 4
    for block in h.blocks:
        kinds = [type(module).__name__ for module in block]
        assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
        shapes = [tuple(m.weight.shape) for m in block if isinstance(m, torch.nn.Linear)]
        assert shapes == [(16, 9), (16, 16), (9, 16)]
    assert (h.last.weight.shape, len(h.last.bias)) == ((7, 9), 7)


def test_the_residual_bottleneck_begins_linear():
    h = rbt(5).eval()
    old, side = map(torch.from_numpy, arrays())
    given = (torch.cat([old, side], dim=1) - h.middle) / h.spread
    with torch.inference_mode():
        torch.testing.assert_close(h(old, side), h.last(given))


@pytest.mark.parametrize("build", [fct, rbt])
@pytest.mark.parametrize("side_dim", [5, None])
def test_folded_equals_the_module_in_eval_mode(side_dim, build):
    h = trained(side_dim, build=build)
    old, side = arrays()
    used = None if side_dim is None else side
    with torch.inference_mode():
        expected = h(
            torch.from_numpy(old), None if used is None else torch.from_numpy(used)
        ).numpy()
    ids = tuple(str(row) for row in range(len(old)))
    spaces = Space("old", 6), None if side_dim is None else Space("side", 5), Space("new", 4)
    transformation = Transformation(*spaces, (Step((h.fold(),)),))
    aside = None if used is None else Embeddings(ids, used, spaces[1])
    carried = transformation.apply(Embeddings(ids, old, spaces[0]), aside).vectors
    reference = transformation.apply_reference(Embeddings(ids, old, spaces[0]), aside).vectors
    np.testing.assert_allclose(carried, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(reference, expected, rtol=1e-5, atol=1e-5)


def test_folding_one_layer_worked_by_hand():
    h = FCTTransformation(1, None, 1, inner=1).eval()
    linear, norm = h.old_branch[0], h.old_branch[1]
    linear.weight.data[0] = 3.0
    norm.weight.data[0], norm.bias.data[0] = 2.0, 0.5
    norm.running_mean[0], norm.running_var[0] = 1.0, 4.0 - norm.eps
    layer = h.fold().old_branch[0]
    assert layer.weight[0, 0] == pytest.approx(3 * 2 / 2)  # weight * gamma / deviation
    assert layer.bias[0] == pytest.approx(0.5 - 1 * 2 / 2)  # beta - mean * gamma / deviation
    assert layer.relu


def test_without_side_information_the_side_branch_is_fed_the_old_vector():
    h = trained(side_dim=None)
    old = torch.from_numpy(arrays()[0])
    with torch.inference_mode():
        both = torch.cat([h.old_branch(old), h.side_branch(old)], dim=1)
        torch.testing.assert_close(h(old), h.mixer(both))


@pytest.mark.parametrize("build", [fct, rbt])
def test_the_side_branch_is_wired(build):
    h = trained(build=build)
    old, side = map(torch.from_numpy, arrays())
    with torch.inference_mode():
        assert not torch.allclose(h(old, side), h(old, side + 1))
