"""What an arm stores beside the old embedding: of which kind, how many dimensions, which format."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from onward.artifacts import digest, digest_arrays
from onward.experiments.settings import Arm
from onward.experiments.vectors import LAYERS, OLD_TRAIN, StudyVectors
from onward.models import EmbeddingModel
from onward.quantisation import fit_quantisation
from onward.spaces import Embeddings, Space
from onward.training.layers import measure, principal_components

Stored = Callable[[Embeddings], Embeddings]


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
    def multiply_adds(self) -> int:
        """What making it costs an item, beside the old embedding; 0 for none."""
        models = self.vectors.models
        if self.arm.side in ("none", "oracle"):
            return 0
        if self.arm.side == LAYERS:
            readout = models["old"].readout
            assert readout is not None  # noqa: S101  # `train_models` attached it
            dim = min(self.arm.dim or readout.dim, readout.dim)
            return int(dim * readout.components.shape[1])
        return count_multiply_adds(models[self.arm.side])


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


def count_multiply_adds(model: EmbeddingModel) -> int:
    """Return how many multiplications with additions one embedding takes."""
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
