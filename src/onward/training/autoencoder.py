"""Side-information by an autoencoder: what an image can be drawn again from.

It needs no labels. What takes many pixels counts most for it, whether or not it tells images apart,
so it is the weakest kind of side-information: here to compare with.

References:
    Hinton, Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, Science 2006.
"""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from onward.data import Items
from onward.data.augmentation import supervised_augmentation
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import Backbone, BackboneSpec, build_backbone
from onward.nn.heads import Decoder
from onward.training.devices import seeded
from onward.training.image_models import train_image_model
from onward.training.images import Preparation, input_of
from onward.training.loop import Objective
from onward.training.settings import AutoencoderSettings, RunSettings


class Autoencoder(Objective):
    """The mean squared error of the decoder's image, over normalised pixels as they were shown."""

    def __init__(self, backbone: Backbone, preparation: Preparation, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.preparation = preparation
        taken = preparation.taken
        self.decoder = Decoder(backbone.dim, taken.size, taken.channels, width)

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of pixels; classes are not looked at."""
        images = self.preparation(batch[0])
        drawn = self.decoder(self.backbone(images))
        with torch.autocast(images.device.type, enabled=False):
            return mse_loss(drawn.float(), images)


def train_autoencoder_model(
    items: Items,
    backbone: BackboneSpec,
    *,
    name: str,
    settings: AutoencoderSettings | None = None,
    input: InputSpec | None = None,
    seed: int = 0,
    run: RunSettings | None = None,
) -> EmbeddingModel:
    """Train a side-information model as an autoencoder; labels are not used.

    The decoder is thrown away. Arguments and errors are those of `train_side_information_model`.
    """
    settings, run = settings or AutoencoderSettings(), run or RunSettings()
    taken = input_of(backbone, input)
    augmentation = None
    if settings.augment:
        augmentation = supervised_augmentation(taken.size, taken.channels, settings.flip)
    with seeded(seed, "first weights"):
        preparation = Preparation(taken, augmentation)
        objective = Autoencoder(build_backbone(backbone), preparation, settings.width)
    return train_image_model(
        objective,
        objective.backbone,
        items,
        backbone,
        recipe="side-information by an autoencoder",
        name=name,
        taken=taken,
        settings=settings,
        seed=seed,
        run=run,
    )
