"""ONNX encoders of grey images of 8 px that keep their weights in every place that ONNX has."""

import os
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onward.models import EmbeddingModel, InputSpec

GREY = InputSpec(size=8, channels=1, mean=(0.5,), std=(0.25,))
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)

PLACES = {
    "initializer": lambda model: model.graph.initializer[0],
    "constant": lambda model: model.graph.node[1].attribute[0].t,
    "then-branch": lambda model: model.graph.node[4].attribute[1].g.initializer[0],
    "else-branch": lambda model: model.graph.node[4].attribute[0].g.node[0].attribute[0].t,
    "function": lambda model: model.functions[0].node[0].attribute[0].t,
    "sparse-values": lambda model: model.graph.sparse_initializer[0].values,
    "sparse-indices": lambda model: model.graph.sparse_initializer[0].indices,
}
"""Where weights are, and the tensor that is there."""


def encoder(seed=0, scale=1.0):
    """Mean and scaled mean of an image's pixels, and a constant from each place: 3 numbers."""
    values = np.random.default_rng(seed).normal(size=(6, 3)).astype(np.float32)
    weights, constant, then, otherwise, inner, sparse = values * np.float32(scale)

    def vector(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    def branch(name, node, initializers=()):
        return helper.make_graph([node], name, [], [vector(name)], list(initializers))

    then_branch = branch(
        "then", helper.make_node("Identity", ["t"], ["then"]), [numpy_helper.from_array(then, "t")]
    )
    else_branch = branch(
        "else",
        helper.make_node("Constant", [], ["else"], value=numpy_helper.from_array(otherwise, "e")),
    )
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(constant, "c")),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
        helper.make_node("Constant", [], ["is_true"], value=helper.make_tensor("b", 9, [], [True])),
        helper.make_node(
            "If", ["is_true"], ["chosen"], then_branch=then_branch, else_branch=else_branch
        ),
        helper.make_node("MatMul", ["mean", "w"], ["scaled"]),
        helper.make_node("AddInner", ["scaled"], ["more"], domain="own"),
        helper.make_node("Sum", ["more", "c", "chosen", "s"], ["vectors"]),
    ]
    function = helper.make_function(
        "own",
        "AddInner",
        ["x"],
        ["y"],
        [
            helper.make_node("Constant", [], ["i"], value=numpy_helper.from_array(inner, "i")),
            helper.make_node("Add", ["x", "i"], ["y"]),
        ],
        [helper.make_opsetid("", 18)],
    )
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights[None], "w")],
        sparse_initializer=[
            helper.make_sparse_tensor(
                numpy_helper.from_array(sparse[:2], "s"),
                numpy_helper.from_array(np.array([0, 2]), "at"),
                [3],
            )
        ],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function])


def write_inline(model, path):
    Path(path).write_bytes(model.SerializeToString(deterministic=True))
    return path


def write_beside(model, path, places=tuple(PLACES), *, together=True, offset=0):
    """Write a model with the weights of some places in files beside it, as the standard says."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for number, place in enumerate(places):
        tensor = PLACES[place](copy)
        file = f"{path.name}.data" if together else f"{path.name}.{number}"
        content = numpy_helper.to_array(tensor).tobytes()
        at = refer(tensor, path.with_name(file), offset, content)
        assert at >= 0
    return write_inline(copy, path)


def refer(tensor, file, least, content):
    """Append content to a file, at an offset of at least so many bytes, and let a tensor say so."""
    with file.open("ab") as opened:
        if opened.tell() < least:
            opened.write(os.urandom(least - opened.tell()))
        offset = opened.tell()
        opened.write(content)
    say(tensor, location=file.name, offset=offset, length=len(content))
    return offset


def say(tensor, **words):
    """Let a tensor say that its numbers are elsewhere."""
    for field in ("raw_data", "float_data", "int64_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in words.items():
        tensor.external_data.add(key=key, value=str(value))


def parse(text):
    """The ONNX model of a graph that is written out."""
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {text}')


def save_projection(path, name, weight):
    """Write a model that projects the pixels of a digit, as ONNX and as a model; return it."""
    projection = parse(
        f"projection (float[n,1,8,8] images) => (float[n,{weight.shape[1]}] vectors) "
        "{ flat = Flatten (images) vectors = MatMul (flat, weight) }"
    )
    weights = numpy_helper.from_array(weight.astype(np.float32), "weight")
    projection.graph.initializer.append(weights)
    onnx.save(projection, path / f"{name}.onnx")
    grey = InputSpec(size=8, channels=1, mean=(0.5,), std=(0.5,))
    model = EmbeddingModel.from_onnx(path / f"{name}.onnx", name=name, input=grey)
    model.save(path / name)
    return model
