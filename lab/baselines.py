"""Do the maps that reviewers ask for carry old vectors over as well as ridge does?

    python lab/baselines.py IMAGES CACHE KEPT [--seeds 0 1 2] [--only WORD] [--every 1] [--out FILE]

What these mean, and the columns, is said in `maps.py`. Differences are from ridge with
side-information of layers, 256 bytes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from maps import (
    FULL,
    NOTHING,
    PENALTIES,
    RIDGE,
    Carry,
    Items,
    Map,
    Matrix,
    Pair,
    Prepare,
    Study,
    Way,
    as_it_is,
    by_ridge,
    carrying,
    distances,
    main,
    open_study,
    ridges,
)
from sklearn.cluster import KMeans

from onward.experiments.vectors import LAYERS, StudyVectors

EXPERTS, TEMPERATURE = 8, 0.2


def rotation(inputs: Matrix, targets: Matrix) -> Map:
    """Return the orthogonal map of Procrustes."""
    mean, middle = inputs.mean(axis=0), targets.mean(axis=0)
    left, _, right = np.linalg.svd(
        (inputs - mean).astype(float).T @ (targets - middle), full_matrices=False
    )
    weight = (left @ right).astype(np.float32)
    return lambda given: (given - mean) @ weight + middle


def by_rotation(items: Items, _: Mapping[str, Any]) -> Callable[[Any], Carry]:
    h = rotation(items["old"], items["new"])
    return lambda _: carrying(h, None)


def to_old(*, rotated: bool) -> Prepare:
    """Return what brings new queries to the old gallery."""

    def prepare(items: Items, _: Mapping[str, Any]) -> Callable[[Any], Carry]:
        solve = None if rotated else ridges(items["new"], items["old"])

        def make(penalty: Any) -> Carry:
            g = rotation(items["new"], items["old"]) if solve is None else solve(penalty)
            return lambda part: (g(part["new"]), part["old"])

        return make

    return prepare


def near_rotation(side: str | None) -> Prepare:
    """Return ridge towards an orthogonal matrix: a rotation, and ridge of what it leaves.

    References:
        lambda-orthogonality, arXiv 2509.16664; in closed form here, the rotation fitted first.
    """

    def prepare(items: Items, _: Mapping[str, Any]) -> Callable[[Any], Carry]:
        q = rotation(items["old"], items["new"])
        solve = ridges(items.given(side), items["new"] - q(items["old"]))

        def make(penalty: float) -> Carry:
            rest = solve(penalty)
            return lambda part: (part["new"], q(part["old"]) + rest(part.given(side)))

        return make

    return prepare


def by_experts(side: str | None) -> Prepare:
    """Return eight ridges, mixed by how near an old vector is to the centres of eight clusters.

    The weights are the softmax of minus the squared distance over a fifth of the mean squared
    distance from the nearest centre; each ridge learns by the same.

    References:
        Drift-Adapter's mapping by clusters, with soft weights.
    """

    def prepare(items: Items, _: Mapping[str, Any]) -> Callable[[Any], Carry]:
        some = items["old"][:: max(1, len(items) // 10_000)]
        centres = KMeans(EXPERTS, n_init=1, random_state=0).fit(some).cluster_centers_
        unit = TEMPERATURE * distances(items["old"], centres, "l2").min(axis=1).mean()

        def shares(old: Matrix) -> Matrix:
            logits = -distances(old, centres, "l2") / unit
            found = np.exp(logits - logits.max(axis=1, keepdims=True))
            return found / found.sum(axis=1, keepdims=True)

        solved = [
            ridges(items.given(side), items["new"], each)
            for each in shares(items["old"]).astype(float).T
        ]

        def make(penalty: float) -> Carry:
            experts = [solve(penalty) for solve in solved]

            def mix(given: Matrix) -> Matrix:
                mixed = shares(given[:, : centres.shape[1]])
                return sum(x[:, None] * h(given) for x, h in zip(mixed.T, experts, strict=True))

            return carrying(mix, side)

        return make

    return prepare


def by_logits(heads: Pair) -> Prepare:
    """Return the logits over common classes as embeddings; nothing is trained."""

    def embed(vectors: Matrix, head: Matrix, learned: Matrix, how: str) -> Matrix:
        logits, before = vectors @ head.T, learned @ head.T
        if how == "softmax":
            logits = np.exp(logits - logits.max(axis=1, keepdims=True))
            return logits / logits.sum(axis=1, keepdims=True)
        logits, before = (x - x.mean(axis=1, keepdims=True) for x in (logits, before))
        return (logits - before.mean(axis=0)) / before.std(axis=0) if how == "standard" else logits

    def prepare(items: Items, _: Mapping[str, Any]) -> Callable[[Any], Carry]:
        def make(how: str) -> Carry:
            return lambda part: (
                embed(part["new"], heads[1], items["new"], how),
                embed(part["old"], heads[0], items["old"], how),
            )

        return make

    return prepare


def baselines(heads: Pair) -> list[Way]:
    """Return what a reviewer asks for, and what it stands beside."""
    return [
        Way(NOTHING, as_it_is("old", "old"), is_fused=False),
        Way(FULL, as_it_is("new", "new"), is_fused=False),
        Way("procrustes", by_rotation),
        Way("ridge", by_ridge(None), PENALTIES),
        Way(RIDGE, by_ridge(LAYERS), PENALTIES, by_ranks=True),
        Way("lambda-orthogonal", near_rotation(None), PENALTIES),
        Way("lambda-orthogonal, side", near_rotation(LAYERS), PENALTIES),
        Way("local experts", by_experts(None), PENALTIES),
        Way("local experts, side", by_experts(LAYERS), PENALTIES),
        Way(
            "logits over common classes",
            by_logits(heads),
            ("centred", "standard", "softmax"),
            by_error=False,
        ),
        Way("query -> old, procrustes", to_old(rotated=True), is_fused=False),
        Way("query -> old, ridge", to_old(rotated=False), PENALTIES, is_fused=False),
    ]


def opened(vectors: StudyVectors) -> tuple[Study, list[Way]]:
    study = open_study(vectors)
    return study, baselines(study.heads)


if __name__ == "__main__":
    main(__doc__, opened, (RIDGE,))
