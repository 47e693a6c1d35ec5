"""Runs a torch backbone in eval mode; a module of its own, for it alone loads torch."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from onward.data.images import Pixels
from onward.errors import ModelError
from onward.models.engines import Content, Engine, InputSpec
from onward.models.layers import PooledStages
from onward.nn.backbones import Backbone, BackboneSpec, build_backbone, normalise


@dataclass(frozen=True, eq=False)
class BackboneEngine(Engine):
    """A backbone of its own: a copy in eval mode on the CPU, which later training cannot change."""

    backbone: Backbone
    spec: BackboneSpec

    def __post_init__(self) -> None:
        own = copy.deepcopy(self.backbone).cpu().float().eval().requires_grad_(False)
        object.__setattr__(self, "backbone", own)
        object.__setattr__(self, "dim", own.dim)
        object.__setattr__(self, "stage_channels", own.stage_channels)

    @classmethod
    def of_backbone(cls, backbone: Backbone, spec: BackboneSpec) -> "BackboneEngine":
        """Return the engine of a backbone, once it is sure that the spec says all of it.

        What is saved and named are the spec and the weights. So both together must give what the
        backbone gives, with whatever was changed in it since it was built. They are what is run,
        so that a change too small to be told from rounding is in no vector either.

        Raises:
            ModelError: if they do not.
        """
        given = cls(backbone, spec)
        try:
            built = cls.of_arrays(spec, given.content()[0])
        except ModelError as error:
            raise ModelError(f"{_UNLIKE}: {error}") from error
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, spec.channels, spec.size, spec.size, generator=generator) * 4 - 2
        with exactly(torch.device("cpu")):
            given_values, built_values = (
                [engine.backbone(image), vector, *maps]
                for engine in (given, built)
                for vector, maps in [engine.backbone.stages(image)]
            )
        if not all(map(_alike, given_values, built_values)):
            raise ModelError(
                f"{_UNLIKE}: with the same weights it gives other values. Give the backbone as it "
                "was built, or export what it is now to ONNX (EmbeddingModel.from_onnx)"
            )
        return built

    @classmethod
    def of_arrays(cls, spec: BackboneSpec, arrays: Mapping[str, np.ndarray]) -> "BackboneEngine":
        """Build the backbone and give it saved weights; torch's generator is left as it was.

        Raises:
            ModelError: if the weights are not those of such a backbone.
        """
        with torch.random.fork_rng(devices=[]):
            backbone = build_backbone(spec.model_copy(update={"pretrained": False}))
        weights = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        try:
            backbone.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"the weights are not those of {spec.name}: {reason}") from error
        return cls(backbone, spec)

    def start(
        self, input_spec: InputSpec, device: str, grid: int | None
    ) -> Callable[[Pixels], tuple[np.ndarray, PooledStages | None]]:
        """Return a function that runs the backbone on a device."""
        place = find_device(device)
        on_cpu = place.type == "cpu"
        backbone = self.backbone if on_cpu else copy.deepcopy(self.backbone).to(place)

        def run(pixels: Pixels) -> tuple[np.ndarray, PooledStages | None]:
            with exactly(place):
                images = torch.tensor(pixels).to(place).float() / 255
                normal = normalise(images, input_spec.mean, input_spec.std)
                if grid is None:
                    return backbone(normal).cpu().numpy(), None
                vectors, maps = backbone.stages(normal)
                pooled = [adaptive_avg_pool2d(stage, grid).flatten(1) for stage in maps]
                return vectors.cpu().numpy(), torch.cat(pooled, dim=1).cpu().numpy()

        return run

    def to_json(self) -> dict[str, Any]:
        """Return its kind and what it is built from."""
        return {"kind": "backbone", "backbone": self.spec.model_dump()}

    def content(self) -> Content:
        """Return the weights as arrays."""
        state = self.backbone.state_dict()
        return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in state.items()}, {}


_UNLIKE = "the backbone is not what its spec builds"


@contextmanager
def exactly(place: torch.device) -> Iterator[None]:
    """Compute in float32 throughout, whatever the program around has chosen for its own.

    TF32, which cuDNN takes by default, keeps 10 bits of what goes into a product; autocast to
    bfloat16 keeps 7.
    """
    backends: Any = torch.backends
    owners = [backends.cuda.matmul, backends.cudnn]
    name, exact = "allow_tf32", cast(Any, False)
    if hasattr(backends.cudnn, "conv"):  # since torch 2.9
        name, exact = "fp32_precision", "ieee"
        owners = [backends.cuda.matmul, backends.mkldnn.matmul]
        owners += [backends.cudnn.conv, backends.mkldnn.conv]
    chosen = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, exact)
        with torch.autocast(place.type, enabled=False), torch.inference_mode():
            yield
    finally:
        for owner, value in zip(owners, chosen, strict=True):
            setattr(owner, name, value)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, 1e-3, 1e-5, equal_nan=True)


def find_device(device: str) -> torch.device:
    """Return a device by its name; "auto" is a GPU where there is one.

    Raises:
        ModelError: if it cannot be used here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"the device {device!r} cannot be used here ({str(error).splitlines()[0]})",
            "give 'cpu'",
        ) from error
    return place
