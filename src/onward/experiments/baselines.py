"""What only studies compare with: two ways to learn side-information, and two maps.

An autoencoder, and labels and views at once; a linear map of a low rank, and the residual
bottleneck network.

References:
    Mukherjee and Zhu, Reduced rank ridge regression and its kernel extensions, 2011.
    Wang et al., Unified Representation Learning for Cross Model Compatibility, BMVC 2020,
    arXiv 2008.04821.
"""

import math
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from onward.data.augmentation import simclr_augmentation, supervised_augmentation
from onward.experiments.recipe import AutoencoderSettings, SupervisedContrastiveSettings
from onward.models import InputSpec
from onward.nn.backbones import Backbone, Images, Vectors
from onward.training.devices import device_of
from onward.training.fit.closed_forms import centre
from onward.training.fit.networks import (
    Foldable,
    OldVectors,
    SideVectors,
    as_dense,
    chain,
    dense_layers,
    fit_networks,
)
from onward.training.fit.pairs import Examples
from onward.training.image_models import (
    Build,
    Classification,
    ImageObjective,
    Positions,
    contrastive_loss,
    projection_head,
)
from onward.training.images import Preparation
from onward.training.settings import (
    FitSettings,
    FrozenSettings,
    ModelSettings,
    RunSettings,
    TrainingSettings,
    made_by,
)
from onward.transformation import Transformation
from onward.transformation.networks import Dense, Network, Residual, Step, layers_of

InputStatistic = Float[Tensor, " old_and_side"]

SMALLEST_MAP = 4  # pixels a side that a decoder begins with, at most
MOST_TIMES_WIDER = 8
RANK = 64  # of the linear map of a low rank
RBT_BLOCKS = 4
RBT_WIDTH = 16


def build_of(settings: ModelSettings | FrozenSettings) -> Build | None:
    """Return what puts a baseline's objective on a backbone; None for settings of other models."""

    def build(network: Backbone, classes: int, input_spec: InputSpec) -> ImageObjective:
        size, channels = input_spec.size, input_spec.channels
        cropped = isinstance(settings, ModelSettings) and settings.least_crop is not None
        if isinstance(settings, AutoencoderSettings):
            shown = supervised_augmentation(size, settings.flip, cropped=cropped)
            preparation = Preparation(input_spec, shown if settings.augment else None)
            return Autoencoder(network, preparation, settings.width)
        assert isinstance(settings, SupervisedContrastiveSettings)  # noqa: S101
        views = simclr_augmentation(
            size, channels, flip=settings.flip, strength=settings.strength, cropped=cropped
        )
        return SupervisedContrastive(network, classes, Preparation(input_spec, views), settings)

    baselines = AutoencoderSettings | SupervisedContrastiveSettings
    return build if isinstance(settings, baselines) else None


class Autoencoder(ImageObjective):
    """The mean squared error of the decoder's image, over normalised pixels as they were shown.

    It needs no labels. What takes many pixels counts most for it, whether or not it tells images
    apart, so it is the weakest kind of side-information. The decoder is thrown away.

    References:
        Hinton, Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, Science
        2006.
    """

    def __init__(self, backbone: Backbone, preparation: Preparation, width: int) -> None:
        super().__init__(backbone, preparation)
        input_spec = preparation.input_spec
        self.decoder = Decoder(backbone.dim, input_spec.size, input_spec.channels, width)

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of pixels; classes are not looked at."""
        images = self.preparation(batch[0])
        drawn = self.decoder(self.backbone(images))
        with torch.autocast(images.device.type, enabled=False):
            return mse_loss(drawn.float(), images)


class SupervisedContrastive(Classification):
    """Cross-entropy on the embeddings of two views, and NT-Xent behind a projection head.

    Cross-entropy alone keeps what tells the old classes apart and drops the rest; the views alone
    do not know what matters to anybody. Together they are meant to keep both.
    """

    views = 2

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        preparation: Preparation,
        settings: SupervisedContrastiveSettings,
    ) -> None:
        plain = TrainingSettings(label_smoothing=settings.label_smoothing)
        super().__init__(backbone, classes, preparation, plain)
        self.head = projection_head(backbone.dim, settings.projection_dim)
        self.temperature, self.weight = settings.temperature, settings.weight

    def loss(self, embeddings: Vectors, classes: Positions) -> Tensor:
        """Return the mean loss of the embeddings of two views."""
        loss, projected = super().loss(embeddings, classes), self.head(embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            return loss + self.weight * contrastive_loss(projected.float(), self.temperature)


class Decoder(nn.Module):
    """Draws an image from an embedding: a small map, doubled until it is as large as the image.

    After each doubling stand a 3 x 3 convolution, BatchNorm and ReLU; the last convolution gives
    the channels of the image, unbounded, for images are normalised.

    Args:
        dim: dimensions of the embedding.
        size: height and width of the image, in pixels.
        channels: of the image.
        width: channels of the largest maps.
    """

    def __init__(self, dim: int, size: int, channels: int, width: int) -> None:
        super().__init__()
        sizes = [size]
        while sizes[-1] > SMALLEST_MAP:
            sizes.append(math.ceil(sizes[-1] / 2))
        widths = [width * min(2**halved, MOST_TIMES_WIDER) for halved in range(len(sizes))]
        smallest, widest = sizes.pop(), widths.pop()
        layers: list[nn.Module] = [
            nn.Linear(dim, widest * smallest**2),
            nn.Unflatten(1, (widest, smallest, smallest)),
        ]
        before = widest
        for larger, after in zip(reversed(sizes), reversed(widths), strict=True):
            layers += [
                nn.Upsample(size=(larger, larger)),
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, channels, 3, padding=1))

    def forward(self, embeddings: Vectors) -> Images:
        """Return the images."""
        images: Tensor = self.layers(embeddings)
        return images


def low_rank(ridge: Transformation, examples: Examples, rank: int = RANK) -> Transformation:
    """Return the map of at most a rank that minimises what ridge does, by ridge's own penalty.

    With ridge's map W of standardised inputs, their covariance C and the penalty it is `V V^T W`,
    where V holds the first eigenvectors of `W (C + penalty) W^T`; stored as two layers.

    Args:
        ridge: what `fit` gave on the examples.
        rank: more than there are dimensions means no bound.
    """
    ((_, whole),) = layers_of(ridge.steps)
    inputs, _, share, mean, middle = centre(examples)
    weight, penalty = whole.weight.astype(np.float64), ridge.made_by["penalty"]
    spread = weight * np.sqrt(share @ inputs**2)
    moved = inputs @ weight.T
    _, vectors = np.linalg.eigh((moved * share[:, None]).T @ moved + penalty * spread @ spread.T)
    basis = vectors[:, ::-1][:, :rank]
    narrow = basis.T @ weight
    layers = as_dense(narrow, -narrow @ mean, relu=False), as_dense(basis, middle, relu=False)
    step = Step((Network((), (), layers, uses_side=ridge.side is not None),))
    described = {**ridge.made_by, "method": "low-rank", "rank": basis.shape[1]}
    return Transformation(ridge.old, ridge.side, ridge.new, (step,), described)


def fit_residual_bottleneck(
    examples: Examples, settings: FitSettings, *, seed: int, run: RunSettings
) -> Transformation:
    """Return the residual bottleneck transformation (RBT) that has learned the examples."""
    h = fit_networks(examples, settings, build=_residual_bottleneck, seed=seed, run=run)
    device = device_of(run)
    described = made_by("fit", settings, seed=seed, run=run, device=device, method="rbt")
    return replace(h, made_by=described)


class ResidualBottleneck(Foldable):
    """A linear map after four narrow corrections.

    ```
    x = ([old, side] - middle) / spread
    x = x + block(x), four times;   block: d -> 16 -> 16 -> d
    d -> dn   linear with bias, nothing after
    ```

    In a block each arrow is linear without bias and BatchNorm; ReLU follows the first two only, for
    a correction may go either way. At first every block gives zero, and the whole is linear.

    Args:
        middle: the mean of the old embedding, then that of the side-information if there is any.
        spread: what their distances from it are divided by, all above 0.
        new_dim: dimensions of the new embedding.
        uses_side: whether there is side-information.
    """

    middle: Tensor
    spread: Tensor

    def __init__(
        self, middle: InputStatistic, spread: InputStatistic, new_dim: int, *, uses_side: bool
    ) -> None:
        super().__init__()
        self.uses_side = uses_side
        self.register_buffer("middle", middle)
        self.register_buffer("spread", spread)
        dim = len(middle)
        self.blocks = nn.ModuleList(_bottleneck(dim) for _ in range(RBT_BLOCKS))
        self.last = nn.Linear(dim, new_dim)

    def forward(self, old: OldVectors, side: SideVectors | None = None) -> Vectors:
        """Return the new vectors."""
        given = old if side is None else torch.cat([old, side], dim=1)
        x = (given - self.middle) / self.spread
        for block in self.blocks:
            x = x + block(x)
        new: Vectors = self.last(x)
        return new

    def fold(self) -> Network:
        """Undo the standardisation of x, so that the blocks correct the given vectors themselves.

        `middle + spread * (x + block(x)) = given + spread * block((given - middle) / spread)`
        """
        middle, spread = (each.double().numpy() for each in (self.middle, self.spread))

        def standardised(layer: Dense) -> Dense:
            weight = layer.weight / spread
            return as_dense(weight, layer.bias - weight @ middle, relu=layer.relu)

        layers: list[Residual | Dense] = []
        for block in self.blocks:
            first, second, third = dense_layers(cast(nn.Sequential, block))
            back = as_dense(third.weight * spread[:, None], third.bias * spread, relu=False)
            layers.append(Residual((standardised(first), second, back)))
        layers.append(standardised(*dense_layers([self.last])))
        return Network((), (), tuple(layers), self.uses_side)


def _bottleneck(dim: int) -> nn.Sequential:
    *layers, last, _ = chain(dim, RBT_WIDTH, RBT_WIDTH, dim)
    nn.init.zeros_(cast(nn.BatchNorm1d, last).weight)
    return nn.Sequential(*layers, last)


def _residual_bottleneck(examples: Examples) -> ResidualBottleneck:
    """Return one that is told where its inputs lie."""
    given = list(examples.inputs.values())
    middle = np.concatenate([array.mean(axis=0) for array in given])
    spread = [np.full(a.shape[1], (a - a.mean(axis=0)).std() or 1, np.float32) for a in given]
    statistics = torch.from_numpy(middle), torch.from_numpy(np.concatenate(spread))
    return ResidualBottleneck(*statistics, examples.new.dim, uses_side=examples.side is not None)
