"""What a network that is to become a transformation minimises; no data is read here.

Inside, vectors are standardised: centred, and in units of one standard deviation for all
dimensions. One unit for all of them leaves what is least in the mean square what it was.

References:
    Jaeckle et al., FastFill: Efficient Compatible Model Update, ICLR 2023, arXiv 2303.04766.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, linear

from onward.nn.transformations import FCTTransformation, ResidualBottleneck
from onward.training.classifiers import Classifier
from onward.training.loop import Objective
from onward.training.pairs import Examples
from onward.training.settings import FitSettings

Vectors = Float[Tensor, "item new"]
Classes = Int64[Tensor, " item"]
PerItem = Float[Tensor, " item"]
Module = FCTTransformation | ResidualBottleneck


@dataclass(frozen=True, eq=False)
class Frame:
    """Where the targets lie: a vector is `middle + spread * standardised`.

    Attributes:
        middle: their mean.
        spread: their standard deviation, one for all dimensions.
        length: what classifiers know vectors as long as: the mean length of the new embeddings
            where the targets were brought to length 1, else 1.
    """

    middle: Float32[np.ndarray, " new"]
    spread: float
    length: float = 1.0

    @classmethod
    def of(cls, examples: Examples) -> "Frame":
        """Return the frame of the examples, each counted by its weight."""
        share = examples.weights / examples.weights.sum()
        middle = (share @ examples.targets).astype(np.float32)
        square = share @ ((examples.targets - middle) ** 2).mean(axis=1)
        return cls(middle, float(np.sqrt(square)) or 1.0, examples.length)

    def standardise(
        self, vectors: Float32[np.ndarray, "item new"]
    ) -> Float32[np.ndarray, "item new"]:
        """Return vectors as the network knows them."""
        standardised: np.ndarray = (vectors - self.middle) / np.float32(self.spread)
        return standardised


class Fitting(Objective):
    """The weighted mean over items of `L = distance to the target + weight * discriminative part`.

    With an uncertainty s, one linear layer on the network's output, it is the mean of
    `exp(-s) L / 2 + s / 2` instead: s comes to be the logarithm of the L that is to be expected.

    Args:
        network: what learns; it gives standardised vectors.
        frame: what standardised vectors stand for.
        settings: which distance, which discriminative part, and its weight.
        classifier: needed where the discriminative part is "classifier".
    """

    middle: Tensor
    classes: Tensor

    def __init__(
        self, network: Module, frame: Frame, settings: FitSettings, classifier: Classifier | None
    ) -> None:
        super().__init__()
        self.network, self.settings, self.spread = network, settings, frame.spread
        self.register_buffer("middle", torch.from_numpy(frame.middle))
        weight = np.zeros((0, 0)) if classifier is None else frame.length * classifier.weight
        self.register_buffer("classes", torch.from_numpy(weight.astype(np.float32)))
        self.unsure = nn.Linear(len(frame.middle), 1) if settings.uncertainty else None
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
