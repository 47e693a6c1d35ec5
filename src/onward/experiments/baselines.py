"""What only studies learn by, to compare with: an autoencoder, and labels and views at once."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from onward.data.augmentation import simclr_augmentation, supervised_augmentation
from onward.experiments.settings import AutoencoderSettings, SupervisedContrastiveSettings
from onward.models import InputSpec
from onward.nn.backbones import Backbone, Images, Vectors
from onward.training.image_models import (
    Build,
    Classification,
    ImageObjective,
    projection_head,
)
from onward.training.images import Preparation
from onward.training.losses import Positions, nt_xent
from onward.training.settings import FrozenSettings, ModelSettings, TrainingSettings

SMALLEST_MAP = 4  # pixels a side that a decoder begins with, at most
MOST_TIMES_WIDER = 8


def build_of(settings: ModelSettings | FrozenSettings) -> Build | None:
    """Return what puts a baseline's objective on a backbone; None for settings of other models."""

    def build(network: Backbone, classes: int, taken: InputSpec) -> ImageObjective:
        size, channels = taken.size, taken.channels
        if isinstance(settings, AutoencoderSettings):
            shown = supervised_augmentation(size, channels, settings.flip)
            preparation = Preparation(taken, shown if settings.augment else None)
            return Autoencoder(network, preparation, settings.width)
        assert isinstance(settings, SupervisedContrastiveSettings)  # noqa: S101
        views = simclr_augmentation(size, channels, flip=settings.flip, strength=settings.strength)
        return SupervisedContrastive(network, classes, Preparation(taken, views), settings)

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
        taken = preparation.taken
        self.decoder = Decoder(backbone.dim, taken.size, taken.channels, width)

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
            return loss + self.weight * nt_xent(projected.float(), self.temperature)


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
