"""What runs a model: from pixels to vectors, whatever stands behind it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32

from onward.arrays import as_numbers
from onward.artifacts import canonical_json, digest, digest_arrays
from onward.errors import ModelError
from onward.models.inputs import InputSpec, Pixels
from onward.models.layers import PooledStages

Vectors = Float32[np.ndarray, "item dim"]
Forward = Callable[[Pixels], tuple[Vectors, PooledStages | None]]
"""From pixels to vectors, and to the pooled stages where they were asked for."""


class Engine(ABC):
    """What runs a model. It never changes once it is made.

    Attributes:
        dim: dimensions of the embedding.
        stage_channels: channels of each stage that can be read; empty where none can.
    """

    dim: int
    stage_channels: tuple[int, ...] = ()

    @abstractmethod
    def forward(self, taken: InputSpec, device: str, grid: int | None) -> Forward:
        """Return a function that embeds batches on a device, stages pooled to a grid if asked for.

        Raises:
            ModelError: if the device cannot be used, or there are no stages to read.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return `kind` and what else is needed, beside arrays and files, to make it again."""

    @abstractmethod
    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the weights to be saved.

        Raises:
            ModelError: if it cannot be saved.
        """

    @abstractmethod
    def files(self) -> Mapping[str, bytes]:
        """Return the files to be saved."""

    @property
    def is_known(self) -> bool:
        """Whether all that makes the vectors is in `fingerprint`."""
        return True

    def fingerprint(self, taken: InputSpec) -> str:
        """Return a digest of all that makes the vectors: weights, architecture, normalisation.

        It is computed once for each input, for an engine never changes.
        """
        settings = canonical_json({"engine": self.to_json(), "input": taken.to_json()})
        if settings not in self._fingerprints:
            self._fingerprints[settings] = digest(settings, *self._content())
        return self._fingerprints[settings]

    @cached_property
    def _fingerprints(self) -> dict[bytes, str]:
        return {}

    def _content(self) -> Iterable[bytes]:
        """Return what of the engine makes the vectors, beside what `to_json` says."""
        return (digest_arrays(self.arrays()).encode(), *self.files().values())


@dataclass(frozen=True, eq=False)
class CallableEngine(Engine):
    """A function of the user's, from pixels (uint8, B x C x H x W) to one vector an image.

    Attributes:
        declared: what the user says that tells it from every other function, such as a digest of
            its weights; None where its name alone does.
    """

    function: Callable[[Pixels], Any]
    dim: int
    declared: str | None = None

    def forward(
        self,
        taken: InputSpec,
        device: str,  # noqa: ARG002  # a function of the user's computes where it wants to
        grid: int | None,
    ) -> Forward:
        """Return the function, its results checked."""
        refuse_stages(grid, "a callable")

        def run(pixels: Pixels) -> tuple[Vectors, None]:
            taken.check(pixels)
            return check_vectors(self.function(pixels), len(pixels), self.dim, "the callable"), None

        return run

    def to_json(self) -> dict[str, Any]:
        """Return its kind, and what was declared of it."""
        declared = {} if self.declared is None else {"digest": self.declared}
        return {"kind": "callable", **declared}

    @property
    def is_known(self) -> bool:
        """Whether a digest was declared."""
        return self.declared is not None

    def _content(self) -> Iterable[bytes]:
        return ()

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Refuse: code cannot be saved without pickling it."""
        raise ModelError(
            "a model made from a callable cannot be saved, for code would have to be pickled",
            "export it to ONNX (torch.onnx.export) and use EmbeddingModel.from_onnx, or make it "
            "from the callable again in each program",
        )

    def files(self) -> Mapping[str, bytes]:
        """Return none."""
        return {}


def refuse_stages(grid: int | None, what: str) -> None:
    """Refuse to read stages where there are none.

    Raises:
        ModelError: if a grid is asked for.
    """
    if grid is not None:
        raise ModelError(
            f"{what} does not tell what its stages say",
            "use a side-information model, such as one trained by SimCLR",
            needed="side-information of kind layers needs a torch backbone",
        )


def check_vectors(output: Any, count: int, dim: int, who: str) -> Vectors:
    """Return what a model gave as one float32 row an image.

    Raises:
        ModelError: if it is of another shape or no array; the message says what is needed.
    """
    needed = f"it must return one row of {dim} numbers an image, shape ({count}, {dim})"
    try:
        vectors: Vectors = as_numbers(output, np.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelError(
            f"{who} was given {count} images and returned a {type(output).__name__} that is "
            f"not an array of numbers ({error})",
            f"{needed}",
        ) from error
    if vectors.shape != (count, dim):
        raise ModelError(
            f"{who} was given {count} images and returned shape {vectors.shape}", f"{needed}"
        )
    return vectors
