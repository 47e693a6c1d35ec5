"""The images of a study, the models that learn from them, and their embeddings: each made once.

Who is trained on what and who knows which classes is said by the splits. A model is trained, and
images are embedded, when the study needs them; both are kept on the stage, for every study that
needs the same.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from onward.artifacts import canonical_json, digest, write_aside
from onward.data.augmentation import supervised_augmentation
from onward.data.items import Items
from onward.data.sources import open_splits
from onward.errors import ConfigurationError, DataError
from onward.experiments.baselines import build_of
from onward.experiments.recipe import Recipe
from onward.models import EmbeddingModel
from onward.models.layers import choose_stages, columns_of
from onward.nn.specs import BackboneSpec
from onward.progress import Progress
from onward.spaces import Embeddings, Space
from onward.training.image_models import train_model
from onward.training.images import embed_views
from onward.training.layers import add_layers_side_information
from onward.training.loop import forget_checkpoint
from onward.training.settings import FrozenSettings, ModelSettings, RunSettings
from onward.transformation import Transformation

Classes = tuple[int, ...]
Lesson = tuple[str, str, BackboneSpec, ModelSettings | FrozenSettings]
Kept = TypeVar("Kept", Embeddings, EmbeddingModel, Transformation)

GENERATION = 4
"""To be raised when the same settings come to give something else: by other defaults or code."""

READ_ITEMS = 20_000  # at most, whose stages say what varies
OLD_TRAIN, SIDE_TRAIN, TRAIN = "old_train", "side_train", "train"
MIDDLE_TRAIN = "middle_train"
CLOSED, OPEN = "closed", "open"  # as `Splits` names them
LAYERS = "layers"


@dataclass(frozen=True)
class Stage:
    """Where a study is performed, and where all that it has made is kept.

    A study that is performed again, was interrupted, or shares a model with another one finds there
    what it would make again.

    Attributes:
        device: "auto", "cpu" or "cuda".
        tell: is given a line about each step.
        bar: opens a progress bar, given what is done and in which unit.
        cache: a directory with one for each kind of artefact; to delete it, or anything in it,
            costs time alone.
    """

    device: Literal["auto", "cpu", "cuda"]
    tell: Callable[[str], None]
    bar: Callable[[str, str], AbstractContextManager[Progress]]
    cache: Path

    def place(self, kind: type[Kept], what: Mapping[str, Any]) -> Path:
        """Return where the artefact that depends on this stands, or is to be written.

        Args:
            what: all that it depends on, as plain JSON values; the versions of Onward and of torch
                are added.
        """
        versions = {name: version(name) for name in ("onward", "torch")}
        whole = {"what": dict(what), "versions": versions, "generation": GENERATION}
        suffix = ".parquet" if kind is Embeddings else ""
        return self.cache / kind.__name__ / f"{digest(canonical_json(whole))[:16]}{suffix}"

    def keep(self, kind: type[Kept], what: Mapping[str, Any], make: Callable[[], Kept]) -> Kept:
        """Return the artefact that depends on this: the one that is kept, or what is made."""
        path = self.place(kind, what)
        if not path.exists():
            make().save(path)
        kept: Kept = kind.load(path)
        return kept


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

    def items(self, part: str) -> Items:
        """Return the images of a part, which the recipe has."""
        items: Items | None = getattr(self, part)
        assert items is not None  # noqa: S101  # who asks has seen that the recipe has this part
        return items


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
    _check_classes(recipe, len(train.classes))
    known, middle = train.classes, recipe.middle_classes
    last = None if data.new_classes is None else data.new_from + data.new_classes
    new_classes = known[data.new_from : last]
    others = train if data.old_source is None else _open(recipe, data.old_source)[0]
    old_train = others.of_classes(others.classes[: data.old_classes])
    old_classes = old_train.classes if data.old_source is None else ()
    seen = {*old_classes, *new_classes}
    return Splits(
        old_train=old_train,
        side_train=old_train.of_classes(old_train.classes[: data.side_classes]),
        train=train.of_classes(new_classes),
        middle_train=None if middle is None else train.of_classes(known[:middle]),
        closed=_closed(test, seen),
        open=_open_set(train, test, seen),
        old_classes=old_classes,
    )


def _check_classes(recipe: Recipe, count: int) -> None:
    """Refuse classes that models cannot know, of the number that there are to train with."""
    data, middle = recipe.data, recipe.middle_classes
    has = f"{data.source} has {count} classes"
    if data.classes not in (None, count):
        raise DataError(
            f"the recipe {recipe.name!r} needs {data.layout}",
            f"{has} to train with. For other images set data.classes, data.old_classes and "
            "data.new_classes too",
        )
    last = count if data.new_classes is None else data.new_from + data.new_classes
    if data.old_source is None and data.old_classes >= count:
        raise ConfigurationError(
            f"old_classes is {data.old_classes}, but {has}",
            "the new model should know some that the old one does not: give fewer",
        )
    if last > count or data.new_from >= last:
        raise ConfigurationError(
            f"the new model is to know classes {data.new_from} to {last - 1} by position, but "
            f"{has}",
            "give a smaller new_from or new_classes",
        )
    if middle is not None and not data.old_classes < middle <= last:
        raise ConfigurationError(
            f"middle_classes is {middle}",
            f"the middle model should know more classes than the old one ({data.old_classes}) and "
            f"no more than the new one (up to {last})",
        )


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
    both = seen & set(test.classes)
    return test.of_classes(both) if both else test


def _open_set(train: Items, test: Items, seen: set[int]) -> Items | None:
    if not seen & set(test.classes):  # the whole test part is unseen, and is the gallery already
        return None
    first, second = (
        part.select(np.flatnonzero(~np.isin(part.labels, sorted(seen)))) for part in (train, test)
    )
    if not len(first) + len(second):
        return None
    return replace(
        first,
        ids=first.ids + second.ids,
        labels=np.concatenate([first.labels, second.labels]),
        class_names={**second.class_names, **first.class_names},
        payloads=first.payloads + second.payloads,
        left_out=(),
    )


def train_models(recipe: Recipe, splits: Splits, stage: Stage) -> "StudyVectors":
    """Train the models that a recipe's arms and baselines need, by role.

    Each has a seed of its own, so none depends on another's. A model that is kept is not trained
    again, and a training that was killed goes on.
    """
    models: dict[str, EmbeddingModel] = {}
    seconds: dict[str, float] = {}
    sides = (arm.side for arm in recipe.performed if arm.side not in ("none", LAYERS, "oracle"))
    middle = ["middle"] if recipe.needs_middle else []
    for role in ("old", *dict.fromkeys(sides), *middle, "new", *recipe.trained_baselines):
        old = models["old"] if role in recipe.trained_baselines else None
        models[role], seconds[role] = _train(recipe, role, splits, stage, old)
        if role == "old":
            models[role] = _add_layers(recipe, models[role], splits.old_train, stage)
    return StudyVectors(recipe, splits, stage, models, seconds)


def _lessons(recipe: Recipe) -> dict[str, Lesson]:
    """Return by role how a model is told of, what it learns from, its network and its settings."""
    plain, new, bound = recipe.backbone, recipe.backbone_of_new, recipe.backward_compatible
    frozen, none = recipe.frozen_encoder or plain, FrozenSettings()
    untrained = plain.model_copy(update={"pretrained": False})
    means = bound.model_copy(update={"new_classes": "old class means"})
    held = "For comparison, a backward compatible model: held to the old model's classifier"
    both = recipe.supervised_contrastive
    return {
        "old": ("Old model", OLD_TRAIN, plain, recipe.embedding_model),
        "middle": ("Model between them", MIDDLE_TRAIN, plain, recipe.embedding_model),
        "new": ("New model, which knows of no old one", TRAIN, new, recipe.training_of_new),
        "simclr": ("SimCLR without labels", SIDE_TRAIN, plain, recipe.side_information),
        "autoencoder": ("autoencoder", SIDE_TRAIN, plain, recipe.autoencoder),
        "supervised": ("a second supervised model", SIDE_TRAIN, plain, recipe.embedding_model),
        "supervised+contrastive": ("cross-entropy and SimCLR at once", SIDE_TRAIN, plain, both),
        "untrained": ("an untrained network", SIDE_TRAIN, untrained, none),
        "frozen": (f"frozen encoder {frozen.name}", SIDE_TRAIN, frozen, none),
        "bct": (held, TRAIN, new, bound),
        "bct means": (f"{held}, with old class means for the new classes", TRAIN, new, means),
    }


def _train(
    recipe: Recipe, role: str, splits: Splits, stage: Stage, old: EmbeddingModel | None
) -> tuple[EmbeddingModel, float]:
    """Return the model of a role and how long its training took; of a resumed one, its last part.

    Args:
        old: the old model, for a model that is held to it.
    """
    told, part, backbone, settings = _lessons(recipe)[role]
    items, seed = splits.items(part), recipe.seed_of("side" if role == "simclr" else role)
    stage.tell(f"{'Side-information: ' if part == SIDE_TRAIN else ''}{told}: {items}")
    what = {
        "role": role,
        "recipe": settings.recipe,
        "backbone": backbone.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json", exclude_defaults=True),
        "seed": seed,
        "data": items.digest,
        "precision": recipe.precision,
        "old": None if old is None else old.space.name,
    }
    place = stage.place(EmbeddingModel, what)
    took = place.with_suffix(".seconds")
    if place.exists():
        stage.tell(f"  kept from before: {place}")
        return EmbeddingModel.load(place), float(took.read_text()) if took.exists() else 0.0
    started, checkpoint = time.monotonic(), place.with_name(f".{place.name}.checkpoint")
    with run_settings(recipe, stage, f"Train {role}") as run:
        model = train_model(
            items,
            settings,
            backbone,
            name="bct" if old is not None else role.replace("+", "-"),
            seed=seed,
            run=replace(run, checkpoint=checkpoint),
            old_model=old,
            same_labels=recipe.data.old_source is None,
            build=build_of(settings),
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
    channels, settings = model.stage_channels, recipe.layers
    values = len(columns_of(channels, choose_stages(channels, settings.stages), settings.grid))
    dim = min(settings.dim, values, len(items) - 1)
    how = settings.model_dump(mode="json") | {"dim": dim}

    def read() -> EmbeddingModel:
        with stage.bar("Read layers", "items") as progress:
            return add_layers_side_information(
                model,
                items,
                dim=dim,
                grid=settings.grid,
                format="float32",  # arms quantise what they store
                stages=settings.stages,
                device=stage.device,
                progress=progress,
            )

    return stage.keep(EmbeddingModel, how | {"model": model.space.name, "data": items.digest}, read)


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
        model = self.models["old" if role == LAYERS else role]
        space = model.side if role == LAYERS else model.space
        assert space is not None  # noqa: S101  # `train_models` attached the layers
        if (space, part) not in self._held:
            items, flip = self.splits.items(part), self.recipe.embedding_model.flip
            views = self.recipe.views if part in (TRAIN, MIDDLE_TRAIN) else 1
            seed = self.recipe.seed_of("views")
            what = {"space": space.to_json(), "items": items.digest, "flip": flip}
            what |= {"views": views, "seed": seed if views > 1 else None}

            def make() -> Embeddings:
                with self.stage.bar(f"Embed with {model.name}", "items") as progress:
                    seen = embed_views(
                        model,
                        items,
                        augmentation=supervised_augmentation(
                            model.input.size, model.input.channels, flip
                        ),
                        views=views,
                        seed=seed,
                        device=self.stage.device,
                        progress=progress,
                    )
                self._held.update({(other, part): each for other, each in seen.items()})
                return seen[space]

            self._held[space, part] = self.stage.keep(Embeddings, what, make)
        return self._held[space, part]
