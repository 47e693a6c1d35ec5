"""What runs a model: from pixels to vectors, whatever stands behind it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

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


@dataclass(frozen=True, eq=False)
class CallableEngine(Engine):
    """A function of the user's, from pixels (uint8, B x C x H x W) to one vector an image."""

    function: Callable[[Pixels], Any]
    dim: int

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
        """Return its kind."""
        return {"kind": "callable"}

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Refuse: code cannot be saved without pickling it."""
        raise ModelError(
            "a model made from a callable cannot be saved, for code would have to be pickled; "
            "export it to ONNX (torch.onnx.export) and use EmbeddingModel.from_onnx, or make it "
            "from the callable again in each program"
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
            f"{what} does not tell what its stages say; side-information of kind layers needs a "
            "torch backbone. Use a side-information model, such as one trained by SimCLR"
        )


def check_vectors(output: Any, count: int, dim: int, who: str) -> Vectors:
    """Return what a model gave as one float32 row an image.

    Raises:
        ModelError: if it is of another shape or no array; the message says what is needed.
    """
    needed = f"it must return one row of {dim} numbers an image, shape ({count}, {dim})"
    try:
        vectors: Vectors = np.asarray(output, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{who} was given {count} images and returned a {type(output).__name__} that is no "
            f"array of numbers ({error}); {needed}"
        ) from error
    if vectors.shape != (count, dim):
        raise ModelError(
            f"{who} was given {count} images and returned shape {vectors.shape}; {needed}"
        )
    return vectors
