import json
import subprocess
import sys
from dataclasses import replace

import jaxtyping
import numpy as np
import onnx
import pytest
import torch
from encoders import parse
from PIL import Image

from onward.artifacts import read_artifact, write_artifact
from onward.data import load_images, open_items
from onward.errors import (
    ArtifactError,
    ConfigurationError,
    DataError,
    MissingExtraError,
    ModelError,
)
from onward.models import EmbeddingModel, InputSpec, LayersReadout, payload_embedder
from onward.nn.backbones import BackboneSpec, build_backbone
from onward.quantisation import Quantisation

GREY_8 = InputSpec(size=8, channels=1, mean=(0.5,), std=(0.5,))
SPEC = BackboneSpec(size=8, channels=1, width=4, dim=6)
BATCH_TOLERANCE = 1e-6  # of an embedding whose values are around 1: rounding of float32


@pytest.fixture(scope="module")
def items():
    return open_items("digits").select(range(11))


def make_model(seed=0, **settings):
    torch.manual_seed(seed)
    backbone = build_backbone(SPEC)
    for _ in range(3):  # running statistics that are not those of the beginning
        backbone(torch.rand(8, 1, 8, 8))
    return EmbeddingModel.of_backbone(backbone, SPEC, **{"name": "tiny"} | settings)


def make_readout(model, dim=5, grid=2, seed=0):
    generator = np.random.default_rng(seed)
    total = sum(model.stage_channels) * grid**2
    mean, scale = generator.random((2, total), np.float32) + 0.5
    components = generator.normal(size=(dim, total)).astype(np.float32)
    return LayersReadout(grid, model.stage_channels, mean, scale, components)


def onnx_file(path, *, batch="N", kind="float", shape="1,8,8", output="flat"):
    """Mean and maximum over the pixels of each image, as one ONNX graph."""
    text = f"""two ({kind}[{batch},{shape}] pixels) => (float[] {output})
    <int64[3] axes = {{1, 2, 3}}> {{
        x = Cast <to = 1> (pixels)
        mean = ReduceMean <keepdims = 1> (x, axes)
        max = ReduceMax <keepdims = 1> (x, axes)
        both = Concat <axis = 1> (mean, max)
        flat = Flatten <axis = 1> (both)
    }}"""
    onnx.save(parse(text), path)
    return path


# embedding


def test_embeddings_carry_ids_labels_and_the_space(items):
    model = make_model()
    embeddings = model.embed(items)
    assert embeddings.ids == items.ids
    assert embeddings.space == model.space
    assert embeddings.vectors.shape == (11, 6)
    np.testing.assert_array_equal(embeddings.labels, items.labels)
    assert embeddings.class_names == {label: str(label) for label in range(10)}
    assert model.embed(replace(items, named=False)).class_names is None


def test_embeddings_are_what_the_backbone_gives_in_eval_mode_for_normalised_pixels(items):
    torch.manual_seed(5)
    backbone = build_backbone(SPEC)
    taken = InputSpec(8, 1, mean=(0.2,), std=(0.4,))
    model = EmbeddingModel.of_backbone(backbone, SPEC, name="tiny", input=taken)
    pixels = np.stack([np.asarray(items.open(row)) for row in range(11)])[:, None] / 255
    with torch.inference_mode():
        expected = backbone.eval()(torch.tensor((pixels - 0.2) / 0.4, dtype=torch.float32))
    np.testing.assert_allclose(model.embed(items).vectors, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 10, 11, 100])
def test_an_embedding_does_not_depend_on_its_batch_beyond_rounding(items, batch_size):
    model = make_model()
    expected = model.embed(items).vectors
    vectors = model.embed(items, batch_size=batch_size).vectors
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=BATCH_TOLERANCE)


def test_no_items_give_no_embeddings(items):
    model = make_model()
    assert len(model.embed(items.select([]))) == 0
    assert list(model.stages(items.select([]))) == []


def test_progress_is_told_after_each_batch_in_items(items):
    told = []
    make_model().embed(items, batch_size=4, progress=lambda *counts: told.append(counts))
    assert told == [(4, 11), (8, 11), (11, 11)]


def test_only_two_batches_are_decoded_at_a_time(items, monkeypatch):
    alive, most = set(), []

    def load_images(of, size, channels, rows, *, crop_share):
        alive.add(rows[0])
        most.append(len(alive))
        return np.zeros((len(rows), channels, size, size), np.uint8)

    def function(pixels):
        alive.discard(min(alive))
        return np.ones((len(pixels), 2))

    monkeypatch.setattr("onward.models.engines.load_images", load_images)
    model = EmbeddingModel.from_callable(function, name="ones", dim=2, input=GREY_8)
    model.embed(items, batch_size=1)
    assert max(most) <= 2


def test_an_image_that_cannot_be_opened_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "class").mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / "class" / f"{name}.png")
    items = open_items(tmp_path)
    (tmp_path / "class" / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png"):
        make_model().embed(items)


def test_nan_names_the_item(items):
    def function(pixels):
        vectors = np.ones((len(pixels), 2))
        vectors[len(pixels) // 2] = np.nan
        return vectors

    model = EmbeddingModel.from_callable(function, name="broken", dim=2, input=GREY_8)
    words = rf"broken gives NaN or infinite values for item '{items.ids[5]}' \(row 5\)"
    with pytest.raises(ModelError, match=words):
        model.embed(items)


def test_empty_batches_are_refused(items):
    with pytest.raises(ConfigurationError, match="batches of 0 items were asked for"):
        make_model().embed(items, batch_size=0)


@pytest.mark.parametrize("device", ["cuda:97", "no-such-device"])
def test_a_device_that_cannot_be_used_is_named(items, device):
    with pytest.raises(ModelError, match=f"the device '{device}' cannot be used here"):
        make_model().embed(items, device=device)


def test_embedding_leaves_torch_s_generator_and_the_trainer_s_backbone_alone(items, tmp_path):
    torch.manual_seed(0)
    backbone = build_backbone(SPEC)
    before = torch.get_rng_state()
    model = EmbeddingModel.of_backbone(backbone, SPEC, name="tiny")
    vectors = model.embed(items).vectors
    model.save(tmp_path / "model")
    EmbeddingModel.load(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)
    assert backbone.training
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(model.embed(items).vectors, vectors)


# spaces


def test_the_space_is_named_by_the_digest_of_the_weights():
    first, same, other = make_model(0), make_model(0), make_model(1)
    assert first.space == same.space != other.space
    assert first.space.name == f"tiny@{first.fingerprint}"
    assert len(first.fingerprint) == 8
    assert first.name == "tiny"


def test_an_input_that_the_backbone_was_not_built_for_is_refused():
    with pytest.raises(ModelError, match=r"the input is 16 px .* takes 8 px and 1 channels; make"):
        make_model(input=InputSpec(16, 1, (0.5,), (0.5,)))


def test_a_classifier_has_one_row_a_class():
    model = make_model(classes=(3, 7), classifier=np.ones((2, 6), np.float32))
    assert model.classes == (3, 7)
    assert not model.classifier.flags.writeable
    with pytest.raises(ModelError, match=r"shape \(2, 6\) for 3 classes"):
        make_model(classes=(3, 7, 8), classifier=np.ones((2, 6), np.float32))
    with pytest.raises(ModelError, match="for None classes"):
        make_model(classifier=np.ones((2, 6), np.float32))


NO_SIZE = r"images of {} px and 1 channels; give one whole number for the height and width of a"
NO_NUMBERS = r"{} {}.* do not normalise 1 channels.*; give one finite number a channel, such as"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": (256, 128)}, NO_SIZE.format(r"\(256, 128\)")),
        ({"size": "8"}, NO_SIZE.format("'8'")),
        ({"size": 2.5}, NO_SIZE.format("2.5")),
        ({"size": 8.0}, NO_SIZE.format("8.0")),
        ({"size": True}, NO_SIZE.format("True")),
        ({"size": None}, NO_SIZE.format("None")),
        ({"size": 10**30}, r"1 to 16384 px, and 1 \(grey\) or 3"),
        ({"size": -8}, "cannot take images of -8 px"),
        ({"channels": True}, "of 8 px and True channels; give one whole number"),
        ({"channels": (1,)}, r"of 8 px and \(1,\) channels; give one"),
        ({"mean": (float("nan"),)}, NO_NUMBERS.format("mean", r"\(nan,\)")),
        ({"mean": 0.5}, NO_NUMBERS.format("mean", "0.5")),
        ({"mean": "5"}, NO_NUMBERS.format("mean", "'5'")),
        ({"mean": ("0.5",)}, NO_NUMBERS.format("mean", r"\('0.5',\)")),
        ({"mean": (None,)}, NO_NUMBERS.format("mean", r"\(None,\)")),
        ({"mean": np.array(0.5)}, NO_NUMBERS.format("mean", r"array\(0.5\)")),
        ({"mean": {0.5}}, NO_NUMBERS.format("mean", "{0.5}")),
        ({"mean": (True,)}, NO_NUMBERS.format("mean", r"\(True,\)")),
        ({"mean": (10**400,)}, r"give one finite number a channel"),
        ({"mean": (0.5, 0.5)}, "do not normalise 1 channels"),
        ({"channels": 3}, "do not normalise 3 channels"),
        ({"size": 0}, "cannot take images of 0 px and 1 channels"),
        ({"channels": 2, "mean": (0.5,) * 2, "std": (0.5,) * 2}, "of 8 px and 2 channels"),
        ({"std": (0.0,)}, "std above 0"),
        ({"std": (float("inf"),)}, NO_NUMBERS.format("std", r"\(inf,\)")),
        ({"std": (-0.5,)}, "std above 0"),
        (
            {"std": (1e-40,)},
            "bring pixels beyond what float32 holds; give the mean and the deviati",
        ),
        ({"std": (1e-46,)}, "bring pixels beyond what float32 holds"),
        ({"mean": (1e39,)}, "bring pixels beyond what float32 holds"),
        ({"crop_share": 0}, "cannot look at 0 of an image's shorter side; give a number above 0"),
        ({"crop_share": 256}, "cannot look at 256 of an image's shorter side.*, such as 224 / 256"),
        ({"crop_share": "all"}, "cannot look at 'all' of an image's .* leave it out for all of it"),
        ({"crop_share": float("nan")}, "cannot look at nan of an image's shorter side"),
        ({"crop_share": [0.5]}, r"cannot look at \[0.5\] of an image's shorter side"),
    ],
)
def test_a_value_that_no_input_has_is_named_with_what_is_needed(monkeypatch, fields, words):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    given = {"size": 8, "channels": 1, "mean": (0.5,), "std": (0.5,)} | fields
    with pytest.raises(ModelError, match=words):
        InputSpec(**given)


def test_a_crop_is_written_only_where_it_is_less_than_the_whole_square():
    assert "crop_share" not in GREY_8.to_json()
    cropped = replace(GREY_8, crop_share=np.float64(0.875))
    assert cropped.to_json()["crop_share"] == 0.875
    assert [InputSpec.from_json(one.to_json()) for one in (GREY_8, cropped)] == [GREY_8, cropped]


@pytest.mark.parametrize("crop_share", [1.0, 0.5])
def test_items_and_payloads_are_cropped_alike(crop_share):
    seen = []

    def look(pixels):
        seen.append(pixels)
        return np.zeros((len(pixels), 2), np.float32)

    taken = InputSpec(4, 1, (0.5,), (0.5,), crop_share)
    model = EmbeddingModel.from_callable(look, name="look", dim=2, input=taken)
    items = open_items("digits").select(range(3))
    model.embed(items)
    payload_embedder(model)(items.ids, items.payloads)
    first, second = seen
    np.testing.assert_array_equal(first, second)
    whole = load_images(items, 8, 1)
    is_cropped = np.array_equal(first, whole[:, :, 2:6, 2:6])
    assert is_cropped == (crop_share == 0.5)


def test_numbers_of_numpy_are_as_good_as_python_s(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    half = np.array([0.5])
    assert InputSpec(np.int64(8), np.int32(1), half, [np.float64(0.5)]) == GREY_8
    json.dumps(InputSpec(np.int64(8), np.int32(1), half, half).to_json())


def test_pixels_of_another_size_are_refused():
    embed_pixels = make_model().pixel_embedder()
    with pytest.raises(ModelError, match=r"shape \(1, 1, 9, 8\); it needs \(images, 1, 8, 8\)"):
        embed_pixels(np.zeros((1, 1, 9, 8), np.uint8))


def test_a_timm_model_is_normalised_as_its_weights_expect():
    colour = InputSpec.of_spec(BackboneSpec(name="timm:resnet18", size=32))
    assert colour.mean == (0.485, 0.456, 0.406)
    grey = InputSpec.of_spec(BackboneSpec(name="timm:resnet18", size=32, channels=1))
    assert grey.mean == pytest.approx((0.449,))
    assert InputSpec.of_spec(SPEC) == GREY_8


# side-information of kind layers


def test_layers_change_neither_the_space_nor_the_vectors(items):
    model = make_model()
    with_layers = model.with_layers(make_readout(model))
    assert with_layers.space == model.space
    embeddings, side = with_layers.embed_with_side(items)
    np.testing.assert_array_equal(embeddings.vectors, model.embed(items).vectors)
    assert side.space == with_layers.side
    assert side.space.name.startswith("tiny-layers@")
    one, its_side = with_layers.embed_with_side(items.select([3]))
    assert (one.vectors.shape, its_side.vectors.shape) == ((1, 6), (1, 5))
    assert side.ids == items.ids
    assert model.side is None


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_stages_are_means_over_cells_standardised_and_projected(items, grid):
    torch.manual_seed(0)
    backbone = build_backbone(SPEC).eval()
    model = EmbeddingModel.of_backbone(backbone, SPEC, name="tiny")
    pixels = np.stack([np.asarray(items.open(row)) for row in range(11)])[:, None]
    with torch.inference_mode():
        _, maps = backbone.stages(torch.tensor(pixels / 127.5 - 1, dtype=torch.float32))
    expected = []
    for stage in maps:
        size = stage.shape[-1]
        cells = [slice(size * cell // grid, -(-size * (cell + 1) // grid)) for cell in range(grid)]
        means = [stage[:, :, rows, columns].mean((2, 3)) for rows in cells for columns in cells]
        expected.append(torch.stack(means, dim=2).flatten(1))
    expected = torch.cat(expected, dim=1).numpy()
    pooled = np.concatenate(list(model.stages(items, grid=grid, batch_size=4)))
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-5)
    readout = make_readout(model, grid=grid)
    _, side = model.with_layers(readout).embed_with_side(items)
    projected = ((expected - readout.mean) / readout.scale) @ readout.components.T
    np.testing.assert_allclose(side.vectors, projected, rtol=1e-3, atol=1e-4)


def test_stages_come_in_batches(items):
    model = make_model()
    told = []
    batches = model.stages(items, batch_size=4, progress=lambda *counts: told.append(counts))
    assert [batch.shape for batch in batches] == [(4, 160), (4, 160), (3, 160)]
    assert told[-1] == (11, 11)
    assert sum(model.stage_channels) * 4 == 160


def test_side_information_that_is_not_there_says_how_to_get_it(items):
    with pytest.raises(ModelError, match="no side-information to read; fit it once on the old"):
        make_model().embed_with_side(items)


def test_a_read_out_of_another_model_is_refused():
    torch.manual_seed(0)
    wide = BackboneSpec(size=8, channels=1, width=8, dim=6)
    other = EmbeddingModel.of_backbone(build_backbone(wide), wide, name="wide")
    with pytest.raises(ModelError, match=r"for stages of \(8, 16, 24, 32\) channels"):
        make_model().with_layers(make_readout(other))


def test_weights_that_are_not_real_numbers_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ModelError, match=r"the classifier holds no numbers \(.*complex128\); give"):
        make_model(classes=(3, 7), classifier=np.full((2, 6), 1j))
    values, masked = np.ones(8, np.float32), np.ma.ones(8)
    with pytest.raises(
        ModelError, match=r"the scale of a read-out holds no numbers \(they are mas"
    ):
        LayersReadout(2, (2,), values, masked, np.ones((5, 8), np.float32))


def test_a_read_out_that_does_not_fit_together_is_refused():
    values = np.ones(8, np.float32)
    with pytest.raises(ModelError, match=r"give \(12,\), \(12,\), \(dim, 12\)"):
        LayersReadout(2, (3,), values, values, np.ones((5, 8), np.float32))
    with pytest.raises(ModelError, match="give constant values a scale of 1"):
        LayersReadout(2, (2,), values, 0 * values, np.ones((5, 8), np.float32))


def test_a_pixel_embedder_gives_what_embed_gives(items):
    model = make_model()
    model = model.with_layers(make_readout(model))
    pixels = np.stack([np.asarray(items.open(row)) for row in range(11)])[:, None]
    vectors, side = model.pixel_embedder(with_side=True)(pixels)
    embeddings, expected = model.embed_with_side(items)
    np.testing.assert_array_equal(vectors, embeddings.vectors)
    np.testing.assert_array_equal(side, expected.vectors)
    assert model.pixel_embedder()(pixels)[1] is None


# saved models


def test_a_saved_model_is_the_same_when_loaded(items, tmp_path):
    classifier = np.arange(12, dtype=np.float32).reshape(2, 6)
    model = make_model(classes=(0, 4), classifier=classifier, made_by={"seed": 3}, metric="cosine")
    model = model.with_layers(make_readout(model), made_by={"dim": 5})
    model.save(tmp_path / "model")
    loaded = EmbeddingModel.load(tmp_path / "model")
    assert (loaded.space, loaded.side) == (model.space, model.side)
    assert loaded.input == model.input
    assert loaded.classes == (0, 4)
    assert loaded.made_by == {"seed": 3, "layers": {"dim": 5}}
    assert loaded.to_json() == model.to_json()
    np.testing.assert_array_equal(loaded.classifier, classifier)
    for given, expected in zip(
        loaded.embed_with_side(items), model.embed_with_side(items), strict=True
    ):
        np.testing.assert_array_equal(given.vectors, expected.vectors)


def test_a_model_keeps_the_names_of_its_classes_and_of_no_others(tmp_path):
    classifier = np.ones((2, 6), np.float32)
    names = {0: "cat", 2: "dog", 4: "e\u0301"}
    model = make_model(classes=(0, 4), classifier=classifier, class_names=names)
    assert model.class_names == {0: "cat", 4: "\u00e9"}
    model.save(tmp_path / "model")
    assert EmbeddingModel.load(tmp_path / "model").class_names == model.class_names
    assert make_model(class_names=names).class_names is None
    with pytest.raises(ModelError, match=r"the class names of .*: class 4 has no name"):
        make_model(classes=(0, 4), classifier=classifier, class_names={0: "cat"})


@pytest.mark.slow
def test_a_timm_model_is_the_same_when_loaded(tmp_path):
    items = open_items("digits").select(range(3))
    spec = BackboneSpec(name="timm:vit_tiny_patch16_224", size=32, dim=4)
    model = EmbeddingModel.of_backbone(build_backbone(spec), spec, name="vit")
    model.save(tmp_path / "model")
    loaded = EmbeddingModel.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.embed(items).vectors, model.embed(items).vectors)


def test_equal_models_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        make_model(made_by={"seed": 0}).save(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_card_says_what_the_model_is_and_how_to_use_it(items, tmp_path, monkeypatch):
    model = make_model(classes=(0, 4), made_by={"recipe": "digits"})
    model.with_layers(make_readout(model)).save(tmp_path / "this-directory")
    card = (tmp_path / "this-directory" / "README.md").read_text()
    assert f"# {model.space.name}" in card
    assert "6 dimensions, metric l2" in card
    assert "| images | grey images of 8 px |" in card
    assert "small-resnet" in card
    assert "2 classes" in card
    assert "5 dimensions, float32, 20 bytes an item, read from the layers" in card
    assert '"recipe": "digits"' in card
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert len(names["embeddings"]) == len(open_items("digits"))


@pytest.mark.parametrize("other", ["changed", "missing"])
def test_weights_that_are_not_those_of_the_space_are_refused(tmp_path, other):
    make_model().save(tmp_path / "model")
    saved = read_artifact(tmp_path / "model", "embedding-model")
    arrays = {name: array for name, array in saved.arrays.items() if "stem" not in name}
    words = "the weights are not those of small-resnet"
    if other == "changed":
        weights = saved.arrays["weights.stem.0.weight"]
        arrays = {**saved.arrays, "weights.stem.0.weight": weights + 1}
        words = r"model that cannot be run: .*, whose weights and input make it tiny@.*restore it"
    write_artifact(tmp_path / "model", replace(saved, arrays=arrays))
    with pytest.raises(ArtifactError, match=words):
        EmbeddingModel.load(tmp_path / "model")


def places_of(config, path=()):
    """Every field of a header, by the keys and positions that lead to it."""
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places_of(value, (*path, key))


def put(path, value):
    """A change of a header that takes a field away, or writes something else there."""

    def change(config):
        for key in path[:-1]:
            config = config[key]
        if value is KeyError:
            del config[path[-1]]
        else:
            config[path[-1]] = value

    return change


@pytest.mark.slow
@pytest.mark.parametrize("value", [KeyError, None, "x", -1, 2.5, [], {}, [None], {"a": 1}])
def test_a_header_that_lacks_or_distorts_any_field_is_an_artefact_error(
    tmp_path, monkeypatch, value
):
    """Whatever is loaded in spite of it is the model that was saved."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    model = make_model(classes=(0, 4), classifier=np.ones((2, 6), np.float32))
    readout = make_readout(model)
    scale = np.ones(5, np.float32)
    codes = Quantisation(model.with_layers(readout).side, "int8", scale)
    model = model.with_layers(replace(readout, quantisation=codes))
    model.save(tmp_path / "whole")
    whole = read_artifact(tmp_path / "whole", "embedding-model")
    refused = list[str]()
    for path in places_of(json.loads(json.dumps(whole.config))):
        config = json.loads(json.dumps(whole.config))
        put(path, value)(config)
        distorted = replace(whole, config=config)
        monkeypatch.setattr("onward.models.embedding.read_artifact", lambda *_, is_=distorted: is_)
        try:
            loaded = EmbeddingModel.load(tmp_path / "whole")
        except ArtifactError as error:
            refused.append(str(error))
        else:
            assert (loaded.space, loaded.side, loaded.input) == (model.space, model.side, GREY_8)
    assert len(refused) > 20
    assert all(str(tmp_path / "whole") in words for words in refused)


def test_classes_that_are_no_numbers_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    for classes in ((0, 1.5), (0.0, 1.0), ("a", "b"), (True, False), (True, 2), ((0,), (1,))):
        with pytest.raises(ModelError, match=r"classes are .*; give one whole number a class"):
            make_model(classes=classes)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (
            ("input", "mean"),
            KeyError,
            r"the header of .*model is not that of a model \(KeyError: 'mean'\); restore it from a",
        ),
        (
            ("side", "name"),
            "tiny-layers@00000000",
            r"side-information is in tiny-layers@00000000 .*, but what reads it makes it tiny-l",
        ),
        (("engine",), {"kind": "quantum"}, "model of kind 'quantum'"),
        (("engine", "backbone", "depth"), 3, "this Onward does not know: depth. Install the ver"),
        (
            ("engine", "backbone", "dim"),
            None,
            "this Onward does not know: .*small-resnet needs a dim.* Install",
        ),
    ],
)
def test_a_header_that_is_not_that_of_the_model_says_what_is_wrong(tmp_path, path, value, words):
    model = make_model()
    model.with_layers(make_readout(model)).save(tmp_path / "model")
    saved = read_artifact(tmp_path / "model", "embedding-model")
    config = json.loads(json.dumps(saved.config))
    put(path, value)(config)
    write_artifact(tmp_path / "model", replace(saved, config=config))
    with pytest.raises(ArtifactError, match=words):
        EmbeddingModel.load(tmp_path / "model")


def test_a_model_prints_itself():
    model = make_model()
    model = model.with_layers(make_readout(model))
    assert str(model) == (
        f"model of {model.space}, and side-information in {model.side}; grey images of 8 px"
    )


# callables


def test_a_callable_is_given_pixels_as_they_are(items):
    def function(pixels):
        assert pixels.dtype == np.uint8
        return pixels.reshape(len(pixels), -1)

    model = EmbeddingModel.from_callable(function, name="raw-pixels", dim=64, input=GREY_8)
    embeddings = model.embed(items, batch_size=4)
    assert model.space.name == "raw-pixels"
    assert model.fingerprint == "raw-pixels"
    assert embeddings.vectors.dtype == np.float32
    np.testing.assert_array_equal(embeddings.vectors[7], np.asarray(items.open(7)).reshape(-1))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda pixels: np.ones((2, 3)), r"given 11 images and returned shape \(2, 3\)"),
        (lambda pixels: np.ones(len(pixels)), r"returned shape \(11,\); it must return one row"),
        (lambda pixels: "vectors", r"returned a str that is not an array of numbers"),
        (lambda pixels: None, r"shape \(11, 3\)"),
        (
            lambda pixels: np.full((11, 3), 1j),
            r"not an array of numbers \(they are of type complex128",
        ),
        (
            lambda pixels: np.ma.ones((11, 3)),
            r"not an array of numbers \(they are masked: fill the gap",
        ),
        (lambda pixels: np.ones((11, 3), "M8[s]"), r"\(they are of type datetime64\[s\]\)"),
        (lambda pixels: np.full((11, 3), "1.5"), r"\(they are of type <U3\)"),
    ],
)
def test_a_callable_of_the_wrong_shape_says_what_is_needed(items, function, words):
    model = EmbeddingModel.from_callable(function, name="wrong", dim=3, input=GREY_8)
    with pytest.raises(ModelError, match=words):
        model.embed(items)


def test_a_callable_cannot_be_saved_and_says_what_to_do(tmp_path):
    model = EmbeddingModel.from_callable(lambda pixels: pixels, name="f", dim=3, input=GREY_8)
    with pytest.raises(ModelError, match=r"cannot be saved.*from_onnx"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_callable_has_no_stages(items):
    model = EmbeddingModel.from_callable(lambda pixels: pixels, name="f", dim=3, input=GREY_8)
    with pytest.raises(ModelError, match="the outputs of the model's stages cannot be read"):
        list(model.stages(items))


# ONNX files


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_an_onnx_file_is_given_normalised_images_in_batches_of_its_own(items, tmp_path, batch):
    path = onnx_file(tmp_path / "two.onnx", batch=batch)
    model = EmbeddingModel.from_onnx(path, name="two", input=GREY_8)
    pixels = np.stack([np.asarray(items.open(row)) for row in range(11)]) / 127.5 - 1
    expected = np.stack([pixels.mean((1, 2)), pixels.max((1, 2))], axis=1)
    np.testing.assert_allclose(model.embed(items).vectors, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        model.embed(items, batch_size=3).vectors, expected, rtol=1e-5, atol=1e-6
    )


def test_an_onnx_file_that_takes_bytes_is_given_the_pixels(items, tmp_path):
    path = onnx_file(tmp_path / "two.onnx", kind="uint8")
    model = EmbeddingModel.from_onnx(path, name="two", input=GREY_8)
    expected = [np.asarray(items.open(row)).max() for row in range(11)]
    np.testing.assert_array_equal(model.embed(items).vectors[:, 1], expected)


def test_an_onnx_model_is_the_same_when_loaded(items, tmp_path):
    path = onnx_file(tmp_path / "two.onnx")
    model = EmbeddingModel.from_onnx(path, name="two", input=GREY_8, metric="cosine")
    model.save(tmp_path / "model")
    assert (tmp_path / "model" / "model.onnx").read_bytes() == path.read_bytes()
    loaded = EmbeddingModel.load(tmp_path / "model")
    assert loaded.space == model.space
    np.testing.assert_array_equal(loaded.embed(items).vectors, model.embed(items).vectors)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "double"}, r"takes pixels: tensor\(double\).*float32 or uint8 input"),
        ({"shape": "3,8,8"}, r"it needs one float32 or uint8 input of \(images, 1, 8, 8\)"),
        (
            {"shape": "1,16,8"},
            r"\['N', 1, 16, 8\]; it needs .*1, 8, 8\). Export it for square images; no InputSp",
        ),
        ({"output": "both"}, r"first output has shape \(1, 2, 1, 1\) for 1 images"),
    ],
)
def test_an_onnx_file_of_another_shape_says_what_is_needed(tmp_path, settings, words):
    path = onnx_file(tmp_path / "other.onnx", **settings)
    with pytest.raises(ModelError, match=words):
        EmbeddingModel.from_onnx(path, name="other", input=GREY_8)


def test_an_onnx_file_that_was_traced_with_one_image_says_how_to_export_it(items, tmp_path, capfd):
    text = """one (float[N,1,8,8] pixels) => (float[N,64] flat) <int64[2] shape = {1, 64}>
        { flat = Reshape (pixels, shape) }"""
    onnx.save(parse(text), tmp_path / "one.onnx")
    model = EmbeddingModel.from_onnx(tmp_path / "one.onnx", name="one", input=GREY_8)
    assert len(model.embed(items, batch_size=1)) == len(items)
    with pytest.raises(ModelError, match=r"cannot be run on 4 images .*Reshape.*a batch of any si"):
        model.embed(items, batch_size=4)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "graph",
    [
        "(float mean) { mean = ReduceMean <keepdims = 0> (pixels) }",
        "(seq(float[]) several) { several = SequenceConstruct (pixels) }",
    ],
)
def test_an_onnx_file_whose_first_output_is_no_vector_says_what_it_needs(tmp_path, graph):
    onnx.save(parse(f"other (float[N,1,8,8] pixels) => {graph}"), tmp_path / "other.onnx")
    words = r"first output has shape .* for 1 images; it needs \(images"
    with pytest.raises(ModelError, match=words):
        EmbeddingModel.from_onnx(tmp_path / "other.onnx", name="other", input=GREY_8)


def test_an_onnx_file_on_a_device_that_is_not_there_says_so(items, tmp_path):
    model = EmbeddingModel.from_onnx(onnx_file(tmp_path / "two.onnx"), name="two", input=GREY_8)
    with pytest.raises(ModelError, match="onnxruntime cannot run on 'tpu' here"):
        model.embed(items, device="tpu")


# torch


@pytest.mark.slow
def test_torch_is_loaded_only_where_a_backbone_is(tmp_path):
    path = onnx_file(tmp_path / "two.onnx")
    code = f"""
import sys
from onward.data import open_items
from onward.models import EmbeddingModel, InputSpec
taken = InputSpec(8, 1, (0.5,), (0.5,))
EmbeddingModel.from_onnx({str(path)!r}, name="two", input=taken).save({str(tmp_path / "m")!r})
EmbeddingModel.load({str(tmp_path / "m")!r}).embed(open_items("digits"))
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_torch_a_backbone_names_the_extra(tmp_path, monkeypatch):
    make_model().save(tmp_path / "model")
    monkeypatch.delitem(sys.modules, "onward.models.backbone_engine")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"torch is not installed.*onward\[vision\]"):
        EmbeddingModel.load(tmp_path / "model")
