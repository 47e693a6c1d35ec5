"""The arms of a study: what each stores beside the old embedding, and the transformation it fits.

Each is fitted once, and carries the galleries over in its own way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch.utils.flop_counter import FlopCounterMode

from onward.artifacts import digest, digest_arrays
from onward.experiments.baselines import fit_residual_bottleneck, identity, low_rank
from onward.experiments.recipe import Arm
from onward.experiments.vectors import (
    CLOSED,
    LAYERS,
    MIDDLE_TRAIN,
    OLD_TRAIN,
    OPEN,
    TRAIN,
    StudyVectors,
    run_settings,
    unsampled,
)
from onward.models import EmbeddingModel
from onward.quantisation import fit_quantisation
from onward.spaces import Embeddings, Space
from onward.training.fit.fit import fit
from onward.training.fit.pairs import Classifier, Examples, Pairs
from onward.training.layers import measure, principal_components
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import Transformation, without_ids

Stored = Callable[[Embeddings], Embeddings]

GENERATION = 3
"""To be raised when `fit` comes to give something else of the same pairs and settings."""


@dataclass(frozen=True, eq=False)
class SideInformation:
    """The side-information of an arm.

    Attributes:
        arm: which kind, and how it is stored.
        vectors: where it comes from.
        store: brings it into the stored form, which was chosen on old data alone.
    """

    arm: Arm
    vectors: StudyVectors
    store: Stored

    def of(self, part: str) -> Embeddings | None:
        """Return what is stored for a part of the images; None for an arm without any."""
        if self.arm.side == "none":
            return None
        return self.store(_given(self.arm, self.vectors, part))

    @property
    def macs(self) -> int:
        """What making it costs an item, beside the old embedding; 0 for none."""
        models = self.vectors.models
        if self.arm.side in ("none", "oracle"):
            return 0
        if self.arm.side == LAYERS:
            readout = models["old"].readout
            assert readout is not None  # noqa: S101  # `train_models` attached it
            dim = min(self.arm.dim or readout.dim, readout.dim)
            return int(dim * readout.components.shape[1])
        return count_macs(models[self.arm.side])


def side_information(arm: Arm, vectors: StudyVectors) -> SideInformation:
    """Return the side-information of an arm; what has to be learned for it is, on old data."""
    steps: list[Stored] = []
    if arm.side != "none" and (arm.dim is not None or arm.format != "float32"):
        old = _given(arm, vectors, OLD_TRAIN)
        if arm.dim is not None and arm.dim < old.space.dim:
            steps.append(_projection(old, arm.dim))
            old = steps[-1](old)
        if arm.format != "float32":
            steps.append(fit_quantisation(old, arm.format).apply)

    def store(embeddings: Embeddings) -> Embeddings:
        for step in steps:
            embeddings = step(embeddings)
        return embeddings

    return SideInformation(arm, vectors, store)


def count_macs(model: EmbeddingModel) -> int:
    """Return how many multiply-accumulate operations (MACs) one embedding takes."""
    run = model.pixel_embedder()
    pixels = np.zeros((1, model.input.channels, model.input.size, model.input.size), np.uint8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(pixels)
    return int(counter.get_total_flops()) // 2


def _given(arm: Arm, vectors: StudyVectors, part: str) -> Embeddings:
    if arm.side != "oracle":
        return vectors.of(arm.side, part)
    new = vectors.of("new", part)
    return replace(new, space=Space(f"oracle-{new.space.name}", new.space.dim))


def _projection(old: Embeddings, dim: int) -> Stored:
    """Return what projects on the first principal components of old data.

    Of side-information that has been projected so before, such as that of layers, these are its
    first dimensions.
    """
    moments = measure(iter([old.vectors]))
    components = principal_components(moments.covariance, dim).astype(np.float32)
    mean = moments.mean.astype(np.float32)
    minted = digest(digest_arrays({"components": components, "mean": mean}).encode())[:8]
    space = Space(f"{old.space.name.rpartition('@')[0]}-{dim}@{minted}", dim)

    def project(embeddings: Embeddings) -> Embeddings:
        projected = (embeddings.vectors - mean) @ components.T
        return replace(embeddings, vectors=projected, space=space)

    return project


@dataclass(frozen=True, eq=False)
class FittedArm:
    """An arm with its transformation.

    Attributes:
        arm: what was asked for.
        side: what it stores beside the old embedding.
        h: the (last) transformation.
        first: the transformation into the middle model's space, where there is one.
        sample: ids of the gallery items that were embedded by the new model for h to learn from.
    """

    arm: Arm
    side: SideInformation
    h: Transformation
    first: Transformation | None
    sample: tuple[str, ...]

    @property
    def says_how_unsure(self) -> bool:
        """Whether a backfill of the upgraded gallery could go by h's uncertainty."""
        plain = self.first is None and not self.arm.reverse and not self.sample
        return plain and self.h.uncertainty is not None

    def cell(self, vectors: StudyVectors, part: str) -> tuple[Embeddings, Embeddings]:
        """Return queries and gallery of a part after the upgrade.

        Items of the gallery sample have their true new embedding.
        """
        old, new = vectors.of("old", part), vectors.of("new", part)
        if self.arm.reverse:
            return self.h.apply(new), old
        side = self.side.of(part)
        if self.first is not None:
            old = _carry(self.first, old, side)
        carried = _carry(self.h, old, side)
        if self.sample and part == OPEN:
            rows = np.isin(np.array(carried.ids), self.sample)
            mixed = np.where(rows[:, None], new.vectors, carried.vectors)
            carried = replace(carried, vectors=mixed)
        return new, replace(carried, labels=new.labels, class_names=new.class_names)

    def uncertainties(self, vectors: StudyVectors, part: str) -> Float32[np.ndarray, " item"]:
        """Return how unsure h is of each item of a part."""
        side = self.side.of(part) if self.h.side is not None else None
        return self.h.uncertainties(vectors.of("old", part), side)

    def describe(self) -> dict[str, Any]:
        """Return what is stored, what it costs an item, and how h came about, as plain values."""
        stored, made = self.side.of(CLOSED), self.h.made_by
        of_fit = ("method", "networks", "penalty", "pairs")
        of_choice = ("judged_by", "judged_on", "queries", "reason", "tried", "references")
        return {
            "side": self.arm.side,
            "dim": 0 if stored is None else stored.space.dim,
            "format": None if stored is None else stored.space.format,
            "side_bytes": 0 if stored is None else stored.space.bytes,
            "side_macs": self.side.macs,
            "gallery_sample": len(self.sample),
            "parameters": self.h.parameters,
            "fit": without_ids(
                {name: made[name] for name in (*of_fit, *of_choice) if name in made}
            ),
        }


def fit_arms(vectors: StudyVectors) -> dict[str, FittedArm]:
    """Fit the transformation of every arm that the recipe performs, by name."""
    return {arm.name: _fit_arm(arm, vectors) for arm in vectors.recipe.performed}


def _fit_arm(arm: Arm, vectors: StudyVectors) -> FittedArm:
    side = side_information(arm, vectors)
    old, new = vectors.of("old", TRAIN), vectors.of("new", TRAIN)
    if arm.reverse:
        h = _fit(arm, vectors, Pairs(new, None, old))
        return FittedArm(arm, side, h, None, ())
    if arm.through == "direct":
        chosen = _choose(arm, vectors, side)
        sample = None
        if chosen:
            beside = side.of(OPEN)
            sample = Pairs(
                _unlabelled(vectors.of("old", OPEN), chosen),
                None if beside is None else _unlabelled(beside, chosen),
                _unlabelled(vectors.of("new", OPEN), chosen),
            )
        h = _fit(arm, vectors, Pairs(old, side.of(TRAIN), new), sample)
        return FittedArm(arm, side, h, None, chosen)
    middle = vectors.of("middle", MIDDLE_TRAIN)
    first_pairs = Pairs(vectors.of("old", MIDDLE_TRAIN), side.of(MIDDLE_TRAIN), middle)
    first = _fit(arm, vectors, first_pairs)
    before = vectors.of("middle", TRAIN)
    if arm.through == "chained":
        before = _carry(first, old, side.of(TRAIN))
    later = side.of(TRAIN) if arm.side_later else None
    h = _fit(arm, vectors, Pairs(before, later, new))
    return FittedArm(arm, side, h, first, ())


def _carry(h: Transformation, old: Embeddings, side: Embeddings | None) -> Embeddings:
    """Apply h, which may have been fitted without the side-information that there is."""
    return h.apply(old, side if h.side is not None else None)


def _choose(arm: Arm, vectors: StudyVectors, side: SideInformation) -> tuple[str, ...]:
    """Choose the gallery sample among the half of the open set that is not kept for judging."""
    if not arm.gallery_sample:
        return ()
    candidates = np.flatnonzero(~unsampled(vectors.items(OPEN)))
    old, beside = vectors.of("old", OPEN).select(candidates), side.of(OPEN)
    count = min(max(1, round(arm.gallery_sample * len(vectors.of("old", OPEN)))), len(candidates))
    if arm.sample_by == "uncertainty":
        wanted = arm.model_copy(update={"fit": {**arm.fit, "uncertainty": True, "method": "mlp"}})
        pairs = Pairs(vectors.of("old", TRAIN), side.of(TRAIN), vectors.of("new", TRAIN))
        h = _fit(wanted, vectors, pairs)
        unsure = h.uncertainties(old, None if beside is None else beside.select(candidates))
        rows = np.argsort(-unsure, kind="stable")[:count]
    else:
        rng = np.random.default_rng(vectors.recipe.seed_of("sample"))
        rows = np.sort(rng.permutation(len(old))[:count])
    return tuple(old.ids[row] for row in rows)


def _unlabelled(embeddings: Embeddings, ids: tuple[str, ...]) -> Embeddings:
    return replace(embeddings.align(ids), labels=None)


def _fit(
    arm: Arm, vectors: StudyVectors, pairs: Pairs, sample: Pairs | None = None
) -> Transformation:
    recipe, stage = vectors.recipe, vectors.stage
    settings, seed = recipe.fit_of(arm), recipe.seed_of("fit")
    new = vectors.models["new"]
    classifier = None
    labelled = pairs.new.labels is not None
    if settings.discriminative == "classifier" and pairs.new.space == new.space and labelled:
        classifier = Classifier.of(new)
    what = {
        "generation": GENERATION,
        "settings": settings.model_dump(mode="json", exclude_defaults=True),
        "seed": seed,
        "pairs": pairs.digest,
        "spaces": _spaces(pairs),
        "sample": None if sample is None else sample.digest,
        "classifier": classifier is not None,
    }
    if arm.baseline is not None:
        what["baseline"] = [arm.baseline, arm.rank]
    place = stage.cache.place("transformations", what)
    if not place.exists():
        stage.tell(f"  {arm.name}")
        with run_settings(recipe, stage, f"Fit {arm.name}") as run:
            possible = _possible(settings, classifier)
            h = _learn(arm, pairs, sample, classifier, settings=possible, seed=seed, run=run)
        h.save(place)
    return Transformation.load(place)


def _learn(
    arm: Arm,
    pairs: Pairs,
    sample: Pairs | None,
    classifier: Classifier | None,
    *,
    settings: FitSettings,
    seed: int,
    run: RunSettings,
) -> Transformation:
    """Return what `fit` gives, or the baseline that the arm names."""
    if arm.baseline == "identity":
        return identity(pairs)
    if arm.baseline == "rbt":
        return fit_residual_bottleneck(pairs, sample, settings, seed=seed, run=run)
    fitted = fit(
        pairs.old,
        pairs.side,
        pairs.new,
        sample=sample,
        classifier=classifier,
        settings=settings,
        seed=seed,
        run=run,
        same_labels=True,  # model and embeddings are of one source
    )
    if arm.baseline is None:
        return fitted.transformation
    examples = Examples.of(pairs, sample=sample, sample_weight=settings.sample_weight)
    return low_rank(fitted.transformation, examples, arm.rank)


def _possible(settings: FitSettings, classifier: Classifier | None) -> FitSettings:
    """A step that does not end in the new space, or has no labels, cannot use the classifier."""
    if settings.discriminative == "classifier" and classifier is None:
        return settings.model_copy(update={"discriminative": "none"})
    return settings


def _spaces(pairs: Pairs) -> Mapping[str, str | None]:
    return {
        "old": pairs.old.space.name,
        "side": None if pairs.side is None else pairs.side.space.name,
        "new": pairs.new.space.name,
    }
