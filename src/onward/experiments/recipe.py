"""Recipes: everything that determines a study, read from TOML into one frozen value.

An unknown key is an error that offers the nearest name. What a recipe leaves out has the default
of its settings, so a recipe says only what is its own.

An arm is one way to carry a gallery over: what is stored beside the old embedding, how h is fitted,
and on what. Every arm answers the same queries, so a table of arms shows what each choice is worth.
"""

import difflib
import tomllib
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

from onward.artifacts import canonical_json, digest
from onward.data import Stated
from onward.errors import ConfigurationError
from onward.evaluation.comparison import NEW, OLD, UPGRADED, WHEN_FUSED
from onward.nn.specs import BackboneSpec
from onward.training.settings import (
    FCT_METHODS,
    BackwardCompatibleSettings,
    Count,
    FitSettings,
    Fraction,
    ModelSettings,
    NotNegative,
    Positive,
    SimCLRSettings,
    TrainingSettings,
    read_settings,
)

CLOSED_FORMS = ("ridge", "procrustes")

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
Baseline = Literal[
    "bct", "bct class means", "bct class means x10", "bct from old model", "bct cosines"
]
OF_BASELINE: Mapping[Baseline, Mapping[str, Any]] = {
    "bct": {},
    "bct class means": (means := {"old_classifier": "class means", "normalised": "embeddings"}),
    "bct class means x10": {**means, "weight": 10.0},
    "bct from old model": {**means, "weight": 10.0, "start": "old model"},
    "bct cosines": {"normalised": "new classifier", "label_smoothing": 0.0},
}
"""What differs in the training of each from the recipe's `backward_compatible`: the ways in which
public code trains backward compatible models; see `BackwardCompatibleSettings`."""

RESERVED = (
    OLD,
    NEW,
    "independent",
    "middle/middle",
    *(f"{baseline} new/{gallery}" for baseline in get_args(Baseline) for gallery in ("old", "new")),
)


class DataSettings(Stated):
    """Which images, how they are read (see `Stated`), and how their classes are split.

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
    """

    source: str = "digits"
    old_source: str | None = None
    layout: str = ""
    classes: int | None = Field(default=None, ge=2)
    old_classes: int = Field(default=5, ge=1)
    side_classes: int | None = Field(default=None, ge=1)
    new_classes: int | None = Field(default=None, ge=1)
    new_from: int = Field(default=0, ge=0)
    verification: bool = False


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
            tests that side-information is used; "untrained" is a network with random weights.
        dim: dimensions stored, by principal components of the old data; all if not given.
        format: how the side-information's numbers are stored.
        fit: what differs from the recipe's `fit`, as its table would have it.
        baseline: a map to compare h with in place of what `fit` gives: "low-rank" (linear, of rank
            64) or "rbt" (the residual bottleneck network).
        gallery_sample: share of the open gallery that is embedded by the new model, without labels,
            for h to learn from, beside the training pairs; up to a half, for the other half judges.
            Such an arm is judged on the open set.
        sample_by: how these items are chosen.
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
    baseline: Literal["low-rank", "rbt"] | None = None
    sample_by: Literal["random", "uncertainty"] = "random"
    through: Literal["direct", "chained", "composed"] = "direct"
    side_later: bool = True
    reverse: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> "Arm":
        is_taken = ": " in self.name or self.name.endswith(WHEN_FUSED) or self.name in RESERVED
        if is_taken:
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
        return self


ARMS = (
    Arm(name="new/old without side"),
    Arm(name="new/old", side="layers", format="int8"),
    Arm(name="new/old layers", side="layers"),
    Arm(name="new/old simclr", side="simclr"),
)


class Recipe(BaseModel):
    """A study: old, side-information, new and backward compatible models, and their comparison.

    Attributes:
        name: what the study is called.
        seed: every other seed is derived from it.
        precision: "32-true" or "bf16-mixed", for training every network.
        threads: CPU threads that torch computes with; all if not given. Tiny networks are quickest
            on one, above all where other programs want the cores too.
        views: how often each training image is embedded to fit the transformation: once as it is,
            the other times augmented.
        data: the images.
        crop_share: side of the central square of an image that every model embeds, over the
            image's shorter side: 0.875 is a resize to 256 pixels and the central 224.
        backbone: the network of all models.
        new_backbone: what differs in the network of the new model, as its table would have it.
        embedding_model: training of the old and of the new model.
        new_model: what differs in the training of the new model.
        middle_classes: how many classes a model between the old and the new one knows, in a
            sequence of upgrades; without it there is none.
        side_information: training of the SimCLR model, on old data only.
        supervised_contrastive: training of side-information with and without labels at once.
        autoencoder: training of side-information by drawing the image again.
        frozen_encoder: a network that is taken as it is, such as a pretrained one of timm.
        layers: side-information from the old model's own stages.
        backward_compatible: training of the backward compatible model.
        baselines: which backward compatible models are trained; see `OF_BASELINE`.
        fit: training of the transformation.
        arms: the ways to carry the gallery over; the one called "new/old" is performed on a gallery
            in a store.
        only: names of the arms to perform, without baselines; all arms with the baselines if none
            is named.
        variants: recipes that differ from this one in some values, by dotted key. With variants,
            the experiment is them, and each cell has the variant's name before its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    seed: int = Field(default=0, ge=0)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    threads: int | None = Field(default=None, ge=1)
    views: int = Field(default=1, ge=1)
    data: DataSettings = DataSettings()
    crop_share: float = Field(default=1.0, gt=0, le=1)
    backbone: BackboneSpec = BackboneSpec()
    new_backbone: dict[str, Any] = {}
    embedding_model: TrainingSettings = TrainingSettings()
    new_model: dict[str, Any] = {}
    middle_classes: int | None = Field(default=None, ge=2)
    side_information: SimCLRSettings = SimCLRSettings()
    supervised_contrastive: SupervisedContrastiveSettings = SupervisedContrastiveSettings()
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    frozen_encoder: BackboneSpec | None = None
    layers: LayersSettings = LayersSettings()
    backward_compatible: BackwardCompatibleSettings = BackwardCompatibleSettings()
    baselines: tuple[Baseline, ...] = ("bct",)
    fit: FitSettings = FitSettings()
    arms: tuple[Arm, ...] = ARMS
    only: tuple[str, ...] = ()
    variants: dict[str, dict[str, Any]] = {}

    @field_validator("variants")
    @classmethod
    def _variants_have_names(cls, variants: dict[str, Any]) -> dict[str, Any]:
        if named := [name for name in variants if ": " in name]:
            raise ValueError(f"a variant cannot be called {named[0]!r}; leave the colon out")
        return variants

    @model_validator(mode="after")
    def _arms_fit(self) -> "Recipe":
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names) or UPGRADED not in names:
            raise ValueError(f"arms need names of their own, and one of them the name {UPGRADED!r}")
        for name in self.only:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
                meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
                raise ValueError(f"there is no arm {name!r}; {meant}Arms: {', '.join(names)}")
        self._check_models()
        for arm in self.arms:
            self.fit_of(arm)
            if arm.through != "direct" and self.middle_classes is None:
                raise ValueError(f"arm {arm.name!r} goes by way of a middle model: give it classes")
        return self

    def _check_models(self) -> None:
        """Refuse what could only fail after hours of training."""
        backbone, training = self.backbone_of_new, self.training_of_new
        if self.baselines and backbone.dim != self.backbone.dim:
            raise ValueError(
                f"the old model has {self.backbone.dim} dimensions, the new one {backbone.dim}: no "
                "backward compatible model can serve both; give baselines = []"
            )
        if self.baselines and self.backward_compatible.loss != self.embedding_model.loss:
            raise ValueError(
                f"the old model's loss is {self.embedding_model.loss}, that of "
                f"[backward_compatible] {self.backward_compatible.loss}; give both the same, or "
                "baselines = []"
            )
        for baseline in self.baselines:
            if self.training_of(baseline).start == "old model" and backbone != self.backbone:
                raise ValueError(
                    f"the baseline {baseline!r} begins with the old model's weights, and the new "
                    "model has another network; leave it out of baselines"
                )
        images = (backbone.size, backbone.channels)
        if self.views > 1 and images != (self.backbone.size, self.backbone.channels):
            raise ValueError(
                f"{self.views} views of each image are to go to both models, which take images of "
                "other sizes or channels; give views = 1"
            )
        if self.frozen_encoder is None and any(arm.side == "frozen" for arm in self.arms):
            raise ValueError(
                "an arm stores a frozen encoder's embedding, and none is named; give one as "
                "[frozen_encoder], such as name = 'timm:vit_small_patch14_dinov2' with "
                "pretrained = true and its size"
            )
        if self.new_model and training.loss == "supcon" and self._learns_from_classifier:
            raise ValueError(
                "a new model trained by supcon has no classifier that h could learn from; give "
                "[fit] discriminative = 'none'"
            )

    @model_serializer(mode="wrap")
    def _write(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leave the crop out where it is the whole square, so that older studies are the same."""
        fields = serialize(self)
        if self.crop_share == 1:
            fields.pop("crop_share", None)
        return fields

    @property
    def performed(self) -> tuple[Arm, ...]:
        """The arms that are performed."""
        return tuple(arm for arm in self.arms if not self.only or arm.name in self.only)

    @property
    def trained_baselines(self) -> tuple[Baseline, ...]:
        """The baselines that are trained: none where only some arms are performed."""
        return () if self.only else self.baselines

    @property
    def needs_middle(self) -> bool:
        """Whether a model between the old and the new one is trained."""
        used = not self.only or any(arm.through != "direct" for arm in self.performed)
        return used and self.middle_classes is not None

    @property
    def _learns_from_classifier(self) -> bool:
        return any(self.fit_of(arm).discriminative == "classifier" for arm in self.arms)

    def training_of(self, baseline: Baseline) -> BackwardCompatibleSettings:
        """Return how a backward compatible model is trained."""
        fields = self.backward_compatible.model_dump() | dict(OF_BASELINE[baseline])
        where = f"recipe {self.name}, baseline {baseline!r}"
        return read_settings(BackwardCompatibleSettings, fields, where=where)

    def fit_of(self, arm: Arm) -> FitSettings:
        """Return how h is fitted in an arm."""
        where = f"recipe {self.name}, arm {arm.name!r}, [fit]"
        fields = {**self.fit.model_dump(), **arm.fit}
        if arm.baseline is not None:
            method = "mlp" if arm.baseline == "rbt" else "ridge"
            fields |= {"method": method, "networks": 1, "discriminative": "none"}
        if fields["method"] in CLOSED_FORMS and "discriminative" not in arm.fit:
            fields["discriminative"] = "none"  # which only a network learns
        meant_for_another = "method" in arm.fit and "networks" not in arm.fit
        if meant_for_another and fields["method"] not in FCT_METHODS:
            del fields["networks"]
        settings = read_settings(FitSettings, fields, where=where)
        try:
            settings.check()
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from error
        return settings

    @property
    def backbone_of_new(self) -> BackboneSpec:
        """The network of the new model."""
        fields = self.backbone.model_dump() | self.new_backbone
        return read_settings(BackboneSpec, fields, where=f"recipe {self.name}, [new_backbone]")

    @property
    def training_of_new(self) -> TrainingSettings:
        """The training of the new model."""
        fields = self.embedding_model.model_dump(exclude_unset=True) | self.new_model
        return read_settings(TrainingSettings, fields, where=f"recipe {self.name}, [new_model]")

    def variant(self, name: str) -> "Recipe":
        """Return one of the variants as a recipe without variants."""
        fields = self.model_dump(exclude_defaults=True, exclude={"variants"})
        for key, value in self.variants[name].items():
            _set(fields, key, value)
        return read_settings(Recipe, fields, where=f"recipe {self.name}, variant {name!r}")

    def seed_of(self, role: str) -> int:
        """Return the seed of one part of the study, such as "old model".

        Parts have seeds of their own: two models with the same seed would begin with the same
        weights and would not be independent.
        """
        return int(digest(f"{self.seed}/{role}".encode())[:8], 16)

    @property
    def digest(self) -> str:
        """Digest of everything that the recipe determines."""
        return digest(canonical_json(self.model_dump(mode="json")))


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe that comes with Onward by its name, or any TOML file by its path.

    A file may begin with `base = "NAME"`: it has the values of that recipe but for its own.

    Args:
        name: such as "digits", or a path that ends in `.toml`.
        overrides: values by dotted key, such as `{"data.old_classes": 50, "seed": 1}`; "base" is
            the name of another recipe to begin with.

    Raises:
        ConfigurationError: if there is no such recipe, it is no TOML, or a key or value is wrong.
    """
    given = dict(overrides or {})
    fields = _read_fields(name, given.pop("base", None))
    for key, value in given.items():
        _set(fields, key, value)
    return read_settings(Recipe, fields, where=f"recipe {name}")


def _read_fields(name: str, other_base: str | None = None) -> dict[str, Any]:
    """Read a TOML file; where it names a base, its own values replace those of the base.

    Args:
        other_base: a base to take instead of the one that it names.
    """
    bundled = files("onward.experiments").joinpath("recipes", f"{name}.toml")
    path = Path(name) if name.endswith(".toml") else bundled
    if not path.is_file():
        raise ConfigurationError(
            f"there is no recipe {name!r}",
            f"choose one of {', '.join(bundled_recipes())}, or give the path of a .toml file",
        )
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(
            f"{name} is not TOML in UTF-8: {error}", "give a recipe"
        ) from error
    base = fields.pop("base", None)
    if base is None and other_base is not None:
        raise ConfigurationError(
            f"the recipe {name!r} has no base that {other_base!r} could replace"
        )
    return fields if base is None else _merge(_read_fields(other_base or base), fields)


def _merge(base: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in fields.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def bundled_recipes() -> tuple[str, ...]:
    """Return the names of the recipes that come with Onward."""
    names = (entry.name for entry in files("onward.experiments").joinpath("recipes").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def _set(fields: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        fields = fields.setdefault(table, {})
        if not isinstance(fields, dict):
            raise ConfigurationError(
                f"{table} is a value, not a table, so {key} cannot be set", f"set {table} itself"
            )
    fields[last] = value
