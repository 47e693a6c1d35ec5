"""The networks that a transformation is trained as, as torch modules, and how they are folded.

Here h is what is trained; folded, it is the frozen `onward.transformation.Network` that is stored
and applied. Nothing here knows how h is trained or what its spaces are called.

References:
    Ramanujan et al., Forward Compatible Training for Large-Scale Embedding Retrieval Systems,
    CVPR 2022, arXiv 2112.02805.
    Wang et al., Unified Representation Learning for Cross Model Compatibility, BMVC 2020,
    arXiv 2008.04821.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise, zip_longest
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from onward.errors import TransformationError
from onward.transformation import Dense, Network, Residual

OldVectors = Float[Tensor, "item old"]
SideVectors = Float[Tensor, "item side"]
InputStatistic = Float[Tensor, " old_and_side"]
NewVectors = Float[Tensor, "item new"]

RBT_BLOCKS = 4
RBT_WIDTH = 16


class FCTTransformation(nn.Module):
    """Two branches, one for the old embedding and one for the side-information, and a mixer.

    ```
    old:   do -> 2do -> 2dn        each arrow: linear without bias, BatchNorm, ReLU
    side:  ds -> 2ds -> 2dn
    mixer: 4dn -> inner -> inner   the same;  inner -> dn  linear with bias, nothing after
    ```

    Without side-information the side branch is fed the old embedding too, so that what is gained
    by side-information is not gained by capacity. With 128 dimensions everywhere and an inner
    width of 2048 it has 5.71 M parameters.

    Args:
        old_dim: dimensions of the old embedding.
        side_dim: dimensions of the side-information; `None` without any.
        new_dim: dimensions of the new embedding.
        inner: width of the mixer.
    """

    def __init__(self, old_dim: int, side_dim: int | None, new_dim: int, inner: int = 2048) -> None:
        super().__init__()
        self.uses_side = side_dim is not None
        aside = old_dim if side_dim is None else side_dim
        self.old_branch = nn.Sequential(*_chain(old_dim, 2 * old_dim, 2 * new_dim))
        self.side_branch = nn.Sequential(*_chain(aside, 2 * aside, 2 * new_dim))
        self.mixer = nn.Sequential(
            *_chain(4 * new_dim, inner, inner), nn.Linear(inner, new_dim, bias=True)
        )

    def forward(self, old: OldVectors, side: SideVectors | None = None) -> NewVectors:
        """Return the new vectors.

        Raises:
            TransformationError: if side-information is missing or not wanted.
        """
        _check_side_wanted(side, uses_side=self.uses_side)
        aside = old if side is None else side
        branches = torch.cat([self.old_branch(old), self.side_branch(aside)], dim=1)
        new: NewVectors = self.mixer(branches)
        return new


class ResidualBottleneck(nn.Module):
    """Residual bottleneck transformation (RBT): a linear map after four narrow corrections.

    ```
    x = ([old, side] - middle) / spread
    x = x + block(x), four times;   block: d -> 16 -> 16 -> d
    d -> dn   linear with bias, nothing after
    ```

    In a block each arrow is linear without bias and BatchNorm; ReLU follows the first two only, for
    a correction may go either way. At first every block gives zero, and the whole is linear.

    Args:
        middle: the mean of the old embedding, then that of the side-information if there is any.
        spread: what their distances from it are divided by, all above 0.
        new_dim: dimensions of the new embedding.
        uses_side: whether there is side-information.
    """

    middle: Tensor
    spread: Tensor

    def __init__(
        self, middle: InputStatistic, spread: InputStatistic, new_dim: int, *, uses_side: bool
    ) -> None:
        super().__init__()
        self.uses_side = uses_side
        self.register_buffer("middle", middle)
        self.register_buffer("spread", spread)
        dim = len(middle)
        self.blocks = nn.ModuleList(_bottleneck(dim) for _ in range(RBT_BLOCKS))
        self.last = nn.Linear(dim, new_dim)

    def forward(self, old: OldVectors, side: SideVectors | None = None) -> NewVectors:
        """Return the new vectors.

        Raises:
            TransformationError: if side-information is missing or not wanted.
        """
        _check_side_wanted(side, uses_side=self.uses_side)
        given = old if side is None else torch.cat([old, side], dim=1)
        x = (given - self.middle) / self.spread
        for block in self.blocks:
            x = x + block(x)
        new: NewVectors = self.last(x)
        return new


def fold(module: FCTTransformation | ResidualBottleneck) -> Network:
    """Return what the module computes in eval mode as dense layers, BatchNorm folded into them."""
    if isinstance(module, ResidualBottleneck):
        return _fold_bottlenecks(module)
    return Network(
        old_branch=tuple(_dense_layers(module.old_branch)),
        side_branch=tuple(_dense_layers(module.side_branch)),
        mixer=tuple(_dense_layers(module.mixer)),
        uses_side=module.uses_side,
    )


def _fold_bottlenecks(module: ResidualBottleneck) -> Network:
    """Undo the standardisation of x, so that the blocks correct the given vectors themselves.

    `middle + spread * (x + block(x)) = given + spread * block((given - middle) / spread)`
    """
    middle, spread = _array(module.middle), _array(module.spread)

    def standardised(layer: Dense) -> Dense:
        weight = layer.weight / spread
        return _dense(weight, layer.bias - weight @ middle, relu=layer.relu)

    layers: list[Residual | Dense] = []
    for block in module.blocks:
        first, second, third = _dense_layers(cast(nn.Sequential, block))
        back = _dense(third.weight * spread[:, None], third.bias * spread, relu=False)
        layers.append(Residual((standardised(first), second, back)))
    layers.append(standardised(*_dense_layers([module.last])))
    return Network((), (), tuple(layers), module.uses_side)


def _check_side_wanted(side: Tensor | None, *, uses_side: bool) -> None:
    if (side is not None) != uses_side:
        raise TransformationError(
            "this transformation was built with side-information; give it too"
            if uses_side
            else "this transformation was built without side-information; leave it out"
        )


def _bottleneck(dim: int) -> nn.Sequential:
    *layers, last, _ = _chain(dim, RBT_WIDTH, RBT_WIDTH, dim)
    nn.init.zeros_(cast(nn.BatchNorm1d, last).weight)
    return nn.Sequential(*layers, last)


def _chain(*dims: int) -> Iterator[nn.Module]:
    for before, after in pairwise(dims):
        yield from (nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU())


def _dense_layers(modules: Iterable[nn.Module]) -> Iterator[Dense]:
    """Read what `_chain` made, where the last layer may lack what follows; fold in float64."""
    rest = iter(modules)
    for linear, norm, relu in zip_longest(rest, rest, rest):
        weight = _array(linear.weight)
        if norm is None:
            yield _dense(weight, _array(linear.bias), relu=False)
            continue
        scale = _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)
        bias = _array(norm.bias) - _array(norm.running_mean) * scale
        yield _dense(weight * scale[:, None], bias, relu=relu is not None)


def _dense(weight: np.ndarray, bias: np.ndarray, *, relu: bool) -> Dense:
    return Dense(weight.astype(np.float32), bias.astype(np.float32), relu)


def _array(parameter: Any) -> np.ndarray:
    array: np.ndarray = parameter.detach().cpu().double().numpy()
    return array
