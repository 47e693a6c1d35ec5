"""Train a network on pairs of embeddings, and fold it into a transformation."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from onward.dense import Dense, Network, Step, Uncertainty
from onward.nn.transformations import FCTTransformation, ResidualBottleneck, fold
from onward.training.classifiers import Classifier
from onward.training.devices import seeded
from onward.training.loop import Batches, Rows, train
from onward.training.objectives import Fitting, Frame, Module
from onward.training.pairs import Examples
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import Transformation

MOST_REPEATS = 100
"""Most times that an example stands in an epoch; what weighs still more counts more."""


def fit_network(
    examples: Examples,
    settings: FitSettings,
    *,
    classifier: Classifier | None = None,
    seed: int,
    run: RunSettings,
) -> Transformation:
    """Train the network that the settings name ("auto" means the FCT network).

    Args:
        classifier: needed where settings ask for it.

    Raises:
        ConfigurationError: if a checkpoint is another run's.
        ModelError: if the loss stops being finite.
    """
    frame = Frame.of(examples)
    with seeded(seed, "first weights"):
        network = _network(examples, settings)
        objective = Fitting(network, frame, settings, classifier)
    batches = _ExampleBatches(examples, frame, classifier)
    batch_items = min(settings.batch_items, len(batches))
    steps_in_epoch = math.ceil(len(batches) / batch_items)
    epochs = max(settings.epochs, math.ceil(settings.least_steps / steps_in_epoch))
    learned = settings.model_copy(update={"epochs": epochs, "batch_items": batch_items})
    train(objective, batches, learned, seed=seed, what={"recipe": "fit"}, run=run)
    step = Step((_scaled(fold(objective.network), frame),))
    unsure = None if objective.unsure is None else _unsure(objective.unsure, frame)
    return Transformation(examples.old, examples.side, examples.new, (step,), uncertainty=unsure)


class _ExampleBatches(Batches):
    """Examples as tensors. What weighs much more than the rest stands there several times."""

    def __init__(self, examples: Examples, frame: Frame, classifier: Classifier | None) -> None:
        ratios = np.round(examples.weights / examples.weights.min())
        repeats = np.clip(ratios, 1, MOST_REPEATS).astype(int)
        rows = np.repeat(np.arange(len(examples)), repeats)
        labels = examples.labels
        classes = np.full_like(labels, -1) if classifier is None else classifier.rows_of(labels)
        weights = examples.weights / repeats
        arrays = (
            *examples.inputs.values(),
            frame.standardise(examples.targets),
            classes,
            (weights / weights[rows].mean()).astype(np.float32),
        )
        self._rows = torch.from_numpy(rows)
        self._tensors = [torch.from_numpy(array) for array in arrays]
        self._digest = examples.digest

    @property
    def digest(self) -> str:
        """Changes whenever the examples do."""
        return self._digest

    @property
    def ahead(self) -> int:
        """None: reading is slicing."""
        return 0

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return old vectors, side-information if any, targets, classes, weights."""
        chosen = self._rows[rows]
        return tuple(tensor[chosen] for tensor in self._tensors)


def _network(examples: Examples, settings: FitSettings) -> Module:
    """Return the network that is to be trained; the RBT is told where its inputs lie."""
    if settings.method != "rbt":
        side_dim = None if examples.side is None else examples.side.dim
        return FCTTransformation(examples.old.dim, side_dim, examples.new.dim, settings.inner)
    given = list(examples.inputs.values())
    middle = np.concatenate([array.mean(axis=0) for array in given])
    spread = [np.full(a.shape[1], (a - a.mean(axis=0)).std() or 1, np.float32) for a in given]
    statistics = torch.from_numpy(middle), torch.from_numpy(np.concatenate(spread))
    return ResidualBottleneck(*statistics, examples.new.dim, uses_side=examples.side is not None)


def _scaled(network: Network, frame: Frame) -> Network:
    """Return a network that gives whole vectors where it gave standardised ones."""
    *mixer, last = network.mixer
    assert isinstance(last, Dense)  # noqa: S101  # both networks end in a linear layer
    spread = np.float64(frame.spread)
    scaled = Dense(
        (last.weight * spread).astype(np.float32),
        (last.bias * spread + frame.middle).astype(np.float32),
        last.relu,
    )
    return replace(network, mixer=(*mixer, scaled))


def _unsure(layer: torch.nn.Linear, frame: Frame) -> Uncertainty:
    """Return for whole vectors what the layer knew for standardised ones."""
    weight = layer.weight.detach().double().numpy() / frame.spread
    bias = layer.bias.detach().double().numpy() - weight @ frame.middle
    whole = Dense(weight.astype(np.float32), bias.astype(np.float32), relu=False)
    return Uncertainty(whole, frame.middle)
