"""Side-information learned without labels: SimCLR.

Trained when the old model is, on old data alone, and stored beside its embeddings. What it holds of
an image beyond the old classes is what lifts an upgrade above the old space's ceiling.

References:
    Chen, Kornblith, Norouzi, Hinton, A Simple Framework for Contrastive Learning of Visual
    Representations, ICML 2020, arXiv 2002.05709.
"""

import torch
from torch import Tensor

from onward.data import Items
from onward.data.augmentation import simclr_augmentation
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import Backbone, BackboneSpec, build_backbone
from onward.nn.heads import projection_head
from onward.training.devices import seeded
from onward.training.image_models import train_image_model
from onward.training.images import Preparation, input_of
from onward.training.loop import Objective
from onward.training.losses import nt_xent
from onward.training.settings import RunSettings, SimCLRSettings


class SimCLR(Objective):
    """Two views of each image are to be nearer to one another than to all other views.

    The loss is taken behind a projection head, which is thrown away: what goes into the head, the
    backbone's own output, is the side-information. On several devices the other views are those on
    the same device.
    """

    def __init__(
        self, backbone: Backbone, preparation: Preparation, settings: SimCLRSettings
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.preparation = preparation
        self.head = projection_head(backbone.dim, settings.projection_dim)
        self.temperature = settings.temperature

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of pixels; classes are not looked at."""
        pixels = batch[0]
        images = self.preparation(torch.cat([pixels, pixels]))
        projected = self.head(self.backbone(images))
        with torch.autocast(pixels.device.type, enabled=False):
            return nt_xent(projected.float(), self.temperature)


def train_side_information_model(
    items: Items,
    backbone: BackboneSpec,
    *,
    name: str,
    settings: SimCLRSettings | None = None,
    input: InputSpec | None = None,
    seed: int = 0,
    run: RunSettings | None = None,
) -> EmbeddingModel:
    """Train a side-information model by SimCLR; labels are not used.

    Args:
        items: the data that the old model was trained on, for the claim of forward compatible
            training to hold.
        backbone: the network; its output is the side-information.
        name: what the model is called; the digest of its weights is added for its space.
        settings: how it learns.
        input: what its images are to be; what the backbone wants where left out.
        seed: decides first weights, order and augmentation.
        run: on what machine, and where checkpoints go.

    Raises:
        DataError: if there are fewer than two items, or an image cannot be opened.
        ConfigurationError: if settings do not fit together, or a checkpoint is another run's.
        ModelError: if the backbone cannot be built or the loss stops being finite.
    """
    settings, run = settings or SimCLRSettings(), run or RunSettings()
    taken = input_of(backbone, input)
    augmentation = simclr_augmentation(
        taken.size, taken.channels, flip=settings.flip, strength=settings.strength
    )
    with seeded(seed, "first weights"):
        objective = SimCLR(build_backbone(backbone), Preparation(taken, augmentation), settings)
    return train_image_model(
        objective,
        objective.backbone,
        items,
        backbone,
        recipe="side-information by SimCLR",
        name=name,
        taken=taken,
        settings=settings,
        seed=seed,
        run=run,
    )
