"""The transformation `h(old, side) -> new` that carries stored vectors into a new space.

A transformation is a frozen list of dense layers between named spaces. onnxruntime applies it, the
same rows for any batching; a NumPy reference says what it should give. Nothing here knows how it
was fitted, and nothing reads an image.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from onward.artifacts import (
    Artifact,
    canonical_json,
    digest,
    digest_arrays,
    read_artifact,
    write_artifact,
)
from onward.errors import ArtifactError, SpaceMismatchError, TransformationError
from onward.spaces import Embeddings, Ids, Space

OldVectors = Float32[np.ndarray, "item old"]
SideVectors = Float32[np.ndarray, "side_item side"]  # as many items, or a message that says so
NewVectors = Float32[np.ndarray, "item new"]

KIND = "transformation"
ONNX_FILE = "model.onnx"
ONNX_OPSET = 13
ONNX_IR_VERSION = 7
BLOCK_ROWS = 256


@dataclass(frozen=True, eq=False)
class Dense:
    """A layer `weight @ x + bias`, then ReLU where `relu` is true; BatchNorm is folded into it.

    Raises:
        TransformationError: if weight and bias do not fit together.
    """

    weight: Float32[np.ndarray, "out in"]
    bias: Float32[np.ndarray, " out"]
    relu: bool

    def __post_init__(self) -> None:
        for name in ("weight", "bias"):
            array = np.array(getattr(self, name), dtype=np.float32, order="C")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise TransformationError(
                f"a dense layer has a weight of shape {self.weight.shape} and a bias of shape "
                f"{self.bias.shape}; give a weight of (out, in) and a bias of (out,)"
            )


@dataclass(frozen=True, eq=False)
class Step:
    """One network from two vectors to one: `mixer(concatenate(old_branch, side_branch))`.

    Attributes:
        old_branch: layers on the vector that is to be carried over; none means as it is.
        side_branch: layers on the side-information. Where the step uses no side-information they
            are fed the old vector, and where there are none of them either, nothing is
            concatenated.
        mixer: layers on what the branches give.
        uses_side: whether the step reads side-information.
    """

    old_branch: tuple[Dense, ...]
    side_branch: tuple[Dense, ...]
    mixer: tuple[Dense, ...]
    uses_side: bool

    @property
    def branches(self) -> dict[str, tuple[Dense, ...]]:
        """The three chains of layers by name, in the order in which they run."""
        return {"old": self.old_branch, "side": self.side_branch, "mixer": self.mixer}

    @property
    def two_inputs(self) -> bool:
        """Whether the mixer is fed two branches."""
        return self.uses_side or bool(self.side_branch)


@dataclass(frozen=True, eq=False)
class Transformation:
    """A map of vectors from the old space, with side-information or without, to the new space.

    Attributes:
        old: the space of the vectors that go in.
        side: the space of the side-information that goes in with them, if any.
        new: the space of the vectors that come out.
        steps: applied one after the other; more than one where transformations were composed.
        made_by: recipe, seed, versions, digest of the data: plain JSON values.

    Raises:
        TransformationError: if layers do not chain or hold values that are not finite.
    """

    old: Space
    side: Space | None
    new: Space
    steps: tuple[Step, ...]
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "made_by", _plain(self.made_by))
        _check_steps(self)

    @cached_property
    def digest(self) -> str:
        """Digest of the spaces and the layers: equal for equal maps, whatever made them."""
        return digest(canonical_json(_shape(self)), digest_arrays(_arrays(self.steps)).encode())

    def apply(self, old: Embeddings, side: Embeddings | None = None) -> Embeddings:
        """Return the embeddings in the new space, by onnxruntime; ids and labels are kept.

        Args:
            old: what is to be carried over.
            side: the side-information of the same items in the same order.

        Raises:
            SpaceMismatchError: if vectors are not in the transformation's spaces.
            TransformationError: if side-information is missing or not wanted, the ids of `old` and
                `side` differ, or an item's vector comes out NaN or infinite.
        """
        self._check(old, side)
        vectors = self._run(old.vectors, None if side is None else side.vectors, old.ids)
        return Embeddings(old.ids, vectors, self.new, old.labels)

    def apply_arrays(self, old: OldVectors, side: SideVectors | None = None) -> NewVectors:
        """Return the new vectors of a batch without ids; the caller vouches for the spaces.

        A row's result is the same, bit for bit, whatever rows stand beside it.

        Raises:
            TransformationError: if an array has the wrong shape, or a row has or gives NaN or
                infinite values.
        """
        _check_arrays(self, old, side)
        return self._run(old, side, None)

    def apply_reference(self, old: Embeddings, side: Embeddings | None = None) -> Embeddings:
        """Return what `apply` should: the layers in NumPy, computed in float64."""
        self._check(old, side)
        vectors = np.empty((len(old), self.new.dim), np.float32)
        for start in range(0, len(old), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            current = old.vectors[rows].astype(np.float64)
            aside = None if side is None else side.vectors[rows].astype(np.float64)
            for step in self.steps:
                current = _forward(step, current, aside)
            vectors[rows] = current
        return Embeddings(old.ids, vectors, self.new, old.labels)

    def save(self, directory: Path | str) -> None:
        """Write `config.json`, `model.safetensors`, `model.onnx` and a card.

        Equal transformations give equal bytes.

        Raises:
            ArtifactError: if something else stands in the way.
        """
        config = _shape(self) | {"digest": self.digest, "onnx_opset": ONNX_OPSET}
        files = {ONNX_FILE: self.to_onnx()}
        arrays = _arrays(self.steps)
        write_artifact(directory, Artifact(KIND, config, arrays, self.made_by, _card(self), files))

    @classmethod
    def load(cls, directory: Path | str) -> "Transformation":
        """Read what `save` wrote.

        Raises:
            ArtifactError: if it is missing, damaged or holds something else.
        """
        artifact = read_artifact(directory, KIND)
        config = artifact.config
        try:
            side = None if config["side"] is None else Space.from_json(config["side"])
            steps = tuple(_step(i, of, artifact.arrays) for i, of in enumerate(config["steps"]))
            old, new = Space.from_json(config["old"]), Space.from_json(config["new"])
            loaded = cls(old, side, new, steps, artifact.made_by)
        except (KeyError, TransformationError) as error:
            raise ArtifactError(f"{directory} holds no whole transformation: {error}") from error
        return loaded

    def to_onnx(self) -> bytes:
        """Return the ONNX graph: inputs "old" (and "side"), output "new", any number of rows."""
        return _onnx(self)

    @property
    def layers(self) -> Iterator[tuple[str, Dense]]:
        """Every layer with its name, such as `steps.0.old.1`, in the order in which they run."""
        for number, step in enumerate(self.steps):
            for branch, layers in step.branches.items():
                yield from ((f"steps.{number}.{branch}.{i}", of) for i, of in enumerate(layers))

    @property
    def parameters(self) -> int:
        """How many numbers the layers hold."""
        return sum(layer.weight.size + layer.bias.size for _, layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """How many multiplications and additions one item costs."""
        return sum(layer.weight.size for _, layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return what it maps, its size and what made it, as plain values."""
        return {
            **_shape(self),
            "digest": self.digest,
            "parameters": self.parameters,
            "bytes": 4 * self.parameters,
            "multiply_adds": self.multiply_adds,
            "made_by": dict(self.made_by),
        }

    def __str__(self) -> str:
        side = "" if self.side is None else f", with side-information in {self.side}"
        return (
            f"transformation {self.digest[:8]}: {self.old} -> {self.new}{side}; "
            f"{self.parameters:,} parameters, {4 * self.parameters:,} bytes, "
            f"{self.multiply_adds:,} multiply-adds an item"
        )

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            self.to_onnx(), options, providers=["CPUExecutionProvider"]
        )

    def _run(self, old: OldVectors, side: SideVectors | None, ids: Ids | None) -> NewVectors:
        """Run blocks of one fixed size, the last padded, so that no row's result depends on it."""
        inputs = {"old": old} if side is None else {"old": old, "side": side}
        new = np.empty((len(old), self.new.dim), np.float32)
        for start in range(0, len(old), BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, len(old)))
            fed = {name: _block(array[rows]) for name, array in inputs.items()}
            new[rows] = self._session.run(["new"], fed)[0][: rows.stop - start]
            finite = np.isfinite(new[rows]).all(axis=1)
            for array in inputs.values():
                finite &= np.isfinite(array[rows]).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                who = f"row {row}" if ids is None else f"item {ids[row]!r} (row {row})"
                raise TransformationError(
                    f"the vector of {who} is NaN or infinite once in {self.new}; its old vector or "
                    "its side-information is out of all proportion. Leave the item out, or embed "
                    "it with the new model"
                )
        return new

    def _check(self, old: Embeddings, side: Embeddings | None) -> None:
        """Refuse embeddings that this transformation does not take."""
        if old.space != self.old:
            raise SpaceMismatchError(_why_not_old(self, old.space, side))
        if self.side is None:
            if side is not None:
                raise TransformationError(
                    f"side-information in {side.space} was given, but the transformation "
                    f"{self.old.name} -> {self.new.name} uses none; leave it away"
                )
            return
        if side is None:
            raise TransformationError(
                f"the transformation {self.old.name} -> {self.new.name} needs side-information in "
                f"{self.side}, and none was given; give the embeddings stored in that space, or "
                "fit a transformation without side-information"
            )
        if side.space != self.side:
            raise SpaceMismatchError(
                f"the side-information is in {side.space}, but the transformation "
                f"{self.old.name} -> {self.new.name} was fitted with side-information in "
                f"{self.side}; give the embeddings stored in that space"
            )
        _check_same_ids(old.ids, side.ids)


def compose(first: Transformation, second: Transformation) -> Transformation:
    """Return the transformation that applies `first` and then `second`.

    A direct fit from the first space to the last is better wherever it can be made: chaining two
    costs about a point of cmc@1.

    Raises:
        SpaceMismatchError: if `second` does not start where `first` ends, or needs other
            side-information than `first`.
    """
    if first.new != second.old:
        raise SpaceMismatchError(
            f"the first transformation ends in {first.new}, the second starts from {second.old}; "
            "compose(first, second) needs the second to start where the first ends"
        )
    if first.side is not None and second.side is not None and first.side != second.side:
        raise SpaceMismatchError(
            f"the first transformation uses side-information in {first.side}, the second in "
            f"{second.side}; a composed one can use only one. Fit {first.old.name} -> "
            f"{second.new.name} directly"
        )
    made_by = {
        "recipe": "compose",
        "parts": [
            {"digest": part.digest, "old": part.old.to_json(), "new": part.new.to_json()}
            | {"made_by": dict(part.made_by)}
            for part in (first, second)
        ],
    }
    side = second.side if first.side is None else first.side
    return Transformation(first.old, side, second.new, first.steps + second.steps, made_by)


def linear(
    old: Space,
    side: Space | None,
    new: Space,
    weight: Float[np.ndarray, "new old_and_side"],
    bias: Float[np.ndarray, " new"],
    *,
    made_by: Mapping[str, Any],
) -> Transformation:
    """Return the transformation `weight @ concatenate(old, side) + bias`, such as ridge gives."""
    step = Step((), (), (Dense(weight, bias, relu=False),), uses_side=side is not None)
    return Transformation(old, side, new, (step,), made_by)


def _plain(made_by: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(canonical_json(dict(made_by))))
    except (TypeError, ValueError) as error:
        raise TransformationError(f"made_by must hold plain JSON values only: {error}") from error


def _check_steps(of: Transformation) -> None:
    if not of.steps:
        raise TransformationError("a transformation needs at least one step")
    reads_side = any(step.uses_side for step in of.steps)
    if reads_side != (of.side is not None):
        said = "a side space is given" if of.side else "no side space is given"
        does = "some step uses" if reads_side else "no step uses"
        raise TransformationError(f"{said}, but {does} side-information; make them agree")
    for name, layer in of.layers:
        if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
            raise TransformationError(
                f"layer {name} holds NaN or infinite values; the fit went astray: fit again, with "
                "a smaller learning rate"
            )
    dim = of.old.dim
    for number, step in enumerate(of.steps):
        side_dim = of.side.dim if of.side is not None and step.uses_side else dim
        dim = _chained(f"steps.{number}", step, dim, side_dim)
    if dim != of.new.dim:
        raise TransformationError(
            f"the last layer gives {dim} numbers, but {of.new} has {of.new.dim} dimensions"
        )


def _chained(name: str, step: Step, old_dim: int, side_dim: int) -> int:
    """Return the dimension of a step's output, or refuse layers that do not fit together."""
    mixed = _chained_layers(f"{name}.old", step.old_branch, old_dim)
    if step.two_inputs:
        mixed += _chained_layers(f"{name}.side", step.side_branch, side_dim)
    return _chained_layers(f"{name}.mixer", step.mixer, mixed)


def _chained_layers(name: str, layers: tuple[Dense, ...], dim: int) -> int:
    for number, layer in enumerate(layers):
        if layer.weight.shape[1] != dim:
            raise TransformationError(
                f"layer {name}.{number} takes {layer.weight.shape[1]} numbers, but is given {dim}"
            )
        dim = layer.weight.shape[0]
    return dim


def _forward(step: Step, old: np.ndarray, side: np.ndarray | None) -> np.ndarray:
    mixed = _chain(step.old_branch, old)
    if step.two_inputs:
        second = side if step.uses_side and side is not None else old
        mixed = np.concatenate([mixed, _chain(step.side_branch, second)], axis=1)
    return _chain(step.mixer, mixed)


def _chain(layers: tuple[Dense, ...], values: np.ndarray) -> np.ndarray:
    for layer in layers:
        values = values @ layer.weight.T.astype(np.float64) + layer.bias
        values = np.maximum(values, 0) if layer.relu else values
    return values


def _block(rows: np.ndarray) -> np.ndarray:
    """Return the rows as one contiguous float32 block, padded with zeros."""
    if len(rows) == BLOCK_ROWS:
        return np.ascontiguousarray(rows, dtype=np.float32)
    block = np.zeros((BLOCK_ROWS, rows.shape[1]), np.float32)
    block[: len(rows)] = rows
    return block


def _check_arrays(of: Transformation, old: np.ndarray, side: np.ndarray | None) -> None:
    if (side is None) != (of.side is None):
        wants = "needs no" if of.side is None else f"needs {of.side} as"
        raise TransformationError(
            f"the transformation {of.old.name} -> {of.new.name} {wants} side-information"
        )
    shapes = [("old", of.old, old)]
    if of.side is not None and side is not None:
        shapes.append(("side", of.side, side))
    for name, space, array in shapes:
        if array.shape != (len(old), space.dim):
            raise TransformationError(
                f"the array {name} has the shape {array.shape}; one of ({len(old)}, {space.dim}) "
                f"is needed, a row an item, in {space}"
            )


def _why_not_old(of: Transformation, given: Space, side: Embeddings | None) -> str:
    goes = f"the transformation goes from {of.old} to {of.new}"
    if given == of.new:
        return (
            f"the old embeddings are in {given}, but {goes}: it was probably given the wrong way "
            "round, or the embeddings are upgraded already"
        )
    if side is not None and given == of.side and side.space == of.old:
        return f"old embeddings and side-information were given in each other's place; {goes}"
    return (
        f"the old embeddings are in {given}, but {goes}; give embeddings in {of.old.name}, or a "
        f"transformation that starts from {given.name}"
    )


def _check_same_ids(old: Ids, side: Ids) -> None:
    if old == side:
        return
    pairs = zip(old, side, strict=False)
    row = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(old), len(side)))
    found = [repr(ids[row]) if row < len(ids) else "nothing" for ids in (old, side)]
    if set(old) == set(side):
        what = "the same ids in another order; reorder it: side.align(old.ids)"
    else:
        what = (
            f"other ids ({len(old)} and {len(side)}); give the side-information of exactly these "
            "items"
        )
    raise TransformationError(
        f"row {row} of the old embeddings is item {found[0]}, of the side-information {found[1]}: "
        f"the side-information has {what}"
    )


def _arrays(steps: tuple[Step, ...]) -> dict[str, np.ndarray]:
    return {
        f"steps.{number}.{branch}.{i}.{part}": getattr(layer, part)
        for number, step in enumerate(steps)
        for branch, layers in step.branches.items()
        for i, layer in enumerate(layers)
        for part in ("weight", "bias")
    }


def _shape(of: Transformation) -> dict[str, Any]:
    """What stands in the header: spaces, direction and layers, without the arrays."""
    return {
        "direction": f"{of.old.name} -> {of.new.name}",
        "old": of.old.to_json(),
        "side": None if of.side is None else of.side.to_json(),
        "new": of.new.to_json(),
        "steps": [
            {"uses_side": step.uses_side}
            | {
                branch: [
                    {"in": of.weight.shape[1], "out": of.weight.shape[0], "relu": of.relu}
                    for of in layers
                ]
                for branch, layers in step.branches.items()
            }
            for step in of.steps
        ],
    }


def _step(number: int, of: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Step:
    def layers(branch: str) -> tuple[Dense, ...]:
        names = [f"steps.{number}.{branch}.{i}" for i in range(len(of[branch]))]
        return tuple(
            Dense(arrays[f"{name}.weight"], arrays[f"{name}.bias"], layer["relu"])
            for name, layer in zip(names, of[branch], strict=True)
        )

    return Step(layers("old"), layers("side"), layers("mixer"), of["uses_side"])


def _card(of: Transformation) -> str:
    return f"# {of}\n"


def _onnx(of: Transformation) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants = [numpy_helper.from_array(a, name) for name, a in _arrays(of.steps).items()]

    def chain(name: str, layers: tuple[Dense, ...], value: str) -> str:
        for i, layer in enumerate(layers):
            fed = [value, f"{name}.{i}.weight", f"{name}.{i}.bias"]
            value = f"{name}.{i}"
            nodes.append(helper.make_node("Gemm", fed, [value], transB=1))
            if layer.relu:
                nodes.append(helper.make_node("Relu", [value], [f"{value}.relu"]))
                value = f"{value}.relu"
        return value

    current = "old"
    for number, step in enumerate(of.steps):
        mixed = chain(f"steps.{number}.old", step.old_branch, current)
        if step.two_inputs:
            second = "side" if step.uses_side else current
            second = chain(f"steps.{number}.side", step.side_branch, second)
            joined = f"steps.{number}.joined"
            nodes.append(helper.make_node("Concat", [mixed, second], [joined], axis=1))
            mixed = joined
        current = chain(f"steps.{number}.mixer", step.mixer, mixed)
    nodes.append(helper.make_node("Identity", [current], ["new"]))

    def value(name: str, space: Space) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["items", space.dim])

    spaces = {"old": of.old} | ({} if of.side is None else {"side": of.side})
    inputs = [value(name, space) for name, space in spaces.items()]
    graph = helper.make_graph(nodes, "transformation", inputs, [value("new", of.new)], constants)
    model = helper.make_model(
        graph,
        producer_name="onward",
        opset_imports=[helper.make_opsetid("", ONNX_OPSET)],
        ir_version=ONNX_IR_VERSION,
    )
    named = {**spaces, "new": of.new}
    props = {f"onward.{name}": json.dumps(space.to_json()) for name, space in named.items()}
    helper.set_model_props(model, props | {"onward.digest": of.digest})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
