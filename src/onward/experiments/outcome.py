"""What a study leaves for a reader: `comparison.json` and `report.html`."""

import json
import platform
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from onward.artifacts import write_aside
from onward.compatibility import Comparison
from onward.experiments.arms import FittedArm
from onward.experiments.cells import Judgement
from onward.experiments.recipe import Recipe
from onward.experiments.sides import count_multiply_adds
from onward.experiments.splits import Splits
from onward.experiments.vectors import CLOSED, StudyVectors
from onward.intervals import over_queries
from onward.rankings import Ranking
from onward.report import make_grid, write_report

VERSIONS_OF = ("onward", "torch", "numpy", "onnxruntime", "lancedb")
RESAMPLES = 1000
INTRODUCTION = (
    "A gallery of {items} images was filled by an old model that knows {old} of {all} classes. "
    "Then a better model came, trained as if there were no old one. A transformation, learned on "
    "the new model's training images, carried the stored vectors into the new space; not one image "
    "of the gallery was read. Here every image is searched among all the others."
)


@dataclass(frozen=True)
class RunFacts:
    """What it took.

    Attributes:
        recipe: name, seed and digest.
        data: digests of the images to train with and of the closed set.
        seconds: from beginning to end; what was kept from before takes none.
        training_seconds: of each model, now or when it was kept.
        peak_bytes: the most memory that the process held.
        versions: of the packages that matter.
    """

    recipe: Mapping[str, Any]
    data: Mapping[str, str]
    seconds: float
    training_seconds: Mapping[str, float]
    peak_bytes: int
    versions: Mapping[str, str]


def describe_run(
    recipe: Recipe, splits: Splits, *, seconds: float, training_seconds: Mapping[str, float]
) -> RunFacts:
    """Return what the run of a recipe took up to now."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return RunFacts(
        {"name": recipe.name, "seed": recipe.seed, "digest": recipe.digest},
        splits.digests,
        round(seconds, 1),
        {role: round(took, 1) for role, took in training_seconds.items()},
        peak if sys.platform == "darwin" else peak * 1024,
        versions(),
    )


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in VERSIONS_OF}


def write_comparison(
    path: Path,
    judgement: Judgement,
    vectors: StudyVectors,
    arms: Mapping[str, FittedArm],
    run: RunFacts,
) -> None:
    """Write what a study came to as JSON: closed and open cells, and what each arm is."""
    closed = judgement.closed
    fields = closed.to_json() | {
        "by_classes": _by_classes(closed, vectors),
        "arms": {name: arm.describe() for name, arm in arms.items()},
        "old_bytes": vectors.of("old", CLOSED).space.bytes,
        "old_multiply_adds": count_multiply_adds(vectors.models["old"]),
    }
    for part, comparison in {"open": judgement.open, "unsampled": judgement.unsampled}.items():
        if comparison is not None:
            told = comparison.to_json()
            fields[part] = told.pop("cells")
            fields |= {f"{part}_{name}": value for name, value in told.items()}
    fields["intervals"] = {
        part: _intervals(comparison)
        for part, comparison in {"cells": closed, "open": judgement.open}.items()
        if comparison is not None
    }
    if judgement.verification:
        fields["verification"] = {name: dict(of) for name, of in judgement.verification.items()}
    if judgement.backfill:
        fields["backfill"] = {part: dict(of) for part, of in judgement.backfill.items()}
    fields |= {
        "recipe": dict(run.recipe),
        "data": dict(run.data),
        "seconds": run.seconds,
        "training_seconds": dict(run.training_seconds),
        "peak_bytes": run.peak_bytes,
        "versions": dict(run.versions),
    }
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


def write_page(
    path: Path,
    comparison: Comparison,
    *,
    splits: Splits,
    rankings: Mapping[str, Ranking],
    run: RunFacts,
) -> None:
    """Write the report of the closed set with a grid of what was found."""
    facts = {
        "recipe": f"{run.recipe['name']}, seed {run.recipe['seed']}",
        "time": f"{run.seconds:.0f} s",
        "peak memory": f"{run.peak_bytes / 2**20:,.0f} MiB",
        "versions": ", ".join(f"{name} {number}" for name, number in run.versions.items()),
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
