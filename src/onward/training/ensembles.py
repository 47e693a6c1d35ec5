"""The mean of what several transformations give, as one transformation.

Each errs in its own way, so their mean errs less than they do.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from onward.artifacts import digest
from onward.dense import Dense, Layer, Step, layers_of
from onward.training.checkpoints import part_of
from onward.training.classifiers import Classifier
from onward.training.networks import fit_network
from onward.training.pairs import Examples
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import Transformation

Weight = Float32[np.ndarray, "_ _"]


def fit_networks(
    examples: Examples,
    settings: FitSettings,
    *,
    base: Dense | None = None,
    classifier: Classifier | None = None,
    seed: int,
    run: RunSettings,
) -> Transformation:
    """Train as many networks as the settings say, and return the mean of what they give.

    The first learns as a single one does, each other with a seed and a checkpoint of its own. Of
    several, how unsure their mean is remains to be fitted.

    Raises:
        ConfigurationError: if a checkpoint is another run's.
        ModelError: if the loss stops being finite.
    """
    count = settings.networks
    runs = [one_of(run, number, count) for number in range(count)]
    learned = [
        fit_network(
            examples, settings, base=base, classifier=classifier, seed=_seed(seed, n), run=each
        )
        for n, each in enumerate(runs)
    ]
    return learned[0] if count == 1 else side_by_side(learned)


def one_of(run: RunSettings, number: int, count: int) -> RunSettings:
    """Return how one of so many networks is trained; together they make up the progress."""

    def progress(done: int, steps: int) -> None:
        run.progress(number * steps + done, count * steps)

    checkpoint = run.checkpoint
    if checkpoint is not None and number:
        checkpoint = part_of(checkpoint, number)
    return replace(run, progress=progress, checkpoint=checkpoint)


def _seed(seed: int, number: int) -> int:
    """Return the seed of one of several networks; the first has that of the fit."""
    return int(digest(f"{seed}/network {number}".encode())[:8], 16) if number else seed


def ensemble(network: Transformation, ridge: Transformation) -> Transformation:
    """Return the mean of what a network and a linear map give, as one transformation.

    The network bends towards the classes that it has learned from, the linear map cannot bend at
    all. Their mean errs less than either, above all on unseen classes.
    """
    (step,), (line,) = network.steps, layers_of(ridge.steps)
    *mixer, last = step.mixer
    halves = [
        Dense(layer.weight * np.float32(0.5), layer.bias * np.float32(0.5), relu=False)
        for layer in (*_dense([last]), line[1])
    ]
    both = replace(step, mixer=(*mixer, halves[0]), short_cut=halves[1])
    return Transformation(network.old, network.side, network.new, (both,))


def side_by_side(networks: Sequence[Transformation]) -> Transformation:
    """Return the mean of what FCT networks of one shape give, as one network.

    Their layers stand beside each other, with zeros between them where each is fed what its own
    network gave. A short cut, which all of them share, is kept once.
    """
    steps = [step for network in networks for step in network.steps]
    olds, sides, mixers = (
        list(zip(*chains, strict=True))
        for chains in zip(*(step.branches.values() for step in steps), strict=True)
    )
    first, *middle, last = mixers
    old, side = (len(_dense(steps[0].branches[which])[-1].weight) for which in ("old", "side"))
    columns = np.arange(len(steps) * (old + side)).reshape(len(steps), -1)
    order = np.concatenate([columns[:, :old].ravel(), columns[:, old:].ravel()])
    whole = Step(
        old_branch=_branch(olds),
        side_branch=_branch(sides),
        mixer=(
            _beside(first, lambda weights: _blocks(weights)[:, order]),
            *(_beside(layers, _blocks) for layers in middle),
            _mean(last),
        ),
        uses_side=steps[0].uses_side,
        short_cut=steps[0].short_cut,
    )
    return replace(networks[0], steps=(whole,), uncertainty=None)


def _branch(depths: Sequence[tuple[Layer, ...]]) -> tuple[Dense, ...]:
    """Return the layers of a branch: the first of each network is fed the same."""
    first, *rest = depths
    return (_beside(first, np.concatenate), *(_beside(layers, _blocks) for layers in rest))


def _beside(layers: Sequence[Layer], join: Callable[[list[Weight]], Weight]) -> Dense:
    dense = _dense(layers)
    bias = np.concatenate([layer.bias for layer in dense])
    return Dense(join([layer.weight for layer in dense]), bias, dense[0].relu)


def _mean(layers: Sequence[Layer]) -> Dense:
    dense = _dense(layers)
    weight = np.concatenate([layer.weight for layer in dense], axis=1) / np.float32(len(dense))
    return Dense(weight, np.mean([layer.bias for layer in dense], axis=0), relu=False)


def _blocks(weights: list[Weight]) -> Weight:
    count, (rows, columns) = len(weights), weights[0].shape
    blocks = np.zeros((count, rows, count, columns), np.float32)
    blocks[range(count), :, range(count)] = weights
    return blocks.reshape(count * rows, count * columns)


def _dense(layers: Sequence[Layer]) -> list[Dense]:
    dense = [layer for layer in layers if isinstance(layer, Dense)]
    assert len(dense) == len(layers)  # noqa: S101  # these networks have no residuals here
    return dense
