"""The cells of a study: every arm and baseline on the closed set, on the open one, and apart.

Three comparisons, each with the same queries and items in all its cells: `closed`, the test images
of classes that models know; `open`, images of classes that none knows, with the items of a gallery
sample embedded as they are after the upgrade; `unsampled`, the half of the open set that no sample
was taken from, which shows what h does to items that it never saw.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from onward.artifacts import digest, digest_arrays
from onward.backfill_curve import (
    backfill_curve,
    oracle_order,
    random_order,
    uncertainty_order,
)
from onward.compatibility import NEW, OLD, UPGRADED, Comparison, evaluate_embeddings
from onward.evaluation import Evaluation
from onward.experiments.arms import FittedArm
from onward.experiments.splits import unsampled
from onward.experiments.vectors import CLOSED, OPEN, StudyVectors
from onward.spaces import Embeddings, Space
from onward.verification import verify_pairs

Cell = tuple[Embeddings, Embeddings]
Cells = Mapping[str, Callable[[], Cell]]


@dataclass(frozen=True, eq=False)
class Judgement:
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


def judge(
    vectors: StudyVectors, arms: Mapping[str, FittedArm], gallery: Embeddings | None
) -> Judgement:
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
        return Judgement(judged, None, None, verified, curves)
    stage.tell(f"Open set, which no model knows: {vectors.splits.open}")
    cells = _cells(vectors, arms, OPEN)
    apart = unsampled(vectors.splits.open)
    sampled = any(arm.gallery_sample for arm in vectors.recipe.arms)  # also if not performed now
    return Judgement(
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
        unsure = arm.h.uncertainties(vectors.of("old", part), arm.side.of(part))
        orders = {
            "random": random_order(new.ids, seed=seed),
            "uncertainty": uncertainty_order(new.ids, unsure),
            "oracle": oracle_order(upgraded, new),
        }
        for order, ids in orders.items():
            curve = backfill_curve(new, upgraded, new, ids, exclude_self=True)
            found.setdefault(name, {})[order] = curve.to_json()
    return found
