"""The networks that h is trained as, their training, and how they are folded. This needs torch.

Here h is what is trained; folded, it is the frozen `onward.transformation.Network` that is stored
and applied. Inside, vectors are standardised (see `Scaling`). What is learned beside the distance
to the targets is FastFill's: a discriminative part by the new model's classifier, and how unsure h
is.

References:
    Ramanujan et al., Forward Compatible Training for Large-Scale Embedding Retrieval Systems,
    CVPR 2022, arXiv 2112.02805.
    Jaeckle et al., FastFill: Efficient Compatible Model Update, ICLR 2023, arXiv 2303.04766.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, linear

from onward.artifacts import digest
from onward.training.devices import seeded
from onward.training.fit.pairs import Classifier, Examples, Rows, Scaling
from onward.training.loop import Batches, Objective, part_of, train
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import Transformation, mean
from onward.transformation.networks import Dense, Network, Step, Uncertainty

Vectors = Float[Tensor, "item new"]
Classes = Int64[Tensor, " item"]
PerItem = Float[Tensor, " item"]
OldVectors = Float[Tensor, "item old"]
SideVectors = Float[Tensor, "item side"]

MOST_REPEATS = 100
"""Most times that an example stands in an epoch; what weighs still more counts more."""


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

    def forward(self, old: OldVectors, side: SideVectors | None = None) -> Vectors:
        """Return the new vectors; side-information is given if and only if it has a dimension."""
        aside = old if side is None else side
        branches = torch.cat([self.old_branch(old), self.side_branch(aside)], dim=1)
        new: Vectors = self.mixer(branches)
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
    for layer, norm, relu in zip_longest(rest, rest, rest):
        weight = _array(layer.weight)
        if norm is None:
            yield as_dense(weight, _array(layer.bias), relu=False)
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


Build = Callable[[Examples], Foldable]


def fit_networks(
    examples: Examples,
    settings: FitSettings,
    *,
    classifier: Classifier | None = None,
    build: Build | None = None,
    seed: int,
    run: RunSettings,
) -> Transformation:
    """Train as many networks as the settings say, and return the mean of what they give.

    The first learns as a single one does, each other with a seed and a checkpoint of its own. Of
    several, how unsure their mean is remains to be fitted.

    Args:
        classifier: needed where settings ask for it.
        build: makes a network that is to learn these examples; that of FCT where left out.

    Raises:
        ConfigurationError: if a checkpoint is another run's.
        ModelError: if the loss stops being finite.
    """
    count, build = settings.networks, build or _build_fct(settings)
    learned = []
    for number in range(count):
        own = int(digest(f"{seed}/network {number}".encode())[:8], 16) if number else seed
        each = one_of(run, number, count)
        learned.append(_fit_network(examples, settings, classifier, build, seed=own, run=each))
    return learned[0] if count == 1 else mean(learned)


def _build_fct(settings: FitSettings) -> Build:
    def build(examples: Examples) -> Foldable:
        side_dim = None if examples.side is None else examples.side.dim
        return FCTTransformation(examples.old.dim, side_dim, examples.new.dim, settings.inner)

    return build


def _fit_network(
    examples: Examples,
    settings: FitSettings,
    classifier: Classifier | None,
    build: Build,
    *,
    seed: int,
    run: RunSettings,
) -> Transformation:
    scaling = Scaling.of(examples)
    with seeded(seed, "first weights"):
        objective = Fitting(build(examples), scaling, settings, classifier)
    batches = _ExampleBatches(examples, scaling, classifier)
    batch_size = min(settings.batch_size, len(batches))
    steps_in_epoch = math.ceil(len(batches) / batch_size)
    epochs = max(settings.epochs, math.ceil(settings.least_steps / steps_in_epoch))
    learned = settings.model_copy(update={"epochs": epochs, "batch_size": batch_size})
    train(objective, batches, learned, seed=seed, what={"recipe": "fit"}, run=run)
    step = Step((_scaled(objective.network.fold(), scaling),))
    unsure = None if objective.unsure is None else _unsure(objective.unsure, scaling)
    return Transformation(examples.old, examples.side, examples.new, (step,), uncertainty=unsure)


def one_of(run: RunSettings, number: int, count: int) -> RunSettings:
    """Return how one of so many networks is trained; together they make up the progress."""

    def progress(done: int, steps: int) -> None:
        run.progress(number * steps + done, count * steps)

    checkpoint = run.checkpoint
    if checkpoint is not None and number:
        checkpoint = part_of(checkpoint, number)
    return replace(run, progress=progress, checkpoint=checkpoint)


class Fitting(Objective):
    """The weighted mean over items of `L = distance to the target + weight * discriminative part`.

    With an uncertainty s, one linear layer on the network's output, it is the mean of
    `exp(-s) L / 2 + s / 2` instead: s comes to be the logarithm of the L that is to be expected.

    Args:
        network: what learns; it gives standardised vectors.
        scaling: what standardised vectors stand for.
        settings: which distance, which discriminative part, and its weight.
        classifier: needed where the discriminative part is "classifier".
    """

    middle: Tensor
    classes: Tensor

    def __init__(
        self,
        network: Foldable,
        scaling: Scaling,
        settings: FitSettings,
        classifier: Classifier | None,
    ) -> None:
        super().__init__()
        self.network, self.settings, self.spread = network, settings, scaling.std
        self.register_buffer("middle", torch.from_numpy(scaling.mean))
        weight = np.zeros((0, 0)) if classifier is None else scaling.length * classifier.weight
        self.register_buffer("classes", torch.from_numpy(weight.astype(np.float32)))
        self.unsure = nn.Linear(len(scaling.mean), 1) if settings.uncertainty else None
        if self.unsure is not None:
            nn.init.zeros_(self.unsure.weight)
            nn.init.zeros_(self.unsure.bias)

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of old vectors (and side-information), targets, classes, weights.

        A class is a row of the classifier; an item of class -1 has no discriminative part there.
        """
        *given, targets, classes, weights = batch
        vectors = self.network(*given)
        losses = self.per_item(vectors, targets, classes)
        if self.unsure is not None:
            unsure = self.unsure(vectors)[:, 0]
            losses = 0.5 * torch.exp(-unsure) * losses + 0.5 * unsure
        return (weights * losses).mean()

    def per_item(self, vectors: Vectors, targets: Vectors, classes: Classes) -> PerItem:
        """Return each item's loss."""
        settings = self.settings
        losses = self._distance(vectors, targets)
        if settings.discriminative == "classifier":
            losses = losses + settings.discriminative_weight * self._told_apart(vectors, classes)
        return losses

    def _distance(self, vectors: Vectors, targets: Vectors) -> PerItem:
        if self.settings.objective == "cosine":
            return 1 - cosine_similarity(self._whole(vectors), self._whole(targets), dim=1)
        differences = vectors - targets
        squared = self.settings.objective == "mse"
        return (differences.square() if squared else differences.abs()).mean(dim=1)

    def _told_apart(self, vectors: Vectors, classes: Classes) -> PerItem:
        """Return the frozen classifier's cross-entropy, 0 where the class is not known."""
        logits = linear(self._whole(vectors), self.classes)
        return cross_entropy(
            logits,
            classes,
            ignore_index=-1,
            label_smoothing=self.settings.label_smoothing,
            reduction="none",
        )

    def _whole(self, vectors: Vectors) -> Vectors:
        """Return vectors as they are outside."""
        return vectors * self.spread + self.middle


class _ExampleBatches(Batches):
    """Examples as tensors. What weighs much more than the rest stands there several times."""

    def __init__(self, examples: Examples, scaling: Scaling, classifier: Classifier | None) -> None:
        ratios = np.round(examples.weights / examples.weights.min())
        repeats = np.clip(ratios, 1, MOST_REPEATS).astype(int)
        rows = np.repeat(np.arange(len(examples)), repeats)
        labels = examples.labels
        classes = np.full_like(labels, -1) if classifier is None else classifier.rows_of(labels)
        weights = examples.weights / repeats
        arrays = (
            *examples.inputs.values(),
            scaling.standardise(examples.targets),
            classes,
            (weights / weights[rows].mean()).astype(np.float32),
        )
        self._rows = torch.from_numpy(rows)
        self._tensors = [torch.from_numpy(array) for array in arrays]
        self.digest = examples.digest

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, rows: Rows, epoch: int) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return old vectors, side-information if any, targets, classes, weights."""
        chosen = self._rows[rows]
        return tuple(tensor[chosen] for tensor in self._tensors)


def _scaled(network: Network, scaling: Scaling) -> Network:
    """Return a network that gives whole vectors where it gave standardised ones."""
    *mixer, last = network.mixer
    assert isinstance(last, Dense)  # noqa: S101  # both networks end in a linear layer
    std = np.float64(scaling.std)
    scaled = as_dense(last.weight * std, last.bias * std + scaling.mean, relu=last.relu)
    return replace(network, mixer=(*mixer, scaled))


def _unsure(layer: torch.nn.Linear, scaling: Scaling) -> Uncertainty:
    """Return for whole vectors what the layer knew for standardised ones."""
    weight = _array(layer.weight) / scaling.std
    bias = _array(layer.bias) - weight @ scaling.mean
    return Uncertainty(as_dense(weight, bias, relu=False), scaling.mean)
