"""The one loop under everything that learns by gradients, on Lightning Fabric.

A run is a function of the objective's first weights, the items, the settings and the seed, on one
kind of device. The learning rate depends on the step alone, the order of the items on (seed,
epoch), whatever is drawn at random on (seed, step): so resuming is exact without saving the state
of a generator, and nothing that ran before in the process can change a result. What is learned is
the business of the `Objective`.
"""

import tempfile
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from onward.artifacts import digest_arrays
from onward.errors import MissingExtraError, ModelError
from onward.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from onward.training.devices import device_of, launch, reproducible, seed_generators, seeded
from onward.training.settings import Optimization, RunSettings
from onward.training.timetable import Rows, Timetable

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOG_EVERY = 20  # steps between two points in TensorBoard
EPOCH_END_AFTER = 1.0  # seconds since the last checkpoint after which an epoch's end makes one


class Objective(nn.Module, ABC):
    """What a training minimises: the module that learns, together with its loss."""

    @abstractmethod
    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of a batch: the mean over its items."""


class Batches(ABC):
    """The items of a training, as the tensors that its objective takes."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Changes whenever the items do."""

    @property
    @abstractmethod
    def ahead(self) -> int:
        """How many batches to read ahead, each in a thread; 0 where reading is slicing."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of items."""

    @abstractmethod
    def read(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return the tensors of some items, on the CPU, one row an item."""


def train(
    objective: Objective,
    batches: Batches,
    optimization: Optimization,
    *,
    seed: int,
    what: Mapping[str, Any],
    run: RunSettings,
) -> None:
    """Train an objective in place; it ends on the CPU, in eval mode, without gradients.

    Args:
        what: what else determines the run, as plain JSON values; a checkpoint keeps it.

    Raises:
        ConfigurationError: if the device is not there, or the checkpoint is another run's.
        DataError: if there are too few items for a batch.
        ModelError: if the loss stops being finite.
        MissingExtraError: if Lightning Fabric is not installed, or TensorBoard is asked for and is
            not.
    """
    if run.tensorboard is not None and find_spec("tensorboard") is None:
        raise MissingExtraError("tensorboard", "tensorboard")
    timetable = Timetable(len(batches), optimization, seed, run.devices)
    start = {name: tensor.cpu().numpy() for name, tensor in objective.state_dict().items()}
    described = {
        **what,
        "settings": optimization.model_dump(mode="json"),
        "seed": seed,
        "data": batches.digest,
        "first weights": digest_arrays(start),
        "device": device_of(run),
        "devices": run.devices,
        "precision": run.precision,
    }
    work = _Work(objective, batches, timetable, described)
    if run.devices == 1:
        launch(work, run)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = run.checkpoint or Path(folder) / "result.safetensors"
            launch(work, replace(run, checkpoint=path))
            result = read_checkpoint(path, described)
        assert result is not None  # noqa: S101 - the work ends with a checkpoint
        objective.load_state_dict(dict(result.weights))
    objective.cpu().to(memory_format=torch.contiguous_format)
    objective.eval().requires_grad_(requires_grad=False)


@dataclass(frozen=True, eq=False)
class _Work:
    """What each device does."""

    objective: Objective
    batches: Batches
    timetable: Timetable
    described: Mapping[str, Any]

    def __call__(self, fabric: "Fabric", run: RunSettings) -> None:
        timetable = self.timetable
        # Processes start with weights in memory that they share: each takes its own.
        objective = self.objective if run.devices == 1 else deepcopy(self.objective)
        objective.to(memory_format=torch.channels_last)  # a third faster, on CPUs too
        optimizer = _optimizer(objective, timetable.optimization)
        module, stepper = fabric.setup(objective, optimizer)
        keeper = _Keeper(objective, optimizer, self.described, run, fabric.is_global_zero)
        first = keeper.resume()
        with seeded(timetable.seed), reproducible(fabric.device.type):
            rows = timetable.batches(first, fabric.global_rank)
            for step, tensors in _read_ahead(self.batches, rows):
                _set_mode(objective, running=timetable.uses_running_statistics(step))
                seed_generators(timetable.seed, "step", step, fabric.global_rank)
                for group in optimizer.param_groups:
                    group["lr"] = timetable.lr(step)
                loss = module(*(tensor.to(fabric.device) for tensor in tensors))
                fabric.backward(loss)
                stepper.step()
                stepper.zero_grad()
                if run.tensorboard is not None and step % LOG_EVERY == 0:
                    fabric.log_dict({"loss": loss.item(), "lr": timetable.lr(step)}, step)
                keeper.after(step, loss, timetable)


class _Keeper:
    """Keeps the state on the disk, tells the progress, stops a run that has diverged."""

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        described: Mapping[str, Any],
        run: RunSettings,
        first_process: bool,
    ) -> None:
        self.objective, self.optimizer = objective, optimizer
        self.described, self.run, self.first_process = described, run, first_process
        self.written = time.monotonic()

    def resume(self) -> int:
        """Take up the checkpoint where there is one; return the step to go on with."""
        found = None
        if self.run.checkpoint is not None:
            found = read_checkpoint(self.run.checkpoint, self.described)
        if found is None:
            return 0
        self.objective.load_state_dict(dict(found.weights))
        state = self.optimizer.state_dict()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state["state"] = {
            position: {name: _shaped_like(parameters[position], t) for name, t in tensors.items()}
            for position, tensors in found.optimizer.items()
        }
        self.optimizer.load_state_dict(state)
        return found.step

    def after(self, step: int, loss: Tensor, timetable: Timetable) -> None:
        """Do what is due after a step."""
        done = step + 1
        ends = done % timetable.steps_in_epoch == 0
        passed = time.monotonic() - self.written
        due = passed >= self.run.checkpoint_seconds or (ends and passed >= EPOCH_END_AFTER)
        due = (due or done == timetable.steps) and self.run.checkpoint is not None
        if ends or due:
            _refuse_not_finite(loss, step, timetable)
        if due and self.first_process and self.run.checkpoint is not None:
            state = self.optimizer.state_dict()["state"]
            checkpoint = Checkpoint(done, self.objective.state_dict(), state)
            write_checkpoint(self.run.checkpoint, checkpoint, self.described)
            self.written = time.monotonic()
        if self.first_process:
            self.run.progress(done, timetable.steps)


def _optimizer(objective: Objective, optimization: Optimization) -> Optimizer:
    learned = [weight for weight in objective.parameters() if weight.requires_grad]
    lr, decay = optimization.highest_lr, optimization.weight_decay
    if optimization.optimizer == "adam":
        return Adam(learned, lr, weight_decay=decay)
    return SGD(learned, lr, momentum=optimization.momentum, weight_decay=decay)


def _set_mode(objective: Objective, *, running: bool) -> None:
    objective.train()
    if running:
        for module in objective.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _shaped_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return a tensor in the parameter's memory layout, so that sums go in the same order."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter).copy_(tensor)


def _refuse_not_finite(loss: Tensor, step: int, timetable: Timetable) -> None:
    if not torch.isfinite(loss):
        raise ModelError(
            f"the loss is {loss.item()} after step {step + 1} of {timetable.steps}: the training "
            f"has diverged. A lower lr (it is {timetable.optimization.highest_lr:g}) or a longer "
            "warmup helps"
        )


def _read_ahead(
    batches: Batches, wanted: Iterator[tuple[int, Rows]]
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Read batches in their order, some of them in threads before they are needed."""
    if batches.ahead == 0:
        for step, rows in wanted:
            yield step, batches.read(rows)
        return
    waiting: deque[tuple[int, Future[tuple[Tensor, ...]]]] = deque()
    with ThreadPoolExecutor(batches.ahead) as threads:
        for step, rows in wanted:
            waiting.append((step, threads.submit(batches.read, rows)))
            if len(waiting) > batches.ahead:
                ready, tensors = waiting.popleft()
                yield ready, tensors.result()
        while waiting:
            ready, tensors = waiting.popleft()
            yield ready, tensors.result()
