"""Read an ONNX model whole: the graph, and the weights wherever it keeps them.

A graph may name files beside it that hold its tensors ("external data"; torch.onnx.export writes
such a file by default). onnxruntime looks for them by itself, in the working directory where it is
given bytes. So nothing of that is left to it: here every tensor is read, wherever in the graph it
stands, and what comes out names no other file, or one that is kept with it. Nothing here runs a
model.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onward.errors import ModelError

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
        for field, _ in tensor.ListFields():
            if field.name.endswith("_data") or field.name == "data_location":
                tensor.ClearField(field.name)
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


@dataclass(frozen=True)
class _Place:
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
    """Return the bytes of the weights of that name, once it is sure that all of them are there."""
    path, content = _resolve(file, place.location, name), b""
    try:
        size = path.stat().st_size
        with path.open("rb") as opened:
            if place.offset + place.length <= size:
                opened.seek(place.offset)
                content = opened.read(place.length)
    except OSError as error:
        raise _missing(path, file, name, error) from error
    if len(content) != place.length or place.offset > size:
        raise ModelError(
            f"{path} has {size} bytes, but the weights {name!r} of {file} are "
            f"{place.length} bytes from {place.offset} on",
            "it is damaged, or belongs to another model. Get both files again",
        )
    return content


def _resolve(file: Path, location: str, name: str) -> Path:
    """Return the file of that name beside the graph, or beside what a link to the graph means.

    A link may lead to a file beside the graph's own, as in the cache of the Hugging Face hub,
    and nowhere else.
    """
    named = Path(location)
    if not location or "\0" in location or named.anchor or ".." in named.parts:
        raise ModelError(
            f"{file} keeps the weights {name!r} in {location!r}",
            "only files beside "
            "it or in folders below are read. Put them there, and export the model again",
        )
    folders = [file.parent, file.resolve().parent]
    reason: Exception | str = ""
    for folder in dict.fromkeys(folders):
        try:
            path = (folder / named).resolve(strict=True)
        except (OSError, RuntimeError) as error:  # a loop of links is either
            reason = error
            continue
        if not any(path.is_relative_to(one.resolve()) for one in folders):
            raise ModelError(
                f"{folder / named}, which holds the weights {name!r} of {file}, is a link to "
                f"{path}, elsewhere",
                "only files beside the graph are read. Copy it there",
            )
        if path.is_file():
            return path
        reason = "it is not a file"
    raise _missing(file.parent / named, file, name, reason)


def _missing(path: Path, file: Path, name: str, reason: Exception | str) -> ModelError:
    return ModelError(
        f"{path}, which holds the weights {name!r} of {file}, cannot be read "
        f"({getattr(reason, 'strerror', None) or reason})",
        "put it beside the ONNX file, under the name that it was written with",
    )


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
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(inner, (*where, field.name))


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
