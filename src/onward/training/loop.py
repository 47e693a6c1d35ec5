"""The one loop under everything that learns by gradients; on several devices by Lightning Fabric.

A run is a function of the objective's first weights, the items, the settings and the seed, on one
kind of device. The learning rate depends on the step alone, the order of the items on (seed,
epoch), whatever is drawn at random on (seed, step): so resuming is exact without saving the state
of a generator, and nothing that ran before in the process can change a result. What is learned is
the business of the `Objective`.

The state of a training on the disk is one safetensors file, written as a whole or not at all. It
holds the weights, the optimiser's tensors, the step, and everything that determines the run, so
that a checkpoint of another run is refused.
"""

import json
import math
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from onward.artifacts import clean_leftovers, digest_arrays, write_aside
from onward.errors import (
    ArtifactError,
    ConfigurationError,
    DataError,
    MissingExtraError,
    ModelError,
)
from onward.models.running import read_ahead
from onward.training.devices import device_of, launch, reproducible, seed_generators, seeded
from onward.training.settings import Optimization, RunSettings, renamed

if TYPE_CHECKING:
    from onward.training.devices import Devices

Rows = Int64[np.ndarray, " row"]

WEIGHTS, OPTIMIZER = "weights.", "optimizer."  # how names begin in a checkpoint
LOG_EVERY = 20  # steps between two points in TensorBoard
EPOCH_END_AFTER = 1.0  # seconds since the last checkpoint after which an epoch's end makes one


class Objective(nn.Module, ABC):
    """What a training minimises: the module that learns, together with its loss."""

    @abstractmethod
    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of a batch: the mean over its items."""


class Batches(ABC):
    """The items of a training, as the tensors that its objective takes.

    Attributes:
        digest: changes whenever the items do.
        ahead: how many batches to read ahead, each in a thread; 0 where reading is slicing.
    """

    digest: str
    ahead: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of items."""

    @abstractmethod
    def read(self, rows: Rows, epoch: int) -> tuple[Tensor, ...]:
        """Return the tensors of some items, on the CPU, one row an item (or a view of it).

        Args:
            rows: positions of the items.
            epoch: from 0; with an item's position it decides what is drawn at random of it.
        """


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
        if min(self.items, self.optimization.batch_size) < 2 * self.devices:
            raise DataError(
                f"there are {self.items} items in batches of {self.optimization.batch_size} on "
                f"{self.devices} device(s)",
                "give more items or a larger batch_size",
                needed="BatchNorm needs at least 2 items on each in a batch",
            )

    @property
    def steps_in_epoch(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(self.items, self.optimization.batch_size)
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
        size = self.optimization.batch_size
        for epoch in range(first // self.steps_in_epoch, self.optimization.epochs):
            order = np.random.default_rng([self.seed, epoch]).permutation(self.items)
            for place in range(self.steps_in_epoch):
                step = epoch * self.steps_in_epoch + place
                if step >= first:
                    batch = order[place * size : (place + 1) * size]
                    even = len(batch) - len(batch) % self.devices
                    yield step, batch[:even][rank :: self.devices].astype(np.int64)


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
        MissingExtraError: if several devices are asked for and Lightning Fabric is not installed,
            or TensorBoard is asked for and is not.
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
    work = _Training(objective, batches, timetable, described)
    if run.devices == 1:
        launch(work, run)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = run.checkpoint or Path(folder) / "result.safetensors"
            launch(work, replace(run, checkpoint=path))
            _load(objective, _read_checkpoint(path, described)[1])
    objective.cpu().to(memory_format=torch.contiguous_format)
    objective.eval().requires_grad_(requires_grad=False)


@dataclass(frozen=True, eq=False)
class _Training:
    """What each device does."""

    objective: Objective
    batches: Batches
    timetable: Timetable
    described: Mapping[str, Any]

    def __call__(self, devices: "Devices", run: RunSettings) -> None:
        timetable = self.timetable
        # Processes start with weights in memory that they share: each takes its own.
        objective = self.objective if run.devices == 1 else deepcopy(self.objective)
        objective.to(memory_format=torch.channels_last)  # a third faster, on CPUs too
        optimizer = _optimizer(objective, timetable.optimization)
        module, stepper = devices.setup(objective, optimizer)
        keeper = _Keeper(objective, optimizer, self.described, run, devices.is_global_zero)
        first = keeper.resume()
        with seeded(timetable.seed), reproducible(devices.device.type):
            rows, batches = timetable.batches(first, devices.global_rank), self.batches

            def read(of_step: tuple[int, Rows]) -> tuple[Tensor, ...]:
                step, wanted = of_step
                return batches.read(wanted, step // timetable.steps_in_epoch)

            ready = read_ahead(rows, read, batches.ahead)
            for (step, _), tensors in ready:
                _set_mode(objective, running=timetable.uses_running_statistics(step))
                seed_generators(timetable.seed, "step", step, devices.global_rank)
                for group in optimizer.param_groups:
                    group["lr"] = timetable.lr(step)
                loss = module(*(tensor.to(devices.device) for tensor in tensors))
                devices.backward(loss)
                stepper.step()
                stepper.zero_grad()
                keeper.after(step, loss, timetable)


@dataclass(eq=False)
class _Keeper:
    """Keeps the state on the disk, tells the progress, stops a run that has diverged."""

    objective: Objective
    optimizer: Optimizer
    described: Mapping[str, Any]
    run: RunSettings
    first_process: bool
    written: float = field(default_factory=time.monotonic)

    @cached_property
    def writer(self) -> Any:
        """What writes TensorBoard's event files; None where none are asked for."""
        if self.run.tensorboard is None or not self.first_process:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self.run.tensorboard)

    def resume(self) -> int:
        """Take up the checkpoint where there is one; return the step to go on with."""
        if self.run.checkpoint is None or not self.run.checkpoint.exists():
            return 0
        step, tensors = _read_checkpoint(self.run.checkpoint, self.described)
        _load(self.objective, tensors)
        whole = self.optimizer.state_dict()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name in (name for name in tensors if name.startswith(OPTIMIZER)):
            position, key = name.removeprefix(OPTIMIZER).split(".", 1)
            tensor = _shaped_like(parameters[int(position)], tensors[name])
            whole["state"].setdefault(int(position), {})[key] = tensor
        self.optimizer.load_state_dict(whole)
        return step

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
            _write_checkpoint(
                self.run.checkpoint, done, self.objective, self.optimizer, self.described
            )
            self.written = time.monotonic()
        if self.writer is not None and step % LOG_EVERY == 0:
            self.writer.add_scalar("loss", loss.item(), step)
            self.writer.add_scalar("lr", timetable.lr(step), step)
        if self.writer is not None and done == timetable.steps:
            self.writer.close()
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


def _write_checkpoint(
    path: Path, step: int, objective: Objective, optimizer: Optimizer, what: Mapping[str, Any]
) -> None:
    """Write a checkpoint in the place of an older one.

    Args:
        step: how many steps are done.
        what: everything that determines the run, as plain JSON values.
    """
    tensors = {f"{WEIGHTS}{name}": tensor for name, tensor in objective.state_dict().items()}
    for position, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{position}.{name}": tensor for name, tensor in state.items()}
    metadata = {"step": str(step), "run": json.dumps(what, sort_keys=True)}
    with write_aside(path) as aside:
        save_file({name: _plain(tensor) for name, tensor in tensors.items()}, aside, metadata)


def _read_checkpoint(path: Path, what: Mapping[str, Any]) -> tuple[int, dict[str, Tensor]]:
    """Return the number of steps done and the tensors at a path.

    Raises:
        ConfigurationError: if another run wrote it; the message names what differs.
        ArtifactError: if it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()  # the file itself cannot be iterated
            tensors = {name: file.get_tensor(name) for name in names}
        step, written = int(metadata["step"]), json.loads(metadata["run"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a checkpoint of a training ({error})", "remove it to start over"
        ) from error
    _refuse_another_run(path, written, what)
    return step, tensors


def _load(objective: Objective, tensors: Mapping[str, Tensor]) -> None:
    """Give an objective the weights of a checkpoint."""
    named = {name: tensor for name, tensor in tensors.items() if name.startswith(WEIGHTS)}
    objective.load_state_dict({name.removeprefix(WEIGHTS): t for name, t in named.items()})


def forget_checkpoint(path: Path) -> None:
    """Remove a checkpoint, its parts, and what killed runs left. Call it once the result is saved.

    Killed between saving the result and this, a rerun finds the last step done and gives the same
    result at once.
    """
    for part in (path, *_parts(path)):
        part.unlink(missing_ok=True)
        clean_leftovers(part)


def has_checkpoint(path: Path) -> bool:
    """Say whether a training that was begun has left its state at a path, or a part of it."""
    return path.exists() or bool(_parts(path))


def part_of(path: Path, number: int) -> Path:
    """Return where the checkpoint of one of several trainings stands that make up a result."""
    return path.with_name(f"{path.name}.{number}")


def _parts(path: Path) -> list[Path]:
    return [part for part in path.parent.glob(f"{path.name}.*") if part.suffix[1:].isdigit()]


def _refuse_another_run(path: Path, written: Mapping[str, Any], what: Mapping[str, Any]) -> None:
    before, now = _flat(renamed(written)), _flat(json.loads(json.dumps(what)))
    differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if differing:
        words = "; ".join(
            f"{name} was {_short(before.get(name))}, is {_short(now.get(name))}"
            for name in differing[:3]
        )
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ConfigurationError(
            f"{path} is the checkpoint of another run: {words}{more}. Give what it was started "
            "with to go on, or remove it to start over"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
