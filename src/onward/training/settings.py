"""What can be set about a training: frozen values that determine a run, read without torch.

`TrainingSettings`, `SimCLRSettings`, `BackwardCompatibleSettings` and `FitSettings` say *what* is
learned: with the data and the seed they determine the result. `RunSettings` says *how* it is
carried out. Nothing here trains.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onward.errors import ConfigurationError
from onward.progress import Progress, silent

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]

Method = Literal["auto", "ridge", "mlp", "low-rank", "procrustes", "identity", "rbt"]
S = TypeVar("S", bound=BaseModel)


class Optimization(BaseModel):
    """How the weights are found.

    Attributes:
        epochs: times that every item is seen.
        warmup: share of the steps in which the learning rate grows linearly from 0; after them it
            falls along a cosine to 0 after the last step.
        batch_items: items in a batch, over all devices.
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
    batch_items: Annotated[int, Field(ge=2)] = 1024
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Positive | None = None
    momentum: Fraction = 0.875
    weight_decay: NotNegative = 2**-15
    running_statistics_from: Annotated[float, Field(ge=0, le=1)] = 1.0

    @property
    def highest_lr(self) -> float:
        """The learning rate at the end of the warm-up."""
        return 1.024 * self.batch_items / 1024 if self.lr is None else self.lr


class TrainingSettings(Optimization):
    """A supervised embedding model: cross-entropy over a linear classifier without bias.

    Attributes:
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        augment: show a differently cropped and coloured image each time.
        flip: mirror half of the images; wrong for digits and letters.

    References:
        The defaults are those of Ramanujan et al., CVPR 2022, for ResNet-50 on ImageNet.
    """

    label_smoothing: Fraction = 0.1
    augment: bool = True
    flip: bool = True


class BackwardCompatibleSettings(TrainingSettings):
    """A new model whose embeddings are meant to be compared with the old model's directly.

    Attributes:
        weight: of the old classifier's cross-entropy beside the new one's.

    References:
        Shen et al., Towards Backward-Compatible Representation Learning, CVPR 2020.
    """

    weight: NotNegative = 1.0


class SimCLRSettings(Optimization):
    """Side-information learned without labels: two views of an item are to lie together.

    Attributes:
        temperature: divides the cosines before the softmax; smaller looks at nearer neighbours.
        projection_dim: dimension of the projection head's output, in which the loss is taken. The
            side-information itself is what goes into that head.
        strength: of the random colours, in [0, 1]; 0.5 suits small images, 1 large ones.
        flip: mirror half of the views; wrong for digits and letters.

    References:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020.
    """

    temperature: Positive = 0.2
    projection_dim: Count = 128
    strength: Annotated[float, Field(ge=0, le=1)] = 0.5
    flip: bool = True


class FitSettings(Optimization):
    """A transformation from pairs of old (with side) and new embeddings.

    Attributes:
        method: "mlp" (the FCT network), "ridge" (linear), or "auto": both, and the one whose
            held-out gallery answers held-out queries best is kept. To compare with: "low-rank"
            (linear, of a small rank), "procrustes" (a rotation), "identity" (the old vectors as
            they are) and "rbt" (the residual bottleneck network).
        rank: of the linear map of "low-rank"; more than there are dimensions means no bound.
        inner: width of the FCT network's mixer.
        least_steps: epochs are added until the network has at least so many steps, without which
            a small sample of a gallery would be seen too rarely.
        ridge_penalties: the penalties that ridge chooses among, in the unit of one standardised
            dimension's variance.
        held_out: share of the items that are kept apart to choose by; "mlp" and "rbt" choose
            nothing and keep none apart.
        most_held_out: never keep more items apart than this.

    References:
        Ramanujan et al., Forward Compatible Training, CVPR 2022; see `PAPER`.
    """

    epochs: Count = 80
    warmup: Fraction = 5 / 80
    optimizer: Literal["sgd", "adam"] = "adam"
    lr: Positive | None = 5e-4
    running_statistics_from: Annotated[float, Field(ge=0, le=1)] = 0.5
    method: Method = "auto"
    rank: Count = 64
    inner: Count = 512
    least_steps: Annotated[int, Field(ge=0)] = 500
    ridge_penalties: Annotated[tuple[Positive, ...], Field(min_length=1)] = (
        1e-4,
        1e-3,
        1e-2,
        1e-1,
        1.0,
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    most_held_out: Annotated[int, Field(ge=2)] = 5000


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
                raise ConfigurationError(f"{name} is {given!r}; choose one of {', '.join(allowed)}")
        if self.devices < 1:
            raise ConfigurationError(f"devices is {self.devices}; a run needs at least 1")


def read_settings(kind: type[S], fields: Mapping[str, Any], *, where: str) -> S:
    """Return settings of a kind from plain values, such as a table of a TOML file.

    Args:
        where: where the values stand, for messages: a file, a table or a flag.

    Raises:
        ConfigurationError: for an unknown key (the message offers the nearest one) or a value that
            is out of its range.
    """
    for given in fields:
        if given not in kind.model_fields:
            known = ", ".join(sorted(kind.model_fields))
            near = difflib.get_close_matches(given, kind.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigurationError(f"{where}: there is no {given!r}; {hint}Known: {known}")
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        what = f"{name} is {first['input']!r}: {said}" if name else said
        raise ConfigurationError(f"{where}: {what}") from error
