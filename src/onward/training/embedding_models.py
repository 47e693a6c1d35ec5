"""Supervised embedding models: the old model and the new one, trained by the same function.

Training knows nothing of other models: the new model is byte for byte the same whether or not an
old one exists. How a new model is made compatible instead stands in `backward_compatible`.

References:
    Ramanujan et al., Forward Compatible Training for Large-Scale Embedding Retrieval Systems,
    CVPR 2022, arXiv 2112.02805.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from onward.data import Items
from onward.data.augmentation import supervised_augmentation
from onward.errors import DataError
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import Backbone, BackboneSpec, build_backbone
from onward.spaces import Metric
from onward.training.devices import device_of, seeded
from onward.training.images import ImageBatches, Preparation, input_of
from onward.training.loop import Objective, train
from onward.training.provenance import describe_items, made_by
from onward.training.settings import RunSettings, TrainingSettings


class Classification(Objective):
    """Cross-entropy of a linear classifier without bias on the embedding."""

    def __init__(
        self, backbone: Backbone, classes: int, preparation: Preparation, label_smoothing: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.preparation = preparation
        self.classifier = nn.Parameter(torch.empty(classes, backbone.dim))
        nn.init.kaiming_uniform_(self.classifier, a=math.sqrt(5))
        self.label_smoothing = label_smoothing

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of pixels and the positions of their classes."""
        pixels, classes = batch
        return self.loss(self.backbone(self.preparation(pixels)), classes)

    def loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """Return the mean cross-entropy of embeddings."""
        logits = linear(embeddings, self.classifier)
        return cross_entropy(logits, classes, label_smoothing=self.label_smoothing)


def train_embedding_model(
    items: Items,
    backbone: BackboneSpec,
    *,
    name: str,
    settings: TrainingSettings | None = None,
    input: InputSpec | None = None,
    metric: Metric = "l2",
    seed: int = 0,
    run: RunSettings | None = None,
) -> EmbeddingModel:
    """Train a model to tell the classes of the items apart.

    Args:
        items: all are used; leave out what is to be held out.
        backbone: the network.
        name: what the model is called; the digest of its weights is added for its space.
        settings: how it learns.
        input: what its images are to be; what the backbone wants where left out.
        metric: the distance of its space.
        seed: decides first weights, order and augmentation.
        run: on what machine, and where checkpoints go.

    Returns:
        The model with its classifier, whose rows are in the order of `classes`.

    Raises:
        DataError: if there are fewer than two classes or two items, or an image cannot be opened.
        ConfigurationError: if settings do not fit together, or a checkpoint is another run's.
        ModelError: if the backbone cannot be built or the loss stops being finite.
    """
    settings, run = settings or TrainingSettings(), run or RunSettings()
    taken = input_of(backbone, input)
    objective = start_classification(items, backbone, taken, settings, seed)
    facts = {"data": dict(describe_items(items)), "backbone": backbone.model_dump(mode="json")}
    batches = ImageBatches(items, taken, image_bytes=run.image_bytes)
    train(objective, batches, settings, seed=seed, what=facts, run=run)
    return EmbeddingModel.of_backbone(
        objective.backbone,
        backbone,
        name=name,
        input=taken,
        classes=items.classes,
        classifier=objective.classifier.numpy().astype(np.float32),
        metric=metric,
        made_by=made_by(
            "embedding model", settings, seed=seed, run=run, device=device_of(run), **facts
        ),
    )


def start_classification(
    items: Items,
    backbone: BackboneSpec,
    taken: InputSpec,
    settings: TrainingSettings,
    seed: int,
) -> Classification:
    """Return the objective with its first weights, which depend on the seed and the specs alone.

    Raises:
        DataError: if there are fewer than two classes.
    """
    if len(items.classes) < 2:
        raise DataError(
            f"{items.source} has {len(items.classes)} class(es); a supervised model needs at "
            "least 2. Give items of more classes, or train without labels by SimCLR"
        )
    augmentation = None
    if settings.augment:
        augmentation = supervised_augmentation(taken.size, taken.channels, settings.flip)
    with seeded(seed, "first weights"):
        network = build_backbone(backbone)
        return Classification(
            network, len(items.classes), Preparation(taken, augmentation), settings.label_smoothing
        )
