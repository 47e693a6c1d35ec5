"""Ridge regression, the plainest transformation: best where pairs are few."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from onward.dense import Dense, Network, Step
from onward.training.pairs import Examples
from onward.transformation import Transformation

Matrix = Float64[np.ndarray, "out in"]
Gram = Float64[np.ndarray, "new new"]
Basis = Float64[np.ndarray, "new direction"]


def fit_ridge(
    examples: Examples, penalties: Sequence[float], *, rank: int | None = None
) -> Iterator[tuple[dict[str, Any], Transformation]]:
    """Yield the linear map of each penalty, with what describes it.

    `W = argmin mean w ||y - W x||^2 + penalty ||W||^2` over centred targets y and standardised
    inputs x = [old, side] with weights w, in closed form and float64: one eigendecomposition serves
    all penalties.

    Args:
        rank: the minimum is taken over W of at most this rank. It is `V V^T W` with the W above,
            where V holds the first eigenvectors of `W (C + penalty) W^T` and C is the inputs'
            covariance; stored as two layers. None means any rank.

    References:
        Mukherjee and Zhu, Reduced rank ridge regression and its kernel extensions, 2011.
    """
    inputs = np.concatenate(list(examples.inputs.values()), axis=1).astype(np.float64)
    targets = examples.targets.astype(np.float64)
    share = examples.weights / examples.weights.sum()
    mean, middle = share @ inputs, share @ targets
    inputs -= mean
    deviation = np.sqrt(share @ inputs**2)
    # What never changes is no input; its deviation is what rounding left of it.
    moves = deviation > 1e-9 * np.abs(mean)
    scale = np.where(moves, deviation, 1.0)
    inputs = inputs / scale * moves
    weighted = inputs * share[:, None]
    values, vectors = np.linalg.eigh(weighted.T @ inputs)
    projected = vectors.T @ (weighted.T @ (targets - middle))
    spaces = examples.old, examples.side, examples.new
    for penalty in penalties:
        shrunk = projected / (np.maximum(values, 0) + penalty)[:, None]
        weight = (vectors @ shrunk).T / scale
        described: dict[str, Any] = {"method": "ridge", "penalty": penalty}
        layers = [_layer(weight, middle - weight @ mean)]
        if rank is not None:
            basis = _first_directions(projected.T @ shrunk, rank)
            described = {"method": "low-rank", "penalty": penalty, "rank": basis.shape[1]}
            narrow = basis.T @ weight
            layers = [_layer(narrow, -narrow @ mean), _layer(basis, middle)]
        part = Network((), (), tuple(layers), uses_side=examples.side is not None)
        yield described, Transformation(*spaces, (Step((part,)),), described)


def _first_directions(gram: Gram, rank: int) -> Basis:
    """Return the eigenvectors of the largest eigenvalues as columns."""
    _, vectors = np.linalg.eigh((gram + gram.T) / 2)
    return vectors[:, ::-1][:, :rank]


def _layer(weight: Matrix, bias: Float64[np.ndarray, " out"]) -> Dense:
    return Dense(weight.astype(np.float32), bias.astype(np.float32), relu=False)
