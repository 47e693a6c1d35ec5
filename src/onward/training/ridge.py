"""Ridge regression, the plainest transformation: best where pairs are few."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from onward.dense import Dense, Step
from onward.training.pairs import Pairs
from onward.training.timetable import Rows
from onward.transformation import Transformation

Matrix = Float64[np.ndarray, "out in"]
Gram = Float64[np.ndarray, "new new"]
Basis = Float64[np.ndarray, "new direction"]


def fit_ridge(
    pairs: Pairs, rows: Rows, penalties: Sequence[float], *, rank: int | None = None
) -> Iterator[tuple[dict[str, Any], Transformation]]:
    """Yield the linear map of each penalty, fitted on some of the pairs, with what describes it.

    `W = argmin mean ||y - W x||^2 + penalty ||W||^2` over centred targets y and standardised
    inputs x = [old, side], in closed form and float64: one eigendecomposition serves all penalties.

    Args:
        rank: the minimum is taken over W of at most this rank. It is `V V^T W` with the W above,
            where V holds the first eigenvectors of `W (C + penalty) W^T` and C is the inputs'
            covariance; stored as two layers. None means any rank.

    References:
        Mukherjee and Zhu, Reduced rank ridge regression and its kernel extensions, 2011.
    """
    given = [array[rows] for array in pairs.inputs.values()]
    inputs = np.concatenate(given, axis=1).astype(np.float64)
    targets = pairs.targets[rows].astype(np.float64)
    mean, deviation, middle = inputs.mean(axis=0), inputs.std(axis=0), targets.mean(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    inputs = (inputs - mean) / scale
    values, vectors = np.linalg.eigh(inputs.T @ inputs / len(inputs))
    projected = vectors.T @ (inputs.T @ (targets - middle)) / len(inputs)
    side = None if pairs.side is None else pairs.side.space
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
        step = Step((), (), tuple(layers), uses_side=side is not None)
        spaces = pairs.old.space, side, pairs.new.space
        yield described, Transformation(*spaces, (step,), described)


def _first_directions(gram: Gram, rank: int) -> Basis:
    """Return the eigenvectors of the largest eigenvalues as columns."""
    _, vectors = np.linalg.eigh((gram + gram.T) / 2)
    return vectors[:, ::-1][:, :rank]


def _layer(weight: Matrix, bias: Float64[np.ndarray, " out"]) -> Dense:
    return Dense(weight.astype(np.float32), bias.astype(np.float32), relu=False)
