"""The networks that a transformation is trained as, as torch modules, and how they are folded.

Here h is what is trained; folded, it is the frozen `onward.transformation.Network` that is stored
and applied. Nothing here knows how h is trained or what its spaces are called.

References:
    Ramanujan et al., Forward Compatible Training for Large-Scale Embedding Retrieval Systems,
    CVPR 2022, arXiv 2112.02805.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from onward.transformation import Dense, Network

OldVectors = Float[Tensor, "item old"]
SideVectors = Float[Tensor, "item side"]
NewVectors = Float[Tensor, "item new"]


class Foldable(nn.Module, ABC):
    """A network h(old, side) that can be frozen."""

    @abstractmethod
    def fold(self) -> Network:
        """Return what it computes in eval mode as dense layers, BatchNorm folded into them."""


class FCTTransformation(Foldable):
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
        self.old_branch = nn.Sequential(*chain(old_dim, 2 * old_dim, 2 * new_dim))
        self.side_branch = nn.Sequential(*chain(aside, 2 * aside, 2 * new_dim))
        self.mixer = nn.Sequential(
            *chain(4 * new_dim, inner, inner), nn.Linear(inner, new_dim, bias=True)
        )

    def forward(self, old: OldVectors, side: SideVectors | None = None) -> NewVectors:
        """Return the new vectors; side-information is given if and only if it has a dimension."""
        aside = old if side is None else side
        branches = torch.cat([self.old_branch(old), self.side_branch(aside)], dim=1)
        new: NewVectors = self.mixer(branches)
        return new

    def fold(self) -> Network:
        """Return what it computes in eval mode as dense layers, BatchNorm folded into them."""
        return Network(
            old_branch=tuple(dense_layers(self.old_branch)),
            side_branch=tuple(dense_layers(self.side_branch)),
            mixer=tuple(dense_layers(self.mixer)),
            uses_side=self.uses_side,
        )


def chain(*dims: int) -> Iterator[nn.Module]:
    """Give layers through these dimensions: each linear without bias, BatchNorm, ReLU."""
    for before, after in pairwise(dims):
        yield from (nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU())


def dense_layers(modules: Iterable[nn.Module]) -> Iterator[Dense]:
    """Read what `chain` made, where the last layer may lack what follows; fold in float64."""
    rest = iter(modules)
    for linear, norm, relu in zip_longest(rest, rest, rest):
        weight = _array(linear.weight)
        if norm is None:
            yield as_dense(weight, _array(linear.bias), relu=False)
            continue
        scale = _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)
        bias = _array(norm.bias) - _array(norm.running_mean) * scale
        yield as_dense(weight * scale[:, None], bias, relu=relu is not None)


def as_dense(weight: np.ndarray, bias: np.ndarray, *, relu: bool) -> Dense:
    """Return a layer of what was computed in float64."""
    return Dense(weight.astype(np.float32), bias.astype(np.float32), relu)


def _array(parameter: Any) -> np.ndarray:
    array: np.ndarray = parameter.detach().cpu().double().numpy()
    return array
