"""Networks of dense layers as plain arrays: what a transformation is made of.

A `Step` takes an old vector, and side-information where it uses any, and gives a new one: the sum
of what parallel networks give. Here it is checked, named, stored as arrays, computed in NumPy as
the reference, and written and run as an ONNX graph. Nothing here knows of ids.

A matrix product may add up in another order when it is given another number of rows, and then the
last bits of a row depend on its neighbours. So a graph is run on blocks of one fixed size, the last
one padded. onnx and onnxruntime are imported when they are needed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Float64

from onward.arrays import as_weights
from onward.errors import TransformationError
from onward.spaces import Space

Rows64 = Float64[np.ndarray, "item _"]
Rows32 = Float32[np.ndarray, "item _"]
Value = TypeVar("Value")

ONNX_OPSET = 13
ONNX_IR_VERSION = 7  # the one that came with opset 13: read by every runtime since 2020
BLOCK_ROWS = 256  # 3 % slower than the fastest size, and a lone row costs a few milliseconds

SHORT_CUT = "short_cut"
"""What format 1 calls the second of two parts: one layer past all those of the first."""
UNCERTAINTY = ("uncertainty.weight", "uncertainty.bias", "uncertainty.middle")
NEAREST = 1e-12
"""No squared distance from the middle counts as less: its logarithm is to be finite."""


@dataclass(frozen=True, eq=False)
class Dense:
    """A layer `weight @ x + bias`, then ReLU where `relu` is true; BatchNorm is folded into it.

    Weight is (out, in), bias (out,); both are copied and read-only.

    Raises:
        TransformationError: if weight and bias do not fit together.
    """

    weight: Float32[np.ndarray, "out in"]
    bias: Float32[np.ndarray, " bias"]
    relu: bool

    def __post_init__(self) -> None:
        for name in ("weight", "bias"):
            what = f"{name} of a transformation"
            values = as_weights(getattr(self, name), what, TransformationError)
            object.__setattr__(self, name, values)
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise TransformationError(
                f"a dense layer has a weight of shape {self.weight.shape} and a bias of shape "
                f"{self.bias.shape}",
                "give a weight of (out, in) and a bias of (out,)",
            )


@dataclass(frozen=True, eq=False)
class Residual:
    """What its inner layers give, added to what they are fed: `x + inner(x)`.

    Raises:
        TransformationError: if there are no inner layers.
    """

    inner: tuple[Dense, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", tuple(self.inner))
        if not self.inner:
            raise TransformationError("a residual has no inner layers", "give at least one")


Layer = Dense | Residual


@dataclass(frozen=True, eq=False)
class Network:
    """Layers from two vectors to one: `mixer(concatenate(old_branch(old), side_branch(side)))`.

    A linear map is the plainest: no branches, and one layer that mixes.

    Attributes:
        old_branch: layers on the vector that is to be carried over; none means as it is.
        side_branch: layers on the side-information. Where the network uses no side-information they
            are fed the old vector, and where there are none of them either, nothing is
            concatenated.
        mixer: layers on what the branches give.
        uses_side: whether the network reads side-information.
    """

    old_branch: tuple[Layer, ...]
    side_branch: tuple[Layer, ...]
    mixer: tuple[Layer, ...]
    uses_side: bool

    @property
    def is_linear(self) -> bool:
        """Whether it is one layer and nothing else."""
        return not (self.old_branch or self.side_branch) and [*map(type, self.mixer)] == [Dense]


@dataclass(frozen=True, eq=False)
class Step:
    """The sum of parallel networks, which are all fed the same and run apart.

    Attributes:
        parts: the networks, in the order in which they are added up.

    Raises:
        TransformationError: if there are none.
    """

    parts: tuple[Network, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise TransformationError("a step has no parts", "give at least one network")

    @property
    def uses_side(self) -> bool:
        """Whether a part reads side-information."""
        return any(part.uses_side for part in self.parts)

    @property
    def is_format_1(self) -> bool:
        """Whether a program that knows no parallel parts can read it.

        It has one, or a second that is a layer past all those of the first.
        """
        first, *others = self.parts
        fits = [part for part in others if part.is_linear and part.uses_side == first.uses_side]
        return len(fits) == len(others) < 2


def walk(
    steps: Sequence[Step],
    old: Value,
    side: Value,
    *,
    dense: Callable[[str, Dense, Value], Value],
    add: Callable[[str, Value, Value], Value],
    join: Callable[[str, Value, Value], Value],
) -> Value:
    """Return what steps make of values: arrays, their widths, or the nodes of a graph.

    Everything is named: a layer such as `steps.0.old.1`, `steps.0.mixer.1.inner.0` within a
    residual, `steps.0.parts.2.mixer.0` of the third of several parts, or `steps.0.short_cut` where
    the second of two is one layer.

    Args:
        steps: run one after the other; all that use side-information are fed the same.
        old: what the first step is fed.
        side: what is fed to side branches that use side-information.
        dense: makes what a layer gives, of what it is fed.
        add: makes a sum: of what a residual is fed and gives, and of parts.
        join: makes what a mixer is fed, of what two branches give.
    """

    def chain(name: str, layers: Sequence[Layer], value: Value) -> Value:
        for place, layer in enumerate(layers):
            here = name if name.endswith(SHORT_CUT) else f"{name}.{place}"
            if isinstance(layer, Dense):
                value = dense(here, layer, value)
                continue
            change = value
            for inner_place, inner in enumerate(layer.inner):
                change = dense(f"{here}.inner.{inner_place}", inner, change)
            value = add(here, value, change)
        return value

    current = old
    for number, step in enumerate(steps):
        given = []
        for place, part in enumerate(step.parts):
            which = ("", f".{SHORT_CUT}")[place] if step.is_format_1 else f".parts.{place}"
            name = f"steps.{number}{which}"
            mixed = chain(f"{name}.old", part.old_branch, current)
            if part.uses_side or part.side_branch:
                fed = side if part.uses_side else current
                mixed = join(f"{name}.joined", mixed, chain(f"{name}.side", part.side_branch, fed))
            last = name if which == f".{SHORT_CUT}" else f"{name}.mixer"
            given.append(chain(last, part.mixer, mixed))
        current = given[0]
        for place, other in enumerate(given[1:], start=1):
            current = add(f"steps.{number}.sum.{place}", current, other)
    return current


def layers_of(steps: Sequence[Step]) -> list[tuple[str, Dense]]:
    """Return every dense layer with its name, in the order in which they run; see `walk`."""
    found: list[tuple[str, Dense]] = []

    def note(name: str, layer: Dense, _: object) -> None:
        found.append((name, layer))

    walk(steps, None, None, dense=note, add=lambda *_: None, join=lambda *_: None)
    return found


def check_steps(steps: Sequence[Step], old_dim: int, side_dim: int | None) -> int:
    """Return how many numbers the steps give, or refuse steps that cannot be run.

    Args:
        steps: run one after the other; all that use side-information are fed the same.
        old_dim: how many numbers the first step is fed.
        side_dim: how many numbers the side-information has; None if there is none.

    Raises:
        TransformationError: naming the layer that does not fit the one before it, or that holds
            NaN or infinite values; or what adds up vectors that are not as long.
    """
    if not steps:
        raise TransformationError("a transformation has no steps", "give at least one")
    if any(step.uses_side for step in steps) != (side_dim is not None):
        has, does = ("no ", "one does") if side_dim is None else ("a ", "none does")
        raise TransformationError(
            f"there is {has}space for side-information, but of the steps {does} use it",
            "give a side space exactly where a network has uses_side=True",
        )
    for name, layer in layers_of(steps):
        if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
            raise TransformationError(
                f"layer {name} holds NaN or infinite values, so the fit diverged",
                "fit again with a smaller learning rate, or look for extreme values in embeddings",
            )

    def width(name: str, layer: Dense, fed: int) -> int:
        if layer.weight.shape[1] != fed:
            raise TransformationError(
                f"layer {name} takes {layer.weight.shape[1]} numbers, but is fed {fed}",
                "give it a weight of as many columns as it is fed",
            )
        return int(layer.weight.shape[0])

    def same(name: str, one: int, other: int) -> int:
        if one != other:
            raise TransformationError(
                f"{name} adds up vectors of {one} and of {other} numbers",
                "give the last layers of a residual, and of parallel parts, as many rows",
            )
        return one

    return walk(
        steps, old_dim, side_dim or 0, dense=width, add=same, join=lambda _, one, other: one + other
    )


def run_steps(steps: Sequence[Step], old: Rows64, side: Rows64 | None) -> Rows64:
    """Return what the steps give, computed in float64: the reference."""

    def dense(_: str, layer: Dense, rows: Rows64) -> Rows64:
        values: Rows64 = rows @ layer.weight.T.astype(np.float64) + layer.bias
        return np.maximum(values, 0) if layer.relu else values

    def join(_: str, *both: Rows64) -> Rows64:
        return np.concatenate(both, axis=1)

    aside = old if side is None else side  # then no part reads it
    return walk(steps, old, aside, dense=dense, add=lambda _, one, other: one + other, join=join)


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """How unsure a transformation is of a new vector that it gave, as one number.

    The logarithm of the squared error that it expects, `s = w^T z + b` as FastFill learns it, less
    that of the vector's squared distance from the middle of all new embeddings. An error turns a
    vector that lies near the middle, and so near to many others, farther round: by s alone,
    embedding the most uncertain items again hardly helped (lab/LOG.md).

    Attributes:
        layer: from a new vector to s.
        middle: the mean of the new embeddings that the transformation was fitted on.

    References:
        Jaeckle et al., FastFill: Efficient Compatible Model Update, ICLR 2023, arXiv 2303.04766.

    Raises:
        TransformationError: if they do not fit together or hold NaN or infinite values.
    """

    layer: Dense
    middle: Float32[np.ndarray, " new"]

    def __post_init__(self) -> None:
        middle = as_weights(self.middle, "middle of a transformation", TransformationError)
        object.__setattr__(self, "middle", middle)
        layer, dim = self.layer, middle.size
        if layer.weight.shape != (1, dim) or layer.relu or middle.shape != (dim,):
            raise TransformationError(
                f"the uncertainty has a weight of shape {layer.weight.shape}, a middle of shape "
                f"{middle.shape}, and relu is {layer.relu}",
                f"give a weight of (1, {dim}), from a new vector to one number, a middle of "
                f"({dim},), and no relu",
            )
        if not all(np.isfinite(array).all() for array in self.arrays.values()):
            raise TransformationError(
                "the uncertainty holds NaN or infinite values, so the fit diverged",
                "fit again with a smaller learning rate",
            )

    def of(self, vectors: Float32[np.ndarray, "item new"]) -> Float32[np.ndarray, " item"]:
        """Return the number of each vector, computed in float64.

        A row's number is the same whatever rows stand beside it. It may be infinite.
        """
        rows = vectors.astype(np.float64)
        error = (rows * self.layer.weight[0]).sum(axis=1) + self.layer.bias[0]
        distance = ((rows - self.middle) ** 2).sum(axis=1)
        with np.errstate(over="ignore"):
            found: np.ndarray = (error - np.log(np.maximum(distance, NEAREST))).astype(np.float32)
        return found

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Weight, bias and middle by the names under which they are stored."""
        stored = self.layer.weight, self.layer.bias, self.middle
        return dict(zip(UNCERTAINTY, stored, strict=True))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Uncertainty":
        """Return what `arrays` gave.

        Raises:
            KeyError: if one is missing.
        """
        weight, bias, middle = (arrays[name] for name in UNCERTAINTY)
        return cls(Dense(weight, bias, relu=False), middle)


def arrays_of(
    steps: Sequence[Step], uncertainty: Uncertainty | None = None
) -> dict[str, np.ndarray]:
    """Return all weights and biases by name, such as `steps.0.old.1.weight`."""
    arrays: dict[str, np.ndarray] = {}
    for name, layer in layers_of(steps):
        arrays |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
    if uncertainty is not None:
        arrays |= uncertainty.arrays
    return arrays


def describe_steps(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return what `arrays_of` leaves out, as plain values: how the layers are put together."""

    def network(part: Network) -> dict[str, Any]:
        chains = {"old": part.old_branch, "side": part.side_branch, "mixer": part.mixer}
        return {"uses_side": part.uses_side} | {name: _describe(chains[name]) for name in chains}

    def described(step: Step) -> dict[str, Any]:
        if not step.is_format_1:
            return {"parts": [network(part) for part in step.parts]}
        first, *others = step.parts
        past = {SHORT_CUT: _describe(others[0].mixer)[0]} if others else {}
        return {**network(first), **past}

    return [described(step) for step in steps]


def rebuild_steps(
    described: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> tuple[Step, ...]:
    """Return the steps that `describe_steps` and `arrays_of` wrote.

    Raises:
        KeyError: if a part is missing.
    """

    def dense(name: str, layer: Mapping[str, Any]) -> Dense:
        return Dense(arrays[f"{name}.weight"], arrays[f"{name}.bias"], bool(layer["relu"]))

    def rebuilt(name: str, layer: Mapping[str, Any]) -> Layer:
        if "residual" not in layer:
            return dense(name, layer)
        inner = enumerate(layer["residual"])
        return Residual(tuple(dense(f"{name}.inner.{i}", each) for i, each in inner))

    def network(name: str, part: Mapping[str, Any]) -> Network:
        old, side, mixer = (
            tuple(rebuilt(f"{name}.{branch}.{i}", layer) for i, layer in enumerate(part[branch]))
            for branch in ("old", "side", "mixer")
        )
        return Network(old, side, mixer, bool(part["uses_side"]))

    def step(name: str, of: Mapping[str, Any]) -> Step:
        if "parts" in of:
            parts = enumerate(of["parts"])
            return Step(tuple(network(f"{name}.parts.{i}", part) for i, part in parts))
        first = network(name, of)
        if SHORT_CUT not in of:
            return Step((first,))
        past = dense(f"{name}.{SHORT_CUT}", of[SHORT_CUT])
        return Step((first, Network((), (), (past,), first.uses_side)))

    return tuple(step(f"steps.{number}", of) for number, of in enumerate(described))


def _describe(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    return [
        {"residual": _describe(layer.inner)}
        if isinstance(layer, Residual)
        else {"in": layer.weight.shape[1], "out": layer.weight.shape[0], "relu": layer.relu}
        for layer in layers
    ]


def write_graph(
    steps: Sequence[Step],
    inputs: Mapping[str, Space],
    new: Space,
    digest: str,
    uncertainty: Uncertainty | None = None,
) -> bytes:
    """Return a graph with the named inputs, one row an item, and the output "new".

    How unsure it is of a row is a second output, "uncertainty".
    The spaces stand in the graph's metadata as JSON (`onward.old`, `onward.side`, `onward.new`),
    the digest as `onward.digest`. Equal arguments give equal bytes.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def rows(name: str, dim: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["items", dim])

    nodes, outputs = _nodes(steps), [rows("new", new.dim)]
    constants = arrays_of(steps, uncertainty)
    if uncertainty is not None:
        nodes += _uncertainty_nodes()
        outputs.append(rows("uncertainty", 1))
        constants["uncertainty.nearest"] = np.array(NEAREST, np.float32)
        constants["uncertainty.axes"] = np.array([1], np.int64)
    graph = helper.make_graph(
        nodes,
        "transformation",
        [rows(name, space.dim) for name, space in inputs.items()],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", ONNX_OPSET)]
    model = helper.make_model(
        graph, producer_name="onward", opset_imports=opsets, ir_version=ONNX_IR_VERSION
    )
    spaces = {f"onward.{name}": json.dumps(of.to_json()) for name, of in inputs.items()}
    new_space = {"onward.new": json.dumps(new.to_json())}
    helper.set_model_props(model, {**spaces, **new_space, "onward.digest": digest})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _uncertainty_nodes() -> list[Any]:
    """Return what makes "uncertainty" of "new"; see `Uncertainty`."""
    from onnx import helper

    weight, bias, middle = UNCERTAINTY
    name = "uncertainty.{}".format
    distances = [name("squared"), name("axes")]
    return [
        helper.make_node("Gemm", ["new", weight, bias], [name("error")], transB=1),
        helper.make_node("Sub", ["new", middle], [name("from_middle")]),
        helper.make_node("Mul", [name("from_middle")] * 2, [name("squared")]),
        helper.make_node("ReduceSum", distances, [name("distance")], keepdims=1),
        helper.make_node("Max", [name("distance"), name("nearest")], [name("above_zero")]),
        helper.make_node("Log", [name("above_zero")], [name("log_distance")]),
        helper.make_node("Sub", [name("error"), name("log_distance")], ["uncertainty"]),
    ]


def open_session(graph: bytes) -> Any:
    """Return an onnxruntime session on all cores; its threads sleep while they have no work."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Waiting threads would otherwise burn the cores that read and write the gallery (cost: 3 %).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run_in_blocks(session: Any, inputs: Mapping[str, Rows32], new_dim: int) -> Rows32:
    """Return the output "new" for every row; memory beyond it is bounded by a block.

    Args:
        session: what `open_session` gave.
        inputs: arrays of as many rows each, by the names of the graph's inputs.
        new_dim: how many numbers a row of the output has.
    """
    new = np.empty((len(inputs["old"]), new_dim), np.float32)
    for start in range(0, len(new), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        fed = {}
        for name, array in inputs.items():
            fed[name] = np.zeros((BLOCK_ROWS, array.shape[1]), np.float32)
            fed[name][: len(array[rows])] = array[rows]
        (given,) = session.run(["new"], fed)
        new[rows] = given[: len(new[rows])]
    return new


def _nodes(steps: Sequence[Step]) -> list[Any]:
    from onnx import helper

    nodes: list[Any] = []

    def add(operator: str, fed: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, fed, [name], **attributes))
        return name

    def dense(name: str, layer: Dense, value: str) -> str:
        given = add("Gemm", [value, f"{name}.weight", f"{name}.bias"], name, transB=1)
        return add("Relu", [given], f"{given}.relu") if layer.relu else given

    current = walk(
        steps,
        "old",
        "side",
        dense=dense,
        add=lambda name, *both: add("Add", [*both], name),
        join=lambda name, *both: add("Concat", [*both], name, axis=1),
    )
    nodes.append(helper.make_node("Identity", [current], ["new"]))
    return nodes
