"""What a study learns: four models and three transformations."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from onward.data.augmentation import supervised_augmentation
from onward.data.items import Items
from onward.experiments.recipe import Recipe
from onward.models import EmbeddingModel
from onward.progress import Progress
from onward.spaces import Embeddings, Space
from onward.training.backward_compatible import train_backward_compatible_model
from onward.training.checkpoints import forget_checkpoint
from onward.training.embedding_models import train_embedding_model
from onward.training.layers import add_layers_side_information
from onward.training.settings import RunSettings
from onward.training.side_information import train_side_information_model
from onward.training.transformations import fit
from onward.training.views import embed_views
from onward.transformation import Transformation


@dataclass(frozen=True)
class Stage:
    """Where a study is performed.

    Attributes:
        device: "auto", "cpu" or "cuda".
        tell: is given a line about each step.
        bar: opens a progress bar, given what is done and in which unit.
    """

    device: Literal["auto", "cpu", "cuda"]
    tell: Callable[[str], None]
    bar: Callable[[str, str], AbstractContextManager[Progress]]


@dataclass(frozen=True, eq=False)
class StudyModels:
    """The models of a study.

    Attributes:
        old: knows the old classes; gives side-information of kind `layers` in the same pass.
        side: SimCLR on old data, without labels.
        new: trained on everything, as if no old model existed.
        compatible: trained on everything, to be compared with the old model directly.
    """

    old: EmbeddingModel
    side: EmbeddingModel
    new: EmbeddingModel
    compatible: EmbeddingModel


@dataclass(frozen=True, eq=False)
class StudyVectors:
    """The same items through every model of a study."""

    old: Embeddings
    layers: Embeddings
    side: Embeddings
    new: Embeddings
    compatible: Embeddings


def train_models(
    recipe: Recipe, train: Items, old_train: Items, directory: Path, stage: Stage
) -> StudyModels:
    """Train the four models; each has a seed of its own, so none depends on another's.

    Args:
        train: what the new model and the backward compatible one are trained on.
        old_train: what the old model and the side-information are trained on.
        directory: where each is saved once it is trained; those that are there are not trained
            again, and one that was killed goes on.
        stage: where it is done.
    """
    settings, backbone = recipe.embedding_model, recipe.backbone

    def train_old(run: RunSettings) -> EmbeddingModel:
        seed = recipe.seed_of("old")
        model = train_embedding_model(
            old_train, backbone, name="old", settings=settings, seed=seed, run=run
        )
        read = sum(model.stage_channels) * recipe.layers.grid**2
        dim = min(recipe.layers.dim, read, len(old_train) - 1)  # few items have few directions
        grid = recipe.layers.grid
        return add_layers_side_information(model, old_train, dim=dim, grid=grid, device=run.device)

    def train_side(run: RunSettings) -> EmbeddingModel:
        seed, chosen = recipe.seed_of("side"), recipe.side_information
        return train_side_information_model(
            old_train, backbone, name="side", settings=chosen, seed=seed, run=run
        )

    def train_new(run: RunSettings) -> EmbeddingModel:
        seed = recipe.seed_of("new")
        return train_embedding_model(
            train, backbone, name="new", settings=settings, seed=seed, run=run
        )

    def train_compatible(run: RunSettings) -> EmbeddingModel:
        seed, chosen = recipe.seed_of("bct"), recipe.backward_compatible
        return train_backward_compatible_model(
            train, backbone, old_model=old, name="bct", settings=chosen, seed=seed, run=run
        )

    stage.tell(f"Old model: trained on {old_train}")
    old = _train("Old model", train_old, directory / "old", recipe, stage)
    stage.tell("Side-information: SimCLR on the same old images, without labels")
    side = _train("Side-information", train_side, directory / "side", recipe, stage)
    stage.tell(f"New model: trained on {train}; it does not know of the old one")
    new = _train("New model", train_new, directory / "new", recipe, stage)
    stage.tell("For comparison, a backward compatible model: held to the old model's classifier")
    compatible = _train("Backward compatible", train_compatible, directory / "bct", recipe, stage)
    return StudyModels(old, side, new, compatible)


def _train(
    what: str,
    train: Callable[[RunSettings], EmbeddingModel],
    directory: Path,
    recipe: Recipe,
    stage: Stage,
) -> EmbeddingModel:
    if directory.exists():
        stage.tell(f"{what}: trained before this study was interrupted, {directory}")
        return EmbeddingModel.load(directory)
    checkpoint = directory.with_name(f".{directory.name}.checkpoint")
    with _run(recipe, stage, what) as run:
        model = train(replace(run, checkpoint=checkpoint))
    model.save(directory)
    forget_checkpoint(checkpoint)
    return model


def fit_transformations(
    recipe: Recipe, models: StudyModels, train: Items, stage: Stage
) -> dict[str, Transformation]:
    """Fit h without side-information, with SimCLR's and with the layers', by their cells' names."""
    stage.tell(
        f"Transformations: h(old, side) -> new from {len(train):,} training images of the new "
        f"model, {recipe.views} views each"
    )
    seen = _embed_training_views(recipe, models, train, stage)
    layers = models.old.side
    assert layers is not None  # noqa: S101  # `train_models` attached it
    sides = {
        "new/old without side": None,
        "new/old": seen[models.side.space],
        "new/old layers": seen[layers],
    }
    fitted = {}
    for cell, side in sides.items():
        with _run(recipe, stage, f"Fit {cell}") as run:
            fitted[cell] = fit(
                seen[models.old.space],
                side,
                seen[models.new.space],
                settings=recipe.fit,
                seed=recipe.seed_of("fit"),
                run=run,
            )
    return fitted


def embed_items(models: StudyModels, items: Items, stage: Stage) -> StudyVectors:
    """Embed items with every model; the old one gives its side-information in the same pass."""
    device = stage.device
    with stage.bar("Embed", "items") as progress:
        old, layers = models.old.embed_with_side(items, device=device, progress=progress)
        side, new, compatible = (
            model.embed(items, device=device, progress=progress)
            for model in (models.side, models.new, models.compatible)
        )
    return StudyVectors(old, layers, side, new, compatible)


def _embed_training_views(
    recipe: Recipe, models: StudyModels, train: Items, stage: Stage
) -> dict[Space, Embeddings]:
    """Embed what the transformations are fitted on; the compatible model has no part in it."""
    taken = models.new.input
    augmentation = supervised_augmentation(taken.size, taken.channels, recipe.embedding_model.flip)
    with stage.bar("Embed views", "items") as progress:
        return embed_views(
            [models.old, models.side, models.new],
            train,
            augmentation=augmentation,
            views=recipe.views,
            seed=recipe.seed_of("views"),
            device=stage.device,
            progress=progress,
        )


@contextmanager
def _run(recipe: Recipe, stage: Stage, what: str) -> Iterator[RunSettings]:
    with stage.bar(what, "steps") as progress:
        yield RunSettings(device=stage.device, precision=recipe.precision, progress=progress)
