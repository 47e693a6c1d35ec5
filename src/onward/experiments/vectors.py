"""The images of a study, the models that learn from them, and their embeddings: each made once.

Who is trained on what and who knows which classes is said by the splits. A model is trained, and
images are embedded, when the study needs them; both are kept for every study that needs the same.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onward.artifacts import digest, write_aside
from onward.data.augmentation import supervised_augmentation
from onward.data.items import Items
from onward.data.sources import open_splits
from onward.errors import ConfigurationError, DataError
from onward.experiments.baselines import build_of
from onward.experiments.recipe import Baseline, Recipe, Side
from onward.experiments.stage import Stage
from onward.models import EmbeddingModel
from onward.models.layers import choose_stages
from onward.nn.specs import BackboneSpec
from onward.spaces import Embeddings, Space
from onward.training.image_models import train_model
from onward.training.images import embed_views
from onward.training.layers import add_layers_side_information
from onward.training.loop import forget_checkpoint
from onward.training.settings import FrozenSettings, ModelSettings, RunSettings

Classes = tuple[int, ...]

READ_ITEMS = 20_000  # at most, whose stages say what varies
OLD_TRAIN, TRAIN, MIDDLE_TRAIN = "old_train", "train", "middle_train"
CLOSED, OPEN = "closed", "open"  # as `Splits` names them
LAYERS = "layers"


@dataclass(frozen=True, eq=False)
class Splits:
    """The images of a study.

    Attributes:
        old_train: what the old model is trained on.
        side_train: what the side-information's models are trained on: these images or some of them.
        train: what the new model is trained on, and h fitted on.
        middle_train: what the model between them is trained on; None without one.
        closed: test images of the classes that a model was trained on: gallery and queries.
        open: all images of classes that no model was trained on, likewise; None without any.
        old_classes: label numbers that the old model knows.
    """

    old_train: Items
    side_train: Items
    train: Items
    middle_train: Items | None
    closed: Items
    open: Items | None
    old_classes: Classes

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the images to train with and of the closed set, by name."""
        return {"train": self.train.digest, "closed": self.closed.digest}


def split(recipe: Recipe) -> Splits:
    """Open a recipe's images and divide them.

    Raises:
        ConfigurationError: if the recipe wants classes that are not there, or names no images.
        DataError: if the images cannot be read, or have another layout than the recipe needs.
    """
    data = recipe.data
    if not data.source:
        raise ConfigurationError(
            f"the recipe {recipe.name!r} needs images: {data.layout}. Name them: data.source=PATH"
        )
    train, test = _open(recipe, data.source)
    known, new_classes = train.classes, _new_classes(recipe, train.classes)
    if data.old_source is None:
        old_train = train.of_classes(known[: data.old_classes])
    else:
        others = _open(recipe, data.old_source)[0]
        old_train = others.of_classes(others.classes[: data.old_classes])
    old_classes = old_train.classes if data.old_source is None else ()
    seen, middle = {*old_classes, *new_classes}, recipe.middle_classes
    return Splits(
        old_train=old_train,
        side_train=old_train.of_classes(old_train.classes[: data.side_classes]),
        train=train.of_classes(new_classes),
        middle_train=None if middle is None else train.of_classes(known[:middle]),
        closed=_closed(test, seen),
        open=_open_set(train, test, seen),
        old_classes=old_classes,
    )


def _new_classes(recipe: Recipe, known: Classes) -> Classes:
    """Return the classes that the new model is to know, if each model can know what it is to."""
    data, middle = recipe.data, recipe.middle_classes
    if data.classes not in (None, len(known)):
        raise DataError(
            f"the recipe {recipe.name!r} needs {data.layout}",
            f"{data.source} has "
            f"{len(known)} classes to train with. For other images set data.classes, "
            "data.old_classes and data.new_classes too",
        )
    if data.old_source is None and data.old_classes >= len(known):
        raise ConfigurationError(
            f"old_classes is {data.old_classes}, but {data.source} has {len(known)} classes",
            "the new model should know some that the old one does not: give fewer",
        )
    last = len(known) if data.new_classes is None else data.new_from + data.new_classes
    if last > len(known) or data.new_from >= last:
        raise ConfigurationError(
            f"the new model is to know classes {data.new_from} to {last - 1} by position, but "
            f"{data.source} has {len(known)} classes",
            "give a smaller new_from or new_classes",
        )
    if middle is not None and not data.old_classes < middle <= last:
        raise ConfigurationError(
            f"middle_classes is {middle}",
            f"the middle model should know more classes than the old "
            f"one ({data.old_classes}) and no more than the new one (up to {last})",
        )
    return known[data.new_from : last]


def unsampled(items: Items) -> np.ndarray:
    """Return which items no gallery sample may be taken from: half, by a digest of the id.

    On them every arm can be judged alike, whatever the sample it learned from.
    """
    return np.array([int(digest(item.encode())[:8], 16) % 2 == 1 for item in items.ids])


def _open(recipe: Recipe, source: str) -> tuple[Items, Items]:
    data = recipe.data
    try:
        return open_splits(source, data)
    except DataError as error:
        if not data.layout:
            raise
        raise DataError(f"the recipe {recipe.name!r} needs {data.layout}: {error}") from error


def _closed(test: Items, seen: set[int]) -> Items:
    """Return the test images of seen classes; all of them where the test part has classes apart."""
    rows = np.flatnonzero(np.isin(test.labels, sorted(seen)))
    return test.select(rows) if len(rows) else test


def _open_set(train: Items, test: Items, seen: set[int]) -> Items | None:
    if not seen & set(test.classes):  # the whole test part is unseen, and is the gallery already
        return None
    parts = [
        part.select(np.flatnonzero(~np.isin(part.labels, sorted(seen)))) for part in (train, test)
    ]
    if not any(len(part) for part in parts):
        return None
    first, second = parts
    return replace(
        first,
        ids=first.ids + second.ids,
        labels=np.concatenate([first.labels, second.labels]),
        class_names={**second.class_names, **first.class_names},
        payloads=first.payloads + second.payloads,
        left_out=(),
    )


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


def train_models(recipe: Recipe, splits: Splits, stage: Stage) -> "StudyVectors":
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
    return StudyVectors(recipe, splits, stage, models, seconds)


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


@dataclass(frozen=True, eq=False)
class StudyVectors:
    """Embeddings by role of the model and by part of the images.

    Attributes:
        recipe: how many views h is fitted on, among others.
        splits: the parts.
        stage: where it is done, and where it is kept.
        models: by role: "old" (with side-information from its layers), "new", the kinds of
            side-information that are models, the baselines, and "middle" in a sequence.
        seconds: what the training of each took, now or when it was kept.
    """

    recipe: Recipe
    splits: Splits
    stage: Stage
    models: Mapping[str, EmbeddingModel]
    seconds: Mapping[str, float]
    _held: dict[tuple[Space, str], Embeddings] = field(default_factory=dict)

    def of(self, role: str, part: str) -> Embeddings:
        """Return the embeddings of a part of the images.

        Args:
            role: a model's, or "layers" for the side-information that the old model reads.
            part: as `Splits` names it; "train" and "middle_train" are embedded in as many views as
                the recipe says.
        """
        model, space = self._model(role)
        if (space, part) not in self._held:
            items = self.items(part)
            views = self.recipe.views if part in (TRAIN, MIDDLE_TRAIN) else 1
            what = {
                "space": space.to_json(),
                "items": items.digest,
                "views": views,
                "seed": self.recipe.seed_of("views") if views > 1 else None,
                "flip": self.recipe.embedding_model.flip,
            }

            def make() -> Embeddings:
                seen = self._embed(model, items, views)
                self._held.update({(other, part): each for other, each in seen.items()})
                return seen[space]

            self._held[space, part] = self.stage.cache.embeddings(what, make)
        return self._held[space, part]

    def items(self, part: str) -> Items:
        """Return the images of a part."""
        items: Items | None = getattr(self.splits, part)
        assert items is not None  # noqa: S101  # who asks has seen that the recipe has this part
        return items

    def _model(self, role: str) -> tuple[EmbeddingModel, Space]:
        model = self.models["old" if role == LAYERS else role]
        space = model.side if role == LAYERS else model.space
        assert space is not None  # noqa: S101  # `train_models` attached the layers
        return model, space

    def _embed(self, model: EmbeddingModel, items: Items, views: int) -> Mapping[Space, Embeddings]:
        """Embed views; the ids of a single view are those of the items."""
        taken = model.input
        flip = self.recipe.embedding_model.flip
        with self.stage.bar(f"Embed with {model.name}", "items") as progress:
            seen = embed_views(
                [model],
                items,
                augmentation=supervised_augmentation(taken.size, taken.channels, flip),
                views=views,
                seed=self.recipe.seed_of("views"),
                device=self.stage.device,
                progress=progress,
            )
        if views > 1:
            return seen
        return {space: replace(each, ids=items.ids) for space, each in seen.items()}
