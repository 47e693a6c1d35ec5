"""Side-information by labels and by views at once: one backbone, cross-entropy and SimCLR's loss.

Cross-entropy alone keeps what tells the old classes apart and drops the rest; the views alone do
not know what matters to anybody. Together they are meant to keep both.
"""

import torch
from torch import Tensor

from onward.data import Items
from onward.data.augmentation import simclr_augmentation
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import Backbone, BackboneSpec, build_backbone
from onward.nn.heads import projection_head
from onward.training.devices import seeded
from onward.training.embedding_models import Classification, refuse_one_class
from onward.training.image_models import train_image_model
from onward.training.images import Preparation, input_of
from onward.training.loop import Objective
from onward.training.losses import nt_xent
from onward.training.settings import (
    RunSettings,
    SupervisedContrastiveSettings,
    TrainingSettings,
)


class SupervisedContrastive(Objective):
    """Cross-entropy on the embeddings of two views, and NT-Xent behind a projection head."""

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        preparation: Preparation,
        settings: SupervisedContrastiveSettings,
    ) -> None:
        super().__init__()
        plain = TrainingSettings(label_smoothing=settings.label_smoothing)
        self.classification = Classification(backbone, classes, preparation, plain)
        self.head = projection_head(backbone.dim, settings.projection_dim)
        self.temperature, self.weight = settings.temperature, settings.weight

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of pixels and the positions of their classes."""
        pixels, classes = batch
        images = self.classification.preparation(torch.cat([pixels, pixels]))
        embeddings = self.classification.backbone(images)
        loss = self.classification.loss(embeddings, classes.repeat(2))
        projected = self.head(embeddings)
        with torch.autocast(pixels.device.type, enabled=False):
            return loss + self.weight * nt_xent(projected.float(), self.temperature)


def train_supervised_contrastive_model(
    items: Items,
    backbone: BackboneSpec,
    *,
    name: str,
    settings: SupervisedContrastiveSettings | None = None,
    input: InputSpec | None = None,
    seed: int = 0,
    run: RunSettings | None = None,
) -> EmbeddingModel:
    """Train a side-information model with labels and views at once.

    Arguments and errors are those of `train_embedding_model`.

    Returns:
        The model with its classifier, whose rows are in the order of `classes`.
    """
    settings, run = settings or SupervisedContrastiveSettings(), run or RunSettings()
    taken = input_of(backbone, input)
    refuse_one_class(items)
    augmentation = simclr_augmentation(
        taken.size, taken.channels, flip=settings.flip, strength=settings.strength
    )
    with seeded(seed, "first weights"):
        preparation = Preparation(taken, augmentation)
        network = build_backbone(backbone)
        objective = SupervisedContrastive(network, len(items.classes), preparation, settings)
    return train_image_model(
        objective,
        network,
        items,
        backbone,
        recipe="side-information by labels and views",
        name=name,
        taken=taken,
        settings=settings,
        seed=seed,
        run=run,
        labels_used=True,
        classifier=objective.classification.classifier_array,
    )
