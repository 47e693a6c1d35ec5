"""ONNX files whose weights lie beside them: whole wherever they are read, or refused by name."""

import os
import shutil

import numpy as np
import onnx
import pytest
from encoders import GREY, PIXELS, PLACES, encoder, parse, say, write_beside, write_inline
from onnx import TensorProto, helper, numpy_helper

from onward.artifacts import read_artifact
from onward.errors import ArtifactError, ModelError
from onward.models import EmbeddingModel
from onward.models.onnx import read_onnx


def load(path, **settings):
    return EmbeddingModel.from_onnx(path, **({"name": "old", "input": GREY} | settings))


def vectors_of(model):
    return model.pixel_embedder()(PIXELS)[0]


def expected(seed=0):
    """The vectors, by hand: the weights of all places but the branch that is not taken."""
    values = np.random.default_rng(seed).normal(size=(6, 3)).astype(np.float32)
    weights, constant, then, _, inner, sparse = values
    mean = GREY.normalise(PIXELS).mean(axis=(1, 2, 3))[:, None]
    return mean * weights + constant + then + inner + sparse * (1, 0, 0) + (0, 0, sparse[1])


@pytest.mark.parametrize("place", [*PLACES, "all"])
def test_weights_beside_the_file_are_read_from_wherever_the_graph_names_them(tmp_path, place):
    places = list(PLACES) if place == "all" else [place]
    path = write_beside(encoder(), tmp_path / "encoder.onnx", places)
    np.testing.assert_allclose(vectors_of(load(path)), expected(), rtol=1e-4, atol=1e-5)


def test_what_the_standard_s_own_writer_leaves_beside_a_file_is_read(tmp_path):
    path = tmp_path / "encoder.onnx"
    onnx.save_model(
        encoder(),
        path,
        save_as_external_data=True,
        location="encoder.onnx.data",
        size_threshold=0,
        convert_attribute=True,
    )
    assert path.stat().st_size < len(encoder().SerializeToString()) + 1000
    np.testing.assert_allclose(vectors_of(load(path)), expected(), rtol=1e-4, atol=1e-5)


def test_weights_in_several_files_and_in_folders_below_are_read(tmp_path):
    path = write_beside(encoder(), tmp_path / "encoder.onnx", together=False)
    model = onnx.load(path, load_external_data=False)
    (tmp_path / "weights").mkdir()
    (tmp_path / "encoder.onnx.0").rename(tmp_path / "weights" / "first.bin")
    say(PLACES["initializer"](model), location="weights/first.bin", offset=0, length=12)
    write_inline(model, path)
    assert len(list(tmp_path.iterdir())) == len(PLACES) + 1
    np.testing.assert_allclose(vectors_of(load(path)), expected(), rtol=1e-4, atol=1e-5)


def test_an_offset_is_that_of_the_tensor_and_a_length_may_be_left_out(tmp_path):
    path = write_beside(encoder(), tmp_path / "encoder.onnx", offset=4096)
    model = onnx.load(path, load_external_data=False)
    say(PLACES["initializer"](model), location="encoder.onnx.data", offset=4096)
    write_inline(model, path)
    np.testing.assert_allclose(vectors_of(load(path)), expected(), rtol=1e-4, atol=1e-5)


def test_the_working_directory_never_matters(tmp_path, monkeypatch):
    """Weights of the same name lie in it: those of another model, or shorter ones, or none."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, seed in ((here, 0), (there, 1)):
        folder.mkdir()
        write_beside(encoder(seed), folder / "encoder.onnx")
    monkeypatch.chdir(there)
    model = load(here / "encoder.onnx")
    model.save(tmp_path / "model")
    shutil.rmtree(here)
    monkeypatch.chdir(there)
    for made in (model, EmbeddingModel.load(tmp_path / "model")):
        np.testing.assert_allclose(vectors_of(made), expected(0), rtol=1e-4, atol=1e-5)
    own = load("encoder.onnx")
    np.testing.assert_allclose(vectors_of(own), expected(1), rtol=1e-4, atol=1e-5)
    assert own.space != model.space


def test_a_saved_model_holds_its_weights_in_one_file_and_gives_the_same(tmp_path):
    model = load(write_beside(encoder(), tmp_path / "encoder.onnx", together=False))
    model.save(tmp_path / "model")
    files = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert files == ["README.md", "config.json", "model.onnx", "model.safetensors"]
    again = EmbeddingModel.load(tmp_path / "model")
    assert (again.space, again.to_json()) == (model.space, model.to_json())
    np.testing.assert_array_equal(vectors_of(again), vectors_of(model))
    assert load(tmp_path / "model" / "model.onnx").space == model.space


# larger than one graph can be: the large weights stay apart


def wide(seed=0, columns=40):
    """Pixels times a matrix, and times another of float16, of which a graph is made as one file."""
    generator = np.random.default_rng(seed)
    wide, half = generator.normal(size=(2, 64, columns)).astype(np.float32)
    model = parse(f"""wide (float[n,1,8,8] image) => (float[n,{columns}] vectors)
        <int64[2] shape = {{-1, 64}}> {{
            flat = Reshape (image, shape)
            one = MatMul (flat, wide)
            single = Cast <to = 1> (half)
            other = MatMul (flat, single)
            vectors = Add (one, other)
        }}""")
    for name, array in (("wide", wide), ("half", half.astype(np.float16))):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def write_wide(path, seed=0):
    onnx.save_model(
        wide(seed), path, save_as_external_data=True, location="weights", size_threshold=0
    )
    return path


@pytest.fixture
def small_graphs(monkeypatch):
    """No graph may be larger than 4 kB, as none may be larger than 2 GiB."""
    monkeypatch.setattr("onward.models.onnx.LARGEST_GRAPH", 4096)
    monkeypatch.setattr("onward.models.onnx.LEAST_APART", 1024)


@pytest.mark.usefixtures("small_graphs")
def test_weights_too_large_for_one_graph_are_kept_in_one_file_beside_it(tmp_path, monkeypatch):
    inline = load(write_inline(wide(), tmp_path / "inline.onnx"))
    model = load(write_wide(tmp_path / "wide.onnx"))
    np.testing.assert_array_equal(vectors_of(model), vectors_of(inline))
    model.save(tmp_path / "model")
    saved = read_artifact(tmp_path / "model", "embedding-model")
    assert {name: len(content) for name, content in saved.files.items()} == {
        "model.onnx": len(model.engine.model.graph),
        "model.onnx.data": 64 * 40 * (4 + 2),
    }
    assert len(model.engine.model.graph) < 1024
    assert "runs by | onnxruntime, `model.onnx` and `model.onnx.data`" in saved.card
    other = load(write_wide(tmp_path / "other.onnx", seed=1))
    other.save(tmp_path / "other")
    monkeypatch.chdir(tmp_path / "other")  # where other weights bear the same name
    again = EmbeddingModel.load(tmp_path / "model")
    assert again.space == model.space != other.space
    np.testing.assert_array_equal(vectors_of(again), vectors_of(inline))
    assert not np.array_equal(vectors_of(other), vectors_of(inline))


@pytest.mark.usefixtures("small_graphs")
def test_one_byte_of_weights_that_are_kept_apart_makes_another_space(tmp_path):
    path = write_wide(tmp_path / "wide.onnx")
    content = bytearray((tmp_path / "weights").read_bytes())
    spaces = {load(path).space}
    for byte in (20, 5000, len(content) - 1):
        content[byte] ^= 1
        (tmp_path / "weights").write_bytes(content)
        spaces.add(load(path).space)
    assert len(spaces) == 4


@pytest.mark.usefixtures("small_graphs")
def test_other_tools_find_the_weights_of_a_saved_model_that_are_kept_apart(tmp_path):
    load(write_wide(tmp_path / "wide.onnx")).save(tmp_path / "model")
    read = onnx.load(tmp_path / "model" / "model.onnx")
    for tensor, original in zip(read.graph.initializer, wide().graph.initializer, strict=True):
        np.testing.assert_array_equal(
            numpy_helper.to_array(tensor), numpy_helper.to_array(original)
        )
    again = load(tmp_path / "model" / "model.onnx")
    assert again.space == EmbeddingModel.load(tmp_path / "model").space


@pytest.mark.usefixtures("small_graphs")
def test_weights_that_fit_neither_into_the_graph_nor_apart_are_refused(tmp_path, monkeypatch):
    path = write_wide(tmp_path / "wide.onnx")
    monkeypatch.setattr("onward.models.onnx.LEAST_APART", 2**20)
    words = r"so many small or unusual weights that they make no graph of less than 2 GiB"
    with pytest.raises(ModelError, match=words):
        load(path)


# what is refused


def test_an_earlier_artefact_without_its_weights_is_refused_and_says_what_to_do(
    tmp_path, monkeypatch
):
    path = write_beside(encoder(), tmp_path / "encoder.onnx")
    model = load(path)
    object.__setattr__(model.engine.model, "graph", path.read_bytes())
    model.save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)  # where the weights are
    words = (
        r"model holds a model that cannot be run: the graph keeps the weights '\w+' in another "
        r"file, 'encoder.onnx.data', and what that held is not here. Make the model from the orig"
    )
    with pytest.raises(ArtifactError, match=words):
        EmbeddingModel.load(tmp_path / "model")


def broken(tmp_path, **words):
    """A file whose first weights are said to be elsewhere, by these words."""
    path = write_beside(encoder(), tmp_path / "encoder.onnx", [])
    model = encoder()
    say(PLACES["initializer"](model), **words)
    return write_inline(model, path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda data: None, r"\(No such file or directory\)", id="missing"),
        pytest.param(lambda data: data.mkdir(), r"\(it is not a file\)", id="folder"),
        pytest.param(os.mkfifo, r"\(it is not a file\)", id="pipe"),
        pytest.param(lambda data: data.symlink_to(data), r"\(.*(loop|links)", id="ring"),
        pytest.param(
            lambda data: data.write_bytes(bytes(20)), r"it has 20 bytes; they are \d+ fr", id="cut"
        ),
    ],
)
def test_weights_that_cannot_be_read_are_named_with_their_file(tmp_path, spoil, words):
    path = write_beside(encoder(), tmp_path / "encoder.onnx")
    (tmp_path / "encoder.onnx.data").unlink()
    spoil(tmp_path / "encoder.onnx.data")
    words = rf"{path} keeps the weights '\w+' in 'encoder.onnx.data', and that .*{words}"
    with pytest.raises(ModelError, match=words + ".*; put the file that it was exported with be"):
        load(path)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"offset": 4, "length": 12}, "it has 12 bytes; they are 12 from 4 on"),
        ({"offset": 10**30}, "it has 12 bytes; they are 12 from 1000"),
        ({"offset": -1}, "at offset -1 of 'data' and all bytes long"),
        ({"offset": "x"}, "at offset x of 'data'"),
        ({"length": 11}, r"11 bytes long; as FLOAT of shape \(1, 3\) they take 12"),
        ({"length": -12}, r"-12 bytes long; as FLOAT of shape \(1, 3\) they take 12"),
        ({"length": 10**30}, r"long; as FLOAT of shape \(1, 3\) they take 12. The file is damaged"),
    ],
)
def test_places_that_make_no_sense_are_refused(tmp_path, said, words):
    (tmp_path / "data").write_bytes(bytes(12))
    with pytest.raises(ModelError, match=words):
        load(broken(tmp_path, location="data", **said))


@pytest.mark.parametrize(
    "location", ["../data", "/etc/hostname", "inner/../../data", "", "..", "da\0ta"]
)
def test_weights_are_read_only_from_beside_the_file(tmp_path, location):
    (tmp_path / "data").write_bytes(bytes(12))
    folder = tmp_path / "model" / "inner"
    folder.mkdir(parents=True)
    path = broken(folder.parent, location=location)
    with pytest.raises(ModelError, match="only files beside it or in folders below are read"):
        load(path)


def test_names_that_are_not_utf_8_are_refused_and_nothing_is_printed(tmp_path, capfd):
    path = write_beside(encoder(), tmp_path / "encoder.onnx")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"encoder.onnx.data", b"encoder\xff.onnx.dat", 1))
    with pytest.raises(ModelError, match=r"of b'encoder\\xff.onnx.dat' and 12 bytes long; as FLOA"):
        load(path)
    write_inline(encoder(), path)
    path.write_bytes(
        path.read_bytes().replace(b"GlobalAveragePool", b"GlobalAverage\xff\xff\xff\xff")
    )
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(path)
    assert capfd.readouterr() == ("", "")


def test_onnxruntime_s_own_word_for_an_address_in_memory_is_a_file_that_is_missing(tmp_path):
    path = broken(tmp_path, location="*/_ORT_MEM_ADDR_/*", offset=4096, length=12)
    with pytest.raises(ModelError, match="No such file or directory"):
        load(path)


@pytest.mark.parametrize("way", ["file", "folder"])
def test_a_link_that_leads_elsewhere_is_refused(tmp_path, way):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data").write_bytes(bytes(12))
    model = tmp_path / "model"
    model.mkdir()
    if way == "file":
        (model / "data").symlink_to(tmp_path / "elsewhere" / "data")
    else:
        (model / "inner").symlink_to(tmp_path / "elsewhere")
    path = broken(model, location="data" if way == "file" else "inner/data")
    with pytest.raises(ModelError, match=r"is a link to .*/elsewhere/data, elsewhere; only files"):
        load(path)


def test_links_into_one_folder_as_in_the_cache_of_a_hub_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    written = write_beside(encoder(), tmp_path / "encoder.onnx")
    for name, blob in (("encoder.onnx", "3f"), ("encoder.onnx.data", "7c")):
        (tmp_path / name).rename(blobs / blob)
        (snapshot / name).symlink_to(blobs / blob)
    assert not written.exists()
    model = load(snapshot / "encoder.onnx")
    np.testing.assert_allclose(vectors_of(model), expected(), rtol=1e-4, atol=1e-5)


def test_a_link_to_a_file_finds_the_weights_beside_what_it_leads_to(tmp_path):
    (tmp_path / "2026").mkdir()
    path = write_beside(encoder(), tmp_path / "2026" / "encoder.onnx")
    (tmp_path / "current.onnx").symlink_to(path)
    model = load(tmp_path / "current.onnx")
    np.testing.assert_allclose(vectors_of(model), expected(), rtol=1e-4, atol=1e-5)


# files that are no ONNX


def test_what_is_no_onnx_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no ONNX file .*none.onnx; make one with torch.onnx.ex"):
        load(tmp_path / "none.onnx")
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ModelError, match=f"{other} is not a file but a directory or the like"):
            load(other)
    whole = encoder().SerializeToString()
    damaged = {
        "empty": b"",
        "text": b"# weights\nnothing\n",
        "cut": whole[:-3],
        "half": whole[: len(whole) // 2],
        "zeros": bytes(64),
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        words = rf"{name} is not a readable ONNX file of {len(content)} bytes \(.*\); if it was cop"
        with pytest.raises(ModelError, match=words):
            load(tmp_path / name)


def test_every_cut_of_a_file_is_refused_or_another_model(tmp_path):
    whole = encoder().SerializeToString()
    space = load(write_inline(encoder(), tmp_path / "whole.onnx")).space
    path, refused = tmp_path / "cut.onnx", list[str]()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            assert load(path).space != space
        except ModelError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all("ONNX file" in words for words in refused)


def test_a_graph_without_operators_that_this_runtime_knows_says_which_runtime_it_is(tmp_path):
    model = encoder()
    model.graph.node[0].op_type = "NoSuchPool"
    with pytest.raises(ModelError, match=r"cannot be loaded .*NoSuchPool.*that this onnxruntime"):
        load(write_inline(model, tmp_path / "unknown.onnx"))


def test_onnxruntime_s_own_format_stays_readable(tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "encoder.ort")
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(encoder().SerializeToString(), options)
    model = load(tmp_path / "encoder.ort")
    np.testing.assert_allclose(vectors_of(model), expected(), rtol=1e-4, atol=1e-5)
    assert read_onnx(tmp_path / "encoder.ort").weights == b""


# files that give other vectors for the same image


def ending(*nodes, **constants):
    """The wide model, whose sum goes through these operators to its vectors."""
    model = wide()
    model.graph.node[-1].output[0] = "sum"
    model.graph.node.extend(nodes)
    values = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    model.graph.initializer.extend(values)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def drawing(operator, **attributes):
    return ending(
        helper.make_node("Sigmoid", ["sum"], ["share"]),
        helper.make_node(operator, ["share"], ["drawn"], **attributes),
        helper.make_node("Add", ["share", "drawn"], ["vectors"]),
    )


def carrying_over(reverse):
    return ending(helper.make_node("CumSum", ["sum", "axis"], ["vectors"], reverse=reverse), axis=0)


def of_batches():
    """The mean of the batch is taken away, as BatchNorm does while a model is trained."""
    return ending(
        helper.make_node("ReduceMean", ["sum", "axes"], ["of_batch"], keepdims=1),
        helper.make_node("Sub", ["sum", "of_batch"], ["vectors"]),
        axes=[0],
    )


def in_training():
    """The statistics of the images of a batch differ little from those of one of them."""
    scale, shift = np.full(1, 0.1, np.float32), np.full(1, 0.5, np.float32)
    model = wide()
    arrays = {"scale": scale, "shift": shift, "mean": shift, "variance": scale}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    outputs = ["normal", "new_mean", "new_variance"]
    node = helper.make_node("BatchNormalization", ["image", *arrays], outputs, training_mode=1)
    model.graph.node[0].input[0] = "normal"
    model.graph.node.insert(0, node)
    return model


def tokens():
    """Several rows an image: the first of them was taken for its vector."""
    return ending(helper.make_node("Reshape", ["sum", "eight"], ["vectors"]), eight=[-1, 8])


def codes():
    model = ending(
        helper.make_node("Cast", ["sum"], ["vectors"], to=TensorProto.FLOAT8E4M3FN),
    )
    model.opset_import[0].version = 19
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT8E4M3FN
    return model


BESIDE = r"another vector for the same image beside another image; .* after model.eval\(\)"
CHANCE = "another vector for the same image every time; it draws numbers at random or takes the"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        pytest.param(of_batches(), BESIDE, id="statistics-of-a-batch"),
        pytest.param(in_training(), r"same image .* as while it is trained", id="batch-norm"),
        pytest.param(carrying_over(0), BESIDE, id="carries-over"),
        pytest.param(carrying_over(1), BESIDE, id="carries-over-backwards"),
        pytest.param(drawing("RandomNormalLike", scale=10.0), CHANCE, id="normal"),
        pytest.param(drawing("RandomUniformLike", seed=3.0), CHANCE, id="uniform"),
        pytest.param(drawing("Bernoulli"), CHANCE, id="bernoulli"),
        pytest.param(
            tokens(),
            r"output has shape \(5, 8\) for 1 images; it needs \(images, dimensions\); expor",
            id="rows-that-are-not-one-an-image",
        ),
        pytest.param(codes(), r"is tensor\(float8e4m3fn\); cast it to float32 in it", id="codes"),
    ],
)
def test_a_graph_that_gives_no_vector_of_each_image_alone_is_refused(tmp_path, model, words):
    with pytest.raises(ModelError, match=words):
        load(write_inline(model, tmp_path / "refused.onnx"))


def test_infinite_vectors_are_left_to_where_they_are_used(tmp_path):
    model = wide()
    model.graph.initializer[1].CopyFrom(
        numpy_helper.from_array(np.full((64, 40), np.float32(3e38)), "wide")
    )
    assert not np.isfinite(vectors_of(load(write_inline(model, tmp_path / "inf.onnx")))).all()


def quantised(tmp_path):
    """The vectors as codes of one byte, whose scale is that of the largest number of a batch."""
    names = ["codes", "scale", "zero"]
    model = ending(
        helper.make_node("DynamicQuantizeLinear", ["sum"], names),
        helper.make_node("DequantizeLinear", names, ["vectors"]),
    )
    return load(write_inline(model, tmp_path / "quantised.onnx"))


def test_a_graph_that_quantises_by_the_largest_number_of_a_batch_is_run_image_by_image(tmp_path):
    embed = quantised(tmp_path).pixel_embedder()
    pixels = PIXELS // np.uint8([1, 2, 4, 8, 16]).reshape(-1, 1, 1, 1)
    alone = np.concatenate([embed(pixels[row : row + 1])[0] for row in range(len(pixels))])
    np.testing.assert_array_equal(embed(pixels)[0], alone)
    np.testing.assert_array_equal(embed(pixels[::-1])[0], alone[::-1])
