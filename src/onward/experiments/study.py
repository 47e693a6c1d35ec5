"""A whole study, in the order of the design's picture.

    images -> models -> embeddings -> gallery -> upgrade -> rankings -> evaluations -> comparison

`run_study` is the main job: all that it shows goes through the same functions that a user calls.
Nothing here computes a number that a library function could give.

Its cells are every arm, alone and fused with the old vectors, and every baseline, in three
comparisons, each with the same queries and items in all its cells: `closed`, the test images of
classes that models know; `open`, images of classes that none knows, with the items of a gallery
sample embedded as they are after the upgrade; `unsampled`, the half of the open set that no sample
was taken from, which shows what h does to items that it never saw.

Each cell is searched by `l2` and by `cosine`, and compared by the better one of cmc@1, that of its
space where both are as good: some models and maps are at their best by directions, others by
lengths too, and a comparison is of each at its best. A fused cell keeps its weight in both.
"""

import json
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onward.artifacts import write_aside
from onward.errors import ConfigurationError
from onward.evaluation.backfill_curve import (
    backfill_curve,
    oracle_order,
    random_order,
    uncertainty_order,
)
from onward.evaluation.comparison import (
    FUSED,
    NEW,
    OLD,
    UPGRADED,
    WHEN_FUSED,
    Comparison,
    evaluate_embeddings,
)
from onward.evaluation.intervals import over_queries
from onward.evaluation.metrics import Evaluation
from onward.evaluation.retrieval import Ranking, search
from onward.evaluation.serving import measure_pair
from onward.evaluation.verification import verify_pairs
from onward.experiments.recipe import Recipe
from onward.experiments.splits import CLOSED, OPEN, Splits, split, unsampled
from onward.experiments.vectors import (
    LAYERS,
    Stage,
    StudyArm,
    StudyVectors,
    count_macs,
    fit_arms,
    train_models,
)
from onward.fusion import FusedEmbeddings, Searchable
from onward.gallery import Gallery, create_gallery
from onward.report import make_grid, write_report
from onward.spaces import Embeddings, Metric, Space
from onward.training.fit.pairs import learned_part
from onward.training.settings import renamed
from onward.upgrading import Upgrade, plan_upgrade

JUDGED, MOST_JUDGED = 0.2, 500  # share and number of the items that judge the upgrade
TOP = 5  # results that the report shows of each query
RECIPE, COMPARISON, PAGE, CACHE = "recipe.json", "comparison.json", "report.html", "cache"
VERSIONS_OF = ("onward", "torch", "numpy", "onnxruntime", "lancedb")
RESAMPLES = 1000
DISTANCES: tuple[Metric, ...] = ("l2", "cosine")
COMPARED_BY = "compared by"
INTRODUCTION = (
    "A gallery of {items} images was filled by an old model that knows {old} of {all} classes. "
    "Then a better model came, trained as if there were no old one. A transformation, learned on "
    "the new model's training images, carried the stored vectors into the new space; not one image "
    "of the gallery was read. Here every image is searched among all the others."
)

Cell = tuple[Searchable, Searchable]
Distances = Mapping[str, Mapping[str, Any]]
"""Of each cell its metrics by the distance that it was searched by, and which it is compared by."""
Cells = Mapping[str, Callable[[], Cell]]
Arms = Mapping[str, StudyArm]


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
        started = time.monotonic()
        check_place(out, recipe, overwrite=overwrite)
        splits = split(recipe)
        _tell_images(splits, stage)
        _check_samples(recipe, splits)
        if not overwrite:
            _refuse_another(out, {"data": splits.digests})
        _prepare(out, recipe, splits)
        vectors = train_models(recipe, splits, stage)
        stage.tell(f"Transformations: h(old, side) -> new from {splits.train}")
        arms = fit_arms(vectors)
        stage.tell(f"Embeddings: {splits.closed}, which no model was trained on")
        _save(arms, vectors, out)
        found, carried = dict[str, Ranking](), None
        if UPGRADED in arms:
            gallery = _fill_gallery(out, arms, vectors)
            carried, found = _upgrade(gallery, arms[UPGRADED], vectors)
        closed, fields = _judge(vectors, arms, carried)
        run = _describe_run(vectors, time.monotonic() - started)
        with write_aside(out / COMPARISON) as aside:
            aside.write_text(json.dumps(fields | run, indent=2, allow_nan=False) + "\n")
        if found:
            _write_page(out / PAGE, closed, found, vectors, run)
            stage.tell(f"Report: {out / PAGE}")
        return closed


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch compute with this number of threads inside; None leaves it as it is."""
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
        before = renamed(json.loads((out / RECIPE).read_bytes()))
        same = all(before[name] == value for name, value in study.items())
    except (ValueError, LookupError, AttributeError, RecursionError):
        same = False
    if not same:
        raise ConfigurationError(
            f"{out} holds another study, of other settings or images",
            "it was left as it is. Give another directory, out=..., or replace it: overwrite=True",
        )


def _check_samples(recipe: Recipe, splits: Splits) -> None:
    sampled = [arm.name for arm in recipe.performed if arm.gallery_sample]
    if sampled and splits.open is None:
        raise ConfigurationError(
            f"the arm {sampled[0]!r} takes a sample of the open gallery, and there is none: the "
            "models know every class. Give a smaller data.new_classes, or leave the arm out"
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


def _tell_images(splits: Splits, stage: Stage) -> None:
    """Say how each source was read, and what was left out of it."""
    said: dict[str, str] = {}
    for items in (splits.old_train, splits.train, splits.closed):
        said.setdefault(items.source, items.reading)
        for left in items.left_out:
            said.setdefault(f"left out: {left.where}", left.why)
    for where, what in said.items():
        stage.tell(f"{where}: {what}")


def _save(arms: Arms, vectors: StudyVectors, out: Path) -> None:
    """Lay out what a reader may want to use: models, transformations and the closed embeddings."""
    for role, model in vectors.models.items():
        model.save(out / "models" / _slug(role))
    for role in (*vectors.models, LAYERS):
        vectors.of(role, CLOSED).save(out / "embeddings" / f"{_slug(role)}.parquet")
    for name, arm in arms.items():
        arm.h.save(out / "transformations" / _slug(name))


def _slug(name: str) -> str:
    return name.replace("/", "-").replace(" ", "-")


def _fill_gallery(out: Path, arms: Arms, vectors: StudyVectors) -> Gallery:
    """Fill a gallery as the old model did, with the side-information of every kind of the study."""
    kept: dict[Space, Embeddings] = {}
    for arm in arms.values():
        side = arm.side(CLOSED)
        if side is not None and (arm.arm.name == UPGRADED or arm.arm.dim is None):
            kept.setdefault(side.space, side)
    old = vectors.of("old", CLOSED)
    url = str(out / "gallery.lance")
    vectors.stage.tell(f"Gallery: {url}, old embeddings with side-information beside them")
    gallery = create_gallery(url, old.space, *kept, serving=old.space, query_model=old.space.name)
    gallery.add(old, *kept.values(), payloads=vectors.splits.closed.payloads)
    return gallery


def _upgrade(
    gallery: Gallery, arm: StudyArm, vectors: StudyVectors
) -> tuple[Embeddings, dict[str, Ranking]]:
    """Return the items in the new space, as the gallery holds them, and what queries found.

    The old model's queries searched before the cut over, the new model's after it.
    """
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
    labelled = replace(carried, labels=new.labels, class_names=new.class_names)
    return labelled, {OLD: before, UPGRADED: after}


def _judge(
    vectors: StudyVectors, arms: Arms, gallery: Embeddings | None
) -> tuple[Comparison, dict[str, Any]]:
    """Evaluate every cell; return the closed comparison, and all that the JSON says of cells.

    Args:
        arms: by name; those with a gallery sample are judged on the open set alone.
        gallery: the closed gallery as a store holds it after the upgrade of the arm "new/old";
            without one, the arm is judged as the others are.
    """
    stage, splits, recipe = vectors.stage, vectors.splits, vectors.recipe
    cells = _cells(vectors, {n: arm for n, arm in arms.items() if not arm.sample}, CLOSED)
    if gallery is not None:
        new = vectors.of("new", CLOSED)
        cells[UPGRADED] = partial(_cell, new, gallery)
        if FUSED in cells:
            cells[FUSED] = partial(arms[UPGRADED].fused, CLOSED, new, gallery)
    stage.tell(f"Comparison: {splits.closed}; each is searched among all the others")
    compared, distances = dict[str, Comparison](), dict[str, Distances]()
    compared["cells"], distances["distances"] = _compare(cells, stage)
    fields = compared["cells"].to_json() | {
        "by_classes": _by_classes(compared["cells"], vectors),
        "arms": {name: arm.describe() for name, arm in arms.items()},
        "old_bytes": vectors.of("old", CLOSED).space.bytes,
        "old_macs": count_macs(vectors.models["old"]),
    }
    if splits.open is not None:
        stage.tell(f"Open set, which no model knows: {splits.open}")
        of_open = _cells(vectors, arms, OPEN)
        judged: dict[str, np.ndarray | None] = {"open": None}
        if any(arm.gallery_sample for arm in recipe.arms):  # also if not performed now
            judged["unsampled"] = unsampled(splits.open)
        for part, rows in judged.items():
            compared[part], distances[f"{part}_distances"] = _compare(of_open, stage, rows)
    for part, comparison in list(compared.items())[1:]:
        told = comparison.to_json()
        fields[part] = told.pop("cells")
        fields |= {f"{part}_{name}": value for name, value in told.items()}
    fields |= distances
    parts = {"cells": CLOSED, "open": OPEN}
    fields["intervals"] = {part: _intervals(compared[part]) for part in parts if part in compared}
    if recipe.data.verification:
        fields["verification"] = _verify(cells)
    curves = {of: _backfill(arms, of, recipe) for part, of in parts.items() if part in compared}
    return compared["cells"], fields | ({"backfill": curves} if any(curves.values()) else {})


def _cells(vectors: StudyVectors, arms: Arms, part: str) -> dict[str, Callable[[], Cell]]:
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
        cells[name] = partial(arm.cell, part)
        if part in arm.servings:
            cells[f"{name}{WHEN_FUSED}"] = partial(_fused, arm, part)
    for name, of_model in baselines.items():
        cells[f"{name} new/new"] = partial(_cell, of_model, of_model)
    if "middle" in vectors.models:
        middle = vectors.of("middle", part)
        cells["middle/middle"] = partial(_cell, middle, middle)
    cells[NEW] = partial(_cell, new, new)
    return cells


def _fused(arm: StudyArm, part: str) -> Cell:
    return arm.fused(part, *arm.cell(part))


def _cell(queries: Searchable, gallery: Searchable) -> Cell:
    return queries, gallery


def _claimed(embeddings: Embeddings, space: Space) -> Embeddings:
    """Say of vectors that they lie in another space: for the cells that test this claim."""
    return replace(embeddings, space=space)


def _compare(
    cells: Cells, stage: Stage, rows: np.ndarray | None = None
) -> tuple[Comparison, Distances]:
    """Return the comparison of cells, each by its better distance, and what each distance gives.

    Args:
        rows: of some of their queries and items, if any are named.
    """
    evaluations = dict[str, Evaluation]()
    distances = dict[str, Mapping[str, Any]]()
    with stage.bar("Compare", "cells") as progress:
        for done, (name, make) in enumerate(cells.items()):
            found = _evaluate(*(each if rows is None else each.select(rows) for each in make()))
            better = max(found, key=lambda metric: found[metric].value("cmc@1"))
            evaluations[name] = found[better]
            told = {str(metric): each.to_json() for metric, each in found.items()}
            distances[name] = {**told, COMPARED_BY: better}
            progress(done + 1, len(cells))
    return Comparison(evaluations), distances


def _evaluate(queries: Searchable, gallery: Searchable) -> dict[Metric, Evaluation]:
    """Return what each distance gives, that of the vectors' own space first.

    A vector of length 0 has no direction; where one is, the cosine is left out.
    """
    own = _metric_of(gallery)
    directed = all(each.vectors.any(axis=1).all() for each in _vectors(queries, gallery))
    others = [metric for metric in DISTANCES if metric != own and directed]
    cells = {own: (queries, gallery)}
    for metric in others:
        with suppress(ConfigurationError):  # of a pair whose distances are all alike there
            cells[metric] = _searched_by(metric, queries, gallery)
    return {
        metric: evaluate_embeddings(*cell, exclude_self=True, same_labels=True)
        for metric, cell in cells.items()
    }


def _metric_of(gallery: Searchable) -> Metric:
    """Return the metric of a space; of a pair that of its new one."""
    return (gallery if isinstance(gallery, Embeddings) else gallery.new).space.metric


def _vectors(*given: Searchable) -> Iterator[Embeddings]:
    """Give the vectors of each, in both spaces where it is of a pair."""
    for each in given:
        yield from (each,) if isinstance(each, Embeddings) else (each.old, each.new)


def _searched_by(metric: Metric, queries: Searchable, gallery: Searchable) -> Cell:
    """Return the same vectors as if their spaces had another metric.

    Of a pair the weight stays, and the scales are those of the distances in this gallery.
    """
    of_queries, of_gallery = (
        [_claimed(one, replace(one.space, metric=metric)) for one in _vectors(each)]
        for each in (queries, gallery)
    )
    if isinstance(gallery, Embeddings):
        return of_queries[0], of_gallery[0]
    old, new = zip(of_queries, of_gallery, strict=True)
    pair = replace(measure_pair([old], [new], seed=0), weight=gallery.space.weight)
    return FusedEmbeddings(pair, *of_queries), FusedEmbeddings(pair, *of_gallery)


def _verify(cells: Cells) -> dict[str, dict[str, Any]]:
    """Return the rates of accepted pairs of each cell; of one that is fused there are none."""
    rates = {}
    for name, make in cells.items():
        queries, gallery = make()
        if isinstance(queries, Embeddings) and isinstance(gallery, Embeddings):
            rates[name] = verify_pairs(queries, gallery, exclude_self=True).to_json()
    return rates


def _backfill(arms: Arms, part: str, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the curve of each arm and order: most unsure first, at random, farthest off first."""
    seed = recipe.seed_of("backfill order")
    found: dict[str, dict[str, Any]] = {}
    for name, arm in arms.items():
        unsure = arm.uncertainties(part)
        if unsure is None:
            continue
        new, upgraded = arm.cell(part)
        orders = {
            "random": random_order(new.ids, seed=seed),
            "uncertainty": uncertainty_order(new.ids, unsure),
            "oracle": oracle_order(upgraded, new),
        }
        found[name] = {
            order: backfill_curve(new, upgraded, new, ids, exclude_self=True).to_json()
            for order, ids in orders.items()
        }
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
    found: Mapping[str, Ranking],
    vectors: StudyVectors,
    run: Mapping[str, Any],
) -> None:
    """Write the report of the closed set with a grid of what was found."""
    new, splits = vectors.of("new", CLOSED), vectors.splits
    items, old_classes = splits.closed, splits.old_classes
    facts = {
        "recipe": f"{run['recipe']['name']}, seed {run['recipe']['seed']}",
        "time": f"{run['seconds']:.0f} s",
        "peak memory": f"{run['peak_bytes'] / 2**20:,.0f} MiB",
        "versions": ", ".join(f"{name} {number}" for name, number in run["versions"].items()),
    }
    rankings = {**found, NEW: search(new, new, TOP, exclude_self=True)}
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
