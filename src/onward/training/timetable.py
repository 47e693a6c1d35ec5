"""Which items come in which step of a training, and at which learning rate.

Pure functions of settings, seed and step: nothing here has a state, so a run can begin anywhere.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from onward.errors import DataError
from onward.training.settings import Optimization

Rows = Int64[np.ndarray, " row"]


@dataclass(frozen=True)
class Timetable:
    """The steps of a run.

    Attributes:
        items: number of items.
        optimization: epochs, batch and learning rate.
        seed: decides the order of the items in each epoch.
        devices: how many share each batch evenly. A last batch with fewer than two items a device,
            and items that cannot be shared evenly, sit out this epoch.

    Raises:
        DataError: if a batch cannot give every device two items, which BatchNorm needs.
    """

    items: int
    optimization: Optimization
    seed: int
    devices: int = 1

    def __post_init__(self) -> None:
        if min(self.items, self.optimization.batch_items) < 2 * self.devices:
            raise DataError(
                f"there are {self.items} items in batches of {self.optimization.batch_items} on "
                f"{self.devices} device(s); BatchNorm needs at least 2 items on each in a batch. "
                "Give more items or a larger batch_items"
            )

    @property
    def steps_in_epoch(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(self.items, self.optimization.batch_items)
        return full + (rest >= 2 * self.devices)

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return self.steps_in_epoch * self.optimization.epochs

    def lr(self, step: int) -> float:
        """Learning rate of a step, counted from 0: linear warm-up, then along a cosine to 0."""
        highest = self.optimization.highest_lr
        warm = math.ceil(self.optimization.warmup * self.steps)
        if step < warm:
            return highest * (step + 1) / (warm + 1)
        return highest * 0.5 * (1 + math.cos(math.pi * (step - warm) / (self.steps - warm)))

    def uses_running_statistics(self, step: int) -> bool:
        """Whether BatchNorm is in eval mode in this step."""
        epoch = step // self.steps_in_epoch
        return epoch >= self.optimization.running_statistics_from * self.optimization.epochs

    def batches(self, first: int, rank: int = 0) -> Iterator[tuple[int, Rows]]:
        """Yield (step, rows of the device of this rank) from a step to the last."""
        size = self.optimization.batch_items
        for epoch in range(first // self.steps_in_epoch, self.optimization.epochs):
            order = np.random.default_rng([self.seed, epoch]).permutation(self.items)
            for place in range(self.steps_in_epoch):
                step = epoch * self.steps_in_epoch + place
                if step >= first:
                    batch = order[place * size : (place + 1) * size]
                    even = len(batch) - len(batch) % self.devices
                    yield step, batch[:even][rank :: self.devices].astype(np.int64)
