"""Runs an ONNX file by onnxruntime; needs no torch."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from onward.data.images import Pixels
from onward.errors import ModelError
from onward.models.engines import Content, Engine, InputSpec
from onward.models.onnx_files import WEIGHTS_FILE, OnnxFiles

ONNX_FILE = "model.onnx"
REPEATED, BESIDE = 1e-3, 0.01  # what is let pass, as a share of the vector's length
QUANTISES = b"DynamicQuantize"  # what operators are called whose scale is that of a whole batch
_FLOATS, _BYTES = "tensor(float)", "tensor(uint8)"


@dataclass(frozen=True, eq=False)
class OnnxEngine(Engine):
    """An ONNX graph with one input of images and, as its first output, one vector an image.

    An input of float32 is given normalised images, one of uint8 the pixels as they are. A graph
    with a fixed batch is run on batches of just that size, the last one filled up.

    Raises:
        ModelError: if the graph takes or gives something else, or other vectors for the same image.
    """

    model: OnnxFiles
    input_spec: InputSpec
    dim: int = field(init=False)

    def __post_init__(self) -> None:
        self._check_input()
        shape = (1, self.input_spec.channels, self.input_spec.size, self.input_spec.size)
        image = (100 + np.arange(math.prod(shape)) * 37 % 51).astype(np.uint8).reshape(shape)
        output = self._run(self._session, image, self.input_spec)
        kind = self._session.get_outputs()[0].type
        if "float8" in kind:  # onnxruntime gives the codes instead of the numbers
            raise ModelError(f"the ONNX file's first output is {kind}", "cast it to float32 in it")
        object.__setattr__(self, "dim", int(output.shape[1]))
        self._check_repeats(image, self.check(output, 1))

    def _check_input(self) -> None:
        inputs = self._session.get_inputs()
        input_spec, size = self.input_spec, self.input_spec.size
        wanted = f"one float32 or uint8 input of (images, {input_spec.channels}, {size}, {size})"
        shape = inputs[0].shape if inputs else []
        fits = (
            len(inputs) == 1
            and inputs[0].type in (_FLOATS, _BYTES)
            and len(shape) == 4
            and all(
                not isinstance(given, int) or given == needed
                for given, needed in zip(shape[1:], (input_spec.channels, size, size), strict=True)
            )
        )
        if not fits:
            given = ", ".join(f"{each.name}: {each.type} {each.shape}" for each in inputs)
            sides = {side for side in shape[2:] if isinstance(side, int)}
            repair = "Export it again, or give the InputSpec that it was made for"
            if len(shape) == 4 and len(sides) == 2:
                repair = "Export it for square images; no InputSpec has other ones"
            raise ModelError(
                f"the ONNX file takes {given or 'nothing'}",
                f"{repair}",
                needed=f"it needs {wanted}",
            )

    def _check_repeats(self, image: Pixels, first: np.ndarray) -> None:
        """Refuse a graph whose vectors depend on chance, or on the other images of a batch."""
        length = float(np.linalg.norm(first.astype(np.float64)))
        again, beside = self._run(self._session, image, self.input_spec), first
        harsh = (image % 2 * 255).astype(np.uint8)  # as unlike it in mean and deviation as can be
        with suppress(ModelError):  # traced with one image: embedding by one works
            three = np.concatenate([harsh, image, harsh])
            beside = self._run(self._session, three, self.input_spec)[1:2]
        for other, share, reason in (
            (again, REPEATED, "every time"),
            (beside, BESIDE, "beside another image"),
        ):
            with np.errstate(invalid="ignore"):  # infinite values are refused where they are used
                apart = float(np.linalg.norm(other.astype(np.float64) - first))
            if apart > share * length:
                raise ModelError(
                    f"the ONNX file gives another vector for the same image {reason}",
                    "it draws "
                    "numbers at random or takes the statistics of a batch, as while it is trained. "
                    "Export it after model.eval()",
                )

    def start(
        self,
        input_spec: InputSpec,
        device: str,
        grid: int | None,  # noqa: ARG002
    ) -> Callable[[Pixels], tuple[np.ndarray, None]]:
        """Return a function that runs the graph on the CPU, or on a GPU by CUDA."""
        session = self._session if device in ("cpu", "auto") else _session(self.model, device)
        return lambda pixels: (self._run(session, pixels, input_spec), None)

    def _run(self, session: Any, pixels: Pixels, input_spec: InputSpec) -> np.ndarray:
        """Run the graph on batches of the size it wants; what a last one is filled with is cut.

        One that quantises by the largest number of a batch is given one image at a time, so that
        none depends on the others.
        """
        wanted = session.get_inputs()[0]
        fixed = wanted.shape[0] if isinstance(wanted.shape[0], int) else None
        step = 1 if QUANTISES in self.model.graph else fixed or max(len(pixels), 1)
        outputs = [np.empty((0, self.dim), np.float32)] if len(pixels) == 0 else []
        for start in range(0, len(pixels), step):
            batch = pixels[start : start + step]
            images = batch if wanted.type == _BYTES else input_spec.normalise(batch)
            if fixed:
                missing = fixed - len(batch)
                images = np.pad(images, [(0, missing)] + [(0, 0)] * 3, mode="edge")
            try:
                output = session.run(None, {wanted.name: images})[0]
            except Exception as error:  # onnxruntime's own errors have no common class
                raise ModelError(
                    f"the ONNX file cannot be run on {len(images)} images "
                    f"({str(error).splitlines()[0]})",
                    "export it with a batch of any size (dynamic), or with the fixed one it was "
                    "traced with",
                ) from error
            shape = output.shape if isinstance(output, np.ndarray) else type(output).__name__
            if len(shape) != 2 or shape[0] != len(images):
                raise ModelError(
                    f"the ONNX file's first output has shape {shape} for {len(images)} images",
                    "export the model with its pooling, and one vector an image as its first "
                    "output",
                    needed="it needs (images, dimensions)",
                )
            outputs.append(output[: len(batch)])
        return np.concatenate(outputs)

    @cached_property
    def _session(self) -> Any:
        return _session(self.model, "cpu")

    def to_json(self) -> dict[str, Any]:
        """Return its kind; a reader that knows of no weights beside the graph must not run it."""
        return {"kind": "onnx-and-data" if self.model.weights else "onnx"}

    def content(self) -> Content:
        """Return the graph as a file, and its weights where it is too large to hold them."""
        files = {ONNX_FILE: self.model.graph, WEIGHTS_FILE: self.model.weights}
        return {}, {name: content for name, content in files.items() if content}


def _session(model: OnnxFiles, device: str) -> Any:
    import onnxruntime

    kind, _, number = device.partition(":")
    providers: dict[str, Any] = {
        "cpu": "CPUExecutionProvider",
        # Without TF32, which would round what goes into a product to 10 bits.
        "cuda": ("CUDAExecutionProvider", {"device_id": int(number or 0), "use_tf32": 0}),
    }
    available = onnxruntime.get_available_providers()
    if kind not in providers or (kind == "cuda" and "CUDAExecutionProvider" not in available):
        raise ModelError(
            f"onnxruntime cannot run on {device!r} here (it has {', '.join(available)})",
            "give 'cpu', or install onnxruntime-gpu for 'cuda'",
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, not printed as well
    if model.apart:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(one) for one in model.apart.values()]
        options.add_external_initializers(list(model.apart), values)
    try:
        return onnxruntime.InferenceSession(
            model.graph,
            options,
            providers=[providers[kind]],
            enable_fallback=0,  # which would print to stdout and try the CPU
        )
    except Exception as error:  # onnxruntime's own errors have no common class
        raise ModelError(
            f"the ONNX file cannot be loaded ({error})",
            f"it must be one whole ONNX model that this "
            f"onnxruntime ({onnxruntime.__version__}) can run",
        ) from error
