"""What a study trains: each model once, kept for every study that needs the same one."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from onward.artifacts import write_aside
from onward.data.items import Items
from onward.experiments.cache import Cache
from onward.experiments.recipe import Recipe
from onward.experiments.settings import Baseline
from onward.experiments.splits import Splits
from onward.models import EmbeddingModel
from onward.models.layers import choose_stages
from onward.nn.specs import BackboneSpec
from onward.progress import Progress
from onward.training.autoencoder import train_autoencoder_model
from onward.training.backward_compatible import train_backward_compatible_model
from onward.training.checkpoints import forget_checkpoint
from onward.training.embedding_models import train_embedding_model
from onward.training.frozen_encoder import frozen_encoder
from onward.training.layers import add_layers_side_information
from onward.training.settings import RunSettings
from onward.training.side_information import train_side_information_model
from onward.training.supervised_contrastive import train_supervised_contrastive_model

READ_ITEMS = 20_000
Train = Callable[[RunSettings], EmbeddingModel]


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


@dataclass(frozen=True)
class _Lesson:
    """A model to be: what it is trained on, by what, and all that decides what it becomes."""

    role: str
    told: str
    items: Items
    facts: Mapping[str, Any]
    train: Train


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

    models["old"] = _add_layers(recipe, learn(_old(recipe, splits)), splits.old_train, stage)
    lessons = {
        "simclr": _simclr,
        "autoencoder": _autoencoder,
        "supervised": _second,
        "supervised+contrastive": _supervised_contrastive,
        "untrained": _untrained,
        "frozen": _frozen,
    }
    for kind in dict.fromkeys(arm.side for arm in recipe.performed):
        if kind in lessons:
            learn(lessons[kind](recipe, splits))
    if recipe.needs_middle and splits.middle_train is not None:
        learn(_supervised(recipe, "middle", "Model between them", splits.middle_train))
    learn(_new(recipe, splits))
    for baseline in recipe.trained_baselines:
        learn(_compatible(recipe, splits, models["old"], baseline))
    return Trained(models, seconds)


def _old(recipe: Recipe, splits: Splits) -> _Lesson:
    return _supervised(recipe, "old", "Old model", splits.old_train)


def _new(recipe: Recipe, splits: Splits) -> _Lesson:
    told = "New model, which does not know of the old one"
    return _supervised(recipe, "new", told, splits.train)


def _supervised(recipe: Recipe, role: str, told: str, items: Items) -> _Lesson:
    is_new = role == "new"
    backbone = recipe.backbone_of_new if is_new else recipe.backbone
    settings = recipe.training_of_new if is_new else recipe.embedding_model
    seed = recipe.seed_of(role)

    def train(run: RunSettings) -> EmbeddingModel:
        return train_embedding_model(
            items, backbone, name=role, settings=settings, seed=seed, run=run
        )

    facts = _facts("supervised", backbone, settings, seed)
    return _Lesson(role, told, items, facts, train)


def _simclr(recipe: Recipe, splits: Splits) -> _Lesson:
    items, backbone, settings = splits.side_train, recipe.backbone, recipe.side_information
    seed = recipe.seed_of("side")

    def train(run: RunSettings) -> EmbeddingModel:
        return train_side_information_model(
            items, backbone, name="simclr", settings=settings, seed=seed, run=run
        )

    told = "Side-information: SimCLR on the old images, without labels"
    return _Lesson("simclr", told, items, _facts("simclr", backbone, settings, seed), train)


def _autoencoder(recipe: Recipe, splits: Splits) -> _Lesson:
    items, backbone, settings = splits.side_train, recipe.backbone, recipe.autoencoder
    seed = recipe.seed_of("autoencoder")

    def train(run: RunSettings) -> EmbeddingModel:
        return train_autoencoder_model(
            items, backbone, name="autoencoder", settings=settings, seed=seed, run=run
        )

    facts = _facts("autoencoder", backbone, settings, seed)
    return _Lesson("autoencoder", "Side-information: autoencoder", items, facts, train)


def _second(recipe: Recipe, splits: Splits) -> _Lesson:
    told = "Side-information: a second supervised model of the old classes"
    return _supervised(recipe, "supervised", told, splits.side_train)


def _supervised_contrastive(recipe: Recipe, splits: Splits) -> _Lesson:
    items, backbone, settings = splits.side_train, recipe.backbone, recipe.supervised_contrastive
    seed = recipe.seed_of("supervised+contrastive")

    def train(run: RunSettings) -> EmbeddingModel:
        return train_supervised_contrastive_model(
            items, backbone, name="supervised-contrastive", settings=settings, seed=seed, run=run
        )

    facts = _facts("supervised+contrastive", backbone, settings, seed)
    told = "Side-information: cross-entropy and SimCLR at once"
    return _Lesson("supervised+contrastive", told, items, facts, train)


def _untrained(recipe: Recipe, splits: Splits) -> _Lesson:
    born = recipe.backbone.model_copy(update={"pretrained": False})
    return _encoder("untrained", "an untrained network", recipe, splits, born)


def _frozen(recipe: Recipe, splits: Splits) -> _Lesson:
    backbone = recipe.frozen_encoder
    assert backbone is not None  # noqa: S101  # the recipe has seen to it
    return _encoder("frozen", f"frozen encoder {backbone.name}", recipe, splits, backbone)


def _encoder(
    role: str, what: str, recipe: Recipe, splits: Splits, backbone: BackboneSpec
) -> _Lesson:
    seed = recipe.seed_of(role)

    def take(_: RunSettings) -> EmbeddingModel:
        return frozen_encoder(backbone, name=role, seed=seed)

    facts = {"kind": role, "backbone": backbone.model_dump(mode="json"), "seed": seed}
    return _Lesson(role, f"Side-information: {what}", splits.side_train, facts, take)


def _compatible(
    recipe: Recipe, splits: Splits, old: EmbeddingModel, baseline: Baseline = "bct"
) -> _Lesson:
    items, settings, seed = splits.train, recipe.backward_compatible, recipe.seed_of(baseline)
    backbone = recipe.backbone_of_new
    told = "For comparison, a backward compatible model: held to the old model's classifier"
    if baseline == "bct means":
        settings = settings.model_copy(update={"new_classes": "old class means"})
        told += ", with old class means for the new classes"

    def train(run: RunSettings) -> EmbeddingModel:
        return train_backward_compatible_model(
            items,
            backbone,
            old_model=old,
            name="bct",
            settings=settings,
            seed=seed,
            run=run,
            same_labels=recipe.data.old_source is None,
        )

    facts = {**_facts("bct", backbone, settings, seed), "old": old.space.name}
    return _Lesson(baseline, told, items, facts, train)


def _facts(kind: str, backbone: BackboneSpec, settings: BaseModel, seed: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "backbone": backbone.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json", exclude_defaults=True),
        "seed": seed,
    }


def _learn(recipe: Recipe, lesson: _Lesson, stage: Stage) -> tuple[EmbeddingModel, float]:
    """Return the model and how long its training took; of a resumed one, its last part."""
    what = {
        **lesson.facts,
        "role": lesson.role,
        "data": lesson.items.digest,
        "precision": recipe.precision,
    }
    place = stage.cache.place("models", what)
    took = place.with_suffix(".seconds")
    stage.tell(f"{lesson.told}: {lesson.items}")
    if place.exists():
        stage.tell(f"  kept from before: {place}")
        return EmbeddingModel.load(place), float(took.read_text()) if took.exists() else 0.0
    started = time.monotonic()
    checkpoint = place.with_name(f".{place.name}.checkpoint")
    with run_settings(recipe, stage, f"Train {lesson.role}") as run:
        model = lesson.train(replace(run, checkpoint=checkpoint))
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
