"""Ridge regression, the plainest transformation: best where pairs are few."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onward.training.pairs import Pairs
from onward.training.timetable import Rows
from onward.transformation import Transformation, linear


def fit_ridge(
    pairs: Pairs, rows: Rows, penalties: Sequence[float]
) -> Iterator[tuple[dict[str, Any], Transformation]]:
    """Yield the linear map of each penalty, fitted on some of the pairs, with what describes it.

    `W = argmin mean ||y - W x||^2 + penalty ||W||^2` over centred targets y and standardised
    inputs x = [old, side], in closed form and float64: one eigendecomposition serves all penalties.
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
        weight = (vectors @ (projected / (np.maximum(values, 0) + penalty)[:, None])).T / scale
        described = {"method": "ridge", "penalty": penalty}
        yield (
            described,
            linear(
                pairs.old.space,
                side,
                pairs.new.space,
                weight.astype(np.float32),
                (middle - weight @ mean).astype(np.float32),
                made_by=described,
            ),
        )
