"""How side-information is read from what a model's stages say while it embeds."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Int64

from onward.arrays import as_weights
from onward.artifacts import digest, digest_arrays
from onward.errors import ModelError
from onward.quantisation import DIGITS, Quantisation
from onward.spaces import Space

PooledStages = Float32[np.ndarray, "item total"]
Side = Float32[np.ndarray, "item side"]


@dataclass(frozen=True, eq=False)
class LayersReadout:
    """A fixed projection of a model's pooled stages: `components @ ((pooled - mean) / scale)`.

    Each stage's output is averaged over the cells of a grid, stage after stage and channel after
    channel make one vector, and a principal component analysis fitted on the old data projects it.
    The result may be quantised.

    Attributes:
        grid: cells along height and along width.
        stages: channels of each stage, as `EmbeddingModel.stage_channels` has them.
        mean: mean of each pooled value that is read.
        scale: what each is divided by; above 0.
        components: one row a dimension of the side-information.
        chosen: numbers of the stages that are read, from 0, ascending; None where all are.
        quantisation: of the projection, where it is not float32; fitted in the space that
            `space_of` gives without it.

    Raises:
        ModelError: if these do not fit together.
    """

    grid: int
    stages: tuple[int, ...]
    mean: Float32[np.ndarray, " total"]
    scale: Float32[np.ndarray, " total"]
    components: Float32[np.ndarray, "dim total"]
    chosen: tuple[int, ...] | None = None
    quantisation: Quantisation | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(int(channels) for channels in self.stages))
        object.__setattr__(self, "chosen", choose_stages(self.stages, self.chosen))
        for name, array in self.arrays().items():
            object.__setattr__(self, name, as_weights(array, f"{name} of a read-out", ModelError))
        total = len(self.columns)
        shapes = [array.shape for array in self.arrays().values()]
        if shapes != [(total,), (total,), (self.dim, total)]:
            raise ModelError(
                f"mean, scale and components of shapes {shapes} do not fit {self.stages} channels "
                f"on a {self.grid} x {self.grid} grid",
                f"give ({total},), ({total},), (dim, {total})",
            )
        finite = all(np.isfinite(array).all() for array in self.arrays().values())
        if not finite or (self.scale <= 0).any():
            raise ModelError(
                "a read-out of layers needs finite values and a scale above 0",
                "give constant values a scale of 1",
            )

    @property
    def dim(self) -> int:
        """Dimensions of the side-information."""
        return len(self.components)

    @cached_property
    def columns(self) -> Int64[np.ndarray, " total"]:
        """Which of the pooled values of all stages are read."""
        return columns_of(self.stages, self.chosen, self.grid)

    @property
    def digest(self) -> str:
        """Changes when anything of the projection changes."""
        read = f"{self.grid} {self.stages}"
        read += "" if self.chosen is None else f" {self.chosen}"
        return digest(read.encode(), digest_arrays(self.arrays()).encode())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return mean, scale and components by name."""
        return {"mean": self.mean, "scale": self.scale, "components": self.components}

    def space_of(self, model: Space) -> Space:
        """Return the space of the side-information that is read from a model.

        Raises:
            ModelError: if the quantisation was fitted in another space.
        """
        minted = digest(model.name.encode(), self.digest.encode())[:DIGITS]
        given = model.name.rpartition("@")[0] or model.name
        projected = Space(f"{given}-layers@{minted}", self.dim)
        if self.quantisation is None:
            return projected
        if self.quantisation.of != projected:
            raise ModelError(
                f"the quantisation is for {self.quantisation.of}, but the read-out makes "
                f"{projected}",
                "fit it on the side-information of this read-out",
            )
        return self.quantisation.space

    def project(self, pooled: PooledStages) -> Side:
        """Return the side-information of each item, from what all stages say."""
        read = pooled if self.chosen is None else pooled[:, self.columns]
        side: Side = ((read - self.mean) / self.scale) @ self.components.T
        return side if self.quantisation is None else self.quantisation.apply_array(side)


def choose_stages(
    stages: tuple[int, ...], chosen: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """Return the numbers of the stages that are read, ascending; None where all are.

    Raises:
        ModelError: if there are none, or one that the model does not have.
    """
    if chosen is None:
        return None
    numbers = tuple(sorted({int(number) for number in chosen}))
    if not numbers or not set(numbers) <= set(range(len(stages))):
        raise ModelError(
            f"the stages {list(chosen)} cannot be read: the model has {len(stages)}, numbered from "
            f"0",
            f"give some of {list(range(len(stages)))}",
        )
    return None if len(numbers) == len(stages) else numbers


def columns_of(
    stages: tuple[int, ...], chosen: tuple[int, ...] | None, grid: int
) -> Int64[np.ndarray, " total"]:
    """Return which of the pooled values of all stages belong to the chosen ones."""
    sizes = np.array([channels * grid**2 for channels in stages], np.int64)
    stage_of = np.repeat(np.arange(len(stages)), sizes)
    return np.flatnonzero(np.isin(stage_of, range(len(stages)) if chosen is None else chosen))
