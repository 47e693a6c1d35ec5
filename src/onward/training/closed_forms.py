"""Transformations in closed form: ridge, low-rank, Procrustes and identity. Nothing is trained."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from onward.dense import Step
from onward.errors import TransformationError
from onward.training.pairs import Pairs
from onward.training.ridge import fit_ridge
from onward.training.settings import FitSettings
from onward.training.timetable import Rows
from onward.transformation import Transformation, linear

Fitted = Iterator[tuple[dict[str, Any], Transformation]]


def fit_closed_form(pairs: Pairs, rows: Rows, settings: FitSettings) -> Fitted:
    """Yield what the method gives on some of the pairs, each with what describes it.

    Ridge and low-rank give one transformation a penalty, the others one. "auto" means ridge here.

    Raises:
        TransformationError: if the method cannot map these spaces.
    """
    if settings.method == "identity":
        return _identity(pairs)
    if settings.method == "procrustes":
        return _procrustes(pairs, rows)
    rank = settings.rank if settings.method == "low-rank" else None
    return fit_ridge(pairs, rows, settings.ridge_penalties, rank=rank)


def _identity(pairs: Pairs) -> Fitted:
    """Yield the map that leaves old vectors as they are: what new queries find in them."""
    _check_no_side(pairs, "identity")
    old, new = pairs.old.space, pairs.new.space
    if old.dim != new.dim:
        raise TransformationError(
            f"the method 'identity' leaves vectors as they are, but {old.name} has {old.dim} "
            f"dimensions and {new.name} has {new.dim}; choose 'procrustes', 'ridge' or 'mlp'"
        )
    described = {"method": "identity"}
    yield described, Transformation(old, None, new, (Step((), (), (), False),), described)


def _procrustes(pairs: Pairs, rows: Rows) -> Fitted:
    """Yield the rotation that brings old vectors nearest to the new ones, both centred.

    `W = argmin mean ||(y - mean y) - W (x - mean x)||^2` over orthogonal W: `W = U V^T` where
    `U S V^T` is the singular value decomposition of the mean of `(y - mean y) (x - mean x)^T`.
    Mirroring is allowed, stretching is not. Between different dimensions the smaller space is
    filled up with zeros, which leaves the rows or the columns of W orthonormal.

    References:
        Schoenemann, A generalized solution of the orthogonal Procrustes problem, 1966.
    """
    _check_no_side(pairs, "procrustes")
    old, new = pairs.old.vectors[rows].astype(np.float64), pairs.targets[rows].astype(np.float64)
    mean, middle = old.mean(axis=0), new.mean(axis=0)
    left, _, right = np.linalg.svd((new - middle).T @ (old - mean), full_matrices=False)
    weight = left @ right
    described = {"method": "procrustes"}
    spaces = pairs.old.space, None, pairs.new.space
    yield described, linear(*spaces, weight, middle - weight @ mean, made_by=described)


def _check_no_side(pairs: Pairs, method: str) -> None:
    if pairs.side is not None:
        raise TransformationError(
            f"the method {method!r} uses no side-information, but some in {pairs.side.space} was "
            "given; leave it away, or choose 'ridge', 'low-rank', 'mlp' or 'rbt'"
        )
