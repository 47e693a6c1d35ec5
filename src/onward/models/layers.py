"""How side-information is read from what a model's stages say while it embeds."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from onward.artifacts import digest, digest_arrays
from onward.errors import ModelError

PooledStages = Float32[np.ndarray, "item total"]
Side = Float32[np.ndarray, "item side"]


@dataclass(frozen=True, eq=False)
class LayersReadout:
    """A fixed projection of a model's pooled stages: `components @ ((pooled - mean) / scale)`.

    Each stage's output is averaged over the cells of a grid, stage after stage and channel after
    channel make one vector, and a principal component analysis fitted on the old data projects it.

    Attributes:
        grid: cells along height and along width.
        stages: channels of each stage, as `EmbeddingModel.stage_channels` has them.
        mean: mean of each pooled value.
        scale: what each is divided by; above 0.
        components: one row a dimension of the side-information.

    Raises:
        ModelError: if these do not fit together.
    """

    grid: int
    stages: tuple[int, ...]
    mean: Float32[np.ndarray, " total"]
    scale: Float32[np.ndarray, " total"]
    components: Float32[np.ndarray, "dim total"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(int(channels) for channels in self.stages))
        for name, array in self.arrays().items():
            kept = np.array(array, dtype=np.float32, order="C")
            kept.flags.writeable = False
            object.__setattr__(self, name, kept)
        total = sum(self.stages) * self.grid**2
        shapes = [array.shape for array in self.arrays().values()]
        if shapes != [(total,), (total,), (self.dim, total)]:
            raise ModelError(
                f"mean, scale and components of shapes {shapes} do not read {self.stages} channels "
                f"on a {self.grid} x {self.grid} grid; give ({total},), ({total},), (dim, {total})"
            )
        finite = all(np.isfinite(array).all() for array in self.arrays().values())
        if not finite or (self.scale <= 0).any():
            raise ModelError(
                "a read-out of layers needs finite values and a scale above 0; "
                "give constant values a scale of 1"
            )

    @property
    def dim(self) -> int:
        """Dimensions of the side-information."""
        return len(self.components)

    @property
    def digest(self) -> str:
        """Changes when anything of the read-out changes."""
        return digest(f"{self.grid} {self.stages}".encode(), digest_arrays(self.arrays()).encode())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return mean, scale and components by name."""
        return {"mean": self.mean, "scale": self.scale, "components": self.components}

    def project(self, pooled: PooledStages) -> Side:
        """Return the side-information of each item."""
        side: Side = ((pooled - self.mean) / self.scale) @ self.components.T
        return side
