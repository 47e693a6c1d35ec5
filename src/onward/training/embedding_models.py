"""Supervised embedding models: the old model and the new one, trained by the same function.

Training knows nothing of other models: the new model is byte for byte the same whether or not an
old one exists. How a new model is made compatible instead stands in `backward_compatible`.

References:
    Ramanujan et al., Forward Compatible Training for Large-Scale Embedding Retrieval Systems,
    CVPR 2022, arXiv 2112.02805.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn.functional import normalize

from onward.data import Items
from onward.data.augmentation import simclr_augmentation, supervised_augmentation
from onward.errors import DataError
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import Backbone, BackboneSpec, build_backbone
from onward.nn.heads import projection_head
from onward.spaces import Metric
from onward.training.devices import device_of, seeded
from onward.training.image_models import train_image_model
from onward.training.images import Preparation, input_of
from onward.training.loop import Objective
from onward.training.losses import (
    classification_loss,
    contrastive_loss,
    metric_of,
)
from onward.training.settings import RunSettings, TrainingSettings

LENGTHS_OF = 1024  # items whose embeddings say how long embeddings are


class Classification(Objective):
    """The loss of a classifier on the embedding: softmax, arcface or cosface."""

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        preparation: Preparation,
        settings: TrainingSettings,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.preparation = preparation
        self.classifier = nn.Parameter(torch.empty(classes, backbone.dim))
        nn.init.kaiming_uniform_(self.classifier, a=math.sqrt(5))
        self.settings = settings

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of pixels and the positions of their classes."""
        pixels, classes = batch
        return self.loss(self.backbone(self.preparation(pixels)), classes)

    def loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """Return the mean loss of embeddings."""
        return classification_loss(embeddings, self.classifier, classes, self.settings)

    def classifier_array(self) -> Float32[np.ndarray, "class dim"]:
        """Return the rows whose products with an embedding are its logits, but for the margin.

        After arcface and cosface that holds for embeddings of length 1; see `fit_to_lengths`.
        """
        rows = self.classifier.detach()
        if self.settings.loss != "softmax":
            rows = normalize(rows, dim=1) * self.settings.scale
        array: np.ndarray = rows.cpu().numpy().astype(np.float32)
        return array


class SupervisedContrast(Objective):
    """Two views each of items of one class are to lie together, apart from other classes' views.

    As in the paper, the loss is taken behind a projection head, which is thrown away: what goes
    into the head is the embedding. The views are SimCLR's; the head has a BatchNorm more than the
    paper's. On several devices the other views are those on the same device.

    References:
        Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, arXiv 2004.11362.
    """

    def __init__(
        self, backbone: Backbone, preparation: Preparation, settings: TrainingSettings
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.preparation = preparation
        self.head = projection_head(backbone.dim, settings.projection_dim)
        self.temperature = settings.temperature

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of pixels and the positions of their classes."""
        pixels, classes = batch
        projected = self.head(self.backbone(self.preparation(torch.cat([pixels, pixels]))))
        with torch.autocast(pixels.device.type, enabled=False):
            return contrastive_loss(projected.float(), classes.repeat(2), self.temperature)


def train_embedding_model(
    items: Items,
    backbone: BackboneSpec,
    *,
    name: str,
    settings: TrainingSettings | None = None,
    input: InputSpec | None = None,
    metric: Metric | None = None,
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
        metric: the distance of its space; where left out, that which the loss trains: "l2" for
            softmax, "cosine" for the others.
        seed: decides first weights, order and augmentation.
        run: on what machine, and where checkpoints go.

    Returns:
        The model with its classifier, whose rows are in the order of `classes`: its products with
        embeddings are their logits (after arcface and cosface, of embeddings of the mean length and
        without margin). The loss supcon has no classifier, and gives none.

    Raises:
        DataError: if there are fewer than two classes or two items, or an image cannot be opened.
        ConfigurationError: if settings do not fit together, or a checkpoint is another run's.
        ModelError: if the backbone cannot be built or the loss stops being finite.
    """
    settings, run = settings or TrainingSettings(), run or RunSettings()
    taken = input_of(backbone, input)
    objective = _start(items, backbone, taken, settings, seed)
    model = train_image_model(
        objective,
        objective.backbone,
        items,
        backbone,
        recipe="embedding model",
        name=name,
        taken=taken,
        settings=settings,
        seed=seed,
        run=run,
        labels_used=True,
        classifier=objective.classifier_array if isinstance(objective, Classification) else None,
        metric=metric or metric_of(settings.loss),
    )
    return fit_to_lengths(model, items, settings, run)


def start_classification(
    items: Items,
    backbone: BackboneSpec,
    taken: InputSpec,
    settings: TrainingSettings,
    seed: int,
) -> Classification:
    """Return the objective with its first weights, which depend on the seed and the specs alone.

    Raises:
        DataError: if there are fewer than two classes, or an item's class is not known.
    """
    refuse_one_class(items)
    augmentation = None
    if settings.augment:
        augmentation = supervised_augmentation(taken.size, taken.channels, settings.flip)
    with seeded(seed, "first weights"):
        network = build_backbone(backbone)
        preparation = Preparation(taken, augmentation)
        return Classification(network, len(items.classes), preparation, settings)


def fit_to_lengths(
    model: EmbeddingModel, items: Items, settings: TrainingSettings, run: RunSettings
) -> EmbeddingModel:
    """Return a model whose classifier serves on its embeddings as they are.

    Arcface and cosface look at directions alone, and embeddings are of any length. Their rows are
    divided by the mean length of the embeddings of some of the items, evenly chosen. What softmax
    learned is left as it is.
    """
    if model.classifier is None or settings.loss == "softmax":
        return model
    some = items.select(np.linspace(0, len(items) - 1, min(len(items), LENGTHS_OF)).astype(int))
    vectors = model.embed(some, device=device_of(run)).vectors
    length = float(np.linalg.norm(vectors, axis=1).mean())
    return replace(model, classifier=model.classifier / np.float32(length))


def refuse_one_class(items: Items) -> None:
    """Refuse items that labels cannot teach anything about.

    Raises:
        DataError: if there are fewer than two classes, or an item's class is not known.
    """
    unknown = int((items.labels < 0).sum())
    if unknown:
        raise DataError(
            f"the class of {unknown:,} of {len(items):,} items of {items.source} is not known "
            "(their labels are negative), and a supervised model learns from all; name the classes "
            "to learn from (--classes 0-9), or leave these out: items.select(items.labels >= 0)"
        )
    if len(items.classes) < 2:
        raise DataError(
            f"{items.source} has {len(items.classes)} class(es); a supervised model needs at "
            "least 2. Give items of more classes, or train without labels by SimCLR"
        )


def _start(
    items: Items,
    backbone: BackboneSpec,
    taken: InputSpec,
    settings: TrainingSettings,
    seed: int,
) -> Classification | SupervisedContrast:
    if settings.loss != "supcon":
        return start_classification(items, backbone, taken, settings, seed)
    refuse_one_class(items)
    augmentation = None
    if settings.augment:
        augmentation = simclr_augmentation(taken.size, taken.channels, flip=settings.flip)
    with seeded(seed, "first weights"):
        preparation = Preparation(taken, augmentation)
        return SupervisedContrast(build_backbone(backbone), preparation, settings)
