"""Transformations in closed form: ridge, low-rank, Procrustes and identity. Nothing is trained."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from onward.dense import Network, Step
from onward.errors import TransformationError
from onward.training.pairs import Examples
from onward.training.ridge import fit_ridge
from onward.training.settings import FitSettings
from onward.transformation import Transformation, linear

Fitted = Iterator[tuple[dict[str, Any], Transformation]]


def fit_closed_form(examples: Examples, settings: FitSettings) -> Fitted:
    """Yield what the method gives on the examples, each with what describes it.

    Ridge and low-rank give one transformation a penalty, the others one. "auto" means ridge here.

    Raises:
        TransformationError: if the method cannot map these spaces.
    """
    if settings.method == "identity":
        return _identity(examples)
    if settings.method == "procrustes":
        return _procrustes(examples)
    rank = settings.rank if settings.method == "low-rank" else None
    return fit_ridge(examples, settings.ridge_penalties, rank=rank)


def _identity(examples: Examples) -> Fitted:
    """Yield the map that leaves old vectors as they are: what new queries find in them."""
    _check_no_side(examples, "identity")
    old, new = examples.old, examples.new
    if old.dim != new.dim:
        raise TransformationError(
            f"the method 'identity' leaves vectors as they are, but {old.name} has {old.dim} "
            f"dimensions and {new.name} has {new.dim}; choose 'procrustes', 'ridge' or 'mlp'"
        )
    described = {"method": "identity"}
    yield (
        described,
        Transformation(old, None, new, (Step((Network((), (), (), False),)),), described),
    )


def _procrustes(examples: Examples) -> Fitted:
    """Yield the rotation that brings old vectors nearest to the new ones, both centred.

    `W = argmin mean ||(y - mean y) - W (x - mean x)||^2` over orthogonal W: `W = U V^T` where
    `U S V^T` is the singular value decomposition of the mean of `(y - mean y) (x - mean x)^T`.
    Mirroring is allowed, stretching is not. Between different dimensions the smaller space is
    filled up with zeros, which leaves the rows or the columns of W orthonormal.

    References:
        Schoenemann, A generalized solution of the orthogonal Procrustes problem, 1966.
    """
    _check_no_side(examples, "procrustes")
    old, new = examples.inputs["old"].astype(np.float64), examples.targets.astype(np.float64)
    share = examples.weights / examples.weights.sum()
    mean, middle = share @ old, share @ new
    weighted = (old - mean) * share[:, None]
    left, _, right = np.linalg.svd((new - middle).T @ weighted, full_matrices=False)
    weight = left @ right
    described = {"method": "procrustes"}
    spaces = examples.old, None, examples.new
    yield described, linear(*spaces, weight, middle - weight @ mean, made_by=described)


def _check_no_side(examples: Examples, method: str) -> None:
    if examples.side is not None:
        raise TransformationError(
            f"the method {method!r} uses no side-information, but some in {examples.side} was "
            "given; leave it out, or choose 'ridge', 'low-rank', 'mlp' or 'rbt'"
        )
