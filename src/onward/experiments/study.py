"""A whole study, in the order of the design's picture.

    images -> models -> embeddings -> gallery -> upgrade -> rankings -> evaluations -> comparison

`run_study` is the main job: all that it shows goes through the same functions that a user calls.
Nothing here computes a number that a library function could give.

Its cells are every arm and baseline, in three comparisons, each with the same queries and items in
all its cells: `closed`, the test images of classes that models know; `open`, images of classes that
none knows, with the items of a gallery sample embedded as they are after the upgrade; `unsampled`,
the half of the open set that no sample was taken from, which shows what h does to items that it
never saw.
"""

import json
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onward.artifacts import digest, digest_arrays, write_aside
from onward.backfill_curve import backfill_curve, oracle_order, random_order, uncertainty_order
from onward.compatibility import NEW, OLD, UPGRADED, Comparison, evaluate_embeddings
from onward.errors import ConfigurationError
from onward.evaluation import Evaluation
from onward.experiments.arms import FittedArm, count_macs, fit_arms
from onward.experiments.recipe import Recipe
from onward.experiments.stage import Stage
from onward.experiments.vectors import (
    CLOSED,
    LAYERS,
    OPEN,
    Splits,
    StudyVectors,
    split,
    train_models,
    unsampled,
)
from onward.gallery import Gallery, create_gallery
from onward.intervals import over_queries
from onward.rankings import Ranking
from onward.report import make_grid, write_report
from onward.retrieval import search
from onward.spaces import Embeddings, Space
from onward.training.fit.samples import learned_part
from onward.upgrading import Upgrade, plan_upgrade
from onward.verification import verify_pairs

JUDGED, MOST_JUDGED = 0.2, 500  # share and number of the items that judge the upgrade
TOP = 5  # results that the report shows of each query
RECIPE, COMPARISON, PAGE, CACHE = "recipe.json", "comparison.json", "report.html", "cache"
VERSIONS_OF = ("onward", "torch", "numpy", "onnxruntime", "lancedb")
RESAMPLES = 1000
INTRODUCTION = (
    "A gallery of {items} images was filled by an old model that knows {old} of {all} classes. "
    "Then a better model came, trained as if there were no old one. A transformation, learned on "
    "the new model's training images, carried the stored vectors into the new space; not one image "
    "of the gallery was read. Here every image is searched among all the others."
)

Cell = tuple[Embeddings, Embeddings]
Cells = Mapping[str, Callable[[], Cell]]


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


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a study came to.

    Attributes:
        closed: on test images of seen classes.
        open: on images of unseen classes; None where a study has none.
        unsampled: on the half of them that no gallery sample was taken from.
        verification: true accept rates by cell and false accept rate, where they were asked for.
        backfill: of each arm that says how unsure it is, by part and order: what re-embedding ever
            more of the gallery gives.
    """

    closed: Comparison
    open: Comparison | None
    unsampled: Comparison | None
    verification: Mapping[str, Mapping[str, Any]]
    backfill: Mapping[str, Mapping[str, Mapping[str, Any]]]


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
    vectors = train_models(recipe, splits, stage)
    stage.tell(f"Transformations: h(old, side) -> new from {splits.train}")
    arms = fit_arms(vectors)
    stage.tell(f"Embeddings: {splits.closed}, which no model was trained on")
    _save(arms, vectors, out)
    upgraded = None
    if UPGRADED in arms:
        upgraded = _upgrade(_fill_gallery(out, arms, vectors), arms[UPGRADED], vectors)
    outcome = judge(vectors, arms, None if upgraded is None else upgraded.vectors)
    run = _describe_run(vectors, time.monotonic() - started)
    _write_comparison(out / COMPARISON, outcome, vectors, arms, run)
    if upgraded is not None:
        _write_page(out / PAGE, outcome.closed, upgraded, vectors, run)
        stage.tell(f"Report: {out / PAGE}")
    return outcome.closed


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
            f"{out} is there already and holds no study",
            "it was left as it is. Give another directory: out=...",
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
            f"{out} holds another study, of other settings or images",
            "it was left as it is. Give another directory, out=..., or replace it: overwrite=True",
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


def _save(arms: Mapping[str, FittedArm], vectors: StudyVectors, out: Path) -> None:
    """Lay out what a reader may want to use: models, transformations and the closed embeddings."""
    for role, model in vectors.models.items():
        model.save(out / "models" / _slug(role))
    for role in (*vectors.models, LAYERS):
        vectors.of(role, CLOSED).save(out / "embeddings" / f"{_slug(role)}.parquet")
    for name, arm in arms.items():
        arm.h.save(out / "transformations" / _slug(name))


def _slug(name: str) -> str:
    return name.replace("/", "-").replace(" ", "-")


def _fill_gallery(out: Path, arms: Mapping[str, FittedArm], vectors: StudyVectors) -> Gallery:
    """Fill a gallery as the old model did, with the side-information of every kind of the study."""
    kept: dict[Space, Embeddings] = {}
    for arm in arms.values():
        side = arm.side.of(CLOSED)
        if side is not None and (arm.arm.name == UPGRADED or arm.arm.dim is None):
            kept.setdefault(side.space, side)
    old = vectors.of("old", CLOSED)
    url = str(out / "gallery.lance")
    vectors.stage.tell(f"Gallery: {url}, old embeddings with side-information beside them")
    gallery = create_gallery(url, old.space, *kept, serving=old.space, query_model=old.space.name)
    gallery.add(old, *kept.values(), payloads=vectors.splits.closed.payloads)
    return gallery


def _upgrade(gallery: Gallery, arm: FittedArm, vectors: StudyVectors) -> Upgraded:
    h, stage = arm.h, vectors.stage
    old, new = vectors.of("old", CLOSED), vectors.of("new", CLOSED)
    before = gallery.search(old, TOP, exclude_self=True)
    sample = new.align(learned_part(new.ids, JUDGED)[:MOST_JUDGED])
    plan = plan_upgrade(gallery, h, sample=sample)
    stage.tell(f"Plan: {plan}")
    stage.tell(
        "Start: whatever the plan says, and without the sample, to compare what h alone gives"
    )
    upgrade = Upgrade(gallery, h)
    upgrade.start(prediction=plan.prediction, force=True)
    with stage.bar("Upgrade", "rows") as progress:
        stage.tell(f"Upgrade: {upgrade.run(progress=progress)}")
    stage.tell(f"Verify: {upgrade.verify()}")
    stage.tell(f"Cut over: {upgrade.cut_over(query_model=h.new.name)}")
    after = gallery.search(new, TOP, exclude_self=True)
    carried = gallery.read(h.new).align(new.ids)
    return Upgraded(replace(carried, labels=new.labels, class_names=new.class_names), before, after)


def judge(
    vectors: StudyVectors, arms: Mapping[str, FittedArm], gallery: Embeddings | None
) -> Outcome:
    """Evaluate every cell of a study.

    Args:
        arms: by name; those with a gallery sample are judged on the open set alone.
        gallery: the closed gallery as a store holds it after the upgrade of the arm "new/old";
            without one, the arm is judged as the others are.
    """
    stage = vectors.stage
    closed = {
        name: make
        for name, make in _cells(vectors, arms, CLOSED).items()
        if name not in arms or not arms[name].sample
    }
    if gallery is not None:
        closed[UPGRADED] = partial(_cell, vectors.of("new", CLOSED), gallery)
    stage.tell(f"Comparison: {vectors.splits.closed}; each is searched among all the others")
    everything = np.ones(len(vectors.splits.closed), dtype=bool)
    judged = _compare(closed, everything, vectors)
    verified = _verify(closed) if vectors.recipe.data.verification else {}
    unsure = {name: arm for name, arm in arms.items() if arm.says_how_unsure}
    parts = [CLOSED] if vectors.splits.open is None else [CLOSED, OPEN]
    curves = {part: _backfill(vectors, unsure, part) for part in parts if unsure}
    if vectors.splits.open is None:
        return Outcome(judged, None, None, verified, curves)
    stage.tell(f"Open set, which no model knows: {vectors.splits.open}")
    cells = _cells(vectors, arms, OPEN)
    apart = unsampled(vectors.splits.open)
    sampled = any(arm.gallery_sample for arm in vectors.recipe.arms)  # also if not performed now
    return Outcome(
        judged,
        _compare(cells, np.ones(len(apart), dtype=bool), vectors),
        _compare(cells, apart, vectors) if sampled else None,
        verified,
        curves,
    )


def _cells(vectors: StudyVectors, arms: Mapping[str, FittedArm], part: str) -> Cells:
    """Return queries and gallery of each cell, made when they are asked for."""
    old, new = vectors.of("old", part), vectors.of("new", part)
    cells: dict[str, Callable[[], Cell]] = {}
    if old.space.dim == new.space.dim and old.space.metric == new.space.metric:
        cells["independent"] = partial(_cell, new, _claimed(old, new.space))
    cells[OLD] = partial(_cell, old, old)
    baselines = {str(name): vectors.of(name, part) for name in vectors.recipe.trained_baselines}
    for name, of_model in baselines.items():
        cells[f"{name} new/old"] = partial(_cell, of_model, _claimed(old, of_model.space))
    for name, arm in arms.items():
        cells[name] = partial(arm.cell, vectors, part)
    for name, of_model in baselines.items():
        cells[f"{name} new/new"] = partial(_cell, of_model, of_model)
    if "middle" in vectors.models:
        middle = vectors.of("middle", part)
        cells["middle/middle"] = partial(_cell, middle, middle)
    cells[NEW] = partial(_cell, new, new)
    return cells


def _cell(queries: Embeddings, gallery: Embeddings) -> Cell:
    return queries, gallery


def _claimed(old: Embeddings, space: Space) -> Embeddings:
    """Say of old vectors that they lie in another space: for the cells that test this claim."""
    return replace(old, space=space)


def _compare(cells: Cells, rows: np.ndarray, vectors: StudyVectors) -> Comparison:
    with vectors.stage.bar("Compare", "cells") as progress:
        evaluations = {}
        for done, (name, make) in enumerate(cells.items()):
            queries, gallery = (each.select(rows) for each in make())
            evaluations[name] = _evaluate(queries, gallery, vectors)
            progress(done + 1, len(cells))
    return Comparison(evaluations)


def _evaluate(queries: Embeddings, gallery: Embeddings, vectors: StudyVectors) -> Evaluation:
    what = {"queries": _digest(queries), "gallery": _digest(gallery)}
    return vectors.stage.cache.evaluation(
        what, lambda: evaluate_embeddings(queries, gallery, exclude_self=True, same_labels=True)
    )


def _digest(embeddings: Embeddings) -> str:
    labels = embeddings.labels
    assert labels is not None  # noqa: S101  # a study's items are labelled
    arrays = digest_arrays({"vectors": embeddings.vectors, "labels": labels})
    ids = (item.encode() for item in embeddings.ids)
    return digest(arrays.encode(), str(embeddings.space.to_json()).encode(), *ids)


def _verify(cells: Cells) -> dict[str, Mapping[str, Any]]:
    return {
        name: verify_pairs(*make(), exclude_self=True).to_json() for name, make in cells.items()
    }


def _backfill(
    vectors: StudyVectors, arms: Mapping[str, FittedArm], part: str
) -> dict[str, dict[str, Any]]:
    """Return the curve of each arm and order: most unsure first, at random, farthest off first."""
    seed = vectors.recipe.seed_of("backfill order")
    found: dict[str, dict[str, Any]] = {}
    for name, arm in arms.items():
        new, upgraded = arm.cell(vectors, part)
        unsure = arm.uncertainties(vectors, part)
        orders = {
            "random": random_order(new.ids, seed=seed),
            "uncertainty": uncertainty_order(new.ids, unsure),
            "oracle": oracle_order(upgraded, new),
        }
        for order, ids in orders.items():
            curve = backfill_curve(new, upgraded, new, ids, exclude_self=True)
            found.setdefault(name, {})[order] = curve.to_json()
    return found


def _describe_run(vectors: StudyVectors, seconds: float) -> dict[str, Any]:
    """Return what it took up to now: what was kept from before takes no time.

    The time of each model's training is that of now or when it was kept; `peak_bytes` is the most
    memory that the process held.
    """
    recipe = vectors.recipe
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "recipe": {"name": recipe.name, "seed": recipe.seed, "digest": recipe.digest},
        "data": vectors.splits.digests,
        "seconds": round(seconds, 1),
        "training_seconds": {role: round(took, 1) for role, took in vectors.seconds.items()},
        "peak_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in VERSIONS_OF}


def _write_comparison(
    path: Path,
    outcome: Outcome,
    vectors: StudyVectors,
    arms: Mapping[str, FittedArm],
    run: Mapping[str, Any],
) -> None:
    """Write what a study came to as JSON: closed and open cells, and what each arm is."""
    closed = outcome.closed
    fields = closed.to_json() | {
        "by_classes": _by_classes(closed, vectors),
        "arms": {name: arm.describe() for name, arm in arms.items()},
        "old_bytes": vectors.of("old", CLOSED).space.bytes,
        "old_macs": count_macs(vectors.models["old"]),
    }
    for part, comparison in {"open": outcome.open, "unsampled": outcome.unsampled}.items():
        if comparison is not None:
            told = comparison.to_json()
            fields[part] = told.pop("cells")
            fields |= {f"{part}_{name}": value for name, value in told.items()}
    fields["intervals"] = {
        part: _intervals(comparison)
        for part, comparison in {"cells": closed, "open": outcome.open}.items()
        if comparison is not None
    }
    if outcome.verification:
        fields["verification"] = outcome.verification
    if outcome.backfill:
        fields["backfill"] = outcome.backfill
    fields |= run
    with write_aside(path) as aside:
        aside.write_text(json.dumps(fields, indent=2, allow_nan=False) + "\n")


def _intervals(comparison: Comparison) -> dict[str, Any]:
    """Return bootstrap intervals over the queries, by cell and metric."""
    return {
        cell: {
            metric: over_queries(evaluation, metric, resamples=RESAMPLES).to_json()
            for metric in ("cmc@1", "map")
        }
        for cell, evaluation in comparison.cells.items()
    }


def _by_classes(comparison: Comparison, vectors: StudyVectors) -> dict[str, Any]:
    """Return the cells of queries of old and of new classes apart."""
    queries = vectors.of("new", CLOSED)
    assert queries.labels is not None  # noqa: S101  # a study's items are labelled
    is_old = np.isin(queries.labels, vectors.splits.old_classes)
    apart = {"old": queries.select(is_old).ids, "new": queries.select(~is_old).ids}
    return {
        name: comparison.select(ids).to_json()["cells"] for name, ids in apart.items() if len(ids)
    }


def _write_page(
    path: Path,
    comparison: Comparison,
    upgraded: Upgraded,
    vectors: StudyVectors,
    run: Mapping[str, Any],
) -> None:
    """Write the report of the closed set with a grid of what was found."""
    new, splits = vectors.of("new", CLOSED), vectors.splits
    rankings = {
        OLD: upgraded.before,
        UPGRADED: upgraded.after,
        NEW: search(new, new, TOP, exclude_self=True),
    }
    facts = {
        "recipe": f"{run['recipe']['name']}, seed {run['recipe']['seed']}",
        "time": f"{run['seconds']:.0f} s",
        "peak memory": f"{run['peak_bytes'] / 2**20:,.0f} MiB",
        "versions": ", ".join(f"{name} {number}" for name, number in run["versions"].items()),
    }
    items, old_classes = splits.closed, splits.old_classes
    write_report(
        path,
        comparison,
        title="A gallery moves to a new model",
        introduction=INTRODUCTION.format(
            items=f"{len(items):,}", old=len(old_classes), all=len(items.classes)
        ),
        grid=make_grid(items, rankings, old_classes=old_classes),
        facts=facts,
    )
