"""On what a training runs: the device, its generators and switches, several processes at once.

What a training draws or switches stays inside it: the process's generators and flags are given
back as they were, and how they were changes nothing.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onward.errors import ConfigurationError, MissingExtraError, OnwardError
from onward.progress import Progress, silent
from onward.training.settings import RunSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    Devices: TypeAlias = "Fabric | OneDevice"


def device_of(run: RunSettings) -> str:
    """Return "cuda" or "cpu".

    Raises:
        ConfigurationError: if GPUs are asked for that are not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if run.device == "cpu" or (run.device == "auto" and gpus == 0):
        return "cpu"
    if gpus < run.devices:
        raise ConfigurationError(
            f"the run asks for {run.devices} GPU(s), this machine has {gpus}",
            "give device='cpu' or fewer devices",
        )
    return "cuda"


class OneDevice:
    """What the loop uses of Fabric, for one device: torch alone is needed."""

    global_rank, is_global_zero = 0, True

    def __init__(self, run: RunSettings) -> None:
        self.device = torch.device(device_of(run))
        self.mixed = run.precision == "bf16-mixed"

    def setup(
        self, module: nn.Module, optimizer: Optimizer
    ) -> tuple[Callable[..., Tensor], Optimizer]:
        """Bring a module to the device; return how its loss is computed, and the optimiser."""
        module.to(self.device)

        def loss(*batch: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
                found: Tensor = module(*batch)
            return found.float()

        return loss, optimizer

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss."""
        torch.autograd.backward(loss)


def make_fabric(run: RunSettings) -> "Fabric":
    """Return Fabric for the several devices of a run.

    Raises:
        MissingExtraError: if Lightning Fabric is not installed.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise MissingExtraError("lightning-fabric", "train") from error
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces its precision
    return Fabric(
        accelerator=device_of(run),
        devices=run.devices,
        strategy="ddp_spawn",
        precision="bf16-mixed" if run.precision == "bf16-mixed" else "32-true",
    )


def seed_generators(seed: int, *place: int | str) -> None:
    """Seed torch's generators by (seed, place), and by nothing else."""
    named = "/".join(map(str, (seed, *place)))
    torch.manual_seed(int.from_bytes(hashlib.sha256(named.encode()).digest()[:8]) >> 1)


@contextmanager
def seeded(seed: int, *place: int | str) -> Iterator[None]:
    """Draw by (seed, place) inside; the process's generators are given back as they were."""
    gpus = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=list(gpus)):
        seed_generators(seed, *place)
        yield


@contextmanager
def reproducible(device: str) -> Iterator[None]:
    """Choose algorithms whose sums have a fixed order, where there are such."""
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.benchmark,
        memory.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.benchmark = False
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark, memory.fill_uninitialized_memory = before[2:]


def launch(work: Callable[["Devices", RunSettings], None], run: RunSettings) -> None:
    """Do the work once on each device, in a process of its own if there are several.

    Several processes: the work must be picklable, and what it leaves must be on the disk. Progress
    and errors come back to this process.

    Raises:
        OnwardError: whatever the work raised.
    """
    if run.devices == 1:
        work(OneDevice(run), run)
        return
    from torch.multiprocessing import get_context
    from torch.multiprocessing.spawn import ProcessRaisedException

    heard = get_context("spawn").SimpleQueue()
    errors: list[OnwardError] = []
    listener = threading.Thread(target=_listen, args=(heard, run.progress, errors), daemon=True)
    listener.start()
    try:
        quiet = replace(run, progress=silent)
        make_fabric(run).launch(partial(_work_and_tell, work=work, run=quiet, heard=heard))
    except ProcessRaisedException as failed:
        heard.put(None)
        listener.join()
        raise (errors[0] if errors else failed) from failed
    heard.put(None)
    listener.join()


def _work_and_tell(
    fabric: "Fabric",
    *,
    work: Callable[["Devices", RunSettings], None],
    run: RunSettings,
    heard: Any,
) -> None:
    def tell(done: int, total: int) -> None:
        heard.put((done, total))

    try:
        work(fabric, replace(run, progress=tell))
    except OnwardError as error:
        heard.put(error)
        raise
    fabric.barrier()  # no process leaves while another still speaks to it
    torch.distributed.destroy_process_group()


def _listen(heard: Any, progress: Progress, errors: list[OnwardError]) -> None:
    while (said := heard.get()) is not None:
        if isinstance(said, OnwardError):
            errors.append(said)
        else:
            progress(*said)
