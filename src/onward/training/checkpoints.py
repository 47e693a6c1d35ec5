"""The state of a training on the disk: one safetensors file, written as a whole or not at all.

It holds the weights, the optimiser's tensors, the step, and everything that determines the run,
so that a checkpoint of another run is refused. There is no state of a random generator in it: what
is drawn at a step depends on the seed and the step alone (`onward.training.loop`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onward.artifacts import clean_leftovers, write_aside
from onward.errors import ArtifactError, ConfigurationError

WEIGHTS, OPTIMIZER = "weights.", "optimizer."


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training in the middle.

    Attributes:
        step: number of steps done.
        weights: the module's state, by name.
        optimizer: the optimiser's state: for each parameter (its position) named tensors.
    """

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Tensor]]


def write_checkpoint(path: Path, checkpoint: Checkpoint, what: Mapping[str, Any]) -> None:
    """Write a checkpoint in the place of an older one.

    Args:
        what: everything that determines the run, as plain JSON values.
    """
    tensors = {WEIGHTS + name: _plain(tensor) for name, tensor in checkpoint.weights.items()}
    for position, state in checkpoint.optimizer.items():
        for name, tensor in state.items():
            tensors[f"{OPTIMIZER}{position}.{name}"] = _plain(tensor)
    metadata = {"step": str(checkpoint.step), "run": json.dumps(what, sort_keys=True)}
    with write_aside(path) as aside:
        save_file(tensors, aside, metadata)


def read_checkpoint(path: Path, what: Mapping[str, Any]) -> Checkpoint | None:
    """Return the checkpoint at a path; None where there is none.

    Raises:
        ConfigurationError: if another run wrote it; the message names what differs.
        ArtifactError: if it cannot be read.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()  # the file itself cannot be iterated
            tensors = {name: file.get_tensor(name) for name in names}
        step, written = int(metadata["step"]), json.loads(metadata["run"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a checkpoint of a training ({error}); remove it to start over"
        ) from error
    _refuse_another_run(path, written, what)
    weights: dict[str, Tensor] = {}
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(WEIGHTS):
            weights[name.removeprefix(WEIGHTS)] = tensor
        else:
            position, key = name.removeprefix(OPTIMIZER).split(".", 1)
            optimizer.setdefault(int(position), {})[key] = tensor
    return Checkpoint(step, weights, optimizer)


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
    before, now = _flat(written), _flat(json.loads(json.dumps(what)))
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
