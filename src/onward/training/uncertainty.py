"""How unsure a transformation is of an item, where it is solved in closed form.

A network learns this with everything else (`onward.training.objectives`); here the same loss is
minimised over the last layer alone, with h held fixed.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from onward.dense import Dense, Uncertainty, run_steps
from onward.training.objectives import Frame
from onward.training.pairs import Examples
from onward.transformation import Transformation

STEPS = 50
CONVERGED = 1e-10
RIDGE = 1e-6

Inputs = Float64[np.ndarray, "row input"]
PerRow = Float64[np.ndarray, " row"]
Weights = Float64[np.ndarray, " input"]


def with_uncertainty(transformation: Transformation, examples: Examples) -> Transformation:
    """Return the transformation with a layer that says how unsure it is, fitted on the examples.

    `s = w^T z + b` minimises the mean of `exp(-s) L / 2 + s / 2`, where z is the standardised new
    vector and L its mean squared difference from the target. The problem is convex. What the
    transformation says is s as a share of the vector's distance from the middle of the targets.

    References:
        Jaeckle et al., FastFill: Efficient Compatible Model Update, ICLR 2023, arXiv 2303.04766.
    """
    frame = Frame.of(examples)
    inputs = {name: array.astype(np.float64) for name, array in examples.inputs.items()}
    given = run_steps(transformation.steps, inputs["old"], inputs.get("side"))
    standardised = (given - frame.middle) / frame.spread
    losses = (((given - examples.targets) / frame.spread) ** 2).mean(axis=1)
    share = examples.weights / examples.weights.sum()
    one = np.ones((len(examples), 1))
    found = _minimise(np.concatenate([standardised, one], axis=1), losses, share)
    weight = found[:-1] / frame.spread
    bias = found[-1:] - weight @ frame.middle
    layer = Dense(weight[None].astype(np.float32), bias.astype(np.float32), relu=False)
    return replace(transformation, uncertainty=Uncertainty(layer, frame.middle))


def _minimise(inputs: Inputs, losses: PerRow, share: PerRow) -> Weights:
    """Return the weights of `s`, by Newton's method with halved steps; the last input is 1."""

    def value(weights: Weights) -> float:
        unsure = inputs @ weights
        with np.errstate(over="ignore"):  # such a step is halved
            return float(share @ (losses * np.exp(-unsure) + unsure))

    weights = np.zeros(inputs.shape[1])
    weights[-1] = np.log(max(share @ losses, 1e-12))
    reached = value(weights)
    for _ in range(STEPS):
        expected = losses * np.exp(-inputs @ weights)
        slope = (share * (1 - expected)) @ inputs
        bend = (inputs * (share * expected)[:, None]).T @ inputs
        move = np.linalg.solve(bend + RIDGE * np.eye(len(weights)), slope)
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
