"""Text encoders from folders: vectors, side-information of their blocks, saving, refusals."""

import json
import sys

import numpy as np
import pytest
from commands import answer
from text_encoders import BERT, SENTENCES, WORDS, put, put_encoder, put_tokenizer

pytest.importorskip("transformers", reason="the extra onward[text] is not installed")

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel

from onward import EmbeddingModel, open_items
from onward.errors import ConfigurationError, DataError, MissingExtraError, ModelError
from onward.models import payload_embedder
from onward.models.engines import TextSpec
from onward.models.text_engine import TextEngine, TextSettings
from onward.spaces import Embeddings
from onward.training.images import embed_views
from onward.training.layers import add_layers_side_information


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return put_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    return put_encoder(tmp_path_factory.mktemp("sentences"), modules=SENTENCES)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Seventy texts of 1 to 30 words."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    words = [" ".join(random.choice(WORDS, size=random.integers(1, 31))) for _ in range(70)]
    lines = [json.dumps({"_id": f"t{row}", "text": one}) for row, one in enumerate(words)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def model(sentences):
    return EmbeddingModel.from_transformers(sentences, name="small")


def by_hand(folder, text, tokens):
    """The hidden states of all blocks for one text alone, without what pads it."""
    config = json.loads((folder / "config.json").read_text())
    encoder = AutoModel.from_config(AutoConfig.for_model(**config)).eval()
    encoder.load_state_dict(load_file(folder / "model.safetensors"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(tokens)
    ids = torch.tensor([tokenizer.encode(text).ids])
    assert ids.shape[1] <= tokens
    with torch.inference_mode():
        said = encoder(input_ids=ids, output_hidden_states=True)
    return [block[0].numpy() for block in said.hidden_states[1:]]


def test_a_sentence_encoder_pools_and_normalises_as_its_files_say(sentences, texts, model):
    items = open_items(texts)
    vectors = model.embed(items).vectors
    for row in range(0, 70, 7):
        mean = by_hand(sentences, items.text(row), 12)[-1].mean(axis=0)
        np.testing.assert_allclose(vectors[row], mean / np.linalg.norm(mean), atol=1e-5)
    assert (model.space.metric, model.input) == ("cosine", TextSpec(12))
    assert str(model).endswith("(16, cosine); texts of up to 12 tokens")


@pytest.mark.parametrize(
    "pooling", [{"pooling_mode_cls_token": True, "include_prompt": True}, {"pooling_mode": "cls"}]
)
def test_the_first_token_is_the_vector_where_the_files_say_so(tmp_path, pooling):
    put_encoder(tmp_path, modules=SENTENCES[:2], pooling=pooling)
    model = EmbeddingModel.from_transformers(tmp_path, name="first")
    found, _ = model.embedder()(["ice floats in water"])
    np.testing.assert_allclose(
        found[0], by_hand(tmp_path, "ice floats in water", 12)[-1][0], atol=1e-5
    )
    assert model.space.metric == "l2"


def test_a_plain_encoder_gives_the_mean_over_all_tokens_that_it_can_read(folder, texts):
    model = EmbeddingModel.from_transformers(folder, name="plain")
    items = open_items(texts)
    vectors = model.embed(items).vectors
    longest = max(range(70), key=lambda row: len(items.text(row)))
    for row in (0, longest):
        mean = by_hand(folder, items.text(row), 20)[-1].mean(axis=0)
        np.testing.assert_allclose(vectors[row], mean, atol=1e-5)
    assert (model.space.metric, model.input.max_tokens) == ("l2", 20)
    cosine = EmbeddingModel.from_transformers(folder, name="plain", metric="cosine")
    assert cosine.space.metric == "cosine"


def test_a_text_s_vector_does_not_depend_on_its_batch(model, texts):
    items = open_items(texts)
    together = model.embed(items).vectors
    for alone in (model.embed(items, batch_size=1), model.embed(items, batch_size=13)):
        np.testing.assert_allclose(alone.vectors, together, atol=1e-6)
    backwards = model.embed(items.select(range(69, -1, -1))).vectors[::-1]
    np.testing.assert_allclose(backwards, together, atol=1e-6)
    np.testing.assert_array_equal(model.embed(items).vectors, together)


def test_few_texts_at_a_time_give_the_same_as_many(model, texts, monkeypatch):
    items = open_items(texts)
    together = model.embed(items).vectors
    monkeypatch.setattr("onward.models.text_engine.TOKENS", 30)
    np.testing.assert_allclose(model.embed(items).vectors, together, atol=1e-6)


def test_what_makes_the_vectors_is_in_the_name_of_the_space(sentences, folder, model, tmp_path):
    names = {
        model.space.name,
        EmbeddingModel.from_transformers(folder, name="small").space.name,
        EmbeddingModel.from_transformers(sentences, name="small", max_tokens=8).space.name,
        EmbeddingModel.from_transformers(
            sentences, name="small", precision="bf16-mixed"
        ).space.name,
        EmbeddingModel.from_transformers(
            put_encoder(tmp_path / "other", seed=1, modules=SENTENCES), name="small"
        ).space.name,
    }
    assert len(names) == 5
    alike = put_encoder(tmp_path / "alike", modules=SENTENCES)
    config = {**BERT, "transformers_version": "9", "_name_or_path": "elsewhere"}
    put(alike / "config.json", config)
    assert EmbeddingModel.from_transformers(alike, name="small").space == model.space


def test_weights_of_an_encoder_with_a_head_are_found(tmp_path, folder):
    headed = put_encoder(tmp_path, prefix="bert.")
    weights = load_file(headed / "model.safetensors")
    weights = {name: one for name, one in weights.items() if ".pooler." not in name}
    save_file(weights | {"cls.bias": torch.zeros(3)}, headed / "model.safetensors")
    one, other = (EmbeddingModel.from_transformers(path, name="n") for path in (headed, folder))
    assert one.space == other.space


def test_bfloat16_is_near_what_float32_gives(sentences, model, texts):
    mixed = EmbeddingModel.from_transformers(sentences, name="small", precision="bf16-mixed")
    items = open_items(texts)
    found, exact = mixed.embed(items).vectors, model.embed(items).vectors
    assert found.dtype == np.float32
    assert 5e-6 < np.abs(found - exact).max() < 3e-4  # 2.6e-5 to 3.5e-5 over ten seeds


# Side-information


def test_each_block_is_averaged_over_the_tokens_of_a_text(sentences, model, texts):
    items = open_items(texts)
    assert model.stage_channels == (16, 16, 16)
    (pooled,) = model.stages(items)
    assert pooled.shape == (70, 48)
    for row in (0, 33, 69):
        means = [block.mean(axis=0) for block in by_hand(sentences, items.text(row), 12)]
        np.testing.assert_allclose(pooled[row], np.concatenate(means), atol=1e-5)
    with pytest.raises(ModelError, match="texts have no grid of 2 x 2 cells; give grid=1"):
        add_layers_side_information(model, items, dim=4, grid=2)


def test_layers_are_read_in_the_same_pass_and_saved_with_the_model(model, texts, tmp_path):
    items = open_items(texts)
    both = add_layers_side_information(model, items, dim=10)
    assert both.space == model.space
    assert (both.side.dim, both.side.format, both.side.bytes) == (10, "int8", 10)
    both.save(tmp_path / "model")
    again = EmbeddingModel.load(tmp_path / "model")
    for found, expected in zip(
        again.embed_with_side(items), both.embed_with_side(items), strict=True
    ):
        assert (found.space, found.ids, found.labels) == (expected.space, items.ids, None)
        np.testing.assert_array_equal(found.vectors, expected.vectors)
    exact = add_layers_side_information(model, items, dim=10, format="float32", stages=(0, 2))
    (pooled,) = model.stages(items)
    assert exact.readout.project(pooled).std() > 0.5


def test_a_saved_model_needs_no_folder_and_gives_the_same(texts, tmp_path):
    made = put_encoder(tmp_path / "made", modules=SENTENCES)
    model = EmbeddingModel.from_transformers(made, name="small")
    model.save(tmp_path / "model")
    vectors = model.embed(open_items(texts)).vectors
    for file in sorted(made.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    again = EmbeddingModel.load(tmp_path / "model")
    assert (again.space, again.to_json()) == (model.space, model.to_json())
    np.testing.assert_array_equal(again.embed(open_items(texts)).vectors, vectors)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "it turns texts into vectors that are nearer the more alike the texts are" in card
    assert "| runs by | transformers, `bert`, 32-true |" in card
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}


def test_loading_leaves_torch_s_generator_as_it_was(sentences):
    before = torch.random.get_rng_state()
    EmbeddingModel.from_transformers(sentences, name="small")
    assert torch.equal(torch.random.get_rng_state(), before)


# Commands and payloads


@pytest.mark.slow
def test_a_command_embeds_texts_with_their_side_information(model, texts, tmp_path):
    items = open_items(texts)
    both = add_layers_side_information(model, items, dim=8)
    both.save(tmp_path / "model")
    out, side, lines = (tmp_path / name for name in ("e.parquet", "s.parquet", "p.jsonl"))
    command = ("embed", tmp_path / "model", texts, out, "--side-out", side, "--payloads-out", lines)
    said = json.loads(answer(*command, "--json"))
    assert (said["items"], said["side"]) == (70, str(both.side))
    for path, expected in zip((out, side), both.embed_with_side(items), strict=True):
        found = Embeddings.load(path)
        assert (found.ids, found.space, found.labels) == (items.ids, expected.space, None)
        np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert json.loads(lines.read_text().splitlines()[3]) == {"id": "t3", "text": items.text(3)}
    assert "texts of up to 12 tokens" in answer("info", tmp_path / "model")


def test_texts_of_payloads_are_embedded_and_what_is_no_text_is_told(model):
    payloads = [{"text": "ice floats"}, {"digits": 3}, None, {"text": " "}]
    found, skipped = payload_embedder(model)(("a", "b", "c", "d"), payloads)
    assert found.ids == ("a",)
    np.testing.assert_allclose(found.vectors[0], model.embedder()(["ice floats"])[0][0], atol=1e-6)
    assert skipped["c"] == "it has no payload that would say where its text is"
    assert skipped["b"].startswith("digits, row 3 is an image, and a text is needed; use a model")
    assert skipped["d"].startswith("the text ' ' is empty")


def test_a_model_of_texts_refuses_images_and_pixels(model):
    digits = open_items("digits").select([0])
    with pytest.raises(DataError, match="digits, row 0 is an image, and a text is needed; use a"):
        model.embed(digits)
    with pytest.raises(ModelError, match="embeds texts of up to 12 tokens, and images are needed"):
        embed_views(model, digits, views=2)
    with pytest.raises(ModelError, match="embeds texts of up to 12 tokens, and images are needed"):
        model.pixel_embedder()
    with pytest.raises(ModelError, match="given a str that is not a list of texts; it needs a li"):
        model.embedder()("ice")


# What cannot be run


def test_vectors_of_another_shape_are_told_of_texts(model, monkeypatch):
    monkeypatch.setattr(TextEngine, "start", lambda *_: lambda _: (np.ones((3, 16)), None))
    with pytest.raises(
        ModelError,
        match=r"given 2 texts and returned shape \(3, 16\); it must return one row of 16 numbers "
        r"for each text, shape \(2, 16\)",
    ):
        model.embedder()(["ice", "iron"])


def change(path, **said):
    put(path, {**json.loads(path.read_text()), **said})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda at: (at / "config.json").unlink(), r"config\.json cannot be read \(No such file"),
        (lambda at: (at / "tokenizer.json").unlink(), r"tokenizer\.json cannot be read \(No such"),
        (lambda at: (at / "tokenizer.json").write_text("{"), r"tokenizer\.json cannot be read \("),
        (lambda at: (at / "model.safetensors").unlink(), r"model\.safetensors cannot be read \(N"),
        (lambda at: (at / "model.safetensors").write_bytes(b"x"), "safetensors cannot be read"),
        (lambda at: (at / "modules.json").write_text("{}"), r"modules\.json holds dict, not list"),
        (lambda at: (at / "modules.json").write_text("["), r"modules\.json cannot be read \("),
        (
            lambda at: change(at / "config.json", num_hidden_layers=4),
            r"16 of 69 weights of bert are missing or of another shape, the first encoder\.la",
        ),
        (
            lambda at: change(at / "config.json", model_type="none-such"),
            "an encoder of type 'none-such' cannot be built",
        ),
        (
            lambda at: put_tokenizer(at / "tokenizer.json", (*WORDS, "steel")),
            "the tokenizer knows 16 tokens and the encoder 15; give the tokenizer.json",
        ),
        (
            lambda at: put(at / "modules.json", [{"type": "a.Transformer"}, {"type": "a.Dense"}]),
            "wants Transformer, Dense; what is run is Transformer, Pooling and perhaps Normalize",
        ),
        (
            lambda at: put(at / "1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
            r"pools tokens by max_tokens; what is run is the mean of the tokens or the first one",
        ),
        (
            lambda at: change(at / "sentence_bert_config.json", do_lower_case=True),
            r"wants lower case for every text \(do_lower_case\); prepare the texts so",
        ),
        (
            lambda at: put(
                at / "config_sentence_transformers.json", {"default_prompt_name": "query"}
            ),
            r"wants a prompt for every text \(default_prompt_name\); prepare the texts so",
        ),
    ],
)
def test_a_folder_that_cannot_be_run_says_why(tmp_path, damage, words):
    put_encoder(tmp_path, modules=SENTENCES)
    damage(tmp_path)
    with pytest.raises(ModelError, match=words):
        EmbeddingModel.from_transformers(tmp_path, name="bad")


def test_a_folder_that_is_not_there_says_what_to_give(tmp_path):
    with pytest.raises(
        ModelError, match=r"there is no folder .*gone; give the folder that save_pre"
    ):
        EmbeddingModel.from_transformers(tmp_path / "gone", name="gone")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (2, "2 tokens of a text are to be read; give max_tokens, from 3 to 20"),
        (21, "21 tokens of a text are to be read; give max_tokens, from 3 to 20"),
    ],
)
def test_too_few_or_too_many_tokens_are_refused(sentences, tokens, words):
    with pytest.raises(ModelError, match=words):
        EmbeddingModel.from_transformers(sentences, name="n", max_tokens=tokens)


def test_places_begin_behind_what_pads_where_the_encoder_counts_them_so(tmp_path):
    config = {**BERT, "model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 14}
    put_encoder(tmp_path, config=config)
    model = EmbeddingModel.from_transformers(tmp_path, name="roberta")
    assert model.input.max_tokens == 12
    assert np.isfinite(model.embedder()([" ".join(WORDS * 3)])[0]).all()
    with pytest.raises(ModelError, match="from 3 to 12"):
        EmbeddingModel.from_transformers(tmp_path, name="roberta", max_tokens=13)


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    put(tmp_path / "config.json", {
        "model_type": "t5", "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16, "d_kv": 8,
        "vocab_size": 15, "decoder_start_token_id": 0,
    })  # fmt: skip
    save_file({"shared.weight": torch.zeros(15, 16)}, tmp_path / "model.safetensors")
    put_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match="t5 is an encoder with a decoder; give one without"):
        EmbeddingModel.from_transformers(tmp_path, name="t5")


def test_an_unknown_precision_lists_those_there_are():
    with pytest.raises(ModelError, match="cannot compute in 'int4'; choose one of 32-true, bf16-m"):
        TextSettings(BERT, "mean", normalised=True, precision="int4")


@pytest.mark.parametrize("package", ["transformers", "tokenizers"])
def test_without_the_extra_the_message_says_how_to_install_it(
    sentences, model, tmp_path, monkeypatch, package
):
    model.save(tmp_path / "model")
    monkeypatch.delitem(sys.modules, "onward.models.text_engine")
    monkeypatch.setitem(sys.modules, package, None)
    words = rf"{package} is not installed; it comes with an extra: pip install 'onward\[text\]'"
    with pytest.raises(MissingExtraError, match=words):
        EmbeddingModel.from_transformers(sentences, name="n")
    with pytest.raises(MissingExtraError, match=words):
        EmbeddingModel.load(tmp_path / "model")


def test_more_dimensions_than_the_blocks_have_are_refused(model, texts):
    with pytest.raises(ConfigurationError, match=r"hold 48 values on a 1 x 1 grid\. Give a dim"):
        add_layers_side_information(model, open_items(texts), dim=49)
