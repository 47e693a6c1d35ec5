"""Steps as an ONNX graph, run the same for any batching; apart, as layers need no onnxruntime.

A matrix product may add up in another order when it is given another number of rows, and then the
last bits of a row depend on its neighbours. So rows are run in blocks of one fixed size, the last
one padded. onnx and onnxruntime are imported when they are needed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from onward.errors import TransformationError
from onward.spaces import Space
from onward.transformation.networks import (
    NEAREST,
    UNCERTAINTY,
    Dense,
    Step,
    Uncertainty,
    arrays_of,
    walk,
)

ONNX_OPSET = 13
ONNX_IR_VERSION = 7  # the one that came with opset 13: read by every runtime since 2020
BLOCK_ROWS = 256  # 3 % slower than the fastest size, and a lone row costs a few milliseconds

Rows = Float32[np.ndarray, "item _"]


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


def run_in_blocks(
    session: Any,
    inputs: Mapping[str, Rows],
    new_dim: int,
    name_row: Callable[[int], str] | None,
) -> Rows:
    """Return the output "new" for every row; memory beyond it is bounded by a block.

    Args:
        session: what `open_session` gave.
        inputs: arrays of as many rows each, by the names of the graph's inputs.
        new_dim: how many numbers a row of the output has.
        name_row: what an error calls a row; None to give rows with NaN or infinite values too.

    Raises:
        TransformationError: naming the first row with NaN or infinite values, in or out.
    """
    items = len(inputs["old"])
    new = np.empty((items, new_dim), np.float32)
    for start in range(0, items, BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, items))
        fed = {name: _block(array[rows]) for name, array in inputs.items()}
        (given,) = session.run(["new"], fed)
        new[rows] = given[: rows.stop - start]
        for name, array in {**inputs, "new": new}.items():
            finite = np.isfinite(array[rows]).all(axis=1)
            if name_row is not None and not finite.all():
                row = name_row(start + int(np.argmin(finite)))
                why = ", being made from what is far out of range" if name == "new" else ""
                raise TransformationError(
                    f"the {name} vector of {row} has NaN or infinite values{why}",
                    "leave the item out, or embed it with the new model",
                )
    return new


def _block(rows: np.ndarray) -> Rows:
    """Return the rows as one contiguous block, padded with zeros."""
    if len(rows) == BLOCK_ROWS:
        return np.ascontiguousarray(rows, dtype=np.float32)
    block = np.zeros((BLOCK_ROWS, rows.shape[1]), np.float32)
    block[: len(rows)] = rows
    return block


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
