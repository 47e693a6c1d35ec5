"""A whole study, in the order of the design's picture.

    images -> models -> embeddings -> gallery -> upgrade -> rankings -> evaluations -> comparison

`run_study` is the main job: all that it shows goes through the same functions that a user calls.
Nothing here computes a number that a library function could give.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from onward.artifacts import write_aside
from onward.compatibility import UPGRADED, Comparison
from onward.errors import ConfigurationError
from onward.experiments.arms import FittedArm, fit_arms
from onward.experiments.cells import judge
from onward.experiments.learning import Stage, train_models
from onward.experiments.outcome import describe_run, versions, write_comparison, write_page
from onward.experiments.recipe import Recipe
from onward.experiments.splits import Splits, split
from onward.experiments.vectors import CLOSED, StudyVectors
from onward.gallery import Gallery, create_gallery
from onward.models import EmbeddingModel
from onward.rankings import Ranking
from onward.retrieval import search
from onward.spaces import Embeddings, Space
from onward.training.gallery_samples import learned_part
from onward.upgrading import Upgrade, plan_upgrade

JUDGED, MOST_JUDGED = 0.2, 500  # share and number of the items that judge the upgrade
TOP = 5  # results that the report shows of each query
RECIPE, COMPARISON, PAGE, CACHE = "recipe.json", "comparison.json", "report.html", "cache"


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


def run_study(recipe: Recipe, out: Path, stage: Stage, *, overwrite: bool = False) -> Comparison:
    """Perform a recipe: train, embed, fit, upgrade a gallery, compare, report.

    Writes `models/`, `transformations/`, `embeddings/`, `gallery.lance`, `comparison.json` and
    `report.html` into a directory; without the arm "new/old" no gallery and no page. The same
    study that is there is replaced, another one only where that is said. What was made before with
    the same settings, images and versions, by this study or by another one, is taken from the
    stage's cache; so one that was interrupted goes on.

    Args:
        recipe: what to perform.
        out: the directory.
        stage: where it is performed.
        overwrite: replace a study of another recipe or of other images too.

    Returns:
        The comparison on the closed set; the open one stands in the file.

    Raises:
        ConfigurationError: if the directory holds something else or another study, or the recipe
            wants classes that are not there.
        DataError: if the images cannot be read.
    """
    with _threads(recipe.threads):
        return _run_study(recipe, out, stage, overwrite)


def _run_study(recipe: Recipe, out: Path, stage: Stage, overwrite: bool) -> Comparison:
    started = time.monotonic()
    check_place(out, recipe, overwrite=overwrite)
    splits = split(recipe)
    _tell_images(splits, stage)
    sampled = [arm.name for arm in recipe.performed if arm.gallery_sample]
    if sampled and splits.open is None:
        raise ConfigurationError(
            f"the arm {sampled[0]!r} takes a sample of the open gallery, and there is none: the "
            "models know every class. Give a smaller data.new_classes, or leave the arm out"
        )
    if not overwrite:
        _refuse_another(out, {"data": splits.digests})
    _prepare(out, recipe, splits)
    trained = train_models(recipe, splits, stage)
    vectors = StudyVectors(recipe, trained.models, splits, stage)
    stage.tell(f"Transformations: h(old, side) -> new from {splits.train}")
    arms = fit_arms(vectors)
    stage.tell(f"Embeddings: {splits.closed}, which no model was trained on")
    _save(trained.models, arms, vectors, out)
    upgraded = None
    if UPGRADED in arms:
        gallery = _fill_gallery(out, arms, vectors, stage)
        upgraded = _upgrade(gallery, arms[UPGRADED], vectors, stage)
    judgement = judge(vectors, arms, None if upgraded is None else upgraded.vectors)
    seconds = time.monotonic() - started
    run = describe_run(recipe, splits, seconds=seconds, training_seconds=trained.seconds)
    write_comparison(out / COMPARISON, judgement, vectors, arms, run)
    if upgraded is not None:
        page = out / PAGE
        rankings = _rankings(upgraded, vectors)
        write_page(page, judgement.closed, splits=splits, rankings=rankings, run=run)
        stage.tell(f"Report: {page}")
    return judgement.closed


def _rankings(upgraded: Upgraded, vectors: StudyVectors) -> dict[str, Ranking]:
    new = vectors.of("new", CLOSED)
    return {
        "old/old": upgraded.before,
        "new/old": upgraded.after,
        "new/new": search(new, new, TOP, exclude_self=True),
    }


def _tell_images(splits: Splits, stage: Stage) -> None:
    """Say how each source was read, and what was left out of it."""
    said: dict[str, str] = {}
    for items in (splits.old_train, splits.train, splits.closed):
        said.setdefault(items.source, items.reading)
        for left in items.left_out:
            said.setdefault(f"left out: {left.where}", left.why)
    for where, what in said.items():
        stage.tell(f"{where}: {what}")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch compute with so many threads inside; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_place(out: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Refuse a directory that holds something else than a study, or one of another recipe.

    Raises:
        ConfigurationError: saying so; what is there is left alone.
    """
    if out.exists() and any(out.iterdir()) and not (out / RECIPE).is_file():
        raise ConfigurationError(
            f"{out} is there already and holds no study; it was left as it is. "
            "Give another directory with --out"
        )
    if not overwrite:
        _refuse_another(out, {"recipe": recipe.model_dump(mode="json")})


def _refuse_another(out: Path, study: Mapping[str, Any]) -> None:
    """Refuse a directory with a study that differs in what is given; versions may differ."""
    if not (out / RECIPE).exists():
        return
    try:
        before = json.loads((out / RECIPE).read_bytes())
        same = all(before[name] == value for name, value in study.items())
    except (ValueError, KeyError, TypeError, RecursionError):
        same = False
    if not same:
        raise ConfigurationError(
            f"{out} holds another study, of other settings or images; it was left as it is. Give "
            "another directory with --out, or replace it with --overwrite"
        )


def describe_study(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """Return all that determines a study, as plain values."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": splits.digests,
        "versions": versions(),
    }


def _prepare(out: Path, recipe: Recipe, splits: Splits) -> None:
    """Make room, and say what is performed here; what else the directory holds stays."""
    (out / COMPARISON).unlink(missing_ok=True)
    with write_aside(out / RECIPE) as aside:
        aside.write_text(json.dumps(describe_study(recipe, splits), indent=2) + "\n")
    (out / PAGE).unlink(missing_ok=True)
    for name in ("models", "transformations", "embeddings", "gallery.lance"):
        shutil.rmtree(out / name, ignore_errors=True)


def _save(
    models: Mapping[str, EmbeddingModel],
    arms: Mapping[str, FittedArm],
    vectors: StudyVectors,
    out: Path,
) -> None:
    """Lay out what a reader may want to use: models, transformations and the closed embeddings."""
    for role, model in models.items():
        model.save(out / "models" / _slug(role))
        vectors.of(role, CLOSED).save(out / "embeddings" / f"{_slug(role)}.parquet")
    vectors.of("layers", CLOSED).save(out / "embeddings" / "layers.parquet")
    for name, arm in arms.items():
        arm.h.save(out / "transformations" / _slug(name))


def _slug(name: str) -> str:
    return name.replace("/", "-").replace(" ", "-")


def _fill_gallery(
    out: Path, arms: Mapping[str, FittedArm], vectors: StudyVectors, stage: Stage
) -> Gallery:
    """Fill a gallery as the old model did, with the side-information of every kind of the study."""
    kept: dict[Space, Embeddings] = {}
    for arm in arms.values():
        side = arm.side.of(CLOSED)
        if side is not None and (arm.arm.name == UPGRADED or arm.arm.dim is None):
            kept.setdefault(side.space, side)
    old = vectors.of("old", CLOSED)
    url = str(out / "gallery.lance")
    stage.tell(f"Gallery: {url}, old embeddings with side-information beside them")
    gallery = create_gallery(url, old.space, *kept, serving=old.space, query_model=old.space.name)
    gallery.add(old, *kept.values(), payloads=vectors.splits.closed.payloads)
    return gallery


def _upgrade(gallery: Gallery, arm: FittedArm, vectors: StudyVectors, stage: Stage) -> Upgraded:
    h, old, new = arm.h, vectors.of("old", CLOSED), vectors.of("new", CLOSED)
    before = gallery.search(old, TOP, exclude_self=True)
    sample = new.align(learned_part(new.ids, JUDGED)[:MOST_JUDGED])
    plan = plan_upgrade(gallery, h, sample=sample)
    stage.tell(f"Plan: {plan}")
    stage.tell(
        "Start: whatever the plan says, and without the sample, to compare what h alone gives"
    )
    upgrade = Upgrade(gallery, h)
    upgrade.start(prediction=plan.predicted, force=True)
    with stage.bar("Upgrade", "rows") as progress:
        stage.tell(f"Upgrade: {upgrade.run(progress=progress)}")
    stage.tell(f"Verify: {upgrade.verify()}")
    stage.tell(f"Cut over: {upgrade.cut_over(query_model=h.new.name)}")
    after = gallery.search(new, TOP, exclude_self=True)
    carried = gallery.read(h.new).align(new.ids)
    return Upgraded(replace(carried, labels=new.labels, class_names=new.class_names), before, after)
