"""The arms of a study: what each stores beside the old embedding, and the transformation it fits.

Each is fitted once, and carries the galleries over in its own way.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch.utils.flop_counter import FlopCounterMode

from onward.artifacts import digest, digest_arrays
from onward.experiments.baselines import fit_residual_bottleneck, low_rank
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
from onward.transformation import Transformation, without_ids

Stored = Callable[[Embeddings], Embeddings]


@dataclass(frozen=True, eq=False)
class SideInformation:
    """The side-information of an arm; what has to be learned for it is, on old data alone.

    Attributes:
        arm: which kind, and how it is stored.
        vectors: where it comes from.
    """

    arm: Arm
    vectors: StudyVectors

    def of(self, part: str) -> Embeddings | None:
        """Return what is stored for a part of the images; None for an arm without any."""
        if self.arm.side == "none":
            return None
        stored = self._whole(part)
        for step in self._steps:
            stored = step(stored)
        return stored

    def pairs(self, part: str, new: str = "new") -> Pairs:
        """Return the pairs of a part, of the old model and one that came later."""
        return Pairs(self.vectors.of("old", part), self.of(part), self.vectors.of(new, part))

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

    def _whole(self, part: str) -> Embeddings:
        if self.arm.side != "oracle":
            return self.vectors.of(self.arm.side, part)
        new = self.vectors.of("new", part)
        return replace(new, space=Space(f"oracle-{new.space.name}", new.space.dim))

    @cached_property
    def _steps(self) -> tuple[Stored, ...]:
        """What brings it into the form in which it is stored."""
        return tuple(self._learn_steps())

    def _learn_steps(self) -> Iterator[Stored]:
        dim, format = self.arm.dim, self.arm.format
        if dim is None and format == "float32":
            return
        old = self._whole(OLD_TRAIN)
        if dim is not None and dim < old.space.dim:
            project = _projection(old, dim)
            yield project
            old = project(old)
        if format != "float32":
            yield fit_quantisation(old, format).apply


def count_macs(model: EmbeddingModel) -> int:
    """Return how many multiply-accumulate operations (MACs) one embedding takes."""
    run = model.pixel_embedder()
    pixels = np.zeros((1, model.input.channels, model.input.size, model.input.size), np.uint8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(pixels)
    return int(counter.get_total_flops()) // 2


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
        return replace(embeddings, vectors=(embeddings.vectors - mean) @ components.T, space=space)

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
    first: Transformation | None = None
    sample: tuple[str, ...] = ()

    def cell(self, part: str) -> tuple[Embeddings, Embeddings]:
        """Return queries and gallery of a part after the upgrade.

        Items of the gallery sample have their true new embedding.
        """
        old, new = (self.side.vectors.of(role, part) for role in ("old", "new"))
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

    def uncertainties(self, part: str) -> Float32[np.ndarray, " item"] | None:
        """Return how unsure h is of each item of a part; None where no backfill goes by that."""
        plain = self.first is None and not self.arm.reverse and not self.sample
        if not plain or self.h.uncertainty is None:
            return None
        side = self.side.of(part) if self.h.side is not None else None
        return self.h.uncertainties(self.side.vectors.of("old", part), side)

    def describe(self) -> dict[str, Any]:
        """Return what is stored, what it costs an item, and how h came about, as plain values."""
        stored, made = self.side.of(CLOSED), self.h.made_by
        of_fit = ("method", "networks", "penalty", "pairs")
        of_choice = ("judged_by", "judged_on", "queries", "reason", "tried", "references")
        told = {name: made[name] for name in (*of_fit, *of_choice) if name in made}
        return {
            "side": self.arm.side,
            "dim": 0 if stored is None else stored.space.dim,
            "format": None if stored is None else stored.space.format,
            "side_bytes": 0 if stored is None else stored.space.bytes,
            "side_macs": self.side.macs,
            "gallery_sample": len(self.sample),
            "parameters": self.h.parameters,
            "fit": without_ids(told),
        }


def _carry(h: Transformation, old: Embeddings, side: Embeddings | None) -> Embeddings:
    """Apply h, which may have been fitted without the side-information that there is."""
    return h.apply(old, side if h.side is not None else None)


def fit_arms(vectors: StudyVectors) -> dict[str, FittedArm]:
    """Fit the transformation of every arm that the recipe performs, by name."""
    return {arm.name: _fit_arm(arm, vectors) for arm in vectors.recipe.performed}


def _fit_arm(arm: Arm, vectors: StudyVectors) -> FittedArm:
    side = SideInformation(arm, vectors)
    old, new = vectors.of("old", TRAIN), vectors.of("new", TRAIN)
    if arm.reverse:
        return FittedArm(arm, side, _fit(arm, vectors, Pairs(new, None, old)))
    if arm.through == "direct":
        chosen = _choose(side) if arm.gallery_sample else ()
        h = _fit(arm, vectors, side.pairs(TRAIN), _sample(side, chosen) if chosen else None)
        return FittedArm(arm, side, h, None, chosen)
    first = _fit(arm, vectors, side.pairs(MIDDLE_TRAIN, new="middle"))
    before, beside = vectors.of("middle", TRAIN), side.of(TRAIN)
    if arm.through == "chained":
        before = _carry(first, old, beside)
    h = _fit(arm, vectors, Pairs(before, beside if arm.side_later else None, new))
    return FittedArm(arm, side, h, first)


def _choose(side: SideInformation) -> tuple[str, ...]:
    """Choose the gallery sample among the half of the open set that is not kept for judging."""
    arm, vectors, recipe = side.arm, side.vectors, side.vectors.recipe
    items = vectors.splits.items(OPEN)
    candidates = np.flatnonzero(~unsampled(items))
    count = min(max(1, round(arm.gallery_sample * len(items))), len(candidates))
    if arm.sample_by == "uncertainty":
        unsure = {**arm.fit, "uncertainty": True, "method": "mlp"}
        h = _fit(arm.model_copy(update={"fit": unsure}), vectors, side.pairs(TRAIN))
        known = h.uncertainties(vectors.of("old", OPEN), side.of(OPEN))[candidates]
        rows = np.argsort(-known, kind="stable")[:count]
    else:
        rng = np.random.default_rng(recipe.seed_of("sample"))
        rows = np.sort(rng.permutation(len(candidates))[:count])
    return tuple(items.ids[row] for row in candidates[rows])


def _sample(side: SideInformation, chosen: tuple[str, ...]) -> Pairs:
    """Return the pairs of a gallery sample, without labels."""
    pairs = side.pairs(OPEN)
    old, new = (replace(each.align(chosen), labels=None) for each in (pairs.old, pairs.new))
    beside = None if pairs.side is None else replace(pairs.side.align(chosen), labels=None)
    return Pairs(old, beside, new)


def _fit(
    arm: Arm, vectors: StudyVectors, pairs: Pairs, sample: Pairs | None = None
) -> Transformation:
    """Return what `fit` gives, or the baseline that the arm names.

    A step that does not end in the new space, or has no labels, cannot use the new classifier.
    """
    recipe, stage, new = vectors.recipe, vectors.stage, vectors.models["new"]
    settings, seed, classifier = recipe.fit_of(arm), recipe.seed_of("fit"), None
    if settings.discriminative == "classifier":
        if pairs.new.space == new.space and pairs.new.labels is not None:
            classifier = Classifier.of(new)
        else:
            settings = settings.model_copy(update={"discriminative": "none"})
    what = {
        "settings": settings.model_dump(mode="json", exclude_defaults=True),
        "seed": seed,
        "pairs": pairs.digest,
        "spaces": [each and each.space.name for each in (pairs.old, pairs.side, pairs.new)],
        "sample": None if sample is None else sample.digest,
        "baseline": arm.baseline,
    }

    def learn() -> Transformation:
        stage.tell(f"  {arm.name}")
        examples = Examples.of(pairs, sample=sample, sample_weight=settings.sample_weight)
        with run_settings(recipe, stage, f"Fit {arm.name}") as run:
            if arm.baseline == "rbt":
                return fit_residual_bottleneck(examples, settings, seed=seed, run=run)
            found = fit(
                *(pairs.old, pairs.side, pairs.new),
                sample=sample,
                classifier=classifier,
                settings=settings,
                seed=seed,
                run=run,
                same_labels=True,  # model and embeddings are of one source
            ).transformation
        return found if arm.baseline is None else low_rank(found, examples)

    return stage.keep(Transformation, what, learn)
