"""What can be set about a training: frozen values that determine a run, read without torch.

`TrainingSettings`, `SimCLRSettings`, `FitSettings` and their like say *what* is learned: with the
data and the seed they determine the result. `RunSettings` says *how* it is carried out, and
`made_by` what a result says of both. Nothing here trains.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

import onward
from onward.errors import ConfigurationError
from onward.nn.specs import TIMM
from onward.progress import Progress, silent

if TYPE_CHECKING:
    from onward.spaces import Metric

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]

Method = Literal["auto", "ensemble", "ridge", "mlp", "procrustes"]
FCT_METHODS: tuple[Method, ...] = ("auto", "ensemble", "mlp")
"""Those that train the FCT network."""
Loss = Literal["softmax", "arcface", "cosface", "supcon"]
S = TypeVar("S", bound=BaseModel)

OF_LOSS: Mapping[Loss, frozenset[str]] = {
    "softmax": frozenset(),
    "arcface": frozenset({"margin", "scale"}),
    "cosface": frozenset({"margin", "scale"}),
    "supcon": frozenset({"temperature", "projection_dim"}),
}
"""The settings that belong to a loss alone."""


def metric_of(loss: Loss) -> "Metric":
    """Return the metric of the space that a loss makes: all but softmax train directions."""
    return "l2" if loss == "softmax" else "cosine"


class Optimization(BaseModel):
    """How the weights are found.

    Attributes:
        epochs: times that every item is seen.
        warmup: share of the steps in which the learning rate grows linearly from 0; after them it
            falls along a cosine to 0 after the last step.
        batch_size: items in a batch, over all devices.
        optimizer: "sgd" (with momentum) or "adam".
        lr: the highest learning rate; without it 1.024 for a batch of 1,024 items, in proportion.
        momentum: of SGD, in [0, 1).
        weight_decay: added to the gradient as `weight_decay * weight`.
        running_statistics_from: share of the epochs after which BatchNorm uses its running
            statistics while the weights go on learning; 1 means never.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Count = 100
    warmup: Fraction = 0.05
    batch_size: Annotated[int, Field(ge=2)] = 1024
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Positive | None = None
    momentum: Fraction = 0.875
    weight_decay: NotNegative = 2**-15
    running_statistics_from: Annotated[float, Field(ge=0, le=1)] = 1.0

    @property
    def highest_lr(self) -> float:
        """The learning rate at the end of the warm-up."""
        return 1.024 * self.batch_size / 1024 if self.lr is None else self.lr


class ModelSettings(Optimization):
    """What a model learns from images, and how.

    Attributes:
        recipe: what is done, as the model's `made_by` says it.
        labelled: whether the images' classes teach, so that the model knows them.
        least_crop: share of an image's area that a random crop has at least, such as 0.08; crops
            are then taken from the whole image, anew in each epoch. Without it images are decoded
            as they are embedded, and what is augmented is that: below 64 px shifted, above cropped
            to a quarter of the area or more; for SimCLR cropped to a fifth or more, a half up to
            16 px.
    """

    recipe: ClassVar[str]
    labelled: ClassVar[bool] = False

    least_crop: Annotated[float, Field(gt=0, le=1)] | None = None

    @property
    def metric(self) -> "Metric":
        """The metric of the space that is made."""
        return "l2"

    @model_validator(mode="after")
    def _crops_are_shown(self) -> "ModelSettings":
        if self.least_crop is not None and not getattr(self, "augment", True):
            raise ValueError(
                f"least_crop is {self.least_crop}, which is of random crops, and augment is false; "
                "leave one of the two out"
            )
        return self

    @model_serializer(mode="wrap")
    def _write(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        unsaid = self._unsaid()
        return {name: value for name, value in serialize(self).items() if name not in unsaid}

    def _unsaid(self) -> frozenset[str]:
        """Fields that change nothing: not written, so that a model's files say no more."""
        return frozenset({"least_crop"}) if self.least_crop is None else frozenset()


class TrainingSettings(ModelSettings):
    """A supervised embedding model.

    Attributes:
        loss: "softmax": cross-entropy over a linear classifier without bias. "arcface", "cosface":
            the same over the cosines to the classifier's rows, made harder for an item's own class
            by a margin. "supcon": two views each of items of one class are to lie together, apart
            from those of other classes. All but softmax train directions: their spaces have the
            metric "cosine".
        label_smoothing: softmax: share of the target that is spread over all classes, in [0, 1).
        augment: show a differently cropped and coloured image each time.
        flip: mirror half of the images; wrong for digits and letters.
        margin: arcface: added to the angle to the own class, in radians; without it 0.5. cosface:
            taken off the cosine; without it 0.35.
        scale: arcface, cosface: multiplies the cosines before the softmax.
        temperature: supcon: divides the cosines before the softmax.
        projection_dim: supcon: dimension of the projection head's output, in which the loss is
            taken. The embedding itself is what goes into that head.

    References:
        The defaults are those of Ramanujan et al., CVPR 2022, for ResNet-50 on ImageNet; those of
        the other losses are of Deng et al., ArcFace, CVPR 2019; Wang et al., CosFace, CVPR 2018;
        Khosla et al., Supervised Contrastive Learning, NeurIPS 2020.
    """

    recipe: ClassVar[str] = "embedding model"
    labelled: ClassVar[bool] = True

    loss: Loss = "softmax"
    label_smoothing: Fraction = 0.1
    augment: bool = True
    flip: bool = True
    margin: Positive | None = None
    scale: Positive = 64.0
    temperature: Positive = 0.1
    projection_dim: Count = 128

    @property
    def metric(self) -> "Metric":
        """The metric of the space that is made."""
        return metric_of(self.loss)

    @property
    def margin_or_default(self) -> float:
        """The margin, or the loss's own where none is set."""
        if self.margin is not None:
            return self.margin
        return 0.35 if self.loss == "cosface" else 0.5

    @model_validator(mode="after")
    def _belong_to_the_loss(self) -> "TrainingSettings":
        known = frozenset().union(*OF_LOSS.values())
        for name in sorted((self.model_fields_set & known) - OF_LOSS[self.loss]):
            owners = " and ".join(loss for loss, names in OF_LOSS.items() if name in names)
            raise ValueError(
                f"{name} is a setting of the loss {owners}, and the loss is {self.loss}; leave it "
                "out or set another loss"
            )
        return self

    def _unsaid(self) -> frozenset[str]:
        unsaid = super()._unsaid().union(*OF_LOSS.values()) - OF_LOSS[self.loss]
        return unsaid | {"loss"} if self.loss == "softmax" else unsaid


class BackwardCompatibleSettings(TrainingSettings):
    """A new model whose embeddings are meant to be compared with the old model's directly.

    Attributes:
        weight: of the old classifier's loss beside the new one's.
        old_classifier: "learned": the old model's own, whose term leaves out the items of classes
            that it does not know. "class means": a row for each class of the items, the mean of
            the old model's embeddings of them, so that its term counts all items.
        normalised: with the loss softmax. "embeddings": they are brought to length 1 before both
            classifiers. "new classifier": they and its rows are, before the new one alone, and
            their products, cosines, are multiplied by 30. "nothing": neither. All but the last
            train directions: the space has the metric "cosine".
        start: first weights of the backbone: "random", or those of the "old model".

    References:
        Shen et al., Towards Backward-Compatible Representation Learning, CVPR 2020, arXiv
        2003.11942. The new classifier's cosines times 30 are an option of openBCT's
        (github.com/YantaoShen/openBCT); class means of normalised embeddings, with a weight of 10,
        are the baseline of Zhou et al., BT2, ICCV 2023, arXiv 2211.03989
        (github.com/YifeiZhou02/BT-2), whose old model is normalised, too.
    """

    recipe: ClassVar[str] = "backward compatible model"

    weight: NotNegative = 1.0
    old_classifier: Literal["learned", "class means"] = "learned"
    normalised: Literal["nothing", "embeddings", "new classifier"] = "nothing"
    start: Literal["random", "old model"] = "random"

    @property
    def metric(self) -> "Metric":
        """The metric of the space that is made."""
        return super().metric if self.normalised == "nothing" else "cosine"

    @model_validator(mode="after")
    def _normalises_once(self) -> "BackwardCompatibleSettings":
        if self.loss != "softmax" and self.normalised != "nothing":
            raise ValueError(
                f"normalised is {self.normalised!r}, which is for the loss softmax: {self.loss} "
                "looks at directions alone; leave normalised out"
            )
        return self

    def _unsaid(self) -> frozenset[str]:
        variants = ("old_classifier", "normalised", "start")
        plain = {
            name
            for name in variants
            if getattr(self, name) == type(self).model_fields[name].default
        }
        return super()._unsaid() | plain


class SimCLRSettings(ModelSettings):
    """Side-information learned without labels: two views of an item are to lie together.

    What it holds of an image beyond the old classes is what lifts an upgrade above the old space's
    ceiling.

    Attributes:
        temperature: divides the cosines before the softmax; smaller looks at nearer neighbours.
        projection_dim: dimension of the projection head's output, in which the loss is taken. The
            side-information itself is what goes into that head.
        strength: of the random colours, in [0, 1]; 0.5 suits small images, 1 large ones.
        flip: mirror half of the views; wrong for digits and letters.

    References:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020.
    """

    recipe: ClassVar[str] = "side-information by SimCLR"

    temperature: Positive = 0.2
    projection_dim: Count = 128
    strength: Annotated[float, Field(ge=0, le=1)] = 0.5
    flip: bool = True


class FrozenSettings(BaseModel):
    """A backbone as it is: nothing is learned, so there is nothing to set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: ClassVar[str] = "frozen encoder"


class FitSettings(Optimization):
    """A transformation from pairs of old (with side) and new embeddings.

    Attributes:
        method: "auto", the default everywhere: "ridge" (linear), "mlp" (the FCT network) and
            "ensemble" (the mean of what both give) are tried, and the one whose held-out gallery
            answers held-out queries best is kept, or a simpler one that cannot be told from it; or
            one of these, or "procrustes" (a rotation), to compare with; "mlp" and "ensemble" need
            the extra fit: pip install 'onward[fit]'.
        epochs: times that every item is seen; more where that gives fewer steps than `least_steps`.
        inner: width of the FCT network's mixer.
        networks: how many FCT networks learn, each from first weights and in an order of its own;
            their mean stands for the network. Two take twice the size, and twice the time to learn
            and to apply.
        least_steps: epochs are added until the network has at least so many steps, without which
            a small sample of a gallery would be seen too rarely.
        ridge_penalties: the penalties that ridge chooses among, in the unit of one standardised
            dimension's variance.
        gallery_classes: what the gallery will hold: "unseen", classes that h has not learned from,
            so that it is judged on whole classes that are held out; or "seen", further items of the
            same classes. "mlp" chooses nothing, and nothing is held out for it.
        most_judged: judge by no more items than these, over all folds.
        objective: how a network's output is to come near the new embedding: "mse" or "l1" (the
            mean over dimensions of squared or absolute differences, in units of the new
            embeddings' standard deviation), or "cosine" (one minus the cosine; lengths are free).
        discriminative: what a network learns beside it: "none", or "classifier" (the new model's
            frozen classifier is to tell the classes of the network's output apart: needs labels).
        discriminative_weight: of that, beside the objective's 1. FastFill adds both parts without
            standardising the first: here that is one over the new embeddings' variance, 4.7 in the
            recipe `cifar100-small`, which costs cmc@1 on classes that the new model does not know.
        label_smoothing: share of the classifier's target that is spread over all classes.
        uncertainty: whether to learn as well how unsure h is of an item, from its new vector; a
            network then minds less what it cannot know. It says which items to backfill first.
        sample_weight: share of all the weight that a gallery sample has where there are training
            pairs too; without it an item of the sample counts as 10 training items, unless that
            gives the sample more than half.

    References:
        Ramanujan et al., Forward Compatible Training, CVPR 2022; see `PAPER`. Its discriminative
        part: Jaeckle et al., FastFill, ICLR 2023, arXiv 2303.04766.
    """

    epochs: Count = 80
    warmup: Fraction = 5 / 80
    optimizer: Literal["sgd", "adam"] = "adam"
    lr: Positive | None = 5e-4
    running_statistics_from: Annotated[float, Field(ge=0, le=1)] = 0.5
    method: Method = "auto"
    inner: Count = 512
    networks: Count = 1
    least_steps: Annotated[int, Field(ge=0)] = 500
    ridge_penalties: Annotated[tuple[Positive, ...], Field(min_length=1)] = (
        1e-4,
        1e-3,
        1e-2,
        1e-1,
        1.0,
        3.0,
        10.0,
        30.0,
    )
    gallery_classes: Literal["unseen", "seen"] = "unseen"
    most_judged: Annotated[int, Field(ge=2)] = 6000
    objective: Literal["mse", "l1", "cosine"] = "mse"
    discriminative: Literal["none", "classifier"] = "none"
    discriminative_weight: NotNegative = 0.3
    label_smoothing: Fraction = 0.1
    uncertainty: bool = False
    sample_weight: Annotated[float, Field(gt=0, lt=1)] | None = None

    def check(self) -> None:
        """Refuse what the method has no use for.

        Raises:
            ConfigurationError: naming the setting, and the methods that it belongs to.
        """
        for name, without in (("networks", 1), ("discriminative", "none")):
            said = getattr(self, name)
            if said != without and self.method not in FCT_METHODS:
                raise ConfigurationError(
                    f"{name} is {said!r}, which is for a network, and what has a closed form has "
                    f"none, but method is {self.method!r}",
                    f"choose 'auto', 'ensemble' or 'mlp', or {name} {without!r}",
                )


PAPER = FitSettings(method="mlp", inner=2048)
"""The transformation of the FCT paper: 5.7 million parameters at 128 dimensions."""


@dataclass(frozen=True)
class RunSettings:
    """How a training is carried out; together with the settings it says on what machine.

    Attributes:
        device: "cpu", "cuda", or "auto", which takes a GPU where there is one.
        precision: "32-true", or "bf16-mixed" for convolutions and products in bfloat16.
        devices: number of GPUs (or processes on the CPU) that share every batch.
        checkpoint: file to write the state to and to resume from; none means start over when
            killed. It stays until `forget_checkpoint`: call that once the result is saved.
        checkpoint_seconds: time between two checkpoints within an epoch.
        image_bytes: images are decoded once and held if they take at most this; otherwise they are
            decoded again for every batch, some batches ahead.
        tensorboard: directory for TensorBoard's event files.
        progress: told `(steps done, steps)`.

    Raises:
        ConfigurationError: if one of these cannot be.
    """

    device: str = "auto"
    precision: str = "32-true"
    devices: int = 1
    checkpoint: Path | None = None
    checkpoint_seconds: float = 60.0
    image_bytes: int = 1 << 30
    tensorboard: Path | None = None
    progress: Progress = silent

    def __post_init__(self) -> None:
        choices = {
            "device": ("auto", "cpu", "cuda"),
            "precision": ("32-true", "bf16-mixed"),
        }
        for name, allowed in choices.items():
            given = getattr(self, name)
            if given not in allowed:
                raise ConfigurationError(
                    f"{name} is {given!r}", f"choose one of {', '.join(allowed)}"
                )
        if self.devices < 1:
            raise ConfigurationError(f"devices is {self.devices}", needed="a run needs at least 1")


RENAMED = {"batch_items": "batch_size"}
"""What settings were called in files of older programs, and what they are called now."""


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values, as an older program may have written them, by today's names."""
    return {
        RENAMED.get(name, name): renamed(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
    }


def read_settings(kind: type[S], fields: Mapping[str, Any], *, where: str) -> S:
    """Return settings of a kind from plain values, such as a table of a TOML file.

    Args:
        fields: by name; names of older programs are understood.
        where: where the values stand, for messages: a file, a table or a flag.

    Raises:
        ConfigurationError: for an unknown key (the message offers the nearest one) or a value that
            is out of its range.
    """
    try:
        return kind.model_validate(renamed(fields))
    except ValidationError as error:
        # What is misspelt may be why something else is wrong.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        path = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            *tables, name = first["loc"]
            known = sorted(_kind_of(kind, tables).model_fields)
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigurationError(
                f"{where}: there is no {path!r}", f"{hint}Known: {', '.join(known)}"
            ) from error
        what = path if first["type"] == "value_error" else f"{path} is {first['input']!r}"
        said = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(": ".join(filter(None, (where, what, said)))) from error


def _kind_of(kind: type[BaseModel], tables: Sequence[str | int]) -> type[BaseModel]:
    """Return the settings that stand in a table of others."""
    for name in tables:
        if isinstance(name, str):
            annotation = kind.model_fields[name].annotation
            kinds = (annotation, *get_args(annotation))
            kind = next(k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
    return kind


def made_by(
    recipe: str, settings: BaseModel, *, seed: int, run: RunSettings, device: str, **facts: Any
) -> dict[str, Any]:
    """Return what determines a result, as plain values for its header and its card.

    Args:
        recipe: what was done, such as "embedding model".
        device: what `run.device` came to.
        facts: what else the recipe depends on, as plain JSON values.

    Returns:
        Recipe, settings, seed, device, facts and versions.
    """
    return {
        "recipe": recipe,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "device": device,
        "devices": run.devices,
        "precision": run.precision,
        **facts,
        "versions": versions(facts.get("backbone")),
    }


def versions(backbone: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the versions of the code that a model of this backbone runs by."""
    found = {"onward": onward.__version__}
    with suppress(PackageNotFoundError):  # what has a closed form is fitted without it
        found["torch"] = version("torch")
    if backbone is not None and str(backbone["name"]).startswith(TIMM):
        found["timm"] = version("timm")
    return found
