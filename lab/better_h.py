"""Which map is better than ridge in galleries whose classes no model has seen? Trials of minutes.

    python lab/better_h.py IMAGES CACHE KEPT [--seeds 3 4] [--only WORD] [--every 1] [--out FILE]

What the arguments and columns mean is said in `maps.py`; side-information is that of layers, 256
bytes. Differences are from the best of the controls: doing nothing and ridge, both also by
distances that mind the spread within classes, which needs no h. What minds a covariance in the new
space is fused with the old space by distances that mind its spread.

    error covariance: distances mind h's error on held-out classes, with or without that spread.
    anchors: a share of the mean residual of the nearest pairs is added.
    a penalty each: for the old vector and for side-information.
    side by ...: the layers projected otherwise than by principal components; see `directions`.
    network, ensemble: with the new classifier's term and without, 20 epochs; the ensemble is the
        mean with ridge. Fused as ridge is.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from maps import (
    FULL,
    NOTHING,
    PENALTIES,
    RIDGE,
    SIDE_DIM,
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
    open_parts,
    open_study,
    ridges,
)

from onward.experiments.splits import CLOSED, OLD_TRAIN, OPEN, TRAIN
from onward.experiments.vectors import LAYERS, StudyArm, StudyVectors
from onward.quantisation import fit_quantisation
from onward.spaces import Embeddings, Space
from onward.transformation.networks import run_steps

OLD_WITHIN, WITHIN = "old/old, within", "ridge, side, within"
CONTROLS = (NOTHING, OLD_WITHIN, RIDGE, WITHIN)
BLOCKS, ANCHORED = "ridge, side, a penalty each", "ridge, side, anchors"
SHRINKAGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
KINDS = tuple(product(("error", "both", "difference"), SHRINKAGES))
OWN = tuple(product(("within",), SHRINKAGES))
NEAR = tuple(product((None, LAYERS), (16, 64), (0.5, 1.0)))
RATIOS = tuple(product((0.03, 0.1, 0.3, 1.0, 3.0), (0.1, 1.0, 3.0, 10.0, 30.0)))
ANCHORS, ROWS = 64, 500
TERMS = ("classifier", "none")

Chosen = Mapping[str, Any]


def trials(sides: Sequence[str], networks: Sequence[Way]) -> list[Way]:
    """Return the trials and their controls.

    Args:
        sides: names of side-information that is projected otherwise.
        networks: those that are measured, alone and in an ensemble.
    """
    aware, ridge = "error covariance", Way(RIDGE, by_ridge(LAYERS), PENALTIES)
    blocks = Way(BLOCKS, by_blocks, RATIOS)
    anchored = Way(ANCHORED, with_anchors(ridge), NEAR, after=(RIDGE,))
    whitened = [
        Way(
            f"{base.name}, {aware}",
            by_covariance(base),
            KINDS,
            OLD_WITHIN,
            after=(base.name,),
            by_error=False,
        )
        for base in (ridge, blocks)
    ]
    return [
        Way(NOTHING, as_it_is("old", "old"), is_fused=False),
        Way(FULL, as_it_is("new", "new"), is_fused=False),
        Way(OLD_WITHIN, old_within, SHRINKAGES, is_fused=False, by_error=False),
        ridge,
        blocks,
        anchored,
        Way(WITHIN, by_covariance(ridge), OWN, OLD_WITHIN, after=(RIDGE,), by_error=False),
        *whitened,
        Way(f"{BLOCKS}, anchors", with_anchors(blocks), NEAR, after=(BLOCKS,)),
        *(Way(f"ridge, side by {each}", by_ridge(each), PENALTIES) for each in sides),
        *networks,
        *(
            Way(each.name.replace("network", "ensemble"), mean_with_ridge(each), fused_as=RIDGE)
            for each in networks
        ),
    ]


# Distances that mind a covariance


def within(vectors: Matrix, labels: np.ndarray) -> Matrix:
    """Return the covariance within classes."""
    rest = vectors.astype(float)
    for each in set(labels):
        rest[labels == each] -= rest[labels == each].mean(axis=0)
    return rest.T @ rest / len(rest)


def held_out(items: Items, base: Way, chosen: Chosen) -> Matrix:
    """Return what a way makes of the items of each third of the classes, fitted on the others."""
    classes = np.random.default_rng(0).permutation(sorted(set(items.labels)))
    made = np.empty_like(items["new"])
    for some in np.array_split(classes, 3):
        out = np.isin(items.labels, some)
        learned, there = (items.select(np.flatnonzero(rows)) for rows in (~out, out))
        made[out] = base.prepare(learned, chosen)(chosen[base.name])(there)[1]
    return made


def covariances(items: Items, made: Matrix) -> dict[str, Matrix]:
    """Return what distances may mind.

    "within": the spread within classes of new vectors. "error": that of what h makes of classes
    that it has not seen, about the true vectors. "both": of a new query from another item of its
    class and h's error. "difference": the same as it is measured, of a new query from what h makes
    of another item of its class.

    Args:
        made: what h makes of each item where it has not seen the class.
    """
    error, spread = made - items["new"], within(items["new"], items.labels)
    moved = [error[items.labels == each].mean(axis=0) for each in sorted(set(items.labels))]
    return {
        "within": spread,
        "error": np.cov(error.T),
        "both": 2 * spread + np.cov(error.T),
        "difference": spread + within(made, items.labels) + np.cov(np.array(moved).T),
    }


def whitening(covariance: Matrix, shrinkage: float) -> Matrix:
    """Return the inverse root of a covariance with a multiple of its mean variance added."""
    level = shrinkage * np.trace(covariance) / len(covariance)
    values, vectors = np.linalg.eigh(covariance + level * np.eye(len(covariance)))
    whole: Matrix = (vectors / np.sqrt(values) @ vectors.T).astype(np.float32)
    return whole


def old_within(items: Items, _: Chosen) -> Callable[[Any], Carry]:
    covariance = within(items["old"], items.labels)

    def make(shrinkage: float) -> Carry:
        by = whitening(covariance, shrinkage)
        return lambda part: (part["old"] @ by, part["old"] @ by)

    return make


def by_covariance(base: Way) -> Prepare:
    """Return what a way makes, by a distance that minds a covariance."""

    def prepare(items: Items, chosen: Chosen) -> Callable[[Any], Carry]:
        found = covariances(items, held_out(items, base, chosen))
        carry = base.prepare(items, chosen)(chosen[base.name])

        def make(setting: tuple[str, float]) -> Carry:
            by = whitening(found[setting[0]], setting[1])
            return lambda part: tuple(each @ by for each in carry(part))

        return make

    return prepare


# Other maps


def with_anchors(base: Way) -> Prepare:
    """Return what a way makes, and a share of the mean residual of the nearest pairs.

    They are the nearest by old vectors, or by standardised old vectors and side-information.
    """

    def prepare(items: Items, chosen: Chosen) -> Callable[[Any], Carry]:
        carry = base.prepare(items, chosen)(chosen[base.name])
        queries, made = carry(items)
        residuals, known = queries - made, dict[Any, tuple[Items, Matrix]]()

        def nearest(part: Items, side: str | None) -> Matrix:
            if (id(part), side) not in known:
                found = nearest_rows(part.given(side), items.given(side), scaled=side is not None)
                known[id(part), side] = part, found
            return known[id(part), side][1]

        def make(setting: tuple[str | None, int, float]) -> Carry:
            side, count, strength = setting

            def moved(part: Items) -> Pair:
                asked, there = carry(part)
                near = residuals[nearest(part, side)[:, :count]].mean(axis=1)
                return asked, there + strength * near

            return moved

        return make

    return prepare


def nearest_rows(given: Matrix, learned: Matrix, *, scaled: bool) -> Matrix:
    """Return the rows of the nearest that were learned from, nearest first."""
    std = learned.std(axis=0) if scaled else np.float32(1)
    count, found = min(ANCHORS, len(learned)), []
    for block in np.split(given, range(ROWS, len(given), ROWS)):
        far = distances(block / std, learned / std, "l2")
        some = np.argpartition(far, count - 1, axis=1)[:, :count]
        order = np.take_along_axis(far, some, axis=1).argsort(axis=1)
        found.append(np.take_along_axis(some, order, axis=1))
    return np.concatenate(found)


def by_blocks(items: Items, _: Chosen) -> Callable[[Any], Carry]:
    """Return ridge with a penalty of the old vector, and that times a ratio of side-information."""
    solved: dict[float, Callable[[float], Map]] = {}

    def make(setting: tuple[float, float]) -> Carry:
        ratio, penalty = setting
        if ratio not in solved:
            scale = np.ones(items.given(LAYERS).shape[1])
            scale[items["old"].shape[1] :] = 1 / np.sqrt(ratio)
            solved[ratio] = ridges(items.given(LAYERS), items["new"], scale=scale)
        return carrying(solved[ratio](penalty), LAYERS)

    return make


def by_network(one: StudyArm) -> Prepare:
    """Return the network of an arm, which learns when it is asked for, from all training images."""

    def carry(part: Items) -> Pair:
        return part["new"], run_steps(
            one.h.steps, part["old"].astype(float), part[LAYERS].astype(float)
        )

    return lambda _, __: lambda ___: carry


def mean_with_ridge(network: Way) -> Prepare:
    """Return the mean of what a network makes and of ridge."""

    def prepare(items: Items, chosen: Chosen) -> Callable[[Any], Carry]:
        h = ridges(items.given(LAYERS), items["new"])(chosen[RIDGE])
        carry = network.prepare(items, chosen)(None)
        return lambda _: lambda part: (part["new"], (h(part.given(LAYERS)) + carry(part)[1]) / 2)

    return prepare


# What else there is of a seed's models


def opened(vectors: StudyVectors) -> tuple[Study, list[Way]]:
    """Return the study of a seed's models with what the trials need, and the trials."""
    sides = project_sides(vectors)
    parts = {
        part: Items({**items.vectors, **{name: sides[name][part] for name in sides}}, items.labels)
        for part, items in open_parts(vectors).items()
    }
    (arm,) = vectors.recipe.performed
    arms = {
        f"network, {term}": arm.model_copy(
            update={"fit": {"method": "mlp", "discriminative": term}}
        )
        for term in TERMS
    }
    networks = [
        Way(name, by_network(StudyArm(each, vectors)), fused_as=RIDGE)
        for name, each in arms.items()
    ]
    return open_study(vectors, parts), trials(list(sides), networks)


def project_sides(vectors: StudyVectors) -> dict[str, dict[str, Matrix]]:
    """Return side-information of each part by other directions, as int8."""
    layers, old = vectors.of(LAYERS, OLD_TRAIN), vectors.of("old", OLD_TRAIN)
    labels, found = np.asarray(old.labels), {}
    for name, axes in directions(layers.vectors, old.vectors, labels, SIDE_DIM).items():
        space = Space(name, len(axes))

        def project(given: Embeddings, axes: Matrix = axes, space: Space = space) -> Embeddings:
            return Embeddings(given.ids, given.vectors @ axes.T, space)

        stored = fit_quantisation(project(layers), "int8")
        found[name] = {
            part: stored.apply(project(vectors.of(LAYERS, part))).vectors.astype(np.float32)
            for part in (TRAIN, CLOSED, OPEN)
        }
    return found


def directions(layers: Matrix, old: Matrix, labels: np.ndarray, dim: int) -> dict[str, Matrix]:
    """Return directions of the layers' values that later models may need, chosen by old data.

    "residual": the principal components of what the old vector does not explain by ridge.
    "discriminant": those that tell old classes apart, then components of the residual.
    "even": principal components of the residual in units of the spread within old classes.
    """
    residual = np.cov((layers - ridges(old, layers)(0.01)(old)).T.astype(float))
    spread = within(layers, labels)
    by, between = whitening(spread, 0.1).astype(float), np.cov(layers.T.astype(float)) - spread
    count = min(len(set(labels)) - 1, dim // 2)
    apart = largest_axes(by @ between @ by, count) @ by
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    found = {
        "residual": largest_axes(residual, dim),
        "discriminant": np.vstack([apart, largest_axes(residual, dim - count)]),
        "even": largest_axes(by @ residual @ by, dim) @ by,
    }
    return {name: axes.astype(np.float32) for name, axes in found.items()}


def largest_axes(matrix: Matrix, count: int) -> Matrix:
    """Return the eigenvectors of the largest eigenvalues, as rows."""
    axes: Matrix = np.linalg.eigh(matrix)[1][:, ::-1][:, :count].T
    return axes


if __name__ == "__main__":
    main(__doc__, opened, CONTROLS)
