"""The parts of a recipe: which images, which side-information, which arms are compared.

An arm is one way to carry a gallery over: what is stored beside the old embedding, how h is fitted,
and on what. Every arm answers the same queries, so a table of arms shows what each choice is worth.
"""

from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from onward.compatibility import NEW, OLD, UPGRADED
from onward.data.decoding import MAX_PIXELS
from onward.data.folders import ReadAs
from onward.training.settings import (
    Count,
    Fraction,
    ModelSettings,
    NotNegative,
    Positive,
    SimCLRSettings,
)

Side = Literal[
    "none",
    "layers",
    "simclr",
    "autoencoder",
    "supervised",
    "supervised+contrastive",
    "frozen",
    "untrained",
    "oracle",
]
Baseline = Literal["bct", "bct means"]


RESERVED = (
    OLD,
    NEW,
    "independent",
    "middle/middle",
    *(f"{baseline} new/{gallery}" for baseline in get_args(Baseline) for gallery in ("old", "new")),
)


class DataSettings(BaseModel):
    """Which images, and how their classes are split.

    Attributes:
        source: "digits", an image folder or image Parquet; empty where the user is to name it.
        old_source: where the old model's images come from, if they are of another data set.
        layout: what the source has to look like, for messages.
        classes: how many classes its training part has to have; any if not given.
        old_classes: how many classes, from the lowest label number on, the old model knows.
        side_classes: how many of them the side-information's models are trained on; all if not
            given. Fewer let studies of different splits share these models.
        new_classes: how many classes, from `new_from` on, the new model knows; without it all.
            Images of the other classes, of both parts, are the open set: no model knows them.
        new_from: how many of the lowest label numbers the new model does not know.
        verification: also state the true accept rates (TAR) at fixed false accept rates.
        image_column: Parquet only: the struct {bytes, path}.
        label_column: Parquet only: the label numbers, or class names.
        id_column: Parquet only: ids; otherwise file and row.
        config: Parquet only: the configuration, where there are several.
        read_as: what the folders in the source are, where their names leave it open: "classes" or
            "parts"; or "parquet", where images lie beside.
        train_part: the folder or shards to train with, where their names do not say.
        test_part: likewise.
        open_set: the test part may have classes that the training part lacks.
        skip_bad: leave out bad images and say which.
        max_pixels: the most pixels that an image may have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = "digits"
    old_source: str | None = None
    layout: str = ""
    classes: int | None = Field(default=None, ge=2)
    old_classes: int = Field(default=5, ge=1)
    side_classes: int | None = Field(default=None, ge=1)
    new_classes: int | None = Field(default=None, ge=1)
    new_from: int = Field(default=0, ge=0)
    verification: bool = False
    image_column: str | None = None
    label_column: str | None = None
    id_column: str | None = None
    config: str | None = None
    read_as: ReadAs = "auto"
    train_part: str | None = None
    test_part: str | None = None
    open_set: bool = False
    skip_bad: bool = False
    max_pixels: int = Field(default=MAX_PIXELS, ge=1)


class LayersSettings(BaseModel):
    """Side-information of kind `layers`: the old model's own stages, pooled and projected.

    Attributes:
        dim: dimensions to read; an arm may store fewer.
        grid: each stage is pooled to `grid` x `grid` pixels.
        stages: which stages are read, from 0; all if not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(default=256, ge=1)
    grid: int = Field(default=2, ge=1)
    stages: tuple[int, ...] | None = None


class SupervisedContrastiveSettings(SimCLRSettings):
    """Side-information by two losses at once: SimCLR's, and cross-entropy over the classes.

    Attributes:
        weight: of SimCLR's loss beside the cross-entropy.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
    """

    recipe: ClassVar[str] = "side-information by labels and views"
    labelled: ClassVar[bool] = True

    weight: NotNegative = 1.0
    label_smoothing: Fraction = 0.1


class AutoencoderSettings(ModelSettings):
    """Side-information from which the image can be drawn again, learned without labels.

    Attributes:
        width: channels of the decoder's largest maps; each time that a map is half as large it has
            twice as many, up to eight times.
        augment: show a differently cropped image each time; it is drawn again as it was shown.
        flip: mirror half of the images; wrong for digits and letters.
    """

    recipe: ClassVar[str] = "side-information by an autoencoder"

    optimizer: Literal["sgd", "adam"] = "adam"
    lr: Positive | None = 1e-3
    width: Count = 32
    augment: bool = True
    flip: bool = True


class Arm(BaseModel):
    """One way to carry the gallery over; its name is that of its cell.

    Attributes:
        name: such as "new/old" or "new/old ridge".
        side: what is stored beside the old embedding. "oracle" is the new embedding itself, which
            tests that side-information is used; "untrained" is a network as it was born.
        dim: dimensions stored, by principal components of the old data; all if not given.
        format: how the side-information's numbers are stored.
        fit: what differs from the recipe's `fit`, as its table would have it.
        baseline: a map to compare h with in place of what `fit` gives: "identity" (the old vectors
            as they are), "low-rank" (linear, of a small rank) or "rbt" (the residual bottleneck
            network).
        rank: of the map of "low-rank".
        gallery_sample: share of the open gallery that is embedded by the new model, without labels,
            for h to learn from, beside the training pairs; up to a half, for the other half judges.
            Such an arm is judged on the open set.
        sample_by: how these items are chosen.
        sample_only: learn from them alone.
        through: "direct", or by way of the middle model: "chained" fits the second step on what
            the first one gives, "composed" on what the middle model gives.
        side_later: whether the second step is given the side-information again.
        reverse: bring the new queries to the old gallery instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    side: Side = "none"
    dim: int | None = Field(default=None, ge=1)
    format: Literal["float32", "float16", "int8"] = "float32"
    fit: dict[str, Any] = {}
    gallery_sample: float = Field(default=0.0, ge=0, le=0.5)
    baseline: Literal["identity", "low-rank", "rbt"] | None = None
    rank: int = Field(default=64, ge=1)
    sample_by: Literal["random", "uncertainty"] = "random"
    sample_only: bool = False
    through: Literal["direct", "chained", "composed"] = "direct"
    side_later: bool = True
    reverse: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> "Arm":
        if ": " in self.name or self.name in RESERVED:
            raise ValueError(
                f"an arm cannot be called {self.name!r}: cells of a study or a variant are; "
                "choose a name such as 'new/old ridge'"
            )
        plain = self.through == "direct" and not self.reverse and not self.gallery_sample
        if self.name == UPGRADED and not plain:
            raise ValueError(
                f"the arm {self.name!r} is performed on a gallery in a store: it cannot be "
                "reversed, go by way of a middle model, or have a gallery sample"
            )
        if self.gallery_sample and (self.reverse or self.through != "direct"):
            raise ValueError(f"the arm {self.name!r} has no use for a gallery sample; leave it out")
        if self.sample_only and not self.gallery_sample:
            raise ValueError(f"the arm {self.name!r} is to learn from a gallery sample; give one")
        return self


ARMS = (
    Arm(name="new/old without side"),
    Arm(name="new/old", side="layers", format="int8"),
    Arm(name="new/old layers", side="layers"),
    Arm(name="new/old simclr", side="simclr"),
)
