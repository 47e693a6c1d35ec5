"""Embedding models that learn from images: one function, whose settings choose what is learned.

Old, side-information, new and backward compatible models are trained alike: an objective stands on
a backbone, the loop minimises it, and the backbone is kept. A model knows of other models only
where settings bind it to one: a new model is byte for byte the same whether or not an old one
exists. Losses come from pytorch-metric-learning where it has them, computed in float32.

References:
    Ramanujan et al., Forward Compatible Training for Large-Scale Embedding Retrieval Systems,
    CVPR 2022, arXiv 2112.02805.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear, normalize

from onward.data import Items
from onward.data.augmentation import simclr_augmentation, supervised_augmentation
from onward.errors import ConfigurationError, DataError, MissingExtraError
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import Backbone, BackboneSpec, build_backbone
from onward.spaces import Metric
from onward.training.devices import device_of, seeded
from onward.training.fit.pairs import Classifier
from onward.training.images import ImageBatches, Pixels, Preparation, describe_items
from onward.training.loop import Objective, train
from onward.training.settings import (
    BackwardCompatibleSettings,
    FrozenSettings,
    Loss,
    ModelSettings,
    RunSettings,
    SimCLRSettings,
    TrainingSettings,
    made_by,
    metric_of,
    versions,
)

Vectors = Float[Tensor, "item dim"]
Views = Float[Tensor, "view dim"]
Rows = Float[Tensor, "class dim"]
Positions = Int64[Tensor, " item"]

LENGTHS_OF = 1024  # items whose embeddings say how long embeddings are
COSINE_SCALE = 30  # multiplies the cosines of a new classifier that is normalised


class ImageObjective(Objective):
    """What a backbone learns by: a loss on pixels and the positions of their classes.

    Attributes:
        backbone: what is kept of it.
        preparation: from pixels to images.
        views: how many of each image it is given: all first views, then all second views.
    """

    views = 1

    def __init__(self, backbone: Backbone, preparation: Preparation) -> None:
        super().__init__()
        self.backbone, self.preparation = backbone, preparation

    def embed(self, pixels: Pixels) -> Views:
        """Return the embeddings of all views."""
        vectors: Views = self.backbone(self.preparation(pixels))
        return vectors

    def classifier_array(self) -> Float32[np.ndarray, "class dim"] | None:
        """Return the classifier that was learned beside the backbone; None where there is none."""
        return None


Build = Callable[[Backbone, int, InputSpec], ImageObjective]
"""Puts an objective on a backbone, given the number of classes and what the images are to be."""


class Classification(ImageObjective):
    """The loss of a classifier on the embedding: softmax, arcface or cosface."""

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        preparation: Preparation,
        settings: TrainingSettings,
    ) -> None:
        super().__init__(backbone, preparation)
        self.classifier = nn.Parameter(torch.empty(classes, backbone.dim))
        nn.init.kaiming_uniform_(self.classifier, a=math.sqrt(5))
        self.settings = settings

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of pixels and the positions of their classes."""
        pixels, classes = batch
        return self.loss(self.embed(pixels), classes.repeat(self.views))

    def loss(self, embeddings: Vectors, classes: Positions) -> Tensor:
        """Return the mean loss of embeddings."""
        return classification_loss(embeddings, self.classifier, classes, self.settings)

    def classifier_array(self) -> Float32[np.ndarray, "class dim"]:
        """Return the rows whose products with an embedding are its logits, but for the margin.

        After arcface and cosface that holds for embeddings of length 1; see `_fit_to_lengths`.
        """
        rows = self.classifier.detach()
        if self.settings.loss != "softmax":
            rows = normalize(rows, dim=1) * self.settings.scale
        array: np.ndarray = rows.cpu().numpy().astype(np.float32)
        return array


class BackwardCompatible(Classification):
    """The new classifier's loss, and that of a frozen old one on the items whose class it knows.

    No transformation is needed afterwards, for the new model's embeddings are compared with the old
    ones directly. That costs the new model quality, which forward compatible training avoids.

    References:
        Shen et al., Towards Backward-Compatible Representation Learning, CVPR 2020,
        arXiv 2003.11942.
    """

    settings: BackwardCompatibleSettings
    old_classifier: Tensor
    old_position: Tensor

    def hold_to(self, classifier: Rows, position: Positions) -> None:
        """Hold the embeddings to an old classifier.

        Args:
            classifier: one row for each class that it knows.
            position: for each class of the items its row there, or -1.
        """
        self.register_buffer("old_classifier", classifier)
        self.register_buffer("old_position", position)

    def loss(self, embeddings: Vectors, classes: Positions) -> Tensor:
        """Return the mean loss of embeddings, and of those of old classes the weighted old one."""
        unit = normalize(embeddings, dim=1)
        if self.settings.normalised == "embeddings":
            embeddings = unit
        if self.settings.normalised == "new classifier":
            rows = normalize(self.classifier, dim=1) * COSINE_SCALE
            loss = classification_loss(unit, rows, classes, self.settings)
        else:
            loss = super().loss(embeddings, classes)
        old_classes = self.old_position[classes]
        known = old_classes >= 0
        if not known.any():
            return loss
        old_classifier = self.old_classifier.to(embeddings.dtype)
        old_loss = classification_loss(
            embeddings[known], old_classifier, old_classes[known], self.settings
        )
        return loss + self.settings.weight * old_loss

    def classifier_array(self) -> Float32[np.ndarray, "class dim"]:
        """Return the rows whose products with an embedding are its logits.

        Where embeddings are normalised before them: with one of length 1.
        """
        rows = super().classifier_array()
        if self.settings.normalised == "new classifier":
            rows *= COSINE_SCALE / np.linalg.norm(rows, axis=1, keepdims=True)
        return rows


class Contrast(ImageObjective):
    """Two views of each image are to lie together, apart from all other views.

    By class, those of all images of one class are (supervised contrastive learning). As in the
    papers, the loss is taken behind a projection head, which is thrown away: what goes into the
    head is the embedding. On several devices the other views are those on the same device.

    References:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML
        2020, arXiv 2002.05709. Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, arXiv
        2004.11362, whose head has no BatchNorm.
    """

    views = 2

    def __init__(
        self,
        backbone: Backbone,
        preparation: Preparation,
        settings: SimCLRSettings | TrainingSettings,
        *,
        by_class: bool,
    ) -> None:
        super().__init__(backbone, preparation)
        self.head = projection_head(backbone.dim, settings.projection_dim)
        self.temperature, self.by_class = settings.temperature, by_class

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of pixels and the positions of their classes."""
        pixels, classes = batch
        projected = self.head(self.embed(pixels))
        with torch.autocast(pixels.device.type, enabled=False):
            labels = classes.repeat(self.views) if self.by_class else None
            return contrastive_loss(projected.float(), self.temperature, labels)


def classification_loss(
    embeddings: Vectors, classifier: Rows, positions: Positions, settings: TrainingSettings
) -> Tensor:
    """Return the mean loss of a classifier, by the settings' loss: softmax, arcface or cosface.

    Args:
        classifier: one row a class; arcface and cosface look at their directions alone.
        positions: for each item the row of its class.

    Raises:
        MissingExtraError: if pytorch-metric-learning is needed and not installed.
    """
    if settings.loss == "softmax":
        logits = linear(embeddings, classifier)
        return cross_entropy(logits, positions, label_smoothing=settings.label_smoothing)
    margin_loss = _margin_loss(
        settings.loss, *classifier.shape, settings.margin_or_default, settings.scale
    )
    with torch.autocast(embeddings.device.type, enabled=False):
        weights = {"W": classifier.float().T}
        loss: Tensor = functional_call(margin_loss, weights, (embeddings.float(), positions))
    return loss


def contrastive_loss(
    views: Views, temperature: float, labels: Int64[Tensor, " view"] | None = None
) -> Tensor:
    """Return the contrastive loss: views of one label, or of one image, against all others.

    For view i with partners P(i), of the same label, and the cosine c: the mean over i, and over p
    in P(i), of `-log(exp(c_ip / t) / sum over k != i of exp(c_ik / t))`. Of the two views of each
    image that is NT-Xent.

    Args:
        views: the first views of all images, then the second views in the same order.
        temperature: t.
        labels: of the views; without any, each image is a label of its own.

    Raises:
        MissingExtraError: if pytorch-metric-learning is not installed.

    References:
        Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, equation 2.
    """
    if labels is None:
        labels = torch.arange(len(views) // 2, device=views.device).repeat(2)
    loss: Tensor = _library().SupConLoss(temperature=temperature)(views, labels)
    return loss


@lru_cache(maxsize=8)
def _margin_loss(loss: Loss, classes: int, dim: int, margin: float, scale: float) -> nn.Module:
    """Return the library's loss without weights of its own: they are given at each call."""
    library = _library()
    sizes: dict[str, Any] = {"num_classes": classes, "embedding_size": dim, "scale": scale}
    with torch.device("meta"):
        if loss == "arcface":
            module: nn.Module = library.ArcFaceLoss(margin=math.degrees(margin), **sizes)
        else:
            module = library.CosFaceLoss(margin=margin, **sizes)
    return module


def _library() -> Any:
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise MissingExtraError("pytorch-metric-learning", "train") from error
    return losses


def projection_head(dim: int, projection_dim: int) -> nn.Sequential:
    """Return SimCLR's head: a hidden layer as wide as the embedding, and a linear one."""
    return nn.Sequential(
        nn.Linear(dim, dim, bias=False),
        nn.BatchNorm1d(dim),
        nn.ReLU(),
        nn.Linear(dim, projection_dim),
    )


def train_model(
    images: Items | None,
    settings: ModelSettings | FrozenSettings,
    backbone: BackboneSpec,
    *,
    name: str,
    input: InputSpec | None = None,
    metric: Metric | None = None,
    seed: int = 0,
    run: RunSettings | None = None,
    old_model: EmbeddingModel | None = None,
    same_labels: bool = False,
    build: Build | None = None,
) -> EmbeddingModel:
    """Train an embedding model on images.

    Args:
        images: all are used; leave out what is to be held out. For side-information: those that
            the old model was trained on, for the claim of forward compatible training to hold.
            `None` for a frozen model, which learns from nothing.
        settings: what is learned, and how. `TrainingSettings`: to tell the classes apart.
            `SimCLRSettings`: side-information, without labels. `BackwardCompatibleSettings`: to
            tell the classes apart by embeddings that suit the old model's classifier too.
            `FrozenSettings`: nothing; the backbone is taken as it is, with pretrained weights or
            random ones.
        backbone: the network. With pretrained weights that are frozen, `dim` is None or left out,
            which both mean the network's own pooled output.
        name: what the model is called; the digest of its weights is added for its space.
        input: what its images are to be; what the backbone wants where left out.
        metric: the distance of its space; where left out, that which the settings train: "cosine"
            for the losses arcface, cosface and supcon, the old model's for a backward compatible
            one, "l2" for the others.
        seed: decides first weights, order and augmentation.
        run: on what machine, and where checkpoints go.
        old_model: for `BackwardCompatibleSettings` alone. Its classifier is used, frozen; and its
            embeddings, where new classes get a row in it.
        same_labels: if only the images or only the old model have class names, the numbers of the
            others mean the same. Where both have names, classes go by these.
        build: the objective of settings that are none of these.

    Returns:
        The model; in a space of its own also if it is backward compatible. Where it learned a
        classifier, that has its rows in the order of `classes`, and its products with embeddings
        are their logits (after arcface and cosface, of embeddings of the mean length and without
        margin). The loss supcon has no classifier, and gives none.

    Raises:
        DataError: if there are too few images, fewer than two classes for settings that need
            labels, or an image cannot be opened.
        ConfigurationError: if the settings, the backbone and the old model do not fit together, or
            a checkpoint is another run's.
        LabelMismatchError: if only the images or only the old model have class names, and
            `same_labels` is false.
        ModelError: if the backbone cannot be built or takes other images than the input says, its
            pretrained weights cannot be had, or the loss stops being finite.
        MissingExtraError: if a package that is needed is not installed.
    """
    input_spec, run = InputSpec.of_spec(backbone, input), run or RunSettings()
    if isinstance(settings, FrozenSettings):
        return _frozen(backbone, input_spec, name=name, metric=metric or "l2", seed=seed)
    items, device = _check(images, settings, old_model), device_of(run)
    objective = start(items, backbone, input_spec, settings, seed, build=build)
    described: dict[str, Any] = {
        "data": dict(describe_items(items)),
        "backbone": backbone.model_dump(mode="json"),
    }
    if old_model is not None and isinstance(objective, BackwardCompatible):
        objective.hold_to(*_old_rows(old_model, items, objective, same_labels, device))
        if objective.settings.start == "old model":
            _start_from(old_model, objective, backbone)
        described["old model"] = old_model.space.to_json()
    if input_spec.crop_share != 1:
        described["crop_share"] = input_spec.crop_share
    batches = ImageBatches(
        items,
        input_spec,
        image_bytes=run.image_bytes,
        views=objective.views,
        least_crop=settings.least_crop,
        seed=seed,
    )
    train(objective, batches, settings, seed=seed, what=described, run=run)
    model = EmbeddingModel.of_backbone(
        objective.backbone,
        backbone,
        name=name,
        input=input_spec,
        classes=items.classes if settings.labelled else None,
        classifier=objective.classifier_array(),
        metric=metric or _metric_of(settings, old_model),
        made_by=made_by(settings.recipe, settings, seed=seed, run=run, device=device, **described),
        class_names=items.known_names if settings.labelled else None,
    )
    return _fit_to_lengths(model, items, settings, device)


def start(
    items: Items,
    backbone: BackboneSpec,
    input_spec: InputSpec,
    settings: ModelSettings,
    seed: int,
    *,
    build: Build | None = None,
) -> ImageObjective:
    """Return the objective with its first weights, which depend on the seed and the specs alone."""
    size, channels, classes = input_spec.size, input_spec.channels, len(items.classes)
    cropped = settings.least_crop is not None
    with seeded(seed, "first weights"):
        network = build_backbone(backbone)
        if build is not None:
            return build(network, classes, input_spec)
        if isinstance(settings, SimCLRSettings):
            views = simclr_augmentation(
                size, channels, flip=settings.flip, strength=settings.strength, cropped=cropped
            )
            return Contrast(network, Preparation(input_spec, views), settings, by_class=False)
        assert isinstance(settings, TrainingSettings)  # noqa: S101  # others come with `build`
        by_class = settings.loss == "supcon"
        shown = supervised_augmentation(size, settings.flip, cropped=cropped)
        if by_class:
            shown = simclr_augmentation(size, channels, flip=settings.flip, cropped=cropped)
        preparation = Preparation(input_spec, shown if settings.augment else None)
        if by_class:
            return Contrast(network, preparation, settings, by_class=True)
        bound = isinstance(settings, BackwardCompatibleSettings)
        kind = BackwardCompatible if bound else Classification
        return kind(network, classes, preparation, settings)


def _frozen(
    backbone: BackboneSpec, input_spec: InputSpec, *, name: str, metric: Metric, seed: int
) -> EmbeddingModel:
    """Return a model that learns nothing.

    With random weights it is there to compare with: what they are worth as side-information is what
    the mere size of a second vector is worth.
    """
    if backbone.pretrained and "dim" not in backbone.model_fields_set:
        backbone = backbone.model_copy(update={"dim": None})
    if backbone.pretrained and backbone.dim is not None:
        raise ConfigurationError(
            f"{backbone.name} with pretrained weights was asked for {backbone.dim} dimensions",
            "the "
            "layer that brings it to them would be random. Leave dim out for its own output, or "
            "train it",
        )
    with seeded(seed, "first weights"):
        network = build_backbone(backbone)
    described = backbone.model_dump(mode="json")
    origin = {
        "recipe": FrozenSettings.recipe,
        "seed": seed,
        "backbone": described,
        "versions": versions(described),
    }
    return EmbeddingModel.of_backbone(
        network, backbone, name=name, input=input_spec, metric=metric, made_by=origin
    )


def _check(
    images: Items | None, settings: ModelSettings, old_model: EmbeddingModel | None
) -> Items:
    """Return the images, if something can be learned from them by these settings."""
    if images is None:
        raise ConfigurationError(
            f"{type(settings).__name__} was given without images to learn from",
            "give some, or FrozenSettings for a backbone as it is",
        )
    bound = isinstance(settings, BackwardCompatibleSettings)
    if bound != (old_model is not None):
        raise ConfigurationError(
            f"{type(settings).__name__} was given with{'out' if bound else ''} an old model",
            "give both BackwardCompatibleSettings and old_model, or neither",
            needed="backward compatible training needs one, and no other training knows of it",
        )
    if settings.labelled:
        _refuse_one_class(images)
    if old_model is not None and isinstance(settings, BackwardCompatibleSettings):
        _refuse_another_loss(old_model, settings)
    return images


def _refuse_one_class(items: Items) -> None:
    unknown = int((items.labels < 0).sum())
    if unknown:
        raise DataError(
            f"the class of {unknown:,} of {len(items):,} items of {items.source} is not known "
            "(their labels are negative), and a supervised model learns from all",
            "name the classes to learn from, or leave these items out: "
            "items.select(items.labels >= 0)",
        )
    if len(items.classes) < 2:
        raise DataError(
            f"{items.source} has {len(items.classes)} class(es)",
            "give items of more classes, or train without labels by SimCLR",
            needed="a supervised model needs at least 2",
        )


def _refuse_another_loss(old_model: EmbeddingModel, settings: BackwardCompatibleSettings) -> None:
    """Refuse to hold embeddings to rows that were made for embeddings of another kind."""
    loss_of_old = old_model.made_by.get("settings", {}).get("loss", "softmax")
    if settings.loss == "supcon":
        raise ConfigurationError(
            "the loss supcon has no classifier, and backward compatible training needs one",
            f"give the old model's loss, which is {loss_of_old}",
        )
    if metric_of(settings.loss) != metric_of(loss_of_old):
        raise ConfigurationError(
            f"{old_model.space.name} learned by the loss {loss_of_old}, the new model is to learn "
            f"by {settings.loss}, whose classifiers are not made for the same embeddings",
            f"give loss = {loss_of_old}",
        )


def _metric_of(settings: ModelSettings, old_model: EmbeddingModel | None) -> Metric:
    """Return the metric of the space that is made, which may be the old model's."""
    if old_model is None or settings.metric == "cosine":
        return settings.metric
    return old_model.space.metric


def _old_rows(
    old_model: EmbeddingModel,
    items: Items,
    objective: BackwardCompatible,
    same_labels: bool,
    device: str,
) -> tuple[Rows, Positions]:
    """Return the old classifier, and for each class of the items its row there, or -1."""
    dim = objective.backbone.dim
    if old_model.space.dim != dim:
        raise ConfigurationError(
            f"the old model has {old_model.space.dim} dimensions, the new backbone {dim}",
            f"backward "
            f"compatible embeddings are compared directly. Give the backbone dim = "
            f"{old_model.space.dim}",
        )
    if objective.settings.old_classifier == "class means":
        by_direction = "cosine" in (old_model.space.metric, objective.settings.metric)
        means = _class_means(old_model, items, device, normalised=by_direction)
        return means, torch.arange(len(means))
    old = Classifier.of(old_model)
    known = old.numbered_as(items.known_names, same_labels=same_labels)
    position = torch.from_numpy(known.rows_of(np.array(items.classes)))
    if (position < 0).all():
        raise ConfigurationError(
            f"{old_model.space.name} knows none of the {len(items.classes)} classes of "
            f"{items.source}",
            needed="backward compatible training needs items of old classes",
        )
    return torch.from_numpy(old.weight.copy()), position


def _class_means(model: EmbeddingModel, items: Items, device: str, *, normalised: bool) -> Rows:
    """Return the mean of a model's embeddings of each class, in the order of the items' classes.

    Args:
        normalised: bring the embeddings to length 1 before; the means are shorter.
    """
    vectors = torch.from_numpy(model.embed(items, device=device).vectors.copy())
    if normalised:
        vectors = normalize(vectors, dim=1)
    labels = torch.from_numpy(items.labels.copy())
    return torch.stack([vectors[labels == label].mean(dim=0) for label in items.classes])


def _start_from(
    old_model: EmbeddingModel, objective: BackwardCompatible, backbone: BackboneSpec
) -> None:
    """Give the backbone the old model's weights."""
    described = {"kind": "backbone", "backbone": backbone.model_dump()}
    of_old = old_model.engine.to_json()
    if of_old != described:
        raise ConfigurationError(
            f"start is 'old model', whose network is {of_old.get('backbone', of_old)}, and the new "
            f"one is {described['backbone']}",
            "give both the same network, or start = 'random'",
        )
    weights, _ = old_model.engine.content()
    state = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    objective.backbone.load_state_dict(state)


def _fit_to_lengths(
    model: EmbeddingModel, items: Items, settings: ModelSettings, device: str
) -> EmbeddingModel:
    """Return a model whose classifier serves on its embeddings as they are.

    Arcface and cosface look at directions alone, and embeddings are of any length. Their rows are
    divided by the mean length of the embeddings of some of the items, evenly chosen. What softmax
    learned is left as it is.
    """
    if model.classifier is None or settings.metric == "l2":
        return model
    some = items.select(np.linspace(0, len(items) - 1, min(len(items), LENGTHS_OF)).astype(int))
    vectors = model.embed(some, device=device).vectors
    length = float(np.linalg.norm(vectors, axis=1).mean())
    return replace(model, classifier=model.classifier / np.float32(length))
