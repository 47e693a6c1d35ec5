"""Backward compatible training: the baseline whose new model is bound to the old one.

No transformation is needed afterwards, for the new model's embeddings are compared with the old
ones directly. That costs the new model quality, which is what forward compatible training avoids.

References:
    Shen et al., Towards Backward-Compatible Representation Learning, CVPR 2020, arXiv 2003.11942.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from onward.data import Items
from onward.errors import ConfigurationError
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import BackboneSpec
from onward.training.classifiers import Classifier
from onward.training.devices import device_of
from onward.training.embedding_models import (
    Classification,
    fit_to_lengths,
    start_classification,
)
from onward.training.image_models import train_image_model
from onward.training.images import input_of
from onward.training.loop import Objective
from onward.training.losses import classification_loss, metric_of
from onward.training.settings import BackwardCompatibleSettings, RunSettings


class BackwardCompatible(Objective):
    """The new classifier's loss, and the frozen old one's on the items it knows.

    Args:
        new: backbone and new classifier.
        old_classifier: one row a class that the old model knows.
        old_position: for each class of the items, its row in the old classifier, or -1.
        weight: of the old classifier's cross-entropy.
    """

    old_classifier: Tensor
    old_position: Tensor

    def __init__(
        self, new: Classification, old_classifier: Tensor, old_position: Tensor, weight: float
    ) -> None:
        super().__init__()
        self.new = new
        self.weight = weight
        self.register_buffer("old_classifier", old_classifier)
        self.register_buffer("old_position", old_position)

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of pixels and the positions of their classes."""
        pixels, classes = batch
        embeddings = self.new.backbone(self.new.preparation(pixels))
        loss = self.new.loss(embeddings, classes)
        old_classes = self.old_position[classes]
        known = old_classes >= 0
        if not known.any():
            return loss
        old_loss = classification_loss(
            embeddings[known],
            self.old_classifier.to(embeddings.dtype),
            old_classes[known],
            self.new.settings,
        )
        return loss + self.weight * old_loss


def train_backward_compatible_model(
    items: Items,
    backbone: BackboneSpec,
    *,
    old_model: EmbeddingModel,
    name: str,
    settings: BackwardCompatibleSettings | None = None,
    input: InputSpec | None = None,
    seed: int = 0,
    run: RunSettings | None = None,
    same_labels: bool = False,
) -> EmbeddingModel:
    """Train a model whose embeddings suit the old model's classifier too.

    The old classifier's term is of the same loss as the new one's.

    Args:
        items: of the classes that the new model is to know.
        old_model: its classifier is used, frozen; and its embeddings, where the new classes get a
            row in it.
        settings: how it learns, the weight of the old classifier, and what becomes of new classes.
        same_labels: if only the items or only the old model have class names, the numbers of the
            others mean the same. Where both have names, classes go by these.

    The other arguments, and errors, are those of `train_embedding_model`.

    Returns:
        The model, in a space of its own. Comparing its embeddings with the old model's is this
        baseline's claim; `Embeddings` of both must be put into one space by hand for it.

    Raises:
        ConfigurationError: if the old model has no classifier, another number of dimensions or
            learned by another kind of loss, or knows none of the classes.
        LabelMismatchError: if only the items or only the old model have class names, and
            `same_labels` is false.
    """
    settings, run = settings or BackwardCompatibleSettings(), run or RunSettings()
    taken = input_of(backbone, input)
    _refuse_another_loss(old_model, settings)
    new = start_classification(items, backbone, taken, settings, seed)
    classifier, position = _old_classifier(old_model, items, new.backbone.dim, same_labels)
    if settings.new_classes == "old class means":
        means = _class_means(old_model, items, position, classifier, device_of(run))
        position = _after(position, len(classifier))
        classifier = torch.cat([classifier, means])
    objective = BackwardCompatible(new, classifier, position, settings.weight)
    model = train_image_model(
        objective,
        new.backbone,
        items,
        backbone,
        recipe="backward compatible model",
        name=name,
        taken=taken,
        settings=settings,
        seed=seed,
        run=run,
        labels_used=True,
        classifier=new.classifier_array,
        metric=old_model.space.metric,
        facts={"old model": old_model.space.to_json()},
    )
    return fit_to_lengths(model, items, settings, run)


def _refuse_another_loss(old_model: EmbeddingModel, settings: BackwardCompatibleSettings) -> None:
    """Refuse to hold embeddings to rows that were made for embeddings of another kind."""
    loss_of_old = old_model.made_by.get("settings", {}).get("loss", "softmax")
    if settings.loss == "supcon":
        raise ConfigurationError(
            "the loss supcon has no classifier, and backward compatible training needs one; give "
            f"the old model's loss, which is {loss_of_old}"
        )
    if metric_of(settings.loss) != metric_of(loss_of_old):
        raise ConfigurationError(
            f"{old_model.space.name} learned by the loss {loss_of_old}, the new model is to learn "
            f"by {settings.loss}, whose classifiers are not made for the same embeddings; give "
            f"loss = {loss_of_old}"
        )


def _class_means(
    old_model: EmbeddingModel, items: Items, position: Tensor, classifier: Tensor, device: str
) -> Tensor:
    """Return a row for each class that the old classifier lacks: the mean of its embeddings.

    In a space of directions embeddings count by their direction. Each mean is brought to the mean
    length of the old classifier's rows: a mean of embeddings has another length than a row that
    was learned, and would weigh more or less than those.
    """
    new_classes = [label for label, row in zip(items.classes, position, strict=True) if row < 0]
    if not new_classes:
        return classifier[:0]
    of_new = items.of_classes(new_classes)
    vectors = torch.from_numpy(old_model.embed(of_new, device=device).vectors.copy())
    if old_model.space.metric == "cosine":
        vectors = normalize(vectors)
    labels = torch.from_numpy(of_new.labels.copy())
    means = torch.stack([vectors[labels == label].mean(dim=0) for label in new_classes])
    rows: Tensor = normalize(means) * classifier.norm(dim=1).mean()
    return rows


def _after(position: Tensor, rows: int) -> Tensor:
    """Return the positions with those that are missing counted on after the last row."""
    missing = position < 0
    numbered = rows + torch.cumsum(missing, dim=0) - 1
    return torch.where(missing, numbered, position)


def _old_classifier(
    old_model: EmbeddingModel, items: Items, dim: int, same_labels: bool
) -> tuple[Tensor, Tensor]:
    """Return the old classifier, and for each class of the items its row there, or -1."""
    if old_model.classifier is None or old_model.classes is None:
        raise ConfigurationError(
            f"{old_model.space.name} has no classifier, which backward compatible training is "
            "bound to; give an old model that was trained with labels"
        )
    if old_model.space.dim != dim:
        raise ConfigurationError(
            f"the old model has {old_model.space.dim} dimensions, the new backbone {dim}; backward "
            f"compatible embeddings are compared directly. Give the backbone dim = "
            f"{old_model.space.dim}"
        )
    names = items.known_names
    known = Classifier.of(old_model).numbered_as(names, same_labels=same_labels)
    row_of = {label: row for row, label in enumerate(known.classes)}
    position = torch.tensor([row_of.get(label, -1) for label in items.classes])
    if (position < 0).all():
        raise ConfigurationError(
            f"{old_model.space.name} knows none of the {len(items.classes)} classes of "
            f"{items.source}; backward compatible training needs items of old classes"
        )
    return torch.from_numpy(old_model.classifier.copy()), position
