"""ONNX models: read whole, wherever the graph keeps its weights, and run by onnxruntime, no torch.

A graph may name files beside it that hold its tensors ("external data"; torch.onnx.export writes
such a file by default). onnxruntime looks for them by itself, in the working directory where it is
given bytes. So nothing of that is left to it: here every tensor is read, wherever in the graph it
stands, and what comes out names no other file, or one that is kept with it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onward.data.images import Pixels
from onward.errors import ModelError
from onward.models.engines import Content, Engine, InputSpec

ONNX_FILE = "model.onnx"
REPEATED, BESIDE = 1e-3, 0.01  # what is let pass, as a share of the vector's length
QUANTISES = b"DynamicQuantize"  # what operators are called whose scale is that of a whole batch
_FLOATS, _BYTES = "tensor(float)", "tensor(uint8)"
Fields = tuple[str, ...]

WEIGHTS_FILE = "model.onnx.data"
LARGEST_GRAPH = 2**31 - 2**20  # bytes; protobuf writes no message of 2 GiB
LEAST_APART = 2**16  # bytes; shapes and the like are smaller, and the graph cannot be without them
ORT_FORMAT = b"ORTM"  # from byte 4 on: onnxruntime's own format, in which nothing lies elsewhere
APART = {"FLOAT": "<f4", "DOUBLE": "<f8", "FLOAT16": "<f2", "INT8": "i1", "UINT8": "u1"}
INITIALIZER: Fields = ("graph", "initializer")
BITS = {
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 32),
    **dict.fromkeys(("DOUBLE", "INT64", "UINT64", "COMPLEX64"), 64),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 16),
    **dict.fromkeys(("INT8", "UINT8", "BOOL"), 8),
    "COMPLEX128": 128,
}
"""Of a number, for types whose size no version of ONNX has ever changed."""


@dataclass(frozen=True, eq=False)
class OnnxFiles:
    """A model as it is kept: one graph that is whole, or too large for that, with its weights.

    Attributes:
        graph: an ONNX file.
        weights: `model.onnx.data`, where the graph names it; else empty.

    Raises:
        ModelError: if the graph cannot be read, or names tensors that are not in `weights`.
    """

    graph: bytes
    weights: bytes = b""

    def __post_init__(self) -> None:
        _ = self.apart

    @cached_property
    def apart(self) -> dict[str, np.ndarray]:
        """The weights by the names that they have in the graph; views, not copies."""
        found = dict[str, np.ndarray]()
        for tensor, where in _external(_parse(self.graph, "the ONNX file")):
            place = _Place.of(tensor)
            end = place.offset + place.length
            if not _can_stand_apart(tensor, where) or (
                place.location != WEIGHTS_FILE or end > len(self.weights)
            ):
                raise ModelError(
                    f"the graph keeps the weights {tensor.name!r} in another file, "
                    f"{place.location!r}, and what that held is not here. Make the model from the "
                    "original file again (EmbeddingModel.from_onnx), with its weights beside it"
                )
            part = memoryview(self.weights)[place.offset : end]
            found[tensor.name] = np.frombuffer(part, APART[_type_of(tensor)]).reshape(tensor.dims)
        return found


def read_onnx(path: Path | str) -> OnnxFiles:
    """Read an ONNX file, and all tensors that it keeps in files beside it.

    They are put into the graph, whose bytes stay as they are where there are none. A graph that
    would be too large for one file keeps its large weights apart, in one file.

    Raises:
        ModelError: if there is no such file or it is not ONNX; if a file that it names is missing,
            too short, or not beside it (the message names file and tensor).
    """
    file = Path(path)
    if not file.is_file():
        what = f"{file} is not a file but a directory or the like" if file.exists() else ""
        raise ModelError(what or f"there is no ONNX file {file}", "make one with torch.onnx.export")
    try:
        graph = file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{file} cannot be read ({error.strerror or error})", "give a file that may be read"
        ) from error
    model = _parse(graph, str(file))
    external = [(tensor, where, _Place.of(tensor)) for tensor, where in _external(model)]
    if model is None or not external:
        return OnnxFiles(graph)
    fits = len(graph) + sum(place.length for _, _, place in external) <= LARGEST_GRAPH
    apart, offset = list[bytes](), 0
    for tensor, where, place in external:
        content = _read_beside(file, place, tensor.name)
        for kind, _ in tensor.ListFields():
            if kind.name.endswith("_data") or kind.name == "data_location":
                tensor.ClearField(kind.name)
        if fits or place.length < LEAST_APART or not _can_stand_apart(tensor, where):
            tensor.raw_data = content
            continue
        tensor.data_location = tensor.EXTERNAL
        said = {"location": WEIGHTS_FILE, "offset": offset, "length": place.length}
        for key, value in said.items():
            tensor.external_data.add(key=key, value=str(value))
        apart.append(content)
        offset += place.length
    return OnnxFiles(_serialise(model, file), b"".join(apart))


class _Place(NamedTuple):
    """Where a tensor's numbers are: `length` bytes from `offset` on."""

    location: str
    offset: int
    length: int

    @classmethod
    def of(cls, tensor: Any) -> "_Place":
        """Return what the graph says.

        Raises:
            ModelError: if it makes no sense.
        """
        said = {entry.key: entry.value for entry in tensor.external_data}
        location = said.get("location", "")
        try:
            offset, length = int(said.get("offset", 0)), int(said.get("length", 0))
            location.encode()  # what is not UTF-8 comes as bytes, which have no such method
        except (ValueError, AttributeError):
            offset = length = -1
        needed = _bytes_of(tensor)
        length = length or (-1 if needed is None else needed)
        if offset < 0 or length < 0 or needed not in (None, length):
            raise ModelError(
                f"the graph says of the weights {tensor.name!r} that they are at offset "
                f"{said.get('offset', 0)} of {location!r} and {said.get('length', 'all')} bytes "
                f"long; as {_type_of(tensor)} of shape {tuple(tensor.dims)} they take "
                f"{needed if needed is not None else 'a length that must be said'}. The file is "
                "damaged; export the model again"
            )
        return cls(location, offset, length)


def _read_beside(file: Path, place: _Place, name: str) -> bytes:
    """Return the bytes of the weights of that name, once it is sure that all of them are there.

    They are in a file beside the graph, or beside what a link to the graph means. A link may lead
    to a file beside the graph's own, as in the cache of the Hugging Face hub, and nowhere else.
    """
    named, end = Path(place.location), place.offset + place.length
    folders = [file.parent, file.resolve().parent]
    try:
        if not place.location or "\0" in place.location or named.anchor or ".." in named.parts:
            raise ValueError("only files beside it or in folders below are read")
        found = [folder / named for folder in folders if (folder / named).exists()]
        path = (found or [file.parent / named])[0].resolve(strict=True)
        if not any(path.is_relative_to(folder.resolve()) for folder in folders):
            raise ValueError(
                f"it is a link to {path}, elsewhere; only files beside the graph are read"
            )
        if not path.is_file():
            raise ValueError("it is not a file")
        if end > (size := path.stat().st_size):
            raise ValueError(f"it has {size} bytes; they are {place.length} from {place.offset} on")
        with path.open("rb") as opened:
            opened.seek(place.offset)
            content = opened.read(place.length)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links is one of the first two
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"{file} keeps the weights {name!r} in {place.location!r}, and that cannot be read "
            f"({reason})",
            "put the file that it was exported with beside it, under the name that it was written "
            "with, or export the model again",
        ) from error
    return content


def _parse(graph: bytes, name: str) -> Any | None:
    """Return the model, or None where onnxruntime alone can read it.

    Raises:
        ModelError: if it is not ONNX.
    """
    import onnx

    if graph[4:8] == ORT_FORMAT:
        return None
    try:
        model = onnx.ModelProto.FromString(graph)
    except Exception as error:  # protobuf's own, whichever implementation there is
        model, reason = None, str(error)
    else:
        reason = "it holds no graph"
    if model is None or not model.HasField("graph"):
        raise ModelError(
            f"{name} is not a readable ONNX file of {len(graph)} bytes ({reason})",
            "if it was copied, copy it again, else make one with torch.onnx.export",
        )
    return model


def _external(model: Any | None) -> list[tuple[Any, Fields]]:
    """Return the tensors that lie in other files, and the fields that lead to each."""
    every = [] if model is None else _tensors(model)
    return [(one, where) for one, where in every if one.data_location == one.EXTERNAL]


def _tensors(message: Any, where: Fields = ()) -> Iterator[tuple[Any, Fields]]:
    """Yield every tensor: initializers, sparse ones, attributes, in sub-graphs and functions."""
    from onnx import TensorProto

    if isinstance(message, TensorProto):
        yield message, where
        return
    for kind, value in message.ListFields():
        if kind.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(inner, (*where, kind.name))


def _can_stand_apart(tensor: Any, where: Fields) -> bool:
    """Say whether onnxruntime can be given a tensor beside the graph."""
    return where == INITIALIZER and _type_of(tensor) in APART


def _type_of(tensor: Any) -> str:
    from onnx import TensorProto

    names: Mapping[int, str] = {number: name for name, number in TensorProto.DataType.items()}
    return names.get(tensor.data_type, f"type {tensor.data_type}")


def _bytes_of(tensor: Any) -> int | None:
    """Return how many bytes a tensor takes; None of a type that ONNX packs in its own way."""
    bits = BITS.get(_type_of(tensor))
    return None if bits is None else math.prod(tensor.dims) * bits // 8


def _serialise(model: Any, file: Path) -> bytes:
    try:
        graph, reason = bytes(model.SerializeToString(deterministic=True)), ""
    except Exception as error:  # as above
        graph, reason = b"", f" ({error})"
    if not graph or len(graph) > LARGEST_GRAPH:
        raise ModelError(
            f"{file} has so many small or unusual weights that they make no graph of less than "
            f"2 GiB{reason}",
            "export it with float32 or float16 weights as initializers",
        )
    return graph


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
        self._check_repeats(image, self.check(output, 1, self.input_spec.noun))

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
