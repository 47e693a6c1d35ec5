"""Two models that differ in anything that makes vectors have two spaces, however they are made.

The ways: trained, a timm model, ONNX with its weights inside or beside it, a callable with a
declared digest. For each, every thing that makes its vectors is changed by itself.
"""

from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from encoders import GREY, PIXELS, PLACES, encoder, write_beside, write_inline
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onward.artifacts import digest
from onward.data import open_items
from onward.data.images import to_pixels
from onward.errors import ModelError
from onward.models import EmbeddingModel, InputSpec, LayersReadout
from onward.models.files import mint
from onward.nn.backbones import BackboneSpec, build_backbone
from onward.quantisation import Quantisation
from onward.training.image_models import train_model
from onward.training.settings import RunSettings, TrainingSettings

SMALL = BackboneSpec(size=8, channels=1, width=2, dim=3)
TIMM = BackboneSpec(name="timm:test_vit", size=32, channels=1, dim=3)

COLOUR = SMALL.model_copy(update={"channels": 3})
COLOURED = InputSpec(8, 3, (0.5,) * 3, (0.25,) * 3)

INPUTS = {
    "mean": {"mean": (0.5 + 2**-20,)},
    "std": {"std": (0.25 + 2**-20,)},
    "mean-and-std": {"mean": (0.25,), "std": (0.5,)},
    "crop": {"crop_share": 0.875},
}


def numbered(spec):
    """A backbone whose weights are the same whatever torch draws."""
    backbone = build_backbone(spec)
    with torch.no_grad():
        for weights in backbone.state_dict().values():
            weights.copy_(((torch.arange(weights.numel()) % 7 + 1) / 10).reshape(weights.shape))
    return backbone


def of_backbone(spec=SMALL, backbone=None, **settings):
    settings = {"name": "old", "input": replace(GREY, size=spec.size)} | settings
    return EmbeddingModel.of_backbone(backbone or numbered(spec), spec, **settings)


def flip(array, byte):
    """The array with one bit of one of its bytes the other way."""
    flipped = bytearray(array.tobytes())
    flipped[byte] ^= 1
    return np.frombuffer(bytes(flipped), array.dtype).reshape(array.shape)


def vectors_of(model):
    size = model.input.size
    pixels = np.kron(PIXELS, np.ones((1, 1, size // 8, size // 8), np.uint8))
    return model.pixel_embedder()(np.repeat(pixels, model.input.channels, axis=1))[0]


# what names are made of has not changed: galleries and artefacts carry them


def readout_of(model, grid=2, chosen=None, seed=None):
    stages = model.stage_channels if chosen is None else [model.stage_channels[n] for n in chosen]
    total = sum(stages) * grid**2
    components = np.eye(2, total, dtype=np.float32)
    if seed is not None:
        components += np.random.default_rng(seed).normal(size=(2, total)).astype(np.float32)
    zeros, ones = np.zeros(total, np.float32), np.ones(total, np.float32)
    return LayersReadout(grid, model.stage_channels, zeros, ones, components, chosen)


def test_names_are_what_they_were_in_earlier_versions(tmp_path):
    model = of_backbone()
    assert model.space.name == "old@c4ab8c3e"
    readout = readout_of(model)
    side = model.with_layers(readout).side
    assert side.name == "old-layers@48135df8"
    assert model.with_layers(readout_of(model, 1, (1,))).side.name == "old-layers@f3f03bf4"
    scale = np.float32([0.5, 0.25])
    half, codes = Quantisation(side, "float16"), Quantisation(side, "int8", scale)
    names = [model.with_layers(replace(readout, quantisation=q)).side.name for q in (half, codes)]
    assert names == ["old-layers-float16@817afb3d", "old-layers-int8@adc889eb"]
    weights = np.arange(128, dtype=np.float32).reshape(64, 2)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["vec"]),
        ],
        "enc",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("vec", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 18)]
    file = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="x")
    path = write_inline(file, tmp_path / "a.onnx")
    assert EmbeddingModel.from_onnx(path, name="old", input=GREY).space.name == "old@75160fe3"
    assert EmbeddingModel.from_callable(len, name="old", dim=2, input=GREY).space.name == "old"


def test_what_images_become_is_what_it_was_in_earlier_versions():
    rows, columns = np.mgrid[:20, :30]
    grey = Image.fromarray(((rows * 31 + columns * columns * 7) % 256).astype(np.uint8))
    made = [to_pixels(grey, size, channels) for size in (8, 20, 33) for channels in (1, 3)]
    assert digest(*(pixels.tobytes() for pixels in made))[:16] == "0bb2de03857155fa"


# backbones


@pytest.mark.slow
def test_one_byte_of_any_weight_of_a_backbone_makes_another_space():
    model = of_backbone()
    arrays = model.engine.content()[0]
    names = {model.space.name}
    for name, array in arrays.items():
        changed = {**arrays, name: flip(array, array.nbytes // 2)}
        names.add(mint("old", type(model.engine).of_arrays(SMALL, changed), GREY))
    assert len(names) == 1 + len(arrays)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"spec": SMALL.model_copy(update=update)}, id="-".join(update))
        for update in ({"width": 4}, {"blocks": 2}, {"dim": 4}, {"size": 16})
    ]
    + [pytest.param({"input": replace(GREY, **change)}, id=name) for name, change in INPUTS.items()]
    + [pytest.param({"metric": "cosine"}, id="metric")]
    + [pytest.param({"spec": COLOUR, "input": COLOURED}, id="channels")],
)
def test_one_change_of_a_backbone_makes_another_space(changed):
    assert of_backbone().space == of_backbone().space != of_backbone(**changed).space


@pytest.mark.slow
def test_two_trainings_that_differ_in_anything_have_two_spaces():
    items = open_items("digits").select(range(40))
    settings = TrainingSettings(epochs=1, batch_size=20, flip=False)

    def trained(spec=SMALL, settings=settings, **given):
        given = {"images": items, "backbone": spec, "input": GREY, "name": "old"} | given
        return train_model(**given, settings=settings, run=RunSettings(device="cpu"))

    others = [
        trained(seed=1),
        trained(images=items.select(range(39))),
        trained(input=replace(GREY, mean=(0.4,))),
        trained(metric="cosine"),
    ]
    model = trained()
    assert trained().space == model.space
    assert len({model.space, *(other.space for other in others)}) == 1 + len(others)


@pytest.mark.slow
def test_a_timm_model_is_named_by_its_weights_architecture_and_input():
    model = of_backbone(TIMM)
    arrays = model.engine.content()[0]
    names = {model.space.name}
    for name in (min(arrays), max(arrays)):
        changed = {**arrays, name: flip(arrays[name], 0)}
        names.add(mint("old", type(model.engine).of_arrays(TIMM, changed), model.input))
    for change in INPUTS.values():
        names.add(of_backbone(TIMM, input=replace(GREY, size=32, **change)).space.name)
    for update in ({"name": "timm:test_vit2"}, {"dim": None}, {"size": 64}):
        names.add(of_backbone(TIMM.model_copy(update=update)).space.name)
    assert len(names) == 1 + 2 + len(INPUTS) + 3


@pytest.mark.parametrize("spec", [SMALL, TIMM], ids=["small-resnet", "timm"])
def test_a_backbone_that_was_changed_since_it_was_built_is_refused(spec):
    backbone = numbered(spec)
    backbone.projection.register_forward_hook(lambda _, __, output: output * 2)
    with pytest.raises(ModelError, match=r"not what its spec builds: with the same weights it giv"):
        of_backbone(spec, backbone)
    backbone = numbered(spec)
    backbone.projection = torch.nn.Sequential(backbone.projection, torch.nn.Linear(3, 3))
    with pytest.raises(ModelError, match="not what its spec builds: the weights are not those of"):
        of_backbone(spec, backbone)


def test_a_stage_that_was_changed_since_the_backbone_was_built_is_refused():
    backbone = numbered(SMALL)
    backbone.residual_stages[1][0].short_cut = torch.nn.Sequential(
        *backbone.residual_stages[1][0].short_cut, torch.nn.Tanh()
    )
    with pytest.raises(ModelError, match="not what its spec builds"):
        of_backbone(backbone=backbone)


def test_a_change_too_small_to_be_refused_is_in_no_vector(tmp_path):
    backbone = numbered(SMALL)
    backbone.stem[1].eps *= 1.5
    model = of_backbone(backbone=backbone)
    model.save(tmp_path / "model")
    assert model.space == of_backbone().space
    for other in (of_backbone(), EmbeddingModel.load(tmp_path / "model")):
        np.testing.assert_array_equal(vectors_of(model), vectors_of(other))


# precision


def test_a_backbone_computes_in_float32_whatever_the_program_around_does():
    model = of_backbone(backbone=build_backbone(SMALL))
    expected = vectors_of(model)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            np.testing.assert_array_equal(vectors_of(model), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_products_are_not_rounded_to_tf32_while_a_backbone_runs(monkeypatch):
    model, seen = of_backbone(), []
    forward = type(model.engine.backbone).forward

    def watched(self, images):
        flags = torch.backends.cudnn.conv, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
        seen.append([flag.fp32_precision for flag in flags])
        return forward(self, images)

    monkeypatch.setattr(type(model.engine.backbone), "forward", watched)
    before = torch.backends.cudnn.conv.fp32_precision
    vectors_of(model)
    assert seen == [["ieee"] * 3]
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_weights_that_were_rounded_to_bfloat16_make_another_space():
    rounded = numbered(SMALL).to(torch.bfloat16)
    assert of_backbone(backbone=rounded).space != of_backbone().space


# side-information of kind layers


LAYERS = {
    "grid": lambda m: readout_of(m, grid=1),
    "chosen": lambda m: readout_of(m, chosen=(1, 2)),
    "other-chosen": lambda m: readout_of(m, chosen=(2, 3)),
    "mean": lambda m: replace(readout_of(m), mean=flip(readout_of(m).mean, 1)),
    "scale": lambda m: replace(readout_of(m), scale=flip(readout_of(m).scale, 0)),
    "components": lambda m: replace(readout_of(m), components=flip(readout_of(m).components, -2)),
    "dim": lambda m: replace(readout_of(m), components=readout_of(m).components[:1]),
}


@pytest.mark.parametrize("change", LAYERS)
def test_one_change_of_a_read_out_makes_another_side_space(change):
    model = of_backbone()
    sides = [model.with_layers(one).side for one in (readout_of(model), LAYERS[change](model))]
    assert sides[0] != sides[1]
    assert sides[0].name != sides[1].name


def test_the_model_and_the_quantisation_are_in_the_name_of_the_side_space():
    model = of_backbone()
    side = model.with_layers(readout_of(model)).side
    scale = np.float32([0.5, 0.25])
    quantisations = [
        None,
        Quantisation(side, "float16"),
        Quantisation(side, "int8", scale),
        Quantisation(side, "int8", flip(scale, 0)),
        Quantisation(side, "int8", flip(scale, 4)),
    ]
    names = {
        model.with_layers(replace(readout_of(model), quantisation=one)).side.name
        for one in quantisations
    }
    for change in INPUTS.values():
        other = of_backbone(input=replace(GREY, **change))
        names.add(other.with_layers(readout_of(other)).side.name)
    assert len(names) == len(quantisations) + len(INPUTS)


# ONNX files


def from_onnx(path, **settings):
    return EmbeddingModel.from_onnx(path, **({"name": "old", "input": GREY} | settings))


@pytest.mark.parametrize("beside", [False, True], ids=["inline", "external"])
@pytest.mark.parametrize("place", PLACES)
def test_one_byte_of_any_weight_of_an_onnx_file_makes_another_space(tmp_path, place, beside):
    spaces, vectors = set(), list[np.ndarray]()
    content = numpy_helper.to_array(PLACES[place](encoder()))
    bytes_ = [0] if place == "sparse-indices" else range(content.nbytes)
    for byte in (None, *bytes_):
        model = encoder()
        changed = content if byte is None else flip(content, byte)
        PLACES[place](model).CopyFrom(numpy_helper.from_array(changed, PLACES[place](model).name))
        folder = tmp_path / str(byte)
        folder.mkdir()
        path = folder / "encoder.onnx"
        written = write_beside(model, path, [place]) if beside else write_inline(model, path)
        made = from_onnx(written)
        spaces.add(made.space)
        vectors.append(vectors_of(made))
    assert len(spaces) == 1 + len(bytes_)
    changes = [not np.array_equal(vectors[0], one) for one in vectors[1:]]
    assert any(changes) == (place != "else-branch")


@pytest.mark.parametrize("change", INPUTS)
@pytest.mark.parametrize("write", [write_inline, write_beside], ids=["inline", "external"])
def test_the_input_of_an_onnx_file_is_in_the_name_of_its_space(tmp_path, write, change):
    path = write(encoder(), tmp_path / "encoder.onnx")
    changed = from_onnx(path, input=replace(GREY, **INPUTS[change]))
    assert from_onnx(path).space == from_onnx(path).space != changed.space
    assert from_onnx(path, metric="cosine").space != from_onnx(path).space


def pool_size(model):
    model.graph.node[0].op_type = "GlobalMaxPool"


def first_output(model):
    outputs = model.graph.output
    outputs[0].name = "more"
    outputs.append(helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", 3]))


def attribute(model):
    model.graph.node[2].attribute.append(helper.make_attribute("axis", 1))


def opset(model):
    model.opset_import[0].version = 17


@pytest.mark.parametrize("change", [pool_size, first_output, attribute, opset])
@pytest.mark.parametrize("write", [write_inline, write_beside], ids=["inline", "external"])
def test_the_graph_of_an_onnx_file_is_in_the_name_of_its_space(tmp_path, write, change):
    changed = encoder()
    change(changed)
    (tmp_path / "changed").mkdir()
    other = write(changed, tmp_path / "changed" / "encoder.onnx")
    assert from_onnx(write(encoder(), tmp_path / "encoder.onnx")).space != from_onnx(other).space


def test_the_size_and_channels_that_an_onnx_file_of_any_is_given_are_in_the_name(tmp_path):
    model = encoder()
    for axis in (1, 2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"any{axis}"
    weights = numpy_helper.from_array(np.ones((1, 3), np.float32), "w")
    model.graph.initializer[0].CopyFrom(weights)
    model.graph.node[0].CopyFrom(helper.make_node("ReduceMean", ["image"], ["pooled"]))
    path = write_inline(model, tmp_path / "any.onnx")
    inputs = [GREY, replace(GREY, size=16), COLOURED]
    assert len({from_onnx(path, input=one).space for one in inputs}) == 3


def test_the_same_weights_in_one_file_or_in_many_make_the_same_space(tmp_path):
    model = encoder()
    made = [from_onnx(write_inline(model, tmp_path / "inline.onnx"))]
    for together in (False, True):
        folder = tmp_path / str(together)
        folder.mkdir()
        made.append(from_onnx(write_beside(model, folder / "any.onnx", together=together)))
    assert len({one.space for one in made}) == 1
    for one in made:
        np.testing.assert_array_equal(vectors_of(one), vectors_of(made[0]))


# callables


def test_a_declared_digest_and_the_input_are_in_the_name_of_a_callable_s_space():
    def made(digest="sha256:0a", **settings):
        settings = {"name": "old", "dim": 2, "input": GREY} | settings
        return EmbeddingModel.from_callable(np.ones, digest=digest, **settings)

    model = made()
    assert model.space.name == f"old@{model.fingerprint}"
    assert model.name == "old"
    others = [
        made("sha256:0b"),
        made("sha256:0a "),
        made(input=replace(GREY, size=9)),
        made(input=COLOURED),
        made(dim=3),
        made(metric="cosine"),
        made(name="older"),
        *(made(input=replace(GREY, **change)) for change in INPUTS.values()),
    ]
    assert made().space == model.space
    assert len({model.space, *(other.space for other in others)}) == 1 + len(others)


def test_a_callable_s_digest_that_says_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    for empty in ("", " ", 5):
        with pytest.raises(ModelError, match=rf"digest of a callable is {empty!r}; give text that"):
            EmbeddingModel.from_callable(len, name="old", dim=2, input=GREY, digest=empty)
    with pytest.raises(ModelError, match="cannot be called 'old@1'; give a name without '@'"):
        EmbeddingModel.from_callable(len, name="old@1", dim=2, input=GREY, digest="1")


# a model that is put together by hand


@pytest.mark.parametrize("way", ["backbone", "onnx", "callable"])
def test_a_model_cannot_keep_its_space_and_get_another_input_or_engine(tmp_path, way):
    path = write_inline(encoder(), tmp_path / "encoder.onnx")
    other = write_inline(encoder(1), tmp_path / "other.onnx")
    declared = {"name": "old", "dim": 2, "input": GREY}
    model, another = {
        "backbone": lambda: (of_backbone(), of_backbone(backbone=build_backbone(SMALL))),
        "onnx": lambda: (from_onnx(path), from_onnx(other)),
        "callable": lambda: tuple(
            EmbeddingModel.from_callable(np.ones, digest=digest, **declared) for digest in "ab"
        ),
    }[way]()
    words = rf"{model.space.name} is not the space of this model, whose weights and input make it"
    with pytest.raises(ModelError, match=words):
        replace(model, input=replace(GREY, mean=(0.4,)))
    with pytest.raises(ModelError, match=words):
        replace(model, engine=another.engine)


def test_an_onnx_model_normalises_as_its_own_input_says(tmp_path):
    path = write_inline(encoder(), tmp_path / "encoder.onnx")
    model, other = from_onnx(path), from_onnx(path, input=replace(GREY, mean=(0.1,)))
    mixed = EmbeddingModel(other.space, other.input, model.engine)
    np.testing.assert_array_equal(vectors_of(mixed), vectors_of(other))
