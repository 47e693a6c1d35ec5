"""A whole study, in the order of the design's picture.

    images -> models -> embeddings -> gallery -> upgrade -> rankings -> evaluations -> comparison

`run_study` is the main job: all that it shows goes through the same functions that a user calls.
Nothing here computes a number that a library function could give.
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from onward.artifacts import write_aside
from onward.compatibility import Comparison, compare, evaluate_embeddings
from onward.data.items import Items
from onward.data.sources import open_splits
from onward.errors import ConfigurationError
from onward.experiments.learning import (
    Stage,
    StudyVectors,
    embed_items,
    fit_transformations,
    train_models,
)
from onward.experiments.outcome import describe_run, versions, write_comparison, write_page
from onward.experiments.recipe import Recipe
from onward.gallery import Gallery, create_gallery
from onward.rankings import Ranking
from onward.retrieval import search
from onward.spaces import Embeddings, Space
from onward.transformation import Transformation
from onward.upgrading import Upgrade, plan_upgrade

TOP = 5  # results that the report shows of each query
RECIPE, COMPARISON = "recipe.json", "comparison.json"
DIRECTORY_OF = {"new/old without side": "no-side", "new/old": "simclr", "new/old layers": "layers"}


@dataclass(frozen=True, eq=False)
class Upgraded:
    """What came out of the gallery.

    Attributes:
        vectors: the items in the new space, as the gallery holds them after the upgrade.
        before: what the old model's queries found before the cut over.
        after: what the new model's queries found after it.
    """

    vectors: Embeddings
    before: Ranking
    after: Ranking


def run_study(recipe: Recipe, out: Path, stage: Stage) -> Comparison:
    """Perform a recipe: train, embed, fit, upgrade a gallery, compare, report.

    Writes `models/`, `transformations/`, `embeddings/`, `gallery.lance`, `comparison.json` and
    `report.html` into a directory. A finished study that is there is replaced; one that was
    interrupted, on the same data and with the same recipe and versions, goes on with the models
    that it had trained.

    Raises:
        ConfigurationError: if the directory holds something else, or the recipe wants more old
            classes than there are.
        DataError: if the images cannot be read.
    """
    with _threads(recipe.threads):
        return _run_study(recipe, out, stage)


def _run_study(recipe: Recipe, out: Path, stage: Stage) -> Comparison:
    started = time.monotonic()
    _refuse_to_replace_others(out)
    train, test, old_classes = _open(recipe)
    _prepare(out, recipe, train, test)
    old_train = train.of_classes(old_classes)
    models = train_models(recipe, train, old_train, out / "models", stage)
    transformations = fit_transformations(recipe, models, train, stage)
    for cell, transformation in transformations.items():
        transformation.save(out / "transformations" / DIRECTORY_OF[cell])
    stage.tell(f"Embeddings: {test}, which no model was trained on")
    vectors = embed_items(models, test, stage)
    _save_vectors(vectors, out)
    gallery = _fill_gallery(out, vectors, test, stage)
    upgraded = _upgrade(gallery, transformations["new/old"], vectors, stage)
    stage.tell("Comparison: every test image is searched among all the others")
    comparison = compare(
        {
            name: evaluate_embeddings(queries, gallery, exclude_self=True)
            for name, (queries, gallery) in _cells(vectors, upgraded, transformations).items()
        }
    )
    run = describe_run(recipe, seconds=time.monotonic() - started)
    write_comparison(out / COMPARISON, comparison, vectors.new, old_classes, run)
    rankings = {
        "old/old": upgraded.before,
        "new/old": upgraded.after,
        "new/new": search(vectors.new, vectors.new, TOP, exclude_self=True),
    }
    page = out / "report.html"
    write_page(page, comparison, items=test, rankings=rankings, old_classes=old_classes, run=run)
    stage.tell(f"Report: {page}")
    return comparison


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch compute with so many threads inside; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_to_replace_others(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / RECIPE).is_file():
        raise ConfigurationError(
            f"{out} is there already and holds no study; it was left as it is. "
            "Give another directory with --out"
        )


def _prepare(out: Path, recipe: Recipe, train: Items, test: Items) -> None:
    """Make room: keep the models of the same study if it was interrupted, and nothing else."""
    what = {
        "recipe": recipe.model_dump(mode="json"),
        "data": {"train": train.digest, "test": test.digest},
        "versions": versions(),
    }
    text = json.dumps(what, indent=2) + "\n"
    before, finished = out / RECIPE, (out / COMPARISON).exists()
    if finished or not before.exists() or before.read_text() != text:
        shutil.rmtree(out / "models", ignore_errors=True)
        (out / COMPARISON).unlink(missing_ok=True)
        with write_aside(before) as aside:
            aside.write_text(text)
    shutil.rmtree(out / "gallery.lance", ignore_errors=True)


def _open(recipe: Recipe) -> tuple[Items, Items, tuple[int, ...]]:
    data = recipe.data
    train, test = open_splits(
        data.source,
        image_column=data.image_column,
        label_column=data.label_column,
        id_column=data.id_column,
        skip_bad=data.skip_bad,
    )
    if data.old_classes >= len(train.classes):
        raise ConfigurationError(
            f"old_classes is {data.old_classes}, but {data.source} has {len(train.classes)} "
            "classes; the new model should know some that the old one does not: give fewer"
        )
    return train, test, train.classes[: data.old_classes]


def _save_vectors(vectors: StudyVectors, out: Path) -> None:
    directory = out / "embeddings"
    vectors.old.save(directory / "old.parquet")
    vectors.side.save(directory / "simclr.parquet")
    vectors.layers.save(directory / "layers.parquet")
    vectors.new.save(directory / "new.parquet")
    vectors.compatible.save(directory / "bct.parquet")


def _fill_gallery(out: Path, vectors: StudyVectors, test: Items, stage: Stage) -> Gallery:
    kinds = (vectors.old, vectors.side, vectors.layers)
    url, old = str(out / "gallery.lance"), vectors.old.space
    stage.tell(f"Gallery: {url}, old embeddings with side-information beside them")
    gallery = create_gallery(
        url, *(each.space for each in kinds), serving=old, query_model=old.name
    )
    gallery.add(*kinds, payloads=test.payloads)
    return gallery


def _upgrade(gallery: Gallery, h: Transformation, vectors: StudyVectors, stage: Stage) -> Upgraded:
    before = gallery.search(vectors.old, TOP, exclude_self=True)
    stage.tell(f"Plan: {plan_upgrade(gallery, h)}")
    upgrade = Upgrade(gallery, h)
    upgrade.start()
    with stage.bar("Upgrade", "rows") as progress:
        stage.tell(f"Upgrade: {upgrade.run(progress=progress)}")
    stage.tell(f"Verify: {upgrade.verify()}")
    stage.tell(f"Cut over: {upgrade.cut_over(query_model=h.new.name)}")
    after = gallery.search(vectors.new, TOP, exclude_self=True)
    carried = gallery.read(h.new).align(vectors.new.ids)
    return Upgraded(replace(carried, labels=vectors.new.labels), before, after)


def _cells(
    vectors: StudyVectors, upgraded: Upgraded, transformations: dict[str, Transformation]
) -> dict[str, tuple[Embeddings, Embeddings]]:
    old, new, compatible = vectors.old, vectors.new, vectors.compatible
    without, layers = transformations["new/old without side"], transformations["new/old layers"]
    return {
        "independent": (new, _claimed(old, new.space)),
        "old/old": (old, old),
        "bct new/old": (compatible, _claimed(old, compatible.space)),
        "new/old without side": (new, without.apply(old)),
        "new/old": (new, upgraded.vectors),
        "new/old layers": (new, layers.apply(old, vectors.layers)),
        "bct new/new": (compatible, compatible),
        "new/new": (new, new),
    }


def _claimed(old: Embeddings, space: Space) -> Embeddings:
    """Say of old vectors that they lie in another space: for the cells that test this claim."""
    return replace(old, space=space)
