"""What a study trains: each model once, kept for every study that needs the same one."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onward.artifacts import write_aside
from onward.data.items import Items
from onward.experiments.baselines import build_of
from onward.experiments.cache import Cache
from onward.experiments.recipe import Recipe
from onward.experiments.settings import Baseline, Side
from onward.experiments.splits import Splits
from onward.models import EmbeddingModel
from onward.models.layers import choose_stages
from onward.nn.specs import BackboneSpec
from onward.progress import Progress
from onward.training.image_models import train_model
from onward.training.layers import add_layers_side_information
from onward.training.loop import forget_checkpoint
from onward.training.settings import FrozenSettings, ModelSettings, RunSettings

READ_ITEMS = 20_000


@dataclass(frozen=True)
class Stage:
    """Where a study is performed.

    Attributes:
        device: "auto", "cpu" or "cuda".
        tell: is given a line about each step.
        bar: opens a progress bar, given what is done and in which unit.
        cache: what is made stays there, and what is there is not made again.
    """

    device: Literal["auto", "cpu", "cuda"]
    tell: Callable[[str], None]
    bar: Callable[[str, str], AbstractContextManager[Progress]]
    cache: Cache


@dataclass(frozen=True, eq=False)
class _Lesson:
    """A model to be: what it is trained on, by what, and all else that decides what it becomes.

    Attributes:
        kind: what it learns, as the cache knows it.
    """

    role: str
    told: str
    items: Items
    backbone: BackboneSpec
    settings: ModelSettings | FrozenSettings
    seed: int
    kind: str
    name: str
    old_model: EmbeddingModel | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the model depends on, as plain values."""
        old = {} if self.old_model is None else {"old": self.old_model.space.name}
        return {
            "kind": self.kind,
            "backbone": self.backbone.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json", exclude_defaults=True),
            "seed": self.seed,
            "role": self.role,
            "data": self.items.digest,
            **old,
        }


@dataclass(frozen=True, eq=False)
class Trained:
    """The models of a study.

    Attributes:
        models: by role: "old" (with side-information from its layers), "new", the kinds of
            side-information that are models, the baselines, and "middle" in a sequence.
        seconds: what the training of each took, now or when it was kept.
    """

    models: Mapping[str, EmbeddingModel]
    seconds: Mapping[str, float]


def train_models(recipe: Recipe, splits: Splits, stage: Stage) -> Trained:
    """Train the models that a recipe's arms and baselines need, by role.

    Each has a seed of its own, so none depends on another's. A model that is kept is not trained
    again, and a training that was killed goes on.
    """
    models: dict[str, EmbeddingModel] = {}
    seconds: dict[str, float] = {}

    def learn(lesson: _Lesson) -> EmbeddingModel:
        models[lesson.role], seconds[lesson.role] = _learn(recipe, lesson, stage)
        return models[lesson.role]

    old = learn(_supervised(recipe, "old", "Old model", splits.old_train))
    models["old"] = _add_layers(recipe, old, splits.old_train, stage)
    for kind in dict.fromkeys(arm.side for arm in recipe.performed):
        if kind not in ("none", "layers", "oracle"):
            learn(_side(recipe, kind, splits.side_train))
    if recipe.needs_middle and splits.middle_train is not None:
        learn(_supervised(recipe, "middle", "Model between them", splits.middle_train))
    learn(_supervised(recipe, "new", "New model, which does not know of the old one", splits.train))
    for baseline in recipe.trained_baselines:
        learn(_compatible(recipe, baseline, splits.train, models["old"]))
    return Trained(models, seconds)


def _supervised(recipe: Recipe, role: str, told: str, items: Items) -> _Lesson:
    backbone, settings = recipe.backbone, recipe.embedding_model
    if role == "new":
        backbone, settings = recipe.backbone_of_new, recipe.training_of_new
    seed = recipe.seed_of(role)
    return _Lesson(role, told, items, backbone, settings, seed, "supervised", role)


def _side(recipe: Recipe, kind: Side, items: Items) -> _Lesson:
    """Return a kind of side-information that is a model of its own."""
    frozen, backbone = recipe.frozen_encoder or recipe.backbone, recipe.backbone
    untrained = backbone.model_copy(update={"pretrained": False})
    kinds: dict[str, tuple[str, BackboneSpec, ModelSettings | FrozenSettings]] = {
        "simclr": (
            "SimCLR on the old images, without labels",
            backbone,
            recipe.side_information,
        ),
        "autoencoder": ("autoencoder", backbone, recipe.autoencoder),
        "supervised": (
            "a second supervised model of the old classes",
            backbone,
            recipe.embedding_model,
        ),
        "supervised+contrastive": (
            "cross-entropy and SimCLR at once",
            backbone,
            recipe.supervised_contrastive,
        ),
        "untrained": ("an untrained network", untrained, FrozenSettings()),
        "frozen": (f"frozen encoder {frozen.name}", frozen, FrozenSettings()),
    }
    told, backbone, settings = kinds[kind]
    seed, name = recipe.seed_of("side" if kind == "simclr" else kind), kind.replace("+", "-")
    told = f"Side-information: {told}"
    return _Lesson(kind, told, items, backbone, settings, seed, kind, name)


def _compatible(recipe: Recipe, role: Baseline, items: Items, old: EmbeddingModel) -> _Lesson:
    settings, seed = recipe.backward_compatible, recipe.seed_of(role)
    told = "For comparison, a backward compatible model: held to the old model's classifier"
    if role == "bct means":
        settings = settings.model_copy(update={"new_classes": "old class means"})
        told += ", with old class means for the new classes"
    backbone = recipe.backbone_of_new
    return _Lesson(role, told, items, backbone, settings, seed, "bct", "bct", old)


def _learn(recipe: Recipe, lesson: _Lesson, stage: Stage) -> tuple[EmbeddingModel, float]:
    """Return the model and how long its training took; of a resumed one, its last part."""
    place = stage.cache.place("models", {**lesson.facts, "precision": recipe.precision})
    took = place.with_suffix(".seconds")
    stage.tell(f"{lesson.told}: {lesson.items}")
    if place.exists():
        stage.tell(f"  kept from before: {place}")
        return EmbeddingModel.load(place), float(took.read_text()) if took.exists() else 0.0
    started = time.monotonic()
    checkpoint = place.with_name(f".{place.name}.checkpoint")
    with run_settings(recipe, stage, f"Train {lesson.role}") as run:
        model = train_model(
            lesson.items,
            lesson.settings,
            lesson.backbone,
            name=lesson.name,
            seed=lesson.seed,
            run=replace(run, checkpoint=checkpoint),
            old_model=lesson.old_model,
            same_labels=recipe.data.old_source is None,
            build=build_of(lesson.settings),
        )
    model.save(place)
    forget_checkpoint(checkpoint)
    seconds = time.monotonic() - started
    with write_aside(took) as aside:
        aside.write_text(f"{seconds:.1f}")
    return model, seconds


def _add_layers(
    recipe: Recipe, model: EmbeddingModel, items: Items, stage: Stage
) -> EmbeddingModel:
    """Let a model read side-information from its stages too; few items have few directions.

    Of many items, `READ_ITEMS` evenly spaced ones say enough of what varies.
    """
    if len(items) > READ_ITEMS:
        items = items.select(np.linspace(0, len(items) - 1, READ_ITEMS).astype(np.int64))
    grid, stages = recipe.layers.grid, recipe.layers.stages
    chosen = choose_stages(model.stage_channels, stages)
    channels = [model.stage_channels[stage] for stage in chosen or range(len(model.stage_channels))]
    dim = min(recipe.layers.dim, sum(channels) * grid**2, len(items) - 1)
    what = {"model": model.space.name, "dim": dim, "grid": grid, "data": items.digest}
    what |= {} if stages is None else {"stages": list(stages)}
    place = stage.cache.place("models", what)
    if place.exists():
        return EmbeddingModel.load(place)
    with stage.bar("Read layers", "items") as progress:
        read = add_layers_side_information(
            model,
            items,
            dim=dim,
            grid=grid,
            format="float32",  # arms quantise what they store
            stages=stages,
            device=stage.device,
            progress=progress,
        )
    read.save(place)
    return read


@contextmanager
def run_settings(recipe: Recipe, stage: Stage, what: str) -> Iterator[RunSettings]:
    """Open a progress bar, and give how a training is carried out on this stage."""
    with stage.bar(what, "steps") as progress:
        yield RunSettings(device=stage.device, precision=recipe.precision, progress=progress)
