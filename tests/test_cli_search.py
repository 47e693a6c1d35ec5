"""`onward search`, of a gallery that answers from a fused pair: queries by both of its models."""

import json

import numpy as np
import pytest
from commands import answer, run
from encoders import save_projection

from onward.cli import main
from onward.data.sources import open_items
from onward.errors import ConfigurationError, EmbeddingsError, SpaceMismatchError
from onward.evaluation.retrieval import search
from onward.fusion import FusedEmbeddings, Fusion, Scale
from onward.gallery import create_gallery, open_gallery
from onward.spaces import Embeddings, Space

OLD, NEW = Space("old@1", 4), Space("new@2", 5, "cosine")
PAIR = Fusion(OLD, NEW, 0.4, Scale(4.0, 0.5), Scale(0.4, 0.5))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A gallery of 30 items that answers from a pair, and three queries by both models."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for space, name in ((OLD, "old"), (NEW, "new")):
        vectors = rng.normal(size=(33, space.dim)).astype(np.float32)
        every = Embeddings(tuple(f"i{row:02}" for row in range(33)), vectors, space)
        every.select(range(30)).save(tmp_path / f"{name}-items.parquet")
        every.select(range(30, 33)).save(tmp_path / f"{name}.parquet")
    answer("gallery", "create", "g.lance", "old-items.parquet", "new-items.parquet")
    open_gallery("g.lance").serve(PAIR, query_model="new", old_query_model="old")
    return tmp_path


def test_a_pair_is_searched_by_the_queries_of_both_models(place):
    read = Embeddings.load
    asked, items = (
        FusedEmbeddings(PAIR, read(f"old{end}.parquet"), read(f"new{end}.parquet"))
        for end in ("", "-items")
    )
    wanted = search(asked, items, 4, exclude_self=False)
    call = ("search", "g.lance", "new.parquet", "--queries-old", "old.parquet", "-k", 4)
    assert json.loads(answer(*call, "--json")) == {**wanted.to_json(), "next_steps": []}
    assert answer(*call) == answer(*call, "--approximate")  # there are no indexes


def test_queries_by_one_model_alone_are_refused_with_the_option_that_is_missing(place, capsys):
    with pytest.raises(SystemExit):
        main(["search", "g.lance", "new.parquet"])
    said = capsys.readouterr().err
    assert "answers from the pair fused old@1" in said
    assert "the old ones as --queries-old ..." in said


def test_a_space_that_does_not_answer_is_looked_into_as_the_refusal_says(place, capsys):
    with pytest.raises(SystemExit):
        main(["search", "g.lance", "new.parquet"])
    said = " ".join(capsys.readouterr().err.split())
    assert "or look into one space with --allow-unserved" in said
    queries, items = (Embeddings.load(f"{name}.parquet") for name in ("new", "new-items"))
    wanted = search(queries, items, 3, exclude_self=False)
    call = ("search", "g.lance", "new.parquet", "-k", 3, "--allow-unserved", "--json")
    assert json.loads(answer(*call)) == {**wanted.to_json(), "next_steps": []}


def test_other_queries_by_the_old_model_are_refused(place):
    with pytest.raises(EmbeddingsError, match="embed the same queries by both models"):
        run("search", "g.lance", "new.parquet", "--queries-old", "old-items.parquet")


def test_one_space_is_not_asked_by_two_models(place):
    answer("gallery", "create", "one.lance", "old-items.parquet")
    with pytest.raises(SpaceMismatchError, match=r"answers from old@1 .* in old@1 alone"):
        run("search", "one.lance", "new.parquet", "--queries-old", "old.parquet")


def test_a_model_has_no_embeddings_to_embed(place):
    with pytest.raises(ConfigurationError, match="--model embeds an image; give one of the two"):
        run("search", "g.lance", "new.parquet", "--model", "m")
    with pytest.raises(ConfigurationError, match="--old-model embeds an image"):
        run("search", "g.lance", "new.parquet", "--old-model", "m")
    with pytest.raises(ConfigurationError, match=r"add --old-model DIRECTORY, or give a .parquet"):
        run("search", "g.lance", "new.parquet", "--queries-old", "cat.png")


@pytest.mark.slow
def test_an_image_is_embedded_by_both_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, digits = np.random.default_rng(0), open_items("digits").select(range(20))
    models = [save_projection(tmp_path, name, rng.normal(size=(64, 4))) for name in ("old", "new")]
    by_old, by_new = (model.embed(digits) for model in models)
    pair = Fusion(by_old.space, by_new.space, 0.5, Scale(1.0, 0.5), Scale(1.0, 0.5))
    gallery = create_gallery("g.lance", pair.old, pair.new, items=[by_old, by_new])
    gallery.serve(pair, query_model="new", old_query_model="old")
    digits.open(7).save("digit.png")
    by_both = ("--model", "new", "--old-model", "old")
    found = json.loads(answer("search", "g.lance", "digit.png", *by_both, "-k", 1, "--json"))
    ((item,),) = (query["items"] for query in found["queries"])
    assert item == {"id": digits.ids[7], "distance": 0.0}
