"""What has a closed form, or nearly: ridge, a rotation, and how unsure a transformation is.

Everything here is solved on examples in float64 by NumPy. Nothing here chooses.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from onward.errors import TransformationError
from onward.training.fit.pairs import Examples, Scaling
from onward.transformation import Transformation, linear
from onward.transformation.networks import Dense, Uncertainty, run_steps

Inputs = Float64[np.ndarray, "row input"]
Targets = Float64[np.ndarray, "row new"]
PerRow = Float64[np.ndarray, " row"]
Weights = Float64[np.ndarray, " input"]
Middle = Float64[np.ndarray, " new"]
Method = Mapping[str, Any]
"""A method with what it is given, as plain values: `{"method": "ridge", "penalty": 0.1}`."""
Solved = Callable[[Method], Transformation]

NEWTON_STEPS = 50
CONVERGED = 1e-10
STEADY = 1e-6
"""Added to the diagonal that Newton's method divides by."""


def solve_ridge(examples: Examples) -> Solved:
    """Return what gives the linear map of a penalty.

    `W = argmin mean w ||y - W x||^2 + penalty ||W||^2` over centred targets y and standardised
    inputs x = [old, side] with weights w, in closed form and float64: one eigendecomposition serves
    all penalties.
    """
    inputs, targets, share, mean, middle = centre(examples)
    deviation = np.sqrt(share @ inputs**2)
    # What never changes is no input; its deviation is what rounding left of it.
    moves = deviation > 1e-9 * np.abs(mean)
    scale = np.where(moves, deviation, 1.0)
    inputs = inputs / scale * moves
    weighted = inputs * share[:, None]
    values, vectors = np.linalg.eigh(weighted.T @ inputs)
    projected = vectors.T @ (weighted.T @ targets)

    def solve(method: Method) -> Transformation:
        shrunk = projected / (np.maximum(values, 0) + method["penalty"])[:, None]
        weight = (vectors @ shrunk).T / scale
        spaces = examples.old, examples.side, examples.new
        return linear(*spaces, weight, middle - weight @ mean, made_by=method)

    return solve


def solve_procrustes(examples: Examples) -> Solved:
    """Return what gives the rotation that brings old vectors nearest to the new ones, both centred.

    `W = argmin mean ||(y - mean y) - W (x - mean x)||^2` over orthogonal W: `W = U V^T` where
    `U S V^T` is the singular value decomposition of the mean of `(y - mean y) (x - mean x)^T`.
    Mirroring is allowed, stretching is not. Between different dimensions the smaller space is
    filled up with zeros, which leaves the rows or the columns of W orthonormal.

    Raises:
        TransformationError: if there is side-information, which a rotation has no use for.

    References:
        Schoenemann, A generalized solution of the orthogonal Procrustes problem, 1966.
    """
    if examples.side is not None:
        raise TransformationError(
            f"the method 'procrustes' uses no side-information, but some in {examples.side} was "
            "given",
            "leave it out, or choose 'ridge' or 'mlp'",
        )
    inputs, targets, share, mean, middle = centre(examples)
    left, _, right = np.linalg.svd(targets.T @ (inputs * share[:, None]), full_matrices=False)
    weight = left @ right
    spaces = examples.old, None, examples.new
    return lambda method: linear(*spaces, weight, middle - weight @ mean, made_by=method)


def centre(examples: Examples) -> tuple[Inputs, Targets, PerRow, Weights, Middle]:
    """Return inputs and targets without their means, the rows' shares, and both means."""
    inputs = np.concatenate(list(examples.inputs.values()), axis=1).astype(np.float64)
    targets = examples.targets.astype(np.float64)
    share = examples.weights / examples.weights.sum()
    mean, middle = share @ inputs, share @ targets
    return inputs - mean, targets - middle, share, mean, middle


def with_uncertainty(transformation: Transformation, examples: Examples) -> Transformation:
    """Return the transformation with a layer that says how unsure it is, fitted on the examples.

    `s = w^T z + b` minimises the mean of `exp(-s) L / 2 + s / 2`, where z is the standardised new
    vector and L its mean squared difference from the target. The problem is convex. What the
    transformation says is s as a share of the vector's distance from the middle of the targets.

    References:
        Jaeckle et al., FastFill: Efficient Compatible Model Update, ICLR 2023, arXiv 2303.04766.
    """
    scaling = Scaling.of(examples)
    inputs = {name: array.astype(np.float64) for name, array in examples.inputs.items()}
    given = run_steps(transformation.steps, inputs["old"], inputs.get("side"))
    standardised = (given - scaling.mean) / scaling.std
    losses = (((given - examples.targets) / scaling.std) ** 2).mean(axis=1)
    share = examples.weights / examples.weights.sum()
    one = np.ones((len(examples), 1))
    found = _minimise(np.concatenate([standardised, one], axis=1), losses, share)
    weight = found[:-1] / scaling.std
    bias = found[-1:] - weight @ scaling.mean
    layer = Dense(weight[None].astype(np.float32), bias.astype(np.float32), relu=False)
    return replace(transformation, uncertainty=Uncertainty(layer, scaling.mean))


def _minimise(inputs: Inputs, losses: PerRow, share: PerRow) -> Weights:
    """Return the weights of `s`, by Newton's method with halved steps; the last input is 1."""

    def value(weights: Weights) -> float:
        unsure = inputs @ weights
        with np.errstate(over="ignore"):  # such a step is halved
            return float(share @ (losses * np.exp(-unsure) + unsure))

    weights = np.zeros(inputs.shape[1])
    weights[-1] = np.log(max(share @ losses, 1e-12))
    reached = value(weights)
    for _ in range(NEWTON_STEPS):
        expected = losses * np.exp(-inputs @ weights)
        slope = (share * (1 - expected)) @ inputs
        bend = (inputs * (share * expected)[:, None]).T @ inputs
        move = np.linalg.solve(bend + STEADY * np.eye(len(weights)), slope)
        length = 1.0
        while length > 1e-6 and not value(weights - length * move) <= reached:
            length /= 2
        if length <= 1e-6:
            break
        weights = weights - length * move
        before, reached = reached, value(weights)
        if before - reached < CONVERGED:
            break
    return weights
