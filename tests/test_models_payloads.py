"""Embedding what payloads point to: the same as embedding items, and never stopped by an image."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from onward.data import open_items
from onward.data.payloads import with_digest
from onward.models import EmbeddingModel, InputSpec, payload_embedder

GREY = InputSpec(size=8, channels=1, mean=(0.5,), std=(0.5,))


def first_pixels(pixels):
    """The first two pixels; no number where an image is white."""
    vectors = pixels.reshape(len(pixels), -1)[:, :2].astype(np.float32)
    return np.where(vectors == 255, np.nan, vectors)


MODEL = EmbeddingModel.from_callable(first_pixels, name="pixels", dim=2, input=GREY)


@pytest.fixture
def images(tmp_path):
    """Payloads of three files and two cells; the grey of each is ten times its number."""
    for number in (1, 2, 3):
        Image.new("L", (8, 8), 10 * number).save(tmp_path / f"{number}.png")
    column = [{"bytes": (tmp_path / f"{n}.png").read_bytes(), "path": None} for n in (1, 2)]
    pq.write_table(pa.table({"image": column}), tmp_path / "images.parquet")
    file = str(tmp_path / "images.parquet")
    cells = [{"file": file, "row": row, "column": "image"} for row in (1, 0)]
    return [*({"path": str(tmp_path / f"{n}.png")} for n in (1, 2, 3)), *cells]


def test_images_of_more_pixels_than_are_stated_are_skipped(images):
    made, skipped = payload_embedder(MODEL, max_pixels=63)(("a",), images[:1])
    assert (len(made), list(skipped)) == (0, ["a"])
    assert "it has more than 63 pixels" in skipped["a"]
    assert payload_embedder(MODEL, max_pixels=64)(("a",), images[:1])[0].ids == ("a",)


def test_payloads_are_embedded_as_items_are():
    items = open_items("digits").select(range(5))
    made, skipped = payload_embedder(MODEL)(items.ids, items.payloads)
    assert skipped == {}
    assert (made.ids, made.space) == (items.ids, MODEL.space)
    np.testing.assert_array_equal(made.vectors, MODEL.embed(items).vectors)


def test_files_and_cells_are_embedded_in_the_order_of_the_ids(images):
    made, _ = payload_embedder(MODEL)(tuple("abcde"), images)
    assert made.ids == tuple("abcde")
    assert made.vectors[:, 0].tolist() == [10, 20, 30, 20, 10]


def test_what_cannot_be_embedded_is_told_and_the_rest_is_embedded(images, tmp_path):
    (tmp_path / "torn.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    changed = with_digest(images[2])
    Image.new("L", (8, 8), 99).save(tmp_path / "3.png")
    bad = {
        "gone": {"path": str(tmp_path / "gone.png")},
        "torn": {"path": str(tmp_path / "torn.png")},
        "changed": changed,
        "white": {"path": str(tmp_path / "white.png")},
        "bare": None,
        "elsewhere": {"url": "https://example.org/1.png"},
        "past": images[3] | {"row": 7},
    }
    ids = ("good", *bad, "also good")
    made, skipped = payload_embedder(MODEL)(ids, [images[0], *bad.values(), images[1]])
    assert (made.ids, made.vectors[:, 0].tolist()) == (("good", "also good"), [10, 20])
    assert skipped.keys() == bad.keys()
    words = {
        "gone": "gone.png cannot be read: No such file or directory; put it back",
        "torn": "torn.png cannot be read as an image: ",
        "changed": "3.png has changed since its payload was written: its SHA-256",
        "white": "the model gives NaN or infinite values for it",
        "bare": "it has no payload that would say where its image is",
        "elsewhere": "does not say where an image or a text is; it needs 'path'",
        "past": "images.parquet has 2 rows and no row 7",
    }
    for item, word in words.items():
        assert word in skipped[item], skipped[item]
        assert "skip_bad" not in skipped[item]
    json.dumps(dict(skipped))


def test_a_batch_of_which_nothing_can_be_read_gives_no_embeddings(images):
    made, skipped = payload_embedder(MODEL)(("a", "b"), [None, None])
    assert (len(made), made.space, set(skipped)) == (0, MODEL.space, {"a", "b"})


def test_more_payloads_than_go_through_the_model_at_a_time_come_in_order(monkeypatch):
    monkeypatch.setattr("onward.models.running.BATCH_SIZE", 4)
    items = open_items("digits").select(range(11))
    payloads = [None if row in (2, 9) else one for row, one in enumerate(items.payloads)]
    made, skipped = payload_embedder(MODEL)(items.ids, payloads)
    kept = [row for row in range(11) if row not in (2, 9)]
    assert made.ids == tuple(items.ids[row] for row in kept)
    np.testing.assert_array_equal(made.vectors, MODEL.embed(items).vectors[kept])
    assert list(skipped) == [items.ids[2], items.ids[9]]
    assert len(payload_embedder(MODEL)((), ())[0]) == 0
