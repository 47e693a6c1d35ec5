"""From an objective over images to an embedding model: what all kinds of models share."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from onward.data import Items
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import Backbone, BackboneSpec
from onward.spaces import Metric
from onward.training.devices import device_of
from onward.training.images import ImageBatches
from onward.training.loop import Objective, train
from onward.training.provenance import describe_items, made_by
from onward.training.settings import Optimization, RunSettings

Classifier = Callable[[], Float32[np.ndarray, "class dim"]]


def train_image_model(
    objective: Objective,
    network: Backbone,
    items: Items,
    backbone: BackboneSpec,
    *,
    recipe: str,
    name: str,
    taken: InputSpec,
    settings: Optimization,
    seed: int,
    run: RunSettings,
    labels_used: bool = False,
    classifier: Classifier | None = None,
    metric: Metric = "l2",
    facts: Mapping[str, Any] | None = None,
) -> EmbeddingModel:
    """Train an objective on images, and return the model of the network inside it.

    Args:
        objective: with its first weights.
        network: the part of the objective that is kept.
        items: what it is trained on.
        backbone: what the network was built from.
        recipe: what is done, such as "embedding model".
        name: what the model is called.
        taken: what its images are to be.
        settings: how it learns.
        seed: decides order and augmentation.
        run: on what machine, and where checkpoints go.
        labels_used: whether the model knows the items' classes.
        classifier: gives the classifier's rows once it is trained.
        metric: the distance of the model's space.
        facts: what else determines the result, as plain JSON values.

    Raises:
        DataError: if there are too few items, or an image cannot be opened.
        ConfigurationError: if settings do not fit together, or a checkpoint is another run's.
        ModelError: if the loss stops being finite.
    """
    described = {
        "data": dict(describe_items(items)),
        "backbone": backbone.model_dump(mode="json"),
        **(facts or {}),
    }
    batches = ImageBatches(items, taken, image_bytes=run.image_bytes)
    train(objective, batches, settings, seed=seed, what=described, run=run)
    device = device_of(run)
    return EmbeddingModel.of_backbone(
        network,
        backbone,
        name=name,
        input=taken,
        classes=items.classes if labels_used else None,
        classifier=None if classifier is None else classifier(),
        metric=metric,
        made_by=made_by(recipe, settings, seed=seed, run=run, device=device, **described),
        class_names=items.known_names if labels_used else None,
    )
